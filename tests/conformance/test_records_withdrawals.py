"""What a snapshot's run may withdraw: what it asked for, and nothing that it cannot know of."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.kernel.database import Database
from holdfast.records import publishing
from holdfast.records.listing import notice_text
from holdfast.records.model import MappedRecord, RecordFilter, Reject, Run, RunFilter, RunOpen
from tests.conformance.records_oracle import Oracle
from tests.conformance.test_records import STATES, key_of
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record

WINDOWS = {"start_parameter": "from", "end_parameter": "to", "span": "30d", "start": "2025-03-01"}


def windowed(**changes: Any) -> Any:
    """A snapshot that asks for its history from March on."""
    source = {"url": "https://example.org/rates", "format": {"type": "json"}, "windows": WINDOWS}
    return profile(**{"source": source, **changes})


async def run_of(bench: Bench, rows: list[MappedRecord], **opening: Any) -> Run:
    """One complete run of any kind, in two batches."""
    attempt = bench.attempt()
    request = RunOpen(run=attempt.run, fence=attempt.claim.fence, **opening)
    await bench.service.open(OPERATOR, attempt.grant, request)
    await attempt.respond()
    await attempt.post(rows[:2], sequence=0)
    await attempt.post(rows[2:], sequence=1)
    return await attempt.finish(batches=2)


def months(*wanted: int, state: str = "CA", rate: str = "1") -> list[MappedRecord]:
    return [record(state, rate, month=month, position=month) for month in wanted]


async def published(bench: Bench) -> dict[str, str | None]:
    _, parts = await bench.service.stream(OPERATOR, RecordFilter(profile="rates"))
    return {
        " ".join(map(str, one.key)): one.measures["rate"].value
        async for part in parts
        for one in part
    }


def counts(run: Run) -> tuple[str, int, int, int, int]:
    return run.status.value, run.new, run.unchanged, run.withdrawn, run.unasked


BACKFILL: dict[str, Any] = {
    "kind": "backfill", "range_start": "2025-01-01", "range_end": "2025-04-01",
}  # fmt: skip


async def test_an_ordinary_run_withdraws_nothing_from_before_its_windows(
    database: Database, tmp_path: Path
) -> None:
    async with bench_on(database, tmp_path, windowed(), withdrawal_rows=2) as bench:
        await run_of(bench, months(3, 4, 5, 6))
        back = await run_of(bench, months(1, 2, 3), **BACKFILL)
        assert counts(back) == ("succeeded", 2, 1, 0, 0)
        again = await run_of(bench, months(3, 4, 5, 6))
        assert counts(again) == ("succeeded", 0, 4, 0, 2)
        # What it did ask for, and does not get any more, is gone: more than one step of it.
        fewer = await run_of(bench, months(6))
        assert counts(fewer) == ("succeeded", 0, 1, 3, 2)
        assert list(await published(bench)) == ["CA 2025-06-01", "CA 2025-01-01", "CA 2025-02-01"]
        # A source that sends what it was not asked for does not change that.
        more = await run_of(bench, months(2, 6))
        assert counts(more) == ("succeeded", 0, 2, 0, 1)
        lines = await bench.service.freshness(OPERATOR)
        assert lines[0].records == 3
        # And a backfill has asked for it.
        gone = await run_of(bench, months(1), **BACKFILL)
        assert (gone.withdrawn, sorted(await published(bench))) == (
            1, ["CA 2025-01-01", "CA 2025-06-01"],
        )  # fmt: skip


async def test_no_look_at_what_is_published_holds_the_database_for_long(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is published, and however little of it is absent: it is looked at in steps."""
    monkeypatch.setattr(publishing, "SCAN_ROWS", 2)
    monkeypatch.setattr(publishing, "ROWS_AT_ONCE", 4)
    scans, most = [0], [0]
    scan, read = publishing.live_rows, database.read

    def scanned(*given: Any) -> list[int]:
        scans[0] += 1
        most[0] = max(most[0], scans[0])
        return scan(*given)

    async def unit(principal: Any, work: Any) -> Any:
        scans[0] = 0
        return await read(principal, work)

    monkeypatch.setattr(publishing, "live_rows", scanned)
    async with bench_on(database, tmp_path, windowed(max_rejects=5), withdrawal_rows=3) as bench:
        monkeypatch.setattr(database, "read", unit)
        every = [row for state in STATES[:4] for row in months(*range(3, 13), state=state)]
        await run_of(bench, every)
        await run_of(bench, months(1, 2), **BACKFILL | {"range_end": "2025-03-01"})
        # All but the last, and but the first and two in the middle: what lies between is passed by.
        assert counts(await run_of(bench, every[:-1]))[2:] == (39, 1, 2)
        fewer = every[1:17] + every[19:-1]
        assert counts(await run_of(bench, fewer))[2:] == (36, 3, 2)
        run = await run_with(bench, (fewer[:-9], rejected(None)))
        assert (told(run), run.unasked) == ((27, 0, 0, 9), 2)
        gone = await run_of(bench, [], **BACKFILL | {"range_end": "2025-03-01"})
        assert counts(gone)[2:] == (0, 2, 0)
    assert most == [2]


