"""``holdfast person`` and ``holdfast tenant``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from holdfast.identity.telling import tell_changing, tell_ending
from holdfast.kernel.cli import (
    command_line,
    fail,
    print_fields,
    print_json,
    print_list,
    print_table,
    run,
    say,
    say_more,
    session,
)
from holdfast.kernel.errors import Conflict, Invalid, NotFound
from holdfast.kernel.ids import is_id
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.people.model import NewInvitation, Person

person_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="People: invite, list, disable, bring back.",
    epilog="Example: holdfast person create-admin 'Ada Lovelace'",
)
tenant_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Tenants: make, list. For the operator."
)

NameArgument = Annotated[str, typer.Argument(help="What they are called.")]
EmailOption = Annotated[
    str,
    typer.Option("--email", help="Only an account with this verified address may come by OAuth."),
]
HoursOption = Annotated[
    int, typer.Option("--hours", min=1, max=720, help="How long the invitation holds.")
]
PersonArgument = Annotated[str, typer.Argument(help="The person's id, or their name.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would end.")]


@person_app.command(
    "create-admin",
    help="Invite the first administrator: prints a link, which works once.",
    epilog="Example: holdfast person create-admin 'Ada Lovelace' --email ada@example.org",
)
def create_admin(
    ctx: typer.Context,
    name: NameArgument,
    email: EmailOption = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose administrator.")] = "default",
    hours: HoursOption = 72,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.model import AdminCreate

    wanted = AdminCreate(name=name, email=email, tenant=tenant, hours=hours)
    _made(ctx, lambda people: people.create_admin(None, wanted), json)


@person_app.command(
    "invite",
    help="Invite somebody: prints a link, which works once. They may do no more than you.",
    epilog="Example: holdfast person invite 'Grace Hopper' --role operator",
)
def invite(
    ctx: typer.Context,
    name: NameArgument,
    email: EmailOption = "",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="See `role list`.", show_default="viewer")
    ] = None,
    hours: HoursOption = 72,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.model import PersonInvite

    wanted = PersonInvite(name=name, email=email, roles=role or ["viewer"], hours=hours)
    _made(ctx, lambda people: people.invite(None, wanted), json)


@person_app.command(
    "recover",
    help="A link by which somebody who lost their passkeys registers a new one. Links of theirs "
    "from before end; passkeys they still have go on, unless a device was stolen.",
    epilog="Example: holdfast person recover 01a21cbb-894a-76f7-9f5f-41e756bbe4c4 | "
    "holdfast person recover Grace --end-passkeys",
)
def recover(
    ctx: typer.Context,
    person: PersonArgument,
    end_passkeys: Annotated[
        bool,
        typer.Option(
            "--end-passkeys",
            help="A device was stolen: every passkey and session of theirs ends now.",
        ),
    ] = False,
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant",
            help="For the operator: of an administrator of this tenant, by the id.",
        ),
    ] = "",
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.model import PersonRecover

    how = PersonRecover(end_passkeys=end_passkeys, tenant=tenant)

    async def ask(people: PeopleClient) -> NewInvitation:
        # Names of another tenant are not looked up from here.
        return await people.recover(None, person if tenant else await _id_of(people, person), how)

    _made(ctx, ask, json)


@person_app.command(
    "list", help="People, the newest first.", epilog="Example: holdfast person list"
)
def list_people(ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.people.model import PEOPLE

    async def body() -> None:
        async with session(ctx) as api:
            found, more = await PeopleClient(api).list_people(None, limit=limit)
        if json:
            print_list(found, PEOPLE, more)
            return
        print_table(
            ("name", "email", "roles", "state", "since", "id"),
            [(p.name, p.email, " ".join(p.roles), p.state, p.created_at[:10], p.id) for p in found],
            spare=("since", "email", "roles"),
            empty="nobody yet: `holdfast person create-admin NAME` begins; who was invited and has "
            "not come is in `holdfast person invitations`",
        )
        say_more(more, limit)

    run(body)


@person_app.command(
    "show", help="One person.", epilog="Example: holdfast person show PERSON --json"
)
def show(ctx: typer.Context, person: PersonArgument, json: JsonOption = False) -> None:
    _changed(ctx, person, lambda people, found: people.find_person(None, found), json)


@person_app.command(
    "disable",
    help="Nobody signs in as this person any more; their sessions end, the keys they made, the "
    "keys those made, and invitations of theirs that are open. Whom they invited stays.",
    epilog="Examples: holdfast person disable 01a21cbb-894a-76f7-9f5f-41e756bbe4c4 | "
    "holdfast person disable Grace --dry-run",
)
def disable(
    ctx: typer.Context,
    person: PersonArgument,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    _ended(ctx, person, lambda people, found: people.disable(None, found), json, dry_run)


@person_app.command(
    "forget",
    help="Disable a person and take out, for ever, everything that says who they are.",
    epilog="Example: holdfast person forget 01a21cbb-894a-76f7-9f5f-41e756bbe4c4 --yes",
)
def forget(
    ctx: typer.Context,
    person: PersonArgument,
    yes: Annotated[bool, typer.Option("--yes", help="There is no way back.")] = False,
    json: JsonOption = False,
) -> None:
    if not yes:
        fail(
            Invalid(
                "cannot forget a person without --yes: there is no way back",
                hint="`holdfast person disable ID --dry-run` shows what would end with them",
            )
        )
    _ended(ctx, person, lambda people, found: people.forget(None, found), json)


@person_app.command(
    "enable",
    help="Let a person sign in again.",
    epilog="Example: holdfast person enable 01a21cbb-894a-76f7-9f5f-41e756bbe4c4",
)
def enable(ctx: typer.Context, person: PersonArgument, json: JsonOption = False) -> None:
    _changed(ctx, person, lambda people, found: people.enable(None, found), json)


@person_app.command(
    "roles",
    help="Give a person other roles. Keys, open invitations and join tokens of theirs that go "
    "beyond these end.",
    epilog="Examples: holdfast person roles PERSON --role operator --role auditor | "
    "holdfast person roles Grace --role viewer --dry-run",
)
def change_roles(
    ctx: typer.Context,
    person: PersonArgument,
    role: Annotated[list[str], typer.Option("--role", help="See `role list`; all of them.")],
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.people.model import RolesChange

    async def body() -> None:
        async with session(ctx) as api:
            people = PeopleClient(api)
            identity = await _id_of(people, person)
            if dry_run or not json:
                # Looked at before: once it is changed, the coordinator does not tell what it ended.
                would = await people.change_roles(
                    None, identity, RolesChange(roles=role, dry_run=True)
                )
                await tell_changing(api, identity, would.ended, would.lost, json, dry_run)
            if not dry_run:
                _show(await people.change_roles(None, identity, RolesChange(roles=role)), json)

    run(body)


@person_app.command(
    "passkeys",
    help="Somebody's passkeys, those that are over included.",
    epilog="Example: holdfast person passkeys Grace",
)
def list_passkeys(ctx: typer.Context, person: PersonArgument, json: JsonOption = False) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.signin.client import PasskeysClient

    async def body() -> None:
        async with session(ctx) as api:
            identity = await _id_of(PeopleClient(api), person)
            await PeopleClient(api).find_person(None, identity)
            found = await PasskeysClient(api).list_passkeys(None, person=identity)
        if json:
            print_list(found)
            return
        print_table(
            ("passkey", "state", "made", "used", "copied", "id"),
            [
                (
                    each.name,
                    "ended" if each.ended_at else "holds",
                    each.created_at[:16],
                    each.used_at[:16],
                    "yes" if each.backed_up else "no",
                    each.id,
                )
                for each in found
            ],
            spare=("copied", "made", "used"),
            empty=f"no passkeys: `holdfast person recover {identity}` is a link that makes one",
        )

    run(body)


@person_app.command(
    "accounts",
    help="The accounts elsewhere (GitHub, Google, any OpenID Connect provider) that sign somebody "
    "in.",
    epilog="Example: holdfast person accounts Grace",
)
def list_accounts(ctx: typer.Context, person: PersonArgument, json: JsonOption = False) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.signin.client import OAuthClient

    async def body() -> None:
        async with session(ctx) as api:
            identity = await _id_of(PeopleClient(api), person)
            await PeopleClient(api).find_person(None, identity)
            found = await OAuthClient(api).list_accounts(None, person=identity)
        if json:
            print_list(found)
            return
        print_table(
            ("provider", "issuer", "linked", "id"),
            [(each.provider, each.issuer, each.linked_at[:16], each.id) for each in found],
            spare=("linked", "provider"),
            empty="no linked accounts: one is linked by an invitation",
        )

    run(body)


@person_app.command(
    "unlink",
    help="Let an account elsewhere sign somebody in no more; the sessions that it began end.",
    epilog="Example: holdfast person unlink 01a21cbb-894a-76f7-9f5f-41e756bbe4c4",
)
def unlink(
    ctx: typer.Context,
    account: Annotated[str, typer.Argument(help="Its id; see `person accounts`.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.signin.client import OAuthClient

    async def body() -> None:
        async with session(ctx) as api:
            ended = await OAuthClient(api).unlink(None, account)
        if json:
            print_json(ended)
        else:
            say(f"the account at {ended.issuer} ({ended.id}) signs nobody in any more")

    run(body)


@person_app.command(
    "end-passkey",
    help="End somebody's passkey, and the sessions that it began, within five seconds at every "
    "door. Who lost all of theirs: `holdfast person recover --end-passkeys`.",
    epilog="Example: holdfast person end-passkey 01a21cbb-894a-76f7-9f5f-41e756bbe4c4",
)
def end_passkey(
    ctx: typer.Context,
    passkey: Annotated[str, typer.Argument(help="Its id; see `person passkeys`.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.signin.client import PasskeysClient

    async def body() -> None:
        async with session(ctx) as api:
            ended = await PasskeysClient(api).end(None, passkey)
        if json:
            print_json(ended)
        else:
            say(f"the passkey {ended.name} ({ended.id}) signs nobody in any more")

    run(body)


@person_app.command(
    "invitations",
    help="Invitations, the newest first; never a secret.",
    epilog="Example: holdfast person invitations",
)
def list_invitations(
    ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False
) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.people.model import INVITATIONS

    async def body() -> None:
        async with session(ctx) as api:
            found, more = await PeopleClient(api).list_invitations(None, limit=limit)
        if json:
            print_list(found, INVITATIONS, more)
            return
        print_table(
            ("for", "email", "roles", "state", "until", "id"),
            [(i.name, i.email, " ".join(i.roles), i.state, i.expires_at[:16], i.id) for i in found],
            spare=("email", "roles"),
            empty="no invitations yet: `holdfast person invite NAME` makes one",
        )
        say_more(more, limit)

    run(body)


@person_app.command(
    "uninvite",
    help="End an invitation that nobody has used.",
    epilog="Example: holdfast person uninvite 01a21cbb-894a-76f7-9f5f-41e756bbe4c4",
)
def revoke_invitation(
    ctx: typer.Context,
    invitation: Annotated[str, typer.Argument(help="Its id; see `person invitations`.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.client import PeopleClient

    async def body() -> None:
        async with session(ctx) as api:
            ended = await PeopleClient(api).revoke_invitation(None, invitation)
        if json:
            print_json(ended)
        else:
            say(f"the invitation of {ended.name} is {ended.state}")

    run(body)


@tenant_app.command(
    "create", help="Make a tenant.", epilog="Example: holdfast tenant create newsroom"
)
def create_tenant(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(help="Its name in every key; it never changes.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.people.model import TenantCreate

    async def body() -> None:
        async with session(ctx) as api:
            made = await PeopleClient(api).create_tenant(None, TenantCreate(id=tenant))
        if json:
            print_json(made)
            return
        say(f"the tenant {made.id} is there")
        say(f"next: holdfast person create-admin NAME --tenant {made.id}")

    run(body)


@tenant_app.command("list", help="Every tenant.", epilog="Example: holdfast tenant list --json")
def list_tenants(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.identity.people.client import PeopleClient

    async def body() -> None:
        async with session(ctx) as api:
            found = await PeopleClient(api).list_tenants(None)
        if json:
            print_list(found)
            return
        print_table(
            ("tenant", "since"),
            [
                # Those that every system has are of no day.
                (e.id, "the beginning" if e.created_at.startswith("1970-") else e.created_at[:10])
                for e in found
            ],
        )

    run(body)


def _with_a_name(url: str) -> str:
    """``url`` as a browser must open it: passkeys belong to a name, loopback addresses have one."""
    parts = urlsplit(url)
    if parts.hostname not in {"127.0.0.1", "::1"}:
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"localhost{port}").geturl()


def _made(
    ctx: typer.Context, ask: Callable[[PeopleClient], Awaitable[NewInvitation]], json: bool
) -> None:
    from holdfast.identity.people.client import PeopleClient

    line = command_line(ctx)
    running = line.running()
    url = _with_a_name(line.control_plane or (running.url if running else ""))

    async def body() -> None:
        async with session(ctx) as api:
            made = await ask(PeopleClient(api))
        # Whoever is invited may be elsewhere: where people sign in counts, not where we asked.
        link = f"{made.origin or url}{made.path}"
        if json:
            more = {
                "withdrawn": made.withdrawn,
                "passkeys_ended": made.passkeys_ended,
                "sessions_ended": made.sessions_ended,
            }
            shown = {"url": link, "invitation": made.invitation}
            print_json(shown | {name: value for name, value in more.items() if value})
            return
        sys.stdout.write(f"{link}\n")
        until = made.invitation.expires_at[:16].replace("T", " ")
        say(f"for {made.invitation.name} ({', '.join(made.invitation.roles)})")
        say(f"works once, until {until} UTC; this is the only time it is shown")
        for each in made.withdrawn:
            say(f"the earlier link of {each.name} does not work any more: only the newest does")
        if made.passkeys_ended or made.sessions_ended:
            say(f"ended: {made.passkeys_ended} of their passkeys, {made.sessions_ended} sessions")

    run(body)


async def _id_of(people: PeopleClient, person: str) -> str:
    """The id that was given, or that of the one person who is called so."""
    if is_id(person):
        return person
    alike, before = [], ""
    while True:
        page, more = await people.list_people(None, before=before, limit=1000)
        alike += [each for each in page if each.name == person]
        if more is None:
            break
        before = more
    if not alike:
        raise NotFound(
            f"cannot find a person with the id or the name {person}", code="person-not-found"
        )
    if len(alike) > 1:
        raise Conflict(
            f"cannot tell who {person} is: {len(alike)} people are called so",
            code="person-ambiguous",
            hint=f"name one by the id: {', '.join(each.id for each in alike)}",
        )
    return alike[0].id


def _changed(
    ctx: typer.Context,
    person: str,
    ask: Callable[[PeopleClient, str], Awaitable[Person]],
    json: bool,
) -> None:
    from holdfast.identity.people.client import PeopleClient

    async def body() -> None:
        async with session(ctx) as api:
            people = PeopleClient(api)
            found = await ask(people, await _id_of(people, person))
        _show(found, json)

    run(body)


def _ended(
    ctx: typer.Context,
    person: str,
    ask: Callable[[PeopleClient, str], Awaitable[Person]],
    json: bool,
    dry_run: bool = False,
) -> None:
    from holdfast.identity.people.client import PeopleClient

    async def body() -> None:
        async with session(ctx) as api:
            people = PeopleClient(api)
            identity = await _id_of(people, person)
            await people.find_person(None, identity)
            if await tell_ending(api, identity, json, dry_run):
                return
            _show(await ask(people, identity), json)

    run(body)


def _show(found: Person, json: bool) -> None:
    if json:
        print_json(found)
        return
    print_fields(
        {
            "name": found.name,
            "email": found.email,
            "roles": " ".join(found.roles),
            "state": found.state,
            "since": found.created_at,
            "id": found.id,
        }
    )
