"""The ledger's tables and the statements on them; one text for both databases.

``ledger_commits`` and ``ledger_sequencers`` are the log itself (:mod:`backends.sql`). The index,
``ledger_index`` to ``ledger_tiles``, is made from the log and can be made again. The rest cannot:
who signs the log, under which name, and what was said to the outside.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, Table, Text, text

from holdfast.kernel import merkle
from holdfast.kernel.database import bulk_insert, tenant_table
from holdfast.ledger.errors import IndexIncomplete, IndexMoved, IndexWrong
from holdfast.ledger.model import Damage
from holdfast.ledger.tree import TILE_HEIGHT, TILE_WIDTH, Tile, split_hashes


def _clustered(table: Table) -> Table:
    """One tree instead of two on SQLite: rows lie in the order of their key."""
    table.dialect_options["sqlite"]["with_rowid"] = False
    return table


tenant_table(
    "ledger_commits",
    Column("first", BigInteger, primary_key=True, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("frame", LargeBinary, nullable=False),
)
"""The log: one row a commit."""

tenant_table(
    "ledger_sequencers",
    Column("fence", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
)
"""Who may append, by the newest fence."""

tenant_table(
    "ledger_index",
    Column("size", BigInteger, nullable=False),
    Column("recorded", Text, nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),
)
"""How far the index goes, and the time of the last entry in it."""

ledger_streams = _clustered(
    tenant_table(
        "ledger_streams",
        Column("stream", Text, primary_key=True, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("mark", BigInteger, nullable=False),
    )
)
"""The newest version of each stream. ``mark`` is a checksum: a wrong version would be believed."""

ledger_versions = _clustered(
    tenant_table(
        "ledger_versions",
        Column("stream", Text, primary_key=True, nullable=False),
        Column("version", BigInteger, primary_key=True, nullable=False),
        Column("position", BigInteger, nullable=False),
    )
)
ledger_events = _clustered(
    tenant_table(
        "ledger_events",
        Column("event_id", Text, primary_key=True, nullable=False),
        Column("position", BigInteger, nullable=False),
    )
)
ledger_tiles = tenant_table(
    "ledger_tiles",
    Column("level", BigInteger, primary_key=True, nullable=False),
    Column("number", BigInteger, primary_key=True, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
)

tenant_table(
    "ledger_origins",
    Column("generation", BigInteger, primary_key=True, nullable=False),
    Column("origin", Text, nullable=False),
    Column("started_size", BigInteger, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("cites", Text, nullable=False, server_default=text("''")),
)
"""The names under which the log was signed. The newest is in force. ``cites`` is what its first
entry says of how the one before it ended: that entry may never come to be, or be lost."""

tenant_table(
    "ledger_keys",
    Column("number", BigInteger, primary_key=True, nullable=False),
    Column("origin", Text, nullable=False),
    Column("public", LargeBinary, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("valid_from", BigInteger, nullable=False),
    Column("valid_to", BigInteger, nullable=True),
)
"""Public keys of the log. A retired one is valid up to the size that it last signed."""

tenant_table(
    "ledger_checkpoints",
    Column("origin", Text, primary_key=True, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("published_at", Text, nullable=False),
)
"""The newest checkpoint of each origin: never replaced by a smaller one, nor by another root."""

tenant_table(
    "ledger_damage",
    Column("first", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("met_at", Text, nullable=False),
)
"""Where damage was met in a log: whoever opens it looks there again before anything is appended."""

tenant_table(
    "ledger_restored",
    Column("backup", Text, nullable=False),
    Column("made_at", Text, nullable=False),
)
"""Logs that a restore brought back, while nobody can tell what was published of them after the
backup was made: no instance appends to them or signs them."""

tenant_table(
    "outbox_dead",
    Column("event_id", Text, primary_key=True, nullable=False),
    Column("stream", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("time", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("payload_commitment", LargeBinary, nullable=False),
    Column("sealing", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("died_at", Text, nullable=False),
    Index("ix_outbox_dead_died_at", "tenant", "died_at"),
)
"""Rows of the outbox that the ledger refused, as they were, and why."""


# --- the index ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the index goes."""

    size: int
    recorded: str
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index holds of one entry."""

    position: int
    stream: str
    version: int
    event_id: str


@dataclass(slots=True)
class Growth:
    """What one or more commits add to an index that ends at ``since``.

    Where it is ``made_anew`` what it knows already stays as it is: an event that stands twice in
    the log keeps its first place.
    """

    since: int
    size: int
    recorded: str
    payload_bytes: int = 0
    rows: list[IndexRow] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    made_anew: bool = False


def _both(sqlite: str, postgresql: str) -> Mapping[str, Any]:
    return {"sqlite": text(sqlite), "postgresql": text(postgresql)}


_STREAMS = _both(
    "SELECT stream, version, position, mark FROM ledger_streams WHERE tenant = :tenant"
    " AND stream IN (SELECT value FROM json_each(:names))",
    "SELECT stream, version, position, mark FROM ledger_streams WHERE tenant = :tenant"
    " AND stream = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:names AS jsonb))))",
)
_EVENTS = _both(
    "SELECT event_id, position FROM ledger_events WHERE tenant = :tenant"
    " AND event_id IN (SELECT value FROM json_each(:names))",
    "SELECT event_id, position FROM ledger_events WHERE tenant = :tenant"
    " AND event_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:names AS jsonb))))",
)
_KEEP_STREAM = (
    "INSERT INTO ledger_streams (tenant, stream, version, position, mark) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant, stream) DO UPDATE SET version = excluded.version,"
    " position = excluded.position, mark = excluded.mark"
)
_KEEP_STREAM_POSTGRESQL = (
    "INSERT INTO ledger_streams (tenant, stream, version, position, mark)"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])"
    " ON CONFLICT (tenant, stream) DO UPDATE SET version = excluded.version,"
    " position = excluded.position, mark = excluded.mark"
)
_STATE = text("SELECT size, recorded, payload_bytes FROM ledger_index WHERE tenant = :tenant")
# Both change nothing, and return nothing, if the index does not end where it is to be added to.
_BEGIN_STATE = text(
    "INSERT INTO ledger_index (tenant, size, recorded, payload_bytes)"
    " VALUES (:tenant, :size, :recorded, :payload_bytes) ON CONFLICT (tenant) DO UPDATE"
    " SET size = excluded.size, recorded = excluded.recorded,"
    " payload_bytes = excluded.payload_bytes WHERE ledger_index.size = 0 RETURNING size"
)
_MOVE_STATE = text(
    "UPDATE ledger_index SET size = :size, recorded = :recorded,"
    " payload_bytes = payload_bytes + :payload_bytes"
    " WHERE tenant = :tenant AND size = :since RETURNING size"
)
_VERSIONS = text(
    "SELECT version, position FROM ledger_versions WHERE tenant = :tenant AND stream = :stream"
    " AND version >= :first ORDER BY version LIMIT :limit"
)
_TILE = text(
    "SELECT hashes, root FROM ledger_tiles"
    " WHERE tenant = :tenant AND level = :level AND number = :number"
)
_TILE_ROOTS = text(
    "SELECT number, root FROM ledger_tiles WHERE tenant = :tenant AND level = :level"
    " AND number >= :first AND number < :after ORDER BY number"
)
_LIST_STREAMS = text(
    "SELECT stream, version, position, mark FROM ledger_streams WHERE tenant = :tenant"
    " AND stream > :after AND stream >= :prefix ORDER BY stream LIMIT :limit"
)
INDEX_TABLES = (
    "ledger_index",
    "ledger_streams",
    "ledger_versions",
    "ledger_events",
    "ledger_tiles",
)


def mark_of(stream: str, version: int, position: int) -> int:
    """The checksum of a stream's row."""
    return zlib.crc32(f"{stream} {version} {position}".encode())


