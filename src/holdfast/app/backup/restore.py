"""From a backup back to a system that answers.

Everything is unpacked and checked in a folder beside the data directory; only when all of it is
whole does it get the directory's name, in one step. So a backup that was cut off or changed leaves
nothing behind. What no restore may bring back stays as it is: the erasures, holds, retentions and
releases (the lists are joined), and the ledger's head files and published sizes, if the directory
has them.

What was published of a log after the backup was made, only the latter know: each log that was ever
signed is marked, in the same step, and signs nothing more where they are not (:mod:`.origins`).

Then the system is opened: that replays them, before anything is served. At last everything
is checked again from the stored bytes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from holdfast import __version__
from holdfast.app.backup import postgres
from holdfast.app.backup.container import Header, check_kind, size_of, unpack
from holdfast.app.backup.create import dump_tables, load_tables, master_backup_key
from holdfast.app.backup.origins import (
    NewOrigin,
    StoppedLog,
    begin_origins,
    mark_file,
    stopped_logs,
)
from holdfast.app.backup.placing import KEYS, SECRETS, TENANT_SECRET, places_of
from holdfast.app.keys import keyring_place, master_file, write_first
from holdfast.app.settings import Resolved, Settings
from holdfast.fleet.worker_store import settle_restored
from holdfast.identity.access.service import note_restore
from holdfast.kernel.clock import SystemClock, timestamp
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import Conflict, Corrupt, Unsupported
from holdfast.kernel.files import flush_folder, flush_tree, write_over
from holdfast.kernel.ids import DEFAULT_TENANT
from holdfast.kernel.outbox import BEGINNING, Page, Position
from holdfast.kernel.principal import Principal, operator, service
from holdfast.keyring.backends import open_store
from holdfast.keyring.backends.schema import NAMES
from holdfast.keyring.copies import reopen
from holdfast.keyring.keyring import open_keyring
from holdfast.keyring.lines import join, read_erasures, read_restrictions
from holdfast.keyring.master import MasterKeys, write_new
from holdfast.keyring.model import BACKUPS, DataKey
from holdfast.keyring.ports import Rows
from holdfast.keyring.statements import keyring_id
from holdfast.keyring.wrapping import KEEP_HINT
from holdfast.ledger.errors import IndexIncomplete, IndexWrong
from holdfast.ledger.model import PUBLISHED_UNKNOWN
from holdfast.ledger.store import RestoredFrom
from holdfast.migrations.runner import migrate
from holdfast.records.soundness import NAMED_MAX, Checked, check_revisions

Progress = Callable[[str, int, int], None]
"""What is being done, how much of how much."""

NEVER_RESTORED = ("ledger", "published")
"""Folders of the data directory that outlive a restore: heads and published sizes of the ledger."""


class Confirmed(Enum):
    """Whether somebody says that nothing that let anybody in was ended since the backup."""

    NO = "no"
    YES = "yes"
    DRILL = "drill"
    """Nobody is let in to what is restored: it is a rehearsal."""


class Verified(Struct, frozen=True, kw_only=True):
    """What was checked again after a restore."""

    keys: int
    events: int
    events_erased: int
    responses: int
    revisions: int
    """Of records, each compared with the digest of what was recorded."""
    altered: list[str]
    """The first of those that are not that: profile, record, revision."""
    closed: int = 0
    """Of the revisions those that nobody can read, because their person is erased."""
    unopened: list[str] = []
    """The first of those that nobody can read although nobody is erased."""
    elsewhere: list[str] = []
    """The first of the events that another keyring has sealed: they come into no ledger here."""
    erasures_replayed: int
    restrictions: int
    """Holds and retentions that stand."""
    ledger_entries: int
    ledger: str
    """``sound``, or what does not fit: a log from before its last published checkpoint, or of which
    nobody knows that, is read-only until ``holdfast ledger restart`` begins a new origin that
    cites it."""
    ledger_code: str = ""
    """The same for programs; empty where it is sound: ``index-damaged``, ``lost-tail``, …"""

    @property
    def index_wrong(self) -> bool:
        """Whether it is the ledger's index that is not sound, and not the log."""
        return self.ledger_code in (IndexWrong.code, IndexIncomplete.code)


