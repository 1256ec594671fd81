"""What nothing needs any more: objects without a name, finished tasks, old answers to repeats.

Each process prunes what it keeps, by the clock and when told to. Bounded in each turn: what is left
over is the next one's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.principal import Permission, Principal, service

if TYPE_CHECKING:
    from holdfast.app.system import State, System
    from holdfast.kernel.objects.orphans import Named, OrphanSweep

log = structlog.get_logger(__name__)

FIRST_SECONDS = 60.0
EVERY_SECONDS = 3600.0
KEYS_BATCH = 1000
KEYS_MAX = 100_000
PRUNING = ("registry", "aggregator", "coordinator", "reporter")
"""The roles that keep something, in the order in which a command asks them."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What one role removed, or with ``dry_run`` would have."""

    role: str
    dry_run: bool
    objects: int = 0
    object_bytes: int = 0
    tasks: int = 0
    idempotency_keys: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.objects or self.tasks or self.idempotency_keys)


class Pruner:
    """Prunes what the roles of this process keep."""

    def __init__(self, system: System, state: State) -> None:
        self._system = system
        self._state = state
        self.roles = [role for role in PRUNING if role in system.roles]
        self._sweeper: OrphanSweep | None = None

    async def prune(self, principal: Principal, role: str, *, dry_run: bool = False) -> Pruned:
        """One role's share. What several roles here share, the first of them prunes."""
        objects = size = tasks = keys = 0
        if role == self.roles[0]:
            keys = await self._keys(principal, dry_run=dry_run)
        if role == self._keeper_of_objects:
            found = await self._sweep().sweep(principal, dry_run=dry_run)
            objects, size = found.objects, found.size_bytes
        if role == "coordinator":
            tasks = await self._tasks(principal, dry_run=dry_run)
        return Pruned(
            role=role,
            dry_run=dry_run,
            objects=objects,
            object_bytes=size,
            tasks=tasks,
            idempotency_keys=keys,
        )

    async def loop(self) -> None:
        """By the clock, for every tenant; what fails is logged and tried again next time."""
        await self._system.clock.sleep(FIRST_SECONDS)
        while True:
            try:
                for tenant in await self._state.database.tenants():
                    for role in self.roles:
                        await self._turn(service(role, tenant), role)
            except HoldfastError as error:
                log.warning("prune.failed", detail=error.detail)
            await self._system.clock.sleep(EVERY_SECONDS)

    async def _turn(self, principal: Principal, role: str) -> None:
        try:
            done = await self.prune(principal, role)
        except HoldfastError as error:
            log.warning("prune.failed", role=role, detail=error.detail)
            return
        if done.anything:
            log.info("prune.done", **msgspec.to_builtins(done))

    @property
    def _keeper_of_objects(self) -> str:
        """Aggregator and reporter in one process have one place for objects: one of them sweeps."""
        return next((role for role in ("aggregator", "reporter") if role in self.roles), "")

    def _sweep(self) -> OrphanSweep:
        from holdfast.kernel.objects.orphans import OrphanSweep
        from holdfast.records.store import named_objects
        from holdfast.reports.store import NamedObjects

        if self._sweeper is None:
            # Both, whatever runs here: a database that was one process's may be another's now.
            named: list[Named] = [named_objects, NamedObjects(self._state.objects)]
            self._sweeper = OrphanSweep(
                self._state.database, self._state.objects, named, self._system.clock
            )
        return self._sweeper

    async def _tasks(self, principal: Principal, *, dry_run: bool) -> int:
        days = self._system.settings["fleet_tasks_kept_days"]
        if not days:
            return 0
        before = self._system.clock.now() - timedelta(days=days)
        found: int = await self._system.fleet.prune(principal, before, dry_run=dry_run)
        return found

    async def _keys(self, principal: Principal, *, dry_run: bool) -> int:
        from holdfast.kernel.idempotency import count_expired, forget_expired

        database, now = self._state.database, self._system.clock.now()
        if dry_run:
            return await database.read(principal, lambda conn: count_expired(conn, principal, now))
        total = 0
        while total < KEYS_MAX:
            done = await database.write(
                principal, lambda conn: forget_expired(conn, principal, now, KEYS_BATCH)
            )
            total += done
            if done < KEYS_BATCH:
                break
        return total


def handlers(pruner: Pruner) -> list[Any]:
    """``POST /v1/prune/ROLE`` for each role of this process that keeps something."""
    return [_handler(pruner, role) for role in pruner.roles]


def _handler(pruner: Pruner, role: str) -> Any:
    from holdfast.kernel.http import post

    @post(
        f"/v1/prune/{role}",
        permission=Permission.SYSTEM_PRUNE,
        status=200,
        tag="system",
        operation_id=f"system_prune_{role}",
    )
    async def prune(principal: Principal, dry_run: bool = False) -> Pruned:
        """Remove what nothing needs any more; with ``dry_run`` only count it."""
        return await pruner.prune(principal, role, dry_run=dry_run)

    return prune
