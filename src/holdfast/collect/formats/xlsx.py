"""Spreadsheets (.xlsx, ISO/IEC 29500): one sheet, a row at a time.

The sheet's XML is streamed out of the archive; only the shared texts are held. A number is the text
that the file has for it — where a program wrote a binary number with all of its 17 digits, the
shortest text of the same number — and a number with a date's format is a date (ADR 0013).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice, takewhile
from typing import Any, BinaryIO, NoReturn

from lxml import etree

from holdfast.collect.content import Content, open_archive, open_entry, random_access
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.around import first_text, from_header, without
from holdfast.collect.formats.names import filled_down, joined_names, table_names
from holdfast.collect.model import Bounds, Formula, Number, RawRow, ReadContext
from holdfast.registry.source import Format, SheetFormat, XlsxFormat

ROWS_MAX = 1_048_576
COLUMNS_MAX = 16_384
CELLS_MAX = 200_000_000
"""Cells with the empty ones between them: a row of one cell far out costs as many."""
SHARED_BYTES_MAX = 256 * 1024 * 1024

_CHUNK = 64 * 1024
_MAIN = (
    "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "http://purl.oclc.org/ooxml/spreadsheetml/main",
)
_PACKAGE = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_REFERENCE = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})")
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)})
"""Those that need not be written down. 46, ``[h]:mm:ss``, is a time that went by, no date."""
_QUOTED = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.|_.|\*.')
_SPELT_OUT = re.compile(r'"[^"]*"|\\.|_.|\*.')
_ELAPSED = re.compile(r"\[(?:h+|m+|s+)\]")
"""Hours that go on after 24, and minutes and seconds after 60."""
_LONG = re.compile(r"[0-9]")

_FORMAT_MAX = 255
"""Spreadsheets have no longer formats of numbers; what is quoted there is found by the square of
their length."""
_FORMULA_MAX = 200

Cell = str | None


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The rows under the header as objects from column name to text, number or ``None``.

    Rows without any content are no rows. Raises :class:`ParseFailed` for what is no workbook, for
    an encrypted one, and where there is no such sheet.
    """
    assert isinstance(spec, XlsxFormat)
    if context.enclosing:
        raise MappingRefused("cannot use a $$ or # path: a sheet has no enclosing document")
    with random_access(content) as raw:
        workbook = _Workbook(raw, context.bounds)
        rows = table_rows(workbook.rows(spec.sheet), spec, context)
        yield from filled_down(rows, spec.fill_down, context) if spec.fill_down else rows


def first_rows(content: Content, sheet: str | int, count: int) -> list[list[Cell]]:
    """The first rows of a sheet as they stand there."""
    with random_access(content) as raw:
        return list(islice(_Workbook(raw, Bounds()).rows(sheet), count))


def table_rows(
    cells: Iterator[list[Cell]], spec: SheetFormat, context: ReadContext
) -> Iterator[RawRow]:
    """The rows of a sheet under its header, as objects from column name to cell."""
    bounds = context.bounds
    if spec.header_starts:
        cells = from_header(cells, spec.header_starts)
    else:
        for _ in range(spec.header_row - 1):
            next(cells, None)
    if spec.stop_at:
        # Unlike in text, an empty column often stands before a table.
        stop_at = spec.stop_at
        cells = takewhile(lambda row: not first_text(row).startswith(stop_at), cells)
    header = list(islice(cells, spec.header_rows))
    if len(header) < spec.header_rows or not any(map(any, header)):
        raise ParseFailed(
            "cannot read the sheet: there is no header row",
            hint="`source.format.header_row` or `header_starts` says where it is",
        )
    for row in header:
        while row and row[-1] is None:
            row.pop()
    names = table_names(joined_names(header), context)
    for _ in range(spec.skip_after_header):
        next(cells, None)
    if spec.skip_rows:
        cells = without(cells, spec.skip_rows, header, context)
    width, position = len(names), 0
    for row in cells:
        if not any(cell is not None and cell != "" for cell in row):
            continue
        size = sum(len(cell) for cell in row if cell) + 1
        if size > bounds.record_bytes_max:
            raise BoundReached(
                f"cannot read the sheet: a row is longer than {bounds.record_bytes_max} characters",
                bound="record",
            )
        if any(cell for cell in row[width:]):
            yield RawRow(position, row, problem=f"has {len(row)} cells under {width} columns")
        else:
            filled = row[:width] + [None] * (width - len(row))
            yield RawRow(position, dict(zip(names, filled, strict=True)), size=size)
        position += 1