def index_state(conn: Connection, tenant: str) -> IndexState:
    """How far the index goes: nowhere, if there is none."""
    row = conn.execute(_STATE, {"tenant": tenant}).one_or_none()
    return IndexState(0, "", 0) if row is None else IndexState(*row)


def check_whole(conn: Connection, tenant: str, end: int) -> None:
    """``IndexIncomplete`` unless the index goes as far as a log that ends at ``end``."""
    size = index_state(conn, tenant).size
    if size < end:
        raise IndexIncomplete(
            f"cannot answer from the index: it goes to {size}, and the log to {end}",
            hint="it is being made anew; if that broke off, the next start or `holdfast ledger "
            "rebuild` does it again; `holdfast ledger status` says what stands against it",
            retry_after_seconds=1.0,
        )


def check_ends(conn: Connection, tenant: str, end: int) -> None:
    """``IndexMoved`` unless the index ends at ``end``."""
    size = index_state(conn, tenant).size
    if size != end:
        raise IndexMoved(f"cannot add to the index at {end}: it ends at {size}")


def find_streams(conn: Connection, tenant: str, names: Sequence[str]) -> dict[str, int]:
    """The version of each of these streams that exists."""
    values = {"tenant": tenant, "names": msgspec.json.encode(names).decode()}
    rows = conn.execute(_STREAMS[conn.dialect.name], values)
    return {row.stream: _checked(row) for row in rows}


