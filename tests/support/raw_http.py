"""HTTP requests that no library would send: bodies that never end, and heads that lie."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 60.0
PIECE = b"0" * 65536


@dataclass
class Answer:
    """What came back, and how many bytes of the body had been sent by then."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_bytes: int = 0

    @property
    def problem(self) -> Any:
        """The problem document that the answer must be."""
        assert self.headers.get("content-type") == "application/problem+json", self
        return json.loads(self.body)


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection to the server at ``url``."""
    target = urlsplit(url)
    with socket.create_connection((target.hostname, target.port), timeout=ANSWER_SECONDS) as line:
        yield line


def head(method: str, path: str, headers: Mapping[str, str], host: str = "127.0.0.1") -> bytes:
    """The beginning of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def upload(
    url: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    announced: int | None,
    bytes_max: int,
) -> Answer:
    """Send a body of zeros until the server answers, and return what it says.

    ``announced`` is its Content-Length; without one it is chunked and has no end. Fails when
    ``bytes_max`` were taken and still no answer came.
    """
    framing = (
        {"Transfer-Encoding": "chunked"}
        if announced is None
        else {"Content-Length": str(announced)}
    )
    piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if announced is None else PIECE
    sent = 0
    with connected(url) as line:
        line.sendall(head(method, path, {**headers, **framing}))
        left = memoryview(b"")
        line.setblocking(False)
        while sent <= bytes_max:
            readable, writable, _ = select.select([line], [line], [], ANSWER_SECONDS)
            assert readable or writable, f"no answer, and nothing more is taken after {sent} bytes"
            if readable:
                break
            left = left or memoryview(piece)
            try:
                count = line.send(left)
            except ConnectionError:
                break
            left, sent = left[count:], sent + count
        else:
            raise AssertionError(f"{sent} bytes were taken without an answer")
        line.settimeout(ANSWER_SECONDS)
        found = read_answer(line)
    found.sent_bytes = sent
    return found


def read_answer(line: socket.socket) -> Answer:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(line, data)
    top, _, body = data.partition(b"\r\n\r\n")
    first, *rest = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in rest)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += _received(line, body)
    return Answer(int(first.split()[1]), headers, body)


def _received(line: socket.socket, before: bytes) -> bytes:
    data = line.recv(65536)
    assert data, f"the server closed the connection after {before[:200]!r}"
    return data
