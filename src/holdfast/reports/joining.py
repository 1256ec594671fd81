"""From projections to joined rows, in a database that can reach nothing.

Each projection is read as bytes, its digest compared, and handed over as an Arrow table
(``inputs.py``); inside, it becomes a side of the join (``side.py``).
"""

# ruff: noqa: S608 - SQL is made of our own templates; names are quoted, texts escaped.
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from holdfast.kernel.errors import Invalid, Problem
from holdfast.reports.errors import InputMismatch
from holdfast.reports.expression import compile_expression, unit_of_expression
from holdfast.reports.inputs import InputFile, in_time, needed_fields, read_projection
from holdfast.reports.locked import one_of, rows_of
from holdfast.reports.model import BUCKETS, Column, Derived, ReportSpec, derived
from holdfast.reports.side import Built, Counts, Side
from holdfast.reports.spec import Names, input_columns, row_keys

if TYPE_CHECKING:
    import duckdb


@dataclass(slots=True)
class Joined:
    """The joined rows, ``joined`` in the database; ``columns`` by the names of :class:`Names`."""

    columns: dict[str, Built]
    order: list[str]
    """SQL that puts rows in their natural order: by key, or by period and record."""
    sides: dict[str, Side]
    counts: dict[str, Counts]
    notes: list[str] = field(default_factory=list)


def join(
    connection: duckdb.DuckDBPyConnection,
    spec: ReportSpec,
    files: dict[str, InputFile],
    wanted: list[str],
    *,
    exact: bool,
) -> Joined:
    """The joined rows with the ``wanted`` columns (full names), as ``joined`` in the database.

    ``exact`` brings the decimals' texts along. Raises :class:`InputMismatch`,
    :class:`DuplicateKeys` or :class:`InputCorrupt`.
    """
    names = Names(spec)
    sources = {source for column in wanted for source in referenced(spec, names, column)}
    sides: dict[str, Side] = {}
    counts: dict[str, Counts] = {}
    notes: list[str] = []
    for index, (name, source) in enumerate(spec.inputs.items()):
        # Which groups there are depends on all measures, also on those that are not shown.
        own = input_columns(source, joined=spec.join is not None)
        columns = [c for c in own if source.aggregate or f"{name}.{c}" in sources]
        keys = [key.of[name] for key in row_keys(spec)]
        needed = needed_fields(source, columns, keys, exact=exact)
        timeless = source.aggregate is not None and not in_time(source, keys)
        table = read_projection(name, source, files[name], needed, timeless=timeless)
        side = Side(connection, spec, name, index, table, columns, exact=exact)
        del table
        counts[name] = side.build()
        notes += side.notes
        sides[name] = side
    built = _columns(spec, names, sides, wanted, notes)
    _create_joined(connection, spec, sides, stored=exact)
    order = [f"k{i}" for i in range(len(row_keys(spec)))] or ["r1", "r0"]
    return Joined(built, order, sides, counts, notes)


def referenced(spec: ReportSpec, names: Names, column: str) -> list[str]:
    """The columns a derived column is computed from; a source column is its own."""
    if column not in names.derived:
        return [column]
    found: list[str] = []

    def resolve(reference: str) -> str:
        found.append(names.resolve(reference))
        return "x"

    compile_expression(derived(spec.derive[column]).expression, resolve)
    return found


def _columns(
    spec: ReportSpec,
    names: Names,
    sides: dict[str, Side],
    wanted: list[str],
    notes: list[str],
) -> dict[str, Built]:
    built: dict[str, Built] = {}
    keys = row_keys(spec)
    own = list(spec.inputs) if spec.join is None else []
    for index, key in enumerate(keys):
        references = set(key.of.values())
        bucket = references.pop() if len(references) == 1 else ""
        column = Column(
            name=key.name,
            type="text",
            bucket=bucket if bucket in BUCKETS else "",  # type: ignore[arg-type]
        )
        built[f"{own[0]}.{key.name}" if own else key.name] = Built(column, f"k{index}")
    for name, side in sides.items():
        for column_name, found in side.columns.items():
            built.setdefault(f"{name}.{column_name}", found)

    for name in wanted:
        if name in names.derived:
            built[name] = _derived(name, derived(spec.derive[name]), names, built, notes)
    return {
        name: dataclasses.replace(found, column=_named(found.column, names.shown(name)))
        for name, found in built.items()
    }


