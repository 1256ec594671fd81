"""What can be told of a data directory on which nothing runs: each a line of ``holdfast doctor``.

Nothing is started, and nothing that is kept is written: databases are opened so that they cannot
be, and without the shared memory of a write-ahead log; keys are read and held against what the data
says of them; the flush of the disk is tried on a file without a name. Whatever is wrong becomes a
finding with what to do; nothing is raised.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from holdfast import __version__
from holdfast.kernel.errors import HoldfastError, Problem, Unavailable
from holdfast.kernel.hints import hint_for

if TYPE_CHECKING:
    from holdfast.app.settings import Settings
    from holdfast.ledger.store import Origin, Published

T = TypeVar("T")

PROBLEMS_SHOWN = 3
CHECK_SECONDS = 10.0
"""How long one look may take where its size is not ours to say; with ``--deep`` it may."""
FLUSH_SECONDS = 1.0
"""A flush that takes longer is told of: every answer waits for one."""
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""No clock that is right is before this program."""
CLOCK_SECONDS, CLOCK_SECONDS_MAX = 1.0, 3600.0
"""How far a clock may be behind what was recorded: an alarm, and from there on a refusal."""
SQLITE_MAGIC = b"SQLite format 3\0"
DIRECT = ("keys", "keyring", "ledger", "secrets", "state", "drones")
"""Folders of a data directory whose files are looked at one by one; none has many."""
PRIVATE = ("operator.token", "keys", "keyring", "secrets", "drones", "state")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the checklist."""

    check: str
    outcome: str
    detail: str
    hint: str = ""
    code: str = ""
    """Why it was not looked at, where whoever asks may not."""


class Unwell(Exception):
    """Raised within a check: what its line says, and with which outcome."""

    def __init__(self, outcome: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.finding = (outcome, detail, hint)


def checked(name: str, check: Callable[[], str]) -> Finding:
    """The line of one check, which says what is well or raises."""
    try:
        return Finding(name, "pass", check())
    except Unwell as found:
        return Finding(name, *found.finding)
    except HoldfastError as error:
        return Finding(name, "fail", error.detail, hint_for(error, "doctor"))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        hint = "see that whoever runs holdfast owns it: `ls -l` shows whose it is"
        return Finding(name, "fail", f"cannot read{where}: {error.strerror}", hint)


def of_settings(
    settings: Settings, problems: list[Problem], passed_over: list[Problem] | None = None
) -> Finding:
    """Whether a start would take the settings of this terminal and file; ``passed_over`` are names
    that are nearly ours."""
    if problems:
        told = [f"{p.path}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]
        return Finding(
            "settings",
            "fail",
            _some(told),
            "`holdfast config show` prints every setting with its meaning; nothing starts until "
            "they are right or unset",
        )
    if passed_over:
        told = [f"{p.path} {p.message}: {p.hint}" for p in passed_over]
        return Finding(
            "settings", "warn", _some(told), "`holdfast config show` tells what is in force"
        )
    changed = sum(each.origin != "default" for each in settings.resolved.values())
    return Finding("settings", "pass", f"{changed} set, the others at their defaults")


def of_directory(folder: Path) -> Finding:
    """Whether we may work in it, and nobody else read what is secret."""
    return checked("data directory", lambda: _directory(folder))


def _directory(folder: Path) -> str:
    found = folder.stat()
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise Unwell(
            "fail",
            f"{folder} is not ours to read and write",
            f"run as the user it belongs to (uid {found.st_uid}), or name another with --data-dir",
        )
    if found.st_mode & 0o002:  # a group may be how containers of any user share it
        raise Unwell("fail", f"others may write in {folder}", f"chmod 700 {folder}")
    others, open_ = [], []
    for path in _named(folder):
        entry = path.lstat()
        if entry.st_uid != found.st_uid:
            others.append(str(path.relative_to(folder)))
        # A folder that nobody else may enter keeps what is in it.
        private = path.relative_to(folder).parts[0] in PRIVATE and not stat.S_ISLNK(entry.st_mode)
        if private and entry.st_mode & 0o077 and not _within_closed(path, folder):
            open_.append(str(path.relative_to(folder)))
    if others:
        raise Unwell(
            "warn",
            f"of another user than {folder} itself: {_some(others)}",
            "if something was run as another user: "
            f"chown -R {found.st_uid}:{found.st_gid} {folder}",
        )
    if open_:
        raise Unwell(
            "warn", f"others may read in {folder}: {_some(open_)}", f"chmod -R go-rwx {folder}"
        )
    return f"{folder} is ours, mode {stat.S_IMODE(found.st_mode):o}"


def _named(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.name in DIRECT and path.is_dir():
            yield from sorted(path.iterdir())


def _within_closed(path: Path, folder: Path) -> bool:
    return any(
        not each.stat().st_mode & 0o077
        for each in path.parents
        if each == folder or folder in each.parents
    )


def of_flush(folder: Path) -> Finding:
    """Whether the disk takes bytes and says that it has them."""
    return checked("disk flush", lambda: _flush(folder))


def _flush(folder: Path) -> str:
    began = time.monotonic()
    try:
        try_to_write(folder)
    except OSError as error:
        raise Unwell(
            "fail",
            f"{folder} does not keep what is written: {error.strerror}",
            "free some space or mend the disk; nothing is acknowledged that is not flushed",
        ) from error
    took = time.monotonic() - began
    if took > FLUSH_SECONDS:
        raise Unwell(
            "warn",
            f"4 KiB took {took:.1f} s to be flushed",
            "every answer waits for a flush: see what else is at that disk, or use another",
        )
    return f"4 KiB flushed in {took * 1000:.1f} ms"


def try_to_write(folder: Path) -> None:
    """Write a file without a name and flush it; ``OSError`` if the disk refuses.

    Where there are no such files it has one for as long as that takes.
    """
    probe: Path | None = None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        probe = folder / f".doctor.{os.getpid()}"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, b"\0" * 4096)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        if probe is not None:
            probe.unlink()


def of_clock(recorded: str, now: datetime) -> Finding:
    """Whether this machine's time can be right, by what was recorded last."""

    def check() -> str:
        from holdfast.kernel.clock import parse_timestamp

        told = f"{now:%Y-%m-%d %H:%M:%S} UTC"
        hint = "set the clock, and let it be kept right: timedatectl set-ntp true"
        if now < EARLIEST:
            raise Unwell("fail", f"it is {told}, before this program was made", hint)
        behind = parse_timestamp(recorded) - now if recorded else timedelta(0)
        if behind > timedelta(seconds=CLOCK_SECONDS):
            refused = behind > timedelta(seconds=CLOCK_SECONDS_MAX)
            raise Unwell(
                "fail" if refused else "warn",
                f"it is {told}, and the log has an entry of {recorded[:19].replace('T', ' ')}"
                + (": nothing is appended before that" if refused else ""),
                hint,
            )
        return told + (", after all that was recorded" if recorded else "")

    return checked("clock", check)


