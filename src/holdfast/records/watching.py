"""Watching sources: drift and shrinkage of a run, silence of a profile, and who is told.

What a run saw is compared with what the last good runs saw when it ends, in the transaction that
ends it: what is breaking is never published as good. Everything worth telling is an event in the
ledger's outbox and a *notice*, both in that transaction; a webhook delivers notices
(:mod:`holdfast.records.webhook`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, select

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Conflict, HoldfastError, NotFound, Unavailable
from holdfast.kernel.http import Page, decode_cursor, encode_cursor
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.records import store
from holdfast.records.base import run_of, seen_run
from holdfast.records.listing import WITHHELD_HINT
from holdfast.records.model import (
    Drift,
    Freshness,
    Notice,
    Run,
    RunStatus,
    SourceColumn,
)
from holdfast.records.reading import Reading
from holdfast.records.rules import Failure, Rules
from holdfast.records.shape import (
    HISTORY_RUNS,
    SOME,
    Shape,
    column_drift,
    decode_shape,
    drift_of,
    total,
    usual_records,
)
from holdfast.registry.parts import duration_seconds

NOTICES_KEPT = 10_000
SHRUNK_SHARE = 0.5
TOLD_MAX = 20
"""Differences named in one event or notice."""
_LAST = 2**62

log = get_logger("watch")

_columns = msgspec.json.Decoder(list[SourceColumn]).decode
_drifts = msgspec.json.Decoder(list[Drift]).decode

_NEW_HISTORY = frozenset(
    {"retyped", "jumped", "unit-changed", "unit-jumped", "sign-flipped", "missing"}
)
"""After a published change of these kinds, what was before is no history any more."""


@dataclass(slots=True)
class Judgement:
    """What is to be said of what a run saw."""

    drift: list[Drift] = field(default_factory=list)
    usual: int = 0
    shrunk: bool = False
    failure: Failure | None = None

    @property
    def breaking(self) -> list[Drift]:
        return [one for one in self.drift if one.breaking]


# --- inside of transactions ---------------------------------------------------------------------


def judge(
    conn: Connection,
    tenant: str,
    rules: Rules,
    run: Row[Any],
    head: Row[Any],
    columns: Sequence[SourceColumn],
) -> Judgement:
    """Compare what the run saw with its profile's history, and note what came of it.

    Backfills and re-mappings are not compared: they are about other periods, or the same bytes.
    What the run did not ask for is no part of what it is compared with.
    """
    live = head.live - run.unasked - run.kept
    found = Judgement()
    seen = store.find(conn, store.shapes, tenant, run=run.run)
    if seen is None:  # it brought no record: that, too, can be accepted
        store.put_shape(
            conn,
            tenant=tenant,
            run=run.run,
            profile=rules.profile,
            number=run.number,
            mapping=rules.mapping,
            shape="{}",
        )
    history = _history(conn, tenant, rules, run.number) if run.kind == "collect" else []
    if history:
        shape = Shape() if seen is None else decode_shape(seen.shape)
        found.drift = drift_of(shape, total(decode_shape(row.shape) for row in history))
        found.drift += column_drift(columns, _columns(history[0].columns))
        found.usual = usual_records([row.records for row in history])
        found.shrunk = _is_shrunk(rules, run, found.usual)
        keys = _keys_changed(rules, run, live, history)
        found.drift = _allowed(rules, found.drift + ([] if keys is None else [keys]))
        found.failure = _failure(rules, run, found)
    if found.failure is None:
        found.failure = _emptied(rules, run, live, history)
    snapshot = rules.mode == "snapshot"  # others bring what is new, however little that is
    values = {"drift": _encode(found.drift), "usual": found.usual if snapshot else 0}
    store.change(conn, store.runs, store.of_key(store.runs, tenant, run=run.run), values)
    # A row that was rejected came, too: an empty history would say that nothing comes, as a rule.
    about: dict[str, Any] = {"records": _came(run), "columns": _encode(columns)}
    if rules.mode == "snapshot" and run.kind == "collect":
        about |= {"live": live, "gone": max(0, live - run.present)}
    store.change(conn, store.shapes, store.of_key(store.shapes, tenant, run=run.run), about)
    return found


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _history(conn: Connection, tenant: str, rules: Rules, number: int) -> list[Any]:
    """What the last good runs under the same mapping saw, the newest first."""
    shapes = store.shapes
    return list(
        conn.execute(
            select(shapes)
            .where(
                store.of_key(shapes, tenant, profile=rules.profile, mapping=rules.mapping),
                shapes.c.good.is_(True),
                shapes.c.number < number,
            )
            .order_by(shapes.c.number.desc())
            .limit(HISTORY_RUNS)
        )
    )


def _is_shrunk(rules: Rules, run: Row[Any], usual: int) -> bool:
    watched = rules.mode == "snapshot" and usual >= SOME
    return watched and _came(run) < SHRUNK_SHARE * usual


def _came(run: Row[Any]) -> int:
    """How many records the source sent, those whose rows were rejected with them: of such counts
    what is usual is made."""
    came: int = run.records + run.kept
    return came


def _keys_changed(rules: Rules, run: Row[Any], live: int, history: Sequence[Any]) -> Drift | None:
    """Whether as much came as ever, but hardly any key that was known.

    Breaking if the source has shown that its keys stay; else it may be one that moves on.
    """
    if rules.mode != "snapshot" or live < SOME or run.records < SHRUNK_SHARE * live:
        return None
    gone = (live - run.present) / live
    before = [row.gone / row.live for row in history if row.live >= SOME]
    if gone < 0.9 or (before and max(before) > 0.2):
        return None
    detail = f"{gone:.0%} of the known keys did not come again, as many others came"
    return Drift(field="key", kind="keys-changed", breaking=bool(before), detail=detail)


def _allowed(rules: Rules, drift: Sequence[Drift]) -> list[Drift]:
    """The same with what the profile allows not breaking any more; the breaking ones first."""
    found = [
        msgspec.structs.replace(one, breaking=False)
        if {one.field, one.kind} & rules.drift_allowed
        else one
        for one in drift
    ]
    return sorted(found, key=lambda one: not one.breaking)


def _failure(rules: Rules, run: Row[Any], found: Judgement) -> Failure | None:
    breaking = found.breaking
    if breaking and rules.drift == "fail":
        said = "; ".join(f"{one.field} {one.detail}" for one in breaking[:5])
        more = f" (and {len(breaking) - 5} more)" if len(breaking) > 5 else ""
        return ("schema-drift", f"the source changed its shape: {said}{more}"[:2000])
    if rules.shrinkage is not None and found.usual:
        least = found.usual * (100 - rules.shrinkage) / 100
        if _came(run) < least:
            return (
                "shrunk",
                f"{_came(run)} records came, usually it is {found.usual}; "
                f"expect.shrinkage allows {rules.shrinkage} percent fewer",
            )
    return None


def _emptied(rules: Rules, run: Row[Any], live: int, history: Sequence[Any]) -> Failure | None:
    """A snapshot that brings nothing would withdraw everything: an error page reads like that."""
    watched = rules.mode == "snapshot" and run.kind == "collect" and rules.drift == "fail"
    accepted = bool(history) and history[0].records == 0
    if not watched or accepted or run.records or live <= 0:
        return None
    return (
        "shrunk",
        f"no record came, {live} are published: publishing this would withdraw them all; "
        "if the source is empty indeed, `holdfast run accept` says so",
    )


def keep_shape(conn: Connection, tenant: str, run: Row[Any], drift: Sequence[Drift]) -> None:
    """Make what a published run saw part of the history; the beginning of it if it changed."""
    if run.kind in ("backfill", "merge"):
        return  # a part, or a whole past: neither is what a run of this source looks like
    shapes = store.shapes
    row = store.find(conn, shapes, tenant, run=run.run)
    if row is None:
        return
    if any(one.kind in _NEW_HISTORY for one in drift if not one.field.startswith("source.")):
        forget_history(conn, tenant, row)
    store.change(conn, shapes, store.of_key(shapes, tenant, run=run.run), {"good": True})


def forget_history(conn: Connection, tenant: str, shape: Row[Any]) -> None:
    """Let nothing before this shape count as history of its mapping."""
    shapes = store.shapes
    earlier = and_(
        store.of_key(shapes, tenant, profile=shape.profile, mapping=shape.mapping),
        shapes.c.number < shape.number,
        shapes.c.good.is_(True),
    )
    store.change(conn, shapes, earlier, {"good": False})


def told_before(conn: Connection, tenant: str, run: Row[Any], drift: Sequence[Drift]) -> bool:
    """Whether the run before this one differed in just these ways: then nobody is told again."""
    runs = store.runs
    before = conn.execute(
        select(runs.c.drift)
        .where(
            store.of_key(runs, tenant, profile=run.profile, kind="collect"),
            runs.c.number < run.number,
            runs.c.result.is_not(None),
        )
        .order_by(runs.c.number.desc())
        .limit(1)
    ).scalar()
    if before is None:
        return False
    return {(one.field, one.kind) for one in _drifts(before)} == {
        (one.field, one.kind) for one in drift
    }


def _withheld_before(conn: Connection, tenant: str, run: Row[Any]) -> bool:
    runs = store.runs
    before = conn.execute(
        select(runs.c.withheld)
        .where(
            store.of_key(runs, tenant, profile=run.profile, kind="collect", status="succeeded"),
            runs.c.number < run.number,
        )
        .order_by(runs.c.number.desc())
        .limit(1)
    ).scalar()
    return bool(before)


@dataclass(frozen=True, slots=True)
class Telling:
    """What telling somebody needs beside its content: made before the transaction."""

    ids: tuple[str, ...]
    at: datetime
    request: str


class Watching(Reading):
    """The part of the service that watches."""

    def telling(self, count: int = 3) -> Telling:
        """Ids and a time for at most ``count`` events with their notices."""
        ids = tuple(self._new_id() for _ in range(2 * count))
        return Telling(ids, self._clock.now(), request_id())

    def tell_of(
        self, conn: Connection, principal: Principal, run: Row[Any], found: Judgement, how: Telling
    ) -> None:
        """The events and notices of what a run's records look like."""
        tenant = principal.tenant
        if found.drift and not told_before(conn, tenant, run, found.drift):
            payload = {
                "breaking": len(found.breaking),
                "count": len(found.drift),
                "drift": msgspec.to_builtins(found.drift[:TOLD_MAX]),
                "profile": run.profile,
                "profile_digest": run.profile_digest,
                "run": run.run,
            }
            self.tell(conn, principal, "source.drifted", run.profile, run.run, payload, how, 0)
        if found.shrunk:
            payload = {
                "profile": run.profile,
                "records": run.records,
                "run": run.run,
                "usual": found.usual,
            }
            self.tell(conn, principal, "source.shrunk", run.profile, run.run, payload, how, 1)

    def tell_of_withheld(
        self, conn: Connection, principal: Principal, run: Row[Any], how: Telling
    ) -> None:
        """The event and notice of a run that withdraws nothing, though records did not come; not
        again while ordinary runs go on like that."""
        if not run.withheld or run.rehearsal or _withheld_before(conn, principal.tenant, run):
            return
        payload = {
            "profile": run.profile,
            "run": run.run,
            "unkeyed": run.unkeyed,
            "withheld": run.withheld,
        }
        self.tell(conn, principal, "run.withheld", run.profile, run.run, payload, how, 2)

    def tell(
        self,
        conn: Connection,
        principal: Principal,
        type_: str,
        profile: str,
        run: str,
        payload: dict[str, Any],
        how: Telling,
        number: int,
    ) -> None:
        """One event and its notice; ``number`` says which of the ids made for it are its."""
        event = Event(
            id=EventId(how.ids[2 * number]),
            stream=f"profile/{profile}",
            type=type_,
            time=how.at,
            payload=payload,
            request_id=how.request,
        )
        self._handles.outbox.emit(conn, principal, event)
        self.note(conn, principal, type_, profile, run, payload, how.ids[2 * number + 1], how.at)

    def note(
        self,
        conn: Connection,
        principal: Principal,
        type_: str,
        profile: str,
        run: str,
        payload: dict[str, Any],
        notice: str,
        at: datetime,
    ) -> None:
        """One notice; due at once if there is a webhook that wants its type."""
        store.add(
            conn,
            store.notices,
            tenant=principal.tenant,
            notice=notice,
            number=store.next_notice_number(conn, principal.tenant),
            type=type_,
            profile=profile,
            run=run,
            at=timestamp(at),
            payload=_encode(payload),
            due_at=timestamp(at) if type_ in self._settings.webhook_types else None,
        )

    # --- what people ask --------------------------------------------------------------------------

    async def accept_drift(self, principal: Principal, run: str) -> Run:
        """Say that the source is to look from now on as this run saw it.

        The next run that sees the same is published, and fewer records than before are no problem
        any more. Idempotent. ``Conflict`` for a run that neither failed because of its shape nor
        brought less than half of what is usual.
        """
        event = self._new_id()
        at, request = self._clock.now(), request_id()

        def unit(conn: Connection) -> Run:
            tenant = principal.tenant
            row = seen_run(conn, principal, run)
            failed = row.status == RunStatus.FAILED.value and row.code in _SHAPE_CODES
            code = f" ({row.code})" if row.code else ""
            if not failed and not _brought_little(row.usual, row.records):
                raise Conflict(
                    f"cannot accept what the run {run} saw: it is {row.status}"
                    f"{code}, neither failed for its shape nor shrunk",
                    code="run-not-drifted",
                    hint="nothing is to be accepted: only a run that failed for its shape, or "
                    "brought far less than usual, waits for that (`holdfast notice list`)",
                )
            if row.drift_accepted:
                return run_of(row)
            shape = store.find(conn, store.shapes, tenant, run=run)
            if shape is None:
                raise NotFound(f"cannot accept what the run {run} saw: it is not kept any more")
            forget_history(conn, tenant, shape)
            store.change(
                conn, store.shapes, store.of_key(store.shapes, tenant, run=run), {"good": True}
            )
            store.change(
                conn,
                store.runs,
                store.of_key(store.runs, tenant, run=run),
                {"drift_accepted": True},
            )
            self._handles.outbox.emit(
                conn,
                principal,
                Event(
                    id=EventId(event),
                    stream=f"profile/{row.profile}",
                    type="source.drift-accepted",
                    time=at,
                    payload={"code": row.code or "shrunk", "profile": row.profile, "run": run},
                    request_id=request,
                ),
            )
            changed = store.find(conn, store.runs, tenant, run=run)
            assert changed is not None
            return run_of(changed)

        return await self._db.write(principal, unit)

    async def notices(
        self,
        principal: Principal,
        *,
        profile: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Notice]:
        """What somebody should be told about sources, the newest first."""
        wanted, kind, table = page_size(limit), f"notices-{profile}", store.notices
        before = int(decode_cursor(kind, cursor, int)[0]) if cursor else _LAST
        conditions = [table.c.tenant == principal.tenant, table.c.number < before]
        conditions += store.within_limits(table, principal)
        if profile:
            conditions.append(table.c.profile == profile)
        statement = (
            select(table).where(*conditions).order_by(table.c.number.desc()).limit(wanted + 1)
        )
        rows = await self._db.read(principal, lambda conn: conn.execute(statement).all())
        more = encode_cursor(kind, [rows[wanted - 1].number]) if len(rows) > wanted else None
        return Page(items=[notice_of(row) for row in rows[:wanted]], next=more)

    async def freshness(self, principal: Principal) -> list[Freshness]:
        """Every profile that ever ran to its end, how old its data is, and whether that is normal.

        Nothing is wrong with a profile that was removed: it is to be silent. Also sets the gauges
        by which alerts see it.
        """
        lines = await self._lines(principal)
        return [line for line, _ in lines if principal.sees(line.profile)]

    async def _lines(self, principal: Principal) -> list[tuple[Freshness, bool | None]]:
        """The lines of :meth:`freshness`, each with whether something would be wrong with it if the
        profile had not been removed; None if that is not known for now."""
        rows = await self._db.read(
            principal, lambda conn: conn.execute(_heads(principal.tenant)).all()
        )
        now = self._clock.now()
        found: list[tuple[Freshness, bool | None]] = []
        answers = True  # a registry that hangs is waited for once
        for row in rows:
            normal = None
            if row.profile_digest is not None:
                normal = await self._normal_of(principal, row.profile, row.profile_digest)
            line = _freshness(row, normal, now)
            excused: bool | None = False
            if line.problem:  # asked of those only: the registry may be elsewhere
                excused = None
                if answers:
                    try:
                        excused = await self._removed(principal, row.profile)
                    except Unavailable as error:
                        answers = False
                        log.warning("watch.registry_silent", detail=error.detail)
            if excused:
                line = msgspec.structs.replace(
                    line, stale=False, late_seconds=0.0, drifted=0, shrunk=False, problem=""
                )
            if excused is not None:  # else the gauges stay: nobody knows that they are wrong
                self._metrics.watched(principal.tenant, line)
            found.append((line, excused))
        return found

    async def _normal_of(self, principal: Principal, profile: str, digest: str) -> str | None:
        """How long silence is normal. Kept apart from the versions: of those a few are remembered,
        and every profile is asked about by each look at all of them."""
        key = (principal.tenant, profile, digest)
        if key in self._normal:
            return self._normal[key]
        found = await self._version(principal, profile, digest)
        return self._normal.keep(key, found.profile.freshness)

    async def _removed(self, principal: Principal, profile: str) -> bool | None:
        """Whether it was; None where the registry cannot say it of this one. Raises
        :class:`Unavailable` where it says nothing at all."""
        try:
            return (await self._handles.profiles.status(principal, profile)).removed
        except NotFound:
            return False
        except Unavailable:
            raise
        except HoldfastError as error:
            log.warning("watch.not_told", profile=profile, code=error.code, detail=error.detail)
            return None

    async def watch(self, principal: Principal) -> None:
        """Tell of profiles that have gone silent, and of those that speak again. Run by a loop.

        One that was removed does neither; where nobody can say whether it was, the next turn tells.
        """
        lines = await self._lines(principal)

        def states(conn: Connection) -> dict[str, str | None]:
            heads = store.heads
            rows = conn.execute(
                select(heads.c.profile, heads.c.stale_since).where(
                    heads.c.tenant == principal.tenant
                )
            )
            return {row.profile: row.stale_since for row in rows}

        known = await self._db.read(principal, states)
        for line, excused in lines:
            if excused is not None and line.stale != (known.get(line.profile) is not None):
                turned = self._turned(principal, line, self.telling(1), quietly=excused)
                await self._db.write(principal, turned)

    def _turned(self, principal: Principal, line: Freshness, how: Telling, *, quietly: bool) -> Any:
        def unit(conn: Connection) -> None:
            tenant, heads = principal.tenant, store.heads
            key = store.of_key(heads, tenant, profile=line.profile)
            known = heads.c.stale_since.is_(None)
            condition = and_(key, known if line.stale else heads.c.stale_since.is_not(None))
            values = {"stale_since": timestamp(how.at) if line.stale else None}
            if not store.change(conn, heads, condition, values) or quietly:
                return
            payload = {
                "freshness": line.freshness or "",
                "late_seconds": int(line.late_seconds),
                "profile": line.profile,
                "succeeded_at": line.succeeded_at or "",
            }
            type_ = "source.stale" if line.stale else "source.fresh"
            self.tell(conn, principal, type_, line.profile, line.last_run, payload, how, 0)

        return unit

    async def drop_old_notices(self, principal: Principal) -> int:
        """Remove notices beyond the last ten thousand; how many they were."""

        table = store.notices

        def newest(conn: Connection) -> int:
            counter = store.find(conn, store.counters, principal.tenant)
            last = 0 if counter is None else int(counter.notices)
            old = and_(table.c.tenant == principal.tenant, table.c.number <= last - NOTICES_KEPT)
            found = conn.execute(select(table.c.number).where(old).limit(1)).first()
            return 0 if found is None else last

        last = await self._db.read(principal, newest)
        if not last:
            return 0
        old = and_(table.c.tenant == principal.tenant, table.c.number <= last - NOTICES_KEPT)
        return await self._db.write(principal, lambda conn: store.remove(conn, table, old))


