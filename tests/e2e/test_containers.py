"""The image and the Compose files, run: one whole control plane with drones, as guide 1 starts it.

What stands here runs the scripts a newcomer runs, on real containers, and looks from outside.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.containers import ROOT, Podman, image, podman, run
from tests.support.program import HOLDFAST, clean_environment, wait_until
from tests.support.stack import free_port

pytestmark = pytest.mark.timeout(2400)

SAMPLE = resources.files("holdfast.sample")
PROFILE = "scripps-co2-monthly"
RECORDED = "scripps_co2_monthly.csv"
ROLES = ("identity", "registry", "aggregator", "coordinator", "reporter", "ledger", "gateway")
USER = 10001


@pytest.fixture(scope="module")
def engine() -> Podman:
    return podman()


@pytest.fixture(scope="module")
def holdfast_image(engine: Podman) -> str:
    return image(engine)


# --- the image -----------------------------------------------------------------------------------


def test_the_image_collects_the_sample_as_any_user_on_a_read_only_root_without_a_network(
    engine: Podman, holdfast_image: str
) -> None:
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    said = engine.run(
        *("run", "--rm", "--network=none", *hardened, "--user=54321", holdfast_image),
        *("up", "--sample", "--once"),
        timeout=900,
    )
    assert "22,258 records" in said.stdout
    assert "0.958682" in said.stdout


def test_the_image_runs_as_nobody_in_particular_and_can_write_only_its_data(
    engine: Podman, holdfast_image: str
) -> None:
    found = json.loads(engine.run("image", "inspect", holdfast_image).stdout)[0]
    assert found["Config"]["User"] == f"{USER}:0"
    assert found["Healthcheck"]["Test"] == ["CMD", "holdfast", "health"]
    assert list(found["Config"]["Volumes"]) == ["/var/lib/holdfast"]
    script = "for p in / /opt/holdfast /etc; do test -w $p && echo $p; done; id -u; id -g"
    said = engine.run(
        *("run", "--rm", "--network=none", "--entrypoint=sh", holdfast_image, "-c", script)
    ).stdout
    assert said.split() == [str(USER), "0"]


def test_the_image_opens_no_door_beyond_loopback_by_itself(
    engine: Podman, holdfast_image: str
) -> None:
    said = engine.run(
        *("run", "--rm", "--network=none", holdfast_image, "up", "--host", "0.0.0.0"), check=False
    )
    assert said.returncode != 0
    assert "HOLDFAST_GATEWAY_TERMINATOR" in said.stderr


# --- the scripts where there is nothing -----------------------------------------------------------


def test_scripts_say_so_where_there_is_no_compose(tmp_path: Path) -> None:
    _project(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "id"):
        (tools / name).symlink_to(shutil.which(name) or name)
    for script in ("control-plane-up.sh", "control-plane-doctor.sh", "drone-up.sh"):
        done = run([tmp_path / "scripts" / script], {"PATH": str(tools)}, check=False)
        assert done.returncode == 6
        assert "neither docker compose nor podman-compose" in done.stderr


# --- the whole stack -----------------------------------------------------------------------------


@dataclass
class Stack:
    """A copy of what a checkout needs to run containers, with a name and a port of its own."""

    folder: Path
    engine: Podman
    environment: dict[str, str]
    project: str
    port: int

    def script(self, name: str, *arguments: str, check: bool = True) -> Any:
        return run(
            [self.folder / "scripts" / name, *arguments],
            self.environment,
            check=check,
            timeout=900,
        )

    def holdfast(self, *arguments: str) -> str:
        """A command inside the gateway's container."""
        inside = ("exec", "-T", "gateway", "holdfast")
        said: str = self.script("control-plane-up.sh", *inside, *arguments).stdout
        return said

    def container(self, service: str) -> dict[str, Any]:
        project = f"{self.project}-drone" if service == "drone" else self.project
        return self.engine.inspect(f"{project}_{service}_1")

    def get(self, path: str, **params: Any) -> Any:
        """The decoded answer at the published port, as the operator."""
        token = (self.folder / "data/control-plane/gateway/operator.token").read_text().strip()
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}{path}",
            params=params,
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def drones_alive(self) -> list[str]:
        found = self.get("/v1/workers")["items"]
        return sorted(worker["id"] for worker in found if worker["status"] == "alive")

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/records", profile=PROFILE, limit=1000)["items"]
        return found

    def healthy(self) -> bool:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{self.port}/health", timeout=5, trust_env=False
            ).json()
        except (httpx.HTTPError, ValueError):
            return False
        return bool(answer["status"] == "ok")

    def tear_down(self) -> list[str]:
        """Remove what was started; what is left of it, which should be nothing."""
        self.script("drone-up.sh", "down", check=False)
        self.script("control-plane-up.sh", "down", check=False)
        names = [f"{self.project}_{role}_1" for role in ROLES]
        self.engine.run("rm", "-f", "-t", "0", "-i", *names, f"{self.project}-drone_drone_1")
        listed = self.engine.run("ps", "-a", "--format", "{{.Names}}").stdout
        listed += self.engine.run("network", "ls", "--format", "{{.Name}}").stdout
        return [name for name in listed.split() if name.startswith(self.project)]


