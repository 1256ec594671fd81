"""Making a backup: a consistent copy of the state, every object, and apart from them the keys.

The database is copied first, in one transaction; then the objects. An object is durable before the
row that names it, so everything that the copy names is there (but for what was erased meanwhile).
Projections, caches and the ledger's head files are left out: the first two are rebuilt, the last
must never be restored. The master key is in neither file.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from holdfast import __version__
from holdfast.app.backup import postgres
from holdfast.app.backup.container import PIECE_BYTES, Header, Part, write
from holdfast.app.backup.objects import ObjectChecks
from holdfast.app.keys import master_file
from holdfast.app.settings import Settings
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Conflict, Corrupt, HoldfastError, Kind, NotFound
from holdfast.kernel.ids import DEFAULT_TENANT, EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.keyring.backends.schema import NAMES
from holdfast.keyring.master import MasterKey
from holdfast.keyring.model import BACKUPS, DataKey
from holdfast.keyring.ports import KeyStore, Rows

if TYPE_CHECKING:
    from holdfast.app.system import State, System

log = get_logger("backup")
JOBS_MAX = 20
LEDGER_DAMAGED = "ledger-damaged"
"""The code of a backup that was not made because a log of the ledger is not sound."""


class Backup(Struct, frozen=True, kw_only=True):
    """A backup on its way, or done: its two files."""

    id: str
    state: Literal["running", "done", "failed"]
    started_at: str
    finished_at: str = ""
    data_file: str = ""
    keys_file: str = ""
    size_bytes: int = 0
    objects: int = 0
    objects_done: int = 0
    roles: list[str] = []
    """Whose data it has: of a process per role only that process's own."""
    problem: str = ""
    code: str = ""
    """The code of the problem: ``ledger-damaged``, ``object-missing``, …"""
    damaged: bool = False
    """It failed because something that was to be backed up is missing or not whole."""
    ledger: str = ""
    """What is wrong with a log of the ledger in it: it was asked for nevertheless."""


def backup_dir(settings: Settings) -> Path:
    """Where backups of the data go."""
    return settings["backup_dir"] or settings.data_dir / "backups"


def backup_keys_dir(settings: Settings) -> Path:
    """Where backups of the keys go: elsewhere, since they live shorter."""
    return settings["backup_keys_dir"] or settings.data_dir / "key-backups"


def master_backup_key(master: MasterKey) -> DataKey:
    """The key of backups of the keyring: it must open before any keyring does."""
    info = b"holdfast backup of the keyring"
    secret = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(master.secret)
    return DataKey(master.id, secret)


