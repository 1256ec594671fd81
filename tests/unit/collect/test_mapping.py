"""Rows become records as the profile says, or rejects that say why not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collect.errors import MappingRefused, ParseFailed
from holdfast.collect.mapping import Mapping, excerpt
from holdfast.collect.model import Number, RawRow
from holdfast.records.model import MappedRecord, Measure, Reject
from tests.unit.collect.helpers import profile

JSON = {"format": {"type": "json", "records": "$[*]"}}


def one(
    value: Any, source: dict[str, Any] = JSON, enclosing: tuple[Any, ...] = (), **parts: Any
) -> Any:
    [found] = Mapping(profile(source, **parts)).map(RawRow(7, value, enclosing), 3)
    return found


def record(value: Any, source: dict[str, Any] = JSON, **parts: Any) -> MappedRecord:
    found = one(value, source, **parts)
    assert isinstance(found, MappedRecord), found
    return found


def reject(value: Any, source: dict[str, Any] = JSON, **parts: Any) -> Reject:
    found = one(value, source, **parts)
    assert isinstance(found, Reject), found
    return found


def dimension(value: Any, **field: Any) -> Any:
    return record({"v": value}, dimensions={"d": {"path": "$.v", **field}}).dimensions["d"]


def test_a_record_knows_where_it_stood() -> None:
    found = record({"id": "x"}, key=["dimensions.id"], dimensions={"id": "$.id"})
    assert (found.response, found.position, found.key) == (3, 7, ["x"])


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("text", {}, "text"),
        (" kept ", {}, " kept "),
        (Number("2.10"), {}, "2.10"),
        (12, {}, "12"),
        (True, {}, "true"),
        (None, {}, None),
        ("", {}, None),
        (Number("2.10"), {"type": "decimal"}, "2.10"),
        (" 2,5 ", {"type": "decimal", "decimal": ","}, "2.5"),
        (Number("1e3"), {"type": "integer"}, 1000),
        ("1,234", {"type": "integer", "thousands": ","}, 1234),
        ("1.234", {"type": "decimal", "thousands": ".", "decimal": ","}, "1234"),
        (Number("1.234"), {"type": "decimal", "thousands": ".", "decimal": ","}, "1.234"),
        ("(1,234)", {"type": "integer", "thousands": ",", "negative": "parentheses"}, -1234),
        ("( .5 )", {"type": "decimal", "negative": "parentheses"}, "-0.5"),
        ("-5", {"type": "decimal", "negative": "parentheses"}, "-5"),
        (
            "1.234,5-",
            {"type": "decimal", "thousands": ".", "decimal": ",", "negative": "trailing"},
            "-1234.5",
        ),
        (Number("12.5"), {"type": "decimal", "decimal": ","}, "12.5"),
        (Number("7.000"), {"type": "integer", "thousands": ".", "decimal": ","}, 7),
        (5, {"type": "integer"}, 5),
        (True, {"type": "boolean"}, True),
        ("N", {"type": "boolean"}, False),
        (0, {"type": "boolean"}, False),
        ("2020-05-01T07:00:00Z", {"type": "date"}, "2020-05-01"),
        ("01/02/2020", {"type": "date", "format": "%d/%m/%Y"}, "2020-02-01"),
        (0, {"type": "datetime", "format": "epoch-s"}, "1970-01-01T00:00:00.000000Z"),
        ("44197", {"type": "date", "format": "excel"}, "2021-01-01"),
        (
            Number("44197.75"),
            {"type": "datetime", "format": "excel"},
            "2021-01-01T18:00:00.000000Z",
        ),
        ("59", {"type": "date", "format": "excel"}, "1900-02-28"),
        ("61", {"type": "date", "format": "excel"}, "1900-03-01"),
        (" A\u00a0", {"trim": True}, "A"),
        (" A ", {}, " A "),
        ("  ", {"trim": True}, None),
        (" 7 ", {"trim": True, "pad": 3}, "007"),
        (" a - b ", {"trim": True, "split": "-", "part": 1}, "b"),
        ("1001", {"pad": 5}, "01001"),
        (1001, {"pad": 5}, "01001"),
        ("123456", {"pad": 5}, "123456"),
        ("a-b-c", {"split": "-", "part": 1}, "b"),
        ("a-b-c", {"split": "-", "part": -1}, "c"),
        ("a-b-c", {"split": "-", "part": 3}, None),
        ("x-7", {"split": "-", "part": 1, "pad": 3}, "007"),
        ("x-7", {"split": "-", "part": 1, "type": "integer"}, 7),
        (["a", "b"], {"separator": "|"}, "a|b"),
        ([], {"separator": "|"}, None),
        ("n/a", {"nulls": ["n/a"]}, None),
        (-9999, {"nulls": ["-9999"], "type": "integer"}, None),
        ("", {"nulls": []}, ""),
    ],
)
def test_values_of_every_type(value: Any, field: dict[str, Any], expected: Any) -> None:
    found = dimension(value, **field)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ("abc", {"type": "decimal"}, "'abc' is not a number"),
        ("5.5", {"type": "integer"}, "'5.5' is not a whole number"),
        ("(5)", {"type": "decimal"}, "'(5)' is not a number; `negative: parentheses`"),
        ("(5)", {"type": "decimal"}, '`marks: ["()"]` where it says that a number is not'),
        ("5 p", {"type": "decimal", "marks": ["b"]}, "'5 p' is not a number"),
        ("*b", {"type": "decimal", "marks": ["*"]}, "'b' is not a number"),
        ("(1,234)", {"type": "integer", "thousands": ","}, "; `negative: parentheses`"),
        ("5-", {"type": "decimal"}, "'5-' is not a number; `negative: trailing`"),
        ("5-", {"type": "decimal", "negative": "parentheses"}, "is not a number"),
        ("(-5)", {"type": "decimal", "negative": "parentheses"}, "is not a number"),
        ("1\u00a0234", {"type": "decimal"}, "the blank U+00A0 stands between its digits"),
        ("0", {"type": "date", "format": "excel"}, "'0' is not a day as a spreadsheet counts"),
        ("2021-01-01", {"type": "date", "format": "excel"}, "is not a number"),
        (2**60, {"type": "integer"}, "beyond 2^53-1"),
        (True, {"type": "decimal"}, "'true' is not a number"),
        ("soon", {"type": "date"}, "'soon' is not a date or time such as 2020-01-31 or"),
        ("2020-02-30", {"type": "date"}, "not a date or time"),
        ("maybe", {"type": "boolean"}, "neither true nor false"),
        ({"a": 1}, {}, "is an object, not one value"),
        ([1], {"type": "decimal"}, "is an array, not one value"),
        (None, {"required": True}, "is missing and required"),
        ("", {"required": True}, "is missing and required"),
        ("9" * 401, {"type": "decimal"}, "has more than 400 digits"),
    ],
)
def test_a_value_that_does_not_fit_is_a_reject(
    value: Any, field: dict[str, Any], reason: str
) -> None:
    found = reject({"v": value}, dimensions={"ok": "$.v2", "d": {"path": "$.v", **field}})
    assert (found.field, found.position, found.response) == ("d", 7, 3)
    assert reason in found.reason
    assert found.excerpt.startswith("v=")


def test_only_the_row_that_fails_is_rejected() -> None:
    mapping = Mapping(profile(JSON, measures={"m": "$.v"}))
    found = [next(iter(mapping.map(RawRow(i, {"v": v}), 0))) for i, v in enumerate(["1", "x", "2"])]
    assert [type(f).__name__ for f in found] == ["MappedRecord", "Reject", "MappedRecord"]


def test_measures_are_exact_text_with_unit_and_multiplier() -> None:
    found = record(
        {"price": Number("1.10"), "count": 3, "unit": "kg", "none": ":"},
        nulls=["", ":"],
        measures={
            "price": {"path": "$.price", "unit": "EUR", "multiplier": "1000"},
            "count": {"path": "$.count", "type": "integer"},
            "weight": {"path": "$.count", "unit_path": "$.unit", "unit": "g"},
            "other": {"path": "$.count", "unit_path": "$.absent", "unit": "g"},
            "none": "$.none",
        },
    )
    assert found.measures == {
        "price": Measure(value="1.10", unit="EUR", multiplier="1000"),
        "count": Measure(value="3"),
        "weight": Measure(value="3", unit="kg"),
        "other": Measure(value="3", unit="g"),
        "none": Measure(),
    }


def test_the_spelling_of_a_missing_value_is_kept() -> None:
    found = record(
        {"a": ":", "b": "n/a", "c": "", "d": None, "f": " "},
        nulls=["", ":", "n/a", " "],
        dimensions={"b": "$.b"},
        measures={"a": "$.a", "c": "$.c", "d": "$.d", "e": "$.e", "f": "$.f"},
        attributes={"status": "$.x"},
    )
    assert found.attributes == {"status": None, "b_missing": "n/a", "a_missing": ":"}


def test_a_declared_attribute_is_not_overwritten_by_a_spelling() -> None:
    found = record(
        {"a": ":"},
        nulls=[":"],
        measures={"a": "$.a"},
        attributes={"a_missing": {"constant": "said"}},
    )
    assert found.attributes == {"a_missing": "said"}


def test_joined_fields_and_constants() -> None:
    found = record(
        {"y": 2020, "m": 5, "z": None},
        dimensions={
            "ym": {"join": ["$.y", "$.m"], "separator": "-"},
            "gone": {"join": ["$.y", "$.z"], "separator": "-"},
            "fixed": {"constant": "here"},
            "number": {"constant": "5", "type": "integer"},
        },
        period={"join": ["$.y", "$.m"], "frequency": "M"},
    )
    assert found.dimensions == {"ym": "2020-5", "gone": None, "fixed": "here", "number": 5}
    assert found.period is not None
    assert (found.period.start, found.period.text) == ("2020-05-01", "2020-5")


def test_the_key_is_the_values_of_its_fields() -> None:
    found = record(
        {"id": 5, "t": "2020-01", "v": "1"},
        key=["dimensions.id", "period", "measures.v", "attributes.a"],
        dimensions={"id": {"path": "$.id", "type": "integer"}},
        measures={"v": "$.v"},
        attributes={"a": "$.t"},
        period={"path": "$.t", "frequency": "M"},
    )
    assert found.key == [5, "2020-01", "1", "2020-01"]


def test_a_missing_part_of_the_key_is_a_reject() -> None:
    parts: dict[str, Any] = {
        "key": ["dimensions.id", "period"],
        "dimensions": {"id": "$.id"},
        "period": {"path": "$.t", "frequency": "A"},
    }
    assert reject({"t": "2020"}, **parts).reason == "has no id, which is part of the key"
    assert reject({"id": "x"}, **parts).reason == "has no period, which is part of the key"


def test_rows_without_a_key_are_told_apart_by_content_and_occurrence() -> None:
    mapping = Mapping(profile(JSON, dimensions={"a": "$.a"}, measures={"b": "$.b"}))
    rows = [{"a": "x", "b": 1}, {"a": "y", "b": 1}, {"b": 1, "a": "x"}, {"a": "x", "b": 2}]
    keys = [next(iter(mapping.map(RawRow(i, v), 0))).key for i, v in enumerate(rows)]  # type: ignore[union-attr]
    assert [key[1] for key in keys] == [0, 0, 1, 0]
    assert keys[0][0] == keys[2][0]
    assert len({key[0] for key in keys}) == 3


def test_enclosing_values_and_names() -> None:
    source = {"format": {"type": "json", "records": "$.x[*]", "keys": ["country"]}}
    parts: dict[str, Any] = {"dimensions": {"a": "$$.meta.a", "c": "#country", "b": "$.b"}}
    assert Mapping(profile(source, **parts)).enclosing == ("$$.meta.a", "#country")
    found = one({"b": 2}, source, ("outer", "FR"), **parts)
    assert found.dimensions == {"a": "outer", "c": "FR", "b": "2"}


def test_a_wide_row_becomes_a_record_for_each_matching_column() -> None:
    mapping = Mapping(
        profile(
            {"format": {"type": "csv"}},
            key=["dimensions.account", "period"],
            nulls=["", ".."],
            unpivot={"columns": r"\d{4}"},
            dimensions={"account": "Account"},
            measures={"amount": {"path": "#value", "thousands": ","}},
            period={"path": "#column", "frequency": "A"},
        )
    )
    row = RawRow(0, {"Account": "A", "1962": "1,234", "1963": "..", "note": "x", "1964": "5"})
    found = list(mapping.map(row, 0))
    assert all(isinstance(f, MappedRecord) and f.position == 0 for f in found)
    assert [(f.key, f.measures["amount"].value) for f in found] == [  # type: ignore[union-attr]
        (["A", "1962"], "1234"),
        (["A", "1964"], "5"),
    ]


@pytest.mark.parametrize(
    ("sent", "value", "mark"),
    [
        ("(123)", "123", "()"),
        ("(1,234.5)", "1234.5", "()"),
        ("(-5)", "-5", "()"),
        ("12.30*", "12.30", "*"),
        ("12.30 [b]", "12.30", "[b]"),
        ("<0.5", "0.5", "<"),
        ("(7) p*", "7", "* p ()"),
        ("12 pp", "12", "pp"),
        ("12", "12", None),
        (12, "12", None),
        (Number("12"), "12", None),
        ("", None, None),
        ("n/a", None, None),
        (": p", None, "p"),
        ("p", None, "p"),
    ],
)
def test_a_mark_is_no_part_of_the_number_and_is_kept(
    sent: Any, value: str | None, mark: str | None
) -> None:
    marks = ["()", "*", "[b]", "<", "p", "pp"]
    field = {"path": "$.v", "marks": marks, "thousands": ","}
    found = record({"v": sent}, nulls=["", ":", "n/a"], measures={"v": field})
    assert found.measures["v"].value == value
    assert found.attributes.get("v_mark") == mark
    missing = sent if value is None and sent else None
    assert found.attributes.get("v_missing") == missing
    whole = record({"v": "(12)"}, dimensions={"d": {**field, "type": "integer"}})
    assert (whole.dimensions["d"], whole.attributes["d_mark"]) == (12, "()")


@pytest.mark.parametrize(
    ("sent", "multiplier"),
    [("6", "1000000"), (3, "1000"), ("0", "1"), (" -2 ", "0.01"), ("", "10"), (None, "10")],
)
def test_a_record_says_its_own_multiplier(sent: Any, multiplier: str) -> None:
    field = {"path": "$.v", "magnitude_path": "$.m", "multiplier": "10"}
    found = record({"v": "1.5", "m": sent}, measures={"v": field})
    assert found.measures["v"] == Measure(value="1.5", unit="", multiplier=multiplier)


@pytest.mark.parametrize("sent", ["31", "1.5", "Millions", "1000"])
def test_what_is_no_power_of_ten_is_a_reject(sent: str) -> None:
    field = {"path": "$.v", "magnitude_path": "$.m"}
    found = reject({"v": "1.5", "m": sent}, measures={"v": field})
    assert found.field == "v"
    assert "is not the exponent of a power of ten" in found.reason


def wide(row: dict[str, Any], source: dict[str, Any], **spec: Any) -> list[list[Any]]:
    mapping = Mapping(
        profile(
            source, nulls=["", ":"], unpivot=spec,
            measures={"v": "#value"}, attributes={"f": "#flag"},
        )
    )  # fmt: skip
    found = list(mapping.map(RawRow(0, row), 0))
    assert all(isinstance(each, MappedRecord) for each in found), found
    return [[each.measures["v"].value, each.attributes["f"]] for each in found]  # type: ignore[union-attr]


CSV: dict[str, Any] = {"format": {"type": "csv"}}


@pytest.mark.parametrize(
    ("columns", "beside", "names"),
    [
        (r"\d{4}", "{column} flag", ["2019", "2019 flag", "2020", "2020 flag"]),
        (r"V(?P<year>\d{4})", "F_{year}", ["V2019", "V2020", "F_2019", "F_2020"]),
        (r"\d{4}", 1, ["2019", "c3", "2020", "c5"]),
        (r"\d{4}", -1, ["f", "2019", "f_2", "2020"]),
    ],
)
def test_a_value_has_the_flag_beside_it(columns: str, beside: str | int, names: list[str]) -> None:
    def row(*cells: str) -> dict[str, str]:
        first = [name for name in names if re.fullmatch(columns, name)]
        flags = [name for name in names if name not in first]
        told = dict(zip((*first, *flags), cells, strict=True))
        return {"geo": "A", **{name: told[name] for name in names}}

    spec = {"columns": columns, "beside": {"flag": beside}}
    assert wide(row("1", "2", "p", ""), CSV, **spec) == [["1", "p"], ["2", None]]
    # a number that is confidential is missing, and not gone
    assert wide(row("1", "", "", "c"), CSV, **spec) == [["1", None], [None, "c"]]
    assert wide(row("1", ":", "", ":"), CSV, **spec) == [["1", None]]


class Column(str):
    """A column's name; it is counted how often it is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Column.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("beside", [1, "{column} flag"])
