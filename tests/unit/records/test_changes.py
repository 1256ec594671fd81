"""What differs between runs: against a model that compares two whole publications."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Invalid, NotFound
from holdfast.records.model import Record, RecordFilter, RunDiff, RunStatus
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record

STATES = [f"S{number:02d}" for number in range(12)]


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path, profile(), profile("other")) as found:
        yield found


async def _everything(bench: Bench, run: str, base: str = "", size: int = 3) -> list[RunDiff]:
    """Every page of a difference."""
    pages = [await bench.service.run_diff(OPERATOR, run, base=base, limit=size)]
    while pages[-1].next is not None:
        pages.append(
            await bench.service.run_diff(
                OPERATOR, run, base=base, limit=size, cursor=pages[-1].next
            )
        )
    return pages


def _expected(before: dict[str, Record], after: dict[str, Record]) -> dict[str, str]:
    found = {}
    for id_ in {*before, *after}:
        if id_ not in before:
            found[id_] = "new"
        elif id_ not in after:
            found[id_] = "withdrawn"
        elif before[id_].measures != after[id_].measures:
            found[id_] = "changed"
    return found


@pytest.mark.parametrize("seed", range(2))
async def test_every_two_runs_differ_by_what_their_publications_do(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    seen: list[tuple[str, dict[str, Record]]] = []
    for fence in range(1, 8):
        bench.clock.advance(60)
        states = dice.sample(STATES, dice.randrange(1, len(STATES)))
        run = await bench.collect(
            [record(state, dice.choice(["1", "2"])) for state in states], fence=fence, size=4
        )
        _, parts = await bench.service.stream(OPERATOR, RecordFilter(profile="rates"))
        seen.append((run.id, {one.id: one async for part in parts for one in part}))
    for first in range(len(seen)):
        for second in range(first, len(seen)):
            base, run = seen[first], seen[second]
            pages = await _everything(bench, run[0], base[0])
            found = {item.record.id: item.kind for page in pages for item in page.items}
            expected = _expected(base[1], run[1])
            assert found == expected, (seed, first, second)
            assert pages[0].new == sum(kind == "new" for kind in expected.values())
            assert pages[0].changed == sum(kind == "changed" for kind in expected.values())
            assert pages[0].withdrawn == sum(kind == "withdrawn" for kind in expected.values())
            for page in pages:
                for item in page.items:
                    if item.kind == "changed":
                        old = base[1][item.record.id].measures["rate"].value
                        new = run[1][item.record.id].measures["rate"].value
                        changes = [(one.field, one.old, one.new) for one in item.fields]
                        assert changes == [("measures.rate", old, new)]
        if first:
            alone = await _everything(bench, seen[first][0])
            found = {item.record.id: item.kind for page in alone for item in page.items}
            assert found == _expected(seen[first - 1][1], seen[first][1])


async def test_a_hidden_run_shows_what_it_would_have_changed(bench: Bench) -> None:
    await bench.collect([record("CA", "1"), record("NV", "2")])
    attempt = bench.attempt(fence=2)
    await attempt.open()
    await attempt.respond()
    await attempt.post([record("CA", "9"), record("OR", "3")])
    assert (await attempt.finish("partial")).status is RunStatus.PARTIAL
    found = await bench.service.run_diff(OPERATOR, attempt.run)
    assert (found.hidden, found.new, found.changed, found.withdrawn) == (True, 1, 1, 0)
    assert found.publication is None
    changed = next(item for item in found.items if item.kind == "changed")
    assert [(one.old, one.new) for one in changed.fields] == [("1", "9")]


async def test_what_cannot_be_compared_is_refused(bench: Bench) -> None:
    first = await bench.collect([record("CA", "1")])
    bench.clock.advance(60)
    second = await bench.collect([record("CA", "2")], fence=2)
    other = await bench.collect([record("CA", "1")], name="other")
    with pytest.raises(Invalid, match="two profiles"):
        await bench.service.run_diff(OPERATOR, other.id, base=first.id)
    with pytest.raises(Invalid, match="ended before"):
        await bench.service.run_diff(OPERATOR, first.id, base=second.id)
    with pytest.raises(NotFound):
        await bench.service.run_diff(OPERATOR, "01900000-0000-7000-8000-000000000000")
    attempt = bench.attempt(fence=3)
    await attempt.open()
    with pytest.raises(Conflict, match="not ended"):
        await bench.service.run_diff(OPERATOR, attempt.run)
    await attempt.finish("failed")
    with pytest.raises(Conflict, match="nothing of it was published"):
        await bench.service.run_diff(OPERATOR, attempt.run)
