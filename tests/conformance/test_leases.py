"""The promise of ``holdfast.leases``, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.kernel.clock import Clock, ManualClock, SystemClock
from holdfast.kernel.database import Database, open_database
from holdfast.kernel.errors import Conflict, Invalid
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import service
from holdfast.leases import InstanceGuard, Leases, MemoryLeases, SqlLeases, open_leases
from holdfast.leases.sql import FLUSH_SECONDS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HERE = service("coordinator")
ELSEWHERE = service("coordinator", TenantId("elsewhere"))


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def backend_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory"
    url: str = request.getfixturevalue(
        "sqlite_url" if request.param == "sqlite" else "postgres_url"
    )
    return url


@pytest.fixture
async def leases(backend_url: str) -> AsyncIterator[Leases]:
    async with opened(backend_url, SystemClock()) as found:
        yield found


@asynccontextmanager
async def opened(backend_url: str, clock: Clock) -> AsyncIterator[Leases]:
    if backend_url == "memory":
        yield MemoryLeases(clock)
        return
    async with (
        open_database(backend_url, clock=SystemClock()) as database,
        open_leases("sql://", database, clock) as found,
    ):
        yield found


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# --- beats ---------------------------------------------------------------------------------------


async def test_the_latest_beat_of_each_key_is_shown_at_once(leases: Leases) -> None:
    await leases.beat(HERE, "a", NOW, {"tasks": 1})
    await leases.beat(HERE, "a", after(5), {"tasks": 2})
    await leases.beat(HERE, "b", NOW)
    beats = await leases.beats(HERE)
    assert {key: beat.at for key, beat in beats.items()} == {"a": after(5), "b": NOW}
    assert beats["a"].data == {"tasks": 2}


async def test_time_never_goes_back_under_a_key(leases: Leases) -> None:
    await leases.beat(HERE, "a", after(5))
    await leases.beat(HERE, "a", NOW)
    assert (await leases.beats(HERE))["a"].at == after(5)


async def test_beats_belong_to_their_tenant(leases: Leases) -> None:
    await leases.beat(HERE, "a", NOW)
    await leases.beat(ELSEWHERE, "a", after(9))
    assert (await leases.beats(HERE))["a"].at == NOW
    await leases.forget(HERE, "a")
    assert await leases.beats(HERE) == {}
    assert set(await leases.beats(ELSEWHERE)) == {"a"}


async def test_forgetting_what_never_was_is_fine(leases: Leases) -> None:
    await leases.forget(HERE, "nobody")
    assert await leases.beats(HERE) == {}


async def test_a_beat_reaches_another_instance(database: Database) -> None:
    one, two = (SqlLeases(database, SystemClock()) for _ in range(2))
    await one.beat(HERE, "a", after(5))
    assert await two.beats(HERE) == {}
    await one.flush()
    assert (await two.beats(HERE))["a"].at == after(5)
    # The slower instance writes an older beat later: the newer one stays.
    await two.beat(HERE, "a", NOW)
    await two.flush()
    assert (await one.beats(HERE))["a"].at == after(5)


async def test_the_loop_writes_beats_every_second(database: Database) -> None:
    assert FLUSH_SECONDS == 1
    async with open_leases("sql://", database, SystemClock()) as one:
        await one.beat(HERE, "a", NOW)
        reader = SqlLeases(database, SystemClock())
        async with asyncio.timeout(60):
            while "a" not in await reader.beats(HERE):  # noqa: ASYNC110 — the other side is a database
                await asyncio.sleep(0.05)


async def test_closing_writes_what_was_heard(database: Database) -> None:
    async with open_leases("sql://", database, SystemClock()) as one:
        await one.beat(HERE, "a", NOW)
    assert set(await SqlLeases(database, SystemClock()).beats(HERE)) == {"a"}


# --- leadership ----------------------------------------------------------------------------------


async def test_one_leads_until_its_lease_ends(leases: Leases) -> None:
    assert await leases.lead(HERE, "sweep", "one", 10, NOW)
    assert not await leases.lead(HERE, "sweep", "two", 10, after(9.9))
    assert await leases.lead(HERE, "sweep", "two", 10, after(10))
    assert not await leases.lead(HERE, "sweep", "one", 10, after(11))


async def test_a_leader_renews(leases: Leases) -> None:
    assert await leases.lead(HERE, "sweep", "one", 10, NOW)
    assert await leases.lead(HERE, "sweep", "one", 10, after(8))
    assert not await leases.lead(HERE, "sweep", "two", 10, after(17))


async def test_resigning_lets_another_begin_at_once(leases: Leases) -> None:
    assert await leases.lead(HERE, "sweep", "one", 10, NOW)
    await leases.resign(HERE, "sweep", "two")
    assert not await leases.lead(HERE, "sweep", "two", 10, NOW)
    await leases.resign(HERE, "sweep", "one")
    assert await leases.lead(HERE, "sweep", "two", 10, NOW)


async def test_names_and_tenants_are_led_apart(leases: Leases) -> None:
    assert await leases.lead(HERE, "sweep", "one", 10, NOW)
    assert await leases.lead(HERE, "other", "two", 10, NOW)
    assert await leases.lead(ELSEWHERE, "sweep", "two", 10, NOW)


async def test_of_many_who_ask_at_once_one_leads(leases: Leases) -> None:
    answers = await asyncio.gather(
        *(leases.lead(HERE, "sweep", f"holder-{n}", 10, NOW) for n in range(8))
    )
    assert answers.count(True) == 1


# --- counters ------------------------------------------------------------------------------------


async def test_a_window_grants_its_limit_and_then_the_next_one_does(leases: Leases) -> None:
    async def ask(amount: int, seconds: float) -> tuple[bool, int]:
        taken = await leases.take(
            HERE, "host", amount, limit=5, window_seconds=60, now=after(seconds)
        )
        return taken.granted, taken.left

    assert await ask(3, 0) == (True, 2)
    assert await ask(3, 1) == (False, 2)
    assert await ask(2, 59) == (True, 0)
    assert await ask(1, 59) == (False, 0)
    assert await ask(5, 60) == (True, 0)


async def test_more_than_the_limit_is_never_granted(leases: Leases) -> None:
    taken = await leases.take(HERE, "host", 6, limit=5, window_seconds=60, now=NOW)
    assert (taken.granted, taken.left) == (False, 5)
    assert taken.resets_at == after(60)


async def test_counters_and_tenants_count_apart(leases: Leases) -> None:
    for principal, counter in ((HERE, "a"), (HERE, "b"), (ELSEWHERE, "a")):
        taken = await leases.take(principal, counter, 1, limit=1, window_seconds=60, now=NOW)
        assert taken.granted


async def test_of_many_who_ask_at_once_the_limit_is_granted(leases: Leases) -> None:
    answers = await asyncio.gather(
        *(leases.take(HERE, "host", 1, limit=5, window_seconds=60, now=NOW) for _ in range(12))
    )
    assert sum(answer.granted for answer in answers) == 5


async def test_durable_counters_survive_a_restart(database: Database) -> None:
    before = SqlLeases(database, SystemClock())
    assert before.durable
    await before.take(HERE, "host", 5, limit=5, window_seconds=86400, now=NOW)
    again = SqlLeases(database, SystemClock())
    taken = await again.take(HERE, "host", 1, limit=5, window_seconds=86400, now=after(60))
    assert not taken.granted


# --- wake-ups ------------------------------------------------------------------------------------


async def test_a_wake_ends_a_wait(leases: Leases) -> None:
    with leases.watch(HERE, ["tasks/collect", "tasks/other"]) as watch:
        waiting = asyncio.create_task(watch.wait(30))
        await asyncio.sleep(0)
        await leases.wake(HERE, "tasks/other")
        async with asyncio.timeout(20):
            assert await waiting


async def test_a_wake_before_the_wait_is_not_lost(leases: Leases) -> None:
    with leases.watch(HERE, ["tasks"]) as watch:
        await leases.wake(HERE, "tasks")
        async with asyncio.timeout(20):
            assert await watch.wait(30)
            assert not await watch.wait(0.01)


async def test_other_channels_and_tenants_do_not_wake(leases: Leases) -> None:
    with leases.watch(HERE, ["tasks"]) as watch:
        await leases.wake(HERE, "others")
        await leases.wake(ELSEWHERE, "tasks")
        assert not await watch.wait(0.05)


async def test_a_closed_watch_is_forgotten(leases: Leases) -> None:
    with leases.watch(HERE, ["tasks"]) as watch:
        pass
    await leases.wake(HERE, "tasks")
    assert not await watch.wait(0.01)


async def test_a_wait_ends_in_time_for_wakes_from_elsewhere(backend_url: str) -> None:
    """However long it was to be, and not before: by a clock that moves as far as is said."""
    clock = ManualClock(NOW)
    async with opened(backend_url, clock) as leases:
        with leases.watch(HERE, ["tasks"]) as watch:
            waiting = asyncio.create_task(watch.wait(10 * leases.wake_seconds_max))
            await turns()
            clock.advance(0.75 * leases.wake_seconds_max)
            await turns()
            assert not waiting.done()
            clock.advance(0.25 * leases.wake_seconds_max)
            await turns()
            assert waiting.done()
            assert not waiting.result()


async def turns() -> None:
    """Let everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- which backend, and how many instances -------------------------------------------------------


