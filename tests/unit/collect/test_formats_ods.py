"""OpenDocument spreadsheets: what is read of a sheet, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.ods import read
from holdfast.collect.formats.xlsx import read as read_xlsx
from holdfast.collect.model import Bounds, Formula, Number, ReadContext
from holdfast.registry.source import OdsFormat, XlsxFormat
from tests.conformance.test_formats import Bytes
from tests.support.workbooks import open_document, open_row, workbook


def values(data: bytes, bounds: Bounds | None = None, **form: Any) -> list[Any]:
    context = ReadContext(bounds or Bounds())
    return [row.value for row in read(Bytes(data), OdsFormat(**form), context)]


def test_a_sheet_is_read_as_the_same_sheet_of_a_workbook() -> None:
    rows: list[list[object]] = [
        ["Population"], [], ["Area", None, 2019, None, 2020], [None, "Code", "M", "F", "M"],
        ["A", "a", 1, 2.5, "x"], [], ["Total", None, 3, None, 4], ["B", None, True, None, 0.1],
        ["Notes"], ["none"],
    ]  # fmt: skip
    about: dict[str, Any] = {
        "sheet": "Data", "header_row": 3, "header_rows": 2, "skip_rows": ["Total"],
        "stop_at": "Notes", "fill_down": ["Area | Code"],
    }  # fmt: skip
    sheets = ("Cover", [["nothing"]]), ("Data", rows), ("More", [["x"], [1]])
    found = values(open_document(*sheets), **about)
    spec = XlsxFormat(**about)
    same = [row.value for row in read_xlsx(Bytes(workbook(*sheets)), spec, ReadContext())]
    assert found == same
    assert [row["Area | Code"] for row in found] == ["a", "a"]
    assert isinstance(found[0]["2019 | F"], Number)
    assert not isinstance(found[0]["2020 | M"], Number)


def test_every_kind_of_cell() -> None:
    def typed(kind: str, shown: str = "shown", **attributes: str) -> tuple[str, str]:
        told = " ".join(f'office:{k.replace("_", "-")}="{v}"' for k, v in attributes.items())
        return f"<text:p>{shown}</text:p>", f'office:value-type="{kind}" {told}'

    cells = [
        typed("float", value="0.1"),
        typed("percentage", "12,5 %", value="0.125"),
        typed("currency", "1.204 EUR", value="1204.5"),
        typed("float", value="0.30000000000000004"),
        typed("date", "31. Jan.", date_value="2024-01-31"),
        typed("date", date_value="2024-01-31T00:00:00"),
        typed("date", date_value="2024-01-31T10:30:00"),
        typed("time", time_value="PT09H05M00S"),
        typed("time", time_value="PT25H00M00S"),
        typed("boolean", boolean_value="true"),
        typed("string", '  a<text:s text:c="2"/>b<text:tab/>c<text:span>d</text:span>e'),
        ("<text:p>one</text:p><text:p>two</text:p>", 'office:value-type="string"'),
        (
            "<office:annotation><text:p>a remark</text:p></office:annotation><text:p>x</text:p>",
            'office:value-type="string"',
        ),
        typed("string", "#DIV/0!", string_value=""),
        ("", 'table:formula="of:=[.A1]"'),
        typed("string", "shown 12", string_value="12"),
        ("<text:p>bare</text:p>", ""),
        ("", 'office:value-type="float"'),
    ]
    header = [f"h{number}" for number in range(len(cells))]
    [row] = values(open_document(("s", [header, cells])))
    assert list(row.values()) == [
        "0.1", "0.125", "1204.5", "0.30000000000000004", "2024-01-31", "2024-01-31",
        "2024-01-31T10:30:00", "09:05:00", "PT25H00M00S", "true", "  a  b\tcde", "one\ntwo", "x",
        "#DIV/0!", "of:=[.A1]", "12", "bare", None,
    ]  # fmt: skip
    assert isinstance(row["h14"], Formula)
    assert isinstance(row["h2"], Number)


def test_a_time_that_went_by_is_a_count_of_days_as_in_a_workbook() -> None:
    styles = (
        '<number:time-style style:name="N1" number:truncate-on-overflow="false"/>'
        '<number:time-style style:name="N2"/>'
        '<style:style style:name="gone" style:family="table-cell" style:data-style-name="N1"/>'
        '<style:style style:name="clock" style:family="table-cell" style:data-style-name="N2"/>'
    )

    def time(value: str, style: str = "") -> tuple[str, str]:
        named = f'table:style-name="{style}"' if style else ""
        return "", f'office:value-type="time" office:time-value="{value}" {named}'

    rows = (
        '<table:table-column table:default-cell-style-name="gone"/>'  # after one without
        '<table:table-column table:number-columns-repeated="16000"/>'
        + open_row("a", "b", "c", "d", "e")
        + open_row(
            time("PT06H00M00S"), time("PT06H00M00S"), time("PT30H00M00S", "gone"),
            time("PT30H00M00S"), time("-PT12H00M00S", "gone"),
        )
        + open_row(None, time("PT06H00M00S", "clock"), time("PT0H0M1.5S", "gone"))
    )  # fmt: skip
    found = values(open_document(("s", rows), styles=styles))
    assert [list(row.values()) for row in found] == [
        ["06:00:00", "0.25", "1.25", "PT30H00M00S", "-0.5"],
        [None, "06:00:00", "1.736111111111111e-05", None, None],
    ]
    assert isinstance(found[0]["b"], Number)
    plain = open_row("b") + open_row(time("PT06H00M00S"))
    later = values(open_document(("s", rows), ("t", plain), styles=styles), sheet="t")
    assert later == [{"b": "06:00:00"}]


def test_what_repeats_is_written_once() -> None:
    wide, three = (f'table:number-columns-repeated="{number}"' for number in (16000, 3))
    twice = 'table:number-rows-repeated="2"'
    rows = (
        "<table:table-header-rows>"
        + open_row("a", "b", "c", "d", ("", wide))
        + "</table:table-header-rows>"
        + open_row(("", f'office:value-type="float" office:value="1" {three}'))
        + open_row(("", wide), attributes=twice)
        + open_row(None, None, 5, attributes=twice)
        + open_row(("", wide), attributes='table:number-rows-repeated="1048000"')
    )
    found = values(open_document(("s", rows)))
    assert found == [
        {**dict.fromkeys("abc", "1"), "d": None},
        *[{"a": None, "b": None, "c": "5", "d": None}] * 2,
    ]
    skipped = values(open_document(("s", rows)), header_row=5)
    assert skipped == [{"c1": None, "c2": None, "5": "5"}]


def test_a_table_within_a_cell_is_no_sheet() -> None:
    inner = f"<table:table table:name='in'>{open_row(9)}</table:table>"
    rows = open_row("a") + open_row((inner + "<text:p>x</text:p>", 'office:value-type="string"'))
    data = open_document(("one", rows), ("two", [["b"], [2]]))
    assert values(data) == [{"a": "x"}]
    assert values(data, sheet=2) == values(data, sheet="two") == [{"b": "2"}]
    with pytest.raises(ParseFailed, match="there is no sheet 'in'") as caught:
        values(data, sheet="in")
    assert caught.value.hint.endswith("'one', 'two'")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (open_row("a") + open_row(1, attributes='table:number-rows-repeated="2000000"'), "rows"),
        (open_row(("<text:p>a</text:p>", 'office:value-type="string" '
                   'table:number-columns-repeated="20000"')), "16384 columns"),
        (open_row("a", attributes='table:number-rows-repeated="0"'), "no number of rows"),
        (open_row(""), "no header row"),
        (open_row("a") + open_row(("<text:p>7</text:p>", 'office:value-type="float"')),
         "type float shows '7' and has no value"),
        (open_row("a") + open_row(("<text:p>May</text:p>", 'office:value-type="date"')),
         "type date shows 'May' and has no value"),
    ],
)  # fmt: skip
def test_what_is_no_sheet_is_refused(rows: str, said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        values(open_document(("s", rows)))


def test_what_is_no_spreadsheet_is_refused(tmp_path: Path) -> None:
    good = open_document(("s", [["a"], [1]]))
    with pytest.raises(ParseFailed, match="is encrypted"):
        values(open_document(("s", [["a"], [1]]), manifest="<m:encryption-data/>"))
    with pytest.raises(ParseFailed, match="cannot read"):
        values(good[: len(good) // 2])
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.csv", "a\n1\n")
    with pytest.raises(ParseFailed, match="the archive holds none"):
        values(path.read_bytes())
    declared = (
        '<!DOCTYPE a [<!ENTITY b "c">]>'
        '<t:table xmlns:t="urn:oasis:names:tc:opendocument:xmlns:table:1.0"/>'
    )
    for text, said in (("<a><b></a>", "mismatch"), (declared, "it declares entities")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("content.xml", text)
        with pytest.raises(ParseFailed, match=said):
            values(path.read_bytes())
    with pytest.raises(MappingRefused, match="no enclosing document"):
        list(read(Bytes(good), OdsFormat(), ReadContext(enclosing=("$$.a",))))


def test_a_row_that_never_ends_is_stopped() -> None:
    cells = "<table:table-cell/>" * 40_000
    rows = f"<table:table-row>{cells}</table:table-row>"
    with pytest.raises(BoundReached, match="one row of it is too large"):
        values(open_document(("s", rows)), Bounds(record_bytes_max=100_000))