def test_columns_beside_are_found_without_a_search_for_each_cell(beside: str | int) -> None:
    names = [f"{year}{flag}" for year in range(1000, 1400) for flag in ("", " flag")]
    row = {Column(name): "1" for name in names}
    Column.compared = 0
    found = wide(row, CSV, columns=r"\d{4}", beside={"flag": beside})
    assert found == [["1", "1"]] * 400
    assert Column.compared < 5 * len(names)


def test_a_flag_that_is_nowhere_fails_the_table() -> None:
    named = {"columns": r"\d{4}", "beside": {"flag": "{column} flag"}}
    with pytest.raises(ParseFailed, match="there is no column '2020 flag'") as caught:
        wide({"2019": "1", "2019 flag": "", "2020": "2", "2020 Flag": "c"}, CSV, **named)
    assert caught.value.hint == "did you mean '2020 Flag'?"
    placed = {"columns": r"\d{4}", "beside": {"flag": 1}}
    with pytest.raises(ParseFailed, match="right of '2020' is not there"):
        wide({"2019": "1", "c2": "", "2020": "2"}, CSV, **placed)
    with pytest.raises(ParseFailed, match="1 to the left of '2019' is not there"):
        wide({"2019": "1", "c2": ""}, CSV, columns=r"\d{4}", beside={"flag": -1})
    with pytest.raises(ParseFailed, match="right of '2019' is '2020', a value itself"):
        wide({"2019": "1", "2020": "2", "c3": "p"}, CSV, **placed)
    # what a member of JSON lacks it has not
    assert wide({"2019": "1", "2020": "2", "2020 flag": "c"}, JSON, **named) == [
        ["1", None],
        ["2", "c"],
    ]


