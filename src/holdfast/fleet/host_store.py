"""Who may ask which host, and when: the tables that the fleet deals from, and the SQL on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, Text, text

from holdfast.kernel.database import tenant_table

fleet_places = tenant_table(
    "fleet_places",
    Column("source", Text, primary_key=True, nullable=False),
    Column("task", Text, primary_key=True, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("since", Text, nullable=False),
    Column("seen", Text, nullable=False),
)
"""Who may ask which host, and with how many requests at once. A row counts while its task is leased
under its fence; ``held`` is 0 for who waits, ``since`` its place in the line, ``seen`` when it last
asked."""

fleet_paces = tenant_table(
    "fleet_paces",
    Column("source", Text, primary_key=True, nullable=False),
    Column("last", Text, nullable=False),
)
"""The last moment at each host that a request may begin, of those that were given."""

# Who deals at a host must see what the last one dealt: at the isolation of the hot path each
# statement sees what is committed, so waiting for the lock first is enough.
_LOCK = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(CAST(:tenant AS text) || ' places '"
    " || CAST(:source AS text), 0))"
)
_PLACES = text(
    "SELECT p.task, p.held, p.since, p.seen FROM fleet_places p JOIN tasks t"
    " ON t.tenant = p.tenant AND t.id = p.task AND t.state = 'leased' AND t.fence = p.fence"
    " WHERE p.tenant = :tenant AND t.tenant = :tenant AND p.source = :source ORDER BY p.task"
)
_KEEP_PLACE = text(
    "INSERT INTO fleet_places (tenant, source, task, fence, held, since, seen)"
    " VALUES (:tenant, :source, :task, :fence, :held, :since, :seen)"
    " ON CONFLICT (tenant, source, task) DO UPDATE SET fence = excluded.fence,"
    " held = excluded.held, since = excluded.since, seen = excluded.seen"
)
_DROP_PLACE = text(
    "DELETE FROM fleet_places WHERE tenant = :tenant AND source = :source AND task = :task"
)
_MAY_SWEEP = text(
    "SELECT 1 FROM fleet_places WHERE tenant = :tenant"
    " UNION ALL SELECT 1 FROM fleet_paces WHERE tenant = :tenant AND last < :before LIMIT 1"
)
_SWEEP_PLACES = text(
    "DELETE FROM fleet_places WHERE tenant = :tenant AND NOT EXISTS (SELECT 1 FROM tasks t"
    " WHERE t.tenant = :tenant AND t.id = fleet_places.task AND t.state = 'leased'"
    " AND t.fence = fleet_places.fence)"
)


def lock(conn: Connection, tenant: str, source: str) -> None:
    """Be the only one who deals at this host until we commit."""
    if conn.dialect.name != "sqlite":
        conn.execute(_LOCK, {"tenant": tenant, "source": source})


def read_places(conn: Connection, tenant: str, source: str) -> Sequence[Row[Any]]:
    """Who holds places at a host or waits for one, leases that are over left out."""
    return conn.execute(_PLACES, {"tenant": tenant, "source": source}).all()


def keep_place(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_KEEP_PLACE, dict(values))


def drop_place(conn: Connection, tenant: str, source: str, task: str) -> None:
    conn.execute(_DROP_PLACE, {"tenant": tenant, "source": source, "task": task})


def may_sweep(conn: Connection, tenant: str, before: str) -> bool:
    """Whether there are places, or paces that lie before then."""
    return conn.execute(_MAY_SWEEP, {"tenant": tenant, "before": before}).first() is not None


def sweep_places(conn: Connection, tenant: str) -> None:
    """Forget the places of leases that are over; they count no more as it is."""
    conn.execute(_SWEEP_PLACES, {"tenant": tenant})


# --- paces ---------------------------------------------------------------------------------------

_LAST = text("SELECT last FROM fleet_paces WHERE tenant = :tenant AND source = :source")
_KEEP_LAST = text(
    "INSERT INTO fleet_paces (tenant, source, last) VALUES (:tenant, :source, :last)"
    " ON CONFLICT (tenant, source) DO UPDATE SET last = excluded.last"
)
_SWEEP_PACES = text("DELETE FROM fleet_paces WHERE tenant = :tenant AND last < :before")


def last_begun(conn: Connection, tenant: str, source: str) -> str | None:
    """The last moment that was given to a request at this host."""
    found: str | None = conn.execute(_LAST, {"tenant": tenant, "source": source}).scalar()
    return found


def keep_last(conn: Connection, tenant: str, source: str, last: str) -> None:
    """A later moment was given."""
    conn.execute(_KEEP_LAST, {"tenant": tenant, "source": source, "last": last})


def sweep_paces(conn: Connection, tenant: str, before: str) -> None:
    """Forget hosts of which the last moment lies before then."""
    conn.execute(_SWEEP_PACES, {"tenant": tenant, "before": before})
