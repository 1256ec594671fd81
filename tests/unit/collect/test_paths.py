"""Singular queries are plain getters, and never disagree with the standard."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collect import paths
from holdfast.collect.errors import MappingRefused
from holdfast.registry.path_rules import value_path_problems
from tests.unit.collect.helpers import profile

DOCUMENT: dict[str, Any] = {
    "a": {"b": [1, {"c": None}], "x y": "quoted", "ünï": 1, "": "empty"},
    "text": "abc",
    "list": [10, 20, 30],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", DOCUMENT),
        ("$.text", "abc"),
        ("@.text", "abc"),
        ("$.a.b", [1, {"c": None}]),
        ("$.a.b[0]", 1),
        ("$.a.b[-1].c", None),
        ("$['a']['x y']", "quoted"),
        ('$["a"]["x y"]', "quoted"),
        ("$.a.ünï", 1),
        ("$.a['']", "empty"),
        ("$.list[2]", 30),
        ("$.list[3]", None),
        ("$.list[-4]", None),
        ("$.text[0]", None),
        ("$.text.x", None),
        ("$.a[0]", None),
        ("$.missing.deeper", None),
        ("$ .a .b [0]", 1),
        ("$['\\u0061']['b'][0]", 1),
        ("$.list[*]", [10, 20, 30]),
        ("$.list[0:2]", [10, 20]),
        ("$..c", None),
        ("$.list[?@ > 25]", 30),
    ],
)
def test_what_a_path_selects(path: str, value: Any) -> None:
    assert paths.getter(path)(DOCUMENT) == value


@pytest.mark.parametrize("path", ["$.", "$[", "$.a.", "$['a", "$[01]", "$[?]", "$.a b", "$['\\x']"])
def test_what_is_no_query_is_refused(path: str) -> None:
    with pytest.raises(MappingRefused):
        paths.getter(path)


@pytest.mark.parametrize(
    "path",
    ["$[?match(@.a, '(a+)+')]", "$[?search(@.a, @.b)]", "$[?match(@.a, $.pattern)]"],
)
def test_a_pattern_that_could_run_for_ever_is_refused(path: str) -> None:
    with pytest.raises(MappingRefused):
        paths.finder(path)


def test_patterns_in_filters_work() -> None:
    find = paths.finder("$[?match(@.a, '[a-c]{2}')]")
    assert find([{"a": "ab"}, {"a": "xy"}]) == [{"a": "ab"}]


@given(st.text(max_size=8) | st.sampled_from([f"a{chr(code)}" for code in range(0x80)]))
def test_a_member_has_a_path_whatever_its_name_holds(name: str) -> None:
    path = "$" + paths.member_step(name)
    assert paths.steps(path) == (name,)
    told = profile({"format": {"type": "json"}}, dimensions={"a": path})
    assert list(value_path_problems(told, path, "dimensions.a")) == []
    assert paths.getter(path)({name: 1}) == 1


def test_a_control_character_in_a_path_that_is_not_plain_is_refused_at_the_door() -> None:
    told = profile({"format": {"type": "json"}})
    for path in (r"$..['a\u0001']", r"$[?@['a\u0001']]", "$['a\u0001']", r"$['a\\\u0001\x']"):
        [problem] = value_path_problems(told, path, "dimensions.a")
        assert "is no JSONPath" in problem.message
    assert list(value_path_problems(told, r"$['a\\u0001']..b", "dimensions.a")) == []


def test_steps_of_streamable_paths() -> None:
    assert paths.steps("$.a.b[*]") == ("a", "b", paths.WILD)
    assert paths.steps("$[1][*]") == (1, paths.WILD)
    assert paths.steps("$.a.*") == ("a", paths.WILD)
    assert paths.steps("$..a") is None
    assert paths.singular("$.a[*]") is None
