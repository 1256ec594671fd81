"""Who stands at the door.

A bearer token is the operator's, a worker's or an API key; a cookie is a browser session. Nothing
else counts: no peer address, no header that says who one is.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, Generic, TypeVar

from holdfast.fleet.proofs import HEADER, Proofs
from holdfast.identity import OperatorToken
from holdfast.identity.access.model import whose_refused, without_whose
from holdfast.identity.bearer import Tokens
from holdfast.identity.keyfile import KeyFile
from holdfast.identity.model import KeyHolder, admits, is_over, key_unknown, networks_of, was_of
from holdfast.identity.service import principal_of
from holdfast.identity.signin.model import SessionHolder, csrf_of
from holdfast.identity.signin.sessions import principal_of_session, session_over, session_was_of
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Denied, Unauthenticated
from holdfast.kernel.http.door import CLIENT, FOREIGN, SAFE_METHODS, SUBJECT, TENANT, target_of
from holdfast.kernel.http.standing import STANDING, STANDING_SECONDS, Standing, ended
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from holdfast.kernel.tls import CERTIFICATE

COOKIE = "holdfast_session"
SECURE_COOKIE = "__Host-holdfast_session"
"""The cookie's name under TLS: browsers hold it to this very host, and to TLS."""
CSRF_HEADER = b"x-csrf-token"
FORM = b"application/x-www-form-urlencoded"
WORKER_PREFIX = "hfw_"
KEY_PREFIX = "hf_"
HOLDER = "holdfast.holder"
"""In the scope of a request that came with an API key of ours: whose it is, and its limits."""
TENANT_HEADER = b"x-tenant-id"
PROOF = HEADER.lower().encode()
REMEMBERED_SECONDS = STANDING_SECONDS
REMEMBERED_MAX = 10_000
AGAIN_SECONDS = 1.0
"""How old an answer may be that is taken when somebody is asked again: many streams that were begun
with one credential ask once a second together."""

T = TypeVar("T")
WorkerLookup = Callable[[str, str | None], Awaitable[tuple[Principal, str]]]
"""By a credential, and the name in the certificate it came with; see
``FleetService.find_worker_holder``."""
KeyLookup = Callable[[str], Awaitable[KeyHolder]]
SessionFinder = Callable[[str], Awaitable[SessionHolder]]


