"""What the parts of the coordinator share: what they work with, and how they write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection

from holdfast.fleet import fates, rules, tasks
from holdfast.fleet.metrics import FleetMetrics
from holdfast.fleet.model import (
    Task,
)
from holdfast.fleet.ports import Makers, Profiles
from holdfast.fleet.proofs import Proofs
from holdfast.kernel.batching import Batcher
from holdfast.kernel.clock import Clock
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import Database, Isolation
from holdfast.kernel.errors import Denied
from holdfast.kernel.ids import EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal, PrincipalKind, service
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import Metrics, request_id
from holdfast.leases import Leases

T = TypeVar("T")

READ_COMMITTED: Isolation = "read committed"
"""The hot path's isolation: each unit locks the rows it judges (ADR 0005)."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How long things may take, in seconds."""

    lease_seconds: int = 30
    beat_seconds: float = 5.0
    lost_after_seconds: float = 30.0
    backoff_seconds: float = 10.0
    backoff_seconds_max: float = rules.BACKOFF_SECONDS_MAX
    batch_max: int = 1000
    tick_seconds: float = 1.0
    runnable_seconds: float = 2.0
    requests_per_host: int = 4
    """Requests to one host at once, over the whole fleet, and…"""
    bound_only: bool = False
    """Whether a worker that proves no key is refused (where it shows no certificate, either)."""
    requests_per_host_of: Mapping[str, int] = field(default_factory=dict)
    """…where some ``host`` or ``host:port`` is to be asked otherwise."""


@dataclass(slots=True)
class Batchers:
    """One tenant's: a transaction has one tenant."""

    submit: Batcher[tasks.Submission, Task]
    claim: Batcher[tasks.Want, tasks.Leased]
    complete: Batcher[tasks.Ending, fates.Ended]
    renew: Batcher[tuple[str, str, int, str], bool]


class Base:
    """The part that the others stand on.

    ``random`` gives bytes for secrets, ``chance`` a number in [0, 1) for jitter. ``profiles`` is
    the registry; without it nothing is scheduled and profiles cannot be run by name. ``makers`` is
    identity; without it join tokens are the operator's alone.
    """

    def __init__(
        self,
        database: Database,
        leases: Leases,
        outbox: Outbox,
        key: SigningKey,
        peppers: Peppers,
        *,
        clock: Clock,
        new_id: NewId,
        random: Callable[[int], bytes],
        chance: Callable[[], float],
        settings: FleetSettings | None = None,
        profiles: Profiles | None = None,
        makers: Makers | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.database = database
        self.leases = leases
        self.outbox = outbox
        self.clock = clock
        self.settings = settings or FleetSettings()
        self.profiles = profiles
        self.makers = makers
        self.started_at = clock.now()
        """For one lease time after this nothing expires: beats may have gone unheard."""
        self.backoff = fates.Backoff(
            self.settings.backoff_seconds, self.settings.backoff_seconds_max
        )
        self.metrics = FleetMetrics(metrics or Metrics())
        self.new_id = new_id
        self.chance = chance
        self._loops: set[asyncio.Event] = set()
        self._key = key
        self._peppers = peppers
        self._random = random
        self._batchers: dict[TenantId, Batchers] = {}
        self._queues: dict[TenantId, frozenset[str]] = {}
        self._tenant_of_worker: dict[str, TenantId] = {}
        self._proofs = Proofs(clock)

    @contextmanager
    def called(self) -> Iterator[asyncio.Event]:
        """For a loop, while it runs: set when there is something to look at before its next tick.

        Each has its own: one that clears it takes nothing from the others.
        """
        mine = asyncio.Event()
        self._loops.add(mine)
        try:
            yield mine
        finally:
            self._loops.discard(mine)

    def call_loops(self) -> None:
        """Have each loop look before its next tick."""
        for loop in self._loops:
            loop.set()

    def event(self, stream: str, type_: str, payload: dict[str, Any], subject: str) -> Event:
        """A fresh event, now."""
        return Event(
            id=EventId(self.new_id()),
            stream=stream,
            type=type_,
            time=self.clock.now(),
            payload=payload,
            subject=subject,
            request_id=request_id(),
        )

    async def hot(
        self, tenant: TenantId, unit: Callable[[Connection], T], *, size_bytes: int = 0
    ) -> T:
        """Run a unit that locks the rows it judges."""
        return await self.database.write(
            service("coordinator", tenant), unit, size_bytes=size_bytes, isolation=READ_COMMITTED
        )


def asking_worker(principal: Principal) -> str:
    """The worker that asks; :class:`Denied` for anybody else."""
    if principal.kind is not PrincipalKind.WORKER:
        raise Denied(
            "cannot work: only a registered worker claims, beats and completes",
            code="worker-needed",
        )
    return principal.subject
