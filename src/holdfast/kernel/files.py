"""Files that are there whole and durable or not at all, and files used beside the event loop.

A thread cannot be cancelled: where nobody waits for what it opens any more, that has to be dropped
when it comes, or it stays open until the collector finds it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from holdfast.kernel.errors import Invalid

T = TypeVar("T")


async def taken(coming: Awaitable[T], drop: Callable[[T], object]) -> T:
    """What ``coming`` brings; dropped when it comes, if the wait was cancelled meanwhile."""
    task = asyncio.ensure_future(coming)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:

        def over(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                drop(done.result())

        task.add_done_callback(over)
        raise


async def opened(path: Path, mode: Literal["rb", "wb"]) -> BinaryIO:
    """The file, open; the caller closes it. Raises what opening raises."""
    hop = asyncio.to_thread(path.open, mode)
    return await taken(cast("Awaitable[BinaryIO]", hop), lambda file: file.close())


class Descriptor:
    """The number of an open file that threads work on, one at a time.

    A number that was closed belongs to whoever opens the next file. So it is closed only when the
    thread is through, even if nobody waits for that any more: it would write into that file.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._work: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """What ``call`` of the number and the arguments gives, in a thread."""
        assert self._work is None or self._work.done(), "one at a time"
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, call, self._number, *arguments)
        self._work = work
        return await asyncio.shield(work)

    def close(self) -> None:
        """Close it: now, or when the thread is through."""
        if self._work is None or self._work.done():
            os.close(self._number)
        else:
            self._work.add_done_callback(self._through)

    def _through(self, work: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            work.exception()  # nobody is left to hear of it
        os.close(self._number)


# --- secrets that the operator hands in; blocking ------------------------------------------------

_WRITTEN_BY_OTHERS = 0o022
_READ_BY_OTHERS = 0o004


def read_handed(
    path: Path, what: str, bytes_max: int = 4 * 1024 * 1024, *, tell: bool = True
) -> bytes:
    """The first ``bytes_max`` bytes of a file that holds a secret and was not made by us.

    :class:`Invalid` (``secret-exposed``) if anybody but its owner may write it: whoever can puts a
    secret of their own there, and is let in. That others may read it is told in the log, and no
    more: container engines hand secrets to whatever user a program has as 0444, 0640 or 0644, so a
    start that refused that would run nowhere. Files of our own making are held to 0600.
    Without ``tell`` nothing is logged: for commands, whose output is somebody's input.
    Raises what opening raises.
    """
    with path.open("rb") as file:
        _check_handed(os.fstat(file.fileno()), path, what, tell=tell)
        return file.read(bytes_max)


def check_handed(path: Path, what: str, *, tell: bool = True) -> None:
    """As :func:`read_handed`, for a file that a library reads by its name."""
    _check_handed(path.stat(), path, what, tell=tell)


def _check_handed(found: os.stat_result, path: Path, what: str, *, tell: bool) -> None:
    if found.st_mode & _WRITTEN_BY_OTHERS:
        raise Invalid(
            f"cannot use {what} {path}: others may write it",
            code="secret-exposed",
            hint=f"chmod 600 {path} (640 if a group is to read it); if somebody may have written "
            "it, make a new one",
        )
    # Another's file, or one that nobody may write, was handed in so: there is nothing to mend here.
    ours = found.st_uid == os.geteuid() and found.st_mode & 0o200
    if tell and ours and found.st_mode & _READ_BY_OTHERS:
        from holdfast.kernel.telemetry import get_logger  # commands do without

        log = get_logger("secrets")
        log.warning("others may read a secret", file=str(path), what=what, hint=f"chmod 600 {path}")


# --- whole and durable; blocking -----------------------------------------------------------------


def write_all(descriptor: int, data: bytes) -> None:
    """All of ``data``: the system may take less at a time, as when the disk gets full."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def flush_folder(path: Path) -> None:
    """Make durable which names are in the folder ``path``, and what they name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(path: Path) -> None:
    """Make durable every file and name below the folder ``path``. Links are not followed."""
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.is_symlink():
                continue
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        flush_folder(Path(folder))


def write_new(path: Path, data: bytes, mode: int = 0o600) -> bool:
    """A new file with ``data``, whole and durable on return; false if there is one, which stays.

    If the process dies in between there is none, at most a left-over that begins with a dot.
    """
    temporary = _written(path, data, mode)
    try:
        os.link(temporary, path)
        created = True
    except FileExistsError:
        created = False
    finally:
        temporary.unlink()
    # Also when it was there: whoever linked it may not have come so far yet.
    flush_folder(path.parent)
    return created


def write_over(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The file with ``data``, or as it was before: whole and durable on return."""
    temporary = _written(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    flush_folder(path.parent)


def _written(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
