"""``holdfast config show``: every setting, its value, where that came from, what it means."""

from __future__ import annotations

import os
from typing import Any

import typer

from holdfast.app.line import sources_of, with_origin
from holdfast.app.settings import SETTINGS, Setting, Settings, examine, without_effect
from holdfast.kernel.cli import command_line, fail, print_json, print_table, say
from holdfast.kernel.errors import Invalid, Problem
from holdfast.kernel.options import JsonOption

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Settings and their origins.")


@app.callback()
def _group() -> None:
    """Settings with their values and origins."""


@app.command(
    "show",
    help="Print every setting: name, value, where it came from, meaning. Secrets are hidden.",
    epilog="Example: holdfast config show --json",
)
def show(ctx: typer.Context, json: JsonOption = False) -> None:
    """Resolved settings with their origin, secrets hidden; those that are wrong are marked."""
    line = command_line(ctx)
    settings, problems = examine(*sources_of(line, {}))
    settings = with_origin(line, settings)
    rows = [
        {
            "name": setting.name,
            "value": _shown(setting.key, settings, hide=setting.secret),
            "origin": _origin(setting, settings, problems),
            "meaning": setting.meaning,
            "aliases": [alias.name for alias in setting.aliases],
        }
        for setting in SETTINGS
    ]
    if json:
        print_json(rows)
    else:
        print_table(
            ["setting", "value", "from", "meaning"],
            [[row["name"], row["value"], row["origin"], row["meaning"]] for row in rows],
        )
    for each in without_effect(os.environ):
        say(f"{each.path} {each.message}: {each.hint}")
    if problems:
        fail(
            Invalid(
                "cannot start with these settings: some are wrong",
                code="settings-invalid",
                problems=problems,
                hint="set them right or unset them; until then nothing starts",
            )
        )


def _origin(setting: Setting, settings: Settings, problems: list[Problem]) -> str:
    """Where the value is from; a setting that somebody set wrongly says so instead."""
    names = {setting.name, *(alias.name for alias in setting.aliases)}
    wrong = [p.path for p in problems if names & set(p.path.split(" and "))]
    return f"WRONG: {wrong[0]}" if wrong else settings.origin(setting.key)


def _shown(key: str, settings: Settings, *, hide: bool) -> Any:
    value = settings[key]
    if value is None or value == "":
        return ""
    if hide:
        return "(hidden)"
    if isinstance(value, tuple):
        return ", ".join(value)
    return value if isinstance(value, int | float | bool) else str(value)
