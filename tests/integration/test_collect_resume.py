"""A run that is taken over goes on from the pages that are stored, and asks for no other twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, update

from holdfast.collect.fixtures.faults import Fault
from holdfast.fleet.model import TaskStatus
from holdfast.kernel.clock import timestamp
from holdfast.records import store
from holdfast.records.model import RunStatus
from tests.integration.collecting import OPERATOR, Collecting, collecting
from tests.support.waiting import until

PAGES = 5


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        yield found


def write_pages(bench: Collecting, **more: Any) -> None:
    for page in range(1, PAGES + 1):
        rows = [{"id": f"p{page}r{i}", "v": i} for i in range(10)]
        bench.write(f"data_page{page}.json", {"rows": rows, "n": PAGES * 10, **more})


def paged(pagination: dict[str, Any], **parts: Any) -> dict[str, Any]:
    form = {"type": "json", "records": "$.rows[*]"}
    return {"format": form, "pagination": pagination, **parts}


NUMBERED = {"type": "page", "total_records": "$.n", "number": "$.page"}


def sent(bench: Collecting) -> Counter[str]:
    """How often each page was sent whole."""
    return Counter(
        seen.target.partition("page=")[2] or "1"
        for seen in bench.source.requests
        if seen.status == 200
    )


async def stopped_before_page(bench: Collecting, number: int, **parts: Any) -> Any:
    """A run whose first drone was stopped while the source kept it waiting for that page."""
    bench.source.faults.replace([Fault(kind="silent", skip=number - 1, times=1)])
    async with bench.drone("first", grace_seconds=0.0):
        task = await bench.submit(**parts)

        async def asked() -> bool:
            return len(bench.source.requests) >= number

        await until(asked)
    assert (await bench.task(task)).status is TaskStatus.QUEUED
    return task


@pytest.mark.parametrize("kind", ["page", "link", "offset-like"])
async def test_an_attempt_goes_on_where_the_last_one_was_stopped(
    bench: Collecting, kind: str
) -> None:
    write_pages(bench)
    pagination: dict[str, Any] = {"type": "page", "total_records": "$.n"}
    path = "data.json"
    if kind == "link":
        pagination, path = {"type": "link"}, "data.json?page=1"
    if kind == "offset-like":
        for page in range(1, PAGES + 1):
            rows = [{"id": f"p{page}r{i}", "v": i} for i in range(10)]
            following = page + 1 if page < PAGES else None
            bench.write(f"data_page{page}.json", {"rows": rows, "next": following})
        pagination = {"type": "cursor", "parameter": "page", "path": "$.next"}
    await bench.publish(path=path, source=paged(pagination))
    task = await stopped_before_page(bench, 4)
    async with bench.drone("second"):
        run = await bench.ended(task)
    assert (run.status, run.records, run.pages) == (RunStatus.SUCCEEDED, 50, PAGES)
    assert sent(bench) == {str(page): 1 for page in range(1, PAGES + 1)}
    assert run.requests == 2, "of this attempt"
    records = await bench.records()
    places = [(r.provenance.response, r.provenance.position) for r in records if r.provenance]
    assert sorted(places) == [(page, row) for page in range(PAGES) for row in range(10)]
    kept = await bench.system.records.responses(OPERATOR, run.id)
    assert [one.response.sequence for one in kept] == list(range(PAGES))


async def test_pages_asked_for_by_post_are_told_apart_by_what_was_posted(
    bench: Collecting,
) -> None:
    rows = [{"id": f"r{i}", "v": i} for i in range(10)]
    bench.write("data.json", {"rows": rows, "n": 10})
    first = str(bench.system.clock.now().year - 2)
    windows = {
        "start_parameter": "from", "end_parameter": "to", "start": first, "span": "1y",
        "format": "%Y", "end": "inclusive", "into": "body",
    }  # fmt: skip
    source = {"method": "POST", "body": "{}", "windows": windows}
    form = {"type": "json", "records": "$.rows[*]"}
    await bench.publish(source={"format": form, **source}, duplicates="last")
    task = await stopped_before_page(bench, 3)
    async with bench.drone("second"):
        run = await bench.ended(task)
        assert (run.status, run.pages, run.requests) == (RunStatus.SUCCEEDED, 3, 1)
        asked = [seen.body for seen in bench.source.requests]
        assert asked[2] == asked[3]
        assert len(set(asked)) == 3
        assert msgspec.json.decode(asked[0]) == {"from": first, "to": first}
        again = await bench.collect()
    # A condition on a POST means another thing: the bytes are compared instead.
    assert again.status is RunStatus.UNCHANGED
    assert "if-none-match" not in bench.source.requests[-1].headers


async def test_a_page_that_nobody_has_read_to_its_end_is_fetched_again(bench: Collecting) -> None:
    """Its length is known from the connection's end alone, and the attempt ended in it."""
    write_pages(bench)
    bench.source.faults.replace(
        [
            Fault(kind="no-length", skip=2, times=1),
            Fault(kind="cut", skip=2, times=1, after_bytes=60),
        ]
    )
    await bench.publish(source=paged({"type": "page", "total_records": "$.n"}))
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 50)
    assert sent(bench) == {"1": 1, "2": 1, "3": 2, "4": 1, "5": 1}
    [first] = (await bench.task(task)).history
    assert first.code == "truncated"


