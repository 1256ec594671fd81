"""The promise of a database handle, whichever engine is behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeVar

from sqlalchemy import Connection, select, text

from holdfast.kernel.clock import Clock, SystemClock, timestamp
from holdfast.kernel.database.tables import SEED_TENANTS, tenants
from holdfast.kernel.errors import Invalid
from holdfast.kernel.ids import TenantId, is_name
from holdfast.kernel.principal import Principal, service

T = TypeVar("T")
Dialect = Literal["sqlite", "postgresql"]
Isolation = Literal["serializable", "read committed"]
_ADD_TENANT = text("INSERT INTO tenants (id, created_at) VALUES (:id, :at) ON CONFLICT DO NOTHING")
Unit = Callable[[Connection], T]
"""A unit of work: a plain function of a Core connection.

It neither awaits, nor reads the clock, nor makes ids or randomness: those are arguments, because
**it may run more than once** (a serialization failure, a group that had to be repeated) and only
the last run counts. It does not commit or roll back; ``with conn.begin_nested()`` is allowed.
"""


class Database(ABC):
    """Transactions on one database.

    *Durable*: when :meth:`write` returns, its changes survive the death of the process and of the
    machine. *Atomic*: when it raises, none of them is there — except for
    :class:`~holdfast.kernel.errors.OutcomeUnknown`, which says that the answer of the commit was
    lost; repeat the call with the same ids. *Serializable*: units behave as if run one by one
    (unless a named hot path asks for less). *Isolated by tenant*: on PostgreSQL the engine itself
    refuses rows of other tenants.

    Errors of a unit come out as they are if they are Holdfast's own. Of the database:
    ``Unavailable`` (nothing was done: disk full, read-only, no connection, too much contention),
    ``Exhausted`` (too many waiting, see ``retry_after_seconds``), ``Conflict`` (a unique key is
    taken), ``OutcomeUnknown``, ``Corrupt``; anything else is a defect: ``Internal``.

    Cancelling the caller never runs half a unit: it runs whole or not at all, and the caller does
    not learn which.

    Whoever has a row has a place among :meth:`tenants`: the first write for a tenant sees to it. A
    tenant may come by nothing but its name in a token that is trusted, and what no loop visits
    would lie there for ever: events that never reach the ledger, keys that nobody finds.
    """

    dialect: Dialect

    def __init__(self, clock: Clock | None = None) -> None:
        self._tenants_seen: set[TenantId] = set(SEED_TENANTS)
        self._since = clock or SystemClock()

    @abstractmethod
    async def write(
        self,
        principal: Principal,
        unit: Unit[T],
        *,
        size_bytes: int = 0,
        isolation: Isolation = "serializable",
    ) -> T:
        """Run ``unit`` in a transaction of ``principal``'s tenant; return once it is durable.

        ``size_bytes`` is roughly what the unit writes, so that queues stay bounded by bytes.
        ``isolation`` below serializable is for hot paths that a decision record names.
        """

    @abstractmethod
    async def read(self, principal: Principal, unit: Unit[T]) -> T:
        """Run ``unit`` on one snapshot of what is committed; it cannot write."""

    @abstractmethod
    async def administer(self, unit: Unit[T]) -> T:
        """Run ``unit`` in one transaction as the owner of the schema: migrations and tests only."""

    @abstractmethod
    async def check(self) -> None:
        """Return if a write would be taken now; raise ``Unavailable`` with the reason if not."""

    async def tenants(self) -> list[TenantId]:
        """Every tenant there is, in order; for a role's own loops."""

        def unit(conn: Connection) -> list[TenantId]:
            return [TenantId(row.id) for row in conn.execute(select(tenants.c.id).order_by("id"))]

        return await self.read(service("database"), unit)

    async def _see(self, tenant: TenantId) -> None:
        """Have ``tenant`` among :meth:`tenants` before anything is written for it."""
        if tenant in self._tenants_seen:
            return
        if tenant not in await self.tenants():
            values = {"id": tenant, "at": timestamp(self._since.now())}

            def unit(conn: Connection) -> None:
                conn.execute(_ADD_TENANT, values)

            await self.write(service("database"), unit)
        self._tenants_seen.add(tenant)


def checked_tenant(principal: Principal) -> TenantId:
    """The tenant of ``principal``, refused unless it is an id."""
    if not is_name(principal.tenant):
        raise Invalid("cannot open a transaction: the tenant is not an id")
    return principal.tenant
