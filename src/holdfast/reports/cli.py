"""``holdfast report``: run, list, show, take away, draw."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    check_new,
    output,
    output_width,
    print_json,
    print_table,
    run,
    say,
    say_more,
    session,
    whole_file,
)
from holdfast.kernel.errors import Invalid
from holdfast.kernel.ids import is_id
from holdfast.kernel.options import JsonOption, LimitOption
from holdfast.kernel.principal import operator

if TYPE_CHECKING:
    from holdfast.reports.client import ReportsClient
    from holdfast.reports.model import Report

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Join, correlate and draw.")
ReportArgument = Annotated[str, typer.Argument(help="A report's id, or a name for its newest.")]


@app.command(
    "run",
    help="Compute a report from a spec (YAML or JSON); the same again is answered, not recomputed.",
    epilog="Example: holdfast report run co2.yaml --out results/",
)
def run_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The spec; - reads standard input.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report, its data and its chart; written anew."),
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.reports.spec import read_spec

        spec = read_spec(_read(file), media_type=_media_type(file))
        async with session(ctx) as api:
            client = _client(api)
            report = await client.run(operator(), spec)
            if out is not None:
                await _write_all(client, report, out)
        if json:
            print_json(report)
        else:
            _print(report)
        state = "unchanged" if report.unchanged else "computed"
        say(f"report {report.id} {state} from {_inputs(report)}")

    run(body)


@app.command("list", help="Reports, newest first.", epilog="Example: holdfast report list --json")
def list_(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Only of this name.")] = "",
    limit: LimitOption = 50,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            page = await _client(api).list(operator(), name=name, limit=limit)
        if json:
            print_json(page)
            return
        print_table(
            ["id", "name", "kind", "result", "created"],
            [[r.id, r.name, r.kind, r.headline, r.created_at[:19]] for r in page.items],
            spare=["created", "kind", "result"],
            wraps=["result"],
            empty="no reports yet: `holdfast report run FILE` makes one",
        )
        say_more(page.next, limit)

    run(body)


@app.command("show", help="One report.", epilog="Example: holdfast report show co2-and-temperature")
def show(ctx: typer.Context, report: ReportArgument, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _find(_client(api), report)
        if json:
            print_json(found)
        else:
            _print(found)

    run(body)


@app.command(
    "chart",
    help="Draw a report as SVG or PNG.",
    epilog="Example: holdfast report chart co2-and-temperature --out co2.png",
)
def chart(
    ctx: typer.Context,
    report: ReportArgument,
    out: Annotated[
        Path,
        typer.Option("--out", help="A new file: .svg or .png; - is standard output."),
    ] = Path("-"),
    format_: Annotated[
        str,
        typer.Option("--format", help="svg or png; default: as --out ends, and SVG for -."),
    ] = "",
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        kind = picture_of(format_, out)
        check_new(out)
        async with session(ctx) as api:
            client = _client(api)
            found = await _find(client, report)
            picture = await client.chart(operator(), found.id, kind)  # type: ignore[arg-type]
        _write(out, picture)
        if json and str(out) != "-":
            print_json({"report": found.id, "file": str(out), "bytes": len(picture)})
        elif str(out) != "-":
            say(f"wrote {out}")

    run(body)


def picture_of(said: str, out: Path) -> str:
    """``svg`` or ``png``, as ``--format`` says or else the file's name."""
    ends = out.suffix.lower()
    if said not in ("", "svg", "png"):
        raise Invalid(f"cannot draw {said!r}", hint="`--format` is svg or png")
    if ends not in ("", ".svg", ".png"):
        raise Invalid(f"cannot draw {out}: its name must end in .svg or .png")
    if said and ends and ends != f".{said}":
        raise Invalid(f"cannot draw {said} into {out}: its name says otherwise")
    return said or ("png" if ends == ".png" else "svg")


