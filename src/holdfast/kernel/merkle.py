"""The Merkle tree of RFC 6962 §2.1: roots, inclusion proofs, and their check. Pure.

Functions that build take leaf *hashes*; :func:`leaf_hash` makes one of an entry's bytes. A node is
domain-separated from a leaf by its first byte, so neither can be passed off as the other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
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


def cover(hashes: Sequence[bytes], kept: Sequence[int]) -> list[bytes]:
    """The roots of the largest subtrees that hold none of the leaves ``kept``, from left to right.

    Whoever has the kept leaves and these can prove each of the kept (:func:`proof_within`): of a
    tree of which a few leaves are known again, a few hashes a leaf are enough to remember.
    ``kept`` ascends.
    """
    found: list[bytes] = []

    def look(low: int, high: int, first: int, last: int) -> None:
        if first == last:
            found.append(root(hashes[low:high]))
        elif high - low > 1:
            middle = low + _split(high - low)
            between = bisect_left(kept, middle, first, last)
            look(low, middle, first, between)
            look(middle, high, between, last)

    if hashes:
        look(0, len(hashes), 0, len(kept))
    return found


def proof_within(
    size: int, kept: Mapping[int, bytes], covering: Sequence[bytes], index: int
) -> tuple[bytes, list[bytes]]:
    """The root of a tree of ``size`` leaves and the audit path of the kept leaf ``index``.

    From the leaves that were kept and the :func:`cover` of the others. Raises :class:`Corrupt` if
    they do not belong together, ``KeyError`` if the leaf is not among the kept.
    """
    known = sorted(kept)
    remaining = iter(covering)
    path: list[bytes] = []
    if index not in kept:
        raise KeyError(index)

    def node(low: int, high: int) -> bytes:
        at = bisect_left(known, low)
        if at == len(known) or known[at] >= high:
            found = next(remaining, None)
            if found is None:
                raise refused("hashes of the other leaves are missing")
            return found
        if high - low == 1:
            return kept[low]
        middle = low + _split(high - low)
        left, right = node(low, middle), node(middle, high)
        if low <= index < high:
            path.append(right if index < middle else left)
        return node_hash(left, right)

    top = node(0, size)
    if next(remaining, None) is not None:
        raise refused("there are more hashes than other leaves")
    return top, path


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


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