async def test_where_the_windows_begin_is_a_moment_of_the_sources_own(
    database: Database, tmp_path: Path
) -> None:
    """A record without a period comes with any window; hours begin with the source's day."""

    def hour(text: str | None, name: str) -> MappedRecord:
        period = {"start": text, "end": text, "frequency": "I"} if text else None
        return msgspec.convert(
            {"response": 0, "position": 0, "key": [name], "period": period,
             "dimensions": {"state": name}},
            MappedRecord,
        )  # fmt: skip

    one = windowed(
        key=["dimensions.state"],
        timezone="Europe/Paris",
        period={"path": "$.at", "frequency": "I"},
        measures={},
    )
    rows = [
        hour("2025-02-28T22:59:59.000000Z", "before"),
        hour("2025-02-28T23:00:00.000000Z", "midnight"),
        hour(None, "never"),
        hour("2025-05-01T00:00:00.000000Z", "later"),
    ]
    async with bench_on(database, tmp_path, one) as bench:
        await run_of(bench, rows)
        run = await run_of(bench, rows[3:])
        assert (run.withdrawn, run.unasked, run.unchanged) == (2, 1, 1)


async def test_a_source_that_was_emptied_is_told_from_what_was_never_asked_for(
    database: Database, tmp_path: Path
) -> None:
    async with bench_on(database, tmp_path, windowed()) as bench:
        await run_of(bench, months(3))
        await run_of(bench, months(1, 2), **BACKFILL | {"range_end": "2025-03-01"})
        empty = await run_of(bench, [])
        assert (empty.status.value, empty.code) == ("failed", "shrunk")
        assert "no record came, 1 are published" in empty.reason
        assert len(await published(bench)) == 3


# --- rows that were rejected --------------------------------------------------------------------


def rejected(*keys: list[Any] | None) -> list[Reject]:
    return [
        Reject(response=0, position=50 + at, field="measures.rate", reason="no number", key=key)
        for at, key in enumerate(keys)
    ]


async def run_with(
    bench: Bench, *batches: tuple[list[MappedRecord], list[Reject]], **opening: Any
) -> Run:
    attempt = bench.attempt()
    request = RunOpen(run=attempt.run, fence=attempt.claim.fence, **opening)
    await bench.service.open(OPERATOR, attempt.grant, request)
    await attempt.respond()
    for sequence, (rows, bad) in enumerate(batches):
        await attempt.post(rows, sequence=sequence, rejects=bad)
    return await attempt.finish(batches=len(batches))


def told(run: Run) -> tuple[int, int, int, int]:
    return run.unchanged, run.kept, run.withdrawn, run.withheld


def first(month: int) -> list[Any]:
    return ["CA", f"2025-{month:02d}-01"]


