"""``holdfast run``, ``holdfast reject`` and ``holdfast notice``: how it was collected."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    check_new,
    print_fields,
    print_json,
    print_table,
    run,
    say,
    session,
)
from holdfast.kernel.errors import HoldfastError, NotFound
from holdfast.kernel.failed_runs import failed_run
from holdfast.kernel.hints import BY_CODE
from holdfast.kernel.options import JsonOption, LimitOption
from holdfast.records.cli import (
    CursorOption,
    OutOption,
    ProfileOption,
    check_profile,
    client_of,
    say_cursor,
    write_checked,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.kernel.http.client import ApiClient
    from holdfast.records.model import RawResponse, RecordChange, Run, RunFilter

run_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="See what was collected, run by run."
)
reject_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Rows that failed typing, with the reason."
)
notice_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What somebody should be told about sources."
)

SinceOption = Annotated[str, typer.Option("--since", help="Not before this time (RFC 3339).")]
UntilOption = Annotated[str, typer.Option("--until", help="Before this time (RFC 3339).")]
RunArgument = Annotated[str, typer.Argument(help="The run's id.", show_default=False)]


# --- run ----------------------------------------------------------------------------------------


def _run_filter(
    profile: str = "", status: str = "", run_id: str = "", since: str = "", until: str = ""
) -> RunFilter:
    from holdfast.records.wire import run_filter

    return run_filter(profile=profile, status=status, run=run_id, since=since, until=until)


@run_app.command(
    "list",
    help="Runs, the last one opened first.",
    epilog="Example: holdfast run list --profile rain --status failed",
)
def list_runs(
    ctx: typer.Context,
    profile: ProfileOption = "",
    status: Annotated[
        str,
        typer.Option(
            "--status",
            help="running, interrupted, succeeded, unchanged, partial, failed or cancelled.",
        ),
    ] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    cursor: CursorOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        which = _run_filter(profile, status, "", since, until)
        async with session(ctx) as api:
            page = await client_of(api).runs(operator(), which, cursor=cursor, limit=limit)
            if profile and not page.items:
                await check_profile(api, profile)
            again = {} if json else await _retries(api, page.items)
        if json:
            print_json(page)
            return
        print_table(
            ["run", "profile", "status", "replayed", "started", *_COUNTS, "reason"],
            [
                [
                    one.id,
                    one.profile,
                    one.status.value,
                    "yes" if one.replayed else "",
                    one.started_at[:19],
                    *_counted(one, _COUNTS).values(),
                    _cut(again.get(one.id, "")) or _reason(one),
                ]
                for one in page.items
            ],
            numeric=_COUNTS,
            spare=["replayed", "started", "records", *_COUNTS[3:0:-1], "reason", "rejects"],
            wraps=["reason"],
            empty="no such runs"
            if status or since or until
            else f"no runs yet: `holdfast profile run {profile or 'NAME'}` starts one",
        )
        say_cursor(page.next)

    run(body)


_COUNTS = ("records", "new", "changed", "withdrawn", "rejects")
_RARE = ("unasked", "kept", "withheld")
"""Counts that are told where there is something to count."""
_CHANGES = frozenset({"new", "changed", "unchanged", "withdrawn"})


def _counted(one: Run, names: Iterable[str]) -> dict[str, str]:
    """What a run came to, in numbers. One that published nothing changed nothing, whatever it had
    found until then."""
    in_vain = one.status.value in ("failed", "cancelled")
    found = {
        name: "" if in_vain and name in _CHANGES else f"{getattr(one, name):,}" for name in names
    }
    if one.status.value == "unchanged" and "records" in found:
        found["records"] = "as before"  # the source said so, and sent none again
    return found


_CLOSING_POLL_SECONDS = 0.2
_CLOSING_POLLS = 50


async def show_ended(api: ApiClient, run_id: str, quiet: bool) -> HoldfastError | None:
    """Print what a run came to; why it failed, with what to do next, if it did.

    Its task has ended. Where no attempt has ended the run as well, the coordinator does so a moment
    later, which is waited for.
    ``None`` also for a run that nobody has opened, of which there is nothing to say.
    """
    from holdfast.kernel.principal import operator

    try:
        found = await client_of(api).run(operator(), run_id)
        for _ in range(_CLOSING_POLLS):
            if found.status.value not in ("running", "interrupted"):
                break
            await asyncio.sleep(_CLOSING_POLL_SECONDS)
            found = await client_of(api).run(operator(), run_id)
    except NotFound:
        return None
    if not quiet:
        print_fields(
            {
                "run": found.id,
                "profile": found.profile,
                "state": found.status.value + (" (replayed)" if found.replayed else ""),
                **{name: count for name, count in _counted(found, _COUNTS).items() if count},
                **({"reason": _whole_reason(found)} if found.reason or found.code else {}),
            }
        )
        for line in remarks(found):
            say(f"note: {line}")
    if found.status.value not in ("failed", "cancelled"):
        return None
    return failed_run(
        f"the run of {found.profile} {found.status.value}: {found.reason or found.code}",
        code=found.code,
        hint=after_failure(found),
    )


def after_failure(run: Run) -> str:
    """What to try after a run that came to nothing."""
    show = f"`holdfast run show {run.id}`"
    if run.code in ("schema-drift", "shrunk"):
        return (
            f"{show} says what changed; if it is to be like this from now on: "
            f"`holdfast run accept {run.id}`"
        )
    if run.rejects and run.code != "duplicate-keys":
        return f"`holdfast reject list --profile {run.profile}` shows the rows and why"
    if run.code in ("parse", "mapping") and run.pages:
        return (
            f"{BY_CODE.get(run.code, 'see what the source sent')}; `holdfast run raw {run.id}` "
            "prints what came"
        )
    if run.code in BY_CODE:
        return f"{BY_CODE[run.code]}; {show} shows what came"
    return f"{show} shows what came; `holdfast profile preview FILE` tries a changed profile"


def remarks(found: Run) -> list[str]:
    """What somebody who started a run should hear although it was published."""
    from holdfast.records.listing import WITHHELD_HINT

    rejects = f"`holdfast reject list --profile {found.profile}`"
    withheld = (
        f"nothing is withdrawn, though known records did not come ({found.withheld:,}): of "
        f"some rejected rows nobody can tell which records they are; {rejects} marks them; "
        f"{WITHHELD_HINT}"
    )
    if found.status.value == "unchanged" and found.withheld:
        return [withheld]
    if found.status.value != "succeeded":
        return []
    said = [f"{one.field} {one.detail}" for one in found.drift[:5]]
    if len(found.drift) > 5:
        said.append(f"{len(found.drift) - 5} more changes of shape: `holdfast run show {found.id}`")
    if found.kept:
        many = (
            "1 record stays what it was: its row was"
            if found.kept == 1
            else (f"{found.kept:,} records stay what they were: their rows were")
        )
        said.append(f"{many} rejected; `holdfast reject list --run {found.id}`")
    if found.withheld:
        said.append(withheld)
    if found.withdrawn > max(found.records, _MANY_WITHDRAWN):
        said.append(
            f"{found.withdrawn:,} records are withdrawn, more than came: "
            f"`holdfast run diff {found.id}` shows them"
        )
    return said


_MANY_WITHDRAWN = 20
_REASON_SHOWN = 80


def _whole_reason(one: Run) -> str:
    return f"{one.code}: {one.reason}" if one.reason else one.code


async def _retries(api: ApiClient, runs: Iterable[Run]) -> dict[str, str]:
    """Of those that are under way, when and why they are tried again: where one may see it."""
    if not any(one.status.value in ("running", "interrupted") for one in runs):
        return {}
    from holdfast.fleet.client import FleetClient
    from holdfast.fleet.retrying import retries
    from holdfast.kernel.principal import operator

    try:
        return await retries(FleetClient(api), operator())
    except HoldfastError:
        return {}  # each run says itself why it waits


def _reason(one: Run) -> str:
    return _cut(_whole_reason(one))


def _cut(whole: str) -> str:
    """As a line of a list: cut where it is long, and visibly so."""
    return whole if len(whole) <= _REASON_SHOWN else f"{whole[: _REASON_SHOWN - 1]}…"


@run_app.command(
    "show",
    help="One run: what it brought, what became of it, and the raw responses it kept.",
    epilog="Example: holdfast run show 019b… --json",
)
def show_run(ctx: typer.Context, run_id: RunArgument, json: JsonOption = False) -> None:
    async def body() -> None:
        from msgspec import to_builtins

        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            client = client_of(api)
            found = await client.run(operator(), run_id)
            responses = await client.responses(operator(), run_id)
            again = {} if json else await _retries(api, [found])
        if json:
            print_json({"run": found, "responses": responses})
            return
        plain = to_builtins(found)
        plain |= {name: count for name, count in _counted(found, _CHANGES).items() if not count}
        rare = {name for name in _RARE if not plain[name]} | {"drift"}
        plain |= {"tried again": again[run_id]} if run_id in again else {}
        print_fields({n: v for n, v in plain.items() if v not in ("", None) and n not in rare})
        for line in remarks(found):
            say(f"note: {line}")
        if found.drift:
            print_table(
                ["field", "what", "breaking", "detail"],
                [[d.field, d.kind, "yes" if d.breaking else "", d.detail] for d in found.drift],
                title="changes of shape",
            )
        print_table(
            ["response", "status", "bytes", "fetched", "digest", "address"],
            [
                [
                    one.response.sequence,
                    f"{one.response.status}{', cut' if one.response.cut else ''}",
                    one.response.size_bytes,
                    one.response.fetched_at[:19],
                    one.response.digest[:19],
                    _address(one.response),
                ]
                for one in responses
            ],
            title="raw responses",
            numeric=["bytes"],
            empty="no raw responses",
        )

    run(body)


def _address(response: RawResponse) -> str:
    """What was asked for, and what answered in the end where that is another address."""
    return f"{response.url} → {response.final_url}" if response.final_url else response.url


@run_app.command(
    "raw",
    help="The bytes of one raw response of a run, as the source sent them, whatever came of the "
    "run; their digest is checked on the way. `run show` lists the responses.",
    epilog="Example: holdfast run raw 019b… --out page.html",
)
def run_raw(
    ctx: typer.Context,
    run_id: RunArgument,
    response: Annotated[int, typer.Option("--response", min=0, help="Its number.")] = 0,
    out: OutOption = None,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        check_new(out)
        async with session(ctx, timeout_seconds=600) as api:
            stored = await client_of(api).response_body(operator(), run_id, response)
            # Closed here, while the connection is: what is left open ends in a traceback.
            chunks: Any = stored.chunks
            async with contextlib.aclosing(chunks):
                size, digest = await write_checked(chunks, out, stored.stored.response.digest)
        rest = "; the rest of the answer was not taken" if stored.stored.response.cut else ""
        say(f"{size} bytes, {digest}{rest}")

    run(body)


@run_app.command(
    "diff",
    help="What a run changed (new, changed with old and new values, withdrawn), or what changed "
    "from the run A to the run B. Of a partial or a dry run: what it would have changed. Of a "
    "failed run nothing is kept that could be compared.",
    epilog="Example: holdfast run diff 019b… 019c… --json",
)
def diff_runs(
    ctx: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="A run's id.", show_default=False)],
    second: Annotated[
        str, typer.Argument(metavar="[B]", help="A later run of the same profile.")
    ] = "",
    cursor: CursorOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        newer, base = (second, first) if second else (first, "")
        async with session(ctx) as api:
            found = await client_of(api).run_diff(
                operator(), newer, base=base, cursor=cursor, limit=limit
            )
        if json:
            print_json(found)
            return
        print_diff(found.items)
        would = "would be " if found.hidden else ""
        say(f"{would}{found.new} new, {found.changed} changed, {found.withdrawn} withdrawn")
        say_cursor(found.next)

    run(body)


def print_diff(changes: Sequence[RecordChange]) -> None:
    """A line for each field that differs; a new or withdrawn record has one line."""
    lines: list[list[Any]] = []
    for change in changes:
        record = change.record
        about = [change.kind, record.id, ", ".join(map(str, record.key))]
        if change.kind == "changed":
            lines += [[*about, one.field, one.old, one.new] for one in change.fields]
        else:
            lines.append([*about, "", "", ""])
    print_table(["what", "record", "key", "field", "old", "new"], lines, empty="no differences")


@run_app.command(
    "accept",
    help="Say that a source is to look from now on as this run saw it: the next run with the same "
    "shape is published. For runs that failed as schema-drift or shrunk.",
    epilog="Example: holdfast run accept 019b…",
)
def accept_run(ctx: typer.Context, run_id: RunArgument, json: JsonOption = False) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            found = await client_of(api).accept_drift(operator(), run_id)
        if json:
            print_json(found)
        else:
            say(f"accepted: the next run of {found.profile} may look like {run_id}")

    run(body)


# --- reject -------------------------------------------------------------------------------------


@reject_app.callback()
def rejects() -> None:
    """Keeps ``list`` a command of its own while there is no other."""


@reject_app.command(
    "list",
    help="Rows that failed typing: where, which field, why, and how the row began.",
    epilog="Example: holdfast reject list --profile rain",
)
def list_rejects(
    ctx: typer.Context,
    profile: ProfileOption = "",
    run_id: Annotated[str, typer.Option("--run", help="Of this run only.")] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    cursor: CursorOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        which = _run_filter(profile, "", run_id, since, until)
        async with session(ctx) as api:
            client = client_of(api)
            page = await client.rejects(operator(), which, cursor=cursor, limit=limit)
            if run_id and not page.items:
                await client.run(operator(), run_id)
            if profile and not page.items:
                await check_profile(api, profile)
        if json:
            print_json(page)
            return
        print_table(
            ["profile", "response", "position", "field", "record", "reason", "row"],
            [
                [
                    one.profile,
                    one.response,
                    one.position,
                    one.field,
                    "nobody can tell" if one.unkeyed else "",
                    one.reason,
                    one.excerpt[:60],
                ]
                for one in page.items
            ],
            numeric=["response", "position"],
            spare=["row", "profile", "record"],
            empty="no rejects",
        )
        say_cursor(page.next)

    run(body)


# --- notice -------------------------------------------------------------------------------------


@notice_app.callback()
def notices() -> None:
    """Keeps ``list`` a command of its own while there is no other."""


@notice_app.command(
    "list",
    help="What somebody should be told about sources (failed runs, changed shapes, silence), and "
    "whether the webhook was.",
    epilog="Example: holdfast notice list --profile rain --json",
)
def list_notices(
    ctx: typer.Context,
    profile: ProfileOption = "",
    cursor: CursorOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    from holdfast.records.listing import notice_text

    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            page = await client_of(api).notices(
                operator(), profile=profile, cursor=cursor, limit=limit
            )
            if profile and not page.items:
                await check_profile(api, profile)
        if json:
            print_json(page)
            return
        print_table(
            ["at", "what", "profile", "says", "run", "webhook", "problem"],
            [
                [
                    one.at[:19],
                    one.type,
                    one.profile,
                    notice_text(one)[:200],
                    one.run,
                    "told" if one.delivered_at else ("due" if one.due_at else ""),
                    one.problem[:60],
                ]
                for one in page.items
            ],
            spare=["run", "problem", "webhook"],
            wraps=["says", "problem"],
            empty="no notices",
        )
        say_cursor(page.next)

    run(body)
