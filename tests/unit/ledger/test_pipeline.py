"""A pipeline of appends: each is answered when it is durable, and a lost line is told as one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.kernel.errors import HoldfastError, Invalid, OutcomeUnknown, TooLarge, Unauthenticated
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.problems import FOREIGN_ANSWER
from holdfast.kernel.http.standing import RENEWED_SECONDS, STANDING, Standing
from holdfast.kernel.ids import id_source
from holdfast.ledger.client import LedgerClient, Pipeline, pipeline
from holdfast.ledger.http import _Pipeline, handlers
from holdfast.ledger.model import Append, Appended, NewEvent
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, ledger_on, one, parts_on

PATIENCE_SECONDS = 60
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
ANSWER = b'{"line":1,"appended":{"events":[]}}\n'


class HeldLog:
    """A log that stores each commit only when it is let."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.let: asyncio.Queue[None] = asyncio.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, *arguments: Any) -> None:
        self.begun.put_nowait(None)
        await self.let.get()
        await self._log.append(*arguments)


async def test_an_append_is_answered_although_the_one_behind_it_is_not_stored_yet(
    tmp_path: Path,
) -> None:
    clock = SystemClock()
    sent: asyncio.Queue[bytes | None] = asyncio.Queue()
    taken: asyncio.Queue[bytes] = asyncio.Queue()
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        asked.put_nowait(None)
        line = await sent.get()
        return {"type": "http.request", "body": line or b"", "more_body": line is not None}

    async def send(message: Any) -> None:
        if message.get("body"):
            taken.put_nowait(message["body"])

    async def anybody(_request: Any) -> Any:
        return ONE

    async with open_database(f"sqlite:///{tmp_path / 'l.db'}", clock=clock) as database:
        await create_schema(database)
        parts = parts_on(database, tmp_path, clock=clock)
        held = HeldLog(parts.log)
        service = LedgerService(replace(parts, log=held), id_source(clock))  # type: ignore[arg-type]
        app = create_app(
            AppSpec(role="t", version="0", handlers=handlers(service, None), authenticate=anybody)  # type: ignore[arg-type]
        )
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/ledger/pipeline", "raw_path": b"/v1/ledger/pipeline",
            "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2), "state": {},
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/x-ndjson"),
                        (b"transfer-encoding", b"chunked")],
        }  # fmt: skip
        serving = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for number in (1, 2):
                    await asked.get()
                    sent.put_nowait(msgspec.json.encode(one(number)) + b"\n")
                    if number == 1:
                        await held.begun.get()
                await asked.get()  # the second line is in line
                held.let.put_nowait(None)
                first = await taken.get()
                assert [msgspec.json.decode(line)["line"] for line in first.splitlines()] == [1]
                held.let.put_nowait(None)
                second = await taken.get()
                assert msgspec.json.decode(second)["appended"]["events"][0]["position"] == 1
                sent.put_nowait(None)
                await serving
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            for _ in range(2):
                held.let.put_nowait(None)
            await service.close()


class Endless:
    """A producer that never stops."""

    scope: ClassVar = {"path": "/v1/ledger/pipeline"}

    async def stream(self) -> AsyncIterator[bytes]:
        while True:
            yield b"none\n" * 9


async def test_a_pipeline_whose_answers_nobody_takes_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.ledger.http.IN_FLIGHT_MAX", 1)

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async def send(message: Any) -> None:
        if message.get("body"):
            for _ in range(9):  # until the queue is full
                await asyncio.sleep(0)
            raise ConnectionResetError

    async with open_database(f"sqlite:///{tmp_path / 'l.db'}", clock=SystemClock()) as database:
        await create_schema(database)
        async with ledger_on(database, tmp_path, clock=ManualClock(NOW)) as ledger:
            answer = _Pipeline(ledger, ONE, Endless())  # type: ignore[arg-type]
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(ConnectionResetError):
                    await answer({}, receive, send)


@pytest.mark.parametrize("how", ["cancelled", "broken"])
async def test_a_pipeline_ends_that_is_left_after_its_credential_with_its_line_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("holdfast.ledger.http.IN_FLIGHT_MAX", 1)
    clock, full, stuck = ManualClock(NOW), asyncio.Event(), asyncio.Event()

    async def ask() -> float:
        await full.wait()
        raise Unauthenticated("over", code="credential-ended")

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async def send(message: Any) -> None:
        if message.get("body"):
            for _ in range(99):  # whoever reads waits for room behind what is in line
                await asyncio.sleep(0)
            assert answer._waiting.full()
            full.set()
            for _ in range(99):
                await asyncio.sleep(0)
            assert answer._over is not None
            stuck.set()
            if how == "broken":
                raise ZeroDivisionError
            await asyncio.Event().wait()

    async with open_database(f"sqlite:///{tmp_path / 'l.db'}", clock=clock) as database:
        await create_schema(database)
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            request = Endless()
            # Asked again soon, and taken to hold until there is an answer.
            standing = Standing(ask, clock.monotonic() - RENEWED_SECONDS, clock)
            monkeypatch.setattr(Endless, "scope", {**Endless.scope, STANDING: standing})
            answer = _Pipeline(ledger, ONE, request)  # type: ignore[arg-type]
            serving = asyncio.create_task(answer({}, receive, send))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await stuck.wait()
                if how == "cancelled":
                    serving.cancel()
                left = asyncio.CancelledError if how == "cancelled" else ZeroDivisionError
                with pytest.raises(left):
                    await serving


