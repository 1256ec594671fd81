"""The log of one tenant: its parts put together."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import TenantId
from holdfast.ledger import store
from holdfast.ledger.errors import WitnessDisagrees
from holdfast.ledger.head import Head, HeadFile
from holdfast.ledger.log.commits import Commits
from holdfast.ledger.log.group_commit import GroupCommit
from holdfast.ledger.log.leadership import Leadership, Opened
from holdfast.ledger.log.opening import Opening
from holdfast.ledger.log.parts import LogParts, TenantParts
from holdfast.ledger.log.published import PublishedCheckpoints
from holdfast.ledger.log.publishing import Publisher
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.log.recovery import Recovery
from holdfast.ledger.log.sequencing import Sequencer
from holdfast.ledger.log.soundness import Soundness
from holdfast.ledger.model import ERASED, Appended, Damage
from holdfast.ledger.plan import Wanted


class TenantLog:
    """What others do with a log. Whoever only reads takes its ``reader``, or bare ``commits``."""

    def __init__(self, parts: LogParts, tenant: TenantId) -> None:
        own = TenantParts.of(parts, tenant)
        self.parts = own
        self.tenant = tenant
        self.commits = Commits(own)
        self.leadership = Leadership(own)
        self.soundness = Soundness(own, self.commits, self.leadership)
        self.reader = LogReader(own, self.commits, self.soundness, self.leadership)
        self.recovery = Recovery(own, self.commits, self.leadership, self.soundness, self.reader)
        self.published = PublishedCheckpoints(own)
        self.head = HeadFile(parts.heads / f"{tenant}.head")
        self.opening = Opening(
            own,
            self.leadership,
            self.soundness,
            self.reader,
            self.recovery,
            self.published,
            self.head,
        )
        self.sequencer = Sequencer(
            own, self.leadership, self.soundness, self.reader, self.opening, self.head
        )
        self.publisher = Publisher(
            own, self.leadership, self.soundness, self.reader, self.published, self.opening
        )
        self._line = GroupCommit(f"ledger of {tenant}", self.sequencer.commit)

    @property
    def damage(self) -> Damage | None:
        """Why the log is read-only; None while it is not."""
        return self.soundness.damage

    @property
    def disputed(self) -> WitnessDisagrees | None:
        """What a witness says against the log; no checkpoint is given meanwhile."""
        return self.publisher.disputed

    async def disputed_now(self) -> WitnessDisagrees | None:
        """The same, by asking: for whoever has just opened the log."""
        witnesses = self.parts.shared.witnesses
        if witnesses is None or not witnesses.witnesses:
            return None
        try:
            await self.publisher.checkpoint()
        except WitnessDisagrees as error:
            return error
        return None

    def settled(self) -> None:
        """What was disputed is told under another origin from here on."""
        self.publisher.disputed = None

    @property
    def sequencing(self) -> bool:
        """Whether it is us who append."""
        return self.leadership.opened is not None

    async def open(self) -> Opened:
        """See :meth:`Opening.open`."""
        return await self.opening.open()

    async def foresee(self, wanted: Wanted) -> HoldfastError | None:
        """What an append would be refused with, were it stored now; nothing of it is.

        Asked in line, behind what was begun before: a stream may be at the version that is expected
        only after that. Where nothing but another of the same moment could refuse it, nobody waits.
        """
        ids = [event.id for event in wanted.events]
        tenant = self.tenant
        try:
            erased = any(event.sealing == ERASED for event in wanted.events)
            if not wanted.expected and not erased:
                known = await self.parts.read(lambda conn: store.find_events(conn, tenant, ids))
                if not known:
                    return None
            await self._line.begin(replace(wanted, asked=True))
        except HoldfastError as error:
            return error
        return None

    def begin(self, wanted: Wanted) -> asyncio.Future[Appended]:
        """Put an append in line; the future is done once it is durable, or refused."""
        return self._line.begin(wanted)

    async def close(self) -> None:
        """Finish what waits; resign, so that another instance can go on at once."""
        await self._line.finish()
        await self.leadership.resign()
        self.head.close()

    async def wait_grown(self, size: int, seconds: float) -> bool:
        """Return once the log is longer than ``size`` (true), or after about ``seconds``."""
        if (await self.reader.extent())[0] > size:
            return True
        shared = not self.sequencing
        try:
            async with asyncio.timeout(min(seconds, 0.5) if shared else seconds):
                await self.sequencer.grown.wait()
        except TimeoutError:
            pass
        return (await self.reader.extent())[0] > size

    def read_head(self) -> Head | None:
        """What the head file says. Blocking."""
        return HeadFile(self.head.path).read()

    async def checkpoint(self) -> str:
        """See :meth:`Publisher.checkpoint`."""
        return await self.publisher.checkpoint()

    async def rebuilt(self) -> None:
        """Make the index anew from the log; nothing is appended meanwhile.

        Of a log that is not sound it is left as it is. Whatever breaks it off, the index says how
        far it has come: what asks it for more is refused, and the next opening goes on.
        """
        async with self.sequencer.storing:
            state = await self.open()
            self.leadership.close()
            async with self.opening.lock:
                grown, wrong = await self.soundness.recompute()
                if wrong is not None:
                    await self.soundness.met(wrong, walked=True)
                    raise wrong
                await self.recovery.rebuild(grown.size, state.fence)
            await self.open()
