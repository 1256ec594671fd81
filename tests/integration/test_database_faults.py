"""Disks that fill, fail and vanish, and processes that are killed: no answer may be false.

An error is allowed; an answer that is not true, half a unit, or a handle that does not recover is
not.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.kernel.database.sqlite import SqliteDatabase, SqliteLimits
from holdfast.kernel.errors import OutcomeUnknown, Unavailable
from holdfast.kernel.principal import operator
from tests.support.sqlite_faults import failing_log
from tests.support.tables import SAMPLE, counters
from tests.support.waiting import until

ONE = operator()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with opened(tmp_path / "x.db") as database:
        yield database


class opened:  # noqa: N801 - reads like the function it stands for
    """A handle whose retries after a failure are quick."""

    def __init__(self, path: Path) -> None:
        limits = SqliteLimits(reopen_seconds_first=0.02, reopen_seconds_max=0.05)
        self._database = SqliteDatabase(path, limits=limits)

    async def __aenter__(self) -> SqliteDatabase:
        self._database.open()
        await create_schema(self._database, SAMPLE)
        return self._database

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._database.close)


def pair(name: str, padding: int = 0):
    """Two rows that are there together or not at all."""

    def unit(conn: Connection) -> str:
        for half in ("a", "b"):
            row = {"tenant": "default", "name": f"{name}{half}" + "x" * padding, "value": 1}
            conn.execute(insert(counters), row)
        return name

    return unit


def pairs(conn: Connection) -> set[str]:
    found = set(
        conn.execute(select(counters.c.name).where(counters.c.tenant == "default")).scalars()
    )
    names = {name.rstrip("x") for name in found}
    whole = {name[:-1] for name in names}
    assert names == {f"{name}{half}" for name in whole for half in "ab"}, "half a unit is there"
    return whole


async def writable(db: SqliteDatabase) -> bool:
    try:
        await db.check()
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("what", ["sync", "write"])
async def test_a_failed_commit_is_unknown_to_all_of_its_group_and_the_handle_recovers(
    db: SqliteDatabase, what: str
) -> None:
    await db.write(ONE, pair("before"))
    with failing_log(db._session.driver, what) as disk:
        disk.failing = True
        answers = await asyncio.gather(
            *(db.write(ONE, pair(f"n{i}")) for i in range(5)), return_exceptions=True
        )
        assert disk.calls > 0
    # The first group is in doubt; units that came after the break are refused, not in doubt.
    assert isinstance(answers[0], OutcomeUnknown)
    assert all(isinstance(answer, OutcomeUnknown | Unavailable) for answer in answers)
    assert "same id" in answers[0].hint
    await until(lambda: writable(db))
    stored = await db.read(ONE, pairs)
    unknown = {f"n{i}" for i, answer in enumerate(answers) if isinstance(answer, OutcomeUnknown)}
    assert {"before"} <= stored <= {"before"} | unknown
    for i in range(5):
        if f"n{i}" not in stored:
            await db.write(ONE, pair(f"n{i}"))
    assert await db.read(ONE, pairs) == {"before"} | {f"n{i}" for i in range(5)}


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Within the block no file of this process grows beyond ``size`` bytes: the disk says no."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_writes_are_refused_with_the_reason_until_the_disk_is_well(
    db: SqliteDatabase,
) -> None:
    await db.write(ONE, pair("before"))
    size = db._log_path.stat().st_size
    with files_end_at(size):
        with pytest.raises(OutcomeUnknown):
            await db.write(ONE, pair("lost", 5000))
        with pytest.raises(Unavailable, match="being reopened") as caught:
            await db.write(ONE, pair("refused"))
        assert caught.value.retry_after_seconds
        with pytest.raises(Unavailable):
            await db.check()
        # Readers are not concerned.
        assert await db.read(ONE, pairs) == {"before"}
    await until(lambda: writable(db))
    await db.write(ONE, pair("after", 5000))
    assert await db.read(ONE, pairs) in ({"before", "after"}, {"before", "lost", "after"})


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    at.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


async def test_a_full_disk_never_gives_a_false_answer(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "x.db"
        said: dict[str, object] = {}
        async with opened(path) as db:
            ballast = disk / "ballast"
            ballast.write_bytes(b"\0" * 300_000)
            for i in range(40):
                names = [f"n{i}-{j}" for j in range(5)]
                answers = await asyncio.gather(
                    *(db.write(ONE, pair(name, 2000)) for name in names), return_exceptions=True
                )
                said |= dict(zip(names, answers, strict=True))
            refused = {n for n, a in said.items() if isinstance(a, Unavailable)}
            unknown = {n for n, a in said.items() if isinstance(a, OutcomeUnknown)}
            stored = {n for n, a in said.items() if a == n}
            assert len(refused) + len(unknown) + len(stored) == 200
            assert stored
            assert unknown
            ballast.unlink()
            await until(lambda: writable(db))
            await db.write(ONE, pair("after"))
            found = await db.read(ONE, pairs)
            assert stored | {"after"} <= found <= stored | {"after"} | unknown
        async with opened(path) as db:
            assert await db.read(ONE, pairs) == found


async def test_a_read_only_disk_is_refused_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        async with opened(disk / "x.db") as db:
            await db.write(ONE, pair("before"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(Unavailable):
            async with opened(disk / "x.db"):
                pass
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        async with opened(disk / "x.db") as db:
            await db.write(ONE, pair("after"))
            assert await db.read(ONE, pairs) == {"before", "after"}


WRITER = """
import asyncio, os, sys
from sqlalchemy import insert
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.kernel.principal import operator
from tests.support.tables import SAMPLE, counters

async def main(url, offset):
    async with open_database(url, clock=SystemClock()) as db:
        await create_schema(db, SAMPLE)
        async def caller(number):
            for i in range(1_000_000):
                name = f"{offset}-{number}-{i}"
                def unit(conn):
                    for half in "ab":
                        conn.execute(insert(counters),
                                     {"tenant": "default", "name": name + half, "value": 1})
                await db.write(operator(), unit)
                os.write(1, (name + "\\n").encode())
        await asyncio.gather(*(caller(n) for n in range(8)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_what_was_answered_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    answered: set[str] = set()
    for attempt in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, f"sqlite:///{path}", str(attempt)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(30 + 170 * attempt)]
        child.send_signal(signal.SIGKILL)
        # What it had written to the pipe before it died was answered, too. The last line may be
        # cut short.
        lines += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait()
        answered |= {line.decode().strip() for line in lines if line.endswith(b"\n")}
        async with open_database(f"sqlite:///{path}", clock=SystemClock()) as db:
            found = await db.read(ONE, pairs)
            assert answered <= found
            checked = await db.read(
                ONE, lambda conn: conn.exec_driver_sql("PRAGMA integrity_check").scalar()
            )
            assert checked == "ok"
    assert len(answered) >= 4 * 30
