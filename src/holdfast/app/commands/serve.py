"""``holdfast serve ROLE…``: the named roles, each deployable on its own."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.app import programs
from holdfast.kernel.cli import command_line

app = typer.Typer(add_completion=False)


@app.command(
    help="Run the named roles: gateway, identity, registry, coordinator, aggregator, reporter, "
    "ledger.",
    epilog="Example: holdfast serve registry --data-dir data/registry",
)
def serve(
    ctx: typer.Context,
    roles: Annotated[list[str], typer.Argument(metavar="ROLE…", help="What to run.")],
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = None,
) -> None:
    """Serve the named roles in this process until it is told to stop."""
    raise typer.Exit(programs.serve(command_line(ctx), roles=roles, host=host, port=port))
