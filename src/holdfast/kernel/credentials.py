"""Secrets that others hold, and what is kept of them: an HMAC under a versioned pepper.

A credential is ``<prefix>_<id>_<256 random bits, base64url>_<crc32, hex>``: ``hf`` for an API key,
``hfw`` for a worker, ``hfj`` for a join token, ``hfi`` for an invitation. A scanner recognises
them, a typo is noticed before anything is asked, and the id finds the row. Whoever reads the
database cannot use what is there, nor test a guess without the pepper, which lies in a file of its
own outside the data backups.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast.kernel.errors import Corrupt, Unauthenticated, Unavailable
from holdfast.kernel.ids import is_id
from holdfast.kernel.signing import read_private, write_private

_SECRET = re.compile(r"(hf[a-z]?)_([0-9a-f-]{36})_([A-Za-z0-9_-]{43})_([0-9a-f]{8})")


_PEPPER_HINT = (
    "put its file back from where your keys are kept, or restore a backup with --keys; under a new "
    "one no credential that was handed out would be known again"
)


class Peppers:
    """The versions of the pepper; the newest makes, all verify."""

    def __init__(self, versions: dict[int, bytes]) -> None:
        self._versions = dict(versions)
        self.newest = max(versions)

    @classmethod
    def load_or_create(
        cls,
        directory: Path,
        name: str,
        random: Callable[[int], bytes] = os.urandom,
        *,
        may_create: bool = True,
    ) -> Peppers:
        """The files ``<name>.v<N>`` of ``directory``; makes the first if there is none.

        Files are 0600, durable, never overwritten. :class:`Corrupt` when one is broken or others
        may read it. A new version is brought in by writing the next file and starting again.
        :class:`Unavailable` if there is none and none may be made.
        """
        found = _read(directory, name)
        if not found and not may_create:
            raise Unavailable(
                f"cannot start: the pepper {directory / name}.v1 is missing and there is data",
                code="pepper-missing",
                hint=_PEPPER_HINT,
            )
        if not found:
            write_private(directory / f"{name}.v1", random(32).hex().encode())
            found = _read(directory, name)
        return cls(found)

    def check_values(self) -> dict[int, str]:
        """A value for each version that names it without telling it: kept beside the data."""
        return {
            version: hmac.new(pepper, b"holdfast pepper check value", hashlib.sha256).hexdigest()
            for version, pepper in self._versions.items()
        }

    def confirm(self, known: Mapping[int, str]) -> None:
        """Return if the data, which carries these check values, was written under this pepper.

        :class:`Corrupt` if a version is another's, or none is here that the data knows. One that
        is here no more may have been retired.
        """
        own = self.check_values()
        both = known.keys() & own.keys()
        if known and not (both and all(known[version] == own[version] for version in both)):
            raise Corrupt(
                "cannot start: the pepper does not belong to this data",
                code="pepper-foreign",
                hint=_PEPPER_HINT,
            )

    def seal(self, secret: str) -> tuple[bytes, int]:
        """What to keep of ``secret``, and under which version."""
        return self._mac(self.newest, secret), self.newest

    def name(self, text: str) -> bytes:
        """What ``text`` is called for good: under the oldest version, whichever come after it."""
        return self._mac(min(self._versions), text)

    def seals(self, text: str) -> list[bytes]:
        """What :meth:`seal` may have made of ``text``, under whichever version it was."""
        return [self._mac(version, text) for version in sorted(self._versions, reverse=True)]

    def matches(self, secret: str, kept: bytes, version: int) -> bool:
        """Whether ``kept`` was made of ``secret``; in the same time whatever is wrong with it."""
        return version in self._versions and hmac.compare_digest(self._mac(version, secret), kept)

    def _mac(self, version: int, secret: str) -> bytes:
        return hmac.new(self._versions[version], secret.encode(), hashlib.sha256).digest()


def _read(directory: Path, name: str) -> dict[int, bytes]:
    versions = {}
    file = re.compile(re.escape(name) + r"\.v([1-9][0-9]{0,5})")
    for path in directory.glob(f"{name}.v*") if directory.is_dir() else ():
        match = file.fullmatch(path.name)
        text = read_private(path).strip()
        if match is None or re.fullmatch(rb"[0-9a-f]{64}", text) is None:
            raise Corrupt(f"cannot use the pepper {path}: it is not 64 hexadecimal digits")
        versions[int(match[1])] = bytes.fromhex(text.decode())
    return versions


def make_secret(prefix: str, identity: str, random: bytes) -> str:
    """A new secret for ``identity`` from 32 random bytes."""
    body = f"{prefix}_{identity}_{urlsafe_b64encode(random).rstrip(b'=').decode()}"
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def is_secret_of(secret: str, prefix: str) -> bool:
    """Whether ``secret`` looks like one of that prefix; whole or not."""
    return secret.startswith(f"{prefix}_")


def identity_of(secret: str, prefix: str) -> str:
    """The id in a well-formed secret; :class:`Unauthenticated` (``credential-malformed``) if not.

    Says nothing about whether the secret is anybody's.
    """
    match = _SECRET.fullmatch(secret) if len(secret) < 200 else None
    if (
        match is None
        or match[1] != prefix
        or not is_id(match[2])
        or f"{zlib.crc32(secret[:-9].encode()):08x}" != match[4]
    ):
        raise Unauthenticated(
            f"cannot accept the credential: it is not a whole {prefix}_… text",
            code="credential-malformed",
        )
    return match[2]
