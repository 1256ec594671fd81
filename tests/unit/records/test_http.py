"""The same service over HTTP: client and routes agree, and the wire is strict."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.kernel.connection import ServeLimits
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError, Invalid, Kind
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.app import Connection
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.principal import Principal
from holdfast.records.client import RecordsClient
from holdfast.records.http import handlers
from holdfast.records.model import RecordFilter, RecordPage, RunFinish, RunOpen, RunStatus
from holdfast.records.wire import GRANT_HEADER, decode_response, encode_response
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, raw, record

RUN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(sqlite_database, tmp_path) as found:
        yield found


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[ApiClient]:
    async with api_of(bench) as client:
        yield client


def api_of(bench: Bench, release: Any = None) -> ApiClient:
    async def authenticate(connection: Connection) -> Principal:
        return OPERATOR

    app = create_app(
        AppSpec(
            role="aggregator",
            version="0",
            handlers=handlers(bench.service),
            authenticate=authenticate,
        )
    )
    return ApiClient.for_app(release(app) if release else app)


class OfALaterRelease:
    """The aggregator of a later release: what it tells of responses has a member more."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent: list[Any] = []

        async def kept(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, kept if scope["type"] == "http" else send)
        body = b"".join(one.get("body", b"") for one in sent)
        body = body.replace(b'"address":', b'"since_then":["x"],"address":')
        for one in sent:
            if one["type"] == "http.response.start":
                rest = [pair for pair in one["headers"] if pair[0].lower() != b"content-length"]
                length = (b"content-length", str(len(body)).encode())
                await send({**one, "headers": [*rest, length]})
        await send({"type": "http.response.body", "body": body})


async def test_a_member_that_a_later_release_tells_of_a_response_is_passed_over(
    bench: Bench,
) -> None:
    """The servers are renewed before the drones: what these read must not fail their runs."""
    async with api_of(bench, OfALaterRelease) as later, api_of(bench) as same:
        first, client, now = bench.attempt(), RecordsClient(later), RecordsClient(same)
        await first.open()
        stored = await client.put_response(OPERATOR, first.grant, first.run, raw(0, b"[]"), b"[]")
        assert stored.response == raw(0, b"[]")
        second = bench.attempt(run=first.run, fence=2)
        await second.open()
        kept = await client.kept(OPERATOR, second.grant, first.run)
        assert kept == await now.kept(OPERATOR, second.grant, first.run) == [raw(0, b"[]")]
        known = await client.put_known(OPERATOR, second.grant, first.run, kept[0])
        assert known.response == kept[0]
        listed = await client.responses(OPERATOR, first.run)
        assert listed == await now.responses(OPERATOR, first.run)
        assert [one.response for one in listed] == kept
        # What is sent to an aggregator is as strict as it was: it would not be kept.
        body = {**msgspec.to_builtins(kept[0]), "since_then": ["x"]}
        with pytest.raises(Invalid, match="since_then"):
            await same.request(
                "POST",
                f"/v1/runs/{first.run}/responses/0/known",
                json=body,
                headers={GRANT_HEADER: second.grant},
            )


def test_the_longest_account_of_a_response_fits_into_its_header() -> None:
    """Beside what else a request has: its addresses are as long as sources make them."""
    text = {"url": 8192, "following": 8192, "final_url": 2048, "etag": 1000, "media_type": 200}
    longest = raw(0, b"[]", **{name: "x" * size for name, size in text.items()}, total="9" * 40)
    header = encode_response(longest)
    assert decode_response(header) == longest
    assert len(header) < ServeLimits().header_bytes_max - 4096
    with pytest.raises(Invalid, match="final_url"):
        decode_response(encode_response(msgspec.structs.replace(longest, final_url="x" * 2049)))


