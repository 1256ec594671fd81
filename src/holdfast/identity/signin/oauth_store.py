"""The table of accounts elsewhere that sign somebody in. No time, ids or randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Index, Row, Text, text

from holdfast.kernel.database import tenant_table

accounts = tenant_table(
    "person_accounts",
    Column("id", Text, primary_key=True, nullable=False),
    Column("person", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("linked_at", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Index("ix_person_accounts_person", "tenant", "person"),
    Index("ix_person_accounts_subject", "tenant", "issuer", "subject", unique=True),
)
"""Accounts elsewhere: bound once, to issuer and subject, never to an address."""

_ADD = text(
    "INSERT INTO person_accounts (tenant, id, person, provider, issuer, subject, linked_at,"
    " event_id) VALUES (:tenant, :id, :person, :provider, :issuer, :subject, :linked_at, :event_id)"
)
_OF_PERSON = text(
    "SELECT * FROM person_accounts WHERE tenant = :tenant AND person = :person"
    " ORDER BY linked_at DESC, id LIMIT 200"
)
_COUNT = text(
    "SELECT issuer, count(*) AS count FROM person_accounts"
    " WHERE tenant = :tenant AND person = :person AND id <> :besides GROUP BY issuer"
)
_REMOVE = text("DELETE FROM person_accounts WHERE tenant = :tenant AND id = :id")
_REMOVE_OF = text(
    "DELETE FROM person_accounts WHERE tenant = :tenant AND person = :person"
    " RETURNING issuer, subject"
)
_FIND = text("SELECT * FROM person_accounts WHERE tenant = :tenant AND id = :id")
_BY_SUBJECT = text(
    "SELECT * FROM person_accounts"
    " WHERE tenant = :tenant AND issuer = :issuer AND subject = :subject"
)


def add_account(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD, dict(values))


def accounts_of(conn: Connection, tenant: str, person: str) -> Sequence[Row[Any]]:
    return conn.execute(_OF_PERSON, {"tenant": tenant, "person": person}).all()


def count_accounts(conn: Connection, tenant: str, person: str, besides: str) -> dict[str, int]:
    """Issuer → how many accounts this person has there, ``besides`` one."""
    values = {"tenant": tenant, "person": person, "besides": besides}
    return {row[0]: row[1] for row in conn.execute(_COUNT, values)}


def remove_account(conn: Connection, tenant: str, account: str) -> bool:
    return conn.execute(_REMOVE, {"tenant": tenant, "id": account}).rowcount == 1


def remove_accounts_of(conn: Connection, tenant: str, person: str) -> list[tuple[str, str]]:
    """Remove them; issuer and subject of each."""
    rows = conn.execute(_REMOVE_OF, {"tenant": tenant, "person": person}).all()
    return [(row.issuer, row.subject) for row in rows]


def find_account(conn: Connection, tenant: str, account: str) -> Row[Any] | None:
    return conn.execute(_FIND, {"tenant": tenant, "id": account}).one_or_none()


def find_by_subject(conn: Connection, tenant: str, key: tuple[str, str]) -> Row[Any] | None:
    """The account of that issuer and subject."""
    values = {"tenant": tenant, "issuer": key[0], "subject": key[1]}
    return conn.execute(_BY_SUBJECT, values).one_or_none()
