"""The command line's entry: the options before the noun, and the nouns, each loaded when used.

``holdfast version`` must answer within a third of a second, so nothing is imported here that the
named command does not need.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from holdfast import __version__

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from holdfast.kernel.cli import CommandLine
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.tls import ClientTls

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("holdfast.app.commands.up:app", "Run every role on this machine."),
    "serve": ("holdfast.app.commands.serve:app", "Run the named roles."),
    "drone": ("holdfast.app.commands.drone:app", "Run drones that collect for a control plane."),
    "profile": ("holdfast.app.commands.profile:app", "Describe sources: validate, publish, run."),
    "run": ("holdfast.app.commands.run:app", "See what was collected, run by run."),
    "record": ("holdfast.records.cli:record_app", "Read and export what is kept."),
    "reject": ("holdfast.records.cli:reject_app", "Rows that failed typing, with the reason."),
    "notice": ("holdfast.records.cli:notice_app", "What to be told about sources."),
    "report": ("holdfast.reports.cli:app", "Join, correlate and draw."),
    "query": ("holdfast.reports.query_cli:app", "Ask SQL about any moment."),
    "verify": ("holdfast.app.commands.verify:app", "Check a receipt, offline."),
    "ledger": ("holdfast.ledger.cli:app", "The log of everything: read, verify, prove."),
    "worker": ("holdfast.fleet.cli:worker_app", "The drones: list, admit, revoke."),
    "task": ("holdfast.fleet.cli:task_app", "The work: list, show, submit, cancel."),
    "key": ("holdfast.app.commands.key:app", "Keys: list, rotate, check, export; erase."),
    "backup": ("holdfast.app.commands.backup:app", "Back up, restore, and rehearse it."),
    "fixture": ("holdfast.collect.fixtures.cli:app", "Serve recorded sources like the originals."),
    "login": ("holdfast.app.commands.status:login", "Print a link that signs a browser in."),
    "doctor": ("holdfast.app.commands.doctor:app", "Check a stack that is down, up or broken."),
    "status": ("holdfast.app.commands.status:status", "What runs and what was collected."),
    "prune": ("holdfast.app.commands.prune:app", "Remove what nothing needs any more."),
    "health": ("holdfast.app.commands.status:health", "Ask /health; for images without curl."),
    "apikey": ("holdfast.identity.cli:apikey_app", "Keys for programs: make, list, revoke."),
    "person": ("holdfast.identity.people.cli:person_app", "People: invite, list, disable."),
    "session": ("holdfast.identity.signin.cli:app", "Browsers signed in: list, end."),
    "tenant": ("holdfast.identity.people.cli:tenant_app", "Tenants: make, list."),
    "audit": ("holdfast.app.commands.audit:app", "Who did what, and who was turned away."),
    "role": ("holdfast.identity.cli:role_app", "Roles and what they allow."),
    "pki": ("holdfast.identity.cli:pki_app", "Certificates of your own: make, list, renew."),
    "config": ("holdfast.app.commands.config:app", "Settings with their values and origins."),
    "version": ("holdfast.app.commands.version:app", "Print the version."),
}

GLOBAL_OPTIONS = ("--data-dir", "--control-plane", "--log-level", "--log-format")


LISTING = "holdfast.listing"


class LazyGroup(TyperGroup):
    """Knows every noun and its one line of help; imports a noun's module when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta[LISTING] = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing or ctx.meta.get(LISTING):
            return _signpost(cmd_name)
        from holdfast.kernel.cli import note_noun

        note_noun(cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = get_command(getattr(importlib.import_module(module), attribute))
        command.name = cmd_name
        return command


def _signpost(name: str) -> Any:
    """A stand-in with only a name and a line of help, for the list of commands."""
    sign = typer.Typer(help=COMMANDS[name][1], add_completion=False)

    @sign.command(help=COMMANDS[name][1])
    def nothing() -> None: ...

    command = get_command(sign)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    name="holdfast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Collect with a fleet, keep what you collected, prove where every number came from.",
    epilog="Begin with: holdfast up --sample",
)


@app.callback()
def root(
    ctx: typer.Context,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where everything is kept. [default: ./data]")
    ] = None,
    control_plane: Annotated[
        str | None,
        typer.Option("--control-plane", help="URL of the system to talk to (or HOLDFAST_URL)."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="console or json.")] = None,
) -> None:
    """The options before the noun; they are understood anywhere on the line."""
    from holdfast.kernel.cli import CommandLine, checked_address, fail
    from holdfast.kernel.errors import Invalid

    control_plane = control_plane or os.environ.get("HOLDFAST_URL") or None
    try:
        if control_plane:
            checked_address(control_plane, "--control-plane")
    except Invalid as error:
        fail(error)
    variables = [n for n in ("HOLDFAST_DATA_DIR", "VDB_DATA_DIR") if os.environ.get(n)]
    named = data_dir or Path(os.environ[variables[0]] if variables else "data")
    ctx.obj = CommandLine(
        data_dir=named,
        control_plane=control_plane,
        log_level=log_level or "",
        log_format=log_format or "",
        open_here=_open_here,
        data_dir_from="--data-dir" if data_dir else (variables or ["default"])[0],
        tls_of=_tls_of,
    )


def _open_here(line: CommandLine) -> AbstractAsyncContextManager[ApiClient]:
    from holdfast.app.compose import open_data_dir

    return open_data_dir(line)


def _tls_of(line: CommandLine) -> ClientTls | None:
    from holdfast.app.commands.config import settings_of
    from holdfast.app.tls import client_tls

    return client_tls(settings_of(line))


def hoist(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they are understood anywhere on the line."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, _ = argument.partition("=")
        if argument == "--":
            rest += [argument, *waiting]
        elif name in GLOBAL_OPTIONS:
            front += [argument] if equals else [argument, *_next(waiting)]
        else:
            rest.append(argument)
    return front + rest


def _next(waiting: Any) -> list[str]:
    following = next(waiting, None)
    return [] if following is None else [following]


def main() -> None:
    """Entry point of the ``holdfast`` command."""
    arguments = sys.argv[1:]
    if arguments in (["version"], ["--version"]):
        sys.stdout.write(f"holdfast {__version__}\n")
        return
    command = get_command(app)
    command.main(args=hoist(arguments), prog_name="holdfast")


if __name__ == "__main__":
    main()
