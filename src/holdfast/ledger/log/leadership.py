"""Which instance appends to a log: a lease, and what its holder knows of the log meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.kernel.signing import SigningKey
from holdfast.ledger.errors import NotSequencer
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.store import LogKey, Origin, Published
from holdfast.ledger.tree import Tree

LEAD_SECONDS = 10.0
LEADERSHIP = "ledger"


@dataclass(frozen=True, slots=True)
class Signer:
    """Both halves of the key under which a log is signed."""

    key: LogKey
    private: SigningKey


@dataclass(slots=True)
class Opened:
    """The state of a log that this instance sequences."""

    fence: int
    tree: Tree
    recorded: str
    until: datetime
    origin: Origin
    signer: Signer
    published: Published | None


class Leadership:
    """Whether it is us who append, and the log as we opened it.

    The lease only keeps instances from getting in each other's way: that no two append is the
    fence's work, in the append's own transaction.
    """

    def __init__(self, parts: TenantParts) -> None:
        self.parts = parts
        self.opened: Opened | None = None
        self._led: datetime | None = None
        """When we last renewed that it is us who append."""

    def close(self) -> None:
        """Forget the log as we opened it: whoever needs it next opens it anew."""
        self.opened = None

    def fresh(self, now: datetime) -> Opened | None:
        """The log as we opened it, unless half of the lease is over."""
        state = self.opened
        if state is not None and now < state.until - timedelta(seconds=LEAD_SECONDS / 2):
            return state
        return None

    async def take(self, now: datetime) -> datetime | None:
        """Lead, or go on leading, until the time that is returned; None if another does."""
        if not await self.parts.shared.leases.lead(
            self.parts.principal, LEADERSHIP, self.parts.shared.holder, LEAD_SECONDS, now
        ):
            self._led = self.opened = None
            return None
        self._led = now
        return now + timedelta(seconds=LEAD_SECONDS)

    async def lead(self) -> datetime:
        """:meth:`take`; ``NotSequencer`` if another does."""
        until = await self.take(self.parts.shared.clock.now())
        if until is None:
            raise NotSequencer("cannot go on: another instance appends to this tenant's log")
        return until

    async def keep(self) -> None:
        """Renew what says that we append, where we have it: some things take longer than it."""
        now = self.parts.shared.clock.now()
        if self._led is None or now < self._led + timedelta(seconds=LEAD_SECONDS / 4):
            return
        await self.lead()

    async def resign(self) -> None:
        """Lead no more, so that another instance can go on at once."""
        if self._led is not None:
            self._led = self.opened = None
            await self.parts.shared.leases.resign(
                self.parts.principal, LEADERSHIP, self.parts.shared.holder
            )
