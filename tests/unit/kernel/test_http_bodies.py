"""A body that is read has no key twice, is not too deep, and is Unicode."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from holdfast.kernel.errors import Invalid
from holdfast.kernel.http import bodies
from holdfast.kernel.http.bodies import DEPTH_MAX, Body, check_depth, check_keys, depth_of
from tests.unit.kernel.http_app import Thing, Tree, browser, make_app

ANYTHING = Body(Any)
THING = Body(Thing)


def refused(body: Body, data: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        body.read(data)
    return caught.value


# --- keys


@pytest.mark.parametrize(
    "data",
    [
        b'{"name":"a","name":"b"}',
        b'{"name":"a","n\\u0061me":"b"}',
        b'{"name":"a","count":1,"count":1}',
        b'{"name":"a" , "name":"a"}',
    ],
)
def test_a_repeated_key_is_refused_and_named(data: bytes) -> None:
    for body in (THING, ANYTHING):
        error = refused(body, data)
        assert error.code == "json-invalid"
        assert "'name'" in error.detail or "'count'" in error.detail


def test_a_repeated_key_is_refused_at_any_depth() -> None:
    refused(ANYTHING, b'[[{"a":{"b":[{"c":1,"d":{"x":1,"x":2}}]}}]]')
    refused(Body(dict[str, dict[str, int]]), b'{"a":{"x":1,"x":1}}')
    assert ANYTHING.read(b'[{"a":1},{"a":1}]') == [{"a": 1}, {"a": 1}]


def test_a_repeated_key_is_named_even_when_the_body_is_wrong_otherwise() -> None:
    assert "repeats the key" in refused(THING, b'{"name":1,"name":"a"}').detail


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(values, st.sampled_from([None, 0, 1, 3]), st.booleans())
def test_however_it_is_written_good_json_is_read_as_what_it_is(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    try:
        data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    if "\\ud" in data.decode() and not ascii_only:
        return
    assert ANYTHING.read(data) == json.loads(data)


members = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1)), max_size=6)


@given(members, st.integers(0, 5), st.booleans(), st.booleans())
@example([("a", 0), ("a", 0)], 0, False, False)
def test_keys_are_refused_exactly_when_one_repeats(
    found: list[tuple[str, int]], depth: int, escaped: bool, spaced: bool
) -> None:
    colon = " : " if spaced else ":"
    keys = [f'"\\u00{ord(key):02x}"' if escaped else f'"{key}"' for key, _ in found]
    inner = ",".join(f"{key}{colon}{value}" for key, (_, value) in zip(keys, found, strict=True))
    data = ('{"k":[' * depth + "{" + inner + "}" + "]}" * depth).encode()
    repeats = len({key for key, _ in found}) != len(found)
    for body in (ANYTHING, *([Body(dict[str, int])] if depth == 0 else [])):
        if repeats:
            refused(body, data)
        else:
            assert body.read(data) == json.loads(data)


def test_raw_members_are_looked_into() -> None:
    class Holder(msgspec.Struct):
        inside: msgspec.Raw

    refused(Body(Holder), b'{"inside":{"a":1,"a":2}}')
    assert bytes(Body(Holder).read(b'{"inside":{"a":1}}').inside) == b'{"a":1}'


@pytest.mark.parametrize("order", [None, "sorted"])
def test_what_we_write_ourselves_is_not_scanned_for_keys(
    order: Literal["sorted"] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Part(msgspec.Struct, omit_defaults=True):
        second: dict[str, int]
        first: int = 0

    def scan(data: bytes) -> None:
        raise AssertionError(f"scanned: {data!r}")

    monkeypatch.setattr(bodies, "check_keys", scan)
    part = Part(second={"b": 1, "a": 2}, first=3)
    assert Body(Part).read(msgspec.json.encode(part, order=order)) == part
    with pytest.raises(AssertionError, match="scanned"):
        Body(Part).read(b'{"second":{"b":1,"b":2}}')


# --- depth


def nested(depth: int, inner: str = "1") -> bytes:
    return ("[" * depth + inner + "]" * depth).encode()


def test_the_depth_is_bounded_exactly() -> None:
    ANYTHING.read(nested(DEPTH_MAX))
    assert "64 levels" in refused(ANYTHING, nested(DEPTH_MAX + 1)).detail
    check_depth(nested(3), 3)
    with pytest.raises(Invalid):
        check_depth(nested(4), 3)


def test_brackets_in_strings_do_not_count_and_do_not_hide_depth() -> None:
    ANYTHING.read(msgspec.json.encode(["[" * 1000, "{" * 1000, 'a"[' * 500, "\\" * 99 + "["]))
    # Strings that hold brackets, arranged to cancel out the real ones.
    hidden = '["]",' * 70 + "1" + ',"["]' * 70
    refused(ANYTHING, hidden.encode())
    escaped = '["\\"]",' * 70 + "1" + ',"\\\\","["]' * 70
    refused(ANYTHING, escaped.encode())


@given(
    st.lists(
        st.sampled_from(["[", "]", "{", "}", '"', "\\", "\\\\", '\\"', ",", ":", '"k":', "1", " "]),
        max_size=200,
    ).map("".join)
)
@settings(max_examples=300)
def test_nothing_deeper_is_ever_read(text: str) -> None:
    depth_max = 3
    try:
        value = json.loads(text)
    except ValueError:
        return
    deep = depth_of_value(value) > depth_max
    try:
        check_depth(text.encode(), depth_max)
    except Invalid:
        assert deep
    else:
        assert not deep or text.count("[") + text.count("{") <= depth_max


@given(st.recursive(st.just(1), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(['"', "[", "}", "\\", "a"]), inner,
                                      max_size=3), max_leaves=50),
       st.integers(1, 6))  # fmt: skip
def test_depth_is_judged_exactly(value: Any, depth_max: int) -> None:
    data = json.dumps(value).encode()
    if depth_of_value(value) > depth_max:
        if data.count(b"[") + data.count(b"{") > depth_max:
            with pytest.raises(Invalid):
                check_depth(data, depth_max)
    else:
        check_depth(data, depth_max)


def depth_of_value(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    below = max((depth_of_value(item) for item in inner), default=0)
    return below + 1 if isinstance(value, dict | list) else 0


def test_a_type_s_depth_is_known_or_said_not_to_be() -> None:
    def depth(wanted: Any) -> int | None:
        return depth_of(inspect.type_info(wanted))

    assert depth(int) == 1
    assert depth(list[int]) == 2
    assert depth(Thing) == 3
    assert depth(dict[str, list[Thing]] | None) == 5
    assert depth(tuple[int, list[int]]) == 3
    assert depth(Any) is None
    assert depth(dict[str, Any]) is None
    assert depth(Tree) is None
    assert depth(msgspec.Raw) is None


def test_a_body_of_any_size_that_only_nests_is_refused() -> None:
    for data in (b"[" * 1_000_000, b'{"a":' * 200_000, nested(65, "1") * 1):
        refused(ANYTHING, data)
        refused(THING, data)
    refused(Body(Tree), b'{"children":[' * 100_000)


# --- text


@pytest.mark.parametrize(
    "data",
    [
        b'"\\ud800"', b'"\\ud800x"', b'"\\udc00"', b'"\\ud800\\ud800"', b'"\xff"',
        b'"\xed\xa0\x80"', b'"\xc0\x80"', b"NaN", b"[NaN]", b"[Infinity]", b"-Infinity",
        b"nan", b"", b" ", b"[1,]", b"{'a':1}", b"[1] 2", b"\xef\xbb\xbf[]", b"[01]", b"[+1]",
        b"[.5]", b"[1.]", b'"\x01"', b"tru", b'{"\xff":1}', b'{"a":1,}', b"/**/[]",
        b'["\\x41"]', b"1" * 5000 + b"e", b"\x00", b"[\x00]",
    ],
)  # fmt: skip
def test_what_is_no_json_text_in_unicode_is_refused(data: bytes) -> None:
    assert refused(ANYTHING, data).kind == "invalid"
    refused(Body(list[str | int | float]), data)


def test_surrogate_pairs_are_characters() -> None:
    assert ANYTHING.read(b'"\\ud83d\\ude00"') == "😀"


async def test_over_http_all_of_it_is_an_answer_of_400() -> None:
    async with browser(make_app()) as client:
        for content in (
            b'{"name":"a","name":"b"}', b'{"name":"\\ud800x"}', b'{"name":"\xff"}',
            b'{"count":NaN}', b"[" * 100_000,
        ):  # fmt: skip
            answer = await client.post(
                "/v1/things", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400, content[:50]


def vector_files() -> list[Path]:
    named = os.environ.get("HOLDFAST_VECTORS")
    return sorted((Path(named) / "json-parsing" / "test_parsing").iterdir()) if named else []


# In these, something that is legal JSON is beyond what we take: a key twice, deeper than 64.
STRICTER = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def test_the_published_json_parsing_suite() -> None:
    files = vector_files()
    if not files:
        pytest.skip("HOLDFAST_VECTORS is not set: published vectors are not here")
    wrong = []
    for path in files:
        expected = path.name[0] if path.name not in STRICTER else "n"
        try:
            ANYTHING.read(path.read_bytes())
            taken = "y"
        except Invalid:
            taken = "n"
        if expected != "i" and taken != expected:
            wrong.append((path.name, taken))
    assert not wrong
    assert len(files) > 300


def test_keys_and_depth_are_checked_on_their_own_too() -> None:
    with pytest.raises(Invalid):
        check_keys(b'{"a":1,"a":1}')
    with pytest.raises(Invalid):
        check_keys(b"\xff")
    check_keys(b'{"a":1}')
