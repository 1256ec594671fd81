"""Why a row was rejected, without the value."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast.collect
from holdfast.records.reasons import _SAID, VALUE_WITHHELD, WITHHELD, without_value

NAMED = {"is x, not one value", "has no x for a period of frequency x", "has no x x"}
"""Sentences with a word of ours in them: each there is, is in the table."""


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("'jane' is not a number", f"{_SAID['is not a number']}; {VALUE_WITHHELD}"),
        ("\"jane's\" is not a whole number", f"is not a whole number; {VALUE_WITHHELD}"),
        (r"'a\' is no period' is beyond 2^53-1", f"is beyond 2^53-1; {VALUE_WITHHELD}"),
        ("is not in the code list sex: 'jane'", f"is not in its code list; {VALUE_WITHHELD}"),
        ("is missing and required", "is missing and required"),
        ("has 7 cells under 3 columns",
         f"has another number of cells than there are columns; {VALUE_WITHHELD}"),
        ("has no dimensions.visit, which is part of the key",
         f"lacks a part of its key; {VALUE_WITHHELD}"),
        ("has 'jane' at 12, beyond the place of any column",
         f"has something beyond the place of any column; {VALUE_WITHHELD}"),
        ("jane is no number", WITHHELD),
        ("'jane", WITHHELD),
        ("", WITHHELD),
    ],
)  # fmt: skip
def test_a_reason_is_told_by_what_is_wrong(reason: str, told: str) -> None:
    assert without_value(reason) == told


@given(st.text(max_size=80), st.sampled_from(["", *_SAID]), st.text(max_size=80))
def test_nothing_that_is_told_comes_from_the_row(value: str, said: str, rest: str) -> None:
    allowed = {f"{told}; {VALUE_WITHHELD}" for told in _SAID.values()}
    allowed |= {WITHHELD, "is missing and required"}
    for reason in (f"{value!r} {said}{rest}", f"{value}{said}{rest}", f"{said}{rest}{value}"):
        assert without_value(reason) in allowed


OTHER = {"infer.py"}
"""Modules that refuse values, and not those of records: drafts of profiles are made with it."""


def refusals() -> dict[str, str]:
    """How the sentences begin with which the mapping refuses a value, by where they are written."""
    found = {}
    folder = Path(holdfast.collect.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name in OTHER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ValueError"):
                continue
            said = node.args[0] if node.args else None
            said = said.left if isinstance(said, ast.BinOp) else said
            parts = said.values if isinstance(said, ast.JoinedStr) else [said]
            text = "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                # A value in front is quoted; what follows a verb is not looked at.
                else "'x'" if index == 0 else "x"
                for index, part in enumerate(parts)
            )  # fmt: skip
            if any(isinstance(part, ast.Constant) for part in parts):
                found[f"{path.name}:{node.lineno}"] = text
    return found


def test_every_sentence_of_the_mapping_is_known() -> None:
    """One that is added there without being added here would be withheld whole."""
    written = refusals()
    assert len(written) > 25, written
    modules = {where.partition(":")[0] for where in written}
    assert modules == {"mapping.py", "mapping_fields.py", "periods.py", "values.py"}
    unknown = {
        where: text
        for where, text in written.items()
        if without_value(text) == WITHHELD and text not in NAMED
    }
    assert unknown == {}
