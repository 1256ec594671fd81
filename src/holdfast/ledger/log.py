"""One tenant's log: opened, checked against what was said of it before, and appended to in groups.

Whoever appends waits in line; one task takes what waits, decides it (:mod:`plan`), stores it as one
commit, tells the head file, and only then answers, refusals included: a refusal may rest on what
was still to be stored. After any failure the log is opened anew, from what is durable.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Conflict,
    Corrupt,
    Exhausted,
    HoldfastError,
    OutcomeUnknown,
    Unavailable,
)
from holdfast.kernel.files import flush_folder
from holdfast.kernel.ids import TenantId
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.outbox import SALT_BYTES, Outbox, Sealed, Sealer
from holdfast.kernel.principal import service
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import get_logger
from holdfast.leases import Leases
from holdfast.ledger import store, tree
from holdfast.ledger.errors import (
    ClockSteppedBack,
    FrameDamaged,
    IndexWrong,
    LedgerReadOnly,
    LogMoved,
    NotSequencer,
    WitnessAhead,
)
from holdfast.ledger.frames import Frame, damaged, decode_frame, encode_frame, read_leaf
from holdfast.ledger.head import Head, HeadFile
from holdfast.ledger.metrics import LedgerMetrics
from holdfast.ledger.model import (
    CLOCK_ALARM_SECONDS,
    CLOCK_REFUSE_SECONDS,
    ERASED,
    Appended,
    Damage,
    Prepared,
)
from holdfast.ledger.notes import Checkpoint, sign_checkpoint
from holdfast.ledger.plan import Known, Plan, Wanted, plan
from holdfast.ledger.ports import Log, People, StoredCommit
from holdfast.ledger.signer import (
    PublishedFile,
    SignerPaths,
    first_origin,
    following_origin,
    load_key,
    unknown_origins,
)
from holdfast.ledger.store import Growth, IndexRow, LogKey, Origin, Published
from holdfast.ledger.tree import Tree
from holdfast.ledger.walking import Walk
from holdfast.ledger.witness import Witnesses

log = get_logger("ledger")

GROUP_EVENTS_MAX = 2000
GROUP_BYTES_MAX = 8 * 1024 * 1024
WAITING_BYTES_MAX = 64 * 1024 * 1024
READ_COMMITS = 256
READ_BYTES = 4 * 1024 * 1024
LEAD_SECONDS = 10.0
LEADERSHIP = "ledger"


@dataclass(frozen=True, slots=True)
class LogParts:
    """What every tenant's log is made of. ``random`` makes salts and names; ``holder`` names us."""

    log: Log
    database: Database
    leases: Leases
    sealer: Sealer
    clock: Clock
    random: Callable[[int], bytes]
    holder: str
    heads: Path
    paths: SignerPaths
    metrics: LedgerMetrics
    origin: str = ""
    witnesses: Witnesses | None = None
    people: People | None = None
    """Without it no event can say whom it is about."""


@dataclass(frozen=True, slots=True)
class View:
    """What is in the log, at one moment."""

    size: int
    recorded: str
    tree: Tree


@dataclass(slots=True)
class _Waiting:
    wanted: Wanted
    future: asyncio.Future[Appended]


