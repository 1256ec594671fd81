"""Answers that are sent while they are made: bytes, lines of JSON, files, live events.

Each is an ASGI application that a handler returns. The first piece is made before the status goes
out, so that a failure until then is a problem document; a failure later cuts the connection, so
that nobody takes half an answer for a whole one. When the caller goes away, the making stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from holdfast.kernel.errors import HoldfastError, NotFound
from holdfast.kernel.files import opened
from holdfast.kernel.http.door import STOPPING
from holdfast.kernel.http.problems import PROBLEM_EVENT, document
from holdfast.kernel.http.standing import Standing, standing_of
from holdfast.kernel.telemetry import get_logger, request_id

if TYPE_CHECKING:
    from holdfast.kernel.http.routes import ApiRequest

log = get_logger("http")

Answer = Callable[[Any, Any, Any], Any]
"""An ASGI application."""

PIECE_BYTES = 64 * 1024
FILE_PIECE_BYTES = 1024 * 1024
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000
EVENTS_SECONDS = 300.0
"""How long a stream of events lasts where nobody can be asked again whether the credential that it
was begun with still holds: who comes back for the rest shows it again."""


class LiveEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One server-sent event. ``id`` is what ``Last-Event-ID`` will name after it."""

    id: str
    data: Any
    event: str = ""


def stopping(request: ApiRequest) -> asyncio.Event:
    """Set when the server begins to drain: long waits end then, so that a stop is quick."""
    found = request.scope.get("state", {}).get(STOPPING)
    return found if isinstance(found, asyncio.Event) else asyncio.Event()