async def test_pages_fetched_longer_ago_than_a_run_may_take_are_fetched_again(
    bench: Collecting,
) -> None:
    write_pages(bench)
    await bench.publish(source=paged({"type": "page", "total_records": "$.n"}))
    task = await stopped_before_page(bench, 4)
    earlier = timestamp(bench.system.clock.now() - timedelta(hours=2))

    def age(conn: Connection) -> None:
        made = update(store.responses).where(store.responses.c.tenant == OPERATOR.tenant)
        conn.execute(made.where(store.responses.c.sequence == 1).values(fetched_at=earlier))

    await bench.system.records._handles.db.write(OPERATOR, age)
    async with bench.drone("second"):
        run = await bench.ended(task)
    assert run.status is RunStatus.SUCCEEDED
    # What came behind the old page does not follow from the new one.
    assert sent(bench) == {"1": 1, "2": 2, "3": 2, "4": 1, "5": 1}


# --- 304, page by page --------------------------------------------------------------------------


async def test_only_the_pages_that_changed_are_sent_again(bench: Collecting) -> None:
    write_pages(bench)
    await bench.publish(source=paged({"type": "page", "total_records": "$.n"}))
    async with bench.drone():
        await bench.collect()
        rows = [{"id": f"p3r{i}", "v": 100 + i} for i in range(10)]
        bench.write("data_page3.json", {"rows": rows, "n": PAGES * 10})
        bench.source.forget_requests()
        run = await bench.collect()
        assert (run.status, run.changed, run.unchanged) == (RunStatus.SUCCEEDED, 10, 40)
        assert sent(bench) == {"3": 1}
        assert run.bytes_fetched == (bench.files / "data_page3.json").stat().st_size
        assert run.requests == PAGES
        kept = await bench.system.records.responses(OPERATOR, run.id)
        assert [one.response.status for one in kept] == [304, 304, 200, 304, 304]
        body = await bench.system.records.response_body(OPERATOR, run.id, 0)
        data = b"".join([chunk async for chunk in body.chunks])
        assert data == (bench.files / "data_page1.json").read_bytes()
        again = await bench.collect()
    assert (again.status, again.bytes_fetched) == (RunStatus.UNCHANGED, 0)


async def test_last_modified_does_where_there_is_no_etag(bench: Collecting) -> None:
    bench.source.faults.replace([Fault(kind="no-etag")])
    write_pages(bench)
    await bench.publish(source=paged({"type": "page", "total_records": "$.n"}))
    async with bench.drone():
        await bench.collect()
        again = await bench.collect()
    assert (again.status, again.bytes_fetched) == (RunStatus.UNCHANGED, 0)
    assert bench.source.requests[-1].status == 304
    assert "if-none-match" not in bench.source.requests[-1].headers


async def test_the_first_page_speaks_for_all_where_the_profile_says_so(bench: Collecting) -> None:
    write_pages(bench)
    source = paged({"type": "page", "total_records": "$.n"}, unchanged="first-page")
    await bench.publish(source=source)
    async with bench.drone():
        await bench.collect()
        bench.source.forget_requests()
        again = await bench.collect()
    assert (again.status, again.requests) == (RunStatus.UNCHANGED, 1)
    assert [seen.status for seen in bench.source.requests] == [304]


# --- several at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pages", "windows"])
async def test_pages_are_asked_for_side_by_side_and_read_in_their_order(
    bench: Collecting, kind: str
) -> None:
    """The source takes its time, and never has more than four requests to answer."""
    write_pages(bench)
    source: dict[str, Any] = paged({"type": "page", "total_records": "$.n"})
    pages = PAGES
    if kind == "windows":
        bench.write("data.json", {"rows": [{"id": "r", "v": 1}]})
        first = str(bench.system.clock.now().year - 5)
        source = {"format": {"type": "json", "records": "$.rows[*]"}, "windows": {
            "start_parameter": "from", "end_parameter": "to", "start": first, "span": "1y",
            "format": "%Y", "end": "inclusive",
        }}  # fmt: skip
        pages = 6
    bench.source.faults.replace([Fault(kind="delay", seconds=1)])
    await bench.publish(source=source, limits={"concurrency": 4}, duplicates="last")
    async with bench.drone():
        run = await bench.collect()
        assert (run.status, run.pages) == (RunStatus.SUCCEEDED, pages)
        assert 2 <= bench.source.busiest <= 4
        again = await bench.collect()
    assert again.status is RunStatus.UNCHANGED
    kept = await bench.system.records.responses(OPERATOR, run.id)
    numbers = [one.response.url.rpartition("=")[2] for one in kept]
    assert numbers == sorted(numbers)