async def test_a_run_over_the_wire(bench: Bench, api: ApiClient) -> None:
    client, attempt = RecordsClient(api), bench.attempt()
    run, fence = attempt.run, attempt.claim.fence
    opened = await client.open(OPERATOR, attempt.grant, RunOpen(run=run, fence=fence))
    assert opened.status is RunStatus.RUNNING
    assert (await client.plan(OPERATOR, attempt.grant, run)).publication == 0
    content = b'[{"a": 1}]' * 100
    stored = await client.put_response(OPERATOR, attempt.grant, run, raw(0, content), content)
    assert not stored.repeated
    attempt.digests[0] = raw(0, content).digest
    batch = attempt.batch([record("CA", "4.1"), record("NV", "5")])
    receipt = await client.post_batch(OPERATOR, attempt.grant, batch)
    assert (await client.post_batch(OPERATOR, attempt.grant, batch)).repeated
    assert receipt.new == 2
    finish = RunFinish(run=run, fence=fence, outcome="complete", batches=1)
    assert (await client.finish(OPERATOR, attempt.grant, finish)).status is RunStatus.SUCCEEDED
    page = await client.records(OPERATOR, RecordFilter(profile="rates", provenance=True))
    assert page.items[0].provenance is not None
    assert page == await bench.service.records(
        OPERATOR, RecordFilter(profile="rates", provenance=True)
    )
    filtered = await client.records(
        OPERATOR, RecordFilter(profile="rates", dimensions={"state": "NV"})
    )
    assert [item.key[0] for item in filtered.items] == ["NV"]
    body = await client.response_body(OPERATOR, run, 0)
    assert b"".join([chunk async for chunk in body.chunks]) == content
    assert (await client.run(OPERATOR, run)).publication == 1
    assert [item.id for item in (await client.runs(OPERATOR)).items] == [run]
    assert [item.run for item in (await client.results(OPERATOR)).items] == [run]
    assert (await client.freshness(OPERATOR))[0].records == 2


async def test_whole_publications_over_the_wire(
    bench: Bench, api: ApiClient, tmp_path: Path
) -> None:
    client = RecordsClient(api, projections=tmp_path / "copies")
    await bench.collect([record("CA", "4.1"), record("NV", "-5", flag="=1+1")])
    here = await bench.service.projection(OPERATOR, "rates")
    there = await client.projection(OPERATOR, "rates")
    assert Path(there.path).read_bytes() == Path(here.path).read_bytes()
    assert there.path != here.path
    for kind in ("ndjson", "csv", "parquet"):
        mine = await bench.service.export(OPERATOR, "rates", format=kind)
        theirs = await client.export(OPERATOR, "rates", format=kind)
        assert (theirs.file_name, theirs.publication) == (f"rates-1.{kind}", 1)
        assert b"".join([part async for part in theirs.chunks]) == b"".join(
            [part async for part in mine.chunks]
        )
    package = await client.data_package(OPERATOR, "rates")
    assert package["resources"][0]["rows"] == 2


async def test_what_somebody_wrote_for_an_id_leads_nowhere_else(
    bench: Bench, api: ApiClient
) -> None:
    client = RecordsClient(api)
    run = (await bench.collect([record("CA", "4.1")])).id
    [one] = (await client.records(OPERATOR, RecordFilter(profile="rates"))).items
    for asked in (
        client.run(OPERATOR, f"{run}/responses"),
        client.run(OPERATOR, f"{run}?x"),
        client.record(OPERATOR, f"{one.id}/receipt"),
        client.projection(OPERATOR, "rates/info?x"),
    ):
        with pytest.raises(HoldfastError) as raised:
            await asked
        assert raised.value.kind in (Kind.NOT_FOUND, Kind.INVALID)


async def test_copies_in_a_temporary_folder_are_dropped(bench: Bench, api: ApiClient) -> None:
    client = RecordsClient(api)
    await bench.collect([record("CA", "4.1")])
    first = Path((await client.projection(OPERATOR, "rates")).path)
    assert first.exists()
    client.drop_copies()
    assert not first.parent.exists()
    assert Path((await client.projection(OPERATOR, "rates")).path).exists()
    client.drop_copies()


