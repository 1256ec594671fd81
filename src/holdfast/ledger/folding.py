"""Projections: what the log says, folded into states that can be listed as of any position.

A *fold* is two pure functions: which key an entry is about, and what that key's state becomes. The
slices whose events they are write the folds; this is what keeps their results. Every projection can
be thrown away: it is made of the log alone, and made anew it is the same.

**Made anew beside.** A rebuild folds the whole log into a generation of its own and lets it serve
in one small transaction at its end. Until then, and for ever if it dies, the generation before
serves. What a dead rebuild left is removed by the next one.

**Never beside the log.** Each step says in its own transaction which entries it folded, and only if
nobody folded them meanwhile; so several instances may keep one projection. If the fold's rules
change, or the log went on under a new origin after a loss, the projection is made anew by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.http.paging import decode_cursor, encode_cursor, page_size
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import folded, store
from holdfast.ledger.entries import entries_of
from holdfast.ledger.errors import ProjectionUnknown, SizeUnknown
from holdfast.ledger.folded import Change, Generation
from holdfast.ledger.frames import Stored, read_leaf
from holdfast.ledger.log.parts import LogParts
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.model import (
    Entry,
    Folded,
    FoldedPage,
    FoldProgress,
    ProjectionStatus,
)

log = get_logger("ledger")

State = dict[str, Any]
STEP_ENTRIES = 1000
"""Entries that matter to a projection, folded in one transaction."""
STEP_POSITIONS = 20_000
"""Entries looked at in one step, whether they matter or not."""
DROP_ROWS = 2000
ATTEMPTS = 5


class Fold(Protocol):
    """How entries become states. Pure: the same entries give the same states.

    ``rules`` is a number that grows whenever :meth:`step` or :meth:`key` changes its mind, so that
    what was folded before is folded anew. ``streams`` are the first segments of the streams that
    matter: other entries are not even unsealed.
    """

    name: str
    rules: int
    streams: frozenset[str]

    def key(self, entry: Entry) -> str | None:
        """What the entry is about; ``None`` if it does not matter. Erased entries come, too."""
        ...

    def step(self, state: State | None, entry: Entry) -> State:
        """The state of that key after the entry. Plain canonical data."""
        ...


def replay(fold: Fold, entries: Sequence[Entry]) -> dict[str, State]:
    """What the fold makes of these entries, with nothing kept: the meaning of a projection."""
    found: dict[str, State] = {}
    for entry in entries:
        key = fold.key(entry) if entry.stream.partition("/")[0] in fold.streams else None
        if key is not None:
            found[key] = fold.step(found.get(key), entry)
    return found


class Projections:
    """The projections of every tenant's log."""

    def __init__(
        self, parts: LogParts, reader_of: Callable[[Principal], LogReader], folds: Sequence[Fold]
    ) -> None:
        self._parts = parts
        self._reader_of = reader_of
        self._folds = {fold.name: fold for fold in folds}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    # --- reading ------------------------------------------------------------------------------

    async def all(self, principal: Principal) -> list[ProjectionStatus]:
        """Every projection, with the position that it reflects."""
        size, _ = await self._reader_of(principal).extent()
        known = await self._generations(principal)
        found = []
        for name in sorted(self._folds):
            serving = _serving(known, name)
            found.append(
                ProjectionStatus(
                    name=name,
                    position=serving.position if serving else 0,
                    size=size,
                    rules=serving.rules if serving else self._folds[name].rules,
                    generation=serving.generation if serving else 0,
                    started_at=serving.started_at if serving else "",
                )
            )
        return found

    async def read(
        self,
        principal: Principal,
        name: str,
        *,
        position: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FoldedPage:
        """A page of states by key, as they were when the log had ``position`` entries.

        Without ``position``: as they are now, up to the log's last entry; the answer says which
        that is, and so does the cursor for the pages that follow.
        """
        fold = self._fold(name)
        limit = page_size(limit)
        kind, after = f"ledger.projection:{name}", ""
        if cursor is not None:
            begun, after = decode_cursor(kind, cursor, int, str)
            position = int(begun)
        size, _ = await self._reader_of(principal).extent()
        wanted = size if position is None else position
        if not 0 <= wanted <= size:
            raise SizeUnknown(f"cannot list as of {wanted}: the log has {size} entries")
        rows = await self._rows(principal, fold, wanted, str(after), limit + 1)
        items = [
            Folded(key=key, since=since, state=msgspec.json.decode(state))
            for key, since, state in rows[:limit]
        ]
        more = len(rows) > limit
        return FoldedPage(
            items=items,
            next=encode_cursor(kind, [wanted, items[-1].key]) if more else None,
            position=wanted,
        )

    async def _rows(
        self, principal: Principal, fold: Fold, size: int, after: str, limit: int
    ) -> list[tuple[str, int, str]]:
        tenant = principal.tenant
        for _ in range(ATTEMPTS):
            made = await self._caught_up(principal, fold, size)

            def unit(
                conn: Connection, made: Generation = made
            ) -> list[tuple[str, int, str]] | None:
                serving = _serving(folded.generations(conn, tenant), fold.name)
                if serving is None or serving.generation != made.generation:
                    return None  # a rebuild took over just now, and may be removing these rows
                return folded.at(conn, tenant, made, size, after, limit)

            found = await self._parts.database.read(principal, unit)
            if found is not None:
                return found
        raise _moved(fold.name)

    # --- keeping up ---------------------------------------------------------------------------

    async def keep_up(self, pause_seconds: float) -> None:
        """Fold what came, over and over, so that whoever asks has little to wait for."""
        while True:
            for tenant in await self._parts.database.tenants():
                for fold in self._folds.values():
                    principal = service("ledger", tenant)
                    try:
                        size, _ = await self._reader_of(principal).extent()
                        await self._caught_up(principal, fold, size)
                    except HoldfastError as error:
                        log.warning(
                            "a projection stands still",
                            tenant=tenant,
                            projection=fold.name,
                            detail=error.detail,
                        )
            await self._parts.clock.sleep(pause_seconds)

    async def rebuild(self, principal: Principal, name: str) -> AsyncIterator[FoldProgress]:
        """Make a projection anew from the log, telling how far it is.

        The last line says that it serves. Whoever stops listening stops it: what served before
        still does. ``Conflict`` while it is being rebuilt already.
        """
        fold = self._fold(name)
        lock = self._lock(principal, f"rebuild {name}")
        if lock.locked():
            raise Conflict(
                f"cannot rebuild {name}: it is being rebuilt", code="projection-being-rebuilt"
            )
        async with lock:
            made = await self._begun(principal, fold, serving=False)
            size, _ = await self._reader_of(principal).extent()
            yield FoldProgress(folded=0, size=size)
            while made.position < size:
                made = await self._step(principal, fold, made, size)
                yield FoldProgress(folded=made.position, size=size)
            tenant = principal.tenant
            if not await self._parts.database.write(
                principal, lambda conn: folded.serve(conn, tenant, made)
            ):
                raise _moved(name)
            log.info("a projection was rebuilt", tenant=tenant, projection=name, position=size)
            yield FoldProgress(folded=size, size=size, serving=True)
            await self._tidy(principal, name)

    async def _caught_up(self, principal: Principal, fold: Fold, size: int) -> Generation:
        """The generation that serves, once it reflects ``size`` entries at least."""
        async with self._lock(principal, fold.name):
            origin = await self._origin(principal)
            made = _serving(await self._generations(principal), fold.name)
            if made is not None and (made.rules, made.origin) != (fold.rules, origin):
                # It was made of other entries, or by other rules: what it says is not believed.
                async for _ in self.rebuild(principal, fold.name):
                    pass
                made = _serving(await self._generations(principal), fold.name)
            if made is None:
                made = await self._begun(principal, fold, serving=True)
            while made.position < size:
                made = await self._step(principal, fold, made, size)
            return made

    async def _begun(self, principal: Principal, fold: Fold, *, serving: bool) -> Generation:
        """A new generation, empty."""
        if not serving:
            await self._tidy(principal, fold.name)
        origin = await self._origin(principal)
        known = [g for g in await self._generations(principal) if g.name == fold.name]
        made = Generation(
            name=fold.name,
            generation=max((g.generation for g in known), default=0) + 1,
            serving=serving,
            rules=fold.rules,
            origin=origin,
            position=0,
            started_at=timestamp(self._parts.clock.now()),
        )
        tenant = principal.tenant
        if not await self._parts.database.write(
            principal, lambda conn: folded.begin(conn, tenant, made)
        ):
            raise _moved(fold.name)
        return made

    async def _step(
        self, principal: Principal, fold: Fold, made: Generation, size: int
    ) -> Generation:
        """Fold some more entries, at most up to ``size``, in one transaction."""
        entries, after = await self._entries(principal, fold, made.position, size)
        keyed = [(key, entry) for entry in entries if (key := fold.key(entry)) is not None]
        tenant = principal.tenant

        def unit(conn: Connection) -> bool:
            if not folded.go_on(conn, tenant, made, after):
                return False
            names = sorted({key for key, _ in keyed})
            before = folded.states(conn, tenant, made, names)
            folded.change(conn, tenant, made, *_folded(fold, keyed, before))
            return True

        if await self._parts.database.write(principal, unit, size_bytes=400 * len(keyed)):
            return replace(made, position=after)
        found = [
            g
            for g in await self._generations(principal)
            if replace(g, position=0) == replace(made, position=0)
        ]
        if not found or found[0].position <= made.position:
            raise _moved(fold.name)
        return found[0]

    async def _entries(
        self, principal: Principal, fold: Fold, first: int, size: int
    ) -> tuple[list[Entry], int]:
        """The next entries that matter, and the position after the last that was looked at."""
        reader = self._reader_of(principal)
        found: list[tuple[int, Stored]] = []
        end = min(size, first + STEP_POSITIONS)
        async for frame in reader.frames(first, end):
            for position, stored in frame.between(first, end):
                if read_leaf(stored.leaf).stream.partition("/")[0] in fold.streams:
                    found.append((position, stored))
                    if len(found) == STEP_ENTRIES:
                        return await entries_of(reader.parts, found), position + 1
        return await entries_of(reader.parts, found), end

    async def _tidy(self, principal: Principal, name: str) -> None:
        """Remove every generation but the one that serves."""
        tenant = principal.tenant
        for each in await self._generations(principal):
            if each.name != name or each.serving:
                continue
            more = True
            while more:
                more = await self._parts.database.write(
                    principal,
                    lambda conn, each=each: folded.drop_step(  # type: ignore[misc]
                        conn, tenant, name, each.generation, DROP_ROWS
                    ),
                )

    async def _generations(self, principal: Principal) -> list[Generation]:
        return await self._parts.database.read(
            principal, lambda conn: folded.generations(conn, principal.tenant)
        )

    async def _origin(self, principal: Principal) -> int:
        """The number of the log's origin; 0 before its first entry."""
        known = await self._parts.database.read(
            principal, lambda conn: store.origins(conn, principal.tenant)
        )
        return known[-1].generation if known else 0

    def _fold(self, name: str) -> Fold:
        found = self._folds.get(name)
        if found is None:
            raise ProjectionUnknown(
                f"cannot find the projection {name[:80]!r}",
                hint=f"there are {', '.join(sorted(self._folds))}",
            )
        return found

    def _lock(self, principal: Principal, name: str) -> asyncio.Lock:
        return self._locks.setdefault((principal.tenant, name), asyncio.Lock())


def _serving(known: Sequence[Generation], name: str) -> Generation | None:
    return next((each for each in known if each.name == name and each.serving), None)


def _moved(name: str) -> Conflict:
    return Conflict(
        f"cannot go on with the projection {name}: another instance is making it",
        code="projection-moved",
    )


def _folded(
    fold: Fold, keyed: Sequence[tuple[str, Entry]], before: dict[str, tuple[int, str]]
) -> tuple[dict[str, int], list[Change]]:
    """Which present states end and when, and what follows them."""
    ended: dict[str, int] = {}
    now: dict[str, tuple[int, str]] = {}
    changes: list[Change] = []
    for key, entry in keyed:
        since, text = now.get(key) or before.get(key) or (0, "")
        state = msgspec.json.decode(text) if text else None
        made = canonical(fold.step(state, entry)).decode()
        if made == text:
            continue
        size = entry.position + 1
        if key in now:
            changes.append(Change(key, since, size, text))
        elif text:
            ended[key] = size
        now[key] = (size, made)
    changes += [Change(key, since, None, text) for key, (since, text) in now.items()]
    return ended, changes
