"""What a thread opens is closed, whether somebody still waits for it or not."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
import structlog

from holdfast.kernel.errors import Invalid
from holdfast.kernel.files import (
    Descriptor,
    check_handed,
    opened,
    read_handed,
    taken,
    write_new,
    write_over,
)
from holdfast.kernel.serving import Tls
from holdfast.kernel.tls import ClientTls
from holdfast.records.webhook import read_secret
from tests.support.waiting import until


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o622, 0o666])
def test_a_secret_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s" * 40)
    path.chmod(mode)
    for read in (
        lambda: read_handed(path, "the secret"),
        lambda: read_secret(path),
        lambda: Tls(path, path).context(),
        lambda: ClientTls(None, path, path),
    ):
        with pytest.raises(Invalid, match="others may write it") as refused:
            read()
        assert refused.value.code == "secret-exposed"
        assert f"chmod 600 {path}" in refused.value.hint


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, 0), (0o640, 0), (0o440, 0), (0o444, 0), (0o644, 1), (0o604, 1)]
)
def test_a_secret_that_others_may_read_is_read_and_told_of(
    tmp_path: Path, mode: int, told: int
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with structlog.testing.capture_logs() as logs:
        assert read_handed(path, "the secret", 3) == b"sec"
        check_handed(path, "the secret", tell=False)
    assert [(each["file"], each["log_level"]) for each in logs] == [(str(path), "warning")] * told


async def test_a_file_is_opened_and_belongs_to_the_caller(tmp_path: Path) -> None:
    with await opened(tmp_path / "new", "wb") as file:
        file.write(b"x")
    with await opened(tmp_path / "new", "rb") as file:
        assert file.read() == b"x"
    with pytest.raises(FileNotFoundError):
        await opened(tmp_path / "none", "rb")


async def test_what_comes_after_the_wait_was_cancelled_is_dropped(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()
    made: list[BinaryIO] = []

    def slowly() -> BinaryIO:
        begun.set()
        go.wait(10)
        made.append((tmp_path / "late").open("wb"))
        return made[0]

    waiting = asyncio.create_task(taken(asyncio.to_thread(slowly), lambda file: file.close()))
    await until(begun.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    await until(lambda: bool(made) and made[0].closed)


async def test_a_file_that_is_opened_too_late_is_closed(tmp_path: Path) -> None:
    """A pipe opens for reading once somebody writes, and breaks once nobody reads."""
    os.mkfifo(tmp_path / "pipe")
    waiting = asyncio.create_task(opened(tmp_path / "pipe", "rb"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)

    def broken() -> bool:
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            return True
        return False

    try:
        await until(broken)
    finally:
        os.close(writer)


async def test_a_failure_after_the_wait_was_cancelled_is_nobodys(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def fails() -> BinaryIO:
        begun.set()
        go.wait(10)
        return (tmp_path / "none").open("rb")

    inner = asyncio.ensure_future(asyncio.to_thread(fails))
    waiting = asyncio.create_task(taken(inner, lambda file: file.close()))
    await until(begun.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    await until(inner.done)
    assert isinstance(inner.exception(), FileNotFoundError)


def test_a_new_file_is_written_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert write_new(path, b"first")
    assert not write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_file_that_cannot_be_written_over_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head"
    write_over(path, b"before", 0o644)
    write_over(path, b"after", 0o644)
    assert path.read_bytes() == b"after"

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (write_over, write_new):
        with pytest.raises(OSError, match="no space"):
            write(path, b"never")
    assert path.read_bytes() == b"after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["head"]


def test_a_name_that_cannot_be_taken_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_over(tmp_path / "folder", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


async def test_one_thread_at_a_time_works_on_a_descriptor(tmp_path: Path) -> None:
    descriptor = Descriptor(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    go = threading.Event()
    first = asyncio.create_task(descriptor.run(lambda _: go.wait(60)))
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="one at a time"):
        await descriptor.run(os.write, b"x")
    go.set()
    assert await first
    assert await descriptor.run(os.write, b"x") == 1
    descriptor.close()
