"""A profile's slot: who stages for it, and how what they left is undone, step by step.

Everything here happens inside of a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, select

from holdfast.records import store
from holdfast.records.errors import RunEnded, RunNotOpen, RunOvertaken, StaleFence
from holdfast.records.model import RunFinish, RunStatus, is_final


def check_attempt(run: Row[Any] | None, run_id: str, fence: int) -> Row[Any]:
    """The run's row if ``fence`` is its current one."""
    if run is None or run.fence < fence:
        raise RunNotOpen(f"cannot work on the run {run_id}: it is not open under fence {fence}")
    if run.fence > fence:
        raise StaleFence(
            f"cannot work on the run {run_id}: fence {fence} is over, {run.fence} holds it"
        )
    return run


def check_slot(run: Row[Any], head: Row[Any] | None) -> Row[Any]:
    """The profile's head if the run's current attempt may stage in it."""
    if is_final(RunStatus(run.status)):
        raise RunEnded(f"cannot add to the run {run.run}: it has ended as {run.status}")
    if head is None or (head.slot_run, head.slot_fence) != (run.run, run.fence):
        raise RunOvertaken(
            f"cannot add to the run {run.run}: a later run of {run.profile} took its place"
        )
    if head.slot_state != "open":
        raise RunEnded(f"cannot add to the run {run.run}: it is being finished")
    return head


def attempt_of(conn: Connection, tenant: str, request: RunFinish) -> tuple[Row[Any], Row[Any]]:
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


def change_slot(conn: Connection, head: Row[Any], tenant: str, **values: Any) -> bool:
    """Change the head's row; whether it was still as ``head`` says."""
    heads = store.heads
    condition = and_(
        store.of_key(heads, tenant, profile=head.profile), heads.c.version == head.version
    )
    return store.change(conn, heads, condition, {"version": head.version + 1, **values}) == 1


FREE_SLOT: dict[str, Any] = {
    "slot_run": None,
    "slot_fence": None,
    "slot_first": None,
    "slot_state": None,
    "slot_position": None,
}


def clean_step(conn: Connection, tenant: str, profile: str, size: int) -> bool:
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
        values |= FREE_SLOT
        store.remove(conn, store.seen, store.of_key(store.seen, tenant, run=head.slot_run))
    change_slot(conn, head, tenant, **values)
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
