"""A range means the same for periods of every length."""

from __future__ import annotations

import pytest

from holdfast.collect.mapping_fields import zone_of
from holdfast.collect.windows import moment_of
from holdfast.kernel.clock import timestamp
from holdfast.records.within import since, within


@pytest.mark.parametrize(
    ("zone", "start", "end", "inside", "outside"),
    [
        (
            "Europe/Paris", "2020-01-01", "2021-01-01",
            ["2020-01-01", "2020-12-31", "2019-12-31T23:00:00.000000Z"],
            ["2019-12-31", "2021-01-01", "2020-12-31T23:00:00.000000Z"],
        ),
        (
            "America/New_York", "2020-07-01", "2020-07-02",
            ["2020-07-01", "2020-07-01T04:00:00.000000Z", "2020-07-02T03:59:59.999999Z"],
            ["2020-07-02", "2020-07-01T03:00:00.000000Z", "2020-07-02T04:00:00.000000Z"],
        ),
        (
            "UTC", "2020-07-01T00:00:00Z", "2020-07-01T12:00:00Z",
            ["2020-07-01", "2020-07-01T00:00:00.000000Z"],
            ["2020-07-02", "2020-07-01T12:00:00.000000Z"],
        ),
        (
            "Europe/Paris", "2020-07-01T00:00:00Z", "2020-07-02T00:00:00.5Z",
            ["2020-07-02", "2020-07-01T00:00:00.000000Z", "2020-07-02T00:00:00.400000Z"],
            ["2020-07-01", "2020-06-30T23:00:00.000000Z", "2020-07-02T00:00:00.500000Z"],
        ),
    ],
)  # fmt: skip
def test_what_begins_in_a_range(
    zone: str, start: str, end: str, inside: list[str], outside: list[str]
) -> None:
    about = within(start, end, zone)
    assert [about.holds(period) for period in inside] == [True] * len(inside)
    assert [about.holds(period) for period in outside] == [False] * len(outside)


@pytest.mark.parametrize("wrong", ["2020-02-30", "2020-01-01T25:00:00Z"])
def test_no_time_of_the_calendar_is_no_bound(wrong: str) -> None:
    with pytest.raises(ValueError):
        within("2020-01-01", wrong, "UTC")


@pytest.mark.parametrize(
    ("text", "pattern", "zone", "day"),
    [
        ("2024-01-01", "%Y-%m-%d", "UTC", "2024-01-01"),
        ("2024-01-01", "%Y-%m-%d", "Asia/Tokyo", "2024-01-01"),
        ("2024", "%Y", "America/New_York", "2024-01-01"),
        ("202403", "%Y%m", "Europe/Paris", "2024-03-01"),
        ("01/02/2024 10:00", "%d/%m/%Y %H:%M", "Europe/Paris", "2024-02-02"),
        ("2024-01-01T00:00:00+0500", "%Y-%m-%dT%H:%M:%S%z", "UTC", "2024-01-01"),
        ("2024-01-01 UTC", "%Y-%m-%d %Z", "Europe/Paris", "2024-01-02"),
        ("1704067200", "epoch-s", "UTC", "2024-01-01"),
        ("1704067200000", "epoch-ms", "America/New_York", "2024-01-01"),
        ("2024-01-01", "", "Europe/Paris", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "", "Europe/Paris", "2024-01-02"),
        (" 2024-01-01 ", "%Y-%m-%d", "UTC", "2024-01-01"),
    ],
)
def test_windows_begin_where_the_worker_lets_them_begin(
    text: str, pattern: str, zone: str, day: str
) -> None:
    found = since(text, pattern, zone)
    assert found.moments == (timestamp(moment_of(text, pattern, zone_of(zone))), "")
    assert found.days == (day, "")
    assert found.holds(day)
    assert found.holds("9999-12-31")
    assert not found.holds("2023-12-31")


@pytest.mark.parametrize(
    ("text", "pattern"), [("2024", "%Y-%m-%d"), ("x", "epoch-s"), ("1e99", "epoch-ms"), ("x", "")]
)
def test_no_time_is_no_bound(text: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        since(text, pattern, "UTC")
