"""What publishers put around a table: text, CSV or sheet. Pure.

A preamble of any length before the header, rows that are none (totals, repeated headers, tags),
footnotes behind the last. Cells may be ``None``, as in sheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, takewhile, zip_longest
from typing import NoReturn, TypeVar

from holdfast.collect.errors import ParseFailed
from holdfast.collect.model import ReadContext
from holdfast.collect.values import printable

Row = TypeVar("Row", bound=Sequence[str | None])


def first_text(row: Sequence[str | None]) -> str:
    """The first cell of a row that holds text, without blanks around it."""
    return next((text for cell in row if cell and (text := cell.strip())), "")


def from_header(cells: Iterator[Row], starts: str) -> Iterator[Row]:
    """The rows from the header on: the first whose first cell with text is ``starts``."""
    for row in cells:
        if first_text(row) == starts.strip():
            return chain([row], cells)
    raise ParseFailed(
        f"cannot read the table: no row begins with {starts!r}",
        hint="`source.format.header_starts` is the text of the header's first cell",
    )


def until(cells: Iterator[Row], stop_at: str) -> Iterator[Row]:
    """The rows before the first whose first cell begins with ``stop_at``: then come footnotes."""
    return takewhile(lambda row: not (row and (row[0] or "").startswith(stop_at)), cells)


def without(
    cells: Iterator[Row],
    skipped: Sequence[str],
    header: Sequence[Sequence[str | None]],
    context: ReadContext,
) -> Iterator[Row]:
    """The rows but for those whose first cell with text is one of ``skipped``.

    Raises :class:`ParseFailed` where one that is to be skipped begins as a row of ``header`` does
    and names other columns: what follows is another table, and its numbers would be taken for the
    first's.
    """
    known = [_plain(row) for row in header]
    begins = {first_text(row): _plain(row) for row in reversed(header) if first_text(row)}
    is_skipped = skipped_by(skipped)
    for row in cells:
        text = first_text(row)
        if not is_skipped(text):
            yield row
            continue
        if text in begins and _plain(row) not in known:
            _refuse_header(begins[text], _plain(row))
        if any(cell is not None for cell in row):  # a blank line is no row to anybody
            context.left_out()


def skipped_by(skipped: Sequence[str]) -> Callable[[str], bool]:
    """Whether a row that begins with a text is one of ``skip_rows``."""
    whole = {text for text in skipped if not text.endswith("*")}
    begun = tuple(text[:-1] for text in skipped if text.endswith("*"))
    return lambda text: text in whole or bool(begun and text.startswith(begun))


def _plain(row: Sequence[str | None]) -> list[str]:
    """The texts of a row without the empty ones at its end."""
    found = [(cell or "").strip() for cell in row]
    while found and not found[-1]:
        found.pop()
    return found


def _refuse_header(first: list[str], later: list[str]) -> NoReturn:
    pairs = zip_longest(first, later, fillvalue="")
    number, (was, now) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    raise ParseFailed(
        f"cannot read the table: a header further down calls column {number} "
        f"{printable(now, 60)!r}, and the first {printable(was, 60)!r}",
        hint="these are several tables: ask the source for one at a time",
    )
