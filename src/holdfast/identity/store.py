"""The tables of identity and the statements on them. Units of work; no time, ids or randomness.

A key's row is written once and ended once; what happened to it besides is in the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, LargeBinary, Row, Text, text

from holdfast.kernel.database import tenant_table

api_keys = tenant_table(
    "api_keys",
    Column("id", Text, primary_key=True, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("permissions", Text, nullable=False),
    Column("profiles", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("revoked_at", Text),
    Column("event_id", Text, nullable=False),
)
"""API keys: an HMAC of the secret, what it may do, until when. Lists are JSON."""

roles = tenant_table(
    "roles",
    Column("name", Text, primary_key=True, nullable=False),
    Column("permissions", Text, nullable=False),
    Column("changed_at", Text, nullable=False),
    Column("event_id", Text, nullable=False),
)
"""The tenant's own roles; those that are built in have no rows."""

_ADD_KEY = text(
    "INSERT INTO api_keys (tenant, id, name, secret, pepper, permissions, profiles, addresses,"
    " created_at, created_by, expires_at, event_id)"
    " VALUES (:tenant, :id, :name, :secret, :pepper, :permissions, :profiles, :addresses,"
    " :created_at, :created_by, :expires_at, :event_id)"
)
_KEY = text("SELECT * FROM api_keys WHERE tenant = :tenant AND id = :id")
_KEY_AT_DOOR = text(
    "SELECT k.*, (SELECT min(r.backed_up_at) FROM access_restores r"
    " WHERE r.tenant = k.tenant AND NOT r.confirmed) AS unconfirmed_since"
    " FROM api_keys k WHERE k.tenant = :tenant AND k.id = :id"
)
"""A key, and since when nobody knows whether it should still hold: one question, since every door
asks it again every few seconds."""
_KEYS = text(
    "SELECT * FROM api_keys WHERE tenant = :tenant AND (:before = '' OR id < :before)"
    " ORDER BY id DESC LIMIT :limit"
)
_END_KEY = text(
    "UPDATE api_keys SET revoked_at = :at"
    " WHERE tenant = :tenant AND id = :id AND revoked_at IS NULL"
)
_COUNT_KEYS = text(
    "SELECT count(*) FROM api_keys"
    " WHERE tenant = :tenant AND revoked_at IS NULL AND expires_at > :now"
)
_ROLES = text("SELECT * FROM roles WHERE tenant = :tenant ORDER BY name")
_PUT_ROLE = text(
    "INSERT INTO roles (tenant, name, permissions, changed_at, event_id)"
    " VALUES (:tenant, :name, :permissions, :changed_at, :event_id)"
    " ON CONFLICT (tenant, name) DO UPDATE SET permissions = excluded.permissions,"
    " changed_at = excluded.changed_at, event_id = excluded.event_id"
)
_DROP_ROLE = text("DELETE FROM roles WHERE tenant = :tenant AND name = :name")


def add_key(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD_KEY, dict(values))


def find_key(conn: Connection, tenant: str, key: str) -> Row[Any] | None:
    return conn.execute(_KEY, {"tenant": tenant, "id": key}).one_or_none()


def find_key_at_door(conn: Connection, tenant: str, key: str) -> Row[Any] | None:
    return conn.execute(_KEY_AT_DOOR, {"tenant": tenant, "id": key}).one_or_none()


def page_of_keys(conn: Connection, tenant: str, before: str, limit: int) -> Sequence[Row[Any]]:
    """Keys, the newest first (ids grow with time)."""
    return conn.execute(_KEYS, {"tenant": tenant, "before": before, "limit": limit}).all()


def end_key(conn: Connection, tenant: str, key: str, at: str) -> bool:
    """Revoke; false if it was already."""
    return conn.execute(_END_KEY, {"tenant": tenant, "id": key, "at": at}).rowcount == 1


def count_keys(conn: Connection, tenant: str, now: str) -> int:
    """How many keys hold."""
    found: int = conn.execute(_COUNT_KEYS, {"tenant": tenant, "now": now}).scalar_one()
    return found


def read_roles(conn: Connection, tenant: str) -> Sequence[Row[Any]]:
    return conn.execute(_ROLES, {"tenant": tenant}).all()


def put_role(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_PUT_ROLE, dict(values))


def drop_role(conn: Connection, tenant: str, name: str) -> bool:
    return conn.execute(_DROP_ROLE, {"tenant": tenant, "name": name}).rowcount == 1
