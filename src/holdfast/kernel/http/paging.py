"""Lists by pages, and the opaque cursors between them.

A cursor names a position in an order that only grows (a publication sequence, an id), never an
offset: rows committed late are not skipped, rows removed do not shift the rest. It is opaque to
callers and bound to its list by ``kind``, but not secret and not signed: it states a position, it
grants nothing.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from holdfast.kernel.errors import Invalid

T = TypeVar("T")

PAGE_MAX = 1000
Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]
"""How many entries a page is to have. More than a page holds is refused, nowhere cut: whoever asks
for 5,000 and is given 1,000 would take them for all."""

CURSOR_CHARACTERS_MAX = 2048


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some items of a list, and the cursor of what follows: ``None`` at the end."""

    items: list[T]
    next: str | None = None


def page_size(limit: int) -> int:
    """``limit``; :class:`Invalid` unless a page may have so many entries."""
    if not 1 <= limit <= PAGE_MAX:
        raise Invalid(
            f"cannot list: limit is {limit}, and a page has 1 to {PAGE_MAX} entries",
            code="limit-invalid",
            hint="ask for the rest with `next` as the cursor",
        )
    return limit


def encode_cursor(kind: str, position: list[Any]) -> str:
    """An opaque cursor for ``position`` (plain JSON values) in the list named ``kind``."""
    packed = msgspec.json.encode([1, kind, position])
    return base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")


def page_after(kind: str, items: list[T], following: str | None) -> Page[T]:
    """A page of the list ``kind``, the next of which begins at the text ``following``."""
    return Page(items=items, next=cursor_behind(kind, following))


def cursor_behind(kind: str, position: str | None) -> str | None:
    """The cursor of what lies behind a text in the list ``kind``; none for its beginning."""
    return encode_cursor(kind, [position]) if position else None


def text_position(kind: str, cursor: str | None) -> str:
    """The position that :func:`page_after` told; empty at the beginning."""
    return str(decode_cursor(kind, cursor, str)[0]) if cursor else ""


POSITION_MAX = 2**53 - 1


def decode_cursor(kind: str, text: str, *wanted: type) -> list[Any]:
    """The position in a cursor made for the list ``kind``; :class:`Invalid` for any other text.

    ``wanted`` are the exact types of its parts: anybody can write a cursor, so a list that names
    them need not doubt what it reads. Integers are then within ±(2⁵³-1), texts without NUL.
    """
    try:
        if len(text) > CURSOR_CHARACTERS_MAX or not text.isascii():
            raise ValueError("too long or not text")
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=") != text:
            raise ValueError("spelled another way than ours are")
        version, found, position = msgspec.json.decode(packed, type=tuple[int, str, list[Any]])
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise Invalid(
            "cannot go on with the list: the cursor is not one of ours",
            code="cursor-invalid",
            hint="take `next` from the page before, as it is; or begin again without it",
        ) from error
    if version != 1 or found != kind:
        raise Invalid(
            "cannot go on with the list: the cursor belongs to another list",
            code="cursor-invalid",
            hint="take `next` from a page of this list",
        )
    if wanted and not _fits(position, wanted):
        raise Invalid(
            "cannot go on with the list: the cursor names no position in it",
            code="cursor-invalid",
            hint="take `next` from the page before, as it is; or begin again without it",
        )
    return position


def _fits(position: list[Any], wanted: tuple[type, ...]) -> bool:
    return [type(part) for part in position] == list(wanted) and all(
        "\0" not in part if isinstance(part, str) else abs(part) <= POSITION_MAX
        for part in position
    )