class Restored(Struct, frozen=True, kw_only=True):
    """A restore, with what it took: the time until the system could answer again."""

    backup: str
    created_at: str
    data_dir: str
    objects: int
    unpack_seconds: float
    open_seconds: float
    verify_seconds: float
    verified: Verified
    read_only: list[StoppedLog] = []
    """Logs that take nothing, and why."""
    origins: list[NewOrigin] = []
    """Those that were asked for, and have begun."""
    access_unconfirmed: bool = False
    """Keys and people are as they were at the backup, and kept out until the operator confirms."""
    lists_known_to: str = ""
    """Up to when erasures, holds and retentions are known at least: who was erased later is
    back."""
    lists_from: str = ""
    """What knows it: ``backup``, ``recovery-file`` or ``keys-folder``, which knows all if it is the
    one that the system wrote its lists to until its end."""

    @property
    def ready_seconds(self) -> float:
        return self.unpack_seconds + self.open_seconds


def nothing(_what: str, _done: int, _total: int) -> None:
    """No progress is shown."""


async def restore(
    settings: Settings,
    data: Path,
    keys: Path | None,
    *,
    lists: Path | None = None,
    lists_at: str = "",
    master: str = "",
    new_origin: bool = False,
    progress: Progress = nothing,
    access: Confirmed = Confirmed.NO,
) -> Restored:
    """Restore ``data`` with the keys of ``keys`` (or those in the data directory) and check it.

    The data directory must hold no state. ``master`` is a master key from elsewhere; it comes to
    the others with the rest; ``lists`` is a folder with more lists of erasures, holds and
    retentions, all that there were at ``lists_at``. With ``new_origin`` every log of which nobody
    here knows what was published since goes on under another name; otherwise it is read-only.
    ``access`` is whether nothing that let
    anybody in was ended since. Raises without having written anything there, or where the settings
    have keys and secrets, if a file is damaged, a key is missing or another's is there, or there is
    state already.
    """
    await asyncio.to_thread(check_kind, data, "data")
    if keys is not None:
        await asyncio.to_thread(check_kind, keys, "keys")
    began = time.monotonic()
    own, brought = await asyncio.to_thread(_lists_here, settings)
    async with AsyncExitStack() as alone:
        if not settings.database_url.startswith("sqlite:"):
            await alone.enter_async_context(
                postgres.restoring(settings.database_url, _password(settings))
            )
        await _check_place(settings)
        header, shut = await _put_back(settings, data, keys, lists, master, progress, access)
    unpacked = time.monotonic()
    found = await _reopened(settings, header, began, unpacked, new_origin, progress)
    known = {"backup": header.created_at, "recovery-file": lists_at, "keys-folder": brought}
    newest = max(known, key=lambda each: known[each])
    return msgspec.structs.replace(
        found,
        access_unconfirmed=shut,
        lists_known_to=known[newest],
        lists_from="keys-folder" if own else newest,
    )


def _lists_here(settings: Settings) -> tuple[bool, str]:
    """Whether the keys' folder can be the one that the system wrote its lists to, by the keys of
    roles in it; and the time of the newest line of its lists, before which they know everything."""
    own = any(settings.keys_dir.glob("*.key.jwk"))
    times = [line.erasure.requested_at for line in read_erasures(settings.keys_dir)]
    for line in read_restrictions(settings.keys_dir):
        times += [line.placed.placed_at] if line.placed else []
        times += [line.released.released_at] if line.released else []
    return own, max(times, default="")


