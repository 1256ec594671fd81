"""Turns at what takes a processor: so many at once, so many wait, the rest is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.kernel.errors import Exhausted


class Turns:
    """A bound on what runs at once (``running_max``) and on who waits for it (``waiting_max``).

    ``what`` is what cannot be done when both are full, and ``retry_after_seconds`` when to ask
    again. A turn that is cancelled while it waits gives its place back.
    """

    def __init__(
        self, running_max: int, waiting_max: int, what: str, retry_after_seconds: float
    ) -> None:
        self._running = asyncio.Semaphore(running_max)
        self._waiting_max = waiting_max
        self.waiting = 0
        self._what = what
        self._retry_after_seconds = retry_after_seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. :class:`Exhausted` where too many wait already."""
        if self._running.locked() and self.waiting >= self._waiting_max:
            raise Exhausted(
                f"cannot {self._what} now: {self.waiting} are waiting",
                retry_after_seconds=self._retry_after_seconds,
            )
        self.waiting += 1
        try:
            await self._running.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._running.release()
