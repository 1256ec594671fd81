"""One event at a time: its arguments, the same wherever an event is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from holdfast.kernel.errors import Invalid
from holdfast.ledger.model import Append, NewEvent

Told = TypeVar("Told")


class Appends(ABC, Generic[Told]):
    """What takes events for the log, and tells of each what its own class promises."""

    def append(
        self,
        stream: str,
        type: str,  # noqa: A002 - the word of the interface
        payload: Mapping[str, Any],
        *,
        id: str = "",  # noqa: A002 - the word of the interface
        time: str = "",
        about: str | None = None,
        expected: int | None = None,
    ) -> Told:
        """Append one event. A ``Client`` says where it lies, once it is durable; a ``Producer``
        gives its :class:`Answer` at once, and waits only while too many are unanswered.

        ``expected`` is the version that the stream must be at (how many events it has); else
        ``Conflict`` with the code ``version-conflict``. ``id`` is a UUIDv7 of yours: the same event
        under it again is not appended again. Left out, one is made here, so that what the network
        lost is repeated safely. ``time`` (RFC 3339) is when it happened, if not now.
        ``about`` names the person whose data the payload holds: erasing them makes it unreadable.
        ``Invalid`` if it is empty, since then no erasure would.
        """
        if about == "":
            raise Invalid("cannot append: `about` names nobody", hint="leave it out")
        event = NewEvent(
            stream=stream, type=type, payload=dict(payload), id=id, time=time, about=about or ""
        )
        versions = {} if expected is None else {stream: expected}
        return self._append_one(Append(events=[event], expected=versions))

    @abstractmethod
    def _append_one(self, append: Append) -> Told:
        """Append the only event of ``append``."""
