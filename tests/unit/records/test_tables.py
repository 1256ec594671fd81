"""Exports, projections and the data package: one publication, exactly, as a table."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.kernel.outbox import BEGINNING
from holdfast.records.columns import Row, columns_of
from holdfast.records.content import FieldNames
from holdfast.records.errors import NotPublished
from holdfast.records.exporting import _cell
from holdfast.records.model import Measure, ProjectionInfo
from holdfast.records.parquet import read_frames, write_frame
from holdfast.records.projection import Edition
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    typed = profile(
        dimensions={
            "state": "$.state",
            "number": {"path": "$.n", "type": "integer"},
            "open": {"path": "$.o", "type": "boolean"},
        },
        freshness="1h",
    )
    async with bench_on(sqlite_database, tmp_path, typed) as found:
        yield found


def typed(state: str, rate: str | None, number: int | None = 5, **members: Any) -> Any:
    one = record(state, rate, **members)
    return msgspec.structs.replace(
        one, dimensions={"state": state, "number": number, "open": number == 5}
    )


async def exported(bench: Bench, kind: str, **options: Any) -> bytes:
    found = await bench.service.export(OPERATOR, "rates", format=kind, **options)
    return b"".join([chunk async for chunk in found.chunks])


def table_of(info: ProjectionInfo) -> list[dict[str, Any]]:
    return list(pq.read_table(info.path).to_pylist())


@pytest.mark.parametrize("kind", ["parquet", "csv"])
async def test_an_export_is_of_the_publication_that_it_names(bench: Bench, kind: str) -> None:
    """Another is published just when the export has chosen its own."""
    await bench.collect([typed("CA", "1")])
    service, choose = bench.service, bench.service.edition

    async def overtaken(*arguments: Any, **named: Any) -> Edition:
        chosen = await choose(*arguments, **named)
        service.edition = choose  # type: ignore[method-assign]
        await bench.collect([typed("CA", "1"), typed("NV", "2")], fence=2)
        return chosen

    service.edition = overtaken  # type: ignore[method-assign]
    found = await service.export(OPERATOR, "rates", format=kind)
    content = b"".join([chunk async for chunk in found.chunks])
    rows = (
        pq.read_table(io.BytesIO(content)).num_rows
        if kind == "parquet"
        else content.count(b"\n") - 1
    )
    assert (found.publication, found.file_name, rows) == (1, f"rates-1.{kind}", 1)


async def test_a_projection_shows_every_record_typed_and_exact(bench: Bench) -> None:
    exact = "123456789012345678901234567890.000000001"
    await bench.collect([typed("CA", exact, flag="p"), typed("NV", None, number=None)])
    info = await bench.service.projection(OPERATOR, "rates")
    rows = table_of(info)
    assert (info.rows, info.publication) == (2, 1)
    california, nevada = rows
    assert california["rate"] == exact
    assert california["rate__double"] == float(exact)
    assert (california["rate__unit"], california["rate__multiplier"]) == ("%", "1")
    assert (california["dim_state"], california["dim_number"], california["dim_open"]) == (
        "CA", 5, True,
    )  # fmt: skip
    assert california["attr_flag"] == "p"
    assert (california["period_start"], california["period_end"]) == ("2025-01-01", "2025-02-01")
    assert california["period_frequency"] == "M"
    assert (nevada["rate"], nevada["rate__double"], nevada["dim_number"]) == (None, None, None)
    assert california["revision"] == 1
    assert len(california["record_id"]) == 32
    assert california["recorded_from"] == info.recorded_at


async def test_a_publication_has_one_projection_and_it_never_changes(bench: Bench) -> None:
    await bench.collect([typed("CA", "1"), typed("NV", "1")])
    then = bench.clock.now()
    first = await bench.service.projection(OPERATOR, "rates")
    content = Path(first.path).read_bytes()
    assert await bench.service.projection(OPERATOR, "rates") == first
    bench.clock.advance(60)
    await bench.collect([typed("CA", "2")], fence=2)
    second = await bench.service.projection(OPERATOR, "rates")
    assert [row["rate"] for row in table_of(second)] == ["2"]
    old = await bench.service.projection(OPERATOR, "rates", as_of=then.isoformat())
    assert old == first
    Path(first.path).unlink()
    rebuilt = await bench.service.projection(OPERATOR, "rates", as_of=then.isoformat())
    assert Path(rebuilt.path).read_bytes() == content
    said_first = await bench.service.projection(OPERATOR, "rates", vintage="first")
    assert [row["rate"] for row in table_of(said_first)] == ["1", "1"]
    assert said_first.publication == 2


async def test_a_damaged_projection_is_made_again(bench: Bench) -> None:
    await bench.collect([typed("CA", "1")])
    info = await bench.service.projection(OPERATOR, "rates")
    Path(info.path).write_bytes(b"damaged")
    again = await bench.service.projection(OPERATOR, "rates")
    assert again.digest == info.digest
    assert len(table_of(again)) == 1


async def test_many_askers_build_it_once(bench: Bench) -> None:
    await bench.collect([typed("CA", "1")])
    found = await asyncio.gather(*(bench.service.projection(OPERATOR, "rates") for _ in range(5)))
    assert len({info.path for info in found}) == 1
    assert len(list(Path(found[0].path).parent.iterdir())) == 2


async def test_old_projections_are_removed(sqlite_database: Database, tmp_path: Path) -> None:
    async with bench_on(sqlite_database, tmp_path, projections_kept=2) as bench:
        for fence in range(1, 5):
            await bench.collect([record("CA", str(fence))], fence=fence)
            info = await bench.service.projection(OPERATOR, "rates")
        kept = sorted(path.name for path in Path(info.path).parent.glob("*.parquet"))
        assert kept == ["3-latest.3.parquet", "4-latest.3.parquet"]


async def test_a_child_writes_the_same_bytes(sqlite_database: Database, tmp_path: Path) -> None:
    digests = set()
    async with bench_on(sqlite_database, tmp_path, projection_thread_rows=100_000) as bench:
        await bench.collect([record(f"s{at}", f"{at}.5", position=at) for at in range(2500)])
        digests.add((await bench.service.projection(OPERATOR, "rates")).digest)
    async with bench_on(sqlite_database, tmp_path / "b", projection_thread_rows=10) as bench:
        info = await bench.service.projection(OPERATOR, "rates")
        digests.add(info.digest)
        assert info.rows == 2500
        assert sum(row["rate__double"] for row in table_of(info)) == sum(
            at + 0.5 for at in range(2500)
        )
    assert len(digests) == 1


async def test_nothing_published_is_not_an_empty_table(bench: Bench) -> None:
    for call in (
        lambda: bench.service.projection(OPERATOR, "rates"),
        lambda: bench.service.export(OPERATOR, "rates"),
        lambda: bench.service.data_package(OPERATOR, "rates"),
    ):
        with pytest.raises(NotPublished):
            await call()
    await bench.collect([typed("CA", "1")])
    with pytest.raises(NotPublished):
        await bench.service.projection(OPERATOR, "rates", as_of="2020-01-01T00:00:00Z")
    with pytest.raises(Invalid):
        await bench.service.projection(OPERATOR, "rates", vintage="old")
    with pytest.raises(Invalid):
        await bench.service.export(OPERATOR, "rates", format="xlsx")


async def test_csv_cells_cannot_be_formulas_unless_exact_is_asked_for(bench: Bench) -> None:
    risky = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a,"b"\nc']
    await bench.collect(
        [typed(state, "-2.5", position=at, flag=state) for at, state in enumerate(risky)]
    )
    safe = list(csv.DictReader(io.StringIO((await exported(bench, "csv")).decode(), newline="")))
    assert [row["dim_state"] for row in safe] == [f"'{text}" for text in risky[:6]] + [risky[6]]
    assert {row["rate"] for row in safe} == {"-2.5"}
    text = (await exported(bench, "csv", exact=True)).decode()
    exact = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["dim_state"] for row in exact] == risky
    assert {row["rate"] for row in exact} == {"-2.5"}
    assert "rate__double" not in exact[0]


async def test_a_negative_number_stays_one_and_text_that_looks_like_one_does_not(
    bench: Bench,
) -> None:
    """What the data package calls a number reads as one, in the file as it is by default."""
    await bench.collect([typed("-3", "-2.50", number=-7, flag="-1"), typed("CA", "0.5")])
    rows = list(csv.DictReader(io.StringIO((await exported(bench, "csv")).decode(), newline="")))
    assert (rows[0]["dim_state"], rows[0]["attr_flag"]) == ("'-3", "'-1")
    assert (rows[0]["rate"], rows[0]["dim_number"]) == ("-2.50", "-7")
    described = await bench.service.data_package(OPERATOR, "rates")
    fields = described["resources"][0]["schema"]["fields"]
    numeric = {one["name"] for one in fields if one["type"] in ("number", "integer")}
    assert {"rate", "rate__multiplier", "dim_number", "revision"} <= numeric
    for name in numeric:
        assert all(Decimal(row[name]).is_finite() for row in rows), name


@pytest.mark.parametrize("text", ["=1", "+1", "-1+1", "-", "-1.", "-1e5", "--1", "-1\n", "-٣"])
def test_only_a_plain_number_goes_unescaped_in_a_column_of_numbers(text: str) -> None:
    """Whatever once got into a measure: it is a number from end to end, or it is escaped."""
    assert _cell(text, exact=False, numeric=True) == f"'{text}"
    assert _cell(text, exact=True, numeric=True) == text


async def test_ndjson_is_a_record_a_line(bench: Bench) -> None:
    await bench.collect([typed("CA", "1.10", flag="é\n"), typed("NV", None)])
    lines = (await exported(bench, "ndjson")).decode().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 2
    assert first["content"]["measures"]["rate"]["value"] == "1.10"
    assert first["content"]["attributes"]["flag"] == "é\n"


async def test_an_export_stays_in_its_publication_and_is_an_event(bench: Bench) -> None:
    await bench.collect([typed(f"s{at}", "1") for at in range(10)])
    found = await bench.service.export(OPERATOR, "rates", format="csv")
    await bench.collect([typed("s0", "2")], fence=2)
    lines = b"".join([chunk async for chunk in found.chunks]).decode().splitlines()
    assert len(lines) == 11
    ready = await bench.db.read(
        OPERATOR,
        lambda conn: bench.service._handles.outbox.ready(conn, OPERATOR, BEGINNING, 100),
    )
    payloads = [one.event.payload for one in ready if one.event.type == "records.exported"]
    assert [(one["format"], one["publication"]) for one in payloads] == [("csv", 1)]


async def test_the_data_package_describes_the_csv(bench: Bench) -> None:
    await bench.collect([typed("CA", "1"), typed("NV", "1")])
    package = await bench.service.data_package(OPERATOR, "rates")
    resource = package["resources"][0]
    header = (await exported(bench, "csv")).decode().splitlines()[0].split(",")
    assert [field["name"] for field in resource["schema"]["fields"]] == header
    fields = {field["name"]: field for field in resource["schema"]["fields"]}
    assert (fields["rate"]["type"], fields["rate"]["unit"]) == ("number", "%")
    assert fields["dim_number"]["type"] == "integer"
    assert package["licenses"] == [{"title": "Public domain"}]
    assert package["sources"][0]["path"] == "https://example.org/rates.json"
    assert (resource["rows"], package["version"]) == (2, "1")


async def test_columns_follow_what_records_hold_across_versions(bench: Bench) -> None:
    await bench.collect([typed("CA", "1")])
    bench.profiles.add(profile(dimensions={"state": "$.s", "number": "$.n"}))
    other = msgspec.structs.replace(
        record("CA", "1"),
        dimensions={"state": "CA", "number": "x5"},
        measures={"rate": Measure(value="1", unit="%"), "share": Measure(value="0.5")},
        attributes={"rate_missing": "n/a"},
    )
    await bench.collect([other], fence=2)
    rows = table_of(await bench.service.projection(OPERATOR, "rates"))
    # What one version called an integer and the next a text is text.
    assert rows[0]["dim_number"] == "x5"
    assert rows[0]["dim_open"] is None
    assert (rows[0]["share"], rows[0]["attr_rate_missing"]) == ("0.5", "n/a")
    assert Decimal(rows[0]["share"]) == Decimal("0.5")


def test_columns_without_any_version_are_text() -> None:
    fields = FieldNames(dimensions=["a"], measures=["b"], attributes=["c"])
    found = {column.name: column.type for column in columns_of([], fields)}
    assert (found["dim_a"], found["b"], found["b__double"], found["attr_c"]) == (
        "string", "string", "double", "string",
    )  # fmt: skip


def test_rows_that_are_cut_off_are_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with path.open("wb") as file:
        write_frame(file, [Row("a", 1, "r", "t", "{}")])
        write_frame(file, [Row("b", 1, "r", "t", "{}")])
    assert [row.record for frame in read_frames(path) for row in frame] == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt):
        list(read_frames(path))
