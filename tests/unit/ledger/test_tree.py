"""The growing tree against the tree made at once, and its proofs against published vectors."""

from __future__ import annotations

import base64
import json
import os
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel import merkle
from holdfast.kernel.errors import Corrupt
from holdfast.ledger import tree
from holdfast.ledger.tree import Tree

LEAVES = [sha256(number.to_bytes(4, "big")).digest() for number in range(70_000)]
SIZES = [0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 513, 1000, 65_535, 65_536, 65_537, 69_999]


@pytest.fixture(scope="module")
def grown() -> tuple[Tree, dict[tuple[int, int], list[bytes]]]:
    """A large tree, and every tile of it, full or not."""
    made, tiles = Tree(), {}
    for leaf in LEAVES:
        for tile in made.append(leaf):
            assert merkle.root(tree.split_hashes(tile.hashes)) == tile.root
            tiles[tile.level, tile.number] = tree.split_hashes(tile.hashes)
    for level, (full, width) in enumerate(tree.tile_widths(made.size)):
        assert len(made.partial[level]) == width
        tiles[level, full] = list(made.partial[level])
    return made, tiles


def test_the_root_is_that_of_all_leaves_at_every_size() -> None:
    made = Tree()
    for size in range(600):
        assert made.root() == merkle.root(LEAVES[:size])
        assert made.size == size
        made.append(LEAVES[size])


def test_memory_does_not_grow_with_the_log(grown) -> None:
    made, _ = grown
    assert sum(map(len, made.partial)) < 3 * 256
    assert len(made._edge) <= 17


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_that_is_opened_again_goes_on(grown, size: int) -> None:
    _, tiles = grown
    partial = []
    for level, (full, width) in enumerate(tree.tile_widths(size)):
        partial.append(tiles[level, full][:width] if width else [])
    again = Tree.of(size, partial)
    assert again.root() == merkle.root(LEAVES[:size])
    for leaf in LEAVES[size : size + 300]:
        again.append(leaf)
    assert again.root() == merkle.root(LEAVES[: again.size])


def test_a_copy_grows_alone(grown) -> None:
    made, _ = grown
    before = made.root()
    made.copy().append(bytes(32))
    assert made.root() == before


def test_proofs_from_tiles_are_the_proofs(grown) -> None:
    _, tiles = grown
    chance = random.Random(20261127)

    def hashes(level: int, number: int) -> list[bytes]:
        return tiles[level, number]

    pairs = [(chance.randrange(1, 70_000), chance.randrange(1, 70_000)) for _ in range(40)]
    for first, second in pairs + [(a, b) for a in SIZES[1:12] for b in SIZES[1:12]]:
        old, new = sorted((first, second))
        position = chance.randrange(new)
        path = [tree.node(each, hashes) for each in tree.inclusion(position, new)]
        root = tree.node((0, new), hashes)
        merkle.check_inclusion(LEAVES[position], position, new, path, root)
        proof = [tree.node(each, hashes) for each in tree.consistency(old, new)]
        tree.check_consistency(old, new, tree.node((0, old), hashes), root, proof)
        if new <= 1000:
            assert root == merkle.root(LEAVES[:new])
            assert path == merkle.inclusion_proof(LEAVES[:new], position)


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_a_proof_with_anything_changed_is_refused(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    made = LEAVES[:new]

    def hashes(level: int, number: int) -> list[bytes]:
        return made[number * 256 :] if level == 0 else [merkle.root(made[:256])]

    proof = [tree.node(each, hashes) for each in tree.consistency(old, new)]
    roots = merkle.root(made[:old]), merkle.root(made)
    tree.check_consistency(old, new, *roots, proof)
    if old == new:
        wrong = [[*proof, bytes(32)]]
    else:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        wrong = [[*proof[:at], flipped, *proof[at + 1 :]], proof[:at] + proof[at + 1 :]]
        wrong.append([*proof, bytes(32)])
    for each in wrong:
        with pytest.raises(Corrupt):
            tree.check_consistency(old, new, *roots, each)
    with pytest.raises(Corrupt):
        tree.check_consistency(old, new, roots[1] if old != new else bytes(32), roots[1], proof)


def vectors(kind: str) -> list[tuple[str, dict[str, Any]]]:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if not folder:
        return []
    found = sorted(Path(folder, "merkle", "testdata", kind).rglob("*.json"))
    return [(str(path.name), json.loads(path.read_text())) for path in found]


def test_published_consistency_vectors() -> None:
    cases = vectors("consistency")
    if not cases:
        pytest.skip("HOLDFAST_VECTORS is not set: the published vectors are not here")
    refused = 0
    for name, case in cases:
        given = (
            case["size1"],
            case["size2"],
            _hash(case["root1"]),
            _hash(case["root2"]),
            [_hash(each) for each in case["proof"] or []],
        )
        if case["wantErr"]:
            refused += 1
            with pytest.raises(Corrupt):
                tree.check_consistency(*given)
        else:
            try:
                tree.check_consistency(*given)
            except Corrupt as error:
                raise AssertionError(f"{name}: {case['desc']}") from error
    assert (len(cases), refused) == (98, 92)


def _hash(text: str | None) -> bytes:
    return base64.b64decode(text or "")
