"""Roles on one database have one outbox, and so one keyring: whoever brings another is stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from holdfast.app.backup.restore import restore
from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, Settings, resolve
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.outbox import BEGINNING, Outbox
from holdfast.keyring.errors import KeyringForeign
from holdfast.keyring.sealer import EnvelopeSealer
from tests.integration.test_backup import ME, PROFILE, back_up
from tests.support.postgres import PostgresServer


def at(folder: Path, url: str, **more: str) -> Settings:
    given = {"data_dir": str(folder), "database_url": url, "database_unflushed": "true"}
    return resolve({}, given | {"log_level": "error", **more})


async def test_a_role_with_a_keyring_of_its_own_does_not_start_on_anothers_database(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = await postgres.fresh_database("template0")
    postgres_url = postgres.dsn(name)
    async with open_system(at(tmp_path / "registry", postgres_url), ["registry"]):
        pass
    before = await schemas(postgres_url)
    for _ in range(2):
        with pytest.raises(KeyringForeign, match="under a keyring of its own"):
            async with open_system(at(tmp_path / "coordinator", postgres_url), ["coordinator"]):
                pytest.fail("it started")
    assert await schemas(postgres_url) == before, "it has made a keyring"
    assert not (tmp_path / "coordinator" / "keys" / "master.key").exists()
    async with open_system(at(tmp_path / "registry", postgres_url), ["registry"]):
        pass  # who was there first goes on
    await postgres.drop_database(name)


async def test_what_a_command_backs_up_at_a_role_comes_back_with_its_keyring(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """A command opens every role, on the keyring of the one that is there."""
    names = [await postgres.fresh_database("template0") for _ in range(2)]
    here, there = (at(tmp_path / name[-4:], postgres.dsn(name)) for name in names)
    async with open_system(here, ["registry"]) as system:
        await system.registry.publish(ME, PROFILE)
    async with open_system(here, ROLES) as system:
        backup = await back_up(system)
    assert await schemas(postgres.dsn(names[0])) == ["holdfast_keyring_registry"]
    there.keys_dir.mkdir(parents=True)
    shutil.copy2(here.keys_dir / "master.key", there.keys_dir)
    await restore(there, Path(backup.data_file), Path(backup.keys_file))
    async with open_system(there, ["registry"]) as system:
        assert (await system.registry.status(ME, "clinic")).name == "clinic"
    for name in names:
        await postgres.drop_database(name)


async def schemas(url: str) -> list[str]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch("SELECT nspname FROM pg_namespace ORDER BY nspname")
    finally:
        await connection.close()
    return [str(row["nspname"]) for row in found if "keyring" in row["nspname"]]


async def test_an_event_that_another_keyring_has_sealed_is_kept_and_not_taken_for_erased(
    tmp_path: Path,
) -> None:
    here = at(tmp_path / "here", f"sqlite:///{tmp_path / 'here' / 'holdfast.db'}")
    there = at(tmp_path / "there", f"sqlite:///{tmp_path / 'there' / 'holdfast.db'}")
    async with open_system(here, ["registry"]) as one, open_system(there, ["registry"]) as other:
        await one.registry.publish(ME, PROFILE)
        foreign = Outbox(EnvelopeSealer(other.state.keyring))
        with pytest.raises(Corrupt, match="sealed under another keyring"):
            await one.state.database.read(ME, lambda conn: foreign.ready(conn, ME, BEGINNING, 10))
        mine = one.state.outbox
        (entry,) = await one.state.database.read(
            ME, lambda conn: mine.ready(conn, ME, BEGINNING, 10)
        )
        assert not entry.erased
