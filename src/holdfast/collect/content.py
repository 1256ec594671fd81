"""The bytes of one page as a format reads them: decompressed, bounded, from the spool.

Decompression is a stream; a bound reached is an error that names it, never a cut.
"""

from __future__ import annotations

import bz2
import contextlib
import fnmatch
import io
import lzma
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

from holdfast.collect.errors import BoundReached, ParseFailed
from holdfast.collect.model import Bounds

Compression = Literal["auto", "none", "gzip", "deflate", "bzip2", "zip"]

_CHUNK = 64 * 1024
_ZIP_ENTRIES_MAX = 10_000


class Content(Protocol):
    """A page's bytes, readable more than once."""

    def open(self) -> BinaryIO:
        """A fresh stream from the first byte. Raises :class:`ParseFailed` as it is read."""
        ...


@dataclass(frozen=True, slots=True)
class SpooledContent:
    """A page in the spool."""

    path: Path
    bounds: Bounds
    compression: Compression = "none"
    member: str = ""
    charset: str = ""
    """What the source said of the encoding when it sent the page."""

    def open(self) -> BinaryIO:
        raw = self.path.open("rb")
        try:
            return open_stream(raw, self.compression, self.member, self.bounds)
        except BaseException:
            raw.close()
            raise


def open_stream(raw: BinaryIO, compression: Compression, member: str, bounds: Bounds) -> BinaryIO:
    """``raw`` decompressed; with ``auto``, by its first bytes. Owns and closes ``raw``."""
    kind = _recognised(raw) if compression == "auto" else compression
    if kind == "none":
        return io.BufferedReader(_Bounded(_plain(raw), raw, bounds), _CHUNK)
    if kind == "zip":
        return _zip_member(raw, member, bounds)
    decompress = _deflate(raw) if kind == "deflate" else _DECOMPRESSORS[kind]
    return io.BufferedReader(
        _Bounded(_inflated(raw, decompress, kind), raw, bounds, compressed=True), _CHUNK
    )


_MAGIC = {b"\x1f\x8b\x08": "gzip", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}


def _recognised(raw: BinaryIO) -> str:
    """What the first bytes say; deflate has none to know it by, the profile names it."""
    start = raw.read(10)
    raw.seek(0)
    if start[:3] == b"BZh" and start[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "none")


class _Decompressor(Protocol):
    unused_data: bytes

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _zlib(bits: int) -> Callable[[], _Decompressor]:
    return lambda: cast("_Decompressor", zlib.decompressobj(bits))


def _deflate(raw: BinaryIO) -> Callable[[], _Decompressor]:
    """With the header of zlib (RFC 1950) or without (RFC 1951): both are called deflate."""
    start = raw.read(2)
    raw.seek(0)
    wrapped = len(start) == 2 and start[0] & 15 == 8 and int.from_bytes(start, "big") % 31 == 0
    return _zlib(15 if wrapped else -15)


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _zlib(31),
    "bzip2": lambda: cast("_Decompressor", bz2.BZ2Decompressor()),
}

_Source = Callable[[], bytes]
"""Answers the next bytes, ``b""`` at the end."""


def _plain(raw: BinaryIO) -> _Source:
    return lambda: raw.read(_CHUNK)


def _inflated(raw: BinaryIO, make: Callable[[], _Decompressor], kind: str) -> _Source:
    """Decompressed bytes, a piece at a time, over all the members that follow each other."""
    state = {"engine": make(), "input": b"", "started": False}

    def read() -> bytes:
        while True:
            engine = cast("_Decompressor", state["engine"])
            if engine.eof:
                rest = _behind_zeros(engine.unused_data, raw)
                if not rest:
                    return b""
                engine = state["engine"] = make()
                state["input"] = rest
            data = cast("bytes", state["input"]) or _pending(engine) or raw.read(_CHUNK)
            if not data and not _needs_no_input(engine):
                if not state["started"]:
                    raise ParseFailed(f"cannot decompress: the {kind} content is empty")
                raise ParseFailed(f"cannot decompress: the {kind} content is truncated")
            state["started"] = True
            try:
                out = engine.decompress(data, _CHUNK * 4)
            except (zlib.error, OSError) as error:
                raise ParseFailed(f"cannot decompress: not valid {kind}: {error}") from error
            state["input"] = b""
            if out:
                return out

    return read


def _behind_zeros(data: bytes, raw: BinaryIO) -> bytes:
    """What follows a member: padding, of any length, is nothing; another begins like the first."""
    rest = data.lstrip(b"\0")
    while not rest and (data := raw.read(_CHUNK)):
        rest = data.lstrip(b"\0")
    return rest


def _pending(engine: _Decompressor) -> bytes:
    """What zlib has not taken in yet because the output was full."""
    return cast("bytes", getattr(engine, "unconsumed_tail", b""))


def _needs_no_input(engine: _Decompressor) -> bool:
    """bzip2 keeps its own input, and says so."""
    return getattr(engine, "needs_input", True) is False


