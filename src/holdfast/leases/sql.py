"""Leases in SQL, for several instances on one database."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import structlog
from sqlalchemy import Connection

from holdfast.kernel.clock import Clock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, service
from holdfast.leases import store
from holdfast.leases.memory import MemoryLeases, Wakes
from holdfast.leases.ports import Beat, Leases, Taken, Watch, window_of

FLUSH_SECONDS = 1.0
WAKE_SECONDS_MAX = 0.5
SCHEMES = ("memory", "sql")

log = structlog.get_logger(__name__)


class SqlLeases:
    """Shared and durable. Made by :func:`open_leases`, which owns the loop that writes beats.

    Beats are gathered and written by one upsert a second, in a table that no task is in: a fleet's
    heartbeat costs the database one small transaction, however large the fleet.
    """

    shared = True
    durable = True
    wake_seconds_max = WAKE_SECONDS_MAX

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._heard: dict[TenantId, dict[str, Beat]] = defaultdict(dict)
        self._wakes = Wakes(clock, WAKE_SECONDS_MAX)

    async def beat(
        self, principal: Principal, key: str, now: datetime, data: Mapping[str, int] | None = None
    ) -> None:
        heard = self._heard[principal.tenant]
        known = heard.get(key)
        if known is None or known.at <= now:
            heard[key] = Beat(now, dict(data or {}))

    async def beats(self, principal: Principal) -> dict[str, Beat]:
        found = await self._database.read(
            principal, lambda conn: store.read_beats(conn, principal.tenant)
        )
        for key, beat in self._heard[principal.tenant].items():
            if key not in found or found[key].at < beat.at:
                found[key] = beat
        return found

    async def forget(self, principal: Principal, key: str) -> None:
        self._heard[principal.tenant].pop(key, None)
        await self._database.write(
            principal, lambda conn: store.forget_beat(conn, principal.tenant, key)
        )

    async def lead(
        self, principal: Principal, name: str, holder: str, seconds: float, now: datetime
    ) -> bool:
        return await self._database.write(
            principal, lambda conn: store.lead(conn, principal.tenant, name, holder, seconds, now)
        )

    async def resign(self, principal: Principal, name: str, holder: str) -> None:
        await self._database.write(
            principal, lambda conn: store.resign(conn, principal.tenant, name, holder)
        )

    async def take(
        self,
        principal: Principal,
        counter: str,
        amount: int,
        *,
        limit: int,
        window_seconds: int,
        now: datetime,
    ) -> Taken:
        start = window_of(now, window_seconds)
        granted, used = await self._database.write(
            principal,
            lambda conn: store.take(
                conn, principal.tenant, counter, amount, limit, start, window_seconds
            ),
        )
        resets_at = datetime.fromtimestamp(start + window_seconds, UTC)
        return Taken(granted, max(0, limit - used), resets_at)

    async def wake(self, principal: Principal, *channels: str) -> None:
        self._wakes.wake(principal, channels)

    def watch(self, principal: Principal, channels: Sequence[str]) -> Watch:
        return self._wakes.watch(principal, channels)

    async def flush(self) -> None:
        """Write what has been heard. On failure it stays, for the next time."""
        for tenant, heard in list(self._heard.items()):
            if not heard:
                continue
            self._heard[tenant] = {}
            try:
                await self._database.write(
                    service("leases", tenant), partial(_keep, tenant=tenant, heard=heard)
                )
            except BaseException:
                # What was heard meanwhile is later, and wins.
                self._heard[tenant] = heard | self._heard[tenant]
                raise

    async def run(self) -> None:
        """Flush once a second until cancelled."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except HoldfastError as error:
                log.warning("leases.flush_failed", detail=error.detail, internal=error.internal)


def _keep(conn: Connection, *, tenant: TenantId, heard: Mapping[str, Beat]) -> None:
    store.keep_beats(conn, tenant, heard)


@asynccontextmanager
async def open_leases(url: str, database: Database, clock: Clock) -> AsyncIterator[Leases]:
    """The leases that ``url`` names: ``memory://`` or ``sql://`` (on ``database``)."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        yield MemoryLeases(clock)
        return
    if scheme != "sql":
        raise Invalid(
            f"cannot open leases: the scheme {scheme!r} is not known",
            hint=f"known are {', '.join(f'{known}://' for known in SCHEMES)}",
        )
    leases = SqlLeases(database, clock)
    loop = asyncio.create_task(leases.run(), name="leases-flush")
    try:
        yield leases
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        try:
            await leases.flush()
        except HoldfastError as error:
            log.warning("leases.flush_failed", detail=error.detail, internal=error.internal)
