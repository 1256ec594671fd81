"""What becomes of a leased task, as plain functions of its row; and how that is written down.

A fate is the row as it will be, what to remember of the attempt, and the event that tells of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.fleet import store
from holdfast.fleet.model import Task, TaskAttempt, TaskStatus
from holdfast.fleet.rules import State, backoff_seconds, is_last
from holdfast.fleet.store import Change, TaskRow
from holdfast.kernel.clock import timestamp
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal

PUBLIC_STATUS: dict[State, TaskStatus] = {
    State.READY: TaskStatus.QUEUED,
    State.WAITING: TaskStatus.QUEUED,
    State.LEASED: TaskStatus.LEASED,
    State.SUCCEEDED: TaskStatus.SUCCEEDED,
    State.DEAD: TaskStatus.DEAD,
    State.CANCELLED: TaskStatus.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses between attempts."""

    first_seconds: float
    most_seconds: float


def task_of(row: Any) -> Task:
    """A row as it is read back."""
    return Task(
        id=row.id,
        kind=row.kind,
        payload=msgspec.json.decode(row.payload),
        status=PUBLIC_STATUS[State(row.state)],
        capabilities=msgspec.json.decode(row.capabilities),
        priority=-row.rank,
        residency=row.residency,
        fence=row.fence,
        attempts=row.attempts,
        attempts_max=row.attempts_max,
        worker=row.worker,
        created_at=row.created_at,
        available_at=row.available_at,
        deadline=row.deadline,
        lease_seconds=row.lease_seconds,
        lease_expires_at=row.lease_expires_at,
        finished_at=row.finished_at,
        result=None if row.result is None else msgspec.json.decode(row.result),
        exclusive=row.exclusive,
        code=row.code,
        reason=row.reason,
    )


