"""A disk that is full, read-only or fails to flush, under the served program.

While it lasts: errors with a code and no false ok, and whoever asks is told. After it: recovery by
itself, everything acknowledged is there, nothing is there by half, and the records are right.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.program import run_command, wait_until
from tests.support.stack import SAMPLE, Stack, running, sources

pytestmark = pytest.mark.timeout(1200)

USED = {
    "nasa-global-temp-annual": "nasa_global_temp_annual.csv",
    "noaa-two-cities-weather-daily": "noaa_weather_two_cities_daily.csv",
}
DISK_BYTES = 24 * 2**20
SHIM = Path(__file__).parents[1] / "support" / "bad_disk.c"
FILLER = "x" * 50_000
TRIES = 1000
ASKED_BEFORE = 5
UNAVAILABLE = 6
"""The exit status of a command for which a needed part is not there."""


@dataclass
class Disk:
    """The disk under the program's data directory, and how it is broken and mended."""

    data_dir: Path
    spoil: Callable[[], None]
    mend: Callable[[], None]
    environment: dict[str, str] = field(default_factory=dict)
    read_only: Callable[[], None] | None = None
    """Where nothing can be mended under a program that runs: mounts it read-only for the next."""


@contextmanager
def full(folder: Path) -> Iterator[Disk]:
    """A small file system of its own that something else fills up."""
    data_dir, image = _small_disk(folder)
    _or_skip(["mount", "-o", "loop", str(image), str(data_dir)], "cannot mount a small disk")
    ballast = data_dir / "ballast"

    def spoil() -> None:
        with ballast.open("wb", buffering=0) as file:
            for piece in (2**16, 4096, 512, 1):
                try:
                    while file.write(b"\0" * piece):
                        pass
                except OSError:
                    continue

    try:
        yield Disk(data_dir, spoil, ballast.unlink)
    finally:
        subprocess.run(["umount", "-l", str(data_dir)], check=True)


def _small_disk(folder: Path) -> tuple[Path, Path]:
    """Where it is to be mounted, and what."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    data_dir = folder / "up"
    data_dir.mkdir()
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _or_skip(["mkfs.ext4", "-q", "-m", "0", str(image)], "cannot make a small disk")
    return data_dir, image


@contextmanager
def frozen(folder: Path) -> Iterator[Disk]:
    """A small file system that the kernel makes read-only, under open files, for a fault it found.

    There is no way back but to unmount it, check it and mount it again.
    """
    data_dir, image = _small_disk(folder)

    def mount(options: str = "loop,errors=remount-ro") -> None:
        _or_skip(["mount", "-o", options, str(image), str(data_dir)], "cannot mount a small disk")

    def unmounted() -> bool:
        done = subprocess.run(["umount", str(data_dir)], capture_output=True, check=False)
        return done.returncode == 0

    def unmount() -> None:
        wait_until(unmounted, what="whoever uses the disk to let it go")

    def spoil() -> None:
        found = subprocess.run(
            ["findmnt", "--noheadings", "--output", "SOURCE", str(data_dir)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        device = Path(found.stdout.strip()).name
        assert device.startswith("loop"), device
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def read_only() -> None:
        unmount()
        # 1: it found and mended what we had it stumble over.
        checked = subprocess.run(["e2fsck", "-p", str(image)], capture_output=True, check=False)
        assert checked.returncode in (0, 1), checked
        mount("loop,ro")

    def mend() -> None:
        unmount()
        mount()

    mount()
    try:
        if not any(Path("/sys/fs/ext4").glob("loop*/trigger_fs_error")):
            pytest.skip("this kernel cannot be told to find a fault in a file system")
        yield Disk(data_dir, spoil, mend, read_only=read_only)
    finally:
        subprocess.run(["umount", "-l", str(data_dir)], check=True)


def _or_skip(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"{what}: {error}")
    if done.returncode:
        pytest.skip(f"{what}: {done.stderr.strip()}")


@contextmanager
def preloaded(folder: Path, how: str) -> Iterator[Disk]:
    """The program's calls to the disk fail while a file says so."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build the failing disk with")
    library = folder / "bad_disk.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"]
    _or_skip(command, "cannot build the failing disk")
    data_dir, flag = folder / "up", folder / f"up.{how}"
    environment = {"LD_PRELOAD": str(library), "HOLDFAST_TEST_DISK": str(data_dir)}
    yield Disk(data_dir, flag.touch, flag.unlink, environment)