class DoorAuthenticator:
    """Turns what a request carries into a principal."""

    def __init__(
        self,
        token: OperatorToken,
        sessions: SessionFinder,
        workers: WorkerLookup,
        keys: KeyLookup,
        clock: Clock,
        *,
        listed: KeyFile | None = None,
        tokens: Tokens | None = None,
        admin: OperatorToken | None = None,
        tenant_required: bool = False,
    ) -> None:
        self._token = token
        self._sessions = _dated(sessions, clock)
        self._workers = _dated(workers, clock)
        self._keys = _dated(keys, clock)
        self._clock = clock
        self._listed = listed
        self._tokens = tokens
        self._admin = admin
        self._tenant_required = tenant_required
        self._proofs = Proofs(clock)

    async def __call__(self, scope: Any) -> Principal:
        """The caller; raises :class:`Unauthenticated` when there is no credential or a wrong one.

        A request that carries a bearer token is judged by it alone, so that a page's cookie never
        lends its rights to a program's wrong token.
        """
        bearer, cookies = _credentials(scope)
        if bearer is not None:
            principal, asked = await self._by_bearer(bearer, scope)
            _know(scope, principal.tenant, principal.subject)
            self._check_tenant(scope, principal)
            self._stand(scope, principal, asked)
            return principal
        # A page of another site may ask with a token of its own, never with our cookie.
        secret = None if FOREIGN in scope else session_secret(cookies)
        if secret is None:
            raise Unauthenticated(
                "cannot do this: nobody is signed in",
                hint="programs send an API key or the operator token as a bearer; "
                "`holdfast login` signs in a browser",
            )
        principal, asked = await self._by_session(secret, scope)
        _know(scope, principal.tenant, principal.subject)
        if scope["method"] not in SAFE_METHODS:
            _check_write(scope, secret)
        self._stand(scope, principal, asked)
        return principal

    def _stand(self, scope: Any, principal: Principal, asked: float) -> None:
        """Let whoever answers for long ask again whether the credential still holds."""
        scope[STANDING] = Standing(partial(self._again, scope, principal), asked, self._clock)

    async def _again(self, scope: Any, begun: Principal) -> float:
        """When it was asked for that what ``begun`` came with still holds, and for as much.

        The credential alone is judged: a worker's proof and a page's token are of the request, and
        were checked when it began.
        """
        bearer, cookies = _credentials(scope)
        try:
            if bearer is not None:
                found, asked = await self._by_bearer(bearer, scope, again=True)
            else:
                secret = session_secret(cookies) or ""
                found, asked = await self._by_session(secret, scope, again=True)
        except (Unauthenticated, Denied) as error:
            raise ended(error) from error
        if _is_less(found, begun):
            raise ended()
        return asked

    async def _by_session(
        self, secret: str, scope: Any, *, again: bool = False
    ) -> tuple[Principal, float]:
        try:
            holder, asked = await self._sessions(_oldest(again), secret)
        except Unauthenticated as error:
            if not error.problems:
                raise
            _know(scope, *session_was_of(error))
            raise session_over() from None  # and whoever shows it does not learn that it was one
        _know(scope, holder.tenant, holder.subject)
        if is_over(holder.expires_at, None, self._clock.now()):
            raise session_over()
        kind, _, origin = holder.credential.partition(":")
        if kind == "operator" and origin != self._token.fingerprint:
            raise session_over()  # it came from a token that was replaced since
        return principal_of_session(holder), asked

    async def _by_bearer(
        self, token: str, scope: Any, *, again: bool = False
    ) -> tuple[Principal, float]:
        """Whose it is, and when that was asked for."""
        if token.startswith(WORKER_PREFIX):
            return await self._by_worker(token, scope, again=again)
        if token.startswith(KEY_PREFIX):
            holder, asked = await self._by_key(token, scope, again=again)
            return _with_self(holder), asked
        return _with_self(await self._by_kept_here(token)), self._clock.monotonic()

    async def _by_kept_here(self, token: str) -> Principal:
        """By what is known in this process, or can be told from the token itself."""
        if self._token.matches(token) or (self._admin is not None and self._admin.matches(token)):
            return operator()
        if self._listed is not None and (found := self._listed.find(token)) is not None:
            return found
        if self._tokens is not None and token.count(".") == 2:
            return await self._tokens.principal(token)
        raise Unauthenticated("cannot do this: the token is not known", code="token-unknown")

    async def _by_worker(
        self, credential: str, scope: Any, *, again: bool = False
    ) -> tuple[Principal, float]:
        """A worker is who its certificate names, or else who signs with the key it registered."""
        (principal, key), asked = await self._workers(
            _oldest(again), credential, scope.get(CERTIFICATE)
        )
        if key and not again:
            shown = [v.decode("latin-1") for k, v in scope["headers"] if k == PROOF]
            proof = shown[0] if len(shown) == 1 else ""
            self._proofs.check(proof, scope["method"], target_of(scope), credential, key)
        return principal, asked

    def _check_tenant(self, scope: Any, principal: Principal) -> None:
        """``X-Tenant-ID`` chooses nothing: it must be the tenant the credential is of.

        Where it is required, whoever holds a key or a token must send it; the operator's and a
        worker's credentials are of one tenant by their making.
        """
        named = [v.decode("latin-1") for k, v in scope["headers"] if k == TENANT_HEADER]
        if any(name != principal.tenant for name in named):
            raise Denied(
                f"cannot do this: the credential is not of the tenant {named[0][:100]!r}",
                code="tenant-mismatch",
            )
        free = principal.kind in (PrincipalKind.OPERATOR, PrincipalKind.WORKER)
        if self._tenant_required and not named and not free:
            raise Denied(
                "cannot do this: X-Tenant-ID is required here",
                code="tenant-required",
                hint="send X-Tenant-ID with the tenant your credential is of; commands send what "
                "HOLDFAST_TENANT names",
            )

    async def _by_key(self, secret: str, scope: Any, *, again: bool) -> tuple[Principal, float]:
        try:
            holder, asked = await self._keys(_oldest(again), secret)
        except Unauthenticated as error:
            if not error.problems:
                raise
            _know(scope, *was_of(error))
            raise key_unknown() from None  # and whoever shows it does not learn that it was one
        except Denied as error:
            _know(scope, *whose_refused(error))
            raise without_whose(error) from None
        _know(scope, holder.tenant, holder.subject)
        if is_over(holder.expires_at, None, self._clock.now()):
            raise key_unknown()
        if not admits(networks_of(holder.addresses), str(scope.get(CLIENT, ""))):
            raise Denied(
                "cannot do this: the key does not hold at your address",
                code="address-refused",
                hint="call from one of the addresses that the key was made for; "
                "`holdfast apikey list` shows them to whoever may see it",
            )
        scope[HOLDER] = holder
        return principal_of(holder), asked


