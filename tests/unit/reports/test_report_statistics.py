"""Coefficients against cases whose answers are known without SciPy."""

from __future__ import annotations

import math

import numpy
import pytest

from holdfast.reports.statistics import correlate, number, statistics


def array(*values: float) -> numpy.ndarray:
    return numpy.array(values, dtype=numpy.float64)


@pytest.mark.parametrize("n", [3, 4, 10, 1000])
@pytest.mark.parametrize("slope", [0.001, 1.0, 12345.678])
def test_a_perfect_line_has_coefficient_one(n: int, slope: float) -> None:
    # A square root made at home gave 0.0096 for a line like this.
    x = numpy.arange(n, dtype=numpy.float64)
    rising, falling = statistics(x, 7 + slope * x), statistics(x, 7 - slope * x)
    assert rising.pearson_r is not None
    assert falling.pearson_r is not None
    assert math.isclose(float(rising.pearson_r), 1.0, abs_tol=1e-12)
    assert math.isclose(float(falling.pearson_r), -1.0, abs_tol=1e-12)
    assert rising.spearman_rho is not None
    assert math.isclose(float(rising.spearman_rho), 1.0, abs_tol=1e-12)
    assert rising.reason == ""


def test_a_hand_computed_case() -> None:
    # x̄ = 3, ȳ = 4; Σdxdy = 6, Σdx² = 10, Σdy² = 6: r = 6 / √60
    found = statistics(array(1, 2, 3, 4, 5), array(2, 4, 5, 4, 5))
    assert found.n == 5
    assert found.pearson_r is not None
    assert math.isclose(float(found.pearson_r), 6 / math.sqrt(60), rel_tol=1e-14)


def test_the_interval_is_fishers() -> None:
    generator = numpy.random.default_rng(7)
    x = generator.normal(size=50)
    y = x + generator.normal(size=50)
    found = statistics(x, y)
    assert found.pearson_r is not None
    assert found.interval_low is not None
    assert found.interval_high is not None
    z, half = math.atanh(float(found.pearson_r)), 1.959963984540054 / math.sqrt(47)
    assert math.isclose(float(found.interval_low), math.tanh(z - half), rel_tol=1e-9)
    assert math.isclose(float(found.interval_high), math.tanh(z + half), rel_tol=1e-9)


def test_a_constant_series_has_no_coefficient_and_says_why() -> None:
    found = statistics(array(5, 5, 5, 5), array(1, 2, 3, 4))
    assert found.pearson_r is None
    assert found.spearman_rho is None
    assert found.reason == "x never changes"
    assert statistics(array(1, 2, 3), array(0, 0, 0)).reason == "y never changes"
    assert statistics(array(1, 1, 1), array(0, 0, 0)).reason == "x and y never change"


def test_too_few_pairs_have_no_coefficient_and_say_so() -> None:
    found = statistics(array(1, 2), array(3, 4))
    assert found.pearson_r is None
    assert "fewer than 3" in found.reason


def test_first_differences_and_lags_pair_what_they_say() -> None:
    x = array(1, 2, 4, 8, 16, 32)
    y = array(9, 1, 2, 4, 8, 16)  # y follows x one row later
    found = correlate(x, y, names=("x", "y"), first_differences=True, lags=[0, 1, -1, 9])
    assert found.first_differences is not None
    assert found.first_differences.n == 5
    by_lag = {lagged.lag: lagged.statistics for lagged in found.lags}
    assert by_lag[1].n == 5
    assert by_lag[1].pearson_r is not None
    assert math.isclose(float(by_lag[1].pearson_r), 1.0, abs_tol=1e-12)
    assert by_lag[-1].n == 5
    assert by_lag[-1].pearson_r != by_lag[1].pearson_r
    assert by_lag[9].n == 0
    assert by_lag[0].pearson_r == found.levels.pearson_r


def test_the_regression_line_is_the_least_squares_one() -> None:
    found = correlate(array(0, 1, 2, 3), array(1, 3, 5, 7), names=("x", "y"))
    assert found.slope is not None
    assert found.intercept is not None
    assert math.isclose(float(found.slope), 2.0, abs_tol=1e-12)
    assert math.isclose(float(found.intercept), 1.0, abs_tol=1e-12)


def test_methods_are_named() -> None:
    found = correlate(array(0, 1, 2), array(0, 1, 3), names=("x", "y"))
    assert "Fisher" in found.methods["interval"]
    assert set(found.methods) == {"pearson", "interval", "spearman", "regression"}


def test_numbers_are_written_so_that_they_come_back() -> None:
    for value in (0.1 + 0.2, 1e-300, -0.0, 12345678901234567.0):
        text = number(value)
        assert text is not None
        assert float(text) == value
    assert number(math.nan) is None
    assert number(math.inf) is None
