"""The head file of a log: how long it was, and its root, told to a file of its own at each commit.

A log that comes back shorter than its head has lost something, and says so. Two slots are written
in turn, each with its own checksum, so that a write that was cut off leaves the one before.

Behind each slot stands the origin that the log had then, with a checksum of its own: several
instances have a file each, and one of them may have begun another origin since, from less.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from holdfast.kernel.errors import Corrupt, OutcomeUnknown
from holdfast.kernel.files import flush_folder

_SLOT = struct.Struct(">8sQQ32sI")
_MAGIC = b"HFHEAD01"
_ORIGIN = struct.Struct(">QH")
"""The sequence of the slot that it belongs to, and how long the name is that follows."""
_SLOT_BYTES = 512
"""A sector each: a torn write of one cannot reach the other."""


@dataclass(frozen=True, slots=True)
class Head:
    """The size and root of a log after a commit, and its origin: empty where nobody knows."""

    size: int
    root: bytes
    origin: str = ""


class HeadFile:
    """One log's head. Blocking: whoever calls does so in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sequence = 0
        self._descriptor = -1

    def read(self) -> Head | None:
        """The newest head that was written whole; none if there is no file.

        ``Corrupt`` if the file is there and neither slot is whole.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        slots = [_slot(data[at : at + _SLOT_BYTES]) for at in (0, _SLOT_BYTES)]
        whole = [slot for slot in slots if slot is not None]
        if not whole:
            raise Corrupt(f"cannot read the head of the log: {self.path} is damaged")
        self._sequence, head = max(whole, key=lambda slot: slot[0])
        return head

    def write(self, head: Head) -> None:
        """Tell the head, flushed when this returns. Raises ``OSError`` if the disk refuses."""
        if self._descriptor < 0:
            self._open()
        following = self._sequence + 1
        body = _SLOT.pack(_MAGIC, following, head.size, head.root, 0)[:-4]
        slot = _checked(body) + _checked(_origin(following, head.origin))
        try:
            os.pwrite(self._descriptor, slot, (following % 2) * _SLOT_BYTES)
            os.fdatasync(self._descriptor)
        except OSError:
            # What a file holds after a flush that failed is not known: open it anew.
            self.close()
            raise
        self._sequence = following

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not fresh:
            return
        os.ftruncate(self._descriptor, 2 * _SLOT_BYTES)
        os.fsync(self._descriptor)
        flush_folder(self.path.parent)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


async def tell_head(file: HeadFile, head: Head) -> None:
    """Write ``head``; ``OutcomeUnknown`` if the disk refuses: the commit is in the log."""
    try:
        await asyncio.to_thread(file.write, head)
    except OSError as error:
        raise OutcomeUnknown(
            "cannot tell whether the events were stored: the head of the log could not be written",
            hint="repeat the append with the same ids",
            retry_after_seconds=1.0,
            internal=str(error),
        ) from error


def _checked(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def _origin(sequence: int, origin: str) -> bytes:
    name = origin.encode()
    return _ORIGIN.pack(sequence, len(name)) + name


def _slot(data: bytes) -> tuple[int, Head] | None:
    if len(data) < _SLOT.size:
        return None
    magic, sequence, size, root, checksum = _SLOT.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(data[: _SLOT.size - 4]) != checksum:
        return None
    return sequence, Head(size, root, _read_origin(data[_SLOT.size :], sequence))


def _read_origin(data: bytes, sequence: int) -> str:
    """The origin; none if it is of another write, or of a version that did not tell."""
    if len(data) < _ORIGIN.size:
        return ""
    told, length = _ORIGIN.unpack_from(data)
    end = _ORIGIN.size + length
    body, checksum = data[:end], data[end : end + 4]
    if told != sequence or zlib.crc32(body).to_bytes(4, "big") != checksum:
        return ""
    return body[_ORIGIN.size :].decode()
