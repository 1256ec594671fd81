"""One HTTP/1.1 connection to a checked address: asyncio underneath, h11 for the protocol.

No HTTP library stands between the guard and the socket: what :class:`Dialer` checked is what it
connects to, and proxies, environment variables and cookie jars do not exist here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import h11

from holdfast.kernel.outbound.address import Target
from holdfast.kernel.outbound.guard import check_contact, host_port
from holdfast.kernel.outbound.model import (
    AddressRefused,
    FetchLimits,
    ResponseTooLarge,
    SourceUnavailable,
)
from holdfast.kernel.outbound.resolver import Resolver

READ_BYTES = 64 * 1024
_INFORMATIONAL_MAX = 8
_CLOSE_WAIT_SECONDS = 0.25

Headers = list[tuple[bytes, bytes]]
Framing = Literal["length", "chunked", "close", "none"]


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers, names in lower case, repeated ones joined by a comma."""

    status: int
    headers: dict[str, str]
    framing: Framing


class Dialer:
    """Resolves, checks and connects. The only place where Holdfast opens a socket to a source."""

    def __init__(self, resolver: Resolver, tls: Callable[[], ssl.SSLContext]) -> None:
        self._resolver = resolver
        self._tls = tls

    async def dial(self, target: Target, allow: Collection[str], limits: FetchLimits) -> Connection:
        """A connection to the first address that answers; all of them must pass the guard.

        Raises :class:`AddressRefused`, or :class:`SourceUnavailable` with code ``unreachable``,
        ``timeout`` or ``tls-refused``.
        """
        try:
            async with asyncio.timeout(limits.connect_seconds) as scope:
                return await self._dial(target, allow, limits)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise self._too_slow(target, limits) from error

    async def addresses(self, target: Target, allow: Collection[str]) -> Sequence[str]:
        """The addresses of ``target``, each one checked; :class:`AddressRefused` if one fails."""
        found = [target.host] if target.is_literal else await self._resolver.resolve(target.host)
        for address in found:
            reason = check_contact(address, target.host, target.port, allow)
            if reason is not None:
                # Where a name leads inside our network is for the log, not for whoever asks; the
                # reason tells it too, of an address that carries another.
                shown = reason if target.is_literal else reason.rpartition(": ")[2]
                raise AddressRefused(
                    f"cannot contact {target.host_port}: it is not at a public address ({shown})",
                    hint="an operator can allow this exact host and port: "
                    f"HOLDFAST_COLLECT_ALLOW={target.host_port}",
                    internal=f"{target.host} resolved to {address} ({reason})",
                )
        return found

    async def _dial(
        self, target: Target, allow: Collection[str], limits: FetchLimits
    ) -> Connection:
        found = await self.addresses(target, allow)
        failure: OSError | None = None
        for address in found:
            try:
                # Each address has its share of the time, so that a silent one is passed over.
                async with asyncio.timeout(limits.connect_seconds / len(found)):
                    return await self._connect(address, target, limits)
            except ssl.SSLError as error:
                said, hint = _tls_reason(error)
                raise SourceUnavailable(
                    f"cannot trust {target.host_port}: {said}",
                    code="tls-refused",
                    retryable=False,
                    hint=hint,
                ) from error
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise self._too_slow(target, limits) from failure
        raise SourceUnavailable(f"cannot connect to {target.host_port}: {failure}") from failure

    def _too_slow(self, target: Target, limits: FetchLimits) -> SourceUnavailable:
        return SourceUnavailable(
            f"cannot connect to {target.host_port}: no answer within "
            f"{limits.connect_seconds:g} s (connect_seconds)",
            code="timeout",
            bound="connect_seconds",
        )

    async def _connect(self, address: str, target: Target, limits: FetchLimits) -> Connection:
        secure = target.scheme == "https"
        reader, writer = await asyncio.open_connection(
            address,
            target.port,
            limit=READ_BYTES,
            ssl=self._tls() if secure else None,
            server_hostname=target.host if secure else None,
        )
        return Connection(reader, writer, host_port(address, target.port), limits)


