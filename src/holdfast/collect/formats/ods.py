"""OpenDocument spreadsheets (.ods, ISO/IEC 26300): one sheet, a row at a time.

The sheets stand one after the other in one document, which is streamed out of the archive. Rows and
cells that repeat are written once with their number there, the empty ones to the edge of the sheet,
too: those count only where something follows them. A number is the value that the file has for it,
never the text that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO, NoReturn

from lxml import etree

from holdfast.collect.content import Content, open_archive, open_entry, random_access
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.names import filled_down
from holdfast.collect.formats.xlsx import (
    CELLS_MAX,
    COLUMNS_MAX,
    ROWS_MAX,
    Cell,
    check_type,
    cleared,
    shortest,
    table_rows,
)
from holdfast.collect.model import Bounds, Formula, Number, RawRow, ReadContext
from holdfast.collect.values import printable
from holdfast.registry.source import Format, OdsFormat

_CHUNK = 64 * 1024
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_NUMBER = "{urn:oasis:names:tc:opendocument:xmlns:datastyle:1.0}"
_CELLS = frozenset({f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"})
_FORMULA_MAX = 200
STYLES_MAX = 100_000
"""Styles of cells are held while a document is read."""


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The rows under the header as objects from column name to text, number or ``None``.

    Raises :class:`ParseFailed` for what is no such document, for an encrypted one, and where there
    is no such sheet.
    """
    assert isinstance(spec, OdsFormat)
    if context.enclosing:
        raise MappingRefused("cannot use a $$ or # path: a sheet has no enclosing document")
    with random_access(content) as raw:
        rows = table_rows(_cells(raw, spec.sheet, context.bounds), spec, context)
        yield from filled_down(rows, spec.fill_down, context) if spec.fill_down else rows


def first_rows(content: Content, sheet: str | int, count: int) -> list[list[Cell]]:
    """The first rows of a sheet as they stand there."""
    with random_access(content) as raw:
        return list(islice(_cells(raw, sheet, Bounds()), count))


def _cells(raw: BinaryIO, wanted: str | int, bounds: Bounds) -> Iterator[list[Cell]]:
    """The rows of a sheet by name or position, the empty ones between them included."""
    archive = open_archive(raw)
    names = set(archive.namelist())
    if "content.xml" not in names:
        _refuse("the archive holds none")
    if "META-INF/manifest.xml" in names:
        with open_entry(archive, archive.getinfo("META-INF/manifest.xml"), bounds) as manifest:
            if b"encryption-data" in manifest.read(_CHUNK * 16):
                raise ParseFailed(
                    "cannot read the spreadsheet: it is encrypted",
                    hint="save it without a password",
                )
    with open_entry(archive, archive.getinfo("content.xml"), bounds) as stream:
        yield from _Walk(stream, wanted, bounds).rows()


