"""The fleet over days in moments: the real service and loops, a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from holdfast.fleet import schedule_store
from holdfast.fleet import service as fleet_service
from holdfast.fleet.model import (
    Beat,
    Claim,
    CollectRequest,
    Complete,
    Task,
    TaskFilter,
    TaskStatus,
    TaskSubmit,
    WorkerStatus,
)
from holdfast.fleet.reconcile import FleetLoops
from holdfast.fleet.tasks import RELEASES_FREE_MAX
from holdfast.kernel.clock import SystemClock, parse_timestamp, timestamp
from holdfast.kernel.database import Database, open_database
from holdfast.kernel.errors import Conflict, HoldfastError, Unauthenticated, Unavailable
from holdfast.kernel.principal import Principal, service
from holdfast.leases import MemoryLeases, SqlLeases
from holdfast.registry.model import Schedule
from tests.support.fleet import OPERATOR, START, Rig, live_rig, rig
from tests.support.signing import PUBLIC_KEY
from tests.support.soaking import scale
from tests.support.waiting import until

COORDINATOR = service("coordinator")
DONE: dict[str, Any] = {"outcome": "succeeded"}


@pytest.fixture
async def here(sqlite_url: str) -> AsyncIterator[Rig]:
    async with open_database(sqlite_url, clock=SystemClock()) as database:
        yield rig(database)


async def after(here: Rig, loops: FleetLoops, seconds: float) -> None:
    """Let time pass in steps of at most a second's tick, with the loops running."""
    here.manual.advance(seconds)
    await loops.tick()


async def finish(here: Rig, worker: Principal, **end: Any) -> list[Task]:
    """Claim all there is to collect, and end it."""
    claimed = await here.fleet.claim(worker, Claim(limit=100))
    return [
        await here.fleet.complete(
            worker, each.task.id, Complete(**{"fence": each.task.fence} | (end or DONE))
        )
        for each in claimed
    ]


async def tasks_of(here: Rig, **filters: Any) -> list[Task]:
    found, _ = await here.fleet.list_tasks(OPERATOR, TaskFilter(**filters), limit=1000)
    return found


async def events(database: Database) -> Counter[str]:
    def unit(conn: Any) -> Counter[str]:
        rows = conn.execute(text("SELECT type FROM outbox WHERE tenant = 'default'"))
        return Counter(row.type for row in rows)

    return await database.read(COORDINATOR, unit)


# --- schedules -----------------------------------------------------------------------------------


async def test_a_six_hour_profile_runs_every_six_hours(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="6h"))
    starts: list[datetime] = []
    for _ in range(4 * 24 * 2):
        await loops.tick()
        for task in await finish(here, worker):
            starts.append(parse_timestamp(task.created_at))
        here.manual.advance(900)
        await here.fleet.beat(worker, Beat())
    assert starts[0] == START
    assert [b - a for a, b in itertools.pairwise(starts)] == [timedelta(hours=6)] * 7


async def test_a_cron_profile_runs_at_its_hour(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(cron="30 6 * * *", timezone="Europe/Berlin"))
    starts = []
    for _ in range(3 * 48):
        await loops.tick()
        starts += [task.created_at for task in await finish(here, worker)]
        here.manual.advance(1800)
        await here.fleet.beat(worker, Beat())
    assert starts == [
        "2026-03-02T05:30:00.000000Z",
        "2026-03-03T05:30:00.000000Z",
        "2026-03-04T05:30:00.000000Z",
    ]


async def test_profiles_without_a_schedule_run_only_when_asked(here: Rig) -> None:
    loops = here.loops()
    here.registry.publish("rain")
    for _ in range(10):
        await after(here, loops, 3600)
    assert await tasks_of(here) == []
    await here.fleet.collect(OPERATOR, CollectRequest(profile="rain"))
    assert len(await tasks_of(here)) == 1


