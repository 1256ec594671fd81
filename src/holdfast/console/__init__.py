"""Server-rendered pages for people."""

from holdfast.console.http import handlers
from holdfast.console.overview import Overview, OverviewSource, ProfileLine, ServiceLine

__all__ = ["Overview", "OverviewSource", "ProfileLine", "ServiceLine", "handlers"]
