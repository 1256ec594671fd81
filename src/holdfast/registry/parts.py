"""What every part of a profile is made of: its texts and numbers by the form they must have."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

MISSING_SUFFIX = "_missing"
"""Beside a field: the attribute that keeps how the source spelled a missing value."""
MARK_SUFFIX = "_mark"
"""Beside a field: the attribute that keeps what stood at a number and is no part of it."""

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$(?!\n)",
        description="1-64 of a-z 0-9 . _ - that begin and end with a letter or digit",
    ),
]
FieldName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$(?!\n)", description="lower-case words joined by _")
]
Duration = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(ms|s|m|h|d|w)$(?!\n)",
        description="a whole number and ms, s, m, h, d or w, such as 15m",
    ),
]
Overlap = Annotated[
    str,
    Meta(
        pattern=r"^([0-9]{1,6}(ms|s|m|h|d|w)|[0-9]{1,18})$(?!\n)",
        description="a time such as 15m, or a whole number for a source that numbers its rows",
    ),
]
SecretReference = Annotated[
    str,
    Meta(
        pattern=r"^secret://(env/[A-Z0-9_]{1,128}|file/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})$(?!\n)",
        description="secret://env/NAME (reads HOLDFAST_SECRET_NAME) or secret://file/NAME",
    ),
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s#]+$(?!\n)",
        max_length=4096,
        description="an http:// or https:// address without spaces and fragment",
    ),
]
Text = Annotated[str, Meta(max_length=4096)]
Path = Annotated[
    str,
    Meta(
        min_length=1, max_length=1024, description="an RFC 9535 JSONPath, XPath or a column's name"
    ),
]
Columns = Annotated[
    str,
    Meta(
        pattern=r"^[1-9][0-9]{0,5}(-([1-9][0-9]{0,5})?)?$(?!\n)",
        description="places in a line, from 1: 1-11, 12 or 40- (to the line's end)",
    ),
]
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
DecimalText = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]+(\.[0-9]+)?$(?!\n)",
        max_length=64,
        description="an exact decimal: a number, kept as it is written",
    ),
]
Mapped = Meta(max_length=1000)
"""Bounds what one record can hold; a wider table is unpivoted."""
Frequency = Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
Place = Literal["query", "body"]
Span = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(ms|s|m|h|d|w|mo|y)$(?!\n)",
        description="as a duration, and with mo or y in months or years of the calendar",
    ),
]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every part of a profile is immutable and refuses members it does not know."""


def calendar_months(span: str) -> int:
    """The months of a :data:`Span` of the calendar; 0 for one that is a :data:`Duration`."""
    if span.endswith("mo"):
        return int(span[:-2])
    return int(span[:-1]) * 12 if span.endswith("y") else 0


def duration_seconds(text: str) -> float:
    """The seconds that a :data:`Duration` names."""
    for suffix, factor in (
        ("ms", 0.001),
        ("s", 1),
        ("m", 60),
        ("h", 3600),
        ("d", 86400),
        ("w", 604800),
    ):
        if text.endswith(suffix) and text[: -len(suffix)].isdigit():
            return int(text[: -len(suffix)]) * factor
    raise ValueError(f"cannot read the duration {text!r}")
