"""``holdfast worker`` and ``holdfast task``; ``profile run`` and ``run cancel`` by registration."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    command_line,
    print_fields,
    print_json,
    print_list,
    print_table,
    run,
    say,
    say_more,
    session,
    whole_file,
)
from holdfast.kernel.errors import HoldfastError, Invalid, NotFound, Unavailable
from holdfast.kernel.failed_runs import failed_run
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from holdfast.fleet.client import FleetClient
    from holdfast.fleet.model import JoinTokenInfo, Task, Worker
    from holdfast.kernel.http.client import ApiClient

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9.]{2,9}Z)?")
worker_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The drones: list, admit, revoke."
)
task_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The work: list, show, submit, cancel."
)

TaskArgument = Annotated[str, typer.Argument(help="The task's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="For the record.")]

Ended = Callable[[Any, str, bool], Awaitable[HoldfastError | None]]
"""Shows a run that has ended (and not with the last argument): why it failed, if it did."""

WAIT_POLL_SECONDS = 0.5
TROUBLE_POLLS = 10
"""After so many looks at which nothing changed, the system is asked how it is."""
FINAL = ("succeeded", "dead", "cancelled")
_DURATION = re.compile(r"[0-9]{1,6}(ms|s|m|h|d|w)")


# --- workers -------------------------------------------------------------------------------------


@worker_app.command("list", help="Workers by name.", epilog="Example: holdfast worker list --json")
def list_workers(ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False) -> None:
    from holdfast.fleet.model import WORKERS

    async def body() -> None:
        async with session(ctx) as api:
            found, more = await _client(api).list_workers(None, limit=limit)
        if json:
            print_list(found, WORKERS, more)
            return
        now = datetime.now(UTC)
        print_table(
            ("name", "status", "region", "capabilities", "leases", "last beat", "version", "id"),
            [
                (
                    each.name,
                    each.status.value,
                    each.region,
                    " ".join(each.capabilities),
                    each.leases,
                    _ago(each.last_beat_at, now),
                    each.version,
                    each.id,
                )
                for each in found
            ],
            numeric=("leases",),
            spare=("version", "region", "capabilities"),
            empty="no workers yet: `holdfast worker token` admits one",
        )
        say_more(more, limit)

    run(body)


@worker_app.command(
    "token",
    help="Make a join token and print it, or write it to a file. It is shown once.",
    epilog="Example: holdfast worker token --region eu --expires 7d --out join-token",
)
def create_token(
    ctx: typer.Context,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            "--capability", help="What its workers may do; repeatable.", show_default="collect"
        ),
    ] = None,
    region: Annotated[str, typer.Option("--region", help="Where its workers are.")] = "",
    expires: Annotated[str, typer.Option("--expires", help="How long it admits: 1h, 7d.")] = "1d",
    uses: Annotated[
        int | None,
        typer.Option(
            "--uses", min=1, help="How many workers it admits.", show_default="any number"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A new file (mode 0600) for it, instead of printing it."),
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.fleet.model import JoinTokenCreate

        if out is not None and json:
            raise Invalid("cannot print JSON and write the token to a file: choose one")

        create = JoinTokenCreate(
            capabilities=capability or ["collect"],
            region=region,
            expires_seconds=_seconds(expires),
            uses_max=uses,
        )
        with _private(out) as write:
            async with session(ctx) as api:
                token = await _client(api).worker_token_create(None, create)
            if json:
                print_json(token)
                return
            write(f"{token.token}\n")
        kept = "" if out else "; keep it in a file that only the drone reads (--out FILE)"
        say(f"admits workers until {token.expires_at}{kept}")
        file = shlex.quote(str(out)) if out else "FILE"
        say(f"hint: holdfast drone --control-plane URL --join-token-file {file}")

    run(body)


@worker_app.command(
    "token-list",
    help="Join tokens, the newest first; their texts are nowhere.",
    epilog="Example: holdfast worker token-list --json",
)
def list_tokens(ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False) -> None:
    from holdfast.fleet.model import JOIN_TOKENS

    async def body() -> None:
        async with session(ctx) as api:
            found, more = await _client(api).list_join_tokens(None, limit=limit)
        if json:
            print_list(found, JOIN_TOKENS, more)
            return
        print_table(
            (
                "created",
                "until",
                "admits",
                "used",
                "region",
                "capabilities",
                "made by",
                "id",
            ),
            [
                (
                    each.created_at[:16],
                    each.expires_at[:16],
                    _admits(each),
                    each.uses if each.uses_max is None else f"{each.uses}/{each.uses_max}",
                    each.region,
                    " ".join(each.capabilities),
                    each.created_by,
                    each.id,
                )
                for each in found
            ],
            spare=("region", "capabilities", "created"),
            empty="no join tokens yet: `holdfast worker token` makes one",
        )
        say_more(more, limit)

    run(body)


@worker_app.command(
    "token-end",
    help="Admit nobody by a join token from now on; whom it admitted stays.",
    epilog="Example: holdfast worker token-end 01a21e83-cb00-764a-bd5f-ccd12bb7c68a",
)
def end_token(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(help="The token's id, as token-list shows it.")],
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _client(api).end_join_token_of(None, token)
        if json:
            print_json(found)
        else:
            say(f"{found.id} admits nobody any more; `holdfast worker revoke` is for whom it did")

    run(body)


def _admits(token: JoinTokenInfo) -> str:
    if token.admits:
        return "yes"
    used_up = token.uses_max is not None and token.uses >= token.uses_max
    return f"no: {token.ended or ('used up' if used_up else 'expired')}"


@contextmanager
def _private(path: Path | None) -> Iterator[Callable[[str], object]]:
    """How to write a secret: to standard output, or to a new file that only its owner reads.

    The file is opened before there is a secret, so that none is lost to a folder that is not
    there, and takes its name when it is whole.
    """
    if path is None:
        yield sys.stdout.write
        return
    with whole_file(path, mode=0o600) as file:
        yield lambda text: file.write(text.encode("ascii"))


@worker_app.command(
    "revoke",
    help="Refuse a worker from now on and free what it holds.",
    epilog="Example: holdfast worker revoke drone-1",
)
def revoke(
    ctx: typer.Context,
    worker: Annotated[str, typer.Argument(help="The worker's name or id.")],
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            client = _client(api)
            found = await client.revoke_worker(None, (await _named(client, worker)).id)
        if json:
            print_json(found)
        else:
            say(f"{found.name} is revoked")

    run(body)


async def _named(client: FleetClient, worker: str) -> Worker:
    after: str | None = ""
    while after is not None:
        page, after = await client.list_workers(None, after=after, limit=1000)
        for each in page:
            if worker in (each.id, each.name):
                return each
    raise NotFound(
        f"cannot find the worker {worker}", hint="`holdfast worker list` shows what there is"
    )


# --- tasks ---------------------------------------------------------------------------------------


@task_app.command(
    "list", help="Tasks, newest first.", epilog="Example: holdfast task list --status dead"
)
def list_tasks(
    ctx: typer.Context,
    status: Annotated[
        str, typer.Option("--status", help="queued, leased, succeeded, dead or cancelled.")
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help="Only this kind, such as collect.")] = "",
    limit: LimitOption = 50,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.fleet.model import TASKS, TaskFilter, TaskStatus

        try:
            wanted = TaskFilter(status=TaskStatus(status) if status else None, kind=kind)
        except ValueError:
            known = ", ".join(each.value for each in TaskStatus)
            raise Invalid(f"cannot list: no status is {status!r}", hint=f"one of {known}") from None
        async with session(ctx) as api:
            found, more = await _client(api).list_tasks(None, wanted, limit=limit)
        if json:
            print_list(found, TASKS, more)
            return
        print_table(
            ("created", "kind", "what", "status", "attempts", "worker", "code", "id"),
            [
                (
                    each.created_at[:19],
                    each.kind,
                    each.exclusive.removeprefix("profile:"),
                    each.status.value,
                    f"{each.attempts}/{each.attempts_max}",
                    (each.worker or "")[-12:],
                    each.code,
                    each.id,
                )
                for each in found
            ],
            spare=("kind", "worker", "code", "created"),
            empty="no such tasks",
        )
        say_more(more, limit)

    run(body)


@task_app.command(
    "show",
    help="One task, with the attempts that came to nothing.",
    epilog="Example: holdfast task show 01970000-0000-7000-8000-000000000000",
)
def show(ctx: typer.Context, task: TaskArgument, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            _print_task(await _client(api).show_task(None, task), json)

    run(body)


@task_app.command(
    "submit",
    help="Put a task into its queue.",
    epilog="""Example: holdfast task submit review --payload '{"document": "a-1"}'""",
)
def submit(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help="What is to be done, such as review.")],
    payload: Annotated[
        str, typer.Option("--payload", help="A JSON object; - reads standard input.")
    ] = "{}",
    capability: Annotated[
        list[str] | None, typer.Option("--capability", help="What the worker must have.")
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="The higher, the sooner.")
    ] = 0,
    residency: Annotated[str, typer.Option("--residency", help="Only this region.")] = "",
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=100, help="How often it is tried at most.")
    ] = 4,
    deadline: Annotated[str | None, typer.Option("--deadline", help="RFC 3339.")] = None,
    identity: Annotated[
        str | None, typer.Option("--id", help="Your own id, to repeat the command safely.")
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.fleet.model import TaskSubmit
        from holdfast.kernel.canonical import decode_strict

        text = sys.stdin.read() if payload == "-" else payload
        example = """such as --payload '{"document": "a"}'; - reads it from standard input"""
        try:
            body = decode_strict(text.encode())
        except Invalid as error:
            why = error.detail.removeprefix("cannot read JSON: ")
            raise Invalid(f"cannot read --payload: {why}", hint=example) from error
        if not isinstance(body, dict):
            raise Invalid("cannot submit: the payload is not a JSON object", hint=example)
        wanted = TaskSubmit(
            id=identity,
            kind=kind,
            payload=body,
            capabilities=capability or [],
            priority=priority,
            residency=residency,
            attempts_max=attempts,
            deadline=deadline,
        )
        async with session(ctx) as api:
            _print_task(await _client(api).submit(None, wanted), json)

    run(body)


@task_app.command(
    "cancel",
    help="End a task that is not finished.",
    epilog="Example: holdfast task cancel 01970000-0000-7000-8000-000000000000",
)
def cancel(
    ctx: typer.Context,
    task: TaskArgument,
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            _print_task(await _client(api).cancel(None, task, reason), json)

    run(body)


@task_app.command(
    "schedule", help="When each profile is due.", epilog="Example: holdfast task schedule"
)
def schedule(ctx: typer.Context, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _client(api).schedules(None)
        if json:
            print_list(found)
            return
        print_table(
            ("profile", "next", "last", "problem"),
            [
                (each.profile, (each.next_at or "")[:19], (each.last_at or "")[:19], each.problem)
                for each in found
            ],
            empty="no profile has run yet, or has a schedule",
        )

    run(body)


# --- on the commands of others -------------------------------------------------------------------


def register(profiles: typer.Typer, ended: Ended | None = None) -> None:
    """Add ``profile run`` to the registry's commands; ``ended`` shows what a run came to."""

    @profiles.command(
        "run",
        help="Collect a profile now, at its newest version.",
        epilog="Examples: holdfast profile run rain --wait; "
        "holdfast profile run rain --from 2010-01-01 --to 2015-01-01 --wait",
    )
    def run_profile(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(help="The profile's name.")],
        force: Annotated[
            bool, typer.Option("--force", help="Fetch even what has not changed.")
        ] = False,
        pages: Annotated[
            int, typer.Option("--pages", min=0, help="At most this many; 0: all there are.")
        ] = 0,
        start: Annotated[
            str,
            typer.Option("--from", help="Backfill: the periods from this day on (with --to)."),
        ] = "",
        end: Annotated[str, typer.Option("--to", help="Backfill: before this day.")] = "",
        dry_run: Annotated[
            bool,
            typer.Option(
                "--dry-run", help="Publish nothing; `holdfast run diff RUN` shows what it would."
            ),
        ] = False,
        wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
        timeout: Annotated[str, typer.Option("--timeout", help="How long to wait.")] = "1h",
        json: JsonOption = False,
    ) -> None:
        async def body() -> None:
            from holdfast.fleet.model import CollectRequest

            for option, day in (("--from", start), ("--to", end)):
                if day and not _DAY.fullmatch(day):
                    raise Invalid(
                        f"cannot backfill: {option} {day[:40]!r} is no day",
                        hint=f"a day as 2026-01-31: {option} YYYY-MM-DD",
                    )
            line = command_line(ctx)
            nobody = line.control_plane is None and line.running() is None
            if nobody and wait:
                raise Unavailable(
                    f"cannot wait for a run of {name}: nothing runs here that would collect it",
                    code="nothing-runs",
                    hint="start it with `holdfast up`; without --wait the run is kept until then",
                )
            request = CollectRequest(
                profile=name,
                force=force,
                pages=pages,
                range_start=start,
                range_end=end,
                rehearsal=dry_run,
            )
            async with session(ctx) as api:
                client = _client(api)
                try:
                    task = await client.collect(None, request)
                except NotFound as error:
                    raise await _not_runnable(api, name, error) from error
                if nobody and not json:
                    say("nothing runs here: it is collected once `holdfast up` runs")
                if wait:
                    if not json:
                        at_work = task.attempts or task.status.value == "leased"
                        state = _progress(task) if at_work else f"is {task.status.value}"
                        say(f"run {task.payload['run']} {state}")
                    task = await _finished(client, task, _seconds(timeout), api, quiet=json)
                    if json or ended is None:
                        _print_task(task, json)
                    why = await ended(api, task.payload["run"], json) if ended else None
                    if why is not None or task.status.value != "succeeded":
                        raise why or _unsuccessful(name, task)
                elif json:
                    print_json(task)
                else:
                    _print_queued(name, task)

        run(body)


