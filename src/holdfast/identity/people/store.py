"""The tables of people and invitations, and the statements on them. No time, ids or randomness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, Row, Text, select, text

from holdfast.kernel.database import tenant_table, tenants

people = tenant_table(
    "people",
    Column("id", Text, primary_key=True, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("disabled_at", Text),
    Column("event_id", Text, nullable=False),
    Column("lost_at", Text, nullable=False, server_default=text("('{}')")),
    Index("ix_people_email", "tenant", "email"),
)
"""People: a name and an address for those who manage them, and their roles (JSON). ``lost_at``:
which permissions they ever lost, and when last (JSON)."""

invitations = tenant_table(
    "invitations",
    Column("id", Text, primary_key=True, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("used_at", Text),
    Column("used_by", Text, nullable=False, server_default=text("('')")),
    Column("ended_at", Text),
    Column("event_id", Text, nullable=False),
)
"""Invitations: an HMAC of the secret. ``person`` is whom it brings back, or empty."""

forgotten = tenant_table(
    "people_forgotten",
    Column("mark", LargeBinary, primary_key=True, nullable=False),
)
"""By what those who were forgotten would be known again: an HMAC of each address and account."""

_ADD_PERSON = text(
    "INSERT INTO people (tenant, id, name, email, roles, created_at, created_by, event_id)"
    " VALUES (:tenant, :id, :name, :email, :roles, :created_at, :created_by, :event_id)"
)
_PERSON = text("SELECT * FROM people WHERE tenant = :tenant AND id = :id")
_PEOPLE = text(
    "SELECT * FROM people WHERE tenant = :tenant AND (:before = '' OR id < :before)"
    " ORDER BY id DESC LIMIT :limit"
)
_BY_EMAIL = text("SELECT * FROM people WHERE tenant = :tenant AND email = :email LIMIT 1")
_COUNT_PEOPLE = text("SELECT count(*) FROM people WHERE tenant = :tenant")
_ADMINS = text(
    "SELECT * FROM people WHERE tenant = :tenant AND disabled_at IS NULL"
    """ AND roles LIKE '%"admin"%' LIMIT 1"""
)
_WITH_ROLE = text("SELECT * FROM people WHERE tenant = :tenant AND roles LIKE :named ORDER BY id")
_DISABLE = text(
    "UPDATE people SET disabled_at = :at"
    " WHERE tenant = :tenant AND id = :id AND disabled_at IS NULL"
)
_ENABLE = text(
    "UPDATE people SET disabled_at = NULL"
    " WHERE tenant = :tenant AND id = :id AND disabled_at IS NOT NULL AND name <> ''"
)
_FORGET = text(
    "UPDATE people SET name = '', email = '' WHERE tenant = :tenant AND id = :id AND name <> ''"
)
_FORGET_INVITATIONS = text(
    "UPDATE invitations SET name = '', email = ''"
    " WHERE tenant = :tenant AND (person = :id OR used_by = :id)"
)
_MARK = text(
    "INSERT INTO people_forgotten (tenant, mark) VALUES (:tenant, :mark) ON CONFLICT DO NOTHING"
)
_IS_MARKED = text("SELECT 1 FROM people_forgotten WHERE tenant = :tenant AND mark = :mark")
_SET_ROLES = text("UPDATE people SET roles = :roles WHERE tenant = :tenant AND id = :id")

_SET_LOST = text("UPDATE people SET lost_at = :lost WHERE tenant = :tenant AND id = :id")

_ADD_INVITATION = text(
    "INSERT INTO invitations (tenant, id, secret, pepper, name, email, roles, person,"
    " created_at, created_by, expires_at, event_id)"
    " VALUES (:tenant, :id, :secret, :pepper, :name, :email, :roles, :person,"
    " :created_at, :created_by, :expires_at, :event_id)"
)
_INVITATION = text("SELECT * FROM invitations WHERE tenant = :tenant AND id = :id")
_INVITATIONS = text(
    "SELECT * FROM invitations WHERE tenant = :tenant AND (:before = '' OR id < :before)"
    " ORDER BY id DESC LIMIT :limit"
)
_COUNT_OPEN = text(
    "SELECT count(*) FROM invitations WHERE tenant = :tenant"
    " AND used_at IS NULL AND ended_at IS NULL AND expires_at > :now"
)
_OPEN_ADMIN = text(
    "SELECT id, name FROM invitations WHERE tenant = :tenant AND created_by = 'operator'"
    """ AND roles = '["admin"]' AND person = ''"""
    " AND used_at IS NULL AND ended_at IS NULL AND expires_at > :now ORDER BY id"
)
_OPEN_RECOVERIES = text(
    "SELECT id, name FROM invitations WHERE tenant = :tenant AND person = :person"
    " AND used_at IS NULL AND ended_at IS NULL AND expires_at > :now ORDER BY id"
)
_END_INVITATION = text(
    "UPDATE invitations SET ended_at = :at"
    " WHERE tenant = :tenant AND id = :id AND used_at IS NULL AND ended_at IS NULL"
)
_END_OF_PERSON = text(
    "UPDATE invitations SET ended_at = :at"
    " WHERE tenant = :tenant AND person = :person AND used_at IS NULL AND ended_at IS NULL"
)
_USE = text(
    "UPDATE invitations SET used_at = :at, used_by = :person"
    " WHERE tenant = :tenant AND id = :id"
    " AND used_at IS NULL AND ended_at IS NULL AND expires_at > :at"
)
_ADD_TENANT = text("INSERT INTO tenants (id, created_at) VALUES (:id, :at) ON CONFLICT DO NOTHING")


def add_person(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD_PERSON, dict(values))


def find_person(conn: Connection, tenant: str, person: str) -> Row[Any] | None:
    return conn.execute(_PERSON, {"tenant": tenant, "id": person}).one_or_none()


def page_of_people(conn: Connection, tenant: str, before: str, limit: int) -> Sequence[Row[Any]]:
    """People, the newest first (ids grow with time)."""
    return conn.execute(_PEOPLE, {"tenant": tenant, "before": before, "limit": limit}).all()


def find_by_email(conn: Connection, tenant: str, email: str) -> Row[Any] | None:
    return conn.execute(_BY_EMAIL, {"tenant": tenant, "email": email}).one_or_none()


def count_people(conn: Connection, tenant: str) -> int:
    found: int = conn.execute(_COUNT_PEOPLE, {"tenant": tenant}).scalar_one()
    return found


def find_admin(conn: Connection, tenant: str) -> Row[Any] | None:
    """Somebody who is an administrator now."""
    return conn.execute(_ADMINS, {"tenant": tenant}).one_or_none()


def find_with_role(conn: Connection, tenant: str, role: str) -> list[Row[Any]]:
    """Everybody who has the role: whose name is letters, digits and hyphens, no pattern."""
    rows = conn.execute(_WITH_ROLE, {"tenant": tenant, "named": f'%"{role}"%'}).all()
    return [row for row in rows if role in msgspec.json.decode(row.roles)]


def disable_person(conn: Connection, tenant: str, person: str, at: str) -> bool:
    return conn.execute(_DISABLE, {"tenant": tenant, "id": person, "at": at}).rowcount == 1


def enable_person(conn: Connection, tenant: str, person: str) -> bool:
    return conn.execute(_ENABLE, {"tenant": tenant, "id": person}).rowcount == 1


def forget_person(conn: Connection, tenant: str, person: str) -> bool:
    """Take name and address out of every row; false if they were out already."""
    values = {"tenant": tenant, "id": person}
    conn.execute(_FORGET_INVITATIONS, values)
    return conn.execute(_FORGET, values).rowcount == 1


def mark_forgotten(conn: Connection, tenant: str, mark: bytes) -> None:
    conn.execute(_MARK, {"tenant": tenant, "mark": mark})


def is_forgotten(conn: Connection, tenant: str, mark: bytes) -> bool:
    """Whether somebody was forgotten who would be known by this."""
    found = conn.execute(_IS_MARKED, {"tenant": tenant, "mark": mark}).one_or_none()
    return found is not None


def set_roles(conn: Connection, tenant: str, person: str, roles: str) -> None:
    conn.execute(_SET_ROLES, {"tenant": tenant, "id": person, "roles": roles})


def note_lost(
    conn: Connection, tenant: str, person: str, permissions: Iterable[str], at: str
) -> None:
    """Keep that they may not do this any more, whatever is given back later."""
    row = find_person(conn, tenant, person)
    if row is not None:
        lost = msgspec.json.decode(row.lost_at) | dict.fromkeys(permissions, at)
        kept = msgspec.json.encode(lost, order="sorted").decode()
        conn.execute(_SET_LOST, {"tenant": tenant, "id": person, "lost": kept})


def add_invitation(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD_INVITATION, dict(values))


def find_invitation(conn: Connection, tenant: str, invitation: str) -> Row[Any] | None:
    return conn.execute(_INVITATION, {"tenant": tenant, "id": invitation}).one_or_none()


def page_of_invitations(
    conn: Connection, tenant: str, before: str, limit: int
) -> Sequence[Row[Any]]:
    """Invitations, the newest first."""
    return conn.execute(_INVITATIONS, {"tenant": tenant, "before": before, "limit": limit}).all()


def count_open(conn: Connection, tenant: str, now: str) -> int:
    """How many invitations could still be used."""
    found: int = conn.execute(_COUNT_OPEN, {"tenant": tenant, "now": now}).scalar_one()
    return found


def open_admin_invitations(conn: Connection, tenant: str, now: str) -> Sequence[Row[Any]]:
    """The operator's invitations of a new administrator that could still be used."""
    return conn.execute(_OPEN_ADMIN, {"tenant": tenant, "now": now}).all()


