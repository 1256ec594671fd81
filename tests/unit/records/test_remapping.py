"""Which stored bytes a re-mapping reads, and what becomes of one whose bytes are destroyed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import not_

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict
from holdfast.records import remapping, store
from holdfast.records.model import MappedRecord, RecordFilter, Reject, RemapSource, Run, RunOpen
from holdfast.records.publishing import live_rows
from holdfast.records.remapping import RANGES_MAX, asked_ranges
from holdfast.records.rules import doubled, rules_of
from holdfast.records.within import Asked, within
from tests.unit.records.helpers import (
    OPERATOR,
    Attempt,
    Bench,
    KnownProfiles,
    bench_on,
    profile,
    record,
)

WINDOWS = {"start_parameter": "from", "end_parameter": "to", "span": "30d", "start": "2025-06-01"}
SOURCE = {"url": "https://example.org/rates", "format": {"type": "json"}, "windows": WINDOWS}
PEOPLE = profile(source=SOURCE, subject="dimensions.state", max_rejects=5)
"""A snapshot about people that asks for its history from June on."""
_PAGES = count()


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path, PEOPLE, withdrawal_rows=2) as made:
        yield made


@pytest.fixture
async def quick(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    """For what is no matter of SQL."""
    async with bench_on(sqlite_database, tmp_path, PEOPLE, withdrawal_rows=2) as made:
        yield made


def of(who: str, *months: int, rate: str = "1") -> list[MappedRecord]:
    return [record(who, rate, month=month, position=month) for month in months]


def back(start: str, end: str) -> dict[str, Any]:
    return {"kind": "backfill", "range_start": f"2025-{start}", "range_end": f"2025-{end}"}


async def opened(bench: Bench, **opening: Any) -> Attempt:
    attempt = bench.attempt()
    request = RunOpen(run=attempt.run, fence=attempt.claim.fence, **opening)
    await bench.service.open(OPERATOR, attempt.grant, request)
    await attempt.respond(0, f"page {next(_PAGES)}".encode())
    return attempt


async def collected(bench: Bench, rows: list[MappedRecord], **opening: Any) -> Run:
    attempt = await opened(bench, **opening)
    await attempt.post(rows)
    run = await attempt.finish()
    assert run.status == "succeeded", run.reason
    return run


async def erase(bench: Bench, who: str) -> None:
    token = bench.service._handles.keyring.subject_token("default", who)
    assert (await bench.service.erase_subjects(OPERATOR, [token])).responses == 1


async def sources(bench: Bench, attempt: Attempt) -> list[tuple[str, str | None, str | None]]:
    found = await bench.service.remap_sources(OPERATOR, attempt.grant, attempt.run)
    return [(one.run, one.range_start, one.range_end) for one in found]


async def test_destroyed_bytes_still_stand_for_what_they_replaced(bench: Bench) -> None:
    """What the second backfill did not bring again is withdrawn: the first must not bring it back
    because nobody can read the second any more."""
    first = await collected(bench, of("Joe", 1, 2, 3), **back("01-01", "04-01"))
    await collected(bench, [*of("Joe", 2), *of("Jane", 2)], **back("02-01", "03-01"))
    last = await collected(bench, of("Joe", 6))
    await erase(bench, "Jane")
    attempt = await opened(bench, kind="merge")
    assert sorted(await sources(bench, attempt), key=str) == sorted(
        [
            (last.id, None, None),
            (first.id, "2025-01-01T00:00:00.000000Z", "2025-02-01T00:00:00.000000Z"),
            (first.id, "2025-03-01T00:00:00.000000Z", "2025-04-01T00:00:00.000000Z"),
        ],
        key=str,
    )
    # What it brought is not among what the re-mapping asks for, so it stays.
    await attempt.post([*of("Joe", 1, 3), *of("Joe", 6, rate="2")])
    run = await attempt.finish()
    assert (run.status, run.changed, run.unchanged, run.withdrawn) == ("succeeded", 1, 2, 0)
    assert run.unasked == 2


@pytest.mark.parametrize(("mode", "duplicates"), [("append", "first"), ("incremental", "last")])
async def test_older_bytes_do_not_bring_back_what_destroyed_ones_corrected(
    database: Database, tmp_path: Path, mode: str, duplicates: str
) -> None:
    """Of a source that sends its corrections every run counts; one of them nobody can read."""
    changes: dict[str, Any] = {"mode": mode, "duplicates": duplicates}
    if mode == "incremental":
        changes["cursor"] = {"path": "$.month", "start": "2025-01", "parameter": "since"}
    day = "2026-01-0{}T00:00:00.000000Z".format
    async with bench_on(database, tmp_path, profile(subject="dimensions.state", **changes)) as here:

        async def run(number: int, *rows: MappedRecord) -> None:
            attempt = here.attempt()
            await attempt.open()
            await attempt.respond(0, f"day {number} {mode}".encode(), fetched_at=day(number))
            await attempt.post(list(rows))
            assert (await attempt.finish()).status == "succeeded"

        await run(1, *of("Joe", 1, 2, 3))
        await run(2, *of("Joe", 1, 2, rate="2"), *of("Jane", 1))
        await run(3, *of("Joe", 2, rate="2"))
        await erase(here, "Jane")
        attempt = here.attempt()
        request = RunOpen(run=attempt.run, fence=1, kind="merge")
        await here.service.open(OPERATOR, attempt.grant, request)
        # Under the new mapping every rate is a tenth more.
        pages = [(1, of("Joe", 1, 2, 3, rate="1.1")), (3, of("Joe", 2, rate="2.2"))]
        for place, (number, rows) in enumerate(pages if duplicates == "last" else pages[::-1]):
            content = f"day {number} {mode}".encode()
            await attempt.respond(place, content, fetched_at=day(number))
            placed = [msgspec.structs.replace(one, response=place) for one in rows]
            await attempt.post(placed, sequence=place)
        done = await attempt.finish(batches=2)
        assert (done.status, done.changed, done.unchanged) == ("succeeded", 2, 1), done.reason
        found = await here.service.records(OPERATOR, RecordFilter(profile="rates"))
        joe = {one.key[1]: one.measures["rate"].value for one in found.items if one.key[0] == "Joe"}
        # What the second run said of the first month is not read, and stands; of the second month
        # the third run, which is later, is read.
        assert joe == {"2025-01-01": "2", "2025-02-01": "2.2", "2025-03-01": "1.1"}


async def test_where_all_bytes_were_destroyed_it_is_not_said_that_none_were_stored(
    sqlite_database: Database, tmp_path: Path
) -> None:
    one = profile(subject="dimensions.state", mode="append")
    async with bench_on(sqlite_database, tmp_path, one) as here:
        await collected(here, of("Jane", 1))
        await erase(here, "Jane")
        with pytest.raises(Conflict) as refused:
            await sources(here, await opened(here, kind="merge"))
        assert refused.value.code == "response-erased"


async def test_bytes_that_an_abandoned_attempt_left_are_not_rested_on(bench: Bench) -> None:
    """Only what the last attempt of a run has stored is read, so only that may be missing."""
    attempt = await opened(bench)
    await attempt.post([*of("Joe", 6), *of("Jane", 6)])
    again = bench.attempt(run=attempt.run, fence=2)
    await again.open()
    await again.respond(0, b"without her")
    await again.post(of("Joe", 6))
    assert (await again.finish()).status == "succeeded"
    await erase(bench, "Jane")
    assert [run for run, _, _ in await sources(bench, await opened(bench, kind="remap"))] == [
        attempt.run
    ]


async def test_more_runs_than_one_remapping_takes_are_refused_also_if_some_are_unreadable(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in (1, 2):
        start, end = f"0{month}-01", f"0{month + 1}-01"
        await collected(quick, of("Jane" if month == 2 else "Joe", month), **back(start, end))
    await collected(quick, of("Joe", 6))
    await erase(quick, "Jane")
    monkeypatch.setattr(remapping, "SOURCES_MAX", 2)
    with pytest.raises(Conflict) as refused:
        await sources(quick, await opened(quick, kind="merge"))
    assert refused.value.code == "too-many-runs"


def test_what_was_told_already_is_taken_out_whatever_came_in_which_order() -> None:
    told = remapping.Told()
    assert told.news("b", "d") == [("b", "d")]
    assert told.news("f", "h") == [("f", "h")]
    assert told.news("a", "i") == [("a", "b"), ("d", "f"), ("h", "i")]
    assert told.news("a", "i") == []
    assert told.news("c", "k") == [("i", "k")]
    assert told.ranges == [("a", "k")]


def test_what_backfills_asked_for_side_by_side_is_asked_for_at_once() -> None:
    """A statement has bounds: thousands of backfills mostly lie side by side."""
    version = KnownProfiles().add(profile(timezone="Europe/Paris"))
    rules = rules_of(version)

    def source(start: str, end: str) -> RemapSource:
        return RemapSource(run="r", responses=1, range_start=start, range_end=end)

    days = [date(2000, 1, 1) + timedelta(days=at) for at in range(3_000)]
    sources = [source(str(day), str(day + timedelta(days=1))) for day in reversed(days)]
    noon = source("2020-01-01T12:00:00.000000Z", "2020-02-01")
    assert asked_ranges(rules, [noon, *sources, source("2020-02-01", "2020-03-01")]) == (
        within("2000-01-01", str(days[-1] + timedelta(days=1)), "Europe/Paris"),
        within("2020-01-01T12:00:00.000000Z", "2020-03-01", "Europe/Paris"),
    )
    with pytest.raises(Conflict) as refused:
        asked_ranges(rules, sources[::2])
    assert refused.value.code == "too-many-ranges"


async def test_as_many_pieces_as_are_taken_are_asked_for_in_one_statement(bench: Bench) -> None:
    pieces = tuple(
        within(f"{year}-01-01", f"{year}-02-01", "UTC") for year in range(1800, 1800 + RANGES_MAX)
    )
    where = store.asked_for(Asked(pieces, undated=True))
    for condition in (where, not_(where)):
        assert not await bench.db.read(
            OPERATOR,
            lambda conn, wanted=condition: live_rows(conn, "default", "rates", -1, 99, wanted),
        )


async def test_a_finish_that_is_repeated_after_an_erasure_has_the_same_answer(
    quick: Bench,
) -> None:
    await collected(quick, [*of("Joe", 6), *of("Jane", 6)])
    attempt = await opened(quick, kind="remap")
    await attempt.post([*of("Joe", 6, rate="2"), *of("Jane", 6)])
    run = await attempt.finish()
    assert (run.status, run.changed) == ("succeeded", 1)
    token = quick.service._handles.keyring.subject_token("default", "Jane")
    await quick.service.erase_subjects(OPERATOR, [token])
    assert await attempt.finish() == run


async def test_a_remapping_goes_on_closing_with_what_it_asked_for_when_it_began_to(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between two steps of the withdrawals, and somebody is erased before the
    worker repeats its finish."""
    await collected(quick, [*of("Joe", 1, 2), *of("Jane", 3, 4)], **back("01-01", "05-01"))
    await collected(quick, of("Joe", 6))
    attempt = await opened(quick, kind="merge")
    await attempt.post(of("Joe", 6))
    service, steps = quick.service, count()

    def dies(*given: Any) -> Any:
        if next(steps):
            raise RuntimeError("the process died")
        return type(service)._absent(service, *given)

    with monkeypatch.context() as broken:
        broken.setattr(service, "_absent", dies)
        with pytest.raises(RuntimeError, match="died"):
            await attempt.finish()
    await erase(quick, "Jane")
    run = await attempt.finish()
    assert (run.status, run.unchanged, run.withdrawn, run.unasked) == ("succeeded", 1, 4, 0)


