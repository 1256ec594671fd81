"""What the door does when a role in another process dies under a request."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from holdfast.fleet.grants import Grants
from holdfast.gateway.proxy import CHUNK_BYTES, ROUTES, ProxyMiddleware, Repeats, RoleProxy
from holdfast.identity.hop import HEADER, HopSigner, HopVerifier
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.http.pool import RolePool
from holdfast.kernel.http.rates import RequestRates
from holdfast.kernel.http.standing import (
    CREDENTIAL_ENDED,
    RENEWED_SECONDS,
    STANDING,
    Standing,
    ended,
)
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.trusted import TrustedKeys
from tests.support.waiting import until

UNLIMITED = RequestRates().take
KEY = SigningKey.from_seed(b"\x01" * 32)
REPEATS = Repeats(pauses_seconds=(0.0, 0.0, 0.0), deadline_seconds=60.0)
FINE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n[1,2,3] "
NOTHING = b""
HEAD_ONLY = FINE[: FINE.index(b"\r\n\r\n") + 4]
HALF = FINE[:-3]
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 500
LIVE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\ndata: 1"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


class DyingRole:
    """Answers each connection with the next of ``answers``, then closes it; keeps what it saw."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Headers] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        self.requests.append(httpx.Headers([(name, value) for name, value in lines]))
        writer.write(self._answers.pop(0))
        await writer.drain()
        writer.close()


class Answered:
    """What the caller of the door got to see."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.starts = 0

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.starts = message["status"], self.starts + 1
        else:
            self.body += message.get("body", b"")


Ask = Callable[..., Awaitable[Answered]]


@asynccontextmanager
async def door(
    role: DyingRole,
    repeats: Repeats = REPEATS,
    take: Callable[[Principal], None] = UNLIMITED,
    standing: Callable[[], Awaitable[float]] | None = None,
) -> AsyncIterator[Ask]:
    """A door in front of one role that listens on loopback."""
    clock = SystemClock()
    server = await asyncio.start_server(role, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def authenticate(scope: Any) -> Any:
        if standing is not None:
            scope[STANDING] = Standing(standing, clock.monotonic(), clock)
        return operator()

    async with server, httpx.AsyncClient(transport=RolePool(), timeout=60) as client:
        signer = HopSigner("gateway", KEY, clock, id_source(clock))
        proxy = RoleProxy({"aggregator": url, "ledger": url}, signer, client, clock, repeats)
        grants = Grants(TrustedKeys(), clock)
        middleware = ProxyMiddleware(None, proxy, authenticate, grants, take)

        async def ask(
            method: str, answered: Answered | None = None, path: str = "/v1/records"
        ) -> Answered:
            answered = answered or Answered()
            scope = {
                "type": "http", "method": method, "path": path, "query_string": b"a=1",
                "raw_path": path.encode(), "headers": [(b"authorization", b"x")],
            }  # fmt: skip

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            await middleware(scope, receive, answered.send)
            return answered

        yield ask


class HeldRole(DyingRole):
    """Answers with the beginning of something, and goes on until nobody listens any more."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answers.pop(0))
        with suppress(ConnectionError):
            await reader.read()
        self.left.set()
        writer.close()


