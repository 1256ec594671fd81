"""The promises of the handle that hold on both engines."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from holdfast.kernel.database import Database
from holdfast.kernel.principal import operator

ONE = operator()


async def test_it_seeds_the_default_tenant(database: Database) -> None:
    assert await database.tenants() == ["default"]


async def test_no_increment_is_lost(database: Database) -> None:
    def start(conn):
        conn.execute(text("INSERT INTO outbox_position (tenant, sequence) VALUES ('default', 0)"))

    def increment(conn):
        found = conn.execute(
            text("SELECT sequence FROM outbox_position WHERE tenant = 'default'")
        ).scalar_one()
        conn.execute(
            text("UPDATE outbox_position SET sequence = :n WHERE tenant = 'default'"),
            {"n": found + 1},
        )
        return found + 1

    await database.write(ONE, start)
    seen = await asyncio.gather(*(database.write(ONE, increment) for _ in range(40)))
    assert sorted(seen) == list(range(1, 41))
