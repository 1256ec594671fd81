"""How fast and how lean collecting is: nested JSON → mapped → durable records.

    python -m benchmarks.collect compare [--records 100000] [--rounds 3]    against dlt, in turn
    python -m benchmarks.collect served [--records 100000 2000000]          the served program
    python -m benchmarks.collect map [--records 100000 2000000]             one core, not stored

``map`` reads, maps and encodes batches in a fresh process per size and reports records per second
and peak resident memory; a flat line is the point. ``served`` starts ``holdfast up`` with one drone
(two cores: the drone's and the server's) and a recorded source, and times a run from its opening to
its publication: fetched, its raw bytes kept, every record mapped, durable and readable.

``compare`` alternates that with dlt on the same file, each in fresh processes: by its defaults
(insert-values into DuckDB; at a tenth of the records, because that is what it bears), and by its
Parquet path into DuckDB in three ways: what it does by itself with nested records and a primary key
(``merge``, which like us finds out what is new); the same without looking (``append``); and
``append`` of the nine mapped fields only, mapped by hand in its generator (``flat``). Normalising
uses two processes. dlt neither keeps the raw bytes nor flushes what it writes between the steps.
Ratios are taken within a round; processor time, of all processes and without the start, tells what
a machine busy with other work hides.

All take the same file: GeoJSON-like features of about 300 bytes, of which nine fields are mapped.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from holdfast import __version__

PROFILE: dict[str, Any] = {
    "version": 1,
    "name": "bench",
    "publisher": "generated",
    "licence": "none",
    "source": {
        "url": "https://bench.example.org/features.json",
        "format": {"type": "json", "records": "$.features[*]"},
    },
    "key": ["dimensions.id"],
    "dimensions": {
        "id": "$.id",
        "net": "$.properties.net",
        "status": "$.properties.status",
    },
    "measures": {
        "mag": "$.properties.mag",
        "depth": {"path": "$.geometry.coordinates[2]", "unit": "km"},
        "sig": {"path": "$.properties.sig", "type": "integer"},
    },
    "attributes": {"place": "$.properties.place", "code": "$.properties.code"},
    "period": {"path": "$.properties.time", "frequency": "I", "format": "epoch-ms"},
}


AT_REST_SECONDS = 0.05
"""Processor time of all processes within a second below which they are at rest."""
RUN = "01a1fb93-745a-7ffa-9ec7-1183ced0f7f0"


def generate(path: Path, count: int) -> None:
    """``count`` nested records, the same for the same count."""
    with path.open("w", encoding="utf-8") as file:
        head = json.dumps({"type": "FeatureCollection", "metadata": {"count": count}})
        file.write(f'{head[:-1]}, "features": [')
        for i in range(count):
            feature = {
                "type": "Feature",
                "id": f"ci{i}",
                "properties": {
                    "mag": i % 70 / 10,
                    "place": f"{i % 977} km W of Castaic, CA",
                    "time": 1_517_966_773_840 + i,
                    "tz": -480,
                    "felt": None,
                    "status": "automatic",
                    "sig": 62 + i % 9,
                    "net": "ci",
                    "code": str(i),
                },
                "geometry": {"type": "Point", "coordinates": [-118.6 + i / 1e6, 34.5, 8.25]},
            }
            file.write(("," if i else "") + json.dumps(feature))
        file.write("]}")


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- map ----------------------------------------------------------------------------------------


def map_one(path: Path) -> dict[str, Any]:
    """Read, map and encode in this process."""
    from holdfast.collect.batches import BatchMaker
    from holdfast.collect.content import SpooledContent
    from holdfast.collect.model import Bounds
    from holdfast.kernel.collector import settle
    from holdfast.registry.model import Profile

    settle()  # as a drone does
    profile = msgspec.convert(PROFILE, Profile)
    maker = BatchMaker(profile, Bounds())
    before, size, batches = peak_megabytes(), 0, 0
    started, worked = time.perf_counter(), time.process_time()
    for filled in maker.page(SpooledContent(path, Bounds()), 0):
        size += sum(map(len, filled.encoded(RUN, 1, batches)))
        batches += 1
    if (rest := maker.rest()) is not None:
        size += sum(map(len, rest.encoded(RUN, 1, batches)))
        batches += 1
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return {
        "records": maker.records,
        "records_per_second": round(maker.records / seconds),
        "records_per_processor_second": round(maker.records / worked),
        "batches": batches,
        "encoded_megabytes": round(size / 1e6, 1),
        "megabytes_before": round(before, 1),
        "peak_megabytes": round(peak_megabytes(), 1),
    }


def bench_map(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            path = Path(folder) / "features.json"
            generate(path, count)
            command = [sys.executable, "-m", "benchmarks.collect", "map-one", str(path)]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end=""
            )


# --- served -------------------------------------------------------------------------------------


def bench_served(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            path = Path(folder) / "features.json"
            generate(path, count)
            print(json.dumps(asyncio.run(_served(Path(folder), count, path))), flush=True)


async def _served(root: Path, count: int, path: Path) -> dict[str, Any]:
    """One run of the served program over the file at ``path``, and what it took."""
    import httpx
    import psutil

    from holdfast.collect.fixtures.server import FixtureServer

    files, data = root / "files", root / "data"
    files.mkdir(parents=True)
    (root / "profiles").mkdir()
    (files / "features.json").hardlink_to(path)
    async with FixtureServer(files) as source:
        replay = root / "replay.json"
        replay.write_text(json.dumps({"https://bench.example.org": source.url}))
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")},
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(root / "profiles"),
            "HOLDFAST_LOG_LEVEL": "error",
        }
        program = subprocess.Popen(  # noqa: ASYNC220 - started once, before anything is timed
            [sys.executable, "-m", "holdfast.app.main", "up", "--port", "0", "--drones", "1",
             "--data-dir", str(data)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            url = await _address(data)
            token = (data / "operator.token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
                made = await client.post("/v1/profiles", json=PROFILE)
                made.raise_for_status()
                tree = psutil.Process(program.pid)
                await _settled(client, tree)
                worked = _processor(tree)
                task = (await client.post("/v1/tasks/collect", json={"profile": "bench"})).json()
                run, peaks = await _watched(client, task["payload"]["run"], tree)
                ended_at = _processor(tree)
                worked = {name: round(ended_at[name] - worked[name], 2) for name in worked}
        finally:
            program.terminate()
            await asyncio.to_thread(program.wait)
    started, ended = (_seconds(run[name]) for name in ("started_at", "published_at"))
    if run["records"] != count or run["status"] != "succeeded":
        raise SystemExit(f"the run did not succeed: {run}")
    return {
        "records": run["records"],
        "status": run["status"],
        "seconds": round(ended - started, 2),
        "durable_records_per_second": round(run["records"] / (ended - started)),
        "processor_seconds": worked,
        "peak_megabytes": peaks,
    }


def _processor(tree: Any) -> dict[str, float]:
    """Seconds of processor time that the program and its drone have used."""
    found = {"server": 0.0, "drone": 0.0}
    for each in [tree, *tree.children(recursive=True)]:
        found["drone" if "drone" in each.cmdline() else "server"] += sum(each.cpu_times()[:2])
    return found


async def _address(data: Path) -> str:
    import httpx

    while True:
        try:
            url = str(json.loads((data / "holdfast.json").read_bytes())["url"])
            async with httpx.AsyncClient() as client:
                if (await client.get(f"{url}/ready")).status_code == 200:
                    return url
        except (OSError, ValueError, KeyError, httpx.HTTPError):
            pass
        await asyncio.sleep(0.1)


async def _settled(client: Any, tree: Any) -> None:
    """Return when the drone is registered and nobody works: the start is not what is measured."""
    before: dict[str, float] = {}
    while True:
        there = (await client.get("/v1/workers")).json()["items"]
        now = _processor(tree)
        if there and before and sum(now.values()) - sum(before.values()) < AT_REST_SECONDS:
            return
        before = now
        await asyncio.sleep(1)


async def _watched(client: Any, run: str, tree: Any) -> tuple[dict[str, Any], dict[str, float]]:
    import psutil

    peaks = {"server": 0.0, "drone": 0.0}
    while True:
        for process in [tree, *tree.children(recursive=True)]:
            try:
                kind = "drone" if "drone" in process.cmdline() else "server"
                size = process.memory_info().rss / 2**20
            except psutil.Error:
                continue
            peaks[kind] = max(peaks[kind], round(size, 1))
        answer = await client.get(f"/v1/runs/{run}")
        if answer.status_code == 200 and answer.json()["status"] not in ("running", "interrupted"):
            return answer.json(), peaks
        await asyncio.sleep(0.2)


def _seconds(text: str) -> float:
    from holdfast.kernel.clock import parse_timestamp

    return parse_timestamp(text).timestamp()


# --- dlt ----------------------------------------------------------------------------------------

DLT = """
import json, os, resource, sys, time
import dlt

