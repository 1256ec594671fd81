"""Opening a log as the one who appends: recovered, and held against what was said of it before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import KeyMissing, LedgerReadOnly, NotSequencer, PublishedDamaged
from holdfast.ledger.head import Head, HeadFile, tell_head
from holdfast.ledger.log.keys import check_key, origin_in_force, signer_in_force
from holdfast.ledger.log.leadership import Leadership, Opened, Signer
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.log.published import PublishedCheckpoints
from holdfast.ledger.log.reading import LogReader, View
from holdfast.ledger.log.recovery import Recovery
from holdfast.ledger.log.soundness import (
    Soundness,
    damage_of,
    unknown_published,
    unknown_since,
)
from holdfast.ledger.model import LOST_TAIL, NO_KEY, PUBLISHED_UNKNOWN, Damage
from holdfast.ledger.notes import Checkpoint
from holdfast.ledger.signer import (
    PUBLISHED_FILE,
    binds,
    is_evidence,
    unknown_origins,
    untold,
)
from holdfast.ledger.store import Origin, Published
from holdfast.ledger.tree import Tree

log = get_logger("ledger")


class Opening:
    """Opens one tenant's log. ``lock`` is held while that, or a rebuild, is under way."""

    def __init__(
        self,
        parts: TenantParts,
        leadership: Leadership,
        soundness: Soundness,
        reader: LogReader,
        recovery: Recovery,
        published: PublishedCheckpoints,
        head: HeadFile,
    ) -> None:
        self.parts = parts
        self.leadership = leadership
        self.soundness = soundness
        self.reader = reader
        self.recovery = recovery
        self.published = published
        self.head = head
        self.lock = asyncio.Lock()
        self.begun = ""
        """The origin whose first entry we are about to store."""

    async def open(self) -> Opened:
        """The log, opened by us as the one who appends.

        ``NotSequencer`` if another instance does, ``LedgerReadOnly`` if the log is not what it was.
        """
        async with self.lock:
            now = self.parts.shared.clock.now()
            state = self.leadership.fresh(now)
            if state is not None:
                return state
            until = await self.leadership.take(now)
            if until is None:
                await self.soundness.told_elsewhere()
                raise NotSequencer(
                    "cannot add to the log here: another instance appends to this tenant's log"
                )
            opened = self.leadership.opened
            stopped = opened is None or await self._stopped_meanwhile()
            # A reader that met damage while we asked closed it, whether that is written or not.
            if opened is not None and opened is self.leadership.opened and not stopped:
                opened.until = until
                return opened
            await self.soundness.check_remembered()
            try:
                await check_key(self.parts)
                self.leadership.opened = await self._opened(until)
            except KeyMissing as error:
                end = await self.parts.shared.log.end(self.parts.principal)
                # Another instance may have the key, and can go on at once.
                await self.leadership.resign()
                raise self.soundness.read_only(
                    Damage(reason=NO_KEY, detail=error.detail, first=end)
                ) from error
            except LedgerReadOnly:
                damage = self.soundness.damage
                if damage is not None and damage.reason == PUBLISHED_UNKNOWN:
                    # Another instance may know, and can go on at once.
                    await self.leadership.resign()
                raise
            return self.leadership.opened

    async def _stopped_meanwhile(self) -> bool:
        """Whether something that is written down is in the way of a log that we opened before."""
        soundness = self.soundness
        return await soundness.remembered() is not None or await soundness.restored() is not None

    async def open_under(self, another: Callable[[Origin], Awaitable[Signer]]) -> Opened:
        """:meth:`open`, of a log whose key is lost, under another one that is not kept yet.

        Only for whoever keeps it next, and lets nobody append or sign before that.
        """
        async with self.lock:
            until = await self.leadership.lead()
            await self.soundness.check_remembered()
            self.leadership.opened = await self._opened(until, another)
            return self.leadership.opened

    async def _opened(
        self, until: datetime, another: Callable[[Origin], Awaitable[Signer]] | None = None
    ) -> Opened:
        parts, shared = self.parts, self.parts.shared
        fence = await shared.log.seize(parts.principal, shared.holder)
        # From here on: what was read before may have been another's to change. Whoever meets damage
        # after this look takes the fence from us.
        await self.soundness.check_remembered()
        origin = await origin_in_force(parts, fence)
        signer = None if another else await signer_in_force(parts, fence, origin)
        try:
            grown, recorded = await self.recovery.recovered(fence)
            said, published = await self._check_said(grown, origin)
            await self._check_known(grown, fence, said, published)
            await self.published.learn(list(published.values()))
            if origin.generation and grown.size == origin.started_size:
                self._check_begun(origin)
            if another is not None:
                signer = await another(origin)
            assert signer is not None
            await tell_head(self.head, Head(grown.size, grown.root(), origin.origin))
        except (LedgerReadOnly, KeyMissing):
            raise
        except Corrupt as error:
            raise self.soundness.read_only(damage_of(error)) from error
        # What a reader met meanwhile took the fence from us, unless that could not be written down.
        while self.soundness.doubted:
            await self.soundness.check_remembered()
        # Only now: while it was looked at anew, which is every second, it was what it was.
        self.soundness.damage = None
        shared.metrics.writable(parts.tenant, writable=True)
        shared.metrics.sequencing(parts.tenant, fence)
        last = published.get(origin.origin)
        return Opened(fence, grown, recorded, until, origin, signer, last)

    def _check_begun(self, origin: Origin) -> None:
        """``LedgerReadOnly`` for an origin that never came to its first entry: without that, what
        came before it, and why it ended, is nowhere in the log."""
        if origin.origin != self.begun:
            raise self.soundness.read_only(
                Damage(
                    reason="restart-broke-off",
                    detail=f"{origin.origin} lacks the first entry, which cites what was before it",
                    first=origin.started_size,
                )
            )

    async def _check_known(
        self,
        grown: Tree,
        fence: int,
        said: Mapping[str, Checkpoint],
        rows: Mapping[str, Published],
    ) -> None:
        """``LedgerReadOnly`` for a log that was restored, unless the file here knows what was
        published since: then it has just been held against that, and nobody else has to be."""
        restored = await self.soundness.restored()
        if restored is None:
            return
        if not is_evidence(said, rows):
            raise self.soundness.read_only(unknown_since(restored, grown.size))
        parts = self.parts
        clear = partial(store.clear_restored, tenant=parts.tenant)
        await parts.shared.log.fenced(parts.principal, fence, clear)
        log.info("the log holds what was published of it", tenant=parts.tenant)

    async def _check_said(
        self, grown: Tree, origin: Origin
    ) -> tuple[dict[str, Checkpoint], dict[str, Published]]:
        """Hold the log against its head and against what was published; ``LedgerReadOnly``.

        What the file and the database know of that, by origin.
        """
        view = View(grown.size, "", grown)
        head = await asyncio.to_thread(self.head.read)
        try:
            said = await self.published.in_file()
        except PublishedDamaged as error:
            raise self.soundness.read_only(unknown_published(error, grown.size)) from error
        origins, rows = await self.published.in_database()
        for later in unknown_origins(said, origins):
            raise self.soundness.read_only(
                Damage(
                    reason=LOST_TAIL,
                    detail=f"the log is older than {later.origin}, which was published with "
                    f"{later.size} entries",
                    first=min(grown.size, later.size),
                )
            )
        for outside in said.values():
            self._check_told(origins, outside, PUBLISHED_FILE)
        published = rows.get(origin.origin)
        claims = []
        if head is not None and self._is_concerned(head, grown.size, origins):
            claims.append(("its head file", head.size, head.root))
        if published is not None:
            claims.append(("the last checkpoint", published.size, published.root))
        if origin.origin in said:
            outside = said[origin.origin]
            claims.append(("the last published checkpoint", outside.size, outside.root))
        for who, size, root in sorted(claims, key=lambda claim: claim[1]):
            if size > grown.size:
                raise self.soundness.read_only(
                    Damage(
                        reason=LOST_TAIL,
                        detail=f"the log ends at {grown.size}, and {who} knows of {size} entries",
                        first=grown.size,
                        last=size - 1,
                    )
                )
            if root and await self.reader.root_at(size, view) != root:
                raise self.soundness.read_only(
                    Damage(
                        reason="altered",
                        detail=f"the first {size} entries are not those that {who} speaks of",
                        first=0,
                        last=size - 1,
                    )
                )
        return said, rows

    def _check_told(self, origins: list[Origin], known: Head | Checkpoint, who: str) -> None:
        """``LedgerReadOnly`` if entries that are known here were lost, and no origin tells of it:
        another instance began the next one, and knew less."""
        lost = untold(origins, known, who)
        if lost is not None:
            raise self.soundness.read_only(
                Damage(reason=LOST_TAIL, detail=lost.detail, first=lost.first, last=lost.last)
            )

    def _is_concerned(self, head: Head, size: int, origins: list[Origin]) -> bool:
        """Whether the log must hold what its head file knows; ``LedgerReadOnly`` if it is older.

        Of what an origin held beyond its end another instance may have told, which began the next
        one, and has a head file of its own: if it knew of all that.
        """
        told = {head.origin: Checkpoint(head.origin, head.size, head.root)}
        if head.origin and unknown_origins(told, origins):
            raise self.soundness.read_only(
                Damage(
                    reason=LOST_TAIL,
                    detail=f"the log is older than {head.origin}, under which its head file knows "
                    f"of {head.size} entries",
                    first=min(head.size, size),
                )
            )
        self._check_told(origins, head, "the head file")
        return not head.origin or binds(origins, head.origin, head.size)
