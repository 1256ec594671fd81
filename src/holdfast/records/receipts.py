"""Making a record's receipt: its leaf and what opens it, the way up to its run, the run's event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from holdfast.kernel import merkle
from holdfast.kernel.errors import Internal, Invalid, NotFound
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.telemetry import request_id
from holdfast.keyring.envelope import key_id_of
from holdfast.keyring.model import RECORDS
from holdfast.ledger.model import Proof
from holdfast.ledger.notes import own_signature
from holdfast.records import store
from holdfast.records.content import (
    LEAF_DOMAIN,
    SIGNED_LEAF_DOMAIN,
    RecordKeys,
    commitment,
    decode_content,
    encode_sorted,
    record_leaf,
    row_salt,
    whole_of,
)
from holdfast.records.errors import EventSealed, NoSuchRecord, ReceiptNotYet
from holdfast.records.model import MappedRecord
from holdfast.records.personal import joined, unsealed_part
from holdfast.records.publishing import batch_leaf
from holdfast.records.reading import Reading, record_key
from holdfast.records.receipt import (
    FORMAT,
    SIGNED_FORMAT,
    AttributionPart,
    EntryPart,
    RawPart,
    Receipt,
    RecordPart,
    encode_receipt,
)
from holdfast.records.signed import SignedBatch, plain_header
from holdfast.records.soundness import altered

RECEIPTS_MAX = 200


class _Found(NamedTuple):
    """What the database has of a revision: its row, its run, its batch with all rows."""

    row: Any
    run: Any
    event: str
    batch: Any
    rows: Sequence[Any]
    batches: Sequence[Any]
    digests: Sequence[str]


class Receipts(Reading):
    """The part of the service that gives receipts."""

    async def receipt(
        self, principal: Principal, record: str, *, revision: int | None = None
    ) -> bytes:
        """The receipt of a record's published revision (the newest by default), canonical.

        What is about a person stays sealed unless the principal may see it. Giving a receipt is
        an event. :class:`ReceiptNotYet` while the ledger does not hold the run's event yet.
        """
        found, made = await self._receipt(principal, record, revision, opened=True)
        await self._note_receipt(
            principal,
            found.row.profile,
            {"record": found.row.record.hex(), "revision": found.row.revision},
        )
        return made

    async def receipts(
        self, principal: Principal, profile: str, wanted: Sequence[str]
    ) -> list[bytes]:
        """Receipts of revisions of one profile's records, each named ``RECORD@REVISION``.

        What is about a person stays sealed, whoever asks. Giving them is one event.
        """
        if not 0 < len(wanted) <= RECEIPTS_MAX:
            raise Invalid(f"cannot give {len(wanted)} receipts at once: 1 to {RECEIPTS_MAX}")
        made = []
        for one in wanted:
            record, _, revision = one.partition("@")
            if not revision.isdecimal() or len(revision) > 15:
                raise Invalid(f"cannot give a receipt of {one[:80]}: it is no RECORD@REVISION")
            found, receipt = await self._receipt(principal, record, int(revision), opened=False)
            if found.row.profile != profile:
                raise NoSuchRecord(f"cannot find the record {record} in {profile}")
            made.append(receipt)
        await self._note_receipt(principal, profile, {"records": len(made)})
        return made

    async def _receipt(
        self, principal: Principal, record: str, revision: int | None, *, opened: bool
    ) -> tuple[_Found, bytes]:
        key = record_key(record)
        found = await self._db.read(
            principal, lambda conn: _found(conn, principal, key, record, revision)
        )
        signed = SignedBatch(found.batch)
        events = [found.event]
        if signed.index(found.row) is not None:
            events.append(found.batch.registration)
        try:
            proofs = await self._handles.ledger.event_proofs(principal, events)
        except NotFound as error:
            raise ReceiptNotYet(
                f"cannot give a receipt of {record}: the ledger does not hold its run's event yet",
                retry_after_seconds=1.0,
            ) from error
        keys = self._keys(principal, found.row.profile)
        content = await self._opening(principal, keys, found, signed, may=opened)
        made = await self.worked(
            len(found.rows), lambda: _made(keys, found, signed, content, proofs)
        )
        return found, encode_receipt(made)

    async def _opening(
        self,
        principal: Principal,
        keys: RecordKeys,
        found: _Found,
        signed: SignedBatch,
        *,
        may: bool,
    ) -> tuple[bytes, bytes] | None:
        """Salt and canonical record, if the principal may see both."""
        row = found.row
        if row.commitment is None:
            whole = whole_of(row.body.encode(), row.position, row.response)
            return signed.salt(row) or row_salt(keys, found.run.run, row.sequence), whole
        if row.sealed is None or not may or not principal.may(Permission.RECORDS_PERSONAL):
            return None
        sealed = bytes(row.sealed)
        name = key_id_of(sealed)
        keyring = self._handles.keyring
        known = await keyring.apart(keyring.find_many, principal.tenant, RECORDS, {name})
        if name not in known:
            return None
        salt, part = unsealed_part(principal.tenant, row.profile, row.sequence, known[name], sealed)
        await self._note_opened(principal, row.profile, 1, "receipt")
        content = joined(decode_content(row.body), part)
        whole = encode_sorted(
            MappedRecord(
                response=row.response,
                position=row.position,
                key=content.key,
                dimensions=content.dimensions,
                measures=content.measures,
                attributes=content.attributes,
                period=content.period,
            )
        )
        return salt, whole

    async def _note_receipt(
        self, principal: Principal, profile: str, payload: dict[str, Any]
    ) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=f"profile/{profile}",
            type="records.receipted",
            time=self._clock.now(),
            payload=payload,
            request_id=request_id(),
        )
        await self._db.write(
            principal, lambda conn: self._handles.outbox.emit(conn, principal, event)
        )


def _found(
    conn: Connection, principal: Principal, key: bytes, record: str, revision: int | None
) -> _Found:
    tenant = principal.tenant
    latest = store.latest_of_record(conn, tenant, key)
    if latest is None or not principal.sees(latest.profile):
        raise NoSuchRecord(f"cannot find the record {record}")
    head = store.find(conn, store.heads, tenant, profile=latest.profile)
    assert head is not None
    newest = {} if revision is None else {"newest": revision}
    rows = store.chain_of_record(
        conn, tenant, latest.profile, latest.sequence, 1, until=head.publication, **newest
    )
    if not rows or revision not in (None, rows[0].revision):
        raise NoSuchRecord(f"cannot find the record {record}, or no such revision of it")
    row = rows[0]
    publication = store.find(
        conn, store.publications, tenant, profile=row.profile, publication=row.from_publication
    )
    run = publication and store.find(conn, store.runs, tenant, run=publication.run)
    if publication is None or run is None or run.number != row.run:
        raise Internal(f"cannot give a receipt of {record}: its run is not the publication's")
    batches = store.batches
    staged = conn.execute(
        select(batches)
        .where(store.of_key(batches, tenant, run=run.run, fence=run.fence))
        .order_by(batches.c.kind, batches.c.sequence)
    ).all()
    batch = next(
        each for each in staged if each.first_row <= row.sequence < each.first_row + each.rows
    )
    revisions, responses = store.revisions, store.responses
    siblings = conn.execute(
        select(revisions)
        .where(
            store.of_key(revisions, tenant, profile=row.profile),
            revisions.c.sequence >= batch.first_row,
            revisions.c.sequence < batch.first_row + batch.rows,
        )
        .order_by(revisions.c.sequence)
    ).all()
    digests = conn.execute(
        select(responses.c.digest)
        .where(store.of_key(responses, tenant, run=run.run, fence=run.fence))
        .order_by(responses.c.sequence)
    ).scalars()
    return _Found(row, run, publication.event, batch, siblings, staged, list(digests))


def _made(
    keys: RecordKeys,
    found: _Found,
    signed: SignedBatch,
    opened: tuple[bytes, bytes] | None,
    proofs: Sequence[Proof],
) -> Receipt:
    row, run, batch = found.row, found.run, found.batch
    leaves = [signed.leaf_hash(keys, run.run, run.profile_digest, each) for each in found.rows]
    if merkle.root(leaves).hex() != batch.root:
        raise altered(
            f"cannot give a receipt of {row.record.hex()}: what is stored of its batch is not what "
            "was recorded"
        )
    steps = [merkle.leaf_hash(batch_leaf(each)) for each in found.batches]
    at = found.batches.index(batch)
    index = row.sequence - batch.first_row
    said = "" if opened is None else commitment(*opened)
    if row.commitment is not None:
        kept = bytes(row.commitment).hex()
        if said not in ("", kept):
            raise altered(
                f"cannot give a receipt of {row.record.hex()}: what is stored of it is not what "
                "was recorded"
            )
        said = kept
    whole = None if opened is None else msgspec.json.decode(opened[1])
    attribution = _attribution(found, signed, proofs[1]) if len(proofs) > 1 else None
    return Receipt(
        attribution=attribution,
        checkpoint=own_signature(proofs[0].checkpoint),
        entry=_entry(proofs[0]),
        format=FORMAT if attribution is None else SIGNED_FORMAT,
        raw=None if opened is None or row.withdrawn else _raw(row, found.digests),
        record=RecordPart(
            batch=msgspec.json.decode(batch_leaf(batch)),
            batch_index=at,
            batch_path=[each.hex() for each in merkle.inclusion_proof(steps, at)],
            content=whole,
            index=index,
            leaf=msgspec.json.decode(
                record_leaf(
                    commitment=said,
                    profile_digest=run.profile_digest,
                    record=row.record.hex(),
                    revision=row.revision,
                    run=run.run,
                    withdrawn=row.withdrawn,
                    domain=LEAF_DOMAIN if attribution is None else SIGNED_LEAF_DOMAIN,
                )
            ),
            path=[each.hex() for each in merkle.inclusion_proof(leaves, index)],
            salt="" if opened is None else opened[0].hex(),
        ),
    )


def _entry(proof: Proof) -> EntryPart:
    if proof.payload is None:
        raise EventSealed(
            f"cannot give a receipt: the ledger cannot open the entry {proof.position}, since the "
            "role that sealed it has a keyring of its own",
            hint="let roles on one database share HOLDFAST_KEYRING_URL and the master key; what "
            "was sealed before stays closed to the ledger",
        )
    return EntryPart(
        index=proof.position,
        leaf=msgspec.json.decode(proof.leaf),
        path=proof.path,
        payload=msgspec.json.decode(proof.payload),
        salt=proof.salt,
    )


def _attribution(found: _Found, signed: SignedBatch, registration: Proof) -> AttributionPart:
    """What the worker signed, the record's place in it, and the event that tells of its key."""
    index = signed.index(found.row)
    assert index is not None
    assert signed.header is not None
    return AttributionPart(
        header=plain_header(signed.header),
        index=index,
        path=[each.hex() for each in signed.path(found.rows, index)],
        registration=_entry(registration),
    )


def _raw(row: Any, digests: Sequence[str]) -> RawPart:
    hashes = [merkle.leaf_hash(digest.encode()) for digest in digests]
    path = merkle.inclusion_proof(hashes, row.response)
    return RawPart(digest=digests[row.response], path=[each.hex() for each in path])
