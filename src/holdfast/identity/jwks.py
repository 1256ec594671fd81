"""The public keys of others, fetched from where they publish them, kept for a while.

A key that is not among those kept is looked for once more, at most every ten seconds: that is how
a rotation is noticed. While the other side cannot be reached, the last good keys hold for a day.
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
    """The keys at one address."""

    def __init__(self, url: str, fetch: Fetch, clock: Clock) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[TokenKey, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def keys(self, kid: str | None) -> tuple[TokenKey, ...]:
        """The keys there, among them ``kid`` if it is there at all."""
        async with self._lock:
            now = self._clock.monotonic()
            known = any(kid is None or key.kid == kid for key in self._keys)
            fresh = now - self._fetched < FRESH_SECONDS
            if (known and fresh) or now - self._tried < AGAIN_SECONDS:
                return self._held(now)
            self._tried = now
            try:
                self._keys = public_keys(decode_strict(await self._fetch(self._url)))
                self._fetched = now
            except HoldfastError as error:
                log.warning("jwks.unreachable", url=self._url, detail=error.detail)
            return self._held(now)

    def _held(self, now: float) -> tuple[TokenKey, ...]:
        if not self._keys or now - self._fetched >= STALE_SECONDS:
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
    if any(key.algorithm not in ASYMMETRIC for key in found):
        raise Corrupt("cannot use the key set: a published key is a secret")
    return found
