"""The life of a run: opened, taken over, finished, published, closed, interrupted.

A run holds its profile's *slot* (see :mod:`holdfast.records.store`) from its opening to its end.
Every transition happens in one transaction together with its event. What is long (removing or
hiding an abandoned attempt's rows, staging withdrawals) happens in steps before or after that
transaction; each step leaves a state from which whoever comes next goes on, so that the process may
die at any point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, select

from holdfast.kernel import merkle
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Conflict, Denied, Invalid
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Principal, PrincipalKind
from holdfast.kernel.telemetry import request_id
from holdfast.records import store
from holdfast.records.base import run_of
from holdfast.records.content import record_leaf_hash, whole_of
from holdfast.records.erasing import REHEARSAL, Erasing
from holdfast.records.errors import (
    Contended,
    StaleFence,
)
from holdfast.records.kept import kept_rows
from holdfast.records.model import (
    Run,
    RunClose,
    RunFinish,
    RunOpen,
    RunPlan,
    RunStatus,
    Validator,
    is_final,
    may_become,
)
from holdfast.records.opening import add_run, claim_of_close, open_run, validators_of
from holdfast.records.publishing import (
    NOWHERE,
    Absence,
    Look,
    Published,
    absent_rows,
    accounted,
    add_withdrawal_batch,
    evidence_of,
    look_on,
    move_head,
    note_totals,
)
from holdfast.records.remapping import asked_ranges, remap_sources
from holdfast.records.rules import (
    Rules,
    Violations,
    asked_by,
    check_opening,
    completion_failure,
    doubled,
    for_kind,
)
from holdfast.records.slots import attempt_of, change_slot, check_attempt, clean_step
from holdfast.records.watching import Watching, judge, keep_shape
from holdfast.records.within import Asked, decode_asked

OUTCOMES: dict[str, RunStatus] = {
    "unchanged": RunStatus.UNCHANGED,
    "partial": RunStatus.PARTIAL,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}
REJECTS = "rejects"
"""The code with which a worker gives up a source of which too many rows fail."""
ROUNDS_MAX = 10
STEPS_AT_ONCE = 5


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a run ends, and the event that says so."""

    status: RunStatus
    at: datetime
    event: str
    notice: str
    request: str
    code: str = ""
    reason: str = ""


