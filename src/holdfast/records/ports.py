"""What the aggregator needs from the outside, and what it hands out as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.kernel.principal import Principal
from holdfast.ledger.model import Proof
from holdfast.records.model import StoredResponse
from holdfast.registry.versions import ProfileStatus, ProfileVersion


class Profiles(Protocol):
    """Profile versions: the registry's service, or its client in a split deployment."""

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        """The version with ``digest``, whenever it was published; ``NotFound`` if never.

        A version never changes, so the caller may keep it.
        """
        ...

    async def status(self, principal: Principal, name: str) -> ProfileStatus:
        """How the profile is now, removed or not; ``NotFound`` if it never was one."""
        ...


class Evidence(Protocol):
    """Proofs of events: the ledger's service, or its client in a split deployment."""

    async def event_proofs(self, principal: Principal, events: Sequence[str]) -> list[Proof]:
        """The events' entries, opened, with the proofs that they are in one checkpoint: the newest.

        ``NotFound`` while the ledger does not hold all of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """A raw response and its bytes; reading them to the end checks them."""

    stored: StoredResponse
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Export:
    """Records of one publication as a file: its name, its type, its bytes in order."""

    file_name: str
    media_type: str
    publication: int
    chunks: AsyncIterator[bytes]
    personal: str = "none"
    """Whether personal fields are in it ``opened``, ``sealed``, or there are ``none``."""