async def _put_back(
    settings: Settings,
    data: Path,
    keys: Path | None,
    lists: Path | None,
    master: str,
    progress: Progress,
    access: Confirmed,
) -> tuple[Header, bool]:
    """Everything unpacked, checked, and where it belongs; and whether keys and people are kept
    out."""
    target = settings.data_dir.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(_undo_killed, target)
    stage = target.with_name(f"{_stage_prefix(target)}{os.getpid()}")
    stage.mkdir(mode=0o700)
    held = _hold(stage)
    try:
        header = await _unpacked(settings, stage, data, keys, lists, master, progress)
        # Whoever finds the data, or the database filled, must find all that belongs to it: a
        # process that dies from here on has left keys and lists that are more than what was there.
        await asyncio.to_thread(_put_keys, settings, stage, header)
        token = ""
        if header.engine == "sqlite":
            shut = await _note_in_file(stage, header, access)
            await _place_keyring(settings, stage, header)
        else:
            token = await _fill_database(settings, stage, header)
            shut = await note_access(settings.database_url, _password(settings), header, access)
        await asyncio.to_thread(_put_in_place, stage, target)
        if header.engine == "postgresql":
            await postgres.end_restore(settings.database_url, _password(settings), target, token)
    finally:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        os.close(held)
    return header, shut


async def drill(
    settings: Settings, data: Path, keys: Path, scratch: Path, *, progress: Progress = nothing
) -> Restored:
    """:func:`restore` into a folder of its own, which is removed afterwards, come what may."""
    masters = _masters(settings)
    url, password = settings.database_url, _password(settings)
    if not url.startswith("sqlite:"):
        name = f"holdfast_drill_{os.urandom(6).hex()}"
        async with postgres.scratch_database(url, password, name) as empty:
            own = _own(settings, scratch, masters, empty)
            return await _rehearsed(settings, own, data, keys, progress)
    own = _own(settings, scratch, masters, "")
    return await _rehearsed(settings, own, data, keys, progress)


def _own(settings: Settings, scratch: Path, masters: MasterKeys, url: str) -> Settings:
    """The settings of a drill: everything in the scratch folder, under the same master key."""
    changed: dict[str, Any] = {
        "data_dir": scratch,
        "keyring_master_key": _text_of(masters),
        **dict.fromkeys(
            ("keys_dir", "trust_dir", "secrets_dir", "backup_dir", "backup_keys_dir"), None
        ),
        "database_url": url,
        "objects_url": "",
        "keyring_url": f"sqlite:///{scratch / 'keyring' / 'keyring.db'}",
    }
    return replace(
        settings,
        resolved={**settings.resolved, **{k: Resolved(v, "drill") for k, v in changed.items()}},
    )


async def _rehearsed(
    settings: Settings, own: Settings, data: Path, keys: Path, progress: Progress
) -> Restored:
    try:
        found = await restore(
            own, data, keys, lists=settings.keys_dir, progress=progress, access=Confirmed.DRILL
        )
    finally:
        await asyncio.to_thread(shutil.rmtree, own.data_dir, ignore_errors=True)
    checked = found.verified
    if checked.ledger_code == PUBLISHED_UNKNOWN:  # as every copy is, and this one is gone
        checked = msgspec.structs.replace(checked, ledger="sound", ledger_code="")
    stopped = [each for each in found.read_only if each.reason != PUBLISHED_UNKNOWN]
    return msgspec.structs.replace(found, verified=checked, read_only=stopped)


async def _check_place(settings: Settings) -> None:
    if not settings.objects_url.startswith("file:"):
        raise Unsupported(
            "cannot restore: objects are put back into a local folder only",
            hint="restore the bucket by its own means",
        )
    if not settings.database_url.startswith("sqlite:"):
        await postgres.check_empty(settings.database_url, _password(settings))
    taken = [name for name in ("state", "objects") if any((settings.data_dir / name).glob("**/*"))]
    if taken:
        raise Conflict(
            f"cannot restore into {settings.data_dir}: there is data in it ({', '.join(taken)})",
            code="data-there",
            hint="move it away, or name another --data-dir",
        )


