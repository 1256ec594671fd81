"""Places and paces at a host, dealt by the coordinator: on both databases, and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from holdfast.fleet.base import FleetSettings
from holdfast.fleet.model import (
    Claim,
    Complete,
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    Task,
    TaskSubmit,
)
from holdfast.fleet.paces import AHEAD_SECONDS
from holdfast.fleet.places import WAITING_SECONDS
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import Conflict, Invalid
from tests.conformance.test_tasks import clients
from tests.support.fleet import OPERATOR, Rig, rig

HOST = "API.example.org:443"
SETTINGS = FleetSettings(requests_per_host=2, requests_per_host_of={"one.example.org": 1})


@pytest.fixture(params=["sqlite", "postgresql", "http"])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which way the fleet is asked, and the database behind it."""
    kind = "postgres_url" if request.param == "postgresql" else "sqlite_url"
    return request.param, request.getfixturevalue(kind)


@pytest.fixture
async def here(way: tuple[str, str]) -> AsyncIterator[tuple[Rig, Any]]:
    """A coordinator whose clock stands still, and how a worker reaches it."""
    async with open_database(way[1], clock=SystemClock()) as database:
        found = rig(database, settings=SETTINGS)
        yield found, clients(found) if way[0] == "http" else lambda _: found.fleet


async def leased(here: Rig, worker: Any, count: int) -> list[Task]:
    for _ in range(count):
        await here.fleet.submit(OPERATOR, TaskSubmit(kind="work"))
    claimed = await here.fleet.claim(worker, Claim(kinds=["work"], limit=count))
    assert len(claimed) == count
    return [each.task for each in claimed]


async def asks(
    here: tuple[Rig, Any], worker: Any, task: Task, places: Any = 1, **more: Any
) -> PlacesHeld:
    fence = more.pop("fence", task.fence)
    wanted = PlacesWanted(**{"fence": fence, "source": HOST, "places": places} | more)
    found: PlacesHeld = await here[1](worker).places(worker, task.id, wanted)
    return found


