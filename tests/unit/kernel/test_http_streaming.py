"""Answers that are sent while they are made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.http.door import STOPPING
from holdfast.kernel.http.streaming import LiveEvent, event_bytes
from tests.unit.kernel.http_app import browser, handlers, make_app


class Wire:
    """An ASGI exchange driven by hand: what is sent is seen when it is sent."""

    def __init__(self, app: Any, path: str, query: str = "", **headers: str) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=3)
        self.gone = asyncio.Event()
        self.stop = asyncio.Event()
        self._asked = False
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "server": ("localhost", 80), "client": ("127.0.0.1", 1),
            "headers": [(b"host", b"localhost")]
            + [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
            "state": {STOPPING: self.stop},
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self.sent.put))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await self.sent.get()


async def test_lines_of_json_are_gathered_into_pieces() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/lines", params={"count": 5000})
        empty = await client.get("/v1/lines", params={"count": 0})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.content.splitlines()
    assert len(lines) == 5000
    assert lines[4999].endswith(b'"count":4999,"tags":[]}')
    assert answer.content.endswith(b"\n")
    assert (empty.status_code, empty.content) == (200, b"")


async def test_a_stream_is_not_made_faster_than_it_is_taken() -> None:
    wire = Wire(make_app(), "/v1/lines", "count=1000000")
    start = await wire.next()
    assert start["status"] == 200
    sizes = [len((await wire.next())["body"]) for _ in range(3)]
    assert all(60_000 < size < 80_000 for size in sizes)
    assert wire.sent.qsize() <= 3
    wire.gone.set()
    async with asyncio.timeout(60):
        while not wire.task.done():
            if not wire.sent.empty():
                wire.sent.get_nowait()
            await asyncio.sleep(0)


async def test_when_the_caller_goes_away_the_making_stops(tmp_path: Path) -> None:
    wire = Wire(make_app(handlers=handlers(tmp_path)), "/v1/endless")
    for _ in range(3):
        await wire.next()
    wire.gone.set()
    async with asyncio.timeout(60):
        while not wire.task.done():
            if not wire.sent.empty():
                wire.sent.get_nowait()
            await asyncio.sleep(0)
    assert (tmp_path / "ended").exists()


async def test_a_file_is_sent_whole_with_its_name(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a.bin").write_bytes(content)
    async with browser(make_app(handlers=handlers(tmp_path))) as client:
        answer = await client.get("/v1/file", params={"name": "a.bin"})
        missing = await client.get("/v1/file", params={"name": "b.bin"})
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    disposition = answer.headers["content-disposition"]
    assert 'filename="bericht_f_r__alle_.bin"' in disposition
    assert "filename*=UTF-8''bericht%20f%C3%BCr%20%22alle%22.bin" in disposition
    assert missing.status_code == 404
    assert str(tmp_path) not in missing.text


async def test_live_events_arrive_and_are_replayed_after_the_last_one_seen() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/events", params={"count": 2})
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.text == (
            "retry: 2000\n\n"
            'id: 0\nevent: tick\ndata: {"text":"a\\nb","n":0}\n\n'
            'id: 1\nevent: tick\ndata: {"text":"a\\nb","n":1}\n\n'
        )
        later = await client.get("/v1/events", params={"count": 1}, headers={"last-event-id": "41"})
        assert "id: 42\n" in later.text


async def test_silence_is_filled_and_a_stop_ends_the_stream() -> None:
    wire = Wire(make_app(), "/v1/events", "count=0")
    assert (await wire.next())["status"] == 200
    assert (await wire.next())["body"].startswith(b"retry:")
    assert (await wire.next())["body"] == b": still here\n\n"
    wire.stop.set()
    last = await wire.next()
    while last.get("more_body"):
        last = await wire.next()
    await wire.task


async def test_a_stream_of_events_ends_before_long_so_that_who_reads_it_is_asked_again() -> None:
    wire = Wire(make_app(), "/v1/events", "count=0&seconds=0.2")
    assert (await wire.next())["status"] == 200
    while (await wire.next()).get("more_body", True):
        pass
    await wire.task


async def test_an_event_cannot_break_out_of_its_line() -> None:
    for event in (
        LiveEvent(id="1\ndata: x", data=1),
        LiveEvent(id="1", event="a\rb", data=1),
        LiveEvent(id="\0", data=1),
    ):
        with pytest.raises(ValueError, match="line break"):
            event_bytes(event)
