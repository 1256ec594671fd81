"""``holdfast session``."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from holdfast.kernel.cli import print_json, print_list, print_table, run, say, say_more, session
from holdfast.kernel.errors import Denied, NotFound
from holdfast.kernel.ids import is_id
from holdfast.kernel.options import JsonOption, LimitOption

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Browsers signed in: list, end.")


@app.command(
    "list",
    help="Sessions, the newest first: everybody's, or one person's.",
    epilog="Example: holdfast session list",
)
def list_sessions(
    ctx: typer.Context,
    person: Annotated[str, typer.Option("--person", help="Only this person's.")] = "",
    limit: LimitOption = 100,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.people.client import PeopleClient
    from holdfast.identity.signin.client import SessionsClient
    from holdfast.identity.signin.model import SESSIONS

    async def body() -> None:
        names: dict[str, str] = {}
        async with session(ctx) as api:
            found, more = await SessionsClient(api).list_sessions(None, person=person, limit=limit)
            for subject in {each.subject for each in found if is_id(each.subject) and not json}:
                with suppress(Denied, NotFound):
                    names[subject] = (await PeopleClient(api).find_person(None, subject)).name
        if json:
            print_list(found, SESSIONS, more)
            return
        print_table(
            ("state", "who", "began", "seen", "until", "by", "from", "browser", "id"),
            [
                (
                    each.state,
                    names.get(each.subject) or each.subject,
                    each.began_at[:16],
                    each.seen_at[:16],
                    each.expires_at[:16],
                    each.credential.partition(":")[0],
                    each.address,
                    each.agent,
                    each.id,
                )
                for each in found
            ],
            empty="nobody is signed in: `holdfast login` prints a link",
            spare=("browser", "from", "began", "by", "until", "seen"),
            wraps=("browser",),
        )
        say_more(more, limit)

    run(body)


@app.command(
    "end",
    help="Sign a browser out, within five seconds at every door.",
    epilog="Example: holdfast session end 01a21cbb-894a-76f7-9f5f-41e756bbe4c4",
)
def end_session(
    ctx: typer.Context,
    identity: Annotated[str, typer.Argument(help="The session's id; see `session list`.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.signin.client import SessionsClient

    async def body() -> None:
        async with session(ctx) as api:
            ended = await SessionsClient(api).end(None, identity)
        if json:
            print_json(ended)
        else:
            say(f"the session of {ended.subject} is over")

    run(body)
