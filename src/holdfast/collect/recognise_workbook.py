"""Where the table of a workbook begins. A guess."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import ods, xlsx
from holdfast.collect.model import Bounds
from holdfast.collect.recognise_table import DOUBLE, is_double
from holdfast.collect.recognised import Plain, Recognised


def is_workbook(path: Path) -> bool:
    try:
        return any("workbook.xml" in name for name in zipfile.ZipFile(path).namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def is_ods(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("mimetype") as said:
            return said.read(100).strip() == b"application/vnd.oasis.opendocument.spreadsheet"
    except (zipfile.BadZipFile, OSError, KeyError):
        return False


def workbook_of(path: Path, kind: str, sheet: str, header_row: int, member: str = "") -> Recognised:
    form: Plain = {"type": kind}
    if sheet:
        form["sheet"] = sheet
    if header_row:
        form["header_row"] = header_row
    found = Recognised(form)
    read = ods.first_rows if kind == "ods" else xlsx.first_rows
    content = SpooledContent(path, Bounds(), "auto", member)
    if member:
        found.source["member"] = member
    rows = read(content, sheet or 1, max(0, header_row - 1) + _ROWS_ABOVE + 3)
    above = header_row - 1 if header_row else _rows_above(rows)
    if above and not header_row:
        form["header_row"] = above + 1
        said = next(str(cell) for row in rows[:above] for cell in row if cell)
        found.notes.append(
            f"What stands above row {above + 1} is taken for a title, and that row for the header "
            f"(`header_row`): {said[:80]!r}."
        )
    rows = rows[above : above + 3]
    if len(rows) == 3 and is_double(rows[0], rows[1], rows[2]):
        form["header_rows"] = 2
        found.notes.append(DOUBLE)
    if not sheet:
        found.notes.append(
            "The first sheet is read; --sheet names another, --header-row the header."
        )
    return found


_ROWS_ABOVE = 10


def _rows_above(rows: Sequence[Sequence[Any]]) -> int:
    """How many rows at the beginning of a sheet hold one cell at most, where a table follows."""
    cells = [sum(1 for cell in row if cell) for row in rows]
    above = next((place for place, told in enumerate(cells) if told > 1), 0)
    if not any(cells[:above]) or above > _ROWS_ABOVE:
        return 0
    double = len(rows) > above + 1 and above == 1 and is_double(rows[0], rows[1], rows[2])
    return 0 if double else above
