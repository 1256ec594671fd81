"""``holdfast key``: the keys, and the people whose data they seal.

``key export`` and ``key import`` work on files of the data directory and are registered by ``app``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.kernel.cli import (
    print_fields,
    print_json,
    print_table,
    progress,
    run,
    say,
    session,
)
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.keyring.client import KeysClient
    from holdfast.keyring.model import Erased, Placed, Restriction, Rewrapped, Subjects, SubjectsIn

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Keys: list, rotate, check, export; erase."
)

SubjectArgument = Annotated[
    str,
    typer.Argument(
        help="The name to the letter, as the source writes it or as an append said whom it is "
        "about; - reads it from standard input."
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the evidence.")]


@app.callback()
def _group() -> None:
    """The keys of everything that is sealed."""


@app.command("list", help="How many keys, of what kind.", epilog="Example: holdfast key list")
def list_keys(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.keyring.client import KeysClient

    async def body() -> None:
        async with session(ctx) as api:
            found = await KeysClient(api).describe()
        if json:
            print_json(found)
            return
        print_fields(
            {
                "keyring": found.keyring,
                "master key": ", ".join(
                    f"version {each.version}{' (current)' if each.current else ''}, "
                    f"wraps {each.wraps}"
                    for each in found.masters
                ),
                "erased": found.erased_subjects,
                "held": found.held_subjects,
            }
        )
        print_table(
            ["tenant", "kind", "purpose", "keys", "version", "wrapped by version"],
            [
                [k.tenant, k.kind, k.purpose, k.keys, k.version, k.wrapped_by_version]
                for k in found.keys
            ],
            numeric=["keys", "version", "wrapped by version"],
            empty="no keys yet",
        )

    run(body)


@app.command(
    "rotate",
    help="New keys from now on; then wraps the old ones anew.",
    epilog="Example: holdfast key rotate --master",
)
def rotate(
    ctx: typer.Context,
    master: Annotated[bool, typer.Option("--master", help="The master key itself.")] = False,
    json: JsonOption = False,
) -> None:
    from holdfast.keyring.client import KeysClient

    async def body() -> None:
        async with session(ctx) as api:
            client = KeysClient(api)
            made = await client.rotate(master=master)
            say(f"version {made.version} of the {made.what} key is in use")
            last = await _rewrap(client, made.pending)
        if master:
            say("keep a copy of the new master key: holdfast key export --out FILE")
        if json:
            print_json({"rotation": made, "rewrapped": last})

    run(body)


@app.command(
    "rewrap",
    help="Go on wrapping old keys anew, after a rotation that was interrupted.",
    epilog="Example: holdfast key rewrap",
)
def rewrap(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.keyring.client import KeysClient

    async def body() -> None:
        async with session(ctx) as api:
            last = await _rewrap(KeysClient(api), None)
        if json:
            print_json(last)

    run(body)


async def _rewrap(client: KeysClient, pending: int | None) -> Rewrapped:
    """Rewrap until nothing is pending, with a bar; what all steps came to."""
    from holdfast.keyring.model import Rewrapped

    done = retired = 0
    with progress("wrapping keys anew", total=pending) as show:
        while True:
            step = await client.rewrap()
            done, retired = done + step.done, retired + step.retired
            show(done, done + step.pending)
            if not step.pending:
                break
            if not step.done:
                raise Corrupt("cannot rewrap: keys are pending and none can be wrapped")
    say(f"{done} keys wrapped anew, {retired} old ones retired")
    return Rewrapped(done=done, pending=0, retired=retired)


@app.command(
    "check",
    help="Open every wrapped key; name those that do not open.",
    epilog="Example: holdfast key check && echo sound",
)
def check(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.keyring.client import KeysClient

    async def body() -> None:
        async with session(ctx, timeout_seconds=600) as api:
            found = await KeysClient(api).check()
        if json:
            print_json(found)
        else:
            say(f"{found.keys} keys checked, {len(found.damaged)} damaged")
        if found.damaged:
            raise Corrupt(
                f"cannot open {len(found.damaged)} keys: {', '.join(found.damaged[:5])}",
                code="keyring-damaged",
                hint="holdfast backup restore puts the last copy of the keyring back",
            )

    run(body)


# --- subjects -----------------------------------------------------------------------------------


def register_subjects(noun: typer.Typer, name: str) -> None:
    """The commands about people, below ``key`` and ``ledger`` alike."""
    example = f"Example: holdfast {name}"
    noun.command(
        "erase",
        help="Destroy a subject's keys and every copy of what was sealed under them: the personal "
        "fields of records whose profile names a `subject`, with the raw responses they came from, "
        "and the payloads of events appended with --about. The payload of an event that does not "
        "say whom it is about is not touched. There is no way back.",
        epilog=f"{example} erase jane@example.org --reason 'her request of 2026-11-01'",
    )(erase)
    noun.command(
        "hold",
        help="Place a legal hold: the subject cannot be erased until it is released.",
        epilog=f"{example} hold jane@example.org --reason 'case 12/2026'",
    )(hold)
    noun.command(
        "release",
        help="Release the legal hold on a subject.",
        epilog=f"{example} release jane@example.org --reason 'case closed'",
    )(release)
    noun.command(
        "retain",
        help="Keep a subject's data until a time; it can be moved on, never back.",
        epilog=f"{example} retain jane@example.org --until 2030-01-01T00:00:00Z --reason 'tax law'",
    )(retain)


def erase(
    ctx: typer.Context,
    subject: SubjectArgument,
    reason: ReasonOption,
    even_unknown: Annotated[
        bool,
        typer.Option(
            "--even-unknown",
            help="Also a name nobody ever heard of: whatever comes in under it later is dropped.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    from holdfast.keyring.client import SubjectsClient
    from holdfast.keyring.model import EraseRequest

    async def body() -> None:
        wanted = EraseRequest(subject=_subject(subject), reason=reason, even_unknown=even_unknown)
        async with session(ctx, timeout_seconds=600) as api:
            found = await SubjectsClient(api).erase(None, wanted)
        if json:
            print_json(found)
            return
        _print_erased(found)
        if found.state != "done":
            say(
                "no key is left; raw responses and other copies go when the role that has them "
                "looks for what others erased: in seconds, while it runs"
            )
            return
        if found.repeated:
            say(f"erased before, on {found.requested_at}: nothing was left to be destroyed")
            return
        if not found.keys:
            say("there was no key to destroy: what comes in under this name is dropped from now on")
            return
        say(
            "unreadable here from now on; copies of the keyring made before may hold the key "
            f"until {found.unrecoverable_by}"
        )

    run(body)


def _print_erased(found: Erased) -> None:
    if found.keyrings:
        print_table(
            ["keyring of", "subject", "state", "keys destroyed", "requested at"],
            [
                [", ".join(part.roles), each.subject, each.state, each.keys, each.requested_at]
                for part in found.keyrings
                for each in [part.erasure]
            ],
            numeric=["keys destroyed"],
        )
        return
    print_fields(
        {
            "subject": found.subject,
            "state": found.state,
            "keys destroyed": found.keys,
            "requested at": found.requested_at,
            "unrecoverable by": found.unrecoverable_by,
        }
    )


def hold(
    ctx: typer.Context, subject: SubjectArgument, reason: ReasonOption, json: JsonOption = False
) -> None:
    from holdfast.keyring.client import SubjectsClient
    from holdfast.keyring.model import SubjectRequest

    async def body() -> None:
        wanted = SubjectRequest(subject=_subject(subject), reason=reason)
        async with session(ctx) as api:
            _print_placed(await SubjectsClient(api).hold(None, wanted), json=json)

    run(body)


def release(
    ctx: typer.Context, subject: SubjectArgument, reason: ReasonOption, json: JsonOption = False
) -> None:
    from holdfast.keyring.client import SubjectsClient
    from holdfast.keyring.model import SubjectRequest

    async def body() -> None:
        wanted = SubjectRequest(subject=_subject(subject), reason=reason)
        async with session(ctx) as api:
            left = await SubjectsClient(api).release(None, wanted)
        say("released: no legal hold is on it now; what is on record of others:")
        _print_subjects(left, json=json)

    run(body)


def retain(
    ctx: typer.Context,
    subject: SubjectArgument,
    until: Annotated[str, typer.Option("--until", help="A time (RFC 3339).")],
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    from holdfast.keyring.client import SubjectsClient
    from holdfast.keyring.model import RetainRequest

    async def body() -> None:
        wanted = RetainRequest(subject=_subject(subject), reason=reason, until=until)
        async with session(ctx) as api:
            _print_placed(await SubjectsClient(api).retain(None, wanted), json=json)

    run(body)


@app.command(
    "subjects",
    help="Holds, retentions and erasures, by keyed names.",
    epilog="Example: holdfast key subjects --json",
)
def subjects(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.keyring.client import SubjectsClient

    async def body() -> None:
        async with session(ctx) as api:
            _print_subjects(await SubjectsClient(api).list(), json=json)

    run(body)


def _subject(given: str) -> str:
    text = sys.stdin.readline().rstrip("\n") if given == "-" else given
    if not text or len(text) > 500:
        raise Invalid("cannot name the subject: 1 to 500 characters are needed")
    return text


def _print_placed(found: Placed, *, json: bool) -> None:
    """What was placed; and, for a script as well, what it may have been meant for."""
    what = "hold" if found.kind == "hold" else "retention"
    if json:
        print_json(found)
    elif found.keyrings:
        print_table(
            ["keyring of", "subject", "kind", "until", "reason", "placed at"],
            [
                [", ".join(part.roles), r.subject, r.kind, _end(r), r.reason, r.placed_at]
                for part in found.keyrings
                for r in [part.restriction]
            ],
        )
    else:
        print_fields(
            {
                "subject": found.subject,
                "kind": found.kind,
                "until": _end(found),
                "reason": found.reason,
                "placed at": found.placed_at,
            }
        )
    if found.erased_at:
        say(f"erased on {found.erased_at}: nothing is left for the {what} to keep")
    elif not found.known:
        say(
            f"nobody of that name is known here: the {what} waits for them; a name is taken to the "
            "letter, so look whether it is written as the source or the append has it"
        )


def _end(found: Restriction) -> str:
    return found.until or "it is released"


def _print_subjects(found: Subjects, *, json: bool) -> None:
    if json:
        print_json(found)
        return
    several = bool(found.keyrings)
    parts: list[tuple[str, Subjects | SubjectsIn]] = [("", found)]
    if several:
        parts = [(", ".join(each.roles), each) for each in found.keyrings]
    rows = []
    for roles, part in parts:
        first = [roles] if several else []
        rows += [
            [*first, r.subject, r.kind, r.placed_at, r.until, r.reason] for r in part.restrictions
        ]
        rows += [
            [*first, e.subject, f"erased ({e.state})", e.requested_at, e.unrecoverable_by, e.reason]
            for e in part.erasures
        ]
    columns = ["subject", "what", "since", "until", "reason"]
    print_table(["keyring of", *columns] if several else columns, rows, empty="none")


register_subjects(app, "key")
