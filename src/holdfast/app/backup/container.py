"""What a backup file is: a line in clear that says what it is, then a sealed stream of parts.

Inside the stream: a header, then for each part its name and its bytes in pieces, then how many
parts there were. The stream's own frames tell a file that was cut off or changed; nothing of it is
used before its last frame was opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from msgspec import Struct

from holdfast.kernel.errors import Corrupt, Invalid, NotFound
from holdfast.kernel.files import flush_folder
from holdfast.kernel.ids import DEFAULT_TENANT
from holdfast.keyring.model import BACKUPS, DataKey
from holdfast.keyring.stream import sealed_stream, unsealed_stream

FileKind = Literal["data", "keys"]
PIECE_BYTES = 256 * 1024
DAMAGED_HINT = (
    "the file was cut off or changed since it was written, and nothing was restored: compare it "
    "with its other copies (`sha256sum`), or take the backup before it"
)
WRITTEN_HINT = (
    "`holdfast backup create` writes data-….hfb and keys-….hfk and says where: by default in "
    "backups/ of the data directory"
)
_PIECE_MAX = 1024 * 1024
_FIRST_LINE_MAX = 100
_JSON, _DATA, _END = b"J", b"D", b"E"


class Header(Struct, frozen=True, kw_only=True):
    """What a backup says of itself. ``id`` is the same in its two files."""

    format: Literal[1] = 1
    id: str
    created_at: str
    version: str
    roles: list[str]
    engine: str
    keyring: str
    objects: int = 0
    revision: str = ""
    """Of the schema, where the engine needs it to be the same."""


class PartName(Struct, frozen=True, kw_only=True, tag="part"):
    """A part begins."""

    name: str


class Trailer(Struct, frozen=True, kw_only=True, tag="trailer"):
    """Everything was there."""

    parts: int


@dataclass(frozen=True, slots=True)
class Part:
    """One named thing to keep."""

    name: str
    chunks: AsyncIterator[bytes]


def magic(kind: FileKind) -> bytes:
    """The first line of a file of that kind."""
    return f"holdfast-backup-1 {kind}\n".encode()


async def write(
    path: Path,
    kind: FileKind,
    key: DataKey,
    header: Header,
    parts: AsyncIterator[Part],
    written: Callable[[int], None] = lambda size: None,
) -> int:
    """Write the file whole and flushed under its name, or not at all; its size."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    size = 0
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(magic(kind))
            packed = _pack(header, parts)
            async for chunk in sealed_stream(key, DEFAULT_TENANT, BACKUPS, kind, packed):
                await asyncio.to_thread(file.write, chunk)
                size += len(chunk)
                written(size)
            await asyncio.to_thread(_flush, file)
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return size + len(magic(kind))


async def unpack(
    path: Path,
    kind: FileKind,
    find: Callable[[bytes], Awaitable[DataKey]],
    into: Path,
    read: Callable[[int], None] = lambda size: None,
) -> Header:
    """Unpack the parts as files below ``into``; what the file says of itself.

    ``Corrupt`` if anything of it is not as it was written. Then ``into`` is worthless: the caller
    uses it only when this has returned.
    """
    header: Header | None = None
    parts = 0
    target: IO[bytes] | None = None
    trailer: Trailer | None = None
    try:
        async with (
            _named(path),
            aclosing(_chunks(path, kind, read)) as chunks,
            aclosing(unsealed_stream(find, DEFAULT_TENANT, BACKUPS, kind, chunks)) as unsealed,
            aclosing(_items(unsealed)) as items,
        ):
            async for tag, data in items:
                if trailer is not None:
                    raise _damaged(path)
                if tag == _JSON and header is None:
                    header = _decoded(data, Header, path)
                elif tag == _JSON:
                    item = _decoded(data, PartName | Trailer, path)
                    if isinstance(item, Trailer):
                        trailer = item
                    elif target is None:
                        target = _open_part(into, item.name, path)
                    else:
                        raise _damaged(path)
                elif target is None:
                    raise _damaged(path)
                elif tag == _DATA:
                    await asyncio.to_thread(target.write, data)
                else:
                    await asyncio.to_thread(_flush, target)
                    target.close()
                    target, parts = None, parts + 1
    finally:
        if target is not None:
            target.close()
    if header is None or trailer is None or trailer.parts != parts:
        raise _damaged(path)
    return header


