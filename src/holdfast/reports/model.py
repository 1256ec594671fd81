"""What a report asks for, and what it answers. Pure types and rules, no I/O.

**Spec.** Named inputs (a profile each), how they meet (join), what is computed from them (derived
columns) and what comes out: a table or a correlation. The published JSON Schema is generated from
these structs.

**Report.** The answer, together with the exact publications and digests it was computed from. The
same spec over the same inputs is the same report.

Numbers in answers are text: an exact decimal (as the source spelt it, a sum or a mean), or the
shortest spelling that gives the same double back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$(?!\n)",
        description="1-64 of a-z 0-9 . _ - that begin and end with a letter or digit",
    ),
]
ColumnName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$(?!\n)", description="lower-case words joined by _")
]
Reference = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]{0,62}(\.[a-z][a-z0-9_]{0,62})?$(?!\n)",
        description="a column, or input.column where the name alone could mean two",
    ),
]
KeyReference = Annotated[
    str,
    Meta(
        pattern=r"^((dimensions|attributes)\.)?[a-z][a-z0-9_]{0,62}$(?!\n)",
        description=(
            "year, quarter, month or day (of the record's period), a dimension, or attributes.NAME"
        ),
    ),
]
Expression = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        description="arithmetic over columns: + - * / ( ) and the documented functions",
    ),
]
Text = Annotated[str, Meta(max_length=500)]
PartialTime = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}(-[0-9]{2}(-[0-9]{2}(T[0-9:.]+Z)?)?)?$(?!\n)",
        description="2012, 2012-07, 2012-07-31 or 2012-07-31T12:00:00Z",
    ),
]
Year = Annotated[int, Meta(ge=1000, le=9999)]
Moment = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2})$(?!\n)",
        description="an RFC 3339 time with its offset",
    ),
]
Function = Literal["mean", "sum", "min", "max", "count", "first", "last"]
Frequency = Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
Scalar = str | int | bool | None

BUCKETS = ("year", "quarter", "month", "day")
PERIOD = "period"
"""The column of records that are neither joined nor aggregated which says when they are of."""
ROWS_MAX = 2_000_000
TABLE_ROWS_MAX = 100_000
PREVIEW_ROWS = 200
ROWS_MIN = 3
LAGS_MAX = 24
COMPUTATION = 6
"""The version of the arithmetic and of its evidence: part of what makes two reports the same. It
changes when the same spec over the same inputs may give other cells, or another outputs root."""
NAMED_MAX = 200_000
"""Beyond so many records of an input the evidence counts them and does not say which they were."""


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every part of a spec is immutable and refuses members it does not know."""


# --- the spec -----------------------------------------------------------------------------------


class PeriodFilter(_Part, frozen=True, kw_only=True):
    """Records whose period begins in ``from`` ≤ start < ``until`` and has this frequency."""

    start: PartialTime | Year | None = field(default=None, name="from")
    until: PartialTime | Year | None = None
    frequency: Frequency | None = None


class Aggregate(_Part, frozen=True, kw_only=True):
    """One row for each value of ``by``.

    ``function`` is one for all measures or one by measure. A group with fewer than ``min_count``
    values of a measure has no value for it; a group without any value is left out. ``first`` and
    ``last`` go by the period's start.
    """

    by: Annotated[list[KeyReference], Meta(min_length=1, max_length=8)]
    function: Function | dict[ColumnName, Function] = "mean"
    min_count: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Input(_Part, frozen=True, kw_only=True):
    """The records of one profile, as they are or aggregated.

    ``where`` maps a dimension (or ``attributes.NAME``) to the value or values it must have,
    ``units`` a measure to the unit that its values must be in, as columns tell it: ``1000 EUR``.
    ``as_of`` reads what was known then; ``vintage: first`` reads what was published first.
    ``timezone`` is where days, months and years of hours and instants begin.
    """

    profile: Name
    measures: Annotated[list[ColumnName], Meta(max_length=64)] = []
    dimensions: Annotated[list[ColumnName], Meta(max_length=64)] = []
    attributes: Annotated[list[ColumnName], Meta(max_length=64)] = []
    where: dict[KeyReference, Scalar | list[Scalar]] = {}
    units: dict[ColumnName, Text] = {}
    period: PeriodFilter | None = None
    aggregate: Aggregate | None = None
    as_of: Moment | None = None
    vintage: Literal["latest", "first"] = "latest"
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class JoinKey(_Part, frozen=True, kw_only=True):
    """A key that is called differently on each side: input → its dimension or time bucket."""

    name: ColumnName
    of: dict[ColumnName, KeyReference]