async def test_a_record_whose_row_was_rejected_stays_what_it_was(
    database: Database, tmp_path: Path
) -> None:
    one = profile(max_rejects=5)
    async with bench_on(database, tmp_path, one, withdrawal_rows=2) as bench:
        await run_of(bench, months(1, 2, 3, 4, 5))
        before = await published(bench)
        # The 2nd was rejected twice, the 6th was never known, one row names no record at all.
        run = await run_with(
            bench,
            (months(1, 3), rejected(first(2), first(6), [])),
            (months(4, 5), rejected(first(2))),
        )
        assert (told(run), run.rejects, run.records) == ((4, 1, 0, 0), 4, 4)
        assert await published(bench) == before
        # What is absent is withdrawn all the same; where a good row comes too, it counts.
        run = await run_with(
            bench,
            (months(1), rejected(first(2), first(3))),
            (months(3, rate="7"), rejected(first(1))),
        )
        assert (told(run), run.changed) == ((1, 1, 2, 0), 1)
        assert await published(bench) == {
            " ".join(first(1)): "1", " ".join(first(2)): "1", " ".join(first(3)): "7",
        }  # fmt: skip
        # Kept is no revision: the history has none. What was withdrawn stays withdrawn.
        rows = months(1) + months(3, rate="7")
        run = await run_with(bench, (rows, rejected(first(2), first(5))))
        assert told(run) == (2, 1, 0, 0)
        page = await bench.service.records(OPERATOR, RecordFilter(profile="rates"))
        assert {tuple(each.key): each.revision for each in page.items} == {
            tuple(first(1)): 1, tuple(first(2)): 1, tuple(first(3)): 2,
        }  # fmt: skip
        # All that is known is in rejected rows: nothing is gone, and nothing has come.
        run = await run_with(bench, ([], rejected(first(1), first(2), first(3))))
        assert (run.status.value, told(run)) == ("succeeded", (0, 3, 0, 0))
        # Nor is it usual now that nothing comes.
        run = await run_with(bench, ([], []))
        assert (run.status.value, run.code) == ("failed", "shrunk")
        assert [one.type for one in (await bench.service.notices(OPERATOR)).items] == ["run.failed"]


@pytest.mark.parametrize("duplicates", ["first", "last"])
async def test_a_rejected_row_is_no_repeat_of_a_good_one(
    database: Database, tmp_path: Path, duplicates: str
) -> None:
    one = profile(max_rejects=5, duplicates=duplicates)
    async with bench_on(database, tmp_path, one) as bench:
        await run_of(bench, months(1, 2))
        run = await run_with(
            bench,
            ([], rejected(first(1), first(2))),
            (months(1, 1, rate="2"), rejected(first(1))),
        )
        assert (told(run), run.changed, run.duplicates) == ((0, 1, 0, 0), 1, 1)
        run = await run_of(bench, months(1, rate="2"))
        assert (run.unchanged, run.withdrawn) == (1, 1)


async def test_where_nobody_can_tell_which_row_was_rejected_nothing_is_withdrawn(
    database: Database, tmp_path: Path
) -> None:
    one = profile(max_rejects=5)
    async with bench_on(database, tmp_path, one) as bench:
        await run_of(bench, months(1, 2, 3, 4))
        run = await run_with(bench, (months(1, 7), rejected(None, first(2))))
        assert (told(run), run.new) == ((1, 1, 0, 2), 1)
        assert len(await published(bench)) == 5
        [notice] = (await bench.service.notices(OPERATOR)).items
        assert (notice.type, notice.run) == ("run.withheld", run.id)
        assert (notice.data["withheld"], notice.data["unkeyed"]) == (2, 1)
        assert "records that did not come: 2;" in notice_text(notice)
        [line] = await bench.service.freshness(OPERATOR)
        assert "the last run withdrew nothing: 2 records are not in it" in line.problem
        # It says which rows these are, and what can be done about them.
        assert "`holdfast reject list --profile rates` marks them" in line.problem
        assert "`skip_rows`" in line.problem
        assert "withdraws what is gone" in line.problem
        rows = (await bench.service.rejects(OPERATOR, RunFilter(profile="rates"))).items
        assert [(one.position, one.unkeyed) for one in rows] == [(50, True), (51, False)]
        # The same bytes again, says the source: nobody can tell more than before.
        same = bench.attempt()
        await same.open()
        unchanged = await same.finish("unchanged")
        assert (unchanged.status.value, unchanged.withheld) == ("unchanged", 2)
        [line] = await bench.service.freshness(OPERATOR)
        assert "withdrew nothing" in line.problem
        # Told once, until a run can tell again; and what one of them may have been is no question
        # where everything came.
        again = await run_with(bench, (months(1, 7), rejected(None)))
        assert told(again) == (2, 0, 0, 3)
        whole = await run_with(bench, (months(1, 2, 3, 4, 7), rejected(None)))
        assert told(whole) == (5, 0, 0, 0)
        assert len((await bench.service.notices(OPERATOR)).items) == 1
        clear = await run_of(bench, months(1, 7))
        assert told(clear) == (2, 0, 3, 0)
        [line] = await bench.service.freshness(OPERATOR)
        assert (line.problem, line.records) == ("", 2)