def _password(settings: Settings) -> str | None:
    return settings["database_password"] or None


def _masters(settings: Settings) -> MasterKeys:
    if settings["keyring_master_key"]:
        return MasterKeys.from_text(settings["keyring_master_key"])
    path = master_file(settings)
    try:
        return MasterKeys.from_file(path)
    except FileNotFoundError:
        raise Conflict(
            f"cannot restore: the master key is not at {path}",
            code="master-key-missing",
            hint="name the file that `holdfast key export` made: `holdfast backup restore` takes "
            "it with --recovery FILE, `holdfast key import FILE` puts it back",
        ) from None


def _text_of(masters: MasterKeys) -> str:
    from holdfast.keyring.master import render_master

    return render_master(masters.versions)


async def _unpacked(
    settings: Settings,
    stage: Path,
    data: Path,
    keys: Path | None,
    lists: Path | None,
    master: str,
    progress: Progress,
) -> Header:
    """Everything in ``stage`` as the data directory will be; ``Corrupt`` if it is not whole."""
    masters = MasterKeys.from_text(master) if master else _masters(settings)

    async def find_master(key_id: bytes) -> DataKey:
        found = masters.find(key_id)
        if found is None:
            raise Corrupt(
                "cannot open the keys: they were kept under another master key",
                code="master-key-foreign",
                hint=KEEP_HINT,
            )
        return master_backup_key(found)

    keyring_file = stage / "keyring" / "keyring.db"
    if keys is not None:
        total = size_of(keys)
        of_keys = await unpack(
            keys, "keys", find_master, stage, lambda done: progress("keys", done, total)
        )
        await asyncio.to_thread(_load_keyring, stage / "keyring", keyring_file)
    else:
        of_keys = None
        await asyncio.to_thread(_own_keys, settings, stage, keyring_file)
    join(stage / "keys", [settings.keys_dir, *([lists] if lists else [])])
    store = await asyncio.to_thread(open_store, f"sqlite:///{keyring_file}")
    try:
        keyring = open_keyring(store, lambda _: masters, SystemClock(), new_id="", expected=None)

        async def find(key_id: bytes) -> DataKey:
            return await asyncio.to_thread(keyring.find, DEFAULT_TENANT, BACKUPS, key_id)

        total = size_of(data)
        header = await unpack(data, "data", find, stage, lambda done: progress("data", done, total))
        if keyring.id != header.keyring or (of_keys is not None and of_keys.keyring != keyring.id):
            raise Conflict("cannot restore: the two files are of different systems")
        store.transact(lambda rows: rows.all("UPDATE keyring_erasures SET state = 'erasing'"))
    finally:
        await asyncio.to_thread(store.close)
    for lock in keyring_file.parent.glob("*.lock"):
        lock.unlink()
    embedded = settings.database_url.startswith("sqlite:")
    if embedded is not (header.engine == "sqlite"):
        raise Unsupported(
            f"cannot restore: the backup is of a system on {header.engine}, the settings name "
            "another database"
        )
    if embedded:
        await asyncio.to_thread(_check_sqlite, stage / "state" / "holdfast.db")
        await asyncio.to_thread(_forget_instances, stage / "state" / "holdfast.db")
        came_from = RestoredFrom(header.id, header.created_at)
        await mark_file(stage / "state" / "holdfast.db", came_from)
    _move_own_files(stage)
    if not settings["keyring_master_key"]:
        destination = stage / "keys" / "master.key"
        destination.parent.mkdir(exist_ok=True, mode=0o700)
        if master:
            destination.unlink(missing_ok=True)
            write_new(destination, master)
        elif not destination.exists():
            shutil.copy2(master_file(settings), destination)
    return header


