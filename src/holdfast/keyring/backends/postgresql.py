"""The keyring in a PostgreSQL schema of its own, best in a database of its own.

Callers are synchronous, the driver is not: it lives in one thread with a loop. Units run one after
the other under an advisory lock, so that they may read and then write. Deleted rows stay in the
table's pages until they are vacuumed: :meth:`scrub` does that. The server's write-ahead log keeps
them until it is recycled, and its backups until they expire: that is what ``unrecoverable_by`` must
allow for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg

from holdfast.kernel.database.errors import is_refusal
from holdfast.kernel.errors import Internal, OutcomeUnknown, Unavailable
from holdfast.keyring.backends.schema import TABLES
from holdfast.keyring.ports import Rows

T = TypeVar("T")
CONNECT_SECONDS = 10.0
STATEMENT_SECONDS = 30.0
_LOCK = 0x686F6C646B657973
"""A number of our own for the advisory lock: ``holdkeys`` in ASCII."""


class PostgresKeyStore:
    """See :class:`holdfast.keyring.ports.KeyStore`. Several processes may share it."""

    def __init__(self, url: str, *, password: str | None = None, schema: str) -> None:
        self._url = url
        self._password = password
        self._schema = schema
        self._turn = threading.Lock()
        self._connection: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="keyring", daemon=True)
        self._thread.start()
        try:
            self.transact(self._make_tables)
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
        with self._turn:
            try:
                self._open()
                self._wait(self._connection.execute("VACUUM keyring_keys"))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._drop()
                raise Unavailable(
                    "cannot scrub the keyring: its database does not answer or refuses",
                    code="keyring-unavailable",
                    internal=f"{type(error).__name__}: {error}",
                ) from error

    def close(self) -> None:
        with self._turn:
            self._drop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            if not self._thread.is_alive():
                self._loop.close()

    def _make_tables(self, rows: Rows) -> None:
        rows.all(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
        for statement in TABLES:
            rows.all(statement.replace("{bytes}", "BYTEA"))

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
            self._connection = self._wait(
                asyncpg.connect(
                    self._url,
                    password=self._password,
                    timeout=CONNECT_SECONDS,
                    command_timeout=STATEMENT_SECONDS,
                    server_settings={
                        "application_name": "holdfast keyring",
                        "search_path": self._schema,
                        "synchronous_commit": "on",
                        "lock_timeout": "10000",
                    },
                )
            )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                self._wait(_closed(connection))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(
            CONNECT_SECONDS + STATEMENT_SECONDS
        )


class _PostgresRows:
    def __init__(self, connection: Any, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._connection = connection
        self._wait = wait
        self.wrote = False

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        self.wrote = self.wrote or not statement.startswith("SELECT ")
        return [tuple(row) for row in self._wait(self._connection.fetch(statement, *values))]

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        self.wrote = True
        self._wait(self._connection.executemany(statement, values))


async def _closed(connection: Any) -> None:
    try:
        await connection.close(timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
    await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