async def test_a_backfill_withholds_within_its_range(database: Database, tmp_path: Path) -> None:
    async with bench_on(database, tmp_path, windowed(max_rejects=5)) as bench:
        before = BACKFILL | {"range_end": "2025-03-01"}
        await run_of(bench, months(3, 4, 5))
        await run_of(bench, months(1, 2), **before)
        run = await run_with(bench, (months(1), rejected(None, first(2))), **before)
        assert told(run) == (1, 1, 0, 0)
        run = await run_with(bench, (months(1), rejected(None)), **before)
        assert (told(run), run.unasked) == ((1, 0, 0, 1), 0)
        # An ordinary run: what it kept is not what it did not ask for.
        run = await run_with(bench, (months(3), rejected(first(1), first(4))))
        assert (told(run), run.unasked) == ((1, 2, 1, 0), 1)


async def test_a_mapping_with_other_keys_does_not_double_everything(
    database: Database, tmp_path: Path
) -> None:
    async with bench_on(database, tmp_path, profile(max_rejects=5)) as bench:
        await run_of(bench, months(1, 2))
        run = await run_with(bench, (months(1, 2, state="XX"), rejected(None)), kind="remap")
        assert (run.status.value, run.code) == ("failed", "keys-unclear")
        run = await run_with(bench, (months(1, 2, state="XX"), rejected([])), kind="remap")
        assert (run.status.value, run.new, run.withdrawn) == ("succeeded", 2, 2)


async def test_other_modes_ask_nothing_of_rejected_rows(database: Database, tmp_path: Path) -> None:
    async with bench_on(database, tmp_path, profile(max_rejects=5, mode="append")) as bench:
        await run_of(bench, months(1, 2))
        run = await run_with(bench, (months(3), rejected(None, first(1))))
        assert (told(run), run.new, run.status.value) == ((0, 0, 0, 0), 1, "succeeded")
        assert len(await published(bench)) == 3


@pytest.mark.parametrize("duplicates", ["error", "last"])
async def test_what_is_withdrawn_agrees_with_the_model(
    database: Database, tmp_path: Path, duplicates: str
) -> None:
    """Seeded runs of good and rejected rows in any order; each is compared with the plain model."""
    dice = random.Random(f"withdrawals {duplicates}")
    oracle, sums = Oracle("snapshot", duplicates, 9), Counter[str]()
    one = profile(max_rejects=9, duplicates=duplicates)
    async with bench_on(database, tmp_path, one, withdrawal_rows=2) as bench:
        for number in range(20):
            attempt = bench.attempt()
            oracle.open(attempt.run, 1, number + 60, number)
            await attempt.open()
            await attempt.respond()
            left = dice.sample(STATES, dice.randrange(2, len(STATES)))
            for sequence in range(3):
                size = dice.randrange(3)
                rows = [(state, dice.choice("12")) for state in left[:size]]
                left = left[size:] if duplicates == "error" else left
                odd = ["", *STATES] if dice.random() < 0.8 else [None]
                bad = [dice.choice(odd) for _ in range(dice.randrange(3))]
                oracle.post(attempt.run, 1, sequence, rows, bad, number + 60)
                await attempt.post(
                    [record(state, value) for state, value in rows],
                    sequence=sequence,
                    rejects=rejected(*(key_of(state) for state in bad)),
                )
            model = oracle.finish(attempt.run, 1, "complete", 3, None, number)
            run = await attempt.finish(batches=3)
            assert (run.status.value, run.code) == (model.status, model.code), number
            if model.status == "succeeded":
                found = {
                    "kept": run.kept, "withheld": run.withheld, "absent": run.withdrawn,
                    "unchanged": run.unchanged, "changed": run.changed, "new": run.new,
                }  # fmt: skip
                assert found == {name: model.counts[name] for name in found}, number
                sums.update(found)
            assert await published(bench) == {
                f"{state} 2025-01-01": value for state, value in oracle.states[-1].items()
            }
    assert all(sums.values()), sums
