"""``holdfast profile preview``: see what a profile would bring, before anybody runs it."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from holdfast.kernel.cli import (
    check_new,
    print_json,
    print_table,
    run,
    say,
    session,
    whole_file,
)
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid, NotFound, Unavailable
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.collect.preview import Preview
    from holdfast.collect.settings import CollectSettings
    from holdfast.kernel.http.client import ApiClient
    from holdfast.records.model import Run
    from holdfast.registry.model import Profile

SettingsOf = Callable[[typer.Context], "CollectSettings"]

_COLUMNS_MAX = 12
POLL_SECONDS = 0.2


def register(profile_app: typer.Typer, settings_of: SettingsOf) -> None:
    """Add ``init`` and ``preview`` to ``holdfast profile``.

    ``settings_of`` resolves what collecting needs.
    """

    @profile_app.command(
        "init",
        help="Write a first draft of a profile from what a source sends: an address or a file.",
        epilog="Example: holdfast profile init https://example.org/rain.csv --name rain",
    )
    def init(
        ctx: typer.Context,
        source: Annotated[str, typer.Argument(help="The source's address, or a file it sent.")],
        name: Annotated[
            str, typer.Option("--name", help="The profile's name; default: from the address.")
        ] = "",
        url: Annotated[
            str, typer.Option("--url", help="For a file: the address it comes from.")
        ] = "",
        kind: Annotated[
            str, typer.Option("--format", help="What it is, if the guess is wrong: " + _KINDS)
        ] = "",
        records: Annotated[
            str,
            typer.Option("--records", help="Where the records are, such as $.data[*] or //row."),
        ] = "",
        sheet: Annotated[
            str, typer.Option("--sheet", help="The sheet of a workbook; default: the first.")
        ] = "",
        header_row: Annotated[
            int,
            typer.Option("--header-row", min=0, help="The row of its header, counted from 1."),
        ] = 0,
        out: Annotated[
            str,
            typer.Option(
                "--out",
                help="Where to write it; - prints it. Default: NAME.yaml, or, with `> FILE`, that "
                "file.",
            ),
        ] = "",
    ) -> None:
        """Guess format, records, fields, time and key; check the guess; write it with remarks."""

        async def body() -> None:
            from holdfast.collect.draft import draft
            from holdfast.collect.draft_names import name_for
            from holdfast.collect.preview import first_draft
            from holdfast.registry.placeholders import HOST, placeholders
            from holdfast.registry.validate import load_profile

            if kind and kind not in _KINDS.split(", "):
                raise Invalid(f"cannot read {kind!r} here", hint=f"known are {_KINDS}")
            given = name or name_for(source)
            _refuse_name(given)
            target = out or ("-" if _led_to_a_file() else f"{given}.yaml")
            check_new(Path(target))
            if source.startswith(("http://", "https://")):
                _refuse_address(source)
                found = await first_draft(
                    source,
                    settings_of(ctx),
                    name=given,
                    kind=kind,
                    records=records,
                    sheet=sheet,
                    header_row=header_row,
                    told=say,
                )
            else:
                path = Path(source)
                if not _is_file(path):
                    raise NotFound(
                        f"cannot read {source}: it is neither a file nor an address",
                        hint="an address begins with https://",
                    )
                address = url or f"https://{HOST}/{quote(path.name)}"
                found = draft(
                    path,
                    name=given,
                    url=address,
                    kind=kind,
                    records=records,
                    sheet=sheet,
                    header_row=header_row,
                )
            profile = load_profile(found.text.encode(), draft=True)
            if target == "-":
                sys.stdout.write(found.text)
            else:
                with whole_file(Path(target)) as file:
                    file.write(found.text.encode())
            say(f"{found.records} records of {found.rows} rows were mapped with this draft")
            for note in found.notes:
                say(f"note: {note}")
            left = ", ".join(problem.path for problem in placeholders(profile))
            say(f"yours to say, before it can be published: {left}")
            if target == "-" and not out:
                say(
                    "printed, since standard output is a file: no file of its own was written "
                    f"(`--out {given}.yaml` writes one)"
                )
            elif target != "-":
                say(f"wrote {target}: correct it, then `holdfast profile preview {target}`")

        run(body)

    @profile_app.command(
        "preview",
        help="Fetch one page and show what it would bring. Nothing is stored.",
        epilog="Example: holdfast profile preview rain.yaml --limit 5",
    )
    def preview(
        ctx: typer.Context,
        profile: Annotated[
            str, typer.Argument(help="A profile's file, or the name of a published one.")
        ],
        url: Annotated[
            str, typer.Option("--url", help="Ask this address instead of the source's own.")
        ] = "",
        file: Annotated[
            Path | None,
            typer.Option(
                "--file", help="Fetch nothing: read this file, such as `run raw` has written."
            ),
        ] = None,
        charset: Annotated[
            str,
            typer.Option(
                "--charset",
                help="The charset that the source sent with the bytes of --file, which a run "
                "believes: `run show --json` has it in `media_type`.",
            ),
        ] = "",
        limit: Annotated[
            int, typer.Option("--limit", min=1, max=1000, help="Records and rejects to show.")
        ] = 10,
        json: JsonOption = False,
    ) -> None:
        """Show records, rejects and what the fields seem to be."""

        async def body() -> None:
            from holdfast.collect.preview import preview as look
            from holdfast.collect.preview import preview_file

            if file is not None and url:
                raise Invalid("cannot preview both: --file reads a file, --url asks an address")
            if charset and file is None:
                raise Invalid("cannot take --charset: it is of the bytes of --file")
            settings = settings_of(ctx)
            # With --json nothing but a failure is on standard error.
            told = None if json else say
            looked_at = await _profile(ctx, profile)
            if file is not None:
                found = preview_file(looked_at, file, limit=limit, charset=charset)
            else:
                found = await look(looked_at, settings, url=url, limit=limit, told=told)
            if json:
                print_json(found)
            else:
                _print(found)
            found.check()

        run(body)

    @profile_app.command(
        "remap",
        help="Map the stored raw responses again, under the current or another version of the "
        "profile, without fetching. --dry-run publishes nothing and shows what would change.",
        epilog="Example: holdfast profile remap rain --dry-run",
    )
    def remap(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(help="The profile's name.")],
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Publish nothing; show what would change.")
        ] = False,
        to_version: Annotated[
            str, typer.Option("--to-version", help="A version's digest, or how it begins.")
        ] = "",
        limit: Annotated[
            int, typer.Option("--limit", min=1, max=1000, help="Differences to show.")
        ] = 20,
        timeout: Annotated[
            int, typer.Option("--timeout", min=1, help="How many seconds to wait.")
        ] = 3600,
        json: JsonOption = False,
    ) -> None:
        """Submit the task, wait for its end, and show what it changed."""

        async def body() -> None:
            async with session(ctx) as api:
                found = await _remapped(api, name, to_version, timeout, dry_run=dry_run, quiet=json)
                await _show_remapped(api, found, limit, json=json)

        run(body)


async def _remapped(
    api: ApiClient, name: str, version: str, seconds: float, *, dry_run: bool, quiet: bool
) -> Run:
    """The run of a re-mapping once it has ended; raises unless it ended well."""
    from holdfast.fleet.client import FleetClient
    from holdfast.fleet.model import CollectRequest, TaskStatus
    from holdfast.kernel.principal import operator
    from holdfast.records.client import RecordsClient

    digest = await _digest(api, name, version) if version else ""
    fleet = FleetClient(api)
    request = CollectRequest(profile=name, remap=True, rehearsal=dry_run, digest=digest)
    task = await fleet.collect(None, request)
    if not quiet:
        say(f"run {task.payload['run']} is {task.status.value}")
    try:
        async with asyncio.timeout(seconds):
            while task.status in {TaskStatus.QUEUED, TaskStatus.LEASED}:
                await asyncio.sleep(POLL_SECONDS)
                task = await fleet.show_task(None, task.id)
    except TimeoutError:
        raise Unavailable(
            f"cannot wait any longer: the task {task.id} is {task.status.value}",
            hint=f"holdfast task show {task.id}",
        ) from None
    if task.status is not TaskStatus.SUCCEEDED:
        raise Conflict(
            f"cannot re-map {name}: {task.reason or task.code or task.status.value}",
            code=task.code or "remap-failed",
            hint=f"holdfast task show {task.id}",
        )
    return await RecordsClient(api).run(operator(), task.payload["run"])


async def _digest(api: ApiClient, name: str, version: str) -> str:
    """The one version whose digest begins so."""
    from holdfast.kernel.principal import operator
    from holdfast.registry.client import RegistryClient

    wanted = version if version.startswith("sha256:") else f"sha256:{version}"
    page = await RegistryClient(api).versions(operator(), name, limit=1000)
    found: list[str] = [one.digest for one in page.items if one.digest.startswith(wanted)]
    if len(found) != 1:
        raise NotFound(
            f"cannot find the version {version[:80]} of {name}: "
            f"{len(found) or 'none'} of its {len(page.items)} begin so",
            hint=f"holdfast profile show {name} --versions",
        )
    return found[0]


async def _show_remapped(api: ApiClient, found: Run, limit: int, *, json: bool) -> None:
    from holdfast.kernel.principal import operator
    from holdfast.records.client import RecordsClient
    from holdfast.records.run_cli import print_diff

    diff = await RecordsClient(api).run_diff(operator(), found.id, limit=limit)
    if json:
        print_json({"run": found, "diff": diff})
        return
    print_diff(diff.items)
    would = "would be " if found.rehearsal else ""
    say(
        f"{would}{found.new} new, {found.changed} changed, {found.withdrawn} withdrawn; "
        f"{found.unchanged} unchanged, {found.rejects} rejected"
    )
    if diff.next is not None:
        say(f"there is more: holdfast run diff {found.id}")


_KINDS = "csv, tsv, json, ndjson, geojson, json-stat, xml, feed, xlsx, ods"


def _led_to_a_file() -> bool:
    """Whether whoever gave the command wants in a file what it prints (``> rain.yaml``)."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False  # there is no such thing, or it was closed


