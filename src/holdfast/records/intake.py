"""Taking batches: prepared outside of a transaction, written inside of one that checks again.

Everything costly (canonical bytes, keyed digests, looking up what is there, leaves) happens before
the write, which then does nothing but compare a version number and insert. If anything about the
profile's rows or its slot has changed meanwhile, the number differs, nothing is written, and the
batch is looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from sqlalchemy import Connection, Row, and_, case, select

from holdfast.fleet.model import Grant
from holdfast.kernel import merkle
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import bulk_insert
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.base import Handles
from holdfast.records.content import NO_FIELDS, FieldNames
from holdfast.records.erasing import Erasing
from holdfast.records.errors import (
    BatchConflict,
    BatchOutOfOrder,
    Contended,
    ResponseMissing,
)
from holdfast.records.model import Batch, BatchReceipt, RunStatus
from holdfast.records.rules import Rules, for_kind
from holdfast.records.shape import Shape, decode_shape, encode_shape
from holdfast.records.signed import (
    BatchHeader,
    check_responses,
    check_root,
    check_signed,
    encode_places,
)
from holdfast.records.slots import check_attempt, check_slot
from holdfast.records.staging import (
    Change,
    Known,
    Latest,
    Prepared,
    Target,
    chunks_of,
    classify,
    prepare,
)
from holdfast.records.unsealing import Unsealing

ROW_OVERHEAD_BYTES = 200


@dataclass(frozen=True, slots=True)
class _Look:
    """One snapshot: the answer if there is one already, or what the batch will meet."""

    answer: BatchReceipt | None = None
    version: int = 0
    number: int = 0
    publication: int = 0
    rejects: int = 0
    repeat: str = ""
    violation: str = ""
    fields: FieldNames = NO_FIELDS
    shape: bytes = b"{}"
    known: Known | None = None
    rules: Rules | None = None
    """As they hold for this kind of run."""


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A batch on its way, with what it is checked against."""

    principal: Principal
    batch: Batch
    rules: Rules
    prepared: Prepared
    claim: Grant
    header: BatchHeader
    received_at: str


class Intake(Erasing, Unsealing):
    """The part of the service that takes batches."""

    def __init__(self, handles: Handles) -> None:
        super().__init__(handles)
        # One batch of a profile at a time in this process; another process meets the version.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def post_batch(self, principal: Principal, grant: str, batch: Batch) -> BatchReceipt:
        """Stage a batch; on return it is durable, and invisible until its run is published.

        The same id with the same content gives the same answer again (``repeated``). Refused:
        :class:`BatchConflict` for other content under a used id, :class:`StaleFence` for an
        attempt that was taken over, :class:`RunNotOpen`, :class:`RunEnded`, :class:`RunOvertaken`,
        :class:`ResponseMissing` if a row refers to bytes that are not stored,
        :class:`BatchOutOfOrder` where the profile gives the order a meaning,
        :class:`SignatureRefused` if it is not what the worker of the grant signed. Nothing is
        staged when it raises, but for ``OutcomeUnknown``: then send the same batch again.
        """
        started = self._clock.monotonic()
        claim = self._grant(principal, grant, batch.run, batch.fence)
        header = check_signed(batch, claim)
        rules = await self._rules(principal, claim.profile, claim.digest)
        keys = self._keys(principal, claim.profile)
        size = len(batch.records)
        owners = await self._owners(principal, rules, batch)
        prepared = await self.worked(size, lambda: prepare(batch, keys, rules, owners))
        root = await self.worked(size, lambda: merkle.root(prepared.posted.leaves))
        check_root(batch, header, root)
        incoming = _Incoming(
            principal=principal,
            batch=batch,
            rules=rules,
            prepared=prepared,
            claim=claim,
            header=header,
            received_at=timestamp(self._clock.now()),
        )
        async with self._lock(principal, claim.profile):
            receipt = await self._stage(incoming)
        await self._forget_erased(principal, prepared)
        self._metrics.batch_seconds.observe(self._clock.monotonic() - started)
        return receipt

    async def _forget_erased(self, principal: Principal, prepared: Prepared) -> None:
        """A source may go on naming somebody who is erased: nothing of them is kept, raw bytes
        included. Asked for after the batch is there: they may have been erased meanwhile."""
        if prepared.personal is None:
            return
        tokens = {each.token for each in prepared.personal}
        keyring = self._handles.keyring
        erased = await keyring.apart(keyring.erased, principal.tenant, tokens)
        await self.erase_subjects(principal, sorted(erased))

    def _lock(self, principal: Principal, profile: str) -> asyncio.Lock:
        return self._locks.setdefault((principal.tenant, profile), asyncio.Lock())

    async def _stage(self, incoming: _Incoming) -> BatchReceipt:
        principal, batch = incoming.principal, incoming.batch
        keys = self._keys(principal, incoming.rules.profile)
        for _ in range(self._settings.staging_attempts_max):
            look = await self._db.read(principal, lambda conn: _look(conn, incoming))
            if look.answer is not None:
                self._metrics.batches.labels("repeated").inc()
                return look.answer
            known, rules = look.known, look.rules
            assert known is not None
            assert rules is not None
            target = Target(
                tenant=principal.tenant,
                profile=incoming.rules.profile,
                profile_digest=incoming.rules.digest,
                run=batch.run,
                run_number=look.number,
                publication=look.publication + 1,
            )
            change = await self.worked(
                len(batch.records),
                lambda known=known, target=target, rules=rules: classify(  # type: ignore[misc]
                    incoming.prepared, known, target, rules, keys
                ),
            )
            receipt = _receipt(incoming, change)
            unit = self._write_unit(incoming, look, known, change)
            written = len(change.rows) * ROW_OVERHEAD_BYTES + incoming.prepared.size_bytes
            if await self._db.write(principal, unit, size_bytes=written):
                self._count(receipt, len(incoming.prepared.rejects))
                return receipt
        raise Contended(
            f"cannot stage the batch: others keep changing {incoming.rules.profile}",
            retry_after_seconds=1.0,
        )

    def _count(self, receipt: BatchReceipt, rejects: int) -> None:
        self._metrics.batches.labels("stored").inc()
        for name in ("new", "changed", "unchanged"):
            self._metrics.records.labels(name).inc(max(0, getattr(receipt, name)))
        self._metrics.rejects.inc(rejects)

    def _write_unit(
        self, incoming: _Incoming, look: _Look, known: Known, change: Change
    ) -> Callable[[Connection], bool]:
        kept_max = self._settings.rejects_kept_max
        shape = decode_shape(look.shape)
        shape.add(incoming.prepared.shape)

        def unit(conn: Connection) -> bool:
            if not _claim_version(conn, incoming, look, known.next + len(change.rows)):
                return False
            if not _update_run(conn, incoming, look, known, change):
                return False
            _write_rows(conn, incoming, look.publication + 1, change)
            _write_subjects(conn, incoming)
            _write_shape(conn, incoming, look, shape)
            _write_batch(conn, incoming, known, change)
            _write_rejects(conn, incoming, look, kept_max)
            return True

        return unit


