"""Tokens, quotas, robots.txt and pages in disorder: how a drone keeps to what a source asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from holdfast.collect.fixtures.faults import Fault
from holdfast.collect.fixtures.guards import Guards
from holdfast.fleet.model import TaskStatus
from holdfast.kernel.clock import timestamp
from holdfast.records.model import RunStatus
from tests.integration.collecting import OPERATOR, Collecting, Line, collecting
from tests.support.waiting import until

ROWS = [{"id": f"r{i}", "v": i} for i in range(10)]
SECRET = "s3cret/value+"
OAUTH = {
    "url": "https://api.example.org/data.json",
    "auth": {
        "type": "oauth2-client-credentials",
        "token_url": "https://api.example.org/oauth/token",
        "client_id": "me",
        "client_secret": "secret://env/CLIENT",
        "scope": "read",
    },
}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        found.secrets |= {
            "HOLDFAST_SECRET_CLIENT": SECRET,
            "HOLDFAST_SECRET_CLIENT_HOSTS": "api.example.org",
        }
        yield found


# --- OAuth 2 ------------------------------------------------------------------------------------


async def test_a_token_is_fetched_kept_and_renewed_once_it_is_refused(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.gate.replace(Guards(client=f"me:{SECRET}"))
    await bench.publish(source=OAUTH)
    async with bench.drone():
        for _ in range(2):
            run = await bench.collect(force=True)
            assert (run.status, run.records) == (RunStatus.SUCCEEDED, 10)
        assert bench.source.gate.issued == 1
        bench.source.gate.forget_tokens()
        bench.source.forget_requests()
        run = await bench.collect(force=True)
        assert run.status is RunStatus.SUCCEEDED
        assert [seen.status for seen in bench.source.requests][:2] == [401, 200]
        assert bench.source.gate.issued == 2
        tokens = {seen.headers["authorization"] for seen in bench.source.requests}
    kept = b"".join(p.read_bytes() for p in bench.root.rglob("*") if p.is_file())
    assert b"data.json" in kept
    for secret in (SECRET, *(token.removeprefix("Bearer ") for token in tokens)):
        assert secret.encode() not in kept


async def test_a_source_that_takes_no_token_is_asked_twice_and_no_more(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.gate.replace(Guards(client=f"me:{SECRET}"))
    bench.source.faults.replace([Fault(kind="status", status=401, path="/data.json")])
    await bench.publish(source=OAUTH)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "http-status")
    assert [seen.status for seen in bench.source.requests] == [401, 401]


async def test_a_client_that_is_not_known_fails_the_run_without_a_word_of_its_secret(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    bench.source.gate.replace(Guards(client="me:another"))
    await bench.publish(source=OAUTH)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "token-refused")
    assert "answered 401" in run.reason
    assert SECRET not in run.reason
    assert bench.source.count("/data.json") == 0


# --- quotas -------------------------------------------------------------------------------------


def write_pages(bench: Collecting, name: str, count: int = 5) -> None:
    for page in range(1, count + 1):
        rows = [{"id": f"p{page}r{i}", "v": i} for i in range(10)]
        bench.write(f"{name}_page{page}.json", {"rows": rows, "total": count * 10, "page": page})


def paged(**pagination: Any) -> dict[str, Any]:
    form = {"type": "json", "records": "$.rows[*]"}
    return {"format": form, "pagination": {"type": "page", **pagination}}


async def test_two_drones_keep_one_daily_quota_and_go_on_the_next_day(bench: Collecting) -> None:
    for name in ("one", "two"):
        write_pages(bench, name)
        await bench.publish(
            name,
            path=f"{name}.json",
            source=paged(total_records="$.total"),
            limits={"requests_per_day": 7},
        )
    async with bench.drone("first"), bench.drone("second"):
        tasks = [await bench.submit(name) for name in ("one", "two")]

        async def stopped() -> bool:
            codes = [(await bench.task(task)).code for task in tasks]
            return "quota" in codes and bench.source.count() == 7

        await until(stopped)
        [waiting] = [
            task for task in [await bench.task(task) for task in tasks] if task.code == "quota"
        ]
        run = await bench.run_of(waiting)
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        assert run.status is RunStatus.INTERRUPTED
        assert f"7 requests a day are used up until {tomorrow}" in run.reason
        assert waiting.status is TaskStatus.QUEUED
        assert waiting.available_at >= f"{tomorrow}T00:00"

        def next_day(conn: Connection) -> None:
            """What the coordinator would find then."""
            tenant = {"tenant": OPERATOR.tenant}
            back = "UPDATE lease_counters SET window_start = window_start - 86400"
            conn.execute(
                text(f"{back} WHERE tenant = :tenant AND counter LIKE 'requests %'"), tenant
            )
            now = {**tenant, "now": timestamp(bench.system.clock.now())}
            due = (
                "UPDATE tasks SET available_at = :now WHERE tenant = :tenant AND state = 'waiting'"
            )
            conn.execute(text(due), now)

        await bench.system.fleet.database.write(OPERATOR, next_day)
        ended = [await bench.ended(task, seconds=60) for task in tasks]
    assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 2
    # What was fetched the day before was not fetched again: ten pages are ten requests.
    assert bench.source.count() == 10


async def test_two_drones_keep_one_pace_together(bench: Collecting) -> None:
    """Twelve requests at four a second take their time, whoever makes them."""
    for name in ("one", "two"):
        write_pages(bench, name, 6)
        await bench.publish(
            name,
            path=f"{name}.json",
            source=paged(total_records="$.total") | {"robots": "they know"},
            limits={"requests_per_minute": 240},
        )
    async with bench.drone("first"), bench.drone("second"):
        begun = asyncio.get_running_loop().time()
        tasks = [await bench.submit(name) for name in ("one", "two")]
        ended = [await bench.ended(task, seconds=60) for task in tasks]
        took = asyncio.get_running_loop().time() - begun
    assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 2
    assert len({run.worker for run in ended}) == 2
    assert bench.source.count() == 12
    assert took >= 11 * 0.25


async def test_each_request_to_a_source_has_its_moment_whatever_it_is_for(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    bench.write("robots.txt", "User-agent: *\nAllow: /")
    bench.source.gate.replace(Guards(client=f"me:{SECRET}"))
    limits = {"requests_per_minute": 60_000}
    await bench.publish("with-robots", source={"robots": ""}, limits=limits)
    await bench.publish("with-token", source=OAUTH, limits=limits)
    line = Line(bench.system.app)

    def moments() -> int:
        return sum(n for call, n in line.seen.items() if call.endswith("/pace"))

    async with bench.drone(line=line):
        bench.source.gate.forget_tokens()
        for requests in (
            {"/oauth/token": 1, "/data.json": 1},
            {"/oauth/token": 1, "/data.json": 2},
        ):
            before = moments()
            run = await bench.collect("with-token", force=True)
            assert run.status is RunStatus.SUCCEEDED
            assert {path: bench.source.count(path) for path in requests} == requests
            assert moments() - before >= sum(requests.values())  # a moment may pass unused
            bench.source.gate.forget_tokens()
            bench.source.forget_requests()
        bench.source.gate.replace(Guards())
        before = moments()
        run = await bench.collect("with-robots")
        assert run.status is RunStatus.SUCCEEDED
        assert [seen.target for seen in bench.source.requests] == ["/robots.txt", "/data.json"]
        assert moments() - before >= 2


# --- robots.txt ---------------------------------------------------------------------------------


async def test_what_the_publisher_asks_programs_not_to_fetch_is_not_fetched(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    bench.write("robots.txt", "User-agent: *\nDisallow: /data")
    await bench.publish()
    await bench.publish("agreed", source={"robots": "they asked us to, by letter of 3 May"})
    async with bench.drone():
        run = await bench.collect()
        assert (run.status, run.code) == (RunStatus.FAILED, "robots")
        assert "source.robots" in run.reason
        assert bench.source.count("/data.json") == 0
        assert bench.source.count("/robots.txt") == 1
        agreed = await bench.collect("agreed")
    assert agreed.status is RunStatus.SUCCEEDED
    assert bench.source.count("/robots.txt") == 1
    [seen] = [seen for seen in bench.source.requests if seen.target == "/robots.txt"]
    assert seen.headers["user-agent"].startswith("Holdfast/")


async def test_a_publisher_who_cannot_say_what_he_asks_is_asked_later(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.faults.replace([Fault(kind="status", status=503, path="/robots.txt", times=2)])
    await bench.publish()
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task, seconds=60)
    assert run.status is RunStatus.SUCCEEDED
    assert [attempt.code for attempt in (await bench.task(task)).history] == ["http-status"]


# --- pages in disorder --------------------------------------------------------------------------

NUMBERED = {"total_records": "$.total", "number": "$.page", "end": "missing"}
TOTAL = {"total_records": "$.total", "end": "missing"}
DISORDER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (NUMBERED, {"kind": "page-loop"}, "same bytes as page 1"),
    (NUMBERED, {"kind": "page-missing"}, "number 2 was asked for, and the source gave number 3"),
    (NUMBERED, {"kind": "page-twice"}, "same bytes as page 2"),
    (NUMBERED, {"kind": "page-empty"}, "says 50 records and gave 10"),
    (NUMBERED, {"kind": "total-wrong", "delta": 1}, "says 51 records and gave 50"),
    (NUMBERED, {"kind": "total-wrong", "delta": -1}, "says 49 records and gave 50"),
    (TOTAL, {"kind": "page-missing"}, "says 50 records and gave 40"),
    (TOTAL, {"kind": "page-missing", "page": 5}, "gave 40"),
    ({"type": "link"}, {"kind": "page-twice", "page": 4}, "same bytes as page 4"),
    ({"type": "link"}, {"kind": "page-missing", "page": 3}, "answered 404"),
]


async def test_pages_in_disorder_are_never_published(bench: Collecting) -> None:
    write_pages(bench, "data")
    async with bench.drone():
        for number, (pagination, fault, said) in enumerate(DISORDER):
            name = f"disorder-{number}"
            path = "data.json?page=1" if pagination.get("type") == "link" else "data.json"
            await bench.publish(name, path=path, source=paged(**pagination))
            bench.source.faults.replace([])
            good = await bench.collect(name, force=True)
            assert (good.status, good.records) == (RunStatus.SUCCEEDED, 50), name
            bench.source.faults.replace([Fault(**fault)])
            run = await bench.collect(name, force=True)
            code = "http-status" if "404" in said else "pagination"
            assert (run.status, run.code) == (RunStatus.FAILED, code), (name, run)
            assert said in run.reason, run.reason
            assert len(await bench.records(name)) == 50


async def test_a_source_that_gives_less_than_it_says_is_partial_where_the_profile_says_so(
    bench: Collecting,
) -> None:
    write_pages(bench, "data")
    bench.source.faults.replace([Fault(kind="total-wrong", delta=5)])
    await bench.publish(source=paged(**TOTAL, incomplete="partial"))
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code, run.records) == (RunStatus.PARTIAL, "incomplete", 50)
    assert await bench.records() == []
