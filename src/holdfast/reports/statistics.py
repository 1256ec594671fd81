"""Coefficients, p-values and intervals, all of them SciPy's.

A coefficient that does not exist (a constant series) is absent with a reason; it is never a
made-up number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.reports.model import ROWS_MIN, Correlation, Lagged, Statistics

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Series = NDArray[numpy.float64]

CONFIDENCE = 0.95
METHODS = {
    "pearson": "Pearson product-moment correlation (scipy.stats.pearsonr), two-sided p",
    "interval": "95% interval of r by Fisher's z transformation "
    "(scipy.stats.pearsonr(...).confidence_interval)",
    "spearman": "Spearman rank correlation, mean ranks for ties (scipy.stats.spearmanr), "
    "two-sided p from Student's t",
    "regression": "ordinary least squares (scipy.stats.linregress)",
}


def correlate(
    x: Series,
    y: Series,
    *,
    names: tuple[str, str],
    first_differences: bool = False,
    lags: Sequence[int] = (),
    dropped: int = 0,
) -> Correlation:
    """How ``x`` and ``y`` (same length, finite, in the rows' order) go together."""
    from scipy import stats

    levels = statistics(x, y)
    slope = intercept = None
    if not levels.reason:
        line = stats.linregress(x, y)
        slope, intercept = number(line.slope), number(line.intercept)
    methods = dict(METHODS)
    if first_differences:
        methods["first_differences"] = "the same over changes between consecutive joined rows"
    return Correlation(
        x=names[0],
        y=names[1],
        levels=levels,
        slope=slope,
        intercept=intercept,
        first_differences=statistics(_changes(x), _changes(y)) if first_differences else None,
        lags=[Lagged(lag=lag, statistics=statistics(*_shifted(x, y, lag))) for lag in lags],
        dropped=dropped,
        methods=methods,
    )


def statistics(x: Series, y: Series) -> Statistics:
    """All coefficients of one set of pairs, or the reason why there are none."""
    n = len(x)
    reason = _undefined(x, y)
    if reason:
        return Statistics(n=n, reason=reason)
    pearson, interval, spearman = _coefficients(x, y)
    return Statistics(
        n=n,
        pearson_r=number(pearson.statistic),
        pearson_p=number(pearson.pvalue),
        interval_low=number(interval.low),
        interval_high=number(interval.high),
        spearman_rho=number(spearman.statistic),
        spearman_p=number(spearman.pvalue),
    )


def _coefficients(x: Series, y: Series) -> tuple[Any, Any, Any]:
    import numpy
    from scipy import stats

    with warnings.catch_warnings(), numpy.errstate(divide="ignore", invalid="ignore"):
        # A perfect line has r = ±1, whose z is infinite: the interval is [r, r], as it should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        pearson = stats.pearsonr(x, y)
        return pearson, pearson.confidence_interval(CONFIDENCE), stats.spearmanr(x, y)


def _undefined(x: Series, y: Series) -> str:
    if len(x) < ROWS_MIN:
        return f"fewer than {ROWS_MIN} pairs"
    constant = [name for name, series in (("x", x), ("y", y)) if bool((series == series[0]).all())]
    if constant:
        return f"{' and '.join(constant)} never change{'s' if len(constant) == 1 else ''}"
    return ""


def _changes(series: Series) -> Series:
    import numpy

    return numpy.diff(series)


def _shifted(x: Series, y: Series, lag: int) -> tuple[Series, Series]:
    """Pairs (x[t], y[t + lag])."""
    if abs(lag) >= len(x):
        return x[:0], y[:0]
    if lag >= 0:
        return x[: len(x) - lag], y[lag:]
    return x[-lag:], y[: len(y) + lag]


def number(value: Any) -> str | None:
    """The shortest text that gives this double back; nothing for what is not finite."""
    plain = float(value)
    return repr(plain) if math.isfinite(plain) else None
