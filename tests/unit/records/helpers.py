"""A real aggregator on a real database, a coordinator's key, and batches to feed it with."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from holdfast.fleet.grants import sign_grant
from holdfast.fleet.model import Grant
from holdfast.kernel.clock import ManualClock, SystemClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, NotFound, Unavailable
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.objects import open_objects
from holdfast.kernel.outbox import Outbox
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.secrets import TenantSecrets
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import Metrics
from holdfast.kernel.trusted import TrustedKeys
from holdfast.keyring import EnvelopeSealer, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.ledger.errors import EntryUnknown
from holdfast.ledger.model import Proof
from holdfast.records.model import (
    Batch,
    BatchReceipt,
    MappedRecord,
    Measure,
    PeriodValue,
    RawResponse,
    Reject,
    Run,
    RunFinish,
    RunOpen,
)
from holdfast.records.service import RecordsService
from holdfast.records.settings import RecordsSettings
from holdfast.registry.model import Profile, profile_digest
from holdfast.registry.versions import ProfileOverrides, ProfileStatus, ProfileVersion
from tests.support.searching import ServerFiles
from tests.support.signing import PUBLIC_KEY, REGISTRATION, WORKER_KEY, signed

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = SigningKey.from_seed(b"c" * 32)
OPERATOR = operator()


def counting_ids(clock: ManualClock) -> NewId:
    """Ids that a seed repeats: the clock's time and a counter."""
    counter = iter(range(1, 2**40))
    return id_source(clock, lambda size: next(counter).to_bytes(size, "big"))


def profile(name: str = "rates", **changes: Any) -> Profile:
    """A small profile of monthly rates by state."""
    plain: dict[str, Any] = {
        "version": 1,
        "name": name,
        "title": "Rates",
        "publisher": "Somebody",
        "licence": "Public domain",
        "source": {"url": "https://example.org/rates.json", "format": {"type": "json"}},
        "key": ["dimensions.state", "period"],
        "dimensions": {"state": "$.state"},
        "measures": {"rate": {"path": "$.rate", "unit": "%"}},
        "attributes": {"flag": "$.flag"},
        "period": {"path": "$.month", "frequency": "M"},
        **changes,
    }
    return msgspec.convert(plain, Profile)


class EmptyLedger:
    """A ledger that no relay has brought anything yet."""

    async def event_proofs(self, principal: Principal, events: Sequence[str]) -> list[Proof]:
        raise EntryUnknown(f"cannot find the event {events[0]}")


class KnownProfiles:
    """The port that the registry fills: versions by name and digest."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], ProfileVersion] = {}
        self.newest: dict[str, str] = {}
        self.removed: set[str] = set()
        self.away = False
        self.broken: set[str] = set()

    def add(self, one: Profile) -> ProfileVersion:
        version = ProfileVersion(
            name=one.name,
            digest=profile_digest(one),
            profile=one,
            published_at=timestamp(START),
            published_by="operator",
        )
        self.versions[one.name, version.digest] = version
        self.newest[one.name] = version.digest
        return version

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        found = self.versions.get((name, digest or self.newest.get(name, "")))
        if found is None:
            raise NotFound(f"cannot find the profile {name}")
        return found

    async def status(self, principal: Principal, name: str) -> ProfileStatus:
        if self.away:
            raise Unavailable("cannot reach the registry")
        if name in self.broken:
            raise Corrupt(f"cannot read the profile {name}: its version is not what it was")
        found = await self.show(principal, name)
        return ProfileStatus(
            name=name,
            title=found.profile.title,
            digest=found.digest,
            published_at=found.published_at,
            enabled=True,
            overrides=ProfileOverrides(),
            runnable=name not in self.removed,
            removed=name in self.removed,
        )


def record(
    state: str,
    rate: str | None,
    *,
    month: int = 1,
    position: int = 0,
    response: int = 0,
    flag: str | None = None,
) -> MappedRecord:
    """One record of :func:`profile`."""
    start, end = f"2025-{month:02d}-01", f"2025-{month + 1:02d}-01" if month < 12 else "2026-01-01"
    return MappedRecord(
        response=response,
        position=position,
        key=[state, start],
        dimensions={"state": state},
        measures={"rate": Measure(value=rate, unit="%")},
        attributes={} if flag is None else {"flag": flag},
        period=PeriodValue(start=start, end=end, frequency="M", text=f"2025-{month:02d}"),
    )


def raw(sequence: int, content: bytes, **changes: Any) -> RawResponse:
    """The account of a raw response."""
    return RawResponse(
        **{
            "sequence": sequence,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size_bytes": len(content),
            "url": f"https://example.org/rates.json?page={sequence}",
            "address": "192.0.2.1:443",
            "status": 200,
            "media_type": "application/json",
            "etag": f'"{sequence}"',
            "fetched_at": timestamp(START),
            **changes,
        }
    )


@dataclass
class Bench:
    """The service with everything around it that a test wants to turn."""

    service: Any
    """The service, or a client of it."""
    clock: ManualClock
    new_id: NewId
    profiles: KnownProfiles
    db: Database
    metrics: Metrics
    principal: Principal = OPERATOR
    server: ServerFiles | None = None
    """What the server under ``db`` has written, where a test looks into it."""
    attempts: dict[str, Attempt] = field(default_factory=dict)

    def attempt(
        self,
        name: str = "rates",
        *,
        fence: int = 1,
        run: str | None = None,
        lease_seconds: float = 60,
        digest: str = "",
        tenant: str = "",
    ) -> Attempt:
        """A worker's hold on a run, with a fresh grant."""
        return Attempt(
            self,
            Grant(
                tenant=tenant or self.principal.tenant,
                task=self.new_id(),
                run=run or self.new_id(),
                profile=name,
                digest=digest or self.profiles.newest[name],
                worker="worker-1",
                fence=fence,
                lease_expires_at=timestamp(self.clock.now() + timedelta(seconds=lease_seconds)),
                key=PUBLIC_KEY,
                registration=REGISTRATION,
            ),
        )

    async def collect(
        self, records: list[MappedRecord], *, name: str = "rates", size: int = 1000, fence: int = 1
    ) -> Run:
        """A whole complete run with these records."""
        attempt = self.attempt(name, fence=fence)
        await attempt.open()
        await attempt.respond()
        batches = 0
        for start in range(0, len(records), size):
            await attempt.post(records[start : start + size], sequence=batches)
            batches += 1
        return await attempt.finish(batches=batches)


