"""Serving an ASGI application on a socket: one process, one loop, bounded in everything.

uvicorn's httptools protocol does the parsing; :class:`GuardedProtocol` adds what production needs:
separate time limits for headers (408), bodies (408), idle connections and callers that do not read;
limits on the number and size of headers (431) and the length of the URL (414); a clear refusal at
the connection limit (503 with ``Retry-After``); requests that two parsers could read differently
are refused (400); the caller's certificate is in the scope. A stop drains what is in flight within
a bound and then closes.

If the process dies, nothing survives it: there are no worker processes. ADR 0002 has the proofs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import httptools
import uvloop
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from holdfast.kernel.clock import Clock, SystemClock
from holdfast.kernel.errors import HoldfastError, Internal, Invalid, TooLarge, Unavailable
from holdfast.kernel.http import problems
from holdfast.kernel.http.door import STOPPING
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.telemetry import Metrics, get_logger

T = TypeVar("T")

log = get_logger("serving")

LINGER_SECONDS = 2.0
CONNECTIONS_MEANING = "Connections open now."
LINGER_BYTES = 1024 * 1024
STATUS_LINES = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    413: b"HTTP/1.1 413 Content Too Large\r\n",
    414: b"HTTP/1.1 414 URI Too Long\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    500: b"HTTP/1.1 500 Internal Server Error\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\n",
}


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """The bounds of serving.

    ``header_seconds``: from the connection, or the first byte of a later request, to the end of the
    headers. ``body_seconds``: the longest silence inside a body, and the longest time a caller may
    leave an answer unread. ``body_bytes_per_second_min``: slower bodies are given up after
    ``body_seconds``. ``idle_seconds``: between two requests. ``stop_seconds``: to drain.
    """

    connections_max: int = 1000
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    body_bytes_per_second_min: int = 1024
    idle_seconds: float = 75.0
    stop_seconds: float = 20.0
    header_count_max: int = 100
    header_bytes_max: int = 32 * 1024
    url_bytes_max: int = 8 * 1024
    backlog: int = 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate chain and key (PEM), and whose client certificates are accepted.

    With ``client_authorities`` a caller may present a certificate; with ``client_required`` it
    must, or the handshake fails.
    """

    certificate: Path
    key: Path
    client_authorities: Path | None = None
    client_required: bool = False

    def context(self) -> ssl.SSLContext:
        """The TLS context; :class:`Invalid` when a file cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Read the files (again): new connections use them, open ones go on."""
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authorities is not None:
                context.load_verify_locations(self.client_authorities)
                context.verify_mode = (
                    ssl.CERT_REQUIRED if self.client_required else ssl.CERT_OPTIONAL
                )
        except (OSError, ssl.SSLError) as error:
            raise Invalid(
                f"cannot use the TLS files of {self.certificate}: {error}", code="tls-files"
            ) from error


