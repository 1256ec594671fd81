"""What the embedded engine adds to the handle's promises: groups, bounds, one process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2
from sqlalchemy import Connection, insert, select, text

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, open_database, sqlite_path
from holdfast.kernel.database.sqlite import SqliteDatabase, SqliteLimits
from holdfast.kernel.errors import Conflict, Exhausted, Internal, TooLarge, Unavailable
from holdfast.kernel.principal import operator
from tests.support.tables import SAMPLE, counters
from tests.support.waiting import until

ONE = operator()


@contextmanager
def opened(path: Path, **limits: object) -> Iterator[SqliteDatabase]:
    database = SqliteDatabase(path, limits=SqliteLimits(**limits))  # type: ignore[arg-type]
    database.open()
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    with opened(tmp_path / "state" / "x.db") as database:
        await create_schema(database, SAMPLE)
        yield database


def put(name: str):
    def unit(conn: Connection) -> None:
        conn.execute(insert(counters), {"tenant": "default", "name": name, "value": 1})

    return unit


def names(conn: Connection) -> set[str]:
    return set(
        conn.execute(select(counters.c.name).where(counters.c.tenant == "default")).scalars()
    )


class Gate:
    """A unit that holds the writer until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def __call__(self, conn: Connection) -> None:
        self.entered.set()
        assert self.leave.wait(20)


@contextmanager
def commits_of(db: SqliteDatabase) -> Iterator[list[str]]:
    """The transaction statements that the writer runs within the block."""
    driver = db._session.driver
    seen: list[str] = []

    def see(statement: str) -> None:
        if statement in ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"):
            seen.append(statement)

    driver.set_trace_callback(see)
    yield seen


async def test_it_runs_as_the_plan_says(db: SqliteDatabase) -> None:
    def pragmas(conn: Connection) -> list[object]:
        asked = ("journal_mode", "synchronous", "foreign_keys")
        return [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]

    assert await db.write(ONE, pragmas) == ["wal", 2, 1]
    version = await db.read(ONE, lambda conn: conn.exec_driver_sql("SELECT sqlite_version()"))
    assert version is not None
    assert dbapi2.sqlite_version_info >= (3, 51, 3)


async def test_waiting_units_share_one_commit(db: SqliteDatabase) -> None:
    gate = Gate()
    with commits_of(db) as seen:
        first = asyncio.ensure_future(db.write(ONE, gate))
        await asyncio.to_thread(gate.entered.wait, 20)
        rest = [asyncio.ensure_future(db.write(ONE, put(f"n{i}"))) for i in range(50)]
        await asyncio.sleep(0)
        gate.leave.set()
        await asyncio.gather(first, *rest)
    # The gate's own group is over its 10 ms, so it is alone; the fifty follow in very few.
    assert seen.count("COMMIT") == seen.count("BEGIN IMMEDIATE") < 20
    assert len(await db.read(ONE, names)) == 50


