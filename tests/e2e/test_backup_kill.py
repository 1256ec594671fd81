"""kill -9 in the middle of a backup and of a restore: no half backup is taken for a whole one, no
half restore for a system, and doing it again works. Moments come from a seed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import (
    HOLDFAST,
    Program,
    clean_environment,
    run_command,
    start,
    wait_until,
)
from tests.support.soaking import scale

pytestmark = [
    pytest.mark.timeout(1200 * scale()),
    pytest.mark.soak,
]

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
KILLS = 2
EVENTS = 2_000
STAGES = ".data.restoring-*"
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
                "--recovery", str(recovery), "--new-origin",
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


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, whole."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_restore_that_is_killed_leaves_things_as_they_were_or_whole(tmp_path: Path) -> None:
    """Into a directory that has lost its state, from a backup older than the last checkpoint."""
    chance, folder = random.Random(SEED + 1), tmp_path / "data"
    program = serve(folder)
    try:
        filled(program)
        made = backed_up(program)
        filled(program)
        published = program.client.get("/v1/ledger/checkpoint").text
    finally:
        program.stop()
    origin, size = published.splitlines()[:2]
    assert int(size) >= 2 * EVENTS
    kept = tmp_path / "kept"
    kept.mkdir()
    data_file, keys_file = (shutil.copy(made[name], kept) for name in ("data_file", "keys_file"))
    for lost in ("state", "objects"):
        shutil.rmtree(folder / lost, ignore_errors=True)
    bare = tmp_path / "bare"
    folder.rename(bare)
    before = tree_of(bare)

    def restoring() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*HOLDFAST, "backup", "restore", data_file, "--keys", keys_file,
             "--data-dir", str(folder), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(None),
        )  # fmt: skip

    def finished() -> float:
        said, wrong = restoring().communicate(timeout=120)
        told = json.loads(said or b"{}")
        assert told.get("verified"), wrong
        return float(told["unpack_seconds"])

    def cleared() -> None:
        for path in tmp_path.glob("data*"):
            if path.is_dir():
                shutil.rmtree(path)

    shutil.copytree(bare, folder)
    unpacking = finished()
    whole = 0
    for _ in range(KILLS * scale()):
        cleared()
        shutil.copytree(bare, folder)
        process = restoring()
        stage = tmp_path / STAGES.replace("*", str(process.pid))
        wait_until(stage.exists, what="it to begin")
        time.sleep(chance.uniform(0.0, 1.5) * unpacking)
        process.kill()
        process.communicate(timeout=60)
        if (folder / "state").exists():
            told = run_command("ledger", "verify", "--json", "--data-dir", str(folder))
            assert told.returncode == 7, told.stdout + told.stderr
            assert "knows of" in told.stdout, "sound as far as it goes, and that is not far enough"
            whole += 1
        else:
            assert tree_of(folder) == before
    cleared()
    shutil.copytree(bare, folder)
    finished()
    assert not list(tmp_path.glob(STAGES)), "half a restore was left"
    # The one moment no clock hits: the old directory is aside, the new one not yet in its place.
    folder.rename(tmp_path / ".data.restoring-0")
    (tmp_path / ".data.restoring-0.aside").write_text("data.before-restore")
    finished()
    assert not list(tmp_path.glob(STAGES))
    program = serve(folder)
    try:
        # The log is older than what was published of it, so nothing is signed until that is said.
        status = program.get("/v1/ledger/status")
        assert (status["writable"], status["damage"]["reason"]) == (False, "lost-tail")
        assert EVENTS <= status["size"] < int(size)
        one = {"events": [{"stream": "notes/a", "type": "note.added", "payload": {}}]}
        refused = program.client.post("/v1/ledger/events", json=one)
        assert (refused.status_code, refused.json()["code"]) == (503, "ledger-read-only")
        answer = program.client.get("/v1/ledger/checkpoint")
        assert answer.status_code == 503 or answer.text == published
        go = run_command("ledger", "restart", "--reason", "restored", "--data-dir", str(folder))
        assert go.returncode == 0, go.stderr
        signed = program.client.get("/v1/ledger/checkpoint").text.splitlines()
        assert signed[0] != origin
    finally:
        program.kill()
    print(f"{KILLS * scale()} kills of a restore, {whole} after it was in place")
