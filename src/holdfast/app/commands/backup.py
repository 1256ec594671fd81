"""``holdfast backup``: everything in two files, the way back, and the rehearsal of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.app.line import settings_of
from holdfast.kernel.cli import (
    command_line,
    named_directory,
    print_fields,
    print_json,
    run,
    say,
    session,
)
from holdfast.kernel.errors import Corrupt, NotFound, Unavailable
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.app.backup.restore import Progress, Restored, Verified
    from holdfast.app.settings import Settings

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Back up, restore, and rehearse it."
)
POLL_SECONDS = 0.2
FileArgument = Annotated[Path, typer.Argument(help="The file with the data (.hfb).")]


@app.callback()
def _group() -> None:
    """Backups: the data in one file, the keys apart in another that is kept for less long."""


@app.command(
    "create",
    help="Back up everything of this system: the data in one file, the keys in another.",
    epilog="Example: holdfast backup create --json",
)
def create(
    ctx: typer.Context,
    damaged_ledger: Annotated[
        bool,
        typer.Option("--damaged-ledger", help="Make it although a log of the ledger is damaged."),
    ] = False,
    json: JsonOption = False,
) -> None:
    import asyncio

    from holdfast.app.backup.create import LEDGER_DAMAGED, Backup
    from holdfast.app.settings import ROLES

    async def body() -> None:
        async with session(ctx) as api:
            asked = "?damaged_ledger=true" if damaged_ledger else ""
            found = await api.request("POST", f"/v1/backups{asked}", type=Backup)
            with _progress() as show:
                while found.state == "running":
                    show("objects", found.objects_done, found.objects)
                    await asyncio.sleep(POLL_SECONDS)
                    found = await api.request("GET", f"/v1/backups/{found.id}", type=Backup)
                if found.state == "done":
                    show("objects", 1, 1)
        if found.state == "failed" and found.code == LEDGER_DAMAGED:
            raise Corrupt(
                f"cannot back up: {found.problem.removeprefix('cannot back up: ')}",
                code="backup-failed",
                hint="no backup was written; keep the last one that is sound, see `holdfast ledger "
                "status`, and `--damaged-ledger` makes one of it as it is",
            )
        if found.state == "failed" and found.damaged:
            raise Corrupt(
                f"cannot back up: {found.problem.removeprefix('cannot back up: ')}",
                code="backup-failed",
                hint="no backup was written; while Holdfast runs, `holdfast doctor --deep` names "
                "every object that is missing or damaged: put those files back from a copy, or "
                "restore a backup",
            )
        if found.state == "failed":
            raise Unavailable(f"cannot back up: {found.problem}", code="backup-failed")
        if json:
            print_json(found)
            return
        print_fields(
            {
                "data": found.data_file,
                "keys": found.keys_file,
                "bytes": f"{found.size_bytes:,}",
                "raw responses": found.objects,
            }
        )
        if found.ledger:
            say(f"{found.ledger}; it is in this backup as it is, and will be read-only when")
            say("it is restored, until `holdfast ledger restart`")
        if _beside(found.data_file, found.keys_file):
            say("both lie below the data directory now: move each to a place of its own, or set")
            say("HOLDFAST_BACKUP_DIR and HOLDFAST_BACKUP_KEYS_DIR")
        elsewhere = [role for role in ROLES if role not in ("gateway", *found.roles)]
        if elsewhere and found.roles:
            say(f"these hold what is kept by: {', '.join(found.roles)}; of a process per role the")
            say(f"others have directories of their own to back up: {', '.join(elsewhere)}")
        made_in = _made_in(found.data_file, command_line(ctx).data_dir)
        export = f"holdfast key export --out FILE{named_directory(made_in)}"
        say(f"keep the two apart; the master key is in neither: {export}")

    run(body)


@app.command(
    "restore",
    help="Put a backup into a data directory that has no data, replay erasures and holds, check.",
    epilog="Example: holdfast backup restore data-….hfb --keys keys-….hfk --data-dir ./restored",
)
def restore(
    ctx: typer.Context,
    file: FileArgument,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="The file with the keys (.hfk); else those in the directory."),
    ] = None,
    recovery: Annotated[
        Path | None,
        typer.Option("--recovery", help="The file of `key export`, with the master key."),
    ] = None,
    new_origin: Annotated[
        bool,
        typer.Option(
            "--new-origin",
            help="Go on under a new origin where nobody here knows what was published since.",
        ),
    ] = False,
    confirm_access: Annotated[
        bool,
        typer.Option(
            "--confirm-access",
            help="No key, person, passkey or account was ended or limited since the backup: let "
            "them in at once.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    from holdfast.app.backup.restore import Confirmed
    from holdfast.app.backup.restore import restore as restored

    async def body() -> None:
        settings = settings_of(command_line(ctx))
        with _recovered(settings, recovery) as (master, lists, at), _progress() as show:
            found = await restored(
                settings,
                file,
                keys,
                master=master,
                lists=lists,
                lists_at=at,
                new_origin=new_origin,
                progress=show,
                access=Confirmed.YES if confirm_access else Confirmed.NO,
            )
        _print(found, json=json)
        _tell_lists(found)
        if found.access_unconfirmed:
            _tell_access(ctx, found)
        if found.verified.index_wrong:
            say(f"the ledger's index is not sound: {found.verified.ledger}")
        _say_logs(found, named_directory(command_line(ctx).data_dir))
        _check_records(found)

    run(body)


def _say_logs(found: Restored, directory: str) -> None:
    """Which logs take nothing, why, and what to do; which ones go on under a new origin."""
    from holdfast.ledger.log.soundness import hint_of
    from holdfast.ledger.model import PUBLISHED_UNKNOWN

    for begun in found.origins:
        say(f"the log of {begun.tenant} goes on as {begun.origin} with {begun.size} entries; its")
        say(f"first entry cites {begun.cites}, known to be published up to {begun.cites_size}")
    if found.origins:
        say("verifiers need the new key: hand them `holdfast ledger trust` again")
    for log in found.read_only:
        say(f"the log of {log.tenant} is read-only at {log.size} entries: {log.detail}")
        if log.reason != PUBLISHED_UNKNOWN:
            say(f"hint: {hint_of(log.reason)}")
    unknown = [log for log in found.read_only if log.reason == PUBLISHED_UNKNOWN]
    if not unknown:
        return
    say("nothing is appended to it or signed until one of these is done; events wait meanwhile:")
    say(f"  cp -a OLD/published {found.data_dir}/ and start again, where OLD is the data directory")
    say("    of the machine that signed last, as it was at its end; an older copy will not do.")
    say("    Of a backup made while the system ran this is no way on: what was published after it")
    say("    (its own backup.created at least) is not in it, and the log ends as lost-tail")
    say(f'  holdfast ledger restart --reason "…"{directory}')
    say("    begins a new origin that cites the old one (at the restore: --new-origin)")


@app.command(
    "drill",
    help="Rehearse: restore into a folder of its own, check everything, say how long it took.",
    epilog="Example: holdfast backup drill",
)
def drill(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The file; else the newest.")] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="Its keys; else the newest.")] = None,
    json: JsonOption = False,
) -> None:
    from holdfast.app.backup.create import backup_dir, backup_keys_dir
    from holdfast.app.backup.restore import drill as rehearse

    async def body() -> None:
        settings = settings_of(command_line(ctx))
        data = file or _newest(backup_dir(settings), "data-*.hfb")
        of_keys = keys or _newest(backup_keys_dir(settings), "keys-*.hfk")
        with tempfile.TemporaryDirectory(prefix="holdfast-drill-") as folder, _progress() as show:
            scratch = Path(folder) / "data"
            found = await rehearse(settings, data, of_keys, scratch, progress=show)
        _print(found, json=json, kept=False)
        _check_records(found)

    run(body)


def _tell_lists(found: Restored) -> None:
    """Who was erased after the newest list that was here is readable again; nobody here knows."""
    if found.lists_from == "keys-folder":
        say("erasures, holds and retentions are known by the lists in the keys' folder (and surely")
        say(f"up to {found.lists_known_to}): all of them, if it is the folder that the system")
        say("wrote them to until its end. If it is an older copy:")
    else:
        by = "the backup" if found.lists_from == "backup" else "the recovery file"
        say(f"erasures, holds and retentions are known up to {found.lists_known_to}, by {by}:")
    say(
        "  what was done later is undone here, and whoever was erased since is BACK. Before anybody"
    )
    say("  uses it move it away and restore again with OLD/keys/erasures.jsonl and")
    say(f"  OLD/keys/restrictions.jsonl in {found.data_dir}/keys/ (HOLDFAST_KEYS_DIR), or with a")
    say("  newer file of `key export` (--recovery)")


def _tell_access(ctx: typer.Context, found: Restored) -> None:
    """What came back with the backup may have been ended since, and nobody but people know."""
    from holdfast.identity.access.model import CONFIRM, REVIEW

    named = named_directory(command_line(ctx).data_dir)
    say(f"access is as it was at the backup of {found.created_at} and not yet confirmed:")
    say(
        "keys, people, passkeys and accounts that were ended or limited since are back as they were"
    )
    say("then. Until it is confirmed nobody is let in but the operator:")
    say(f"  {REVIEW}{named}   lists what would be let in: end what was ended")
    say(f"  {CONFIRM}{named}  lets the rest in again")


def _check_records(found: Restored) -> None:
    """Fail after all was told, if the backup has records that are not what was recorded, or records
    or events that nobody can open though nobody destroyed their keys."""
    from holdfast.kernel.outbox import SEALED_ELSEWHERE
    from holdfast.records.soundness import altered, unopened

    where = f"the backup {found.backup} is not sound"
    if named := found.verified.altered:
        raise altered(f"{where}: not what was recorded are {_first(named)}")
    if named := found.verified.unopened:
        raise unopened(f"{where}: no key opens, and no erasure says why, {_first(named)}")
    if named := found.verified.elsewhere:
        raise Corrupt(
            f"{where}: another keyring has sealed the events {_first(named)}",
            code=SEALED_ELSEWHERE,
            hint="they wait in the database and come into no ledger until that keyring is here",
        )


def _first(named: list[str]) -> str:
    return "; ".join(named[:5]) + (" and more" if len(named) > 5 else "")


def _beside(data_file: str, keys_file: str) -> bool:
    """Whether both files lie in neighbouring folders, as they do unless told otherwise."""
    return Path(data_file).parent.parent == Path(keys_file).parent.parent


def _made_in(data_file: str, named: Path) -> Path:
    """The data directory of who made it, with the keys: of a process per role not the gateway's
    that was asked. The one that was named, where that is it or nobody can tell."""
    file = Path(data_file)
    if file.parent.name != "backups" or file.is_relative_to(named.resolve()):
        return named
    return file.parent.parent


def _newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise NotFound(
            f"cannot find a backup in {folder}",
            code="backup-not-found",
            hint="`holdfast backup create` makes one; of a process per role it lies in the data "
            "directory of the role that made it, as that command said: name that one with "
            "--data-dir, or both files",
        )
    return found[-1]


@contextmanager
def _recovered(settings: Settings, recovery: Path | None) -> Iterator[tuple[str, Path | None, str]]:
    """The master key of a recovery file, if one is to be put in place, the folder of its lists, and
    when they were exported.

    Nothing is written: the key gets to its place with everything else, or not at all.
    """
    from holdfast.app.commands.key import check_free, read_recovery
    from holdfast.app.keys import master_file

    if recovery is None:
        yield "", None, ""
        return
    found = read_recovery(recovery)
    master = "" if settings["keyring_master_key"] else found.master_key
    if master:
        check_free(master_file(settings), master)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in found.lists().items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        yield master, Path(folder), found.exported_at


def _print(found: Restored, *, json: bool, kept: bool = True) -> None:
    if json:
        print_json(found)
        return
    checked = found.verified
    print_fields(
        {
            "backup": f"{found.backup} of {found.created_at}",
            "restored to": found.data_dir + ("" if kept else ", which is removed again"),
            "ready after": f"{found.ready_seconds:.2f} s (unpacking {found.unpack_seconds:.2f} s, "
            f"opening {found.open_seconds:.2f} s)",
            "checked in": f"{found.verify_seconds:.2f} s",
            "keys": checked.keys,
            "raw responses": checked.responses,
            "revisions of records": f"{checked.revisions:,}, {_of_records(checked)}",
            "ledger": f"{checked.ledger_entries} entries, {checked.ledger or 'not here'}",
            "events on their way": f"{checked.events:,}"
            + (", not all can be opened" if checked.elsewhere else ""),
            "erasures replayed": checked.erasures_replayed,
            "holds and retentions": checked.restrictions,
        }
    )


def _of_records(checked: Verified) -> str:
    if checked.altered:
        return "not all what was recorded"
    if checked.unopened:
        return "not all can be opened"
    closed = f", but for {checked.closed:,} of people who were erased" if checked.closed else ""
    return f"what was recorded{closed}"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar that whoever works can set."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as bars:
        known: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=max(total, 1))

        yield show
