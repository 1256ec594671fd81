"""How fast and how lean collecting is: nested JSON, CSV, XML or pages → mapped → durable records.

    python -m benchmarks.collect compare --input csv [--records 50000] [--rounds 3]
    python -m benchmarks.collect served --input csv [--records 100000 2000000]   the served program
    python -m benchmarks.collect map --input csv [--records 100000 2000000]  one core, not stored

``map`` reads, maps and encodes batches in a fresh process per size and reports records per second
and peak resident memory; a flat line is the point. ``served`` starts ``holdfast up`` with one drone
(two cores: the drone's and the server's) and a recorded source, and times a run from its opening to
its publication: fetched, its raw bytes kept, every record mapped, durable and readable.

``compare`` alternates that with dlt on the same bytes, each in fresh processes (``--python`` names
an environment that has dlt and pandas): by its Parquet path into DuckDB with a primary key
(``merge``, which like us finds out what is new); the same without looking (``append``); and where
the records are nested ``append`` of the nine mapped fields only, mapped by hand in its generator
(``flat``). For JSON also by its defaults (insert-values; at a tenth of the records, because that is
what it bears). Normalising uses two processes. dlt neither keeps the raw bytes nor flushes what it
writes between the steps. The limit is DuckDB or pandas reading the same files into a table and
nothing else. Ratios are taken within a round; processor time, of all processes and without the
start, tells what a machine busy with other work hides.

``inputs.py`` writes the records, ``others.py`` is what they are compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.inputs import ADDRESS, INPUTS, Input, digest_of
from benchmarks.others import LIMITS, WAYS, Outcome, run_dlt, run_limit, versions
from holdfast import __version__

AT_REST_SECONDS = 0.05
"""Processor time of all processes within a second below which they are at rest."""
REST_SECONDS = 60
RUN = "01a1fb93-745a-7ffa-9ec7-1183ced0f7f0"


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- map ----------------------------------------------------------------------------------------


def map_one(given: Input, folder: Path) -> dict[str, Any]:
    """Read, map and encode in this process."""
    from holdfast.collect.batches import BatchMaker
    from holdfast.collect.content import SpooledContent
    from holdfast.collect.model import Bounds
    from holdfast.kernel.collector import settle
    from holdfast.registry.model import Profile

    settle()  # as a drone does
    profile = msgspec.convert(given.profile, Profile)
    maker = BatchMaker(profile, Bounds())
    before, size, batches = peak_megabytes(), 0, 0
    started, worked = time.perf_counter(), time.process_time()
    for number, path in enumerate(given.files(folder)):
        for filled in maker.page(SpooledContent(path, Bounds()), number):
            size += sum(map(len, filled.encoded(RUN, 1, batches)))
            batches += 1
    if (rest := maker.rest()) is not None:
        size += sum(map(len, rest.encoded(RUN, 1, batches)))
        batches += 1
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return {
        "input": given.name,
        "records": maker.records,
        "records_per_second": round(maker.records / seconds),
        "records_per_processor_second": round(maker.records / worked),
        "batches": batches,
        "encoded_megabytes": round(size / 1e6, 1),
        "megabytes_before": round(before, 1),
        "peak_megabytes": round(peak_megabytes(), 1),
    }


def bench_map(given: Input, counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            given.write(Path(folder), count)
            command = [
                *(sys.executable, "-m", "benchmarks.collect", "map-one", folder),
                *("--input", given.name),
            ]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end=""
            )


# --- served -------------------------------------------------------------------------------------


def bench_served(given: Input, counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            files = Path(folder) / "files"
            given.write(files, count)
            found = asyncio.run(_served(given, Path(folder), count, files))
            print(json.dumps({"input": given.name, **found}), flush=True)


async def _served(given: Input, root: Path, count: int, files: Path) -> dict[str, Any]:
    """One run of the served program over the files in ``files``, and what it took."""
    import httpx
    import psutil

    from holdfast.collect.fixtures.server import FixtureServer

    data = root / "data"
    (root / "profiles").mkdir(parents=True)
    async with FixtureServer(files) as source:
        replay = root / "replay.json"
        replay.write_text(json.dumps({ADDRESS: source.url}))
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
                made = await client.post("/v1/profiles", json=given.profile)
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
    """Return when the drone is registered and nobody works: the start is not what is measured.

    On a machine too busy for that, after a while all the same, and it is said.
    """
    before: dict[str, float] = {}
    late = time.monotonic() + REST_SECONDS
    while True:
        there = (await client.get("/v1/workers")).json()["items"]
        now = _processor(tree)
        if there and before and sum(now.values()) - sum(before.values()) < AT_REST_SECONDS:
            return
        if there and time.monotonic() > late:
            print(f"not at rest after {REST_SECONDS} s: the machine is busy", file=sys.stderr)
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


# --- compare ------------------------------------------------------------------------------------


def ours(given: Input, count: int, files: Path) -> Outcome:
    """The served program, timed from the opening of its run to the publication."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        found = asyncio.run(_served(given, Path(folder), count, files))
    return Outcome(
        found["records"],
        found["seconds"],
        sum(found["processor_seconds"].values()),
        max(found["peak_megabytes"].values()),
    )


