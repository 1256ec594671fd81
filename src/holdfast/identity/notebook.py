"""The notes of a door that nobody has taken yet, in a file: a door that is killed forgets none.

Two pages, each a file. Notes are written on the *open* one, a line for the first of its kind and a
few bytes for each that is like it; that costs a write to memory that the kernel keeps when the
process dies, and once a second a flush to the disk for when the machine does. When it is full of
time it is *handed* over, and thrown away once somebody has it. A page that is handed over twice
holds the same notes under the same ids, so that they are written down once.

What is on either page is in memory too. After anything that failed, nobody knows what the files
hold: both are written anew from there, the handed one first, so that a note is on one of them at
every moment (and told by that one, should it be on both).

A line that was cut off by a loss of power is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from holdfast.kernel.errors import Unavailable
from holdfast.kernel.telemetry import get_logger

log = get_logger("audit")

PAGE_BYTES_MAX = 1024 * 1024
"""An open page longer than this is written anew, each note with its count."""

TEXT_MAX = 200
Text = Annotated[str, Meta(max_length=TEXT_MAX)]


class AuditNote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happened at a door, ``count`` times from ``first`` to ``last``.

    ``subject`` is an opaque id, or ``nobody``. ``code`` says why it was refused. ``request_id`` is
    that of the first time.
    """

    id: Text
    type: Text
    tenant: Text
    subject: Text
    code: Text
    method: Text = ""
    route: Text = ""
    network: Text = ""
    request_id: Text = ""
    count: Annotated[int, Meta(ge=1)] = 1
    first: Text
    last: Text


@dataclass(slots=True)
class Tally:
    """A note as it grows; ``number`` is its place on the page. Whoever counts owns it."""

    note: AuditNote
    number: int
    count: int
    last: str


def note_of(tally: Tally) -> AuditNote:
    """What is handed over."""
    return msgspec.structs.replace(tally.note, count=tally.count, last=tally.last)


class Notebook:
    """Both pages of one door. Writing never raises: what cannot be kept is told of once."""

    def __init__(self, path: Path) -> None:
        """``path`` without a suffix names both; :class:`Unavailable` if they cannot be written."""
        self._open_path = path.with_suffix(".open")
        self._handed_path = path.with_suffix(".handed")
        self._page: list[Tally] = []
        self._handed: list[Tally] = []
        self._bytes = 0
        self._dirty = self._handed_dirty = False
        self._told = 0
        self.broken = False
        """Whether something failed that is not mended: notes may then be in memory only."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._handed = _read(self._handed_path)
            self._page = _besides(self._handed, _read(self._open_path))
            self._descriptor = self._rewritten()
        except OSError as error:
            raise Unavailable(
                f"cannot keep the audit notes in {self._open_path}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Leave both as they are."""
        os.close(self._descriptor)

    def open(self) -> list[Tally]:
        """What is on the open page."""
        return list(self._page)

    def handed(self) -> list[Tally]:
        """What was handed over, and not known to be taken."""
        return list(self._handed)

    def begin(self, tally: Tally) -> None:
        """The first of its kind."""
        self._page.append(tally)
        self._write(_first_line(tally.note))

    def again(self, tally: Tally) -> None:
        """One more like it: its count and its last time have been brought up already."""
        self._write(b"%d %s\n" % (tally.number, tally.last.encode()))

    async def turn(self) -> None:
        """Hand the open page over and begin another; only when the last was :meth:`taken`."""
        self._handed, self._page = self._page, []
        if self.broken:
            # The file may lack what is on the page.
            self.broken = not self._trying(self._mend)
            return
        before = self._descriptor
        self._trying(self._turn)
        if before != self._descriptor:
            try:
                await asyncio.to_thread(_synced_and_closed, before)
            except OSError as error:
                self._tell(error)

    def taken(self) -> None:
        """What was handed over is where it belongs."""
        self._handed = []
        self._trying(lambda: self._handed_path.unlink(missing_ok=True))

    async def sync(self) -> None:
        """Have on the disk what was written since the last time; while broken, the whole page.

        So a disk that is well again is found out, also where nothing is noted any more.
        """
        mending, told = self.broken, self._told
        if mending:
            try:
                self._mend()
            except OSError:
                return
        if not self._dirty:
            return
        handed = self._handed_path if self._handed_dirty else None
        self._dirty = self._handed_dirty = False
        try:
            # A descriptor of its own: the page may be written anew meanwhile.
            opened = os.dup(self._descriptor)
            await asyncio.to_thread(_sync, opened, handed, self._open_path.parent)
        except OSError as error:
            self._tell(error)
        else:
            # Unless something else failed while the disk was waited for.
            self.broken = self.broken and not (mending and told == self._told)

    def _turn(self) -> None:
        self._open_path.replace(self._handed_path)
        self._descriptor = self._rewritten()

    def _mend(self) -> None:
        """Write both pages anew."""
        if self._handed:
            descriptor, _ = _fresh(self._handed_path, self._handed)
            os.close(descriptor)
            self._handed_dirty = True
        else:
            self._handed_path.unlink(missing_ok=True)
        self._replace()

    def _replace(self) -> None:
        before = self._descriptor
        self._descriptor = self._rewritten()
        os.close(before)

    def _rewritten(self) -> int:
        """The open page with what is on it and no line too many; its descriptor."""
        descriptor, self._bytes = _fresh(self._open_path, self._page)
        self._dirty = True
        return descriptor

    def _write(self, line: bytes) -> None:
        if self.broken:
            # After a write that failed nobody knows where the last line ends.
            self.broken = not self._trying(self._mend)
        elif self._bytes > PAGE_BYTES_MAX:
            self._trying(self._replace)
        elif self._trying(lambda: _write_all(self._descriptor, line)):
            self._bytes += len(line)
            self._dirty = True

    def _trying(self, do: Callable[[], None]) -> bool:
        """Whether it was done. Only what writes both pages anew says that all is well again."""
        try:
            do()
        except OSError as error:
            self._tell(error)
            return False
        return True

    def _tell(self, error: OSError) -> None:
        if not self.broken:
            log.error("audit notes are kept in memory only", detail=error.strerror)
        self.broken = True
        self._told += 1