_DAMAGED = (zipfile.BadZipFile, RuntimeError, ValueError, OSError, EOFError, struct.error)
_DAMAGED_ENTRY = (zlib.error, lzma.LZMAError)
"""What zipfile raises for damaged bytes, and lets through from what unpacks an entry."""


@contextlib.contextmanager
def _reading_archive() -> Iterator[None]:
    """Bytes that are no good archive are told as that, by whatever name the libraries call it."""
    try:
        yield
    except (*_DAMAGED, *_DAMAGED_ENTRY) as error:
        raise ParseFailed(f"cannot read the archive: {error}") from error


def open_archive(raw: BinaryIO) -> zipfile.ZipFile:
    """The archive in ``raw``, its list of entries bounded."""
    with _reading_archive():
        archive = zipfile.ZipFile(raw)
    if len(archive.infolist()) > _ZIP_ENTRIES_MAX:
        raise BoundReached(
            f"cannot read the archive: more than {_ZIP_ENTRIES_MAX} entries", bound="entries"
        )
    return archive


def open_entry(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    bounds: Bounds,
    owner: BinaryIO | None = None,
) -> BinaryIO:
    """The content of one entry, bounded like a page's; closes ``owner`` with itself."""
    with _reading_archive():
        stream = archive.open(entry)

    def read() -> bytes:
        with _reading_archive():
            return stream.read(_CHUNK * 4)

    owned = owner or cast("BinaryIO", stream)
    return io.BufferedReader(
        _Bounded(read, owned, bounds, compressed=True, size=entry.compress_size), _CHUNK
    )


def is_folder(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry of an archive is a folder. The library's own look breaks off at an entry
    without a name."""
    return entry.filename.endswith("/")


def _zip_member(raw: BinaryIO, member: str, bounds: Bounds) -> BinaryIO:
    archive = open_archive(raw)
    names = [entry for entry in archive.infolist() if not is_folder(entry)]
    found = [entry for entry in names if not member or _wanted(entry.filename, member)]
    if len(found) != 1:
        listed = ", ".join(sorted(entry.filename for entry in names)[:5])
        raise ParseFailed(
            f"cannot read the archive: {len(found)} entries match {member or '*'!r}",
            hint=f"`source.member` names one of: {listed}",
        )
    return open_entry(archive, found[0], bounds, raw)


@contextlib.contextmanager
def random_access(content: Content) -> Iterator[BinaryIO]:
    """The page where a format needs to jump about in it: the spooled file itself or, where it is
    compressed, a temporary one that is gone afterwards."""
    path = getattr(content, "path", None)
    plain = getattr(content, "compression", "none") in {"none", "auto"}
    if path is not None and plain and not getattr(content, "member", ""):
        with path.open("rb") as raw:
            if raw.read(4) == b"PK\x03\x04" and not _is_wrapped(raw):
                raw.seek(0)
                yield raw
                return
    folder = path.parent if path is not None else None
    with tempfile.TemporaryFile(dir=folder) as copy, content.open() as stream:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield cast("BinaryIO", copy)


_OF_DOCUMENTS = frozenset({"_rels/.rels", "[content_types].xml", "mimetype", "content.xml"})


def _is_wrapped(raw: BinaryIO) -> bool:
    """Whether an archive holds documents and is none itself."""
    try:
        names = {name.lstrip("/").lower() for name in zipfile.ZipFile(raw).namelist()}
    except _DAMAGED:
        return False  # whoever reads it says what is wrong
    return not names & _OF_DOCUMENTS


def _wanted(name: str, member: str) -> bool:
    return name == member or fnmatch.fnmatchcase(name, member)


class _Bounded(io.RawIOBase):
    """Counts what comes out and stops at the bounds; closes the file underneath."""

    def __init__(
        self,
        source: _Source,
        raw: BinaryIO,
        bounds: Bounds,
        *,
        compressed: bool = False,
        size: int | None = None,
    ) -> None:
        self._source = source
        self._raw = raw
        self._bounds = bounds
        self._compressed = compressed
        self._size = size
        self._rest = memoryview(b"")
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: object) -> int:
        target = memoryview(into).cast("B")  # type: ignore[arg-type]
        if not self._rest:
            self._rest = memoryview(self._source())
            self._count(len(self._rest))
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _count(self, size: int) -> None:
        self._total += size
        bounds = self._bounds
        if self._total > bounds.content_bytes_max:
            raise BoundReached(
                f"cannot read the page: its content is more than {bounds.content_bytes_max} bytes",
                bound="bytes",
                hint="`limits.max_bytes` sets it",
            )
        if self._compressed and self._total > bounds.ratio_floor_bytes:
            packed = self._size if self._size is not None else self._raw.tell()
            if self._total > max(packed, 1) * bounds.ratio_max:
                raise BoundReached(
                    f"cannot decompress: more than {bounds.ratio_max} times its size",
                    bound="ratio",
                )

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
