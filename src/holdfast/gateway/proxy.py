"""From the public door to a role in another process.

The door has authenticated the caller. What goes on is a fresh request: the method, path and query
as they came, a short list of headers, the body, and a hop token that vouches for exactly this
request. The caller's own credential stays at the door.

The body is spooled (memory to 1 MiB, then disk) because the token states its digest; nothing is
sent on before the whole body is here, so a caller that goes away half-way never reaches a role.
Before a byte of it is taken the caller must be somebody (unless the route is for nobody), who may
send a large one must have shown it, and no more is taken than the role will: the door knows every
route's limit.

When a role dies under a safe request (GET, HEAD), the door asks again, under a fresh token: a few
times, within a few seconds, and only while no byte of an answer has gone on to the caller. All
other methods are left to the caller, who knows whether repeating is safe.

The roles do not know the caller's credential, so the door alone can tell that it has ended. What
goes on for long (a body on its way in, an answer on its way out) it breaks off then; the role sees
its caller go away, and stops.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx

from holdfast.fleet.grants import HEADER as GRANT_HEADER
from holdfast.fleet.grants import Grants
from holdfast.identity.hop import (
    HEADER,
    REFUSED,
    Hop,
    HopSigner,
    HopVerifier,
    check_taken,
    hop_missing,
)
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import (
    HoldfastError,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.files import Descriptor, taken, write_all
from holdfast.kernel.http.door import CODE, PROBES, SUBJECT, TENANT, answer, target_of
from holdfast.kernel.http.problems import CODE_HEADER, document, encode
from holdfast.kernel.http.routes import BODY_BYTES, too_large
from holdfast.kernel.http.standing import Standing, standing_of
from holdfast.kernel.http.streaming import problem_bytes
from holdfast.kernel.principal import Permission, PermissionAuthoriser, Principal
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.kernel.tls import CERTIFICATE, peer_in

log = get_logger("gateway")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Authenticate = Callable[[Scope], Awaitable[Principal]]

ROUTES: tuple[tuple[str, str], ...] = (
    ("/v1/profiles", "registry"),
    ("/v1/tasks", "coordinator"),
    ("/v1/workers", "coordinator"),
    ("/v1/schedules", "coordinator"),
    ("/v1/runs", "aggregator"),
    ("/v1/batches", "aggregator"),
    ("/v1/records", "aggregator"),
    ("/v1/results", "aggregator"),
    ("/v1/rejects", "aggregator"),
    ("/v1/notices", "aggregator"),
    ("/v1/projections", "aggregator"),
    ("/v1/keys", "aggregator"),
    ("/v1/backups", "aggregator"),
    ("/v1/objects", "aggregator"),
    ("/v1/reports", "reporter"),
    ("/v1/query", "reporter"),
    ("/v1/api-keys", "identity"),
    ("/v1/derived", "identity"),
    ("/v1/access/workers", "coordinator"),
    ("/v1/access", "identity"),
    ("/v1/roles", "identity"),
    ("/v1/people", "identity"),
    ("/v1/invitations", "identity"),
    ("/v1/tenants", "identity"),
    ("/v1/sessions", "identity"),
    ("/v1/accounts", "identity"),
    ("/v1/passkeys", "identity"),
    ("/v1/audit", "identity"),
    ("/v1/sign-in", "identity"),
    ("/v1/ledger", "ledger"),
    ("/v1/prune/registry", "registry"),
    ("/v1/prune/aggregator", "aggregator"),
    ("/v1/prune/coordinator", "coordinator"),
    ("/v1/prune/reporter", "reporter"),
)
"""Path prefix → role. The console, login and the aggregated health are the door's own, and so is
what is asked about a person (``/v1/subjects``): it goes to every role with a keyring of its own."""

_ROLES = dict(ROUTES)

REQUEST_HEADERS = frozenset(
    b"accept content-type content-digest if-match if-none-match idempotency-key last-event-id "
    b"range traceparent tracestate holdfast-grant holdfast-response "
    b"holdfast-join-token holdfast-proof".split()
)
RESPONSE_HEADERS = frozenset(
    b"content-type content-length content-disposition content-security-policy etag last-modified "
    b"location retry-after allow accept-ranges content-range cache-control "
    b"x-content-type-options digest content-digest holdfast-publication holdfast-personal".split()
)
READING_POSTS = frozenset({"/v1/query"})
"""What is asked for by POST and changes nothing: its answer, too, is for whoever may still read."""
BEGUN = "holdfast.begun"
"""In the scope of a request whose answer is on its way to the caller."""
PIPELINE = "/v1/ledger/pipeline"
EVENTS, LINES = "text/event-stream", "application/x-ndjson"
PUBLIC = frozenset({("POST", "/v1/workers/register")})
"""The routes of other roles that serve callers without a credential."""


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A route that takes more than any body may have: how much, and who may send that.

    ``path`` is the route's; a segment in braces stands for any one segment. ``granted``: only
    under a grant, for the run that the path names, if it names one.
    """

    method: str
    path: str
    limit: int
    permission: Permission
    granted: bool = False


