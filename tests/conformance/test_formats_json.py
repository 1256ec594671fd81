"""The JSON reader against the standard, other people's vectors and other parsers."""

from __future__ import annotations

import io
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import ijson
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.collect import paths
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.json import lookup, read
from holdfast.collect.model import Bounds, Number, ReadContext
from holdfast.registry.source import JsonFormat
from tests.conformance.test_formats import Bytes


def values(data: bytes, records: str = "$", **context: Any) -> list[Any]:
    spec = JsonFormat(records=records)
    return [row.value for row in read(Bytes(data), spec, ReadContext(**context))]


def vectors() -> Path:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if not folder:
        pytest.skip("HOLDFAST_VECTORS does not name the published vectors")
    return Path(folder)


# What the suite leaves to the implementation, and what this one does. Numbers stay text, so no
# number is too large or too small; half characters and what is not UTF-8 are refused.
ACCEPTED_CHOICES = {
    "i_number_double_huge_neg_exp.json",
    "i_number_huge_exp.json",
    "i_number_neg_int_huge_exp.json",
    "i_number_pos_double_huge_exp.json",
    "i_number_real_neg_overflow.json",
    "i_number_real_pos_overflow.json",
    "i_number_real_underflow.json",
    "i_number_too_big_neg_int.json",
    "i_number_too_big_pos_int.json",
    "i_number_very_big_negative_int.json",
    "i_structure_UTF-8_BOM_empty_object.json",
}
# Documents the grammar admits and Holdfast does not: an object that says one thing twice.
REFUSED_BY_RULE = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def test_the_parsing_test_suite() -> None:
    files = sorted((vectors() / "json-parsing" / "test_parsing").glob("*.json"))
    assert len(files) > 300
    wrong = []
    for file in files:
        data = file.read_bytes()
        # Around each document stands an array, so that a lone array is a record as well.
        try:
            [found] = values(b"[" + data.removeprefix(b"\xef\xbb\xbf") + b"]", "$[*]")
            accepted = True
        except (ParseFailed, ValueError):
            accepted = False
        expected = file.name.startswith("y_") or file.name in ACCEPTED_CHOICES
        if file.name in REFUSED_BY_RULE:
            expected = False
        if accepted is not expected:
            wrong.append(file.name)
        elif accepted:
            assert _plain(found) == json.loads(data.decode("utf-8-sig"), parse_float=str)
    assert wrong == []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Number) else value


def test_singular_queries_against_the_compliance_suite() -> None:
    cases = json.loads((vectors() / "jsonpath" / "cts.json").read_text(encoding="utf-8"))["tests"]
    singular = invalid = 0
    for case in cases:
        selector = case["selector"]
        plain = paths.singular(selector)
        if case.get("invalid_selector"):
            assert plain is None, selector
            invalid += 1
        elif plain is not None:
            found = paths.select(case["document"], plain)
            assert found == case["result"], selector
            assert paths.follow(plain)(case["document"]) == (found[0] if found else None)
            singular += 1
    assert singular > 60
    assert invalid > 200


def test_other_queries_against_the_compliance_suite() -> None:
    cases = json.loads((vectors() / "jsonpath" / "cts.json").read_text(encoding="utf-8"))["tests"]
    checked, deviations, bounded = 0, set(), 0
    for case in cases:
        if case.get("invalid_selector") or not isinstance(case["document"], dict | list):
            continue
        found = _found(case["selector"], case["document"])
        if found is None:
            bounded += 1
        elif found not in (case.get("results") or [case["result"]]):
            deviations.add(case["selector"])
        else:
            checked += 1
    # Python's dot matches a carriage return, that of I-Regexp (RFC 9485) does not.
    assert deviations <= DEVIATIONS
    assert bounded < 30
    assert checked > 380


DEVIATIONS = {"$[?match(@, '.')]", "$[?search(@, '.')]"}


def _found(selector: str, document: Any) -> list[Any] | None:
    try:
        return paths.finder(selector)(document)
    except MappingRefused:  # our bound on patterns
        return None


SMALL = st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=12)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(float),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SMALL, inner, max_size=4),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, max_size=6), st.sampled_from([None, 1]), st.integers(1, 40))
def test_elements_are_what_another_parser_finds(
    elements: list[Any], indent: int | None, chunk: int
) -> None:
    data = json.dumps({"before": [1], "rows": elements, "after": {}}, indent=indent).encode()
    spec = JsonFormat(records="$.rows[*]")
    found = [row.value for row in read(Bytes(data, chunk), spec, ReadContext())]
    exact = list(ijson.items(io.BytesIO(data), "rows.item"))
    assert [_exact(v) for v in found] == [_exact(v) for v in exact]


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _exact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_exact(v) for v in value]
    if isinstance(value, Number):
        return Decimal(str(value))
    return value


