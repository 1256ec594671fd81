"""What differs between the places that hold objects: the small driver below :class:`Objects`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is there: its name, its length, and when it was put."""

    name: str
    size_bytes: int
    stored_at: datetime


Source = bytes | Path | AsyncIterator[bytes]
"""What to put: the bytes, a file that does not change meanwhile, or a stream of chunks."""


class ObjectDriver(Protocol):
    """Immutable objects under names.

    *Durable*: when ``put`` returns, the object survives the death of the process and the machine.
    *Whole*: no reader ever sees a part of an object; if the process dies inside ``put`` there is
    no object, at most a left-over that ``sweep`` removes. *First one wins*: a ``put`` on a name
    that is taken changes nothing and answers False; of concurrent ones exactly one answers True
    (a driver that can promise this only for small objects says so). Names are relative paths of
    hexadecimal digits and ``/``.

    Failures are ``Unavailable`` (nothing was stored under the name) — also for a full disk.
    """

    async def put(self, name: str, source: Source) -> bool:
        """Store ``source`` under ``name`` if it is free; whether it was."""
        ...

    def get(self, name: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        """The bytes from ``start``, ``length`` of them or all, in chunks; ``NotFound``.

        A range that begins at or beyond the end is empty.
        """
        ...

    async def head(self, name: str) -> StoredObject | None:
        """What is known of the object, or None."""
        ...

    async def delete(self, name: str) -> None:
        """Remove the object, durably; harmless if there is none."""
        ...

    def scan(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Every object below the folder ``prefix``, in no order; later changes may be missed."""
        ...

    async def sweep(self, before: datetime) -> int:
        """Remove left-overs of interrupted puts from before that moment; how many."""
        ...

    async def close(self) -> None:
        """Give up what the driver holds."""
        ...
