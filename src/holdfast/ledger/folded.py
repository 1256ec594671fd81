"""The tables of projections and the statements on them; one text for both databases.

A row is the state of one key from the size of the log at which it became so (``since``) to the
size at which it became something else (``until``). What a projection was at a size is the rows
with ``since`` ≤ size < ``until``: reading the past costs what reading the present does.

Several generations of a projection may lie side by side. One *serves*; another may be being built,
or be what a build that died has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Connection, Index, Text, text

from holdfast.kernel.database import bulk_insert, tenant_table

tenant_table(
    "ledger_projections",
    Column("name", Text, primary_key=True, nullable=False),
    Column("generation", BigInteger, primary_key=True, nullable=False),
    Column("serving", Boolean, nullable=False),
    Column("rules", BigInteger, nullable=False),
    Column("origin", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("started_at", Text, nullable=False),
)
"""How far each generation goes: ``position`` entries are in it. ``rules`` and ``origin`` name the
rules of the fold and the log's origin that it was made under; under others it is made anew."""

ledger_folded = tenant_table(
    "ledger_folded",
    Column("name", Text, primary_key=True, nullable=False),
    Column("generation", BigInteger, primary_key=True, nullable=False),
    Column("key", Text, primary_key=True, nullable=False),
    Column("since", BigInteger, primary_key=True, nullable=False),
    Column("until", BigInteger),
    Column("state", Text, nullable=False),
    Index(
        "ix_ledger_folded_now",
        "tenant",
        "name",
        "generation",
        "key",
        unique=True,
        sqlite_where=text("until IS NULL"),
        postgresql_where=text("until IS NULL"),
    ),
)
FOLDED_COLUMNS = ("tenant", "name", "generation", "key", "since", "until", "state")


@dataclass(frozen=True, slots=True)
class Generation:
    """One making of a projection."""

    name: str
    generation: int
    serving: bool
    rules: int
    origin: int
    position: int
    started_at: str


@dataclass(frozen=True, slots=True)
class Change:
    """The state of a key from ``since`` on, up to ``until`` if it has ended by now."""

    key: str
    since: int
    until: int | None
    state: str


_GENERATIONS = text(
    "SELECT name, generation, serving, rules, origin, position, started_at FROM ledger_projections"
    " WHERE tenant = :tenant ORDER BY name, generation"
)
_BEGIN = text(
    "INSERT INTO ledger_projections"
    " (tenant, name, generation, serving, rules, origin, position, started_at)"
    " VALUES (:tenant, :name, :generation, :serving, :rules, :origin, 0, :at)"
    " ON CONFLICT DO NOTHING RETURNING generation"
)
# Compare and set: of two that fold the same entries one goes on, the other looks again. A number
# may be given twice, after what a dead build left is gone: the rest tells the two apart.
_GO_ON = text(
    "UPDATE ledger_projections SET position = :after WHERE tenant = :tenant AND name = :name"
    " AND generation = :generation AND position = :position AND rules = :rules"
    " AND origin = :origin AND started_at = :at RETURNING position"
)
_STATES: Mapping[str, Any] = {
    "sqlite": text(
        "SELECT key, since, state FROM ledger_folded WHERE tenant = :tenant AND name = :name"
        " AND generation = :generation AND until IS NULL"
        " AND key IN (SELECT value FROM json_each(:keys))"
    ),
    "postgresql": text(
        "SELECT key, since, state FROM ledger_folded WHERE tenant = :tenant AND name = :name"
        " AND generation = :generation AND until IS NULL"
        " AND key = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:keys AS jsonb))))"
    ),
}
_END = text(
    "UPDATE ledger_folded SET until = :until WHERE tenant = :tenant AND name = :name"
    " AND generation = :generation AND key = :key AND until IS NULL"
)
_AT = text(
    "SELECT key, since, state FROM ledger_folded WHERE tenant = :tenant AND name = :name"
    " AND generation = :generation AND key > :after AND since <= :size"
    " AND (until IS NULL OR until > :size) ORDER BY key LIMIT :limit"
)
_SERVE = text(
    "UPDATE ledger_projections SET serving = (generation = :generation)"
    " WHERE tenant = :tenant AND name = :name"
)
_FORGET = text(
    "DELETE FROM ledger_projections WHERE tenant = :tenant AND name = :name"
    " AND generation = :generation"
)
_DROP: Mapping[str, Any] = {
    "sqlite": text(
        "DELETE FROM ledger_folded WHERE tenant = :tenant AND name = :name"
        " AND generation = :generation AND rowid IN (SELECT rowid FROM ledger_folded"
        " WHERE tenant = :tenant AND name = :name AND generation = :generation LIMIT :limit)"
    ),
    "postgresql": text(
        "DELETE FROM ledger_folded WHERE tenant = :tenant AND name = :name"
        " AND generation = :generation AND ctid IN (SELECT ctid FROM ledger_folded"
        " WHERE tenant = :tenant AND name = :name AND generation = :generation LIMIT :limit)"
    ),
}