async def _note_in_file(stage: Path, header: Header, access: Confirmed) -> bool:
    """:func:`note_access` in the database that is still in the stage: whoever finds it under the
    data directory's name finds it there."""
    path = stage / "state" / "holdfast.db"
    url = f"sqlite:///{path}"
    # What an older version backed up has no table for it yet.
    await migrate(url, clock=SystemClock(), version=__version__, backups=stage / "before")
    await asyncio.to_thread(shutil.rmtree, stage / "before", ignore_errors=True)
    shut = await note_access(url, None, header, access)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return shut


async def note_access(url: str, password: str | None, header: Header, access: Confirmed) -> bool:
    """Say in the database itself that who may enter is as it was at the backup, before anything can
    be served from it; whether anybody is kept out by that.

    A drill's copy has that, too: where the drill is killed it stays, and somebody may start on it.
    Only told of it is nobody.
    """
    async with open_database(url, clock=SystemClock(), password=password) as database:
        shut = await note_restore(
            database,
            header.id,
            header.created_at,
            timestamp(SystemClock().now()),
            confirmed=access is Confirmed.YES,
            more=settle_restored,
        )
    return shut and access is not Confirmed.DRILL


def _put_keys(settings: Settings, stage: Path, header: Header) -> None:
    """Keys, secrets and lists where the settings have them; ``Conflict`` if others are there."""
    if not (stage / SECRETS / TENANT_SECRET).exists():
        raise Conflict(
            "cannot restore: the tenant secret is missing",
            code="tenant-secret-missing",
            hint="name the file with the keys: --keys FILE",
        )
    places = places_of(settings)
    for place in places:
        place.check(stage)
    if header.engine == "postgresql" and settings.keys_dir.is_dir():
        # The database has its data before the directory has its name: whoever opens it then finds
        # the lists that are there now.
        join(settings.keys_dir, [stage / KEYS])
    for place in places:
        place.put(stage)


async def _fill_database(settings: Settings, stage: Path, header: Header) -> str:
    """The keyring where it has its place, if that is a database, then the state into the empty one.

    From here on until :func:`postgres.end_restore` the database is marked: whoever finds it so
    does not start on it, and a restore begins anew. By which token.
    """
    url, password = settings.database_url, _password(settings)
    token = await postgres.begin_restore(url, password, stage)
    await migrate(url, clock=SystemClock(), version=__version__, backups=stage, password=password)
    await _place_keyring(settings, stage, header)
    came_from = RestoredFrom(header.id, header.created_at)
    await postgres.load(url, password, stage / "state", header.revision, token, came_from)
    async with open_database(url, clock=SystemClock(), password=password) as database:
        # It is where we have put it, whichever role came first where the backup was made.
        await database.write(service("restore"), write_first(header.keyring, _holder(header)))
    await asyncio.to_thread(shutil.rmtree, stage / "state")
    return token


async def _place_keyring(settings: Settings, stage: Path, header: Header) -> None:
    """The keyring where the settings have it; its usual place in the directory it has already."""
    place, schema = keyring_place(settings, _holder(header))
    if place.startswith("sqlite:") and _is_own_file(settings, place):
        return
    password = settings["keyring_password"] or _password(settings)
    erased = [
        (line.tenant, line.erasure.subject)
        for folder in (settings.keys_dir, stage / KEYS)
        for line in read_erasures(folder)
    ]
    await asyncio.to_thread(_move_keyring, stage / "keyring", place, password, schema, erased)


def _holder(header: Header) -> str:
    """Whose the keyring is."""
    return "aggregator" if "aggregator" in header.roles else sorted(header.roles)[0]


def _is_own_file(settings: Settings, place: str) -> bool:
    """Whether that is the file within the data directory; makes the folder of another."""
    path = Path(place.removeprefix("sqlite:///")).resolve()
    own = settings.data_dir.resolve() / "keyring" / "keyring.db" == path
    if not own:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return own