class _Workbook:
    """The parts of the archive that a sheet needs."""

    def __init__(self, raw: BinaryIO, bounds: Bounds) -> None:
        if raw.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            raise ParseFailed(
                "cannot read the workbook: it is encrypted, or of the old kind (.xls)",
                hint="save it as .xlsx without a password",
            )
        raw.seek(0)
        self._bounds = bounds
        self._archive = open_archive(raw)
        self._names = {name.lstrip("/").lower(): name for name in self._archive.namelist()}
        self._part = self._office_document()
        self._targets = self._relationships(self._part)
        self._sheets, self._from_1904 = self._described()

    def rows(self, wanted: str | int) -> Iterator[list[Cell]]:
        """The rows of a sheet by name or position, the empty ones between them included."""
        part = self._sheet(wanted)
        shared = self._shared()
        dates = self._date_styles()
        return self._read(part, shared, dates)

    # --- parts ----------------------------------------------------------------------------------

    def _office_document(self) -> str:
        for target, kind in self._relationships("").values():
            if kind.endswith("/officeDocument"):
                return target
        raise ParseFailed("cannot read the workbook: the archive holds none")

    def _relationships(self, part: str) -> dict[str, tuple[str, str]]:
        """What a part refers to: id → (name of the part, kind)."""
        folder, name = posixpath.split(part)
        found: dict[str, tuple[str, str]] = {}
        for element in self._parsed(posixpath.join(folder, "_rels", name + ".rels"), _PACKAGE):
            target = element.get("Target", "")
            whole = target if target.startswith("/") else posixpath.join(folder, target)
            found[element.get("Id", "")] = (
                posixpath.normpath(whole).lstrip("/"),
                element.get("Type", ""),
            )
        return found

    def _described(self) -> tuple[list[tuple[str, str]], bool]:
        """The sheets, each by name and part, and whether days are counted from 1904."""
        sheets: list[tuple[str, str]] = []
        from_1904 = False
        for element in self._parsed(self._part, *_tags("sheet", "workbookPr")):
            if element.tag.endswith("}workbookPr"):
                from_1904 = element.get("date1904") in {"1", "true"}
                continue
            reference = next((v for k, v in element.attrib.items() if k.endswith("}id")), "")
            target, kind = self._targets.get(reference, ("", ""))
            if kind.endswith("/worksheet"):
                sheets.append((element.get("name", ""), target))
        return sheets, from_1904

    def _sheet(self, wanted: str | int) -> str:
        names = [name for name, _ in self._sheets]
        if isinstance(wanted, str) and wanted in names:
            return self._sheets[names.index(wanted)][1]
        if isinstance(wanted, int) and wanted <= len(names):
            return self._sheets[wanted - 1][1]
        listed = ", ".join(repr(name[:40]) for name in names[:10])
        raise ParseFailed(
            f"cannot read the workbook: there is no sheet {wanted!r}",
            hint=f"`source.format.sheet` is one of {listed}",
        )

    def _of_kind(self, kind: str) -> str:
        return next((part for part, what in self._targets.values() if what.endswith(kind)), "")

    def _shared(self) -> list[str]:
        """The texts that cells refer to by number; bounded, because they are held."""
        part = self._of_kind("/sharedStrings")
        texts: list[str] = []
        held = 0
        for element in self._parsed(part, *_tags("si")) if part else ():
            texts.append(text := _rich(element))
            held += len(text) + 64
            if held > SHARED_BYTES_MAX:
                raise BoundReached(
                    f"cannot read the workbook: its texts take more than {SHARED_BYTES_MAX} bytes",
                    bound="texts",
                )
        return texts

    def _date_styles(self) -> list[str]:
        """For each style of a cell, what of a time it shows: ``date``, ``time``, both, nothing."""
        part = self._of_kind("/styles")
        custom: dict[int, str] = {}
        styles: list[str] = []
        for element in self._parsed(part, *_tags("numFmt", "cellXfs")) if part else ():
            if element.tag.endswith("}numFmt"):
                code = element.get("formatCode", "")[:_FORMAT_MAX]
                custom[_whole(element.get("numFmtId"))] = code
            else:
                styles = [
                    _shows(_whole(style.get("numFmtId")), custom)
                    for style in element
                    if style.tag.endswith("}xf")
                ]
        return styles

    # --- XML ------------------------------------------------------------------------------------

    def _parsed(self, part: str, *tags: str) -> Iterator[Any]:
        """The elements of a part with one of these tags, each gone when the next is asked for."""
        name = self._names.get(part.lstrip("/").lower())
        if name is None:
            if part.endswith(".rels"):
                return
            raise ParseFailed(f"cannot read the workbook: its part {part[:100]!r} is missing")
        entry = self._archive.getinfo(name)
        parser = etree.XMLPullParser(
            events=("end",),
            tag=tags,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
        )
        with open_entry(self._archive, entry, self._bounds) as stream:
            unseen = 0
            try:
                while data := stream.read(_CHUNK):
                    parser.feed(data)
                    unseen += len(data)
                    for _, element in parser.read_events():
                        unseen = 0
                        check_type(element)
                        yield element
                        cleared(element)
                    if unseen > self._bounds.record_bytes_max * 4:
                        raise BoundReached(
                            "cannot read the workbook: one row or text of it is too large",
                            bound="record",
                        )
                parser.close()
            except etree.XMLSyntaxError as error:
                raise ParseFailed(f"cannot read the workbook: {str(error)[:200]}") from error
            for _, element in parser.read_events():
                check_type(element)
                yield element

    def _read(self, part: str, shared: list[str], dates: list[str]) -> Iterator[list[Cell]]:
        cells = _Cells(shared, dates, self._from_1904)
        at = 0
        for element in self._parsed(part, *_tags("row")):
            number = _whole(element.get("r"), at + 1)
            if number > ROWS_MAX:
                raise BoundReached(
                    f"cannot read the sheet: it has more than {ROWS_MAX} rows", bound="rows"
                )
            if number <= at:
                _refuse(f"row {number} stands after row {at}")
            # A header is found by its row's number, so rows that the file leaves out count.
            for _ in range(number - at - 1):
                yield []
            at = number
            yield cells.row(element)


