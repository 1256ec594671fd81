"""The computation of a report: bytes in, bytes out, run in a child process.

The child holds only the files of this job. It answers with the result or with the refusal, both as
data; what it cannot answer (killed for memory, out of time) the parent sees by its end.
"""

# ruff: noqa: S608 - SQL is made of our own templates; names are quoted, texts escaped.
from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import BY_KIND, HoldfastError, Kind, Problem
from holdfast.reports.errors import InputMismatch, ReportTooLarge, TooFewRows
from holdfast.reports.inputs import InputFile
from holdfast.reports.joining import Joined, join, settle
from holdfast.reports.locked import locked_database, one_of
from holdfast.reports.model import (
    PERIOD,
    PREVIEW_ROWS,
    ROWS_MAX,
    ROWS_MIN,
    TABLE_ROWS_MAX,
    Column,
    Correlation,
    CorrelationOutput,
    ReportSpec,
    TableOutput,
)
from holdfast.reports.side import Built, Counts
from holdfast.reports.spec import Names, time_key
from holdfast.reports.statistics import correlate, number

if TYPE_CHECKING:
    import duckdb
    import pyarrow


class ComputeJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to compute, over which files, within how much of the database's memory."""

    spec: ReportSpec
    files: dict[str, InputFile]
    memory_mb: int = 1024
    trace: int | None = None
    """The row whose leaf and records the result shall have (0 for a correlation)."""
    columns: list[str] = []
    """The columns that the report had, by the names it shows. A spec that names none has them in
    the order in which it was written, which what is kept of it does not have: members of an object
    have none there."""


class InputCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How an input's rows became groups."""

    rows: int
    rows_used: int
    groups: int


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of the outputs: its text, its path to their root, and the records behind it."""

    leaf: str
    path: list[str]
    records: dict[str, list[str]]
    """By input, each ``RECORD@REVISION``."""


class ComputeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. ``data`` is the Parquet file, ``rows`` its beginning as text."""

    inputs: dict[str, InputCounts]
    columns: list[Column]
    row_count: int
    rows: list[list[str | None]]
    correlation: Correlation | None
    notes: list[str]
    data: bytes
    data_digest: str
    outputs_root: str
    outputs_count: int = 0
    traced: Traced | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A failure on its way from the child to the parent."""

    kind: Kind
    code: str
    detail: str
    hint: str
    problems: list[Problem]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the two; ``result`` is encoded once more."""

    result: bytes | None = None
    refusal: Refusal | None = None


def answer(make: Any) -> bytes:
    """Run ``make`` and write down what it returned or how it refused."""
    try:
        result = make()
    except HoldfastError as error:
        return _encode(Answer(refusal=_refusal(error)))
    except MemoryError as error:
        return _encode(Answer(refusal=_refusal(_out_of_memory(error))))
    return _encode(Answer(result=_encode(result)))


def opened(data: bytes, type_: Any) -> Any:
    """What a child answered, or the failure it answered, raised again."""
    found = msgspec.msgpack.decode(data, type=Answer)
    if found.refusal is not None:
        told = found.refusal
        raise BY_KIND[told.kind](
            told.detail, code=told.code, hint=told.hint, problems=told.problems
        )
    assert found.result is not None, "an answer is one of the two"
    return msgspec.msgpack.decode(found.result, type=type_)


def compute(job: bytes) -> bytes:
    """The entry point of the child: :class:`ComputeJob` in, :class:`Answer` out."""
    return answer(lambda: compute_report(msgspec.msgpack.decode(job, type=ComputeJob)))


def compute_report(job: ComputeJob) -> ComputeResult:
    """Compute one report; raises this slice's errors for what the data does not allow."""
    import duckdb

    try:
        with locked_database(job.memory_mb) as connection:
            return _compute(connection, job)
    except duckdb.OutOfMemoryException as error:
        raise _out_of_memory(error) from error
    except duckdb.ConversionException as error:
        raise InputMismatch(f"cannot compute the report: {_one_line(error)}") from error


