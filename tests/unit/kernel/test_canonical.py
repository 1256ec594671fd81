"""Canonical bytes: RFC 8785, restricted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel.canonical import INTEGER_MAX, canonical, check_plain, decode_strict, digest
from holdfast.kernel.errors import Invalid

admitted = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(admitted)
def test_canonical_bytes_decode_to_the_same_value(value: Any) -> None:
    assert decode_strict(canonical(value)) == value


@given(admitted)
def test_canonical_bytes_do_not_depend_on_the_order_of_members(value: Any) -> None:
    def reversed_members(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: reversed_members(item[k]) for k in reversed(list(item))}
        if isinstance(item, list):
            return [reversed_members(i) for i in item]
        return item

    assert canonical(reversed_members(value)) == canonical(value)


def test_members_are_ordered_by_utf16_code_units() -> None:
    # U+10000 is D800 DC00 in UTF-16 and so comes before U+FFFF, unlike in code-point order.
    assert canonical({"\uffff": 1, "\U00010000": 2}) == '{"\U00010000":2,"\uffff":1}'.encode()


@pytest.mark.parametrize("value", [1.5, float("nan"), 2**53, -(2**53), "\ud800", {"a": "\udfff"}])
def test_what_has_no_restricted_form_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b"1.0",
        b"NaN",
        b"Infinity",
        b'"\xff"',
        b"[1",
        b"",
        b'"\\ud800"',
        b"[" * 100_000,
    ],
)
def test_ambiguous_json_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid):
        decode_strict(text)


def test_digest_is_sha256_with_its_name() -> None:
    assert digest(b"abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_reference_vectors_come_out_or_are_refused_for_their_numbers(vectors: Path) -> None:
    inputs = sorted((vectors / "jcs" / "testdata" / "input").glob("*.json"))
    assert len(inputs) == 6
    written = 0
    for source in inputs:
        expected = (source.parent.parent / "output" / source.name).read_bytes()
        value = json.loads(source.read_bytes())
        try:
            assert canonical(value) == expected, source.name
            written += 1
        except Invalid:
            assert any(isinstance(n, float) for n in _leaves(value)), source.name
    assert written >= 4


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


@pytest.fixture
def vectors() -> Path:
    named = os.environ.get("HOLDFAST_VECTORS")
    if not named:
        pytest.skip("HOLDFAST_VECTORS is not set: published vectors are not here")
    return Path(named)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"lines": [{"amount": "1"}, {"amount": 1.5}]}, "1.5 is no integer, at lines[1].amount"),
        ({"a": {"b": "\ud800"}}, "lone surrogate, at a.b"),
        ({"a": [2**53]}, "the integer 9007199254740992 is beyond 2^53-1, at a[0]"),
        ({"a": 10**5000}, "the integer of 16610 bits is beyond 2^53-1, at a"),
        ({"a": {"b": {}, "c": object()}}, "object has no canonical form, at a.c"),
        ([{1: 2}], "an object key is not text, at [0]"),
        (1.5, "1.5 is no integer"),
    ],
)
def test_what_is_refused_is_named_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_plain(value)
    assert refused.value.detail.endswith(said)


def test_a_number_without_end_is_refused_as_what_it_is() -> None:
    with pytest.raises(Invalid, match=r"the integer 1{40}… is beyond 2\^53-1"):
        decode_strict(b"[" + b"1" * 5000 + b"]")
