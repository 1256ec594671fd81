"""Reading what is published, what a run wrote, and what runs came to.

A page of records belongs to one publication, which its cursor carries: later publications neither
skip nor repeat anything in a list that has been begun. Rows of one publication never change.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select

from holdfast.kernel.canonical import canonical_digest
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Invalid, NotFound
from holdfast.kernel.http import Page, decode_cursor, encode_cursor
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.moments import check_come, check_order
from holdfast.kernel.principal import Permission, Principal
from holdfast.records import store
from holdfast.records.base import run_of, seen_run
from holdfast.records.columns import scalar_text
from holdfast.records.content import KEY_BYTES, Content, decode_content, encode_sorted
from holdfast.records.errors import NoSuchRecord, no_such_run
from holdfast.records.model import (
    Provenance,
    Record,
    RecordFilter,
    RecordHistory,
    RecordPage,
    Result,
    Run,
    RunFilter,
    RunStatus,
    Scalar,
    StoredReject,
)
from holdfast.records.soundness import check_shown
from holdfast.records.unsealing import SealedRow, Unsealing, sealed_of
from holdfast.records.within import beginnings, bound

REVISIONS_MAX = 1_000
STREAM_ROWS = 2_000
_LAST = 2**62
_MOMENT = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}(T[0-9:.]{5,15}Z)?)?)?")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,15}")
_MEANINGS_PARTS_MAX = 8
_KEY_TEXT_BYTES_MAX = 8_000
"""Each of the 256 keys that are shown the same costs a digest of so many bytes."""
_CONTENT_KEY = ("the digest of the content", "the number of its occurrence")
"""What a key is where the profile says ``position``."""
_DIMENSION = re.compile(r"[a-z][a-z0-9_]{0,79}")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows a list is about: a publication of a profile, or what one run wrote."""

    profile: str
    publication: int
    run_number: int | None = None
    first: int = 0
    end: int = _LAST


