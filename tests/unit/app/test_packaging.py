"""What is handed to others to run: the Dockerfile, the Compose files, the scripts, as texts.

That they run is shown by tests/e2e/test_containers.py; here is what can be read off them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast import __version__
from holdfast.app.settings import ALIASES, DEFAULT_PORTS, ROLES, resolve
from holdfast.kernel.database.opening import POSTGRESQL_NEEDS

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ("docker-compose.control.yml", "docker-compose.drone.yml")
SHELL = ("control-plane-doctor.sh", "control-plane-up.sh", "drone-up.sh")
POWERSHELL = (
    "control-plane-doctor.ps1",
    "control-plane-up.ps1",
    "deploy-control.ps1",
    "drone-up.ps1",
    "start-drone.ps1",
)
PACKAGING = (
    "Dockerfile",
    ".dockerignore",
    *COMPOSE,
    *(f"scripts/{name}" for name in (*SHELL, *POWERSHELL, "lib.sh", "lock")),
)
CONTAINER_DATA = "/var/lib/holdfast"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text(name))
    return loaded


def services() -> dict[str, dict[str, Any]]:
    return {
        name: service for file in COMPOSE for name, service in compose(file)["services"].items()
    }


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / name
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def default(interpolated: str) -> str:
    """A value with each ``${NAME:-default}`` at its default."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", interpolated)


# --- what the guide names ------------------------------------------------------------------------


def test_every_file_that_the_guide_names_is_there() -> None:
    for name in (*COMPOSE, *(f"scripts/{script}" for script in (*SHELL, *POWERSHELL))):
        assert (ROOT / name).is_file(), name
    assert list((ROOT / "profiles" / "government").glob("*.yaml"))


def test_the_guides_folders_are_mounted() -> None:
    mounted = [volume for service in services().values() for volume in service["volumes"]]
    assert any(volume.startswith("./profiles:/app/profiles") for volume in mounted)
    assert any(volume.startswith("./data/control-plane/aggregator:") for volume in mounted)
    registry = services()["registry"]["environment"]
    assert registry["PROFILES_DIR"] == ALIASES["PROFILES_DIR"][1].guide_default


# --- other people's judges -----------------------------------------------------------------------


def test_compose_files_are_valid() -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_judge_of_compose_files_can_say_no(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text(text(COMPOSE[1]).replace("    image:", "    imgae:"))
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong))
    assert done.returncode == 1


