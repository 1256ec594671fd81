"""What differs between two runs: which records are new, changed (from what to what), withdrawn.

The newer publication has exactly one row for every record that the older one had, because a record
that went away has its withdrawal. So it is enough to walk the rows that the newer one has and the
older one has not, which are those of the runs between them, and to follow each back to what stood
in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from holdfast.kernel.errors import Conflict, Invalid
from holdfast.kernel.http import decode_cursor, encode_cursor
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.base import seen_run
from holdfast.records.content import Content, decode_content
from holdfast.records.model import FieldChange, RecordChange, RunDiff, RunStatus, Scalar, is_final
from holdfast.records.reading import Reading, assemble

SCAN_ROWS = 2_000
_GROUPS = ("dimensions", "attributes")


@dataclass(frozen=True, slots=True)
class _Span:
    """The rows that a difference is made of: those of ``after`` that ``before`` has not."""

    profile: str
    before: int
    after: int
    first: int
    end: int
    hidden_run: int | None = None
    """The number of the run whose hidden rows they are."""


class Differences(Reading):
    """The part of the service that compares."""

    async def run_diff(
        self,
        principal: Principal,
        run: str,
        *,
        base: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> RunDiff:
        """What the run changed, or what changed between ``base`` and it, a page at a time.

        Of a run that is hidden (a rehearsal, a partial one) it is what the run would have changed.
        ``Conflict`` for a run of which nothing is kept or that still goes on; ``Invalid`` if the
        runs are of two profiles.
        """
        wanted = page_size(limit)
        kind = f"diff-{run}-{base}"
        begun: list[int] = []
        if cursor:
            begun = list(decode_cursor(kind, cursor, int, int, int, int))
        after = begun[0] if begun else -1

        def unit(conn: Connection) -> RunDiff:
            tenant = principal.tenant
            newer = _ended(conn, principal, run)
            older = _ended(conn, principal, base) if base else None
            span = _span(conn, tenant, newer, older)
            counts = begun[1:] or _counts(conn, tenant, newer, span, alone=older is None)
            chosen: list[tuple[Any, Any | None]] = []
            more = None
            for found, before in _differing(conn, tenant, span, after):
                if len(chosen) == wanted:
                    more = encode_cursor(kind, [chosen[-1][0].sequence, *counts])
                    break
                chosen.append((found, before))
            return RunDiff(
                profile=newer.profile,
                base=base,
                run=run,
                base_publication=span.before,
                publication=None if span.hidden_run is not None else span.after,
                hidden=span.hidden_run is not None,
                new=counts[0],
                changed=counts[1],
                withdrawn=counts[2],
                items=_items(conn, tenant, chosen),
                next=more,
            )

        return await self._db.read(principal, unit)


def _counts(conn: Connection, tenant: str, run: Any, span: _Span, *, alone: bool) -> list[int]:
    """How many are new, changed, withdrawn: what the run says itself, or counted over all rows."""
    if alone:
        return [run.new, run.changed, run.withdrawn]
    found = Counter(_kind(*each) for each in _differing(conn, tenant, span, -1))
    return [found["new"], found["changed"], found["withdrawn"]]


def _ended(conn: Connection, principal: Principal, run: str) -> Any:
    row = seen_run(conn, principal, run)
    if not is_final(RunStatus(row.status)):
        raise Conflict(
            f"cannot compare the run {run}: it has not ended ({row.status})",
            code="run-not-ended",
            hint=f"`holdfast run show {run}` shows how far it is",
        )
    return row


def _span(conn: Connection, tenant: str, newer: Any, older: Any) -> _Span:
    """Which rows make the difference."""
    if older is not None and older.profile != newer.profile:
        raise Invalid(
            f"cannot compare runs of {older.profile} and {newer.profile}: they are two profiles"
        )
    if newer.status == RunStatus.PARTIAL.value:
        if older is not None:
            raise Conflict(
                f"cannot compare the run {newer.run} with another: it is not published",
                code="run-not-published",
                hint="name it alone to see what it would have changed",
            )
        first, end = max(newer.first_row, 0), max(newer.end_row, 0)
        return _Span(newer.profile, 0, 0, first, end, hidden_run=newer.number)
    after = _seen_since(conn, tenant, newer)
    if older is not None:
        before = _seen_since(conn, tenant, older)
    else:
        published = newer.new or newer.changed or newer.withdrawn
        before = after - 1 if published and after else after
    if before > after:
        raise Invalid(
            f"cannot compare: the run {newer.run} ended before {older.run}",
            hint="name the earlier run first",
        )
    first, end = _rows_between(conn, tenant, newer.profile, before, after)
    return _Span(newer.profile, before, after, first, end)


def _seen_since(conn: Connection, tenant: str, run: Any) -> int:
    """The publication that readers saw when the run had ended well."""
    if run.status == RunStatus.SUCCEEDED.value:
        return int(run.publication or 0)
    if run.status == RunStatus.UNCHANGED.value:
        return store.publication_at(conn, tenant, run.profile, run.finished_at)
    raise Conflict(
        f"cannot compare the run {run.run}: it is {run.status}, nothing of it was published",
        code="run-not-published",
        hint=f"`holdfast run show {run.run}` says why; `holdfast run list --profile {run.profile} "
        "--status succeeded` shows the runs that can be compared",
    )


def _rows_between(
    conn: Connection, tenant: str, profile: str, low: int, high: int
) -> tuple[int, int]:
    """Where the rows lie that the publications above ``low`` up to ``high`` added."""
    runs, publications = store.runs, store.publications
    found = conn.execute(
        select(func.min(runs.c.first_row), func.max(runs.c.end_row))
        .select_from(
            publications.join(
                runs,
                and_(runs.c.tenant == publications.c.tenant, runs.c.run == publications.c.run),
            )
        )
        .where(
            store.of_key(publications, tenant, profile=profile),
            publications.c.publication > low,
            publications.c.publication <= high,
        )
    ).one()
    return (0, 0) if found[0] is None else (int(found[0]), int(found[1]))


def _differing(
    conn: Connection, tenant: str, span: _Span, after: int
) -> Iterator[tuple[Any, Any | None]]:
    """Each row of the newer side that differs, with what stood in its place before."""
    position = max(after, span.first - 1)
    while True:
        rows = conn.execute(
            select(store.revisions)
            .where(
                store.of_key(store.revisions, tenant, profile=span.profile),
                store.revisions.c.sequence > position,
                store.revisions.c.sequence < span.end,
                *_belonging(span),
            )
            .order_by(store.revisions.c.sequence)
            .limit(SCAN_ROWS)
        ).all()
        if not rows:
            return
        position = rows[-1].sequence
        before = _before(conn, tenant, span, rows)
        for row in rows:
            old = before.get(row.sequence)
            if _kind(row, old):
                yield row, old


def _belonging(span: _Span) -> list[ColumnElement[bool]]:
    if span.hidden_run is not None:
        return [store.revisions.c.run == span.hidden_run]
    return [store.visible(span.after), store.revisions.c.from_publication > span.before]


def _before(
    conn: Connection, tenant: str, span: _Span, rows: Sequence[Any]
) -> dict[int, Any | None]:
    """For each row the one that the older side had; followed back over those in between."""
    found: dict[int, Any | None] = {}
    following = {row.sequence: row.previous for row in rows}
    while following:
        numbers = sorted({number for number in following.values() if number is not None})
        those = {
            row.sequence: row
            for row in store.rows_by_sequence(
                conn,
                tenant,
                span.profile,
                numbers,
                "previous",
                "from_publication",
                "withdrawn",
                "content",
                "body",
            )
        }
        again: dict[int, int | None] = {}
        for sequence, number in following.items():
            old = None if number is None else those[number]
            if old is not None and span.hidden_run is None and old.from_publication > span.before:
                again[sequence] = old.previous
            else:
                found[sequence] = old
        following = again
    return found


def _kind(row: Any, old: Any | None) -> str:
    """What happened to the record from the older side to the newer; empty if nothing did."""
    was = old is not None and not old.withdrawn
    if row.withdrawn:
        return "withdrawn" if was else ""
    if old is None or not was:
        return "new"
    return "" if bytes(old.content) == bytes(row.content) else "changed"


def _items(
    conn: Connection, tenant: str, chosen: Sequence[tuple[Any, Any | None]]
) -> list[RecordChange]:
    made = assemble(conn, tenant, [row for row, _ in chosen], provenance=False)
    found = []
    for (row, old), record in zip(chosen, made, strict=True):
        kind: Any = _kind(row, old)
        fields: list[FieldChange] = []
        if kind == "changed":
            assert old is not None
            fields = changed_fields(decode_content(old.body), decode_content(row.body))
            # What is personal is sealed in both: that it changed can be told, from what to what
            # not.
            fields = fields or [FieldChange(field="personal", old="(sealed)", new="(sealed)")]
        found.append(RecordChange(kind=kind, record=record, fields=fields))
    return found


def changed_fields(old: Content, new: Content) -> list[FieldChange]:
    """Every value that differs, by the full name of its field."""
    before, now = dict(_flat(old)), dict(_flat(new))
    return [
        FieldChange(field=name, old=before.get(name), new=now.get(name))
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def _flat(content: Content) -> Iterator[tuple[str, Scalar]]:
    for group in _GROUPS:
        for name, value in getattr(content, group).items():
            yield f"{group}.{name}", value
    for name, measure in content.measures.items():
        yield f"measures.{name}", measure.value
        yield f"measures.{name}.unit", measure.unit
        yield f"measures.{name}.multiplier", measure.multiplier
    if content.period is not None:
        yield "period.start", content.period.start
        yield "period.end", content.period.end
        yield "period.frequency", content.period.frequency
        yield "period.text", content.period.text