# --- the look -----------------------------------------------------------------------------------


def _look(conn: Connection, incoming: _Incoming) -> _Look:
    batch, rules, tenant = incoming.batch, incoming.rules, incoming.principal.tenant
    run = check_attempt(store.find(conn, store.runs, tenant, run=batch.run), batch.run, batch.fence)
    found = store.find(
        conn,
        store.batches,
        tenant,
        run=batch.run,
        fence=batch.fence,
        kind="posted",
        sequence=batch.sequence,
    )
    if found is not None:
        return _Look(answer=_repeated(found, incoming.prepared.digest))
    head = check_slot(run, store.find(conn, store.heads, tenant, profile=rules.profile))
    rules = for_kind(rules, run.kind)
    incoming = replace(incoming, rules=rules)
    _check_order(conn, incoming)
    _check_responses(conn, incoming)
    return _Look(
        version=head.version,
        number=run.number,
        publication=head.publication,
        rejects=run.rejects,
        repeat=run.repeat,
        violation=run.violation,
        fields=msgspec.json.decode(run.fields, type=FieldNames),
        shape=store.shape_text(conn, tenant, batch.run),
        known=_known(
            conn, incoming, run.first_row, head.next_row, again=run.kind in ("remap", "merge")
        ),
        rules=rules,
    )


def _repeated(found: Row[Any], digest: str) -> BatchReceipt:
    if found.digest != digest:
        raise BatchConflict(
            f"cannot take the batch {found.sequence} of the run {found.run}: "
            "its id was used with other content"
        )
    return BatchReceipt(
        run=found.run,
        fence=found.fence,
        sequence=found.sequence,
        digest=found.digest,
        records=found.records,
        rejects=found.rejects,
        new=found.new,
        changed=found.changed,
        unchanged=found.unchanged,
        duplicates=found.duplicates,
        root=found.root,
        repeated=True,
    )


def _check_order(conn: Connection, incoming: _Incoming) -> None:
    if not incoming.rules.ordered:
        return
    batch = incoming.batch
    count, _ = store.posted_sequences(conn, incoming.principal.tenant, batch.run, batch.fence)
    if batch.sequence != count:
        raise BatchOutOfOrder(
            f"cannot take the batch {batch.sequence} of the run {batch.run}: {count} comes next",
            hint="the profile keeps the first or last of equal keys, so batches come in order",
        )


