"""Connections between roles: kept when they can be, and every way in which they fail told apart."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from holdfast.kernel.http import pool
from holdfast.kernel.http.pool import SEAL, RolePool
from holdfast.kernel.tls import ClientTls, renew, thumbprint_of
from tests.support.waiting import until

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Role:
    """Answers each request with the next of ``answers``; counts connections and requests."""

    def __init__(self, *answers: bytes, close: bool = False) -> None:
        self.answers = list(answers) or [OK]
        self.close = close
        self.connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                writer.write(answer)
                await writer.drain()
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def calling(
    role: Served, *, connections_max: int = 10, seconds: float = 20.0, idle: float = 75.0
) -> AsyncIterator[httpx.AsyncClient]:
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        try:
            await role(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = RolePool(
        ssl.create_default_context(), connections_max=connections_max, served_idle_seconds=idle
    )
    async with (
        server,
        httpx.AsyncClient(
            transport=transport,
            base_url=f"http://127.0.0.1:{port}",
            timeout=seconds,
            trust_env=False,
        ) as client,
    ):
        yield client
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    role = Role()
    async with calling(role) as client:
        for body in (b"", b"one", b"x" * 1_000_000):
            assert (await client.post("/a?b=%2F", content=body)).text == "ok"
        assert (role.connections, len(role.requests)) == (1, 3)
        assert role.requests[0].startswith(b"POST /a?b=%2F HTTP/1.1\r\n")
        assert role.requests[2].endswith(b"x" * 1_000_000)
        await asyncio.gather(*(client.get("/") for _ in range(5)))
        assert role.connections == 5


async def test_a_streamed_body_and_a_chunked_answer_go_through() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )
    role = Role(b"HTTP/1.1 100 Continue\r\n\r\n" + chunked)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"abc"

    async with calling(role) as client:
        for _ in range(2):
            answer = await client.post("/", content=pieces(), headers={"content-length": "9"})
            assert (answer.status_code, answer.content) == (200, b"abcde")
    assert role.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_keep_the_connection(status: bytes) -> None:
    role = Role(b"HTTP/1.1 " + status + b"\r\n\r\n", OK)
    async with calling(role) as client:
        assert (await client.get("/")).content == b""
        assert (await client.get("/")).text == "ok"
    assert role.connections == 1


async def test_a_head_has_no_body_whatever_its_length_says() -> None:
    role = Role(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", OK)
    async with calling(role) as client:
        assert (await client.head("/")).headers["content-length"] == "500"
        assert (await client.get("/")).text == "ok"


async def test_what_comes_behind_an_answer_is_nobodys() -> None:
    """Whoever asked is told what was meant for it, and whoever asks next hears nothing of it."""
    secret = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"
    for behind in (secret, secret[:1], b"SECRET"):
        role = Role(OK + behind, OK)
        async with calling(role) as client:
            assert [(await client.get("/")).text for _ in range(2)] == ["ok", "ok"]
        assert role.connections == 2


async def test_what_comes_while_nobody_asks_is_nobodys() -> None:
    role = Role()
    async with calling(role) as client:
        assert (await client.get("/")).text == "ok"
        [idle] = next(iter(client._transport._idle.values()))  # type: ignore[attr-defined]
        role.writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET")
        await until(lambda: idle._error is not None)
        assert (await client.get("/")).text == "ok"
    assert role.connections == 2


async def test_a_head_has_no_body_though_one_comes() -> None:
    role = Role(OK)
    async with calling(role) as client:
        assert [(await client.head("/")).content for _ in range(2)] == [b"", b""]


async def test_trailers_are_no_headers() -> None:
    role = Role(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n"
    )
    async with calling(role) as client, client.stream("GET", "/") as answer:
        connection = answer.stream._stream._connection  # type: ignore[attr-defined]
        assert await answer.aread() == b"ok"
        assert [name for name, _ in connection._headers] == [b"Transfer-Encoding"]


async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    role = Role(b"HTTP/1.1 200 OK\r\n\r\nall there is", close=True)
    async with calling(role) as client:
        assert (await client.get("/")).text == "all there is"
        assert (await client.get("/")).text == "all there is"
    assert role.connections == 2


async def test_an_answer_that_breaks_off_is_lost() -> None:
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 O",
        b"",
        b"what?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    ):
        async with calling(Role(answer, close=True)) as client:
            with pytest.raises(httpx.TransportError) as found:
                await client.get("/")
            assert not isinstance(found.value, httpx.ConnectError | httpx.TimeoutException)


@pytest.mark.parametrize("line", [b"X: " + b"y" * 1_000_000, b"X: y\r\n" * 200_000])
async def test_a_head_that_does_not_end_is_not_waited_for(line: bytes) -> None:
    async with calling(Role(b"HTTP/1.1 200 OK\r\n" + line)) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="not an answer"):
            await client.get("/")


async def test_a_busy_connection_does_not_live_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    role = Role()
    async with calling(role) as client:
        monkeypatch.setattr(pool, "LIFE_SECONDS", 1e9)
        assert [(await client.get("/")).text for _ in range(2)] == ["ok", "ok"]
        assert role.connections == 1
        monkeypatch.setattr(pool, "LIFE_SECONDS", 0.0)
        assert [(await client.get("/")).text for _ in range(2)] == ["ok", "ok"]
    assert role.connections == 3


@pytest.mark.parametrize(("served", "kept"), [(0.0, 3), (1e9, 3), (8e9, 1)])
async def test_a_connection_is_kept_for_less_than_the_servers_keep_it(
    monkeypatch: pytest.MonkeyPatch, served: float, kept: int
) -> None:
    """Each request comes 0.8e9 seconds after the one before."""
    monkeypatch.setattr(pool, "IDLE_SECONDS", 4e9)
    monkeypatch.setattr(pool, "LIFE_SECONDS", 1e12)
    role = Role()
    async with calling(role, idle=served) as client:
        for _ in range(3):
            assert (await client.get("/")).text == "ok"
            [idle] = next(iter(client._transport._idle.values()))  # type: ignore[attr-defined]
            idle._rested_at -= 0.8e9
    assert role.connections == kept


async def test_an_idle_connection_that_nobody_came_down_to_is_ended() -> None:
    role = Role()
    async with calling(role) as client:
        await asyncio.gather(*(client.get("/") for _ in range(3)))
        [stack] = client._transport._idle.values()  # type: ignore[attr-defined]
        former = list(stack)
        for each in former[:2]:
            each._rested_at -= pool.IDLE_SECONDS
        assert (await client.get("/")).text == "ok"
        assert list(stack) == former[2:]
        await until(lambda: all(each._lost for each in former[:2]))


async def test_a_connection_that_the_other_side_closed_is_not_used_again() -> None:
    role = Role()
    async with calling(role) as client:
        assert (await client.get("/")).text == "ok"
        role.writers[0].close()
        await role.writers[0].wait_closed()
        for _ in range(3):  # until the end of it has come to us
            await asyncio.sleep(0)
        assert (await client.get("/")).text == "ok"
    assert role.connections == 2


async def test_after_a_renewal_no_connection_from_before_carries_a_request(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def issue() -> None:
        made = authority.issue_cert("caller@holdfast.test")
        made.cert_chain_pems[0].write_to_path(tmp_path / "caller.pem")
        made.private_key_pem.write_to_path(tmp_path / "caller.key")

    issue()
    tls = ClientTls(tmp_path / "ca.pem", tmp_path / "caller.pem", tmp_path / "caller.key")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(served)
    authority.configure_trust(served)
    served.verify_mode = ssl.CERT_REQUIRED
    begun, go_on = asyncio.Event(), asyncio.Event()
    shown: list[tuple[str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
                der = secured.getpeercert(binary_form=True) or b""
                said = next(x for x in head.decode().split("\r\n") if x.startswith("said: "))
                shown.append((thumbprint_of(der), said.removeprefix("said: ")))
                if head.startswith(b"GET /slow"):
                    begun.set()
                    await go_on.wait()
                writer.write(OK)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    sealed = {SEAL: lambda thumbprint: {"said": thumbprint}}
    async with (
        server,
        httpx.AsyncClient(transport=RolePool(tls), base_url=f"https://localhost:{port}") as client,
    ):
        slow = asyncio.create_task(client.get("/slow", extensions=sealed))
        await begun.wait()
        for _ in range(3):
            assert (await client.get("/", extensions=sealed)).text == "ok"
            issue()
            renew(tls)
        go_on.set()
        assert (await slow).text == "ok", "what was on its way is done"
        assert (await client.get("/", extensions=sealed)).text == "ok"
    assert all(thumbprint == said for thumbprint, said in shown)
    assert len({thumbprint for thumbprint, _ in shown}) == 4
    assert shown[0][0] == shown[1][0]


async def test_nobody_there_is_told_apart_from_an_answer_that_was_lost() -> None:
    async with calling(Role()) as client:
        at = client.base_url
    async with httpx.AsyncClient(
        transport=RolePool(ssl.create_default_context()), base_url=at, trust_env=False
    ) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_waits_are_bounded_and_places_come_back() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with calling(silent, connections_max=1) as client:
        held = asyncio.create_task(client.get("/", timeout=httpx.Timeout(60)))
        await asked.wait()
        with pytest.raises(httpx.PoolTimeout):
            await client.get("/", timeout=httpx.Timeout(60, pool=0.05))
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", timeout=httpx.Timeout(60, read=0.05))


async def test_an_answer_that_nobody_reads_to_its_end_ends_its_connection() -> None:
    role = Role(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000, OK)
    async with calling(role, connections_max=1) as client:
        async with client.stream("GET", "/") as answer:
            async for _ in answer.aiter_raw():
                break
        assert (await client.get("/")).text == "ok"
    assert role.connections == 2


async def test_a_reader_that_is_slow_holds_the_other_side_back() -> None:
    size = 8_000_000
    role = Role(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    async with calling(role) as client, client.stream("GET", "/") as answer:
        connection = answer.stream._stream._connection  # type: ignore[attr-defined]
        for _ in range(200):
            await asyncio.sleep(0)
        assert connection._waiting_bytes < 1_000_000
        seen = 0
        async for piece in answer.aiter_raw():
            seen += len(piece)
        assert seen == size


async def test_a_server_that_answers_before_it_has_read_all_is_listened_to() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read(100_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65_536
            await asyncio.sleep(0)

    async with calling(early) as client:
        headers = {"content-length": str(65_536_000)}
        assert (await client.post("/", content=pieces(), headers=headers)).status_code == 413


async def test_a_header_cannot_begin_another_line() -> None:
    role = Role()
    async with calling(role) as client:
        with pytest.raises((httpx.LocalProtocolError, ValueError)):
            await client.get("/", headers=[(b"x", b"1\r\nHost: evil")])
    assert role.requests == []
