"""A pipeline of appends, fed from a thread that has no loop."""

from __future__ import annotations

import contextlib
import threading
import weakref
from asyncio import Future as LoopFuture
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from itertools import count
from typing import Any

from holdfast.client.appending import Appends
from holdfast.kernel.errors import OutcomeUnknown
from holdfast.ledger.client import Pipeline
from holdfast.ledger.model import Append, Appended, NewEvent


class Answer(Future[Appended]):
    """What becomes of one append: :meth:`result` waits until it is durable, or raises.

    ``cancel`` is refused: what was sent cannot be taken back.
    """

    def __init__(self, untold: Untold) -> None:
        super().__init__()
        self._untold = untold
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Appended:
        """Where its events lie; the refusal as it is; ``TimeoutError`` if it takes longer."""
        self.exception(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The refusal, or ``None``."""
        found = super().exception(timeout)
        self._untold.remove(self)
        return found

    def settle(self, outcome: Appended | BaseException) -> None:
        """Say what became of it. The first word counts, from whichever thread it comes."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, BaseException):
                self.set_exception(outcome)
            else:
                self.set_result(outcome)


class Untold:
    """The refusals that nobody was told of.

    Kept as long as somebody holds their answers, who may ask yet. Of those that nobody can ask for
    any more, the first: however many are refused, this holds no more than its caller does.

    The loop's thread adds, the caller's asks, and whichever lets go of an answer last drops it,
    also in the middle of any of these: so the lock may be taken again by the thread that has it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = count()
        self._held: dict[weakref.ref[Answer], tuple[int, BaseException]] = {}
        self._let_go: tuple[int, BaseException] | None = None

    def add(self, answer: Answer, refusal: BaseException) -> None:
        held = weakref.ref(answer, self._dropped)
        with self._lock:
            self._held[held] = next(self._numbers), refusal

    def remove(self, answer: Answer) -> None:
        with self._lock:
            self._held.pop(weakref.ref(answer), None)

    def _dropped(self, answer: weakref.ref[Answer]) -> None:
        with self._lock:
            found = self._held.pop(answer, None)
            if found is not None and (self._let_go is None or found[0] < self._let_go[0]):
                self._let_go = found

    def first(self) -> BaseException | None:
        with self._lock:
            # Copied at once: whatever else is made here may be when an answer is dropped.
            held = self._held.copy()
            found = [*held.values(), *([self._let_go] if self._let_go else [])]
        return min(found, key=lambda each: each[0])[1] if found else None


class Producer(Appends[Answer]):
    """What :meth:`Client.pipeline` gives: appends in their order, answers as they come."""

    def __init__(
        self,
        pipeline: Pipeline,
        do: Callable[..., Any],
        named: Callable[[NewEvent], NewEvent],
    ) -> None:
        self._pipeline = pipeline
        self._do = do
        self._named = named
        self._waiting: set[Answer] = set()
        self._untold = Untold()

    def append_all(self, append: Append) -> Answer:
        """Send events that are appended together or not at all."""
        wanted = Append(
            events=[self._named(each) for each in append.events], expected=append.expected
        )
        answer: Answer = self._do(self._sent(wanted))
        return answer

    def _append_one(self, append: Append) -> Answer:
        return self.append_all(append)

    async def _sent(self, append: Append) -> Answer:
        answer = Answer(self._untold)

        def answered(future: LoopFuture[Appended]) -> None:
            refusal = future.exception()
            if refusal is not None:
                self._untold.add(answer, refusal)  # before anybody can be told, and remove it
            answer.settle(future.result() if refusal is None else refusal)
            self._waiting.discard(answer)

        future = await self._pipeline.append(append)
        self._waiting.add(answer)
        future.add_done_callback(answered)
        return answer

    def abandon(self) -> None:
        """The pipeline has ended: what is not answered by now never is."""
        for answer in list(self._waiting):
            answer.settle(
                OutcomeUnknown("cannot tell what became of the append: the pipeline ended")
            )

    def check(self) -> None:
        """Raise the first refusal that nobody was told of."""
        refusal = self._untold.first()
        if refusal is not None:
            raise refusal
