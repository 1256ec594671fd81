"""The life of a run: opened, taken over, finished, published, closed, interrupted.

A run holds its profile's *slot* (see :mod:`holdfast.records.store`) from its opening to its end.
Every transition happens in one transaction together with its event. What is long (removing or
hiding an abandoned attempt's rows, staging withdrawals) happens in steps before or after that
transaction; each step leaves a state from which whoever comes next goes on, so that the process may
die at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, case, func, select, text

from holdfast.fleet.model import Grant
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Conflict, Denied, Invalid
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Principal, PrincipalKind
from holdfast.kernel.telemetry import request_id
from holdfast.records import merkle, store
from holdfast.records.base import Part, run_of
from holdfast.records.content import BATCH_LEAF_DOMAIN, FieldNames, record_leaf_hash, whole_of
from holdfast.records.errors import (
    Contended,
    GrantMismatch,
    ProfileBusy,
    RunOvertaken,
    StaleFence,
)
from holdfast.records.intake import check_attempt
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
from holdfast.records.rules import Rules, Violations, completion_failure
from holdfast.records.staging import is_seen

OUTCOMES: dict[str, RunStatus] = {
    "unchanged": RunStatus.UNCHANGED,
    "partial": RunStatus.PARTIAL,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}
LISTED_MAX = 2_000
"""Batches and responses named one by one in an event; beyond that their root stands for them."""
NOWHERE = -1
"""Response and position of a withdrawal: it comes from the absence of something."""
ROUNDS_MAX = 10
SCAN_ROWS = 20_000

_ENSURE_HEAD = text(
    "INSERT INTO record_heads (tenant, profile) VALUES (:tenant, :profile) ON CONFLICT DO NOTHING"
)
_FRESH: dict[str, Any] = {
    "batches": 0,
    "records": 0,
    "new": 0,
    "changed": 0,
    "unchanged": 0,
    "present": 0,
    "withdrawn": 0,
    "duplicates": 0,
    "rejects": 0,
    "violations": 0,
    "pages": 0,
    "requests": 0,
    "bytes_fetched": 0,
    "repeat": "",
    "violation": "",
    "fields": "{}",
    "cursor": None,
    "code": "",
    "reason": "",
}
"""What a new attempt begins with."""
WAITING = -1
"""``first_row`` of an attempt that does not hold the slot yet."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a run ends, and the event that says so."""

    status: RunStatus
    at: datetime
    event: str
    request: str
    code: str = ""
    reason: str = ""


