"""Time, as an argument.

Nothing below ``app`` calls :func:`datetime.now`: a test, a replay and a simulation run the same
code with another clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from and how to wait for it."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC, microseconds. May step; never use it to measure."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after at least ``seconds``; cancellable."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to: for tests and simulations.

    ``sleep`` returns once :meth:`advance` has passed its deadline, in order of the deadlines.
    """

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("cannot start a clock: the time needs a zone")
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._elapsed + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Move both clocks forward and wake whoever was waiting for it."""
        self._elapsed += seconds
        self._now += timedelta(seconds=seconds)
        due = sorted((s for s in self._sleepers if s[0] <= self._elapsed), key=lambda s: s[0])
        self._sleepers = [s for s in self._sleepers if s[0] > self._elapsed]
        for _, future in due:
            if not future.done():
                future.set_result(None)


def timestamp(moment: datetime) -> str:
    """``moment`` in the one spelling used on the wire, in SQL and in hashed bytes.

    RFC 3339 in UTC with six fractional digits and ``Z``: fixed width, so that text order is time
    order on both databases.
    """
    if moment.tzinfo is UTC:  # most of what there is
        return f"{moment.isoformat(timespec='microseconds')[:-6]}Z"
    if moment.tzinfo is None:
        raise ValueError("cannot write a time: it has no zone")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def parse_timestamp(text: str) -> datetime:
    """The moment that ``text`` (RFC 3339, any offset) names.

    ``ValueError`` if it has no offset, or is out of the calendar's years in UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"cannot read the time {text!r}: it has no zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"cannot read the time {text!r}: no year has it in UTC") from error
