"""``holdfast drone``: collect for a control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.app import programs
from holdfast.kernel.cli import command_line

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
    raise typer.Exit(
        programs.drone(
            command_line(ctx),
            count=count,
            join_token_file=join_token_file,
            region=region,
            label=label or (),
            capacity=capacity,
        )
    )
