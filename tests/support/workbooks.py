"""Workbooks (.xlsx) for tests, written by hand: what stands in the XML is what the test says."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'

STYLES = ["", "14", "20", "22", "164"]
"""Formats of numbers that cells may name by position: none, a date, a time, both, a custom date."""


def relationships(*entries: tuple[str, str, str]) -> str:
    listed = "".join(
        f'<Relationship Id="{i}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for i, kind, target in entries
    )
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}">{listed}</Relationships>'


def letters(column: int) -> str:
    found = ""
    while column >= 0:
        column, rest = divmod(column, 26)
        found, column = chr(65 + rest) + found, column - 1
    return found


def cell(row: int, column: int, value: object, texts: list[str]) -> str:
    """A number, a text, a truth value, nothing, or ``(raw XML inside, attributes)``."""
    at = f'r="{letters(column)}{row}"'
    match value:
        case None:
            return ""
        case (str(inside), str(attributes)):
            return f"<c {at} {attributes}>{inside}</c>"
        case bool():
            return f'<c {at} t="b"><v>{int(value)}</v></c>'
        case int() | float():
            return f"<c {at}><v>{value!r}</v></c>"
        case _:
            texts.append(str(value))
            return f'<c {at} t="s"><v>{len(texts) - 1}</v></c>'


def sheet_xml(rows: Sequence[Sequence[object]], texts: list[str]) -> str:
    lines = []
    for number, row in enumerate(rows, 1):
        cells = "".join(cell(number, column, value, texts) for column, value in enumerate(row))
        lines.append(f'<row r="{number}">{cells}</row>')
    return f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def workbook(
    *sheets: tuple[str, Sequence[Sequence[object]]],
    from_1904: bool = False,
    compression: int = zipfile.ZIP_DEFLATED,
    replaced: dict[str, str | bytes] | None = None,
) -> bytes:
    """A workbook of the sheets; ``replaced`` gives parts other content."""
    texts: list[str] = []
    parts: dict[str, str | bytes] = {}
    for index, (_, rows) in enumerate(sheets, 1):
        parts[f"xl/worksheets/sheet{index}.xml"] = sheet_xml(rows, texts)
    listed = "".join(
        f'<sheet name="{escape(name)}" sheetId="{i}" r:id="rId{i}"/>'
        for i, (name, _) in enumerate(sheets, 1)
    )
    parts["xl/workbook.xml"] = (
        f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        f'<workbookPr date1904="{int(from_1904)}"/><sheets>{listed}</sheets></workbook>'
    )
    parts["xl/_rels/workbook.xml.rels"] = relationships(
        *((f"rId{i}", "worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(sheets) + 1)),
        ("rIdT", "sharedStrings", "sharedStrings.xml"),
        ("rIdS", "styles", "styles.xml"),
    )
    shared = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts)
    parts["xl/sharedStrings.xml"] = f'{_HEAD}<sst xmlns="{_MAIN}">{shared}</sst>'
    styles = "".join(f'<xf numFmtId="{number or 0}"/>' for number in STYLES)
    parts["xl/styles.xml"] = (
        f'{_HEAD}<styleSheet xmlns="{_MAIN}"><numFmts count="1">'
        '<numFmt numFmtId="164" formatCode="d\\ mmm\\ yyyy"/></numFmts>'
        f"<cellXfs>{styles}</cellXfs></styleSheet>"
    )
    parts["_rels/.rels"] = relationships(("rId1", "officeDocument", "xl/workbook.xml"))
    parts["[Content_Types].xml"] = (
        f'{_HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>'
    )
    parts |= replaced or {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


# --- OpenDocument ---------------------------------------------------------------------------------

_SPACES = "".join(
    f' xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in (
        ("office", "office"),
        ("table", "table"),
        ("text", "text"),
        ("style", "style"),
        ("number", "datastyle"),
    )
)


def open_cell(value: object) -> str:
    """As :func:`cell`; ``(raw XML inside, attributes)`` is a cell of one's own."""
    match value:
        case None:
            return "<table:table-cell/>"
        case (str(inside), str(attributes)):
            return f"<table:table-cell {attributes}>{inside}</table:table-cell>"
        case bool():
            told = f'"boolean" office:boolean-value="{str(value).lower()}"'
        case int() | float():
            told = f'"float" office:value="{value!r}"'
        case _:
            told = '"string"'
    shown = "as shown" if isinstance(value, int | float) else escape(str(value))
    return f"<table:table-cell office:value-type={told}><text:p>{shown}</text:p></table:table-cell>"


def open_row(*cells: object, attributes: str = "") -> str:
    return f"<table:table-row {attributes}>{''.join(map(open_cell, cells))}</table:table-row>"


def open_document(
    *sheets: tuple[str, Sequence[Sequence[object]] | str],
    manifest: str = "<manifest/>",
    styles: str = "",
) -> bytes:
    """A spreadsheet (.ods) of the sheets: their rows, or the XML of them."""
    tables = "".join(
        f'<table:table table:name="{escape(name)}"><table:table-column/>'
        + (rows if isinstance(rows, str) else "".join(open_row(*row) for row in rows))
        + "</table:table>"
        for name, rows in sheets
    )
    content = (
        f"{_HEAD}<office:document-content{_SPACES}>"
        f"<office:automatic-styles>{styles}</office:automatic-styles><office:body><office:spreadsheet>{tables}"
        "</office:spreadsheet></office:body></office:document-content>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in (
            ("mimetype", "application/vnd.oasis.opendocument.spreadsheet"),
            ("content.xml", content),
            ("META-INF/manifest.xml", manifest),
        ):
            archive.writestr(zipfile.ZipInfo(name), part, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
