"""What a worker signs of a batch, and how it is checked. Pure; imports no server package.

A worker commits to each record that it posts, under a salt of the batch's own *seed*, and puts the
root over these commitments into a *header*: with the run, the task and the fence it works under,
the version of the profile it mapped with, and the digests of the raw responses that the records
came from. The header is canonical JSON, and the signature is over its very bytes.

The aggregator computes everything again before it keeps anything. What it keeps of a record commits
to it by the same value, so one salt opens both what the log holds and what the worker signed. From
a batch with personal fields the seed is forgotten: a record's own salt is sealed with what is the
person's, and is gone with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from holdfast.fleet.model import Grant
from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.errors import Corrupt, Invalid, Unauthenticated
from holdfast.kernel.merkle import leaf_hash, proof_within
from holdfast.kernel.signing import SigningKey
from holdfast.records.content import (
    RecordKeys,
    commitment,
    keyed_mac,
    stored_leaf_hash,
    whole_of,
)
from holdfast.records.errors import SignatureRefused
from holdfast.records.model import Batch, SignedHeader

HEADER_DOMAIN = "holdfast-batch-header/v1"
POSTED_DOMAIN = b"holdfast-posted-leaf/v1\n"
_SALT_DOMAIN = b"holdfast-posted-salt/v1\n"
SEED_BYTES = 32


class HeaderResponse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A raw response that records or rejects of the batch came from."""

    digest: str
    response: int


class BatchHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker signs of a batch. ``root`` is over its ``records`` in their order."""

    domain: str
    fence: int
    profile: str
    """The digest of the profile's version."""
    records: int
    responses: list[HeaderResponse]
    root: str
    run: str
    sequence: int
    task: str
    worker: str


class Posted(NamedTuple):
    """The records of a batch as its worker commits to them."""

    salts: list[bytes]
    commitments: list[str]
    leaves: list[bytes]


def salts_of(seed: bytes) -> Callable[[int], bytes]:
    """What makes the salt of each record of a batch from its seed."""
    mac = keyed_mac(seed, _SALT_DOMAIN)
    return lambda index: mac(b"%d" % index)


def posted_leaf(said: str) -> bytes:
    """The entry of a record in the tree that its worker signs."""
    return POSTED_DOMAIN + said.encode()


def posted(salt_of: Callable[[int], bytes], wholes: Sequence[bytes], first: int = 0) -> Posted:
    """Commit to records by their canonical bytes; the first of them is the batch's ``first``."""
    salts = [salt_of(index) for index, _ in enumerate(wholes, first)]
    commitments = list(map(commitment, salts, wholes))
    # As leaf_hash(posted_leaf(said)), written out for the hot path.
    prefix, sha256 = b"\0" + POSTED_DOMAIN, hashlib.sha256
    leaves = [sha256(prefix + said.encode()).digest() for said in commitments]
    return Posted(salts, commitments, leaves)


def header_of(
    grant: Grant, sequence: int, records: int, root: bytes, responses: Mapping[int, str]
) -> BatchHeader:
    """The header of a batch that was made under ``grant``; ``responses`` by their number."""
    return BatchHeader(
        domain=HEADER_DOMAIN,
        fence=grant.fence,
        profile=grant.digest,
        records=records,
        responses=[
            HeaderResponse(digest=digest, response=number)
            for number, digest in sorted(responses.items())
        ],
        root=root.hex(),
        run=grant.run,
        sequence=sequence,
        task=grant.task,
        worker=grant.worker,
    )


def sign_header(key: SigningKey, header: BatchHeader, seed: bytes) -> SignedHeader:
    """The header's canonical text with the worker's signature, and what opens its commitments."""
    text = canonical(header)
    return SignedHeader(header=text.decode(), signature=key.sign_bytes(text).hex(), seed=seed.hex())


class Signers:
    """The signing keys of one drone, by their public halves.

    A grant names the key that the coordinator knew when it gave it. After a registration a lease
    goes on under the key it was given with until the next beat brings a fresh grant.
    """

    def __init__(self) -> None:
        self._keys: dict[str, SigningKey] = {}

    def add(self, key: SigningKey) -> None:
        """Sign with ``key``, too, where a grant names it."""
        self._keys[key.public_bytes().hex()] = key

    def sign(
        self,
        grant: Grant,
        sequence: int,
        records: int,
        root: bytes,
        responses: Mapping[int, str],
        seed: bytes,
    ) -> SignedHeader:
        """The signed header of a batch; :class:`Unauthenticated` if the key is not ours."""
        key = self._keys.get(grant.key)
        if key is None:
            raise Unauthenticated(
                "cannot sign the batch: the grant names no signing key of this drone",
                code="signing-key-unknown",
                hint="the next beat brings a fresh grant, or asks to register again",
            )
        return sign_header(key, header_of(grant, sequence, records, root, responses), seed)


