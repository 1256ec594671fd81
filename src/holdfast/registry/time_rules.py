"""Whether times, zones, periods and schedules of a profile can be read. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from holdfast.kernel.errors import Problem
from holdfast.registry.model import (
    Period,
    Profile,
    Schedule,
)
from holdfast.registry.parts import duration_seconds
from holdfast.registry.path_rules import origin_problems, value_path_problems
from holdfast.registry.schema import did_you_mean

EPOCHS = ("epoch-s", "epoch-ms")
_NAMED_TIMES = (*EPOCHS, "excel", "rfc-2822")


def time_problems(profile: Profile) -> Iterator[Problem]:
    """What is wrong with the zones and periods of ``profile``."""
    yield from zone_problems(profile.timezone, "timezone")
    if profile.period:
        yield from _period(profile, profile.period)
    if profile.freshness and duration_seconds(profile.freshness) <= 0:
        yield Problem("freshness", "silence of no length is never normal")
    if profile.schedule:
        yield from schedule_problems(profile.schedule, "schedule")


def frequencies_of(period: Period) -> frozenset[str]:
    """The frequencies that a period read so can have: its own, those of codings and spellings."""
    spelt = (_frequency_of(name) for name in period.spellings.values())
    return frozenset({period.frequency, *period.codings.values(), *spelt})


def _frequency_of(name: str) -> str:
    """The frequency of a period by its name; see :data:`_PERIOD_NAME`."""
    kind = name[5:6]
    if kind in ("S", "Q", "W"):
        return kind
    return {4: "A", 7: "M"}.get(len(name), "D")


def _period(profile: Profile, period: Period) -> Iterator[Problem]:
    yield from origin_problems("period", period.path, period.join)
    if period.path is not None:
        yield from value_path_problems(profile, period.path, "period.path")
    for index, path in enumerate(period.join):
        yield from value_path_problems(profile, path, f"period.join[{index}]")
    yield from reading_problems(period.format, "period.format")
    yield from _months(period)
    for pattern in period.codings:
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            yield Problem("period.codings", f"{pattern!r} is no regular expression: {error}")
            continue
        if not _YEARS & set(groups):
            yield Problem("period.codings", f"{pattern!r} has no group (?P<year>…)")
        yield from _fiscal(period, pattern, set(groups))
    for text, name in period.spellings.items():
        if not _PERIOD_NAME.fullmatch(name):
            yield Problem(
                f"period.spellings.{text}",
                f"{name!r} names no period",
                "such as 1976, 1976-S2, 1976-Q3, 1976-07, 1976-W31 or 1976-07-01",
            )
    annual = period.frequency == "A" or "A" in period.codings.values()
    if period.year_start != 1 and not annual and not any("fiscal_" in p for p in period.codings):
        yield Problem(
            "period.year_start",
            "only a year (frequency A) can begin in another month",
            "for quarters and months of such years write codings with (?P<fiscal_year>…)",
        )


def _months(period: Period) -> Iterator[Problem]:
    names = period.months
    if len(names) % 12:
        yield Problem(
            "period.months", f"{len(names)} names are not those of twelve months", "from January on"
        )
        return
    for index, name in enumerate(names):
        same = re.compile(re.escape(unicodedata.normalize("NFC", name)), re.I).fullmatch
        if not any(letter.isalpha() for letter in name):
            yield Problem(f"period.months[{index}]", f"{name!r} is no name")
        elif any(
            same(unicodedata.normalize("NFC", other)) and number % 12 != index % 12
            for number, other in enumerate(names[:index])
        ):
            yield Problem(f"period.months[{index}]", f"{name!r} is another month, too")


_YEARS = frozenset({"year", "end_year", "fiscal_year", "fiscal_end_year"})
_FISCAL = frozenset({"fiscal_year", "fiscal_end_year"})
_LONG = {"A": 12, "S": 6, "Q": 3, "M": 1}
_NAMED = {"S": "halves", "Q": "quarters", "M": "months"}


def _fiscal(period: Period, pattern: str, groups: set[str]) -> Iterator[Problem]:
    """A part of a year that begins in April is the calendar's or that year's: it must be said."""
    frequency, where = period.codings[pattern], "period.codings"
    if period.year_start != 1 and "end_year" in groups and frequency in _NAMED:
        yield Problem(
            where,
            f"{pattern!r} does not say whether its year is the calendar's",
            "(?P<year>…) is; a part of a year that is named by its end has (?P<fiscal_end_year>…)",
        )
        return
    if not groups & _FISCAL:
        if period.year_start != 1 and frequency in _NAMED and "sub" in groups:
            named = _NAMED[frequency]
            yield Problem(
                where,
                f"{pattern!r} does not say whether its {named} count from year_start",
                f"(?P<fiscal_year>…) says that they do; the calendar's {named} are "
                f"(?P<{_CALENDAR[frequency]}>…) instead of (?P<sub>…)",
            )
        return
    if frequency not in _LONG:
        yield Problem(where, f"{pattern!r}: only A, S, Q and M are parts of a fiscal year")
    elif _CALENDAR.get(frequency) in groups and (period.year_start - 1) % _LONG[frequency]:
        yield Problem(
            where,
            f"{pattern!r} names the calendar's {_NAMED[frequency]}, and one of them lies in two "
            f"years that begin in month {period.year_start}",
            "(?P<sub>…) is for those that count from there",
        )


_CALENDAR = {"S": "half", "Q": "quarter", "M": "month"}


_PERIOD_NAME = re.compile(
    r"[0-9]{4}(?:-S[12]|-Q[1-4]|-W(?:0[1-9]|[1-4][0-9]|5[0-3])"
    r"|-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?"
)


def zone_problems(name: str, where: str) -> Iterator[Problem]:
    """What is wrong with the name of a time zone."""
    if not _known_zone(name):
        hint = did_you_mean(name, sorted(_zone_names()), compared=1000)
        near = hint if hint.startswith("did") else "an IANA name such as Europe/Paris, or UTC"
        yield Problem(where, f"{name!r} is not a known time zone", near)


def _known_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    if name == "UTC":
        return True
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    from zoneinfo import available_timezones

    return frozenset(available_timezones())


_DIRECTIVES = frozenset("aAwdbBmyYHIpMSfzZjUWcxXGuV%")
_SEVERAL = {"c": "abdHMSY", "x": "mdy", "X": "HMS"}
"""Directives that stand for others."""


def time_format_problems(
    text: str, where: str, named: tuple[str, ...] = _NAMED_TIMES
) -> Iterator[Problem]:
    """What is wrong with the way a time is written: a pattern, or one of ``named``."""
    if not text or text in named:
        return
    used = re.findall(r"%(.?)", text, re.S)
    for letter in used:
        if letter not in _DIRECTIVES or not letter:
            yield Problem(where, f"%{letter} is no directive of strptime")
    parts = "".join(_SEVERAL.get(letter, letter) for letter in used if letter != "%")
    for letter in dict.fromkeys(parts):
        if parts.count(letter) > 1:
            yield Problem(where, f"{text!r} reads %{letter} twice", "each part of a time once")
    if not used:
        yield Problem(
            where,
            f"{text!r} reads no part of a time",
            f"write a pattern such as %Y-%m-%d, or {', '.join(named)}",
        )


_WEEKDAYS = frozenset("aAwu")
_MONTHS = frozenset("mbBjUWV")
_WEEK = '`codings` read a week: "(?P<year>[0-9]{4})-(?P<sub>[0-9]{2})": W'


def reading_problems(text: str, where: str) -> Iterator[Problem]:
    """What is wrong with the way in which a source's times are read.

    What a pattern does not say the library makes up, or drops: a time without its year is one of
    1900, a week without a day of it is the first of January.
    """
    problems = list(time_format_problems(text, where))
    if problems or not text or text in _NAMED_TIMES:
        yield from problems
        return
    letters = re.findall(r"%(.)", text, re.S)
    parts = {part for letter in letters for part in _SEVERAL.get(letter, letter)} - {"%"}
    if not parts & set("YyG"):
        yield Problem(
            where,
            f"{text!r} reads no year",
            "`join` brings it from another column; a time of no day is `type: string`",
        )
    elif parts & set("UW") and not parts & _WEEKDAYS:
        yield Problem(where, f"{text!r} reads a week and no day in it", _WEEK)
    elif "d" in parts and not parts & _MONTHS:
        yield Problem(where, f"{text!r} reads a day and no month")
    if "I" in parts and "p" not in parts:
        yield Problem(where, f"{text!r} reads no half of the day", "%H counts hours to 24")
    elif "p" in parts and "I" not in parts:
        yield Problem(where, f"{text!r} reads hours to 24 and AM or PM", "%I counts hours to 12")


def schedule_problems(schedule: Schedule, where: str) -> Iterator[Problem]:
    """What is wrong with a schedule, a profile's or an operator's."""
    if (schedule.every is None) == (schedule.cron is None):
        yield Problem(where, "exactly one of every and cron is needed")
    if schedule.every is not None:
        every = duration_seconds(schedule.every)
        if every < 1:
            yield Problem(f"{where}.every", "more often than once a second is not collected")
        elif duration_seconds(schedule.jitter) > every:
            yield Problem(f"{where}.jitter", "the jitter is longer than the interval")
    if schedule.cron is not None:
        yield from _cron(schedule.cron, f"{where}.cron")
    yield from zone_problems(schedule.timezone, f"{where}.timezone")


_CRON_VALUE = r"(?:\*|(?:[0-9]{1,2}|[A-Za-z]{3})(?:-(?:[0-9]{1,2}|[A-Za-z]{3}))?)(?:/[0-9]{1,2})?"
_CRON_PART = re.compile(rf"{_CRON_VALUE}(?:,{_CRON_VALUE})*")
"""Values, ranges, steps and lists; no ``R`` or ``H``, which differ from one look to the next."""


def _cron(text: str, where: str) -> Iterator[Problem]:
    from croniter import CroniterError, croniter

    parts = text.split()
    if len(text) > 256 or len(parts) != 5 or not all(map(_CRON_PART.fullmatch, parts)):
        yield Problem(
            where,
            f"{text[:60]!r} is no cron expression of five fields",
            "minute hour day-of-month month day-of-week, such as 0 6 * * mon-fri",
        )
        return
    try:
        # A fixed day: whether an expression ever fires must not depend on when it is asked.
        croniter(text, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
    except (CroniterError, ValueError, KeyError, AttributeError) as error:
        yield Problem(where, f"{text!r} never fires: {error}")
