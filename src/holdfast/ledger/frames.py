"""Entries, leaves and the frame of a commit: the bytes that are hashed and stored. Pure.

A *leaf* is a canonical header that binds tenant, stream, version, both times, type, length, the id,
who did it, and the salted commitment to the payload. A *frame* holds the entries of one commit
with their sealed payloads beside the leaves, the size and root of the tree after it, and ends in
its own SHA-256: half a commit, or one with a flipped bit, is not a commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbox import LEAF_BYTES_MAX
from holdfast.ledger.errors import FrameDamaged
from holdfast.ledger.ports import StoredCommit

FRAME_VERSION = 1
DIGEST_BYTES = 32
_PLAIN = re.compile(r"[A-Za-z0-9._:/-]*")


class Leaf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The header of an entry: what the tree commits to."""

    commitment: str
    id: str
    length: int
    recorded: str
    request: str
    stream: str
    subject: str
    tenant: str
    time: str
    type: str
    version: int


class Stored(Struct, frozen=True, array_like=True):
    """One entry of a commit: its leaf, and its payload sealed outside of the tree."""

    leaf: bytes
    sealing: str
    sealed: bytes


class Frame(Struct, frozen=True, array_like=True):
    """One commit. ``size`` and ``root`` are the tree's after it."""

    version: int
    first: int
    entries: list[Stored]
    size: int
    root: bytes

    def between(self, first: int, after: int) -> list[tuple[int, Stored]]:
        """Its entries at ``[first, after)``, each with its position."""
        low, high = max(first, self.first), min(after, self.size)
        return [(position, self.entries[position - self.first]) for position in range(low, high)]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_leaf_decoder = msgspec.json.Decoder(Leaf)


def leaf_bytes(leaf: Leaf) -> bytes:
    """The canonical bytes of a leaf."""
    texts = f"{leaf.id}{leaf.request}{leaf.stream}{leaf.subject}{leaf.tenant}{leaf.type}"
    if _PLAIN.fullmatch(texts):  # nothing to escape: the same bytes, much faster
        return (
            f'{{"commitment":"{leaf.commitment}","id":"{leaf.id}","length":{leaf.length},'
            f'"recorded":"{leaf.recorded}","request":"{leaf.request}","stream":"{leaf.stream}",'
            f'"subject":"{leaf.subject}","tenant":"{leaf.tenant}","time":"{leaf.time}",'
            f'"type":"{leaf.type}","version":{leaf.version}}}'
        ).encode()
    return canonical(leaf)


def read_leaf(data: bytes) -> Leaf:
    """The header in ``data``; ``FrameDamaged`` if that is not the canonical form of one."""
    try:
        leaf = _leaf_decoder.decode(data)
        whole = len(data) <= LEAF_BYTES_MAX and leaf_bytes(leaf) == data
        if whole and not data.isascii():
            decode_strict(data)
    except (msgspec.DecodeError, Invalid, UnicodeError) as error:
        raise FrameDamaged("cannot read the entry: its leaf is not a header") from error
    if not whole:
        raise FrameDamaged("cannot read the entry: its leaf is not in its canonical form")
    return leaf


def encode_frame(first: int, entries: Sequence[Stored], root: bytes) -> StoredCommit:
    """The commit of ``entries`` at ``first``, after which the tree has ``root``."""
    size = first + len(entries)
    body = _encoder.encode(Frame(FRAME_VERSION, first, list(entries), size, root))
    return StoredCommit(first, len(entries), body + sha256(body).digest())


def decode_frame(commit: StoredCommit) -> Frame:
    """The frame of a stored commit; ``FrameDamaged`` unless it is whole and where it belongs."""
    body, digest = commit.frame[:-DIGEST_BYTES], commit.frame[-DIGEST_BYTES:]
    if len(digest) != DIGEST_BYTES or sha256(body).digest() != digest:
        raise damaged(commit.first, "its bytes are not those that were written")
    try:
        frame: Frame = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise damaged(commit.first, "it cannot be decoded") from error
    if frame.version != FRAME_VERSION:
        raise damaged(commit.first, f"its format {frame.version} is not known")
    if (frame.first, len(frame.entries)) != (commit.first, commit.count) or frame.size != (
        commit.first + commit.count
    ):
        raise damaged(commit.first, "it belongs to another place")
    return frame


def damaged(position: int, reason: str) -> FrameDamaged:
    """The failure of the commit at ``position``."""
    return FrameDamaged(
        f"cannot read the ledger at position {position}: {reason}",
        position=position,
        hint="`holdfast ledger verify` names the first entry that is not sound",
    )


def missing(position: int) -> FrameDamaged:
    """The failure to find the commit that holds ``position``."""
    return damaged(position, "the commit is missing")


def plain_payload(payload: bytes) -> Any:
    """The payload as plain data."""
    return decode_strict(payload)
