"""The data directory: who holds it, and where the running program leaves its address."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.kernel.cli import RunningProgram
from holdfast.kernel.database.lock import FileLock
from holdfast.kernel.errors import Unavailable

MARK = "holdfast.json"
WAIT_SECONDS = 3.0
PAUSE_SECONDS = 0.05


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process; :class:`Unavailable` names who else does.

    A command holds it for a moment only, so a few seconds are waited before that is said; not for
    a program that runs, which has left its address.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"cannot use the data directory {data_dir}: {error.strerror}",
            hint="--data-dir names another",
        ) from error
    lock = FileLock(data_dir / "holdfast.lock", f"the data directory {data_dir}")
    _acquire(lock, data_dir)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, data_dir: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return lock.acquire()
        except Unavailable as error:
            served = (data_dir / MARK).exists()
            if error.code != "database-in-use" or served or time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_SECONDS)


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
