"""Name resolution by file and by a named DNS server; the server here is a real one on loopback."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound import SourceUnavailable, SystemResolver, resolver_from_setting
from holdfast.kernel.outbound.dns import DnsResolver, answers, decode_answer, encode_query

A, CNAME, AAAA = 1, 5, 28


def wire_name(name: str) -> bytes:
    return b"".join(bytes((len(p),)) + p.encode() for p in name.split(".")) + b"\x00"


def record(owner: bytes, kind: int, value: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 60, len(value)) + value


def reply(query: bytes, records: list[bytes], *, flags: int = 0x8180) -> bytes:
    return (
        query[:2]
        + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
        + query[12:]
        + b"".join(records)
    )


class Zone:
    """A DNS server over UDP and TCP; ``names`` maps (name, kind) to records."""

    def __init__(self, names: dict[tuple[str, int], list[bytes]]) -> None:
        self.names = names
        self.silent = 0
        self.forge = False
        self.truncate = False
        self.rcode = 0
        self.port = 0
        self.over_tcp = 0

    def answer(self, query: bytes, *, truncate: bool) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        if truncate:
            return reply(query, [], flags=0x8380)
        found = self.names.get((".".join(labels), kind), [])
        return reply(query, found, flags=0x8180 | self.rcode)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        zone = self

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                if zone.silent:
                    zone.silent -= 1
                    return
                honest = zone.answer(data, truncate=zone.truncate)
                if zone.forge:
                    evil = reply(data, [record(b"\xc0\x0c", A, bytes((6, 6, 6, 6)))])
                    self.transport.sendto(bytes((data[0] ^ 1,)) + evil[1:], addr)
                    self.transport.sendto(evil[:-40], addr)
                self.transport.sendto(honest, addr)

        async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            data = zone.answer(await reader.readexactly(length), truncate=False)
            zone.over_tcp += 1
            writer.write(struct.pack(">H", len(data)) + data)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(tcp, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Udp, local_addr=("127.0.0.1", port)
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            transport.close()
            server.close()
            await server.wait_closed()


def address(kind: int, text: str, owner: bytes = b"\xc0\x0c") -> bytes:
    return record(owner, kind, ip_address(text).packed)


async def test_a_file_answers_in_turn_and_its_last_answer_stays(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"Rebind.test": [["192.0.2.1", "192.0.2.2"], ["127.0.0.1"]]}))
    resolver = resolver_from_setting(f"file:{path}")
    assert list(await resolver.resolve("rebind.test")) == ["192.0.2.1", "192.0.2.2"]
    assert list(await resolver.resolve("rebind.test")) == ["127.0.0.1"]
    assert list(await resolver.resolve("rebind.test")) == ["127.0.0.1"]
    with pytest.raises(SourceUnavailable) as failure:
        await resolver.resolve("other.test")
    assert failure.value.code == "unreachable"


def test_a_setting_that_names_no_resolver_is_refused(tmp_path: Path) -> None:
    assert isinstance(resolver_from_setting("system"), SystemResolver)
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": "127.0.0.1"}')
    for setting in ("file:", f"file:{bad}", f"file:{tmp_path}/none", "dns:", "dns:example.com",
                    "dns:127.0.0.1:x", "dns:127.0.0.1:0", "doh:https://x", "hosts"):  # fmt: skip
        with pytest.raises(Invalid):
            resolver_from_setting(setting)


async def test_the_system_resolver_knows_localhost_and_says_when_it_does_not_know() -> None:
    found = await SystemResolver().resolve("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    with pytest.raises(SourceUnavailable):
        await SystemResolver().resolve("nothing.invalid")


async def test_a_dns_server_is_asked_for_both_kinds_and_aliases_are_followed() -> None:
    alias = record(b"\xc0\x0c", CNAME, wire_name("real.test"))
    zone = Zone(
        {
            ("www.test", A): [alias, address(A, "192.0.2.7", wire_name("real.test"))],
            ("www.test", AAAA): [alias, address(AAAA, "2001:db8::7", wire_name("real.test"))],
        }
    )
    async with zone.serve() as server:
        found = await resolver_from_setting(f"dns:{server}").resolve("www.test")
    assert list(found) == ["192.0.2.7", "2001:db8::7"]


async def test_records_of_other_names_are_not_taken() -> None:
    zone = Zone(
        {("a.test", A): [address(A, "192.0.2.1"), address(A, "6.6.6.6", wire_name("evil.test"))]}
    )
    async with zone.serve() as server:
        assert list(await resolver_from_setting(f"dns:{server}").resolve("a.test")) == ["192.0.2.1"]


async def test_forged_answers_are_passed_over_and_lost_ones_asked_for_again() -> None:
    zone = Zone({("a.test", A): [address(A, "192.0.2.1")]})
    zone.forge = True
    zone.silent = 1
    async with zone.serve() as server:
        host, _, port = server.partition(":")
        resolver = DnsResolver(host, int(port), timeout_seconds=0.3)
        assert list(await resolver.resolve("a.test")) == ["192.0.2.1"]


async def test_an_answer_too_long_for_udp_is_fetched_over_tcp() -> None:
    many = [f"192.0.2.{n}" for n in range(1, 200)]
    zone = Zone({("a.test", A): [address(A, text) for text in many]})
    zone.truncate = True
    async with zone.serve() as server:
        assert list(await resolver_from_setting(f"dns:{server}").resolve("a.test")) == many
    assert zone.over_tcp == 2


async def test_refusals_silence_and_emptiness_are_unreachable() -> None:
    zone = Zone({})
    async with zone.serve() as server:
        resolver = resolver_from_setting(f"dns:{server}")
        with pytest.raises(SourceUnavailable, match="no address"):
            await resolver.resolve("a.test")
        zone.rcode = 3
        with pytest.raises(SourceUnavailable, match="no such name") as failure:
            await resolver.resolve("a.test")
        assert not failure.value.retryable
        zone.silent = 1000
        host, _, port = server.partition(":")
        with pytest.raises(SourceUnavailable, match="does not answer"):
            await DnsResolver(host, int(port), timeout_seconds=0.05).resolve("a.test")


def test_a_name_that_points_forwards_or_in_a_circle_is_malformed() -> None:
    query = encode_query(1, "a.test", A)
    for owner in (b"\xc0\xff", struct.pack(">H", 0xC000 | len(query)), b"\x3fabc"):
        data = reply(query, [record(owner, A, bytes(4))])
        with pytest.raises(SourceUnavailable, match="malformed"):
            decode_answer(data, query, "a.test", A)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail_in_another_way(tail: bytes) -> None:
    query = encode_query(7, "a.test", A)
    data = reply(query, []) + tail
    data = data[:6] + b"\x00\x05" + data[8:]
    assert answers(data, query)
    with suppress(SourceUnavailable):
        decode_answer(data, query, "a.test", A)
