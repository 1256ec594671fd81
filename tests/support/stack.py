"""A whole stack collecting the sample: in one process or a process per role, on either database.

What a hangman needs: parts with names that can be killed with -9 and started again as they were.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from tests.support.program import (
    HOLDFAST,
    STOP_SECONDS,
    Program,
    clean_environment,
    start,
    wait_until,
)

Layout = Literal["up", "split"]
ROLES = ("registry", "aggregator", "coordinator", "reporter", "gateway")
SAMPLE = resources.files("holdfast.sample")

LEASE_SECONDS = 3
QUICK = {
    "HOLDFAST_FLEET_LEASE_SECONDS": str(LEASE_SECONDS),
    "HOLDFAST_FLEET_BEAT_SECONDS": "0.5",
    "HOLDFAST_FLEET_LOST_SECONDS": "4",
    "HOLDFAST_FLEET_BACKOFF_SECONDS": "0.2",
    "HOLDFAST_LOG_LEVEL": "warning",
}
"""Short leases, so that what is killed is taken over within a test's patience."""


@contextmanager
def sources(directory: Path, files: Path | None = None, *faults: str) -> Iterator[tuple[str, Path]]:
    """The recorded sources in a process of their own: their address, and the replay map."""
    replay = directory / "replay.json"
    arguments = ["fixture", "serve", str(files or SAMPLE.joinpath("data"))]
    for fault in faults:
        arguments += ["--fault", fault]
    process = subprocess.Popen(
        [*HOLDFAST, *arguments, "--replay-map", str(replay), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield said["url"], replay
    finally:
        process.terminate()
        process.wait(timeout=STOP_SECONDS)
        process.stdout.close()  # type: ignore[union-attr]


def free_port() -> int:
    """A port that was free a moment ago; roles must find each other again after a restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Stack:
    """A stack of programs; ``parts`` are what can be killed."""

    directory: Path
    layout: Layout
    replay: Path
    profiles: Path
    databases: Callable[[str], str] = lambda role: ""
    drones: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, Program] = field(default_factory=dict)
    drone_processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def door(self) -> Program:
        """The program that answers the public."""
        return self.running["up" if self.layout == "up" else "gateway"]

    @property
    def parts(self) -> list[str]:
        """The names of what runs now."""
        return [*self.running, *self.drone_processes]

    def start(self) -> None:
        """Start everything that does not run."""
        for role in ("up",) if self.layout == "up" else ROLES:
            if role not in self.running:
                self.start_role(role)
        if self.layout == "split":
            self._start_drones()

    def start_role(self, role: str) -> None:
        """Start one program as it was before: same data, same address."""
        environment = self._common() | dict(self.environment)
        if url := self.databases(role):
            environment["HOLDFAST_DATABASE_URL"] = url
        port = self._ports.setdefault(role, free_port())
        if role == "up":
            arguments = ["up", "--drones", str(self.drones), "--port", str(port)]
        else:
            arguments = ["serve", role, "--port", str(port)]
        self.running[role] = start(
            arguments, self.directory / role, environment=environment, ready="/health"
        )

    def kill(self, part: str) -> None:
        """kill -9, and nothing of it is left."""
        if part in self.running:
            self.running.pop(part).kill()
            return
        process = self.drone_processes.pop(part)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive

    def stop(self) -> None:
        """Stop everything, kindly and then not."""
        with ExitStack() as stack:
            for process in self.drone_processes.values():
                stack.callback(_end, process)
                process.send_signal(signal.SIGTERM)
            for role in reversed(list(self.running)):
                program = self.running[role]
                stack.callback(program.close)
                stack.callback(_end, program.process)
                program.process.send_signal(signal.SIGTERM)

    def collect_all(self) -> list[str]:
        """Ask for a run of every profile; their names."""
        names = [path.stem for path in sorted(self.profiles.glob("*.yaml"))]
        wait_until(
            lambda: len(list(self.door.items("/v1/profiles"))) >= len(names), what="profiles"
        )
        for name in names:
            answer = self.door.client.post("/v1/tasks/collect", json={"profile": name})
            assert answer.status_code < 300, answer.text
        return names

    def unfinished(self) -> list[Any]:
        """The tasks that are neither succeeded, dead nor cancelled."""
        return [
            task
            for task in self.door.items("/v1/tasks")
            if task["status"] not in ("succeeded", "dead", "cancelled")
        ]

    def settle(self, seconds: float = 90.0) -> None:
        """Wait until no task is unfinished and no run is open."""

        def settled() -> bool:
            try:
                if self.unfinished():
                    return False
                runs = self.door.items("/v1/runs")
                return all(run["status"] not in ("running", "interrupted") for run in runs)
            except (httpx.HTTPError, AssertionError):
                return False

        wait_until(settled, seconds, what="every run to end")

    def records(self) -> list[tuple[str, str, str]]:
        """Everything published: (profile, key, content), sorted; ids and times left out."""
        found = []
        for path in self.profiles.glob("*.yaml"):
            for row in self.door.items("/v1/records", profile=path.stem, limit=1000):
                content = {
                    name: row[name] for name in ("dimensions", "measures", "attributes", "period")
                }
                found.append(
                    (path.stem, json.dumps(row["key"]), json.dumps(content, sort_keys=True))
                )
        return sorted(found)

    def _common(self) -> dict[str, str]:
        environment = QUICK | {
            "HOLDFAST_COLLECT_REPLAY_FILE": str(self.replay),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(self.profiles),
        }
        if self.layout == "split":
            environment["HOLDFAST_TRUST_DIR"] = str(self.directory / "trusted")
            for role in ROLES[:-1]:
                port = self._ports.setdefault(role, free_port())
                environment[f"{role.upper()}_URL"] = f"http://127.0.0.1:{port}"
        return environment

    def _start_drones(self) -> None:
        token = self.directory / "join-token"
        if not token.exists():
            answer = self.door.client.post("/v1/workers/tokens", json={})
            assert answer.status_code < 300, answer.text
            token.write_text(answer.json()["token"])
            token.chmod(0o600)
        for number in range(1, self.drones + 1):
            name = f"drone-{number}"
            process = self.drone_processes.get(name)
            if process is None or process.poll() is not None:
                self.drone_processes[name] = self._start_drone(name, token)

    def _start_drone(self, name: str, token: Path) -> subprocess.Popen[bytes]:
        environment = self._common() | {
            "HOLDFAST_DRONE_ID": name,
            "HOLDFAST_DRONE_JOIN_TOKEN_FILE": str(token),
            "HOLDFAST_DRONE_CONTROL_PLANE": self.door.url,
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*HOLDFAST, "drone", "--data-dir", str(self.directory / name)],
                env=clean_environment(environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """The stack, started, and stopped at the end; its logs are shown when a test fails."""
    stack.start()
    try:
        yield stack
    except BaseException:
        for log in sorted(stack.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {log.name}", *lines, sep="\n")
        raise
    finally:
        stack.stop()


def pause(seconds: float) -> None:
    """Let a seeded moment pass: the thing under test is *when* the kill comes."""
    select.select([], [], [], seconds)


def scale() -> int:
    """How many times longer a soak is than its seeded sample."""
    return int(os.environ.get("HOLDFAST_SOAK_SCALE", "1"))
