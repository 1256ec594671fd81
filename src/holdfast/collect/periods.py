"""The time a record speaks of, with its frequency kept. Pure.

A period is a half-open interval: the month 2020-01 runs from 2020-01-01 to 2020-02-01. An instant
begins and ends at the same moment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import cast

import msgspec

from holdfast.collect.patterns import TEXT_MAX, bounded_pattern
from holdfast.collect.values import day, local_moment, moment_text, on_the_clock
from holdfast.records.model import PeriodValue

_YEAR = re.compile(r"([0-9]{4})").fullmatch
_HALF = re.compile(r"([0-9]{4})[- ]?[SHsh]0?([12])").fullmatch
_QUARTER = re.compile(r"([0-9]{4})[-/ ]?[Qq]0?([1-4])").fullmatch
_MONTH = re.compile(r"([0-9]{4})[-/ ]?[Mm]?(0[1-9]|1[0-2]|(?<=[-/Mm ])[1-9])").fullmatch
_WEEK = re.compile(r"([0-9]{4})[- ]?[Ww](0?[1-9]|[1-4][0-9]|5[0-3])").fullmatch

_ROMAN = {
    text: str(number)
    for number, text in enumerate(
        ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"), 1
    )
}
_MONTHS_LONG = {"A": 12, "S": 6, "Q": 3, "M": 1}

PeriodReader = Callable[[str], PeriodValue]


_SPAN = re.compile(r"([0-9]{4})[/-]([0-9]{2}|[0-9]{4})").fullmatch


def reader(
    frequency: str,
    pattern: str,
    codings: Mapping[str, str],
    zone: tzinfo,
    *,
    spellings: Mapping[str, str] | None = None,
    months: Sequence[str] = (),
    year_start: int = 1,
    ambiguous: str = "first",
) -> PeriodReader:
    """A function from the source's spelling to the period; ``ValueError`` for what is none.

    ``spellings`` come first: whole texts and the names of their periods. Then ``months`` become
    numbers.
    ``codings`` are tried in their order, whole text only, before the plain reading. Their named
    groups say what they found: ``year`` and ``sub`` (the number of the half, quarter, month or
    week), or, for days and hours, ``month``, ``day`` and ``hour``. With ``fiscal_year`` the number
    counts from ``year_start``.
    ``ambiguous`` is for times that the zone's clocks showed twice.
    """
    coded = [(bounded_pattern(text).fullmatch, to) for text, to in codings.items()]
    spelled = {text: of_name(to, year_start) for text, to in (spellings or {}).items()}

    def read(text: str) -> PeriodValue:
        if found := spelled.get(text.strip()):
            return msgspec.structs.replace(found, text=text)
        if coded and len(text) <= TEXT_MAX:
            for match, to in coded:
                if matched := match(text):
                    return of_parts(to, matched.groupdict(), text, zone, year_start, ambiguous)
        if frequency == "A" and year_start != 1 and not pattern:
            return _read_year(text, year_start)
        doubtful = year_start != 1 and not pattern and frequency in {"S", "Q"}
        if doubtful and _SHORT[frequency](text.strip()):
            raise ValueError("is of the fiscal year or of the calendar's; `codings` say which")
        return _read_plain(text, frequency, pattern, zone, ambiguous)

    if not months:
        return read
    numbered = _numbered(months)

    def read_numbered(text: str) -> PeriodValue:
        plain = text if text.strip() in spelled else numbered(text)
        return msgspec.structs.replace(read(plain), text=text)

    return read_numbered


def _numbered(months: Sequence[str]) -> Callable[[str], str]:
    """A function that writes the number of a month in the place of its name."""
    numbers = [f"{index % 12 + 1:02d}" for index in range(len(months))]
    plain = [unicodedata.normalize("NFC", name) for name in months]
    longest = sorted(zip(plain, numbers, strict=True), key=lambda each: -len(each[0]))
    # Which letters are the same is for the expression alone to say: it takes İ, ı, I and i for one,
    # and no way to fold a text does.
    either = "|".join(f"({re.escape(name)})" for name, _ in longest)
    name = re.compile(rf"(?<![^\W\d_])(?:{either})(?![^\W\d_])", re.I)

    def numbered(text: str) -> str:
        composed = unicodedata.normalize("NFC", text)
        return name.sub(lambda found: longest[cast("int", found.lastindex) - 1][1], composed)

    return numbered


def _read_year(text: str, month: int) -> PeriodValue:
    """A year that does not begin in January, by the calendar year in which it does."""
    plain = text.strip()
    if found := _YEAR(plain):
        return _year(int(found[1]), month, text)
    found = _SPAN(plain)
    if found is None:
        raise ValueError("is not a year such as 2020 or 2020/21")
    year = int(found[1])
    if int(found[2]) not in {year + 1, (year + 1) % 100}:
        raise ValueError("does not name two years that follow each other")
    return _year(year, month, text)


def _year(year: int, month: int, text: str) -> PeriodValue:
    start = date(year, month, 1).isoformat()
    end = date(year + 1, month, 1).isoformat()
    return PeriodValue(start=start, end=end, frequency="A", text=text)


_NAMES: tuple[tuple[str, Callable[[str], re.Match[str] | None]], ...] = (
    ("A", _YEAR),
    ("S", _HALF),
    ("Q", _QUARTER),
    ("W", _WEEK),
    ("M", _MONTH),
)


def of_name(text: str, year_start: int = 1) -> PeriodValue:
    """The period that a short name such as ``1976-Q3`` stands for, whatever its frequency."""
    for frequency, matches in _NAMES:
        if found := matches(text):
            if frequency == "A" and year_start != 1:
                return _year(int(found[1]), year_start, text)
            return found_short(frequency, found, text)
    try:
        return of_day("D", date.fromisoformat(text), text)
    except ValueError:
        raise ValueError(f"is no period: {text!r}") from None


def _read_plain(
    text: str, frequency: str, pattern: str, zone: tzinfo, ambiguous: str
) -> PeriodValue:
    if frequency in {"H", "I"}:
        at = local_moment(text, pattern, zone, ambiguous, hourly=frequency == "H")
        return of_moment(frequency, at, text, zone)
    if not pattern and (found := _SHORT[frequency](text.strip())):
        return found_short(frequency, found, text)
    try:
        inside = day(text, pattern, zone)
    except ValueError:
        if pattern:
            raise
        raise ValueError(_is_none(text, frequency)) from None
    return of_day(frequency, inside, text)


_EXAMPLES = {
    "A": "a year such as 2020",
    "S": "a half year such as 2020-S1",
    "Q": "a quarter such as 2020-Q1",
    "M": "a month such as 2020-01",
    "W": "a week such as 2020-W05",
    "D": "a day such as 2020-01-31",
}


def _is_none(text: str, frequency: str) -> str:
    """Why a text names no period, and which member of the profile could read it."""
    said = f"is not {_EXAMPLES[frequency]}"
    if frequency == "A" and _SPAN(text.strip()):
        return f"{said}; `year_start` says in which month a year of two begins"
    return f"{said}; `format`, `codings` or `spellings` read others"


_SHORT: dict[str, Callable[[str], re.Match[str] | None]] = {
    "A": _YEAR,
    "S": _HALF,
    "Q": _QUARTER,
    "M": _MONTH,
    "W": _WEEK,
    "D": lambda _text: None,
}


def found_short(frequency: str, found: re.Match[str], text: str) -> PeriodValue:
    """The period of a short spelling such as ``2020-Q1`` or ``2020M01``."""
    year = int(found[1])
    if frequency == "W":
        return of_day("W", _monday(year, int(found[2])), text)
    number = int(found[2]) if frequency != "A" else 1
    return of_day(frequency, date(year, (number - 1) * _MONTHS_LONG[frequency] + 1, 1), text)


def _monday(year: int, week: int) -> date:
    try:
        return date.fromisocalendar(year, week, 1)
    except ValueError:
        raise ValueError(f"is not a week: {year} has none of the number {week}") from None


def of_parts(
    frequency: str,
    parts: Mapping[str, str | None],
    text: str,
    zone: tzinfo,
    year_start: int = 1,
    ambiguous: str = "first",
) -> PeriodValue:
    """The period whose parts a coding has found; a part that is missing or no number is refused."""

    def part(name: str, other: str = "") -> int:
        value = parts.get(name) or parts.get(other)
        if value and other == "sub":
            value = _ROMAN.get(value.upper(), value)
        if not value or not value.isascii() or not value.isdigit():
            raise ValueError(f"has no {name} for a period of frequency {frequency}")
        return int(value)

    fiscal = bool(parts.get("fiscal_year") or parts.get("fiscal_end_year"))
    if parts.get("end_year") or parts.get("fiscal_end_year"):
        year = part("end_year", "fiscal_end_year") - (1 if year_start != 1 else 0)
    else:
        year = part("year", "fiscal_year")
    if frequency == "A" and year_start != 1:
        return _year(year, year_start, text)
    if frequency == "W":
        return of_day("W", _monday(year, part("week", "sub")), text)
    if frequency in _MONTHS_LONG:
        name = {"A": "", "S": "half", "Q": "quarter", "M": "month"}[frequency]
        number = part(name, "sub") if name else 1
        months = _MONTHS_LONG[frequency]
        if not 1 <= number <= 12 // months:
            raise ValueError(f"has no {name} {number}")
        month = (number - 1) * months
        if fiscal and parts.get(name):  # by its calendar number, in that year
            month += 12 if month + 1 < year_start else 0
        elif fiscal:
            month += year_start - 1
            return _of_months(frequency, year, month, text)
        return of_day(frequency, date(year + month // 12, month % 12 + 1, 1), text)
    if frequency == "D":
        return of_day("D", date(year, part("month"), part("day")), text)
    hour = part("end_hour") - 1 if parts.get("end_hour") else part("hour")
    if not 0 <= hour <= 23:
        raise ValueError(f"has no hour {hour}")
    plain = datetime(year, part("month"), part("day"), hour)  # noqa: DTZ001
    at = on_the_clock(plain, zone, ambiguous, hourly=frequency == "H")
    return of_moment(frequency, at, text, zone)


def _of_months(frequency: str, year: int, month: int, text: str) -> PeriodValue:
    """The months of a period from the ``month``-th after January of ``year`` on."""
    start, end = (divmod(month + more, 12) for more in (0, _MONTHS_LONG[frequency]))
    return PeriodValue(
        start=date(year + start[0], start[1] + 1, 1).isoformat(),
        end=date(year + end[0], end[1] + 1, 1).isoformat(),
        frequency=frequency,  # type: ignore[arg-type]
        text=text,
    )


def of_day(frequency: str, inside: date, text: str) -> PeriodValue:
    """The period of ``frequency`` (A to D) that the day lies in."""
    if frequency == "D":
        start, end = inside, inside + timedelta(days=1)
    elif frequency == "W":
        start = inside - timedelta(days=inside.weekday())
        end = start + timedelta(days=7)
    else:
        months = _MONTHS_LONG[frequency]
        first = (inside.month - 1) // months * months
        start = date(inside.year, first + 1, 1)
        year, month = divmod(first + months, 12)
        end = date(inside.year + year, month + 1, 1)
    return PeriodValue(
        start=start.isoformat(),
        end=end.isoformat(),
        frequency=frequency,  # type: ignore[arg-type]
        text=text,
    )


def of_moment(frequency: str, at: datetime, text: str, zone: tzinfo) -> PeriodValue:
    """The local hour that holds the moment, or the instant itself."""
    if frequency == "I":
        instant = moment_text(at)
        return PeriodValue(start=instant, end=instant, frequency="I", text=text)
    local = at.astimezone(zone).replace(minute=0, second=0, microsecond=0)
    start = local.astimezone(UTC)
    end = moment_text(start + timedelta(hours=1))
    return PeriodValue(start=moment_text(start), end=end, frequency="H", text=text)


def name(period: PeriodValue) -> str:
    """The one short name of a period, whatever the source's spelling: part of a record's key.

    Periods of different frequency never share a name: ``2020`` is the year, ``2020-01`` its first
    month, ``2020-01-01`` its first day. A quarter or half year that is none of the calendar's
    is its first day and its frequency.
    """
    start = period.start
    match period.frequency:
        case "A":
            return start[:4]
        case "S" | "Q" as kind:
            months = _MONTHS_LONG[kind]
            number, inside = divmod(int(start[5:7]) - 1, months)
            return f"{start} {kind}" if inside else f"{start[:4]}-{kind}{number + 1}"
        case "M":
            return start[:7]
        case "W":
            year, week, _ = date.fromisoformat(start).isocalendar()
            return f"{year:04d}-W{week:02d}"
        case "H":
            return start[:16] + "Z"
        case _:
            return start
