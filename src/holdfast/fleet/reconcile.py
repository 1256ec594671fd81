"""What must become true by itself: leases end, silence is noticed, schedules start, runs close.

Each step looks at what is and moves it towards what should be; done twice it does nothing twice. It
is woken by a timer, and by a signal when there is something to do; a step that fails is logged and
tried again at the next turn. So what runs after a restart is what runs all day.

Of several coordinators one at a time does this, by a leadership lease. That only saves work: what
must not happen twice is settled by rows (a locked task, a schedule's moment, an exclusive name).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection

from holdfast.fleet import host_store, rules, schedule_store, store, tasks, worker_store, workers
from holdfast.fleet.fates import Fate, decide, fail, give_up
from holdfast.fleet.model import CollectPayload, Task
from holdfast.fleet.ports import Runs
from holdfast.fleet.service import FleetService
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import (
    Conflict,
    HoldfastError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from holdfast.kernel.ids import EventId, TenantId
from holdfast.kernel.principal import Principal, service
from holdfast.registry.model import Schedule
from holdfast.registry.versions import RunnableProfile, RunnableSet

LEADERSHIP = "coordinator"
LEAD_SECONDS = 10.0
SWEEP_MAX = 500
CLOSES_AT_ONCE = 8
MEASURE_SECONDS = 15.0
MAKERS_SECONDS = 5.0
PACE_KEPT_SECONDS = 300.0
CLOSE_SECONDS_FIRST = 1.0
CLOSE_SECONDS_MAX = 300.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Finder(Protocol):
    """Finds tasks; with ``lock`` they are ours until we commit."""

    def __call__(self, conn: Connection, *, lock: bool) -> Sequence[Any]: ...


class FleetLoops:
    """Runs the steps while it is open (``async with``). ``holder`` names this instance.

    ``collect_at_start``: each runnable profile is collected once when this process first sees it,
    whatever its schedule; for the sample and for demonstrations.
    """

    def __init__(
        self,
        fleet: FleetService,
        *,
        holder: str,
        runs: Runs | None = None,
        collect_at_start: bool = False,
    ) -> None:
        self._fleet = fleet
        self._holder = holder
        self._runs = runs
        self._collect_at_start = collect_at_start
        self._started: set[tuple[str, str]] = set()
        self._runnable: dict[TenantId, RunnableSet] = {}
        self._lead_until: dict[TenantId, datetime] = {}
        self._measure_at = 0.0
        self._makers_at = 0.0
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> FleetLoops:
        self._loops = [
            asyncio.create_task(self._run(self.keep_tasks), name="fleet-tasks"),
            asyncio.create_task(self._run(self.ask_neighbours), name="fleet-neighbours"),
            asyncio.create_task(self._run(self.ask_identity), name="fleet-identity"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for tenant in self._lead_until:
            try:
                principal = service("coordinator", tenant)
                await self._fleet.leases.resign(principal, LEADERSHIP, self._holder)
            except HoldfastError as error:
                log.warning("fleet.resign_failed", detail=error.detail)

    async def tick(self) -> None:
        """One turn of every step for every tenant; failures are logged, not raised."""
        await self.keep_tasks()
        await self.ask_neighbours()
        await self.ask_identity()

    async def keep_tasks(self) -> None:
        """One turn of the steps that need nobody but the database."""
        tenants = await self._tenants()
        if self._fleet.clock.monotonic() >= self._measure_at:
            self._measure_at = self._fleet.clock.monotonic() + MEASURE_SECONDS
            await self._step("measure", self.measure(tenants))
        for tenant in tenants:
            principal = service("coordinator", tenant)
            if not await self._step("lead", self._leads(principal)):
                continue
            await self._step("expire", self.expire_leases(principal))
            await self._step("overdue", self.end_overdue(principal))
            await self._step("lost", self.find_lost_workers(principal))
            await self._step("promote", self.promote(principal))
            await self._step("hosts", self.sweep_hosts(principal))

    async def ask_neighbours(self) -> None:
        """One turn of the steps that ask the registry and the aggregator.

        They have a loop of their own: a neighbour that does not answer must not keep leases from
        ending.
        """
        for tenant in await self._tenants():
            principal = service("coordinator", tenant)
            if await self._step("lead", self._leads(principal)):
                await self._step("schedule", self.run_schedules(principal))
                await self._step("close", self.close_runs(principal))

    async def ask_identity(self) -> None:
        """One turn of what asks identity, in a loop of its own, too."""
        clock = self._fleet.clock
        if clock.monotonic() < self._makers_at:
            return
        self._makers_at = clock.monotonic() + MAKERS_SECONDS
        for tenant in await self._tenants():
            principal = service("coordinator", tenant)
            if await self._step("lead", self._leads(principal)):
                await self._step("makers", self._fleet.end_tokens_of_makers(principal))

    async def _run(self, turn: Callable[[], Awaitable[None]]) -> None:
        with self._fleet.called() as called:
            while True:
                called.clear()
                await turn()
                await self._wait(called)

    async def _wait(self, called: asyncio.Event) -> None:
        """Until we are called, or for a tick."""
        clock, seconds = self._fleet.clock, self._fleet.settings.tick_seconds
        waits = [
            asyncio.create_task(called.wait()),
            asyncio.create_task(_sleep(clock.sleep, seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _tenants(self) -> Sequence[TenantId]:
        try:
            return await self._fleet.database.tenants()
        except HoldfastError as error:
            log.warning("fleet.step_failed", step="tenants", detail=error.detail)
            return []

    async def _step(
        self, name: str, step: Awaitable[T], *, let_out: tuple[type[HoldfastError], ...] = ()
    ) -> T | None:
        """What came of it; ``None`` if it failed. What is let out ends the step around it."""
        try:
            return await step
        except HoldfastError as error:
            if isinstance(error, let_out):
                raise
            log.warning(
                "fleet.step_failed",
                step=name,
                code=error.code,
                detail=error.detail,
                internal=error.internal,
            )
        except Exception:  # the outer edge of the loop: one defect must not stop the others
            log.exception("fleet.step_failed", step=name)
        return None

    async def _leads(self, principal: Principal) -> bool:
        now = self._fleet.clock.now()
        until = self._lead_until.get(principal.tenant)
        if until is not None and now < until - timedelta(seconds=LEAD_SECONDS / 2):
            return True
        leads = await self._fleet.leases.lead(
            principal, LEADERSHIP, self._holder, LEAD_SECONDS, now
        )
        if leads:
            self._lead_until[principal.tenant] = now + timedelta(seconds=LEAD_SECONDS)
        else:
            self._lead_until.pop(principal.tenant, None)
        return leads

    async def measure(self, tenants: Sequence[TenantId]) -> None:
        """Bring the gauges up to what the database holds, over all tenants."""
        states: Counter[str] = Counter()
        found: Counter[str] = Counter()
        oldest = 0.0
        now = self._fleet.clock.now()
        for tenant in tenants:

            def unit(conn: Connection, tenant: str = tenant) -> tuple[Any, Any, str | None]:
                return (
                    store.count_states(conn, tenant),
                    store.count_workers(conn, tenant),
                    store.oldest_ready(conn, tenant),
                )

            of_tenant, of_workers, since = await self._fleet.database.read(
                service("coordinator", tenant), unit
            )
            states.update(of_tenant)
            found.update(of_workers)
            if since is not None:
                oldest = max(oldest, (now - parse_timestamp(since)).total_seconds())
        self._fleet.metrics.show(states, found, oldest)

    # --- leases -------------------------------------------------------------------------------

    async def expire_leases(self, principal: Principal) -> int:
        """Free what is leased beyond its time; how many.

        A lease is not ended before this process has run for as long as the lease lasts: its
        holder's beats may have found nobody to hear them.
        """
        fleet, now = self._fleet, self._fleet.clock.now()

        def find(conn: Connection, *, lock: bool) -> list[Any]:
            rows = store.expired(conn, principal.tenant, timestamp(now), SWEEP_MAX, lock=lock)
            return [
                row
                for row in rows
                if fleet.started_at + timedelta(seconds=row.lease_seconds) <= now
            ]

        def fate(row: Any, chance: float) -> Fate:
            return fail(
                row,
                now,
                fleet.backoff,
                jitter=chance,
                code="lease-expired",
                reason="the lease ran out without a beat",
            )

        ended = await self._end_found(principal, find, fate, now)
        fleet.metrics.expired(ended)
        return ended

    async def end_overdue(self, principal: Principal) -> int:
        """End what nobody claimed before its deadline; how many."""
        now = self._fleet.clock.now()

        def find(conn: Connection, *, lock: bool) -> Sequence[Any]:
            return store.past_deadline(conn, principal.tenant, timestamp(now), SWEEP_MAX, lock=lock)

        def fate(row: Any, _chance: float) -> Fate:
            reason = "no worker had finished it by its deadline"
            return give_up(row, now, rules.State.DEAD, "deadline-passed", reason)

        return await self._end_found(principal, find, fate, now)

    async def _end_found(
        self,
        principal: Principal,
        find: Finder,
        fate: Callable[[Any, float], Fate],
        now: datetime,
    ) -> int:
        """Look for tasks, and if there are any look again under lock and end those; how many.

        Looking takes no write, so a turn at which there is nothing to do costs nobody anything.
        """
        fleet = self._fleet
        seen = await fleet.database.read(principal, lambda conn: find(conn, lock=False))
        if not seen:
            return 0
        ids, chances = self._spare(len(seen))

        def unit(conn: Connection) -> list[str]:
            rows = find(conn, lock=True)
            fates = [
                (row, fate(row, chance), id_, principal.subject)
                for row, id_, chance in zip(rows, ids, chances, strict=False)
            ]
            return decide(conn, principal, fleet.outbox, now, fates)

        events = await fleet.hot(principal.tenant, unit)
        fleet.metrics.ended(events)
        return len(events)

    async def find_lost_workers(self, principal: Principal) -> int:
        """Free what silent workers hold; how many workers were lost."""
        fleet, now = self._fleet, self._fleet.clock.now()
        patience = timedelta(seconds=fleet.settings.lost_after_seconds)
        alive = await fleet.database.read(
            principal, lambda conn: worker_store.workers_alive(conn, principal.tenant)
        )
        beats = await fleet.leases.beats(principal)
        lost = 0
        for row in alive:
            last = parse_timestamp(row.registered_at)
            if row.id in beats:
                last = max(last, beats[row.id].at)
            # Whoever beat while nobody listened may still be there.
            if now - max(last, fleet.started_at) <= patience:
                continue
            ids, chances = self._spare(SWEEP_MAX)
            event = EventId(fleet.new_id())

            def unit(
                conn: Connection,
                worker: str = row.id,
                last: datetime = last,
                event: EventId = event,
                ids: Sequence[EventId] = ids,
                chances: Sequence[float] = chances,
            ) -> list[str] | None:
                return workers.lose(
                    conn,
                    principal,
                    fleet.outbox,
                    fleet.backoff,
                    worker,
                    last,
                    now,
                    event,
                    ids,
                    chances,
                )

            events = await fleet.hot(principal.tenant, unit)
            if events is not None:
                fleet.metrics.lost()
                fleet.metrics.ended(events)
                log.warning("worker.lost", worker=row.id, name=row.name, last=timestamp(last))
                lost += 1
        return lost

    async def promote(self, principal: Principal) -> int:
        """Make claimable what has waited long enough, and wake who waits for it."""
        now = timestamp(self._fleet.clock.now())
        kinds = await self._fleet.hot(
            principal.tenant, lambda conn: store.promote(conn, principal.tenant, now)
        )
        if kinds:
            await self._fleet.leases.wake(principal, *(f"tasks/{kind}" for kind in sorted(kinds)))
        return len(kinds)

    # --- schedules ----------------------------------------------------------------------------

    async def run_schedules(self, principal: Principal) -> list[Task]:
        """Start what is due, forget what may not run; the tasks that were started."""
        if self._fleet.profiles is None:
            return []
        profiles = await self._profiles(principal)
        now = self._fleet.clock.now()

        def look(conn: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
            tenant = principal.tenant
            return schedule_store.read_schedules(conn, tenant), store.queued_profiles(conn, tenant)

        rows, queued = await self._fleet.database.read(principal, look)
        known = {row.profile: row for row in rows}
        await self._cancel_unwanted(principal, profiles, queued)
        for name, row in known.items():
            wanted = name in profiles and profiles[name].schedule is not None
            if row.next_at is not None and not wanted:
                await self._drop(principal, name)
        started: list[Task] = []
        try:
            for profile in profiles.values():
                # One that cannot be started keeps none of the others from it; a database that does
                # not answer would let each of them wait as long.
                found = await self._step(
                    f"schedule {profile.name}",
                    self._begun(principal, profile, known.get(profile.name), queued, now),
                    let_out=(Unavailable, OutcomeUnknown),
                )
                started += found or []
        finally:
            if started:
                self._fleet.metrics.submitted.inc(len(started))
                await self._fleet.leases.wake(principal, "tasks/collect")
        return started

    async def _begun(
        self,
        principal: Principal,
        profile: RunnableProfile,
        row: Any,
        queued: Sequence[Any],
        now: datetime,
    ) -> list[Task]:
        """What was started of one profile, because it is due or this is the start."""
        started: list[Task] = []
        row = await self._planned(principal, profile, row, queued, now)
        if row is not None and row.next_at is not None and row.next_at <= timestamp(now):
            started += await self._fire(principal, profile, row, now)
        key = (principal.tenant, profile.name)
        if self._collect_at_start and key not in self._started:
            started += await self._start(principal, profile, now)
            self._started.add(key)
        return started

    async def _profiles(self, principal: Principal) -> Mapping[str, RunnableProfile]:
        """What may run. The registry is asked each time, and answers briefly if nothing changed."""
        assert self._fleet.profiles is not None
        known = self._runnable.get(principal.tenant)
        fresh = await self._fleet.profiles.runnable(
            principal, unless="" if known is None else known.etag
        )
        if fresh is not None:
            known = self._runnable[principal.tenant] = fresh
        return {} if known is None else {each.name: each for each in known.profiles}

    async def _planned(
        self,
        principal: Principal,
        profile: RunnableProfile,
        row: Any,
        queued: Sequence[Any],
        now: datetime,
    ) -> Any:
        """The profile's schedule as it stands, brought up to date; nothing if it has none."""
        if profile.schedule is None:
            return None
        text = canonical(profile.schedule).decode()
        if row is not None and (row.schedule, row.digest) == (text, profile.digest):
            return row
        plan = _plan(principal.tenant, profile, profile.schedule, text, row, now)
        if row is not None and row.schedule == text:
            # Only the version changed. What waited for the old one has been cancelled: now.
            waited = any(task.exclusive == f"profile:{profile.name}" for task in queued)
            plan = msgspec.structs.replace(plan, next_at=timestamp(now) if waited else row.next_at)
        values = {
            **msgspec.to_builtins(plan),
            "tenant": principal.tenant,
            "last_at": None,
            "last_task": None,
        }
        await self._fleet.database.write(
            principal, lambda c: schedule_store.keep_schedule(c, values)
        )
        return plan

    async def _fire(
        self, principal: Principal, profile: RunnableProfile, row: Any, now: datetime
    ) -> list[Task]:
        fleet = self._fleet
        assert profile.schedule is not None
        due = parse_timestamp(row.next_at)
        following = rules.next_due(profile.schedule, principal.tenant, profile.name, due, now)
        submission = fleet.submission(
            principal, fleet.collect_submission(profile, trigger="schedule", priority=0)
        )
        values = {
            "tenant": principal.tenant,
            "profile": profile.name,
            "schedule": row.schedule,
            "due": row.next_at,
            "next_at": timestamp(following),
        }
        start = _start_of(principal, profile, now, submission.task.id)

        def unit(conn: Connection) -> list[Task]:
            if not schedule_store.fire(conn, values):
                return []  # another coordinator was first
            [outcome], _ = tasks.submit(conn, principal, fleet.outbox, [submission], frozenset())
            if isinstance(outcome, HoldfastError):
                raise outcome
            if outcome.id != submission.task.id:
                return []  # an earlier run that is not finished stands for this one
            schedule_store.note_start(conn, start)
            return [outcome]

        return await fleet.hot(principal.tenant, unit)

    async def _start(
        self, principal: Principal, profile: RunnableProfile, now: datetime
    ) -> list[Task]:
        fleet = self._fleet
        submit = fleet.collect_submission(profile, trigger="start", priority=0)
        submission = fleet.submission(principal, submit)
        start = _start_of(principal, profile, now, submission.task.id)

        def unit(conn: Connection) -> list[Task]:
            [outcome], _ = tasks.submit(conn, principal, fleet.outbox, [submission], frozenset())
            if isinstance(outcome, HoldfastError):
                raise outcome
            if outcome.id != submission.task.id:
                return []
            schedule_store.note_start(conn, start)
            return [outcome]

        return await fleet.hot(principal.tenant, unit)

    async def _cancel_unwanted(
        self,
        principal: Principal,
        profiles: Mapping[str, RunnableProfile],
        queued: Sequence[Any],
    ) -> None:
        """End queued runs of what may not run any more, or of a version that is not the newest.

        A re-mapping asks the source nothing, and is of whichever version it was asked for.
        """
        for row in queued:
            payload = msgspec.json.decode(row.payload, type=CollectPayload)
            profile = profiles.get(payload.profile)
            if profile is not None and (payload.remap or profile.digest == payload.digest):
                continue
            if profile is None:
                code, reason = "profile-not-runnable", "the profile was paused, disabled or removed"
            else:
                code, reason = "profile-superseded", "a newer version was published"
            await self._cancel(principal, row.id, code, reason)

    async def _cancel(self, principal: Principal, task: str, code: str, reason: str) -> None:
        fleet, now, event = self._fleet, self._fleet.clock.now(), EventId(self._fleet.new_id())

        def unit(conn: Connection) -> list[str]:
            row = store.find_tasks(conn, principal.tenant, [task], lock=True).get(task)
            # A worker that has it meanwhile may finish it.
            if row is None or row.state not in ("ready", "waiting"):
                return []
            return tasks.cancel(conn, principal, fleet.outbox, now, task, event, code, reason)[1]

        fleet.metrics.ended(await fleet.hot(principal.tenant, unit))

    async def _drop(self, principal: Principal, profile: str) -> None:
        await self._fleet.database.write(
            principal, lambda conn: schedule_store.drop_schedule(conn, principal.tenant, profile)
        )

    # --- places and paces ---------------------------------------------------------------------

    async def sweep_hosts(self, principal: Principal) -> None:
        """Forget the places of leases that are over, and paces that bind nobody any more."""
        tenant = principal.tenant
        old = timestamp(self._fleet.clock.now() - timedelta(seconds=PACE_KEPT_SECONDS))

        def unit(conn: Connection) -> None:
            host_store.sweep_places(conn, tenant)
            host_store.sweep_paces(conn, tenant, old)

        if await self._fleet.database.read(
            principal, lambda conn: host_store.may_sweep(conn, tenant, old)
        ):
            await self._fleet.hot(tenant, unit)

    # --- closing runs -------------------------------------------------------------------------

    async def close_runs(self, principal: Principal) -> int:
        """Close the runs of tasks that ended without their worker; how many were closed."""
        runs = self._runs
        if runs is None:
            return 0
        now = timestamp(self._fleet.clock.now())
        rows = await self._fleet.database.read(
            principal, lambda conn: store.due_closes(conn, principal.tenant, now, SWEEP_MAX)
        )
        gate, silent = asyncio.Semaphore(CLOSES_AT_ONCE), asyncio.Event()

        async def one(row: Any) -> bool:
            async with gate:
                # Whoever does not answer one now would let the others wait as long.
                return not silent.is_set() and await self._close(principal, runs, row, silent)

        return sum(await asyncio.gather(*(one(row) for row in rows)))

    async def _close(
        self, principal: Principal, runs: Runs, row: Any, silent: asyncio.Event
    ) -> bool:
        payload = msgspec.json.decode(row.payload, type=CollectPayload)
        again: str | None = None
        try:
            await runs.close_run(
                principal,
                run=payload.run,
                fence=row.fence,
                profile=payload.profile,
                profile_digest=payload.digest,
                task=row.id,
                outcome="cancelled" if row.state == "cancelled" else "failed",
                code=row.code,
                reason=row.reason,
            )
        except (NotFound, Conflict) as error:
            # It never began, or it ended otherwise: nothing is left to close.
            log.info("run.close_moot", run=payload.run, task=row.id, detail=error.detail)
        except HoldfastError as error:
            if isinstance(error, Unavailable | OutcomeUnknown):
                silent.set()
            pause = rules.backoff_seconds(
                row.closes + 1,
                first_seconds=CLOSE_SECONDS_FIRST,
                most_seconds=CLOSE_SECONDS_MAX,
                random=self._fleet.chance(),
            )
            again = timestamp(self._fleet.clock.now() + timedelta(seconds=pause))
            log.warning("run.close_failed", run=payload.run, task=row.id, detail=error.detail)
        await self._fleet.hot(
            principal.tenant,
            lambda conn: store.set_close(conn, principal.tenant, row.id, again),
        )
        return again is None

    def _spare(self, amount: int) -> tuple[list[EventId], list[float]]:
        """Ids and chances for as many rows as a unit may find."""
        fleet = self._fleet
        return (
            [EventId(fleet.new_id()) for _ in range(amount)],
            [fleet.chance() for _ in range(amount)],
        )


def _start_of(
    principal: Principal, profile: RunnableProfile, now: datetime, task: str
) -> dict[str, Any]:
    """What a schedule's row is told of a start."""
    return {
        "tenant": principal.tenant,
        "profile": profile.name,
        "digest": profile.digest,
        "last_at": timestamp(now),
        "last_task": task,
    }


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule's row, without what it last started."""

    profile: str
    digest: str
    schedule: str
    next_at: str | None
    problem: str = ""


def _plan(
    tenant: str,
    profile: RunnableProfile,
    schedule: Schedule,
    text: str,
    row: Any,
    now: datetime,
) -> _Plan:
    last = None if row is None or row.last_at is None else parse_timestamp(row.last_at)
    try:
        due: str | None = timestamp(rules.first_due(schedule, tenant, profile.name, now, last))
        problem = ""
    except Invalid as error:
        due, problem = None, error.detail
        log.warning("schedule.unusable", profile=profile.name, detail=error.detail)
    return _Plan(
        profile=profile.name, digest=profile.digest, schedule=text, next_at=due, problem=problem
    )


async def _sleep(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)
