"""Batches as a worker signs them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.fleet.model import Grant
from holdfast.kernel import merkle
from holdfast.kernel.signing import SigningKey
from holdfast.records.content import encode_sorted
from holdfast.records.model import Batch
from holdfast.records.signed import header_of, posted, salts_of, sign_header

WORKER_KEY = SigningKey.from_seed(b"w" * 32)
PUBLIC_KEY = WORKER_KEY.public_bytes().hex()
REGISTRATION = "01900000-0000-7000-8000-00000000feed"
SEED = b"s" * 32


def signed(
    batch: Batch,
    grant: Grant,
    digests: Mapping[int, str],
    key: SigningKey = WORKER_KEY,
    seed: bytes = SEED,
) -> Batch:
    """``batch`` with its header signed; ``digests`` are those of the run's raw responses."""
    wholes = list(map(encode_sorted, batch.records))
    root = merkle.root(posted(salts_of(seed), wholes).leaves)
    used = {each.response for each in [*batch.records, *batch.rejects]}
    header = header_of(
        grant,
        batch.sequence,
        len(batch.records),
        root,
        {number: digests.get(number, f"sha256:{'0' * 64}") for number in used},
    )
    return msgspec.structs.replace(batch, signed=sign_header(key, header, seed))