def check_signed(batch: Batch, grant: Grant) -> BatchHeader:
    """The header of ``batch``, if the worker that the grant is for signed it, about this batch.

    Whether its root and its responses are those that came is for the caller to compare.
    """
    what = f"the batch {batch.sequence} of the run {batch.run}"
    if not grant.key:
        raise Unauthenticated(
            f"cannot take {what}: the grant names no signing key",
            code="grant-without-key",
            hint="update the coordinator; the next beat then brings a grant that does",
        )
    given = batch.signed
    if given is None:
        raise Invalid(
            f"cannot take {what}: its worker has not signed it",
            code="signature-missing",
            hint="update the drone: it registers again with a signing key and signs its batches",
        )
    text = given.header.encode()
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(grant.key))
        public.verify(bytes.fromhex(given.signature), text)
    except (InvalidSignature, ValueError) as error:
        raise SignatureRefused(
            f"cannot take {what}: the signature is not by the key that its worker registered"
        ) from error
    header = _read(text, what)
    expected = {
        "domain": HEADER_DOMAIN,
        "fence": batch.fence,
        "profile": grant.digest,
        "records": len(batch.records),
        "run": batch.run,
        "sequence": batch.sequence,
        "task": grant.task,
        "worker": grant.worker,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise SignatureRefused(f"cannot take {what}: another {name} was signed")
    return header


def _read(text: bytes, what: str) -> BatchHeader:
    try:
        plain = decode_strict(text)
        if canonical(plain) != text:
            raise SignatureRefused(f"cannot take {what}: its header is not in its canonical form")
        return msgspec.convert(plain, BatchHeader)
    except (Invalid, msgspec.ValidationError) as error:
        raise SignatureRefused(
            f"cannot take {what}: its header does not say what a header says"
        ) from error


def check_root(batch: Batch, header: BatchHeader, root: bytes) -> None:
    """:class:`SignatureRefused` unless ``root``, made of what came, is what was signed."""
    if header.root != root.hex():
        raise SignatureRefused(
            f"cannot take the batch {batch.sequence} of the run {batch.run}: "
            "other records were signed"
        )


def check_responses(batch: Batch, header: BatchHeader, stored: Mapping[int, str]) -> None:
    """:class:`SignatureRefused` unless exactly these stored responses were signed."""
    told = {each.response: each.digest for each in header.responses}
    if told != dict(stored) or len(told) != len(header.responses):
        raise SignatureRefused(
            f"cannot take the batch {batch.sequence} of the run {batch.run}: "
            "other raw responses were signed than are stored"
        )


def header_digest(text: str) -> str:
    """What the evidence of a run says of a header: the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()


# --- which rows of a batch its worker signed -----------------------------------------------------


def encode_places(indexes: list[int], records: int) -> bytes:
    """Which records of the batch became rows, in order: a bit each; nothing if all of them did."""
    if len(indexes) == records:
        return b""
    bits = bytearray((records + 7) // 8)
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def decode_places(places: bytes, records: int) -> list[int]:
    """The inverse of :func:`encode_places`."""
    if not places:
        return list(range(records))
    return [index for index in range(records) if places[index >> 3] >> (index & 7) & 1]


class SignedBatch:
    """What a stored batch tells of its rows; made from the batch's row.

    Not signed are withdrawals, batches of releases that did not ask for it, and what is left of
    the record of somebody who was erased before it came.
    """

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.header: str | None = batch.header
        self._places: list[int] = []
        self._salt_of: Callable[[int], bytes] | None = None
        if batch.header is not None:
            self._places = decode_places(bytes(batch.places), batch.records)
            if batch.seed is not None:
                self._salt_of = salts_of(bytes(batch.seed))

    def index(self, row: Any) -> int | None:
        """The number of a row's record among those that were signed; ``None`` if it is none."""
        if self.header is None or (row.commitment is None and self._salt_of is None):
            return None
        number: int = row.sequence - self._batch.first_row
        return self._places[number]

    def salt(self, row: Any) -> bytes | None:
        """The salt that the worker gave a row's record, where it is not sealed with it."""
        index = self.index(row)
        return None if index is None or self._salt_of is None else self._salt_of(index)

    def leaf_hash(self, keys: RecordKeys, run: str, profile_digest: str, row: Any) -> bytes:
        """The leaf hash of a row of the batch, from what is kept and nothing else."""
        return stored_leaf_hash(
            keys,
            run=run,
            profile_digest=profile_digest,
            row=row,
            salt=self.salt(row),
            signed=self.header is not None,
        )

    def path(self, rows: Iterable[Any], index: int) -> list[bytes]:
        """The audit path of a signed record, by its number, in the tree that its worker signed.

        :class:`Corrupt` if the rows do not give the root that was signed.
        """
        kept: dict[int, bytes] = {}
        for row in rows:
            at = self.index(row)
            if at is None:
                continue
            salt = self.salt(row)
            if row.commitment is not None:
                said = bytes(row.commitment).hex()
            else:
                assert salt is not None
                said = commitment(salt, whole_of(row.body.encode(), row.position, row.response))
            kept[at] = leaf_hash(posted_leaf(said))
        cover = bytes(self._batch.cover)
        others = [cover[start : start + 32] for start in range(0, len(cover), 32)]
        root, path = proof_within(self._batch.records, kept, others, index)
        assert self.header is not None
        if root.hex() != plain_header(self.header)["root"]:
            raise Corrupt("cannot prove what the worker signed: the rows give another root")
        return path


def plain_header(text: str) -> dict[str, Any]:
    """A kept header as plain data, for a receipt."""
    found: dict[str, Any] = msgspec.json.decode(text)
    return found
