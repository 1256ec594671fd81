"""A second instance of a role is refused while what they would need to share is not shared.

Three nodes with leases in their own memory elect three leaders, in silence. So each instance of a
role keeps a row that says who it is and whether its leases are shared; one that finds a live other,
where either has leases of its own, does not start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

import structlog

from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.principal import service
from holdfast.leases import store

INSTANCE_SECONDS = 15.0

log = structlog.get_logger(__name__)


class InstanceGuard:
    """Holds this instance's row while it runs. ``async with`` enters and leaves.

    ``instance`` is the same after a restart (host and data directory, say), so that a killed
    instance takes its own row over at once; a row of another that is gone is waited out, at most
    :data:`INSTANCE_SECONDS`, whatever time it was there. Raises :class:`Conflict`
    (``second-instance``) that names the other.

    When another takes this row over (a copy under the same name, or this process slept too long),
    the task that entered is cancelled, and leaving raises :class:`Conflict`
    (``instance-taken-over``): two must not go on.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        role: str,
        instance: str,
        incarnation: str,
        shared: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._principal = service(role)
        self._shared = shared
        self._row = {
            "tenant": self._principal.tenant,
            "role": role,
            "instance": instance,
            "incarnation": incarnation,
        }
        self._loop: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._lost = False

    async def __aenter__(self) -> InstanceGuard:
        seen: dict[str, tuple[str, float]] = {}
        gone: set[tuple[str, str]] = set()
        while (other := await self._try(gone)) is not None:
            now = self._clock.monotonic()
            known, since = seen.setdefault(other.instance, (other.expires_at, now))
            if known != other.expires_at:
                raise _second(self._row["role"], other)
            if now - since >= INSTANCE_SECONDS:
                # Who lives has renewed its row by now. Its end may lie far ahead, where a clock
                # was set back since it was written.
                gone.add((other.instance, other.expires_at))
                continue
            wait = (parse_timestamp(other.expires_at) - self._clock.now()).total_seconds()
            log.info("instance.waiting", role=self._row["role"], other=other.instance)
            # Short steps: a live instance renews its row long before the row ends.
            await self._clock.sleep(min(max(wait, 0.01), INSTANCE_SECONDS / 5))
        self._owner = asyncio.current_task()
        self._loop = asyncio.create_task(self._stay(), name="instance-guard")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        try:
            await self._database.write(self._principal, lambda c: store.leave(c, self._row))
        except HoldfastError as failure:
            log.warning("instance.leave_failed", detail=failure.detail)
        if self._lost:
            raise Conflict(
                f"cannot go on: another {self._row['role']} has started as {self._row['instance']}",
                code="instance-taken-over",
            ) from error

    async def _try(self, gone: Collection[tuple[str, str]]) -> Any | None:
        """Take the row; or the live instance that stands in the way.

        ``gone`` are rows, by instance and end, that were seen to be nobody's any more.
        """
        now = self._clock.now()
        values: dict[str, Any] = {
            **self._row,
            "shared": self._shared,
            "now": timestamp(now),
            "expires_at": self._expiry(now),
        }

        def unit(conn: Any) -> Any | None:
            for other in store.other_instances(
                conn, values["tenant"], values["role"], values["instance"]
            ):
                if (other.instance, other.expires_at) in gone:
                    continue
                if other.expires_at > values["now"] and not (self._shared and other.shared):
                    return other
            store.enter(conn, values)
            return None

        return await self._database.write(self._principal, unit)

    async def _stay(self) -> None:
        while True:
            await self._clock.sleep(INSTANCE_SECONDS / 5)
            values = {**self._row, "expires_at": self._expiry(self._clock.now())}
            try:
                held = await self._database.write(
                    self._principal,
                    lambda conn, values=values: store.stay(conn, values),  # type: ignore[misc]
                )
            except HoldfastError as failure:
                log.warning("instance.stay_failed", detail=failure.detail)
                continue
            if not held:
                log.error("instance.lost", role=self._row["role"], instance=self._row["instance"])
                self._lost = True
                if self._owner is not None:
                    self._owner.cancel()
                return

    def _expiry(self, now: datetime) -> str:
        return timestamp(now + timedelta(seconds=INSTANCE_SECONDS))


def _second(role: str, other: Any) -> Conflict:
    return Conflict(
        f"cannot start: the {role} already runs as {other.instance} since {other.started_at}, "
        "and their leases are not shared",
        code="second-instance",
        hint="give all instances HOLDFAST_FLEET_LEASES_URL=sql://, or stop the other",
    )
