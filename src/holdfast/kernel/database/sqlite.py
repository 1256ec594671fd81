"""SQLite: one writer thread that commits in groups, a few readers on snapshots.

The writer takes the units that are waiting, runs each in its own savepoint, commits them together
with one flush, and answers them all only then, refusals included: an answer never rests on
something that could still be lost.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from pysqlite3 import dbapi2
from sqlalchemy import Connection

from holdfast.kernel.clock import Clock
from holdfast.kernel.database.errors import sqlite_code, translated, unavailable
from holdfast.kernel.database.handle import Database, Isolation, Unit, checked_tenant
from holdfast.kernel.database.sqlite_session import (
    ReadGate,
    RunningRead,
    SqliteSession,
    sqlite_engine,
)
from holdfast.kernel.errors import (
    Exhausted,
    HoldfastError,
    Internal,
    OutcomeUnknown,
    TooLarge,
)
from holdfast.kernel.lock import FileLock
from holdfast.kernel.principal import Principal

T = TypeVar("T")
log = structlog.get_logger(__name__)

_GROUPS_BETWEEN_LOOKS = 64
_FOLD_WAIT_SECONDS = 0.2
_FOLD_PAUSE_SECONDS = 1.0
_CONNECTION_SPOILT = {10, 11, 14, 26}
"""Result codes after which a reader's connection is opened anew: disk errors, a damaged file."""


