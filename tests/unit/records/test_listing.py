"""A list of records is readable on a hundred columns, and says what it does not show."""

from __future__ import annotations

import io
import sys
from typing import Any

import msgspec
import pytest

from holdfast.kernel.cli import print_fields, print_table
from holdfast.kernel.errors import Invalid
from holdfast.records.listing import listing, notice_text, period_text, unit_words
from holdfast.records.model import Measure, Notice, PeriodValue, Record

YEARS = [f"fy{year}" for year in range(1962, 2026)]


def one(**changes: object) -> Record:
    plain = {
        "id": "5" * 32,
        "profile": "receipts",
        "key": ["a"],
        "revision": 1,
        "withdrawn": False,
        "recorded_from": "2026-01-01T00:00:00.000000Z",
        "recorded_to": None,
        "dimensions": {"agency": "Treasury", "place": "x" * 80},
        "measures": {name: {"value": "1200", "unit": "thousand USD"} for name in YEARS},
        "attributes": {"flag": "p"},
        "period": None,
        "run": "r",
        "publication": 1,
        **changes,
    }
    return msgspec.convert(plain, Record)


def lines_of(found: object, width: int) -> list[int]:
    return [
        sum(max(len(c.heading), len(cell)) + 2 for c, cell in zip(found.columns, row, strict=True))
        - 2
        for row in found.rows
    ]


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_what_is_listed_fits_and_the_rest_is_named(width: int) -> None:
    found = listing([one(), one(revision=12)], width=width)
    assert max(lines_of(found, width)) <= width
    shown = [column.heading for column in found.columns]
    assert {"record", "period", "agency", "fy1962", "revision"} <= set(shown)
    assert set(found.left_out) | set(shown) >= {"agency", "place", *YEARS}
    remark = found.remark(width)
    assert f"fit {width} characters" in remark
    assert f"and {len(found.left_out) - 6} more" in remark
    assert "--columns" in remark
    assert "--json" in remark


def test_a_measure_that_says_nothing_does_not_take_the_room_of_one_that_does() -> None:
    silent = dict.fromkeys(YEARS, Measure(unit="USD")) | {"told": Measure(value="1", unit="USD")}
    found = listing([msgspec.structs.replace(one(), measures=silent)], width=100)
    assert "told" in [column.heading for column in found.columns]
    assert "fy1962" in found.left_out


def test_columns_that_are_asked_for_are_shown_whole_in_that_order() -> None:
    found = listing([one()], wanted="fy2025, place,attributes.flag", width=40)
    assert [column.heading for column in found.columns] == ["fy2025", "place", "flag"]
    assert found.rows == [["1200 thousand USD", "x" * 80, "p"]]
    assert found.remark(40) == ""
    everything = listing([one()], wanted="all", width=40)
    assert len(everything.columns) == 5 + 2 + len(YEARS) + 1


def test_a_long_value_is_shortened_and_that_is_said() -> None:
    found = listing([one(measures={})], width=100)
    assert found.rows[0][3] == "x" * 31 + "…"
    assert "shortened" in found.remark(100)


def test_columns_that_are_not_there_are_refused_all_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        listing([one()], wanted="nope,fy1962,neither", width=100)
    assert [problem.message for problem in refused.value.problems] == [
        "no column nope",
        "no column neither",
    ]


@pytest.mark.parametrize(
    ("start", "frequency", "text", "shown"),
    [
        ("2018-02-07T01:26:13.840000Z", "I", "1517966773840", "2018-02-07T01:26:13.84Z"),
        ("2018-02-07T01:00:00.000000Z", "H", "2018020701", "2018-02-07T01:00:00Z"),
        ("2018-02-07T01:00:00Z", "H", "", "2018-02-07T01:00:00Z"),
        ("2025-01-01", "A", "M13", "2025"),
        ("2025-07-01", "S", "S02", "2025-H2"),
        ("2025-07-01", "Q", "Q03", "2025-Q3"),
        ("2025-12-01", "M", "M12", "2025-12"),
        ("2025-12-01", "D", "1 Dec", "2025-12-01"),
        ("2025-12-01", "W", "", "2025-12-01 W"),
        ("2024-10-01", "A", "FY2025", "2024-10-01 A"),
        ("2025-02-01", "Q", "", "2025-02-01 Q"),
        ("2025-02-15", "M", "", "2025-02-15 M"),
    ],
)
def test_a_period_is_shown_as_people_write_it(
    start: str, frequency: str, text: str, shown: str
) -> None:
    plain = {"start": start, "end": start, "frequency": frequency, "text": text}
    assert period_text(msgspec.convert(plain, PeriodValue)) == shown


def test_what_a_source_sent_does_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    evil = "\x1b[2J\x1b]0;x\x07\r\nfake: line\u202e"
    print_table(["a"], [[evil]])
    print_fields({"a": evil})
    shown = out.getvalue()
    assert not set("\x1b\x07\r\u202e") & set(shown)
    assert len(shown.splitlines()) == 3
    assert "\\x1b[2J" in shown


@pytest.mark.parametrize(
    ("unit", "multiplier", "words"),
    [
        ("1", "1", ""),
        ("%", "1", "%"),
        ("{persons}", "1000", "thousand persons"),
        ("USD/{job}", "1000000", "million USD/job"),
        ("t", "12", "× 12 t"),
    ],
)
def test_units_are_said_in_words(unit: str, multiplier: str, words: str) -> None:
    assert unit_words(unit, multiplier) == words


@pytest.mark.parametrize(
    ("type_", "data", "said"),
    [
        (
            "source.drifted",
            {"drift": [{"field": "source.x", "detail": "is new"}]},
            "source.x is new",
        ),
        ("source.shrunk", {"records": 3, "usual": 66}, "3 records, usually 66"),
        (
            "source.stale",
            {"freshness": "1d", "succeeded_at": ""},
            "due every 1d, last good run never",
        ),
        ("run.failed", {"code": "unreachable", "reason": "no route"}, "unreachable: no route"),
        ("run.failed", {"code": "unreachable"}, "unreachable"),
        ("source.fresh", {}, ""),
    ],
)
def test_a_notice_says_what_it_is_about(type_: str, data: dict[str, Any], said: str) -> None:
    made = Notice(id="n", type=type_, profile="p", run="r", at="2026-01-01T00:00:00Z", data=data)
    assert notice_text(made) == said