class Reading(Unsealing):
    """The part of the service that reads."""

    # --- records ------------------------------------------------------------------------------

    async def records(
        self,
        principal: Principal,
        which: RecordFilter,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> RecordPage:
        """A page of records, in the order in which they were first staged.

        Of a profile that has published nothing (or nothing yet at ``as_of``) the page is empty, its
        publication 0. ``Invalid`` for a cursor of another list, and when nothing was found by a
        dimension that the profile does not have.
        """
        check_filter(which)
        await self._check_sealed(principal, which)
        wanted = page_size(limit)
        kind = f"records-{canonical_digest(which)[7:23]}"
        position = decode_cursor(kind, cursor, int, int) if cursor else None

        def unit(conn: Connection) -> tuple[RecordPage, list[SealedRow]]:
            begun = None if position is None else int(position[0])
            scope = scope_of(conn, principal.tenant, which, self._clock.now(), begun)
            after = -1 if position is None else int(position[1])
            rows = matching(conn, principal.tenant, scope, which, after, wanted + 1)
            more = rows[wanted - 1].sequence if len(rows) > wanted else None
            page = RecordPage(
                items=assemble(conn, principal.tenant, rows[:wanted], provenance=which.provenance),
                next=None if more is None else encode_cursor(kind, [scope.publication, more]),
                publication=scope.publication,
            )
            return page, sealed_of(rows[:wanted])

        page, sealed = await self._db.read(principal, unit)
        if position is None and not page.items:
            await self._check_dimensions(principal, which)
        items = await self._with_personal(principal, page.items, sealed, what="list")
        return msgspec.structs.replace(page, items=items)

    async def _check_sealed(self, principal: Principal, which: RecordFilter) -> None:
        """Sealed fields cannot be compared with anything: to say so beats finding nothing."""
        if not which.dimensions:
            return
        head = await self._db.read(
            principal,
            lambda conn: store.find(conn, store.heads, principal.tenant, profile=which.profile),
        )
        if head is None or head.profile_digest is None:
            return
        marks = (await self._rules(principal, which.profile, head.profile_digest)).marks
        for name in which.dimensions:
            if marks is not None and name in marks.dimensions:
                raise Invalid(
                    f"cannot filter by dimension.{name}: it is personal, and sealed",
                    code="field-sealed",
                )

    async def _check_dimensions(self, principal: Principal, which: RecordFilter) -> None:
        """A name that is misspelt finds nothing, and so does a value: only the first is wrong.

        Asked once nothing was found: records of an earlier version may have had more dimensions.
        """
        if not which.dimensions:
            return
        head = await self._db.read(
            principal,
            lambda conn: store.find(conn, store.heads, principal.tenant, profile=which.profile),
        )
        if head is None or head.profile_digest is None:
            return
        version = await self._version(principal, which.profile, head.profile_digest)
        there = version.profile.dimensions
        if unknown := [name for name in which.dimensions if name not in there]:
            raise Invalid(
                f"cannot filter by dimension.{unknown[0]}: {which.profile} has no such dimension",
                code="dimension-unknown",
                hint=f"it has {', '.join(there)}" if there else "it has none",
            )

    async def publication(
        self, principal: Principal, profile: str, as_of: str | None = None
    ) -> int:
        """The number of the publication that readers see (or saw then); 0 if there is none."""
        which = RecordFilter(profile=profile, as_of=as_of)
        check_filter(which)
        now = self._clock.now()
        return (
            await self._db.read(
                principal, lambda conn: scope_of(conn, principal.tenant, which, now)
            )
        ).publication

    async def stream(
        self, principal: Principal, which: RecordFilter
    ) -> tuple[int, AsyncIterator[list[Record]]]:
        """The publication, and all its records that match, some at a time; memory stays flat."""
        check_filter(which)
        await self._check_sealed(principal, which)
        now = self._clock.now()
        scope = await self._db.read(
            principal, lambda conn: scope_of(conn, principal.tenant, which, now)
        )

        async def parts() -> AsyncIterator[list[Record]]:
            after = -1
            while True:

                def unit(
                    conn: Connection, after: int = after
                ) -> tuple[int, list[Record], list[SealedRow]]:
                    rows = matching(conn, principal.tenant, scope, which, after, STREAM_ROWS)
                    made = assemble(conn, principal.tenant, rows, provenance=which.provenance)
                    last = rows[-1].sequence if rows else after
                    return last, made, sealed_of(rows)

                after, made, sealed = await self._db.read(principal, unit)
                if not made:
                    return
                yield await self._with_personal(principal, made, sealed, what="stream")

        return scope.publication, parts()

    async def record(
        self, principal: Principal, record: str, *, as_of: str | None = None
    ) -> RecordHistory:
        """One record, as published now or at ``as_of``, with its published revisions in order.

        At most :data:`REVISIONS_MAX` of them, the newest that have the one that is asked for among
        them; ``omitted`` says how many more there are. :class:`RecordAltered` if one of them that
        is not sealed is not what was recorded.
        """
        moment = _parsed(as_of) if as_of else None
        key = record_key(record)

        def unit(conn: Connection) -> tuple[int, int, list[Record], list[SealedRow]]:
            found = store.latest_of_record(conn, principal.tenant, key)
            if found is not None and not principal.sees(found.profile):
                found = None
            head = found and store.find(conn, store.heads, principal.tenant, profile=found.profile)
            if found is None or head is None:
                raise _no_such_record(record)
            publication = head.publication
            if moment:
                publication = _published_at(
                    conn, principal.tenant, found.profile, moment, self._clock.now()
                )

            def until(last: int) -> Sequence[Any]:
                return store.chain_of_record(
                    conn, principal.tenant, found.profile, found.sequence, REVISIONS_MAX, until=last
                )

            chain = every = until(head.publication)
            if chain and chain[-1].from_publication > publication:
                chain = until(publication)  # the one that is asked for is further back
            rows = chain[::-1]
            seen = [row for row in rows if row.from_publication <= publication]
            if not seen:
                raise _no_such_record(record)
            check_shown(self._keys(principal, found.profile), principal.tenant, rows)
            made = assemble(conn, principal.tenant, rows, provenance=True)
            return len(seen) - 1, every[0].revision - len(rows), made, sealed_of(rows)

        shown, omitted, made, sealed = await self._db.read(principal, unit)
        made = await self._with_personal(principal, made, sealed, what="record")
        return RecordHistory(record=made[shown], revisions=made, omitted=omitted)

    async def record_by_key(
        self, principal: Principal, profile: str, key: Sequence[str], *, as_of: str | None = None
    ) -> RecordHistory:
        """:meth:`record` by the parts of its key, in the profile's order, each as it is shown.

        A key with a part that is somebody's own is found by those who may see it, as long as the
        person is not erased; for everybody else it is as unknown as one that there is not:
        ``NotFound``. ``Invalid`` for another number of parts than the key has, and for a moment
        that is none or has not come: said of every key alike, before any is looked for.
        """
        moment = _parsed(as_of) if as_of else None

        def unit(conn: Connection) -> Any:
            if moment is not None:
                _published_at(conn, principal.tenant, profile, moment, self._clock.now())
            return store.find(conn, store.heads, principal.tenant, profile=profile)

        head = await self._db.read(principal, unit)
        if head is None or head.profile_digest is None:
            raise _no_such_key(profile, hidden=False)  # it has published nothing
        version = await self._version(principal, profile, head.profile_digest)
        _check_key(profile, version.profile.key, key)
        marks = (await self._rules(principal, profile, head.profile_digest)).marks
        hidden = marks is not None and marks.key
        if hidden and not principal.may(Permission.RECORDS_PERSONAL):
            raise _no_such_key(profile, hidden=hidden)
        digest = self._keys(principal, profile).key
        spellings = list(_meanings(key))
        digests = await asyncio.to_thread(
            lambda: [digest(encode_sorted(list(one))) for one in spellings]
        )
        wanted = {record: list(one) for record, one in zip(digests, spellings, strict=True)}
        found = await self._db.read(
            principal, lambda conn: store.latest_rows(conn, principal.tenant, sorted(wanted))
        )
        for record in sorted(found, key=digests.index):
            try:
                history = await self.record(principal, record.hex(), as_of=as_of)
            except NoSuchRecord:
                continue
            # What nobody may see (any more) has no key that could be compared.
            if any(one.key == wanted[record] for one in history.revisions):
                return history
        raise _no_such_key(profile, hidden=hidden)

    # --- runs, results, rejects ---------------------------------------------------------------

    async def run(self, principal: Principal, run: str) -> Run:
        """One run as it stands."""

        def unit(conn: Connection) -> Run:
            return run_of(seen_run(conn, principal, run))

        return await self._db.read(principal, unit)

    async def runs(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Run]:
        """Runs, the last one opened first."""
        rows, more = await self._listed(principal, which, store.runs.c.number, cursor, limit)
        return Page(items=[run_of(row) for row in rows], next=more)

    async def results(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Result]:
        """What runs came to, the last one ended first."""
        rows, more = await self._listed(principal, which, store.runs.c.result, cursor, limit)
        return Page(items=[_result(row) for row in rows], next=more)

    async def _listed(
        self,
        principal: Principal,
        which: RunFilter | None,
        order: ColumnElement[int],
        cursor: str | None,
        limit: int,
    ) -> tuple[Sequence[Any], str | None]:
        chosen = which or RunFilter()
        wanted, kind = page_size(limit), f"runs-{order.key}-{canonical_digest(chosen)[7:23]}"
        before = int(decode_cursor(kind, cursor, int)[0]) if cursor else _LAST
        condition = and_(
            store.runs.c.tenant == principal.tenant,
            order.is_not(None),
            order < before,
            *_run_conditions(chosen),
            *store.within_limits(store.runs, principal),
        )
        statement = select(store.runs).where(condition).order_by(order.desc()).limit(wanted + 1)
        rows = await self._db.read(principal, lambda conn: conn.execute(statement).all())
        more = None
        if len(rows) > wanted:
            more = encode_cursor(kind, [getattr(rows[wanted - 1], str(order.key))])
        return rows[:wanted], more

    async def rejects(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[StoredReject]:
        """Rows that failed typing: the last run's first, in the order of their arrival."""
        chosen, table = which or RunFilter(), store.rejects
        wanted, kind = page_size(limit), f"rejects-{canonical_digest(chosen)[7:23]}"
        conditions = [table.c.tenant == principal.tenant, *store.within_limits(table, principal)]
        if cursor:
            run_number, number = decode_cursor(kind, cursor, int, int)
            conditions.append(
                or_(
                    table.c.run_number < run_number,
                    and_(table.c.run_number == run_number, table.c.number > number),
                )
            )
        if chosen.profile:
            conditions.append(table.c.profile == chosen.profile)
        if chosen.run:
            # By the number, which the rows are in the order of.
            mine = store.of_key(store.runs, principal.tenant, run=chosen.run)
            number_of = select(store.runs.c.number).where(mine).scalar_subquery()
            conditions += [table.c.run_number == number_of]
        since, until = _check_runs(chosen)
        if since:
            conditions.append(table.c.at >= since)
        if until:
            conditions.append(table.c.at < until)
        statement = (
            select(table)
            .where(*conditions)
            .order_by(table.c.run_number.desc(), table.c.number)
            .limit(wanted + 1)
        )
        rows = await self._db.read(principal, lambda conn: conn.execute(statement).all())
        last = rows[wanted - 1] if len(rows) > wanted else None
        return Page(
            items=[
                msgspec.convert(
                    {name: getattr(row, name) for name in StoredReject.__struct_fields__},
                    StoredReject,
                )
                for row in rows[:wanted]
            ],
            next=None if last is None else encode_cursor(kind, [last.run_number, last.number]),
        )


# --- filters ------------------------------------------------------------------------------------


def check_filter(which: RecordFilter) -> None:
    """:class:`Invalid` for times and names that are none."""
    if which.as_of is not None:
        _parsed(which.as_of)
    for name, value in (("period_from", which.start), ("period_to", which.end)):
        if value is not None and not _is_moment(value):
            raise Invalid(
                f"cannot read {name}={value[:60]}: it is neither a date nor a UTC time",
                hint="write 2024, 2024-01, 2024-01-31 or 2024-01-31T00:00:00Z",
            )
    if which.start is not None and which.end is not None:
        first, after = (beginnings(text, "UTC")[1] for text in (which.start, which.end))
        begins, ends = ("period_from", which.start), ("period_to", which.end)
        check_order("list records", begins, ends, (first, after))
    for name in which.dimensions:
        if _DIMENSION.fullmatch(name) is None:
            raise Invalid(f"cannot filter by dimension.{name[:60]}: it is not a field's name")


def _check_runs(which: RunFilter) -> tuple[str, str]:
    """The bounds of a list of runs, spelled as their times are; empty for none."""
    since, until = (timestamp(_parsed(text)) if text else "" for text in (which.since, which.until))
    if since and until:
        check_order("list", ("since", which.since), ("until", which.until), (since, until))
    return since, until


def _is_moment(text: str) -> bool:
    """Whether it is a year, a month, a day or a UTC time that the calendar has."""
    if _MOMENT.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text if len(text) >= 10 else f"{text}-01-01"[:10])
    except ValueError:
        return False
    return True


def _parsed(text: str) -> Any:
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {text[:60]!r}: it is not RFC 3339 with an offset",
            hint="write 2024-01-31T12:00:00Z",
        ) from error