class Runs(Part):
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
        await self._rules(principal, claim.profile, claim.digest)
        for _ in range(ROUNDS_MAX):
            unit = partial(_open, principal=principal, claim=claim, now=self._clock.now())
            found = await self._db.write(principal, unit)
            if found is not None:
                return found
            await self._clean(principal, claim.profile)
        raise Contended(f"cannot open the run {request.run}: others keep taking {claim.profile}")

    async def plan(self, principal: Principal, grant: str, run: str) -> RunPlan:
        """Where the run begins: the published cursor, and what makes its requests conditional."""
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> RunPlan:
            tenant = principal.tenant
            check_attempt(store.find(conn, store.runs, tenant, run=run), run, claim.fence)
            head = store.find(conn, store.heads, tenant, profile=claim.profile)
            if head is None:
                return RunPlan(run=run, publication=0)
            validators: dict[str, Validator] = {}
            if head.plan_run is not None and head.profile_digest == claim.digest:
                validators = _validators(conn, tenant, head.plan_run)
            return RunPlan(
                run=run,
                publication=head.publication,
                cursor=head.cursor,
                validators=validators,
            )

        return await self._db.read(principal, unit)

    # --- finishing ----------------------------------------------------------------------------

    async def finish(self, principal: Principal, grant: str, request: RunFinish) -> Run:
        """End the run as the worker says, or as the profile's rules decide.

        ``complete`` publishes everything at once, or fails the run with a code and a reason and
        publishes nothing. ``partial`` keeps the rows hidden, ``failed`` and ``cancelled`` drop
        them, ``unchanged`` is for a run without batches. Repeating it gives the same answer; after
        an ``OutcomeUnknown`` or a crash it goes on where it stopped.
        """
        claim = self._grant(principal, grant, request.run, request.fence)
        rules = await self._rules(principal, claim.profile, claim.digest)
        if request.outcome != "complete":
            return await self._end_early(principal, request, claim.profile)
        ended = await self._begin_closing(principal, request, rules)
        if ended is not None:
            await self._clean(principal, rules.profile)
            return self._counted(ended)
        if rules.mode == "snapshot":
            await self._withdraw_absent(principal, request, rules)
        return await self._publish(principal, request, rules)

    async def _end_early(self, principal: Principal, request: RunFinish, profile: str) -> Run:
        ending = self._ending(OUTCOMES[request.outcome], request.code, request.reason)

        def unit(conn: Connection) -> tuple[Run, bool]:
            run, head = _attempt(conn, principal.tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run), False
            if request.outcome == "unchanged" and run.batches:
                raise Invalid(
                    f"cannot end the run {run.run} as unchanged: it has {run.batches} batches",
                    code="run-has-batches",
                )
            _note_totals(conn, principal.tenant, request)
            return self._end(conn, principal, run.run, head, ending), True

        run, ended = await self._db.write(principal, unit)
        await self._clean(principal, profile)
        return self._counted(run) if ended else run

    async def _begin_closing(
        self, principal: Principal, request: RunFinish, rules: Rules
    ) -> Run | None:
        """Stop taking batches and check what came; the run if that ends it, or it had ended."""
        failed = self._ending(RunStatus.FAILED)

        def unit(conn: Connection) -> Run | None:
            tenant = principal.tenant
            run, head = _attempt(conn, tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run)
            if head.slot_state == "closing":
                return None
            _note_totals(conn, tenant, request)
            count, highest = store.posted_sequences(conn, tenant, run.run, run.fence)
            failure = completion_failure(
                rules,
                run_of(run),
                request,
                gapless=highest == count - 1,
                violations=Violations(run.violations, run.violation),
                repeat=run.repeat,
            )
            if failure is not None:
                code, reason = failure
                ending = replace(failed, code=code, reason=reason)
                return self._end(conn, principal, run.run, head, ending)
            _change_slot(conn, head, tenant, slot_state="closing", slot_position=NOWHERE)
            return None

        return await self._db.write(principal, unit)

    # --- withdrawals --------------------------------------------------------------------------

    async def _withdraw_absent(
        self, principal: Principal, request: RunFinish, rules: Rules
    ) -> None:
        """Stage a withdrawal for every published key that did not come again; restartable."""
        while True:
            step = await self._db.read(
                principal, lambda conn: self._absent(conn, principal, request, rules)
            )
            if step is None:
                return
            await self._db.write(principal, step, size_bytes=self._settings.withdrawal_rows * 600)

    def _absent(
        self, conn: Connection, principal: Principal, request: RunFinish, rules: Rules
    ) -> Callable[[Connection], None] | None:
        """The unit that stages the next withdrawals, or ``None`` when there are no more."""
        tenant, profile = principal.tenant, rules.profile
        run, head = _attempt(conn, tenant, request)
        ended = is_final(RunStatus(run.status)) or head.slot_state != "closing"
        if ended or head.live <= run.present + run.withdrawn:
            return None
        seen = {
            row.chunk: bytes(row.bits)
            for row in conn.execute(
                select(store.seen.c.chunk, store.seen.c.bits).where(
                    store.of_key(store.seen, tenant, run=run.run)
                )
            )
        }
        position: int = head.slot_position
        absent: list[int] = []
        while len(absent) < self._settings.withdrawal_rows:
            scanned = _live_rows(conn, tenant, profile, position, head.slot_first)
            if not scanned:
                break
            for sequence in scanned:
                if not is_seen(seen, sequence):
                    absent.append(sequence)
                    if len(absent) == self._settings.withdrawal_rows:
                        break
            position = sequence
        if not absent:
            return None
        rows, leaves = self._withdrawals(conn, principal, run, head, absent)
        root = merkle.root(leaves).hex()
        at = timestamp(self._clock.now())

        def unit(conn: Connection) -> None:
            changed = _change_slot(
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
            _add_withdrawal_batch(conn, tenant, run, head, len(rows), root, at)

        return unit

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
        ingested = self._new_id()
        evidence = await self._db.read(
            principal, lambda conn: _evidence(conn, principal.tenant, request)
        )

        def unit(conn: Connection) -> tuple[Run, bool]:
            tenant = principal.tenant
            run, head = _attempt(conn, tenant, request)
            if is_final(RunStatus(run.status)):
                return run_of(run), False
            changed = bool(run.new or run.changed or run.withdrawn)
            published = _move_head(conn, tenant, run, head, rules, ending.at, changed=changed)
            if changed:
                self._record_publication(
                    conn, principal, run, rules, published, evidence, ingested, ending
                )
            return self._end(conn, principal, run.run, None, ending, published), True

        run, ended = await self._db.write(principal, unit)
        if ended:
            self._counted(run)
            self._metrics.last_success.labels(run.profile).set(ending.at.timestamp())
            if run.new or run.changed or run.withdrawn:
                self._metrics.publications.labels(run.profile).inc()
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
            _change_slot(
                conn,
                head,
                tenant,
                slot_state="hide" if hidden else "discard",
                slot_position=head.slot_first - 1,
            )
            if ending.status is RunStatus.UNCHANGED:
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
        self._handles.outbox.emit(conn, principal, _finished(run, ending))
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
                _add_run(conn, tenant, _claim_of_close(tenant, request, ending.at), ending.at)
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
        await self._clean(principal, run.profile)
        return self._counted(run) if ended else run

    async def sweep(self, principal: Principal) -> int:
        """Mark runs whose lease ran out as interrupted, and finish interrupted cleaning.

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
        return marked

    async def _clean(self, principal: Principal, profile: str) -> None:
        """Remove or hide what an ended attempt staged, step by step, and free the slot."""
        size = self._settings.cleaning_rows
        while await self._db.write(
            principal, lambda conn: _clean_step(conn, principal.tenant, profile, size)
        ):
            pass


# --- opening, inside the transaction ------------------------------------------------------------


def _open(conn: Connection, principal: Principal, claim: Grant, now: datetime) -> Run | None:
    """The opened run, or ``None`` if the profile's slot must be cleaned first."""
    tenant = principal.tenant
    run = store.find(conn, store.runs, tenant, run=claim.run)
    if run is not None:
        _check_same(run, claim)
        if is_final(RunStatus(run.status)):
            return run_of(run)
    conn.execute(_ENSURE_HEAD, {"tenant": tenant, "profile": claim.profile})
    head = store.find(conn, store.heads, tenant, profile=claim.profile)
    assert head is not None
    if run is not None and run.fence == claim.fence and run.first_row != WAITING:
        return _resume(conn, tenant, run, head, claim)
    if head.slot_run is not None:
        if head.slot_state in ("open", "closing"):
            _displace(conn, tenant, head, claim, now)
        # The fence counts from now on, although there is cleaning to do before the slot is free.
        _register(conn, tenant, run, claim, now)
        return None
    _register(conn, tenant, run, claim, now)
    return _take_slot(conn, tenant, head, claim)


def _check_same(run: Row[Any], claim: Grant) -> None:
    if (run.profile, run.profile_digest) != (claim.profile, claim.digest):
        raise GrantMismatch(f"cannot open the run {run.run}: it is of another profile or version")
    if run.fence > claim.fence:
        raise StaleFence(
            f"cannot open the run {run.run}: fence {claim.fence} is over, {run.fence} holds it"
        )


def _resume(conn: Connection, tenant: str, run: Row[Any], head: Row[Any], claim: Grant) -> Run:
    if (head.slot_run, head.slot_fence) != (run.run, run.fence):
        raise RunOvertaken(
            f"cannot go on with the run {run.run}: a later run of {run.profile} took its place"
        )
    runs = store.runs
    lease = claim.lease_expires_at
    values = {
        "status": RunStatus.RUNNING.value,
        "code": "",
        "lease_expires_at": case(
            (runs.c.lease_expires_at < lease, lease), else_=runs.c.lease_expires_at
        ),
    }
    store.change(conn, runs, store.of_key(runs, tenant, run=run.run), values)
    resumed = store.find(conn, runs, tenant, run=run.run)
    assert resumed is not None
    return run_of(resumed)


def _displace(conn: Connection, tenant: str, head: Row[Any], claim: Grant, now: datetime) -> None:
    """Let what the slot's holder staged be removed, if its time is over."""
    if head.slot_run != claim.run:
        holder = store.find(conn, store.runs, tenant, run=head.slot_run)
        assert holder is not None
        running = holder.status == RunStatus.RUNNING.value
        if (
            running
            and holder.fence >= claim.fence
            and parse_timestamp(holder.lease_expires_at) > now
        ):
            raise ProfileBusy(
                f"cannot open the run {claim.run}: the run {holder.run} of {claim.profile} "
                f"holds its lease until {holder.lease_expires_at}",
                retry_after_seconds=5.0,
            )
        store.change(
            conn,
            store.runs,
            store.of_key(store.runs, tenant, run=holder.run),
            {"status": RunStatus.INTERRUPTED.value, "code": "overtaken"},
        )
    _change_slot(conn, head, tenant, slot_state="discard", slot_position=head.slot_first - 1)


def _register(
    conn: Connection, tenant: str, run: Row[Any] | None, claim: Grant, now: datetime
) -> None:
    """Make the claim's fence the run's current one; what a lower one posted is superseded."""
    if run is None:
        _add_run(conn, tenant, claim, now)
        return
    if run.fence == claim.fence:
        return
    values = {
        **_FRESH,
        "worker": claim.worker,
        "fence": claim.fence,
        "status": RunStatus.RUNNING.value,
        "attempts": run.attempts + 1,
        "lease_expires_at": claim.lease_expires_at,
        "first_row": WAITING,
        "end_row": WAITING,
    }
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=run.run), values)
    older = and_(
        store.of_key(store.batches, tenant, run=run.run), store.batches.c.fence < claim.fence
    )
    store.change(conn, store.batches, older, {"superseded": True})
    store.remove(
        conn,
        store.rejects,
        and_(
            store.of_key(store.rejects, tenant, run_number=run.number),
            store.rejects.c.fence < claim.fence,
        ),
    )