class Join(_Part, frozen=True, kw_only=True):
    """Rows with equal keys meet (inner join); on each side a key names at most one row."""

    keys: Annotated[list[KeyReference | JoinKey], Meta(min_length=1, max_length=8)] = field(
        name="on"
    )


class Derived(_Part, frozen=True, kw_only=True):
    """A column computed from others, row by row, each value times its multiplier."""

    expression: Expression
    unit: Text = ""
    label: Text = ""


class TableOutput(_Part, frozen=True, kw_only=True, tag="table", tag_field="type"):
    """Rows and columns. ``order`` lists columns, ``-column`` for descending."""

    columns: Annotated[list[Reference], Meta(max_length=64)] = []
    order: Annotated[
        list[Annotated[str, Meta(pattern=r"^-?[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$(?!\n)")]],
        Meta(max_length=8),
    ] = []
    limit: Annotated[int, Meta(ge=1, le=TABLE_ROWS_MAX)] | None = None


class CorrelationOutput(_Part, frozen=True, kw_only=True, tag="correlation", tag_field="type"):
    """How two columns go together.

    ``first_differences`` correlates the changes between consecutive rows as well; ``lags`` pairs
    each x with the y of so many rows later (earlier, when negative). Both need the rows to have
    one order: exactly one time bucket as key.
    """

    x: Reference
    y: Reference
    first_differences: bool = False
    lags: Annotated[list[Annotated[int, Meta(ge=-120, le=120)]], Meta(max_length=LAGS_MAX)] = []


Output = TableOutput | CorrelationOutput


class Chart(_Part, frozen=True, kw_only=True):
    """How to draw it; ``auto`` takes a scatter for a correlation and, for a table, lines over time
    or bars. ``series`` draws two measures over time."""

    kind: Literal["auto", "scatter", "series", "line", "bar", "none"] = "auto"
    title: Text = ""
    subtitle: Text = ""
    labels: dict[Reference, Text] = {}
    """Axis titles by column; the unit is added."""


class ReportSpec(_Part, frozen=True, kw_only=True):
    """What a report asks for (version 1)."""

    version: Literal[1]
    name: Name
    title: Text = ""
    description: Annotated[str, Meta(max_length=4096)] = ""
    inputs: Annotated[dict[ColumnName, Input], Meta(min_length=1, max_length=8)]
    join: Join | None = None
    derive: Annotated[dict[ColumnName, Derived | Expression], Meta(max_length=64)] = {}
    output: Output
    chart: Chart = field(default_factory=Chart)


# --- the report ---------------------------------------------------------------------------------


class Credit(Struct, frozen=True, kw_only=True):
    """What a profile asks to be said wherever its data is shown."""

    title: str = ""
    publisher: str = ""
    licence: str = ""
    licence_url: str = ""
    attribution: str = ""


class InputUsed(Struct, frozen=True, kw_only=True):
    """One input exactly as it was read: ``digest`` is that of the projection's bytes.

    ``rows`` were in the projection, ``rows_used`` passed the filter, ``groups`` came out of the
    aggregation (or are ``rows_used`` without one).
    """

    name: str
    profile: str
    publication: int
    digest: str
    as_of: str | None = None
    vintage: str = "latest"
    rows: int = 0
    rows_used: int = 0
    groups: int = 0
    credit: Credit = field(default_factory=Credit)


