"""Which stored raw responses a re-mapping reads, and their bytes, for the worker that does it.

A snapshot is what its last complete run brought, what backfills have added since, and what those
before it have brought that it did not ask for; of the other modes every published run counts. They
are listed so that reading them in this order gives the truth: where the last of equal keys counts,
the oldest run first, else the newest first. What a later backfill asked for as well is no more of
an earlier one: what it did not bring is withdrawn. That holds too where its own bytes were
destroyed: what it brought stays as it is, and what it replaced does not come back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, true

from holdfast.kernel.errors import Conflict
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.errors import no_such_run
from holdfast.records.model import RawResponse, RemapSource, RunStatus
from holdfast.records.ports import ResponseBody
from holdfast.records.raw import RawResponses
from holdfast.records.rules import Rules
from holdfast.records.within import Within, within

SOURCES_MAX = 10_000
RANGES_MAX = 200
"""Pieces of time, apart from each other, that one statement asks for: databases bound how long one
may be."""


class Remapping(RawResponses):
    """The part of the service that hands stored bytes back to workers."""

    async def remap_sources(self, principal: Principal, grant: str, run: str) -> list[RemapSource]:
        """The runs whose bytes are to be mapped again, in the order in which to read them.

        ``Conflict`` if nothing is stored, or more runs than one re-mapping takes.
        """
        claim = self._grant(principal, grant, run)
        rules = await self._rules(principal, claim.profile, claim.digest)
        fetched = await self._fetched_rules(principal, rules)

        def unit(conn: Connection) -> list[RemapSource]:
            found = remap_sources(conn, principal.tenant, rules, fetched)
            if not found:
                raise Conflict(
                    f"cannot re-map {claim.profile}: no raw responses of it are stored",
                    code="nothing-stored",
                    hint=f"holdfast profile run {claim.profile}",
                )
            return found

        return await self._db.read(principal, unit)

    async def remap_responses(
        self, principal: Principal, grant: str, run: str, source: str
    ) -> list[RawResponse]:
        """The accounts of one of these runs' responses, in order."""
        await self._check_source(principal, grant, run, source)
        return [stored.response for stored in await self.responses(principal, source)]

    async def remap_body(
        self, principal: Principal, grant: str, run: str, source: str, sequence: int
    ) -> ResponseBody:
        """One of these responses with its bytes."""
        await self._check_source(principal, grant, run, source)
        return await self._stored_body(principal, source, sequence)

    async def _check_source(self, principal: Principal, grant: str, run: str, source: str) -> None:
        """``NotFound`` unless ``source`` is a run of the profile that the grant is for."""
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> None:
            row = store.find(conn, store.runs, principal.tenant, run=source)
            if row is None or row.profile != claim.profile:
                raise no_such_run(source)

        await self._db.read(principal, unit)


def remap_sources(conn: Connection, tenant: str, rules: Rules, fetched: Rules) -> list[RemapSource]:
    """The runs whose bytes a re-mapping reads, in the order in which to read them.

    ``fetched`` are the rules under which the last complete run asked its source. ``Conflict`` for
    more runs (or pieces of them) than one re-mapping takes, counted before those are left out whose
    bytes were destroyed: a list that is cut short would leave out what counts.
    """
    runs, last = store.runs, None
    conditions: list[Any] = [
        store.of_key(runs, tenant, profile=rules.profile, status=RunStatus.SUCCEEDED.value)
    ]
    if rules.mode == "snapshot":
        last = store.last_complete(conn, tenant, rules.profile)
        if last is None:
            return []
        later = (runs.c.kind == "backfill") & (
            true() if fetched.since is not None else runs.c.number > last.number
        )
        conditions.append((runs.c.run == last.run) | later)
    else:
        conditions.append(runs.c.kind.in_(["collect", "backfill"]))
    erased = _erased(conn, conditions)
    rows = _stored(conn, conditions)
    _check_many(rules, len(rows))
    if last is None:
        # What such a run brought stays as it is; nothing but a snapshot withdraws what is absent.
        found = [_source(row) for row in rows if row.run not in erased]
        if rows and not found:
            raise _destroyed(rules)
    elif any(row.number >= last.number for row in rows if row.run in erased):
        raise _destroyed(rules)
    else:
        found = _of_snapshot(rows, erased, last, rules, fetched)
        _check_many(rules, len(found))
        asked_ranges(rules, found)
    return found[::-1] if rules.duplicates == "last" else found


def _destroyed(rules: Rules) -> Conflict:
    return Conflict(
        f"cannot re-map {rules.profile}: bytes it rests on were destroyed, because a person in "
        "them was erased",
        code="response-erased",
        hint=f"holdfast profile run {rules.profile} --force",
    )


