"""A ledger made of its own parts, for tests: real storage, a clock that the test holds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.kernel.clock import Clock, ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.ids import EventId, NewId, id_source, uuid7
from holdfast.kernel.outbox import ClearSealer, Sealer
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import MemoryLeases, SqlLeases
from holdfast.ledger.backends.sql import SqlLog
from holdfast.ledger.log.parts import LogParts
from holdfast.ledger.metrics import LedgerMetrics
from holdfast.ledger.model import Append, NewEvent, Progress
from holdfast.ledger.ports import People
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import SignerPaths
from holdfast.ledger.verifying import verify

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
ONE = operator()


def event_id(number: int) -> EventId:
    """An id of the test's own making."""
    return EventId(uuid7(1_790_000_000_000 + number, number.to_bytes(10, "big")))


def event(number: int, stream: str = "notes/a", **changes: Any) -> NewEvent:
    """An event with an id of its own."""
    given: dict[str, Any] = {
        "id": event_id(number),
        "stream": stream,
        "type": "note.added",
        "payload": {"n": number},
    }
    return NewEvent(**(given | changes))


def one(number: int, stream: str = "notes/a", expected: int | None = None, **more: Any) -> Append:
    """An append of one event."""
    wanted = {} if expected is None else {stream: expected}
    return Append(events=[event(number, stream, **more)], expected=wanted)


def parts_on(
    database: Database,
    folder: Path,
    *,
    clock: Clock | None = None,
    sealer: Sealer | None = None,
    holder: str = "first",
    random: Callable[[int], bytes] = os.urandom,
    metrics: Metrics | None = None,
    keys: Path | None = None,
    leases: Any = None,
    origin: str = "example.org/ledger",
    people: People | None = None,
) -> LogParts:
    """The parts of a ledger on this database, its files in ``folder``."""
    clock = clock or ManualClock(NOW)
    if leases is None:
        shared = database.dialect == "postgresql"
        leases = SqlLeases(database, clock) if shared else MemoryLeases(clock)
    return LogParts(
        log=SqlLog(database),
        database=database,
        leases=leases,
        sealer=sealer or ClearSealer(),
        clock=clock,
        random=random,
        holder=holder,
        heads=folder / "ledger",
        paths=SignerPaths(keys or folder / "keys", folder / "published"),
        metrics=LedgerMetrics(metrics or Metrics()),
        origin=origin,
        people=people,
    )


@asynccontextmanager
async def ledger_on(
    database: Database, folder: Path, *, new_id: NewId | None = None, **options: Any
) -> AsyncIterator[LedgerService]:
    """A ledger on this database, closed at the end of the block."""
    parts = parts_on(database, folder, **options)
    made = LedgerService(parts, new_id or id_source(parts.clock))
    try:
        yield made
    finally:
        await made.close()


async def everything(service: LedgerService, principal: Principal = ONE, **options: Any):
    """Every entry, page by page."""
    found, cursor = [], None
    while True:
        page = await service.read(principal, cursor=cursor, limit=100, **options)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


async def verdict(service: LedgerService, principal: Principal = ONE) -> Progress:
    """What a verification of all of it says at its end."""
    last = [line async for line in verify(service, principal)][-1]
    assert last.sound is not None
    return last
