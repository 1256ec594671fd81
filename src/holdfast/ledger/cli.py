"""``holdfast ledger``: read, follow, verify and prove the log of everything."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from holdfast.kernel.cli import (
    print_fields,
    print_json,
    print_list,
    print_table,
    progress,
    read_file,
    run,
    say,
    session,
    whole_file,
)
from holdfast.kernel.errors import Corrupt, Invalid, OutcomeUnknown, Unavailable
from holdfast.kernel.options import JsonOption
from holdfast.keyring.cli import register_subjects

if TYPE_CHECKING:
    from holdfast.ledger.client import LedgerClient
    from holdfast.ledger.model import Entry, FoldProgress, LedgerStatus, Progress

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The log of everything: read, verify, prove."
)

PAGE = 500
FAILURES_MAX = 20
UNSOUND_STATUS = 7
EXPORT_LINE_BYTES_MAX = 16 * 1024 * 1024
"""Of an export's lines; what is longer is cut there, and then is none."""


ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]


def _client(api: Any) -> LedgerClient:
    from holdfast.ledger.client import LedgerClient

    return LedgerClient(api)


@app.command(
    "read",
    help="Read entries in their order; with --follow those that come, too.",
    epilog="Example: holdfast ledger read --stream run/0190… --from 1 --follow",
)
def read(
    ctx: typer.Context,
    stream: Annotated[str | None, typer.Option("--stream", help="Only this stream.")] = None,
    first: Annotated[
        int | None,
        typer.Option("--from", min=0, help="Position (of a stream: version) to begin with."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as entries come.")] = False,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="What was recorded by this time (RFC 3339).")
    ] = None,
    json: JsonOption = False,
) -> None:
    moment = _moment(as_of)
    if follow and moment is not None:
        raise typer.BadParameter("--follow and --as-of exclude each other")

    async def body() -> None:
        async with session(ctx) as api:
            ledger = _client(api)
            shown = 0
            after = (first or 0) - 1 if stream is None else -1
            async for entry in _pages(ledger, stream, first or 0, moment):
                if limit is not None and shown >= limit:
                    return
                _show(entry, json)
                shown += 1
                after = entry.position
            if not shown and not follow:
                say("nothing there")
            if follow:
                await _follow(ledger, stream, after + 1, json, limit, shown)

    run(body)


def _moment(text: str | None) -> datetime | None:
    from holdfast.kernel.clock import parse_timestamp

    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time with an offset, such as 2026-11-01T00:00:00Z"
        ) from None


async def _pages(
    ledger: LedgerClient, stream: str | None, first: int, as_of: datetime | None
) -> AsyncIterator[Entry]:
    cursor: str | None = None
    while True:
        page = await ledger.read(
            None, stream=stream, first=first, limit=PAGE, as_of=as_of, cursor=cursor
        )
        for entry in page.items:
            yield entry
        cursor = page.next
        if cursor is None:
            return


async def _follow(
    ledger: LedgerClient, stream: str | None, first: int, json: bool, limit: int | None, shown: int
) -> None:
    """Follow, and begin again where the stream of events ended, for as long as the system is up."""
    import asyncio

    failures = 0
    while failures < FAILURES_MAX:
        try:
            async for entry in ledger.follow(None, first=first, stream=stream):
                _show(entry, json)
                sys.stdout.flush()
                first, failures, shown = entry.position + 1, 0, shown + 1
                if limit is not None and shown >= limit:
                    return
        except Unavailable as error:
            failures += 1
            say(f"waiting: {error.detail}")
        await asyncio.sleep(min(5.0, 0.2 * 2**failures))
    raise Unavailable("cannot follow any longer: the system does not answer")


def _show(entry: Entry, json: bool) -> None:
    encoded = msgspec.json.encode(entry).decode()
    if json:
        sys.stdout.write(f"{encoded}\n")
        return
    payload = "(erased)" if entry.erased else msgspec.json.encode(entry.payload).decode()
    sys.stdout.write(
        f"{entry.position}  {entry.recorded}  {entry.stream}@{entry.version}  {entry.type}  "
        f"{entry.subject}  {payload}\n"
    )