def _check_many(rules: Rules, many: int) -> None:
    if many > SOURCES_MAX:
        raise Conflict(
            f"cannot re-map {rules.profile}: more than {SOURCES_MAX} runs are stored",
            code="too-many-runs",
        )


def asked_ranges(rules: Rules, sources: Sequence[RemapSource]) -> tuple[Within, ...]:
    """What the backfills among these runs asked for: those side by side as one.

    ``Conflict`` if they are too many.
    """
    ranged = sorted(
        (
            within(one.range_start, one.range_end, rules.timezone)
            for one in sources
            if one.range_start is not None and one.range_end is not None
        ),
        key=lambda one: one.moments,
    )
    found: list[Within] = []
    for one in ranged:
        last = found[-1] if found else None
        if last is not None and one.moments[0] <= last.moments[1]:
            found[-1] = Within(
                (min(last.days[0], one.days[0]), max(last.days[1], one.days[1])),
                (last.moments[0], max(last.moments[1], one.moments[1])),
            )
        else:
            found.append(one)
    if len(found) > RANGES_MAX:
        raise Conflict(
            f"cannot re-map {rules.profile}: its backfills lie apart in {len(found)} pieces, "
            f"at most {RANGES_MAX} are taken",
            code="too-many-ranges",
            hint=f"`holdfast profile run {rules.profile} --from DAY --to DAY` over what lies "
            "between them joins them",
        )
    return tuple(found)


def _erased(conn: Connection, conditions: list[Any]) -> set[str]:
    """Which of these runs have lost bytes that their last attempts have stored."""
    runs, responses = store.runs, store.responses
    joined = runs.join(
        responses,
        (responses.c.tenant == runs.c.tenant)
        & (responses.c.run == runs.c.run)
        & (responses.c.fence == runs.c.fence),
    )
    statement = (
        select(responses.c.run)
        .select_from(joined)
        .where(*conditions, responses.c.erased_at != "")
        .distinct()
    )
    return set(conn.execute(statement).scalars())


def _stored(conn: Connection, conditions: list[Any]) -> Sequence[Row[Any]]:
    """These runs and how many responses their last attempts have, the newest first."""
    runs, responses = store.runs, store.responses
    about = (runs.c.run, runs.c.number, runs.c.range_start, runs.c.range_end)
    return conn.execute(
        select(*about, func.count().label("responses"))
        .select_from(
            runs.join(
                responses,
                (responses.c.tenant == runs.c.tenant)
                & (responses.c.run == runs.c.run)
                & (responses.c.fence == runs.c.fence),
            )
        )
        .where(*conditions)
        .group_by(*about)
        .order_by(runs.c.number.desc())
        .limit(SOURCES_MAX + 1)
    ).all()


def _source(row: Row[Any], start: str | None = None, end: str | None = None) -> RemapSource:
    return RemapSource(
        run=row.run,
        responses=row.responses,
        range_start=start or row.range_start,
        range_end=end or row.range_end,
    )


def _of_snapshot(
    rows: Sequence[Row[Any]], erased: set[str], last: Row[Any], rules: Rules, fetched: Rules
) -> list[RemapSource]:
    """The last complete run, and of each backfill what none after it asked for.

    One whose bytes were destroyed has asked all the same: nothing of it is read, and nothing that
    it replaced.
    """
    found: list[RemapSource] = []
    told, older = Told(), False
    for row in rows:
        if row.run == last.run:
            found.append(_source(row))
            continue
        if row.number < last.number and not older and fetched.since is not None:
            told.news(fetched.since.moments[0], _NEVER)
            older = True
        whole = within(row.range_start, row.range_end, rules.timezone).moments
        left = told.news(*whole)
        if row.run not in erased:
            found += [_source(row) if one == whole else _source(row, *one) for one in left]
    return found


_NEVER = "9999-12-31T23:59:59.999999Z"


class Told:
    """Half-open ranges of which something was said already, apart from each other and in order.

    Many backfills mostly lie side by side, so they stay few, however many they were.
    """

    def __init__(self) -> None:
        self.ranges: list[tuple[str, str]] = []

    def news(self, start: str, end: str) -> list[tuple[str, str]]:
        """What of this range nothing was said of yet; from now on it was."""
        if start >= end:
            return []
        # Those that overlap it or touch it.
        first = bisect_left(self.ranges, start, key=lambda one: one[1])
        after = bisect_right(self.ranges, end, key=lambda one: one[0])
        touched = self.ranges[first:after]
        left, position = [], start
        for one in touched:
            if position < one[0]:
                left.append((position, min(one[0], end)))
            position = max(position, one[1])
        if position < end:
            left.append((position, end))
        around = [*touched, (start, end)]
        self.ranges[first:after] = [(min(one[0] for one in around), max(one[1] for one in around))]
        return left
