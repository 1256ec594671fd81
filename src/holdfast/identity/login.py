"""How a browser becomes the operator: a link, used once, exchanged for a session.

The link carries its token in the fragment, which browsers never send; a page script posts it. Links
live in memory: a restart ends them, which is the safe direction, and a new link is one command
away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Exhausted, Unauthenticated
from holdfast.kernel.principal import Principal

LINK_SECONDS = 300
LINKS_MAX = 100


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


class LoginLinks:
    """Single-use login tokens, five minutes each; only their digests are kept."""

    def __init__(self, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random = random
        self._waiting: dict[bytes, tuple[datetime, Principal]] = {}

    def create(self, principal: Principal) -> str:
        """A new token that will sign ``principal`` in; :class:`Exhausted` beyond 100 unused."""
        self._forget_expired()
        if len(self._waiting) >= LINKS_MAX:
            raise Exhausted(
                "cannot make a login link: 100 are unused", retry_after_seconds=LINK_SECONDS
            )
        token = self._random(32).hex()
        expiry = self._clock.now() + timedelta(seconds=LINK_SECONDS)
        self._waiting[_digest(token)] = (expiry, principal)
        return token

    def redeem(self, token: str) -> Principal:
        """Who the token signs in; it is dead afterwards, and was if this raises."""
        self._forget_expired()
        found = self._waiting.pop(_digest(token), None)
        if found is None:
            raise Unauthenticated(
                "cannot sign in: the link was used, is older than five minutes, or never was",
                code="login-link-invalid",
                hint="`holdfast login` prints a new one",
            )
        return found[1]

    def _forget_expired(self) -> None:
        now = self._clock.now()
        for key in [key for key, (expiry, _) in self._waiting.items() if expiry <= now]:
            del self._waiting[key]
