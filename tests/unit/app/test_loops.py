"""What a process keeps doing is begun again when it fails."""

from __future__ import annotations

import errno

import pytest
import structlog

from holdfast.app.system import PAUSE_SECONDS, PAUSE_SECONDS_MAX, _forever
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Unavailable


class Hours(SystemClock):
    """Goes only as it is told, and remembers how long was waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.mark.parametrize(
    ("failure", "traced"),
    [
        (Unavailable("cannot use the database: the disk is full"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("a defect"), True),
    ],
)
async def test_only_defects_are_traced(failure: Exception, traced: bool) -> None:
    failures = iter([failure])

    async def loop() -> None:
        for each in failures:
            raise each

    with structlog.testing.capture_logs() as said:
        await _forever("test", loop, Hours())
    assert [line["log_level"] != "warning" for line in said] == [traced]


async def test_a_loop_that_had_been_well_begins_again_soon() -> None:
    clock, lives = Hours(), iter([0.0] * 9 + [3600.0])

    async def loop() -> None:
        lived = next(lives, None)
        if lived is None:
            return
        clock.passed += lived
        raise RuntimeError("it fails")

    await _forever("test", loop, clock)
    assert clock.waits[:3] == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS]
    assert clock.waits[-2:] == [PAUSE_SECONDS_MAX, PAUSE_SECONDS]