def test_a_column_s_name_is_taken_apart_by_its_groups() -> None:
    mapping = Mapping(
        profile(
            CSV,
            key=["dimensions.sex", "period"],
            unpivot={"columns": r"(?P<when>\w+ \d{4}) \| (?P<sex>[^|]+)(?P<odd>!)?"},
            dimensions={"sex": "#sex"},
            measures={"n": "#value"},
            attributes={"odd": "#odd"},
            period={"path": "#when", "format": "%b %Y", "frequency": "M"},
        )
    )
    row = RawRow(0, {"Jan 2019 | M": "1", "Jan 2019 | F": "2", "Feb 2019 | M": "3", "Total": "6"})
    found = list(mapping.map(row, 0))
    assert [(f.key, f.measures["n"].value) for f in found] == [  # type: ignore[union-attr]
        (["M", "2019-01"], "1"),
        (["F", "2019-01"], "2"),
        (["M", "2019-02"], "3"),
    ]
    assert found[0].attributes["odd"] is None  # type: ignore[union-attr]


def test_an_hour_shown_twice_is_a_reject_where_the_profile_asks_for_it() -> None:
    row = {"at": "2026-10-25T02:00", "n": 1}
    parts: dict[str, Any] = {
        "timezone": "Europe/Paris",
        "measures": {"n": "$.n"},
        "attributes": {"at": {"path": "$.at", "type": "datetime"}},
    }
    for ambiguous, hour in (("first", "00"), ("second", "01")):
        found = record(row, ambiguous=ambiguous, **parts)
        assert found.attributes["at"] == f"2026-10-25T{hour}:00:00.000000Z"
    assert "showed twice" in reject(row, ambiguous="reject", **parts).reason
    parts["period"] = {"path": "$.at", "frequency": "H"}
    del parts["attributes"]
    assert reject(row, ambiguous="reject", **parts).field == "period"


