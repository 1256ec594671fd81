"""Routes, declared with what they need: a permission, a body limit, what they accept.

A handler is a plain coroutine function with typed arguments; :func:`route` compiles, once, how they
are taken from a request. Litestar routes and answers; arguments and bodies are read here, because
its own reading is lax (``"4"`` is a number), ignores what it does not know, and names the first
mistake only. A route without a permission cannot be written, and ``create_app`` refuses one that
got in some other way.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.enums import HttpMethod, ParamType
from litestar.handlers import HTTPRouteHandler
from litestar.params import ParameterKwarg
from litestar.response import Stream
from litestar.types import ASGIApp

from holdfast.kernel.errors import Invalid, Problem, TooLarge, Unavailable, Unsupported
from holdfast.kernel.http.bodies import Body
from holdfast.kernel.http.standing import standing_of
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.structs import said

BODY_BYTES = 1024 * 1024
"""Largest body of a route that does not say otherwise."""

PARAMETERS_MAX = 100
RULES = "holdfast_rules"
PRINCIPAL = "holdfast.principal"
BODY = "holdfast.body"
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
STATUS = {"POST": 201}
CALLER_GONE = "caller-gone"
"""The code of a request whose caller hung up while its body was awaited: nobody is answered."""

Connection = ASGIConnection[Any, Any, Any, Any]


class Header(str):
    """Marks an argument taken from a header: ``Annotated[str | None, Header("If-Match")]``."""

    __slots__ = ()


KeyText = Annotated[str, Header("Idempotency-Key")]
"""What makes a repeated request the same request; see :mod:`holdfast.kernel.idempotency`."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a handler, other than the reserved ones.

    ``name`` is how it is called on the wire, ``place`` where it is: path, query or header.
    """

    keyword: str
    name: str
    place: str
    wanted: Any
    default: Any = inspect.Parameter.empty
    many: bool = False

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class RouteRules:
    """All there is to know of a route before it is called."""

    method: str
    path: str
    permission: Permission
    accepts: tuple[str, ...] | None
    body_limit: int
    status: int
    operation_id: str
    tag: str
    summary: str
    description: str
    in_schema: bool
    arguments: tuple[Argument, ...]
    reserved: frozenset[str]
    body: Body | None
    body_required: bool
    profile: str
    answer: Any
    media_type: str
    responses: Mapping[int, str] = field(default_factory=dict)
    open_query: bool = False
    within: bool = False


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
    media_type: str = "",
    responses: Mapping[int, str] | None = None,
    in_schema: bool = True,
    profile: str = "profile",
    open_query: bool = False,
    within: bool = False,
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Declare a route.

    Arguments of the handler, by name: ``principal`` is who asks, ``data`` the decoded JSON body,
    ``request`` the request itself; the rest are path parameters, headers (:class:`Header`) and
    query parameters, read leniently from their text into the annotated type.

    ``raw``: the handler reads the body itself (``request.stream()``), of any content type or, if
    ``accepts`` is given, of those. ``body_limit`` bounds the body in bytes while it arrives.
    ``media_type`` documents what an answer that is not JSON is; ``responses`` tells of further
    statuses. ``profile`` names the argument that says which profile the request is about, or a
    member of the body (``data.profile``): a caller limited to some profiles is held to it, and is
    refused where a route has no such argument, or it is empty; unless the service holds them to
    it (``within``): then what an id names is there for them only if it is of one of their profiles
    (:meth:`~holdfast.kernel.principal.Principal.sees`), and a list has nothing else.
    ``open_query``: parameters that the route does not know are passed over, where somebody else
    writes the address (RFC 6749 §4.1.2).
    """

    def decorate(function: Callable[..., Any]) -> HTTPRouteHandler:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        subject = tag or _tag_of(path)
        answer = hints.get("return", Any)
        empty = answer is type(None)
        data = hints.get("data")
        needed = data is not None and parameters["data"].default is inspect.Parameter.empty
        rules = RouteRules(
            method=method,
            path=path,
            permission=permission,
            accepts=_accepted(raw, accepts),
            body_limit=body_limit,
            status=status or (204 if empty else STATUS.get(method, 200)),
            operation_id=operation_id or _operation_id(subject, function.__name__),
            tag=subject,
            summary=summary or _first_line(function),
            description=inspect.getdoc(function) or "",
            in_schema=in_schema,
            arguments=tuple(
                _argument(each, hints[name], path)
                for name, each in parameters.items()
                if name not in RESERVED
            ),
            reserved=frozenset(RESERVED & parameters.keys()),
            body=None if data is None else Body(data),
            body_required=needed,
            profile=profile,
            answer=answer,
            media_type=media_type,
            responses=dict(responses or {}),
            open_query=open_query,
            within=within,
        )
        return HTTPRouteHandler(
            path,
            http_method=HttpMethod(method),
            opt={RULES: rules},
            status_code=200,
            include_in_schema=False,
            request_max_body_size=body_limit,
        )(_endpoint(function, rules))

    return decorate