@app.command(
    "data",
    help="All rows of a report as JSON, CSV or Parquet.",
    epilog="Example: holdfast report data two-coasts --format csv > days.csv",
)
def data(
    ctx: typer.Context,
    report: ReportArgument,
    format_: Annotated[str, typer.Option("--format", help="json, csv or parquet.")] = "csv",
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave CSV cells that look like formulas as they are.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="A new file; - is standard output.")] = Path(
        "-"
    ),
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    async def body() -> None:
        check_new(out)
        async with session(ctx) as api:
            client = _client(api)
            found = await _find(client, report)
            wanted: Any = "json" if json else format_
            content = await client.data(operator(), found.id, wanted, exact=exact)
        _write(out, content)

    run(body)


@app.command(
    "receipt",
    help="Give the receipt of one cell: which spec, inputs and records it came from. Of a table by "
    "--row (from 0) and --column, of a correlation by the path of a coefficient. It is JSON, with "
    "or without --json.",
    epilog="Example: holdfast report receipt co2 --row 0 --column anomaly > r.json | "
    "holdfast report receipt co2-and-temperature --column levels.pearson_r > r.json",
)
def receipt(
    ctx: typer.Context,
    report: Annotated[str, typer.Argument(help="A report's id, or the name of the newest.")],
    column: Annotated[str, typer.Option("--column", help="The column, or a coefficient's path.")],
    row: Annotated[int | None, typer.Option("--row", help="The row, from 0.")] = None,
    out: Annotated[Path, typer.Option("--out", help="A new file; - is standard output.")] = Path(
        "-"
    ),
    json: JsonOption = False,  # it always is; a failure is, too, with it
) -> None:
    async def body() -> None:
        check_new(out)
        async with session(ctx) as api:
            client = _client(api)
            found = await _find(client, report)
            content = await client.receipt(operator(), found.id, column, row)
        _write(out, content)

    run(body)


def _client(api: Any) -> ReportsClient:
    from holdfast.reports.client import ReportsClient

    return ReportsClient(api)


async def _find(client: ReportsClient, wanted: str) -> Report:
    if not is_id(wanted):
        page = await client.list(operator(), name=wanted, limit=1)
        wanted = page.items[0].id if page.items else wanted
    return await client.show(operator(), wanted)


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        output_width(),
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _print(report: Report) -> None:
    from rich.console import Console

    from holdfast.reports.render import render_cloud, render_correlation, render_table

    console = Console(width=min(output_width(), 120))
    if report.correlation is None:
        console.print(render_table(report))
        for note in report.notes:
            say(_wrapped(f"note: {note}"))
        return
    console.print(render_correlation(report))
    cloud = render_cloud(report)
    if cloud is not None:
        console.print()
        console.print(cloud)


def _inputs(report: Report) -> str:
    return ", ".join(f"{used.profile}@{used.publication}" for used in report.inputs)


async def _write_all(client: ReportsClient, report: Report, folder: Path) -> None:
    """Everything there is of a report, in one folder; in place of what it had there before."""
    import msgspec

    _make_folder(folder)
    shown = msgspec.json.format(msgspec.json.encode(report), indent=2)
    _replace(folder / f"{report.name}.json", shown)
    _replace(folder / f"{report.name}.csv", await client.data(operator(), report.id, "csv"))
    _replace(folder / f"{report.name}.parquet", await client.data(operator(), report.id, "parquet"))
    if report.chart != "none":
        _replace(folder / f"{report.name}.svg", await client.chart(operator(), report.id, "svg"))
        _replace(folder / f"{report.name}.png", await client.chart(operator(), report.id, "png"))
    say(f"wrote {folder / report.name}.*")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"cannot write to {folder}: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    with whole_file(path, replace=True) as file:
        file.write(content)


def _write(path: Path, content: bytes) -> None:
    with output(path) as file:
        file.write(content)


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(
            f"cannot read the spec {path}: {error.strerror}",
            hint="docs/reference/report.md shows what one looks like",
        ) from error


def _media_type(path: Path) -> str:
    return "application/json" if path.suffix.lower() == ".json" else "application/yaml"
