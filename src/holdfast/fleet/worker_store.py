"""Who may work, and by what workers are admitted: the tables, and the SQL on them."""
# ruff: noqa: S608 — statements are composed of this module's own constants; values are bound.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, Row, Text, text

from holdfast.fleet.statements import select_by_ids
from holdfast.kernel.database import tenant_table

HOUSEHOLD = "household"
"""The maker of the join token of ``holdfast up``'s own drones."""
WorkerRow = Row[Any]
"""A row of either table."""

workers = tenant_table(
    "workers",
    Column("id", Text, primary_key=True, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("capacity", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("join_token", Text, nullable=False),
    Column("registered_at", Text, nullable=False),
    Column("last_beat_at", Text),
    Column("settled", BigInteger),
    Column("signing_key", Text, nullable=False, server_default=text("''")),
    Column("registration", Text, nullable=False, server_default=text("''")),
    Column("proved", BigInteger, nullable=False, server_default=text("0")),
    Index("uq_workers_name", "tenant", "name", unique=True),
)
"""Who may work. ``secret`` is an HMAC; ``last_beat_at`` is written when the worker is lost,
``settled`` when it leaves: claims up to that number lease nothing any more. ``signing_key`` is the
public half of the key that it registered with, ``registration`` the event that says so; ``proved``
is 1 where it showed that it holds that key, as it has to for each request from then on."""

join_tokens = tenant_table(
    "join_tokens",
    Column("id", Text, primary_key=True, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("region", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("uses", BigInteger, nullable=False),
    Column("uses_max", BigInteger),
    Column("created_by", Text, nullable=False, server_default=text("('')")),
    Column("created_as", Text, nullable=False, server_default=text("('')")),
    Column("ended_because", Text, nullable=False, server_default=text("('')")),
)
"""By what workers are admitted. ``secret`` is an HMAC; ``created_by`` and ``created_as`` say who
made it and what they were, ``ended_because`` why it ended before it expired."""

_WORKER = text("SELECT * FROM workers WHERE tenant = :tenant AND id = :id")
_WORKER_AT_DOOR = text(
    "SELECT w.*, (SELECT min(r.backed_up_at) FROM access_restores r WHERE r.tenant = w.tenant"
    " AND NOT r.confirmed AND (r.restored_at >= w.registered_at"
    " OR r.backed_up_at >= w.registered_at)) AS unconfirmed_since"
    " FROM workers w WHERE w.tenant = :tenant AND w.id = :id"
)
"""A worker, and since when nobody knows whether it should still be let in, unless it registered
after the restore that brought it back: after the backup, too, where the clock of the machine that
restored is behind."""
_FROM_OUTSIDE = text(
    "SELECT EXISTS (SELECT 1 FROM join_tokens WHERE tenant = :tenant AND created_by <> :household)"
)
_END_HOUSEHOLD = text("UPDATE workers SET secret = :nobody WHERE tenant = :tenant")
_END_HOUSEHOLD_TOKENS = text("UPDATE join_tokens SET secret = :nobody WHERE tenant = :tenant")
_WORKER_BY_NAME = text("SELECT * FROM workers WHERE tenant = :tenant AND name = :name")
_WORKERS = "SELECT * FROM workers WHERE tenant = :tenant AND id {ids}"
_WORKER_PAGE = text(
    "SELECT * FROM workers WHERE tenant = :tenant AND name > :after ORDER BY name LIMIT :limit"
)
_WORKERS_FIRST = text(
    "SELECT * FROM workers WHERE tenant = :tenant"
    " ORDER BY CASE status WHEN 'alive' THEN 0 WHEN 'lost' THEN 1 ELSE 2 END, name LIMIT :limit"
)
_ALIVE = text("SELECT * FROM workers WHERE tenant = :tenant AND status = 'alive' ORDER BY id")
_SET_STATUS = text(
    "UPDATE workers SET status = :status, last_beat_at = :last_beat_at"
    " WHERE tenant = :tenant AND id = :id AND status = :expected RETURNING id"
)
_SETTLE = text(
    "UPDATE workers SET settled = :settled WHERE tenant = :tenant AND id = :id"
    " AND (settled IS NULL OR settled < :settled)"
)
_WORKER_COLUMNS = tuple(column.name for column in workers.columns if column.name != "settled")
_KEEP_WORKER = text(
    f"INSERT INTO workers ({', '.join(_WORKER_COLUMNS)})"
    f" VALUES ({', '.join(f':{name}' for name in _WORKER_COLUMNS)})"
    " ON CONFLICT (tenant, id) DO UPDATE SET "
    + ", ".join(f"{n} = excluded.{n}" for n in _WORKER_COLUMNS if n not in ("tenant", "id", "name"))
)
_TOKEN_COLUMNS = tuple(c.name for c in join_tokens.columns if c.name != "ended_because")
_ADD_TOKEN = text(
    f"INSERT INTO join_tokens ({', '.join(_TOKEN_COLUMNS)})"
    f" VALUES ({', '.join(f':{name}' for name in _TOKEN_COLUMNS)})"
)
_TOKEN = text("SELECT * FROM join_tokens WHERE tenant = :tenant AND id = :id")
_TOKEN_PAGE = text(
    "SELECT * FROM join_tokens WHERE tenant = :tenant AND (:before = '' OR id < :before)"
    " AND (:maker = '' OR created_by = :maker)"
    " ORDER BY id DESC LIMIT :limit"
)
_END_TOKEN = text(
    "UPDATE join_tokens SET expires_at = :now, ended_because = :because"
    " WHERE tenant = :tenant AND id = :id AND expires_at > :now RETURNING id"
)
_ASKED_TOKENS = text(
    "SELECT * FROM join_tokens WHERE tenant = :tenant AND id > :after AND expires_at > :now"
    " AND created_as NOT IN ('', 'operator', 'service', 'token') ORDER BY id LIMIT :limit"
)
_USE_TOKEN = text(
    "UPDATE join_tokens SET uses = uses + 1 WHERE tenant = :tenant AND id = :id"
    " AND (uses_max IS NULL OR uses < uses_max) RETURNING id"
)


def find_worker(conn: Connection, tenant: str, worker: str) -> WorkerRow | None:
    return conn.execute(_WORKER, {"tenant": tenant, "id": worker}).first()


def find_worker_at_door(conn: Connection, tenant: str, worker: str) -> WorkerRow | None:
    return conn.execute(_WORKER_AT_DOOR, {"tenant": tenant, "id": worker}).first()


def admits_from_outside(conn: Connection, tenant: str) -> bool:
    """Whether anybody ever made a join token for other drones than ``holdfast up``'s own."""
    values = {"tenant": tenant, "household": HOUSEHOLD}
    return bool(conn.execute(_FROM_OUTSIDE, values).scalar_one())


def settle_restored(conn: Connection, tenant: str) -> bool:
    """Of a restored database: whether it holds drones that somebody has to confirm.

    Where all are the house's own, nobody is asked, and what one of them held at the backup may
    have been revoked since: their credentials and tokens end, and they register anew by themselves
    with the token that the next start makes.
    """
    if admits_from_outside(conn, tenant):
        return True
    conn.execute(_END_HOUSEHOLD, {"tenant": tenant, "nobody": b""})
    conn.execute(_END_HOUSEHOLD_TOKENS, {"tenant": tenant, "nobody": b""})
    return False


def find_worker_by_name(conn: Connection, tenant: str, name: str) -> WorkerRow | None:
    return conn.execute(_WORKER_BY_NAME, {"tenant": tenant, "name": name}).first()


def find_workers(conn: Connection, tenant: str, ids: Collection[str]) -> dict[str, WorkerRow]:
    return {row.id: row for row in select_by_ids(conn, _WORKERS, ids, tenant=tenant)}


def page_of_workers(conn: Connection, tenant: str, after: str, limit: int) -> Sequence[WorkerRow]:
    """Workers by name, from after the name ``after``."""
    return conn.execute(_WORKER_PAGE, {"tenant": tenant, "after": after, "limit": limit}).all()


def first_workers(conn: Connection, tenant: str, limit: int) -> Sequence[WorkerRow]:
    """Workers by name, those that beat before those that fell silent."""
    return conn.execute(_WORKERS_FIRST, {"tenant": tenant, "limit": limit}).all()


def workers_alive(conn: Connection, tenant: str) -> Sequence[WorkerRow]:
    return conn.execute(_ALIVE, {"tenant": tenant}).all()


def keep_worker(conn: Connection, values: Mapping[str, Any]) -> None:
    """A new worker, or the same one registered again."""
    conn.execute(_KEEP_WORKER, dict(values))


def set_status(
    conn: Connection,
    tenant: str,
    worker: str,
    status: str,
    expected: str,
    last_beat_at: str | None,
) -> bool:
    """Change a worker's status if it is still ``expected``."""
    values = {
        "tenant": tenant,
        "id": worker,
        "status": status,
        "expected": expected,
        "last_beat_at": last_beat_at,
    }
    return conn.execute(_SET_STATUS, values).first() is not None


def settle(conn: Connection, tenant: str, worker: str, number: int) -> None:
    """The worker leaves: its claims up to this number lease nothing any more."""
    conn.execute(_SETTLE, {"tenant": tenant, "id": worker, "settled": number})


def add_token(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_ADD_TOKEN, dict(values))


def find_token(conn: Connection, tenant: str, token: str) -> WorkerRow | None:
    return conn.execute(_TOKEN, {"tenant": tenant, "id": token}).first()


def page_of_tokens(
    conn: Connection, tenant: str, before: str, limit: int, maker: str = ""
) -> Sequence[WorkerRow]:
    """Join tokens, the newest first, from before the id ``before`` and by ``maker``, if given."""
    values = {"tenant": tenant, "before": before, "limit": limit, "maker": maker}
    return conn.execute(_TOKEN_PAGE, values).all()


def asked_tokens(
    conn: Connection, tenant: str, after: str, limit: int, now: str
) -> Sequence[WorkerRow]:
    """Join tokens that have not expired and end with their makers, from after the id ``after``."""
    values = {"tenant": tenant, "after": after, "limit": limit, "now": now}
    return conn.execute(_ASKED_TOKENS, values).all()


def use_token(conn: Connection, tenant: str, token: str) -> bool:
    """Count one use; false when they are used up."""
    return conn.execute(_USE_TOKEN, {"tenant": tenant, "id": token}).first() is not None


def end_token(conn: Connection, tenant: str, token: str, now: str, because: str) -> bool:
    """The token admits nobody from now on; false if it did not anyway."""
    values = {"tenant": tenant, "id": token, "now": now, "because": because}
    return conn.execute(_END_TOKEN, values).first() is not None
