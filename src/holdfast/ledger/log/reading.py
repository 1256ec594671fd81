"""What is in a log: its entries from the stored commits, its tree from the index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.merkle import leaf_hash
from holdfast.ledger import store, tree
from holdfast.ledger.errors import FrameDamaged
from holdfast.ledger.frames import Frame, decode_frame, missing, read_leaf
from holdfast.ledger.log.commits import Commits
from holdfast.ledger.log.leadership import Leadership
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.log.soundness import Soundness
from holdfast.ledger.tree import Tree


@dataclass(frozen=True, slots=True)
class View:
    """What is in the log, at one moment."""

    size: int
    recorded: str
    tree: Tree


class LogReader:
    """Reads one tenant's log, whoever appends to it. Where it is us, what is new is in memory."""

    def __init__(
        self, parts: TenantParts, commits: Commits, soundness: Soundness, leadership: Leadership
    ) -> None:
        self.parts = parts
        self.commits = commits
        self.soundness = soundness
        self.leadership = leadership
        self._view: View | None = None

    async def extent(self) -> tuple[int, str]:
        """How many entries there are now, and the time of the last one."""
        if (opened := self.leadership.opened) is not None:
            return opened.tree.size, opened.recorded
        end, state = await self._extents()
        if state.size >= end:
            return state.size, state.recorded
        # The index is being made anew: the log itself knows, too.
        frame = await self.frame_at(end - 1)
        return end, read_leaf(frame.entries[-1].leaf).recorded

    async def view(self) -> View:
        """What is in the log now. Where another instance appends, as of now in the database.

        ``IndexIncomplete`` while the index does not go as far as the log does.
        """
        if (opened := self.leadership.opened) is not None:
            return View(opened.tree.size, opened.recorded, opened.tree)
        end, state = await self._extents()
        await self.parts.read(lambda conn: store.check_whole(conn, self.parts.tenant, end))
        if self._view is None or self._view.size != state.size:
            grown = await self.tree_at(state.size)
            self._view = View(state.size, state.recorded, grown)
        return self._view

    async def _extents(self) -> tuple[int, store.IndexState]:
        """Where the log ends and how far the index goes; in this order, for the log grows."""
        end = await self.commits.end()
        return end, await self.index_state()

    async def index_state(self) -> store.IndexState:
        """How far the index goes."""
        return await self.parts.read(lambda conn: store.index_state(conn, self.parts.tenant))

    async def frames(self, position: int, after: int) -> AsyncIterator[Frame]:
        """The commits that hold the entries ``[position, after)``, opened.

        Damage that is met on the way stops the log: :meth:`Soundness.met`.
        """
        try:
            async for commit in self.commits.between(position, after):
                yield decode_frame(commit)
        except FrameDamaged as error:
            await self.soundness.met(error)
            raise

    async def frame_at(self, position: int) -> Frame:
        """The frame that holds ``position``."""
        async for frame in self.frames(position, position + 1):
            return frame
        raise missing(position)

    async def hashes(self, wanted: set[tuple[int, int]], view: View) -> tree.Hashes:
        """The hashes of these tiles: full ones from the index, the last of a level from memory."""
        found: dict[tuple[int, int], list[bytes]] = {}
        widths = tree.tile_widths(view.size)
        stored = []
        for level, number in sorted(wanted):
            if level < len(widths) and number < widths[level][0]:
                stored.append((level, number))
            elif level < len(widths) and number == widths[level][0] and widths[level][1]:
                found[level, number] = list(view.tree.partial[level][: widths[level][1]])
            else:
                raise Corrupt(f"cannot read the tile {level}/{number}: the log is not that long")

        def unit(conn: Connection) -> dict[tuple[int, int], bytes]:
            return {each: store.whole_tile(conn, self.parts.tenant, *each) for each in stored}

        if stored:
            read = await self.parts.read(unit)
            found |= {each: tree.split_hashes(data) for each, data in read.items()}
        return lambda level, number: found[level, number]

    async def root_at(self, size: int, view: View) -> bytes:
        """The root of the tree as it was at ``size``."""
        if size == view.size:
            return view.tree.root()
        wanted = [(0, size)]
        return tree.node((0, size), await self.hashes(tree.tiles_for(wanted), view))

    async def consistency_path(self, first: int, second: int, *, view: View) -> list[bytes]:
        """The proof that the tree of ``second`` extends that of ``first``."""
        ranges = tree.consistency(first, second)
        hashes = await self.hashes(tree.tiles_for(ranges), view)
        return [tree.node(each, hashes) for each in ranges]

    async def tree_at(self, size: int) -> Tree:
        """The tree of ``size`` leaves, from the index and the last commits."""
        tenant = self.parts.tenant
        partly: list[list[bytes]] = []
        for level, (full, width) in enumerate(tree.tile_widths(size)):
            first = full * tree.TILE_WIDTH
            after = first + width
            if level == 0:
                partly.append(await self._leaf_hashes(first, after))
                continue
            below = level - 1
            roots = await self.parts.read(
                partial(store.tile_roots, tenant=tenant, level=below, first=first, after=after)
            )
            if [number for number, _ in roots] != list(range(first, after)):
                raise Corrupt(
                    f"cannot read the tiles of level {below}: some are not in the index",
                    code="index-damaged",
                )
            partly.append([root for _, root in roots])
        return Tree.of(size, partly)

    async def _leaf_hashes(self, first: int, after: int) -> list[bytes]:
        found: list[bytes] = []
        async for frame in self.frames(first, after):
            low, high = max(0, first - frame.first), after - frame.first
            found += [leaf_hash(entry.leaf) for entry in frame.entries[low:high]]
        return found