def register_cancel(runs: typer.Typer) -> None:
    """Add ``run cancel`` to the aggregator's commands."""

    @runs.command(
        "cancel",
        help="Stop a run: its task is cancelled, its worker told, what it staged is dropped.",
        epilog="Example: holdfast run cancel 01970000-0000-7000-8000-000000000000",
    )
    def cancel_run(
        ctx: typer.Context,
        identity: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
        reason: ReasonOption = "",
        json: JsonOption = False,
    ) -> None:
        async def body() -> None:
            from holdfast.fleet.model import TaskFilter

            async with session(ctx) as api:
                client = _client(api)
                found, _ = await client.list_tasks(None, TaskFilter(run=identity), limit=1)
                if not found:
                    raise NotFound(
                        f"cannot cancel the run {identity}: no task is for it",
                        code="run-not-found",
                        hint="holdfast run list",
                    )
                _print_task(await client.cancel(None, found[0].id, reason), json)

        run(body)


async def _not_runnable(api: Any, name: str, error: NotFound) -> HoldfastError:
    """Which of the reasons it is, as the registry knows; ``error`` if it does not say."""
    from holdfast.kernel.principal import operator
    from holdfast.registry.client import RegistryClient

    if error.code != "profile-not-runnable":
        return error
    try:
        status = await RegistryClient(api).status(operator(), name)
    except HoldfastError as unknown:
        return unknown if unknown.code == "profile-unknown" else error
    if not status.digest:
        why, hint = "its file was never good", f"`holdfast profile validate {status.file}`"
    elif status.removed:
        why, hint = "its file was removed", "put the file back, or publish it again"
    elif status.overrides.paused:
        why, hint = "it is paused", f"holdfast profile resume {name}"
    else:
        why, hint = "it says `enabled: false`", "publish it with `enabled: true`"
    return NotFound(f"cannot run the profile {name}: {why}", code=error.code, hint=hint)