async def _dlt_over_http(python: str, given: Input, how: str, folder: Path) -> Outcome:
    """dlt asks for the pages where the program asks for them: at a fixture server of ours."""
    from holdfast.collect.fixtures.server import FixtureServer

    async with FixtureServer(folder) as source:
        return await asyncio.to_thread(run_dlt, python, given.name, how, source.url)


def theirs(python: str, given: Input, how: str, folder: Path) -> Outcome:
    """dlt on the files in ``folder``."""
    if given.pagination:
        return asyncio.run(_dlt_over_http(python, given, how, folder))
    return run_dlt(python, given.name, how, str(given.files(folder)[0]))


OURS = "holdfast"


def contenders(
    given: Input, count: int, folder: Path, python: str
) -> dict[str, Callable[[], Outcome]]:
    """Who takes part, by name; the files lie in ``folder``."""
    found: dict[str, Callable[[], Outcome]] = {OURS: partial(ours, given, count, folder)}
    if given.name == "json":
        given.write(folder / "small", count // 10)
        found["dlt, default"] = partial(theirs, python, given, "default", folder / "small")
    for how in WAYS[given.name]:
        found[f"dlt, Parquet, {how}"] = partial(theirs, python, given, how, folder)
    for engine in LIMITS[given.name]:
        found[f"limit: {engine}"] = partial(
            run_limit, python, given.name, engine, given.files(folder)
        )
    return found


def compare(given: Input, count: int, rounds: int, python: str) -> None:
    """Everybody in turn, so that all meet the same neighbours on the machine."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        files = given.write(Path(folder), count)
        describe(given, files, count, python)
        taking_part = contenders(given, count, Path(folder), python)
        found: dict[str, list[Outcome]] = {name: [] for name in taking_part}
        for _ in range(rounds):
            for name, run in taking_part.items():
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


def describe(given: Input, files: list[Path], count: int, python: str) -> None:
    """What the ratios depend on."""
    known = versions(python)
    print(f"{given.name}: holdfast {__version__}, dlt {known['dlt']} into DuckDB", end=" ")
    print(f"{known['duckdb']}, pandas {known['pandas']},", end=" ")
    print(f"Python {platform.python_version()}, {platform.platform()}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    size = sum(path.stat().st_size for path in files)
    print(f"{count:,} records, {len(files)} files, {size:,} bytes, {digest_of(files)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["compare", "served", "map", "map-one"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--input", choices=sorted(INPUTS), default="json")
    parser.add_argument("--records", nargs="+", type=int, default=[100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an environment that has dlt")
    told = parser.parse_args()
    given = INPUTS[told.input]
    match told.what:
        case "compare":
            for count in told.records:
                compare(given, count, told.rounds, told.python)
        case "served":
            bench_served(given, told.records)
        case "map":
            bench_map(given, told.records)
        case "map-one":
            print(json.dumps(map_one(given, told.path)))


if __name__ == "__main__":
    main()
