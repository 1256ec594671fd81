"""Submit, claim and complete tasks: Holdfast on SQLite and PostgreSQL, against two peers.

Each contender is given the same number of empty tasks in bulk, in its own best way, and one process
then works all of them off in batches, by one caller or by two at a time: what serves each best
counts. Holdfast writes the submission's and the end's event with each task, draws a fence and signs
a grant; the peers do less per task (PgQueuer logs each status, Procrastinate writes an event row by
trigger). PostgreSQL is the same server for all, on the disk, a database each, and flushes: fsync,
full page writes and synchronous commit are on, PgQueuer's tables are logged.

Rounds alternate, so that all meet the same neighbours on the machine, and ratios are taken within a
round. Processor time, of this process and of the server's, tells what a machine busy with other
work hides. One run prints everything the ratio depends on::

    python -m benchmarks.tasks [--tasks 5000] [--batch 500] [--rounds 5] [--callers 1 2]

The peers come with ``requirements/bench.txt``; one that is not installed is skipped aloud.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import structlog
from tests.support.postgres import PostgresServer, postgres_server

from holdfast import __version__
from holdfast.fleet.model import Claim, CompleteTask, JoinTokenCreate, TaskSubmit, WorkerRegister
from holdfast.fleet.service import FleetService
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.collector import settle
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import create_schema, open_database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.signing import SigningKey
from holdfast.leases import MemoryLeases
from holdfast.migrations import load_tables

KIND = "benchmark"
OURS = "holdfast, PostgreSQL"
SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")
OPERATOR = operator()


@dataclass(frozen=True)
class Timing:
    """Seconds to submit all tasks, and to work them off; processor seconds of both in all."""

    submit: float
    work: float
    processor: float = 0.0

    @property
    def total(self) -> float:
        return self.submit + self.work


Contender = Callable[[int, int, int], Coroutine[Any, Any, Timing]]
"""Works off so many tasks, in batches of so many, by so many concurrent callers."""


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
    async def contend(tasks: int, batch: int, callers: int) -> Timing:
        async with coordinator(fresh_url()) as fleet:
            token = await fleet.worker_token_create(OPERATOR, JoinTokenCreate())
            workers = []
            for number in range(callers):
                credential = await fleet.register(
                    token.token,
                    WorkerRegister(name=f"benchmark-{number}", key=os.urandom(32).hex()),
                )
                workers.append(await fleet.authenticate_worker(credential.credential))
            batches = iter(range(0, tasks, batch))

            async def submit() -> None:
                for _ in batches:
                    outcomes = await fleet.submit_many(
                        OPERATOR, [TaskSubmit(kind=KIND) for _ in range(batch)]
                    )
                    assert not any(isinstance(outcome, HoldfastError) for outcome in outcomes)

            async def work(worker: Principal) -> int:
                done = 0
                while claimed := await fleet.claim(worker, Claim(kinds=[KIND], limit=batch)):
                    answers = await fleet.complete_many(
                        worker,
                        [
                            CompleteTask(
                                task=each.task.id, fence=each.task.fence, outcome="succeeded"
                            )
                            for each in claimed
                        ],
                    )
                    assert all(answer.refused is None for answer in answers)
                    done += len(claimed)
                return done

            started = time.perf_counter()
            await asyncio.gather(*(submit() for _ in range(callers)))
            submitted = time.perf_counter()
            done = await asyncio.gather(*(work(worker) for worker in workers))
            finished = time.perf_counter()
            assert sum(done) == tasks
            return Timing(submitted - started, finished - submitted)

    return contend


# --- the peers -----------------------------------------------------------------------------------


def pgqueuer_on(fresh_url: Callable[[], str]) -> Contender:
    """Bulk ``enqueue``; its drain mode, a queue manager and a connection for each caller.

    Its tables are logged ones (durability ``durable``, its default).
    """
    import asyncpg
    from pgqueuer import AsyncpgDriver, PgQueuer, Queries
    from pgqueuer.types import QueueExecutionMode

    async def contend(tasks: int, batch: int, callers: int) -> Timing:
        url, done = fresh_url(), 0
        async with AsyncExitStack() as stack:
            managers = []
            for _ in range(callers):
                connection = await asyncpg.connect(url)
                stack.push_async_callback(connection.close)
                manager = PgQueuer(AsyncpgDriver(connection))
                managers.append(manager)
            queries = Queries(managers[0].connection)
            await queries.install()

            async def work(_job: Any) -> None:
                nonlocal done
                done += 1

            for manager in managers:
                manager.entrypoint(KIND)(work)
            started = time.perf_counter()
            for _ in range(0, tasks, batch):
                await queries.enqueue([KIND] * batch, [b""] * batch, [0] * batch)
            submitted = time.perf_counter()
            await asyncio.gather(
                *(
                    manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
                    for manager in managers
                )
            )
            finished = time.perf_counter()
            assert done == tasks
            return Timing(submitted - started, finished - submitted)

    return contend


def procrastinate_on(fresh_url: Callable[[], str]) -> Contender:
    """``batch_defer``; a worker of fifty concurrent jobs for each caller. It fetches one by one."""
    import procrastinate

    async def contend(tasks: int, batch: int, callers: int) -> Timing:
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
            await asyncio.gather(
                *(
                    app.run_worker_async(
                        wait=False,
                        concurrency=50,
                        install_signal_handlers=False,
                        listen_notify=False,
                    )
                    for _ in range(callers)
                )
            )
            finished = time.perf_counter()
        assert done == tasks
        return Timing(submitted - started, finished - submitted)

    return contend


# --- the run -------------------------------------------------------------------------------------


def contenders(
    server: PostgresServer, folder: Path, wanted: Sequence[str] = ()
) -> dict[str, Contender]:
    count = iter(range(1, 1_000_000))

    def sqlite() -> str:
        return f"sqlite:///{folder / f'{next(count)}.db'}"

    def postgresql() -> str:
        name = f"benchmark_{next(count)}"
        server.execute(f"CREATE DATABASE {name}")
        return server.dsn(name)

    found = {
        "holdfast, SQLite": holdfast_on(sqlite),
        OURS: holdfast_on(postgresql),
    }
    for name, make in (("pgqueuer", pgqueuer_on), ("procrastinate", procrastinate_on)):
        try:
            found[f"{name} {version(name)}, PostgreSQL"] = make(postgresql)
        except (PackageNotFoundError, ImportError) as error:
            print(f"SKIPPED {name}: {error}; it comes with requirements/bench.txt")
    return {
        label: contend
        for label, contend in found.items()
        if not wanted or any(name in label for name in wanted)
    }


def best(timings: dict[int, list[Timing]]) -> tuple[int, list[Timing]]:
    """The number of callers that served a contender best, and its rounds."""
    return min(timings.items(), key=lambda each: statistics.median(t.total for t in each[1]))


def measure(
    tasks: int, batch: int, rounds: int, callers: Sequence[int], wanted: Sequence[str] = ()
) -> dict[str, dict[int, list[Timing]]]:
    """Every contender with every number of callers, once a round, so that all meet the same
    neighbours on the machine."""
    with postgres_server(durable=True) as server, tempfile.TemporaryDirectory() as name:
        print(asyncio.run(_version(server.dsn())))
        found = contenders(server, Path(name), wanted)
        timings: dict[str, dict[int, list[Timing]]] = {
            label: {many: [] for many in callers} for label in found
        }
        for _ in range(rounds):
            for label, contend in found.items():
                for many in callers:
                    before = _processor(server)
                    timing = asyncio.run(contend(tasks, batch, many))
                    used = _processor(server) - before
                    timings[label][many].append(replace(timing, processor=used))
    return timings


def _processor(server: PostgresServer) -> float:
    """Seconds of processor time that this process and the server's have used."""
    own = sum(os.times()[:2])
    postmaster = psutil.Process(int((server.folder / "data/postmaster.pid").read_text().split()[0]))
    for connection in postmaster.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended: counted by the next line
            own += sum(connection.cpu_times()[:2])
    used: float = own + sum(postmaster.cpu_times()[:4])  # with those of connections that are over
    return used


