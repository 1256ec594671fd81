"""Delimited text with a header: RFC 4180 and the dialects that publishers write."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import BinaryIO

from holdfast.collect.content import Content
from holdfast.collect.encodings import HINT, encoding_of, shown
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.around import from_header, until, without
from holdfast.collect.formats.names import (
    filled_down,
    joined_names,
    table_names,
    unique_names,
)
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.collect.values import printable
from holdfast.registry.source import CsvFormat, Format


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The rows as objects from column name to text, in the order of the file.

    Blank lines are no rows. A row with more or fewer cells than the header
    becomes a reject, unless ``ragged: pad`` lets empty cells be filled in or dropped. Raises
    :class:`ParseFailed` where the bytes are not this dialect.
    """
    assert isinstance(spec, CsvFormat)
    if context.enclosing:
        raise MappingRefused("cannot use a $$ or # path: delimited text has no enclosing document")
    encoding = encoding_of(content, spec.encoding)
    with content.open() as stream:
        text = _text(stream, encoding, context.bounds)
        rows = _rows(text, spec, context)
        yield from filled_down(rows, spec.fill_down, context) if spec.fill_down else rows


def _text(stream: BinaryIO, encoding: str, bounds: Bounds) -> Iterator[str]:
    """Lines with their ends; a line beyond the bound of one record is refused, not held."""
    reader = io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="")
    limit = bounds.record_bytes_max
    number = 0
    try:
        while line := reader.readline(limit + 1):
            if len(line) > limit:
                raise BoundReached(
                    f"cannot read CSV: a line is longer than {limit} characters", bound="record"
                )
            if not number:
                _check_begin(line)
            number += 1
            yield line
    except UnicodeError as error:
        raise ParseFailed(
            f"cannot read CSV: not valid {shown(encoding)}, near line {number + 1}", hint=HINT
        ) from error


def _check_begin(line: str) -> None:
    """Refuse what any bytes could be read as, and is no table."""
    if 3 * line.count("\0") > len(line):
        raise ParseFailed(
            "cannot read CSV: there are zeros between its letters, as in UTF-16",
            hint="`source.format.encoding` says which it is, such as utf-16-le",
        )
    if line.lstrip("\ufeff \t").lower().startswith(("<!doctype html", "<html")):
        raise ParseFailed(
            "cannot read CSV: the source sent a web page",
            hint="it may be an error, or a login; is the address that of the file itself?",
        )


class _Lines:
    """The lines of a table without its comments; ``number`` is where the last stands in the file,
    ``row`` where the row begins that it is of.

    Whoever reads rows sets ``row`` to zero after each: until then a line goes on with one, in a
    cell with line breaks, and is no comment whatever it begins with.
    """

    def __init__(self, text: Iterator[str], spec: CsvFormat, bounds: Bounds) -> None:
        self._text = islice(text, spec.skip_lines, None)
        self._comment = spec.comment
        self._at_blanks = spec.delimiter == " " and not spec.places
        self._size_max = bounds.record_bytes_max
        self._size = 0
        self.number = spec.skip_lines
        self.row = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            if self.row:
                self._size += len(line)
                self._check_size()
            elif self._comment and line.startswith(self._comment):
                continue
            else:
                self.row, self._size = self.number, len(line)
            # Any number of blanks is one separator, and none at the end.
            yield line.rstrip(" \r\n") + "\n" if self._at_blanks else line

    def _check_size(self) -> None:
        if self._size > self._size_max:
            raise BoundReached(
                f"cannot read CSV: the row that begins at line {self.row} is longer than "
                f"{self._size_max} characters",
                bound="record",
                hint="is a quotation mark opened there and not closed?",
            )


def _rows(text: Iterator[str], spec: CsvFormat, context: ReadContext) -> Iterator[RawRow]:
    lines = _Lines(text, spec, context.bounds)
    cells = _placed(lines, spec) if spec.places else _cells(lines, spec, context.bounds)
    if spec.header_starts:
        cells = from_header(cells, spec.header_starts)
    if spec.stop_at:
        cells = until(cells, spec.stop_at)
    names, header, cells = _header(cells, spec, context)
    for _ in range(spec.skip_after_header):
        next(cells, None)
    if spec.skip_rows:
        cells = without(cells, spec.skip_rows, header, context)
    width = len(names)
    pad = spec.ragged == "pad"
    position = 0
    for row in cells:
        if isinstance(row, _Odd):
            yield _odd(row, position)
        elif not row:
            continue
        elif len(row) == width:
            record = dict(zip(names, row, strict=True))
            yield RawRow(position, record, size=sum(map(len, row)))
        else:
            yield _ragged(names, row, position, pad=pad)
        position += 1


class _Odd(list[str]):
    """The cells of a line at places with which something is wrong, and what: it matters only in a
    row that is a record, and not before the header or behind the table."""

    def __init__(self, cells: Sequence[str], beyond: str, at: int, tab: int) -> None:
        super().__init__(cells)
        self.beyond, self.at = beyond, at
        self.tab = tab


