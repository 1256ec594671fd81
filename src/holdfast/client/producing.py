"""A pipeline of appends, fed from a thread that has no loop."""

from __future__ import annotations

from asyncio import Future as LoopFuture
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from holdfast.client.appending import Appends
from holdfast.kernel.errors import OutcomeUnknown
from holdfast.ledger.client import Pipeline
from holdfast.ledger.model import Append, Appended, NewEvent


class Answer(Future[Appended]):
    """What becomes of one append: :meth:`result` waits until it is durable, or raises."""

    asked = False
    """Whether somebody wanted to know."""

    def result(self, timeout: float | None = None) -> Appended:
        """Where its events lie; the refusal as it is; ``TimeoutError`` if it takes longer."""
        self.asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The refusal, or ``None``."""
        self.asked = True
        return super().exception(timeout)


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
        self._refused: list[Answer] = []

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
        answer = Answer()

        def answered(future: LoopFuture[Appended]) -> None:
            self._waiting.discard(answer)
            error = future.exception()
            if error is None:
                answer.set_result(future.result())
                return
            self._refused.append(answer)
            answer.set_exception(error)

        future = await self._pipeline.append(append)
        self._waiting.add(answer)
        future.add_done_callback(answered)
        return answer

    def abandon(self) -> None:
        """The pipeline has ended: what is not answered by now never is."""
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(
                    OutcomeUnknown("cannot tell what became of the append: the pipeline ended")
                )

    def check(self) -> None:
        """Raise the first refusal that nobody has asked for."""
        for answer in self._refused:
            if not answer.asked:
                answer.result()
