"""Bounds on when a period begins: of a run, and of whoever asks for a part. Pure.

They are given in days or in UTC times. Periods of a day and longer begin with a day, hours and
instants at a moment; a range has to mean the same for both, and for whoever collects and whoever
withdraws what did not come again. Texts are compared, so a bound has the spelling that what it is
compared with has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from holdfast.kernel.clock import parse_timestamp, timestamp


@dataclass(frozen=True, slots=True)
class Within:
    """A half-open range, as the text of the first and of the first after it: of ``days`` for
    periods that begin with one, of ``moments`` for the others. An empty end is none."""

    days: tuple[str, str]
    moments: tuple[str, str]

    def holds(self, period_start: str) -> bool:
        """Whether a period that begins so begins in the range."""
        start, end = self.moments if "T" in period_start else self.days
        return start <= period_start and (not end or period_start < end)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asked its source for, and so what it may withdraw: the periods that begin in one
    of these ranges, and what has no period if it is ``undated``."""

    ranges: tuple[Within, ...]
    undated: bool = False


decode_asked = msgspec.json.Decoder(Asked | None).decode
"""What was kept of a run: nothing if it asked for everything there is."""


def within(start: str, end: str, timezone: str) -> Within:
    """The range from ``start`` to before ``end``, each a day in ``timezone`` or a UTC time.

    ``ValueError`` for what the calendar does not have.
    """
    zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    first, last = _bound(start, zone), _bound(end, zone)
    return Within((first[0], last[0]), (first[1], last[1]))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TENS = {"epoch-s": 6, "epoch-ms": 3}
_UTC_NAME = re.compile(r"\b(?:UTC|GMT|UT|Z)\b", re.IGNORECASE).search


def since(text: str, pattern: str, timezone: str) -> Within:
    """Everything from the moment on that a source's spelling names: a year is its first moment.

    ``pattern`` is strptime's, ``epoch-s``, ``epoch-ms``, or empty for ISO 8601; ``ValueError`` for
    what is not written so. It means what it means to the worker that asks the source.
    """
    zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    if pattern in _TENS:
        try:
            moment = _EPOCH + timedelta(microseconds=int(Decimal(text).scaleb(_TENS[pattern])))
        except (ArithmeticError, OverflowError) as error:
            raise ValueError("is no time since the epoch") from error
    else:
        plain = text.strip()
        moment = datetime.strptime(plain, pattern) if pattern else datetime.fromisoformat(plain)  # noqa: DTZ007
        if moment.tzinfo is None:
            named = "%Z" in pattern and _UTC_NAME(plain)
            moment = moment.replace(tzinfo=UTC if named else zone)
    first = _first(moment, zone)
    return Within((first[0], ""), (first[1], ""))


def beginnings(text: str, timezone: str) -> tuple[str, str]:
    """A bound as the first day and as the first moment at or after it.

    It is a day, a month or a year in ``timezone``, or a UTC time. ``ValueError`` as above.
    """
    if "T" not in text:
        text = f"{text}{'-01-01'[len(text) - 4 :]}" if len(text) < 10 else text
    return _bound(text, UTC if timezone == "UTC" else ZoneInfo(timezone))


def _bound(text: str, zone: tzinfo) -> tuple[str, str]:
    """The first day that begins at or after a bound, and its moment."""
    if "T" not in text:
        midnight = datetime.fromisoformat(text).replace(tzinfo=zone)
        return text, timestamp(midnight.astimezone(UTC))
    return _first(parse_timestamp(text), zone)


def _first(moment: datetime, zone: tzinfo) -> tuple[str, str]:
    day = moment.astimezone(zone).date()
    if datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) < moment:
        day += timedelta(days=1)
    return day.isoformat(), timestamp(moment.astimezone(UTC))


def bound(text: str) -> str:
    """A day (or the beginning of its name) or a UTC time, spelled as beginnings of periods are.

    A midnight is its day: before all times of that day, and where a period of the day begins.
    ``ValueError`` for a time that there is not.
    """
    if "T" not in text:
        return text
    return timestamp(parse_timestamp(text)).removesuffix("T00:00:00.000000Z")
