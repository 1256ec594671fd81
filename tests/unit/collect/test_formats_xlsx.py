"""Spreadsheets: exact numbers, dates, and another reader's opinion."""

from __future__ import annotations

import datetime
import io
import random
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import python_calamine

from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import BoundReached, ParseFailed
from holdfast.collect.formats.xlsx import read
from holdfast.collect.model import Bounds, ReadContext
from holdfast.registry.source import XlsxFormat
from tests.conformance.test_formats import Bytes
from tests.support.workbooks import STYLES, workbook
from tests.unit.collect.helpers import mapped, profile


def values(data: bytes, **form: Any) -> list[Any]:
    return [row.value for row in read(Bytes(data), XlsxFormat(**form), ReadContext())]


def styled(text: str, style: int) -> tuple[str, str]:
    return f"<v>{text}</v>", f's="{style}"'


def test_numbers_are_what_the_file_says() -> None:
    numbers = ["1.10", "12345678901234567890", "36.600000000000001", "0.30000000000000004", "1E-7"]
    data = workbook(("s", [["n"], *([(f"<v>{text}</v>", "")] for text in numbers)]))
    assert [row["n"] for row in values(data)] == [
        "1.10", "12345678901234567890", "36.6", "0.30000000000000004", "1E-7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "style", "from_1904", "found"),
    [
        ("43831", 1, False, "2020-01-01"),
        ("43831.5", 3, False, "2020-01-01T12:00:00"),
        ("0.75", 2, False, "18:00:00"),
        ("43831", 4, False, "2020-01-01"),
        ("1", 1, False, "1900-01-01"),
        ("59", 1, False, "1900-02-28"),
        ("61", 1, False, "1900-03-01"),
        ("42369", 1, True, "2020-01-01"),
        ("43831.000011574", 3, False, "2020-01-01T00:00:01"),
        ("-1", 1, False, "-1"),
        ("43831", 0, False, "43831"),
    ],
)
def test_dates_are_numbers_with_a_date_s_format(
    text: str, style: int, from_1904: bool, found: str
) -> None:
    assert STYLES[style] is not None
    data = workbook(("s", [["d"], [styled(text, style)]]), from_1904=from_1904)
    assert values(data) == [{"d": found}]


@pytest.mark.parametrize(
    ("code", "text", "found"),
    [
        ("[h]:mm:ss", "1.25", "1.25"),
        ("[hh]:mm", "30.5", "30.5"),
        ("[mm]:ss;@", "0.0138888888888889", "0.0138888888888889"),
        ("[Red][S]", "0.30000000000000004", "0.30000000000000004"),
        ("[$-409][h]:mm", "61", "61"),
        ('"[h]"h:mm', "0.75", "18:00:00"),
        ("yyyy-mm-dd [h]:mm", "43831.5", "2020-01-01T12:00:00"),
    ],
)
def test_a_time_that_went_by_is_a_count_of_days_and_no_date_in_1900(
    code: str, text: str, found: str
) -> None:
    styles = (
        '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f"<numFmts count='1'><numFmt numFmtId='164' formatCode='{code}'/></numFmts>"
        '<cellXfs><xf numFmtId="46"/><xf numFmtId="164"/></cellXfs></styleSheet>'
    )
    cells = [styled(text, 1), styled("1.25", 0)]
    data = workbook(("s", [["t", "built in"], cells]), replaced={"xl/styles.xml": styles})
    assert values(data) == [{"t": found, "built in": "1.25"}]


