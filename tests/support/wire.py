"""Stands on the wire between HTTP clients and servers, and acts at the request that was chosen.

A :class:`Wire` passes bytes on and reads nothing but request lines and where a request ends. A
:class:`Trap` names a kind of request and which one of them; when that comes by, its action (a
kill, a stop) is taken before the request is passed on, right after its last byte was, some time
later, or once the first bytes of the answer have come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from tests.support.waiting import until

Moment = Literal["before", "after", "later", "answered"]
MOMENTS: tuple[Moment, ...] = ("before", "after", "later", "answered")
LATER_SECONDS_MAX = 0.02
HOLD_SECONDS_MAX = 300.0

PHASES = {
    "spool": re.compile(rb"GET /(?!v1/|__)"),
    "post": re.compile(rb"PUT /v1/runs/[^/ ]+/responses/"),
    "commit": re.compile(rb"POST /v1/batches[ ?]"),
    "publish": re.compile(rb"POST /v1/runs/[^/ ]+/finish"),
}
"""What a drone is about to do when it sends such a request: fetch, and after that what it has
spooled is stored, then batches are committed, then the run is published."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ /[^ ]* HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass
class Trap:
    """Springs once, at the ``occurrence``-th request of ``phase`` (of ``sender``, if named).

    Where it is set before the request is passed on, ``answer`` becomes the answer to that request
    (empty: there was none), and with ``hold`` the request is kept back until that event is set.
    """

    phase: str
    occurrence: int
    moment: Moment
    action: Callable[[], None]
    later_seconds: float = 0.0
    sender: str = ""
    hold: threading.Event | None = None
    sprung: Future[str] = field(default_factory=Future)
    answer: Future[bytes] = field(default_factory=Future)
    heard: bytes = b""
    _seen: int = 0

    def takes(self, phase: str, sender: str) -> bool:
        """Whether this request is the one."""
        if phase != self.phase or self.sender not in ("", sender) or self._seen < 0:
            return False
        self._seen += 1
        if self._seen < self.occurrence:
            return False
        self._seen = -1
        return True

    def spring(self, sender: str) -> None:
        """Act; what goes wrong is raised by ``sprung``."""
        try:
            self.action()
        except BaseException as error:  # it is the test's thread that must fail
            self.sprung.set_exception(error)
        else:
            self.sprung.set_result(sender)


class Wire:
    """Any number of ways, each from an address of its own to a server that may come and go."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._trap: Trap | None = None
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    def arm(self, trap: Trap) -> Trap:
        """Set this trap in place of the last."""
        self._trap = trap
        return trap

    def way(self, name: str, port: int, *, patient: bool = False) -> str:
        """A new address that leads to the server at ``port``; its user is called ``name``.

        ``patient``: who comes while nobody listens there is kept waiting until somebody does.
        """
        made = asyncio.run_coroutine_threadsafe(self._listen(name, port, patient), self._loop)
        return f"http://127.0.0.1:{made.result(10)}"

    async def _listen(self, name: str, port: int, patient: bool) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                if patient:
                    await until(partial(_listens, port), seconds=HOLD_SECONDS_MAX)
                await self._connection(name, port, reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                self._connections.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._servers.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _connection(
        self, name: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One client's connection, and one of ours for it."""
        server, out = await asyncio.open_connection("127.0.0.1", port)
        waiting: list[Trap] = []

        async def answers() -> None:
            try:
                while data := await server.read(65536):
                    writer.write(data)
                    await writer.drain()
                    for trap in list(waiting):
                        trap.heard += data
                        if trap.moment == "answered" or _whole(trap.heard):
                            waiting.remove(trap)
                            _answered(trap, name)
            except OSError:
                return
            finally:
                for trap in waiting:
                    _answered(trap, name)
                writer.close()

        back = asyncio.create_task(answers())
        try:
            async for data, trap, whole in self._requests(name, reader):
                if trap is not None and trap.moment == "before":
                    trap.spring(name)
                    if trap.hold is not None:
                        await asyncio.to_thread(trap.hold.wait, HOLD_SECONDS_MAX)
                    waiting.append(trap)
                out.write(data)
                await out.drain()
                if trap is None or not whole:
                    continue
                if trap.moment == "answered":
                    waiting.append(trap)
                elif trap.moment in ("after", "later"):
                    await asyncio.sleep(trap.later_seconds if trap.moment == "later" else 0)
                    trap.spring(name)
        finally:
            with contextlib.suppress(OSError):
                out.close()
            back.cancel()

    async def _requests(
        self, name: str, reader: asyncio.StreamReader
    ) -> AsyncIterator[tuple[bytes, Trap | None, bool]]:
        """Each piece of a client's bytes, with the trap that its request springs, if there is one.

        The trap comes with the piece that ends the request; for ``before`` that is all of it.
        """
        trap: Trap | None = None
        left, chunked, kept = 0, False, b""
        while data := await reader.read(65536):
            first = _REQUEST_LINE.match(data) is not None
            if first:
                trap = self._trapped(name, data)
                head, _, body = data.partition(b"\r\n\r\n")
                length = _LENGTH.search(head)
                chunked = _CHUNKED.search(head) is not None
                left = (int(length[1]) if length else 0) - len(body)
            else:
                left -= len(data)
            whole = data.endswith(b"0\r\n\r\n") if chunked else left <= 0
            if trap is None:
                yield data, None, False
            elif trap.moment == "before":
                kept += data
                if whole:
                    yield kept, trap, True
                    trap, kept = None, b""
            else:
                yield data, trap if whole else None, whole
                trap = None if whole else trap

    def _trapped(self, name: str, data: bytes) -> Trap | None:
        phase = next((p for p, line in PHASES.items() if line.match(data)), "")
        self.seen[phase] += bool(phase)
        trap = self._trap
        if trap is None or not trap.takes(phase, name):
            return None
        self._trap = None
        return trap

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _listens(port: int) -> bool:
    try:
        _, probe = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    probe.close()
    return True


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _answered(trap: Trap, name: str) -> None:
    trap.answer.set_result(trap.heard)
    if trap.moment == "answered":
        trap.spring(name)


@contextmanager
def wire() -> Iterator[Wire]:
    """A wire in a thread of its own; nothing of it is left at the end."""
    made = Wire()
    thread = threading.Thread(target=made._loop.run_forever, name="wire", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made._end(), made._loop).result(10)
        made._loop.call_soon_threadsafe(made._loop.stop)
        thread.join(10)
        made._loop.close()
