"""The door's own routes: sign in, sign out, and how the whole is."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from litestar import Response
from litestar.connection import Request
from litestar.datastructures import Cookie

from holdfast.gateway.door import COOKIE, SECURE_COOKIE, session_secret
from holdfast.identity import LoginLinks
from holdfast.identity.login import LINK_SECONDS
from holdfast.identity.signin.model import SessionBegin, SessionBegun, SessionHolder, csrf_of
from holdfast.kernel.errors import Denied, Unauthenticated
from holdfast.kernel.http import get, post
from holdfast.kernel.http.door import CLIENT
from holdfast.kernel.http.routes import header
from holdfast.kernel.principal import Permission, Principal, PrincipalKind


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of a login link."""

    token: str


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """Who is signed in now, and what a form must send back."""

    subject: str
    csrf: str


class LoginLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link for a browser; works once, for ``seconds``."""

    path: str
    seconds: int


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """The caller as the door sees it."""

    tenant: str
    subject: str
    kind: str
    permissions: list[str]


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

    async def begin(
        self, request: Request[Any, Any, Any], principal: Principal, credential: str
    ) -> SessionBegun:
        """Begin a session for somebody who has just signed in with ``credential``; the one that
        their browser had ends."""
        old = session_secret(request.headers.getall("cookie", []))
        begun = await self.sessions.begin(
            SessionBegin(
                tenant=principal.tenant,
                subject=principal.subject,
                kind=principal.kind.value,
                credential=credential,
                address=str(request.scope.get(CLIENT, "")),
                agent=agent_of(request),
                replaces=old or "",
            )
        )
        if old is not None:
            self.forget(old)
        return begun

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


def handlers(links: LoginLinks, browsers: Browsers) -> list[Any]:
    """The routes."""

    @post("/v1/login", permission=Permission.PUBLIC, tag="login", operation_id="login", status=200)
    async def login(request: Request[Any, Any, Any], data: Login) -> Response[SignedIn]:
        """Exchange a login link's token for a session cookie."""
        principal = links.redeem(data.token)
        begun = await browsers.begin(request, principal, f"operator:{browsers.fingerprint}")
        body = SignedIn(subject=principal.subject, csrf=csrf_of(begun.secret))
        return Response(content=body, cookies=[browsers.cookie(begun.secret, begun.seconds)])

    @post(
        "/v1/login/links",
        permission=Permission.SYSTEM_READ,
        tag="login",
        operation_id="login_create_link",
    )
    async def create_link(principal: Principal) -> LoginLink:
        """Make a login link for the operator."""
        if principal.kind is not PrincipalKind.OPERATOR:
            raise Denied("cannot make a login link: only the operator does")
        return LoginLink(path=f"/login#{links.create(principal)}", seconds=LINK_SECONDS)

    @get("/v1/whoami", permission=Permission.SYSTEM_READ, tag="login", operation_id="whoami")
    async def whoami(principal: Principal) -> WhoAmI:
        """The caller as the door sees it."""
        return WhoAmI(
            tenant=principal.tenant,
            subject=principal.subject,
            kind=principal.kind.value,
            permissions=sorted(permission.value for permission in principal.permissions),
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
        form = dict(part.partition("=")[::2] for part in (await request.body()).decode().split("&"))
        if secret is not None:
            if not hmac.compare_digest(form.get("csrf", "").encode(), csrf_of(secret).encode()):
                raise Denied("cannot sign out: the form is not of this session", code="csrf")
            await browsers.end(secret)
        return Response(
            content=b"", headers={"location": "/login"}, cookies=[browsers.cookie("", 0)]
        )

    return [login, create_link, whoami, logout]
