"""Ad-hoc SQL as of any moment: equal to a replay, one tenant's only, bounded, noted."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pyarrow
import pytest

from holdfast.fleet.folding import Tasks
from holdfast.kernel.canonical import canonical
from holdfast.kernel.children import run_child
from holdfast.kernel.clock import ManualClock, parse_timestamp, timestamp
from holdfast.kernel.database import Database, open_database
from holdfast.kernel.errors import (
    Corrupt,
    Denied,
    Exhausted,
    HoldfastError,
    Invalid,
    NotFound,
    TooLarge,
)
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, ClearSealer, Outbox, commitment
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator, service
from holdfast.kernel.reads import ReadLog
from holdfast.ledger.folding import replay
from holdfast.ledger.model import Relay
from holdfast.ledger.service import LedgerService
from holdfast.records.errors import NotPublished
from holdfast.records.folding import Publications, Runs
from holdfast.reports import http
from holdfast.reports.asking import QueryService, QuerySettings
from holdfast.reports.children import QuerySandboxes
from holdfast.reports.client import QueryClient
from holdfast.reports.query import Query, QueryJob
from holdfast.reports.sandbox import _shut_process
from tests.conformance.test_ledger_projections import FOLDS, told
from tests.support.ledger import NOW, everything, parts_on
from tests.unit.reports.projections import row, write

ME = operator()
OTHER = operator(TenantId("other"))
ROLE = service("ledger")
VIEWER = Principal(ME.tenant, "viewer", PrincipalKind.KEY, frozenset({Permission.REPORTS_READ}))
SHARED = {"run": "r", "recorded_from": "2026-01-01T00:00:00.000000Z"}


class Folder:
    """Publications as files: number n of a profile has n records, and says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[str, str, int], Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.published: list[tuple[str, str, int, str]] = []
        """Of whom, what, which, and when, in their order."""
        self.lost = ""
        """A profile whose version nobody has any more."""
        self.sealed: list[str] = []
        """The columns that p1 says it lacks."""

    async def projection(
        self, principal: Principal, profile: str, *, as_of: str | None = None, vintage: str
    ) -> Any:
        self.asked.append((principal.tenant, profile))
        assert as_of is not None
        if profile == self.lost:
            raise NotFound("cannot find the version of the profile", code="profile-version-unknown")
        number = self.publication(principal.tenant, profile, as_of)
        key = (principal.tenant, profile, number)
        if key not in self._files:
            rows = [
                row("2020", "A", measures={"size": str(n)}, dimensions={"of": principal.tenant})
                | SHARED
                | {"sealed": "Y2lwaGVydGV4dA==", "subject": "hs1:who"}
                for n in range(number % 7 + 1)
            ]
            sealed = self.sealed if profile == "p1" else None
            self._files[key] = write(
                self._folder / f"{'-'.join(map(str, key))}.parquet", rows, sealed=sealed
            )
        file = self._files[key]
        return SimpleNamespace(path=file.path, digest=file.digest, publication=number)

    def publication(self, tenant: str, profile: str, moment: str) -> int:
        """What readers saw at ``moment``."""
        for of, what, number, at in reversed(self.published):
            if (of, what) == (tenant, profile) and at <= moment:
                return number
        raise NotPublished("cannot find records: nothing is published")


