"""The secret of this installation from which every tenant-keyed name and digest is derived.

It lives in a file of its own (mode 0600) outside the data's backups. It is made once, when there is
no data yet, and never again: data named or compared under one secret is meaningless under another,
so a missing or foreign secret stops the start.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.kernel.errors import Corrupt, Invalid, Unavailable
from holdfast.kernel.files import write_new

_FORMAT = "holdfast-tenant-secrets-1"
_SECRET_BYTES = 32


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds; ``check`` tells a damaged file from a whole one."""

    format: str
    secret: str
    check: str


class TenantSecrets:
    """Derives keys that are independent for each (tenant, purpose)."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _SECRET_BYTES:
            raise Invalid(f"cannot use the tenant secret: {_SECRET_BYTES} bytes are needed")
        self._secret = secret
        self._derive = lru_cache(maxsize=4096)(self._derived)

    @classmethod
    def open(
        cls, path: Path, *, may_create: bool, random: Callable[[int], bytes] = os.urandom
    ) -> TenantSecrets:
        """The secret in the file at ``path``.

        With ``may_create`` (the caller knows that no data exists) a missing file is made, durable
        before this returns; an existing one is never replaced. Without it a missing file is
        ``Unavailable``: restore it from where the operator keeps keys. A damaged file or one that
        others may read is ``Corrupt`` or ``Invalid``.
        """
        try:
            return cls(_read(path))
        except FileNotFoundError:
            if not may_create:
                raise Unavailable(
                    f"cannot start: the tenant secret {path} is missing and there is data",
                    code="tenant-secret-missing",
                    hint="put the file back from where your keys are kept; "
                    "a new one would make the data unreadable",
                ) from None
        _create(path, random(_SECRET_BYTES))
        return cls(_read(path))

    @property
    def check_value(self) -> str:
        """A value that names this secret without telling it: kept beside the data."""
        return hmac.new(self._secret, b"holdfast check value", hashlib.sha256).hexdigest()

    def confirm(self, check_value: str) -> None:
        """Return if the data carries this secret's check value; ``Corrupt`` if another's."""
        if not hmac.compare_digest(check_value, self.check_value):
            raise Corrupt(
                "cannot start: the tenant secret does not belong to this data",
                code="tenant-secret-foreign",
                hint="put back the secret this data was written with",
            )

    def derive(self, tenant: str, purpose: str) -> bytes:
        """32 bytes for this tenant and purpose (HKDF-SHA256): the same at every call."""
        return self._derive(tenant, purpose)

    def _derived(self, tenant: str, purpose: str) -> bytes:
        # Length-prefixed, so that no two pairs run together.
        info = b"".join(
            len(part).to_bytes(4, "big") + part
            for part in (_FORMAT.encode(), tenant.encode(), purpose.encode())
        )
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret)


def _check(secret: bytes) -> str:
    return hmac.new(secret, b"holdfast file check", hashlib.sha256).hexdigest()


def _read(path: Path) -> bytes:
    mode = path.stat().st_mode
    if mode & 0o077:
        raise Invalid(
            f"cannot use the tenant secret {path}: others may read it",
            code="secret-exposed",
            hint=f"chmod 600 {path}",
        )
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
        secret = bytes.fromhex(found.secret)
    except (msgspec.DecodeError, ValueError) as error:
        raise _damaged(path) from error
    if (
        found.format != _FORMAT
        or len(secret) != _SECRET_BYTES
        or not hmac.compare_digest(found.check, _check(secret))
    ):
        raise _damaged(path)
    return secret


def _damaged(path: Path) -> Corrupt:
    return Corrupt(
        f"cannot use the tenant secret {path}: the file is damaged",
        code="tenant-secret-damaged",
        hint="put the file back from where your keys are kept",
    )


def _create(path: Path, secret: bytes) -> None:
    """Write the file whole and flushed under its name, or not at all; never over another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    body = _File(format=_FORMAT, secret=secret.hex(), check=_check(secret))
    write_new(path, msgspec.json.encode(body) + b"\n")
