"""Names of things: one line of text, and nothing that a terminal or a page would act on."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from holdfast.kernel.cli import fail, print_json, say
from holdfast.kernel.errors import Invalid, Problem
from holdfast.kernel.naming import DisplayName, cleaned
from holdfast.kernel.structs import said

HOSTILE = (
    "\x1b[2J\x1b[1;1Hfake: all is well\x1b[8m",
    "\x1b]0;title\x07",
    "one\ntwo",
    "one\rtwo",
    "tab\tbed",
    "nul\x00",
    "\x9b2J",
    "line\u2028break",
    "abc\u202edcba",
    "\u2066isolate\u2069",
    "\ufeffmark",
    "",
    "   ",
    "\u00a0\u2003",
    "x" * 201,
)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_line_of_text_is_no_name(name: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(msgspec.json.encode(name), type=DisplayName)
    told = said(refused.value, DisplayName)
    assert "one line of text" in told or "length <= 200" in told
    assert msgspec.convert(cleaned(name) or "passkey", DisplayName)
    assert "\x1b" not in told


@pytest.mark.parametrize(
    "name",
    [
        "Ada",
        "x",
        "Grace Brewster Murray Hopper",
        "Łukasz Żółw",
        "علی‌رضا",
        "李 小龍",
        "👩‍🔬",
        "O'Brien-Ó Conchúir",
    ],
)
def test_what_people_are_called_is_a_name(name: str) -> None:
    assert msgspec.convert(name, DisplayName) == name == cleaned(name)


def test_whatever_is_said_on_a_terminal_is_one_line_that_does_nothing_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in HOSTILE:
        say(f"for {name}")
    with pytest.raises(SystemExit):
        fail(Invalid(f"cannot find {HOSTILE[0]}", problems=[Problem("a\nb", "c\x9b")], hint="\x07"))
    print_json({"name": "abc\u202edcba \x9b2J \U000e0001 é"})
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == len(HOSTILE) + 3
    for line in (*err.splitlines(), *out.splitlines()):
        assert line.isprintable(), line
    assert json.loads(out) == {"name": "abc\u202edcba \x9b2J \U000e0001 é"}
    assert sys.stderr is not None