LARGE_BODIES = (
    LargeBody("POST", "/v1/batches", 16 * 1024**2, Permission.RUNS_WRITE, granted=True),
    LargeBody("POST", "/v1/ledger/events", 8 * 1024**2, Permission.LEDGER_APPEND),
    LargeBody("POST", "/v1/ledger/pipeline", 2 * 1024**3, Permission.LEDGER_APPEND),
    LargeBody("POST", "/v1/ledger/relay", 32 * 1024**2, Permission.LEDGER_RELAY),
    LargeBody("POST", "/v1/profiles", 256 * 1024, Permission.PROFILES_WRITE),
    LargeBody(
        "PUT",
        "/v1/runs/{run}/responses/{sequence}",
        2 * 1024**3,
        Permission.RUNS_WRITE,
        granted=True,
    ),
    LargeBody("POST", "/v1/tasks/batch", 8 * 1024**2, Permission.TASKS_WRITE),
    LargeBody("POST", "/v1/tasks/complete", 8 * 1024**2, Permission.TASKS_WORK),
)
"""A test compares these with the routes themselves."""

VOUCHED_BY = "holdfast.vouched-by"
"""Key of the scope: the role whose hop token fits the request, at least up to its body's end."""
GRANT = GRANT_HEADER.lower().encode()
SPOOL_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_AT_ROLES = frozenset({"/metrics", "/health/detailed"})
"""What a role may show without a hop: where it is not for everybody, its permission says so."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """How a safe request whose answer was lost is asked again.

    After the first loss it waits for each of ``pauses_seconds`` in turn and asks once more, but
    begins no ask later than ``deadline_seconds`` after the first: together long enough for a role
    that is restarted where it died.
    """

    pauses_seconds: tuple[float, ...] = (0.1, 0.4, 1.0, 2.0)
    deadline_seconds: float = 5.0


def role_of(path: str) -> str | None:
    """The role that answers for ``path``, or none if the door does itself."""
    prefix = prefix_of(path)
    return _ROLES.get(prefix) if prefix else None


def prefix_of(path: str) -> str | None:
    """Which of the prefixes ``path`` lies under."""
    for prefix in _ROLES:
        if path == prefix or path.startswith(f"{prefix}/"):
            return prefix
    return None


def large_body(method: str, path: str) -> tuple[LargeBody, dict[str, str]] | None:
    """What is known of such a request's body beforehand, with what the path names."""
    parts = path.split("/")
    for each in LARGE_BODIES:
        wanted = each.path.split("/")
        if method != each.method or len(parts) != len(wanted):
            continue
        named = {want[1:-1]: part for want, part in zip(wanted, parts, strict=True) if "{" in want}
        if each.path.format(**named) == path:
            return each, named
    return None


def body_limit(method: str, path: str) -> int:
    """How many bytes the body of such a request may have."""
    found = large_body(method, path)
    return BODY_BYTES if found is None else found[0].limit


