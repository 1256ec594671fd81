"""A source that changes its shape, shrinks or falls silent: nothing wrong is published, and it is
told once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, NotFound
from holdfast.records.model import MappedRecord, Measure, RecordFilter, Run, SourceColumn
from holdfast.records.watching import Judgement, _failure, _is_shrunk
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record

STATES = [f"S{number:02d}" for number in range(40)]


def rates(scale: float = 1, count: int = 40, unit: str = "%") -> list[MappedRecord]:
    found = []
    for number, state in enumerate(STATES[:count]):
        one = record(state, f"{(number + 2) * scale:.4f}")
        found.append(
            MappedRecord(
                response=0,
                position=number,
                key=one.key,
                dimensions=one.dimensions,
                measures={"rate": Measure(value=one.measures["rate"].value, unit=unit)},
                period=one.period,
            )
        )
    return found


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    profiles = [
        profile(freshness="1h"),
        profile("lenient", expect={"drift": "report"}),
        profile("allowing", expect={"drift_allowed": ["measures.rate"]}),
        profile("steady", expect={"shrinkage": 20}),
    ]
    async with bench_on(database, tmp_path, *profiles) as found:
        yield found


class Source:
    """One profile's source, collected again and again."""

    def __init__(self, bench: Bench, name: str = "rates") -> None:
        self.bench, self.name, self.fence = bench, name, 0

    async def sends(self, records: list[MappedRecord], *columns: str) -> Run:
        self.fence += 1
        self.bench.clock.advance(60)
        attempt = self.bench.attempt(self.name, fence=self.fence)
        await attempt.open()
        await attempt.respond()
        await attempt.post(records)
        seen = [SourceColumn(name=one, kind="number", looked=40, filled=40) for one in columns]
        return await attempt.finish(columns=seen)

    async def published(self) -> dict[str, str | None]:
        _, parts = await self.bench.service.stream(OPERATOR, RecordFilter(profile=self.name))
        return {str(one.key[0]): one.measures["rate"].value async for part in parts for one in part}


async def notices(bench: Bench, profile: str = "") -> list[str]:
    page = await bench.service.notices(OPERATOR, profile=profile)
    return [one.type for one in reversed(page.items)]


async def events(bench: Bench) -> list[str]:
    rows = await bench.db.read(
        OPERATOR,
        lambda conn: (
            conn.execute(text("SELECT type FROM outbox WHERE tenant = 'default' ORDER BY sequence"))
            .scalars()
            .all()
        ),
    )
    return [one for one in rows if one.startswith("source.")]