def test_numbers_stay_the_text_they_were() -> None:
    [row] = values(
        b'[{"a": 1.10, "b": 1e-7, "c": -0.0, "d": 12345678901234567890, "e": 3}]', "$[*]"
    )
    assert row == {"a": "1.10", "b": "1e-7", "c": "-0.0", "d": 12345678901234567890, "e": 3}
    assert isinstance(row["a"], Number)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'[{"a":1,"a":2}]', "repeats the key 'a'"),
        (b'[{"a":{"b":1,"b":1}}]', "repeats the key 'b'"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "is no number"),
        (b"[1,]", "is no value"),
        (b"[1 2]", "is missing"),
        (b"[01]", "is missing"),
        (b"[1.]", "is missing"),
        (b"[1] x", "something follows the document"),
        (b"[1]]", "something follows the document"),
        (b"", "ends early"),
        (b"   ", "ends early"),
        (b"[1", "ends early"),
        (b'["abc', "ends early"),
        (b'["\\ud800"]', "half a character"),
        (b'["\\udc00\\ud800"]', "half a character"),
        (b'["\x01"]', "invalid control character"),
        (b"{}", "nothing at"),
        (b"3", "is neither an array nor an object"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, why: str) -> None:
    records = "$.a[*]" if data == b"{}" else "$[*]"
    if data == b"{}":
        with pytest.raises(ParseFailed, match=why):
            values(data, records)
        return
    with pytest.raises(ParseFailed) as caught:
        values(data, records)
    assert why in caught.value.detail


def test_a_repeated_key_on_the_way_to_the_records_is_refused() -> None:
    with pytest.raises(ParseFailed, match="repeats the key 'data'"):
        values(b'{"data":[1],"data":[2]}', "$.data[*]")


def test_depth_has_a_bound() -> None:
    def nested(depth: int) -> bytes:
        return b"[" + b'{"a":' * depth + b"1" + b"}" * depth + b"]"

    assert len(values(nested(64), "$[*]")) == 1
    for depth in (65, 5_000, 100_000):
        with pytest.raises(BoundReached) as caught:
            values(nested(depth), "$[*]")
        assert caught.value.bound == "depth"
    wide = msgspec.json.encode([[{"a": i} for i in range(1000)]])
    assert len(values(wide, "$[*]")) == 1


def test_digits_have_a_bound() -> None:
    with pytest.raises(BoundReached) as caught:
        values(b"[" + b"9" * 5000 + b"]", "$[*]")
    assert caught.value.bound == "digits"


DOCUMENT = msgspec.json.encode(
    {
        "first": {"huge": list(range(50_000))},
        "Results": {
            "series": [
                {"id": "A", "data": [{"v": 1}, {"v": 2}], "unit": "m"},
                {"id": "B", "data": [], "unit": "s"},
                {"id": "C", "data": [{"v": 3}], "unit": None},
            ]
        },
        "keyed": {"US": {"cpi": {"v": 1}, "gdp": {"v": 2}}, "FR": {"cpi": {"v": 3}}},
        "mixed": [{"page": 1}, [{"v": 7}, {"v": 8}]],
        "last": {"status": "ok", "pages": 9},
    }
)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ("$.Results.series[*].data[*]", [{"v": 1}, {"v": 2}, {"v": 3}]),
        ("$.Results.series[*].unit", ["m", "s", None]),
        ("$.Results.series[1].id", ["B"]),
        ("$.Results.series[*]['data'][0]", [{"v": 1}, {"v": 3}]),
        ("$.keyed[*][*]", [{"v": 1}, {"v": 2}, {"v": 3}]),
        ("$.keyed.*.cpi", [{"v": 1}, {"v": 3}]),
        ("$.mixed[1][*]", [{"v": 7}, {"v": 8}]),
        ("$.last", [{"status": "ok", "pages": 9}]),
    ],
)
def test_records_anywhere_in_a_document(records: str, expected: list[Any]) -> None:
    assert values(DOCUMENT, records) == expected


