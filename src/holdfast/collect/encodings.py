"""In which character encoding a page is written, by what says so. Pure but for the head it reads.

Who is believed, in this order: a byte order mark; the profile; for XML and delimited text the
charset the source sent with it (RFC 7303, RFC 4180); for XML its own declaration; then UTF-8. JSON
is UTF-8 whatever its media type says (RFC 8259). Nothing is guessed and nothing is replaced: bytes
that are not of the encoding fail the page.

Most encodings of one byte a letter take any bytes, so a wrong one does not show by itself: it makes
other letters. Servers say ``iso-8859-1`` of every file they have. So what a *source* calls that is
read as browsers read it, as windows-1252, which is the same but for letters that nobody writes
(WHATWG Encoding), and other narrow ones (Shift_JIS, GB 2312) are read alike by the wide ones that
are meant. What a *profile* names is that and nothing else: whoever wrote it has seen the letters,
and keys are made of them. Where the source says an encoding of a byte a letter of bytes that are
UTF-8, the page fails until the profile says which of the two holds.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from holdfast.collect.content import Content
from holdfast.collect.errors import MappingRefused, ParseFailed

AUTO = "auto"
HEAD_BYTES = 1024
_CHUNK = 256 * 1024
HINT = "`source.format.encoding` says which it is, such as windows-1252"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the other's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OURS = "holdfast_"
_AS_BROWSERS = {
    "iso8859-1": "holdfast_cp1252",
    "iso8859-9": "holdfast_cp1254",
    "iso8859-11": "holdfast_cp874",
    "tis-620": "holdfast_cp874",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
}
"""What is written under these names holds letters of the others, which have all of theirs."""


def _with_controls(name: str) -> codecs.CodecInfo | None:
    """A code page with the control characters of ISO 8859 where Python knows no letter of it.

    They are those that the narrow encoding has there, and browsers make of these bytes what it
    does: a page that holds one can be read.
    """
    if name not in _AS_BROWSERS.values() or not name.startswith(_OURS):
        return None
    found = codecs.lookup(shown(name))
    letters = [bytes([byte]).decode(found.name, "replace") for byte in range(256)]
    for byte in range(0x80, 0xA0):
        if letters[byte] == "\ufffd":
            letters[byte] = chr(byte)
    table = "".join(letters).replace("\ufffd", "\ufffe")  # what charmaps call undefined

    def decode(data: Any, errors: str = "strict") -> tuple[str, int]:
        return codecs.charmap_decode(data, errors, table)

    class Decoder(codecs.IncrementalDecoder):
        def decode(self, data: Any, final: bool = False) -> str:
            return codecs.charmap_decode(data, self.errors, table)[0]

    return codecs.CodecInfo(
        encode=found.encode, decode=decode, incrementaldecoder=Decoder, name=name
    )


codecs.register(_with_controls)
_BYTE_A_LETTER = re.compile(r"iso8859-[0-9]{1,2}|cp125[0-9]").fullmatch
_NO_TEXT = (
    (b"\xfd7zXZ\x00", "packed as xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "packed as zstd"),
    (b"\x1f\x8b\x08", "packed as gzip"),
    (b"PK\x03\x04", "a zip archive or a workbook"),
    (b"%PDF-", "a PDF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old workbook (.xls)"),
)
"""How files begin that are no text, whatever a profile calls them."""
_TAR_AT = 257
_PARQUET = re.compile(rb"PAR1[^\x00-\x08\x0e-\x1f]{0,7}[\x00-\x08\x0e-\x1f]").match
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


def as_browsers(name: str) -> str:
    """What is decoded with where a source says the encoding that Python knows as ``name``."""
    return _AS_BROWSERS.get(name, name)


def shown(name: str) -> str:
    """What a person is told of the encoding that is decoded with."""
    return name.removeprefix(_OURS)


def encoding_of(content: Content, named: str) -> str:
    """The encoding to decode ``content`` with; ``named`` is the profile's, or ``auto``.

    Raises :class:`ParseFailed` for what is no text.
    """
    with content.open() as stream:
        head = stream.read(HEAD_BYTES)
    if found := marked(head):
        return found
    refuse_no_text(head)
    if named != AUTO:
        return known(named)
    charset = charset_of(content)
    if not charset:
        return "utf-8"
    return believed(content, charset, "the charset of its media type")


def believed(content: Content, name: str, said_by: str) -> str:
    """What the source says decoded with, as browsers do, if its bytes do not tell otherwise.

    Raises :class:`ParseFailed` where it says one of a byte a letter, and sent UTF-8.
    """
    found = known(name, said_by)
    if _BYTE_A_LETTER(found) and is_utf8(content):
        raise ParseFailed(
            f"cannot read the page: {said_by} says {name[:60]}, and the bytes are UTF-8",
            hint="`source.format.encoding` says which holds: utf-8, or "
            f"{name[:60]} if letters such as \u00c3\u00a9 are meant",
        )
    return as_browsers(found)


def is_utf8(content: Content) -> bool:
    """Whether the whole page is UTF-8 and has letters that one byte does not make."""
    decode = codecs.getincrementaldecoder("utf-8")("strict").decode
    longer = False
    with content.open() as stream:
        try:
            while data := stream.read(_CHUNK):
                longer = longer or not data.isascii()
                decode(data)
            decode(b"", True)
        except UnicodeError:
            return False
    return longer


def is_parquet(head: bytes) -> bool:
    """Whether a file begins as Parquet does: a column may well be called ``PAR1``, and behind the
    name of the format stands what no text has."""
    return _PARQUET(head) is not None


def refuse_no_text(head: bytes) -> None:
    """Raise :class:`ParseFailed` where a page begins as what is packed, or no text, begins."""
    what = next((said for magic, said in _NO_TEXT if head.startswith(magic)), "")
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        what = "a tar archive"
    if is_parquet(head):
        what = "Parquet"
    if what:
        raise ParseFailed(
            f"cannot read the page: this is {what}, and no text",
            hint="`source.compression` reads gzip, deflate, bzip2 and zip, once; ask the source "
            "for one of these, or for what is not packed",
        )


def charset_of(content: Content) -> str:
    """What the source said of its encoding when it sent the page; empty if nothing."""
    return str(getattr(content, "charset", ""))


def charset_in(media_type: str) -> str:
    """The charset parameter of a media type, or empty."""
    found = _CHARSET.search(media_type)
    return found[1].lower() if found else ""
