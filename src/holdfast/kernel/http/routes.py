"""Routes, declared with what they need: a permission, a body limit, what they accept.

Thin wrappers over Litestar's decorators. A route without a permission cannot be written, and
:func:`holdfast.kernel.http.create_app` refuses one that got in some other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from holdfast.kernel.errors import Invalid, Problem, TooLarge, Unavailable
from holdfast.kernel.http.scan import scan
from holdfast.kernel.principal import Permission

BODY_BYTES = 1024 * 1024
"""Largest body of a route that does not say otherwise."""

RULES = "holdfast_rules"


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What a route needs before it is called."""

    permission: Permission
    raw: bool
    body_limit: int
    accepts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A line in the list of routes."""

    method: str
    path: str
    permission: Permission
    operation_id: str


def route(
    method: str,
    path: str,
    *,
    permission: Permission,
    raw: bool = False,
    accepts: Sequence[str] = (),
    body_limit: int = BODY_BYTES,
    status: int | None = None,
    operation_id: str = "",
    summary: str = "",
    tag: str = "",
    responses: Mapping[int, ResponseSpec] | None = None,
    in_schema: bool = True,
    **options: Any,
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a route. ``data`` is the decoded JSON body, ``principal`` who asks.

    ``raw``: the handler reads the body itself (``request.stream()``), of any content type or, if
    ``accepts`` is given, of those. ``body_limit`` bounds the body in bytes while it arrives.
    """

    def decorate(function: Callable[..., Any]) -> HTTPRouteHandler:
        subject = tag or _tag_of(path)
        rules = RouteRules(permission, raw or bool(accepts), body_limit, tuple(accepts))
        handler = HTTPRouteHandler(
            path,
            http_method=HttpMethod(method),
            opt={RULES: rules},
            status_code=status,
            operation_id=operation_id or _operation_id(subject, function.__name__),
            summary=summary or _first_line(function),
            tags=[subject],
            responses=responses,
            include_in_schema=in_schema,
            request_max_body_size=body_limit,
            **options,
        )
        return handler(function)

    return decorate


def get(
    path: str, *, permission: Permission, **options: Any
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a GET route; see :func:`route`."""
    return route("GET", path, permission=permission, **options)


def post(
    path: str, *, permission: Permission, **options: Any
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a POST route; see :func:`route`. Answers 201 unless ``status`` says otherwise."""
    return route("POST", path, permission=permission, **options)


def put(
    path: str, *, permission: Permission, **options: Any
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a PUT route; see :func:`route`."""
    return route("PUT", path, permission=permission, **options)


def patch(
    path: str, *, permission: Permission, **options: Any
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a PATCH route; see :func:`route`."""
    return route("PATCH", path, permission=permission, **options)


def delete(
    path: str, *, permission: Permission, **options: Any
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a DELETE route; see :func:`route`. Answers 204 unless ``status`` says otherwise."""
    return route("DELETE", path, permission=permission, **options)


def routes_of(app: Litestar) -> list[RouteInfo]:
    """Every route of the application and the permission it needs, in order of path and method."""
    found = [
        RouteInfo(method, each.path, handler.opt[RULES].permission, str(handler.operation_id))
        for each in app.routes
        for handler in getattr(each, "route_handlers", ())
        for method in sorted(handler.http_methods)
        if RULES in handler.opt
    ]
    return sorted(found, key=lambda info: (info.path, info.method))


class ApiRequest(Request[Any, Any, State]):
    """A request whose body is bounded while it arrives, scanned, and decoded strictly."""

    async def stream(self) -> Any:
        """The body in pieces; :class:`TooLarge` as soon as it passes the route's limit."""
        limit = self.route_handler.resolve_request_max_body_size() or BODY_BYTES
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        size = 0
        while True:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise Unavailable("cannot go on: the caller went away", code="caller-gone")
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if piece:
                yield piece
            if not message.get("more_body"):
                return

    async def body(self) -> bytes:
        """The whole body; read once, kept."""
        kept: Any = self.scope.get("holdfast.body")
        if kept is None:
            kept = b"".join([piece async for piece in self.stream()])
            self.scope["holdfast.body"] = kept  # type: ignore[typeddict-unknown-key]
        return bytes(kept)

    async def json(self) -> Any:
        """The body as the type of the handler's ``data``; :class:`Invalid` says where it is not."""
        body = await self.body()
        decoder = _decoder(self.route_handler)
        return decode_body(body, decoder)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Scan and decode a JSON body; :class:`Invalid` says what is wrong and where."""
    scan(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        problem = Problem(path.rstrip("`") or "$", message)
        raise Invalid(
            f"cannot accept the body: {problem}", code="body-invalid", problems=[problem]
        ) from error
    except msgspec.DecodeError as error:
        raise Invalid(f"cannot read the body: {error}", code="json-invalid") from error


_decoders: dict[int, tuple[Any, msgspec.json.Decoder[Any]]] = {}


def _decoder(handler: Any) -> msgspec.json.Decoder[Any]:
    known = _decoders.get(id(handler))
    if known is not None and known[0] is handler:
        return known[1]
    field = handler.parsed_fn_signature.parameters.get("data")
    decoder = msgspec.json.Decoder(Any if field is None else field.raw)
    _decoders[id(handler)] = (handler, decoder)
    return decoder


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"cannot accept the body: it is over this route's {limit} bytes", code="body-too-large"
    )


def _tag_of(path: str) -> str:
    parts = [part for part in path.split("/") if part and not part.startswith("{")]
    return (parts[1] if len(parts) > 1 and parts[0] == "v1" else parts[0]) if parts else "root"


def _operation_id(tag: str, name: str) -> str:
    name = name.strip("_")
    subject = tag.replace("-", "_").replace(".", "_")
    singular = subject.removesuffix("s")
    return name if singular in name else f"{subject}_{name}"


def _first_line(function: Callable[..., Any]) -> str | None:
    text = (function.__doc__ or "").strip().partition("\n")[0]
    return text.rstrip(".") or None
