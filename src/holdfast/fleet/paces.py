"""When the next request to a host may begin, over the whole fleet: moments that are given out.

A publisher who asks for ten requests a minute means ten, however many drones there are. So a moment
is given to one request only, and the next lies as long after it as the profile that asks says. Who
waits for its moment holds no place at the host: others may have theirs.

A moment is kept for whoever it was given to, whether used or not. So that what is given to a drone
that dies costs little, none is given that lies more than :data:`AHEAD_SECONDS` ahead: who would get
such a one asks again when it would lie no farther.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from holdfast.fleet import host_store
from holdfast.fleet.model import PaceGiven, PaceWanted
from holdfast.kernel.clock import parse_timestamp, timestamp

AHEAD_SECONDS = 60.0
AGAIN_SECONDS_MIN = 5.0


def next_moment(last: datetime | None, per_minute: int, now: datetime) -> datetime | None:
    """The moment of the next request; ``None`` if it is too far ahead to be given.

    None beyond :data:`AHEAD_SECONDS` is given. One may still lie there: ``now`` is from before the
    wait for the database, or from a coordinator whose clock is behind another's. So up to twice as
    far ahead it counts: that much such a wait and clocks that differ may come to together. What
    lies farther tells of a clock that was put back, and counts for nothing.
    """
    ahead = timedelta(seconds=AHEAD_SECONDS)
    if last is None or last > now + 2 * ahead:
        return now
    found = max(now, last + timedelta(seconds=60.0 / per_minute))
    return found if found <= now + ahead else None


def again_seconds(last: datetime, per_minute: int, now: datetime) -> float:
    """When to ask again, for one that got no moment: asking sooner is in vain."""
    found = last + timedelta(seconds=60.0 / per_minute - AHEAD_SECONDS)
    return max(AGAIN_SECONDS_MIN, (found - now).total_seconds())


def give(conn: Connection, tenant: str, wanted: PaceWanted, now: datetime) -> PaceGiven:
    """The unit: look at the last moment, give the next. Units on one host come one by one."""
    source = wanted.source.lower()
    host_store.lock(conn, tenant, source)
    text = host_store.last_begun(conn, tenant, source)
    last = None if text is None else parse_timestamp(text)
    moment = next_moment(last, wanted.per_minute, now)
    if moment is None:
        assert last is not None, "the first is always given"
        return PaceGiven(given=False, wait_seconds=again_seconds(last, wanted.per_minute, now))
    host_store.keep_last(conn, tenant, source, timestamp(moment))
    return PaceGiven(given=True, wait_seconds=(moment - now).total_seconds())