def of_port(name: str, bind: str) -> Finding:
    """Whether an address is free to be listened on."""

    def check() -> str:
        from holdfast.kernel.serving import bind_socket

        try:
            bind_socket(bind).close()
        except Unavailable as error:
            raise Unwell("fail", error.detail, error.hint) from error
        return f"{bind} is free"

    return checked(name, check)


def of_profiles(folder: Path, apart: Path, *, deep: bool) -> Finding:
    """Whether every file of the profiles' folder is a profile."""
    return checked("profiles", lambda: _profiles(folder, apart, deep=deep))


def _profiles(folder: Path, apart: Path, *, deep: bool) -> str:
    from holdfast.registry.folder import look

    if not folder.is_dir():
        raise Unwell(
            "warn",
            f"{folder} does not exist",
            "`holdfast profile init ADDRESS` drafts one; HOLDFAST_REGISTRY_PROFILES_DIR names "
            "another folder",
        )
    until = time.monotonic() + CHECK_SECONDS
    count, bad, more = 0, list[str](), ""
    for file, problems in look(folder, apart=apart):
        count += 1
        if problems:
            first = problems[0]
            line = f":{first.line}" if first.line else ""
            bad.append(f"{file}{line}: {' '.join(filter(None, (first.path, first.message)))}")
        if not deep and time.monotonic() > until:
            more = " (there are more; --deep reads all)"
            break
    if bad:
        raise Unwell(
            "fail",
            f"of {count} files in {folder}{more} {_some(bad)}",
            "`holdfast profile validate FILE` lists all that is wrong; a profile that was good "
            "before runs on as it was",
        )
    if not count:
        raise Unwell("warn", f"no profile in {folder}", "put some there: *.yaml, *.yml or *.json")
    return f"{count} files in {folder}{more}, all of them profiles"