def _check_responses(conn: Connection, incoming: _Incoming) -> None:
    wanted, batch = sorted(incoming.prepared.responses), incoming.batch
    ours = store.of_key(
        store.responses, incoming.principal.tenant, run=batch.run, fence=batch.fence
    )
    column = store.responses.c.sequence
    stored: dict[int, str] = {}
    for some in store.parts(wanted):
        found = conn.execute(select(column, store.responses.c.digest).where(ours, column.in_(some)))
        stored |= {row.sequence: row.digest for row in found}
    missing = set(wanted) - set(stored)
    if missing:
        raise ResponseMissing(
            f"cannot take the batch {batch.sequence} of the run {batch.run}: the raw response "
            f"{min(missing)} is not stored",
            hint="store the bytes first",
        )
    check_responses(batch, incoming.header, stored)


def _known(
    conn: Connection, incoming: _Incoming, first: int, following: int, *, again: bool
) -> Known:
    tenant, rules, prepared = incoming.principal.tenant, incoming.rules, incoming.prepared
    rejected = set(prepared.rejected) if rules.mode == "snapshot" else set()
    latest = store.latest_rows(conn, tenant, list(rejected.union(prepared.keys)))
    bases: dict[int, Latest | None] = {}
    if rules.duplicates == "last":
        staged = [row.sequence for row in latest.values() if row.sequence >= first]
        bases = _bases(conn, tenant, rules.profile, staged)
    followed = {row.sequence for row in bases.values() if row is not None}
    for key, content in zip(prepared.keys, prepared.contents, strict=True):
        row = latest.get(key)
        if row is not None and row.sequence < first and row.content != content:
            followed.add(row.sequence)
    published = [row.sequence for row in latest.values() if row.sequence < first]
    destroyed = store.destroyed_rows(conn, tenant, rules.profile, published) if again else {}
    return Known(
        first=first,
        next=following,
        latest=latest,
        revisions={
            row.sequence: row.revision
            for row in store.rows_by_sequence(
                conn, tenant, rules.profile, list(followed), "revision"
            )
        },
        bases=bases,
        seen=store.seen_bits(conn, tenant, incoming.batch.run, chunks_of(published)),
        kept=store.kept_bits(conn, tenant, incoming.batch.run) if rejected else {},
        destroyed=destroyed,
        fetched=_fetched(conn, incoming) if destroyed else {},
    )


def _fetched(conn: Connection, incoming: _Incoming) -> dict[int, str]:
    """When the responses that the batch refers to were fetched."""
    batch, responses, found = incoming.batch, store.responses, dict[int, str]()
    ours = store.of_key(responses, incoming.principal.tenant, run=batch.run, fence=batch.fence)
    wanted = select(responses.c.sequence, responses.c.fetched_at)
    for some in store.parts(sorted(incoming.prepared.responses)):
        rows = conn.execute(wanted.where(ours, responses.c.sequence.in_(some)))
        found |= {row.sequence: row.fetched_at for row in rows}
    return found


def _bases(
    conn: Connection, tenant: str, profile: str, staged: list[int]
) -> dict[int, Latest | None]:
    """What each of these staged rows replaced."""
    previous = {
        row.sequence: row.previous
        for row in store.rows_by_sequence(conn, tenant, profile, staged, "previous")
    }
    wanted = [sequence for sequence in previous.values() if sequence is not None]
    rows = {
        row.sequence: Latest(row.sequence, row.content)
        for row in store.rows_by_sequence(conn, tenant, profile, wanted, "content")
    }
    return {
        sequence: None if before is None else rows[before] for sequence, before in previous.items()
    }


# --- the write ----------------------------------------------------------------------------------


def _claim_version(conn: Connection, incoming: _Incoming, look: _Look, following: int) -> bool:
    heads, batch = store.heads, incoming.batch
    condition = and_(
        store.of_key(heads, incoming.principal.tenant, profile=incoming.rules.profile),
        heads.c.version == look.version,
        heads.c.slot_run == batch.run,
        heads.c.slot_fence == batch.fence,
        heads.c.slot_state == "open",
    )
    values = {"version": look.version + 1, "next_row": following}
    return store.change(conn, heads, condition, values) == 1


