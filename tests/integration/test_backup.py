"""Backups of a whole system: made while it runs, restored elsewhere, refused when not whole.

One system with a person in it serves all tests: collected, backed up, erased, backed up again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from inspect import getclosurevars
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, select, text

from holdfast.app.backup import postgres as postgresql
from holdfast.app.backup.create import Backup, BackupService
from holdfast.app.backup.http import handlers as backup_handlers
from holdfast.app.backup.objects import ObjectChecks
from holdfast.app.backup.restore import Confirmed, Restored, drill, restore, verify
from holdfast.app.commands.backup import _check_records, _tell_lists
from holdfast.app.compose import open_system
from holdfast.app.resting import at_rest
from holdfast.app.settings import ROLES, Settings, resolve
from holdfast.app.system import System
from holdfast.fleet.grants import sign_grant
from holdfast.fleet.model import Grant
from holdfast.identity.model import ApiKeyCreate
from holdfast.kernel.clock import SystemClock, timestamp
from holdfast.kernel.errors import Conflict, Corrupt, Denied, HoldfastError, Invalid, NotFound
from holdfast.kernel.outbox import BEGINNING
from holdfast.kernel.principal import PrincipalKind, operator
from holdfast.kernel.signing import SigningKey
from holdfast.keyring import MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.keyring.envelope import key_id_of
from holdfast.keyring.errors import SubjectHeld
from holdfast.keyring.http import key_handlers
from holdfast.keyring.lines import ERASURES, RESTRICTIONS
from holdfast.keyring.model import EraseRequest, KeysHandled, SubjectRequest
from holdfast.keyring.noting import KeyNotes
from holdfast.ledger.model import NO_KEY, Append, NewEvent
from holdfast.ledger.store import RestoredFrom
from holdfast.records import store
from holdfast.records.model import (
    Batch,
    MappedRecord,
    RawResponse,
    Record,
    RecordFilter,
    RunFinish,
    RunOpen,
)
from tests.support.postgres import PostgresServer
from tests.support.program import clean_environment
from tests.support.signing import PUBLIC_KEY, REGISTRATION, signed
from tests.support.soaking import scale

ME = operator()
JANE, JOE = "jane.doe@example.org", "joe.bloggs@example.org"
PROFILE = b"""
version: 1
name: clinic
title: Visits
publisher: A clinic
licence: Public domain
source:
  url: https://example.org/visits.json
  format: {type: json}
