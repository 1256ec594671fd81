"""The index of a log, brought up to what is durable in it, or made anew from it.

Only whoever holds the newest fence does so, and each step is held to that in its own transaction:
an instance that slept meanwhile would forget, or add to, an index that another one goes by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from holdfast.kernel.errors import Conflict, Corrupt
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import IndexMoved, IndexWrong, NotSequencer
from holdfast.ledger.frames import damaged, decode_frame, read_leaf
from holdfast.ledger.log.commits import Commits
from holdfast.ledger.log.leadership import Leadership
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.log.soundness import Soundness
from holdfast.ledger.model import LOST_TAIL, Damage
from holdfast.ledger.store import Growth, IndexRow
from holdfast.ledger.tree import Tree

log = get_logger("ledger")


class Recovery:
    """Brings the index of one tenant's log up; whoever asks is the one who appends."""

    def __init__(
        self,
        parts: TenantParts,
        commits: Commits,
        leadership: Leadership,
        soundness: Soundness,
        reader: LogReader,
    ) -> None:
        self.parts = parts
        self.commits = commits
        self.leadership = leadership
        self.soundness = soundness
        self.reader = reader

    async def recovered(self, fence: int) -> tuple[Tree, str]:
        """The tree of what is durable and the time of the last entry, the index brought up to it.

        An index that does not fit the log is made anew, once.
        """
        end = await self.commits.end()
        state = await self.reader.index_state()
        if state.size > end:
            raise self.soundness.read_only(
                Damage(
                    reason=LOST_TAIL,
                    detail=f"the log ends at {end}, and the index knows of {state.size} entries",
                    first=end,
                    last=state.size - 1,
                )
            )
        try:
            grown = await self._caught_up(
                await self.reader.tree_at(state.size), state.recorded, end, fence
            )
        except Corrupt as error:
            if error.code != "index-damaged":
                raise
            log.warning("the index is made anew", tenant=self.parts.tenant, reason=error.detail)
            whole, wrong = await self.soundness.recompute()
            if wrong is not None:
                raise wrong from error
            grown = await self.rebuild(whole.size, fence)
        return grown

    async def rebuild(self, end: int, fence: int) -> tuple[Tree, str]:
        """Make the index anew from the first ``end`` entries of the log, which are sound."""
        await self._change(fence, partial(store.clear_index, tenant=self.parts.tenant))
        return await self._caught_up(Tree(), "", end, fence)

    async def _change(self, fence: int, unit: Callable[[Connection], None]) -> None:
        try:
            await self.parts.shared.log.fenced(self.parts.principal, fence, unit)
        except IndexMoved as error:
            raise NotSequencer("cannot make the index anew: another instance does") from error
        except Conflict as error:  # it has rows of which it does not know
            raise IndexWrong(0, "cannot bring the index up: it has more than it says") from error

    async def _caught_up(
        self, grown: Tree, recorded: str, end: int, fence: int
    ) -> tuple[Tree, str]:
        if grown.size:
            frame = await self.reader.frame_at(grown.size - 1)
            if frame.size == grown.size and frame.root != grown.root():
                raise Corrupt(
                    "cannot use the index: its tree is not the log's", code="index-damaged"
                )
        async for commit in self.commits.between(grown.size, end):
            frame = decode_frame(commit)
            if frame.first != grown.size:
                raise IndexWrong(grown.size, "cannot use the index: it ends within a commit")
            growth = Growth(grown.size, 0, "", made_anew=True)
            for position, entry in enumerate(frame.entries, frame.first):
                leaf = read_leaf(entry.leaf)
                growth.tiles += grown.append(leaf_hash(entry.leaf))
                growth.rows.append(IndexRow(position, leaf.stream, leaf.version, leaf.id))
                growth.payload_bytes += leaf.length
                recorded = leaf.recorded
            if grown.root() != frame.root:
                raise damaged(
                    frame.first, "the tree of its entries is not the one written with them"
                )
            growth.size, growth.recorded = grown.size, recorded
            grow = partial(store.grow, tenant=self.parts.tenant, growth=growth)
            await self._change(fence, grow)
            await self.leadership.keep()
        return grown, recorded
