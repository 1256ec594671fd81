"""The relay's promise, on both databases: in order, once, past no gap, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, Unavailable
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.problems import FOREIGN_ANSWER, error_from
from holdfast.kernel.outbox import ClearSealer, Event, Outbox, Sealed
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import MemoryLeases
from holdfast.ledger.client import LedgerClient
from holdfast.ledger.model import Appended, Prepared
from holdfast.ledger.relay import Relay, RelayMetrics
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, event_id, everything, ledger_on, verdict

WHO = service("relay")


def happened(number: int, **changes: Any) -> Event:
    given: dict[str, Any] = {
        "id": event_id(number),
        "stream": f"run/{number % 3}",
        "type": "run.changed",
        "time": NOW,
        "payload": {"n": number},
    }
    return Event(**(given | changes))


@dataclass
class Bench:
    """An outbox, a ledger and the relay between them."""

    database: Database
    ledger: LedgerService
    outbox: Outbox
    relay: Relay
    clock: ManualClock
    metrics: Metrics

    async def emit(self, *events: Event) -> None:
        await self.database.write(
            WHO, lambda conn: self.outbox.emit_many(conn, service("aggregator"), events)
        )

    async def drain(self) -> int:
        moved = 0
        while step := await self.relay.step(WHO):
            moved += step
        return moved

    async def left(self) -> int:
        return (await self.relay.measure())[0]


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    clock, metrics = ManualClock(NOW), Metrics()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        yield bench_on(database, ledger, clock, metrics)


def bench_on(database: Database, ledger: Any, clock: ManualClock, metrics: Metrics) -> Bench:
    outbox = Outbox(ClearSealer())
    relay = Relay(
        database,
        outbox,
        ledger,
        MemoryLeases(clock),
        clock,
        holder="me",
        metrics=RelayMetrics(metrics),
    )
    return Bench(database, ledger, outbox, relay, clock, metrics)


async def test_what_was_emitted_is_in_the_ledger_once_and_in_order(bench: Bench) -> None:
    events = [happened(number) for number in range(1200)]
    for at in range(0, 1200, 100):
        await bench.emit(*events[at : at + 100])
    assert await bench.drain() == 1200
    found = await everything(bench.ledger)
    assert [entry.id for entry in found] == [event.id for event in events]
    assert [entry.payload for entry in found] == [event.payload for event in events]
    assert {entry.subject for entry in found} == {"aggregator"}
    assert await bench.left() == 0
    assert (await verdict(bench.ledger)).sound


@dataclass
class Lossy:
    """A ledger whose answers get lost, or that cannot be reached, when the test says so."""

    ledger: LedgerService
    faults: list[str] = field(default_factory=list)

    async def append_prepared(self, principal: Principal, events: Sequence[Prepared]) -> Appended:
        fault = self.faults.pop() if self.faults else ""
        if fault == "unreachable":
            raise Unavailable("cannot reach the ledger")
        answer = await self.ledger.append_prepared(principal, events)
        if fault == "answer lost":
            raise Unavailable("cannot read the answer")
        return answer


async def test_a_lost_answer_and_a_dead_ledger_double_and_lose_nothing(
    database: Database, tmp_path: Path
) -> None:
    clock = ManualClock(NOW)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        lossy = Lossy(ledger, ["answer lost", "unreachable", "answer lost"])
        bench = bench_on(database, lossy, clock, Metrics())
        await bench.emit(*(happened(number) for number in range(30)))
        for _ in range(3):
            with pytest.raises(Unavailable):
                await bench.relay.step(WHO)
            assert await bench.left() >= 30
            await bench.emit(happened(100 + len(lossy.faults)))
        await bench.drain()
        ids = [entry.id for entry in await everything(ledger)]
        assert ids == [event_id(n) for n in [*range(30), 102, 101, 100]]


async def test_a_row_that_is_refused_is_set_aside_and_those_behind_it_go_on(bench: Bench) -> None:
    await bench.emit(happened(1))
    await bench.drain()
    await bench.emit(happened(2), happened(1, payload={"n": "another"}), happened(3))
    await bench.drain()
    assert [entry.payload for entry in await everything(bench.ledger)] == [
        {"n": 1},
        {"n": 2},
        {"n": 3},
    ]
    rows = text("SELECT event_id, reason FROM outbox_dead WHERE tenant = :tenant")
    dead = await bench.database.read(
        WHO, lambda conn: list(conn.execute(rows, {"tenant": ONE.tenant}))
    )
    assert [row[0] for row in dead] == [event_id(1)]
    assert "event-id-reused" in dead[0][1]
    assert await bench.relay.check() == "degraded"
    assert b"holdfast_relay_dead_letters 1.0" in bench.metrics.render()


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_what_another_than_the_ledger_answers_buries_no_event(
    bench: Bench, status: int
) -> None:
    async def between(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"<h1>No</h1>"})

    await bench.emit(happened(1), happened(2))
    async with ApiClient.for_app(between) as api:
        stopped = bench_on(bench.database, LedgerClient(api), bench.clock, Metrics())
        with pytest.raises(HoldfastError) as caught:
            await stopped.relay.step(WHO)
    assert caught.value.code == FOREIGN_ANSWER
    assert await bench.relay.measure() == (2, 0.0, 0)
    await bench.drain()
    assert [entry.payload for entry in await everything(bench.ledger)] == [{"n": 1}, {"n": 2}]


@dataclass
class Narrow:
    """Something in between that lets less than a batch through."""

    ledger: LedgerService

    async def append_prepared(self, principal: Principal, events: Sequence[Prepared]) -> Appended:
        if len(events) > 1:
            raise error_from(413, "text/html", b"<h1>Request Entity Too Large</h1>")
        return await self.ledger.append_prepared(principal, events)


async def test_what_lets_no_batch_through_lets_events_through_one_by_one(bench: Bench) -> None:
    await bench.emit(*(happened(number) for number in range(3)))
    narrow = bench_on(bench.database, Narrow(bench.ledger), bench.clock, Metrics())
    assert await narrow.drain() == 3
    assert [entry.payload["n"] for entry in await everything(bench.ledger)] == [0, 1, 2]
    assert await bench.relay.measure() == (0, 0.0, 0)


async def test_a_row_that_cannot_be_read_is_set_aside_too(bench: Bench) -> None:
    await bench.emit(happened(1), happened(2), happened(3))
    spoil = text(
        "UPDATE outbox SET payload_commitment = sealed WHERE tenant = :tenant AND event_id = :id"
    )
    values = {"tenant": ONE.tenant, "id": event_id(1)}
    await bench.database.write(WHO, lambda conn: conn.execute(spoil, values) and None)
    await bench.drain()
    assert [entry.payload for entry in await everything(bench.ledger)] == [{"n": 2}, {"n": 3}]
    assert await bench.relay.check() == "degraded"


async def test_damage_to_the_ledger_is_no_events_fault(bench: Bench) -> None:
    await bench.emit(happened(1))
    await bench.drain()
    spoil = text("UPDATE ledger_streams SET mark = mark + 1 WHERE tenant = :tenant")
    values = {"tenant": ONE.tenant}
    await bench.database.write(WHO, lambda conn: conn.execute(spoil, values) and None)
    await bench.emit(happened(4), happened(2))
    with pytest.raises(Corrupt):
        await bench.relay.step(WHO)
    assert await bench.relay.check() is None, "nothing is set aside"
    assert await bench.left() == 2
    await bench.ledger.rebuild(ONE)
    await bench.drain()
    found = [entry.payload for entry in await everything(bench.ledger)]
    assert found == [{"n": 1}, {"n": 4}, {"n": 2}]


async def test_an_event_about_somebody_erased_keeps_its_place_and_its_header(bench: Bench) -> None:
    class Erased(ClearSealer):
        def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
            from holdfast.keyring.errors import KeyDestroyed

            if object_id == event_id(2):
                raise KeyDestroyed("cannot read: the key was destroyed")
            return super().unseal(tenant, purpose, object_id, sealed)

        def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
            return {"jane"} & set(subjects)

    await bench.emit(happened(1), happened(2, about="jane"), happened(3))
    bench.outbox._sealer = Erased()
    await bench.drain()
    object.__setattr__(bench.ledger._parts, "sealer", Erased())
    found = await everything(bench.ledger)
    assert [entry.erased for entry in found] == [False, True, False]
    assert found[1].payload is None
    assert found[1].id == event_id(2)
    last = await verdict(bench.ledger)
    assert (last.sound, last.erased) == (True, 1)
    await bench.emit(happened(2, about="jane"))
    await bench.drain()
    assert len(await everything(bench.ledger)) == 3


async def test_lag_is_told_and_a_long_one_degrades_readiness(bench: Bench) -> None:
    assert await bench.relay.check() is None
    await bench.emit(happened(1), happened(2))
    bench.clock.advance(30)
    assert await bench.relay.measure() == (2, 30.0, 0)
    assert await bench.relay.check() is None
    bench.clock.advance(31)
    assert await bench.relay.check() == "degraded"
    assert b"vdb_replication_lag_records 2.0" in bench.metrics.render()
    await bench.drain()
    assert await bench.relay.check() is None
    assert b"vdb_replication_lag_records 0.0" in bench.metrics.render()


async def test_only_the_holder_of_the_lease_moves_rows(bench: Bench) -> None:
    await bench.relay._leases.lead(WHO, "relay", "another", 10, NOW)
    await bench.emit(happened(1))
    assert await bench.relay.step(WHO) == 0
    bench.clock.advance(timedelta(seconds=11) / timedelta(seconds=1))
    assert await bench.relay.step(WHO) == 1


async def test_only_a_role_relays(bench: Bench) -> None:
    from holdfast.kernel.errors import Denied
    from holdfast.ledger.model import Relay as Relayed

    with pytest.raises(Denied):
        await bench.ledger.relay(ONE, Relayed(events=[]))


async def test_rows_committed_late_are_not_passed_by(
    postgres_database: Database, tmp_path: Path
) -> None:
    """A transaction that drew its number early and commits late keeps those after it waiting."""
    clock = ManualClock(NOW)
    async with ledger_on(postgres_database, tmp_path, clock=clock) as ledger:
        bench = bench_on(postgres_database, ledger, clock, Metrics())
        entered, leave = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def late() -> None:
            def unit(conn) -> None:
                bench.outbox.emit(conn, service("aggregator"), happened(1))
                loop.call_soon(entered.set)
                conn.execute(text("SELECT pg_sleep(1)"))

            await postgres_database.write(WHO, unit)

        task = asyncio.create_task(late())
        await entered.wait()
        await bench.emit(happened(2))
        assert await bench.relay.step(WHO) == 0, "event 2 must wait for event 1"
        await task
        leave.set()
        await bench.drain()
        assert [entry.payload for entry in await everything(ledger)] == [{"n": 1}, {"n": 2}]


async def test_an_event_that_is_spoilt_on_the_way_is_refused(bench: Bench) -> None:
    from holdfast.ledger.model import Relay as Relayed
    from holdfast.ledger.model import RelayedEvent

    given = RelayedEvent(
        id=event_id(1),
        stream="run/1",
        type="run.changed",
        time="2026-01-01T00:00:00Z",
        subject="aggregator",
        request_id="",
        about="",
        length=7,
        commitment="00" * 32,
        payload={"n": 1},
        salt="11" * 32,
    )
    with pytest.raises(Invalid, match="not its own"):
        await bench.ledger.relay(WHO, Relayed(events=[given]))
