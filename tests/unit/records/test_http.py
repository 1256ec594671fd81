"""The same service over HTTP: client and routes agree, and the wire is strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.kernel.database import Database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.app import Connection
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.principal import Principal
from holdfast.records.client import RecordsClient
from holdfast.records.http import handlers
from holdfast.records.model import Batch, RecordFilter, RunFinish, RunOpen, RunStatus
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, raw, record


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(sqlite_database, tmp_path) as found:
        yield found


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[ApiClient]:
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
    async with ApiClient.for_app(app) as client:
        yield client


async def test_a_run_over_the_wire(bench: Bench, api: ApiClient) -> None:
    client, attempt = RecordsClient(api), bench.attempt()
    run, fence = attempt.run, attempt.claim.fence
    opened = await client.open(OPERATOR, attempt.grant, RunOpen(run=run, fence=fence))
    assert opened.status is RunStatus.RUNNING
    assert (await client.plan(OPERATOR, attempt.grant, run)).publication == 0
    content = b'[{"a": 1}]' * 100
    stored = await client.put_response(OPERATOR, attempt.grant, run, raw(0, content), content)
    assert not stored.repeated
    batch = Batch(
        run=run, fence=fence, sequence=0, records=[record("CA", "4.1"), record("NV", "5")]
    )
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
