"""Opening the keyring of a process: where it lies, under which master key, for which purposes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.app.settings import Settings
from holdfast.app.store import (
    read_check_value,
    read_check_values,
    replace_check_value,
    write_check_value,
)
from holdfast.kernel.cli import named_directory, say
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.errors import HoldfastError, Invalid, Unavailable, Unsupported
from holdfast.kernel.principal import service
from holdfast.kernel.telemetry import LEVELS, get_logger
from holdfast.keyring.errors import (
    KeyringForeign,
    KeyringMissing,
    MasterKeyForeign,
    MasterKeyMissing,
)

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from sqlalchemy import Connection

    from holdfast.app.system import System
    from holdfast.kernel.clock import Clock
    from holdfast.kernel.database import Database
    from holdfast.kernel.outbox import Outbox
    from holdfast.keyring import Keyring, MasterKeys

log = get_logger("app")

SEAL_ROWS = 500
SCRUB_SECONDS = 3600.0
"""How long destroyed keys of raw responses may be in the keyring's file when nobody is erased. It
costs what all keys cost, and new ones wait meanwhile."""
KEYRING_OF = "keyring of "
"""What a holder's mark in the data begins with: that says which keyring is that holder's."""
FIRST_KEYRING, FIRST_HOLDER = "first keyring", "first holder of a keyring"
"""Marks of whoever came first to a database: the keyring, everybody's who comes after, and whose
place it is in."""


def master_file(settings: Settings) -> Path:
    """Where the master key is kept, unless the operator hands it in."""
    return settings.keys_dir / "master.key"


def keyring_place(settings: Settings, holder: str) -> tuple[str, str]:
    """The keyring's URL, and its schema where that is PostgreSQL.

    Without a setting it goes with the database: a file in the data directory, or a schema of this
    role's own, since each role has a master key of its own.
    """
    if settings["keyring_url"]:
        return settings["keyring_url"], "holdfast_keyring"
    if settings.database_url.startswith("sqlite:"):
        return f"sqlite:///{settings.data_dir / 'keyring' / 'keyring.db'}", ""
    return settings.database_url, f"holdfast_keyring_{holder}"


async def check_flushing(settings: Settings, holder: str) -> bool:
    """Whether a PostgreSQL server under the data or the keys may lose what it acknowledges, and
    the settings allow that; ``Unsupported`` if they do not."""
    data = settings.database_url, settings["database_password"]
    keys = (
        keyring_place(settings, holder)[0],
        (settings["keyring_password"] or settings["database_password"]),
    )
    found = False
    for what, (url, password) in {"database": data, "keyring": keys}.items():
        if url.startswith("sqlite:") or (what == "keyring" and url == data[0]):
            continue
        from holdfast.kernel.database.flushing import unflushed

        if not (off := await unflushed(url, password or None)):
            continue
        found = True
        named = f"the PostgreSQL server under the {what} has {' and '.join(off)} off"
        if not settings["database_unflushed"]:
            raise Unsupported(
                f"cannot start: {named}, so what it acknowledges may be lost at a power cut",
                code="database-unflushed",
                hint="switch on what is off (ALTER SYSTEM SET … = on; SELECT pg_reload_conf()); "
                "HOLDFAST_DATABASE_UNFLUSHED=true takes it as it is, for data that may be lost",
            )
        log.warning(f"{named}: what is acknowledged may be lost at a power cut", what=what)
    return found


def unrecoverable_days(settings: Settings) -> int:
    """How many days after its destruction a key may yet lie somewhere: in copies of the keyring,
    and on PostgreSQL in the server's write-ahead log, which no statement of ours reaches."""
    days: int = settings["keyring_backup_days"]
    url, _schema = keyring_place(settings, "any")
    if url.startswith("sqlite:"):
        return days
    return max(days, int(settings["keyring_wal_days"]))


async def open_keyring(
    system: System, database: Database, holder: str, stack: AsyncExitStack
) -> Keyring:
    """The keyring, held against the mark that the data carries; see ``keyring.open_keyring``.

    Roles that share a database share its outbox, too: whichever relays an event must open what
    another has sealed. So the keyring of the first is everybody's, and ``KeyringForeign`` stops
    whoever comes with another one, before it has written anything into the data. Of data that does
    not say yet who came first, the marks of the holders decide; see :func:`_first_of`.
    """
    from holdfast.keyring import open_keyring as opened
    from holdfast.keyring.backends import open_store
    from holdfast.keyring.model import BACKUPS, EVENTS, PURPOSES

    settings = system.settings
    mark = f"{KEYRING_OF}{holder}"
    marks = await database.read(service("app"), read_check_values(""))
    known = marks.get(mark)
    first, first_holder = _first_of(marks) or (None, holder)
    if None not in (known, first) and known != first:
        raise _second(first_holder)
    url, schema = keyring_place(settings, first_holder)
    password = settings["keyring_password"] or settings["database_password"] or None
    store = await asyncio.to_thread(open_store, url, password=password, schema=schema)
    try:
        keyring = await asyncio.to_thread(
            opened,
            store,
            _masters(settings),
            system.clock,
            new_id=system.new_id(),
            expected=known or first,
            # Whoever only writes events has no business with people's data.
            purposes=PURPOSES if system.roles & {"aggregator", "ledger"} else {EVENTS, BACKUPS},
        )
    except BaseException as error:
        await asyncio.to_thread(store.close)
        if (
            first is not None
            and known is None
            and isinstance(error, KeyringMissing | MasterKeyForeign | MasterKeyMissing)
        ):
            raise _foreign() from error
        raise
    stack.push_async_callback(asyncio.to_thread, keyring.close)
    if FIRST_KEYRING not in marks:
        await database.write(service("app"), _came_first(keyring.id, first_holder))
        first = await database.read(service("app"), read_check_value(FIRST_KEYRING))
        if first != keyring.id:
            raise _foreign()  # another role was quicker
    if known is None:
        await database.write(service("app"), write_check_value(mark, keyring.id))
    return keyring