class RoleProxy:
    """Passes requests on to the roles that run elsewhere."""

    def __init__(
        self,
        urls: Mapping[str, str],
        signer: HopSigner,
        client: httpx.AsyncClient,
        clock: Clock,
        repeats: Repeats | None = None,
    ) -> None:
        self._urls = dict(urls)
        self._signer = signer
        self._client = client
        self._clock = clock
        self._repeats = repeats or Repeats()

    def serves(self, path: str) -> bool:
        """Whether ``path`` belongs to a role in another process."""
        return role_of(path) in self._urls

    async def forward(
        self, scope: Scope, receive: Receive, send: Send, principal: Principal | None
    ) -> None:
        """Pass one request on and stream its answer back.

        Raises :class:`Unavailable` when the role cannot be reached (nothing was done there), or
        does not answer a safe request however often it is asked; :class:`OutcomeUnknown` when it
        was reached with any other and the answer was lost.
        """
        role = role_of(scope["path"])
        assert role is not None, "only called for paths it serves"
        standing = standing_of(scope)
        with closing(_Spool(standing)) as spool:
            digest, size = await _kept(scope, receive, spool)

            def request() -> httpx.Request:
                return self._request(scope, role, principal, spool, digest, size)

            if scope["method"] in SAFE_METHODS:
                answer_ = await self._ask_again(role, request)
            else:
                answer_ = await self._ask(role, request())
            try:
                reads = scope["method"] in SAFE_METHODS or scope["path"] in READING_POSTS
                if standing is not None and reads:
                    await standing.check()
                await answer_.pass_on(scope, send, standing)
            finally:
                await answer_.close()

    def _request(
        self,
        scope: Scope,
        role: str,
        principal: Principal | None,
        spool: _Spool,
        body_digest: str,
        size: int,
    ) -> httpx.Request:
        """What goes on. Its token works once, so each ask is a request of its own."""
        target = target_of(scope)
        headers = [(k, v) for k, v in scope["headers"] if k in REQUEST_HEADERS]
        seal = self._signer.seal(
            role,
            principal,
            scope["method"],
            target,
            body_digest,
            certificate=scope.get(CERTIFICATE),
        )
        headers.append((b"content-length", str(size).encode()))
        headers.append((b"x-request-id", request_id().encode()))
        return self._client.build_request(
            scope["method"],
            self._urls[role] + target,
            headers=headers,
            content=spool.pieces() if size else None,
            extensions=seal,
        )

    async def _ask_again(self, role: str, request: Callable[[], httpx.Request]) -> _Answer:
        """Ask until there is an answer whose first bytes are here, or it is enough."""
        until = self._clock.monotonic() + self._repeats.deadline_seconds
        lost: OutcomeUnknown | None = None
        for pause in (*self._repeats.pauses_seconds, None):
            try:
                return await self._ask(role, request(), begun=True)
            except OutcomeUnknown as error:
                lost = error
            except Unavailable:
                # Nobody there is news only of a role that was there a moment ago.
                if lost is None:
                    raise
            if pause is None or self._clock.monotonic() + pause > until:
                break
            await self._clock.sleep(pause)
        assert lost is not None, "only a lost answer is asked for again"
        raise Unavailable(
            f"cannot get an answer: the {role} went away, and did not come back in time",
            code="role-unreachable",
            hint=f"see that the {role} runs (`holdfast status`), and ask again",
            retry_after_seconds=1,
            internal=lost.internal,
        ) from lost

    async def _ask(self, role: str, request: httpx.Request, *, begun: bool = False) -> _Answer:
        """Ask once; with ``begun``, wait until the body has begun as well."""
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable(
                f"cannot reach the {role}", code="role-unreachable", retry_after_seconds=1
            ) from error
        except httpx.HTTPError as error:
            raise _lost(role, error) from error
        found = _Answer(response)
        try:
            check_taken(self._signer.role, role, response.headers)
        except Unavailable:
            await found.close()
            raise
        if begun:
            try:
                await found.begin()
            except httpx.HTTPError as error:
                await found.close()
                raise _lost(role, error) from error
        return found


def _lost(role: str, error: httpx.HTTPError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"cannot tell what became of it: the {role} was reached, its answer was lost",
        retry_after_seconds=1,
        internal=repr(error),
    )