async def test_nobody_is_answered_before_the_commit_refusals_included(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", group_seconds_max=30.0) as db:
        await create_schema(db, SAMPLE)
        gate, last = Gate(), Gate()

        def refused(conn: Connection) -> None:
            put("refused")(conn)
            raise Unavailable("cannot do this")

        waiting = [asyncio.ensure_future(db.write(ONE, gate))]
        await asyncio.to_thread(gate.entered.wait, 20)
        waiting += [
            asyncio.ensure_future(db.write(ONE, unit)) for unit in (put("a"), refused, last)
        ]
        await asyncio.sleep(0)
        gate.leave.set()
        # The last unit of the group runs: both before it have run, none has been answered.
        await asyncio.to_thread(last.entered.wait, 20)
        assert await db.read(ONE, names) == set()
        assert not any(task.done() for task in waiting)
        last.leave.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [
            type(None),
            type(None),
            Unavailable,
            type(None),
        ]
        assert await db.read(ONE, names) == {"a"}


async def test_a_group_is_bounded_by_bytes(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", group_seconds_max=30.0, group_bytes_max=100) as db:
        await create_schema(db, SAMPLE)
        gate = Gate()
        with commits_of(db) as seen:
            waiting = [asyncio.ensure_future(db.write(ONE, gate))]
            await asyncio.to_thread(gate.entered.wait, 20)
            waiting += [
                asyncio.ensure_future(db.write(ONE, put(f"n{i}"), size_bytes=60)) for i in range(6)
            ]
            await asyncio.sleep(0)
            gate.leave.set()
            await asyncio.gather(*waiting)
        assert seen.count("COMMIT") == 3


async def test_what_waits_is_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", waiting_max=3, waiting_bytes_max=1000) as db:
        await create_schema(db, SAMPLE)
        gate = Gate()
        first = asyncio.ensure_future(db.write(ONE, gate, size_bytes=500))
        await asyncio.to_thread(gate.entered.wait, 20)
        with pytest.raises(Exhausted) as caught:
            await db.write(ONE, put("too big for now"), size_bytes=501)
        assert caught.value.retry_after_seconds
        others = [asyncio.ensure_future(db.write(ONE, put(f"n{i}"))) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Exhausted):
            await db.write(ONE, put("one too many"))
        gate.leave.set()
        await asyncio.gather(first, *others)
        await db.write(ONE, put("fits again"), size_bytes=1000)
        with pytest.raises(TooLarge, match="1001 bytes"):
            await db.write(ONE, put("never fits"), size_bytes=1001)
        assert await db.read(ONE, names) == {"n0", "n1", "fits again"}


async def test_reads_that_wait_are_bounded(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", readers=1, reads_waiting_max=2) as db:
        await create_schema(db, SAMPLE)
        gate = Gate()
        reads = [asyncio.ensure_future(db.read(ONE, gate)) for _ in range(2)]
        await asyncio.to_thread(gate.entered.wait, 20)
        with pytest.raises(Exhausted):
            await db.read(ONE, names)
        gate.leave.set()
        await asyncio.gather(*reads)
        assert await db.read(ONE, names) == set()


ENDLESS = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
)


async def test_a_read_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", read_seconds_max=0.1) as db:
        with pytest.raises(Unavailable, match="too long"):
            await db.read(ONE, lambda conn: conn.execute(ENDLESS).scalar())
        assert await db.read(ONE, lambda conn: conn.execute(text("SELECT 1")).scalar()) == 1


async def test_a_cancelled_read_gives_its_thread_back(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", readers=1) as db:
        entered = threading.Event()

        def endless(conn: Connection) -> None:
            entered.set()
            conn.execute(ENDLESS).scalar()

        reading = asyncio.ensure_future(db.read(ONE, endless))
        await asyncio.to_thread(entered.wait, 20)
        # The statement may not have begun; an interruption before it is lost, so insist.
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await db.read(ONE, lambda conn: conn.execute(text("SELECT 1")).scalar()) == 1


async def test_a_cancelled_unit_that_has_not_begun_never_runs(db: SqliteDatabase) -> None:
    gate = Gate()
    first = asyncio.ensure_future(db.write(ONE, gate))
    await asyncio.to_thread(gate.entered.wait, 20)
    cancelled = asyncio.ensure_future(db.write(ONE, put("cancelled")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    gate.leave.set()
    await first
    await db.write(ONE, put("after"))
    assert await db.read(ONE, names) == {"after"}


async def test_a_unit_cannot_end_its_transaction(db: SqliteDatabase) -> None:
    def commits(conn: Connection) -> None:
        put("gone")(conn)
        conn.commit()

    def rolls_back(conn: Connection) -> None:
        put("gone")(conn)
        conn.rollback()

    for unit in (commits, rolls_back):
        with pytest.raises(Internal):
            await db.write(ONE, unit)
    await db.write(ONE, put("next"))
    assert await db.read(ONE, names) == {"next"}


async def test_a_unit_that_runs_out_of_an_iterator_hangs_nobody(db: SqliteDatabase) -> None:
    with pytest.raises(Internal):
        await db.write(ONE, lambda _conn: next(iter(())))
    with pytest.raises((Internal, RuntimeError)):
        await db.read(ONE, lambda _conn: next(iter(())))


async def test_a_transaction_that_sqlite_ends_is_repeated_unit_by_unit(tmp_path: Path) -> None:
    """ON CONFLICT ROLLBACK ends the transaction as a full disk does, in the middle of a group."""
    with opened(tmp_path / "x.db", group_seconds_max=30.0) as db:
        await create_schema(db, SAMPLE)
        await db.write(ONE, put("taken"))
        gate = Gate()
        runs: list[str] = []

        def ends_it(conn: Connection) -> None:
            runs.append("ends it")
            conn.execute(
                text("INSERT OR ROLLBACK INTO sample_counters VALUES ('default', 'taken', 1)")
            )

        def counted(name: str):
            def unit(conn: Connection) -> None:
                runs.append(name)
                put(name)(conn)

            return unit

        waiting = [asyncio.ensure_future(db.write(ONE, gate))]
        await asyncio.to_thread(gate.entered.wait, 20)
        with commits_of(db) as seen:
            waiting += [
                asyncio.ensure_future(db.write(ONE, unit))
                for unit in (counted("before"), ends_it, counted("after"))
            ]
            await asyncio.sleep(0)
            gate.leave.set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer).__name__ for answer in answers] == [
            "NoneType",
            "NoneType",
            "Conflict",
            "NoneType",
        ]
        assert await db.read(ONE, names) == {"taken", "before", "after"}
        # Nothing ran after it in the lost group; then each of that group ran alone.
        assert runs == ["before", "ends it", "before", "ends it", "after"]
        assert seen.count("COMMIT") == 3


async def test_a_database_that_is_full_refuses_and_recovers(db: SqliteDatabase) -> None:
    """A bound on pages is SQLite's own full disk: the same code, at the same place."""

    def large(name: str):
        def unit(conn: Connection) -> None:
            put(name)(conn)
            put(name + "x" * 200_000)(conn)

        return unit

    def bound(pages: int):
        def unit(conn: Connection) -> None:
            conn.exec_driver_sql(f"PRAGMA max_page_count={pages}").close()

        return unit

    await db.write(ONE, bound(20))
    answers = await asyncio.gather(
        db.write(ONE, put("small")),
        db.write(ONE, large("large")),
        db.write(ONE, put("small too")),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert answers[2] is None
    assert isinstance(answers[1], Unavailable)
    assert "full" in answers[1].detail
    assert await db.read(ONE, names) == {"small", "small too"}
    await db.write(ONE, bound(1_000_000))
    await db.write(ONE, large("large"))
    assert len(await db.read(ONE, names)) == 4


async def test_the_log_is_cut_under_steady_reads(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", wal_bytes_max=300_000, readers=2) as db:
        await create_schema(db, SAMPLE)
        stop = False

        async def read() -> None:
            while not stop:
                await db.read(ONE, names)

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        largest = 0
        for i in range(700):
            await db.write(ONE, put(f"{i}" + "x" * 3000))
            largest = max(largest, db._log_path.stat().st_size)
        stop = True
        await asyncio.gather(*readers)
        # 700 commits of two or more pages would be over 6 MB.
        assert largest < 2_500_000


async def test_the_log_is_folded_into_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as db:
        await create_schema(db, SAMPLE)
        await db.write(ONE, put("a"))
    assert not path.with_name("x.db-wal").exists()
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as db:
        assert await db.read(ONE, names) == {"a"}


async def test_what_waits_at_the_end_is_finished_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as db:
        await create_schema(db, SAMPLE)
        waiting = [asyncio.ensure_future(db.write(ONE, put(f"n{i}"))) for i in range(100)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    stored = {f"n{i}" for i, answer in enumerate(answers) if answer is None}
    assert all(answer is None or isinstance(answer, Unavailable) for answer in answers)
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as db:
        assert await db.read(ONE, names) == stored


async def test_a_second_handle_on_the_file_is_refused_and_names_the_process(
    db: SqliteDatabase,
) -> None:
    with pytest.raises(Unavailable, match=f"process {os.getpid()} uses it"), opened(db.path):
        pass
    child = subprocess.run(
        [sys.executable, "-c", OPEN_ELSEWHERE, str(db.path)], capture_output=True, text=True
    )
    assert f"process {os.getpid()} uses it" in child.stdout
    await db.write(ONE, put("still works"))


OPEN_ELSEWHERE = """
import asyncio, sys
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import Unavailable
async def main():
    try:
        async with open_database("sqlite:///" + sys.argv[1], clock=SystemClock()):
            print("opened")
    except Unavailable as error:
        print(error.code, error.detail)
asyncio.run(main())
"""


async def test_the_lock_is_free_again_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for _ in range(2):
        with opened(path):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database at all" * 100)
    from holdfast.kernel.errors import Corrupt

    with pytest.raises(Corrupt), opened(path):
        pass
    # And the lock was given back.
    path.unlink()
    with opened(path):
        pass


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable), opened(tmp_path / "file" / "x.db"):
        pass


async def test_the_threads_are_gone_after_the_end(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db") as db:
        await db.read(ONE, lambda conn: conn.execute(text("SELECT 1")).scalar())
    await until(lambda: not any("x.db" in thread.name for thread in threading.enumerate()))


async def test_a_read_that_fails_half_way_leaves_no_snapshot_behind(sqlite_url: str) -> None:
    """Every thread of readers has one such read; the next reads see what was written since."""
    limits = SqliteLimits(readers=1)
    database = SqliteDatabase(sqlite_path(sqlite_url), limits=limits)
    database.open()
    try:
        insert = text("INSERT INTO tenants (id, created_at) VALUES (:id, 'now')")
        for number in range(5):
            await database.write(
                operator(), lambda conn, n=number: conn.execute(insert, {"id": f"t{n}"}) and None
            )

        def failing(conn) -> None:
            rows = conn.execute(text("SELECT id FROM tenants ORDER BY id"))
            for row in rows:
                raise Conflict(f"cannot go on: the first is {row.id}")

        with pytest.raises(Conflict) as kept:
            await database.read(operator(), failing)
        await database.write(operator(), lambda conn: conn.execute(insert, {"id": "t5"}) and None)
        assert "t5" in await database.tenants(), kept.value.detail
    finally:
        database.close()