def _oldest(again: bool) -> float:
    """How old, in seconds, what is remembered may be."""
    return AGAIN_SECONDS if again else REMEMBERED_SECONDS


def _is_less(found: Principal, begun: Principal) -> bool:
    """Whether a credential is somebody else's by now, or may less than it did."""
    narrower = found.profiles is not None and (
        begun.profiles is None or not begun.profiles <= found.profiles
    )
    same = (found.tenant, found.subject) == (begun.tenant, begun.subject)
    return not same or narrower or not begun.permissions <= found.permissions


def _with_self(principal: Principal) -> Principal:
    """A program is somebody, too, as whoever signs in is: it may see to what is its own."""
    if principal.kind not in (PrincipalKind.KEY, PrincipalKind.FOREIGN):
        return principal
    return replace(principal, permissions=principal.permissions | {Permission.SELF})


def _know(scope: Any, tenant: str, subject: str) -> None:
    """Whose the credential is, for the log and the audit, whether or not it opens anything."""
    scope[TENANT], scope[SUBJECT] = tenant, subject


class Remembered(Generic[T]):
    """Remembers for five seconds whose a credential is.

    Who knows it may be another process, and every request asks. What was revoked is out after at
    most these five seconds, at every door, however long an answer takes: they count from when it
    was asked for. A refusal is never remembered.
    """

    def __init__(self, lookup: Callable[..., Awaitable[T]], clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock
        self._known: OrderedDict[tuple[Any, ...], tuple[float, T]] = OrderedDict()

    def forget(self, credential: str) -> None:
        """Ask again next time."""
        self._known.pop((_digest(credential),), None)

    async def __call__(self, credential: str, *more: str | None) -> T:
        """Whose it is; ``more`` is what else the look-up is told."""
        return (await self.dated(REMEMBERED_SECONDS, credential, *more))[0]

    async def dated(self, seconds: float, credential: str, *more: str | None) -> tuple[T, float]:
        """Whose it is, and when that was asked for: less than ``seconds`` ago."""
        key = (_digest(credential), *more)
        found = self._known.get(key)
        now = self._clock.monotonic()
        if found is not None and now < found[0] + seconds:
            return found[1], found[0]
        holder = await self._lookup(credential, *more)
        self._known[key] = (now, holder)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return holder, now


def _dated(
    lookup: Callable[..., Awaitable[T]], clock: Clock
) -> Callable[..., Awaitable[tuple[T, float]]]:
    """``lookup`` as one that also says when its answer was asked for."""
    if isinstance(lookup, Remembered):
        return lookup.dated

    async def dated(seconds: float, *given: str | None) -> tuple[T, float]:
        asked = clock.monotonic()
        return await lookup(*given), asked

    return dated


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode(errors="replace")).digest()


def session_secret(cookies: list[str]) -> str | None:
    """The session cookie's value, if there is exactly one. Under TLS it is the cookie that only
    TLS brings: one that a page without TLS planted is passed over."""
    found: dict[str, list[str]] = {COOKIE: [], SECURE_COOKIE: []}
    for header in cookies:
        try:
            jar = SimpleCookie(header)
        except CookieError:
            continue
        for name, values in found.items():
            if name in jar:
                values.append(jar[name].value)
    values = found[SECURE_COOKIE] or found[COOKIE]
    return values[0] if len(values) == 1 else None


def _credentials(scope: Any) -> tuple[str | None, list[str]]:
    bearers = [v.decode("latin-1") for k, v in scope["headers"] if k == b"authorization"]
    cookies = [v.decode("latin-1") for k, v in scope["headers"] if k == b"cookie"]
    if len(bearers) > 1:
        raise Unauthenticated("cannot do this: Authorization is given twice")
    if not bearers:
        return None, cookies
    scheme, _, token = bearers[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("cannot do this: Authorization is not a bearer token")
    return token.strip(), cookies


def _check_write(scope: Any, secret: str) -> None:
    """A write by cookie is our own page's: it has an Origin (the door has refused foreign ones) and
    the session's CSRF token, as a header or, in a form, as a field that the route checks."""
    headers = dict(scope["headers"])
    if b"origin" not in headers:
        raise Denied("cannot do this: a write by cookie needs an Origin", code="origin-missing")
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == FORM:
        return
    given = headers.get(CSRF_HEADER, b"").decode("latin-1")
    if not hmac.compare_digest(given.encode(), csrf_of(secret).encode()):
        raise Denied(
            "cannot do this: a write by cookie needs the page's X-CSRF-Token", code="csrf-missing"
        )
