"""Bytes become plain data with lines; what surprises or explodes is refused, and where it is."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import TooLarge
from holdfast.registry.document import (
    DEPTH_MAX,
    DOCUMENT_BYTES_MAX,
    dotted,
    read_document,
    write_document,
)
from tests.support.effort import calls_made


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-7", -7),
        ("1.50", Decimal("1.50")),
        (".5", Decimal("0.5")),
        ("1e3", Decimal(1000)),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("9" * 40, "9" * 40),
        ('"true"', "true"),
        ("'12'", "12"),
    ],
)
def test_bare_values_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    document = read_document(f"a: {text}\n".encode())
    assert document.problems == []
    assert document.plain == {"a": value}
    assert type(document.plain["a"]) is type(value)


def test_members_know_their_lines() -> None:
    document = read_document(b"a: 1\nb:\n  c:\n    - x\n    - y: 2\n")
    assert document.line(("a",)) == 1
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "c", 1, "y")) == 5
    assert document.line(("b", "not", "there")) == 2
    assert dotted(("b", "c", 1, "y")) == "b.c[1].y"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "given twice, first on line 1"),
        ("a: &x 1\nb: 2\n", 1, "anchors are not read"),
        ("a: &x [1]\nb: *x\n", 2, "aliases are not read"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "tags are not read"),
        ("a: !x\n  b: 1\n", 1, "tags are not read"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("? [1, 2]\n: 3\n", 1, "a key must be a text"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "this is not YAML"),
        ("a:\n\t- 1\n", 2, "this is not YAML"),
        ('a: 1\nb: "\\ud800"\n', 2, "this is not YAML"),
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("a: 1\n\x01", 0, "this is not YAML"),
    ],
)
def test_what_surprises_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    problems = read_document(text.encode()).problems
    assert any(said in problem.message for problem in problems), problems
    assert problems[-1].line == line


def test_several_problems_are_listed_together() -> None:
    document = read_document(b"a: &x 1\na: !t 2\nb: *x\n")
    assert len(document.problems) == 4


def test_bytes_that_are_not_utf8_are_told_by_line() -> None:
    [problem] = read_document(b"a: 1\nb: \xff\n").problems
    assert (problem.line, problem.message) == (2, "this is not UTF-8")


def test_a_byte_order_mark_is_skipped() -> None:
    assert read_document(b"\xef\xbb\xbfa: 1\n").plain == {"a": 1}


def test_size_is_bounded() -> None:
    with pytest.raises(TooLarge, match=str(DOCUMENT_BYTES_MAX)):
        read_document(b"#" * (DOCUMENT_BYTES_MAX + 1))


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 60_000, "- " * 100_000, "a: [" * 60_000])
@pytest.mark.parametrize("media_type", ["application/yaml", "application/json"])
def test_deep_nesting_is_refused_before_it_costs_anything(text: str, media_type: str) -> None:
    def read() -> None:
        assert read_document(text.encode(), media_type=media_type).problems

    read()
    assert calls_made(read) < 2_000


def test_depth_and_number_of_nodes_are_bounded_in_both_forms() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX + 1):
        deep = [deep]
    wide = [0] * 30_000
    for value, said in ((deep, "nested deeper"), (wide, "too many nodes")):
        for media_type in ("application/json", "application/yaml"):
            document = read_document(json.dumps(value).encode(), media_type=media_type)
            assert said in document.problems[-1].message


def test_json_keeps_decimals_and_refuses_repeated_keys() -> None:
    document = read_document(b'{"a": 1.10, "b": 1e2}', media_type="application/json")
    assert document.plain == {"a": Decimal("1.10"), "b": Decimal("1E+2")}
    assert str(document.plain["a"]) == "1.10"
    twice = read_document(b'{"x": {"a": 1, "a": 2}}', media_type="application/json; charset=utf-8")
    assert [problem.message for problem in twice.problems] == ["a is given twice in one object"]


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_printable = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])


@settings(deadline=None)
@given(st.dictionaries(st.text(_printable, min_size=1), st.text(_printable) | st.integers(-99, 99)))
def test_what_is_written_is_read_back(plain: dict[str, Any]) -> None:
    document = read_document(write_document({"a": [plain]}).encode())
    assert document.problems == []
    assert document.plain == {"a": [plain]}


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["application/yaml", "application/json"]))
def test_no_bytes_break_the_reader(data: bytes, media_type: str) -> None:
    document = read_document(data, media_type=media_type)
    assert document.problems or document.plain is None or document.plain is not None