class Runs(Erasing, Watching):
    """The part of the service that keeps runs."""

    # --- opening ------------------------------------------------------------------------------

    async def open(self, principal: Principal, grant: str, request: RunOpen) -> Run:
        """Begin the run of the grant, or take it over with a higher fence.

        From then on a lower fence is refused, and what it had staged is gone. The same fence again
        resumes the attempt. A run that has ended is answered as it is.

        Refused: :class:`StaleFence`, :class:`ProfileBusy` while another run of the profile holds
        its lease (a later lease, seen by its higher fence, takes its place instead),
        :class:`RunOvertaken` if that happened to this one. Repeating it is safe.
        """
        claim = self._grant(principal, grant, request.run, request.fence)
        rules = await self._rules(principal, claim.profile, claim.digest)
        check_opening(rules, request)
        await self._check_marks(principal, rules)
        for _ in range(ROUNDS_MAX):
            unit = partial(
                open_run, principal=principal, claim=claim, request=request, now=self._clock.now()
            )
            found = await self._db.write(principal, unit)
            if found is not None:
                await self.forget_ended(principal, found)
                return found
            await self._clean(principal, claim.profile)
        raise Contended(f"cannot open the run {request.run}: others keep taking {claim.profile}")

    async def plan(self, principal: Principal, grant: str, run: str) -> RunPlan:
        """Where the run begins: the published cursor, and what makes its requests conditional."""
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> RunPlan:
            tenant = principal.tenant
            row = check_attempt(store.find(conn, store.runs, tenant, run=run), run, claim.fence)
            kept = len(kept_rows(conn, tenant, run, claim.fence))
            head = store.find(conn, store.heads, tenant, profile=claim.profile)
            if head is None:
                return RunPlan(run=run, publication=0, kept=kept, started_at=row.started_at)
            validators: dict[str, Validator] = {}
            if head.plan_run is not None and head.profile_digest == claim.digest:
                validators = validators_of(conn, tenant, head.plan_run)
            return RunPlan(
                run=run,
                publication=head.publication,
                cursor=head.cursor,
                validators=validators,
                kept=kept,
                started_at=row.started_at,
            )

        return await self._db.read(principal, unit)

    # --- finishing ----------------------------------------------------------------------------

    async def finish(self, principal: Principal, grant: str, request: RunFinish) -> Run:
        """End the run as the worker says, or as the profile's rules decide.

        ``complete`` publishes everything at once, or fails the run with a code and a reason and
        publishes nothing. ``partial`` keeps the rows hidden, ``failed`` and ``cancelled`` drop
        them, ``unchanged`` is for a run without batches. ``interrupted`` ends nothing: it says why
        this attempt leaves the run to the next one. Repeating it gives the same answer; after
        an ``OutcomeUnknown`` or a crash it goes on where it stopped.
        """
        ended = await self._finished(principal, grant, request)
        await self.forget_ended(principal, ended)
        return ended

    async def _finished(self, principal: Principal, grant: str, request: RunFinish) -> Run:
        claim = self._grant(principal, grant, request.run, request.fence)
        if request.outcome == "interrupted":
            return await self._leave(principal, request)
        rules = await self._rules(principal, claim.profile, claim.digest)
        if request.outcome != "complete":
            return await self._end_early(principal, request, rules)
        asked = await self._asked(principal, request, rules) if rules.mode == "snapshot" else None
        ended = await self._begin_closing(principal, request, rules, asked)
        if ended is not None:
            await self._clean(principal, rules.profile, steps_max=STEPS_AT_ONCE)
            return self._counted(ended)
        if rules.mode == "snapshot":
            await self._withdraw_absent(principal, request, rules, asked)
        return await self._publish(principal, request, rules)

    async def _leave(self, principal: Principal, request: RunFinish) -> Run:
        """Note why the attempt goes; what it staged stays until the next one opens the run."""

        def unit(conn: Connection) -> Run:
            tenant = principal.tenant
            run, _ = attempt_of(conn, tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run)
            note_totals(conn, tenant, request)
            values = {
                "status": RunStatus.INTERRUPTED.value,
                "code": request.code,
                "reason": request.reason,
            }
            store.change(conn, store.runs, store.of_key(store.runs, tenant, run=run.run), values)
            left = store.find(conn, store.runs, tenant, run=run.run)
            assert left is not None
            return run_of(left)

        return await self._db.write(principal, unit)

    async def _end_early(self, principal: Principal, request: RunFinish, rules: Rules) -> Run:
        ending = self._ending(OUTCOMES[request.outcome], request.code, request.reason)
        profile, how = rules.profile, self.telling()

        def unit(conn: Connection) -> tuple[Run, bool]:
            run, head = attempt_of(conn, principal.tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run), False
            if request.outcome == "unchanged" and run.batches:
                raise Invalid(
                    f"cannot end the run {run.run} as unchanged: it has {run.batches} batches",
                    code="run-has-batches",
                )
            note_totals(conn, principal.tenant, request)
            if request.code == REJECTS:
                # So many rows fail that the source may have changed: say in which way.
                found = judge(conn, principal.tenant, rules, run, head, request.columns)
                self.tell_of(conn, principal, run, found, how)
            return self._end(conn, principal, run.run, head, ending), True

        run, ended = await self._db.write(principal, unit)
        await self._clean(principal, profile, steps_max=STEPS_AT_ONCE)
        return self._counted(run) if ended else run

    async def _asked(self, principal: Principal, request: RunFinish, rules: Rules) -> Asked | None:
        """What the run may withdraw; ``None`` if it asked for everything.

        A re-mapping has asked nothing itself: what it reads was asked for under the version of the
        last complete run, and by the backfills since. As bytes may be destroyed at any time, what
        it was is kept when the run begins to close, and not looked for again.
        """
        fetched = await self._fetched_rules(principal, rules)

        def unit(conn: Connection) -> Asked | None:
            run, _ = attempt_of(conn, principal.tenant, request)
            if is_final(RunStatus(run.status)):
                return None
            if run.asked is not None:
                kept: Asked | None = decode_asked(run.asked)
                return kept
            if run.kind not in ("remap", "merge"):
                return asked_by(rules, run)
            asked = asked_by(fetched, run)
            if asked is None:
                return None
            sources = remap_sources(conn, principal.tenant, rules, fetched)
            return replace(asked, ranges=(*asked.ranges, *asked_ranges(rules, sources)))

        return await self._db.read(principal, unit)

    async def _begin_closing(
        self, principal: Principal, request: RunFinish, rules: Rules, asked: Asked | None
    ) -> Run | None:
        """Stop taking batches and check what came; the run if that ends it, or it had ended."""
        failed = self._ending(RunStatus.FAILED)
        how = self.telling()
        # Long where much is published, so it is counted before the transaction, in steps.
        look: Look | None = None
        while look is None or look.absence is None:
            look = await self._db.read(
                principal,
                lambda conn, so_far=look: _look(conn, principal, request, rules, asked, so_far),  # type: ignore[misc]
            )
        absence = look.absence

        def unit(conn: Connection) -> Run | None:
            tenant = principal.tenant
            run, head = attempt_of(conn, tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run)
            if head.slot_state == "closing":
                return None
            _check_version(run, head, look)
            note_totals(conn, tenant, request)
            store.change(
                conn,
                store.runs,
                store.of_key(store.runs, tenant, run=run.run),
                {**asdict(absence), "asked": msgspec.json.encode(asked).decode()},
            )
            found_run = store.find(conn, store.runs, tenant, run=run.run)
            assert found_run is not None
            run = found_run
            count, highest = store.posted_sequences(conn, tenant, run.run, run.fence)
            failure = completion_failure(
                for_kind(rules, run.kind),
                run_of(run),
                request,
                gapless=highest == count - 1,
                violations=Violations(run.violations, run.violation),
                repeat=run.repeat,
            )
            found = judge(conn, tenant, rules, run, head, request.columns)
            failure = failure or found.failure or doubled(run)
            self.tell_of(conn, principal, run, found, how)
            if failure is not None:
                code, reason = failure
                ending = replace(failed, code=code, reason=reason)
                return self._end(conn, principal, run.run, head, ending)
            self.tell_of_withheld(conn, principal, run, how)
            change_slot(conn, head, tenant, slot_state="closing", slot_position=NOWHERE)
            return None

        return await self._db.write(principal, unit)

    # --- withdrawals --------------------------------------------------------------------------

    async def _withdraw_absent(
        self, principal: Principal, request: RunFinish, rules: Rules, asked: Asked | None
    ) -> None:
        """Stage a withdrawal for every published key that was asked for and did not come again;
        restartable."""
        position: int | None = NOWHERE
        while position is not None:
            step, position = await self._db.read(
                principal,
                lambda conn, after=position: self._absent(  # type: ignore[misc]
                    conn, principal, request, rules, asked, after
                ),
            )
            if step is not None:
                size = self._settings.withdrawal_rows * 600
                await self._db.write(principal, step, size_bytes=size)

    def _absent(
        self,
        conn: Connection,
        principal: Principal,
        request: RunFinish,
        rules: Rules,
        asked: Asked | None,
        after: int,
    ) -> tuple[Callable[[Connection], None] | None, int | None]:
        """The unit that stages the next withdrawals behind ``after``, if there are any in the rows
        that one step looks at; and how far that was, ``None`` when all were looked at."""
        tenant, profile = principal.tenant, rules.profile
        run, head = attempt_of(conn, tenant, request)
        ended = is_final(RunStatus(run.status)) or head.slot_state != "closing"
        whole = run.range_start is None
        if ended or run.unkeyed or (whole and head.live <= run.withdrawn + accounted(run)):
            return None, None
        position, absent, more = absent_rows(
            conn,
            tenant,
            run,
            head,
            max(after, head.slot_position),
            self._settings.withdrawal_rows,
            *([] if asked is None else [store.asked_for(asked)]),
        )
        if not absent:
            return None, position if more else None
        rows, leaves = self._withdrawals(conn, principal, run, head, absent)
        root = merkle.root(leaves).hex()
        at = timestamp(self._clock.now())

        def unit(conn: Connection) -> None:
            changed = change_slot(
                conn,
                head,
                tenant,
                slot_position=position,
                next_row=head.next_row + len(rows),
            )
            if not changed:
                return
            store.set_ends(conn, tenant, profile, absent, head.publication + 1)
            store.insert_rows(conn, rows)
            add_withdrawal_batch(conn, tenant, run, head, len(rows), root, at)

        # Whether it was written is seen by looking again, from where the head says.
        return unit, NOWHERE

    def _withdrawals(
        self,
        conn: Connection,
        principal: Principal,
        run: Row[Any],
        head: Row[Any],
        absent: list[int],
    ) -> tuple[list[tuple[Any, ...]], list[bytes]]:
        """The rows that withdraw these, and their leaves."""
        keys = self._keys(principal, run.profile)
        before = store.rows_by_sequence(
            conn,
            principal.tenant,
            run.profile,
            absent,
            "record",
            "revision",
            "period_start",
            "period_end",
            "body",
            "subject",
        )
        rows: list[tuple[Any, ...]] = []
        leaves: list[bytes] = []
        for sequence, row in enumerate(before, head.next_row):
            rows.append(
                (
                    principal.tenant,
                    run.profile,
                    sequence,
                    row.record,
                    run.number,
                    row.revision + 1,
                    row.sequence,
                    head.publication + 1,
                    True,
                    b"",
                    NOWHERE,
                    NOWHERE,
                    row.period_start,
                    row.period_end,
                    row.body,
                    row.subject,
                    None,
                    None,
                )
            )
            leaves.append(
                record_leaf_hash(
                    keys,
                    run=run.run,
                    profile_digest=run.profile_digest,
                    sequence=sequence,
                    record=row.record.hex(),
                    revision=row.revision + 1,
                    withdrawn=True,
                    whole=whole_of(row.body.encode(), NOWHERE, NOWHERE),
                )
            )
        return rows, leaves

    # --- publishing ---------------------------------------------------------------------------

    async def _publish(self, principal: Principal, request: RunFinish, rules: Rules) -> Run:
        """The one transaction that makes the run's rows what everybody sees."""
        ending = self._ending(RunStatus.SUCCEEDED)
        rehearsed = self._ending(RunStatus.PARTIAL, REHEARSAL, "a rehearsal: nothing is published")
        ingested = self._new_id()
        evidence = await self._db.read(
            principal, lambda conn: evidence_of(conn, principal.tenant, request)
        )

        def unit(conn: Connection) -> tuple[Run, bool]:
            tenant = principal.tenant
            run, head = attempt_of(conn, tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run), False
            if run.rehearsal:
                return self._end(conn, principal, run.run, head, rehearsed), True
            changed = bool(run.new or run.changed or run.withdrawn)
            keep_shape(conn, tenant, run, run_of(run).drift)
            published = move_head(conn, tenant, run, head, rules, ending.at, changed=changed)
            if changed:
                self._record_publication(
                    conn, principal, run, rules, published, evidence, ingested, ending
                )
            return self._end(conn, principal, run.run, None, ending, published), True

        run, ended = await self._db.write(principal, unit)
        if run.rehearsal:
            await self._clean(principal, rules.profile, steps_max=STEPS_AT_ONCE)
            return self._counted(run) if ended else run
        if ended:
            self._counted(run)
            for one in run.drift:
                self._metrics.drifts.labels(one.kind).inc()
            if run.kind == "collect":
                self._metrics.last_success.labels(principal.tenant, run.profile).set(
                    ending.at.timestamp()
                )
            if run.new or run.changed or run.withdrawn:
                self._metrics.publications.labels(principal.tenant, run.profile).inc()
                self._metrics.records.labels("withdrawn").inc(run.withdrawn)
        return run

    def _record_publication(
        self,
        conn: Connection,
        principal: Principal,
        run: Row[Any],
        rules: Rules,
        published: Published,
        evidence: dict[str, Any],
        event: str,
        ending: _Ending,
    ) -> None:
        """The history row of the head, and the event that is its evidence."""
        store.add(
            conn,
            store.publications,
            tenant=principal.tenant,
            profile=run.profile,
            publication=published.publication,
            run=run.run,
            recorded_at=published.recorded_at,
            profile_digest=run.profile_digest,
            cursor=published.cursor,
            records=published.live,
            rows=run.new + run.changed + run.withdrawn,
            root=evidence["root"],
            fields=published.fields,
            event=event,
        )
        payload = {
            "counts": {
                "changed": run.changed,
                "new": run.new,
                "records": run.records,
                "unchanged": run.unchanged,
                "withdrawn": run.withdrawn,
            },
            "fence": run.fence,
            "mode": rules.mode,
            "profile": run.profile,
            "profile_digest": run.profile_digest,
            "publication": published.publication,
            "recorded_at": published.recorded_at,
            "replayed": run.replayed,
            "run": run.run,
            "task": run.task,
            "worker": run.worker,
            **evidence,
        }
        self._handles.outbox.emit(
            conn,
            principal,
            Event(
                id=EventId(event),
                stream=f"profile/{run.profile}",
                type="records.ingested",
                time=ending.at,
                payload=payload,
                request_id=ending.request,
            ),
        )

    # --- ending -------------------------------------------------------------------------------

    def _ending(self, status: RunStatus, code: str = "", reason: str = "") -> _Ending:
        return _Ending(
            status=status,
            at=self._clock.now(),
            event=self._new_id(),
            notice=self._new_id(),
            request=request_id(),
            code=code,
            reason=reason,
        )

    def _end(
        self,
        conn: Connection,
        principal: Principal,
        run_id: str,
        head: Row[Any] | None,
        ending: _Ending,
        published: Published | None = None,
    ) -> Run:
        """Give the run its final state, with its event. ``head`` if it still holds the slot."""
        tenant = principal.tenant
        values: dict[str, Any] = {
            "status": ending.status.value,
            "finished_at": timestamp(ending.at),
            "code": ending.code,
            "reason": ending.reason,
            "event": ending.event,
            "result": store.next_result_number(conn, tenant),
        }
        if published is not None:
            values |= {
                "published_at": timestamp(ending.at),
                "publication": published.publication or None,
            }
        if head is not None and head.slot_run == run_id:
            values["end_row"] = head.next_row
            hidden = ending.status is RunStatus.PARTIAL
            change_slot(
                conn,
                head,
                tenant,
                slot_state="hide" if hidden else "discard",
                slot_position=head.slot_first - 1,
            )
            if ending.status is RunStatus.UNCHANGED:
                # The very bytes of the last complete run: what that could not tell is not told now.
                last = store.last_complete(conn, tenant, head.profile)
                values["withheld"] = 0 if last is None else last.withheld
                store.change(
                    conn,
                    store.heads,
                    store.of_key(store.heads, tenant, profile=head.profile),
                    {"succeeded_at": timestamp(ending.at)},
                )
        store.change(conn, store.runs, store.of_key(store.runs, tenant, run=run_id), values)
        row = store.find(conn, store.runs, tenant, run=run_id)
        assert row is not None
        run = run_of(row)
        event = _finished(run, ending)
        self._handles.outbox.emit(conn, principal, event)
        if run.kind == "collect" and not run.rehearsal:
            key = store.of_key(store.heads, tenant, profile=run.profile)
            store.change(conn, store.heads, key, {"last_run": run.id})
        if ending.status in (RunStatus.FAILED, RunStatus.PARTIAL) and not run.rehearsal:
            self.note(
                conn,
                principal,
                f"run.{ending.status.value}",
                run.profile,
                run.id,
                event.payload,
                ending.notice,
                ending.at,
            )
        return run

    def _counted(self, run: Run) -> Run:
        self._metrics.runs.labels(run.status.value).inc()
        return run

    async def close(self, principal: Principal, request: RunClose) -> Run:
        """End a run that no worker will end. Idempotent; also for a run that was never opened.

        A run that has ended already is answered as it is: a late failure does not undo what was
        published. Only the coordinator and operators may; :class:`StaleFence` if a later attempt
        has the run.
        """
        if principal.kind is PrincipalKind.WORKER:
            raise Denied("cannot close a run: workers finish their own", code="permission-missing")
        ending = self._ending(OUTCOMES[request.outcome], request.code, request.reason)

        def unit(conn: Connection) -> tuple[Run, bool]:
            tenant = principal.tenant
            run = store.find(conn, store.runs, tenant, run=request.run)
            if run is None:
                add_run(conn, tenant, claim_of_close(tenant, request, ending.at), ending.at)
                return self._end(conn, principal, request.run, None, ending), True
            if is_final(RunStatus(run.status)):
                return run_of(run), False
            if run.fence > request.fence:
                raise StaleFence(
                    f"cannot close the run {run.run}: fence {request.fence} is over, "
                    f"{run.fence} holds it"
                )
            if not may_become(RunStatus(run.status), ending.status):
                raise Conflict(f"cannot close the run {run.run}: it is {run.status}")
            # From here on the attempt that is being closed is stale, even under the same fence.
            head = store.find(conn, store.heads, tenant, profile=run.profile)
            return self._end(conn, principal, run.run, head, ending), True

        run, ended = await self._db.write(principal, unit)
        await self._clean(principal, run.profile, steps_max=STEPS_AT_ONCE)
        await self.forget_ended(principal, run)
        return self._counted(run) if ended else run

    async def sweep(self, principal: Principal) -> int:
        """Mark runs whose lease ran out as interrupted, and finish interrupted cleaning; destroy
        what is left of ended runs that nobody may keep.

        Returns how many runs were marked. What they had staged stays until somebody needs the
        place: their own worker may come back with a renewed lease.
        """
        now = timestamp(self._clock.now())

        def unit(conn: Connection) -> int:
            runs = store.runs
            condition = and_(
                runs.c.tenant == principal.tenant,
                runs.c.status == RunStatus.RUNNING.value,
                runs.c.lease_expires_at < now,
            )
            values = {"status": RunStatus.INTERRUPTED.value, "code": "lease-expired"}
            return store.change(conn, runs, condition, values)

        def waiting(conn: Connection) -> list[str]:
            heads = store.heads
            rows = conn.execute(
                select(heads.c.profile).where(
                    heads.c.tenant == principal.tenant,
                    heads.c.slot_state.in_(["discard", "hide"]),
                )
            )
            return list(rows.scalars())

        marked = await self._db.write(principal, unit)
        for profile in await self._db.read(principal, waiting):
            await self._clean(principal, profile)
        await self.forget_left(principal)
        return marked

    async def _clean(
        self, principal: Principal, profile: str, *, steps_max: int | None = None
    ) -> None:
        """Remove or hide what an ended attempt staged, step by step, and free the slot.

        Whoever waits for an answer does a few steps; the sweeper and the next attempt do the rest.
        """
        size, steps = self._settings.cleaning_rows, 0
        while await self._db.write(
            principal, lambda conn: clean_step(conn, principal.tenant, profile, size)
        ):
            steps += 1
            if steps == steps_max:
                return


