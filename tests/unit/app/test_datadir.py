"""Who holds a data directory, and for how long others wait for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.app import datadir
from holdfast.kernel.database.lock import FileLock
from holdfast.kernel.errors import Unavailable


def other(path: Path) -> FileLock:
    """What another process holds: locks of one process on two descriptors exclude each other."""
    lock = FileLock(path / "holdfast.lock", "the data directory")
    lock.acquire()
    return lock


def test_a_command_that_is_done_in_a_moment_is_waited_for(tmp_path: Path) -> None:
    lock = other(tmp_path)
    waiting = threading.Timer(0.2, lock.release)
    waiting.start()
    with datadir.held(tmp_path):
        assert not waiting.is_alive() or waiting.finished.is_set()
    waiting.join()


def test_a_program_that_runs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = other(tmp_path)
    (tmp_path / datadir.MARK).write_text("{}")
    monkeypatch.setattr(datadir.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(Unavailable, match="process"), datadir.held(tmp_path):
        pass
    lock.release()


def test_whoever_holds_on_is_named_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = other(tmp_path)
    monkeypatch.setattr(datadir, "WAIT_SECONDS", 0.1)
    with pytest.raises(Unavailable) as found, datadir.held(tmp_path):
        pass
    assert found.value.code == "database-in-use"
    lock.release()