class _Walk:
    """One walk over the document to a sheet and through it."""

    def __init__(self, stream: BinaryIO, wanted: str | int, bounds: Bounds) -> None:
        self._stream, self._wanted, self._bounds = stream, wanted, bounds
        self._sheets: list[str] = []
        self._depth = 0
        self._inside = False
        self._empty = 0
        self._given = 0
        self._cells = 0
        self._elapsed: set[str] = set()
        """How times are shown that go on after 24 hours, by the names of such formats."""
        self._formats: dict[str, str] = {}
        """The format of each style of a cell that has one."""
        self._columns: list[str] = []
        """The style of each column of the sheet: that of its cells that name none."""

    def rows(self) -> Iterator[list[Cell]]:
        """The rows; what stands behind the sheet is looked through, too: it must be whole."""
        found = False
        for event, element in self._elements():
            if element.tag == f"{_TABLE}table":
                if event == "start":
                    self._begins(element)
                    found = found or self._inside
                    continue
                self._depth -= 1
            elif event == "start":
                continue
            elif element.tag in _STYLES:
                self._style(element)
                cleared(element)
            elif self._depth == 1:
                if element.tag == f"{_TABLE}table-column":
                    self._column(element)
                elif self._inside:
                    yield from self._row(element)
                cleared(element)
        if not found:
            listed = ", ".join(repr(name[:40]) for name in self._sheets[:10])
            raise ParseFailed(
                f"cannot read the spreadsheet: there is no sheet {self._wanted!r}",
                hint=f"`source.format.sheet` is one of {listed}",
            )

    def _begins(self, element: Any) -> None:
        """A sheet begins, or a table within a cell of one, which is none."""
        self._depth += 1
        if self._depth > 1:
            return
        name = element.get(f"{_TABLE}name", "")
        self._sheets.append(name)
        self._columns = []
        if isinstance(self._wanted, str):
            self._inside = name == self._wanted
        else:
            self._inside = len(self._sheets) == self._wanted

    def _style(self, element: Any) -> None:
        """A style of cells, or a format of times."""
        name = element.get(f"{_STYLE}name", "")
        if element.tag == f"{_NUMBER}time-style":
            if element.get(f"{_NUMBER}truncate-on-overflow") == "false":
                self._elapsed.add(name)
        elif told := element.get(f"{_STYLE}data-style-name"):
            self._formats[name] = told
        if len(self._formats) + len(self._elapsed) > STYLES_MAX:
            raise BoundReached(
                f"cannot read the spreadsheet: it has more than {STYLES_MAX} styles", bound="styles"
            )

    def _column(self, element: Any) -> None:
        left = COLUMNS_MAX - len(self._columns)
        times = min(_times(element, "number-columns-repeated"), left)
        self._columns += [element.get(f"{_TABLE}default-cell-style-name", "")] * times

    def _is_elapsed(self, cell: Any, row: Any, column: int) -> bool:
        """Whether the time in a cell is one that went by, and none of a day."""
        style = cell.get(f"{_TABLE}style-name") or row.get(f"{_TABLE}default-cell-style-name")
        if not style and column < len(self._columns):
            style = self._columns[column]
        return self._formats.get(style or "") in self._elapsed

    def _row(self, element: Any) -> Iterator[list[Cell]]:
        row = self._values(element)
        times = _times(element, "number-rows-repeated")
        if not row:
            self._empty += times
            return
        self._given += self._empty + times
        self._cells += len(row) * times
        if self._given > ROWS_MAX:
            raise BoundReached(
                f"cannot read the sheet: it has more than {ROWS_MAX} rows", bound="rows"
            )
        if self._cells > CELLS_MAX:
            raise BoundReached(
                f"cannot read the sheet: it has more than {CELLS_MAX} cells", bound="cells"
            )
        for _ in range(self._empty):
            yield []
        self._empty = 0
        for _ in range(times):
            yield list(row)

    def _values(self, element: Any) -> list[Cell]:
        """The cells of a row up to the last that holds something."""
        found: list[Cell] = []
        empty = 0
        for cell in element:
            if cell.tag not in _CELLS:
                continue
            value = _value(cell)
            if (
                self._elapsed
                and isinstance(value, str)
                and cell.get(f"{_OFFICE}value-type") == "time"
                and self._is_elapsed(cell, element, len(found) + empty)
            ):
                value = _days(cell.get(f"{_OFFICE}time-value", "").strip()) or value
            times = _times(cell, "number-columns-repeated")
            if value is None or value == "":
                empty += times
                continue
            if len(found) + empty + times > COLUMNS_MAX:
                raise BoundReached(
                    f"cannot read the sheet: it has more than {COLUMNS_MAX} columns",
                    bound="columns",
                )
            found += [None] * empty
            found += [value] * times
            empty = 0
        return found

    def _elements(self) -> Iterator[tuple[str, Any]]:
        """Where sheets begin and end, and the rows within them."""
        parser = etree.XMLPullParser(
            events=("start", "end"),
            tag=(f"{_TABLE}table", f"{_TABLE}table-row", f"{_TABLE}table-column", *_STYLES),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
        )
        unseen = 0
        try:
            while data := self._stream.read(_CHUNK):
                parser.feed(data)
                unseen += len(data)
                for event, element in parser.read_events():
                    unseen = 0
                    check_type(element)
                    yield event, element
                if unseen > self._bounds.record_bytes_max * 4:
                    raise BoundReached(
                        "cannot read the spreadsheet: one row of it is too large", bound="record"
                    )
            parser.close()
        except etree.XMLSyntaxError as error:
            raise ParseFailed(f"cannot read the spreadsheet: {str(error)[:200]}") from error
        yield from parser.read_events()