async def test_a_unit_that_jumps_is_not_published_and_told_once(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    good = await source.published()
    assert (await source.sends(rates(1.01))).status == "succeeded"
    good = await source.published()
    for _ in range(2):
        run = await source.sends(rates(1000))
        assert (run.status, run.code) == ("failed", "schema-drift")
        assert "measures.rate is 1,000 times as large" in run.reason
        assert [(one.field, one.kind, one.breaking) for one in run.drift] == [
            ("measures.rate", "unit-jumped", True)
        ]
        assert await source.published() == good
    assert await events(bench) == ["source.drifted"]
    assert await notices(bench) == ["source.drifted", "run.failed", "run.failed"]
    (line,) = await bench.service.freshness(OPERATOR)
    assert line.drifted == 1
    assert "times as large" in line.problem
    exposed = bench.metrics.render().decode()
    assert 'holdfast_profile_drift{profile="rates",tenant="default"} 1.0' in exposed
    # The source mends itself: published again, and the history is what it was.
    assert (await source.sends(rates(1.02))).status == "succeeded"
    assert (await source.sends(rates(1000))).code == "schema-drift"


async def test_what_somebody_accepts_is_published_the_next_time(bench: Bench) -> None:
    source = Source(bench)
    first = await source.sends(rates())
    with pytest.raises(Conflict, match="neither failed for its shape nor shrunk"):
        await bench.service.accept_drift(OPERATOR, first.id)
    with pytest.raises(NotFound):
        await bench.service.accept_drift(OPERATOR, "01900000-0000-7000-8000-000000000000")
    failed = await source.sends(rates(1000))
    accepted = await bench.service.accept_drift(OPERATOR, failed.id)
    assert accepted.drift_accepted
    assert [line.problem for line in await bench.service.freshness(OPERATOR)] == [""]
    assert await bench.service.accept_drift(OPERATOR, failed.id) == accepted
    assert (await source.sends(rates(1000))).status == "succeeded"
    assert (await source.sends(rates(1))).code == "schema-drift", "the old unit is drift by now"
    assert await events(bench) == ["source.drifted", "source.drift-accepted", "source.drifted"]


@pytest.mark.parametrize(("name", "breaking"), [("lenient", True), ("allowing", False)])
async def test_a_profile_may_allow_it(bench: Bench, name: str, breaking: bool) -> None:
    source = Source(bench, name)
    await source.sends(rates())
    run = await source.sends(rates(1000))
    assert run.status == "succeeded"
    assert [one.breaking for one in run.drift] == [breaking]
    assert await notices(bench, name) == ["source.drifted"]
    assert (await source.sends(rates(1001))).drift == [], "told once: this is how it is now"


async def test_shrinkage_is_told_and_fails_where_the_profile_says_so(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    run = await source.sends(rates(count=15))
    assert (run.status, run.usual, run.withdrawn) == ("succeeded", 40, 25)
    assert await notices(bench) == ["source.shrunk"]
    [line] = await bench.service.freshness(OPERATOR)
    assert line.shrunk
    assert "brought 15 records, usually it is 40" in line.problem
    await bench.service.accept_drift(OPERATOR, run.id)
    [line] = await bench.service.freshness(OPERATOR)
    assert (line.shrunk, line.problem) == (False, "")
    steady = Source(bench, "steady")
    await steady.sends(rates())
    assert (await steady.sends(rates(count=32))).status == "succeeded"
    run = await steady.sends(rates(count=25))
    assert (run.status, run.code) == ("failed", "shrunk")
    assert "usually it is 36" in run.reason
    await bench.service.accept_drift(OPERATOR, run.id)
    assert (await steady.sends(rates(count=25))).status == "succeeded"


async def test_columns_of_the_source_are_watched_too(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates(), "state", "rate", "month")
    run = await source.sends(rates(), "state", "rate", "month", "note")
    assert run.status == "succeeded"
    assert [(one.field, one.kind) for one in run.drift] == [("source.note", "new")]
    run = await source.sends(rates(), "state", "rate", "month", "remark")
    assert [(one.field, one.kind) for one in run.drift] == [("source.note", "renamed")]


async def test_keys_that_all_change_are_breaking_where_they_used_to_stay(bench: Bench) -> None:
    def renamed(prefix: str) -> list[MappedRecord]:
        return [
            record(f"{prefix}{number:02d}", str(number + 2), position=number)
            for number in range(40)
        ]

    source = Source(bench)
    await source.sends(renamed("A"))
    run = await source.sends(renamed("B"))
    assert [(one.kind, one.breaking) for one in run.drift] == [("keys-changed", False)]
    await source.sends(renamed("C"))
    assert (await source.sends(renamed("D"))).drift == [], "this source moves on: no news"
    steady = Source(bench, "lenient")
    for _ in range(3):
        await steady.sends(renamed("A"))
    run = await steady.sends(renamed("B"))
    assert [(one.kind, one.breaking) for one in run.drift] == [("keys-changed", True)]


async def test_an_attempt_that_was_taken_over_leaves_nothing_in_the_shape(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    lost = bench.attempt(fence=10)
    await lost.open()
    await lost.respond()
    await lost.post(rates(1000))
    heir = bench.attempt(fence=11, run=lost.run)
    await heir.open()
    await heir.respond()
    await heir.post(rates())
    run = await heir.finish()
    assert (run.status, run.drift) == ("succeeded", [])


async def test_silence_is_told_when_it_begins_and_when_it_ends(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    await bench.service.watch(OPERATOR)
    bench.clock.advance(3601)
    for _ in range(3):
        await bench.service.watch(OPERATOR)
    assert await notices(bench) == ["source.stale"]
    (line,) = await bench.service.freshness(OPERATOR)
    assert line.stale
    assert line.late_seconds == 1
    assert line.problem.startswith("silent since 2026-01-01T00:01:00Z, normal is at most 1h")
    exposed = bench.metrics.render().decode()
    assert 'holdfast_profile_late_seconds{profile="rates",tenant="default"} 1.0' in exposed
    await source.sends(rates())
    await bench.service.watch(OPERATOR)
    assert await events(bench) == ["source.stale", "source.fresh"]


async def test_of_profiles_called_alike_each_tenants_has_gauges_of_its_own(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    bench.clock.advance(3601)
    await bench.service.watch(OPERATOR)
    (line,) = await bench.service.freshness(OPERATOR)
    bench.service._metrics.watched("newsroom", msgspec.structs.replace(line, stale=False))
    exposed = bench.metrics.render().decode()
    assert 'holdfast_profile_stale{profile="rates",tenant="default"} 1.0' in exposed
    assert 'holdfast_profile_stale{profile="rates",tenant="newsroom"} 0.0' in exposed


async def test_a_profile_that_was_removed_is_to_be_silent(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    bench.clock.advance(3601)
    await bench.service.watch(OPERATOR)
    bench.profiles.removed.add("rates")
    await bench.service.watch(OPERATOR)
    (line,) = await bench.service.freshness(OPERATOR)
    assert (line.stale, line.late_seconds, line.problem) == (False, 0, "")
    assert b'holdfast_profile_stale{profile="rates",tenant="default"} 0.0' in bench.metrics.render()
    assert await events(bench) == ["source.stale"], "it did not speak again either"
    bench.profiles.removed.clear()
    await bench.service.watch(OPERATOR)
    assert await events(bench) == ["source.stale", "source.stale"]


async def test_where_nobody_says_whether_it_was_removed_nothing_is_told_yet(bench: Bench) -> None:
    source = Source(bench)
    await source.sends(rates())
    bench.clock.advance(3601)
    bench.profiles.away = True
    await bench.service.watch(OPERATOR)
    (line,) = await bench.service.freshness(OPERATOR)
    assert line.stale
    assert (
        b'holdfast_profile_stale{profile="rates",tenant="default"} 1.0'
        not in bench.metrics.render()
    )
    assert await events(bench) == []
    bench.profiles.away = False
    await bench.service.watch(OPERATOR)
    assert await events(bench) == ["source.stale"]


async def test_one_profile_that_the_registry_cannot_tell_of_silences_no_other(
    bench: Bench,
) -> None:
    for name in ("sooner", "later"):
        bench.profiles.add(profile(name, freshness="1h"))
        await Source(bench, name).sends(rates())
    bench.clock.advance(3601)
    bench.profiles.broken = {min("sooner", "later")}
    await bench.service.watch(OPERATOR)
    assert await notices(bench, "sooner") == ["source.stale"]
    assert await notices(bench, "later") == []


# --- nothing at all -------------------------------------------------------------------------------


async def test_a_source_that_sends_nothing_withdraws_nothing_until_somebody_says_so(
    bench: Bench,
) -> None:
    source = Source(bench)
    await source.sends(rates(count=3))
    empty = await source.sends([])
    assert (empty.status.value, empty.code) == ("failed", "shrunk")
    assert "3 are published" in empty.reason
    assert len(await source.published()) == 3
    again = await source.sends([])
    assert again.code == "shrunk"
    await bench.service.accept_drift(OPERATOR, again.id)
    accepted = await source.sends([])
    assert (accepted.status.value, accepted.withdrawn) == ("succeeded", 3)
    assert await source.published() == {}
    back = await source.sends(rates(count=3))
    assert back.status.value == "succeeded"


async def test_a_source_that_was_always_empty_is_no_failure(bench: Bench) -> None:
    assert (await Source(bench).sends([])).status.value == "succeeded"


async def test_where_changes_are_only_reported_an_empty_snapshot_is_published(
    bench: Bench,
) -> None:
    source = Source(bench, "lenient")
    await source.sends(rates(count=3))
    assert (await source.sends([])).withdrawn == 3


def test_rows_that_were_rejected_count_with_what_came() -> None:
    """Of both what is usual is made: a source that always sends 30 in 100 so would shrink anew
    each time."""
    rules: Any = SimpleNamespace(mode="snapshot", drift="fail", shrinkage=20)
    found = Judgement(usual=100)
    as_ever: Any = SimpleNamespace(records=45, kept=55)
    assert not _is_shrunk(rules, as_ever, 100)
    assert _failure(rules, as_ever, found) is None
    fewer: Any = SimpleNamespace(records=45, kept=4)
    assert _is_shrunk(rules, fewer, 100)
    failure = _failure(rules, fewer, found)
    assert failure is not None
    assert (failure[0], failure[1].startswith("49 records came")) == ("shrunk", True)
