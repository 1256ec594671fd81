"""The promise of the fleet: on both databases, and the same over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from holdfast.fleet.client import FleetClient
from holdfast.fleet.credentials import JOIN_PREFIX, WORKER_PREFIX
from holdfast.fleet.grants import read_grant
from holdfast.fleet.http import handlers
from holdfast.fleet.model import (
    Beat,
    Claim,
    CollectRequest,
    Complete,
    CompleteTask,
    JoinTokenCreate,
    Task,
    TaskFilter,
    TaskStatus,
    TaskSubmit,
    WorkerRegister,
    WorkerStatus,
)
from holdfast.fleet.worker_store import workers
from holdfast.kernel.clock import timestamp
from holdfast.kernel.credentials import identity_of, make_secret
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.outbox import BEGINNING
from holdfast.kernel.principal import Principal, PrincipalKind, service
from tests.support.fleet import KEYS, OPERATOR, START, Rig, rig
from tests.support.signing import PUBLIC_KEY

Fleet = Any
"""A service or a client: they have the same methods."""

ANYTHING = "work"


def clients(coordinator: Rig) -> Callable[[Principal | None], FleetClient]:
    """The coordinator behind HTTP: a client for whoever asks."""
    principals: dict[str, Principal] = {}

    async def authenticate(connection: Any) -> Principal:
        token = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in principals:
            raise Unauthenticated("nobody we know")
        return principals[token]

    app = create_app(
        AppSpec(
            role="coordinator",
            version="0",
            handlers=handlers(coordinator.fleet),
            authenticate=authenticate,
        )
    )

    def client(principal: Principal | None) -> FleetClient:
        if principal is None:
            return FleetClient(ApiClient.for_app(app))
        token = f"{principal.kind.value}-{principal.subject}"
        principals[token] = principal
        return FleetClient(ApiClient.for_app(app, token=token))

    return client


@pytest.fixture(params=["sqlite", "postgresql", "http"])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which way the fleet is asked, and the database behind it."""
    kind = "postgres_url" if request.param == "postgresql" else "sqlite_url"
    return request.param, request.getfixturevalue(kind)


@pytest.fixture
async def here(place: tuple[str, str]) -> AsyncIterator[Rig]:
    """A coordinator; its clock stands still."""
    from holdfast.kernel.clock import SystemClock

    async with open_database(place[1], clock=SystemClock()) as database:
        yield rig(database)


@pytest.fixture
def ask(place: tuple[str, str], here: Rig) -> Callable[[Principal | None], Fleet]:
    """The fleet, as a principal reaches it."""
    if place[0] == "http":
        return clients(here)
    return lambda _: here.fleet


def work(**more: Any) -> TaskSubmit:
    return TaskSubmit(**{"kind": ANYTHING} | more)


def claim(limit: int = 1, **more: Any) -> Claim:
    return Claim(**{"kinds": [ANYTHING], "limit": limit} | more)


DONE = {"outcome": "succeeded", "result": {"answer": "42"}}


# --- submitting ----------------------------------------------------------------------------------


async def test_what_was_submitted_is_read_back(here: Rig, ask: Any) -> None:
    submit = work(
        payload={"b": [1, "2"], "a": None},
        capabilities=["x", "a"],
        priority=5,
        residency="eu",
        deadline="2026-03-02T00:00:00+01:00",
        attempts_max=2,
        lease_seconds=90,
    )
    task = await ask(OPERATOR).submit(OPERATOR, submit)
    assert task == await ask(OPERATOR).show_task(OPERATOR, task.id)
    assert (task.status, task.attempts, task.fence) == (TaskStatus.QUEUED, 0, 0)
    assert task.payload == {"b": [1, "2"], "a": None}
    assert task.capabilities == ["a", "x"]
    assert (task.priority, task.residency, task.lease_seconds) == (5, "eu", 90)
    assert task.deadline == "2026-03-01T23:00:00.000000Z"
    assert task.created_at == task.available_at == timestamp(START)


async def test_the_same_submission_again_is_the_same_task(here: Rig, ask: Any) -> None:
    submit = work(id=here.new_id(), payload={"a": 1})
    first = await ask(OPERATOR).submit(OPERATOR, submit)
    here.manual.advance(60)
    assert await ask(OPERATOR).submit(OPERATOR, submit) == first
    with pytest.raises(Conflict) as refusal:
        await ask(OPERATOR).submit(OPERATOR, work(id=submit.id, payload={"a": 2}))
    assert refusal.value.code == "task-id-reused"


async def test_the_same_key_again_is_the_same_task_and_other_content_a_conflict(
    here: Rig, ask: Any
) -> None:
    fleet = ask(OPERATOR)
    first = await fleet.submit(OPERATOR, work(), idempotency_key="k")
    assert await fleet.submit(OPERATOR, work(), idempotency_key="k") == first
    assert (await fleet.submit(OPERATOR, work(), idempotency_key="l")).id != first.id
    with pytest.raises(Conflict) as caught:
        await fleet.submit(OPERATOR, work(priority=7), idempotency_key="k")
    assert caught.value.code == "idempotency-key-reused"
    assert len((await fleet.list_tasks(OPERATOR))[0]) == 2
    here.manual.advance(25 * 3600)
    assert (await fleet.submit(OPERATOR, work(), idempotency_key="k")).id != first.id


async def test_many_at_once_under_the_same_key_again_are_the_same_tasks(
    here: Rig, ask: Any
) -> None:
    fleet = ask(OPERATOR)
    alone = await fleet.submit(OPERATOR, work(exclusive="one"))
    many = [work(), work(exclusive="one"), work(priority=7)]
    first = await fleet.submit_many(OPERATOR, many, idempotency_key="k")
    assert first[1] == alone
    await fleet.cancel(OPERATOR, alone.id, "no more")
    again = await fleet.submit_many(OPERATOR, many, idempotency_key="k")
    assert [each.id for each in again] == [each.id for each in first]
    assert len((await fleet.list_tasks(OPERATOR))[0]) == 3
    with pytest.raises(Conflict) as caught:
        await fleet.submit_many(OPERATOR, many[:2], idempotency_key="k")
    assert caught.value.code == "idempotency-key-reused"
    other = await fleet.submit_many(OPERATOR, many, idempotency_key="l")
    assert not {each.id for each in other} & {each.id for each in first}


