"""The door's own routes: sign in, sign out, and how the whole is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from litestar import Response
from litestar.connection import Request
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from holdfast.gateway.audit import LOGIN_LINKS
from holdfast.gateway.door import COOKIE, HOLDER, SECURE_COOKIE, session_secret
from holdfast.identity import LoginLinks
from holdfast.identity.login import LINK_SECONDS
from holdfast.identity.model import KeyHolder
from holdfast.identity.signin.model import SessionBegin, SessionBegun, SessionHolder, csrf_of
from holdfast.identity.signin.oauth_model import OAuthAsk, OAuthBegun, OAuthFinish, OAuthStart
from holdfast.identity.signin.passkey_model import (
    CEREMONY_SECONDS,
    Ceremony,
    InvitationSecret,
    InvitationSeen,
    Passkey,
    PasskeyAnswer,
    SignInFinish,
    SignInStart,
    Visitor,
    Who,
)
from holdfast.identity.signin.throttle import Throttle
from holdfast.kernel.errors import Denied, HoldfastError, Kind, Unauthenticated
from holdfast.kernel.http import get, post
from holdfast.kernel.http.door import CLIENT
from holdfast.kernel.http.routes import header
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operators_only
from holdfast.kernel.telemetry import get_logger

log = get_logger("gateway")


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of a login link."""

    token: str


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """Who is signed in now, and what a form must send back."""

    subject: str
    csrf: str


class LoginLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link for a browser; works once, for ``seconds``. ``origin`` is where people sign in, if
    that is configured."""

    path: str
    seconds: int
    origin: str = ""


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The caller as the door sees it.

    ``profiles`` are those that it is limited to, ``addresses`` where a key holds, ``expires_at``
    until when; what is left out is no limit.
    """

    tenant: str
    subject: str
    kind: str
    permissions: list[str]
    profiles: list[str] = []
    addresses: list[str] = []
    expires_at: str = ""


DEVICE_COOKIE = "holdfast_device"
DEVICE_SECONDS = 365 * 86_400


def _device(request: Request[Any, Any, Any]) -> str:
    """The cookie of a browser that has signed in before, whoever it was."""
    return request.cookies.get(DEVICE_COOKIE, "")[:200]


def _account(answer: PasskeyAnswer) -> str:
    """The passkey that an answer names, right or wrong: failures in its name are counted."""
    return hashlib.sha256(bytes(answer.credential)[:200]).hexdigest()