def _unsuccessful(profile: str, task: Task) -> HoldfastError:
    return failed_run(
        f"the run of {profile} failed, its attempts are used up: {task.reason or task.code}"
        if task.status.value == "dead"
        else f"the run of {profile} ended {task.status.value}: {task.reason or task.code}",
        code=task.code,
        hint=f"holdfast task show {task.id}",
    )


def _progress(task: Task) -> str:
    """Where a task is, in a line: at work, or waiting for another attempt and why."""
    attempt = f"attempt {max(task.attempts, 1)} of {task.attempts_max}"
    if task.status.value == "leased":
        return f"at work: {attempt}"
    why = f": {task.reason or task.code}" if task.reason or task.code else ""
    return f"waiting after {attempt}{why}" if task.attempts else f"{task.status.value}{why}"


async def _trouble(api: Any) -> str:
    """Why the system cannot work, as far as its door knows; empty if it can, or does not say."""
    try:
        found = await api.get("/v1/overview", type=dict[str, Any])
    except HoldfastError:
        return ""
    return next(
        (
            f"{line['name']} is unhealthy" + (f": {line['detail']}" if line.get("detail") else "")
            for line in found["services"]
            if line["status"] == "unhealthy"
        ),
        "",
    )


async def _finished(
    client: FleetClient,
    task: Task,
    seconds: float,
    api: ApiClient | None = None,
    *,
    quiet: bool = False,
) -> Task:
    """Wait until the task has ended, and say on the way what becomes of it.

    While nothing becomes of it, say what keeps the system from it. ``quiet`` is for scripts: a
    failure is all that they find on standard error.
    """
    told, trouble, polls = _progress(task), "", 0
    try:
        async with asyncio.timeout(seconds):
            while task.status.value not in FINAL:
                await asyncio.sleep(WAIT_POLL_SECONDS)
                task = await client.show_task(None, task.id)
                line = _progress(task)
                if line != told and task.status.value not in FINAL and not quiet:
                    say(line)
                polls = polls + 1 if line == told else 0
                told = line
                if api is not None and not quiet and polls and polls % TROUBLE_POLLS == 0:
                    found = await _trouble(api)
                    if found and found != trouble:
                        say(f"! {found}: the run goes on once that is mended; Ctrl-C leaves it so")
                    trouble = found
    except asyncio.CancelledError:
        if not quiet:
            say(f"the run goes on: `holdfast run show {task.payload.get('run', '')}`")
        raise
    except TimeoutError:
        raise Unavailable(
            f"cannot wait any longer: the task {task.id} is {task.status.value}",
            hint=f"holdfast task show {task.id}",
        ) from None
    except Unavailable as error:
        raise Unavailable(
            f"cannot see what becomes of the task {task.id}: {error.detail}",
            code=error.code,
            hint=f"it goes on without this command: `holdfast task show {task.id}`",
        ) from error
    return task


