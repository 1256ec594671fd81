"""A coordinator to test against: the real service on a real database, with a clock in hand."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from holdfast.fleet.base import FleetSettings
from holdfast.fleet.model import JoinTokenCreate, WorkerRegister
from holdfast.fleet.reconcile import FleetLoops
from holdfast.fleet.service import FleetService
from holdfast.kernel.clock import Clock, ManualClock, SystemClock
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import NewId, uuid7
from holdfast.kernel.outbox import Outbox, Sealed
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import Metrics
from holdfast.kernel.trusted import TrustedKeys
from holdfast.leases import Leases, MemoryLeases
from holdfast.registry.model import Limits, Schedule
from holdfast.registry.versions import RunnableProfile, RunnableSet
from tests.support.signing import PUBLIC_KEY

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = SigningKey.from_seed(b"\x07" * 32)
KEYS = TrustedKeys({"coordinator": [KEY.public_jwk()]})
PEPPERS = Peppers({1: b"\x01" * 32})
OPERATOR = operator()


class QuietSealer:
    """Seals nothing, and says nothing of it."""

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        return Sealed("clear", plain)

    def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
        return sealed.data

    def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
        return set()


def numbered_ids(seed: int = 0) -> NewId:
    """Ids that count up: the same for the same seed."""
    numbers = count(1)

    def new_id() -> str:
        number = next(numbers)
        return uuid7(1_700_000_000_000 + seed * 1_000_000_000 + number, number.to_bytes(10, "big"))

    return new_id


@dataclass
class Registry:
    """What may run, as a registry would say it; changed by hand."""

    profiles: dict[str, RunnableProfile] = field(default_factory=dict)
    etag: int = 0
    failure: HoldfastError | None = None
    asked: int = 0

    async def runnable(self, principal: Principal, *, unless: str = "") -> RunnableSet | None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        if unless == str(self.etag):
            return None
        return RunnableSet(etag=str(self.etag), profiles=list(self.profiles.values()))

    def publish(
        self, name: str, schedule: Schedule | None = None, *, version: int = 1
    ) -> RunnableProfile:
        profile = RunnableProfile(
            name=name,
            digest=f"sha256:{version:064x}",
            title=name,
            schedule=schedule,
            limits=Limits(),
            limits_override=None,
            freshness=None,
        )
        self.profiles[name] = profile
        self.etag += 1
        return profile

    def withdraw(self, name: str) -> None:
        del self.profiles[name]
        self.etag += 1


@dataclass
class Runs:
    """Notes which runs were closed, and how; may fail."""

    closed: list[dict[str, Any]] = field(default_factory=list)
    failures: list[HoldfastError] = field(default_factory=list)

    async def close_run(self, principal: Principal, **account: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.closed.append(account)


@dataclass
class Rig:
    """One coordinator. ``again`` makes another on the same database, as a restart does."""

    database: Database
    clock: Clock
    fleet: FleetService
    leases: Leases
    registry: Registry
    runs: Runs
    new_id: NewId
    chance: random.Random
    metrics: Metrics

    def again(self, *, leases: Leases | None = None, seed: int = 1) -> Rig:
        return rig(
            self.database,
            clock=self.clock,
            settings=self.fleet.settings,
            leases=leases,
            registry=self.registry,
            runs=self.runs,
            seed=seed,
        )

    def loops(self, **options: Any) -> FleetLoops:
        return FleetLoops(self.fleet, holder=f"holder-{id(self.fleet)}", runs=self.runs, **options)

    @property
    def manual(self) -> ManualClock:
        assert isinstance(self.clock, ManualClock)
        return self.clock

    async def token(self, **more: Any) -> str:
        return (await self.fleet.worker_token_create(OPERATOR, JoinTokenCreate(**more))).token

    async def worker(
        self,
        name: str = "drone-1",
        *,
        capabilities: Sequence[str] = ("collect",),
        region: str = "",
    ) -> Principal:
        """A worker that is registered and authenticated."""
        token = await self.token(capabilities=list(capabilities), region=region)
        credential = await self.fleet.register(
            token, WorkerRegister(name=name, capabilities=list(capabilities), key=PUBLIC_KEY)
        )
        return await self.fleet.authenticate_worker(credential.credential)


def rig(
    database: Database,
    *,
    clock: Clock | None = None,
    settings: FleetSettings | None = None,
    leases: Leases | None = None,
    registry: Registry | None = None,
    runs: Runs | None = None,
    seed: int = 0,
) -> Rig:
    """A coordinator on ``database``; with a clock that stands still unless one is given."""
    clock = clock or ManualClock(START)
    registry = registry or Registry()
    chance = random.Random(seed)
    new_id = numbered_ids(seed)
    leases = leases or MemoryLeases(clock)
    metrics = Metrics()
    fleet = FleetService(
        database,
        leases,
        Outbox(QuietSealer()),
        KEY,
        PEPPERS,
        clock=clock,
        new_id=new_id,
        random=chance.randbytes,
        chance=chance.random,
        settings=settings,
        profiles=registry,
        metrics=metrics,
    )
    return Rig(database, clock, fleet, leases, registry, runs or Runs(), new_id, chance, metrics)


def live_rig(database: Database, **options: Any) -> Rig:
    """A coordinator whose clock runs."""
    return rig(database, clock=SystemClock(), **options)