def _add_run(conn: Connection, tenant: str, claim: Grant, now: datetime) -> None:
    store.add(
        conn,
        store.runs,
        tenant=tenant,
        run=claim.run,
        number=store.next_run_number(conn, tenant),
        profile=claim.profile,
        profile_digest=claim.digest,
        task=claim.task,
        worker=claim.worker,
        fence=claim.fence,
        status=RunStatus.RUNNING.value,
        attempts=1 if claim.worker else 0,
        started_at=timestamp(now),
        lease_expires_at=claim.lease_expires_at,
        first_row=WAITING,
        end_row=WAITING,
    )


def _claim_of_close(tenant: str, request: RunClose, now: datetime) -> Grant:
    """What a run that nobody opened would have been."""
    return Grant(
        tenant=tenant,
        task=request.task,
        run=request.run,
        profile=request.profile,
        digest=request.profile_digest,
        worker="",
        fence=request.fence,
        lease_expires_at=timestamp(now),
    )


def _take_slot(conn: Connection, tenant: str, head: Row[Any], claim: Grant) -> Run:
    _change_slot(
        conn,
        head,
        tenant,
        slot_run=claim.run,
        slot_fence=claim.fence,
        slot_first=head.next_row,
        slot_state="open",
        slot_position=NOWHERE,
    )
    values = {"first_row": head.next_row, "end_row": head.next_row}
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=claim.run), values)
    run = store.find(conn, store.runs, tenant, run=claim.run)
    assert run is not None
    return run_of(run)


