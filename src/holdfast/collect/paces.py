"""When a request to a host may begin, over all drones: moments that the coordinator gives.

A moment is waited for without a place, for others may have theirs; then a place is waited for. If
the moment passes meanwhile, another is asked for: else all whose moments passed would begin
together, as soon as there are places.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from holdfast.collect.errors import HostBusy
from holdfast.collect.places import HOSTS_MAX, RETRY_SECONDS, WAIT_SECONDS_MAX
from holdfast.fleet.model import PaceGiven, PaceWanted
from holdfast.kernel.clock import Clock
from holdfast.kernel.outbound import Place

LATE_SECONDS = 1.0
"""A moment is good for so long, or for as long as the next is away, whichever is more."""

Ask = Callable[[PaceWanted], Awaitable[PaceGiven]]


class Paces:
    """The moments of one attempt."""

    def __init__(self, ask: Ask, fence: int, clock: Clock) -> None:
        self._ask = ask
        self._fence = fence
        self._clock = clock
        self._begun: dict[str, float] = {}
        """When the last request to each host began."""

    def placed(self, place: Place, per_minute: int) -> Place:
        """``place``, held from a moment on of which there are so many a minute.

        Raises :class:`HostBusy` after ten minutes in which no request of this attempt to this host
        had both, and what asking raises: a :class:`Conflict` once the lease is gone.
        """
        good_seconds = max(LATE_SECONDS, 60.0 / per_minute)

        @asynccontextmanager
        async def paced(host_port: str) -> AsyncIterator[None]:
            began = self._clock.monotonic()
            while True:
                if await self._moment_came(host_port, per_minute):
                    moment = self._clock.monotonic()
                    async with place(host_port):
                        now = self._clock.monotonic()
                        if now - moment <= good_seconds:
                            self._let_in(host_port, now)
                            yield
                            return
                # Where another of ours was let in meanwhile, we wait for ourselves.
                since = max(began, self._begun.get(host_port, began))
                if self._clock.monotonic() - since >= WAIT_SECONDS_MAX:
                    raise HostBusy(
                        f"cannot ask {host_port} yet: with {per_minute} requests a minute over the "
                        f"whole fleet there was no turn for {WAIT_SECONDS_MAX:g} s",
                        hint="`limits.requests_per_minute` sets how many",
                        retry_after_seconds=RETRY_SECONDS,
                    )

        return paced

    def _let_in(self, host_port: str, now: float) -> None:
        # What a source leads to is not bounded by us: who began long ago makes nobody wait longer.
        if len(self._begun) >= HOSTS_MAX:
            old = now - WAIT_SECONDS_MAX
            self._begun = {host: at for host, at in self._begun.items() if at > old}
        self._begun[host_port] = now

    async def _moment_came(self, host_port: str, per_minute: int) -> bool:
        """Wait as long as the coordinator says; whether that was for a moment."""
        answer = await self._ask(
            PaceWanted(fence=self._fence, source=host_port, per_minute=per_minute)
        )
        await self._clock.sleep(answer.wait_seconds)
        return answer.given
