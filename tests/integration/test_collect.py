"""A drone, the system and a source: what a run comes to."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from holdfast.collect.fixtures.faults import Fault
from holdfast.fleet.model import Task
from holdfast.records.model import RunFilter, RunStatus
from holdfast.registry.versions import LimitsOverride, OverridesChange
from tests.integration.collecting import OPERATOR, Collecting, collecting
from tests.support.waiting import until

ROWS = [{"id": f"r{i}", "v": i} for i in range(25)]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        yield found


async def test_a_source_is_collected_mapped_and_published(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.records, run.new, run.pages, run.requests) == (
        RunStatus.SUCCEEDED, 25, 25, 1, 1,
    )  # fmt: skip
    records = await bench.records()
    assert [(r.key, r.measures["v"].value) for r in records] == [
        ([f"r{i}"], str(i)) for i in range(25)
    ]
    [provenance] = {r.provenance.url for r in records if r.provenance}
    assert provenance == f"{bench.source.url}/data.json"
    assert [path.name for path in (bench.root / "spool" / "drone-1").iterdir()] == [".lock"]


# --- unchanged ----------------------------------------------------------------------------------


async def test_what_the_source_says_is_unchanged_is_not_fetched_again(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    async with bench.drone():
        await bench.collect()
        again = await bench.collect()
        assert (again.status, again.batches, again.bytes_fetched) == (RunStatus.UNCHANGED, 0, 0)
        assert bench.source.requests[-1].status == 304
        forced = await bench.collect(force=True)
    assert (forced.status, forced.new, forced.unchanged) == (RunStatus.SUCCEEDED, 0, 25)
    assert bench.source.requests[-1].status == 200


async def test_the_same_bytes_are_unchanged_where_the_source_does_not_say(
    bench: Collecting,
) -> None:
    bench.source.faults.replace([Fault(kind="no-validators")])
    bench.write("data.json", ROWS)
    await bench.publish()
    async with bench.drone():
        await bench.collect()
        again = await bench.collect()
    assert (again.status, again.batches) == (RunStatus.UNCHANGED, 0)
    assert [seen.status for seen in bench.source.requests] == [200, 200]


async def test_what_changed_is_changed_and_what_is_gone_is_withdrawn(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish()
    async with bench.drone():
        await bench.collect()
        bench.write("data.json", [{"id": "r0", "v": 100}, *ROWS[5:], {"id": "new", "v": 1}])
        run = await bench.collect()
    assert (run.status, run.new, run.changed, run.withdrawn) == (RunStatus.SUCCEEDED, 1, 1, 4)
    assert len(await bench.records()) == 22


# --- pages --------------------------------------------------------------------------------------


def write_pages(bench: Collecting, count: int = 3, size: int = 10) -> None:
    for page in range(count):
        rows = [{"id": f"p{page}r{i}", "v": i} for i in range(size)]
        bench.write(f"data_page{page + 1}.json", {"rows": rows, "pages": count})


PAGED = {"format": {"type": "json", "records": "$.rows[*]"}, "pagination": {"type": "page"}}


async def test_all_pages_are_one_run(bench: Collecting) -> None:
    write_pages(bench)
    await bench.publish(source={**PAGED, "pagination": {"type": "page", "total_pages": "$.pages"}})
    async with bench.drone():
        run = await bench.collect()
        assert (run.status, run.pages, run.records) == (RunStatus.SUCCEEDED, 3, 30)
        assert {
            (r.provenance.response, r.provenance.position)
            for r in await bench.records()
            if r.provenance
        } == {(page, row) for page in range(3) for row in range(10)}
        again = await bench.collect()
        assert again.status is RunStatus.UNCHANGED
        assert bench.source.requests[-1].status == 304
        rows = [{"id": f"x{i}", "v": 1} for i in range(10)]
        bench.write("data_page2.json", {"rows": rows, "pages": 3})
        changed = await bench.collect()
    assert (changed.status, changed.new, changed.unchanged, changed.withdrawn) == (
        RunStatus.SUCCEEDED, 10, 20, 10,
    )  # fmt: skip


async def test_rows_that_are_skipped_count_where_a_page_is_short(bench: Collecting) -> None:
    """Else the first of three pages looks like the last, and what the others hold is withdrawn."""
    form = {**PAGED["format"], "skip_rows": ["Total"]}
    short = {"type": "page", "size_parameter": "size", "size": 3, "end": "short"}
    write_pages(bench, count=3, size=3)
    bench.write("data_page4.json", {"rows": []})
    await bench.publish(source={"format": form, "pagination": short})
    async with bench.drone():
        await bench.collect()
        for page in range(3):
            rows = [*({"id": f"p{page}r{i}", "v": i} for i in range(2)), {"id": "Total", "v": 1}]
            bench.write(f"data_page{page + 1}.json", {"rows": rows})
        run = await bench.collect()
    assert (run.status, run.pages, run.unchanged, run.withdrawn) == (
        RunStatus.SUCCEEDED, 4, 6, 3,
    )  # fmt: skip


async def test_pages_without_validators_are_compared_by_their_bytes(bench: Collecting) -> None:
    bench.source.faults.replace([Fault(kind="no-validators")])
    write_pages(bench)
    await bench.publish(source={**PAGED, "pagination": {"type": "page", "total_pages": "$.pages"}})
    async with bench.drone():
        await bench.collect()
        again = await bench.collect()
        assert (again.status, again.batches) == (RunStatus.UNCHANGED, 0)
        bench.write("data_page3.json", {"rows": [{"id": "last", "v": 1}], "pages": 3})
        changed = await bench.collect()
    assert (changed.status, changed.new, changed.withdrawn, changed.pages) == (
        RunStatus.SUCCEEDED, 1, 10, 3,
    )  # fmt: skip


async def test_links_are_followed(bench: Collecting) -> None:
    write_pages(bench)
    await bench.publish(source={**PAGED, "pagination": {"type": "link"}}, path="data.json?page=1")
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.pages, run.records) == (RunStatus.SUCCEEDED, 3, 30)


async def test_a_source_that_repeats_its_first_page_for_ever_fails(bench: Collecting) -> None:
    write_pages(bench)
    bench.source.faults.replace([Fault(kind="page-loop")])
    await bench.publish(source=PAGED)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "pagination")
    assert bench.source.count() <= 3
    assert await bench.records() == []


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "code", "kept"),
    [
        ({"max_pages": 2}, "limit-pages", 20),
        ({"max_records": 15}, "limit-records", 15),
        ({"max_bytes": 300}, "limit-bytes", 10),
    ],
)
async def test_a_limit_ends_the_run_as_partial_and_nothing_is_published(
    bench: Collecting, limits: dict[str, Any], code: str, kept: int
) -> None:
    write_pages(bench)
    await bench.publish(source=PAGED, limits=limits)
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.code, run.records) == (RunStatus.PARTIAL, code, kept)
    assert await bench.records() == []
    assert (await bench.task(task)).attempts == 1


async def test_one_answer_beyond_the_limit_fails_the_run(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish(limits={"max_bytes": 100})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "too-large")


async def test_the_deadline_of_a_run_ends_it_as_partial(bench: Collecting) -> None:
    write_pages(bench, size=30)
    slow = Fault(kind="slow", path="*", skip=1, bytes_per_second=20)
    bench.source.faults.replace([slow])
    await bench.publish(source=PAGED, limits={"max_duration": "6s"})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code, run.records) == (RunStatus.PARTIAL, "deadline", 30)


async def test_the_operator_s_limits_hold_instead_of_the_profile_s(bench: Collecting) -> None:
    write_pages(bench)
    await bench.publish(source=PAGED)
    change = OverridesChange(limits=LimitsOverride(max_records=7))
    await bench.system.registry.override(OPERATOR, "test", change)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code, run.records) == (RunStatus.PARTIAL, "limit-records", 7)


# --- failures -----------------------------------------------------------------------------------


async def test_a_source_that_is_busy_for_a_moment_is_asked_again(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.faults.replace([Fault(kind="status", status=503, retry_after="0", times=2)])
    await bench.publish()
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.requests, run.attempts) == (RunStatus.SUCCEEDED, 3, 1)


async def test_a_source_that_does_not_answer_is_tried_again_by_a_later_attempt(
    bench: Collecting,
) -> None:
    bench.write("data.json", ROWS)
    bench.source.faults.replace([Fault(kind="reset", times=2)])
    await bench.publish(limits={"retries": 0})
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    ended = await bench.task(task)
    assert (run.status, run.attempts, ended.attempts) == (RunStatus.SUCCEEDED, 3, 3)
    assert [attempt.code for attempt in ended.history] == ["unreachable", "unreachable"]


async def test_between_two_attempts_the_run_says_what_it_waits_for(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.faults.replace([Fault(kind="status", status=503, retry_after="600")])
    await bench.publish(limits={"retries": 0})
    async with bench.drone():
        task = await bench.submit()

        async def waits() -> bool:
            runs = await bench.system.records.runs(OPERATOR, RunFilter(run=task.payload["run"]))
            return [run.status for run in runs.items] == [RunStatus.INTERRUPTED]

        await until(waits)
        run = await bench.run_of(task)
    assert (run.code, run.finished_at) == ("http-status", None)
    assert "503" in run.reason


async def test_a_source_that_never_answers_fails_in_the_end(bench: Collecting) -> None:
    bench.source.faults.replace([Fault(kind="reset")])
    await bench.publish(limits={"retries": 0})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "unreachable")


@pytest.mark.parametrize(
    ("content", "parts", "code"),
    [
        (None, {}, "http-status"),
        (b'[{"id": 1, "v": 2}', {}, "parse"),
        (b"<html>sorry</html>", {}, "parse"),
        (b'[{"id": "a", "id": "b"}]', {}, "parse"),
        (b"[" * 100 + b"]" * 100, {}, "parse-bound"),
        (b"[1]", {"source": {"format": {"type": "json", "records": "$.rows[*]"}}}, "parse"),
    ],
)
async def test_what_will_not_heal_fails_at_once_and_publishes_nothing(
    bench: Collecting, content: bytes | None, parts: dict[str, Any], code: str
) -> None:
    if content is not None:
        bench.write("data.json", content)
    await bench.publish(**parts)
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.code) == (RunStatus.FAILED, code)
    assert run.reason
    assert (await bench.task(task)).attempts == 1
    assert await bench.records() == []


async def test_rows_that_fail_are_kept_as_rejects(bench: Collecting) -> None:
    bench.write("data.json", [*ROWS, {"id": "bad", "v": "many"}, {"v": 1}])
    await bench.publish("strict")
    await bench.publish("tolerant", max_rejects=2)
    async with bench.drone():
        strict = await bench.collect("strict")
        tolerant = await bench.collect("tolerant")
    assert (strict.status, strict.rejects) == (RunStatus.FAILED, 2)
    assert (tolerant.status, tolerant.records, tolerant.rejects) == (RunStatus.SUCCEEDED, 25, 2)
    assert await bench.records("strict") == []
    rejects = await bench.system.records.rejects(OPERATOR, RunFilter(run=tolerant.id))
    assert [(r.field, r.position) for r in rejects.items] == [("v", 25), ("key", 26)]


async def test_an_answer_that_may_be_cut_is_fetched_again(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.source.faults.replace(
        [Fault(kind="no-length", times=1), Fault(kind="cut", after_bytes=200, times=1)]
    )
    await bench.publish(limits={"retries": 0})
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 25)
    assert [attempt.code for attempt in (await bench.task(task)).history] == ["truncated"]


async def test_the_address_guard_holds_for_drones(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish(source={"url": "http://127.0.0.1:9/data.json"})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, "guard-refused")


# --- secrets ------------------------------------------------------------------------------------

URL = "https://api.example.org/data.json"
KEY = {"type": "api-key", "key": "secret://env/KEY"}
AUTH = {"url": URL, "auth": {**KEY, "header": "X-Key"}}


async def test_a_bound_secret_reaches_the_source_and_nothing_else(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    bench.secrets["HOLDFAST_SECRET_KEY"] = "s3cr3t-value"
    bench.secrets["HOLDFAST_SECRET_KEY_HOSTS"] = "api.example.org"
    await bench.publish("header", source=AUTH)
    await bench.publish("query", source={"url": URL, "auth": {**KEY, "parameter": "key"}})
    async with bench.drone():
        header = await bench.collect("header")
        assert bench.source.requests[-1].headers["x-key"] == "s3cr3t-value"
        query = await bench.collect("query")
        assert bench.source.requests[-1].target.endswith("?key=s3cr3t-value")
        unchanged = await bench.collect("query")
    assert [run.status for run in (header, query, unchanged)] == [
        RunStatus.SUCCEEDED, RunStatus.SUCCEEDED, RunStatus.UNCHANGED,
    ]  # fmt: skip
    assert {r.provenance.url for r in await bench.records("query") if r.provenance} == {
        f"{URL}?key=***"
    }
    state = b"".join(p.read_bytes() for p in (bench.root / "data").rglob("*") if p.is_file())
    assert b"s3cr3t-value" not in state
    assert b"data.json" in state


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, "secret-refused"),
        ({"HOLDFAST_SECRET_KEY": "x"}, "secret-refused"),
        (
            {"HOLDFAST_SECRET_KEY": "x", "HOLDFAST_SECRET_KEY_HOSTS": "other.example"},
            "secret-refused",
        ),
        ({"HOLDFAST_SECRET_KEY_HOSTS": "api.example.org"}, "secret-missing"),
    ],
)
async def test_a_secret_that_is_not_bound_or_not_there_is_not_sent(
    bench: Collecting, variables: dict[str, str], code: str
) -> None:
    bench.write("data.json", ROWS)
    bench.secrets.update(variables)
    await bench.publish(source=AUTH)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.code) == (RunStatus.FAILED, code)
    assert bench.source.count() == 0


# --- incremental --------------------------------------------------------------------------------


async def test_an_incremental_source_goes_on_where_it_ended(bench: Collecting) -> None:
    bench.write("data.json", [{"id": "a", "v": 1, "t": "2020-05-01T00:00:00Z"}])
    cursor = {"path": "$.t", "parameter": "since", "start": "2020-01-01", "overlap": "1h"}
    await bench.publish(mode="incremental", cursor=cursor)
    async with bench.drone():
        first = await bench.collect()
        bench.write("data.json", [{"id": "b", "v": 2, "t": "2020-06-01T00:00:00Z"}])
        second = await bench.collect()
        bench.write("data.json", b"no json")
        broken = await bench.collect()
        bench.write("data.json", [])
        third = await bench.collect()
    asked = [seen.target.partition("since=")[2] for seen in bench.source.requests]
    assert asked == [
        "2020-01-01",
        "2020-04-30T23:00:00Z",
        "2020-05-31T23:00:00Z",
        "2020-05-31T23:00:00Z",
    ]
    assert [r.status.value for r in (first, second, broken, third)] == [
        "succeeded", "succeeded", "failed", "succeeded",
    ]  # fmt: skip
    assert second.cursor == third.cursor == "2020-06-01T00:00:00.000000Z"
    assert sorted(r.key[0] for r in await bench.records()) == ["a", "b"]  # type: ignore[type-var]


async def _has_been_tried(bench: Collecting, task: Task) -> bool:
    return bool((await bench.task(task)).history)


@pytest.mark.parametrize("about_people", [False, True])
async def test_a_failed_run_tells_what_the_source_says_unless_it_is_about_people(
    bench: Collecting, *, about_people: bool
) -> None:
    """What a run's reason says goes into the log, where nothing is erased."""
    bench.write("data.json", b'{"error": {"message": "no such layer"}}')
    personal = {"subject": "dimensions.id"} if about_people else {}
    form = {"type": "json", "records": "$.features[*]"}
    await bench.publish(source={"format": form}, **personal)
    async with bench.drone():
        unread = await bench.collect()
        bench.source.faults.replace([Fault(kind="status", status=400, body="Unknown column")])
        refused = await bench.collect()
        bench.source.faults.replace([])
        asked = {"path": "$.ok", "equals": ["yes"], "message": "$.error.message"}
        await bench.publish(source={"format": form, "success": asked}, **personal)
        task = await bench.submit()
        await until(lambda: _has_been_tried(bench, task))
        [attempt, *_] = (await bench.task(task)).history
    assert ("no such layer" in attempt.reason) is not about_people
    assert [run.status for run in (unread, refused)] == [RunStatus.FAILED] * 2
    assert "nothing at $.features" in unread.reason
    assert "answered 400" in refused.reason
    assert ("no such layer" in unread.reason) is not about_people
    assert ("Unknown column" in refused.reason) is not about_people