def test_columns_of_any_name() -> None:
    row = {"Cost Total $": "5", "$odd": "x", "a.b": "y"}
    found = record(
        row,
        {"format": {"type": "csv"}},
        measures={"cost": "Cost Total $"},
        dimensions={"odd": "$odd", "ab": "a.b", "quoted": "$['a.b']"},
    )
    assert found.measures["cost"].value == "5"
    assert found.dimensions == {"odd": "x", "ab": "y", "quoted": "y"}


def test_a_row_that_cannot_be_a_record_says_why() -> None:
    [found] = Mapping(profile(JSON, dimensions={"a": "$.a"})).map(
        RawRow(1, ["1", "2"], problem="has 2 cells under 3 columns"), 0
    )
    assert isinstance(found, Reject)
    assert (found.reason, found.excerpt) == ("has 2 cells under 3 columns", "1 2")


@pytest.mark.parametrize(
    "parts",
    [
        {"timezone": "Mars/Olympus"},
        {"key": ["dimensions.none"]},
        {"key": ["period"]},
        {"dimensions": {"a": {"codes": "iso"}}},
        {"dimensions": {"a": {}}},
        {"dimensions": {"a": "$.a["}},
        {"unpivot": {"columns": "(a+)+"}},
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_once(parts: dict[str, Any]) -> None:
    with pytest.raises(MappingRefused):
        Mapping(profile(JSON, **parts))


def test_an_excerpt_is_short_and_harmless() -> None:
    assert len(excerpt({"a": "x" * 1000, "b": "y"})) == 200
    assert excerpt({"a": "\x1b[31m", "b": [1]}) == "a=\ufffd[31m b=[1]"
    point = {"type": "Point", "at": [Number("1.50"), None, True], "note": 'a "b"'}
    assert excerpt({"g": point, "n": None}) == (
        'g={"type": "Point", "at": [1.50, null, true], "note": "a \\"b\\""} n=null'
    )
    assert excerpt("plain") == "plain"
    assert excerpt(None) == ""


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=8)
        | st.lists(st.none(), max_size=2)
        | st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: Number(str(d))),
        max_size=3,
    )
)  # fmt: skip
def test_no_row_breaks_the_mapping(row: dict[str, Any]) -> None:
    found = one(
        row,
        dimensions={"a": "$.a", "i": {"path": "$.b", "type": "integer"}},
        measures={"m": "$.c"},
        attributes={"d": {"path": "$.a", "type": "datetime"}},
        period={"path": "$.b", "frequency": "M"},
    )
    assert isinstance(found, MappedRecord | Reject)
    again = one(dict(reversed(row.items())), dimensions={"a": "$.a"}, measures={"m": "$.c"})
    assert again == one(row, dimensions={"a": "$.a"}, measures={"m": "$.c"}) or isinstance(
        again, Reject
    )


