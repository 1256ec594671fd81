"""``holdfast whoami``: who the credential of a command speaks for, and what limits it."""

from __future__ import annotations

import sys
from typing import Any

import typer

from holdfast.kernel.cli import print_json, run, session, visible
from holdfast.kernel.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(
    help="Who commands act as here, what they may do, and what limits them: the operator, by the "
    "token in the data directory, or whoever's key is in the file that "
    "HOLDFAST_OPERATOR_TOKEN_FILE names.",
    epilog="Example: HOLDFAST_OPERATOR_TOKEN_FILE=nightly.key holdfast whoami",
)
def whoami(ctx: typer.Context, json: JsonOption = False) -> None:
    """Ask the door."""

    async def body() -> dict[str, Any]:
        async with session(ctx) as api:
            found: dict[str, Any] = await api.get("/v1/whoami", type=dict[str, Any])
            return found

    found = run(body)
    if json:
        print_json(found)
        return
    named = "" if found["kind"] == found["subject"] else f" {found['subject']}"
    lines = [
        ("who", f"{found['kind']}{named}, of the tenant {found['tenant']}"),
        ("may", ", ".join(name for name in found["permissions"] if ":" in name)),
        ("profiles", ", ".join(found.get("profiles", [])) or "all"),
        ("from", ", ".join(found.get("addresses", [])) or "any address"),
        ("until", found.get("expires_at", "")[:19].replace("T", " ")),
    ]
    for name, told in lines:
        if told:
            sys.stdout.write(f"{name:<10}{visible(told)}\n")