def _derived(
    name: str, part: Derived, names: Names, built: dict[str, Built], notes: list[str]
) -> Built:
    """A derived column, computed in plain units: ``5`` of thousands is 5000."""
    counted: dict[str, str] = {}

    def resolve(reference: str) -> str:
        found = built[names.resolve(reference)]
        if found.multiplier != "1":
            counted[reference] = found.multiplier
        if found.column.type == "text":
            return f"TRY_CAST({found.value} AS DOUBLE)"
        return _times(f"CAST({found.value} AS DOUBLE)", found.multiplier)

    sql = compile_expression(part.expression, resolve)
    try:
        own = unit_of_expression(part.expression, lambda r: built[names.resolve(r)].unit)
    except Invalid as error:
        raise InputMismatch(
            f"cannot derive {name}: {error.detail.removeprefix('cannot compute ')}",
            problems=[Problem(f"derive.{name}", error.detail, error.hint)],
            hint=error.hint,
        ) from error
    if counted:
        said = ", ".join(f"{reference} × {times}" for reference, times in counted.items())
        notes.append(f"{name} is computed in plain units: {said}")
    column = Column(name=name, type="double", unit=part.unit or own, label=part.label)
    return Built(column, sql)


def _times(sql: str, multiplier: str) -> str:
    """``sql`` in plain units; one in thousandths is divided, since 0.001 is no double."""
    factor = Decimal(multiplier)
    if abs(factor) < 1 and 1 / factor == (1 / factor).to_integral_value():
        return f"({sql} / CAST('{1 / factor:f}' AS DOUBLE))"
    return sql if factor == 1 else f"({sql} * CAST('{factor:f}' AS DOUBLE))"


def _named(column: Column, name: str) -> Column:
    return msgspec.structs.replace(column, name=name)


def _create_joined(
    connection: duckdb.DuckDBPyConnection,
    spec: ReportSpec,
    sides: dict[str, Side],
    *,
    stored: bool,
) -> None:
    """``joined`` as a table where it is asked more than once, else as a view."""
    first, *others = sides.values()
    keys = [f"k{i}" for i in range(len(row_keys(spec)))]
    tables = first.table
    for other in others:
        tables += f" JOIN {other.table} USING ({', '.join(keys)})"
    select = list(keys)
    if not keys:
        select += ["r0", "r1"]
    for side in sides.values():
        select.append(side.traced)
        for found in side.columns.values():
            select += [found.value, *([found.exact] if found.exact else [])]
    kind = "TABLE" if stored else "VIEW"
    rows_of(connection, f"CREATE TEMP {kind} joined AS SELECT {', '.join(select)} FROM {tables}")


def settle(connection: duckdb.DuckDBPyConnection, joined: Joined, rows: int) -> None:
    """Note what met nothing once the joined rows are counted; refuse a join without any."""
    if len(joined.sides) < 2:
        return
    if rows == 0:
        _refuse_empty(connection, joined.sides)
    joined.notes += [
        f"{name}: {count.groups - rows} of {count.groups} rows met no row of the other side"
        for name, count in joined.counts.items()
        if count.groups > rows
    ]


def _refuse_empty(connection: duckdb.DuckDBPyConnection, sides: dict[str, Side]) -> None:
    seen = []
    for name, side in sides.items():
        low, high, count = one_of(
            connection, f"SELECT min(k0), max(k0), count(k0) FROM {side.table}"
        )
        seen.append(f"{name} has {count} from {low} to {high}" if count else f"{name} has none")
    raise InputMismatch(
        f"cannot join: no key is on every side ({'; '.join(seen)})",
        hint="compare the keys' spelling and range with a table report on each input",
    )
