"""How many requests to a host are under way at once, over all drones: places that the coordinator
deals.

An attempt asks for places when it needs them, uses each for request after request until its turn is
over, and gives back what it has not used for a moment. So a run that reads what it has fetched, or
waits for another host, holds up nobody; and none waits for what the other holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from holdfast.collect.errors import HostBusy
from holdfast.fleet.model import PlacesHeld, PlacesWanted
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.telemetry import get_logger

IDLE_SECONDS = 0.5
MORE_SECONDS = 2.0
WAIT_SECONDS_MAX = 600.0
RETRY_SECONDS = 60.0
HOSTS_MAX = 1000

Ask = Callable[[PlacesWanted], Awaitable[PlacesHeld]]

log = get_logger("collect")


class Places:
    """The places of one attempt, by host. Used on one event loop; :meth:`close` at the end."""

    def __init__(self, ask: Ask, fence: int, clock: Clock) -> None:
        self._ask = ask
        self._fence = fence
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def at(self, host_port: str) -> AsyncIterator[None]:
        """Wait for a place at this host, and hold it.

        Raises :class:`HostBusy` after ten minutes without one, and what asking raises: a
        :class:`Conflict` once the lease is gone.
        """
        host = self._hosts.get(host_port)
        if host is None:
            # What a source leads to is not bounded by us: hosts that nobody uses are forgotten.
            if len(self._hosts) >= HOSTS_MAX:
                self._hosts = {name: h for name, h in self._hosts.items() if h.matters}
            host = self._hosts[host_port] = _Host(host_port, self._ask, self._fence, self._clock)
        await host.enter()
        try:
            yield
        finally:
            host.leave()

    async def close(self) -> None:
        """Give nothing back any more: the end of the task does."""
        returns = [host.returning for host in self._hosts.values() if host.returning]
        for task in returns:
            task.cancel()
        await asyncio.gather(*returns, return_exceptions=True)


class _Host:
    """One host. ``busy`` places of those ``held`` are in use, ``waiting`` more are wanted.

    One question is under way at a time; meanwhile nobody begins to use a place, or the answer could
    take away what is in use.
    """

    def __init__(self, name: str, ask: Ask, fence: int, clock: Clock) -> None:
        self._name = name
        self._ask = ask
        self._fence = fence
        self._clock = clock
        self._held = 0
        self._busy = 0
        self._waiting = 0
        self._turn_ends = 0.0
        self._wanted = 0
        self._again_at = 0.0
        self._used_at = 0.0
        self._asking = asyncio.Lock()
        self._left = asyncio.Event()
        self.returning: asyncio.Task[None] | None = None

    @property
    def matters(self) -> bool:
        return bool(self._held or self._busy or self._waiting or self.returning)

    async def enter(self) -> None:
        if not self._asking.locked() and self._took():
            return
        self._waiting += 1
        give_up = self._clock.monotonic() + WAIT_SECONDS_MAX
        try:
            while not await self._asked():
                now = self._clock.monotonic()
                if self._busy:  # we are let in, and wait for ourselves
                    give_up = now + WAIT_SECONDS_MAX
                if now >= give_up:
                    raise HostBusy(
                        f"cannot ask {self._name} yet: as many requests as it may have at once "
                        f"were under way for {WAIT_SECONDS_MAX:g} s",
                        hint="HOLDFAST_FLEET_REQUESTS_PER_HOST sets how many",
                        retry_after_seconds=RETRY_SECONDS,
                    )
                self._left.clear()
                pause = max(0.05, self._again_at - self._clock.monotonic())
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._left.wait()
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        self._busy -= 1
        self._used_at = self._clock.monotonic()
        self._left.set()
        if self.returning is None:
            self.returning = asyncio.create_task(self._return_unused())

    def _took(self) -> bool:
        if self._busy >= self._held or self._clock.monotonic() >= self._turn_ends:
            return False
        self._busy += 1
        return True

    async def _asked(self) -> bool:
        """Whether there is a place for us, after asking if need be."""
        async with self._asking:
            if self._took():
                return True
            wanted = self._busy + self._waiting
            over = self._busy < self._held  # and yet not taken: the turn is
            if not over and wanted <= self._wanted and self._clock.monotonic() < self._again_at:
                return False  # one of us has asked for us all
            await self._want(wanted)
            return self._took()

    async def _want(self, places: int) -> None:
        over = self._held > 0 and self._clock.monotonic() >= self._turn_ends
        answer = await self._ask(
            PlacesWanted(
                fence=self._fence, source=self._name, places=places, busy=self._busy, turn=over
            )
        )
        now = self._clock.monotonic()
        self._held, self._wanted = answer.places, places
        self._turn_ends = now + answer.turn_seconds
        # With some in use, the next to be free is most likely one of ours.
        self._again_at = now + max(MORE_SECONDS if self._held else 0.05, answer.again_seconds)

    async def _return_unused(self) -> None:
        """Give back what nobody has used for a moment."""
        try:
            while True:
                idle = self._clock.monotonic() - self._used_at
                if idle < IDLE_SECONDS or self._waiting:
                    await self._clock.sleep(max(0.05, IDLE_SECONDS - idle))
                    continue
                async with self._asking:
                    if self._busy < self._held and not self._waiting:
                        await self._want(self._busy)
                    self._used_at = self._clock.monotonic()
                if not self._busy:
                    return
        except HoldfastError as error:
            # The end of the task gives them back.
            log.info("places.not_returned", host=self._name, code=error.code)
        finally:
            self.returning = None
