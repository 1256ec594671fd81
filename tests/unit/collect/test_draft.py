"""First drafts of profiles: valid, without rejects, and right about the usual things."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from holdfast.collect.draft import draft
from holdfast.collect.draft_names import name_for
from holdfast.collect.errors import ParseFailed
from holdfast.collect.odd import odd_rows
from holdfast.collect.recognise import recognise
from holdfast.registry.model import Profile, plain_profile
from holdfast.registry.placeholders import HOST, LICENCE, PUBLISHER
from holdfast.registry.source import FeedFormat
from holdfast.registry.validate import examine, load_profile
from tests.support import recorded
from tests.support.effort import calls_made
from tests.support.workbooks import workbook
from tests.unit.collect.helpers import SAMPLE
from tests.unit.collect.helpers import mapped as records_under


def drafted(path: Path, data: str | bytes, **known: Any) -> Profile:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    made = draft(path, name="x", url="https://example.org/x", **known)
    profile = load_profile(made.text.encode(), draft=True)
    records, rejects = records_under(path, profile)
    assert rejects == []
    assert len(records) >= made.records > 0
    if profile.key != "position":
        assert len({tuple(map(str, r.key)) for r in records}) == len(records)
    return profile


def test_what_a_page_does_not_say_is_left_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(SERIES)
    made = draft(tmp_path / "x", name="x", url=f"https://{HOST}/x")
    lines = made.text.splitlines()
    left = examine(made.text.encode()).problems
    assert [problem.path for problem in left] == ["publisher", "licence", "source.url"]
    for problem in left:
        assert lines[problem.line - 1].strip().startswith(problem.path.rpartition(".")[2])
    said = made.text.replace(PUBLISHER, "The Met").replace(LICENCE, "CC0").replace(HOST, "a.org")
    assert examine(said.encode()).problems == []


def drawn(profile: Profile, member: str) -> Any:
    return plain_profile(profile).get(member)


SERIES = "date,station,rain mm\n" + "".join(
    f"20{y:02d}-{m:02d}-01,{s},{m}.5\n" for y in (19, 20) for m in range(1, 13) for s in "AB"
)


def test_a_plain_table(tmp_path: Path) -> None:
    found = drafted(tmp_path / "x", SERIES)
    assert found.key == ["dimensions.station", "period"]
    assert drawn(found, "measures") == {"rain_mm": {"path": "rain mm"}}
    assert drawn(found, "period") == {"path": "date", "frequency": "M"}


def test_what_stands_before_the_header_and_decimal_commas(tmp_path: Path) -> None:
    text = "Niederschlag\nQuelle: Amt\n\nOrt;Jahr;Höhe\nA;2019;1.234,5\nB;2019;7,0\nA;2020;-;\n"
    found = drafted(tmp_path / "x", text.replace("-;\n", "-\n").encode("cp1252"))
    form = drawn(found, "source")["format"]
    assert form == {
        "type": "csv", "delimiter": ";", "encoding": "windows-1252", "header_starts": "Ort",
    }  # fmt: skip
    assert drawn(found, "measures") == {"hohe": {"path": "Höhe", "thousands": ".", "decimal": ","}}
    assert drawn(found, "period") == {"path": "Jahr", "frequency": "A"}
    assert found.nulls == ["", "-"]


FEBRUARY = [f"{day:02d}/02/2024" for day in range(1, 10)]
FIRSTS = [f"01/{month:02d}/2024" for month in range(1, 13)]
EVENTS = ["05/01/2024", "03/02/2024", "07/03/2024", "02/04/2024", "11/05/2024"]


@pytest.mark.parametrize(
    ("columns", "period", "why"),
    [
        # Steps: a day each, and no second of each month.
        ({"Datum": FEBRUARY}, "D %d/%m/%Y", "since then one day follows the other"),
        ({"date": FEBRUARY}, "D %d/%m/%Y", "since then one day follows the other"),
        ({"date": FEBRUARY[::-1]}, "D %d/%m/%Y", "since then one day follows the other"),
        ({"date": [f"02/{d:02d}/24" for d in range(1, 8)]}, "D %m/%d/%y", "one day follows"),
        ({"date": [f"{d:02d}/02/24" for d in range(1, 8)]}, "D %d/%m/%y", "one day follows"),
        ({"date": [f"02-{d:02d}-2024" for d in range(1, 8)]}, "D %m-%d-%Y", "one day follows"),
        ({"date": ["05/02/2024", "06/02/2024", "07/02/2024", "08/02/2024", "12/02/2024"]},
         "D %d/%m/%Y", "one day follows the other"),  # one weekend in between
        ({"date": ["01/02/2024", "08/02/2024", "01/03/2024"]}, "D %m/%d/%Y", "nothing tells"),
        ({"date": [*FIRSTS, "01/01/2025"]}, "M %d/%m/%Y", "first days of one month after"),
        # Both go on: the first of each month, or twelve days of January.
        ({"date": FIRSTS}, "D %m/%d/%Y", "nothing tells which it is: day first they are first"),
        ({"Datum": FIRSTS}, "M %d/%m/%Y", "a column is called Datum, though one day follows"),
        ({"date": FIRSTS, "v;": ["1"] * 12}, "M %d/%m/%Y", "told apart by semicolons, though"),
        ({"date": FIRSTS, "v": ['"1,5"', '"2,25"', '"3,75"'] * 4}, "M %d/%m/%Y", "decimal comma"),
        # No steps, but an order.
        ({"date": EVENTS}, "D %d/%m/%Y", "since only then the rows are in order"),
        ({"date": EVENTS[:3] + EVENTS[:1:-1]}, "D %m/%d/%Y", "nothing tells which it is: look"),
        # Another column that can be read in one way only.
        ({"date": FIRSTS, "issued": ["31/12/2024", "13/12/2024"] * 6}, "M %d/%m/%Y", "another col"),
        ({"date": FEBRUARY, "x": ["2/13/2024", "2/14/2024", "2/15/2024"] * 3}, "D %m/%d/%Y",
         "as those of another column must be"),
        # No doubt, no note.
        ({"date": [*FEBRUARY, "13/02/2024"]}, "D %d/%m/%Y", ""),
        ({"date": ["02.01.2024", "03.01.2024"]}, "D %d.%m.%Y", ""),
        ({"date": ["01/01/2024", "02/02/2024"]}, "D %m/%d/%Y", ""),
    ],
)  # fmt: skip
def test_of_two_days_that_a_text_can_be_the_likelier_is_taken_and_said(
    tmp_path: Path, columns: dict[str, list[str]], period: str, why: str
) -> None:
    mark = ";" if any(";" in name for name in columns) else ","
    columns = {name.strip(";"): texts for name, texts in columns.items()}
    rows = len(next(iter(columns.values())))
    columns = {**columns, "n": [f"{row}.5" if mark == "," else str(row) for row in range(rows)]}
    if any('"1,5"' in texts for texts in columns.values()):
        del columns["n"]
    lines = [mark.join(columns), *map(mark.join, zip(*columns.values(), strict=True))]
    found, notes = made_of(tmp_path / "x", "\n".join(lines) + "\n")
    drawn_period = drawn(found, "period")
    assert f"{drawn_period['frequency']} {drawn_period['format']}" == period
    told = [note for note in notes if "can be two days" in note]
    assert [why in note for note in told] == ([True] if why else []), told
    for note in told:
        form = drawn_period["format"]
        other = form.replace("%d", "%x").replace("%m", "%d").replace("%x", "%m")
        assert f'change the line `format` under `period` to "{other}"' in note


@pytest.mark.parametrize(
    ("texts", "period"),
    [
        (["2019", "2020", "2021"], {"frequency": "A"}),
        (["2020-Q1", "2020-Q2", "2020-Q3"], {"frequency": "Q"}),
        (["2020M01", "2020M02", "2020M11"], {"frequency": "M"}),
        (
            ["202001", "202013", "202101"],
            {"codings": {"(?P<year>[0-9]{4})13": "A"}, "frequency": "M"},
        ),
        (["2020-W01", "2020-W52", "2021-W01"], {"frequency": "W"}),
        (["2020-01-01", "2020-04-01", "2020-07-01", "2020-10-01"], {"frequency": "Q"}),
        (["2020-01", "2020-04", "2020-07", "2020-10"], {"frequency": "Q", "format": "%Y-%m"}),
        (["1/31/2020", "12/1/2020", "2/2/2021"], {"frequency": "D", "format": "%m/%d/%Y"}),
        (["31/1/2020", "12/1/2020", "2/2/2021"], {"frequency": "D", "format": "%d/%m/%Y"}),
        (["31.12.2020", "1.1.2021"], {"frequency": "D", "format": "%d.%m.%Y"}),
        (["Jan 2020", "Feb 2020"], {"frequency": "M", "format": "%b %Y"}),
        (["2020-01-01T00:15:00Z", "2020-01-01T00:30:00Z"], {"frequency": "I"}),
    ],
)
def test_times_as_publishers_write_them(
    tmp_path: Path, texts: list[str], period: dict[str, Any]
) -> None:
    data = "time,v\n" + "".join(f"{text},{i}.5\n" for i, text in enumerate(texts))
    assert drawn(drafted(tmp_path / "x", data), "period") == {"path": "time"} | period


def test_a_wide_table_is_unpivoted(tmp_path: Path) -> None:
    years = ",".join(str(year) for year in range(2000, 2010))
    rows = "".join(f"{c},{','.join(['..'] + ['1.5'] * 9)}\n" for c in ("DE", "FR"))
    found = drafted(tmp_path / "x", f"country,{years}\n{rows}")
    assert drawn(found, "unpivot") == {"columns": "[0-9]{4}"}
    assert found.key == ["dimensions.country", "period"]
    assert ".." in found.nulls


def test_comments_blanks_and_columns_without_names(tmp_path: Path) -> None:
    found = drafted(tmp_path / "x", "# co2\n# more\n1958  3  315.71\n1958  4  317.45\n")
    form = drawn(found, "source")["format"]
    assert form == {
        "type": "csv", "delimiter": " ", "comment": "#", "header": ["c1", "c2", "c3"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"data": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]}', {"records": "$.data[*]"}),
        ('[{"page": 1}, [{"id": "a"}, {"id": "b"}]]', {"records": "$[1][*]"}),
        ('[["id", "v"], ["a", "1"], ["b", "2"]]', {"header": True}),
        (
            '{"US": {"v": 1, "w": 2}, "FR": {"v": 2, "w": 3}, "DE": {"v": 3, "w": 4},'
            ' "IT": {"v": 4, "w": 1}}',
            {"keys": ["name"]},
        ),
        ('{"a": {"s": [{"k": "x", "d": [{"v": 1}, {"v": 2}]}]}}', {"records": "$.a.s[*].d[*]"}),
    ],
)
def test_records_are_found_in_json(tmp_path: Path, text: str, form: dict[str, Any]) -> None:
    found = drawn(drafted(tmp_path / "x", text), "source")["format"]
    assert form.items() <= found.items()


def test_each_kind_of_file_is_known(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.pdf", "x" * 10_000)
        archive.writestr("data.csv", SERIES)
    rows = "".join(f'<row id="r{i}"><v>{i}.5</v><d>2020-01-0{i}</d></row>' for i in range(1, 6))
    for data, kind in (
        (gzip.compress(SERIES.encode()), "csv"),
        (zipped.getvalue(), "csv"),
        (b'{"a": "x", "v": 1}\n{"a": "y", "v": 2}\n', "ndjson"),
        (f"<doc><rows>{rows}</rows></doc>".encode(), "xml"),
        (workbook(("s", [["place", "year", "v"], ["a", 2020, 1.5], ["b", 2020, 2]])), "xlsx"),
        ((SAMPLE / "usgs_earthquakes_week.geojson").read_bytes(), "geojson"),
    ):
        found = drafted(tmp_path / "x", data)
        assert drawn(found, "source")["format"]["type"] == kind


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><body/></html>", "a web page"),
        (b"", "there is nothing in it"),
        (b'{"error": "no"}', "no list of records"),
        (b"[1, 2", "this is no JSON"),
        (b"<a><b/></a>", "no element of this XML is repeated"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old workbook"),
        (b"PK\x03\x04rubbish", "broken archive"),
    ],
)
def test_what_no_profile_can_read_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ParseFailed, match=said):
        draft(tmp_path / "x", name="x", url="https://example.org/x")


@pytest.mark.parametrize("name", sorted(set(recorded.SOURCES) - {"recorded/omb-budget-authority"}))
def test_a_draft_of_a_recorded_source_holds(name: str) -> None:
    path = recorded.folder() / recorded.SOURCES[name][0]
    made = draft(path, name="x", url="https://example.org/x")
    profile = load_profile(made.text.encode(), draft=True)
    assert made.records >= made.rows > 0
    shipped = recorded.profile(name)
    feed = isinstance(profile.source.format, FeedFormat)  # OData in Atom is a feed as well
    assert feed or type(profile.source.format) is type(shipped.source.format)
    if name not in UNTIMED:
        assert (profile.period is None) is (shipped.period is None)


UNTIMED = {"recorded/ckan-dados-gov-br-packages"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/a/Rain_2020.csv.gz?x=1", "rain-2020"),
        ("https://example.org/", "example-org"),
        ("data/Über.json", "uber"),
        ("/x/%%%", "source"),
    ],
)
def test_names_come_from_addresses(source: str, name: str) -> None:
    assert name_for(source) == name


def test_a_title_above_the_header_is_told_with_the_member_that_helps(tmp_path: Path) -> None:
    rows = [["Rain", "all places"], ["place", "year", "mm"], ["a", 2020, 1.5], ["b", 2020, 2]]
    (tmp_path / "x").write_bytes(workbook(("s", rows)))
    with pytest.raises(ParseFailed, match="no record was found") as caught:
        draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert "it was read as xlsx" in caught.value.hint
    assert "--header-row" in caught.value.hint


def test_an_object_of_columns(tmp_path: Path) -> None:
    hours = ", ".join(f'"2024-01-01T{hour:02d}:00"' for hour in range(24))
    values = ", ".join(str(hour / 2) for hour in range(24))
    text = f'{{"lat": 52.5, "hourly": {{"time": [{hours}], "temperature": [{values}]}}}}'
    found = drafted(tmp_path / "x", text)
    assert drawn(found, "source")["format"] == {
        "type": "json", "records": "$.hourly", "columns": True,
    }  # fmt: skip
    assert found.key == ["period"]
    assert drawn(found, "measures") == {"temperature": {"path": "temperature"}}
    assert drawn(found, "period") == {"path": "time", "frequency": "I"}


def test_a_time_that_stands_around_the_records(tmp_path: Path) -> None:
    days = "".join(
        f'<day time="2024-01-{day:02d}">'
        + "".join(f'<r currency="{c}" rate="1.{day}"/>' for c in ("USD", "JPY"))
        + "</day>"
        for day in range(1, 9)
    )
    found = drafted(tmp_path / "x", f"<rates>{days}</rates>")
    assert drawn(found, "period") == {"path": "../@time", "frequency": "D"}
    assert set(found.key) == {"dimensions.currency", "period"}


def test_tabs_win_over_the_commas_within_a_first_cell(tmp_path: Path) -> None:
    text = "freq,unit,geo\\TIME_PERIOD\t2020\t2021\t2022\t2023\n" + "".join(
        f"A,PC,{geo}\t1.5\t2.5\t:\t4.5\n" for geo in ("DE", "FR", "NL")
    )
    found = drafted(tmp_path / "x", text)
    assert drawn(found, "source")["format"]["delimiter"] == "\t"
    assert drawn(found, "unpivot") == {"columns": "[0-9]{4}"}


def test_a_moment_written_as_milliseconds(tmp_path: Path) -> None:
    features = ", ".join(
        f'{{"attributes": {{"ID": {i}, "DT": {1_700_000_000_000 + i * 3_600_000}, "V": {i}.5}}}}'
        for i in range(9)
    )
    found = drafted(tmp_path / "x", f'{{"features": [{features}]}}')
    assert drawn(found, "period") == {
        "path": "$.attributes.DT", "format": "epoch-ms", "frequency": "I",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("around", "said", "pagination"),
    [
        ('"meta": {"page": 1, "pages": 5, "total": 120}, ', "$.meta.pages is 5", {
            "type": "page", "total_pages": "$.meta.pages", "total_records": "$.meta.total",
        }),
        ('"meta": {"next_page": 2, "total_pages": 5}, ', "$.meta.total_pages is 5", {
            "type": "page", "total_pages": "$.meta.total_pages",
        }),
        ('"total": 120, ', "$.total is 120", None),
        ('"total": 120, "offset": 0, "limit": 12, ', "$.total is 120", {
            "type": "offset", "limit": 12, "total_records": "$.total",
        }),
        ('"@odata.nextLink": "https://x/?s=2", ', 'is "https://x/?s=2"', {
            "type": "next-url", "path": "$['@odata.nextLink']",
        }),
        ('"exceededTransferLimit": true, ', "$.exceededTransferLimit is true", {
            "type": "offset", "parameter": "resultOffset",
            "limit_parameter": "resultRecordCount", "limit": 12,
            "more": "$.exceededTransferLimit",
        }),
        ('"hasMore": true, "limit": 12, "offset": 0, ', "$.hasMore is true", {
            "type": "offset", "limit": 12, "more": "$.hasMore",
        }),
        ('"has_more": true, ', "`more: $.has_more` goes with", None),
        ('"has_more": true, "offset": 0, "limit": true, ', "$.has_more is true", None),
        (f'"has_more": true, "offset": 0, "limit": {2**60}, ', "$.has_more is true", None),
        ('"next_cursor": "abc", ', "$.next_cursor is", None),
        ('"links": [{"rel": "self", "href": "/"}, {"rel": "next", "href": "/2"}], ',
         "$.links names a next one", None),
        ('"next": null, "total": 12, "pages": 1, "hasMore": false, "links": [], ', "", None),
    ],
)  # fmt: skip
def test_one_page_of_several_is_said(
    tmp_path: Path, around: str, said: str, pagination: dict[str, Any] | None
) -> None:
    items = ", ".join(f'{{"id": "i{i}", "v": {i}.5}}' for i in range(12))
    (tmp_path / "x").write_text(f'{{{around}"items": [{items}]}}')
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    told = [note for note in made.notes if "one page of several" in note]
    assert [said in note for note in told] == ([True] if said else [])
    source = drawn(load_profile(made.text.encode(), draft=True), "source")
    assert source.get("pagination") == pagination


@pytest.mark.parametrize(
    ("around", "path"),
    [
        ({"meta": {"next": "A", "has_more": True, "page": 1, "pages": 9}}, "$.meta.next"),
        ({"has_more": True, "links": {"next": "A", "prev": None, "self": "/x"}}, "$.links.next"),
        ({"next": "A", "previous": None}, "$.next"),
        ({"paging": {"cursors": {"after": "QWE"}, "next": "A"}}, "$.paging.next"),
        ({"@odata.nextLink": "A", "@odata.context": "https://x/$metadata"}, "$['@odata.nextLink']"),
        ({"odata.nextLink": "A"}, "$['odata.nextLink']"),
        ({"@nextLink": "A"}, "$['@nextLink']"),
        ({"meta": {"next_url": "A"}}, "$.meta.next_url"),
        ({"meta": {"next_page_url": "A", "current_page": 1}}, "$.meta.next_page_url"),
        ({"nextPageUri": "A"}, "$.nextPageUri"),
        ({"nextRecordsUrl": "A", "done": False}, "$.nextRecordsUrl"),
        ({"links": {"next": {"href": "A"}}}, "$.links.next.href"),
        ({"_links": {"self": {"href": "/x"}, "next": {"href": "A"}}}, "$._links.next.href"),
        ({"meta": {"pagination": {"links": {"next": "A"}}}}, "$.meta.pagination.links.next"),
    ],
)
@pytest.mark.parametrize("address", ["https://example.org/x?after=7", "/x?page=2", "x?page=2"])
def test_the_address_of_the_next_page_is_followed_wherever_it_stands(
    tmp_path: Path, around: dict[str, Any], path: str, address: str
) -> None:
    items = [{"id": f"i{i}", "v": i / 2} for i in range(12)]
    text = json.dumps({**around, "items": items}).replace('"A"', json.dumps(address))
    (tmp_path / "x").write_text(text)
    made = draft(tmp_path / "x", name="x", url="https://example.org/x?page=1")
    source = drawn(load_profile(made.text.encode(), draft=True), "source")
    assert source["pagination"] == {"type": "next-url", "path": path}
    assert any(f'{path} is "{address}"' in note for note in made.notes)


def test_a_draft_that_skips_rows_of_pages_by_offset_asks_what_these_count(tmp_path: Path) -> None:
    names = {"id": "Code", "year": "Year", "v": "Value"}
    rows = [{"id": f"c{i}", "year": f"{2000 + i}", "v": f"{i}.5"} for i in range(20)]
    said = {"hasMore": True, "offset": 0, "limit": 21}
    (tmp_path / "x").write_text(json.dumps({**said, "items": [names, *rows]}))
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    source = drawn(load_profile(made.text.encode(), draft=True), "source")
    assert source["pagination"]["type"] == "offset"
    assert source["format"]["skip_rows"] == ["Code"]
    assert any("`counts: records`" in note for note in made.notes)


def test_a_total_elsewhere_goes_with_an_address_if_there_is_but_one(tmp_path: Path) -> None:
    def pagination(**around: Any) -> Any:
        items = [{"id": f"i{i}", "v": i / 2} for i in range(12)]
        (tmp_path / "x").write_text(
            json.dumps({"links": {"next": "/x?p=2"}, **around, "items": items})
        )
        made = draft(tmp_path / "x", name="x", url="https://example.org/x")
        return drawn(load_profile(made.text.encode(), draft=True), "source")["pagination"]

    led = {"type": "next-url", "path": "$.links.next"}
    assert pagination(meta={"total": 90}) == {**led, "total_records": "$.meta.total"}
    assert pagination(meta={"total": 90}, total_count=91) == led
    assert pagination(meta={"total": 7}) == led


def test_records_that_have_names_lead_to_no_page(tmp_path: Path) -> None:
    """What stands in one of them is its own."""
    named = {f"s{i}": {"next": f"https://x/?p={i}", "count": 90 + i, "v": i} for i in range(9)}
    (tmp_path / "x").write_text(json.dumps({"stations": named}))
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert not any("one page of several" in note for note in made.notes)


def test_a_record_of_a_plain_list_says_nothing_of_more(tmp_path: Path) -> None:
    books = [{"id": f"b{i}", "pages": 300 + i, "next": f"https://x/b{i + 1}"} for i in range(9)]
    (tmp_path / "x").write_text(json.dumps(books))
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert not any("one page of several" in note for note in made.notes)


def test_an_address_that_is_none_is_told_by_its_rule(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(
        '{"total": 90, "items": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]}'
    )
    made = draft(tmp_path / "x", name="x", url="http://[bad/x")
    [problem] = examine(made.text.encode(), draft=True).problems
    assert problem.path == "source.url"


def test_features_in_xml_that_are_a_part_are_said(tmp_path: Path) -> None:
    rows = "".join(f'<member id="m{i}"><v>{i}.5</v></member>' for i in range(3))
    text = f'<FeatureCollection numberMatched="90" numberReturned="3">{rows}</FeatureCollection>'
    (tmp_path / "x").write_text(text)
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert any("numberMatched is 90, numberReturned 3" in note for note in made.notes)


def test_the_pages_of_features_and_of_a_link_header_are_followed(tmp_path: Path) -> None:
    features = ", ".join(
        json.dumps({"type": "Feature", "id": f"s{i}", "properties": {"v": i / 2}, "geometry": None})
        for i in range(12)
    )
    said = '"numberMatched": 90, "numberReturned": 12'
    (tmp_path / "x").write_text(
        f'{{"type": "FeatureCollection", {said}, "features": [{features}]}}'
    )

    def made(url: str, link: str = "") -> Any:
        found = draft(tmp_path / "x", name="x", url=url, link=link)
        assert any("one page of several" in note for note in found.notes)
        source = drawn(load_profile(found.text.encode(), draft=True), "source")
        return source.get("pagination")

    wfs = "https://example.org/wfs?service=WFS&request=GetFeature"
    assert made(wfs) == {
        "type": "offset", "parameter": "startIndex", "limit_parameter": "count", "limit": 12,
        "total_records": "$.numberMatched",
    }  # fmt: skip
    # What the address says already is not said again, and version 1 has no such parameters.
    assert made(f"{wfs}&count=12") is made(f"{wfs}&version=1.1.0") is None
    assert made(wfs, '<https://example.org/wfs?page=2>; rel="next"') == {"type": "link"}


def test_a_feed_forgets_and_its_draft_does_not(tmp_path: Path) -> None:
    items = "".join(
        f"<item><title>Note {i}</title><guid>g{i}</guid>"
        f"<pubDate>Mon, 0{i} Jan 2020 10:00:00 GMT</pubDate></item>"
        for i in range(1, 6)
    )
    text = f'<rss version="2.0"><channel><title>N</title>{items}</channel></rss>'
    assert drawn(drafted(tmp_path / "x", text), "mode") == "append"


def test_a_name_of_years_is_no_measure(tmp_path: Path) -> None:
    years = {str(year): str(year) for year in range(2015, 2021)}
    text = json.dumps(
        {
            "version": "2.0",
            "class": "dataset",
            "id": ["time", "place"],
            "size": [6, 2],
            "dimension": {
                "time": {"category": {"index": list(years), "label": years}},
                "place": {"category": {"index": ["A", "B"], "label": {"A": "Aa", "B": "Bb"}}},
            },
            "value": [float(i) / 2 for i in range(12)],
        }
    )
    assert "time_label" not in drawn(drafted(tmp_path / "x", text), "measures")


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", "csv", "nothing in it"),
        (b"a" * 200_000, "", "as a table"),
        (b'a,b\n1,"' + b"x" * 200_000, "csv", "as a table"),
        (b'<!DOCTYPE r [<!ENTITY e "x">]><r><l><i><a>&e;</a><b>1</b></i><i><a>&e;</a><b>2</b></i>'
         b"</l></r>", "", "declares entities"),
        (b"<a " + b" ".join(b'xmlns:n%d="u:%d"' % (n, n) for n in range(40)) +
         b'><l><z:i xmlns:z="late" x="1" y="2"/><z:i xmlns:z="late" x="2" y="2"/></l></a>',
         "", "no element"),
    ],
)  # fmt: skip
def test_what_cannot_be_drafted_is_told_not_fallen_over(
    tmp_path: Path, data: bytes, kind: str, said: str
) -> None:
    (tmp_path / "x").write_bytes(data)
    limit = csv.field_size_limit(131_072)  # as it is until the first table was read
    try:
        with pytest.raises(ParseFailed, match=said):
            draft(tmp_path / "x", name="x", url="https://example.org/x", kind=kind)
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("empty", ["", "-"])
def test_a_period_column_without_any_is_no_period(tmp_path: Path, empty: str) -> None:
    found = drafted(tmp_path / "x", f"year,period,v\n2020,{empty},1\n2021,{empty},2\n")
    assert drawn(found, "period") == {"path": "year", "frequency": "A"}


def test_the_language_of_a_list_is_named_by_its_own_prefix(tmp_path: Path) -> None:
    items = '<item x="1" y="2"/><item x="2" y="2"/>'
    found = drafted(tmp_path / "x", f'<a><list xml:lang="en">{items}</list></a>')
    assert drawn(found, "dimensions") == {"lang": {"path": "../@xml:lang"}}


def test_names_that_only_some_records_have_can_be_read(tmp_path: Path) -> None:
    extra = '<x:note xmlns:x="u:x" xml:lang="de">n</x:note>'
    items = "".join(
        f'<item id="i{i}"><v>{i}.5</v>{extra if i == 7 else ""}</item>' for i in range(1, 10)
    )
    found = drafted(tmp_path / "x", f"<list>{items}</list>")
    said = {name: entry["path"] for name, entry in drawn(found, "attributes").items()}
    assert said == {"note": "x:note", "lang": "x:note/@xml:lang"}


def test_a_member_may_be_called_anything(tmp_path: Path) -> None:
    name = "a\tb'c\\d\n"
    found = drafted(tmp_path / "x", json.dumps([{name: i, "id": f"i{i}"} for i in range(9)]))
    records, _ = records_under(tmp_path / "x", found)
    [[measure]] = {tuple(one.measures) for one in records}
    assert [one.measures[measure].value for one in records] == [str(i) for i in range(9)]


@pytest.mark.parametrize("end", ["\\n", "\\u2028", "\\u0085", "\\u001b[2J"])
def test_a_source_writes_no_line_of_its_own_into_a_draft(tmp_path: Path, end: str) -> None:
    page = f'{{"x{end}timezone: UTC": {{"next_page": "abc"}}, "data": [{{"a": 1}}, {{"a": 2}}]}}'
    (tmp_path / "x").write_text(page)
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    load_profile(made.text.encode(), draft=True)
    assert any("one page of several" in note for note in made.notes)
    assert all(note.isprintable() for note in made.notes)


def test_the_first_part_of_a_long_page_may_end_within_a_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.collect.recognise.HEAD_BYTES", 20)
    found = drafted(tmp_path / "x", ("a,b\n" + "ab,1\n" * 3 + "é,2\n" * 5).encode())
    assert drawn(found, "source")["format"] == {"type": "csv"}
    latin = ("a,b\n" + "é,2\n" * 20).encode("latin-1")
    (tmp_path / "y").write_bytes(latin)
    made = draft(tmp_path / "y", name="x", url="https://example.org/x")
    assert "encoding: windows-1252" in made.text


def made_of(path: Path, text: str, rejects: int = 0, **known: Any) -> tuple[Profile, list[str]]:
    """The draft of a page and its notes; so many rows of it are rejects."""
    path.write_text(text)
    made = draft(path, name="x", url="https://example.org/x", **known)
    profile = load_profile(made.text.encode(), draft=True)
    assert len(records_under(path, profile)[1]) == rejects == profile.max_rejects
    return profile, made.notes


def test_the_stamp_of_a_file_is_not_drafted(tmp_path: Path) -> None:
    rows = "".join(
        f"17/05/24 23:00:00,{geo},{year},{year % 7}.5\n"
        for geo in "AB"
        for year in range(2010, 2020)
    )
    found, notes = made_of(tmp_path / "x", "LAST UPDATE,geo,TIME_PERIOD,OBS_VALUE\n" + rows)
    assert drawn(found, "key") == ["dimensions.geo", "period"]
    assert list(drawn(found, "dimensions")) == ["geo"]
    assert not drawn(found, "attributes")
    assert any(note.startswith("LAST UPDATE is left out") for note in notes)
    # A stamp of each row is one of its values.
    rows = "".join(f"2024-05-{i:02d},k{i},{i}.5\n" for i in range(1, 20))
    found, _ = made_of(tmp_path / "x", "updated,id,v\n" + rows)
    assert drawn(found, "period")["path"] == "updated"


DAYS = [f"2021-01-{day:02d}" for day in range(1, 20)]


def test_rows_of_tags_and_units_are_skipped_and_said(tmp_path: Path) -> None:
    rdb = "agency_cd\tsite_no\tdatetime\tflow\tflow_cd\n5s\t15s\t20d\t14n\t10s\n" + "".join(
        f"USGS\t01646500\t{day}\t{'Ice' if i == 0 else 10500 + i}\tA\n"
        for i, day in enumerate(DAYS)
    )
    found, notes = made_of(tmp_path / "x", rdb)
    assert found.source.format.skip_rows == ["5s"]  # type: ignore[union-attr]
    assert drawn(found, "period") == {"path": "datetime", "frequency": "D"}
    assert drawn(found, "measures")["flow"]["path"] == "flow"
    assert found.nulls == ["", "Ice"]
    assert any("'5s, 15s, 20d, 14n'" in note for note in notes)
    assert any("'Ice' is taken for a value that is missing" in note for note in notes)
    # Another site's rows follow under a header and tags of their own.
    second = rdb.replace("01646500", "01646502").replace("Ice", "9")
    found, _ = made_of(tmp_path / "x", rdb + second)
    assert found.source.format.skip_rows == ["5s", "agency_cd"]  # type: ignore[union-attr]
    assert drawn(found, "key") == ["dimensions.site_no", "period"]
    bank = (
        '"";EX.USD;EX.USD_FLAGS\n"";Reference rate of the bank;\nUnit;USD;\nDimension;One;\n'
        + "".join(f"{day};1,{i + 10};\n" for i, day in enumerate(DAYS))
        + '"Remark: the rate is noted at 14:15 by all";;\n'
    )
    found, notes = made_of(tmp_path / "x", bank)
    assert drawn(found, "period")["frequency"] == "D"
    assert drawn(found, "key") == ["period"]
    assert list(drawn(found, "measures")) == ["ex_usd"]
    assert any("(`skip_rows`)" in note and "Unit, USD" in note for note in notes)


def test_what_is_said_to_be_skipped_is(tmp_path: Path) -> None:
    rows = "date,v,w\nday,kg,mm\n" + "".join(f"{day},{i}.5,{i}\n" for i, day in enumerate(DAYS))
    address = "https://www.an-office-of-statistics.example.org/methods/notes.html"
    found, _ = made_of(tmp_path / "x", f"{rows}{address},see there,\n")
    assert found.source.format.skip_rows == ["day", f"{address[:40]}*"]  # type: ignore[union-attr]
    assert drawn(found, "period") == {"path": "date", "frequency": "D"}
    # Of all texts nothing but a star begins so: a row of it cannot be named.
    found, notes = made_of(tmp_path / "x", f"{rows}*,see there,\n", rejects=2)
    assert any("cannot be skipped here: 'day, kg, mm'; '*, see there'" in note for note in notes)


def test_names_in_the_place_of_a_first_record_are_said(tmp_path: Path) -> None:
    names = {"V": "Valor", "D1C": "UF (Código)", "D1N": "UF", "D2C": "Mês (Código)"}
    rows = [
        {"V": f"{i}.74", "D1C": uf, "D1N": f"n{uf}", "D2C": f"2020{i:02d}"}
        for i in range(1, 10)
        for uf in ("11", "35")
    ]
    found, notes = made_of(tmp_path / "x", json.dumps([names, *rows]))
    assert drawn(found, "source")["format"] == {"type": "json", "skip_rows": ["Valor"]}
    assert drawn(found, "key") == ["dimensions.d1_c", "period"]
    assert list(drawn(found, "measures")) == ["v"]
    assert drawn(found, "period") == {"path": "$.D2C", "frequency": "M"}
    assert any("are skipped (`skip_rows`): 'Valor, UF" in note for note in notes)


def test_cells_that_are_merged_over_rows_are_filled(tmp_path: Path) -> None:
    rows = [["Area", "Sex", "Age", "n"]]
    for area in ("North", "South", "West"):
        for sex in ("M", "F"):
            for age in ("0-14", "15-64", "65+"):
                first, second = sex == "M" and age == "0-14", age == "0-14"
                rows.append([area if first else "", sex if second else "", age, str(len(rows))])
    text = "\n".join(map(",".join, rows)) + "\n"
    found, notes = made_of(tmp_path / "x", text)
    form = {"type": "csv", "fill_down": ["Area", "Sex"]}
    assert drawn(found, "source")["format"] == form
    assert set(found.key) == {"dimensions.area", "dimensions.sex", "dimensions.age"}
    assert any("(`fill_down`)" in note for note in notes)
    flags = "".join(f"{'p' if n % 3 else ''},{n + 2000},{n}\n" for n in range(1, 12))
    found, _ = made_of(tmp_path / "x", f"flag,year,n\n{flags}")
    assert "fill_down" not in drawn(found, "source")["format"]


@pytest.mark.parametrize("days", ["2020-04-{:02}", "{}", "x{:02}"])
def test_remarks_on_single_rows_are_not_filled_down(tmp_path: Path, days: str) -> None:
    named = {1: "New Year", 12: "Easter"}
    rows = "".join(f"{named.get(n, '')},{days.format(n)},{n}\n" for n in range(1, 29))
    found, notes = made_of(tmp_path / "x", f"holiday,day,v\n{rows}")
    assert "fill_down" not in drawn(found, "source")["format"]
    assert any("Many cells of holiday are empty" in note for note in notes)


def test_merged_cells_beside_what_begins_anew_are_filled(tmp_path: Path) -> None:
    towns = (("North", "Aby Bor Cam"), ("South", "Ayr Bath"), ("West", "Ash Bude Cork Deal"))
    told = [
        f"{region if n == 0 else ''},{town},{len(town)}\n"
        for region, names in towns
        for n, town in enumerate(names.split())
    ]
    found, _ = made_of(tmp_path / "x", "region,town,n\n" + "".join(told))
    assert drawn(found, "source")["format"]["fill_down"] == ["region"]
    # what begins anew elsewhere, too, is no sign of it
    weekdays = "".join(
        f"{'Easter Monday' if n == 13 else 'New Year' if n == 0 else ''},{'WTFSsMt'[n % 7]},{n},x\n"
        for n in range(21)
    )
    found, _ = made_of(tmp_path / "x", f"holiday,weekday,day,v\n{weekdays}")
    assert "fill_down" not in drawn(found, "source")["format"]


def test_names_of_what_stands_beside_a_field_stay_free(tmp_path: Path) -> None:
    def names(header: str, *rows: str) -> dict[str, str]:
        found, _ = made_of(tmp_path / "x", "\n".join([header, *rows]) + "\n")
        groups = [drawn(found, group) or {} for group in ("dimensions", "measures", "attributes")]
        return {
            name: entry if isinstance(entry, str) else entry["path"]
            for group in groups
            for name, entry in group.items()
        }

    told = ("12,a", "13 p,b", "14,c", "15,d")
    assert names("v,v_mark", *told) == {"v": "v", "v_mark_2": "v_mark"}
    assert names("v,v_missing", *told) == {"v": "v", "v_missing_2": "v_missing"}
    turned = [",".join(reversed(line.split(","))) for line in told]
    assert names("v_mark,v", *turned) == {"v_mark": "v_mark", "v_2": "v"}
    assert names("v_missing,v", *turned) == {"v_missing": "v_missing", "v_2": "v"}
    plain = [line.replace(" p", "") for line in told]
    assert names("v,v_mark", *plain) == {"v": "v", "v_mark": "v_mark"}
    wide = names("value,2018,2019,2020,2021", *(f"a{n},1,2,3,4" for n in range(5)))
    assert wide == {"value": "value", "value_2": "#value"}


def test_what_numbers_count_for_is_said_by_each_record(tmp_path: Path) -> None:
    rows = "".join(
        f"{area},{item},{year},{year / 4},{mult}\n"
        for area in ("AU", "FR")
        for item, mult in (("GDP", 6), ("POP", 3))
        for year in range(2015, 2020)
    )
    found = drafted(tmp_path / "x", f"REF_AREA,MEASURE,TIME_PERIOD,OBS_VALUE,UNIT_MULT\n{rows}")
    assert drawn(found, "measures") == {
        "obs_value": {"path": "OBS_VALUE", "magnitude_path": "UNIT_MULT"}
    }
    assert found.key == ["dimensions.ref_area", "dimensions.measure", "period"]
    rows = rows.replace(",6\n", ",Millions\n")
    found = drafted(tmp_path / "x", f"REF_AREA,MEASURE,TIME_PERIOD,OBS_VALUE,UNIT_MULT\n{rows}")
    assert drawn(found, "measures") == {"obs_value": {"path": "OBS_VALUE"}}


def test_marks_of_money_percent_and_flags_are_taken_from_their_numbers(tmp_path: Path) -> None:
    rows = "".join(
        f'{s},{y},"$1,{n}34",{n}.5%,{n}.5{" p" if y == 2021 else ""},{n}{"AB"[n % 2]},"({n})"\n'
        for n, s in enumerate(("AL", "AK", "AZ", "AR", "CA"))
        for y in (2019, 2020, 2021)
    )
    found, notes = made_of(tmp_path / "x", f"state,year,spend,share,rate,house,odd\n{rows}")
    measures = {
        "spend": {"path": "spend", "marks": ["$"], "thousands": ","},
        "share": {"path": "share", "split": "%", "unit": "%"},
        "rate": {"path": "rate", "marks": ["p"]},
    }
    assert drawn(found, "measures") == measures
    assert "house" in found.dimensions
    assert sum("is taken for a mark" in note for note in notes) == 2


def test_blanks_that_pad_a_text_are_taken_away(tmp_path: Path) -> None:
    rows = "".join(
        f"{s:<20}\t{m}\t{m * 1.5:12.1f}\n" for s in ("LNS1", "LNS2") for m in range(1, 13)
    )
    found = drafted(tmp_path / "x", f"series_id           \tmonth\t       value\n{rows}")
    assert drawn(found, "dimensions")["series_id"] == {"path": "series_id", "trim": True}
    records, _ = records_under(tmp_path / "x", found)
    assert {record.dimensions["series_id"] for record in records} == {"LNS1", "LNS2"}


def test_rows_that_cannot_be_records_are_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("id,elev,name\n" + "A1,1,OSLO\nA2,2,NEW,YORK\nA3,3,ROME\n" * 5)
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert any("5 of 15 rows have more or fewer cells" in note for note in made.notes)


def test_a_long_line_among_short_ones_is_looked_at_once(tmp_path: Path) -> None:
    short = "".join(f"w{i} x{i} {'y ' * (i % 5)}\n" for i in range(390))
    (tmp_path / "x").write_text(short + "word " * 2_000 + "\n")
    assert calls_made(lambda: recognise(tmp_path / "x")) < 100_000


def test_columns_at_places_are_found_by_what_is_blank(tmp_path: Path) -> None:
    lines = [f"A{n:<3} {n * 10.5:6.1f} {name}\n" for n, name in enumerate(
        ("OSLO", "NEW YORK", "ROME", "LA PAZ", "DEN HAAG AIRPORT", "BERN", "KYIV"), 1
    )]  # fmt: skip
    found, notes = made_of(tmp_path / "x", "id     elev name\n" + "".join(lines))
    places = {"id": "1-6", "elev": "8-11", "name": "13-"}
    assert drawn(found, "source")["format"] == {
        "type": "csv", "header_starts": "id", "places": places,
    }  # fmt: skip
    assert found.key == ["dimensions.id"]
    records, _ = records_under(tmp_path / "x", found)
    assert [record.attributes.get("name") or record.dimensions["name"] for record in records] == [
        line[12:].strip() for line in lines
    ]
    assert any("at fixed places" in note for note in notes)
    found, _ = made_of(tmp_path / "x", "".join(lines))
    assert list(drawn(found, "source")["format"]["places"]) == ["c1", "c2", "c3", "c4"]
    assert drawn(found, "source")["format"]["ragged"] == "pad"


def test_a_place_runs_up_to_the_next_for_what_stands_further_down(tmp_path: Path) -> None:
    """Of the first lines it is known: a longer name below is whole, a longer number none of it."""
    told = [(f"{n:03}", "PORT AUX" if n % 2 else "OSLO", str(n % 90 + 10)) for n in range(450)]
    told += [("450", "ROMA SUD EST", "7"), ("451", "OSLO", "17777"), ("452", "ROMA DEL SUD O", "7")]
    lines = "".join(f"{i:<5}{name.ljust(18 - len(value))}{value}\n" for i, name, value in told)
    (tmp_path / "x").write_text(f"id   station       elev\n{lines}")
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    found = load_profile(made.text.encode(), draft=True)
    assert drawn(found, "source")["format"]["places"] == {
        "id": "1-4", "station": "6-18", "elev": "20-",
    }  # fmt: skip
    records, rejects = records_under(tmp_path / "x", found)
    assert [(r.key[0], r.dimensions["station"]) for r in records[-2:]] == [
        ("449", "PORT AUX"), ("450", "ROMA SUD EST"),
    ]  # fmt: skip
    assert [reject.reason[:7] for reject in rejects] == ["has '1'", "has 'O'"]


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (b"PAR1\x15\x04PAR1", "this is Parquet", "CSV or JSON"),
        (b'CHARSET="ANSI";\nAXIS-VERSION="2010";\nDATA=\n1 2;\n', "PC-Axis", "json-stat2"),
        (b'{"dataSets": [{"series": {"0:0": {"observations": {"0": [1]}}}}]}', "SDMX-JSON", "CSV"),
        (b'{"data": {"dataSets": [{"observations": {"0": [1]}}]}}', "SDMX-JSON", "CSV"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_ask_for(
    tmp_path: Path, data: bytes, said: str, hint: str
) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ParseFailed, match=said) as caught:
        draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert hint in caught.value.hint


def test_two_header_rows_are_joined_and_taken_apart(tmp_path: Path) -> None:
    def page(first: str, second: str) -> str:
        rows = "".join(f"{place},{c},1,2,3,4\n" for c, place in enumerate("ABCDEFGH"))
        return f"{first}\n{second}\n{rows}"

    found, notes = made_of(tmp_path / "x", page("Area,Code,2019,,2020,", ",,M,F,M,F"))
    assert drawn(found, "source")["format"] == {"type": "csv", "header_rows": 2}
    assert found.unpivot is not None
    assert re.fullmatch(found.unpivot.columns, "2021 | M and F")
    assert set(found.key) == {"dimensions.code", "dimensions.group", "period"}
    assert drawn(found, "period") == {"path": "#time", "frequency": "A"}
    assert any("Two rows name the columns" in note for note in notes)
    found, _ = made_of(
        tmp_path / "x", "Population,,,,,\n" + page(",,M,,F,", "Area,Code,2019,2020,2019,2020")
    )
    form = {"type": "csv", "header_rows": 2, "header_starts": "M"}
    assert drawn(found, "source")["format"] == form
    assert set(found.key) == {"dimensions.code", "dimensions.group", "period"}
    assert drawn(found, "period") == {"path": "#time", "frequency": "A"}
    rows = [["Area", None, 2019, None, 2020], [None, "Code", "M", "F", "M"]]
    rows += [[p, f"{p}{p}", 1, 2, 3] for p in "ABCDEFGH"]
    found = drafted(tmp_path / "x", workbook(("s", rows)))
    assert drawn(found, "source")["format"] == {"type": "xlsx", "header_rows": 2}
    found = drafted(tmp_path / "x", workbook(("s", [["Title"], *rows])), header_row=2)
    assert drawn(found, "source")["format"] == {"type": "xlsx", "header_row": 2, "header_rows": 2}


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        ("2019,2019 flag,2020,2020 flag,2021,2021 flag,2022,2022 flag", "{column} flag"),
        ("2019,,2020,,2021,,2022,", 1),
        ("2019,Flag,2020,Flag,2021,Flag,2022,Flag", 1),
        ("2019,f,2020,g,2021,h,2022,i", None),
    ],
)
def test_flags_beside_the_years_are_theirs(
    tmp_path: Path, names: str, beside: str | int | None
) -> None:
    rows = "".join(f"{p},1.5,p,2.5,,3.5,e,4.5,\n" for p in "ABCDEFGH")
    found = drafted(tmp_path / "x", f"geo,{names}\n{rows}")
    assert found.unpivot is not None
    assert found.unpivot.beside == ({"flag": beside} if beside else {})
    assert ("flag" in found.attributes) == bool(beside)


@pytest.mark.parametrize(
    ("names", "period"),
    [
        ("2020-01,2020-02,2020-03,2020-04", {"frequency": "M"}),
        ("2019Q4,2020Q1,2020Q2,2020Q3", {"frequency": "Q"}),
        ("2020-01-31,2020-02-29,2020-03-31,2020-04-30", {"frequency": "D"}),
        ("Jan 2020,Feb 2020,Mar 2020,Apr 2020", {"frequency": "M", "format": "%b %Y"}),
        ("Jan-20,Feb-20,Mar-20,Apr-20", {"frequency": "M", "format": "%b-%y"}),
    ],
)
def test_columns_that_are_periods_of_any_kind(
    tmp_path: Path, names: str, period: dict[str, str]
) -> None:
    rows = "".join(f"{p},1.5,2.5,3.5,4.5\n" for p in "ABCDEFGH")
    found = drafted(tmp_path / "x", f"geo,{names}\n{rows}")
    assert drawn(found, "period") == {"path": "#column", **period}
    assert found.key == ["dimensions.geo", "period"]


@pytest.mark.parametrize("digits", [64, 65])
def test_what_is_longer_than_any_number_is_not_looked_at_as_one(digits: int) -> None:
    """The time that takes grows with the square of it: an outline of a country took minutes."""
    names = {"a": "words", "b": "other words"}
    rows = [names, *({"a": str(i) * digits, "b": str(i + 1) * digits} for i in range(1, 9))]
    rows[8]["b"] = "9" * digits
    assert odd_rows(rows).before == ((0,) if digits == 64 else ())


def test_a_total_among_the_rows_is_said(tmp_path: Path) -> None:
    rows = "".join(f"County {i},E{i:02d},{i}00,{i}.5\n" for i in range(10, 22))
    _, notes = made_of(tmp_path / "x", f"area,code,n,share\n{rows}Column Total,,9999,100.0\n")
    assert any("seems to be a total: 'Column Total, 9999, 100.0'" in note for note in notes)


def test_a_column_of_numbers_with_others_among_them_is_no_dimension(tmp_path: Path) -> None:
    rows = "".join(
        f"2019;MONAT{m:02d};{place};{m}.487,{place}\n" for m in range(1, 13) for place in (1, 2)
    )
    head = "Zeit;Monat_Code;Ort_Code;Umsatz\n"
    odd = "2020;MONAT01;1;x\n2020;MONAT02;1;/\n2020;MONAT03;1;...\n"
    found, notes = made_of(tmp_path / "x", head + rows + odd)
    assert drawn(found, "period") == {"path": "Zeit", "frequency": "A"}
    assert drawn(found, "measures")["umsatz"]["decimal"] == ","
    assert {"x", "/", "..."} <= set(found.nulls)
    found, notes = made_of(tmp_path / "x", f"{head}{rows}2020;MONAT01;1;(1.234,5)\n")
    assert "umsatz" in drawn(found, "attributes")
    assert any("not every value is a number: '(1.234,5)'" in note for note in notes)


def test_a_word_for_missing_stays_a_text_where_it_is_one(tmp_path: Path) -> None:
    rows = "".join(
        f"{code},{'F' if year % 2 else 'M'},{year},{'NA' if code == 'FR' else year / 7:},"
        f"{'M' if year == 2003 and code == 'DE' else year * 10 + number}\n"
        for number, code in enumerate(("NA", "DE", "FR", "GB", "ZA"))
        for year in range(2001, 2005)
    )
    found, _ = made_of(tmp_path / "x", "iso2,sex,year,v,w\n" + rows)
    assert drawn(found, "measures")["v"]["nulls"] == ["", "NA"]
    assert drawn(found, "measures")["w"]["nulls"] == ["", "M"]
    assert found.nulls == [""]
    records, _ = records_under(tmp_path / "x", found)
    assert {one.dimensions["iso2"] for one in records} == {"NA", "DE", "FR", "GB", "ZA"}
    assert {one.dimensions["sex"] for one in records} == {"F", "M"}


def test_the_number_of_a_row_is_its_key_and_no_measure(tmp_path: Path) -> None:
    rows = [{"attributes": {"OBJECTID": i, "Cases": i / 2}} for i in range(12)]
    found, _ = made_of(tmp_path / "x", json.dumps({"features": rows}))
    assert drawn(found, "key") == ["dimensions.objectid"]
    assert list(drawn(found, "measures")) == ["cases"]


@pytest.mark.parametrize(
    ("offsets", "told"), [(["+01:00"], "+01:00"), (["+01:00", "+02:00"], "+01:00, +02:00")]
)
def test_a_midnight_elsewhere_is_no_day_of_utc(
    tmp_path: Path, offsets: list[str], told: str
) -> None:
    rows = [{"d": f"2024-0{m}-01T00:00:00{offsets[m % len(offsets)]}", "v": m} for m in range(1, 7)]
    found, notes = made_of(tmp_path / "x", json.dumps(rows))
    assert drawn(found, "period") == {"path": "$.d", "frequency": "I"}
    assert any(f"(`timezone`: {told} from UTC)" in note for note in notes)
    rows = [{"d": f"2024-0{m}-01T00:00:00Z", "v": m} for m in range(1, 7)]
    found, notes = made_of(tmp_path / "x", json.dumps(rows))
    assert drawn(found, "period") == {"path": "$.d", "frequency": "M"}
    assert not any("timezone" in note for note in notes)


def test_times_without_a_zone_are_said_to_be_taken_for_utc(tmp_path: Path) -> None:
    table = "zeit,v\n2024-10-27 01:30,1\n2024-10-27 02:00,2\n2024-10-27 03:30,3\n"
    _, notes = made_of(tmp_path / "x", table)
    assert any("name no zone and are taken for UTC" in note for note in notes)
    for aware in ("Z", "+01:00"):
        _, notes = made_of(tmp_path / "x", re.sub(r"(:[0-9]{2}),", rf"\1{aware},", table))
        assert not any("no zone" in note for note in notes)


def test_days_without_dashes_are_days_whatever_they_are_called(tmp_path: Path) -> None:
    found = drafted(tmp_path / "x", "dag,v\n20240131,5\n20240201,6\n20240202,7\n")
    assert drawn(found, "period") == {"path": "dag", "frequency": "D", "format": "%Y%m%d"}
    found = drafted(tmp_path / "x", "nr_of,v\n20240131,5\n20241301,6\n20240202,7\n")
    assert drawn(found, "period") is None


def test_footnotes_behind_a_table_end_it(tmp_path: Path) -> None:
    table = "Land;Jahr;Wert\nA;2022;1,5\nB;2022;2,5\nA;2023;3\n"
    found, notes = made_of(tmp_path / "x", f"{table}\n© Amt für Statistik\n1) vorläufig\n")
    assert drawn(found, "source")["format"]["stop_at"] == "© Amt für Statistik"
    assert any("taken for footnotes (`stop_at`)" in note for note in notes)
    # Neither a row that was cut nor one that begins like a record is a footnote.
    for behind in ("B;2023\n", "A\n", "x\nC;2023;5\n"):
        (tmp_path / "x").write_text(table + behind)
        made = draft(tmp_path / "x", name="x", url="https://example.org/x")
        assert "stop_at" not in made.text
        assert any("more or fewer cells" in note for note in made.notes)


def test_a_line_for_spreadsheet_programs_is_no_header(tmp_path: Path) -> None:
    found = drafted(tmp_path / "x", "sep=;\nid;wert\n1;2,5\n2;3,5\n")
    assert drawn(found, "source")["format"] == {"type": "csv", "delimiter": ";", "skip_lines": 1}
    assert drawn(found, "measures") == {"wert": {"path": "wert", "decimal": ","}}


@pytest.mark.parametrize("charset", ["iso-8859-1", ""])
def test_utf_8_under_another_name_is_drafted_as_what_it_is(tmp_path: Path, charset: str) -> None:
    if charset:
        text, kind = "naam;waarde\nFryslân;1,5\nDrenthe;2\n", "csv"
    else:
        row = "<r><naam>Fryslân</naam><v>1</v></r><r><naam>Drenthe</naam><v>2</v></r>"
        text, kind = f"<?xml version='1.0' encoding='latin1'?><x>{row}</x>", "xml"
    (tmp_path / "x").write_text(text, encoding="utf-8")
    made = draft(tmp_path / "x", name="x", url="https://example.org/x", charset=charset)
    found = load_profile(made.text.encode(), draft=True)
    assert drawn(found, "source")["format"]["type"] == kind
    assert drawn(found, "source")["format"]["encoding"] == "utf-8"
    assert "Fryslân" in made.text or kind == "xml"
    assert any("and the bytes are UTF-8" in note for note in made.notes)


@pytest.mark.parametrize("encoding", ["windows-1251", "shift_jis"])
def test_letters_of_another_script_are_not_said_to_fit(tmp_path: Path, encoding: str) -> None:
    word = "Россия" if encoding == "windows-1251" else "日本国"
    (tmp_path / "x").write_bytes(f"id,a\n1,{word}\n2,{word * 9}\n".encode(encoding))
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert any("put the right name at `encoding`" in note for note in made.notes)


def test_utf_16_without_a_mark_is_seen(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        found = drafted(tmp_path / "x", "naam;waarde\nA;1,5\nB;2\n".encode(encoding))
        assert drawn(found, "source")["format"]["encoding"] == encoding


@pytest.mark.parametrize("name", ["pop.xlsx", "2024/pop.xlsx"])
def test_a_workbook_in_an_archive(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, workbook(("T", [["a", "v"], ["x", 1], ["y", 2]])))
        if "/" in name:
            archive.writestr("read me.txt", "x")
    found = drafted(tmp_path / "x", packed.getvalue())
    source = drawn(found, "source")
    assert source["format"]["type"] == "xlsx"
    assert source.get("member", "") == (name if "/" in name else "")


def test_the_names_of_members_tell_records_apart(tmp_path: Path) -> None:
    rates = {f"2024-01-{d:02d}": {"USD": 1 + d / 100, "GBP": 0.8} for d in range(2, 8)}
    text = json.dumps({"base": "EUR", "rates": rates})
    found = drafted(tmp_path / "x", text)
    assert drawn(found, "period") == {"path": "#name", "frequency": "D"}
    assert found.key == ["period"]
    found = drafted(tmp_path / "x", text, records="$.rates[*][*]")
    assert drawn(found, "period") == {"path": "#key1", "frequency": "D"}
    assert drawn(found, "dimensions") == {"key2": {"path": "#key2"}}
    assert found.key == ["dimensions.key2", "period"]
    levels = {f"S{n}": {"level": n / 10} for n in range(2, 8)}
    found = drafted(tmp_path / "x", json.dumps({"stations": levels}))
    assert found.key == ["dimensions.name"]


def test_rows_without_names_are_read_by_place(tmp_path: Path) -> None:
    rows = [["A", 2020, 1.5], ["B", 2020, 2.5]]
    found, notes = made_of(tmp_path / "x", json.dumps({"columns": ["c", "y", "v"], "rows": rows}))
    assert drawn(found, "source")["format"] == {"type": "json", "records": "$.rows[*]"}
    assert drawn(found, "dimensions") == {"f_0": {"path": "$[0]"}}
    assert any("Arrays without names" in note for note in notes)


GENERIC = """<m:GenericData xmlns:m="http://www.sdmx.org/x/message" xmlns:g="http://www.sdmx.org/x/generic">
<m:DataSet>%s</m:DataSet></m:GenericData>"""


def test_values_of_sdmx_have_the_names_of_their_concepts(tmp_path: Path) -> None:
    series = "".join(
        f'<g:Series><g:SeriesKey><g:Value id="AREA" value="N{n}"/><g:Value id="IND" value="X"/>'
        f'</g:SeriesKey><g:Obs><g:ObsDimension value="2023"/><g:ObsValue value="{n}.5"/>'
        '<g:Attributes><g:Value id="OBS_STATUS" value="A"/><g:Value id="CONF" value="F"/>'
        "</g:Attributes></g:Obs></g:Series>"
        for n in range(3)
    )
    found = drafted(tmp_path / "x", GENERIC % series)
    assert drawn(found, "source")["format"]["records"].endswith("/g:Series/g:Obs")
    told = {**(drawn(found, "dimensions") or {}), **(drawn(found, "attributes") or {})}
    assert told["obs_status"]["path"] == "g:Attributes/g:Value[@id='OBS_STATUS']/@value"
    assert told["conf"]["path"] == "g:Attributes/g:Value[@id='CONF']/@value"


def test_entries_with_one_link_and_with_several(tmp_path: Path) -> None:
    link = '<link rel="alternate" href="https://x.example/1"/>'
    entries = "".join(
        f"<entry><id>urn:{n}</id><updated>2024-02-0{n}T00:00:00Z</updated>{link * n}</entry>"
        for n in (1, 2, 3)
    )
    feed = f'<feed xmlns="http://www.w3.org/2005/Atom">{entries}</feed>'
    found = drafted(tmp_path / "x", feed)
    told = {**(drawn(found, "dimensions") or {}), **(drawn(found, "attributes") or {})}
    paths = [entry["path"] for entry in told.values()]
    assert "atom:link[1]/@href" in paths
    assert "atom:link/@href" not in paths


def test_a_wide_table_with_flags_at_its_numbers(tmp_path: Path) -> None:
    head = ";".join(f"Q{quarter} 2022" for quarter in range(1, 5))
    text = f"ind;{head}\nGDP;1 234,5;1 250,0p;1 260,1;1 270\nEXP;400,1;410,2;;−5,5\n"
    found = drafted(tmp_path / "x", text)
    [entry] = drawn(found, "measures").values()
    assert entry == {"path": "#value", "marks": ["p"], "thousands": " ", "decimal": ","}


@pytest.mark.parametrize(
    ("spelled", "frequency", "first"),
    [
        (["Q3 2020", "Q4 2020", "Q1 2021"], "Q", "2020-07-01"),
        (["W30/2020", "W31/2020", "W53/2020"], "W", "2020-07-20"),
        (["2005/06", "2006/07", "2007/08"], "A", "2005-01-01"),
        (["2005-06", "2005-07", "2006-08"], "M", "2005-06-01"),
        ([f"2020{m:02d}" for m in range(1, 9)], "M", "2020-01-01"),
        (["2018MM01", "2018MM02", "2018KW01", "2018JJ00", "2018MM03"], "M", "2018-01-01"),
        (["2021-05-01Z", "2021-05-02Z", "2021-05-04Z"], "D", "2021-05-01"),
    ],
)
def test_spellings_of_periods(
    tmp_path: Path, spelled: list[str], frequency: str, first: str
) -> None:
    rows = "".join(f"{text},{i}.5\n" for i, text in enumerate(spelled))
    found, _ = made_of(tmp_path / "x", f"Perioden,v\n{rows}")
    assert drawn(found, "period")["frequency"] == frequency
    [record, *_], _ = records_under(tmp_path / "x", found)
    assert record.period is not None
    assert str(record.period.start).startswith(first)


def test_days_that_can_be_read_in_two_ways_are_said(tmp_path: Path) -> None:
    both = "".join(f"{m:02d}/02/2024,{m}.5\n" for m in range(1, 10))
    _, notes = made_of(tmp_path / "x", f"date,v\n{both}")
    assert any("01/02/2024 can be two days" in note and "%m/%d/%Y" in note for note in notes)
    _, notes = made_of(tmp_path / "x", f"date,v\n{both}10/31/2024,5.5\n")
    assert not any("two days" in note for note in notes)


def test_the_sheet_and_the_row_of_the_header_can_be_named(tmp_path: Path) -> None:
    table: list[list[object]] = [["Table 2"], ["place", "year", "v"]]
    table += (["a", 2000 + i, i / 2] for i in range(9))
    book = workbook(("Cover", [["An office"]]), ("Table 2", table))
    (tmp_path / "x").write_bytes(book)
    with pytest.raises(ParseFailed) as caught:
        draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert "--sheet" in caught.value.hint
    assert "--header-row" in caught.value.hint
    found = drafted(tmp_path / "x", book, sheet="Table 2", header_row=2)
    assert plain_profile(found)["source"]["format"] == {
        "type": "xlsx", "sheet": "Table 2", "header_row": 2,
    }  # fmt: skip
    assert drawn(found, "period") == {"path": "year", "frequency": "A"}


def test_a_column_of_formulas_without_results_is_left_out_and_said(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "v", "doubled"]]
    rows += ([f"a{i}", i / 2, (f"<f>B{i + 1}*2</f>", "")] for i in range(1, 9))
    (tmp_path / "x").write_bytes(workbook(("s", rows)))
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert made.records == made.rows == 8
    assert any("doubled is left out" in note for note in made.notes)
    (tmp_path / "x").write_bytes(workbook(("s", [row[2:] for row in rows])))
    with pytest.raises(ParseFailed, match="formulas"):
        draft(tmp_path / "x", name="x", url="https://example.org/x")


FEATURE = {"type": "Feature", "properties": {"v": 1}, "geometry": None}
FEATURES = json.dumps({"type": "FeatureCollection", "features": [FEATURE, FEATURE]})
RSS = (
    '<rss version="2.0"><channel><title>N</title><item><title>a</title><guid>b</guid></item>'
    "<item><title>c</title><guid>d</guid></item></channel></rss>"
)
PLAIN_JSON = '{"data": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]}'
CSV = "id,v\na,1\nb,2\n"


@pytest.mark.parametrize(
    ("text", "kind", "read"),
    [
        (FEATURES, "geojson", "geojson"),
        (FEATURES, "json", "json"),
        (f"{json.dumps(FEATURE)}\n" * 2, "ndjson", "ndjson"),
        ('{"id": "a", "v": 1}', "ndjson", "ndjson"),
        (RSS, "feed", "feed"),
        (RSS, "xml", "xml"),
        (PLAIN_JSON, "geojson", ""),
        (PLAIN_JSON, "json-stat", ""),
        (f"{PLAIN_JSON}\n" * 2, "json", ""),
        ("<a><b x='1' y='2'/><b x='2' y='3'/></a>", "feed", ""),
        (CSV, "xlsx", ""),
        (CSV, "json-stat", ""),
        (CSV, "feed", ""),
    ],
)
def test_a_format_that_is_named_is_used_or_refused(
    tmp_path: Path, text: str, kind: str, read: str
) -> None:
    (tmp_path / "x").write_text(text)
    if not read:
        with pytest.raises(ParseFailed):
            draft(tmp_path / "x", name="x", url="https://example.org/x", kind=kind)
        return
    assert drawn(drafted(tmp_path / "x", text, kind=kind), "source")["format"]["type"] == read


def test_a_workbook_is_no_table_of_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(workbook(("s", [["a", "b"], ["x", 1]])))
    with pytest.raises(ParseFailed, match="this is a workbook"):
        draft(tmp_path / "x", name="x", url="https://example.org/x", kind="csv")


GERMAN = {"thousands": ".", "decimal": ","}


@pytest.mark.parametrize(
    ("text", "style", "said"),
    [
        ("Region;Jahr;Wert;Quote\nN;2020;1.234;5,1\nS;2020;980.100;6,2\n", GERMAN, "for 1234. "),
        ("Region;Jahr;Wert\nN;2020;1.234\nS;2020;980.100\n", GERMAN, "for 1234. "),
        ("Tag\tWert\n01.12.2020\t1.234\n31.12.2020\t980.100\n", GERMAN, "for 1234. "),
        ("Jahr;Wert;Quote\n2020;1.234;5.1\n2021;980.100;6.25\n", {}, "for 1.234. "),
        ("Jahr,Wert\n2020,1.234\n2021,980\n", {}, "for 1.234. "),
        ('Jahr,Wert\n2020,"1,234"\n2021,"5,678"\n', {"thousands": ","}, "for 1234. "),
        ("Jahr;Wert;Q\n2020;1,234;5,1\n2021;5,678;6,2\n", {"decimal": ","}, "for 1.234. "),
        ("Jahr;Wert;Q\n2020;1,234;5.1\n2021;5,678;6.2\n", {"thousands": ","}, "for 1234. "),
        ("Jahr;Wert\n2020;1.234.567\n2021;980.100\n", GERMAN, ""),
        ("Jahr;Wert\n2020;0.234\n2021;980.100\n", {}, ""),
        ("Jahr;Wert\n2020;1.234\n2021;5000\n", {}, ""),
        ("Land;2018;2019;2020;2021\nA;1.234;2.345;3.456;4.567\n", GERMAN, "for 1234. "),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_read_as_the_file_is_and_said(
    tmp_path: Path, text: str, style: dict[str, str], said: str
) -> None:
    found, notes = made_of(tmp_path / "x", text)
    measures = drawn(found, "measures")
    [name] = {"wert", "value"} & set(measures)
    assert {**measures[name], "path": ""} == {"path": "", **style}
    told = [note for note in notes if "can be two numbers" in note]
    assert [said in note for note in told] == ([True] if said else [])


def test_a_number_that_was_sent_as_one_is_read_in_one_way(tmp_path: Path) -> None:
    found, notes = made_of(tmp_path / "x", '[{"a": "5,1", "v": 1.234}, {"a": "6,2", "v": 980.1}]')
    assert drawn(found, "measures")["v"] == {"path": "$.v"}
    assert not any("two numbers" in note for note in notes)


def test_a_text_among_which_half_are_numbers_is_said(tmp_path: Path) -> None:
    sent = ["10", "c", "[x]", "..", "12"]
    found, notes = made_of(
        tmp_path / "x", "k,v\n" + "".join(f"{i},{v}\n" for i, v in enumerate(sent))
    )
    assert "v" not in drawn(found, "measures")
    assert any("v is a text, though 2 of its 4 values" in n and "'c', '[x]'" in n for n in notes)


def test_a_total_in_the_place_of_a_time_hides_no_time(tmp_path: Path) -> None:
    rows = "".join(f"{m:02d}/2023,{m}.5\n" for m in range(1, 13))
    found, notes = made_of(tmp_path / "x", f"time,v\n{rows}Total,84.0\n")
    assert drawn(found, "period") == {"path": "time", "frequency": "M", "format": "%m/%Y"}
    assert drawn(found, "source")["format"]["skip_rows"] == ["Total"]
    assert any("in the place of a time: 'Total, 84.0'" in note for note in notes)


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u202f"])
def test_thousands_with_any_blank_between_are_numbers(tmp_path: Path, blank: str) -> None:
    text = "date;valeur\n" + "".join(
        f"{n:02}/01/2024;{n}{blank}00{n % 9},5\n" for n in range(1, 31)
    )
    found = drafted(tmp_path / "x", text)
    assert drawn(found, "measures") == {
        "valeur": {"path": "valeur", "thousands": " ", "decimal": ","}
    }
    told = draft(tmp_path / "x", name="x", url="https://example.org/x").text
    assert "# 1 001,5, 2 002,5, 3 003,5" in told


def test_a_sample_that_is_small_is_said_to_be(tmp_path: Path) -> None:
    text = (
        "Kreis;2021;2022;2023\nAachen;1,5;2,5;-\nBonn;3,5;3,5;3,5\nInsgesamt;5;6;3,5\n1) etwa;;;\n"
    )
    (tmp_path / "x").write_text(text)
    notes = draft(tmp_path / "x", name="x", url="https://example.org/x").notes
    assert any(note.startswith("There are only 4 rows to judge by") for note in notes)
    assert any(note.startswith("2021, 2022, 2023 may be years.") for note in notes)
    (tmp_path / "x").write_text(SERIES)
    notes = draft(tmp_path / "x", name="x", url="https://example.org/x").notes
    assert not any("only" in note or "may be" in note for note in notes)


def test_a_title_above_a_sheet_s_header_is_passed_over_and_said(tmp_path: Path) -> None:
    rows = [["Population, by area"], ["in thousands"], [], ["area", "y", "n"],
            *([f"A{n}", 2019, n + 0.5] for n in range(4))]  # fmt: skip
    found = drafted(tmp_path / "x", workbook(("s", rows)))
    assert drawn(found, "source")["format"] == {"type": "xlsx", "header_row": 4}
    notes = draft(tmp_path / "x", name="x", url="https://example.org/x").notes
    assert any("above row 4" in note and "'Population, by area'" in note for note in notes)
    for plain in (rows[3:], [["only"], ["x"], ["y"]]):
        found = drafted(tmp_path / "x", workbook(("s", plain)))
        assert drawn(found, "source")["format"] == {"type": "xlsx"}


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"country": "France"}, ["dimensions.country", "period"]),
        ({"country": "France", "unit": "kg", "note": "final"}, ["dimensions.country", "period"]),
        (
            {"iso_code": "FRA", "country_name": "France", "source": "INSEE"},
            ["dimensions.iso_code", "period"],
        ),
        ({"country_name": "France"}, ["dimensions.country_name", "period"]),
        ({"unit": "kg"}, ["period"]),
        ({}, ["period"]),
    ],
)
def test_what_tells_a_series_is_in_the_key_though_there_is_but_one(
    tmp_path: Path, columns: dict[str, str], key: list[str]
) -> None:
    head = ",".join([*columns, "year", "value"])
    rows = [",".join([*columns.values(), str(2000 + n), f"{n}.5"]) for n in range(12)]
    text = "\n".join([head, *rows]) + "\n"
    assert drafted(tmp_path / "x", text).key == key
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    said = [note for note in made.notes if "a part of `key`" in note]
    assert len(said) == (len(key) > 1), made.notes
    assert all(f"# {note}" in made.text for note in said)


def test_a_code_of_each_row_needs_no_series_beside_it(tmp_path: Path) -> None:
    rows = "".join(f"r{n},France,{2000 + n},{n}.5\n" for n in range(12))
    assert drafted(tmp_path / "x", "id,country,year,value\n" + rows).key == ["dimensions.id"]


def test_beside_what_tells_series_apart_a_column_that_is_the_same_is_said(tmp_path: Path) -> None:
    rows = "".join(f"France,{what},{2000 + n},{n}.5\n" for what in "ab" for n in range(9))
    (tmp_path / "x").write_text("country,crop,year,value\n" + rows)
    made = draft(tmp_path / "x", name="x", url="https://example.org/x")
    assert "key: [dimensions.crop, period]" in made.text
    assert "# country: the same in all of these rows. If other rows may have another" in made.text


MONTHS = [f"2025M{month:02d}" for month in range(1, 13)]


def test_a_count_called_number_is_no_key_where_time_and_place_tell_rows_apart(
    tmp_path: Path,
) -> None:
    rows = "".join(
        f"{month};{place};{75 + 10 * at + 2 * beside}\n"
        for at, month in enumerate(MONTHS)
        for beside, place in enumerate("ABC")
    )
    for name, field in (("Number", "number"), ("No. of flats", "no_of_flats")):
        found, notes = made_of(tmp_path / "x", f"Month;Region;{name}\n{rows}")
        assert found.key == ["dimensions.region", "period"]
        assert drawn(found, "measures") == {field: {"path": name, "type": "integer"}}
        assert any(f"{name} is taken for a count" in note for note in notes)


def test_a_number_that_tells_rows_apart_alone_remains_their_key(tmp_path: Path) -> None:
    """Those that rows are numbered with, and those of rows that nothing else tells apart."""
    for numbers, place in ((range(500, 512), "{}"), (range(7, 127, 10), "A")):
        rows = "".join(
            f"{MONTHS[at // 2 if place == 'A' else at]};{place.format(at)};{number}\n"
            for at, number in enumerate(numbers)
        )
        found, _ = made_of(tmp_path / "x", f"Month;Region;Number\n{rows}")
        assert found.key == ["dimensions.number"]


@pytest.mark.parametrize("word", ["Total", "Insgesamt"])
def test_totals_after_each_month_hide_neither_the_time_nor_what_stands_below(
    tmp_path: Path, word: str
) -> None:
    rows = "".join(
        f"{month};N;{at},5\n{month};S;{at + 1},5\n{word};;{2 * at + 2}\n"
        for at, month in enumerate(MONTHS, 1)
    )
    text = f"Monat;Region;Anzahl\n ;;Stück\n{rows}1) vorläufig;;\nQuelle: Amt;;\n"
    found, notes = made_of(tmp_path / "x", text)
    assert drawn(found, "period") == {"path": "Monat", "frequency": "M"}
    assert found.key == ["dimensions.region", "period"]
    assert set(drawn(found, "source")["format"]["skip_rows"]) == {
        word, "Stück", "1) vorläufig", "Quelle: Amt",
    }  # fmt: skip
    assert any(f"12 rows seem to be totals, and have a word in the place of a time: '{word}, 4', …"
               in note for note in notes)  # fmt: skip


def test_totals_among_names_are_said_and_a_total_for_each_year_is_a_name(tmp_path: Path) -> None:
    rows = "".join(
        f"{kind}{at};{place};{at}\n" for at in range(4) for kind in ("oak", "ash") for place in "AB"
    ).replace("oak2", "Total;;6\noak2", 1)
    _, notes = made_of(tmp_path / "x", f"kind;place;v\n{rows}Total;;6\n")
    assert any("2 rows seem to be totals: 'Total, 6', …. They are records" in n for n in notes)
    rows = "".join(f"{place};{year};{year}\n" for year in range(2015, 2020) for place in TOWNS)
    _, notes = made_of(tmp_path / "x", f"place;year;v\n{rows}")
    assert not any("total" in note for note in notes)


TOWNS = ("Ulm", "Bonn", "Total")
