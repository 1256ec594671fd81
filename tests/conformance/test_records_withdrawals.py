"""What a snapshot's run may withdraw: what it asked for, and nothing that it cannot know of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from holdfast.kernel.database import Database
from holdfast.records.model import MappedRecord, RecordFilter, Run, RunOpen
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
