"""Units of work on tasks: each moves several at once, in one transaction, and answers for each.

They are plain functions of a connection and of what they are given: times, ids, randomness and the
wishes of the callers. A refusal is an answer like any other, so that one caller's mistake does not
cost its neighbours in the same transaction theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from holdfast.fleet import store, worker_store
from holdfast.fleet.fates import (
    PUBLIC_STATUS,
    Backoff,
    Ended,
    Fate,
    decide,
    fail,
    give_up,
    release,
    succeed,
    task_after,
    task_of,
)
from holdfast.fleet.model import COLLECT, OF_PROFILE, Complete, Task, TaskStatus
from holdfast.fleet.rules import (
    FINAL,
    Holding,
    State,
    Verdict,
    judge,
    may_take,
)
from holdfast.fleet.store import TaskRow
from holdfast.fleet.worker_store import WorkerRow
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import (
    Conflict,
    HoldfastError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal

LOOKUPS_MAX = 3
RELEASES_FREE_MAX = 20
"""How often a task may go back to the queue without that being counted as an attempt. More often
in a row is no accident any more: something about it ends whoever takes it up."""

# --- submitting ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked task on its way in. ``given`` is whether the submitter chose the id."""

    task: Task
    queue: str
    run: str
    fingerprint: str
    given: bool
    event: Event

    @property
    def fresh(self) -> bool:
        return not self.given and not self.task.exclusive

    def values(self, tenant: str) -> tuple[Any, ...]:
        """Its row, in the order of ``SUBMITTED_COLUMNS``."""
        task = self.task
        state = State.WAITING if task.available_at > task.created_at else State.READY
        return (
            tenant,
            task.id,
            task.kind,
            msgspec.json.encode(task.payload).decode(),
            state.value,
            msgspec.json.encode(task.capabilities).decode(),
            self.queue,
            -task.priority,
            task.residency,
            task.exclusive,
            self.run,
            self.fingerprint,
            task.attempts_max,
            task.lease_seconds,
            task.created_at,
            task.available_at,
            task.deadline,
        )


def submit(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    submissions: Sequence[Submission],
    known_queues: frozenset[str],
) -> tuple[list[Task | HoldfastError], int]:
    """Store what is new; answer what is there already with what is there.

    The answer to each, and how many were new. The same id with other content is a
    :class:`Conflict` (``task-id-reused``).
    """
    tenant = principal.tenant
    first: dict[str, Submission] = {}
    for submission in submissions:
        first.setdefault(submission.task.id, submission)
    unseen = {each.queue for each in submissions} - known_queues
    if unseen:
        store.add_queues(conn, tenant, unseen)
    stored = 0
    answers: list[Task | HoldfastError | None] = [None] * len(submissions)
    for _ in range(LOOKUPS_MAX):
        missing = [each for n, each in enumerate(submissions) if answers[n] is None]
        if not missing:
            break
        rows = [first[task].values(tenant) for task in sorted({each.task.id for each in missing})]
        inserted = store.insert_tasks(conn, rows, all(each.fresh for each in missing))
        outbox.emit_many(
            conn, principal, [each.event for id_, each in first.items() if id_ in inserted]
        )
        stored += len(inserted)
        present = store.find_tasks(
            conn, tenant, {each.task.id for each in missing if each.given} - inserted
        )
        for n, submission in enumerate(submissions):
            if answers[n] is None:
                answers[n] = _answer(conn, tenant, submission, first, inserted, present)
    return [
        answer if answer is not None else _vanished(submissions[n].task.exclusive)
        for n, answer in enumerate(answers)
    ], stored


def _answer(
    conn: Connection,
    tenant: str,
    submission: Submission,
    first: Mapping[str, Submission],
    inserted: set[str],
    present: Mapping[str, TaskRow],
) -> Task | HoldfastError | None:
    """What to say to one submission; nothing if what stood in its way is gone again."""
    task = submission.task
    if task.id in inserted:
        same = first[task.id].fingerprint == submission.fingerprint
        return first[task.id].task if same else _reused(task.id)
    if task.id in present:
        same = present[task.id].fingerprint == submission.fingerprint
        return task_of(present[task.id]) if same else _reused(task.id)
    row = store.find_exclusive(conn, tenant, task.exclusive) if task.exclusive else None
    return None if row is None else task_of(row)


def _reused(task: str) -> Conflict:
    return Conflict(
        f"cannot submit the task {task}: the id was used with other content",
        code="task-id-reused",
    )


def _vanished(exclusive: str) -> Unavailable:
    return Unavailable(
        f"cannot submit: tasks for {exclusive!r} come and go too fast", retry_after_seconds=1
    )


