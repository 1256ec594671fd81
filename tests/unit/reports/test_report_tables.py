"""Joining and aggregating: exact, refusing what would count twice, in a database without doors."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

from holdfast.kernel.clock import timestamp
from holdfast.records.listing import period_text
from holdfast.records.model import PeriodValue
from holdfast.reports import quotient
from holdfast.reports.compute import ComputeJob, ComputeResult, compute_report
from holdfast.reports.errors import (
    DuplicateKeys,
    InputCorrupt,
    InputMismatch,
    ReportTooLarge,
    SpecInvalid,
    TooFewRows,
)
from holdfast.reports.inputs import read_projection
from holdfast.reports.locked import locked_database, rows_of
from holdfast.reports.model import Input
from holdfast.reports.spec import convert_spec
from tests.unit.reports.projections import Row, row, series, write


def run(folder: Path, sides: dict[str, list[Row]], **spec: Any) -> ComputeResult:
    """Run a report over rows given by the name of their input."""
    inputs = spec.pop("inputs", {})
    whole = {
        "version": 1,
        "name": "test",
        "inputs": {
            name: {"profile": name, "measures": ["value"], **inputs.get(name, {})} for name in sides
        },
        "output": {"type": "table"},
        **spec,
    }
    files = {name: write(folder / f"{name}.parquet", rows) for name, rows in sides.items()}
    return compute_report(ComputeJob(spec=convert_spec(whole), files=files))


def years(count: int, factor: float = 1.0, start: int = 2000) -> list[Row]:
    return series([(str(start + i), str(i * factor)) for i in range(count)])


CORRELATION = {"type": "correlation", "x": "a.value", "y": "b.value"}
BY_YEAR = {"on": ["year"]}


# --- keys ---------------------------------------------------------------------------------------


def test_repeated_keys_refuse_the_join_and_are_named(tmp_path: Path) -> None:
    # Twenty pairs, each row twelve times, once made n = 240.
    repeated = [item for item in years(20) for _ in range(12)]
    with pytest.raises(DuplicateKeys) as caught:
        run(tmp_path, {"a": repeated, "b": years(20)}, join=BY_YEAR, output=CORRELATION)
    assert "year=2000" in caught.value.detail
    assert "12 rows of the input a" in caught.value.detail
    assert "19 more keys" in caught.value.detail


def test_aggregated_they_are_twenty_pairs(tmp_path: Path) -> None:
    repeated = [item for item in years(20) for _ in range(12)]
    result = run(
        tmp_path,
        {"a": repeated, "b": years(20)},
        inputs={"a": {"aggregate": {"by": ["year"], "function": "mean"}}},
        join=BY_YEAR,
        output=CORRELATION,
    )
    assert result.correlation is not None
    assert result.correlation.levels.n == 20


def test_an_aggregation_finer_than_the_key_is_still_checked(tmp_path: Path) -> None:
    rows = [
        row("2000", "A", measures={"value": "1"}, dimensions={"station": station})
        for station in ("x", "y")
    ]
    with pytest.raises(DuplicateKeys):
        run(
            tmp_path,
            {"a": rows, "b": years(3)},
            inputs={"a": {"aggregate": {"by": ["year", "station"]}}},
            join=BY_YEAR,
        )


def test_no_common_key_says_what_each_side_has(tmp_path: Path) -> None:
    with pytest.raises(InputMismatch) as caught:
        run(tmp_path, {"a": years(3), "b": years(3, start=1900)}, join=BY_YEAR)
    assert "from 2000 to 2002" in caught.value.detail
    assert "from 1900 to 1902" in caught.value.detail


def test_rows_without_a_key_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*years(3), row(None, None, measures={"value": "9"})]
    result = run(tmp_path, {"a": rows, "b": years(3)}, join=BY_YEAR)
    assert result.row_count == 3
    assert "a: 1 rows without a key were left out" in result.notes


def test_unmatched_rows_are_counted(tmp_path: Path) -> None:
    result = run(tmp_path, {"a": years(5), "b": years(3)}, join=BY_YEAR)
    assert result.inputs["a"].groups == 5
    assert any("a: 2 of 5 rows met no row" in note for note in result.notes)


def test_keys_with_different_names_meet(tmp_path: Path) -> None:
    left = [
        row(None, None, measures={"value": v}, dimensions={"fips": f})
        for f, v in [("01", "1"), ("02", "2")]
    ]
    right = [
        row(None, None, measures={"value": v}, dimensions={"id": f})
        for f, v in [("02", "20"), ("1", "10")]
    ]
    result = run(
        tmp_path,
        {"a": left, "b": right},
        join={"on": [{"name": "county", "of": {"a": "fips", "b": "id"}}]},
    )
    assert result.rows == [["02", "2", "20"]]  # text meets text: 01 is not 1


def test_three_sides_meet(tmp_path: Path) -> None:
    sides = {"a": years(4), "b": years(3, 2.0), "c": years(5, 3.0)}
    result = run(tmp_path, sides, join=BY_YEAR, derive={"sum": "a.value + b.value + c.value"})
    assert [item[-1] for item in result.rows] == ["0.0", "6.0", "12.0"]


# --- correlation controls -----------------------------------------------------------------------


def test_a_constant_series_has_no_coefficient_and_a_reason(tmp_path: Path) -> None:
    result = run(tmp_path, {"a": years(5, 0.0), "b": years(5)}, join=BY_YEAR, output=CORRELATION)
    assert result.correlation is not None
    assert result.correlation.levels.pearson_r is None
    assert result.correlation.levels.reason == "x never changes"


def test_fewer_than_three_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TooFewRows) as caught:
        run(tmp_path, {"a": years(2), "b": years(5)}, join=BY_YEAR, output=CORRELATION)
    assert "2 joined rows" in caught.value.detail


def test_a_perfect_line_gives_one(tmp_path: Path) -> None:
    result = run(tmp_path, {"a": years(30), "b": years(30, 2.5)}, join=BY_YEAR, output=CORRELATION)
    assert result.correlation is not None
    assert abs(float(result.correlation.levels.pearson_r or 0) - 1) < 1e-12


def test_pairs_with_a_missing_half_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = series([("2000", "1"), ("2001", None), ("2002", "2"), ("2003", "4")])
    result = run(tmp_path, {"a": rows, "b": years(4)}, join=BY_YEAR, output=CORRELATION)
    assert result.correlation is not None
    assert (result.correlation.levels.n, result.correlation.dropped) == (3, 1)


def test_text_cannot_be_correlated(tmp_path: Path) -> None:
    rows = [
        row(str(2000 + i), "A", measures={"value": "1"}, attributes={"flag": "p"}) for i in range(4)
    ]
    with pytest.raises(InputMismatch, match="holds text"):
        run(
            tmp_path,
            {"a": rows, "b": years(4)},
            inputs={"a": {"attributes": ["flag"]}},
            join=BY_YEAR,
            output={**CORRELATION, "x": "flag"},
        )


# --- aggregation --------------------------------------------------------------------------------


def aggregated(folder: Path, values: list[str | None], function: str, **more: Any) -> str | None:
    rows = [row(f"2000-{i + 1:02d}", "M", measures={"value": v}) for i, v in enumerate(values)]
    result = run(
        folder,
        {"a": rows},
        inputs={"a": {"aggregate": {"by": ["year"], "function": function, **more}}},
    )
    return result.rows[0][1] if result.rows else None


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("sum", "1.0"),
        ("mean", "0.1"),
        ("min", "0.1"),
        ("max", "0.1"),
        ("first", "0.1"),
        ("last", "0.1"),
        ("count", "10"),
    ],
)
def test_ten_tenths_are_exactly_one(tmp_path: Path, function: str, expected: str) -> None:
    # Added as doubles in any order they are 0.9999999999999999.
    assert aggregated(tmp_path, ["0.1"] * 10, function) == expected


def test_the_functions_pick_what_they_say(tmp_path: Path) -> None:
    values = ["3.50", "-1.0", None, "12", "2.25"]
    assert aggregated(tmp_path, values, "first") == "3.50"
    assert aggregated(tmp_path, values, "last") == "2.25"
    assert aggregated(tmp_path, values, "min") == "-1.0"
    assert aggregated(tmp_path, values, "max") == "12"
    assert aggregated(tmp_path, values, "sum") == "16.75"
    assert aggregated(tmp_path, values, "mean") == "4.1875"
    assert aggregated(tmp_path, values, "count") == "4"


@pytest.mark.parametrize("function", ["first", "last"])
def test_of_several_that_begin_together_none_is_the_first(tmp_path: Path, function: str) -> None:
    def station(name: str, *values: str | None) -> list[Row]:
        return [
            row(f"2022-0{n + 1}", "M", measures={"value": value}, dimensions={"st": name})
            for n, value in enumerate(values)
        ]

    def told(rows: list[Row], *by: str, **more: Any) -> list[list[str | None]]:
        aggregate = {"aggregate": {"by": ["year", *by], "function": function, **more}}
        return run(tmp_path, {"a": rows}, inputs={"a": aggregate}).rows

    both = [*station("N", "8.72", "9", "7"), *station("S", "15.56", "2", "3")]
    with pytest.raises(InputMismatch) as caught:
        told(both)
    month = "01" if function == "first" else "03"
    assert caught.value.detail == (
        f"cannot tell the {function} a.value of 2022: 2 records begin at 2022-{month}-01, "
        "with different values"
    )
    one = "8.72" if function == "first" else "7"
    assert told(both, "st")[0] == ["2022", "N", one]
    assert told(both, min_count=7) == []
    # One value twice is that value, and who has none does not take part.
    assert told([*station("N", "5"), *station("S", "5")]) == [["2022", "5"]]
    apart = [*station("N", "1", None, "3"), *station("S", None, "2", None)]
    assert told(apart) == [["2022", "1" if function == "first" else "3"]]


@pytest.mark.parametrize("function", ["first", "last"])
def test_what_has_no_period_is_neither_first_nor_last_where_anything_has_one(
    tmp_path: Path, function: str
) -> None:
    def told(*values: tuple[str | None, str]) -> list[list[str | None]]:
        rows = [
            row(start, start and "M", measures={"value": value}, dimensions={"st": "N"})
            for start, value in values
        ]
        aggregate = {"aggregate": {"by": ["st"], "function": function}}
        return run(tmp_path, {"a": rows}, inputs={"a": aggregate}).rows

    timed = ("2022-01", "1"), ("2022-03", "3")
    one = "1" if function == "first" else "3"
    # Several without one, with different values, are in nobody's way.
    assert told(*timed, (None, "9"), (None, "0")) == [["N", one]]
    assert told((None, "9")) == [["N", "9"]]
    with pytest.raises(InputMismatch, match="2 records have no period, with different values"):
        told((None, "9"), (None, "0"))


def test_min_count_counts_values_not_rows(tmp_path: Path) -> None:
    assert aggregated(tmp_path, ["1"] * 12, "mean", min_count=12) == "1"
    assert aggregated(tmp_path, [*["1"] * 11, None], "mean", min_count=12) is None
    assert aggregated(tmp_path, ["1"] * 11, "count", min_count=12) is None


def test_which_groups_there_are_does_not_depend_on_what_is_shown(tmp_path: Path) -> None:
    rows = [
        row("2000", "A", measures={"value": "1", "other": None}),
        row("2001", "A", measures={"value": None, "other": "2"}),
        row("2002", "A", measures={"value": None, "other": None}),
    ]
    inputs = {"a": {"measures": ["value", "other"], "aggregate": {"by": ["year"]}}}
    for columns in (["year", "value"], ["year", "other"], ["year"]):
        result = run(
            tmp_path, {"a": rows}, inputs=inputs, output={"type": "table", "columns": columns}
        )
        assert [item[0] for item in result.rows] == ["2000", "2001"]


def test_a_group_without_a_name_is_counted_like_any_other(tmp_path: Path) -> None:
    rows = [
        row(None, None, measures={"value": "1"}, dimensions={"state": state})
        for state in ("TX", None, "TX")
    ]
    by = {"measures": [], "aggregate": {"by": ["state"], "function": "count"}}
    result = run(tmp_path, {"a": rows}, inputs={"a": by})
    assert result.rows == [["TX", "2"], [None, "1"]]


def test_large_sums_stay_exact(tmp_path: Path) -> None:
    values: list[str | None] = ["99999999999999999999.01", "0.99"]
    assert aggregated(tmp_path, values, "sum") == "100000000000000000000.00"


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        (["381.80", "381.815"], "381.8075"),
        (["408.587", "408.588"], "408.5875"),
        (["1", "1", "2"], "1.333333333333333333"),
        (["1", "2", "2"], "1.666666666666666667"),
        (["-1", "-2", "-2"], "-1.666666666666666667"),
        (["1.50", "1", "1"], "1.16666666666666666667"),
        (["0.01", "0", "-0.01"], "0"),
        (["-0.01", "0"], "-0.005"),
        (["0.01", "0", "0"], "0.00333333333333333333"),
        (["29.99", "0.01"], "15"),
        (["1", *["0"] * 63], "0.015625"),
        (["12345678901234567890.12", "0"], "6172839450617283945.06"),
        (["-" + "9" * 30 + ".99", "0.01"], "-" + "4" + "9" * 29 + ".99"),
        (["0." + "0" * 20 + "1", "0." + "0" * 20 + "2"], "0.0000000000000000000015"),
    ],
)
def test_a_mean_is_the_exact_quotient(tmp_path: Path, values: list[str | None], mean: str) -> None:
    rows = [
        row(f"2000-01-{i % 28 + 1:02d}", "D", measures={"value": value})
        for i, value in enumerate([*values, None])
    ]
    # Another group's values, however they are written, change nothing.
    for other in (["7"], ["7.123456", "7"]):
        more = [row("2001-01-01", "D", measures={"value": value}) for value in other]
        aggregate = {"aggregate": {"by": ["year"], "function": "mean"}}
        result = run(tmp_path, {"a": [*rows, *more]}, inputs={"a": aggregate})
        assert result.rows[0] == ["2000", mean]
        assert result.columns[1].type == "decimal"
        data = pyarrow.parquet.read_table(pyarrow.BufferReader(result.data)).to_pydict()
        assert (data["value"][0], data["value__double"][0]) == (mean, float(mean))


def test_a_mean_is_rounded_half_to_even(tmp_path: Path) -> None:
    # Of 2¹⁹ values a half of the last place is left over: once beside an even digit, once an odd.
    count = 2**19
    exact = {ones: Decimal(ones) / count for ones in (1, 3)}
    assert {str(value)[-1] for value in exact.values()} == {"5"}
    for ones, value in exact.items():
        sql = quotient.mean("m")
        with duckdb.connect(":memory:") as connection:
            parts = (
                f"SELECT CAST({ones} AS HUGEINT) AS m_sum, '-' AS m_sign, 0 AS m_places, "
                f"CAST({count} AS HUGEINT) AS m_count"
            )
            (found,) = connection.execute(f"SELECT {sql} FROM ({parts})").fetchall()[0]
        assert Decimal(found) == -value.quantize(Decimal("1e-18"), ROUND_HALF_EVEN)


@pytest.mark.parametrize("seed", range(3))
def test_means_equal_those_of_decimal_arithmetic(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    groups: dict[str, list[str]] = {}
    for year in range(1900, 2000):
        scale = random.randrange(8)
        groups[str(year)] = [
            f"{Decimal(random.randrange(-(10**9), 10**9)).scaleb(-scale):f}"
            for _ in range(random.randrange(1, 30))
        ]
    rows = [
        row(year, "A", measures={"value": value})
        for year, values in groups.items()
        for value in values
    ]
    aggregate = {"aggregate": {"by": ["year"], "function": "mean"}}
    found = run(tmp_path, {"a": rows}, inputs={"a": aggregate}).rows
    with localcontext(prec=60):
        for (year, mean), values in zip(found, groups.values(), strict=True):
            places = max(len(value.partition(".")[2]) for value in values) + 18
            exact = sum(map(Decimal, values)) / len(values)
            expected = exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
            assert Decimal(mean or "") == expected, (year, values)


def test_sums_beyond_38_digits_are_doubles_and_say_so(tmp_path: Path) -> None:
    rows = [row(f"2000-{i:02d}", "M", measures={"value": "9" * 38}) for i in range(1, 4)]
    result = run(
        tmp_path,
        {"a": rows},
        inputs={"a": {"aggregate": {"by": ["year"], "function": "sum"}}},
    )
    assert result.columns[1].type == "double"
    assert float(result.rows[0][1] or 0) == pytest.approx(3e38)
    assert any("over doubles in every group" in note for note in result.notes)
    assert any("38 before the point, another 0 behind" in note for note in result.notes)


def test_functions_by_measure_and_counting_records(tmp_path: Path) -> None:
    rows = [
        row(f"2000-{i:02d}", "M", measures={"value": "2", "other": str(i)}) for i in range(1, 5)
    ]
    result = run(
        tmp_path,
        {"a": rows},
        inputs={
            "a": {
                "measures": ["value", "other"],
                "aggregate": {"by": ["quarter"], "function": {"value": "sum", "other": "max"}},
            }
        },
    )
    assert result.rows == [["2000-Q1", "6", "3"], ["2000-Q2", "2", "4"]]
    counted = run(
        tmp_path,
        {"a": rows},
        inputs={"a": {"measures": [], "aggregate": {"by": ["quarter"], "function": "count"}}},
    )
    assert counted.rows == [["2000-Q1", "3"], ["2000-Q2", "1"]]
    assert [column.name for column in counted.columns] == ["quarter", "records"]


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [("year", ["2020"]), ("month", ["2020-02", "2020-03"]), ("day", ["2020-02-29", "2020-03-01"])],
)
def test_instants_fall_into_buckets_of_utc(
    tmp_path: Path, bucket: str, expected: list[str]
) -> None:
    instants = ["2020-02-29T23:59:59.999000Z", "2020-03-01T00:00:00.000000Z"]
    rows = [row(instant, "I", measures={"value": "1"}) for instant in instants]
    result = run(
        tmp_path, {"a": rows}, inputs={"a": {"aggregate": {"by": [bucket], "function": "count"}}}
    )
    assert [item[0] for item in result.rows] == expected


# --- what must not be mixed ---------------------------------------------------------------------


def test_frequencies_are_not_mixed_in_silence(tmp_path: Path) -> None:
    # A year's average among its months would count the year twice.
    rows = [row(f"2000-{i:02d}", "M", measures={"value": "1"}) for i in range(1, 13)]
    rows.append(row("2000", "A", measures={"value": "12"}))
    aggregate = {"aggregate": {"by": ["year"], "function": "sum"}}
    with pytest.raises(InputMismatch) as caught:
        run(tmp_path, {"a": rows}, inputs={"a": aggregate})
    assert "A, M" in caught.value.detail
    chosen = run(tmp_path, {"a": rows}, inputs={"a": {**aggregate, "period": {"frequency": "M"}}})
    assert chosen.rows == [["2000", "12"]]


def test_a_period_must_lie_within_one_bucket(tmp_path: Path) -> None:
    with pytest.raises(InputMismatch, match="does not lie within one month"):
        run(tmp_path, {"a": years(3), "b": years(3)}, join={"on": ["month"]})
    week = [row("2019-12-30/2020-01-06", "W", measures={"value": "1"})]
    with pytest.raises(InputMismatch, match="2019-12-30 to 2020-01-06"):
        run(tmp_path, {"a": week}, inputs={"a": {"aggregate": {"by": ["year"]}}})


def test_units_are_not_mixed_in_silence(tmp_path: Path) -> None:
    rows = [
        row(str(2000 + i), "A", measures={"value": "1"}, units={"value": unit})
        for i, unit in enumerate(["ppm", "ppm", "ppb"])
    ]
    with pytest.raises(InputMismatch) as caught:
        run(tmp_path, {"a": rows})
    assert "'ppb'" in caught.value.detail
    assert "'ppm'" in caught.value.detail


def test_units_reach_the_columns(tmp_path: Path) -> None:
    rows = [row("2000", "A", measures={"value": "1"}, units={"value": "ppm"})]
    assert run(tmp_path, {"a": rows}).columns[-1].unit == "ppm"


def test_multipliers_are_not_mixed_and_are_shown(tmp_path: Path) -> None:
    def rows(*multipliers: str) -> list[Row]:
        return [
            row(str(2000 + i), "A", measures={"value": "1"}, units={"value": "USD"}, multiplier=m)
            for i, m in enumerate(multipliers)
        ]

    assert run(tmp_path, {"a": rows("1000000", "1000000")}).columns[-1].unit == "1000000 USD"
    with pytest.raises(InputMismatch, match="'1000 USD' and in '1000000 USD'"):
        run(tmp_path, {"a": rows("1000", "1000000")})


def told_in(unit: str, value: str, multiplier: str = "1") -> list[Row]:
    return [
        row("2021", "A", measures={"value": value}, units={"value": unit}, multiplier=multiplier)
    ]


def test_an_expression_sees_each_value_times_its_multiplier(tmp_path: Path) -> None:
    sides = {"gdp": told_in("EUR", "100", "1000000"), "pop": told_in("persons", "5301.5", "1000")}
    wanted = {
        "percap": {"expression": "gdp.value / pop.value", "unit": "EUR"},
        "million": "gdp.value / 1000000",
        "own": "abs(gdp.value)",
        "years": "year + 0",
    }
    result = run(tmp_path, sides, join=BY_YEAR, derive=wanted)
    columns = {column.name: column for column in result.columns}
    (cells,) = result.rows
    found = dict(zip(columns, cells, strict=True))
    assert found["gdp.value"] == "100"
    assert columns["gdp.value"].unit == "1000000 EUR"
    assert float(found["percap"] or 0) == pytest.approx(100e6 / 5301.5e3, rel=1e-15)
    assert [found["million"], found["own"], found["years"]] == ["100.0", "100000000.0", "2021.0"]
    assert [columns[name].unit for name in ("percap", "million", "own")] == ["EUR", "", "EUR"]
    assert (
        "percap is computed in plain units: gdp.value × 1000000, pop.value × 1000" in result.notes
    )
    small = {"a": told_in("g", "7", "0.001")}
    assert run(tmp_path, small, derive={"plain": "value"}).rows[0][-1] == "0.007"
    summed = {"a": {"aggregate": {"by": ["year"], "function": "sum"}}}
    assert run(tmp_path, small, inputs=summed, derive={"plain": "value"}).rows[0][-1] == "0.007"
    counted = {"a": {"aggregate": {"by": ["year"], "function": "count"}}}
    assert run(tmp_path, small, inputs=counted, derive={"plain": "value"}).rows[0][-1] == "1.0"


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ("a.value - b.value", False),
        ("2 * (abs(a.value) + round(b.value, 1))", False),
        ("log(a.value - -b.value)", False),
        ("a.value - b.value * 10", True),
        ("a.value + c.value", True),
        ("a.value / b.value - 1", True),
        ("a.value - a.value + 1", True),
    ],
)
def test_units_are_not_added_to_others(tmp_path: Path, expression: str, fits: bool) -> None:
    sides = {"a": told_in("mm", "12"), "b": told_in("cm", "1.2"), "c": told_in("", "1")}
    if fits:
        assert run(tmp_path, sides, join=BY_YEAR, derive={"x": expression}).row_count == 1
        return
    with pytest.raises(InputMismatch, match=r"is in mm and .* in cm") as caught:
        run(tmp_path, sides, join=BY_YEAR, derive={"x": expression})
    assert "convert one of them with a factor" in caught.value.hint


def test_records_in_several_units_are_filtered_apart_as_the_refusal_says(tmp_path: Path) -> None:
    rows = [
        row(str(2000 + i), "A", measures={"value": value, "other": "7"},
            units={"value": unit, "other": "t"}, multiplier=multiplier)
        for i, (value, unit, multiplier) in enumerate(
            [("1", "USD", "1000"), ("2", "EUR", "1"), ("3", "EUR", "1000"), ("4", "EUR", "1000"),
             ("5", "", "1000"), ("6", "", "1"), (None, "GBP", "1")]
        )
    ]  # fmt: skip
    with pytest.raises(InputMismatch) as caught:
        run(tmp_path, {"a": rows})
    told = "'' and in '1000' and in '1000 EUR' and in '1000 USD' and in 'EUR'"
    assert caught.value.detail == f"cannot use a.value: its values are in {told}"
    assert caught.value.hint == 'choose one with inputs.a.units: {"value":""}'

    def of(unit: str, **more: Any) -> ComputeResult:
        return run(tmp_path, {"a": rows}, inputs={"a": {"units": {"value": unit}, **more}})

    assert of("1000 EUR").rows == [["2002", "3"], ["2003", "4"]]
    assert of("1000 EUR").columns[-1].unit == "1000 EUR"
    assert of("1000").rows == [["2004", "5"]]
    assert of("").rows == [["2005", "6"]]
    assert "none of 7 records passes the filter" in of("CHF").notes[0]
    summed = {"aggregate": {"by": ["attributes.all"], "function": "sum"}}
    for each in rows:
        each["attr_all"] = "x"
    assert of("1000 EUR", **summed).rows == [["x", "7"]]
    shown = {"type": "table", "columns": ["other"]}
    inputs = {"a": {"units": {"value": "1000 USD"}, "measures": ["value", "other"]}}
    assert run(tmp_path, {"a": rows}, inputs=inputs, output=shown).rows == [["7"]]


def local_hours(first: str, count: int, zone: str) -> list[Row]:
    """One row for each hour from a local midnight on, whose value says its local day."""
    begin = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    rows = []
    for hour in range(count):
        start = begin + timedelta(hours=hour)
        ends = (timestamp(start), timestamp(start + timedelta(hours=1)))
        day = start.astimezone(ZoneInfo(zone)).day
        rows.append(row("/".join(ends), "H", measures={"value": str(day)}))
    return rows


@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        ("Europe/Berlin", "2024-03-30", [24, 23, 24]),
        ("Europe/Berlin", "2024-10-26", [24, 25, 24]),
        ("America/Los_Angeles", "2024-02-28", [24, 24, 24]),
        ("Asia/Kolkata", "2024-12-30", [24, 24, 24]),
    ],
)
def test_days_of_hours_are_those_of_the_zone(
    tmp_path: Path, zone: str, first: str, hours: list[int]
) -> None:
    rows = local_hours(first, sum(hours), zone)
    days = [(date.fromisoformat(first) + timedelta(days=n)).isoformat() for n in range(3)]
    daily = [
        row(day, "D", measures={"value": str(count * int(day[-2:]))})
        for day, count in zip(days, hours, strict=True)
    ]
    by_day = {"aggregate": {"by": ["day"], "function": "sum"}, "timezone": zone}
    sides = {"a": daily, "b": rows}
    joined: dict[str, Any] = {
        "join": {"on": ["day"]}, "derive": {"difference": "a.value - b.value"},
        "output": {"type": "table", "columns": ["day", "difference"]},
    }  # fmt: skip
    result = run(tmp_path, sides, inputs={"b": by_day}, **joined)
    assert result.rows == [[day, "0.0"] for day in days]
    assert result.notes == []
    plain = {**by_day, "timezone": "UTC"}
    assert run(tmp_path, sides, inputs={"b": plain}, **joined).rows != result.rows
    # A part is of local days, too: of the second one, all its hours and no others.
    part = {**by_day, "period": {"from": days[1], "until": days[2]}}
    alone = run(tmp_path, {"b": rows}, inputs={"b": part})
    assert alone.rows == [[days[1], str(hours[1] * int(days[1][-2:]))]]
    counted = {**by_day, "aggregate": {"by": ["year"], "function": "count"}}
    years = run(tmp_path, {"b": rows}, inputs={"b": counted}).rows
    assert sum(int(count or 0) for _, count in years) == sum(hours)
    assert len(years) == len({day[:4] for day in days})


def test_a_zone_that_there_is_not_is_named() -> None:
    spec = {
        "version": 1,
        "name": "t",
        "inputs": {"a": {"profile": "a", "measures": ["value"], "timezone": "Europe/Berlino"}},
        "output": {"type": "table"},
    }
    with pytest.raises(SpecInvalid) as caught:
        convert_spec(spec)
    (problem,) = caught.value.problems
    assert problem.path == "inputs.a.timezone"
    assert "Europe/Berlin" in problem.hint


def test_records_without_periods_lie_in_no_bucket(tmp_path: Path) -> None:
    rows = [row(None, None, measures={"value": "1"})]
    with pytest.raises(InputMismatch, match="have no period, so they lie in no year"):
        run(tmp_path, {"a": rows, "b": years(2)}, join=BY_YEAR)


def test_numbers_and_truth_values_may_be_dimensions(tmp_path: Path) -> None:
    rows = [
        row(None, None, measures={"value": str(i)}, dimensions={"number": i, "even": i % 2 == 0})
        for i in range(4)
    ]
    named = {"dimensions": ["number", "even"], "where": {"even": True, "number": [0, 1, 2]}}
    result = run(tmp_path, {"a": rows}, inputs={"a": named})
    assert result.rows == [["0", "true", "0"], ["2", "true", "2"]]


# --- filters ------------------------------------------------------------------------------------

ROWS = [
    row(
        "2000-01-01",
        "D",
        measures={"value": "1"},
        dimensions={"place": "x"},
        attributes={"flag": "a"},
    ),
    row(
        "2000-01-02",
        "D",
        measures={"value": "2"},
        dimensions={"place": "y"},
        attributes={"flag": None},
    ),
    row(
        "2000-02-01",
        "D",
        measures={"value": "3"},
        dimensions={"place": "O'Hara"},
        attributes={"flag": "a"},
    ),
]


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        ({}, ["1", "2", "3"]),
        ({"where": {"place": "x"}}, ["1"]),
        ({"where": {"place": ["x", "y"]}}, ["1", "2"]),
        ({"where": {"place": "O'Hara"}}, ["3"]),
        ({"where": {"attributes.flag": None}}, ["2"]),
        ({"where": {"attributes.flag": [None, "a"], "place": "y"}}, ["2"]),
        ({"where": {"place": "x' OR '1'='1"}}, []),
        ({"where": {"place": "'; DROP TABLE side_0; --"}}, []),
        ({"period": {"from": "2000-01-02"}}, ["2", "3"]),
        ({"period": {"until": "2000-02"}}, ["1", "2"]),
        ({"period": {"from": 2000, "until": 2001}}, ["1", "2", "3"]),
        ({"period": {"frequency": "M"}}, []),
    ],
)
def test_filters_let_through_what_they_say(
    tmp_path: Path, narrowing: dict[str, Any], expected: list[str]
) -> None:
    result = run(tmp_path, {"a": ROWS}, inputs={"a": narrowing})
    assert [item[-1] for item in result.rows] == expected
    assert result.inputs["a"].rows_used == len(expected)


def test_a_time_as_a_bound_counts_whatever_its_fraction(tmp_path: Path) -> None:
    rows = series(
        [(f"2000-01-01T{hour:02d}:00:00.000000Z", str(hour)) for hour in (0, 12, 18)],
        frequency="I",
    )
    for narrowing, expected in (
        ({"from": "2000-01-01T00:00:00Z", "until": "2000-01-01T18:00:00Z"}, ["0", "12"]),
        ({"from": "2000-01-01T12:00:00Z"}, ["12", "18"]),
        ({"until": "2000-01-01T12:00:00.5Z"}, ["0", "12"]),
    ):
        result = run(tmp_path, {"a": rows}, inputs={"a": {"period": narrowing}})
        assert [item[-1] for item in result.rows] == expected


def test_unknown_fields_are_all_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputMismatch) as caught:
        run(
            tmp_path,
            {"a": ROWS},
            inputs={
                "a": {"measures": ["value", "worth"], "where": {"town": "x", "attributes.f": 1}}
            },
        )
    said = {problem.message for problem in caught.value.problems}
    assert said == {"has no measure worth", "has no dimension town", "has no attribute f"}
    assert any("place" in problem.hint for problem in caught.value.problems)


# --- tables -------------------------------------------------------------------------------------


def test_order_limit_and_derived_columns(tmp_path: Path) -> None:
    rows = series([("2000", "3"), ("2001", None), ("2002", "1"), ("2003", "2")])
    result = run(
        tmp_path,
        {"a": rows},
        inputs={"a": {"aggregate": {"by": ["year"], "function": "last"}}},
        derive={"half": "value / 2", "root": "sqrt(value - 2)"},
        output={
            "type": "table",
            "columns": ["year", "half", "root"],
            "order": ["-value"],
            "limit": 2,
        },
    )
    assert result.rows == [["2000", "1.5", "1.0"], ["2003", "1.0", "0.0"]]
    assert result.row_count == 2
    assert "2 of 3 rows, by output.limit" in result.notes


def test_values_come_out_as_the_source_spelt_them(tmp_path: Path) -> None:
    rows = series([("2000", "1.50"), ("2001", "-0.0"), ("2002", "100")])
    assert [item[-1] for item in run(tmp_path, {"a": rows}).rows] == ["1.50", "-0.0", "100"]


def test_a_table_beyond_the_bound_is_refused_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.reports.compute.TABLE_ROWS_MAX", 3)
    with pytest.raises(ReportTooLarge):
        run(tmp_path, {"a": years(4)})
    assert run(tmp_path, {"a": years(4)}, output={"type": "table", "limit": 2}).row_count == 2


def test_an_empty_result_is_a_result(tmp_path: Path) -> None:
    result = run(tmp_path, {"a": ROWS}, inputs={"a": {"where": {"place": "nowhere"}}})
    assert result.row_count == 0
    assert "a: none of 3 records passes the filter" in result.notes


# --- bytes and doors ----------------------------------------------------------------------------


def test_bytes_that_are_not_the_named_ones_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", years(3))
    Path(file.path).write_bytes(Path(file.path).read_bytes()[:-1] + b"?")
    spec = convert_spec(
        {
            "version": 1,
            "name": "test",
            "inputs": {"a": {"profile": "a", "measures": ["value"]}},
            "output": {"type": "table"},
        }
    )
    with pytest.raises(InputCorrupt):
        compute_report(ComputeJob(spec=spec, files={"a": file}))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.db'",
        "EXPORT DATABASE '{folder}/all'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 64",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "SELECT * FROM visible",
        "SELECT getenv('HOME')",
    ],
)
def test_the_database_reaches_nothing(sql: str, tmp_path: Path) -> None:
    visible = pyarrow.table({"x": [1]})  # found by name if replacement scans were on
    assert visible.num_rows == 1
    with locked_database(256) as connection:
        assert rows_of(connection, "SELECT 41 + 1") == [(42,)]
        with pytest.raises(duckdb.Error):
            rows_of(connection, sql.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_database_keeps_to_its_memory() -> None:
    with locked_database(64) as connection, pytest.raises(duckdb.OutOfMemoryException):
        rows_of(connection, "SELECT list(i ORDER BY hash(i)) FROM range(50000000) t(i)")


# --- what is missing, and when --------------------------------------------------------------------


def by_region(values: dict[str, list[str | None]]) -> list[Row]:
    return [
        row(month, "M", measures={"value": value}, dimensions={"region": f"{index:02}"})
        for month, given in values.items()
        for index, value in enumerate(given, 1)
    ]


@pytest.mark.parametrize("function", ["sum", "mean", "max", "min"])
def test_a_value_made_of_a_group_with_gaps_says_so(tmp_path: Path, function: str) -> None:
    rows = by_region(
        {"2026-08": ["1", "2"], "2026-09": [None, "4"], "2026-10": ["5", None], "2026-11": [None]}
    )
    aggregate = {"by": ["month"], "function": function}
    result = run(tmp_path, {"a": rows}, inputs={"a": {"aggregate": aggregate}})
    assert [cells[0] for cells in result.rows] == ["2026-08", "2026-09", "2026-10"]
    assert result.notes == [
        "a.value: 1 of the 2 records of 2026-09 have no value, it is made of the others, and so in "
        "1 more; aggregate.min_count leaves such groups out"
    ]
    strict = run(tmp_path, {"a": rows}, inputs={"a": {"aggregate": {**aggregate, "min_count": 2}}})
    assert ([cells[0] for cells in strict.rows], strict.notes) == (["2026-08"], [])


def test_records_as_they_are_say_when_they_are_of(tmp_path: Path) -> None:
    rows = by_region({"2026-09": ["1", "2"], "2026-10": ["3"]})
    shown = {"a": {"dimensions": ["region"]}}
    result = run(tmp_path, {"a": rows}, inputs=shown)
    assert [column.name for column in result.columns] == ["period", "region", "value"]
    assert result.rows == [["2026-09", "01", "1"], ["2026-09", "02", "2"], ["2026-10", "01", "3"]]
    chosen = {"type": "table", "columns": ["value", "period"], "order": ["-period", "value"]}
    result = run(tmp_path, {"a": rows}, inputs=shown, output=chosen)
    assert result.rows == [["3", "2026-10"], ["1", "2026-09"], ["2", "2026-09"]]


@pytest.mark.parametrize(
    ("period", "frequency"),
    [
        ("2026", "A"), ("2026-03", "M"), ("2026-07-01/2026-10-01", "Q"),
        ("2026-07-01/2027-01-01", "S"),
        ("2026-02-01/2026-05-01", "Q"), ("2026-03-09", "D"), ("2026-03-09/2026-03-16", "W"),
        ("2026-03-09T10:00:00.000000Z", "H"), ("2026-03-09T10:00:00.250000Z", "I"),
    ],
)  # fmt: skip
def test_a_period_reads_as_in_a_list_of_records(
    tmp_path: Path, period: str, frequency: str
) -> None:
    made = row(period, frequency, measures={"value": "1"})
    ((told, _),) = run(tmp_path, {"a": [made]}).rows
    start, end = made["period_start"], made["period_end"]
    assert told == period_text(PeriodValue(start=start, end=end, frequency=frequency, text=""))


def test_nobody_is_shown_a_period_that_no_record_has(tmp_path: Path) -> None:
    timeless = [row(None, None, measures={"value": "1"})]
    assert [column.name for column in run(tmp_path, {"a": timeless}).columns] == ["value"]


def test_a_field_of_its_own_may_be_called_period(tmp_path: Path) -> None:
    rows = [row("2026", "A", measures={"value": "1"}, dimensions={"period": "early"})]
    result = run(tmp_path, {"a": rows}, inputs={"a": {"dimensions": ["period"]}})
    assert result.rows == [["early", "1"]]


def test_what_is_personal_is_no_input_of_a_report(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", ROWS, sealed=["dim_who", "weight__double"])
    source = Input(profile="clinic", measures=["value"])
    with pytest.raises(InputMismatch) as caught:
        read_projection("a", source, file, {"dim_who", "weight__double", "record_id"})
    said = {problem.message for problem in caught.value.problems}
    assert said == {"dim_who is personal, and sealed", "weight is personal, and sealed"}
    assert read_projection("a", source, file, {"record_id"}).num_rows == len(ROWS)


PERIODS = ["period_start", "period_end", "period_frequency"]


def run_sealed(
    folder: Path, rows: list[Row], function: Any, frequencies: list[str] | None
) -> ComputeResult:
    """Run an aggregate by ward over rows whose periods are personal."""
    kept = [{name: cell for name, cell in each.items() if name not in PERIODS} for each in rows]
    file = write(folder / "a.parquet", kept, sealed=PERIODS, frequencies=frequencies)
    aggregate = {"by": ["ward"], "function": function}
    spec = {
        "version": 1,
        "name": "test",
        "inputs": {"a": {"profile": "clinic", "measures": ["value"], "aggregate": aggregate}},
        "output": {"type": "table"},
    }
    return compute_report(ComputeJob(spec=convert_spec(spec), files={"a": file}))


WARD = [
    row(f"2020-0{month}", "M", measures={"value": value}, dimensions={"ward": "A"})
    for month, value in ((1, "50"), (2, "90"), (3, "10"))
]


def test_what_came_first_is_not_told_where_it_is_personal_when_that_was(tmp_path: Path) -> None:
    (opened,) = run(
        tmp_path,
        {"a": WARD},
        inputs={"a": {"aggregate": {"by": ["ward"], "function": "first"}}},
    ).rows
    assert opened == ["A", "50"]
    for function in ("first", "last", {"value": "last"}):
        with pytest.raises(InputMismatch, match="cannot use what is personal") as caught:
            run_sealed(tmp_path, WARD, function, ["M"])
        said = {problem.message for problem in caught.value.problems}
        assert "period_start is personal, and sealed" in said


@pytest.mark.parametrize("function", ["sum", "mean", "count", "max"])
def test_frequencies_are_not_mixed_where_they_are_personal(tmp_path: Path, function: str) -> None:
    year = row("2020", "A", measures={"value": "150"}, dimensions={"ward": "A"})
    for told, said in (
        (["A", "M"], "its records may have the frequencies A, M"),
        (None, "it is not known which frequencies its records have"),
    ):
        with pytest.raises(InputMismatch, match=said):
            run_sealed(tmp_path, [year, *WARD], function, told)


@pytest.mark.parametrize(("function", "made"), [("sum", "150"), ("count", "3"), ("max", "90")])
def test_where_all_periods_are_of_one_length_personal_ones_may_be_aggregated(
    tmp_path: Path, function: str, made: str
) -> None:
    assert run_sealed(tmp_path, WARD, function, ["M"]).rows == [["A", made]]
