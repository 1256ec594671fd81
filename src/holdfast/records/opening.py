"""Opening a run and taking the profile's slot: what happens inside of one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, case, select, text

from holdfast.fleet.grants import GrantMismatch
from holdfast.fleet.model import Grant
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.base import run_of
from holdfast.records.errors import ProfileBusy, RunOvertaken, StaleFence
from holdfast.records.model import (
    VALIDATORS_MAX,
    Run,
    RunClose,
    RunOpen,
    RunStatus,
    Validator,
    is_final,
    page_name,
)
from holdfast.records.slots import change_slot

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
    "unasked": 0,
    "kept": 0,
    "withheld": 0,
    "unkeyed": 0,
    "duplicates": 0,
    "rejects": 0,
    "violations": 0,
    "pages": 0,
    "requests": 0,
    "bytes_fetched": 0,
    "replayed": False,
    "repeat": "",
    "violation": "",
    "fields": "{}",
    "asked": None,
    "cursor": None,
    "code": "",
    "reason": "",
    "usual": 0,
    "drift": "[]",
}
"""What a new attempt begins with."""
WAITING = -1
"""``first_row`` of an attempt that does not hold the slot yet."""


def open_run(
    conn: Connection, principal: Principal, claim: Grant, request: RunOpen, now: datetime
) -> Run | None:
    """The opened run, or ``None`` if the profile's slot must be cleaned first."""
    tenant = principal.tenant
    run = store.find(conn, store.runs, tenant, run=claim.run)
    if run is not None:
        _check_same(run, claim, request)
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
        _register(conn, tenant, run, claim, request, now)
        return None
    _register(conn, tenant, run, claim, request, now)
    return _take_slot(conn, tenant, head, claim)


def _check_same(run: Row[Any], claim: Grant, request: RunOpen) -> None:
    if (run.profile, run.profile_digest) != (claim.profile, claim.digest):
        raise GrantMismatch(f"cannot open the run {run.run}: it is of another profile or version")
    if run.fence > claim.fence:
        raise StaleFence(
            f"cannot open the run {run.run}: fence {claim.fence} is over, {run.fence} holds it"
        )
    if is_final(RunStatus(run.status)):
        return
    asked = (request.kind, request.range_start, request.range_end, request.rehearsal)
    if (run.kind, run.range_start, run.range_end, run.rehearsal) != asked:
        raise GrantMismatch(f"cannot open the run {run.run}: it was opened as something else")


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
        "reason": "",
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
    change_slot(conn, head, tenant, slot_state="discard", slot_position=head.slot_first - 1)


def _register(
    conn: Connection,
    tenant: str,
    run: Row[Any] | None,
    claim: Grant,
    request: RunOpen,
    now: datetime,
) -> None:
    """Make the claim's fence the run's current one; what a lower one posted is superseded."""
    if run is None:
        add_run(conn, tenant, claim, now, request)
        return
    if run.fence == claim.fence:
        return
    store.remove(conn, store.shapes, store.of_key(store.shapes, tenant, run=run.run))
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


def add_run(
    conn: Connection, tenant: str, claim: Grant, now: datetime, request: RunOpen | None = None
) -> None:
    about: dict[str, Any] = {}
    if request is not None:
        about = {
            "kind": request.kind,
            "range_start": request.range_start,
            "range_end": request.range_end,
            "rehearsal": request.rehearsal,
        }
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
        **about,
    )


def claim_of_close(tenant: str, request: RunClose, now: datetime) -> Grant:
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
    change_slot(
        conn,
        head,
        tenant,
        slot_run=claim.run,
        slot_fence=claim.fence,
        slot_first=head.next_row,
        slot_state="open",
        slot_position=-1,
    )
    values = {"first_row": head.next_row, "end_row": head.next_row}
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=claim.run), values)
    run = store.find(conn, store.runs, tenant, run=claim.run)
    assert run is not None
    return run_of(run)


def validators_of(conn: Connection, tenant: str, run_id: str) -> dict[str, Validator]:
    """What the run's pages are known by; of none, if bytes of any were destroyed.

    Whoever finds such a page as it was would bring its bytes back and tell nobody who is in them;
    whoever knew of the others alone would take those for all there is.
    """
    run = store.find(conn, store.runs, tenant, run=run_id)
    if run is None:
        return {}
    mine = store.of_key(store.responses, tenant, run=run_id, fence=run.fence)
    destroyed = select(store.responses.c.sequence).where(mine, store.responses.c.erased_at != "")
    if conn.execute(destroyed.limit(1)).first() is not None:
        return {}
    rows = conn.execute(
        select(store.responses)
        .where(mine)
        .order_by(store.responses.c.sequence)
        .limit(VALIDATORS_MAX)
    )
    return {
        page_name(row.url, row.request): Validator(
            etag=row.etag,
            last_modified=row.last_modified,
            digest=row.digest,
            size_bytes=row.size_bytes,
            media_type=row.media_type,
            following=row.following,
            total=row.total,
        )
        for row in rows
    }