class Connection:
    """One request at a time; :attr:`reusable` tells whether another may follow."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
        limits: FetchLimits,
    ) -> None:
        self.address = address
        self.fresh = True
        self.idle_since = 0.0
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._received = 0
        self._ended = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.header_bytes_max)

    @property
    def reusable(self) -> bool:
        """Whole answer read, nobody said close, and nothing unasked for has arrived since."""
        return (
            self._http.our_state is h11.DONE
            and self._http.their_state is h11.DONE
            and not self._http.trailing_data[0]
            and not self._reader.at_eof()
            # Bytes that arrive between two requests would be taken for the next answer.
            and not self._unread()
        )

    def renew(self, limits: FetchLimits) -> None:
        """Ready this connection for its next request."""
        self._http.start_next_cycle()
        self._limits = limits
        self._received = 0
        self.fresh = False

    def abort(self) -> None:
        """Drop the connection at once, whatever is under way."""
        self._writer.transport.abort()

    async def send(self, method: str, target: Target, headers: Headers, body: bytes) -> None:
        """Send one request; the bounds are those of the answer."""
        request = h11.Request(method=method, target=target.request_path, headers=headers)
        data = self._http.send(request)
        assert data is not None
        if body:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        await self._bounded_drain()

    async def head(self) -> Head:
        """The final status and headers. Informational answers before it are passed over."""
        for _ in range(_INFORMATIONAL_MAX + 1):
            event = await self._event()
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                return self._head(event)
            break
        raise SourceUnavailable(
            f"cannot read the answer of {self.address}: it is not HTTP", code="protocol-error"
        )

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The body as sent, transfer coding removed.

        A body that is not as long as announced is ``truncated`` or ``protocol-error``.
        """
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise SourceUnavailable(
                    f"cannot read the answer of {self.address}: it ended early", code="truncated"
                )
        await self._check_nothing_follows()

    def _head(self, response: h11.Response) -> Head:
        size_bytes = sum(len(name) + len(value) + 4 for name, value in response.headers)
        if size_bytes > self._limits.header_bytes_max:
            raise self._headers_too_large()
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("ascii"), _text(raw_value)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        framing: Framing = "close"
        if response.status_code in {204, 304}:
            framing = "none"
        elif "transfer-encoding" in headers:
            framing = "chunked"
        elif "content-length" in headers:
            framing = "length"
        return Head(response.status_code, headers, framing)

    def _unread(self) -> bytes:
        """What has arrived and nobody has read; there is no public way to look without reading."""
        return bytes(getattr(self._reader, "_buffer", b""))

    async def _event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise self._protocol_error(error) from error
            if event is not h11.NEED_DATA:
                return event
            data = await self._read()
            self._received += len(data)
            self._ended = not data
            self._http.receive_data(data)

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.idle_seconds) as scope:
                return await self._reader.read(READ_BYTES)
        except TimeoutError as error:
            if not scope.expired():
                raise self._lost(error) from error
            raise self._idle() from error
        except OSError as error:
            raise self._lost(error) from error

    async def _bounded_drain(self) -> None:
        try:
            async with asyncio.timeout(self._limits.idle_seconds) as scope:
                await self._writer.drain()
        except TimeoutError as error:
            if not scope.expired():
                raise self._lost(error) from error
            raise self._idle() from error
        except OSError as error:
            raise self._lost(error) from error

    async def _check_nothing_follows(self) -> None:
        """A body longer than its Content-Length is an answer that cannot be trusted.

        On a connection that stays open the rest shows when it is reused; on one that closes, what
        comes before the end of the stream is looked at here, for a moment.
        """
        extra = self._http.trailing_data[0] or self._unread()
        if not extra and self._http.their_state is h11.MUST_CLOSE:
            try:
                async with asyncio.timeout(_CLOSE_WAIT_SECONDS):
                    extra = await self._reader.read(1)
            except (TimeoutError, OSError):
                extra = b""
        if extra:
            raise SourceUnavailable(
                f"cannot trust the answer of {self.address}: bytes follow its end "
                "(a wrong Content-Length?)",
                code="protocol-error",
            )

    def _protocol_error(self, error: h11.RemoteProtocolError) -> Exception:
        if "Receive buffer too long" in str(error):
            return self._headers_too_large()
        if self._ended and not self._received:
            return SourceUnavailable(
                f"cannot read the answer of {self.address}: it closed the connection"
            )
        return SourceUnavailable(
            f"cannot read the answer of {self.address}: {error}",
            code="truncated" if self._ended else "protocol-error",
        )

    def _headers_too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(
            f"cannot read the answer of {self.address}: its headers are larger than "
            f"{self._limits.header_bytes_max} bytes (header_bytes_max)",
            bound="header_bytes_max",
        )

    def _idle(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"cannot read the answer of {self.address}: silent for "
            f"{self._limits.idle_seconds:g} s (idle_seconds)",
            code="timeout",
            bound="idle_seconds",
        )

    def _lost(self, error: OSError) -> SourceUnavailable:
        return SourceUnavailable(f"cannot read the answer of {self.address}: {error}")


def _text(value: bytes) -> str:
    # Header values are Latin-1 by the letter and UTF-8 in practice.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


_NO_TLS = ("what answers there does not speak TLS", "is the address http://, or the port another?")
_OLD_TLS = (
    "it speaks only versions of TLS before 1.2",
    "nothing in transit is safe with them: ask the publisher for another address",
)
_TLS_REASONS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS,
}


def _tls_reason(error: ssl.SSLError) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = (
            "if it has a certificate authority of its own, HOLDFAST_COLLECT_CA_FILE names the file "
            "of that"
        )
        return error.verify_message, hint
    reason = error.reason or str(error)
    return _TLS_REASONS.get(reason, (reason, ""))
