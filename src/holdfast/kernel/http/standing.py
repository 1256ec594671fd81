"""Whether what an exchange was begun with still holds, for as long as the exchange goes on.

A request is judged once, by what the door remembers for some seconds at most. What goes on longer
than that (a stream, a body that is still arriving, a long answer) is judged again: later than
``STANDING_SECONDS`` after the ask by which the credential was last known to hold, nothing is taken
from the caller, and nothing more is said to them. However slow the machine is: an ask that is late
stands in the way until there is an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Unauthenticated, Unavailable

STANDING = "holdfast.standing"
"""Key of the scope: the :class:`Standing` of whoever asks, where the door can be asked again."""

STANDING_SECONDS = 5.0
"""How long an answer holds, from when it was asked for."""

RENEWED_SECONDS = 2.5
"""When somebody is asked again who goes on: early enough to ask once more if nobody can tell."""

PAUSE_SECONDS = 0.5
"""Between two asks of which the first was of no use."""

CREDENTIAL_ENDED = "credential-ended"
STANDING_UNKNOWN = "standing-unknown"


class Standing:
    """Of one exchange.

    ``ask`` returns when what it goes by was asked for; it raises :class:`Unauthenticated` when the
    credential is over or may less than it did (:func:`ended`), anything else when nobody can tell.
    ``asked`` is when the first answer, by which the exchange began, was asked for.
    """

    __slots__ = ("_ask", "_asked", "_clock", "own")

    def __init__(self, ask: Callable[[], Awaitable[float]], asked: float, clock: Clock) -> None:
        self._ask = ask
        self._asked = asked
        self._clock = clock
        self.own = False
        """Whoever answers sees to this, and to how the end is told; see :meth:`guarded`."""

    @property
    def holds(self) -> bool:
        """Whether nobody need be asked yet."""
        return self._clock.monotonic() < self._asked + STANDING_SECONDS

    async def check(self) -> None:
        """Return while it holds; raises when it does not, or when nobody can tell."""
        if not self.holds:
            await self._renew(STANDING_SECONDS)

    async def over(self) -> HoldfastError:
        """Wait until it is over, asking again in time meanwhile; return why."""
        while True:
            now = self._clock.monotonic()
            await self._clock.sleep(max(0.0, self._asked + RENEWED_SECONDS - now))
            while True:
                left = self._asked + STANDING_SECONDS - self._clock.monotonic()
                try:
                    await self._renew(max(left, PAUSE_SECONDS))
                    break
                except Unauthenticated as error:
                    return error
                except HoldfastError as error:
                    if not self.holds:
                        return error
                await self._clock.sleep(PAUSE_SECONDS)

    async def _renew(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                self._asked = max(self._asked, await self._ask())
        except Unauthenticated:
            raise
        except (HoldfastError, TimeoutError) as error:
            raise Unavailable(
                "cannot go on: nobody can tell whether the credential still holds",
                code=STANDING_UNKNOWN,
                retry_after_seconds=1,
                internal=repr(error),
            ) from error

    async def while_holds(self, doing: Coroutine[Any, Any, None]) -> None:
        """Do it to its end; cancel it and raise why as soon as this is over."""
        task, watch = asyncio.ensure_future(doing), asyncio.ensure_future(self.over())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise watch.result()
            task.result()
        finally:
            for each in (task, watch):
                each.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    def guarded(self, answer: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
        """An ASGI answer whose further pieces go out only while this holds: else it is cut off, so
        that nobody takes half of it for the whole."""

        async def held(scope: Any, receive: Any, send: Any) -> None:
            async def say(message: Any) -> None:
                if not self.own and message.get("more_body"):
                    await self.check()
                await send(message)

            await answer(scope, receive, say)

        return held


def ended(error: HoldfastError | None = None) -> Unauthenticated:
    """The end of what was begun with a credential that is over, or may less than it did then."""
    return Unauthenticated(
        "cannot go on: what this was begun with has ended, or may less than it did then",
        code=CREDENTIAL_ENDED,
        hint=(error.hint if error is not None else "") or "ask again with one that holds",
    )


def standing_of(scope: Any) -> Standing | None:
    """Of the exchange of ``scope``, if there is anybody to ask again."""
    found: Standing | None = scope.get(STANDING)
    return found
