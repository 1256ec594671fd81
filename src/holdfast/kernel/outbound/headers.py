"""Which headers go out, which are reported, and what one of them says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from holdfast import __version__
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Invalid

HEADERS_KEPT = frozenset(
    {
        "age", "cache-control", "content-disposition", "content-language", "content-type", "date",
        "etag", "expires", "last-modified", "link", "retry-after", "server", "x-total-count",
        "x-next-page",
    }
)  # fmt: skip
"""What of an answer's headers is reported; the rest (cookies above all) is dropped."""

_RESERVED = frozenset(
    {
        "accept-encoding", "connection", "content-length", "cookie", "expect", "host",
        "if-modified-since", "if-none-match", "keep-alive", "proxy-authorization",
        "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    }
)  # fmt: skip


def check_headers(headers: Mapping[str, str]) -> None:
    for name in headers:
        if name.lower() in _RESERVED:
            raise Invalid(f"cannot send the header {name}: Holdfast sets it itself")
    check_values(headers)


def check_values(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise Invalid(f"cannot send the header {name!r}: it is not a header name")
        if any(not (c == "\t" or " " <= c <= "~" or "\xa0" <= c <= "\xff") for c in value):
            raise Invalid(f"cannot send the header {name}: its value holds a forbidden character")
        if value.strip(" \t") != value:
            raise Invalid(f"cannot send the header {name}: a blank stands around its value")


def is_value(text: str) -> bool:
    """Whether a header that a source sent means the same to it when it is sent back."""
    return text.isascii() and text.isprintable() and text.strip() == text


def retry_after_seconds(value: str, clock: Clock) -> float | None:
    """The pause a ``Retry-After`` asks for (seconds or a date, RFC 9110 §10.2.3), if readable."""
    value = value.strip()
    if not value:
        return None
    if value.isdecimal() and value.isascii() and len(value) <= 9:
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - clock.now()).total_seconds())


def user_agent(contact: str) -> str:
    """Who we are, and how to reach whoever runs us."""
    return f"Holdfast/{__version__} (+{contact})" if contact else f"Holdfast/{__version__}"