def _project(folder: Path) -> None:
    """What of the repository the scripts use."""
    for name in ("docker-compose.control.yml", "docker-compose.drone.yml"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    profiles = folder / "profiles" / "government"
    profiles.mkdir(parents=True)
    (profiles / f"{PROFILE}.yaml").write_bytes(
        SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").read_bytes()
    )


@pytest.fixture
def stack(engine: Podman, holdfast_image: str, tmp_path: Path) -> Iterator[Stack]:
    _project(tmp_path)
    project, port = f"hf{secrets.token_hex(4)}", free_port()
    environment = engine.environment | {
        "COMPOSE": "podman-compose",
        "COMPOSE_PROJECT_NAME": project,
        "HOLDFAST_IMAGE": holdfast_image,
        "HOLDFAST_PORT": str(port),
        "WAIT_SECONDS": "900",
    }
    made = Stack(tmp_path, engine, environment, project, port)
    try:
        yield made
    finally:
        left = made.tear_down()
    assert not left


@contextlib.contextmanager
def recorded_sources(folder: Path) -> Iterator[dict[str, str]]:
    """The recorded sources on this host's loopback; the map that leads there."""
    replay = folder / "replay.json"
    arguments = ["fixture", "serve", str(SAMPLE.joinpath("data")), "--replay-map", str(replay)]
    process = subprocess.Popen(
        [*HOLDFAST, *arguments],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield wait_until(lambda: _json(replay), what="the replay map")
    finally:
        process.terminate()
        process.wait(30)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def test_compose_runs_a_control_plane_and_drones_that_collect_and_keep(
    stack: Stack, tmp_path: Path
) -> None:
    ready = stack.script("control-plane-doctor.sh")
    assert "not started yet" in ready.stderr

    stack.script("control-plane-up.sh")
    health = httpx.get(f"http://127.0.0.1:{stack.port}/health", trust_env=False).json()
    assert health["services"] == dict.fromkeys(ROLES, "ok")
    lonely = stack.script("control-plane-doctor.sh", check=False)
    assert lonely.returncode == 1
    assert "no drone beats" in lonely.stdout
    _check_confinement(stack)
    _check_published(stack)

    with recorded_sources(tmp_path) as replay:
        _start_drones(stack, replay)
        _check_collected(stack)
        _check_restarts(stack)
    _check_down(stack)


def _check_confinement(stack: Stack) -> None:
    """Nobody in particular, no capability, a root file system that cannot be written."""
    for role in ROLES:
        found = stack.container(role)
        assert found["HostConfig"]["ReadonlyRootfs"]
        process = psutil.Process(found["State"]["Pid"])
        assert process.uids().effective == USER
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert f"CapBnd:\t{0:016x}" in status
        probe = ("exec", found["Name"], "sh", "-c", "touch /x || touch /opt/holdfast/x")
        assert stack.engine.run(*probe, check=False).returncode != 0
        assert stack.engine.run("healthcheck", "run", found["Name"]).stdout.strip() == ""


def _check_published(stack: Stack) -> None:
    """One port of one container, on loopback alone; and so says the kernel."""
    bindings = {role: stack.container(role)["HostConfig"]["PortBindings"] or {} for role in ROLES}
    wanted = {"HostIp": "127.0.0.1", "HostPort": str(stack.port)}
    assert bindings.pop("gateway") == {"8090/tcp": [wanted]}
    assert not any(bindings.values())
    addresses = {
        address.address
        for listed in psutil.net_if_addrs().values()
        for address in listed
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    }
    assert addresses, "without another address this shows nothing"
    for address in addresses:
        with pytest.raises(OSError), socket.create_connection((address, stack.port), timeout=2):
            pass


def _start_drones(stack: Stack, replay: dict[str, str]) -> None:
    drone = stack.folder / "data" / "drone"
    drone.mkdir(parents=True)
    # Settings and the map are the operator's files in the drones' data directory.
    (drone / "replay.json").write_text(json.dumps({"only": True, "map": replay}))
    (drone / "holdfast.toml").write_text(
        '[collect]\nreplay_file = "/var/lib/holdfast/replay.json"\n'
    )
    stack.script(
        *("drone-up.sh", "--control-plane", f"http://localhost:{stack.port}", "--count", "2")
    )
    wait_until(lambda: len(stack.drones_alive()) == 2, what="two drones")


def _check_collected(stack: Stack) -> None:
    said = stack.holdfast("profile", "run", PROFILE, "--wait")
    assert "succeeded" in said
    with resources.as_file(SAMPLE.joinpath("data", RECORDED)) as path, path.open() as file:
        source = {row["Date"][:7]: row["CO2"] for row in csv.DictReader(file)}
    found = {
        record["period"]["start"][:7]: record["measures"]["co2"]["value"]
        for record in stack.records()
    }
    assert found == source
    passed = stack.script("control-plane-doctor.sh", "--json")
    findings = json.loads(passed.stdout)
    assert {finding["outcome"] for finding in findings} == {"pass"}
    assert {finding["check"] for finding in findings} >= {
        *("data volume", "gateway", "registry", "drones", "results")
    }


def _check_restarts(stack: Stack) -> None:
    """A killed role comes back by itself; a stack that was taken away comes back as it was."""
    before, drones = stack.records(), stack.drones_alive()
    aggregator = stack.container("aggregator")["State"]["Pid"]
    os.kill(aggregator, signal.SIGKILL)
    wait_until(
        lambda: stack.container("aggregator")["State"]["Pid"] not in (0, aggregator),
        what="the aggregator to be started again",
    )
    wait_until(stack.healthy, what="health after a kill")

    stack.script("control-plane-up.sh", "stop")
    assert {role: stack.container(role)["State"]["ExitCode"] for role in ROLES} == dict.fromkeys(
        ROLES, 0
    )
    down = stack.script("control-plane-doctor.sh", check=False)
    assert down.returncode == 1
    assert "its container does not run" in down.stderr
    stack.script("control-plane-up.sh", "down")
    stack.script("control-plane-up.sh")

    assert stack.records() == before
    # The same drones, by the credentials they kept; and they work.
    wait_until(lambda: stack.drones_alive() == drones, what="the drones to return")
    said = stack.holdfast("profile", "run", PROFILE, "--wait")
    assert "unchanged" in said
    assert stack.records() == before


def _check_down(stack: Stack) -> None:
    assert stack.tear_down() == []
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", stack.port), timeout=2):
        pass
    kept = stack.folder / "data" / "control-plane"
    assert {path.name for path in kept.iterdir()} == {*ROLES, "trusted"}
    # Public keys are shared, private ones are not.
    assert {path.name for path in (kept / "trusted").iterdir()} == {
        f"{role}.pub.jwk" for role in ROLES
    }
    for role in ROLES:
        # The ledger has the key that signs its checkpoints besides.
        own = {f"{role}.key.jwk"} | ({"ledger-default-1.key.jwk"} if role == "ledger" else set())
        assert {path.name for path in (kept / role / "keys").glob("*.key.jwk")} == own
