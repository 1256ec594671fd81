"""API keys from a file (guide 1, ``AUTH_API_KEYS_FILE``): JSON, read again when it changes.

```json
{"keys": [{"name": "newsroom", "key": "at least 32 characters", "roles": ["viewer"]},
          {"name": "export", "sha256": "64 hexadecimal digits of the key's SHA-256",
           "tenant": "default", "permissions": ["records:export"], "profiles": ["co2"]}]}
```

The shorter form ``{"<key>": {"roles": […]}, …}`` means the same. Keys made by Holdfast
(``holdfast apikey``) are better in every way but that one: they need no file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from holdfast.identity.model import permissions_of
from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Invalid, Problem
from holdfast.kernel.files import read_handed
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId, is_name
from holdfast.kernel.principal import Principal, PrincipalKind
from holdfast.kernel.telemetry import get_logger

FILE_BYTES_MAX = 4 * 1024 * 1024
KEY_CHARACTERS_MIN = 32
FORM = (
    """{"keys": [{"name": "…", "key": "…", "roles": ["viewer"]}]}; """
    "docs/operating/people.md has the rest"
)

log = get_logger("identity")


class ListedKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key of the file: itself or its SHA-256, and what it may do."""

    name: Annotated[str, Meta(max_length=200)] = ""
    key: str = ""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")] = ""
    tenant: Annotated[str, Meta(min_length=1, max_length=100)] = DEFAULT_TENANT
    roles: list[str] = []
    permissions: list[str] = []
    profiles: list[str] = []


class KeyFile:
    """The keys of a file. What is kept of them in memory is their digests.

    The file is looked at again after ``seconds``. An edit that cannot be read, or that anybody may
    have made (others may write the file), keeps the last good keys, and :meth:`check` says so until
    it is mended. A key that left the file is dead within ``seconds``.
    """

    def __init__(self, path: Path, seconds: float, clock: Clock) -> None:
        """Reads the file; :class:`Invalid` lists everything that is wrong with it."""
        self._path = path
        self._seconds = seconds
        self._clock = clock
        self._problem = ""
        self._bytes = _read(path, tell=True)
        self._keys = parse(self._bytes, str(path))
        self._look_at = clock.monotonic() + seconds

    def find(self, key: str) -> Principal | None:
        """Whom ``key`` speaks for, if it is in the file."""
        if self._clock.monotonic() >= self._look_at:
            self._look()
        return self._keys.get(_digest(key))

    async def check(self) -> str | None:
        """Readiness: degraded while the file on disk is not the one in force."""
        if self._clock.monotonic() >= self._look_at:
            self._look()
        return "degraded" if self._problem else None

    def _look(self) -> None:
        self._look_at = self._clock.monotonic() + self._seconds
        try:
            content = _read(self._path)
            if content != self._bytes:
                self._keys = parse(content, str(self._path))
                self._bytes = content
                log.info("keys.reloaded", file=str(self._path), keys=len(self._keys))
            self._problem = ""
        except HoldfastError as error:
            if self._problem != error.detail:
                log.warning("keys.kept", file=str(self._path), detail=error.detail)
            self._problem = error.detail


def check_keys(path: Path) -> None:
    """Raise :class:`Invalid`, which lists all that is wrong, for a file of no use."""
    parse(_read(path), str(path))


def parse(content: bytes, source: str) -> dict[bytes, Principal]:
    """Digest of each key → whom it speaks for; :class:`Invalid` lists all that is wrong."""
    try:
        document = decode_strict(content)
    except Invalid as error:
        raise Invalid(
            f"cannot read the API keys of {source}: it is not JSON",
            code="keys-file-invalid",
            hint=FORM,
        ) from error
    problems: list[Problem] = []
    found: dict[bytes, Principal] = {}
    for place, entry in _entries(document, source):
        try:
            listed = msgspec.convert(entry, ListedKey)
            digest = _digest_of(listed)
            granted = permissions_of(listed.roles, listed.permissions, {})
            if not is_name(listed.tenant):
                raise Invalid("the tenant is no name of one")
        except (msgspec.ValidationError, Invalid) as error:
            reasons = error.problems if isinstance(error, Invalid) else ()
            text = "; ".join(f"{p.path}: {p.message}" for p in reasons) or str(error)
            problems.append(Problem(place, text))
            continue
        if digest in found:
            problems.append(Problem(place, "the same key is there twice"))
        found[digest] = Principal(
            TenantId(listed.tenant),
            f"k-{digest.hex()[:32]}",
            PrincipalKind.KEY,
            granted,
            frozenset(listed.profiles) or None,
            f"listed:{digest.hex()[:32]}",
        )
    if problems:
        raise Invalid(
            f"cannot use the API keys of {source}",
            code="keys-file-invalid",
            problems=problems,
            hint=FORM,
        )
    return found


def _entries(document: Any, source: str) -> list[tuple[str, Any]]:
    if isinstance(document, dict) and isinstance(document.get("keys"), list):
        return [(f"keys[{index}]", entry) for index, entry in enumerate(document["keys"])]
    # Nothing at all is a file that is being written, or lost; to end every key is said by name.
    if isinstance(document, dict) and document and "keys" not in document:
        return [
            (f"key {index + 1}", {**value, "key": key} if isinstance(value, dict) else value)
            for index, (key, value) in enumerate(document.items())
        ]
    raise Invalid(
        f"cannot read the API keys of {source}: it lists none",
        code="keys-file-invalid",
        hint=FORM,
    )


def _digest_of(listed: ListedKey) -> bytes:
    if bool(listed.key) == bool(listed.sha256):
        raise Invalid("one of key and sha256 is needed")
    if listed.sha256:
        return bytes.fromhex(listed.sha256)
    if len(listed.key) < KEY_CHARACTERS_MIN:
        raise Invalid(f"the key has under {KEY_CHARACTERS_MIN} characters")
    return _digest(listed.key)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _read(path: Path, *, tell: bool = False) -> bytes:
    try:
        content = read_handed(path, "the API keys of", FILE_BYTES_MAX + 1, tell=tell)
    except OSError as error:
        raise Invalid(
            f"cannot read the API keys of {path}: {error.strerror}", code="keys-file-unreadable"
        ) from error
    if len(content) > FILE_BYTES_MAX:
        raise Invalid(f"cannot read the API keys of {path}: it is over {FILE_BYTES_MAX} bytes")
    return content
