"""What the handle promises on both engines."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import Database, bulk_insert, create_schema, open_database
from holdfast.kernel.errors import Conflict, Internal, Invalid, NotFound, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import operator
from tests.support.tables import SAMPLE, counters, things

ONE = operator()
OTHER = operator(TenantId("other"))


@pytest.fixture
async def db(database: Database) -> Database:
    await create_schema(database, SAMPLE)
    return database


def put(name: str, value: int = 0, tenant: str = "default"):
    def unit(conn: Connection) -> int:
        conn.execute(insert(counters), {"tenant": tenant, "name": name, "value": value})
        return value

    return unit


def values(tenant: str = "default"):
    def unit(conn: Connection) -> dict[str, int]:
        found = conn.execute(
            select(counters.c.name, counters.c.value).where(counters.c.tenant == tenant)
        )
        return {row.name: row.value for row in found}

    return unit


def increment(conn: Connection) -> int:
    own = (counters.c.tenant == "default") & (counters.c.name == "n")
    now = conn.execute(select(counters.c.value).where(own)).scalar_one() + 1
    conn.execute(update(counters).where(own).values(value=now))
    return now


async def test_the_default_tenant_is_there_from_the_start(database: Database) -> None:
    assert await database.tenants() == ["default"]


async def test_whoever_has_written_is_among_the_tenants_that_loops_visit(db: Database) -> None:
    await db.read(OTHER, values("other"))
    assert await db.tenants() == ["default"]
    await db.write(OTHER, put("a", 7, "other"))
    await db.write(OTHER, put("b", 7, "other"))
    assert await db.tenants() == ["default", "other"]


async def test_a_write_answers_with_the_units_result_and_is_seen_by_the_next_read(
    db: Database,
) -> None:
    assert await db.write(ONE, put("a", 7)) == 7
    assert await db.read(ONE, values()) == {"a": 7}


async def test_of_concurrent_read_then_write_units_none_is_lost(db: Database) -> None:
    await db.write(ONE, put("n"))
    seen = await asyncio.gather(*(db.write(ONE, increment) for _ in range(60)))
    assert sorted(seen) == list(range(1, 61))


async def test_a_refused_unit_leaves_nothing_and_its_neighbours_stay(db: Database) -> None:
    def refused(conn: Connection) -> None:
        put("refused")(conn)
        raise NotFound("cannot find it")

    answers = await asyncio.gather(
        *(db.write(ONE, put(f"n{i}")) for i in range(10)),
        db.write(ONE, refused),
        *(db.write(ONE, put(f"m{i}")) for i in range(10)),
        return_exceptions=True,
    )
    assert isinstance(answers[10], NotFound)
    assert set(await db.read(ONE, values())) == {f"{c}{i}" for c in "nm" for i in range(10)}


async def test_a_foreign_error_of_a_unit_comes_out_as_it_is(db: Database) -> None:
    class OwnError(Exception):
        pass

    def unit(conn: Connection) -> None:
        put("gone")(conn)
        raise OwnError

    with pytest.raises(OwnError):
        await db.write(ONE, unit)
    with pytest.raises(OwnError):
        await db.read(ONE, lambda conn: (_ for _ in ()).throw(OwnError))
    assert await db.read(ONE, values()) == {}


async def test_a_taken_key_is_a_conflict(db: Database) -> None:
    await db.write(ONE, put("a"))
    with pytest.raises(Conflict):
        await db.write(ONE, put("a"))
    with pytest.raises(Conflict):
        await db.write(
            ONE, lambda conn: bulk_insert(conn, counters, COLUMNS, [("default", "a", 1)])
        )


async def test_a_row_that_names_no_other_is_a_defect_of_ours(db: Database) -> None:
    def unit(conn: Connection) -> None:
        conn.execute(insert(things), {"tenant": "default", "id": "x", "counter": "nobody"})

    with pytest.raises(Internal) as caught:
        await db.write(ONE, unit)
    assert "FOREIGN" in caught.value.internal.upper()


async def test_a_statement_that_fails_is_a_defect_and_says_nothing_of_itself(db: Database) -> None:
    with pytest.raises(Internal) as caught:
        await db.write(ONE, lambda conn: conn.execute(text("SELECT * FROM no_such_table")))
    assert "no_such_table" not in caught.value.detail
    assert "no_such_table" in caught.value.internal


async def test_a_unit_may_use_savepoints(db: Database) -> None:
    def unit(conn: Connection) -> None:
        put("kept")(conn)
        with suppress(ZeroDivisionError), conn.begin_nested():
            put("undone")(conn)
            raise ZeroDivisionError
        with conn.begin_nested():
            put("also kept")(conn)

    await db.write(ONE, unit)
    assert set(await db.read(ONE, values())) == {"kept", "also kept"}


async def test_a_savepoint_left_open_is_a_defect_and_leaves_nothing(db: Database) -> None:
    def unit(conn: Connection) -> None:
        conn.begin_nested()
        put("gone")(conn)

    with pytest.raises(Internal):
        await db.write(ONE, unit)
    assert await db.read(ONE, values()) == {}
    await db.write(ONE, put("next"))


async def test_going_on_after_a_failed_statement_loses_no_write_in_silence(db: Database) -> None:
    def unit(conn: Connection) -> None:
        put("before")(conn)
        try:
            conn.execute(text("SELECT * FROM no_such_table"))
        except Exception:
            return

    try:
        await db.write(ONE, unit)
        stored = {"before"}
    except Internal:
        stored = set()
    assert set(await db.read(ONE, values())) == stored


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(Unavailable):
        await db.read(ONE, put("never"))
    assert await db.read(ONE, values()) == {}


async def test_a_read_is_one_snapshot(db: Database) -> None:
    """Two looks of one read agree although a write commits between them."""
    await db.write(ONE, put("n"))
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[int] = loop.create_future()

    def look(conn: Connection) -> tuple[int, int]:
        first = values()(conn)["n"]
        # In a thread on SQLite, in a greenlet of this loop on PostgreSQL: so wait by a second
        # connection's own means, a write that was begun before.
        if db.dialect == "sqlite":
            asyncio.run_coroutine_threadsafe(db.write(ONE, increment), loop).result(10)
        else:
            from sqlalchemy.util import await_only

            await_only(db.write(ONE, increment))
        loop.call_soon_threadsafe(seen.set_result, first)
        return first, values()(conn)["n"]

    assert await db.read(ONE, look) == (0, 0)
    assert await seen == 0
    assert await db.read(ONE, values()) == {"n": 1}


COLUMNS = ("tenant", "name", "value")


async def test_many_rows_go_in_at_once_with_their_types(db: Database) -> None:
    rows = [("default", f"t{i}", None, 2**53 - 1, i % 2 == 0, bytes([i])) for i in range(200)] + [
        ("default", "ü", None, None, None, None)
    ]
    columns = ("tenant", "id", "counter", "size", "whole", "data")
    await db.write(ONE, lambda conn: bulk_insert(conn, things, columns, rows))

    def unit(conn: Connection) -> list[tuple[object, ...]]:
        found = conn.execute(
            select(things).where(things.c.tenant == "default").order_by(things.c.id)
        )
        return [tuple(row) for row in found]

    assert sorted(await db.read(ONE, unit)) == sorted(rows)


async def test_many_rows_may_skip_those_that_are_there(db: Database) -> None:
    await db.write(ONE, put("a", 1))
    rows = [("default", "a", 2), ("default", "b", 2)]
    await db.write(ONE, lambda conn: bulk_insert(conn, counters, COLUMNS, rows, skip_existing=True))
    assert await db.read(ONE, values()) == {"a": 1, "b": 2}


async def test_many_rows_need_their_tenant(db: Database) -> None:
    with pytest.raises(ValueError, match="tenant"):
        await db.write(ONE, lambda conn: bulk_insert(conn, counters, ("name", "value"), [("a", 1)]))


async def test_no_rows_are_no_work(db: Database) -> None:
    await db.write(ONE, lambda conn: bulk_insert(conn, counters, COLUMNS, []))
    assert await db.read(ONE, values()) == {}


async def test_upserts_and_deletes_are_one_text(db: Database) -> None:
    upsert = text(
        "INSERT INTO sample_counters (tenant, name, value) VALUES (:tenant, :name, 1)"
        " ON CONFLICT (tenant, name) DO UPDATE SET value = sample_counters.value + 1"
        " RETURNING value"
    )

    def unit(conn: Connection) -> int:
        return conn.execute(upsert, {"tenant": "default", "name": "u"}).scalar_one()

    assert [await db.write(ONE, unit) for _ in range(3)] == [1, 2, 3]
    gone = delete(counters).where(counters.c.tenant == "default", counters.c.name == "u")
    assert await db.write(ONE, lambda conn: conn.execute(gone).rowcount) == 1


async def test_a_tenant_that_is_no_id_is_refused(db: Database) -> None:
    for tenant in ("", "a'b", "x; SELECT 1", "A", "a" * 65):
        bad = operator(TenantId(tenant))
        with pytest.raises(Invalid):
            await db.write(bad, put("never"))
        with pytest.raises(Invalid):
            await db.read(bad, values())


async def test_a_cancelled_callers_unit_runs_whole_or_not_at_all(db: Database) -> None:
    def pair(i: int):
        def unit(conn: Connection) -> None:
            put(f"{i}a")(conn)
            put(f"{i}b")(conn)

        return unit

    tasks = [asyncio.ensure_future(db.write(ONE, pair(i))) for i in range(60)]
    for i, task in enumerate(tasks):
        await asyncio.sleep(0)
        if i % 3:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # What a cancelled caller left behind ends before the next write does.
    await db.write(ONE, put("last"))
    found = await db.read(ONE, values())
    for i, task in enumerate(tasks):
        assert (f"{i}a" in found) == (f"{i}b" in found)
        if not task.cancelled():
            assert f"{i}a" in found
    assert any(task.cancelled() for task in tasks)


async def test_it_is_ready_while_it_is_open(database_url: str) -> None:
    async with open_database(database_url, clock=SystemClock()) as handle:
        await handle.check()
    if handle.dialect == "sqlite":
        with pytest.raises(Unavailable):
            await handle.check()
        with pytest.raises(Unavailable):
            await handle.write(ONE, put("late"))
        with pytest.raises(Unavailable):
            await handle.read(ONE, values())


async def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    for url in ("mysql://x", "nonsense", "sqlite3:///x"):
        with pytest.raises(Invalid) as caught:
            async with open_database(url, clock=SystemClock()):
                pass
        assert "sqlite://" in caught.value.hint
        assert "postgresql://" in caught.value.hint
    for url in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        with pytest.raises(Invalid, match="a file is needed"):
            async with open_database(url, clock=SystemClock()):
                pass
