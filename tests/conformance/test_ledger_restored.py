"""A log that came back from a backup, where nobody knows what was published of it since.

No instance appends to it or signs it, what is there is read and proven, and there are two ways on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict
from holdfast.leases import MemoryLeases
from holdfast.ledger import notes
from holdfast.ledger.errors import LedgerReadOnly, NotSequencer
from holdfast.ledger.log.leadership import LEAD_SECONDS
from holdfast.ledger.model import PUBLISHED_UNKNOWN
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import PublishedFile, is_evidence
from holdfast.ledger.store import Published
from tests.support.ledger import NOW, ONE, everything, ledger_on, one, verdict
from tests.support.ledger_damage import Rows, brought_back, kept

MARK = {"tenant": ONE.tenant, "backup": "b1", "made_at": "2026-11-27T11:00:00.000000Z"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


def told(note: str) -> notes.Checkpoint:
    return notes.parse_checkpoint(notes.parse_note(note).text)


async def backed_up(
    database: Database, folder: Path, clock: ManualClock, *, more: int
) -> tuple[Rows, notes.Checkpoint, notes.Checkpoint]:
    """A log that is signed at three, copied at four entries and signed again ``more`` later: the
    copy, its checkpoint, and the last one. The old machine's files are below ``folder / old``."""
    keys = folder / "keys"
    async with ledger_on(database, folder / "old", clock=clock, keys=keys) as ledger:
        for number in range(2):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
        shutil.copytree(folder / "old" / "published", folder / "older" / "published")
        await ledger.append(ONE, one(2))
        known = told(await ledger.checkpoint(ONE))
        await ledger.append(ONE, one(3))
        rows = await kept(database)
        for number in range(more):
            await ledger.append(ONE, one(100 + number))
        last = told(await ledger.checkpoint(ONE)) if more else known
    return rows, known, last


async def restored(database: Database, rows: Rows) -> None:
    """The copy in the place of what was there, as a restore leaves it."""
    await brought_back(database, rows | {"ledger_restored": [MARK]})


def bring(folder: Path, machine: str, *, since: str = "old") -> Path:
    """The folder of what was published, from another machine."""
    target = folder / machine / "published"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / since / "published", target)
    return target / "default.json"


async def check_stopped(ledger: LedgerService, known: notes.Checkpoint) -> None:
    """Nothing is appended or signed; what is there is read, proven and verified."""
    with pytest.raises(LedgerReadOnly, match="restored from the backup b1 of 2026-11-27") as said:
        await ledger.append(ONE, one(9000))
    assert "published/" in said.value.hint
    assert "ledger restart" in said.value.hint
    status = await ledger.status(ONE)
    assert status.damage is not None
    assert (status.writable, status.size, status.published_size) == (False, 4, 3)
    assert status.damage.reason == PUBLISHED_UNKNOWN
    assert await ledger.check() == "degraded"
    assert len(await everything(ledger)) == 4
    assert told(await ledger.checkpoint(ONE)) == known
    proof = await ledger.inclusion(ONE, 1)
    assert (proof.size, proof.root) == (3, known.root.hex())
    assert (await verdict(ledger)).sound
    with pytest.raises(LedgerReadOnly):
        await ledger.rotate(ONE)
    with pytest.raises(LedgerReadOnly):
        await ledger.rebuild(ONE)