def open_recoveries(conn: Connection, tenant: str, person: str, now: str) -> Sequence[Row[Any]]:
    """The links that would bring this person back and could still be used."""
    values = {"tenant": tenant, "person": person, "now": now}
    return conn.execute(_OPEN_RECOVERIES, values).all()


def end_invitation(conn: Connection, tenant: str, invitation: str, at: str) -> bool:
    """Revoke; false if it was used or revoked."""
    values = {"tenant": tenant, "id": invitation, "at": at}
    return conn.execute(_END_INVITATION, values).rowcount == 1


def end_invitations_of(conn: Connection, tenant: str, person: str, at: str) -> None:
    """Revoke whatever would bring this person back."""
    conn.execute(_END_OF_PERSON, {"tenant": tenant, "person": person, "at": at})


def use_invitation(conn: Connection, tenant: str, invitation: str, person: str, at: str) -> bool:
    """Use it up, for ``person``; false if it does not hold, or somebody was first."""
    values = {"tenant": tenant, "id": invitation, "person": person, "at": at}
    return conn.execute(_USE, values).rowcount == 1


def add_tenant(conn: Connection, tenant: str, at: str) -> bool:
    """False if it is there already."""
    return conn.execute(_ADD_TENANT, {"id": tenant, "at": at}).rowcount == 1


def read_tenants(conn: Connection) -> Sequence[Row[Any]]:
    return conn.execute(select(tenants).order_by(tenants.c.id)).all()
