"""The tables of tasks and the statements on them.

One text serves both databases but where a statement is named per dialect: the hot path works in
sets, by ``unnest`` and ``SKIP LOCKED`` on PostgreSQL, by prepared statements run over many rows on
SQLite, where one writer has nobody to skip.

Everything that can be claimed, that waits, that is leased or that must be closed is a partial index
of its own, so what each step costs depends on what it finds, not on how much lies finished.
"""
# ruff: noqa: S608 — statements are composed of this module's own constants; values are bound.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Row,
    Text,
    TextClause,
    text,
)
from sqlalchemy import Sequence as SqlSequence

from holdfast.fleet.model import COLLECT, OF_PROFILE
from holdfast.fleet.rules import State
from holdfast.fleet.statements import by_ids, ids_of, is_sqlite, run_many, select_by_ids
from holdfast.kernel.database import as_source, bulk_insert, metadata, tenant_table

TaskRow = Row[Any]

_READY = "state = 'ready'"
_WAITING = "state = 'waiting'"
_LEASED = "state = 'leased'"
_UNFINISHED = "state IN ('ready', 'waiting', 'leased')"
_EXCLUSIVE = f"exclusive <> '' AND {_UNFINISHED}"
_OVERDUE = "deadline IS NOT NULL AND state IN ('ready', 'waiting')"
_CLOSING = "close_at IS NOT NULL"
_OF_RUN = "run <> ''"
_DEAD = "state = 'dead'"


def _partial(name: str, condition: str, *columns: str, unique: bool = False) -> Index:
    return Index(
        name,
        "tenant",
        *columns,
        unique=unique,
        sqlite_where=text(condition),
        postgresql_where=text(condition),
    )


