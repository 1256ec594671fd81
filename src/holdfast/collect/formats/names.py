"""The names of a table's columns, and whether those that a profile reads are there. Pure."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from holdfast.collect.errors import ParseFailed
from holdfast.collect.model import RawRow, ReadContext
from holdfast.collect.values import printable

JOINT = " | "
"""What stands between the names of several header rows."""


def joined_names(rows: Sequence[Sequence[str | None]]) -> list[str]:
    """The names under a header of one row or of several: ``2019`` over ``Male`` is ``2019 | Male``.

    An empty cell of an upper row has what stands to its left there, but not across the edge of a
    cell in a row above it. A column without a cell of its own has no name.
    """
    width = max(map(len, rows), default=0)
    texts = [[*((cell or "").strip() for cell in row), *[""] * (width - len(row))] for row in rows]
    held = [""] * len(rows)
    names = []
    for own in zip(*texts, strict=True):
        for level, text in enumerate(own):
            if text and text != held[level]:
                held[level:] = [text, *[""] * (len(own) - level - 1)]
        deepest = max((level for level, text in enumerate(own) if text), default=-1)
        names.append(JOINT.join(filter(None, held[: deepest + 1])))
        held[-1] = ""
    return names


def table_names(header: Sequence[str], context: ReadContext) -> list[str]:
    """The names of the columns under ``header``, all that the profile reads among them.

    Raises :class:`ParseFailed` for a column that is not there, also where no row follows, and for
    a name that several columns have: ``Value`` may be any of them, ``Value_1`` and ``Value_2`` are
    one each. Who reads ``Value_2`` knows, so ``Value`` is the first to such a profile.
    """
    names = unique_names(header)
    there = frozenset(names)
    for name, times in Counter(header).items():
        numbered = [f"{name}_{number}" for number in range(1, times + 1)]
        if times == 1 or not name or numbered[0] in there:
            continue
        if context.numbered or numbered[0] in context.columns:
            names[header.index(name)] = numbered[0]
        elif name in context.columns and not set(numbered) & set(context.columns):
            raise ParseFailed(
                f"cannot read the table: {times} columns are called {printable(name, 60)!r}",
                hint=f"from left to right they are {', '.join(numbered[:6])}",
            )
    check_columns(context.columns, names)
    return names


def check_columns(wanted: Iterable[str], there: Iterable[str]) -> None:
    """Raise :class:`ParseFailed` for the first column that is not there."""
    names = list(there)
    for column in wanted:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.6)
            listed = ", ".join(printable(name, 40) for name in names[:12])
            raise ParseFailed(
                f"cannot read the table: there is no column {column!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"there are {listed}",
            )


def filled_down(
    rows: Iterator[RawRow], columns: Sequence[str], context: ReadContext
) -> Iterator[RawRow]:
    """The rows with what stands above in the place of empty cells of ``columns``, outer ones first.

    A row that can be no record neither fills nor is filled. On a page of several, one that needs
    what may stand on the page before is a reject: it is not known there, and nothing is not it.
    Raises :class:`ParseFailed` for a column that is not there.
    """
    held: list[Any] = [None] * len(columns)
    known = len(columns) if context.paged else 0  # the outermost column that has begun on the page
    for row in rows:
        if not isinstance(row.value, dict):
            yield row
            continue
        check_columns(columns, row.value)
        for level, column in enumerate(columns):
            cell = row.value[column]
            if cell == held[level]:
                continue
            if cell is not None and cell.strip():
                held[level:] = [cell, *[None] * (len(columns) - level - 1)]
                known = min(known, level)
            elif held[level] is not None:
                row.value[column] = held[level]
        if known:
            problem = f"has nothing above it in {columns[0]!r} on its page"
            yield RawRow(row.position, row.value, row.enclosing, problem, row.size)
        else:
            yield row


def unique_names(names: Sequence[str]) -> list[str]:
    """Repeated names get a number (``rate``, ``rate_2``), so that no column hides another."""
    taken: set[str] = set()
    found: list[str] = []
    literal = frozenset(names)
    numbers: dict[str, Iterator[int]] = {}
    for index, name in enumerate(names, 1):
        plain = name or f"c{index}"
        given = plain
        while given in taken or (given != name and given in literal):
            given = f"{plain}_{next(numbers.setdefault(plain, count(2)))}"
        taken.add(given)
        found.append(given)
    return found
