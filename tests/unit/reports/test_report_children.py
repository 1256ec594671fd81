"""A computation runs in a process of its own: it is bounded, and its refusals come back whole."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from holdfast.kernel.errors import HoldfastError, Internal, Invalid, TooLarge
from holdfast.reports.children import ReportChildren
from holdfast.reports.compute import ComputeJob, ComputeResult, compute, opened
from holdfast.reports.spec import convert_spec
from tests.support.waiting import until
from tests.unit.reports.projections import series, write

COMPUTE = "holdfast.reports.compute:compute"


def job(folder: Path, rows: int = 20) -> bytes:
    values = [(str(1000 + i), f"{i % 7}.5") for i in range(rows)]
    files = {name: write(folder / f"{name}.parquet", series(values)) for name in "ab"}
    spec = convert_spec(
        {
            "version": 1,
            "name": "pair",
            "inputs": {name: {"profile": name, "measures": ["value"]} for name in "ab"},
            "join": {"on": ["year"]},
            "output": {"type": "correlation", "x": "a.value", "y": "b.value"},
        }
    )
    return msgspec.msgpack.encode(ComputeJob(spec=spec, files=files, memory_mb=256))


def children_of_this_process() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_a_child_computes_what_this_process_would(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    answered = await ReportChildren().call(COMPUTE, wanted, deadline_seconds=60, memory_mb=2048)
    assert opened(answered, ComputeResult) == opened(compute(wanted), ComputeResult)


async def test_a_refusal_in_a_child_comes_back_whole(tmp_path: Path) -> None:
    answered = await ReportChildren().call(
        COMPUTE, job(tmp_path, rows=2), deadline_seconds=60, memory_mb=2048
    )
    with pytest.raises(Invalid) as caught:
        opened(answered, ComputeResult)
    assert caught.value.code == "report-too-few-rows"


async def test_the_deadline_ends_the_child(tmp_path: Path) -> None:
    before = children_of_this_process()
    began = time.monotonic()
    with pytest.raises(TooLarge):
        await ReportChildren().call(COMPUTE, job(tmp_path), deadline_seconds=0.05, memory_mb=2048)
    assert time.monotonic() - began < 60
    assert children_of_this_process() <= before


async def test_a_cancelled_call_leaves_no_child(tmp_path: Path) -> None:
    before = children_of_this_process()
    call = asyncio.create_task(
        ReportChildren().call(COMPUTE, job(tmp_path), deadline_seconds=60, memory_mb=2048)
    )
    await until(lambda: bool(children_of_this_process() - before))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert children_of_this_process() <= before


async def test_the_memory_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError) as caught:
        opened(
            await ReportChildren().call(COMPUTE, job(tmp_path), deadline_seconds=60, memory_mb=64),
            ComputeResult,
        )
    assert isinstance(caught.value, TooLarge | Internal)


async def test_a_child_does_only_what_the_reporter_has_a_name_for() -> None:
    with pytest.raises(Internal):
        await ReportChildren().call("os:getcwd", b"", deadline_seconds=60, memory_mb=2048)


def test_reading_a_spec_needs_no_engine() -> None:
    import subprocess

    script = (
        "import sys, holdfast.reports.cli, holdfast.reports.client, holdfast.reports.spec\n"
        "heavy = {'duckdb', 'pyarrow', 'scipy', 'numpy', 'vl_convert', 'sqlalchemy', 'litestar'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
