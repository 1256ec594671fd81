"""The client raises what the service raised, and bounds what it waits for and reads."""

from __future__ import annotations

import asyncio
import io
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.kernel import telemetry
from holdfast.kernel.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exhausted,
    HoldfastError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.http.client import ApiClient, pause_before_repeating, translate
from holdfast.kernel.http.paging import Page
from tests.unit.kernel.http_app import READER, WRITER, Thing, handlers, make_app

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaking(answering: Answering) -> AsyncIterator[str]:
    """A server that does what it likes."""
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def scripted(*answers: bytes) -> tuple[Answering, list[bytes]]:
    """Answers one after the other, the last for ever; and the heads of the requests."""
    waiting = list(answers)
    seen: list[bytes] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return answering, seen


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


UNAVAILABLE = answer("503 Service Unavailable", b"", "Retry-After: 0")
FINE = answer("200 OK", b'{"name":"a","count":1,"tags":[]}')


async def test_answers_are_decoded_into_the_wanted_type() -> None:
    async with ApiClient.for_app(make_app(), token=WRITER) as api:
        page = await api.request("GET", "/v1/things", type=Page[Thing], params={"limit": 3})
        assert page.items[0].count == 3
        thing = await api.request("POST", "/v1/things", json=Thing(name="é"), type=Thing)
        assert thing == Thing(name="é")
        assert await api.request("DELETE", "/v1/things/a") is None
        raw = await api.request("POST", "/v1/things", json={"name": "b"}, type=bytes)
        assert raw.startswith(b'{"name":"b"')
        assert await api.request("PATCH", "/v1/things/x", type=Thing) == Thing(name="x")


async def test_parameters_are_written_as_the_server_reads_them() -> None:
    async with ApiClient.for_app(make_app(), token=WRITER) as api:
        params = {"limit": 1, "deep": True, "tag": ["a", "b"], "colour": None}
        page = await api.get("/v1/things", type=Page[Thing], params=params)
        assert page.items[0].tags == ["a", "b"]
        assert page.items[0].name.endswith("True")


async def test_failures_are_raised_as_what_they_were() -> None:
    async with ApiClient.for_app(make_app(), token=WRITER) as api:
        with pytest.raises(Conflict) as caught:
            await api.request("GET", "/v1/fails/conflict")
        error = caught.value
        assert (error.code, error.hint) == ("thing-late", "be earlier")
        assert error.problems[0].path == "$.a"
        with pytest.raises(Exhausted) as exhausted:
            await api.request("GET", "/v1/fails/exhausted")
        assert exhausted.value.retry_after_seconds == 2.2
        with pytest.raises(NotFound):
            await api.request("GET", "/nowhere")
        with pytest.raises(Invalid):
            await api.request("POST", "/v1/things", json={"nonsense": 1})
    async with ApiClient.for_app(make_app(), token=READER) as api:
        with pytest.raises(Denied):
            await api.request("POST", "/v1/things", json=Thing(name="a"))
        writer = api.authorised(WRITER)
        assert await writer.request("POST", "/v1/things", json=Thing(name="a"), type=Thing)
    async with ApiClient.for_app(make_app()) as api:
        with pytest.raises(Unauthenticated):
            await api.request("GET", "/v1/things")


async def test_the_ids_of_the_request_being_served_are_passed_on() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with ApiClient.for_app(make_app()) as api:
        with telemetry.request_context("outer-1", trace):
            assert await api.request("GET", "/v1/ids", type=list[str]) == ["outer-1", trace]


@pytest.mark.parametrize("path", ["/v1/runs/.", "/v1/runs/..", "/v1/runs/../plan"])
async def test_what_is_written_for_an_id_leads_nowhere_else(path: str) -> None:
    answering, seen = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with speaking(answering) as url, ApiClient.connect(url) as api:
        with pytest.raises(Invalid, match=r"nothing is called \. or \.\."):
            await api.request("POST", path, json={}, type=dict)
    assert seen == []


async def test_nobody_there_is_unavailable_nothing_was_done() -> None:
    answering, _ = scripted(FINE)
    async with speaking(answering) as url:
        pass
    async with ApiClient.connect(url) as api:
        for method in ("GET", "POST"):
            with pytest.raises(Unavailable) as caught:
                await api.request(method, "/x")
            assert caught.value.code == "unreachable"


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", FINE[:-5]])
async def test_a_lost_answer_to_a_write_leaves_the_outcome_unknown(cut: bytes) -> None:
    answering, _ = scripted(cut)
    async with speaking(answering) as url, ApiClient.connect(url) as api:
        with pytest.raises(OutcomeUnknown):
            await api.request("POST", "/x", json={})
        with pytest.raises(Unavailable):
            await api.request("GET", "/x", type=Thing)


