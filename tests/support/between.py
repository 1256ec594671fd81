"""A database on which something else is done between two units of a caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.kernel.database import Database
from holdfast.kernel.database.handle import Isolation, T, Unit
from holdfast.kernel.principal import Principal

Interlude = Callable[[], Awaitable[Any]]


class Between(Database):
    """Does what ``before`` says before each write that comes, in order, each once.

    What happens there is over before the unit begins, and after whatever its caller had read.
    """

    def __init__(self, inner: Database) -> None:
        super().__init__()
        self._inner = inner
        self.dialect = inner.dialect
        self.before: list[Interlude | None] = []

    async def write(
        self,
        principal: Principal,
        unit: Unit[T],
        *,
        size_bytes: int = 0,
        isolation: Isolation = "serializable",
    ) -> T:
        interlude = self.before.pop(0) if self.before else None
        if interlude is not None:
            await interlude()
        return await self._inner.write(principal, unit, size_bytes=size_bytes, isolation=isolation)

    async def read(self, principal: Principal, unit: Unit[T]) -> T:
        return await self._inner.read(principal, unit)

    async def administer(self, unit: Unit[T]) -> T:
        return await self._inner.administer(unit)

    async def check(self) -> None:
        await self._inner.check()
