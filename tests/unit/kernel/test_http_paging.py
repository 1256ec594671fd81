from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel.errors import Invalid
from holdfast.kernel.http import decode_cursor, encode_cursor

plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=40
)  # fmt: skip


@given(st.lists(plain, max_size=5))
def test_a_cursor_leads_back_to_its_position(position: list[Any]) -> None:
    text = encode_cursor("things", position)
    assert decode_cursor("things", text) == position
    assert text.isascii()
    assert not set(text) & set("+/=&?# ")


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        decode_cursor("things", encode_cursor("runs", [1]))
    assert caught.value.code == "cursor-invalid"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        decode_cursor("things", text)


def test_a_mangled_cursor_is_refused() -> None:
    text = encode_cursor("things", ["2026-01-01", 5])
    for mangled in (text[:-3], text + "AAAA", text[5:], text.swapcase(), "x" * 100_000, "é" + text):
        with pytest.raises(Invalid):
            decode_cursor("things", mangled)


@pytest.mark.parametrize("name", ["t", "th", "thi"])
def test_a_cursor_has_one_spelling(name: str) -> None:
    text = encode_cursor(name, [7])
    others = [f"{text}=", f"{text}==", f"{text}\n"]
    if len(text) % 4:  # the last character has bits to spare
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        others.append(text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1])
    for other in others:
        with pytest.raises(Invalid):
            decode_cursor(name, other)


@pytest.mark.parametrize(
    "position",
    [[], [None], [True], [1.5], ["1"], [[1]], [{}], [2**53], [-(2**53)], [1, 2], [2**70]],
)
def test_a_position_that_the_list_does_not_have_is_refused(position: list[Any]) -> None:
    with pytest.raises(Invalid) as caught:
        decode_cursor("things", encode_cursor("things", position), int)
    assert caught.value.code == "cursor-invalid"


def test_a_position_of_the_wanted_types_is_taken_and_text_with_nul_is_not() -> None:
    assert decode_cursor("things", encode_cursor("things", [7, "a"]), int, str) == [7, "a"]
    with pytest.raises(Invalid):
        decode_cursor("things", encode_cursor("things", [7, "a\x00"]), int, str)