async def test_waiting_is_bounded() -> None:
    released = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    async with speaking(silent) as url, ApiClient.connect(url, timeout_seconds=0.2) as api:
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await api.request("GET", "/x")
            with pytest.raises(OutcomeUnknown):
                await api.request("POST", "/x", timeout_seconds=0.1)
        released.set()


async def test_answers_are_bounded() -> None:
    transport = httpx.ASGITransport(app=make_app())
    http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    async with ApiClient(http, response_bytes_max=1000) as api:
        with pytest.raises(TooLarge):
            await api.request("GET", "/v1/lines", params={"count": 100}, type=bytes)


@pytest.mark.parametrize(
    "body", [b"{", b'{"name":1}', b'{"name":"a","nonsense":1}', b'{"name":"\xff"}', b""]
)
async def test_an_answer_that_is_something_else_is_corrupt(body: bytes) -> None:
    answering, _ = scripted(answer("200 OK", body))
    async with speaking(answering) as url, ApiClient.connect(url) as api:
        with pytest.raises(Corrupt):
            await api.request("GET", "/x", type=Thing)


async def test_a_compressed_answer_is_not_unpacked() -> None:
    answering, seen = scripted(answer("200 OK", b"\x1f\x8b", "Content-Encoding: gzip"))
    async with speaking(answering) as url, ApiClient.connect(url) as api:
        with pytest.raises(Corrupt):
            await api.request("GET", "/x", type=Thing)
    assert b"accept-encoding: identity" in seen[0].lower()


async def test_redirects_are_not_followed_and_proxies_not_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    answering, seen = scripted(answer("307 Temporary Redirect", b"", "Location: /elsewhere"), FINE)
    async with speaking(answering) as url, ApiClient.connect(url, token="t") as api:
        await api.request("GET", "/x", type=bytes)
    assert len(seen) == 1


# --- repeating


async def test_what_is_safe_to_repeat_is_repeated() -> None:
    for method in ("GET", "PUT", "DELETE"):
        answering, seen = scripted(UNAVAILABLE, b"", FINE)
        async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
            assert await api.request(method, "/x", type=Thing) == Thing(name="a", count=1)
        assert len(seen) == 3, method


async def test_what_is_not_safe_to_repeat_is_not_unless_it_is_said_to_be() -> None:
    answering, seen = scripted(UNAVAILABLE, FINE)
    async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
        with pytest.raises(Unavailable):
            await api.request("POST", "/x", json={})
    assert len(seen) == 1
    for options in ({"repeatable": True}, {"headers": {"Idempotency-Key": "k"}}):
        answering, seen = scripted(UNAVAILABLE, FINE)
        async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
            given: dict[str, Any] = options
            await api.request("POST", "/x", json={}, type=Thing, **given)
        assert len(seen) == 2


async def test_a_body_that_cannot_be_sent_again_is_sent_once() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    answering, seen = scripted(UNAVAILABLE, FINE)
    async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
        with pytest.raises(Unavailable):
            await api.request("PUT", "/x", content=pieces())
    assert len(seen) == 1


async def test_repeating_ends_and_raises_the_last_failure() -> None:
    answering, seen = scripted(UNAVAILABLE)
    async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
        with pytest.raises(Unavailable):
            await api.request("GET", "/x")
    assert len(seen) == 3
    refused = answer("409 Conflict")
    answering, seen = scripted(refused)
    async with speaking(answering) as url, ApiClient.connect(url, attempts=3) as api:
        with pytest.raises(Conflict):
            await api.request("GET", "/x")
    assert len(seen) == 1, "what cannot get better is not repeated"


def test_pauses_grow_to_a_bound_and_are_as_long_as_the_answer_says() -> None:
    assert [pause_before_repeating(n, None, 0.0) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause_before_repeating(1, None, 1.0) == 0.6
    assert pause_before_repeating(30, None, 1.0) == 5.0
    assert pause_before_repeating(1, 2.0, 1.0) == 2.0
    assert pause_before_repeating(1, 3600.0, 1.0) == 30.0


REPEATING = """
import asyncio, logging, sys
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.http.client import ApiClient

if "--log" in sys.argv:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")

async def main():
    async with ApiClient.connect("http://127.0.0.1:9", attempts=3) as api:
        try:
            await api.request("GET", "/x")
        except Unavailable:
            pass

asyncio.run(main())
"""


def test_repetitions_are_told_to_whoever_asks_and_to_nobody_else() -> None:
    for asked in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", REPEATING, *(["--log"] if asked else [])],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stderr == ""
        told = [line for line in done.stdout.splitlines() if line.startswith("holdfast.client")]
        if asked:
            assert len(told) == 2
            assert "GET /x again in" in told[0]
        else:
            assert done.stdout == ""


# --- streams


async def test_lines_are_decoded_one_by_one() -> None:
    async with ApiClient.for_app(make_app()) as api:
        count = 0
        async for thing in api.lines("/v1/lines", type=Thing, params={"count": 3000}):
            assert thing.count == count
            count += 1
        assert count == 3000


async def test_a_stream_of_lines_that_is_cut_off_is_noticed() -> None:
    whole = b'{"name":"a"}\n'
    answering, _ = scripted(answer("200 OK", whole + b'{"name":"b'))
    async with speaking(answering) as url, ApiClient.connect(url) as api:
        with pytest.raises(Corrupt):
            [thing async for thing in api.lines("/x", type=Thing)]


async def test_a_download_goes_to_a_file_and_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 100_000)
    async with ApiClient.for_app(make_app(handlers=handlers(tmp_path))) as api:
        target = io.BytesIO()
        params = {"name": "a.bin"}
        headers = await api.download("/v1/file", target, bytes_max=100_000, params=params)
        assert target.getvalue() == b"x" * 100_000
        assert headers["content-length"] == "100000"
        with pytest.raises(TooLarge):
            await api.download("/v1/file", io.BytesIO(), bytes_max=99_999, params=params)
        with pytest.raises(NotFound):
            await api.download("/v1/file", io.BytesIO(), bytes_max=1, params={"name": "none"})