# --- claiming ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """A worker asks for up to ``limit`` tasks of these kinds; ``number`` is 0 if it counts none."""

    worker: str
    kinds: frozenset[str]
    limit: int
    number: int = 0


class Signing(NamedTuple):
    """The key a worker signs with, and the event that put it on the record."""

    key: str
    registration: str


class Leased(NamedTuple):
    """What a claim came to: tasks, and what their grants say of the worker."""

    tasks: list[Task]
    signing: Signing


def signing_of(row: WorkerRow) -> Signing:
    """What grants say of the worker."""
    return Signing(row.signing_key, row.registration)


@dataclass(slots=True)
class _Group:
    """Workers that may be given the same."""

    capabilities: frozenset[str]
    region: str
    kinds: frozenset[str]
    members: list[int]


def claim(
    conn: Connection, tenant: str, now: datetime, wants: Sequence[Want]
) -> list[Leased | HoldfastError]:
    """Lease to each worker what it asks for, as far as there is any.

    Workers that may take the same are dealt to in turn, in the order they asked, most urgent task
    first.
    """
    known = worker_store.find_workers(conn, tenant, {want.worker for want in wants})
    answers: list[Leased | HoldfastError] = []
    groups: dict[tuple[Any, ...], _Group] = {}
    for n, want in enumerate(wants):
        row = known.get(want.worker)
        refusal = refusal_of_worker(row) or _over(row, want)
        if refusal is not None:
            answers.append(refusal)
        elif row is not None:
            answers.append(Leased([], signing_of(row)))
            capabilities = frozenset(msgspec.json.decode(row.capabilities))
            key = (capabilities, row.region, want.kinds)
            group = groups.setdefault(key, _Group(capabilities, row.region, want.kinds, []))
            group.members.append(n)
    for row in known.values():
        if row.status == "lost":
            worker_store.set_status(conn, tenant, row.id, "alive", "lost", row.last_beat_at)
    if not groups:
        return answers
    store.promote(conn, tenant, timestamp(now))
    queues = store.queues_of(conn, tenant)
    for group in groups.values():
        eligible = [
            queue
            for queue in queues
            if may_take(queue, group.kinds, group.capabilities, group.region)
        ]
        wanted = sum(wants[n].limit for n in group.members)
        rows = store.candidates(conn, tenant, eligible, timestamp(now), wanted)
        for n, task in _deal(conn, tenant, now, group.members, wants, rows):
            answer = answers[n]
            assert isinstance(answer, Leased)
            answer.tasks.append(task)
    return answers


def _deal(
    conn: Connection,
    tenant: str,
    now: datetime,
    members: Sequence[int],
    wants: Sequence[Want],
    rows: Sequence[TaskRow],
) -> list[tuple[int, Task]]:
    room = {n: wants[n].limit for n in members}
    turn = list(members)
    dealt: list[tuple[int, TaskRow, str]] = []
    for row in rows:
        n = turn.pop(0)
        expiry = timestamp(now + timedelta(seconds=row.lease_seconds))
        dealt.append((n, row, expiry))
        room[n] -= 1
        if room[n]:
            turn.append(n)
    fences = store.lease(
        conn,
        tenant,
        [(row.id, wants[n].worker, expiry, wants[n].number or None) for n, row, expiry in dealt],
    )
    return [
        (
            n,
            msgspec.structs.replace(
                task_of(row),
                status=TaskStatus.LEASED,
                fence=fences[row.id],
                attempts=row.attempts + 1,
                worker=wants[n].worker,
                lease_expires_at=expiry,
            ),
        )
        for n, row, expiry in dealt
    ]


def refusal_of_worker(row: WorkerRow | None) -> HoldfastError | None:
    """Why this worker may not work; nothing if it may."""
    if row is None:
        return Unauthenticated(
            "cannot work: this worker is not known here",
            code="worker-unknown",
            hint="register again with the join token",
        )
    if row.status == "revoked":
        return Unauthenticated("cannot work: this worker was revoked", code="worker-revoked")
    if not row.signing_key and COLLECT in msgspec.json.decode(row.capabilities):
        return Unauthenticated(
            "cannot work: this worker registered without a signing key, as earlier releases did",
            code="worker-without-key",
            hint="register again with the join token: the drone then makes a key",
        )
    return None


def _over(row: WorkerRow | None, want: Want) -> HoldfastError | None:
    """A claim from before its worker left has nobody to take what it would bring."""
    if row is None or not want.number or want.number > (row.settled or 0):
        return None
    return Conflict(
        f"cannot claim: the worker said that its claims up to {row.settled} are over",
        code="claim-settled",
        hint="number the next claim above what the answer to a beat says",
    )


