"""``holdfast query``: SQL over records, events, runs and tasks as of any moment."""

from __future__ import annotations

import sys
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
    session,
    visible,
)
from holdfast.kernel.options import JsonOption
from holdfast.kernel.principal import operator

if TYPE_CHECKING:
    from holdfast.reports.query import QueryResult

CELL_LEAST = 20
"""So many characters of its longest value a column of a table has at least."""

app = typer.Typer(add_completion=False, help="Ask SQL about any moment.")


@app.command(
    help="Ask one SELECT over records, events, runs, tasks, and a table for each profile, as they "
    "were at any moment. `SHOW TABLES` and `DESCRIBE runs` tell what there is.",
    epilog='Example: holdfast query "select status, count(*) from runs group by 1" '
    "--as-of 2026-11-01T00:00Z",
)
def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="The SELECT; - reads standard input.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="As it was at this time (RFC 3339).")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option("--position", min=0, help="As it was when the ledger had this many entries."),
    ] = None,
    vintage: Annotated[
        str, typer.Option("--vintage", help="latest, or first: what was said first.")
    ] = "latest",
    events_from: Annotated[
        int, typer.Option("--events-from", min=0, help="Leave earlier entries out of events.")
    ] = 0,
    format_: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave CSV cells that look like formulas as they are.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="A new file; - is standard output.")] = Path(
        "-"
    ),
    json: JsonOption = False,
) -> None:
    if format_ not in ("table", "csv", "json"):
        raise typer.BadParameter(f"{format_!r} is none of table, csv, json")
    if vintage not in ("latest", "first"):
        raise typer.BadParameter(f"{vintage!r} is neither latest nor first")

    async def body() -> None:
        from holdfast.reports.client import QueryClient
        from holdfast.reports.query import Query

        wanted = Query(
            sql=sys.stdin.read() if sql == "-" else sql,
            as_of=as_of,
            position=position,
            vintage="first" if vintage == "first" else "latest",
            events_from=events_from,
        )
        check_new(out)
        async with session(ctx) as api:
            client = QueryClient(api)
            if format_ == "csv" and not json:
                _write(out, await client.answer_csv(operator(), wanted, exact=exact))
                return
            found = await client.query(operator(), wanted)
        for table in found.tables:
            # Which tables it reads only the engine knows; one whose name is not in it, it does not.
            if table.sealed and table.name.lower() in wanted.sql.lower():
                say(
                    f"{table.name} is without {', '.join(table.sealed)}: personal, and sealed "
                    f"(`holdfast record list --profile {table.profile}` shows them to whoever may "
                    "see them)"
                )
        if json or format_ == "json" or str(out) != "-":
            _print_json(found, out)
            return
        _print_rows(
            [column.name for column in found.columns],
            [[_shown(value) for value in row] for row in found.rows],
        )
        rows = "1 row" if found.row_count == 1 else f"{found.row_count:,} rows"
        say(f"{rows}, as of position {found.position} of the ledger")

    run(body)


def _print_rows(columns: list[str], rows: list[list[str]]) -> None:
    """A table where one fits; else a line for each value: cells of a few letters read badly."""
    longest = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if not rows or sum(min(size, CELL_LEAST) + 2 for size in longest) <= output_width():
        print_table(columns, rows, empty="no rows")
        return
    indent = max(map(len, columns)) + 2
    for number, row in enumerate(rows, 1):
        sys.stdout.write(f"— row {number}\n")
        for name, value in zip(columns, row, strict=True):
            sys.stdout.write(f"{visible(name).ljust(indent)}{visible(value)}\n")


def _print_json(found: QueryResult, out: Path) -> None:
    if str(out) == "-":
        print_json(found)
        return
    import msgspec

    _write(out, msgspec.json.format(msgspec.json.encode(found), indent=2))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        import msgspec

        return msgspec.json.encode(value).decode()
    return str(value)


def _write(path: Path, content: bytes) -> None:
    with output(path) as file:
        file.write(content)
