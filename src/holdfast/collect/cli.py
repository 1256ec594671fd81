"""``holdfast profile preview``: see what a profile would bring, before anybody runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.kernel.cli import JsonOption, print_json, print_table, run, say, session
from holdfast.kernel.errors import HoldfastError, Invalid, NotFound

if TYPE_CHECKING:
    from holdfast.collect.preview import Preview
    from holdfast.collect.settings import CollectSettings
    from holdfast.registry.model import Profile

SettingsOf = Callable[[typer.Context], "CollectSettings"]

_COLUMNS_MAX = 12


def register(profile_app: typer.Typer, settings_of: SettingsOf) -> None:
    """Add ``preview`` to ``holdfast profile``; ``settings_of`` resolves what collecting needs."""

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
        limit: Annotated[
            int, typer.Option("--limit", min=1, max=1000, help="Records and rejects to show.")
        ] = 10,
        json: JsonOption = False,
    ) -> None:
        """Show records, rejects and what the fields seem to be."""

        async def body() -> None:
            from holdfast.collect.preview import preview as look

            settings = settings_of(ctx)
            found = await look(await _profile(ctx, profile), settings, url=url, limit=limit)
            if json:
                print_json(found)
            else:
                _print(found)
            if found.problem:
                raise Invalid(found.problem, code="parse")

        run(body)


async def _profile(ctx: typer.Context, named: str) -> Profile:
    """The profile in a file, or the published one of that name."""
    data = _file(Path(named))
    if data is not None:
        from holdfast.registry.validate import examine

        json = named.endswith(".json")
        return examine(
            data, media_type="application/json" if json else "application/yaml"
        ).required()
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
    if path.suffix not in {".yaml", ".yml", ".json"} and not path.is_file():
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from error


def _print(found: Preview) -> None:
    from holdfast.collect.preview import flat

    origin = " (replayed)" if found.replayed else ""
    say(f"{found.url}{origin}: {found.status}, {found.size_bytes} bytes, {found.media_type}")
    more = "" if found.whole else " looked at; there are more"
    say(f"{found.rows} rows{more}, {found.rejected} rejected of them")
    lines = [flat(record) for record in found.records]
    columns = list(dict.fromkeys(name for line in lines for name in line))[:_COLUMNS_MAX]
    print_table(
        columns,
        [[line.get(name) for name in columns] for line in lines],
        title="records",
        empty="no records",
    )
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
