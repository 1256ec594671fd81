"""The metrics on a port of their own: what a scraper asks for, and nothing else.

A scraper brings no credential, so this port has nothing but the metrics, and only an operator who
asks for it has it. It is reached by address (an orchestrator's scraper asks each pod at its own) or
by a name that is listed: no name that somebody else points here is answered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any

from holdfast.kernel.telemetry import METRICS_CONTENT_TYPE, Metrics

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

PATH = "/metrics"


class ScrapeApp:
    """The application of the metrics port."""

    def __init__(self, metrics: Metrics, hosts: Iterable[str]) -> None:
        self._metrics = metrics
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        status, body, kind = self._answer(scope)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    def _answer(self, scope: MutableMapping[str, Any]) -> tuple[int, bytes, str]:
        plain = "text/plain; charset=utf-8"
        if not self._answers_for(scope):
            return 421, b"this port does not answer for that host\n", plain
        if scope["path"] != PATH:
            return 404, b"there is /metrics here, and nothing else\n", plain
        if scope["method"] not in ("GET", "HEAD"):
            return 405, b"the metrics are read with GET\n", plain
        return 200, self._metrics.render(), METRICS_CONTENT_TYPE

    def _answers_for(self, scope: MutableMapping[str, Any]) -> bool:
        found = [value for name, value in scope["headers"] if name == b"host"]
        if len(found) != 1:
            return False
        host = found[0].decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        with contextlib.suppress(ValueError):
            ip_address(name.strip("[]"))
            return True
        return name.rstrip(".") in self._hosts
