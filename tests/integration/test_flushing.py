"""A PostgreSQL server that may lose what it acknowledged is not taken in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.app.compose import open_system
from holdfast.app.settings import resolve
from holdfast.kernel.database.flushing import unflushed
from holdfast.kernel.errors import Unavailable, Unsupported
from tests.support.postgres import PostgresServer, postgres_server


async def started(folder: Path, **given: str) -> Any:
    """What the check of a started ledger says; None where there is none."""
    settings = resolve({}, {"data_dir": str(folder), "log_level": "error", **given})
    async with open_system(settings, {"ledger"}) as system:
        check = system.checks.get("durability")
        return check and await check()


async def test_a_server_that_does_not_flush_stops_the_start_unless_that_is_meant(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    assert not postgres.durable
    name = await postgres.fresh_database("template0")
    places = {"database_url": postgres.dsn(name)}, {"keyring_url": postgres.dsn(name)}
    try:
        for number, place in enumerate(places):
            with pytest.raises(Unsupported) as raised:
                await started(tmp_path / str(number), **place)
            assert raised.value.code == "database-unflushed"
            assert "fsync and full_page_writes off" in raised.value.detail
            assert "HOLDFAST_DATABASE_UNFLUSHED" in raised.value.hint
        assert await unflushed(postgres.dsn(name)) == ["fsync", "full_page_writes"]
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert await postgres.value(tables, database=name) == 0, "it wrote before it refused"
        taken = {"database_unflushed": "true"} | places[0]
        assert await started(tmp_path / "taken", **taken) == "degraded"
    finally:
        await postgres.drop_database(name)
    assert await started(tmp_path / "embedded") is None


async def test_one_that_flushes_is_taken_and_one_that_is_not_there_is_said_to_be(
    tmp_path: Path,
) -> None:
    with postgres_server(durable=True) as server:
        assert await unflushed(server.dsn()) == []
        assert await started(tmp_path, database_url=server.dsn()) is None
        gone = server.dsn()
    with pytest.raises(Unavailable):
        await unflushed(gone)
