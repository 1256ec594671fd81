"""The coordinator's work: who may work, what there is to do, who has it, and how it ended.

Everything here is durable when it is answered, and any number of instances may run on one database
(with shared leases). What is done in rows that everybody writes to — submitting, claiming, ending,
renewing — is gathered from concurrent callers and done in sets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.fleet import fates, schedule_store, store, submissions, tasks, worker_store
from holdfast.fleet.admission import Admission
from holdfast.fleet.base import Batchers, asking_worker
from holdfast.fleet.grants import sign_grant
from holdfast.fleet.hosts import Hosts
from holdfast.fleet.model import (
    COLLECT,
    Beat,
    BeatAnswer,
    Claim,
    ClaimedTask,
    CollectRequest,
    Complete,
    Completed,
    CompleteTask,
    Grant,
    Refusal,
    ScheduledProfile,
    Submitted,
    Task,
    TaskFilter,
    TaskStatus,
    TaskSubmit,
)
from holdfast.fleet.submissions import PAYLOAD_BYTES_MAX
from holdfast.kernel.batching import Batcher
from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import (
    Conflict,
    HoldfastError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.idempotency import once, settle
from holdfast.kernel.ids import EventId, TenantId, uuid7
from holdfast.kernel.principal import Principal, service
from holdfast.registry.versions import RunnableProfile

PRUNE_BATCH = 500


class FleetService(Admission, Hosts):
    """Workers, tasks and schedules. See the README for the life of one task."""

    async def close(self) -> None:
        """Wait for what is under way."""
        for batchers in self._batchers.values():
            for batcher in (batchers.submit, batchers.claim, batchers.complete, batchers.renew):
                await batcher.close()

    # --- submitting ---------------------------------------------------------------------------

    async def submit(
        self, principal: Principal, submit: TaskSubmit, *, idempotency_key: str = ""
    ) -> Task:
        """Put a task into its queue; durable when answered.

        With an ``id`` of the caller's the same submission again answers with the same task, another
        under that id is a :class:`Conflict`; so it is, within a day, with an ``idempotency_key``.
        With ``exclusive`` an unfinished task under that name is the answer instead. Raises
        :class:`Invalid` or :class:`TooLarge` for what cannot be kept.
        """
        if idempotency_key and submit.id is None:

            async def make(task: str, _run: str) -> Task:
                return await self.submit(principal, msgspec.structs.replace(submit, id=task))

            told = digest(msgspec.json.encode(submit, order="sorted"))
            return await self._once(principal, "tasks.submit", idempotency_key, told, make)
        submission = self.submission(principal, submit)
        task = await self._batchers_of(principal.tenant).submit.do(submission)
        await self._wake_for(principal, [task])
        return task

    async def submit_many(
        self, principal: Principal, submits: Sequence[TaskSubmit], *, idempotency_key: str = ""
    ) -> list[Task | HoldfastError]:
        """:meth:`submit` of each; the task or the refusal of each, in order.

        A repetition under the same ``idempotency_key`` within a day gets the same tasks, and makes
        those that the first request did not come to. What cannot be kept at all is raised before
        anything is stored.
        """
        if not idempotency_key:
            return await self._submit_all(principal, submits)
        told = digest(msgspec.json.encode(list(submits), order="sorted"))
        now = self.clock.now()
        fresh = msgspec.json.encode([each.id or self.new_id() for each in submits])
        for submit in submits:
            self.submission(principal, submit)
        route = "tasks.submit-many"
        kept, again = await self.database.write(
            principal,
            lambda conn: once(conn, principal, route, idempotency_key, told, now, lambda: fresh),
        )
        ids = msgspec.json.decode(kept, type=list[str])
        # Under an id of the submitter's own may lie what is another's: that is asked for again.
        ours = {
            place: task
            for place, (task, submit) in enumerate(zip(ids, submits, strict=True))
            if again and task != submit.id
        }
        there = await self._tasks_of(principal, ours.values())
        found: dict[int, Task | HoldfastError] = {
            place: there[task] for place, task in ours.items() if task in there
        }
        missing = [place for place in range(len(ids)) if place not in found]
        named = [msgspec.structs.replace(submits[place], id=ids[place]) for place in missing]
        found |= zip(missing, await self._submit_all(principal, named), strict=True)
        answered = [
            outcome.id if isinstance(outcome, Task) else ids[place]
            for place, outcome in sorted(found.items())
        ]
        if answered != ids:
            # Unfinished tasks in the way are the answer, and stay it when they have finished.
            answer = msgspec.json.encode(answered)
            await self.database.write(
                principal, lambda conn: settle(conn, principal, route, idempotency_key, answer)
            )
        return [found[place] for place in range(len(ids))]

    async def _tasks_of(self, principal: Principal, ids: Collection[str]) -> dict[str, Task]:
        """Those of these tasks that are there, without the leases that came to nothing."""
        if not ids:
            return {}
        rows = await self.database.read(
            principal, lambda conn: store.find_tasks(conn, principal.tenant, ids)
        )
        return {task: fates.task_of(row) for task, row in rows.items()}

    async def _submit_all(
        self, principal: Principal, submits: Sequence[TaskSubmit]
    ) -> list[Task | HoldfastError]:
        submissions = [self.submission(principal, submit) for submit in submits]
        outcomes = await self._batchers_of(principal.tenant).submit.do_all(submissions)
        await self._wake_for(principal, [each for each in outcomes if isinstance(each, Task)])
        return outcomes

    async def collect(
        self, principal: Principal, request: CollectRequest, *, idempotency_key: str = ""
    ) -> Task:
        """Run a profile now, at its newest version; or the run of it that is not finished yet.

        A repetition under the same ``idempotency_key`` within a day gets the same task. Raises
        :class:`NotFound` for a profile that is unknown, removed, disabled or paused.
        """
        if not idempotency_key:
            return await self._collect(principal, request, self.new_id(), self.new_id())
        told = digest(msgspec.json.encode(request, order="sorted"))
        make = partial(self._collect, principal, request)
        return await self._once(principal, "tasks.collect", idempotency_key, told, make)

    async def _once(
        self,
        principal: Principal,
        route: str,
        key: str,
        fingerprint: str,
        make: Callable[[str, str], Coroutine[Any, Any, Task]],
    ) -> Task:
        """The task that the first request under ``key`` got.

        The ids of the task and of its run are set aside before it is made, so that at most one is,
        and what was answered is known before it is answered. If the process dies in between, the
        repetition makes it, under the same ids.
        """
        now, fresh = self.clock.now(), msgspec.json.encode([self.new_id(), self.new_id()])
        kept, again = await self.database.write(
            principal,
            lambda conn: once(conn, principal, route, key, fingerprint, now, lambda: fresh),
        )
        task, run = msgspec.json.decode(kept, type=tuple[str, str])
        if again:
            with contextlib.suppress(NotFound):
                return await self.show_task(principal, task)
        made = await make(task, run)
        if made.id != task:
            # An unfinished task in the way is the answer, and stays it when it has finished.
            answer = msgspec.json.encode([made.id, run])
            await self.database.write(
                principal, lambda conn: settle(conn, principal, route, key, answer)
            )
        return made

    async def _collect(
        self, principal: Principal, request: CollectRequest, task_id: str, run: str
    ) -> Task:
        for profile in await self.runnable(principal):
            if profile.name == request.profile:
                break
        else:
            raise NotFound(
                f"cannot run the profile {request.profile}: it is not published, or it is "
                "disabled or paused",
                code="profile-not-runnable",
                hint="`holdfast profile list` says which; "
                f"`holdfast profile resume {request.profile}` ends a pause",
            )
        submissions.check_range(request)
        newest = request.digest in ("", profile.digest)  # of another version its drone will tell
        if request.range_start and newest and not profile.periodic:
            raise Invalid(
                f"cannot backfill {profile.name}: its records have no period",
                hint="add `period` to the profile, or run it without --from and --to",
            )
        given = msgspec.to_builtins(request)  # what is left at its default is left out
        asked = ("rehearsal", "remap", "range_start", "range_end", "digest")
        submit = self.collect_submission(
            profile,
            trigger=request.trigger,
            force=request.force,
            pages=request.pages,
            priority=request.priority,
            task=task_id,
            run=run,
            **{name: given[name] for name in asked if name in given},
        )
        task = await self.submit(principal, submit)
        special = request.remap or request.rehearsal or bool(request.range_start)
        if task.id != submit.id and special:
            raise Conflict(
                f"cannot start: a run of {profile.name} has not finished",
                code="profile-busy",
                hint=f"wait for it, or cancel it: holdfast run cancel {task.payload['run']}",
            )
        if task.id == submit.id and not special:
            values = {
                "tenant": principal.tenant,
                "profile": profile.name,
                "digest": profile.digest,
                "last_at": task.created_at,
                "last_task": task.id,
            }
            await self.database.write(principal, lambda c: schedule_store.note_start(c, values))
        return task

    def collect_submission(
        self,
        profile: RunnableProfile,
        *,
        trigger: str,
        priority: int,
        task: str = "",
        run: str = "",
        **more: Any,
    ) -> TaskSubmit:
        """The task of one run of ``profile``, with fresh ids but for those that are given."""
        return submissions.of_collect(
            profile,
            run=run or self.new_id(),
            task=task or self.new_id(),
            trigger=trigger,
            priority=priority,
            **more,
        )

    async def runnable(self, principal: Principal) -> Sequence[RunnableProfile]:
        """What the registry says may be collected now."""
        if self.profiles is None:
            raise Unavailable("cannot ask which profiles may run: no registry is connected")
        found = await self.profiles.runnable(service("coordinator", principal.tenant))
        return [] if found is None else found.profiles

    def submission(self, principal: Principal, submit: TaskSubmit) -> tasks.Submission:
        """A checked task on its way in; :class:`Invalid` or :class:`TooLarge` if it is refused."""
        return submissions.checked(
            submit,
            task=submit.id or self.new_id(),
            now=timestamp(self.clock.now()),
            lease_seconds=self.settings.lease_seconds,
            event=lambda stream, type_, payload: self.event(
                stream, type_, payload, principal.subject
            ),
        )

    async def _store_submissions(
        self, tenant: TenantId, submissions: list[tasks.Submission]
    ) -> list[Task | HoldfastError]:
        principal = service("coordinator", tenant)
        known = self._queues.get(tenant, frozenset())
        outcomes, stored = await self.hot(
            tenant,
            lambda conn: tasks.submit(conn, principal, self.outbox, submissions, known),
            size_bytes=sum(len(each.queue) + 1024 for each in submissions),
        )
        self._queues[tenant] = known | {each.queue for each in submissions}
        self.metrics.submitted.inc(stored)
        return outcomes

    async def _wake_for(self, principal: Principal, submitted: Sequence[Task]) -> None:
        await self._wake(
            principal, [task.kind for task in submitted if task.status is TaskStatus.QUEUED]
        )

    async def _wake(self, principal: Principal, kinds: Iterable[str]) -> None:
        """There is something of these kinds to claim."""
        channels = sorted({f"tasks/{kind}" for kind in kinds})
        if channels:
            await self.leases.wake(principal, *channels)

    # --- claiming -----------------------------------------------------------------------------

    async def claim(
        self, principal: Principal, claim: Claim, *, stopping: asyncio.Event | None = None
    ) -> list[ClaimedTask]:
        """Lease tasks to a worker, each with its grant; wait up to ``wait_seconds`` for the first.

        Only for registered workers. A claim is a sign of life. An answer that is lost on its way
        leaves its tasks leased until the lease runs out, or until a beat says that the claim of
        this ``number`` is settled. ``stopping`` ends the waiting early, so
        that a server that drains is not held up by those who wait for work.
        """
        worker = asking_worker(principal)
        want = tasks.Want(worker, frozenset(claim.kinds), claim.limit, claim.number)
        batcher = self._batchers_of(principal.tenant).claim
        until = self.clock.monotonic() + claim.wait_seconds
        channels = [f"tasks/{kind}" for kind in sorted(want.kinds)]
        with self.leases.watch(principal, channels) as watch:
            while True:
                await self.leases.beat(principal, worker, self.clock.now())
                claimed = await batcher.do(want)
                left = until - self.clock.monotonic()
                if claimed.tasks or left <= 0 or (stopping is not None and stopping.is_set()):
                    return self._granted(principal.tenant, claimed)
                await _either(watch.wait(min(left, self.settings.beat_seconds)), stopping)

    async def _lease(
        self, tenant: TenantId, wants: list[tasks.Want]
    ) -> list[tasks.Leased | HoldfastError]:
        now = self.clock.now()
        claimed = await self.hot(tenant, lambda conn: tasks.claim(conn, tenant, now, wants))
        self.metrics.claimed.inc(
            sum(len(each.tasks) for each in claimed if isinstance(each, tasks.Leased))
        )
        return claimed

    def _granted(self, tenant: TenantId, claimed: tasks.Leased) -> list[ClaimedTask]:
        now, signing = self.clock.now(), claimed.signing
        return [
            ClaimedTask(
                task=task, grant=self._grant(tenant, task, signing, task.lease_expires_at, now)
            )
            for task in claimed.tasks
        ]

    def _grant(
        self, tenant: str, task: Any, signing: tasks.Signing, expires_at: str | None, now: datetime
    ) -> str:
        payload = task.payload
        if isinstance(payload, str):
            payload = msgspec.json.decode(payload)
        of_collect = task.kind == COLLECT
        grant = Grant(
            tenant=tenant,
            task=task.id,
            run=payload["run"] if of_collect else "",
            profile=payload["profile"] if of_collect else "",
            digest=payload["digest"] if of_collect else "",
            worker=task.worker,
            fence=task.fence,
            lease_expires_at=expires_at or "",
            key=signing.key,
            registration=signing.registration,
        )
        return sign_grant(self._key, grant, now)

    # --- ending -------------------------------------------------------------------------------

    async def complete(self, principal: Principal, task: str, complete: Complete) -> Task:
        """End a leased task as its holder says.

        The same end under the same fence again gets the same answer. Raises :class:`Conflict`:
        ``stale-fence`` (late, foreign, or another end than the one told before),
        ``task-cancelled``, ``task-not-leased``; :class:`NotFound` for no such task.
        """
        ending = self._ending(principal, task, complete)
        return (await self._batchers_of(principal.tenant).complete.do(ending)).task

    async def complete_many(
        self, principal: Principal, completes: Sequence[CompleteTask]
    ) -> list[Completed]:
        """:meth:`complete` of each, in order: its new status, or why it was refused."""
        endings = [self._ending(principal, each.task, _without_task(each)) for each in completes]
        outcomes = await self._batchers_of(principal.tenant).complete.do_all(endings)
        return [
            _completed(ending.task, outcome)
            for ending, outcome in zip(endings, outcomes, strict=True)
        ]

    async def cancel(self, principal: Principal, task: str, reason: str = "") -> Task:
        """End an unfinished task; its worker learns it by its next beat or its answer.

        Cancelling twice is fine; what has succeeded or is dead is a :class:`Conflict`
        (``task-finished``).
        """
        now, event = self.clock.now(), EventId(self.new_id())
        cancelled, events = await self.hot(
            principal.tenant,
            lambda conn: tasks.cancel(
                conn, principal, self.outbox, now, task, event, "cancelled", reason
            ),
        )
        self.metrics.ended(events)
        self.call_loops()
        return cancelled

    def _ending(self, principal: Principal, task: str, complete: Complete) -> tasks.Ending:
        worker = asking_worker(principal)
        if len(canonical(complete.result)) > PAYLOAD_BYTES_MAX:
            raise TooLarge(
                f"cannot complete the task {task}: its result is over {PAYLOAD_BYTES_MAX} bytes"
            )
        told = digest(msgspec.json.encode(complete, order="sorted"))
        return tasks.Ending(task, worker, complete, told, EventId(self.new_id()), self.chance())

    async def _end(
        self, tenant: TenantId, endings: list[tasks.Ending]
    ) -> list[fates.Ended | HoldfastError]:
        now, principal = self.clock.now(), service("coordinator", tenant)
        answers, events = await self.hot(
            tenant,
            lambda conn: tasks.complete(conn, principal, self.outbox, now, self.backoff, endings),
        )
        self.metrics.ended(events)
        released = [
            answer.row.kind
            for answer in answers
            if isinstance(answer, fates.Ended)
            and answer.fate is not None
            and answer.fate.event == "task.released"
        ]
        await self._wake(principal, released)
        return answers

    # --- beats --------------------------------------------------------------------------------

    async def beat(self, principal: Principal, beat: Beat) -> BeatAnswer:
        """A worker is alive and still holds these leases: renew them.

        ``lost`` are those it must abandon at once, ``cancelled`` those it should end. A worker that
        was taken for lost is alive again. What settled claims leased without the worker's ever
        hearing of it goes back to the queue, and costs no attempt.
        """
        worker = asking_worker(principal)
        tenant, now = principal.tenant, self.clock.now()
        await self.leases.beat(principal, worker, now, beat.load)

        def look(conn: Connection) -> tuple[Any, tasks.Held]:
            row = worker_store.find_worker(conn, tenant, worker)
            return row, tasks.look_at_leases(conn, tenant, worker, beat.leases, now, beat.settled)

        row, held = await self.database.read(principal, look)
        refusal = tasks.refusal_of_worker(row)
        if refusal is not None:
            raise refusal
        if row.status == "lost":
            await self.database.write(
                principal,
                lambda c: worker_store.set_status(
                    c, tenant, worker, "alive", "lost", timestamp(now)
                ),
            )
        if beat.settled is not None and (beat.leaving or held.unheard):
            await self._settle(tenant, worker, beat, beat.settled, held.unheard)
        signing = tasks.signing_of(row)
        renewed = {
            each.id: self._grant(tenant, each, signing, each.lease_expires_at, now)
            for each in held.keep
        }
        lost = list(held.lost)
        expiries = [timestamp(now + timedelta(seconds=row.lease_seconds)) for row in held.renew]
        outcomes = await self._batchers_of(tenant).renew.do_all(
            [
                (row.id, expiry, row.fence, worker)
                for row, expiry in zip(held.renew, expiries, strict=True)
            ]
        )
        for each, expiry, outcome in zip(held.renew, expiries, outcomes, strict=True):
            if isinstance(outcome, HoldfastError):
                raise outcome
            if outcome:
                renewed[each.id] = self._grant(tenant, each, signing, expiry, now)
            else:
                lost.append(each.id)
        return BeatAnswer(
            renewed=renewed,
            lost=lost,
            cancelled=held.cancelled,
            next_seconds=self.settings.beat_seconds,
            claim_number=max(
                held.claim_number, row.settled or 0, beat.settled or 0 if beat.leaving else 0
            ),
            places=True,
            paces=True,
        )

    async def _settle(
        self, tenant: TenantId, worker: str, beat: Beat, settled: int, unheard: Sequence[str]
    ) -> None:
        """What a beat says of claims that are over."""
        now, principal = self.clock.now(), service("coordinator", tenant)
        endings = [(task, EventId(self.new_id()), self.chance()) for task in unheard]

        def unit(conn: Connection) -> tuple[set[str], list[str]]:
            if beat.leaving:
                worker_store.settle(conn, tenant, worker, settled)
            return tasks.release_unheard(
                conn,
                principal,
                self.outbox,
                now,
                self.backoff,
                worker,
                settled,
                beat.leases,
                endings,
            )

        kinds, events = await self.hot(tenant, unit)
        self.metrics.ended(events)
        await self._wake(principal, kinds)

    async def _renew(
        self, tenant: TenantId, renewals: list[tuple[str, str, int, str]]
    ) -> list[bool | HoldfastError]:
        found = await self.hot(tenant, lambda conn: store.renew(conn, tenant, renewals))
        return [task in found for task, _, _, _ in renewals]

    # --- reading ------------------------------------------------------------------------------

    async def show_task(self, principal: Principal, task: str) -> Task:
        """One task with the leases that came to nothing; :class:`NotFound` if there is none."""

        def unit(conn: Connection) -> Task | None:
            row = store.find_tasks(conn, principal.tenant, [task]).get(task)
            if row is None or not tasks.sees(principal, row):
                return None
            history = store.find_attempts(conn, principal.tenant, task)
            return msgspec.structs.replace(
                fates.task_of(row), history=[fates.attempt_of(each) for each in history]
            )

        found = await self.database.read(principal, unit)
        if found is None:
            raise NotFound(f"cannot find the task {task}", code="task-not-found")
        return found

    async def list_tasks(
        self,
        principal: Principal,
        wanted: TaskFilter | None = None,
        *,
        before: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Task], str | None]:
        """Tasks, newest first, and where the next page begins (``before``); ``None`` at the end.

        For whoever is limited to some profiles: those that collect them.
        """
        filters = _filters(wanted or TaskFilter())
        limit = page_size(limit)
        rows = await self.database.read(
            principal,
            lambda conn: store.list_tasks(
                conn, principal.tenant, filters, before, limit + 1, principal.profiles
            ),
        )
        found = [fates.task_of(row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def prune(
        self,
        principal: Principal,
        before: datetime,
        *,
        limit: int = 100_000,
        dry_run: bool = False,
    ) -> int:
        """Forget tasks that ended before then, at most ``limit``, a batch at a time; how many.

        With one goes the memory of its id: the same submission later would be a new task. What is
        unfinished, or whose run is still to be closed, stays however old it is.
        """
        tenant, end, after, found = principal.tenant, timestamp(before), "", 0
        below = uuid7(int(before.timestamp() * 1000), bytes(10))
        while found < limit:
            size = min(PRUNE_BATCH, limit - found)

            def unit(conn: Connection, after: str = after, size: int = size) -> list[str]:
                ids = store.prunable(conn, tenant, below=below, after=after, before=end, limit=size)
                if not dry_run:
                    store.prune(conn, tenant, ids)
                return ids

            run = self.database.read if dry_run else self.database.write
            ids = await run(principal, unit)
            found += len(ids)
            if len(ids) < size:
                break
            after = ids[-1]
        return found

    async def schedules(self, principal: Principal) -> list[ScheduledProfile]:
        """When each profile is due, by name."""
        rows = await self.database.read(
            principal, lambda conn: schedule_store.read_schedules(conn, principal.tenant)
        )
        return [
            ScheduledProfile(
                profile=row.profile,
                digest=row.digest,
                next_at=row.next_at,
                last_at=row.last_at,
                last_task=row.last_task,
                problem=row.problem,
            )
            for row in rows
            if principal.sees(row.profile)
        ]

    # --- helpers ------------------------------------------------------------------------------

    def _batchers_of(self, tenant: TenantId) -> Batchers:
        known = self._batchers.get(tenant)
        if known is None:
            size = self.settings.batch_max
            known = self._batchers[tenant] = Batchers(
                submit=Batcher(partial(self._store_submissions, tenant), size_max=size),
                claim=Batcher(partial(self._lease, tenant), size_max=size),
                complete=Batcher(partial(self._end, tenant), size_max=size),
                renew=Batcher(partial(self._renew, tenant), size_max=size),
            )
        return known


def _filters(wanted: TaskFilter) -> dict[str, Any]:
    filters: dict[str, Any] = {
        name: value
        for name in ("kind", "worker", "exclusive", "run")
        if (value := getattr(wanted, name))
    }
    if wanted.status is not None:
        filters["state"] = [
            state for state, status in fates.PUBLIC_STATUS.items() if status is wanted.status
        ]
    return filters


def _without_task(complete: CompleteTask) -> Complete:
    fields = {name: getattr(complete, name) for name in Complete.__struct_fields__}
    return Complete(**fields)


def submitted(outcome: Task | HoldfastError) -> Submitted:
    """One of several outcomes, as it travels."""
    if isinstance(outcome, Task):
        return Submitted(task=outcome)
    return Submitted(task=None, refused=_refusal(outcome))


def _completed(task: str, outcome: fates.Ended | HoldfastError) -> Completed:
    if isinstance(outcome, fates.Ended):
        return Completed(task=task, status=outcome.status)
    return Completed(task=task, status=None, refused=_refusal(outcome))


def _refusal(error: HoldfastError) -> Refusal:
    return Refusal(kind=error.kind.value, code=error.code, detail=error.detail)


async def _either(wait: Coroutine[Any, Any, object], stopping: asyncio.Event | None) -> None:
    """Until ``wait`` is over or ``stopping`` is set, whichever comes first."""
    waits: list[asyncio.Task[object]] = [asyncio.ensure_future(wait)]
    if stopping is not None:
        waits.append(asyncio.ensure_future(stopping.wait()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
