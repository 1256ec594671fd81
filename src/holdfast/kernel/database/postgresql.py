"""PostgreSQL: pooled transactions by asyncpg, serializable, repeated when the server asks for it.

The transaction is begun and ended here in plain SQL, so that it is known exactly whether the
connection was lost before the commit was sent (nothing was done) or after (outcome unknown).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import asyncpg
import structlog
from sqlalchemy import NullPool
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast.kernel.clock import Clock
from holdfast.kernel.database.errors import (
    is_connection_loss,
    is_contention,
    is_refusal,
    is_unique_violation,
    translated,
    unavailable,
)
from holdfast.kernel.database.handle import Database, Isolation, Unit, checked_tenant
from holdfast.kernel.database.row_security import APPLICATION_ROLE
from holdfast.kernel.errors import Exhausted, Internal, OutcomeUnknown
from holdfast.kernel.principal import Principal

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """The bounds of the connections to PostgreSQL."""

    connections_max: int = 10
    connection_wait_seconds: float = 5.0
    connect_seconds: float = 10.0
    close_seconds: float = 5.0
    statement_seconds: float = 30.0
    lock_seconds: float = 10.0
    idle_in_transaction_seconds: float = 60.0
    attempts_max: int = 12
    retry_seconds_first: float = 0.005
    retry_seconds_max: float = 0.25


class PostgresDatabase(Database):
    """The engine for what outgrows one machine. Made by ``open_database``."""

    dialect: Literal["postgresql"] = "postgresql"

    def __init__(
        self,
        dsn: str,
        *,
        clock: Clock,
        random: Callable[[], float],
        password: str | None = None,
        limits: PostgresLimits | None = None,
    ) -> None:
        super().__init__(clock)
        self._dsn = dsn
        self._password = password
        self._clock = clock
        self._random = random
        self._limits = limits or PostgresLimits()
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: self._connect(APPLICATION_ROLE),
            isolation_level="AUTOCOMMIT",
            pool_size=self._limits.connections_max,
            max_overflow=0,
            pool_timeout=self._limits.connection_wait_seconds,
        )

    async def close(self) -> None:
        """Close every pooled connection; a server that does not answer is not waited for long."""
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                await self.engine.dispose()
        except TimeoutError:
            log.warning("database.close_unanswered")

    async def _connect(self, role: str | None) -> Any:
        limits = self._limits
        settings = {
            "application_name": "holdfast",
            # An answer means that it is on the disk, whatever the server's default says.
            "synchronous_commit": "on",
            "statement_timeout": f"{limits.statement_seconds * 1000:.0f}",
            "lock_timeout": f"{limits.lock_seconds * 1000:.0f}",
            "idle_in_transaction_session_timeout": (
                f"{limits.idle_in_transaction_seconds * 1000:.0f}"
            ),
        }
        if role is not None:
            settings["role"] = role
        # The DSN is the operator's own text; a password that came separately wins over one in it.
        return await asyncpg.connect(
            self._dsn,
            password=self._password,
            timeout=limits.connect_seconds,
            server_settings=settings,
        )

    # --- callers ------------------------------------------------------------------------------

    async def write(
        self,
        principal: Principal,
        unit: Unit[T],
        *,
        size_bytes: int = 0,
        isolation: Isolation = "serializable",
    ) -> T:
        tenant = checked_tenant(principal)
        await self._see(tenant)
        begin = _begin(f"ISOLATION LEVEL {isolation.upper()}", tenant)
        return await self._repeatedly(self.engine, begin, unit)

    async def read(self, principal: Principal, unit: Unit[T]) -> T:
        begin = _begin("ISOLATION LEVEL REPEATABLE READ READ ONLY", checked_tenant(principal))
        return await self._repeatedly(self.engine, begin, unit)

    async def administer(self, unit: Unit[T]) -> T:
        owner = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: self._connect(None),
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
        )
        try:
            return await self._repeatedly(owner, "BEGIN", unit)
        finally:
            await owner.dispose()

    async def check(self) -> None:
        try:
            async with self.engine.connect() as connection:
                await (await _driver(connection)).execute("SELECT 1")
        except Exception as error:
            raise _refused(error) from error

    # --- one transaction ----------------------------------------------------------------------

    async def _repeatedly(self, engine: AsyncEngine, begin: str, unit: Unit[T]) -> T:
        """Run the transaction until the server accepts it, a bounded number of times."""
        limits = self._limits
        delay = limits.retry_seconds_first
        doubled = False
        for attempt in range(1, limits.attempts_max + 1):
            try:
                return await self._once(engine, begin, unit)
            except _NotBegunError as error:
                # A pooled connection had died; the next attempt gets another.
                if attempt > 2:
                    raise _refused(error.__cause__ or error) from error.__cause__
                continue
            except Exception as error:
                # A unique key that was free when the unit looked: run again, it sees the row.
                again = is_contention(error) or (is_unique_violation(error) and not doubled)
                doubled = doubled or is_unique_violation(error)
                if not again or attempt == limits.attempts_max:
                    other = _refused(error)
                    if other is error:
                        raise
                    raise other from error
            await self._clock.sleep(delay * (0.5 + self._random()))
            delay = min(delay * 2, limits.retry_seconds_max)
        raise unavailable("too many writers contend for the same rows")

    async def _once(self, engine: AsyncEngine, begin: str, unit: Unit[T]) -> T:
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(engine.connect())
            driver = await _driver(connection)
            try:
                await driver.execute(begin)
            except Exception as error:
                await _discard(connection, driver)
                if is_connection_loss(error):
                    raise _NotBegunError from error
                raise
            except BaseException:
                await _discard(connection, driver)
                raise
            try:
                result = await connection.run_sync(unit)
                if connection.in_nested_transaction():
                    raise Internal("cannot write: the unit of work left a savepoint open")
            except Exception:
                await self._roll_back(connection, driver)
                raise
            except BaseException:
                await _discard(connection, driver)
                raise
            await self._commit(connection, driver)
            return result

    async def _commit(self, connection: AsyncConnection, driver: Any) -> None:
        try:
            answer = await driver.execute("COMMIT")
        except Exception as error:
            if is_refusal(error):
                raise
            await _discard(connection, driver)
            raise OutcomeUnknown(
                "cannot tell whether the change was stored: the commit was not answered",
                code="commit-failed",
                hint="repeat it with the same id",
                retry_after_seconds=1.0,
                internal=f"{type(error).__name__}: {error}",
            ) from error
        except BaseException:
            await _discard(connection, driver)
            raise
        if answer != "COMMIT":
            raise Internal(
                "cannot write: the unit of work went on after a statement had failed",
                internal=f"COMMIT was answered {answer}",
            )

    async def _roll_back(self, connection: AsyncConnection, driver: Any) -> None:
        try:
            while (nested := connection.sync_connection.get_nested_transaction()) is not None:  # type: ignore[union-attr]
                await connection.run_sync(lambda _conn, nested=nested: nested.rollback())  # type: ignore[misc]
            await driver.execute("ROLLBACK")
        except Exception:
            await _discard(connection, driver)


class _NotBegunError(Exception):
    """The connection was dead before anything ran."""


def _begin(mode: str, tenant: str) -> str:
    # One round trip. The tenant is a checked name: letters, digits, dot, underscore, dash.
    return f"BEGIN {mode}; SELECT set_config('holdfast.tenant', '{tenant}', true)"


async def _driver(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def _discard(connection: AsyncConnection, driver: Any) -> None:
    """Drop a connection whose state is not known; never waits for the server."""
    driver.terminate()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await connection.invalidate()


def _refused(error: BaseException) -> BaseException:
    if isinstance(error, PoolTimeoutError):
        return Exhausted(
            "cannot use the database: every connection is in use",
            code="database-busy",
            retry_after_seconds=1.0,
        )
    if is_connection_loss(error):
        return unavailable("it does not answer", error)
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
        other = translated(error)
        return unavailable("it refuses the connection", error) if other is error else other
    return translated(error)
