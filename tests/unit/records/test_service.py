"""The aggregator from a worker's side, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.kernel.database import Database
from holdfast.records.model import RecordFilter, RunStatus
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, record


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path) as found:
        yield found


async def test_a_complete_run_publishes_everything_at_once(bench: Bench) -> None:
    attempt = bench.attempt()
    opened = await attempt.open()
    assert opened.status is RunStatus.RUNNING
    await attempt.respond()
    receipt = await attempt.post([record("CA", "4.1"), record("NV", "5.0", position=1)])
    assert (receipt.new, receipt.changed, receipt.unchanged) == (2, 0, 0)
    which = RecordFilter(profile="rates")
    assert (await bench.service.records(OPERATOR, which)).items == []
    run = await attempt.finish()
    assert (run.status, run.publication, run.new) == (RunStatus.SUCCEEDED, 1, 2)
    page = await bench.service.records(OPERATOR, which)
    assert [item.key for item in page.items] == [["CA", "2025-01-01"], ["NV", "2025-01-01"]]
    assert page.items[0].measures["rate"].value == "4.1"
    assert page.publication == 1
    again = await bench.collect([record("CA", "4.1"), record("NV", "5.1")], fence=2)
    assert (again.unchanged, again.changed, again.withdrawn) == (1, 1, 0)
    third = await bench.collect([record("NV", "5.1")], fence=3)
    assert (third.unchanged, third.withdrawn, third.publication) == (1, 1, 3)
    page = await bench.service.records(OPERATOR, which)
    assert [item.key[0] for item in page.items] == ["NV"]
    history = await bench.service.record(OPERATOR, page.items[0].id)
    assert [one.revision for one in history.revisions] == [1, 2]