RESERVED = frozenset({"principal", "data", "request"})


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
    """Declare a DELETE route; see :func:`route`. Answers 204 when it returns nothing."""
    return route("DELETE", path, permission=permission, **options)


def rules_of(app: Litestar) -> list[RouteRules]:
    """The rules of every route, in order of path and method."""
    found = [
        handler.opt[RULES]
        for each in app.routes
        for handler in getattr(each, "route_handlers", ())
        if RULES in handler.opt
    ]
    return sorted(found, key=lambda rules: (rules.path, rules.method))


def routes_of(app: Litestar) -> list[RouteInfo]:
    """Every route of the application and the permission it needs, in order of path and method."""
    return [
        RouteInfo(rules.method, rules.path, rules.permission, rules.operation_id)
        for rules in rules_of(app)
    ]


# --- one call -----------------------------------------------------------------------------------


class ApiRequest(Request[Any, Any, State]):
    """A request whose body is bounded while it arrives."""

    async def stream(self) -> Any:
        """The body in pieces; :class:`TooLarge` as soon as it passes the route's limit,
        :class:`Unauthenticated` when what the request came with has ended meanwhile."""
        standing = standing_of(self.scope)
        limit = self.route_handler.resolve_request_max_body_size() or BODY_BYTES
        declared = header(self, b"content-length")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large(limit)
        size = 0
        while True:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise Unavailable("cannot go on: the caller went away", code=CALLER_GONE)
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            if piece:
                if standing is not None:
                    await standing.check()
                yield piece
            if not message.get("more_body"):
                return

    async def body(self) -> bytes:
        """The whole body; read once, kept."""
        scope: Any = self.scope
        if BODY not in scope:
            scope[BODY] = b"".join([piece async for piece in self.stream()])
        kept: bytes = scope[BODY]
        return kept

    @property
    def principal(self) -> Principal:
        """Who asks; not on routes that need nobody."""
        scope: Any = self.scope
        found: Principal = scope[PRINCIPAL]
        return found


def _endpoint(function: Callable[..., Any], rules: RouteRules) -> Callable[..., Any]:
    read = _reader(rules)
    body, reserved = rules.body, rules.reserved
    answer = _answerer(rules)
    of_none = not rules.within and not _names_a_profile(rules)
    reads = rules.method not in WRITES or rules.permission.value.endswith(":read")

    async def endpoint(request: ApiRequest) -> ASGIApp:
        _check_content_type(request, rules)
        app: Any = request.app
        await app.admit(request, rules.permission)
        if of_none:
            app.confine(request, rules.permission, None)
        call = read(request)
        if "principal" in reserved:
            call["principal"] = request.scope.get(PRINCIPAL)
        if "request" in reserved:
            call["request"] = request
        if body is not None:
            data = await request.body()
            if data or rules.body_required:
                call["data"] = body.read(data)
        profile = _profile_of(rules.profile, call)
        if profile or not (of_none or rules.within):
            app.confine(request, rules.permission, profile)
        value = await function(**call)
        found: ASGIApp = answer(value, request)
        standing = standing_of(request.scope)
        if standing is None:
            return found
        if reads:
            await standing.check()  # what took long to find is for whoever may still read it
        return standing.guarded(found) if callable(value) or isinstance(value, Stream) else found

    endpoint.__name__ = function.__name__
    endpoint.__qualname__ = function.__qualname__
    endpoint.__module__ = function.__module__
    # Litestar resolves annotations by name in the handler's module, which is not this one.
    endpoint.__annotations__ = {"request": ApiRequest, "return": ASGIApp}
    return endpoint


