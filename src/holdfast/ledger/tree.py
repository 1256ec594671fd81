"""The growing tree of a log, and what a proof in it is made of. Pure.

The tree is kept as C2SP tiles (256 hashes a tile, a level of tiles for every eight of the tree): a
full tile never changes and is handed out once, to be stored; what is not full yet is at most 255
hashes a level. So appending costs the same however large the log is, and so does memory.

Proofs are made in two steps, so that this stays pure: :func:`inclusion` and :func:`consistency` say
which subtrees are wanted, :func:`tiles_for` which tiles hold them, and :func:`node` computes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.kernel import merkle
from holdfast.kernel.merkle import node_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT

Range = tuple[int, int]
"""Leaves ``[low, high)`` that form one subtree of RFC 6962."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A full tile: 256 hashes of a level, and the root over them."""

    level: int
    number: int
    hashes: bytes
    root: bytes


@dataclass(slots=True)
class Tree:
    """A tree that only grows. ``partial[level]`` are the hashes of the level's last tile."""

    size: int = 0
    partial: list[list[bytes]] = field(default_factory=lambda: [[]])
    _edge: list[tuple[int, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, size: int, partial: Sequence[Sequence[bytes]]) -> Tree:
        """The tree of ``size`` leaves whose levels end in these partial tiles."""
        tree = cls(size, [list(level) for level in partial] or [[]])
        for level in reversed(range(len(tree.partial))):
            for each in tree.partial[level]:
                tree._push(TILE_HEIGHT * level, each)
        return tree

    def copy(self) -> Tree:
        """One that can grow without this one."""
        return Tree(self.size, [list(level) for level in self.partial], list(self._edge))

    def append(self, leaf: bytes) -> list[Tile]:
        """Add a leaf hash; the tiles that are full now."""
        self.size += 1
        self._push(0, leaf)
        full: list[Tile] = []
        level, rising = 0, leaf
        while True:
            if level == len(self.partial):
                self.partial.append([])
            hashes = self.partial[level]
            hashes.append(rising)
            if len(hashes) < TILE_WIDTH:
                return full
            rising = merkle.root(hashes)
            number = (self.size - 1) >> (TILE_HEIGHT * (level + 1))
            full.append(Tile(level, number, b"".join(hashes), rising))
            hashes.clear()
            level += 1

    def root(self) -> bytes:
        """The root of the tree as it is."""
        if not self._edge:
            return merkle.EMPTY_ROOT
        *rest, (_, found) = self._edge
        for _, left in reversed(rest):
            found = node_hash(left, found)
        return found

    def _push(self, height: int, hashed: bytes) -> None:
        while self._edge and self._edge[-1][0] == height:
            hashed = node_hash(self._edge.pop()[1], hashed)
            height += 1
        self._edge.append((height, hashed))


def tile_widths(size: int) -> list[tuple[int, int]]:
    """For each level of a tree of ``size``: how many full tiles, and the last one's width."""
    found: list[tuple[int, int]] = []
    count = size
    while count or not found:
        found.append((count >> TILE_HEIGHT, count & (TILE_WIDTH - 1)))
        count >>= TILE_HEIGHT
    return found


def inclusion(position: int, size: int) -> list[Range]:
    """The subtrees whose hashes are the audit path of ``position``, from its sibling up."""
    low, high = 0, size
    path: list[Range] = []
    while high - low > 1:
        middle = low + _split(high - low)
        if position < middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    return path[::-1]


def consistency(old: int, new: int) -> list[Range]:
    """The subtrees whose hashes are the proof that ``new`` extends ``old`` (RFC 6962 §2.1.2)."""
    if old in (0, new):
        return []
    low, high, whole = 0, new, True
    path: list[Range] = []
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low, whole = middle, False
    if not whole:
        path.append((low, high))
    return path[::-1]


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def perfect(wanted: Range) -> list[tuple[int, int]]:
    """The perfect subtrees ``(height, index)`` that a range is made of, left to right."""
    low, high = wanted
    found: list[tuple[int, int]] = []
    while low < high:
        fitting = (low & -low).bit_length() - 1 if low else 64
        height = min(fitting, (high - low).bit_length() - 1)
        found.append((height, low >> height))
        low += 1 << height
    return found


def place(height: int, index: int) -> tuple[int, int, int, int]:
    """Where a perfect subtree lies: tile level and number, and its hashes ``[start, stop)``."""
    level, above = divmod(height, TILE_HEIGHT)
    first = index << above
    number, start = divmod(first, TILE_WIDTH)
    return level, number, start, start + (1 << above)


def tiles_for(ranges: Sequence[Range]) -> set[tuple[int, int]]:
    """The tiles ``(level, number)`` that are needed to compute the hashes of ``ranges``."""
    return {place(*each)[:2] for wanted in ranges for each in perfect(wanted)}


Hashes = Callable[[int, int], Sequence[bytes]]
"""The hashes of a tile, by level and number."""


def node(wanted: Range, hashes: Hashes) -> bytes:
    """The hash of the subtree over ``wanted``."""
    parts = []
    for each in perfect(wanted):
        level, number, start, stop = place(*each)
        parts.append(merkle.root(hashes(level, number)[start:stop]))
    if not parts:
        return merkle.EMPTY_ROOT
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def split_hashes(data: bytes) -> list[bytes]:
    """The hashes in a tile's bytes."""
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Return if ``proof`` shows that the tree ``new`` extends ``old``; ``Corrupt`` if not.

    RFC 9162 §2.1.4.2.
    """
    if not 0 <= old <= new:
        raise merkle.refused("the older tree is larger than the newer")
    if old == 0:
        raise merkle.refused("there is nothing to prove of an empty tree")
    if old == new:
        if proof or old_root != new_root:
            raise merkle.refused("trees of one size have one root, and nothing to prove")
        return
    if any(len(part) != 32 for part in (new_root, *proof)):
        raise merkle.refused("a hash is not 32 bytes long")
    if len(old_root) != 32:
        raise merkle.refused("a hash is not 32 bytes long")
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise merkle.refused("the path is empty")
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise merkle.refused("the path is too long")
        if first & 1 or first == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise merkle.refused("the path is too short")
    if before != old_root or after != new_root:
        raise merkle.refused("the root is another")
