"""Whether the parts of a profile fit together; every rule with a profile that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import Problem
from holdfast.registry import supported
from holdfast.registry.document import write_document
from holdfast.registry.errors import ProfileInvalid, ProfileUnsupported
from holdfast.registry.model import Profile
from holdfast.registry.validate import examine, load_profile
from tests.support.effort import calls_made
from tests.unit.registry.profiles import GOOD, changed, json_profile, profiles, xml_profile


def problems(plain: Any) -> list[str]:
    return [str(problem) for problem in examine(write_document(plain).encode()).problems]


def both(*changes: tuple[str, Any], base: dict[str, Any] = GOOD) -> dict[str, Any]:
    plain = copy.deepcopy(base)
    for path, value in changes:
        plain = changed(path, value, plain)
    return plain


def url(address: str) -> dict[str, Any]:
    return changed("source/url", address)


def incremental(**parts: Any) -> dict[str, Any]:
    cursor = {"path": "Date", "parameter": "since", "start": "2020-01-01", **parts}
    return both(("mode", "incremental"), ("cursor", cursor))


def fiscal(pattern: str, frequency: str, month: int = 4) -> dict[str, Any]:
    period = {
        "path": "Date",
        "frequency": "A",
        "year_start": month,
        "codings": {pattern: frequency},
    }
    return changed("period", period)


def placed(delimiter: str = ",", **places: str) -> dict[str, Any]:
    known = {"Station": "1-5", "Date": "7-16"}
    told = {**known, **({} if "Rian" in places else {"Rain": "18-"}), **places}
    return changed("source/format", {"type": "csv", "delimiter": delimiter, "places": told})


MONTHS = [f"m{number}" for number in range(1, 13)]


def wide(columns: str = r"(?P<year>\d{4})", **beside: str | int) -> dict[str, Any]:
    return changed("unpivot", {"columns": columns, "beside": beside})


@pytest.mark.parametrize(
    "plain",
    [
        incremental(template="t > '{value}'"),
        incremental(template="id gt {value}", start="0"),
        incremental(template="t > {value}", start="1577836800000", format="epoch-ms"),
        incremental(template="{value}", start="01/02/2020", format="%d/%m/%Y"),
        fiscal(r"(?P<fiscal_year>\d{4})Q(?P<sub>\d)", "Q"),
        fiscal(r"(?P<fiscal_year>\d{4})Q(?P<quarter>\d)", "Q"),
        fiscal(r"(?P<year>\d{4})-(?P<month>\d\d)", "M"),
        fiscal(r"FY(?P<end_year>\d{4})", "A"),
        fiscal(r"(?P<fiscal_year>\d{4})Q(?P<sub>\d)", "Q", 2),
        wide(flag="{column} flag"),
        wide(flag=-1, note="N{year}"),
        changed("period/months", [*MONTHS, *MONTHS]),
        changed("measures/rain/magnitude_path", "UNIT_MULT"),
        placed(),
        changed("measures/rain/marks", ["()", "p", "<", "[1]", "\u00b9"]),
    ],
)
def test_expressions_and_fiscal_parts_that_say_what_they_mean_are_good(plain: Any) -> None:
    assert problems(plain) == []


def test_the_good_profiles_are_good() -> None:
    for plain in (GOOD, json_profile()):
        assert problems(plain) == []


@pytest.mark.parametrize(
    ("plain", "path", "said"),
    [
        # names and references
        (changed("name", "runnable"), "name", "an address of the registry"),
        (changed("title", "a\nb"), "title", "line break"),
        (changed("key", ["dimensions.staton"]), "key[0]", "did you mean dimensions.station?"),
        (changed("key", ["station"]), "key[0]", "did you mean dimensions.station?"),
        (changed("key", ["measures.rain"]), "key[0]", "a measure is what changes"),
        (changed("key", []), "key", "a record needs a key"),
        (changed("key", ["period", "period"]), "key[1]", "given twice"),
        (both(("key", "position"), ("mode", "append")), "key", "position cannot tell"),
        (changed("attributes", {"rain": "x"}), "attributes.rain", "also given in measures"),
        (changed("attributes", {"period": "x"}), "attributes.period", "has this name already"),
        (changed("attributes", {"rain_missing": "x"}), "attributes.rain_missing", "original sp"),
        (changed("expect", {"required": ["rain"]}), "expect.required[0]", "did you mean measures."),
        (
            changed("expect", {"ranges": {"rain": {"min": 0}}}),
            "expect.ranges.rain",
            "measures.rain",
        ),
        (
            changed("expect", {"ranges": {"dimensions.station": {"min": 0}}}),
            "expect.ranges.dimensions.station",
            "only a measure",
        ),
        (
            changed("expect", {"ranges": {"measures.rain": {}}}),
            "expect.ranges.measures.rain",
            "min",
        ),
        (
            changed("expect", {"ranges": {"measures.rain": {"min": 2, "max": "1.9"}}}),
            "expect.ranges.measures.rain",
            "min 2 is above max 1.9",
        ),
        (changed("expect", {"min_records": 2, "max_records": 1}), "expect.max_records", "below"),
        (changed("personal", ["dimensions.station"]), "personal", "need a subject"),
        (changed("subject", "dimensions.person"), "subject", "is not a field"),
        # fields
        (changed("measures/rain", {"unit": "mm"}), "measures.rain", "exactly one of path, join"),
        (
            changed("measures/rain", {"path": "a", "constant": "1"}),
            "measures.rain",
            "2 are given",
        ),
        (changed("measures/rain", {"constant": "much"}), "measures.rain.constant", "no decimal"),
        (
            changed("measures/rain", {"path": "a", "format": "%Y"}),
            "measures.rain.format",
            "no form",
        ),
        (changed("measures/rain", {"path": "a", "part": 1}), "measures.rain.part", "needs split"),
        (changed("measures/rain/thousands", "."), "measures.rain.thousands", "different marks"),
        (changed("measures/rain/multiplier", 0), "measures.rain.multiplier", "zero"),
        (
            changed("dimensions/station", {"path": "a", "thousands": ","}),
            "dimensions.station",
            "no thousands",
        ),
        (
            changed("dimensions/station", {"path": "a", "negative": "trailing"}),
            "dimensions.station.negative",
            "is not below zero",
        ),
        (changed("measures/rain", {"path": "a", "trim": True}), "measures.rain.trim", "anyway"),
        (
            changed("dimensions/station", {"path": "a", "multiplier": 10}),
            "dimensions.station",
            "only a measure",
        ),
        (
            changed("dimensions/station", {"path": "a", "type": "date", "format": "%Q"}),
            "dimensions.station.format",
            "%Q is no directive",
        ),
        (
            changed("dimensions/station", {"path": "a", "type": "date", "format": "iso"}),
            "dimensions.station.format",
            "reads no part of a time",
        ),
        *(
            (changed("period/format", pattern), "period.format", said)
            for pattern, said in (
                ("%m-%d", "reads no year"),
                ("%H:%M", "reads no year"),
                ("%Y %W", "reads a week and no day in it"),
                ("%d %Y", "reads a day and no month"),
                ("%Y-%m-%d %I:%M", "reads no half of the day"),
                ("%Y-%m-%d %H:%M %p", "AM or PM"),
            )
        ),
        (
            changed("dimensions/station", {"path": "a", "type": "datetime", "format": "%H:%M"}),
            "dimensions.station.format",
            "reads no year",
        ),
        # times
        (changed("timezone", "Europe/Pari"), "timezone", "did you mean Europe/Paris?"),
        (changed("timezone", "../../etc/passwd"), "timezone", "not a known time zone"),
        (changed("timezone", "America"), "timezone", "not a known time zone"),
        (changed("freshness", "0s"), "freshness", "never normal"),
        (changed("schedule", {}), "schedule", "exactly one of every and cron"),
        (changed("schedule", {"every": "1h", "cron": "0 * * * *"}), "schedule", "exactly one"),
        (changed("schedule", {"every": "0s"}), "schedule.every", "once a second"),
        (changed("schedule", {"every": "1m", "jitter": "2m"}), "schedule.jitter", "longer"),
        (changed("schedule", {"cron": "every day"}), "schedule.cron", "five fields"),
        (changed("schedule", {"cron": "61 * * * *"}), "schedule.cron", "never fires"),
        (changed("schedule", {"cron": "0 0 30 2 *"}), "schedule.cron", "never fires"),
        (changed("schedule", {"cron": "R R * * *"}), "schedule.cron", "five fields"),
        (changed("schedule", {"cron": "0 0 * * * *"}), "schedule.cron", "five fields"),
        (changed("schedule", {"cron": "0 0 * * *", "timezone": "X"}), "schedule.timezone", "zone"),
        (changed("period", {"frequency": "D"}), "period", "exactly one of path and join"),
        (changed("period/codings", {"[": "A"}), "period.codings", "no regular expression"),
        (changed("period/codings", {"a": "A"}), "period.codings", "(?P<year>"),
        (changed("limits", {"timeout": "0s"}), "limits.timeout", "no time at all"),
        (changed("limits", {"max_duration": "2w"}), "limits.max_duration", "week"),
        # the address
        (url("https://example.org/?=1000"), "source.url", "mangled: ?=1000 has no name"),
        (url("https://example.org/?a=1&"), "source.url", "mangled: an empty parameter"),
        (url("https://example.org/?api_key=&x=1"), "source.url", "api_key has no value: mangled?"),
        (url("https://example.org/?api_key=SECRET"), "source.url", "secret://env/NAME"),
        (url("https://example.org/?api%5Fkey=SECRET"), "source.url", "api_key is a credential"),
        (url("https://example.org/?registrationkey=1"), "source.url", "is a credential"),
        (url("https://user:pw@example.org/"), "source.url", "carries credentials"),
        (url("https://:443/"), "source.url", "no host"),
        (url("https://example.org:99999/"), "source.url", "no address"),
        (url("https://example.org/\\x"), "source.url", "a character that addresses"),
        (changed("source/homepage", "https://a@b/"), "source.homepage", "credentials"),
        (
            changed("source/parameters", {"token": "x"}),
            "source.parameters.token",
            "token is a credential",
        ),
        (
            changed("source/parameters", {"q": "secret://env/X"}),
            "source.parameters.q",
            "not resolved here",
        ),
        # headers and authentication
        (changed("source/headers", {"Authorization": "x"}), "source.headers.Authorization", "cred"),
        (changed("source/headers", {"X-Api-Key": "x"}), "source.headers.X-Api-Key", "credential"),
        (changed("source/headers", {"Cookie": "x"}), "source.headers.Cookie", "credential"),
        (changed("source/headers", {"X-A": "Bearer xyz"}), "source.headers.X-A", "a credential"),
        (changed("source/headers", {"Host": "x"}), "source.headers.Host", "comes from the address"),
        (changed("source/headers", {"a b": "x"}), "source.headers.a b", "no name of a header"),
        (changed("source/headers", {"Accept": "é"}), "source.headers.Accept", "printable ASCII"),
        (
            both(
                ("source/url", "http://example.org/"),
                ("source/auth", {"type": "bearer", "token": "secret://env/A"}),
            ),
            "source.auth",
            "https addresses only",
        ),
        (
            changed("source/auth", {"type": "api-key", "key": "secret://env/A"}),
            "source.auth",
            "exactly one of header and parameter",
        ),
        # format and paths
        (
            changed("source/format/header", False),
            "source.format.header",
            "columns need names",
        ),
        (
            changed("source/format/header", ["Date", "Station", "Rain", "Rain"]),
            "source.format.header",
            "named twice",
        ),
        (changed("source/format/delimiter", '"'), "source.format", "must differ"),
        (changed("source/format/encoding", "klingon"), "source.format.encoding", "not a known"),
        (changed("source/format/encoding", "base64"), "source.format.encoding", "not a character"),
        (changed("measures/rain/path", "$.rain"), "measures.rain.path", "a table has columns"),
        (
            changed("measures/rain", "rain", json_profile()),
            "measures.rain.path",
            "did you mean $.rain?",
        ),
        (changed("measures/rain", "$.a[", json_profile()), "measures.rain.path", "no JSONPath"),
        (changed("measures/rain", "#x", json_profile()), "measures.rain.path", "format's keys"),
        (changed("measures/rain", "#value"), "measures.rain.path", "needs unpivot"),
        (
            json_profile(format={"type": "json", "records": "$..data[*]"}),
            "source.format.records",
            "cannot be read as a stream",
        ),
        (
            json_profile(format={"type": "json", "records": "$.data[?@.a > 1]"}),
            "source.format.records",
            "cannot be read as a stream",
        ),
        (
            json_profile(format={"type": "json", "encoding": "base64"}),
            "source.format.encoding",
            "is not a character encoding",
        ),
        # XML and tables
        (
            xml_profile(format={"type": "xml", "records": "rows/row"}),
            "source.format.records",
            "did you mean /rows/row?",
        ),
        (
            xml_profile(format={"type": "xml", "records": "/a/b[@x]"}),
            "source.format.records",
            "by names alone",
        ),
        (
            xml_profile(format={"type": "xml", "records": "/g:a/g:b"}),
            "source.format.records",
            "the prefix g is not in source.format.namespaces",
        ),
        (xml_profile(rain="$.rain"), "measures.rain.path", "did you mean rain?"),
        (xml_profile(rain="count(rain)"), "measures.rain.path", "no location path"),
        (xml_profile(rain="g:rain"), "measures.rain.path", "the prefix g is not in"),
        (xml_profile(rain="//a//b"), "measures.rain.path", "at all depths more than once"),
        (
            changed(
                "source/format",
                {"type": "csv", "header_starts": "a", "header": ["Station", "Rain", "Date"]},
            ),
            "source.format.header_starts",
            "only with header: true",
        ),
        (
            changed("source/format", {"type": "xlsx", "header_starts": "a", "header_row": 3}),
            "source.format",
            "header_row and header_starts",
        ),
        (
            changed("measures/rain/codes", "countries"),
            "measures.rain.codes",
            "codes/countries.csv beside the profile",
        ),
        (changed("period/spellings", {"TQ": "1976Q5"}), "period.spellings.TQ", "names no period"),
        (changed("period/year_start", 4), "period.year_start", "only a year"),
        # pages, mode, body
        (
            json_profile(pagination={"type": "page", "size": 10}),
            "source.pagination",
            "belong together",
        ),
        (
            json_profile(pagination={"type": "next-url", "path": "next"}),
            "source.pagination.path",
            "did you mean $.next?",
        ),
        (
            json_profile(parameters={"page": "1"}, pagination={"type": "page"}),
            "source.pagination",
            "page is also given in the query",
        ),
        (
            changed("source/pagination", {"type": "cursor", "parameter": "c", "path": "$.c"}),
            "source.pagination.path",
            "only a JSON body",
        ),
        (changed("mode", "incremental"), "cursor", "needs a cursor"),
        (
            changed("cursor", {"path": "Date", "parameter": "since", "start": "2020-01-01"}),
            "cursor",
            "a snapshot source has no cursor",
        ),
        (
            both(
                ("mode", "incremental"),
                (
                    "cursor",
                    {
                        "path": "Date",
                        "parameter": "since",
                        "start": "2020",
                        "overlap": "9",
                        "format": "%Y",
                    },
                ),
            ),
            "cursor.overlap",
            "this cursor is a time",
        ),
        (incremental(template="t > '{}'"), "cursor.template", "exactly one {value} is needed"),
        (incremental(template="{value}{value}"), "cursor.template", "exactly one {value}"),
        (incremental(template="t > {value}", start="x' or 1"), "cursor.start", "an expression"),
        (incremental(template="t > {value}", start="yesterday"), "cursor.start", "no number"),
        (incremental(template="{value}", start="2", format="%Y-%m"), "cursor.start", "no number"),
        (incremental(start="t > '2020-01-01'"), "cursor.start", "this is an expression"),
        (incremental(start="t ge 2020-01-01"), "cursor.start", "this is an expression"),
        (incremental(format="t > '%Y'", start="2020"), "cursor.format", "this is an expression"),
        (
            both(
                (
                    "source/windows",
                    {
                        "start_parameter": "since",
                        "end_parameter": "to",
                        "span": "1y",
                        "start": "2020-01-01",
                    },
                ),
                base=incremental(template="t > {value}"),
            ),
            "cursor.template",
            "windows send their own start",
        ),
        (fiscal(r"(?P<year>\d{4}) Q(?P<sub>\d)", "Q"), "period.codings", "does not say whether"),
        (fiscal(r"(?P<end_year>\d{4})M(?P<sub>\d+)", "M"), "period.codings", "does not say"),
        (
            fiscal(r"(?P<end_year>\d{4})Q(?P<quarter>\d)", "Q"),
            "period.codings",
            "does not say whether its year is the calendar's",
        ),
        (
            incremental(template="t > '{value}'", format="%Y%Y", start="2020"),
            "cursor.format",
            "reads %Y twice",
        ),
        (changed("period/format", "%c %Y"), "period.format", "reads %Y twice"),
        (url("http://[bad/x.csv"), "source.url", "this is no address"),
        (
            fiscal(r"(?P<fiscal_year>\d{4})W(?P<sub>\d)", "W"),
            "period.codings",
            "only A, S, Q and M",
        ),
        (
            fiscal(r"(?P<fiscal_year>\d{4})Q(?P<quarter>\d)", "Q", 2),
            "period.codings",
            "lies in two years that begin in month 2",
        ),
        (changed("source/body", "x"), "source.body", "only a POST has a body"),
        (changed("source/method", "POST"), "source.body", "a POST needs a body"),
        (
            both(("source/member", "a.csv"), ("source/compression", "gzip")),
            "source.member",
            "only a zip archive",
        ),
        (changed("unpivot", {"columns": "("}), "unpivot.columns", "no regular expression"),
        (wide("(?P<value>.*)"), "unpivot.columns", "#value has another meaning"),
        (wide(year="{column}"), "unpivot.beside.year", "#year has another meaning"),
        (wide(flag="{yaer} flag"), "unpivot.beside.flag", "known are {column}, {year}"),
        (wide(flag="flag"), "unpivot.beside.flag", "the same column for every cell"),
        (wide(flag=0), "unpivot.beside.flag", "1 is the next to the right"),
        (
            both(("unpivot", {"columns": "x", "beside": {"flag": 1}}), base=json_profile()),
            "unpivot.beside.flag",
            "only the columns of a table",
        ),
        (
            changed(
                "source/format",
                {"type": "csv", "header": ["Station", "Rain", "Date"], "header_rows": 2},
            ),
            "source.format.header_rows",
            "only with header: true",
        ),
        (
            changed("source/format", {"type": "csv", "fill_down": ["a", "a"]}),
            "source.format.fill_down[1]",
            "given twice",
        ),
        (
            changed(
                "source/format",
                {"type": "csv", "header": ["Station", "Rain", "Date"], "fill_down": ["Site"]},
            ),
            "source.format.fill_down[0]",
            "there is no column Site",
        ),
        (placed(delimiter=";"), "source.format.places", "no delimiter"),
        (placed(Rain="20-12"), "source.format.places.Rain", "ends before it begins"),
        (placed(Note="0-4"), "source.format.places.Note", "places in a line, from 1"),
        (placed(Rian="12-20"), "measures.rain.path", "did you mean Rian?"),
        (changed("period/months", ["Jan", "Feb"]), "period.months", "not those of twelve months"),
        (changed("period/months", [*MONTHS[:11], "1."]), "period.months[11]", "is no name"),
        (changed("period/months", [*MONTHS[:11], "m1"]), "period.months[11]", "another month"),
        (
            changed("period/months", ["Kasim", *MONTHS[1:11], "KASIM"]),
            "period.months[11]",
            "another month",
        ),
        (
            changed("period/months", ["Kasim", *MONTHS[1:11], "kasım"]),
            "period.months[11]",
            "another month",
        ),
        (
            changed("dimensions/station", {"path": "Station", "magnitude_path": "m"}),
            "dimensions.station",
            "only a measure",
        ),
        (
            changed("measures/rain", {"path": "Rain", "magnitude_path": "$.m"}),
            "measures.rain.magnitude_path",
            "a table has columns",
        ),
        (changed("measures/rain/marks", ["-"]), "measures.rain.marks[0]", "part of a number"),
        (changed("measures/rain/marks", ["p", "1)"]), "measures.rain.marks[1]", "part of a number"),
        (changed("measures/rain/marks", [" "]), "measures.rain.marks[0]", "a blank is no mark"),
        (
            changed("dimensions/station", {"path": "Station", "marks": ["*"]}),
            "dimensions.station.marks",
            "a string has no marks",
        ),
        (
            both(("measures/rain/marks", ["()"]), ("measures/rain/negative", "parentheses")),
            "measures.rain.marks[0]",
            "(123) is below zero",
        ),
        (
            both(("measures/rain/marks", ["p"]), ("attributes", {"rain_mark": "x"})),
            "attributes.rain_mark",
            "keeps the marks",
        ),
        (
            changed("source/success", {"path": "$.s", "equals": []}),
            "source.success.equals",
            "no value means success",
        ),
    ],
)
def test_a_rule_that_is_broken_is_told(plain: Any, path: str, said: str) -> None:
    found = examine(write_document(plain).encode()).problems
    assert len(found) == 1, [str(problem) for problem in found]
    assert found[0].path == path
    assert said in str(found[0])
    assert found[0].line > 0


def test_a_profile_that_maps_nothing_is_refused() -> None:
    plain = {key: value for key, value in GOOD.items() if key not in {"measures", "dimensions"}}
    assert "the profile maps nothing" not in problems(plain)[0]
    del plain["period"]
    assert any("the profile maps nothing" in said for said in problems(plain | {"key": "position"}))


def test_faults_of_shape_and_of_sense_are_listed_together() -> None:
    text = write_document(GOOD).replace("publisher: The Office", "publisher: 7")
    text = text.replace("https://example.org/rain.csv", "https://example.org/?=1&api_key=x")
    text += "titel: x\nexpect: {required: [measures.snow]}\nschedule: {cron: often}\n"
    found = examine(text.encode()).problems
    assert [problem.path for problem in found] == [
        "publisher",
        "source.url",
        "source.url",
        "titel",
        "expect.required[0]",
        "schedule.cron",
    ]


def test_a_field_that_is_wrong_is_not_also_unknown() -> None:
    plain = changed("measures/rain", {"pth": "Rain"})
    plain["expect"] = {"required": ["measures.rain"]}
    assert [said for said in problems(plain) if "not a field" in said] == []


def test_lists_of_problems_have_an_end() -> None:
    plain = copy.deepcopy(GOOD) | {f"member{number}": 1 for number in range(500)}
    found = problems(plain)
    assert len(found) == 201
    assert found[-1] == "and 300 more problems"


def named(letter: str, count: int) -> dict[str, str]:
    return {f"{letter}{number}": "x" for number in range(count)}


@pytest.mark.parametrize(
    ("most", "text"),
    [
        (19_000, lambda n: "".join(f"k{number}: 1\n" for number in range(n))),
        (9_000, lambda n: "measures:\n" + "".join(f"  k{number}: 1\n" for number in range(n))),
        (15_000, lambda n: f"key: [{', '.join(f'a{number}' for number in range(n))}]"),
        (3_000, lambda n: write_document(GOOD | {"measures": named("m", n)})),
        (
            1_000,
            lambda n: write_document(
                GOOD
                | {"measures": named("m", n)}
                | {"expect": {"required": [f"measures.{name}" for name in named("n", n)]}}
            ),
        ),
    ],
    ids=["members", "fields", "key", "wide", "references"],
)
def test_the_longest_list_of_faults_is_no_more_work_than_it_is_long(
    most: int, text: Callable[[int], str]
) -> None:
    def work(count: int) -> int:
        return calls_made(lambda: examine(text(count).encode()))

    assert examine(text(most).encode()).problems
    assert work(most // 4) < 2.5 * work(most // 8)


def test_requiring_a_bad_profile_raises_with_all_of_it() -> None:
    with pytest.raises(ProfileInvalid) as caught:
        load_profile(write_document(changed("titel", "x", changed("nam", "y"))).encode())
    assert [problem.path for problem in caught.value.problems] == ["nam", "titel"]


# --- what is not built --------------------------------------------------------------------------


def test_a_part_that_is_not_built_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is built in this build; a later part of the model may not be at first."""
    plain, path = changed("limits", {"concurrency": 2}), "limits.concurrency"
    feature = "concurrency above 1"
    assert examine(write_document(plain).encode()).unsupported == []
    monkeypatch.setitem(supported.SUPPORTED, feature, False)
    examined = examine(write_document(plain).encode())
    assert examined.problems == []
    assert [problem.path for problem in examined.unsupported] == [path]
    assert feature in str(examined.unsupported[0])
    with pytest.raises(ProfileUnsupported) as caught:
        examined.required()
    assert path in caught.value.detail