def _validators(conn: Connection, tenant: str, run_id: str) -> dict[str, Validator]:
    run = store.find(conn, store.runs, tenant, run=run_id)
    if run is None:
        return {}
    rows = conn.execute(
        select(store.responses)
        .where(store.of_key(store.responses, tenant, run=run_id, fence=run.fence))
        .order_by(store.responses.c.sequence)
        .limit(LISTED_MAX)
    )
    return {
        row.url: Validator(etag=row.etag, last_modified=row.last_modified, digest=row.digest)
        for row in rows
    }


# --- the slot, inside the transaction -----------------------------------------------------------


def _attempt(conn: Connection, tenant: str, request: RunFinish) -> tuple[Row[Any], Row[Any]]:
    """The run of the attempt, and the head whose slot it holds (unless the run has ended)."""
    found = store.find(conn, store.runs, tenant, run=request.run)
    run = check_attempt(found, request.run, request.fence)
    head = store.find(conn, store.heads, tenant, profile=run.profile)
    assert head is not None or is_final(RunStatus(run.status)), "a run is opened with its head"
    if is_final(RunStatus(run.status)):
        return run, head  # type: ignore[return-value]
    assert head is not None
    if (head.slot_run, head.slot_fence) != (run.run, run.fence):
        raise RunOvertaken(
            f"cannot finish the run {run.run}: a later run of {run.profile} took its place"
        )
    return run, head