def _compute(connection: duckdb.DuckDBPyConnection, job: ComputeJob) -> ComputeResult:
    names = Names(job.spec)
    output = job.spec.output
    if isinstance(output, TableOutput):
        given = job.columns or output.columns
        listed = [names.resolve(c) for c in given] or names.all()
        ordered = [names.resolve(c.lstrip("-")) for c in output.order]
        wanted = list(dict.fromkeys([*listed, *ordered]))
        joined = join(connection, job.spec, job.files, wanted, exact=True)
        if not given:
            listed = [name for name in listed if not _timeless(connection, joined, name)]
        return _table(connection, job, joined, listed, names, output)
    x, y = names.resolve(output.x), names.resolve(output.y)
    joined = join(connection, job.spec, job.files, [x, y], exact=False)
    # Keys are unique, so a join has no more rows than its smallest side.
    if min(count.groups for count in joined.counts.values()) > ROWS_MAX:
        raise ReportTooLarge(
            f"cannot correlate: every input has more than {ROWS_MAX:,} rows",
            hint="aggregate or filter",
        )
    return _correlation(connection, job, joined, (x, y), output)


def _timeless(connection: duckdb.DuckDBPyConnection, joined: Joined, name: str) -> bool:
    """Whether a column is the period of records that have none: nobody asked to see it."""
    found = joined.columns[name]
    if found.column.name.rpartition(".")[2] != PERIOD or len(joined.sides) > 1:
        return False
    (side,) = joined.sides.values()
    if PERIOD in (*side.source.dimensions, *side.source.attributes, *side.source.measures):
        return False
    rows, told = one_of(connection, f"SELECT count(*), count({found.value}) FROM joined")
    return bool(rows > 0 and told == 0)


# --- a table ------------------------------------------------------------------------------------


def _table(
    connection: duckdb.DuckDBPyConnection,
    job: ComputeJob,
    joined: Joined,
    listed: list[str],
    names: Names,
    output: TableOutput,
) -> ComputeResult:
    import pyarrow

    (joined_rows,) = one_of(connection, "SELECT count(*) FROM joined")
    settle(connection, joined, joined_rows)
    if output.limit is None and joined_rows > TABLE_ROWS_MAX:
        raise ReportTooLarge(
            f"cannot keep {joined_rows} rows: a table holds at most {TABLE_ROWS_MAX}",
            hint="aggregate, filter, or set output.limit",
        )
    chosen = [joined.columns[name] for name in listed]
    order = [_ordering(joined.columns, names, item) for item in output.order]
    sql = (
        f"SELECT {', '.join([_selected(chosen), *_traces(joined)])} FROM joined"
        f" ORDER BY {', '.join([*order, *joined.order])}"
        f" LIMIT {output.limit or TABLE_ROWS_MAX}"
    )
    table = connection.sql(sql).to_arrow_table()
    columns = [found.column for found in chosen]
    texts: list[list[str | None]] = []
    arrays: list[Any] = []
    fields: list[str] = []
    for index, found in enumerate(chosen):
        values = table.column(f"v{index}")
        exact = table.column(f"e{index}") if found.exact else None
        texts.append((exact if exact is not None else values).to_pylist())
        if found.column.type == "double":
            texts[-1] = [None if value is None else number(value) for value in texts[-1]]
        elif found.column.type == "integer":
            texts[-1] = [None if value is None else str(value) for value in texts[-1]]
        fields.append(found.column.name)
        arrays.append(exact if exact is not None else values)
        if exact is not None:
            fields.append(f"{found.column.name}__double")
            arrays.append(values)
    rows = [list(row) for row in zip(*texts, strict=True)]
    if joined_rows > table.num_rows:
        joined.notes.append(f"{table.num_rows} of {joined_rows} rows, by output.limit")
    behind = {name: table.column(side.traced).to_pylist() for name, side in joined.sides.items()}
    leaves = [
        canonical(
            {
                "cells": row,
                "records": {name: records_of(named[index]) for name, named in behind.items()},
                "row": index,
            }
        )
        for index, row in enumerate(rows)
    ]
    traced = None
    if job.trace is not None and job.trace < len(rows):
        traced = {name: named[job.trace] or [] for name, named in behind.items()}
    return _result(
        joined, columns, rows, None, pyarrow.table(arrays, names=fields), leaves,
        trace=job.trace, records=traced,
    )  # fmt: skip


def _traces(joined: Joined) -> list[str]:
    return [side.traced for side in joined.sides.values()]


