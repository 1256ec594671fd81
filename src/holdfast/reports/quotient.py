"""SQL of exact means: a sum of decimals divided by how many they were, as a decimal again.

The engine divides decimals as doubles, and 381.8075 becomes 381.80749999999995. Here whole numbers
are divided with their remainder: digit by digit what a person gets on paper. How many digits there
are depends on the group's own values alone, so that a mean over the records of one group is the
mean that the whole report has.
"""

from __future__ import annotations

MEAN_PLACES = 18
"""So many decimal places more than the most precise value of its group a mean has, rounded half to
even. Zeros at their end are left out."""
_UNIT = f"CAST('1{'0' * MEAN_PLACES}' AS HUGEINT)"


def parts(text: str, decimal: str, scale: int, enough: str, name: str) -> list[str]:
    """What an aggregation brings along for :func:`mean`, under names that begin with ``name``.

    ``text`` are the values' texts, ``decimal`` a type of ``scale`` places that holds their sum;
    where it is not ``enough`` there is no mean.
    """
    total = f"sum(CAST({text} AS {decimal}))"
    places = f"max(length(split_part({text}, '.', 2)))"
    digits = f"replace(ltrim(CAST({total} AS VARCHAR), '-'), '.', '')"
    whole = (
        f"CAST(left({digits}, CAST(length({digits}) - {scale} + {places} AS INTEGER)) AS HUGEINT)"
    )
    return [
        f"CASE WHEN {enough} THEN {whole} END AS {name}_sum",
        f"CASE WHEN {total} < 0 THEN '-' ELSE '' END AS {name}_sign",
        f"CAST({places} AS INTEGER) AS {name}_places",
        f"CAST(count({text}) AS HUGEINT) AS {name}_count",
    ]


def used(name: str) -> list[str]:
    """The names of these parts."""
    return [f"{name}_{part}" for part in ("sum", "sign", "places", "count")]


def mean(name: str) -> str:
    """The text of the mean, from its parts as columns."""
    total, sign, places, count = used(name)
    rest = f"(({total} % {count}) * {_UNIT})"
    fraction, left_over = f"({rest} // {count})", f"({rest} % {count})"
    up = f"(2 * {left_over} > {count} OR (2 * {left_over} = {count} AND {fraction} % 2 = 1))"
    rounded = f"({fraction} + CAST({up} AS INTEGER))"
    quotient = f"({total} // {count} + {rounded} // {_UNIT})"
    digits = (
        f"CAST({quotient} AS VARCHAR) || "
        f"lpad(CAST({rounded} % {_UNIT} AS VARCHAR), {MEAN_PLACES}, '0')"
    )
    behind = f"({places} + {MEAN_PLACES})"
    # At least one digit stands before the point.
    padded = f"lpad({digits}, greatest(CAST(length({digits}) AS INTEGER), {behind} + 1), '0')"
    spelt = f"left({padded}, -{behind}) || '.' || right({padded}, {behind})"
    return f"{sign} || rtrim(rtrim({spelt}, '0'), '.')"
