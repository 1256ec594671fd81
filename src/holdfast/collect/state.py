"""What a drone keeps on its disk: its name, its credential, its spool."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.fleet.model import WorkerCredential
from holdfast.kernel.errors import Conflict, Corrupt, Invalid
from holdfast.kernel.files import write_over
from holdfast.kernel.ids import is_name
from holdfast.kernel.signing import SigningKey

_NAME_FILE = "drone-id"


class KeptCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A credential and the control plane that gave it: it is shown to no other."""

    control_plane: str
    credential: WorkerCredential
    key: str = ""
    """The public half of the signing key that was registered with it."""


def drone_name(state_dir: Path, given: str, random: Callable[[int], bytes] = os.urandom) -> str:
    """The name ``given``, or the one kept here, or a new one that is kept from now on."""
    if given:
        if not is_name(given):
            raise Invalid(
                f"cannot call a drone {given[:80]!r}",
                hint="1-64 of a-z 0-9 . _ - that begin and end with a letter or digit",
            )
        return given
    path = state_dir / _NAME_FILE
    try:
        kept = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = f"drone-{random(4).hex()}"
        write_private(path, kept.encode("ascii") + b"\n")
    except UnicodeDecodeError as error:
        raise Corrupt(f"cannot read the drone's name: {path} holds something else") from error
    if not is_name(kept):
        raise Corrupt(f"cannot read the drone's name: {path} holds something else")
    return kept


def load_credential(
    state_dir: Path, name: str, control_plane: str
) -> tuple[WorkerCredential, SigningKey | None] | None:
    """The credential kept for this name and control plane, with its signing key; or ``None``.

    One that cannot be read is none, and so is a key (earlier releases had none): the drone
    registers again.
    """
    try:
        data = _credential_path(state_dir, name).read_bytes()
        kept = msgspec.json.decode(data, type=KeptCredential)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if kept.control_plane != control_plane:
        return None
    return kept.credential, _load_key(state_dir, name, kept.key)


def _load_key(state_dir: Path, name: str, public: str) -> SigningKey | None:
    if _PUBLIC.fullmatch(public) is None:
        return None
    try:
        key = SigningKey.load(_key_path(state_dir, name, public))
    except Corrupt:
        return None
    return key if key.public_bytes().hex() == public else None


def new_key(state_dir: Path, name: str, random: Callable[[int], bytes] = os.urandom) -> SigningKey:
    """A fresh signing key for the next registration, mode 0600 and durable when this returns.

    Those of registrations that came to nothing are removed.
    """
    try:
        kept = msgspec.json.decode(
            _credential_path(state_dir, name).read_bytes(), type=KeptCredential
        )
        _forget_keys(state_dir, name, kept.key)
    except (FileNotFoundError, msgspec.DecodeError):
        _forget_keys(state_dir, name, "")
    key = SigningKey.from_seed(seed := random(32))
    path = _key_path(state_dir, name, key.public_bytes().hex())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return SigningKey.load_or_create(path, lambda _: seed)


def keep_credential(
    state_dir: Path, name: str, control_plane: str, credential: WorkerCredential, key: SigningKey
) -> None:
    """Keep a credential, mode 0600; the old one or the new one is there if the process dies.

    Signing keys of earlier registrations are removed: nothing is signed with them after a start.
    """
    public = key.public_bytes().hex()
    kept = KeptCredential(control_plane=control_plane, credential=credential, key=public)
    write_private(_credential_path(state_dir, name), msgspec.json.encode(kept))
    _forget_keys(state_dir, name, public)


def _forget_keys(state_dir: Path, name: str, but: str) -> None:
    current = _key_path(state_dir, name, but)
    for path in state_dir.glob(f"{name}.*{_KEY_SUFFIX}"):
        if path != current and _KEY_FILE.fullmatch(path.name.removeprefix(f"{name}.")):
            path.unlink(missing_ok=True)


_PUBLIC = re.compile(r"[0-9a-f]{64}")
_KEY_SUFFIX = ".key"
_KEY_FILE = re.compile(r"[0-9a-f]{16}\.key")


def _key_path(state_dir: Path, name: str, public: str) -> Path:
    return state_dir / f"{name}.{public[:16]}{_KEY_SUFFIX}"


def _credential_path(state_dir: Path, name: str) -> Path:
    return state_dir / f"{name}.credential"


def write_private(path: Path, data: bytes) -> None:
    """Write ``path``, mode 0600, whole or not at all; durable when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_over(path, data)


@contextmanager
def own_spool(spool_dir: Path, name: str) -> Iterator[Path]:
    """The spool of the drone called ``name``, emptied of what an earlier life left there.

    Held by lock: a second drone of the same name on this machine is a :class:`Conflict`, because
    each would take the other's files for leftovers.
    """
    spool = spool_dir / name
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(spool / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"cannot start the drone {name}: another one of that name runs on {spool}",
                hint="give each drone its own DRONE_ID",
            ) from error
        for leftover in spool.iterdir():
            if leftover.name == ".lock":
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        yield spool
    finally:
        os.close(handle)
