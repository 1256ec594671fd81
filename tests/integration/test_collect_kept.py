"""What a run fetched is kept, also where nothing came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.collect.fixtures.faults import Fault
from holdfast.kernel.errors import Denied, NotFound
from holdfast.kernel.principal import Permission
from holdfast.keyring.model import EraseRequest
from holdfast.records.model import Run, RunStatus
from tests.integration.collecting import OPERATOR, Collecting, Line, collecting
from tests.support.waiting import until

ROWS = [{"id": f"r{i}", "v": i} for i in range(25)]
CSV = {"format": {"type": "csv"}}
COLUMNS: dict[str, Any] = {"dimensions": {"id": "id"}, "measures": {"v": "v"}}
PAGE = b"<html><body>We are down for maintenance</body></html>"
SUCCESS = {
    "format": {"type": "json", "records": "$.data[*]"},
    "success": {"path": "$.status", "equals": ["DONE"], "message": "$.message"},
}
SORRY = '{"status": "NOT", "message": "too many", "data": []}'


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        yield found


async def kept(bench: Collecting, run: Run) -> list[bytes]:
    """The bytes of each response that the run lists, as they are handed out."""
    found = []
    for one in await bench.system.records.responses(OPERATOR, run.id):
        body = await bench.system.records.response_body(OPERATOR, run.id, one.response.sequence)
        found.append(b"".join([chunk async for chunk in body.chunks]))
    return found


def line_of(bench: Collecting) -> Line:
    """A way on which the first uploads do not arrive: whatever else happens, happens first."""
    line = Line(bench.system.app)
    line.refuse["PUT /v1/runs"] = 2
    return line


def replace_times(fault: Fault, times: int) -> Fault:
    return msgspec.structs.replace(fault, times=times)


@pytest.mark.parametrize(
    ("content", "parts", "code"),
    [
        (b"id,value\na,1\n", {"source": CSV, **COLUMNS}, "parse"),
        (PAGE, {"source": CSV, **COLUMNS}, "parse"),
        (b"", {"source": CSV, **COLUMNS}, "parse"),
        (PAGE, {}, "parse"),
        (PAGE, {"source": SUCCESS}, "parse"),
        (b"", {}, "parse"),
        (b'[{"id": "a", "v": 1}, {"id": "b", "v": "many"}]', {}, "too-many-rejects"),
        (b'[{"id": "a", "v": 1}, {"id": "a", "v": 2}]', {}, "duplicate-keys"),
    ],
    ids=["renamed", "page-csv", "empty-csv", "page", "page-asked", "empty", "rejects", "twice"],
)
async def test_what_a_failed_run_fetched_is_kept(
    bench: Collecting, content: bytes, parts: dict[str, Any], code: str
) -> None:
    bench.write("data.json", content)
    await bench.publish(**parts)
    async with bench.drone(line=line_of(bench)):
        run = await bench.collect()
    assert (run.status, run.code, run.pages) == (RunStatus.FAILED, code, 1), run.reason
    assert await kept(bench, run) == [content]
    assert await bench.records() == []
    [one] = await bench.system.records.responses(OPERATOR, run.id)
    assert (one.response.status, one.response.url) == (200, f"{bench.source.url}/data.json")


async def test_an_answer_that_says_it_is_none_is_kept_and_asked_for_anew(bench: Collecting) -> None:
    bench.write("data.json", {"status": "DONE", "data": ROWS})
    sorry = Fault(kind="body", body=SORRY, media_type="application/json", times=2)
    bench.source.faults.replace([sorry])
    await bench.publish(source=SUCCESS)
    async with bench.drone(line=line_of(bench)):
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.records, run.attempts) == (RunStatus.SUCCEEDED, 25, 3)
    assert await kept(bench, run) == [(bench.files / "data.json").read_bytes()]
    assert len(bench.source.requests) == 3


async def test_of_a_run_that_never_got_an_answer_what_came_instead_is_kept(
    bench: Collecting,
) -> None:
    bench.source.faults.replace([Fault(kind="body", body=SORRY, media_type="application/json")])
    bench.write("data.json", {"status": "DONE", "data": ROWS})
    await bench.publish(source=SUCCESS)
    async with bench.drone(line=line_of(bench)):
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "source-refused")
    assert await kept(bench, run) == [SORRY.encode()]
    assert len(bench.source.requests) == run.attempts > 1


async def test_the_failure_is_told_by_another_drone_and_the_source_is_asked_once(
    bench: Collecting,
) -> None:
    """The first one dies between the upload and its report."""
    bench.write("data.json", PAGE)
    await bench.publish()
    line = line_of(bench)
    line.refuse["/finish"] = 1_000_000
    async with bench.drone("first", line=line, grace_seconds=0.0):
        task = await bench.submit()

        async def stored() -> bool:
            return line.refuse["/finish"] < 1_000_000

        await until(stored)
    async with bench.drone("second"):
        run = await bench.ended(task)
    assert (run.status, run.code, run.attempts) == (RunStatus.FAILED, "parse", 2)
    assert await kept(bench, run) == [PAGE]
    assert len(bench.source.requests) == 1


async def test_a_person_in_what_a_failed_run_fetched_is_guarded_and_erased(
    bench: Collecting,
) -> None:
    bench.write("data.json", b'[{"id": "a", "name": "Ada Lovelace", "v": 1}, {"id": ')
    await bench.publish(
        dimensions={"id": "$.id", "name": "$.name"},
        subject="dimensions.name",
        personal=["measures.v"],
    )
    async with bench.drone(line=line_of(bench)):
        run = await bench.collect()
    assert run.status is RunStatus.FAILED
    stranger = replace(OPERATOR, permissions=OPERATOR.permissions - {Permission.RECORDS_PERSONAL})
    records = bench.system.records
    with pytest.raises(Denied):
        await records.response_body(stranger, run.id, 0)
    assert [b"Ada Lovelace" in one for one in await kept(bench, run)] == [True]
    files = [path for path in (bench.root / "data").rglob("*") if path.is_file()]
    assert [path for path in files if b"Ada Lovelace" in path.read_bytes()] == []
    # Nothing of her became a record: she is not known here, and may be in the bytes all the same.
    await bench.system.subjects.erase(
        OPERATOR, EraseRequest(subject="Ada Lovelace", reason="asked", even_unknown=True)
    )
    with pytest.raises(NotFound, match="somebody who was in it"):
        await records.response_body(OPERATOR, run.id, 0)


async def test_of_an_answer_beyond_the_limit_its_beginning_is_kept(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    content = (bench.files / "data.json").read_bytes()
    bench.source.faults.replace([Fault(kind="no-length")])
    await bench.publish(limits={"max_bytes": 100})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code, run.pages) == (RunStatus.FAILED, "too-large", 1)
    assert await kept(bench, run) == [content[:100]]
    [one] = await bench.system.records.responses(OPERATOR, run.id)
    assert one.response.cut
    # One that says beforehand that it is too large is not taken at all.
    bench.source.faults.replace([])
    await bench.publish("announced", limits={"max_bytes": 100})
    async with bench.drone():
        run = await bench.collect("announced")
    assert (run.code, await kept(bench, run)) == ("too-large", [])


async def test_what_came_of_an_answer_that_broke_off_is_kept_and_no_attempt_goes_on_from_it(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    content = (bench.files / "data.json").read_bytes()
    broken = Fault(kind="cut", after_bytes=50)
    bench.source.faults.replace([broken])
    await bench.publish(limits={"retries": 1})
    async with bench.drone():
        run = await bench.collect()
        assert (run.status, run.code) == (RunStatus.FAILED, "truncated")
        assert await kept(bench, run) == [content[:50]]
        assert len(bench.source.requests) == 2 * run.attempts
        bench.source.faults.replace([replace_times(broken, 2)])
        run = await bench.collect()
    assert (run.status, run.attempts) == (RunStatus.SUCCEEDED, 2)
    assert await kept(bench, run) == [content]
    assert not (await bench.system.records.responses(OPERATOR, run.id))[0].response.cut


async def nothing_is_on_its_way() -> None:
    """While a page is uploaded, the one behind it arrives."""

    def under_way() -> bool:
        asked = (task.get_coro() for task in asyncio.all_tasks())
        return any(getattr(each, "__qualname__", "") == "Pages._fetch" for each in asked)

    await until(lambda: not under_way())


async def test_pages_that_had_come_ahead_are_kept_when_one_before_them_fails(
    bench: Collecting,
) -> None:
    form = {"type": "json", "records": "$.rows[*]"}
    for page in range(1, 4):
        bench.write(f"data_page{page}.json", {"n": 6, "rows": ROWS[page * 2 - 2 : page * 2]})
    bench.write("data_page2.json", PAGE)
    await bench.publish(
        source={"format": form, "pagination": {"type": "page", "total_records": "$.n"}},
        limits={"concurrency": 3},
    )
    line = Line(bench.system.app)
    line.hold["/responses/1"] = nothing_is_on_its_way
    async with bench.drone(line=line):
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "parse")
    pages = [(bench.files / f"data_page{number}.json").read_bytes() for number in (1, 2, 3)]
    assert await kept(bench, run) == pages
    assert await bench.records() == []


async def test_a_complete_run_keeps_no_page_that_it_asked_for_ahead_and_did_not_need(
    bench: Collecting,
) -> None:
    """The first page lets expect three, the second has all that is left, and the third breaks off:
    its beginning is no part of what was published."""
    for page, rows in ((1, ROWS[:2]), (2, ROWS[2:5]), (3, ROWS)):
        bench.write(f"data_page{page}.json", {"n": 5, "rows": rows})
    await bench.publish(
        source={
            "format": {"type": "json", "records": "$.rows[*]"},
            "pagination": {"type": "page", "total_records": "$.n"},
        },
        # Each request has a moment of its own: the third page is asked for when the second is here.
        limits={"concurrency": 2, "retries": 0, "requests_per_minute": 60},
    )
    line = Line(bench.system.app)

    async def what_comes_now_breaks_off() -> None:
        bench.source.faults.replace([Fault(kind="cut")])
        await nothing_is_on_its_way()

    line.hold["/responses/1"] = what_comes_now_breaks_off
    async with bench.drone(line=line):
        run = await bench.collect()
    assert (run.status, run.pages, run.records) == (RunStatus.SUCCEEDED, 2, 5), run.reason
    pages = [(bench.files / f"data_page{number}.json").read_bytes() for number in (1, 2)]
    assert await kept(bench, run) == pages
    assert len(bench.source.requests) == 3


async def test_the_address_that_answered_in_the_end_is_told_without_what_signs_it(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    away = f"{bench.source.url}/data.json?version=7&X-Amz-Signature=abcdef&sig=9"
    bench.source.faults.replace([Fault(kind="redirect", path="/latest", location=away)])
    await bench.publish(path="latest")
    async with bench.drone():
        run = await bench.collect()
    [one] = await bench.system.records.responses(OPERATOR, run.id)
    assert one.response.url == f"{bench.source.url}/latest"
    assert one.response.final_url == (
        f"{bench.source.url}/data.json?version=***&X-Amz-Signature=***&sig=***"
    )
    bench.source.faults.replace([])
    await bench.publish()
    async with bench.drone():
        direct = await bench.collect()
    [one] = await bench.system.records.responses(OPERATOR, direct.id)
    assert one.response.final_url == ""


async def test_where_the_bytes_of_a_failed_run_cannot_be_kept_it_says_so(tmp_path: Path) -> None:
    """The aggregator takes less than the profile allows: the failure stays what it was."""
    async with collecting(tmp_path, records_raw_bytes_max=str(2 * len(PAGE))) as bench:
        bench.write("data.json", PAGE * 3)
        await bench.publish()
        async with bench.drone():
            run = await bench.collect()
        assert (run.status, run.code) == (RunStatus.FAILED, "parse")
        assert "what the source sent is not kept: cannot keep the response 0" in run.reason
        assert await kept(bench, run) == []


@pytest.mark.parametrize("status", [400, 422, 404, 403])
async def test_a_source_may_refuse_what_is_asked_behind_its_end(
    bench: Collecting, status: int
) -> None:
    tag = {"id": "#id", "v": 9}
    bench.write("data_page0.json", {"rows": [tag, *ROWS[:2]], "more": True})
    bench.write("data_page2.json", {"rows": [tag, *ROWS[2:4]], "more": False})
    bench.source.faults.replace([Fault(kind="status", status=status, skip=2)])
    await bench.publish(
        source={
            "format": {"type": "json", "records": "$.rows[*]", "skip_rows": ["#*"]},
            "pagination": {
                "type": "offset",
                "parameter": "page",
                "limit": 3,
                "counts": "records",
                "more": "$.more",
            },
        },
        limits={"max_pages": 2, "retries": 0},
    )
    async with bench.drone():
        run = await bench.collect()
    assert len(bench.source.requests) == 3
    if status == 403:
        assert (run.status, run.code) == (RunStatus.FAILED, "http-status")
    else:
        assert (run.status, run.records) == (RunStatus.SUCCEEDED, 4), run.reason


@pytest.mark.parametrize(
    ("content", "parts", "code"),
    [(PAGE, {}, "parse"), (SORRY, {"source": SUCCESS}, "source-refused")],
)
async def test_an_attempt_ends_also_while_the_aggregator_takes_nothing(
    bench: Collecting, content: Any, parts: dict[str, Any], code: str
) -> None:
    """It gives its place back; that the bytes are not kept is said where the run has ended."""
    bench.write("data.json", content)
    await bench.publish(**parts)
    line = Line(bench.system.app)
    line.refuse["PUT /v1/runs"] = 1_000_000
    async with bench.drone(line=line, keep_seconds=0.2):
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, code)
    assert await kept(bench, run) == []
    if code == "parse":
        assert "what the source sent is not kept: the aggregator did not take it" in run.reason


async def test_a_remapping_that_fails_lists_what_it_read(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    async with bench.drone():
        await bench.collect()
        before = await bench.records()
    await bench.publish(source=CSV, **COLUMNS)
    async with bench.drone("second", line=line_of(bench)):
        run = await bench.collect(remap=True)
    assert (run.status, run.code, run.pages) == (RunStatus.FAILED, "parse", 1), run.reason
    assert await kept(bench, run) == [(bench.files / "data.json").read_bytes()]
    assert await bench.records() == before
    line = Line(bench.system.app)
    line.refuse["PUT /v1/runs"] = 1_000_000
    async with bench.drone("third", line=line, keep_seconds=0.2):
        run = await bench.collect(remap=True)
    assert (run.status, run.code) == (RunStatus.FAILED, "parse")
    assert "the aggregator did not take it" in run.reason