def coded(codes: dict[str, str], **parts: Any) -> Any:
    return profile(
        {"format": {"type": "json"}},
        dimensions={"country": {"path": "$.c", "codes": "iso", **parts}},
        code_lists={"iso": codes},
    )


def test_codes_become_what_their_list_has_for_them() -> None:
    mapping = Mapping(coded({"DE": "DEU", "XX": ""}))
    found = [
        next(iter(mapping.map(RawRow(i, {"c": c}), 0))) for i, c in enumerate(["DE", "XX", "FR"])
    ]
    assert isinstance(found[0], MappedRecord)
    assert found[0].dimensions == {"country": "DEU"}
    assert isinstance(found[1], MappedRecord)
    assert (found[1].dimensions, found[1].attributes) == (
        {"country": None},
        {"country_missing": "XX"},
    )
    assert isinstance(found[2], Reject)
    assert found[2].reason == "is not in the code list iso: 'FR'"


def test_a_code_list_may_speak_for_all_others() -> None:
    mapping = Mapping(coded({"DE": "DEU", "*": "other"}, pad=2))
    [found] = mapping.map(RawRow(0, {"c": "9"}), 0)
    assert isinstance(found, MappedRecord)
    assert found.dimensions == {"country": "other"}


def test_a_code_list_that_is_nowhere_is_refused() -> None:
    source = profile(
        {"format": {"type": "json"}}, dimensions={"c": {"path": "$.c", "codes": "iso"}}
    )
    with pytest.raises(MappingRefused, match="there is no code list 'iso'"):
        Mapping(source)