@app.command(
    "status",
    help="How the log stands: size, root, origin, and what is wrong with it, if anything.",
    epilog="Example: holdfast ledger status --json",
)
def status(ctx: typer.Context, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _client(api).status(None)
        if json:
            print_json(found)
        else:
            print_status(found)
        if found.damage is not None:
            raise typer.Exit(1)  # as `status` does: scripts look at nothing else

    run(body)


def print_status(found: LedgerStatus) -> None:
    """A log as people read it, with what to do about whatever keeps it from being appended to."""
    shown: dict[str, object] = {
        "origin": found.origin,
        "size": found.size,
        "root": found.root,
        "recorded": found.recorded,
        "published": found.published_size,
        "writable": "yes" if found.writable else "no",
    }
    if found.stopped:
        shown["writable"] = f"no: {found.stopped}"
    elif not found.writable and found.damage is None:
        shown["writable"] = "no: another instance appends"
    if found.damage is not None:
        shown["damage"] = f"{found.damage.reason}: {found.damage.detail}"
        last = "?" if found.damage.last is None else found.damage.last
        shown["positions"] = f"{found.damage.first} to {last}"
    if found.withheld:
        shown["no checkpoint"] = found.withheld
    print_fields(shown)
    if found.damage is not None:
        from holdfast.ledger.log.soundness import hint_of

        say(f"hint: {hint_of(found.damage.reason)}")
    if found.stopped:
        from holdfast.ledger.errors import CLOCK

        say(f"hint: {CLOCK}")


@app.command(
    "append",
    help="Append an event; its payload is JSON on standard input or an argument.",
    epilog='Example: holdfast ledger append notes/today note.added \'{"text":"hello"}\'',
)
def append(
    ctx: typer.Context,
    stream: Annotated[str, typer.Argument(help="The stream, such as notes/today.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="What happened: note.added.")],
    payload: Annotated[str, typer.Argument(help="JSON; - reads standard input.")] = "-",
    expected: Annotated[
        int | None, typer.Option("--expected", min=0, help="The version the stream must be at.")
    ] = None,
    event_id: Annotated[
        str, typer.Option("--id", help="A UUIDv7: repeating it appends nothing.")
    ] = "",
    about: Annotated[
        str | None,
        typer.Option(
            "--about",
            metavar="NAME",
            help="Whose data the payload holds, to the letter: `ledger erase NAME` makes it "
            "unreadable. Without it no erasure touches the payload.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.kernel.canonical import decode_strict
        from holdfast.kernel.clock import SystemClock
        from holdfast.kernel.ids import id_source
        from holdfast.ledger.model import Append, NewEvent

        if about == "":
            raise Invalid(
                "cannot append: --about names nobody",
                hint="leave it out for what is about nobody: no erasure would touch the payload",
            )

        text = sys.stdin.read() if payload == "-" else payload
        plain = decode_strict(text.encode())
        if not isinstance(plain, dict):
            raise Invalid("cannot append: the payload is a JSON object")
        # With an id it is the same event however often it is sent: also from the next command.
        named = event_id or id_source(SystemClock())()
        event = NewEvent(stream=stream, type=kind, payload=plain, id=named, about=about or "")
        wanted = Append(events=[event], expected={} if expected is None else {stream: expected})
        async with session(ctx) as api:
            try:
                found = await _client(api).append(None, wanted)
            except OutcomeUnknown as error:
                raise OutcomeUnknown(
                    error.detail,
                    code=error.code,
                    hint=f"append it again with --id {named}: then it is there once",
                ) from error
        if json:
            print_json(found)
            return
        for placed in found.events:
            sys.stdout.write(f"{placed.position}  {placed.stream}@{placed.version}  {placed.id}\n")
        if found.repeated:
            say(f"appended before, at {found.events[0].recorded}: the id is known, nothing is new")

    run(body)


@app.command(
    "trust",
    help="What a verifier elsewhere needs: origins and keys. Take it once, over a way you trust.",
    epilog="Example: holdfast ledger trust > holdfast.trust",
)
def trust(
    ctx: typer.Context,
    json: JsonOption = False,  # it always is; a failure is, too, with it
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            print_json(await _client(api).trust(None))

    run(body)


@app.command(
    "checkpoint",
    help="The newest checkpoint: origin, size and root, signed (a C2SP note).",
    epilog="Example: holdfast ledger checkpoint > checkpoint.txt",
)
def checkpoint(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.ledger.notes import parse_checkpoint, parse_note

    async def body() -> None:
        async with session(ctx) as api:
            note = await _client(api).checkpoint(None)
        if not json:
            sys.stdout.write(note)
            return
        found = parse_checkpoint(parse_note(note).text)
        root = b64encode(found.root).decode()
        print_json({"origin": found.origin, "size": found.size, "root": root, "note": note})

    run(body)


@app.command(
    "prove",
    help="An entry with the proof that it is in the log.",
    epilog="Example: holdfast ledger prove 42 > proof.json",
)
def prove(
    ctx: typer.Context,
    position: Annotated[int, typer.Argument(min=0, help="The entry's position.")],
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=1,
            help="In the tree of this size.",
            show_default="the newest checkpoint's",
        ),
    ] = None,
) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            print_json(await _client(api).inclusion(None, position, size))

    run(body)


TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", help="Your policy file: holdfast ledger trust > FILE."),
]


@app.command(
    "consistency",
    help="The proof that the log only grew between two sizes; or, with --since, whether it extends "
    "a checkpoint that you have kept.",
    epilog="Example: holdfast ledger consistency 100 200; holdfast ledger consistency --since "
    "kept.note --trust holdfast.trust",
)
def consistency(
    ctx: typer.Context,
    first: Annotated[int | None, typer.Argument(min=0, help="The earlier size.")] = None,
    second: Annotated[
        int | None, typer.Argument(min=0, help="The later one.", show_default="all")
    ] = None,
    since: Annotated[
        Path | None, typer.Option("--since", help="A checkpoint that was kept outside.")
    ] = None,
    trust: TrustOption = None,
) -> None:
    if (first is None) is (since is None) or (since is None) is not (trust is None):
        raise typer.BadParameter("give two sizes, or --since FILE with --trust FILE")

    async def body() -> None:
        async with session(ctx) as api:
            if since is None or trust is None:
                print_json(await _client(api).consistency(None, first or 0, second))
                return
            old, new = await _extended(_client(api), since, trust)
            sys.stdout.write(f"the log of {new} entries extends the checkpoint of {old}\n")

    run(body)


@contextmanager
def _telling(which: str) -> Iterator[None]:
    """Say of which of two checkpoints something is wrong."""
    from holdfast.ledger.errors import NoteRefused

    try:
        yield
    except NoteRefused as error:
        raise NoteRefused(f"cannot use {which}: {error.detail}", hint=error.hint) from error


async def _extended(client: LedgerClient, since: Path, trust: Path) -> tuple[int, int]:
    """The sizes of a kept checkpoint and of the newest, which extends it; ``LogChanged`` if not."""
    from holdfast.ledger.errors import LogChanged
    from holdfast.ledger.tree import check_consistency
    from holdfast.ledger.trusting import TRUST_BYTES_MAX, decode_trust, trusted_checkpoint

    policy = decode_trust(read_file(trust, TRUST_BYTES_MAX))
    note = read_file(since, TRUST_BYTES_MAX).decode(errors="replace")
    with _telling(f"the checkpoint that was kept, {since}"):
        kept = trusted_checkpoint(note, policy)
    newest = await client.checkpoint(None)
    with _telling(f"the log's newest checkpoint, as {trust} has its keys"):
        now = trusted_checkpoint(newest, policy)
    if now.origin != kept.origin:
        raise LogChanged(
            f"cannot extend the checkpoint: it is of {kept.origin}, and the log is {now.origin}",
            hint="the first entry of a new origin cites the old one, up to which size it was sound",
        )
    if now.size < kept.size:
        raise LogChanged(
            f"cannot extend the checkpoint: it speaks of {kept.size} entries, and the newest one "
            f"of {now.size}"
        )
    if kept.size:
        proof = await client.consistency(None, kept.size, now.size)
        try:
            path = [bytes.fromhex(part) for part in proof.path]
            check_consistency(kept.size, now.size, kept.root, now.root, path)
        except (ValueError, Corrupt) as error:
            raise LogChanged(
                f"cannot extend the checkpoint: the log does not extend that of {kept.size} "
                f"entries: {error}",
                hint="keep the checkpoint, which the log signed: it shows that the log was changed",
            ) from error
    return kept.size, now.size


@app.command(
    "verify",
    help="Recompute everything from the stored bytes: sound, or the first entry that is not. With "
    "--export check the file of an export instead, offline.",
    epilog="Example: holdfast ledger verify; holdfast ledger verify --export ledger.ndjson --trust "
    "holdfast.trust",
)
def verify(
    ctx: typer.Context,
    exported: Annotated[
        Path | None, typer.Option("--export", help="What `holdfast ledger export` wrote.")
    ] = None,
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    if (exported is None) is not (trust is None):
        raise typer.BadParameter("--export FILE and --trust FILE belong together")
    if exported is not None and trust is not None:
        _verify_export(exported, trust, json)
        return

    async def body() -> Progress | None:
        last: Progress | None = None
        async with session(ctx) as api:
            with progress("verifying", quiet=json) as show:
                async for line in _client(api).verify(None):
                    show(line.checked, line.size)
                    last = line
        return last

    found = run(body)
    if found is None or found.sound is None:
        say("error: cannot verify: the answer was cut off")
        raise typer.Exit(6)
    if json:
        print_json(found)
    elif found.sound:
        sys.stdout.write(f"sound: {found.checked} entries, root {found.root}\n")
        if found.checkpoints:
            say(f"compared with {found.checkpoints} roots that are kept apart from the entries:")
            say("those of its signed checkpoints, and of the head file")
        if found.erased:
            say(f"{found.erased} entries are erased: their headers are sound, nothing reads them")
        for position in found.twice:
            say(f"entry {position} is an event that was taken before: its id was appended again")
            say("while the index had lost it; asked for by its id, its first place is answered")
    else:
        sys.stdout.write(f"not sound: entry {found.position}: {found.reason}\n")
    if not found.sound:
        raise typer.Exit(UNSOUND_STATUS)


def _export_lines(exported: Path) -> Iterator[bytes]:
    try:
        with exported.open("rb") if str(exported) != "-" else sys.stdin.buffer as file:
            while line := file.readline(EXPORT_LINE_BYTES_MAX):
                yield line
    except OSError as error:
        raise Invalid(f"cannot read {exported}: {error.strerror}") from error


def _verify_export(exported: Path, trust: Path, json: bool) -> None:
    from holdfast.ledger.exported import CheckedExport, check_export
    from holdfast.ledger.trusting import TRUST_BYTES_MAX, decode_trust

    async def body() -> CheckedExport:
        policy = decode_trust(read_file(trust, TRUST_BYTES_MAX))
        return check_export(_export_lines(exported), policy)

    found = run(body)
    if json:
        print_json(found)
        return
    sys.stdout.write(
        f"sound: {found.entries} entries in {found.streams} streams of {found.origin}, "
        f"root {found.root}\n"
    )
    if found.erased:
        say(f"{found.erased} entries are erased: their headers are sound, nothing reads them")


@app.command(
    "export",
    help="Every entry with what opens it, a line each; the last line is the checkpoint over them.",
    epilog="Example: holdfast ledger export --out ledger.ndjson",
)
def export(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new file.", show_default="standard output")
    ] = None,
    first: Annotated[int, typer.Option("--from", min=0, help="Position to begin with.")] = 0,
) -> None:
    async def body() -> None:
        if out is not None and out.is_file():
            raise Invalid(
                f"cannot write {out}: it is there already",
                hint="what was exported before is evidence: name another file, or move it",
            )
        async with session(ctx) as api:
            with whole_file(out) if out else nullcontext(sys.stdout.buffer) as target:
                count, whole = 0, False
                async for line in _client(api).export(None, first):
                    target.write(msgspec.json.encode(line) + b"\n")
                    count += line.position is not None
                    whole = bool(line.checkpoint)
                target.flush()
                if not whole:
                    raise Unavailable("cannot export: the answer was cut off")
            say(f"{count} entries exported")

    run(body)


@app.command(
    "rotate",
    help="Sign with a new key from here on; the old one stays valid up to its size.",
    epilog="Example: holdfast ledger rotate",
)
def rotate(ctx: typer.Context, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _client(api).rotate(None)
        if json:
            print_json(found)
            return
        sys.stdout.write(f"{found.keys[-1].key}\n")
        say("verifiers need the new key: hand them `holdfast ledger trust` again")

    run(body)


@app.command(
    "restart",
    help="Continue a log that lost something under a new origin, from what is sound.",
    epilog='Example: holdfast ledger restart --reason "the disk of 12 March"',
)
def restart(
    ctx: typer.Context,
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    told = "the log continues as {0.origin} with {0.size} entries"
    _goes_on(ctx, lambda ledger: ledger.restart(None, reason), told, json)


def _goes_on(
    ctx: typer.Context,
    ask: Callable[[LedgerClient], Awaitable[LedgerStatus]],
    told: str,
    json: bool,
) -> None:
    """Ask for what lets a log go on, and tell how it stands then."""

    async def body() -> None:
        async with session(ctx) as api:
            found = await ask(_client(api))
        if json:
            print_json(found)
            return
        sys.stdout.write(f"{told.format(found)}\n")

    run(body)


@app.command(
    "accept-clock",
    help="Let appends go on after the clock was ahead: say that it is right now.",
    epilog='Example: holdfast ledger accept-clock --reason "it was a year ahead on 12 March"',
)
def accept_clock(
    ctx: typer.Context,
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    told = "entries are recorded at {0.recorded} until the clock is there"
    _goes_on(ctx, lambda ledger: ledger.accept_clock(None, reason), told, json)


@app.command(
    "rebuild",
    help="Make the index anew from the log.",
    epilog="Example: holdfast ledger rebuild",
)
def rebuild(ctx: typer.Context, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx, timeout_seconds=3600) as api:
            found = await _client(api).rebuild(None)
        if json:
            print_json(found)
            return
        sys.stdout.write(f"the index holds {found.size} entries\n")

    run(body)


projection_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What the log says, folded: list, show, remake.",
)
app.add_typer(projection_app, name="projection")


@projection_app.command(
    "list",
    help="Every projection, with the position of the log that it reflects.",
    epilog="Example: holdfast ledger projection list --json",
)
def projection_list(ctx: typer.Context, json: JsonOption = False) -> None:
    async def body() -> None:
        async with session(ctx) as api:
            found = await _client(api).projection_list(None)
        if json:
            print_list(found)
            return
        print_table(
            ["name", "position", "of", "made", "since"],
            [[p.name, p.position, p.size, p.generation, p.started_at] for p in found],
            empty="there are no projections",
        )

    run(body)


@projection_app.command(
    "show",
    help="A projection's states by key: now, as of a position, or as of a time.",
    epilog="Example: holdfast ledger projection show runs --as-of 2026-11-01T00:00Z",
)
def projection_show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name; `ledger projection list` has them.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="As it was at this time (RFC 3339).")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option("--position", min=0, help="As it was when the log had this many entries."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    json: JsonOption = False,
) -> None:
    moment = _moment(as_of)
    if moment is not None and position is not None:
        raise typer.BadParameter("--as-of and --position exclude each other")

    async def body() -> None:
        async with session(ctx) as api:
            ledger, shown, at = _client(api), 0, position
            if moment is not None:
                at = (await ledger.moment(None, moment)).position
            cursor: str | None = None
            while True:
                page = await ledger.projected(None, name, position=at, cursor=cursor, limit=PAGE)
                for each in page.items:
                    if limit is not None and shown >= limit:
                        break
                    line = msgspec.json.encode(each if json else each.state).decode()
                    sys.stdout.write(f"{line}\n" if json else f"{each.key}  {line}\n")
                    shown += 1
                cursor = page.next
                if cursor is None or (limit is not None and shown >= limit):
                    break
            say(f"{shown} as of position {page.position}")

    run(body)


@projection_app.command(
    "rebuild",
    help="Make a projection anew from the log; the one there is serves until that is done.",
    epilog="Example: holdfast ledger projection rebuild runs",
)
def projection_rebuild(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name; `ledger projection list` has them.")],
    json: JsonOption = False,
) -> None:
    async def body() -> FoldProgress | None:
        last: FoldProgress | None = None
        async with session(ctx) as api:
            with progress("folding", quiet=json) as show:
                async for line in _client(api).projection_rebuild(None, name):
                    show(line.folded, line.size)
                    last = line
        return last

    found = run(body)
    if found is None or not found.serving:
        say("error: cannot rebuild: the answer was cut off; what served before still does")
        raise typer.Exit(6)
    if json:
        print_json(found)
        return
    sys.stdout.write(f"{name} reflects {found.folded} entries\n")


register_subjects(app, "ledger")