class _Answer:
    """A role's answer on its way to the caller."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = response.aiter_raw()
        self._begun: list[bytes] = []
        self._whole = False
        self._sent = b""  # the last two bytes that went on

    async def begin(self) -> None:
        """Wait for all of a short body, the first bytes of a long one, nothing of a live one."""
        headers = self._response.headers
        if headers.get("content-type", "").startswith("text/event-stream"):
            return
        length = headers.get("content-length", "")
        short = length.isdecimal() and int(length) <= CHUNK_BYTES
        async for piece in self._pieces:
            self._begun.append(piece)
            if not short:
                return
        self._whole = True

    async def pass_on(self, scope: Scope, send: Send, standing: Standing | None) -> None:
        raw = self._response.headers.raw
        for name, value in raw:
            if name.lower() == CODE_HEADER:
                scope[CODE] = value.decode("latin-1")
        headers = [(k.lower(), v) for k, v in raw if k.lower() in RESPONSE_HEADERS]
        status = self._response.status_code
        scope[BEGUN] = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if self._whole:
            whole = b"".join(self._begun)
            await send({"type": "http.response.body", "body": whole, "more_body": False})
            return
        if standing is None:
            await self._pass_pieces(send, None)
        elif self._response.headers.get("content-length", "").isdecimal():
            await self._pass_pieces(send, standing)
        else:
            await self._pass_live(scope, send, standing)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_pieces(self, send: Send, standing: Standing | None) -> None:
        for piece in self._begun:
            await self._pass_piece(piece, send, standing)
        async for piece in self._pieces:
            await self._pass_piece(piece, send, standing)

    async def _pass_piece(self, piece: bytes, send: Send, standing: Standing | None) -> None:
        if standing is not None:
            await standing.check()
        self._sent = (self._sent + piece)[-2:]
        await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _pass_live(self, scope: Scope, send: Send, standing: Standing) -> None:
        """What may be silent for long: whoever listens is asked about meanwhile."""
        try:
            await standing.while_holds(self._pass_pieces(send, standing))
        except HoldfastError as error:
            last = self._last_word(scope["path"], error)
            if not last:
                raise
            log.info("answer ended", path=scope["path"], code=error.code)
            await send({"type": "http.response.body", "body": last, "more_body": True})

    def _last_word(self, path: str, error: HoldfastError) -> bytes:
        """Why an answer is over, as its reader expects it; nothing where it can only be cut off."""
        kind = self._response.headers.get("content-type", "").partition(";")[0]
        if kind == EVENTS and self._sent in (b"", b"\n\n"):
            return problem_bytes(error, path)
        if kind == LINES and path == PIPELINE and self._sent[-1:] in (b"", b"\n"):
            shown = encode(document(error, instance=path, request_id=request_id()))
            return b'{"line":0,"problem":%b,"ended":true}\n' % shown
        return b""

    async def close(self) -> None:
        await self._response.aclose()


class ProxyMiddleware:
    """In front of the door's own routes: what belongs to a role elsewhere is passed on to it.

    A caller without a credential is passed on as nobody to the public routes of a role (a worker's
    registration), and refused everywhere else. ``take`` counts a known caller's request, as for
    the door's own routes. What a caller may do is the role's to say; but who is to send a large
    body shows what it takes (permission, grant) first: the door would keep it before the role sees
    anything of it.
    """

    def __init__(
        self,
        app: Any,
        proxy: RoleProxy,
        authenticate: Authenticate,
        grants: Grants,
        take: Callable[[Principal], None],
    ) -> None:
        self._app = app
        self._proxy = proxy
        self._authenticate = authenticate
        self._grants = grants
        self._take = take
        self._authoriser = PermissionAuthoriser()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._proxy.serves(scope["path"]):
            await self._app(scope, receive, send)
            return
        scope["path_template"] = prefix_of(scope["path"])
        try:
            principal = await self._principal(scope)
            await self._proxy.forward(scope, receive, send, principal)
        except HoldfastError as error:
            if BEGUN in scope:
                raise  # the caller has half an answer: the door cuts it off
            await answer(scope, send, error, request_id())

    async def _principal(self, scope: Scope) -> Principal | None:
        names = {name for name, _ in scope["headers"]}
        nobody = not names & {b"authorization", b"cookie"}
        if nobody and (scope["method"], scope["path"]) in PUBLIC:
            return None
        principal = await self._authenticate(scope)
        scope[SUBJECT] = principal.subject
        scope[TENANT] = principal.tenant
        self._take(principal)
        self._check_large(scope, principal)
        return principal

    def _check_large(self, scope: Scope, principal: Principal) -> None:
        found = large_body(scope["method"], scope["path"])
        if found is None:
            return
        large, named = found
        if not principal.may(large.permission):
            self._authoriser.authorise(principal, large.permission)
        if large.granted:
            grant = dict(scope["headers"]).get(GRANT, b"").decode("latin-1")
            self._grants.of(principal, grant, named.get("run"))


class CertificateMiddleware:
    """At a door that asks for client certificates: notes whose came with each request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = peer_in(scope)
            scope[CERTIFICATE] = peer.name if peer else ""
        await self._app(scope, receive, send)


