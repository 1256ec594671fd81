"""Two instances on one PostgreSQL database: one appends, the other takes over, no log forks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.ledger import notes
from holdfast.ledger.errors import LedgerReadOnly, NotSequencer
from holdfast.ledger.log.leadership import LEAD_SECONDS
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, everything, ledger_on, one, verdict
from tests.support.ledger_damage import brought_back, kept


@asynccontextmanager
async def two(
    database: Database, folder: Path, clock: ManualClock
) -> AsyncIterator[tuple[LedgerService, LedgerService]]:
    """Instances that share database and keys; each has a head file and a published file."""
    keys = folder / "keys"
    async with (
        ledger_on(database, folder / "a", clock=clock, holder="first", keys=keys) as first,
        ledger_on(database, folder / "b", clock=clock, holder="second", keys=keys) as second,
    ):
        yield first, second


async def test_the_other_instance_reads_at_once_and_takes_over_once_the_lease_is_over(
    postgres_database: Database, tmp_path: Path
) -> None:
    clock = ManualClock(NOW)
    async with two(postgres_database, tmp_path, clock) as (first, second):
        for number in range(5):
            await first.append(ONE, one(number))
        note = await first.checkpoint(ONE)
        with pytest.raises(NotSequencer) as told:
            await second.append(ONE, one(9))
        assert "ask the other instances" in told.value.hint
        assert [e.payload for e in await everything(second)] == [{"n": n} for n in range(5)]
        assert await second.checkpoint(ONE) == note
        proof = await second.inclusion(ONE, 3, 5)
        assert proof.root == notes.parse_checkpoint(notes.parse_note(note).text).root.hex()

        clock.advance(LEAD_SECONDS + 1)
        await second.append(ONE, one(5))
        with pytest.raises(NotSequencer):
            await first.append(ONE, one(6))
        assert len(await everything(first)) == 6

        clock.advance(LEAD_SECONDS + 1)
        placed = await first.append(ONE, one(6))
        assert (placed.events[0].position, placed.events[0].version) == (6, 7)
        last = await verdict(first)
        assert (last.sound, last.checked) == (True, 7)


async def test_what_another_instance_published_is_known_to_whoever_gave_it_or_signs_next(
    postgres_database: Database, tmp_path: Path
) -> None:
    """Each has a file of its own that no restore brings back; the database may be older then."""
    clock, keys = ManualClock(NOW), tmp_path / "keys"
    backup = await kept(postgres_database)

    def instance(name: str) -> AbstractAsyncContextManager[LedgerService]:
        return ledger_on(
            postgres_database, tmp_path / name, clock=clock, holder=name, keys=keys, origin="here"
        )

    async with instance("first") as first, instance("second") as second:
        for number in range(3):
            await first.append(ONE, one(number))
        note = await first.checkpoint(ONE)
        assert await second.checkpoint(ONE) == note
    async with instance("third") as third:
        clock.advance(LEAD_SECONDS + 1)
        await third.append(ONE, one(3))
    for name in ("first", "second", "third"):
        clock.advance(LEAD_SECONDS + 1)
        await brought_back(postgres_database, backup)
        (tmp_path / name / "ledger" / "default.head").unlink(missing_ok=True)
        async with instance(name) as later:
            with pytest.raises(LedgerReadOnly, match="published"):
                await later.append(ONE, one(9))


async def test_an_instance_that_does_not_sign_gives_no_older_checkpoint_than_it_gave(
    postgres_database: Database, tmp_path: Path
) -> None:
    clock = ManualClock(NOW)
    async with two(postgres_database, tmp_path, clock) as (first, second):
        await first.append(ONE, one(1))
        await first.checkpoint(ONE)
        backup = await kept(postgres_database)
        await first.append(ONE, one(2))
        note = await first.checkpoint(ONE)
        assert await second.checkpoint(ONE) == note
        await brought_back(postgres_database, backup)
        with pytest.raises(LedgerReadOnly, match="a later one was published"):
            await second.checkpoint(ONE)


async def test_an_instance_that_slept_past_its_lease_cannot_append_any_more(
    postgres_database: Database, tmp_path: Path
) -> None:
    """It still believes that it leads: the fence in the append's transaction says no."""
    clock = ManualClock(NOW)
    async with two(postgres_database, tmp_path, clock) as (first, second):
        await first.append(ONE, one(1))
        asleep = first.log_of(ONE).leadership
        clock.advance(LEAD_SECONDS + 1)
        await second.log_of(ONE).open()
        assert asleep.opened is not None
        asleep.opened.until = clock.now() + (asleep.opened.until - NOW)
        with pytest.raises(NotSequencer, match="taken over"):
            await first.append(ONE, one(3))
        await second.append(ONE, one(2))
        assert [e.payload for e in await everything(second)] == [{"n": 1}, {"n": 2}]
