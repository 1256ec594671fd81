"""What lies beside a ledger's database is lost or another's: told, nothing signed, and a way on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import MemoryLeases
from holdfast.ledger import notes, store
from holdfast.ledger.errors import LedgerReadOnly
from holdfast.ledger.log.leadership import LEAD_SECONDS
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, everything, ledger_on, one, verdict
from tests.support.ledger_damage import brought_back, kept, lose_tail


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


async def begun(database: Database, folder: Path, clock: ManualClock) -> str:
    """A log of three entries, two of them published; that checkpoint."""
    async with ledger_on(database, folder, clock=clock) as ledger:
        for number in range(2):
            await ledger.append(ONE, one(number))
        note = await ledger.checkpoint(ONE)
        await ledger.append(ONE, one(2))
    return note


async def read_only(ledger: LedgerService, reason: str, hint: str) -> None:
    """Nothing is appended, and whoever asks is told why and what to do."""
    with pytest.raises(LedgerReadOnly) as told:
        await ledger.append(ONE, one(9000))
    assert hint in told.value.hint
    status = await ledger.status(ONE)
    assert status.damage is not None
    assert (status.writable, status.size, status.damage.reason) == (False, 3, reason)
    assert await ledger.check() == "degraded"
    assert [entry.payload for entry in await everything(ledger)] == [{"n": n} for n in range(3)]


async def signed(ledger: LedgerService, size: int) -> notes.Checkpoint:
    """What a verifier learns from the newest checkpoint, by what `ledger trust` hands out."""
    keys = [notes.VerifierKey.parse(each.key) for each in (await ledger.trust(ONE)).keys]
    note, _ = notes.open_note(await ledger.checkpoint(ONE), keys)
    told = notes.parse_checkpoint(note.text)
    assert told.size == size
    return told


def lose_key(folder: Path, how: str) -> None:
    path = folder / "keys" / "ledger-default-1.key.jwk"
    path.unlink()
    if how == "another's":
        SigningKey.load_or_create(path)
    elif how == "broken":
        path.touch(0o600)


@pytest.mark.parametrize("how", ["gone", "another's", "broken"])
async def test_a_log_whose_key_is_lost_is_read_only_until_it_is_back_or_another_begins(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    note = await begun(database, tmp_path, clock)
    path = tmp_path / "keys" / "ledger-default-1.key.jwk"
    right = path.read_bytes()
    lose_key(tmp_path, how)
    metrics = Metrics()
    async with ledger_on(database, tmp_path, clock=clock, metrics=metrics) as ledger:
        await ledger.open_all()
        await read_only(ledger, "no-key", "ledger rotate")
        assert b"holdfast_ledger_read_only_logs 1.0" in metrics.render()
        assert await ledger.checkpoint(ONE) == note
        path.write_bytes(right)
        path.chmod(0o600)
        await ledger.append(ONE, one(3))
        assert await ledger.check() is None
        assert b"holdfast_ledger_read_only_logs 0.0" in metrics.render()
    lose_key(tmp_path, how)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(4))
        trust = await ledger.rotate(ONE)
        spans = [(each.valid_from, each.valid_to) for each in trust.keys]
        assert spans == [(0, 2), (2, None)], "the old one did not sign a last time"
        await ledger.append(ONE, one(4))
        assert (await signed(ledger, 6)).origin == "example.org/ledger/default"
        assert (await ledger.entry(ONE, 4)).type == "ledger.key-rotated"
        assert (await verdict(ledger)).sound
        assert await ledger.check() is None


async def test_a_log_whose_key_is_lost_can_begin_a_new_origin(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    await begun(database, tmp_path, clock)
    lose_key(tmp_path, "gone")
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        after = await ledger.restart(ONE, "the key of the test")
        assert (after.writable, after.size) == (True, 4)
        cited = (await ledger.entry(ONE, 3)).payload
        assert cited is not None
        assert (cited["damage"], cited["published_size"]) == ("no-key", 2)
        assert (await signed(ledger, 4)).origin == "example.org/ledger/default/1"
        assert (await verdict(ledger)).sound


async def test_an_instance_without_the_key_leaves_the_log_to_one_that_has_it(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock)}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        for number in range(3):
            await first.append(ONE, one(number))
        clock.advance(LEAD_SECONDS + 1)
        await read_only(second, "no-key", "ledger rotate")
        await first.append(ONE, one(3))
        await signed(first, 4)
        assert await second.check() == "degraded", "it cannot take over"


def spoil_published(folder: Path, how: str = "empty") -> bytes:
    """Leave of the published sizes what lost power, or somebody, may; what is there now."""
    path = folder / "published" / "default.json"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "torn": whole[:-9], "another's": b'["here"]\n'}[how])
    return path.read_bytes()


@pytest.mark.parametrize("how", ["empty", "torn", "another's"])
async def test_a_log_whose_published_sizes_are_damaged_gives_nothing_until_a_new_origin(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    """Whether a later checkpoint was told than the database knows of, nobody can say."""
    await begun(database, tmp_path, clock)
    whole = (tmp_path / "published" / "default.json").read_bytes()
    spoilt = spoil_published(tmp_path, how)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.open_all()
        await read_only(ledger, "published-damaged", "ledger restart")
        with pytest.raises(LedgerReadOnly, match="cannot read what was published") as told:
            await ledger.checkpoint(ONE)
        assert "ledger restart" in told.value.hint
        found = await verdict(ledger)
        assert not found.sound
        assert "cannot read what was published" in found.reason
        (tmp_path / "published" / "default.json").write_bytes(whole)  # somebody had a copy
        await ledger.append(ONE, one(3))
        assert await ledger.check() is None
        spoil_published(tmp_path, how)
        with pytest.raises(LedgerReadOnly, match="cannot read what was published"):
            await ledger.checkpoint(ONE)
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(4))
        assert await ledger.check() == "degraded"
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        after = await ledger.restart(ONE, "the power of the test")
        assert after.origin == "example.org/ledger/default/20261127120000"
        cited = (await ledger.entry(ONE, 4)).payload
        assert cited is not None
        assert (cited["damage"], cited["published_size"]) == ("published-damaged", 4)
        assert (await signed(ledger, 5)).origin == after.origin
        assert (await verdict(ledger)).sound
        assert await ledger.check() is None
    aside = [each.read_bytes() for each in (tmp_path / "published").glob("default.json.*")]
    assert aside == [spoilt]
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.append(ONE, one(5))


async def test_a_new_origin_after_damaged_published_sizes_has_a_name_that_nobody_has_seen(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Neither the database, which is from before, nor the file knows which were told."""
    note = await begun(database, tmp_path, clock)
    before = await kept(database)
    seen = {notes.parse_checkpoint(notes.parse_note(note).text).origin}
    for number in range(3):
        await lose_tail(database, 2)
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            seen.add((await ledger.restart(ONE, "the disk of the test")).origin)
            for more in range(3):
                await ledger.append(ONE, one(10 * (number + 1) + more))
            await ledger.checkpoint(ONE)
    assert len(seen) == 4
    await brought_back(database, before)
    spoil_published(tmp_path)
    (tmp_path / "ledger" / "default.head").unlink()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        after = await ledger.restart(ONE, "the backup of the test")
        assert after.origin not in seen
        await ledger.checkpoint(ONE)