class BackupService:
    """Makes backups of the system of this process, one at a time."""

    def __init__(self, system: System, state: State) -> None:
        self._system = system
        self._state = state
        self._settings = system.settings
        self._checks = ObjectChecks(state)
        self._jobs: dict[str, Backup] = {}
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop what is under way: a backup that is not whole has no name yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def start(self, principal: Principal, *, damaged_ledger: bool = False) -> Backup:
        """Begin a backup; ``Conflict`` if one is under way.

        Every log of the ledger is recomputed first: of a damaged one there is no backup, unless it
        is asked for.
        """
        if self._task is not None and not self._task.done():
            raise Conflict("cannot begin a backup: one is under way", code="backup-running")
        now = timestamp(self._system.clock.now())
        job = Backup(
            id=self._system.new_id(),
            state="running",
            started_at=now,
            roles=sorted(self._system.roles - {"gateway"}),
        )
        self._note(job)
        self._task = asyncio.create_task(
            self._make(principal, job, damaged_ledger=damaged_ledger), name="backup"
        )
        return job

    async def ended(self, backup_id: str) -> Backup:
        """Wait for it: for whoever is in this process."""
        if self._task is not None:
            await asyncio.wait([self._task])
        return await self.show(backup_id)

    async def show(self, backup_id: str) -> Backup:
        """How far it is; ``NotFound`` for one that this process has not made."""
        found = self._jobs.get(backup_id)
        if found is None:
            raise NotFound(f"cannot find the backup {backup_id[:64]}", code="backup-not-found")
        return found

    async def prune(self) -> list[str]:
        """Remove copies of the keyring that are older than they may be; their names.

        After this nobody can open what was erased that long ago.
        """
        days = self._settings["keyring_backup_days"]
        before = (self._system.clock.now() - timedelta(days=days)).timestamp()
        gone = []
        folder = backup_keys_dir(self._settings)
        for path in sorted(folder.glob("keys-*.hfk")) if folder.is_dir() else []:
            if path.stat().st_mtime < before:
                await asyncio.to_thread(path.unlink)
                gone.append(path.name)
        if self._task is None or self._task.done() or self._task is asyncio.current_task():
            await asyncio.to_thread(_remove_leftovers, backup_dir(self._settings))
            await asyncio.to_thread(_remove_leftovers, folder)
        return gone

    def _note(self, job: Backup) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > JOBS_MAX:
            del self._jobs[next(iter(self._jobs))]

    async def _make(self, principal: Principal, job: Backup, *, damaged_ledger: bool) -> None:
        try:
            said = await self._ledger_damage()
            if said and not damaged_ledger:
                raise Corrupt(f"cannot back up: {said}", code=LEDGER_DAMAGED)
            done = await self._made(principal, msgspec.structs.replace(job, ledger=said))
        except HoldfastError as error:
            corrupt = error.kind is Kind.CORRUPT
            done = msgspec.structs.replace(
                job, state="failed", problem=error.detail, code=error.code, damaged=corrupt
            )
        except OSError as error:
            reason = error.strerror or str(error)
            done = msgspec.structs.replace(job, state="failed", problem=f"cannot write: {reason}")
        except Exception:
            log.exception("backup failed")
            done = msgspec.structs.replace(job, state="failed", problem="see the log")
        finished = timestamp(self._system.clock.now())
        self._note(msgspec.structs.replace(done, finished_at=finished))

    async def _made(self, principal: Principal, job: Backup) -> Backup:
        settings, keyring = self._settings, self._state.keyring
        stamp = re.sub("[^0-9]", "", job.started_at)[:14]
        data = backup_dir(settings) / f"data-{stamp}-{job.id[-6:]}.hfb"
        keys = backup_keys_dir(settings) / f"keys-{stamp}-{job.id[-6:]}.hfk"
        key = await asyncio.to_thread(keyring.current, DEFAULT_TENANT, BACKUPS)
        copy = data.with_name(f".{data.stem}.copy")
        url, revision = settings.database_url, ""
        embedded = url.startswith("sqlite:")
        data.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            if embedded:
                copy.mkdir(parents=True, mode=0o700)
                await asyncio.to_thread(_copy_sqlite, settings, copy / "holdfast.db")
            else:
                password = settings["database_password"] or None
                revision = await postgres.dump(url, password, copy)
            names = await self._objects()
            header = Header(
                id=job.id,
                created_at=job.started_at,
                version=__version__,
                roles=sorted(self._system.roles),
                engine="sqlite" if embedded else "postgresql",
                keyring=await asyncio.to_thread(lambda: keyring.id),
                objects=len(names),
                revision=revision,
            )
            job = msgspec.structs.replace(job, objects=len(names))
            size = await write(data, "data", key, header, self._data_parts(copy, names, job))
        finally:
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
        master = master_backup_key(keyring.masters.current)
        size += await write(keys, "keys", master, header, self._key_parts())
        await self.prune()
        await self._emit(principal, job, size)
        return msgspec.structs.replace(
            job,
            state="done",
            data_file=str(data.absolute()),
            keys_file=str(keys.absolute()),
            size_bytes=size,
            objects_done=job.objects,
        )

    async def _ledger_damage(self) -> str:
        """What is wrong with the first log that is damaged; nothing where all are sound."""
        system = self._system
        if system.ledger is None or "ledger" not in system.roles:
            return ""
        for tenant in await self._state.database.tenants():
            found = await system.ledger.damage(service("backup", tenant))
            if found is not None:
                return f"the ledger of {tenant} is damaged at {found.first}: {found.detail}"
        return ""

    async def _objects(self) -> list[tuple[Principal, str]]:
        """Every object that is there; ``Corrupt`` if one that a row names is not."""
        names: list[tuple[Principal, str]] = []
        for tenant in await self._state.database.tenants():
            who = service("backup", tenant)
            there = [found.name async for found in self._state.objects.scan(who)]
            if missing := await self._checks.missing(who, set(there)):
                raise Corrupt(
                    f"cannot back up: {len(missing)} objects are missing, the first is "
                    f"{missing[0]}",
                    code="object-missing",
                )
            names += [(who, name) for name in there]
        return names

    async def _data_parts(
        self, copy: Path, names: list[tuple[Principal, str]], job: Backup
    ) -> AsyncIterator[Part]:
        for path in _files_below(copy):
            yield Part(f"state/{path.relative_to(copy)}", _file(path))
        for done, (who, name) in enumerate(names):
            self._note(msgspec.structs.replace(job, objects_done=done))
            # Checked while they pass: a copy of what is damaged would be found when it is needed.
            chunks = self._checks.whole(who, name)
            first = await _first(chunks)
            if first is not None:  # else it was erased since the list was made
                yield Part(f"objects/{name}", _after(first, chunks))
        for path in _own_files(self._settings):
            yield Part(f"files/{path.relative_to(self._settings.data_dir)}", _file(path))

    async def _key_parts(self) -> AsyncIterator[Part]:
        tables = await asyncio.to_thread(dump_tables, self._state.keyring.store)
        for table, lines in tables.items():
            yield Part(f"keyring/{table}", _one(lines))
        left_out = {master_file(self._settings)}
        for folder, under in (
            (self._settings.keys_dir, "keys"),
            (self._settings.secrets_dir, "secrets"),
        ):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path not in left_out and not path.name.startswith("."):
                    yield Part(f"{under}/{path.relative_to(folder)}", _file(path))

    async def _emit(self, principal: Principal, job: Backup, size: int) -> None:
        event = Event(
            id=EventId(self._system.new_id()),
            stream="backups",
            type="backup.created",
            time=self._system.clock.now(),
            payload={"backup": job.id, "bytes": size, "objects": job.objects},
            request_id=request_id(),
        )
        outbox = self._state.outbox
        await self._state.database.write(
            principal, lambda conn: outbox.emit(conn, principal, event)
        )


