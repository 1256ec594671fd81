"""``holdfast up``: every role on this machine, and drones beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.app.commands.config import settings_of
from holdfast.app.commands.serve import bind_with
from holdfast.kernel.cli import command_line, fail, run
from holdfast.kernel.errors import HoldfastError, Invalid

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
    from holdfast.app.household import Household
    from holdfast.app.program import run_program
    from holdfast.app.settings import ROLES

    line = command_line(ctx)
    if once and not drones:
        fail(Invalid("cannot collect once: --drones 0 leaves nobody to collect"))
    if once and port is None:
        port = 0  # nobody needs to know the address of a program that ends by itself
    try:
        flags = Household.flags(line.data_dir, sample=sample)
        quiet = "warning" if once and not line.log_level else None
        settings = settings_of(line, **flags, **({"log_level": quiet} if quiet else {}))
    except HoldfastError as error:
        fail(error)
    household = Household(settings, sample=sample, once=once, drones=drones)
    bind = bind_with(settings["gateway_bind"], host, port)
    status = run(
        lambda: run_program(
            settings, ROLES, bind=bind, beside=household.live, reload=lambda: settings_of(line)
        )
    )
    raise typer.Exit(status)
