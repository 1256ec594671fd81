"""``holdfast access``: after a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.kernel.cli import (
    print_json,
    print_list,
    print_table,
    run,
    say,
    say_more,
    session,
)
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from holdfast.identity.access.model import Access, Way

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="After a restore who may enter is as it was at the backup: what was ended since is back. "
    "Until the operator confirms it nobody else is let in.",
)


@app.command(
    "review",
    help="Every key and person that would be let in, with what they may do. Whatever was ended "
    "since the backup, end it again: `access end`, or `apikey revoke`, `person roles`, …",
    epilog="Example: holdfast access review --json",
)
def review(ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False) -> None:
    from holdfast.identity.access.client import AccessClient
    from holdfast.identity.access.model import WAYS

    async def body() -> None:
        async with session(ctx) as api:
            client = AccessClient(api)
            access = await client.find(None)
            found, more = await client.ways(None, limit=limit)
        _tell(access)
        if json:
            print_list(found, WAYS, more)
            return
        print_table(
            ("tenant", "what", "name", "may", "limits", "by", "since", "last here", "id"),
            [
                (
                    way.tenant,
                    "key" if way.kind == "api-key" else "person",
                    way.name,
                    " ".join(way.roles or way.permissions),
                    " ".join([*way.profiles, *way.addresses]),
                    _by(way),
                    way.created_at[:10],
                    _last(way),
                    way.id,
                )
                for way in found
            ],
            empty="nobody would be let in but the operator",
            spare=["limits", "tenant", "since"],
            wraps=["may", "by"],
        )
        say_more(more, limit)
        say("drones and what admits them: `holdfast worker list`, `holdfast worker token-list`")

    run(body)


@app.command(
    "end",
    help="End a key, a person (disabled), a passkey or a linked account, by its id, in any tenant. "
    "What came of a key or a person ends with it.",
    epilog="Example: holdfast access end 01a21cbb-894a-76f7-9f5f-41e756bbe4c4 --tenant north",
)
def end(
    ctx: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `access review` shows it.")],
    tenant: Annotated[str, typer.Option("--tenant", help="Whose it is.")] = "default",
    json: JsonOption = False,
) -> None:
    from holdfast.identity.access.client import AccessClient
    from holdfast.identity.access.model import AccessEnd

    async def body() -> None:
        async with session(ctx) as api:
            found = await AccessClient(api).end(None, AccessEnd(id=identity, tenant=tenant))
        if json:
            print_json(found)
            return
        say(f"{found.kind.replace('-', ' ')} {found.id} of {found.tenant} lets nobody in any more")

    run(body)


@app.command(
    "confirm",
    help="Who may enter now is who should: keys and people are let in again. For the operator.",
    epilog="Example: holdfast access confirm",
)
def confirm(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Option("--tenant", help="Only this tenant's.")] = "",
    json: JsonOption = False,
) -> None:
    from holdfast.identity.access.client import AccessClient
    from holdfast.identity.access.model import AccessConfirm

    async def body() -> None:
        async with session(ctx) as api:
            found = await AccessClient(api).confirm(None, AccessConfirm(tenant=tenant))
        if json:
            print_json(found)
            return
        if found.confirmed:
            say("access is confirmed: keys and people are let in")
        _tell(found)

    run(body)


def _tell(access: Access) -> None:
    for each in access.unconfirmed:
        say(
            f"the access of {each.tenant} is as it was at the backup of {each.backed_up_at}, "
            "and not yet confirmed"
        )


def _by(way: Way) -> str:
    """What lets a person in; who made a key."""
    if way.kind == "api-key":
        return f"made by {way.created_by}"
    passkeys = [f"passkey {each.name or each.id}" for each in way.passkeys]
    return ", ".join([*passkeys, *(each.provider for each in way.accounts)]) or "nothing yet"


def _last(way: Way) -> str:
    if way.kind == "api-key":
        return "not known"
    return way.used_at[:10] or "never"
