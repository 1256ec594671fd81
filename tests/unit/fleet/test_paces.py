"""When the next request to a host may begin: arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.fleet.paces import AHEAD_SECONDS, next_moment

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
