"""Delimited text with a header: RFC 4180 and the dialects that publishers write."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import chain, count
from typing import BinaryIO

from holdfast.collect.content import Content
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.model import CsvFormat, Format


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The rows as objects from column name to text, in the order of the file.

    Blank lines are no rows. A row with more or fewer cells than the header
    becomes a reject, unless ``ragged: pad`` lets empty cells be filled in or dropped. Raises
    :class:`ParseFailed` where the bytes are not this dialect.
    """
    assert isinstance(spec, CsvFormat)
    if context.enclosing:
        raise MappingRefused("cannot use a $$ or # path: delimited text has no enclosing document")
    with content.open() as stream:
        text = _text(stream, spec.encoding, context.bounds)
        yield from _rows(text, spec, context.bounds)


def _text(stream: BinaryIO, encoding: str, bounds: Bounds) -> Iterator[str]:
    """Lines with their ends; a line beyond the bound of one record is refused, not held."""
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise MappingRefused(f"cannot read CSV: no encoding {encoding!r}") from error
    reader = io.TextIOWrapper(stream, encoding=name, errors="strict", newline="")
    limit = bounds.record_bytes_max
    try:
        while line := reader.readline(limit + 1):
            if len(line) > limit:
                raise BoundReached(
                    f"cannot read CSV: a line is longer than {limit} characters", bound="record"
                )
            yield line
    except UnicodeDecodeError as error:
        raise ParseFailed(f"cannot read CSV: not valid {error.encoding}") from error


def _rows(text: Iterator[str], spec: CsvFormat, bounds: Bounds) -> Iterator[RawRow]:
    for _ in range(spec.skip_lines):
        next(text, None)
    if spec.comment:
        mark = spec.comment
        text = (line for line in text if not line.startswith(mark))
    cells = _cells(text, spec, bounds)
    if spec.stop_at:
        cells = _until(cells, spec.stop_at)
    names, cells = _header(cells, spec)
    for _ in range(spec.skip_after_header):
        next(cells, None)
    width = len(names)
    pad = spec.ragged == "pad"
    position = 0
    for row in cells:
        if not row:
            continue
        if len(row) == width:
            record = dict(zip(names, row, strict=True))
            yield RawRow(position, record, size=sum(map(len, row)))
        else:
            yield _ragged(names, row, position, pad=pad)
        position += 1


def _ragged(names: list[str], row: list[str], position: int, *, pad: bool) -> RawRow:
    """A row that does not fit its header: filled up or relieved of empty cells, or a reject."""
    width = len(names)
    if pad and not any(cell.strip() for cell in row[width:]):
        filled = row[:width] + [""] * (width - len(row))
        return RawRow(position, dict(zip(names, filled, strict=True)))
    return RawRow(position, row, problem=f"has {len(row)} cells under {width} columns")


def _until(cells: Iterator[list[str]], stop_at: str) -> Iterator[list[str]]:
    """The rows before the first whose first cell begins with ``stop_at``: then come footnotes."""
    for row in cells:
        if row and row[0].startswith(stop_at):
            return
        yield row


def _cells(text: Iterator[str], spec: CsvFormat, bounds: Bounds) -> Iterator[list[str]]:
    # One record may span lines (a quoted line break), so the bound is held over lines as well.
    csv.field_size_limit(max(csv.field_size_limit(), bounds.record_bytes_max))
    reader = csv.reader(
        text,
        delimiter=spec.delimiter,
        quotechar=spec.quote,
        escapechar=spec.escape or None,
        doublequote=True,
        strict=True,
    )
    try:
        for row in reader:
            if len(row) > bounds.columns_max:
                raise BoundReached(
                    f"cannot read CSV: a row has more than {bounds.columns_max} cells",
                    bound="columns",
                )
            yield row
    except csv.Error as error:
        raise ParseFailed(f"cannot read CSV: {error}, at line {reader.line_num}") from error


def _header(cells: Iterator[list[str]], spec: CsvFormat) -> tuple[list[str], Iterator[list[str]]]:
    """The names of the columns, and the rows that follow.

    They come from the file, from the profile, or, with ``header: false``, are ``c1``, ``c2``, …
    """
    if isinstance(spec.header, list):
        return _unique([name.strip() for name in spec.header]), cells
    first = next((row for row in cells if row), None)
    if spec.header:
        if first is None:
            raise ParseFailed("cannot read CSV: there is no header row")
        return _unique([name.strip() for name in first]), cells
    return _unique([""] * len(first or ())), chain([first] if first else [], cells)


def _unique(names: list[str]) -> list[str]:
    """Repeated names get a number (``rate``, ``rate_2``), so that no column hides another."""
    taken: set[str] = set()
    found: list[str] = []
    for index, name in enumerate(names, 1):
        plain = name or f"c{index}"
        given = plain
        numbers = count(2)
        while given in taken or (given != plain and given in names):
            given = f"{plain}_{next(numbers)}"
        taken.add(given)
        found.append(given)
    return found
