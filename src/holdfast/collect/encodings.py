"""In which character encoding a page is written, by what says so. Pure but for the head it reads.

Who is believed, in this order: a byte order mark; the profile; for XML and delimited text the
charset the source sent with it (RFC 7303, RFC 4180); for XML its own declaration; then UTF-8. JSON
is UTF-8 whatever its media type says (RFC 8259). Nothing is guessed and nothing is replaced: bytes
that are not of the encoding fail the page.
"""

from __future__ import annotations

import codecs
import re

from holdfast.collect.content import Content
from holdfast.collect.errors import MappingRefused, ParseFailed

AUTO = "auto"
HEAD_BYTES = 1024
HINT = "`source.format.encoding` says which it is, such as windows-1252"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the other's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]{1,64})", re.I)


def marked(head: bytes) -> str:
    """The encoding that a byte order mark at the beginning says, or empty."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "")


def known(name: str, said_by: str = "") -> str:
    """The name by which Python knows a character encoding; refused if it knows none."""
    try:
        found = codecs.lookup(name)
        if not getattr(found, "_is_text_encoding", True):
            raise LookupError
    except (LookupError, ValueError):
        if said_by:
            raise ParseFailed(
                f"cannot read the page: {said_by} names no known encoding, {name[:60]!r}", hint=HINT
            ) from None
        raise MappingRefused(f"cannot read the page: no encoding {name[:60]!r}") from None
    return found.name


def encoding_of(content: Content, named: str) -> str:
    """The encoding to decode ``content`` with; ``named`` is the profile's, or ``auto``."""
    with content.open() as stream:
        head = stream.read(4)
    if found := marked(head):
        return found
    if named != AUTO:
        return known(named)
    charset = charset_of(content)
    return known(charset, "the charset of its media type") if charset else "utf-8"


def charset_of(content: Content) -> str:
    """What the source said of its encoding when it sent the page; empty if nothing."""
    return str(getattr(content, "charset", ""))


def charset_in(media_type: str) -> str:
    """The charset parameter of a media type, or empty."""
    found = _CHARSET.search(media_type)
    return found[1].lower() if found else ""