class Sessions(Protocol):
    """The sessions of the identity role, here or elsewhere."""

    async def begin(self, begin: SessionBegin) -> SessionBegun: ...

    async def find_holder(self, secret: str) -> SessionHolder: ...

    async def end_by_secret(self, secret: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Browsers:
    """What the door's own routes share: who keeps sessions, whose token this is, whether by TLS.

    ``forget`` makes the door ask again about a session that ended here.
    """

    sessions: Sessions
    fingerprint: str
    secure: bool
    forget: Callable[[str], None]
    throttle: Throttle
    random: Callable[[int], bytes]

    def begins(self, request: Request[Any, Any, Any]) -> None:
        """Count a sign-in that begins; :class:`Exhausted` beyond a minute's worth."""
        self.throttle.begin(str(request.scope.get(CLIENT, "")), _device(request))

    @contextmanager
    def tried(self, request: Request[Any, Any, Any], account: str = "") -> Iterator[None]:
        """Around what may turn out wrong: that it was is counted, what is right is let in."""
        try:
            yield
        except (Unauthenticated, Denied):
            address = str(request.scope.get(CLIENT, ""))
            self.throttle.failed(address, _device(request), account)
            raise

    async def begin(
        self, request: Request[Any, Any, Any], principal: Principal, credential: str
    ) -> SessionBegun:
        """Begin a session for somebody who has just signed in with ``credential``; the one that
        their browser had ends."""
        visitor = self.visitor(request)
        return await self.sessions.begin(
            SessionBegin(
                tenant=principal.tenant,
                subject=principal.subject,
                kind=principal.kind.value,
                credential=credential,
                address=visitor.address,
                agent=visitor.agent,
                replaces=visitor.replaces,
            )
        )

    def visitor(self, request: Request[Any, Any, Any]) -> Visitor:
        """The browser as identity is told of it. The door has refused Hosts that are not ours."""
        scheme = "https" if self.secure else "http"
        return Visitor(
            origin=f"{scheme}://{header(request, b'host').lower()}",
            address=str(request.scope.get(CLIENT, "")),
            agent=agent_of(request),
            replaces=(session_secret(request.headers.getall("cookie", [])) or "")[:400],
        )

    def signed_in(self, request: Request[Any, Any, Any], begun: SessionBegun) -> Response[SignedIn]:
        """The answer to somebody who has just signed in: their cookie, and what they are."""
        old = session_secret(request.headers.getall("cookie", []))
        if old is not None:
            self.forget(old)
        body = SignedIn(subject=begun.subject, csrf=csrf_of(begun.secret))
        cookies = [self.cookie(begun.secret, begun.seconds), *self.device_cookies(request)]
        return Response(content=body, cookies=cookies)

    def device_cookies(self, request: Request[Any, Any, Any]) -> list[Cookie]:
        """What names a browser that has signed in, if it has none yet; it signs nobody in."""
        if self.throttle.knows(_device(request)):
            return []
        return [
            Cookie(
                key=DEVICE_COOKIE,
                value=self.throttle.device(self.random(16)),
                max_age=DEVICE_SECONDS,
                path="/",
                httponly=True,
                samesite="lax",
                secure=self.secure,
            )
        ]

    def cookie(self, value: str, seconds: int) -> Cookie:
        """The session's cookie; an empty ``value`` takes it away."""
        return Cookie(
            key=SECURE_COOKIE if self.secure else COOKIE,
            value=value,
            max_age=seconds,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self.secure,
        )

    def oauth_cookie(self, value: str, seconds: int) -> Cookie:
        """What holds a sign-in elsewhere to the browser that began it. It comes along when the
        provider sends the browser back: that is a navigation from another site."""
        return Cookie(
            key=OAUTH_COOKIE,
            value=value,
            max_age=seconds,
            path=OAUTH_PATH,
            httponly=True,
            samesite="lax",
            secure=self.secure,
        )

    async def end(self, secret: str) -> None:
        """Sign out; a session that is over is fine."""
        try:
            await self.sessions.end_by_secret(secret)
        except Unauthenticated:
            pass
        finally:
            self.forget(secret)


def agent_of(request: Request[Any, Any, Any]) -> str:
    """What the browser calls itself, for the list of sessions."""
    text = header(request, b"user-agent")
    return "".join(char for char in text if char.isprintable())[:200]


def passkey_handlers(passkeys: Any, browsers: Browsers) -> list[Any]:
    """Where browsers make and use passkeys; ``passkeys`` are the identity role's, here or
    elsewhere."""

    def door(
        path: str, permission: Permission = Permission.PUBLIC
    ) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
        name = path.removeprefix("/v1/").replace("/", "_")
        return post(path, permission=permission, tag="login", operation_id=name, status=200)

    @door("/v1/login/passkey/options")
    async def begin_sign_in(request: Request[Any, Any, Any]) -> Response[Ceremony]:
        """Begin to sign in with a passkey; nobody says who they are."""
        browsers.begins(request)
        start = SignInStart(visitor=browsers.visitor(request))
        return Response(content=await passkeys.begin_sign_in(start))

    @door("/v1/login/passkey")
    async def sign_in(request: Request[Any, Any, Any], data: PasskeyAnswer) -> Response[SignedIn]:
        """Sign in with what the browser's passkey answered."""
        finish = SignInFinish(visitor=browsers.visitor(request), answer=data)
        with browsers.tried(request, _account(data)):
            begun = await passkeys.sign_in(finish)
        return browsers.signed_in(request, begun)

    @door("/v1/login/invitation")
    async def see_invitation(
        request: Request[Any, Any, Any], data: InvitationSecret
    ) -> InvitationSeen:
        """What the holder of an invitation may see of it."""
        with browsers.tried(request):
            seen: InvitationSeen = await passkeys.see_invitation(data.secret)
        return seen

    @door("/v1/login/invitation/options")
    async def begin_accepting(
        request: Request[Any, Any, Any], data: InvitationSecret
    ) -> Response[Ceremony]:
        """Begin to make the first passkey of somebody who was invited."""
        browsers.begins(request)
        start = SignInStart(visitor=browsers.visitor(request), secret=data.secret)
        with browsers.tried(request):
            begun = await passkeys.begin_accepting(start)
        return Response(content=begun)

    @door("/v1/login/invitation/passkey")
    async def accept(request: Request[Any, Any, Any], data: PasskeyAnswer) -> Response[SignedIn]:
        """Accept an invitation with a new passkey, and be signed in."""
        finish = SignInFinish(visitor=browsers.visitor(request), answer=data)
        with browsers.tried(request):
            begun = await passkeys.accept(finish)
        return browsers.signed_in(request, begun)

    @door("/v1/login/passkeys/options", Permission.SELF)
    async def begin_adding(
        request: Request[Any, Any, Any], principal: Principal
    ) -> Response[Ceremony]:
        """Begin to make one more passkey of your own."""
        start = SignInStart(visitor=browsers.visitor(request), who=_person(principal))
        return Response(content=await passkeys.begin_adding(start))

    @door("/v1/login/passkeys", Permission.SELF)
    async def add(
        request: Request[Any, Any, Any], principal: Principal, data: PasskeyAnswer
    ) -> Passkey:
        """Keep one more passkey of your own."""
        who = _person(principal)
        finish = SignInFinish(visitor=browsers.visitor(request), answer=data, who=who)
        made: Passkey = await passkeys.add(finish)
        return made

    return [begin_sign_in, sign_in, see_invitation, begin_accepting, accept, begin_adding, add]


OAUTH_COOKIE = "holdfast_oauth"
OAUTH_PATH = "/login/oauth"


class OAuthAway(msgspec.Struct, frozen=True, kw_only=True):
    """Where the browser goes to sign in."""

    url: str


def oauth_handlers(
    oauth: Any, browsers: Browsers, page: Callable[[str, int], Response[bytes]]
) -> list[Any]:
    """The way to a provider of accounts and back; ``page`` shows why it failed, or that it did not.

    The session's cookie is strict, so that a page reached from elsewhere does not have it yet: the
    page that ends the way is ours, and goes on by itself.
    """

    async def away(request: Request[Any, Any, Any], ask: OAuthAsk) -> tuple[str, Cookie]:
        browsers.begins(request)
        start = OAuthStart(visitor=browsers.visitor(request), ask=ask)
        begun: OAuthBegun = await oauth.begin(start)
        return begun.url, browsers.oauth_cookie(begun.browser, CEREMONY_SECONDS)

    @post(
        "/v1/login/oauth",
        permission=Permission.PUBLIC,
        tag="login",
        operation_id="login_oauth",
        status=200,
    )
    async def begin_invited(request: Request[Any, Any, Any], data: OAuthAsk) -> Response[OAuthAway]:
        """Begin to sign in by an account elsewhere, perhaps to accept an invitation."""
        url, cookie = await away(request, data)
        return Response(content=OAuthAway(url=url), cookies=[cookie])

    @get(
        "/login/oauth/{provider:str}",
        permission=Permission.PUBLIC,
        tag="login",
        operation_id="page_oauth",
        in_schema=False,
    )
    async def begin(request: Request[Any, Any, Any], provider: str) -> Response[bytes]:
        """Send the browser to the provider."""
        try:
            url, cookie = await away(request, OAuthAsk(provider=provider[:40]))
        except HoldfastError as error:
            return page(error.detail, _page_status(error))
        return Response(content=b"", status_code=303, headers={"location": url}, cookies=[cookie])

    @get(
        "/login/oauth/{provider:str}/callback",
        permission=Permission.PUBLIC,
        tag="login",
        operation_id="page_oauth_callback",
        in_schema=False,
        open_query=True,
    )
    async def callback(
        request: Request[Any, Any, Any],
        provider: str,
        state: str = "",
        code: str = "",
        error: str = "",
        iss: str = "",
    ) -> Response[bytes]:
        """Where the provider sends the browser back."""
        try:
            finish = OAuthFinish(
                visitor=browsers.visitor(request),
                provider=provider[:40],
                browser=request.cookies.get(OAUTH_COOKIE, "")[:400],
                state=state[:4000],
                code=code[:4000],
                error=error[:4000],
                iss=iss[:4000],
            )
            with browsers.tried(request):
                begun = await oauth.finish(finish)
        except HoldfastError as problem:
            # The page says little; whoever configures the provider needs the reason.
            log.warning(
                "oauth.refused", provider=provider[:40], code=problem.code, reason=problem.internal
            )
            told = f"{problem.detail} ({problem.hint})" if problem.hint else problem.detail
            answer = page(told, _page_status(problem))
        else:
            answer = page("", 200)
            answer.cookies.append(browsers.cookie(begun.secret, begun.seconds))
            answer.cookies.extend(browsers.device_cookies(request))
        answer.cookies.append(browsers.oauth_cookie("", 0))
        return answer

    return [begin_invited, begin, callback]


def _page_status(error: HoldfastError) -> int:
    """Of a page that says why somebody is not signed in: whether they were refused, or nobody could
    tell."""
    return 503 if error.kind is Kind.UNAVAILABLE else 403


def _person(principal: Principal) -> Who:
    """Who adds a passkey: a person in a session of theirs, and no program."""
    if principal.kind is not PrincipalKind.PERSON or not principal.credential.startswith(
        "session:"
    ):
        raise Denied("cannot add a passkey: only a person who is signed in", code="person-only")
    return Who(tenant=principal.tenant, person=principal.subject)


def handlers(links: LoginLinks, browsers: Browsers, origin: str = "") -> list[Any]:
    """The routes; ``origin`` is where people sign in, if that is not wherever they ask."""

    @post("/v1/login", permission=Permission.PUBLIC, tag="login", operation_id="login", status=200)
    async def login(request: Request[Any, Any, Any], data: Login) -> Response[SignedIn]:
        """Exchange a login link's token for a session cookie."""
        with browsers.tried(request):
            principal = links.redeem(data.token)
        begun = await browsers.begin(request, principal, f"operator:{browsers.fingerprint}")
        return browsers.signed_in(request, begun)

    @post(
        LOGIN_LINKS,
        permission=Permission.IDENTITY_WRITE,
        tag="login",
        operation_id="login_create_link",
    )
    async def create_link(principal: Principal) -> LoginLink:
        """Make a login link for the operator; nobody else may, whatever their permissions."""
        operators_only(principal, "make a login link")
        path = f"/login#{links.create(principal)}"
        return LoginLink(path=path, seconds=LINK_SECONDS, origin=origin.rstrip("/"))

    @get("/v1/whoami", permission=Permission.SELF, tag="login", operation_id="whoami")
    async def whoami(request: Request[Any, Any, Any], principal: Principal) -> WhoAmI:
        """The caller as the door sees it, and what limits it."""
        scope: Any = request.scope
        holder: KeyHolder | None = scope.get(HOLDER)
        return WhoAmI(
            tenant=principal.tenant,
            subject=principal.subject,
            kind=principal.kind.value,
            permissions=sorted(permission.value for permission in principal.permissions),
            profiles=sorted(principal.profiles or ()),
            addresses=[] if holder is None else holder.addresses,
            expires_at="" if holder is None else holder.expires_at,
        )

    @post(
        "/logout",
        permission=Permission.SELF,
        accepts=("application/x-www-form-urlencoded",),
        tag="login",
        operation_id="logout",
        status=303,
        in_schema=False,
    )
    async def logout(request: Request[Any, Any, Any]) -> Response[bytes]:
        """End the browser's session."""
        secret = session_secret(request.headers.getall("cookie", []))
        body = (await request.body()).decode("utf-8", "replace")
        form = dict(part.partition("=")[::2] for part in body.split("&"))
        if secret is not None:
            if not hmac.compare_digest(form.get("csrf", "").encode(), csrf_of(secret).encode()):
                raise Denied("cannot sign out: the form is not of this session", code="csrf")
            await browsers.end(secret)
        return Response(
            content=b"", headers={"location": "/login"}, cookies=[browsers.cookie("", 0)]
        )

    return [login, create_link, whoami, logout]