def _update_run(
    conn: Connection, incoming: _Incoming, look: _Look, known: Known, change: Change
) -> bool:
    runs, batch, prepared = store.runs, incoming.batch, incoming.prepared
    lease = incoming.claim.lease_expires_at
    values: dict[str, Any] = {
        "status": RunStatus.RUNNING.value,
        "lease_expires_at": case(
            (runs.c.lease_expires_at < lease, lease), else_=runs.c.lease_expires_at
        ),
        "end_row": known.next + len(change.rows),
        "batches": runs.c.batches + 1,
        "records": runs.c.records + change.records,
        "new": runs.c.new + change.new,
        "changed": runs.c.changed + change.changed,
        "unchanged": runs.c.unchanged + change.unchanged,
        "present": runs.c.present + change.present,
        "duplicates": runs.c.duplicates + change.duplicates,
        "rejects": runs.c.rejects + len(prepared.rejects),
        "unkeyed": runs.c.unkeyed + len(prepared.unkeyed_at),
        "violations": runs.c.violations + prepared.violations.count,
        "repeat": look.repeat or change.repeat,
        "violation": look.violation or prepared.violations.first,
        "fields": msgspec.json.encode(look.fields.union(prepared.fields)).decode(),
    }
    condition = and_(
        store.of_key(runs, incoming.principal.tenant, run=batch.run),
        runs.c.fence == batch.fence,
        runs.c.status.in_([RunStatus.RUNNING.value, RunStatus.INTERRUPTED.value]),
    )
    return store.change(conn, runs, condition, values) == 1


def _write_rows(conn: Connection, incoming: _Incoming, publication: int, change: Change) -> None:
    tenant, profile = incoming.principal.tenant, incoming.rules.profile
    store.hide_rows(conn, tenant, profile, change.hide)
    store.set_ends(conn, tenant, profile, change.release, None, only=publication)
    store.set_ends(conn, tenant, profile, change.supersede, publication)
    store.insert_rows(conn, change.rows)
    store.put_seen(conn, tenant, incoming.batch.run, change.seen)
    store.put_kept(conn, tenant, incoming.batch.run, change.kept)


def _write_subjects(conn: Connection, incoming: _Incoming) -> None:
    """Who occurs in which response; unchanged records have no row of their own to tell."""
    prepared, batch, tenant = incoming.prepared, incoming.batch, incoming.principal.tenant
    if prepared.personal is None:
        return
    store.note_subjects(
        conn,
        sorted(
            {
                (tenant, mine.token, batch.run, batch.fence, place[0])
                for mine, place in zip(prepared.personal, prepared.places, strict=True)
            }
        ),
    )


def _write_shape(conn: Connection, incoming: _Incoming, look: _Look, shape: Shape) -> None:
    if not incoming.batch.records:
        return
    store.put_shape(
        conn,
        tenant=incoming.principal.tenant,
        run=incoming.batch.run,
        profile=incoming.rules.profile,
        number=look.number,
        mapping=incoming.rules.mapping,
        shape=encode_shape(shape).decode(),
    )


def _receipt(incoming: _Incoming, change: Change) -> BatchReceipt:
    batch = incoming.batch
    return BatchReceipt(
        run=batch.run,
        fence=batch.fence,
        sequence=batch.sequence,
        digest=incoming.prepared.digest,
        records=len(batch.records),
        rejects=len(batch.rejects),
        new=change.new,
        changed=change.changed,
        unchanged=change.unchanged,
        duplicates=change.duplicates,
        root=change.root,
    )


def _write_batch(conn: Connection, incoming: _Incoming, known: Known, change: Change) -> None:
    """The batch as it was answered, with what its worker signed.

    Of the tree that the worker signed the other leaves' cover is kept: the rows give theirs again.
    """
    batch, claim, signed = incoming.batch, incoming.claim, incoming.batch.signed
    assert signed is not None
    cover = merkle.cover(incoming.prepared.posted.leaves, change.signed) if change.signed else []
    personal = incoming.prepared.personal is not None
    store.add(
        conn,
        store.batches,
        tenant=incoming.principal.tenant,
        run=batch.run,
        fence=batch.fence,
        kind="posted",
        sequence=batch.sequence,
        digest=incoming.prepared.digest,
        records=len(batch.records),
        rejects=len(batch.rejects),
        new=change.new,
        changed=change.changed,
        unchanged=change.unchanged,
        duplicates=change.duplicates,
        first_row=known.next,
        rows=len(change.rows),
        root=change.root,
        received_at=incoming.received_at,
        header=signed.header,
        signature=signed.signature,
        signing_key=claim.key,
        registration=claim.registration,
        # With the seed a person's record could be guessed at after they are erased.
        seed=None if personal else bytes.fromhex(signed.seed),
        places=encode_places(change.places, len(batch.records)),
        cover=b"".join(cover),
    )


def _write_rejects(conn: Connection, incoming: _Incoming, look: _Look, kept_max: int) -> None:
    batch = incoming.batch
    room = max(0, kept_max - look.rejects)
    rows = [
        (
            incoming.principal.tenant,
            look.number,
            batch.fence,
            look.rejects + index,
            batch.run,
            incoming.rules.profile,
            reject.response,
            reject.position,
            reject.field,
            reject.reason,
            reject.excerpt,
            incoming.received_at,
            index - 1 in incoming.prepared.unkeyed_at,
        )
        for index, reject in enumerate(incoming.prepared.rejects[:room], 1)
    ]
    bulk_insert(conn, store.rejects, store.REJECT_COLUMNS, rows)