def stream_answer(
    pieces: AsyncIterator[bytes],
    *,
    media_type: str = "application/octet-stream",
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Answer:
    """Send ``pieces`` as they come."""
    head = [(b"content-type", media_type.encode("latin-1"))]
    head += [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async with contextlib.aclosing(_closable(pieces)) as source:
            first = await anext(source, None)
            await send({"type": "http.response.start", "status": status, "headers": head})
            if first is not None:
                await _until_gone(receive, _send_all(first, source, send))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer


async def _closable(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        if hasattr(pieces, "aclose"):
            await pieces.aclose()


async def _send_all(first: bytes, rest: AsyncIterator[bytes], send: Any) -> None:
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for piece in rest:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _until_gone(receive: Any, sending: Any) -> None:
    """Run ``sending`` to its end, or until the caller has gone away."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    sender, listener = asyncio.ensure_future(sending), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({sender, listener}, return_when=asyncio.FIRST_COMPLETED)
        if sender.done():
            sender.result()
    finally:
        for task in (sender, listener):
            task.cancel()
        await asyncio.gather(sender, listener, return_exceptions=True)


def ndjson_answer(
    items: AsyncIterator[Any],
    *,
    headers: Mapping[str, str] | None = None,
    at_once: bool = False,
) -> Answer:
    """Send ``items`` as lines of JSON, gathered to about 64 KiB, or each ``at_once``."""

    async def lines() -> AsyncIterator[bytes]:
        encode, gathered, size = msgspec.json.Encoder().encode, [], 0
        async for item in items:
            line = encode(item)
            gathered.append(line)
            size += len(line) + 1
            if at_once or size >= PIECE_BYTES:
                yield b"\n".join(gathered) + b"\n"
                gathered, size = [], 0
        if gathered:
            yield b"\n".join(gathered) + b"\n"

    return stream_answer(lines(), media_type="application/x-ndjson", headers=headers)


def file_answer(
    path: Path,
    *,
    media_type: str = "application/octet-stream",
    filename: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send the file at ``path``; with ``filename`` as a download of that name.

    Raises :class:`NotFound` (a problem document) when there is no such file.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        try:
            file = await opened(path, "rb")
        except FileNotFoundError as error:
            raise NotFound("cannot send the file: it is gone", internal=str(path)) from error
        with file:
            size = (await asyncio.to_thread(path.stat)).st_size
            sized = {"Content-Length": str(size), **_disposition(filename), **(headers or {})}

            async def pieces() -> AsyncIterator[bytes]:
                left = size
                while left:
                    piece = await asyncio.to_thread(file.read, min(FILE_PIECE_BYTES, left))
                    if not piece:
                        raise EOFError(f"{path} became shorter while it was sent")
                    left -= len(piece)
                    yield piece

            made = stream_answer(pieces(), media_type=media_type, headers=sized)
            await made(scope, receive, send)

    return answer


def _disposition(filename: str) -> dict[str, str]:
    if not filename:
        return {}
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in filename)
    encoded = quote(filename, safe="")
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"}


def events_answer(
    request: ApiRequest,
    since: Callable[[str | None], AsyncIterator[LiveEvent]],
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    seconds_max: float = EVENTS_SECONDS,
) -> Answer:
    """Send live events (``text/event-stream``).

    ``since(last)`` yields the events after the one whose id is ``last`` (from ``Last-Event-ID``;
    ``None``: from now on), then goes on with new ones. A comment goes out when nothing happens for
    ``heartbeat_seconds``; the stream ends when the server stops, or after ``seconds_max``, and the
    caller comes back with the last id it saw. When the credential that it was begun with has ended,
    the last event is a ``problem`` that says so.
    """
    last = request.headers.get("last-event-id") or None
    stop = stopping(request)
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds_max
    standing = standing_of(request.scope)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RETRY_MILLISECONDS
        source = since(last)
        following: asyncio.Task[LiveEvent] | None = None
        stopped = asyncio.ensure_future(stop.wait())
        over = None if standing is None else asyncio.ensure_future(standing.over())
        ends: set[asyncio.Task[Any]] = {stopped} if over is None else {stopped, over}
        try:
            while not stop.is_set() and (left := until - loop.time()) > 0:
                if following is None:
                    following = asyncio.ensure_future(_next(source))
                await asyncio.wait(
                    {following, *ends},
                    timeout=min(heartbeat_seconds, left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if standing is not None and over is not None:
                    error = await _end_of(standing, over)
                    if error is not None:  # of what is waiting to go out, nothing goes after it
                        log.info("events ended", path=request.scope["path"], code=error.code)
                        yield problem_bytes(error, request.scope["path"])
                        return
                if not following.done():
                    yield b": still here\n\n"
                    continue
                try:
                    yield event_bytes(following.result())
                except StopAsyncIteration:
                    return
                following = None
        finally:
            waiting = [task for task in (following, *ends) if task is not None]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            if hasattr(source, "aclose"):
                await source.aclose()

    if standing is not None:
        standing.own = True
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return stream_answer(pieces(), media_type="text/event-stream", headers=headers)


async def _end_of(standing: Standing, over: asyncio.Future[HoldfastError]) -> HoldfastError | None:
    if over.done():
        return over.result()
    try:
        await standing.check()
    except HoldfastError as error:
        return error
    return None


def problem_bytes(error: HoldfastError, path: str) -> bytes:
    """The event that says why a stream of events is over. It has no id: whoever comes back goes on
    after the last event of the source."""
    shown = msgspec.json.encode(document(error, instance=path, request_id=request_id()))
    return b"event: %b\ndata: %b\n\n" % (PROBLEM_EVENT.encode(), shown)


async def _next(source: AsyncIterator[LiveEvent]) -> LiveEvent:
    return await anext(source)


def event_bytes(event: LiveEvent) -> bytes:
    """One event as it goes over the wire. JSON has no line breaks, so one ``data`` line is enough.

    Raises ``ValueError`` when the id or the name could end the line early.
    """
    for text in (event.id, event.event):
        if any(character in text for character in "\r\n\0"):
            raise ValueError("cannot send the event: its id or name holds a line break")
    named = f"event: {event.event}\n" if event.event else ""
    head = f"id: {event.id}\n{named}data: ".encode()
    return head + msgspec.json.encode(event.data) + b"\n\n"
