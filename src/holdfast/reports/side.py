"""One input of a report inside the database: filtered, checked and aggregated.

Keys are texts and dates, never floating-point numbers. Sums and means are computed over exact
decimals where 38 digits hold them, so that they do not depend on the order of rows or on the number
of threads; otherwise over doubles in a fixed order.
"""

# ruff: noqa: S608 - SQL is made of our own templates; names are quoted, texts escaped.
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.json import encode

from holdfast.kernel.errors import Problem
from holdfast.records.within import beginnings, bound
from holdfast.reports import quotient
from holdfast.reports.errors import DuplicateKeys, InputMismatch
from holdfast.reports.inputs import LOCAL_DAY, field_of, with_local_day
from holdfast.reports.locked import literal, one_of, quoted, rows_of
from holdfast.reports.model import (
    BUCKETS,
    NAMED_MAX,
    PERIOD,
    Aggregate,
    Column,
    ReportSpec,
    function_of,
    key_name,
)
from holdfast.reports.spec import input_columns, row_keys

if TYPE_CHECKING:
    import duckdb
    import pyarrow

DECIMAL_DIGITS = 38
UNITS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Counts:
    """How an input's rows became groups."""

    rows: int
    rows_used: int
    groups: int
    without_key: int


@dataclass(frozen=True, slots=True)
class Built:
    """A column of the joined rows: ``value`` and, for exact decimals, ``exact`` are SQL names.

    ``unit`` is the plain one, ``multiplier`` what its values are written in: the column's own unit
    tells both.
    """

    column: Column
    value: str
    exact: str | None = None
    unit: str = ""
    multiplier: str = "1"


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a look at all used values of a measure tells."""

    digits: int
    scale: int
    unit: str = ""
    multiplier: str = "1"

    def decimal(self, rows: int) -> str | None:
        """The decimal type that holds a sum over ``rows`` values, if one does."""
        if self.digits + self.scale + max(1, math.ceil(math.log10(rows + 1))) > DECIMAL_DIGITS:
            return None
        narrow = self.digits + self.scale <= 18
        return f"DECIMAL({18 if narrow else DECIMAL_DIGITS}, {self.scale})"


_PLAIN = _Measure(0, 0)


class Side:
    """One input inside the database: filtered, checked, aggregated, with its keys as ``k0``…"""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        spec: ReportSpec,
        name: str,
        index: int,
        table: pyarrow.Table,
        needed: list[str],
        *,
        exact: bool,
    ) -> None:
        self.connection = connection
        self.name = name
        self.source = spec.inputs[name]
        self.table = f"side_{index}"
        self.keys = [(key.name, key.of[name]) for key in row_keys(spec)]
        self.joined = spec.join is not None
        self.needed = needed
        self._listed = input_columns(self.source, joined=self.joined)
        self.exact = exact or self.source.aggregate is not None
        self.notes: list[str] = []
        self.columns: dict[str, Built] = {}
        self._means: dict[str, str] = {}
        """By the column of its text that of its double."""
        self.traced = f"rr_{index}"
        """The column that has the records behind each row, or null where they are not named."""
        self._raw = f"input_{index}"
        self._fields = set(table.schema.names)
        self._rows = table.num_rows
        self._named = table.num_rows <= NAMED_MAX and {"record_id", "revision"} <= self._fields
        self._local = self.source.timezone not in (None, "UTC") and "period_start" in self._fields
        self._begun = quoted(LOCAL_DAY) if self._local else "period_start"
        """The column whose text has the day on which a period begins."""
        if self._local:
            table = with_local_day(table, self.source.timezone or "UTC")
        connection.register(self._raw, table)

    def build(self) -> Counts:
        """Make ``table``; raises :class:`InputMismatch` or :class:`DuplicateKeys`."""
        used, measures = self._look()
        aggregate = self.source.aggregate
        if aggregate is None:
            select = ", ".join(self._plain(measures))
            rows_of(
                self.connection,
                f"CREATE TEMP VIEW {self.table} AS "
                f"SELECT {select} FROM {self._raw} {self._where()}",
            )
        else:
            self._aggregate(aggregate, measures, used)
        groups, without_key = self._check_keys()
        return Counts(self._rows, used, groups, without_key)

    def _look(self) -> tuple[int, dict[str, _Measure]]:
        """One pass over what the filter lets through: how much, how often, in which units."""
        names = [name for name in self.source.measures if name in self.needed]
        parts = ["count(*)", "min(period_frequency)", "max(period_frequency)"]
        for name in names:
            parts += self._measured(name)
        used, lowest, highest, *found = self._one(
            f"SELECT {', '.join(parts)} FROM {self._raw} {self._where()}"
        )
        if used == 0 and self._rows:
            self.notes.append(f"{self.name}: none of {self._rows} records passes the filter")
        self._check_periods(used, lowest, highest)
        size = len(found) // len(names) if names else 0
        told = [found[index * size : (index + 1) * size] for index in range(len(names))]
        return used, {name: self._measure(name, *v) for name, v in zip(names, told, strict=True)}

    # what the filter lets through

    def _where(self) -> str:
        conditions = [self._condition(key, wanted) for key, wanted in self.source.where.items()]
        conditions += [
            f"{_unit_of(name)} = {literal(wanted)}" for name, wanted in self.source.units.items()
        ]
        period = self.source.period
        if period is not None:
            if period.start is not None:
                conditions.append(self._begins(">=", str(period.start)))
            if period.until is not None:
                conditions.append(self._begins("<", str(period.until)))
            if period.frequency is not None:
                conditions.append(f"period_frequency = {literal(period.frequency)}")
        return f"WHERE {' AND '.join(conditions)}" if conditions else ""

    def _begins(self, compared: str, text: str) -> str:
        if not self._local:
            return f"period_start {compared} {literal(bound(text))}"
        day, moment = map(literal, beginnings(text, self.source.timezone or "UTC"))
        return f"period_start {compared} CASE WHEN {_TIMED} THEN {moment} ELSE {day} END"

    def _key(self, reference: str) -> str:
        if reference in BUCKETS:
            return _bucket(self._begun, reference)
        return f"CAST({quoted(field_of(reference))} AS VARCHAR)"

    def _condition(self, key: str, wanted: Any) -> str:
        field = f"CAST({quoted(field_of(key))} AS VARCHAR)"
        values = wanted if isinstance(wanted, list) else [wanted]
        texts = [literal(_text(value)) for value in values if value is not None]
        parts = [f"{field} IN ({', '.join(texts)})"] if texts else []
        if None in values:
            parts.append(f"{field} IS NULL")
        return f"({' OR '.join(parts)})"

    # periods

    def _buckets(self) -> list[str]:
        references = [reference for _, reference in self.keys]
        if self.source.aggregate is not None:
            references += self.source.aggregate.by
        return sorted({reference for reference in references if reference in BUCKETS})

    def _check_periods(self, used: int, lowest: str | None, highest: str | None) -> None:
        """One frequency, and no period that straddles two buckets: else rows would count twice."""
        buckets = self._buckets()
        if lowest is None:
            if buckets and used:
                raise InputMismatch(
                    f"cannot use the input {self.name}: the records of {self.source.profile} have "
                    f"no period, so they lie in no {buckets[0]}"
                )
            return
        if not buckets and self.source.aggregate is None:
            return
        if lowest != highest:
            rows = rows_of(
                self.connection,
                f"SELECT DISTINCT period_frequency FROM {self._raw} {self._where()} ORDER BY 1",
            )
            found = [str(value) for (value,) in rows if value is not None]
            raise InputMismatch(
                f"cannot use the input {self.name}: its records have the frequencies "
                f"{', '.join(found)}, which must not be mixed",
                hint=f"choose one with inputs.{self.name}.period: {{frequency: {found[0]}}}",
            )
        if lowest not in ("D", "H", "I"):
            for bucket in buckets:
                self._check_straddling(bucket, lowest)

    def _check_straddling(self, bucket: str, frequency: str) -> None:
        first = _bucket(self._begun, bucket)
        last = "strftime(CAST(substr(period_end, 1, 10) AS DATE) - 1, '%Y-%m-%d')"
        where = self._where()
        extra = f"{first} <> {_bucket(last, bucket)}"
        condition = f"{where} AND {extra}" if where else f"WHERE {extra}"
        rows = rows_of(
            self.connection,
            f"SELECT period_start, period_end FROM {self._raw} {condition} ORDER BY 1 LIMIT 1",
        )
        for start, end in rows:
            raise InputMismatch(
                f"cannot use the input {self.name}: its period {start} to {end} "
                f"(frequency {frequency}) does not lie within one {bucket}"
            )

    # measures

    def _measured(self, name: str) -> list[str]:
        """SQL that tells digits, scale, and the first and last unit and multiplier."""
        text = f"ltrim({quoted(name)}, '-')"
        present = f"FILTER (WHERE {quoted(name + '__double')} IS NOT NULL)"
        sizes = ["0", "0"]
        if self.source.aggregate is not None:
            sizes = [f"max(length(split_part({text}, '.', {part})))" for part in (1, 2)]
        units = [
            f"{function}({quoted(name + part)}) {present}"
            for part in ("__unit", "__multiplier")
            for function in ("min", "max")
        ]
        return [*sizes, *units]

    def _measure(
        self,
        name: str,
        digits: int | None,
        scale: int | None,
        *units: str | None,
    ) -> _Measure:
        unit, other_unit, multiplier, other_multiplier = units
        one, other = _unit(unit, multiplier), _unit(other_unit, other_multiplier)
        if one != other:
            raise self._mixed(name)
        return _Measure(digits or 0, scale or 0, unit or "", multiplier or "1")

    def _mixed(self, name: str) -> InputMismatch:
        """The refusal of values in several units, which names those that there are."""
        where = self._where()
        present = f"{quoted(name + '__double')} IS NOT NULL"
        rows = rows_of(
            self.connection,
            f"SELECT DISTINCT {_unit_of(name)} FROM {self._raw} "
            f"{f'{where} AND' if where else 'WHERE'} {present} ORDER BY 1",
        )
        found = [str(unit) for (unit,) in rows]
        more = f", and in {len(found) - UNITS_SHOWN} more" if len(found) > UNITS_SHOWN else ""
        shown = " and in ".join(map(repr, found[:UNITS_SHOWN]))
        chosen = encode({name: found[0]}).decode()
        return InputMismatch(
            f"cannot use {self.name}.{name}: its values are in {shown}{more}",
            hint=f"choose one with inputs.{self.name}.units: {chosen}",
        )

    # the table

    def _plain(self, measures: dict[str, _Measure]) -> list[str]:
        """Rows as they are: keys, dimensions and attributes as text, measures twice."""
        select = [f"{self._key(reference)} AS k{i}" for i, (_, reference) in enumerate(self.keys)]
        select += ["record_id AS r0", "period_start AS r1"]
        if "record_id" not in self._fields:
            select[-2] = "NULL AS r0"
        select.append(f"{f'[{_RECORD}]' if self._named else _UNNAMED} AS {self.traced}")
        for column in self.needed:
            if column in measures:
                select.append(f"{quoted(column + '__double')} AS {self._slot(column, 'v')}")
                if self.exact:
                    select.append(f"{quoted(column)} AS {self._slot(column, 'e')}")
                type_ = "decimal" if self.exact else "double"
                self._add(column, type_, measures[column], exact=self.exact)
            elif column in (*self.source.dimensions, *self.source.attributes):
                prefix = "dim" if column in self.source.dimensions else "attr"
                field = quoted(f"{prefix}_{column}")
                select.append(f"CAST({field} AS VARCHAR) AS {self._slot(column, 'v')}")
                self._add(column, "text")
            elif column == PERIOD:
                select.append(f"{_PERIOD_TEXT} AS {self._slot(column, 'v')}")
                self._add(column, "text")
        return select

    def _aggregate(self, aggregate: Aggregate, measures: dict[str, _Measure], used: int) -> None:
        select, grouping = self._grouped(aggregate)
        for name in measures:
            self._check_one_end(aggregate, name, ", ".join(select), grouping)
        listed = f"list({_RECORD} ORDER BY {_RECORD})" if self._named else _UNNAMED
        select.append(f"{listed} AS {self.traced}")
        for index, name in enumerate(measures):
            select += self._aggregated(aggregate, name, measures[name], used)
            select.append(f"count(*) - count({quoted(name)}) AS missing_{index}")
            select.append(f"count(*) AS of_{index}")
        if not measures:
            count = f"CASE WHEN count(*) >= {aggregate.min_count} THEN count(*) END"
            select.append(f"{count} AS {self._slot('records', 'v')}")
            self._add("records", "integer")
        made = (
            f"SELECT {', '.join(select)} FROM {self._raw} {self._where()} "
            f"GROUP BY {', '.join(grouping)}"
        )
        rows_of(self.connection, f"CREATE TEMP TABLE {self.table} AS {self._with_means(made)}")
        values = [self._slot(name, "v") for name in measures or ["records"]]
        empty = " AND ".join(f"{value} IS NULL" for value in values)
        rows_of(self.connection, f"DELETE FROM {self.table} WHERE {empty}")
        self._drop_timeless()
        for index, name in enumerate(measures):
            if function_of(aggregate, name) != "count":
                self._note_missing(index, name, grouping)

    def _check_one_end(
        self, aggregate: Aggregate, name: str, named: str, grouping: list[str]
    ) -> None:
        """Where several values begin together, none of them is the first or the last."""
        function = function_of(aggregate, name)
        if function not in ("first", "last"):
            return
        end = "min" if function == "first" else "max"
        text, double, group = quoted(name), quoted(f"{name}__double"), ", ".join(grouping)
        where = self._where()
        starts = (
            f"SELECT {named}, {_start(function)} AS start, count(*) AS n, "
            f"count(DISTINCT {double}) AS several FROM {self._raw} "
            f"{where + ' AND' if where else 'WHERE'} {text} IS NOT NULL GROUP BY {group}, start"
        )
        rows = rows_of(
            self.connection,
            f"SELECT {_label(grouping)}, {end}(start), arg_{end}(n, start), count(*) OVER () "
            f"FROM ({starts}) GROUP BY {group} HAVING arg_{end}(several, start) > 1 "
            f"AND sum(n) >= {aggregate.min_count} ORDER BY {group} LIMIT 1",
        )
        for found, start, count, groups in rows:
            begin = "have no period" if start in ("", "~") else f"begin at {start}"
            more = f" (and so in {groups - 1} more groups)" if groups > 1 else ""
            raise InputMismatch(
                f"cannot tell the {function} {self.name}.{name} of {found}: {count} records "
                f"{begin}, with different values{more}",
                hint=f"aggregate {self.name} by what tells them apart too, or filter it to one "
                "series with where",
            )

    def _with_means(self, made: str) -> str:
        """What an aggregation made, with each mean in the place of its parts."""
        if not self._means:
            return made
        gone = ", ".join(part for exact in self._means for part in quotient.used(exact))
        means = ", ".join(f"{quotient.mean(exact)} AS {exact}" for exact in self._means)
        doubles = ", ".join(
            f"CAST({exact} AS DOUBLE) AS {value}" for exact, value in self._means.items()
        )
        return f"SELECT *, {doubles} FROM (SELECT * EXCLUDE ({gone}), {means} FROM ({made}))"

    def _note_missing(self, index: int, name: str, grouping: list[str]) -> None:
        """Say where a value was made although some of its group had none."""
        missing, value = f"missing_{index}", self._slot(name, "v")
        label = _label(grouping)
        rows = rows_of(
            self.connection,
            f"SELECT {label}, {missing}, of_{index}, count(*) OVER () FROM {self.table} "
            f"WHERE {missing} > 0 AND {value} IS NOT NULL ORDER BY {', '.join(grouping)} LIMIT 1",
        )
        for group, count, of, groups in rows:
            others = f", and so in {groups - 1} more" if groups > 1 else ""
            self.notes.append(
                f"{self.name}.{name}: {count} of the {of} records of {group} have no value, "
                f"it is made of the others{others}; aggregate.min_count leaves such groups out"
            )

    def _grouped(self, aggregate: Aggregate) -> tuple[list[str], list[str]]:
        """What is selected and grouped by: the keys, and what else the input is aggregated by."""
        select = [f"{self._key(reference)} AS k{i}" for i, (_, reference) in enumerate(self.keys)]
        grouping = [f"k{i}" for i in range(len(self.keys))]
        taken = [reference for _, reference in self.keys]
        for by in (by for by in aggregate.by if by not in taken):
            slot = self._slot(key_name(by), "v")
            select.append(f"{self._key(by)} AS {slot}")
            grouping.append(slot)
            self._add(key_name(by), "text", bucket=by)
        return select, grouping

    def _drop_timeless(self) -> None:
        """A group of records without a period has no place in time; elsewhere a group without a
        name is a group like any other. A join meets neither."""
        times = [f"k{i}" for i, (_, reference) in enumerate(self.keys) if reference in BUCKETS]
        if self.joined or not times:
            return
        missing = " OR ".join(f"{key} IS NULL" for key in times)
        (gone,) = self._one(f"SELECT count(*) FROM {self.table} WHERE {missing}")
        if gone:
            rows_of(self.connection, f"DELETE FROM {self.table} WHERE {missing}")
            self.notes.append(f"{self.name}: records without a period were left out")

    def _aggregated(
        self, aggregate: Aggregate, name: str, measure: _Measure, used: int
    ) -> list[str]:
        function = function_of(aggregate, name)
        text, double = quoted(name), quoted(f"{name}__double")
        value, exact = self._slot(name, "v"), self._slot(name, "e")
        enough = f"count({text}) >= {aggregate.min_count}"
        decimal = measure.decimal(used)
        if function == "count":
            self._add(name, "integer")
            return [f"CASE WHEN {enough} THEN count({text}) END AS {value}"]
        if function in ("sum", "mean") and decimal is None:
            self.notes.append(
                f"{self.name}.{name}: {function} over doubles in every group, since exact decimals "
                f"of the column would need more than {DECIMAL_DIGITS} digits: its longest value "
                f"has {measure.digits} before the point, another {measure.scale} behind it; filter "
                "those apart for exact decimals"
            )
        if function == "mean" and decimal is not None:
            self._add(name, "decimal", measure, exact=True)
            self._means[exact] = value
            return quotient.parts(text, decimal, measure.scale, enough, exact)
        if function == "mean":
            self._add(name, "double", measure)
            return [f"CASE WHEN {enough} THEN avg({double} ORDER BY {double}) END AS {value}"]
        if function == "sum" and decimal is None:
            self._add(name, "double", measure)
            return [f"CASE WHEN {enough} THEN sum({double} ORDER BY {double}) END AS {value}"]
        chosen = _chosen(function, text, double, decimal)
        self._add(name, "decimal", measure, exact=True)
        return [
            f"CASE WHEN {enough} THEN CAST({chosen} AS VARCHAR) END AS {exact}",
            f"CASE WHEN {enough} THEN CAST({chosen} AS DOUBLE) END AS {value}",
        ]

    def _slot(self, column: str, kind: str) -> str:
        return f"{kind}_{self.table}_{self._listed.index(column)}"

    def _add(
        self,
        column: str,
        type_: Any,
        measure: _Measure = _PLAIN,
        *,
        exact: bool = False,
        bucket: str = "",
    ) -> None:
        self.columns[column] = Built(
            Column(
                name=column,
                type=type_,
                unit=_unit(measure.unit, measure.multiplier),
                bucket=bucket if bucket in BUCKETS else "",  # type: ignore[arg-type]
            ),
            self._slot(column, "v"),
            self._slot(column, "e") if exact else None,
            measure.unit,
            measure.multiplier,
        )

    # keys

    def _check_keys(self) -> tuple[int, int]:
        """Each key at most once. Rows without a key are counted; no join ever meets them."""
        if not self.joined:
            return self._one(f"SELECT count(*) FROM {self.table}")[0], 0
        keys = [f"k{i}" for i in range(len(self.keys))]
        present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        # Counting 64-bit hashes is much quicker than grouping texts; only where hashes repeat are
        # the keys themselves looked at.
        hashes = f"count(DISTINCT hash({', '.join(keys)})) FILTER (WHERE {present})"
        if self._unique_by_making():
            hashes = "NULL"
        total, there, distinct = self._one(
            f"SELECT count(*), count(*) FILTER (WHERE {present}), {hashes} FROM {self.table}"
        )
        if total > there:
            self.notes.append(f"{self.name}: {total - there} rows without a key were left out")
        if distinct is not None and distinct < there:
            self._refuse_duplicates(present)
        return there, total - there

    def _unique_by_making(self) -> bool:
        aggregate = self.source.aggregate
        references = {reference for _, reference in self.keys}
        return aggregate is not None and set(aggregate.by) <= references

    def _refuse_duplicates(self, present: str) -> None:
        keys = ", ".join(f"k{i}" for i in range(len(self.keys)))
        repeated = (
            f"SELECT {keys}, count(*) AS n FROM {self.table} WHERE {present} "
            f"GROUP BY {keys} HAVING count(*) > 1"
        )
        rows = rows_of(
            self.connection, f"SELECT *, count(*) OVER () FROM ({repeated}) ORDER BY {keys} LIMIT 1"
        )
        if not rows:
            return
        *values, count, total = rows[0]
        key = ", ".join(
            f"{name}={value}" for (name, _), value in zip(self.keys, values, strict=True)
        )
        more = f" ({total - 1} more keys repeat)" if total > 1 else ""
        names = ", ".join(reference for _, reference in self.keys)
        raise DuplicateKeys(
            f"cannot join: {count} rows of the input {self.name} have the key {key}{more}",
            problems=[Problem(f"inputs.{self.name}", f"{key} names {count} rows")],
            hint=f"aggregate {self.name} by [{names}], or filter it to one series with where",
        )

    def _one(self, sql: str) -> Any:
        return one_of(self.connection, sql)


_TIMED = "contains(period_start, 'T')"
_FIRST_DAY = "period_start LIKE '%-01'"
_MONTH = "CAST(substr(period_start, 6, 2) AS INTEGER)"
_PERIOD_TEXT = f"""CASE
    WHEN contains(period_start, '.') THEN regexp_replace(period_start, '[.]?0*Z$', 'Z')
    WHEN contains(period_start, 'T') THEN period_start
    WHEN period_frequency = 'D' THEN period_start
    WHEN period_frequency = 'A' AND period_start LIKE '%-01-01' THEN substr(period_start, 1, 4)
    WHEN period_frequency = 'S' AND {_FIRST_DAY} AND {_MONTH} IN (1, 7)
        THEN substr(period_start, 1, 4) || '-H' || (({_MONTH} + 5) // 6)
    WHEN period_frequency = 'Q' AND {_FIRST_DAY} AND {_MONTH} % 3 = 1
        THEN substr(period_start, 1, 4) || '-Q' || (({_MONTH} + 2) // 3)
    WHEN period_frequency = 'M' AND {_FIRST_DAY} THEN substr(period_start, 1, 7)
    ELSE period_start || ' ' || period_frequency
END"""
"""A period as records are listed with it: :func:`holdfast.records.listing.period_text`."""
_RECORD = "record_id || '@' || CAST(revision AS VARCHAR)"
_UNNAMED = "CAST(NULL AS VARCHAR[])"


def _label(grouping: list[str]) -> str:
    """SQL of the words for a group."""
    return " || ', ' || ".join(f"coalesce(CAST({part} AS VARCHAR), '')" for part in grouping)


def _unit(unit: str | None, multiplier: str | None) -> str:
    """A unit with the multiplier that its values are written in: ``1000000 USD``."""
    if multiplier in (None, "1"):
        return unit or ""
    return f"{multiplier} {unit or ''}".rstrip(" ")


def _unit_of(measure: str) -> str:
    """SQL of the same."""
    unit, multiplier = (
        f"coalesce(CAST({quoted(f'{measure}__{part}')} AS VARCHAR), '{plain}')"
        for part, plain in (("unit", ""), ("multiplier", "1"))
    )
    return f"CASE {multiplier} WHEN '1' THEN {unit} ELSE rtrim({multiplier} || ' ' || {unit}) END"


def _start(function: str) -> str:
    """When a record begins, as what is first or last goes by: one without a period comes after all
    that have one, whichever end is asked for."""
    return f"coalesce(period_start, '{'' if function == 'last' else '~'}')"


def _chosen(function: str, text: str, double: str, decimal: str | None) -> str:
    """The exact value that sum, min, max, first or last picks."""
    number = f"CAST({text} AS {decimal})" if decimal else double
    when = f"({_start(function)}, {number})"
    match function:
        case "sum":
            return f"sum({number})"
        case "min":
            return f"arg_min({text}, ({number}, {text}))"
        case "max":
            return f"arg_max({text}, ({number}, {text}))"
        case "first":
            return f"arg_min({text}, {when})"
        case _:
            return f"arg_max({text}, {when})"


def _bucket(text: str, bucket: str) -> str:
    """The bucket in which a date or time (as text) lies, as text that sorts by time."""
    match bucket:
        case "year":
            return f"substr({text}, 1, 4)"
        case "quarter":
            month = f"CAST(substr({text}, 6, 2) AS INTEGER)"
            return f"substr({text}, 1, 4) || '-Q' || CAST(({month} + 2) // 3 AS VARCHAR)"
        case "month":
            return f"substr({text}, 1, 7)"
        case _:
            return f"substr({text}, 1, 10)"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