async def test_an_instance_that_does_not_sign_gives_nothing_while_its_published_sizes_are_damaged(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        await first.append(ONE, one(1))
        note = await first.checkpoint(ONE)
        assert await second.checkpoint(ONE) == note
        spoil_published(tmp_path / "b")
        with pytest.raises(LedgerReadOnly, match="cannot read what was published"):
            await second.checkpoint(ONE)
        await first.append(ONE, one(2))
        assert await first.checkpoint(ONE) != note


@pytest.mark.parametrize("also", ["the tail", "the published sizes", "nothing"])
async def test_a_key_that_is_lost_is_replaced_only_in_a_log_that_is_what_was_published(
    database: Database, tmp_path: Path, clock: ManualClock, also: str
) -> None:
    """By the database, which may be from before; and by the file, which no restore brings back."""
    note = await begun(database, tmp_path, clock)
    if also != "the tail":
        rows = (await kept(database))["ledger_checkpoints"]
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            assert await ledger.checkpoint(ONE) != note
        await brought_back(database, {"ledger_checkpoints": rows})
    lose_key(tmp_path, "gone")
    if also == "the tail":
        (tmp_path / "ledger" / "default.head").unlink()
        await lose_tail(database, 1)
    elif also == "the published sizes":
        spoil_published(tmp_path)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        if also == "nothing":
            trust = await ledger.rotate(ONE)
            spans = [(each.valid_from, each.valid_to) for each in trust.keys]
            assert spans == [(0, 3), (3, None)], "the old one signed three, by the file"
            assert (await verdict(ledger)).sound
            return
        with pytest.raises(LedgerReadOnly):
            await ledger.rotate(ONE)
        keys = await database.read(ONE, lambda conn: store.keys(conn, ONE.tenant))
        assert len(keys) == 1
        after = await ledger.restart(ONE, "the disk of the test")
        await signed(ledger, after.size)
        assert (await verdict(ledger)).sound


async def test_published_sizes_that_are_gone_are_taken_from_the_database_and_that_is_said(
    database: Database, tmp_path: Path, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database from before the last checkpoint is not believed: there is the head file."""
    await begun(database, tmp_path, clock)
    before = await kept(database)
    await lose_tail(database, 2)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        assert (await ledger.restart(ONE, "the disk of the test")).origin.endswith("/default/1")
        note = await ledger.checkpoint(ONE)
    path = tmp_path / "published" / "default.json"
    whole = path.read_bytes()
    assert b"default/1" in whole
    path.unlink()
    said = "what was published is taken from the database"
    assert said not in capsys.readouterr().err
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        assert await ledger.checkpoint(ONE) == note
        assert path.read_bytes() == whole
        assert said in capsys.readouterr().err
    path.unlink()
    await brought_back(database, before)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await read_only(ledger, "lost-tail", "ledger restart")
        with pytest.raises(LedgerReadOnly):
            await ledger.checkpoint(ONE)
        after = await ledger.restart(ONE, "the backup of the test")
        assert after.origin == "example.org/ledger/default/2", "the head file knows of the other"
        assert (await signed(ledger, after.size)).origin == after.origin
        assert (await verdict(ledger)).sound
        assert b"default/2" in path.read_bytes()