def _odd(row: _Odd, position: int) -> RawRow:
    if row.tab:
        raise ParseFailed(
            f"cannot read the table: line {row.tab} holds a tab, which has no certain width",
            hint='`delimiter: "\\t"` reads columns between tabs',
        )
    said = f"has {printable(row.beyond, 60)!r} at {row.at}, beyond the place of any column"
    return RawRow(position, row, problem=said)


def _placed(lines: _Lines, spec: CsvFormat) -> Iterator[list[str]]:
    """The cells of lines whose columns stand at fixed places, without the blanks around them."""
    spans = [span for _, span in _in_line(spec)]
    between = _uncovered(spans)
    ends = max(last or first for first, last in spans)
    pad = spec.ragged == "pad"
    for whole in lines:
        lines.row = 0
        line = whole.rstrip("\r\n")
        if not line.strip():
            yield []
            continue
        cells = [line[first:last].strip() for first, last in spans if pad or first < len(line)]
        tab = lines.number if "\t" in line[:ends] else 0
        # What stands in no place belongs to a value that would be cut, or to a column without one.
        gap = next((gap for gap in between if line[slice(*gap)].strip()), None)
        if gap is None and not tab:
            yield cells
            continue
        first, last = gap or (0, 0)
        beyond = line[first:last]
        at = first + 1 + len(beyond) - len(beyond.lstrip())
        yield _Odd(cells, beyond.strip(), at, tab)


def _uncovered(spans: Sequence[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    """What lies between and behind places, given by where they begin; ``None`` for the end."""
    found: list[tuple[int, int | None]] = []
    covered = 0
    for first, last in spans:
        if first > covered:
            found.append((covered, first))
        if last is None:
            return found
        covered = max(covered, last)
    return [*found, (covered, None)]


def _in_line(spec: CsvFormat) -> list[tuple[str, tuple[int, int | None]]]:
    """The columns by where they begin: a profile's members have no order of their own."""
    found = [(name, _span(place)) for name, place in spec.places.items()]
    return sorted(found, key=lambda each: (each[1][0], each[1][1] or 0, each[0]))


def _span(place: str) -> tuple[int, int | None]:
    """Where a place begins and ends, from 0; ``None`` for the end of the line."""
    first, dash, last = place.partition("-")
    return int(first) - 1, int(last or 0) or (None if dash else int(first))


def _ragged(names: list[str], row: list[str], position: int, *, pad: bool) -> RawRow:
    """A row that does not fit its header: filled up or relieved of empty cells, or a reject."""
    width = len(names)
    if pad and not any(cell.strip() for cell in row[width:]):
        filled = row[:width] + [""] * (width - len(row))
        return RawRow(position, dict(zip(names, filled, strict=True)))
    return RawRow(position, row, problem=f"has {len(row)} cells under {width} columns")


def _cells(lines: _Lines, spec: CsvFormat, bounds: Bounds) -> Iterator[list[str]]:
    # One record may span lines (a quoted line break), so the bound is held over lines as well.
    csv.field_size_limit(max(csv.field_size_limit(), bounds.record_bytes_max))
    reader = csv.reader(
        lines,
        delimiter=spec.delimiter,
        quotechar=spec.quote,
        escapechar=spec.escape or None,
        doublequote=True,
        skipinitialspace=spec.delimiter == " ",
        strict=True,
    )
    try:
        for row in reader:
            lines.row = 0
            if len(row) > bounds.columns_max:
                raise BoundReached(
                    f"cannot read CSV: a row has more than {bounds.columns_max} cells",
                    bound="columns",
                    hint="this bound cannot be set: ask the source for fewer columns, or for a row "
                    "a value",
                )
            yield row
    except csv.Error as error:
        begun, ended = lines.row, lines.number
        if begun >= ended:
            raise ParseFailed(
                f"cannot read CSV: {error}, at line {ended}",
                hint=f"is {spec.quote} a letter like others to the source? Then `quote` names a "
                "character that it does not have",
            ) from error
        raise ParseFailed(
            f"cannot read CSV: {error}, in a row that begins at line {begun}",
            hint=f"is {spec.quote} opened there and not closed? `quote` and `escape` say how",
        ) from error


def _header(
    cells: Iterator[list[str]], spec: CsvFormat, context: ReadContext
) -> tuple[list[str], list[list[str]], Iterator[list[str]]]:
    """The names of the columns, the file's own rows of them, if any, and the rows that follow.

    They come from the file, from the profile, or, with ``header: false``, are ``c1``, ``c2``, …
    """
    if spec.places:
        header = list(islice(cells, 1)) if spec.header_starts else []
        return [name for name, _ in _in_line(spec)], header, cells
    if isinstance(spec.header, list):
        return unique_names([name.strip() for name in spec.header]), [], cells
    if spec.header:
        header = list(islice((row for row in cells if row), spec.header_rows))
        if len(header) < spec.header_rows:
            raise ParseFailed(
                "cannot read CSV: there is no header row"
                if not header
                else f"cannot read CSV: there are no {spec.header_rows} header rows"
            )
        return table_names(joined_names(header), context), header, cells
    first = next((row for row in cells if row), None)
    return unique_names([""] * len(first or ())), [], chain([first] if first else [], cells)
