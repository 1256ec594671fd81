"""What one attempt sends to the aggregator: raw bytes, batches, its end.

Sending overlaps with reading. Two rules hold the order that matters: no batch leaves before the raw
bytes it came from are durable, and the end is not told before everything sent is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from holdfast.collect.batches import Filled
from holdfast.collect.ports import ORDINARY, Opening, RunLog
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import (
    Exhausted,
    HoldfastError,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.telemetry import get_logger
from holdfast.records.model import RawResponse, Run, RunFinish, RunPlan

T = TypeVar("T")
Outcome = Literal["complete", "unchanged", "partial", "failed", "cancelled", "interrupted"]

IN_FLIGHT_MAX = 2
_PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 5.0)
_ASKED_PAUSE_SECONDS_MAX = 60.0
_REFUSALS_MAX = 30

log = get_logger("collect")


class Channel:
    """Use from one task. Every call is repeated, with the same content, until it is answered.

    That has no deadline of its own: it goes on for as long as the lease is held, and whoever holds
    the lease cancels the attempt when it is gone.
    """

    def __init__(
        self, target: RunLog, clock: Clock, run: str, fence: int, *, ordered: bool
    ) -> None:
        self._target = target
        self._clock = clock
        self._run = run
        self._fence = fence
        # Where the first or last of equal keys counts, the order of the batches has a meaning.
        self._room = 1 if ordered else IN_FLIGHT_MAX
        self._posting: list[asyncio.Task[Any]] = []
        self._storing: dict[int, asyncio.Task[Any]] = {}
        self._digests: dict[int, str] = {}
        self.batches = 0
        self.responses = 0

    async def open(self, how: Opening = ORDINARY) -> Run:
        """Begin or take over the run."""
        return await self._answered(lambda: self._target.open(how))

    async def answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """``call``, repeated until it is answered."""
        return await self._answered(call)

    async def plan(self) -> RunPlan:
        """Where the run begins."""
        return await self._answered(self._target.plan)

    async def kept(self, after: int) -> list[RawResponse]:
        """Pages that earlier attempts of the run have stored."""
        return await self.answered(lambda: self._target.kept(after))

    async def copy_known(self, digest: str, target: Path) -> None:
        """Fetch stored bytes into a new file."""
        await self.answered(lambda: self._target.copy_known(digest, target))

    async def store_known(self, response: RawResponse) -> None:
        """Keep the account of the next response, whose bytes are stored already."""
        await self.answered(lambda: self._target.store_known(response))
        self._digests[response.sequence] = response.digest
        self.responses = response.sequence + 1

    def store(self, response: RawResponse, body: Path) -> None:
        """Begin to store the raw bytes of the next response."""
        self.responses = response.sequence + 1
        self._digests[response.sequence] = response.digest
        self._storing[response.sequence] = asyncio.create_task(
            self._answered(lambda: self._target.store_response(response, body))
        )

    async def stored(self, sequence: int) -> None:
        """Return once the bytes of that response are durable."""
        task = self._storing.get(sequence)
        if task is not None:
            await asyncio.wait([task])  # cancelled, it leaves the task running, and known
            del self._storing[sequence]
            task.result()

    async def post(self, filled: Filled) -> None:
        """Send a batch; returns when there is room for another, not when this one is durable."""
        for sequence in list(self._storing):
            await self.stored(sequence)
        while len(self._posting) >= self._room:
            await self._first_posted()
        sequence = self.batches
        self.batches += 1
        digests = {number: self._digests[number] for number in filled.responses}
        self._posting.append(
            asyncio.create_task(
                self._answered(lambda: self._target.post(sequence, filled, digests))
            )
        )

    async def drained(self) -> None:
        """Return once everything that was sent is durable."""
        while self._posting:
            await self._first_posted()
        for sequence in list(self._storing):
            await self.stored(sequence)

    async def settled(self) -> str:
        """Return once each response that was begun is durable or will not be; then why not.

        Whatever else went wrong, what the source sent is kept: a failure of an upload is told, and
        takes nobody else's place.
        """
        failures = []
        for sequence in list(self._storing):
            try:
                await self.stored(sequence)
            except (HoldfastError, OSError) as error:
                failures.append(error.detail if isinstance(error, HoldfastError) else str(error))
        return "; ".join(failures)

    async def settled_within(self, seconds: float) -> str:
        """As :meth:`settled`; what is not durable after so many seconds is given up."""
        try:
            async with asyncio.timeout(seconds) as scope:
                return await self.settled()
        except TimeoutError:
            if not scope.expired():
                raise
        await self.abandon()
        return f"the aggregator did not take it within {seconds:g} s"

    async def finish(self, request: RunFinish) -> Run:
        """Tell how the attempt ended."""
        return await self._answered(lambda: self._target.finish(request))

    async def leave(self, request: RunFinish) -> None:
        """Tell, once, why the run is left to another attempt; the caller bounds the wait."""
        await self._target.finish(request)

    async def abandon(self) -> None:
        """Stop sending; returns when nothing of it is under way any more."""
        under_way = [*self._posting, *self._storing.values()]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        self._posting.clear()
        self._storing.clear()

    async def _first_posted(self) -> None:
        await _waited(self._posting[0])
        del self._posting[0]

    async def _answered(self, call: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                return await call()
            except (Unavailable, OutcomeUnknown, Exhausted, Unauthenticated) as error:
                # A grant or a credential that ran out is replaced by the drone's next beat.
                if isinstance(error, Unauthenticated) and attempt >= _REFUSALS_MAX:
                    raise
                pause = _PAUSES_SECONDS[min(attempt, len(_PAUSES_SECONDS) - 1)]
                asked = min(error.retry_after_seconds or 0.0, _ASKED_PAUSE_SECONDS_MAX)
                attempt += 1
                log.info("call.repeated", attempt=attempt, code=error.code, error=error.detail)
            await self._clock.sleep(max(pause, asked))


async def _waited(task: asyncio.Task[Any]) -> None:
    """The end of ``task``, its failure raised; a cancelled wait leaves the task running."""
    await asyncio.wait([task])
    task.result()