def _tags(*names: str) -> tuple[str, ...]:
    return tuple(f"{{{namespace}}}{name}" for namespace in _MAIN for name in names)


def check_type(element: Any) -> None:
    if element.getroottree().docinfo.internalDTD is not None:
        raise ParseFailed("cannot read the workbook: it declares entities, which are not read")


def cleared(element: Any) -> None:
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _refuse(reason: str) -> NoReturn:
    raise ParseFailed(f"cannot read the sheet: {reason}")


def _whole(text: str | None, otherwise: int = 0) -> int:
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        _refuse(f"{text[:40]!r} is not a number of a row, style or text")
    return int(text)


def _rich(element: Any) -> str:
    """The text of a shared or inline text, without the reading aids for East Asian scripts."""
    parts = []
    for child in element:
        if child.tag.endswith("}t"):
            parts.append(child.text or "")
        elif child.tag.endswith("}r"):
            parts += [inner.text or "" for inner in child if inner.tag.endswith("}t")]
    return _unescaped("".join(parts))


_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def _unescaped(text: str) -> str:
    """``_x000D_`` is a character that XML cannot hold."""
    if "_x" not in text:
        return text
    return _ESCAPED.sub(
        lambda m: m[0] if 0xD800 <= int(m[1], 16) < 0xE000 else chr(int(m[1], 16)), text
    )