_ANY_IPV4 = str(ipaddress.IPv4Address(0))


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a server listens."""

    host: str
    port: int
    url: str


def bind_socket(bind: str) -> socket.socket:
    """A socket bound to ``host:port`` (``[::1]:0``: any free port), not yet accepting.

    Raises :class:`Invalid` for an address that is none, :class:`Unavailable` when it is taken.
    """
    host, _, port = bind.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdecimal() or int(port) > 65535 or (":" in bare and host == bare):
        raise Invalid(
            f"cannot listen on {bind!r}: not host:port", hint="for example 127.0.0.1:8090"
        )
    try:
        found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise Invalid(f"cannot listen on {bind!r}: {error.strerror}") from error
    bound = socket.socket(found[0], found[1], found[2])
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if found[0] == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(found[4])
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        taken = error.errno == errno.EADDRINUSE
        raise Unavailable(
            f"cannot listen on {bind}: {error.strerror}",
            code="address-taken" if taken else "address-unusable",
            hint="another program has this port; choose another, or 0 for any" if taken else "",
        ) from error
    return bound


def bound_address(bound: socket.socket, *, tls: bool) -> Bound:
    """Where ``bound`` listens, with the URL callers on this machine can use."""
    host, port = bound.getsockname()[:2]
    reachable = {_ANY_IPV4: "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reachable}]" if ":" in reachable else reachable
    return Bound(host=host, port=port, url=f"{'https' if tls else 'http'}://{shown}:{port}")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(
    app: Any,
    *,
    bind: str | socket.socket,
    limits: ServeLimits | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    ready: Callable[[Bound], Awaitable[None] | None] | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
    clock: Clock | None = None,
    new_id: NewId | None = None,
    metrics: Metrics | None = None,
    leaving: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve ``app`` until ``stop`` is set or, with ``signals``, SIGTERM or SIGINT arrives.

    ``ready`` is called with the address once connections are accepted; ``leaving``, which must be
    bounded, when it is time to stop and everybody is still answered. Returns when everything is
    closed and the application's lifespan has ended; a second signal cuts the draining short.
    Raises what the application's start raised; the socket is closed in every case.
    """
    limits = limits or ServeLimits()
    clock = clock or SystemClock()
    stop = stop or asyncio.Event()
    context = tls.context() if isinstance(tls, Tls) else tls
    listening = bind_socket(bind) if isinstance(bind, str) else bind
    server = _Server(app, limits, context, clock, new_id or id_source(clock))
    if metrics is not None:
        server.show(metrics)
    with contextlib.closing(listening):
        async with _lifespan(app) as state, server.listening(listening, state):
            with _signals(stop, server) if signals else contextlib.nullcontext():
                if ready is not None:
                    told = ready(bound_address(listening, tls=context is not None))
                    if told is not None:
                        await told
                await stop.wait()
                if leaving is not None:
                    await leaving()
                await server.drain()


class _Server:
    """The listener, its connections, and how they end."""

    def __init__(
        self,
        app: Any,
        limits: ServeLimits,
        context: ssl.SSLContext | None,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._limits = limits
        self._context = context
        self._clock = clock
        self._new_id = new_id
        self._state = ServerState()
        self._config = Config(
            app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=cast(int, limits.idle_seconds),
        )
        # uvicorn would import, wrap and probe the application; ours is ready as it is.
        self._config.loaded_app = app
        self._config.ws_protocol_class = None
        self._config.loaded = True
        self._stopping = asyncio.Event()
        self._hurry = False
        self._moved = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._accepted: Any = None

    @asynccontextmanager
    async def listening(self, bound: socket.socket, state: dict[str, Any]) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        shared = {**state, STOPPING: self._stopping}

        def protocol() -> GuardedProtocol:
            if self._accepted is not None:
                self._accepted.inc()
            return GuardedProtocol(
                self._config, self._state, shared, loop, self._limits, self._new_id, self._moved
            )

        secured: dict[str, Any] = {}
        if self._context is not None:
            secured = {
                "ssl": self._context,
                "ssl_handshake_timeout": self._limits.header_seconds,
                "ssl_shutdown_timeout": LINGER_SECONDS,
            }
        dating = asyncio.create_task(self._keep_date())
        try:
            self._listener = await loop.create_server(
                protocol, sock=bound, backlog=self._limits.backlog, **secured
            )
            yield
        finally:
            dating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dating
            if self._listener is not None:
                self._listener.close()
            await self._cut()

    async def _keep_date(self) -> None:
        while True:
            date = formatdate(self._clock.now().timestamp(), usegmt=True)
            self._state.default_headers = [(b"date", date.encode())]
            await asyncio.sleep(1)

    def show(self, metrics: Metrics) -> None:
        """Tell the connections as metrics, by the names of guide 3."""
        metrics.gauge("vdb_connections_active", CONNECTIONS_MEANING).set_function(
            lambda: len(self._state.connections)
        )
        self._accepted = metrics.counter(
            "vdb_connections_total", "Connections taken, those refused at the limit included."
        )

    def hurry(self) -> None:
        """Cut the draining short."""
        self._hurry = True
        self._moved.set()

    async def drain(self) -> None:
        """Accept no more, let what is in flight finish, up to ``stop_seconds``."""
        assert self._listener is not None, "called inside listening()"
        self._listener.close()
        self._stopping.set()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.connections:
            log.info("draining", connections=len(self._state.connections))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop_seconds):
                while self._state.connections and not self._hurry:
                    self._moved.clear()
                    await self._moved.wait()
        if self._state.tasks and not self._hurry:
            # What callers who went away had asked for: long polls that have yet to notice.
            await asyncio.wait(list(self._state.tasks), timeout=1)

    async def _cut(self) -> None:
        """End what is left: cancel the requests, then close their connections."""
        tasks = list(self._state.tasks)
        if tasks:
            log.warning("requests cut off by the stop", requests=len(tasks))
        for task in tasks:
            task.cancel("the server stops")
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()