def notice_of(row: Row[Any]) -> Notice:
    """A notice's row as it is read back."""
    return Notice(
        id=row.notice,
        type=row.type,
        profile=row.profile,
        run=row.run,
        at=row.at,
        data=msgspec.json.decode(row.payload),
        attempts=row.attempts,
        due_at=row.due_at,
        delivered_at=row.delivered_at,
        problem=row.problem,
    )


_SHAPE_CODES = frozenset({"schema-drift", "shrunk"})


def _brought_little(usual: int | None, records: int | None) -> bool:
    """Whether a run brought less than half of what is usual for its profile."""
    return bool(usual) and usual >= SOME and (records or 0) < SHRUNK_SHARE * usual  # type: ignore[operator]


def _heads(tenant: str) -> Any:
    heads, runs = store.heads, store.runs
    last = and_(runs.c.tenant == heads.c.tenant, runs.c.run == heads.c.last_run)
    return (
        select(
            heads,
            runs.c.status.label("last_status"),
            runs.c.code.label("last_code"),
            runs.c.reason.label("last_reason"),
            runs.c.records.label("last_records"),
            runs.c.usual,
            runs.c.withheld,
            runs.c.drift,
            runs.c.drift_accepted,
        )
        .select_from(heads.outerjoin(runs, last))
        .where(heads.c.tenant == tenant)
        .order_by(heads.c.profile)
    )