def records_of(named: list[str] | None) -> dict[str, Any] | None:
    """What a leaf says of the records behind it: how many, and the root over their names in order.

    ``None`` where they are too many to be named. It is for whoever makes a leaf and for whoever
    checks one.
    """
    if named is None:
        return None
    hashes = [merkle.leaf_hash(name.encode()) for name in named]
    return {"count": len(named), "root": merkle.root(hashes).hex()}


def _selected(chosen: list[Built]) -> str:
    parts = []
    for index, found in enumerate(chosen):
        parts.append(f"{found.value} AS v{index}")
        if found.exact:
            parts.append(f"{found.exact} AS e{index}")
    return ", ".join(parts)


def _ordering(columns: dict[str, Built], names: Names, item: str) -> str:
    column = columns[names.resolve(item.lstrip("-"))]
    return f"{column.value} {'DESC' if item.startswith('-') else 'ASC'} NULLS LAST"


# --- a correlation ------------------------------------------------------------------------------


def _correlation(
    connection: duckdb.DuckDBPyConnection,
    job: ComputeJob,
    joined: Joined,
    pair: tuple[str, str],
    output: CorrelationOutput,
) -> ComputeResult:
    spec = job.spec
    columns, table, dropped = _pairs(connection, spec, joined, pair)
    x, y = table.column("x").to_numpy(), table.column("y").to_numpy()
    if len(x) < ROWS_MIN:
        raise TooFewRows(
            f"cannot correlate: {len(x)} joined rows have both {columns[-2].name} and "
            f"{columns[-1].name}; at least {ROWS_MIN} are needed",
        )
    found = correlate(
        x,
        y,
        names=(columns[-2].name, columns[-1].name),
        first_differences=output.first_differences,
        lags=output.lags,
        dropped=dropped,
    )
    joined.notes += _correlation_notes(spec, output, found, table)
    table = table.rename_columns(_distinct([column.name for column in columns]))
    rows = _preview(table)
    data = _parquet(table)
    behind = _behind(connection, joined, pair)
    told = {name: records_of(named) for name, named in behind.items()}
    leaves = [
        canonical({"correlation": found, "records": told}),
        canonical({"data": _digest(data), "rows": table.num_rows}),
    ]
    traced = {name: named or [] for name, named in behind.items()}
    return _result(
        joined, columns, rows, found, table, leaves, data,
        trace=None if job.trace is None else 0, records=traced,
    )  # fmt: skip


def _behind(
    connection: duckdb.DuckDBPyConnection, joined: Joined, pair: tuple[str, str]
) -> dict[str, list[str] | None]:
    """By input the records behind the rows that have both x and y."""
    both = " AND ".join(
        f"coalesce(isfinite(CAST({joined.columns[name].value} AS DOUBLE)), false)" for name in pair
    )
    found: dict[str, list[str] | None] = {}
    for name, side in joined.sides.items():
        rows = connection.execute(f"SELECT {side.traced} FROM joined WHERE {both}").fetchall()
        unnamed = any(named is None for (named,) in rows)
        found[name] = None if unnamed else sorted(each for (named,) in rows for each in named)
    return found


def _pairs(
    connection: duckdb.DuckDBPyConnection,
    spec: ReportSpec,
    joined: Joined,
    pair: tuple[str, str],
) -> tuple[list[Column], pyarrow.Table, int]:
    """The rows that have both x and y, in their order; how many had not."""
    import pyarrow.compute as compute

    for name in pair:
        column = joined.columns[name].column
        if column.type == "text":
            raise InputMismatch(
                f"cannot correlate {column.name}: it holds text",
                hint="name a measure, or derive a number from it",
            )
    x, y = (f"CAST({joined.columns[name].value} AS DOUBLE)" for name in pair)
    keys = [built for built in joined.columns.values() if built.value.startswith("k")]
    select = ", ".join(
        [*(f"{key.value} AS key{i}" for i, key in enumerate(keys))] or ["r0 AS key0"]
    )
    table = connection.sql(
        f"SELECT {select}, {x} AS x, {y} AS y FROM joined ORDER BY {', '.join(joined.order)}"
    ).to_arrow_table()
    settle(connection, joined, table.num_rows)
    # A double in the source may be no number; such a pair is dropped like a missing one.
    whole = table.filter(compute.and_kleene(*(compute.is_finite(table.column(c)) for c in "xy")))
    columns = [key.column for key in keys] or [Column(name="record", type="text")]
    columns += [
        msgspec.structs.replace(joined.columns[name].column, type="double") for name in pair
    ]
    return columns, whole, table.num_rows - whole.num_rows


