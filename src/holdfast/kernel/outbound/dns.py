"""A stub resolver that asks one named server, over UDP and, for long answers, TCP (RFC 1035).

It exists so that an operator can send the drone's look-ups to a resolver of its own, without the
machine's. Names are asked for A and AAAA; aliases (CNAME) are followed within the answer.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound.model import SourceUnavailable

_A, _CNAME, _AAAA = 1, 5, 28
_RCODES = {1: "format error", 2: "server failure", 3: "no such name", 5: "refused"}
_ALIASES_MAX = 16
_TRIES = 3


class DnsResolver:
    """Asks the server at ``address``:``port``. ``random`` gives query ids (16 bits)."""

    def __init__(
        self,
        address: str,
        port: int = 53,
        *,
        timeout_seconds: float = 2.0,
        random: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._server = (address, port)
        self._timeout_seconds = timeout_seconds
        self._random = random

    @classmethod
    def at(cls, setting: str) -> DnsResolver:
        """The resolver at ``ADDRESS`` or ``ADDRESS:PORT`` (IPv6 in brackets)."""
        host, port = setting, 53
        if setting.startswith("["):
            host, _, rest = setting[1:].partition("]")
            port = _port(rest.removeprefix(":"), setting) if rest else 53
        elif setting.count(":") == 1:
            host, _, text = setting.partition(":")
            port = _port(text, setting)
        try:
            return cls(str(ip_address(host)), port)
        except ValueError as error:
            raise Invalid(f"cannot use the DNS server {setting!r}: {error}") from error

    async def resolve(self, host: str) -> Sequence[str]:
        found = await asyncio.gather(
            self._ask(host, _A), self._ask(host, _AAAA), return_exceptions=True
        )
        # Servers that fail for one kind only are common; the other kind is then good enough.
        addresses = [address for answer in found if isinstance(answer, list) for address in answer]
        if not addresses:
            for failure in found:
                if isinstance(failure, BaseException):
                    raise failure
            raise SourceUnavailable(f"cannot resolve {host}: it has no address")
        return addresses

    async def _ask(self, host: str, kind: int) -> list[str]:
        number = self._random(1 << 16)
        query = encode_query(number, host, kind)
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await self._over_udp(query)
                    if answer[2] & 0x02:
                        answer = await self._over_tcp(query)
                return decode_answer(answer, query, host, kind)
            except TimeoutError:
                continue
            except (OSError, EOFError) as error:
                raise SourceUnavailable(
                    f"cannot resolve {host}: the DNS server failed: {error}"
                ) from error
        raise SourceUnavailable(f"cannot resolve {host}: the DNS server does not answer")

    async def _over_udp(self, query: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Datagram(query), remote_addr=self._server
        )
        try:
            transport.sendto(query)
            return await protocol.answer
        finally:
            transport.close()

    async def _over_tcp(self, query: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._server)
        try:
            writer.write(struct.pack(">H", len(query)) + query)
            await writer.drain()
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            return await reader.readexactly(length)
        finally:
            writer.transport.abort()


class _Datagram(asyncio.DatagramProtocol):
    """Waits for the datagram that answers ``query``; others (forged, late) are passed over."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if answers(data, self._query) and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def encode_query(number: int, host: str, kind: int) -> bytes:
    """A standard query, recursion desired, for one record type of ``host``."""
    labels = b"".join(
        bytes((len(label),)) + label for label in host.encode("ascii").split(b".") if label
    )
    return (
        struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0)
        + labels
        + struct.pack(">BHH", 0, kind, 1)
    )


def answers(data: bytes, query: bytes) -> bool:
    """Whether ``data`` is a response to ``query``: same id, same question."""
    return (
        len(data) >= len(query)
        and data[:2] == query[:2]
        and bool(data[2] & 0x80)
        and data[4:6] == b"\x00\x01"
        and data[12 : len(query)].lower() == query[12:].lower()
    )


def decode_answer(data: bytes, query: bytes, host: str, kind: int) -> list[str]:
    """The addresses of ``kind`` that ``data`` gives for ``host``, aliases followed.

    :class:`SourceUnavailable` if the server refused, or sent what is no answer to ``query``.
    """
    if not answers(data, query):
        raise SourceUnavailable(f"cannot resolve {host}: the DNS server sent no answer to it")
    rcode = data[3] & 0x0F
    if rcode:
        reason = _RCODES.get(rcode, f"error {rcode}")
        raise SourceUnavailable(
            f"cannot resolve {host}: the DNS server says {reason}", retryable=rcode != 3
        )
    try:
        aliases, found = _records(data, len(query), kind)
    except (IndexError, struct.error, ValueError) as error:
        raise SourceUnavailable(f"cannot resolve {host}: the DNS answer is malformed") from error
    name = host.lower().removesuffix(".")
    for _ in range(_ALIASES_MAX):
        if name not in aliases:
            break
        name = aliases[name]
    return found.get(name, [])


def _records(data: bytes, at: int, kind: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    (count,) = struct.unpack(">H", data[6:8])
    aliases: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for _ in range(count):
        owner, at = _name(data, at)
        record, group, _, length = struct.unpack(">HHIH", data[at : at + 10])
        at += 10
        value = data[at : at + length]
        if group == 1 and record == kind:
            address = IPv4Address(value) if kind == _A else IPv6Address(value)
            found.setdefault(owner, []).append(str(address))
        elif group == 1 and record == _CNAME:
            aliases[owner] = _name(data, at)[0]
        at += length
    return aliases, found


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at ``at`` and where it ends; compression pointers must point backwards."""
    labels: list[str] = []
    end, limit = -1, at
    while True:
        length = data[at]
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            if target >= limit:
                raise ValueError("a name that points forwards")
            end = at + 2 if end < 0 else end
            at = limit = target
        elif length == 0:
            return ".".join(labels), at + 1 if end < 0 else end
        else:
            label = data[at + 1 : at + 1 + length]
            labels.append(label.decode("ascii", "replace").lower())
            at += 1 + length


def _port(text: str, setting: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise Invalid(f"cannot use the DNS server {setting!r}: {text!r} is no port")
    return int(text)
