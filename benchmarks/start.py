"""How quickly it starts and how little it holds: import, `up` to ready, memory at rest.

    python -m benchmarks.start [--runs 5]

Whole processes, as a user starts them; medians. Memory is the resident set after ten seconds at
rest with two drones, from the operating system.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

HOLDFAST = [sys.executable, "-m", "holdfast.app.main"]
REST_SECONDS = 10.0


def seconds_of(command: list[str]) -> float:
    """Wall-clock seconds of one whole run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def up(folder: Path, *, rest: bool) -> dict[str, float]:
    """Seconds from `up` to ready; with ``rest``, also the memory at rest of parent and drones."""
    command = [*HOLDFAST, "up", "--port", "0", "--data-dir", str(folder), "--log-level", "error"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = _until_ready(process, folder) - started
        found = {"ready_s": ready}
        if rest:
            time.sleep(REST_SECONDS)
            parent = psutil.Process(process.pid)
            found["parent_mb"] = parent.memory_info().rss / 2**20
            drones = [c for c in parent.children(recursive=True) if "drone" in c.cmdline()]
            found["drone_mb"] = max(c.memory_info().rss for c in drones) / 2**20
        return found
    finally:
        process.terminate()
        process.wait(timeout=30)


def _until_ready(process: subprocess.Popen[bytes], folder: Path) -> float:
    while True:
        assert process.poll() is None, "it ended"
        try:
            url = json.loads((folder / "holdfast.json").read_bytes())["url"]
            if httpx.get(f"{url}/ready", timeout=1, trust_env=False).status_code == 200:
                return time.perf_counter()
        except (OSError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.005)


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as base:
        version = [seconds_of([*HOLDFAST, "version"]) for _ in range(runs + 1)][1:]
        fresh = [up(Path(base) / f"fresh{n}", rest=False)["ready_s"] for n in range(runs)]
        kept = Path(base) / "kept"
        up(kept, rest=False)
        again = [up(kept, rest=False)["ready_s"] for _ in range(runs)]
        rest = up(kept, rest=True)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "runs": runs,
        "version_s": round(statistics.median(version), 3),
        "up_fresh_to_ready_s": round(statistics.median(fresh), 3),
        "up_again_to_ready_s": round(statistics.median(again), 3),
        "parent_rss_mib": round(rest["parent_mb"], 1),
        "drone_rss_mib": round(rest["drone_mb"], 1),
        "load_average": psutil.getloadavg()[0],
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
