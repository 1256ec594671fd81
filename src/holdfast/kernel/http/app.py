"""The application of a role: its routes behind one door, with health, metrics and OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar import Litestar, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)

from holdfast.kernel.clock import Clock, SystemClock
from holdfast.kernel.errors import (
    Denied,
    HoldfastError,
    Internal,
    Invalid,
    Kind,
    NotFound,
    Unsupported,
)
from holdfast.kernel.http import door, problems
from holdfast.kernel.http.openapi import openapi_document
from holdfast.kernel.http.rates import RequestRates
from holdfast.kernel.http.routes import (
    CALLER_GONE,
    PRINCIPAL,
    RULES,
    ApiRequest,
    Connection,
    RouteRules,
    get,
)
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.principal import (
    Authoriser,
    Permission,
    PermissionAuthoriser,
    Principal,
    seen_of,
    sees_the_whole,
)
from holdfast.kernel.telemetry import METRICS_CONTENT_TYPE, Metrics, get_logger, request_id

log = get_logger("http")

Authenticator = Callable[[Connection], Awaitable[Principal]]
"""Who asks; raises :class:`~holdfast.kernel.errors.Unauthenticated`."""

Check = Callable[[], Awaitable["str | None"]]
"""One part of readiness: returns ``None`` or ``"ok"``, ``"degraded"``, or raises."""

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
CHECK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class AppSpec:
    """Everything an application is made of.

    ``origins`` are those of other sites whose pages may call, never with a cookie; ``*`` is any.
    ``local``: nothing stands in front, so forwarding headers are refused. ``https``: callers come
    by TLS, ours or a terminator's. ``trusted_proxies`` are the networks whose ``X-Forwarded-For``
    is believed. ``services``, at the public door, tells the state of the roles
    behind it. ``metrics_permission`` guards ``/metrics`` and ``/health/detailed``: unless that is
    public, they are for those who may see the whole, not for one tenant's.
    """

    role: str
    version: str
    handlers: Sequence[Any]
    authenticate: Authenticator
    authoriser: Authoriser = field(default_factory=PermissionAuthoriser)
    hosts: Sequence[str] = LOCAL_HOSTS
    origins: Sequence[str] = ()
    local: bool = True
    https: bool = False
    trusted_proxies: Sequence[str] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    check_seconds: float = CHECK_SECONDS
    services: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    clock: Clock = field(default_factory=SystemClock)
    new_id: NewId | None = None
    metrics: Metrics = field(default_factory=Metrics)
    metrics_permission: Permission = Permission.SYSTEM_READ
    rates: RequestRates = field(default_factory=RequestRates)
    """How often one address, principal and tenant may ask."""
    lifespan: Sequence[Lifespan] = ()
    noted: door.Noted | None = None
    """Told of every exchange: the audit of a door."""
    page: Callable[[int, str, str], Response[bytes]] | None = None
    """A refusal (status, detail, hint) as a page, for browsers that asked for one."""
    between: Callable[[door.ASGI], door.ASGI] | None = None
    """What stands between the door and the routes: the hop check of a role, the gateway's proxy."""


class App(Litestar):
    """A Litestar application whose every exchange passes the door."""

    door: door.Door
    spec: AppSpec

    async def admit(self, connection: Connection, permission: Permission) -> None:
        """Find out who asks and whether they may; on routes that need nobody, nothing."""
        if permission is Permission.PUBLIC:
            return
        principal = await self.spec.authenticate(connection)
        scope: Any = connection.scope
        scope[PRINCIPAL] = principal
        scope[door.SUBJECT] = principal.subject
        scope[door.TENANT] = principal.tenant
        self.spec.rates.take(principal)
        if not principal.may(permission):
            self.spec.authoriser.authorise(principal, permission)

    def confine(self, connection: Connection, permission: Permission, profile: str | None) -> None:
        """Decide, now that it is known which profile the request is about."""
        scope: Any = connection.scope
        principal: Principal | None = scope.get(PRINCIPAL)
        if principal is not None:
            self.spec.authoriser.authorise(principal, permission, profile)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.door(scope, receive, send)

    async def inside(self, scope: Any, receive: Any, send: Any) -> None:
        """Past the door: Litestar's own routing."""
        await super().__call__(scope, receive, send)


