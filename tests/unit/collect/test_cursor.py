"""A cursor only moves forward, and is sent as the source writes it."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from holdfast.collect.cursor import CursorState
from holdfast.collect.errors import MappingRefused
from holdfast.registry.model import Cursor


def state(published: str | None = None, zone: str = "UTC", **parts: Any) -> CursorState:
    given = {"path": "$.t", "parameter": "since", "start": "2020-01-01", **parts}
    return CursorState(Cursor(**given), ZoneInfo(zone), published)


def test_the_first_run_starts_where_the_profile_says() -> None:
    assert state().parameters() == {"since": "2020-01-01"}
    assert state().result() is None


def test_the_next_run_goes_on_from_the_greatest_value_seen() -> None:
    first = state()
    for moment in (
        "2020-03-01T00:00:00Z",
        "2020-05-01T12:00:00Z",
        "2020-04-01T00:00:00Z",
        None,
        "",
    ):
        first.observe({"t": moment})
    assert first.result() == "2020-05-01T12:00:00.000000Z"
    second = state(first.result(), overlap="12h")
    assert second.parameters() == {"since": "2020-05-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("pattern", "zone", "sent"),
    [
        ("", "UTC", "2020-05-01T12:00:00Z"),
        ("epoch-s", "UTC", "1588334400"),
        ("epoch-ms", "UTC", "1588334400000"),
        ("%d/%m/%Y %H:%M", "America/Los_Angeles", "01/05/2020 05:00"),
    ],
)
def test_it_is_sent_in_the_source_s_own_spelling(pattern: str, zone: str, sent: str) -> None:
    under = state("2020-05-01T12:00:00.000000Z", zone, format=pattern)
    assert under.parameters() == {"since": sent}
    under.observe({"t": sent})
    assert under.result() == "2020-05-01T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("template", "pattern", "published", "sent"),
    [
        ("t > '{value}'", "%Y-%m-%dT%H:%M:%S", None, "t > '2020-01-01'"),
        ("t > '{value}'", "%Y-%m-%dT%H:%M:%S", "2020-05-01T12:00:00.000000Z",
         "t > '2020-05-01T12:00:00'"),
        ("id gt {value}", "", "41", "id gt 41"),
        ("gt{value}", "", "2020-05-01T12:00:00.000000Z", "gt2020-05-01T12:00:00Z"),
    ],
)  # fmt: skip
def test_an_expression_has_the_value_in_its_place(
    template: str, pattern: str, published: str | None, sent: str
) -> None:
    under = state(published, template=template, format=pattern)
    assert under.parameters() == {"since": sent}


@pytest.mark.parametrize("text", ["2020-05-01' OR 1=1 --", "x'", "{value}", "1' or '1"])
def test_nothing_that_is_no_number_and_no_time_becomes_a_cursor(text: str) -> None:
    under = state(template="t > '{value}'")
    with pytest.raises(MappingRefused, match="cannot read the cursor"):
        under.observe({"t": text})
    assert under.parameters() == {"since": "t > '2020-01-01'"}


def test_a_run_that_sees_nothing_newer_does_not_move_it_back() -> None:
    under = state("2020-05-01T12:00:00.000000Z")
    under.observe({"t": "2019-01-01T00:00:00Z"})
    assert under.result() == "2020-05-01T12:00:00.000000Z"


def test_rows_that_are_numbered() -> None:
    under = state("41", start="0")
    assert under.parameters() == {"since": "41"}
    under.observe({"t": 100})
    under.observe({"t": "99"})
    assert under.result() == "100"


def test_what_goes_back_from_a_number_is_a_number() -> None:
    assert state("41", start="0", overlap="10").parameters() == {"since": "31"}
    assert state("41", start="0", overlap="50").parameters() == {"since": "0"}
    with pytest.raises(MappingRefused, match="cannot go back 1h from the cursor: it is a number"):
        state("41", start="0", overlap="1h").parameters()
    moment = "2020-05-01T12:00:00.000000Z"
    assert state(moment, overlap="0").parameters() == {"since": "2020-05-01T12:00:00Z"}
    with pytest.raises(MappingRefused, match="cannot go back 10 from the cursor: it is a time"):
        state(moment, start="", overlap="10").parameters()


def test_a_column_can_hold_it() -> None:
    under = state(path="updated at")
    under.observe({"updated at": "2021-01-01"})
    assert under.result() == "2021-01-01T00:00:00.000000Z"


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(MappingRefused):
        state().observe({"t": "soon"})
    with pytest.raises(MappingRefused, match="numbers and times"):
        state("41").observe({"t": "2020-01-01"})


def test_a_backfill_begins_with_the_day_of_the_source() -> None:
    given = Cursor(path="$.t", parameter="since", start="2020-01-01")
    of_paris = CursorState(given, ZoneInfo("Europe/Paris"), None, since="2020-01-01")
    assert of_paris.parameters() == {"since": "2019-12-31T23:00:00Z"}
