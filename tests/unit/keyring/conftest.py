"""A keyring's store, once on SQLite and once on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.keyring.backends import open_store
from holdfast.keyring.ports import KeyStore
from tests.support.postgres import PostgresServer, run_apart


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'keyring.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    made: list[str] = []

    async def make() -> None:
        made.append(await server.fresh_database())

    run_apart(make)
    yield server.dsn(made[0])
    run_apart(lambda: server.drop_database(made[0]))


@pytest.fixture
def store(store_url: str) -> Iterator[KeyStore]:
    opened = open_store(store_url)
    yield opened
    opened.close()
