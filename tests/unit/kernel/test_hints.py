"""Every failure of the command line ends with something to try."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import holdfast
from holdfast.app.commandline import COMMANDS
from holdfast.kernel.cli import fail, note_json
from holdfast.kernel.errors import BY_KIND, Kind, NotFound, OutcomeUnknown, Unavailable
from holdfast.kernel.hints import BY_CODE, LISTED, hint_for
from holdfast.kernel.hints import BY_KIND as KIND_HINTS

SOURCES = Path(holdfast.__file__).parent


def shown(error: Exception) -> list[str]:
    app = typer.Typer()

    @app.command()
    def failing() -> None:
        fail(error)  # type: ignore[arg-type]

    return CliRunner().invoke(app).stderr.splitlines()


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("noun", ["", "record", "doctor"])
def test_every_kind_has_a_hint_without_gaps_in_it(kind: Kind, noun: str) -> None:
    hint = hint_for(BY_KIND[kind]("cannot x: y"), noun)
    assert hint
    assert not re.search(r"[{}]|  ", hint)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_last_line_of_a_failure_is_a_hint(kind: Kind) -> None:
    lines = shown(BY_KIND[kind]("cannot x: y"))
    assert lines[0] == "error: cannot x: y"
    assert lines[-1].startswith("hint: ")


def test_a_line_with_json_is_told_its_failure_as_json() -> None:
    note_json(True)
    try:
        [line] = shown(NotFound("cannot x: y", code="run-not-found"))
    finally:
        note_json(False)
    told = json.loads(line)
    assert (told["kind"], told["code"], told["detail"]) == (
        "not-found", "run-not-found", "cannot x: y",
    )  # fmt: skip
    assert "holdfast run list" in told["hint"]


def test_the_errors_own_hint_comes_first_then_its_code_then_its_kind() -> None:
    assert hint_for(NotFound("x", code="run-not-found", hint="do this")) == "do this"
    assert "holdfast run list" in hint_for(NotFound("x", code="run-not-found"), "task")
    assert "holdfast task list" in hint_for(NotFound("x"), "task")
    assert "record list --profile NAME" in hint_for(NotFound("x"), "record")
    assert "holdfast backup --help" in hint_for(NotFound("x"), "backup"), "none of it can be listed"
    assert "profile run" in hint_for(NotFound("x", code="not-published"), "report")
    dead = hint_for(BY_KIND[Kind.UNAUTHENTICATED]("x", code="key-unknown"))
    assert "revoked, has expired or is mistyped" in dead, "its holder has no data directory"
    assert "network" in hint_for(Unavailable("x", code="unreachable"))
    assert hint_for(OutcomeUnknown("x", hint="look at the log")) == "look at the log"
    assert "look before you repeat it" in hint_for(OutcomeUnknown("x"))


def test_what_the_hints_name_is_there() -> None:
    """A command that a hint tells somebody to type exists; so does a code it is kept for."""
    assert set(KIND_HINTS) == set(Kind)
    source = "".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    for code in BY_CODE:
        assert source.count(f'"{code}"') > 1, code
    for hint in (*BY_CODE.values(), *KIND_HINTS.values()):
        for noun in re.findall(r"`holdfast ([a-z]+)", hint):
            assert noun in COMMANDS, hint
        for setting in re.findall(r"HOLDFAST_[A-Z_]+", hint):
            assert source.count(f'"{setting}"'), setting
    assert set(COMMANDS) >= set(LISTED)
