"""Files opened and written beside the event loop.

A thread cannot be cancelled: where nobody waits for what it opens any more, that has to be dropped
when it comes, or it stays open until the collector finds it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

T = TypeVar("T")


async def taken(coming: Awaitable[T], drop: Callable[[T], object]) -> T:
    """What ``coming`` brings; dropped when it comes, if the wait was cancelled meanwhile."""
    task = asyncio.ensure_future(coming)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:

        def over(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                drop(done.result())

        task.add_done_callback(over)
        raise


async def opened(path: Path, mode: Literal["rb", "wb"]) -> BinaryIO:
    """The file, open; the caller closes it. Raises what opening raises."""
    hop = asyncio.to_thread(path.open, mode)
    return await taken(cast("Awaitable[BinaryIO]", hop), lambda file: file.close())


class Descriptor:
    """The number of an open file that threads work on, one at a time.

    A number that was closed belongs to whoever opens the next file. So it is closed only when the
    thread is through, even if nobody waits for that any more: it would write into that file.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._work: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """What ``call`` of the number and the arguments gives, in a thread."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, call, self._number, *arguments)
        self._work = work
        return await asyncio.shield(work)

    def close(self) -> None:
        """Close it: now, or when the thread is through."""
        if self._work is None or self._work.done():
            os.close(self._number)
        else:
            self._work.add_done_callback(self._through)

    def _through(self, work: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            work.exception()  # nobody is left to hear of it
        os.close(self._number)
