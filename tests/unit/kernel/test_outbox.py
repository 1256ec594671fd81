"""Evidence beside state: what is emitted, what is refused, and in which order it may be read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Corrupt, HoldfastError, Invalid, TooLarge
from holdfast.kernel.ids import EventId, TenantId, uuid7
from holdfast.kernel.outbox import (
    BEGINNING,
    PAYLOAD_BYTES_MAX,
    ClearSealer,
    Event,
    Outbox,
    Position,
    Sealed,
    commitment,
)
from holdfast.kernel.principal import operator

ONE = operator()
OTHER = operator(TenantId("other"))
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@dataclass
class XorSealer:
    """A toy cipher that binds what it seals to tenant, purpose and object."""

    sealed: list[tuple[str, str, str]] = field(default_factory=list)

    def _pad(self, tenant: str, purpose: str, object_id: str) -> int:
        return sum(f"{tenant}/{purpose}/{object_id}".encode()) % 255 + 1

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        self.sealed.append((tenant, purpose, object_id))
        pad = self._pad(tenant, purpose, object_id)
        return Sealed("xor-1", bytes(byte ^ pad for byte in plain))

    def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
        pad = self._pad(tenant, purpose, object_id)
        return bytes(byte ^ pad for byte in sealed.data)

    def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
        return set()


def event(number: int, **changes: Any) -> Event:
    given: dict[str, Any] = {
        "id": EventId(uuid7(1_700_000_000_000 + number, number.to_bytes(10, "big"))),
        "stream": "run/0190a",
        "type": "run.finished",
        "time": NOW,
        "payload": {"n": number, "value": "1.50"},
    }
    return Event(**(given | changes))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(XorSealer())


def emitting(outbox: Outbox, *events: Event, principal=ONE):
    def unit(conn: Connection) -> None:
        for each in events:
            outbox.emit(conn, principal, each)

    return unit


async def ready(
    database: Database, outbox: Outbox, after: Position = BEGINNING, limit: int = 100, who=ONE
):
    return await database.read(who, lambda conn: outbox.ready(conn, who, after, limit))


async def test_an_event_comes_out_as_it_went_in(database: Database, outbox: Outbox) -> None:
    given = event(1, subject="worker-7", request_id="req-1")
    await database.write(ONE, emitting(outbox, given))
    (entry,) = await ready(database, outbox)
    assert entry.event == given
    assert entry.payload == b'{"n":1,"value":"1.50"}'
    assert entry.commitment == commitment(entry.salt, entry.payload)
    assert len(entry.salt) == 32


async def test_the_principal_is_the_subject_unless_another_is_named(
    database: Database, outbox: Outbox
) -> None:
    await database.write(ONE, emitting(outbox, event(1), event(2, subject="worker-7")))
    entries = await ready(database, outbox)
    assert [entry.event.subject for entry in entries] == ["operator", "worker-7"]


async def test_the_payload_is_sealed_before_it_reaches_the_table(database: Database) -> None:
    sealer = XorSealer()
    await database.write(ONE, emitting(Outbox(sealer), event(1, payload={"secret": "marker"})))

    def unit(conn: Connection) -> str:
        return repr(conn.execute(text("SELECT * FROM outbox WHERE tenant = 'default'")).all())

    assert "marker" not in await database.read(ONE, unit)
    assert sealer.sealed == [("default", "event-payload", event(1).id)]


async def test_equal_payloads_have_unequal_commitments(database: Database, outbox: Outbox) -> None:
    same = {"same": "text"}
    await database.write(ONE, emitting(outbox, event(1, payload=same), event(2, payload=same)))
    first, second = await ready(database, outbox)
    assert first.payload == second.payload
    assert first.commitment != second.commitment


async def test_the_event_is_there_only_if_its_transaction_is(
    database: Database, outbox: Outbox
) -> None:
    def unit(conn: Connection) -> None:
        outbox.emit(conn, ONE, event(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(ONE, unit)
    assert await ready(database, outbox) == []


async def test_the_same_event_twice_is_one(database: Database, outbox: Outbox) -> None:
    await database.write(ONE, emitting(outbox, event(1), event(1)))
    await database.write(ONE, emitting(outbox, event(1)))
    assert len(await ready(database, outbox)) == 1


async def test_many_events_keep_their_order_and_skip_those_that_are_there(
    database: Database, outbox: Outbox
) -> None:
    def unit(conn: Connection) -> None:
        outbox.emit_many(conn, ONE, [])
        outbox.emit_many(conn, ONE, [event(9), event(3), event(3), event(5), event(1)])

    await database.write(ONE, emitting(outbox, event(5)))
    await database.write(ONE, unit)
    await database.write(ONE, unit)
    entries = await ready(database, outbox)
    assert [entry.event.payload["n"] for entry in entries] == [5, 9, 3, 1]

    def conflicting(conn: Connection) -> None:
        outbox.emit_many(conn, ONE, [event(20), event(5, payload={})])

    def doubled(conn: Connection) -> None:
        outbox.emit_many(conn, ONE, [event(21), event(21, payload={})])

    for refused in (conflicting, doubled):
        with pytest.raises(Conflict):
            await database.write(ONE, refused)
    assert len(await ready(database, outbox)) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"n": 2, "value": "1.50"}},
        {"type": "run.failed"},
        {"stream": "run/other"},
        {"time": NOW.replace(microsecond=0)},
        {"subject": "somebody"},
        {"request_id": "req-9"},
    ],
)
async def test_the_same_id_with_other_content_is_a_conflict(
    database: Database, outbox: Outbox, changes: dict[str, Any]
) -> None:
    await database.write(ONE, emitting(outbox, event(1)))
    with pytest.raises(Conflict):
        await database.write(ONE, emitting(outbox, event(1, **changes)))
    (entry,) = await ready(database, outbox)
    assert entry.event.payload == event(1).payload


async def test_one_id_in_two_tenants_is_two_events(database: Database, outbox: Outbox) -> None:
    await database.write(ONE, emitting(outbox, event(1)))
    await database.write(OTHER, emitting(outbox, event(1, payload={}), principal=OTHER))
    (mine,) = await ready(database, outbox)
    (theirs,) = await ready(database, outbox, who=OTHER)
    assert mine.event.payload == event(1).payload
    assert theirs.event.payload == {}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"id": "not-an-id"}, Invalid),
        ({"stream": ""}, Invalid),
        ({"stream": "Run/1"}, Invalid),
        ({"stream": "run/" + "x" * 200}, Invalid),
        ({"stream": "run/../x"}, Invalid),
        ({"type": "finished"}, Invalid),
        ({"type": "run.Finished"}, Invalid),
        ({"subject": "a name with spaces"}, Invalid),
        ({"request_id": "x" * 200}, Invalid),
        ({"payload": {"f": 1.5}}, Invalid),
        ({"payload": {"n": 2**53}}, Invalid),
        ({"payload": {"s": "\ud800"}}, Invalid),
        ({"payload": {"b": "x" * PAYLOAD_BYTES_MAX}}, TooLarge),
    ],
)
async def test_what_the_ledger_would_refuse_is_refused_with_its_state_change(
    database: Database, outbox: Outbox, changes: dict[str, Any], kind: type[HoldfastError]
) -> None:
    with pytest.raises(kind):
        await database.write(ONE, emitting(outbox, event(1), event(2, **changes)))
    assert await ready(database, outbox) == []


async def test_a_payload_that_was_tampered_with_is_found(
    database: Database, outbox: Outbox
) -> None:
    await database.write(ONE, emitting(outbox, event(1)))

    def tamper(conn: Connection) -> None:
        sealed = conn.execute(
            text("SELECT sealed FROM outbox WHERE tenant = 'default'")
        ).scalar_one()
        other = bytes(sealed[:-2]) + bytes([sealed[-2] ^ 1]) + bytes(sealed[-1:])
        conn.execute(
            text("UPDATE outbox SET sealed = :sealed WHERE tenant = 'default'"), {"sealed": other}
        )

    await database.write(ONE, tamper)
    with pytest.raises(Corrupt):
        await ready(database, outbox)


async def test_entries_are_read_in_order_and_by_pages(database: Database, outbox: Outbox) -> None:
    await asyncio.gather(*(database.write(ONE, emitting(outbox, event(i))) for i in range(25)))
    await database.write(OTHER, emitting(outbox, event(99), principal=OTHER))
    found: list[int] = []
    position = BEGINNING
    while page := await ready(database, outbox, position, limit=10):
        assert page[0].position > position
        found += [entry.event.payload["n"] for entry in page]
        position = page[-1].position
    assert sorted(found) == list(range(25))
    assert await ready(database, outbox, position) == []


async def test_numbers_have_no_gaps_on_sqlite(sqlite_database: Database, outbox: Outbox) -> None:
    def refused(conn: Connection) -> None:
        outbox.emit(conn, ONE, event(50))
        raise ZeroDivisionError

    for i in range(3):
        await sqlite_database.write(ONE, emitting(outbox, event(i)))
        with pytest.raises(ZeroDivisionError):
            await sqlite_database.write(ONE, refused)
    entries = await ready(sqlite_database, outbox)
    assert [entry.position for entry in entries] == [Position(0, n) for n in (1, 2, 3)]


async def test_nothing_is_read_past_a_transaction_that_still_runs(
    postgres_database: Database, outbox: Outbox
) -> None:
    """An earlier number becomes visible after a later one: the relay must wait for it."""
    from sqlalchemy.util import await_only

    begun, finish = asyncio.Event(), asyncio.Event()

    def slow(conn: Connection) -> None:
        outbox.emit(conn, ONE, event(1))
        begun.set()
        await_only(finish.wait())

    running = asyncio.ensure_future(postgres_database.write(ONE, slow))
    await asyncio.wait_for(begun.wait(), 60)
    await postgres_database.write(ONE, emitting(outbox, event(2)))
    # The second is committed and visible, yet not ready: the first would come before it.
    count = text("SELECT count(*) FROM outbox WHERE tenant = 'default'")
    assert await postgres_database.read(ONE, lambda conn: conn.execute(count).scalar()) == 1
    assert await ready(postgres_database, outbox) == []
    finish.set()
    await running
    entries = await ready(postgres_database, outbox)
    # Whichever the server let in first (it may have asked for a repetition): all are there.
    assert sorted(entry.event.payload["n"] for entry in entries) == [1, 2]
    assert entries[0].position < entries[1].position


def test_the_stand_in_for_the_keyring_is_loud() -> None:
    with capture_logs() as logs:
        sealer = ClearSealer()
    assert [(each["log_level"], each["event"]) for each in logs] == [("warning", "sealer.clear")]
    sealed = sealer.seal("default", "event-payload", "x", b"plain")
    assert sealer.unseal("default", "event-payload", "x", sealed) == b"plain"
    with pytest.raises(Corrupt):
        sealer.unseal("default", "event-payload", "x", Sealed("other", b"plain"))
