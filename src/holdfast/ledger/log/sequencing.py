"""Appending: a group of appends is decided, stored as one commit, and told to the head file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Conflict, Corrupt, HoldfastError, Unavailable
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.entries import payloads_of
from holdfast.ledger.errors import ClockSteppedBack, FrameDamaged, IndexWrong, LogMoved
from holdfast.ledger.frames import Leaf, Stored, encode_frame, read_leaf
from holdfast.ledger.head import Head, HeadFile, tell_head
from holdfast.ledger.log.leadership import Leadership, Opened
from holdfast.ledger.log.opening import Opening
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.log.soundness import Soundness
from holdfast.ledger.model import (
    CLOCK_ACCEPTED,
    CLOCK_ALARM_SECONDS,
    CLOCK_REFUSE_SECONDS,
    CLOCK_STREAM,
    Appended,
    Prepared,
)
from holdfast.ledger.plan import Known, Plan, Wanted, plan
from holdfast.ledger.ports import Beside
from holdfast.ledger.store import Growth

log = get_logger("ledger")


class Sequencer:
    """Gives entries their positions. ``storing`` is held by whoever stores: one at a time."""

    def __init__(
        self,
        parts: TenantParts,
        leadership: Leadership,
        soundness: Soundness,
        reader: LogReader,
        opening: Opening,
        head: HeadFile,
    ) -> None:
        self.parts = parts
        self.leadership = leadership
        self.soundness = soundness
        self.reader = reader
        self.opening = opening
        self.head = head
        self.storing = asyncio.Lock()
        self.grown = asyncio.Event()
        """Set once the log is longer; another one follows it."""
        self._recorded_last = ""
        """The time of the last entry, as far as it is known here; also while the log is closed."""
        self._accepted = ""
        """The time of the last entry at which an operator said that the clock is right."""

    async def commit(self, batch: Sequence[Wanted]) -> Sequence[Appended | Exception]:
        """What became of each append, all of it durable: refusals may rest on the others."""
        async with self.storing:
            return await self.commit_held(batch)

    async def commit_held(self, batch: Sequence[Wanted]) -> Sequence[Appended | Exception]:
        """:meth:`commit` for whoever holds ``storing`` already."""
        batch = await self._sealed(batch)
        for attempt in (1, 2):
            state = await self.opening.open()
            try:
                return await self.commit_once(state, batch)
            except LogMoved as error:
                # Another instance appended and has lost the fence since, or the index is not that
                # of the log: begin from where they end.
                self.leadership.close()
                if attempt == 2:
                    raise Unavailable(
                        "cannot append: the log moves under this instance", internal=error.detail
                    ) from error
            except FrameDamaged as error:
                self.leadership.close()
                if self.soundness.stands is None:
                    raise
                raise self.soundness.read_only(self.soundness.stands) from error
            except HoldfastError:
                self.leadership.close()
                raise
        raise AssertionError("the second attempt returns or raises")

    async def _sealed(self, batch: Sequence[Wanted]) -> Sequence[Wanted]:
        """The group with every payload sealed that is to be stored: all of them in one go."""
        waiting = [e for wanted in batch if not wanted.asked for e in wanted.events]
        sealed = iter(await self.parts.sealed(waiting))

        def whole(wanted: Wanted) -> Wanted:
            return replace(wanted, events=[next(sealed) for _ in wanted.events])

        return [wanted if wanted.asked else whole(wanted) for wanted in batch]

    async def commit_once(
        self, state: Opened, batch: Sequence[Wanted], also: Beside | None = None
    ) -> Sequence[Appended | Exception]:
        """:meth:`commit_held` on the log as it was opened, once; what fails leaves it to close.

        ``also`` changes what lies beside the log with the commit: both are there, or neither.
        """
        versions, known = await self._facts(batch, state.tree.size)
        made = plan(
            batch,
            versions,
            known,
            tenant=self.parts.tenant,
            first=state.tree.size,
            recorded=await self._recorded(state),
        )
        if made.entries:
            await self._store(state, made, also)
        return [
            outcome
            if isinstance(outcome, HoldfastError)
            else Appended(events=outcome, repeated=old)
            for outcome, old in zip(made.outcomes, made.repeated, strict=True)
        ]

    async def _store(self, state: Opened, made: Plan, also: Beside | None) -> None:
        parts, shared = self.parts, self.parts.shared
        grown = state.tree.copy()
        full = [tile for hashed in made.hashes for tile in grown.append(hashed)]
        commit = encode_frame(state.tree.size, made.entries, grown.root())
        recorded = read_leaf(made.entries[-1].leaf).recorded
        growth = Growth(state.tree.size, grown.size, recorded, made.payload_bytes, made.rows, full)

        def beside(conn: Connection) -> None:
            store.grow(conn, parts.tenant, growth)
            if also is not None:
                also(conn)

        try:
            await shared.log.append(parts.principal, commit, state.fence, beside)
        except LogMoved:
            raise
        except Conflict as error:  # a row of the index: it has what the log does not have yet
            raise IndexWrong(
                state.tree.size, "cannot append: the index has other rows where these belong"
            ) from error
        await tell_head(self.head, Head(grown.size, grown.root(), state.origin.origin))
        state.tree, state.recorded = grown, recorded
        shared.metrics.appended(made.payload_bytes, len(commit.frame), len(made.entries))
        grown_before, self.grown = self.grown, asyncio.Event()
        grown_before.set()

    def look_at_clock(self) -> float:
        """How far the clock is behind the last entry, in seconds; told as a metric."""
        if self.leadership.opened is not None:
            self._recorded_last = self.leadership.opened.recorded
        if not self._recorded_last:
            return 0.0
        now = self.parts.shared.clock.now()
        behind = (parse_timestamp(self._recorded_last) - now).total_seconds()
        self.parts.shared.metrics.clock_behind(self.parts.tenant, max(0.0, behind))
        return behind

    async def stopped(self) -> ClockSteppedBack | None:
        """Why nothing is appended, if it is the clock.

        What an operator accepted holds while the last entry is of the time it was then: entries
        get that time until the clock has come there. One that is further ahead is another matter.
        """
        behind = self.look_at_clock()
        recorded = self._recorded_last
        if behind <= CLOCK_REFUSE_SECONDS or recorded == self._accepted:
            return None
        self._accepted = await self._last_accepted()
        return None if recorded == self._accepted else ClockSteppedBack(behind, recorded)

    async def accept_clock(self, told: Callable[[str, float], Prepared]) -> None:
        """Append the entry of ``told`` (the time of the last entry, how far the clock is behind
        it), and from then on others with the time of the last one. ``Conflict`` if the clock stops
        nothing."""
        async with self.storing:
            await self.opening.open()
            stopped = await self.stopped()
            if stopped is None:
                raise Conflict(
                    "cannot accept the clock: it is not over an hour behind the last entry, or "
                    "was accepted",
                    code="clock-in-order",
                )
            before, self._accepted = self._accepted, self._recorded_last
            try:
                told_of = told(self._recorded_last, self.look_at_clock())
                [outcome] = await self.commit_held([Wanted.of([told_of], each=True)])
                if isinstance(outcome, Exception):
                    raise outcome
            except BaseException:
                self._accepted = before  # whether it is in the log the next one looks up
                raise
        log.warning("the clock was accepted", tenant=self.parts.tenant, detail=stopped.said)

    async def _last_accepted(self) -> str:
        """When the clock was accepted last, as the log has it."""
        tenant = self.parts.tenant

        def unit(conn: Connection) -> list[tuple[str, int, int]]:
            return store.list_streams(conn, tenant, CLOCK_STREAM, "", 1)

        for stream, _, position in await self.parts.read(unit):
            frame = await self.reader.frame_at(position)
            leaf = read_leaf(frame.entries[position - frame.first].leaf)
            if stream == CLOCK_STREAM and leaf.type == CLOCK_ACCEPTED:
                return leaf.recorded
        return ""

    async def _recorded(self, state: Opened) -> str:
        now = self.parts.shared.clock.now()
        if not state.recorded:
            return timestamp(now)
        if (stopped := await self.stopped()) is not None:
            raise stopped
        behind = self.look_at_clock()
        if behind > CLOCK_ALARM_SECONDS:
            log.warning(
                "the clock is behind the last entry", tenant=self.parts.tenant, seconds=behind
            )
        return max(timestamp(now), state.recorded)

    async def _facts(
        self, batch: Sequence[Wanted], end: int
    ) -> tuple[dict[str, int], dict[str, Known]]:
        """What the log, which ends at ``end``, has of the streams and ids that are named."""
        tenant = self.parts.tenant
        names = sorted(
            {e.stream for w in batch for e in w.events} | {s for w in batch for s in w.expected}
        )
        ids = [event.id for wanted in batch for event in wanted.events]

        def unit(conn: Connection) -> tuple[dict[str, int], dict[str, int]]:
            store.check_ends(conn, tenant, end)  # a refusal rests on it, too
            return store.find_streams(conn, tenant, names), store.find_events(conn, tenant, ids)

        versions, positions = await self.parts.read(unit)
        return versions, await self._known(positions)

    async def _known(self, positions: Mapping[str, int]) -> dict[str, Known]:
        """What the log holds under these ids."""
        stored: list[tuple[Leaf, Stored]] = []
        for event_id, position in positions.items():
            frame = await self.reader.frame_at(position)
            entry = frame.entries[position - frame.first]
            leaf = read_leaf(entry.leaf)
            if leaf.id != event_id:
                raise Corrupt(
                    f"cannot find the event {event_id}: the index is damaged", code="index-damaged"
                )
            stored.append((leaf, entry))
        found = await payloads_of(self.parts, stored)
        return {
            leaf.id: Known(position, leaf, None)
            if opened.payload is None
            else Known(position, leaf, opened.salt, opened.about)
            for position, (leaf, _), opened in zip(positions.values(), stored, found, strict=True)
        }