async def test_an_unknown_scheme_names_the_known_ones(sqlite_database: Database) -> None:
    with pytest.raises(Invalid) as refusal:
        async with open_leases("redis://x", sqlite_database, SystemClock()):
            pass
    assert "sql://" in refusal.value.hint


class AheadClock(SystemClock):
    """An hour ahead, until it is set right."""

    def now(self) -> datetime:
        return super().now() + timedelta(hours=1)


def guard(
    database: Database,
    instance: str,
    *,
    shared: bool,
    run: str = "1",
    clock: Clock | None = None,
) -> InstanceGuard:
    return InstanceGuard(
        database,
        clock or SystemClock(),
        role="coordinator",
        instance=instance,
        incarnation=f"{instance}-{run}",
        shared=shared,
    )


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
async def test_a_second_instance_is_refused_unless_both_share(
    database: Database, first: bool, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.leases.instances.INSTANCE_SECONDS", 4.0)
    async with guard(database, "host-a", shared=first):
        with pytest.raises(Conflict, match="host-a") as refusal:
            async with guard(database, "host-b", shared=second):
                pass
        assert refusal.value.code == "second-instance"


async def test_instances_that_share_run_side_by_side(database: Database) -> None:
    async with guard(database, "host-a", shared=True), guard(database, "host-b", shared=True):
        pass


async def test_an_instance_that_left_is_in_nobodys_way(database: Database) -> None:
    async with guard(database, "host-a", shared=False):
        pass
    async with asyncio.timeout(10), guard(database, "host-b", shared=False):
        pass


async def test_an_instance_that_was_killed_is_waited_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.leases.instances.INSTANCE_SECONDS", 0.6)
    killed = guard(database, "host-a", shared=False)
    await killed.__aenter__()
    assert killed._loop is not None
    killed._loop.cancel()
    async with asyncio.timeout(60), guard(database, "host-b", shared=False):
        pass


async def test_an_instance_that_was_killed_before_the_clock_was_set_back_is_waited_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.leases.instances.INSTANCE_SECONDS", 0.6)
    killed = guard(database, "host-a", shared=False, clock=AheadClock())
    await killed.__aenter__()
    assert killed._loop is not None
    killed._loop.cancel()
    async with asyncio.timeout(60), guard(database, "host-b", shared=False):
        pass


async def test_a_restart_takes_its_own_row_over_and_the_old_process_stops(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.leases.instances.INSTANCE_SECONDS", 0.3)
    began = asyncio.Event()

    async def old() -> None:
        async with guard(database, "host-a", shared=False):
            began.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(old())
    await began.wait()
    async with asyncio.timeout(60), guard(database, "host-a", shared=False, run="2"):
        with pytest.raises(Conflict) as end:
            await running
    assert end.value.code == "instance-taken-over"
