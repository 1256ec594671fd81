"""What reports promise, asked of the service and of its client, on both databases."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import importlib
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import text

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, Denied, Exhausted, HoldfastError, Invalid, NotFound
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.objects import Objects, open_objects
from holdfast.kernel.outbox import BEGINNING, ClearSealer, Entry, Outbox
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from holdfast.kernel.secrets import TenantSecrets
from holdfast.registry.document import write_document
from holdfast.registry.validate import load_profile
from holdfast.registry.versions import ProfileVersion
from holdfast.reports import http
from holdfast.reports.client import ReportsClient
from holdfast.reports.compute import records_of
from holdfast.reports.model import ReportSpec
from holdfast.reports.service import RENDER, ReportsService, ReportsSettings
from holdfast.reports.spec import convert_spec
from tests.support.waiting import until
from tests.unit.registry.profiles import GOOD
from tests.unit.reports.projections import Row, row, series, write

Reports = ReportsService | ReportsClient
ME = operator()
READER = Principal(ME.tenant, "reader", PrincipalKind.KEY, frozenset({Permission.REPORTS_READ}))
WRITER = Principal(ME.tenant, "writer", PrincipalKind.KEY, frozenset({Permission.REPORTS_WRITE}))
OTHER = operator(TenantId("other"))
CALLERS = {"me": ME, "reader": READER, "writer": WRITER, "other": OTHER}


@dataclass(frozen=True)
class Published:
    path: str
    publication: int
    digest: str


class Folder:
    """Projections of a folder, and the profiles they are of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._published: dict[tuple[str, str], Published] = {}
        self.asked: list[tuple[str, str | None, str]] = []
        self.answers: list[Published] = []

    def publish(self, profile: str, rows: list[Row], tenant: str = ME.tenant) -> None:
        before = self._published.get((tenant, profile))
        number = 1 + (before.publication if before else 0)
        file = write(self._folder / f"{tenant}-{profile}-{number}.parquet", rows)
        self._published[tenant, profile] = Published(file.path, number, file.digest)

    def current(self, profile: str) -> Published:
        return self._published[ME.tenant, profile]

    async def projection(
        self,
        principal: Principal,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: str = "latest",
    ) -> Published:
        self.asked.append((profile, as_of, vintage))
        if self.answers:
            return self.answers.pop(0)
        found = self._published.get((principal.tenant, profile))
        if found is None:
            raise NotFound(f"cannot find a publication of {profile}", code="not-published")
        return found

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        del principal, digest
        if name == "removed":
            raise NotFound("cannot find the profile removed")
        profile = load_profile(write_document(GOOD | {"name": name}).encode())
        return ProfileVersion(
            name=name, digest="", profile=profile, published_at="", published_by=""
        )


