"""The bytes of one page as a format reads them: decompressed, bounded, from the spool.

Decompression is a stream; a bound reached is an error that names it, never a cut.
"""

from __future__ import annotations

import bz2
import fnmatch
import io
import zipfile
import zlib
from collections.abc import Callable
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

    def open(self) -> BinaryIO:
        raw = self.path.open("rb")
        try:
            return open_stream(raw, self.compression, self.member, self.bounds)
        except BaseException:
            raw.close()
            raise


def open_stream(raw: BinaryIO, compression: Compression, member: str, bounds: Bounds) -> BinaryIO:
    """``raw`` decompressed; with ``auto``, gzip by its first bytes. Owns and closes ``raw``."""
    kind = _recognised(raw) if compression == "auto" else compression
    if kind == "none":
        return io.BufferedReader(_Bounded(_plain(raw), raw, bounds), _CHUNK)
    if kind == "zip":
        return _zip_member(raw, member, bounds)
    decompress = _DECOMPRESSORS[kind]
    return io.BufferedReader(
        _Bounded(_inflated(raw, decompress, kind), raw, bounds, compressed=True), _CHUNK
    )


def _recognised(raw: BinaryIO) -> str:
    """Gzip by its first bytes; the other kinds are read where the profile names them."""
    start = raw.read(3)
    raw.seek(0)
    return "gzip" if start == b"\x1f\x8b\x08" else "none"


class _Decompressor(Protocol):
    unused_data: bytes

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _zlib(bits: int) -> Callable[[], _Decompressor]:
    return lambda: cast("_Decompressor", zlib.decompressobj(bits))


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _zlib(31),
    "deflate": _zlib(15),
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
                rest = engine.unused_data or raw.read(_CHUNK)
                # Padding after the last member is common; another member begins like the first.
                if not rest.strip(b"\0"):
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


def _pending(engine: _Decompressor) -> bytes:
    """What zlib has not taken in yet because the output was full."""
    return cast("bytes", getattr(engine, "unconsumed_tail", b""))


def _needs_no_input(engine: _Decompressor) -> bool:
    """bzip2 keeps its own input, and says so."""
    return getattr(engine, "needs_input", True) is False


def _zip_member(raw: BinaryIO, member: str, bounds: Bounds) -> BinaryIO:
    try:
        archive = zipfile.ZipFile(raw)
        names = archive.infolist()
        if len(names) > _ZIP_ENTRIES_MAX:
            raise BoundReached(
                f"cannot read the archive: more than {_ZIP_ENTRIES_MAX} entries", bound="entries"
            )
        found = [n for n in names if not n.is_dir() and _wanted(n.filename, member)]
        if len(found) != 1:
            listed = ", ".join(sorted(n.filename for n in names)[:5])
            raise ParseFailed(
                f"cannot read the archive: {len(found)} entries match {member or '*'!r}",
                hint=f"`source.member` names one of: {listed}",
            )
        stream = archive.open(found[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ParseFailed(f"cannot read the archive: {error}") from error

    def read() -> bytes:
        try:
            return stream.read(_CHUNK * 4)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ParseFailed(f"cannot read the archive: {error}") from error

    limited = _Bounded(read, raw, bounds, compressed=True, size=found[0].compress_size)
    return io.BufferedReader(limited, _CHUNK)


def _wanted(name: str, member: str) -> bool:
    return not member or name == member or fnmatch.fnmatchcase(name, member)


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