def scope_of(
    conn: Connection,
    tenant: str,
    which: RecordFilter,
    now: datetime,
    publication: int | None = None,
) -> Scope:
    """Which rows ``which`` is about; ``publication`` if its list has been begun already.

    ``Invalid`` for a moment that has not come.
    """
    head = store.find(conn, store.heads, tenant, profile=which.profile)
    current = 0 if head is None else int(head.publication)
    if which.run is not None:
        run = store.find(conn, store.runs, tenant, run=which.run)
        if run is None or run.profile != which.profile:
            raise no_such_run(which.run)
        return Scope(which.profile, current, run.number, max(run.first_row, 0), run.end_row)
    if publication is None:
        publication = current
        if which.as_of is not None:
            publication = _published_at(conn, tenant, which.profile, _parsed(which.as_of), now)
    return Scope(which.profile, min(publication, current))


def _published_at(
    conn: Connection, tenant: str, profile: str, moment: datetime, now: datetime
) -> int:
    found = store.publication_at(conn, tenant, profile, timestamp(moment))
    newest = store.find(conn, store.publications, tenant, profile=profile, publication=found)
    check_come(moment, now, "" if newest is None else newest.recorded_at)
    return found


def matching(
    conn: Connection, tenant: str, scope: Scope, which: RecordFilter, after: int, limit: int
) -> list[Any]:
    """The next rows of the scope that match, at most ``limit``."""
    found: list[Any] = []
    while len(found) < limit:
        rows = conn.execute(_statement(conn, tenant, scope, which, after, limit)).all()
        found += [row for row in rows if _has_dimensions(row.body, which.dimensions)]
        if len(rows) < limit:
            break
        after = rows[-1].sequence
    return found[:limit]


