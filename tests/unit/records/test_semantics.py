"""Modes and kinds of runs against plain models of a source that changes under them.

Seeded: rows come late, are corrected, vanish and come back; runs are ordinary, backfills and
rehearsals, some fail. After every run what is published, what was published at any time before, and
what the run says it changed are compared with the model.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from holdfast.collect.cursor import CursorState
from holdfast.fleet.grants import GrantMismatch
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid
from holdfast.records.model import MappedRecord, RecordFilter, Run, RunOpen, RunStatus
from holdfast.registry.model import Cursor
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, bench_on, profile, record

Key = tuple[str, int]
World = dict[Key, str]

STATES = ["AL", "CA", "NV", "OR"]
MONTHS = range(1, 9)
CURSOR = {"path": "$.t", "parameter": "since", "start": "2020-01-01", "overlap": "3h"}


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    profiles = [
        profile("snapshot"),
        profile("append", mode="append"),
        profile("incremental", mode="incremental", cursor=CURSOR, duplicates="last"),
        profile("timeless", period=None, key=["dimensions.state"]),
    ]
    async with bench_on(
        sqlite_database, tmp_path, *profiles, cleaning_rows=3, withdrawal_rows=2
    ) as found:
        yield found


def rows_of(world: World) -> list[MappedRecord]:
    return [
        record(state, value, month=month, position=number)
        for number, ((state, month), value) in enumerate(sorted(world.items()))
    ]


def first_day(month: int) -> str:
    return f"2025-{month:02d}-01"


async def run_of(
    bench: Bench,
    name: str,
    fence: int,
    rows: list[MappedRecord],
    *,
    outcome: str = "complete",
    cursor: str | None = None,
    **opening: Any,
) -> Run:
    """One whole run of any kind."""
    attempt = bench.attempt(name, fence=fence)
    await opened(bench, attempt, **opening)
    await attempt.respond()
    for sequence, start in enumerate(range(0, len(rows), 5)):
        await attempt.post(rows[start : start + 5], sequence=sequence)
    batches = -(-len(rows) // 5)
    return await attempt.finish(outcome, batches=batches, cursor=cursor)


async def opened(bench: Bench, attempt: Attempt, **opening: Any) -> Run:
    request = RunOpen(run=attempt.run, fence=attempt.claim.fence, **opening)
    found: Run = await bench.service.open(OPERATOR, attempt.grant, request)
    return found


async def published(bench: Bench, name: str, as_of: str | None = None) -> World:
    _, parts = await bench.service.stream(OPERATOR, RecordFilter(profile=name, as_of=as_of))
    return {
        (str(one.key[0]), int(str(one.key[1])[5:7])): one.measures["rate"].value
        async for part in parts
        for one in part
    }


def changes(before: World, after: World) -> tuple[int, int, int]:
    return (
        len(after.keys() - before.keys()),
        sum(key in before and before[key] != after[key] for key in after),
        len(before.keys() - after.keys()),
    )


def moved(dice: random.Random, world: World) -> World:
    """The source a while later: corrected, grown, shrunk."""
    found = dict(world)
    for _ in range(dice.randrange(6)):
        key = (dice.choice(STATES), dice.choice(MONTHS))
        if dice.random() < 0.3:
            found.pop(key, None)
        else:
            found[key] = str(dice.randrange(1, 4))
    return found


@pytest.mark.parametrize("mode", ["snapshot", "append"])
@pytest.mark.parametrize("seed", range(2))
async def test_runs_backfills_and_rehearsals_come_to_what_the_model_says(
    bench: Bench, mode: str, seed: int
) -> None:
    dice = random.Random(f"{mode} {seed}")
    world: World = {}
    model: World = {}
    past: list[tuple[str, World]] = []
    kinds: set[tuple[str, bool]] = set()
    deck = [
        *((backfill, rehearsal, "complete") for backfill in (0, 1) for rehearsal in (0, 0, 0, 1)),
        (False, False, "failed"),
        (True, False, "partial"),
    ]
    dice.shuffle(deck)
    for fence in range(1, 17):
        bench.clock.advance(60)
        world = moved(dice, world)
        low, high = sorted(dice.sample(range(1, 10), 2))
        backfill, rehearsal, outcome = deck[fence % len(deck)]
        opening: dict[str, Any] = {"rehearsal": bool(rehearsal)}
        brought = world
        if backfill:
            brought = {key: value for key, value in world.items() if low <= key[1] < high}
            opening |= {
                "kind": "backfill",
                "range_start": first_day(low),
                "range_end": first_day(high),
            }
        kept = {} if mode == "snapshot" else model
        if backfill and mode == "snapshot":
            kept = {key: value for key, value in model.items() if not low <= key[1] < high}
        expected = {**kept, **brought}
        run = await run_of(bench, mode, fence, rows_of(brought), outcome=outcome, **opening)
        if outcome == "complete":
            kinds.add((run.kind, run.rehearsal))
            assert (run.new, run.changed, run.withdrawn) == changes(model, expected), seed
            diff = await bench.service.run_diff(OPERATOR, run.id, limit=1000)
            assert (diff.new, diff.changed, diff.withdrawn) == changes(model, expected)
            assert diff.hidden == bool(rehearsal)
            assert (run.status, run.code) == (
                (RunStatus.PARTIAL, "rehearsal") if rehearsal else (RunStatus.SUCCEEDED, "")
            )
            if not rehearsal:
                model = expected
        assert await published(bench, mode) == model, f"seed {seed}, run {fence}"
        past.append((timestamp(bench.clock.now()), model))
        moment, then = dice.choice(past)
        assert await published(bench, mode, moment) == then
    assert len(kinds) == 4, "every kind of run came to its end, published and rehearsed"


@dataclass
class Late:
    """A source of events that are known only some time after they happened."""

    dice: random.Random
    now: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    known: list[tuple[datetime, Key, str]] = field(default_factory=list)

    def moves_on(self) -> None:
        self.now += timedelta(hours=self.dice.randrange(1, 6))
        for _ in range(self.dice.randrange(5)):
            lag = timedelta(hours=self.dice.choice([0, 0, 1, 2, 3, 8]))
            key = (self.dice.choice(STATES), self.dice.choice(MONTHS))
            self.known.append((self.now - lag, key, str(self.dice.randrange(1, 9))))

    def answers(self, since: datetime) -> list[tuple[datetime, Key, str]]:
        return sorted((one for one in self.known if one[0] >= since), key=lambda one: one[0])


@pytest.mark.parametrize("seed", range(2))
async def test_an_incremental_source_gives_what_its_overlap_reaches(
    bench: Bench, seed: int
) -> None:
    """Corrections and late rows within the overlap are seen; the cursor moves with publications."""
    dice = random.Random(seed)
    source, model = Late(dice), {}
    moved_to: datetime | None = None
    outcomes: set[str] = set()
    for fence in range(1, 19):
        bench.clock.advance(60)
        source.moves_on()
        attempt = bench.attempt("incremental", fence=fence)
        backfill = dice.random() < 0.2
        ranged = {"range_start": first_day(1), "range_end": first_day(9)}
        await opened(bench, attempt, **({"kind": "backfill", **ranged} if backfill else {}))
        plan = await bench.service.plan(OPERATOR, attempt.grant, attempt.run)
        assert plan.cursor == (moved_to and timestamp(moved_to))
        cursor = CursorState(
            Cursor(**CURSOR), ZoneInfo("UTC"), plan.cursor, since="2020-01-01" if backfill else ""
        )
        asked = datetime.fromisoformat(cursor.parameters()["since"])
        asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
        rows = source.answers(asked)
        for moment, _, _ in rows:
            cursor.observe({"t": timestamp(moment)})
        await attempt.respond()
        records = [
            record(state, value, month=month, position=number)
            for number, (_, (state, month), value) in enumerate(rows)
        ]
        for sequence, start in enumerate(range(0, len(records), 4)):
            await attempt.post(records[start : start + 4], sequence=sequence)
        outcome = dice.choice(["complete", "complete", "complete", "failed", "partial"])
        batches = -(-len(records) // 4)
        run = await attempt.finish(outcome, batches=batches, cursor=cursor.result())
        outcomes.add(run.status.value)
        if outcome == "complete":
            model |= {key: value for _, key, value in rows}
            if not backfill and rows:
                newest = max(moment for moment, _, _ in rows)
                moved_to = newest if moved_to is None else max(moved_to, newest)
        assert await published(bench, "incremental") == model, f"seed {seed}, run {fence}"
    assert outcomes == {"succeeded", "failed", "partial"}


async def test_a_cursor_that_a_worker_sends_never_moves_it_back(bench: Bench) -> None:
    rows = rows_of({("CA", 1): "1"})
    for fence, (sent, kept) in enumerate(
        [("9", "9"), ("10", "10"), ("9", "10"), (None, "10"), ("11", "11")], 1
    ):
        await run_of(bench, "append", fence, rows, cursor=sent)
        attempt = bench.attempt("append", fence=100 + fence)
        await attempt.open()
        plan = await bench.service.plan(OPERATOR, attempt.grant, attempt.run)
        await attempt.finish("failed")
        assert plan.cursor == kept


async def test_what_a_run_was_opened_as_it_stays(bench: Bench) -> None:
    attempt = bench.attempt("snapshot")
    await opened(bench, attempt, kind="backfill", range_start="2025-01-01", range_end="2025-02-01")
    with pytest.raises(GrantMismatch, match="opened as something else"):
        await opened(bench, attempt)
    for wrong in (
        {"kind": "backfill"},
        {"range_start": "2025-01-01", "range_end": "2025-02-01"},
        {"kind": "backfill", "range_start": "2025-01-01"},
    ):
        with pytest.raises(Invalid, match="has a range"):
            await opened(bench, bench.attempt("snapshot", fence=2), **wrong)
    with pytest.raises(Invalid, match="none of the calendar's"):
        await opened(
            bench, attempt, kind="backfill", range_start="2025-02-30", range_end="2025-03-01"
        )
    timeless = bench.attempt("timeless")
    with pytest.raises(Invalid, match="no period"):
        await opened(
            bench, timeless, kind="backfill", range_start="2025-01-01", range_end="2025-02-01"
        )