key: [dimensions.patient]
dimensions: {patient: $.patient, ward: $.ward}
attributes: {note: $.note}
subject: dimensions.patient
personal: [attributes.note]
"""


AN_INSTANCE = {"tenant": ME.tenant, "instance": "elsewhere"}
LIVES = text(
    "INSERT INTO lease_instances"
    " (tenant, role, instance, incarnation, shared, started_at, expires_at)"
    " VALUES (:tenant, 'coordinator', :instance, 'x', false, '2026-01-01T00:00:00.000000Z',"
    " '2999-01-01T00:00:00.000000Z')"
)
GONE = text("DELETE FROM lease_instances WHERE tenant = :tenant AND instance = :instance")


def settings_in(folder: Path) -> Settings:
    return resolve({}, {"data_dir": str(folder), "log_level": "error"})


async def collect(system: System, *people: str) -> str:
    """A run with one page for each person; its id."""
    run, now = system.new_id(), system.clock.now()
    version = await system.registry.show(ME, "clinic")
    claim = Grant(
        tenant=ME.tenant,
        task=system.new_id(),
        run=run,
        profile="clinic",
        digest=version.digest,
        worker="worker-1",
        fence=1,
        lease_expires_at=timestamp(now + timedelta(minutes=5)),
        key=PUBLIC_KEY,
        registration=REGISTRATION,
    )
    coordinator = SigningKey.load_or_create(system.settings.keys_dir / "coordinator.key.jwk")
    grant = sign_grant(coordinator, claim, now)
    await system.records.open(ME, grant, RunOpen(run=run, fence=1))
    for number, who in enumerate(people):
        body = f"a page that names {who}".encode()
        response = RawResponse(
            sequence=number,
            digest=f"sha256:{hashlib.sha256(body).hexdigest()}",
            size_bytes=len(body),
            url=f"https://example.org/{number}",
            address="192.0.2.1:443",
            status=200,
            media_type="application/json",
            etag="",
            fetched_at=timestamp(now),
        )
        await system.records.put_response(ME, grant, run, response, body)
        record = MappedRecord(
            response=number,
            position=0,
            key=[who],
            dimensions={"patient": who, "ward": "north"},
            attributes={"note": f"a note on {who}"},
        )
        batch = Batch(run=run, fence=1, sequence=number, records=[record], rejects=[])
        batch = signed(batch, claim, {number: response.digest})
        await system.records.post_batch(ME, grant, batch)
    ended = await system.records.finish(
        ME, grant, RunFinish(run=run, fence=1, outcome="complete", batches=len(people))
    )
    assert ended.status == "succeeded", ended.reason
    return run


async def back_up(system: System, service: BackupService | None = None) -> Backup:
    assert system.state is not None
    service = service or BackupService(system, system.state)
    job = await service.start(ME)
    with pytest.raises(Conflict):
        await service.start(ME)
    found = await service.ended(job.id)
    assert found.state == "done", found.problem
    assert found.roles == sorted(system.roles - {"gateway"})
    return found


def noted(number: int) -> Append:
    """An event for the log."""
    return Append(events=[NewEvent(stream="notes/a", type="note.added", payload={"n": number})])


async def people(system: System) -> dict[str, Record]:
    page = await system.records.records(ME, RecordFilter(profile="clinic"))
    return {str(one.dimensions.get("patient")): one for one in page.items}


@dataclass
class World:
    """A data directory with Jane erased, and backups from before and after that."""

    folder: Path
    settings: Settings
    run: str
    key: str
    before: Backup
    after: Backup

    def fresh(self, name: str, *, master: bool = True, erasures: bool = False) -> Settings:
        """Settings of an empty data directory that has the master key."""
        settings = settings_in(self.folder / name)
        settings.keys_dir.mkdir(parents=True)
        if master:
            shutil.copy2(self.settings.keys_dir / "master.key", settings.keys_dir)
        if erasures:
            for name in (ERASURES, RESTRICTIONS):
                shutil.copy2(self.settings.keys_dir / name, settings.keys_dir)
        return settings


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("backup")
    settings = settings_in(folder / "data")
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        run = await collect(system, JANE, JOE)
        await system.ledger.append(ME, noted(1))
        key = await system.identity.create_key(ME, ApiKeyCreate(name="ours", roles=["viewer"]))
        assert system.state is not None
        # As if it never ended: whoever opens the copy must not wait for it.
        await system.state.database.write(ME, lambda conn: conn.execute(LIVES, AN_INSTANCE))
        before = await back_up(system)
        await system.state.database.write(ME, lambda conn: conn.execute(GONE, AN_INSTANCE))
        done = await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
        assert (done.state, done.keys) == ("done", 1)
        await system.subjects.hold(ME, SubjectRequest(subject=JOE, reason="case 12"))
        after = await back_up(system)
    return World(folder, settings, run, key.secret, before, after)


async def test_a_program_backs_up_before_and_after_an_erasure(tmp_path: Path) -> None:
    """One that runs on: what it knew of objects before is not what there must be afterwards."""
    async with open_system(settings_in(tmp_path / "data"), ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE, JOE)
        assert system.state is not None
        service = BackupService(system, system.state)
        await back_up(system, service)
        await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
        await back_up(system, service)


def files_of(backup: Backup) -> tuple[Path, Path]:
    return Path(backup.data_file), Path(backup.keys_file)


async def access_at_rest(settings: Settings) -> str:
    found = {one.check: one for one in at_rest(settings, datetime.now(UTC), deep=False)}
    return found["access"].outcome


async def test_everything_comes_back_and_is_checked_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.fresh("whole")
    steps: list[str] = []
    done = await restore(
        settings, *files_of(world.after), progress=lambda what, *_: steps.append(what)
    )
    assert {"keys", "data", "checking raw responses"} <= set(steps)
    assert done.verified.responses == 1
    assert done.verified.keys > 3
    assert done.ready_seconds > 0
    # Nothing was here that knows who was erased later than this.
    assert (done.lists_known_to, done.lists_from) == (done.created_at, "backup")
    _tell_lists(done)
    assert f"are known up to {done.created_at}, by the backup" in capsys.readouterr().err
    assert await access_at_rest(settings) == "fail"
    async with open_system(settings, ROLES) as system:
        assert system.state is not None
        confirmed = text("UPDATE access_restores SET confirmed = true WHERE tenant = :tenant")
        who = {"tenant": ME.tenant}
        await system.state.database.write(ME, lambda conn: conn.execute(confirmed, who))
        found = await people(system)
        assert found[JOE].attributes == {"note": f"a note on {JOE}"}
        assert found["None"].personal == "erased"
        body = await system.records.response_body(ME, world.run, 1)
        assert JOE.encode() in b"".join([chunk async for chunk in body.chunks])
    assert await access_at_rest(settings) == "pass"


async def test_an_older_backup_brings_nobody_back(world: World) -> None:
    """Even with the keys of before: the list of erasures outlives the restore."""
    settings = world.fresh("older", erasures=True)
    done = await restore(settings, *files_of(world.before))
    assert (done.verified.erasures_replayed, done.verified.restrictions) == (1, 1)
    assert done.lists_from == "keys-folder"
    assert done.lists_known_to > done.created_at
    async with open_system(settings, ROLES) as system:
        with pytest.raises(SubjectHeld, match="case 12"):  # placed after that backup
            await system.subjects.erase(ME, EraseRequest(subject=JOE, reason="asked"))
        found = await people(system)
        assert set(found) == {JOE, "None"}
        with pytest.raises(NotFound):
            await system.records.response_body(ME, world.run, 0)
    for path in settings.data_dir.rglob("*"):
        if path.is_file():
            assert JANE.encode() not in path.read_bytes(), path


def settings_apart(world: World, name: str) -> Settings:
    """Settings with keys and secrets outside the data directory; the master key is there."""
    folder = world.folder / name
    keys = folder / "elsewhere" / "keys"
    keys.mkdir(parents=True)
    shutil.copy2(world.settings.keys_dir / "master.key", keys)
    given = {
        "data_dir": str(folder / "data"),
        "log_level": "error",
        "keys_dir": str(keys),
        "secrets_dir": str(folder / "elsewhere" / "secrets"),
    }
    return resolve({}, given)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def test_what_comes_back_works_where_the_keys_have_a_place_of_their_own(
    world: World,
) -> None:
    """Credentials are known, the log goes on, and what a recovery file knows is there, too."""
    settings = settings_apart(world, "apart")
    done = await restore(
        settings, *files_of(world.before), lists=world.settings.keys_dir, access=Confirmed.YES
    )
    assert (done.verified.erasures_replayed, done.verified.restrictions) == (1, 1)
    assert (done.verified.ledger, done.verified.ledger_code) == ("sound", "")
    for name in ("keys", "secrets"):
        assert not (settings.data_dir / name).exists(), "kept apart from the data they stay apart"
    async with open_system(settings, ROLES) as system:
        assert set(await people(system)) == {JOE, "None"}
        assert (await system.identity.find_holder(world.key)).tenant == ME.tenant
        await system.ledger.append(ME, noted(2))
    theirs, back = files_below(world.settings.keys_dir), files_below(settings.keys_dir)
    for name in ("key-pepper.v1", "worker-pepper.v1", "ledger-default-1.key.jwk"):
        assert back[name] == theirs[name]


async def test_keys_and_secrets_may_have_another_name_in_the_data_directory(world: World) -> None:
    folder = world.folder / "renamed"
    given = {"keys_dir": str(folder / "a" / "keys"), "secrets_dir": str(folder / "a" / "secrets")}
    settings = resolve({}, {"data_dir": str(folder), "log_level": "error"} | given)
    settings.keys_dir.mkdir(parents=True)
    shutil.copy2(world.settings.keys_dir / "master.key", settings.keys_dir)
    await restore(settings, *files_of(world.before), access=Confirmed.YES)
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["keys", "secrets"]
    assert not (folder / "keys").exists()
    async with open_system(settings, ROLES) as system:
        await system.identity.find_holder(world.key)
        await system.ledger.append(ME, noted(2))


async def test_keys_that_a_link_keeps_elsewhere_stay_there_and_the_link_stays(
    world: World,
) -> None:
    settings = world.fresh("linked", master=False)
    disk = world.folder / "disk"
    (disk / "secrets").mkdir(parents=True)
    settings.keys_dir.rename(disk / "keys")
    shutil.copy2(world.settings.keys_dir / "master.key", disk / "keys")
    settings.keys_dir.symlink_to("../disk/keys")
    settings.secrets_dir.symlink_to(disk / "secrets")
    await restore(
        settings, *files_of(world.before), lists=world.settings.keys_dir, access=Confirmed.YES
    )
    assert settings.keys_dir.readlink() == Path("../disk/keys")
    assert settings.secrets_dir.readlink() == disk / "secrets"
    assert {"master.key", ERASURES, "key-pepper.v1"} <= files_below(disk / "keys").keys()
    assert (disk / "secrets" / "tenant-secrets").exists()
    async with open_system(settings, ROLES) as system:
        await system.identity.find_holder(world.key)
        assert set(await people(system)) == {JOE, "None"}
        await system.ledger.append(ME, noted(2))
    # One that is not mounted: no second keyring is begun beside it.
    shutil.rmtree(settings.data_dir / "state")
    shutil.rmtree(settings.data_dir / "objects")
    disk.rename(world.folder / "unplugged")
    before = files_below(settings.data_dir)
    recovery = (world.settings.keys_dir / "master.key").read_text()
    with pytest.raises(Conflict, match="which is not there") as broken:
        await restore(settings, *files_of(world.before), master=recovery)
    assert broken.value.code == "link-broken"
    assert (files_below(settings.data_dir), disk.exists()) == (before, False)


async def test_another_key_is_never_written_over_and_then_nothing_is_written(world: World) -> None:
    settings = settings_apart(world, "taken")
    (settings.keys_dir / "key-pepper.v1").write_text("ab" * 32)
    settings.secrets_dir.mkdir()
    (settings.secrets_dir / "a-source").write_text("newer than the backup")
    before = files_below(settings.data_dir.parent)
    with pytest.raises(Conflict, match=r"key-pepper\.v1 is there") as caught:
        await restore(settings, *files_of(world.before), lists=world.settings.keys_dir)
    assert caught.value.code == "key-there"
    assert files_below(settings.data_dir.parent) == before
    assert not settings.data_dir.exists()
    (settings.keys_dir / "key-pepper.v1").unlink()
    await restore(settings, *files_of(world.before))
    assert (settings.secrets_dir / "a-source").read_text() == "newer than the backup"


async def test_whoever_finds_the_data_finds_its_keys_and_who_was_erased(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that is killed as the data gets its name has put everything else in place."""
    settings = settings_apart(world, "killed")
    there: dict[str, bytes] = {}

    def dies(stage: Path, target: Path) -> None:
        there.update(files_below(settings.keys_dir))
        stage.rename(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.app.backup.restore._put_in_place", dies)
        with pytest.raises(KeyboardInterrupt):
            await restore(settings, *files_of(world.before), lists=world.settings.keys_dir)
    assert {ERASURES, RESTRICTIONS, "key-pepper.v1", "ledger-default-1.key.jwk"} <= there.keys()
    async with open_system(settings, ROLES) as system:
        assert set(await people(system)) == {JOE, "None"}, "Jane was erased after that backup"


async def test_data_under_a_pepper_does_not_open_without_it_or_with_another(world: World) -> None:
    settings = world.fresh("peppers")
    await restore(settings, *files_of(world.before), access=Confirmed.YES)
    pepper = settings.keys_dir / "key-pepper.v1"
    kept = pepper.read_bytes()
    pepper.unlink()
    with pytest.raises(HoldfastError) as missing:
        async with open_system(settings, ROLES):
            pass
    assert missing.value.code == "pepper-missing"
    assert not pepper.exists(), "nothing is made over what is there"
    pepper.write_text("ab" * 32)
    pepper.chmod(0o600)
    with pytest.raises(Corrupt) as foreign:
        async with open_system(settings, ROLES):
            pass
    assert foreign.value.code == "pepper-foreign"
    newer = settings.keys_dir / "key-pepper.v2"
    pepper.rename(newer)
    pepper.write_bytes(kept)
    pepper.chmod(0o600)
    async with open_system(settings, ROLES) as system:  # a version was brought in
        await system.identity.find_holder(world.key)
    pepper.unlink()
    async with open_system(settings, ROLES):  # and the old one retired
        pass


async def test_only_the_keys_of_before_could_read_her_and_they_expire(
    world: World, tmp_path: Path
) -> None:
    """Until then: with the old keys, and without the list. Afterwards there is no way."""
    settings = world.fresh("careless")
    await restore(settings, *files_of(world.before))
    async with open_system(settings, ROLES) as system:
        assert JANE in await people(system), "the key was in the copy of before"

    # The keys of after the erasure, with the data of before: master key and all, nothing opens.
    settings = world.fresh("expired")
    data, keys = Path(world.before.data_file), Path(world.after.keys_file)
    done = await restore(settings, data, keys)
    assert done.verified.responses >= 1
    async with open_system(settings, ROLES) as system:
        found = await people(system)
        assert set(found) == {JOE, "None"}
        assert found["None"].attributes == {}

    async with open_system(world.settings, ROLES) as system:
        assert system.state is not None
        service = BackupService(system, system.state)
        left = Path(world.before.data_file).with_name(".data-of-a-killed-process.copy")
        left.mkdir()
        assert await service.prune() == []
        assert not left.exists()
        old = (SystemClock().now() - timedelta(days=8)).timestamp()
        kept = Path(world.before.keys_file)
        copy = kept.with_name("keys-00000000000000-abcdef.hfk")
        shutil.copy2(kept, copy)
        os.utime(copy, (old, old))
        assert await service.prune() == [copy.name]
        assert not copy.exists()


async def test_the_keyring_of_the_directory_opens_a_backup_too(world: World) -> None:
    settings = settings_in(world.folder / "lost")
    shutil.copytree(world.settings.data_dir, settings.data_dir)
    shutil.rmtree(settings.data_dir / "state")
    shutil.rmtree(settings.data_dir / "objects")
    (settings.keys_dir / "ledger-default-1.key.jwk").unlink()
    done = await restore(settings, Path(world.before.data_file), None)
    assert done.verified.ledger_code == NO_KEY, "a log that cannot be signed is told"
    assert not done.verified.index_wrong
    assert done.verified.erasures_replayed == 1
    assert (settings.data_dir.parent / "lost.before-restore").is_dir()
    async with open_system(settings, ROLES) as system:
        assert set(await people(system)) == {JOE, "None"}


@pytest.mark.parametrize("which", ["data", "keys"])
async def test_what_is_cut_off_or_changed_leaves_nothing(world: World, which: str) -> None:
    dice = random.Random(int(os.environ.get("HOLDFAST_TEST_SEED", "3")))
    whole = files_of(world.after)[which == "keys"].read_bytes()
    settings = world.fresh(f"damaged-{which}")
    before = sorted(path.name for path in settings.data_dir.rglob("*"))
    damaged = world.folder / f"damaged.{which}"
    sizes = [0, 10, 30, 200, len(whole) - 1, dice.randrange(len(whole))]
    changes = [whole[:size] for size in sizes] + [whole + b"x", whole + whole[30:]]
    for _ in range(6):
        at = dice.randrange(len(whole))
        changes.append(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
    for data in changes:
        damaged.write_bytes(data)
        files = list(files_of(world.after))
        files[which == "keys"] = damaged
        with pytest.raises(HoldfastError) as raised:
            await restore(settings, *files)
        assert isinstance(raised.value, Corrupt | Invalid | NotFound), raised.value
        assert str(damaged) in raised.value.detail or raised.value.code == "master-key-foreign"
        assert sorted(path.name for path in settings.data_dir.rglob("*")) == before
        assert not list(world.folder.glob(".*restoring*"))


async def test_a_master_key_from_elsewhere_comes_with_the_rest_or_not_at_all(world: World) -> None:
    settings = settings_in(world.folder / "recovered")
    master = (world.settings.keys_dir / "master.key").read_text()
    data, keys = files_of(world.after)
    cut = world.folder / "cut.hfb"
    cut.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(Corrupt) as raised:
        await restore(settings, cut, keys, master=master)
    assert (str(cut) in raised.value.detail, raised.value.code) == (True, "backup-damaged")
    assert not settings.data_dir.exists()
    await restore(settings, data, keys, master=master)
    assert (settings.keys_dir / "master.key").read_text() == master


@pytest.mark.parametrize("harm", ["longer", "changed", "lost"])
async def test_nothing_is_backed_up_without_every_object_whole(world: World, harm: str) -> None:
    settings = settings_in(world.folder / f"harm-{harm}")
    shutil.copytree(world.settings.data_dir, settings.data_dir)
    shutil.rmtree(settings.data_dir / "backups")
    objects = [p for p in (settings.data_dir / "objects").rglob("*") if p.is_file()]
    name = str(objects[0].relative_to(settings.data_dir / "objects"))
    whole = objects[0].read_bytes()
    if harm == "lost":
        objects[0].unlink()
    else:
        objects[0].write_bytes(whole + b"junk" if harm == "longer" else b"HFSX" + whole[4:])
    async with open_system(settings, ROLES) as system:
        assert system.state is not None
        service = BackupService(system, system.state)
        job = await service.start(ME)
        failed = await service.ended(job.id)
        assert (failed.state, failed.damaged) == ("failed", True)
        assert failed.code == ("object-missing" if harm == "lost" else "object-damaged")
        assert name in failed.problem
        assert not list((settings.data_dir / "backups").glob("*.hfb"))
        checks = ObjectChecks(system.state)
        for found in (await checks.sample(10), await checks.page("", 1), await checks.page("", 9)):
            assert (found.missing if harm == "lost" else found.damaged) == [name]
        objects[0].write_bytes(whole)
        assert (await checks.sample(10)).damaged == []
        await back_up(system)


async def test_objects_are_looked_at_page_by_page(world: World) -> None:
    async with open_system(world.settings, ROLES) as system:
        assert system.state is not None
        checks = ObjectChecks(system.state)
        whole, after, pages = 0, "", 0
        while pages == 0 or after:
            found = await checks.page(after, 1)
            whole, after, pages = whole + found.checked, found.next, pages + 1
        assert whole == (await checks.page("", 100)).checked == 1
        assert (await checks.page("zzz ", 1)).checked == 0


async def test_it_is_refused_where_there_is_data_or_no_master_key(world: World) -> None:
    with pytest.raises(Conflict) as raised:
        await restore(world.settings, *files_of(world.after))
    assert raised.value.code == "data-there"
    with pytest.raises(Conflict) as raised:
        await restore(world.fresh("keyless", master=False), *files_of(world.after))
    assert "key import" in raised.value.hint
    data, keys = files_of(world.after)
    with pytest.raises(Invalid):
        await restore(world.fresh("swapped"), keys, data)
    other = world.folder / "other.hfb"
    other.write_text("no backup")
    for settings in (world.settings, world.fresh("other", master=False)):
        with pytest.raises(Corrupt) as told:
            await restore(settings, other, keys)
        assert f"{other}: it does not begin as one of this version does" in told.value.detail
        with pytest.raises(NotFound) as gone:
            await restore(settings, data, world.folder / "gone.hfk")
        assert "gone.hfk" in gone.value.detail
        assert "holdfast backup create" in gone.value.hint


async def test_the_master_key_is_in_neither_file_and_nothing_lies_in_clear(world: World) -> None:
    secret = (world.settings.keys_dir / "master.key").read_text().splitlines()[-1].split()[2]
    for path in files_of(world.before):
        data = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        for needle in (secret.encode(), bytes.fromhex(secret), JOE.encode(), b"SQLite format"):
            assert needle not in data


async def test_what_concerns_every_tenant_is_the_operators_alone(world: World) -> None:
    """Whatever somebody may do within one tenant."""
    somebody = replace(ME, kind=PrincipalKind.PERSON)

    async with open_system(world.settings, ROLES) as system:
        assert system.state is not None
        notes = KeyNotes(system.state.database, system.state.outbox, system.clock, system.new_id)
        routes = [
            *key_handlers(system.state.keyring, notes),
            *backup_handlers(BackupService(system, system.state)),
        ]
        functions = [getclosurevars(route.fn).nonlocals["function"] for route in routes]
        calls = [each for each in functions if each.__name__ != "rotate"]
        rotate = next(each for each in functions if each.__name__ == "rotate")
        for call in calls:
            more: dict[str, object] = {}
            if call.__name__ == "show":
                more = {"backup_id": world.after.id}
            elif call.__name__ == "note_handled":
                more = {"data": KeysHandled(what="exported", masters=["0" * 32])}
            with pytest.raises(Denied):
                await call(principal=somebody, **more)
        with pytest.raises(Denied):
            await rotate(principal=somebody, master=True)


async def test_a_drill_restores_checks_tells_the_time_and_leaves_nothing(world: World) -> None:
    scratch = world.folder / "scratch"
    done: Restored = await drill(world.settings, *files_of(world.before), scratch)
    assert done.verified.erasures_replayed == 1
    assert done.verified.ledger in ("", "sound")
    assert done.unpack_seconds + done.open_seconds == pytest.approx(done.ready_seconds)
    assert not scratch.exists()


async def test_what_a_drill_leaves_that_is_killed_lets_nobody_in(world: World) -> None:
    settings = world.fresh("left")
    done = await restore(
        settings, *files_of(world.before), lists=world.settings.keys_dir, access=Confirmed.DRILL
    )
    assert not done.access_unconfirmed  # nobody is told to look: usually nothing is left
    async with open_system(settings, ROLES) as system:
        with pytest.raises(HoldfastError) as told:
            await system.identity.find_holder(world.key)
    assert told.value.code == "access-unconfirmed"


async def test_a_record_that_was_changed_is_named_at_rest_and_by_a_drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_in(Path("data"))
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE, JOE, "max@example.org")
        await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
    found = {one.check: one for one in at_rest(settings, datetime.now(UTC), deep=True)}
    assert found["records"].outcome == "pass", found
    assert "revisions are what was recorded" in found["records"].detail
    assert "sealed" not in found["records"].detail
    assert "records" not in {o.check for o in at_rest(settings, datetime.now(UTC), deep=False)}

    def unit(conn: Connection) -> None:
        """Somebody's clear part is changed, and somebody else's row names a key there is not."""
        rows, mine = store.revisions, store.revisions.c.tenant == ME.tenant
        first, other = conn.execute(select(rows).where(mine, rows.c.sealed.is_not(None))).all()
        sealed = bytes(other.sealed)
        for row, values in (
            (first, {"body": first.body.replace("north", "south")}),
            (other, {"sealed": sealed.replace(key_id_of(sealed), b"another key's id")}),
        ):
            key = store.of_key(rows, ME.tenant, profile="clinic", sequence=row.sequence)
            assert store.change(conn, rows, key, values) == 1

    async with open_system(settings, ROLES) as system:
        assert system.state is not None
        await system.state.database.write(ME, unit)
        await system.ledger.checkpoint(ME)
        before = await back_up(system)
    # Whoever asked is mostly in another folder than the server.
    assert {Path(one).parent.parent for one in files_of(before)} == {tmp_path / "data"}
    found = {one.check: one for one in at_rest(settings, datetime.now(UTC), deep=True)}
    assert found["records"].outcome == "fail"
    assert "1 are not what was recorded: clinic " in found["records"].detail
    assert "1 cannot be opened, and no erasure says why: clinic " in found["records"].detail
    assert "restore a backup" in found["records"].hint
    done = await drill(settings, *files_of(before), tmp_path / "scratch")
    assert "published" not in capsys.readouterr().err
    assert done.verified.closed == 0
    [named], [unopened] = done.verified.altered, done.verified.unopened
    assert named != unopened
    assert named in found["records"].detail
    assert unopened in found["records"].detail
    with pytest.raises(Corrupt, match="not what was recorded") as refused:
        _check_records(done)
    assert named in refused.value.detail
    of_the_other = msgspec.structs.replace(done.verified, altered=[])
    with pytest.raises(Corrupt, match="no erasure says why") as refused:
        _check_records(msgspec.structs.replace(done, verified=of_the_other))
    assert unopened in refused.value.detail


async def test_a_system_on_postgresql_comes_back(postgres: PostgresServer, tmp_path: Path) -> None:
    names = [await postgres.fresh_database("template0") for _ in range(2)]
    first, second = map(postgres.dsn, names)

    def on(folder: str, url: str) -> Settings:
        return resolve(
            {},
            {
                "data_dir": str(tmp_path / folder),
                "database_url": url,
                "database_unflushed": "true",
                "log_level": "error",
            },
        )

    settings = on("data", first)
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        run = await collect(system, JANE, JOE)
        case = SubjectRequest(subject=JOE, reason="case 12")
        await system.subjects.hold(ME, case)
        before = await back_up(system)
        await system.subjects.release(ME, case)
        await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
    rehearsed = await drill(settings, *files_of(before), tmp_path / "scratch")
    assert (rehearsed.verified.responses, rehearsed.verified.erasures_replayed) == (1, 1)

    elsewhere = on("elsewhere", second)
    elsewhere.keys_dir.mkdir(parents=True)
    for name in ("master.key", ERASURES, RESTRICTIONS):
        shutil.copy2(settings.keys_dir / name, elsewhere.keys_dir)
    with pytest.raises(Conflict):
        await restore(on("taken", first), *files_of(before))
    damaged = tmp_path / "damaged.hfb"
    damaged.write_bytes(Path(before.data_file).read_bytes()[:-1])
    with pytest.raises(Corrupt):
        await restore(elsewhere, damaged, Path(before.keys_file))
    done = await restore(elsewhere, *files_of(before))
    assert (done.verified.erasures_replayed, done.verified.restrictions) == (1, 0)
    async with open_system(elsewhere, ROLES) as system:
        found = await people(system)
        assert found[JOE].attributes == {"note": f"a note on {JOE}"}
        assert set(found) == {JOE, "None"}
        with pytest.raises(NotFound):
            await system.records.response_body(ME, run, 0)
        assert system.state is not None
        state = system.state
        waiting = await state.database.read(
            ME, lambda conn: state.outbox.ready(conn, ME, BEGINNING, 1000)
        )
        assert len(waiting) > 3, "the relay sees what waited on the other server"
    for name in names:
        await postgres.drop_database(name)


async def test_a_keyring_that_outlived_its_data_stays_and_another_is_not_written_over(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """It lies on a server of its own and knows who was erased since; the lists are lost."""
    names = [await postgres.fresh_database("template0") for _ in range(4)]
    first, second, survived, foreign = map(postgres.dsn, names)

    def on(folder: str, url: str, keyring: str) -> Settings:
        home = {"data_dir": str(tmp_path / folder), "log_level": "error"}
        return resolve(
            {}, {**home, "database_url": url, "database_unflushed": "true", "keyring_url": keyring}
        )

    settings = on("data", first, survived)
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE, JOE)
        before = await back_up(system)
        await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
    store = open_store(foreign, schema="holdfast_keyring")
    own = MasterKeys.create(tmp_path / "keys" / "master.key")
    open_keyring(store, lambda _: own, SystemClock(), new_id="another", expected=None)
    store.close()
    for keyring, code in ((foreign, "keyring-there"), (survived, "")):
        elsewhere = on("elsewhere", second, keyring)
        elsewhere.keys_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy2(settings.keys_dir / "master.key", elsewhere.keys_dir)
        if code:
            with pytest.raises(Conflict) as refused:
                await restore(elsewhere, *files_of(before))
            assert refused.value.code == code
            continue
        await restore(elsewhere, *files_of(before))
        async with open_system(elsewhere, ROLES) as system:
            assert set(await people(system)) == {JOE, "None"}
    for name in names:
        await postgres.drop_database(name)


async def test_a_keyring_elsewhere_is_put_there_and_an_older_one_in_its_place_is_refused(
    tmp_path: Path,
) -> None:
    """It came back from a copy of its own, or a restore of an older backup was killed there."""

    def on(folder: str, keyring: str) -> Settings:
        (tmp_path / keyring).mkdir(exist_ok=True)
        place = f"sqlite:///{tmp_path / keyring / 'keyring.db'}"
        home = {"data_dir": str(tmp_path / folder), "log_level": "error"}
        return resolve({}, {**home, "keyring_url": place})

    settings = on("data", "keyring")
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE)
    (tmp_path / "older").mkdir()
    shutil.copy2(tmp_path / "keyring" / "keyring.db", tmp_path / "older")
    async with open_system(settings, ROLES) as system:
        await collect(system, JANE, JOE)
        backup = await back_up(system)
        await system.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
    found = {"older": None, "empty": {JANE, JOE}, "keyring": {JOE, "None"}}
    for place, whom in found.items():
        target = on(f"restored-{place}", place)
        target.keys_dir.mkdir(parents=True)
        shutil.copy2(settings.keys_dir / "master.key", target.keys_dir)
        if whom is None:
            with pytest.raises(Conflict) as refused:
                await restore(target, *files_of(backup))
            assert refused.value.code == "keyring-older"
            assert not (target.data_dir / "state").exists()
            continue
        await restore(target, *files_of(backup))
        assert not (target.data_dir / "keyring").exists()
        async with open_system(target, ROLES) as system:
            assert set(await people(system)) == whom


