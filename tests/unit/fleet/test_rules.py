"""The arithmetic of leases, retries and schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fleet.rules import (
    Holding,
    State,
    Verdict,
    backoff_seconds,
    first_due,
    is_last,
    jitter_seconds,
    judge,
    may_take,
    next_due,
    queue_name,
)
from holdfast.kernel.errors import Invalid
from holdfast.registry.model import Schedule

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANY = frozenset({"collect"})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# --- queues --------------------------------------------------------------------------------------


def test_tasks_that_the_same_workers_may_be_given_stand_in_one_queue() -> None:
    assert queue_name("collect", ["b", "a", "a"], "eu") == queue_name("collect", ["a", "b"], "eu")
    assert len({queue_name("collect", c, r) for c in ([], ["a"]) for r in ("", "eu")}) == 4


@pytest.mark.parametrize(
    ("queue", "capabilities", "region", "allowed"),
    [
        ("collect||", (), "", True),
        ("collect||", ("a",), "eu", True),
        ("review||", (), "", False),
        ("collect|a,b|", ("a", "b", "c"), "", True),
        ("collect|a,b|", ("a",), "", False),
        ("collect||eu", (), "eu", True),
        ("collect||eu", (), "us", False),
        ("collect||eu", (), "", False),
    ],
)
def test_a_worker_takes_from_a_queue_if_kind_capabilities_and_region_fit(
    queue: str, capabilities: tuple[str, ...], region: str, allowed: bool
) -> None:
    assert may_take(queue, ANY, frozenset(capabilities), region) is allowed


# --- the end of a lease --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holding", "verdict"),
    [
        (Holding(State.LEASED, 5, "me", ""), Verdict.ACCEPT),
        (Holding(State.LEASED, 6, "me", ""), Verdict.STALE),
        (Holding(State.LEASED, 5, "you", ""), Verdict.STALE),
        (Holding(State.READY, 0, None, ""), Verdict.NEVER_LEASED),
        (Holding(State.WAITING, 5, None, ""), Verdict.STALE),
        (Holding(State.SUCCEEDED, 5, "me", "sha256:1"), Verdict.REPEATED),
        (Holding(State.SUCCEEDED, 5, "me", "sha256:2"), Verdict.STALE),
        (Holding(State.SUCCEEDED, 5, "you", "sha256:1"), Verdict.STALE),
        (Holding(State.DEAD, 5, "me", "sha256:1"), Verdict.REPEATED),
        (Holding(State.DEAD, 5, "me", ""), Verdict.STALE),
        (Holding(State.CANCELLED, 5, "me", ""), Verdict.CANCELLED),
        (Holding(State.CANCELLED, 0, None, ""), Verdict.CANCELLED),
    ],
)
def test_who_may_end_a_task(holding: Holding, verdict: Verdict) -> None:
    assert judge(holding, fence=5, worker="me", answer="sha256:1") is verdict


# --- retries -------------------------------------------------------------------------------------


def test_the_pause_doubles_and_is_bounded() -> None:
    pauses = [
        backoff_seconds(n, first_seconds=10, most_seconds=100, random=0.0) for n in range(1, 7)
    ]
    assert pauses == [10, 20, 40, 80, 100, 100]


@given(
    st.integers(0, 10_000),
    st.floats(0.01, 3600),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 86400),
)
def test_a_pause_is_between_half_and_all_and_never_less_than_asked_for(
    attempts: int, first: float, chance: float, asked: float
) -> None:
    full = backoff_seconds(attempts, first_seconds=first, random=0.0)
    pause = backoff_seconds(attempts, first_seconds=first, random=chance, at_least_seconds=asked)
    assert max(full / 2, asked) <= pause <= max(full, asked)


def test_no_attempt_follows_the_last_or_the_deadline() -> None:
    assert is_last(4, 4, None, "2026")
    assert not is_last(3, 4, None, "2026")
    assert is_last(1, 4, "2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z")
    assert not is_last(1, 4, "2026-03-01T12:00:01Z", "2026-03-01T12:00:00Z")


# --- schedules -----------------------------------------------------------------------------------

HOURLY = Schedule(every="1h")


def test_an_interval_begins_at_once_and_keeps_its_phase() -> None:
    assert first_due(HOURLY, "t", "p", NOW, None) == NOW
    assert next_due(HOURLY, "t", "p", NOW, NOW) == NOW + timedelta(hours=1)
    late = NOW + timedelta(minutes=5)
    assert next_due(HOURLY, "t", "p", NOW, late) == NOW + timedelta(hours=1)


def test_a_changed_interval_counts_from_the_last_start() -> None:
    last = NOW - timedelta(minutes=50)
    assert first_due(HOURLY, "t", "p", NOW, last) == NOW + timedelta(minutes=10)


def test_missed_moments_are_not_made_up_for() -> None:
    now = NOW + timedelta(hours=10, minutes=20)
    assert next_due(HOURLY, "t", "p", NOW, now) == NOW + timedelta(hours=11)


def test_jitter_is_the_same_each_time_and_differs_between_profiles() -> None:
    schedule = Schedule(every="1h", jitter="10m")
    jitters = {jitter_seconds(schedule, "t", f"p{n}") for n in range(100)}
    assert len(jitters) == 100
    assert all(0 <= jitter < 600 for jitter in jitters)
    assert max(jitters) - min(jitters) > 300
    assert jitter_seconds(schedule, "t", "p") == jitter_seconds(schedule, "t", "p")
    assert jitter_seconds(schedule, "t", "p") != jitter_seconds(schedule, "u", "p")
    # A published number: it must not change between releases, or every fleet would jump at once.
    assert jitter_seconds(schedule, "default", "rain") == pytest.approx(PUBLISHED_JITTER)


PUBLISHED_JITTER = 580.9082453628598


def test_jitter_delays_the_start_and_keeps_the_interval() -> None:
    schedule = Schedule(every="1h", jitter="10m")
    due = first_due(schedule, "t", "p", NOW, None)
    assert due == NOW + timedelta(seconds=jitter_seconds(schedule, "t", "p"))
    assert next_due(schedule, "t", "p", due, due) == due + timedelta(hours=1)


@pytest.mark.parametrize(
    ("expression", "zone", "moment", "expected"),
    [
        ("30 6 * * *", "UTC", "2026-03-01T12:00:00Z", "2026-03-02T06:30:00Z"),
        ("30 6 * * *", "Europe/Berlin", "2026-03-01T12:00:00Z", "2026-03-02T05:30:00Z"),
        ("30 6 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-02T04:30:00Z"),
        ("0 0 1 * *", "UTC", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        # 02:30 does not exist on this night: as soon as the clock has passed it.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        # 02:30 comes twice on this night: the first one counts, the second is skipped.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        # Every half hour is every half hour.
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
    ],
)
def test_cron_fires_on_the_wall_clock_of_its_zone(
    expression: str, zone: str, moment: str, expected: str
) -> None:
    schedule = Schedule(cron=expression, timezone=zone)
    assert first_due(schedule, "t", "p", at(moment), None) == at(expected)
    assert next_due(schedule, "t", "p", at(moment), at(moment)) == at(expected)


def test_cron_with_jitter_fires_once_for_each_moment() -> None:
    schedule = Schedule(cron="0 * * * *", jitter="30m")
    delay = timedelta(seconds=jitter_seconds(schedule, "t", "p"))
    due = first_due(schedule, "t", "p", NOW, None)
    moments = []
    for _ in range(3):
        moments.append(due - delay)
        due = next_due(schedule, "t", "p", due, due)
    assert moments == [NOW + timedelta(hours=n) for n in range(3)]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(cron="banana"),
        Schedule(cron="* * * * * *"),
        Schedule(cron="@daily"),
        Schedule(cron="60 * * * *"),
        Schedule(cron="0 0 30 2 *"),
        Schedule(cron="0 0 * * *", timezone="Mars/Olympus"),
        Schedule(every="0s"),
    ],
)
def test_a_schedule_that_names_no_moment_is_invalid(schedule: Schedule) -> None:
    with pytest.raises(Invalid):
        first_due(schedule, "t", "p", NOW, NOW)
    with pytest.raises(Invalid):
        next_due(schedule, "t", "p", NOW, NOW)


@given(
    st.integers(1, 100_000),
    st.integers(0, 10_000_000),
    st.sampled_from(["s", "m", "h"]),
)
def test_the_next_moment_is_always_later_than_now(every: int, late: int, unit: str) -> None:
    schedule = Schedule(every=f"{every}{unit}")
    now = NOW + timedelta(seconds=late)
    following = next_due(schedule, "t", "p", NOW, now)
    assert now < following <= now + timedelta(seconds=every * {"s": 1, "m": 60, "h": 3600}[unit])
