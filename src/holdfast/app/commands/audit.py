"""``holdfast audit``: who did what, and who was turned away, out of the ledger."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import (
    command_line,
    output_width,
    print_list,
    print_table,
    run,
    say,
    session,
    visible,
)
from holdfast.kernel.errors import Denied, Invalid
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.ledger.client import LedgerClient
    from holdfast.ledger.model import Entry

app = typer.Typer(add_completion=False)

PAGE = 500
COLUMNS = ["time", "who", "what", "of", "detail", "times", "request"]
ABOUT_ACCESS = (
    "access.", "api-key.", "backup.", "invitation.", "join-token.", "key.", "ledger.", "passkey.",
    "person.", "records.exported", "records.opened", "records.receipted", "report.queried",
    "response.downloaded", "role.", "session.", "subject.",
    "tenant.", "worker.registered", "worker.revoked",
)  # fmt: skip
"""Types of events that say who may do what, who used it, and who was refused."""
_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
_MOMENT = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{6}Z")
_SHORT_ID = re.compile(r"[0-9a-f-]{8,}")
"""The beginning of an id is taken for the whole of it."""


@app.command(
    help="Who signed in, who was refused, which keys, roles and workers were made and ended, who "
    "exported and opened what. With --who everything that one subject did: a person, a worker, a "
    "key (its name or id), `operator`, or `nobody` for those who never said who they are.",
    epilog="Examples: holdfast audit --since 24h | holdfast audit --who operator --since 7d --json "
    "| holdfast audit --who nobody --type access.refused",
)
def audit(
    ctx: typer.Context,
    who: Annotated[str, typer.Option("--who", help="Only this subject, and all it did.")] = "",
    since: Annotated[
        str, typer.Option("--since", help="How far back: 30m, 24h, 7d, or a time (RFC 3339).")
    ] = "7d",
    type_: Annotated[
        str, typer.Option("--type", help="Only events whose type begins so: access., api-key.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = (
        1000
    ),
    json: JsonOption = False,
) -> None:
    """Read the ledger from that time on and show what is of interest."""

    async def body() -> list[Entry]:
        begins = began(since, datetime.now(UTC))
        async with session(ctx) as api:
            from holdfast.ledger.client import LedgerClient

            subjects = await _subjects(api, who) if who else frozenset()
            found: list[Entry] = []
            async for entry in _entries(LedgerClient(api), begins):
                if any(wanted(entry.type, each, subjects, type_) for each in _people(entry)):
                    found.append(entry)
                    if len(found) > limit:
                        break
            return found

    found = run(body)
    line = command_line(ctx)
    if line.control_plane is None and line.running() is None and not json:
        say("nothing runs here: what was done since it last did is told once `holdfast up` runs")
    if len(found) > limit:
        found.pop()
        say(f"only the first {limit} are shown: --limit shows more, --since less")
    if json:
        print_list([_row(entry) for entry in found])
        return
    lines = [
        [
            row["time"][:19].replace("T", " "),
            row["who"],
            row["type"],
            row["stream"],
            _detail(row["payload"]),
            str(row["payload"].get("count") or len(_reads(row["payload"])) or 1),
            row["request_id"],
        ]
        for row in map(_row, found)
    ]
    if lines and _needed(lines) > output_width():
        _print_blocks(lines)
        return
    print_table(
        COLUMNS,
        lines,
        numeric=["times"],
        spare=["of", "request"],
        wraps=["detail"],
        empty="nothing of that kind is recorded",
    )


def _needed(lines: list[list[str]]) -> int:
    """How wide a table is in which no name and no id is broken: what says who, what and when is
    whole, and of the detail each word."""
    whole = [
        max(len(name), *(len(visible(line[place])) for line in lines))
        for place, name in enumerate(COLUMNS)
        if name in ("time", "who", "what", "times")
    ]
    words = [len(word) for line in lines for word in visible(line[4]).split()]
    return sum(whole) + max([len("detail"), *words]) + 2 * len(whole)


def _print_blocks(lines: list[list[str]]) -> None:
    """A few lines for each entry, where there is no room for a table; ids are never broken."""
    indent = max(map(len, COLUMNS)) + 4
    for time, who, what, *rest in lines:
        sys.stdout.write(f"{time}  {visible(what)}\n")
        for name, value in zip(("who", *COLUMNS[3:]), (who, *rest), strict=True):
            if not value or (name, value) == ("times", "1"):
                continue
            told = textwrap.wrap(
                visible(value),
                max(output_width() - indent, 1),
                break_long_words=False,
                break_on_hyphens=False,
            )
            sys.stdout.write(f"  {name}".ljust(indent) + f"\n{' ' * indent}".join(told) + "\n")


def began(text: str, now: datetime) -> datetime:
    """When ``--since`` begins; :class:`Invalid` if it is neither a duration nor a time."""
    from holdfast.kernel.clock import parse_timestamp

    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and unit in units:
        with suppress(OverflowError):
            return now - timedelta(**{units[unit]: int(number)})
    with suppress(ValueError):
        return parse_timestamp(text)
    raise Invalid(
        f"cannot look back {text[:80]!r}", hint="30m, 24h, 7d, or a time: 2026-11-01T00:00:00Z"
    )


def wanted(type_: str, subject: str, subjects: frozenset[str], begins: str) -> bool:
    """Whether an event is asked for."""
    if begins and not type_.startswith(begins):
        return False
    if subjects:
        return any(
            subject == each or (_SHORT_ID.fullmatch(each) and subject.startswith(each))
            for each in subjects
        )
    return bool(begins) or type_.startswith(ABOUT_ACCESS)


async def _subjects(api: Any, who: str) -> frozenset[str]:
    """The subjects that ``who`` may mean: itself, and keys and workers of that name."""
    from holdfast.fleet.client import FleetClient
    from holdfast.identity.client import IdentityClient

    found = {who}
    with suppress(Denied):
        before: str | None = ""
        while before is not None:
            keys, before = await IdentityClient(api).list_keys(None, before=before, limit=PAGE)
            found |= {key.id for key in keys if key.name == who}
    with suppress(Denied):
        after: str | None = ""
        while after is not None:
            workers, after = await FleetClient(api).list_workers(None, after=after, limit=PAGE)
            found |= {worker.id for worker in workers if worker.name == who}
    return frozenset(found)


async def _entries(ledger: LedgerClient, begins: datetime) -> AsyncIterator[Entry]:
    """The entries recorded since then, in their order."""
    first = await _first_since(ledger, begins)
    cursor: str | None = None
    while True:
        page = await ledger.read(None, first=first, limit=PAGE, cursor=cursor)
        for entry in page.items:
            yield entry
        cursor = page.next
        if cursor is None:
            return


async def _first_since(ledger: LedgerClient, begins: datetime) -> int:
    """The first position recorded at or after ``begins``: recorded time never goes back."""
    from holdfast.kernel.clock import parse_timestamp

    low, high = 0, (await ledger.status(None)).size
    while low < high:
        middle = (low + high) // 2
        page = await ledger.read(None, first=middle, limit=1)
        if page.items and parse_timestamp(page.items[0].recorded) < begins:
            low = middle + 1
        else:
            high = middle
    return low


def _reads(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The reads that one event tells of together: see :mod:`holdfast.kernel.reads`."""
    found = payload.get("reads")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _people(entry: Entry) -> list[str]:
    """Who did it; several, where one event tells of the reads of several."""
    readers = {str(each.get("by", "")) for each in _reads(entry.payload or {})}
    return [entry.subject] if entry.subject or not readers else sorted(readers)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "time": entry.time,
        "who": " ".join(_people(entry)),
        "type": entry.type,
        "stream": entry.stream,
        "request_id": entry.request_id,
        "position": entry.position,
        "payload": entry.payload or {},
    }


def _detail(payload: dict[str, Any]) -> str:
    shown = [payload.get(name, "") for name in ("code", "method", "route", "network")]
    told = " ".join(str(each) for each in shown if each)
    if told:
        return told
    reads = _reads(payload)
    if reads:
        payload = {k: v for k, v in reads[0].items() if k not in ("at", "by", "request")}
    plain = {k: v for k, v in payload.items() if isinstance(v, str | int) and k != "count"}
    rest = [(name, value) for name, value in plain.items() if value != ""]
    return ", ".join(f"{name} {_digest(value)}" for name, value in rest[:4])


def _digest(value: str | int) -> str:
    """A digest by its beginning, which is enough to know it again, and a moment by its second;
    ``--json`` has the whole."""
    text = str(value)
    if found := _DIGEST.fullmatch(text):
        return f"{text[: len(found[1] or '') + 16]}…"
    return f"{text[:19]}Z" if _MOMENT.fullmatch(text) else text
