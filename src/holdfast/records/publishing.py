"""From staged rows to a publication: withdrawals, evidence, the head. Inside of a transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, not_, select
from sqlalchemy.sql import ColumnElement

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Internal
from holdfast.records import store
from holdfast.records.content import BATCH_LEAF_DOMAIN, SIGNED_BATCH_LEAF_DOMAIN, FieldNames
from holdfast.records.errors import Contended
from holdfast.records.model import RunFinish
from holdfast.records.rules import Rules
from holdfast.records.signed import header_digest
from holdfast.records.slots import FREE_SLOT, change_slot
from holdfast.records.staging import chunks_of, is_seen, kept_count
from holdfast.records.within import Asked

LISTED_MAX = 2_000
"""Batches and responses named one by one in an event; beyond that their root stands for them."""
NOWHERE = -1
"""Response and position of a withdrawal: it comes from the absence of something."""
SCAN_ROWS = 5_000
ROWS_AT_ONCE = 50_000
"""Published rows that are looked at in one unit."""


def note_totals(conn: Connection, tenant: str, request: RunFinish) -> None:
    values: dict[str, Any] = {
        "pages": request.pages,
        "requests": request.requests,
        "bytes_fetched": request.bytes_fetched,
        "cursor": request.cursor,
    }
    if request.replayed:
        values["replayed"] = True
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=request.run), values)


def live_rows(
    conn: Connection,
    tenant: str,
    profile: str,
    after: int,
    before: int,
    *where: ColumnElement[bool],
) -> list[int]:
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
                *where,
            )
            .order_by(revisions.c.sequence)
            .limit(SCAN_ROWS)
        ).scalars()
    )


@dataclass(frozen=True, slots=True)
class Absence:
    """What is to be said of the published records that no good row of a run speaks of."""

    unasked: int = 0
    kept: int = 0
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """How far a run's published records were looked at, as of a version of the head.

    ``absence`` is there once all were.
    """

    version: int
    position: int = NOWHERE
    missing: int = 0
    absence: Absence | None = None


def look_on(
    conn: Connection, tenant: str, run: Row[Any], head: Row[Any], asked: Asked | None, so_far: Look
) -> Look:
    """Count what is absent from a run of a snapshot that has brought everything: one step of it.

    Where all that is published came again, or nothing was rejected and everything was asked for,
    nothing is looked at. Else it is every published row, so many at a time as a reader may hold a
    snapshot of the database for.
    """
    whole = run.range_start is None
    if whole and head.live <= run.present:
        return replace(so_far, absence=Absence())
    bits = store.kept_bits(conn, tenant, run.run)
    if not run.unkeyed and not bits and (asked is None or not whole):
        return replace(so_far, absence=Absence())
    scanned = (asked is not None) if whole else bool(run.unkeyed)
    if scanned:
        assert asked is not None
        begins = store.asked_for(asked)
        where = not_(begins) if whole else begins
        position, missing, more = absent_rows(
            conn, tenant, run, head, so_far.position, ROWS_AT_ONCE, where
        )
        so_far = replace(so_far, position=position, missing=so_far.missing + len(missing))
        if more:
            return so_far
    kept = kept_count(bits, store.all_seen(conn, tenant, run.run))
    unasked = so_far.missing if whole else 0
    absent = head.live - run.present - kept - unasked if whole else so_far.missing
    return replace(so_far, absence=Absence(unasked, kept, absent if run.unkeyed else 0))


def absent_rows(
    conn: Connection,
    tenant: str,
    run: Row[Any],
    head: Row[Any],
    position: int,
    wanted: int,
    *where: ColumnElement[bool],
) -> tuple[int, list[int], bool]:
    """Published rows behind ``position`` that neither came again nor were met in a rejected row.

    At most ``wanted`` of them, of the next :data:`ROWS_AT_ONCE` rows; how far that was, and whether
    more may follow.
    """
    absent: list[int] = []
    for _ in range(0, ROWS_AT_ONCE, SCAN_ROWS):
        scanned = live_rows(conn, tenant, run.profile, position, head.slot_first, *where)
        came = store.came_bits(conn, tenant, run.run, chunks_of(scanned))
        for position in scanned:
            if not is_seen(came, position):
                absent.append(position)
                if len(absent) == wanted:
                    return position, absent, True
        if len(scanned) < SCAN_ROWS:
            return position, absent, False
    return position, absent, True


def accounted(run: Row[Any]) -> int:
    """How many of the records that were published before a run stay."""
    stay: int = run.present + run.unasked + run.kept + run.withheld
    return stay


def add_withdrawal_batch(
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


def batch_leaf(row: Any) -> bytes:
    """The entry of a batch in the tree of its run: the root over its own record leaves.

    With what its worker signed, if it did: withdrawals are concluded here.
    """
    leaf = {
        "batch": row.sequence,
        "domain": BATCH_LEAF_DOMAIN,
        "kind": row.kind,
        "root": row.root,
        "rows": row.rows,
    }
    if row.header is not None:
        leaf |= {
            "domain": SIGNED_BATCH_LEAF_DOMAIN,
            "header": header_digest(row.header),
            "signature": row.signature,
        }
    return canonical(leaf)


def evidence_of(conn: Connection, tenant: str, request: RunFinish) -> dict[str, Any]:
    """The Merkle root over the run's batches, and which raw responses they came from."""
    batches, responses = store.batches, store.responses
    key = {"run": request.run, "fence": request.fence}
    staged = conn.execute(
        select(
            batches.c.kind,
            batches.c.sequence,
            batches.c.rows,
            batches.c.root,
            batches.c.header,
            batches.c.signature,
        )
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
    leaves = [merkle.leaf_hash(batch_leaf(row)) for row in staged]
    raw = [merkle.leaf_hash(digest.encode()) for digest in digests]
    listed = [
        {
            "kind": row.kind,
            "root": row.root,
            "rows": row.rows,
            "sequence": row.sequence,
            "header": None if row.header is None else header_digest(row.header),
        }
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


def move_head(
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
    if head.slot_state != "closing":
        raise Contended(f"cannot publish the run {run.run}: its profile changed meanwhile")
    whole = rules.mode == "snapshot" and run.kind != "backfill"
    if whole and head.live != run.withdrawn + accounted(run):
        raise Internal(
            f"cannot publish the run {run.run}: its withdrawals do not add up",
            internal=f"live {head.live}, present {run.present}, withdrawn {run.withdrawn}, "
            f"unasked {run.unasked}, kept {run.kept}, withheld {run.withheld}",
        )
    fields = msgspec.json.decode(head.fields, type=FieldNames).union(
        msgspec.json.decode(run.fields, type=FieldNames)
    )
    published = Published(
        publication=head.publication + 1 if changed else head.publication,
        recorded_at=later(at, head.recorded_at),
        cursor=_cursor_after(head.cursor, run),
        live=head.live + run.new - run.withdrawn,
        fields=msgspec.json.encode(fields).decode(),
    )
    values: dict[str, Any] = {
        "live": published.live,
        "cursor": published.cursor,
        "fields": published.fields,
        **FREE_SLOT,
    }
    if run.kind == "collect":
        values |= {"succeeded_at": timestamp(at)}
    if run.kind != "backfill" or head.profile_digest is None:
        values |= {"profile_digest": run.profile_digest}
    if run.kind in ("collect", "remap"):
        # A backfill asked for other addresses, and a merge has bytes of many runs: neither says
        # what the next run will meet.
        values |= {"plan_run": run.run}
    if changed:
        values |= {"publication": published.publication, "recorded_at": published.recorded_at}
    if not change_slot(conn, head, tenant, **values):
        raise Contended(f"cannot publish the run {run.run}: its profile changed meanwhile")
    store.remove(conn, store.seen, store.of_key(store.seen, tenant, run=run.run))
    return published


def _cursor_after(published: str | None, run: Row[Any]) -> str | None:
    """Where the next run continues: never before where the last one ended.

    Only an ordinary run moves it; a backfill is about a past that the cursor has left behind.
    """
    if run.kind != "collect" or run.cursor is None:
        return published
    if published is None or _is_beyond(run.cursor, published):
        return str(run.cursor)
    return published


def _is_beyond(cursor: str, published: str) -> bool:
    if cursor.isdigit() and published.isdigit():
        return int(cursor) > int(published)
    try:
        return parse_timestamp(cursor) > parse_timestamp(published)
    except ValueError:
        return True  # of another sort than before: the profile changed what it counts by


def later(now: datetime, last: str | None) -> str:
    """``now``, or a microsecond after ``last`` if the clock has not moved on since."""
    if last is not None and timestamp(now) <= last:
        return timestamp(parse_timestamp(last) + timedelta(microseconds=1))
    return timestamp(now)
