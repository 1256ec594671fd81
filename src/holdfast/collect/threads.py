"""Work on the drone's one thread: parsing and mapping, which would hold up the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

from holdfast.collect.batches import Stopped
from holdfast.kernel.errors import HoldfastError

T = TypeVar("T")


async def in_thread(executor: Executor, work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Run ``work`` on the thread; if cancelled, ``stop`` it and return only when it is done."""
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        with contextlib.suppress(Stopped, HoldfastError):
            await future
        raise


def next_of(found: Iterator[T]) -> T | None:
    """The next one; ``StopIteration`` cannot cross from the thread to the loop."""
    return next(found, None)
