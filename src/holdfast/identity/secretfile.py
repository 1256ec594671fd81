"""A secret in a file that somebody else keeps, read again when it is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from holdfast.identity.bearer import BearerTokens
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.files import read_handed
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import get_logger

LOOK_SECONDS = 5.0
"""A secret that was replaced signs nobody in after so long."""

log = get_logger("identity")


class TokensOfFile:
    """Tokens under the secret in a file, whichever it is now.

    The file is looked at again after ``LOOK_SECONDS``. One that is gone, too short, or that others
    may write keeps the last good secret, and :meth:`check` says so until it is mended.
    """

    def __init__(self, path: Path, made: Callable[[bytes], BearerTokens], clock: Clock) -> None:
        """Reads the file; raises :class:`Invalid` if it is of no use. ``made`` gives what verifies
        tokens under a secret, and raises :class:`Invalid` for one that cannot be used."""
        self._path = path
        self._made = made
        self._clock = clock
        self._problem = ""
        self._secret = read_secret(path)
        self._tokens = made(self._secret)
        self._look_at = clock.monotonic() + LOOK_SECONDS

    async def principal(self, token: str) -> Principal:
        """See :meth:`BearerTokens.principal`."""
        self._look()
        return await self._tokens.principal(token)

    async def check(self) -> str | None:
        """Readiness: degraded while the file on disk is not the one in force."""
        self._look()
        return "degraded" if self._problem else None

    def _look(self) -> None:
        if self._clock.monotonic() < self._look_at:
            return
        self._look_at = self._clock.monotonic() + LOOK_SECONDS
        try:
            secret = read_secret(self._path, tell=False)
            if secret != self._secret:
                self._tokens = self._made(secret)
                self._secret = secret
                log.info("secret.reloaded", file=str(self._path))
            self._problem = ""
        except HoldfastError as error:
            if self._problem != error.detail:
                log.warning("secret.kept", file=str(self._path), detail=error.detail)
            self._problem = error.detail


def read_secret(path: Path, *, tell: bool = True) -> bytes:
    """The token secret in a file, without the blanks around it."""
    try:
        return read_handed(path, "the token secret", tell=tell).strip()
    except OSError as error:
        raise Invalid(
            f"cannot read the token secret {path}: {error.strerror}",
            hint="the setting that names it ends in _FILE; `openssl rand -hex 32` makes one",
        ) from error