path, how, where = sys.argv[1:]

def nested():
    import ijson
    with open(path, "rb") as file:
        batch = []
        for feature in ijson.items(file, "features.item", use_float=True):
            batch.append(feature)
            if len(batch) == 1000:
                yield batch
                batch = []
        yield batch

def flat():
    for batch in nested():
        yield [
            {"id": one["id"], "depth": one["geometry"]["coordinates"][2],
             **{name: one["properties"][name]
                for name in ("net", "status", "mag", "sig", "place", "code", "time")}}
            for one in batch
        ]

def used():
    own, others = (resource.getrusage(who)
                   for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime

disposition = "merge" if how in ("default", "merge") else "append"
resource_ = dlt.resource(flat if how == "flat" else nested, name="features", primary_key="id",
                         write_disposition=disposition)
pipeline = dlt.pipeline("bench", destination=dlt.destinations.duckdb(where + "/b.duckdb"),
                        dataset_name="bench", pipelines_dir=where)
options = {} if how == "default" else {"loader_file_format": "parquet"}
started, worked = time.perf_counter(), used()
pipeline.run(resource_(), **options)
seconds, worked = time.perf_counter() - started, used() - worked
with pipeline.sql_client() as client:
    [[count]] = client.execute_sql("SELECT count(*) FROM features")
peak = max(resource.getrusage(who).ru_maxrss / 1024
           for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"records": count, "seconds": seconds, "processor": worked, "peak": peak}))
