"""Rows and columns of a page that are not what they stand among. A guess for a draft. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.collect.infer import NULL_SPELLINGS

Cells = Mapping[str, str]

_TYPED = re.compile(
    r"[-+]?[\d.,' \u00a0\u202f:/-]*\d[\d.,' \u00a0\u202f:/TZ+-]*(?:[eE][-+]?\d+)?%?"
    r"|\d{4}[- ]?[QMWSH]\d{1,2}"
)
"""A number, a day, a moment or a period. Its time grows with the square of a text."""
_TYPED_MAX = 64
"""None of them is longer; outlines of places are, and are made of the same letters."""
_TOTAL = re.compile(
    r"((column|grand|sub) ?)?totals?|total\b.{0,30}|insgesamt|gesamt|summe|suma|somme|ensemble",
    re.I,
)
_STAMP = re.compile(
    r"(last[ _-]?(up-?date[ds]?|modified|refresh(ed)?|change[ds]?)|"
    r"(update[ds]?|modified|extract(ed|ion)|download(ed)?|retrieved|generated|exported)"
    r"([ _-]?(at|on|date|time|datetime))?|"
    r"date[ _-]?(updated|modified|extracted|exported))", re.I,
)  # fmt: skip
ROWS_JUDGED = 6
"""Of fewer rows nothing is told: each is a large part of them."""
_FIRST, _LAST, _SHARE, _SHOWN = 6, 3, 0.8, 40


@dataclass(frozen=True, slots=True)
class Odd:
    """``before`` and ``after`` are indexes of rows that seem to be names, units or footnotes;
    ``totals`` such as seem to sum up others."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    totals: tuple[int, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        return (*self.before, *self.after)


def odd_rows(rows: Sequence[Cells]) -> Odd:
    """The rows at the beginning and the end that are words where all others are numbers or times.

    Told only where two columns or more have such values in nearly every row: a single word among
    the numbers of one column is a word for "missing".
    """
    if len(rows) < ROWS_JUDGED:
        return Odd()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    again = _totals_again(rows, columns)
    # Whether a column is one of numbers or times is not for its totals to say.
    plain = [index for index in range(len(rows)) if index not in again]
    others = [rows[index] for index in plain]
    typed = [name for name in columns if _is_typed([row.get(name, "") for row in others])]
    before, after = _words(others, typed) if len(typed) > 1 else ([], [])
    totals = {*again, *_totals(rows, columns)}
    return Odd(
        tuple(plain[index] for index in before),
        tuple(plain[index] for index in after),
        tuple(sorted(totals)),
    )


def _words(rows: Sequence[Cells], typed: Sequence[str]) -> tuple[list[int], list[int]]:
    """The rows at the beginning, and those at the end, that are words in columns of values."""
    first = [index for index in range(min(_FIRST, len(rows) // 2)) if _is_odd(rows[index], typed)]
    before = [index for place, index in enumerate(first) if index == place]
    after = []
    for index in range(len(rows) - 1, max(len(rows) - 1 - _LAST, len(before)), -1):
        if not _is_odd(rows[index], typed):
            break
        after.append(index)
    before += _again(rows, before, after)
    return before, list(reversed(after))


def _again(rows: Sequence[Cells], before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Where a header, or a row that stood under the first one, comes again further down."""
    known = [rows[index] for index in before]
    return [
        index
        for index, row in enumerate(rows)
        if index not in before
        and index not in after
        and (row in known or (row and all(cell == name for name, cell in row.items())))
    ]


def _is_typed(cells: Sequence[str]) -> bool:
    told = [cell for cell in cells if cell not in NULL_SPELLINGS]
    fits = sum(1 for cell in told if _is_value(cell))
    return fits >= 3 and fits >= _SHARE * len(told)


def _is_value(cell: str) -> bool:
    return len(cell) <= _TYPED_MAX and _TYPED.fullmatch(cell) is not None


def _is_odd(row: Cells, typed: Sequence[str]) -> bool:
    told = [row.get(name, "") for name in typed]
    told = [cell for cell in told if cell not in NULL_SPELLINGS]
    if not told or any(_is_value(cell) for cell in told):
        return False
    return len(told) == 1 or len(set(told)) == len(told)  # a word for "missing" comes again


def _totals(rows: Sequence[Cells], columns: Sequence[str]) -> tuple[int, ...]:
    """The last rows, where their first text alone of all in its column speaks of a total."""
    found = []
    for index in range(len(rows) - _LAST, len(rows)):
        name, text = first_word(rows[index], columns)
        others = {row.get(name, "") for place, row in enumerate(rows) if place != index}
        if _TOTAL.fullmatch(text) and text not in others and len(others) > 3:
            found.append(index)
    return tuple(found)


def _totals_again(rows: Sequence[Cells], columns: Sequence[str]) -> frozenset[int]:
    """Rows that sum up the few above them, after each month or each region.

    Their first text speaks of a total where nearly all others have a number or a time, or they are
    empty where nearly all others say what they are of. Where ``Total`` is but one of the names of a
    column it is that.
    """
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        name, text = first_word(row, columns)
        if _TOTAL.fullmatch(text):
            found.setdefault(name, []).append(index)
    told: set[int] = set()
    for name, totals in found.items():
        others = [row for index, row in enumerate(rows) if index not in totals]
        if len(totals) < 2 or len(others) < len(totals):
            continue
        bare = any(
            all(not rows[index].get(column) for index in totals)
            and sum(1 for row in others if row.get(column)) >= _SHARE * len(others)
            for column in columns
            if column != name
        )
        if bare or _is_typed([row.get(name, "") for row in others]):
            told.update(totals)
    return frozenset(told)


def first_word(row: Cells, columns: Sequence[str]) -> tuple[str, str]:
    """The first cell of a row that holds something, with the name of its column."""
    return next(((name, row[name]) for name in columns if row.get(name)), ("", ""))


def skip_rows_for(rows: Sequence[Cells], odd: Sequence[int]) -> list[str]:
    """``skip_rows`` that leave out just these rows of a table; empty if none can."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    found: list[str] = []
    for index in odd:
        text = first_word(rows[index], columns)[1]
        if len(text) > _SHOWN:
            text = (text[: text.rfind(" ", 0, _SHOWN) + 1].strip() or text[:_SHOWN]) + "*"
        if not text.strip("*"):
            return []
        if text in found:
            continue
        for place, row in enumerate(rows):
            other = first_word(row, columns)[1]
            hit = other.startswith(text[:-1]) if text.endswith("*") else other == text
            if hit and place not in odd:
                return []
        found.append(text)
    return found


def shown(row: Cells) -> str:
    """How a row begins, for a note."""
    cells = [cell for cell in row.values() if cell]
    text = ", ".join(cells[:4])
    return repr(text if len(text) <= _SHOWN * 2 else f"{text[: _SHOWN * 2]}…")


def is_stamp(name: str, distinct: int, rows: int) -> bool:
    """Whether a column says of each row alike when all were written: of the file, not of a row."""
    return rows > 3 and distinct == 1 and _STAMP.fullmatch(name) is not None


def nearly_numbers(texts: Sequence[str], is_number: Sequence[bool]) -> list[str]:
    """The few texts among numbers; empty where there are none, or too many to be an exception."""
    others = [text for text, plain in zip(texts, is_number, strict=True) if not plain]
    if len(texts) < 8 or not others or len(others) > min(8, len(texts) * (1 - _SHARE)):
        return []
    return others
