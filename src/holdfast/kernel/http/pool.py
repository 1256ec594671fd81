"""Connections from one role to another, kept for the next request.

A transport for ``httpx.AsyncClient``. The one that comes with it looks through all its connections
at each request, several times: at 64 callers the door spent thirteen of seventeen milliseconds on
that, and passed on 38 requests a second. Here an idle connection is taken off a stack, and answers
are parsed by the parser that the servers use.

It speaks HTTP/1.1, over TCP or TLS, with bounded waits: those of the request's ``timeout``. A
connection carries one request at a time and is kept only after an answer that was read to its end,
and for a few minutes at most. Once certificates were read anew, none that began before carries
another request: what is on it is done, and it closes.

A request that is bound to its connection is sealed once it has one (:data:`SEAL`): only then it is
known which certificate the other side saw.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast

import httptools
import httpx

from holdfast.kernel.tls import ClientTls

IDLE_SECONDS = 4.0
"""How long an idle connection is kept, where servers keep a silent one for longer: theirs is not to
end while we take it."""
IDLE_PART = 0.75
"""Of the time that they keep it for, where that is short."""
LIFE_SECONDS = 300.0
"""A busy connection is never idle; it would go on for ever with a server whose certificate is
over."""
SEAL = "holdfast.seal"
"""An extension of a request: what gives the headers that bind it to its connection, told the
thumbprint of the certificate that this one shows (empty: none)."""
PAUSE_BYTES = 256 * 1024
HEADERS_BYTES_MAX = 64 * 1024
"""Of an answer's head; one read more may have been taken by the time that it is noticed."""

Origin = tuple[str, str, int]


