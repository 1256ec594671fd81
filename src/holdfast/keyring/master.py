"""The master key: a small file (mode 0600), or a secret that the operator hands in.

It wraps tenants' keys and nothing else. It may have several versions at once: the highest wraps,
the others only unwrap until everything is rewrapped. It is kept apart from the keyring, and from
every backup of the data directory; without it nothing that is sealed can be read.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.kernel import files
from holdfast.kernel.errors import Corrupt, Internal, Invalid, Unsupported
from holdfast.keyring.envelope import KEY_BYTES, KEY_ID_BYTES

_LINE = re.compile(r"holdfast-master-1 ([1-9][0-9]{0,8}) ([0-9a-f]{64}) ([0-9a-f]{8})")
_HEADER = (
    "# The master key of this Holdfast. Without it nothing that is sealed can be read by anybody.\n"
    "# Keep a copy apart from the data and its backups: holdfast key export --out FILE\n"
)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One version of the master key. ``id`` names it without telling it."""

    version: int
    secret: bytes

    @property
    def id(self) -> bytes:
        return _mac(self.secret, b"holdfast master key id")[:KEY_ID_BYTES]

    @property
    def check_value(self) -> str:
        """What the keyring keeps, to tell this key from another's."""
        return _mac(self.secret, b"holdfast master key check value").hex()

    def __repr__(self) -> str:
        return f"MasterKey(version={self.version}, id={self.id.hex()})"


class MasterKeys:
    """The versions there are. From a file they can be added to; from a given text they cannot."""

    def __init__(self, keys: list[MasterKey], path: Path | None) -> None:
        self._take(keys)
        self._path = path

    def _take(self, keys: list[MasterKey]) -> None:
        if not keys:
            raise Internal("cannot use a master key that has no version")
        self._by_id = {key.id: key for key in keys}
        self._current = max(keys, key=lambda key: key.version)

    @classmethod
    def from_text(cls, text: str) -> MasterKeys:
        """The key in a secret of the operator's: one line for each version."""
        return cls(parse_master(text, "the master key"), None)

    @classmethod
    def from_file(cls, path: Path) -> MasterKeys:
        """The key in the file at ``path``; ``FileNotFoundError`` if there is none."""
        return cls(_read(path), path)

    @classmethod
    def create(cls, path: Path, random: Callable[[int], bytes] = os.urandom) -> MasterKeys:
        """Make the file with version 1, durable on return; one that is there is never replaced.

        The caller knows that nothing is sealed yet.
        """
        write_new(path, render_master([MasterKey(1, random(KEY_BYTES))]))
        return cls.from_file(path)

    @property
    def path(self) -> Path | None:
        """The file, or ``None`` if the operator hands the key in."""
        return self._path

    @property
    def current(self) -> MasterKey:
        """The version that wraps."""
        return self._current

    @property
    def versions(self) -> list[MasterKey]:
        """All versions, oldest first."""
        return sorted(self._by_id.values(), key=lambda key: key.version)

    def find(self, key_id: bytes) -> MasterKey | None:
        """The version with this id. Looks into the file again: another process may have added."""
        found = self._by_id.get(key_id)
        if found is None and self._path is not None and self._path.exists():
            self._take(_read(self._path))
            found = self._by_id.get(key_id)
        return found

    def add_version(self, random: Callable[[int], bytes] = os.urandom) -> MasterKey:
        """A new version, durable in the file beside the old ones before this returns."""
        path = self._own_file("rotate")
        with _turn(path):
            keys = _read(path)
            newest = max(key.version for key in keys)
            added = MasterKey(newest + 1, random(KEY_BYTES))
            files.write_over(path, render_master([*keys, added]).encode())
        self._take([*keys, added])
        return added

    def retire(self, used: set[str]) -> list[MasterKey]:
        """Remove from the file the versions that wrap nothing any more; those removed. ``used`` are
        the ids, in hexadecimal, of what wraps a key."""
        if self._path is None:
            return []
        with _turn(self._path):
            keys = _read(self._path)
            newest = max(keys, key=lambda key: key.version)
            gone = [key for key in keys if key.id.hex() not in used and key != newest]
            kept = [key for key in keys if key not in gone]
            if gone:
                files.write_over(self._path, render_master(kept).encode())
        self._take(kept)
        return gone

    def _own_file(self, what: str) -> Path:
        if self._path is None:
            raise Unsupported(
                f"cannot {what} the master key: the operator hands it in",
                hint="add a line with the next version to the secret (`holdfast key new-master` "
                "prints one), start again, then run `holdfast key rewrap`",
            )
        return self._path


def render_master(keys: list[MasterKey]) -> str:
    """The file's text."""
    lines = (
        f"holdfast-master-1 {key.version} {key.secret.hex()} {_line_check(key)}\n"
        for key in sorted(keys, key=lambda key: key.version)
    )
    return _HEADER + "".join(lines)


def parse_master(text: str, source: str) -> list[MasterKey]:
    """The versions in a text; ``Corrupt`` if a line of it is not one."""
    found: dict[int, MasterKey] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        key = MasterKey(int(match[1]), bytes.fromhex(match[2])) if match else None
        if match is None or key is None or _line_check(key) != match[3] or key.version in found:
            raise _damaged(source)
        found[key.version] = key
    if not found:
        raise _damaged(source)
    return list(found.values())


def write_new(path: Path, text: str) -> None:
    """Write ``text`` whole and flushed at ``path``, or not at all; never over a file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not files.write_new(path, text.encode("utf-8")):
        raise Invalid(f"cannot write {path}: it is there already")


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One at a time, in any process, reads the file and writes it anew.

    Of two at once the later would take the earlier's version out again, and with it everything
    that was wrapped by that meanwhile.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[MasterKey]:
    if path.stat().st_mode & 0o077:
        raise Invalid(
            f"cannot use the master key {path}: others may read it",
            code="secret-exposed",
            hint=f"chmod 600 {path}",
        )
    try:
        return parse_master(path.read_text(encoding="ascii"), str(path))
    except UnicodeDecodeError as error:
        raise _damaged(str(path)) from error


def _damaged(source: str) -> Corrupt:
    return Corrupt(
        f"cannot use the master key: {source} is damaged",
        code="master-key-damaged",
        hint="put it back from where your keys are kept: holdfast key import FILE",
    )


def _line_check(key: MasterKey) -> str:
    return _mac(key.secret, b"holdfast master line %d" % key.version).hex()[:8]


def _mac(secret: bytes, text: bytes) -> bytes:
    return hmac.new(secret, text, hashlib.sha256).digest()