def _change_slot(conn: Connection, head: Row[Any], tenant: str, **values: Any) -> bool:
    """Change the head's row; whether it was still as ``head`` says."""
    heads = store.heads
    condition = and_(
        store.of_key(heads, tenant, profile=head.profile), heads.c.version == head.version
    )
    return store.change(conn, heads, condition, {"version": head.version + 1, **values}) == 1


_FREE_SLOT: dict[str, Any] = {
    "slot_run": None,
    "slot_fence": None,
    "slot_first": None,
    "slot_state": None,
    "slot_position": None,
}


def _clean_step(conn: Connection, tenant: str, profile: str, size: int) -> bool:
    """Undo the next ``size`` rows of an ended attempt; whether more are left."""
    head = store.find(conn, store.heads, tenant, profile=profile)
    if head is None or head.slot_state not in ("discard", "hide"):
        return False
    revisions = store.revisions
    rows = conn.execute(
        select(revisions.c.sequence, revisions.c.previous)
        .where(
            store.of_key(revisions, tenant, profile=profile),
            revisions.c.sequence > head.slot_position,
        )
        .order_by(revisions.c.sequence)
        .limit(size)
    ).all()
    values: dict[str, Any] = {}
    if rows:
        _undo(conn, tenant, head, rows)
        values["slot_position"] = rows[-1].sequence
    more = len(rows) == size
    if not more:
        values |= _FREE_SLOT
        store.remove(conn, store.seen, store.of_key(store.seen, tenant, run=head.slot_run))
    _change_slot(conn, head, tenant, **values)
    return more


def _undo(conn: Connection, tenant: str, head: Row[Any], rows: Sequence[Any]) -> None:
    revisions = store.revisions
    these = and_(
        store.of_key(revisions, tenant, profile=head.profile),
        revisions.c.sequence >= rows[0].sequence,
        revisions.c.sequence <= rows[-1].sequence,
    )
    replaced = [row.previous for row in rows if row.previous is not None]
    store.set_ends(conn, tenant, head.profile, replaced, None, only=head.publication + 1)
    if head.slot_state == "discard":
        store.remove(conn, revisions, these)
    else:
        store.change(conn, revisions, these, {"from_publication": None})


def _note_totals(conn: Connection, tenant: str, request: RunFinish) -> None:
    values: dict[str, Any] = {
        "pages": request.pages,
        "requests": request.requests,
        "bytes_fetched": request.bytes_fetched,
        "cursor": request.cursor,
    }
    if request.replayed:
        values["replayed"] = True
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=request.run), values)


# --- withdrawals and publication, inside the transaction ----------------------------------------


def _live_rows(conn: Connection, tenant: str, profile: str, after: int, before: int) -> list[int]:
    """The next published, not withdrawn rows that nothing of the attempt replaces."""
    revisions = store.revisions
    return list(
        conn.execute(
            select(revisions.c.sequence)
            .where(
                store.of_key(revisions, tenant, profile=profile),
                revisions.c.sequence > after,
                revisions.c.sequence < before,
                revisions.c.from_publication.is_not(None),
                revisions.c.to_publication.is_(None),
                revisions.c.withdrawn.is_(False),
            )
            .order_by(revisions.c.sequence)
            .limit(SCAN_ROWS)
        ).scalars()
    )


def _add_withdrawal_batch(
    conn: Connection, tenant: str, run: Row[Any], head: Row[Any], rows: int, root: str, at: str
) -> None:
    batches = store.batches
    number = conn.execute(
        select(func.count()).where(
            store.of_key(batches, tenant, run=run.run, fence=run.fence, kind="withdrawals")
        )
    ).scalar_one()
    store.add(
        conn,
        batches,
        tenant=tenant,
        run=run.run,
        fence=run.fence,
        kind="withdrawals",
        sequence=number,
        digest="",
        records=rows,
        rejects=0,
        new=0,
        changed=0,
        unchanged=0,
        duplicates=0,
        first_row=head.next_row,
        rows=rows,
        root=root,
        received_at=at,
    )
    store.change(
        conn,
        store.runs,
        store.of_key(store.runs, tenant, run=run.run),
        {"withdrawn": store.runs.c.withdrawn + rows, "end_row": head.next_row + rows},
    )


