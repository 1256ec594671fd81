"""Which day ``01/02/2024`` is: the first of February, or the second of January. Pure.

A text of which both orders make a day says nothing itself. What stands around it may: days of the
same file that can be read in one way only, whether the rows go on step by step under one of the
orders, and how the file is written otherwise. What was chosen, and why, is for a person to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from itertools import pairwise

from holdfast.collect.draft_time import days_of, frequency_of
from holdfast.collect.recognised import Plain

_DAY_FIRST = {
    "%m/%d/%Y": "%d/%m/%Y", "%m/%d/%y": "%d/%m/%y", "%m-%d-%Y": "%d-%m-%Y",
}  # fmt: skip
_MONTH_FIRST = {day: month for month, day in _DAY_FIRST.items()}
_WORDS = {"%m": "month", "%d": "day", "%Y": "year", "%y": "year"}
_RUN = 3
"""So many days make steps that are alike by no chance."""
_SORTED = 5
"""So many different days are in order by no chance, whatever is between them."""
_DAYS_BETWEEN = 4
"""Days of work are so many apart at most: over a weekend and a holiday."""
_TONGUES = re.compile(
    r"(^|[^a-z])(datum|jahr|monat|wert|zeit|stichtag|fecha|valor|mes|dia|jour|mois|ann[eé]e|valeur"
    r"|giorno|mese|anno|valore|dag|maand|jaar|waarde|dato|dzie[nń]|rok)($|[^a-z])", re.I,
)  # fmt: skip
"""Names of columns in languages that write no month before its day."""


def settled(
    period: Plain, texts: list[str], others: Iterable[list[str]], names: Iterable[str], manner: str
) -> tuple[Plain, str]:
    """The period with the order of day and month that is likelier, and the note on it.

    ``texts`` are the days in the order of the rows, ``others`` the texts of the file's other
    columns, ``names`` what all columns are called, ``manner`` is what of the file is written as in
    countries that write no month before its day, if anything is. The note is empty where the texts
    can be read in one way only.
    """
    taken = str(period.get("format", ""))
    month = taken if taken in _DAY_FIRST else _MONTH_FIRST.get(taken, "")
    if not month:
        return period, ""
    day = _DAY_FIRST[month]
    by_month, by_day = days_of(texts, month), days_of(texts, day)
    if not by_month or not by_day or by_month == by_day:
        return period, ""
    first, why = _likelier(by_day, by_month, others, names, manner, (day, month))
    chosen, other = (day, month) if first == "day" else (month, day)
    found = {**period, "format": chosen, "frequency": frequency_of(days_of(texts, chosen))}
    telling = next(text for text in texts if days_of([text], day) != days_of([text], month))
    instead = frequency_of(days_of(texts, other))
    beside = "" if instead == found["frequency"] else f" and `frequency` to {instead}"
    return found, (
        f"{telling} can be two days: it is taken for {_spelled(chosen)}, {why}. If the source "
        f"writes the {_spelled(other).partition('/')[0]} first, change the line `format` under "
        f'`period` to "{other}"{beside}.'
    )


def _spelled(pattern: str) -> str:
    return "/".join(_WORDS[part] for part in re.findall("%.", pattern))


def _likelier(
    by_day: list[str],
    by_month: list[str],
    others: Iterable[list[str]],
    names: Iterable[str],
    manner: str,
    patterns: tuple[str, str],
) -> tuple[str, str]:
    """``day`` or ``month``, and why: by the first of these that tells."""
    day, month = patterns
    columns = [texts for texts in others if texts]
    only_day = any(days_of(texts, day) and not days_of(texts, month) for texts in columns)
    only_month = any(days_of(texts, month) and not days_of(texts, day) for texts in columns)
    if only_day != only_month:
        return ("day" if only_day else "month"), "as those of another column must be"
    one, two = steps_of(by_day), steps_of(by_month)
    if bool(one) != bool(two):
        return ("day", f"since then {one}") if one else ("month", f"since then {two}")
    if not one:
        in_order = is_sorted(by_day), is_sorted(by_month)
        if in_order[0] != in_order[1]:
            return ("day" if in_order[0] else "month"), "since only then the rows are in order"
    unsure = f"though {two} otherwise" if one else ""
    if manner:
        return "day", _also(f"since {manner}", unsure)
    told = next((name for name in names if _TONGUES.search(name)), "")
    if told:
        return "day", _also(f"since a column is called {told}", unsure)
    both = f": day first {one}, month first {two}" if one else ""
    return "month", f"and nothing tells which it is{both}: look at the source"


def _also(why: str, unsure: str) -> str:
    return f"{why}, {unsure}" if unsure else why


def steps_of(days: list[str]) -> str:
    """What is said of days that go on in steps of one kind; empty of others.

    A month is a step from its first day or its last: no source tells of the second of each.
    """
    told = [date.fromisoformat(day) for day in dict.fromkeys(days)]
    steps = [(after - before).days for before, after in pairwise(told)]
    if len(told) < _RUN or not (all(step > 0 for step in steps) or all(s < 0 for s in steps)):
        return ""
    sizes = sorted(abs(step) for step in steps)
    if sizes[len(sizes) // 2] == 1 and sizes[-1] <= _DAYS_BETWEEN:
        return "one day follows the other"
    if sizes[0] == sizes[-1] and sizes[0] in {7, 14}:
        return "one week follows the other"
    months = [one.year * 12 + one.month for one in told]
    between = {abs(after - before) for before, after in pairwise(months)}
    if all(one.day == 1 for one in told) and len(between) == 1:
        return "they are first days of one month after the other"
    return ""


def is_sorted(days: list[str]) -> bool:
    told = list(dict.fromkeys(days))
    return len(told) >= _SORTED and (
        all(a < b for a, b in pairwise(told)) or all(a > b for a, b in pairwise(told))
    )
