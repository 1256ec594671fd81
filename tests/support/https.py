"""Two https origins on loopback that remember what they were asked, headers and all."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme


@dataclass
class Origin:
    """``https://name:port``. ``moved`` paths redirect; all others answer with the same JSON."""

    name: str
    content: object
    moved: dict[str, str] = field(default_factory=dict)
    url: str = ""
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def headers(self, path: str) -> Sequence[Mapping[str, str]]:
        """The headers (names in lower case) of every request for this path, the query included."""
        return [headers for target, headers in self.seen if target == path]


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, origin: Origin, *arguments: object) -> None:
        self._origin = origin
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        origin = self._origin
        origin.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        location = origin.moved.get(self.path.partition("?")[0])
        body = b"" if location else json.dumps(origin.content).encode()
        self.send_response(302 if location else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def served(*origins: Origin, folder: Path) -> Iterator[Path]:
    """Every origin in a thread of its own; the file with the authority that vouches for them."""
    authority = trustme.CA()
    ca_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with ExitStack() as stack:
        for origin in origins:
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, origin))
            stack.callback(server.server_close)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(origin.name).configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            origin.url = f"https://{origin.name}:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, name=origin.name, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown)
        yield ca_file