async def test_an_id_that_another_task_has_is_refused_again_under_the_same_key(
    here: Rig, ask: Any
) -> None:
    fleet = ask(OPERATOR)
    other = await fleet.submit(OPERATOR, work(id=here.new_id()))
    many = [work(), work(id=other.id, payload={"other": 1}), work(id=here.new_id())]
    for _ in range(2):
        first, refused, own = await fleet.submit_many(OPERATOR, many, idempotency_key="k")
        assert isinstance(refused, Conflict)
        assert refused.code == "task-id-reused"
        assert own.id == many[2].id
    assert {task.id for task in (await fleet.list_tasks(OPERATOR))[0]} == {
        first.id,
        other.id,
        own.id,
    }


async def test_of_one_idempotency_key_comes_one_join_token(ask: Any) -> None:
    wanted = JoinTokenCreate()
    made = await ask(OPERATOR).worker_token_create(OPERATOR, wanted, idempotency_key="k")
    with pytest.raises(Conflict) as caught:
        await ask(OPERATOR).worker_token_create(OPERATOR, wanted, idempotency_key="k")
    assert caught.value.code == "secret-shown-once"
    assert made.id in caught.value.detail
    assert f"holdfast worker token-end {made.id}" in caught.value.hint
    assert made.token not in caught.value.detail + caught.value.hint


async def test_of_many_with_one_key_at_once_one_task_is_made(here: Rig, ask: Any) -> None:
    fleet = ask(OPERATOR)
    made = await asyncio.gather(
        *(fleet.submit(OPERATOR, work(), idempotency_key="k") for _ in range(20))
    )
    assert len({task.id for task in made}) == 1
    assert len((await fleet.list_tasks(OPERATOR))[0]) == 1


async def test_many_are_submitted_each_on_its_own(here: Rig, ask: Any) -> None:
    known = await ask(OPERATOR).submit(OPERATOR, work(id=here.new_id()))
    again = here.new_id()
    outcomes = await ask(OPERATOR).submit_many(
        OPERATOR,
        [
            work(),
            work(id=known.id, payload={"other": 1}),
            work(id=again),
            work(id=again),
            work(exclusive="one"),
            work(exclusive="one"),
        ],
    )
    assert isinstance(outcomes[0], Task)
    assert isinstance(outcomes[1], Conflict)
    assert outcomes[2] == outcomes[3]
    assert outcomes[4] == outcomes[5]
    found, _ = await ask(OPERATOR).list_tasks(OPERATOR)
    assert len(found) == 4