class Made:
    """A query service on a ledger of its own."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = ManualClock(NOW)
        parts = parts_on(database, folder, clock=self.clock)
        self.ledger = LedgerService(parts, id_source(self.clock), FOLDS)
        self.outbox = Outbox(ClearSealer())
        self.database = database
        self.folder = Folder(folder)
        self.reads = ReadLog(
            database,
            self.outbox,
            self.clock,
            id_source(self.clock),
            role="reporter",
            stream="report/queries",
            type="report.queried",
        )

    def service(self, **bounds: Any) -> QueryService:
        return QueryService(
            self.ledger, self.folder, QuerySandboxes(), self.reads, QuerySettings(**bounds)
        )

    async def history(self, seed: int, count: int, principal: Principal = ROLE) -> None:
        chance = random.Random(seed)
        events = []
        for number in range(count):
            event = told(chance, number)
            if event.type == "records.ingested":
                event = self._dated(event, principal, number)
            events.append(event)
        for first in range(0, count, 7):
            await self.ledger.relay(principal, Relay(events=events[first : first + 7]))
            self.clock.advance(2)

    def _dated(self, event: Any, principal: Principal, number: int) -> Any:
        """The event of a publication, of which the ledger hears 1 to 2 s after readers saw it."""
        at = self.clock.now() + timedelta(seconds=2 * (number // 7) - 2, milliseconds=number)
        payload = event.payload | {"recorded_at": timestamp(at)}
        self.folder.published.append(
            (principal.tenant, payload["profile"], payload["publication"], timestamp(at))
        )
        body = canonical(payload)
        return msgspec.structs.replace(
            event,
            payload=payload,
            length=len(body),
            commitment=commitment(bytes(32), body).hex(),
        )

    async def noted(self) -> list[dict[str, Any]]:
        entries = await self.database.read(
            ME, lambda conn: self.outbox.ready(conn, ME, after=BEGINNING, limit=500)
        )
        assert {e.event.type for e in entries} <= {"report.queried"}
        return [json.loads(e.payload) for e in entries]


@asynccontextmanager
async def making(database: Database, folder: Path) -> AsyncIterator[Made]:
    found = Made(database, folder)
    try:
        yield found
    finally:
        await found.reads.close()
        await found.ledger.close()


@pytest.fixture
async def both(database: Database, tmp_path: Path) -> AsyncIterator[Made]:
    """On each database in turn: what touches one."""
    async with making(database, tmp_path) as found:
        yield found


@pytest.fixture
async def made(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Made]:
    async with (
        open_database(sqlite_url, clock=ManualClock(NOW)) as database,
        making(database, tmp_path) as found,
    ):
        yield found


async def ask(service: Any, sql: str, principal: Principal = ME, **moment: Any) -> list[list[Any]]:
    return (await service.query(principal, Query(sql=sql, **moment))).rows


EVERYTHING = """
    select 'run' as what, run as name, status as said, records as n from runs
    union all select 'task', task, status, attempts from tasks
    union all select 'event', id, stream, position from events
    union all select 'profile', profile, max(content->>'$.dim_of'), count(*)
        from records group by profile
    order by all