def begun(kind: str, body: bytes) -> bytes:
    """The beginning of an answer that says of no end."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%b\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("path", "answer", "last"),
    [
        ("/v1/records", begun("text/event-stream", b"data: 1\n\n"), b"event: problem\ndata: {"),
        ("/v1/records", begun("text/event-stream", b"data: 1"), None),
        ("/v1/ledger/pipeline", begun("application/x-ndjson", b"{}\n"), b'{"line":0,"problem":{'),
        ("/v1/ledger/pipeline", begun("application/x-ndjson", b"{"), None),
        ("/v1/records", begun("application/x-ndjson", b"{}\n"), None),
    ],
    ids=["events", "within an event", "pipeline", "within a line", "lines"],
)
async def test_what_is_passed_on_ends_with_the_credential_and_says_why_where_it_can(
    path: str, answer: bytes, last: bytes | None
) -> None:
    role, answered = HeldRole(answer), Answered()
    over = False

    async def ask_again() -> float:
        if over:
            raise ended()
        return time.monotonic() - RENEWED_SECONDS  # and so once more at once

    async with door(role, standing=ask_again) as ask:
        asking = asyncio.ensure_future(ask("POST", answered, path))
        await until(lambda: bool(answered.body))
        sent, over = answered.body, True
        if last is None:
            with pytest.raises(Unauthenticated):  # the server cuts it off then
                await asking
            assert answered.body == sent
        else:
            await asking
            assert answered.body.startswith(sent + last)
            assert CREDENTIAL_ENDED.encode() in answered.body
        assert (answered.status, answered.starts) == (200, 1)
        await role.left.wait()


@pytest.mark.parametrize(
    "lost", [NOTHING, HEAD_ONLY, HALF], ids=["before the head", "before the body", "half-way"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_safe_request_whose_role_died_is_asked_again(method: str, lost: bytes) -> None:
    if method == "HEAD":
        lost = lost[:20]
    role = DyingRole(lost, NOTHING, FINE if method == "GET" else HEAD_ONLY)
    async with door(role) as ask:
        answered = await ask(method)
    assert (answered.status, answered.starts) == (200, 1)
    assert answered.body == (b"[1,2,3] " if method == "GET" else b"")
    assert len(role.requests) == 3


async def test_each_ask_carries_a_token_of_its_own_that_fits() -> None:
    role = DyingRole(NOTHING, FINE)
    async with door(role) as ask:
        await ask("GET")
    clock = ManualClock(datetime.now(UTC))
    verifier = HopVerifier("aggregator", TrustedKeys({"gateway": [KEY.public_jwk()]}), clock)
    for headers in role.requests:
        hop = verifier.verify(headers[HEADER], "GET", "/v1/records?a=1")
        assert (hop.principal, hop.body) == (operator(), digest(b""))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_role_that_takes_no_token_of_ours_is_no_fault_of_whoever_asks(method: str) -> None:
    refused = FINE.replace(b"200 OK", b"401 Unauthorized")
    refused = refused.replace(b"\r\n", b"\r\nholdfast-hop-refused: token-invalid\r\n", 1)
    role = DyingRole(refused, refused)
    async with door(role) as ask:
        answered = await ask(method)
    told = json.loads(answered.body)
    assert (answered.status, told["code"], len(role.requests)) == (503, "hop-refused", 1)
    assert "aggregator" in told["detail"]
    assert "gateway.pub.jwk" in told["hint"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_what_may_have_changed_something_is_never_asked_again(method: str) -> None:
    role = DyingRole(NOTHING, FINE)
    async with door(role) as ask:
        answered = await ask(method)
    assert answered.status == 503
    assert b"outcome-unknown" in answered.body
    assert len(role.requests) == 1


@pytest.mark.parametrize("begun", [LONG, LIVE], ids=["long", "live"])
async def test_an_answer_that_has_begun_is_not_begun_again(begun: bytes) -> None:
    """What the caller has of it stays all there is; the connection ends without an end."""
    role = DyingRole(begun, FINE)
    answered = Answered()
    async with door(role) as ask:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask("GET", answered)
    assert answered.body == begun.partition(b"\r\n\r\n")[2]
    assert (answered.starts, len(role.requests)) == (1, 1)


async def test_a_role_that_stays_away_is_asked_a_few_times_only() -> None:
    role = DyingRole(NOTHING, NOTHING, NOTHING, NOTHING, FINE)
    async with door(role) as ask:
        answered = await ask("GET")
    assert answered.status == 503
    assert b"role-unreachable" in answered.body
    assert b"outcome-unknown" not in answered.body
    assert len(role.requests) == 4


async def test_no_ask_begins_after_the_deadline() -> None:
    role = DyingRole(NOTHING, FINE)
    async with door(role, Repeats(pauses_seconds=(60.0,), deadline_seconds=30.0)) as ask:
        answered = await ask("GET")
    assert (answered.status, len(role.requests)) == (503, 1)


async def test_who_asks_too_often_is_told_so_wherever_the_role_is() -> None:
    role = DyingRole(FINE, FINE)
    async with door(role, take=RequestRates(principal=1, monotonic=lambda: 0.0).take) as ask:
        answers = [await ask("GET"), await ask("GET")]
    assert [answered.status for answered in answers] == [200, 429]
    assert b"rate-exceeded" in answers[1].body
    assert len(role.requests) == 1


async def test_an_answer_is_an_answer_even_if_it_is_a_refusal() -> None:
    role = DyingRole(REFUSED, FINE)
    async with door(role) as ask:
        answered = await ask("GET")
    assert (answered.status, len(role.requests)) == (503, 1)


def test_no_path_is_two_roles() -> None:
    assert sorted(dict(ROUTES)) == sorted(path for path, _ in ROUTES)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 1024**2, 1024**2 + 1, 5 * 1024**2 + 7])
async def test_a_body_goes_on_whole_and_no_disk_holds_up_the_others(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    body = random.Random(size).randbytes(size)
    arrived: list[bytes] = []
    workers: set[int] = set()

    async def role(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % size in head.lower()
        arrived.append(await reader.readexactly(size))
        writer.write(FINE)
        await writer.drain()
        writer.close()

    def seen(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            workers.add(threading.get_ident())
            return call(*arguments)

        return called

    for name in ("dup", "write", "pread"):
        monkeypatch.setattr(os, name, seen(getattr(os, name)))
    sent = iter(range(0, max(size, 1), CHUNK_BYTES))

    async def receive() -> dict[str, Any]:
        at = next(sent)
        piece = body[at : at + CHUNK_BYTES]
        return {"type": "http.request", "body": piece, "more_body": at + CHUNK_BYTES < size}

    scope = {
        "type": "http", "method": "POST", "path": "/v1/ledger/events", "query_string": b"",
        "raw_path": b"/v1/ledger/events", "headers": [],
    }  # fmt: skip
    clock, answered = SystemClock(), Answered()
    server = await asyncio.start_server(role, "127.0.0.1", 0, limit=2**16)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, httpx.AsyncClient(transport=RolePool(), timeout=60) as client:
        proxy = RoleProxy(
            {"ledger": url}, HopSigner("gateway", KEY, clock, id_source(clock)), client, clock
        )
        await proxy.forward(scope, receive, answered.send, operator())
    assert (answered.status, arrived) == (200, [body])
    assert threading.get_ident() not in workers
    assert bool(workers) == (size > 1024**2)
