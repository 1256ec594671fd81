"""State on PostgreSQL: every table as it was at one moment, and back into an empty database.

The tables are read in one transaction that sees one snapshot, tenant by tenant, since row security
binds the owner too. They are put back in one transaction, into a database without a schema.

Beside the database a restore fills a keyring and a directory, and no transaction spans them. So
first of all the database is marked, and last of all the mark is removed: nobody starts on one that
is marked, and the same restore again begins anew. The mark's token lies in the directory too, which
gets its name in one step: where both agree, all was done but the removal.

A mark does not tell whether who made it still lives. A lock does: it is held by a connection from
the beginning to the end, and whoever makes or removes a mark has it. Should that connection break,
the token is the last word: a restore fills and ends only what it has marked itself.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import Table

from holdfast.kernel.database import TENANT, metadata
from holdfast.kernel.errors import Conflict, Corrupt, Unavailable, Unsupported
from holdfast.kernel.files import write_over
from holdfast.ledger.store import MARK_RESTORED, RestoredFrom
from holdfast.migrations import load_tables

CONNECT_SECONDS = 10.0
MARK = "holdfast_restoring"
"""The table that is there while a restore is under way, or was killed."""
LOCK = 0x726573746F726573  # "restores"
"""The advisory lock that a restore holds."""
LOCK_SECONDS = 5
"""How long one waits for it: the server may not have seen yet that its holder is dead."""
RESTORED = ".restored"
"""The file of the data directory that has the same token as the mark."""
EVERYBODY = "_"
"""The folder of a table that has no tenants."""


async def dump(url: str, password: str | None, folder: Path) -> str:
    """Write every table below ``folder``; the schema's revision."""
    load_tables()
    _make_folder(folder)
    async with (
        connected(url, password) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        await conn.execute("SET LOCAL statement_timeout = 0")
        revision = await conn.fetchval("SELECT revision FROM schema_state WHERE id = 1")
        tenants = [row["id"] for row in await conn.fetch("SELECT id FROM tenants")]
        for table in metadata.sorted_tables:
            for tenant in tenants if TENANT in table.columns else [EVERYBODY]:
                await _dump_table(conn, table, tenant, folder)
    return str(revision)


async def _dump_table(conn: Any, table: Table, tenant: str, folder: Path) -> None:
    target = folder / table.name / f"{tenant}.copy"
    _make_folder(target.parent)
    target.touch(mode=0o600)
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    query = f'SELECT {names} FROM "{table.name}"'  # noqa: S608 - our own names
    if tenant == EVERYBODY:
        await conn.copy_from_query(query, output=str(target), format="binary")
        return
    await conn.execute("SELECT set_config('holdfast.tenant', $1, true)", tenant)
    wanted = f"{query} WHERE tenant = $1"
    await conn.copy_from_query(wanted, tenant, output=str(target), format="binary")


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


async def check_empty(url: str, password: str | None) -> None:
    """Return if the database has no schema of ours, or is one that a restore was killed in;
    ``Conflict`` if anybody works with it."""
    async with connected(url, password) as conn:
        await _check_empty(conn)


async def _check_empty(conn: Any) -> None:
    there = await conn.fetchval("SELECT to_regclass('schema_state')")
    if there is not None and await _token(conn) is None:
        raise Conflict(
            "cannot restore: the database has a schema already",
            code="data-there",
            hint="name an empty database",
        )


@asynccontextmanager
async def restoring(url: str, password: str | None) -> AsyncIterator[None]:
    """Be the only restore into this database; ``Conflict`` if another one is under way."""
    async with connected(url, password) as conn:
        await _lock(
            conn,
            "pg_advisory_lock",
            Conflict(
                "cannot restore: another restore into this database is under way",
                code="restore-running",
            ),
        )
        yield


async def _lock(conn: Any, take: str, refused: Conflict) -> None:
    import asyncpg

    await conn.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    try:
        await conn.execute(f"SELECT {take}({LOCK})")
    except asyncpg.LockNotAvailableError:
        raise refused from None


async def begin_restore(url: str, password: str | None, stage: Path) -> str:
    """Mark the database as one in which a restore is under way, from ``stage``; by which token."""
    token = os.urandom(16).hex()
    write_over(stage / RESTORED, token.encode())
    async with connected(url, password) as conn, conn.transaction():
        await _check_empty(conn)
        await conn.execute(f"DROP TABLE IF EXISTS {MARK}")
        await conn.execute(f"CREATE TABLE {MARK} (token TEXT NOT NULL)")
        await conn.execute(f"INSERT INTO {MARK} VALUES ($1)", token)  # noqa: S608 - our own name
    return token


async def end_restore(url: str, password: str | None, data_dir: Path, token: str) -> None:
    """Remove the mark: everything is in its place. ``Conflict`` if it is not ours any more."""
    async with connected(url, password) as conn, conn.transaction():
        await _own(conn, token)
        await conn.execute(f"DROP TABLE {MARK}")
    (data_dir / RESTORED).unlink()


async def finish_restore(url: str, password: str | None, data_dir: Path) -> None:
    """At a start: remove the mark of a restore that was killed when all was done but this.

    ``Conflict`` if something of it is missing, or it is under way.
    """
    unfinished = Conflict(
        "cannot start: a restore into this database was not finished",
        code="restore-unfinished",
        hint="run the same `holdfast backup restore` again: it begins anew",
    )
    async with connected(url, password) as conn:
        if await _token(conn) is None:
            return
        async with conn.transaction():
            await _lock(conn, "pg_advisory_xact_lock", unfinished)
            token, there = await _token(conn), data_dir / RESTORED
            if token is None:  # it has ended meanwhile
                return
            if not there.exists() or there.read_text("ascii") != token:
                raise unfinished
            await conn.execute(f"DROP TABLE {MARK}")
        there.unlink(missing_ok=True)


async def _own(conn: Any, token: str) -> None:
    """Keep others from changing the mark until the transaction ends; ``Conflict`` if it is not
    this one."""
    found = None
    if await conn.fetchval("SELECT to_regclass($1)", MARK) is not None:
        found = await conn.fetchval(f"SELECT token FROM {MARK} FOR UPDATE")  # noqa: S608 - our own
    if found != token:
        raise Conflict(
            "cannot restore: another restore has taken this database over",
            code="restore-running",
            hint="see that only one runs, and run the same `holdfast backup restore` again",
        )


async def _token(conn: Any) -> str | None:
    """What the mark says; None if there is none."""
    if await conn.fetchval("SELECT to_regclass($1)", MARK) is None:
        return None
    return str(await conn.fetchval(f"SELECT token FROM {MARK}"))  # noqa: S608 - our own name


async def load(
    url: str,
    password: str | None,
    folder: Path,
    revision: str,
    token: str,
    restored: RestoredFrom,
) -> None:
    """Put the tables of :func:`dump` into a database that was just migrated to ``revision``, and
    that :func:`begin_restore` has marked with ``token``; and have each log say where it is from."""
    load_tables()
    async with connected(url, password) as conn, conn.transaction():
        await _own(conn, token)
        await conn.execute("SET LOCAL statement_timeout = 0")
        now = await conn.fetchval("SELECT revision FROM schema_state WHERE id = 1")
        if now != revision:
            raise Unsupported(
                f"cannot restore: the backup has the schema {revision}, this program's is {now}",
                hint="restore it with the release that made it, then start this one",
            )
        tables = metadata.sorted_tables
        for table in tables:
            if TENANT in table.columns:
                await conn.execute(f'ALTER TABLE "{table.name}" NO FORCE ROW LEVEL SECURITY')
        for table in reversed(tables):
            await conn.execute(f'DELETE FROM "{table.name}"')  # noqa: S608 - our own names
        for table in tables:
            if table.name in ("lease_instances", "lease_leaders"):
                continue  # whoever ran then does not run here: nobody has to wait for them
            columns = [column.name for column in table.columns]
            for path in sorted((folder / table.name).glob("*.copy")):
                await conn.copy_to_table(
                    table.name, source=str(path), columns=columns, format="binary"
                )
        await conn.execute(MARK_RESTORED, restored.backup, restored.made_at)
        for table in tables:
            if TENANT in table.columns:
                await conn.execute(f'ALTER TABLE "{table.name}" FORCE ROW LEVEL SECURITY')
        await _renumber(conn)


async def _renumber(conn: Any) -> None:
    """Transactions are numbered anew on another server: keep the order of what waits, not the
    numbers, or the relay would wait for transactions that are long over."""
    await conn.execute(
        "UPDATE outbox SET transaction_id = 0, sequence = waiting.number FROM ("
        " SELECT tenant, event_id, row_number() OVER"
        " (PARTITION BY tenant ORDER BY transaction_id, sequence) AS number FROM outbox"
        ") AS waiting"
        " WHERE outbox.tenant = waiting.tenant AND outbox.event_id = waiting.event_id"
    )
    await conn.execute(
        "SELECT setval('outbox_sequence', (SELECT coalesce(max(sequence), 0) + 1 FROM outbox))"
    )


@asynccontextmanager
async def scratch_database(url: str, password: str | None, name: str) -> AsyncIterator[str]:
    """The URL of a new database on the same server, dropped at the end."""
    import asyncpg

    async with connected(url, password) as conn:
        try:
            await conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        except asyncpg.InsufficientPrivilegeError as error:
            role = await conn.fetchval("SELECT quote_ident(current_user)")
            raise Unsupported(
                f"cannot rehearse: the database's role {role} may not make a database beside it",
                code="database-role",
                hint=f"as an administrator run ALTER ROLE {role} CREATEDB; or restore the backup "
                "into an empty database of a server of its own",
            ) from error
    parts = urlsplit(url)
    try:
        yield urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, parts.fragment))
    finally:
        async with connected(url, password) as conn:
            await conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@asynccontextmanager
async def connected(url: str, password: str | None) -> AsyncIterator[Any]:
    """A connection as the owner; what the server refuses is said once, here."""
    import asyncpg

    try:
        conn = await asyncpg.connect(url, password=password, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(
            "cannot reach the database", internal=f"{type(error).__name__}: {error}"
        ) from error
    try:
        yield conn
    except asyncpg.DataError as error:
        raise Corrupt("cannot restore: a table is damaged", code="backup-damaged") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(
            f"cannot use the database: {str(error).splitlines()[0]}",
            internal=f"{type(error).__name__}: {error}",
        ) from error
    finally:
        await conn.close(timeout=5)