def _statement(
    conn: Connection, tenant: str, scope: Scope, which: RecordFilter, after: int, limit: int
) -> Select[Any]:
    rows = store.revisions.c
    conditions = [store.of_key(store.revisions, tenant, profile=scope.profile)]
    if scope.run_number is not None:
        conditions += [
            rows.run == scope.run_number,
            rows.sequence >= scope.first,
            rows.sequence < scope.end,
        ]
    elif which.vintage == "first":
        conditions += [rows.from_publication <= scope.publication, rows.revision == 1]
    else:
        conditions.append(store.visible(scope.publication))
    if not which.withdrawn:
        conditions.append(rows.withdrawn.is_(False))
    if which.start is not None:
        conditions.append(rows.period_start >= bound(which.start))
    if which.end is not None:
        conditions.append(rows.period_start < bound(which.end))
    for name, value in which.dimensions.items():
        # Canonical text has one spelling of each member; what matches elsewhere is sorted out by
        # looking at the decoded record.
        conditions.append(
            or_(*(store.holds(conn, f'"{name}":{text}') for text in _spellings(value)))
        )
    return (
        select(store.revisions)
        .where(rows.sequence > after, *conditions)
        .order_by(rows.sequence)
        .limit(limit)
    )


def _check_key(profile: str, names: str | list[str], key: Sequence[str]) -> None:
    """``Invalid`` for what no key of the profile can be."""
    parts = [*_CONTENT_KEY] if isinstance(names, str) else names
    if len(parts) != len(key):
        raise Invalid(
            f"cannot find a record of {profile} by {len(key)} of its key's {len(parts)} parts",
            hint=f"the key is {', '.join(parts)}",
        )
    size = sum(len(part.encode()) for part in key)
    if size > _KEY_TEXT_BYTES_MAX:
        raise Invalid(
            f"cannot find a record by a key of {size} bytes, "
            f"{_KEY_TEXT_BYTES_MAX} at most are taken",
            hint="`holdfast record history ID` takes the record's id",
        )