@asynccontextmanager
async def answering(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Something else than a ledger, on loopback."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**16)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_line_that_is_lost_while_it_is_sent_is_told_as_an_unknown_outcome() -> None:
    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    long = NewEvent(stream="notes/a", type="n.sent", payload={"text": "x" * (2**23 - 2**10)})
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        answering(abort) as url,
        pipeline(url) as line,
    ):
        future = await line.append(Append(events=[long]))
        with pytest.raises(OutcomeUnknown):
            await future
        with pytest.raises(OutcomeUnknown):
            await line.append(Append(events=[long]))


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"text": "x" * 2**23}, TooLarge),
        ({"price": 1.5}, Invalid),
        ({"text": "\ud800"}, Invalid),
        ({1: "a key that is no text"}, Invalid),
        ({"object": object()}, Invalid),
    ],
)
async def test_what_no_ledger_takes_is_refused_before_it_is_sent(
    payload: Any, kind: type[HoldfastError]
) -> None:
    """While a body is being sent its refusal may never be read: the connection ends first."""
    append = Append(events=[NewEvent(stream="notes/a", type="n.sent", payload=payload)])
    async with silent() as url, ApiClient.connect(url) as api:
        with pytest.raises(kind):
            await LedgerClient(api).append(None, append)
        with pytest.raises(kind):
            async with pipeline(url) as line:
                await line.append(append)


async def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    over = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 9000000000\r\n\r\n" + b"x" * 2**21)
        await over.wait()
        writer.close()

    async with asyncio.timeout(PATIENCE_SECONDS), answering(refuse) as url:
        async with pipeline(url) as line:
            future = await line.append(one(1))
            with pytest.raises(HoldfastError) as caught:
                await future
        over.set()
    assert caught.value.code == FOREIGN_ANSWER


@asynccontextmanager
async def answering_with(body: bytes) -> AsyncIterator[str]:
    """What reads one line and answers with ``body``, and nothing behind it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}\n\r\n")
        writer.write(HEAD + body)
        writer.close()

    async with asyncio.timeout(PATIENCE_SECONDS), answering(answer) as url:
        yield url


async def test_a_refusal_whose_status_is_no_number_is_told_to_whoever_waits_for_it() -> None:
    body = b'{"line":1,"problem":{"status":"gone"}}\n'
    async with answering_with(body) as url, pipeline(url) as line:
        future = await line.append(one(1))
        with pytest.raises(HoldfastError) as caught:
            await future
    assert caught.value.code == FOREIGN_ANSWER


async def test_an_answer_that_cannot_be_read_leaves_open_what_was_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.ledger.client.LINE_BYTES_MAX", 100)
    async with answering_with(b"x" * 101) as url, pipeline(url) as line:
        future = await line.append(one(1))
        with pytest.raises(OutcomeUnknown):
            await future


@asynccontextmanager
async def silent(said: bytes = b"") -> AsyncIterator[str]:
    """What takes a line of a pipeline, says at most ``said``, and keeps the connection open."""
    over, gone = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if said:
                await reader.readuntil(b"}\n\r\n")
                writer.write(said)
            await over.wait()
        finally:
            writer.close()
            gone.set()

    async with answering(answer) as url:
        try:
            yield url
        finally:
            over.set()
            await gone.wait()


async def test_an_answer_that_is_owed_too_long_ends_the_pipeline() -> None:
    """The other side hears and says nothing, or does not even hear, or never comes to its end."""
    patience: Any = {"in_flight_max": 1, "timeout_seconds": 3}
    long = NewEvent(stream="notes/a", type="n.sent", payload={"text": "x" * (2**23 - 2**10)})

    async def unanswered(append: Append) -> None:
        async with silent() as url, pipeline(url, **patience) as line:
            future = await line.append(append)
            with pytest.raises(OutcomeUnknown, match="no answer came for 3 s"):
                await line.append(append)  # there is no room for it until the first is answered
            with pytest.raises(OutcomeUnknown, match="no answer came for 3 s"):
                await future

    async def unended() -> None:
        async with silent(HEAD + ANSWER) as url, pipeline(url, **patience) as line:
            future = await line.append(one(1))
        assert future.result().events == []

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(unanswered(one(1)), unanswered(Append(events=[long])), unended())


async def test_a_pipeline_that_is_left_with_an_error_leaves_no_answer_open() -> None:
    left: list[tuple[Pipeline, asyncio.Future[Appended]]] = []

    async def leave(url: str) -> None:
        async with pipeline(url) as line:
            left.append((line, await line.append(one(1))))
            raise ZeroDivisionError

    async with asyncio.timeout(PATIENCE_SECONDS), silent() as url:
        with pytest.raises(ZeroDivisionError):
            await leave(url)
        [(line, future)] = left
        with pytest.raises(OutcomeUnknown, match="the pipeline ended"):
            await future
        with pytest.raises(OutcomeUnknown, match="the pipeline ended"):
            await line.append(one(2))


async def test_an_answer_that_came_while_the_program_was_held_up_is_no_lost_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time

    def answer(listening: socket.socket) -> None:
        with listening.accept()[0] as taken:
            heard = b""
            while b"}\n\r\n" not in heard:
                heard += taken.recv(2**16)
            taken.sendall(HEAD + ANSWER)
            answered.set()
            over.wait(PATIENCE_SECONDS)

    answered, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = threading.Thread(target=answer, args=(listening,), daemon=True)
        other.start()
        async with pipeline(f"http://127.0.0.1:{listening.getsockname()[1]}") as line:
            future = await line.append(one(1))
            await asyncio.sleep(0)  # somebody waits for the answer
            assert answered.wait(PATIENCE_SECONDS)
            monkeypatch.setattr(loop, "time", lambda: now() + 1_000)
            assert (await future).events == []
            over.set()
    other.join(PATIENCE_SECONDS)