"""


def expected(entries: list[Any], published_by: str = "") -> list[list[Any]]:
    """What a replay of the log up to a position says, by the folds and by nothing kept.

    With ``published_by`` it says so of the entries recorded by then, and of all publications that
    readers saw by then.
    """
    heard = entries
    if published_by:
        entries = [entry for entry in entries if entry.recorded <= published_by]
        heard = [
            entry
            for entry in heard
            if entry.type != "records.ingested" or entry.payload["recorded_at"] <= published_by
        ]
    runs, tasks = replay(Runs(), entries), replay(Tasks(), entries)
    published = replay(Publications(), heard)
    rows = [["run", k, s["status"], s["records"]] for k, s in runs.items()]
    rows += [["task", k, s["status"], s["attempts"]] for k, s in tasks.items()]
    rows += [["event", e.id, e.stream, e.position] for e in entries]
    rows += [["profile", k, "default", s["publication"] % 7 + 1] for k, s in published.items()]
    return sorted(rows)


async def test_everything_as_of_a_position_is_a_replay_up_to_it(both: Made) -> None:
    made = both
    await made.history(1, 60)
    asking = made.service()
    entries = await everything(made.ledger)
    chance = random.Random(2)
    for position in [0, 60, *chance.sample(range(1, 60), 2)]:
        found = await ask(asking, EVERYTHING, position=position)
        assert found == expected(entries[:position]), position
    moment = entries[30].recorded
    upto = [entry for entry in entries if entry.recorded <= moment]
    result = await asking.query(ME, Query(sql=EVERYTHING, as_of=moment))
    assert result.rows == expected(entries, moment)
    assert result.position == len(upto)
    assert {t.name for t in result.tables} >= {"events", "runs", "tasks"}


async def test_a_time_gives_the_records_that_readers_saw_then(made: Made) -> None:
    """At the very moment of a publication, and just before it."""
    await made.history(12, 60)
    asking = made.service()
    entries = await everything(made.ledger)
    moments = [at for *_, at in made.folder.published]
    assert len(moments) >= 8
    for at in random.Random(13).sample(moments, 4):
        for by in (-1, 0):
            moment = timestamp(parse_timestamp(at) + timedelta(microseconds=by))
            found = await ask(asking, EVERYTHING, as_of=moment)
            assert found == expected(entries, moment), (at, by)


async def test_a_table_that_was_not_there_yet_is_said_to_be_so(made: Made) -> None:
    await made.history(5, 40)
    profiles = sorted({what for _, what, _, _ in made.folder.published})
    before = timestamp(NOW - timedelta(seconds=30))
    with pytest.raises(Invalid) as raised:
        await ask(made.service(), f"select count(*) from {profiles[0]}", as_of=before)
    assert f"nothing of '{profiles[0]}' was published by then" in raised.value.detail
    assert raised.value.hint == "there were events, records, runs, tasks"
    listed = {row[0] for row in await ask(made.service(), "show tables", as_of=before)}
    assert not listed & set(profiles)
    now = {row[0] for row in await ask(made.service(), "show tables")}
    assert set(profiles) <= now


async def test_records_that_cannot_be_made_are_not_taken_for_unpublished(made: Made) -> None:
    await made.history(12, 60)
    *_, made.folder.lost, _, at = sorted(made.folder.published, key=lambda each: each[3])[-1]
    with pytest.raises(NotFound, match="cannot find the version"):
        await ask(made.service(), "SELECT count(*) FROM records", as_of=at)


async def test_a_query_holds_one_tenants_rows_and_only_what_it_speaks_of(both: Made) -> None:
    made = both
    await made.history(3, 40)
    await made.history(4, 40, service("ledger", OTHER.tenant))
    asking = made.service()
    assert await ask(asking, "select distinct dim_of from p1") == [["default"]]
    assert {tenant for tenant, _ in made.folder.asked} == {"default"}
    assert {profile for _, profile in made.folder.asked} == {"p1"}
    mine = {e.id for e in await everything(made.ledger)}
    assert {row[0] for row in await ask(asking, "select id from events")} == mine
    theirs = await ask(asking, "select distinct content->>'$.dim_of' from records", OTHER)
    assert theirs == [["other"]]


async def test_what_is_sealed_is_not_in_a_querys_tables(made: Made) -> None:
    await made.history(5, 40)
    names = [row[0] for row in await ask(made.service(), "describe p1")]
    assert "dim_of" in names
    assert "sealed" not in names
    [[text]] = await ask(made.service(), "select string_agg(content::varchar) from records")
    assert "Y2lwaGVydGV4dA==" not in text


async def test_a_personal_field_is_refused_by_name_and_never_answered_as_null(made: Made) -> None:
    made.folder.sealed = ["dim_who", "period_start"]
    await made.history(5, 40)
    asking = made.service()
    for sql in (
        "select count(*) from p1 where dim_who = 'jane'",
        "select p.DIM_WHO from p1 as p",
        "select count(*) from records where content->>'dim_who' = 'jane'",
        "select count(*) from records where period_start is null",
    ):
        with pytest.raises(Invalid) as raised:
            await ask(asking, sql)
        assert raised.value.code == "field-sealed", sql
        assert "record list --profile p1" in raised.value.hint
    found = await asking.query(ME, Query(sql="select * from p1"))
    assert "period_start" not in [column.name for column in found.columns]
    assert [used.sealed for used in found.tables] == [["dim_who", "period_start"]]
    others = await asking.query(ME, Query(sql="select period_start, count(*) from p0 group by 1"))
    assert [used.sealed for used in others.tables] == [[]]
    shared = await asking.query(ME, Query(sql="select profile, record_id from records"))
    assert {used.name: used.sealed for used in shared.tables}["p1"] == made.folder.sealed


async def test_each_query_is_an_event_before_it_is_answered(both: Made) -> None:
    made = both
    await made.history(6, 20)
    asking = made.service(at_once=8)
    secret = "select 'the name of a person', count(*) from events"
    await ask(asking, secret)
    [first] = await made.noted()
    assert [read["tables"] for read in first["reads"]] == [["events"]]
    assert first["reads"][0]["by"] == "operator"
    assert first["reads"][0]["position"] == 20
    assert "person" not in json.dumps(first)
    await asyncio.gather(*(made.reads.note(ME, {"n": n}) for n in range(100)))
    events = await made.noted()
    assert sum(len(e["reads"]) for e in events) == 101
    assert len(events) < 20, "what comes together is noted together"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("select * from range(2000)", "query-rows"),
        ("select repeat('x', 200000) from range(20)", "query-answer"),
        ("select sum(a.range * b.range) from range(10000000) a, range(10000000) b", "deadline|cpu"),
        (
            "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n",
            "deadline|cpu|memory",
        ),
        ("select list(range) from range(1000000000)", "query-memory"),
        ("select repeat('x', 2000000000)", "query-memory"),
        ("select distinct range % 100000000 from range(1000000000)", "memory|deadline"),
    ],
)
async def test_what_is_beyond_a_bound_is_an_error_that_names_it(sql: str, code: str) -> None:
    job_bounds = {"rows_max": 1000, "answer_bytes_max": 1_000_000, "memory_mb": 384}
    # Whatever ends by the clock may do so soon; the rest must not, however slow the machine is.
    settings = QuerySettings(seconds=2 if "deadline" in code else 60)
    asking = QueryService(None, None, QuerySandboxes(), None, settings)  # type: ignore[arg-type]
    job = QueryJob(sql=sql, format="json", exact=False, tables=[], withheld={}, **job_bounds)
    with pytest.raises(TooLarge) as refused:
        await asking._in_child(job)
    assert re.search(code, refused.value.code), refused.value


async def test_tables_that_are_too_large_are_refused(made: Made) -> None:
    await made.history(7, 60)
    with pytest.raises(TooLarge) as refused:
        await ask(made.service(input_rows_max=20), "select count(*) from events")
    assert refused.value.code == "query-input"
    found = await ask(
        made.service(input_rows_max=20), "select min(position) from events", events_from=50
    )
    assert found == [[50]]


async def test_too_many_queries_wait_and_then_are_told_to_come_back(made: Made) -> None:
    await made.history(8, 10)
    asking = made.service(at_once=1, waiting_max=1)
    answers = await asyncio.gather(
        *(ask(asking, "select 1") for _ in range(6)), return_exceptions=True
    )
    assert [[1]] in answers
    assert any(isinstance(answer, Exhausted) for answer in answers)


async def test_permission_is_asked_for_each_table(made: Made) -> None:
    await made.history(9, 30)
    asking = made.service()
    assert await ask(asking, "select 1 + 1", VIEWER) == [[2]]
    for sql in ("from events", "from runs", "from tasks", "from records"):
        with pytest.raises(Denied, match="is missing"):
            await ask(asking, sql, VIEWER)
    assert made.folder.asked == []
    with pytest.raises(HoldfastError):
        await ask(asking, "from p1", VIEWER)


async def test_whoever_is_limited_to_profiles_has_their_tables_alone(both: Made) -> None:
    await both.history(9, 60)
    asking = both.service()
    whole = await ask(asking, "select distinct profile from records order by 1")
    assert len(whole) > 1
    assert ["p1"] in whole
    limited = replace(ME, profiles=frozenset({"p1"}))
    both.folder.asked.clear()
    assert await ask(asking, "select distinct profile from records", limited) == [["p1"]]
    for table in ("runs", "tasks"):  # of these the log says no profile here, so they are of none
        assert await ask(asking, f"select count(*) > 0 from {table}") == [[True]]
        assert await ask(asking, f"select count(*) from {table}", limited) == [[0]]
    assert {profile for _, profile in both.folder.asked} == {"p1"}
    (other, *_) = [name for (name,) in whole if name != "p1"]
    for unknown in (other, "nothing"):
        with pytest.raises(Invalid) as refused:
            await ask(asking, f"select * from p1, {unknown}", limited)
        assert refused.value.code == "query-table-unknown"
        assert other not in refused.value.hint
    with pytest.raises(Denied, match="limited to some profiles, for events"):
        await ask(asking, "select * from events", limited)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (Query(sql=" "), Invalid),
        (Query(sql="select 1\x00"), Invalid),
        (Query(sql="select 1", as_of="yesterday"), Invalid),
        (Query(sql="select 1", as_of="2026-11-01T00:00Z", position=3), Invalid),
        (Query(sql="select 1", position=10**9), Invalid),
        (Query(sql="select 1", events_from=-1), Invalid),
        (Query(sql="select " + "1," * 40_000 + "1"), TooLarge),
        (Query(sql="select " + "(" * 5000 + "1" + ")" * 5000), Invalid),
        (Query(sql="select $1"), Invalid),
        (Query(sql="select 'x'::int"), Invalid),
    ],
)
async def test_bad_input_is_a_clear_error(made: Made, query: Query, kind: type) -> None:
    with pytest.raises(kind):
        await made.service().query(ME, query)


async def test_whoever_misspells_a_column_is_told_how_columns_are_spelled(made: Made) -> None:
    await made.history(12, 40)
    for sql, near in (("select of from records", "dim_of"), ("select siez from records", "size")):
        with pytest.raises(Invalid) as told:
            await ask(made.service(), sql)
        assert told.value.code == "query-failed"
        assert f"near it: {near}" in told.value.hint
        assert "NAME__double" in told.value.hint


async def test_records_that_are_not_the_logs_are_corrupt(made: Made) -> None:
    await made.history(10, 40)

    async def wrong(*args: Any, **options: Any) -> Any:
        found = await Folder.projection(made.folder, *args, **options)
        return SimpleNamespace(path=found.path, digest=found.digest, publication=10**6)

    made.folder.projection = wrong  # type: ignore[method-assign]
    with pytest.raises(Corrupt, match="publication"):
        await ask(made.service(), "select * from records")


async def test_the_service_and_its_client_answer_the_same(made: Made) -> None:
    await made.history(11, 40)
    asking = made.service()

    async def authenticate(connection: Any) -> Principal:
        return VIEWER if "viewer" in str(connection.headers.get("authorization")) else ME

    app = create_app(
        AppSpec(
            role="reporter",
            version="1",
            clock=made.clock,
            new_id=id_source(made.clock),
            handlers=http.query_handlers(asking),
            authenticate=authenticate,
            hosts=["test"],
        )
    )
    async with ApiClient(
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://test",
            headers={"authorization": "Bearer me"},
        )
    ) as api:
        client = QueryClient(api)
        query = Query(sql=EVERYTHING, position=40)
        assert await client.query(ME, query) == await asking.query(ME, query)
        wide = Query(
            sql="select 1.50::decimal(9,2) as d, 9007199254740993 as big, 2 as small, null as n,"
            " date '2020-02-03' as day, timestamptz '2020-01-01 00:00:00+01' as at, '=1+1' as f,"
            " -5 as minus, [1, 2] as list, {'a': 'b'} as pair, 'x'::blob as raw, true as yes"
        )
        [values] = (await client.query(ME, wide)).rows
        assert values == [
            "1.50",
            "9007199254740993",
            2,
            None,
            "2020-02-03",
            "2019-12-31T23:00:00.000000Z",
            "=1+1",
            -5,
            [1, 2],
            {"a": "b"},
            "78",
            True,
        ]
        csv = (await client.answer_csv(ME, wide)).decode().splitlines()
        assert csv[0] == "d,big,small,n,day,at,f,minus,list,pair,raw,yes"
        assert csv[1].startswith("1.50,9007199254740993,2,,2020-02-03,")
        assert ",'=1+1,-5," in csv[1]
        assert ",=1+1,-5," in (await client.answer_csv(ME, wide, exact=True)).decode()
        with pytest.raises(Invalid, match="read_text is not for queries"):
            await client.query(ME, Query(sql="from read_text('/etc/passwd')"))


async def test_the_process_of_a_query_can_open_nothing(made: Made, tmp_path: Path) -> None:
    """Whatever the engine were talked into: the process has no descriptor left to open."""
    answered = await run_child(
        "tests.conformance.test_queries:opened_after_shutting",
        {"path": str(tmp_path)},
        timeout_seconds=30,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
    )
    assert answered == {"file": "OSError", "socket": "OSError", "still": True}


def opened_after_shutting(payload: dict[str, Any]) -> dict[str, Any]:
    """In a child: shut the process as a query does, then try."""
    assert pyarrow.array([1]).to_pylist() == [1]
    _shut_process()
    found: dict[str, Any] = {"still": True}
    for name, attempt in (
        ("file", lambda: Path("/etc/passwd").read_bytes()),
        ("socket", lambda: socket.socket()),
    ):
        try:
            attempt()
            found[name] = "opened"
        except OSError:
            found[name] = "OSError"
    return found
