"""Projections: equal to a replay at every position, made anew without ever being gone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from holdfast.fleet.folding import Tasks
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import PAYLOAD_BYTES_MAX, commitment
from holdfast.kernel.principal import Principal, operator, service
from holdfast.ledger.errors import ProjectionUnknown, SizeUnknown
from holdfast.ledger.folding import replay
from holdfast.ledger.log.parts import LogParts
from holdfast.ledger.model import Append, Relay, RelayedEvent
from holdfast.ledger.service import LedgerService
from holdfast.records.folding import Publications, Runs
from tests.support.ledger import NOW, ONE, event, event_id, everything, parts_on
from tests.support.soaking import scale

FOLDS = (Publications(), Runs(), Tasks())
ROLE = service("ledger")
OTHER = operator(TenantId("other"))


def made_of(parts: LogParts, folds: Any = FOLDS) -> LedgerService:
    return LedgerService(parts, lambda: event_id(10**6), folds)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def parts(database: Database, tmp_path: Path, clock: ManualClock) -> LogParts:
    return parts_on(database, tmp_path, clock=clock)


@pytest.fixture
async def ledger(parts: LogParts):
    made = made_of(parts)
    yield made
    await made.close()


def told(chance: random.Random, number: int) -> RelayedEvent:
    """An event of a role, about one of a few runs, tasks and profiles."""
    which = chance.randrange(6)
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        (
            f"run/r{which}",
            "run.finished",
            {
                "run": f"r{which}",
                "status": chance.choice(["succeeded", "failed"]),
                "records": which,
            },
        ),
        (
            f"profile/p{which}",
            "records.ingested",
            {"profile": f"p{which}", "publication": number, "recorded_at": "now", "run": "r"},
        ),
        (f"profile/p{which}", "records.exported", {"profile": f"p{which}"}),
        (
            f"task/t{which}",
            chance.choice(["task.submitted", "task.retried", "task.succeeded", "task.cancelled"]),
            {"task": f"t{which}", "kind": "collect", "attempt": chance.randrange(3)},
        ),
        (f"notes/n{which}", "run.finished", {"run": "not-a-role"}),
    ]
    stream, kind, payload = chance.choice(kinds)
    salt = bytes(32)
    body = canonical(payload)
    assert len(body) < PAYLOAD_BYTES_MAX
    return RelayedEvent(
        id=event_id(number),
        stream=stream,
        type=kind,
        time=timestamp(NOW),
        subject="aggregator",
        request_id="",
        about="",
        length=len(body),
        commitment=commitment(salt, body).hex(),
        payload=payload,
        salt=salt.hex(),
    )


async def folded(
    ledger: LedgerService, name: str, principal: Principal = ONE, **options: Any
) -> dict[str, Any]:
    """Every state of a projection, page by page."""
    found: dict[str, Any] = {}
    cursor = None
    while True:
        page = await ledger.projected(principal, name, cursor=cursor, limit=4, **options)
        found |= {each.key: each.state for each in page.items}
        cursor = page.next
        if cursor is None:
            return found


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2 * scale()))
async def test_a_projection_at_every_position_is_a_replay_up_to_it(
    ledger: LedgerService, clock: ManualClock, seed: int
) -> None:
    chance = random.Random(seed)
    number, moments = 0, []
    while number < 60:
        count = chance.randint(1, 9)
        await ledger.relay(ROLE, Relay(events=[told(chance, number + n) for n in range(count)]))
        number += count
        moments.append((clock.now(), number))
        clock.advance(1.5)
        if chance.random() < 0.3:  # caught up now and then, not only at the end
            await ledger.projected(ONE, chance.choice(FOLDS).name)
    entries = await everything(ledger)
    for fold in FOLDS:
        for position in range(number + 1):
            found = await folded(ledger, fold.name, position=position)
            assert found == replay(fold, entries[:position]), (fold.name, position)
        for moment, position in moments:
            expected = replay(fold, entries[:position])
            assert await folded(ledger, fold.name, as_of=moment) == expected
    # The other lists of the log obey the same rule: a stream as of a time is a replay up to it.
    for moment, position in moments:
        for stream in {entry.stream for entry in entries}:
            page = await ledger.read(ONE, stream=stream, as_of=moment, limit=1000)
            assert page.items == [e for e in entries[:position] if e.stream == stream]


async def test_it_says_which_position_it_reflects(ledger: LedgerService) -> None:
    chance = random.Random(5)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(20)]))
    before = {each.name: each for each in await ledger.projections.all(ONE)}
    assert set(before) == {"publications", "runs", "tasks"}
    assert (before["runs"].position, before["runs"].size) == (0, 20)
    page = await ledger.projected(ONE, "runs")
    assert page.position == 20
    assert {p.name: p.position for p in await ledger.projections.all(ONE)}["runs"] == 20
    with pytest.raises(SizeUnknown):
        await ledger.projected(ONE, "runs", position=21)
    with pytest.raises(ProjectionUnknown, match="banana"):
        await ledger.projected(ONE, "banana")


async def test_a_list_that_was_begun_stays_at_its_position(ledger: LedgerService) -> None:
    chance = random.Random(6)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(60)]))
    page = await ledger.projected(ONE, "tasks", limit=2)
    expected = await folded(ledger, "tasks", position=60)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(60, 120)]))
    found = {each.key: each.state for each in page.items}
    while page.next:
        page = await ledger.projected(ONE, "tasks", cursor=page.next, limit=2)
        assert page.position == 60
        found |= {each.key: each.state for each in page.items}
    assert found == expected


async def test_a_rebuild_that_dies_half_way_leaves_the_old_one_in_service(
    ledger: LedgerService,
    parts: LogParts,
    database: Database,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.ledger.folding.STEP_POSITIONS", 16)
    chance = random.Random(7)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(100)]))
    expected = await folded(ledger, "runs")
    for stop in range(1, 8):
        rebuilding = ledger.projections.rebuild(ONE, "runs")
        for _ in range(stop):
            progress = await anext(rebuilding)
        assert not progress.serving
        await rebuilding.aclose()
        assert await folded(ledger, "runs") == expected
    # A program that was killed in the middle: nothing of it is left but its rows.
    rebuilding = ledger.projections.rebuild(ONE, "runs")
    for _ in range(3):
        await anext(rebuilding)
    with pytest.raises(Conflict, match="being rebuilt"):
        await anext(ledger.projections.rebuild(ONE, "runs"))
    clock.advance(1)
    after = made_of(parts)
    assert await folded(after, "runs") == expected
    lines = [line async for line in after.projections.rebuild(ONE, "runs")]
    assert [line.folded for line in lines] == sorted(line.folded for line in lines)
    assert lines[-1].serving
    assert lines[-1].folded == 100
    assert await folded(after, "runs") == expected
    count = "SELECT count(DISTINCT generation) FROM ledger_folded WHERE tenant = 'default'"
    count += " AND name = 'runs'"
    kept = await database.read(ONE, lambda conn: conn.execute(text(count)).scalar_one())
    assert kept == 1
    # The one that was thought dead wakes up: what it began is gone, and it changes nothing.
    with pytest.raises(HoldfastError, match="another instance"):
        async for _ in rebuilding:
            pass
    assert await folded(ledger, "runs") == expected
    assert await folded(after, "runs") == expected


async def test_other_rules_make_it_anew(parts: LogParts, ledger: LedgerService) -> None:
    chance = random.Random(8)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(50)]))
    await folded(ledger, "runs")

    class Counted(Runs):
        rules = 2

        def step(self, state, entry):
            return {"times": (state or {"times": 0})["times"] + 1}

    changed = made_of(parts, (Counted(),))
    entries = await everything(ledger)
    assert await folded(changed, "runs") == replay(Counted(), entries)
    assert (await changed.projections.all(ONE))[0].rules == 2


async def test_two_instances_keep_one_projection(parts: LogParts, ledger: LedgerService) -> None:
    chance = random.Random(9)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(90)]))
    others = [made_of(parts) for _ in range(3)]
    answers = await asyncio.gather(
        *(folded(each, "tasks") for each in [ledger, *others]), return_exceptions=True
    )
    expected = replay(Tasks(), await everything(ledger))
    # One that came upon the other's first step is told to come again, and nothing is folded twice.
    assert all(a == expected for a in answers if not isinstance(a, HoldfastError)), answers
    assert expected in answers
    assert await folded(ledger, "tasks") == expected


async def test_tenants_have_projections_of_their_own(
    ledger: LedgerService,
) -> None:
    chance = random.Random(10)
    await ledger.relay(ROLE, Relay(events=[told(chance, n) for n in range(30)]))
    await ledger.append(OTHER, Append(events=[event(1)]))
    assert await folded(ledger, "runs", OTHER) == {}
    assert await folded(ledger, "runs") != {}