@dataclass
class Attempt:
    """One worker's attempt at one run."""

    bench: Bench
    claim: Grant
    digests: dict[int, str] = field(default_factory=dict)
    """Of the raw responses, as the worker knows them."""

    @property
    def run(self) -> str:
        return self.claim.run

    @property
    def grant(self) -> str:
        return sign_grant(KEY, self.claim, self.bench.clock.now())

    def renewed(self, seconds: float = 60) -> None:
        """What a beat brings."""
        expires = timestamp(self.bench.clock.now() + timedelta(seconds=seconds))
        self.claim = msgspec.structs.replace(self.claim, lease_expires_at=expires)

    async def open(self) -> Run:
        request = RunOpen(run=self.run, fence=self.claim.fence)
        return await self.bench.service.open(self.bench.principal, self.grant, request)

    async def respond(self, sequence: int = 0, content: bytes = b"[]", **changes: Any) -> None:
        self.digests[sequence] = raw(sequence, content, **changes).digest
        await self.bench.service.put_response(
            self.bench.principal, self.grant, self.run, raw(sequence, content, **changes), content
        )

    async def post(
        self,
        records: list[MappedRecord],
        *,
        sequence: int = 0,
        rejects: list[Reject] | None = None,
    ) -> BatchReceipt:
        batch = self.batch(records, sequence=sequence, rejects=rejects)
        return await self.bench.service.post_batch(self.bench.principal, self.grant, batch)

    def batch(
        self,
        records: list[MappedRecord],
        *,
        sequence: int = 0,
        rejects: list[Reject] | None = None,
        key: SigningKey = WORKER_KEY,
    ) -> Batch:
        """A batch as the worker signs it."""
        batch = Batch(
            run=self.run,
            fence=self.claim.fence,
            sequence=sequence,
            records=records,
            rejects=rejects or [],
        )
        return signed(batch, self.claim, self.digests, key)

    async def finish(self, outcome: str = "complete", *, batches: int = 1, **members: Any) -> Run:
        request = msgspec.convert(
            {
                "run": self.run,
                "fence": self.claim.fence,
                "outcome": outcome,
                "batches": batches if outcome == "complete" else 0,
                **members,
            },
            RunFinish,
        )
        return await self.bench.service.finish(self.bench.principal, self.grant, request)


def keyring_in(folder: Path) -> Keyring:
    """A keyring of its own, in the folder."""
    master = folder / "master.key"
    return open_keyring(
        open_store(f"sqlite:///{folder / 'keyring.db'}"),
        lambda may: MasterKeys.create(master) if may else MasterKeys.from_file(master),
        SystemClock(),
        new_id="keyring",
        expected=None,
    )


@asynccontextmanager
async def bench_on(
    database: Database, folder: Path, *profiles: Profile, **settings: Any
) -> AsyncIterator[Bench]:
    """A service on ``database`` that knows these profiles (or the usual one)."""
    clock = ManualClock(START)
    known = KnownProfiles()
    for one in profiles or (profile(),):
        known.add(one)
    secrets = TenantSecrets(b"s" * 32)
    new_id, metrics = counting_ids(clock), Metrics()
    keyring = keyring_in(folder)
    async with open_objects(f"file://{folder / 'objects'}", secrets) as objects:
        service = RecordsService(
            db=database,
            objects=objects,
            outbox=Outbox(EnvelopeSealer(keyring)),
            secrets=secrets,
            keyring=keyring,
            profiles=known,
            ledger=EmptyLedger(),
            grants=TrustedKeys({"coordinator": [KEY.public_jwk()]}),
            clock=clock,
            new_id=new_id,
            settings=RecordsSettings(projections=folder / "projections", **settings),
            metrics=metrics,
        )
        try:
            yield Bench(service, clock, new_id, known, database, metrics)
        finally:
            keyring.close()
