"""Events, written in the transaction that changes the state: evidence and state commit together.

:meth:`Outbox.emit` checks everything that the ledger could refuse, so that a row which is once
committed can always be moved there. The payload is sealed before it touches the table. What the
ledger's tree will hold is a small canonical header and ``HMAC-SHA256(salt, payload)``; salt and
payload are sealed together, so re-encryption changes no leaf and a receipt can disclose one payload
without its neighbours.

**Order.** A relay moves rows into the ledger in the order of ``(transaction_id, sequence)``. On
SQLite there is one writer, ``transaction_id`` is 0 and ``sequence`` counts per tenant without gaps.
On PostgreSQL a sequence number is drawn before its transaction commits, so a smaller one may become
visible later; hence each row carries its transaction's id, and the relay reads only rows of
transactions below the oldest one still running (:meth:`Outbox.ready`): all of those that will ever
be there are there. Rolled-back transactions leave gaps in ``sequence``, never in that order.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, Sequence, Text, text

from holdfast.kernel.canonical import INTEGER_MAX, canonical, decode_strict
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import as_source, bulk_insert, metadata, tenant_table
from holdfast.kernel.errors import Conflict, Corrupt, Invalid, NotFound, TooLarge
from holdfast.kernel.ids import EventId, is_id
from holdfast.kernel.principal import Principal

LEAF_BYTES_MAX = 65_535
PAYLOAD_BYTES_MAX = 1024 * 1024
SEALED_ELSEWHERE = "event-sealed-elsewhere"
"""The code of an event that no key of ours opens, and that nobody's erasure explains."""
SALT_BYTES = 32
_STREAM = re.compile(r"[a-z][a-z0-9-]{0,62}(?:/[a-z0-9](?:[a-z0-9._:-]{0,126}[a-z0-9])?){0,4}")
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,62}(?:\.[a-z][a-z0-9-]{0,62}){1,3}")
_OPAQUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}|")
STREAM_NAMES = (
    "a stream is one to five parts with / between them, such as orders/17: the first begins with a "
    "small letter and has small letters, digits and -, up to 63; the others have . _ : as well, "
    "inside, up to 128"
)
TYPE_NAMES = (
    "a type is two to four words with . between them, such as order.placed: each begins with a "
    "small letter and has small letters, digits and -, up to 63"
)
OPAQUE_NAMES = "letters, digits and . _ : - are taken, up to 128, a letter or digit first"

log = structlog.get_logger(__name__)


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, as its slice tells it.

    ``id`` is a fresh UUIDv7: the same id is the same event, however often it is emitted.
    ``stream`` groups events in order (``run/<id>``, ``profile/<name>``), ``type`` says what
    happened (``run.finished``). ``payload`` is plain canonical data: decimals are text. ``subject``
    is who did it, an opaque id; the principal's own if it is empty. ``about`` is the keyed name of
    the person whose personal data the payload holds, if it holds any: it is then sealed under that
    person's own key, and unreadable once they are erased.
    """

    id: EventId
    stream: str
    type: str
    time: datetime
    payload: dict[str, Any]
    subject: str = ""
    request_id: str = ""
    about: str = ""


class Sealed(Struct, frozen=True):
    """Sealed bytes, and how: ``algorithm`` names the scheme and the key."""

    algorithm: str
    data: bytes


class Unsealed(Struct, frozen=True):
    """What sealed bytes open to, and the keyed name of the person whose own key that takes.

    The name is empty if it is nobody's own, and None where nobody can tell.
    """

    plain: bytes
    about: str | None = None


class Sealer(Protocol):
    """Seals what leaves the transaction. The keyring's is the real one."""

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        """``plain`` under the tenant's key, bound to tenant, purpose and object.

        Under the subject's own key instead, if the keyed name of one is given.
        """
        ...

    def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
        """The plain bytes; ``Corrupt`` if they are not what :meth:`seal` made for these.

        ``NotFound`` (``key-destroyed``) if there is no such key (any more).
        """
        ...

    def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
        """Those of these keyed names whose persons are on record here as erased: what was sealed
        under their own keys nobody can read."""
        ...


