"""Records as a table for a person: which columns fit, and what is said of those that do not. Pure.

A profile may have seventy measures; a terminal has a hundred columns. What identifies a record
stays, then come dimensions and measures in turn for as long as there is room; what is left out is
named, never squeezed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holdfast.kernel.errors import Invalid, Problem
from holdfast.records.model import Notice, PeriodValue, Record, Scalar

CELL_CHARACTERS_MAX = 32
GAP = 2
NAMED_MAX = 6
"""How many of the columns that were left out are named."""
WITHHELD_HINT = (
    "`skip_rows` leaves out what is no record, `nulls` of a field of the key says what stands for "
    "no value there, and the next run that can read every key withdraws what is gone"
)
"""What to do about rejected rows of which nobody can tell which records they are."""

Cell = Callable[[Record], str]


@dataclass(frozen=True, slots=True)
class ListColumn:
    """One column: what heads it, the name that asks for it, and a record's cell."""

    heading: str
    name: str
    cell: Cell
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What to print, and the headings of what was left out."""

    columns: list[ListColumn]
    rows: list[list[str]]
    left_out: list[str]
    shortened: bool = False

    def remark(self, width: int) -> str:
        """What to tell about what is not there; nothing if all is."""
        said: list[str] = []
        if self.left_out:
            named = ", ".join(self.left_out[:NAMED_MAX])
            more = len(self.left_out) - NAMED_MAX
            tail = f" and {more} more" if more > 0 else ""
            said.append(
                f"left out to fit {width} characters: {named}{tail}; "
                f"--columns {','.join(self.left_out[:2])} shows these, --columns all or --json all"
            )
        if self.shortened:
            said.append("… marks a shortened value; --columns or --json shows it whole")
        return "\n".join(said)


def period_text(period: PeriodValue | None) -> str:
    """A period as people write it, whatever the source's spelling: ``2025``, ``2025-Q3``, …

    One that does not begin with the calendar's (a fiscal year) is its first day and its frequency.
    Instants and hours are UTC times without empty fractions.
    """
    if period is None:
        return ""
    start = period.start
    if "T" in start:
        return (
            start.removesuffix("Z").rstrip("0").removesuffix(".") + "Z" if "." in start else start
        )
    month, first = int(start[5:7]), start.endswith("-01")
    match period.frequency:
        case "D":
            return start
        case "A" if first and month == 1:
            return start[:4]
        case "S" if first and month in (1, 7):
            return f"{start[:4]}-H{(month + 5) // 6}"
        case "Q" if first and month % 3 == 1:
            return f"{start[:4]}-Q{(month + 2) // 3}"
        case "M" if first:
            return start[:7]
        case other:
            return f"{start} {other}"


def notice_text(notice: Notice) -> str:
    """What a notice is about, in words: what drifted, why a run failed, how late a source is."""
    data = notice.data
    match notice.type:
        case "source.drifted":
            return "; ".join(f"{one['field']} {one['detail']}" for one in data.get("drift", []))
        case "source.shrunk":
            return f"{data.get('records')} records, usually {data.get('usual')}"
        case "run.withheld":
            return (
                f"nothing is withdrawn: records that did not come: {data.get('withheld')}; "
                "rejected rows of which nobody can tell which records they are: "
                f"{data.get('unkeyed')}"
            )
        case "source.stale":
            last = data.get("succeeded_at") or "never"
            return f"due every {data.get('freshness')}, last good run {last[:19]}"
        case "run.failed" | "run.partial":
            return ": ".join(filter(None, (data.get("code"), data.get("reason"))))
        case _:
            return ""


def measure_text(record: Record, name: str) -> str:
    """A measure's value with its unit, in words."""
    measure = record.measures.get(name)
    if measure is None or measure.value is None:
        return ""
    return f"{measure.value} {unit_words(measure.unit, measure.multiplier)}".rstrip()


_COUNTS = {"1": "", "100": "hundred", "1000": "thousand", "1000000": "million"} | {
    "1000000000": "billion"
}


def unit_words(unit: str, multiplier: str = "1") -> str:
    """A UCUM unit and its multiplier as people say it: ``{persons}`` by 1000, ``thousand persons``.

    A number without a unit (``1``) has no word.
    """
    said = "" if unit == "1" else re.sub(r"\{([^{}]*)\}", r"\1", unit)
    return f"{_COUNTS.get(multiplier, f'× {multiplier}')} {said}".strip()


