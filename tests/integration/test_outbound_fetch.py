"""The outbound client against real servers on loopback: guard, bounds, redirects, retries, TLS.

Loopback is not public, so each test names the exact host and port it may contact, as an operator
would; everything else on loopback must stay out of reach.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from holdfast.collect.fixtures import Fault, FixtureServer
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.outbound import (
    AddressInvalid,
    AddressRefused,
    Fetched,
    FetchLimits,
    FileResolver,
    OutboundClient,
    OutboundRequest,
    OutboundSettings,
    RedirectRefused,
    ReplayMap,
    ResponseTooLarge,
    SourceBusy,
    SourceUnavailable,
    SpoolFailed,
)

ONCE = FetchLimits(retries=0)
CONTENT = "a,b\n1,2\n3,4\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class QuickClock(SystemClock):
    """Does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


class CountingResolver(FileResolver):
    """Remembers what was asked."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        super().__init__(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return await super().resolve(host)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    directory = tmp_path / "recordings"
    directory.mkdir()
    (directory / "table.csv").write_text(CONTENT, encoding="utf-8")
    (directory / "other.csv").write_text("other\n", encoding="utf-8")
    (directory / "big.json").write_text(json.dumps(list(range(60_000))), encoding="utf-8")
    with gzip.open(directory / "packed.json.gz", "wb") as stream:
        stream.write(b'[{"a": 1}]')
    return directory


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


@pytest.fixture
async def server(recordings: Path) -> AsyncIterator[FixtureServer]:
    async with FixtureServer(recordings) as running:
        yield running


@pytest.fixture
async def client(server: FixtureServer) -> AsyncIterator[OutboundClient]:
    async with connected(server) as opened:
        yield opened


def connected(*servers: FixtureServer, **options: object) -> OutboundClient:
    settings = OutboundSettings(
        allow=frozenset(server.host_port for server in servers), contact="ops@office.test"
    )
    return OutboundClient(settings, **{"clock": QuickClock(), **options})


def fault(server: FixtureServer, kind: str, **members: object) -> None:
    server.faults.replace([Fault(kind=kind, **members)])


async def refused(
    client: OutboundClient, spool: Path, request: OutboundRequest | str
) -> HoldfastError:
    """The failure of a fetch that must fail, having left no file behind."""
    if isinstance(request, str):
        request = OutboundRequest(url=request, limits=ONCE)
    with pytest.raises(HoldfastError) as failure:
        await client.fetch(request, spool)
    assert list(spool.iterdir()) == []
    return failure.value


async def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for cannot set an event
            await asyncio.sleep(0.01)


async def test_a_thread_that_writes_late_writes_into_no_other_file(
    client: OutboundClient, server: FixtureServer, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow and the fetch is given up: its file's number must not become another's."""
    write, begun, go, over = os.write, threading.Event(), threading.Event(), threading.Event()

    def slowly(number: int, data: bytes) -> int:
        if bytes(data) != CONTENT.encode():
            return write(number, data)
        begun.set()
        go.wait(10)
        try:
            return write(number, data)
        finally:
            over.set()

    monkeypatch.setattr(os, "write", slowly)
    fetch = OutboundRequest(url=f"{server.url}/table.csv", limits=ONCE)
    waiting = asyncio.create_task(client.fetch(fetch, spool))
    await until(begun.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    others = [spool / str(number) for number in range(20)]
    files = [path.open("wb") for path in others]
    go.set()
    await until(over.is_set)
    for file in files:
        file.close()
    assert [path.read_bytes() for path in others] == [b""] * 20


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """A server that does with the connection whatever ``handler`` does; yields host:port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    running = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{running.sockets[0].getsockname()[1]}"
    finally:
        running.close()
        await running.wait_closed()


def answering(*answers: bytes, connections: list[int] | None = None) -> Handler:
    """Answers the requests of each connection in turn, then closes in order."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(1)
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return handler


@asynccontextmanager
async def raw_client(host_port: str, **options: object) -> AsyncIterator[OutboundClient]:
    settings = OutboundSettings(allow=frozenset({host_port}))
    async with OutboundClient(settings, **{"clock": QuickClock(), **options}) as opened:
        yield opened


# --- what comes back ------------------------------------------------------------------------------


async def test_a_body_is_on_disk_with_its_digest_and_where_it_came_from(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    url = f"{server.url}/table.csv?a=1"
    fetched = await client.fetch(OutboundRequest(url=url, headers={"Accept": "text/csv"}), spool)
    assert fetched.path is not None
    assert fetched.path.read_text(encoding="utf-8") == CONTENT
    assert fetched.path.stat().st_mode & 0o077 == 0
    assert fetched.digest == "sha256:" + hashlib.sha256(CONTENT.encode()).hexdigest()
    assert fetched.size_bytes == fetched.wire_bytes == len(CONTENT)
    assert (fetched.status, fetched.media_type, fetched.charset) == (200, "text/csv", "")
    assert fetched.url == fetched.final_url == url
    assert fetched.address == server.host_port
    assert (fetched.requests, fetched.replayed, fetched.not_modified) == (1, False, False)
    assert fetched.framing == "length"
    assert fetched.etag.startswith('"')
    seen = server.requests[0].headers
    assert seen["user-agent"].startswith("Holdfast/")
    assert seen["user-agent"].endswith(" (+ops@office.test)")
    assert seen["host"] == server.host_port
    assert seen["accept"] == "text/csv"
    assert "cookie" not in seen
    assert "referer" not in seen


async def test_content_codings_are_removed_before_the_digest_is_taken(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    fetched = await client.fetch(OutboundRequest(url=f"{server.url}/packed.json"), spool)
    assert fetched.path is not None
    assert fetched.path.read_bytes() == b'[{"a": 1}]'
    assert fetched.wire_bytes != fetched.size_bytes == 10
    fault(server, "gzip")
    fetched = await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
    assert fetched.size_bytes == len(CONTENT)
    assert fetched.framing == "chunked"


async def test_an_unchanged_source_answers_304_and_leaves_no_file(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    url = f"{server.url}/table.csv"
    first = await client.fetch(OutboundRequest(url=url), spool)
    assert first.path is not None
    first.path.unlink()
    for validators in ({"etag": first.etag}, {"last_modified": first.last_modified}):
        again = await client.fetch(OutboundRequest(url=url, **validators), spool)
        assert (again.status, again.not_modified, again.path) == (304, True, None)
        assert (again.size_bytes, again.digest, again.etag) == (0, "", first.etag)
    assert list(spool.iterdir()) == []
    changed = await client.fetch(OutboundRequest(url=url, etag='"old"'), spool)
    assert not changed.not_modified


@pytest.mark.parametrize("etag", ['"é€"', '"é"', '"a\x80"'])
async def test_a_validator_that_cannot_be_sent_back_is_no_reason_not_to_ask(
    spool: Path, etag: str
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: " + etag.encode() + b"\r\n\r\nhi"
    async with raw_server(answering(answer, answer)) as url, raw_client(url) as client:
        first = await client.fetch(OutboundRequest(url=f"http://{url}/", limits=ONCE), spool)
        assert first.etag
        again = OutboundRequest(url=f"http://{url}/", etag=first.etag, limits=ONCE)
        assert (await client.fetch(again, spool)).size_bytes == 2


async def test_a_304_that_was_not_asked_for_is_an_error(spool: Path) -> None:
    async with raw_server(answering(b"HTTP/1.1 304 \r\n\r\n")) as at, raw_client(at) as client:
        failure = await refused(client, spool, f"http://{at}/")
    assert (failure.code, failure.status) == ("status", 304)


async def test_a_body_that_the_connection_ends_is_reported_as_such(spool: Path) -> None:
    answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/csv; charset=Latin1\r\n\r\nabc"
    async with raw_server(answering(answer)) as at, raw_client(at) as client:
        fetched = await client.fetch(OutboundRequest(url=f"http://{at}/"), spool)
    assert (fetched.framing, fetched.size_bytes, fetched.charset) == ("close", 3, "latin1")


async def test_an_empty_answer_is_an_empty_file(spool: Path) -> None:
    async with raw_server(answering(b"HTTP/1.1 204 \r\n\r\n")) as at, raw_client(at) as client:
        fetched = await client.fetch(OutboundRequest(url=f"http://{at}/"), spool)
    assert fetched.path is not None
    assert fetched.path.read_bytes() == b""


async def test_a_query_is_posted(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    request = OutboundRequest(url=f"{server.url}/table.csv", method="POST", body=b'{"q": 1}')
    await client.fetch(request, spool)
    assert (server.requests[0].method, server.requests[0].size_bytes) == ("POST", 8)
    assert server.requests[0].headers["content-type"] == "application/json"


# --- the guard ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1.", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::]", "0.0.0.0", "2130706433", "0x7f000001",
        "0177.0.0.1", "127.1", "trusted.test@127.0.0.1", "127.0.0.1%23.trusted.test",
        "169.254.169.254", "private.test", "PRIVATE.test.", "mixed.test", "mapped.test",
    ],
)  # fmt: skip
async def test_nothing_private_is_contacted_under_any_name(
    server: FixtureServer, spool: Path, host: str
) -> None:
    resolver = FileResolver(
        {
            "localhost": [["127.0.0.1"]],
            "private.test": [["127.0.0.1"]],
            "mixed.test": [["93.184.216.34", "127.0.0.1"]],
            "mapped.test": [["::ffff:127.0.0.1"]],
        }
    )
    port = server.host_port.rpartition(":")[2]
    # Another address of the same machine is allowed, and the same one on another port.
    settings = OutboundSettings(allow=frozenset({"127.0.0.2:80", "127.0.0.1:1"}))
    async with OutboundClient(settings, resolver=resolver, clock=QuickClock()) as client:
        failure = await refused(client, spool, f"http://{host}:{port}/table.csv")
    assert isinstance(failure, AddressRefused | AddressInvalid)
    assert server.count() == 0


async def test_a_name_that_rebinds_is_never_followed_home(
    server: FixtureServer, spool: Path
) -> None:
    port = server.host_port.rpartition(":")[2]
    resolver = CountingResolver({"rebind.test": [["93.184.216.34"], ["127.0.0.1"]]})
    limits = FetchLimits(retries=1, connect_seconds=0.2, total_seconds=5)
    async with OutboundClient(resolver=resolver, clock=QuickClock()) as client:
        request = OutboundRequest(url=f"http://rebind.test:{port}/table.csv", limits=limits)
        failure = await refused(client, spool, request)
    # The first answer was public and was connected to (nobody is there); the second was refused.
    assert isinstance(failure, AddressRefused)
    assert resolver.asked == ["rebind.test", "rebind.test"]
    assert server.count() == 0


async def test_the_address_that_was_checked_is_the_one_connected_to(
    server: FixtureServer, spool: Path
) -> None:
    port = server.host_port.rpartition(":")[2]
    resolver = CountingResolver({"pinned.test": [["127.0.0.1"], ["127.0.0.9"]]})
    settings = OutboundSettings(allow=frozenset({f"pinned.test:{port}"}))
    async with OutboundClient(settings, resolver=resolver) as client:
        fetched = await client.fetch(
            OutboundRequest(url=f"http://pinned.test:{port}/table.csv"), spool
        )
    assert fetched.address == server.host_port
    assert resolver.asked == ["pinned.test"]
    assert server.requests[0].headers["host"] == f"pinned.test:{port}"


async def test_where_a_name_leads_is_told_to_the_log_only(spool: Path) -> None:
    resolver = FileResolver({"intranet.test": [["10.20.30.40"]]})
    async with OutboundClient(resolver=resolver) as client:
        failure = await refused(client, spool, "http://intranet.test/")
    assert "10.20.30.40" not in failure.detail + failure.hint
    assert "10.20.30.40" in failure.internal


async def test_an_address_that_does_not_answer_is_passed_over(
    server: FixtureServer, spool: Path
) -> None:
    port = server.host_port.rpartition(":")[2]
    resolver = FileResolver({"two.test": [["127.0.0.77", "127.0.0.1"]]})
    settings = OutboundSettings(allow=frozenset({f"two.test:{port}"}))
    async with OutboundClient(settings, resolver=resolver) as client:
        fetched = await client.fetch(
            OutboundRequest(url=f"http://two.test:{port}/table.csv"), spool
        )
    assert fetched.address == server.host_port


async def test_proxy_variables_are_ignored(
    client: OutboundClient,
    server: FixtureServer,
    recordings: Path,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FixtureServer(recordings) as trap:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY",
                     "ALL_PROXY"):  # fmt: skip
            monkeypatch.setenv(name, trap.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with connected(server) as fresh:
            await fresh.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
        await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
        assert (server.count(), trap.count()) == (2, 0)


async def test_a_header_cannot_smuggle_another(client: OutboundClient, spool: Path) -> None:
    for headers in (
        {"X-A": "b\r\nX-Evil: c"},
        {"X-A\r\nX-Evil": "b"},
        {"X-A": "\x00"},
        {"Host": "evil.test"},
        {"content-length": "5"},
        {"Cookie": "a=b"},
        {"": "b"},
        {"X-A": " b"},
        {"X-A": "b\t"},
    ):
        for member in ("headers", "secret_headers"):
            request = OutboundRequest(url="http://public.test/", **{member: headers})
            assert isinstance(await refused(client, spool, request), Invalid)
    with pytest.raises(Invalid):
        OutboundClient(OutboundSettings(contact="a\r\nX-Evil: b"))


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/table.csv",
        "http://localhost:{other}/table.csv",
        "//127.0.0.1:{other}/table.csv",
        "http://[::ffff:127.0.0.1]:{other}/table.csv",
        "http://[64:ff9b::7f00:1]:{other}/table.csv",
        "http://2130706433:{other}/table.csv",
        "http://0177.0.0.1:{other}/table.csv",
        "http://a@127.0.0.1:{other}/table.csv",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ftp://127.0.0.1:{other}/",
        "http:\\\\127.0.0.1:{other}\\table.csv",
    ],
)
async def test_a_redirect_is_checked_like_a_first_address(
    client: OutboundClient,
    server: FixtureServer,
    recordings: Path,
    spool: Path,
    location: str,
) -> None:
    async with FixtureServer(recordings) as inside:
        port = inside.host_port.rpartition(":")[2]
        fault(server, "redirect", location=location.format(other=port))
        failure = await refused(client, spool, f"{server.url}/table.csv")
        assert isinstance(failure, AddressRefused | AddressInvalid)
        assert inside.count() == 0
    assert failure.facts.requests == 1


async def test_a_loop_is_noticed_and_a_chain_has_an_end(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    fault(server, "redirect-loop")
    failure = await refused(client, spool, f"{server.url}/table.csv")
    assert isinstance(failure, RedirectRefused)
    assert server.count() == 1
    server.forget_requests()
    fault(server, "redirect-chain")
    failure = await refused(client, spool, f"{server.url}/table.csv")
    assert isinstance(failure, RedirectRefused)
    assert "redirects_max" in failure.detail
    assert server.count() == 6


async def test_as_many_redirects_as_allowed_are_followed(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    fault(server, "redirect-chain", times=5)
    fetched = await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
    assert fetched.requests == 6
    assert fetched.url == f"{server.url}/table.csv"
    assert fetched.final_url.startswith(f"{server.url}/table.csv?hop=")


async def test_what_was_meant_for_one_origin_is_not_shown_to_another(
    server: FixtureServer, recordings: Path, spool: Path
) -> None:
    async with FixtureServer(recordings) as elsewhere, connected(server, elsewhere) as client:
        request = OutboundRequest(
            url=f"{server.url}/table.csv",
            headers={"Accept": "text/csv", "X-Custom": "mine", "Authorization": "Basic eHl6"},
            secret_headers={"X-Api-Key": "s3cr3t-value"},
        )
        fault(server, "redirect", location="/other.csv", path="/table.csv", times=1)
        await client.fetch(request, spool)
        same = server.requests[1].headers
        assert (same["x-api-key"], same["x-custom"]) == ("s3cr3t-value", "mine")
        fault(server, "redirect", location=f"{elsewhere.url}/other.csv", times=1)
        fetched = await client.fetch(request, spool)
        first, then = server.requests[2].headers, elsewhere.requests[0].headers
        assert first["authorization"] == "Basic eHl6"
        assert fetched.address == elsewhere.host_port
        assert then["accept"] == "text/csv"
        assert not {"x-api-key", "x-custom", "authorization"} & set(then)


async def test_a_next_page_elsewhere_gets_no_more_than_a_redirect_would(
    server: FixtureServer, recordings: Path, spool: Path
) -> None:
    async with FixtureServer(recordings) as elsewhere, connected(server, elsewhere) as client:

        def page(url: str, first_url: str, body: bytes = b"") -> OutboundRequest:
            return OutboundRequest(
                url=url,
                first_url=first_url,
                method="POST" if body else "GET",
                body=body,
                secret_headers={"X-Api-Key": "s3cr3t-value"},
                limits=ONCE,
            )

        await client.fetch(page(f"{server.url}/other.csv", f"{server.url}/table.csv"), spool)
        await client.fetch(page(f"{elsewhere.url}/other.csv", f"{server.url}/table.csv"), spool)
        assert server.requests[0].headers["x-api-key"] == "s3cr3t-value"
        assert "x-api-key" not in elsewhere.requests[0].headers
        for path in spool.iterdir():
            path.unlink()
        # A public source's answer does not open what was allowed for another purpose.
        failure = await refused(client, spool, page(f"{server.url}/x", "http://93.184.216.34/"))
        assert isinstance(failure, AddressRefused)
        failure = await refused(client, spool, page(f"{server.url}/x", "https://a.test/"))
        assert isinstance(failure, RedirectRefused)
        failure = await refused(client, spool, page(f"{elsewhere.url}/x", server.url, b"{}"))
        assert isinstance(failure, RedirectRefused)
        assert (server.count(), elsewhere.count()) == (1, 1)


async def test_a_posted_query_becomes_a_get_or_stays_at_its_origin(
    server: FixtureServer, recordings: Path, spool: Path
) -> None:
    async with FixtureServer(recordings) as elsewhere, connected(server, elsewhere) as client:
        request = OutboundRequest(
            url=f"{server.url}/table.csv", method="POST", body=b"{}", limits=ONCE
        )
        for status, method in ((302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
            server.forget_requests()
            fault(server, "redirect", location="/other.csv", status=status, times=1)
            fetched = await client.fetch(request, spool)
            assert fetched.path is not None
            fetched.path.unlink()
            assert [seen.method for seen in server.requests] == ["POST", method]
        fault(server, "redirect", location=f"{elsewhere.url}/other.csv", status=307)
        assert isinstance(await refused(client, spool, request), RedirectRefused)
        assert elsewhere.count() == 0


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "members", "limits", "bound"),
    [
        ("huge", {"size_bytes": 10**12}, {"size_bytes_max": 100_000}, "size_bytes_max"),
        ("gzip-bomb", {"size_bytes": 10**10}, {"ratio_max": 100}, "ratio_max"),
        ("gzip-bomb", {"size_bytes": 10**10}, {"size_bytes_max": 500_000}, "size_bytes_max"),
        ("headers", {"size_bytes": 200_000}, {}, "header_bytes_max"),
        ("headers", {"size_bytes": 20_000}, {"header_bytes_max": 10_000}, "header_bytes_max"),
    ],
)
async def test_what_is_too_large_is_refused_by_the_name_of_its_bound(
    client: OutboundClient,
    server: FixtureServer,
    spool: Path,
    kind: str,
    members: dict[str, int],
    limits: dict[str, int],
    bound: str,
) -> None:
    fault(server, kind, **members)
    request = OutboundRequest(url=f"{server.url}/table.csv", limits=FetchLimits(**limits))
    failure = await refused(client, spool, request)
    assert isinstance(failure, ResponseTooLarge)
    assert failure.bound == bound
    assert bound in failure.detail
    assert server.count() == 1  # asking again would bring the same


@pytest.mark.parametrize(
    ("kind", "members", "limits", "bound"),
    [
        ("silent", {}, {"idle_seconds": 0.05}, "idle_seconds"),
        ("delay", {"seconds": 30}, {"idle_seconds": 0.05}, "idle_seconds"),
        ("slow", {"bytes_per_second": 10}, {"total_seconds": 0.2}, "total_seconds"),
        ("silent", {}, {"total_seconds": 0.05}, "total_seconds"),
    ],
)
async def test_what_takes_too_long_is_given_up_by_the_name_of_its_bound(
    client: OutboundClient,
    server: FixtureServer,
    spool: Path,
    kind: str,
    members: dict[str, float],
    limits: dict[str, float],
    bound: str,
) -> None:
    fault(server, kind, **members)
    request = OutboundRequest(
        url=f"{server.url}/table.csv", limits=FetchLimits(retries=0, **limits)
    )
    failure = await refused(client, spool, request)
    assert isinstance(failure, SourceUnavailable)
    assert (failure.code, failure.bound) == ("timeout", bound)
    assert bound in failure.detail


async def test_a_connection_nobody_accepts_is_given_up(spool: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        queued = [socket.socket() for _ in range(3)]
        try:
            for waiting in queued:
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            limits = FetchLimits(retries=0, connect_seconds=0.1)
            async with raw_client(f"127.0.0.1:{port}") as client:
                request = OutboundRequest(url=f"http://127.0.0.1:{port}/", limits=limits)
                failure = await refused(client, spool, request)
        finally:
            for waiting in queued:
                waiting.close()
    assert isinstance(failure, SourceUnavailable)
    assert (failure.code, failure.bound) == ("timeout", "connect_seconds")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\nshort", "truncated"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "truncated"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello", "truncated"),
        (b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nlonger", "protocol-error"),
        (b"HTTP/1.1 200 \r\nContent-Length: 3\r\nConnection: close\r\n\r\nlonger",
         "protocol-error"),
        (b"HTTP/1.1 200 \r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
         "protocol-error"),
        (b"HTTP/1.1 200 \r\nContent-Length: -3\r\n\r\nabc", "protocol-error"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol-error"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", "protocol-error"),
        (b"HTTP/1.1 200 \r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\n"
         + gzip.compress(b"hello", mtime=0)[:12], "truncated"),
        (b"HTTP/1.1 200 \r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
         "protocol-error"),
        (b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "protocol-error"),
        (b"HTTP/1.1 100 \r\n\r\n" * 50, "protocol-error"),
        (b"SSH-2.0-OpenSSH_9.0\r\n\r\n", "protocol-error"),
        (b"HTTP/1.1 200 \r\nContent-Le", "truncated"),
        (b"", "unreachable"),
        (b"HTTP/1.1 206 \r\nContent-Length: 3\r\n\r\nabc", "status"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_whole_is_an_error_never_a_short_body(
    spool: Path, answer: bytes, code: str
) -> None:
    async with raw_server(answering(answer)) as at, raw_client(at) as client:
        failure = await refused(client, spool, f"http://{at}/")
    assert isinstance(failure, SourceUnavailable)
    assert failure.code == code


@pytest.mark.parametrize(
    ("kind", "members", "code"),
    [
        ("cut", {}, "truncated"),
        ("cut", {"after_bytes": 0}, "truncated"),
        ("wrong-length", {"delta": 5}, "truncated"),
        ("wrong-length", {"delta": -5}, "protocol-error"),
        ("reset", {}, "unreachable"),
    ],
)
async def test_a_body_cut_on_the_way_is_fetched_again_and_whole(
    client: OutboundClient,
    server: FixtureServer,
    spool: Path,
    kind: str,
    members: dict[str, int],
    code: str,
) -> None:
    fault(server, kind, **members)
    failure = await refused(client, spool, f"{server.url}/table.csv")
    assert failure.code == code
    fault(server, kind, times=2, **members)
    fetched = await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
    assert fetched.size_bytes == len(CONTENT)
    assert fetched.requests == 3
    assert list(spool.iterdir()) == [fetched.path]


async def test_a_length_past_the_bound_is_refused_before_the_body_is_read(spool: Path) -> None:
    answer = b"HTTP/1.1 200 \r\nContent-Length: 99999999999999999999\r\n\r\n"
    async with raw_server(answering(answer)) as at, raw_client(at) as client:
        failure = await refused(client, spool, f"http://{at}/")
    assert isinstance(failure, ResponseTooLarge)
    assert failure.bound == "size_bytes_max"


async def test_no_bytes_of_a_source_make_it_fail_in_an_unknown_way(spool: Path) -> None:
    chance = random.Random(20_261_121)
    whole = [
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b; charset=x\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 302 \r\nLocation: /x?y=z#a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 \r\nRetry-After: Mon, 01 Jan 2029 00:00:00 +0100\r\n"
        b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n"
        + gzip.compress(b"hello", mtime=0),
    ]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            at, what = chance.randrange(len(answer)), chance.randrange(3)
            if what == 0:
                answer[at] = chance.randrange(256)
            elif what == 1:
                del answer[at : at + chance.randrange(1, 9)]
            else:
                answer[at:at] = chance.randbytes(chance.randrange(1, 5))
            answer = answer or bytearray(b"x")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    outcomes = set()
    async with raw_server(handler) as at, raw_client(at) as client:
        for _ in range(400):
            try:
                request = OutboundRequest(url=f"http://{at}/", limits=ONCE)
                fetched = await client.fetch(request, spool)
            except HoldfastError as error:
                outcomes.add(error.code)
                assert list(spool.iterdir()) == []
            else:
                outcomes.add("fetched")
                assert fetched.path is not None
                assert fetched.path.stat().st_size == fetched.size_bytes
                fetched.path.unlink()
    assert {"fetched", "truncated", "protocol-error", "status", "source-busy"} <= outcomes


# --- retries --------------------------------------------------------------------------------------


async def test_a_passing_failure_is_waited_out_ever_longer(
    server: FixtureServer, spool: Path
) -> None:
    clock = QuickClock()
    fault(server, "status", status=503, times=3)
    async with connected(server, clock=clock, random=lambda: 0.0) as client:
        fetched = await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
    assert fetched.requests == server.count() == 4
    assert clock.waits == [0.25, 0.5, 1.0]


async def test_the_jitter_comes_from_outside_and_stays_below_the_ceiling(
    server: FixtureServer, spool: Path
) -> None:
    clock = QuickClock()
    fault(server, "status", status=500)
    limits = FetchLimits(retries=4, backoff_seconds=4, backoff_seconds_max=10)
    async with connected(server, clock=clock, random=lambda: 0.5) as client:
        request = OutboundRequest(url=f"{server.url}/table.csv", limits=limits)
        failure = await refused(client, spool, request)
    assert clock.waits == [3.0, 6.0, 7.5, 7.5]
    assert (failure.code, failure.status, failure.facts.requests) == ("status", 500, 5)


async def test_retry_after_is_honoured_in_seconds_and_as_a_date(
    server: FixtureServer, spool: Path
) -> None:
    for value, low, high in (
        ("7", 7, 7),
        (f"{datetime.now(UTC) + timedelta(seconds=20):%a, %d %b %Y %H:%M:%S GMT}", 17, 20),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.25, 0.5),
        ("soon", 0.25, 0.5),
    ):
        clock = QuickClock()
        fault(server, "status", status=429, retry_after=value, times=1)
        async with connected(server, clock=clock) as client:
            await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
        assert low <= clock.waits[0] <= high


async def test_the_host_that_asked_for_a_pause_has_it_from_everybody(spool: Path) -> None:
    clock = QuickClock()
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    answers = iter((busy, good))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(next(answers))(reader, writer)

    async with raw_server(answer) as asked:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://{asked}/\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(answering(moved.encode())) as first:
            settings = OutboundSettings(allow=frozenset({first, asked}))
            async with OutboundClient(settings, clock=clock) as client:
                with pytest.raises(SourceBusy):
                    await client.fetch(OutboundRequest(url=f"http://{first}/", limits=ONCE), spool)
                assert clock.waits == []
                await client.fetch(OutboundRequest(url=f"http://{asked}/", limits=ONCE), spool)
    [waited] = clock.waits
    assert 0 < waited <= 30


async def test_a_pause_longer_than_we_wait_is_handed_to_the_caller(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    fault(server, "status", status=429, retry_after="3600")
    request = OutboundRequest(url=f"{server.url}/table.csv")
    failure = await refused(client, spool, request)
    assert isinstance(failure, SourceBusy)
    assert failure.retry_after_seconds == 3600
    assert server.count() == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(
    client: OutboundClient, server: FixtureServer, spool: Path, status: int
) -> None:
    fault(server, "status", status=status)
    request = OutboundRequest(url=f"{server.url}/table.csv")
    failure = await refused(client, spool, request)
    assert isinstance(failure, SourceUnavailable)
    assert (failure.code, failure.status, server.count()) == ("status", status, 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": true,\n "message": "Invalid app_token"}',
         '{"error": true, "message": "Invalid app_token"}'),
        ("<html><head><title>x</title></head><style>p{}</style><p>Key&nbsp;expired &amp; gone</p>",
         "Key expired & gone"),
        ("\x1b[31mred\u202e", "[31mred"),
        ("you sent s3cr3t-t0ken and s3cr3t%2Dx, s3cr3t&x", "you sent *** and s3cr3t%2Dx, ***"),
        ("<p>you sent s3cr3t&amp;x, <b>s3cr3t&#38;x</b></p>", "you sent ***, ***"),
        ("<p>" + "x" * 296 + " s3cr3t&#38;x</p>", "x" * 296 + " ***"),
        ('{"sent": ["s3cr3t\\u0026x", "pa\\/ss\\"word", "pa/ss\\"word"]}',
         '{"sent": ["***", "***", "***"]}'),
        ("Authorization was bmFtZTpwYXNz", "Authorization was ***"),
        ("x" * 100_000, "x" * 300 + "…"),
        ("PK\0\0", ""),
        ("", ""),
    ],
)  # fmt: skip
async def test_a_refusal_keeps_how_the_source_s_own_words_begin(
    client: OutboundClient, server: FixtureServer, spool: Path, body: str, said: str
) -> None:
    fault(server, "status", status=403, body=body)
    request = OutboundRequest(
        url=f"{server.url}/table.csv",
        secrets=("s3cr3t-t0ken", "s3cr3t&x", 'pa/ss"word'),
        secret_headers={"Authorization": "Basic bmFtZTpwYXNz"},
    )
    failure = await refused(client, spool, request)
    assert isinstance(failure, SourceUnavailable)
    assert failure.said == said
    assert said == "" or said not in failure.detail


async def test_nobody_there_is_unreachable_after_the_retries(spool: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{unused.getsockname()[1]}"
    clock = QuickClock()
    async with raw_client(at, clock=clock) as client:
        failure = await refused(client, spool, OutboundRequest(url=f"http://{at}/"))
    assert (failure.code, failure.facts.requests, len(clock.waits)) == ("unreachable", 0, 3)


# --- connections ----------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"


async def test_a_connection_is_used_again_and_replaced_when_the_source_closed_it(
    spool: Path,
) -> None:
    connections: list[int] = []
    async with (
        raw_server(answering(OK, OK, connections=connections)) as at,
        raw_client(at) as client,
    ):
        results: list[Fetched] = [
            await client.fetch(OutboundRequest(url=f"http://{at}/", limits=ONCE), spool)
            for _ in range(4)
        ]
    assert [fetched.size_bytes for fetched in results] == [2, 2, 2, 2]
    assert len(connections) == 2


async def test_bytes_nobody_asked_for_are_not_taken_for_the_next_answer(spool: Path) -> None:
    connections: list[int] = []
    poisoned = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        if len(connections) > 1:
            return
        await poisoned.wait()
        writer.write(b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nevil")
        await reader.read()

    async with raw_server(handler) as at, raw_client(at) as client:
        await client.fetch(OutboundRequest(url=f"http://{at}/"), spool)
        poisoned.set()
        kept = next(iter(client._idle.values()))[0]
        await until(lambda: not kept.reusable)
        fetched = await client.fetch(OutboundRequest(url=f"http://{at}/"), spool)
    assert fetched.path is not None
    assert fetched.path.read_bytes() == b"ok"
    assert len(connections) == 2


async def test_a_fetch_that_is_cancelled_leaves_nothing_behind(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    fault(server, "slow", bytes_per_second=20)
    task = asyncio.create_task(client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool))
    await until(lambda: bool(list(spool.iterdir())))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(spool.iterdir()) == []
    server.faults.replace([])
    await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)


async def test_a_disk_that_does_not_take_the_body_is_its_own_failure(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    with pytest.raises(SpoolFailed) as failure:
        await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool / "missing")
    assert failure.value.code == "spool-failed"
    assert server.count() == 1


async def test_secrets_are_in_no_message_and_no_reported_address(
    client: OutboundClient, server: FixtureServer, spool: Path
) -> None:
    secret = "k/y+ =1"
    request = OutboundRequest(
        url=f"{server.url}/table.csv?key=k%2Fy%2B%20%3D1&b=k%2Fy%2B+%3D1",
        secrets=(secret,),
        limits=ONCE,
    )
    fetched = await client.fetch(request, spool)
    assert fetched.path is not None
    fetched.path.unlink()
    assert "k%2Fy" in server.requests[0].target
    assert fetched.url == fetched.final_url == f"{server.url}/table.csv?key=***&b=***"
    fault(server, "status", status=500)
    failure = await refused(client, spool, request)
    assert "k%2Fy" not in str(failure) + failure.detail
    assert "key=***" in failure.detail


async def test_a_secret_does_not_go_over_clear_text(spool: Path) -> None:
    async with OutboundClient(clock=QuickClock()) as client:
        request = OutboundRequest(
            url="http://93.184.216.34/", secret_headers={"X-Api-Key": "s"}, limits=ONCE
        )
        assert isinstance(await refused(client, spool, request), AddressRefused)


# --- replay ---------------------------------------------------------------------------------------

ORIGINAL = "https://stats.test/api/table.csv"


async def test_a_replayed_source_is_reported_as_the_original_and_as_replayed(
    server: FixtureServer, spool: Path
) -> None:
    replay = ReplayMap({"https://stats.test/api": server.url})
    async with OutboundClient(replay=replay) as client:
        request = OutboundRequest(url=f"{ORIGINAL}?page=2", secret_headers={"X-Api-Key": "s"})
        fetched = await client.fetch(request, spool)
        assert fetched.url == fetched.final_url == f"{ORIGINAL}?page=2"
        assert fetched.replayed
        assert fetched.address == server.host_port
        assert server.requests[0].target == "/table.csv?page=2"
        assert server.requests[0].headers["x-api-key"] == "s"
        # The replay's address is no door: asked for by itself it stays closed.
        assert fetched.path is not None
        fetched.path.unlink()
        failure = await refused(client, spool, f"{server.url}/table.csv")
        assert isinstance(failure, AddressRefused)
    assert server.count() == 1


async def test_a_redirect_stays_in_the_replay_or_is_refused(
    server: FixtureServer, recordings: Path, spool: Path
) -> None:
    replay = ReplayMap({"https://stats.test/api": server.url})
    async with FixtureServer(recordings) as elsewhere, OutboundClient(replay=replay) as client:
        for location in ("/other.csv", "https://stats.test/api/other.csv"):
            fault(server, "redirect", location=location, times=1)
            fetched = await client.fetch(OutboundRequest(url=ORIGINAL), spool)
            assert fetched.final_url == "https://stats.test/api/other.csv"
            assert fetched.replayed
            assert fetched.path is not None
            fetched.path.unlink()
        for location in (f"{elsewhere.url}/other.csv", "https://live.test/", "/table.csv"):
            fault(server, "redirect", location=location, times=1)
            failure = await refused(client, spool, ORIGINAL)
            assert isinstance(failure, RedirectRefused)
        assert elsewhere.count() == 0


async def test_a_map_may_be_all_there_is(server: FixtureServer, spool: Path) -> None:
    replay = ReplayMap({"https://stats.test/api": server.url}, only=True)
    async with OutboundClient(replay=replay) as client:
        failure = await refused(client, spool, "https://live.test/")
    assert isinstance(failure, AddressRefused)
    assert failure.facts.requests == 0


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def secured(authority: trustme.CA, recordings: Path, name: str) -> FixtureServer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return FixtureServer(recordings, tls=context)


async def test_tls_is_verified_by_name_while_the_address_is_pinned(
    authority: trustme.CA, ca_file: Path, recordings: Path, spool: Path
) -> None:
    resolver = FileResolver({"data.test": [["127.0.0.1"]], "evil.test": [["127.0.0.1"]]})
    async with secured(authority, recordings, "data.test") as server:
        port = server.host_port.rpartition(":")[2]
        allow = frozenset({f"data.test:{port}", f"evil.test:{port}"})
        url = f"https://data.test:{port}/table.csv"
        trusting = OutboundSettings(allow=allow, ca_file=ca_file)
        clock = QuickClock()
        async with OutboundClient(trusting, resolver=resolver, clock=clock) as client:
            fetched = await client.fetch(OutboundRequest(url=url), spool)
            assert fetched.address == server.host_port
            assert server.requests[0].headers["host"] == f"data.test:{port}"
            assert fetched.path is not None
            fetched.path.unlink()
            request = OutboundRequest(url=f"https://evil.test:{port}/table.csv")
            failure = await refused(client, spool, request)
            assert failure.code == "tls-refused"
        async with OutboundClient(
            OutboundSettings(allow=allow), resolver=resolver, clock=clock
        ) as client:
            failure = await refused(client, spool, OutboundRequest(url=url))
        assert failure.code == "tls-refused"
        assert clock.waits == []  # trust does not come by waiting
        assert server.count() == 1


async def test_a_redirect_never_leaves_https(
    authority: trustme.CA, ca_file: Path, recordings: Path, server: FixtureServer, spool: Path
) -> None:
    async with secured(authority, recordings, "127.0.0.1") as secure:
        allow = frozenset({secure.host_port, server.host_port})
        fault(secure, "redirect", location=f"{server.url}/table.csv")
        async with OutboundClient(OutboundSettings(allow=allow, ca_file=ca_file)) as client:
            failure = await refused(client, spool, f"{secure.url}/table.csv")
            assert isinstance(failure, RedirectRefused)
            fault(server, "redirect", location=f"{secure.url}/other.csv")
            secure.faults.replace([])
            fetched = await client.fetch(OutboundRequest(url=f"{server.url}/table.csv"), spool)
            assert fetched.final_url == f"{secure.url}/other.csv"
        assert server.count() == 1


async def test_what_speaks_no_tls_and_what_nobody_vouches_for_are_told_apart(
    authority: trustme.CA, recordings: Path, spool: Path
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_server(plain) as host_port, raw_client(host_port) as client:
        failure = await refused(client, spool, f"https://{host_port}/table.csv")
    assert failure.code == "tls-refused"
    assert "does not speak TLS" in failure.detail
    assert "http://" in failure.hint
    async with secured(authority, recordings, "127.0.0.1") as secure, connected(secure) as client:
        failure = await refused(client, spool, f"{secure.url}/table.csv")
    assert failure.code == "tls-refused"
    assert "HOLDFAST_COLLECT_CA_FILE" in failure.hint


async def test_a_body_cut_under_tls_is_truncated(
    authority: trustme.CA, ca_file: Path, recordings: Path, spool: Path
) -> None:
    async with secured(authority, recordings, "127.0.0.1") as secure:
        settings = OutboundSettings(allow=frozenset({secure.host_port}), ca_file=ca_file)
        fault(secure, "cut")
        async with OutboundClient(settings) as client:
            failure = await refused(client, spool, f"{secure.url}/big.json")
        assert failure.code == "truncated"


def test_a_missing_authority_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        OutboundClient(OutboundSettings(ca_file=tmp_path / "none.pem"))
    with pytest.raises(AddressInvalid):
        OutboundClient(OutboundSettings(allow=frozenset({"10.0.0.0/8"})))
