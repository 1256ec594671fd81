"""The pages. Everything is escaped by the templates; scripts only sign in and press buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from litestar import Response
from litestar.connection import Request
from msgspec import Struct

from holdfast import __version__
from holdfast.console.overview import Overview, OverviewSource, nothing
from holdfast.gateway.door import DoorAuthenticator, session_secret
from holdfast.identity.signin.model import csrf_of
from holdfast.kernel.errors import NotFound, Unauthenticated
from holdfast.kernel.http import get
from holdfast.kernel.principal import (
    Permission,
    PermissionAuthoriser,
    Principal,
    PrincipalKind,
    decide,
)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = {
    "console.css": "text/css",
    "account.js": "text/javascript",
    "arrived.js": "text/javascript",
    "invitation.js": "text/javascript",
    "login.js": "text/javascript",
    "passkeys.js": "text/javascript",
    "mark.svg": "image/svg+xml",
}


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("holdfast.console", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )


def render(template: str, **values: Any) -> bytes:
    """A page of the console; every value is escaped."""
    return _templates().get_template(template).render(version=__version__, **values).encode()


class Identity(Protocol):
    """The identity role as the caller themselves would ask it."""

    people: Any
    sessions: Any
    passkeys: Any
    identity: Any
    accounts: Any


IdentityAs = Callable[[Principal], AbstractAsyncContextManager[Identity]]


class Provider(Struct, frozen=True):
    """A way to sign in by an account elsewhere."""

    name: str
    title: str


def handlers(
    source: OverviewSource,
    authenticate: DoorAuthenticator,
    identity_as: IdentityAs,
    providers: Sequence[Provider] = (),
) -> list[Any]:
    """The routes of the pages."""

    @get("/", permission=Permission.PUBLIC, operation_id="page_overview", in_schema=False)
    async def overview_page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """What is running and what was collected, for those who may see that.

        People who are not signed in go to sign in, others to the page that is everybody's own.
        """
        seen = await visitor(request)
        if seen is None:
            return _to("/login")
        principal, csrf = seen
        if not decide(principal, Permission.SYSTEM_READ).allowed:
            return _to("/account")
        found = await source.overview(principal)
        values = {
            name: getattr(found, name) for name in Overview.__struct_fields__ if name != "version"
        }
        return _page(
            render(
                "overview.html",
                **values,
                more_profiles=found.more_profiles,
                more_workers=found.more_workers,
                more_problems=found.more_problems,
                no_drones=nothing(found, "coordinator", "no drones"),
                no_profiles=nothing(found, "registry", "no profiles"),
                no_runs=nothing(found, "aggregator", "no runs"),
                csrf=csrf,
                manages=principal.may(Permission.IDENTITY_READ),
            )
        )

    async def visitor(request: Request[Any, Any, Any]) -> tuple[Principal, str] | None:
        """Who looks at a page, and their CSRF token; nobody who is not signed in."""
        try:
            principal = await authenticate(request.scope)
        except Unauthenticated:
            return None
        secret = session_secret(request.headers.getall("cookie", []))
        return principal, csrf_of(secret) if secret else ""

    @get("/account", permission=Permission.PUBLIC, operation_id="page_account", in_schema=False)
    async def account_page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """One's own passkeys, accounts elsewhere and sessions."""
        found = await visitor(request)
        if found is None:
            return _to("/login")
        principal, csrf = found
        person = principal.kind is PrincipalKind.PERSON
        async with identity_as(principal) as identity:
            keys = await identity.passkeys.list_passkeys(principal) if person else []
            accounts = await identity.accounts.list_accounts(principal) if person else []
            sessions, more_sessions = await identity.sessions.list_sessions(principal, limit=30)
        return _page(
            render(
                "account.html",
                csrf=csrf,
                person=person,
                passkeys=keys,
                accounts=accounts,
                sessions=sessions,
                more_sessions=more_sessions,
            )
        )

    @get("/people", permission=Permission.PUBLIC, operation_id="page_people", in_schema=False)
    async def people_page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """People and invitations, for those who may see them."""
        found = await visitor(request)
        if found is None:
            return _to("/login")
        principal, csrf = found
        PermissionAuthoriser().authorise(principal, Permission.IDENTITY_READ)
        async with identity_as(principal) as identity:
            people, more_people = await identity.people.list_people(principal, limit=200)
            invited, more_invited = await identity.people.list_invitations(principal, limit=50)
            roles = [role.name for role in await identity.identity.list_roles(principal)]
        return _page(
            render(
                "people.html",
                csrf=csrf,
                me=principal.subject,
                people=people,
                more_people=more_people,
                invitations=invited,
                more_invited=more_invited,
                roles=roles,
            )
        )

    @get(
        "/invitation", permission=Permission.PUBLIC, operation_id="page_invitation", in_schema=False
    )
    async def invitation_page() -> Response[bytes]:
        """Where an invitation's link leads."""
        return _page(render("invitation.html", providers=providers))

    @get("/login", permission=Permission.PUBLIC, operation_id="page_login", in_schema=False)
    async def login_page() -> Response[bytes]:
        """Where a login link leads."""
        return _page(render("login.html", providers=providers, problem=""))

    @get(
        "/static/{name:str}",
        permission=Permission.PUBLIC,
        operation_id="page_static",
        in_schema=False,
    )
    async def static(name: str) -> Response[bytes]:
        """The style sheet, the login script and the mark."""
        if name not in STATIC:
            raise NotFound(f"cannot find /static/{name}")
        content = resources.files("holdfast.console").joinpath("static", name).read_bytes()
        return Response(
            content=content, media_type=STATIC[name], headers={"cache-control": "max-age=3600"}
        )

    @get("/v1/overview", permission=Permission.SYSTEM_READ, tag="overview", operation_id="overview")
    async def overview(principal: Principal) -> Overview:
        """What is running and what was collected."""
        return await source.overview(principal)

    return [
        overview_page,
        account_page,
        people_page,
        invitation_page,
        login_page,
        static,
        overview,
    ]


def oauth_page(providers: Sequence[Provider]) -> Callable[[str, int], Response[bytes]]:
    """The page that ends the way from a provider: why it failed, or (empty) on into the console;
    and its status."""

    def page(problem: str, status: int) -> Response[bytes]:
        if problem:
            found = _page(render("login.html", providers=providers, problem=problem))
            found.status_code = status
            return found
        return _page(render("arrived.html"))

    return page


def refused_page(status: int, detail: str, hint: str) -> Response[bytes]:
    """What a browser shows where a page is none, or not for whoever asks."""
    found = _page(render("refused.html", status=status, detail=detail, hint=hint))
    found.status_code = status
    return found


def _to(place: str) -> Response[bytes]:
    return Response(content=b"", status_code=303, headers={"location": place})


def _page(content: bytes) -> Response[bytes]:
    return Response(
        content=content,
        media_type="text/html",  # the charset of texts is added to it
        headers={
            "content-security-policy": POLICY,
            # With "no-referrer" a browser sends "Origin: null" on our own forms.
            "referrer-policy": "same-origin",
        },
    )
