"""How often, and how many at once, a host is asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.kernel.clock import Clock
from holdfast.kernel.outbound.model import Place

_HOSTS_MAX = 10_000


class HostLimiter:
    """Per host: at most ``concurrency`` requests under way, starts spread evenly over the minute.

    Requests are evenly spaced rather than granted in bursts, which is what publishers mean by "ten
    a minute". The state is this process's; the fleet's daily quota is the coordinator's, and so is
    how many requests a host has at once, where a request brings its place.
    """

    def __init__(
        self, clock: Clock, *, concurrency: int = 4, requests_per_minute: int | None = None
    ) -> None:
        self._clock = clock
        self._concurrency = concurrency
        self._requests_per_minute = requests_per_minute
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def slot(
        self, host: str, *, concurrency: int | None = None, requests_per_minute: int | None = None
    ) -> AsyncIterator[None]:
        """Wait for this host's turn and hold it; the stricter of the two limits counts."""
        state = self._host(host)
        await state.enter(min(self._concurrency, concurrency or self._concurrency))
        try:
            await state.wait_turn(self._clock, self._spacing_seconds(requests_per_minute))
            yield
        finally:
            state.leave()

    @asynccontextmanager
    async def placed(
        self, host: str, place: Place, *, requests_per_minute: int | None = None
    ) -> AsyncIterator[None]:
        """Hold ``place`` at this host, begun when it is this host's turn.

        How many are under way at once is then the place's business. Nobody holds one while waiting
        for a turn: others may have theirs.
        """
        state = self._host(host)
        spacing = self._spacing_seconds(requests_per_minute)
        while True:
            wait = state.next_start - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(wait)
            async with place(host):
                now = self._clock.monotonic()
                if state.next_start <= now:  # else another began while we waited for the place
                    state.next_start = now + spacing
                    yield
                    return

    def _spacing_seconds(self, requests_per_minute: int | None) -> float:
        rates = [r for r in (self._requests_per_minute, requests_per_minute) if r]
        return 60.0 / min(rates) if rates else 0.0

    def pause(self, host: str, seconds: float) -> None:
        """Start nothing at ``host`` for ``seconds``: it said so itself."""
        state = self._host(host)
        state.next_start = max(state.next_start, self._clock.monotonic() + seconds)

    def _host(self, host: str) -> _Host:
        state = self._hosts.get(host)
        if state is None:
            if len(self._hosts) >= _HOSTS_MAX:
                now = self._clock.monotonic()
                self._hosts = {h: s for h, s in self._hosts.items() if s.matters(now)}
            state = self._hosts[host] = _Host()
        return state


class _Host:
    """One host's counters; touched only on the event loop, never across an await in between."""

    def __init__(self) -> None:
        self.busy = 0
        self.next_start = 0.0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def matters(self, now: float) -> bool:
        return self.busy > 0 or self.next_start > now

    async def enter(self, limit: int) -> None:
        if self.busy < limit and not self._waiting:
            self.busy += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((limit, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()  # the place was given in the moment of the cancellation
            elif (limit, place) in self._waiting:  # whoever left has not passed it over yet
                self._waiting.remove((limit, place))
            raise

    def leave(self) -> None:
        self.busy -= 1
        while self._waiting and self.busy < self._waiting[0][0]:
            _, place = self._waiting.popleft()
            if not place.done():
                self.busy += 1
                place.set_result(None)

    async def wait_turn(self, clock: Clock, spacing_seconds: float) -> None:
        now = clock.monotonic()
        start = max(now, self.next_start)
        self.next_start = start + spacing_seconds
        if start > now:
            await clock.sleep(start - now)
