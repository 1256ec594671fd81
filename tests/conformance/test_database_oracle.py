"""One plain model, two engines: the same seeded operations give the same answers and snapshots.

A failure prints its seed; ``HOLDFAST_ORACLE_SEED=n`` replays it. It is done when each operation has
both succeeded and failed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import (
    Database,
    bulk_insert,
    create_schema,
    is_unique_violation,
    open_database,
)
from holdfast.kernel.errors import Conflict, HoldfastError, NotFound
from holdfast.kernel.idempotency import once
from holdfast.kernel.ids import EventId, TenantId, uuid7
from holdfast.kernel.outbox import BEGINNING, ClearSealer, Event, Outbox
from holdfast.kernel.principal import Principal, operator
from tests.support.soaking import scale
from tests.support.tables import SAMPLE, counters

START = datetime(2026, 1, 1, tzinfo=UTC)
OUTBOX = Outbox(ClearSealer())
UPSERT = text(
    "INSERT INTO sample_counters (tenant, name, value) VALUES (:tenant, :name, :by)"
    " ON CONFLICT (tenant, name) DO UPDATE SET value = sample_counters.value + excluded.value"
    " RETURNING value"
)


@dataclass
class Model:
    """What one tenant's rows must be, in plain Python."""

    counters: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    answers: dict[str, tuple[str, bytes, datetime]] = field(default_factory=dict)
    now: datetime = START

    def snapshot(self) -> object:
        return sorted(self.counters.items()), list(self.events.values())


Step = tuple[str, Callable[[Model], Any], Callable[[Connection, Principal], Any]]
"""An operation: its name, what it does to the model, and the unit that does it to a database.

Either raises a :class:`HoldfastError`; then nothing has changed.
"""


def put(rng: random.Random) -> Step:
    name, value = rng.choice("abcdef"), rng.randrange(100)

    def model(m: Model) -> None:
        if name in m.counters:
            raise Conflict("taken")
        m.counters[name] = value

    def unit(conn: Connection, who: Principal) -> None:
        conn.execute(insert(counters), {"tenant": who.tenant, "name": name, "value": value})

    return "put", model, unit


def add(rng: random.Random) -> Step:
    name, by = rng.choice("abcdef"), rng.randrange(-50, 50)

    def model(m: Model) -> int:
        if name not in m.counters:
            raise NotFound("none")
        m.counters[name] += by
        return m.counters[name]

    def unit(conn: Connection, who: Principal) -> int:
        own = (counters.c.tenant == who.tenant) & (counters.c.name == name)
        found = conn.execute(select(counters.c.value).where(own)).scalar_one_or_none()
        if found is None:
            raise NotFound("none")
        conn.execute(update(counters).where(own).values(value=found + by))
        return int(found + by)

    return "add", model, unit


def upsert_all_or_none(rng: random.Random) -> Step:
    """Several rows; one that would fall below zero refuses the whole unit."""
    changes = [(rng.choice("abcdef"), rng.randrange(-40, 60)) for _ in range(3)]

    def model(m: Model) -> list[int]:
        after, seen = dict(m.counters), []
        for name, by in changes:
            after[name] = after.get(name, 0) + by
            seen.append(after[name])
            if after[name] < 0:
                raise Conflict("below zero")
        m.counters = after
        return seen

    def unit(conn: Connection, who: Principal) -> list[int]:
        seen = []
        for name, by in changes:
            values = {"tenant": who.tenant, "name": name, "by": by}
            seen.append(conn.execute(UPSERT, values).scalar_one())
            if seen[-1] < 0:
                raise Conflict("below zero")
        return seen

    return "upsert", model, unit


def savepoints(rng: random.Random) -> Step:
    """Each row in a savepoint of its own: those that are taken are skipped."""
    names, refuse = rng.sample("abcdef", 3), rng.random() < 0.3

    def model(m: Model) -> list[str]:
        fresh = [name for name in names if name not in m.counters]
        if refuse:
            raise NotFound("refused at the end")
        m.counters |= dict.fromkeys(fresh, 7)
        return fresh

    def unit(conn: Connection, who: Principal) -> list[str]:
        fresh = []
        for name in names:
            try:
                with conn.begin_nested():
                    row = {"tenant": who.tenant, "name": name, "value": 7}
                    conn.execute(insert(counters), row)
            except Exception as error:
                if not is_unique_violation(error):
                    raise
                continue
            fresh.append(name)
        if refuse:
            raise NotFound("refused at the end")
        return fresh

    return "savepoints", model, unit


def remove(rng: random.Random) -> Step:
    limit = rng.randrange(-20, 120)

    def model(m: Model) -> int:
        gone = [name for name, value in m.counters.items() if value < limit]
        if not gone:
            raise NotFound("none below")
        for name in gone:
            del m.counters[name]
        return len(gone)

    def unit(conn: Connection, who: Principal) -> int:
        below = (counters.c.tenant == who.tenant) & (counters.c.value < limit)
        gone = conn.execute(delete(counters).where(below)).rowcount
        if gone == 0:
            raise NotFound("none below")
        return gone

    return "remove", model, unit


