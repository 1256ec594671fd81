"""An older backup on a machine that does not know what was published since: its logs are read-only,
what the roles have to say waits, and there are two ways on. By the program's own restore."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text

from holdfast.app.backup.create import Backup, BackupService
from holdfast.app.backup.origins import mark_file
from holdfast.app.backup.restore import Restored, drill, restore
from holdfast.app.commands.backup import _say_logs
from holdfast.app.compose import open_system
from holdfast.app.resting import at_rest
from holdfast.app.settings import ROLES, Settings, resolve
from holdfast.app.system import System
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.outbox import BEGINNING, Event
from holdfast.kernel.principal import operator, service
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import SqlLeases
from holdfast.ledger import notes, store
from holdfast.ledger.errors import LedgerReadOnly
from holdfast.ledger.model import LOST_TAIL, PUBLISHED_UNKNOWN, Append, NewEvent
from holdfast.ledger.relay import Relay, RelayMetrics
from holdfast.ledger.store import RestoredFrom
from holdfast.migrations import runner
from tests.support.postgres import PostgresServer
from tests.support.program import clean_environment

ME = operator()


def noted(number: int) -> Append:
    """An event for the log."""
    return Append(events=[NewEvent(stream="notes/a", type="note.added", payload={"n": number})])


@dataclass
class World:
    """A system whose log was signed, copied, and signed again; where its copies may go."""

    folder: Path
    postgres: PostgresServer | None
    databases: list[str]
    backup: Backup
    """From between the two checkpoints."""
    known: notes.Checkpoint
    last: notes.Checkpoint
    newest: Backup
    """From after the last."""

    async def machine(
        self, name: str, *, database: str = "", beside: Settings | None = None
    ) -> Settings:
        """Settings of a machine that has the master key and nothing else, or shares the keys of
        the one it is beside."""
        given = {"data_dir": str(self.folder / name), "log_level": "error"}
        if beside is not None:
            given["keys_dir"] = str(beside.keys_dir)
            given["secrets_dir"] = str(beside.secrets_dir)
        if self.postgres is not None:
            if not database:
                database = await self.postgres.fresh_database("template0")
                self.databases.append(database)
            given |= {"database_url": self.postgres.dsn(database), "database_unflushed": "true"}
        settings = resolve({}, given)
        if name != "old" and beside is None:
            settings.keys_dir.mkdir(parents=True)
            shutil.copy2(self.folder / "old" / "keys" / "master.key", settings.keys_dir)
        return settings

    def files(self, backup: Backup | None = None) -> tuple[Path, Path]:
        backup = backup or self.backup
        return Path(backup.data_file), Path(backup.keys_file)


async def signed(system: System) -> notes.Checkpoint:
    note = await system.ledger.checkpoint(ME)
    return notes.parse_checkpoint(notes.parse_note(note).text)


async def backed_up(system: System) -> Backup:
    assert system.state is not None
    backups = BackupService(system, system.state)
    made = await backups.ended((await backups.start(ME)).id)
    assert made.state == "done", made.problem
    return made


@asynccontextmanager
async def world_on(folder: Path, postgres: PostgresServer | None) -> AsyncIterator[World]:
    nothing: Any = None
    world = World(folder, postgres, [], nothing, nothing, nothing, nothing)
    try:
        async with open_system(await world.machine("old"), ROLES) as system:
            await system.ledger.append(ME, noted(1))
            world.known = await signed(system)
            world.backup = await backed_up(system)
            await system.ledger.append(ME, noted(2))
            world.last = await signed(system)
            world.newest = await backed_up(system)
        yield world
    finally:
        for name in world.databases:
            assert postgres is not None
            await postgres.drop_database(name)


@pytest.fixture(scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world_on(tmp_path_factory.mktemp("embedded"), None) as made:
        yield made


@pytest.fixture(scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> AsyncIterator[World]:
    async with world_on(tmp_path_factory.mktemp("served"), postgres) as made:
        yield made


@pytest.fixture(params=["embedded", "served"], ids=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> World:
    """One that all tests of an engine share: each has machines of its own."""
    made: World = request.getfixturevalue(request.param)
    return made


async def relayed(system: System) -> None:
    """Bring what waits to the ledger, as the relay does."""
    assert system.state is not None
    state, clock = system.state, system.clock
    relay = Relay(
        state.database,
        state.outbox,
        system.ledger,
        SqlLeases(state.database, clock),
        clock,
        holder="a-test",
        metrics=RelayMetrics(Metrics()),
    )
    while await relay.step(service("relay")):
        pass


async def waiting(system: System) -> int:
    """How many events wait for the ledger."""
    assert system.state is not None
    state = system.state
    return len(
        await state.database.read(ME, lambda conn: state.outbox.ready(conn, ME, BEGINNING, 100))
    )


async def check_stopped(settings: Settings, world: World) -> None:
    """Nothing is appended or signed; what is there is read and proven; what roles say waits."""
    async with open_system(settings, ROLES) as system:
        with pytest.raises(LedgerReadOnly, match=f"restored from the backup {world.backup.id}"):
            await system.ledger.append(ME, noted(3))
        status = await system.ledger.status(ME)
        assert status.damage is not None
        assert (status.writable, status.damage.reason) == (False, PUBLISHED_UNKNOWN)
        assert await system.checks["ledger"]() == "degraded"
        assert (await system.ledger.entry(ME, 0)).payload == {"n": 1}
        assert await signed(system) == world.known
        assert (await system.ledger.inclusion(ME, 0)).root == world.known.root.hex()
        assert system.state is not None
        state = system.state
        event = Event(
            id=system.new_id(),
            stream="run/one",
            type="run.began",
            time=system.clock.now(),
            payload={"n": 1},
            subject="a-role",
            request_id="",
        )

        def emit(conn: Connection) -> None:
            state.outbox.emit(conn, ME, event)

        await state.database.write(ME, emit)
        with pytest.raises(LedgerReadOnly):
            await relayed(system)
        assert await waiting(system)


async def test_without_what_was_published_a_log_is_read_only_everywhere_until_a_new_origin(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = await world.machine("stopped")
    done = await restore(settings, *world.files())
    assert (done.verified.ledger_code, done.origins) == (PUBLISHED_UNKNOWN, [])
    [log] = done.read_only
    assert (log.tenant, log.reason) == (ME.tenant, PUBLISHED_UNKNOWN)
    assert log.published_size == world.known.size
    _say_logs(done, " --data-dir new")
    said = capsys.readouterr().err
    for words in ("the log of default is read-only", world.backup.id, "cp -a OLD/published"):
        assert words in said
    assert 'holdfast ledger restart --reason "…" --data-dir new' in said
    await check_stopped(settings, world)
    machines = [settings]
    if world.postgres is not None:  # another machine on the same database
        second = await world.machine("second", database=world.databases[-1], beside=settings)
        await check_stopped(second, world)
        machines.append(second)
    else:
        found = {one.check: one for one in at_rest(settings, SystemClock().now(), deep=False)}
        assert (found["ledger"].outcome, world.backup.id in found["ledger"].detail) == (
            "fail",
            True,
        )
        assert "published/" in found["ledger"].hint
    async with open_system(machines[-1], ROLES) as system:
        after = await system.ledger.restart(ME, "the machine of the test")
        assert (after.writable, after.damage) == (True, None)
        told = await signed(system)
        assert told.origin == after.origin != world.last.origin
        await relayed(system)
        assert await waiting(system) == 0
        streams = [each.stream for each in (await system.ledger.read(ME)).items]
        assert streams.count("run/one") == len(machines)
    for each in machines:
        async with open_system(each, ROLES) as system:
            await system.ledger.append(ME, noted(4))


async def test_a_restore_that_is_told_so_goes_on_under_a_new_origin_at_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = await world.machine("anew")
    done = await restore(settings, *world.files(), new_origin=True)
    assert (done.verified.ledger, done.verified.ledger_code, done.read_only) == ("sound", "", [])
    [begun] = done.origins
    assert (begun.cites, begun.cites_size) == (world.known.origin, world.known.size)
    _say_logs(done, "")
    assert f"goes on as {begun.origin}" in capsys.readouterr().err
    async with open_system(settings, ROLES) as system:
        await system.ledger.append(ME, noted(3))
        told = await signed(system)
        assert (told.origin, told.size) == (begun.origin, begun.size + 1)


async def test_what_was_published_is_brought_and_stands_against_an_older_log(
    world: World,
) -> None:
    """More was published than the backup has: that is said, and a new origin is the way on."""
    settings = await world.machine("told")
    await restore(settings, *world.files())
    shutil.copytree(world.folder / "old" / "published", settings.data_dir / "published")
    async with open_system(settings, ROLES) as system:
        with pytest.raises(LedgerReadOnly, match=f"knows of {world.last.size} entries"):
            await system.ledger.append(ME, noted(3))
        status = await system.ledger.status(ME)
        assert status.damage is not None
        assert status.damage.reason == LOST_TAIL


async def test_a_log_whose_last_checkpoint_the_backup_has_goes_on_where_that_is_known(
    embedded: World,
) -> None:
    """Brought from the old machine, or there already: then all is as it was."""
    world, published = embedded, embedded.folder / "old" / "published"
    there, brought = await world.machine("there"), await world.machine("brought")
    shutil.copytree(published, there.data_dir / "published")
    done = await restore(there, *world.files(world.newest))
    assert (done.verified.ledger, done.read_only) == ("sound", [])
    done = await restore(brought, *world.files(world.newest))
    assert [each.reason for each in done.read_only] == [PUBLISHED_UNKNOWN]
    shutil.copytree(published, brought.data_dir / "published")
    for settings in (there, brought):
        async with open_system(settings, ROLES) as system:
            await system.ledger.append(ME, noted(3))
            assert (await signed(system)).origin == world.last.origin


async def test_a_drill_tells_of_a_sound_log_and_leaves_none_that_could_be_signed(
    world: World,
) -> None:
    settings = await world.machine("old", database=world.databases[0] if world.databases else "")
    done: Restored = await drill(settings, *world.files(), world.folder / "scratch")
    assert (done.verified.ledger, done.verified.ledger_code, done.read_only) == ("sound", "", [])
    assert not (world.folder / "scratch").exists()


DEATHS = {"os.remove .killed": PUBLISHED_UNKNOWN, "open default.head": "restart-broke-off"}
"""As the data is in its place, and as the old origin has ended: what the log then says."""


@pytest.mark.parametrize("when", DEATHS)
async def test_a_restore_that_is_killed_before_the_new_origin_is_told_of_leaves_a_read_only_log(
    embedded: World, tmp_path: Path, when: str
) -> None:
    settings = await embedded.machine(f"killed-{DEATHS[when]}")
    data, keys = embedded.files()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying", str(tmp_path / "moments"), when,
         "backup", "restore", str(data), "--keys", str(keys), "--new-origin",
         "--data-dir", str(settings.data_dir)],
        env=clean_environment({"HOLDFAST_LOG_LEVEL": "error"}),
        capture_output=True, timeout=240, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    async with open_system(settings, ROLES) as system:
        with pytest.raises(LedgerReadOnly):
            await system.ledger.append(ME, noted(3))
        status = await system.ledger.status(ME)
        assert status.damage is not None
        assert status.damage.reason == DEATHS[when]
        after = await system.ledger.restart(ME, "the kill of the test")
        assert after.writable
        assert (await signed(system)).origin == after.origin != embedded.last.origin


async def test_the_logs_of_a_backup_from_before_the_mark_are_marked_too(tmp_path: Path) -> None:
    """Its schema is brought here first: the place for the mark is of this release."""
    path, url = tmp_path / "holdfast.db", f"sqlite:///{tmp_path / 'holdfast.db'}"
    with runner._file_connection(path) as conn:
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        conn.execute(text("SELECT 1"))
        command.upgrade(runner.configuration(conn), "0027")
        conn.exec_driver_sql("INSERT INTO schema_state VALUES (1, '0027', '0.1.0', '')")
        conn.exec_driver_sql(
            "INSERT INTO ledger_checkpoints (tenant, origin, size, root, note, published_at)"
            " VALUES ('default', 'here', 4, x'00', '', '')"
        )
        conn.exec_driver_sql("COMMIT")
    for backup in ("one", "two"):
        await mark_file(path, RestoredFrom(backup, "then"))
        async with open_database(url, clock=SystemClock()) as database:
            found = await database.read(ME, lambda conn: store.find_restored(conn, ME.tenant))
        assert found == RestoredFrom(backup, "then")
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == []
