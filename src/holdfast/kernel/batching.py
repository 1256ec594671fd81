"""Many callers, one transaction: what comes while one is under way goes together in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from holdfast.kernel.errors import HoldfastError, Kind

I = TypeVar("I")  # noqa: E741 — item in, outcome out
O = TypeVar("O")  # noqa: E741

# Not about any one item: trying them one by one would not help.
_SHARED_KINDS = frozenset({Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.OUTCOME_UNKNOWN, Kind.CORRUPT})


class Batcher(Generic[I, O]):
    """Hands the items of concurrent callers to ``work`` together, in order, bounded by size.

    ``work`` answers for each item; an answer that is an error is raised to its caller. When
    ``work`` itself fails over one item of several, each is tried alone, so that the rest do not
    suffer for it. Nobody waits for a full batch: an idle batcher starts at once.
    """

    def __init__(
        self,
        work: Callable[[list[I]], Awaitable[Sequence[O | HoldfastError]]],
        *,
        size_max: int,
        parallel: int = 1,
    ) -> None:
        self._work = work
        self._size_max = size_max
        self._parallel = parallel
        self._waiting: deque[tuple[I, asyncio.Future[O]]] = deque()
        self._drains = 0
        self._running: set[asyncio.Task[None]] = set()

    async def do(self, item: I) -> O:
        """The outcome of ``item``. Cancelling the caller does not stop what has begun."""
        return await self._put(item)

    async def do_all(self, items: Sequence[I]) -> list[O | HoldfastError]:
        """The outcome, or the error, of each of ``items``."""
        futures = [self._put(item) for item in items]
        outcomes: list[O | HoldfastError] = []
        defect: Exception | None = None
        try:
            for future in futures:
                try:
                    outcomes.append(await future)
                except HoldfastError as error:
                    outcomes.append(error)
                except Exception as error:
                    defect = defect or error
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        if defect is not None:
            raise defect
        return outcomes

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _put(self, item: I) -> asyncio.Future[O]:
        future: asyncio.Future[O] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._drains < self._parallel:
            self._drains += 1
            task = asyncio.create_task(self._drain(), name="batch")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), self._size_max)
                batch = [self._waiting.popleft() for _ in range(size)]
                batch = [(item, future) for item, future in batch if not future.cancelled()]
                if batch:
                    await self._attempt(batch)
        finally:
            # In the same breath as the last look at what waits: whoever comes next starts anew.
            self._drains -= 1

    async def _attempt(self, batch: list[tuple[I, asyncio.Future[O]]]) -> None:
        try:
            outcomes = await self._work([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except HoldfastError as error:
            if len(batch) == 1 or error.kind in _SHARED_KINDS:
                for _, future in batch:
                    _settle(future, error)
                return
            for one in batch:
                await self._attempt([one])
        except Exception as error:  # a defect must reach its callers, not die with this task
            for _, future in batch:
                _settle(future, error)
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                _settle(future, outcome)


def _settle(future: asyncio.Future[O], outcome: O | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
