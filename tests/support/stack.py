"""A whole stack collecting the sample: in one process or a process per role, on either database.

What a hangman needs: parts with names that can be killed with -9 and started again as they were.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from holdfast.kernel.errors import Invalid
from holdfast.keyring.master import MasterKeys
from tests.support.hygiene import GUARD
from tests.support.pki import Pki
from tests.support.program import (
    HOLDFAST,
    STOP_SECONDS,
    Program,
    clean_environment,
    start,
    wait_until,
)

Layout = Literal["up", "split"]
Revision = tuple[int, int, bool, str]
"""Publication, number, withdrawn, content."""
Publication = tuple[int, int, int, int, int, int]
"""Its number; then records, new, changed, withdrawn and unchanged ones."""
ROLES = ("identity", "registry", "aggregator", "coordinator", "reporter", "ledger", "gateway")
SAMPLE = resources.files("holdfast.sample")

PORT_MIN = 10_000
PORT_TRIES = 100
QUICK = {
    "HOLDFAST_FLEET_LEASE_SECONDS": "10",
    "HOLDFAST_FLEET_BEAT_SECONDS": "0.5",
    "HOLDFAST_FLEET_LOST_SECONDS": "12",
    "HOLDFAST_FLEET_BACKOFF_SECONDS": "0.2",
    "HOLDFAST_LOG_LEVEL": "warning",
}
"""What is killed is taken over within a test's patience, and nobody is taken for dead because the
machine stood still for seconds. What is about the taking over has shorter leases of its own."""


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
    """A port that is free and stays so while nothing listens there: roles are started again.

    It is none of those that the kernel hands out for outgoing connections, or one of those might
    have it between two starts; nor one that was given before, here or by another process of these
    tests that is still there.
    """
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(PORT_TRIES):
        port = PORT_MIN + secrets.randbelow(below - PORT_MIN)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if _taken(port):
                return port
    raise AssertionError(f"no free port between {PORT_MIN} and {below}")


_given: set[int] = set()


@cache
def _ports() -> int:
    """A file of which whoever was given a port holds the byte of that number, to its end."""
    name = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}.ports"
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(port: int) -> bool:
    """Whether the port is ours now; ``OSError`` if another process has it."""
    if port in _given:
        return False
    fcntl.lockf(_ports(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    _given.add(port)
    return True


@dataclass
class Stack:
    """A stack of programs; ``parts`` are what can be killed.

    ``doors`` leads drones to the door by another way than straight: a drone's name → its address.
    ``more`` names further instances (``coordinator-2``): of the same role, keys and database, with
    a data directory and an address of their own. A second gateway leads to a second coordinator.
    With ``pki`` every role serves TLS and asks every caller for a certificate. ``roles`` are those
    that run apart; a test that needs few starts no others.
    """

    directory: Path
    layout: Layout
    replay: Path
    profiles: Path
    databases: Callable[[str], str] = lambda role: ""
    drones: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    doors: Mapping[str, str] = field(default_factory=dict)
    more: Sequence[str] = ()
    pki: Pki | None = None
    roles: Sequence[str] = ROLES
    running: dict[str, Program] = field(default_factory=dict)
    drone_processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def door_name(self) -> str:
        """The part that answers the public."""
        return "up" if self.layout == "up" else "gateway"

    @property
    def door(self) -> Program:
        """The program that answers the public."""
        return self.running[self.door_name]

    @property
    def served(self) -> tuple[str, ...]:
        """The names of the programs that answer somebody."""
        return ("up",) if self.layout == "up" else (*self.roles, *self.more)

    @property
    def drone_names(self) -> list[str]:
        """The names of the drones."""
        return [f"drone-{number}" for number in range(1, self.drones + 1)]

    def process(self, part: str) -> subprocess.Popen[bytes]:
        """The process of a part that runs."""
        found = self.running.get(part)
        return found.process if found is not None else self.drone_processes[part]

    def port(self, part: str) -> int:
        """Where that program answers, now and after every restart."""
        return self._ports.setdefault(part, free_port())

    def start(self) -> None:
        """Start everything that does not run."""
        for part in self.served:
            self.port(part)
        # A further instance finds the keys of the first.
        for parts in (set(self.served) - set(self.more), set(self.more)):
            missing = sorted(parts - set(self.running))
            with ThreadPoolExecutor(max(1, len(missing))) as pool:
                list(pool.map(self.start_role, missing))
        self.start_drones()

    def start_role(self, part: str) -> None:
        """Start one program as it was before: same data, same address."""
        role = part.partition("-")[0]
        environment = self._common() | self._shared(part) | dict(self.environment)
        if self.pki:
            environment |= self.pki.serving(role)
        if url := self.databases(role):
            environment["HOLDFAST_DATABASE_URL"] = url
            shared = [self.databases(each) for each in self.roles].count(url) > 1
            if self.layout == "split" and shared:
                environment = self.keyring(url) | environment
        port = str(self.port(part))
        if role == "up":
            arguments = ["up", "--drones", "0", "--port", port]
        else:
            arguments = ["serve", role, "--port", port]
        self.running[part] = start(
            arguments,
            self.directory / part,
            environment=environment,
            ready="/health",
            verify=self.pki.context("operator") if self.pki else True,
        )

    def kill(self, part: str) -> None:
        """kill -9, if that has not happened yet, and wait until it is gone."""
        program = self.running.pop(part, None)
        process = program.process if program is not None else self.drone_processes.pop(part)
        process.kill()
        process.wait(timeout=STOP_SECONDS)
        if program is not None:
            program.close()

    def orphans(self) -> list[str]:
        """Processes that work on this stack's data and belong to nobody any more."""
        known = {self.process(part).pid for part in self.parts}
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "environ"]):
            words = [*(process.info["cmdline"] or ()), *(process.info["environ"] or {}).values()]
            ours = any(str(self.directory) in word for word in words)
            if not ours or process.pid == os.getpid() or process.pid in known:
                continue
            with suppress(psutil.NoSuchProcess):
                if not known & {parent.pid for parent in process.parents()}:
                    found.append(f"{process.pid}: {' '.join(process.info['cmdline'] or ())}")
        return found

    @property
    def parts(self) -> list[str]:
        """The names of what runs now."""
        return [*self.running, *self.drone_processes]

    def stop(self) -> None:
        """Stop everything, kindly and then not."""
        for program in self.running.values():
            GUARD.parting(program)
        with ExitStack() as stack:
            for process in self.drone_processes.values():
                stack.callback(_end, process)
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)
            for role in reversed(list(self.running)):
                program = self.running[role]
                stack.callback(program.close)
                stack.callback(_end, program.process)
                program.process.send_signal(signal.SIGTERM)

    def names(self) -> list[str]:
        """The profiles there are, once the registry has read its folder."""
        names = [path.stem for path in sorted(self.profiles.glob("*.yaml"))]
        wait_until(
            lambda: len(list(self.door.items("/v1/profiles"))) >= len(names), what="profiles"
        )
        return names

    def collect_all(self, names: Sequence[str] = ()) -> dict[str, str]:
        """Ask for a run of every profile (or of these); profile → the task that was promised."""
        promised = {}
        for name in names or self.names():
            promised[name] = str(wait_until(partial(self._promise, name), what=f"a run of {name}"))
        return promised

    def _promise(self, profile: str) -> str:
        """The task; nothing where a role that was killed lately cannot be asked yet."""
        answer = self.door.client.post("/v1/tasks/collect", json={"profile": profile})
        if answer.status_code == 503:
            return ""
        assert answer.status_code < 300, answer.text
        return str(answer.json()["id"])

    def unfinished(self) -> list[Any]:
        """The tasks that are neither succeeded, dead nor cancelled."""
        return [
            task
            for task in self.door.items("/v1/tasks")
            if task["status"] not in ("succeeded", "dead", "cancelled")
        ]

    def settle(self, seconds: float = 240.0) -> None:
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
                found.append((path.stem, json.dumps(row["key"]), _content(row)))
        return sorted(found)

    def histories(self) -> dict[tuple[str, str], list[Revision]]:
        """What was ever published under each (profile, key), withdrawn or not, in its order.

        A record that was never changed tells all in the list; the others are asked one by one.
        """
        found: dict[tuple[str, str], list[Revision]] = {}
        for path in self.profiles.glob("*.yaml"):
            listed = self.door.items("/v1/records", profile=path.stem, withdrawn="true", limit=1000)
            for row in listed:
                revisions = [row]
                if row["revision"] > 1:
                    revisions = self.door.get(f"/v1/records/{row['id']}")["revisions"]
                key = (path.stem, json.dumps(row["key"]))
                assert key not in found, f"listed twice: {key}"
                found[key] = [
                    (each["publication"], each["revision"], each["withdrawn"], _content(each))
                    for each in revisions
                ]
        return found

    def publications(self) -> dict[str, list[Publication]]:
        """What each profile's publications brought, by the runs that made them, in their order."""
        found: dict[str, list[Publication]] = {path.stem: [] for path in self.profiles.glob("*")}
        for run in self.door.items("/v1/runs", limit=500):
            brought = tuple(run[name] for name in ("new", "changed", "withdrawn"))
            if run["published_at"] and any(brought):
                counts = (run["publication"], run["records"], *brought, run["unchanged"])
                found[run["profile"]].append(counts)
        return {profile: sorted(made) for profile, made in found.items()}

    def _common(self) -> dict[str, str]:
        environment = QUICK | {
            "HOLDFAST_COLLECT_REPLAY_FILE": str(self.replay),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(self.profiles),
        }
        if self.layout == "split":
            environment["HOLDFAST_TRUST_DIR"] = str(self.directory / "trusted")
            for role in ROLES[:-1]:
                # By the guide's names, where it has one for the role.
                ours = "HOLDFAST_" if role in ("identity", "ledger") else ""
                environment[f"{ours}{role.upper()}_URL"] = (
                    f"{self._scheme}://127.0.0.1:{self.port(role)}"
                )
        return environment

    @property
    def _scheme(self) -> str:
        return "https" if self.pki else "http"

    def keyring(self, url: str) -> dict[str, str]:
        """The keyring of roles that share a database."""
        master = self.directory / "master.key"
        if not master.exists():
            with suppress(Invalid):  # one that starts at the same time was quicker
                MasterKeys.create(master)
        return {
            "HOLDFAST_KEYRING_URL": url,
            "HOLDFAST_KEYRING_MASTER_KEY_FILE": str(master),
        }

    def _shared(self, part: str) -> dict[str, str]:
        """What a further instance has in common with the first of its role."""
        role, _, number = part.partition("-")
        if not number:
            return {}
        first = self.directory / role
        environment = {
            "HOLDFAST_KEYS_DIR": str(first / "keys"),
            "HOLDFAST_SECRETS_DIR": str(first / "secrets"),
        }
        if role == "gateway":
            second = self.port(f"coordinator-{number}")
            environment["COORDINATOR_URL"] = f"{self._scheme}://127.0.0.1:{second}"
        return environment

    def start_drones(self) -> None:
        """Start the drones that do not run."""
        token = self.directory / "join-token"
        if not token.exists() and self.drones:
            answer = self.door.client.post("/v1/workers/tokens", json={})
            assert answer.status_code < 300, answer.text
            token.write_text(answer.json()["token"])
            token.chmod(0o600)
        for name in self.drone_names:
            process = self.drone_processes.get(name)
            if process is None or process.poll() is not None:
                self.drone_processes[name] = self._start_drone(name, token)

    def _start_drone(self, name: str, token: Path) -> subprocess.Popen[bytes]:
        environment = (
            self._common()
            | dict(self.environment)
            | {
                "HOLDFAST_DRONE_ID": name,
                "HOLDFAST_DRONE_JOIN_TOKEN_FILE": str(token),
                "HOLDFAST_DRONE_CONTROL_PLANE": self.doors.get(name, self.door.url),
            }
        )
        if self.pki:
            environment |= self.pki.calling("{name}")
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*HOLDFAST, "drone", "--data-dir", str(self.directory / name)],
                env=clean_environment(environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )


def _content(row: Mapping[str, Any]) -> str:
    names = ("dimensions", "measures", "attributes", "period")
    return json.dumps({name: row[name] for name in names}, sort_keys=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """The stack, started, and stopped at the end; its logs are shown when a test fails."""
    try:
        stack.start()
        yield stack
    except BaseException:
        for log in sorted(stack.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {log.name}", *lines, sep="\n")
        raise
    finally:
        stack.stop()
