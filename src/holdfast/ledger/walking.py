"""The entries of a log in their order, each held to what is in front of it. No storage, no keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from holdfast.kernel.merkle import leaf_hash
from holdfast.ledger.errors import FrameDamaged
from holdfast.ledger.frames import Leaf, Stored, damaged, decode_frame, missing, read_leaf
from holdfast.ledger.ports import StoredCommit
from holdfast.ledger.store import IndexRow
from holdfast.ledger.tree import Tile, Tree

Also = Callable[[int, Stored, Leaf, Tree], None]
"""What else is asked of an entry, and of the tree that ends with it."""


@dataclass(slots=True)
class Walk:
    """What is known of the commits so far: all of them were sound.

    ``versions`` grows with the streams, nothing else grows. Without it (none) nobody is asked
    whether a stream's versions follow each other: whoever walks holds them against the index.
    ``rows`` and ``tiles`` are those since they were last taken.
    """

    tenant: str
    tree: Tree = field(default_factory=Tree)
    versions: dict[str, int] | None = field(default_factory=dict)
    recorded: str = ""
    rows: list[IndexRow] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)

    def commit(self, commit: StoredCommit, also: Also | None = None) -> None:
        """Take the next commit; ``FrameDamaged`` names its first entry that is not sound."""
        if commit.first != self.tree.size:
            raise missing(self.tree.size)
        frame = decode_frame(commit)
        grown = self.tree.copy()
        rows, tiles = [], []
        for position, entry in enumerate(frame.entries, frame.first):
            try:
                leaf = read_leaf(entry.leaf)
            except FrameDamaged as error:
                raise damaged(position, error.detail) from error
            self._follows(position, leaf)
            rows.append(IndexRow(position, leaf.stream, leaf.version, leaf.id))
            tiles += grown.append(leaf_hash(entry.leaf))
            if also is not None:
                also(position, entry, leaf, grown)
        if grown.root() != frame.root:
            raise damaged(frame.first, "the tree of its entries is not the one written with them")
        self.tree = grown
        self.rows += rows
        self.tiles += tiles

    def commits(self, commits: Iterable[StoredCommit]) -> None:
        """Take the next ones."""
        for each in commits:
            self.commit(each)

    def _follows(self, position: int, leaf: Leaf) -> None:
        if leaf.tenant != self.tenant:
            raise damaged(position, "it is of another tenant")
        if leaf.recorded < self.recorded:
            raise damaged(position, "it was recorded before the entry in front of it")
        self.recorded = leaf.recorded
        if self.versions is None:
            return
        version = self.versions.get(leaf.stream, 0) + 1
        if leaf.version != version:
            raise damaged(position, f"it is version {leaf.version} of its stream, not {version}")
        self.versions[leaf.stream] = version
