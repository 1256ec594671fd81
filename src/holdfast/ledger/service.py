"""The ledger: append, read, follow, prove; one log a tenant."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.canonical import INTEGER_MAX
from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Corrupt,
    Denied,
    HoldfastError,
    Invalid,
)
from holdfast.kernel.http.paging import Page, decode_cursor, encode_cursor, page_size, text_position
from holdfast.kernel.ids import EventId, NewId, TenantId
from holdfast.kernel.moments import check_come
from holdfast.kernel.outbox import (
    STREAM_NAMES,
    Event,
)
from holdfast.kernel.principal import Principal, PrincipalKind, service
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.ledger import notes, store, tree
from holdfast.ledger.entries import entries_of, payloads_of
from holdfast.ledger.errors import (
    REBUILD,
    EntryUnknown,
    IndexIncomplete,
    LedgerReadOnly,
    NotSequencer,
    SizeUnknown,
)
from holdfast.ledger.folding import Fold, Projections
from holdfast.ledger.frames import Frame, Stored, read_leaf
from holdfast.ledger.log.parts import LogParts
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.log.restarting import Restarted, restart
from holdfast.ledger.log.rotating import rotate
from holdfast.ledger.log.tenant_log import TenantLog
from holdfast.ledger.looking import look_forever
from holdfast.ledger.metrics import LedgerMetrics
from holdfast.ledger.model import (
    CLOCK_ACCEPTED,
    CLOCK_STREAM,
    Append,
    Appended,
    Consistency,
    Damage,
    Entry,
    FoldedPage,
    KeyInfo,
    LedgerStatus,
    Moment,
    Prepared,
    Proof,
    Relay,
    StreamInfo,
    Trust,
    stream_name,
)
from holdfast.ledger.plan import Wanted
from holdfast.ledger.preparing import Preparer, check_ids
from holdfast.ledger.signer import verifier_of
from holdfast.ledger.store import LogKey

log = get_logger("ledger")

PROOFS_MAX = 100
"""Of events at once: their ids stand in an address."""
FOLLOW_SECONDS = 30.0
LIST = "ledger.entries"
STREAMS = "ledger.streams"


class LedgerService:
    """What others hold. Every method takes the principal whose tenant's log it is about."""

    def __init__(self, parts: LogParts, new_id: NewId, folds: Sequence[Fold] = ()) -> None:
        self._parts = parts
        self.projections = Projections(parts, self._reader_of, folds)
        self._new_id = new_id
        self._preparer = Preparer(parts, new_id)
        self._logs: dict[TenantId, TenantLog] = {}

    @property
    def database(self) -> Database:
        """Where the index is."""
        return self._parts.database

    @property
    def metrics(self) -> LedgerMetrics:
        """What is counted."""
        return self._parts.metrics

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        return self._parts.clock

    def log_of(self, principal: Principal) -> TenantLog:
        """The log of the principal's tenant."""
        found = self._logs.get(principal.tenant)
        if found is None:
            found = self._logs[principal.tenant] = TenantLog(self._parts, principal.tenant)
        return found

    def _reader_of(self, principal: Principal) -> LogReader:
        return self.log_of(principal).reader

    async def close(self) -> None:
        """Finish what waits."""
        for each in list(self._logs.values()):
            await each.close()
        self._parts.sealing.shutdown()

    async def open_all(self) -> None:
        """Open every tenant's log, so that what is wrong with one is said at the start."""
        for tenant in await self._parts.database.tenants():
            try:
                await self.log_of(service("ledger", tenant)).open()
            except HoldfastError as error:
                if not isinstance(error, LedgerReadOnly | NotSequencer):
                    log.warning("a log cannot be opened", tenant=tenant, detail=error.detail)

    async def publish_forever(self, pause_seconds: float) -> None:
        """Sign a checkpoint of every log that has grown, over and over."""
        while True:
            await self._parts.clock.sleep(pause_seconds)
            for each in list(self._logs.values()):
                each.sequencer.look_at_clock()
                try:
                    await each.checkpoint()
                except HoldfastError as error:
                    log.warning("a checkpoint failed", tenant=each.tenant, detail=error.detail)

    async def look_forever(self, pause_seconds: float) -> None:
        """Look over every log, over and over, slowly: damage is noticed though nobody reads."""
        await look_forever(
            lambda: list(self._logs.values()),
            self._parts.clock,
            self._parts.metrics,
            pause_seconds,
        )

    async def check(self) -> str | None:
        """Readiness: degraded while a log is read-only, or no checkpoint of it can be given."""
        await self._parts.database.check()
        bad = any(each.damage or each.disputed for each in self._logs.values())
        return "degraded" if bad else None

    async def check_clock(self) -> str | None:
        """Readiness: degraded while nothing is appended to a log because of the clock."""
        for each in list(self._logs.values()):
            if await each.sequencer.stopped() is not None:
                return "degraded"
        return None

    # --- append -------------------------------------------------------------------------------

    async def append(self, principal: Principal, append: Append) -> Appended:
        """Append events together or not at all; they are durable when this returns.

        ``Conflict`` when a stream is not at the expected version, or an id was used with other
        content, or whoever an event is about was erased. The same ids with the same content again
        are answered as the first time.
        """
        return await (await self.begin(principal, append))

    async def begin(self, principal: Principal, append: Append) -> asyncio.Future[Appended]:
        """:meth:`append`, put in line: what is begun before this is called is appended first."""
        tenant_log = self.log_of(principal)
        wanted = await self._preparer.wanted(principal, append, tenant_log.foresee)
        if isinstance(wanted, HoldfastError):
            refused: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            refused.set_exception(wanted)
            return refused
        return tenant_log.begin(wanted)

    async def relay(self, principal: Principal, relay: Relay) -> Appended:
        """Append events of a role's outbox in their order; those that are there are passed over.

        Only a role does so, for itself: it alone says who did what in its own streams.
        """
        if principal.kind is not PrincipalKind.SERVICE:
            raise Denied("cannot relay events: only a role does", code="relay-not-for-you")
        prepared = await self._preparer.relayed(principal, relay.events)
        return await self.append_prepared(principal, prepared)

    async def append_prepared(self, principal: Principal, events: Sequence[Prepared]) -> Appended:
        """:meth:`relay` for events that are sealed already, as the outbox has them."""
        if not events:
            return Appended(events=[])
        check_ids(events)
        return await self.log_of(principal).begin(Wanted.of(events, each=True))

    # --- read ---------------------------------------------------------------------------------

    async def read(
        self,
        principal: Principal,
        *,
        stream: str | None = None,
        first: int = 0,
        limit: int = 100,
        as_of: datetime | None = None,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """Entries in their order: of the log from position ``first``, of a stream from version
        ``first``. With ``as_of`` those that were recorded by then, a moment that has come.
        Reading costs what is read."""
        limit = page_size(limit)
        if first < 0:
            raise Invalid("cannot read: a position is not negative")
        kind = f"{LIST}:{stream or ''}"
        if cursor is not None:
            first = int(decode_cursor(kind, cursor, int)[0])
            if first < 0:
                raise Invalid(
                    "cannot go on with the list: the cursor names no position in it",
                    code="cursor-invalid",
                )
        reader = self._reader_of(principal)
        end = await self._extent_at(reader, as_of)
        if stream is None:
            found = await self._range(reader, first, min(first + limit, end))
            following = first + len(found)
            more = following < end
        else:
            found, more = await self._stream(reader, stream, max(first, 1), limit, end)
            following = found[-1].version + 1 if found else first
        return Page(items=found, next=encode_cursor(kind, [following]) if more else None)

    async def _range(self, reader: LogReader, first: int, after: int) -> list[Entry]:
        found: list[tuple[int, Stored]] = []
        async for frame in reader.frames(first, after):
            found += frame.between(first, after)
        return await entries_of(reader.parts, found)

    async def _stream(
        self, reader: LogReader, stream: str, first: int, limit: int, end: int
    ) -> tuple[list[Entry], bool]:
        if not stream_name(stream):
            raise Invalid(
                f"cannot read the stream {stream[:80]!r}: that is no name", hint=STREAM_NAMES
            )
        tenant = reader.parts.tenant
        first = min(first, INTEGER_MAX)  # no stream comes to that, and the databases count so far

        def unit(conn: Connection) -> tuple[dict[str, int], list[tuple[int, int]]]:
            store.check_whole(conn, tenant, end)
            return (
                store.find_streams(conn, tenant, [stream]),
                store.find_versions(conn, tenant, stream, first, limit + 1),
            )

        newest, versions = await reader.parts.read(unit)
        expected = range(first, min(first + limit, newest.get(stream, 0)) + 1)
        if [version for version, _ in versions] != list(expected)[: limit + 1]:
            raise Corrupt(
                f"cannot read the stream {stream}: versions are missing in the index",
                code="index-damaged",
                hint="`holdfast ledger rebuild` makes the index anew from the log",
            )
        wanted = [(version, position) for version, position in versions if position < end]
        found: list[tuple[int, Stored]] = []
        frame: Frame | None = None
        for version, position in wanted[:limit]:
            if frame is None or not frame.first <= position < frame.size:
                frame = await reader.frame_at(position)
            stored = frame.entries[position - frame.first]
            leaf = read_leaf(stored.leaf)
            if (leaf.stream, leaf.version) != (stream, version):
                raise Corrupt(
                    f"cannot read the stream {stream}: the index is damaged",
                    code="index-damaged",
                    hint=REBUILD,
                )
            found.append((position, stored))
        return await entries_of(reader.parts, found), len(wanted) > limit

    async def moment(
        self, principal: Principal, as_of: datetime | None = None, position: int | None = None
    ) -> Moment:
        """The size that the log had at a time, or has now; or ``position``, if it has come to it.

        ``Invalid`` for both a time and a position, a time that has not come, or a size that is not
        there yet.
        """
        if as_of is not None and position is not None:
            raise Invalid("cannot tell the moment: a time and a position are two")
        reader = self._reader_of(principal)
        end = await self._extent_at(reader, as_of)
        if position is not None:
            if not 0 <= position <= end:
                raise SizeUnknown(f"cannot tell the moment: the log has {end} entries")
            return Moment(position=position)
        return Moment(position=end, as_of=timestamp(as_of) if as_of else None)

    async def projected(
        self,
        principal: Principal,
        name: str,
        *,
        position: int | None = None,
        as_of: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FoldedPage:
        """See :meth:`Projections.read`; ``as_of`` is the position that the log had then."""
        if as_of is not None:
            position = (await self.moment(principal, as_of, position)).position
        return await self.projections.read(
            principal, name, position=position, cursor=cursor, limit=limit
        )

    async def _extent_at(self, reader: LogReader, as_of: datetime | None) -> int:
        """How many entries there are, or were at a moment."""
        end, recorded = await reader.extent()
        if as_of is None:
            return end
        check_come(as_of, self._parts.clock.now(), recorded)
        return end if timestamp(as_of) >= recorded else await self._end_at(reader, end, as_of)

    async def _end_at(self, reader: LogReader, size: int, moment: datetime) -> int:
        """The size of the log at a moment: how many entries had been recorded by then."""
        wanted = timestamp(moment)
        low, high = 0, size
        while low < high:
            frame = await reader.frame_at((low + high) // 2)
            times = [read_leaf(entry.leaf).recorded for entry in frame.entries]
            if times[0] > wanted:
                high = frame.first
            elif times[-1] <= wanted:
                low = frame.size
            else:
                return frame.first + bisect_right(times, wanted)
        return low

    async def entry(self, principal: Principal, position: int) -> Entry:
        """The entry at a position; :class:`EntryUnknown` if there is none."""
        reader = self._reader_of(principal)
        size, _ = await reader.extent()
        if not 0 <= position < size:
            raise EntryUnknown(f"cannot find the entry {position}: the log has {size}")
        return (await self._range(reader, position, position + 1))[0]

    async def streams(
        self, principal: Principal, *, prefix: str = "", cursor: str | None = None, limit: int = 100
    ) -> Page[StreamInfo]:
        """Streams by name."""
        limit = page_size(limit)
        after = text_position(STREAMS, cursor)
        tenant = principal.tenant
        size, _ = await self._reader_of(principal).extent()

        def unit(conn: Connection) -> list[tuple[str, int, int]]:
            store.check_whole(conn, tenant, size)
            return store.list_streams(conn, tenant, prefix, after, limit + 1)

        found = await self._parts.database.read(principal, unit)
        items = [StreamInfo(stream=s, version=v, position=p) for s, v, p in found[:limit]]
        more = len(found) > limit
        return Page(items=items, next=encode_cursor(STREAMS, [items[-1].stream]) if more else None)

    async def follow(
        self,
        principal: Principal,
        *,
        first: int | None = None,
        stream: str | None = None,
        seconds: float = FOLLOW_SECONDS,
    ) -> AsyncIterator[Entry]:
        """Entries from position ``first`` on (``None``: from now on), then new ones as they come.

        Never ends by itself. ``seconds`` bounds each wait, not the subscription.
        """
        tenant_log = self.log_of(principal)
        reader = tenant_log.reader
        position = (await reader.extent())[0] if first is None else first
        while True:
            size, _ = await reader.extent()
            while position < size:
                found = await self._range(reader, position, min(position + 256, size))
                position += len(found)
                for entry in found:
                    if stream is None or entry.stream == stream:
                        yield entry
            await tenant_log.wait_grown(position, seconds)

    # --- prove --------------------------------------------------------------------------------

    async def status(self, principal: Principal) -> LedgerStatus:
        """How the log stands."""
        tenant_log = self.log_of(principal)
        writable = True
        try:
            await tenant_log.open()
        except (LedgerReadOnly, NotSequencer):
            writable = False
        size, recorded = await tenant_log.reader.extent()
        stopped = await tenant_log.sequencer.stopped() if writable else None
        try:
            root = (await tenant_log.reader.view()).tree.root().hex()
        except (Corrupt, IndexIncomplete):
            root = ""  # what is damaged is told below
        origins, rows = await tenant_log.published.in_database()
        origin = origins[-1].origin if origins else ""
        return LedgerStatus(
            size=size,
            root=root,
            origin=origin,
            recorded=recorded,
            writable=writable and stopped is None,
            published_size=rows[origin].size if origin in rows else 0,
            damage=tenant_log.damage,
            withheld=tenant_log.disputed.said if tenant_log.disputed else "",
            stopped=stopped.said if stopped else "",
        )

    async def checkpoint(self, principal: Principal) -> str:
        """The newest checkpoint as a signed note; signed now, if the log has grown since."""
        return await self.log_of(principal).checkpoint()

    async def inclusion(
        self, principal: Principal, position: int, size: int | None = None
    ) -> Proof:
        """The entry, what opens it, and the proof that it is in the tree of ``size`` entries.

        Without ``size`` the tree is that of the newest checkpoint, which comes along.
        """
        tenant_log = self.log_of(principal)
        reader = tenant_log.reader
        note = await tenant_log.checkpoint() if size is None else ""
        view = await reader.view()
        if size is None:
            size = notes.parse_checkpoint(notes.parse_note(note).text).size
        if not 0 < size <= view.size:
            raise SizeUnknown(f"cannot prove: the log has {view.size} entries, not {size}")
        if not 0 <= position < size:
            raise EntryUnknown(f"cannot find the entry {position} among {size}")
        ranges = tree.inclusion(position, size)
        hashes = await reader.hashes(tree.tiles_for([*ranges, (0, size)]), view)
        frame = await reader.frame_at(position)
        stored = frame.entries[position - frame.first]
        leaf = read_leaf(stored.leaf)
        ((salt, payload, _),) = await payloads_of(reader.parts, [(leaf, stored)])
        return Proof(
            position=position,
            leaf=stored.leaf.decode(),
            salt=salt.hex(),
            payload=None if payload is None else payload.decode(),
            size=size,
            root=tree.node((0, size), hashes).hex(),
            path=[tree.node(each, hashes).hex() for each in ranges],
            checkpoint=note,
        )

    async def event_proof(self, principal: Principal, event: str) -> Proof:
        """:meth:`inclusion` of an event by its id, in the tree of the newest checkpoint."""
        (proof,) = await self.event_proofs(principal, [event])
        return proof

    async def event_proofs(self, principal: Principal, events: Sequence[str]) -> list[Proof]:
        """:meth:`event_proof` of each, all in the tree of the same checkpoint.

        :class:`EntryUnknown` while the log, or its newest checkpoint, does not hold one of them.
        """
        if not 0 < len(events) <= PROOFS_MAX:
            raise Invalid(f"cannot prove {len(events)} events at once: 1 to {PROOFS_MAX} are asked")
        tenant = principal.tenant
        size, _ = await self._reader_of(principal).extent()

        def unit(conn: Connection) -> dict[str, int]:
            store.check_whole(conn, tenant, size)
            return store.find_events(conn, tenant, list(events))

        found = await self._parts.database.read(principal, unit)
        for event in events:
            if event not in found:
                raise EntryUnknown(f"cannot find the event {event[:80]}: the log does not hold it")
        note = await self.log_of(principal).checkpoint()
        size = notes.parse_checkpoint(notes.parse_note(note).text).size
        if max(found[event] for event in events) >= size:
            # The index is committed a moment before whoever signs has seen it.
            raise EntryUnknown("cannot prove the event: no checkpoint holds it yet")
        proofs = []
        for event in events:
            proof = await self.inclusion(principal, found[event], size)
            if read_leaf(proof.leaf.encode()).id != event:
                raise Corrupt("cannot find the event: the index is damaged", code="index-damaged")
            proofs.append(msgspec.structs.replace(proof, checkpoint=note))
        return proofs

    async def consistency(
        self, principal: Principal, first: int, second: int | None = None
    ) -> Consistency:
        """The proof that the tree of ``second`` entries (or all) extends that of ``first``."""
        reader = self._reader_of(principal)
        view = await reader.view()
        size = view.size if second is None else second
        if not 0 <= first <= size:
            raise SizeUnknown(f"cannot prove: {first} is not at most {size}")
        if size > view.size:
            raise SizeUnknown(f"cannot prove: the log has {view.size} entries, not {size}")
        ranges = tree.consistency(first, size)
        roots = [(0, first), (0, size)]
        hashes = await reader.hashes(tree.tiles_for([*ranges, *roots]), view)
        return Consistency(
            first=first,
            second=size,
            first_root=tree.node((0, first), hashes).hex(),
            second_root=tree.node((0, size), hashes).hex(),
            path=[tree.node(each, hashes).hex() for each in ranges],
        )

    async def tile(self, principal: Principal, path: str) -> bytes:
        """A tile by its C2SP path (after ``tile/``): hashes, or with ``entries`` the leaves."""
        wanted = notes.parse_tile_path(path)
        if wanted is None:
            raise EntryUnknown(f"cannot find the tile {path[:80]!r}")
        level, number, width = wanted
        reader = self._reader_of(principal)
        view = await reader.view()
        height = 0 if level == "entries" else int(level)
        there = view.size >> (tree.TILE_HEIGHT * height)
        if number * tree.TILE_WIDTH + width > there:
            raise EntryUnknown(f"cannot find the tile {path}: the log is not that long")
        if level == "entries":
            first = number * tree.TILE_WIDTH
            return await self._bundle(reader, first, first + width)
        hashes = await reader.hashes({(height, number)}, view)
        return b"".join(hashes(height, number)[:width])

    async def _bundle(self, reader: LogReader, first: int, after: int) -> bytes:
        found: list[bytes] = []
        async for frame in reader.frames(first, after):
            low, high = max(first, frame.first), min(after, frame.size)
            for position in range(low, high):
                leaf = frame.entries[position - frame.first].leaf
                found.append(len(leaf).to_bytes(2, "big") + leaf)
        return b"".join(found)

    async def trust(self, principal: Principal) -> Trust:
        """What a verifier elsewhere needs to know: origins and keys, with their sizes."""
        tenant_log = self.log_of(principal)
        await tenant_log.checkpoint()
        tenant = principal.tenant
        origins, _ = await tenant_log.published.in_database()
        keys = await self._parts.database.read(principal, lambda conn: store.keys(conn, tenant))
        return Trust(
            format=1,
            tenant=tenant,
            origins=[each.origin for each in origins],
            keys=[
                KeyInfo(
                    key=verifier_of(key).text(),
                    origin=key.origin,
                    valid_from=key.valid_from,
                    valid_to=key.valid_to,
                )
                for key in keys
            ],
            witnesses=[
                each.key.text()
                for each in (self._parts.witnesses.witnesses if self._parts.witnesses else ())
            ],
        )

    # --- manage -------------------------------------------------------------------------------

    async def rotate(self, principal: Principal) -> Trust:
        """Sign with a new key from here on; the old one stays valid up to the size it signed.

        The log itself tells of it: in the first entry that only the new key can vouch for.
        """
        await rotate(self.log_of(principal), partial(self._rotated, principal))
        return await self.trust(principal)

    def _rotated(self, principal: Principal, before: LogKey, key: LogKey) -> Prepared:
        """What is said of a key that was replaced: public halves only."""
        event = Event(
            id=EventId(self._new_id()),
            stream="ledger/keys",
            type="ledger.key-rotated",
            time=self._parts.clock.now(),
            payload={
                "key": verifier_of(key).text(),
                "before": verifier_of(before).text(),
                "origin": key.origin,
                "valid_from": key.valid_from,
            },
            subject=principal.subject,
            request_id=request_id(),
        )
        return self._preparer.made(principal, event, timestamp(event.time))

    async def rebuild(self, principal: Principal) -> LedgerStatus:
        """Make the index anew from the log."""
        await self.log_of(principal).rebuilt()
        return await self.status(principal)

    async def restart(self, principal: Principal, reason: str) -> LedgerStatus:
        """Continue a log that lost something under a new origin, from what is sound.

        ``Conflict`` if nothing is wrong with it. What is cut off is kept in a file.
        """
        if not reason.strip() or len(reason) > 1000:
            raise Invalid("cannot start a new origin: a reason of 1 to 1000 characters is needed")
        citing = partial(self._citing, principal)
        await restart(self.log_of(principal), reason, citing)
        return await self.status(principal)

    async def accept_clock(self, principal: Principal, reason: str) -> LedgerStatus:
        """Let appends go on though the clock is over an hour behind the last entry, on the record.

        Times of entries never step back: each gets that of the last one until the clock has come
        there. ``Conflict`` if the clock stops nothing.
        """
        if not reason.strip() or len(reason) > 1000:
            raise Invalid("cannot accept the clock: a reason of 1 to 1000 characters is needed")
        accepted = partial(self._clock_accepted, principal, reason)
        await self.log_of(principal).sequencer.accept_clock(accepted)
        return await self.status(principal)

    def _clock_accepted(
        self, principal: Principal, reason: str, recorded: str, behind_seconds: float
    ) -> Prepared:
        now = self._parts.clock.now()
        event = Event(
            id=EventId(self._new_id()),
            stream=CLOCK_STREAM,
            type=CLOCK_ACCEPTED,
            time=now,
            payload={
                "reason": reason,
                "clock": timestamp(now),
                "last": recorded,
                "behind_seconds": int(behind_seconds),
            },
            subject=principal.subject,
            request_id=request_id(),
        )
        return self._preparer.made(principal, event, timestamp(event.time))

    async def damage(self, principal: Principal) -> Damage | None:
        """What is wrong with the bytes of the log, by recomputing them: for whoever copies them."""
        return await self.log_of(principal).soundness.recomputed()

    def _citing(self, principal: Principal, made: Restarted) -> Prepared:
        """The first entry of a new origin: what was before it, and why it ended."""
        event = Event(
            id=EventId(self._new_id()),
            stream="ledger/origins",
            type="ledger.restarted",
            time=self._parts.clock.now(),
            payload=made.told(),
            subject=principal.subject,
            request_id=request_id(),
        )
        return self._preparer.made(principal, event, timestamp(event.time))