def listing(records: Sequence[Record], *, wanted: str = "", width: int = 100) -> Listing:
    """The table of ``records`` within ``width``, or with the columns that ``wanted`` names.

    ``wanted`` is a list with commas, or ``all``; what it names is shown whole, however wide that
    is. :class:`Invalid` for a name that no column has.
    """
    identity, dimensions, measures, attributes = _columns(records)
    if wanted == "all":
        return _whole(records, [*identity, *dimensions, *measures, *attributes])
    if wanted:
        return _whole(records, _named([*identity, *dimensions, *measures, *attributes], wanted))
    gone = any(record.withdrawn for record in records)
    shown = [c for c in identity if c.name not in ("run", "state") or (gone and c.name == "state")]
    in_turn = _in_turn(_telling(dimensions, records), _telling(measures, records))
    room = width - sum(_width(column, records) + GAP for column in shown) + GAP
    fitting: set[str] = set()
    for column in in_turn:
        needed = _width(column, records) + GAP
        if needed <= room:
            fitting.add(column.name)
            room -= needed
    columns = [
        *(c for c in shown if c.name in ("record", "period")),
        *(c for c in (*dimensions, *measures) if c.name in fitting),
        *(c for c in shown if c.name not in ("record", "period")),
    ]
    rows = [[_short(column.cell(record)) for column in columns] for record in records]
    return Listing(
        columns,
        rows,
        [c.heading for c in (*dimensions, *measures) if c.name not in fitting],
        shortened=any(cell.endswith("…") for row in rows for cell in row),
    )


def _columns(
    records: Sequence[Record],
) -> tuple[list[ListColumn], list[ListColumn], list[ListColumn], list[ListColumn]]:
    identity = [
        ListColumn("record", "record", lambda record: record.id),
        ListColumn("period", "period", lambda record: period_text(record.period)),
        ListColumn("revision", "revision", lambda record: str(record.revision), numeric=True),
        ListColumn("state", "state", lambda record: "withdrawn" if record.withdrawn else ""),
        ListColumn("run", "run", lambda record: record.run),
    ]
    dimensions = [_dimension(name) for name in _names(r.dimensions for r in records)]
    measures = [_measure(name) for name in _names(r.measures for r in records)]
    attributes = [_attribute(name) for name in _names(r.attributes for r in records)]
    return identity, dimensions, measures, attributes


def _dimension(name: str) -> ListColumn:
    return ListColumn(name, f"dimensions.{name}", lambda r: _scalar(r.dimensions.get(name)))


def _measure(name: str) -> ListColumn:
    return ListColumn(name, f"measures.{name}", lambda r: measure_text(r, name), numeric=True)


def _attribute(name: str) -> ListColumn:
    return ListColumn(name, f"attributes.{name}", lambda r: _scalar(r.attributes.get(name)))


def _names(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _telling(columns: list[ListColumn], records: Sequence[Record]) -> list[ListColumn]:
    return [column for column in columns if any(column.cell(record) for record in records)]


def _in_turn(dimensions: list[ListColumn], measures: list[ListColumn]) -> list[ListColumn]:
    """The first dimension and the first measure, then the rest: neither crowds the other out."""
    return [*dimensions[:1], *measures[:1], *dimensions[1:], *measures[1:]]


def _named(columns: list[ListColumn], wanted: str) -> list[ListColumn]:
    found: list[ListColumn] = []
    problems: list[Problem] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        match [c for c in columns if name in (c.name, c.heading)]:
            case [first, *_]:
                found.append(first)
            case _:
                problems.append(Problem(path="--columns", message=f"no column {name[:60]}"))
    if problems or not found:
        raise Invalid(
            "cannot show these columns",
            problems=problems,
            hint=f"there are {', '.join(column.heading for column in columns)}",
        )
    return found


def _whole(records: Sequence[Record], columns: list[ListColumn]) -> Listing:
    return Listing(columns, [[c.cell(record) for c in columns] for record in records], [])


def _width(column: ListColumn, records: Sequence[Record]) -> int:
    cells = (len(_short(column.cell(record))) for record in records)
    return max(len(column.heading), *cells)


def _short(text: str) -> str:
    return text if len(text) <= CELL_CHARACTERS_MAX else f"{text[: CELL_CHARACTERS_MAX - 1]}…"


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