class HopMiddleware:
    """In front of a role: every request but the probes carries a hop token that fits it.

    What comes without is refused, whatever the route. The principal the token vouches for is put
    into the scope. A body that says it is short is read and compared with the token's digest before
    anything else sees the request: a handler that does not look at its body acts on no other one
    than was vouched for. One that is long, or does not say, is hashed as the handler reads it, and
    its last piece is withheld when the digest is not the token's: the handler then sees the failure
    instead of the end of the body.

    An answer says of a token that was not taken that it was not (:data:`REFUSED`), also one to a
    probe, which need not have any: by that a role's health shows whether it trusts who asks.
    """

    def __init__(self, app: Any, verifier: HopVerifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        probed = scope.get("path") in PROBES
        presented = probed and any(name == HEADER.encode() for name, _ in scope["headers"])
        if scope["type"] != "http" or (probed and not presented):
            await self._app(scope, receive, send)
            return
        try:
            try:
                hop = self._hop(scope)
            except Unauthenticated as error:
                send = _telling(send, error.code)
                if scope["path"] not in OPEN_AT_ROLES and not probed:
                    raise
                await self._app(scope, receive, send)
                return
            if probed:
                await self._app(scope, receive, send)
                return
            checked = await _checked(scope, receive, hop.body)
        except Unauthenticated as error:
            await answer(scope, send, error, request_id())
            return
        scope["holdfast.hop"] = hop.principal
        scope[VOUCHED_BY] = hop.by
        if hop.certificate is not None:
            scope[CERTIFICATE] = hop.certificate
        await self._app(scope, checked, send)

    def _hop(self, scope: Scope) -> Hop:
        presented = [v for k, v in scope["headers"] if k == HEADER.encode()]
        if len(presented) != 1:
            raise hop_missing()
        token = presented[0].decode("ascii", errors="replace")
        peer = peer_in(scope)
        return self._verifier.verify(
            token, scope["method"], target_of(scope), peer.thumbprint if peer else ""
        )


def _telling(send: Send, code: str) -> Send:
    """``send``, with the word that the hop token was refused."""

    async def told(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (REFUSED.encode(), code.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return told


def hop_principal(scope: Scope) -> Principal:
    """The principal that :class:`HopMiddleware` verified; the authenticator of every role."""
    principal: Principal | None = scope.get("holdfast.hop")
    if principal is None:
        raise Unauthenticated("cannot do this: nobody is signed in")
    return principal


async def _checked(scope: Scope, receive: Receive, expected: str) -> Receive:
    """What reads the body that ``expected`` is the digest of; a short one has been read by then."""
    checked = _hashed(receive, expected)
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not declared.isdigit() or int(declared) > CHUNK_BYTES:
        return checked
    kept: list[MutableMapping[str, Any]] = []
    while not kept or (kept[-1]["type"] == "http.request" and kept[-1].get("more_body")):
        kept.append(await checked())
    if kept[-1]["type"] != "http.request":
        raise Unauthenticated("cannot accept the hop: its body broke off")
    kept.reverse()

    async def again() -> MutableMapping[str, Any]:
        return kept.pop() if kept else await receive()

    return again


def _hashed(receive: Receive, expected: str) -> Receive:
    hasher = hashlib.sha256()

    async def checked() -> MutableMapping[str, Any]:
        message = await receive()
        if message["type"] == "http.request":
            hasher.update(message.get("body", b""))
            if not message.get("more_body") and f"sha256:{hasher.hexdigest()}" != expected:
                raise Unauthenticated("cannot accept the hop: the token is for another body")
        return message

    return checked


async def _kept(scope: Scope, receive: Receive, spool: _Spool) -> tuple[str, int]:
    """The whole body in ``spool``; its digest and size."""
    limit = body_limit(scope["method"], scope["path"])
    declared = dict(scope["headers"]).get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    hasher = hashlib.sha256()
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Unavailable("cannot go on: the caller went away")
        if spool.standing is not None:
            await spool.standing.check()
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        hasher.update(piece)
        try:
            await spool.keep(piece, last=not more)
        except OSError as error:
            raise Unavailable(
                "cannot take the body: there is no room to keep it",
                code="spool-full",
                internal=repr(error),
            ) from error
        if not more:
            return f"sha256:{hasher.hexdigest()}", size


class _Spool:
    """A body on its way: in memory while it is short, else in a file that has no name.

    Only threads read and write the file, a piece at a time: the disk holds nobody else up. It is
    given out while the ``standing`` of whoever sent it holds.
    """

    def __init__(self, standing: Standing | None = None) -> None:
        self.standing = standing
        self._pending = bytearray()
        self._file: Descriptor | None = None

    async def keep(self, piece: bytes, *, last: bool) -> None:
        """Take what comes next."""
        self._pending += piece
        if len(self._pending) > SPOOL_MEMORY_BYTES or (last and self._file is not None):
            if self._file is None:
                self._file = await taken(asyncio.to_thread(_unnamed), Descriptor.close)
            await self._file.run(write_all, bytes(self._pending))
            self._pending.clear()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its beginning, as often as it is asked for."""
        if self._file is None:
            for at in range(0, len(self._pending), CHUNK_BYTES):
                yield bytes(self._pending[at : at + CHUNK_BYTES])
            return
        at = 0
        while piece := await self._file.run(os.pread, SPOOL_MEMORY_BYTES, at):
            if self.standing is not None:
                await self.standing.check()
            yield piece
            at += len(piece)

    def close(self) -> None:
        """Give the file up."""
        if self._file is not None:
            self._file.close()


def _unnamed() -> Descriptor:
    with tempfile.TemporaryFile(buffering=0) as file:
        return Descriptor(os.dup(file.fileno()))
