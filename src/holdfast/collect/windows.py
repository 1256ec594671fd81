"""Windows over time: a long history cut into requests that a source will answer. Pure.

The same profile, start and end give the same windows: an attempt that takes a run over asks for
what the one before it asked for.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from holdfast.collect import values
from holdfast.collect.cursor import CursorState
from holdfast.collect.errors import MappingRefused
from holdfast.collect.mapping_fields import zone_of
from holdfast.collect.pages import Section
from holdfast.registry.model import Profile
from holdfast.registry.parts import calendar_months, duration_seconds
from holdfast.registry.source import Windows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS: tuple[tuple[str, timedelta], ...] = (
    ("f", timedelta(microseconds=1)),
    ("SsTXc", timedelta(seconds=1)),
    ("M", timedelta(minutes=1)),
    ("HI", timedelta(hours=1)),
    ("djDxauwUWV", timedelta(days=1)),
)
"""Directives of strftime and the smallest step that a time written with them can take."""


def sections_of(
    profile: Profile,
    cursor: CursorState | None,
    now: datetime,
    within: tuple[str, str] = ("", ""),
) -> Iterator[Section]:
    """What the requests of a run that began at ``now`` are told beside the source's own words.

    One section, or one for each window. Where the cursor is asked for by the parameter of the
    windows' start, the windows begin where the cursor stands. ``within`` are the days or UTC times
    that a backfill is about: its windows begin and end there.
    """
    spec, zone = profile.source.windows, zone_of(profile.timezone)
    asked = cursor.parameters() if cursor is not None else {}
    section = Section().with_(profile.cursor.into, asked) if profile.cursor else Section()
    if spec is None:
        yield section
        return
    since = moment_of(within[0], "", zone) if within[0] else None
    until = now
    if within[1]:
        # A range ends before its end: no window is asked for that begins there.
        until = min(now, moment_of(within[1], "", zone) - timedelta(microseconds=1))
    if since is None and profile.cursor and spec.start_parameter in asked:
        since = moment_of(asked[spec.start_parameter], profile.cursor.format, zone)
    for window in windows(spec, zone, until=until, since=since):
        yield section.with_(spec.into, window)


def windows(
    spec: Windows, zone: tzinfo, *, until: datetime, since: datetime | None = None
) -> Iterator[dict[str, str]]:
    """The two parameters of every window, the oldest first; at least one.

    From ``since``, or else ``spec.start``. The last window takes in ``until``, however coarsely the
    source writes times. Raises :class:`MappingRefused` for a start that cannot be read.
    """
    start = moment_of(spec.start, spec.format, zone) if since is None else since
    start, until = start.astimezone(zone), until.astimezone(zone)
    begin, number = start, 0
    while True:
        number += 1
        end = _after(start, spec.span, number)
        if end <= begin:
            raise MappingRefused(f"cannot cut windows of {spec.span}: that is no time at all")
        last = end > until
        yield {
            spec.start_parameter: spelled(begin, spec.format),
            spec.end_parameter: _end(spec, begin, max(until, begin) if last else end, last=last),
        }
        if last:
            return
        begin = end


def _after(start: datetime, span: str, number: int) -> datetime:
    """Where window ``number`` ends: counted from the start, so that months do not drift."""
    months = calendar_months(span) * number
    try:
        if not months:
            return start + timedelta(seconds=duration_seconds(span)) * number
        return _months_later(start, months)
    except (OverflowError, ValueError) as error:
        raise MappingRefused(f"cannot cut windows of {span}: they lead out of time") from error


def _months_later(start: datetime, months: int) -> datetime:
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])  # a month from 31 January: in February
    return start.replace(year=year, month=month + 1, day=day)


def _end(spec: Windows, begin: datetime, end: datetime, *, last: bool) -> str:
    """How a window's end is sent. The last one ends *at* a moment that it must take in."""
    if spec.end == "inclusive":
        return spelled(end if last else max(begin, end - step_of(spec.format)), spec.format)
    return spelled(_step_after(end, spec.format) if last else end, spec.format)


def _step_after(moment: datetime, pattern: str) -> datetime:
    used = _directives(pattern)
    if _is_calendar(used):
        return _months_later(moment.replace(day=1), 1 if used & set("mbB") else 12)
    return moment + step_of(pattern)


def step_of(pattern: str) -> timedelta:
    """The smallest step between two times written so.

    Of months and years it is a day: the day before one begins is in the one before.
    """
    if pattern in ("epoch-s", "epoch-ms"):
        return timedelta(seconds=1) if pattern == "epoch-s" else timedelta(milliseconds=1)
    used = _directives(pattern)
    return next((step for letters, step in _STEPS if used & set(letters)), timedelta(days=1))


def _is_calendar(used: set[str]) -> bool:
    """Whether times are written in months or years, and no finer."""
    return bool(used) and not any(used & set(letters) for letters, _ in _STEPS)


def _directives(pattern: str) -> set[str]:
    if not pattern:
        return {"S"}
    return set(re.findall(r"%([A-Za-z])", pattern))


def spelled(moment: datetime, pattern: str) -> str:
    """``moment`` as the source writes it."""
    match pattern:
        case "epoch-s":
            return str((moment - _EPOCH) // timedelta(seconds=1))
        case "epoch-ms":
            return str((moment - _EPOCH) // timedelta(milliseconds=1))
        case "":
            return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case _:
            # Some platforms write years before 1000 without their zeros.
            return moment.strftime(pattern.replace("%Y", f"{moment.year:04d}"))


def moment_of(text: str, pattern: str, zone: tzinfo) -> datetime:
    """The moment that a source's spelling names; a year or a month is its first moment."""
    try:
        return values.moment(text, pattern, zone).astimezone(zone)
    except ValueError as error:
        raise MappingRefused(
            f"cannot read the time {text[:60]!r}: it is not written as {pattern or 'ISO 8601'}"
        ) from error
