"""Fleets: however many drones and coordinators there are, each piece of work is done once.

What a source was asked is counted by the recorded source itself.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import PostgresServer
from tests.support.program import run_command, wait_until
from tests.support.stack import SAMPLE, Stack, free_port, running, sources
from tests.support.wire import Trap, wire

pytestmark = pytest.mark.timeout(1200)

USED = (
    "bls-employment-monthly",
    "faa-birdstrikes",
    "nasa-global-temp-annual",
    "noaa-two-cities-weather-daily",
    "scripps-co2-monthly",
    "usgs-earthquakes-week",
)
CALM = {"HOLDFAST_FLEET_LEASE_SECONDS": "120", "HOLDFAST_FLEET_LOST_SECONDS": "120"}
"""Where nobody dies nobody is to be taken for dead, however busy the machine is."""
SHARED = CALM | {"HOLDFAST_FLEET_LEASES_URL": "sql://"}
LEASE_SECONDS = 8
TAKEN_OVER = {
    "HOLDFAST_FLEET_LEASE_SECONDS": str(LEASE_SECONDS),
    "HOLDFAST_FLEET_LOST_SECONDS": "60",
}
"""One is killed, and the other must not look dead meanwhile: longer than a disk stands still."""
IMPATIENT = {"HOLDFAST_FLEET_LEASE_SECONDS": "3", "HOLDFAST_FLEET_LOST_SECONDS": "4"}
LOOK_SECONDS = 1.0
"""How often a coordinator looks for leases that have ended, unless it is told otherwise."""
STANDSTILLS_SECONDS = 4 * 3.0
"""What a machine that has other things to do may add. It may stand still for three seconds each at
the renewal that was under way when the drone died, at the look, at its commit, and at the kill."""


@dataclass
class World:
    """The recorded sources and the profiles."""

    source: str
    replay: Path
    profiles: Path

    def forget(self) -> None:
        httpx.delete(f"{self.source}/__requests", trust_env=False)

    def fetches(self) -> Counter[str]:
        """How often each address was asked for since :meth:`forget`."""
        return Counter(httpx.get(f"{self.source}/__requests", trust_env=False).json()["paths"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("fleet")
    profiles = base / "profiles"
    profiles.mkdir()
    for name in USED:
        shutil.copy(str(SAMPLE.joinpath("profiles", f"{name}.yaml")), profiles)
    with sources(base) as (url, replay):
        yield World(url, replay, profiles)


def collected(world: World, stack: Stack) -> tuple[list[Any], Counter[str]]:
    """Collect everything once: what is published then, and what the sources were asked."""
    world.forget()
    stack.collect_all()
    stack.settle()
    return stack.records(), world.fetches()


def tasks(stack: Stack) -> list[Any]:
    return list(stack.door.items("/v1/tasks", limit=500))


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Counter[str]]:
    """What one drone collects, and what it asks."""
    folder = tmp_path_factory.mktemp("alone")
    one = Stack(folder, "up", world.replay, world.profiles, drones=1, environment=CALM)
    with running(one) as stack:
        found = collected(world, stack)
    assert set(found[1].values()) == {1}
    assert len(found[1]) == len(USED)
    return found


@pytest.mark.parametrize("drones", [2, 8])
def test_many_drones_collect_the_same_with_as_many_fetches(
    drones: int, world: World, alone: Any, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, "up", world.replay, world.profiles, drones=drones, environment=CALM)
    with running(stack):
        wait_until(lambda: _alive(stack) == drones, what="every drone to be there")
        assert collected(world, stack) == alone
        assert {task["attempts"] for task in tasks(stack)} == {1}


def _alive(stack: Stack) -> int:
    return sum(w["status"] == "alive" for w in stack.door.items("/v1/workers"))


def test_two_coordinators_on_one_database_do_no_work_twice(
    world: World, alone: Any, tmp_path: Path, postgres: PostgresServer
) -> None:
    """Two doors, a coordinator behind each, a drone at each; both are asked for the same runs."""
    postgres.execute("CREATE DATABASE fleet_two")
    stack = Stack(
        tmp_path,
        "split",
        world.replay,
        world.profiles,
        databases=lambda role: "" if role == "gateway" else postgres.dsn("fleet_two"),
        environment=SHARED,
        more=("coordinator-2", "gateway-2"),
    )
    stack.doors = {"drone-2": f"http://127.0.0.1:{stack.port('gateway-2')}"}
    with running(stack):
        world.forget()
        names, other = stack.names(), stack.running["gateway-2"].client
        answers: dict[str, Any] = {}

        def ask_the_other() -> None:
            for name in names:
                answer = other.post("/v1/tasks/collect", json={"profile": name})
                answers[name] = answer.json().get("id", answer.text)

        thread = threading.Thread(target=ask_the_other)
        thread.start()
        promised = stack.collect_all(names)
        thread.join(60)
        stack.settle()
        found = tasks(stack)
        fetched = world.fetches()
        records = stack.records()
    by_profile = Counter(task["payload"]["profile"] for task in found)
    # Whoever asked after a run had ended has a run of its own, which finds nothing new.
    again = {name for name in names if promised[name] != answers[name]}
    assert by_profile == {name: 1 + (name in again) for name in names}
    assert sum(fetched.values()) == len(names) + len(again)
    assert {task["attempts"] for task in found} == {1}
    assert records == alone[0]


def test_a_second_coordinator_is_refused_where_leases_are_not_shared(
    world: World, tmp_path: Path, postgres: PostgresServer
) -> None:
    postgres.execute("CREATE DATABASE fleet_second")
    stack = Stack(
        tmp_path,
        "split",
        world.replay,
        world.profiles,
        databases=lambda role: postgres.dsn("fleet_second"),
        drones=0,
    )
    try:
        stack.start_role("coordinator")
        refused = run_command(
            *("serve", "coordinator", "--data-dir", str(tmp_path / "second")),
            *("--port", str(free_port())),
            environment=stack.keyring(postgres.dsn("fleet_second"))
            | {
                "HOLDFAST_DATABASE_URL": postgres.dsn("fleet_second"),
                "HOLDFAST_KEYS_DIR": str(tmp_path / "coordinator" / "keys"),
                "HOLDFAST_SECRETS_DIR": str(tmp_path / "coordinator" / "secrets"),
            },
        )
        assert httpx.get(f"{stack.running['coordinator'].url}/ready").status_code == 200
    finally:
        stack.stop()
    assert refused.returncode not in (0, None)
    assert "the coordinator already runs" in refused.stderr
    assert "HOLDFAST_FLEET_LEASES_URL=sql://" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_killed_drones_run_is_taken_over_within_its_lease_and_nothing_doubles(
    world: World, alone: Any, tmp_path: Path
) -> None:
    with wire() as line:
        stack = Stack(tmp_path, "up", world.replay, world.profiles, environment=TAKEN_OVER)
        stack.doors = {name: line.way(name, stack.port("up")) for name in stack.drone_names}
        with running(stack):
            wait_until(lambda: _alive(stack) == 2, what="both drones to be there")
            kill = lambda: stack.process("drone-1").kill()  # noqa: E731
            trap = line.arm(Trap("commit", 1, "after", kill, sender="drone-1"))
            promised = stack.collect_all()
            trap.sprung.result(120)
            died = time.time()
            stack.kill("drone-1")
            stack.settle()
            assert stack.records() == alone[0]
            found = tasks(stack)
            attempts = {t["id"]: t["attempts"] for t in found}
            (again,) = [t["id"] for t in found if t["attempts"] == 2]
            (lost,) = stack.door.get(f"/v1/tasks/{again}")["history"]
            taken = datetime.fromisoformat(lost["ended_at"]).timestamp() - died
            runs = list(stack.door.items("/v1/runs"))
    print(f"\ntaken from the dead {taken:.1f} s after the kill, lease {LEASE_SECONDS} s")
    assert sorted(attempts) == sorted(promised.values())
    assert sorted(attempts.values()) == [1] * (len(USED) - 1) + [2]
    assert taken <= LEASE_SECONDS + LOOK_SECONDS + STANDSTILLS_SECONDS
    assert [run["status"] for run in runs] == ["succeeded"] * len(USED)


def test_a_drone_that_comes_back_late_is_refused(world: World, alone: Any, tmp_path: Path) -> None:
    """Stopped with a batch on its way; when that arrives, another has done the run."""
    release = threading.Event()
    with wire() as line:
        stack = Stack(tmp_path, "up", world.replay, world.profiles, environment=IMPATIENT)
        stack.doors = {name: line.way(name, stack.port("up")) for name in stack.drone_names}
        with running(stack):
            wait_until(lambda: _alive(stack) == 2, what="both drones to be there")
            sleeper = stack.process("drone-1")

            def stop() -> None:
                sleeper.send_signal(signal.SIGSTOP)

            trap = line.arm(Trap("commit", 1, "before", stop, sender="drone-1", hold=release))
            try:
                stack.collect_all()
                trap.sprung.result(120)
                stack.settle()
                before = stack.records()
                release.set()
                answer = trap.answer.result(30)
            finally:
                release.set()
                sleeper.send_signal(signal.SIGCONT)
            # The same process goes on working: it is given the next runs.
            stack.kill("drone-2")
            stack.collect_all()
            stack.settle()
            assert sleeper.poll() is None
            after = stack.records()
            runs = list(stack.door.items("/v1/runs"))
    head, _, body = answer.partition(b"\r\n\r\n")
    problem = json.loads(body)
    print(f"\nthe late batch: {head.splitlines()[0].decode()}, {problem['code']}")
    # By its fence; or, once its grant has run out by more than the clocks' leeway, by that already.
    refusals = {(b"409", "stale-fence"), (b"409", "run-not-open"), (b"401", "token-expired")}
    assert (head.split()[1], problem["code"]) in refusals
    assert before == alone[0]
    assert after == alone[0]
    assert {run["status"] for run in runs} == {"succeeded", "unchanged"}


def test_a_coordinator_that_starts_again_has_lost_no_task_and_no_worker(
    world: World, alone: Any, tmp_path: Path
) -> None:
    with wire() as line:
        stack = Stack(tmp_path, "split", world.replay, world.profiles)
        stack.doors = {name: line.way(name, stack.port("gateway")) for name in stack.drone_names}
        with running(stack):
            wait_until(lambda: _alive(stack) == 2, what="both drones to be there")
            pids = [stack.process(name).pid for name in stack.drone_names]
            workers = {w["id"]: w["name"] for w in stack.door.items("/v1/workers")}
            world.forget()
            submitted = threading.Event()

            def kill() -> None:
                # Not before everything is promised: a fast drone posts while we still submit.
                assert submitted.wait(120)
                stack.process("coordinator").kill()

            trap = line.arm(Trap("post", 1, "before", kill))
            promised = stack.collect_all()
            submitted.set()
            trap.sprung.result(120)
            stack.kill("coordinator")
            stack.start_role("coordinator")
            stack.settle()
            assert stack.records() == alone[0]
            found = {task["id"]: task for task in tasks(stack)}
            assert {w["id"]: w["name"] for w in stack.door.items("/v1/workers")} == workers
            assert [stack.process(name).pid for name in stack.drone_names] == pids
            assert all(stack.process(name).poll() is None for name in stack.drone_names)
    assert set(found) == set(promised.values())
    assert {task["status"] for task in found.values()} == {"succeeded"}