"""


@dataclass(frozen=True)
class Outcome:
    """One run of one contender: what came of it, and what it took."""

    records: int
    seconds: float
    processor: float
    """Seconds of processor time, of all its processes."""
    peak: float
    """Megabytes of its largest process."""

    @property
    def pace(self) -> float:
        return self.records / self.seconds

    @property
    def thrift(self) -> float:
        return self.records / self.processor


def bench_dlt(python: str, path: Path, how: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        found = subprocess.run(
            [python, "-c", DLT, str(path), how, folder],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "NORMALIZE__WORKERS": "2", "RUNTIME__DLTHUB_TELEMETRY": "false"},
        )
    return Outcome(**json.loads(found.stdout.splitlines()[-1]))


def ours(path: Path, count: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        found = asyncio.run(_served(Path(folder), count, path))
    return Outcome(
        found["records"],
        found["seconds"],
        sum(found["processor_seconds"].values()),
        max(found["peak_megabytes"].values()),
    )


OURS, DEFAULT = "holdfast", "dlt, default"


def compare(count: int, rounds: int, python: str) -> None:
    """Everybody in turn, so that all meet the same neighbours on the machine."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        path, small = Path(folder) / "features.json", Path(folder) / "small.json"
        generate(path, count)
        generate(small, count // 10)
        describe(path, count, python)
        contenders: dict[str, Callable[[], Outcome]] = {
            OURS: lambda: ours(path, count),
            DEFAULT: lambda: bench_dlt(python, small, "default"),
            **{
                f"dlt, Parquet, {how}": partial(bench_dlt, python, path, how)
                for how in ("merge", "append", "flat")
            },
        }
        found: dict[str, list[Outcome]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, run in contenders.items():
                found[name].append(run())
                print(f"  {name}: {found[name][-1]}", file=sys.stderr)
    print(f"\n{'':<22}{'records':>9}{'records/s':>11}{'per core s':>11}{'peak MB':>9}", end="")
    print(f"{'ratio':>20}{'of processor':>20}")
    for name, outcomes in found.items():
        pace = [our.pace / each.pace for our, each in zip(found[OURS], outcomes, strict=True)]
        thrift = [our.thrift / each.thrift for our, each in zip(found[OURS], outcomes, strict=True)]
        print(
            f"{name:<22}{outcomes[0].records:>9,}{median(o.pace for o in outcomes):>11,.0f}"
            f"{median(o.thrift for o in outcomes):>11,.0f}{max(o.peak for o in outcomes):>9,.0f}"
            f"{spread(pace):>20}{spread(thrift):>20}"
        )
    print("\nratio: how many times as fast holdfast was in the same round, by the clock and per")
    print(f"second of processor time: median (least-most). Load {os.getloadavg()[0]:.1f} after.")


def spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def describe(path: Path, count: int, python: str) -> None:
    """What the ratios depend on."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = subprocess.run(
        [python, "-c", "import dlt, duckdb; print(dlt.__version__, duckdb.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    print(f"holdfast {__version__}, dlt {versions[0]} into DuckDB {versions[1]},", end=" ")
    print(f"Python {platform.python_version()}, {platform.platform()}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print(f"{count:,} records, {path.stat().st_size:,} bytes, sha256:{digest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["compare", "served", "map", "map-one"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--records", nargs="+", type=int, default=[100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an environment that has dlt")
    given = parser.parse_args()
    match given.what:
        case "compare":
            for count in given.records:
                compare(count, given.rounds, given.python)
        case "served":
            bench_served(given.records)
        case "map":
            bench_map(given.records)
        case "map-one":
            print(json.dumps(map_one(given.path)))


if __name__ == "__main__":
    main()
