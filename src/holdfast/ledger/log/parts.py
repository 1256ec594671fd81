"""What logs are made of: that of every tenant together, and that of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database, Unit
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import SALT_BYTES, Outbox, Sealed, Sealer, Unsealed
from holdfast.kernel.principal import Principal, service
from holdfast.leases import Leases
from holdfast.ledger.metrics import LedgerMetrics
from holdfast.ledger.model import Prepared
from holdfast.ledger.ports import Log, People
from holdfast.ledger.signer import SignerPaths
from holdfast.ledger.witness import Witnesses

KEY_DESTROYED = "key-destroyed"
"""The code of the failure to unseal what was erased."""

SEALING_THREADS = 4
"""How many tenants' keys may be waited for at once before the others have to wait, too."""

T = TypeVar("T")


def seal(sealer: Sealer, tenant: str, event: Prepared) -> Prepared:
    """The event with its payload sealed; under their own key, if it is about somebody."""
    plain = event.salt + event.payload
    sealed = sealer.seal(tenant, Outbox.PURPOSE, event.id, plain, subject=event.about)
    return replace(event, sealing=sealed.algorithm, sealed=sealed.data)


@dataclass(frozen=True, slots=True)
class LogParts:
    """What every tenant's log is made of. ``random`` makes salts and names; ``holder`` names us."""

    log: Log
    database: Database
    leases: Leases
    sealer: Sealer
    clock: Clock
    random: Callable[[int], bytes]
    holder: str
    heads: Path
    paths: SignerPaths
    metrics: LedgerMetrics
    origin: str = ""
    witnesses: Witnesses | None = None
    people: People | None = None
    """Without it no event can say whom it is about."""
    restored: bool = False
    """Opened to check what was just restored: whoever does says what is not known there."""

    sealing: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, SEALING_THREADS, "sealing")
    )
    """Not the keyring's own: what is about nobody does not wait behind what is about people."""


@dataclass(frozen=True, slots=True)
class TenantParts:
    """The same for one tenant's log, which acts as the ledger itself within that tenant."""

    shared: LogParts
    tenant: TenantId
    principal: Principal

    @classmethod
    def of(cls, shared: LogParts, tenant: TenantId) -> TenantParts:
        """Those of ``tenant``."""
        return cls(shared, tenant, service("ledger", tenant))

    async def read(self, unit: Unit[T]) -> T:
        """Run a unit that reads the tenant's rows."""
        return await self.shared.database.read(self.principal, unit)

    async def write(self, unit: Unit[T]) -> T:
        """Run a unit that changes the tenant's rows."""
        return await self.shared.database.write(self.principal, unit)

    def now(self) -> str:
        """The time, as it is kept."""
        return timestamp(self.shared.clock.now())

    def unsealed(self, event_id: str, sealing: str, sealed: bytes) -> tuple[bytes, bytes]:
        """Salt and payload of an entry."""
        plain = self.shared.sealer.unseal(
            self.tenant, Outbox.PURPOSE, event_id, Sealed(sealing, sealed)
        )
        return plain[:SALT_BYTES], plain[SALT_BYTES:]

    async def sealed(self, events: Sequence[Prepared]) -> list[Prepared]:
        """These events, those that are not sealed yet under the tenant's key.

        In a thread: now and then the keyring has to ask its store for that key.
        """
        if all(each.sealing for each in events):
            return list(events)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.shared.sealing, self._sealed, events)

    def _sealed(self, events: Sequence[Prepared]) -> list[Prepared]:
        return [
            each if each.sealing else seal(self.shared.sealer, self.tenant, each) for each in events
        ]

    async def opened(self, sealed: Sequence[tuple[str, Sealed]]) -> list[Unsealed | None]:
        """What the payloads of these events are, and whom they are about; None for who is erased.

        The keys of all of them are looked up at once, and nobody else waits for that.
        """
        if self.shared.people is not None:
            return await self.shared.people.opened(self.tenant, Outbox.PURPOSE, sealed)
        return [self._alone(event_id, each) for event_id, each in sealed]

    def _alone(self, event_id: str, sealed: Sealed) -> Unsealed | None:
        try:
            plain = self.shared.sealer.unseal(self.tenant, Outbox.PURPOSE, event_id, sealed)
        except HoldfastError as error:
            if error.code != KEY_DESTROYED:
                raise
            return None
        return Unsealed(plain)
