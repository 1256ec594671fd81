"""Lines of programs that stay, never read otherwise than by the library."""

from __future__ import annotations

import inspect
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from holdfast.app import commandline
from holdfast.app.commands import drone, serve, up
from holdfast.app.line import PROGRAM, line_of
from holdfast.app.main import GLOBAL_OPTIONS, hoist
from holdfast.app.programs import _child
from holdfast.app.straight import GLOBAL, PROGRAMS, Said, read

COMMANDS: dict[str, Any] = {
    "up": get_command(up.app),
    "serve": get_command(serve.app),
    "drone": get_command(drone.app),
}
ROOT: Any = get_command(commandline.app)
REFUSALS: Any = (typer.Exit, typer.BadParameter.__base__)
LINES = 2_000
"""Seeded lines that are compared, right ones and wrong ones."""


def by_the_library(line: list[str]) -> tuple[dict[str, Any], str, dict[str, Any]] | None:
    """What the library reads of a whole line; nothing where it complains or prints help."""
    try:
        before = ROOT.make_context("holdfast", list(line))
        noun, *rest = [*before._protected_args, *before.args]
        given = COMMANDS[noun].make_context(noun, rest)
    except REFUSALS:
        return None
    return before.params, noun, given.params


def completed(said: Said) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What was read, with the defaults of what runs it."""
    module, _, name = PROGRAMS[said.noun].run.partition(":")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    given = {p.name: said.given.get(p.name, p.default) for p in parameters if p.name != "line"}
    names = [name.removeprefix("--").replace("-", "_") for name in GLOBAL]
    return {name: said.before.get(name) for name in names}, said.noun, given


def plain(read: tuple[dict[str, Any], str, dict[str, Any]]) -> Any:
    """Without the difference between a list and a tuple, and between none and no labels."""
    before, noun, given = read
    return (
        before,
        noun,
        {k: list(v) if isinstance(v, list | tuple) else v for k, v in given.items()},
    )


@pytest.mark.parametrize("noun", list(PROGRAMS))
def test_it_knows_each_option_of_a_program(noun: str) -> None:
    options = {o for p in COMMANDS[noun].params for o in p.opts if o.startswith("--")} - {"--help"}
    assert set(PROGRAMS[noun].options) == options


def test_it_knows_each_option_before_the_noun() -> None:
    options = {o for p in ROOT.params for o in p.opts if o.startswith("--")} - {"--help"}
    assert set(GLOBAL) == options == set(GLOBAL_OPTIONS)


WORDS = [
    *("up", "serve", "drone", "gateway", "ledger", "version", "", "3", "0", "-1", "65", "65535"),
    *("65536", "a=b", "x", "127.0.0.1", "http://127.0.0.1:1", "--", "-h", "--help", "--nothing"),
    *("1_0", "٣", " 2", "2.0", "--port=8080", "--count=", "--sample=yes", "--label=k=v", "--once"),
]


def seeded_line(seed: random.Random) -> list[str]:
    noun = seed.choice(list(PROGRAMS))
    options = [*PROGRAMS[noun].options, *GLOBAL]
    line = [noun] + (["registry"] if noun == "serve" and seed.random() < 0.9 else [])
    for _ in range(seed.randrange(4)):
        option = seed.choice(options) if seed.random() < 0.8 else seed.choice(WORDS)
        valued = option not in ("--sample", "--once") and seed.random() < 0.9
        line += [option, seed.choice(["3", "a=b", *WORDS])] if valued else [option]
    return line


def test_what_it_reads_the_library_reads_the_same_way() -> None:
    seed = random.Random(20_261_127)
    taken = left = 0
    for _ in range(LINES):
        line = hoist(seeded_line(seed))
        said = read(line)
        if said is None:
            left += 1
            continue
        taken += 1
        theirs = by_the_library(line)
        assert theirs is not None, f"it takes {line}, which is wrong"
        assert plain(completed(said)) == plain(theirs), line
    assert taken > LINES // 10, "hardly any line was compared"
    assert left > LINES // 10, "hardly any line was wrong"


@pytest.mark.parametrize(
    ("line", "given"),
    [
        (["up"], {}),
        (["up", "--sample", "--once"], {"sample": True, "once": True}),
        (["up", "--port", "0", "--drones=4"], {"port": 0, "drones": 4}),
        (["serve", "registry", "ledger"], {"roles": ["registry", "ledger"]}),
        (["serve", "--port", "1", "gateway"], {"port": 1, "roles": ["gateway"]}),
        (["drone", "--label", "a=b", "--label", "c=d"], {"label": ["a=b", "c=d"]}),
        (["drone", "--join-token-file", "f"], {"join_token_file": Path("f")}),
    ],
)
def test_lines_as_people_and_images_write_them_are_taken(
    line: list[str], given: dict[str, Any]
) -> None:
    said = read(hoist([*line, "--data-dir", "d", "--log-level=error"]))
    assert said == Said(line[0], {"data_dir": Path("d"), "log_level": "error"}, given)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["--help"],
        ["version"],
        ["up", "--help"],
        ["up", "--drones", "65"],
        ["up", "--drones", "many"],
        ["up", "surplus"],
        ["up", "--sample=yes"],
        ["up", "--port"],
        ["up", "--port", "--once"],
        ["serve"],
        ["drone", "--nothing"],
        ["drone", "--count", "0"],
        ["--data-dir"],
    ],
)
def test_whatever_is_not_plainly_right_is_left_to_the_library(line: list[str]) -> None:
    assert read(hoist(line)) is None


def test_each_of_several_drones_is_started_as_their_parent_was(tmp_path: Path) -> None:
    said = ["--log-level", "debug", "--log-format", "json", "--data-dir", str(tmp_path)]
    line = line_of(log_level="debug", log_format="json", data_dir=tmp_path)
    token = tmp_path / "token"
    child = _child(line, "http://127.0.0.1:8090", "eu", {"tier": "a=b"}, 3, token)
    assert child[: len(PROGRAM)] == list(PROGRAM)
    found = read(hoist(child[len(PROGRAM) :]))
    asked = ["--region", "eu", "--label", "tier=a=b", "--capacity", "3"]
    asked += ["--join-token-file", str(token)]
    url = ["--control-plane", "http://127.0.0.1:8090"]
    assert found is not None
    assert found == read([*said, *url, "drone", *asked])
