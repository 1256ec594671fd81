"""A range means the same for periods of every length."""

from __future__ import annotations

import pytest

from holdfast.records.within import within


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
