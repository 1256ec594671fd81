"""How a browser becomes the operator: a link, used once, exchanged for a session.

The link carries its token in the fragment, which browsers never send; a page script posts it. Links
and sessions live in memory: a restart ends them, which is the safe direction, and a new link is one
command away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Exhausted, Unauthenticated
from holdfast.kernel.principal import Principal

LINK_SECONDS = 300
LINKS_MAX = 100
SESSION_SECONDS = 12 * 3600
IDLE_SECONDS = 2 * 3600
SESSIONS_MAX = 10_000


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


@dataclass(slots=True)
class _Session:
    principal: Principal
    ends_at: datetime
    idle_at: datetime
    csrf: str


class Sessions:
    """Opaque browser sessions: twelve hours, two hours idle; only their digests are kept."""

    def __init__(self, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random = random
        self._open: dict[bytes, _Session] = {}

    def begin(self, principal: Principal) -> str:
        """A new session's secret, for the cookie."""
        self._forget_expired()
        if len(self._open) >= SESSIONS_MAX:
            raise Exhausted("cannot sign in: too many sessions are open", retry_after_seconds=60)
        secret = self._random(32).hex()
        now = self._clock.now()
        self._open[_digest(secret)] = _Session(
            principal,
            now + timedelta(seconds=SESSION_SECONDS),
            now + timedelta(seconds=IDLE_SECONDS),
            self._random(16).hex(),
        )
        return secret

    def principal(self, secret: str) -> Principal:
        """Who holds this session; raises :class:`Unauthenticated` when it is over."""
        return self._find(secret).principal

    def csrf_token(self, secret: str) -> str:
        """What a form of this session must send back."""
        return self._find(secret).csrf

    def end(self, secret: str) -> None:
        """End the session; ending one that is over is fine."""
        self._open.pop(_digest(secret), None)

    def _find(self, secret: str) -> _Session:
        key = _digest(secret)
        found = self._open.get(key)
        now = self._clock.now()
        if found is None or min(found.ends_at, found.idle_at) <= now:
            self._open.pop(key, None)
            raise Unauthenticated("cannot go on: the session is over", code="session-over")
        found.idle_at = now + timedelta(seconds=IDLE_SECONDS)
        return found

    def _forget_expired(self) -> None:
        now = self._clock.now()
        over = [k for k, s in self._open.items() if min(s.ends_at, s.idle_at) <= now]
        for key in over:
            del self._open[key]
