"""``holdfast serve ROLE…``: the named roles, each deployable on its own."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.app.commands.config import settings_of
from holdfast.kernel.cli import command_line, fail, run
from holdfast.kernel.errors import HoldfastError, Invalid, Unsupported

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
    from holdfast.app.program import run_program
    from holdfast.app.settings import PLANNED_ROLES, ROLES

    line = command_line(ctx)
    chosen = tuple(dict.fromkeys(roles))
    try:
        for role in chosen:
            if role in PLANNED_ROLES:
                raise Unsupported(f"cannot serve {role}: it is not built in this version")
            if role not in ROLES:
                raise Invalid(
                    f"cannot serve {role!r}: no such role", hint=f"roles are: {', '.join(ROLES)}"
                )
        settings = settings_of(line)
    except HoldfastError as error:
        fail(error)
    lead = "gateway" if "gateway" in chosen else chosen[0]
    bind = bind_with(settings[f"{lead}_bind"], host, port)
    loop_factory = None
    if chosen == ("ledger",):
        # It starts no child processes, and what it costs to serve a request is what it costs.
        from uvloop import new_event_loop

        loop_factory = new_event_loop
    status = run(
        lambda: run_program(settings, chosen, bind=bind, reload=lambda: settings_of(line)),
        loop_factory=loop_factory,
    )
    raise typer.Exit(status)


def bind_with(setting: str, host: str | None, port: int | None) -> str:
    """The setting's ``host:port`` with what the flags say."""
    named, _, number = setting.rpartition(":")
    return f"{host or named}:{number if port is None else port}"
