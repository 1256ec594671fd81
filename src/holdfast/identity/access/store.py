"""The table of restores after which access is not confirmed, and the statements on it.

No time, ids or randomness. A row is written by a restore, before anything can be served, and taken
out by whoever confirms. It is in the database that holds the keys and people, so that each process
that asks whether they hold finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Row, Text, text

from holdfast.identity.access.model import unconfirmed
from holdfast.kernel.database import tenant_table

restores = tenant_table(
    "access_restores",
    Column("backup", Text, primary_key=True, nullable=False),
    Column("backed_up_at", Text, nullable=False),
    Column("restored_at", Text, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("told", Boolean, nullable=False),
)
"""Restores that brought back who may enter. ``confirmed``: whoever restored has said that nothing
was ended since, so the row only waits to be told; ``told``: the event that says so is written."""

_ADD = text(
    "INSERT INTO access_restores (tenant, backup, backed_up_at, restored_at, confirmed, told)"
    " VALUES (:tenant, :backup, :backed_up_at, :restored_at, :confirmed, FALSE)"
    " ON CONFLICT (tenant, backup) DO NOTHING"
)
_ALL = text("SELECT * FROM access_restores WHERE tenant = :tenant ORDER BY backed_up_at, backup")
_SINCE = text(
    "SELECT min(backed_up_at) FROM access_restores"
    " WHERE tenant = :tenant AND NOT confirmed"
    " AND (restored_at >= :made OR backed_up_at >= :made)"
)
_TELL = text(
    "UPDATE access_restores SET told = TRUE"
    " WHERE tenant = :tenant AND backup = :backup AND NOT told"
)
_REMOVE = text("DELETE FROM access_restores WHERE tenant = :tenant AND backup = :backup")
_HELD = text(
    "SELECT EXISTS (SELECT 1 FROM api_keys WHERE tenant = :tenant)"
    " OR EXISTS (SELECT 1 FROM people WHERE tenant = :tenant)"
    " OR EXISTS (SELECT 1 FROM invitations WHERE tenant = :tenant)"
)
_END_SESSIONS = text(
    "UPDATE sessions SET ended_at = :at WHERE tenant = :tenant AND ended_at IS NULL"
)
_END_LINKS = text(
    "UPDATE invitations SET ended_at = :at"
    " WHERE tenant = :tenant AND used_at IS NULL AND ended_at IS NULL"
)
_END_CEREMONIES = text("DELETE FROM ceremonies WHERE tenant = :tenant")
_KEYS = text(
    "SELECT * FROM api_keys WHERE tenant = :tenant AND id > :after AND revoked_at IS NULL"
    " AND expires_at > :now ORDER BY id LIMIT :limit"
)
_PEOPLE = text(
    "SELECT p.*, (SELECT max(s.seen_at) FROM sessions s WHERE s.tenant = p.tenant"
    " AND s.subject = p.id) AS seen_at FROM people p"
    " WHERE p.tenant = :tenant AND p.id > :after AND p.disabled_at IS NULL AND p.name <> ''"
    " ORDER BY p.id LIMIT :limit"
)


def add_restore(
    conn: Connection, tenant: str, backup: str, backed_up_at: str, at: str, *, confirmed: bool
) -> None:
    values = {"tenant": tenant, "backup": backup, "backed_up_at": backed_up_at, "restored_at": at}
    conn.execute(_ADD, {**values, "confirmed": confirmed})


def restores_of(conn: Connection, tenant: str) -> Sequence[Row[Any]]:
    """What the tenant's access was restored from, and is not confirmed or not told yet."""
    return conn.execute(_ALL, {"tenant": tenant}).all()


def unconfirmed_since(conn: Connection, tenant: str, made: str = "") -> str:
    """Since which moment nobody knows who may enter; empty while that is known, and of what was
    ``made`` after the restore."""
    return conn.execute(_SINCE, {"tenant": tenant, "made": made}).scalar_one() or ""


def check_confirmed(conn: Connection, tenant: str, subject: str = "") -> None:
    """:class:`Denied` while nobody has said that the tenant's access is as it should be."""
    since = unconfirmed_since(conn, tenant)
    if since:
        raise unconfirmed(since, tenant, subject)


def tell_restore(conn: Connection, tenant: str, backup: str) -> bool:
    """False if it was told already."""
    return conn.execute(_TELL, {"tenant": tenant, "backup": backup}).rowcount == 1


def remove_restore(conn: Connection, tenant: str, backup: str) -> bool:
    return conn.execute(_REMOVE, {"tenant": tenant, "backup": backup}).rowcount == 1


def held_anybody(conn: Connection, tenant: str) -> bool:
    """Whether there ever was a key, a person or an invitation."""
    return bool(conn.execute(_HELD, {"tenant": tenant}).scalar_one())


def end_passing(conn: Connection, tenant: str, at: str) -> None:
    """End what is cheap to make again: sessions, links that work once, sign-ins under way."""
    conn.execute(_END_SESSIONS, {"tenant": tenant, "at": at})
    conn.execute(_END_LINKS, {"tenant": tenant, "at": at})
    conn.execute(_END_CEREMONIES, {"tenant": tenant})


def live_keys(
    conn: Connection, tenant: str, after: str, limit: int, now: str
) -> Sequence[Row[Any]]:
    """Keys that would be accepted, the oldest first."""
    values = {"tenant": tenant, "after": after, "limit": limit, "now": now}
    return conn.execute(_KEYS, values).all()


def live_people(conn: Connection, tenant: str, after: str, limit: int) -> Sequence[Row[Any]]:
    """People who could sign in, the oldest first, with when they were last seen."""
    return conn.execute(_PEOPLE, {"tenant": tenant, "after": after, "limit": limit}).all()
