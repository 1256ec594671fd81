"""Objects in a folder, durable by our own hand: temporary file, fsync, link, fsync of the folder.

A link, unlike a rename, refuses a name that is taken: the first one wins without a lock.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from holdfast.kernel.errors import NotFound, Unavailable
from holdfast.kernel.files import flush_folder, taken
from holdfast.kernel.objects.driver import CHUNK_BYTES, Source, StoredObject

T = TypeVar("T")
_INCOMING = ".incoming"
_THREADS = 8


class FileObjects:
    """The driver for ``file://``. The folder may be shared by several processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    async def open(self) -> None:
        """Make the folder if it is missing; ``Unavailable`` if it cannot be written."""
        await self._run(_make_folder, self._incoming)

    async def close(self) -> None:
        self._threads.shutdown(wait=True)

    async def put(self, name: str, source: Source) -> bool:
        target = self._path(name)
        if isinstance(source, bytes):
            return await self._run(self._put_whole, target, [source])
        if isinstance(source, Path):
            return await self._run(self._put_whole, target, source)
        temporary, file = await taken(
            self._run(self._open_temporary), lambda made: _drop(made[1], made[0])
        )
        try:
            try:
                async for chunk in source:
                    await self._run(file.write, chunk)
                return await self._run(self._finish, file, temporary, target)
            finally:
                await self._run(_drop, file, temporary)
        except asyncio.CancelledError:
            # The thread hop above may have been cancelled before it ran; dropping twice is fine.
            _drop(file, temporary)
            raise

    async def get(self, name: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        file = await taken(self._run(self._open_existing, name, start), lambda found: found.close())
        try:
            left = length
            while left is None or left > 0:
                wanted = CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)
                chunk = await self._run(file.read, wanted)
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def head(self, name: str) -> StoredObject | None:
        return await self._run(self._head, name)

    async def delete(self, name: str) -> None:
        await self._run(self._delete, self._path(name))

    async def scan(self, prefix: str) -> AsyncIterator[StoredObject]:
        folders = await self._run(_names, self._path(prefix))
        for folder in folders:
            for found in await self._run(self._list_folder, f"{prefix}/{folder}"):
                yield found

    async def sweep(self, before: datetime) -> int:
        return await self._run(self._sweep, before)

    # --- in a thread --------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        if not all(part and all(c in "0123456789abcdef" for c in part) for part in name.split("/")):
            raise ValueError(f"cannot name an object {name!r}: only hexadecimal digits and /")
        return self._root / name

    def _put_whole(self, target: Path, source: list[bytes] | Path) -> bool:
        temporary, file = self._open_temporary()
        try:
            if isinstance(source, Path):
                with source.open("rb") as given:
                    while chunk := given.read(CHUNK_BYTES):
                        file.write(chunk)
            else:
                file.writelines(source)
            return self._finish(file, temporary, target)
        finally:
            _drop(file, temporary)

    def _open_temporary(self) -> tuple[Path, BinaryIO]:
        path = self._incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return path, os.fdopen(descriptor, "wb")

    def _finish(self, file: BinaryIO, temporary: Path, target: Path) -> bool:
        file.flush()
        os.fsync(file.fileno())
        _make_folder(target.parent)
        try:
            os.link(temporary, target)
            created = True
        except FileExistsError:
            created = False
        # Also when it was there: whoever linked it may not have flushed the folder yet, and we
        # are about to promise that it is durable.
        flush_folder(target.parent)
        return created

    def _open_existing(self, name: str, start: int) -> BinaryIO:
        try:
            file = self._path(name).open("rb")
        except FileNotFoundError:
            raise NotFound("cannot read the object: there is none") from None
        file.seek(start)
        return file

    def _head(self, name: str) -> StoredObject | None:
        try:
            found = self._path(name).stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return StoredObject(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def _delete(self, path: Path) -> None:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        flush_folder(path.parent)

    def _list_folder(self, folder: str) -> list[StoredObject]:
        heads = (self._head(f"{folder}/{name}") for name in _names(self._path(folder)))
        return [found for found in heads if found is not None]

    def _sweep(self, before: datetime) -> int:
        removed = 0
        for name in _names(self._incoming):
            path = self._incoming / name
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    removed += 1
        return removed

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, partial(call, *arguments))
        except OSError as error:
            raise Unavailable(
                f"cannot use the object folder: {os.strerror(error.errno or 0)}",
                code="objects-unavailable",
                retry_after_seconds=5.0,
                internal=str(error),
            ) from error


def _make_folder(path: Path) -> None:
    """Make ``path`` and what is missing above it, each flushed into its parent."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=0o700)
    flush_folder(path.parent)


def _drop(file: BinaryIO, temporary: Path) -> None:
    # What cannot be flushed at closing is of no interest: the temporary file goes.
    with suppress(OSError):
        file.close()
    temporary.unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
