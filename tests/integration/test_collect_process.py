"""Drones as processes: how they start, what they weigh, how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.program import HOLDFAST, Program, clean_environment, started, wait_until

RESIDENT_MEGABYTES_MAX = 60
"""About 50 is seen, of which Ed25519's library is 6.5. The packages of a server would take tens
more, those of the command line nine."""
SERVER_ONLY = (
    "litestar",
    "sqlalchemy",
    "duckdb",
    "pyarrow",
    "numpy",
    "scipy",
    "uvicorn",
    "alembic",
)
COMMAND_LINE = ("typer", "rich", "pydantic", "pygments")
"""What reads lines, prints help and draws tables, and has no place in a program that stays."""


TOLD_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}
"""Has Python write each module's name to standard error when it is imported."""


def imported(log: Path) -> set[str]:
    """The packages of which a process with ``TOLD_IMPORTS`` has imported a module so far.

    The package alone is told of, too, when it was asked for and is not there.
    """
    lines = re.findall(r"(?m)^import time: +\d+ \| +\d+ \| +(\w+\.[\w.]+)$", log.read_text())
    assert len(lines) > 100, "it does not tell"
    return {line.partition(".")[0] for line in lines}


def test_a_drone_imports_nothing_of_the_server() -> None:
    code = (
        "import sys, holdfast.collect.program, holdfast.collect.formats.json, "
        "holdfast.collect.formats.csv, holdfast.collect.preview; "
        f"print([m for m in {SERVER_ONLY!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    root = tmp_path_factory.mktemp("system")
    (root / "profiles").mkdir()
    environment = {
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(root / "profiles"),
        "HOLDFAST_FLEET_BEAT_SECONDS": "0.3",
        **TOLD_IMPORTS,
    }
    with started(
        ["up", "--port", "0", "--drones", "0"], root / "data", environment=environment
    ) as running:
        made = running.client.post("/v1/workers/tokens", json={})
        (root / "join-token").touch(mode=0o600)
        (root / "join-token").write_text(made.json()["token"])
        yield running


def start(
    program: Program, directory: Path, *options: str, **variables: str
) -> subprocess.Popen[bytes]:
    """``holdfast drone`` for the program, as the guide starts it."""
    token = program.data_dir.parent / "join-token"
    environment = {
        "CONTROL_PLANE": program.url,
        "HOLDFAST_DRONE_JOIN_TOKEN_FILE": str(token),
        **variables,
    }
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [*HOLDFAST, "drone", "--data-dir", str(directory / "data"), *options],
            env=clean_environment(environment),
            stderr=log,
            stdout=log,
        )


def alive(program: Program, pattern: str) -> list[str]:
    return sorted(
        worker["name"]
        for worker in program.items("/v1/workers")
        if worker["status"] == "alive" and re.fullmatch(pattern, worker["name"])
    )


def test_several_drones_have_names_and_processes_of_their_own(
    program: Program, tmp_path: Path
) -> None:
    drones = start(program, tmp_path, "--count", "2", DRONE_ID="pair")
    try:
        wait_until(lambda: alive(program, "pair-.") == ["pair-1", "pair-2"], what="two drones")
        children = psutil.Process(drones.pid).children(recursive=True)
        assert len(children) == 2
        for child in children:
            assert child.memory_info().rss < RESIDENT_MEGABYTES_MAX * 2**20
            assert "pydantic" not in Path(f"/proc/{child.pid}/maps").read_text()
        drones.send_signal(signal.SIGTERM)
        assert drones.wait(timeout=60) == 0
        gone, left = psutil.wait_procs(children, timeout=60)
        assert len(gone) == 2
        assert left == []
    finally:
        drones.kill()
        drones.wait()


def test_neither_drone_nor_server_imports_what_reads_the_command_line(
    program: Program, tmp_path: Path
) -> None:
    drone = start(program, tmp_path, DRONE_ID="lean", **TOLD_IMPORTS)
    try:
        wait_until(lambda: alive(program, "lean") == ["lean"], what="a drone")
    finally:
        drone.send_signal(signal.SIGTERM)
        assert drone.wait(timeout=20) == 0
    assert not imported(tmp_path / "log") & {*COMMAND_LINE, *SERVER_ONLY, "click"}
    assert not imported(program.log) & set(COMMAND_LINE)


def test_drones_die_with_the_process_that_started_them(program: Program, tmp_path: Path) -> None:
    drones = start(program, tmp_path, "--count", "2", DRONE_ID="orphan")
    try:
        wait_until(lambda: len(alive(program, "orphan-.")) == 2, what="two drones")
        children = psutil.Process(drones.pid).children(recursive=True)
        drones.kill()
        drones.wait()
        _, left = psutil.wait_procs(children, timeout=60)
        assert left == []
    finally:
        drones.kill()
        drones.wait()


def test_a_blank_name_is_made_and_kept_over_restarts(program: Program, tmp_path: Path) -> None:
    names = []
    for life in (1, 2):
        drone = start(program, tmp_path, DRONE_ID="")
        try:
            log = tmp_path / "log"
            wait_until(lambda: log.read_text().count("drone.started") == life, what="its start")  # noqa: B023
            [name] = wait_until(lambda: alive(program, "drone-[0-9a-f]{8}"), what="a drone")
            names.append(name)
        finally:
            drone.send_signal(signal.SIGTERM)
            assert drone.wait(timeout=60) == 0
    assert names[0] == names[1]
    kept = (tmp_path / "data" / "drones" / f"{names[0]}.credential").stat()
    assert kept.st_mode & 0o777 == 0o600
    assert kept.st_uid == os.getuid()


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        ((), {"CONTROL_PLANE": ""}, "no control plane"),
        ((), {"DRONE_ID": "Not A Name"}, "cannot call a drone"),
        ((), {"HOLDFAST_DRONE_JOIN_TOKEN_FILE": "/nonexistent"}, "cannot read the join token"),
        (("--label", "nonsense"), {}, "write NAME=TEXT"),
    ],
)
def test_what_an_operator_has_to_mend_is_said_at_once(
    program: Program, tmp_path: Path, options: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    drone = start(program, tmp_path, *options, **variables)
    try:
        assert drone.wait(timeout=60) in {2, 3}
        assert said in (tmp_path / "log").read_text()
    finally:
        drone.kill()
        drone.wait()
