"""``holdfast record``, ``holdfast run`` and ``holdfast reject``: what was collected, and how."""

from __future__ import annotations

import contextlib
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from holdfast.kernel.cli import (
    output_width,
    print_fields,
    print_json,
    print_table,
    run,
    say,
    session,
    whole_file,
)
from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, NotFound
from holdfast.kernel.hints import BY_CODE
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from holdfast.kernel.http.client import ApiClient
    from holdfast.records.client import RecordsClient
    from holdfast.records.model import Provenance, Record, RecordChange, Run, RunFilter

record_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Read and export what is kept."
)
run_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="See what was collected, run by run."
)
reject_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Rows that failed typing, with the reason."
)
notice_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What somebody should be told about sources."
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
SinceOption = Annotated[str, typer.Option("--since", help="Not before this time (RFC 3339).")]
UntilOption = Annotated[str, typer.Option("--until", help="Before this time (RFC 3339).")]
RunArgument = Annotated[str, typer.Argument(help="The run's id.", show_default=False)]


def _client(api: ApiClient) -> RecordsClient:
    from holdfast.records.client import RecordsClient

    return RecordsClient(api)


async def _known(api: ApiClient, profile: str) -> None:
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
            await _known(api, profile)
        raise


def _more(following: str | None) -> None:
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
        typer.Option("--from", help="Periods that start on or after this day (or month, or year)."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", help="Periods that start before this day (or month, or year)."),
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
            page = await _client(api).records(operator(), which, cursor=cursor, limit=limit)
            if not (page.items or page.publication):
                await _known(api, profile)
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
        _more(page.next)

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
    record: Annotated[str, typer.Argument(help="The record's id.", show_default=False)],
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            found = await _client(api).record(operator(), record, as_of=as_of)
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
    record: Annotated[str, typer.Argument(help="The record's id.", show_default=False)],
    revision: Annotated[
        int | None, typer.Option("--revision", min=1, help="Which revision. [the newest]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; - is standard output.")
    ] = None,
    json: JsonOption = False,  # it always is; a failure is, too, with it
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            found = await _client(api).receipt(operator(), record, revision=revision)
        with _sink(out) as file:
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
    record: Annotated[str, typer.Argument(help="The record's id.", show_default=False)],
    revision: Annotated[
        int | None, typer.Option("--revision", min=1, help="Which revision. [the newest]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; - is standard output.")
    ] = None,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx, timeout_seconds=600) as api:
            client = _client(api)
            found = await client.record(operator(), record)
            source = _source_of(found.revisions, record, revision)
            stored = await client.response_body(operator(), source.run, source.response)
            # Closed here, while the connection is: what is left open ends in a traceback.
            chunks: Any = stored.chunks
            async with contextlib.aclosing(chunks):
                size, digest = await _write_checked(chunks, out, source.response_digest)
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


async def _write_checked(
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
        from holdfast.kernel.clock import parse_timestamp
        from holdfast.kernel.principal import operator

        async with session(ctx) as api:
            name = record[0] if len(record) == 1 else await _named(api, record[0], record[1:])
            found = await _client(api).record(operator(), name, as_of=as_of)
        known = found.revisions
        if as_of is not None:
            until = parse_timestamp(as_of)
            known = [
                one
                for one in known
                if one.recorded_from and parse_timestamp(one.recorded_from) <= until
            ]
        if json:
            print_json(known)
            return
        _print_history(known)

    run(body)


async def _named(api: ApiClient, profile: str, key: Sequence[str]) -> str:
    """The id of the record with this key, withdrawn or not."""
    from holdfast.kernel.principal import operator
    from holdfast.records.model import RecordFilter
    from holdfast.registry.client import RegistryClient

    fields = (await RegistryClient(api).show(operator(), profile)).profile.key
    names = [] if isinstance(fields, str) else fields
    if names and len(names) != len(key):
        raise Invalid(
            f"cannot find a record of {profile} by {len(key)} of its key's {len(names)} parts",
            hint=f"the key is {', '.join(names)}",
        )
    given = zip(names, key, strict=False)
    dimensions = {
        name.removeprefix("dimensions."): part
        for name, part in given
        if name.startswith("dimensions.")
    }
    which = RecordFilter(profile=profile, dimensions=dimensions, withdrawn=True)
    cursor = None
    while True:
        page = await _client(api).records(operator(), which, cursor=cursor, limit=1000)
        for one in page.items:
            if [str(part) for part in one.key] == list(key):
                return one.id
        cursor = page.next
        if cursor is None:
            raise NotFound(
                f"cannot find a record of {profile} with the key {', '.join(key)}",
                hint=f"`holdfast record list --profile {profile} --json` shows the keys",
            )


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
    """The first revision whole, of a later one what differs; a withdrawal says nothing."""
    if one.withdrawn:
        return []
    now = _flat(one)
    if before is None or before.withdrawn:
        return [f"{name}={value}" for name, value in now.items()]
    was = _flat(before)
    return [
        f"{name}={was.get(name)} -> {now.get(name)}"
        for name in dict.fromkeys([*was, *now])
        if was.get(name) != now.get(name)
    ]


def _flat(record: Record) -> dict[str, Any]:
    from holdfast.records.listing import measure_text, period_text

    return {
        "period": period_text(record.period),
        **record.dimensions,
        **{name: measure_text(record, name) for name in record.measures},
        **record.attributes,
    }


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
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; - is standard output.")
    ] = None,
) -> None:
    async def body() -> None:
        from holdfast.kernel.principal import operator

        async with session(ctx, timeout_seconds=600) as api:
            client = _client(api)
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
        say(f"{profile}, publication {found.publication}: {size} bytes")

    run(body)