@dataclass(frozen=True, slots=True)
class SqliteLimits:
    """The bounds of the embedded database."""

    group_seconds_max: float = 0.010
    group_bytes_max: int = 8 * 1024 * 1024
    waiting_max: int = 10_000
    waiting_bytes_max: int = 64 * 1024 * 1024
    readers: int = 4
    reads_waiting_max: int = 1_000
    read_seconds_max: float = 60.0
    busy_milliseconds: int = 5_000
    wal_bytes_max: int = 64 * 1024 * 1024
    reopen_seconds_first: float = 0.1
    reopen_seconds_max: float = 5.0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A unit, and the future of whoever waits for its answer."""

    unit: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    size_bytes: int


_Answer = tuple[_Waiting, bool, Any]
"""Who waits, whether it succeeded, and the result or the error."""


class _TransactionEndedError(Exception):
    """SQLite has ended the transaction under a unit: nothing of the group is there."""


class SqliteDatabase(Database):
    """The embedded engine. Made by :func:`holdfast.kernel.database.open_database`."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(
        self, path: Path, *, clock: Clock | None = None, limits: SqliteLimits | None = None
    ) -> None:
        super().__init__(clock)
        self.path = path
        self._limits = limits or SqliteLimits()
        self._lock = FileLock(path.with_name(path.name + ".lock"), f"the database {path}")
        self.engine = sqlite_engine(path, busy_milliseconds=self._limits.busy_milliseconds)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._counters = threading.Lock()
        self._waiting = 0
        self._waiting_bytes = 0
        self._reads = 0
        self._closed = True
        self._groups = 0
        self._log_path = path.with_name(path.name + "-wal")
        self._broken: str | None = None
        self._writer: SqliteSession | None = None
        self._thread: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._gate = ReadGate()
        self._fold_again_at = 0.0
        self._reader = threading.local()
        self._reader_sessions: list[SqliteSession] = []

    # --- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock, open the file, start the threads. ``Unavailable`` if any cannot be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unavailable(f"its folder cannot be made: {error.strerror}", error) from error
        self._lock.acquire()
        try:
            self._writer = SqliteSession(self.engine)
        except BaseException as error:
            self._lock.release()
            raise translated(error) from error
        self._closed = False
        self._thread = threading.Thread(
            target=self._write_groups, name=f"writer of {self.path.name}", daemon=True
        )
        self._thread.start()
        self._readers = ThreadPoolExecutor(
            self._limits.readers, thread_name_prefix=f"reader of {self.path.name}"
        )

    def close(self) -> None:
        """Refuse what comes, finish what waits, fold the log into the file, give the lock up."""
        with self._counters:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        if self._readers is not None:
            self._readers.shutdown(wait=True)
        for session in self._reader_sessions:
            session.close()
        self._close_writer()
        self.engine.dispose()
        self._lock.release()

    # --- callers ------------------------------------------------------------------------------

    async def write(
        self,
        principal: Principal,
        unit: Unit[T],
        *,
        size_bytes: int = 0,
        isolation: Isolation = "serializable",
    ) -> T:
        await self._see(checked_tenant(principal))
        return await self._submit(unit, size_bytes)

    async def administer(self, unit: Unit[T]) -> T:
        return await self._submit(unit, 0)

    async def read(self, principal: Principal, unit: Unit[T]) -> T:
        checked_tenant(principal)
        if self._closed or self._readers is None:
            raise unavailable("it is closed")
        with self._counters:
            if self._reads >= self._limits.reads_waiting_max:
                raise _exhausted("reads")
            self._reads += 1
        loop = asyncio.get_running_loop()
        running = RunningRead()
        watchdog = loop.call_later(self._limits.read_seconds_max, running.interrupt)
        try:
            return await loop.run_in_executor(
                self._readers, functools.partial(self._read, unit, running)
            )
        except asyncio.CancelledError:
            running.interrupt()
            raise
        finally:
            watchdog.cancel()
            with self._counters:
                self._reads -= 1

    async def check(self) -> None:
        self._refuse_if_down()

    def _refuse_if_down(self) -> None:
        if self._closed:
            raise unavailable("it is closed")
        if self._broken is not None:
            raise unavailable(self._broken)
        if self._thread is None or not self._thread.is_alive():
            raise unavailable("its writer has died")

    async def _submit(self, unit: Unit[T], size_bytes: int) -> T:
        limits = self._limits
        if size_bytes > limits.waiting_bytes_max:
            raise TooLarge(
                f"cannot write: {size_bytes} bytes in one transaction, at most "
                f"{limits.waiting_bytes_max} are taken"
            )
        self._refuse_if_down()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._counters:
            if self._closed:
                raise unavailable("it is closed")  # nobody would look at what comes in now
            if (
                self._waiting >= limits.waiting_max
                or self._waiting_bytes + size_bytes > limits.waiting_bytes_max
            ):
                raise _exhausted("writes")
            self._waiting += 1
            self._waiting_bytes += size_bytes
            self._queue.put(_Waiting(unit, future, loop, size_bytes))
        return await future

    # --- the writer thread --------------------------------------------------------------------

    def _close_writer(self) -> None:
        session, self._writer = self._writer, None
        if session is not None:
            session.close()

    def _write_groups(self) -> None:
        delay = self._limits.reopen_seconds_first
        while True:
            try:
                first = self._queue.get(timeout=None if self._broken is None else delay)
            except queue.Empty:
                delay = self._try_reopen(delay)
                continue
            if first is None:
                self._refuse_rest()
                return
            if self._broken is not None:
                self._answer([(first, False, unavailable(self._broken))])
                continue
            delay = self._limits.reopen_seconds_first
            if self._group(first):
                self._refuse_rest()
                return

    def _group(self, first: _Waiting) -> bool:
        """Run ``first`` and who waits behind it as one transaction. True if told to stop."""
        stop = False
        taken = [first]
        answers: list[_Answer] = []
        size = 0
        deadline = time.monotonic() + self._limits.group_seconds_max
        waiting = first
        try:
            self._session.execute("BEGIN IMMEDIATE")
            while True:
                answers.append(self._run_in_savepoint(waiting))
                size += waiting.size_bytes
                if size >= self._limits.group_bytes_max or time.monotonic() >= deadline:
                    break
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                waiting = following
                taken.append(waiting)
        except _TransactionEndedError:
            for again in taken:
                self._alone(again)
            return stop
        except Exception as error:
            # BEGIN was refused: nothing ran.
            self._break("a transaction could not begin", error)
            self._answer([(each, False, translated(error)) for each in taken])
            return stop
        try:
            self._session.execute("COMMIT")
        except Exception as error:
            self._commit_failed(answers, error)
            return stop
        self._answer(answers)
        self._groups += 1
        if self._groups % _GROUPS_BETWEEN_LOOKS == 0:
            self._bound_log()
        return stop

    def _alone(self, waiting: _Waiting) -> None:
        """Run one unit in a transaction of its own, after the group it was in was lost."""
        if self._broken is not None:
            self._answer([(waiting, False, unavailable(self._broken))])
            return
        try:
            self._session.execute("BEGIN IMMEDIATE")
            answer = self._run_in_savepoint(waiting)
        except _TransactionEndedError as ended:
            self._answer([(waiting, False, ended.__cause__)])
            return
        except Exception as error:
            self._break("a transaction could not begin", error)
            self._answer([(waiting, False, translated(error))])
            return
        try:
            self._session.execute("COMMIT")
        except Exception as error:
            self._commit_failed([answer], error)
            return
        self._answer([answer])

    def _run_in_savepoint(self, waiting: _Waiting) -> _Answer:
        """Run one unit; ``_TransactionEnded`` (from the translated cause) if SQLite gave up."""
        session = self._session
        if waiting.future.cancelled():
            return waiting, False, None
        try:
            session.execute("SAVEPOINT unit")
            try:
                result = waiting.unit(session.core)
                if session.tidy():
                    raise Internal("cannot write: the unit of work left a savepoint open")
            except BaseException as error:
                if not session.in_transaction:
                    session.tidy()
                    raise _TransactionEndedError from translated(error)
                if isinstance(error, StopIteration):
                    # A future cannot carry one.
                    error = Internal("cannot write: the unit of work ran out of an iterator")
                session.tidy()
                session.execute("ROLLBACK TO unit")
                session.execute("RELEASE unit")
                return waiting, False, translated(error)
            if not session.in_transaction:
                raise _TransactionEndedError from Internal(
                    "cannot write: the unit of work ended its transaction"
                )
            session.execute("RELEASE unit")
        except dbapi2.Error as error:
            # One of our own three statements: the savepoint is in doubt, so is the group.
            self._roll_back()
            raise _TransactionEndedError from translated(error)
        return waiting, True, result

    def _commit_failed(self, answers: list[_Answer], error: Exception) -> None:
        """Answer a whole group, refusals included: those too rested on what may be lost.

        Why unknown: the commit's last frame may be in the log although its flush failed; this
        process ignores it, but one that opens the file after a crash would find it there.
        """
        self._break("a commit failed", error)
        self._answer([(waiting, False, _unknown(error)) for waiting, _, _ in answers])

    def _break(self, what: str, error: Exception) -> None:
        """Refuse writes until the database has been reopened and checked."""
        reason = translated(error)
        detail = reason.detail if isinstance(reason, HoldfastError) else str(reason)
        self._broken = f"{what} ({detail}); it is being reopened"
        log.error("database.broken", path=str(self.path), reason=what, error=str(error))
        self._roll_back()

    def _try_reopen(self, delay: float) -> float:
        """Reopen, check and probe with a real write; the next delay if that did not help."""
        try:
            self._close_writer()
            self._writer = SqliteSession(self.engine)
            cursor = self._writer.driver.cursor()
            found = cursor.execute("PRAGMA quick_check(1)").fetchone()
            if found[0] != "ok":
                raise unavailable(f"its file is damaged: {found[0]}")
            version = cursor.execute("PRAGMA user_version").fetchone()[0]
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute(f"PRAGMA user_version={int(version)}")
            self._writer.execute("COMMIT")
        except Exception as error:
            log.warning("database.reopen_failed", path=str(self.path), error=str(error))
            self._roll_back()
            return min(delay * 2, self._limits.reopen_seconds_max)
        log.info("database.reopened", path=str(self.path))
        self._broken = None
        return self._limits.reopen_seconds_first

    def _refuse_rest(self) -> None:
        with suppress(queue.Empty):
            while True:
                waiting = self._queue.get_nowait()
                if waiting is not None:
                    self._answer([(waiting, False, unavailable("it is closed"))])

    def _bound_log(self) -> None:
        """Fold the write-ahead log into the file and cut it, once it has outgrown its bound.

        SQLite can do this only when no reader is looking; under steady reads the log would grow
        without end. So new reads wait a moment while those that run finish; if one runs longer
        than that, the next look tries again (reads are of bounded age, so it gets there).
        """
        size = 0
        with suppress(OSError):
            size = self._log_path.stat().st_size
        if size < self._limits.wal_bytes_max or time.monotonic() < self._fold_again_at:
            return
        try:
            with self._gate.empty(_FOLD_WAIT_SECONDS) as nobody_reads:
                # PASSIVE waits for nobody; it folds what no reader still needs and cuts nothing.
                how = "TRUNCATE" if nobody_reads else "PASSIVE"
                answer = self._session.driver.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except Exception as error:
            # Nothing is lost: the commits are in the log.
            log.warning("database.log_not_folded", path=str(self.path), error=str(error))
        else:
            if nobody_reads and answer[0] == 0:
                return
            log.info("database.log_kept", path=str(self.path), bytes=size)
        self._fold_again_at = time.monotonic() + _FOLD_PAUSE_SECONDS

    def _answer(self, answers: list[_Answer]) -> None:
        with self._counters:
            self._waiting -= len(answers)
            self._waiting_bytes -= sum(waiting.size_bytes for waiting, _, _ in answers)
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for answer in answers:
            by_loop.setdefault(answer[0].loop, []).append(answer)
        for loop, own in by_loop.items():
            # A loop that has been closed has nobody left to hear.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, own)

    @property
    def _session(self) -> SqliteSession:
        assert self._writer is not None, "writes are refused while there is none"
        return self._writer

    def _roll_back(self) -> None:
        with suppress(Exception):
            if self._session.in_transaction:
                self._session.execute("ROLLBACK")

    # --- the reader threads -------------------------------------------------------------------

    def _read(self, unit: Unit[T], running: RunningRead) -> T:
        try:
            with self._gate.inside(), self._snapshot() as session:
                if not running.start(session.driver):
                    raise unavailable("the read waited too long")
                try:
                    return unit(session.core)
                except BaseException as error:
                    # A cursor that a frame of the unit still holds would keep its snapshot alive
                    # past the rollback, and the thread's next read would see the past.
                    traceback.clear_frames(error.__traceback__)
                    raise
                finally:
                    running.end()
        except StopIteration as error:
            # A future cannot carry one.
            raise Internal("cannot read: the unit of work ran out of an iterator") from error
        except BaseException as error:
            if (code := sqlite_code(error)) is not None and code & 0xFF in _CONNECTION_SPOILT:
                self._drop_reader()
            other = translated(error)
            if other is error:
                raise
            raise other from error

    def _drop_reader(self) -> None:
        """The thread's next read opens the file anew."""
        session: SqliteSession | None = getattr(self._reader, "session", None)
        self._reader.session = None
        if session is not None:
            session.close()
            self._reader_sessions.remove(session)

    @contextmanager
    def _snapshot(self) -> Iterator[SqliteSession]:
        session: SqliteSession | None = getattr(self._reader, "session", None)
        if session is None:
            session = SqliteSession(self.engine)
            session.execute("PRAGMA query_only=ON")
            # Reads come in sweeps or single rows: the file system's cache serves them as well, and
            # four full caches would be memory that grows with the database.
            session.execute("PRAGMA cache_size=-2048")
            self._reader.session = session
            self._reader_sessions.append(session)
        session.execute("BEGIN")
        try:
            yield session
        finally:
            session.tidy()
            with suppress(dbapi2.Error):
                if session.in_transaction:
                    session.execute("ROLLBACK")


def _settle(answers: list[_Answer]) -> None:
    for waiting, succeeded, value in answers:
        if waiting.future.done():
            continue
        if succeeded:
            waiting.future.set_result(value)
        else:
            waiting.future.set_exception(value)


def _unknown(error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(
        "cannot tell whether the change was stored: the commit failed",
        code="commit-failed",
        hint="repeat it with the same id",
        retry_after_seconds=1.0,
        internal=f"{type(error).__name__}: {error}",
    )


def _exhausted(what: str) -> Exhausted:
    return Exhausted(
        f"cannot use the database: too many {what} are waiting",
        code="database-busy",
        retry_after_seconds=1.0,
    )