def test_rows_carry_what_encloses_them() -> None:
    spec = JsonFormat(records="$.Results.series[*].data[*]")
    wanted = ("$$.Results.series[*].id", "$$.last.status", "$$.nowhere.at.all", "$$.first.huge[3]")
    rows = list(read(Bytes(DOCUMENT), spec, ReadContext(enclosing=wanted)))
    assert [row.enclosing for row in rows] == [
        ("A", "ok", None, 3),
        ("A", "ok", None, 3),
        ("C", "ok", None, 3),
    ]


def test_rows_carry_the_names_they_went_through() -> None:
    spec = JsonFormat(records="$.keyed[*][*]", keys=["country", "indicator"])
    rows = list(read(Bytes(DOCUMENT), spec, ReadContext(enclosing=("#indicator", "#country"))))
    assert [row.enclosing for row in rows] == [("cpi", "US"), ("gdp", "US"), ("cpi", "FR")]


@pytest.mark.parametrize("path", ["$$", "$$..a", "$$.other[*].x", "#nokey", "$$.a[?@.b]"])
def test_an_enclosing_path_that_means_nothing_is_refused(path: str) -> None:
    spec = JsonFormat(records="$.Results.series[*].data[*]", keys=["series"])
    with pytest.raises(MappingRefused, match="cannot use the path"):
        list(read(Bytes(DOCUMENT), spec, ReadContext(enclosing=(path,))))


@pytest.mark.parametrize("records", ["$..a", "$[-1]", "$.a[?@.b]", "a.b", "$.a[0:3]"])
def test_a_record_path_that_cannot_be_streamed_is_refused(records: str) -> None:
    with pytest.raises(MappingRefused, match="cannot read records"):
        values(DOCUMENT, records)


def test_an_array_where_one_record_was_meant_is_refused() -> None:
    with pytest.raises(ParseFailed, match="an array at the record path"):
        values(DOCUMENT, "$.Results.series")


def test_looking_up_single_values() -> None:
    found = lookup(Bytes(DOCUMENT), ["$.last.pages", "$.mixed[0].page", "$.no"], Bounds())
    assert found == {"$.last.pages": 9, "$.mixed[0].page": 1}
    with pytest.raises(MappingRefused):
        lookup(Bytes(DOCUMENT), ["$..pages"], Bounds())


def test_a_header_that_does_not_fit_its_rows_is_refused() -> None:
    for data in (b'[["a","a"],[1,2]]', b'[["a","b"],[1]]', b'[["a"],{"a":1}]'):
        with pytest.raises(ParseFailed):
            list(read(Bytes(data), JsonFormat(records="$[*]", header=True), ReadContext()))


COLUMNS = b'{"unit": {"t": "C"}, "hourly": {"time": ["a", "b"], "t": [1.50, null], "note": "x"}}'


def test_an_object_of_columns_is_read_as_rows() -> None:
    spec = JsonFormat(records="$.hourly", columns=True)
    context = ReadContext(enclosing=("$$.unit.t",))
    rows = list(read(Bytes(COLUMNS), spec, context))
    assert [(row.position, row.value, row.enclosing) for row in rows] == [
        (0, {"time": "a", "t": Number("1.50")}, ("C",)),
        (1, {"time": "b", "t": None}, ("C",)),
    ]


def test_columns_in_each_element_go_on_counting() -> None:
    data = b'[{"x": [1, 2], "y": [3, 4]}, {"x": [], "y": []}, {"x": [5], "y": [6]}]'
    rows = list(read(Bytes(data), JsonFormat(columns=True), ReadContext()))
    assert [(row.position, row.value["x"], row.value["y"]) for row in rows] == [
        (0, 1, 3), (1, 2, 4), (2, 5, 6),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"c": {"x": [1, 2], "y": [3]}}', "not equally long: x 2, y 1"),
        (b'{"c": {"x": 1}}', "no object of columns"),
        (b'{"c": 7}', "no object of columns"),
        (b'{"c": {"x": [1, 2], "y": [3', "ends early"),
    ],
)
def test_what_is_no_object_of_columns_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ParseFailed, match=said):
        list(read(Bytes(data), JsonFormat(records="$.c", columns=True), ReadContext()))


def test_an_object_of_columns_larger_than_a_record_may_be_is_refused() -> None:
    cells = b",".join(b"%d" % i for i in range(60_000))
    data = b'{"c": {"x": [' + cells + b'], "y": [' + cells + b"]}}"
    bounds = Bounds(record_bytes_max=10_000)
    spec = JsonFormat(records="$.c", columns=True)
    with pytest.raises(BoundReached, match="one value is longer"):
        list(read(Bytes(data), spec, ReadContext(bounds=bounds)))
