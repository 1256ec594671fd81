"""The keyring in a PostgreSQL schema of its own, best in a database of its own.

It works as the DSN's role and without row security, for all tenants; the role that works for one
of them has no right to the schema (ADR 0015 says why).

Callers are synchronous, the driver is not: it lives in one thread with a loop. Units run one after
the other under an advisory lock, so that they may read and then write.

A deleted row stays in its page until the space is needed, and vacuuming changes nothing about that:
it frees the space and leaves the bytes. So :meth:`~PostgresKeyStore.scrub` writes the table anew,
into another file; the server cuts the old one to nothing as that commits. What no statement reaches
is the server's write-ahead log, archives of it, replicas that lag behind and backups of the server:
that is what ``unrecoverable_by`` must allow for (``HOLDFAST_KEYRING_WAL_DAYS``).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg

from holdfast.kernel.database.errors import is_refusal
from holdfast.kernel.errors import Internal, OutcomeUnknown, Unavailable
from holdfast.kernel.telemetry import get_logger
from holdfast.keyring.backends.schema import NAMES, TABLES
from holdfast.keyring.ports import Rows

T = TypeVar("T")
log = get_logger("keyring")
CONNECT_SECONDS = 10.0
STATEMENT_SECONDS = 30.0
SCRUB_SECONDS = 600.0
"""Writing the table anew takes about a minute for a million keys on a busy machine."""
SCRUB_LOCK_SECONDS = 2.0
"""How long it waits for whoever reads the table; new keys wait meanwhile. Longer than the second
after which the server sends its own vacuum away, and than any unit of ours."""
SCRUB_ATTEMPTS = 3
_LOCK = 0x686F6C646B657973
"""A number of our own for the advisory lock: ``holdkeys`` in ASCII."""
_OWED = (
    # A note that keys were destroyed and are in the file yet: made with their destruction, taken
    # away with the scrubbing, so that it outlives a process that dies in between.
    "CREATE TABLE IF NOT EXISTS keyring_unscrubbed (one INT NOT NULL PRIMARY KEY)"
)
_OWE = "INSERT INTO keyring_unscrubbed (one) VALUES (1) ON CONFLICT DO NOTHING"
_LEAVES_BYTES = ("DELETE FROM keyring_keys", "UPDATE keyring_keys")
# Not VACUUM FULL: that brings dead rows along as long as anybody's snapshot is older than their
# end, be it of another table, and says nothing. This takes what is live at its own moment.
# Nor a rewriting ALTER TABLE: a dump whose snapshot is older would find the table empty, without an
# error. Rows that are copied in frozen are there for every snapshot; only COPY does that, so they
# go through here, some pages at a time.
_SET_ASIDE = "CREATE UNLOGGED TABLE keyring_moving AS SELECT * FROM keyring_keys"
_PAGES = "SELECT pg_relation_size('keyring_moving') / current_setting('block_size')::INT"
_SOME = "SELECT {columns} FROM keyring_moving WHERE ctid >= '({start},0)' AND ctid < '({end},0)'"
_PAGES_AT_ONCE = 512


class PostgresKeyStore:
    """See :class:`holdfast.keyring.ports.KeyStore`. Several processes may share it."""

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        schema: str,
        scrub_lock_seconds: float = SCRUB_LOCK_SECONDS,
    ) -> None:
        self._url = url
        self._password = password
        self._schema = schema
        self._scrub_lock_seconds = scrub_lock_seconds
        self._turn = threading.Lock()
        self._scrubbing = threading.Lock()
        self._connection: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="keyring", daemon=True)
        self._thread.start()
        try:
            if self.transact(self._make_tables):
                self._scrub_what_others_left()
        except BaseException:
            self.close()
            raise

    def transact(self, unit: Callable[[Rows], T]) -> T:
        with self._turn:
            try:
                try:
                    self._begin()
                except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
                    # The connection had died while nobody used it; nothing has begun.
                    self._drop()
                    self._begin()
                rows = _PostgresRows(self._connection, self._wait)
                try:
                    result = unit(rows)
                    if rows.left_bytes:
                        rows.all(_OWE)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self._wait(self._connection.execute("ROLLBACK"))
                    raise
                self._commit(rows.wrote)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._drop()
                raise Unavailable(
                    "cannot use the keyring: its database does not answer or refuses",
                    code="keyring-unavailable",
                    retry_after_seconds=1.0,
                    internal=f"{type(error).__name__}: {error}",
                ) from error
            return result

    def scrub(self) -> None:
        """See the port. Where no key was destroyed since the last time nothing is done.

        New keys wait while the table is written; whoever waits for longer than a unit may is told
        to come again. Of several who ask at once one does it for all. A connection of its own, so
        that units which need no key of the table's are not held up here.
        """
        if not self._scrubbing.acquire(timeout=SCRUB_SECONDS):
            raise _unscrubbed("somebody else is still at it")
        try:
            for attempt in range(1, SCRUB_ATTEMPTS + 1):
                try:
                    return self._wait(self._scrub(), SCRUB_SECONDS)
                except asyncpg.LockNotAvailableError as error:
                    if attempt == SCRUB_ATTEMPTS:
                        raise _unscrubbed("its table is in use", error) from error
                # Whoever waited behind this one has a turn.
                time.sleep(self._scrub_lock_seconds / 2)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _unscrubbed("its database does not answer or refuses", error) from error
        finally:
            self._scrubbing.release()

    async def _scrub(self) -> None:
        connection = await self._connected(SCRUB_SECONDS)
        try:
            async with connection.transaction():
                await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
                if await connection.fetchval("SELECT count(*) FROM keyring_unscrubbed"):
                    wait = f"{self._scrub_lock_seconds * 1000:.0f}"
                    await connection.execute(f"SET LOCAL lock_timeout = {wait}")
                    await _rewrite(connection)
                    await connection.execute("DELETE FROM keyring_unscrubbed")
        finally:
            await _closed(connection)

    def _scrub_what_others_left(self) -> None:
        """What whoever destroyed it did not come to, or an earlier release, which vacuumed."""
        try:
            self.scrub()
        except Unavailable as error:
            log.warning(
                "keys that were destroyed before are in the keyring's file until the next erasure",
                detail=error.internal or str(error),
            )

    def close(self) -> None:
        with self._scrubbing, self._turn:
            self._drop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            if not self._thread.is_alive():
                self._loop.close()

    def _make_tables(self, rows: Rows) -> bool:
        """Whether keys were destroyed here and are in the file yet, or may be: an earlier release
        made no note."""
        rows.all(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
        ((known, noted),) = rows.all(
            "SELECT to_regclass('keyring_keys') IS NOT NULL,"
            " to_regclass('keyring_unscrubbed') IS NOT NULL"
        )
        for statement in TABLES:
            rows.all(statement.replace("{bytes}", "BYTEA"))
        rows.all(_OWED)
        if not known:
            return False
        if noted:
            return bool(rows.all("SELECT one FROM keyring_unscrubbed"))
        rows.all(_OWE)
        return True

    def _begin(self) -> None:
        self._open()
        self._wait(self._connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})"))

    def _commit(self, wrote: bool) -> None:
        try:
            answer = self._wait(self._connection.execute("COMMIT"))
        except Exception as error:
            if is_refusal(error) or not wrote:
                raise  # it was rolled back, or there was nothing to be stored
            self._drop()
            raise OutcomeUnknown(
                "cannot tell whether the keyring stored it: the commit was not answered",
                code="commit-failed",
                hint="repeat it",
                retry_after_seconds=1.0,
                internal=f"{type(error).__name__}: {error}",
            ) from error
        except BaseException:
            self._drop()
            raise
        if answer != "COMMIT":
            raise Internal(
                "cannot write: the unit of work went on after a statement had failed",
                internal=f"COMMIT was answered {answer}",
            )

    def _open(self) -> None:
        if self._connection is None:
            self._connection = self._wait(self._connected(STATEMENT_SECONDS))

    async def _connected(self, statement_seconds: float) -> Any:
        return await asyncpg.connect(
            self._url,
            password=self._password,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds,
            server_settings={
                "application_name": "holdfast keyring",
                "search_path": self._schema,
                "synchronous_commit": "on",
                # A unit reads what those before it have left: its snapshot must not be older than
                # the lock that it waited for, whatever the server's default is.
                "default_transaction_isolation": "read committed",
                "lock_timeout": "10000",
            },
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                self._wait(_closed(connection))

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float = STATEMENT_SECONDS) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONNECT_SECONDS + seconds)


class _PostgresRows:
    def __init__(self, connection: Any, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._connection = connection
        self._wait = wait
        self.wrote = False
        self.left_bytes = False

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        self.wrote = self.wrote or not statement.startswith("SELECT ")
        if statement.startswith(_LEAVES_BYTES):
            deleted: list[tuple[Any, ...]] = self._wait(self._deleted(statement, values))
            return deleted
        return [tuple(row) for row in self._wait(self._connection.fetch(statement, *values))]

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        if values:
            self.wrote = True
            self.left_bytes = self.left_bytes or statement.startswith(_LEAVES_BYTES)
            self._wait(self._connection.executemany(statement, values))

    async def _deleted(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """One that may delete keys: where it finds none there is nothing to scrub."""
        prepared = await self._connection.prepare(statement)
        found: list[tuple[Any, ...]] = [tuple(row) for row in await prepared.fetch(*values)]
        self.left_bytes = self.left_bytes or not prepared.get_statusmsg().endswith(" 0")
        return found


def _unscrubbed(why: str, error: BaseException | None = None) -> Unavailable:
    return Unavailable(
        f"cannot scrub the keyring: {why}",
        code="keyring-unavailable",
        hint="what the destroyed keys sealed is unreadable here, their bytes are in the keyring's "
        "file yet: repeat it when nobody reads the table keyring_keys (a dump does), with disk "
        "space for it twice more",
        retry_after_seconds=1.0,
        internal=f"{type(error).__name__}: {error}" if error else "",
    )


async def _rewrite(connection: Any) -> None:
    """The table anew, with the rows that are live; its rights, indexes and id stay."""
    # Before the rows are set aside: one that came afterwards would be lost.
    await connection.execute("LOCK TABLE keyring_keys IN ACCESS EXCLUSIVE MODE")
    await connection.execute(_SET_ASIDE)
    await connection.execute("TRUNCATE keyring_keys")
    columns = ", ".join(NAMES["keyring_keys"])
    pages = await connection.fetchval(_PAGES)
    for start in range(0, pages, _PAGES_AT_ONCE):
        some = _SOME.format(columns=columns, start=start, end=start + _PAGES_AT_ONCE)
        rows = io.BytesIO()
        await connection.copy_from_query(some, output=rows, format="binary")
        rows.seek(0)
        await connection.copy_to_table(
            "keyring_keys",
            source=rows,
            columns=NAMES["keyring_keys"],
            format="binary",
            freeze=True,
        )
    kept, moved = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM keyring_keys), (SELECT count(*) FROM keyring_moving)"
    )
    if kept != moved:
        raise Internal("cannot scrub the keyring: not every key was written anew")
    await connection.execute("DROP TABLE keyring_moving")


async def _closed(connection: Any) -> None:
    try:
        await connection.close(timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
    await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