def create_app(spec: AppSpec) -> App:
    """The application; raises ``ValueError`` when a route has no permission or a doubled name."""
    app = App(
        route_handlers=[*spec.handlers, *_own_routes(spec)],
        exception_handlers={Exception: _exception},
        request_class=ApiRequest,
        lifespan=list(spec.lifespan),
        logging_config=None,
        openapi_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    _check_routes(app)
    admitted = door.rules(
        spec.role, spec.hosts, spec.origins, spec.local, spec.https, spec.trusted_proxies
    )
    app.spec = spec
    app.door = door.Door(
        spec.between(app.inside) if spec.between is not None else app.inside,
        admitted,
        clock=spec.clock,
        new_id=spec.new_id or id_source(spec.clock),
        metrics=spec.metrics,
        rates=spec.rates,
        noted=spec.noted,
    )
    return app


def _check_routes(app: Litestar) -> None:
    seen: dict[str, str] = {}
    each: Any
    for each in app.routes:
        # Mounted applications and websockets have one handler, and would be asked nothing either.
        for handler in getattr(each, "route_handlers", None) or [each.route_handler]:
            if _is_the_routers_own(handler):
                continue
            if RULES not in handler.opt:
                raise ValueError(f"cannot serve {each.path}: the route declares no permission")
            rules: RouteRules = handler.opt[RULES]
            place = f"{rules.method} {rules.path}"
            if seen.setdefault(rules.operation_id, place) != place:
                raise ValueError(
                    f"cannot serve {place}: its operation id {rules.operation_id} is that of "
                    f"{seen[rules.operation_id]}"
                )


def _is_the_routers_own(handler: Any) -> bool:
    """The answer to OPTIONS that the router adds to each path: it lists methods, and runs nothing
    of ours."""
    own = str(getattr(handler.fn, "__module__", "")).partition(".")[0] == "litestar"
    return own and getattr(handler, "http_methods", None) == {"OPTIONS"}


# --- failures -----------------------------------------------------------------------------------


def _exception(request: Any, error: Exception) -> Response[bytes]:
    found = translate(request, error)
    principal: Principal | None = request.scope.get(PRINCIPAL)
    if found.kind is Kind.NOT_FOUND and principal is not None:
        # Of what is beyond its limits and of what there is not alike.
        found.hint = seen_of(principal) or found.hint
    if found.kind in (Kind.INTERNAL, Kind.CORRUPT):
        log.error(
            "request failed",
            method=request.scope["method"],
            path=request.scope["path"],
            code=found.code,
            detail=found.detail,
            internal=found.internal,
            exc_info=error,
        )
    elif found.code == CALLER_GONE:
        log.info("caller gone", path=request.scope["path"])
    elif found.internal or found.kind in (Kind.UNAVAILABLE, Kind.OUTCOME_UNKNOWN):
        log.warning(
            "request refused",
            path=request.scope["path"],
            code=found.code,
            detail=found.detail,
            internal=found.internal,
        )
    request.scope[door.CODE] = found.code
    document = problems.document(found, instance=request.scope["path"], request_id=request_id())
    headers = {name.decode(): value.decode() for name, value in problems.headers_of(found)}
    if found.code == "method-not-allowed":
        headers["allow"] = ", ".join(_methods_at(request))
    page = request.app.spec.page
    if page is not None and _asks_for_page(request):
        shown: Response[bytes] = page(document.status, document.detail, document.hint)
        del headers["content-type"]  # it has its own
        shown.headers.update(headers)
        return shown
    return Response(
        content=problems.encode(document),
        status_code=document.status,
        headers=headers,
        media_type=problems.CONTENT_TYPE,
    )


def _asks_for_page(request: Any) -> bool:
    """Whether a browser went there: what programs call is under ``/v1`` and answers them alike."""
    accepts = request.headers.get("accept", "")
    path = request.scope["path"]
    return (
        request.scope["method"] == "GET" and "text/html" in accepts and not path.startswith("/v1/")
    )


def translate(request: Any, error: Exception) -> HoldfastError:
    """Any failure as one of ours; what is not known is internal."""
    if isinstance(error, HoldfastError):
        return error
    path = request.scope["path"]
    if isinstance(error, MethodNotAllowedException):
        return Unsupported(
            f"cannot do {request.scope['method']} on {path}", code="method-not-allowed"
        )
    if isinstance(error, NotFoundException):
        return NotFound(f"cannot find {path}: no such route", code="route-not-found")
    if isinstance(error, HTTPException) and 400 <= error.status_code < 500:
        return Invalid(f"cannot accept the request: {error.detail}", code="request-invalid")
    return Internal("cannot answer", internal=repr(error))


def _methods_at(request: Any) -> list[str]:
    app: Litestar = request.app
    template = app.asgi_router.handle_routing(path=request.scope["path"], method="OPTIONS")[4]
    methods = {str(method) for method in app.route_handler_method_map.get(template, ())}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


# --- the routes that every role has -------------------------------------------------------------


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the process is alive. At the public door, also how the roles behind it are."""

    status: str
    version: str
    uptime_seconds: float
    services: dict[str, str] | None = None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of one readiness check."""

    status: str
    duration_ms: float
    detail: str = ""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the process can do its work."""

    status: str
    version: str
    uptime_seconds: float
    checks: dict[str, CheckResult]


def _own_routes(spec: AppSpec) -> list[Any]:
    started = spec.clock.monotonic()
    made: list[bytes] = []

    def uptime() -> float:
        return round(spec.clock.monotonic() - started, 3)

    @get("/health", permission=Permission.PUBLIC, tag="health", operation_id="health")
    async def health() -> Health:
        """Whether the process is alive."""
        services = dict(await spec.services()) if spec.services is not None else None
        worse = services is not None and any(state != "ok" for state in services.values())
        return Health(
            status="degraded" if worse else "ok",
            version=spec.version,
            uptime_seconds=uptime(),
            services=services,
        )

    async def readiness(details: bool) -> Response[Readiness]:
        names = list(spec.checks)
        results = await asyncio.gather(*(_run_check(spec, name, details) for name in names))
        states = {result.status for result in results}
        status = next((s for s in ("unhealthy", "degraded") if s in states), "ok")
        found = Readiness(
            status=status,
            version=spec.version,
            uptime_seconds=uptime(),
            checks=dict(zip(names, results, strict=True)),
        )
        return Response(content=found, status_code=503 if status == "unhealthy" else 200)

    @get("/ready", permission=Permission.PUBLIC, tag="health", operation_id="ready")
    async def ready() -> Response[Readiness]:
        """Whether the process can do its work: 503 when it cannot."""
        return await readiness(details=False)

    @get(
        "/health/detailed",
        permission=spec.metrics_permission,
        tag="health",
        operation_id="health_detailed",
    )
    async def health_detailed(request: ApiRequest) -> Response[Readiness]:
        """Readiness with the reason of each failure; for keys of the tenant `default`."""
        _check_whole(request)
        return await readiness(details=True)

    @get(
        "/metrics",
        permission=spec.metrics_permission,
        tag="health",
        operation_id="metrics",
        media_type="text/plain",
    )
    async def metrics(request: ApiRequest) -> Response[bytes]:
        """The metrics, for Prometheus; they count every tenant, so for keys of `default`."""
        _check_whole(request)
        plain = METRICS_CONTENT_TYPE.removesuffix("; charset=utf-8")  # which the framework adds
        return Response(content=spec.metrics.render(), media_type=plain)

    @get(
        "/openapi.json",
        permission=Permission.SYSTEM_READ,
        tag="health",
        operation_id="openapi",
        in_schema=False,
    )
    async def openapi(request: ApiRequest) -> Response[bytes]:
        """The OpenAPI document of this application."""
        # Made once: it costs a hundred times what any other answer does.
        if not made:
            made.append(openapi_document(request.app))
        return Response(content=made[0], media_type="application/json")

    return [health, ready, health_detailed, metrics, openapi]


def _check_whole(request: ApiRequest) -> None:
    """``Denied`` for whoever is of one tenant, where what is asked for names things of all."""
    scope: Any = request.scope
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is not None and not sees_the_whole(principal):
        raise Denied(
            "cannot show this: it speaks of every tenant, and the credential is of one",
            code="tenant-confined",
            hint="the operator's token, or a key of the tenant default with system:read, shows it",
        )


async def _run_check(spec: AppSpec, name: str, details: bool) -> CheckResult:
    started = spec.clock.monotonic()
    detail = ""
    try:
        async with asyncio.timeout(spec.check_seconds):
            status = await spec.checks[name]() or "ok"
    except TimeoutError:
        status, detail = "unhealthy", f"no answer in {spec.check_seconds} s"
    except HoldfastError as error:
        status, detail = "unhealthy", error.detail
    except Exception as error:  # a check must not take readiness down with it
        log.warning("readiness check failed", check=name, exc_info=error)
        status, detail = "unhealthy", type(error).__name__
    elapsed = round((spec.clock.monotonic() - started) * 1000, 3)
    return CheckResult(status=status, duration_ms=elapsed, detail=detail if details else "")
