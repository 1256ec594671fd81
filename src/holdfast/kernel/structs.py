"""Makes types ready for several threads to decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from holdfast.kernel.importing import PREPARING


def prepare_structs() -> int:
    """Have msgspec look at every Struct that is loaded; how many there are.

    Ours are ready when their module is imported (``kernel.importing``); a served program calls this
    at its start for those of the libraries. msgspec works
    a type out at its first use and hangs the unfinished description on the class, so that types
    can contain themselves. Resolving a nested type's annotations runs Python code, which lets
    other threads in; one that uses the outer type at that moment follows a null pointer, and the
    process dies. A finished description is never touched again.
    """
    found = list(dict.fromkeys(_below(msgspec.Struct)))
    with PREPARING:
        for each in found:
            # Some, of libraries too, are only ever encoded and need not be decodable.
            with suppress(Exception):
                msgspec.json.Decoder(each)
    return len(found)


@lru_cache(maxsize=512)
def decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for ``wanted``: the way to one for types that are put together at their use.

    ``Page[Task]`` is a type of its own to msgspec, and no module's import makes it.
    """
    with PREPARING:
        return msgspec.json.Decoder(wanted)


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        yield each
        yield from _below(each)