# --- databases ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What the database said that others are held against."""

    secret: str = ""
    keyring: str = ""
    recorded: str = ""
    ledgers: tuple[Ledger, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The end of one tenant's log, as the database has it."""

    tenant: str
    size: int
    root: bytes
    damage: str = ""
    origins: tuple[Origin, ...] = ()
    """The newest last."""
    restored: str = ""
    """From which backup, while nobody can tell what was published since."""
    told: dict[str, Published] = field(default_factory=dict)
    """What the database knows to be published, by origin."""


def of_database(
    path: Path, holder: str, *, beside: list[Path], deep: bool
) -> tuple[Finding, Told | None]:
    """Whether the embedded database opens, is whole and of this program's schema.

    ``beside`` are files that there are only beside one: where it is not, it is gone.
    """
    told: list[Told] = []

    def check() -> str:
        if not path.exists():
            left = [str(each) for each in beside if each.exists()]
            if left:
                raise Unwell(
                    "fail",
                    f"{path} is gone, and here is what belongs to it: {_some(left)}",
                    "put it back, or restore a backup into another directory: a start would begin "
                    "anew beside what is sealed",
                )
            raise Unwell("skip", f"there is none at {path} yet; a gateway alone has none")
        _check_mode(path)
        with read_only(path) as driver:
            whole = _whole(driver, deep=deep)
            told.append(_told(driver, holder))
            schema = _schema(driver)
        size = f"{path.stat().st_size / 2**20:,.1f} MiB"
        return f"{path} opens, {size}, write-ahead log, {whole}, {schema}"

    return checked("database", check), next(iter(told), None)


def _check_mode(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(20)
    if head[:16] != SQLITE_MAGIC:
        raise Unwell(
            "fail",
            f"{path} is no SQLite database, or its beginning is damaged",
            "keep the file as it is; `holdfast backup restore` makes a directory from a backup",
        )
    if head[18:20] != b"\x02\x02":
        raise Unwell(
            "warn",
            f"{path} is not in write-ahead mode",
            "the next start sets it; if it stays, put the data directory on a local disk",
        )


@contextmanager
def read_only(path: Path) -> Iterator[Any]:
    """A connection that cannot write, not even the memory that others would share."""
    from pysqlite3 import dbapi2

    # What is in the log of one that was killed counts. Without a log the file is all there is.
    log, journal = (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))
    if journal.exists() and journal.stat().st_size:
        raise Unwell(
            "warn",
            f"{path} was left in the middle of a commit: not looked at",
            "the next start takes it back to before that commit, by itself",
        )
    logged = log.exists() and log.stat().st_size
    how = "readonly_shm=1" if logged else "immutable=1"
    try:
        driver = dbapi2.connect(
            f"file:{quote(str(path.resolve()))}?mode=ro&{how}", uri=True, isolation_level=None
        )
        try:
            driver.execute("PRAGMA query_only=1").close()
            driver.execute("PRAGMA trusted_schema=OFF").close()
            yield driver
        finally:
            driver.close()
    except dbapi2.DatabaseError as error:
        said = str(error)
        if logged and "unable to open" in said:
            raise Unwell(
                "warn",
                f"{path} was not closed, and its shared memory is gone: not looked at",
                "the next start recovers it, by itself",
            ) from error
        raise Unwell(
            "fail",
            f"cannot read {path}: {said}",
            "keep the file as it is; `holdfast backup restore` makes a directory from a backup",
        ) from error


def _rows(driver: Any, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows; ``values`` one by one, or one mapping by their names."""
    named = values[0] if values and isinstance(values[0], dict) else values
    cursor = driver.execute(statement, named)
    try:
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _has(driver: Any, table: str) -> bool:
    return bool(_rows(driver, "SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", table))


def _schema(driver: Any) -> str:
    from holdfast.migrations.runner import standing

    found = _has(driver, "schema_state") and _rows(
        driver, "SELECT revision, oldest_code FROM schema_state WHERE id = 1"
    )
    if not found:
        raise Unwell(
            "fail", "the database has no schema of ours", "see that HOLDFAST_DATABASE_URL is right"
        )
    revision, oldest = found[0]
    match standing(revision, oldest, version=__version__):
        case "current":
            return f"schema {revision}"
        case "older":
            raise Unwell(
                "warn",
                f"schema {revision} is older than this program's",
                "the next start brings it up to date, after a copy into backups/",
            )
        case _:
            return f"schema {revision}, of a newer release, which this one can use"


def _whole(driver: Any, *, deep: bool) -> str:
    """Whether its pages are what they must be, as far as there is time to look."""
    from pysqlite3 import dbapi2

    until = time.monotonic() + CHECK_SECONDS
    if not deep:
        driver.set_progress_handler(lambda: time.monotonic() > until, 100_000)
    try:
        found = [str(row[0]) for row in _rows(driver, "PRAGMA quick_check(5)")]
    except dbapi2.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return "too large to be read whole in 10 s (--deep does)"
    finally:
        driver.set_progress_handler(None, 0)
    if found != ["ok"]:
        raise Unwell(
            "fail",
            f"the database is damaged: {_some(found)}",
            "keep the files as they are, and restore a backup into another directory",
        )
    return "whole"


def _told(driver: Any, holder: str) -> Told:
    known: dict[str, str] = {}
    if _has(driver, "secret_checks"):
        known = dict(_rows(driver, "SELECT holder, check_value FROM secret_checks"))
        marks = [
            name.removeprefix("keyring of ") for name in known if name.startswith("keyring of")
        ]
        if f"keyring of {holder}" not in known and len(marks) == 1:
            holder = marks[0]  # a directory of one role
    recorded, ledgers = "", list[Ledger]()
    if _has(driver, "ledger_commits"):
        ledgers = [_ledger(driver, *row) for row in _rows(driver, _ENDS)]
    if _has(driver, "ledger_index"):
        recorded = max(
            (str(r[0]) for r in _rows(driver, "SELECT recorded FROM ledger_index")), default=""
        )
    return Told(
        known.get(holder, ""), known.get(f"keyring of {holder}", ""), recorded, tuple(ledgers)
    )


_ENDS = (
    "SELECT tenant, first, count, frame FROM ledger_commits AS c"
    " WHERE first = (SELECT max(first) FROM ledger_commits AS d WHERE d.tenant = c.tenant)"
)

_ORIGINS = (
    "SELECT generation, origin, started_size, started_at, reason, cites FROM ledger_origins"
    " WHERE tenant = ? ORDER BY generation"
)
_ORIGINS_WITHOUT = _ORIGINS.replace(", cites", "")
"""Of an earlier release."""


def _ledger(driver: Any, tenant: str, first: int, count: int, frame: bytes) -> Ledger:
    from holdfast.ledger.frames import decode_frame
    from holdfast.ledger.ports import StoredCommit
    from holdfast.ledger.store import Origin, Published

    damage, restored, told = "", "", dict[str, Published]()
    if _has(driver, "ledger_restored"):
        asked = "SELECT backup || ' of ' || made_at FROM ledger_restored WHERE tenant = ?"
        restored = "".join(str(row[0]) for row in _rows(driver, asked, tenant))
        asked = "SELECT origin, size, root FROM ledger_checkpoints WHERE tenant = ?"
        for origin, size, root in _rows(driver, asked, tenant):
            told[origin] = Published(origin, size, bytes(root), "", "")
    if _has(driver, "ledger_damage"):
        met = _rows(driver, "SELECT reason, detail FROM ledger_damage WHERE tenant = ?", tenant)
        damage = "; ".join(f"{reason}: {detail}" for reason, detail in met)
    try:
        root = decode_frame(StoredCommit(first, count, bytes(frame))).root
    except HoldfastError as error:
        root, damage = b"", damage or error.detail
    origins = list[Origin]()
    if _has(driver, "ledger_origins"):
        named = _rows(driver, "SELECT name FROM pragma_table_info('ledger_origins')")
        asked = _ORIGINS if ("cites",) in named else _ORIGINS_WITHOUT
        origins = [Origin(*row) for row in _rows(driver, asked, tenant)]
    return Ledger(tenant, first + count, root, damage, tuple(origins), restored, told)


def of_ledger_heads(folder: Path, ledgers: tuple[Ledger, ...]) -> Finding:
    """Whether each log is as long as its head file says, and ends as that says."""
    return checked("ledger", lambda: _heads(folder, ledgers))


def _heads(folder: Path, ledgers: tuple[Ledger, ...]) -> str:
    from holdfast.ledger.head import HeadFile
    from holdfast.ledger.log.soundness import hint_of
    from holdfast.ledger.model import PUBLISHED_UNKNOWN
    from holdfast.ledger.signer import PublishedFile, binds, is_evidence, untold

    hint = "`holdfast ledger verify` says what is sound; docs/operating/ledger.md what to do then"
    known = {each.tenant: each for each in ledgers}
    heads = {path.stem for path in folder.glob("*.head")} if folder.is_dir() else set[str]()
    bad, notes = list[str](), list[str]()
    for tenant in sorted(heads | set(known)):
        log = known.get(tenant, Ledger(tenant, 0, b""))
        head = HeadFile(folder / f"{tenant}.head").read()
        names = [each.origin for each in log.origins]
        said = PublishedFile(folder.parent / "published" / f"{tenant}.json")
        if log.damage:
            bad.append(f"{tenant} is damaged: {log.damage}")
        elif log.restored and not is_evidence(said.read(), log.told):
            bad.append(
                f"{tenant} was restored from the backup {log.restored}, and what was published "
                "of it after that is not known here: it will be read-only"
            )
            hint = hint_of(PUBLISHED_UNKNOWN)
        elif head is None:
            notes.append(f"{tenant} has no head file")
        elif head.origin and names and head.origin not in names:
            bad.append(f"{tenant} is older than {head.origin}, of which its head file knows")
        elif (lost := untold(log.origins, head)) is not None:
            bad.append(f"{tenant} lost entries, and tells of no such loss: {lost.detail}")
        elif head.origin and names and not binds(log.origins, head.origin, head.size):
            notes.append(f"the head of {tenant} is of {head.origin}, before {names[-1]}")
        elif head.size > log.size:
            bad.append(f"{tenant} ends at {log.size:,}, and was {head.size:,} entries long")
        elif head.size == log.size and log.root not in (b"", head.root):
            bad.append(f"{tenant} has {log.size:,} entries, and ends otherwise than it did")
        elif head.size < log.size:
            notes.append(f"the head of {tenant} is {log.size - head.size:,} entries behind")
    if bad:
        raise Unwell("fail", _some(bad), hint)
    if notes:
        raise Unwell("warn", _some(notes), "the next start reads the log and writes its head anew")
    told = ", ".join(f"{each.tenant} {each.size:,}" for each in ledgers) or "none"
    return f"as long as the head files say (entries: {told})"


def of_access(path: Path) -> Finding:
    """Whether a restore has left open who may enter."""
    return checked("access", lambda: _access(path))


def _access(path: Path) -> str:
    from holdfast.identity.access.model import CONFIRM, REVIEW

    with read_only(path) as driver:
        statement = "SELECT min(backed_up_at) FROM access_restores WHERE NOT confirmed"
        found = _rows(driver, statement) if _has(driver, "access_restores") else []
    if found and found[0][0]:
        raise Unwell(
            "fail",
            f"as it was at the backup of {found[0][0]} and not yet confirmed: only the operator "
            "is let in",
            f"`{REVIEW}` shows who would be; end what was ended since, then `{CONFIRM}`",
        )
    return "keys and people are let in as they stand"


# --- keys ---------------------------------------------------------------------------------------


class _Shut:
    """A keyring's store that is only read: see :class:`holdfast.keyring.ports.KeyStore`."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return _rows(self._driver, re.sub(r"\$(\d+)", r"?\1", statement), *values)

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        raise Unwell("fail", "the keyring is not as a start leaves it")

    def transact(self, unit: Callable[[Any], T]) -> T:
        return unit(self)

    def scrub(self) -> None: ...

    def close(self) -> None: ...


def of_keyring(path: Path, settings: Settings, expected: str, *, deep: bool) -> Finding:
    """Whether the keyring is the one of the data, and the master key the one of the keyring."""
    return checked("keyring", lambda: _keyring(path, settings, expected, deep=deep))


def _keyring(path: Path, settings: Settings, expected: str, *, deep: bool) -> str:
    from holdfast.keyring.errors import KeyringMissing

    if not path.exists():
        if expected:
            raise KeyringMissing(
                f"the data was sealed under a keyring that is not at {path}",
                hint="put its file back, or restore it: holdfast backup restore",
            )
        raise Unwell("warn", f"{path} does not exist yet", "`holdfast up` creates it")

    with read_only(path) as driver:
        keyring = _open_keyring(driver, settings, expected)
        versions = len(keyring.masters.versions)
        opened = keyring.check() if deep else None
    if opened is not None and opened.damaged:
        raise Unwell(
            "fail",
            f"of {opened.keys} keys do not open: {_some(opened.damaged)}",
            "restore the keyring from a backup of keys",
        )
    keys = f", {opened.keys} keys open" if opened else " (--deep opens every key)"
    which = "the master key fits" if versions == 1 else f"{versions} versions of the master key fit"
    return f"{path} opens, {which}{keys}"


def _open_keyring(driver: Any, settings: Settings, expected: str) -> Any:
    from holdfast.app.keys import master_file
    from holdfast.kernel.clock import SystemClock
    from holdfast.keyring import MasterKeys, open_keyring
    from holdfast.keyring.errors import MasterKeyMissing
    from holdfast.keyring.wrapping import KEEP_HINT

    def masters(may_create: bool) -> MasterKeys:
        if settings["keyring_master_key"]:
            return MasterKeys.from_text(settings["keyring_master_key"])
        try:
            return MasterKeys.from_file(master_file(settings))
        except FileNotFoundError:
            raise MasterKeyMissing(
                f"the master key {master_file(settings)} is missing", hint=KEEP_HINT
            ) from None

    return open_keyring(_Shut(driver), masters, SystemClock(), new_id="", expected=expected or None)


def of_secret(settings: Settings, expected: str) -> Finding:
    """Whether the tenant secret is the one that the data was written under."""

    def check() -> str:
        from holdfast.kernel.secrets import TenantSecrets

        path = settings.secrets_dir / "tenant-secrets"
        if not expected and not path.exists():
            raise Unwell("skip", "there is none yet")
        found = TenantSecrets.open(path, may_create=False)
        if expected:
            found.confirm(expected)
        return f"{path} is the one that the data was written under"

    return checked("tenant secret", check)


def of_trusted(settings: Settings) -> Finding:
    """Whether the public keys are of use by which roles know each other: a start takes all."""

    def check() -> str:
        from holdfast.kernel.clock import SystemClock
        from holdfast.kernel.trusted import TrustedFolder

        folder = settings.trust_dir
        if not folder.exists():
            named = settings.origin("trust_dir")
            if named == "default":
                raise Unwell("skip", "there are none yet")
            detail = f"{folder} of {named} is not there; a start makes it, without anybody's key"
            raise Unwell("warn", detail, "if the other roles' keys are there, mount it")
        issuers = TrustedFolder(folder, SystemClock()).issuers
        return f"{folder} has those of {', '.join(sorted(issuers)) or 'nobody yet'}"

    return checked("trusted keys", check)


def of_records(path: Path, settings: Settings, told: Told) -> Finding:
    """Whether every stored revision of every record says what was recorded; reads all of them."""
    return checked("records", lambda: _records(path, settings, told))


def _records(path: Path, settings: Settings, told: Told) -> str:
    from holdfast.kernel.secrets import TenantSecrets
    from holdfast.records.errors import RecordAltered
    from holdfast.records.soundness import PAGE, ROWS_AT_ONCE, Checked
    from holdfast.records.soundness import checked as compared

    found, secrets = Checked(), None
    with read_only(path) as driver, _read_keyring(settings, told) as keyring:
        if not _has(driver, "record_revisions"):
            raise Unwell("skip", "none are kept here")

        for (tenant,) in _rows(driver, "SELECT id FROM tenants ORDER BY id"):
            asked = {"tenant": tenant, "profile": "", "sequence": -1, "most": ROWS_AT_ONCE}
            while rows := _rows(driver, PAGE, asked):
                if secrets is None:
                    secrets = TenantSecrets.open(
                        settings.secrets_dir / "tenant-secrets", may_create=False
                    )
                    secrets.confirm(told.secret)
                found.add(compared(secrets, tenant, rows, keyring))
                asked |= {"profile": rows[-1][0], "sequence": rows[-1][1]}
    try:
        found.check()
    except RecordAltered as error:
        raise Unwell("fail", error.detail, error.hint) from error
    return found.told


@contextmanager
def _read_keyring(settings: Settings, told: Told) -> Iterator[Any]:
    """The keyring, to open what is sealed; ``None`` where it does not open, which is said of it."""
    from holdfast.app.keys import keyring_place
    from holdfast.kernel.database import sqlite_path

    place, _ = keyring_place(settings, "aggregator")
    if not place.startswith("sqlite:") or not sqlite_path(place).exists():
        yield None
        return
    with read_only(sqlite_path(place)) as driver:
        try:
            keyring = _open_keyring(driver, settings, told.keyring)
        except (HoldfastError, Unwell):
            keyring = None
        yield keyring


def _some(texts: list[str]) -> str:
    more = len(texts) - PROBLEMS_SHOWN
    return "; ".join(texts[:PROBLEMS_SHOWN]) + (f" (and {more} more)" if more > 0 else "")


def _lead(settings: Settings) -> str:
    """The role whose address a start here would listen on, by the keys that it left."""
    from holdfast.app.settings import ROLES

    left = [role for role in ROLES if (settings.keys_dir / f"{role}.key.jwk").exists()]
    return left[0] if len(left) == 1 else "gateway"


# --- all of it ----------------------------------------------------------------------------------


def at_rest(settings: Settings, now: datetime, *, deep: bool) -> list[Finding]:
    """Everything that can be told of a directory that is there, and that nobody holds."""
    from holdfast.app.keys import keyring_place
    from holdfast.kernel.database import sqlite_path

    found: list[Finding] = []
    told: Told | None = None
    url, where = settings.database_url, "kept on PostgreSQL: a start checks it"
    if url.startswith("sqlite:"):
        beside = [settings.secrets_dir / "tenant-secrets"]
        if keyring_place(settings, "aggregator")[0].startswith("sqlite:"):
            beside.append(sqlite_path(keyring_place(settings, "aggregator")[0]))
        if (settings.data_dir / "ledger").is_dir():
            beside += sorted((settings.data_dir / "ledger").glob("*.head"))
        database, told = of_database(sqlite_path(url), "aggregator", beside=beside, deep=deep)
        found.append(database)
    else:
        found.append(Finding("database", "skip", where))
    place, _ = keyring_place(settings, "aggregator")
    if not place.startswith("sqlite:"):
        found.append(Finding("keyring", "skip", where))
    elif told is not None or not url.startswith("sqlite:"):
        expected = told.keyring if told else ""
        found.append(of_keyring(sqlite_path(place), settings, expected, deep=deep))
    if told is not None:
        found.append(of_access(sqlite_path(url)))
        found.append(of_secret(settings, told.secret))
        found.append(of_ledger_heads(settings.data_dir / "ledger", told.ledgers))
        if deep:
            found.append(of_records(sqlite_path(url), settings, told))
    found.append(of_trusted(settings))
    found.append(of_profiles(settings.profiles_dir, settings.data_dir, deep=deep))
    found.append(of_clock(told.recorded if told else "", now))
    found.append(of_port("port", settings[f"{_lead(settings)}_bind"]))
    if settings["metrics_bind"]:
        found.append(of_port("metrics port", settings["metrics_bind"]))
    return found
