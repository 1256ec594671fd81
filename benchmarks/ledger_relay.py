"""What the relay costs: the events of a role, from its own transaction into the ledger.

    python -m benchmarks.ledger_relay --events 20000

The same events three ways, in rounds, in one process, on SQLite, sealed and durable: *appended*
straight to the ledger in batches of 500; *emitted* into an outbox, 100 in a unit of work, sixteen
units at once, as a role would beside its state; and *relayed*, moved from there into the ledger,
500 at a time, and forgotten. A role pays emitting; the relay's own cost is relaying without the
append in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from holdfast.app.compose import open_system
from holdfast.app.settings import resolve
from holdfast.app.system import System
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import operator, service
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import MemoryLeases
from holdfast.ledger.model import Append, NewEvent
from holdfast.ledger.relay import BATCH, Relay, RelayMetrics

ME = operator()
ROLE = service("coordinator", ME.tenant)
UNIT, AT_ONCE = 100, 16
PAYLOAD = {"worker": "0190aaaa-0000-7000-8000-000000000000", "text": "x" * 80}


class Bench:
    """The system, its outbox, and a relay that moves when it is told to."""

    def __init__(self, system: System) -> None:
        assert system.state is not None
        self.system, self.state = system, system.state
        self.relay = Relay(
            self.state.database,
            self.state.outbox,
            system.ledger,
            MemoryLeases(system.clock),
            system.clock,
            holder="bench",
            metrics=RelayMetrics(Metrics()),
        )

    async def append(self, events: int) -> None:
        for _ in range(0, events, BATCH):
            made = [
                NewEvent(
                    id=self.system.new_id(),
                    stream=f"measured/{n % 100}",
                    type="figure.taken",
                    payload={**PAYLOAD, "n": n},
                )
                for n in range(BATCH)
            ]
            await self.system.ledger.append(ME, Append(events=made))

    async def emit(self, events: int) -> None:
        for _ in range(0, events, UNIT * AT_ONCE):
            await asyncio.gather(*(self._unit() for _ in range(AT_ONCE)))

    async def _unit(self) -> None:
        now = self.system.clock.now()
        made = [
            Event(
                id=EventId(self.system.new_id()),
                stream=f"task/{n % 100}",
                type="task.changed",
                time=now,
                payload={**PAYLOAD, "n": n},
            )
            for n in range(UNIT)
        ]
        await self.state.database.write(
            ROLE, lambda conn: self.state.outbox.emit_many(conn, ROLE, made)
        )

    async def move(self) -> None:
        while await self.relay.step(ME):
            pass


async def timed(step: Coroutine[Any, Any, None], events: int) -> tuple[float, float]:
    """Events per second by the clock, and microseconds of processor time an event."""
    began, used = time.perf_counter(), time.process_time()
    await step
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    return events / seconds, processor / events * 1e6


async def body(events: int, rounds: int) -> None:
    events -= events % (UNIT * AT_ONCE * 5)
    with tempfile.TemporaryDirectory(prefix="bench-relay-") as folder:
        settings = resolve({}, {"data_dir": str(Path(folder) / "data"), "log_level": "error"})
        async with open_system(settings, ["ledger"]) as system:
            bench = Bench(system)
            await bench.append(BATCH)
            seen: dict[str, list[tuple[float, float]]] = {}
            for _ in range(rounds):
                for name, step in (
                    ("appended", bench.append(events)),
                    ("emitted", bench.emit(events)),
                    ("relayed", bench.move()),
                ):
                    seen.setdefault(name, []).append(await timed(step, events))
    print(f"{events:,} events, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print("| way | events/s | processor, µs an event |\n|---|--:|--:|")
    for name, found in seen.items():
        paces, used = zip(*found, strict=True)
        print(f"| {name} | {statistics.median(paces):,.0f} | {statistics.median(used):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ledger_relay")
    parser.add_argument("--events", type=int, default=24_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(body(max(8_000, arguments.events), arguments.rounds))


if __name__ == "__main__":
    main()
