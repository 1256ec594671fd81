"""One process per file, or per folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from holdfast.kernel.errors import Unavailable


class FileLock:
    """An exclusive lock that ends with the process that holds it, however it ends.

    The file stays; its content is the holder's process id, for the message to whoever comes next.
    Children do not inherit it, so a worker that outlives its parent cannot keep it.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self._path = path
        self._subject = subject
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise ``Unavailable`` that names the process which has it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"cannot open {self._subject}: {self._path}: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Unavailable(
                f"cannot open {self._subject}: process {holder} uses it",
                code="database-in-use",
                hint="stop that process, or use PostgreSQL to share a database",
            ) from error
        self._descriptor = descriptor
        # A courtesy to whoever comes next; a full disk must not stop us for it.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock up; harmless if it is not held."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(path: Path) -> str | None:
    """The process id that the lock's holder wrote, empty if it could not; none if nobody holds it.

    Looking takes the lock for an instant; whoever wants it in that instant has to try again.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    return None