# --- looking further and never falling ----------------------------------------------------------


def test_further_checks_speak_last() -> None:
    def check(profile: Profile) -> list[Problem]:
        return [Problem(f"measures.{name}", "does not compile") for name in profile.measures]

    [problem] = examine(write_document(GOOD).encode(), checks=[check]).problems
    assert str(problem) == f"line {problem.line}, measures.rain: does not compile"
    assert problem.line == 15
    bad = write_document(changed("titel", "x")).encode()
    assert [each.path for each in examine(bad, checks=[check]).problems] == ["titel"]


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
    | st.sampled_from(["$", "$.a[*]", "csv", "position", "secret://env/A", "1d", "https://a/?b=c"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "path", "name", "a", "every", "min"]), inner)
    ),
    max_leaves=6,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append((value, key))
            found.extend(_places(value[key]))
    return found


@settings(deadline=None)
@given(profiles(), st.data())
def test_no_profile_breaks_the_examination(plain: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands anywhere: there is an answer, and good means that it converts."""
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(plain)
        container, key = data.draw(st.sampled_from(places))
        container[key] = data.draw(_anything)
    examined = examine(write_document(plain).encode())
    if examined.profile is None:
        assert examined.problems
    else:
        assert examine(examined.profile).digest == examined.digest


@settings(deadline=None)
@given(_anything)
def test_no_document_breaks_the_examination(plain: Any) -> None:
    assert examine(write_document(plain).encode()).problems
