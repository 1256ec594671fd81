"""The measurements of our own side run, at sizes that measure nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from benchmarks import collect, report, tasks

from holdfast.collect.batches import BatchMaker
from holdfast.collect.content import SpooledContent
from holdfast.collect.model import Bounds
from holdfast.registry.model import Profile
from tests.support.postgres import PostgresServer


def test_every_generated_record_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    collect.generate(path, 300)
    maker = BatchMaker(msgspec.convert(collect.PROFILE, Profile), Bounds())
    batches = list(maker.page(SpooledContent(path, Bounds()), 0))
    assert (maker.records, maker.rejects, len(batches)) == (300, 0, 0)
    rest = maker.rest()
    assert rest is not None
    assert rest.records == 300


def test_collecting_is_timed_to_the_publication(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    collect.generate(path, 300)
    found = asyncio.run(collect._served(tmp_path / "served", 300, path))
    assert (found["records"], found["status"]) == (300, "succeeded")
    assert min(found["peak_megabytes"].values()) > 10


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
