"""Serving an ASGI application on a socket: one process, one loop, bounded in everything.

What a single connection may do is in ``connection.py``; here are the socket, TLS, the application's
lifespan, signals, and a stop that drains what is in flight within a bound and then closes.

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
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from uvicorn.config import Config
from uvicorn.server import ServerState

from holdfast.kernel.clock import Clock, SystemClock
from holdfast.kernel.connection import LINGER_SECONDS, GuardedProtocol, ServeLimits, refusal
from holdfast.kernel.errors import Internal, Invalid, Unavailable
from holdfast.kernel.files import check_handed
from holdfast.kernel.http.door import STOPPING
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.interrupts import loaded
from holdfast.kernel.telemetry import Metrics, get_logger
from holdfast.kernel.tls import FILES, RenewedContext

T = TypeVar("T")

log = get_logger("serving")

CONNECTIONS_MEANING = "Connections open now."


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

    def context(self) -> RenewedContext:
        """The TLS context; :class:`Invalid` when a file cannot be used, now or at a renewal."""
        context = RenewedContext(ssl.PROTOCOL_TLS_SERVER, self._made)
        context.plain_answer = refusal(
            Invalid(
                "cannot answer: this port speaks TLS; use https://",
                code="tls-required",
                hint="write https:// instead of http://",
            )
        )
        return context

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            check_handed(self.key, "the key")
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authorities is not None:
                context.load_verify_locations(self.client_authorities)
                context.verify_mode = (
                    ssl.CERT_REQUIRED if self.client_required else ssl.CERT_OPTIONAL
                )
        except (OSError, ssl.SSLError) as error:
            raise Invalid(
                f"cannot use the TLS files of {self.certificate}: {error}",
                code="tls-files",
                hint=FILES,
            ) from error
        return context


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
            hint="another program has this port; choose another with --port or the setting that "
            "names it; 0 takes a free one"
            if taken
            else "",
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
    loaded()
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
    closed and the application's lifespan has ended; a second signal cuts leaving and draining
    short.
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
                    await server.unless_hurried(leaving())
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
        self._hurried = asyncio.Event()
        self._moved = asyncio.Event()
        self._addresses: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
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
                self._config,
                self._state,
                shared,
                loop,
                self._limits,
                self._new_id,
                self._moved,
                self._addresses,
                self._refused,
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
        shaken = self._context.refusals if isinstance(self._context, RenewedContext) else Counter()
        metrics.registry.register(_Refusals(self._refused, shaken))
        self._accepted = metrics.counter(
            "vdb_connections_total", "Connections taken, those refused at the limit included."
        )

    def hurry(self) -> None:
        """Cut leaving and draining short."""
        self._hurried.set()
        self._moved.set()

    async def unless_hurried(self, step: Awaitable[None]) -> None:
        """``step``, cancelled when there is no time for it; over when this returns."""
        going = asyncio.ensure_future(step)
        hurried = asyncio.create_task(self._hurried.wait())
        try:
            await asyncio.wait({going, hurried}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
            if not going.done():
                going.cancel()
                await asyncio.wait({going})
        if not going.cancelled():
            going.result()

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
                while self._state.connections and not self._hurried.is_set():
                    self._moved.clear()
                    await self._moved.wait()
        if self._state.tasks and not self._hurried.is_set():
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


class _Refusals:
    """What never became a request, as metrics: too late, too large, not HTTP, or not let in."""

    def __init__(self, *refused: Counter[str]) -> None:
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        found = CounterMetricFamily(
            "holdfast_connection_refusals",
            "Connections and requests refused before they were read, by the code of the reason.",
            labels=("code",),
        )
        for code, count in [pair for each in self._refused for pair in list(each.items())]:
            found.add_metric((code,), count)
        yield found


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
