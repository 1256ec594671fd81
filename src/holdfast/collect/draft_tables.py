"""What the columns of a table say of its shape: one a period, or cells that are merged."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import inf

from holdfast.collect.draft_numbers import is_number
from holdfast.collect.draft_time import as_period
from holdfast.collect.formats.names import JOINT
from holdfast.collect.infer import infer
from holdfast.collect.model import RawRow
from holdfast.collect.recognised import Plain


@dataclass(frozen=True, slots=True)
class Wide:
    """The columns of a wide table, one a period (or one a period and group)."""

    columns: list[str]
    pattern: str
    period: Plain
    group: str = ""
    beside: str | int = 0
    flags: tuple[str, ...] = ()

    @property
    def used(self) -> list[str]:
        """All of them, with those that are their flags."""
        return [*self.columns, *self.flags]


_YEARS = "(?:1[5-9]|20|21)[0-9]{2}"
_MONTH_NAMES = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_PERIOD_COLUMNS = (
    _YEARS,
    rf"{_YEARS}[-/ ]?[MQSHW]?[0-9]{{1,2}}",
    rf"{_YEARS}-[0-9]{{2}}-[0-9]{{2}}",
    rf"Q[1-4][ /-]?{_YEARS}",
    rf"{_MONTH_NAMES}[ -]{_YEARS}",
    rf"{_MONTH_NAMES}[ -][0-9]{{2}}",
)


def wide_table(rows: list[RawRow]) -> Wide | None:
    """What is spread over the columns, where at least four are called after periods."""
    columns = list(rows[0].value) if isinstance(rows[0].value, dict) else []
    worldbank = [c for c in columns if re.fullmatch(rf"{_YEARS}\s*\[?YR[0-9]{{4}}\]?", c)]
    if len(worldbank) >= 4:
        coded = {"path": "#column", "frequency": "A", "codings": {"(?P<year>[0-9]{4}).*": "A"}}
        return Wide(worldbank, "[0-9]{4}.*", coded)
    for times in _PERIOD_COLUMNS:
        found = [column for column in columns if re.fullmatch(times, column)]
        if len(found) >= 4 and (period := _period_of("#column", found)):
            written = times.replace(_YEARS, "[0-9]{4}")
            return _with_flags(Wide(found, written, period), columns)
        for order in (("(?P<time>{})", "(?P<group>.+)"), ("(?P<group>.+)", "(?P<time>{})")):
            pattern = re.escape(JOINT).replace("\\ ", " ").join(order).format(times)
            matches = [match for c in columns if (match := re.fullmatch(pattern, c))]
            period = _period_of("#time", sorted({match["time"] for match in matches}))
            if len(matches) >= 4 and period:
                written = pattern.replace(_YEARS, "[0-9]{4}")
                return Wide([match[0] for match in matches], written, period, "#group")
    return None


def nearly_wide(rows: list[RawRow]) -> list[str]:
    """Columns that are called after years, and are too few to be sure of it."""
    columns = list(rows[0].value) if isinstance(rows[0].value, dict) else []
    found = [column for column in columns if re.fullmatch(_YEARS, column)]
    return found if len(found) > 1 else []


def _period_of(path: str, names: list[str]) -> Plain | None:
    """The period that columns are called after."""
    fields = infer([{"period": name} for name in names], tabular=True)
    guess = as_period(fields[0], names) if fields else None
    return {**guess, "path": path} if guess else None


def _with_flags(wide: Wide, columns: list[str]) -> Wide:
    """Where each column has one of its own to the right, that is its flag."""
    after = [columns[columns.index(c) + 1 : columns.index(c) + 2] for c in wide.columns]
    flags = tuple(name for names in after for name in names if name not in wide.columns)
    if len(flags) != len(wide.columns) or len(set(flags)) != len(flags):
        return wide
    spelled = {
        flag.replace(column, "{column}") for column, flag in zip(wide.columns, flags, strict=True)
    }
    alike = len(spelled) == 1 and "{column}" in next(iter(spelled))
    numbered = {re.sub(r"_?[0-9]+$", "", flag) for flag in flags}
    if not alike and len(numbered) != 1:
        return wide
    return replace(wide, beside=next(iter(spelled)) if alike else 1, flags=flags)


def merged_columns(rows: list[RawRow]) -> tuple[list[str], str]:
    """(the first columns of which what they say is written once for the rows below it, the next
    one that might be such a column, too, and need not).

    It is, where the column beside it begins anew under each of its cells and nowhere else. Where
    that goes on as if nothing was, the cells may as well be remarks on single rows.
    """
    columns = list(rows[0].value) if isinstance(rows[0].value, dict) else []
    found: list[str] = []
    begins = [0]
    for column, beside in pairwise(columns):
        cells = _texts(rows, column)
        given = [index for index, cell in enumerate(cells) if cell]
        names = [cells[index] for index in given]
        if not 2 <= len(given) <= 0.75 * len(rows) or not set(begins) <= set(given):
            break
        if any(is_number(name, "", ".") and not re.fullmatch(_YEARS, name) for name in names):
            break
        if not found and len(set(names)) != len(names):
            break
        if not _begins_anew(_texts(rows, beside), given):
            return found, column
        found.append(column)
        begins = given
    return found, ""


def _texts(rows: list[RawRow], column: str) -> list[str]:
    return [str(row.value.get(column) or "").strip() for row in rows]


def _begins_anew(cells: list[str], begins: list[int]) -> bool:
    """Whether what stands in a column begins again at each of the rows ``begins``, and only there:
    with what stood above already, or with what comes before it in order."""
    earlier: set[str] = set()
    last = ""
    for start, end in pairwise([*begins, len(cells)]):
        group = [cell for cell, _ in groupby(filter(None, cells[start:end]))]
        if len(set(group)) != len(group):
            return False
        if (
            earlier
            and group
            and group[0] not in earlier
            and not _in_order(group[0]) < _in_order(last)
        ):
            return False
        earlier.update(group)
        last = group[-1] if group else last
    return True


def _in_order(text: str) -> tuple[float, str]:
    """What sorts numbers as numbers, and before texts."""
    return (
        (float(text), "") if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", text) else (inf, text)
    )
