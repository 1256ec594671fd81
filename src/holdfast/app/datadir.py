"""The data directory: who holds it, and where the running program leaves its address."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.kernel.cli import RunningProgram
from holdfast.kernel.database.lock import FileLock
from holdfast.kernel.errors import Unavailable

MARK = "holdfast.json"


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process; :class:`Unavailable` names who else does."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"cannot use the data directory {data_dir}: {error.strerror}",
            hint="--data-dir names another",
        ) from error
    lock = FileLock(data_dir / "holdfast.lock", f"the data directory {data_dir}")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def announced(data_dir: Path, url: str, started_at: str) -> Iterator[None]:
    """Leave the address where commands look for it, for as long as the program runs.

    A program that is killed leaves a stale file; readers check that the process is alive.
    """
    mark = data_dir / MARK
    temporary = mark.with_name(f".{MARK}.{os.getpid()}")
    said = RunningProgram(url=url, pid=os.getpid(), started_at=started_at)
    temporary.write_bytes(msgspec.json.encode(said))
    temporary.replace(mark)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            mark.unlink()
