"""What reports need from the outside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal
from holdfast.ledger.model import Entry, FoldedPage, Moment, Proof
from holdfast.registry.versions import ProfileVersion
from holdfast.reports.query import QueryJob


class Projection(Protocol):
    """A profile's records at one publication, as one Parquet file on this machine."""

    @property
    def path(self) -> str | os.PathLike[str]: ...

    @property
    def publication(self) -> int: ...

    @property
    def digest(self) -> str:
        """``sha256:…`` of the file's bytes."""
        ...

    @property
    def recorded_at(self) -> str:
        """When it was published."""
        ...


class Projections(Protocol):
    """Where projections come from: the aggregator, here or elsewhere."""

    async def projection(
        self,
        principal: Principal,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: str = "latest",
    ) -> Projection:
        """The projection of what was published, or of what was known at ``as_of``.

        The same publication and vintage give the same bytes. ``NotFound`` with the code
        ``not-published`` if nothing of the profile was published (by then). The file may be
        replaced by a later publication's; whoever reads it compares the digest.
        """
        ...


class Log(Protocol):
    """The ledger, here or elsewhere, as a query reads it; always the principal's tenant's."""

    async def moment(
        self, principal: Principal, as_of: datetime | None = None, position: int | None = None
    ) -> Moment:
        """The size that the log had at a time or has now; ``Invalid`` for one not there yet."""
        ...

    async def read(self, principal: Principal, *, first: int = 0, limit: int = 100) -> Page[Entry]:
        """Entries in order from position ``first``."""
        ...

    async def projected(
        self,
        principal: Principal,
        name: str,
        *,
        position: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FoldedPage:
        """What the log says, folded, as of a position: equal to a replay up to it."""
        ...


class QueryChildren(Protocol):
    """Child processes that answer one query each and die with this process."""

    async def query(self, job: QueryJob, *, deadline_seconds: float, answer_bytes_max: int) -> Any:
        """What :func:`holdfast.reports.sandbox.answer` answers to ``job``.

        The descriptors of the job's tables are open in the child. Fails as :meth:`Children.call`
        does.
        """
        ...


class Profiles(Protocol):
    """What a profile says of its source: the registry, here or elsewhere."""

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        """The version that runs; ``NotFound`` for an unknown profile."""
        ...


class Receipts(Protocol):
    """Receipts of records: the aggregator, here or elsewhere."""

    async def receipts(
        self, principal: Principal, profile: str, wanted: Sequence[str]
    ) -> list[bytes]:
        """The receipts of these revisions, each ``RECORD@REVISION``, nothing personal opened."""
        ...


class Evidence(Protocol):
    """Proofs of events: the ledger, here or elsewhere."""

    async def event_proofs(self, principal: Principal, events: Sequence[str]) -> list[Proof]:
        """The events' entries with the proofs that they are in one checkpoint: the newest.

        ``NotFound`` while the ledger does not hold all of them.
        """
        ...


class Children(Protocol):
    """Child processes that run one function on one job and die with this process."""

    async def call(
        self, target: str, job: bytes, *, deadline_seconds: float, memory_mb: int
    ) -> bytes:
        """What ``target`` (``package.module:function``, bytes to bytes) answers to ``job``.

        Raises :class:`~holdfast.kernel.errors.TooLarge` when the child passed its memory or its
        deadline (it is dead then), and :class:`~holdfast.kernel.errors.Internal` when it died
        otherwise. A cancelled call leaves no child behind.
        """
        ...