def dump_tables(store: KeyStore) -> dict[str, bytes]:
    """Every table of the keyring as of one moment, one JSON array a line.

    Of two moments the keys might be from before an erasure, and the erasure with them.
    """

    def unit(rows: Rows) -> dict[str, bytes]:
        return {table: _lines_of(rows, table) for table in NAMES}

    return store.transact(unit)


def _lines_of(rows: Rows, table: str) -> bytes:
    names = ", ".join(NAMES[table])
    found = rows.all(f"SELECT {names} FROM {table}")  # noqa: S608 - our own names
    return b"".join(msgspec.json.encode([_plain(cell) for cell in row]) + b"\n" for row in found)


def load_tables(rows: Rows, dumped: Mapping[str, bytes]) -> None:
    """Put the rows of :func:`dump_tables` into the empty tables."""
    for table, data in dumped.items():
        columns = NAMES[table]
        values = [
            tuple(
                base64.b64decode(cell) if name == "wrapped" else cell
                for name, cell in zip(columns, msgspec.json.decode(line), strict=True)
            )
            for line in data.splitlines()
        ]
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608
        if values:
            rows.many(statement, values)


def _plain(cell: Any) -> Any:
    return base64.b64encode(cell).decode() if isinstance(cell, bytes | memoryview) else cell


def _copy_sqlite(settings: Settings, target: Path) -> None:
    """A consistent copy of the open database, whole and flushed, without what was deleted."""
    from pysqlite3 import dbapi2

    from holdfast.kernel.database import sqlite_path

    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    source = sqlite_path(settings.database_url)
    with closing(dbapi2.connect(f"file:{source}?mode=ro", uri=True, isolation_level=None)) as read:
        read.execute("PRAGMA busy_timeout=10000").close()
        with closing(dbapi2.connect(str(target), isolation_level=None)) as copy:
            read.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE").close()


def _own_files(settings: Settings) -> list[Path]:
    """What the operator wrote into the data directory."""
    found = [settings.data_dir / "holdfast.toml"]
    profiles = settings.data_dir / "profiles"
    found += sorted(profiles.rglob("*")) if profiles.is_dir() else []
    return [path for path in found if path.is_file()]


def _remove_leftovers(folder: Path) -> None:
    """What a process that was killed while it made a backup has left: nothing else begins so."""
    for path in [*folder.glob(".data-*"), *folder.glob(".keys-*")] if folder.is_dir() else []:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def _file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield chunk


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _first(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(chunks, b"")
    except NotFound:
        return None


async def _after(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk
