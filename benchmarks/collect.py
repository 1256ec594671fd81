"""How fast and how lean collecting is: nested JSON → mapped → durable records.

    python benchmarks/collect.py map    [--records 100000 2000000]   one core, nothing stored
    python benchmarks/collect.py served [--records 100000]           the served program and a drone
    python benchmarks/collect.py dlt --python PATH [--records 100000]

``map`` reads, maps and encodes batches in a fresh process per size and reports records per second
and peak resident memory; a flat line is the point. ``served`` starts ``holdfast up`` with one drone
(two cores: the drone's and the server's) and a recorded source, and times a run from its opening to
its publication: every record is durable and readable then. ``dlt`` runs dlt on the same file with
the interpreter at PATH (an environment with ``dlt[duckdb,parquet]``), by its defaults and by its
Parquet path into DuckDB. All take the same file: GeoJSON-like features of about 300 bytes, of which
nine fields are mapped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

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
            command = [sys.executable, __file__, "map-one", str(path)]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end=""
            )


# --- served -------------------------------------------------------------------------------------


def bench_served(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            print(json.dumps(asyncio.run(_served(Path(folder), count))))


async def _served(root: Path, count: int) -> dict[str, Any]:
    import httpx
    import psutil

    from holdfast.collect.fixtures.server import FixtureServer

    files, data = root / "files", root / "data"
    files.mkdir()
    (root / "profiles").mkdir()
    await asyncio.to_thread(generate, files / "features.json", count)
    async with FixtureServer(files) as source:
        replay = root / "replay.json"
        replay.write_text(json.dumps({"https://bench.example.org": source.url}))
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")},
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(root / "profiles"),
            "HOLDFAST_LOG_LEVEL": "warning",
        }
        program = subprocess.Popen(  # noqa: ASYNC220 - started once, before anything is timed
            [sys.executable, "-m", "holdfast.app.main", "up", "--port", "0", "--drones", "1",
             "--data-dir", str(data)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            url = await _address(data)
            token = (data / "operator.token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
                made = await client.post("/v1/profiles", json=PROFILE)
                made.raise_for_status()
                task = (await client.post("/v1/tasks/collect", json={"profile": "bench"})).json()
                tree = psutil.Process(program.pid)
                run, peaks = await _watched(client, task["payload"]["run"], tree)
        finally:
            program.terminate()
            await asyncio.to_thread(program.wait)
    started, ended = (_seconds(run[name]) for name in ("started_at", "published_at"))
    return {
        "records": run["records"],
        "status": run["status"],
        "seconds": round(ended - started, 2),
        "durable_records_per_second": round(run["records"] / (ended - started)),
        "peak_megabytes": peaks,
    }


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
import json, resource, sys, time
import dlt

path, how, where = sys.argv[1:]

@dlt.resource(name="features", primary_key="id", write_disposition="merge")
def features():
    import ijson
    with open(path, "rb") as file:
        batch = []
        for feature in ijson.items(file, "features.item", use_float=True):
            batch.append(feature)
            if len(batch) == 1000:
                yield batch
                batch = []
        yield batch

pipeline = dlt.pipeline("bench", destination=dlt.destinations.duckdb(where + "/b.duckdb"),
                        dataset_name="bench", pipelines_dir=where)
started = time.perf_counter()
options = {"loader_file_format": "parquet"} if how == "parquet" else {}
pipeline.run(features(), **options)
seconds = time.perf_counter() - started
with pipeline.sql_client() as client:
    [[count]] = client.execute_sql("SELECT count(*) FROM features")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"dlt": how, "records": count, "seconds": round(seconds, 2),
                  "records_per_second": round(count / seconds), "peak_megabytes": round(peak)}))
"""


def bench_dlt(python: str, counts: list[int]) -> None:
    for count in counts:
        for how in ("default", "parquet"):
            with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
                path = Path(folder) / "features.json"
                generate(path, count)
                found = subprocess.run(
                    [python, "-c", DLT, str(path), how, folder],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                print(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["map", "map-one", "served", "dlt"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--records", nargs="+", type=int, default=[100_000])
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    match given.what:
        case "map":
            bench_map(given.records)
        case "map-one":
            print(json.dumps(map_one(given.path)))
        case "served":
            bench_served(given.records)
        case "dlt":
            bench_dlt(given.python, given.records)


if __name__ == "__main__":
    main()
