"""A keyring's store, once on SQLite and once on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.keyring.backends import open_store
from holdfast.keyring.ports import KeyStore
from tests.support.postgres import PostgresServer, run_apart

StoreFiles = Callable[[bytes], list[Path]]
"""Those of the store's files that have these bytes in them."""


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


@pytest.fixture
def store_files(
    request: pytest.FixtureRequest, store: KeyStore, store_url: str, tmp_path: Path
) -> StoreFiles:
    """Of a server everything but its write-ahead log, as a checkpoint leaves it on the disk."""
    if not store_url.startswith("postgresql:"):
        folder = tmp_path
        return lambda wanted: having(wanted, folder)
    server: PostgresServer = request.getfixturevalue("postgres")

    def found(wanted: bytes) -> list[Path]:
        server.execute("CHECKPOINT")
        return [each for each in having(wanted, server.folder) if "pg_wal" not in each.parts]

    return found


def having(wanted: bytes, folder: Path) -> list[Path]:
    """The files below that have these bytes in them."""
    return [each for each in sorted(folder.rglob("*")) if each.is_file() and wanted in read(each)]


def read(path: Path) -> bytes:
    """What is in it; nothing if it went away meanwhile."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""
