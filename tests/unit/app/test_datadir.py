"""Who holds a data directory, and for how long others wait for it."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from holdfast.app import datadir
from holdfast.kernel.cli import LOCK, MARK, running_on
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.lock import FileLock


def other(path: Path) -> FileLock:
    """What another process holds: locks of one process on two descriptors exclude each other."""
    lock = FileLock(path / "holdfast.lock", "the data directory")
    lock.acquire()
    return lock


def test_that_everybody_may_write_it_is_said(tmp_path: Path) -> None:
    told = []
    for mode in (0o700, 0o755, 0o770, 0o1777, 0o777):
        tmp_path.chmod(mode)
        with capture_logs() as logs, datadir.held(tmp_path):
            told.append((mode, [each["event"] for each in logs]))
    assert told[-1][1] == ["everybody may write the data directory"]
    assert [events for _, events in told[:-1]] == [[], [], [], []]


def test_a_command_that_is_done_in_a_moment_is_waited_for(tmp_path: Path) -> None:
    lock = other(tmp_path)
    waiting = threading.Timer(0.2, lock.release)
    waiting.start()
    with datadir.held(tmp_path):
        assert not waiting.is_alive() or waiting.finished.is_set()
    waiting.join()


def test_a_program_that_runs_is_waited_for_but_an_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = other(tmp_path)
    (tmp_path / MARK).write_text("{}")
    waits: list[float] = []
    monkeypatch.setattr(datadir.time, "sleep", waits.append)
    moments = iter([0.0, 0.0, datadir.PAUSE_SECONDS])
    monkeypatch.setattr(datadir.time, "monotonic", lambda: next(moments))
    with pytest.raises(Unavailable, match="process"), datadir.held(tmp_path):
        pass
    assert waits == [datadir.PAUSE_SECONDS]
    lock.release()


def test_whoever_looks_whether_a_program_runs_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MARK).write_text("{}")
    looking = os.open(tmp_path / LOCK, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(datadir.time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
    with datadir.held(tmp_path):
        pass
    os.close(looking)


def test_a_program_runs_while_it_holds_the_directory_whatever_number_its_process_has(
    tmp_path: Path,
) -> None:
    assert running_on(tmp_path) is None
    with datadir.held(tmp_path):
        assert running_on(tmp_path) is None
        with datadir.announced(tmp_path, "http://127.0.0.1:1", ""):
            said = (tmp_path / MARK).read_bytes()
            assert (found := running_on(tmp_path)) is not None
            assert (found.pid, found.url) == (os.getpid(), "http://127.0.0.1:1")
            (tmp_path / LOCK).write_text("")  # the disk was full
            assert running_on(tmp_path) == found
            (tmp_path / LOCK).write_text("1\n")  # a command, where a program was killed
            assert running_on(tmp_path) is None
    (tmp_path / MARK).write_bytes(said)  # killed: there is such a process, and it is another
    assert running_on(tmp_path) is None


def test_whoever_holds_on_is_named_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = other(tmp_path)
    monkeypatch.setattr(datadir, "WAIT_SECONDS", 0.1)
    with pytest.raises(Unavailable) as found, datadir.held(tmp_path):
        pass
    assert found.value.code == "database-in-use"
    lock.release()