async def test_a_cursor_in_an_expression_arrives_as_one(bench: Collecting) -> None:
    bench.write("data.json", [{"id": "a", "v": 1, "t": "2020-05-01T00:00:00.000"}])
    cursor = {
        "path": "$.t", "parameter": "$where", "template": "t > '{value}'",
        "start": "2020-01-01T00:00:00.000000", "format": "%Y-%m-%dT%H:%M:%S.%f",
    }  # fmt: skip
    await bench.publish(mode="incremental", cursor=cursor)
    async with bench.drone():
        runs = [await bench.collect(), await bench.collect()]
    assert [run.status for run in runs] == [RunStatus.SUCCEEDED] * 2
    asked = [parse_qs(urlsplit(seen.target).query) for seen in bench.source.requests]
    assert [each["$where"] for each in asked] == [
        ["t > '2020-01-01T00:00:00.000000'"],
        ["t > '2020-05-01T00:00:00.000000'"],
    ]


# --- other ways of asking and answering ---------------------------------------------------------


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "about")
        archive.writestr(name, content)
    return buffer.getvalue()


LINES = b"".join(msgspec.json.encode(row) + b"\n" for row in ROWS)
TABLE = b"id,v\n" + b"".join(f"{row['id']},{row['v']}\n".encode() for row in ROWS)
COLUMNS = {"dimensions": {"id": "id"}, "measures": {"v": "v"}}
CSV = {"format": {"type": "csv"}}


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.ndjson", LINES, {"source": {"format": {"type": "ndjson"}}}),
        ("a.csv", TABLE, {"source": CSV, **COLUMNS}),
        ("a.bin", gzip.compress(TABLE), {"source": {**CSV, "compression": "gzip"}, **COLUMNS}),
        ("b.bin", gzip.compress(TABLE), {"source": CSV, **COLUMNS}),
        ("a.bz2", bz2.compress(TABLE), {"source": {**CSV, "compression": "bzip2"}, **COLUMNS}),
        ("a.zz", zlib.compress(TABLE), {"source": {**CSV, "compression": "deflate"}, **COLUMNS}),
        (
            "a.zip",
            zipped("data/a.csv", TABLE),
            {"source": {**CSV, "compression": "zip", "member": "*.csv"}, **COLUMNS},
        ),
    ],
)
async def test_formats_and_compressions(
    bench: Collecting, name: str, content: bytes, parts: dict[str, Any]
) -> None:
    bench.write(name, content)
    await bench.publish(path=name, **parts)
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 25)
    assert {r.measures["v"].value for r in await bench.records()} == {str(i) for i in range(25)}


