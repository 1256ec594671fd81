"""Reads the lines of programs that stay, where they are plainly right.

The library that reads all other lines, prints help and says what is wrong with one is of no use
to a program that then runs for weeks, and is a seventh of what a drone would hold. Nothing is
decided here: a line that is not plainly right (``--help``, an unknown option, a number out of
bounds) is left to that library, which then reads it from the start. A test holds the options and
their defaults against those of ``app.commands``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what its value becomes (none: it is a flag), and a number's bounds."""

    convert: type[str] | type[int] | type[Path] | None = None
    low: int = 0
    high: int = 0
    many: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """One noun: what runs it, its options, and what its bare words are called."""

    run: str
    options: dict[str, Option]
    words: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A line that was understood."""

    noun: str
    before: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)


_TEXT, _PATH, _FLAG, _PORT = Option(str), Option(Path), Option(), Option(int, 0, 65535)

GLOBAL = {
    "--data-dir": _PATH,
    "--control-plane": _TEXT,
    "--log-level": _TEXT,
    "--log-format": _TEXT,
}
PROGRAMS = {
    "up": Program(
        "holdfast.app.programs:up",
        {
            "--sample": _FLAG,
            "--once": _FLAG,
            "--drones": Option(int, 0, 64),
            "--host": _TEXT,
            "--port": _PORT,
        },
    ),
    "serve": Program(
        "holdfast.app.programs:serve", {"--host": _TEXT, "--port": _PORT}, words="roles"
    ),
    "drone": Program(
        "holdfast.app.programs:drone",
        {
            "--count": Option(int, 1, 64),
            "--join-token-file": _PATH,
            "--region": _TEXT,
            "--label": Option(str, many=True),
            "--capacity": Option(int, 1, 64),
        },
    ),
}


def read(arguments: Sequence[str]) -> Said | None:
    """What a line says whose global options come first; nothing where it is not plainly right."""
    before: dict[str, Any] = {}
    rest = _options(arguments, GLOBAL, before, until_word=True)
    if not rest or rest[0] not in PROGRAMS:
        return None
    program = PROGRAMS[rest[0]]
    given: dict[str, Any] = {}
    words = _options(rest[1:], program.options, given, until_word=False)
    if words is None or bool(words) != bool(program.words):
        return None
    if program.words:
        given[program.words] = words
    return Said(rest[0], before, given)


def _options(
    arguments: Sequence[str],
    options: dict[str, Option],
    found: dict[str, Any],
    *,
    until_word: bool,
) -> list[str] | None:
    """Put the options into ``found``; the words beside them, or from the first one on."""
    words: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("-"):
            words.append(argument)
            if until_word:
                return [*words, *waiting]
            continue
        name, equals, text = argument.partition("=")
        option = options.get(name)
        if option is None or (equals and option.convert is None):
            return None
        value: Any = True
        if option.convert is not None:
            text = text if equals else next(waiting, "-")
            # What looks like an option may be one whose value was forgotten.
            value = None if text.startswith("-") else _value(option, text)
        if value is None:
            return None
        key = name.removeprefix("--").replace("-", "_")
        found[key] = [*found.get(key, []), value] if option.many else value
    return words


def _value(option: Option, text: str) -> Any:
    if option.convert is not int:
        return option.convert(text) if option.convert is not None else None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return None
    number = int(text)
    return number if option.low <= number <= option.high else None


def start(said: Said) -> int:
    """Run the program that a line names until it ends; its exit status."""
    from holdfast.app.line import line_of
    from holdfast.kernel.cli import fail, note_noun
    from holdfast.kernel.errors import Invalid

    note_noun(said.noun)
    try:
        line = line_of(**said.before)
    except Invalid as error:
        fail(error)
    module, _, name = PROGRAMS[said.noun].run.partition(":")
    status: int = getattr(importlib.import_module(module), name)(line, **said.given)
    return status