async def _version(dsn: str) -> str:
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        shown = [f"{name} {await connection.fetchval(f'SHOW {name}')}" for name in SETTINGS]
        return f"{await connection.fetchval('SELECT version()')}: {', '.join(shown)}"
    finally:
        await connection.close()


def show(timings: dict[str, dict[int, list[Timing]]], tasks: int) -> None:
    print(f"\n{'per second':<34}{'callers':>8}{'submit':>9}{'work':>9}{'all':>9}", end="")
    print(f"{'ratio':>18}{'of processor':>18}")
    _, ours = best(timings[OURS])
    for label, by_callers in timings.items():
        many, rounds = best(by_callers)
        submit = statistics.median(t.submit for t in rounds)
        work = statistics.median(t.work for t in rounds)
        total = statistics.median(t.total for t in rounds)
        pace = [t.total / our.total for t, our in zip(rounds, ours, strict=True)]
        thrift = [t.processor / our.processor for t, our in zip(rounds, ours, strict=True)]
        print(
            f"{label:<34}{many:>8}{tasks / submit:>9,.0f}{tasks / work:>9,.0f}"
            f"{tasks / total:>9,.0f}{spread(pace):>18}{spread(thrift):>18}"
        )
    print(f"\nratio: how many times as fast {OURS} is, submit to complete, in the same round,")
    print("by the clock, and per second of processor time (setting up included): median")
    print("(least-most); callers: the number that served each best")


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="contenders whose name has one")
    options = parser.parse_args()
    tasks = options.tasks - options.tasks % options.batch
    settle()  # as the served program does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    logging.disable(logging.WARNING)
    print(f"holdfast {__version__}, Python {platform.python_version()}, {platform.platform()},")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print(f"{tasks} tasks in batches of {options.batch}, {options.rounds} rounds")
    timings = measure(
        tasks,
        options.batch,
        options.rounds,
        options.callers,
        [*options.only, OURS] if options.only else [],
    )
    show(timings, tasks)
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
