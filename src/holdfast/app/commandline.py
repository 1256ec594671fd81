"""The command line: the options before the noun, and the nouns, each loaded when used.

Nothing is imported here that the named command does not need. ``app.main`` comes first and reads
the lines of programs that stay by itself.
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("holdfast.app.commands.up:app", "Run every role on this machine."),
    "serve": ("holdfast.app.commands.serve:app", "Run the named roles."),
    "drone": ("holdfast.app.commands.drone:app", "Run drones that collect for a control plane."),
    "profile": ("holdfast.app.commands.profile:app", "Describe sources: validate, publish, run."),
    "run": ("holdfast.app.commands.run:app", "See what was collected, run by run."),
    "record": ("holdfast.records.cli:record_app", "Read and export what is kept."),
    "reject": ("holdfast.records.run_cli:reject_app", "Rows that failed typing, with the reason."),
    "notice": ("holdfast.records.run_cli:notice_app", "What to be told about sources."),
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
    "access": (
        "holdfast.identity.access.cli:app",
        "After a restore: see who would be let in, confirm.",
    ),
    "person": ("holdfast.identity.people.cli:person_app", "People: invite, list, disable."),
    "session": ("holdfast.identity.signin.cli:app", "Browsers signed in: list, end."),
    "tenant": ("holdfast.identity.people.cli:tenant_app", "Tenants: make, list."),
    "audit": ("holdfast.app.commands.audit:app", "Who did what, and who was turned away."),
    "whoami": ("holdfast.app.commands.whoami:app", "Who a command acts as, and what limits it."),
    "role": ("holdfast.identity.cli:role_app", "Roles and what they allow."),
    "pki": ("holdfast.identity.cli:pki_app", "Certificates of your own: make, list, renew."),
    "config": ("holdfast.app.commands.config:app", "Settings with their values and origins."),
    "version": ("holdfast.app.commands.version:app", "Print the version."),
}

LISTING = "holdfast.listing"


class LazyGroup(TyperGroup):
    """Knows every noun and its one line of help; imports a noun's module when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta[LISTING] = True
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing or ctx.meta.get(LISTING):
            return _signpost(cmd_name)
        from holdfast.kernel.cli import note_noun
        from holdfast.kernel.interrupts import loaded

        note_noun(cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = get_command(getattr(importlib.import_module(module), attribute))
        loaded()  # what a command does may want to be put right
        command.name = cmd_name
        if not command.epilog and isinstance(command, TyperGroup):
            examples = (verb.epilog for verb in command.commands.values() if not verb.hidden)
            command.epilog = next(filter(None, examples), None)
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
        Path | None,
        typer.Option("--data-dir", help="Where everything is kept.", show_default="./data"),
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
    from holdfast.app.line import line_of
    from holdfast.kernel.cli import fail
    from holdfast.kernel.errors import Invalid

    try:
        ctx.obj = line_of(data_dir, control_plane, log_level, log_format)
    except Invalid as error:
        fail(error)


def main(arguments: list[str]) -> None:
    """Run the command that ``arguments`` name, global options first; does not return."""
    from holdfast.kernel.cli import note_json

    note_json("--json" in arguments)
    command = get_command(app)
    command.main(args=arguments, prog_name="holdfast")
