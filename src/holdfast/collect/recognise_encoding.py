"""The encoding of a text that nothing names, or that is named wrongly. A guess."""

from __future__ import annotations

import codecs
import contextlib

from holdfast.collect.content import SpooledContent
from holdfast.collect.encodings import as_browsers, believed, known, marked
from holdfast.collect.errors import MappingRefused, ParseFailed


def says_wrong(content: SpooledContent, said: str) -> bool:
    """Whether the source says another encoding than UTF-8 of bytes that are."""
    try:
        known(said)
    except MappingRefused:
        return False
    try:
        believed(content, said, "it")
    except ParseFailed:
        return True
    return False


def decoded(data: bytes, charset: str, whole: bool) -> tuple[str, str]:
    """The text, and the encoding that a profile must name because nothing else does."""
    if not charset and not marked(data) and (wide := _wide(data)):
        return data.decode(wide, "replace"), wide
    for name in dict.fromkeys([marked(data) or charset or "utf-8", "utf-8"]):
        try:
            # A beginning may end within a letter.
            decoder = codecs.getincrementaldecoder(as_browsers(known(name)))("strict")
            return decoder.decode(data, whole), ""
        except (UnicodeError, MappingRefused):
            continue
    for name in ("windows-1252", "shift_jis", "cp932", "gb18030", "euc-kr", "cp949"):
        with contextlib.suppress(UnicodeError):
            return codecs.getincrementaldecoder(known(name))("strict").decode(data, whole), name
    return data.decode("cp1252", "replace"), "windows-1252"


def said_of(encoding: str, text: str) -> str:
    """What a person should know of an encoding that was guessed."""
    letters = [c for c in text[:_LOOKED_AT] if c.isalpha() or c == "\ufffd"]
    foreign = sum(1 for c in letters if not c.isascii())
    if 2 * foreign > len(letters) or not encoding.startswith(("windows", "utf")):
        return (
            f"The bytes are no UTF-8, and {encoding} is but a guess: put the right name at "
            "`encoding` (windows-1251, koi8-r, shift_jis, gb18030, euc-kr, big5, …)."
        )
    return f"The bytes are no UTF-8; {encoding} fits. Check the letters with accents."


_LOOKED_AT = 20_000


def _wide(data: bytes) -> str:
    """The UTF-16 that text without a mark is: every other byte of what it begins with is a zero."""
    head = data[:64]
    for name, zeros, letters in (
        ("utf-16-le", head[1::2], head[0::2]),
        ("utf-16-be", head[0::2], head[1::2]),
    ):
        if len(zeros) > 2 and not any(zeros) and all(letters):
            return name
    return ""
