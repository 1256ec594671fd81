"""Ad-hoc SQL over records, events, runs and tasks, as they were at any moment.

A moment is a size of the ledger. Which publication of each profile there was, which runs had ended
and how tasks stood is folded from the log's entries up to it; events are those entries. So
everything a query sees is one moment, and equal to a replay of the log up to it. Where a time was
given, runs, tasks and events are those of the size that the ledger had then; the records are what
was published by then, as in every list and export of that time, for the log hears of it after.

The tables are gathered here, for one tenant and only those that the SQL may speak of; the SQL runs
in a process of its own that holds nothing else (:mod:`holdfast.reports.sandbox`). That it ran is an
event, durable before anything of the answer goes out.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Corrupt, Internal, Invalid, NotFound, TooLarge
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.reads import ReadLog
from holdfast.reports.ports import Log, Projections, QueryChildren
from holdfast.reports.query import (
    SQL_BYTES_MAX,
    TABLES,
    ChildAnswer,
    ChildTable,
    Query,
    QueryFormat,
    QueryJob,
    QueryResult,
    TableUsed,
    identifier,
    mentioned,
)
from holdfast.reports.sandbox import LAYOUTS, frame
from holdfast.reports.turns import Turns

PAGE = 1000
NEEDED = {
    "records": Permission.RECORDS_READ,
    "events": Permission.LEDGER_READ,
    "runs": Permission.RUNS_READ,
    "tasks": Permission.TASKS_READ,
}


@dataclass(frozen=True, slots=True)
class QuerySettings:
    """Bounds on one query, and on how many run or wait at once."""

    seconds: float = 30.0
    memory_mb: int = 1024
    rows_max: int = 100_000
    answer_bytes_max: int = 32 * 1024 * 1024
    input_bytes_max: int = 256 * 1024 * 1024
    input_rows_max: int = 2_000_000
    at_once: int = 2
    waiting_max: int = 16


@dataclass(slots=True)
class _Gathered:
    """What a query will have before it. ``descriptors`` are open memory, ours to close."""

    position: int
    tables: list[ChildTable] = field(default_factory=list)
    publications: dict[str, int] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)
    later: list[str] = field(default_factory=list)
    """Names of tables of which nothing was there yet at the moment."""
    size_bytes: int = 0
    rows: int = 0


class QueryService:
    """What others call. Safe to share; one per process."""

    def __init__(
        self,
        log: Log,
        projections: Projections,
        children: QueryChildren,
        reads: ReadLog,
        settings: QuerySettings | None = None,
    ) -> None:
        self._log = log
        self._projections = projections
        self._children = children
        self._reads = reads
        self._settings = settings or QuerySettings()
        bounds = self._settings
        self._turns = Turns(bounds.at_once, bounds.waiting_max, "run the query", 2)

    async def query(self, principal: Principal, query: Query) -> QueryResult:
        """Answer one ``SELECT`` as of its moment.

        Whoever is limited to some profiles has their records, runs and tasks before them, and no
        events. ``Invalid`` for SQL that is no single ``SELECT``, that calls what is not for
        queries, names a table that there is not, or fails; ``Denied`` for a table whose permission
        is missing; ``TooLarge`` beyond time, memory, rows or bytes; ``Exhausted`` when too many
        wait.
        """
        return msgspec.json.decode(await self.answer(principal, query), type=QueryResult)

    async def answer(self, principal: Principal, query: Query) -> bytes:
        """:meth:`query` as JSON, as the child wrote it."""
        position, found = await self._run(principal, query, "json", exact=False)
        return msgspec.json.encode(
            {
                "position": position.position,
                "as_of": query.as_of,
                "columns": found.columns,
                "rows": msgspec.Raw(found.body.encode()),
                "row_count": found.row_count,
                "tables": _used(position, found),
            }
        )

    async def answer_csv(self, principal: Principal, query: Query, *, exact: bool = False) -> bytes:
        """:meth:`query` as CSV; ``exact`` leaves cells that look like formulas as they are."""
        _, found = await self._run(principal, query, "csv", exact=exact)
        return found.body.encode()

    async def _run(
        self, principal: Principal, query: Query, format_: QueryFormat, *, exact: bool
    ) -> tuple[_Gathered, ChildAnswer]:
        moment = _checked(query)
        async with self._turns.turn(), AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._settings.seconds):
                    gathered = await self._gathered(principal, query, moment, stack)
            except TimeoutError:
                raise TooLarge(
                    f"cannot run the query: its tables took longer than "
                    f"{self._settings.seconds:g} s to gather",
                    code="query-deadline",
                    hint="name one profile; --events-from leaves earlier events out",
                ) from None
            job = QueryJob(
                sql=query.sql,
                format=format_,
                exact=exact,
                tables=gathered.tables,
                withheld=gathered.withheld,
                later=gathered.later,
                rows_max=self._settings.rows_max,
                answer_bytes_max=self._settings.answer_bytes_max,
                memory_mb=self._settings.memory_mb,
            )
            await self._reads.note(principal, _told(query, gathered))
            found = await self._in_child(job)
        return gathered, found

    async def _in_child(self, job: QueryJob) -> ChildAnswer:
        try:
            answered = await self._children.query(
                job,
                deadline_seconds=self._settings.seconds,
                answer_bytes_max=2 * self._settings.answer_bytes_max + 1024 * 1024,
            )
        except Internal as error:
            if error.code != "child-crashed":
                raise
            # The engine dies of some allocations that it was refused: the bound did its work.
            raise TooLarge(
                "cannot run the query: its process ended; most likely it needed more than "
                f"{job.memory_mb} MB",
                code="query-memory",
                hint="ask for less at once; HOLDFAST_REPORTS_QUERY_MEMORY_MB is the bound",
                internal=error.internal,
            ) from error
        except TooLarge as error:
            if not error.code.startswith("child-"):
                raise
            raise TooLarge(
                f"cannot run the query: {error.detail.removeprefix('cannot finish: ')}",
                code=error.code.replace("child-", "query-"),
                hint="ask for less at once",
            ) from error
        return msgspec.convert(answered, ChildAnswer)

    # --- gathering ----------------------------------------------------------------------------

    async def _gathered(
        self, principal: Principal, query: Query, moment: datetime | None, stack: AsyncExitStack
    ) -> _Gathered:
        """The tables that the SQL may speak of, as of the moment."""
        position = (await self._log.moment(principal, moment, query.position)).position
        gathered = _Gathered(position)
        gathered.withheld = {
            name: f"{need.value} is missing"
            for name, need in NEEDED.items()
            if not principal.may(need)
        }
        if principal.profiles is not None and "events" not in gathered.withheld:
            gathered.withheld["events"] = "the credential is limited to some profiles"
        if "records" not in gathered.withheld:
            await self._records(principal, query, moment, gathered)
        for name in ("events", "runs", "tasks"):
            if name in gathered.withheld:
                continue
            if not mentioned(query.sql, [name]):
                gathered.tables.append(ChildTable(names=[name]))
                continue
            rows = (
                self._events(principal, query.events_from, position)
                if name == "events"
                else self._folded(principal, name, position)
            )
            await self._rows(name, rows, gathered, stack)
        return gathered

    async def _records(
        self, principal: Principal, query: Query, moment: datetime | None, gathered: _Gathered
    ) -> None:
        """What was published: up to the position, or, where a time was given, by that time.

        The log hears of a publication a moment after readers saw it. For a time the records are
        those that every other reader of that time is given, be its entry before the position or
        not.
        """
        position = gathered.position
        if moment is not None:
            position = (await self._log.moment(principal)).position
        published = await self._published(principal, position)
        then = published
        if position != gathered.position:
            then = await self._published(principal, gathered.position)
        names = {profile: _names(profile, published) for profile in published}
        everything = bool(mentioned(query.sql, ("records",)))
        for profile, state in sorted(published.items()):
            if not everything and not mentioned(query.sql, names[profile]):
                if profile not in then:
                    continue  # or only just: it is not listed, and can be asked for by its name
                gathered.tables.append(ChildTable(names=names[profile], profile=profile))
                continue
            as_of = state["recorded_at"] if moment is None else timestamp(moment)
            try:
                found = await self._projections.projection(
                    principal, profile, as_of=as_of, vintage=query.vintage
                )
            except NotFound as error:
                if moment is None or error.code != "not-published":
                    raise
                gathered.later += names[profile]  # nothing of it was published by then
                continue
            if moment is None and found.publication != state["publication"]:
                raise Corrupt(
                    f"cannot read the records of {profile}: the log speaks of publication "
                    f"{state['publication']}, there is {found.publication}",
                    code="publication-differs",
                )
            size = (await asyncio.to_thread(Path(found.path).stat)).st_size
            self._count(gathered, size, 0)
            gathered.publications[profile] = found.publication
            gathered.tables.append(
                ChildTable(
                    names=names[profile],
                    profile=profile,
                    path=str(found.path),
                    digest=found.digest,
                )
            )

    async def _published(self, principal: Principal, position: int) -> dict[str, dict[str, Any]]:
        """What the log has heard of each profile's publications by a position."""
        return {
            str(state["profile"]): state
            async for states in self._states(principal, "publications", position)
            for state in states
            if principal.sees(str(state["profile"]))
        }

    async def _states(
        self, principal: Principal, name: str, position: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        cursor: str | None = None
        while True:
            page = await self._log.projected(
                principal, name, position=position, cursor=cursor, limit=PAGE
            )
            yield [each.state for each in page.items]
            cursor = page.next
            if cursor is None:
                return

    async def _folded(
        self, principal: Principal, name: str, position: int
    ) -> AsyncIterator[list[list[Any]]]:
        columns = [column for column, _ in LAYOUTS[name]]
        async for states in self._states(principal, name, position):
            seen = [state for state in states if _sees(principal, name, state)]
            yield [[state.get(column) for column in columns] for state in seen]

    async def _events(
        self, principal: Principal, first: int, position: int
    ) -> AsyncIterator[list[list[Any]]]:
        while first < position:
            page = await self._log.read(principal, first=first, limit=min(PAGE, position - first))
            if not page.items:
                return
            yield [
                [
                    entry.position,
                    entry.id,
                    entry.stream,
                    entry.version,
                    entry.type,
                    entry.time,
                    entry.recorded,
                    entry.subject,
                    entry.request_id,
                    None if entry.payload is None else msgspec.json.encode(entry.payload).decode(),
                    entry.erased,
                ]
                for entry in page.items
            ]
            first += len(page.items)

    async def _rows(
        self,
        name: str,
        pages: AsyncIterator[list[list[Any]]],
        gathered: _Gathered,
        stack: AsyncExitStack,
    ) -> None:
        """Rows in memory that the child shares: what is sealed at rest never lies in a file."""
        descriptor = os.memfd_create(f"holdfast-{name}")
        stack.callback(os.close, descriptor)
        async for rows in pages:
            if rows:
                data = frame(rows)
                self._count(gathered, len(data), len(rows))
                os.write(descriptor, data)
        gathered.tables.append(ChildTable(names=[name], descriptor=descriptor))

    def _count(self, gathered: _Gathered, size: int, rows: int) -> None:
        gathered.size_bytes += size
        gathered.rows += rows
        bounds = self._settings
        if gathered.size_bytes > bounds.input_bytes_max or gathered.rows > bounds.input_rows_max:
            raise TooLarge(
                "cannot run the query: the tables it speaks of are over "
                f"{bounds.input_bytes_max // 2**20} MB or {bounds.input_rows_max} rows",
                code="query-input",
                hint="name one profile instead of records; --events-from leaves earlier events out",
            )


def _checked(query: Query) -> datetime | None:
    if not query.sql.strip():
        raise Invalid("cannot run the query: there is none", code="query-invalid")
    if "\x00" in query.sql:
        raise Invalid("cannot run the query: it holds a NUL character", code="query-invalid")
    if len(query.sql.encode("utf-8", "surrogatepass")) > SQL_BYTES_MAX:
        raise TooLarge(f"cannot run the query: it is over {SQL_BYTES_MAX} bytes")
    if query.as_of is not None and query.position is not None:
        raise Invalid("cannot run the query: as_of and position exclude each other")
    if query.events_from < 0:
        raise Invalid("cannot run the query: events_from is a position, not below 0")
    if query.as_of is None:
        return None
    try:
        return parse_timestamp(query.as_of)
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {query.as_of[:40]!r}: it is not RFC 3339 with an offset",
            hint="such as 2026-11-01T00:00:00Z",
        ) from error