class RolePool(httpx.AsyncBaseTransport):
    """At most ``connections_max`` connections in use, and ``idle_max`` idle ones to each origin.

    Whoever waits for one longer than the request's ``pool`` timeout gets
    :class:`httpx.PoolTimeout`. ``served_idle_seconds`` is how long the servers keep a silent
    connection: what is sent as they end it may have been done or not, so ours end before.
    """

    def __init__(
        self,
        verify: ClientTls | ssl.SSLContext | bool = True,
        *,
        connections_max: int = 500,
        idle_max: int = 100,
        served_idle_seconds: float = 75.0,
    ) -> None:
        self._verify = verify
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._idle_seconds = min(IDLE_SECONDS, IDLE_PART * served_idle_seconds)
        self._idle_max = idle_max
        self._places = asyncio.Semaphore(connections_max)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` and wait for the head of its answer; what fails is an ``httpx`` error:
        a connect or pool error where nothing was sent, any other where something may have been."""
        limits = request.extensions.get("timeout", {})
        await _bounded(self._places.acquire(), limits.get("pool"), httpx.PoolTimeout)
        try:
            connection = await self._connection(request.url, limits.get("connect"))
            try:
                if (seal := request.extensions.get(SEAL)) is not None:
                    request.headers.update(seal(connection.thumbprint))
                await connection.ask(request, limits)
                status, headers = await _bounded(
                    connection.head(), limits.get("read"), httpx.ReadTimeout
                )
            except BaseException:
                connection.abort()
                raise
        except BaseException:
            self._places.release()
            raise
        stream = _Body(self, connection, limits.get("read"))
        return httpx.Response(status, headers=headers, stream=stream)

    async def aclose(self) -> None:
        """Close what is idle; what is in use closes when it is done."""
        for stack in self._idle.values():
            for each in stack:
                each.abort()
        self._idle.clear()
        self._idle_max = 0

    def done(self, connection: _Connection) -> None:
        """Take a connection back, for the next one if it can carry another request."""
        self._places.release()
        stack = self._idle.setdefault(connection.origin, deque())
        while stack and not self._fresh(stack[0]):
            stack.popleft().abort()  # nobody has come down to it since
        if (
            connection.reusable()
            and connection.begun_under is self._presented()[0]
            and len(stack) < self._idle_max
        ):
            connection.rest()
            stack.append(connection)
        else:
            connection.abort()

    async def _connection(self, url: httpx.URL, seconds: float | None) -> _Connection:
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        stack = self._idle.get(origin)
        while stack:
            found = stack.pop()
            if self._fresh(found):
                return found
            found.abort()
        loop = asyncio.get_running_loop()
        context, thumbprint = self._presented()
        secure = context if url.scheme == "https" else None
        shown = thumbprint if url.scheme == "https" else ""
        try:
            opening = loop.create_connection(
                lambda: _Connection(origin, loop, context, shown), url.host, origin[2], ssl=secure
            )
            _, made = await _bounded(opening, seconds, httpx.ConnectTimeout)
        except OSError as error:  # ssl.SSLError is one
            raise httpx.ConnectError(str(error)) from error
        return cast(_Connection, made)

    def _presented(self) -> tuple[ssl.SSLContext | bool, str]:
        """What a connection that begins now begins under, and whose certificate it shows."""
        return self._verify.presented if isinstance(self._verify, ClientTls) else (self._verify, "")

    def _fresh(self, connection: _Connection) -> bool:
        current = connection.begun_under is self._presented()[0]
        return current and connection.fresh(self._idle_seconds)


class _Body(httpx.AsyncByteStream):
    """An answer's body as it comes; closed before its end, its connection ends with it."""

    def __init__(self, pool: RolePool, connection: _Connection, seconds: float | None) -> None:
        self._pool = pool
        self._connection: _Connection | None = connection
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        assert connection is not None, "an answer is read once"
        while True:
            piece = connection.piece()
            if piece is None:
                piece = await _bounded(connection.wait_piece(), self._seconds, httpx.ReadTimeout)
            if not piece:
                return
            yield piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.done(connection)


class _Connection(asyncio.Protocol):
    """One connection. The parser's callbacks only note what came; the request looks at it."""

    def __init__(
        self,
        origin: Origin,
        loop: asyncio.AbstractEventLoop,
        begun_under: ssl.SSLContext | bool,
        thumbprint: str,
    ) -> None:
        self.origin = origin
        self.begun_under = begun_under
        self.thumbprint = thumbprint
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._error: httpx.TransportError | None = None
        self._lost = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._rested_at = 0.0
        self._made_at = loop.time()
        self._begin("")

    def _begin(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._method = method
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._came_bytes = self._headers_bytes = 0
        self._headed = self._complete = self._sent = False
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._keep = False

    # --- what the request does --------------------------------------------------------------------

    async def ask(self, request: httpx.Request, limits: dict[str, Any]) -> None:
        """Write ``request``. A server that answers before it has read all of it is listened to."""
        self._begin(request.method)
        assert self._transport is not None, "it is connected"
        self._transport.write(_head_of(request))
        stream = request.stream
        assert isinstance(stream, httpx.AsyncByteStream), "an async client's request"
        async for piece in stream:
            if self._headed or self._lost:
                break  # nobody reads the rest
            self._transport.write(piece)
            if not self._writable.is_set():
                await _bounded(self._writable.wait(), limits.get("write"), httpx.WriteTimeout)
        else:
            self._sent = True

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers, once they are here."""
        while not self._headed:
            self._check("the other side closed the connection without an answer")
            await self._wait()
        return self._status, self._headers

    def piece(self) -> bytes | None:
        """The next piece of the body; empty at its end, ``None`` when it is not here yet."""
        if self._pieces:
            found = self._pieces.popleft()
            self._waiting_bytes -= len(found)
            if self._paused and self._waiting_bytes < PAUSE_BYTES // 2 and self._transport:
                self._paused = False
                self._transport.resume_reading()
            return found
        if self._complete:
            return b""
        self._check("the other side closed the connection within its answer")
        return None

    async def wait_piece(self) -> bytes:
        """:meth:`piece`, once there is one."""
        while (found := self.piece()) is None:
            await self._wait()
        return found

    def reusable(self) -> bool:
        """Whether the answer was read to its end and both sides keep the connection."""
        done = self._complete and self._sent and not self._pieces
        return done and self._keep and not self._lost and self._error is None

    def rest(self) -> None:
        """Nothing is asked for now."""
        self._rested_at = self._loop.time()

    def fresh(self, idle_seconds: float) -> bool:
        """Whether another request may go by it, after so long a silence at most."""
        if self._lost or self._error is not None:
            return False
        now = self._loop.time()
        return now - self._rested_at < idle_seconds and now - self._made_at < LIFE_SECONDS

    def abort(self) -> None:
        """End it, whatever is on it."""
        if self._transport is not None:
            self._transport.abort()

    def _check(self, otherwise: str) -> None:
        if self._error is not None:
            raise self._error
        if self._lost:
            raise httpx.RemoteProtocolError(otherwise)

    def _fail(self, reason: str) -> None:
        self._error = self._error or httpx.RemoteProtocolError(f"not an answer: {reason}")
        self.abort()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- what the loop tells ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(str(error))
        if not self._headed:
            # All of it is of the head. The parser tells of a header once it is whole, so its bytes
            # are counted as they come.
            self._came_bytes += len(data)
            if self._came_bytes > HEADERS_BYTES_MAX:
                self._fail("its head is too long")
        if self._waiting_bytes > PAUSE_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._headed and not self._complete and exc is None and not self._bounded_body():
            self._complete = True  # a body that ends with its connection
        elif exc is not None and self._error is None:
            self._error = httpx.ReadError(str(exc))
        self._writable.set()
        self._changed.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- what the parser tells --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete or not self._method:
            # It would become part of this answer, or the next caller's.
            raise ValueError("an answer nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_bytes += len(name) + len(value)
        if self._headers_bytes > HEADERS_BYTES_MAX:
            raise ValueError("its head is too long")
        if not self._headed:  # else it is a trailer, and says nothing about the body
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        self._status, self._headed = status, True
        self._keep = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # The parser waits for a body that does not come: nothing more is read here.
            self._complete, self._keep = True, False

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return  # of a HEAD: it has none, whatever came
        self._pieces.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True

    def _bounded_body(self) -> bool:
        names = {name.lower() for name, _ in self._headers}
        return bool(names & {b"content-length", b"transfer-encoding"})


def _head_of(request: httpx.Request) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise httpx.LocalProtocolError("a header has a line break in it")
    return head + b"\r\n\r\n"


async def _bounded(awaited: Any, seconds: float | None, error: type[httpx.TimeoutException]) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError as late:
        raise error(f"not within {seconds} seconds") from late