def _client(api: Any) -> FleetClient:
    from holdfast.fleet.client import FleetClient

    return FleetClient(api)


def _print_queued(profile: str, task: Task) -> None:
    """What somebody needs who does not wait: the run's id, and how to ask for it."""
    run_id = task.payload["run"]
    print_fields({"run": run_id, "profile": profile, "state": task.status.value})
    say(
        f"`holdfast run show {run_id}` shows what came of it, once a drone has begun; until then "
        f"`holdfast task show {task.id}`. --wait waits for its end"
    )


def _print_task(task: Task, json: bool) -> None:
    if json:
        print_json(task)
        return
    fields: dict[str, object] = {
        "id": task.id,
        "kind": task.kind,
        "status": task.status.value,
        "attempts": f"{task.attempts} of {task.attempts_max}",
        "created": task.created_at,
        "available": task.available_at,
        "worker": task.worker,
        "fence": task.fence or None,
        "lease until": task.lease_expires_at,
        "finished": task.finished_at,
        "code": task.code,
        "reason": task.reason,
        **{f"payload {name}": value for name, value in task.payload.items()},
        **{f"result {name}": value for name, value in (task.result or {}).items()},
    }
    print_fields({name: value for name, value in fields.items() if value not in (None, "")})
    for each in task.history:
        say(f"attempt {each.attempt} ended {each.ended_at}: {each.code} {each.reason}".rstrip())


def _seconds(text: str) -> int:
    from holdfast.registry.parts import duration_seconds

    if not _DURATION.fullmatch(text):
        raise Invalid(
            f"cannot read the duration {text!r}", hint="a whole number and s, m, h, d or w: 12h"
        )
    seconds = int(duration_seconds(text))
    if seconds < 1:
        raise Invalid(
            f"cannot use the duration {text!r}: that is over as it begins", hint="1m, 12h or 7d"
        )
    return seconds


def _ago(text: str | None, now: datetime) -> str:
    if text is None:
        return ""
    from holdfast.kernel.clock import parse_timestamp

    seconds = int((now - parse_timestamp(text)).total_seconds())
    return f"{max(0, seconds)} s ago" if seconds < 3600 else text[:19]