async def test_nothing_is_signed_by_any_instance_until_a_new_origin_cites_the_old_one(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    rows, known, last = await backed_up(database, tmp_path, clock, more=3)
    await restored(database, rows)
    keys = tmp_path / "keys"
    for machine in ("new", "second", "new"):
        async with ledger_on(database, tmp_path / machine, clock=clock, keys=keys) as ledger:
            await check_stopped(ledger, known)
        assert not (tmp_path / machine / "published").exists(), "it would know no more than that"
    async with ledger_on(database, tmp_path / "new", clock=clock, keys=keys) as ledger:
        after = await ledger.restart(ONE, "the machine of the test")
        assert (after.writable, after.size, after.damage) == (True, 5, None)
        assert after.origin == "example.org/ledger/default/20261127120000", "one nobody has seen"
        cites = (await ledger.entry(ONE, 4)).payload
        assert cites is not None
        names = ("damage", "before", "published_origin", "published_size", "published_root")
        assert [cites[name] for name in names] == [
            *(PUBLISHED_UNKNOWN, last.origin, known.origin, 3, known.root.hex()),
        ]
        assert (told(await ledger.checkpoint(ONE)).origin, await ledger.check()) == (
            after.origin,
            None,
        )
        assert (await verdict(ledger)).sound
    async with ledger_on(database, tmp_path / "second", clock=clock, keys=keys) as ledger:
        await ledger.append(ONE, one(9))
        with pytest.raises(Conflict, match="nothing is wrong"):
            await ledger.restart(ONE, "again")


async def test_what_one_instance_published_another_s_restart_does_not_pass_over(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Only the first one's file knows that more was told than the new origin tells of."""
    rows, _, last = await backed_up(database, tmp_path, clock, more=3)
    await restored(database, rows)
    keys = tmp_path / "keys"
    async with ledger_on(database, tmp_path / "new", clock=clock, keys=keys) as ledger:
        await ledger.restart(ONE, "the machine of the test")
    bring(tmp_path, "first")
    async with ledger_on(database, tmp_path / "first", clock=clock, keys=keys) as ledger:
        for _ in range(2):
            with pytest.raises(LedgerReadOnly, match=f"published knows of {last.size} entries"):
                await ledger.append(ONE, one(9))
        found = await verdict(ledger)
        assert (found.sound, "knows of 7 entries" in found.reason) == (False, True)
        await ledger.restart(ONE, "what was lost")
        cites = (await ledger.entry(ONE, 5)).payload
        assert cites is not None
        names = ("published_origin", "published_size", "published_root")
        assert [cites[name] for name in names] == [last.origin, last.size, last.root.hex()]
        assert (await verdict(ledger)).sound
    for machine in ("first", "new"):
        async with ledger_on(database, tmp_path / machine, clock=clock, keys=keys) as ledger:
            await ledger.append(ONE, one(20 + len(machine)))
            assert (await verdict(ledger)).sound


async def test_the_file_of_who_signed_last_lets_a_log_go_on_that_holds_all_it_knows(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Then nothing was published since, and every other instance may go on, too."""
    rows, known, _ = await backed_up(database, tmp_path, clock, more=0)
    await restored(database, rows)
    shared: Any = {"clock": clock, "keys": tmp_path / "keys", "leases": MemoryLeases(clock)}
    bring(tmp_path, "knows")
    async with (
        ledger_on(database, tmp_path / "new", holder="new", **shared) as ledger,
        ledger_on(database, tmp_path / "knows", holder="knows", **shared) as other,
    ):
        await check_stopped(ledger, known)
        await other.append(ONE, one(9))  # at once: it waits for nobody's lease
        assert await other.check() is None
        assert told(await other.checkpoint(ONE)).origin == known.origin
        assert (await ledger.status(ONE)).damage is None
        clock.advance(LEAD_SECONDS + 1)
        await ledger.append(ONE, one(10))
        assert told(await ledger.checkpoint(ONE)).size == 6


async def test_a_file_that_knows_of_more_stops_the_log_here_and_at_every_other_instance(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    rows, known, last = await backed_up(database, tmp_path, clock, more=3)
    await restored(database, rows)
    bring(tmp_path, "new")
    keys = tmp_path / "keys"
    async with ledger_on(database, tmp_path / "new", clock=clock, keys=keys) as ledger:
        with pytest.raises(LedgerReadOnly, match=f"knows of {last.size} entries"):
            await ledger.append(ONE, one(9))
        with pytest.raises(LedgerReadOnly):
            await ledger.checkpoint(ONE)
    async with ledger_on(database, tmp_path / "second", clock=clock, keys=keys) as ledger:
        await check_stopped(ledger, known)
    async with ledger_on(database, tmp_path / "new", clock=clock, keys=keys) as ledger:
        after = await ledger.restart(ONE, "the machine of the test")
        assert after.origin.endswith("/20261127120000"), "what was brought may be a copy"
        assert (await verdict(ledger)).sound


WRONG = {
    "nothing of it": "restored from the backup",
    "from before": "restored from the backup",
    "another log's": "older than elsewhere",
    "damaged": "cannot read what was published",
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_file_that_is_no_evidence_changes_nothing(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    """However often it is started, and though checkpoints are asked for: nothing is learnt that
    would be taken for knowledge later."""
    rows, known, _ = await backed_up(database, tmp_path, clock, more=3)
    await restored(database, rows)
    path = bring(tmp_path, "new", since="older")
    if how == "another log's":
        PublishedFile(path).write(Published("elsewhere/default", 99, b"\x01" * 32, "", ""))
    elif how == "damaged":
        path.write_bytes(b"{")
    elif how == "nothing of it":
        path.write_bytes(b"{}")
    before = path.read_bytes()
    keys = tmp_path / "keys"
    for _ in range(2):
        async with ledger_on(database, tmp_path / "new", clock=clock, keys=keys) as ledger:
            with pytest.raises(LedgerReadOnly, match=WRONG[how]):
                await ledger.append(ONE, one(9))
            if WRONG[how].startswith("restored"):
                await check_stopped(ledger, known)
        assert path.read_bytes() == before
    row = Published(known.origin, known.size, known.root, "", "")
    assert is_evidence({known.origin: known}, {known.origin: row})
    other = notes.Checkpoint(known.origin, known.size, b"\x02" * 32)
    assert not is_evidence({known.origin: other}, {known.origin: row})


async def test_an_instance_that_ran_on_while_the_database_was_restored_does_nothing(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Though all is as it left it, the fence included."""
    await backed_up(database, tmp_path, clock, more=0)
    for number, machine in enumerate(("signs", "appends")):
        shared: Any = {"clock": clock, "keys": tmp_path / "keys", "holder": machine}
        async with ledger_on(database, tmp_path / machine, **shared) as ledger:
            await ledger.append(ONE, one(10 + number))
            shutil.rmtree(tmp_path / machine / "published")
            await restored(database, await kept(database))
            if machine == "signs":
                with pytest.raises(NotSequencer, match="restored"):
                    await ledger.checkpoint(ONE)
            clock.advance(LEAD_SECONDS / 2)
            with pytest.raises(LedgerReadOnly, match="restored from the backup"):
                await ledger.append(ONE, one(20))
        await brought_back(database, {"ledger_restored": []})


async def test_instances_that_share_a_database_are_all_stopped_and_all_go_on(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    rows, known, _ = await backed_up(database, tmp_path, clock, more=3)
    await restored(database, rows)
    shared: Any = {"clock": clock, "keys": tmp_path / "keys", "leases": MemoryLeases(clock)}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        for ledger in (first, second, first):
            await check_stopped(ledger, known)
        await first.log_of(ONE).leadership.lead()
        await check_stopped(second, known)  # whoever has the lease
        await first.restart(ONE, "the machine of the test")
        with pytest.raises(NotSequencer):
            await second.append(ONE, one(10))
        status = await second.status(ONE)
        assert (status.damage, await second.check()) == (None, None)
        clock.advance(LEAD_SECONDS + 1)
        await second.append(ONE, one(10))
