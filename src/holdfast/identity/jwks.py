"""The public keys of others, fetched from where they publish them, kept for a while.

A key that is not among those kept is looked for once more, at most every ten seconds: that is how
a rotation is noticed. While the other side cannot be reached, or publishes what is no key set, the
last good keys hold for a stated time, and readiness says so. A key that cannot be used is passed
over, and the others of its set hold: whoever publishes for many has keys for others. A set without
any key is a set: it ends them all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from joserfc.errors import JoseError

from holdfast.identity.tokens import ASYMMETRIC, PREFIX, TokenKey, entries_of, token_key
from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Corrupt, HoldfastError, Unauthenticated, Unavailable
from holdfast.kernel.telemetry import Metrics, get_logger

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
        self,
        url: str,
        fetch: Fetch,
        clock: Clock,
        *,
        stale_seconds: float = STALE_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._unasked_seconds = FRESH_SECONDS
        self._keys: tuple[TokenKey, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._problem = "nothing was fetched yet"
        self._passed_over: list[str] = []
        gauge = (metrics or Metrics()).gauge
        gauge(
            "holdfast_token_keys", "Keys of tokens in force, of those that the issuer publishes."
        ).set_function(lambda: len(self._keys))
        gauge(
            "holdfast_token_keys_passed_over",
            "Keys of tokens that the issuer publishes and that cannot be used.",
        ).set_function(lambda: len(self._passed_over))
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
                due = not self._well() or self._age() >= FRESH_SECONDS / 2
                if due and self._may_try():
                    await self._look()
            await self._clock.sleep(60.0 if self._well() else AGAIN_SECONDS)

    async def check(self) -> str | None:
        """Readiness: degraded while what is published could not be had, or has no key of use."""
        return None if self._well() else "degraded"

    async def _look(self) -> None:
        self._tried = self._clock.monotonic()
        try:
            keys, passed_over = public_keys(decode_strict(await self._fetch(self._url)))
        except HoldfastError as error:
            log.warning(
                "jwks.kept",
                url=self._url,
                keys=len(self._keys),
                detail=error.internal or error.detail,
            )
            self._problem = error.detail
        else:
            if passed_over != self._passed_over or not keys:
                log.warning("jwks.taken", url=self._url, keys=len(keys), passed_over=passed_over)
            self._keys, self._passed_over = keys, passed_over
            self._fetched, self._problem = self._clock.monotonic(), ""

    def _well(self) -> bool:
        return self._problem == "" and bool(self._keys)

    def _holds(self, kid: str | None, seconds: float) -> bool:
        known = any(kid is None or key.kid == kid for key in self._keys)
        return known and self._age() < seconds

    def _age(self) -> float:
        return self._clock.monotonic() - self._fetched

    def _may_try(self) -> bool:
        return self._clock.monotonic() - self._tried >= AGAIN_SECONDS

    def _held(self) -> tuple[TokenKey, ...]:
        if self._age() >= self._stale_seconds:
            raise Unavailable(
                "cannot verify the token: the keys of whoever signed it cannot be had",
                code="jwks-unreachable",
                retry_after_seconds=AGAIN_SECONDS,
            )
        if not self._keys:
            raise Unauthenticated(
                "cannot accept the token: its issuer publishes no key that can be used",
                code="jwks-empty",
                hint="if there are keys where it publishes them, the log says why each was passed "
                "over (jwks.taken)",
            )
        return self._keys


def public_keys(document: Any) -> tuple[tuple[TokenKey, ...], list[str]]:
    """The keys of a published set that can be used, and what was passed over, and why.

    Never a secret, since everybody knows what is published, nor one of two with one id: nobody can
    tell which is meant. :class:`Corrupt` for what is no key set at all.
    """
    found: list[TokenKey] = []
    passed_over: list[str] = []
    for place, entry in enumerate(entries_of(document)):
        try:
            key = token_key(entry)
            if key is None:
                continue  # for encryption, or of a kind that we do not use
            if key.algorithm not in ASYMMETRIC or key.key.is_private:
                raise Corrupt(f"{PREFIX}a published key is a secret")
        except (Corrupt, JoseError) as error:
            why = error.detail if isinstance(error, Corrupt) else "a key in it is broken"
            passed_over.append(f"{_named(entry, place)}: {why.removeprefix(PREFIX)}")
        else:
            found.append(key)
    named = Counter(key.kid for key in found if key.kid)
    twice = {kid for kid, count in named.items() if count > 1}
    passed_over += [f"{_shown(key.kid)}: two have this id" for key in found if key.kid in twice]
    return tuple(key for key in found if key.kid not in twice), passed_over


def _named(entry: Any, place: int) -> str:
    kid = entry.get("kid") if isinstance(entry, dict) else None
    return _shown(kid) if isinstance(kid, str) and kid else f"key {place + 1}"


def _shown(kid: str) -> str:
    return repr(kid[:100])