class Here:
    """Children without a process: what a child would do, done here. Counts what was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None

    async def call(
        self, target: str, job: bytes, *, deadline_seconds: float, memory_mb: int
    ) -> bytes:
        del deadline_seconds, memory_mb
        self.calls.append(target)
        if self.gate is not None:
            await self.gate.wait()
        module, _, name = target.partition(":")
        answer: bytes = getattr(importlib.import_module(module), name)(job)
        return answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path)
    found.publish("a", years(20))
    found.publish("b", years(20, 2.0))
    return found


@pytest.fixture
def children() -> Here:
    return Here()


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[Objects]:
    secrets = TenantSecrets.open(tmp_path / "secrets", may_create=True)
    async with open_objects(f"file://{tmp_path / 'objects'}", secrets) as found:
        yield found


@pytest.fixture
def service(
    database: Database, objects: Objects, folder: Folder, children: Here, clock: ManualClock
) -> ReportsService:
    return ReportsService(
        database,
        objects,
        Outbox(ClearSealer()),
        folder,
        folder,
        children,
        clock,
        id_source(clock),
        ReportsSettings(at_once=1, waiting_max=2),
    )


@pytest.fixture
def app(service: ReportsService, clock: ManualClock) -> Any:
    async def authenticate(connection: Any) -> Principal:
        return CALLERS[connection.headers["authorization"].removeprefix("Bearer ")]

    return create_app(
        AppSpec(
            role="reporter",
            version="0",
            handlers=http.handlers(service),
            authenticate=authenticate,
            clock=clock,
        )
    )


@pytest.fixture
async def api(app: Any) -> AsyncIterator[ApiClient]:
    async with ApiClient.for_app(app, token="me") as client:
        yield client


@pytest.fixture
async def raw(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": "Bearer me"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers
    ) as client:
        yield client


@pytest.fixture(params=["service", "client"])
def reports(request: pytest.FixtureRequest, service: ReportsService, api: ApiClient) -> Reports:
    return service if request.param == "service" else ReportsClient(api)


def years(count: int, factor: float = 1.0) -> list[Row]:
    return series([(str(2000 + i), str(i * factor)) for i in range(count)])


PAIR: dict[str, dict[str, Any]] = {
    "a": {"profile": "a", "measures": ["value"]},
    "b": {"profile": "b", "measures": ["value"]},
}


def spec(name: str = "pair", **members: Any) -> ReportSpec:
    return convert_spec(
        {
            "version": 1,
            "name": name,
            "inputs": PAIR,
            "join": {"on": ["year"]},
            "output": {"type": "correlation", "x": "a.value", "y": "b.value"},
            **members,
        }
    )


async def events(database: Database) -> list[Entry]:
    outbox = Outbox(ClearSealer())
    return await database.read(ME, lambda conn: outbox.ready(conn, ME, BEGINNING, 100))


# --- one report ---------------------------------------------------------------------------------


async def test_a_report_carries_the_exact_inputs_it_used(reports: Reports, folder: Folder) -> None:
    report = await reports.run(ME, spec())
    assert report.correlation is not None
    assert report.correlation.levels.pearson_r is not None
    assert abs(float(report.correlation.levels.pearson_r) - 1) < 1e-12
    used = {i.name: i for i in report.inputs}
    assert used["a"].digest == folder.current("a").digest
    assert (used["a"].publication, used["a"].rows, used["a"].rows_used) == (1, 20, 20)
    assert used["a"].credit.publisher
    assert await reports.show(ME, report.id) == report


async def test_the_same_again_is_the_same_report(
    reports: Reports, children: Here, database: Database
) -> None:
    first = await reports.run(ME, spec())
    again = await reports.run(ME, spec())
    assert not first.unchanged
    assert again.unchanged
    assert msgspec.structs.replace(again, unchanged=False) == first
    assert len(children.calls) == 1
    assert len(await events(database)) == 1


async def test_a_new_publication_is_a_new_report_and_the_old_one_stays(
    reports: Reports, folder: Folder
) -> None:
    first = await reports.run(ME, spec())
    folder.publish("a", years(10))
    second = await reports.run(ME, spec())
    assert not second.unchanged
    assert second.id != first.id
    assert second.spec_digest == first.spec_digest
    assert second.inputs_root != first.inputs_root
    assert (await reports.show(ME, first.id)).row_count == 20
    assert second.row_count == 10


async def test_concurrent_runs_of_the_same_make_one_report(
    reports: Reports, database: Database
) -> None:
    found = await asyncio.gather(*(reports.run(ME, spec()) for _ in range(3)))
    assert len({report.id for report in found}) == 1
    assert sum(not report.unchanged for report in found) == 1
    assert len(await events(database)) == 1


async def test_the_event_is_written_with_the_report(reports: Reports, database: Database) -> None:
    report = await reports.run(ME, spec())
    (entry,) = await events(database)
    assert entry.event.type == "report.computed"
    assert entry.event.stream == f"report/{report.id}"
    assert entry.event.payload["inputs_root"] == report.inputs_root
    assert entry.event.payload["outputs_root"] == report.outputs_root
    assert entry.event.payload["spec_digest"] == report.spec_digest
    row_ = await database.read(
        ME,
        lambda conn: conn.execute(
            text("SELECT event_id FROM reports WHERE tenant = :tenant"), {"tenant": ME.tenant}
        ).one(),
    )
    assert row_.event_id == entry.event.id


async def test_a_cell_is_provable_under_the_roots(reports: Reports) -> None:
    table = spec(output={"type": "table"}, derive={"sum": "a.value + b.value"})
    report = await reports.run(ME, table)
    leaves = [
        merkle.leaf_hash(
            canonical(
                {
                    "cells": cells,
                    "records": dict.fromkeys(("a", "b"), records_of([f"r{index:08d}@1"])),
                    "row": index,
                }
            )
        )
        for index, cells in enumerate(report.rows)
    ]
    proof = merkle.inclusion_proof(leaves, 7)
    root = bytes.fromhex(report.outputs_root)
    merkle.check_inclusion(leaves[7], 7, report.row_count, proof, root)
    forged = merkle.leaf_hash(canonical({"row": 7, "cells": ["2007", "7.0", "14.0", "22.0"]}))
    with pytest.raises(HoldfastError):
        merkle.check_inclusion(forged, 7, report.row_count, proof, root)
    inputs = [
        merkle.leaf_hash(
            canonical(
                {
                    "as_of": None,
                    "digest": used.digest,
                    "name": used.name,
                    "profile": used.profile,
                    "publication": used.publication,
                    "vintage": "latest",
                }
            )
        )
        for used in report.inputs
    ]
    assert merkle.root(inputs).hex() == report.inputs_root


async def test_as_of_and_vintage_are_asked_for(reports: Reports, folder: Folder) -> None:
    past = {"profile": "a", "measures": ["value"], "as_of": "2025-01-01T00:00:00Z"}
    first = {"profile": "b", "measures": ["value"], "vintage": "first"}
    report = await reports.run(ME, spec(inputs={"a": past, "b": first}))
    assert ("a", "2025-01-01T00:00:00Z", "latest") in folder.asked
    assert ("b", None, "first") in folder.asked
    assert report.inputs[0].as_of == "2025-01-01T00:00:00Z"


async def test_records_outlive_a_removed_profile(reports: Reports, folder: Folder) -> None:
    folder.publish("removed", years(3))
    alone = {"a": {"profile": "removed", "measures": ["value"]}}
    report = await reports.run(ME, spec(inputs=alone, join=None, output={"type": "table"}))
    assert report.inputs[0].credit.publisher == ""
    assert report.notes == []
    # Nobody knows any more in which zone its days are: that they are UTC's is said.
    by = {"aggregate": {"by": ["year"]}}
    timed = {"a": {**alone["a"], **by}, "b": {"profile": "b", "measures": ["value"], **by}}
    [note] = [n for n in (await reports.run(ME, spec(inputs=timed))).notes if "UTC" in n]
    assert note.startswith("a: the registry does not know the profile removed, so days")
    assert "UTC's; inputs.a.timezone" in note
    chosen = {**timed, "a": {**timed["a"], "timezone": "UTC"}}
    assert not any("UTC" in n for n in (await reports.run(ME, spec(inputs=chosen))).notes)


async def test_a_projection_replaced_under_our_hands_is_looked_for_again(
    reports: Reports, folder: Folder, tmp_path: Path
) -> None:
    gone = Published(str(tmp_path / "gone.parquet"), 1, "sha256:" + "0" * 64)
    folder.answers = [gone, folder.current("b")]
    assert (await reports.run(ME, spec())).row_count == 20


async def test_bytes_that_stay_wrong_are_reported(service: ReportsService, folder: Folder) -> None:
    Path(folder.current("a").path).write_bytes(b"PAR1 but not the one")
    with pytest.raises(Corrupt) as caught:
        await service.run(ME, spec())
    assert caught.value.code == "report-input-corrupt"


# --- refusals -----------------------------------------------------------------------------------


async def test_every_problem_of_a_spec_comes_back(reports: Reports) -> None:
    good = spec()
    assert good.join is not None
    wrong = msgspec.structs.replace(
        good,
        derive={"c": "nothing + 1", "d": "a.value +"},
        output=msgspec.structs.replace(good.output, x="no.column"),
    )
    with pytest.raises(Invalid) as caught:
        await reports.run(ME, wrong)
    assert caught.value.code == "report-invalid"
    assert {problem.path for problem in caught.value.problems} == {
        "derive.c",
        "derive.d",
        "output.x",
    }


async def test_what_the_data_does_not_allow_is_named(reports: Reports, folder: Folder) -> None:
    with pytest.raises(NotFound) as missing:
        await reports.run(
            ME,
            spec(
                inputs={"a": {"profile": "nothing", "measures": ["value"]}},
                join=None,
                output={"type": "table"},
            ),
        )
    assert missing.value.code == "not-published"
    folder.publish("a", years(20) + years(20))
    with pytest.raises(Invalid) as repeated:
        await reports.run(ME, spec())
    assert repeated.value.code == "report-duplicate-keys"
    assert "year=2000" in repeated.value.detail
    folder.publish("a", years(2))
    with pytest.raises(Invalid) as few:
        await reports.run(ME, spec())
    assert few.value.code == "report-too-few-rows"


async def test_a_failed_run_leaves_nothing(
    reports: Reports, folder: Folder, database: Database
) -> None:
    folder.publish("a", years(2))
    with pytest.raises(Invalid):
        await reports.run(ME, spec())
    assert (await reports.list(ME)).items == []
    assert await events(database) == []


async def test_unknown_reports_formats_and_cursors_are_refused(reports: Reports) -> None:
    report = await reports.run(ME, spec())
    with pytest.raises(NotFound) as caught:
        await reports.show(ME, "019a0000-0000-7000-8000-000000000000")
    assert caught.value.code == "report-unknown"
    with pytest.raises(Invalid):
        await reports.data(ME, report.id, "xlsx")  # type: ignore[arg-type]
    with pytest.raises(HoldfastError):
        await reports.chart(ME, report.id, "gif")  # type: ignore[arg-type]
    for cursor in ("nonsense", "e30"):
        with pytest.raises(Invalid):
            await reports.list(ME, cursor=cursor)
    with pytest.raises(Invalid):
        await reports.list(ME, since="yesterday")
    with pytest.raises(Invalid) as reversed_:
        await reports.list(ME, since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z")
    assert reversed_.value.code == "range-reversed"
    with pytest.raises(Invalid):
        await reports.list(ME, limit=0)


async def test_when_too_many_wait_the_rest_is_told_to_come_back(
    service: ReportsService, children: Here
) -> None:
    children.gate = asyncio.Event()
    running = [asyncio.create_task(service.run(ME, spec(f"s{i}"))) for i in range(3)]
    await until(lambda: service._turns.waiting == 2)
    with pytest.raises(Exhausted) as caught:
        await service.run(ME, spec("one-too-many"))
    assert caught.value.retry_after_seconds
    children.gate.set()
    assert len({report.id for report in await asyncio.gather(*running)}) == 3


# --- who may, and whose -------------------------------------------------------------------------


async def test_readers_read_and_do_not_run(app: Any, service: ReportsService) -> None:
    report = await service.run(ME, spec())
    async with ApiClient.for_app(app, token="reader") as api:
        client = ReportsClient(api)
        assert (await client.show(READER, report.id)).id == report.id
        with pytest.raises(Denied):
            await client.run(READER, spec("another"))


async def test_whoever_may_not_read_records_computes_nothing_over_them(
    app: Any, service: ReportsService
) -> None:
    with pytest.raises(Denied, match="records:read"):
        await service.run(WRITER, spec())
    async with ApiClient.for_app(app, token="writer") as api:
        with pytest.raises(Denied, match="records:read"):
            await ReportsClient(api).run(WRITER, spec())


async def test_reports_of_another_tenant_do_not_exist(
    app: Any, service: ReportsService, folder: Folder
) -> None:
    mine = await service.run(ME, spec())
    async with ApiClient.for_app(app, token="other") as api:
        client = ReportsClient(api)
        assert (await client.list(OTHER)).items == []
        for call in (client.show, client.data, client.chart):
            with pytest.raises(NotFound):
                await call(OTHER, mine.id)
        with pytest.raises(NotFound):
            await client.run(OTHER, spec())
        folder.publish("a", years(5), tenant=OTHER.tenant)
        folder.publish("b", years(5), tenant=OTHER.tenant)
        theirs = await client.run(OTHER, spec())
    assert theirs.id != mine.id
    assert [item.id for item in (await service.list(ME)).items] == [mine.id]


async def test_a_report_is_theirs_who_may_see_all_that_it_was_made_of(
    service: ReportsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [(await service.run(ME, spec(f"s{number}"))).id for number in range(3)]
    both, one = (replace(ME, profiles=frozenset(names)) for names in ({"a", "b", "c"}, {"a"}))
    found, cursor = [], None
    while True:
        page = await service.list(both, limit=1, cursor=cursor)
        found += [item.id for item in page.items]
        if (cursor := page.next) is None:
            break
    assert found == made[::-1]
    assert (await service.run(both, spec("s0"))).unchanged
    page = await service.list(one, limit=1)
    assert (page.items, page.next) == ([], None)
    for bound in ("LIMITED_STEP", "LIMITED_MAX"):
        monkeypatch.setattr(f"holdfast.reports.service.{bound}", 2)
    page = await service.list(one, limit=1)
    assert page.items == []
    page = await service.list(one, limit=1, cursor=page.next or "none: all was looked through")
    assert (page.items, page.next) == ([], None)
    for call in (service.show, service.data, service.chart):
        with pytest.raises(NotFound):
            await call(one, made[0])
    with pytest.raises(Denied) as refused:
        await service.run(one, spec("s0"))
    assert refused.value.code == "out-of-scope"


# --- lists --------------------------------------------------------------------------------------


async def test_lists_are_newest_first_in_pages_that_skip_nothing(
    reports: Reports, clock: ManualClock
) -> None:
    made = []
    for index in range(5):
        made.append((await reports.run(ME, spec(f"s{index}"))).name)
        clock.advance(60)
    first = await reports.list(ME, limit=2)
    assert [item.name for item in first.items] == ["s4", "s3"]
    late = await reports.run(ME, spec("late"))  # committed between two pages
    second = await reports.list(ME, limit=2, cursor=first.next)
    third = await reports.list(ME, limit=2, cursor=second.next)
    names = [item.name for page in (first, second, third) for item in page.items]
    assert names == list(reversed(made))
    assert third.next is None
    assert (await reports.list(ME, limit=1)).items[0].name == late.name
    assert (await reports.list(ME, limit=1)).items[0].headline == "r=1.000, n=20"


async def test_lists_narrow_to_a_name_and_a_span(reports: Reports, clock: ManualClock) -> None:
    for name in ("early", "pair", "late"):
        await reports.run(ME, spec(name))
        clock.advance(3600)
    assert [item.name for item in (await reports.list(ME, name="pair")).items] == ["pair"]
    page = await reports.list(ME, since="2026-01-01T01:00:00Z", until="2026-01-01T02:00:00Z")
    assert [item.name for item in page.items] == ["pair"]
    page = await reports.list(ME, since="2026-01-01T02:00:00+01:00")
    assert [item.name for item in page.items] == ["late", "pair"]


# --- taking it away -----------------------------------------------------------------------------


async def test_data_comes_in_three_forms_of_the_same_rows(reports: Reports) -> None:
    import pyarrow.parquet

    report = await reports.run(ME, spec(output={"type": "table", "order": ["-year"]}))
    found = json.loads(await reports.data(ME, report.id))
    assert found["rows"] == report.rows
    lines = list(csv.reader(io.StringIO((await reports.data(ME, report.id, "csv")).decode())))
    assert lines[0] == ["year", "a.value", "b.value"]
    assert lines[1:] == report.rows
    parquet = await reports.data(ME, report.id, "parquet")
    assert f"sha256:{hashlib.sha256(parquet).hexdigest()}" == report.data_digest
    table = pyarrow.parquet.read_table(io.BytesIO(parquet))
    assert table.column("a.value__double").to_pylist() == [float(i) for i in range(19, -1, -1)]


async def test_rows_beyond_the_preview_are_all_there(reports: Reports, folder: Folder) -> None:
    days = [
        row(
            f"{2000 + i // 336}-{i % 336 // 28 + 1:02d}-{i % 28 + 1:02d}",
            "D",
            measures={"value": str(i)},
        )
        for i in range(500)
    ]
    folder.publish("a", days)
    alone = {"a": {"profile": "a", "measures": ["value"]}}
    report = await reports.run(ME, spec(inputs=alone, join=None, output={"type": "table"}))
    assert (report.row_count, len(report.rows)) == (500, 200)
    found = json.loads(await reports.data(ME, report.id, "json"))
    assert [cells[-1] for cells in found["rows"]] == [str(i) for i in range(500)]


async def test_formulas_are_escaped_unless_exact(reports: Reports, folder: Folder) -> None:
    rows = [row("2000", "A", measures={"value": "-1"}, dimensions={"place": "=1+1"})]
    folder.publish("a", rows)
    alone = {"a": {"profile": "a", "measures": ["value"], "dimensions": ["place"]}}
    report = await reports.run(ME, spec(inputs=alone, join=None, output={"type": "table"}))
    assert await reports.data(ME, report.id, "csv") == b"period,place,value\r\n2000,'=1+1,-1\r\n"
    assert (
        await reports.data(ME, report.id, "csv", exact=True)
        == b"period,place,value\r\n2000,=1+1,-1\r\n"
    )


async def test_charts_are_drawn_from_what_was_stored(reports: Reports, folder: Folder) -> None:
    report = await reports.run(ME, spec(title="A pair"))
    before = await reports.chart(ME, report.id, "svg")
    folder.publish("a", years(5))  # what was published since changes nothing
    assert _unnumbered(await reports.chart(ME, report.id, "svg")) == _unnumbered(before)
    assert b"A pair" in before
    assert (await reports.chart(ME, report.id, "png")).startswith(b"\x89PNG")


async def test_a_picture_is_drawn_once_however_often_it_is_looked_at(
    reports: Reports, children: Here
) -> None:
    report = await reports.run(ME, spec())
    first = await reports.chart(ME, report.id, "png")
    assert await reports.chart(ME, report.id, "png") == first
    assert children.calls.count(RENDER) == 1
    await reports.chart(ME, report.id, "svg")
    assert children.calls.count(RENDER) == 2


def _unnumbered(svg: bytes) -> bytes:
    """Without the numbers that the renderer counts up within one process."""
    return re.sub(rb"(gradient|clip)_?[0-9]+", rb"\1", svg)


async def test_pictures_and_data_are_sandboxed_attachments(
    raw: httpx.AsyncClient, service: ReportsService
) -> None:
    report = await service.run(ME, spec())
    for path, media_type in (
        ("chart.svg", "image/svg+xml"),
        ("chart.png", "image/png"),
        ("data?format=csv", "text/csv; charset=utf-8"),
        ("data?format=parquet", "application/vnd.apache.parquet"),
    ):
        answer = await raw.get(f"/v1/reports/{report.id}/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


# --- the wire -----------------------------------------------------------------------------------

YAML = b"""
version: 1
name: from-yaml
inputs:
  a: {profile: a, measures: [value]}
output: {type: table}
"""


async def test_a_spec_may_be_posted_as_yaml(raw: httpx.AsyncClient) -> None:
    kind = {"Content-Type": "application/yaml"}
    first = await raw.post("/v1/reports", content=YAML, headers=kind)
    assert first.status_code == 201, first.text
    assert first.headers["location"] == f"/v1/reports/{first.json()['id']}"
    again = await raw.post("/v1/reports", content=YAML, headers=kind)
    assert again.status_code == 200
    assert again.json()["unchanged"] is True


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (YAML.replace(b"a:", b"a: &x", 1), "application/yaml", 400),
        (b'{"version": 1, "version": 1}', "application/json", 400),
        (b"{", "application/json", 400),
        (YAML, "text/plain", 415),
        (YAML, "application/x-www-form-urlencoded", 415),
        (b"a: " + b"x" * 2_000_000, "application/yaml", 413),
    ],
)
async def test_what_is_no_spec_is_refused_at_the_door(
    raw: httpx.AsyncClient, content: bytes, kind: str, status: int
) -> None:
    answer = await raw.post("/v1/reports", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
