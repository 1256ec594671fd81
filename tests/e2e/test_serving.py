"""What the server promises, asked of a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.kernel.connection import PIPELINED_MAX, ServeLimits
from holdfast.kernel.errors import HoldfastError, Invalid, Unavailable
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.serving import Tls, bind_socket
from holdfast.kernel.tls import ClientTls, renew
from tests.e2e.serving_program import PATIENCE_SECONDS, Running, anybody, application

ANSWER_SECONDS = 45
"""How long an answer may take: less than the bounds that hold unless others are set."""
LIMITS = ServeLimits(
    connections_max=20,
    header_seconds=1.0,
    body_seconds=1.0,
    idle_seconds=1.0,
    stop_seconds=5,
    header_count_max=20,
    header_bytes_max=4096,
    url_bytes_max=1024,
)
GET = b"GET /v1/echo HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(LIMITS) as running:
        yield running


class Wire:
    """One connection, spoken to in bytes."""

    def __init__(
        self, running: Running, context: ssl.SSLContext | None = None, source: str = "127.0.0.1"
    ) -> None:
        plain = socket.create_connection(
            ("127.0.0.1", running.bound.port), timeout=ANSWER_SECONDS, source_address=(source, 0)
        )
        self.socket: socket.socket = plain
        if context is not None:
            self.socket = context.wrap_socket(plain, server_hostname="localhost")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer, by its Content-Length."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            assert piece, f"closed after {data!r}"
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        while len(body) < int(headers["content-length"]):
            piece = self.socket.recv(65536)
            assert piece, "closed inside the body"
            body += piece
        return int(lines[0].split()[1]), headers, body

    def rest(self) -> bytes:
        """Everything until the server closes."""
        data = b""
        while piece := self.socket.recv(65536):
            data += piece
        return data


def problem(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    assert {"type", "title", "status", "code", "kind", "detail"} <= found.keys()
    return found


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


# --- time


def test_headers_that_do_not_end_are_answered_408(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(b"GET /v1/echo HTTP/1.1\r\nHost: localhost\r\n")
        status, headers, body = wire.answer()
        assert (status, problem(body)["code"]) == (408, "request-timeout")
        assert problem(body)["detail"].endswith("no complete headers in 1 s")
        assert headers["connection"] == "close"
        assert wire.rest() == b""


def test_dripping_header_bytes_does_not_extend_the_time(server: Running) -> None:
    with Wire(server) as wire:
        wire.socket.settimeout(0.05)
        status = 0
        for byte in b"GET /v1/echo HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 100:
            wire.send(bytes([byte]))
            try:
                status = int(wire.socket.recv(4096).split()[1])
                break
            except TimeoutError:
                continue
        assert status == 408


def test_a_connection_that_says_nothing_is_closed_without_an_answer(server: Running) -> None:
    with Wire(server) as wire:
        assert wire.rest() == b""


def test_a_body_that_stops_is_answered_408(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(
            b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"text":'
        )
        status, _, body = wire.answer()
        assert (status, problem(body)["code"]) == (408, "request-timeout")
        assert wire.rest() == b""


def test_a_body_that_never_begins_is_answered_408(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(
            b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n"
        )
        assert wire.answer()[0] == 408


def test_a_body_dripping_byte_by_byte_is_given_up(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(b"POST /v1/size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n")
        wire.socket.settimeout(0.1)
        status = 0
        for _ in range(100):
            wire.send(b"x")
            try:
                status = int(wire.socket.recv(4096).split()[1])
                break
            except TimeoutError:
                continue
        assert status == 408


def steadily(act: Callable[[], None], pause: float) -> bool:
    """Do it again and again for half as long again as the bounds; false if the machine paused."""
    began = last = time.monotonic()
    while last - began < 1.5:
        time.sleep(pause)
        act()
        now = time.monotonic()
        if now - last > 0.8:
            return False
        last = now
    return True


def on_a_machine_that_keeps_pace(attempt: Callable[[], bool]) -> None:
    """What takes time and must not take too long is tried again where the machine paused."""
    assert any(attempt() for _ in range(20)), "this machine pauses again and again"


def test_a_steady_body_longer_than_the_bound_in_time_arrives(server: Running) -> None:
    head = b"POST /v1/size HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"400\r\n" + b"x" * 1024 + b"\r\n"

    def attempt() -> bool:
        with Wire(server) as wire, contextlib.suppress(ConnectionError):
            wire.send(head)
            if not steadily(lambda: wire.send(piece), 0.2):
                return False
            wire.send(b"0\r\n\r\n")
            status, _, body = wire.answer()
            assert status == 201, body
            return True
        return False

    on_a_machine_that_keeps_pace(attempt)


def test_an_idle_connection_is_closed_but_a_busy_one_lives(server: Running) -> None:
    def attempt() -> bool:
        with Wire(server) as wire, contextlib.suppress(ConnectionError):

            def ask() -> None:
                wire.send(GET)
                assert wire.answer()[0] == 200

            if not steadily(ask, 0.15):
                return False
            assert wire.rest() == b""
            return True
        return False

    on_a_machine_that_keeps_pace(attempt)


def test_a_handler_may_take_longer_than_every_network_bound(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(b"GET /v1/slow?seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wire.answer()[0] == 200


def test_a_caller_that_does_not_read_is_cut_off() -> None:
    with Running(LIMITS) as running, Wire(running) as wire:
        wire.send(b"GET /v1/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: running.connections() == 1)
        eventually(lambda: running.connections() == 0)
        received = 0
        try:
            while piece := wire.socket.recv(1024 * 1024):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 32 * 1024 * 1024, "what the kernel had taken, not all of it"


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_the_unread_end_of_an_answer_does_not_hold_its_connection(connection: bytes) -> None:
    """So little is left that the server never noticed that nobody reads."""
    listening = bind_socket("127.0.0.1:0")
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = json.dumps({"text": "x" * 48 * 1024}).encode()
    with Running(LIMITS, bind=listening) as running, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", running.bound.port))
        deaf.sendall(
            b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: %b\r\nContent-Length: %d\r\n\r\n" % (connection, len(body)) + body
        )
        eventually(lambda: running.connections() == 1)
        eventually(lambda: running.connections() == 0)


# --- size


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "url-too-long"),
        (GET[:-2] + b"X-A: b\r\n" * 30 + b"\r\n", 431, "headers-too-large"),
        (GET[:-2] + b"X-A: " + b"b" * 5000 + b"\r\n\r\n", 431, "headers-too-large"),
        (GET[:-2] + b"X-A: " + b"b" * 9000, 431, "headers-too-large"),
        (GET[:-2] + b"b" * 9000, 431, "headers-too-large"),
    ],
    ids=["url", "count", "one-header", "header-without-end", "name-without-end"],
)
def test_oversized_heads_are_refused(server: Running, sent: bytes, status: int, code: str) -> None:
    with Wire(server) as wire:
        wire.send(sent)
        found, headers, body = wire.answer()
        assert (found, problem(body)["code"]) == (status, code)
        assert headers["connection"] == "close"
        assert wire.rest() == b""


def test_a_body_over_the_route_s_limit_is_413_and_the_answer_arrives(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(
            b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 3000000\r\n\r\n"
        )
        wire.send(b"x" * 300_000)
        status, headers, body = wire.answer()
        assert (status, problem(body)["code"]) == (413, "body-too-large")
        assert headers["connection"] == "close"


def test_a_chunked_body_over_the_limit_is_413_while_it_arrives(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(
            b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(17):
            wire.send(chunk)
        status, _, body = wire.answer()
        assert (status, problem(body)["code"]) == (413, "body-too-large")


def test_a_large_body_within_its_route_s_limit_arrives(server: Running) -> None:
    size = 20 * 1024 * 1024
    answer = httpx.post(
        f"{server.bound.url}/v1/size", content=b"x" * size, timeout=PATIENCE_SECONDS
    )
    assert answer.json() == {"size": size}


def test_at_the_connection_limit_a_caller_is_told_when_to_come_back() -> None:
    with Running(ServeLimits(connections_max=3)) as running:
        held = [Wire(running) for _ in range(3)]
        for wire in held:
            wire.send(GET)
            assert wire.answer()[0] == 200
        with Wire(running) as late:
            late.send(GET)
            status, headers, body = late.answer()
            assert (status, problem(body)["code"]) == (503, "connections-exhausted")
            assert headers["retry-after"] == "1"
            assert late.rest() == b""
        held.pop().socket.close()

        def served() -> bool:
            with Wire(running) as again:
                again.send(GET)
                return again.answer()[0] == 200

        eventually(served)
        for wire in held:
            wire.socket.close()


def test_one_address_cannot_take_every_connection(capfd: pytest.CaptureFixture[str]) -> None:
    limits = ServeLimits(connections_max=10, address_connections_max=3)
    with Running(limits) as running:

        def wire(address: str) -> Wire:
            found = Wire(running, source=address)
            found.send(GET)
            return found

        held = [wire("127.0.0.2") for _ in range(3)]
        assert [each.answer()[0] for each in held] == [200] * 3
        for _ in range(20):
            with wire("127.0.0.2") as late:
                status, headers, body = late.answer()
                code = problem(body)["code"]
                assert (status, code) == (503, "address-connections-exhausted")
                assert headers["retry-after"] == "1"
        with wire("127.0.0.3") as other:
            assert other.answer()[0] == 200
        held.pop().socket.close()

        def served() -> bool:
            with wire("127.0.0.2") as again:
                return again.answer()[0] == 200

        eventually(served)
        for each in held:
            each.socket.close()
    written = "".join(capfd.readouterr())
    refused = [line for line in written.splitlines() if "address-connections" in line]
    assert len(refused) >= 20
    assert all("127.0.0.2" in line for line in refused), refused[:3]


def test_a_trusted_proxy_has_as_many_connections_as_there_are() -> None:
    proxies = (ip_network("127.0.0.2"),)
    limits = ServeLimits(connections_max=10, address_connections_max=1, trusted_proxies=proxies)
    with Running(limits) as running:
        held = [Wire(running, source="127.0.0.2") for _ in range(5)]
        for wire in held:
            wire.send(GET)
            assert wire.answer()[0] == 200
            wire.socket.close()


# --- framing


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x5\r\n",
        b"Host: other\r\n",
        b" folded: yes\r\n",
        b"X-A: b\r\n folded\r\n",
        b"X-A: b\rX-B: c\r\n",
        b"X\x00A: b\r\n",
        b"X-A: b\x00c\r\n",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(server: Running, head: bytes) -> None:
    with Wire(server) as wire:
        wire.send(b"POST /v1/size HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n0\r\n\r\n" + GET)
        status, _, body = wire.answer()
        assert status == 400, problem(body)
        assert wire.rest() == b"", "the connection must end, or the rest becomes a request"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/echo HTTP/1.1\r\n\r\n",
        b"GET /v1/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\nHost: localhost\r\n\r\n",
        b"GET http://elsewhere/v1/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/echo HTTP/3.7\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/size HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/ec ho HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused_and_the_connection_ends(
    server: Running, sent: bytes
) -> None:
    with Wire(server) as wire:
        wire.send(sent)
        assert wire.answer()[0] in (400, 405)
        assert wire.rest() == b""


@pytest.mark.parametrize(
    "line", [b"GET /v1/echo HTTP/2.0", b"GET /v1/echo HTTP/0.9", b"GET /v1/echo"]
)
def test_another_version_of_http_is_refused_by_its_name(server: Running, line: bytes) -> None:
    with Wire(server) as wire:
        wire.send(line + b"\r\nHost: localhost\r\n\r\n")
        status, _, body = wire.answer()
        assert (status, problem(body)["code"]) == (505, "http-version-unsupported")
        assert wire.rest() == b""


CHUNKED = (
    b"POST /v1/fields HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
)
SENT = {
    "host": ["localhost"],
    "content-type": ["text/plain"],
    "transfer-encoding": ["chunked"],
}


@pytest.mark.parametrize("together", [True, False], ids=["in-one-piece", "apart"])
@pytest.mark.parametrize(
    "trailer",
    [
        b"Authorization: Bearer x\r\n",
        b"Content-Type: application/json\r\nHost: elsewhere\r\n",
        b"Cookie: a=b\r\nOrigin: http://localhost\r\nX-Tenant-ID: another\r\n",
        b"X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    ],
)
def test_what_follows_a_chunked_body_is_no_header(
    server: Running, trailer: bytes, together: bool
) -> None:
    with Wire(server) as wire:
        if together:
            wire.send(CHUNKED + trailer + b"\r\n")
        else:
            wire.send(CHUNKED)
            for line in trailer.splitlines(keepends=True):
                wire.send(line)
            wire.send(b"\r\n")
        status, headers, body = wire.answer()
        assert (status, json.loads(body)) == (201, SENT)
        assert "connection" not in headers
        wire.send(GET)
        assert wire.answer()[0] == 200, "the next request is read as before"


@pytest.mark.parametrize(
    "trailers",
    [
        b"X-A: b\r\n" * 30 + b"\r\n",
        b"X-A: " + b"b" * 5000 + b"\r\n\r\n",
        b"X-A: " + b"b" * 600_000,  # more than is read at once
    ],
    ids=["many", "long", "endless"],
)
def test_trailers_are_bounded_with_the_headers(server: Running, trailers: bytes) -> None:
    with Wire(server) as wire:
        wire.send(CHUNKED)
        wire.send(trailers)
        status, _, body = wire.answer()
        assert (status, problem(body)["code"]) == (431, "headers-too-large")
        assert wire.rest() == b""


def test_rubbish_after_a_request_does_not_disturb_its_answer(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(b"GET /v1/slow?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\x00\x01\x02")
        status, _, body = wire.answer()
        assert (status, json.loads(body)) == (200, {"text": "slow"})
        assert wire.rest() == b""


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(
            b"GET /v1/slow?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            + GET
            + b"GET /v1/address HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answers = wire.rest()
        assert re.findall(rb'\{"[^}]*\}', answers) == [
            b'{"text":"slow"}',
            b'{"text":"hello"}',
            b'{"path":"/v1/address"}',
        ]


def test_of_pipelined_requests_no_more_wait_than_may(server: Running) -> None:
    """What is over that is not taken: it would grow for as long as a caller sends."""
    slow = b"GET /v1/slow?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = GET[:-2] + b"Connection: close\r\n\r\n"
    with Wire(server) as wire:
        wire.send(slow + (PIPELINED_MAX - 1) * GET + last)
        assert wire.rest().count(b"HTTP/1.1 200") == PIPELINED_MAX + 1
    with Wire(server) as wire:
        wire.send(slow + PIPELINED_MAX * GET + last)
        assert wire.rest().count(b"HTTP/1.1 200") == 1
    assert server.refused("pipelined-too-many") == 1


def test_nothing_is_served_after_connection_close(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
        assert wire.rest().count(b"HTTP/1.1 200") == 1


def test_an_upgrade_that_is_not_offered_is_served_as_plain_http(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert wire.answer()[0] == 200


def test_expect_100_continue_is_honoured_only_when_the_body_is_wanted(server: Running) -> None:
    head = (
        b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Length: 15\r\nContent-Type: "
    )
    with Wire(server) as wire:
        wire.send(head + b"application/json\r\n\r\n")
        assert wire.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b'{"text":"late"}')
        assert wire.answer()[0] == 201
    with Wire(server) as wire:
        wire.send(head + b"text/plain\r\n\r\n")
        assert wire.answer()[0] == 415


def test_head_has_the_headers_of_get_and_no_body(server: Running) -> None:
    with Wire(server) as wire:
        wire.send(GET.replace(b"GET", b"HEAD") + GET)
        head = b""
        while b"\r\n\r\n" not in head:
            head += wire.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"content-length: 16" in head
        assert wire.answer()[0] == 200


def test_a_port_that_is_taken_is_named(server: Running) -> None:
    with pytest.raises(Unavailable) as caught:
        bind_socket(f"127.0.0.1:{server.bound.port}")
    assert caught.value.code == "address-taken"
    assert str(server.bound.port) in caught.value.detail


@pytest.mark.parametrize("bind", ["", "8090", "localhost", "host:99999", "::1:80", "a b:1", ":80"])
def test_an_address_that_is_none_is_refused(bind: str) -> None:
    with pytest.raises(Invalid):
        bind_socket(bind)


# --- certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    directory = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    served = ca.issue_cert("localhost", "127.0.0.1")
    served.private_key_pem.write_to_path(directory / "server.key")
    (directory / "server.key").chmod(0o600)
    for blob in served.cert_chain_pems:
        blob.write_to_path(directory / "certificate.pem", append=True)
    ca.cert_pem.write_to_path(directory / "ca.pem")
    return ca, directory


def _tls(directory: Path, required: bool) -> Tls:
    return Tls(
        certificate=directory / "certificate.pem",
        key=directory / "server.key",
        client_authorities=directory / "ca.pem",
        client_required=required,
    )


def _context(ca: trustme.CA, client: trustme.LeafCert | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


CERTIFICATE = b"GET /v1/certificate HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_the_peer_certificate_is_in_the_scope(authority: tuple[trustme.CA, Path]) -> None:
    ca, directory = authority
    client = ca.issue_cert("drone-7@holdfast.test")
    with Running(ServeLimits(), tls=_tls(directory, required=True)) as running:
        assert running.bound.url.startswith("https://")
        with Wire(running, _context(ca, client)) as wire:
            wire.send(CERTIFICATE)
            _, _, body = wire.answer()
        expected = x509.load_pem_x509_certificate(client.cert_chain_pems[0].bytes())
        assert body == expected.public_bytes(Encoding.DER)


def _certificate_seen(running: Running, context: ssl.SSLContext) -> bytes:
    with Wire(running, context) as wire:
        wire.send(CERTIFICATE)
        return wire.answer()[2]


def test_without_a_certificate_the_handshake_fails_where_one_is_required(
    authority: tuple[trustme.CA, Path],
) -> None:
    ca, directory = authority
    stranger = trustme.CA().issue_cert("drone-7@holdfast.test")
    with Running(ServeLimits(), tls=_tls(directory, required=True)) as running:
        for client in (None, stranger):
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                _certificate_seen(running, _context(ca, client))


def test_without_a_certificate_the_scope_says_so_where_one_is_optional(
    authority: tuple[trustme.CA, Path],
) -> None:
    ca, directory = authority
    with (
        Running(ServeLimits(), tls=_tls(directory, required=False)) as running,
        Wire(running, _context(ca, None)) as wire,
    ):
        wire.send(CERTIFICATE)
        assert wire.answer()[2] == b"none"


def test_an_authority_that_was_removed_is_trusted_no_more(
    authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, directory = authority
    removed = trustme.CA()
    former, current = (each.issue_cert("drone-7@holdfast.test") for each in (removed, ca))
    both = tmp_path / "ca.pem"
    removed.cert_pem.write_to_path(both)
    ca.cert_pem.write_to_path(both, append=True)
    context = replace(_tls(directory, required=True), client_authorities=both).context()
    with Running(ServeLimits(), tls=context) as running:
        # One context of the caller's, so that it may offer to resume its session.
        caller = _context(ca, former)
        assert _certificate_seen(running, caller)
        both.write_text("no certificate")
        with pytest.raises(Invalid):
            renew(context)
        assert _certificate_seen(running, caller), "what cannot be read changes nothing"
        ca.cert_pem.write_to_path(both)
        renew(context)
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            _certificate_seen(running, caller)
        assert _certificate_seen(running, _context(ca, current))


def test_a_caller_trusts_no_server_of_an_authority_that_was_removed(
    authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, directory = authority
    both = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(both)
    trustme.CA().cert_pem.write_to_path(both, append=True)
    calling = ClientTls(both)

    async def ask(url: str) -> None:
        async with ApiClient.connect(url, verify=calling.context) as api:
            await api.get("/v1/certificate", type=bytes)

    with Running(ServeLimits(), tls=_tls(directory, required=False)) as running:
        asyncio.run(ask(running.bound.url))
        trustme.CA().cert_pem.write_to_path(both)
        renew(calling)
        with pytest.raises(Unavailable) as caught:
            asyncio.run(ask(running.bound.url))
        assert caught.value.code == "tls-refused"


def test_over_tls_time_and_early_answers_hold_too(authority: tuple[trustme.CA, Path]) -> None:
    ca, directory = authority
    with Running(LIMITS, tls=_tls(directory, required=False)) as running:
        with Wire(running, _context(ca, None)) as wire:
            wire.send(b"GET /v1/echo HTTP/1.1\r\n")
            assert wire.answer()[0] == 408
        with Wire(running, _context(ca, None)) as wire:
            wire.send(
                b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 3000000\r\n\r\n" + b"x" * 100_000
            )
            assert wire.answer()[0] == 413
        with socket.create_connection(("127.0.0.1", running.bound.port), timeout=30) as silent:
            assert silent.recv(100) == b"", "a handshake that does not come is given up"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH"])
def test_plain_http_at_a_tls_port_is_told_so_at_once(
    authority: tuple[trustme.CA, Path], method: str
) -> None:
    _, directory = authority
    # Nobody here waits for the end of a handshake: the answer comes first, or the test hangs.
    with (
        Running(ServeLimits(header_seconds=3600.0), tls=_tls(directory, required=True)) as running,
        Wire(running) as wire,
    ):
        body = b"x" * 200_000 if method in ("POST", "PATCH") else b""
        head = f"{method} /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        wire.send(head.encode() + b"\r\n\r\n" + body)
        status, headers, told = wire.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert b"this port speaks TLS; use https://" in told
        with contextlib.suppress(ConnectionError):
            while True:  # until it is cut off: what follows is bounded
                wire.send(b"y" * 100_000)


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(Invalid) as caught:
        Tls(certificate=tmp_path / "bad.pem", key=tmp_path / "bad.pem").context()
    assert "bad.pem" in caught.value.detail


# --- stopping


def test_a_stop_lets_requests_in_flight_finish_and_closes_idle_connections(
    tmp_path: Path,
) -> None:
    limits = ServeLimits(stop_seconds=PATIENCE_SECONDS)
    with Running(limits, app=application(tmp_path)) as running:
        with Wire(running) as idle, Wire(running) as busy:
            idle.send(GET)
            assert idle.answer()[0] == 200
            busy.send(b"GET /v1/held HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually((tmp_path / "held-began").exists)
            running.stop()
            assert idle.rest() == b""
            (tmp_path / "go").touch()
            status, headers, _ = busy.answer()
            assert (status, headers["connection"]) == (200, "close")
        assert running.joined()


def test_long_waits_are_told_that_the_server_stops(tmp_path: Path) -> None:
    limits = ServeLimits(stop_seconds=PATIENCE_SECONDS)
    with Running(limits, app=application(tmp_path)) as running:
        with Wire(running) as wire:
            wire.send(b"GET /v1/wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually((tmp_path / "wait-began").exists)
            running.stop()
            assert json.loads(wire.answer()[2]) == {"text": "told to stop"}
        assert running.joined()


def test_draining_is_bounded_and_what_is_cut_off_is_told(tmp_path: Path) -> None:
    with Running(ServeLimits(stop_seconds=0.3), app=application(tmp_path)) as running:
        with Wire(running) as wire:
            wire.send(b"GET /v1/held HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually((tmp_path / "held-began").exists)
            running.stop()
            assert wire.answer()[0] == 503
        assert running.joined()


def test_an_application_that_cannot_start_says_why_and_frees_the_port() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise HoldfastError("cannot start: the key is missing")

    with pytest.raises(HoldfastError, match="the key is missing"), Running(LIMITS, app=broken):
        pass


@pytest.mark.parametrize("when", ["start", "end"])
def test_what_the_lifespan_raises_is_what_serving_raises(when: str) -> None:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if when == "start":
            raise Unavailable("cannot start: the disk is gone")
        yield
        raise Unavailable("cannot start: the disk is gone")

    app = create_app(
        AppSpec(role="t", version="0", handlers=[], authenticate=anybody, lifespan=[lifespan])
    )
    with pytest.raises(Unavailable, match="the disk is gone"), Running(LIMITS, app=app):
        pass


class Program:
    """The application as a process of its own."""

    def __init__(self, marks: Path, stop_seconds: float) -> None:
        self.marks = marks
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.serving_program", str(marks), str(stop_seconds)],
            stderr=subprocess.PIPE,
        )
        eventually(self.has("url"))
        self.url = (marks / "url").read_text()

    def has(self, name: str) -> Callable[[], bool]:
        return (self.marks / name).exists

    def mark(self, name: str) -> None:
        (self.marks / name).touch()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()


def refuses(program: Program) -> bool:
    """Whether it takes connections no more."""
    try:
        httpx.get(f"{program.url}/v1/echo")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_the_lifespan(tmp_path: Path, number: int) -> None:
    with Program(tmp_path, PATIENCE_SECONDS) as program:
        answers: list[int] = []

        def ask() -> None:
            answer = httpx.get(f"{program.url}/v1/held", timeout=PATIENCE_SECONDS)
            answers.append(answer.status_code)

        caller = threading.Thread(target=ask)
        caller.start()
        eventually(program.has("held-began"))
        os.kill(program.process.pid, number)
        eventually(lambda: refuses(program))
        program.mark("go")
        caller.join(PATIENCE_SECONDS)
        assert answers == [200]
        assert program.process.wait(PATIENCE_SECONDS) == 0
        assert program.has("stopped")()
        assert program.has("returned")()


def test_a_second_signal_cuts_the_draining_short(tmp_path: Path) -> None:
    with Program(tmp_path, 10 * PATIENCE_SECONDS) as program:

        def ask() -> None:
            httpx.get(f"{program.url}/v1/held", timeout=10 * PATIENCE_SECONDS)

        caller = threading.Thread(target=ask)
        caller.start()
        eventually(program.has("held-began"))
        os.kill(program.process.pid, signal.SIGTERM)
        eventually(lambda: refuses(program))
        os.kill(program.process.pid, signal.SIGTERM)
        assert program.process.wait(PATIENCE_SECONDS) == 0
        assert program.has("stopped")(), "the lifespan ends in order all the same"
        caller.join(PATIENCE_SECONDS)


def test_while_it_leaves_everybody_is_answered_until_a_second_signal(tmp_path: Path) -> None:
    with Program(tmp_path, PATIENCE_SECONDS) as program:
        program.mark("stay")
        os.kill(program.process.pid, signal.SIGTERM)
        eventually(program.has("leaving"))
        answer = httpx.get(f"{program.url}/v1/echo", timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200
        os.kill(program.process.pid, signal.SIGTERM)
        assert program.process.wait(PATIENCE_SECONDS) == 0
        assert program.has("stopped")()