def _no_such_key(profile: str, *, hidden: bool) -> NotFound:
    more = (
        ", but for those of people who were erased or whom you may not see; "
        "`holdfast record history ID` takes the record's id"
    )
    return NotFound(
        f"cannot find a record of {profile} with this key",  # which may be a person's name
        hint=f"`holdfast record list --profile {profile} --json` shows the keys"
        + (more if hidden else ""),
    )


def _meanings(key: Sequence[str]) -> Iterable[tuple[Scalar, ...]]:
    """The keys that are shown so: a part may be a text, or a number or a truth value."""
    parts: list[list[Scalar]] = []
    for text in key:
        one: list[Scalar] = [text]
        if _INTEGER.fullmatch(text):
            one.append(int(text))
        elif text.lower() in ("true", "false"):
            one.append(text.lower() == "true")
        parts.append(one)
    if sum(len(one) > 1 for one in parts) > _MEANINGS_PARTS_MAX:
        raise Invalid(
            f"cannot find a record by a key with more than {_MEANINGS_PARTS_MAX} numbers in it",
            hint="`holdfast record history ID` takes the record's id",
        )
    return product(*parts)


def _spellings(value: str) -> list[str]:
    found = [msgspec.json.encode(value).decode()]
    if value in ("true", "false") or re.fullmatch(r"-?[0-9]{1,16}", value):
        found.append(value)
    return found


def _has_dimensions(body: str, wanted: dict[str, str]) -> bool:
    if not wanted:
        return True
    dimensions = decode_content(body).dimensions
    return all(
        name in dimensions and scalar_text(dimensions[name]) == value
        for name, value in wanted.items()
    )


def _run_conditions(which: RunFilter) -> list[ColumnElement[bool]]:
    runs = store.runs.c
    found: list[ColumnElement[bool]] = []
    if which.profile:
        found.append(runs.profile == which.profile)
    if which.run:
        found.append(runs.run == which.run)
    if which.status is not None:
        found.append(runs.status == which.status.value)
    since, until = _check_runs(which)
    if since:
        found.append(runs.started_at >= since)
    if until:
        found.append(runs.started_at < until)
    return found


# --- assembling ---------------------------------------------------------------------------------


def record_key(record: str) -> bytes:
    """The stored key that a record's id names; no such record if it names none."""
    try:
        key = bytes.fromhex(record)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or record != key.hex():
        raise _no_such_record(record)
    return key


def _no_such_record(record: str) -> NoSuchRecord:
    return NoSuchRecord(f"cannot find the record {record[:64]}")


