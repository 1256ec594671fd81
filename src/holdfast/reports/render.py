"""A report in a terminal: a table, the numbers of a correlation, and a small cloud of dots.

Readable without colour and in a pipe; nothing is drawn that the report does not hold.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import TYPE_CHECKING

from holdfast.reports.chart import credit_lines, unit_of
from holdfast.reports.model import Column, Report, Statistics, function_of
from holdfast.reports.spec import Names

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character by row and column."""


def render_table(report: Report, *, limit: int = 40) -> Group:
    """The first rows of a report, and under them what to know of them."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = report.rows[:limit]
    left_out = report.row_count - len(shown)
    tail = [f"{left_out:,} more rows"] if left_out else []
    tail += [plain(f"Data: {line}") for line in credit_lines(report.inputs)]
    table = Table(
        title=Text(plain(report.title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in report.columns:
        table.add_column(
            Text(_heading(report, column)), justify="left" if column.type == "text" else "right"
        )
    decimals = [
        _decimals([row[i] for row in shown]) if _computed(report, column) else None
        for i, column in enumerate(report.columns)
    ]
    for row in shown:
        table.add_row(*(Text(_cell(v, places)) for v, places in zip(row, decimals, strict=True)))
    return Group(table, *(Text(line) for line in tail))


def render_correlation(report: Report) -> Group:
    """The coefficients of a correlation, what they were computed from, and what to beware of."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found = report.correlation
    assert found is not None, "the report is a correlation"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (
        ("", "left"),
        ("n", "right"),
        ("Pearson r", "right"),
        ("95% interval", "left"),
        ("p", "right"),
        ("Spearman ρ", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    sets = [("levels", found.levels)]
    if found.first_differences is not None:
        sets.append(("first differences", found.first_differences))
    sets += [(f"lag {lagged.lag:+d}", lagged.statistics) for lagged in found.lags]
    for name, statistics in sets:
        table.add_row(*(Text(cell) for cell in (name, *_statistics(statistics))))
    x, y = (column for column in report.columns if column.type != "text")
    lines = [
        Text(plain(report.title), style="bold"),
        Text(f"{_heading(report, x)}  ×  {_heading(report, y)}"),
    ]
    tail = [Text(plain(f"note: {note}")) for note in report.notes]
    tail += [Text(plain(f"Data: {line}")) for line in credit_lines(report.inputs)]
    return Group(*lines, table, *tail)


def render_cloud(report: Report, *, width: int = 60, height: int = 14) -> Text | None:
    """The pairs as dots, two by four to a character; nothing unless the report holds all rows."""
    from rich.text import Text

    if report.correlation is None or report.row_count != len(report.rows):
        return None
    pairs = [
        (float(row[-2]), float(row[-1]))
        for row in report.rows
        if row[-2] is not None and row[-1] is not None
    ]
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    if not pairs or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    grid = [[0] * width for _ in range(height)]
    for x, y in pairs:
        column = round((x - min(xs)) / (max(xs) - min(xs)) * (2 * width - 1))
        row = round((max(ys) - y) / (max(ys) - min(ys)) * (4 * height - 1))
        grid[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    labels = [f"{max(ys):.6g}", f"{min(ys):.6g}"]
    margin = max(map(len, labels))
    sides = [labels[0], *[""] * (height - 2), labels[1]]
    lines = [
        f"{side.rjust(margin)} │{''.join(chr(0x2800 + bits) for bits in bits_of_row)}"
        for side, bits_of_row in zip(sides, grid, strict=True)
    ]
    low, high = f"{min(xs):.6g}", f"{max(xs):.6g}"
    lines.append(f"{' ' * margin} └{'─' * width}")
    lines.append(f"{' ' * margin}  {low}{high.rjust(width - len(low))}")
    return Text("\n".join(lines))


def _heading(report: Report, column: Column) -> str:
    labels = report.spec.chart.labels
    name = column.label or labels.get(column.name) or column.name
    unit = unit_of(column)
    return plain(f"{name} ({unit})" if unit else name)


def plain(text: str) -> str:
    """``text`` without characters that a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _statistics(found: Statistics) -> list[str]:
    if found.pearson_r is None:
        return [f"{found.n:,}", "–", found.reason, "–", "–"]
    interval = (
        f"{_fixed(found.interval_low)} to {_fixed(found.interval_high)}"
        if found.interval_low is not None
        else "–"
    )
    return [
        f"{found.n:,}",
        _fixed(found.pearson_r),
        interval,
        _p(found.pearson_p),
        _fixed(found.spearman_rho),
    ]


def _fixed(text: str | None) -> str:
    if text is None:
        return "–"
    value = float(text) + 0.0  # of the two zeros the one without a sign
    return f"{value:.2g}" if value and abs(value) < 5e-7 else f"{value:.6f}"


def _p(text: str | None) -> str:
    if text is None:
        return "–"
    value = float(text)
    return "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def _computed(report: Report, column: Column) -> bool:
    """Whether a column has digits that nobody wrote: doubles, and what came out of a division."""
    if column.type == "double":
        return True
    name, _, measure = Names(report.spec).resolve(column.name).rpartition(".")
    source = report.spec.inputs.get(name)
    if source is None or source.aggregate is None or measure not in source.measures:
        return False
    return function_of(source.aggregate, measure) == "mean"


def _decimals(values: list[str | None]) -> int | None:
    """How many decimal places a column of such numbers is given: seven digits of its largest
    number, or all that its numbers have, if those are few.

    A double's shortest spelling may have seventeen digits, and a quotient more; people compare the
    first few. Everything else is shown as it is. A number too small for these places has its own
    (``_cell``).
    """
    told = [value for value in values if value is not None]
    numbers = [Decimal(value) for value in told]
    largest = max(map(abs, numbers), default=Decimal(0))
    if numbers and not largest:
        return 1
    if not Decimal("1e-4") <= largest < Decimal("1e15"):
        return None
    places = max(0, _DIGITS - largest.adjusted())
    if not any("e" in value or len(value.strip("-0.")) > _SHORT for value in told):
        places = max(places, *(len(value.partition(".")[2]) for value in told))
    while places and all(f"{number:.{places}f}".endswith("0") for number in numbers):
        places -= 1
    return places


_DIGITS = 6
"""So many digits of a number are always shown, whatever the others of its column are like."""
_SHORT = 12
"""Of that many characters a number that somebody has rounded may be."""


def _cell(value: str | None, places: int | None) -> str:
    if value is None:
        return "–"
    if places is None:
        return plain(value)
    number = Decimal(value)
    if not number:
        number = Decimal(0)  # of the two zeros the one without a sign
    own, aligned = _short(number), f"{number:.{places}f}"
    enough = len(aligned.strip("-").replace(".", "").lstrip("0")) >= _DIGITS
    return aligned if enough or _short(Decimal(aligned)) == own else own


def _short(number: Decimal) -> str:
    return f"{float(Context(prec=_DIGITS).plus(number)):.{_DIGITS}g}"