def _look(
    conn: Connection,
    principal: Principal,
    request: RunFinish,
    rules: Rules,
    asked: Asked | None,
    so_far: Look | None,
) -> Look:
    """The next step of looking at the published records that did not come."""
    run, head = attempt_of(conn, principal.tenant, request)
    if is_final(RunStatus(run.status)) or head.slot_state == "closing":
        return Look(0, absence=Absence())
    if so_far is None:
        so_far = Look(head.version)
    _check_version(run, head, so_far)
    if rules.mode != "snapshot":
        return replace(so_far, absence=Absence())
    return look_on(conn, principal.tenant, run, head, asked, so_far)


def _check_version(run: Row[Any], head: Row[Any], look: Look) -> None:
    if head.version != look.version:
        raise Contended(f"cannot finish the run {run.run}: it got another batch meanwhile")


def _finished(run: Run, ending: _Ending) -> Event:
    """The event of a run's end."""
    return Event(
        id=EventId(ending.event),
        stream=f"run/{run.id}",
        type="run.finished",
        time=ending.at,
        payload={
            "attempts": run.attempts,
            "batches": run.batches,
            "changed": run.changed,
            "code": run.code,
            "fence": run.fence,
            "kept": run.kept,
            "new": run.new,
            "profile": run.profile,
            "profile_digest": run.profile_digest,
            "publication": run.publication,
            "reason": run.reason,
            "records": run.records,
            "rejects": run.rejects,
            "replayed": run.replayed,
            "run": run.id,
            "status": run.status.value,
            "task": run.task,
            "unasked": run.unasked,
            "unchanged": run.unchanged,
            "withdrawn": run.withdrawn,
            "withheld": run.withheld,
            "worker": run.worker,
        },
        request_id=ending.request,
    )
