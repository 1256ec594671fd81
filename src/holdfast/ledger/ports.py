"""What the ledger needs from whatever stores it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from holdfast.kernel.database import Unit
from holdfast.kernel.outbox import Sealed, Unsealed
from holdfast.kernel.principal import Principal

T = TypeVar("T")

Beside = Callable[[Connection], None]
"""A unit of the index that may be run in the transaction of an append."""


@dataclass(frozen=True, slots=True)
class StoredCommit:
    """One commit as it lies in the log: where it begins, how many entries, its frame."""

    first: int
    count: int
    frame: bytes

    @property
    def after(self) -> int:
        """The position that follows its last entry."""
        return self.first + self.count


class People(Protocol):
    """Whose data payloads hold: the keyring's business.

    Its store may take long to answer. So what is synchronous here is called in :meth:`apart` only,
    and nothing in the event loop waits for it.
    """

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """What ``work`` of the arguments gives, in a thread that nobody else needs."""
        ...

    def named(self, tenant: str, names: Sequence[str]) -> list[str]:
        """The keyed name of each person. Nobody is known by that who was not before."""
        ...

    def erased(self, tenant: str, people: Collection[str]) -> set[str]:
        """Those of these keyed names who were erased."""
        ...

    def admit(self, tenant: str, people: Collection[str]) -> None:
        """Each of them has a key from now on, unless they are erased."""
        ...

    async def opened(
        self, tenant: str, purpose: str, sealed: Sequence[tuple[str, Sealed]]
    ) -> list[Unsealed | None]:
        """What each opens to, by the id of what it belongs to; None if its key is no more.

        All of their keys are looked up at once. ``Corrupt`` if one is not its place's.
        """
        ...


class Log(Protocol):
    """An ordered, durable sequence of commits for each tenant; positions count entries from 0.

    *Durable*: when :meth:`append` returns, the commit survives the death of the process and of the
    machine. *Atomic*: a commit is there whole or not at all. *Linear*: of two appends at the same
    position one wins and the other raises ``LogMoved``, whoever calls; a commit is never changed.

    ``Unavailable``: nothing was stored. ``OutcomeUnknown``: the commit may be there; :meth:`end`
    tells. The log never looks into a frame.

    What lies *beside* the log (its index, origins, keys, what was published) changes with it or
    under its fence: a unit that is handed in commits together with what it came with, or neither
    does. So the commits, the fence and those tables are in one database, as far as anybody can see.
    A broker alone is no such log: its driver would keep each commit in the database until the
    broker has it.
    """

    async def append(
        self, principal: Principal, commit: StoredCommit, fence: int, beside: Beside | None = None
    ) -> None:
        """Store ``commit`` if the log ends where it begins and ``fence`` is still the newest."""
        ...

    async def fenced(self, principal: Principal, fence: int, unit: Unit[T]) -> T:
        """Run a unit that changes what lies beside the log, if ``fence`` is still the newest.

        Nobody becomes the one who appends, and nobody appends, between that look and the commit.
        ``NotSequencer`` otherwise.
        """
        ...

    async def read(
        self, principal: Principal, position: int, commits_max: int, bytes_max: int
    ) -> Sequence[StoredCommit]:
        """The commit that holds ``position`` and what follows it: at least one, if there is one."""
        ...

    async def end(self, principal: Principal) -> int:
        """The position that the next commit would have."""
        ...

    async def seize(self, principal: Principal, holder: str) -> int:
        """Become the one who appends: a fence higher than every one before it."""
        ...

    async def cut(
        self, principal: Principal, position: int, fence: int, beside: Beside | None = None
    ) -> None:
        """Forget every commit from ``position`` on, if ``fence`` is still the newest.

        Only for a new origin, after a copy. What goes ``beside`` is there with the cut, or neither.
        """
        ...
