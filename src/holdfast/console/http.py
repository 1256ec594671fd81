"""The pages. Everything is escaped by the templates; there is no script but the login exchange."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from litestar import Response
from litestar.connection import Request

from holdfast import __version__
from holdfast.console.overview import Overview, OverviewSource
from holdfast.gateway.door import DoorAuthenticator, session_secret
from holdfast.identity.signin.model import csrf_of
from holdfast.kernel.errors import NotFound, Unauthenticated
from holdfast.kernel.http import get
from holdfast.kernel.principal import Permission, Principal

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = {
    "console.css": "text/css; charset=utf-8",
    "login.js": "text/javascript; charset=utf-8",
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


def handlers(source: OverviewSource, authenticate: DoorAuthenticator) -> list[Any]:
    """The routes of the pages."""

    @get("/", permission=Permission.PUBLIC, operation_id="page_overview", in_schema=False)
    async def overview_page(request: Request[Any, Any, Any]) -> Response[bytes]:
        """What is running and what was collected; people who are not signed in go to sign in."""
        try:
            principal = await authenticate(request.scope)
        except Unauthenticated:
            return Response(content=b"", status_code=303, headers={"location": "/login"})
        secret = session_secret(request.headers.getall("cookie", []))
        found = await source.overview(principal)
        values = {
            name: getattr(found, name) for name in Overview.__struct_fields__ if name != "version"
        }
        return _page(
            render(
                "overview.html",
                **values,
                total_records=found.total_records,
                csrf=csrf_of(secret) if secret else "",
            )
        )

    @get("/login", permission=Permission.PUBLIC, operation_id="page_login", in_schema=False)
    async def login_page() -> Response[bytes]:
        """Where a login link leads."""
        return _page(render("login.html"))

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

    return [overview_page, login_page, static, overview]


def _page(content: bytes) -> Response[bytes]:
    return Response(
        content=content,
        media_type="text/html; charset=utf-8",
        headers={
            "content-security-policy": POLICY,
            # With "no-referrer" a browser sends "Origin: null" on our own forms.
            "referrer-policy": "same-origin",
        },
    )
