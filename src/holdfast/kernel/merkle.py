"""The Merkle tree of RFC 6962 §2.1: roots, inclusion proofs, and their check. Pure.

Functions that build take leaf *hashes*; :func:`leaf_hash` makes one of an entry's bytes. A node is
domain-separated from a leaf by its first byte, so neither can be passed off as the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from holdfast.kernel.errors import Corrupt

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes in order; that of no leaves is the hash of nothing.

    Pairing neighbours level by level, an odd last one rising as it is, gives the same tree as the
    recursive definition with its split at the largest power of two.
    """
    level = list(hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        paired = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index``, from its sibling up (RFC 6962 §2.1.1).

    Raises ``IndexError`` if there is no such leaf.
    """
    if not 0 <= index < len(hashes):
        raise IndexError(f"cannot prove leaf {index} of {len(hashes)}")
    path: list[bytes] = []
    level = list(hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        paired = [
            node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level, index = paired, index // 2
    return path


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> None:
    """Return if ``proof`` shows leaf hash ``leaf`` at ``index`` of the tree ``expected``.

    RFC 9162 §2.1.3.2. Anything else, malformed input included, is :class:`Corrupt`.
    """
    if not 0 <= index < size:
        raise refused("the leaf is outside of the tree")
    if any(len(part) != 32 for part in (leaf, expected, *proof)):
        raise refused("a hash is not 32 bytes long")
    first, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise refused("the path is too long")
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise refused("the path is too short")
    if found != expected:
        raise refused("the root is another")


def refused(reason: str) -> Corrupt:
    """A proof that does not hold, and why."""
    return Corrupt(f"cannot accept the proof: {reason}", code="proof-invalid")
