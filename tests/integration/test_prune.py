"""``holdfast prune``, on a data directory that something was collected into."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from holdfast.records.model import RunStatus
from tests.integration.collecting import OPERATOR, collecting
from tests.support.program import run_command

LOST = b"what a program that was killed had stored"


async def test_the_command_removes_what_nothing_needs_and_nothing_else(tmp_path: Path) -> None:
    async with collecting(tmp_path) as bench:
        bench.write("data.json", [{"id": f"r{n}", "v": n} for n in range(5)])
        await bench.publish()
        async with bench.drone():
            run = await bench.collect()
        assert run.status is RunStatus.SUCCEEDED
        objects = bench.system.records._handles.objects
        lost = f"sha256:{hashlib.sha256(LOST).hexdigest()}"
        await objects.put_bytes(OPERATOR, lost, LOST)
        name = objects.name(OPERATOR, lost)
    files = [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        os.utime(path, (time.time() - 2 * 86400,) * 2)

    async def prune(*arguments: str) -> dict[str, dict[str, Any]]:
        words = ("prune", "--json", "--data-dir", str(tmp_path / "data"), *arguments)
        done = await asyncio.to_thread(run_command, *words)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["dry_run"] is ("--dry-run" in arguments)
        return {each["role"]: each for each in found["roles"]}

    would = await prune("--dry-run")
    assert list(would) == ["registry", "aggregator", "coordinator", "reporter"]
    assert (would["aggregator"]["objects"], would["aggregator"]["object_bytes"]) == (1, len(LOST))
    # What several roles keep in one place is counted once.
    assert would["reporter"]["objects"] == 0
    assert (tmp_path / "data" / "objects" / name).exists()
    assert (await prune())["aggregator"]["objects"] == 1
    assert not (tmp_path / "data" / "objects" / name).exists()
    assert (await prune("--dry-run"))["aggregator"]["objects"] == 0
    kept = await asyncio.to_thread(
        run_command, "run", "show", run.id, "--json", "--data-dir", str(tmp_path / "data")
    )
    assert json.loads(kept.stdout)["responses"][0]["response"]["size_bytes"] > 0
    [left] = [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]
    assert left in files
