"""The bytes of a record that are compared, kept and committed to. Pure, and the hot path.

A record travels as :class:`~holdfast.records.model.MappedRecord`. Its canonical bytes (RFC 8785,
restricted: :mod:`holdfast.kernel.canonical`) are produced once, here::

    {"attributes":…,"dimensions":…,"key":…,"measures":…,"period":…,"position":…,"response":…}

The members sort so that the record's *content* is a prefix and its place in the raw bytes comes
last. So one encoding serves three ends: the content alone is what is compared and kept, the whole
is what a leaf commits to.

Field names are restricted to ``a-z 0-9 _``, integers are bounded while decoding, and decoded text
cannot hold lone surrogates; that is why msgspec's sorted encoding *is* the canonical one here. A
test holds the two equal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from holdfast.kernel.errors import Invalid, Problem
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.secrets import TenantSecrets
from holdfast.records.model import Batch, MappedRecord, Measure, PeriodValue, Scalar

KEY_BYTES = 16
MAC_BYTES = 16
LEAF_DOMAIN = "holdfast-record-leaf/v1"
SIGNED_LEAF_DOMAIN = "holdfast-record-leaf/v2"
"""Of a record whose worker has signed the very commitment that the leaf holds."""
BATCH_LEAF_DOMAIN = "holdfast-batch-leaf/v1"
SIGNED_BATCH_LEAF_DOMAIN = "holdfast-batch-leaf/v2"
"""Of a batch whose worker has signed its header."""
BATCH_DOMAIN = b"holdfast-batch/v1\n"

encode_sorted = msgspec.json.Encoder(order="sorted").encode
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,79}")
_PLACE = b',"position":'
_BLOCK = 64

Mac = Callable[[bytes], bytes]


class Content(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a record: everything but where it came from."""

    key: list[Scalar]
    dimensions: dict[str, Scalar] = {}
    measures: dict[str, Measure] = {}
    attributes: dict[str, Scalar] = {}
    period: PeriodValue | None = None


decode_content = msgspec.json.Decoder(Content).decode


def content_of(whole: bytes) -> bytes:
    """The content within a record's canonical bytes."""
    # The last such member is the record's own: what follows it are two integers.
    return whole[: whole.rindex(_PLACE)] + b"}"


def whole_of(content: bytes, position: int, response: int) -> bytes:
    """A record's canonical bytes again, from what is kept of it."""
    return b'%b,"position":%d,"response":%d}' % (content[:-1], position, response)


def check_names(records: Iterable[MappedRecord]) -> FieldNames:
    """The field names that the records use; :class:`Invalid` lists those that are none."""
    dimensions: set[str] = set()
    measures: set[str] = set()
    attributes: set[str] = set()
    for record in records:
        dimensions.update(record.dimensions)
        measures.update(record.measures)
        attributes.update(record.attributes)
    names = FieldNames(
        dimensions=sorted(dimensions), measures=sorted(measures), attributes=sorted(attributes)
    )
    wrong = [
        Problem(f"records.{group}.{name[:100]}", "is not a field's name")
        for group, found in (
            ("dimensions", names.dimensions),
            ("measures", names.measures),
            ("attributes", names.attributes),
        )
        for name in found
        if _FIELD.fullmatch(name) is None
    ]
    if wrong:
        raise Invalid(
            "cannot take the batch: it has names that no field can have",
            code="body-invalid",
            problems=wrong[:20],
            hint="lower-case words joined by _",
        )
    return names


class FieldNames(msgspec.Struct, frozen=True, kw_only=True):
    """Which fields occur, so that tables made of records know their columns beforehand."""

    dimensions: list[str] = []
    measures: list[str] = []
    attributes: list[str] = []

    def union(self, other: FieldNames) -> FieldNames:
        """The fields of both."""
        return FieldNames(
            dimensions=sorted({*self.dimensions, *other.dimensions}),
            measures=sorted({*self.measures, *other.measures}),
            attributes=sorted({*self.attributes, *other.attributes}),
        )


NO_FIELDS = FieldNames()


def keyed_mac(key: bytes, prefix: bytes = b"", size: int = 32) -> Mac:
    """HMAC-SHA256 (RFC 2104) under ``key``, of ``prefix`` and a message; its first ``size`` bytes.

    The two padded blocks are hashed once; a record then costs two short hashes.
    """
    padded = key.ljust(_BLOCK, b"\0") if len(key) <= _BLOCK else hashlib.sha256(key).digest()
    padded = padded.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + prefix)
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def mac(message: bytes) -> bytes:
        first = inner.copy()
        first.update(message)
        second = outer.copy()
        second.update(first.digest())
        return second.digest()[:size]

    return mac