def find_events(conn: Connection, tenant: str, ids: Sequence[str]) -> dict[str, int]:
    """The position of each of these events that the log holds."""
    values = {"tenant": tenant, "names": msgspec.json.encode(ids).decode()}
    return {row[0]: row[1] for row in conn.execute(_EVENTS[conn.dialect.name], values)}


def list_streams(
    conn: Connection, tenant: str, prefix: str, after: str, limit: int
) -> list[tuple[str, int, int]]:
    """Streams by name, with version and position of their last entry."""
    values = {"tenant": tenant, "prefix": prefix, "after": after, "limit": limit}
    found = []
    for row in conn.execute(_LIST_STREAMS, values):
        if not row.stream.startswith(prefix):
            break
        found.append((row.stream, _checked(row), row.position))
    return found


def _checked(row: Any) -> int:
    version: int = row.version
    if row.mark != mark_of(row.stream, version, row.position):
        raise IndexWrong(
            row.position, f"cannot read the stream {row.stream}: its row in the index is damaged"
        )
    return version


def find_versions(
    conn: Connection, tenant: str, stream: str, first: int, limit: int
) -> list[tuple[int, int]]:
    """Versions of a stream from ``first`` on, with the position of each."""
    values = {"tenant": tenant, "stream": stream, "first": first, "limit": limit}
    return [(row[0], row[1]) for row in conn.execute(_VERSIONS, values)]


# The wanted ones lead: the table is asked for each, never read through.
_POSITIONS = _both(
    "SELECT v.stream, v.version, v.position FROM json_each(:wanted) AS w"
    " CROSS JOIN ledger_versions AS v WHERE v.tenant = :tenant"
    " AND v.stream = json_extract(w.value, '$[0]') AND v.version = json_extract(w.value, '$[1]')",
    "SELECT v.stream, v.version, v.position"
    " FROM jsonb_array_elements(CAST(:wanted AS jsonb)) AS w, LATERAL ("
    "SELECT stream, version, position FROM ledger_versions WHERE tenant = :tenant"
    " AND stream = w.value->>0 AND version = CAST(w.value->>1 AS bigint) OFFSET 0) AS v",
)


def find_positions(
    conn: Connection, tenant: str, wanted: Sequence[tuple[str, int]]
) -> list[int | None]:
    """Where each version of a stream lies, as the index has it. For checking, not for serving."""
    values = {"tenant": tenant, "wanted": msgspec.json.encode(wanted).decode()}
    rows = conn.execute(_POSITIONS[conn.dialect.name], values)
    found = {(row[0], row[1]): row[2] for row in rows}
    return [found.get(each) for each in wanted]


def find_tile(conn: Connection, tenant: str, level: int, number: int) -> bytes | None:
    """The hashes of a full tile."""
    values = {"tenant": tenant, "level": level, "number": number}
    row = conn.execute(_TILE, values).one_or_none()
    return None if row is None else bytes(row.hashes)


