"""The registry's tables and the statements on them. Units of work; no time, ids or randomness.

``profile_versions`` is written once and never changed. ``profiles`` is the head: which version
runs, what the operator changed. Each change of a head writes a ``profile_history`` row stamped with
the id of its event and moves ``profile_heads``, the tenant's change counter that lets a poller ask
"anything new?" for the price of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Column, Connection, Row, Text, bindparam, text

from holdfast.kernel.database import tenant_table
from holdfast.kernel.principal import Principal

profiles = tenant_table(
    "profiles",
    Column("name", Text, primary_key=True, nullable=False),
    Column("id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("overrides", Text, nullable=False),
    Column("removed", Boolean, nullable=False),
    Column("file", Text, nullable=False),
    Column("published_at", Text, nullable=False),
)
"""One row a profile: its opaque id, the version that runs, and the operator's overrides (JSON)."""

profile_versions = tenant_table(
    "profile_versions",
    Column("name", Text, primary_key=True, nullable=False),
    Column("digest", Text, primary_key=True, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("canonical", Text, nullable=False),
    Column("published_at", Text, nullable=False),
    Column("published_by", Text, nullable=False),
    Column("event_id", Text, nullable=False),
)
"""Immutable: the canonical form of each version ever published, and the event that says so."""

profile_history = tenant_table(
    "profile_history",
    Column("name", Text, primary_key=True, nullable=False),
    Column("sequence", BigInteger, primary_key=True, nullable=False),
    Column("action", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("overrides", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("event_id", Text, nullable=False),
)
"""What the head was after each change; ``sequence`` is the head's revision."""

profile_files = tenant_table(
    "profile_files",
    Column("file", Text, primary_key=True, nullable=False),
    Column("name", Text, nullable=False, index=True),
    Column("digest", Text, nullable=False),
    Column("problem", Text, nullable=False),
    Column("seen_at", Text, nullable=False),
)
"""The last that was seen of each file of the profiles' folder: its bytes, and what is wrong."""

profile_heads = tenant_table("profile_heads", Column("sequence", BigInteger, nullable=False))
"""Counts the changes of a tenant's heads."""

_HEAD = text("SELECT * FROM profiles WHERE tenant = :tenant AND name = :name")
_VERSION = text(
    "SELECT * FROM profile_versions WHERE tenant = :tenant AND name = :name AND digest = :digest"
)
_VERSIONS = text(
    "SELECT name, digest, sequence, published_at, published_by FROM profile_versions"
    " WHERE tenant = :tenant AND name = :name AND sequence < :before"
    " ORDER BY sequence DESC LIMIT :limit"
)
_HISTORY = text(
    "SELECT * FROM profile_history WHERE tenant = :tenant AND name = :name AND sequence < :before"
    " ORDER BY sequence DESC LIMIT :limit"
)
# A name with a bad file and no version is listed too: that is where its owner looks for it.
_COUNT = text(
    "SELECT count(*) FROM (SELECT name FROM profiles WHERE tenant = :tenant"
    " UNION SELECT name FROM profile_files WHERE tenant = :tenant AND problem <> '') AS named"
)
_LIST = text(
    "SELECT name FROM profiles WHERE tenant = :tenant AND name > :after"
    " UNION SELECT name FROM profile_files"
    " WHERE tenant = :tenant AND name > :after AND problem <> ''"
    " ORDER BY name LIMIT :limit"
)
_LIST_OF = text(
    "SELECT name FROM profiles WHERE tenant = :tenant AND name IN :names"
    " UNION SELECT name FROM profile_files"
    " WHERE tenant = :tenant AND name IN :names AND problem <> ''"
    " ORDER BY name LIMIT :limit"
).bindparams(bindparam("names", type_=Text, expanding=True))
_RUNNABLE = text(
    "SELECT p.*, v.canonical FROM profiles p JOIN profile_versions v"
    " ON v.tenant = p.tenant AND v.name = p.name AND v.digest = p.digest"
    " WHERE p.tenant = :tenant AND NOT p.removed ORDER BY p.name"
)
_HEADS_SEQUENCE = text("SELECT sequence FROM profile_heads WHERE tenant = :tenant")
_MOVE_HEADS = text(
    "INSERT INTO profile_heads (tenant, sequence) VALUES (:tenant, 1)"
    " ON CONFLICT (tenant) DO UPDATE SET sequence = profile_heads.sequence + 1"
)
_PUT_HEAD = text(
    "INSERT INTO profiles"
    " (tenant, name, id, digest, revision, overrides, removed, file, published_at)"
    " VALUES (:tenant, :name, :id, :digest, :revision, :overrides, :removed, :file, :published_at)"
    " ON CONFLICT (tenant, name) DO UPDATE SET digest = excluded.digest,"
    " revision = excluded.revision, overrides = excluded.overrides, removed = excluded.removed,"
    " file = excluded.file, published_at = excluded.published_at"
)
_ADD_VERSION = text(
    "INSERT INTO profile_versions"
    " (tenant, name, digest, sequence, canonical, published_at, published_by, event_id)"
    " VALUES (:tenant, :name, :digest, :sequence, :canonical, :published_at, :published_by,"
    " :event_id)"
)
_ADD_HISTORY = text(
    "INSERT INTO profile_history"
    ' (tenant, name, sequence, action, digest, overrides, at, "by", event_id)'
    " VALUES (:tenant, :name, :sequence, :action, :digest, :overrides, :at, :by, :event_id)"
)
_FILES = text("SELECT * FROM profile_files WHERE tenant = :tenant ORDER BY file")
_FILE_OF = text("SELECT * FROM profile_files WHERE tenant = :tenant AND name = :name ORDER BY file")
_PUT_FILE = text(
    "INSERT INTO profile_files (tenant, file, name, digest, problem, seen_at)"
    " VALUES (:tenant, :file, :name, :digest, :problem, :seen_at)"
    " ON CONFLICT (tenant, file) DO UPDATE SET name = excluded.name, digest = excluded.digest,"
    " problem = excluded.problem, seen_at = excluded.seen_at"
)
_HEADS = text("SELECT * FROM profiles WHERE tenant = :tenant ORDER BY name")
_FROM_FILE = text(
    "SELECT name FROM profiles WHERE tenant = :tenant AND file = :file AND NOT removed"
)
_SET_FILE_OF = text("UPDATE profiles SET file = :file WHERE tenant = :tenant AND name = :name")
_REFUSED = text("SELECT count(*) FROM profile_files WHERE tenant = :tenant AND problem <> ''")
_DROP_FILE = text("DELETE FROM profile_files WHERE tenant = :tenant AND file = :file")


@dataclass(frozen=True, slots=True)
class Head:
    """A profile's head as it is to be written."""

    name: str
    id: str
    digest: str
    revision: int
    overrides: str
    removed: bool
    file: str
    published_at: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """When, by whom, and by which event a head changes."""

    at: str
    by: str
    event_id: str


@dataclass(frozen=True, slots=True)
class FileSeen:
    """What was last seen of one file."""

    file: str
    name: str
    digest: str
    problem: str
    seen_at: str


def head(conn: Connection, principal: Principal, name: str) -> Head | None:
    """The head of ``name``, or nothing."""
    row = conn.execute(_HEAD, {"tenant": principal.tenant, "name": name}).one_or_none()
    return None if row is None else _head(row)


def _head(row: Row[tuple[object, ...]]) -> Head:
    return Head(
        name=row.name,
        id=row.id,
        digest=row.digest,
        revision=row.revision,
        overrides=row.overrides,
        removed=bool(row.removed),
        file=row.file,
        published_at=row.published_at,
    )


def version(
    conn: Connection, principal: Principal, name: str, digest: str
) -> Row[tuple[object, ...]] | None:
    """One version, or nothing."""
    return conn.execute(
        _VERSION, {"tenant": principal.tenant, "name": name, "digest": digest}
    ).one_or_none()


def versions(
    conn: Connection, principal: Principal, name: str, before: int, limit: int
) -> Sequence[Row[tuple[object, ...]]]:
    """Versions, newest first, below the sequence ``before``."""
    given = {"tenant": principal.tenant, "name": name, "before": before, "limit": limit}
    return conn.execute(_VERSIONS, given).all()


def history(
    conn: Connection, principal: Principal, name: str, before: int, limit: int
) -> Sequence[Row[tuple[object, ...]]]:
    """Changes of the head, newest first, below the sequence ``before``."""
    given = {"tenant": principal.tenant, "name": name, "before": before, "limit": limit}
    return conn.execute(_HISTORY, given).all()


def names(conn: Connection, principal: Principal, after: str, limit: int) -> list[str]:
    """Names in order, after ``after``: of heads, and of files that never gave one."""
    given = {"tenant": principal.tenant, "limit": limit}
    if principal.profiles is None:
        return [row.name for row in conn.execute(_LIST, {**given, "after": after})]
    seen = sorted(name for name in principal.profiles if name > after)
    if not seen:
        return []
    return [row.name for row in conn.execute(_LIST_OF, {**given, "names": seen})]


def count(conn: Connection, principal: Principal) -> int:
    """How many names :func:`names` has in all."""
    if principal.profiles is not None:
        most = len(principal.profiles)
        return len(names(conn, principal, "", most)) if most else 0
    found: int = conn.execute(_COUNT, {"tenant": principal.tenant}).scalar_one()
    return found


def live(conn: Connection, principal: Principal) -> list[tuple[Head, str]]:
    """Every head that is not removed, with the canonical form of its version."""
    rows = conn.execute(_RUNNABLE, {"tenant": principal.tenant})
    return [(_head(row), row.canonical) for row in rows]


def heads_sequence(conn: Connection, principal: Principal) -> int:
    """How often the tenant's heads have changed."""
    return conn.execute(_HEADS_SEQUENCE, {"tenant": principal.tenant}).scalar_one_or_none() or 0


def move_head(conn: Connection, principal: Principal, to: Head, action: str, stamp: Stamp) -> None:
    """Write the head, its history row and the tenant's change counter."""
    conn.execute(
        _PUT_HEAD,
        {
            "tenant": principal.tenant,
            "name": to.name,
            "id": to.id,
            "digest": to.digest,
            "revision": to.revision,
            "overrides": to.overrides,
            "removed": to.removed,
            "file": to.file,
            "published_at": to.published_at,
        },
    )
    conn.execute(
        _ADD_HISTORY,
        {
            "tenant": principal.tenant,
            "name": to.name,
            "sequence": to.revision,
            "action": action,
            "digest": to.digest,
            "overrides": to.overrides,
            "at": stamp.at,
            "by": stamp.by,
            "event_id": stamp.event_id,
        },
    )
    conn.execute(_MOVE_HEADS, {"tenant": principal.tenant})


def add_version(
    conn: Connection,
    principal: Principal,
    *,
    name: str,
    digest: str,
    sequence: int,
    canonical: str,
    stamp: Stamp,
) -> None:
    """Keep a version that was never published before."""
    conn.execute(
        _ADD_VERSION,
        {
            "tenant": principal.tenant,
            "name": name,
            "digest": digest,
            "sequence": sequence,
            "canonical": canonical,
            "published_at": stamp.at,
            "published_by": stamp.by,
            "event_id": stamp.event_id,
        },
    )


def files(conn: Connection, principal: Principal, name: str | None = None) -> list[FileSeen]:
    """What was last seen of every file, or of the files that give ``name``."""
    given = {"tenant": principal.tenant}
    rows = (
        conn.execute(_FILES, given)
        if name is None
        else conn.execute(_FILE_OF, {**given, "name": name})
    )
    return [
        FileSeen(
            file=row.file,
            name=row.name,
            digest=row.digest,
            problem=row.problem,
            seen_at=row.seen_at,
        )
        for row in rows
    ]


def put_file(conn: Connection, principal: Principal, seen: FileSeen) -> None:
    """Remember what was seen of a file."""
    conn.execute(
        _PUT_FILE,
        {
            "tenant": principal.tenant,
            "file": seen.file,
            "name": seen.name,
            "digest": seen.digest,
            "problem": seen.problem,
            "seen_at": seen.seen_at,
        },
    )


def drop_file(conn: Connection, principal: Principal, file: str) -> None:
    """Forget a file that is gone."""
    conn.execute(_DROP_FILE, {"tenant": principal.tenant, "file": file})


def heads(conn: Connection, principal: Principal) -> list[Head]:
    """Every head of the tenant."""
    return [_head(row) for row in conn.execute(_HEADS, {"tenant": principal.tenant})]


def names_from(conn: Connection, principal: Principal, file: str) -> list[str]:
    """The profiles that came from ``file`` and still may run."""
    rows = conn.execute(_FROM_FILE, {"tenant": principal.tenant, "file": file})
    return [row.name for row in rows]


def set_file_of(conn: Connection, principal: Principal, name: str, file: str) -> None:
    """The same version comes from another file now; nothing else changes."""
    conn.execute(_SET_FILE_OF, {"tenant": principal.tenant, "name": name, "file": file})


def refused_files(conn: Connection, principal: Principal) -> int:
    """How many files of the folder were not taken."""
    return int(conn.execute(_REFUSED, {"tenant": principal.tenant}).scalar_one())
