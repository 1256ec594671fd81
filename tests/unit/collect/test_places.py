"""An attempt and its places: asked for when needed, used in turn, given back when idle."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from holdfast.collect import places as module
from holdfast.collect.errors import HostBusy
from holdfast.collect.places import Places
from holdfast.fleet.model import PlacesHeld, PlacesWanted
from holdfast.fleet.places import Place, again_seconds, deal
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Conflict
from tests.support.waiting import until


class Dealer:
    """The rule of the coordinator over a table in memory; counts what is asked and under way."""

    def __init__(self, limit: int, turn_seconds: float = 0.05) -> None:
        self.limit, self.turn_seconds = limit, turn_seconds
        self.rows: dict[tuple[str, str], Place] = {}
        self.asked = self.busy = self.busiest = self.served = 0
        self.gone: set[str] = set()

    def of(self, task: str) -> Places:
        async def ask(wanted: PlacesWanted) -> PlacesHeld:
            await asyncio.sleep(0)
            if task in self.gone:
                raise Conflict("cannot ask: it is not held", code="stale-fence")
            self.asked += 1
            key = (wanted.source, task)
            mine = self.rows.get(key, Place(task, 0, f"{self.asked:06}"))
            others = [
                row for (source, name), row in self.rows.items()
                if source == wanted.source and name != task
            ]  # fmt: skip
            held = deal(mine, others, wanted, self.limit)
            since = f"{self.asked:06}" if wanted.turn or mine.held else mine.since
            self.rows[key] = Place(task, held, since, waits=held == 0 and wanted.places > 0)
            return PlacesHeld(
                places=held,
                turn_seconds=self.turn_seconds,
                again_seconds=again_seconds(mine, others) / 100,
            )

        return Places(ask, 1, SystemClock())

    async def request(self, places: Places, host: str, seconds: float = 0.002) -> None:
        async with places.at(host):
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            await asyncio.sleep(seconds)
            self.busy -= 1
            self.served += 1


async def test_many_attempts_share_a_host_and_ask_far_less_often_than_they_fetch() -> None:
    dealer = Dealer(2, turn_seconds=0.1)

    async def attempt(number: int) -> None:
        places = dealer.of(f"task-{number}")
        for _ in range(20):
            await asyncio.gather(*(dealer.request(places, "a:443") for _ in range(3)))
        await places.close()
        dealer.rows.pop(("a:443", f"task-{number}"))  # its lease is over

    async with asyncio.timeout(60):
        await asyncio.gather(*(attempt(number) for number in range(6)))
    assert dealer.served == 6 * 20 * 3
    assert dealer.busiest == 2
    alone = Dealer(4, turn_seconds=10)
    places = alone.of("task")
    for _ in range(100):
        await alone.request(places, "a:443", 0.001)
    await places.close()
    assert alone.asked == 1


async def test_what_is_not_used_is_given_back_and_what_is_in_use_is_kept() -> None:
    dealer = Dealer(4, turn_seconds=10)
    places = dealer.of("task")
    async with AsyncExitStack() as held:
        await held.enter_async_context(places.at("a:443"))
        await asyncio.gather(*(dealer.request(places, "a:443") for _ in range(3)))
        assert dealer.rows["a:443", "task"].held >= 2
        await until(lambda: dealer.rows["a:443", "task"].held == 1)
    await until(lambda: dealer.rows["a:443", "task"].held == 0)
    await dealer.request(places, "a:443")
    assert dealer.rows["a:443", "task"].held == 1
    await places.close()


async def test_two_that_need_each_others_hosts_both_go_on() -> None:
    """Each holds one host idle and asks for the other: what is idle comes back."""
    dealer = Dealer(1, turn_seconds=10)
    one, two = dealer.of("one"), dealer.of("two")
    await asyncio.gather(dealer.request(one, "a:443"), dealer.request(two, "b:443"))
    async with asyncio.timeout(60):
        await asyncio.gather(dealer.request(one, "b:443"), dealer.request(two, "a:443"))
    assert dealer.served == 4
    await asyncio.gather(one.close(), two.close())


async def test_waiting_ends_and_a_lost_lease_ends_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS_MAX", 0.2)
    dealer = Dealer(1, turn_seconds=10)
    holder, waiter = dealer.of("holder"), dealer.of("waiter")
    async with holder.at("a:443"):
        with pytest.raises(HostBusy) as caught:
            await dealer.request(waiter, "a:443")
        assert caught.value.retry_after_seconds
        # Who is let in waits for its own requests as long as they take.
        own = asyncio.create_task(dealer.request(holder, "a:443"))
        await asyncio.sleep(0.4)
        assert not own.done()
        dealer.gone.add("waiter")
        with pytest.raises(Conflict):
            await dealer.request(waiter, "a:443")
    async with asyncio.timeout(60):
        await own
    await asyncio.gather(holder.close(), waiter.close())