async def test_each_profile_is_collected_once_at_start_when_asked(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops(collect_at_start=True)
    here.registry.publish("rain")
    here.registry.publish("snow", Schedule(every="6h"))
    await loops.tick()
    done = await finish(here, worker)
    assert sorted(task.exclusive for task in done) == ["profile:rain", "profile:snow"]
    await after(here, loops, 60)
    assert await finish(here, worker) == []


async def test_a_moment_at_which_a_run_is_under_way_is_that_runs(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    [begun] = await here.fleet.claim(worker, Claim())
    here.manual.advance(3600)
    await loops.run_schedules(COORDINATOR)
    [planned] = await here.fleet.schedules(OPERATOR)
    assert (planned.last_task, planned.last_at) == (begun.task.id, begun.task.created_at)
    assert planned.next_at == timestamp(START + timedelta(hours=2))


async def test_a_profile_that_cannot_be_started_keeps_no_other_from_it(here: Rig) -> None:
    loops = here.loops()
    for name in ("fog", "rain", "snow"):
        here.registry.publish(name, Schedule(every="1h"))
    wrong = msgspec.structs.replace(here.registry.profiles["rain"], digest="x" * 70_000)
    here.registry.profiles["rain"] = wrong
    await loops.tick()
    assert sorted(task.exclusive for task in await tasks_of(here)) == [
        "profile:fog", "profile:snow",
    ]  # fmt: skip


async def test_a_remapping_is_of_the_version_it_was_asked_for(here: Rig) -> None:
    loops = here.loops()
    old = here.registry.publish("rain")
    here.registry.publish("rain", version=2)
    wanted = CollectRequest(profile="rain", remap=True, digest=old.digest)
    task = await here.fleet.collect(OPERATOR, wanted)
    for _ in range(3):
        await after(here, loops, 10)
    found = await here.fleet.show_task(OPERATOR, task.id)
    assert (found.status, found.payload["digest"]) == (TaskStatus.QUEUED, old.digest)


async def test_a_registry_that_does_not_answer_keeps_no_lease_from_ending(here: Rig) -> None:
    worker = await here.worker()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [claimed] = await here.fleet.claim(worker, Claim(kinds=["work"]))

    async def silent(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    here.registry.runnable = silent  # type: ignore[method-assign]

    async def queued() -> bool:
        here.manual.advance(5)
        found = await here.fleet.show_task(OPERATOR, claimed.task.id)
        return found.status is TaskStatus.QUEUED

    async with here.loops():
        await until(queued)


async def test_what_is_paused_never_runs_not_even_what_waits_already(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    [queued] = await tasks_of(here)
    here.registry.withdraw("rain")
    await after(here, loops, 1)
    cancelled = await here.fleet.show_task(OPERATOR, queued.id)
    assert (cancelled.status, cancelled.code) == (TaskStatus.CANCELLED, "profile-not-runnable")
    for _ in range(5):
        await after(here, loops, 3600)
        await here.fleet.beat(worker, Beat())
    assert await finish(here, worker) == []
    [planned] = await here.fleet.schedules(OPERATOR)
    assert planned.next_at is None
    # Taken up again, it goes on from its last start: that was long ago, so now.
    here.registry.publish("rain", Schedule(every="1h"))
    await after(here, loops, 1)
    assert len(await finish(here, worker)) == 1


async def test_a_new_version_takes_the_place_of_a_waiting_run_of_the_old(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    newest = here.registry.publish("rain", Schedule(every="1h"), version=2)
    await after(here, loops, 1)
    await after(here, loops, 1)
    [claimed] = await here.fleet.claim(worker, Claim(limit=9))
    assert claimed.task.payload["digest"] == newest.digest


async def test_a_changed_schedule_is_honoured_at_once(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="6h"))
    await loops.tick()
    assert len(await finish(here, worker)) == 1
    here.registry.publish("rain", Schedule(every="10m"))
    await after(here, loops, 599)
    assert await finish(here, worker) == []
    await after(here, loops, 1)
    assert len(await finish(here, worker)) == 1


async def test_a_run_that_takes_longer_than_its_interval_is_not_doubled(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1m"))
    await loops.tick()
    [claimed] = await here.fleet.claim(worker, Claim())
    for _ in range(40):
        await after(here, loops, 15)
        await here.fleet.beat(worker, Beat(leases={claimed.task.id: claimed.task.fence}))
    assert len(await tasks_of(here)) == 1
    await here.fleet.complete(
        worker, claimed.task.id, Complete(fence=claimed.task.fence, outcome="succeeded")
    )
    await after(here, loops, 60)
    assert len(await tasks_of(here, status=TaskStatus.QUEUED)) == 1


async def test_after_a_long_stop_one_run_stands_for_all_that_were_missed(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    await finish(here, worker)
    here.manual.advance(3 * 86400 + 600)
    again = here.again()
    restarted = again.loops()
    await restarted.tick()
    await restarted.tick()
    assert len(await finish(again, worker)) == 1
    [planned] = await again.fleet.schedules(OPERATOR)
    assert planned.next_at == timestamp(START + timedelta(days=3, hours=1))


async def test_a_loop_that_is_busy_when_there_is_something_new_looks_again(
    here: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Counter[str] = Counter()
    done = asyncio.Event()

    async def quick() -> None:
        turns["quick"] += 1

    async def busy() -> None:
        turns["busy"] += 1
        await done.wait()

    loops = here.loops()
    monkeypatch.setattr(loops, "keep_tasks", quick)
    monkeypatch.setattr(loops, "ask_neighbours", busy)
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    async with loops:  # the clock stands still: there is no other reason to look
        await until(lambda: turns == {"quick": 1, "busy": 1})
        await here.fleet.cancel(OPERATOR, task.id)
        await until(lambda: turns == {"quick": 2, "busy": 1})
        done.set()
        await until(lambda: turns == {"quick": 2, "busy": 2})


async def test_a_schedule_that_names_no_moment_says_so(here: Rig) -> None:
    loops = here.loops()
    here.registry.publish("rain", Schedule(cron="0 0 30 2 *"))
    await loops.tick()
    [planned] = await here.fleet.schedules(OPERATOR)
    assert planned.next_at is None
    assert "cannot schedule" in planned.problem
    assert await tasks_of(here) == []


async def test_many_profiles_with_jitter_do_not_start_together(here: Rig) -> None:
    loops = here.loops()
    for n in range(30):
        here.registry.publish(f"p{n}", Schedule(every="1h", jitter="30m"))
    at_once = []
    for _ in range(60):
        before = len(await tasks_of(here))
        await after(here, loops, 30)
        at_once.append(len(await tasks_of(here)) - before)
    assert sum(at_once) == 30
    assert max(at_once) <= 5


async def test_a_registry_that_is_down_stops_nothing_else(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    here.registry.failure = Unavailable("down")
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="collect", payload=_payload(here)))
    await here.fleet.claim(worker, Claim())
    await after(here, loops, 60)
    await after(here, loops, 60)
    assert (await here.fleet.show_task(OPERATOR, task.id)).status is TaskStatus.QUEUED
    here.registry.failure = None
    await after(here, loops, 1)
    assert {task.exclusive for task in await tasks_of(here)} >= {"profile:rain"}


async def test_a_database_that_is_down_is_waited_for_once_a_turn_not_once_a_profile(
    here: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops, write, wake = here.loops(), here.database.write, here.leases.wake
    names = ("rain", "snow", "fog", "hail")
    for name in names:
        here.registry.publish(name, Schedule(every="1h"))
    asked: list[bool] = []
    woken: list[str] = []

    async def goes_away(*args: Any, **kwargs: Any) -> Any:
        asked.append(True)
        if len(asked) > 3:  # the first profile is planned and begun, the second planned
            raise Unavailable("cannot use the database: it is away")
        return await write(*args, **kwargs)

    async def noted(principal: Principal, *keys: str) -> None:
        woken.extend(keys)
        await wake(principal, *keys)

    monkeypatch.setattr(here.leases, "wake", noted)
    with monkeypatch.context() as away:
        away.setattr(here.database, "write", goes_away)
        with pytest.raises(Unavailable):
            await loops.run_schedules(COORDINATOR)
    assert len(asked) == 4
    assert woken == ["tasks/collect"], "what was begun is taken up"
    await loops.run_schedules(COORDINATOR)
    assert {task.exclusive for task in await tasks_of(here)} == {f"profile:{n}" for n in names}


def _payload(here: Rig, profile: str = "other") -> dict[str, Any]:
    return {"run": here.new_id(), "profile": profile, "digest": f"sha256:{1:064x}"}


# --- leases and workers --------------------------------------------------------------------------


async def test_a_lease_without_beats_runs_out_and_the_task_goes_to_another(here: Rig) -> None:
    silent, other = await here.worker("silent"), await here.worker("other")
    loops = here.loops()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(silent, Claim(kinds=["work"]))
    await after(here, loops, 29)
    await here.fleet.beat(other, Beat())
    assert (await here.fleet.show_task(OPERATOR, held.task.id)).status is TaskStatus.LEASED
    await after(here, loops, 1)
    await after(here, loops, 10)
    [again] = await here.fleet.claim(other, Claim(kinds=["work"]))
    assert again.task.id == held.task.id
    assert again.task.fence > held.task.fence
    [attempt] = (await here.fleet.show_task(OPERATOR, held.task.id)).history
    assert (attempt.code, attempt.worker) == ("lease-expired", silent.subject)
    answer = await here.fleet.beat(silent, Beat(leases={held.task.id: held.task.fence}))
    assert answer.lost == [held.task.id]


async def test_beats_keep_a_lease_for_as_long_as_it_takes(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    for _ in range(200):
        await after(here, loops, 5)
        answer = await here.fleet.beat(worker, Beat(leases={held.task.id: held.task.fence}))
        assert list(answer.renewed) == [held.task.id]
    done = await here.fleet.complete(
        worker, held.task.id, Complete(fence=held.task.fence, outcome="succeeded")
    )
    assert done.attempts == 1


async def test_a_silent_worker_is_lost_and_a_beat_brings_it_back(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", lease_seconds=3600))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    await after(here, loops, 30)
    [shown], _ = await here.fleet.list_workers(OPERATOR)
    assert shown.status is WorkerStatus.ALIVE
    await after(here, loops, 1)
    [shown], _ = await here.fleet.list_workers(OPERATOR)
    assert (shown.status, shown.leases) == (WorkerStatus.LOST, 0)
    [attempt] = (await here.fleet.show_task(OPERATOR, held.task.id)).history
    assert attempt.code == "worker-lost"
    answer = await here.fleet.beat(worker, Beat(leases={held.task.id: held.task.fence}))
    assert answer.lost == [held.task.id]
    [shown], _ = await here.fleet.list_workers(OPERATOR)
    assert shown.status is WorkerStatus.ALIVE
    assert (await events(here.database))["worker.lost"] == 1


async def test_for_one_lease_time_after_a_start_nothing_expires(here: Rig) -> None:
    worker = await here.worker()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    # The coordinator is away for an hour; the worker goes on.
    here.manual.advance(3600)
    again = here.again()
    loops = again.loops()
    await loops.tick()
    await after(again, loops, 29)
    assert (await again.fleet.show_task(OPERATOR, held.task.id)).status is TaskStatus.LEASED
    answer = await again.fleet.beat(worker, Beat(leases={held.task.id: held.task.fence}))
    assert list(answer.renewed) == [held.task.id]
    await after(again, loops, 29)
    assert (await again.fleet.show_task(OPERATOR, held.task.id)).attempts == 1
    # Another that never speaks again loses its lease after that time.
    await after(again, loops, 2)
    await after(again, loops, 30)
    assert (await again.fleet.show_task(OPERATOR, held.task.id)).status is TaskStatus.QUEUED


async def test_a_task_that_kills_its_workers_is_dead_in_the_end(here: Rig) -> None:
    loops = here.loops()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", attempts_max=3))
    for n in range(3):
        worker = await here.worker(f"drone-{n}")
        assert len(await here.fleet.claim(worker, Claim(kinds=["work"]))) == 1
        await after(here, loops, 31)
        await after(here, loops, 60)
    [dead] = await tasks_of(here, status=TaskStatus.DEAD)
    assert dead.code in ("lease-expired", "worker-lost")
    assert (await events(here.database))["task.dead"] == 1


async def test_what_nobody_finished_by_its_deadline_is_dead(here: Rig) -> None:
    loops = here.loops()
    deadline = timestamp(START + timedelta(minutes=5))
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", deadline=deadline))
    await after(here, loops, 299)
    assert (await here.fleet.show_task(OPERATOR, task.id)).status is TaskStatus.QUEUED
    await after(here, loops, 1)
    shown = await here.fleet.show_task(OPERATOR, task.id)
    assert (shown.status, shown.code) == (TaskStatus.DEAD, "deadline-passed")


async def test_an_unreachable_source_is_tried_again_at_growing_distance(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    tries = []
    for _ in range(400):
        for task in await finish(here, worker, outcome="failed", code="source-unreachable"):
            tries.append((here.manual.now() - START).total_seconds())
            last = task
        if len(tries) == 4:
            break
        await after(here, loops, 1)
        await here.fleet.beat(worker, Beat())
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert 5 <= gaps[0] <= 11
    assert 10 <= gaps[1] <= 21
    assert 20 <= gaps[2] <= 41
    assert (last.status, last.attempts) == (TaskStatus.DEAD, 4)


async def test_a_waiting_claim_is_woken_when_a_backoff_ends(here: Rig) -> None:
    worker = await here.worker()
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    await here.fleet.complete(worker, task.id, Complete(fence=held.task.fence, outcome="failed"))
    waiting = asyncio.create_task(here.fleet.claim(worker, Claim(kinds=["work"], wait_seconds=30)))
    await asyncio.sleep(0.02)
    # Only the loops look at the clock now: the claim itself would look again in five seconds.
    here.manual._now += timedelta(seconds=11)
    await here.loops().tick()
    async with asyncio.timeout(20):
        [again] = await waiting
    assert again.task.attempts == 2


# --- what goes back to the queue -----------------------------------------------------------------


async def test_a_lease_whose_answer_was_lost_goes_to_another_by_the_next_beat(here: Rig) -> None:
    deaf, other = await here.worker("deaf"), await here.worker("other")
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", lease_seconds=3600))
    [unheard] = await here.fleet.claim(deaf, Claim(kinds=["work"], number=7))
    waiting = asyncio.create_task(here.fleet.claim(other, Claim(kinds=["work"], wait_seconds=30)))
    # While that claim may still be answered, and for beats from before it, nothing is settled.
    for before in (None, 6):
        assert (await here.fleet.beat(deaf, Beat(settled=before))).claim_number == 7
    assert (await here.fleet.show_task(OPERATOR, task.id)).status is TaskStatus.LEASED
    await here.fleet.beat(deaf, Beat(settled=7))
    async with asyncio.timeout(20):
        [again] = await waiting
    assert (again.task.id, again.task.attempts) == (task.id, 1)
    assert again.task.fence > unheard.task.fence
    # The fence of the lost lease is as dead as any other's.
    with pytest.raises(Conflict) as refused:
        await here.fleet.complete(deaf, task.id, Complete(fence=unheard.task.fence, **DONE))
    assert refused.value.code == "stale-fence"
    [attempt] = (await here.fleet.show_task(OPERATOR, task.id)).history
    assert (attempt.code, attempt.attempt) == ("lease-unheard", 1)
    assert (await events(here.database))["task.released"] == 1


async def test_a_lease_that_was_listed_once_is_not_given_away_by_a_beat_that_forgets_it(
    here: Rig,
) -> None:
    """A worker that was killed over a task has heard of it: that attempt counts."""
    worker, loops = await here.worker(), here.loops()
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"], number=1))
    await here.fleet.beat(worker, Beat(leases={task.id: held.task.fence}, settled=1))
    await here.fleet.beat(worker, Beat(settled=9))
    assert (await here.fleet.show_task(OPERATOR, task.id)).status is TaskStatus.LEASED
    await after(here, loops, 31)
    expired = await here.fleet.show_task(OPERATOR, task.id)
    assert (expired.status, expired.attempts) == (TaskStatus.QUEUED, 1)


async def test_a_worker_that_counts_no_claims_is_treated_as_before(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    await here.fleet.claim(worker, Claim(kinds=["work"]))
    await here.fleet.beat(worker, Beat(settled=2**40))
    assert (await here.fleet.show_task(OPERATOR, task.id)).status is TaskStatus.LEASED
    await after(here, loops, 31)
    assert (await here.fleet.show_task(OPERATOR, task.id)).attempts == 1


async def test_a_claim_that_is_under_way_while_its_worker_leaves_leases_nothing(here: Rig) -> None:
    worker = await here.worker()
    waiting = asyncio.create_task(
        here.fleet.claim(worker, Claim(kinds=["work"], wait_seconds=30, number=4))
    )
    await asyncio.sleep(0)
    answer = await here.fleet.beat(worker, Beat(settled=4, leaving=True))
    assert answer.claim_number == 4
    task = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    async with asyncio.timeout(20):
        with pytest.raises(Conflict) as refused:
            await waiting
    assert refused.value.code == "claim-settled"
    assert (await here.fleet.show_task(OPERATOR, task.id)).attempts == 0
    # Whoever has the name next counts on from there, though it registers anew.
    same = await here.worker()
    assert same.subject == worker.subject
    assert (await here.fleet.beat(same, Beat())).claim_number == 4
    [claimed] = await here.fleet.claim(same, Claim(kinds=["work"], number=5))
    assert claimed.task.id == task.id


@pytest.mark.parametrize("graceful", ["given back", "unheard"])
async def test_any_number_of_rolling_restarts_end_no_task(here: Rig, graceful: str) -> None:
    """Four used to be enough: each took one of the attempts a run has."""
    loops = here.loops()
    here.registry.publish("rain", Schedule(every="6h"))
    await loops.tick()
    [task] = await tasks_of(here)
    for number in range(1, 13):
        worker = await here.worker(f"drone-{number % 3}")
        [held] = await here.fleet.claim(worker, Claim(number=number))
        if graceful == "given back":
            await here.fleet.beat(worker, Beat(leases={task.id: held.task.fence}, settled=number))
            await here.fleet.complete(
                worker, task.id, Complete(fence=held.task.fence, outcome="released")
            )
        await here.fleet.beat(worker, Beat(settled=number, leaving=True))
        shown = await here.fleet.show_task(OPERATOR, task.id)
        assert (shown.status, shown.attempts) == (TaskStatus.QUEUED, 0)
        await after(here, loops, 1)
    worker = await here.worker("drone-3")
    [done] = await finish(here, worker)
    assert (done.id, done.status, done.attempts) == (task.id, TaskStatus.SUCCEEDED, 1)
    assert here.runs.closed == []


async def test_a_task_that_is_given_back_again_and_again_is_dead_in_the_end(here: Rig) -> None:
    """Whoever takes it up ends before its first beat: that is the task's doing."""
    worker, loops = await here.worker(), here.loops()
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", attempts_max=2))
    claims = 0
    while not await tasks_of(here, status=TaskStatus.DEAD):
        claims += len(await here.fleet.claim(worker, Claim(kinds=["work"], number=claims + 1)))
        await here.fleet.beat(worker, Beat(settled=claims))
        await after(here, loops, 15)
        assert claims < 1000
    assert claims == 2 * (RELEASES_FREE_MAX + 1)


async def test_a_task_that_is_given_back_keeps_its_place(here: Rig) -> None:
    worker = await here.worker()
    first = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    here.manual.advance(1)
    await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    back = Complete(fence=held.task.fence, outcome="released", code="drone-stopped")
    told = await here.fleet.complete(worker, first.id, back)
    assert (told.status, told.attempts, told.code) == (TaskStatus.QUEUED, 0, "drone-stopped")
    # Told again, because the answer was lost, it is no other answer.
    assert (await here.fleet.complete(worker, first.id, back)).status is TaskStatus.QUEUED
    [again] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    assert (again.task.id, again.task.attempts) == (first.id, 1)


# --- what is forgotten ---------------------------------------------------------------------------


async def test_finished_tasks_are_forgotten_after_their_time_and_no_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "PRUNE_BATCH", 3)
    here = rig(database)
    worker, loops = await here.worker(), here.loops()
    for name in ("rain", "snow"):
        here.registry.publish(name)
    for end in ("succeeded", "failed"):
        for _ in range(4):
            await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", attempts_max=1))
        for each in await here.fleet.claim(worker, Claim(kinds=["work"], limit=4)):
            done = Complete(**{"fence": each.task.fence, "outcome": end})
            await here.fleet.complete(worker, each.task.id, done)
    # Its run is not closed yet, since nobody answers: it is not forgotten.
    here.runs.failures = [Unavailable("down") for _ in range(100)]
    rain = await here.fleet.collect(OPERATOR, CollectRequest(profile="rain"))
    await here.fleet.claim(worker, Claim())
    await here.fleet.cancel(OPERATOR, rain.id)
    waiting = await here.fleet.submit(OPERATOR, TaskSubmit(kind="later"))
    here.manual.advance(40 * 86400)
    young = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    await here.fleet.beat(worker, Beat())
    [each] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    await here.fleet.complete(worker, young.id, Complete(fence=each.task.fence, **DONE))
    before = here.clock.now() - timedelta(days=30)
    assert await here.fleet.prune(OPERATOR, before, dry_run=True) == 8
    assert await here.fleet.prune(OPERATOR, before, limit=5) == 5
    assert await here.fleet.prune(OPERATOR, before) == 3
    assert await here.fleet.prune(OPERATOR, before) == 0
    assert {task.id for task in await tasks_of(here)} == {rain.id, waiting.id, young.id}
    attempts = text("SELECT count(*) FROM task_attempts WHERE tenant = 'default'")
    assert await database.read(OPERATOR, lambda conn: conn.execute(attempts).scalar_one()) == 0
    # Once its run is closed it goes, too.
    here.runs.failures = []
    for _ in range(3):
        await after(here, loops, 3600)
    assert len(here.runs.closed) == 1
    assert await here.fleet.prune(OPERATOR, before) == 1


# --- closing runs --------------------------------------------------------------------------------


async def test_the_run_of_a_cancelled_or_dead_task_is_closed_once(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    for name in ("rain", "snow", "never"):
        here.registry.publish(name)
    rain = await here.fleet.collect(OPERATOR, CollectRequest(profile="rain"))
    snow = await here.fleet.collect(OPERATOR, CollectRequest(profile="snow"))
    claimed = {each.task.id: each for each in await here.fleet.claim(worker, Claim(limit=9))}
    never = await here.fleet.collect(OPERATOR, CollectRequest(profile="never"))
    await here.fleet.cancel(OPERATOR, never.id)
    await here.fleet.cancel(OPERATOR, rain.id, "not now")
    await here.fleet.complete(
        worker,
        snow.id,
        Complete(fence=claimed[snow.id].task.fence, outcome="failed", code="bad", retry=False),
    )
    await loops.tick()
    await after(here, loops, 60)
    closed = {each["run"]: each for each in here.runs.closed}
    assert len(here.runs.closed) == 2
    cancelled = closed[rain.payload["run"]]
    assert (cancelled["outcome"], cancelled["reason"]) == ("cancelled", "not now")
    assert cancelled["fence"] == claimed[rain.id].task.fence
    assert (cancelled["task"], cancelled["profile"]) == (rain.id, "rain")
    failed = closed[snow.payload["run"]]
    assert (failed["outcome"], failed["code"]) == ("failed", "bad")


async def test_closing_is_tried_until_the_aggregator_answers(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain")
    task = await here.fleet.collect(OPERATOR, CollectRequest(profile="rain"))
    await here.fleet.claim(worker, Claim())
    here.runs.failures = [Unavailable("down") for _ in range(3)]
    await here.fleet.cancel(OPERATOR, task.id)
    await loops.tick()
    assert here.runs.closed == []
    again = here.again()
    loops = again.loops()
    for _ in range(20):
        await after(again, loops, 1)
    assert len(here.runs.closed) == 1


async def test_an_aggregator_that_is_away_is_asked_once_in_a_turn(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    tasks = []
    for name in ("rain", "snow", "fog"):
        here.registry.publish(name)
        tasks.append(await here.fleet.collect(OPERATOR, CollectRequest(profile=name)))
    await here.fleet.claim(worker, Claim(limit=3))
    for task in tasks:
        await here.fleet.cancel(OPERATOR, task.id)
    here.runs.failures = [Unavailable("down")]
    await loops.close_runs(COORDINATOR)
    assert here.runs.closed == []
    for _ in range(20):
        await after(here, loops, 1)
    assert len(here.runs.closed) == 3


async def test_a_run_that_needs_no_closing_is_left_alone(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain")
    task = await here.fleet.collect(OPERATOR, CollectRequest(profile="rain"))
    await here.fleet.claim(worker, Claim())
    here.runs.failures = [Conflict("it has succeeded")]
    await here.fleet.cancel(OPERATOR, task.id)
    for _ in range(10):
        await after(here, loops, 10)
    assert here.runs.closed == []
    assert here.runs.failures == []


# --- restarts, several instances, storms ---------------------------------------------------------


async def test_a_restart_loses_nothing(database: Database) -> None:
    here = rig(database)
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    queued = await here.fleet.submit(OPERATOR, TaskSubmit(kind="work", priority=3))
    [held] = await here.fleet.claim(worker, Claim())
    before = await tasks_of(here)
    schedules = await here.fleet.schedules(OPERATOR)

    again = here.again()
    assert await tasks_of(again) == before
    assert await again.fleet.schedules(OPERATOR) == schedules
    assert (await again.fleet.claim(worker, Claim(kinds=["work"])))[0].task.id == queued.id
    done = await again.fleet.complete(
        worker, held.task.id, Complete(fence=held.task.fence, outcome="succeeded")
    )
    assert done.status is TaskStatus.SUCCEEDED
    again.manual.advance(3600)
    await again.fleet.beat(worker, Beat())
    await again.loops().tick()
    assert len(await tasks_of(again, kind="collect")) == 2


async def test_a_worker_that_was_forgotten_registers_again_by_itself(
    sqlite_url: str, postgres_url: str
) -> None:
    async with (
        open_database(sqlite_url, clock=SystemClock()) as one,
        open_database(postgres_url, clock=SystemClock()) as two,
    ):
        before, elsewhere = rig(one), rig(two, seed=3)
        await before.worker("drone-1")
        token = await elsewhere.token()
        from holdfast.fleet.model import WorkerRegister

        credential = await elsewhere.fleet.register(
            token, WorkerRegister(name="drone-1", key=PUBLIC_KEY)
        )
        with pytest.raises(Unauthenticated) as refusal:
            await before.fleet.authenticate_worker(credential.credential)
        assert refusal.value.code == "worker-unknown"


async def test_two_coordinators_on_one_database_never_lease_a_task_twice(
    postgres_url: str,
) -> None:
    async with (
        open_database(postgres_url, clock=SystemClock()) as first,
        open_database(postgres_url, clock=SystemClock()) as second,
    ):
        here = live_rig(first, leases=SqlLeases(first, SystemClock()))
        there = live_rig(second, leases=SqlLeases(second, SystemClock()), seed=5)
        workers = [await here.worker(f"drone-{n}") for n in range(6)]
        for start in range(0, 300, 100):
            await here.fleet.submit_many(
                OPERATOR, [TaskSubmit(kind="work") for _ in range(start, start + 100)]
            )
        given: list[tuple[str, int]] = []

        async def drone(worker: Principal, fleet: Any) -> None:
            while claimed := await fleet.claim(worker, Claim(kinds=["work"], limit=7)):
                given.extend((each.task.id, each.task.fence) for each in claimed)
                for each in claimed:
                    await fleet.complete(
                        worker,
                        each.task.id,
                        Complete(fence=each.task.fence, outcome="succeeded"),
                    )

        await asyncio.gather(
            *(drone(worker, (here, there)[n % 2].fleet) for n, worker in enumerate(workers))
        )
        # A claim may come back empty while the other instance holds what is left; none is lost.
        while claimed := await there.fleet.claim(workers[0], Claim(kinds=["work"], limit=50)):
            given.extend((each.task.id, each.task.fence) for each in claimed)
        assert len(given) == len({task for task, _ in given}) == 300
        assert len({fence for _, fence in given}) == 300


async def test_two_coordinators_start_a_due_profile_once(postgres_url: str) -> None:
    async with (
        open_database(postgres_url, clock=SystemClock()) as first,
        open_database(postgres_url, clock=SystemClock()) as second,
    ):
        here = rig(first)
        there = rig(second, clock=here.clock, registry=here.registry, seed=5)
        for n in range(10):
            here.registry.publish(f"p{n}", Schedule(every="1h"))
        worker = await here.worker()
        one, two = here.loops(), there.loops()
        for _ in range(4):
            # Without a leader between them: the rows alone must settle it.
            await asyncio.gather(
                one.run_schedules(COORDINATOR),
                two.run_schedules(COORDINATOR),
            )
            await finish(here, worker)
            here.manual.advance(1800)
        assert Counter(task.exclusive for task in await tasks_of(here)) == {
            f"profile:p{n}": 2 for n in range(10)
        }


async def test_a_coordinator_that_looked_long_ago_starts_nothing(database: Database) -> None:
    here = rig(database)
    worker, loops = await here.worker(), here.loops()
    profile = here.registry.publish("rain", Schedule(every="1h"))
    await loops.tick()
    await finish(here, worker)
    here.manual.advance(3600)
    await here.fleet.beat(worker, Beat())
    # What a slower coordinator saw, before the quicker one started and finished the run.
    [seen] = await database.read(COORDINATOR, lambda c: schedule_store.read_schedules(c, "default"))
    await loops.tick()
    assert len(await finish(here, worker)) == 1
    late = here.again(seed=5).loops()
    assert await late._fire(COORDINATOR, profile, seen, here.clock.now()) == []
    assert await tasks_of(here, status=TaskStatus.QUEUED) == []


async def test_one_of_two_coordinators_leads_and_the_other_takes_over(
    database: Database,
) -> None:
    here = rig(database, leases=MemoryLeases(SystemClock()))
    there = rig(database, clock=here.clock, leases=here.leases, runs=here.runs, seed=5)
    await here.fleet.submit(
        OPERATOR, TaskSubmit(kind="work", deadline=timestamp(START + timedelta(seconds=5)))
    )
    one, two = here.loops(), there.loops()
    await one.tick()
    here.manual.advance(6)
    await two.tick()
    assert len(await tasks_of(here, status=TaskStatus.QUEUED)) == 1
    here.manual.advance(6)
    await two.tick()
    assert len(await tasks_of(here, status=TaskStatus.DEAD)) == 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 1 + 3 * scale()))
async def test_a_storm_of_drones_and_restarts_runs_each_profile_one_at_a_time(
    sqlite_url: str, seed: int
) -> None:
    """Drones crash, stall, come back late; the coordinator is restarted; time jumps."""
    chance = random.Random(seed)
    async with open_database(sqlite_url, clock=SystemClock()) as database:
        here = rig(database, seed=seed)
        for n in range(4):
            here.registry.publish(f"p{n}", Schedule(every="5m"))
        names = [f"drone-{n}" for n in range(5)]
        workers = {name: await here.worker(name) for name in names}
        loops = here.loops()
        held: dict[str, dict[str, Task]] = {name: {} for name in names}
        claims: Counter[str] = Counter()
        finished: Counter[str] = Counter()
        for turn in range(150):
            await after(here, loops, chance.choice([1, 3, 10, 40]))
            name = chance.choice(names)
            worker = workers[name]
            if chance.random() < 0.5:
                claims[name] += 1
                brought = await here.fleet.claim(worker, Claim(limit=2, number=claims[name]))
                if chance.random() < 0.8:  # else the answer is lost
                    held[name] |= {each.task.id: each.task for each in brought}
            if held[name] and chance.random() < 0.4:
                task = held[name].pop(chance.choice(list(held[name])))
                outcome = chance.choice(["succeeded", "succeeded", "succeeded", "released"])
                try:
                    await here.fleet.complete(
                        worker, task.id, Complete(**{"fence": task.fence, "outcome": outcome})
                    )
                    finished[task.id] += outcome == "succeeded"
                except HoldfastError as error:
                    assert error.code in ("stale-fence", "task-cancelled")  # noqa: PT017
            if chance.random() < 0.8:
                leases = {task.id: task.fence for task in held[name].values()}
                answer = await here.fleet.beat(worker, Beat(leases=leases, settled=claims[name]))
                for lost in [*answer.lost, *answer.cancelled]:
                    held[name].pop(lost, None)
            if chance.random() < 0.05:
                held[name].clear()  # killed
            if turn % 40 == 39:
                here = here.again(seed=seed * 1000 + turn)
                loops = here.loops()
            running = await tasks_of(here, status=TaskStatus.LEASED)
            assert len({task.exclusive for task in running}) == len(running)
        assert max(finished.values()) == 1
        assert len(finished) > 5
        closed = Counter(each["run"] for each in here.runs.closed)
        assert all(count == 1 for count in closed.values())


async def test_what_happens_is_counted(here: Rig) -> None:
    worker, loops = await here.worker(), here.loops()
    here.registry.publish("rain", Schedule(every="1h"))
    await here.fleet.submit_many(OPERATOR, [TaskSubmit(kind="work") for _ in range(3)])
    await loops.tick()
    await finish(here, worker)
    [held] = await here.fleet.claim(worker, Claim(kinds=["work"]))
    await here.fleet.claim(worker, Claim(kinds=["work"]))
    await here.fleet.complete(
        worker, held.task.id, Complete(fence=held.task.fence, outcome="failed")
    )
    await after(here, loops, 31)
    await after(here, loops, 16)
    text_ = here.metrics.render().decode()
    for line in (
        "holdfast_tasks_submitted_total 4.0",
        "holdfast_tasks_claimed_total 3.0",
        'holdfast_task_attempts_ended_total{end="succeeded"} 1.0',
        'holdfast_task_attempts_ended_total{end="retried"} 2.0',
        'holdfast_task_attempts_ended_total{end="dead"} 0.0',
        "holdfast_leases_expired_total 1.0",
        "holdfast_workers_lost_total 1.0",
        'holdfast_tasks{state="ready"} 2.0',
        'holdfast_workers{status="lost"} 1.0',
    ):
        assert line in text_, line