def _names_a_profile(rules: RouteRules) -> bool:
    """Whether a call can say which profile it is about; if not, nobody who is limited to some needs
    to be told what is wrong with the rest of it."""
    where, _, member = rules.profile.partition(".")
    return bool(member) or any(each.keyword == where for each in rules.arguments)


def _profile_of(name: str, call: Mapping[str, Any]) -> str | None:
    """Which profile the call is about; ``None`` if about none, or about more than one."""
    where, _, member = name.partition(".")
    found = call.get(where)
    if member:
        found = getattr(found, member, None)
    return found if isinstance(found, str) else None


def header(connection: Connection, name: bytes) -> str:
    """The first value of a header, without making a mapping of all of them."""
    for found, value in connection.scope["headers"]:
        if found == name:
            return value.decode("latin-1")
    return ""


def _check_content_type(request: ApiRequest, rules: RouteRules) -> None:
    """A web page can send form and text types anywhere; JSON it cannot without being asked."""
    if rules.method not in WRITES or rules.accepts is None:
        return
    given = header(request, b"content-type")
    if not given and rules.method == "DELETE" and rules.body is None:
        return
    if given.partition(";")[0].strip().lower() not in rules.accepts:
        raise Unsupported(
            f"cannot accept the content type {given[:100]!r}",
            code="content-type-unsupported",
            hint=f"send Content-Type: {' or '.join(rules.accepts)}",
        )


def _reader(rules: RouteRules) -> Callable[[ApiRequest], dict[str, Any]]:
    """How the arguments are taken from a request."""
    queried = {each.name: each for each in rules.arguments if each.place == "query"}
    from_path = [each for each in rules.arguments if each.place == "path"]
    from_header = [each for each in rules.arguments if each.place == "header"]

    def read(request: ApiRequest) -> dict[str, Any]:
        scope: Any = request.scope
        found: dict[str, Any] = {}
        problems: list[Problem] = []
        for each in from_path:
            _take(each, [str(scope["path_params"][each.name])], found, problems)
        for each in from_header:
            _take(each, request.headers.getall(each.name, []), found, problems)
        given = _query(scope.get("query_string", b""), problems)
        for name in () if rules.open_query else given.keys() - queried.keys():
            known = ", ".join(sorted(queried)) or "none"
            problems.append(
                Problem(f"query {name[:100]}", "is not a parameter here", f"known: {known}")
            )
        for name, each in queried.items():
            _take(each, given.get(name, []), found, problems)
        if problems:
            shown = "; ".join(map(str, problems[:3])) + ("; …" if len(problems) > 3 else "")
            raise Invalid(
                f"cannot accept the request: {shown}", code="request-invalid", problems=problems
            )
        return found

    return read


