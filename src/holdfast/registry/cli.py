"""``holdfast profile``: describe sources, check, publish, compare, pause.

``app`` is composed further up: ``preview`` and ``remap`` come from the drone, ``run`` from the
fleet.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    print_fields,
    print_json,
    print_table,
    run,
    say,
    say_more,
    session,
    visible,
)
from holdfast.kernel.errors import Invalid, NotFound, TooLarge
from holdfast.kernel.options import JsonOption, LimitOption
from holdfast.registry.document import SUFFIXES, media_type_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.kernel.http import Page
    from holdfast.registry.client import RegistryClient
    from holdfast.registry.validate import Examined
    from holdfast.registry.versions import Change, PublishResult

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Describe sources: validate, publish, run."
)

NameArgument = Annotated[str, typer.Argument(help="The profile's name.", show_default=False)]
FilesArgument = Annotated[
    list[Path],
    typer.Argument(help="Profiles (YAML or JSON), or folders of them; - reads standard input."),
]


@app.command(
    "validate",
    help="List everything that is wrong with profiles. Asks no system.",
    epilog="Example: holdfast profile validate profiles/government/*.yaml",
)
def validate(files: FilesArgument, json: JsonOption = False) -> None:
    async def body() -> None:
        named = _files(files)
        looked = [(path, _examined(path, alone=len(named) == 1)) for path in named]
        if json:
            print_json([_as_json(path, found) for path, found in looked])
        bad = 0
        for path, found in looked:
            problems = [*found.problems, *found.unsupported]
            bad += bool(problems)
            if json:
                continue
            for problem in problems:
                sys.stdout.write(f"{visible(path)}: {visible(problem)}\n")
            if not problems:
                sys.stdout.write(f"{path}: good, {found.name} {found.digest}\n")
        if bad:
            raise Invalid(
                f"cannot use {bad} of {len(looked)} profiles"
                if len(looked) > 1
                else "cannot use this profile",
                hint="correct what each line names; docs/reference/profile.md explains every "
                "member, and `holdfast profile init` drafts a profile",
            )

    run(body)


def _as_json(path: Path, found: Examined) -> dict[str, Any]:
    return {
        "file": str(path),
        "name": found.name,
        "digest": found.digest,
        "problems": found.problems,
        "unsupported": found.unsupported,
    }


@app.command(
    "publish",
    help="Publish profiles; what already runs is left as it is.",
    epilog="Example: holdfast profile publish rain.yaml --dry-run",
)
def publish(
    ctx: typer.Context,
    files: FilesArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and compare; change nothing.")
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Only if this digest runs now ('' for a new profile)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        documents = [(path, _read(path)) for path in _files(files)]
        results: list[PublishResult] = []
        async with session(ctx) as api:
            client = _client(api)
            for path, data in documents:
                result = await client.publish(
                    operator(),
                    data,
                    media_type=media_type_of(path),
                    dry_run=dry_run,
                    expected=expect,
                )
                results.append(result)
                say(f"{path}: {_outcome(result)}")
        if json:
            print_json(results)
        elif dry_run:
            for (path, _), result in zip(documents, results, strict=True):
                if len(results) > 1:
                    sys.stdout.write(f"{path}:\n")
                _print_changes(result.diff)

    run(body)


def _outcome(result: PublishResult) -> str:
    digest = result.version.digest
    verb = "would be " if result.dry_run else ""
    if not result.changed:
        return f"{result.version.name} unchanged, {digest} runs"
    if result.previous:
        return f"{result.version.name} {verb}published, {digest} in place of {result.previous}"
    return f"{result.version.name} {verb}published, {digest}"


@app.command(
    "diff",
    help="Compare a file with what runs, or two published versions of a profile.",
    epilog="Example: holdfast profile diff rain.yaml",
)
def diff(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A file, or a profile's name.")],
    before: Annotated[
        str | None, typer.Option("--before", help="A digest; default: the version before.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="A digest; default: the version that runs.")
    ] = None,
    json: JsonOption = False,
) -> None:
    path = Path(target)
    is_file = before is None and after is None and (target == "-" or path.is_file())

    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            client = _client(api)
            changes: Sequence[Change]
            if is_file:
                result = await client.publish(
                    operator(), _read(path), media_type=media_type_of(path), dry_run=True
                )
                changes = result.diff
            else:
                first = before or await _before(client, target, after)
                changes = (await client.diff(operator(), target, first, after)).changes
        if json:
            print_json(changes)
        else:
            _print_changes(changes)

    run(body)


async def _before(client: RegistryClient, name: str, after: str | None) -> str:
    """The version that ran before ``after`` (or before the one that runs)."""
    from holdfast.kernel.principal import operator

    history = (await client.history(operator(), name, limit=1000)).items
    digests = [entry.digest for entry in history]
    at = digests.index(after) if after in digests else 0
    older = [digest for digest in digests[at:] if digest != digests[at]]
    if not older:
        raise NotFound(f"cannot compare the profile {name}: it has had one version only")
    return older[0]


def _print_changes(changes: Sequence[Change]) -> None:
    if not changes:
        say("nothing differs")
    for change in changes:
        if change.before is not None:
            sys.stdout.write(f"- {change.path}: {visible(change.before)}\n")
        if change.after is not None:
            sys.stdout.write(f"+ {change.path}: {visible(change.after)}\n")


@app.command(
    "list",
    help="Profiles, what runs of each, and what is wrong with the newest file.",
    epilog="Example: holdfast profile list --json",
)
def list_(ctx: typer.Context, limit: LimitOption = 1000, json: JsonOption = False) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            page = await _client(api).list(operator(), limit=limit)
        if json:
            print_json(page)
            return
        print_table(
            ["name", "state", "digest", "schedule", "published", "problem"],
            [
                [
                    item.name,
                    _state(item),
                    item.digest[:19],
                    _schedule(item.schedule),
                    item.published_at[:19],
                    item.problem.partition("\n")[0],
                ]
                for item in page.items
            ],
            spare=["problem", "published", "digest", "schedule"],
            wraps=["problem"],
            empty="no profiles yet: `holdfast profile publish FILE` publishes one",
        )
        say_more(page.next, limit)

    run(body)


def _state(item: Any) -> str:
    if not item.digest:
        return "bad"
    if item.removed:
        return "removed"
    if item.overrides.paused:
        return "paused"
    return "active" if item.enabled else "disabled"


def _schedule(schedule: Any) -> str:
    if schedule is None:
        return "by hand"
    return f"every {schedule.every}" if schedule.every else f"cron {schedule.cron}"


@app.command(
    "show",
    help="Show a profile: the version that runs, or any other, its versions or its history.",
    epilog="Example: holdfast profile show rain --digest sha256:…",
)
def show(
    ctx: typer.Context,
    name: NameArgument,
    digest: Annotated[str | None, typer.Option("--digest", help="Any published version.")] = None,
    versions: Annotated[bool, typer.Option("--versions", help="List its versions.")] = False,
    history: Annotated[bool, typer.Option("--history", help="List what happened to it.")] = False,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            client = _client(api)
            if versions:
                await _show_versions(client, name, json)
            elif history:
                await _show_history(client, name, json)
            else:
                await _show_version(client, name, digest, json)

    run(body)


async def _show_version(client: RegistryClient, name: str, digest: str | None, json: bool) -> None:
    from holdfast.kernel.principal import operator
    from holdfast.registry.document import write_document
    from holdfast.registry.model import plain_profile

    version = await client.show(operator(), name, digest)
    if json:
        print_json(version)
        return
    sys.stdout.write(
        f"# {version.digest}\n# published {version.published_at} by {version.published_by}\n"
    )
    sys.stdout.write(write_document(plain_profile(version.profile)))
    status = await client.status(operator(), name)
    if status.problem:
        say("the newest file was not taken:")
        for line in str(status.problem).splitlines():
            say(line)


async def _show_versions(client: RegistryClient, name: str, json: bool) -> None:
    from holdfast.kernel.principal import operator

    page = await client.versions(operator(), name, limit=1000)
    if json:
        print_json(page)
        return
    print_table(
        ["digest", "published", "by", "runs"],
        [
            [v.digest, v.published_at, v.published_by, "yes" if v.current else ""]
            for v in page.items
        ],
    )
    _say_older(page)


async def _show_history(client: RegistryClient, name: str, json: bool) -> None:
    from holdfast.kernel.principal import operator

    page = await client.history(operator(), name, limit=1000)
    if json:
        print_json(page)
        return
    print_table(
        ["revision", "action", "digest", "at", "by", "event"],
        [[e.sequence, e.action, e.digest[:19], e.at, e.by, e.event] for e in page.items],
    )
    _say_older(page)


def _say_older(page: Page[Any]) -> None:
    if page.next:
        say(f"these are the newest {len(page.items)}; GET /v1/profiles/… gives older ones by pages")


@app.command(
    "pause",
    help="Keep a profile from being run until it is resumed.",
    epilog="Example: holdfast profile pause rain",
)
def pause(ctx: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    _change(ctx, name, {"paused": True}, json)


@app.command(
    "resume",
    help="Let a paused profile run again.",
    epilog="Example: holdfast profile resume rain",
)
def resume(ctx: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    _change(ctx, name, {"paused": False}, json)


@app.command(
    "override",
    help="Change a profile's schedule or limits without a new version; new versions keep it.",
    epilog="Example: holdfast profile override rain --every 30m --limit max_pages=20",
)
def override(
    ctx: typer.Context,
    name: NameArgument,
    every: Annotated[str | None, typer.Option("--every", help="An interval, such as 30m.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="A cron expression.")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of the cron expression.")] = "UTC",
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="MEMBER=VALUE; may be repeated.")
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Drop schedule and limits overrides first.")
    ] = False,
    json: JsonOption = False,
) -> None:
    change: dict[str, Any] = {"schedule": None, "limits": None} if clear else {}
    if every or cron:
        given = {"every": every, "cron": cron, "timezone": timezone}
        change["schedule"] = {member: value for member, value in given.items() if value}
    if limit:
        pairs = [text.partition("=") for text in limit]
        change["limits"] = {
            member: int(value) if value.isdecimal() else value for member, _, value in pairs
        }
    _change(ctx, name, change, json)


def _change(ctx: typer.Context, name: str, change: dict[str, Any], json: bool) -> None:
    async def body() -> None:
        import msgspec

        from holdfast.kernel.principal import operator
        from holdfast.kernel.structs import said
        from holdfast.registry.versions import OverridesChange

        if not change:
            raise Invalid("cannot override nothing", hint="--every, --cron, --limit or --clear")
        try:
            wanted = msgspec.convert(change, OverridesChange)
        except msgspec.ValidationError as error:
            raise Invalid(
                f"cannot override the profile {name}: {said(error, OverridesChange)}"
            ) from error
        async with session(ctx) as api:
            status = await _client(api).override(operator(), name, wanted)
        if json:
            print_json(status)
            return
        print_fields(
            {
                "name": status.name,
                "state": _state(status),
                "schedule": _schedule(status.schedule),
                "limits": _limits(status.overrides.limits),
                "revision": status.revision,
            }
        )

    run(body)


def _limits(limits: Any) -> str:
    import msgspec

    given = msgspec.structs.asdict(limits) if limits else {}
    return ", ".join(f"{member}={value}" for member, value in given.items() if value is not None)


def _client(api: Any) -> RegistryClient:
    from holdfast.registry.client import RegistryClient

    return RegistryClient(api)


def _files(named: Sequence[Path]) -> list[Path]:
    """The files themselves, and in place of a folder the profiles below it."""
    found: list[Path] = []
    for path in named:
        if not path.is_dir():
            found.append(path)
            continue
        below = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
        if not below:
            raise Invalid(
                f"cannot find a profile in {path}: no file below it ends in .yaml, .yml or .json",
                hint="name a profile's file, or a folder of them",
            )
        found += below
    return found


def _examined(path: Path, *, alone: bool) -> Examined:
    """What is wrong with the file; of several, one that cannot be read does not hide the others."""
    from holdfast.kernel.errors import Problem
    from holdfast.registry.validate import Examined, examine

    try:
        return examine(_read(path), media_type=media_type_of(path))
    except (Invalid, TooLarge) as error:
        if alone:
            raise
        return Examined(problems=[Problem("", error.detail.partition(": ")[2] or error.detail)])


def _read(path: Path) -> bytes:
    """The bytes of a file, or of standard input for ``-``; a little more than is allowed, no more:
    what is too large is said by whoever checks it."""
    from holdfast.registry.code_lists import with_code_lists
    from holdfast.registry.document import DOCUMENT_BYTES_MAX

    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(DOCUMENT_BYTES_MAX + 1)
        with path.open("rb") as stream:
            data = stream.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise TooLarge(
                f"cannot read {path}: a profile has at most {DOCUMENT_BYTES_MAX:,} bytes, this "
                f"file {path.stat().st_size:,}",
                hint="one profile describes one source: split the file, or see that it is the "
                "right one",
            )
        return with_code_lists(data, path.resolve().parent, media_type=media_type_of(path))
    except OSError as error:
        raise Invalid(
            f"cannot read {path}: {error.strerror}",
            hint="name a profile's file; `holdfast profile init ADDRESS` writes a first one",
        ) from error