@pytest.mark.parametrize(("before", "found"), [(254, "2020-01-01"), (255, "43831")])
def test_no_more_of_a_number_s_format_is_looked_at_than_spreadsheets_have(
    before: int, found: str
) -> None:
    styles = (
        '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f'<numFmts count="1"><numFmt numFmtId="164" formatCode="{"[" * before}d"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="164"/></cellXfs></styleSheet>'
    )
    data = workbook(("s", [["d"], [styled("43831", 1)]]), replaced={"xl/styles.xml": styles})
    assert values(data) == [{"d": found}]


def test_every_kind_of_cell() -> None:
    row = [
        "text", True, None, 3,
        ("<is><t>in</t></is>", 't="inlineStr"'),
        ("<f>A1</f><v>result</v>", 't="str"'),
        ("<v>#N/A</v>", 't="e"'),
        ("<v>2020-01-01</v>", 't="d"'),
        ("<is><r><t>a</t></r><r><t>b</t></r><rPh><t>x</t></rPh></is>", 't="inlineStr"'),
        ("<is><t>a_x000D_b</t></is>", 't="inlineStr"'),
    ]  # fmt: skip
    data = workbook(("s", [[f"c{i}" for i in range(len(row))], row]))
    assert list(values(data)[0].values()) == [
        "text", "true", None, "3", "in", "result", "#N/A", "2020-01-01", "ab", "a\rb",
    ]  # fmt: skip


def test_a_formula_without_its_result_is_no_missing_value(tmp_path: Path) -> None:
    rows = [
        ["i", "v", "note"],
        ["a", ("<f>1+1</f><v>2</v>", ""), ("<f>T(A1)</f><v></v>", 't="str"')],
        ["b", ("<f>1+1</f>", ""), ("<f>T(A1)</f><v></v>", "")],
        ["c", ("<f>1+1</f><v/>", ""), None],
        ["d", None, ("<f>1+1</f>", "")],
    ]
    path = tmp_path / "page"
    path.write_bytes(workbook(("s", rows)))
    source = profile({"format": {"type": "xlsx"}}, dimensions={"i": "i"}, measures={"v": "v"})
    records, rejects = mapped(path, source)
    assert [(r.dimensions["i"], r.measures["v"].value) for r in records] == [
        ("a", "2"),
        ("d", None),
    ]
    assert [(r.field, r.reason.partition(",")[0]) for r in rejects] == [("v", "is a formula")] * 2
    assert rejects[0].excerpt == "i=b v==1+1 note==T(A1)"


def test_what_publishers_put_around_a_table() -> None:
    rows = [
        ["Population of places"], [], ["Source: the office"],
        ["place", "people"], ["(code)", "(number)"], ["a", 1], [], ["Total", 3], ["b", 2],
        ["Notes"], ["none"],
    ]  # fmt: skip
    data = workbook(("Cover", [["nothing"]]), ("Data", rows))
    expected = [{"place": "a", "people": "1"}, {"place": "b", "people": "2"}]
    about = {"skip_after_header": 1, "skip_rows": ["Total"], "stop_at": "Notes"}
    assert values(data, sheet="Data", header_row=4, **about) == expected
    assert values(data, sheet=2, header_starts="place", **about) == expected
    with pytest.raises(ParseFailed, match="there is no sheet 'data'") as caught:
        values(data, sheet="data")
    assert "'Cover', 'Data'" in caught.value.hint
    with pytest.raises(ParseFailed, match="no row begins with"):
        values(data, sheet=2, header_starts="Ort")


def test_merged_cells_of_two_header_rows_name_their_columns() -> None:
    rows = [
        ["Population"], ["Area", None, 2019, None, None, 2020], [None, "Code", "M", "F", None, "M"],
        ["A", "a", 1, 2, None, 3],
    ]  # fmt: skip
    found = values(workbook(("s", rows)), header_row=2, header_rows=2)
    expected = {"Area": "A", "Area | Code": "a", "2019 | M": "1", "2019 | F": "2", "2020 | M": "3"}
    assert found == [{**expected, "c5": None}]
    assert values(workbook(("s", rows)), header_starts="Area", header_rows=2) == found
    with pytest.raises(ParseFailed, match="no header row"):
        values(workbook(("s", rows[:2])), header_row=2, header_rows=2)


def test_footnotes_are_found_behind_an_empty_column() -> None:
    rows = [[None, "place", "people"], [None, "a", 1], [None, "Notes: none"], [None, "b", 2]]
    found = values(workbook(("s", rows)), stop_at="Notes")
    assert [row["place"] for row in found] == ["a"]


def test_a_row_wider_than_its_header_is_no_record() -> None:
    data = workbook(("s", [["a", "b"], [1, 2, 3], [1]]))
    found = list(read(Bytes(data), XlsxFormat(), ReadContext()))
    assert [row.problem for row in found] == ["has 3 cells under 2 columns", ""]
    assert found[1].value == {"a": "1", "b": None}


def test_another_reader_finds_the_same(tmp_path: Path) -> None:
    rng = random.Random(7)
    kinds: list[Any] = [
        lambda: rng.randint(-(10**9), 10**9),
        lambda: rng.uniform(-1e6, 1e6),
        lambda: rng.choice(["x", "ü & <y>", "  blanks ", "1"]),
        lambda: rng.random() < 0.5,
        lambda: None,
        lambda: styled(str(rng.randint(61, 60_000)), 1),
    ]
    rows = [[f"c{i}" for i in range(8)]]
    rows += [[1, *(rng.choice(kinds)() for _ in range(7))] for _ in range(300)]
    path = tmp_path / "w.xlsx"
    path.write_bytes(workbook(("s", rows)))
    theirs = python_calamine.CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()
    ours = [row.value for row in read(SpooledContent(path, Bounds()), XlsxFormat(), ReadContext())]
    assert len(ours) == len(theirs) - 1
    for mine, other in zip(ours, theirs[1:], strict=True):
        assert [_same(a, b) for a, b in zip(mine.values(), other, strict=True)] == [True] * 8


def _same(mine: str | None, other: Any) -> bool:
    match other:
        case bool():
            return mine == str(other).lower()
        case float() | int():
            return Decimal(str(mine)) == Decimal(repr(other))
        case datetime.date():
            return mine == other.isoformat()[:10]
        case _:
            return (mine or "") == other


@pytest.mark.parametrize("compression", ["auto", "none", "gzip", "zip"])
def test_a_workbook_may_itself_be_packed(tmp_path: Path, compression: Any) -> None:
    data = workbook(("s", [["a"], [1]]))
    if compression == "gzip":
        import gzip

        data = gzip.compress(data)
    elif compression == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("w.xlsx", data)
        data = buffer.getvalue()
    path = tmp_path / "page"
    path.write_bytes(data)
    content = SpooledContent(path, Bounds(), compression)
    assert [row.value for row in read(content, XlsxFormat(), ReadContext())] == [{"a": "1"}]
    assert list(tmp_path.iterdir()) == [path]


def _sheet(inside: str) -> dict[str, str | bytes]:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return {
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{inside}</sheetData>'
        "</worksheet>"
    }


HEADER = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>'


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (HEADER + '<row r="1"><c r="A1"><v>1</v></c></row>', "row 1 stands after row 1"),
        (HEADER + '<row r="2"><c r="A2" t="s"><v>99</v></c></row>', "no text number 99"),
        (HEADER + '<row r="2"><c r="A2" t="s"><v>-1</v></c></row>', "is not a number of a row"),
        (HEADER + '<row r="2"><c r="!!"><v>1</v></c></row>', "is no cell"),
        (HEADER + '<row r="2"><c r="ZZZ2"><v>1</v></c></row>', "more than 16384 columns"),
        (HEADER + '<row r="2"><c r="B2"/><c r="A2"/></row>', "repeats a cell"),
        (HEADER + '<row r="9999999"><c r="A1"/></row>', "more than 1048576 rows"),
        ("<row>", "mismatch"),
        ("", "there is no header row"),
    ],
)
def test_what_is_no_sheet_is_refused(inside: str, said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        values(workbook(("s", [["a"]]), replaced=_sheet(inside)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"<html>not found</html>",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
    ],
)
def test_what_is_no_workbook_is_refused(data: bytes) -> None:
    with pytest.raises(ParseFailed, match="cannot read the"):
        values(data)


def test_one_cell_far_out_costs_no_memory() -> None:
    rows = HEADER + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    [found] = read(
        Bytes(workbook(("s", [["a"]]), replaced=_sheet(rows))), XlsxFormat(), ReadContext()
    )
    assert found.problem.startswith("has 16384 cells")


def test_bombs_are_stopped_by_name() -> None:
    huge = HEADER + '<row r="2"><c r="A2"><v>1</v></c></row>' + "<row/>" * 4_000_000
    data = workbook(("s", [["a"]]), replaced=_sheet(huge))
    with pytest.raises(BoundReached) as caught:
        values(data)
    assert caught.value.bound == "rows"
    cells = HEADER + f"<row r='2'>{'<c/>' * 8_000_000}</row>"
    for packed, bound in ((zipfile.ZIP_DEFLATED, "ratio"), (zipfile.ZIP_STORED, "record")):
        data = workbook(("s", [["a"]]), replaced=_sheet(cells), compression=packed)
        with pytest.raises(BoundReached) as caught:
            values(data)
        assert caught.value.bound == bound


def test_entities_are_closed_here_too() -> None:
    doc = "<!DOCTYPE x [<!ENTITY a 'b'>]>"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    inside = f'{doc}<worksheet xmlns="{main}"><sheetData>{HEADER}<row r="2"><c r="A2" t="str">'
    part = inside + "<v>&a;</v></c></row></sheetData></worksheet>"
    data = workbook(("s", [["a"]]), replaced={"xl/worksheets/sheet1.xml": part})
    with pytest.raises(ParseFailed, match="entities"):
        values(data)