def _names(profile: str, published: Collection[str]) -> list[str]:
    """What a profile's table is called: by its name, and plainly where nothing else is called so.

    One that is called as ours are has ``profile_`` before it.
    """
    own = f"profile_{profile}" if profile in TABLES else profile
    plain = identifier(own)
    clash = plain in TABLES or any(identifier(o) == plain for o in published if o != profile)
    return [own] if clash or plain == own else [own, plain]


def _sees(principal: Principal, table: str, state: dict[str, Any]) -> bool:
    """Whether a run or a task is of a profile that the principal sees; a task of another kind than
    those that collect is of none."""
    if principal.profiles is None:
        return True
    if table == "runs":
        return principal.sees(state.get("profile") or "")
    collects = state.get("kind") == "collect"
    return collects and principal.sees((state.get("exclusive") or "").removeprefix("profile:"))


def _told(query: Query, gathered: _Gathered) -> dict[str, Any]:
    """What the log keeps of a query: not its text, which may name a person."""
    return {
        "position": gathered.position,
        "sql": f"sha256:{hashlib.sha256(query.sql.encode('utf-8', 'surrogatepass')).hexdigest()}",
        "tables": sorted(t.profile or t.names[0] for t in gathered.tables if t.loaded)[:40],
        "vintage": query.vintage,
    }


def _used(gathered: _Gathered, found: ChildAnswer) -> list[TableUsed]:
    return [
        TableUsed(
            name=table.names[0] if table.names else table.profile,
            rows=found.rows[table.profile or table.names[0]],
            profile=table.profile,
            publication=gathered.publications.get(table.profile, 0),
            sealed=found.sealed.get(table.profile, []),
        )
        for table in gathered.tables
        if table.loaded and (table.profile or table.names[0]) in found.rows
    ]
