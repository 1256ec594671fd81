"""The table of sessions and the statements on it. No time, ids or randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, Row, Text, text

from holdfast.kernel.database import tenant_table

sessions = tenant_table(
    "sessions",
    Column("id", Text, primary_key=True, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("began_at", Text, nullable=False),
    Column("seen_at", Text, nullable=False),
    Column("ends_at", Text, nullable=False),
    Column("ended_at", Text),
    Column("event_id", Text, nullable=False),
    Index("ix_sessions_subject", "tenant", "subject", "id"),
    Index("ix_sessions_credential", "tenant", "credential"),
)
"""Sessions: an HMAC of the secret, who, by what, since when. ``ends_at`` is the end whatever
happens; silence may end it before."""

_ADD = text(
    "INSERT INTO sessions (tenant, id, secret, pepper, subject, kind, credential, address, agent,"
    " began_at, seen_at, ends_at, event_id)"
    " VALUES (:tenant, :id, :secret, :pepper, :subject, :kind, :credential, :address, :agent,"
    " :began_at, :seen_at, :ends_at, :event_id)"
)
_FIND = text("SELECT * FROM sessions WHERE tenant = :tenant AND id = :id")
_TOUCH = text(
    "UPDATE sessions SET seen_at = :at"
    " WHERE tenant = :tenant AND id = :id AND ended_at IS NULL AND seen_at < :at"
)
_END = text(
    "UPDATE sessions SET ended_at = :at WHERE tenant = :tenant AND id = :id AND ended_at IS NULL"
)
_END_OF_SUBJECT = text(
    "UPDATE sessions SET ended_at = :at"
    " WHERE tenant = :tenant AND subject = :subject AND ended_at IS NULL"
)
_OF_SUBJECT = text(
    "SELECT * FROM sessions WHERE tenant = :tenant AND subject = :subject"
    " AND (:before = '' OR id < :before) ORDER BY id DESC LIMIT :limit"
)
_ALL = text(
    "SELECT * FROM sessions WHERE tenant = :tenant AND (:before = '' OR id < :before)"
    " ORDER BY id DESC LIMIT :limit"
)
_OPEN_OF_SUBJECT = text(
    "SELECT id FROM sessions WHERE tenant = :tenant AND subject = :subject"
    " AND ended_at IS NULL AND ends_at > :now ORDER BY id DESC"
)
_OPEN_OF_CREDENTIAL = text(
    "SELECT id FROM sessions WHERE tenant = :tenant AND credential = :credential"
    " AND ended_at IS NULL AND ends_at > :now ORDER BY id DESC"
)
_REMOVE_OF = text("DELETE FROM sessions WHERE tenant = :tenant AND subject = :subject")
_FORGET = text(
    "DELETE FROM sessions WHERE tenant = :tenant AND subject = :subject AND ends_at < :before"
)


def add_session(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD, dict(values))


def find_session(conn: Connection, tenant: str, session: str) -> Row[Any] | None:
    return conn.execute(_FIND, {"tenant": tenant, "id": session}).one_or_none()


def touch(conn: Connection, tenant: str, session: str, at: str) -> None:
    conn.execute(_TOUCH, {"tenant": tenant, "id": session, "at": at})


def end_session(conn: Connection, tenant: str, session: str, at: str) -> bool:
    """False if it was over."""
    return conn.execute(_END, {"tenant": tenant, "id": session, "at": at}).rowcount == 1


def end_sessions_of(conn: Connection, tenant: str, subject: str, at: str) -> None:
    """End all of one who may not sign in any more; the event that says so is the caller's."""
    conn.execute(_END_OF_SUBJECT, {"tenant": tenant, "subject": subject, "at": at})


def remove_sessions_of(conn: Connection, tenant: str, subject: str) -> None:
    """Remove all of one, with the addresses they came from."""
    conn.execute(_REMOVE_OF, {"tenant": tenant, "subject": subject})


def page_of_sessions(
    conn: Connection, tenant: str, subject: str, before: str, limit: int
) -> Sequence[Row[Any]]:
    """Sessions of one, or of everybody if ``subject`` is empty; the newest first."""
    values = {"tenant": tenant, "before": before, "limit": limit}
    if subject:
        return conn.execute(_OF_SUBJECT, {**values, "subject": subject}).all()
    return conn.execute(_ALL, values).all()


def open_of_subject(conn: Connection, tenant: str, subject: str, now: str) -> list[str]:
    """Ids of the open sessions of one, the newest first."""
    values = {"tenant": tenant, "subject": subject, "now": now}
    return list(conn.execute(_OPEN_OF_SUBJECT, values).scalars())


def open_of_credential(conn: Connection, tenant: str, credential: str, now: str) -> list[str]:
    """Ids of the open sessions that came from one credential."""
    values = {"tenant": tenant, "credential": credential, "now": now}
    return list(conn.execute(_OPEN_OF_CREDENTIAL, values).scalars())


def forget_sessions(conn: Connection, tenant: str, subject: str, before: str) -> None:
    """Remove what was over long ago."""
    conn.execute(_FORGET, {"tenant": tenant, "subject": subject, "before": before})
