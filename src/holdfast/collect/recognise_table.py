"""How a table of text is written: what parts its cells, and where its header is. A guess."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats.around import first_text
from holdfast.collect.formats.names import JOINT, joined_names
from holdfast.collect.infer import NULL_SPELLINGS
from holdfast.collect.recognised import Plain, Recognised

_LINES = 400
_NUMBER = re.compile(
    r"[-+(\u2212\uff0d]?[\d.,'\u2019 \u00a0\u202f]*\d[\d.,'\u2019 \u00a0\u202f]*[)%]?"
    r"(?:[eE][-+]?\d+)?"
)


def _is_number(cell: str) -> bool:
    """Nothing long is one, and to look at it would take as long as the square of it."""
    return len(cell) <= 64 and _NUMBER.fullmatch(cell) is not None


_TOLD = re.compile(r'"?sep=(.)"?\s*', re.I)


def table_of(text: str) -> Recognised:
    lines = text.splitlines(keepends=True)[:_LINES]
    comment = next((mark for mark in ("#", "%", "!", "//") if lines[0].startswith(mark)), "")
    body = [line for line in lines if not (comment and line.startswith(comment))]
    if not any(line.strip() for line in body):
        raise ParseFailed("cannot write a profile: there are no lines but comments")
    told = _TOLD.fullmatch(body[0])
    if told:  # a line for spreadsheet programs, which says what stands between cells
        body = body[1:]
    delimiter, rows = _split(body)
    if not any(rows):
        raise ParseFailed(
            "cannot write a profile: as a table it cannot be read",
            hint=f"a cell is over {csv.field_size_limit():,} characters, or a quotation mark is "
            "never closed; --format says what it is",
        )
    widths = Counter(len(row) for row in rows if row)
    width = widths.most_common(1)[0][0]
    if delimiter == " " and len(widths) > 1 and (placed := _at_places(body)):
        if comment:
            placed.form["comment"] = comment
        return placed
    form: Plain = {"type": "csv"}
    if told:
        form["skip_lines"] = 1
    if delimiter != ",":
        form["delimiter"] = delimiter
    if comment:
        form["comment"] = comment
    found = Recognised(form)
    index = next((i for i, row in enumerate(rows) if _is_header(row, width)), None)
    first = next(i for i, row in enumerate(rows) if row)
    for upper, lower in pairwise(range(len(rows) if index is None else index + 2)):
        if lower + 1 < len(rows) and is_double(rows[upper], rows[lower], rows[lower + 1]):
            index = upper
            form["header_rows"] = 2
            found.notes.append(DOUBLE)
            break
    if index is None:
        form["header"] = [f"c{i}" for i in range(1, width + 1)]
        found.notes.append("There is no header: give the columns their names.")
        return found
    if index > first:
        form["header_starts"] = first_text(rows[index])
        found.notes.append(f"{index - first} lines before the header are skipped.")
    following = rows[index + 1] if index + 1 < len(rows) else []
    if following and following[0].startswith("#"):
        form["skip_rows"] = ["#*"]
        found.notes.append("The row of tags under the header is skipped.")
    return found


def _at_places(lines: list[str]) -> Recognised | None:
    """A table whose columns are kept apart by places that are blank in each line."""
    told = [line.rstrip() for line in lines if line.strip()]
    if len(told) < 5 or any("\t" in line for line in told):
        return None
    longest = max(map(len, told))
    inked = bytearray(longest + 1)
    for line in told:  # each letter once: one long line among many short ones takes no longer
        for word in re.finditer(r"\S+", line):
            inked[word.start() : word.end()] = b"\1" * len(word[0])
    begins = [at for at in range(longest) if inked[at] and not (at and inked[at - 1])]
    ends = [at for at in range(longest) if inked[at] and not inked[at + 1]]
    apart = list(zip(begins, ends, strict=True))
    # Where the header has no name, a gap is one between words.
    spans: list[tuple[int, int]] = []
    for first, last in apart:
        named = told[0][first : last + 1].strip()
        spans[-1:] = [(spans[-1][0], last)] if spans and not named else [*spans[-1:], (first, last)]
    names = [told[0][first : last + 1].strip() for first, last in spans]
    numbers = any(map(_is_number, names))
    if numbers or not _is_header(names, len(spans)) or len(set(names)) != len(names):
        spans, names = apart, []
    if len(spans) < 2:
        return None
    columns = names or [f"c{number}" for number in range(1, len(spans) + 1)]
    # Further down may stand a longer name: up to a blank before the next column all is its place.
    # A longer number has none: it runs into that blank, and is a reject.
    following = [*(first for first, _ in spans[1:]), 0]
    places = {
        name: f"{first + 1}-" if last == ends[-1] else f"{first + 1}-{max(last + 1, then - 1)}"
        for name, (first, last), then in zip(columns, spans, following, strict=True)
    }
    found = Recognised({"type": "csv", "places": places})
    if names:
        found.form["header_starts"] = names[0]
    if any(len(line) <= spans[-1][0] for line in told):
        found.form["ragged"] = "pad"
    found.notes.append(
        "Columns at fixed places, found by what is blank in each line looked at: check `places` "
        "against the source's own description."
    )
    return found


DOUBLE = f"Two rows name the columns (`header_rows`): of both a name is joined by {JOINT!r}."
_YEAR = re.compile(r"[12]\d{3}")


def is_double(
    upper: Sequence[str | None], lower: Sequence[str | None], following: Sequence[str | None]
) -> bool:
    """Whether two rows are one header: the lower one repeats its names, the upper one tells them
    apart, and what follows under them are numbers."""
    if len(following) < 3 or not len(upper) <= len(following) >= len(lower):
        return False
    below = [text for cell in lower if (text := (cell or "").strip())]
    names = [name for name in joined_names([upper, lower]) if name]
    if len(set(below)) == len(below) or len(set(names)) != len(names):
        return False
    if any(_is_number(text) and not _YEAR.fullmatch(text) for text in below):
        return False
    joined = joined_names([upper, lower])
    cells = [cell for name, cell in zip(joined, following, strict=False) if JOINT in name]
    numbers = [c for c in cells if c and (_is_number(c.strip()) or c in NULL_SPELLINGS)]
    return len(cells) > 3 and 2 * len(numbers) >= len(cells)


_LIKELIER = {"\t": 1.02, ";": 1.01, "|": 1.01, " ": 0.9}
"""Of two delimiters that both cut all lines alike: commas and blanks stand in texts and numbers."""


def _split(lines: list[str]) -> tuple[str, list[list[str]]]:
    """The delimiter that cuts most lines into equally many cells, and the cells."""
    best: tuple[float, str, list[list[str]]] = (-1.0, ",", [])
    for delimiter in (",", ";", "\t", "|", " "):
        text = [line.rstrip(" \r\n") + "\n" for line in lines] if delimiter == " " else lines
        try:
            rows = list(
                csv.reader(
                    io.StringIO("".join(text), newline=""),
                    delimiter=delimiter,
                    skipinitialspace=delimiter == " ",
                )
            )
        except csv.Error:
            continue
        widths = Counter(len(row) for row in rows if row)
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        score = (count / max(1, sum(widths.values()))) * (1 if width > 1 else 0.01)
        score *= _LIKELIER.get(delimiter, 1.0)
        if score > best[0] + 1e-9:
            best = (score, delimiter, rows)
    return best[1], best[2]


def _is_header(row: list[str], width: int) -> bool:
    """Names in nearly every cell, no numbers but years, none twice."""
    if len(row) != width:
        return False
    cells = [cell.strip() for cell in row]
    # A column without a name to the right of each year has that year's flags.
    flags = sum(1 for year, flag in pairwise(cells) if _YEAR.fullmatch(year) and not flag)
    named = [c for c in cells if c and (not _is_number(c) or re.fullmatch(r"[12]\d{3}", c))]
    texts = [c for c in named if not re.fullmatch(r"[12]\d{3}", c)]
    if width == 1:
        return bool(texts)
    missing = {c for c in cells if c in NULL_SPELLINGS and c}
    return len(named) + flags >= max(1, width - 1) and bool(texts) and not missing
