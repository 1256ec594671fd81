"""When the next request to a host may begin: arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.fleet.paces import AGAIN_SECONDS_MIN, AHEAD_SECONDS, again_seconds, next_moment

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "per_minute", "wait"),
    [
        (None, 6, 0),
        (-20, 6, 0),
        (-4, 6, 6),
        (0, 6, 10),
        (0, 600, 0.1),
        (50, 6, 60),
        (51, 6, None),
        (AHEAD_SECONDS, 600, None),
        # Given by a coordinator whose clock is ahead, or while this one waited for the database.
        (AHEAD_SECONDS + 1, 6, None),
        (2 * AHEAD_SECONDS, 6, None),
        # Never given: the clock was put back.
        (2 * AHEAD_SECONDS + 1, 6, 0),
        (86_400, 6, 0),
    ],
)
def test_the_next_moment(last: float | None, per_minute: int, wait: float | None) -> None:
    before = None if last is None else NOW + timedelta(seconds=last)
    found = next_moment(before, per_minute, NOW)
    assert found == (None if wait is None else NOW + timedelta(seconds=wait))


@pytest.mark.parametrize(
    ("last", "per_minute", "wait"),
    [
        (51, 6, AGAIN_SECONDS_MIN),
        (56, 6, 6),
        (60, 1, 60),
        (60, 7, pytest.approx(60 / 7)),
        (AHEAD_SECONDS, 600, AGAIN_SECONDS_MIN),
        (2 * AHEAD_SECONDS, 1, 120),
    ],
)
def test_who_got_no_moment_asks_when_there_may_be_one(
    last: float, per_minute: int, wait: float
) -> None:
    before = NOW + timedelta(seconds=last)
    assert next_moment(before, per_minute, NOW) is None
    found = again_seconds(before, per_minute, NOW)
    assert found == wait
    assert next_moment(before, per_minute, NOW + timedelta(seconds=found)) is not None