def generations(conn: Connection, tenant: str) -> list[Generation]:
    """Every generation of every projection."""
    rows = conn.execute(_GENERATIONS, {"tenant": tenant})
    return [
        Generation(row[0], row[1], bool(row[2]), row[3], row[4], row[5], row[6]) for row in rows
    ]


def begin(conn: Connection, tenant: str, made: Generation) -> bool:
    """Begin a generation, empty; false if there is one of that number."""
    values = {
        "tenant": tenant,
        "name": made.name,
        "generation": made.generation,
        "serving": made.serving,
        "rules": made.rules,
        "origin": made.origin,
        "at": made.started_at,
    }
    return conn.execute(_BEGIN, values).one_or_none() is not None


def _of(tenant: str, name: str, generation: int) -> dict[str, Any]:
    return {"tenant": tenant, "name": name, "generation": generation}


def go_on(conn: Connection, tenant: str, made: Generation, after: int) -> bool:
    """Say that the generation goes up to ``after`` now; false if it moved meanwhile, or is gone."""
    values = _of(tenant, made.name, made.generation)
    values |= {"position": made.position, "after": after}
    values |= {"rules": made.rules, "origin": made.origin, "at": made.started_at}
    return conn.execute(_GO_ON, values).one_or_none() is not None


def states(
    conn: Connection, tenant: str, made: Generation, keys: Sequence[str]
) -> dict[str, tuple[int, str]]:
    """The state of each of these keys that has one, and since when."""
    values = _of(tenant, made.name, made.generation)
    values["keys"] = msgspec.json.encode(list(keys)).decode()
    return {row[0]: (row[1], row[2]) for row in conn.execute(_STATES[conn.dialect.name], values)}


def change(
    conn: Connection,
    tenant: str,
    made: Generation,
    ended: Mapping[str, int],
    changes: Sequence[Change],
) -> None:
    """End the present states of some keys, and add what follows them."""
    place = _of(tenant, made.name, made.generation)
    if ended:
        conn.execute(_END, [place | {"key": key, "until": at} for key, at in ended.items()])
    rows = [
        (tenant, made.name, made.generation, each.key, each.since, each.until, each.state)
        for each in changes
    ]
    bulk_insert(conn, ledger_folded, FOLDED_COLUMNS, rows)


def at(
    conn: Connection, tenant: str, made: Generation, size: int, after: str, limit: int
) -> list[tuple[str, int, str]]:
    """Keys, since when and states as they were when the log had ``size`` entries."""
    values = _of(tenant, made.name, made.generation)
    values |= {"size": size, "after": after, "limit": limit}
    return [(row[0], row[1], row[2]) for row in conn.execute(_AT, values)]


def serve(conn: Connection, tenant: str, made: Generation) -> bool:
    """Let this generation be the one that serves; false if it moved meanwhile, or is gone."""
    if not go_on(conn, tenant, made, made.position):
        return False
    conn.execute(_SERVE, _of(tenant, made.name, made.generation))
    return True


def drop_step(conn: Connection, tenant: str, name: str, generation: int, limit: int) -> bool:
    """Remove some rows of a generation, and it with the last of them; true while there are more."""
    values = _of(tenant, name, generation)
    gone = conn.execute(_DROP[conn.dialect.name], values | {"limit": limit}).rowcount
    if gone >= limit:
        return True
    conn.execute(_FORGET, values)
    return False