def _first_line(note: AuditNote) -> bytes:
    return msgspec.json.encode(note) + b"\n"


def _fresh(path: Path, page: Iterable[Tally]) -> tuple[int, int]:
    """Put a page there, whole or not at all; its descriptor and its bytes."""
    fresh = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, 0o600)
    try:
        content = b"".join(_first_line(note_of(tally)) for tally in page)
        _write_all(descriptor, content)
        fresh.replace(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, len(content)


def _besides(handed: Iterable[Tally], page: Iterable[Tally]) -> list[Tally]:
    """What of a page was not handed over."""
    known = {tally.note.id for tally in handed}
    return _numbered(tally for tally in page if tally.note.id not in known)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync(descriptor: int, handed: Path | None, folder: Path) -> None:
    _synced_and_closed(descriptor)
    if handed is not None:
        # It may be taken meanwhile.
        with contextlib.suppress(FileNotFoundError):
            _synced_and_closed(os.open(handed, os.O_RDONLY | os.O_CLOEXEC))
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _synced_and_closed(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[Tally]:
    try:
        *lines, cut = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    if cut:
        # However much of it is there: half a number names another note.
        log.warning("a line of the audit notes was cut off", line=cut[:80].decode("latin-1"))
    return _numbered(tally for tally in _tallies(lines) if tally is not None)


def _tallies(lines: Iterable[bytes]) -> list[Tally | None]:
    """Each first line's tally; nothing in the place of one that is broken, as others count on."""
    found: list[Tally | None] = []
    for line in lines:
        try:
            if line.startswith(b"{"):
                found.append(None)
                note = msgspec.json.decode(line, type=AuditNote)
                found[-1] = Tally(note, len(found) - 1, note.count, note.last)
            elif line:
                number, _, at = line.partition(b" ")
                tally = found[int(number)]
                if tally is not None:
                    tally.count, tally.last = tally.count + 1, at.decode("ascii")
        except (msgspec.DecodeError, ValueError, IndexError):
            log.warning("a line of the audit notes is broken", line=line[:80].decode("latin-1"))
    return found


def _numbered(page: Iterable[Tally]) -> list[Tally]:
    """Each with its place there."""
    found = list(page)
    for number, tally in enumerate(found):
        tally.number = number
    return found
