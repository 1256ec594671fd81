"""Drones that are cut off, forgotten, stopped or doubled: everything is collected exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from holdfast.collect.fixtures.faults import Fault
from holdfast.collect.formats import json as formats_json
from holdfast.collect.model import RawRow
from holdfast.collect.state import load_credential
from holdfast.fleet.model import Task, TaskStatus, WorkerStatus
from holdfast.fleet.worker_store import workers
from holdfast.kernel.clock import parse_timestamp
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid
from holdfast.records.model import RunStatus
from tests.integration.collecting import IMPATIENT, OPERATOR, Collecting, Line, collecting
from tests.support.waiting import until

ROWS = [{"id": f"r{i:05}", "v": i} for i in range(12_000)]
LOST = {
    "/v1/workers/register": 2,
    "/v1/workers/beat": 3,
    "/v1/tasks/claim": 1,
    "/versions/": 2,
    "POST /v1/runs": 2,
    "/plan": 2,
    "/responses/": 2,
    "/v1/batches": 5,
    "/finish": 3,
    "/complete": 3,
}
"""Answers that never arrive, by the call that they answer."""


BEAT = "POST /v1/workers/beat"


@pytest.fixture
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path, **getattr(request, "param", {})) as found:
        yield found


async def assert_collected_once(bench: Collecting, rows: int) -> None:
    records = await bench.records()
    assert len(records) == rows
    assert len({r.id for r in records}) == rows
    assert {r.revision for r in records} == {1}
    assert len({r.provenance.run for r in records if r.provenance}) == 1


async def test_answers_that_are_lost_change_nothing(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    line = Line(bench.system.app)
    line.lose = dict(LOST)
    async with bench.drone(line=line):
        run = await bench.collect()
        await until(lambda: not any(line.lose.values()))
    assert (run.status, run.records, run.batches) == (RunStatus.SUCCEEDED, 12_000, 3)
    await assert_collected_once(bench, 12_000)


@pytest.mark.parametrize("bench", [IMPATIENT], indirect=True)
async def test_a_drone_that_is_cut_off_is_succeeded_and_finds_out(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    bench.source.faults.replace([Fault(kind="delay", seconds=4, times=1)])
    line = Line(bench.system.app)
    async with bench.drone("first", line=line) as first:
        task = await bench.submit()
        await until(lambda: bench.source.count() == 1)
        line.cut = True
        async with bench.drone("second"):
            run = await bench.ended(task)
            assert (run.status, run.records) == (RunStatus.SUCCEEDED, 12_000)
            assert run.attempts >= 2
            line.cut = False
            # The first comes back with its answer late: nothing of it counts.
            await until(lambda: not first.busy)
    after = await bench.run_of(task)
    assert (after.fence, after.records, after.worker) == (run.fence, 12_000, run.worker)
    assert run.fence > 1
    await assert_collected_once(bench, 12_000)


@pytest.mark.parametrize("bench", [{"fleet_lease_seconds": "12"}], indirect=True)
async def test_a_busy_parser_does_not_look_dead(
    bench: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes without a pause until the lease was renewed, however long that takes."""
    bench.write("data.json", ROWS[:5])
    await bench.publish()
    began, renewed = threading.Event(), threading.Event()
    read = formats_json.read

    def busily(*page: Any) -> Iterator[RawRow]:
        began.set()
        patience = time.monotonic() + 90
        while not renewed.is_set():
            assert time.monotonic() < patience, "the parser kept the drone from beating"
            sum(range(1000))
        yield from read(*page)

    monkeypatch.setattr(formats_json, "read", busily)
    line = Line(bench.system.app)
    async with bench.drone(line=line):
        task = await bench.submit()
        await until(began.is_set)
        before, beats = await bench.task(task), line.seen[BEAT]

        async def held_on() -> bool:
            now = await bench.task(task)
            assert (now.status, now.attempts) == (TaskStatus.LEASED, 1)
            gained = expiry(now) - expiry(before)
            # Once for its first beat; again only when a third of the lease was gone.
            return gained > timedelta(seconds=now.lease_seconds / 3)

        try:
            await until(held_on)
        finally:
            renewed.set()
        assert line.seen[BEAT] > beats
        run = await bench.ended(task)
    assert (run.status, run.records, run.attempts) == (RunStatus.SUCCEEDED, 5, 1)
    assert (await bench.task(task)).attempts == 1


def expiry(task: Task) -> datetime:
    assert task.lease_expires_at
    return parse_timestamp(task.lease_expires_at)