def _correlation_notes(
    spec: ReportSpec, output: CorrelationOutput, found: Correlation, table: pyarrow.Table
) -> list[str]:
    notes = []
    if found.dropped:
        notes.append(f"{found.dropped} joined rows without both values were left out")
    key = time_key(spec)
    if key is None:
        return notes
    if found.levels.pearson_p is not None:
        notes.append(
            "neighbouring periods are rarely independent: p and the interval of the levels are "
            "then too small and too narrow; compare the first differences"
        )
    if output.first_differences or output.lags:
        positions = [_position(key) for key in table.column("key0").to_pylist()]
        gaps = sum(1 for a, b in itertools.pairwise(positions) if b - a != 1)
        if gaps:
            notes.append(f"{gaps} of {table.num_rows - 1} steps between rows span a gap")
        notes += [note for lag in output.lags if (note := _lag_note(positions, lag))]
    return notes


def _lag_note(positions: list[int], lag: int) -> str:
    """How many pairs of rows ``lag`` apart are that far apart in time; nothing if all are."""
    pairs = list(zip(positions, positions[abs(lag) :], strict=False))
    apart = sum(1 for earlier, later in pairs if later - earlier == abs(lag))
    if apart == len(pairs):
        return ""
    are = "is" if apart == 1 else "are"
    periods = "one period" if abs(lag) == 1 else f"{abs(lag)} periods"
    return (
        f"lag {lag:+d}: {apart} of {len(pairs)} pairs {are} {periods} apart; "
        "the others reach over a gap"
    )


def _position(key: str) -> int:
    from datetime import date

    with contextlib.suppress(ValueError):
        match key.split("-"):
            case [year]:
                return int(year)
            case [year, quarter] if quarter.startswith("Q"):
                return int(year) * 4 + int(quarter[1:])
            case [year, month]:
                return int(year) * 12 + int(month)
            case _:
                return date.fromisoformat(key).toordinal()
    return 0


# --- what both share ----------------------------------------------------------------------------


def _result(
    joined: Joined,
    columns: list[Column],
    rows: list[list[str | None]],
    correlation: Correlation | None,
    table: pyarrow.Table,
    leaves: list[bytes],
    data: bytes | None = None,
    *,
    trace: int | None = None,
    records: dict[str, list[str]] | None = None,
) -> ComputeResult:
    data = _parquet(table) if data is None else data
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    traced = None
    if trace is not None and records is not None:
        traced = Traced(
            leaf=leaves[trace].decode(),
            path=[each.hex() for each in merkle.inclusion_proof(hashes, trace)],
            records=records,
        )
    return ComputeResult(
        inputs={name: _counted(count) for name, count in joined.counts.items()},
        columns=columns,
        row_count=table.num_rows,
        rows=rows[:PREVIEW_ROWS],
        correlation=correlation,
        notes=joined.notes,
        data=data,
        data_digest=_digest(data),
        outputs_root=merkle.root(hashes).hex(),
        outputs_count=len(leaves),
        traced=traced,
    )


def _counted(count: Counts) -> InputCounts:
    return InputCounts(rows=count.rows, rows_used=count.rows_used, groups=count.groups)


def _preview(table: pyarrow.Table) -> list[list[str | None]]:
    head = table.slice(0, PREVIEW_ROWS).to_pydict().values()
    return [
        [number(v) if isinstance(v, float) else v for v in row] for row in zip(*head, strict=True)
    ]


def _distinct(names: list[str]) -> list[str]:
    assert len(set(names)) == len(names), "names of columns are told apart by their input"
    return names


def _parquet(table: pyarrow.Table) -> bytes:
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _refusal(error: HoldfastError) -> Refusal:
    return Refusal(
        kind=error.kind,
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        problems=list(error.problems),
    )


def _out_of_memory(error: BaseException) -> ReportTooLarge:
    del error
    return ReportTooLarge(
        "cannot compute the report: it needs more memory than a report may take",
        hint="aggregate or filter, or raise HOLDFAST_REPORTS_MEMORY_MB",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
