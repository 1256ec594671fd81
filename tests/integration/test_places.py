"""How many requests a host has at once, over all drones: counted by the host itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from holdfast.collect.fixtures.faults import Fault
from holdfast.records.model import RunStatus
from tests.integration.collecting import IMPATIENT, Collecting, Line, collecting
from tests.support.waiting import until

ROWS = [{"id": f"r{i}", "v": i} for i in range(10)]
HOSTS = ("one.example.org", "two.example.org")


PLACES = {"fleet_requests_per_host": "2", "fleet_requests_per_host_of": "one.example.org=1"}


@pytest.fixture
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path, **PLACES, **getattr(request, "param", {})) as found:
        yield found


def write_pages(bench: Collecting, name: str, count: int) -> None:
    for page in range(1, count + 1):
        rows = [{"id": f"p{page}r{i}", "v": i} for i in range(3)]
        bench.write(f"{name}_page{page}.json", {"rows": rows, "pages": count, "page": page})


async def test_four_drones_ask_one_host_no_more_at_once_than_it_may_have(
    bench: Collecting,
) -> None:
    """Eight runs of pages, four of them at once within a run: each drone alone would ask four."""
    names = [f"set-{number}" for number in range(8)]
    for name in names:
        write_pages(bench, name, 6)
        await bench.publish(
            name,
            path=f"{name}.json",
            source={
                "format": {"type": "json", "records": "$.rows[*]"},
                "pagination": {"type": "page", "total_pages": "$.pages"},
            },
            limits={"concurrency": 4},
        )
    bench.source.faults.replace([Fault(kind="delay", seconds=0.02)])
    async with AsyncExitStack() as drones:
        for number in range(4):
            await drones.enter_async_context(bench.drone(f"drone-{number}", capacity=2))
        tasks = [await bench.submit(name) for name in names]
        runs = [await bench.ended(task, seconds=60) for task in tasks]
    assert [run.status for run in runs] == [RunStatus.SUCCEEDED] * 8
    assert {run.records for run in runs} == {18}
    assert bench.source.count() == 48
    assert bench.source.busiest == 2


@pytest.mark.parametrize("bench", [IMPATIENT], indirect=True)
async def test_the_places_of_a_drone_that_is_gone_are_free_after_its_lease(
    bench: Collecting,
) -> None:
    """Two runs have both places, and their drone is not heard any more."""
    for name in ("first", "second", "third"):
        bench.write(f"{name}.json", ROWS)
        await bench.publish(name, path=f"{name}.json")
    bench.source.faults.replace([Fault(kind="silent", path="/*", times=2)])
    line = Line(bench.system.app)
    async with bench.drone("gone", line=line, capacity=2):
        held = [await bench.submit(name) for name in ("first", "second")]
        await until(lambda: bench.source.busiest == 2)
        line.cut = True
        async with bench.drone("other", capacity=3):
            waiting = await bench.submit("third")
            ended = [await bench.ended(task, seconds=60) for task in (*held, waiting)]
    assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 3
    assert all([(await bench.task(task)).attempts >= 2 for task in held])
    # Waiting for a place costs no attempt; a machine that stands still may.
    waited = await bench.task(waiting)
    lost = [each for each in waited.history if each.code in ("lease-expired", "worker-lost")]
    assert waited.attempts == 1 + len(lost), waited


async def test_runs_that_lead_to_each_others_hosts_never_wait_for_each_other(
    bench: Collecting,
) -> None:
    """Each goes from one host to the other and back; each host has one place."""
    replay = {f"https://{host}": bench.source.url for host in HOSTS}
    (bench.root / "both.json").write_bytes(msgspec.json.encode(replay))
    for name, hosts in (("there", HOSTS), ("back", HOSTS[::-1])):
        for page in range(6):
            following = f"https://{hosts[(page + 1) % 2]}/{name}-{page + 1}.json"
            rows = [{"id": f"{name}{page}", "v": page}]
            bench.write(
                f"{name}-{page}.json", {"rows": rows, "next": following if page < 5 else None}
            )
        await bench.publish(
            name,
            source={
                "url": f"https://{hosts[0]}/{name}-0.json",
                "format": {"type": "json", "records": "$.rows[*]"},
                "pagination": {"type": "next-url", "path": "$.next"},
            },
        )
    bench.source.faults.replace([Fault(kind="delay", seconds=0.02)])
    settings = bench.settings("any").collect
    outbound = replace(settings.outbound, replay_map=bench.root / "both.json")
    collect = replace(settings, outbound=outbound)
    async with bench.drone("a", collect=collect), bench.drone("b", collect=collect):
        tasks = [await bench.submit(name) for name in ("there", "back")]
        runs = [await bench.ended(task, seconds=60) for task in tasks]
    assert [(run.status, run.records) for run in runs] == [(RunStatus.SUCCEEDED, 6)] * 2
