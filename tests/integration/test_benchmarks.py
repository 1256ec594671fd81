"""The measurements of our own side run, at sizes that measure nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks import collect, others, report, tasks
from benchmarks.inputs import INPUTS

from holdfast.collect.batches import BatchMaker
from holdfast.collect.content import SpooledContent
from holdfast.collect.model import Bounds
from holdfast.records.model import MappedRecord
from holdfast.registry.model import Profile
from tests.support.postgres import PostgresServer


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_generated_record_is_mapped(name: str, tmp_path: Path) -> None:
    given = INPUTS[name]
    files = given.write(tmp_path, 1_300)
    assert len(files) == (2 if name == "pages" else 1)
    maker = BatchMaker(msgspec.convert(given.profile, Profile), Bounds())
    for number, path in enumerate(files):
        assert list(maker.page(SpooledContent(path, Bounds()), number)) == []
    rest = maker.rest()
    assert rest is not None
    assert (maker.records, maker.rejects, rest.records) == (1_300, 0, 1_300)
    mapped = [
        each
        for piece in rest.pieces
        for each in msgspec.json.decode(b"[" + piece + b"]", type=list[MappedRecord])
    ]
    assert _plain(mapped[1_299]) == {
        "key": ["ci1299"],
        "dimensions": {"id": "ci1299", "net": "ci", "status": "automatic"},
        "measures": {"mag": "3.9", "depth": "8.25", "sig": "65"},
        "attributes": {"place": "322 km W of Castaic, CA", "code": "1299"},
        "start": "2018-02-07T01:26:15.139000Z",
    }


def _plain(record: MappedRecord) -> dict[str, Any]:
    assert record.period is not None
    return {
        "key": record.key,
        "dimensions": record.dimensions,
        "measures": {name: measure.value for name, measure in record.measures.items()},
        "attributes": record.attributes,
        "start": record.period.start,
    }


@pytest.mark.parametrize("name", ["json", "pages"])
def test_collecting_is_timed_to_the_publication(name: str, tmp_path: Path) -> None:
    given = INPUTS[name]
    given.write(tmp_path / "files", 1_300)
    found = asyncio.run(collect._served(given, tmp_path / "served", 1_300, tmp_path / "files"))
    assert (found["records"], found["status"]) == (1_300, "succeeded")
    assert min(found["peak_megabytes"].values()) > 10


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_the_limit_reads_every_record_of_the_same_file(name: str, tmp_path: Path) -> None:
    files = INPUTS[name].write(tmp_path, 1_300)
    for engine in others.LIMITS[name]:
        found = others.run_limit(sys.executable, name, engine, files)
        assert found.records == 1_300
        assert found.peak > 10


def test_tasks_are_worked_off_by_one_caller_or_two(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    found = tasks.contenders(postgres, tmp_path, ["holdfast"])
    assert sorted(found) == ["holdfast, PostgreSQL", "holdfast, SQLite"]
    for callers, contend in enumerate(found.values(), 1):
        timing = asyncio.run(contend(40, 10, callers))
        assert timing.total >= timing.work > 0


def test_the_report_agrees_with_plain_duckdb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.run(tmp_path, 2_000, 1)
    assert "2,000 records" in capsys.readouterr().out