def _query(text: bytes, problems: list[Problem]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    if not text:
        return given
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except ValueError as error:
        problems.append(Problem("query", f"cannot be read: {error}"))
        return given
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    return given


def _take(each: Argument, texts: list[str], found: dict[str, Any], problems: list[Problem]) -> None:
    where = each.name if each.place == "path" else f"{each.place} {each.name}"
    if not texts:
        if each.required:
            problems.append(Problem(where, "is required"))
        else:
            found[each.keyword] = each.default
        return
    if len(texts) > 1 and not each.many:
        problems.append(Problem(where, "is given more than once"))
        return
    if any("\x00" in text for text in texts):
        problems.append(Problem(where, "holds a NUL character"))
        return
    try:
        value = texts if each.many else texts[0]
        found[each.keyword] = msgspec.convert(value, each.wanted, strict=False)
    except msgspec.ValidationError as error:
        problems.append(Problem(where, said(error, each.wanted).partition(" - at `")[0]))


def _answerer(rules: RouteRules) -> Callable[[Any, ApiRequest], Any]:
    """How what the handler returned becomes an ASGI answer."""
    encode = msgspec.json.Encoder().encode
    media_type = (rules.media_type or "application/json").encode("latin-1")

    def answer(value: Any, request: ApiRequest) -> Any:
        if isinstance(value, Response):
            if value.status_code is None:
                value.status_code = rules.status
            return value.to_asgi_response(app=None, request=request)
        if callable(value):
            return value  # an ASGI application: a stream
        content = b"" if value is None else value if isinstance(value, bytes) else encode(value)
        return plain_answer(rules.status, content, media_type)

    return answer


def plain_answer(status: int, content: bytes, media_type: bytes) -> Any:
    """An ASGI application that answers with these bytes."""
    headers = [(b"content-length", str(len(content)).encode())]
    if content:
        headers.append((b"content-type", media_type))

    async def send_it(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return send_it


# --- declaring ----------------------------------------------------------------------------------


def _accepted(raw: bool, accepts: Sequence[str]) -> tuple[str, ...] | None:
    if accepts:
        return tuple(accepts)
    return None if raw else ("application/json",)


def _argument(each: inspect.Parameter, hint: Any, path: str) -> Argument:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    header = next((str(mark) for mark in marks if isinstance(mark, Header)), "")
    query = each.name
    for mark in marks:
        if isinstance(mark, ParameterKwarg):
            # Litestar's own way of saying the same.
            if mark.param_type is ParamType.HEADER:
                header = mark.name or header
            else:
                query = mark.name or query
            hint = _constrained(get_args(hint)[0], _bounds(mark))
    if header:
        return Argument(each.name, header.lower(), "header", hint, each.default)
    if f"{{{each.name}:" in path or f"{{{each.name}}}" in path:
        return Argument(each.name, each.name, "path", hint)
    return Argument(each.name, query, "query", hint, each.default, _many(hint))


def _bounds(mark: ParameterKwarg) -> dict[str, Any]:
    names = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
    found = {name: getattr(mark, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _constrained(hint: Any, bounds: dict[str, Any]) -> Any:
    """``hint`` within ``bounds``; they apply to what it is when it is not ``None``."""
    if not bounds:
        return hint
    if get_origin(hint) in (types.UnionType, typing.Union):
        parts = [
            part if part is type(None) else Annotated[part, msgspec.Meta(**bounds)]
            for part in get_args(hint)
        ]
        return functools.reduce(operator.or_, parts)
    return Annotated[hint, msgspec.Meta(**bounds)]


def _many(hint: Any) -> bool:
    """Whether a parameter may be given several times: its type is a collection."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _many(get_args(hint)[0])
    if origin in (types.UnionType, typing.Union):
        return any(_many(part) for part in get_args(hint))
    return (origin or hint) in (list, tuple, set, frozenset)


def too_large(limit: int) -> TooLarge:
    """The refusal of a body beyond ``limit`` bytes."""
    return TooLarge(
        f"cannot accept the body: it is over this route's {limit} bytes", code="body-too-large"
    )


def _tag_of(path: str) -> str:
    parts = [part for part in path.split("/") if part and not part.startswith("{")]
    return (parts[1] if len(parts) > 1 and parts[0] == "v1" else parts[0]) if parts else "root"


def _operation_id(tag: str, name: str) -> str:
    name = name.strip("_")
    subject = tag.replace("-", "_").replace(".", "_")
    return name if subject.removesuffix("s") in name else f"{subject}_{name}"


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