@pytest.mark.parametrize("value", [3, True, "x", None, [1], {"a": 1}])
def test_whatever_a_row_is_its_reject_can_be_told(value: Any) -> None:
    source = profile(
        {"format": {"type": "json"}}, dimensions={"c": {"path": "$.c", "required": True}}
    )
    [found] = Mapping(source).map(RawRow(0, value), 0)
    assert isinstance(found, Reject)


def test_a_defect_names_the_row_and_the_profile_it_was_found_in() -> None:
    class Broken(Number):
        def __str__(self) -> str:
            raise KeyError("x")

    under = Mapping(profile({"format": {"type": "csv"}}, dimensions={"site": "Site"}))
    with pytest.raises(KeyError) as caught:
        under.map(RawRow(7, {"Site": Broken("a")}), 0)
    assert caught.value.__notes__ == ["in row 7 of the profile test, at site"]


# --- the key of a row that fails ----------------------------------------------------------------

KEYED: dict[str, Any] = {
    "key": ["dimensions.id", "period", "measures.n", "attributes.a"],
    "dimensions": {"id": {"path": "$.id", "type": "integer"}},
    "measures": {"n": {"path": "$.n", "type": "integer"}, "v": "$.v"},
    "attributes": {"a": "$.a"},
    "period": {"path": "$.t", "frequency": "M"},
}
GOOD = {"id": "1", "t": "2024-02", "n": "3", "a": "x", "v": "5"}


