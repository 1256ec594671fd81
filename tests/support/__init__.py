"""What tests share: real servers, ready-made databases, watchers."""