@asynccontextmanager
async def _named(path: Path) -> AsyncIterator[None]:
    """What does not open in a backup is said of its file."""
    try:
        yield
    except Corrupt as error:
        if error.code not in ("envelope-invalid", "corrupt"):
            raise
        reason = error.detail.partition(": ")[2] or error.detail
        raise _damaged(path, reason) from error


def size_of(path: Path) -> int:
    """How large the file is; ``NotFound`` if there is none."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotFound(
            f"cannot read the backup {path}: {error.strerror}", hint=WRITTEN_HINT
        ) from error


def check_kind(path: Path, kind: FileKind) -> None:
    """Raises unless the file says of itself that it is of that kind; opens no key for that."""
    size_of(path)
    try:
        with path.open("rb") as file:
            _check_first_line(path, kind, file.readline(_FIRST_LINE_MAX))
    except OSError as error:
        raise Invalid(f"cannot read the backup {path}: {error.strerror}") from error


def _check_first_line(path: Path, kind: FileKind, first: bytes) -> None:
    if first == magic(kind):
        return
    if first.startswith(b"holdfast-backup-1 "):
        raise Invalid(
            f"cannot use {path}: it is the other file of a backup, {kind} are needed here",
            hint="data-….hfb is the argument, keys-….hfk goes with --keys",
        )
    raise Corrupt(
        f"cannot read the backup {path}: it does not begin as one of this version does",
        code="backup-damaged",
        hint=WRITTEN_HINT,
    )


async def _pack(header: Header, parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    yield _item(_JSON, msgspec.json.encode(header))
    count = 0
    async for part in parts:
        yield _item(_JSON, msgspec.json.encode(PartName(name=part.name)))
        async for chunk in part.chunks:
            for start in range(0, len(chunk), PIECE_BYTES):
                yield _item(_DATA, chunk[start : start + PIECE_BYTES])
        yield _item(_END, b"")
        count += 1
    yield _item(_JSON, msgspec.json.encode(Trailer(parts=count)))


def _item(tag: bytes, data: bytes) -> bytes:
    return tag + len(data).to_bytes(4, "big") + data


async def _items(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[bytes, bytes], None]:
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        start = 0
        while len(held) - start >= 5:
            size = int.from_bytes(held[start + 1 : start + 5], "big")
            if size > _PIECE_MAX:
                raise Corrupt("cannot read the backup: a piece is impossibly long")
            if len(held) - start < 5 + size:
                break
            yield bytes(held[start : start + 1]), bytes(held[start + 5 : start + 5 + size])
            start += 5 + size
        del held[:start]
    if held:
        raise Corrupt("cannot read the backup: it ends within a piece")


async def _chunks(
    path: Path, kind: FileKind, read: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    size_of(path)
    with path.open("rb") as file:
        first = file.readline(_FIRST_LINE_MAX)
        _check_first_line(path, kind, first)
        done = len(first)
        while chunk := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield chunk
            done += len(chunk)
            read(done)


def _open_part(into: Path, name: str, path: Path) -> IO[bytes]:
    pieces = name.split("/")
    if not all(piece and piece not in (".", "..") and "\0" not in piece for piece in pieces):
        raise _damaged(path)
    target = into.joinpath(*pieces)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _decoded(data: bytes, kind: Any, path: Path) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise _damaged(path) from error


def _damaged(path: Path, reason: str = "it is not whole") -> Corrupt:
    return Corrupt(
        f"cannot read the backup {path}: {reason}", code="backup-damaged", hint=DAMAGED_HINT
    )


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
