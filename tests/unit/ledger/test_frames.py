"""The bytes of leaves and commits: canonical, whole, or refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.canonical import canonical
from holdfast.ledger.errors import FrameDamaged
from holdfast.ledger.frames import (
    Leaf,
    Stored,
    decode_frame,
    encode_frame,
    leaf_bytes,
    read_leaf,
)
from holdfast.ledger.ports import StoredCommit

LEAF = Leaf(
    commitment="0" * 64,
    id="01a21cce-a609-7a5e-85c7-e86c3ea316b2",
    length=16,
    recorded="2026-11-27T11:40:34.699083Z",
    request="",
    stream="notes/today",
    subject="operator",
    tenant="default",
    time="2026-11-27T11:40:34.699083Z",
    type="note.added",
    version=1,
)


TEXTS = ("commitment", "id", "request", "stream", "subject", "tenant", "type")
LEAVES = st.builds(
    Leaf,
    **{name: st.text(max_size=40) for name in TEXTS},
    recorded=st.just(LEAF.recorded),
    time=st.just(LEAF.time),
    length=st.integers(0, 2**20),
    version=st.integers(1, 2**53 - 1),
)


@settings(deadline=None)
@given(LEAVES)
def test_a_leaf_is_the_canonical_form_whatever_is_in_it(leaf: Leaf) -> None:
    if leaf.commitment.isascii() and leaf.commitment.isalnum():
        assert leaf_bytes(leaf) == canonical(leaf)
        assert read_leaf(leaf_bytes(leaf)) == leaf


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        leaf_bytes(LEAF) + b" ",
        leaf_bytes(LEAF).replace(b'"version":1', b'"version": 1'),
        leaf_bytes(LEAF).replace(b'"version":1', b'"version":1,"version":1'),
        leaf_bytes(LEAF).replace(b'"version":1', b'"version":1,"more":1'),
        msgspec.json.encode(LEAF)[::-1],
    ],
)
def test_another_spelling_of_a_leaf_is_refused(data: bytes) -> None:
    with pytest.raises(FrameDamaged):
        read_leaf(data)


@settings(deadline=None)
@given(st.data())
def test_a_commit_with_any_byte_changed_is_no_commit(data: st.DataObject) -> None:
    made = encode_frame(5, [Stored(leaf_bytes(LEAF), "clear", b"sealed")] * 3, bytes(32))
    assert decode_frame(made).size == 8
    frame = bytearray(made.frame)
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameDamaged):
        decode_frame(StoredCommit(5, 3, bytes(frame)))
    with pytest.raises(FrameDamaged):
        decode_frame(StoredCommit(5, 3, made.frame[: data.draw(st.integers(0, len(frame) - 1))]))


def test_a_commit_in_another_place_is_refused() -> None:
    made = encode_frame(5, [Stored(leaf_bytes(LEAF), "clear", b"")], bytes(32))
    for first, count in ((4, 1), (5, 2), (0, 1)):
        with pytest.raises(FrameDamaged):
            decode_frame(StoredCommit(first, count, made.frame))