def attempt_of(row: Any) -> TaskAttempt:
    """A lease that ended without ending its task, as it is read back."""
    return TaskAttempt(
        fence=row.fence,
        attempt=row.attempt,
        worker=row.worker,
        ended_at=row.ended_at,
        code=row.code,
        reason=row.reason,
    )


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a task: its row, what to remember of the attempt, and what happened."""

    change: Change
    attempt: tuple[Any, ...] | None
    event: str


def succeed(row: TaskRow, now: datetime, result: str, answer: str) -> Fate:
    """The task is done."""
    change = _unchanged(row)._replace(
        state=State.SUCCEEDED.value,
        lease_expires_at=None,
        finished_at=timestamp(now),
        result=result,
        code="",
        reason="",
        answer=answer,
    )
    return Fate(change, None, "task.succeeded")


def fail(
    row: TaskRow,
    now: datetime,
    backoff: Backoff,
    *,
    jitter: float,
    code: str,
    reason: str,
    answer: str = "",
    retry: bool = True,
    at_least_seconds: float = 0.0,
    result: str | None = None,
) -> Fate:
    """The attempt came to nothing: try again later, or never if this was the last."""
    pause = backoff_seconds(
        row.attempts,
        first_seconds=backoff.first_seconds,
        most_seconds=backoff.most_seconds,
        at_least_seconds=at_least_seconds,
        random=jitter,
    )
    retry_at = timestamp(now + timedelta(seconds=pause))
    attempt = _attempt(row, now, code, reason, answer)
    change = _unchanged(row)._replace(lease_expires_at=None, code=code, reason=reason)
    if not retry or is_last(row.attempts, row.attempts_max, row.deadline, retry_at):
        change = change._replace(answer=answer, result=result)
        return Fate(_ended(change, row, State.DEAD, now), attempt, "task.dead")
    waiting = change._replace(state=State.WAITING.value, available_at=retry_at, worker=None)
    return Fate(waiting, attempt, "task.retried")


def release(row: TaskRow, now: datetime, *, code: str, reason: str, answer: str = "") -> Fate:
    """The task goes back to its place in the queue, as if it had not been taken from there.

    Its fence stays used, so whoever held it is refused from the next lease on as after any other
    end; the lease is remembered, the attempt is not counted.
    """
    attempt = _attempt(row, now, code, reason, answer)
    change = _unchanged(row)._replace(
        state=State.READY.value,
        worker=None,
        lease_expires_at=None,
        attempts=max(0, row.attempts - 1),
        code=code,
        reason=reason,
    )
    return Fate(change, attempt, "task.released")


def give_up(row: TaskRow, now: datetime, state: State, code: str, reason: str) -> Fate:
    """The task ends without its worker: cancelled, or too late for it."""
    change = _unchanged(row)._replace(lease_expires_at=None, code=code, reason=reason)
    event = "task.cancelled" if state is State.CANCELLED else "task.dead"
    return Fate(_ended(change, row, state, now), None, event)


def _attempt(row: TaskRow, now: datetime, code: str, reason: str, answer: str) -> tuple[Any, ...]:
    """What is remembered of a lease that did not end its task, in the order of its columns."""
    return (
        row.tenant,
        row.id,
        row.fence,
        row.attempts,
        row.worker or "",
        timestamp(now),
        code,
        reason,
        answer,
    )


def _ended(change: Change, row: TaskRow, state: State, now: datetime) -> Change:
    """A run that was begun is to be closed by us: no worker will."""
    begun = row.kind == "collect" and row.fence > 0
    return change._replace(
        state=state.value,
        finished_at=timestamp(now),
        close_at=timestamp(now) if begun else None,
    )


def _unchanged(row: TaskRow) -> Change:
    return Change(
        state=row.state,
        available_at=row.available_at,
        worker=row.worker,
        lease_expires_at=row.lease_expires_at,
        finished_at=row.finished_at,
        result=row.result,
        code=row.code,
        reason=row.reason,
        answer=row.answer,
        close_at=row.close_at,
        attempts=row.attempts,
        tenant=row.tenant,
        id=row.id,
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """A task whose end was accepted, now or before (then there is no ``fate``)."""

    row: TaskRow
    fate: Fate | None = None

    @property
    def status(self) -> TaskStatus:
        """How it stands now."""
        return PUBLIC_STATUS[State(self.row.state if self.fate is None else self.fate.change.state)]

    @property
    def task(self) -> Task:
        """The task as it will be read; many who tell many ends never ask."""
        return task_of(self.row) if self.fate is None else task_after(self.row, self.fate)


def decide(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    now: datetime,
    fates: Sequence[tuple[TaskRow, Fate, EventId, str]],
) -> list[str]:
    """Write what became of each task, and its event (id and subject come with it).

    Answers with the types of the events.
    """
    store.apply(conn, [fate.change for _, fate, _, _ in fates])
    store.keep_attempts(conn, [fate.attempt for _, fate, _, _ in fates if fate.attempt])
    outbox.emit_many(
        conn,
        principal,
        [_event(row, fate, now, id_, subject) for row, fate, id_, subject in fates],
    )
    return [fate.event for _, fate, _, _ in fates]


def _event(row: TaskRow, fate: Fate, now: datetime, id_: EventId, subject: str) -> Event:
    change = fate.change
    payload: dict[str, Any] = {
        "task": row.id,
        "kind": row.kind,
        "fence": row.fence,
        "attempt": row.attempts,
        "worker": row.worker or "",
        "code": change.code,
        "reason": change.reason,
    }
    if row.run:
        payload["run"] = row.run
    if fate.event == "task.retried":
        payload["retry_at"] = change.available_at
    return Event(
        id=id_,
        stream=f"task/{row.id}",
        type=fate.event,
        time=now,
        payload=payload,
        subject=subject,
    )


def task_after(row: TaskRow, fate: Fate) -> Task:
    """The task as its row will read."""
    change = fate.change
    return msgspec.structs.replace(
        task_of(row),
        status=PUBLIC_STATUS[State(change.state)],
        available_at=change.available_at,
        attempts=change.attempts,
        worker=change.worker,
        lease_expires_at=change.lease_expires_at,
        finished_at=change.finished_at,
        result=None if change.result is None else msgspec.json.decode(change.result),
        code=change.code,
        reason=change.reason,
    )
