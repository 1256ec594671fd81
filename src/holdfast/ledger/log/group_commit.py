"""Group commit: appends wait in line, and one task takes what waits, a group at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast.kernel.errors import Exhausted
from holdfast.ledger.model import Appended
from holdfast.ledger.plan import Wanted

GROUP_EVENTS_MAX = 2000
GROUP_BYTES_MAX = 8 * 1024 * 1024
WAITING_BYTES_MAX = 64 * 1024 * 1024

Commit = Callable[[Sequence[Wanted]], Awaitable[Sequence[Appended | Exception]]]
"""Stores a group; returns what became of each, in their order."""


@dataclass(slots=True)
class _Waiting:
    wanted: Wanted
    future: asyncio.Future[Appended]


class GroupCommit:
    """The line in front of one log. The task is there only while somebody waits."""

    def __init__(self, name: str, commit: Commit) -> None:
        self._name = name
        self._commit = commit
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, wanted: Wanted) -> asyncio.Future[Appended]:
        """Put an append in line; the future is done once it is durable, or refused."""
        size = wanted.size_bytes
        if self._waiting_bytes + size > WAITING_BYTES_MAX:
            raise Exhausted(
                "cannot append: too much waits to be written",
                code="ledger-busy",
                retry_after_seconds=1.0,
            )
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(wanted, future))
        self._waiting_bytes += size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name=self._name)
        return future

    async def finish(self) -> None:
        """Return once nobody waits any more."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _drain(self) -> None:
        # No await between the last look at the line and the end: whoever comes next starts anew.
        while self._waiting:
            batch = self._take()
            try:
                answers = await self._commit([each.wanted for each in batch])
            except asyncio.CancelledError:
                for each in batch:
                    each.future.cancel()
                raise
            except Exception as error:  # a defect must reach its callers, not die with this task
                answers = [error] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                if each.future.done():
                    continue
                if isinstance(answer, Exception):
                    each.future.set_exception(answer)
                else:
                    each.future.set_result(answer)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        events = size = 0
        while self._waiting:
            each = self._waiting[0]
            events += len(each.wanted.events)
            size += each.wanted.size_bytes
            if batch and (events > GROUP_EVENTS_MAX or size > GROUP_BYTES_MAX):
                break
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= each.wanted.size_bytes
        return batch
