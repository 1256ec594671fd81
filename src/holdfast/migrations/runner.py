"""Bring a database to this program's schema: under a lock, after a copy, in one transaction.

The row in ``schema_state`` names the revision and the oldest release that can use it. So the
previous release starts on a newer schema (schema changes come as *before* and *after* steps), and
a release that the schema has left behind is refused instead of doing damage.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, inspect, text

from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import (
    Database,
    apply_row_level_security,
    metadata,
    open_database,
    seed_tenants,
    sqlite_path,
)
from holdfast.kernel.errors import HoldfastError, Unavailable, Unsupported
from holdfast.kernel.lock import FileLock
from holdfast.kernel.principal import service

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)

_ADVISORY_LOCK = 0x686F6C6466617374
"""A number of our own for PostgreSQL's advisory lock: ``holdfast`` in ASCII."""

HISTORY = Path(__file__).parent
"""Where the revisions are."""

_alembic = threading.Lock()
"""Alembic keeps its context in module globals: one migration at a time in a process."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What :func:`migrate` did: from and to which revision (equal: nothing), and the copy."""

    before: str | None
    after: str
    copy: Path | None


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a database says about its schema."""

    revision: str
    oldest_code: str


async def migrate(
    url: str,
    *,
    clock: Clock,
    version: str,
    backups: Path,
    password: str | None = None,
) -> Migrated:
    """Bring the database at ``url`` to the newest schema that this program knows.

    An embedded database with data is copied into ``backups`` first. Either the whole way is gone
    or nothing has changed. A schema newer than this program's is left alone if it says that
    release ``version`` can use it; otherwise ``Unsupported``. ``Unavailable`` if another process
    uses the file or the server does not answer.
    """
    if url.startswith("sqlite:"):
        return await asyncio.to_thread(_migrate_file, sqlite_path(url), clock, version, backups)
    now = timestamp(clock.now())

    def unit(conn: Connection) -> Migrated:
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL lock_timeout = '60s'"))
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        before = _wanted(conn, version)
        return Migrated(before.revision if before else None, _upgrade(conn, before, now), None)

    async with open_database(url, clock=clock, password=password) as database:
        return await database.administer(unit)


async def check_schema(database: Database, *, version: str) -> None:
    """Return if this program can work on the open ``database``; ``Unsupported`` if it cannot."""

    def unit(conn: Connection) -> SchemaState | None:
        return _state(conn)

    try:
        found = await database.read(service("migrations"), unit)
    except HoldfastError as error:
        raise Unavailable(
            "cannot start: the database's schema cannot be read",
            hint="run `holdfast up` or migrate it first",
            internal=error.internal or error.detail,
        ) from error
    if found is None:
        raise Unsupported(
            "cannot start: the database has no schema yet", code="schema-missing", hint="migrate it"
        )
    known = _revisions()
    if found.revision not in known:
        _refuse_if_left_behind(found, version)
    elif found.revision != known[0]:
        raise Unsupported(
            f"cannot start: the database's schema {found.revision} is older than this program's",
            code="schema-old",
            hint="migrate it: the role that owns the database does so when it starts",
        )


def standing(revision: str, oldest_code: str, *, version: str) -> str:
    """How a schema stands to this program: ``current``, ``older`` (the next start brings it here)
    or ``newer`` (it can be used as it is); ``Unsupported`` if this program has been left behind."""
    known = _revisions()
    if revision not in known:
        _refuse_if_left_behind(SchemaState(revision, oldest_code), version)
        return "newer"
    return "current" if revision == known[0] else "older"


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HISTORY))
    config.set_main_option("file_template", "revision_%%(rev)s")
    config.attributes["connection"] = connection
    return config


# --- one embedded file --------------------------------------------------------------------------


def _migrate_file(path: Path, clock: Clock, version: str, backups: Path) -> Migrated:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"), f"the database {path}")
    lock.acquire()
    try:
        with _file_connection(path) as conn:
            before = _wanted(conn, version)
            head = _revisions()[0]
            if before is not None and before.revision == head:
                return Migrated(head, head, None)
            copy = None
            now = timestamp(clock.now())
            if before is not None and before.revision in _revisions():
                copy = _copy(conn, backups / _copy_name(before.revision, now))
            conn.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                after = _upgrade(conn, before, now)
                broken = conn.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise Unsupported(f"cannot migrate: rows of {broken[0]} name rows that are not")
                conn.exec_driver_sql("COMMIT")
            except BaseException:
                conn.exec_driver_sql("ROLLBACK")
                raise
            return Migrated(before.revision if before else None, after, copy)
    finally:
        lock.release()


@contextmanager
def _file_connection(path: Path) -> Iterator[Connection]:
    from holdfast.kernel.database.errors import translated
    from holdfast.kernel.database.sqlite_session import sqlite_engine

    engine = sqlite_engine(path)
    try:
        with engine.connect() as conn:
            # A rebuilt table is dropped and renamed: the rows that point to it are checked after.
            conn.exec_driver_sql("PRAGMA foreign_keys=OFF")
            yield conn
    except HoldfastError:
        raise
    except Exception as error:
        raise translated(error) from error
    finally:
        engine.dispose()


def _copy_name(revision: str, now: str) -> str:
    return f"before-migration-{revision}-{re.sub('[^0-9]', '', now)[:14]}.db"


def _copy(conn: Connection, target: Path) -> Path:
    """A consistent copy of the open database, whole and flushed under its name."""
    from pysqlite3 import dbapi2

    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    driver: Any = conn.connection.dbapi_connection
    with closing(dbapi2.connect(str(partial), isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous=FULL")
        driver.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    partial.replace(target)
    log.info("database.copied", to=str(target))
    return target


# --- on an open transaction ---------------------------------------------------------------------


def _revisions() -> list[str]:
    """Every revision of the history, the newest first.

    Files carry their number, and the history is one line, so their names tell what Alembic would:
    a start that has nothing to migrate does without it, and without its ten megabytes.
    """
    names = (path.stem for path in (HISTORY / "versions").glob("revision_*.py"))
    return sorted((name.removeprefix("revision_") for name in names), reverse=True)


def _state(conn: Connection) -> SchemaState | None:
    if not inspect(conn).has_table("schema_state"):
        return None
    row = conn.execute(
        text("SELECT revision, oldest_code FROM schema_state WHERE id = 1")
    ).one_or_none()
    return None if row is None else SchemaState(row.revision, row.oldest_code)


def _wanted(conn: Connection, version: str) -> SchemaState | None:
    """The state of the schema, refused if this program cannot work on it."""
    found = _state(conn)
    if found is not None and found.revision not in _revisions():
        _refuse_if_left_behind(found, version)
    return found


def _refuse_if_left_behind(found: SchemaState, version: str) -> None:
    if _release(found.oldest_code) > _release(version):
        raise Unsupported(
            f"cannot start: the database's schema {found.revision} needs Holdfast "
            f"{found.oldest_code} or newer, this is {version}",
            code="schema-newer",
            hint="install that release, or restore the copy made before the migration",
        )


def _release(version: str) -> tuple[int, ...]:
    """``1.2.3`` (and whatever follows, such as ``rc1``) as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _upgrade(conn: Connection, before: SchemaState | None, now: str) -> str:
    """Run what is missing; the revision afterwards. In the caller's transaction."""
    known = _revisions()
    if not known:
        raise Unsupported("cannot migrate: this program carries no schema")
    head = known[0]
    if before is not None and (before.revision == head or before.revision not in known):
        return before.revision
    # Tells SQLAlchemy that a transaction is open, so that Alembic begins and ends none.
    conn.execute(text("SELECT 1"))
    from alembic import command
    from alembic.script import ScriptDirectory

    with _alembic:
        command.upgrade(configuration(conn), "head")
        script = ScriptDirectory.from_config(configuration())
    if conn.dialect.name == "postgresql":
        for sequence in metadata._sequences.values():
            sequence.create(conn, checkfirst=True)
    apply_row_level_security(conn)
    seed_tenants(conn)
    conn.execute(
        text(
            "INSERT INTO schema_state (id, revision, oldest_code, migrated_at)"
            " VALUES (1, :revision, :oldest, :now) ON CONFLICT (id) DO UPDATE SET"
            " revision = excluded.revision, oldest_code = excluded.oldest_code,"
            " migrated_at = excluded.migrated_at"
        ),
        {
            "revision": head,
            "oldest": script.get_revision(head).module.oldest_code,
            "now": now,
        },
    )
    log.info("database.migrated", before=before.revision if before else None, after=head)
    return head
