"""From what a source wrote to one exact value. Pure functions; ``ValueError`` says why not.

A number stays the text it was, normalised: no binary float is ever involved. A time is converted
to UTC with the profile's zone where the source gave none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache

from holdfast.kernel.canonical import INTEGER_MAX

DIGITS_MAX = 400

_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?").fullmatch
SPACES = "\u00a0\u202f\u2009"
LIKE = {" ": SPACES, "'": "\u2019"}
"""What stands between thousands as this mark does: the blanks that break no line, the apostrophe
of typesetters."""
_TRUE = frozenset({"true", "t", "yes", "y", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "0"})


def decimal_text(text: str) -> str:
    """``text`` as a plain decimal, exactly: ``1.5E+3`` is ``1500``, ``.097`` is ``0.097``.

    Trailing zeros of a fraction are kept, because the source meant them; a minus may be U+2212,
    or U+FF0D, which it becomes where Shift_JIS is read as browsers do. Parentheses and a minus
    behind the digits are refused: to some publishers they are marks of little certainty. More than
    400 characters are refused.
    """
    if _PLAIN(text) and len(text) <= DIGITS_MAX:
        return text if text[:2] != "-0" or text.strip("-0.") else text[1:]
    return _normalised(text)


def _normalised(text: str) -> str:
    text = text.strip().replace("\u2212", "-").replace("\uff0d", "-")
    match = _NUMBER(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError("is not a number" + _otherwise(text))
    whole, fraction = match[2], match[3] or ""
    exponent = int(match[4] or 0)
    if len(whole) + len(fraction) + abs(exponent) > DIGITS_MAX:
        raise ValueError(f"has more than {DIGITS_MAX} digits")
    plain = _shifted(whole, fraction, exponent)
    negative = match[1] == "-" and plain.strip("0.") != ""
    return "-" + plain if negative else plain


def _otherwise(text: str, *, blanks: bool = True) -> str:
    """What would make a number of ``text``, if anything is plain."""
    for how, match in _BELOW_ZERO.items():
        if match(text):
            said = f"; `negative: {how}` where this is how the source writes what is below zero"
            uncertain = ', `marks: ["()"]` where it says that a number is not reliable'
            return said + (uncertain if how == "parentheses" else "")
    if blanks and (blank := _BLANK(text)):
        name = "a blank" if blank[1] == " " else f"the blank U+{ord(blank[1]):04X}"
        return f": {name} stands between its digits, which `thousands: ' '` reads"
    return ""


_BLANK = re.compile(rf"[0-9]([ {SPACES}])[0-9]").search


_BELOW_ZERO = {
    "parentheses": re.compile(r"\(\s*([.,]?[0-9][^()]*)\)").fullmatch,
    "trailing": re.compile(r"([.,]?[0-9].*)[-\u2212\uff0d]").fullmatch,
}


def below_zero(text: str, how: str) -> str:
    """``text`` with its minus in front where the source writes it as ``how`` says."""
    text = text.strip()
    match = _BELOW_ZERO[how](text)
    return f"-{match[1].strip()}" if match else text


_MARKS_MAX = 8
_AROUND = frozenset({"()", "[]", "{}", "<>"})


def unmarked(text: str, marks: Sequence[str]) -> tuple[str, list[str]]:
    """``text`` without the marks that stand before, behind or around it, and those marks."""
    found: list[str] = []
    text = text.strip()
    while text and len(found) < _MARKS_MAX:
        for mark in marks:
            if mark in _AROUND and text[0] == mark[0] and text[-1] == mark[1] and len(text) > 2:
                text = text[1:-1]
            elif text.endswith(mark):
                text = text[: -len(mark)]
            elif text.startswith(mark):
                text = text[len(mark) :]
            else:
                continue
            found.append(mark)
            text = text.strip()
            break
        else:
            break
    return text, found


def _shifted(whole: str, fraction: str, exponent: int) -> str:
    """``whole.fraction`` × 10^exponent, as digits with the point moved."""
    digits, point = whole + fraction, len(whole) + exponent
    if point <= 0:
        digits, point = "0" * (1 - point) + digits, 1
    elif point > len(digits):
        digits += "0" * (point - len(digits))
    left, right = digits[:point].lstrip("0") or "0", digits[point:]
    return f"{left}.{right}" if right else left


def localised(text: str, thousands: str, point: str) -> str:
    """``text`` with the separators of its place turned into none and ``.``.

    Groups must be groups: with ``,`` for thousands, ``1,5`` is refused and not read as fifteen, and
    so is ``0,500``, for nobody writes five hundred so.
    """
    text = text.strip()
    if thousands:
        for other in LIKE.get(thousands, ""):
            text = text.replace(other, thousands)
        if thousands in text:
            if not _grouping(thousands, point)(text):
                said = f"is not a number with {thousands!r} between thousands"
                raise ValueError(said + _otherwise(text, blanks=False))
            text = text.replace(thousands, "")
    if point != ".":
        if "." in text:
            raise ValueError(f"is not a number with {point!r} as its decimal point")
        text = text.replace(point, ".")
    return text


@lru_cache(maxsize=64)
def _grouping(thousands: str, point: str) -> Callable[[str], object]:
    mark = re.escape(thousands)
    rest = rf"(?:{re.escape(point)}[0-9]*)?"
    groups = rf"[1-9][0-9]{{0,2}}(?:{mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}"
    return re.compile(rf"[+\-\u2212\uff0d]?{groups}{rest}").fullmatch


def integer(text: str) -> int:
    """The whole number ``text`` writes, within ±(2⁵³−1); ``5.0`` is five, ``5.5`` is refused."""
    plain = decimal_text(text)
    whole, _, fraction = plain.partition(".")
    if fraction.strip("0"):
        raise ValueError("is not a whole number")
    value = int(whole)
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise ValueError("is beyond 2^53-1")
    return value


def boolean(text: str, spelling: str = "") -> bool:
    """True or false; ``spelling`` is ``yes-text/no-text`` where the usual ones do not apply."""
    if spelling:
        yes, _, no = spelling.partition("/")
        if text == yes:
            return True
        if text == no:
            return False
    else:
        lowered = text.strip().lower()
        if lowered in _TRUE:
            return True
        if lowered in _FALSE:
            return False
    raise ValueError("is neither true nor false")


def _by_pattern(text: str, pattern: str) -> tuple[datetime, str]:
    """What is written there, and the name of its time zone where it has a name and no offset.

    Without a zone where the pattern has none: the caller knows which zone that means.
    """
    if pattern == EXCEL:
        return _from_serial(text), ""
    if pattern == "rfc-2822":
        if len(text) > 100:
            raise ValueError("is no date of RFC 2822")
        found = parsedate_to_datetime(text)
        last = text.partition("(")[0].split()[-1:]
        return found, last[0] if found.tzinfo is None and last and last[0].isalpha() else ""
    if "%Z" in pattern:
        # The library knows UTC, GMT and the names of whatever zone its machine is in, and drops
        # them all. UTC in the place of each word finds the one that stands there.
        for word in _WORD.finditer(text):
            with suppress(ValueError):
                probe = f"{text[: word.start()]}UTC{text[word.end() :]}"
                return datetime.strptime(probe, pattern), word[0]  # noqa: DTZ007
    try:
        return datetime.strptime(text, pattern), ""  # noqa: DTZ007
    except ValueError:
        raise ValueError(f"is not a date or time written as {pattern}") from None


_WORD = re.compile(r"[A-Za-z]{1,8}")


EXCEL = "excel"
_SERIAL_ZERO = datetime(1899, 12, 30)  # noqa: DTZ001
_SERIAL_END = 2_958_466


def _from_serial(text: str) -> datetime:
    """The day, and the time of it, that a spreadsheet counts as ``text``: 44197 is 2021-01-01."""
    days = Decimal(decimal_text(text))
    if not 1 <= days < _SERIAL_END:
        raise ValueError(f"is not a day as a spreadsheet counts them, from 1 to {_SERIAL_END - 1}")
    if days < 60:
        days += 1  # spreadsheets know a 29 February 1900
    return _SERIAL_ZERO + timedelta(milliseconds=int((days * 86_400_000).to_integral_value()))


_BARE_WEEK = re.compile(r"[0-9]{4}-?W[0-9]{2}(?![0-9]|-[0-9])").match
"""A week without its day, for which the library takes the Monday."""


_ZONED_DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(Z|[+-][0-9]{2}:[0-9]{2})").fullmatch
"""A day with the zone it is one of, as XML Schema has it; to the library ``+01:00`` is a time."""


_ODDLY_JOINED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[^Tt ]").match
"""The library takes any character between day and time, and ``-0500`` after a day for a time."""


def is_zoned_day(text: str) -> bool:
    """Whether a text is a day with the zone it is one of: ``2024-01-31+01:00``."""
    return _ZONED_DAY(text) is not None


def _by_iso(text: str) -> datetime:
    if _BARE_WEEK(text):
        raise ValueError("is a week, and no day or time in one")
    if zoned := _ZONED_DAY(text):
        text = f"{zoned[1]}T00:00{zoned[2]}"
    try:
        if _ODDLY_JOINED(text):
            raise ValueError
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "is not a date or time such as 2020-01-31 or 2020-01-31T12:00:00Z; `format` says how "
            "else it is written"
        ) from None


def _written(text: str, pattern: str, zone: tzinfo) -> datetime:
    """The time that ``text`` says, with the zone that it names itself, if it names one."""
    found, name = _by_pattern(text, pattern) if pattern else (_by_iso(text), "")
    return _in_named_zone(found, name, zone) if name and found.tzinfo is None else found


_UTC_NAMES = frozenset({"UTC", "GMT", "UT", "Z"})


def _in_named_zone(plain: datetime, name: str, zone: tzinfo) -> datetime:
    """``plain`` in the zone of that name: UTC, or what ``zone`` itself is called at that time.

    Names such as CST are several zones', so one of another zone is refused, never guessed at.
    """
    if name.upper() in _UTC_NAMES:
        return plain.replace(tzinfo=UTC)
    for fold in (0, 1):
        local = plain.replace(tzinfo=zone, fold=fold)
        if (local.tzname() or "").upper() == name.upper():
            return local
    raise ValueError(
        f"is in a time zone called {name}, which is neither UTC nor what the clocks of {zone} say "
        "then; is `timezone` right?"
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str, pattern: str, zone: tzinfo) -> datetime:
    """The moment ``text`` names, in UTC; ``zone`` where it has no offset of its own.

    ``pattern`` is empty (ISO 8601), ``epoch-s``, ``epoch-ms``, ``excel``, ``rfc-2822`` or
    strptime's. Digits below a microsecond are dropped.
    """
    if pattern in {"epoch-s", "epoch-ms"}:
        return _from_epoch(text, pattern)
    found = _written(text.strip(), pattern, zone)
    return _in_utc(found if found.tzinfo else found.replace(tzinfo=zone))


def _in_utc(found: datetime) -> datetime:
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is outside the years 1 to 9999") from error


def local_moment(
    text: str, pattern: str, zone: tzinfo, ambiguous: str = "first", *, hourly: bool = False
) -> datetime:
    """As :func:`moment`, for what a row says; :func:`on_the_clock` judges a time without an offset.

    With ``hourly`` the hour is meant, midnight's too.
    """
    if pattern in {"epoch-s", "epoch-ms"}:
        return _from_epoch(text, pattern)
    text = text.strip()
    found = _written(text, pattern, zone)
    if found.tzinfo:
        return _in_utc(found)
    timed = hourly or _names_hour(text, pattern)
    return on_the_clock(found, zone, ambiguous, hourly=hourly, timed=timed)


_HOURS = re.compile(r"%(?:%|[HIcXTRr])")
_DAY_LENGTH_MAX = len("2020-01-31")


def _names_hour(text: str, pattern: str) -> bool:
    """Whether a time is written there, and not only a day."""
    if not pattern:
        return len(text) > _DAY_LENGTH_MAX
    if pattern == EXCEL:
        return "." in text
    return pattern == "rfc-2822" or any(found != "%%" for found in _HOURS.findall(pattern))


def on_the_clock(
    plain: datetime, zone: tzinfo, ambiguous: str, *, hourly: bool, timed: bool = True
) -> datetime:
    """The moment, in UTC, at which the clocks of ``zone`` showed ``plain``.

    A time that they never showed (02:30 in the night in which they were put forward) is refused:
    it says that the source keeps another time than the profile thinks. Of one that they showed
    twice, because they were put back over it, ``ambiguous`` says which is meant: ``first``,
    ``second``, or ``reject`` for neither. A day's beginning is a day and no time of a clock, unless
    it is its first hour that is meant (``hourly``): a day without a first hour is one, too. Of a
    midnight that was shown twice only a day that was written without a time (not ``timed``) has
    but one.
    """
    first = _in_utc(plain.replace(tzinfo=zone, fold=0))
    second = _in_utc(plain.replace(tzinfo=zone, fold=1))
    if first == second:
        return first
    may_be_day = plain.time() == _MIDNIGHT and not hourly
    if may_be_day and (second < first or not timed):
        return first
    if second < first:
        raise ValueError(
            f"is not a time that the clocks of {zone} showed: they were put forward over it; is "
            "`timezone` right?"
        )
    if ambiguous == "reject":
        raise ValueError(
            f"is a time that the clocks of {zone} showed twice: they were put back over it, and "
            "`ambiguous` does not say which is meant"
        )
    return second if ambiguous == "second" else first


_MIDNIGHT = time()


def _from_epoch(text: str, pattern: str) -> datetime:
    plain = decimal_text(text)
    if len(plain) > 40:
        raise ValueError("is outside the years 1 to 9999")
    scale = 6 if pattern == "epoch-s" else 3
    try:
        if "." not in plain:
            return _EPOCH + timedelta(microseconds=int(plain) * 10**scale)
        return _EPOCH + timedelta(microseconds=int(Decimal(plain).scaleb(scale)))
    except OverflowError as error:
        raise ValueError("is outside the years 1 to 9999") from error


def day(text: str, pattern: str, zone: tzinfo) -> date:
    """The calendar day ``text`` names where the source is.

    A text with an offset, and a time since the epoch, is first turned into ``zone``'s own time:
    08:00Z is local midnight in the Pacific zone. A day with an offset is that day.
    """
    if pattern in {"epoch-s", "epoch-ms"}:
        return _from_epoch(text, pattern).astimezone(zone).date()
    if not pattern and (zoned := _ZONED_DAY(text.strip())):
        text = zoned[1]
    found = _written(text.strip(), pattern, zone)
    return (found.astimezone(zone) if found.tzinfo else found).date()


def printable(text: str, size_max: int) -> str:
    """``text`` on one line, cut at ``size_max``, without what a terminal would act upon. A blank
    that breaks no line is a blank."""
    cut = text[:size_max]
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else " " if c in SPACES else "\ufffd" for c in cut)


def moment_text(value: datetime) -> str:
    """``value`` (UTC) as :func:`holdfast.kernel.clock.timestamp` writes it, and faster."""
    return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