async def test_a_cancelled_run_ends_at_once_and_the_drone_goes_on(bench: Collecting) -> None:
    bench.write("data.json", ROWS[:5])
    await bench.publish("slow")
    await bench.publish("other")
    bench.source.faults.replace([Fault(kind="silent", times=1)])
    async with bench.drone():
        task = await bench.submit("slow")
        await until(lambda: bench.source.count() == 1)
        await bench.system.fleet.cancel(OPERATOR, task.id)
        run = await bench.ended(task)
        assert run.status is RunStatus.CANCELLED
        other = await bench.collect("other")
    assert other.status is RunStatus.SUCCEEDED
    assert (await bench.task(task)).status is TaskStatus.CANCELLED


async def test_a_drone_that_is_stopped_gives_its_run_back(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    bench.source.faults.replace([Fault(kind="silent", times=1)])
    async with bench.drone("first", grace_seconds=0.1):
        task = await bench.submit()
        await until(lambda: bench.source.count() == 1)
    given_back = await bench.task(task)
    assert given_back.status is TaskStatus.QUEUED
    assert [attempt.code for attempt in given_back.history] == ["drone-stopped"]
    assert given_back.attempts == 0
    async with bench.drone("second"):
        run = await bench.ended(task)
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 12_000)
    await assert_collected_once(bench, 12_000)


