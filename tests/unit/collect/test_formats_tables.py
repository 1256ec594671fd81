"""Delimited text and cubes: what publishers put around a table, encodings, JSON-stat."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.collect.content import SpooledContent
from holdfast.collect.draft import draft
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.csv import read as read_csv
from holdfast.collect.formats.json import read as read_json
from holdfast.collect.formats.json import read_ndjson
from holdfast.collect.formats.json_stat import read as read_cube
from holdfast.collect.formats.names import unique_names
from holdfast.collect.formats.xml import read as read_xml
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.source import (
    CsvFormat,
    JsonFormat,
    JsonStatFormat,
    NdjsonFormat,
    XmlFormat,
)
from tests.conformance.test_formats import Bytes
from tests.support.effort import calls_made
from tests.unit.collect.helpers import mapped, profile

MESSY = (
    "Rainfall by station\r\nreleased today\rStation,Rain,Note\r\n#code,#num,#text\nA,1,\n\n"
    'Subtotal A,1,\rStation,Rain,Note\nB,2,"two\r\nlines"\r\nTotal,3,\nSource: us\n'
)


def csv(text: str | bytes, **form: Any) -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return [row.value for row in read_csv(Bytes(data), CsvFormat(**form), ReadContext())]


def test_preamble_tags_repeated_headers_totals_and_mixed_line_ends() -> None:
    found = csv(
        MESSY,
        header_starts="Station",
        skip_after_header=1,
        skip_rows=["Station", "Subtotal*", "Total"],
        stop_at="Source",
    )
    assert found == [
        {"Station": "A", "Rain": "1", "Note": ""},
        {"Station": "B", "Rain": "2", "Note": "two\r\nlines"},
    ]


def test_a_later_header_with_other_columns_is_another_table() -> None:
    two = "site,flow,q\n5s,14n,10s\n1,10,A\nsite,height,q\n5s,14n,10s\n1,2.5,A\n"
    with pytest.raises(ParseFailed, match=r"calls column 2 'height', and the first 'flow'"):
        csv(two, skip_rows=["site", "5s"])
    assert len(csv(two.replace("height", " flow "), skip_rows=["site", "5s"])) == 2
    with pytest.raises(ParseFailed, match=r"calls column 4 'more', and the first ''"):
        csv("site,flow,q\n1,10,A\nsite,flow,q,more\n", skip_rows=["si*"])


def test_rows_of_empty_cells_are_skipped_by_an_empty_text() -> None:
    assert csv("a,b\n1,2\n , \n3,4\n", skip_rows=[""]) == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]


def test_a_quote_that_is_never_closed_is_told_where_it_opens() -> None:
    with pytest.raises(ParseFailed, match=r"in a row that begins at line 3$") as caught:
        csv('about\na,b\n1,"two\n3,4\n5,6\n', skip_lines=1)
    assert 'is " opened there' in caught.value.hint
    with pytest.raises(ParseFailed, match=r"expected after .* at line 2$"):
        csv('a,b\n"1"x,2\n')


@pytest.mark.parametrize("page", ["i;v\n", "nothing found"])
def test_a_table_without_rows_has_its_columns_too(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text(page)
    source = profile({"format": {"type": "csv"}}, dimensions={"i": "i"}, measures={"v": "v"})
    with pytest.raises(ParseFailed, match="no column 'i'"):
        mapped(path, source)
    path.write_text("i,v\n")
    assert mapped(path, source) == ([], [])
    arrays = profile(
        {"format": {"type": "json", "header": True}}, dimensions={"i": "i"}, measures={"v": "v"}
    )
    path.write_text('[["i", "w"]]')
    with pytest.raises(ParseFailed, match="no column 'v'"):
        mapped(path, arrays)


def test_a_repeated_name_is_read_by_its_number_only(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("i,Value,Flag,Value,Flag\nx,1,a,2,b\n")

    def measured(**measures: str) -> list[str | None]:
        source = profile({"format": {"type": "csv"}}, dimensions={"i": "i"}, measures=measures)
        [record] = mapped(path, source)[0]
        return [measure.value for measure in record.measures.values()]

    with pytest.raises(ParseFailed, match="2 columns are called 'Value'") as caught:
        measured(v="Value")
    assert caught.value.hint == "from left to right they are Value_1, Value_2"
    assert measured(v="Value_1", w="Value_2") == ["1", "2"]
    assert measured(v="Value", w="Value_2") == ["1", "2"]
    assert measured(v="Value_2") == ["2"]
    with pytest.raises(ParseFailed, match="no column 'Value_3'"):
        measured(v="Value_3")


def test_columns_of_one_name_are_numbered_without_counting_from_the_beginning() -> None:
    same = unique_names(["v", "v_3", "v", "v", "", "c5", ""])
    assert same == ["v", "v_3", "v_2", "v_4", "c5_2", "c5", "c7"]
    assert calls_made(lambda: unique_names(["v"] * 2_000)) < 10 * 2_000


@pytest.mark.parametrize(
    ("text", "rows", "names"),
    [
        ("g,c,2019,,2020\n,,m,f,m\n", 2, ["g", "c", "2019 | m", "2019 | f", "2020 | m"]),
        (",,2019,,2020\ng,c,m,f,m\n", 2, ["g", "c", "2019 | m", "2019 | f", "2020 | m"]),
        ("a,2019,2019,n\n,m,f,\n", 2, ["a", "2019 | m", "2019 | f", "n"]),
        # not across the edge of a cell above; the same cell twice is none
        ("a,X,,,Y,\n,p,,q,,r\n,1,2,1,3,1\n", 3,
         ["a", "X | p | 1", "X | p | 2", "X | q | 1", "Y | 3", "Y | r | 1"]),
        ("a,X,X,X\n,p,,q\n,1,2,1\n", 3, ["a", "X | p | 1", "X | p | 2", "X | q | 1"]),
        # a column without a cell of its own
        ("a,X,,,Y\n,m,f,,m\n", 2, ["a", "X | m", "X | f", "c4", "Y | m"]),
        ("a,X,,Y\n,m,m,f\n", 2, ["a", "X | m", "X | m_2", "Y | f"]),
    ],
)  # fmt: skip
def test_several_header_rows_name_a_column_together(text: str, rows: int, names: list[str]) -> None:
    cells = ",".join("1" * len(names))
    [found] = csv(f"{text}{cells}\n", header_rows=rows)
    assert list(found) == names


def test_a_second_header_row_belongs_to_the_first_only() -> None:
    two = "Table 1,,\n\narea,2019,\n,m,f\nA,1,2\narea,2019,\n,m,f\nB,3,4\n"
    about: dict[str, Any] = {"header_rows": 2, "header_starts": "area", "skip_rows": ["area", "m"]}
    assert csv(two, **about) == [
        {"area": "A", "2019 | m": "1", "2019 | f": "2"},
        {"area": "B", "2019 | m": "3", "2019 | f": "4"},
    ]
    with pytest.raises(ParseFailed, match=r"calls column 3 'x', and the first 'f'"):
        csv(two.replace(",m,f\nB", ",m,x\nB"), **about)
    with pytest.raises(ParseFailed, match="there are no 2 header rows"):
        csv("a,b\n", header_rows=2)


def test_what_is_written_once_holds_for_the_rows_below_it() -> None:
    text = (
        "area,sex,age,n\nNorth,M,0,1\n,,1,2\n,F,0,3\n , ,1,4\nTotal,,,10\nSouth,,0,5\n"
        "South,M,0,6\nSouth,,1,7\n,,2,8\n"
    )
    found = csv(text, fill_down=["area", "sex"], skip_rows=["Total"])
    assert [tuple(row.values()) for row in found] == [
        ("North", "M", "0", "1"),
        ("North", "M", "1", "2"),
        ("North", "F", "0", "3"),
        ("North", "F", "1", "4"),
        # the sex of the North is none of the South
        ("South", "", "0", "5"),
        ("South", "M", "0", "6"),
        ("South", "M", "1", "7"),
        ("South", "M", "2", "8"),
    ]
    with pytest.raises(ParseFailed, match="no column 'region'"):
        csv(text, fill_down=["region"])
    assert csv("a,b\n,1\nx,2\n,3,4\n,5\n", fill_down=["a"])[-1] == {"a": "x", "b": "5"}


def test_what_begins_with_a_name_of_another_kind_is_no_record() -> None:
    names, row = {"NC": "Level (Code)", "V": "Value"}, {"NC": "1", "V": "2.5"}
    page = msgspec.json.encode(
        [names, row, {"NC": "Total A", "V": "9"}, {"NC": None, "V": "Total"}]
    )
    form = JsonFormat(skip_rows=["Level (Code)", "Total*"])
    found = list(read_json(Bytes(page), form, ReadContext()))
    assert [(each.position, each.value) for each in found] == [(1, row)]
    nested = msgspec.json.encode([{"a": {"b": ["", "Level"]}}, {"a": {"b": ["x"]}}])
    form = JsonFormat(skip_rows=["Level"])
    assert len(list(read_json(Bytes(nested), form, ReadContext()))) == 1
    arrays = msgspec.json.encode([["i", "v"], ["Total", 3], ["a", 1]])
    form = JsonFormat(header=True, skip_rows=["Total"])
    assert [r.value for r in read_json(Bytes(arrays), form, ReadContext())] == [{"i": "a", "v": 1}]
    lines = b'{"i": "Total", "v": 3}\n{"i": "a", "v": 1}\n'
    spec = NdjsonFormat(skip_rows=["Total"])
    assert [r.position for r in read_ndjson(Bytes(lines), spec, ReadContext())] == [1]


PLACED = "Stations\nID    ELEV NAME\nA1    10.1 NEW YORK\nA2   200.6 ROME\n\nB3         ÅS\n"
PLACES = {"name": "12-", "id": "1-2", "elev": "6-10", "sort": "1"}


def test_columns_stand_at_places_in_the_line() -> None:
    found = csv(PLACED, places=PLACES, header_starts="I")
    assert found == [
        {"sort": "A", "id": "A1", "elev": "10.1", "name": "NEW YORK"},
        {"sort": "A", "id": "A2", "elev": "200.6", "name": "ROME"},
        {"sort": "B", "id": "B3", "elev": "", "name": "ÅS"},
    ]
    assert csv(PLACED, places=PLACES, skip_lines=2, skip_rows=["A"], stop_at="B") == []
    # adjacent places share an edge
    assert csv("19610102\n", places={"y": "1-4", "m": "5-6", "d": "7-8"}) == [
        {"y": "1961", "m": "01", "d": "02"}
    ]


@pytest.mark.parametrize(
    ("line", "places", "said"),
    [
        ("1234567 8", {"a": "1-5", "b": "9"}, "has '67' at 6, beyond the place of any column"),
        ("12345 678", {"a": "1-5", "b": "8-"}, "has '6' at 7, beyond"),
        ("ROMA SUD EST   77", {"a": "1-8", "b": "16-17"}, "has 'EST' at 10, beyond"),
        ("ROMAXXXXXEST   77", {"a": "1-8", "b": "16-17"}, "has 'XEST' at 9, beyond"),
        ("  12  3", {"a": "3-4", "b": "7"}, ""),
        ("x 12  3", {"a": "3-4", "b": "7"}, "has 'x' at 1, beyond"),
        ("x", {"a": "3-4", "b": "7"}, "has 'x' at 1, beyond"),
        ("  12  3 4", {"a": "3-4", "b": "7"}, "has '4' at 9, beyond"),
        ("ABCDEF", {"a": "1-3", "b": "4-6"}, ""),
        ("ABCDEF", {"a": "1-3", "b": "4-"}, ""),
        ("ABCDEF", {"a": "1-3", "b": "4-", "c": "6"}, ""),
        ("12345", {"a": "1-5", "b": "8-"}, "has 1 cells under 2 columns"),
    ],
)
def test_a_value_is_not_cut_at_its_place(line: str, places: dict[str, str], said: str) -> None:
    spec = CsvFormat(places=places)
    [row] = read_csv(Bytes(f"{line}\n".encode()), spec, ReadContext())
    assert said in row.problem
    assert bool(said) == bool(row.problem)
    if "cells" in said:
        assert csv(f"{line}\n", places=places, ragged="pad") == [{"a": "12345", "b": ""}]
        with pytest.raises(ParseFailed, match="line 2 holds a tab"):
            csv(f"{line}\n1\t2\n", places=places)


def test_what_is_wrong_with_a_line_matters_within_the_table_alone() -> None:
    told = "by\tplace\nID    VAL more\nAB    123\nTotal\t9\nCD      4\nnote\ttext\n"
    places = {"ID": "1-2", "VAL": "7-9"}
    form: dict[str, Any] = {"header_starts": "ID", "skip_rows": ["To"], "stop_at": "no"}
    assert [tuple(row.values()) for row in csv(told, places=places, **form)] == [
        ("AB", "123"), ("CD", "4"),
    ]  # fmt: skip
    # lines are counted as the file has them
    for text in ("#c\n#c\nAB\tDEF\n", "x\n#c\nAB\tDEF\n"):
        with pytest.raises(ParseFailed, match="line 3 holds a tab"):
            csv(text, places=places, comment="#", skip_lines=int(text[0] == "x"))
    with pytest.raises(ParseFailed, match="in a row that begins at line 4"):
        csv('#c\na,b\n#c\n1,"2\n\n3,4\n', comment="#")


def test_a_line_a_month_has_a_value_and_a_flag_a_day(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("ACW196101TMAX  281X-9999    12 \nACW196102TMAX   -5X    1Q   12 \n")
    days = {
        f"{kind}{day}": f"{at}-{at + wide - 1}"
        for day in (1, 2, 3)
        for kind, at, wide in (("v", 14 + 6 * (day - 1), 5), ("f", 19 + 6 * (day - 1), 1))
    }
    places = {"id": "1-3", "year": "4-7", "month": "8-9", "element": "10-13", **days}
    source = profile(
        {"format": {"type": "csv", "places": places}},
        nulls=["", "-9999"],
        unpivot={"columns": "v(?P<day>[0-9]+)", "beside": {"flag": "f{day}"}},
        key=["dimensions.element", "period"],
        dimensions={"element": "element"},
        measures={"v": "#value"},
        attributes={"flag": "#flag"},
        period={"join": ["year", "month", "#day"], "format": "%Y-%m-%d", "frequency": "D"},
    )
    records, rejects = mapped(path, source)
    assert rejects == []
    assert [(r.key[1], r.measures["v"].value, r.attributes["flag"]) for r in records] == [
        ("1961-01-01", "281", "X"),
        ("1961-01-03", "12", None),
        ("1961-02-01", "-5", "X"),
        ("1961-02-02", "1", "Q"),
        ("1961-02-03", "12", None),
    ]


def test_a_header_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ParseFailed, match="no row begins with 'Ort'"):
        csv(MESSY, header_starts="Ort")


def test_blanks_between_columns_count_once() -> None:
    text = "# month\n year mo   value\n 1958  3  315.71 \n1958 10   312.7\n"
    assert csv(text, delimiter=" ", comment="#") == [
        {"year": "1958", "mo": "3", "value": "315.71"},
        {"year": "1958", "mo": "10", "value": "312.7"},
    ]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_line_of_a_cell_is_no_comment_whatever_it_begins_with(quote: str) -> None:
    text = f"#c\nid,note\n#c\n1,{quote}a\n# b\nc{quote}\n#c\n2,d\n"
    assert csv(text, comment="#", quote=quote) == [
        {"id": "1", "note": "a\n# b\nc"},
        {"id": "2", "note": "d"},
    ]


def test_a_row_of_many_lines_has_the_bound_of_one_record() -> None:
    cell = '"' + "y" * 40 + "\n" * 5 + '"'
    bounds = Bounds(record_bytes_max=200)
    fits = f"id,a,b\n1,{cell},{cell}\n2,,\n"
    assert len(list(read_csv(Bytes(fits.encode()), CsvFormat(), ReadContext(bounds)))) == 2
    many = f"a,b,c,d,e,f\n1,{','.join([cell] * 5)}\n"
    with pytest.raises(BoundReached, match="row that begins at line 2 is longer") as caught:
        list(read_csv(Bytes(many.encode()), CsvFormat(), ReadContext(bounds)))
    assert caught.value.bound == "record"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("id,v\n1,2\n".encode("utf-16-le"), "zeros between its letters, as in UTF-16"),
        (b"<HTML>\n<body>Gone</body></HTML>", "the source sent a web page"),
    ],
)
def test_what_is_no_table_is_not_read_as_one(data: bytes, said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        csv(data, header=["a", "b"])


@pytest.mark.parametrize(
    ("encoding", "charset", "named"),
    [
        ("utf-8", "", "auto"),
        ("utf-8-sig", "iso-8859-1", "auto"),
        ("windows-1252", "windows-1252", "auto"),
        ("windows-1252", "utf-8", "windows-1252"),
        ("iso-8859-2", "", "iso-8859-2"),
        ("utf-16", "", "auto"),
        ("utf-16-be", "utf-16-be", "auto"),
        ("utf-32", "", "auto"),
        ("utf-16", "", "utf-16-le"),
        ("cp437", "", "cp437"),
        ("mac_roman", "", "mac_roman"),
    ],
)
def test_every_encoding_that_something_names(
    tmp_path: Path, encoding: str, charset: str, named: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes("näme,größe\nö,1\n".encode(encoding))
    content = SpooledContent(path, Bounds(), charset=charset)
    [row] = read_csv(content, CsvFormat(encoding=named), ReadContext())
    assert row.value == {"näme": "ö", "größe": "1"}


def test_bytes_of_another_encoding_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes("näme\n1\n".encode("latin-1"))
    with pytest.raises(ParseFailed, match="not valid utf-8, near line 1") as caught:
        list(read_csv(SpooledContent(path, Bounds()), CsvFormat(), ReadContext()))
    assert "source.format.encoding" in caught.value.hint
    odd = SpooledContent(path, Bounds(), charset="klingon")
    with pytest.raises(ParseFailed, match="names no known encoding"):
        list(read_csv(odd, CsvFormat(), ReadContext()))


@pytest.mark.parametrize("charset", ["iso-8859-1", "latin-1", "ISO_8859-1"])
def test_what_a_source_calls_latin_1_is_read_as_browsers_read_it(
    tmp_path: Path, charset: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes("was,wert\nbis 5 €,“1” – 2\n".encode("cp1252"))
    content = SpooledContent(path, Bounds(), charset=charset)
    [row] = read_csv(content, CsvFormat(), ReadContext())
    assert row.value == {"was": "bis 5 €", "wert": "“1” – 2"}


@pytest.mark.parametrize(
    ("named", "written", "text"),
    [
        ("iso-8859-1", b"d\x92Ivoire", "d\x92Ivoire"),
        ("shift_jis", b"1\x81`4", "1\u301c4"),
        ("shift_jis", b"\x81|5", "\u22125"),
        ("gb2312", b"\xa1\xa4\xa1\xaa", "\u30fb\u2015"),
    ],
)
def test_an_encoding_that_the_profile_names_is_believed_as_it_is(
    tmp_path: Path, named: str, written: bytes, text: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"a,b\n" + written + b",1\n")
    content = SpooledContent(path, Bounds(), charset="iso-8859-1")
    [row] = read_csv(content, CsvFormat(encoding=named), ReadContext())
    assert row.value["a"] == text


@pytest.mark.parametrize(
    ("charset", "odd"),
    [
        ("iso-8859-1", b"\x81\x8d\x8f\x90\x9d"),
        ("iso-8859-9", b"\x81\x8d\x8e\x8f\x90\x9d\x9e"),
        ("iso-8859-11", b"\x81\x84\x86\x90\x98\x9f"),
        ("tis-620", b"\x81\x84\x86\x90\x98\x9f"),
    ],
)
def test_bytes_that_the_wide_encoding_lacks_are_control_characters_as_in_browsers(
    tmp_path: Path, charset: str, odd: bytes
) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"a,b\nx" + odd + b",1\n")
    content = SpooledContent(path, Bounds(), charset=charset)
    [row] = read_csv(content, CsvFormat(), ReadContext())
    assert row.value["a"] == "x" + odd.decode("latin-1")
    xml = SpooledContent(path, Bounds(), charset=charset)
    path.write_bytes(b"<r><x>x" + odd + b"</x></r>")
    [row] = read_xml(xml, XmlFormat(records="/r/x"), ReadContext())
    assert row.value.element.text == "x" + odd.decode("latin-1")


def test_what_is_no_letter_of_the_wide_encoding_fails_the_page(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"a,b\n\xdb,1\n")
    with pytest.raises(ParseFailed, match="not valid"):
        list(
            read_csv(SpooledContent(path, Bounds(), charset="tis-620"), CsvFormat(), ReadContext())
        )


@pytest.mark.parametrize(
    ("charset", "written", "text"),
    [
        ("Shift_JIS", "cp932", "㈱①髙"),
        ("gb2312", "gb18030", "镕€"),
        ("euc-kr", "cp949", "똠"),
        ("iso-8859-9", "cp1254", "ş “€”"),
    ],
)
def test_a_narrow_encoding_is_read_by_the_wide_one_that_is_meant(
    tmp_path: Path, charset: str, written: str, text: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes(f"a,b\n{text},1\n".encode(written))
    content = SpooledContent(path, Bounds(), charset=charset)
    [row] = read_csv(content, CsvFormat(), ReadContext())
    assert row.value["a"] == text


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "iso-8859-15"])
def test_utf_8_that_is_called_something_else_makes_no_other_letters(
    tmp_path: Path, charset: str
) -> None:
    path = tmp_path / "page"
    path.write_text("naam,waarde\nFryslân,1\n", encoding="utf-8")
    content = SpooledContent(path, Bounds(), charset=charset)
    with pytest.raises(ParseFailed, match=f"says {charset}, and the bytes are UTF-8") as caught:
        list(read_csv(content, CsvFormat(), ReadContext()))
    assert "encoding` says which holds: utf-8" in caught.value.hint
    [row] = read_csv(content, CsvFormat(encoding="utf-8"), ReadContext())
    assert row.value["naam"] == "Fryslân"
    # Whoever writes a profile may know better.
    [row] = read_csv(content, CsvFormat(encoding="windows-1252"), ReadContext())
    assert row.value["naam"] == "FryslÃ¢n"


@pytest.mark.parametrize("text", ["naam,waarde\nDrenthe,1\n", "naam,waarde\nFryslân,1\n"])
def test_a_charset_of_a_byte_a_letter_is_believed_where_the_bytes_allow_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "page"
    path.write_bytes(text.encode("latin-1"))
    [row] = read_csv(
        SpooledContent(path, Bounds(), charset="iso-8859-1"), CsvFormat(), ReadContext()
    )
    assert row.value["naam"] in {"Drenthe", "Fryslân"}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (lzma.compress(b"a,b\n1,2\n"), "packed as xz"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "packed as gzip"),
        (b"%PDF-1.7\n1 0 obj\n", "a PDF"),
        (b"PAR1" + bytes(40), "Parquet"),
        (b"PAR1\x15\x04\x15 name \x15", "Parquet"),
        (b"data.csv".ljust(257, b"\0") + b"ustar\x00", "a tar archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_called_what_it_is(data: bytes, what: str) -> None:
    for read, form in (
        (read_csv, CsvFormat()),
        (read_csv, CsvFormat(encoding="windows-1252", header=["a"])),
        (read_json, JsonFormat()),
        (read_ndjson, NdjsonFormat()),
        (read_xml, XmlFormat(records="/r/x")),
    ):
        with pytest.raises(ParseFailed, match=f"this is {what}, and no text"):
            list(read(Bytes(data), form, ReadContext()))


@pytest.mark.parametrize("text", ["PAR1,b\nx,1\n", "PAR1\nx\n", "PAR1\r\n\tx\r\n", "PAR1"])
def test_text_that_begins_as_parquet_does_is_text(tmp_path: Path, text: str) -> None:
    rows = list(read_csv(Bytes(text.encode()), CsvFormat(), ReadContext()))
    assert [next(iter(row.value)) for row in rows] == ["PAR1"] * (len(text.split()) - 1)
    (tmp_path / "x").write_text("PAR1,b\n" + "x,1\ny,2\n" * 9)
    assert "PAR1" in draft(tmp_path / "x", name="x", url="https://example.org/x").text


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "utf-8"), ("utf-32", "utf-8"), ("latin-1", "latin-1"), ("utf-8-sig", "utf-8")],
)
def test_json_heeds_a_mark_and_its_profile(encoding: str, named: str) -> None:
    data = '{"a": "ö"}\n{"a": "2"}\n'.encode(encoding)
    found = read_ndjson(Bytes(data, 3), NdjsonFormat(encoding=named), ReadContext())
    assert [row.value["a"] for row in found] == ["ö", "2"]


def test_a_column_that_is_gone_fails_the_page_and_names_what_is_near(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("Station,Rain mm\nA,1\n")
    source = profile(
        {"format": {"type": "csv"}}, dimensions={"s": "Station"}, measures={"r": "Rain_mm"}
    )
    with pytest.raises(ParseFailed, match="no column 'Rain_mm'") as caught:
        mapped(path, source)
    assert caught.value.hint == "did you mean 'Rain mm'?"


# --- JSON-stat ------------------------------------------------------------------------------------

CUBE: dict[str, Any] = {
    "version": "2.0",
    "class": "dataset",
    "updated": "2020-01-01",
    "id": ["unit", "geo", "time"],
    "size": [1, 2, 3],
    "dimension": {
        "time": {"category": {"index": {"2021": 1, "2020": 0, "2022": 2}}},
        "geo": {"category": {"index": ["DE", "FR"], "label": {"DE": "Germany", "FR": "France"}}},
        "unit": {"category": {"label": {"EUR": "Euro"}, "unit": {"EUR": {"label": "million"}}}},
    },
    "value": [1.10, 2, None, 4, 5, 6],
    "status": {"1": "p", "2": ":"},
}


def cube(*around: str, **members: Any) -> list[RawRow]:
    plain = {**CUBE, **members}
    data = msgspec.json.encode({k: v for k, v in plain.items() if v is not ...})
    return list(read_cube(Bytes(data, 7), JsonStatFormat(), ReadContext(enclosing=around)))


def test_cells_carry_their_categories() -> None:
    found = cube("$$.updated")
    assert len(found) == 6
    assert found[1].value == {
        "unit.label": "Euro", "geo": "DE", "geo.label": "Germany",
        "time": "2021", "time.label": "2021", "value": 2, "status": "p",
    } | {"unit": "EUR"}  # fmt: skip
    assert found[2].value["value"] is None
    assert found[0].enclosing == ("2020-01-01",)
    assert [(r.value["geo"], r.value["time"]) for r in found] == [
        (g, t) for g in ("DE", "FR") for t in ("2020", "2021", "2022")
    ]


def test_values_may_be_given_by_their_place() -> None:
    found = cube(value={"0": 1.5, "4": 7}, status=...)
    assert [(r.position, str(r.value["value"]), r.value["time"]) for r in found] == [
        (0, "1.5", "2020"),
        (4, "7", "2021"),
    ]
    marked = cube(value={"4": 7, "0": 1.5}, status={"0": "p", "2": "c", "1": ""})
    assert [(r.position, r.value["value"], r.value["status"]) for r in marked] == [
        (4, 7, None),
        (0, "1.5", "p"),
        (2, None, "c"),
    ]
    only = cube(value={}, status=[None, "", None, "c", None, None])
    assert [(r.position, r.value["value"], r.value["status"]) for r in only] == [(3, None, "c")]
    listed = cube(status=["a", "b", "c", "d", "e", "f"])
    assert [row.value["status"] for row in listed] == list("abcdef")
    assert {row.value["status"] for row in cube(status="e")} == {"e"}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"value": [1, 2]}, "2 values are given for 6 cells"),
        ({"value": {"6": 1}}, "beyond the 6 cells"),
        ({"value": {"0": 1}, "status": {"6": "c"}}, "beyond the 6 cells"),
        ({"value": {"0": 1}, "status": {"x": "c"}}, "is no place of a status mark"),
        ({"value": {"x": 1}}, "is no place"),
        ({"size": [1, 2]}, "do not fit each other"),
        ({"size": [1, 2, 4]}, "has 3 categories and the size 4"),
        ({"id": ["geo", "geo", "time"]}, "do not fit each other"),
        ({"id": ...}, "json-stat2|names no dimensions"),
        ({"class": "collection"}, "not a dataset"),
        ({"dimension": ...}, "no dimension at the top"),
        ({"dimension": {"unit": {}, "geo": {}, "time": {}}}, "has no categories"),
        ({"status": ["a"]}, "1 status marks stand beside 6 cells"),
        ({"id": ["value", "geo", "time"]}, "is called 'value'"),
    ],
)
def test_what_contradicts_itself_is_refused(members: dict[str, Any], said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        cube(**members)


def test_a_cube_has_a_bound() -> None:
    with pytest.raises(BoundReached) as caught:
        cube(size=[100_000, 100_000, 100_000])
    assert caught.value.bound == "cells"


def test_paths_into_a_dataset_are_singular() -> None:
    with pytest.raises(MappingRefused, match="cannot use the path"):
        cube("$$.dimension[*].label")
