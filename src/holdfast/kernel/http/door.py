"""What stands before routing: who this process answers for, and what every exchange carries.

Pure ASGI, in one pass over the headers. Every request gets an id, every answer the security
headers, every exchange one log line and its metrics. A request for a Host that is not ours, from a
foreign web page, or with forwarding headers in local mode is refused before anything looks at it.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import (
    Denied,
    Exhausted,
    HoldfastError,
    Internal,
    Invalid,
    Misdirected,
    NotFound,
    Unauthenticated,
    Unsupported,
)
from holdfast.kernel.http import problems
from holdfast.kernel.http.rates import RATE_EXCEEDED, RequestRates
from holdfast.kernel.ids import NewId
from holdfast.kernel.telemetry import (
    LATENCY_BUCKETS,
    Metrics,
    get_logger,
    request_context,
    sane_request_id,
    sane_traceparent,
    scrubbed,
    write_line,
)

Network = IPv4Network | IPv6Network
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Any, Any, Any], Awaitable[None]]

log = get_logger("http")

PROBES = frozenset({"/health", "/ready"})
"""Answered whatever the Host: orchestrators send the pod's address."""

KNOWN_HOSTS_MAX = 100
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
METHOD_UNKNOWN = "method-unknown"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

STOPPING = "holdfast_stopping"
"""Key of ``scope["state"]``: an event that is set when the server begins to drain."""

CLIENT = "holdfast.client"
"""Key of the scope: the address we answer, past the trusted proxies."""

SUBJECT = "holdfast.subject"
"""Key of the scope: the subject of the principal, for the log."""

TENANT = "holdfast.tenant"
"""Key of the scope: the tenant of the principal."""

CODE = "holdfast.code"
"""Key of the scope: why the request was refused."""

Noted = Callable[[Scope, int], None]
"""Told of every exchange, with its scope and status, when it is over; must not raise or wait."""

FOREIGN = "holdfast.foreign"
"""Key of the scope, there when a page of another site asks: no cookie counts then."""

HELD_SECONDS = 0.25
"""How long whoever asks too often waits to be told so. One that waits for answers, as nearly all
do, then asks four times a second on each connection rather than as often as we can refuse."""

HELD_MAX = 256
"""Refusals that wait at once. More are told at once: waiting must not cost what asking does."""

ANY_ORIGIN = "*"
PREFLIGHT_SECONDS = 600
PREFLIGHT_HEADERS = (
    b"authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, range, "
    b"traceparent, x-request-id, x-tenant-id"
)
EXPOSED_HEADERS = (
    b"allow, content-disposition, content-range, etag, holdfast-personal, holdfast-publication, "
    b"last-modified, location, retry-after, x-request-id"
)
"""What pages of other sites may send and read. Credentials of the browser are never among it."""

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""On every answer, unless the route set its own."""

_RATE_EXCEEDED = RATE_EXCEEDED.encode()
_ALWAYS_NAMES = frozenset(name for name, _ in SECURITY_HEADERS)
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TRICKS = re.compile(r"//|/\.{1,2}(?:/|$)|./$")
_ENCODED = re.compile(rb"%(?:2[ef]|5c)", re.IGNORECASE)
_FORWARDED = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port "
    b"x-forwarded-server x-forwarded-prefix x-real-ip".split()
)
_WANTED = frozenset(
    b"host origin sec-fetch-site sec-fetch-mode x-request-id traceparent content-encoding".split()
)


@dataclass(frozen=True, slots=True)
class DoorRules:
    """What the door admits. ``hosts`` are names or addresses; one without a port fits any port.
    ``origins`` are other sites whose pages may ask, without cookies; ``*`` among them is any."""

    role: str
    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    local: bool = True
    https: bool = False
    trusted_proxies: tuple[Network, ...] = ()


def rules(
    role: str,
    hosts: Iterable[str],
    origins: Iterable[str],
    local: bool,
    https: bool,
    trusted_proxies: Iterable[str] = (),
) -> DoorRules:
    """The rules with their names in the form they are compared in.

    Raises ``ValueError`` for a trusted proxy that is no network.
    """
    return DoorRules(
        role=role,
        hosts=frozenset(host.lower().rstrip(".") for host in hosts),
        origins=frozenset(origin.lower().rstrip("/") for origin in origins),
        local=local,
        https=https,
        trusted_proxies=tuple(map(ip_network, trusted_proxies)),
    )


def client_address(peer: str, forwarded_for: Iterable[str], trusted: tuple[Network, ...]) -> str:
    """Whom we answer: the rightmost hop of ``X-Forwarded-For`` that is not a trusted proxy.

    Only what a trusted proxy wrote is believed; without one it is the peer itself.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    found = peer
    while hops and is_among(found, trusted):
        hop = hops.pop()
        match = _HOST.fullmatch(hop)
        bare = hop if match is None else match["name"].strip("[]")
        try:
            found = str(ip_address(bare))
        except ValueError:
            return found
    return found