async def test_of_two_restores_into_one_postgresql_database_one_is_refused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    names = [await postgres.fresh_database("template0") for _ in range(2)]

    def on(folder: str, database: str) -> Settings:
        home = {"data_dir": str(tmp_path / folder), "log_level": "error"}
        return resolve(
            {}, {**home, "database_url": postgres.dsn(database), "database_unflushed": "true"}
        )

    settings = on("data", names[0])
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE, JOE)
        backup = await back_up(system)
    targets = [on(folder, names[1]) for folder in ("one", "two")]
    for target in targets:
        target.keys_dir.mkdir(parents=True)
        shutil.copy2(settings.keys_dir / "master.key", target.keys_dir)
    done = await asyncio.gather(
        *(restore(target, *files_of(backup)) for target in targets), return_exceptions=True
    )
    [refused] = [each for each in done if not isinstance(each, Restored)]
    assert isinstance(refused, Conflict), refused
    assert refused.code in ("restore-running", "data-there")
    [whole] = [t for t, each in zip(targets, done, strict=True) if isinstance(each, Restored)]
    async with open_system(whole, ROLES) as system:
        assert set(await people(system)) == {JANE, JOE}
        assert (await verify(system, lambda *_: None)).responses == 2
    for name in names:
        await postgres.drop_database(name)