def _move_keyring(
    folder: Path, place: str, password: str | None, schema: str, erased: Iterable[tuple[str, str]]
) -> None:
    """The keyring to its place, whole or not at all.

    One that is there already outlived what is restored, or a restore that was killed had come as
    far as this: it stays, and its erasures are done again. ``Conflict`` if it lacks keys that no
    erasure explains, nor one of ``erased``: then it is from before the copy.
    """
    source = open_store(f"sqlite:///{folder / 'keyring.db'}")
    target = open_store(place, password=password, schema=schema)
    try:
        dumped, own = dump_tables(source), source.transact(keyring_id)
        wanted = source.transact(_data_keys)

        def unit(rows: Rows) -> None:
            there = keyring_id(rows)
            if not there:
                load_tables(rows, dumped)
            elif there == own:
                _check_outlived(rows, wanted, erased)
                reopen(rows)
            else:
                raise Conflict(
                    "cannot restore: another keyring is where this one belongs",
                    code="keyring-there",
                    hint="name a database of its own for it (HOLDFAST_KEYRING_URL), or an empty "
                    "one for the state",
                )

        target.transact(unit)
    finally:
        source.close()
        target.close()
    shutil.rmtree(folder)


def _data_keys(rows: Rows) -> dict[tuple[str, str], str]:
    """Whose keys those of people and raw responses are, empty for a response, by tenant and id.
    Nothing but an erasure destroys one."""
    found = rows.all(
        "SELECT tenant, id, kind, subject FROM keyring_keys WHERE kind IN ('subject', 'object')"
    )
    return {(row[0], row[1]): row[3] if row[2] == "subject" else "" for row in found}


def _check_outlived(
    rows: Rows, wanted: dict[tuple[str, str], str], erased: Iterable[tuple[str, str]]
) -> None:
    known = {(row[0], row[1]) for row in rows.all("SELECT tenant, subject FROM keyring_erasures")}
    known |= set(erased)
    tenants = {tenant for tenant, _ in known}
    lacking = [
        key_id
        for (tenant, key_id), subject in sorted(wanted.items() - _data_keys(rows).items())
        if ((tenant, subject) not in known if subject else tenant not in tenants)
    ]
    if lacking:
        raise Conflict(
            f"cannot restore: the keyring that is there lacks {len(lacking)} keys of the backup, "
            "and nobody was erased whose they could be: it is from before",
            code="keyring-older",
            hint="nothing was read with it: put a newer copy of that keyring back, or move it "
            "away, so that the backup's takes its place; such a one is also there after a "
            "restore of an older backup that was killed",
        )


def _load_keyring(folder: Path, target: Path) -> None:
    # One that a backup of an older version does not have is empty.
    dumps = {table: (folder / table).read_bytes() for table in NAMES if (folder / table).exists()}
    for table in dumps:
        (folder / table).unlink()
    store = open_store(f"sqlite:///{target}")
    try:
        store.transact(lambda rows: load_tables(rows, dumps))
    finally:
        store.close()


def _own_keys(settings: Settings, stage: Path, target: Path) -> None:
    """The keyring, keys and secrets that the data directory still has."""
    url, _ = keyring_place(settings, "aggregator")
    source = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:") or not source.exists():
        raise Conflict(
            "cannot restore: there is no keyring in the data directory",
            code="keyring-missing",
            hint="name the file with the keys: --keys FILE",
        )
    target.parent.mkdir(parents=True, mode=0o700)
    shutil.copy2(source, target)
    for folder, name in ((settings.keys_dir, "keys"), (settings.secrets_dir, "secrets")):
        shutil.copytree(folder, stage / name, dirs_exist_ok=True)


def _move_own_files(stage: Path) -> None:
    files = stage / "files"
    if files.is_dir():
        for path in sorted(files.iterdir()):
            path.rename(stage / path.name)
        files.rmdir()


