"""Turns at a host: how many at once, how often a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.outbound import HostLimiter


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


def worker(
    limiter: HostLimiter, host: str, log: list[str], release: asyncio.Event, **limits: int
) -> Callable[[str], Awaitable[None]]:
    async def work(name: str) -> None:
        async with limiter.slot(host, **limits):
            log.append(name)
            await release.wait()

    return work


async def test_no_more_than_the_allowed_number_are_under_way(clock: ManualClock) -> None:
    limiter, log, release = HostLimiter(clock, concurrency=2), [], asyncio.Event()
    work = worker(limiter, "a.test:80", log, release)
    async with asyncio.TaskGroup() as group:
        for name in "1234":
            group.create_task(work(name))
        await settle()
        assert log == ["1", "2"]
        release.set()
    assert log == ["1", "2", "3", "4"]


async def test_the_stricter_limit_counts_and_hosts_are_apart(clock: ManualClock) -> None:
    limiter, log, release = HostLimiter(clock, concurrency=4), [], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in "12":
            group.create_task(worker(limiter, "a.test:80", log, release, concurrency=1)(name))
        group.create_task(worker(limiter, "b.test:80", log, release, concurrency=9)("b"))
        await settle()
        assert sorted(log) == ["1", "b"]
        release.set()


async def test_a_waiter_that_gives_up_does_not_keep_its_place(clock: ManualClock) -> None:
    limiter, log, release = HostLimiter(clock, concurrency=1), [], asyncio.Event()
    work = worker(limiter, "a.test:80", log, release)
    tasks = [asyncio.create_task(work(name)) for name in "123"]
    await settle()
    tasks[1].cancel()
    await settle()
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == ["1", "3"]


async def test_a_waiter_that_gives_up_while_a_place_gets_free_is_cancelled_and_no_more(
    clock: ManualClock,
) -> None:
    limiter, log = HostLimiter(clock, concurrency=1), []
    others: list[asyncio.Task[None]] = []

    async def hold() -> None:
        async with limiter.slot("a.test:80"):
            await settle()
            others[0].cancel()  # it has not run again when this place is given up

    work = worker(limiter, "a.test:80", log, asyncio.Event())
    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    others.append(asyncio.create_task(work("2")))
    await holding
    [outcome] = await asyncio.gather(others[0], return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    assert log == []


async def test_a_place_given_in_the_moment_of_cancellation_is_passed_on(
    clock: ManualClock,
) -> None:
    limiter, log, release = HostLimiter(clock, concurrency=1), [], asyncio.Event()
    work = worker(limiter, "a.test:80", log, release)
    tasks = [asyncio.create_task(work(name)) for name in "123"]
    await settle()
    release.set()
    await asyncio.sleep(0)  # the first leaves and gives its place to the second ...
    tasks[1].cancel()  # ... which is cancelled before it runs
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log[0] == "1"
    assert log[-1] == "3"


async def test_starts_are_spread_evenly_over_the_minute(clock: ManualClock) -> None:
    limiter, starts = HostLimiter(clock, concurrency=10, requests_per_minute=60), []

    async def work() -> None:
        async with limiter.slot("a.test:80", requests_per_minute=6):
            starts.append(clock.monotonic())

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await settle()
    assert starts == [0.0]
    clock.advance(9.9)
    await settle()
    assert starts == [0.0]
    clock.advance(0.1)
    await settle()
    clock.advance(10)
    await asyncio.gather(*tasks)
    assert starts == [0.0, 10.0, 20.0]


async def test_a_host_that_asked_for_a_pause_gets_it(clock: ManualClock) -> None:
    limiter, log, release = HostLimiter(clock), [], asyncio.Event()
    release.set()
    limiter.pause("a.test:80", 30)
    task = asyncio.create_task(worker(limiter, "a.test:80", log, release)("a"))
    await worker(limiter, "b.test:80", log, release)("b")
    await settle()
    assert log == ["b"]
    clock.advance(30)
    await task
    assert log == ["b", "a"]