tasks = tenant_table(
    "tasks",
    Column("id", Text, primary_key=True, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("rank", BigInteger, nullable=False),
    Column("residency", Text, nullable=False),
    Column("exclusive", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("attempts_max", BigInteger, nullable=False),
    Column("lease_seconds", BigInteger, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("available_at", Text, nullable=False),
    Column("deadline", Text),
    Column("fence", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("worker", Text),
    Column("lease_expires_at", Text),
    Column("finished_at", Text),
    Column("result", Text),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("close_at", Text),
    Column("closes", BigInteger, nullable=False),
    Column("claim", BigInteger),
    _partial("ix_tasks_ready", _READY, "queue", "rank", "available_at", "id"),
    _partial("ix_tasks_waiting", _WAITING, "available_at"),
    _partial("ix_tasks_leased", _LEASED, "lease_expires_at"),
    _partial("ix_tasks_held", _LEASED, "worker"),
    _partial("ix_tasks_overdue", _OVERDUE, "deadline"),
    _partial("ix_tasks_closing", _CLOSING, "close_at"),
    _partial("ix_tasks_run", _OF_RUN, "run"),
    _partial("ix_tasks_dead", _DEAD, "id"),
    _partial("uq_tasks_exclusive", _EXCLUSIVE, "exclusive", unique=True),
)
"""Tasks and their leases. ``rank`` is the negated priority, so that every order here ascends.

``worker`` stays after the end, to know a repeated answer; ``answer`` is the digest of the end that
was accepted. ``close_at`` is when to close the run of a task that ended without its worker.
``claim`` is the number of the claim that leased it, until a beat of its worker lists the lease.
"""

task_attempts = tenant_table(
    "task_attempts",
    Column("task", Text, primary_key=True, nullable=False),
    Column("fence", BigInteger, primary_key=True, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("ended_at", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("answer", Text, nullable=False),
)
"""Leases that ended without ending their task. One that succeeds at once leaves no row here."""

task_queues = tenant_table(
    "task_queues",
    Column("queue", Text, primary_key=True, nullable=False),
)
"""Every queue that ever had a task: few, and a claim looks only into those it may take from."""

task_fences = tenant_table(
    "task_fences",
    Column("last", BigInteger, nullable=False),
)
"""The last fence given out in each tenant. SQLite only: there it contends with nobody."""

fence_sequence = SqlSequence("task_fence_sequence", metadata=metadata)
"""The fences on PostgreSQL: a counter row would make every two claims of a tenant wait."""

# --- submitting ----------------------------------------------------------------------------------

SUBMITTED_COLUMNS = (
    "tenant",
    "id",
    "kind",
    "payload",
    "state",
    "capabilities",
    "queue",
    "rank",
    "residency",
    "exclusive",
    "run",
    "fingerprint",
    "attempts_max",
    "lease_seconds",
    "created_at",
    "available_at",
    "deadline",
)
"""What a submission says; the rest of a new row is the same for all."""
_NAMES = ", ".join(SUBMITTED_COLUMNS)
_MARKS = ", ".join("?" for _ in SUBMITTED_COLUMNS)
_REST = "fence, attempts, code, reason, answer, closes"
_REST_VALUES = "0, 0, '', '', '', 0"
_INSERT_TASK_SQLITE = (
    f"INSERT INTO tasks ({_NAMES}, {_REST}) VALUES ({_MARKS}, {_REST_VALUES})"
    " ON CONFLICT DO NOTHING"
)
_SUBMITTED_TYPES = tuple(
    "bigint" if isinstance(tasks.c[name].type, BigInteger) else "text" for name in SUBMITTED_COLUMNS
)
_INSERT_TASKS_POSTGRESQL = (
    f"INSERT INTO tasks ({_NAMES}, {_REST}) SELECT given.*, {_REST_VALUES} FROM ({{source}})"
    " AS given ON CONFLICT DO NOTHING RETURNING id"
)


def insert_tasks(conn: Connection, rows: Sequence[Sequence[Any]], fresh: bool) -> set[str]:
    """Insert what stands in nobody's way; the ids of what was inserted.

    ``fresh`` promises that no id and no exclusive name among ``rows`` can be taken.
    """
    at_id = SUBMITTED_COLUMNS.index("id")
    if not is_sqlite(conn):
        if not rows:
            return set()
        source, values = as_source(_SUBMITTED_TYPES, SUBMITTED_COLUMNS, rows)
        statement = _INSERT_TASKS_POSTGRESQL.format(source=source)
        return set(conn.exec_driver_sql(statement, values).scalars())
    if fresh:
        run_many(conn, _INSERT_TASK_SQLITE, "", (), rows)
        return {row[at_id] for row in rows}
    inserted = set()
    cursor = conn.connection.cursor()
    try:
        for row in rows:
            cursor.execute(_INSERT_TASK_SQLITE, tuple(row))
            if cursor.rowcount == 1:
                inserted.add(row[at_id])
    finally:
        cursor.close()
    return inserted


def add_queues(conn: Connection, tenant: str, queues: Collection[str]) -> None:
    """Make sure that claims look into these queues."""
    rows = [(tenant, queue) for queue in sorted(queues)]
    bulk_insert(conn, task_queues, ("tenant", "queue"), rows, skip_existing=True)


# --- reading -------------------------------------------------------------------------------------

_FIND_TASKS = "SELECT * FROM tasks WHERE tenant = :tenant AND id {ids} ORDER BY id"
# In the order of their ids, so that no two writers wait for each other.
_LOCK_TASKS = _FIND_TASKS + "{lock}"
_FIND_EXCLUSIVE = text(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND exclusive = :exclusive AND {_EXCLUSIVE}"
)
_ATTEMPTS = text(
    "SELECT * FROM task_attempts WHERE tenant = :tenant AND task = :task ORDER BY fence"
)
_ATTEMPTS_OF = "SELECT * FROM task_attempts WHERE tenant = :tenant AND task {ids}"


def find_tasks(
    conn: Connection, tenant: str, ids: Collection[str], *, lock: bool = False
) -> dict[str, TaskRow]:
    """The tasks of these ids; with ``lock`` nobody else changes them before we commit."""
    found = select_by_ids(conn, _LOCK_TASKS if lock else _FIND_TASKS, ids, tenant=tenant)
    return {row.id: row for row in found}


def find_exclusive(conn: Connection, tenant: str, exclusive: str) -> TaskRow | None:
    """The unfinished task under this exclusive name."""
    return conn.execute(_FIND_EXCLUSIVE, {"tenant": tenant, "exclusive": exclusive}).first()


def find_attempts(conn: Connection, tenant: str, task: str) -> Sequence[TaskRow]:
    """The leases of ``task`` that ended without ending it, in order."""
    return conn.execute(_ATTEMPTS, {"tenant": tenant, "task": task}).all()


def attempts_of(conn: Connection, tenant: str, ids: Collection[str]) -> Sequence[TaskRow]:
    """The same for several tasks at once, in no order."""
    return select_by_ids(conn, _ATTEMPTS_OF, ids, tenant=tenant)


def list_tasks(
    conn: Connection,
    tenant: str,
    filters: Mapping[str, Any],
    before: str | None,
    limit: int,
    profiles: Collection[str] | None = None,
) -> Sequence[TaskRow]:
    """Tasks with these column values, newest first, from below the id ``before``; with ``profiles``
    those that collect one of them.

    ``state`` may be a list. Conditions are written out where an index is partial to them.
    """
    conditions = ["tenant = :tenant"]
    values: dict[str, Any] = {"tenant": tenant, "limit": limit}
    for name, value in filters.items():
        if name == "state":
            states = ", ".join(f"'{State(state).value}'" for state in value)
            conditions.append(f"state IN ({states})" if len(value) > 1 else f"state = {states}")
        else:
            conditions.append(f"{tasks.c[name].name} = :{name}")
            values[name] = value
            if name == "run":
                conditions.append(_OF_RUN)
    if before is not None:
        conditions.append("id < :before")
        values["before"] = before
    if profiles is not None:
        own = {f"profile_{n}": f"{OF_PROFILE}{name}" for n, name in enumerate(sorted(profiles))}
        named = ", ".join(f":{n}" for n in own)
        conditions += [f"kind = '{COLLECT}'", f"exclusive IN ({named or 'NULL'})"]
        values |= own
    statement = (
        f"SELECT * FROM tasks WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit"
    )
    return conn.execute(text(statement), values).all()


def leases_held(conn: Connection, tenant: str) -> dict[str, int]:
    """How many leases each worker holds."""
    statement = text(
        "SELECT worker, count(*) AS held FROM tasks"
        f" WHERE tenant = :tenant AND {_LEASED} GROUP BY worker"
    )
    return {row.worker: row.held for row in conn.execute(statement, {"tenant": tenant})}


_OLDEST_READY = text(
    f"SELECT min(available_at) AS at FROM tasks WHERE tenant = :tenant AND {_READY}"
)
_WORKER_COUNTS = text(
    "SELECT status, count(*) AS amount FROM workers WHERE tenant = :tenant GROUP BY status"
)


def oldest_ready(conn: Connection, tenant: str) -> str | None:
    """Since when the oldest claimable task could have been claimed."""
    found: str | None = conn.execute(_OLDEST_READY, {"tenant": tenant}).scalar()
    return found


def count_workers(conn: Connection, tenant: str) -> dict[str, int]:
    """How many workers there are, by status; for metrics."""
    rows = conn.execute(_WORKER_COUNTS, {"tenant": tenant})
    return {row.status: row.amount for row in rows}


def count_states(conn: Connection, tenant: str) -> dict[str, int]:
    """How many unfinished and dead tasks there are, by kind of state; for metrics."""
    counts = {}
    for state, condition in (
        ("ready", _READY),
        ("waiting", _WAITING),
        ("leased", _LEASED),
        ("dead", _DEAD),
    ):
        statement = text(f"SELECT count(*) FROM tasks WHERE tenant = :tenant AND {condition}")
        counts[state] = int(conn.execute(statement, {"tenant": tenant}).scalar_one())
    return counts


# --- claiming ------------------------------------------------------------------------------------

_PROMOTE = {
    dialect: text(
        "UPDATE tasks SET state = 'ready' WHERE tenant = :tenant AND id IN ("
        f"SELECT id FROM tasks WHERE tenant = :tenant AND {_WAITING} AND available_at <= :now"
        f" ORDER BY available_at LIMIT :limit{lock}) AND {_WAITING} RETURNING kind"
    )
    for dialect, lock in (("sqlite", ""), ("postgresql", " FOR UPDATE SKIP LOCKED"))
}
_QUEUES = text("SELECT queue FROM task_queues WHERE tenant = :tenant ORDER BY queue")
_CANDIDATES = {
    dialect: text(
        f"SELECT * FROM tasks WHERE tenant = :tenant AND {_READY} AND queue = :queue"
        " AND (deadline IS NULL OR deadline > :now)"
        f" ORDER BY rank, available_at, id LIMIT :limit{lock}"
    )
    for dialect, lock in (("sqlite", ""), ("postgresql", " FOR UPDATE SKIP LOCKED"))
}
_FENCES_SQLITE = text(
    "INSERT INTO task_fences (tenant, last) VALUES (:tenant, :amount)"
    " ON CONFLICT (tenant) DO UPDATE SET last = task_fences.last + excluded.last RETURNING last"
)
_LEASE_SQLITE = (
    "UPDATE tasks SET state = 'leased', attempts = attempts + 1, fence = ?, worker = ?,"
    " lease_expires_at = ?, claim = ? WHERE tenant = ? AND id = ?"
)
_LEASE_POSTGRESQL = (
    "UPDATE tasks SET state = 'leased', attempts = attempts + 1,"
    " fence = nextval('task_fence_sequence'), worker = v.worker, lease_expires_at = v.expires_at,"
    " claim = v.claim FROM ({source}) AS v"
    " WHERE tasks.tenant = v.tenant AND tasks.id = v.id RETURNING tasks.id, tasks.fence"
)


def promote(conn: Connection, tenant: str, now: str, limit: int = 1000) -> set[str]:
    """Make claimable what has waited long enough; the kinds that have some now."""
    found = conn.execute(
        _PROMOTE[conn.dialect.name], {"tenant": tenant, "now": now, "limit": limit}
    )
    return {row.kind for row in found}


def queues_of(conn: Connection, tenant: str) -> list[str]:
    """Every queue of the tenant."""
    return [row.queue for row in conn.execute(_QUEUES, {"tenant": tenant})]


def candidates(
    conn: Connection, tenant: str, queues: Sequence[str], now: str, limit: int
) -> list[TaskRow]:
    """The first ``limit`` claimable tasks of these queues, ours until we commit."""
    statement = _CANDIDATES[conn.dialect.name]
    found: list[TaskRow] = []
    for queue in queues:
        values = {"tenant": tenant, "queue": queue, "now": now, "limit": limit}
        found += conn.execute(statement, values).all()
    if len(queues) > 1:
        found.sort(key=lambda row: (row.rank, row.available_at, row.id))
    return found[:limit]


def lease(
    conn: Connection, tenant: str, leases: Sequence[tuple[str, str, str, int | None]]
) -> dict[str, int]:
    """Lease tasks (id, worker, expiry, number of the claim), each under a new and higher fence.

    The fences.
    """
    if not leases:
        return {}
    if is_sqlite(conn):
        amount = len(leases)
        last = conn.execute(_FENCES_SQLITE, {"tenant": tenant, "amount": amount}).scalar_one()
        fences = {task: last - amount + n for n, (task, *_) in enumerate(leases, 1)}
        rows = [
            (fences[task], worker, expiry, claim, tenant, task)
            for task, worker, expiry, claim in leases
        ]
        run_many(conn, _LEASE_SQLITE, "", (), rows)
        return fences
    source, values = as_source(
        ("text", "text", "text", "bigint", "text"),
        ("id", "worker", "expires_at", "claim", "tenant"),
        [(task, worker, expiry, claim, tenant) for task, worker, expiry, claim in leases],
    )
    leased = conn.exec_driver_sql(_LEASE_POSTGRESQL.format(source=source), values)
    return {row[0]: int(row[1]) for row in leased}


_RENEW_SQLITE = text(
    "UPDATE tasks SET lease_expires_at = :expires_at, claim = NULL"
    f" WHERE tenant = :tenant AND id = :id AND {_LEASED}"
    " AND fence = :fence AND worker = :worker RETURNING id"
)
_RENEW_POSTGRESQL = (
    "UPDATE tasks SET lease_expires_at = v.expires_at, claim = NULL"
    " FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])"
    " AS u (tenant, id, expires_at, fence, worker) ORDER BY id) AS v"
    f" WHERE tasks.tenant = v.tenant AND tasks.id = v.id AND tasks.{_LEASED}"
    " AND tasks.fence = v.fence AND tasks.worker = v.worker RETURNING tasks.id"
)


def renew(conn: Connection, tenant: str, renewals: Sequence[tuple[str, str, int, str]]) -> set[str]:
    """Extend leases (id, new expiry, fence, worker) that are still held so; the ids of those.

    Their worker has heard of them.
    """
    if not renewals:
        return set()
    if is_sqlite(conn):
        return {
            row.id
            for task, expiry, fence, worker in renewals
            for row in conn.execute(
                _RENEW_SQLITE,
                {
                    "tenant": tenant,
                    "id": task,
                    "expires_at": expiry,
                    "fence": fence,
                    "worker": worker,
                },
            )
        }
    vectors = tuple(
        list(vector) for vector in zip(*((tenant, *renewal) for renewal in renewals), strict=True)
    )
    return {row[0] for row in conn.exec_driver_sql(_RENEW_POSTGRESQL, vectors)}


# --- what becomes of a task ----------------------------------------------------------------------


class Change(NamedTuple):
    """What a task's row says after it moved on. The order is that of the statement below."""

    state: str
    available_at: str
    worker: str | None
    lease_expires_at: str | None
    finished_at: str | None
    result: str | None
    code: str
    reason: str
    answer: str
    close_at: str | None
    attempts: int
    tenant: str
    id: str


_CHANGED = (
    "state",
    "available_at",
    "worker",
    "lease_expires_at",
    "finished_at",
    "result",
    "code",
    "reason",
    "answer",
    "close_at",
    "attempts",
)
_CHANGE_SQLITE = (
    f"UPDATE tasks SET {', '.join(f'{name} = ?' for name in _CHANGED)} WHERE tenant = ? AND id = ?"
)
_CHANGE_POSTGRESQL = (
    f"UPDATE tasks SET {', '.join(f'{name} = v.{name}' for name in _CHANGED)}"
    " FROM ({source}) AS v"
    " WHERE tasks.tenant = v.tenant AND tasks.id = v.id"
)
_CHANGE_TYPES = tuple("bigint" if name == "attempts" else "text" for name in Change._fields)
# Most tasks just succeed: fewer values to carry.
_SUCCEED_SQLITE = (
    "UPDATE tasks SET state = 'succeeded', lease_expires_at = NULL, code = '', reason = '',"
    " finished_at = ?, result = ?, answer = ? WHERE tenant = ? AND id = ?"
)
_SUCCEED_POSTGRESQL = (
    "UPDATE tasks SET state = 'succeeded', lease_expires_at = NULL, code = '', reason = '',"
    " finished_at = v.finished_at, result = v.result, answer = v.answer"
    " FROM ({source}) AS v"
    " WHERE tasks.tenant = v.tenant AND tasks.id = v.id"
)
_ATTEMPT_COLUMNS = (
    "tenant",
    "task",
    "fence",
    "attempt",
    "worker",
    "ended_at",
    "code",
    "reason",
    "answer",
)


def apply(conn: Connection, changes: Sequence[Change]) -> None:
    """Move tasks on. The caller has locked and judged them."""
    done = [change for change in changes if change.state == State.SUCCEEDED.value]
    other = [change for change in changes if change.state != State.SUCCEEDED.value]
    run_many(
        conn,
        _SUCCEED_SQLITE,
        _SUCCEED_POSTGRESQL,
        ("finished_at", "result", "answer", "tenant", "id"),
        [(each.finished_at, each.result, each.answer, each.tenant, each.id) for each in done],
    )
    run_many(conn, _CHANGE_SQLITE, _CHANGE_POSTGRESQL, Change._fields, other, _CHANGE_TYPES)


def keep_attempts(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Remember leases that ended without ending their task."""
    bulk_insert(conn, task_attempts, _ATTEMPT_COLUMNS, rows, skip_existing=True)


def _skipping(statement: str) -> dict[str, TextClause]:
    return {
        "plain": text(statement),
        "locking": text(f"{statement} FOR UPDATE SKIP LOCKED"),
    }


def _variant(conn: Connection, lock: bool) -> str:
    """SQLite's one writer has nobody to lock out."""
    return "locking" if lock and not is_sqlite(conn) else "plain"


_EXPIRED = _skipping(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND {_LEASED} AND lease_expires_at <= :now"
    " ORDER BY lease_expires_at LIMIT :limit"
)
_PAST_DEADLINE = _skipping(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND {_OVERDUE} AND deadline <= :now"
    " ORDER BY deadline LIMIT :limit"
)
_HELD = _skipping(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND {_LEASED} AND worker = :worker"
    " ORDER BY id LIMIT :limit"
)
_UNHEARD = text(
    f"SELECT id, fence, claim FROM tasks WHERE tenant = :tenant AND {_LEASED}"
    " AND worker = :worker AND claim IS NOT NULL ORDER BY id"
)
_DUE_CLOSES = text(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND {_CLOSING} AND close_at <= :now"
    " ORDER BY close_at LIMIT :limit"
)
_CLOSED = text(
    "UPDATE tasks SET close_at = :close_at, closes = closes + 1"
    f" WHERE tenant = :tenant AND id = :id AND {_CLOSING}"
)
_QUEUED_PROFILES = text(
    f"SELECT * FROM tasks WHERE tenant = :tenant AND {_EXCLUSIVE}"
    " AND exclusive >= 'profile:' AND exclusive < 'profile;'"
    " AND kind = 'collect' AND state <> 'leased'"
)


def expired(
    conn: Connection, tenant: str, now: str, limit: int, *, lock: bool
) -> Sequence[TaskRow]:
    """Leased tasks whose lease has run out, oldest first; with ``lock`` ours until we commit."""
    values = {"tenant": tenant, "now": now, "limit": limit}
    return conn.execute(_EXPIRED[_variant(conn, lock)], values).all()


def past_deadline(
    conn: Connection, tenant: str, now: str, limit: int, *, lock: bool
) -> Sequence[TaskRow]:
    """Queued tasks that it is too late for; with ``lock`` ours until we commit."""
    values = {"tenant": tenant, "now": now, "limit": limit}
    return conn.execute(_PAST_DEADLINE[_variant(conn, lock)], values).all()


def held_by(conn: Connection, tenant: str, worker: str, limit: int) -> Sequence[TaskRow]:
    """What this worker has leased, ours until we commit."""
    values = {"tenant": tenant, "worker": worker, "limit": limit}
    return conn.execute(_HELD[_variant(conn, lock=True)], values).all()


def unheard_by(conn: Connection, tenant: str, worker: str) -> Sequence[TaskRow]:
    """Leases (id, fence, claim) of this worker that no beat of it has listed yet."""
    return conn.execute(_UNHEARD, {"tenant": tenant, "worker": worker}).all()


def due_closes(conn: Connection, tenant: str, now: str, limit: int) -> Sequence[TaskRow]:
    """Ended tasks whose run is to be closed now."""
    values = {"tenant": tenant, "now": now, "limit": limit}
    return conn.execute(_DUE_CLOSES, values).all()


def set_close(conn: Connection, tenant: str, task: str, close_at: str | None) -> None:
    """Close the run of ``task`` at ``close_at``, or never again: it is closed."""
    conn.execute(_CLOSED, {"tenant": tenant, "id": task, "close_at": close_at})


def queued_profiles(conn: Connection, tenant: str) -> Sequence[TaskRow]:
    """Collect tasks that no worker has: at most one for each profile."""
    return conn.execute(_QUEUED_PROFILES, {"tenant": tenant}).all()


_PRUNABLE = (
    "SELECT id FROM tasks WHERE tenant = :tenant AND id < :id AND id > :after"
    " AND state IN ('succeeded', 'dead', 'cancelled') AND finished_at < :before"
    " AND close_at IS NULL ORDER BY id LIMIT :limit"
)
_PRUNE_ATTEMPTS = "DELETE FROM task_attempts WHERE tenant = :tenant AND task {ids}"
_PRUNE_TASKS = "DELETE FROM tasks WHERE tenant = :tenant AND id {ids}"


def prunable(
    conn: Connection, tenant: str, *, below: str, after: str, before: str, limit: int
) -> list[str]:
    """Tasks that ended before ``before`` and wait for nothing, by id, from above ``after``.

    Ids carry their time, so what may be old lies at the beginning of the key: ``below`` is the
    first id of that moment, and no index of ends has to be kept for this alone.
    """
    values = {"tenant": tenant, "id": below, "after": after, "before": before, "limit": limit}
    return list(conn.execute(text(_PRUNABLE), values).scalars())


def prune(conn: Connection, tenant: str, ids: Collection[str]) -> int:
    """Remove these tasks and what is remembered of their attempts; how many there were."""
    values = {"tenant": tenant, "ids": ids_of(conn, ids)}
    conn.execute(by_ids(_PRUNE_ATTEMPTS, conn.dialect.name), values)
    return conn.execute(by_ids(_PRUNE_TASKS, conn.dialect.name), values).rowcount