def _shows(number: int, custom: dict[int, str]) -> str:
    code = custom.get(number)
    if code is None:
        if number not in _DATE_FORMATS:
            return ""
        return "time" if number in {18, 19, 20, 21, 45, 47} else "date"
    bare = _QUOTED.sub("", code.split(";")[0]).lower()
    if "general" in bare or "e+" in bare:
        return ""
    if any(letter in bare for letter in "yd"):
        return "date"
    if _ELAPSED.search(_SPELT_OUT.sub("", code.split(";")[0]).lower()):
        return ""
    if "h" in bare or "s" in bare:
        return "time"
    return "date" if "m" in bare else ""


class _Cells:
    """Reads the cells of rows."""

    def __init__(self, shared: list[str], dates: list[str], from_1904: bool) -> None:
        self._shared = shared
        self._dates = dates
        self._epoch = datetime(1904, 1, 1) if from_1904 else datetime(1899, 12, 30)  # noqa: DTZ001
        self._from_1904 = from_1904
        self._read = 0

    def row(self, element: Any) -> list[Cell]:
        found: list[Cell] = []
        for cell in element:
            if not cell.tag.endswith("}c"):
                continue
            column = _column(cell.get("r"), len(found))
            if column < len(found):
                _refuse("a row repeats a cell")
            found += [None] * (column - len(found))
            found.append(self._value(cell))
        self._read += len(found)
        if self._read > CELLS_MAX:
            raise BoundReached(
                f"cannot read the sheet: it has more than {CELLS_MAX} cells", bound="cells"
            )
        return found

    def _value(self, cell: Any) -> Cell:
        kind = cell.get("t", "n")
        text: str | None = None
        formula: str | None = None
        for child in cell:
            if child.tag.endswith("}f"):
                formula = child.text or ""
            elif child.tag.endswith("}v"):
                text = child.text or ""
            elif child.tag.endswith("}is") and kind == "inlineStr":
                return _rich(child)
        if formula is not None and (text is None or (kind == "n" and not text.strip())):
            return Formula("=" + formula[:_FORMULA_MAX])
        if text is None:
            return None
        match kind:
            case "s":
                index = _whole(text)
                if index >= len(self._shared):
                    _refuse(f"there is no text number {index}")
                return self._shared[index]
            case "b":
                return "true" if text.strip() == "1" else "false"
            case "n":
                return self._number(text.strip(), cell.get("s"))
            case _:  # the text of a formula, an error such as #N/A, a date as ISO 8601
                return _unescaped(text)

    def _number(self, text: str, style: str | None) -> Cell:
        if not text:
            return None
        index = _whole(style)
        shows = self._dates[index] if index < len(self._dates) else ""
        return self._time(text, shows) if shows else Number(shortest(text))

    def _time(self, text: str, shows: str) -> str:
        try:
            days = Decimal(text)
            if not Decimal(0) <= days < Decimal(2_958_466):
                return Number(text)
        except ArithmeticError:
            return text
        milliseconds = int((days * 86_400_000).to_integral_value())
        if shows == "time" and milliseconds < 86_400_000:
            return (self._epoch + timedelta(milliseconds=milliseconds)).time().isoformat()
        if not self._from_1904 and days < 60:
            milliseconds += 86_400_000  # that 1900 had a 29 February is believed only here
        at = self._epoch + timedelta(milliseconds=milliseconds)
        if milliseconds % 86_400_000 == 0:
            return at.date().isoformat()
        return at.isoformat(timespec="milliseconds" if milliseconds % 1000 else "seconds")


def _column(reference: str | None, following: int) -> int:
    if reference is None:
        return following
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        _refuse(f"{reference[:20]!r} is no cell")
    column = 0
    for letter in match[1]:
        column = column * 26 + ord(letter) - 64
    if column > COLUMNS_MAX:
        raise BoundReached(
            f"cannot read the sheet: it has more than {COLUMNS_MAX} columns", bound="columns"
        )
    return column - 1


def shortest(text: str) -> str:
    """``text``, or the shortest text of the same binary number where 17 digits were written."""
    mantissa = text.partition("e")[0].partition("E")[0]
    if "." not in mantissa or len(text) > 40:
        return text
    digits = "".join(_LONG.findall(mantissa)).strip("0")
    if len(digits) <= 15:
        return text
    try:
        return repr(float(text))
    except ValueError:
        return text
