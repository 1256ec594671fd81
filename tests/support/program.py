"""The served program, as a client and a hangman see it: started, asked, killed, started again."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from holdfast.app.settings import SETTINGS
from tests.support.hygiene import GUARD

# How long something may take on a slow and busy machine: longer, and it hangs.
START_SECONDS = 300.0
STOP_SECONDS = 180.0
COMMAND_SECONDS = 600.0
WAIT_SECONDS = 300.0
# What the guides call our settings: a machine may have one of them for something else.
GUIDES_NAMES = {alias.name for setting in SETTINGS for alias in setting.aliases}
HOLDFAST = [sys.executable, "-m", "holdfast.app.main"]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a started program: nothing of ours but what the test names.

    It may keep its compiled modules, as it does for whoever runs it: without them each start
    compiles a thousand files.
    """
    # Nor is it as wide as the terminal of whoever runs the tests.
    left_out = {"PYTHONDONTWRITEBYTECODE", "COLUMNS", "LINES", *GUIDES_NAMES}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOLDFAST_") and name not in left_out
    }
    GUARD.configured(extra or {})
    return kept | {"PYTHONFAULTHANDLER": "1"} | unflushed(extra or {}) | dict(extra or {})


def unflushed(extra: Mapping[str, str]) -> dict[str, str]:
    """What a program needs to take the tests' own PostgreSQL server, which flushes nothing."""
    ours = any("postgres" in value and "host=/" in value for value in extra.values())
    return {"HOLDFAST_DATABASE_UNFLUSHED": "true"} if ours else {}


@dataclass
class Program:
    """One running ``holdfast`` and the address it answers at."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path
    url: str = ""
    token: str = ""
    verify: ssl.SSLContext | bool = True
    _client: httpx.Client | None = field(default=None, repr=False)

    @property
    def client(self) -> httpx.Client:
        """A client with the operator's token."""
        if self._client is None:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=self.verify
            )
        return self._client

    def get(self, path: str, **params: Any) -> Any:
        """The decoded answer of a GET that must succeed."""
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, (
            f"{path}: {answer.status_code} {answer.text}\n{self.tail()}"
        )
        return answer.json()

    def items(self, path: str, **params: Any) -> Iterator[Any]:
        """Every item of a paged list."""
        cursor: str | None = None
        while True:
            page = self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page.get("next")
            if not cursor:
                return

    def kill(self) -> None:
        """kill -9 of the program itself; what it started must die with it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(timeout=STOP_SECONDS)
        gone, alive = psutil.wait_procs(children, timeout=STOP_SECONDS)
        self.close()
        assert not alive, f"orphans: {alive}"
        del gone

    def stop(self) -> int:
        """Ask it to stop (SIGTERM); its exit status."""
        GUARD.parting(self)
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=STOP_SECONDS)
        self.close()
        return status

    def close(self) -> None:
        """Drop the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def tail(self, lines: int = 40) -> str:
        """The end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def started(
    arguments: Sequence[str],
    data_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    ready: str = "/ready",
    verify: ssl.SSLContext | bool = True,
) -> Iterator[Program]:
    """``holdfast ARGUMENTS`` on ``data_dir``, ready, and stopped (or found dead) at the end."""
    program = start(arguments, data_dir, environment=environment, ready=ready, verify=verify)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            GUARD.parting(program)
            children = psutil.Process(program.process.pid).children(recursive=True)
            program.process.terminate()
            try:
                program.process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
            psutil.wait_procs(children, timeout=STOP_SECONDS)
        program.close()


def start(
    arguments: Sequence[str],
    data_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    ready: str = "/ready",
    verify: ssl.SSLContext | bool = True,
) -> Program:
    """Start it and wait until it says its address and answers ``ready``."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*HOLDFAST, *arguments, "--data-dir", str(data_dir)],
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            env=clean_environment(environment),
            cwd=data_dir,
        )
    program = Program(process, data_dir, log, verify=verify)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"died with {process.returncode}:\n{program.tail()}"
        address = _address(data_dir, process.pid)
        if address and _answers(address, ready, verify):
            program.url = address
            token = data_dir / "operator.token"
            program.token = token.read_text().strip() if token.exists() else ""
            return program
        select.select([], [], [], 0.05)
    # With faulthandler on, it tells in its log where every thread of it stands.
    process.send_signal(signal.SIGABRT)
    process.wait(timeout=STOP_SECONDS)
    raise AssertionError(f"not ready in {START_SECONDS} s:\n{program.tail(120)}")


def _address(data_dir: Path, pid: int) -> str:
    try:
        said = json.loads((data_dir / "holdfast.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(said["url"]) if said["pid"] == pid else ""


def _answers(url: str, path: str, verify: ssl.SSLContext | bool) -> bool:
    try:
        return httpx.get(url + path, timeout=10, trust_env=False, verify=verify).status_code == 200
    except httpx.HTTPError:
        return False


def run_command(
    *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One command of the line, to its end."""
    done = subprocess.run(
        [*HOLDFAST, *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=clean_environment(environment),
        cwd=cwd,
        check=False,
    )
    GUARD.command(arguments, done.stdout, done.stderr)
    return done


def wait_until(condition: Any, seconds: float = WAIT_SECONDS, what: str = "") -> Any:
    """The first true value of ``condition()``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what or condition}")
        select.select([], [], [], 0.05)