# --- what workers and operators tell -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """A worker's account of how a leased task ended. ``digest`` is that of the account."""

    task: str
    worker: str
    end: Complete
    digest: str
    event: EventId
    jitter: float


def complete(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    now: datetime,
    backoff: Backoff,
    endings: Sequence[Ending],
) -> tuple[list[Ended | HoldfastError], list[str]]:
    """End leased tasks as their holders say; refuse what comes late, from others or twice over.

    The answer to each, and the types of the events there were.
    """
    tenant = principal.tenant
    rows = store.find_tasks(conn, tenant, {ending.task for ending in endings}, lock=True)
    taken: dict[str, tuple[Ending, Ended]] = {}
    fates: list[tuple[TaskRow, Fate, EventId, str]] = []
    answers: list[Ended | HoldfastError | None] = []
    unclear: dict[int, TaskRow] = {}
    given_back = [ending.task for ending in endings if ending.end.outcome == "released"]
    released = _releases(conn, tenant, [rows[task] for task in given_back if task in rows])
    for n, ending in enumerate(endings):
        row = rows.get(ending.task)
        answers.append(None)
        if row is None:
            answers[n] = _not_found(ending.task)
        elif ending.task in taken:
            before, ended = taken[ending.task]
            answers[n] = ended if _same_end(before, ending) else _stale(ending, row.fence)
        else:
            verdict = _judge(row, ending)
            if verdict is Verdict.ACCEPT:
                fate = _fate(row, now, backoff, ending, released.get(row.id, 0))
                fates.append((row, fate, ending.event, ending.worker))
                taken[ending.task] = (ending, Ended(row, fate))
                answers[n] = taken[ending.task][1]
            elif verdict is Verdict.STALE:
                unclear[n] = row
            else:
                answers[n] = _answer_to(verdict, row, ending)
    events = decide(conn, principal, outbox, now, fates)
    accepted = _ended_attempts(conn, tenant, unclear.values())
    for n, row in unclear.items():
        ending = endings[n]
        repeated = (ending.task, ending.end.fence, ending.worker, ending.digest) in accepted
        answers[n] = Ended(row) if repeated else _stale(ending, row.fence)
    return [answer for answer in answers if answer is not None], events


def _judge(row: TaskRow, ending: Ending) -> Verdict:
    holding = Holding(State(row.state), row.fence, row.worker, row.answer)
    return judge(holding, fence=ending.end.fence, worker=ending.worker, answer=ending.digest)


def _releases(conn: Connection, tenant: str, rows: Sequence[TaskRow]) -> dict[str, int]:
    """How often each task was released since it last counted an attempt."""
    counting = {(row.id, row.attempts) for row in rows}
    found = store.attempts_of(conn, tenant, {row.id for row in rows})
    return Counter(each.task for each in found if (each.task, each.attempt) in counting)


def _fate(row: TaskRow, now: datetime, backoff: Backoff, ending: Ending, releases: int) -> Fate:
    end = ending.end
    if end.outcome == "released" and releases < RELEASES_FREE_MAX:
        code = end.code or "released"
        return release(row, now, code=code, reason=end.reason, answer=ending.digest)
    result = msgspec.json.encode(end.result).decode()
    if end.outcome == "succeeded":
        return succeed(row, now, result, ending.digest)
    return fail(
        row,
        now,
        backoff,
        jitter=ending.jitter,
        code=end.code or "failed",
        reason=end.reason,
        answer=ending.digest,
        retry=end.retry,
        at_least_seconds=end.retry_after_seconds or 0.0,
        result=result,
    )


def _same_end(one: Ending, other: Ending) -> bool:
    return (one.worker, one.digest, one.end.fence) == (other.worker, other.digest, other.end.fence)


def _ended_attempts(
    conn: Connection, tenant: str, rows: Iterable[TaskRow]
) -> set[tuple[str, int, str, str]]:
    """Which ends of earlier leases were accepted: telling one of them again is no offence."""
    return {
        (found.task, found.fence, found.worker, found.answer)
        for found in store.attempts_of(conn, tenant, {row.id for row in rows})
        if found.answer
    }


def _answer_to(verdict: Verdict, row: TaskRow, ending: Ending) -> Ended | HoldfastError:
    if verdict is Verdict.REPEATED:
        return Ended(row)
    if verdict is Verdict.CANCELLED:
        return Conflict(
            f"cannot complete the task {row.id}: it was cancelled", code="task-cancelled"
        )
    if verdict is Verdict.NEVER_LEASED:
        return Conflict(
            f"cannot complete the task {row.id}: nobody has claimed it", code="task-not-leased"
        )
    return _stale(ending, row.fence)


