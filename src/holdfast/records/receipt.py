"""Receipts: what one record's evidence looks like outside, and whether it holds. Pure.

A receipt is canonical JSON (RFC 8785, restricted) that ends in its own SHA-256. It leads from one
record to a checkpoint that the log signed: the record's salted leaf is in the tree of its batch,
the batch in the tree of its run, the run's root in the event ``records.ingested``, the event in the
log. If the record's worker signed it, the same salted commitment is in the tree of the header that
was signed, and the event of the worker's registration, in the same log, has the key. Each step is
recomputed; nothing in a receipt is believed, and nothing is in it that is not
checked. Whom to believe is said by the verifier's own policy file (``holdfast ledger trust``).
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.kernel.merkle import check_inclusion, leaf_hash
from holdfast.ledger.model import Trust
from holdfast.ledger.notes import Checkpoint, parse_note
from holdfast.ledger.trusting import trusted_checkpoint
from holdfast.records.content import (
    BATCH_LEAF_DOMAIN,
    LEAF_DOMAIN,
    SIGNED_BATCH_LEAF_DOMAIN,
    SIGNED_LEAF_DOMAIN,
)
from holdfast.records.signed import HEADER_DOMAIN, posted_leaf

FORMAT = "holdfast-receipt/v1"
SIGNED_FORMAT = "holdfast-receipt/v2"
"""With an attribution, which the first does not have."""
RECEIPT_BYTES_MAX = 16 * 1024 * 1024
INGESTED = "records.ingested"
REGISTERED = "worker.registered"
_TAIL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_TAIL_BYTES = 78
_HASH = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ReceiptRefused(Corrupt):
    """A receipt that does not hold; the message says which step does not fit."""

    code = "receipt-invalid"


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class RecordPart(_Part, frozen=True, kw_only=True):
    """The record, its place in its batch, and the batch's place in its run.

    ``content`` is null, and ``salt`` empty, if the record is sealed or erased: then it is known
    that there is such a record, not what it says.
    """

    batch: dict[str, Any]
    batch_index: int
    batch_path: list[str]
    content: dict[str, Any] | None
    index: int
    leaf: dict[str, Any]
    path: list[str]
    salt: str


class EntryPart(_Part, frozen=True, kw_only=True):
    """The event that tells of the run, and its place in the log."""

    index: int
    leaf: dict[str, Any]
    path: list[str]
    payload: dict[str, Any]
    salt: str


class RawPart(_Part, frozen=True, kw_only=True):
    """The digest of the bytes that the source sent, and its place among those of the run."""

    digest: str
    path: list[str]


class AttributionPart(_Part, frozen=True, kw_only=True):
    """What the worker signed, the record's place in it, and the event that tells of its key.

    The signature is in the leaf of the batch: it is evidence itself.
    """

    header: dict[str, Any]
    index: int
    path: list[str]
    registration: EntryPart


class Receipt(_Part, frozen=True, kw_only=True):
    """One record's evidence. ``attribution`` is null where no worker signed the record."""

    attribution: AttributionPart | None
    checkpoint: str
    entry: EntryPart
    format: str
    raw: RawPart | None
    record: RecordPart


class Verdict(Struct, frozen=True, kw_only=True):
    """One of the three things that can be asked of a receipt.

    ``holds`` is null where this receipt, or what was supplied, cannot tell.
    """

    verdict: Literal["recorded", "attributed", "reproduced"]
    holds: bool | None
    means: str
    does_not_mean: str = ""


class Verified(Struct, frozen=True, kw_only=True):
    """What a receipt shows. ``content`` is the record itself, null if it is sealed or erased."""

    tenant: str
    origin: str
    size: int
    position: int
    recorded: str
    event: str
    profile: str
    profile_digest: str
    publication: int
    run: str
    worker: str
    worker_key: str | None
    record: str
    revision: int
    withdrawn: bool
    content: dict[str, Any] | None
    raw_digest: str
    raw_response: int | None
    raw_position: int | None
    verdicts: list[Verdict]


def encode_receipt(receipt: Receipt) -> bytes:
    """The bytes of a receipt: canonical, and ending in their own SHA-256."""
    return sealed(receipt)


def sealed(receipt: Any) -> bytes:
    """Canonical bytes that end in their own SHA-256."""
    body = canonical(receipt)
    return body[:-1] + b',"sha256":"' + sha256(body).hexdigest().encode() + b'"}\n'