@dataclass(frozen=True, slots=True)
class Published:
    """The head after a complete run."""

    publication: int
    recorded_at: str
    cursor: str | None
    live: int
    fields: str


def batch_leaf(kind: str, sequence: int, rows: int, root: str) -> bytes:
    """The entry of a batch in the tree of its run: the root over its own record leaves."""
    return canonical(
        {
            "batch": sequence,
            "domain": BATCH_LEAF_DOMAIN,
            "kind": kind,
            "root": root,
            "rows": rows,
        }
    )


def _evidence(conn: Connection, tenant: str, request: RunFinish) -> dict[str, Any]:
    """The Merkle root over the run's batches, and which raw responses they came from."""
    batches, responses = store.batches, store.responses
    key = {"run": request.run, "fence": request.fence}
    staged = conn.execute(
        select(batches.c.kind, batches.c.sequence, batches.c.rows, batches.c.root)
        .where(store.of_key(batches, tenant, **key))
        .order_by(batches.c.kind, batches.c.sequence)
    ).all()
    digests = list(
        conn.execute(
            select(responses.c.digest)
            .where(store.of_key(responses, tenant, **key))
            .order_by(responses.c.sequence)
        ).scalars()
    )
    leaves = [
        merkle.leaf_hash(batch_leaf(row.kind, row.sequence, row.rows, row.root)) for row in staged
    ]
    raw = [merkle.leaf_hash(digest.encode()) for digest in digests]
    listed = [
        {"kind": row.kind, "root": row.root, "rows": row.rows, "sequence": row.sequence}
        for row in staged
    ]
    return {
        "root": merkle.root(leaves).hex(),
        "batches": listed if len(listed) <= LISTED_MAX else [],
        "batches_count": len(listed),
        "responses": digests if len(digests) <= LISTED_MAX else [],
        "responses_count": len(digests),
        "responses_root": merkle.root(raw).hex(),
    }


def _move_head(
    conn: Connection,
    tenant: str,
    run: Row[Any],
    head: Row[Any],
    rules: Rules,
    at: datetime,
    *,
    changed: bool,
) -> Published:
    """Let the head show the run's rows, free the slot, move the cursor."""
    if head.slot_state != "closing" or (
        rules.mode == "snapshot" and head.live != run.present + run.withdrawn
    ):
        raise Contended(f"cannot publish the run {run.run}: its profile changed meanwhile")
    fields = msgspec.json.decode(head.fields, type=FieldNames).union(
        msgspec.json.decode(run.fields, type=FieldNames)
    )
    published = Published(
        publication=head.publication + 1 if changed else head.publication,
        recorded_at=later(at, head.recorded_at),
        cursor=head.cursor if run.cursor is None else run.cursor,
        live=head.live + run.new - run.withdrawn,
        fields=msgspec.json.encode(fields).decode(),
    )
    values: dict[str, Any] = {
        "live": published.live,
        "succeeded_at": timestamp(at),
        "profile_digest": run.profile_digest,
        "plan_run": run.run,
        "cursor": published.cursor,
        "fields": published.fields,
        **_FREE_SLOT,
    }
    if changed:
        values |= {"publication": published.publication, "recorded_at": published.recorded_at}
    if not _change_slot(conn, head, tenant, **values):
        raise Contended(f"cannot publish the run {run.run}: its profile changed meanwhile")
    store.remove(conn, store.seen, store.of_key(store.seen, tenant, run=run.run))
    return published


def later(now: datetime, last: str | None) -> str:
    """``now``, or a microsecond after ``last`` if the clock has not moved on since."""
    if last is not None and timestamp(now) <= last:
        return timestamp(parse_timestamp(last) + timedelta(microseconds=1))
    return timestamp(now)


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
            "unchanged": run.unchanged,
            "withdrawn": run.withdrawn,
            "worker": run.worker,
        },
        request_id=ending.request,
    )