@dataclass
class Story:
    """What the program was asked while its disk was bad, and what it said."""

    stack: Stack
    kept: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def ask(self) -> int:
        """Submit a task; the status of the answer, which must be true."""
        id_ = f"0190aaaa-0000-7000-8000-{len(self.kept) + len(self.in_doubt):012d}"
        body = {"id": id_, "kind": "filler", "payload": {"text": FILLER}}
        answer = self.stack.door.client.post("/v1/tasks", json=body)
        if answer.is_success:
            self.kept.append(id_)
        else:
            self.in_doubt.append(id_)
            self.refused.append(_problem(answer))
        return answer.status_code

    def bad_times(self) -> None:
        """Ask until it has been refused and whoever looks is told."""
        for _ in range(TRIES):
            if self.ask() >= 500 and self.ready() != "ok":
                return
        raise AssertionError(f"never refused and told: {self.refused[-3:]}")

    def ready(self) -> str:
        """What ``/ready`` says; its status must say the same."""
        answer = self.stack.door.client.get("/ready")
        found = answer.json()
        assert (answer.status_code == 503) == (found["status"] == "unhealthy"), found
        return str(found["status"])

    def collect(self) -> list[str]:
        """Ask for every profile; those that were not promised."""
        refused = []
        for name in USED:
            answer = self.stack.door.client.post("/v1/tasks/collect", json={"profile": name})
            if not answer.is_success:
                self.refused.append(_problem(answer))
                refused.append(name)
        return refused

    def check_kept(self) -> None:
        """Everything acknowledged is there, and what is there is whole; then it is cancelled."""
        for id_ in (*self.kept, *self.in_doubt):
            answer = self.stack.door.client.get(f"/v1/tasks/{id_}")
            if answer.status_code == 404:
                assert id_ not in self.kept, f"acknowledged and lost: {id_}"
                continue
            assert answer.json()["payload"] == {"text": FILLER}
            cancelled = self.stack.door.client.post(f"/v1/tasks/{id_}/cancel", json={"reason": ""})
            assert cancelled.is_success, cancelled.text


def _problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.status_code >= 500, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["code"]
    assert problem["detail"]
    return answer.status_code, problem["code"]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[Path, Path, Path]]:
    """The recorded files, the profiles and the replay map."""
    files, profiles = tmp_path / "files", tmp_path / "profiles"
    files.mkdir()
    profiles.mkdir()
    for profile, name in USED.items():
        shutil.copy(str(SAMPLE.joinpath("profiles", f"{profile}.yaml")), profiles)
        shutil.copy(str(SAMPLE.joinpath("data", name)), files)
    shutil.copy(str(SAMPLE.joinpath("data", "MANIFEST.yaml")), files)
    with sources(tmp_path, files) as (_, replay):
        yield files, profiles, replay


def _changed(files: Path) -> None:
    """The sources say something new: every last digit of a measured value is another."""
    path = files / USED["nasa-global-temp-annual"]
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(row + "5" for row in rows)]) + "\n")


def _doctor(disk: Disk) -> list[Any]:
    """What ``holdfast doctor`` finds wrong."""
    done = run_command(
        "doctor", "--json", "--data-dir", str(disk.data_dir), environment=disk.environment
    )
    bad = [each for each in json.loads(done.stdout) if each["outcome"] == "fail"]
    assert bool(bad) == (done.returncode != 0), done
    return bad


def _made(how: str, folder: Path) -> AbstractContextManager[Disk]:
    made = {"full": full, "frozen": frozen}.get(how)
    return made(folder) if made else preloaded(folder, how)


def _refused_at_the_start(disk: Disk) -> None:
    """On a read-only disk nothing is started, and whoever tries is told why."""
    done = run_command("up", "--drones", "0", "--port", "0", "--data-dir", str(disk.data_dir))
    assert done.returncode == UNAVAILABLE, done
    assert f"cannot open the data directory {disk.data_dir}" in done.stderr
    assert "Read-only file system" in done.stderr
    (volume, *_) = [each for each in _doctor(disk) if each["check"] == "data volume"]
    assert "Read-only file system" in volume["detail"]


@pytest.mark.parametrize("how", ["full", "frozen", "readonly", "fsync"])
def test_a_bad_disk_is_said_to_be_bad_and_costs_nothing_once_it_is_well(
    how: str, tmp_path: Path, recorded: tuple[Path, Path, Path]
) -> None:
    files, profiles, replay = recorded
    with _made(how, tmp_path) as disk:
        stack = Stack(tmp_path, "up", replay, profiles, drones=1, environment=disk.environment)
        with running(stack):
            stack.collect_all()
            stack.settle()
            before = stack.records()
            story = Story(stack)
            assert {story.ask() for _ in range(ASKED_BEFORE)} == {201}
            _changed(files)
            disk.spoil()
            story.bad_times()
            assert stack.records() == before
            unpromised = story.collect()
            findings = _doctor(disk)
            assert story.ready() in ("unhealthy", "degraded", "ok")
            if disk.read_only is not None:
                stack.kill("up")
                disk.read_only()
                _refused_at_the_start(disk)
                disk.mend()
                stack.start()
            else:
                disk.mend()
            wait_until(lambda: story.ready() == "ok", what="the program to recover by itself")
            story.check_kept()
            if unpromised:
                stack.collect_all(unpromised)
            stack.settle()
            after = stack.records()
            assert _doctor(disk) == []
            stack.kill("up")
            stack.start()
            assert stack.records() == after
            runs = list(stack.door.items("/v1/runs"))
        assert _integrity(disk.data_dir) == "ok"
    print(f"\n{how}: {len(story.kept)} kept, refused {sorted(set(story.refused))}")
    print(*(f"  doctor: {each['check']}: {each['detail']}" for each in findings), sep="\n")
    assert story.refused
    assert findings, "doctor saw nothing"
    assert {row[:2] for row in after} == {row[:2] for row in before}
    changed = {row[0] for row in set(after) - set(before)}
    assert changed == {"nasa-global-temp-annual"}
    assert {run["status"] for run in runs} <= {"succeeded", "unchanged"}


def _integrity(data_dir: Path) -> str:
    connection = sqlite3.connect(data_dir / "state" / "holdfast.db")
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()