def decode_receipt(data: bytes) -> Receipt:
    """The receipt in ``data``; :class:`ReceiptRefused` unless it is one, whole and canonical."""
    return receipt_of(opened_plain(data))


def opened_plain(data: bytes) -> Any:
    """What a file says that ends in its own SHA-256, if it is whole and canonical."""
    if len(data) > RECEIPT_BYTES_MAX:
        raise refused(f"it has more than {RECEIPT_BYTES_MAX} bytes")
    tail = _TAIL.fullmatch(data[-_TAIL_BYTES:])
    if tail is None:
        raise refused("it does not end in its SHA-256: it was cut off, or is no receipt")
    body = data[:-_TAIL_BYTES] + b"}"
    if sha256(body).hexdigest().encode() != tail[1]:
        raise refused("its SHA-256 is another: it was changed or damaged")
    try:
        plain = decode_strict(body)
        if canonical(plain) != body:
            raise refused("it is not in its canonical form")
    except Invalid as error:
        raise refused(f"it does not say what a receipt says ({error})") from error
    return plain


def receipt_of(plain: Any) -> Receipt:
    """A record's receipt from plain data."""
    try:
        receipt = msgspec.convert(plain, Receipt)
    except msgspec.ValidationError as error:
        raise refused(f"it does not say what a receipt says ({error})") from error
    if receipt.format not in (FORMAT, SIGNED_FORMAT):
        raise refused(f"its format {receipt.format[:60]!r} is not known here")
    if (receipt.attribution is None) != (receipt.format == FORMAT):
        raise refused("its format and its attribution do not go together")
    return receipt


def verify_receipt(data: bytes, trust: Trust) -> Verified:
    """What the receipt shows to whoever trusts ``trust``.

    :class:`ReceiptRefused` names the first step that does not fit. The result has the verdicts
    *recorded* and *attributed*; :func:`reproduced` makes the third.
    """
    return verify_decoded(decode_receipt(data), trust)


def verify_decoded(receipt: Receipt, trust: Trust) -> Verified:
    """As :func:`verify_receipt`, of a receipt that was read already."""
    try:
        return _verify(receipt, trust)
    except ReceiptRefused:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, Invalid) as error:
        raise refused("something in it is of another kind than it must be") from error


def _verify(receipt: Receipt, trust: Trust) -> Verified:
    said = signed_checkpoint(receipt.checkpoint, trust)
    entry, record = receipt.entry, receipt.record
    payload = check_entry(entry, said, trust)
    leaf = entry.leaf
    if (leaf["type"], leaf["stream"]) != (INGESTED, f"profile/{payload['profile']}"):
        raise refused("its event is none that tells of published records")
    _check_batch(record, payload)
    _check_record(record, payload)
    raw = _check_raw(receipt, payload)
    if (receipt.attribution is None) != (record.leaf["domain"] == LEAF_DOMAIN):
        raise refused("whether its worker signed the record is told in two ways")
    key = None
    if receipt.attribution is not None:
        key = _check_attribution(receipt.attribution, record, payload, raw, said, trust)
    return _verified(receipt, said, raw, key)


def check_entry(entry: EntryPart, said: Checkpoint, trust: Trust) -> dict[str, Any]:
    """What the event says, if it is in the log and of the policy's tenant."""
    leaf, payload = entry.leaf, entry.payload
    included(
        "the event is not in the log that was signed",
        canonical(leaf),
        entry.index,
        said.size,
        entry.path,
        said.root,
    )
    if leaf["tenant"] != trust.tenant:
        raise refused("it is of another tenant than the policy's")
    told = canonical(payload)
    if _mac(entry.salt, told) != leaf["commitment"] or len(told) != leaf["length"]:
        raise refused("what the event is said to say is not what was committed to")
    return payload


