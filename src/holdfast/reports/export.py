"""A report's data as people and programs take it away: JSON, CSV, Parquet.

JSON and CSV carry numbers as the report shows them: exact decimals as the source spelt them,
doubles in the shortest spelling that gives them back.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Literal

import msgspec

from holdfast.reports.compute import answer
from holdfast.reports.model import Column
from holdfast.reports.statistics import number

DataFormat = Literal["json", "csv", "parquet"]
Rows = list[list[str | None]]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE)


class ExportJob(msgspec.Struct, frozen=True, kw_only=True):
    """Which data (a Parquet file) to write as what."""

    columns: list[Column]
    data: bytes
    format: Literal["json", "csv"]
    exact: bool = False


def export(job: bytes) -> bytes:
    """The entry point of the child: :class:`ExportJob` in, an answer with the text out."""

    def make() -> bytes:
        wanted = msgspec.msgpack.decode(job, type=ExportJob)
        rows = rows_of_data(wanted.columns, wanted.data)
        return write_rows(wanted.columns, rows, wanted.format, exact=wanted.exact)

    return answer(make)


def rows_of_data(columns: list[Column], data: bytes) -> Rows:
    """All rows of a report's Parquet file, as text."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    texts = [[_text(value) for value in table.column(c.name).to_pylist()] for c in columns]
    return [list(row) for row in zip(*texts, strict=True)]


def write_rows(
    columns: list[Column], rows: Rows, format_: Literal["json", "csv"], *, exact: bool = False
) -> bytes:
    """Rows as JSON (``{"columns": […], "rows": [[…]]}``) or CSV (RFC 4180).

    In CSV a text that a spreadsheet would run as a formula gets an apostrophe before it, unless
    ``exact``; a number in a column of numbers is none.
    """
    if format_ == "json":
        return msgspec.json.encode({"columns": columns, "rows": rows})
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow([column.name for column in columns])
    for row in rows:
        cells = zip(columns, row, strict=True)
        writer.writerow([_cell(column, value, exact=exact) for column, value in cells])
    return sink.getvalue().encode()


def _cell(column: Column, value: str | None, *, exact: bool) -> str:
    return csv_cell(value, number=column.type != "text", exact=exact)


def csv_cell(value: str | None, *, number: bool, exact: bool) -> str:
    """A cell as CSV has it; ``number``: a number in a column of numbers is no formula."""
    if value is None:
        return ""
    if exact or not value.startswith(_FORMULA):
        return value
    if number and _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return number(value) if isinstance(value, float) else str(value)
