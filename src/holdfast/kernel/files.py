"""Files opened beside the event loop.

A thread cannot be cancelled: where nobody waits for what it opens any more, that has to be dropped
when it comes, or it stays open until the collector finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, cast

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
