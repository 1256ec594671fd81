"""What the keyring needs of its store, and what it asks of those who keep subjects' data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from holdfast.kernel.principal import Principal
from holdfast.keyring.model import (
    Erased,
    ErasedParts,
    EraseRequest,
    Erasure,
    LookRequest,
    Placed,
    RetainRequest,
    Standing,
    SubjectRequest,
    Subjects,
)

T = TypeVar("T")


class Rows(Protocol):
    """The open transaction of a store."""

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement (``$1`` …); its rows, if it gives any."""
        ...

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        """Run one statement once for each row of values."""
        ...


class KeyStore(Protocol):
    """Where wrapped keys lie: a store of its own, with backups of its own.

    Called from any thread, and synchronously: sealing happens inside of transactions of the data.
    Must: run units one after the other as if alone; be durable on return; leave nothing of a unit
    that raises. Must not: keep bytes of a deleted row where a later reader of its files finds them,
    once :meth:`scrub` has returned. ``Unavailable``: nothing of the unit was done;
    ``OutcomeUnknown``: it wrote, and whether that was stored nobody can tell. If the process dies
    inside of :meth:`transact`, the unit was done whole or not at all. Not promised: anything of
    what a server has written to its write-ahead log, which no statement takes back.
    """

    def transact(self, unit: Callable[[Rows], T]) -> T:
        """Run ``unit`` in a transaction of its own; durable on return."""
        ...

    def scrub(self) -> None:
        """Overwrite what deleted rows have left behind, whoever deleted them.

        ``Unavailable``: they are deleted, and their bytes may be there yet. It may cost what all
        keys cost: once for many deletions, never for each.
        """
        ...

    def close(self) -> None:
        """Give it up."""
        ...


class Eraser(Protocol):
    """Whoever keeps data of subjects beside the keys: told when a subject's key is destroyed."""

    async def knows(self, principal: Principal, subject: str) -> bool:
        """Whether anything here is, or was, about the subject; by its keyed name."""
        ...

    async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        """Remove what destroying the key has not: copies, projections, whole raw responses.

        Idempotent: it is called again after a crash, and after a restore.
        """
        ...


class People(Protocol):
    """The people of one keyring, in this process or another; or of all keyrings of a deployment.

    What each does for one keyring is told at :class:`holdfast.keyring.subjects.SubjectsService`,
    what for several at :class:`holdfast.keyring.everywhere.SubjectsEverywhere`. All but ``look``
    may be repeated after any failure: what was done is not done twice.
    """

    async def list(self, principal: Principal) -> Subjects: ...

    async def look(self, principal: Principal, request: LookRequest) -> Sequence[Standing]: ...

    async def erase(self, principal: Principal, request: EraseRequest) -> Erased: ...

    async def hold(self, principal: Principal, request: SubjectRequest) -> Placed: ...

    async def release(self, principal: Principal, request: SubjectRequest) -> Subjects: ...

    async def retain(self, principal: Principal, request: RetainRequest) -> Placed: ...