_STYLES = (f"{_STYLE}style", f"{_NUMBER}time-style")
_ATTRIBUTES = {
    **dict.fromkeys(("float", "percentage", "currency"), "value"),
    "date": "date-value",
    "boolean": "boolean-value",
    "time": "time-value",
}
"""Where the value of a cell stands, by its type. What the cell shows is no value of it."""


def _value(cell: Any) -> Cell:
    kind = cell.get(f"{_OFFICE}value-type")
    if kind is None:
        formula = cell.get(f"{_TABLE}formula")
        return _text(cell) if formula is None else Formula(formula[:_FORMULA_MAX])
    if kind not in _ATTRIBUTES:
        # Where a formula failed the attribute is empty, and what it shows tells the error.
        told: str = cell.get(f"{_OFFICE}string-value", "")
        return told or _text(cell)
    given = cell.get(f"{_OFFICE}{_ATTRIBUTES[kind]}", "").strip()
    if not given and (shown := _text(cell)):
        _refuse(f"a cell of the type {kind} shows {printable(shown, 60)!r} and has no value")
    match kind:
        case "date" | "boolean":
            return _told(given)
        case "time":
            return _clock(given)
        case _:
            return Number(shortest(given))


def _text(cell: Any) -> str | None:
    lines = [_line(child) for child in cell if child.tag == f"{_TEXT}p"]
    return "\n".join(lines) if lines else None


def _told(text: str) -> str | None:
    """A time or truth value; a day of a sheet may come with a midnight that nobody wrote."""
    return text.removesuffix("T00:00:00") or None


_DURATION = re.compile(r"PT([0-9]{1,2})H([0-9]{2})M([0-9]{2})(?:[.,]0*)?S")


def _clock(text: str) -> str | None:
    """A time of the day as a workbook has it; a longer time as it is written."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) > 23:
        return text or None
    return f"{match[1]:0>2}:{match[2]}:{match[3]}"


_ELAPSED = re.compile(r"(-?)PT([0-9]{1,9})H([0-9]{1,4})M([0-9]{1,4}(?:[.,][0-9]{1,12})?)S")


def _days(text: str) -> Number | None:
    """A time that went by, in days, as a workbook has it."""
    match = _ELAPSED.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[2]) * 3600 + int(match[3]) * 60 + Decimal(match[4].replace(",", "."))
    return Number(match[1] + repr(float(seconds / 86_400)).removesuffix(".0"))


def _line(element: Any) -> str:
    """The text of a paragraph, its blanks and breaks included; a note in it is no text of it."""
    parts = [element.text or ""]
    for child in element:
        match child.tag:
            case tag if tag == f"{_TEXT}s":
                parts.append(" " * min(_times(child, "c", _TEXT), 1000))
            case tag if tag == f"{_TEXT}tab":
                parts.append("\t")
            case tag if tag == f"{_TEXT}line-break":
                parts.append("\n")
            case tag if isinstance(tag, str) and tag not in {
                f"{_OFFICE}annotation",
                f"{_TEXT}note",
            }:
                parts.append(_line(child))
            case _:
                pass
        parts.append(child.tail or "")
    return "".join(parts)


def _times(element: Any, name: str, namespace: str = _TABLE) -> int:
    text = element.get(f"{namespace}{name}", "1")
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        _refuse(f"{text[:40]!r} is no number of rows or cells")
    return int(text)


def _refuse(reason: str) -> NoReturn:
    raise ParseFailed(f"cannot read the spreadsheet: {reason}")