def _check_attribution(
    given: AttributionPart,
    record: RecordPart,
    payload: dict[str, Any],
    raw: tuple[str, int, int] | None,
    said: Checkpoint,
    trust: Trust,
) -> str:
    """The worker's registered key, if the worker signed the record with it."""
    header, batch, worker = given.header, record.batch, given.header["worker"]
    text = canonical(header)
    if sha256(text).hexdigest() != batch["header"] or header["domain"] != HEADER_DOMAIN:
        raise refused("the header is not the batch's")
    registration = check_entry(given.registration, said, trust)
    told = given.registration.leaf
    if (told["type"], told["stream"]) != (REGISTERED, f"worker/{worker}"):
        raise refused("its registration is none of the worker that signed")
    if registration["worker"] != worker or payload["worker"] != worker:
        raise refused("the worker that signed is another than the event tells of")
    key = registration["key"]
    _check_signature(hash_of(key), batch["signature"], text)
    about = {
        "fence": payload["fence"],
        "profile": payload["profile_digest"],
        "run": payload["run"],
        "sequence": batch["batch"],
        "task": payload["task"],
    }
    for name, value in about.items():
        if header[name] != value:
            raise refused(f"the worker signed for another {name}")
    included(
        "the record is not among those that the worker signed",
        posted_leaf(record.leaf["commitment"]),
        given.index,
        header["records"],
        given.path,
        hash_of(header["root"]),
    )
    if raw is not None and {"digest": raw[0], "response": raw[1]} not in header["responses"]:
        raise refused("the worker signed for other raw bytes")
    return str(key)


def _check_signature(key: bytes, signature: str, text: bytes) -> None:
    if re.fullmatch("[0-9a-f]{128}", signature) is None:
        raise refused("the worker's signature is none")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError) as error:
        raise refused("the worker's registered key has not signed the header") from error


def _check_batch(record: RecordPart, payload: dict[str, Any]) -> None:
    batch = record.batch
    names = {"batch", "domain", "kind", "root", "rows"}
    if batch.get("domain") == SIGNED_BATCH_LEAF_DOMAIN:
        names |= {"header", "signature"}
    elif batch.get("domain") != BATCH_LEAF_DOMAIN:
        raise refused("its batch is none")
    if set(batch) != names:
        raise refused("its batch is none")
    included(
        "the batch is not in the run that the event tells of",
        canonical(batch),
        record.batch_index,
        payload["batches_count"],
        record.batch_path,
        hash_of(payload["root"]),
    )


def _check_record(record: RecordPart, payload: dict[str, Any]) -> None:
    leaf = record.leaf
    names = {"commitment", "domain", "profile", "record", "revision", "run", "withdrawn"}
    if set(leaf) != names or leaf["domain"] not in (LEAF_DOMAIN, SIGNED_LEAF_DOMAIN):
        raise refused("its record's leaf is none")
    included(
        "the record is not in the batch",
        canonical(leaf),
        record.index,
        record.batch["rows"],
        record.path,
        hash_of(record.batch["root"]),
    )
    if (leaf["run"], leaf["profile"]) != (payload["run"], payload["profile_digest"]):
        raise refused("the record is of another run or another mapping than the event tells of")
    if record.content is None:
        if record.salt:
            raise refused("it has a salt for a record that it does not show")
    elif _mac(record.salt, canonical(record.content)) != leaf["commitment"]:
        raise refused("what the record is said to say is not what was committed to")


def _check_raw(receipt: Receipt, payload: dict[str, Any]) -> tuple[str, int, int] | None:
    """Digest, number and position of the raw bytes; ``None`` where there are none."""
    content, raw = receipt.record.content, receipt.raw
    hidden = content is None or receipt.record.leaf["withdrawn"]
    if content is None or hidden:
        if raw is not None:
            raise refused("it names raw bytes for a record that cannot lead to them")
        return None
    if raw is None or _DIGEST.fullmatch(raw.digest) is None:
        raise refused("it does not name the raw bytes")
    number, position = content["response"], content["position"]
    included(
        "the raw bytes are not those of the run",
        raw.digest.encode(),
        number,
        payload["responses_count"],
        raw.path,
        hash_of(payload["responses_root"]),
    )
    if type(position) is not int:
        raise refused("its position is no number")
    return raw.digest, number, position


def signed_checkpoint(note: str, trust: Trust) -> Checkpoint:
    """The checkpoint, if a key signed it that the policy trusts for that size."""
    try:
        said = trusted_checkpoint(note, trust)
        signatures = parse_note(note).signatures
    except Corrupt as error:
        raise refused(f"its checkpoint does not hold: {error.detail}") from error
    if len(signatures) != 1 or said.extensions:
        raise refused("its checkpoint has more than the log's own signature")
    return said


def included(reason: str, leaf: bytes, index: int, size: int, path: list[str], root: bytes) -> None:
    if type(index) is not int or type(size) is not int:
        raise refused(f"{reason}: a number is none")
    try:
        check_inclusion(leaf_hash(leaf), index, size, [hash_of(part) for part in path], root)
    except ReceiptRefused:
        raise
    except Corrupt as error:
        raise refused(f"{reason} ({error.detail.rpartition(': ')[2]})") from error