async def test_a_stopped_drone_that_was_revoked_does_not_insist(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    bench.source.faults.replace([Fault(kind="silent", times=1)])
    line = Line(bench.system.app)
    async with bench.drone("first", grace_seconds=0.1, line=line):
        task = await bench.submit()
        await until(lambda: bench.source.count() == 1)
        (worker,), _ = await bench.system.fleet.list_workers(OPERATOR)
        await bench.system.fleet.revoke_worker(OPERATOR, worker.id)
    told = [count for name, count in line.seen.items() if task.id in name]
    assert sum(told) <= 2, line.seen


async def test_a_drone_that_stops_while_it_waits_for_work_is_given_none(bench: Collecting) -> None:
    """Its claim may wait at the coordinator for longer than the drone lives."""
    bench.write("data.json", ROWS[:5])
    await bench.publish()
    async with bench.drone("first"):
        task = await bench.submit()
        await bench.ended(task)

    def left(conn: Connection) -> int | None:
        asked = text("SELECT settled FROM workers WHERE tenant = 'default' AND name = 'first'")
        return conn.execute(asked).scalar_one()

    # It said that whatever it had asked for is over, so nothing is leased to nobody.
    assert await bench.system.fleet.database.read(OPERATOR, left)
    after = await bench.submit()
    async with bench.drone("second"):
        await bench.ended(after)
    assert (await bench.task(after)).attempts == 1
    assert (await bench.task(after)).history == []


async def test_a_drone_that_is_stopped_finishes_what_is_nearly_done(bench: Collecting) -> None:
    bench.write("data.json", ROWS[:5])
    await bench.publish()
    bench.source.faults.replace([Fault(kind="delay", seconds=0.5, times=1)])
    async with bench.drone(grace_seconds=10):
        task = await bench.submit()
        await until(lambda: bench.source.count() == 1)
    assert (await bench.task(task)).status is TaskStatus.SUCCEEDED


async def test_many_profiles_are_shared_and_none_is_fetched_twice(bench: Collecting) -> None:
    names = [f"p{n}" for n in range(12)]
    for name in names:
        bench.write(f"{name}.json", ROWS[:3])
        await bench.publish(name, path=f"{name}.json")
    async with bench.drone("one"), bench.drone("two"), bench.drone("three", capacity=2):
        tasks = [await bench.submit(name) for name in names]
        runs = [await bench.ended(task) for task in tasks]
    assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
    assert [bench.source.count(f"/{name}.json") for name in names] == [1] * 12


async def test_a_restarted_drone_is_the_same_worker(bench: Collecting) -> None:
    async with bench.drone():
        await until_alive(bench, "drone-1")
    (bench.root / "join-token").unlink()
    bench.write("data.json", ROWS[:1])
    await bench.publish()
    async with bench.drone():
        run = await bench.collect()
    workers, _ = await bench.system.fleet.list_workers(OPERATOR)
    assert [worker.id for worker in workers] == [run.worker]


async def test_a_drone_that_was_forgotten_registers_again(bench: Collecting) -> None:
    bench.write("data.json", ROWS[:1])
    await bench.publish()
    settings = bench.settings("drone-1")
    async with bench.drone():
        await until_alive(bench, "drone-1")
        before = load_credential(settings.state_dir, "drone-1", settings.control_plane)
        # Somebody else takes the name: the credential of the running drone is dead from then on.
        elsewhere = replace(settings.collect, spool_dir=bench.root / "other-machine")
        other = bench.root / "other-machine"
        async with bench.drone(collect=elsewhere, state_dir=other):
            await until(lambda: (other / "drone-1.credential").exists())
        run = await bench.collect()
    assert run.status is RunStatus.SUCCEEDED
    after = load_credential(settings.state_dir, "drone-1", settings.control_plane)
    assert before
    assert after
    assert before[0].worker == after[0].worker
    assert before[0].credential != after[0].credential
    assert before[1]
    assert after[1]
    assert before[1].kid != after[1].kid, "each registration has a signing key of its own"


async def test_a_drone_of_an_earlier_registration_registers_again_and_signs(
    bench: Collecting,
) -> None:
    """Such a worker has no key on the record, and such a drone none on its disk. What the join
    token admits is over by then: the credential that still holds is enough."""
    bench.write("data.json", ROWS[:1])
    await bench.publish()

    async def as_before() -> None:
        assert bench.system.state is not None
        await bench.system.state.database.write(
            OPERATOR,
            lambda conn: conn.execute(
                workers.update()
                .where(workers.c.tenant == OPERATOR.tenant)
                .values(signing_key="", proved=0)
            ),
        )

    settings = bench.settings("drone-1")
    async with bench.drone():
        await until_alive(bench, "drone-1")

        def kept() -> bool:
            return (
                load_credential(settings.state_dir, "drone-1", settings.control_plane) is not None
            )

        # The coordinator knows of it before it has written down what it was given.
        await until(kept)
        first = load_credential(settings.state_dir, "drone-1", settings.control_plane)
        (bench.root / "join-token").write_text("hfj_nonsense")
        await as_before()
        run = await bench.collect()
    assert run.status is RunStatus.SUCCEEDED
    second = load_credential(settings.state_dir, "drone-1", settings.control_plane)
    assert first
    assert second
    assert first[1]
    assert second[1]
    assert first[1].kid != second[1].kid
    await as_before()
    for path in settings.state_dir.glob("*.key"):
        path.unlink()
    bench.write("data.json", ROWS[:2])
    async with bench.drone():
        run = await bench.collect()
    assert run.status is RunStatus.SUCCEEDED
    [worker], _ = await bench.system.fleet.list_workers(OPERATOR)
    last = load_credential(settings.state_dir, "drone-1", settings.control_plane)
    assert last
    assert last[1]
    assert worker.key == last[1].public_bytes().hex()
    assert worker.id == run.worker == first[0].worker


async def test_a_drone_without_a_way_in_says_what_to_do(bench: Collecting) -> None:
    with pytest.raises(Invalid, match="no join token"):
        async with bench.drone(join_token_file=None):
            await asyncio.sleep(30)
    (bench.root / "join-token").write_text("hfj_nonsense")
    with pytest.raises(HoldfastError, match="join-token: ") as refused:
        async with bench.drone():
            await asyncio.sleep(30)
    assert "holdfast worker token" in refused.value.hint
    (bench.root / "join-token").unlink()
    with pytest.raises(Invalid, match="join-token: No such file") as missing:
        async with bench.drone():
            await asyncio.sleep(30)
    assert "--join-token-file" in missing.value.hint


async def test_two_drones_of_one_name_on_one_machine_are_refused(bench: Collecting) -> None:
    async with bench.drone("twin"):
        await until_alive(bench, "twin")
        with pytest.raises(Conflict, match="another one of that name"):
            async with bench.drone("twin"):
                await asyncio.sleep(30)


async def until_alive(bench: Collecting, name: str) -> None:
    async def alive() -> bool:
        workers, _ = await bench.system.fleet.list_workers(OPERATOR)
        return any(w.name == name and w.status is WorkerStatus.ALIVE for w in workers)

    await until(alive)


async def test_a_drone_waits_for_a_system_that_is_not_there_yet(bench: Collecting) -> None:
    bench.write("data.json", ROWS[:1])
    await bench.publish()
    line = Line(bench.system.app)
    line.cut = True
    async with bench.drone(line=line):
        task = await bench.submit()
        await asyncio.sleep(0.5)
        line.cut = False
        run = await bench.ended(task)
    assert run.status is RunStatus.SUCCEEDED


async def test_a_process_interval_is_a_pause_between_empty_polls(bench: Collecting) -> None:
    bench.write("data.json", ROWS[:1])
    await bench.publish()
    line = Line(bench.system.app)
    began = time.monotonic()
    async with bench.drone(line=line, process_interval_seconds=0.3):
        await until(lambda: line.seen["POST /v1/tasks/claim"] >= 3)
        task = await bench.submit()
        run = await bench.ended(task)
    assert run.status is RunStatus.SUCCEEDED
    # It asked now and then.
    assert line.seen["POST /v1/tasks/claim"] <= 2 + (time.monotonic() - began) / 0.3
