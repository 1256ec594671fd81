"""The operator token: whoever can read a 0600 file in the data directory is the operator.

Loopback is not an identity (SECURITY.md, Doors): a peer address grants nothing, holding this does.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.files import write_new

PREFIX = "hfo"


class OperatorToken:
    """The token of one data directory, kept in memory as its digest only."""

    def __init__(self, token: str) -> None:
        self._digest = hashlib.sha256(token.encode()).digest()

    @classmethod
    def load_or_create(
        cls, path: Path, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> OperatorToken:
        """Read the token at ``path``; make one, mode 0600, if there is none.

        The file is complete and durable, or absent, if the process dies here. Raises
        :class:`Corrupt` when the file holds something else or others may read it, so that a leaked
        token is noticed rather than used.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # If another process was first, its token counts.
            write_new(path, f"{new_token(PREFIX, random)}\n".encode("ascii"))
        if path.stat().st_mode & 0o077:
            raise Corrupt(
                f"cannot use the operator token: others may read {path}",
                hint=f"chmod 600 {path}; if it may have leaked, delete it and start again",
            )
        token = path.read_text(encoding="ascii", errors="replace").strip()
        if not well_formed(token, PREFIX):
            raise Corrupt(
                f"cannot use the operator token: {path} does not hold one",
                hint="delete the file; a new token is made at the next start",
            )
        return cls(token)

    @property
    def fingerprint(self) -> str:
        """A name for this very token, which tells nothing of it: what came of it ends with it."""
        return hashlib.sha256(b"holdfast operator" + self._digest).hexdigest()[:32]

    def matches(self, presented: str) -> bool:
        """Whether ``presented`` is the token; takes the same time whatever is wrong with it."""
        digest = hashlib.sha256(presented.encode(errors="replace")).digest()
        return hmac.compare_digest(digest, self._digest)


def new_token(prefix: str, random: Callable[[int], bytes]) -> str:
    """``<prefix>_<256 random bits>_<crc32>``: a scanner can recognise it, a typo is noticed."""
    body = f"{prefix}_{random(32).hex()}"
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def well_formed(token: str, prefix: str) -> bool:
    """Whether ``token`` has the shape and the checksum of :func:`new_token`."""
    body, _, checksum = token.rpartition("_")
    return (
        body.startswith(f"{prefix}_")
        and len(body) == len(prefix) + 65
        and body.isascii()
        and checksum == f"{zlib.crc32(body.encode()):08x}"
    )