def whole_tile(conn: Connection, tenant: str, level: int, number: int) -> bytes:
    """The hashes of a full tile, held to the root beside them; ``IndexWrong`` if they do not fit.

    A proof out of hashes that are not the tree's would fit itself, and nothing that was published.
    """
    values = {"tenant": tenant, "level": level, "number": number}
    row = conn.execute(_TILE, values).one_or_none()
    hashes = b"" if row is None else bytes(row.hashes)
    first = number << TILE_HEIGHT * (level + 1)
    if row is None or len(hashes) != 32 * TILE_WIDTH:
        raise IndexWrong(
            first, f"cannot read the tile {level}/{number}: it is not in the index, or not whole"
        )
    if merkle.root(split_hashes(hashes)) != bytes(row.root):
        raise IndexWrong(first, f"cannot read the tile {level}/{number}: it is damaged")
    return hashes


def tile_roots(
    conn: Connection, tenant: str, level: int, first: int, after: int
) -> list[tuple[int, bytes]]:
    """Number and root of the full tiles ``[first, after)`` of a level."""
    values = {"tenant": tenant, "level": level, "first": first, "after": after}
    return [(row[0], bytes(row[1])) for row in conn.execute(_TILE_ROOTS, values)]


def grow(conn: Connection, tenant: str, growth: Growth) -> None:
    """Bring the index up by what was appended, in a handful of statements.

    ``IndexMoved``, and it stays as it is, unless it ends where what is added begins: whoever adds
    to another one would make an index that has gaps and says that it has none.
    """
    values = {
        "tenant": tenant,
        "size": growth.size,
        "recorded": growth.recorded,
        "payload_bytes": growth.payload_bytes,
    }
    if growth.since == 0:
        moved = conn.execute(_BEGIN_STATE, values)
    else:
        moved = conn.execute(_MOVE_STATE, values | {"since": growth.since})
    if moved.one_or_none() is None:
        raise IndexMoved(f"cannot add to the index at {growth.since}: it ends elsewhere")
    rows = growth.rows
    farther = _farther(conn, tenant, rows) if growth.made_anew else rows
    bulk_insert(
        conn,
        ledger_events,
        ("tenant", "event_id", "position"),
        [(tenant, row.event_id, row.position) for row in rows],
        skip_existing=growth.made_anew,
    )
    bulk_insert(
        conn,
        ledger_versions,
        ("tenant", "stream", "version", "position"),
        [(tenant, row.stream, row.version, row.position) for row in rows],
        skip_existing=growth.made_anew,
    )
    newest = {row.stream: row for row in farther}
    _keep_streams(
        conn,
        [
            (tenant, name, row.version, row.position, mark_of(name, row.version, row.position))
            for name, row in sorted(newest.items())
        ],
    )
    bulk_insert(
        conn,
        ledger_tiles,
        ("tenant", "level", "number", "hashes", "root"),
        [(tenant, tile.level, tile.number, tile.hashes, tile.root) for tile in growth.tiles],
    )


