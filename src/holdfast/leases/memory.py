"""Leases in the memory of one process: the embedded default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from holdfast.kernel.clock import Clock
from holdfast.kernel.principal import Principal
from holdfast.leases.ports import Beat, Taken, Watch, window_of


class Wakes:
    """The watches of one process, by tenant and channel."""

    def __init__(self, clock: Clock, longest_seconds: float) -> None:
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._watches: dict[tuple[str, str], set[Watch]] = defaultdict(set)

    def watch(self, principal: Principal, channels: Sequence[str]) -> Watch:
        keys = [(principal.tenant, channel) for channel in channels]

        def close(watch: Watch) -> None:
            for key in keys:
                self._watches[key].discard(watch)
                if not self._watches[key]:
                    del self._watches[key]

        watch = Watch(self._clock, self._longest_seconds, close)
        for key in keys:
            self._watches[key].add(watch)
        return watch

    def wake(self, principal: Principal, channels: Sequence[str]) -> None:
        for channel in channels:
            for watch in tuple(self._watches.get((principal.tenant, channel), ())):
                watch.notice()


class MemoryLeases:
    """What one process knows. A second instance would know something else: see ``shared``.

    Whatever it holds ends with the process; counters begin again at zero (``durable`` is false).
    """

    shared = False
    durable = False
    wake_seconds_max = 60.0

    def __init__(self, clock: Clock) -> None:
        self._beats: dict[str, dict[str, Beat]] = defaultdict(dict)
        self._leaders: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._counters: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._wakes = Wakes(clock, self.wake_seconds_max)

    async def beat(
        self, principal: Principal, key: str, now: datetime, data: Mapping[str, int] | None = None
    ) -> None:
        known = self._beats[principal.tenant].get(key)
        if known is None or known.at <= now:
            self._beats[principal.tenant][key] = Beat(now, dict(data or {}))

    async def beats(self, principal: Principal) -> dict[str, Beat]:
        return dict(self._beats[principal.tenant])

    async def forget(self, principal: Principal, key: str) -> None:
        self._beats[principal.tenant].pop(key, None)

    async def lead(
        self, principal: Principal, name: str, holder: str, seconds: float, now: datetime
    ) -> bool:
        key = (principal.tenant, name)
        leader = self._leaders.get(key)
        if leader is not None and leader[0] != holder and leader[1] > now:
            return False
        self._leaders[key] = (holder, now + timedelta(seconds=seconds))
        return True

    async def resign(self, principal: Principal, name: str, holder: str) -> None:
        key = (principal.tenant, name)
        if self._leaders.get(key, ("",))[0] == holder:
            del self._leaders[key]

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
        key = (principal.tenant, counter)
        window = window_of(now, window_seconds)
        resets_at = datetime.fromtimestamp(window + window_seconds, UTC)
        start, length, used = self._counters.get(key, (0, 0, 0))
        if (start, length) != (window, window_seconds):
            used = 0
        granted = used + amount <= limit
        used += amount if granted else 0
        self._counters[key] = (window, window_seconds, used)
        return Taken(granted, max(0, limit - used), resets_at)

    async def wake(self, principal: Principal, *channels: str) -> None:
        self._wakes.wake(principal, channels)

    def watch(self, principal: Principal, channels: Sequence[str]) -> Watch:
        return self._wakes.watch(principal, channels)
