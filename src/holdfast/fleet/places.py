"""Places at a host: how many requests to it may be under way at once, over the whole fleet.

A place is held by a task's lease and ends with it: there is no expiry of its own, and no clock but
the one that ends leases. What a killed drone held is free once its lease is over.

**Turns.** Who holds a place may use it for request after request, for :data:`TURN_SECONDS`; then it
asks again, and whoever waits without any place goes first. So nobody waits for a long run to end,
and a long run asks once in a while rather than once a page.

**Nobody waits while holding what another waits for.** A drone gives back what it has not used for a
moment (``collect/places.py``), so no two runs can wait for each other's hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from holdfast.fleet import host_store
from holdfast.fleet.model import PlacesHeld, PlacesWanted
from holdfast.kernel.clock import timestamp

TURN_SECONDS = 10.0
WAITING_SECONDS = 15.0
"""Who has not asked for so long does not wait any more, and stands in nobody's way."""
_AGAIN_SECONDS = 0.25
_AGAIN_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """What one task holds at a host, and since when it has waited for the first of them."""

    task: str
    held: int
    since: str
    waits: bool = False
    """It holds none, and has asked for one lately."""


def deal(mine: Place, others: Sequence[Place], wanted: PlacesWanted, limit: int) -> int:
    """How many places the task holds from now on.

    It keeps what it needs of what it has, unless its turn is over: then only those in use. What is
    free beyond that goes to those first who have none, one each, in the order in which they came.
    """
    kept = max(wanted.busy, 0 if wanted.turn else min(mine.held, wanted.places))
    if wanted.places <= kept:
        return kept
    first_in_line = (mine.since, mine.task) if mine.held == 0 and not wanted.turn else None
    ahead = sum(
        1
        for other in others
        if other.waits and (first_in_line is None or (other.since, other.task) < first_in_line)
    )
    free = limit - kept - sum(other.held for other in others) - ahead
    return kept + max(0, min(free, wanted.places - kept))


def again_seconds(mine: Place, others: Sequence[Place]) -> float:
    """When to ask again, for a task that got none: the sooner the nearer its turn is."""
    ahead = sum(1 for other in others if other.waits and other.since < mine.since)
    return min(_AGAIN_SECONDS_MAX, _AGAIN_SECONDS * (1 + ahead))


def hold(
    conn: Connection,
    tenant: str,
    task: str,
    wanted: PlacesWanted,
    limits: tuple[int, Mapping[str, int]],
    now: datetime,
) -> PlacesHeld:
    """The unit: look who holds what at the host, deal, and keep what came of it.

    The caller has checked that the task is held under ``wanted.fence``. Units on one host come one
    after the other: on PostgreSQL by a lock that ends with the transaction.
    """
    source = wanted.source.lower()
    host_store.lock(conn, tenant, source)
    rows = {row.task: row for row in host_store.read_places(conn, tenant, source)}
    mine = _mine(rows.pop(task, None), task, now)
    oldest = timestamp(now - timedelta(seconds=WAITING_SECONDS))
    others = [_place(row, oldest) for row in rows.values()]
    everybody, exceptions = limits
    limit = exceptions.get(source, exceptions.get(source.rpartition(":")[0], everybody))
    held = deal(mine, others, wanted, limit)
    if wanted.places == 0 and held == 0:
        host_store.drop_place(conn, tenant, source, task)
        return PlacesHeld(places=0, turn_seconds=0.0, again_seconds=0.0)
    # Whose turn is over, or who has none yet and got none, stands in the line from then on.
    since = timestamp(now) if wanted.turn or mine.held else mine.since
    host_store.keep_place(
        conn,
        {
            "tenant": tenant,
            "source": source,
            "task": task,
            "fence": wanted.fence,
            "held": held,
            "since": since,
            "seen": timestamp(now),
        },
    )
    return PlacesHeld(
        places=held, turn_seconds=TURN_SECONDS, again_seconds=again_seconds(mine, others)
    )


def _mine(row: Any, task: str, now: datetime) -> Place:
    if row is None:
        return Place(task, 0, timestamp(now))
    return Place(task, row.held, row.since)


def _place(row: Any, oldest: str) -> Place:
    return Place(row.task, row.held, row.since, waits=row.held == 0 and row.seen >= oldest)