def _first_of(marks: Mapping[str, str]) -> tuple[str, str] | None:
    """The keyring of the data, and whose place it is in; None where nobody has sealed anything.

    Data from before the first was noted tell of each holder's: the aggregator's counts before
    others, for people's data are sealed under it, and else one for all who may start.
    """
    if FIRST_KEYRING in marks:
        return marks[FIRST_KEYRING], marks[FIRST_HOLDER]
    holders = sorted(each for each in marks if each.startswith(KEYRING_OF))
    if not holders:
        return None
    usual = f"{KEYRING_OF}aggregator"
    mark = usual if usual in holders else holders[0]
    return marks[mark], mark.removeprefix(KEYRING_OF)


def _came_first(keyring: str, holder: str) -> Callable[[Connection], None]:
    def unit(conn: Connection) -> None:
        write_check_value(FIRST_KEYRING, keyring)(conn)
        write_check_value(FIRST_HOLDER, holder)(conn)

    return unit


def write_first(keyring: str, holder: str) -> Callable[[Connection], None]:
    """Say which is the keyring of the data, and in whose place, for a restore that has put it
    there."""

    def unit(conn: Connection) -> None:
        replace_check_value(FIRST_KEYRING, keyring)(conn)
        replace_check_value(FIRST_HOLDER, holder)(conn)

    return unit


def _foreign() -> HoldfastError:
    return KeyringForeign(
        "cannot start: another role has sealed events in this database under a keyring of its own",
        hint="give it the master key of whoever came first (HOLDFAST_KEYRING_MASTER_KEY_FILE) "
        "and the same HOLDFAST_KEYRING_URL, or none if that has none; or give it a database of "
        "its own",
    )


async def scrub_now_and_then(keyring: Keyring, clock: Clock) -> None:
    """Scrub what was destroyed outside of an erasure: a source goes on naming somebody who is
    erased, and what it sent goes at once, its key's bytes with the next erasure, or here."""
    while True:
        await clock.sleep(SCRUB_SECONDS)
        try:
            await keyring.apart(keyring.store.scrub)
        except Unavailable as error:
            log.warning(
                "destroyed keys of raw responses are in the keyring's file yet: tried again later",
                detail=error.internal or str(error),
            )


def _second(first_holder: str) -> HoldfastError:
    return KeyringForeign(
        "cannot start: this role has sealed events under a keyring of its own in a database where "
        f"that of {first_holder} counts",
        hint="give this role a database of its own, or begin anew in an empty one with one keyring "
        "for all roles that share it, HOLDFAST_KEYRING_URL and HOLDFAST_KEYRING_MASTER_KEY_FILE",
    )


async def open_peppers(settings: Settings, database: Database, name: str) -> Peppers:
    """The pepper of that name, held against the check values that the data carries.

    Where there are none, nothing was sealed under one yet (or by a release that kept no check
    value): one may be made. A version that is new is known from now on.
    """
    mark = f"{name}.v"
    found = await database.read(service("app"), read_check_values(mark))
    known = {int(version): value for version, value in found.items()}
    peppers = await asyncio.to_thread(
        Peppers.load_or_create, settings.keys_dir, name, may_create=not known
    )
    peppers.confirm(known)
    for version, value in peppers.check_values().items():
        if version not in known:
            await database.write(service("app"), write_check_value(f"{mark}{version}", value))
    return peppers


def _masters(settings: Settings) -> Callable[[bool], MasterKeys]:
    from holdfast.keyring import MasterKeys
    from holdfast.keyring.wrapping import KEEP_HINT

    path = master_file(settings)

    def masters(may_create: bool) -> MasterKeys:
        if settings["keyring_master_key"]:
            return MasterKeys.from_text(settings["keyring_master_key"])
        try:
            return MasterKeys.from_file(path)
        except FileNotFoundError:
            if not may_create:
                raise MasterKeyMissing(
                    f"cannot start: the master key {path} is missing and there are sealed data",
                    hint=KEEP_HINT,
                ) from None
        except OSError as error:
            raise Unavailable(f"cannot read the master key {path}: {error.strerror}") from error
        try:
            keys = MasterKeys.create(path)
        except Invalid:  # another instance was quicker
            return MasterKeys.from_file(path)
        _tell_of(path, settings)
        return keys

    return masters


def _tell_of(path: Path, settings: Settings) -> None:
    """That there is a new master key. To a person in words, without a line that wraps."""
    where = named_directory(settings.data_dir)
    if settings["log_format"] == "json":
        log.warning(
            "master key made",
            at=str(path),
            detail="without it nothing that is sealed can be read: keep a copy elsewhere",
            do=f"holdfast key export --out FILE{where}",
        )
    elif LEVELS[settings["log_level"]] <= LEVELS["warning"]:
        say(f"master key made: {path}")
        say("  a trial needs no more; before you keep data that matter, keep a copy elsewhere:")
        say(f"  holdfast key export --out FILE{where}")


async def seal_clear_rows(database: Database, outbox: Outbox) -> None:
    """Seal what a release without a keyring left in the outbox."""
    for tenant in await database.tenants():
        principal = service("app", tenant)
        while await database.write(
            principal,
            lambda conn, who=principal: outbox.seal_clear(conn, who, SEAL_ROWS),  # type: ignore[misc]
        ):
            pass
