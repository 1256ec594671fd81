"""One connection: uvicorn's httptools protocol with bounds on everything a caller controls.

uvicorn does the parsing; :class:`GuardedProtocol` adds separate time limits for headers (408),
bodies (408), idle connections and callers that do not read; limits on the number and size of
headers (431) and the length of the URL (414); a clear refusal at the connection limit (503 with
``Retry-After``); requests that two parsers could read differently are refused (400); fields behind
a chunked body (trailers) are read, bounded and dropped, never taken for headers; the caller's
certificate is in the scope.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from holdfast.kernel.errors import (
    Exhausted,
    HoldfastError,
    Internal,
    Invalid,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from holdfast.kernel.http import problems
from holdfast.kernel.http.door import STOPPING, Network, is_among
from holdfast.kernel.http.rates import network_of
from holdfast.kernel.ids import NewId
from holdfast.kernel.telemetry import get_logger

log = get_logger("serving")

LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024
PIPELINED_MAX = 100
"""Requests that may wait behind one on its connection. Each takes some fifty times the memory that
its bytes do, and with each answer more of them are read."""
STATUS_LINES = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    413: b"HTTP/1.1 413 Content Too Large\r\n",
    414: b"HTTP/1.1 414 URI Too Long\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    500: b"HTTP/1.1 500 Internal Server Error\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\n",
    505: b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
}


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """The bounds of serving.

    ``address_connections_max``: of ``connections_max``, how many one address may have (0: all of
    them); ``trusted_proxies`` are addresses to which that does not apply.
    ``header_seconds``: from the connection, or the first byte of a later request, to the end of the
    headers. ``body_seconds``: the longest silence inside a body, and the longest time a caller may
    leave an answer unread. ``body_bytes_per_second_min``: slower bodies are given up after
    ``body_seconds``. ``idle_seconds``: between two requests. ``stop_seconds``: to drain.
    """

    connections_max: int = 1000
    address_connections_max: int = 0
    trusted_proxies: tuple[Network, ...] = ()
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    body_bytes_per_second_min: int = 1024
    idle_seconds: float = 75.0
    stop_seconds: float = 20.0
    header_count_max: int = 100
    header_bytes_max: int = 32 * 1024
    url_bytes_max: int = 8 * 1024
    backlog: int = 1024


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    lingers = False

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._give_up(Unavailable("cannot finish: the server stops", retry_after_seconds=1))
            raise
        except Unauthenticated as error:
            self._give_up(error)  # it ended in the middle of its answer, and the door has said so
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
        addresses: Counter[str],
        refused: Counter[str],
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        # uvicorn's parser is told to read on after `Connection: close`; a fresh one is strict.
        self.parser = httptools.HttpRequestParser(self)
        self.limits = limits
        self._new_id = new_id
        self._moved = moved
        self._addresses = addresses
        self._refused = refused
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._served = False
        self._closing = False
        self._lingered: int | None = None
        self._head_bytes = 0
        self._head_over = False
        self._trailers = 0
        self._heard = False
        self._unheard_bytes = 0
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
        if not self._counts(transport):
            self.transport = transport
            self._refuse(
                Unavailable(
                    f"cannot serve: {self.limits.address_connections_max} connections of your "
                    "address are open",
                    code="address-connections-exhausted",
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

    def _counts(self, transport: Any) -> bool:
        """Count the connection to its address; false if that has as many as it may."""
        if not self.limits.address_connections_max:
            return True
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if is_among(address, self.limits.trusted_proxies):
            return True
        address = network_of(address)
        if self._addresses[address] >= self.limits.address_connections_max:
            return False
        self._address = address
        self._addresses[address] += 1
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._address:
            self._addresses[self._address] -= 1
            if not self._addresses[self._address]:
                del self._addresses[self._address]
            self._address = ""
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
        self._heard = False
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
        # What the parser holds and has told nobody of: the beginning of one field, maybe endless.
        self._unheard_bytes = 0 if self._heard else self._unheard_bytes + len(data)
        most = self.limits.header_bytes_max + self.limits.url_bytes_max
        if max(self._head_bytes if self._in_headers else 0, self._unheard_bytes) > most:
            self._unreadable(_headers_too_large(f"{self.limits.header_bytes_max} bytes"))

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _unreadable(self, error: HoldfastError) -> None:
        """Refuse what arrives; an answer still being written comes to its end first."""
        self._closing = True
        if self._busy() and not self._in_body():
            self._refused[error.code] += 1
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
        self._refused[error.code] += 1
        peer = self.transport.get_extra_info("peername")
        client = str(peer[0]) if peer else ""
        log.info("refused", code=error.code, client=client, request_id=identifier)
        self.transport.write(refusal(error, identifier))
        self._linger()

    def _linger(self) -> None:
        """Close our side, read on for a moment so that the answer is not lost to a reset."""
        self._lingered = 0
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER_SECONDS, self._close)
        if self.flow is not None:
            self.flow.resume_reading()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
        elif not self._in_body():
            self._close()

    def _close(self) -> None:
        """Close when what was written has been read, or when there was time enough for that."""
        self.transport.close()
        self._bound_reading()

    def _bound_reading(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    # --- time

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for so long: close, though the last answer may not have been read."""
        if not self.transport.is_closing():
            self._close()

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
        self._bound_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        # A connection that closes is still held by what is left unread, however little that is.
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heard = True
        self._in_headers = True
        self._head_over = False
        self._trailers = 0
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
        """Take a header; drop a trailer.

        The parser tells of both alike, but a request is routed, and often answered, by its head:
        what follows the body may say nothing about who asks, from where, or for what (RFC 9110
        §6.5.1). None that we know of is worth merging, so none is.
        """
        self._heard = True
        if self._head_over:
            self._trailers += 1
        else:
            super().on_header(name, value)
        self._sized += len(name) + len(value)
        if len(self.headers) + self._trailers > self.limits.header_count_max:
            raise _Refused(_headers_too_large(f"{self.limits.header_count_max} fields"))
        if self._sized > self.limits.header_bytes_max:
            raise _Refused(_headers_too_large(f"{self.limits.header_bytes_max} bytes"))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            # The parser takes 0.9 and 2.0 for 1.x; whoever stands in front may not.
            raise _Refused(
                Unsupported(
                    f"cannot read the request: it is HTTP/{version}, and HTTP/1.1 is spoken here",
                    code="http-version-unsupported",
                )
            )
        has_body = _check_framing(self.headers, version)
        if self._busy() and len(self.pipeline) >= PIPELINED_MAX:
            raise _Refused(
                Exhausted(
                    f"cannot take more requests: {PIPELINED_MAX} wait on this connection",
                    code="pipelined-too-many",
                )
            )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._in_headers = False
        self._head_over = True
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
        self._heard = True
        self._body_bytes += len(body)
        self._body_last = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._heard = True
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
        if self.transport.is_closing() or (self._closing and not self.pipeline):
            self._close()

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
    named, told = (bare, int(port)) if bare and port.isdigit() else (host, 0)
    usual = 443 if parsed.schema == b"https" else 80
    same = parsed.host.strip(b"[]").lower() == named.strip(b"[]").lower()
    if not same or (parsed.port or usual) != (told or usual) or parsed.userinfo:
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
