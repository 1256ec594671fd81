"""``holdfast drone``: collect for a control plane; how settings become what collecting needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.app.commands.config import settings_of
from holdfast.app.settings import Settings
from holdfast.app.tls import client_tls
from holdfast.collect.settings import CollectSettings, DroneSettings
from holdfast.kernel.cli import checked_address, command_line, fail, run
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.outbound import OutboundSettings

PROGRAM = (sys.executable, "-m", "holdfast.app.main")

app = typer.Typer(add_completion=False)


@app.command(
    help="Run drones that collect for a control plane.",
    epilog="Example: holdfast drone --control-plane https://holdfast.example.org --count 2",
)
def drone(
    ctx: typer.Context,
    count: Annotated[
        int, typer.Option("--count", min=1, max=64, help="How many drones, one process each.")
    ] = 1,
    join_token_file: Annotated[
        Path | None,
        typer.Option("--join-token-file", help="File with the join token (HOLDFAST_DRONE_…)."),
    ] = None,
    region: Annotated[str, typer.Option("--region", help="Where the drones are.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="NAME=TEXT, shown in `worker list`.")
    ] = None,
    capacity: Annotated[
        int, typer.Option("--capacity", min=1, max=64, help="Runs of one drone at once.")
    ] = 1,
) -> None:
    """Work until told to stop."""
    from holdfast.collect.program import run_children, run_drone, stop_on_signal
    from holdfast.collect.state import drone_name
    from holdfast.kernel.telemetry import configure_logging

    line = command_line(ctx)
    flags = {"drone_join_token_file": str(join_token_file) if join_token_file else None}
    try:
        settings = settings_of(line, **flags)
        url = line.control_plane or settings["drone_control_plane"]
        if not url:
            raise Invalid(
                "cannot start a drone: it has no control plane",
                hint="--control-plane URL, or HOLDFAST_DRONE_CONTROL_PLANE",
            )
        checked_address(url, "--control-plane")
        configure_logging(settings["log_level"], settings["log_format"])
        state_dir = settings.data_dir / "drones"
        name = drone_name(state_dir, settings["drone_id"])
        labels = dict(_label(text) for text in label or ())
        tls = client_tls(settings, name) if count == 1 else None
    except HoldfastError as error:
        fail(error)
    if count == 1:
        one = DroneSettings(
            control_plane=url,
            name=name,
            state_dir=state_dir,
            collect=collect_settings(settings),
            join_token_file=settings["drone_join_token_file"],
            region=region,
            labels=labels,
            capacity=capacity,
            process_interval_seconds=settings["drone_process_interval"],
            ca_file=settings["collect_ca_file"],
            tls=tls,
        )
        run(lambda: run_drone(one))
        return
    # Flags go before the environment: each child gets the parent's, with a name of its own.
    command = [*PROGRAM, "drone", "--data-dir", str(line.data_dir), "--control-plane", url]
    command += ["--region", region] if region else []
    command += [part for key, text in labels.items() for part in ("--label", f"{key}={text}")]
    command += ["--capacity", str(capacity)]
    if join_token_file:
        command += ["--join-token-file", str(join_token_file)]
    aliases = {key: value for key, value in os.environ.items() if key != "DRONE_ID"}
    environments = [aliases | {"HOLDFAST_DRONE_ID": f"{name}-{n}"} for n in range(1, count + 1)]

    async def several() -> None:
        await run_children(command, environments, stop_on_signal())

    run(several)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Invalid(f"cannot use the label {text!r}: write NAME=TEXT")
    return name, value


def collect_settings(settings: Settings) -> CollectSettings:
    """What collecting needs of the settings."""
    return CollectSettings(
        spool_dir=settings.spool_dir,
        outbound=OutboundSettings(
            allow=frozenset(settings["collect_allow"]),
            resolver=settings["collect_resolver"],
            replay_map=settings["collect_replay_file"],
            contact=settings["collect_contact"],
            ca_file=settings["collect_ca_file"],
        ),
        secrets_dir=settings.secrets_dir,
        secret_variables={
            key: value for key, value in os.environ.items() if key.startswith("HOLDFAST_SECRET_")
        },
    )