def _is_file(path: Path) -> bool:
    return path.is_file()


def _refuse_name(name: str) -> None:
    """What a profile would refuse is refused before anything is fetched."""
    import msgspec

    from holdfast.collect.draft_names import name_for
    from holdfast.kernel.structs import said
    from holdfast.registry.parts import Name

    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        raise Invalid(
            f"cannot call a profile {name[:80]!r}: {said(error, Name)}",
            hint=f"such as --name {name_for(name)}",
        ) from error


def _refuse_address(address: str) -> None:
    """What a profile would refuse is refused before it is fetched (a key in the query)."""
    from holdfast.registry.source_rules import address_problems

    for problem in address_problems(address, "url"):
        raise Invalid(f"cannot use the address: {problem.message}", hint=problem.hint)


async def _profile(ctx: typer.Context, named: str) -> Profile:
    """The profile in a file, or the published one of that name."""
    data = _file(Path(named))
    if data is not None:
        from holdfast.registry.document import media_type_of
        from holdfast.registry.validate import load_profile

        return load_profile(data, media_type=media_type_of(Path(named)), draft=True)
    from holdfast.kernel.principal import operator
    from holdfast.registry.client import RegistryClient

    try:
        async with session(ctx) as api:
            return (await RegistryClient(api).show(operator(), named)).profile
    except HoldfastError as error:
        error.hint = error.hint or "name a file to look at a profile that is not published"
        raise


