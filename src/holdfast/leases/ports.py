"""The promise of ``leases``, whichever backend is behind it.

Everything belongs to the principal's tenant. Times come from the caller; where several machines
share a backend their clocks must agree within a fraction of the shortest lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol

from holdfast.kernel.clock import Clock
from holdfast.kernel.principal import Principal


@dataclass(frozen=True, slots=True)
class Beat:
    """The latest sign of life under a key, and what came with it."""

    at: datetime
    data: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer of a rate counter: whether the amount was granted, and what is left until when."""

    granted: bool
    left: int
    resets_at: datetime


class Leases(Protocol):
    """Beats, leadership, counters and wake-ups.

    **Beats.** :meth:`beats` shows, for each key, the latest beat told to this object at once, and
    to any other instance within two seconds. A beat may be lost with the process that took it:
    whoever acts on silence waits for several. Time never goes back under a key.

    **Leadership.** At any moment at most one holder leads a name. It is a way to have one do the
    work instead of all; it proves nothing afterwards. Work that must not be done twice is fenced by
    SQL rows, or may be repeated.

    **Counters.** In each window (aligned to the epoch) at most ``limit`` is granted in sum, whoever
    asks, and all or nothing of each request. What was granted counts, used or not.

    **Wake-ups.** A :class:`Watch` opened before a :meth:`wake` of one of its channels in the same
    process ends its next wait at once; a wake elsewhere ends it within ``wake_seconds_max``. A wait
    may end for no reason: look again, and wait again.

    ``shared`` says whether several instances see the same; ``durable`` whether counters survive a
    restart. Both are checked at start by whoever relies on them.
    """

    shared: bool
    durable: bool
    wake_seconds_max: float

    async def beat(
        self, principal: Principal, key: str, now: datetime, data: Mapping[str, int] | None = None
    ) -> None:
        """``key`` is alive."""
        ...

    async def beats(self, principal: Principal) -> dict[str, Beat]:
        """The latest beat of every key."""
        ...

    async def forget(self, principal: Principal, key: str) -> None:
        """``key`` is gone for good; forgetting one that never was is fine."""
        ...

    async def lead(
        self, principal: Principal, name: str, holder: str, seconds: float, now: datetime
    ) -> bool:
        """Begin or go on leading ``name`` until ``now + seconds``; false if another leads."""
        ...

    async def resign(self, principal: Principal, name: str, holder: str) -> None:
        """Stop leading, so that another can begin at once; harmless if ``holder`` does not lead."""
        ...

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
        """Ask for ``amount`` of ``limit`` per window."""
        ...

    async def wake(self, principal: Principal, *channels: str) -> None:
        """Something happened on ``channels``."""
        ...

    def watch(self, principal: Principal, channels: Sequence[str]) -> Watch:
        """Notice wake-ups on ``channels`` from now until the watch is closed."""
        ...


class Watch:
    """Remembers whether a wake-up came since the last wait. Use with ``with``."""

    def __init__(
        self, clock: Clock, longest_seconds: float, close: Callable[[Watch], None]
    ) -> None:
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._close = close
        self._event = asyncio.Event()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(self)

    def notice(self) -> None:
        """A wake-up came."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Return after a wake-up since the last wait (true), or after ``seconds`` at most."""
        if not self._event.is_set():
            await _first(self._event.wait(), self._clock.sleep(min(seconds, self._longest_seconds)))
        came = self._event.is_set()
        self._event.clear()
        return came


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def window_of(now: datetime, window_seconds: int) -> int:
    """The start, in seconds since the epoch, of the window that ``now`` lies in."""
    return int(now.timestamp() // window_seconds) * window_seconds
