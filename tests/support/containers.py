"""Containers without a registry: a base image from Debian's mirror, our image on it, one podman.

Everything lives apart from what else podman has here: images are kept in a cache between runs, and
what a test starts carries a name of its own. The image is found again by a digest of all that goes
into it, so an unchanged tree builds nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("podman", "buildah", "runc", "debootstrap")
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
REPOSITORY = "localhost/holdfast-test"
KEPT_SECONDS = 6 * 3600
CONTEXT = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")

# Ordinary root in a container or a small machine may not raise limits, and has no systemd.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{cache}/storage"
runroot = "/run/holdfast-test"
"""
PIP_CONF = """\
[global]
no-index = true
find-links = /wheels
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman on a storage of its own."""

    environment: dict[str, str]

    def run(
        self, *arguments: str | Path, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """One command to its end; a failure shows what it said."""
        return run(["podman", *arguments], self.environment, check=check, timeout=timeout)

    def inspect(self, container: str) -> dict[str, Any]:
        """What podman knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", container).stdout)
        return found[0]


def run(
    command: list[str | Path],
    environment: Mapping[str, str],
    *,
    check: bool = True,
    timeout: float = 600,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """One command to its end; a failure shows what it said."""
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if check and done.returncode != 0:
        shown = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise AssertionError(f"{command} ended with {done.returncode}:\n{shown}")
    return done


def missing() -> str:
    """Why containers cannot run here; empty when they can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} missing: apt-get install {' '.join(PROGRAMS)}"
    if os.geteuid() != 0:
        return "containers are tested as root (debootstrap and bridges need it)"
    return ""


def podman() -> Podman:
    """Podman on the cache's storage; skips, saying why, where there is none."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    cache = _cache()
    _write(cache / "containers.conf", CONTAINERS_CONF)
    _write(cache / "storage.conf", STORAGE_CONF.format(cache=cache))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "COMPOSE"))}
    bin_ = Path(sys.executable).parent
    return Podman(
        kept
        | {
            "PATH": f"{bin_}:{os.environ.get('PATH', '')}",
            "CONTAINERS_CONF": str(cache / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(cache / "storage.conf"),
        }
    )


def image(engine: Podman) -> str:
    """The name of our image, built of this tree unless it is there."""
    cache = _cache()
    with _alone(cache / "build.lock"):
        base, wheels = _parts(cache)
        name = f"{REPOSITORY}:{_digest(base)}"
        if engine.run("image", "exists", name, check=False).returncode != 0:
            _build(engine, cache, name, _base_image(engine, base), wheels)
            _forget_others(engine, name)
    return name


def _build(engine: Podman, cache: Path, name: str, base: str, wheels: Path) -> None:
    _write(cache / "pip.conf", PIP_CONF)
    run(
        [
            *("buildah", "bud", "--isolation=chroot", "--layers", "--format=docker"),
            *("--build-arg", f"BASE={base}", "--tag", name),
            # The build needs no network: what pip wants was fetched before, outside.
            *("--volume", f"{wheels}:/wheels:ro", "--volume", f"{cache}/pip.conf:/etc/pip.conf:ro"),
            ROOT,
        ],
        engine.environment,
        timeout=600,
    )


def _parts(cache: Path) -> tuple[Path, Path]:
    """Base file system and wheels, fetched side by side the first time."""
    with ThreadPoolExecutor(2) as pool:
        base, wheels = pool.submit(_base, cache), pool.submit(_wheels, cache)
        return base.result(), wheels.result()


def _base(cache: Path) -> Path:
    """A small Debian with Python, as an archive."""
    archive = cache / f"base-{SUITE}-{_short(PACKAGES)}.tar"
    if not archive.exists():
        folder = cache / f"{archive.stem}.{os.getpid()}"
        # Without one, debootstrap takes its distribution's own.
        named = os.environ.get("HOLDFAST_TEST_DEBIAN_MIRROR")
        mirror = [named] if named else []
        try:
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
            _fetch([*command, SUITE, folder, *mirror], "make a base image")
            for used in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(folder / used)
            whole = archive.with_suffix(".part")
            run(["tar", "-C", folder, "-cf", whole, "."], os.environ)
            whole.replace(archive)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return archive


def _wheels(cache: Path) -> Path:
    """What the image's Python will install, by this machine's own pip settings."""
    requirements = ROOT / "requirements" / "server.txt"
    folder = cache / f"wheels-{_short(requirements.read_text())}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        only = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--python-version=3.11"]
        _fetch([*pip, *only, "--dest", part, "--requirement", requirements], "fetch wheels")
        for old in cache.glob("wheels-*"):
            if old != part:
                shutil.rmtree(old)
        part.replace(folder)
    return folder


def _fetch(command: list[str | Path], purpose: str) -> None:
    done = run(command, os.environ, check=False, timeout=600)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        pytest.skip(f"cannot {purpose} here: {' '.join(said)}")


def _base_image(engine: Podman, archive: Path) -> str:
    name = f"{REPOSITORY}-base:{archive.stem}"
    if engine.run("image", "exists", name, check=False).returncode != 0:
        engine.run("import", "--quiet", archive, name)
    return name


def _forget_others(engine: Podman, current: str) -> None:
    """Images of earlier trees; what the current one is built on stays, for the next build.

    Those of the last hours stay too: the tests of another checkout may be about to run them.
    """
    listed = json.loads(engine.run("images", "--format", "json").stdout)
    aged = [each for each in listed if time.time() - each["Created"] > KEPT_SECONDS]
    named = [name for each in aged for name in each.get("Names") or ()]
    old = [name for name in named if name.startswith(f"{REPOSITORY}:") and name != current]
    if old:
        engine.run("rmi", *old, check=False)
    engine.run("image", "prune", "--force", check=False)


def _digest(base: Path) -> str:
    """A digest of everything the image is made of."""
    parts = [ROOT / name for name in (*CONTEXT, "requirements/server.txt")]
    source = (path for path in (ROOT / "src").rglob("*") if "__pycache__" not in path.parts)
    parts += sorted(path for path in source if path.is_file())
    found = hashlib.sha256(base.name.encode())
    for path in parts:
        content = hashlib.sha256(path.read_bytes()).digest()
        found.update(str(path.relative_to(ROOT)).encode() + b"\0" + content)
    return found.hexdigest()[:20]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "holdfast-test"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _write(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content)
    temporary.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: two workers of a test run would build the same."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