async def _document(value: Any) -> AsyncIterator[bytes]:
    """As :func:`print_json` writes it."""
    import msgspec

    yield msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


async def _write(chunks: Any, out: Path | None) -> int:
    """Write to standard output, or whole or not at all to a file."""
    size = 0
    with _sink(out) as file:
        async for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
    return size


@contextlib.contextmanager
def _sink(out: Path | None) -> Iterator[BinaryIO]:
    if out is not None and str(out) != "-":
        with whole_file(out) as file:
            yield file
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


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
            page = await _client(api).runs(operator(), which, cursor=cursor, limit=limit)
            if profile and not page.items:
                await _known(api, profile)
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
                    _reason(one),
                ]
                for one in page.items
            ],
            numeric=_COUNTS,
            spare=["replayed", "started", "records", "withdrawn", "changed", "new", "reason"],
            wraps=["reason"],
            empty="no such runs"
            if status or since or until
            else f"no runs yet: `holdfast profile run {profile or 'NAME'}` starts one",
        )
        _more(page.next)

    run(body)


_COUNTS = ("records", "new", "changed", "withdrawn", "rejects")
_CHANGES = frozenset({"new", "changed", "unchanged", "withdrawn"})


def _counted(one: Run, names: Iterable[str]) -> dict[str, str]:
    """What a run came to, in numbers. One that published nothing changed nothing, whatever it had
    found until then."""
    in_vain = one.status.value in ("failed", "cancelled")
    return {
        name: "" if in_vain and name in _CHANGES else f"{getattr(one, name):,}" for name in names
    }


async def show_ended(api: ApiClient, run_id: str, quiet: bool) -> HoldfastError | None:
    """Print what a run came to; why it failed, with what to do next, if it did.

    ``None`` also for a run that nobody has opened, of which there is nothing to say.
    """
    from holdfast.kernel.principal import operator

    try:
        found = await _client(api).run(operator(), run_id)
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
    return HoldfastError(
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
    if run.rejects:
        return f"`holdfast reject list --profile {run.profile}` shows the rows and why"
    if run.code in BY_CODE:
        return f"{BY_CODE[run.code]}; {show} shows what came"
    return f"{show} shows what came; `holdfast profile preview FILE` tries a changed profile"


def remarks(found: Run) -> list[str]:
    """What somebody who started a run should hear although it was published."""
    if found.status.value != "succeeded":
        return []
    said = [f"{one.field} {one.detail}" for one in found.drift[:5]]
    if len(found.drift) > 5:
        said.append(f"{len(found.drift) - 5} more changes of shape: `holdfast run show {found.id}`")
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


def _reason(one: Run) -> str:
    """As a line of a list: cut where it is long, and visibly so."""
    whole = _whole_reason(one)
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
            client = _client(api)
            found = await client.run(operator(), run_id)
            responses = await client.responses(operator(), run_id)
        if json:
            print_json({"run": found, "responses": responses})
            return
        plain = to_builtins(found)
        plain |= {name: count for name, count in _counted(found, _CHANGES).items() if not count}
        print_fields({n: v for n, v in plain.items() if v not in ("", None) and n != "drift"})
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
                    one.response.status,
                    one.response.size_bytes,
                    one.response.fetched_at[:19],
                    one.response.digest[:19],
                    one.response.url,
                ]
                for one in responses
            ],
            title="raw responses",
            numeric=["bytes"],
            empty="no raw responses",
        )

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
            found = await _client(api).run_diff(
                operator(), newer, base=base, cursor=cursor, limit=limit
            )
        if json:
            print_json(found)
            return
        print_diff(found.items)
        would = "would be " if found.hidden else ""
        say(f"{would}{found.new} new, {found.changed} changed, {found.withdrawn} withdrawn")
        _more(found.next)

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
            found = await _client(api).accept_drift(operator(), run_id)
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
            client = _client(api)
            page = await client.rejects(operator(), which, cursor=cursor, limit=limit)
            if run_id and not page.items:
                await client.run(operator(), run_id)
            if profile and not page.items:
                await _known(api, profile)
        if json:
            print_json(page)
            return
        print_table(
            ["profile", "response", "position", "field", "reason", "row"],
            [
                [one.profile, one.response, one.position, one.field, one.reason, one.excerpt[:60]]
                for one in page.items
            ],
            numeric=["response", "position"],
            empty="no rejects",
        )
        _more(page.next)

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
            page = await _client(api).notices(
                operator(), profile=profile, cursor=cursor, limit=limit
            )
            if profile and not page.items:
                await _known(api, profile)
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
        _more(page.next)

    run(body)
