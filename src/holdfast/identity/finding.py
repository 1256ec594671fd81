"""Whose a credential is: the id in it is known, its tenant is not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from holdfast.kernel.database import Database
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import service

Key = TypeVar("Key", bound=Hashable)
KNOWN_MAX = 100_000


class TenantFinder(Generic[Key]):
    """Finds the tenant of a row by its key alone; where it was found before is looked at first."""

    def __init__(self, database: Database, find: Callable[[Connection, str, Key], Any]) -> None:
        self._db = database
        self._find = find
        self._known: OrderedDict[Key, TenantId] = OrderedDict()

    async def find(self, key: Key) -> tuple[Any, TenantId]:
        """The row and its tenant; ``None`` and no tenant if nobody has it."""
        known = self._known.get(key)
        if known is not None:
            row = await self._read(known, key)
            if row is not None:
                return row, known
            # It was taken out there, and may be another tenant's now.
            self._known.pop(key, None)
        for tenant in await self._db.tenants():
            row = await self._read(tenant, key)
            if row is not None:
                self.note(key, tenant)
                return row, tenant
        return None, TenantId("")

    def note(self, key: Key, tenant: TenantId) -> None:
        """Remember where it is."""
        self._known[key] = tenant
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _read(self, tenant: TenantId, key: Key) -> Any:
        return await self._db.read(
            service("identity", tenant), lambda conn: self._find(conn, tenant, key)
        )