class Column(Struct, frozen=True, kw_only=True):
    """One column of the answer. ``decimal`` values are exact."""

    name: str
    type: Literal["text", "integer", "decimal", "double"]
    unit: str = ""
    label: str = ""
    bucket: Literal["", "year", "quarter", "month", "day"] = ""
    """Which time bucket it is, for a key that is one."""


class Statistics(Struct, frozen=True, kw_only=True):
    """Coefficients of one set of pairs, as text; null with a ``reason`` where undefined."""

    n: int
    pearson_r: str | None = None
    pearson_p: str | None = None
    interval_low: str | None = None
    interval_high: str | None = None
    spearman_rho: str | None = None
    spearman_p: str | None = None
    reason: str = ""


class Lagged(Struct, frozen=True, kw_only=True):
    """The coefficients with y taken ``lag`` rows later."""

    lag: int
    statistics: Statistics


class Correlation(Struct, frozen=True, kw_only=True):
    """How x and y go together over the joined rows."""

    x: str
    y: str
    levels: Statistics
    slope: str | None = None
    intercept: str | None = None
    first_differences: Statistics | None = None
    lags: list[Lagged] = []
    dropped: int = 0
    """Joined rows without x or without y."""
    methods: dict[str, str] = {}


class Report(Struct, frozen=True, kw_only=True):
    """A computed report. ``rows`` is the beginning of the data; all of it is at ``/data``."""

    id: str
    name: str
    title: str
    kind: Literal["table", "correlation"]
    status: Literal["computed"] = "computed"
    spec: ReportSpec
    spec_digest: str
    inputs: list[InputUsed]
    inputs_root: str
    outputs_root: str
    data_digest: str
    data_size_bytes: int
    columns: list[Column]
    row_count: int
    rows: list[list[str | None]]
    correlation: Correlation | None = None
    notes: list[str] = []
    chart: Literal["scatter", "series", "line", "bar", "none"] = "none"
    computation: int = COMPUTATION
    created_at: str
    created_by: str
    unchanged: bool = False
    """This answer was there already: same spec, same inputs."""


class ReportSummary(Struct, frozen=True, kw_only=True):
    """A report as the list shows it."""

    id: str
    name: str
    title: str
    kind: Literal["table", "correlation"]
    status: Literal["computed"] = "computed"
    row_count: int
    headline: str
    profiles: list[str]
    created_at: str
    created_by: str
    chart: Literal["scatter", "series", "line", "bar", "none"] = "none"
    """What it is drawn as; ``none`` where a picture would show nothing."""


def headline(report: Report) -> str:
    """One line that says what came out."""
    if report.correlation is None:
        return f"{report.row_count} rows, {len(report.columns)} columns"
    levels = report.correlation.levels
    if levels.pearson_r is None:
        return f"n={levels.n}, no coefficient: {levels.reason}"
    return f"r={float(levels.pearson_r):.3f}, n={levels.n}"


def derived(value: Derived | str) -> Derived:
    """A derived column in its long form: a bare text is an expression."""
    return Derived(expression=value) if isinstance(value, str) else value


def join_key(value: JoinKey | str, inputs: list[str]) -> JoinKey:
    """A join key in its long form: a bare text is called the same on every side."""
    if isinstance(value, JoinKey):
        return value
    return JoinKey(name=key_name(value), of=dict.fromkeys(inputs, value))


def key_name(reference: str) -> str:
    """The column name that a key reference gets: its last part."""
    return reference.rpartition(".")[2]


def function_of(aggregate: Aggregate, measure: str) -> str:
    """The function that applies to ``measure``."""
    if isinstance(aggregate.function, str):
        return aggregate.function
    return aggregate.function.get(measure, "mean")