@contextlib.contextmanager
def _signals(stop: asyncio.Event, server: _Server) -> Any:
    """SIGTERM and SIGINT set ``stop``; a second one ends the draining."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Run the application's ASGI lifespan around the body; raise what its start or end raised."""
    state: dict[str, Any] = {}
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    task = asyncio.create_task(app(scope, inbox.get, answers.put))

    async def ended() -> None:
        """Raise what ended the application, if it let it through; alone, not as a group of one."""
        try:
            await task
        except BaseExceptionGroup as group:
            found: BaseException = group
            while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
                found = found.exceptions[0]
            raise found from None

    async def phase(name: str) -> None:
        await inbox.put({"type": f"lifespan.{name}"})
        answer = asyncio.create_task(answers.get())
        await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await ended()
            raise Internal(f"cannot go on: the application's {name} ended without an answer")
        if answer.result()["type"] != f"lifespan.{name}.complete":
            await ended()
            raise Internal(
                f"cannot go on: the application's {name} failed",
                internal=str(answer.result().get("message", "")),
            )

    try:
        await phase("startup")
        yield state
        await phase("shutdown")
        await ended()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):
                await task


# --- one connection -----------------------------------------------------------------------------


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    lingers = False

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._give_up(Unavailable("cannot finish: the server stops", retry_after_seconds=1))
            raise
        except Exception:
            if not self.disconnected:
                log.exception("request failed", path=self.scope["path"])
            self._give_up(Internal("cannot answer"))
        else:
            if not self.response_complete and not self.disconnected:
                log.error("the application did not finish its answer", path=self.scope["path"])
                self._give_up(Internal("cannot answer"))
        finally:
            self.on_response = lambda: None

    def _give_up(self, error: HoldfastError) -> None:
        """A problem if nothing was sent; else cut the answer, so that it is seen to be short."""
        if self.disconnected or self.transport.is_closing():
            return
        if self.response_started:
            self.transport.abort()
        else:
            self.transport.write(refusal(error))
            self.transport.close()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and self.more_body:
            # Answered before the body was read. To close at once would reset the connection and
            # may take the answer with it: say that it closes, and read on for a moment.
            self.lingers = True
            message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
        await super().send(message)
        if self.lingers and not self.response_complete:
            self.keep_alive = True


CLOSE = (b"connection", b"close")


