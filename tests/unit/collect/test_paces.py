"""An attempt and its moments: a request begins at one, and only while it holds a place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from holdfast.collect.errors import HostBusy
from holdfast.collect.paces import Paces
from holdfast.collect.pages import Ask
from holdfast.collect.places import WAIT_SECONDS_MAX
from holdfast.collect.requests import NO_CREDENTIALS, Manners, request
from holdfast.fleet.model import PaceGiven, PaceWanted
from holdfast.kernel.clock import ManualClock
from holdfast.registry.model import Limits
from tests.unit.collect.helpers import profile

HOST = "source.example.org:443"
TEN_A_MINUTE = Limits(requests_per_minute=10)


class Patient(ManualClock):
    """A clock that moves for whoever waits."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class Source:
    """Gives moments and places; how long each takes is said before."""

    def __init__(self, *answers: PaceGiven) -> None:
        self.clock = Patient(datetime(2026, 11, 1, 12, tzinfo=UTC))
        self.answers = list(answers)
        self.place_seconds: list[float] = []
        self.places = 0

    async def moment(self, wanted: PaceWanted) -> PaceGiven:
        assert wanted == PaceWanted(fence=3, source=HOST, per_minute=10)
        return self.answers.pop(0) if self.answers else PaceGiven(given=True, wait_seconds=1)

    @asynccontextmanager
    async def place(self, host_port: str) -> AsyncIterator[None]:
        assert host_port == HOST
        self.clock.advance(self.place_seconds.pop(0) if self.place_seconds else 0)
        self.places += 1
        try:
            yield
        finally:
            self.places -= 1

    def manners(self) -> Manners:
        paces = Paces(self.moment, 3, self.clock)
        return Manners(TEN_A_MINUTE, place=self.place, pace=paces.placed)


async def began(source: Source) -> float:
    """When a request began."""
    at = source.manners().at()
    assert at is not None
    async with at(HOST):
        assert source.places == 1
        found = source.clock.monotonic()
    assert source.places == 0
    return found


@pytest.mark.parametrize(("place_seconds", "when"), [(0, 1), (6, 7), (6.1, 8.1), (300, 302)])
async def test_a_moment_that_passed_while_a_place_was_waited_for_is_none(
    place_seconds: float, when: float
) -> None:
    source = Source()
    source.place_seconds = [place_seconds]
    assert await began(source) == pytest.approx(when)


async def test_whoever_gets_no_moment_asks_again_when_told_to() -> None:
    source = Source(*[PaceGiven(given=False, wait_seconds=40)] * 3)
    assert await began(source) == 121


async def test_nobody_waits_for_both_for_ever() -> None:
    source = Source()
    source.place_seconds = [50.0] * 1000
    with pytest.raises(HostBusy):
        await began(source)
    assert source.places == 0
    assert WAIT_SECONDS_MAX <= source.clock.monotonic() < WAIT_SECONDS_MAX + 60


async def test_nobody_gives_up_while_others_of_the_same_attempt_are_let_in() -> None:
    source, refusals, let_in = Source(), 5, False

    async def moment(_: PaceWanted) -> PaceGiven:
        nonlocal refusals, let_in
        if let_in or not refusals:
            return PaceGiven(given=True, wait_seconds=0)
        refusals, let_in = refusals - 1, True
        async with at(HOST):  # another of ours
            let_in = False
        return PaceGiven(given=False, wait_seconds=WAIT_SECONDS_MAX / 2)

    at = Paces(moment, 3, source.clock).placed(source.place, 10)
    async with at(HOST):
        assert source.clock.monotonic() >= 2 * WAIT_SECONDS_MAX


@pytest.mark.parametrize(("has_place", "has_pace"), [(True, True), (True, False), (False, True)])
def test_each_request_has_one_pace_the_fleets_or_this_process_s(
    has_place: bool, has_pace: bool
) -> None:
    source = Source()
    manners = replace(
        source.manners(),
        place=source.place if has_place else None,
        pace=source.manners().pace if has_pace else None,
    )
    told = profile({"format": {"type": "json"}}).source
    asked = request(told, manners, Ask(told.url), NO_CREDENTIALS)
    of_the_fleet = has_place and has_pace
    assert asked.requests_per_minute == (None if of_the_fleet else 10)
    assert (asked.place is None) == (not has_place)
