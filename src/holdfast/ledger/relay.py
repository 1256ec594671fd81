"""The relay: a role's outbox into the ledger, in order, exactly once by event id, past no gap.

One holder of the lease per database moves rows. A row is taken out of the outbox only once the
ledger holds it; if we die in between, the ledger knows the id, and passes it over. A row that the
ledger refuses for good is set aside among the dead letters with the reason, readiness turns
degraded, and those behind it go on: its place is known, so that is no gap. What another keyring has
sealed is not lost and not refused: it waits, and what is behind it with it, for a relay that can
open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection, text

from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database, Unit
from holdfast.kernel.errors import HoldfastError, Kind
from holdfast.kernel.http.problems import FOREIGN_ANSWER
from holdfast.kernel.outbox import BEGINNING, SEALED_ELSEWHERE, Entry, Outbox
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import Metrics, get_logger
from holdfast.leases import Leases
from holdfast.ledger import model
from holdfast.ledger.model import Prepared

log = get_logger("relay")

LEADERSHIP = "relay"
LEAD_SECONDS = 10.0
BATCH = 500
IDLE_SECONDS = 0.2
MEASURE_SECONDS = 1.0
FAILED_SECONDS = 2.0
BEHIND_SECONDS = 60.0
REFUSALS = frozenset({Kind.INVALID, Kind.CONFLICT, Kind.TOO_LARGE})
"""What repeating cannot help, if it is the ledger that says so. Everything else is tried again, for
as long as it takes: damage is the ledger's own, no event's, and events that were set aside for it
would never come into it."""

_BURY = text(
    "INSERT INTO outbox_dead (tenant, event_id, stream, type, time, subject, request_id,"
    " about, payload_bytes, payload_commitment, sealing, sealed, reason, died_at)"
    " SELECT tenant, event_id, stream, type, time, subject, request_id, about, payload_bytes,"
    " payload_commitment, sealing, sealed, :reason, :now FROM outbox"
    " WHERE tenant = :tenant AND event_id = :event_id ON CONFLICT DO NOTHING"
)
_FIRST = {
    "sqlite": text(
        "SELECT event_id FROM outbox WHERE tenant = :tenant"
        " ORDER BY transaction_id, sequence LIMIT 1"
    ),
    "postgresql": text(
        "SELECT event_id FROM outbox WHERE tenant = :tenant AND transaction_id <"
        " CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
        " ORDER BY transaction_id, sequence LIMIT 1"
    ),
}
_DEAD = text("SELECT count(*) FROM outbox_dead WHERE tenant = :tenant")


class Deliveries(Protocol):
    """The ledger as the relay sees it: here or in another process."""

    async def append_prepared(
        self, principal: Principal, events: Sequence[Prepared]
    ) -> model.Appended:
        """Append what is not there yet, in order."""
        ...


class RelayMetrics:
    """The relay's metrics in one registry; ``vdb_replication_lag_records`` is guide 3's name."""

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.gauge(
            "vdb_replication_lag_records", "Events committed with state, not in the ledger yet."
        )
        self._age = metrics.gauge(
            "holdfast_relay_lag_seconds", "Age of the oldest event that is not in the ledger yet."
        )
        self._moved = metrics.counter("holdfast_relay_events_total", "Events brought over.")
        self._dead = metrics.gauge("holdfast_relay_dead_letters", "Events the ledger refused.")

    def show(self, lag: int, age_seconds: float, dead: int) -> None:
        """Bring the gauges up to what the database holds."""
        self._lag.set(lag)
        self._age.set(age_seconds)
        self._dead.set(dead)

    def moved(self, amount: int) -> None:
        """Events were brought over."""
        self._moved.inc(amount)


class Relay:
    """Moves the events of every tenant of one database."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        ledger: Deliveries,
        leases: Leases,
        clock: Clock,
        *,
        holder: str,
        metrics: RelayMetrics,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._leases = leases
        self._clock = clock
        self._holder = holder
        self._metrics = metrics
        self._measure_at = 0.0

    async def run(self) -> None:
        """Move events as they come, until cancelled."""
        while True:
            moved, failed = 0, False
            for tenant in await self._database.tenants():
                principal = service("relay", tenant)
                try:
                    moved += await self.step(principal)
                except HoldfastError as error:
                    failed = True
                    log.warning(
                        "the ledger takes no events now; they wait",
                        tenant=tenant,
                        code=error.code,
                        detail=error.detail,
                    )
            if self._clock.monotonic() >= self._measure_at:
                await self.measure()
                self._measure_at = self._clock.monotonic() + MEASURE_SECONDS
            if failed:
                await self._clock.sleep(FAILED_SECONDS)
            elif not moved:
                await self._clock.sleep(IDLE_SECONDS)

    async def step(self, principal: Principal) -> int:
        """Move what is ready, at most a batch; how many. Raises what may pass by itself."""
        now = self._clock.now()
        if not await self._leases.lead(principal, LEADERSHIP, self._holder, LEAD_SECONDS, now):
            return 0
        try:
            entries = await self._database.read(
                principal, lambda conn: self._outbox.ready(conn, principal, BEGINNING, BATCH)
            )
        except HoldfastError as error:
            if error.kind is not Kind.CORRUPT:
                raise
            return await self._one_by_one(principal)
        if entries:
            await self._deliver(principal, entries)
        return len(entries)

    async def _deliver(self, principal: Principal, entries: Sequence[Entry]) -> None:
        ids = [entry.event.id for entry in entries]
        try:
            await self._ledger.append_prepared(principal, [_prepared(each) for each in entries])
        except HoldfastError as error:
            if error.kind not in REFUSALS:
                raise
            if len(entries) > 1:
                # Also what a proxy refuses, which may let less than a batch through.
                for entry in entries:
                    await self._deliver(principal, [entry])
                return
            # What stands in between, or speaks another version, says nothing of the event.
            if error.code == FOREIGN_ANSWER:
                raise
            await self._bury(principal, ids[0], error)
            return
        await self._database.write(
            principal, lambda conn: self._outbox.forget(conn, principal, ids)
        )
        self._metrics.moved(len(ids))

    async def _one_by_one(self, principal: Principal) -> int:
        """The first row alone, so that one that cannot be read does not stop the others."""
        try:
            entries = await self._database.read(
                principal, lambda conn: self._outbox.ready(conn, principal, BEGINNING, 1)
            )
        except HoldfastError as error:
            if error.kind is not Kind.CORRUPT or error.code == SEALED_ELSEWHERE:
                raise
            first = await self._database.read(
                principal,
                lambda conn: conn.execute(
                    _FIRST[conn.dialect.name], {"tenant": principal.tenant}
                ).scalar_one_or_none(),
            )
            if first is not None:
                await self._bury(principal, first, error)
            return 1
        if entries:
            await self._deliver(principal, entries)
        return len(entries)

    async def _bury(self, principal: Principal, event_id: str, error: HoldfastError) -> None:
        values = {
            "tenant": principal.tenant,
            "event_id": event_id,
            "reason": f"{error.code}: {error.detail}"[:2000],
            "now": timestamp(self._clock.now()),
        }

        def unit(conn: Connection) -> None:
            conn.execute(_BURY, values)
            self._outbox.forget(conn, principal, [event_id])

        await self._database.write(principal, unit)
        log.error("the ledger refuses an event", event_id=event_id, detail=error.detail)

    async def measure(self) -> tuple[int, float, int]:
        """Events that wait, the age of the oldest in seconds, and dead letters; told as metrics."""
        lag, dead, age = 0, 0, 0.0
        now = self._clock.now()
        for tenant in await self._database.tenants():
            waiting, since, buried = await self._database.read(
                service("relay", tenant), self._counts(service("relay", tenant))
            )
            lag, dead = lag + waiting, dead + buried
            if since is not None:
                age = max(age, (now - since) / timedelta(seconds=1))
        self._metrics.show(lag, age, dead)
        return lag, age, dead

    def _counts(self, principal: Principal) -> Unit[tuple[int, datetime | None, int]]:
        def unit(conn: Connection) -> tuple[int, datetime | None, int]:
            waiting, since = self._outbox.waiting(conn, principal)
            dead = conn.execute(_DEAD, {"tenant": principal.tenant}).scalar_one()
            return waiting, since, dead

        return unit

    async def check(self) -> str | None:
        """Readiness: degraded while events are dead, or have waited for more than a minute."""
        _, age, dead = await self.measure()
        return "degraded" if dead or age > BEHIND_SECONDS else None


def _prepared(entry: Entry) -> Prepared:
    event = entry.event
    return Prepared(
        id=event.id,
        stream=event.stream,
        type=event.type,
        time=timestamp(event.time),
        subject=event.subject,
        request=event.request_id,
        about=event.about,
        length=entry.payload_bytes,
        commitment=entry.commitment,
        payload=entry.payload,
        salt=entry.salt,
        sealing=entry.sealed.algorithm,
        sealed=entry.sealed.data,
    )
