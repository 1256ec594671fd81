"""A period keeps its frequency, whatever the source's spelling."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collect import periods
from holdfast.collect.errors import MappingRefused
from holdfast.records.listing import period_text
from holdfast.records.model import PeriodValue


def read(
    text: str, frequency: str, pattern: str = "", zone: str = "UTC", **codings: str
) -> PeriodValue:
    return periods.reader(frequency, pattern, codings, ZoneInfo(zone))(text)


@pytest.mark.parametrize(
    ("text", "frequency", "start", "end", "name"),
    [
        ("2020", "A", "2020-01-01", "2021-01-01", "2020"),
        ("2020-06-30", "A", "2020-01-01", "2021-01-01", "2020"),
        ("2020-S2", "S", "2020-07-01", "2021-01-01", "2020-S2"),
        ("2020H1", "S", "2020-01-01", "2020-07-01", "2020-S1"),
        ("2020-Q4", "Q", "2020-10-01", "2021-01-01", "2020-Q4"),
        ("2020Q1", "Q", "2020-01-01", "2020-04-01", "2020-Q1"),
        ("2020-05-17", "Q", "2020-04-01", "2020-07-01", "2020-Q2"),
        ("2020-01", "M", "2020-01-01", "2020-02-01", "2020-01"),
        ("2020M12", "M", "2020-12-01", "2021-01-01", "2020-12"),
        ("202002", "M", "2020-02-01", "2020-03-01", "2020-02"),
        ("2000-1", "M", "2000-01-01", "2000-02-01", "2000-01"),
        ("2020-W01", "W", "2019-12-30", "2020-01-06", "2020-W01"),
        ("2020-W5", "W", "2020-01-27", "2020-02-03", "2020-W05"),
        ("2021-01-01", "W", "2020-12-28", "2021-01-04", "2020-W53"),
        ("2020-02-29", "D", "2020-02-29", "2020-03-01", "2020-02-29"),
        ("2020-02-29T13:45:00Z", "H", "2020-02-29T13:00:00.000000Z",
         "2020-02-29T14:00:00.000000Z", "2020-02-29T13:00Z"),
        ("2020-02-29T13:45:00Z", "I", "2020-02-29T13:45:00.000000Z",
         "2020-02-29T13:45:00.000000Z", "2020-02-29T13:45:00.000000Z"),
    ],
)  # fmt: skip
def test_spellings(text: str, frequency: str, start: str, end: str, name: str) -> None:
    found = read(text, frequency)
    assert (found.start, found.end, found.frequency, found.text) == (start, end, frequency, text)
    assert periods.name(found) == name


FINE = "ASQMWDHI"
"""A day, and a time of it, lies in one period of every frequency; and a day begins with an hour."""


@pytest.mark.parametrize(
    ("texts", "frequencies"),
    [
        (("2020",), "A"),
        (("2020-S2", "2020H2", "2020 s02"), "S"),
        (("2020-Q4", "2020Q4", "2020/q04"), "Q"),
        (("2020-12", "2020M12", "202012", "2020/12", "2020 M12"), "M"),
        (("2020-W10", "2020W10", "2020 w10", "2020-W53", "2020W53"), "W"),
        (("2020-W10T12:00", "2020W10T12", "2020-W54", "2021-W53", "2020-Q5", "2020-S3"), ""),
        (("2020-W10-3", "2020W103", "2020-03-04", "20200304"), FINE),
        (("2020-03-04T13:00", "2020-03-04T13:00Z", "2020-W10-3T13:00Z"), FINE),
    ],
)
def test_a_spelling_is_of_its_own_frequency_and_of_no_other(
    texts: tuple[str, ...], frequencies: str
) -> None:
    for text in texts:
        taken = ""
        for frequency in FINE:
            with contextlib.suppress(ValueError):
                taken += read(text, frequency).frequency
        assert (text, taken) == (text, frequencies)
    for frequency in set(FINE) - set(frequencies):
        with pytest.raises(ValueError, match=r"^is (not )?a "):
            read(texts[0], frequency)


def test_patterns_and_epochs() -> None:
    assert read("Jan 2020", "M", "%b %Y").start == "2020-01-01"
    assert read("31.12.2020", "D", "%d.%m.%Y").end == "2021-01-01"
    assert read("1517966773840", "I", "epoch-ms").start == "2018-02-07T01:26:13.840000Z"
    assert read("1517966773", "M", "epoch-s").start == "2018-02-01"
    assert read("44197", "D", "excel").start == "2021-01-01"
    assert read("44197", "Q", "excel", "America/New_York").start == "2021-01-01"
    assert read("44197.5", "H", "excel", "America/New_York").start == "2021-01-01T17:00:00.000000Z"


def test_an_hour_is_the_hour_where_the_source_is() -> None:
    found = read("2020-01-01T05:10:00", "H", zone="Asia/Kolkata")
    assert (found.start, found.end) == (
        "2019-12-31T23:30:00.000000Z",
        "2020-01-01T00:30:00.000000Z",
    )


def test_a_local_midnight_written_in_utc_falls_in_the_right_month() -> None:
    assert read("2000-05-01T07:00:00.000Z", "M", zone="America/Los_Angeles").start == "2000-05-01"
    assert read("2000-05-01T06:00:00.000Z", "M", zone="America/Los_Angeles").start == "2000-04-01"


def test_an_annual_average_coded_as_month_13_is_annual() -> None:
    codings = {r"(?P<year>\d{4})M13": "A", r"(?P<year>\d{4})M(?P<sub>\d{2})": "M"}
    reader = periods.reader("M", "", codings, UTC)
    annual, january = reader("2020M13"), reader("2020M01")
    assert (annual.frequency, annual.start, annual.end) == ("A", "2020-01-01", "2021-01-01")
    assert (january.frequency, january.start) == ("M", "2020-01-01")
    assert periods.name(annual) != periods.name(january)


def test_codings_of_every_frequency() -> None:
    pattern = r"(?P<year>\d{4})x(?P<sub>\d+)"
    for frequency, number, start in (
        ("S", 2, "2020-07-01"),
        ("Q", 3, "2020-07-01"),
        ("M", 12, "2020-12-01"),
        ("W", 2, "2020-01-06"),
    ):
        found = periods.reader("D", "", {pattern: frequency}, UTC)(f"2020x{number}")
        assert (found.frequency, found.start) == (frequency, start)
    day = periods.reader("A", "", {r"(?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d{4})": "D"}, UTC)
    assert day("31/12/2020").end == "2021-01-01"


@pytest.mark.parametrize(
    ("text", "frequency"),
    [("2020-13", "M"), ("2020-Q5", "Q"), ("2020-W54", "W"), ("20200", "A"), ("soon", "D"),
     ("2020-02-30", "D"), ("", "A"), ("9999", "A"), ("9999-12-31", "D")],
)  # fmt: skip
def test_what_is_no_period_is_refused(text: str, frequency: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        read(text, frequency)


@pytest.mark.parametrize("pattern", [r"(a+)+", r"(a|a)*b", r"(?=x)y", r"(x)\1", "(", "a*" * 20])
def test_a_coding_that_could_run_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(MappingRefused, match="cannot use"):
        periods.reader("A", "", {pattern: "A"}, UTC)


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.sampled_from("ASQMWD"))
def test_every_day_lies_in_its_period_and_the_next_one_begins_where_it_ends(
    day: date, frequency: str
) -> None:
    found = periods.of_day(frequency, day, "")
    start, end = date.fromisoformat(found.start), date.fromisoformat(found.end)
    assert start <= day < end
    following = periods.of_day(frequency, end, "")
    assert following.start == found.end
    assert periods.of_day(frequency, end - timedelta(days=1), "").start == found.start
    assert periods.name(following) > periods.name(found)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2020/21", "2020-04-01", "2021-04-01"),
        ("2020-21", "2020-04-01", "2021-04-01"),
        ("2020/2021", "2020-04-01", "2021-04-01"),
        ("1999/00", "1999-04-01", "2000-04-01"),
        ("2020", "2020-04-01", "2021-04-01"),
        ("FY2021", "2020-04-01", "2021-04-01"),
        ("TQ", "1976-07-01", "1976-10-01"),
    ],
)
def test_years_that_do_not_begin_in_january(text: str, start: str, end: str) -> None:
    read = periods.reader(
        "A", "", {r"FY(?P<end_year>\d{4})": "A"}, UTC, spellings={"TQ": "1976-Q3"}, year_start=4
    )
    found = read(text)
    assert (found.start, found.end, found.text) == (start, end, text)


BEGUN = r"(?P<fiscal_year>\d{4})/\d\d Q(?P<sub>\d)"
ENDED = r"FY(?P<fiscal_end_year>\d{4})Q(?P<sub>\d)"
MONTH = r"(?P<fiscal_year>\d{4})/\d\d-(?P<month>\d+)"


@pytest.mark.parametrize(
    ("coding", "to", "month", "text", "start", "end"),
    [
        (BEGUN, "Q", 4, "2019/20 Q1", "2019-04-01", "2019-07-01"),
        (BEGUN, "Q", 4, "2019/20 Q4", "2020-01-01", "2020-04-01"),
        (ENDED, "Q", 10, "FY2021Q1", "2020-10-01", "2021-01-01"),
        (ENDED, "Q", 10, "FY2021Q4", "2021-07-01", "2021-10-01"),
        (r"(?P<fiscal_year>\d{4}) Q(?P<quarter>\d)", "Q", 4, "2019 Q1", "2020-01-01", "2020-04-01"),
        (r"(?P<fiscal_year>\d{4}) Q(?P<quarter>\d)", "Q", 4, "2019 Q2", "2019-04-01", "2019-07-01"),
        (r"(?P<fiscal_year>\d{4}) H(?P<half>\d)", "S", 7, "2019 H1", "2020-01-01", "2020-07-01"),
        (r"(?P<fiscal_year>\d{4}) H(?P<sub>\d)", "S", 7, "2019 H2", "2020-01-01", "2020-07-01"),
        (r"(?P<fiscal_year>\d{4}) P(?P<sub>\d+)", "M", 4, "2019 P1", "2019-04-01", "2019-05-01"),
        (r"(?P<fiscal_year>\d{4}) P(?P<sub>\d+)", "M", 4, "2019 P12", "2020-03-01", "2020-04-01"),
        (MONTH, "M", 4, "2019/20-03", "2020-03-01", "2020-04-01"),
        (MONTH, "M", 4, "2019/20-04", "2019-04-01", "2019-05-01"),
        (r"(?P<year>\d{4})-(?P<month>\d+)", "M", 4, "2019-01", "2019-01-01", "2019-02-01"),
        (r"FY(?P<fiscal_year>\d{4})", "A", 4, "FY2019", "2019-04-01", "2020-04-01"),
    ],
)  # fmt: skip
def test_quarters_and_months_of_fiscal_years(
    coding: str, to: str, month: int, text: str, start: str, end: str
) -> None:
    found = periods.reader("A", "", {coding: to}, UTC, year_start=month)(text)
    assert (found.start, found.end, found.frequency) == (start, end, to)


@pytest.mark.parametrize(
    ("coding", "to", "month", "text", "start", "end"),
    [
        (ENDED, "Q", 11, "FY2021Q1", "2020-11-01", "2021-02-01"),
        (ENDED, "Q", 11, "FY2021Q2", "2021-02-01", "2021-05-01"),
        (ENDED, "Q", 2, "FY2021Q4", "2020-11-01", "2021-02-01"),
        (BEGUN, "Q", 12, "2019/20 Q1", "2019-12-01", "2020-03-01"),
        (r"(?P<fiscal_year>\d{4}) H(?P<sub>\d)", "S", 4, "2019 H2", "2019-10-01", "2020-04-01"),
    ],
)  # fmt: skip
def test_quarters_and_halves_of_years_from_any_month_are_none_of_the_calendar_s(
    coding: str, to: str, month: int, text: str, start: str, end: str
) -> None:
    found = periods.reader("A", "", {coding: to}, UTC, year_start=month)(text)
    assert (found.start, found.end, found.frequency) == (start, end, to)
    assert periods.name(found) == f"{start} {to}" == period_text(found)


GERMAN = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
    "Jan.",
    "Feb.",
    "Mrz.",
    "Apr.",
    "Mai",
    "Jun.",
    "Jul.",
    "Aug.",
    "Sep.",
    "Okt.",
    "Nov.",
    "Dez.",
]


@pytest.mark.parametrize(
    ("text", "pattern", "start"),
    [
        ("2021-Januar", "", "2021-01-01"),
        ("Dezember 2021", "%m %Y", "2021-12-01"),
        ("märz 2021", "%m %Y", "2021-03-01"),
        ("Ma\u0308rz 2021", "%m %Y", "2021-03-01"),
        ("Okt. 21", "%m %y", "2021-10-01"),
        ("FY2021 Mai", "", "2021-05-01"),
        ("2021-07", "", "2021-07-01"),
        ("Mitte", "", "2021-06-01"),
    ],
)
def test_months_by_the_names_that_the_source_gives_them(
    text: str, pattern: str, start: str
) -> None:
    read = periods.reader(
        "M", pattern, {r"FY(?P<year>\d{4}) (?P<sub>\d+)": "M"}, UTC,
        months=GERMAN, spellings={"Mitte": "2021-06"},
    )  # fmt: skip
    found = read(text)
    assert (found.start, found.frequency, found.text) == (start, "M", text)


_TURKISH = "Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül Ekim Kasım Aralık"
_GREEK = (
    "Ιανουάριος Φεβρουάριος Μάρτιος Απρίλιος Μάιος Ιούνιος Ιούλιος Αύγουστος Σεπτέμβριος "
    "Οκτώβριος Νοέμβριος Δεκέμβριος"
)


def test_names_of_months_are_the_same_in_capitals_whatever_the_alphabet() -> None:
    """Turkish has two letters I, and neither is the capital that the other languages know."""
    turkish = _TURKISH.split()
    greek = _GREEK.split()
    for names in (turkish, greek, GERMAN):
        read = periods.reader("M", "%m %Y", {}, UTC, months=names)
        for number, name in enumerate(names[:12], 1):
            for written in (name, name.upper(), name.lower(), name.upper().replace("I", "İ")):
                assert read(f"{written} 2020").start == f"2020-{number:02d}-01"
    read = periods.reader("M", "%m %Y", {}, UTC, months=turkish)
    for text in ("NİSAN 2020", "KASIM 2020", "EKİM 2020", "MAYIS 2020", "KASİM 2020"):
        assert read(text).text == text


def test_a_word_that_only_begins_like_a_month_is_none() -> None:
    read = periods.reader("M", "%m %Y", {}, UTC, months=GERMAN)
    for text in ("Maier 2021", "xMai 2021", "May 2021", "Juli Juli 2021"):
        with pytest.raises(ValueError, match="is not a date or time written as %m %Y"):
            read(text)


def test_numbers_in_roman_and_hours_named_by_their_end() -> None:
    quarter = {r"(?P<year>\d{4})-(?P<sub>[IV]+)": "Q"}
    read = periods.reader("Q", "", quarter, UTC)
    assert [read(f"2020-{text}").start for text in ("I", "II", "III", "IV")] == [
        f"2020-{month:02d}-01" for month in (1, 4, 7, 10)
    ]
    for text in ("2020-V", "2020-IIV"):
        with pytest.raises(ValueError, match="has no quarter"):
            read(text)
    ended = {r"(?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d{4}) (?P<end_hour>\d+):00": "H"}
    hours = periods.reader("H", "", ended, ZoneInfo("America/Chicago"))
    assert hours("31/12/2023 01:00").start == "2023-12-31T06:00:00.000000Z"
    assert hours("31/12/2023 24:00").end == "2024-01-01T06:00:00.000000Z"
    for text in ("31/12/2023 25:00", "31/12/2023 00:00"):
        with pytest.raises(ValueError, match="has no hour"):
            hours(text)


def test_no_two_quarters_share_a_name() -> None:
    read = {m: periods.reader("A", "", {BEGUN: "Q"}, UTC, year_start=m) for m in range(1, 13)}
    found = {
        (p.start, periods.name(p))
        for year in (2019, 2020)
        for month in read
        for number in (1, 2, 3, 4)
        for p in [read[month](f"{year}/{(year + 1) % 100} Q{number}")]
    }
    assert len(found) == len({name for _, name in found}) == len({start for start, _ in found})
    assert ("2020-04-01", "2020-Q2") in found
    assert ("2020-11-01", "2020-11-01 Q") in found


def test_a_quarter_that_no_coding_reads_is_not_guessed_beside_a_fiscal_year() -> None:
    coding = {r"(?P<fiscal_year>\d{4})/\d\d Q(?P<sub>\d)": "Q"}
    with pytest.raises(ValueError, match="of the fiscal year or of the calendar's"):
        periods.reader("Q", "", coding, UTC, year_start=4)("2019 Q1")


@pytest.mark.parametrize("text", ["2020/22", "2020/20", "20/21", "2020/21/22", "next"])
def test_two_years_must_follow_each_other(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a year|does not name two years"):
        periods.reader("A", "", {}, UTC, year_start=7)(text)


@pytest.mark.parametrize(
    "name", ["1976", "1976-S2", "1976-Q3", "1976-07", "1976-W31", "1976-07-01"]
)
def test_a_period_by_its_name_has_that_name(name: str) -> None:
    assert periods.name(periods.of_name(name)) == name


def test_times_as_feeds_write_them() -> None:
    read = periods.reader("I", "rfc-2822", {}, UTC)
    assert read("Mon, 30 Dec 2019 00:57:00 GMT").start == "2019-12-30T00:57:00.000000Z"
    assert read("30 Dec 2019 00:57 -0500").start == "2019-12-30T05:57:00.000000Z"
    with pytest.raises(ValueError):
        read("yesterday")


@pytest.mark.parametrize(
    ("text", "frequency", "said"),
    [
        ("2020/21", "A", "is not a year such as 2020; `year_start` says"),
        ("Q1 2024", "Q", "is not a quarter such as 2020-Q1; `format`, `codings`"),
        ("2024-W53", "W", "is not a week: 2024 has none of the number 53"),
        ("31.01.2024", "D", "is not a day such as 2020-01-31; `format`"),
        ("noon", "H", "is not a date or time such as 2020-01-31 or 2020-01-31T12:00:00Z; `format`"),
    ],
)
def test_a_text_that_is_no_period_is_named_with_what_could_read_it(
    text: str, frequency: str, said: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        read(text, frequency)
    with pytest.raises(ValueError, match="is not a date or time written as %d/%m"):
        read("2024-01-31", "D", "%d/%m/%Y")


def test_an_hour_that_no_clock_showed_is_refused_however_it_is_written() -> None:
    coding = {r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)/(?P<hour>\d\d)": "H"}
    coded = periods.reader("H", "", coding, ZoneInfo("Europe/Paris"))
    assert coded("20260329/03").start == "2026-03-29T01:00:00.000000Z"
    with pytest.raises(ValueError, match="were put forward"):
        coded("20260329/02")
    # As a day's first hour midnight is an hour like others: 01:00 would be the same one.
    with pytest.raises(ValueError, match="were put forward"):
        read("2018-11-04T00:00", "H", "", "America/Sao_Paulo")
    assert read("2018-11-04T00:00", "I", "", "America/Sao_Paulo").start.endswith(
        "T03:00:00.000000Z"
    )


def test_of_an_hour_shown_twice_the_profile_says_which_is_meant() -> None:
    coding = {r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)/(?P<hour>\d\d)": "H"}
    for ambiguous, hour in (("first", "00"), ("second", "01")):
        either = periods.reader("H", "", coding, ZoneInfo("Europe/Paris"), ambiguous=ambiguous)
        for text in ("20261025/02", "2026-10-25T02:00"):
            assert either(text).start == f"2026-10-25T{hour}:00:00.000000Z"
    neither = periods.reader("H", "", coding, ZoneInfo("Europe/Paris"), ambiguous="reject")
    with pytest.raises(ValueError, match="showed twice"):
        neither("20261025/02")