def is_among(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether ``address`` lies in one of ``networks``."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


class Door:
    """Wraps an ASGI application."""

    def __init__(
        self,
        app: ASGI,
        admitted: DoorRules,
        *,
        clock: Clock,
        new_id: NewId,
        metrics: Metrics,
        rates: RequestRates | None = None,
        noted: Noted | None = None,
    ) -> None:
        self._app = app
        self._noted = noted
        self._rates = rates
        self._rules = admitted
        self._clock = clock
        self._new_id = new_id
        self._always = SECURITY_HEADERS
        if admitted.https:
            self._always += ((b"strict-transport-security", b"max-age=31536000"),)
        self._known_hosts: set[str] = set()
        self._held = 0
        self._meter = _Meter(admitted, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": "not offered"})
                return
            await self._app(scope, receive, send)
            return
        wanted, doubled, forwarded = _read(scope["headers"])
        identifier = wanted.get(b"x-request-id", "")
        if not sane_request_id(identifier):
            identifier = self._new_id()
        trace = wanted.get(b"traceparent", "")
        with request_context(identifier, trace if sane_traceparent(trace) else ""):
            exchange = _Exchange(
                send,
                identifier,
                self._always + self._granted(wanted),
                scope["method"] == "HEAD",
                self._hold,
            )
            started = self._clock.monotonic()
            scope[CLIENT] = self._client(scope, forwarded)
            if scope["method"] == "HEAD":
                # Routes declare GET; HEAD is GET without the body (RFC 9110 §9.3.2). The server
                # keeps its own scope, by which it knows that no body may follow.
                scope = {**scope, "method": "GET", "holdfast.head": True}
            try:
                refusal = self._refusal(scope, wanted, doubled, forwarded)
                if refusal is not None:
                    await answer(scope, exchange.send, refusal, identifier)
                elif _is_preflight(scope):
                    await _answer_preflight(exchange.send)
                else:
                    await self._admit(scope, receive, exchange)
            finally:
                self._meter.note(scope, exchange, self._clock.monotonic() - started)
                if self._noted is not None:
                    self._noted(scope, exchange.status)

    def _client(self, scope: Scope, forwarded: bytes) -> str:
        peer = scope.get("client")
        address = str(peer[0]) if peer else ""
        if forwarded and self._rules.trusted_proxies:
            values = [v.decode("latin-1") for k, v in scope["headers"] if k == b"x-forwarded-for"]
            return client_address(address, values, self._rules.trusted_proxies)
        return address

    async def _hold(self) -> None:
        """Let a refusal wait, while few do."""
        if self._held >= HELD_MAX:
            return
        self._held += 1
        try:
            await self._clock.sleep(HELD_SECONDS)
        finally:
            self._held -= 1

    async def _admit(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except Exception as error:
            ended = error if isinstance(error, Unauthenticated) else error.__cause__
            if exchange.status and isinstance(ended, Unauthenticated):
                log.info("answer cut off", path=scope["path"], code=ended.code)
                raise ended from None  # cut as well, and no failure of ours
            if exchange.status:
                # Half an answer is on the wire: the server must cut the connection, so that the
                # caller sees a truncated answer rather than a short one.
                log.exception("answer cut off", path=scope["path"])
                raise
            log.exception("request failed outside the routes", path=scope["path"])
            await answer(scope, exchange.send, Internal(repr(error)), exchange.identifier)

    def _refusal(
        self, scope: Scope, wanted: dict[bytes, str], doubled: bytes, forwarded: bytes
    ) -> HoldfastError | None:
        if doubled:
            return Invalid(
                f"cannot read the request: {doubled.decode()} is given twice",
                code="header-repeated",
            )
        if scope["method"] not in METHODS:
            return Unsupported(
                f"cannot do {scope['method'][:16]!r}: no such method here", code=METHOD_UNKNOWN
            )
        if not _is_text(scope):
            return Invalid("cannot read the request: its path is no text", code="path-invalid")
        if not _is_spelled(scope):
            return NotFound(f"cannot find {scope['path']}: no such route", code="route-not-found")
        if scope["path"] not in PROBES:
            host = wanted.get(b"host", "")
            if not self._answers_for(host):
                return Misdirected(
                    f"cannot answer for the host {host[:255]!r}: it is not listed",
                    code="host-not-listed",
                    hint="HOLDFAST_GATEWAY_HOSTS lists the names this system is reached by",
                )
        if self._rates is not None and scope["path"] not in PROBES:
            try:
                self._rates.take_address(scope[CLIENT])
            except Exhausted as error:
                return error
        if forwarded and self._rules.local:
            return Invalid(
                f"cannot accept {forwarded.decode()}: there is no proxy in front in local mode",
                code="forwarded-refused",
                hint="HOLDFAST_GATEWAY_TERMINATOR names what stands in front, and "
                "HOLDFAST_GATEWAY_TRUSTED_PROXIES whose X-Forwarded-For is believed",
            )
        if wanted.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
            # Nothing that arrives is unpacked, so nothing that arrives can expand.
            return Unsupported(
                "cannot accept the body: it is encoded, and only plain bodies are read",
                code="content-encoding-unsupported",
                hint="send it without Content-Encoding",
            )
        return self._foreign_page(scope, wanted)

    def _answers_for(self, host: str) -> bool:
        if host in self._known_hosts:
            return True
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().rstrip(".")
        listed = self._rules.hosts
        if name not in listed and f"{name}:{match['port']}" not in listed:
            return False
        if len(self._known_hosts) < KNOWN_HOSTS_MAX:
            self._known_hosts.add(host)
        return True

    def _foreign_page(self, scope: Scope, wanted: dict[bytes, str]) -> HoldfastError | None:
        origin = wanted.get(b"origin")
        if origin is not None and not _own_origin(origin, wanted.get(b"host", "")):
            if not self._admits_origin(origin):
                return Denied(
                    f"cannot serve a page of the origin {origin[:255]!r}",
                    code="origin-foreign",
                    hint="HOLDFAST_GATEWAY_ORIGINS lists the sites whose pages may ask",
                )
            scope[FOREIGN] = True
        site = wanted.get(b"sec-fetch-site", "none")
        if site in ("cross-site", "same-site") and origin is None:
            navigation = wanted.get(b"sec-fetch-mode") == "navigate"
            if not (navigation and scope["method"] in SAFE_METHODS):
                return Denied("cannot serve a page of another site", code="origin-foreign")
        return None

    def _admits_origin(self, origin: str) -> bool:
        listed = self._rules.origins
        return bool(listed) and (ANY_ORIGIN in listed or origin.lower() in listed)

    def _granted(self, wanted: dict[bytes, str]) -> tuple[tuple[bytes, bytes], ...]:
        """What a browser needs to see before a page of an admitted site may read the answer."""
        origin = wanted.get(b"origin")
        if origin is None or not self._admits_origin(origin):
            return ((b"vary", b"Origin"),) if self._rules.origins else ()
        return (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
            (b"vary", b"Origin"),
        )


def target_of(scope: Scope) -> str:
    """Path and query exactly as they were sent: what a signature over a request speaks of."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = bytes(raw).split(b"?", 1)[0].decode("ascii", errors="replace")
    query = scope.get("query_string", b"").decode("ascii", errors="replace")
    return f"{path}?{query}" if query else path


def _own_origin(origin: str, host: str) -> bool:
    scheme, separator, authority = origin.lower().partition("://")
    if not separator or scheme not in ("http", "https"):
        return False
    default = ":443" if scheme == "https" else ":80"
    return authority.removesuffix(default) == host.lower().removesuffix(default)


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks on behalf of another site's page what that page may ask."""
    return (
        scope["method"] == "OPTIONS"
        and FOREIGN in scope
        and any(name == b"access-control-request-method" for name, _ in scope["headers"])
    )


async def _answer_preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", PREFLIGHT_HEADERS),
        (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Exchange:
    """One answer on its way out: completed with the headers that all answers carry."""

    __slots__ = ("_always", "_head", "_hold", "_send", "identifier", "sent_bytes", "status")

    def __init__(
        self,
        send: Send,
        identifier: str,
        always: tuple[tuple[bytes, bytes], ...],
        head: bool,
        hold: Callable[[], Awaitable[None]],
    ) -> None:
        self._send = send
        self._always = always
        self._head = head
        self._hold = hold
        self.identifier = identifier
        self.status = 0
        self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = message.get("headers", ())
            if self.status == 429 and any(value == _RATE_EXCEEDED for _, value in own):
                await self._hold()
            present = {name for name, _ in own}
            always: Iterable[tuple[bytes, bytes]] = self._always
            if not _ALWAYS_NAMES.isdisjoint(present):
                always = [pair for pair in always if pair[0] not in present]
            identifier = (b"x-request-id", self.identifier.encode("ascii"))
            message["headers"] = [*own, *always, identifier]
        else:
            body = message.get("body", b"")
            self.sent_bytes += len(body)
            if self._head and body:
                message["body"] = b""
        await self._send(message)


class _Series:
    """What is counted of one (method, route, status)."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)


class _Meter:
    """The log line and the metrics of each exchange. Labels come from routes, never from paths.

    Without TLS and with nothing in front, whoever calls is on this machine: a person's terminal is
    then not worth a line per request, and lines are at debug.

    Counted here, on the one thread of the loop, and handed over when metrics are rendered: the
    library's counters, with a lock each, cost as much as the rest of the door.
    """

    def __init__(self, admitted: DoorRules, metrics: Metrics) -> None:
        self._role = admitted.role
        self._unheard = admitted.local and not admitted.https
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._refusals: dict[str, int] = {}
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        requests = CounterMetricFamily(
            "holdfast_http_requests",
            "Requests answered.",
            labels=("role", "method", "route", "status"),
        )
        durations = HistogramMetricFamily(
            "holdfast_http_request_duration_seconds",
            "Time from the end of the headers to the end of the answer.",
            labels=("role", "method", "route"),
        )
        together: dict[tuple[str, str], _Series] = {}
        for (method, route, status), series in list(self._series.items()):
            requests.add_metric((self._role, method, route, str(status)), series.count)
            total = together.setdefault((method, route), _Series())
            total.seconds += series.seconds
            total.buckets = [a + b for a, b in zip(total.buckets, series.buckets, strict=True)]
        bounds = [*(str(float(bound)) for bound in LATENCY_BUCKETS), "+Inf"]
        for (method, route), total in together.items():
            upto = list(zip(bounds, itertools.accumulate(total.buckets), strict=True))
            durations.add_metric((self._role, method, route), upto, total.seconds)
        refusals = CounterMetricFamily(
            "holdfast_http_refusals",
            "Requests refused, by the code of the reason; at the gateway also those that the roles "
            "behind it refused.",
            labels=("role", "code"),
        )
        for code, count in list(self._refusals.items()):
            refusals.add_metric((self._role, code), count)
        yield requests
        yield durations
        yield refusals

    def note(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        method = "HEAD" if scope.get("holdfast.head") else scope["method"]
        method = method if method in METHODS else "other"
        route = scope.get("path_template") or "other"
        status = exchange.status
        series = self._series.get((method, route, status))
        if series is None:
            series = self._series[method, route, status] = _Series()
        series.count += 1
        series.seconds += seconds
        series.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        if (code := scope.get(CODE)) is not None:
            self._refusals[code] = self._refusals.get(code, 0) + 1
        path = scope["path"]
        quiet = self._unheard or path in PROBES or route == "/metrics"
        write_line(
            "debug" if quiet else "info",
            "request",
            "http",
            {
                "method": method,
                "path": scrubbed(path[:512]),
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "bytes_out": exchange.sent_bytes,
                "client": scope.get(CLIENT, ""),
                "principal": scope.get(SUBJECT, ""),
            },
        )


def _read(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, str], bytes, bytes]:
    """The headers of interest; the name of one given twice; the name of a forwarding one."""
    wanted: dict[bytes, str] = {}
    doubled = forwarded = b""
    for name, value in headers:
        if name in _WANTED:
            if name in wanted:
                doubled = name
            wanted[name] = value.decode("latin-1")
        elif name in _FORWARDED:
            forwarded = name
    return wanted, doubled, forwarded


def _is_text(scope: Scope) -> bool:
    """Whether the path is Unicode without control characters, as it was sent."""
    if not scope["path"].isprintable() and _CONTROL.search(scope["path"]):
        return False
    raw = bytes(scope.get("raw_path") or b"")
    if b"%" not in raw:
        return True
    try:
        unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_spelled(scope: Scope) -> bool:
    """Whether the path is spelled the one way there is.

    The router passes over empty parts and a slash at the end, and sees an encoded slash as one;
    whoever stands in front may not, and guards another path than is served. No name of ours has a
    slash in it.
    """
    if _TRICKS.search(scope["path"]):
        return False
    raw = bytes(scope.get("raw_path") or b"")
    return b"%" not in raw or _ENCODED.search(raw.partition(b"?")[0]) is None


async def answer(scope: Scope, send: Send, error: HoldfastError, identifier: str) -> None:
    """Send ``error`` as a problem document."""
    scope[CODE] = error.code
    found = problems.document(error, instance=scope["path"], request_id=identifier)
    body = problems.encode(found)
    headers = problems.headers_of(error)
    if error.code == METHOD_UNKNOWN:
        headers.append((b"allow", ", ".join(sorted(METHODS)).encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
