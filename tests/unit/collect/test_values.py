"""What a source wrote becomes one exact value, or a reason why not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collect import values

PACIFIC = ZoneInfo("America/Los_Angeles")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("007", "7"),
        ("+5", "5"),
        ("5.", "5"),
        (".097", "0.097"),
        ("-.5", "-0.5"),
        ("2.10", "2.10"),
        ("1.5E+3", "1500"),
        ("1.5e3", "1500"),
        ("1e-7", "0.0000001"),
        ("-12.5e-1", "-1.25"),
        ("0e5", "0"),
        ("1.20e1", "12.0"),
        (" 12 ", "12"),
        ("\u22123.5", "-3.5"),
        ("\uff0d3.5", "-3.5"),
        ("123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
    ],
)
def test_a_number_is_normalised_exactly(written: str, plain: str) -> None:
    assert values.decimal_text(written) == plain


@pytest.mark.parametrize(
    "written",
    ["", ".", "-", "e5", "1e", "1.2.3", "0x10", "NaN", "Infinity", "1 2", "--1", "١٢", "1_000",
     "true", "1,5", "1e1000000000000", "+-1", "()", "1e401", "9" * 401, "(1.5)", "3-"],
)  # fmt: skip
def test_what_is_no_number_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|has more than 400 digits"):
        values.decimal_text(written)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None))
def test_every_decimal_keeps_its_value(number: Decimal) -> None:
    if abs(number.as_tuple().exponent) + len(number.as_tuple().digits) > 390:  # type: ignore[operator,arg-type]
        return
    for written in (str(number), f"{number:e}", f"{number:f}"):
        plain = values.decimal_text(written)
        assert Decimal(plain) == number
        assert "e" not in plain.lower()
        assert not plain.startswith("+")
        assert values.decimal_text(plain) == plain


@pytest.mark.parametrize(
    ("written", "thousands", "point", "plain"),
    [
        ("1,234,567.89", ",", ".", "1234567.89"),
        ("12,34,567", ",", ".", "1234567"),
        ("1.234,5", ".", ",", "1234.5"),
        ("1\u202f234,5", " ", ",", "1234.5"),
        ("1\u00a0234", " ", ".", "1234"),
        ("-1,234", ",", ".", "-1234"),
        ("12", ",", ".", "12"),
        ("1'234.5", "'", ".", "1234.5"),
        ("1’234’567.5", "'", ".", "1234567.5"),
        ("0", ".", ",", "0"),
        ("-0,250", ".", ",", "-0.250"),
        ("100.000", ".", ",", "100000"),
    ],
)
def test_separators_of_a_place(written: str, thousands: str, point: str, plain: str) -> None:
    assert values.decimal_text(values.localised(written, thousands, point)) == plain


@pytest.mark.parametrize(
    ("written", "thousands", "point"),
    [("1,5", ",", "."), ("1,,234", ",", "."), (",234", ",", "."), ("1.5", "", ","),
     ("1234,567", ",", "."), ("1,23", ",", "."), ("1 2", " ", "."),
     ("(1,234)", ",", "."), ("1,234-", ",", "."),
     ("0.123", ".", ","), ("0.500", ".", ","), ("00.123", ".", ","), ("-0.250", ".", ","),
     ("012.345", ".", ","), ("0,123,456", ",", "."), (".123.456", ".", ",")],
)  # fmt: skip
def test_a_misread_separator_is_refused(written: str, thousands: str, point: str) -> None:
    with pytest.raises(ValueError, match="is not a number") as caught:
        values.localised(written, thousands, point)
    assert "stands between" not in str(caught.value)


def test_whole_numbers() -> None:
    assert values.integer("5.0") == 5
    assert values.integer("-1e3") == -1000
    assert values.integer(str(2**53 - 1)) == 2**53 - 1
    for written in ("5.5", str(2**53), "1e300"):
        with pytest.raises(ValueError, match=r"is not a whole number|is beyond 2\^53-1"):
            values.integer(written)


def test_truth_values() -> None:
    assert [values.boolean(t) for t in ("true", "Yes", "1", "T")] == [True] * 4
    assert [values.boolean(t) for t in ("false", "no", "0", "N")] == [False] * 4
    assert values.boolean("ja", "ja/nein") is True
    assert values.boolean("nein", "ja/nein") is False
    for text, spelling in (("2", ""), ("", ""), ("true", "ja/nein")):
        with pytest.raises(ValueError, match="neither true nor false"):
            values.boolean(text, spelling)


@pytest.mark.parametrize(
    ("written", "pattern", "zone", "moment"),
    [
        ("2020-01-02T03:04:05Z", "", UTC, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2020-07-01T00:00:00", "", PACIFIC, datetime(2020, 7, 1, 7, tzinfo=UTC)),
        ("2020-01-01T00:00:00", "", PACIFIC, datetime(2020, 1, 1, 8, tzinfo=UTC)),
        ("2020-01-01+05:30", "", PACIFIC, datetime(2019, 12, 31, 18, 30, tzinfo=UTC)),
        ("2020-01-01Z", "", PACIFIC, datetime(2020, 1, 1, tzinfo=UTC)),
        ("2020-01-01T00:00:00+05:30", "", PACIFIC, datetime(2019, 12, 31, 18, 30, tzinfo=UTC)),
        ("1517966773840", "epoch-ms", UTC, datetime(2018, 2, 7, 1, 26, 13, 840000, tzinfo=UTC)),
        ("1517966773.84", "epoch-s", UTC, datetime(2018, 2, 7, 1, 26, 13, 840000, tzinfo=UTC)),
        ("-1", "epoch-s", UTC, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("07/02/2018 05:06", "%d/%m/%Y %H:%M", UTC, datetime(2018, 2, 7, 5, 6, tzinfo=UTC)),
        (
            "2018-02-07 05:06 -0100",
            "%Y-%m-%d %H:%M %z",
            UTC,
            datetime(2018, 2, 7, 6, 6, tzinfo=UTC),
        ),
    ],
)
def test_moments(written: str, pattern: str, zone: ZoneInfo, moment: datetime) -> None:
    assert values.moment(written, pattern, zone) == moment


@pytest.mark.parametrize(
    ("written", "pattern"),
    [("yesterday", ""), ("2020-13-01T00:00:00Z", ""), ("1e300", "epoch-s"),
     ("999999999999999999", "epoch-s"), ("0001-01-01T00:00:00+01:00", ""), ("x", "%Y")],
)  # fmt: skip
def test_what_is_no_moment_is_refused(written: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        values.moment(written, pattern, UTC)


def test_a_day_is_the_day_where_the_source_is() -> None:
    assert values.day("2000-05-01T07:00:00.000Z", "", PACIFIC) == date(2000, 5, 1)
    assert values.day("2000-05-01T06:59:59.000Z", "", PACIFIC) == date(2000, 4, 30)
    assert values.day("2000-05-01", "", PACIFIC) == date(2000, 5, 1)
    assert values.day("2000-05-01+02:00", "", PACIFIC) == date(2000, 5, 1)
    assert values.day("2000-05-01-08:00", "", UTC) == date(2000, 5, 1)
    for text in ("2000-05-01-0800", "2000-05-01x12:00", "2000-05-01+12"):
        with pytest.raises(ValueError, match="is not a date or time such as"):
            values.day(text, "", UTC)
    assert values.day("2000-05-01T23:00:00", "", PACIFIC) == date(2000, 5, 1)
    assert values.day("957164400", "epoch-s", PACIFIC) == date(2000, 5, 1)
    assert values.day("May 1, 2000", "%B %d, %Y", PACIFIC) == date(2000, 5, 1)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001
def test_the_text_of_a_moment_reads_back_and_sorts(moment: datetime) -> None:
    text = values.moment_text(moment.replace(tzinfo=UTC))
    assert len(text) == 27
    assert values.moment(text, "", UTC) == moment.replace(tzinfo=UTC)


def test_a_time_that_no_clock_showed_is_refused() -> None:
    paris = ZoneInfo("Europe/Paris")
    assert (
        values.local_moment("2024-03-31T01:59", "", paris).isoformat()
        == "2024-03-31T00:59:00+00:00"
    )
    assert (
        values.local_moment("2024-03-31T03:00", "", paris).isoformat()
        == "2024-03-31T01:00:00+00:00"
    )
    for text, pattern in (("2024-03-31T02:30", ""), ("31.03.2024 02:30", "%d.%m.%Y %H:%M")):
        with pytest.raises(ValueError, match="the clocks of Europe/Paris showed"):
            values.local_moment(text, pattern, paris)
    # With its offset it is a moment; midnight is a day's beginning, wherever the clocks were.
    assert values.local_moment("2024-03-31T02:30+01:00", "", paris).hour == 1
    sao_paulo = ZoneInfo("America/Sao_Paulo")
    for text in ("2018-11-04", "2018-11-04T00:00"):
        found = values.local_moment(text, "", sao_paulo)
        assert found.isoformat() == "2018-11-04T03:00:00+00:00"


@pytest.mark.parametrize(
    ("ambiguous", "hour"), [("first", "00:30"), ("second", "01:30"), ("reject", "")]
)
def test_of_a_time_shown_twice_the_profile_says_which_is_meant(ambiguous: str, hour: str) -> None:
    paris = ZoneInfo("Europe/Paris")
    for text, pattern in (("2024-10-27T02:30", ""), ("27.10.2024 02:30", "%d.%m.%Y %H:%M")):
        if not hour:
            with pytest.raises(ValueError, match="the clocks of Europe/Paris showed twice"):
                values.local_moment(text, pattern, paris, ambiguous)
            continue
        found = values.local_moment(text, pattern, paris, ambiguous)
        assert found.isoformat() == f"2024-10-27T{hour}:00+00:00"
    # With an offset, or the name that only one of the two has, nothing is ambiguous.
    assert values.local_moment("2024-10-27T02:30+01:00", "", paris, ambiguous).hour == 1
    named = values.local_moment("2024-10-27 02:30 CET", "%Y-%m-%d %H:%M %Z", paris, ambiguous)
    assert named.isoformat() == "2024-10-27T01:30:00+00:00"
    # A day begins once, also where its first hour comes twice.
    havana = ZoneInfo("America/Havana")
    assert values.local_moment("2024-11-03", "", havana, ambiguous).hour == 4
    assert values.local_moment("3.11.2024", "%d.%m.%Y", havana, ambiguous).hour == 4


@pytest.mark.parametrize(("ambiguous", "moment"), [("first", 0), ("second", 1), ("reject", None)])
@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2026-10-25T00:00", ""),
        ("20261025T00", ""),
        ("25.10.2026 00:00", "%d.%m.%Y %H:%M"),
        ("Sun, 25 Oct 2026 00:00:00", "rfc-2822"),
    ],
)
def test_a_midnight_that_was_shown_twice_is_a_time_like_any_other(
    text: str, pattern: str, ambiguous: str, moment: int | None
) -> None:
    azores = ZoneInfo("Atlantic/Azores")
    if moment is None:
        with pytest.raises(ValueError, match="showed twice"):
            values.local_moment(text, pattern, azores, ambiguous)
        return
    found = values.local_moment(text, pattern, azores, ambiguous)
    assert found == datetime(2026, 10, 25, moment, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "pattern", "zone", "moment"),
    [
        ("2026-07-01 12:00 UTC", "%Y-%m-%d %H:%M %Z", "Europe/Paris", "2026-07-01T12:00:00+00:00"),
        ("2026-07-01 12:00 CEST", "%Y-%m-%d %H:%M %Z", "Europe/Paris", "2026-07-01T10:00:00+00:00"),
        ("Jul 1 2026 12:00 gmt", "%b %d %Y %H:%M %Z", "Europe/Paris", "2026-07-01T12:00:00+00:00"),
        ("Wed, 01 Jul 2026 12:00 CEST", "rfc-2822", "Europe/Paris", "2026-07-01T10:00:00+00:00"),
        ("Wed, 01 Jul 2026 12:00 EST", "rfc-2822", "Europe/Paris", "2026-07-01T17:00:00+00:00"),
        ("Wed, 01 Jul 2026 12:00", "rfc-2822", "Europe/Paris", "2026-07-01T10:00:00+00:00"),
    ],
)
def test_a_zone_by_its_name_is_heeded(text: str, pattern: str, zone: str, moment: str) -> None:
    assert values.moment(text, pattern, ZoneInfo(zone)).isoformat() == moment


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2026-07-01 12:00 JST", "%Y-%m-%d %H:%M %Z"),
        ("2026-07-01 12:00 CET", "%Y-%m-%d %H:%M %Z"),  # not in July
        ("Wed, 01 Jul 2026 12:00:00 JST", "rfc-2822"),
    ],
)
def test_a_zone_of_another_name_is_refused(text: str, pattern: str) -> None:
    for read in (values.moment, values.day):
        with pytest.raises(ValueError, match="is in a time zone called"):
            read(text, pattern, ZoneInfo("Europe/Paris"))