async def test_live_events_are_read_and_taken_up_again() -> None:
    async with ApiClient.for_app(make_app()) as api:
        found = [event async for event in api.events("/v1/events", params={"count": 2}, last="9")]
    assert [(event.id, event.event) for event in found] == [("10", "tick"), ("11", "tick")]
    assert found[0].data == b'{"text":"a\\nb","n":10}'


def test_the_client_needs_no_server_packages() -> None:
    program = (
        "import sys, holdfast.kernel.http.client, holdfast.kernel.http as http;"
        "http.ApiClient; http.Page;"
        "found = {'litestar', 'sqlalchemy', 'uvicorn', 'uvloop'} & set(sys.modules);"
        "sys.exit(repr(found) if found else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_of_a_door_that_hangs_up_it_says_that_it_may_serve_tls(method: str) -> None:
    async with speaking(scripted(b"")[0]) as url:
        client = httpx.AsyncClient(base_url=url, trust_env=False)
        async with ApiClient(client) as api:
            with pytest.raises((Unavailable, OutcomeUnknown)) as raised:
                await api.request(method, "/v1/profiles/rain")
    assert "https://" in (raised.value.detail if method == "POST" else raised.value.hint)


async def test_of_one_role_to_another_it_says_which_and_not_where() -> None:
    async with speaking(scripted(b"")[0]) as url:
        pass  # nobody listens there any more
    client = httpx.AsyncClient(base_url=url, trust_env=False)
    async with ApiClient(client, role="registry") as api:
        for method in ("GET", "POST"):
            with pytest.raises(Unavailable) as raised:
                await api.request(method, "/v1/profiles/rain")
            assert raised.value.detail == "cannot reach the registry: it does not answer"
            assert raised.value.code == "role-unreachable"
            assert "--control-plane" not in raised.value.hint
            assert url in raised.value.internal


def _tls(reason: str, hidden_in: type[httpx.TransportError]) -> httpx.TransportError:
    """What a client library makes of a failure of TLS, which it hides."""
    said = ssl.SSLError(1, f"[SSL: {reason}] in other words")
    said.reason = reason
    error = hidden_in("")
    error.__cause__ = said
    return error


@pytest.mark.parametrize(
    ("reason", "method", "expected"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "POST", Unavailable),
        ("TLSV1_ALERT_UNKNOWN_CA", "GET", Unavailable),
        ("UNEXPECTED_EOF_WHILE_READING", "POST", OutcomeUnknown),
        ("UNEXPECTED_EOF_WHILE_READING", "GET", Unavailable),
    ],
)
def test_what_tls_breaks_off_is_unknown_unless_it_was_the_handshake(
    reason: str, method: str, expected: type[HoldfastError]
) -> None:
    told = translate(_tls(reason, httpx.ReadError), method, "https://example.org/v1/things")
    assert type(told) is expected
    assert (told.code == "tls-refused") is ("ALERT" in reason)


async def test_a_read_that_came_too_soon_waits_where_that_is_wanted_and_names_its_tenant() -> None:
    busy = answer("429 Too Many Requests", b"", "Retry-After: 0")
    answering, seen = scripted(busy, busy, FINE)
    async with speaking(answering) as url, ApiClient.connect(url, tenant="t2", waits=True) as api:
        assert (await api.request("GET", "/v1/things/a", type=Thing)).name == "a"
        assert len(seen) == 3
        assert all(b"\r\nx-tenant-id: t2\r\n" in head.lower() for head in seen)
    for waits, method in ((False, "GET"), (True, "POST")):
        answering, seen = scripted(busy, FINE)
        async with speaking(answering) as url, ApiClient.connect(url, waits=waits) as api:
            with pytest.raises(Exhausted):
                await api.request(method, "/v1/things/a")
        assert len(seen) == 1
        assert b"x-tenant-id" not in seen[0].lower()
