"""kill -9 of the program in the middle of a backup: no half backup is taken for a whole one, and
the next one is whole. Moments come from a seed."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import Program, run_command, start
from tests.support.soaking import scale

pytestmark = [
    pytest.mark.timeout(400 * scale()),
    pytest.mark.soak,
]

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
KILLS = 2
EVENTS = 2_000
QUIET = {"HOLDFAST_LOG_LEVEL": "error"}


def serve(folder: Path) -> Program:
    return start(["up", "--drones", "0", "--port", "0"], folder, environment=QUIET)


def filled(program: Program) -> None:
    """Something to back up: a log of some size."""
    for start_at in range(0, EVENTS, 500):
        events = [
            {"stream": "notes/a", "type": "note.added", "payload": {"n": n, "text": "x" * 500}}
            for n in range(start_at, start_at + 500)
        ]
        answer = program.client.post("/v1/ledger/events", json={"events": events})
        assert answer.status_code == 200, answer.text


def backed_up(program: Program) -> dict[str, Any]:
    found = program.client.post("/v1/backups", json={}).json()
    while found["state"] == "running":
        found = program.get(f"/v1/backups/{found['id']}")
    assert found["state"] == "done", found
    return dict(found)


def test_a_backup_that_is_killed_leaves_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    chance, folder = random.Random(SEED), tmp_path / "data"
    program = serve(folder)
    try:
        filled(program)
        began = time.monotonic()
        whole = backed_up(program)
        took = time.monotonic() - began
        for _ in range(KILLS * scale()):
            program.client.post("/v1/backups", json={})
            time.sleep(chance.uniform(0.0, took))
            program.kill()
            program = serve(folder)
        again = backed_up(program)
        program.stop()
        assert again["id"] != whole["id"]
        kept = sorted(folder.glob("backups/data-*.hfb"))
        assert len(kept) >= 2
        recovery = recovery_of(folder, tmp_path)
        # Whatever is there under a backup's name can be restored, with the keys of its moment.
        for number, data in enumerate(kept):
            own = [k for k in folder.glob("key-backups/keys-*.hfk") if _stamp(k) == _stamp(data)]
            keys = own[0] if own else Path(again["keys_file"])
            target = tmp_path / f"restored-{number}"
            done = run_command(
                "backup", "restore", str(data), "--keys", str(keys),
                "--data-dir", str(target), "--json",
                "--recovery", str(recovery),
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["verified"]["ledger"] == "sound"
    finally:
        if program.process.poll() is None:
            program.kill()


def _stamp(path: Path) -> str:
    return path.stem.partition("-")[2]


def recovery_of(folder: Path, elsewhere: Path) -> Path:
    """The file with the master key, which no backup holds."""
    path = elsewhere / "recovery"
    done = run_command("key", "export", "--out", str(path), "--data-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return path