async def test_a_host_has_so_many_places_whoever_asks(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    first, second, third = await leased(here[0], worker, 3)
    assert (await asks(here, worker, first)).places == 1
    assert (await asks(here, worker, first)).places == 1  # the same again
    assert (await asks(here, worker, second, 2)).places == 1
    refused = await asks(here, worker, third)
    assert refused.places == 0
    assert 0 < refused.again_seconds <= 5
    assert (await asks(here, worker, third, source="other.example.org:443")).places == 1
    assert (await asks(here, worker, first, 0)).places == 0
    # It came later, and has none: it goes before who has one and wants another.
    assert (await asks(here, worker, second, 2, busy=1)).places == 1
    assert (await asks(here, worker, third)).places == 1


async def test_some_hosts_are_asked_otherwise(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    first, second = await leased(here[0], worker, 2)
    one = {"source": "one.example.org:8443"}
    assert (await asks(here, worker, first, 3, **one)).places == 1
    assert (await asks(here, worker, second, **one)).places == 0


async def test_places_end_with_the_lease_however_it_ends(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    first, second, third = await leased(here[0], worker, 3)
    assert (await asks(here, worker, first, 2)).places == 2
    done = Complete(fence=first.fence, outcome="succeeded")
    await here[0].fleet.complete(worker, first.id, done)
    assert (await asks(here, worker, second, 2)).places == 2
    # Its worker was killed: nothing is heard until the lease is over, and found to be.
    assert (await asks(here, worker, third)).places == 0
    loops = here[0].loops()
    here[0].manual.advance(SETTINGS.lease_seconds * 2)
    await loops.expire_leases(OPERATOR)
    with pytest.raises(Conflict, match="not held"):
        await asks(here, worker, third)
    again = await leased(here[0], worker, 1)
    assert (await asks(here, worker, again[0], 2)).places == 2
    await loops.sweep_hosts(OPERATOR)
    assert (await asks(here, worker, again[0], 2)).places == 2


async def test_only_the_holder_asks_and_only_for_what_makes_sense(here: tuple[Rig, Any]) -> None:
    worker, other = await here[0].worker(), await here[0].worker("drone-2")
    [task] = await leased(here[0], worker, 1)
    for asking in (
        asks(here, other, task),
        asks(here, worker, task, fence=task.fence + 1),
    ):
        with pytest.raises(Conflict) as caught:
            await asking
        assert caught.value.code == "stale-fence"
    with pytest.raises(Invalid, match="fewer places than are in use"):
        await asks(here, worker, task, 1, busy=2)


async def test_who_stopped_asking_stands_in_nobodys_way(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    holder, gone, late = await leased(here[0], worker, 3)
    assert (await asks(here, worker, holder, 2)).places == 2
    assert (await asks(here, worker, gone)).places == 0
    assert (await asks(here, worker, holder, 1)).places == 1
    assert (await asks(here, worker, late)).places == 0  # one is free, and somebody's turn
    here[0].manual.advance(WAITING_SECONDS + 1)
    assert (await asks(here, worker, late)).places == 1


async def test_at_the_end_of_a_turn_the_next_one_has_the_place(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    first, second = await leased(here[0], worker, 2)
    one = {"source": "one.example.org:443"}
    assert (await asks(here, worker, first, **one)).places == 1
    assert (await asks(here, worker, second, **one)).places == 0
    here[0].manual.advance(1)
    assert (await asks(here, worker, first, turn=True, **one)).places == 0
    assert (await asks(here, worker, second, **one)).places == 1
    assert (await asks(here, worker, first, **one)).places == 0


async def test_asking_at_once_deals_no_more_than_there_are(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    tasks = await leased(here[0], worker, 12)
    other = here[0].again()
    fleets = [here[1](worker), other.fleet]
    wanted = [PlacesWanted(fence=t.fence, source=HOST, places=2) for t in tasks]
    answers = await asyncio.gather(
        *(
            fleets[n % 2].places(worker, task.id, want)
            for n, (task, want) in enumerate(zip(tasks, wanted, strict=True))
        )
    )
    assert sum(answer.places for answer in answers) == 2
    assert timedelta(seconds=max(a.again_seconds for a in answers)) <= timedelta(seconds=5)


# --- paces --------------------------------------------------------------------------------------


async def paced(
    here: tuple[Rig, Any], worker: Any, task: Task, per_minute: int = 6, **more: Any
) -> PaceGiven:
    fence = more.pop("fence", task.fence)
    wanted = PaceWanted(**{"fence": fence, "source": HOST, "per_minute": per_minute} | more)
    found: PaceGiven = await here[1](worker).pace(worker, task.id, wanted)
    return found


async def test_requests_to_a_host_follow_each_other_whoever_makes_them(
    here: tuple[Rig, Any],
) -> None:
    worker, other = await here[0].worker(), await here[0].worker("drone-2")
    [first] = await leased(here[0], worker, 1)
    [second] = await leased(here[0], other, 1)
    assert await paced(here, worker, first) == PaceGiven(given=True, wait_seconds=0)
    assert (await paced(here, other, second)).wait_seconds == 10
    assert (await paced(here, worker, first, 60)).wait_seconds == 11
    elsewhere = await paced(here, worker, first, source="other.example.org:443")
    assert elsewhere.wait_seconds == 0
    here[0].manual.advance(11)
    assert (await paced(here, other, second)).wait_seconds == 10
    here[0].manual.advance(100)
    assert (await paced(here, other, second)).wait_seconds == 0
    for asking in (paced(here, other, first), paced(here, worker, first, fence=first.fence + 1)):
        with pytest.raises(Conflict, match="not held"):
            await asking


async def test_no_moment_is_given_far_ahead(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    [task] = await leased(here[0], worker, 1)
    given = [await paced(here, worker, task, 2) for _ in range(4)]
    assert [each.wait_seconds for each in given if each.given] == [0, 30, 60]
    assert not given[3].given
    assert 0 < given[3].wait_seconds <= AHEAD_SECONDS
    here[0].manual.advance(31)
    assert await paced(here, worker, task, 2) == PaceGiven(given=True, wait_seconds=59)
    # What binds nobody any more is forgotten; what does is not.
    loops = here[0].loops()
    await loops.sweep_hosts(OPERATOR)
    assert not (await paced(here, worker, task, 2)).given
    here[0].manual.advance(1000)
    await loops.sweep_hosts(OPERATOR)
    again = await leased(here[0], worker, 1)
    assert (await paced(here, worker, again[0], 2)).wait_seconds == 0


async def test_asking_at_once_gives_every_moment_once(here: tuple[Rig, Any]) -> None:
    worker = await here[0].worker()
    tasks = await leased(here[0], worker, 12)
    fleets = [here[1](worker), here[0].again().fleet]
    wanted = [PaceWanted(fence=t.fence, source=HOST, per_minute=60) for t in tasks]
    answers = await asyncio.gather(
        *(
            fleets[n % 2].pace(worker, task.id, want)
            for n, (task, want) in enumerate(zip(tasks, wanted, strict=True))
        )
    )
    assert sorted(answer.wait_seconds for answer in answers) == list(range(12))