def hash_of(text: Any) -> bytes:
    if not isinstance(text, str) or _HASH.fullmatch(text) is None:
        raise refused("a hash in it is none")
    return bytes.fromhex(text)


def _mac(salt: str, data: bytes) -> str:
    return hmac.digest(hash_of(salt), data, "sha256").hex()


def refused(reason: str) -> ReceiptRefused:
    return ReceiptRefused(
        f"cannot accept the receipt: {reason}",
        hint="ask for the receipt again, and see that the policy file is of this log and not from "
        "before its last rotation; if it still does not hold, do not believe it",
    )


def _unlike(reason: str) -> ReceiptRefused:
    return ReceiptRefused(
        f"cannot reproduce the record: {reason}",
        code="receipt-not-reproduced",
        hint="the receipt itself holds; see that these are the bytes and the profile it names",
    )


def _verified(
    receipt: Receipt, said: Checkpoint, raw: tuple[str, int, int] | None, key: str | None
) -> Verified:
    leaf, payload, entry = receipt.record.leaf, receipt.entry.payload, receipt.entry.leaf
    shown = receipt.record.content is not None
    return Verified(
        tenant=entry["tenant"],
        origin=said.origin,
        size=said.size,
        position=receipt.entry.index,
        recorded=entry["recorded"],
        event=entry["id"],
        profile=payload["profile"],
        profile_digest=leaf["profile"],
        publication=payload["publication"],
        run=leaf["run"],
        worker=payload["worker"],
        worker_key=key,
        record=leaf["record"],
        revision=leaf["revision"],
        withdrawn=leaf["withdrawn"],
        content=receipt.record.content,
        raw_digest=raw[0] if raw else "",
        raw_response=raw[1] if raw else None,
        raw_position=raw[2] if raw else None,
        verdicts=[_recorded(shown), _attributed(key), not_reproduced()],
    )


def _recorded(shown: bool) -> Verdict:
    means = (
        "this record, exactly as it stands here, was published by this run and is in the log that "
        "a key of the policy signed"
        if shown
        else "there is such a record in the log that a key of the policy signed; what it says is "
        "sealed or erased, and not shown"
    )
    return Verdict(
        verdict="recorded",
        holds=True,
        means=means,
        does_not_mean="that it is true, that it is the newest revision, or that the operator shows "
        "everybody the same log (compare checkpoints for that)",
    )


def _attributed(key: str | None) -> Verdict:
    if key is None:
        return Verdict(
            verdict="attributed",
            holds=None,
            means="not shown: no worker signed this record (it was withdrawn, is of somebody who "
            "was erased, or from before workers signed); the worker named here is named by the "
            "operator",
        )
    return Verdict(
        verdict="attributed",
        holds=True,
        means="the key that this worker registered, on the record of the same log, signed that it "
        "made this record in this run, under this profile, from raw bytes with these digests",
        does_not_mean="that the source said so, or that the operator did not register a key of its "
        "own under the worker's name (compare the key with the worker's own for that)",
    )


def not_reproduced() -> Verdict:
    """The third verdict, where no raw bytes were supplied."""
    return Verdict(
        verdict="reproduced",
        holds=None,
        means="not asked for: supply the raw bytes (--raw) and the profile (--profile)",
    )


def reproduced(
    verified: Verified, raw_digest: str, profile_digest: str, remapped: list[bytes] | str
) -> Verdict:
    """The third verdict. ``remapped``: the canonical records that the bytes give at its place, or
    why they give none.

    :class:`ReceiptRefused` says what does not fit.
    """
    if verified.content is None or not verified.raw_digest:
        raise _unlike("the record is sealed, erased or withdrawn")
    if raw_digest != verified.raw_digest:
        raise _unlike(f"the raw bytes are others: {raw_digest}, not {verified.raw_digest}")
    if profile_digest != verified.profile_digest:
        raise _unlike(f"the profile is another: {profile_digest}, not {verified.profile_digest}")
    if isinstance(remapped, str):
        raise _unlike(f"the raw bytes do not give this record: {remapped}")
    if canonical(verified.content) not in remapped:
        given = b" ".join(remapped).decode()[:2000]
        raise _unlike(f"the raw bytes give another record at this place: {given}")
    return Verdict(
        verdict="reproduced",
        holds=True,
        means="the supplied bytes have the digest that was recorded, and mapping them with this "
        "profile gives exactly this record",
        does_not_mean="that the source really sent these bytes: that is what the worker said",
    )