# --- keys that are others now -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "withheld", "present", "unkeyed", "refused"),
    [
        (5, 5, 0, 1, True),  # no key came again
        (0, 5, 0, 1, True),  # and nothing else came either
        (99, 99, 1, 1, True),  # one key came again
        (5, 5, 95, 1, True),  # more were not found than the rejected rows can be
        (30, 30, 70, 30, True),  # nearly a third may be there twice, however many were rejected
        (5, 5, 95, 5, False),  # each of the five may be one of the rejected rows
        (500, 3, 900, 3, False),  # what is mapped for the first time
        (0, 50, 50, 1, False),  # nothing is new: nothing is doubled
        (9, 0, 1, 0, False),  # all that did not come was withdrawn
    ],
)
def test_a_remapping_that_may_double_what_it_cannot_withdraw_is_refused(
    new: int, withheld: int, present: int, unkeyed: int, refused: bool
) -> None:
    class Counted:
        kind = "remap"

    run: Any = Counted()
    run.new, run.withheld, run.present, run.unkeyed = new, withheld, present, unkeyed
    found = doubled(run)
    assert bool(found) is refused
    if found:
        assert found[0] == "keys-unclear"
    run.kind = "collect"
    assert doubled(run) is None


async def test_one_key_that_came_again_does_not_excuse_those_that_did_not(quick: Bench) -> None:
    await collected(quick, of("Joe", 6, 7, 8, 9))
    attempt = await opened(quick, kind="remap")
    lost = Reject(response=0, position=50, field="measures.rate", reason="no number", key=None)
    await attempt.post([*of("Joe", 6), *of("JOE", 7, 8, 9)], rejects=[lost])
    run = await attempt.finish()
    assert (run.status, run.code) == ("failed", "keys-unclear")
    assert "3 " in run.reason


# --- whose bytes nobody can tell ----------------------------------------------------------------


async def test_bytes_of_a_profile_that_nobody_knows_count_as_somebodys(
    sqlite_database: Database, tmp_path: Path
) -> None:
    async with bench_on(sqlite_database, tmp_path, profile()) as bench:
        attempt = await opened(bench)
        await attempt.post(of("Joe", 1))
        await attempt.finish()
        row = await bench.db.read(
            OPERATOR,
            lambda conn: store.find(
                conn, store.responses, "default", run=attempt.run, fence=1, sequence=0
            ),
        )
        assert not await bench.service._names_people(OPERATOR, "rates", row)
        bench.profiles.versions.clear()
        bench.profiles.newest.clear()
        assert await bench.service._names_people(OPERATOR, "rates", row)
