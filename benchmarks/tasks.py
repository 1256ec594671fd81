"""Submit, claim and complete tasks: Holdfast on SQLite and PostgreSQL, against two peers.

Each contender is given the same number of empty tasks in bulk, in its own best way, and one process
then works all of them off in batches. Holdfast writes the submission's and the end's event with
each task, draws a fence and signs a grant; the peers do less per task (PgQueuer logs each status,
Procrastinate writes an event row by trigger). PostgreSQL is the same server for all, a database
each, and flushes (fsync and synchronous commit on). Rounds alternate, so that all meet the same
neighbours on the machine; the median counts. One run prints everything the ratio depends on::

    python -m benchmarks.tasks [--tasks 5000] [--batch 500] [--rounds 3]

The peers come with ``requirements/bench.txt``; one that is not installed is skipped aloud.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import structlog
from tests.support.postgres import PostgresServer, postgres_server

from holdfast import __version__
from holdfast.fleet.credentials import Peppers
from holdfast.fleet.model import Claim, CompleteTask, JoinTokenCreate, TaskSubmit, WorkerRegister
from holdfast.fleet.service import FleetService
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import operator
from holdfast.kernel.signing import SigningKey
from holdfast.leases import MemoryLeases
from holdfast.migrations import load_tables

KIND = "benchmark"
OPERATOR = operator()


@dataclass(frozen=True)
class Timing:
    """Seconds to submit all tasks, and to work them off."""

    submit: float
    work: float


Contender = Callable[[int, int], Awaitable[Timing]]


# --- Holdfast ------------------------------------------------------------------------------------


@asynccontextmanager
async def coordinator(url: str) -> AsyncIterator[FleetService]:
    clock = SystemClock()
    load_tables()
    async with open_database(url, clock=clock) as database:
        await create_schema(database)
        yield FleetService(
            database,
            MemoryLeases(clock),
            Outbox(ClearSealer()),
            SigningKey.from_seed(os.urandom(32)),
            Peppers({1: os.urandom(32)}),
            clock=clock,
            new_id=id_source(clock),
            random=os.urandom,
            chance=random.random,
        )


def holdfast_on(fresh_url: Callable[[], str]) -> Contender:
    async def contend(tasks: int, batch: int) -> Timing:
        async with coordinator(fresh_url()) as fleet:
            token = await fleet.worker_token_create(OPERATOR, JoinTokenCreate())
            credential = await fleet.register(token.token, WorkerRegister(name="benchmark"))
            worker = await fleet.authenticate_worker(credential.credential)
            started = time.perf_counter()
            for _ in range(0, tasks, batch):
                outcomes = await fleet.submit_many(
                    OPERATOR, [TaskSubmit(kind=KIND) for _ in range(batch)]
                )
                assert not any(isinstance(outcome, HoldfastError) for outcome in outcomes)
            submitted = time.perf_counter()
            done = 0
            while done < tasks:
                claimed = await fleet.claim(worker, Claim(kinds=[KIND], limit=batch))
                answers = await fleet.complete_many(
                    worker,
                    [
                        CompleteTask(task=each.task.id, fence=each.task.fence, outcome="succeeded")
                        for each in claimed
                    ],
                )
                assert all(answer.refused is None for answer in answers)
                done += len(claimed)
            return Timing(submitted - started, time.perf_counter() - submitted)

    return contend


# --- the peers -----------------------------------------------------------------------------------


def pgqueuer_on(fresh_url: Callable[[], str]) -> Contender:
    import asyncpg
    from pgqueuer import AsyncpgDriver, PgQueuer, Queries
    from pgqueuer.types import QueueExecutionMode

    async def contend(tasks: int, batch: int) -> Timing:
        connection = await asyncpg.connect(fresh_url())
        try:
            driver = AsyncpgDriver(connection)
            queries = Queries(driver)
            await queries.install()
            queue = PgQueuer(driver)
            done = 0

            @queue.entrypoint(KIND)
            async def work(_job: Any) -> None:
                nonlocal done
                done += 1

            started = time.perf_counter()
            for _ in range(0, tasks, batch):
                await queries.enqueue([KIND] * batch, [b""] * batch, [0] * batch)
            submitted = time.perf_counter()
            await queue.run(batch_size=batch, mode=QueueExecutionMode.drain)
            finished = time.perf_counter()
            assert done == tasks
            return Timing(submitted - started, finished - submitted)
        finally:
            await connection.close()

    return contend


def procrastinate_on(fresh_url: Callable[[], str]) -> Contender:
    import procrastinate

    async def contend(tasks: int, batch: int) -> Timing:
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=fresh_url(), max_size=10)
        )
        done = 0

        @app.task(name=KIND)
        async def work() -> None:
            nonlocal done
            done += 1

        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            started = time.perf_counter()
            for _ in range(0, tasks, batch):
                await work.batch_defer_async(*({} for _ in range(batch)))
            submitted = time.perf_counter()
            await app.run_worker_async(
                wait=False, concurrency=50, install_signal_handlers=False, listen_notify=False
            )
            finished = time.perf_counter()
        assert done == tasks
        return Timing(submitted - started, finished - submitted)

    return contend


# --- the run -------------------------------------------------------------------------------------


def contenders(server: PostgresServer, folder: Path) -> dict[str, Contender]:
    count = iter(range(1, 1_000_000))

    def sqlite() -> str:
        return f"sqlite:///{folder / f'{next(count)}.db'}"

    def postgresql() -> str:
        name = f"benchmark_{next(count)}"
        server.execute(f"CREATE DATABASE {name}")
        return server.dsn(name)

    found = {
        "holdfast, SQLite": holdfast_on(sqlite),
        "holdfast, PostgreSQL": holdfast_on(postgresql),
    }
    for name, make in (("pgqueuer", pgqueuer_on), ("procrastinate", procrastinate_on)):
        try:
            found[f"{name} {version(name)}, PostgreSQL"] = make(postgresql)
        except (PackageNotFoundError, ImportError) as error:
            print(f"SKIPPED {name}: {error}; it comes with requirements/bench.txt")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tasks = options.tasks - options.tasks % options.batch
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with postgres_server() as server, tempfile.TemporaryDirectory() as name:
        for setting in ("fsync = on", "full_page_writes = on", "synchronous_commit = on"):
            server.execute(f"ALTER SYSTEM SET {setting}")
        server.execute("SELECT pg_reload_conf()")
        found = contenders(server, Path(name))
        timings: dict[str, list[Timing]] = {label: [] for label in found}
        for _ in range(options.rounds):
            for label, contend in found.items():
                timings[label].append(asyncio.run(contend(tasks, options.batch)))
    print(f"holdfast {__version__}, Python {platform.python_version()}, {platform.platform()},")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{tasks} tasks in batches of {options.batch}, median of {options.rounds} rounds\n")
    print(f"{'per second':<32}{'submit':>9}{'claim+complete':>16}{'all':>9}{'ratio':>8}")
    base = statistics.median(t.submit + t.work for t in timings["holdfast, PostgreSQL"])
    for label, each in timings.items():
        submit = statistics.median(t.submit for t in each)
        work = statistics.median(t.work for t in each)
        total = statistics.median(t.submit + t.work for t in each)
        print(
            f"{label:<32}{tasks / submit:>9,.0f}{tasks / work:>16,.0f}{tasks / total:>9,.0f}"
            f"{total / base:>8.2f}"
        )
    print("\nratio: how many times as fast Holdfast on PostgreSQL is (submit to complete)")


if __name__ == "__main__":
    main()
