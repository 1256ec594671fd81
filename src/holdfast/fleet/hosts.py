"""The part of the coordinator that spares sources: quotas of a day, places and paces at hosts."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection

from holdfast.fleet import paces, places, rules, store
from holdfast.fleet.base import Base, asking_worker
from holdfast.fleet.model import (
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    RequestsGranted,
    RequestsWanted,
)
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Conflict, Invalid
from holdfast.kernel.principal import Principal
from holdfast.leases.ports import window_of
from holdfast.leases.store import take

DAY_SECONDS = 86_400


class Hosts(Base):
    """How often, and how many at once, a source is asked by the whole fleet."""

    async def admit(
        self, principal: Principal, task: str, wanted: RequestsWanted
    ) -> RequestsGranted:
        """Leave for requests to a source whose publisher wants no more than so many a day (UTC).

        Counted in SQL, whatever keeps the leases: all coordinators on one database share the count,
        and a restart does not forget it. Requests of every profile that states a quota for the same
        host and port count together, each against its own. What was granted counts, used or not.
        :class:`Conflict` for whoever does not hold the task under that fence.
        """
        worker, now = asking_worker(principal), self.clock.now()
        start = window_of(now, DAY_SECONDS)

        def unit(conn: Connection) -> tuple[bool, int]:
            check_held(conn, principal.tenant, task, wanted.fence, worker)
            counter = f"requests {wanted.source.lower()}"
            return take(
                conn, principal.tenant, counter, wanted.requests, wanted.limit, start, DAY_SECONDS
            )

        granted, used = await self.database.write(principal, unit)
        return RequestsGranted(
            granted=granted,
            left=max(0, wanted.limit - used),
            resets_at=timestamp(datetime.fromtimestamp(start + DAY_SECONDS, UTC)),
        )

    async def places(self, principal: Principal, task: str, wanted: PlacesWanted) -> PlacesHeld:
        """Places at a host for the holder of a task: requests it may have under way there at once.

        All coordinators on one database deal from the same, whatever keeps the leases. A place ends
        with the lease of its task. :class:`Conflict` for whoever does not hold the task under that
        fence; :class:`Invalid` for more in use than wanted.
        """
        worker, now = asking_worker(principal), self.clock.now()
        if wanted.busy > wanted.places:
            raise Invalid("cannot hold fewer places than are in use")
        limits = (self.settings.requests_per_host, self.settings.requests_per_host_of)

        def unit(conn: Connection) -> PlacesHeld:
            check_held(conn, principal.tenant, task, wanted.fence, worker)
            return places.hold(conn, principal.tenant, task, wanted, limits, now)

        return await self.hot(principal.tenant, unit)

    async def pace(self, principal: Principal, task: str, wanted: PaceWanted) -> PaceGiven:
        """The moment at which the holder of a task may begin its next request to a host.

        What one coordinator gave, no other on the same database gives again, and a restart does not
        forget it. Requests of every profile that states a rate for the same host and port follow
        each other, each at the distance that its own profile says. What was given counts, used or
        not. :class:`Conflict` for whoever does not hold the task under that fence.
        """
        worker, now = asking_worker(principal), self.clock.now()

        def unit(conn: Connection) -> PaceGiven:
            check_held(conn, principal.tenant, task, wanted.fence, worker)
            return paces.give(conn, principal.tenant, wanted, now)

        return await self.hot(principal.tenant, unit)


def check_held(conn: Connection, tenant: str, task: str, fence: int, worker: str) -> None:
    """``Conflict`` for a worker that does not hold the task under that fence."""
    row = store.find_tasks(conn, tenant, [task]).get(task)
    held = row is not None and row.state == rules.State.LEASED.value
    if row is None or not held or (row.fence, row.worker) != (fence, worker):
        raise Conflict(
            f"cannot ask for the task {task}: it is not held under fence {fence}",
            code="stale-fence",
        )