async def test_a_query_is_posted(bench: Collecting) -> None:
    bench.write("data.json", ROWS)
    await bench.publish(source={"method": "POST", "body": '{"years": [2020]}'})
    async with bench.drone():
        run = await bench.collect()
    [seen] = bench.source.requests
    assert (seen.method, seen.size_bytes) == ("POST", 17)
    assert seen.headers["content-type"] == "application/json"
    assert run.status is RunStatus.SUCCEEDED


async def test_an_answer_that_says_it_is_none_is_asked_again(bench: Collecting) -> None:
    good = {"status": "REQUEST_SUCCEEDED", "data": ROWS}
    bench.write("data.json", good)
    sorry = '{"status": "REQUEST_NOT_PROCESSED", "message": ["too many"], "data": []}'
    bench.source.faults.replace(
        [Fault(kind="body", body=sorry, media_type="application/json", times=1)]
    )
    success = {"path": "$.status", "equals": ["REQUEST_SUCCEEDED"], "message": "$.message[0]"}
    source = {"format": {"type": "json", "records": "$.data[*]"}, "success": success}
    await bench.publish(source=source)
    async with bench.drone():
        task = await bench.submit()
        run = await bench.ended(task)
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 25)
    [first] = (await bench.task(task)).history
    assert (first.code, first.reason) == (
        "source-refused",
        "cannot use the answer: the source says 'too many'",
    )


