"""Ids, clocks, error kinds, principals."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel import errors
from holdfast.kernel.clock import ManualClock, parse_timestamp, timestamp
from holdfast.kernel.ids import id_source, is_id, is_name, uuid7
from holdfast.kernel.principal import (
    Permission,
    PermissionAuthoriser,
    Principal,
    PrincipalKind,
    operator,
)

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_an_id_is_a_version_7_uuid_that_carries_its_moment(
    milliseconds: int, random: bytes
) -> None:
    text = uuid7(milliseconds, random)
    parsed = uuid.UUID(text)
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == milliseconds
    assert is_id(text)


@given(
    st.integers(0, 2**48 - 2),
    st.binary(min_size=10, max_size=10),
    st.binary(min_size=10, max_size=10),
)
def test_a_later_id_sorts_after_an_earlier_one(milliseconds: int, one: bytes, two: bytes) -> None:
    assert uuid7(milliseconds, one) < uuid7(milliseconds + 1, two)


def test_an_id_source_takes_time_and_randomness_from_its_arguments() -> None:
    new_id = id_source(ManualClock(START), lambda n: b"\x07" * n)
    assert new_id() == uuid7(int(START.timestamp() * 1000), b"\x07" * 10)


@pytest.mark.parametrize("text", ["", "A", "-a", "a-", "a/b", "a" * 65, "a b", "ä", "."])
def test_names_that_could_mean_something_elsewhere_are_refused(text: str) -> None:
    assert not is_name(text)


def test_a_timestamp_is_utc_fixed_width_and_reads_back() -> None:
    assert timestamp(START) == "2026-01-02T03:04:05.678901Z"
    local = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert timestamp(local) == timestamp(START)
    assert parse_timestamp(timestamp(START)) == START
    with pytest.raises(ValueError, match="no zone"):
        timestamp(START.replace(tzinfo=None))
    with pytest.raises(ValueError, match="no zone"):
        parse_timestamp("2026-01-02T03:04:05")


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00", "2026-01-01T00:00:00", "x"]
)
def test_a_time_that_has_no_place_in_utc_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


async def test_a_manual_clock_wakes_sleepers_in_order_of_their_deadlines() -> None:
    clock = ManualClock(START)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 5))
        group.create_task(sleeper("early", 1))
        await asyncio.sleep(0)
        clock.advance(0.5)
        await asyncio.sleep(0)
        assert woken == []
        clock.advance(10)
    assert woken == ["early", "late"]
    assert clock.now() == START + timedelta(seconds=10.5)


def test_every_kind_has_a_status_an_exit_status_and_a_class() -> None:
    for kind in errors.Kind:
        assert 400 <= errors.HTTP_STATUS[kind] <= 503
        assert 1 <= errors.EXIT_STATUS[kind] <= 7
        assert errors.BY_KIND[kind].kind is kind


def test_an_error_keeps_what_the_caller_sees_apart_from_what_the_log_records() -> None:
    error = errors.Conflict("cannot publish: taken", code="taken", internal="row 7")
    assert (str(error), error.code, error.internal) == ("cannot publish: taken", "taken", "row 7")
    assert errors.Conflict("x").code == "conflict"


def test_a_missing_permission_is_denied_by_name() -> None:
    worker = Principal(
        operator().tenant, "w", PrincipalKind.WORKER, frozenset({Permission.TASKS_WORK})
    )
    authoriser = PermissionAuthoriser()
    authoriser.authorise(worker, Permission.TASKS_WORK)
    authoriser.authorise(worker, Permission.PUBLIC)
    with pytest.raises(errors.Denied, match="profiles:write"):
        authoriser.authorise(worker, Permission.PROFILES_WRITE)