async def test_a_database_that_a_restore_has_marked_is_touched_by_nobody_else(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Neither by a start, nor by a restore whose lock broke and whose mark is another's now."""
    name = await postgres.fresh_database("template0")
    url = postgres.dsn(name)
    (tmp_path / "stage").mkdir()
    first = await postgresql.begin_restore(url, None, tmp_path / "stage")
    given = {
        "data_dir": str(tmp_path / "data"),
        "database_url": url,
        "database_unflushed": "true",
        "log_level": "error",
    }
    with pytest.raises(Conflict) as refused:
        async with open_system(resolve({}, given), ROLES):
            pass
    assert refused.value.code == "restore-unfinished"
    await postgresql.begin_restore(url, None, tmp_path / "stage")
    for going_on in (
        postgresql.load(url, None, tmp_path, "0", first, RestoredFrom("a", "b")),
        postgresql.end_restore(url, None, tmp_path / "stage", first),
    ):
        with pytest.raises(Conflict) as refused:
            await going_on
        assert refused.value.code == "restore-running"
    async with postgresql.connected(url, None) as conn:
        there = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert [row["tablename"] for row in there] == ["holdfast_restoring"]
    await postgres.drop_database(name)


@pytest.mark.soak
@pytest.mark.timeout(300 * scale())
async def test_a_restore_on_postgresql_that_is_killed_is_no_system_until_it_is_done_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Database, keyring and directory are filled one after the other, keys are elsewhere: whoever
    starts on a part of them is refused, whatever the moment, and the same restore ends it."""
    source = await postgres.fresh_database("template0")
    given = {
        "database_url": postgres.dsn(source),
        "database_unflushed": "true",
        "log_level": "error",
    }
    async with open_system(resolve({}, {"data_dir": str(tmp_path / "data"), **given}), ROLES) as a:
        await a.registry.publish(ME, PROFILE)
        await collect(a, JANE, JOE)
        before = await back_up(a)
        await a.subjects.erase(ME, EraseRequest(subject=JANE, reason="asked"))
        keys = a.settings.keys_dir

    def target(name: str, database: str) -> Settings:
        folder = tmp_path / name / "elsewhere"
        shutil.copytree(keys, folder / "keys", ignore=lambda _, names: {*names} - {*KEPT})
        apart = {"keys_dir": str(folder / "keys"), "secrets_dir": str(folder / "secrets")}
        home = {
            "data_dir": str(tmp_path / name / "data"),
            "database_url": postgres.dsn(database),
            "database_unflushed": "true",
        }
        return resolve({}, {"log_level": "error", **home, **apart})

    def dying(settings: Settings, when: str) -> tuple[int, list[str]]:
        note = tmp_path / "moments"
        names = ("database_url", "database_unflushed", "keys_dir", "secrets_dir", "log_level")
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.dying", str(note), when,
             "backup", "restore", before.data_file, "--keys", before.keys_file,
             "--data-dir", str(settings.data_dir)],
            env=clean_environment({f"HOLDFAST_{n.upper()}": str(settings[n]) for n in names}),
            capture_output=True, timeout=240, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode, note.read_text("utf-8").splitlines()

    databases, chosen, seen = [source], [*MOMENTS], Counter[str]()
    if scale() > 1:
        databases.append(whole := await postgres.fresh_database("template0"))
        status, moments = dying(target("whole", whole), "0")
        assert status == 0
        numbers = range(1, len(moments) + 1)
        chosen += map(str, random.Random(20261128).sample(numbers, 4 * (scale() - 1)))
    for index, when in enumerate(chosen):
        databases.append(database := await postgres.fresh_database("template0"))
        settings = target(f"killed-{index}", database)
        status, reached = dying(settings, when)
        assert status == -signal.SIGKILL, when
        found = await _found_after(settings)
        seen[found] += 1
        if found == "whole":
            with pytest.raises(Conflict):
                await restore(settings, *files_of(before))
        else:
            done = await restore(settings, *files_of(before))
            assert done.verified.responses == 1, reached[-1]
            assert await _found_after(settings) == "whole", reached[-1]
        left = [path.name for path in settings.data_dir.parent.iterdir()]
        assert sorted(left) == ["data", "elsewhere"], reached[-1]
    assert seen.keys() >= {"refused", "whole"}, seen
    print(f"{len(chosen)} kills: {dict(seen)}")
    for name in databases:
        await postgres.drop_database(name)


KEPT = ("master.key", ERASURES, RESTRICTIONS)


MOMENTS = (
    "INSERT INTO keyring_keys",  # the keyring is half in its place
    "os.rmdir state",  # the database is full, the directory is not there
    "DROP TABLE holdfast",  # all is done, and not said yet
)
"""At which a restore dies in each run; a soak has others besides, of any number."""


async def _found_after(settings: Settings) -> str:
    """What a start finds: nothing yet, a restore that is not finished, or all of it."""
    async with postgresql.connected(settings.database_url, None) as conn:
        there = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    if not there and not settings.data_dir.exists():
        return "nothing"
    if not settings.data_dir.exists():
        with pytest.raises(Conflict) as refused:
            async with open_system(settings, ROLES):
                pass
        assert refused.value.code == "restore-unfinished"
        return "refused"
    async with open_system(settings, ROLES) as system:
        assert set(await people(system)) == {JOE, "None"}
        checked = await verify(system, lambda *_: None)
        assert (checked.responses, checked.ledger) == (1, "sound")
    return "whole"