async def test_what_an_answer_says_of_itself_is_read_in_the_encoding_of_its_profile(
    bench: Collecting,
) -> None:
    bench.write(
        "data.json", '{"status": "vollständig", "data": [{"id": "ö", "v": 1}]}'.encode("cp1252")
    )
    form = {"type": "json", "records": "$.data[*]", "encoding": "cp1252"}
    success = {"path": "$.status", "equals": ["vollständig"]}
    await bench.publish(source={"format": form, "success": success})
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 1), run.reason
    [record] = await bench.records()
    assert record.key == ["ö"]


async def test_a_wide_table_is_unpivoted(bench: Collecting) -> None:
    bench.write("data.csv", "account,2020,2021,note\nA,1,..,x\nB,2,3,y\n")
    await bench.publish(
        path="data.csv",
        source=CSV,
        nulls=["", ".."],
        unpivot={"columns": r"\d{4}"},
        key=["dimensions.account", "period"],
        dimensions={"account": "account"},
        measures={"amount": "#value"},
        period={"path": "#column", "frequency": "A"},
    )
    async with bench.drone():
        run = await bench.collect()
    assert (run.status, run.records) == (RunStatus.SUCCEEDED, 3)
    assert [(r.key, r.measures["amount"].value) for r in await bench.records()] == [
        (["A", "2020"], "1"),
        (["B", "2020"], "2"),
        (["B", "2021"], "3"),
    ]
