"""What the SQL backend does when its database does not answer, and how windows are cut."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.principal import service
from holdfast.leases import SqlLeases
from holdfast.leases.ports import Watch, window_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HERE = service("coordinator")


async def test_beats_that_could_not_be_written_are_kept_for_the_next_time(sqlite_url: str) -> None:
    async with open_database(sqlite_url, clock=SystemClock()) as database:
        leases = SqlLeases(database, SystemClock())
        await leases.beat(HERE, "a", NOW)
    with pytest.raises(Unavailable):
        await leases.flush()
    await leases.beat(HERE, "b", NOW)
    await leases.beat(HERE, "a", NOW + timedelta(seconds=5))
    async with open_database(sqlite_url, clock=SystemClock()) as again:
        leases._database = again
        await leases.flush()
        found = await SqlLeases(again, SystemClock()).beats(HERE)
    assert {key: beat.at for key, beat in found.items()} == {
        "a": NOW + timedelta(seconds=5),
        "b": NOW,
    }


@pytest.mark.parametrize(("seconds", "start"), [(0, 0), (59, 0), (60, 60), (61, 60)])
def test_windows_are_aligned_to_the_epoch(seconds: int, start: int) -> None:
    assert window_of(datetime.fromtimestamp(seconds, UTC), 60) == start


async def test_a_wait_follows_the_clock_it_was_given() -> None:
    clock = ManualClock(NOW)
    watch = Watch(clock, 60.0, lambda _: None)

    waiting = asyncio.create_task(watch.wait(10))
    await asyncio.sleep(0.01)
    clock.advance(9)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    clock.advance(1)
    async with asyncio.timeout(60):
        assert await waiting is False