def assemble(
    conn: Connection, tenant: str, rows: Sequence[Any], *, provenance: bool
) -> list[Record]:
    """Records as they are read back, from their rows and what the rows refer to."""
    if not rows:
        return []
    profile = rows[0].profile
    times = times_of(conn, tenant, profile, rows)
    runs = runs_of(conn, tenant, {row.run for row in rows})
    sources = _sources(conn, tenant, runs, rows) if provenance else {}
    return [_record(row, decode_content(row.body), times, runs[row.run], sources) for row in rows]


def _record(
    row: Any,
    content: Content,
    times: dict[int, str],
    run: Any,
    sources: dict[tuple[int, int], Any],
) -> Record:
    source = sources.get((row.run, row.response))
    return Record(
        id=row.record.hex(),
        profile=row.profile,
        key=content.key,
        revision=row.revision,
        withdrawn=row.withdrawn,
        recorded_from=times.get(row.from_publication),
        recorded_to=times.get(row.to_publication),
        dimensions=content.dimensions,
        measures=content.measures,
        attributes=content.attributes,
        period=content.period,
        run=run.run,
        publication=row.from_publication if row.from_publication in times else None,
        provenance=None if source is None else _provenance(row, run, source),
        personal=personal_of(row),
    )


def personal_of(row: Any) -> Literal["", "sealed", "omitted", "erased"]:
    """What became of a row's personal part, before anybody opened it."""
    if row.subject is None:
        return ""
    if row.sealed is not None:
        return "sealed"
    return "omitted" if row.withdrawn else "erased"


def _provenance(row: Any, run: Any, source: Any) -> Provenance:
    return Provenance(
        run=run.run,
        worker=run.worker,
        profile_digest=run.profile_digest,
        fetched_at=source.fetched_at,
        url=source.url,
        address=source.address,
        replayed=source.replayed,
        response_digest=source.digest,
        response=row.response,
        position=row.position,
    )


def times_of(conn: Connection, tenant: str, profile: str, rows: Iterable[Any]) -> dict[int, str]:
    """When each publication that the rows name was recorded; staged ones have no time yet."""
    wanted = {row.from_publication for row in rows} | {row.to_publication for row in rows}
    found: dict[int, str] = {}
    numbers = sorted(wanted - {None})
    for some in store.parts(numbers):
        found |= {
            row.publication: row.recorded_at
            for row in conn.execute(
                select(store.publications.c.publication, store.publications.c.recorded_at).where(
                    store.of_key(store.publications, tenant, profile=profile),
                    store.publications.c.publication.in_(some),
                )
            )
        }
    return found


def runs_of(conn: Connection, tenant: str, numbers: set[int]) -> dict[int, Any]:
    """The runs with these numbers, as far as a record shows them."""
    runs, wanted = store.runs.c, sorted(numbers)
    found: dict[int, Any] = {}
    for some in store.parts(wanted):
        statement = select(
            runs.number, runs.run, runs.worker, runs.profile_digest, runs.fence
        ).where(runs.tenant == tenant, runs.number.in_(some))
        found |= {row.number: row for row in conn.execute(statement)}
    return found


def _sources(
    conn: Connection, tenant: str, runs: dict[int, Any], rows: Iterable[Any]
) -> dict[tuple[int, int], Any]:
    """The raw responses that the rows came from, by run number and response."""
    wanted: dict[int, set[int]] = {}
    for row in rows:
        if row.response >= 0:
            wanted.setdefault(row.run, set()).add(row.response)
    table = store.responses
    found: dict[tuple[int, int], Any] = {}
    for number, sequences in wanted.items():
        run, numbers = runs[number], sorted(sequences)
        for some in store.parts(numbers):
            statement = select(table).where(
                store.of_key(table, tenant, run=run.run, fence=run.fence),
                table.c.sequence.in_(some),
            )
            found |= {(number, row.sequence): row for row in conn.execute(statement)}
    return found


def _result(row: Any) -> Result:
    return Result(
        run=row.run,
        profile=row.profile,
        profile_digest=row.profile_digest,
        status=RunStatus(row.status),
        finished_at=row.finished_at,
        publication=row.publication,
        records=row.records,
        new=row.new,
        changed=row.changed,
        unchanged=row.unchanged,
        withdrawn=row.withdrawn,
        rejects=row.rejects,
        code=row.code,
        reason=row.reason,
    )
