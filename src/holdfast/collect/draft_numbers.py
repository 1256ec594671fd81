"""How a source seems to write its numbers. A guess for a draft. Pure.

``1.234`` is 1234 to some and a little more than one to others. A column of which every number can
be read in both ways is read as the rest of its file is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast.collect import values
from holdfast.collect.recognised import Plain

STYLES = ((",", "."), (" ", "."), ("'", "."), ("", ","), (".", ","), (" ", ","))

_DOUBTFUL = {
    mark: re.compile(
        rf"[+\-\u2212\uff0d]?(?:[1-9][0-9]{{0,2}}{re.escape(mark)}[0-9]{{3}}|[0-9]{{1,3}})"
    )
    for mark in ".,"
}


def _surely(point: str, thousands: str) -> re.Pattern[str]:
    """What is written with this decimal point, and cannot be read otherwise."""
    p, t = re.escape(point), re.escape(thousands)
    grouped = rf"[0-9]{{1,3}}(?:{t}[0-9]{{3}})"
    return re.compile(
        rf"[+\-\u2212\uff0d]?(?:[0-9]+{p}(?:[0-9]{{1,2}}|[0-9]{{4,20}})|(?:0|[0-9]{{4,20}}){p}[0-9]{{3}}"
        rf"|{grouped}{{1,9}}{p}[0-9]+|{grouped}{{2,9}})"
    )


_SURELY = {".": _surely(".", ","), ",": _surely(",", ".")}
_TEXT_MAX = 64
_DOTTED_DAY = re.compile(r"[0-3]?[0-9]\.[01]?[0-9]\.(?:[0-9]{2}|[0-9]{4})").fullmatch


def is_number(text: str, thousands: str, point: str) -> bool:
    try:
        values.decimal_text(values.localised(text, thousands, point))
    except ValueError:
        return False
    return True


def number_style(texts: list[str], point: str = "") -> Plain:
    """Thousands separator and decimal mark of texts that are all numbers written so.

    Where they can be read in two ways they have the decimal ``point``, if one is given.
    """
    mark = doubtful(texts) if point else ""
    if mark:
        if mark == point:
            return {} if point == "." else {"decimal": point}
        return {"thousands": mark} | ({} if point == "." else {"decimal": point})
    for thousands, decimal in STYLES if texts else ():
        if all(is_number(text, thousands, decimal) for text in texts):
            # A blank between thousands is any blank: French ones are those that break no line.
            marks = thousands + values.LIKE.get(thousands, "")
            used = any(mark in text for mark in marks for text in texts)
            style = {"thousands": thousands} if used else {}
            return style | ({"decimal": decimal} if decimal != "." else {})
    return {}


def doubtful(texts: list[str]) -> str:
    """The mark that stands before three digits in all numbers that have one, or nothing."""
    for mark, pattern in _DOUBTFUL.items():
        if any(mark in text for text in texts) and all(pattern.fullmatch(text) for text in texts):
            return mark
    return ""


def point_of(columns: Iterable[list[str]], days: Iterable[str], delimiter: str) -> str:
    """The decimal point of a file: of its columns that leave no doubt, or else of its kind.

    Cells are told apart by ``;``, and days written with dots, where the comma begins the decimals.
    """
    points = set()
    for texts in columns:
        short = [text for text in texts if len(text) <= _TEXT_MAX]
        for point, pattern in _SURELY.items():
            other = "," if point == "." else "."
            if any(pattern.fullmatch(text) for text in short) and all(
                is_number(text, other, point) for text in texts
            ):
                points.add(point)
    if len(points) == 1:
        return points.pop()
    return "," if delimiter == ";" or any(map(_DOTTED_DAY, days)) else ""


def in_two_ways(path: str, texts: list[str], style: Plain) -> str:
    """The note on a column of numbers that can be read in two ways; empty if it cannot."""
    mark = doubtful(texts)
    if not mark:
        return ""
    telling = next(text for text in texts if mark in text)
    if style.get("thousands") == mark:
        taken = telling.replace(mark, "")
        instead = (
            "leave out `thousands` and `decimal`"
            if mark == "."
            else 'write `decimal: ","` instead of `thousands`'
        )
        otherwise = f"If the decimals begin at its {mark!r}, {instead}."
    else:
        taken = telling.replace(mark, ".")
        point = "" if mark == "," else ' and `decimal: ","`'
        gone = " instead of `decimal`" if mark == "," else ""
        otherwise = (
            f'If {mark!r} stands between thousands, write `thousands: "{mark}"`{point}{gone}.'
        )
    return f"{path}: {telling} can be two numbers: it is taken for {taken}. {otherwise}"