@dataclass(slots=True)
class _Open:
    """The state of a log that this instance sequences."""

    fence: int
    tree: Tree
    recorded: str
    until: datetime
    origin: Origin
    key: LogKey
    private: SigningKey
    published: Published | None
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a new origin begins with, and what it cites of the old one."""

    before: Origin
    origin: Origin
    damage: Damage
    size: int
    root: bytes
    head: Head | None
    published: Published | None
    aside: str


class TenantLog:
    """The log of one tenant."""

    def __init__(self, parts: LogParts, tenant: TenantId) -> None:
        self.parts = parts
        self.principal = service("ledger", tenant)
        self.tenant = tenant
        self.damage: Damage | None = None
        self._open: _Open | None = None
        self._head = HeadFile(parts.heads / f"{tenant}.head")
        self._published = PublishedFile(parts.paths.published_file(tenant))
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._storing = asyncio.Lock()
        self._signing = asyncio.Lock()
        self._grown = asyncio.Event()
        self._view: View | None = None
        self._stands: Damage | None = None
        """Damage that was met, and is there still as far as we know."""
        self._led: datetime | None = None
        """When we last renewed that it is us who append."""
        self._begun = ""
        """The origin whose first entry we are about to store."""

    # --- reading ------------------------------------------------------------------------------

    async def extent(self) -> tuple[int, str]:
        """How many entries there are now, and the time of the last one."""
        if self._open is not None:
            return self._open.tree.size, self._open.recorded
        end, state = await self._extents()
        if state.size >= end:
            return state.size, state.recorded
        # The index is being made anew: the log itself knows, too.
        frame = await self.frame_at(end - 1)
        return end, read_leaf(frame.entries[-1].leaf).recorded

    async def view(self) -> View:
        """What is in the log now. Where another instance appends, as of now in the database."""
        if self._open is not None:
            return View(self._open.tree.size, self._open.recorded, self._open.tree)
        end, state = await self._extents()
        await self.check_index(end)
        if self._view is None or self._view.size != state.size:
            grown = await self.tree_at(state.size)
            self._view = View(state.size, state.recorded, grown)
        return self._view

    async def _extents(self) -> tuple[int, store.IndexState]:
        """Where the log ends and how far the index goes; in this order, for the log grows."""
        end = await self.parts.log.end(self.principal)
        return end, await self._index_state()

    async def check_index(self, end: int | None = None) -> None:
        """``IndexIncomplete`` while the index does not go as far as the log does, or to ``end``."""
        if end is None:
            end = await self.parts.log.end(self.principal)
        await self.parts.database.read(
            self.principal, lambda conn: store.check_whole(conn, self.tenant, end)
        )

    async def wait_grown(self, size: int, seconds: float) -> bool:
        """Return once the log is longer than ``size`` (true), or after about ``seconds``."""
        if (await self.extent())[0] > size:
            return True
        shared = self._open is None
        try:
            async with asyncio.timeout(min(seconds, 0.5) if shared else seconds):
                await self._grown.wait()
        except TimeoutError:
            pass
        return (await self.extent())[0] > size

    async def commits(self, position: int, after: int) -> AsyncIterator[StoredCommit]:
        """The commits that hold the entries ``[position, after)``, in order, read as they come."""
        while position < after:
            for commit in await self.commits_from(position):
                if commit.first >= after:
                    return
                if commit.after <= position or commit.first > position:
                    raise self._gone(position)
                yield commit
                position = commit.after

    async def commits_from(
        self, position: int, commits_max: int = READ_COMMITS, bytes_max: int = READ_BYTES
    ) -> Sequence[StoredCommit]:
        """One read: the commit that holds ``position``, and some of what follows it."""
        try:
            found = await self.parts.log.read(self.principal, position, commits_max, bytes_max)
        except Corrupt as error:  # of the database itself: it says that its pages are not whole
            raise damaged(position, error.detail) from error
        if not found or found[0].first > position:
            raise self._gone(position)
        return found

    @property
    def sequencing(self) -> bool:
        """Whether it is us who append."""
        return self._open is not None

    def _gone(self, position: int) -> FrameDamaged:
        return damaged(position, "the commit is missing")

    async def frames(self, position: int, after: int) -> AsyncIterator[Frame]:
        """:meth:`commits`, opened. Damage that is met on the way stops the log: :meth:`met`."""
        try:
            async for commit in self.commits(position, after):
                yield decode_frame(commit)
        except FrameDamaged as error:
            await self.met(error)
            raise

    async def frame_at(self, position: int) -> Frame:
        """The frame that holds ``position``."""
        async for frame in self.frames(position, position + 1):
            return frame
        raise self._gone(position)

    async def met(self, error: FrameDamaged, *, walked: bool = False) -> None:
        """Damage was met, by whoever reads: look again, and if it is there, take nothing more.

        From here on nothing is appended or signed, by any instance, now or after another start,
        until a look at the whole log finds it sound. A log that was cut short by a restart in the
        meantime is not damaged, nor is one that cannot be read just now. ``walked`` says that all
        in front of it was recomputed: then a commit that is whole by itself may be wrong, too.
        """
        if self._stands is not None and self._stands.first <= error.position:
            return
        try:
            again = await self._seen_again(error.position)
            if again is None and walked:
                _, again = await self._sound()
        except Unavailable as unavailable:
            log.warning("damage cannot be looked at", tenant=self.tenant, detail=unavailable.detail)
            return
        if again is None:
            return
        found = _damage_of(again)
        self._open, self._stands = None, found
        self._read_only(found)
        now = timestamp(self.parts.clock.now())
        try:
            await self.parts.database.write(
                self.principal, lambda conn: store.keep_damage(conn, self.tenant, found, now)
            )
            # Whoever is about to append, here or elsewhere, must open the log first, and will see.
            await self.parts.log.seize(self.principal, self.parts.holder)
        except HoldfastError as lost:
            log.warning("damage cannot be remembered", tenant=self.tenant, detail=lost.detail)

    async def _seen_again(self, position: int) -> FrameDamaged | None:
        """What is wrong with the commit that holds ``position``; nothing past the log's end."""
        if position >= await self.parts.log.end(self.principal):
            return None
        try:
            async for commit in self.commits(position, position + 1):
                for entry in decode_frame(commit).entries:
                    read_leaf(entry.leaf)
        except FrameDamaged as error:
            return error if error.position else damaged(position, error.detail)
        return None

    async def look_again(self) -> None:
        """Have the next opening look at the whole log, if damage was met in it."""
        self._stands = None

    async def _met_before(self) -> Damage | None:
        return await self.parts.database.read(
            self.principal, lambda conn: store.find_damage(conn, self.tenant)
        )

    async def _check_met(self) -> None:
        """``LedgerReadOnly`` while damage that was met before is there. Only whoever appends asks.

        Each process looks at the whole log once; then it holds what it found until it is told to
        look again, or another instance has mended it.
        """
        before = await self._met_before()
        if before is None:
            self._stands = None
            return
        if self._stands is None:
            again = await self._seen_again(before.first)
            if again is None:
                _, again = await self._sound()
            if again is None:
                await self._forget_met()
                log.warning("what was damaged is whole again", tenant=self.tenant)
                return
            self._stands = _damage_of(again)
        raise self._read_only(self._stands)

    async def _forget_met(self) -> None:
        await self.parts.database.write(
            self.principal, lambda conn: store.forget_damage(conn, self.tenant)
        )
        self._stands = None

    def unsealed(self, event_id: str, sealing: str, sealed: bytes) -> tuple[bytes, bytes]:
        """Salt and payload of an entry."""
        plain = self.parts.sealer.unseal(
            self.tenant, Outbox.PURPOSE, event_id, Sealed(sealing, sealed)
        )
        return plain[:SALT_BYTES], plain[SALT_BYTES:]

    def about(self, sealing: str, sealed: bytes) -> str | None:
        """Whose own key a payload is sealed under; None if nobody can tell."""
        if self.parts.people is None:
            return None
        return self.parts.people.about(self.tenant, Sealed(sealing, sealed))

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
            return {each: store.whole_tile(conn, self.tenant, *each) for each in stored}

        if stored:
            read = await self.parts.database.read(self.principal, unit)
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
        partial: list[list[bytes]] = []
        for level, (full, width) in enumerate(tree.tile_widths(size)):
            first = full * tree.TILE_WIDTH
            if level == 0:
                partial.append(await self._leaf_hashes(first, first + width))
                continue
            read = partial_unit(self.tenant, level - 1, first, first + width)
            roots = await self.parts.database.read(self.principal, read)
            if [number for number, _ in roots] != list(range(first, first + width)):
                raise Corrupt(
                    f"cannot read the tiles of level {level - 1}: some are not in the index",
                    code="index-damaged",
                )
            partial.append([root for _, root in roots])
        return Tree.of(size, partial)

    async def _leaf_hashes(self, first: int, after: int) -> list[bytes]:
        found: list[bytes] = []
        async for frame in self.frames(first, after):
            low, high = max(0, first - frame.first), after - frame.first
            found += [leaf_hash(entry.leaf) for entry in frame.entries[low:high]]
        return found

    async def _index_state(self) -> store.IndexState:
        return await self.parts.database.read(
            self.principal, lambda conn: store.index_state(conn, self.tenant)
        )

    # --- appending ----------------------------------------------------------------------------

    def begin(self, wanted: Wanted) -> asyncio.Future[Appended]:
        """Put an append in line; the future is done once it is durable, or refused."""
        size = wanted.size_bytes
        if self._waiting_bytes + size > WAITING_BYTES_MAX:
            raise Exhausted(
                "cannot append: too much waits to be written",
                code="ledger-busy",
                retry_after_seconds=1.0,
            )
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(wanted, future))
        self._waiting_bytes += size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name=f"ledger of {self.tenant}")
        return future

    async def close(self) -> None:
        """Finish what waits; resign, so that another instance can go on at once."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._led is not None:
            self._led = self._open = None
            await self.parts.leases.resign(self.principal, LEADERSHIP, self.parts.holder)
        self._head.close()

    async def _drain(self) -> None:
        # No await between the last look at the line and the end: whoever comes next starts anew.
        while self._waiting:
            batch = self._take()
            try:
                answers = await self._commit([each.wanted for each in batch])
            except asyncio.CancelledError:
                for each in batch:
                    each.future.cancel()
                raise
            except Exception as error:  # a defect must reach its callers, not die with this task
                answers = [error] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                if each.future.done():
                    continue
                if isinstance(answer, Exception):
                    each.future.set_exception(answer)
                else:
                    each.future.set_result(answer)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        events = size = 0
        while self._waiting:
            each = self._waiting[0]
            events += len(each.wanted.events)
            size += each.wanted.size_bytes
            if batch and (events > GROUP_EVENTS_MAX or size > GROUP_BYTES_MAX):
                break
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= each.wanted.size_bytes
        return batch

    async def _commit(self, batch: Sequence[Wanted]) -> Sequence[Appended | Exception]:
        async with self._storing:
            return await self._commit_held(batch)

    async def _commit_held(self, batch: Sequence[Wanted]) -> Sequence[Appended | Exception]:
        for attempt in (1, 2):
            state = await self.open()
            try:
                return await self._commit_once(state, batch)
            except LogMoved as error:
                # Another instance appended and has lost the fence since: begin from where it ended.
                self._open = None
                if attempt == 2:
                    raise Unavailable(
                        "cannot append: the log moves under this instance", internal=error.detail
                    ) from error
            except FrameDamaged as error:
                self._open = None
                if self._stands is None:
                    raise
                raise self._read_only(self._stands) from error
            except HoldfastError:
                self._open = None
                raise
        raise AssertionError("the second attempt returns or raises")

    async def _commit_once(
        self, state: _Open, batch: Sequence[Wanted]
    ) -> Sequence[Appended | Exception]:
        versions, known = await self._facts(batch)
        made = plan(
            batch,
            versions,
            known,
            tenant=self.tenant,
            first=state.tree.size,
            recorded=self._recorded(state),
        )
        if made.entries:
            await self._store(state, made)
        return [
            outcome
            if isinstance(outcome, HoldfastError)
            else Appended(events=outcome, repeated=old)
            for outcome, old in zip(made.outcomes, made.repeated, strict=True)
        ]

    async def _store(self, state: _Open, made: Plan) -> None:
        parts = self.parts
        grown = state.tree.copy()
        full = [tile for hashed in made.hashes for tile in grown.append(hashed)]
        commit = encode_frame(state.tree.size, made.entries, grown.root())
        recorded = read_leaf(made.entries[-1].leaf).recorded
        growth = Growth(grown.size, recorded, made.payload_bytes, made.rows, full)
        grow = partial(_grow, tenant=self.tenant, growth=growth)
        together = parts.log.beside is parts.database
        try:
            await parts.log.append(self.principal, commit, state.fence, grow if together else None)
        except LogMoved:
            raise
        except Conflict as error:  # a row of the index: it has what the log does not have yet
            raise IndexWrong(
                state.tree.size, "cannot append: the index has other rows where these belong"
            ) from error
        if not together:
            await parts.database.write(self.principal, grow)
        await self._tell_head(Head(grown.size, grown.root()))
        state.tree, state.recorded = grown, recorded
        parts.metrics.appended(made.payload_bytes, len(commit.frame), len(made.entries))
        grown_before, self._grown = self._grown, asyncio.Event()
        grown_before.set()

    async def _tell_head(self, head: Head) -> None:
        try:
            await asyncio.to_thread(self._head.write, head)
        except OSError as error:
            raise OutcomeUnknown(
                "cannot tell whether the events were stored: the head of the log could not be "
                "written",
                hint="repeat the append with the same ids",
                retry_after_seconds=1.0,
                internal=str(error),
            ) from error

    def look_at_clock(self) -> float:
        """How far the clock is behind the last entry, in seconds; told as a metric."""
        if self._open is None or not self._open.recorded:
            return 0.0
        now = self.parts.clock.now()
        behind = (parse_timestamp(self._open.recorded) - now).total_seconds()
        self.parts.metrics.clock_behind(self.tenant, max(0.0, behind))
        return behind

    def _recorded(self, state: _Open) -> str:
        now = self.parts.clock.now()
        if not state.recorded:
            return timestamp(now)
        behind = self.look_at_clock()
        if behind > CLOCK_REFUSE_SECONDS:
            raise ClockSteppedBack(
                f"cannot append: the clock is {behind:.0f} s behind the last entry "
                f"({state.recorded})",
                hint="set the clock right; entries are recorded in the order of time",
            )
        if behind > CLOCK_ALARM_SECONDS:
            log.warning("the clock is behind the last entry", tenant=self.tenant, seconds=behind)
        return max(timestamp(now), state.recorded)

    async def _facts(self, batch: Sequence[Wanted]) -> tuple[dict[str, int], dict[str, Known]]:
        """What the log has of the streams and ids that are named."""
        names = sorted(
            {e.stream for w in batch for e in w.events} | {s for w in batch for s in w.expected}
        )
        ids = [event.id for wanted in batch for event in wanted.events]

        def unit(conn: Connection) -> tuple[dict[str, int], dict[str, int]]:
            return (
                store.find_streams(conn, self.tenant, names),
                store.find_events(conn, self.tenant, ids),
            )

        versions, positions = await self.parts.database.read(self.principal, unit)
        return versions, {id_: await self._known(id_, at) for id_, at in positions.items()}

    async def _known(self, event_id: str, position: int) -> Known:
        frame = await self.frame_at(position)
        entry = frame.entries[position - frame.first]
        leaf = read_leaf(entry.leaf)
        if leaf.id != event_id:
            raise Corrupt(
                f"cannot find the event {event_id}: the index is damaged", code="index-damaged"
            )
        if entry.sealing == ERASED:
            return Known(position, leaf, None)
        try:
            salt, _ = self.unsealed(leaf.id, entry.sealing, entry.sealed)
            about = self.about(entry.sealing, entry.sealed)
        except HoldfastError as error:
            if error.code != KEY_DESTROYED:
                raise
            return Known(position, leaf, None)
        return Known(position, leaf, salt, about)

    # --- signing ------------------------------------------------------------------------------

    async def checkpoint(self) -> str:
        """The newest checkpoint; signed now, if the log has grown and it is ours to sign.

        Another instance's, or that of a log that is read-only, is answered as it was published;
        ``LedgerReadOnly`` where a later one is known to have been, and not known any more.
        """
        try:
            state = await self.open()
        except NotSequencer:
            last = await self._last_published()
            if last is None:
                raise NotSequencer(
                    "cannot give a checkpoint: none was signed yet, and another instance signs",
                    retry_after_seconds=1.0,
                ) from None
            if await self._told_more_than(last):
                raise LedgerReadOnly(
                    "cannot give a checkpoint: a later one was published than the database knows of"
                ) from None
            return await self._answered(last)
        except LedgerReadOnly:
            last = await self._last_published()
            if last is None or await self._told_more_than(last):
                raise
            return await self._answered(last)
        async with self._signing:
            if self._stands is not None:  # met since the log was opened
                raise self._read_only(self._stands)
            if state.published is not None and state.published.size == state.tree.size:
                return state.published.note
            return await self._publish(state)

    async def _told_more_than(self, last: Published) -> bool:
        """Whether the outside has seen a later checkpoint than ``last``, by what is in the file."""
        try:
            said = await asyncio.to_thread(self._published.read)
        except Corrupt:
            return False
        origins = await self.parts.database.read(
            self.principal, lambda conn: store.origins(conn, self.tenant)
        )
        outside = said.get(last.origin)
        return bool(unknown_origins(said, origins)) or (
            outside is not None and outside.size > last.size
        )

    async def _answered(self, last: Published) -> str:
        """The note of what is in the database, once the file knows of it, too."""
        try:
            await self._learn(last)
        except Corrupt as error:
            log.warning("what was published is not known", tenant=self.tenant, detail=error.detail)
        return last.note

    async def _learn(self, known: Published) -> None:
        """Have the file know of a checkpoint that the database has: whoever put it there may have
        died before telling the file, or is another instance, which has a file of its own."""
        try:
            await asyncio.to_thread(self._published.learn, known)
        except OSError as error:
            raise _unreleased(error) from error

    async def _last_published(self) -> Published | None:
        origins, rows = await self.parts.database.read(
            self.principal,
            lambda conn: (store.origins(conn, self.tenant), store.checkpoints(conn, self.tenant)),
        )
        # By the order of the origins: the clock may have been put back between two of them.
        return next((rows[o.origin] for o in reversed(origins) if o.origin in rows), None)

    async def _publish(self, state: _Open) -> str:
        """Make size and root durable, in the database and in the file; then release the note."""
        told = Checkpoint(state.origin.origin, state.tree.size, state.tree.root())
        tree_then = state.tree
        signed = sign_checkpoint(told, state.private)
        now = timestamp(self.parts.clock.now())
        published = Published(told.origin, told.size, told.root, signed.encode(), now)
        kept = await self.parts.database.write(
            self.principal, lambda conn: store.publish(conn, self.tenant, published)
        )
        if not kept:
            self._open = None
            raise NotSequencer(
                "cannot sign: a larger checkpoint of this log has been published",
                retry_after_seconds=1.0,
            )
        try:
            await asyncio.to_thread(self._published.write, published)
        except OSError as error:
            raise _unreleased(error) from error
        if self.parts.witnesses is not None and self.parts.witnesses.witnesses:
            # Only now: a witness is the outside, too.
            view = View(told.size, state.recorded, tree_then)
            prove = partial(self.consistency_path, view=view)
            try:
                cosigned = await self.parts.witnesses.cosigned(
                    signed, told.origin, told.size, prove
                )
            except WitnessAhead as error:
                raise await self._behind(told, error) from error
            published = replace(published, note=cosigned.encode())
            await self.parts.database.write(
                self.principal, lambda conn: store.publish(conn, self.tenant, published)
            )
        state.published = published
        self.parts.metrics.published()
        return published.note

    async def _behind(self, told: Checkpoint, ahead: WitnessAhead) -> HoldfastError:
        """What to say where a witness has seen more than we were about to tell.

        Another instance may have told it since. If nobody has, the log is from before that: the
        file keeps it, so that nothing is appended or given of this origin any more.
        """
        self._open = None
        rows = await self.parts.database.read(
            self.principal, lambda conn: store.checkpoints(conn, self.tenant)
        )
        newest = rows.get(told.origin)
        if newest is not None and newest.size >= ahead.size:
            return NotSequencer(
                "cannot sign: a larger checkpoint of this log has been published",
                retry_after_seconds=1.0,
            )
        now = timestamp(self.parts.clock.now())
        await self._learn(Published(told.origin, ahead.size, b"", "", now))
        return self._read_only(
            Damage(
                reason="lost-tail",
                detail=f"the log ends at {told.size}, and {ahead.detail}",
                first=told.size,
                last=ahead.size - 1,
            )
        )

    def read_head(self) -> Head | None:
        """What the head file says. Blocking."""
        return HeadFile(self._head.path).read()

    async def rotate(self) -> None:
        """Sign with a new key from here on. The old one signs a last time: so far it is valid."""
        await self.checkpoint()
        state = await self.open()
        async with self._signing:
            keys = await self.parts.database.read(
                self.principal, lambda conn: store.keys(conn, self.tenant)
            )
            size = state.published.size if state.published is not None else 0
            state.key = await self._new_key(state.origin, keys, size)
            state.private = load_key(self.parts.paths, self.tenant, state.key)
            state.published = None

    async def rebuilt(self) -> None:
        """Make the index anew from the log; nothing is appended meanwhile.

        Of a log that is not sound it is left as it is. Whatever breaks it off, the index says how
        far it has come: what asks it for more is refused, and the next opening goes on.
        """
        async with self._storing:
            await self.open()
            self._open = None
            async with self._opening:
                grown, wrong = await self._sound()
                if wrong is not None:
                    await self.met(wrong, walked=True)
                    raise wrong
                await self.rebuild(grown.size)
            await self.open()

    async def restart(self, reason: str, citing: Callable[[Restarted], Prepared]) -> None:
        """Continue from what is sound, under a new origin; its first entry is that of ``citing``.

        Commits behind the first one that is not sound are copied to a file, then forgotten.
        Opening looks at the log's end only: where that finds nothing, all of it is recomputed.
        ``Conflict`` if nothing is wrong with the log. Without its first entry the log stays
        read-only, and can be restarted again.
        """
        async with self._storing:
            await self.look_again()
            try:
                await self.open()
            except LedgerReadOnly:
                pass
            else:
                _, wrong = await self._sound()
                if wrong is None:
                    raise Conflict(
                        "cannot start a new origin: nothing is wrong with this log",
                        code="ledger-sound",
                        hint="every entry was recomputed; `holdfast ledger verify` looks at the "
                        "payloads, the index and what was published, too",
                    )
                self._open = None
                self._read_only(_damage_of(wrong))
            assert self.damage is not None
            made = await self._restart(self.damage, reason)
            self._begun = made.origin.origin
            try:
                # Nobody else's comes before it: whoever stores waits for us.
                [outcome] = await self._commit_held([Wanted.of([citing(made)], each=True)])
                if isinstance(outcome, Exception):
                    raise outcome
            except BaseException:
                self._open = None
                raise
            finally:
                self._begun = ""
        log.warning(
            "the ledger continues under a new origin",
            tenant=self.tenant,
            origin=made.origin.origin,
            size=made.size,
            reason=reason,
        )

    async def _restart(self, damage: Damage, reason: str) -> Restarted:
        origins, rows = await self.parts.database.read(
            self.principal,
            lambda conn: (store.origins(conn, self.tenant), store.checkpoints(conn, self.tenant)),
        )
        before = origins[-1]
        head = await asyncio.to_thread(self._damaged_head)
        said = await asyncio.to_thread(self._published.read)
        grown, _ = await self._sound()
        aside = await self._set_aside(grown.size)
        await self.parts.log.cut(self.principal, grown.size)
        await self.rebuild(grown.size)
        now = timestamp(self.parts.clock.now())
        origin = following_origin(before, grown.size, now, reason, said.values())
        await self.parts.database.write(
            self.principal, lambda conn: store.add_origin(conn, self.tenant, origin)
        )
        await self._tell_head(Head(grown.size, grown.root()))
        await self._forget_met()
        self.damage = None
        # Of an origin before, where that restart broke off before it told anybody anything.
        last = next((rows[o.origin] for o in reversed(origins) if o.origin in rows), None)
        return Restarted(before, origin, damage, grown.size, grown.root(), head, last, aside)

    def _damaged_head(self) -> Head | None:
        try:
            return self._head.read()
        except Corrupt:
            return None

    async def recomputed(self) -> Damage | None:
        """What is wrong with the bytes of the log, all of them; damage that is found stops it."""
        _, wrong = await self._sound(leading=False)
        if wrong is not None:
            await self.met(wrong, walked=True)
        return self._stands

    async def _sound(self, *, leading: bool = True) -> tuple[Tree, FrameDamaged | None]:
        """The tree of the commits in front of the first one that is not sound; what that one is."""
        walk = Walk(self.tenant)
        batch: list[StoredCommit] = []
        end = await self.parts.log.end(self.principal)

        async def step() -> None:
            commits = batch.copy()
            batch.clear()
            await asyncio.to_thread(walk.commits, commits)
            walk.rows.clear()
            walk.tiles.clear()
            if leading:
                await self._keep_leading()

        try:
            try:
                async for commit in self.commits(0, end):
                    batch.append(commit)
                    if len(batch) == READ_COMMITS:
                        await step()
            finally:
                await step()
        except FrameDamaged as error:
            log.warning("a commit is not sound", tenant=self.tenant, detail=error.detail)
            return walk.tree, error
        return walk.tree, None

    async def _keep_leading(self) -> None:
        """Renew what says that we append, where we have it: some things take longer than it."""
        now = self.parts.clock.now()
        if self._led is None or now < self._led + timedelta(seconds=LEAD_SECONDS / 4):
            return
        if not await self.parts.leases.lead(
            self.principal, LEADERSHIP, self.parts.holder, LEAD_SECONDS, now
        ):
            self._led = self._open = None
            raise NotSequencer(
                "cannot go on: another instance appends to this tenant's log",
                retry_after_seconds=1.0,
            )
        self._led = now

    async def _set_aside(self, position: int) -> str:
        """Copy the commits from ``position`` on into a file; its path, if there are any."""
        end = await self.parts.log.end(self.principal)
        if end <= position:
            return ""
        stamp = timestamp(self.parts.clock.now()).replace(":", "").replace(".", "")
        path = self.parts.heads / "aside" / f"{self.tenant}-{position}-{stamp}"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("xb") as file:
            while position < end:
                found = await self.parts.log.read(
                    self.principal, position, READ_COMMITS, READ_BYTES
                )
                if not found:
                    break
                for commit in found:
                    file.write(len(commit.frame).to_bytes(8, "big") + commit.frame)
                position = found[-1].after
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        # Its name, too: what it holds is about to be forgotten everywhere else.
        await asyncio.to_thread(flush_folder, path.parent)
        return str(path)

    # --- opening ------------------------------------------------------------------------------

    async def open(self) -> _Open:
        """The log, opened by us as the one who appends.

        ``NotSequencer`` if another instance does, ``LedgerReadOnly`` if the log is not what it was.
        """
        async with self._opening:
            now = self.parts.clock.now()
            if self._open is not None and now < self._open.until - timedelta(
                seconds=LEAD_SECONDS / 2
            ):
                return self._open
            if not await self.parts.leases.lead(
                self.principal, LEADERSHIP, self.parts.holder, LEAD_SECONDS, now
            ):
                self._led = self._open = None
                await self._told_elsewhere()
                raise NotSequencer(
                    "cannot append here: another instance appends to this tenant's log",
                    retry_after_seconds=1.0,
                )
            self._led = now
            until = now + timedelta(seconds=LEAD_SECONDS)
            if self._open is not None and await self._met_before() is None:
                self._open.until = until
                return self._open
            self._open = await self._opened(until)
            return self._open

    async def _told_elsewhere(self) -> None:
        """``LedgerReadOnly`` if damage was met in a log that another instance appends to."""
        before = await self._met_before()
        if before is not None:
            self._stands = self._stands or before
            raise self._read_only(before)
        if self._stands is not None:
            self._stands = self.damage = None
            self.parts.metrics.writable(self.tenant, writable=True)

    async def _opened(self, until: datetime) -> _Open:
        parts = self.parts
        await self._check_met()
        origin, key = await self._identity()
        private = load_key(parts.paths, self.tenant, key)
        fence = await parts.log.seize(self.principal, parts.holder)
        self.damage = None
        try:
            grown, recorded = await self._recovered()
            published = await self._check_said(grown, origin)
            if published is not None:
                await self._learn(published)
            if origin.generation and grown.size == origin.started_size:
                self._check_begun(origin)
            await self._tell_head(Head(grown.size, grown.root()))
        except LedgerReadOnly:
            raise
        except Corrupt as error:
            raise self._read_only(_damage_of(error)) from error
        self.parts.metrics.writable(self.tenant, writable=True)
        self.parts.metrics.sequencing(self.tenant, fence)
        return _Open(fence, grown, recorded, until, origin, key, private, published)

    def _check_begun(self, origin: Origin) -> None:
        """``LedgerReadOnly`` for an origin that never came to its first entry: without that, what
        came before it, and why it ended, is nowhere in the log."""
        if origin.origin != self._begun:
            raise self._read_only(
                Damage(
                    reason="restart-broke-off",
                    detail=f"{origin.origin} lacks the first entry, which cites what was before it",
                    first=origin.started_size,
                )
            )

    def _read_only(self, damage: Damage) -> LedgerReadOnly:
        first_time = self.damage is None
        self.damage = damage
        self.parts.metrics.writable(self.tenant, writable=False)
        if first_time:
            log.error(
                "the ledger is read-only",
                tenant=self.tenant,
                reason=damage.reason,
                detail=damage.detail,
                first=damage.first,
                last=damage.last,
            )
        return LedgerReadOnly(
            f"cannot append or sign: {damage.detail}",
            hint="`holdfast ledger verify` says what is sound; `holdfast ledger restart` continues "
            "from there under a new origin",
        )

    async def _identity(self) -> tuple[Origin, LogKey]:
        """The origin and the key in force; made where there are none yet."""
        tenant, parts = self.tenant, self.parts

        def unit(conn: Connection) -> tuple[list[Origin], list[LogKey]]:
            return store.origins(conn, tenant), store.keys(conn, tenant)

        origins, keys = await parts.database.read(self.principal, unit)
        now = timestamp(parts.clock.now())
        if not origins:
            origin = first_origin(parts.origin, tenant, now, parts.random)
            await parts.database.write(
                self.principal, lambda conn: store.add_origin(conn, tenant, origin)
            )
            origins = [origin]
        if not keys or keys[-1].origin != origins[-1].origin:
            key = await self._new_key(origins[-1], keys, origins[-1].started_size)
            return origins[-1], key
        return origins[-1], keys[-1]

    async def _new_key(self, origin: Origin, keys: Sequence[LogKey], size: int) -> LogKey:
        number = keys[-1].number + 1 if keys else 1
        path = self.parts.paths.key(self.tenant, number)
        private = await asyncio.to_thread(SigningKey.load_or_create, path, self.parts.random)
        now = timestamp(self.parts.clock.now())
        key = LogKey(number, origin.origin, private.public_bytes(), now, size, None)
        live = next((each.number for each in keys if each.valid_to is None), None)
        await self.parts.database.write(
            self.principal, lambda conn: store.add_key(conn, self.tenant, key, live)
        )
        return key

    async def _recovered(self) -> tuple[Tree, str]:
        """The tree of what is durable, the index brought up to it.

        An index that does not fit the log is made anew, once.
        """
        end = await self.parts.log.end(self.principal)
        state = await self._index_state()
        if state.size > end:
            raise self._read_only(
                Damage(
                    reason="lost-tail",
                    detail=f"the log ends at {end}, and the index knows of {state.size} entries",
                    first=end,
                    last=state.size - 1,
                )
            )
        try:
            grown = await self._caught_up(await self.tree_at(state.size), state.recorded, end)
        except Corrupt as error:
            if error.code != "index-damaged":
                raise
            log.warning("the index is made anew", tenant=self.tenant, reason=error.detail)
            whole, wrong = await self._sound()
            if wrong is not None:
                raise wrong from error
            grown = await self.rebuild(whole.size)
        return grown

    async def rebuild(self, end: int) -> tuple[Tree, str]:
        """Make the index anew from the first ``end`` entries of the log, which are sound."""
        await self.parts.database.write(
            self.principal, lambda conn: store.clear_index(conn, self.tenant)
        )
        return await self._caught_up(Tree(), "", end)

    async def _caught_up(self, grown: Tree, recorded: str, end: int) -> tuple[Tree, str]:
        if grown.size:
            frame = await self.frame_at(grown.size - 1)
            if frame.size == grown.size and frame.root != grown.root():
                raise Corrupt(
                    "cannot use the index: its tree is not the log's", code="index-damaged"
                )
        async for commit in self.commits(grown.size, end):
            frame = decode_frame(commit)
            growth = Growth(0, "", made_anew=True, since=grown.size)
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
            await self.parts.database.write(
                self.principal, partial(_grow, tenant=self.tenant, growth=growth)
            )
            await self._keep_leading()
        return grown, recorded

    async def _check_said(self, grown: Tree, origin: Origin) -> Published | None:
        """Hold the log against its head and against what was published; ``LedgerReadOnly``."""
        view = View(grown.size, "", grown)
        head = await asyncio.to_thread(self._head.read)
        said = await asyncio.to_thread(self._published.read)
        origins, rows = await self.parts.database.read(
            self.principal,
            lambda conn: (store.origins(conn, self.tenant), store.checkpoints(conn, self.tenant)),
        )
        for later in unknown_origins(said, origins):
            raise self._read_only(
                Damage(
                    reason="lost-tail",
                    detail=f"the log is older than {later.origin}, which was published with "
                    f"{later.size} entries",
                    first=min(grown.size, later.size),
                )
            )
        published = rows.get(origin.origin)
        claims = [("its head file", head.size, head.root)] if head is not None else []
        if published is not None:
            claims.append(("the last checkpoint", published.size, published.root))
        if origin.origin in said:
            outside = said[origin.origin]
            claims.append(("the last published checkpoint", outside.size, outside.root))
        for who, size, root in sorted(claims, key=lambda claim: claim[1]):
            if size > grown.size:
                raise self._read_only(
                    Damage(
                        reason="lost-tail",
                        detail=f"the log ends at {grown.size}, and {who} knows of {size} entries",
                        first=grown.size,
                        last=size - 1,
                    )
                )
            if root and await self.root_at(size, view) != root:
                raise self._read_only(
                    Damage(
                        reason="altered",
                        detail=f"the first {size} entries are not those that {who} speaks of",
                        first=0,
                        last=size - 1,
                    )
                )
        return published


def _damage_of(error: Corrupt) -> Damage:
    position = error.position if isinstance(error, FrameDamaged) else 0
    return Damage(reason="damaged", detail=error.detail, first=position)


def _unreleased(error: OSError) -> Unavailable:
    return Unavailable(
        "cannot release a checkpoint: its size could not be made durable", internal=str(error)
    )


KEY_DESTROYED = "key-destroyed"
"""The code of the failure to unseal what was erased."""


def partial_unit(
    tenant: str, level: int, first: int, after: int
) -> Callable[[Connection], list[tuple[int, bytes]]]:
    """A unit that reads the roots of tiles."""
    return lambda conn: store.tile_roots(conn, tenant, level, first, after)


def _grow(conn: Connection, *, tenant: str, growth: Growth) -> None:
    store.grow(conn, tenant, growth)
