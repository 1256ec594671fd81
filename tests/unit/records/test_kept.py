"""Pages of earlier attempts: which of them a later one may go on from, and who may name them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel.database import Database
from holdfast.kernel.errors import NotFound
from holdfast.records.errors import ResponseConflict, StaleFence
from holdfast.records.kept import chained
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, bench_on, profile, raw, record


class Row(NamedTuple):
    sequence: int
    fence: int
    digest: str
    fetched_at: str = ""


def chain(*rows: tuple[int, int, str]) -> list[tuple[int, int]]:
    ordered = sorted((Row(*row) for row in rows), key=lambda row: (row.sequence, -row.fence))
    return [(row.sequence, row.fence) for row in chained(ordered)]


def test_the_pages_of_one_attempt_are_kept_up_to_the_first_gap() -> None:
    assert chain() == []
    assert chain((0, 1, "a"), (1, 1, "b"), (3, 1, "d")) == [(0, 1), (1, 1)]
    assert chain((1, 1, "b")) == []


def test_what_a_later_attempt_took_over_is_followed_by_what_was_there() -> None:
    first = [(n, 1, f"{n}") for n in range(4)]
    assert chain(*first, (0, 2, "0"), (1, 2, "1")) == [(0, 2), (1, 2), (2, 1), (3, 1)]
    third = [(n, 3, f"{n}") for n in range(5)]
    assert chain(*first, (0, 2, "0"), *third) == [(n, 3) for n in range(5)]


def test_what_a_later_attempt_fetched_anew_is_not_followed_by_what_came_before_it() -> None:
    first = [(n, 1, f"{n}") for n in range(4)]
    assert chain(*first, (0, 2, "0"), (1, 2, "other")) == [(0, 2), (1, 2)]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6))
def test_every_attempt_goes_on_from_all_that_follows(attempts: list[tuple[int, bool]]) -> None:
    """However attempts end, and wherever one fetches again: a model keeps the one true chain."""
    rows: list[tuple[int, int, str]] = []
    true: list[str] = []
    for fence, (progress, anew) in enumerate(attempts, 1):
        taken = min(progress, len(true)) if anew else len(true)
        fresh = [f"{fence}-{n}" for n in range(taken, taken + progress)]
        mine = true[:taken] + fresh
        if fresh:
            true = mine
        rows += [(n, fence, digest) for n, digest in enumerate(mine)]
    digests = {(sequence, fence): digest for sequence, fence, digest in rows}
    assert [digests[found] for found in chain(*rows)] == true


async def opened(bench: Bench, **members: Any) -> Attempt:
    attempt = bench.attempt(**members)
    await attempt.open()
    return attempt


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(sqlite_database, tmp_path) as found:
        yield found


async def test_a_later_attempt_lists_reads_and_notes_what_is_there(bench: Bench) -> None:
    service = bench.service
    first = await opened(bench)
    for number in range(3):
        account = raw(number, b"%d" % number, following=f"/{number}", total="3", request="a" * 64)
        await service.put_response(OPERATOR, first.grant, first.run, account, b"%d" % number)
    assert (await service.plan(OPERATOR, first.grant, first.run)).kept == 0
    second = await opened(bench, run=first.run, fence=2)
    plan = await service.plan(OPERATOR, second.grant, second.run)
    assert (plan.kept, plan.started_at != "") == (3, True)
    kept = await service.kept(OPERATOR, second.grant, second.run, after=0)
    assert [(one.sequence, one.following, one.total) for one in kept] == [
        (1, "/1", "3"), (2, "/2", "3"),
    ]  # fmt: skip
    body = await service.known_body(OPERATOR, second.grant, second.run, kept[0].digest)
    assert b"".join([chunk async for chunk in body.chunks]) == b"1"
    for _ in range(2):  # a lost answer is repeated
        stored = await service.put_known(OPERATOR, second.grant, second.run, kept[0])
        assert stored.repeated
    with pytest.raises(ResponseConflict):
        await service.put_known(OPERATOR, second.grant, second.run, raw(1, b"2"))
    with pytest.raises(NotFound):
        await service.put_known(OPERATOR, second.grant, second.run, raw(2, b"never stored"))
    with pytest.raises(StaleFence):
        await service.put_known(OPERATOR, first.grant, first.run, kept[1])
    with pytest.raises(StaleFence):
        await service.kept(OPERATOR, first.grant, first.run)


async def test_only_bytes_of_the_same_run_or_the_last_complete_one_may_be_named(
    bench: Bench,
) -> None:
    """Another profile's bytes are nobody's here, even within a tenant."""
    bench.profiles.add(profile("other"))
    other = await opened(bench, name="other")
    await other.respond(0, b"theirs")
    await bench.collect([record("CA", "1")])
    mine = await opened(bench, fence=2)
    with pytest.raises(NotFound):
        await bench.service.known_body(OPERATOR, mine.grant, mine.run, raw(0, b"theirs").digest)
    plan = await bench.service.plan(OPERATOR, mine.grant, mine.run)
    [known] = plan.validators.values()
    body = await bench.service.known_body(OPERATOR, mine.grant, mine.run, known.digest)
    assert len(b"".join([chunk async for chunk in body.chunks])) == known.size_bytes