def bulk(rng: random.Random) -> Step:
    names, skip = rng.sample("abcdef", 4), rng.random() < 0.5

    def model(m: Model) -> None:
        if not skip and any(name in m.counters for name in names):
            raise Conflict("taken")
        for name in names:
            m.counters.setdefault(name, 3)

    def unit(conn: Connection, who: Principal) -> None:
        rows = [(who.tenant, name, 3) for name in names]
        bulk_insert(conn, counters, ("tenant", "name", "value"), rows, skip_existing=skip)

    return "bulk", model, unit


def emit(rng: random.Random) -> Step:
    given = [(rng.randrange(12), rng.randrange(2)) for _ in range(rng.choice((1, 1, 3)))]

    def model(m: Model) -> None:
        after = dict(m.events)
        for number, value in given:
            if after.setdefault(str(number), value) != value:
                raise Conflict("other content")
        m.events = after

    def unit(conn: Connection, who: Principal) -> None:
        events = [
            Event(
                id=EventId(uuid7(number, bytes(10))),
                stream="oracle",
                type="oracle.happened",
                time=START,
                payload={"value": value},
            )
            for number, value in given
        ]
        OUTBOX.emit_many(conn, who, events)

    return "emit", model, unit


def idempotent(rng: random.Random) -> Step:
    key, body, forward = rng.choice("xyz"), rng.choice("pq"), rng.choice((0, 1, 9))
    answer = b"%d" % rng.randrange(1000)

    def model(m: Model) -> tuple[bytes, bool]:
        now = m.now + timedelta(hours=forward)
        found = m.answers.get(key)
        if found is not None and found[2] > now:
            if found[0] != body:
                raise Conflict("other body")
            return found[1], True
        m.answers[key] = (body, answer, now + timedelta(hours=24))
        return answer, False

    return "once", model, _once_unit(key, body, answer, forward)


def _once_unit(
    key: str, body: str, answer: bytes, forward: int
) -> Callable[[Connection, Principal], Any]:
    def unit(conn: Connection, who: Principal) -> tuple[bytes, bool]:
        now = START + timedelta(hours=forward)
        return once(conn, who, "route", key, body, now, lambda: answer)

    return unit


STEPS = (put, add, upsert_all_or_none, savepoints, remove, bulk, emit, idempotent)


def snapshot(who: Principal) -> Callable[[Connection], object]:
    def unit(conn: Connection) -> object:
        rows = conn.execute(
            select(counters.c.name, counters.c.value)
            .where(counters.c.tenant == who.tenant)
            .order_by(counters.c.name)
        )
        events = OUTBOX.ready(conn, who, BEGINNING, 1000)
        return [tuple(row) for row in rows], [entry.event.payload["value"] for entry in events]

    return unit


def told(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except HoldfastError as error:
        return error.kind


async def answered(database: Database, who: Principal, unit: Callable[..., Any]) -> Any:
    try:
        return await database.write(who, lambda conn: unit(conn, who))
    except HoldfastError as error:
        return error.kind


@pytest.fixture
async def both(sqlite_url: str, postgres_url: str) -> AsyncIterator[list[Database]]:
    async with (
        open_database(sqlite_url, clock=SystemClock()) as embedded,
        open_database(postgres_url, clock=SystemClock()) as server,
    ):
        for database in (embedded, server):
            await create_schema(database, SAMPLE)
        yield [embedded, server]


def seeds() -> range:
    if (only := os.environ.get("HOLDFAST_ORACLE_SEED")) is not None:
        return range(int(only), int(only) + 1)
    return range(10 * scale())


@pytest.mark.soak
async def test_both_engines_answer_as_the_model_does(both: list[Database]) -> None:
    outcomes: Counter[tuple[str, bool]] = Counter()
    for seed in seeds():
        await compare(both, seed, 60, outcomes)
    if len(seeds()) > 1:
        names = {name for name, _ in outcomes}
        assert len(names) == len(STEPS)
        assert {(name, ok) for name in names for ok in (True, False)} == set(outcomes)


async def compare(
    both: list[Database], seed: int, length: int, outcomes: Counter[tuple[str, bool]]
) -> None:
    """Run one seeded story in a tenant of its own."""
    rng = random.Random(seed)
    who = operator(TenantId(f"seed-{seed}"))
    model = Model()
    for number in range(length):
        name, on_model, unit = rng.choice(STEPS)(rng)
        expected = told(lambda on_model=on_model: on_model(model))
        outcomes[name, not isinstance(expected, str)] += 1
        given = [await answered(database, who, unit) for database in both]
        assert given == [expected, expected], f"seed {seed}, step {number}: {name}"
        if number % 10 == 9:
            seen = [await database.read(who, snapshot(who)) for database in both]
            assert seen == [model.snapshot()] * 2, f"seed {seed}, step {number}"
