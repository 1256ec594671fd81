"""Join and correlate two sources of a million records each, against plain DuckDB.

Both read the same two Parquet projections. Plain DuckDB is given two queries: the *bare* one (join
and Pearson's coefficient), and the *same questions* that a report answers (are the keys unique,
Pearson's and Spearman's coefficients, the joined rows in order, written to Parquet). A report
answers more than either: it compares digests and units, and gives p-values and an interval.

Rounds alternate, so that both meet the same neighbours on the machine; the median counts. One run
prints everything that the ratio depends on::

    python benchmarks/report.py [--records 1000000] [--rounds 7] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import numpy
import pyarrow
import pyarrow.parquet
import scipy
import scipy.stats

from holdfast import __version__
from holdfast.reports.children import ReportChildren
from holdfast.reports.compute import ComputeJob, ComputeResult, compute_report, opened
from holdfast.reports.inputs import InputFile
from holdfast.reports.locked import THREADS
from holdfast.reports.spec import convert_spec

SPEC = {
    "version": 1,
    "name": "benchmark",
    "inputs": {
        "a": {"profile": "a", "measures": ["value"]},
        "b": {"profile": "b", "measures": ["value"]},
    },
    "join": {"on": ["station", "day"]},
    "output": {"type": "correlation", "x": "a.value", "y": "b.value"},
}

BARE = """
SELECT count(*), corr(a.value__double, b.value__double)
FROM '{a}' a JOIN '{b}' b USING (dim_station, period_start)
"""
UNIQUE = """
SELECT (SELECT count(*) FROM '{0}')
  = (SELECT count(*) FROM (SELECT DISTINCT dim_station, period_start FROM '{0}'))
"""
JOINED = """
CREATE TEMP TABLE j AS
SELECT dim_station, period_start, a.value__double AS x, b.value__double AS y
FROM '{a}' a JOIN '{b}' b USING (dim_station, period_start)
"""
COEFFICIENTS = """
SELECT count(*), corr(x, y), corr(rx, ry) FROM (
  SELECT x, y,
    rank() OVER (ORDER BY x) + (count(*) OVER (PARTITION BY x) - 1) / 2.0 AS rx,
    rank() OVER (ORDER BY y) + (count(*) OVER (PARTITION BY y) - 1) / 2.0 AS ry
  FROM j)
"""
WRITE = "COPY (FROM j ORDER BY dim_station, period_start) TO '{out}' (FORMAT parquet, CODEC zstd)"


def write_projection(path: Path, seed: int, records: int) -> InputFile:
    """A projection as the aggregator lays it out: stations by days, in a random order."""
    stations = 1000
    days = -(-records // stations)
    random = numpy.random.default_rng(seed)
    order = random.permutation(records)
    station = (numpy.arange(records) // days)[order]
    day = (numpy.arange(records) % days)[order]
    dates = (numpy.datetime64("1990-01-01") + numpy.arange(days + 1)).astype(str)
    common = numpy.random.default_rng(0).normal(size=records)[order]
    value = numpy.round(15 + 8 * common + 5 * random.normal(size=records), 1)
    table = pyarrow.table(
        {
            "record_id": [f"{seed:02x}{index:062x}" for index in order],
            "revision": numpy.ones(records, dtype="int64"),
            "period_start": dates[day],
            "period_end": dates[day + 1],
            "period_frequency": ["D"] * records,
            "dim_station": numpy.char.add("station-", station.astype(str)),
            "value": [f"{number:.1f}" for number in value],
            "value__double": value,
            "value__unit": ["°C"] * records,
            "value__multiplier": ["1"] * records,
            "run": ["019a0000-0000-7000-8000-000000000000"] * records,
            "recorded_from": ["2026-01-01T00:00:00.000000Z"] * records,
        }
    )
    pyarrow.parquet.write_table(
        table, path, compression="zstd", version="2.6", row_group_size=20_000
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return InputFile(path=str(path), digest=f"sha256:{digest}")


def bare(files: dict[str, InputFile]) -> float:
    with duckdb.connect(config={"threads": THREADS}) as connection:
        _, r = connection.execute(BARE.format(**paths(files))).fetchall()[0]
        return float(r)


def same_questions(files: dict[str, InputFile], out: Path) -> float:
    with duckdb.connect(config={"threads": THREADS}) as connection:
        for path in paths(files).values():
            assert connection.execute(UNIQUE.format(path)).fetchall() == [(True,)]
        connection.execute(JOINED.format(**paths(files))).fetchall()
        _, r, _ = connection.execute(COEFFICIENTS).fetchall()[0]
        connection.execute(WRITE.format(out=out)).fetchall()
        return float(r)


def paths(files: dict[str, InputFile]) -> dict[str, str]:
    return {name: file.path for name, file in files.items()}


def report(job: ComputeJob) -> float:
    found = compute_report(job).correlation
    assert found is not None
    assert found.levels.pearson_r is not None
    return float(found.levels.pearson_r)


def in_child(job: ComputeJob) -> float:
    async def body() -> ComputeResult:
        answered = await ReportChildren().call(
            "holdfast.reports.compute:compute",
            msgspec.msgpack.encode(job),
            deadline_seconds=300,
            memory_mb=4096,
        )
        result: ComputeResult = opened(answered, ComputeResult)
        return result

    found = asyncio.run(body()).correlation
    assert found is not None
    return float(found.levels.pearson_r or 0)


def measured(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median seconds of each, alternating, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    answers: dict[str, float] = {}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            answers[name] = work()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    spread = max(answers.values()) - min(answers.values())
    assert spread < 1e-9, f"they disagree: {answers}"
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(Path(folder), options.records, options.rounds)


def run(folder: Path, records: int, rounds: int) -> None:
    files = {
        name: write_projection(folder / f"{name}.parquet", seed, records)
        for seed, name in enumerate("ab", start=1)
    }
    job = ComputeJob(spec=convert_spec(SPEC), files=files, memory_mb=2048)
    found = measured(
        {
            "plain DuckDB, bare": lambda: bare(files),
            "plain DuckDB, same questions": lambda: same_questions(files, folder / "out.parquet"),
            "report": lambda: report(job),
            "report, with starting its process": lambda: in_child(job),
        },
        rounds,
    )
    out = io.StringIO()
    print(f"holdfast {__version__}, duckdb {duckdb.__version__}, pyarrow {pyarrow.__version__}, "
          f"scipy {scipy.__version__}, numpy {numpy.__version__}, "
          f"python {platform.python_version()}, {os.cpu_count()} processors, "
          f"{THREADS} threads", file=out)  # fmt: skip
    for name, file in files.items():
        size = Path(file.path).stat().st_size
        print(f"{name}: {records:,} records, {size:,} bytes, {file.digest}", file=out)
    print(f"median of {rounds} alternating rounds:", file=out)
    for name, seconds in found.items():
        print(f"  {name:<36}{seconds:8.3f} s", file=out)
    for name in ("plain DuckDB, same questions", "plain DuckDB, bare"):
        ratio = found[name] / found["report"]
        print(f"report against {name}: {ratio:.2f} of its speed", file=out)
    print(out.getvalue(), end="")


if __name__ == "__main__":
    main()
