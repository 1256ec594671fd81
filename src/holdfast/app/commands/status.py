"""``holdfast status``, ``holdfast health`` and ``holdfast login``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from holdfast.kernel.cli import (
    command_line,
    print_fields,
    print_json,
    print_table,
    run,
    say,
    session,
    visible,
)
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.options import JsonOption

status = typer.Typer(add_completion=False)
health = typer.Typer(add_completion=False)
login = typer.Typer(add_completion=False)

HEALTH_SECONDS = 4.0


@status.command(
    help="What runs and what was collected. Exit status 1 when a source is silent, has changed its "
    "shape or failed in its last run, a service does not answer, or nothing runs at all; standard "
    "error says what.",
    epilog="Example: holdfast status --json",
)
def _status(ctx: typer.Context, json: JsonOption = False) -> None:
    line = command_line(ctx)

    async def body() -> Any:
        from holdfast.console.overview import Overview, at_rest

        # Asked before the session: that opens the directory itself when nothing runs.
        rests = line.control_plane is None and line.running() is None
        async with session(ctx) as api:
            found = await api.get("/v1/overview", type=Overview)
        return at_rest(found, str(line.data_dir)) if rests else found

    found = run(body)
    if json:
        print_json(found)
    else:
        _print_overview(found)
    if found.status != "ok":
        raise typer.Exit(1)


def _print_overview(found: Any) -> None:
    from holdfast.console.overview import nothing

    # No title of the table: that would be wrapped to its width.
    sys.stdout.write(f"Holdfast {found.version}: {found.status}\n")
    print_table(["service", "status"], [[line.name, line.status] for line in found.services])
    print_table(
        ["drone", "status", "at work"],
        [[line.name, line.status, line.leases] for line in found.workers],
        empty=nothing(found, "coordinator", "no drones"),
    )
    print_table(
        ["profile", "state", "records", "rejects", "published", "due next", "problem"],
        [
            [
                p.name,
                p.status,
                "not known" if p.records is None else f"{p.records:,}",
                p.rejects,
                _minute(p.published_at),
                _minute(p.due_at),
                p.problem,
            ]
            for p in found.profiles
        ],
        numeric=["records", "rejects"],
        spare=["problem", "due next"],
        wraps=["problem"],
        empty=nothing(found, "registry", "no profiles"),
    )
    if found.more_workers:
        say(f"and {found.more_workers:,} more drones: holdfast worker list")
    if found.more_profiles:
        say(f"and {found.more_profiles:,} more profiles: holdfast profile list")
    for problem in found.problems:
        say(f"! {visible(problem)}")
    if found.more_problems:
        say(f"! and {found.more_problems:,} more problems")


def _minute(instant: str) -> str:
    """``2026-11-27T11:17:56.640526Z`` as people read it; ``--json`` has the whole of it."""
    return instant[:16].replace("T", " ")


@health.command(
    help="Ask /health of the program on this data directory, or of --control-plane. For images "
    "without curl: exit status 0 when it answers ok or degraded (itself well, another role not); "
    "with --strict only when it is ok; 6 when nothing runs or answers.",
    epilog="Example: holdfast health --strict --json",
)
def _health(
    ctx: typer.Context,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when it is degraded: some role is not well.")
    ] = False,
    json: JsonOption = False,
) -> None:
    line = command_line(ctx)
    running = line.running()
    url = line.control_plane or (running.url if running else None)

    async def body() -> dict[str, Any]:
        import httpx
        import msgspec

        from holdfast.kernel.http.client import FAILURES, translate
        from holdfast.kernel.tls import failure_of

        if url is None:
            raise Unavailable(
                f"cannot ask /health: nothing runs on {line.data_dir}",
                hint="--data-dir names the directory of the program to ask, --control-plane its "
                "address; `holdfast up` starts one",
            )
        target = f"{url}/health"
        try:
            async with httpx.AsyncClient(
                timeout=HEALTH_SECONDS, trust_env=False, verify=line.verify_for(target)
            ) as client:
                answer = await client.get(target)
                found = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (*FAILURES, msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, FAILURES) and failure_of(error) is not None:
                raise translate(error, "GET", target) from error
            cut = target.startswith("http://") and isinstance(error, httpx.RemoteProtocolError)
            raise Unavailable(
                f"cannot ask {target}: {str(error) or type(error).__name__}",
                hint="if that door serves TLS, it hangs up on http://: write https://"
                if cut
                else "is it running? `holdfast doctor` looks closer",
            ) from error
        if answer.headers.get("content-type", "").startswith("application/problem+json"):
            why = found.get("detail") or found.get("title") or answer.status_code
            raise Unavailable(f"cannot ask {target}: {why}", hint=str(found.get("hint", "")))
        return found

    found = run(body)
    if json:
        print_json(found)
    else:
        services = found.pop("services", None) or {}
        print_fields(found)
        print_fields({f"  {name}": state for name, state in services.items()})
    well = ("ok", "healthy") if strict else ("ok", "healthy", "degraded")
    if found.get("status") not in well:
        raise typer.Exit(1)


@login.command(
    help="Print a link that signs a browser in. It works once, for five minutes.",
    epilog="Example: holdfast login",
)
def _login(ctx: typer.Context, json: JsonOption = False) -> None:
    line = command_line(ctx)
    running = line.running()
    url = line.control_plane or (running.url if running else None)

    async def body() -> Any:
        from holdfast.gateway.http import LoginLink

        if url is None:
            raise Unavailable(
                "cannot make a login link: nothing runs here", hint="start it with `holdfast up`"
            )
        async with session(ctx) as api:
            return await api.request("POST", "/v1/login/links", type=LoginLink)

    link = run(body)
    full = f"{link.origin or url}{link.path}"
    if json:
        print_json({"url": full, "seconds": link.seconds})
        return
    sys.stdout.write(f"{full}\n")
    say(f"works once, for {link.seconds // 60} minutes")