def _check_sqlite(path: Path) -> None:
    from pysqlite3 import dbapi2

    if not path.exists():
        raise Corrupt("cannot restore: the backup holds no state", code="backup-damaged")
    with closing(dbapi2.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        found = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise Corrupt(f"cannot restore: the state is damaged: {found}", code="backup-damaged")


def _forget_instances(path: Path) -> None:
    """Whoever ran when the copy was made does not run on it: nobody has to wait for them."""
    from pysqlite3 import dbapi2

    with closing(dbapi2.connect(str(path), isolation_level=None)) as conn:
        conn.execute("DELETE FROM lease_instances").close()
        conn.execute("DELETE FROM lease_leaders").close()


_ASIDE = ".aside"


def _stage_prefix(target: Path) -> str:
    return f".{target.name}.restoring-"


def _hold(stage: Path) -> int:
    """A lock on ``stage`` that ends with this process, however it ends; ``Conflict`` if taken."""
    descriptor = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(
            f"cannot restore: another restore works in {stage}", code="restore-running"
        ) from error
    return descriptor


def _undo_killed(target: Path) -> None:
    """Remove what restores left that were killed; half of them may hold what was sealed.

    One that was killed between its last two renames had put the directory aside already: it comes
    back, for there are the ledger's published sizes and the erasures, which no restore goes behind.
    What earlier restores have put aside is theirs who keep it.
    """
    for stage in sorted(target.parent.glob(f"{_stage_prefix(target)}*")):
        if stage.suffix == _ASIDE:
            if not stage.with_suffix("").exists():  # killed when all was done but this
                stage.unlink(missing_ok=True)
            continue
        try:
            held = _hold(stage)
        except Conflict:
            continue
        try:
            note = _aside_note(stage)
            before = target.with_name(note.read_text("utf-8")) if note.exists() else None
            if before is not None and before.exists() and not target.exists():
                before.rename(target)
            note.unlink(missing_ok=True)
            shutil.rmtree(stage, ignore_errors=True)
        finally:
            os.close(held)
    for half in sorted(target.parent.glob(f".{_stage_prefix(target)}*{_ASIDE}.*")):  # of a note
        if not half.with_name(half.name.rpartition(_ASIDE)[0].removeprefix(".")).exists():
            half.unlink(missing_ok=True)


def _aside_note(stage: Path) -> Path:
    """The file beside ``stage`` that names what its restore puts aside."""
    return stage.with_name(f"{stage.name}{_ASIDE}")


def _kept_before(target: Path) -> list[Path]:
    """What restores have put aside, the newest last."""
    found: list[Path] = []
    before = target.with_name(f"{target.name}.before-restore")
    while before.exists():
        found.append(before)
        before = target.with_name(f"{target.name}.before-restore-{len(found) + 1}")
    return found


def _put_in_place(stage: Path, target: Path) -> None:
    """Give ``stage`` the data directory's name; what was there is kept beside it.

    It is whole and durable before it has the name: whoever finds it there may rely on it.
    """
    if target.exists():
        for name in NEVER_RESTORED:
            if (target / name).is_dir():
                shutil.copytree(target / name, stage / name)
    flush_tree(stage)
    if target.exists():
        kept = len(_kept_before(target))
        number = f"-{kept + 1}" if kept else ""
        before = target.with_name(f"{target.name}.before-restore{number}")
        write_over(_aside_note(stage), before.name.encode())
        target.rename(before)
    stage.rename(target)
    _aside_note(stage).unlink(missing_ok=True)
    flush_folder(target.parent)


# --- opened again -------------------------------------------------------------------------------


async def _reopened(
    settings: Settings,
    header: Header,
    began: float,
    unpacked: float,
    new_origin: bool,
    progress: Progress,
) -> Restored:
    from holdfast.app import datadir
    from holdfast.app.compose import open_system

    replayed = len(read_erasures(settings.keys_dir))
    with datadir.held(settings.data_dir):
        async with open_system(
            settings.alone(), header.roles, served=False, restored=True
        ) as system:
            opened = time.monotonic()
            came_from = RestoredFrom(header.id, header.created_at)
            origins = await begin_origins(system, came_from) if new_origin else []
            verified = await verify(system, progress, replayed)
            return Restored(
                backup=header.id,
                created_at=header.created_at,
                data_dir=str(settings.data_dir.absolute()),
                objects=header.objects,
                unpack_seconds=round(unpacked - began, 3),
                open_seconds=round(opened - unpacked, 3),
                verify_seconds=round(time.monotonic() - opened, 3),
                verified=verified,
                read_only=await stopped_logs(system),
                origins=origins,
            )


async def verify(system: Any, progress: Progress, replayed: int = 0) -> Verified:
    """Check again from the stored bytes: every key, event, raw response and ledger entry."""
    state = system.state
    checked = await asyncio.to_thread(state.keyring.check)
    if checked.damaged:
        raise Corrupt(f"cannot restore: {len(checked.damaged)} keys do not open")
    events = erased = responses = entries = 0
    elsewhere: list[str] = []
    ledger = code = ""
    revisions = Checked()
    for tenant in await state.database.tenants():
        who = operator(tenant)
        position: Position | None = BEGINNING
        while position is not None:
            page: Page = await state.database.read(
                who,
                lambda conn, who=who, at=position: state.outbox.page(conn, who, at, 500),
            )
            events += len(page.entries) + len(page.elsewhere)
            erased += sum(entry.erased for entry in page.entries)
            elsewhere += page.elsewhere[: NAMED_MAX - len(elsewhere)]
            position = page.last
        if "aggregator" in system.roles:
            revisions.add(await check_revisions(state.database, state.secrets, state.keyring, who))
        responses += await _check_objects(state, service("restore", tenant), progress)
        if system.ledger is not None and "ledger" in system.roles:
            count, said, told = await _check_ledger(system, who)
            entries += count
            if code in ("", PUBLISHED_UNKNOWN) and (told or not code):  # whatever is worse
                ledger, code = said or ledger, told
    return Verified(
        keys=checked.keys,
        events=events,
        events_erased=erased,
        responses=responses,
        revisions=revisions.revisions,
        altered=revisions.named,
        closed=revisions.closed,
        unopened=revisions.unopened_named,
        elsewhere=elsewhere,
        erasures_replayed=replayed,
        restrictions=(await asyncio.to_thread(state.keyring.describe)).held_subjects,
        ledger_entries=entries,
        ledger=ledger,
        ledger_code=code,
    )


async def _check_objects(state: Any, principal: Principal, progress: Progress) -> int:
    """Open every object; ``Corrupt`` names one that is missing or not whole."""
    from holdfast.app.backup.objects import ObjectChecks

    checks = ObjectChecks(state)
    names = [found.name async for found in state.objects.scan(principal)]
    if missing := await checks.missing(principal, set(names)):
        raise Corrupt(f"cannot restore: the object {missing[0]} is missing", code="object-missing")
    for done, name in enumerate(names, 1):
        async for _ in checks.whole(principal, name):
            pass
        progress("checking raw responses", done, len(names))
    return len(names)


async def _check_ledger(system: Any, principal: Principal) -> tuple[int, str, str]:
    """How many entries are sound, and what is not, in words and by its code; ``Corrupt`` if the log
    cannot be opened at all."""
    from holdfast.ledger.verifying import verify as verify_ledger

    last: Any = None
    async for step in verify_ledger(system.ledger, principal):
        last = step
    damage = (await system.ledger.status(principal)).damage
    if last is None:
        return 0, "", ""
    if not last.sound:
        return int(last.checked), str(last.reason), str(last.code)
    if damage is not None:
        return int(last.checked), str(damage.detail), str(damage.reason)
    return int(last.checked), "sound", ""
