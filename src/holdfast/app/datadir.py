"""The data directory: who holds it, and where the running program leaves its address."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.kernel.cli import LOCK, MARK, RunningProgram
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.lock import FileLock
from holdfast.kernel.telemetry import get_logger

WAIT_SECONDS = 3.0
PAUSE_SECONDS = 0.05

log = get_logger("system")


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
    _look_at(data_dir)
    lock = FileLock(data_dir / LOCK, f"the data directory {data_dir}")
    _acquire(lock, data_dir)
    try:
        yield
    finally:
        lock.release()


def _look_at(data_dir: Path) -> None:
    """Warn where everybody may put files into the data directory: whoever may can put their own in
    the place of a key or a token, however well these are kept. No refusal, since volumes of
    containers are handed out so, for the one program that sees them."""
    mode = data_dir.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        log.warning(
            "everybody may write the data directory",
            directory=str(data_dir),
            hint=f"chmod o-w {shlex.quote(str(data_dir))}",
        )


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
