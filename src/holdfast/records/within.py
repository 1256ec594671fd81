"""Bounds on when a period begins: of a backfill, and of whoever asks for a part. Pure.

They are given in days or in UTC times. Periods of a day and longer begin with a day, hours and
instants at a moment; a range has to mean the same for both, and for whoever collects and whoever
withdraws what did not come again. Texts are compared, so a bound has the spelling that what it is
compared with has.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from holdfast.kernel.clock import parse_timestamp, timestamp


@dataclass(frozen=True, slots=True)
class Within:
    """A half-open range, as the text of the first and of the first after it: of ``days`` for
    periods that begin with one, of ``moments`` for the others."""

    days: tuple[str, str]
    moments: tuple[str, str]

    def holds(self, period_start: str) -> bool:
        """Whether a period that begins so begins in the range."""
        start, end = self.moments if "T" in period_start else self.days
        return start <= period_start < end


def within(start: str, end: str, timezone: str) -> Within:
    """The range from ``start`` to before ``end``, each a day in ``timezone`` or a UTC time.

    ``ValueError`` for what the calendar does not have.
    """
    zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    first, last = _bound(start, zone), _bound(end, zone)
    return Within((first[0], last[0]), (first[1], last[1]))


def _bound(text: str, zone: tzinfo) -> tuple[str, str]:
    """The first day that begins at or after a bound, and its moment."""
    if "T" not in text:
        midnight = datetime.fromisoformat(text).replace(tzinfo=zone)
        return text, timestamp(midnight.astimezone(UTC))
    moment = parse_timestamp(text)
    day = moment.astimezone(zone).date()
    if datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) < moment:
        day += timedelta(days=1)
    return day.isoformat(), timestamp(moment)


def bound(text: str) -> str:
    """A day (or the beginning of its name) or a UTC time, spelled as beginnings of periods are.

    A midnight is its day: before all times of that day, and where a period of the day begins.
    ``ValueError`` for a time that there is not.
    """
    if "T" not in text:
        return text
    return timestamp(parse_timestamp(text)).removesuffix("T00:00:00.000000Z")