class _Refused(Exception):
    """Raised inside a parser callback: the request is refused."""

    def __init__(self, error: HoldfastError) -> None:
        super().__init__(error.detail)
        self.error = error


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with bounds on everything a caller controls."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        limits: ServeLimits,
        new_id: NewId,
        moved: asyncio.Event,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        # uvicorn's parser is told to read on after `Connection: close`; a fresh one is strict.
        self.parser = httptools.HttpRequestParser(self)
        self.limits = limits
        self._new_id = new_id
        self._moved = moved
        self._timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._served = False
        self._closing = False
        self._lingered: int | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_began = 0.0
        self._body_last = 0.0
        self._extensions: dict[str, Any] = {}

    # --- the connection

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self.limits.connections_max:
            self.transport = transport
            self._refuse(
                Unavailable(
                    f"cannot serve: all {self.limits.connections_max} connections are in use",
                    code="connections-exhausted",
                    retry_after_seconds=1,
                )
            )
            return
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._extensions = {
                "tls": {
                    "peer_certificate_der": tls.getpeercert(binary_form=True),
                    "version": tls.version(),
                    "cipher": tls.cipher()[0],
                }
            }
        self._timer = self.loop.call_later(self.limits.header_seconds, self._headers_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._body_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._body_timer = self._write_timer = None
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._moved.set()

    def data_received(self, data: bytes) -> None:
        if self._lingered is not None:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.abort()
            return
        if self._closing or self.parser is None:
            return
        self._unset_keepalive_if_required()
        if self._timer is None and not self._busy():
            self._timer = self.loop.call_later(self.limits.header_seconds, self._headers_late)
            self._in_headers = True
        if self._in_headers:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Not offered. The request itself is served; what follows it is not HTTP/1.1.
            self._closing = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._unreadable(
                refused.error
                if isinstance(refused, _Refused)
                else Invalid("cannot read the request: it is not HTTP/1.1", code="http-invalid")
            )
            return
        most = self.limits.header_bytes_max + self.limits.url_bytes_max
        if self._in_headers and self._head_bytes > most:
            self._unreadable(_headers_too_large(f"{self.limits.header_bytes_max} bytes"))

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _unreadable(self, error: HoldfastError) -> None:
        """Refuse what arrives; an answer still being written comes to its end first."""
        self._closing = True
        if self._busy() and not self._in_body():
            self.cycle.keep_alive = False
            for cycle, _ in self.pipeline:
                cycle.disconnected = True
            self.pipeline.clear()
            return
        self._abandon(error)

    def _in_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body and not self.pipeline

    def _abandon(self, error: HoldfastError) -> None:
        """Refuse the request that is arriving and end the connection."""
        self._closing = True
        cycle = self.cycle
        started = False
        if cycle is not None and not cycle.response_complete:
            started = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if started:
            self.transport.abort()
        else:
            self._refuse(error)

    def _refuse(self, error: HoldfastError) -> None:
        if self.transport.is_closing():
            return
        identifier = self._new_id()
        log.info("refused", code=error.code, client=self.client, request_id=identifier)
        self.transport.write(refusal(error, identifier))
        self._linger()

    def _linger(self) -> None:
        """Close our side, read on for a moment so that the answer is not lost to a reset."""
        self._lingered = 0
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        if self.flow is not None:
            self.flow.resume_reading()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
        elif not self._in_body():
            self.transport.close()

    # --- time

    def _headers_late(self) -> None:
        self._timer = None
        if self._busy() or self.transport.is_closing():
            return
        if self._head_bytes == 0:
            self.transport.close()  # never said a word
            return
        self._abandon(
            Unavailable(
                f"cannot wait longer: no complete headers in {self.limits.header_seconds:g} s",
                code="request-timeout",
            )
        )

    def _body_late(self) -> None:
        self._body_timer = None
        cycle = self.cycle
        if cycle is None or not cycle.more_body or self.transport.is_closing():
            return
        now = self.loop.time()
        bound = self.limits.body_seconds
        if self.flow.read_paused or cycle.waiting_for_100_continue:
            # The application has not taken what is here: the silence is ours.
            self._body_last = now
        silent = now - self._body_last
        elapsed = now - self._body_began
        slow = elapsed >= bound and self._body_bytes < (
            elapsed * self.limits.body_bytes_per_second_min
        )
        if silent >= bound or (slow and not self.flow.read_paused):
            self._abandon(
                Unavailable(
                    f"cannot wait longer: the body stopped or is too slow ({bound:g} s)",
                    code="request-timeout",
                )
            )
            return
        self._body_timer = self.loop.call_later(max(bound - silent, 0.01), self._body_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._sized = 0
        if self._extensions:
            self.scope["extensions"] = self._extensions

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes_max:
            raise _Refused(
                TooLarge(
                    f"cannot read the request: its URL is over {self.limits.url_bytes_max} bytes",
                    code="url-too-long",
                )
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._sized += len(name) + len(value)
        if len(self.headers) > self.limits.header_count_max:
            raise _Refused(_headers_too_large(f"{self.limits.header_count_max} fields"))
        if self._sized > self.limits.header_bytes_max:
            raise _Refused(_headers_too_large(f"{self.limits.header_bytes_max} bytes"))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        has_body = _check_framing(self.headers, version)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._in_headers = False
        self._head_bytes = 0
        self._fill_scope(version)
        before = self.cycle
        self.cycle = _Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if self.app_state[STOPPING].is_set():
            self.cycle.keep_alive = False
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        self._body_bytes = 0
        self._body_began = self._body_last = self.loop.time()
        if has_body:
            self._body_timer = self.loop.call_later(self.limits.body_seconds, self._body_late)

    def _fill_scope(self, version: str) -> None:
        scope: Any = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        parsed = httptools.parse_url(self.url)
        if parsed.host is not None:
            _check_absolute(parsed, self.headers)
        raw_path = parsed.path or b"/"
        path = raw_path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = parsed.query or b""

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_last = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def on_response_complete(self) -> None:
        cycle = cast(_Cycle, self.cycle)
        if not self.pipeline and cycle.lingers:
            self.server_state.total_requests += 1
            self._linger()
            return
        super().on_response_complete()
        if self._closing and not self.pipeline:
            self.transport.close()

    def shutdown(self) -> None:
        """Close when nothing is in flight; else after the answer."""
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False
        super().shutdown()


def _check_framing(headers: list[tuple[bytes, bytes]], version: str) -> bool:
    """Refuse what two parsers could read as different requests (RFC 9112 §6.3, §11.2).

    Tells whether a body follows.
    """
    lengths = encodings = hosts = 0
    coding = b""
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
        elif name == b"transfer-encoding":
            encodings += 1
            coding = value
    if lengths + encodings > 1:
        raise _Refused(
            Invalid("cannot read the request: its length is given twice", code="framing-ambiguous")
        )
    if encodings and (version != "1.1" or coding.strip().lower() != b"chunked"):
        raise _Refused(
            Invalid(
                "cannot read the request: the transfer coding is not chunked",
                code="framing-ambiguous",
            )
        )
    if hosts > 1 or (version == "1.1" and not hosts):
        raise _Refused(Invalid("cannot read the request: one Host is needed", code="host-missing"))
    return bool(encodings or lengths)


def _check_absolute(parsed: Any, headers: list[tuple[bytes, bytes]]) -> None:
    """An absolute request target must name the same authority as Host (RFC 9112 §3.2.2)."""
    host = next((value for name, value in headers if name == b"host"), b"")
    bare, _, port = host.rpartition(b":") if not host.endswith(b"]") else (host, b"", b"")
    named = bare if bare and port.isdigit() else host
    if parsed.host.strip(b"[]").lower() != named.strip(b"[]").lower():
        raise _Refused(
            Invalid("cannot read the request: target and Host differ", code="host-differs")
        )


def _headers_too_large(bound: str) -> TooLarge:
    return TooLarge(
        f"cannot read the request: its headers are over {bound}", code="headers-too-large"
    )


def refusal(error: HoldfastError, identifier: str = "") -> bytes:
    """A whole answer, for a request that never reaches the application."""
    found = problems.document(error, instance="", request_id=identifier)
    body = problems.encode(found)
    headers = [*problems.headers_of(error), CLOSE]
    headers.append((b"content-length", str(len(body)).encode()))
    if identifier:
        headers.append((b"x-request-id", identifier.encode()))
    lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    return STATUS_LINES[found.status] + lines + b"\r\n" + body