async def test_one_unfinished_task_has_an_exclusive_name(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    first = await ask(OPERATOR).submit(OPERATOR, work(exclusive="one"))
    assert await ask(OPERATOR).submit(OPERATOR, work(exclusive="one")) == first
    [held] = await ask(worker).claim(worker, claim())
    assert (await ask(OPERATOR).submit(OPERATOR, work(exclusive="one"))).id == first.id
    await ask(worker).complete(worker, first.id, Complete(fence=held.task.fence, **DONE))
    assert (await ask(OPERATOR).submit(OPERATOR, work(exclusive="one"))).id != first.id


async def test_of_many_who_submit_at_once_one_has_the_exclusive_name(here: Rig, ask: Any) -> None:
    fleet = ask(OPERATOR)
    answers = await asyncio.gather(
        *(fleet.submit(OPERATOR, work(exclusive="one", payload={"n": n})) for n in range(20))
    )
    assert len({task.id for task in answers}) == 1


@pytest.mark.parametrize(
    ("submit", "error"),
    [
        (work(payload={"weight": 0.5}), Invalid),
        (work(payload={"text": "x" * 70_000}), TooLarge),
        (work(deadline="tomorrow"), Invalid),
        (work(not_before="2026-03-01T12:00:00"), Invalid),
        (TaskSubmit(kind="collect", payload={"profile": "rain"}), Invalid),
        (
            TaskSubmit(
                kind="collect",
                exclusive="profile:snow",
                payload={
                    "run": "01970000-0000-7000-8000-000000000000",
                    "profile": "rain",
                    "digest": "sha256:0",
                },
            ),
            Invalid,
        ),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    here: Rig, ask: Any, submit: TaskSubmit, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await ask(OPERATOR).submit(OPERATOR, submit)
    assert await ask(OPERATOR).list_tasks(OPERATOR) == ([], None)


# --- claiming ------------------------------------------------------------------------------------


async def test_a_claim_leases_with_a_fence_and_a_grant(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await ask(OPERATOR).submit(OPERATOR, work(lease_seconds=45))
    [claimed] = await ask(worker).claim(worker, claim(5))
    assert claimed.task.id == task.id
    assert claimed.task.status is TaskStatus.LEASED
    assert (claimed.task.worker, claimed.task.attempts) == (worker.subject, 1)
    assert claimed.task.lease_expires_at == timestamp(START + timedelta(seconds=45))
    grant = read_grant(claimed.grant, KEYS, START)
    assert (grant.task, grant.worker, grant.fence, grant.lease_expires_at) == (
        task.id,
        worker.subject,
        claimed.task.fence,
        claimed.task.lease_expires_at,
    )
    assert await ask(OPERATOR).show_task(OPERATOR, task.id) == claimed.task
    assert await ask(worker).claim(worker, claim(5)) == []


async def test_a_grant_for_a_run_names_run_and_profile(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    profile = here.registry.publish("rain")
    task = await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain", force=True))
    [claimed] = await ask(worker).claim(worker, Claim())
    grant = read_grant(claimed.grant, KEYS, START)
    assert claimed.task.exclusive == "profile:rain"
    assert claimed.task.payload["force"] is True
    assert (grant.run, grant.profile, grant.digest) == (
        task.payload["run"],
        "rain",
        profile.digest,
    )


async def test_the_most_urgent_comes_first_then_the_oldest(here: Rig, ask: Any) -> None:
    worker = await here.worker(capabilities=["collect", "a"])
    ids = {}
    for name, priority, needs in (
        ("low", -5, []),
        ("first", 0, []),
        ("second", 0, ["a"]),
        ("third", 0, []),
        ("urgent", 9, ["a"]),
    ):
        here.manual.advance(1)
        submit = work(priority=priority, capabilities=needs)
        ids[(await ask(OPERATOR).submit(OPERATOR, submit)).id] = name
    claimed = await ask(worker).claim(worker, claim(3)) + await ask(worker).claim(worker, claim(9))
    assert [ids[each.task.id] for each in claimed] == [
        "urgent",
        "first",
        "second",
        "third",
        "low",
    ]


async def test_what_a_worker_cannot_do_is_neither_given_nor_in_the_way(here: Rig, ask: Any) -> None:
    plain = await here.worker("plain")
    able = await here.worker("able", capabilities=["collect", "ocr"])
    hard = [
        await ask(OPERATOR).submit(OPERATOR, work(priority=50, capabilities=["ocr"]))
        for _ in range(5)
    ]
    easy = await ask(OPERATOR).submit(OPERATOR, work())
    assert [each.task.id for each in await ask(plain).claim(plain, claim(9))] == [easy.id]
    claimed = await ask(able).claim(able, claim(9))
    assert [each.task.id for each in claimed] == [task.id for task in hard]


async def test_a_task_pinned_to_a_region_stays_there(here: Rig, ask: Any) -> None:
    american = await here.worker("us-1", region="us")
    european = await here.worker("eu-1", region="eu")
    nowhere = await here.worker("any-1")
    task = await ask(OPERATOR).submit(OPERATOR, work(residency="eu", priority=9))
    assert await ask(american).claim(american, claim()) == []
    assert await ask(nowhere).claim(nowhere, claim()) == []
    [claimed] = await ask(european).claim(european, claim())
    assert claimed.task.id == task.id


async def test_other_kinds_are_left_alone(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    await ask(OPERATOR).submit(OPERATOR, work())
    assert await ask(worker).claim(worker, Claim(kinds=["other"])) == []


async def test_nothing_is_given_before_its_time_or_after_its_deadline(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    later = timestamp(START + timedelta(seconds=60))
    early = await ask(OPERATOR).submit(OPERATOR, work(not_before=later))
    await ask(OPERATOR).submit(OPERATOR, work(deadline=timestamp(START + timedelta(seconds=30))))
    here.manual.advance(59)
    assert await ask(worker).claim(worker, claim(9)) == []
    here.manual.advance(1)
    [claimed] = await ask(worker).claim(worker, claim(9))
    assert claimed.task.id == early.id


async def test_no_task_is_leased_twice_however_many_ask(here: Rig, ask: Any) -> None:
    crowd = [await here.worker(f"drone-{n}") for n in range(6)]
    await ask(OPERATOR).submit_many(OPERATOR, [work() for _ in range(40)])
    rounds = await asyncio.gather(
        *(ask(worker).claim(worker, claim(3)) for worker in crowd for _ in range(4))
    )
    claimed = [each.task for answer in rounds for each in answer]
    assert len({task.id for task in claimed}) == len(claimed) == 40
    assert len({task.fence for task in claimed}) == 40


async def test_workers_that_ask_together_are_dealt_to_in_turn(here: Rig, ask: Any) -> None:
    crowd = [await here.worker(f"drone-{n}") for n in range(4)]
    fleet = {worker.subject: ask(worker) for worker in crowd}
    await ask(OPERATOR).submit_many(OPERATOR, [work() for _ in range(4)])
    answers = await asyncio.gather(
        *(fleet[worker.subject].claim(worker, claim(1)) for worker in crowd)
    )
    assert [len(answer) for answer in answers] == [1, 1, 1, 1]


async def test_a_waiting_claim_is_answered_when_work_comes(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    waiting = asyncio.create_task(ask(worker).claim(worker, claim(wait_seconds=30)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    task = await ask(OPERATOR).submit(OPERATOR, work())
    async with asyncio.timeout(20):
        [claimed] = await waiting
    assert claimed.task.id == task.id


async def test_a_waiting_claim_ends_empty_handed_in_time(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    waiting = asyncio.create_task(ask(worker).claim(worker, claim(wait_seconds=10)))
    async with asyncio.timeout(20):
        while not waiting.done():
            here.manual.advance(1)
            await asyncio.sleep(0.01)
    assert waiting.result() == []
    assert START + timedelta(seconds=10) <= here.manual.now()


async def test_only_registered_workers_work(here: Rig, ask: Any) -> None:
    task = await ask(OPERATOR).submit(OPERATOR, work())
    for act in (
        lambda: ask(OPERATOR).claim(OPERATOR, claim()),
        lambda: ask(OPERATOR).beat(OPERATOR, Beat()),
        lambda: ask(OPERATOR).complete(OPERATOR, task.id, Complete(fence=1, **DONE)),
    ):
        with pytest.raises(Denied):
            await act()


# --- ending --------------------------------------------------------------------------------------


async def leased(here: Rig, ask: Any, worker: Principal, **more: Any) -> Task:
    await ask(OPERATOR).submit(OPERATOR, work(**more))
    [claimed] = await ask(worker).claim(worker, claim())
    return claimed.task


async def test_a_task_succeeds_once_and_says_so_again(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    end = Complete(fence=task.fence, **DONE)
    answer = await ask(worker).complete(worker, task.id, end)
    assert answer.status is TaskStatus.SUCCEEDED
    assert answer.result == {"answer": "42"}
    assert answer.finished_at == timestamp(START)
    here.manual.advance(5)
    assert await ask(worker).complete(worker, task.id, end) == answer
    with pytest.raises(Conflict) as refusal:
        await ask(worker).complete(
            worker, task.id, Complete(fence=task.fence, outcome="succeeded", result={"other": 1})
        )
    assert refusal.value.code == "stale-fence"
    assert await ask(OPERATOR).show_task(OPERATOR, task.id) == answer


async def test_a_failure_is_tried_again_later_and_is_remembered(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    end = Complete(fence=task.fence, outcome="failed", code="source-down", reason="no answer")
    answer = await ask(worker).complete(worker, task.id, end)
    assert (answer.status, answer.code, answer.worker) == (TaskStatus.QUEUED, "source-down", None)
    pause = 10
    assert timestamp(START + timedelta(seconds=pause / 2)) <= answer.available_at
    assert answer.available_at <= timestamp(START + timedelta(seconds=pause))
    # The same account again, even after another lease has begun, is no offence.
    assert (await ask(worker).complete(worker, task.id, end)).status is TaskStatus.QUEUED
    here.manual.advance(pause)
    [again] = await ask(worker).claim(worker, claim())
    assert again.task.fence > task.fence
    assert again.task.attempts == 2
    assert (await ask(worker).complete(worker, task.id, end)).status is TaskStatus.LEASED
    shown = await ask(OPERATOR).show_task(OPERATOR, task.id)
    assert [(each.attempt, each.code, each.reason) for each in shown.history] == [
        (1, "source-down", "no answer")
    ]


async def test_the_source_says_how_long_to_wait(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    answer = await ask(worker).complete(
        worker, task.id, Complete(fence=task.fence, outcome="failed", retry_after_seconds=600)
    )
    assert answer.available_at == timestamp(START + timedelta(seconds=600))


async def test_the_last_attempt_is_the_end(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    await ask(OPERATOR).submit(OPERATOR, work(attempts_max=2))
    for expected in (TaskStatus.QUEUED, TaskStatus.DEAD):
        [claimed] = await ask(worker).claim(worker, claim())
        end = Complete(fence=claimed.task.fence, outcome="failed", code="broken")
        answer = await ask(worker).complete(worker, claimed.task.id, end)
        assert answer.status is expected
        here.manual.advance(3600)
    assert (answer.code, answer.attempts) == ("broken", 2)
    assert await ask(worker).complete(worker, claimed.task.id, end) == answer
    dead, _ = await ask(OPERATOR).list_tasks(OPERATOR, TaskFilter(status=TaskStatus.DEAD))
    assert [task.id for task in dead] == [answer.id]


async def test_a_failure_that_retrying_cannot_help_is_the_end(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    answer = await ask(worker).complete(
        worker, task.id, Complete(fence=task.fence, outcome="failed", retry=False)
    )
    assert answer.status is TaskStatus.DEAD


async def test_a_retry_that_would_miss_the_deadline_is_the_end(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker, deadline=timestamp(START + timedelta(seconds=4)))
    answer = await ask(worker).complete(
        worker, task.id, Complete(fence=task.fence, outcome="failed")
    )
    assert answer.status is TaskStatus.DEAD


async def test_late_foreign_and_unclaimed_answers_are_refused(here: Rig, ask: Any) -> None:
    one, two = await here.worker("one"), await here.worker("two")
    queued = await ask(OPERATOR).submit(OPERATOR, work(capabilities=["nobody"]))
    task = await leased(here, ask, one)
    refusals = []
    for worker, identity, fence in (
        (one, queued.id, 1),
        (two, task.id, task.fence),
        (one, task.id, task.fence + 1),
        (two, task.id, task.fence + 1),
    ):
        with pytest.raises(Conflict) as refusal:
            await ask(worker).complete(worker, identity, Complete(fence=fence, **DONE))
        refusals.append(refusal.value.code)
    assert refusals == ["task-not-leased", "stale-fence", "stale-fence", "stale-fence"]
    with pytest.raises(NotFound):
        await ask(one).complete(one, here.new_id(), Complete(fence=1, **DONE))
    assert (await ask(OPERATOR).show_task(OPERATOR, task.id)).status is TaskStatus.LEASED


async def test_a_slow_worker_may_finish_until_its_lease_is_found_expired(
    here: Rig, ask: Any
) -> None:
    slow, quick = await here.worker("slow"), await here.worker("quick")
    task = await leased(here, ask, slow)
    here.manual.advance(3600)
    await here.loops().expire_leases(service("coordinator"))
    here.manual.advance(60)
    [again] = await ask(quick).claim(quick, claim())
    assert again.task.fence > task.fence
    with pytest.raises(Conflict) as refusal:
        await ask(slow).complete(slow, task.id, Complete(fence=task.fence, **DONE))
    assert refusal.value.code == "stale-fence"
    answer = await ask(quick).complete(quick, task.id, Complete(fence=again.task.fence, **DONE))
    assert answer.worker == quick.subject

    other = await leased(here, ask, slow)
    here.manual.advance(3600)
    answer = await ask(slow).complete(slow, other.id, Complete(fence=other.fence, **DONE))
    assert answer.status is TaskStatus.SUCCEEDED


async def test_several_are_ended_at_once_each_on_its_own(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    await ask(OPERATOR).submit_many(OPERATOR, [work() for _ in range(3)])
    held = [each.task for each in await ask(worker).claim(worker, claim(3))]
    answers = await ask(worker).complete_many(
        worker,
        [
            CompleteTask(task=held[0].id, fence=held[0].fence, **DONE),
            CompleteTask(task=held[1].id, fence=held[1].fence + 100, **DONE),
            CompleteTask(task=held[2].id, fence=held[2].fence, outcome="failed"),
            CompleteTask(task=held[0].id, fence=held[0].fence, **DONE),
            CompleteTask(task=held[0].id, fence=held[0].fence, outcome="failed"),
            CompleteTask(task=here.new_id(), fence=1, **DONE),
        ],
    )
    assert [answer.status for answer in answers] == [
        TaskStatus.SUCCEEDED,
        None,
        TaskStatus.QUEUED,
        TaskStatus.SUCCEEDED,
        None,
        None,
    ]
    assert [answer.refused.code for answer in answers if answer.refused] == [
        "stale-fence",
        "stale-fence",
        "task-not-found",
    ]


async def test_fences_rise_with_every_lease_and_for_every_profile(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    here.registry.publish("rain")
    fences = []
    for _ in range(3):
        await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain"))
        [claimed] = await ask(worker).claim(worker, Claim())
        fences.append(claimed.task.fence)
        await ask(worker).complete(
            worker, claimed.task.id, Complete(fence=claimed.task.fence, **DONE)
        )
    assert fences == sorted(set(fences))


# --- cancelling ----------------------------------------------------------------------------------


async def test_a_cancelled_task_is_given_to_nobody(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await ask(OPERATOR).submit(OPERATOR, work())
    cancelled = await ask(OPERATOR).cancel(OPERATOR, task.id, "not wanted")
    assert (cancelled.status, cancelled.reason) == (TaskStatus.CANCELLED, "not wanted")
    assert await ask(OPERATOR).cancel(OPERATOR, task.id, "again") == cancelled
    assert await ask(worker).claim(worker, claim()) == []


async def test_completing_after_a_cancel_is_refused_and_the_beat_says_why(
    here: Rig, ask: Any
) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    await ask(OPERATOR).cancel(OPERATOR, task.id)
    answer = await ask(worker).beat(worker, Beat(leases={task.id: task.fence}))
    assert (answer.cancelled, answer.lost, answer.renewed) == ([task.id], [], {})
    with pytest.raises(Conflict) as refusal:
        await ask(worker).complete(worker, task.id, Complete(fence=task.fence, **DONE))
    assert refusal.value.code == "task-cancelled"


async def test_what_is_finished_cannot_be_cancelled(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    await ask(worker).complete(worker, task.id, Complete(fence=task.fence, **DONE))
    with pytest.raises(Conflict) as refusal:
        await ask(OPERATOR).cancel(OPERATOR, task.id)
    assert refusal.value.code == "task-finished"
    with pytest.raises(NotFound):
        await ask(OPERATOR).cancel(OPERATOR, here.new_id())


# --- beats ---------------------------------------------------------------------------------------


async def test_beats_renew_leases_once_a_third_of_their_time_has_gone(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    task = await leased(here, ask, worker)
    here.manual.advance(5)
    early = await ask(worker).beat(worker, Beat(leases={task.id: task.fence}))
    grant = read_grant(early.renewed[task.id], KEYS, here.clock.now())
    assert grant.lease_expires_at == task.lease_expires_at
    here.manual.advance(10)
    late = await ask(worker).beat(worker, Beat(leases={task.id: task.fence}))
    grant = read_grant(late.renewed[task.id], KEYS, here.clock.now())
    assert grant.lease_expires_at == timestamp(START + timedelta(seconds=45))
    shown = await ask(OPERATOR).show_task(OPERATOR, task.id)
    assert shown.lease_expires_at == grant.lease_expires_at
    assert grant.fence == task.fence


async def test_a_beat_tells_which_leases_are_lost(here: Rig, ask: Any) -> None:
    worker, other = await here.worker("one"), await here.worker("two")
    mine = await leased(here, ask, worker)
    theirs = await leased(here, ask, other)
    unknown = here.new_id()
    done = await leased(here, ask, worker)
    await ask(worker).complete(worker, done.id, Complete(fence=done.fence, **DONE))
    answer = await ask(worker).beat(
        worker,
        Beat(
            leases={
                mine.id: mine.fence + 1,
                theirs.id: theirs.fence,
                done.id: done.fence,
                unknown: 1,
            }
        ),
    )
    assert sorted(answer.lost) == sorted([mine.id, theirs.id, done.id, unknown])
    assert answer.renewed == {}


async def test_beats_and_their_load_show_in_the_list(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    await leased(here, ask, worker)
    here.manual.advance(7)
    await ask(worker).beat(worker, Beat(load={"tasks": 1}))
    [shown], more = await ask(OPERATOR).list_workers(OPERATOR)
    assert more is None
    assert shown.last_beat_at == timestamp(START + timedelta(seconds=7))
    assert (shown.load, shown.leases, shown.status) == ({"tasks": 1}, 1, WorkerStatus.ALIVE)
    here.manual.advance(97)  # and nobody has looked who is lost
    [shown], _ = await ask(OPERATOR).list_workers(OPERATOR)
    assert (shown.silent_seconds, shown.status) == (97.0, WorkerStatus.ALIVE)
    bound = (await ask(OPERATOR).summarise_workers(OPERATOR)).lost_after_seconds
    assert bound == here.fleet.settings.lost_after_seconds


# --- lists ---------------------------------------------------------------------------------------


async def test_lists_are_paged_newest_first_without_gaps(here: Rig, ask: Any) -> None:
    made = [await ask(OPERATOR).submit(OPERATOR, work()) for _ in range(7)]
    found: list[Task] = []
    before: str | None = None
    while True:
        page, before = await ask(OPERATOR).list_tasks(OPERATOR, before=before, limit=3)
        found += page
        # What comes meanwhile does not shift the rest.
        await ask(OPERATOR).submit(OPERATOR, work())
        if before is None:
            break
    assert [task.id for task in found] == [task.id for task in reversed(made)]


async def test_lists_are_filtered(here: Rig, ask: Any) -> None:
    worker = await here.worker()
    here.registry.publish("rain")
    run = await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain"))
    held = await leased(here, ask, worker)
    waiting = await ask(OPERATOR).submit(
        OPERATOR, work(not_before=timestamp(START + timedelta(hours=1)))
    )

    async def listed(**filters: Any) -> set[str]:
        found, _ = await ask(OPERATOR).list_tasks(OPERATOR, TaskFilter(**filters))
        return {task.id for task in found}

    assert await listed(status=TaskStatus.QUEUED) == {run.id, waiting.id}
    assert await listed(status=TaskStatus.LEASED) == {held.id}
    assert await listed(kind="collect") == {run.id}
    assert await listed(worker=worker.subject) == {held.id}
    assert await listed(exclusive="profile:rain") == {run.id}
    assert await listed(run=run.payload["run"]) == {run.id}
    assert await listed(run="another") == set()


async def test_whoever_is_limited_to_a_profile_has_what_collects_it_alone(here: Rig) -> None:
    limited = replace(OPERATOR, profiles=frozenset({"rain", "hail"}))
    for name in ("rain", "snow"):
        here.registry.publish(name)
    collect = here.fleet.collect
    mine, theirs = [
        await collect(OPERATOR, CollectRequest(profile=name)) for name in ("rain", "snow")
    ]
    # What calls itself so is not of that profile.
    named = await here.fleet.submit(OPERATOR, work(exclusive="profile:hail"))
    for wanted in (None, TaskFilter(kind="collect"), TaskFilter(exclusive="profile:rain")):
        found, more = await here.fleet.list_tasks(limited, wanted, limit=1)
        assert ([task.id for task in found], more) == ([mine.id], None)
    other = TaskFilter(exclusive="profile:snow")
    assert await here.fleet.list_tasks(limited, other) == ([], None)
    nothing = replace(OPERATOR, profiles=frozenset[str]())
    assert await here.fleet.list_tasks(nothing) == ([], None)
    assert (await here.fleet.show_task(limited, mine.id)).id == mine.id
    for task in (theirs.id, named.id, here.new_id()):
        for asked in (here.fleet.show_task, here.fleet.cancel):
            with pytest.raises(NotFound, match=f"cannot find the task {task}|no such task"):
                await asked(limited, task)
    assert (await here.fleet.show_task(OPERATOR, theirs.id)).status is TaskStatus.QUEUED


# --- profiles ------------------------------------------------------------------------------------


async def test_a_profile_is_collected_by_one_worker_at_a_time(here: Rig, ask: Any) -> None:
    one, two = await here.worker("one"), await here.worker("two")
    here.registry.publish("rain")
    first = await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain"))
    assert await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain")) == first
    assert len(await ask(one).claim(one, Claim(limit=5))) == 1
    assert await ask(two).claim(two, Claim(limit=5)) == []
    again = await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain"))
    assert again.id == first.id
    # Whoever submits the task by hand stands under the same rule.
    by_hand = TaskSubmit(kind="collect", payload=dict(first.payload, run=here.new_id()))
    assert (await ask(OPERATOR).submit(OPERATOR, by_hand)).id == first.id


async def test_a_key_gets_the_run_it_was_answered_whatever_has_ended_since(
    here: Rig, ask: Any
) -> None:
    worker = await here.worker()
    here.registry.publish("rain")
    wanted, fleet = CollectRequest(profile="rain"), ask(OPERATOR)
    first = await fleet.collect(OPERATOR, wanted, idempotency_key="k")
    assert (await fleet.collect(OPERATOR, wanted, idempotency_key="l")).id == first.id
    (held,) = await ask(worker).claim(worker, Claim())
    await ask(worker).complete(worker, first.id, Complete(fence=held.task.fence, **DONE))
    for key in ("k", "l"):
        again = await fleet.collect(OPERATOR, wanted, idempotency_key=key)
        assert (again.id, again.status) == (first.id, TaskStatus.SUCCEEDED)
    assert (await fleet.collect(OPERATOR, wanted, idempotency_key="m")).id != first.id


async def test_what_may_not_run_is_not_run(here: Rig, ask: Any) -> None:
    with pytest.raises(NotFound) as refusal:
        await ask(OPERATOR).collect(OPERATOR, CollectRequest(profile="rain"))
    assert refusal.value.code == "profile-not-runnable"


# --- workers -------------------------------------------------------------------------------------


async def test_a_worker_is_admitted_by_its_token_and_known_by_its_credential(
    here: Rig, ask: Any
) -> None:
    token = await ask(OPERATOR).worker_token_create(
        OPERATOR, JoinTokenCreate(capabilities=["ocr", "collect"], region="eu")
    )
    answer = await ask(None).register(
        token.token,
        WorkerRegister(
            name="drone-1",
            capabilities=["collect", "root"],
            labels={"rack": "a"},
            capacity=4,
            key=PUBLIC_KEY,
        ),
    )
    gateway = service("gateway")
    principal = await ask(gateway).authenticate_worker(answer.credential)
    assert (principal.subject, principal.kind) == (answer.worker, PrincipalKind.WORKER)
    [shown], _ = await ask(OPERATOR).list_workers(OPERATOR)
    assert (shown.name, shown.region, shown.capabilities) == ("drone-1", "eu", ["collect"])
    assert (shown.labels, shown.capacity) == ({"rack": "a"}, 4)


async def test_a_join_token_that_was_ended_admits_nobody_and_whom_it_admitted_stays(
    here: Rig, ask: Any
) -> None:
    token, other = await here.token(), await here.token(uses_max=9)
    admitted = await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    lasts = here.fleet.join_token_lasts
    assert await lasts(OPERATOR, token, 86_399)
    assert not await lasts(OPERATOR, token, 86_401)
    assert not await lasts(OPERATOR, other, 60), "it admits nine only"
    forged = f"{token[:-12]}{'0' * 12}"
    for nonsense in ("", "hfj_nonsense", forged, admitted.credential):
        assert not await lasts(OPERATOR, nonsense, 60)
        await here.fleet.end_join_token(OPERATOR, nonsense)
    assert await lasts(OPERATOR, token, 60)
    for _ in range(2):
        await here.fleet.end_join_token(OPERATOR, token)
    assert not await lasts(OPERATOR, token, 0)
    with pytest.raises(Unauthenticated) as refusal:
        await ask(None).register(token, WorkerRegister(name="drone-2", key=PUBLIC_KEY))
    assert refusal.value.code == "join-token-invalid"
    await ask(service("gateway")).authenticate_worker(admitted.credential)
    again = WorkerRegister(name="drone-1", key=PUBLIC_KEY)
    await ask(None).register(admitted.credential, again)
    entries = await here.database.read(
        OPERATOR, lambda conn: here.fleet.outbox.ready(conn, OPERATOR, BEGINNING, 1000)
    )
    assert [each.event.type for each in entries].count("join-token.ended") == 1


async def test_join_tokens_are_listed_and_ended_by_their_id(here: Rig, ask: Any) -> None:
    token = await here.token(uses_max=1)
    await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    here.manual.advance(1)
    await here.token(region="eu")
    operator = ask(OPERATOR)
    [newest], following = await operator.list_join_tokens(OPERATOR, limit=1)
    [oldest], end = await operator.list_join_tokens(OPERATOR, before=following, limit=1)
    assert end is None
    assert (newest.region, newest.uses, newest.uses_max, newest.admits) == ("eu", 0, None, True)
    assert oldest.id == identity_of(token, JOIN_PREFIX)
    assert (oldest.uses, oldest.uses_max, oldest.admits) == (1, 1, False)
    for _ in range(2):
        ended = await operator.end_join_token_of(OPERATOR, newest.id)
        assert (ended.id, ended.admits) == (newest.id, False)
    entries = await here.database.read(
        OPERATOR, lambda conn: here.fleet.outbox.ready(conn, OPERATOR, BEGINNING, 1000)
    )
    assert [each.event.type for each in entries].count("join-token.ended") == 1
    with pytest.raises(NotFound) as refusal:
        await operator.end_join_token_of(OPERATOR, here.new_id())
    assert refusal.value.code == "join-token-not-found"


async def test_a_name_that_comes_back_takes_over_and_the_old_credential_is_dead(
    here: Rig, ask: Any
) -> None:
    token = await here.token(uses_max=1)
    first = await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    second = await ask(None).register(
        token, WorkerRegister(name="drone-1", version="2", key=PUBLIC_KEY)
    )
    assert second.worker == first.worker
    gateway = service("gateway")
    await ask(gateway).authenticate_worker(second.credential)
    with pytest.raises(Unauthenticated) as refusal:
        await ask(gateway).authenticate_worker(first.credential)
    assert refusal.value.code == "worker-unknown"
    with pytest.raises(Unauthenticated) as used_up:
        await ask(None).register(token, WorkerRegister(name="drone-2", key=PUBLIC_KEY))
    assert used_up.value.code == "join-token-invalid"


async def test_whoever_collects_brings_a_signing_key(here: Rig, ask: Any) -> None:
    token = await here.token(capabilities=["collect", "ocr"])
    with pytest.raises(Invalid) as refusal:
        await ask(None).register(token, WorkerRegister(name="drone-1"))
    assert refusal.value.code == "signing-key-needed"
    reader = await ask(None).register(token, WorkerRegister(name="reader", capabilities=["ocr"]))
    await ask(service("gateway")).authenticate_worker(reader.credential)
    await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    shown, _ = await ask(OPERATOR).list_workers(OPERATOR)
    assert {worker.name: worker.key for worker in shown} == {"drone-1": PUBLIC_KEY, "reader": ""}


async def test_a_token_that_nobody_gave_makes_nobody_write(
    here: Rig, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await here.token()
    registration = WorkerRegister(name="drone-1", key=PUBLIC_KEY)
    admitted = await ask(None).register(token, registration)

    async def writes(*_: Any, **__: Any) -> None:
        raise AssertionError("a stranger makes the database write")

    monkeypatch.setattr(type(here.database), "write", writes)
    ids = (identity_of(token, JOIN_PREFIX), admitted.worker)
    for prefix, identity in product((JOIN_PREFIX, WORKER_PREFIX), ids):
        with pytest.raises(Unauthenticated) as refusal:
            await ask(None).register(make_secret(prefix, identity, b"x" * 32), registration)
        assert refusal.value.code == "join-token-invalid"


async def test_a_worker_without_a_key_is_refused_until_it_registers_again(
    here: Rig, ask: Any
) -> None:
    """As earlier releases registered workers; their credential is enough to come back."""
    token = await here.token(expires_seconds=60)
    first = await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    here.manual.advance(61)
    gone = workers.update().where(workers.c.tenant == OPERATOR.tenant).values(signing_key="")
    await here.database.write(OPERATOR, lambda conn: conn.execute(gone))
    gateway = service("gateway")
    with pytest.raises(Unauthenticated) as refusal:
        await ask(gateway).authenticate_worker(first.credential)
    assert refusal.value.code == "worker-without-key"
    other = WorkerRegister(name="drone-2", key=PUBLIC_KEY)
    for wrong, request in (
        (first.credential, other),
        (first.credential[:-1] + "x", WorkerRegister(name="drone-1", key=PUBLIC_KEY)),
        (token, WorkerRegister(name="drone-1", key=PUBLIC_KEY)),
    ):
        with pytest.raises(Unauthenticated):
            await ask(None).register(wrong, request)
    again = await ask(None).register(first.credential, WorkerRegister(name="drone-1", key="b" * 64))
    assert again.worker == first.worker
    assert await ask(gateway).authenticate_worker(again.credential)
    with pytest.raises(Unauthenticated):
        await ask(None).register(first.credential, WorkerRegister(name="drone-1", key=PUBLIC_KEY))


async def test_a_grant_names_the_key_and_its_registration(here: Rig, ask: Any) -> None:
    worker = await here.worker("drone-1")
    task = await leased(here, ask, worker)
    answer = await ask(worker).beat(worker, Beat(leases={task.id: task.fence}))
    grant = read_grant(answer.renewed[task.id], KEYS, here.clock.now())
    assert grant.key == PUBLIC_KEY
    entries = await here.database.read(
        OPERATOR, lambda conn: here.fleet.outbox.ready(conn, OPERATOR, BEGINNING, 1000)
    )
    [event] = [each.event for each in entries if each.event.type == "worker.registered"]
    assert (grant.registration, event.payload["key"]) == (event.id, PUBLIC_KEY)


async def test_a_token_admits_until_it_expires(here: Rig, ask: Any) -> None:
    token = await here.token(expires_seconds=60)
    here.manual.advance(59)
    await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    here.manual.advance(1)
    for name in ("drone-1", "drone-2"):
        with pytest.raises(Unauthenticated) as refusal:
            await ask(None).register(token, WorkerRegister(name=name, key=PUBLIC_KEY))
        assert refusal.value.code == "join-token-invalid"


async def test_a_token_fixes_region_and_capabilities(here: Rig, ask: Any) -> None:
    token = await here.token(region="us", capabilities=["collect"])
    for change, code in (
        ({"region": "eu"}, "region-not-granted"),
        ({"capabilities": ["ocr"]}, "capabilities-not-granted"),
    ):
        with pytest.raises(Denied) as refusal:
            await ask(None).register(
                token, WorkerRegister(**{"name": "drone-1", "key": PUBLIC_KEY} | change)
            )
        assert refusal.value.code == code
    anywhere = await here.token()
    with pytest.raises(Denied):
        await ask(None).register(
            anywhere, WorkerRegister(name="drone-1", region="eu", key=PUBLIC_KEY)
        )


async def test_a_name_of_another_region_cannot_be_taken(here: Rig, ask: Any) -> None:
    await here.worker("drone-1", region="eu")
    token = await here.token(region="us")
    with pytest.raises(Conflict) as refusal:
        await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    assert refusal.value.code == "worker-name-taken"


async def test_a_revoked_worker_is_out_and_what_it_held_is_free(here: Rig, ask: Any) -> None:
    token = await here.token()
    credential = await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    worker = await here.fleet.authenticate_worker(credential.credential)
    other = await here.worker("drone-2")
    task = await leased(here, ask, worker)
    shown = await ask(OPERATOR).revoke_worker(OPERATOR, worker.subject)
    assert shown.status is WorkerStatus.REVOKED
    assert (await ask(OPERATOR).revoke_worker(OPERATOR, worker.subject)).id == shown.id
    gateway = service("gateway")
    with pytest.raises(Unauthenticated) as refusal:
        await ask(gateway).authenticate_worker(credential.credential)
    assert refusal.value.code == "worker-revoked"
    with pytest.raises(Unauthenticated):
        await ask(worker).claim(worker, claim())
    with pytest.raises(Unauthenticated):
        await ask(worker).beat(worker, Beat())
    with pytest.raises(Denied):
        await ask(None).register(token, WorkerRegister(name="drone-1", key=PUBLIC_KEY))
    with pytest.raises(Conflict):
        await ask(worker).complete(worker, task.id, Complete(fence=task.fence, **DONE))
    here.manual.advance(60)
    [again] = await ask(other).claim(other, claim())
    assert again.task.id == task.id
    with pytest.raises(NotFound):
        await ask(OPERATOR).revoke_worker(OPERATOR, here.new_id())


async def test_nobody_else_is_told_who_holds_a_credential(
    here: Rig, ask: Any, place: tuple[str, str]
) -> None:
    if place[0] != "http":
        return  # in one process the door asks the service itself
    await here.worker()
    with pytest.raises(Denied):
        await ask(OPERATOR).authenticate_worker("hfw_x")


@pytest.mark.parametrize("text", ["", "hfw_", "hfj_x_y_z", "x" * 500])
async def test_a_malformed_credential_is_refused_in_one_way(here: Rig, ask: Any, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await here.fleet.authenticate_worker(text)
    with pytest.raises(Unauthenticated):
        await here.fleet.register(text, WorkerRegister(name="drone-1", key=PUBLIC_KEY))


async def test_workers_are_listed_by_pages(here: Rig, ask: Any) -> None:
    for n in range(5):
        await here.worker(f"drone-{n}")
    first, after = await ask(OPERATOR).list_workers(OPERATOR, limit=3)
    rest, end = await ask(OPERATOR).list_workers(OPERATOR, after=after or "", limit=3)
    assert [worker.name for worker in first + rest] == [f"drone-{n}" for n in range(5)]
    assert end is None


async def test_workers_are_counted_and_those_that_beat_are_shown_first(here: Rig, ask: Any) -> None:
    for n in range(4):
        await here.worker(f"drone-{n}")
    [gone] = [w for w in (await here.fleet.list_workers(OPERATOR))[0] if w.name == "drone-0"]
    await ask(OPERATOR).revoke_worker(OPERATOR, gone.id)
    found = await ask(OPERATOR).summarise_workers(OPERATOR, limit=2)
    assert found.counts == {WorkerStatus.ALIVE: 3, WorkerStatus.REVOKED: 1}
    assert [worker.name for worker in found.workers] == ["drone-1", "drone-2"]
    every = await ask(OPERATOR).summarise_workers(OPERATOR)
    assert [worker.name for worker in every.workers][-1] == "drone-0"
