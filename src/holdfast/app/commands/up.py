"""``holdfast up``: every role on this machine, and drones beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.app import programs
from holdfast.kernel.cli import command_line

app = typer.Typer(add_completion=False)


@app.command(
    help="Run every role on this machine: one process, SQLite and local files, two drones.",
    epilog="Examples: holdfast up --sample --once | holdfast up --port 0 --drones 4",
)
def up(
    ctx: typer.Context,
    sample: Annotated[
        bool, typer.Option("--sample", help="Collect the recorded sources that come along.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Collect everything once, report, and stop.")
    ] = False,
    drones: Annotated[
        int, typer.Option("--drones", min=0, max=64, help="How many drones to start beside it.")
    ] = 2,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = None,
) -> None:
    """Serve all roles until told to stop; with ``--once`` until everything is collected."""
    line = command_line(ctx)
    raise typer.Exit(
        programs.up(line, sample=sample, once=once, drones=drones, host=host, port=port)
    )
