"""The tables of passkeys and of ceremonies under way. No time, ids or randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Connection, Index, LargeBinary, Row, Text, text

from holdfast.kernel.database import tenant_table

passkeys = tenant_table(
    "passkeys",
    Column("id", Text, primary_key=True, nullable=False),
    Column("person", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("backed_up", Boolean, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("used_at", Text, nullable=False),
    Column("ended_at", Text),
    Column("event_id", Text, nullable=False),
    Index("ix_passkeys_credential", "tenant", "credential", unique=True),
    Index("ix_passkeys_person", "tenant", "person"),
)
"""Passkeys: the public key (COSE), and the counter as it was last seen."""

ceremonies = tenant_table(
    "ceremonies",
    Column("id", Text, primary_key=True, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Index("ix_ceremonies_expires_at", "tenant", "expires_at"),
)
"""Sign-ins under way, for some minutes: what was asked, and of whom. Taken out when answered."""

_ADD = text(
    "INSERT INTO passkeys (tenant, id, person, credential, public_key, counter, name, backed_up,"
    " created_at, used_at, event_id)"
    " VALUES (:tenant, :id, :person, :credential, :public_key, :counter, :name, :backed_up,"
    " :created_at, :used_at, :event_id)"
)
_FIND = text("SELECT * FROM passkeys WHERE tenant = :tenant AND id = :id")
_BY_CREDENTIAL = text("SELECT * FROM passkeys WHERE tenant = :tenant AND credential = :credential")
_OF_PERSON = text(
    "SELECT * FROM passkeys WHERE tenant = :tenant AND person = :person ORDER BY id DESC LIMIT 200"
)
_COUNT = text(
    "SELECT count(*) FROM passkeys"
    " WHERE tenant = :tenant AND person = :person AND ended_at IS NULL AND id <> :besides"
)
_USED = text(
    "UPDATE passkeys SET counter = :counter, backed_up = :backed_up, used_at = :at"
    " WHERE tenant = :tenant AND id = :id AND counter = :before AND ended_at IS NULL"
)
_END = text(
    "UPDATE passkeys SET ended_at = :at WHERE tenant = :tenant AND id = :id AND ended_at IS NULL"
)
_REMOVE_OF = text("DELETE FROM passkeys WHERE tenant = :tenant AND person = :person")
_BEGIN = text(
    "INSERT INTO ceremonies (tenant, id, kind, data, expires_at)"
    " VALUES (:tenant, :id, :kind, :data, :expires_at)"
)
_TAKE = text(
    "DELETE FROM ceremonies WHERE tenant = :tenant AND id = :id AND kind = :kind"
    " RETURNING data, expires_at"
)
_FORGET = text("DELETE FROM ceremonies WHERE tenant = :tenant AND expires_at <= :now")
_UNDER_WAY = text("SELECT count(*) FROM ceremonies WHERE tenant = :tenant")
_FORGET_OLDEST = text(
    "DELETE FROM ceremonies WHERE tenant = :tenant AND id IN (SELECT id FROM ceremonies"
    " WHERE tenant = :tenant ORDER BY expires_at, id LIMIT :many)"
)


def add_passkey(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD, dict(values))


def find_passkey(conn: Connection, tenant: str, passkey: str) -> Row[Any] | None:
    return conn.execute(_FIND, {"tenant": tenant, "id": passkey}).one_or_none()


def find_by_credential(conn: Connection, tenant: str, credential: str) -> Row[Any] | None:
    values = {"tenant": tenant, "credential": credential}
    return conn.execute(_BY_CREDENTIAL, values).one_or_none()


def passkeys_of(conn: Connection, tenant: str, person: str) -> Sequence[Row[Any]]:
    return conn.execute(_OF_PERSON, {"tenant": tenant, "person": person}).all()


def count_passkeys(conn: Connection, tenant: str, person: str, besides: str = "") -> int:
    """How many passkeys of this person hold, ``besides`` one."""
    values = {"tenant": tenant, "person": person, "besides": besides}
    found: int = conn.execute(_COUNT, values).scalar_one()
    return found


def note_use(conn: Connection, row: Row[Any], counter: int, backed_up: bool, at: str) -> bool:
    """Keep the new counter; false if the passkey was used or ended since ``row`` was read."""
    values = {
        "tenant": row.tenant,
        "id": row.id,
        "before": row.counter,
        "counter": counter,
        "backed_up": backed_up,
        "at": at,
    }
    return conn.execute(_USED, values).rowcount == 1


def end_passkey(conn: Connection, tenant: str, passkey: str, at: str) -> bool:
    return conn.execute(_END, {"tenant": tenant, "id": passkey, "at": at}).rowcount == 1


def remove_passkeys_of(conn: Connection, tenant: str, person: str) -> None:
    """Remove what is known of a person's devices."""
    conn.execute(_REMOVE_OF, {"tenant": tenant, "person": person})


def begin_ceremony(conn: Connection, values: Mapping[str, Any], now: str, most: int) -> None:
    """Keep a ceremony; forget those that are over, and the oldest where ``most`` are under way."""
    tenant = values["tenant"]
    conn.execute(_FORGET, {"tenant": tenant, "now": now})
    over = conn.execute(_UNDER_WAY, {"tenant": tenant}).scalar_one() - most + 1
    if over > 0:
        conn.execute(_FORGET_OLDEST, {"tenant": tenant, "many": over})
    conn.execute(_BEGIN, dict(values))


def take_ceremony(conn: Connection, tenant: str, ceremony: str, kind: str) -> Row[Any] | None:
    """Take it out: whatever comes of it, it will not be there again."""
    values = {"tenant": tenant, "id": ceremony, "kind": kind}
    return conn.execute(_TAKE, values).one_or_none()