class ClearSealer:
    """Seals nothing: a stand-in for development. Says so loudly when it is made."""

    ALGORITHM = "clear"

    def __init__(self) -> None:
        log.warning("sealer.clear", detail="event payloads are stored in clear: no keyring")

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        return Sealed(self.ALGORITHM, plain)

    def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
        if sealed.algorithm != self.ALGORITHM:
            raise Corrupt(f"cannot unseal: sealed by {sealed.algorithm}, this sealer is clear")
        return sealed.data

    def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
        return set()


outbox_sequence = Sequence("outbox_sequence", metadata=metadata)

outbox = tenant_table(
    "outbox",
    Column("event_id", Text, primary_key=True, nullable=False),
    Column("transaction_id", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("stream", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("time", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("about", Text, nullable=False, server_default=text("''")),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("payload_commitment", LargeBinary, nullable=False),
    Column("sealing", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("ix_outbox_order", "tenant", "transaction_id", "sequence", unique=True),
)
"""Events that the ledger does not hold yet."""

outbox_position = tenant_table(
    "outbox_position",
    Column("sequence", BigInteger, nullable=False),
)
"""The last sequence number given out in each tenant. SQLite only: there it contends with nobody."""

# Named per dialect. SQLite: one writer, so looking first is free, and so is a counter row, which
# leaves no gaps.
_FIND_SQLITE = text(
    "SELECT * FROM outbox WHERE tenant = :tenant"
    " AND event_id IN (SELECT value FROM json_each(:ids))"
)
_NEXT_SQLITE = text(
    "INSERT INTO outbox_position (tenant, sequence) VALUES (:tenant, :amount)"
    " ON CONFLICT (tenant) DO UPDATE SET sequence = outbox_position.sequence + excluded.sequence"
    " RETURNING sequence"
)
# PostgreSQL: one statement that reads nothing. A counter row, or a look at the index before the
# insert, would make every two writers of a tenant conflict under serializable isolation.
_INSERT_POSTGRESQL = (
    "INSERT INTO outbox (tenant, event_id, stream, type, time, subject, request_id, about,"
    " payload_bytes, payload_commitment, sealing, sealed, transaction_id, sequence)"
    " SELECT given.*, CAST(CAST(pg_current_xact_id() AS text) AS bigint),"
    " nextval('outbox_sequence') FROM ({source}) AS given"
    " ON CONFLICT (tenant, event_id) DO NOTHING RETURNING event_id"
)
_FIND_POSTGRESQL = text(
    "SELECT * FROM outbox WHERE tenant = :tenant AND event_id = ANY(CAST(:ids AS text[]))"
)
_COLUMNS = (
    "tenant",
    "event_id",
    "stream",
    "type",
    "time",
    "subject",
    "request_id",
    "about",
    "payload_bytes",
    "payload_commitment",
    "sealing",
    "sealed",
)
_TYPES = tuple(
    {"payload_bytes": "bigint", "payload_commitment": "bytea", "sealed": "bytea"}.get(name, "text")
    for name in _COLUMNS
)
_READY_SQLITE = text(
    "SELECT * FROM outbox WHERE tenant = :tenant"
    " AND (transaction_id, sequence) > (:transaction_id, :sequence)"
    " ORDER BY transaction_id, sequence LIMIT :limit"
)
_READY_POSTGRESQL = text(
    "SELECT * FROM outbox WHERE tenant = :tenant"
    " AND (transaction_id, sequence) > (:transaction_id, :sequence)"
    " AND transaction_id <"
    " CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
    " ORDER BY transaction_id, sequence LIMIT :limit"
)


_CLEAR = text(
    "SELECT tenant, event_id, about, sealed FROM outbox"
    " WHERE tenant = :tenant AND sealing = 'clear' ORDER BY event_id LIMIT :limit"
)
_SEAL_CLEAR = text(
    "UPDATE outbox SET sealing = :sealing, sealed = :sealed"
    " WHERE tenant = :tenant AND event_id = :event_id"
)
_FORGET = {
    "sqlite": text(
        "DELETE FROM outbox WHERE tenant = :tenant"
        " AND event_id IN (SELECT value FROM json_each(:ids))"
    ),
    "postgresql": text(
        "DELETE FROM outbox WHERE tenant = :tenant"
        " AND event_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:ids AS jsonb))))"
    ),
}
_WAITING = text("SELECT count(*), min(time) FROM outbox WHERE tenant = :tenant")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of a tenant's outbox."""

    transaction_id: int
    sequence: int


BEGINNING = Position(-1, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the outbox, unsealed: what the ledger is given.

    ``sealed`` is salt and payload as they lie there, bound to the event's id. If the person the
    payload is about was erased meanwhile, salt, payload and the event's payload are empty.
    """

    event: Event
    position: Position
    salt: bytes
    payload: bytes
    commitment: bytes
    sealed: Sealed
    payload_bytes: int

    @property
    def erased(self) -> bool:
        """Whether nobody can read the payload any more."""
        return not self.salt


@dataclass(frozen=True, slots=True)
class Page:
    """Rows that were looked at: what they say, the ids of those that another keyring has sealed,
    and the place of the last; None if there was none."""

    entries: list[Entry]
    elsewhere: list[str]
    last: Position | None


_Given = dict[str, tuple[Event, str, bytes]]
"""By event id: the event, its subject, its payload's canonical bytes."""


class Outbox:
    """Writes events beside the state they are evidence of. ``random`` makes the salts."""

    PURPOSE = "event-payload"

    def __init__(self, sealer: Sealer, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._sealer = sealer
        self._random = random

    def emit(self, conn: Connection, principal: Principal, event: Event) -> None:
        """Write ``event`` in the caller's transaction.

        The same id with the same content again does nothing; with other content it is a
        ``Conflict``. ``Invalid`` and ``TooLarge`` for whatever the ledger would refuse, so that
        the state change it belongs to is refused with it.
        """
        self.emit_many(conn, principal, [event])

    def emit_many(self, conn: Connection, principal: Principal, events: Iterable[Event]) -> None:
        """:meth:`emit` of each event, in their order, in a handful of statements for all."""
        given: dict[str, tuple[Event, str, bytes]] = {}
        for event in events:
            payload = checked_payload(event)
            subject = event.subject or principal.subject
            check_names(event, subject)
            checked_header(principal.tenant, event, subject, len(payload))
            if given.setdefault(event.id, (event, subject, payload)) != (event, subject, payload):
                raise _reused(event)
        if not given:
            return
        if conn.dialect.name == "sqlite":
            self._emit_sqlite(conn, principal, given)
        else:
            self._emit_postgresql(conn, principal, given)

    def _emit_sqlite(self, conn: Connection, principal: Principal, given: _Given) -> None:
        ids = {"tenant": principal.tenant, "ids": msgspec.json.encode(list(given)).decode()}
        there = {row.event_id: row for row in conn.execute(_FIND_SQLITE, ids)}
        self._check_same(there, given)
        fresh = [each for id_, each in given.items() if id_ not in there]
        if not fresh:
            return
        values = {"tenant": principal.tenant, "amount": len(fresh)}
        last = int(conn.execute(_NEXT_SQLITE, values).scalar_one())
        rows = [
            (*self._row(principal, *each), 0, number)
            for number, each in enumerate(fresh, last - len(fresh) + 1)
        ]
        bulk_insert(conn, outbox, (*_COLUMNS, "transaction_id", "sequence"), rows)

    def _emit_postgresql(self, conn: Connection, principal: Principal, given: _Given) -> None:
        rows = [self._row(principal, *each) for each in given.values()]
        source, values = as_source(_TYPES, _COLUMNS, rows)
        statement = _INSERT_POSTGRESQL.format(source=source)
        stored = set(conn.exec_driver_sql(statement, values).scalars())
        if len(stored) == len(given):
            return
        others = {id_: each for id_, each in given.items() if id_ not in stored}
        ids = {"tenant": principal.tenant, "ids": list(others)}
        there = {row.event_id: row for row in conn.execute(_FIND_POSTGRESQL, ids)}
        self._check_same(there, others)

    def _row(
        self, principal: Principal, event: Event, subject: str, payload: bytes
    ) -> tuple[Any, ...]:
        salt = self._random(SALT_BYTES)
        sealed = self._sealer.seal(
            principal.tenant, self.PURPOSE, event.id, salt + payload, subject=event.about
        )
        return (
            principal.tenant,
            event.id,
            event.stream,
            event.type,
            timestamp(event.time),
            subject,
            event.request_id,
            event.about,
            len(payload),
            commitment(salt, payload),
            sealed.algorithm,
            sealed.data,
        )

    def ready(
        self, conn: Connection, principal: Principal, after: Position, limit: int
    ) -> list[Entry]:
        """The next entries that may be moved to the ledger, in order: none before them can come.

        ``Corrupt`` if a row's payload does not match its commitment, or (``SEALED_ELSEWHERE``) if
        another keyring has sealed it: such a one must wait for whoever can open it.
        """
        return [self._entry(row) for row in self._rows(conn, principal, after, limit)]

    def page(self, conn: Connection, principal: Principal, after: Position, limit: int) -> Page:
        """:meth:`ready` for whoever only looks: what another keyring has sealed is named."""
        page = Page([], [], None)
        for row in self._rows(conn, principal, after, limit):
            page = replace(page, last=Position(row.transaction_id, row.sequence))
            try:
                page.entries.append(self._entry(row))
            except Corrupt as error:
                if error.code != SEALED_ELSEWHERE:
                    raise
                page.elsewhere.append(row.event_id)
        return page

    def _rows(
        self, conn: Connection, principal: Principal, after: Position, limit: int
    ) -> SequenceOf[Any]:
        statement = _READY_SQLITE if conn.dialect.name == "sqlite" else _READY_POSTGRESQL
        values = {
            "tenant": principal.tenant,
            "transaction_id": after.transaction_id,
            "sequence": after.sequence,
            "limit": limit,
        }
        return conn.execute(statement, values).all()

    def forget(self, conn: Connection, principal: Principal, ids: SequenceOf[str]) -> None:
        """Take events out that the ledger holds. One that is not there is fine."""
        values = {"tenant": principal.tenant, "ids": msgspec.json.encode(list(ids)).decode()}
        conn.execute(_FORGET[conn.dialect.name], values)

    def waiting(self, conn: Connection, principal: Principal) -> tuple[int, datetime | None]:
        """How many events wait, and since when the oldest does."""
        row = conn.execute(_WAITING, {"tenant": principal.tenant}).one()
        return row[0], None if row[1] is None else datetime.fromisoformat(row[1])

    def _opened(self, row: Any) -> tuple[bytes, bytes]:
        plain = self._sealer.unseal(
            row.tenant, self.PURPOSE, row.event_id, Sealed(row.sealing, bytes(row.sealed))
        )
        salt, payload = plain[:SALT_BYTES], plain[SALT_BYTES:]
        if not hmac.compare_digest(commitment(salt, payload), bytes(row.payload_commitment)):
            raise Corrupt(f"cannot read the event {row.event_id}: its payload is not its own")
        return salt, payload

    def _check_same(self, there: dict[str, Any], given: _Given) -> None:
        """``Conflict`` if a row that is there differs from the event given under its id."""
        for id_, row in there.items():
            event, subject, payload = given[id_]
            same = (row.stream, row.type, row.time, row.subject, row.request_id, row.about) == (
                event.stream,
                event.type,
                timestamp(event.time),
                subject,
                event.request_id,
                event.about,
            )
            if not same or not hmac.compare_digest(self._opened(row)[1], payload):
                raise _reused(event)

    def _entry(self, row: Any) -> Entry:
        try:
            salt, payload = self._opened(row)
        except NotFound as error:
            if not (row.about and self._sealer.erased(row.tenant, {row.about})):
                # It is to be kept for whoever has the keyring that it was sealed under.
                raise Corrupt(
                    f"cannot open the event {row.event_id}: it was sealed under another keyring",
                    code=SEALED_ELSEWHERE,
                ) from error
            salt, payload = b"", b""
        return Entry(
            event=Event(
                id=EventId(row.event_id),
                stream=row.stream,
                type=row.type,
                time=datetime.fromisoformat(row.time),
                payload=decode_strict(payload) if salt else {},
                subject=row.subject,
                request_id=row.request_id,
                about=row.about,
            ),
            position=Position(row.transaction_id, row.sequence),
            salt=salt,
            payload=payload,
            commitment=bytes(row.payload_commitment),
            sealed=Sealed(row.sealing, bytes(row.sealed)),
            payload_bytes=row.payload_bytes,
        )

    def seal_clear(self, conn: Connection, principal: Principal, limit: int) -> int:
        """Seal rows that a release without a keyring left in clear; how many. 0: none is left."""
        if conn.dialect.name == "sqlite":
            conn.exec_driver_sql("PRAGMA secure_delete=ON")  # nothing is left in freed pages
        found = conn.execute(_CLEAR, {"tenant": principal.tenant, "limit": limit}).all()
        for row in found:
            sealed = self._sealer.seal(
                row.tenant, self.PURPOSE, row.event_id, bytes(row.sealed), subject=row.about
            )
            conn.execute(
                _SEAL_CLEAR,
                {
                    "tenant": row.tenant,
                    "event_id": row.event_id,
                    "sealing": sealed.algorithm,
                    "sealed": sealed.data,
                },
            )
        return len(found)


def _reused(event: Event) -> Conflict:
    return Conflict(
        f"cannot append the event {event.id}: the id was used with other content",
        code="event-id-reused",
    )


def commitment(salt: bytes, payload: bytes) -> bytes:
    """What a leaf holds of a payload: binding, and telling nothing without the salt."""
    return hmac.digest(salt, payload, "sha256")


def checked_payload(event: Event) -> bytes:
    """The canonical bytes of the payload; ``Invalid`` or ``TooLarge`` if the ledger refused it."""
    payload = canonical(event.payload)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise TooLarge(
            f"cannot append {event.type}: its payload has {len(payload)} bytes, "
            f"at most {PAYLOAD_BYTES_MAX} are taken"
        )
    return payload


def checked_header(tenant: str, event: Event, subject: str, payload_bytes: int) -> None:
    """``TooLarge`` if the leaf could outgrow its bound, whatever version it will be given."""
    names = (tenant, event.id, event.stream, event.type, subject, event.request_id)
    if 6 * sum(map(len, names)) + 1024 <= LEAF_BYTES_MAX:
        return  # a character takes six bytes at most: no need to write the leaf to know
    leaf = canonical(
        {
            "commitment": "0" * 64,
            "id": event.id,
            "length": payload_bytes,
            "recorded": timestamp(event.time),
            "request": event.request_id,
            "stream": event.stream,
            "subject": subject,
            "tenant": tenant,
            "time": timestamp(event.time),
            "type": event.type,
            "version": INTEGER_MAX,
        }
    )
    if len(leaf) > LEAF_BYTES_MAX:
        raise TooLarge(
            f"cannot append {event.type}: its leaf has {len(leaf)} bytes, "
            f"at most {LEAF_BYTES_MAX} are taken"
        )


def check_names(event: Event, subject: str) -> None:
    """``Invalid`` if the stream, type, subject, request id or id is no name."""
    for what, value, good in (
        ("stream", event.stream, _STREAM.fullmatch(event.stream)),
        ("type", event.type, _is_type(event.type)),
        ("subject", subject, _is_opaque(subject)),
        ("request id", event.request_id, _is_opaque(event.request_id)),
        ("about", event.about, _is_opaque(event.about)),
    ):
        if not good:
            raise Invalid(
                f"cannot append the event {event.id[:80]}: its {what} {value[:80]!r} is no name",
                hint={"stream": STREAM_NAMES, "type": TYPE_NAMES}.get(what, OPAQUE_NAMES),
            )
    if not is_id(event.id):
        raise Invalid(
            f"cannot append: the event id {event.id[:80]!r} is no id",
            hint="an id is a UUIDv7 in small letters, such as "
            "0190e4a8-7b2c-7d10-9f3e-5a6b7c8d9e0f; left out, one is made",
        )


# The same few come again and again.


@lru_cache(maxsize=1024)
def _is_type(name: str) -> bool:
    return _TYPE.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _is_opaque(name: str) -> bool:
    return _OPAQUE.fullmatch(name) is not None
