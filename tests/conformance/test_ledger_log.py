"""The promise of a log's driver (``holdfast.ledger.ports.Log``), on every backend."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import operator
from holdfast.ledger.backends.sql import SqlLog
from holdfast.ledger.errors import LogMoved, NotSequencer
from holdfast.ledger.ports import Log, StoredCommit

ONE, OTHER = operator(), operator(TenantId("other"))


@pytest.fixture
def log(database: Database) -> Log:
    return SqlLog(database)


def commit(first: int, count: int = 1, size: int = 10) -> StoredCommit:
    return StoredCommit(first, count, first.to_bytes(4, "big") * size)


async def test_an_append_is_at_the_end_or_not_at_all(log: Log) -> None:
    fence = await log.seize(ONE, "me")
    assert await log.end(ONE) == 0
    await log.append(ONE, commit(0, 3), fence)
    await log.append(ONE, commit(3, 2), fence)
    for wrong in (0, 3, 4, 6):
        with pytest.raises(LogMoved):
            await log.append(ONE, commit(wrong), fence)
    assert await log.end(ONE) == 5
    assert await log.read(ONE, 0, 10, 1 << 20) == [commit(0, 3), commit(3, 2)]


async def test_reading_begins_with_the_commit_that_holds_the_position(log: Log) -> None:
    fence = await log.seize(ONE, "me")
    for first in range(0, 12, 3):
        await log.append(ONE, commit(first, 3), fence)
    assert [c.first for c in await log.read(ONE, 4, 10, 1 << 20)] == [3, 6, 9]
    assert [c.first for c in await log.read(ONE, 6, 2, 1 << 20)] == [6, 9]
    assert [c.first for c in await log.read(ONE, 0, 10, 50)] == [0], "at least one, then by bytes"
    assert list(await log.read(ONE, 12, 10, 1 << 20)) == []
    assert list(await log.read(ONE, 99, 10, 1 << 20)) == []


async def test_of_many_appends_at_one_place_one_wins(log: Log) -> None:
    fence = await log.seize(ONE, "me")
    wanted = [log.append(ONE, commit(0, 1, size), fence) for size in range(1, 17)]
    outcomes = await asyncio.gather(*wanted, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(o, Conflict) for o in outcomes if o is not None), outcomes
    assert await log.end(ONE) == 1


async def test_whoever_seizes_the_log_shuts_the_one_before_out(log: Log) -> None:
    before = await log.seize(ONE, "first")
    await log.append(ONE, commit(0), before)
    after = await log.seize(ONE, "second")
    assert after > before
    with pytest.raises(NotSequencer):
        await log.append(ONE, commit(1), before)
    await log.append(ONE, commit(1), after)
    assert await log.end(ONE) == 2


async def test_tenants_have_logs_of_their_own(log: Log) -> None:
    mine, theirs = await log.seize(ONE, "me"), await log.seize(OTHER, "me")
    await log.append(ONE, commit(0, 2), mine)
    assert await log.end(OTHER) == 0
    assert list(await log.read(OTHER, 0, 10, 1 << 20)) == []
    await log.append(OTHER, commit(0), theirs)
    assert (await log.end(ONE), await log.end(OTHER)) == (2, 1)


async def test_what_goes_beside_an_append_is_there_with_it_or_not_at_all(
    log: Log, database: Database
) -> None:
    fence = await log.seize(ONE, "me")
    insert = text(
        "INSERT INTO ledger_index (tenant, size, recorded, payload_bytes)"
        " VALUES (:tenant, 1, 'now', 0)"
    )
    count = text("SELECT count(*) FROM ledger_index WHERE tenant = :tenant")

    def failing(conn) -> None:
        conn.execute(insert, {"tenant": ONE.tenant})
        raise Conflict("cannot do this: the test says so")

    with pytest.raises(Conflict, match="the test says so"):
        await log.append(ONE, commit(0), fence, failing)
    assert await log.end(ONE) == 0
    await log.append(ONE, commit(0), fence, lambda c: c.execute(insert, {"tenant": ONE.tenant}))
    found = await database.read(
        ONE, lambda conn: conn.execute(count, {"tenant": ONE.tenant}).scalar_one()
    )
    assert (await log.end(ONE), found) == (1, 1)


async def test_what_changes_beside_the_log_is_held_to_the_fence_until_it_is_committed(
    log: Log, database: Database
) -> None:
    """Of many that read and then write none is lost: each waits for the one before it."""
    size = text("SELECT size FROM ledger_index WHERE tenant = :tenant")
    values = {"tenant": ONE.tenant}

    def one_more(conn) -> int:
        found = conn.execute(size, values).scalar_one_or_none() or 0
        conn.execute(
            text(
                "INSERT INTO ledger_index (tenant, size, recorded, payload_bytes)"
                " VALUES (:tenant, :size, '', 0)"
                " ON CONFLICT (tenant) DO UPDATE SET size = excluded.size"
            ),
            values | {"size": found + 1},
        )
        return found + 1

    fence = await log.seize(ONE, "me")
    counted = await asyncio.gather(*(log.fenced(ONE, fence, one_more) for _ in range(16)))
    assert sorted(counted) == list(range(1, 17))
    await log.seize(ONE, "another")
    with pytest.raises(NotSequencer):
        await log.fenced(ONE, fence, one_more)
    assert await database.read(ONE, lambda conn: conn.execute(size, values).scalar_one()) == 16


async def test_a_cut_forgets_what_follows_and_no_more(log: Log) -> None:
    fence = await log.seize(ONE, "me")
    for first in (0, 2, 4):
        await log.append(ONE, commit(first, 2), fence)
    await log.cut(ONE, 4, fence)
    assert await log.end(ONE) == 4
    await log.append(ONE, commit(4, 1), fence)
    assert await log.end(ONE) == 5

    def failing(conn) -> None:
        raise Conflict("cannot do this: the test says so")

    with pytest.raises(Conflict, match="the test says so"):
        await log.cut(ONE, 2, fence, failing)
    await log.seize(ONE, "another")
    with pytest.raises(NotSequencer):
        await log.cut(ONE, 2, fence)
    assert await log.end(ONE) == 5