def test_the_key_of_a_row_that_fails_is_that_of_its_record() -> None:
    key = record(GOOD, **KEYED).key
    assert key == [1, "2024-02", "3", "x"]
    assert reject({**GOOD, "v": "5*"}, **KEYED).key == key


@pytest.mark.parametrize("part", ["id", "t", "n"])
def test_a_row_whose_key_cannot_be_read_may_be_any(part: str) -> None:
    found = reject({**GOOD, part: "1*"}, **KEYED)
    assert found.field == {"t": "period"}.get(part, part)
    assert found.key is None
    assert reject({**GOOD, part: "1*", "v": "5*"}, **KEYED).key is None


@pytest.mark.parametrize("part", ["id", "t", "n", "a"])
def test_a_row_without_a_part_of_its_key_names_no_record(part: str) -> None:
    assert reject({**GOOD, part: ""}, **KEYED).key == []
    assert reject({**GOOD, part: None, "v": "5*"}, **KEYED).key == []


def test_where_the_key_is_the_content_a_row_that_fails_is_no_record() -> None:
    assert reject({**GOOD, "v": "5*"}, **{**KEYED, "key": "position"}).key == []


def test_a_row_that_is_no_row_and_a_key_beyond_bounds_are_not_told() -> None:
    [found] = Mapping(profile(JSON, **KEYED)).map(RawRow(7, GOOD, problem="has too few cells"), 3)
    assert isinstance(found, Reject)
    assert found.key is None
    assert reject({**GOOD, "a": "x" * 2_001, "v": "5*"}, **KEYED).key is None


def test_each_cell_that_fails_has_the_key_of_its_own_record() -> None:
    parts: dict[str, Any] = {
        "key": ["dimensions.id", "period"],
        "dimensions": {"id": "id"},
        "unpivot": {"columns": "[0-9]{4}"},
        "measures": {"v": "#value"},
        "period": {"path": "#column", "frequency": "A"},
    }
    row = RawRow(0, {"id": "x", "2020": "1", "2021": "2*", "2022": "3"})
    found = list(Mapping(profile({"format": {"type": "csv"}}, **parts)).map(row, 0))
    assert [type(one).__name__ for one in found] == ["MappedRecord", "Reject", "MappedRecord"]
    assert [one.key for one in found] == [["x", "2020"], ["x", "2021"], ["x", "2022"]]