def _file(path: Path) -> bytes | None:
    """The bytes of a file, ``None`` where the argument is no file's name."""
    from holdfast.registry.document import SUFFIXES, media_type_of

    if path.suffix not in SUFFIXES and not path.is_file():
        return None
    from holdfast.registry.code_lists import with_code_lists

    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"cannot read {path}: {error.strerror}",
            hint="name a profile's file, or a published profile by its name; "
            "`holdfast profile init ADDRESS` writes a first file",
        ) from error
    return with_code_lists(data, path.resolve().parent, media_type=media_type_of(path))


def _shown(value: object) -> object:
    return "–" if value is None else value


def _print(found: Preview) -> None:
    from holdfast.collect.preview import flat

    origin = " (replayed)" if found.replayed else ""
    answer = ", ".join(filter(None, (f"{found.size_bytes} bytes", found.media_type)))
    fetched = f"{found.status}, " if found.address else ""  # a file has no status
    say(f"{found.url}{origin}: {fetched}{answer}")
    more = "" if found.whole else " looked at; there are more"
    cells = f" ({found.rejected} rejects)" if found.rejected != found.rejected_rows else ""
    say(f"{found.rows} rows{more}, {found.rejected_rows} rejected of them{cells}")
    lines = [flat(record) for record in found.records]
    # A field without a value has a column all the same: it is empty, and not left out.
    columns = list(dict.fromkeys([name for line in lines for name in line] + found.empty))
    print_table(
        columns[:_COLUMNS_MAX],
        [[_shown(line.get(name)) for name in columns[:_COLUMNS_MAX]] for line in lines],
        title="records",
        empty="no records",
    )
    if len(columns) > _COLUMNS_MAX:
        say(f"left out: {', '.join(columns[_COLUMNS_MAX:])}; --json shows all")
    for note in found.notes():
        say(f"note: {note}")
    if found.rejects:
        print_table(
            ["row", "field", "reason", "excerpt"],
            [[r.position, r.field, r.reason, r.excerpt] for r in found.rejects],
            title="rejects",
        )
    print_table(
        ["path", "type", "format", "nulls", "rows", "samples"],
        [
            [
                f.path,
                f.type,
                f.format,
                " ".join(map(repr, f.nulls)),
                f.present,
                " | ".join(f.samples),
            ]
            for f in found.fields
        ],
        title="fields",
        empty="no fields",
    )
