"""The door's own routes: sign in, sign out, and how the whole is."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response
from litestar.connection import Request
from litestar.datastructures import Cookie

from holdfast.gateway.door import COOKIE, session_secret
from holdfast.identity import LoginLinks, Sessions
from holdfast.identity.login import LINK_SECONDS, SESSION_SECONDS
from holdfast.kernel.errors import Denied
from holdfast.kernel.http import get, post
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


def handlers(links: LoginLinks, sessions: Sessions, *, secure: bool) -> list[Any]:
    """The routes; ``secure`` marks the cookie for TLS only."""

    @post("/v1/login", permission=Permission.PUBLIC, tag="login", operation_id="login", status=200)
    async def login(data: Login) -> Response[SignedIn]:
        """Exchange a login link's token for a session cookie."""
        principal = links.redeem(data.token)
        secret = sessions.begin(principal)
        body = SignedIn(subject=principal.subject, csrf=sessions.csrf_token(secret))
        return Response(content=body, cookies=[_cookie(secret, SESSION_SECONDS, secure)])

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
        permission=Permission.SYSTEM_READ,
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
            if form.get("csrf") != sessions.csrf_token(secret):
                raise Denied("cannot sign out: the form is not of this session", code="csrf")
            sessions.end(secret)
        return Response(
            content=b"", headers={"location": "/login"}, cookies=[_cookie("", 0, secure)]
        )

    return [login, create_link, whoami, logout]


def _cookie(value: str, seconds: int, secure: bool) -> Cookie:
    return Cookie(
        key=COOKIE,
        value=value,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="strict",
        secure=secure,
    )
