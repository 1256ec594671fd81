"""One connection to an SQLite file, and what keeps several of them out of each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from holdfast.kernel.errors import Internal, Unsupported

_OLDEST_LIBRARY = (3, 51, 3)


def _as_it_is(value: Any) -> Any:
    return value


for _kind, _adapted in ((type(None), _as_it_is), (bytes, bytes), (bool, int)):
    # Only of numbers and text the driver knows without looking that they need no adapting. For
    # anything else it asks the value and its protocol in vain, which took three quarters of the
    # time of an insertion of rows of ten values (1.9 s of 100,000; 0.5 s with an adapter to find).
    dbapi2.register_adapter(_kind, _adapted)


def sqlite_engine(path: Path, *, busy_milliseconds: int = 5_000) -> Engine:
    """An engine on the file at ``path``: write-ahead log, every commit flushed, foreign keys on.

    Transactions are begun and ended in plain SQL by whoever holds the connection: the driver's own
    guessing is off. ``Unsupported`` where the library or the file system cannot keep the promise.
    """
    if dbapi2.sqlite_version_info < _OLDEST_LIBRARY:
        raise Unsupported(
            f"cannot use SQLite {dbapi2.sqlite_version}: it can damage a database when it resets "
            f"its log; {'.'.join(map(str, _OLDEST_LIBRARY))} or newer is needed",
            hint="install a current pysqlite3",
        )
    engine = create_engine(
        "sqlite+pysqlite://",
        module=dbapi2,
        creator=lambda: dbapi2.connect(
            str(path), isolation_level=None, check_same_thread=False, cached_statements=512
        ),
        poolclass=NullPool,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        for pragma in (
            f"busy_timeout={busy_milliseconds}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "journal_size_limit=67108864",
            "cache_size=-16384",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != "wal":
            raise Unsupported(
                f"cannot use the database {path}: its file system has no write-ahead log for it "
                f"(the journal mode stays {mode})",
                hint="put the data directory on a local disk",
            )

    return engine


class SqliteSession:
    """A driver's connection with the Core connection on it that units are given.

    SQLite's transaction is ours, in plain SQL through :meth:`execute`; Core believes in one that
    never ends, and a unit that tries to end it is refused.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        first = engine.connect()
        self._pooled = first.connection
        self.driver: Any = self._pooled.dbapi_connection
        self.core = self._guarded(first)

    def execute(self, statement: str) -> None:
        """Run one statement past Core."""
        self.driver.execute(statement).close()

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite is; it can have ended the transaction by itself."""
        return bool(self.driver.in_transaction)

    def tidy(self) -> bool:
        """Give the next unit a clean Core connection; whether the last left a savepoint open.

        A savepoint that is left open is rolled back (if SQLite still has it).
        """
        left_open = self.core.in_nested_transaction()
        transaction = self.core.get_transaction()
        if left_open or (transaction is not None and not transaction.is_active):
            with suppress(Exception):
                while (nested := self.core.get_nested_transaction()) is not None:
                    nested.rollback()
            self.core = self._guarded(Connection(self._engine, self._pooled))
        return left_open

    def close(self) -> None:
        """Close the file; what is open in it is rolled back."""
        with suppress(Exception):
            self.driver.close()
        with suppress(Exception):
            self.core.invalidate()

    def _guarded(self, core: Connection) -> Connection:
        for ending in ("commit", "rollback"):
            event.listen(core, ending, _refuse_to_end)
        return core


def _refuse_to_end(_connection: Connection) -> None:
    raise Internal("cannot end the transaction: a unit of work does not commit or roll back")


class ReadGate:
    """Lets reads through, and can hold new ones back for a moment until none is inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._held = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """One read."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if self._held:
                    self._changed.notify_all()

    @contextmanager
    def empty(self, seconds: float) -> Iterator[bool]:
        """Hold new reads back within the block; whether none is inside after ``seconds``."""
        with self._changed:
            self._held = True
            empty = self._changed.wait_for(lambda: self._inside == 0, seconds)
        try:
            yield empty
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()


class RunningRead:
    """A read in progress, so that one that takes too long can be stopped from outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._driver: Any = None
        self._late = False

    def start(self, driver: Any) -> bool:
        """The read begins on ``driver``; False if it was stopped before it began."""
        with self._lock:
            self._driver = driver
            return not self._late

    def end(self) -> None:
        """The read is over: a late interruption must not hit the next one."""
        with self._lock:
            self._driver = None

    def interrupt(self) -> None:
        """Stop the read: now, or when it would begin."""
        with self._lock:
            self._late = True
            if self._driver is not None:
                self._driver.interrupt()
