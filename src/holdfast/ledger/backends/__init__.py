"""Where a log can lie."""
