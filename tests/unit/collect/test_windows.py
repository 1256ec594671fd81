"""A history is cut into windows that leave nothing out and ask for nothing twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.collect.cursor import CursorState
from holdfast.collect.errors import MappingRefused
from holdfast.collect.pages import Section
from holdfast.collect.windows import sections_of, windows
from holdfast.registry.source import Windows
from tests.unit.collect.helpers import profile

NOW = datetime(2022, 3, 15, 10, 30, tzinfo=UTC)


def spec(**parts: Any) -> Windows:
    plain = {"start_parameter": "a", "end_parameter": "b", "start": "2020-01-01", "span": "1y"}
    return msgspec.convert({**plain, **parts}, Windows)


def cut(one: Windows, until: datetime = NOW, **parts: Any) -> list[tuple[str, str]]:
    return [(each["a"], each["b"]) for each in windows(one, UTC, until=until, **parts)]


def test_years_of_the_calendar() -> None:
    assert cut(spec()) == [
        ("2020-01-01", "2021-01-01"),
        ("2021-01-01", "2022-01-01"),
        ("2022-01-01", "2022-03-16"),  # the day of the run is in it, whole
    ]
    assert cut(spec(end="inclusive")) == [
        ("2020-01-01", "2020-12-31"),
        ("2021-01-01", "2021-12-31"),
        ("2022-01-01", "2022-03-15"),
    ]
    years = spec(start="2001", format="%Y", span="10y", end="inclusive")
    assert cut(years) == [("2001", "2010"), ("2011", "2020"), ("2021", "2022")]
    assert cut(spec(start="2021", format="%Y"))[-1] == ("2022", "2023")


def test_months_do_not_drift_from_the_end_of_one_to_the_next() -> None:
    months = cut(spec(start="2021-12-31", span="1mo"))
    assert [begin for begin, _ in months] == ["2021-12-31", "2022-01-31", "2022-02-28"]
    assert cut(spec(start="2022-01", format="%Y-%m", span="1mo"))[-1] == ("2022-03", "2022-04")


def test_moments_are_written_as_the_source_wants_them() -> None:
    hours = spec(start="2022-03-15T09:00:00Z", format="", span="1h")
    assert cut(hours) == [
        ("2022-03-15T09:00:00Z", "2022-03-15T10:00:00Z"),
        ("2022-03-15T10:00:00Z", "2022-03-15T10:30:01Z"),
    ]
    seconds = spec(start="1647334800", format="epoch-s", span="1h", end="inclusive")
    assert cut(seconds)[0] == ("1647334800", "1647338399")
    zone = ZoneInfo("America/New_York")
    days = spec(start="2022-03-12", span="1d")
    found = [each["a"] for each in windows(days, zone, until=NOW)]
    assert found == ["2022-03-12", "2022-03-13", "2022-03-14", "2022-03-15"]  # one has 23 hours


def test_a_window_is_asked_for_even_where_the_start_lies_ahead() -> None:
    assert cut(spec(start="2030-01-01")) == [("2030-01-01", "2030-01-02")]


@pytest.mark.parametrize("bad", [{"start": "soon"}, {"span": "0d"}, {"span": "999999y"}])
def test_what_cannot_be_cut_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(MappingRefused):
        cut(spec(**bad))


@settings(deadline=None)
@given(
    st.dates(date(1990, 1, 1), date(2021, 1, 1)),
    st.integers(0, 4000),
    st.sampled_from(["1d", "30d", "1mo", "7mo", "2y", "100w"]),
    st.sampled_from(["exclusive", "inclusive"]),
)
def test_windows_meet_and_cover(start: date, days: int, span: str, end: str) -> None:
    begin = datetime(start.year, start.month, start.day, tzinfo=UTC)
    until = begin + timedelta(days=days, hours=5)
    one = spec(start=begin.strftime("%Y-%m-%d"), span=span, end=end)
    found = [
        (datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b in cut(one, until=until)
    ]
    gap = timedelta(days=1 if end == "inclusive" else 0)
    assert found[0][0].date() == begin.date()
    assert found[-1][1].date() == (until + timedelta(days=1) - gap).date()
    assert all(b + gap == later for (_, b), (later, _) in pairwise(found))


def test_windows_begin_where_the_cursor_stands() -> None:
    parts = {
        "mode": "incremental",
        "cursor": {
            "path": "$.at", "parameter": "a", "start": "2020-01-01", "overlap": "2d",
            "format": "%Y-%m-%d",
        },
    }  # fmt: skip
    source = {
        "url": "https://example.org/data",
        "format": {"type": "json"},
        "windows": {
            "start_parameter": "a", "end_parameter": "b", "start": "2020-01-01", "span": "1y",
        },
    }  # fmt: skip
    one = profile(source, **parts)
    assert one.cursor is not None
    state = CursorState(one.cursor, UTC, "2021-12-03T00:00:00.000000Z")
    assert list(sections_of(one, state, NOW)) == [Section({"a": "2021-12-01", "b": "2022-03-16"})]
    assert len(list(sections_of(one, CursorState(one.cursor, UTC, None), NOW))) == 3
    plain = profile({"url": "https://example.org/data", "format": {"type": "json"}})
    assert list(sections_of(plain, None, NOW)) == [Section()]


@pytest.mark.parametrize(
    ("changes", "within", "expected"),
    [
        (
            {},
            ("2020-03-01", "2020-06-01"),
            [("03-01", "04-01"), ("04-01", "05-01"), ("05-01", "06-01")],
        ),
        (
            {"end": "inclusive"},
            ("2020-03-01", "2020-04-15"),
            [("03-01", "03-31"), ("04-01", "04-14")],
        ),
        ({}, ("2020-03-10", "2020-03-11"), [("03-10", "03-11")]),
        ({"format": "%m"}, ("2020-03-01", "2020-05-01"), [("03", "04"), ("04", "05")]),
        (
            {"format": "%m", "end": "inclusive"},
            ("2020-03-01", "2020-05-01"),
            [("03", "03"), ("04", "04")],
        ),
    ],
)
def test_a_backfill_asks_for_the_windows_of_its_range_and_no_other(
    changes: dict[str, str], within: tuple[str, str], expected: list[tuple[str, str]]
) -> None:
    windows_ = {
        "start_parameter": "a", "end_parameter": "b", "start": "1", "span": "1mo",
        "format": "%m-%d", **changes,
    }  # fmt: skip
    source = {"url": "https://e.org/", "format": {"type": "json"}, "windows": windows_}
    found = sections_of(profile(source), None, NOW, within)
    assert [(each.query["a"], each.query["b"]) for each in found] == expected
