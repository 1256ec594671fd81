"""When each profile is due: the table, and the SQL on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Row, Text, text

from holdfast.kernel.database import tenant_table

schedules = tenant_table(
    "schedules",
    Column("profile", Text, primary_key=True, nullable=False),
    Column("digest", Text, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("next_at", Text),
    Column("last_at", Text),
    Column("last_task", Text),
    Column("problem", Text, nullable=False),
)
"""When each runnable profile is due; ``schedule`` is the canonical text it was computed from."""

_SCHEDULES = text("SELECT * FROM schedules WHERE tenant = :tenant ORDER BY profile")
_KEEP_SCHEDULE = text(
    "INSERT INTO schedules"
    " (tenant, profile, digest, schedule, next_at, last_at, last_task, problem)"
    " VALUES (:tenant, :profile, :digest, :schedule, :next_at, :last_at, :last_task, :problem)"
    " ON CONFLICT (tenant, profile) DO UPDATE SET digest = excluded.digest,"
    " schedule = excluded.schedule, next_at = excluded.next_at, problem = excluded.problem"
)
# Only whoever still finds the moment it computed from moves it on: of two, one starts the run.
_FIRE = text(
    "UPDATE schedules SET next_at = :next_at"
    " WHERE tenant = :tenant AND profile = :profile AND next_at = :due AND schedule = :schedule"
    " RETURNING profile"
)
_DROP_SCHEDULE = text(
    "UPDATE schedules SET next_at = NULL, schedule = '', problem = ''"
    " WHERE tenant = :tenant AND profile = :profile"
)
_STARTED = text(
    "INSERT INTO schedules"
    " (tenant, profile, digest, schedule, next_at, last_at, last_task, problem)"
    " VALUES (:tenant, :profile, :digest, '', NULL, :last_at, :last_task, '')"
    " ON CONFLICT (tenant, profile) DO UPDATE"
    " SET last_at = excluded.last_at, last_task = excluded.last_task"
)


def read_schedules(conn: Connection, tenant: str) -> Sequence[Row[Any]]:
    return conn.execute(_SCHEDULES, {"tenant": tenant}).all()


def keep_schedule(conn: Connection, values: Mapping[str, Any]) -> None:
    """A schedule as it is now; what it last started stays."""
    conn.execute(_KEEP_SCHEDULE, dict(values))


def fire(conn: Connection, values: Mapping[str, Any]) -> bool:
    """Move a schedule from the moment ``due`` to the next; false if another has."""
    return conn.execute(_FIRE, dict(values)).first() is not None


def drop_schedule(conn: Connection, tenant: str, profile: str) -> None:
    """The profile is due no more; what it last started stays known."""
    conn.execute(_DROP_SCHEDULE, {"tenant": tenant, "profile": profile})


def note_start(conn: Connection, values: Mapping[str, Any]) -> None:
    """The profile was started: what by, and when. Intervals that are new count from here."""
    conn.execute(_STARTED, dict(values))
