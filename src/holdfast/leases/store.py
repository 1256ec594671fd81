"""The tables of ``leases`` and the statements on them; one text for both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Connection, Text, text

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.database import tenant_table
from holdfast.leases.ports import Beat

tenant_table(
    "lease_beats",
    Column("key", Text, primary_key=True, nullable=False),
    Column("at", Text, nullable=False),
    Column("data", Text, nullable=False),
)
tenant_table(
    "lease_leaders",
    Column("name", Text, primary_key=True, nullable=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
)
tenant_table(
    "lease_counters",
    Column("counter", Text, primary_key=True, nullable=False),
    Column("window_start", BigInteger, nullable=False),
    Column("window_seconds", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
)
tenant_table(
    "lease_instances",
    Column("role", Text, primary_key=True, nullable=False),
    Column("instance", Text, primary_key=True, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
)
"""Who runs a role on this database. ``shared`` is whether its leases are."""

# A beat never goes back: the later one stays, whichever instance is slower to write.
_BEAT = text(
    "INSERT INTO lease_beats (tenant, key, at, data) VALUES (:tenant, :key, :at, :data)"
    " ON CONFLICT (tenant, key) DO UPDATE SET at = excluded.at, data = excluded.data"
    " WHERE lease_beats.at < excluded.at"
)
_BEATS = text("SELECT key, at, data FROM lease_beats WHERE tenant = :tenant")
_FORGET = text("DELETE FROM lease_beats WHERE tenant = :tenant AND key = :key")
_LEAD = text(
    "INSERT INTO lease_leaders (tenant, name, holder, expires_at)"
    " VALUES (:tenant, :name, :holder, :expires_at)"
    " ON CONFLICT (tenant, name) DO UPDATE"
    " SET holder = excluded.holder, expires_at = excluded.expires_at"
    " WHERE lease_leaders.holder = excluded.holder OR lease_leaders.expires_at <= :now"
    " RETURNING holder"
)
_RESIGN = text(
    "DELETE FROM lease_leaders WHERE tenant = :tenant AND name = :name AND holder = :holder"
)
# Grants in the same statement that counts, so that no two callers can share the last of a window.
_TAKE = text(
    "INSERT INTO lease_counters (tenant, counter, window_start, window_seconds, used)"
    " SELECT :tenant, :counter, CAST(:window_start AS bigint), CAST(:window_seconds AS bigint),"
    " CAST(:amount AS bigint) WHERE CAST(:amount AS bigint) <= CAST(:limit AS bigint)"
    " ON CONFLICT (tenant, counter) DO UPDATE"
    " SET used = CASE WHEN lease_counters.window_start = excluded.window_start"
    " AND lease_counters.window_seconds = excluded.window_seconds"
    " THEN lease_counters.used + excluded.used ELSE excluded.used END,"
    " window_start = excluded.window_start, window_seconds = excluded.window_seconds"
    " WHERE lease_counters.window_start <> excluded.window_start"
    " OR lease_counters.window_seconds <> excluded.window_seconds"
    " OR lease_counters.used + excluded.used <= CAST(:limit AS bigint)"
    " RETURNING used"
)
_USED = text(
    "SELECT used FROM lease_counters WHERE tenant = :tenant AND counter = :counter"
    " AND window_start = :window_start AND window_seconds = :window_seconds"
)


def keep_beats(conn: Connection, tenant: str, beats: Mapping[str, Beat]) -> None:
    """One upsert of what has been heard since the last one. Keys in order: no two writers cross."""
    conn.execute(
        _BEAT,
        [
            {
                "tenant": tenant,
                "key": key,
                "at": timestamp(beat.at),
                "data": msgspec.json.encode(beat.data).decode(),
            }
            for key, beat in sorted(beats.items())
        ],
    )


def read_beats(conn: Connection, tenant: str) -> dict[str, Beat]:
    return {
        row.key: Beat(parse_timestamp(row.at), msgspec.json.decode(row.data))
        for row in conn.execute(_BEATS, {"tenant": tenant})
    }


def forget_beat(conn: Connection, tenant: str, key: str) -> None:
    conn.execute(_FORGET, {"tenant": tenant, "key": key})


def lead(
    conn: Connection, tenant: str, name: str, holder: str, seconds: float, now: datetime
) -> bool:
    found = conn.execute(
        _LEAD,
        {
            "tenant": tenant,
            "name": name,
            "holder": holder,
            "expires_at": timestamp(now + timedelta(seconds=seconds)),
            "now": timestamp(now),
        },
    )
    return found.first() is not None


def resign(conn: Connection, tenant: str, name: str, holder: str) -> None:
    conn.execute(_RESIGN, {"tenant": tenant, "name": name, "holder": holder})


def take(
    conn: Connection,
    tenant: str,
    counter: str,
    amount: int,
    limit: int,
    window_start: int,
    window_seconds: int,
) -> tuple[bool, int]:
    """Whether ``amount`` was granted, and how much of the window is used now."""
    key = {
        "tenant": tenant,
        "counter": counter,
        "window_start": window_start,
        "window_seconds": window_seconds,
    }
    used = conn.execute(_TAKE, {**key, "amount": amount, "limit": limit}).scalar()
    if used is not None:
        return True, int(used)
    return False, int(conn.execute(_USED, key).scalar() or 0)


# --- instances of a role -------------------------------------------------------------------------

_INSTANCES = text(
    "SELECT instance, incarnation, shared, started_at, expires_at FROM lease_instances"
    " WHERE tenant = :tenant AND role = :role"
)
_ENTER = text(
    "INSERT INTO lease_instances"
    " (tenant, role, instance, incarnation, shared, started_at, expires_at)"
    " VALUES (:tenant, :role, :instance, :incarnation, :shared, :now, :expires_at)"
    " ON CONFLICT (tenant, role, instance) DO UPDATE SET incarnation = excluded.incarnation,"
    " shared = excluded.shared, started_at = excluded.started_at, expires_at = excluded.expires_at"
)
_STAY = text(
    "UPDATE lease_instances SET expires_at = :expires_at WHERE tenant = :tenant AND role = :role"
    " AND instance = :instance AND incarnation = :incarnation RETURNING instance"
)
_LEAVE = text(
    "DELETE FROM lease_instances WHERE tenant = :tenant AND role = :role"
    " AND instance = :instance AND incarnation = :incarnation"
)
_SWEEP = text(
    "DELETE FROM lease_instances WHERE tenant = :tenant AND role = :role AND expires_at <= :now"
)


def other_instances(conn: Connection, tenant: str, role: str, instance: str) -> Sequence[Any]:
    rows = conn.execute(_INSTANCES, {"tenant": tenant, "role": role}).all()
    return [row for row in rows if row.instance != instance]


def enter(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_SWEEP, {name: values[name] for name in ("tenant", "role", "now")})
    conn.execute(_ENTER, dict(values))


def stay(conn: Connection, values: Mapping[str, Any]) -> bool:
    return conn.execute(_STAY, dict(values)).first() is not None


def leave(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_LEAVE, dict(values))
