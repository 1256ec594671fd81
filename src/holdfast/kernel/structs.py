"""Makes types ready for several threads to decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec


def prepare_structs() -> int:
    """Have msgspec look at every Struct that is loaded; how many there are.

    Call it once everything is imported and before another thread decodes anything. msgspec works
    a type out at its first use and hangs the unfinished description on the class, so that types
    can contain themselves. Resolving a nested type's annotations runs Python code, which lets
    other threads in; one that uses the outer type at that moment follows a null pointer, and the
    process dies. A finished description is never touched again.
    """
    found = list(dict.fromkeys(_below(msgspec.Struct)))
    for each in found:
        # Some, of libraries too, are only ever encoded and need not be decodable.
        with suppress(Exception):
            msgspec.json.Decoder(each)
    return len(found)


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        yield each
        yield from _below(each)
