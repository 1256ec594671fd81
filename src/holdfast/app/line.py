"""The options before the noun, and the settings they lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.app.settings import ROLES, Resolved, Settings, examine, resolve, without_effect
from holdfast.kernel.cli import CommandLine, checked_address
from holdfast.kernel.errors import Invalid

if TYPE_CHECKING:
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.tls import ClientTls

PROGRAM = (sys.executable, "-m", "holdfast.app.main")
"""What a line begins with that starts this program again."""
SLIPS_TOLD = 5


def line_of(
    data_dir: Path | None = None,
    control_plane: str | None = None,
    log_level: str | None = None,
    log_format: str | None = None,
) -> CommandLine:
    """What is said before the noun, completed from the environment.

    Raises :class:`~holdfast.kernel.errors.Invalid` for an address that is none.
    """
    control_plane = control_plane or os.environ.get("HOLDFAST_URL") or None
    if control_plane:
        control_plane = checked_address(control_plane, "--control-plane").rstrip("/")
    variables = [n for n in ("HOLDFAST_DATA_DIR", "VDB_DATA_DIR") if os.environ.get(n)]
    named = data_dir or Path(os.environ[variables[0]] if variables else "data")
    return CommandLine(
        data_dir=named,
        control_plane=control_plane,
        log_level=log_level or "",
        log_format=log_format or "",
        open_here=_open_here,
        data_dir_from="--data-dir" if data_dir else (variables or ["default"])[0],
        tls_of=_tls_of,
        database_of=lambda line: settings_of(line).database_url,
        said_of=_said_of,
    )


@asynccontextmanager
async def _open_here(line: CommandLine) -> AsyncIterator[ApiClient]:
    """A client straight into a system on the data directory, for a command when nothing runs."""
    from holdfast.app import datadir
    from holdfast.app.compose import open_system
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.telemetry import configure_logging

    settings = settings_of(line)
    configure_logging("error", settings["log_format"])
    with datadir.held(line.data_dir):
        async with open_system(settings.alone(), ROLES, served=False) as system:
            token = line.operator_token()
            assert system.app is not None
            async with ApiClient.for_app(system.app, token=token, tenant=line.tenant()) as api:
                yield api


def _tls_of(line: CommandLine) -> ClientTls | None:
    from holdfast.app.tls import client_tls

    return client_tls(settings_of(line))


def _said_of(line: CommandLine, key: str) -> tuple[Any, str]:
    """One setting for a command that needs no other. Others may be wrong; that the file cannot be
    read may not, for then nobody knows what it says of this one."""
    environment, flags, file = sources_of(line, {})
    settings, problems = examine(environment, flags, file)
    wrong = [problem for problem in problems if problem.path == str(file)]
    if wrong and settings.origin(key) == "default":
        raise Invalid(
            f"cannot use the settings of {file}",
            code="settings-invalid",
            problems=wrong,
            hint="`holdfast config show` prints every setting with its meaning",
        )
    return settings[key], settings.origin(key)


def tell_slips() -> None:
    """Say in the log which variables are nearly one of the guides' and are passed over for it."""
    from holdfast.kernel.telemetry import get_logger

    slips = without_effect(os.environ)
    for slip in slips[:SLIPS_TOLD]:
        get_logger("settings").warning(
            "variable passed over", variable=slip.path, detail=slip.message, hint=slip.hint
        )
    if len(slips) > SLIPS_TOLD:
        get_logger("settings").warning(
            "variables passed over", more=len(slips) - SLIPS_TOLD, hint="`holdfast doctor`"
        )


def settings_of(line: CommandLine, **flags: str | None) -> Settings:
    """The settings for a command line: defaults, file, environment, then its flags."""
    return with_origin(line, resolve(*sources_of(line, flags)))


def sources_of(
    line: CommandLine, flags: dict[str, str | None]
) -> tuple[Mapping[str, str], dict[str, str], Path]:
    """The environment, the flags and the file that a command line is about."""
    given = {key: value for key, value in flags.items() if value is not None}
    given["data_dir"] = str(line.data_dir)
    for key, value in (("log_level", line.log_level), ("log_format", line.log_format)):
        if value:
            given[key] = value
    in_data_dir = line.data_dir / "holdfast.toml"
    file = in_data_dir if in_data_dir.exists() else Path("holdfast.toml")
    return os.environ, given, file


def with_origin(line: CommandLine, settings: Settings) -> Settings:
    """The data directory is settled before there are settings: say where it really came from."""
    named = Resolved(settings.data_dir, line.data_dir_from)
    return replace(settings, resolved={**settings.resolved, "data_dir": named})
