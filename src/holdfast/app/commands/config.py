"""``holdfast config show``: every setting, its value, where that came from, what it means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from holdfast.app.settings import SETTINGS, Settings, resolve
from holdfast.kernel.cli import (
    CommandLine,
    JsonOption,
    command_line,
    fail,
    print_json,
    print_table,
)
from holdfast.kernel.errors import HoldfastError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Settings and their origins.")


@app.callback()
def _group() -> None:
    """Settings with their values and origins."""


def settings_of(line: CommandLine, **flags: str | None) -> Settings:
    """The settings for a command line: defaults, file, environment, then its flags."""
    given = {key: value for key, value in flags.items() if value is not None}
    given["data_dir"] = str(line.data_dir)
    for key, value in (("log_level", line.log_level), ("log_format", line.log_format)):
        if value:
            given[key] = value
    in_data_dir = line.data_dir / "holdfast.toml"
    file = in_data_dir if in_data_dir.exists() else Path("holdfast.toml")
    return resolve(os.environ, given, file)


@app.command(
    "show",
    help="Print every setting: name, value, where it came from, meaning. Secrets are hidden.",
    epilog="Example: holdfast config show --json",
)
def show(ctx: typer.Context, json: JsonOption = False) -> None:
    """Resolved settings with their origin, secrets hidden."""
    try:
        settings = settings_of(command_line(ctx))
    except HoldfastError as error:
        fail(error)
    rows = [
        {
            "name": setting.name,
            "value": _shown(setting.key, settings, hide=setting.secret),
            "origin": settings.origin(setting.key),
            "meaning": setting.meaning,
            "aliases": [alias.name for alias in setting.aliases],
        }
        for setting in SETTINGS
    ]
    if json:
        print_json(rows)
        return
    print_table(
        ["setting", "value", "from", "meaning"],
        [[row["name"], row["value"], row["origin"], row["meaning"]] for row in rows],
    )


def _shown(key: str, settings: Settings, *, hide: bool) -> Any:
    value = settings[key]
    if value is None or value == "":
        return ""
    if hide:
        return "(hidden)"
    if isinstance(value, tuple):
        return ", ".join(value)
    return value if isinstance(value, int | float | bool) else str(value)
