"""``holdfast record``: what was collected."""

from __future__ import annotations

import contextlib
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    check_new,
    output,
    output_width,
    print_fields,
    print_json,
    print_table,
    run,
    say,
    session,
)
from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, NotFound
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from holdfast.kernel.http.client import ApiClient
    from holdfast.records.client import RecordsClient
    from holdfast.records.model import Provenance, Record

record_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Read and export what is kept."
)

ProfileOption = Annotated[
    str, typer.Option("--profile", help="The profile's name.", show_default=False)
]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="What was published at this time (RFC 3339).")
]
VintageOption = Annotated[
    str, typer.Option("--vintage", help="latest, or first: what was said first of each key.")
]
CursorOption = Annotated[
    str | None, typer.Option("--cursor", help="Go on from the `next` of the page before.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="A new file; - is standard output.")]
RecordArgument = Annotated[str, typer.Argument(help="The record's id.", show_default=False)]
RevisionOption = Annotated[
    int | None, typer.Option("--revision", min=1, help="Which revision.", show_default="the newest")
]


def client_of(api: ApiClient) -> RecordsClient:
    from holdfast.records.client import RecordsClient

    return RecordsClient(api)


async def check_profile(api: ApiClient, profile: str) -> None:
    """Raises if there is no such profile; asked where nothing of it was found.

    Whoever may not ask for it, or reaches no registry, is told what was found: nothing.
    """
    from holdfast.kernel.principal import operator
    from holdfast.registry.client import RegistryClient

    try:
        await RegistryClient(api).status(operator(), profile)
    except HoldfastError as error:
        if error.code == "profile-unknown":
            raise


@asynccontextmanager
async def _of_known(api: ApiClient, profile: str) -> AsyncIterator[None]:
    """Tells a profile of which nothing is published from one that there is not."""
    try:
        yield
    except NotFound as error:
        if error.code == "not-published":
            await check_profile(api, profile)
        raise


def say_cursor(following: str | None) -> None:
    if following is not None:
        say(f"there is more: add --cursor {following}")


# --- record -------------------------------------------------------------------------------------


@record_app.command(
    "list",
    help="Records of a profile, as published now or at a time, in the order in which they came.",
    epilog="Example: holdfast record list --profile rain --as-of 2026-01-31T00:00:00Z "
    "--dimension station=KSEA --from 2025-01-01 | holdfast record list --profile rain "
    "--columns period,amount",
)
def list_records(
    ctx: typer.Context,
    profile: ProfileOption,
    as_of: AsOfOption = None,
    vintage: VintageOption = "latest",
    run_id: Annotated[
        str | None, typer.Option("--run", help="What this run wrote, even if it is hidden.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Periods that start on or after this day (or month, or year); hours and instants "
            "by UTC.",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Periods that start before this day (or month, or year); hours and instants "
            "by UTC.",
        ),
    ] = None,
    dimension: Annotated[
        list[str] | None, typer.Option("--dimension", help="NAME=VALUE; may be repeated.")
    ] = None,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="Withdrawn records, too.")] = False,
    columns: Annotated[
        str,
        typer.Option(
            "--columns", help="These columns, with commas between; or all. Else those that fit."
        ),
    ] = "",
    cursor: CursorOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator
        from holdfast.records.errors import NotPublished
        from holdfast.records.wire import record_filter

        if wrong := [text for text in dimension or [] if "=" not in text]:
            raise Invalid(
                f"cannot filter by the dimension {wrong[0][:60]!r}: it has no value",
                hint="write --dimension NAME=VALUE",
            )
        which = record_filter(
            profile=profile,
            as_of=as_of,
            vintage=vintage,
            run=run_id,
            period_from=start,
            period_to=end,
            dimension=dimension or [],
            withdrawn=withdrawn,
            provenance=json,
        )
        async with session(ctx) as api:
            page = await client_of(api).records(operator(), which, cursor=cursor, limit=limit)
            if not (page.items or page.publication):
                await check_profile(api, profile)
        if not (page.publication or run_id or as_of):
            raise NotPublished(
                f"cannot list records of {profile}: nothing of it is published yet",
                hint=f"`holdfast profile run {profile}` collects it, "
                f"`holdfast run list --profile {profile}` shows what came of it",
            )
        if json:
            print_json(page)
            return
        _print_records(page.items, columns)
        say_cursor(page.next)

    run(body)


def _print_records(records: Sequence[Record], wanted: str) -> None:
    from holdfast.records.listing import listing

    width = output_width()
    shown = listing(records, wanted=wanted, width=width) if records else None
    print_table(
        [] if shown is None else [column.heading for column in shown.columns],
        [] if shown is None else shown.rows,
        numeric=[] if shown is None else [c.heading for c in shown.columns if c.numeric],
        empty="no records: nothing matches, or nothing was published then; "
        "`holdfast run list` shows what was collected",
        whole=bool(wanted),
    )
    if shown is not None and (remark := shown.remark(width)):
        say(remark)


@record_app.command(
    "show",
    help="One record with all its revisions and where each came from.",
    epilog="Example: holdfast record show 0f3c… --json",
)
def show_record(
    ctx: typer.Context,
    record: RecordArgument,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            found = await client_of(api).record(operator(), record, as_of=as_of)
        if json:
            print_json(found)
            return
        _print_record(found.record)
        print_table(
            ["revision", "known from", "until", "state", "run"],
            [
                [
                    one.revision,
                    one.recorded_from,
                    one.recorded_to,
                    "withdrawn" if one.withdrawn else "",
                    one.run,
                ]
                for one in found.revisions
            ],
            title="revisions",
        )

    run(body)


@record_app.command(
    "receipt",
    help="A record's receipt: what shows, offline, that it is in the log. For `holdfast verify`. "
    "It is JSON, with or without --json.",
    epilog="Example: holdfast record receipt 0f3c… --out r.json",
)
def record_receipt(
    ctx: typer.Context,
    record: RecordArgument,
    revision: RevisionOption = None,
    out: OutOption = None,
    json: JsonOption = False,  # it always is; a failure is, too, with it
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        check_new(out)
        async with session(ctx) as api:
            found = await client_of(api).receipt(operator(), record, revision=revision)
        with output(out) as file:
            file.write(found)
        if out is None or str(out) == "-":
            return
        say(f"{len(found)} bytes; `holdfast verify {out} --trust FILE` checks them")

    run(body)


@record_app.command(
    "raw",
    help="The bytes that the source sent and a record was read from, as they came; their digest is "
    "checked on the way.",
    epilog="Example: holdfast record raw 0f3c… --out raw.json && sha256sum raw.json",
)
def record_raw(
    ctx: typer.Context,
    record: RecordArgument,
    revision: RevisionOption = None,
    out: OutOption = None,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        check_new(out)
        async with session(ctx, timeout_seconds=600) as api:
            client = client_of(api)
            found = await client.record(operator(), record)
            source = _source_of(found.revisions, record, revision)
            stored = await client.response_body(operator(), source.run, source.response)
            # Closed here, while the connection is: what is left open ends in a traceback.
            chunks: Any = stored.chunks
            async with contextlib.aclosing(chunks):
                size, digest = await write_checked(chunks, out, source.response_digest)
        say(f"{size} bytes, {digest}; the record is at position {source.position} in them")

    run(body)


def _source_of(revisions: list[Record], record: str, revision: int | None) -> Provenance:
    """Where a revision came from; a withdrawal came from no bytes at all."""
    wanted = [one for one in revisions if revision in (None, one.revision)]
    if not wanted:
        raise NotFound(f"cannot find revision {revision} of the record {record}")
    last = wanted[-1]
    if last.withdrawn or last.provenance is None:
        raise NotFound(
            f"cannot show the bytes of revision {last.revision}: it says that the source has the "
            "record no more",
            hint="--revision names an earlier one; `holdfast record history` lists them",
        )
    return last.provenance


async def write_checked(
    chunks: AsyncIterator[bytes], out: Path | None, expected: str
) -> tuple[int, str]:
    """Write the bytes; the file is there once it is whole and has the digest that was told."""
    import hashlib

    found = hashlib.sha256()

    async def seen() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            found.update(chunk)
            yield chunk
        if (digest := f"sha256:{found.hexdigest()}") != expected:
            raise Corrupt(f"cannot use the bytes: their digest is {digest}, not {expected}")

    return await _write(seen(), out), f"sha256:{found.hexdigest()}"


@record_app.command(
    "history",
    help="Every revision of one record: when it was known, what it said, what differed. The record "
    "is named by its id, or by its profile and the parts of its key.",
    epilog="Example: holdfast record history rain KSEA 2024-03 --as-of 2026-01-31T00:00:00Z | "
    "holdfast record history 0f3c…",
)
def record_history(
    ctx: typer.Context,
    record: Annotated[
        list[str],
        typer.Argument(
            help="Its id; or PROFILE and each part of its key, in the profile's order.",
            metavar="RECORD",
            show_default=False,
        ),
    ],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="What was known of it at this time (RFC 3339).")
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            client = client_of(api)
            if len(record) == 1:
                found = await client.record(operator(), record[0], as_of=as_of)
            else:
                profile, *key = record
                try:
                    found = await client.record_by_key(operator(), profile, key, as_of=as_of)
                except NotFound:
                    await check_profile(api, profile)
                    raise
        known = found.revisions
        if as_of is not None:
            known = _known_at(known, as_of)
        if found.omitted:
            say(f"{found.omitted} more revisions are not listed: --as-of lists those up to a time")
        if json:
            print_json(known)
            return
        _print_history(known)

    run(body)


def _known_at(revisions: Sequence[Record], as_of: str) -> list[Record]:
    """Those that were known then, with what was known of them then: no end that came later."""
    import msgspec

    from holdfast.kernel.clock import parse_timestamp

    moment = parse_timestamp(as_of)
    return [
        msgspec.structs.replace(one, recorded_to=None)
        if one.recorded_to and parse_timestamp(one.recorded_to) > moment
        else one
        for one in revisions
        if one.recorded_from and parse_timestamp(one.recorded_from) <= moment
    ]


def _print_history(revisions: Sequence[Record]) -> None:
    rows, before = [], None
    for one in revisions:
        rows.append(
            [
                one.revision,
                one.recorded_from,
                one.recorded_to,
                "withdrawn" if one.withdrawn else "",
                ", ".join(_said(one, before)),
                one.run,
            ]
        )
        before = one
    print_table(
        ["revision", "known from", "until", "state", "what it says", "run"],
        rows,
        # A revision holds until the next is known: where room is short, saying it once is enough.
        spare=["run", "until", "state"],
        wraps=["what it says"],
    )


def _said(one: Record, before: Record | None) -> list[str]:
    """The first revision whole, but for what has no value; of a later one what differs; a
    withdrawal says nothing."""
    if one.withdrawn:
        return []
    now = _flat(one)
    if before is None or before.withdrawn:
        return [f"{name}={value}" for name, value in now.items()]
    was = _flat(before)
    return [
        f"{name}={was.get(name, _NOTHING)} -> {now.get(name, _NOTHING)}"
        for name in dict.fromkeys([*was, *now])
        if was.get(name) != now.get(name)
    ]


_NOTHING = "(none)"


def _flat(record: Record) -> dict[str, Any]:
    from holdfast.records.listing import measure_text, period_text

    plain = {
        "period": period_text(record.period),
        **record.dimensions,
        **{name: measure_text(record, name) for name in record.measures},
        **record.attributes,
    }
    return {name: value for name, value in plain.items() if value not in (None, "")}


def _print_record(record: Record) -> None:
    from holdfast.records.listing import measure_text, period_text

    period = period_text(record.period)
    spelt = record.period.text if record.period else ""
    fields: dict[str, Any] = {
        "record": record.id,
        "profile": record.profile,
        "key": ", ".join(map(str, record.key)),
        "period": f"{period} (the source wrote {spelt})" if spelt not in ("", period) else period,
        **record.dimensions,
        **{name: measure_text(record, name) for name in record.measures},
        **record.attributes,
    }
    source = record.provenance
    if source is not None:
        fields |= {
            "from": source.url,
            "address": f"{source.address}{' (replayed)' if source.replayed else ''}",
            "fetched at": source.fetched_at,
            "raw bytes": f"{source.response_digest}, position {source.position}",
            "profile version": source.profile_digest,
            "worker": source.worker,
        }
    print_fields(fields)


@record_app.command(
    "export",
    help="All records of a profile as ndjson, csv or parquet, or the data package that describes "
    "the csv, on standard output or into a file.",
    epilog="Example: holdfast record export --profile rain --format csv --out rain.csv",
)
def export(
    ctx: typer.Context,
    profile: ProfileOption,
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option("--format", help="ndjson, csv, parquet or datapackage.")
    ] = "ndjson",
    as_of: AsOfOption = None,
    vintage: VintageOption = "latest",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="CSV: do not escape cells that begin like a formula."),
    ] = False,
    out: OutOption = None,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        check_new(out)
        async with session(ctx, timeout_seconds=600) as api:
            client = client_of(api)
            if format == "datapackage":
                async with _of_known(api, profile):
                    described = await client.data_package(operator(), profile, as_of=as_of)
                if out is None:
                    print_json(described)
                    return
                size = await _write(_document(described), out)
                say(f"{profile}, its description: {size} bytes")
                return
            if format == "parquet" and out is None and sys.stdout.isatty():
                raise Invalid(
                    "cannot print Parquet on a terminal", hint="add --out FILE, or redirect it"
                )
            async with _of_known(api, profile):
                found = await client.export(
                    operator(), profile, format=format, as_of=as_of, vintage=vintage, exact=exact
                )
            # Closed here, while the connection is: what is left open ends in a traceback.
            chunks: Any = found.chunks
            async with contextlib.aclosing(chunks):
                size = await _write(chunks, out)
        say(f"{profile}, publication {found.publication}: {size} bytes{_PERSONAL[found.personal]}")

    run(body)


_PERSONAL = {
    "none": "",
    "opened": "; personal fields are in it, opened",
    "sealed": "; personal fields are not in it: they are sealed",
}


async def _document(value: Any) -> AsyncIterator[bytes]:
    """As :func:`print_json` writes it."""
    import msgspec

    yield msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


async def _write(chunks: Any, out: Path | None) -> int:
    """Write to standard output, or whole or not at all to a file."""
    size = 0
    with output(out) as file:
        async for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
    return size