def _farther(conn: Connection, tenant: str, rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Those that bring a stream to a version that the index does not have yet, in their order."""
    known = find_streams(conn, tenant, list({row.stream for row in rows}))
    found = []
    for row in rows:
        if row.version > known.get(row.stream, 0):
            known[row.stream] = row.version
            found.append(row)
    return found


def _keep_streams(conn: Connection, rows: Sequence[tuple[str, str, int, int, int]]) -> None:
    if not rows:
        return
    if conn.dialect.name == "sqlite":
        cursor = conn.connection.cursor()
        try:
            cursor.executemany(_KEEP_STREAM, rows)
        finally:
            cursor.close()
        return
    vectors = tuple(list(vector) for vector in zip(*rows, strict=True))
    conn.exec_driver_sql(_KEEP_STREAM_POSTGRESQL, vectors)


_CLEAR = {
    name: text(f"DELETE FROM {name} WHERE tenant = :tenant")  # noqa: S608 — names of our own
    for name in INDEX_TABLES
}


def clear_index(conn: Connection, tenant: str) -> None:
    """Forget the index: it is made anew from the log."""
    for statement in _CLEAR.values():
        conn.execute(statement, {"tenant": tenant})


# --- damage that was met ------------------------------------------------------------------------

_DAMAGE = text("SELECT reason, detail, first, met_at FROM ledger_damage WHERE tenant = :tenant")
_ASK_DAMAGE = text("UPDATE ledger_damage SET met_at = :at WHERE tenant = :tenant RETURNING met_at")
_KEEP_DAMAGE = text(
    "INSERT INTO ledger_damage (tenant, first, reason, detail, met_at)"
    " VALUES (:tenant, :first, :reason, :detail, :at) ON CONFLICT (tenant) DO UPDATE"
    " SET first = CASE WHEN excluded.first < ledger_damage.first"
    " THEN excluded.first ELSE ledger_damage.first END,"
    " reason = CASE WHEN excluded.first < ledger_damage.first"
    " THEN excluded.reason ELSE ledger_damage.reason END,"
    " detail = CASE WHEN excluded.first < ledger_damage.first"
    " THEN excluded.detail ELSE ledger_damage.detail END, met_at = excluded.met_at"
)
_FORGET_DAMAGE = text(
    "DELETE FROM ledger_damage WHERE tenant = :tenant AND met_at = :at RETURNING met_at"
)
_CLEAR_DAMAGE = text("DELETE FROM ledger_damage WHERE tenant = :tenant")


@dataclass(frozen=True, slots=True)
class Met:
    """The first damage that was met in a log, and when any last was; or when somebody last found
    the log whole."""

    damage: Damage
    at: str


def find_damage(conn: Connection, tenant: str) -> Met | None:
    """The first damage that was met in a log and may be there still."""
    row = conn.execute(_DAMAGE, {"tenant": tenant}).one_or_none()
    if row is None:
        return None
    return Met(Damage(reason=row.reason, detail=row.detail, first=row.first), row.met_at)


def ask_about_damage(conn: Connection, tenant: str, at: str) -> bool:
    """Have whoever appends look again at damage that was met; false if none was."""
    return conn.execute(_ASK_DAMAGE, {"tenant": tenant, "at": at}).one_or_none() is not None


def keep_damage(conn: Connection, tenant: str, damage: Damage, at: str) -> Met | None:
    """Remember that damage was met, and where if nothing farther in front was; what is remembered.

    A look that began before that has not seen it: its answer counts no more.
    """
    values = {
        "tenant": tenant,
        "first": damage.first,
        "reason": damage.reason,
        "detail": damage.detail,
        "at": at,
    }
    conn.execute(_KEEP_DAMAGE, values)
    return find_damage(conn, tenant)


def forget_damage(conn: Connection, tenant: str, at: str) -> bool:
    """What was met until ``at`` is mended; false, and it stays, if more was met since."""
    values = {"tenant": tenant, "at": at}
    return conn.execute(_FORGET_DAMAGE, values).one_or_none() is not None


def clear_damage(conn: Connection, tenant: str) -> None:
    """All of it is left behind."""
    conn.execute(_CLEAR_DAMAGE, {"tenant": tenant})


# --- logs that a restore brought back -----------------------------------------------------------

MARK_RESTORED = (
    "INSERT INTO ledger_restored (tenant, backup, made_at)"
    " SELECT DISTINCT tenant, CAST($1 AS TEXT), CAST($2 AS TEXT) FROM ledger_checkpoints WHERE TRUE"
    " ON CONFLICT (tenant) DO UPDATE SET backup = excluded.backup, made_at = excluded.made_at"
)
"""Marks every tenant's log that was ever signed; id and time of the backup are its parameters. For
whoever restores: in the transaction that brings the rows, as the owner of them all."""
_RESTORED = text("SELECT backup, made_at FROM ledger_restored WHERE tenant = :tenant")
_CLEAR_RESTORED = text("DELETE FROM ledger_restored WHERE tenant = :tenant")


@dataclass(frozen=True, slots=True)
class RestoredFrom:
    """The backup that a log came back from, and when that was made."""

    backup: str
    made_at: str


def find_restored(conn: Connection, tenant: str) -> RestoredFrom | None:
    """What a log was restored from, while nobody can tell what was published of it since."""
    row = conn.execute(_RESTORED, {"tenant": tenant}).one_or_none()
    return None if row is None else RestoredFrom(*row)


def clear_restored(conn: Connection, tenant: str) -> None:
    """It is known, or the log goes on under an origin of which nothing was."""
    conn.execute(_CLEAR_RESTORED, {"tenant": tenant})


# --- origins, keys, checkpoints -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """A name under which the log is signed, from a size on."""

    generation: int
    origin: str
    started_size: int
    started_at: str
    reason: str
    cites: str = ""


@dataclass(frozen=True, slots=True)
class LogKey:
    """A public key of the log; ``valid_to`` is the size that a retired one last signed."""

    number: int
    origin: str
    public: bytes
    created_at: str
    valid_from: int
    valid_to: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """What was last said to the outside under an origin."""

    origin: str
    size: int
    root: bytes
    note: str
    published_at: str


_ORIGINS = text(
    "SELECT generation, origin, started_size, started_at, reason, cites FROM ledger_origins"
    " WHERE tenant = :tenant ORDER BY generation"
)
_ADD_ORIGIN = text(
    "INSERT INTO ledger_origins"
    " (tenant, generation, origin, started_size, started_at, reason, cites)"
    " VALUES (:tenant, :generation, :origin, :started_size, :started_at, :reason, :cites)"
)
_KEYS = text(
    "SELECT number, origin, public, created_at, valid_from, valid_to FROM ledger_keys"
    " WHERE tenant = :tenant ORDER BY number"
)
_ADD_KEY = text(
    "INSERT INTO ledger_keys (tenant, number, origin, public, created_at, valid_from, valid_to)"
    " VALUES (:tenant, :number, :origin, :public, :created_at, :valid_from, NULL)"
)
_RETIRE = text(
    "UPDATE ledger_keys SET valid_to = :size WHERE tenant = :tenant AND valid_to IS NULL"
)
_CHECKPOINTS = text(
    "SELECT origin, size, root, note, published_at FROM ledger_checkpoints WHERE tenant = :tenant"
)
# Compare and set: what was published is never taken back, and a size has one root.
_PUBLISH = text(
    "INSERT INTO ledger_checkpoints (tenant, origin, size, root, note, published_at)"
    " VALUES (:tenant, :origin, :size, :root, :note, :at) ON CONFLICT (tenant, origin) DO UPDATE"
    " SET size = excluded.size, root = excluded.root, note = excluded.note,"
    " published_at = excluded.published_at WHERE ledger_checkpoints.size < excluded.size"
    " OR (ledger_checkpoints.size = excluded.size AND ledger_checkpoints.root = excluded.root)"
    " RETURNING size"
)


def origins(conn: Connection, tenant: str) -> list[Origin]:
    """Every origin, oldest first."""
    return [Origin(*row) for row in conn.execute(_ORIGINS, {"tenant": tenant})]


def add_origin(conn: Connection, tenant: str, origin: Origin) -> None:
    """Start an origin; ``Conflict`` if another instance was first."""
    values = {name: getattr(origin, name) for name in origin.__slots__}
    conn.execute(_ADD_ORIGIN, {"tenant": tenant, **values})


def keys(conn: Connection, tenant: str) -> list[LogKey]:
    """Every key, oldest first."""
    return [
        LogKey(row[0], row[1], bytes(row[2]), row[3], row[4], row[5])
        for row in conn.execute(_KEYS, {"tenant": tenant})
    ]


def add_key(conn: Connection, tenant: str, key: LogKey) -> None:
    """Add a key; the one before it, if it is live, ends at ``key.valid_from``."""
    conn.execute(_RETIRE, {"tenant": tenant, "size": key.valid_from})
    values = {name: getattr(key, name) for name in key.__slots__ if name != "valid_to"}
    conn.execute(_ADD_KEY, {"tenant": tenant, **values})


def checkpoints(conn: Connection, tenant: str) -> dict[str, Published]:
    """The newest checkpoint of each origin."""
    return {
        row.origin: Published(row.origin, row.size, bytes(row.root), row.note, row.published_at)
        for row in conn.execute(_CHECKPOINTS, {"tenant": tenant})
    }


def publish(conn: Connection, tenant: str, published: Published) -> bool:
    """Make a checkpoint the newest of its origin; false if a larger one or another root is."""
    values = {
        "tenant": tenant,
        "origin": published.origin,
        "size": published.size,
        "root": published.root,
        "note": published.note,
        "at": published.published_at,
    }
    return conn.execute(_PUBLISH, values).one_or_none() is not None