async def test_a_copy_that_lost_its_bytes_is_made_anew(
    bench: Bench, api: ApiClient, tmp_path: Path
) -> None:
    await bench.collect([record("CA", "4.1")])
    first = RecordsClient(api, projections=tmp_path / "copies")
    path = Path((await first.projection(OPERATOR, "rates")).path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    second = RecordsClient(api, projections=tmp_path / "copies")
    assert Path((await second.projection(OPERATOR, "rates")).path).read_bytes() == whole
    path.unlink()
    assert Path((await second.projection(OPERATOR, "rates")).path).read_bytes() == whole


async def test_copies_that_somebody_may_be_reading_stay_however_many_there_are(
    bench: Bench, api: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.records.client.PROJECTIONS_KEPT", 1)
    client = RecordsClient(api, projections=tmp_path / "copies")
    paths = []
    for fence, rate in enumerate("123", 1):
        await bench.collect([record("CA", rate)], fence=fence)
        paths.append(Path((await client.projection(OPERATOR, "rates")).path))
    assert all(path.exists() for path in paths)
    left = tmp_path / "copies" / "tmp1.part"
    left.write_bytes(b"half")
    for path in (paths[0], left):
        os.utime(path, (1, 1))
    await bench.collect([record("CA", "4")], fence=4)
    paths.append(Path((await client.projection(OPERATOR, "rates")).path))
    assert [path.exists() for path in (*paths, left)] == [False, True, True, True, False]


async def test_two_who_copy_the_same_at_once_have_both(
    bench: Bench, api: ApiClient, tmp_path: Path
) -> None:
    await bench.collect([record("CA", "4.1")])
    client = RecordsClient(api, projections=tmp_path / "copies")
    made = await asyncio.gather(*(client.projection(OPERATOR, "rates") for _ in range(4)))
    assert len({one.path for one in made}) == 1


async def test_pages_are_conditional_on_the_publication(bench: Bench, api: ApiClient) -> None:
    await bench.collect([record("CA", "1")])
    async with api.stream("GET", "/v1/records", params={"profile": "rates"}) as answer:
        tag = answer.headers["etag"]
        assert answer.headers["holdfast-publication"] == "1"
    again = {"params": {"profile": "rates"}, "headers": {"If-None-Match": tag}}
    async with api.stream("GET", "/v1/records", **again) as answer:
        assert answer.status_code == 304
        assert await answer.aread() == b""
    await bench.collect([record("CA", "2")], fence=2)
    async with api.stream("GET", "/v1/records", **again) as answer:
        assert answer.status_code == 200


async def test_a_page_of_the_past_is_not_the_same_once_it_is_known_until_when_it_held(
    bench: Bench, api: ApiClient
) -> None:
    await bench.collect([record("CA", "1")])
    page = await RecordsClient(api).records(OPERATOR, RecordFilter(profile="rates"))
    then = {"profile": "rates", "as_of": page.items[0].recorded_from}
    async with api.stream("GET", "/v1/records", params=then) as answer:
        tag = answer.headers["etag"]
    bench.clock.advance(60)
    await bench.collect([record("CA", "2")], fence=2)
    known = {"params": then, "headers": {"If-None-Match": tag}}
    async with api.stream("GET", "/v1/records", **known) as answer:
        assert answer.status_code == 200
        found = msgspec.json.decode(await answer.aread(), type=RecordPage)
    assert found.publication == 1
    assert found.items[0].recorded_to is not None


async def test_what_is_of_people_is_kept_by_nobody_and_told_anew(
    sqlite_database: Database, tmp_path: Path
) -> None:
    clinic = profile("clinic", subject="dimensions.state", personal=["measures.rate"])
    async with bench_on(sqlite_database, tmp_path, clinic) as bench, api_of(bench) as api:
        await bench.collect([record("CA", "1")], name="clinic")
        async with api.stream("GET", "/v1/records", params={"profile": "clinic"}) as answer:
            assert b'"personal":"opened"' in await answer.aread()
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers


async def test_raw_bytes_leave_only_as_a_sandboxed_attachment(bench: Bench, api: ApiClient) -> None:
    attempt = bench.attempt()
    await attempt.open()
    await attempt.respond(0, b"<script>alert(1)</script>", media_type="text/html")
    path = f"/v1/runs/{attempt.run}/responses/0/content"
    async with api.stream("GET", path) as answer:
        assert await answer.aread() == b"<script>alert(1)</script>"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("POST", "/v1/runs", {"json": {"run": RUN, "fence": 1}}, "grant-missing"),
        ("POST", "/v1/batches", {"json": {"run": RUN, "fence": 1, "sequence": 0}}, "grant-missing"),
        ("POST", "/v1/batches", {"json": {"run": RUN, "fence": 0, "sequence": 0}}, "body-invalid"),
        ("POST", "/v1/batches", {"content": b'{"run":1,"run":2}'}, "json-invalid"),
        ("PUT", f"/v1/runs/{RUN}/responses/0", {"content": b""}, "request-invalid"),
        (
            "PUT",
            f"/v1/runs/{RUN}/responses/0",
            {"content": b"", "headers": {"Holdfast-Response": "x"}},
            "header-invalid",
        ),
        ("GET", "/v1/records", {}, "request-invalid"),
        ("GET", "/v1/records", {"params": {"profile": "rates", "vintage": "x"}}, "request-invalid"),
        ("GET", "/v1/records", {"params": {"profile": "../x"}}, "request-invalid"),
        ("GET", "/v1/records", {"params": {"profile": "rates", "dimension": "x"}}, "invalid"),
        ("GET", "/v1/runs", {"params": {"status": "banana"}}, "request-invalid"),
        ("GET", "/v1/runs", {"params": {"cursor": "x"}}, "cursor-invalid"),
        ("GET", f"/v1/runs/{RUN}", {}, "run-not-found"),
        ("GET", "/v1/projections/rates", {}, "not-published"),
        ("GET", "/v1/projections/..%2Fx/info", {}, "route-not-found"),
    ],
)
async def test_what_is_refused(
    bench: Bench, api: ApiClient, method: str, path: str, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(HoldfastError) as found:
        await api.request(method, path, **options)
    assert found.value.code == code