def _freshness(row: Row[Any], normal: str | None, now: datetime) -> Freshness:
    age = late = 0.0
    if row.succeeded_at is not None:
        age = max(0.0, (now - parse_timestamp(row.succeeded_at)).total_seconds())
        if normal is not None:
            late = max(0.0, age - duration_seconds(normal))
    drift = _drifts(row.drift) if row.drift else []
    shrunk = _brought_little(row.usual, row.last_records) and not row.drift_accepted
    return Freshness(
        profile=row.profile,
        publication=row.publication,
        records=row.live,
        published_at=row.recorded_at,
        succeeded_at=row.succeeded_at,
        freshness=normal,
        stale=late > 0,
        age_seconds=round(age, 3),
        late_seconds=round(late, 3),
        last_run=row.last_run or "",
        last_status=row.last_status or "",
        last_code=row.last_code or "",
        accepted=bool(row.drift_accepted),
        drifted=sum(one.breaking for one in drift) if not row.drift_accepted else 0,
        shrunk=shrunk,
        problem=_problem(row, normal, late, shrunk=shrunk),
    )


def _problem(row: Row[Any], normal: str | None, late: float, *, shrunk: bool) -> str:
    """What is wrong with the profile, in a line; empty if nothing is."""
    found = []
    if late > 0:
        found.append(f"silent since {row.succeeded_at[:19]}Z, normal is at most {normal}")
    wrong = row.last_status in (RunStatus.FAILED.value, RunStatus.PARTIAL.value)
    if wrong and not row.drift_accepted:
        found.append(f"the last run is {row.last_status}: {row.last_reason or row.last_code}")
    elif shrunk:
        found.append(
            f"the last run brought {row.last_records:,} records, usually it is {row.usual:,}; "
            f"`holdfast run accept {row.last_run}` if that is right"
        )
    if row.withheld:
        found.append(f"the last run withdrew nothing: {withheld_text(row.withheld, row.profile)}")
    return "; ".join(found)[:500]


def withheld_text(withheld: int, profile: str) -> str:
    """Why records that did not come are not withdrawn, and what can be done."""
    many = "1 record is" if withheld == 1 else f"{withheld:,} records are"
    return (
        f"{many} not in it, and of some rejected rows nobody can tell which records they are: "
        f"`holdfast reject list --profile {profile}` marks them; {WITHHELD_HINT}"
    )


__all__ = ["Judgement", "Telling", "Watching", "judge", "keep_shape", "notice_of"]