def test_the_dockerfile_has_nothing_to_complain_about() -> None:
    done = tool("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [*SHELL, "lib.sh", "lock"])
def test_shell_scripts_parse_stop_at_errors_and_can_be_run(name: str) -> None:
    path = ROOT / "scripts" / name
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    script = path.read_text()
    assert "set -euo pipefail" in script or 'source "$(dirname "$0")/lib.sh"' in script
    if name != "lib.sh":
        assert os.access(path, os.X_OK)
        assert script.startswith("#!/usr/bin/env bash\n")


class Scripts:
    """A copy of the scripts whose Compose and podman only say what they were asked."""

    def __init__(self, folder: Path, *, has_image: bool) -> None:
        self._folder, self._log = folder, folder / "log"
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        for name in COMPOSE:
            shutil.copy(ROOT / name, folder)
        self._tool("podman", f"exit {int(not has_image)}")
        self._tool("podman-compose", 'echo "said $CONTROL_PLANE $DRONE_COUNT"')

    def _tool(self, name: str, then: str) -> None:
        path = self._folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{self._log}"\n{then}\n')
        path.chmod(0o755)

    def __call__(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self._folder}:{os.environ['PATH']}"
        return subprocess.run(
            [self._folder / "scripts" / name, *arguments],
            env={"PATH": path, "COMPOSE": "podman-compose"},
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self) -> list[str]:
        return self._log.read_text().splitlines()


def test_drone_up_takes_the_guides_options_and_refuses_others(tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, has_image=True)
    done = scripts("drone-up.sh", "--control-plane", "https://example.org", "--count", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["said", "https://example.org", "3"]
    control = "podman-compose -p holdfast -f docker-compose.control.yml"
    drones = "podman-compose -p holdfast-drone -f docker-compose.drone.yml"
    assert scripts.asked() == [
        f"{control} exec -T gateway holdfast version",
        f"{control} exec -T gateway holdfast worker token",
        f"podman image inspect localhost/holdfast:{__version__}",
        f"{drones} up -d",
    ]
    token = tmp_path / "data" / "drone" / "join-token"
    assert token.stat().st_mode & 0o777 == 0o640

    assert scripts("drone-up.sh", "--help").stdout.startswith("usage: scripts/drone-up.sh")
    refused = scripts("drone-up.sh", "--cuont", "2")
    assert refused.returncode == 2
    assert "unknown option --cuont" in refused.stderr
    assert scripts("drone-up.sh", "--count").returncode != 0
    scripts("drone-up.sh", "logs", "-f")
    assert scripts.asked()[-1] == f"{drones} logs -f"


def test_drone_up_builds_the_image_once_where_there_is_none(tmp_path: Path) -> None:
    scripts = Scripts(tmp_path, has_image=False)
    assert scripts("drone-up.sh").returncode == 0
    asked = [line.split()[-1] for line in scripts.asked()]
    assert asked.count("build") == 1
    assert asked.index("build") == len(asked) - 2


@pytest.mark.parametrize("name", POWERSHELL)
def test_powershell_scripts_say_that_nothing_tests_them(name: str) -> None:
    assert "Experimental: no PowerShell runs in our tests" in text(f"scripts/{name}")


# --- what is installed by it ---------------------------------------------------------------------

ONLY_LISTED = """
import importlib, pkgutil, re, sys
from importlib.metadata import packages_distributions

spelled = lambda name: re.sub("[-_.]+", "-", name).lower()
listed = {spelled(name) for name in sys.argv[2].split()} | {"holdfast"}
provided = packages_distributions()

class OnlyListed:
    def find_spec(self, name, path=None, target=None):
        owners = provided.get(name.partition(".")[0])
        if owners and not listed & set(map(spelled, owners)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyListed())
for name in sys.argv[1].split():
    importlib.import_module(name)
from sqlalchemy.ext.asyncio import create_async_engine
create_async_engine("postgresql+asyncpg://nobody@127.0.0.1/nothing")
"""
ENGINES = "holdfast.kernel.database.postgresql holdfast.kernel.database.sqlite holdfast.app.compose"


def listed(without: str = "") -> str:
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", text("requirements/server.txt"), re.MULTILINE)
    return " ".join(name for name in names if name != without)


def test_the_engines_load_with_what_the_image_and_the_readme_install() -> None:
    # What the suite itself brings along must not stand in for what is missing.
    command = [sys.executable, "-W", "error", "-c", ONLY_LISTED, ENGINES]
    done = subprocess.run([*command, listed()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*command, listed(without="greenlet")], capture_output=True, text=True, check=False
    )
    assert "greenlet" in done.stderr


def test_the_extra_for_postgresql_is_all_that_its_engine_needs() -> None:
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    named = {re.split(r"[<>=]", wanted)[0] for wanted in extras["postgres"]}
    assert named == set(POSTGRESQL_NEEDS)


# --- what must not be there ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGING)
def test_nothing_secret_floating_or_local_is_written_down(name: str) -> None:
    content = text(name)
    assert not re.search(r":latest\b", content)
    assert not re.search(r"index-url|find-links|trusted-host|pip\.conf|/simple\b", content)
    assert not re.search(
        r"hf_[a-z0-9]+_|BEGIN [A-Z ]*PRIVATE KEY|(?i:password|passwd)\s*[:=]", content
    )
    assert not re.search(r"(?<![\w.])/(home|root|work)/", content)


def test_images_are_pinned_to_what_this_tree_is() -> None:
    for name, service in services().items():
        assert default(service["image"]) == f"localhost/holdfast:{__version__}", name
    bases = re.findall(r"^ARG BASE=(.+)$", text("Dockerfile"), re.MULTILINE)
    assert [re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", b) for b in bases]
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text("Dockerfile"), re.MULTILINE)
    assert stages[0] == ("${BASE}", "dependencies")
    assert all(base == "dependencies" for base, _ in stages[1:])


def test_the_build_sees_only_what_the_image_is_made_of() -> None:
    ignored = text(".dockerignore").split()
    assert ignored[0] == "*"
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "requirements", "src"}


# --- what the containers may do ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(services()))
def test_containers_are_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert default(service["user"]) == "10001:0"
    assert "privileged" not in service
    writable = [v for v in service["volumes"] if "ro" not in v.split(":")[2].split(",")]
    assert all(volume.startswith("./data/") for volume in writable)
    assert any(volume.split(":")[1] == CONTAINER_DATA for volume in writable)


def test_only_the_gateway_is_published_and_only_on_loopback() -> None:
    published = {name: s["ports"] for name, s in services().items() if "ports" in s}
    assert {name: [default(port) for port in ports] for name, ports in published.items()} == {
        "gateway": ["127.0.0.1:8090:8090"]
    }
    control = compose(COMPOSE[0])
    assert control["networks"]["internal"] == {"internal": True}
    joined = {name: service["networks"] for name, service in control["services"].items()}
    assert joined.pop("gateway") == ["internal", "door"]
    assert all(networks == ["internal"] for networks in joined.values())


@pytest.mark.parametrize("role", ROLES)
def test_settings_in_the_compose_file_are_settings_and_fit_together(role: str) -> None:
    service = services()[role]
    assert service["command"] == ["serve", role]
    environment = {name: default(str(value)) for name, value in service["environment"].items()}
    settings = resolve(environment | {"HOLDFAST_DATA_DIR": CONTAINER_DATA})
    port = DEFAULT_PORTS[role]
    assert settings[f"{role}_bind"] == f"0.0.0.0:{port}"
    for other in ROLES:
        if other != "gateway":
            assert settings[f"{other}_url"] == f"http://{other}:{DEFAULT_PORTS[other]}"
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
    assert mounted[str(settings.trust_dir)] == "./data/control-plane/trusted"
    assert mounted[CONTAINER_DATA] == f"./data/control-plane/{role}"
    assert bool(settings["gateway_terminator"]) == (role == "gateway")


def test_a_drone_in_a_container_waits_at_the_coordinator_unless_told_otherwise() -> None:
    given = services()["drone"]["environment"]
    environment = {name: default(str(value)) for name, value in given.items()}
    settings = resolve(environment)
    assert settings["drone_control_plane"] == "http://127.0.0.1:8090"
    assert settings["drone_process_interval"] is None
    assert settings["drone_id"] == ""
    assert resolve(environment | {"PROCESS_INTERVAL": "30s"})["drone_process_interval"] == 30
