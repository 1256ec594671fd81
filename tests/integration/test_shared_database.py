"""Roles on one database have one outbox, and so one keyring: whoever brings another is stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from holdfast.app.backup import restore as restoring
from holdfast.app.backup.restore import Restored, nothing, restore, verify
from holdfast.app.commands.backup import _check_records
from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, Settings, resolve
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import BEGINNING, SEALED_ELSEWHERE, Event, Outbox
from holdfast.kernel.principal import service
from holdfast.kernel.telemetry import Metrics
from holdfast.keyring import Keyring
from holdfast.keyring.errors import KeyringForeign
from holdfast.keyring.model import EraseRequest
from holdfast.keyring.sealer import EnvelopeSealer
from holdfast.leases import MemoryLeases
from holdfast.ledger.relay import Relay, RelayMetrics
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
    key = (tmp_path / "registry" / "keys" / "master.key").read_text()  # the hint's way on
    told = at(tmp_path / "coordinator", postgres_url, keyring_master_key=key)
    async with open_system(told, ["coordinator"]):
        pass
    assert await schemas(postgres_url) == before
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


async def test_an_event_that_another_keyring_has_sealed_waits_for_whoever_can_open_it(
    tmp_path: Path,
) -> None:
    here = at(tmp_path / "here", f"sqlite:///{tmp_path / 'here' / 'holdfast.db'}")
    there = at(tmp_path / "there", f"sqlite:///{tmp_path / 'there' / 'holdfast.db'}")
    async with open_system(here, ROLES) as one, open_system(there, ROLES) as other:
        assert one.ledger is not None

        def relay(keyring: Keyring) -> Relay:
            outbox, metrics = Outbox(EnvelopeSealer(keyring)), RelayMetrics(Metrics())
            leases, ledger = MemoryLeases(one.clock), one.ledger
            return Relay(
                one.state.database, outbox, ledger, leases, one.clock, holder="x", metrics=metrics
            )

        who = service("relay", "default")
        mine, foreign = relay(one.state.keyring), relay(other.state.keyring)
        while await mine.step(who):
            pass
        await one.registry.publish(ME, PROFILE)
        for _ in range(2):
            with pytest.raises(Corrupt, match="sealed under another keyring"):
                await foreign.step(who)
            waiting, _, dead = await foreign.measure()
            assert (waiting, dead) == (1, 0)
        found = await verify(one, nothing)
        assert (found.events, found.elsewhere) == (1, [])
        elsewhere = Outbox(EnvelopeSealer(other.state.keyring))
        state = replace(one.state, outbox=elsewhere)
        found = await verify(replace(one, state=state), nothing)
        assert (found.events, len(found.elsewhere)) == (1, 1)
        told = Restored(
            backup="b",
            created_at="",
            data_dir="",
            objects=0,
            unpack_seconds=0,
            open_seconds=0,
            verify_seconds=0,
            verified=found,
        )
        with pytest.raises(Corrupt, match=found.elsewhere[0]) as refused:
            _check_records(told)
        assert refused.value.code == SEALED_ELSEWHERE
        assert await mine.step(who) == 1


async def test_only_who_is_erased_on_record_makes_an_event_unreadable(tmp_path: Path) -> None:
    here = at(tmp_path / "here", f"sqlite:///{tmp_path / 'here' / 'holdfast.db'}")
    there = at(tmp_path / "there", f"sqlite:///{tmp_path / 'there' / 'holdfast.db'}")
    async with open_system(here, ROLES) as one, open_system(there, ROLES) as other:
        jane = one.state.keyring.subject_token("default", "jane")
        event = Event(
            id=EventId(one.new_id()),
            stream="test/jane",
            type="test.happened",
            time=one.clock.now(),
            payload={"name": "Jane"},
            about=jane,
        )
        mine, foreign = (Outbox(EnvelopeSealer(each.state.keyring)) for each in (one, other))
        await one.state.database.write(ME, lambda conn: mine.emit(conn, ME, event))

        async def erased(outbox: Outbox) -> dict[str, bool]:
            found = await one.state.database.read(
                ME, lambda conn: outbox.ready(conn, ME, BEGINNING, 100)
            )
            return {entry.event.id: entry.erased for entry in found}

        assert not (await erased(mine))[event.id]
        with pytest.raises(Corrupt, match="sealed under another keyring"):
            await erased(foreign)
        await one.subjects.erase(ME, EraseRequest(subject="jane", reason="asked"))
        assert (await erased(mine))[event.id]
        with pytest.raises(Corrupt, match="sealed under another keyring"):
            await erased(foreign)


async def test_of_a_database_without_a_first_keyring_who_was_there_alone_is_the_owner(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = await postgres.fresh_database("template0")
    url = postgres.dsn(name)
    owner = at(tmp_path / "registry", url)
    async with open_system(owner, ["registry"]):
        pass
    await unmark(url)
    with pytest.raises(KeyringForeign, match="under a keyring of its own"):
        async with open_system(at(tmp_path / "aggregator", url), ["aggregator"]):
            pytest.fail("it started")
    for roles in (ROLES, ["registry"]):  # a command opens all, in the place of the one
        async with open_system(owner, roles):
            pass
    assert await schemas(url) == ["holdfast_keyring_registry"]
    await postgres.drop_database(name)


async def test_of_several_keyrings_from_before_the_aggregators_stays(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = await postgres.fresh_database("template0")
    url = postgres.dsn(name)
    for role in ("registry", "aggregator"):
        async with open_system(at(tmp_path / role, url), [role]):
            pass
        await unmark(url, hide=role == "registry")
    await unhide(url)
    with pytest.raises(KeyringForeign, match="aggregator") as refused:
        async with open_system(at(tmp_path / "registry", url), ["registry"]):
            pytest.fail("it started")
    assert refused.value.hint is not None
    assert "database of its own" in refused.value.hint
    async with open_system(at(tmp_path / "aggregator", url), ["aggregator"]):
        pass
    await postgres.drop_database(name)


async def test_a_restore_that_is_killed_before_it_opens_leaves_its_keyring_marked(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [await postgres.fresh_database("template0") for _ in range(2)]
    here, there = (at(tmp_path / name[-4:], postgres.dsn(name)) for name in names)
    async with open_system(here, ["registry"]) as system:
        await system.registry.publish(ME, PROFILE)
    async with open_system(here, ROLES) as system:
        await unmark(postgres.dsn(names[0]))
        backup = await back_up(system)
    there.keys_dir.mkdir(parents=True)
    shutil.copy2(here.keys_dir / "master.key", there.keys_dir)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "_reopened", killed)
    with pytest.raises(KeyboardInterrupt):
        await restore(there, Path(backup.data_file), Path(backup.keys_file))
    async with open_system(there, ["registry"]) as system:
        assert (await system.registry.status(ME, "clinic")).name == "clinic"
    assert await schemas(postgres.dsn(names[1])) == ["holdfast_keyring_aggregator"]
    for name in names:
        await postgres.drop_database(name)


UNMARK = "DELETE FROM secret_checks WHERE holder LIKE 'first %'"
HIDE = "UPDATE secret_checks SET holder = 'hidden ' || holder WHERE holder LIKE 'keyring of %'"
UNHIDE = "UPDATE secret_checks SET holder = substr(holder, 8) WHERE holder LIKE 'hidden %'"


async def unmark(url: str, *, hide: bool = False) -> None:
    """As it was before the first keyring was noted; ``hide``: and before this role came."""
    await execute(url, UNMARK, *([HIDE] if hide else []))


async def unhide(url: str) -> None:
    await execute(url, UNHIDE)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("ALTER TABLE secret_checks NO FORCE ROW LEVEL SECURITY")
            for statement in statements:
                await connection.execute(statement)
            await connection.execute("ALTER TABLE secret_checks FORCE ROW LEVEL SECURITY")
    finally:
        await connection.close()
