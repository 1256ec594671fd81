"""Many callers, one transaction."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.kernel.batching import Batcher
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid, Unavailable

TURNS = 10
"""Of the loop: more than one call needs whose work is done at once."""


class Work:
    """Doubles numbers, a batch at a time, when the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def __call__(self, items: list[int]) -> list[int | HoldfastError]:
        self.batches.append(items)
        self.began.set()
        await self.gate.wait()
        if self.failure is not None and 13 in items:
            raise self.failure
        return [Conflict("odd one out") if item < 0 else item * 2 for item in items]


async def test_what_comes_while_one_is_under_way_goes_together_in_the_next() -> None:
    work = Work()
    work.gate.clear()
    batcher = Batcher(work, size_max=100)
    callers = [asyncio.create_task(batcher.do(n)) for n in range(10)]
    await work.began.wait()
    callers += [asyncio.create_task(batcher.do(n)) for n in range(10, 20)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*callers) == [n * 2 for n in range(20)]
    assert work.batches == [list(range(10)), list(range(10, 20))]


async def test_one_call_after_the_other_never_waits_for_company() -> None:
    batcher = Batcher(Work(), size_max=100)
    for n in range(100):
        call = asyncio.create_task(batcher.do(n))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert call.done(), "it waits for something else than its work"
        assert call.result() == 2 * n


async def test_a_batch_is_bounded() -> None:
    work = Work()
    batcher = Batcher(work, size_max=3)
    assert await batcher.do_all(range(8)) == [n * 2 for n in range(8)]
    assert [len(batch) for batch in work.batches] == [3, 3, 2]


async def test_an_answer_that_is_an_error_is_raised_to_its_caller_only() -> None:
    batcher = Batcher(Work(), size_max=100)
    outcomes = await asyncio.gather(
        batcher.do(1), batcher.do(-1), batcher.do(2), return_exceptions=True
    )
    assert (outcomes[0], outcomes[2]) == (2, 4)
    assert isinstance(outcomes[1], Conflict)
    told = await batcher.do_all([1, -1])
    assert told[0] == 2
    assert isinstance(told[1], Conflict)


async def test_one_bad_item_does_not_cost_its_neighbours_theirs() -> None:
    work = Work()
    work.failure = Invalid("thirteen")
    batcher = Batcher(work, size_max=100)
    outcomes = await batcher.do_all([1, 13, 2])
    assert (outcomes[0], outcomes[2]) == (2, 4)
    assert isinstance(outcomes[1], Invalid)


async def test_what_is_wrong_for_all_is_not_tried_one_by_one() -> None:
    work = Work()
    work.failure = Unavailable("down")
    batcher = Batcher(work, size_max=100)
    outcomes = await batcher.do_all([1, 13, 2])
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len(work.batches) == 1


async def test_a_defect_reaches_its_callers() -> None:
    work = Work()
    work.failure = ZeroDivisionError("a defect")
    batcher = Batcher(work, size_max=100)
    with pytest.raises(ZeroDivisionError):
        await batcher.do(13)
    assert await batcher.do(1) == 2


async def test_a_caller_that_went_away_does_not_stop_the_others() -> None:
    work = Work()
    work.gate.clear()
    batcher = Batcher(work, size_max=100)
    leaving, staying = (asyncio.create_task(batcher.do(n)) for n in (1, 2))
    await work.began.wait()
    leaving.cancel()
    work.gate.set()
    assert await staying == 4
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await batcher.do(3) == 6
    await batcher.close()
