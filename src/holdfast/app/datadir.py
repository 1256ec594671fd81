"""The data directory: who holds it, and where the running program leaves its address."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.kernel.cli import LOCK, MARK, RunningProgram
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.lock import FileLock

WAIT_SECONDS = 3.0
PAUSE_SECONDS = 0.05


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process; :class:`Unavailable` names who else does.

    A command holds it for a moment only, so a few seconds are waited before that is said. Not so
    for a program that runs, which has left its address: there only the instant is waited in which
    a command looks whether it does.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"cannot use the data directory {data_dir}: {error.strerror}",
            hint="--data-dir names another",
        ) from error
    lock = FileLock(data_dir / LOCK, f"the data directory {data_dir}")
    _acquire(lock, data_dir)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, data_dir: Path) -> None:
    served = (data_dir / MARK).exists()
    deadline = time.monotonic() + (PAUSE_SECONDS if served else WAIT_SECONDS)
    while True:
        late = time.monotonic() >= deadline
        try:
            return lock.acquire()
        except Unavailable as error:
            if error.code != "database-in-use" or late:
                raise
        time.sleep(PAUSE_SECONDS)


@contextmanager
def announced(data_dir: Path, url: str, started_at: str) -> Iterator[None]:
    """Leave the address where commands look for it, for as long as the program runs.

    A program that is killed leaves a stale file; readers look whether its process has the lock.
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
