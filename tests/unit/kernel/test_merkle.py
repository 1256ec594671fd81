"""The tree of RFC 6962 against its recursive definition and against published vectors."""

from __future__ import annotations

import base64
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel import merkle
from holdfast.kernel.errors import Corrupt

Hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=40)


def recursive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    left, right = recursive_root(hashes[:split]), recursive_root(hashes[split:])
    return sha256(b"\x01" + left + right).digest()


@given(Hashes)
def test_root_is_the_recursive_one(hashes: list[bytes]) -> None:
    assert merkle.root(hashes) == recursive_root(hashes)


@given(Hashes.filter(bool), st.data())
def test_every_leaf_has_a_proof_and_no_other_does(hashes: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(hashes) - 1))
    proof, expected = merkle.inclusion_proof(hashes, index), merkle.root(hashes)
    merkle.check_inclusion(hashes[index], index, len(hashes), proof, expected)
    with pytest.raises(Corrupt):
        merkle.check_inclusion(sha256(b"another").digest(), index, len(hashes), proof, expected)
    with pytest.raises(Corrupt):
        merkle.check_inclusion(hashes[index], index, len(hashes), [*proof, bytes(32)], expected)
    with pytest.raises(Corrupt):
        merkle.check_inclusion(hashes[index], len(hashes), len(hashes), proof, expected)


@given(Hashes.filter(bool), st.data())
def test_kept_leaves_and_the_cover_of_the_others_prove_each_kept_leaf(
    hashes: list[bytes], data: st.DataObject
) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, len(hashes) - 1), min_size=1)))
    cover = merkle.cover(hashes, kept)
    assert (cover == []) == (len(kept) == len(hashes))
    known = {index: hashes[index] for index in kept}
    for index in kept:
        found = merkle.proof_within(len(hashes), known, cover, index)
        assert found == (merkle.root(hashes), merkle.inclusion_proof(hashes, index))
    with pytest.raises(KeyError):
        merkle.proof_within(len(hashes), known, cover, len(hashes))
    for wrong in ([*cover, bytes(32)], cover[:-1]) if cover else ([bytes(32)],):
        with pytest.raises(Corrupt):
            merkle.proof_within(len(hashes), known, wrong, kept[0])


def test_the_cover_of_one_leaf_among_many_is_its_path() -> None:
    hashes = [sha256(bytes([number])).digest() for number in range(200)]
    assert len(merkle.cover(hashes, [77])) == 8
    assert merkle.cover(hashes, []) == [merkle.root(hashes)]
    assert merkle.cover([], []) == []


def test_no_proof_for_a_leaf_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof([bytes(32)], 1)


def test_published_vectors() -> None:
    found = os.environ.get("HOLDFAST_VECTORS")
    if not found:
        pytest.skip("HOLDFAST_VECTORS names no folder")
    folder = Path(found) / "merkle" / "testdata" / "inclusion"
    files = sorted(folder.rglob("*.json"))
    outcomes = [_accepted(json.loads(path.read_text())) for path in files]
    wanted = [not json.loads(path.read_text())["wantErr"] for path in files]
    wrong = [path for path, a, b in zip(files, outcomes, wanted, strict=True) if a is not b]
    assert not wrong
    assert wanted.count(True) >= 6
    assert wanted.count(False) >= 90


def _accepted(vector: dict[str, Any]) -> bool:
    proof = [base64.b64decode(part) for part in vector["proof"] or []]
    leaf, root = (base64.b64decode(vector[name] or "") for name in ("leafHash", "root"))
    try:
        merkle.check_inclusion(leaf, vector["leafIdx"], vector["treeSize"], proof, root)
    except Corrupt:
        return False
    return True