def _stale(ending: Ending, fence: int) -> Conflict:
    return Conflict(
        f"cannot complete the task {ending.task}: the lease under fence {ending.end.fence} "
        "is not yours or is over",
        code="stale-fence",
        internal=f"fence {ending.end.fence} of {ending.worker}, the row has {fence}",
    )


def _not_found(task: str) -> NotFound:
    return NotFound(f"cannot find the task {task}", code="task-not-found")


def sees(principal: Principal, row: Any) -> bool:
    """Whether a task is within the principal's profiles, if it is limited to some: only what
    collects is of a profile, and its exclusive name says of which."""
    if principal.profiles is None:
        return True
    return row.kind == COLLECT and principal.sees(row.exclusive.removeprefix(OF_PROFILE))


def cancel(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    now: datetime,
    task: str,
    event: EventId,
    code: str,
    reason: str,
) -> tuple[Task, list[str]]:
    """End an unfinished task; the same answer again, without an event, if it was cancelled."""
    row = store.find_tasks(conn, principal.tenant, [task], lock=True).get(task)
    if row is None or not sees(principal, row):
        raise _not_found(task)
    state = State(row.state)
    if state is State.CANCELLED:
        return task_of(row), []
    if state in FINAL:
        raise Conflict(
            f"cannot cancel the task {task}: it has {PUBLIC_STATUS[state].value}"
            if state is State.SUCCEEDED
            else f"cannot cancel the task {task}: it is {PUBLIC_STATUS[state].value}",
            code="task-finished",
        )
    fate = give_up(row, now, State.CANCELLED, code, reason)
    events = decide(conn, principal, outbox, now, [(row, fate, event, principal.subject)])
    return task_after(row, fate), events


# --- beats ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Held:
    """What a beat's leases came to, before any of them is renewed."""

    renew: list[TaskRow]
    keep: list[TaskRow]
    lost: list[str]
    cancelled: list[str]
    unheard: list[str]
    """Leased to the worker by claims that are settled, and not among what it holds."""
    claim_number: int = 0


def look_at_leases(
    conn: Connection,
    tenant: str,
    worker: str,
    leases: Mapping[str, int],
    now: datetime,
    settled: int | None = None,
) -> Held:
    """Which of a worker's leases still hold, and which of those are worth renewing by now.

    A lease with two thirds of its time left is left alone: beats come often, rows are written
    seldom. One that is listed for the first time is renewed at once: from then on it is known that
    its worker has heard of it.
    """
    held = Held([], [], [], [], [])
    unheard = {row.id: row for row in store.unheard_by(conn, tenant, worker)}
    held.claim_number = max((row.claim for row in unheard.values()), default=0)
    held.unheard = [
        task
        for task, row in unheard.items()
        if settled is not None and row.claim <= settled and leases.get(task) != row.fence
    ]
    rows = store.find_tasks(conn, tenant, leases)
    for task, fence in leases.items():
        row = rows.get(task)
        if row is None or row.fence != fence or row.worker != worker:
            held.lost.append(task)
        elif row.state == State.CANCELLED.value:
            held.cancelled.append(task)
        elif row.state != State.LEASED.value:
            held.lost.append(task)
        elif task in unheard or row.lease_expires_at < timestamp(
            now + timedelta(seconds=row.lease_seconds * 2 / 3)
        ):
            held.renew.append(row)
        else:
            held.keep.append(row)
    return held


def release_unheard(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    now: datetime,
    backoff: Backoff,
    worker: str,
    settled: int,
    leases: Mapping[str, int],
    endings: Sequence[tuple[str, EventId, float]],
) -> tuple[set[str], list[str]]:
    """Give back what was leased to a worker by an answer that never reached it.

    ``endings`` names the tasks, each with the id of its event and its share of chance. Looked at
    again under lock: what another unit has moved on meanwhile is left alone. The kinds of the tasks
    that went back to the queue, and the types of the events there were.
    """
    tenant = principal.tenant
    rows = store.find_tasks(conn, tenant, {task for task, _, _ in endings}, lock=True)
    released = _releases(conn, tenant, list(rows.values()))
    fates = []
    for task, event, jitter in endings:
        row = rows.get(task)
        if row is None or row.state != State.LEASED.value or row.worker != worker:
            continue
        if row.claim is None or row.claim > settled or leases.get(task) == row.fence:
            continue
        code, reason = "lease-unheard", "the answer that leased it did not reach the worker"
        if released.get(task, 0) < RELEASES_FREE_MAX:
            fate = release(row, now, code=code, reason=reason)
        else:
            fate = fail(row, now, backoff, jitter=jitter, code=code, reason=reason)
        fates.append((row, fate, event, principal.subject))
    events = decide(conn, principal, outbox, now, fates)
    return {row.kind for row, fate, _, _ in fates if fate.event == "task.released"}, events
