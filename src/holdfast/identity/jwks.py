"""The public keys of others, fetched from where they publish them, kept for a while.

A key that is not among those kept is looked for once more, at most every ten seconds: that is how
a rotation is noticed. While the other side cannot be reached, or publishes what is no key set, the
last good keys hold for a stated time, and readiness says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from joserfc.errors import JoseError

from holdfast.identity.tokens import ASYMMETRIC, TokenKey, key_set
from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Corrupt, HoldfastError, Unavailable
from holdfast.kernel.telemetry import get_logger

FRESH_SECONDS = 3600.0
AGAIN_SECONDS = 10.0
STALE_SECONDS = 24 * 3600.0

log = get_logger("identity")

Fetch = Callable[[str], Awaitable[bytes]]


class KeySets:
    """The keys at one address.

    Whoever asks for a key that is held waits for nobody while the loop :meth:`keep` runs, which
    fetches ahead of need; without it, the first to ask after ``FRESH_SECONDS`` fetches.
    """

    def __init__(
        self, url: str, fetch: Fetch, clock: Clock, *, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._unasked_seconds = FRESH_SECONDS
        self._keys: tuple[TokenKey, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._problem = "nothing was fetched yet"
        self._lock = asyncio.Lock()

    async def keys(self, kid: str | None) -> tuple[TokenKey, ...]:
        """The keys there, among them ``kid`` if it is there at all."""
        if self._holds(kid, self._unasked_seconds):
            return self._held()
        async with self._lock:
            if not self._holds(kid, FRESH_SECONDS) and self._may_try():
                await self._look()
            return self._held()

    async def keep(self) -> None:
        """Fetch now, before the keys are no longer fresh, and again after a failure; for ever.

        Also after one of whoever looked for a key that is not there: readiness told of it.
        """
        self._unasked_seconds = self._stale_seconds
        while True:
            async with self._lock:
                due = self._problem != "" or self._age() >= FRESH_SECONDS / 2
                if due and self._may_try():
                    await self._look()
            await self._clock.sleep(60.0 if self._problem == "" else AGAIN_SECONDS)

    async def check(self) -> str | None:
        """Readiness: degraded while what is published could not be had."""
        return "degraded" if self._problem else None

    async def _look(self) -> None:
        self._tried = self._clock.monotonic()
        try:
            self._keys = public_keys(decode_strict(await self._fetch(self._url)))
        except HoldfastError as error:
            log.warning(
                "jwks.kept",
                url=self._url,
                keys=len(self._keys),
                detail=error.internal or error.detail,
            )
            self._problem = error.detail
        else:
            self._fetched, self._problem = self._clock.monotonic(), ""

    def _holds(self, kid: str | None, seconds: float) -> bool:
        known = any(kid is None or key.kid == kid for key in self._keys)
        return known and self._age() < seconds

    def _age(self) -> float:
        return self._clock.monotonic() - self._fetched

    def _may_try(self) -> bool:
        return self._clock.monotonic() - self._tried >= AGAIN_SECONDS

    def _held(self) -> tuple[TokenKey, ...]:
        if not self._keys or self._age() >= self._stale_seconds:
            raise Unavailable(
                "cannot verify the token: the keys of whoever signed it cannot be had",
                code="jwks-unreachable",
                retry_after_seconds=AGAIN_SECONDS,
            )
        return self._keys


def public_keys(document: Any) -> tuple[TokenKey, ...]:
    """The keys of a published set: never a secret, since everybody knows what is published."""
    try:
        found = key_set(document)
    except JoseError as error:
        raise Corrupt("cannot use the key set: it is broken") from error
    if any(key.algorithm not in ASYMMETRIC or key.key.is_private for key in found):
        raise Corrupt("cannot use the key set: a published key is a secret")
    return found