class RecordKeys:
    """The tenant's keys for one profile's records.

    ``key`` names a business key, ``content`` tells whether a record changed, ``salt`` makes the
    32-byte salt of a row's leaf. All are HMACs under secrets that backups do not hold, so that none
    of what is stored or published can be guessed back.
    """

    def __init__(self, secrets: TenantSecrets, tenant: str, profile: str) -> None:
        name = profile.encode() + b"\n"
        self.key = keyed_mac(secrets.derive(tenant, "record-keys"), name, KEY_BYTES)
        """The keyed digest of a canonical business key: the record's identity in the tenant."""
        self.content = keyed_mac(secrets.derive(tenant, "record-contents"), size=MAC_BYTES)
        """The keyed digest of a content: equal if, and as good as only if, nothing changed."""
        self.salt = keyed_mac(secrets.derive(tenant, "record-salts"))


def commitment(salt: bytes, whole: bytes) -> str:
    """What a leaf says of a record: HMAC-SHA256 under the row's own salt."""
    inner = hashlib.sha256(salt.translate(_INNER) + _INNER_REST)
    inner.update(whole)
    return hashlib.sha256(salt.translate(_OUTER) + _OUTER_REST + inner.digest()).hexdigest()


_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_REST = b"\x36" * 32
_OUTER_REST = b"\x5c" * 32


def row_salt(keys: RecordKeys, run: str, sequence: int) -> bytes:
    """The salt of the row ``sequence`` that ``run`` wrote; no two rows of a profile share one."""
    return keys.salt(f"{run}:{sequence}".encode())


def record_leaf(
    *,
    commitment: str,
    profile_digest: str,
    record: str,
    revision: int,
    run: str,
    withdrawn: bool,
    domain: str = LEAF_DOMAIN,
) -> bytes:
    """The entry of a record's leaf: a canonical header of opaque ids and the commitment.

    Written out, because it is made for every row: the same bytes as the canonical form.
    """
    return (
        f'{{"commitment":"{commitment}","domain":"{domain}","profile":"{profile_digest}",'
        f'"record":"{record}","revision":{revision},"run":"{run}",'
        f'"withdrawn":{"true" if withdrawn else "false"}}}'
    ).encode()


def record_leaf_hash(
    keys: RecordKeys,
    *,
    run: str,
    profile_digest: str,
    sequence: int,
    record: str,
    revision: int,
    withdrawn: bool,
    whole: bytes,
) -> bytes:
    """The leaf hash of a row, at staging and again whenever a receipt asks for it."""
    return leaf_hash(
        record_leaf(
            commitment=commitment(row_salt(keys, run, sequence), whole),
            profile_digest=profile_digest,
            record=record,
            revision=revision,
            run=run,
            withdrawn=withdrawn,
        )
    )


def stored_leaf_hash(
    keys: RecordKeys, *, run: str, profile_digest: str, row: Any, salt: bytes | None, signed: bool
) -> bytes:
    """The leaf hash of a row as it lies in the table, for whoever rebuilds a batch's tree.

    ``salt`` is its worker's, if that is known; ``signed`` says whether its batch is. Of a record
    about a person the leaf comes from the commitment that was kept: it stays what it was when the
    person is erased, though nobody can open it any more.
    """
    if row.commitment is None and salt is None:
        return record_leaf_hash(
            keys,
            run=run,
            profile_digest=profile_digest,
            sequence=row.sequence,
            record=row.record.hex(),
            revision=row.revision,
            withdrawn=row.withdrawn,
            whole=whole_of(row.body.encode(), row.position, row.response),
        )
    if row.commitment is None:
        assert salt is not None
        whole = whole_of(row.body.encode(), row.position, row.response)
        said = commitment(salt, whole)
    else:
        said = bytes(row.commitment).hex()
    return leaf_hash(
        record_leaf(
            commitment=said,
            profile_digest=profile_digest,
            record=row.record.hex(),
            revision=row.revision,
            run=run,
            withdrawn=row.withdrawn,
            domain=SIGNED_LEAF_DOMAIN if signed else LEAF_DOMAIN,
        )
    )


LeafHasher = Callable[[str, str, int], bytes]


def leaf_hasher(run: str, profile_digest: str) -> LeafHasher:
    """The leaf hash of rows of one run whose worker signed them, for a whole batch of them.

    Called with commitment, record and revision. What all rows share is written once, and nothing
    is called in between: it is on staging's hot path.
    """
    sha256 = hashlib.sha256
    before = '{"commitment":"'
    between = f'","domain":"{SIGNED_LEAF_DOMAIN}","profile":"{profile_digest}","record":"'
    after = f',"run":"{run}","withdrawn":false}}'

    def hashed(said: str, record: str, revision: int) -> bytes:
        leaf = f'\0{before}{said}{between}{record}","revision":{revision}{after}'
        return sha256(leaf.encode()).digest()

    return hashed


def batch_digest(batch: Batch, wholes: list[bytes]) -> str:
    """The digest of what a batch says, whatever its JSON looked like on the way."""
    header = encode_sorted({"fence": batch.fence, "run": batch.run, "sequence": batch.sequence})
    found = hashlib.sha256(BATCH_DOMAIN + header)
    found.update(b"\n%d\n" % len(wholes))
    found.update(b"\n".join(wholes))
    found.update(b"\n%d\n" % len(batch.rejects))
    found.update(b"\n".join(map(encode_sorted, batch.rejects)))
    return f"sha256:{found.hexdigest()}"
