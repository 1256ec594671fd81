"""The arithmetic of leases, retries and schedules: plain functions of their arguments."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

from holdfast.kernel.errors import Invalid
from holdfast.registry.model import Schedule
from holdfast.registry.parts import duration_seconds

BACKOFF_SECONDS_MAX = 3600.0


class State(StrEnum):
    """How a task stands in its row: ``ready`` and ``waiting`` are both *queued* to the outside.

    ``waiting`` is queued for later (a backoff, ``not_before``), apart so that what can be claimed
    now is a prefix of its index however much waits.
    """

    READY = "ready"
    WAITING = "waiting"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({State.READY, State.WAITING, State.LEASED})
FINAL = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})


# --- which queue a task stands in, and who may take from it --------------------------------------


def queue_name(kind: str, capabilities: Iterable[str], residency: str) -> str:
    """The queue of all tasks that the same workers may be given.

    Tasks whose needs differ stand in different queues, so that one which nobody here can do is
    never looked at, and never in the way, when another is claimed.
    """
    return f"{kind}|{','.join(sorted(set(capabilities)))}|{residency}"


def may_take(queue: str, kinds: frozenset[str], capabilities: frozenset[str], region: str) -> bool:
    """Whether a worker that asks for ``kinds`` may be given what stands in ``queue``."""
    kind, needs, residency = queue.split("|")
    return (
        kind in kinds
        and residency in ("", region)
        and (not needs or capabilities.issuperset(needs.split(",")))
    )


# --- how a lease ends ----------------------------------------------------------------------------


class Verdict(Enum):
    """What to make of the end that a worker tells."""

    ACCEPT = "accept"
    REPEATED = "repeated"
    """The same worker told the same end of the same lease before."""
    CANCELLED = "cancelled"
    NEVER_LEASED = "never-leased"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Holding:
    """What a row says about who holds a task, or held it last, and how that ended."""

    state: State
    fence: int
    worker: str | None
    answer: str


def judge(holding: Holding, *, fence: int, worker: str, answer: str) -> Verdict:
    """Whether ``worker`` may end the task under ``fence``; ``answer`` is the digest of its end.

    A lease counts until its row says otherwise, so lateness alone refuses nobody: what does is
    that the lease was found expired, was given to another, or was ended.
    """
    mine = holding.fence == fence and holding.worker == worker
    if holding.state is State.LEASED and mine:
        return Verdict.ACCEPT
    if holding.state is State.CANCELLED:
        return Verdict.CANCELLED
    if holding.fence == 0:
        return Verdict.NEVER_LEASED
    if mine and holding.answer == answer != "":
        return Verdict.REPEATED
    return Verdict.STALE


def backoff_seconds(
    attempts: int,
    *,
    first_seconds: float,
    random: float,
    at_least_seconds: float = 0.0,
    most_seconds: float = BACKOFF_SECONDS_MAX,
) -> float:
    """How long to wait before the next attempt, after ``attempts`` (≥ 1) have failed.

    Doubles from ``first_seconds`` up to ``most_seconds``; ``random`` in [0, 1) takes up to half of
    it away, so that what failed together does not come back together. Never less than
    ``at_least_seconds``, which is what the source asked for.
    """
    exponent = min(max(attempts, 1) - 1, 60)
    full = min(first_seconds * 2.0**exponent, most_seconds)
    return max(full * (1.0 - 0.5 * random), at_least_seconds)


def is_last(attempts: int, attempts_max: int, deadline: str | None, retry_at: str) -> bool:
    """Whether no further attempt follows: they are used up, or the next would come too late."""
    return attempts >= attempts_max or (deadline is not None and retry_at >= deadline)


# --- schedules -----------------------------------------------------------------------------------


def jitter_seconds(schedule: Schedule, tenant: str, profile: str) -> float:
    """The profile's own delay within the schedule's jitter: the same each time, on each machine."""
    spread = duration_seconds(schedule.jitter)
    digest = hashlib.sha256(f"{tenant}\0{profile}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48 * spread


def first_due(
    schedule: Schedule, tenant: str, profile: str, now: datetime, last_at: datetime | None
) -> datetime:
    """When a profile is due under a schedule that is new to us.

    An interval begins at once (after the jitter), or one interval after the last start; a cron
    expression begins at its next moment. Raises :class:`Invalid` for a schedule that names none.
    """
    delay = timedelta(seconds=jitter_seconds(schedule, tenant, profile))
    if schedule.every is not None:
        if last_at is not None:
            return last_at + timedelta(seconds=_every_seconds(schedule))
        return now + delay
    return _cron_after(schedule, now - delay) + delay


def next_due(
    schedule: Schedule, tenant: str, profile: str, due: datetime, now: datetime
) -> datetime:
    """The first moment after ``now`` at which the profile is due again, having been at ``due``.

    Moments missed meanwhile are not made up for: one start stands for all of them. Intervals keep
    their phase.
    """
    if schedule.every is not None:
        every = _every_seconds(schedule)
        missed = max(0, math.floor((now - due).total_seconds() / every))
        return due + timedelta(seconds=every * (missed + 1))
    delay = timedelta(seconds=jitter_seconds(schedule, tenant, profile))
    return _cron_after(schedule, max(due, now) - delay) + delay


def _every_seconds(schedule: Schedule) -> float:
    seconds = duration_seconds(schedule.every or "")
    if seconds <= 0:
        raise Invalid(f"cannot schedule every {schedule.every}: an interval is longer than nothing")
    return seconds


def _cron_after(schedule: Schedule, moment: datetime) -> datetime:
    """The first moment of the cron expression after ``moment``, on the schedule's wall clock.

    Where the clock is put back an hour happens twice; an expression that names its hours then
    fires in the first only, one with ``*`` hours in both.
    """
    expression = schedule.cron or ""
    fields = expression.split()
    if len(fields) != 5:
        raise Invalid(
            f"cannot schedule {expression!r}: a cron expression has five fields",
            hint="minute hour day-of-month month day-of-week",
        )
    try:
        zone = ZoneInfo(schedule.timezone)
        moments = croniter(expression, moment.astimezone(zone))
        while True:
            found: datetime = moments.get_next(datetime)
            second_time = found.replace(fold=0).utcoffset() != found.utcoffset()
            if fields[1].startswith("*") or not second_time:
                return found.astimezone(moment.tzinfo)
    except (ZoneInfoNotFoundError, ValueError, KeyError, OSError) as error:
        raise Invalid(
            f"cannot schedule {expression!r} in {schedule.timezone!r}: {error}"
        ) from error
