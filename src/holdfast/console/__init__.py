"""Server-rendered pages for people."""

from holdfast.console.http import Provider, handlers, oauth_page, refused_page
from holdfast.console.overview import Overview, OverviewSource, ProfileLine, ServiceLine

__all__ = [
    "Overview",
    "OverviewSource",
    "ProfileLine",
    "Provider",
    "ServiceLine",
    "handlers",
    "oauth_page",
    "refused_page",
]
