"""A small application served for real: in a thread of the test, or as a process of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar, Response

from holdfast.kernel.connection import ServeLimits
from holdfast.kernel.http import ApiRequest, App, AppSpec, create_app, get, post, stopping
from holdfast.kernel.principal import Permission, Principal, operator
from holdfast.kernel.serving import CONNECTIONS_MEANING, Bound, Tls, run, serve
from holdfast.kernel.telemetry import Metrics
from tests.support.waiting import until

PATIENCE_SECONDS = 300.0
"""How long a test waits for what must come, on a machine that has much else to do."""


class Echo(msgspec.Struct, forbid_unknown_fields=True):
    text: str


async def anybody(connection: Any) -> Principal:
    return operator()


def application(marks: Path | None = None) -> App:
    """``marks``: a directory in which what happens leaves a file."""

    def mark(name: str) -> None:
        if marks is not None:
            (marks / name).touch()

    @get("/v1/echo", permission=Permission.PUBLIC)
    async def read_echo() -> Echo:
        return Echo("hello")

    @post("/v1/echo", permission=Permission.PUBLIC)
    async def write_echo(data: Echo) -> Echo:
        return data

    @post("/v1/size", permission=Permission.PUBLIC, raw=True, body_limit=64 * 1024 * 1024)
    async def size_echo(request: ApiRequest) -> dict[str, int]:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return {"size": size}

    @post("/v1/fields", permission=Permission.PUBLIC, raw=True)
    async def fields_echo(request: ApiRequest) -> dict[str, list[str]]:
        """The fields that the request has, by the time that its body has been read."""
        async for _ in request.stream():
            pass
        found: dict[str, list[str]] = {}
        for name, value in request.scope["headers"]:
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        return found

    @get("/v1/slow", permission=Permission.PUBLIC)
    async def slow_echo(seconds: float) -> Echo:
        mark("slow-began")
        await asyncio.sleep(seconds)
        mark("slow-ended")
        return Echo("slow")

    @get("/v1/held", permission=Permission.PUBLIC)
    async def held_echo() -> Echo:
        """Answers when there is a mark that says so."""
        assert marks is not None
        mark("held-began")
        await until((marks / "go").exists, seconds=10 * PATIENCE_SECONDS)
        return Echo("held")

    @get("/v1/wait", permission=Permission.PUBLIC)
    async def wait_echo(request: ApiRequest) -> Echo:
        mark("wait-began")
        await stopping(request).wait()
        return Echo("told to stop")

    @get("/v1/certificate", permission=Permission.PUBLIC)
    async def certificate_echo(request: ApiRequest) -> Response[bytes]:
        tls: Any = request.scope.get("extensions", {}).get("tls", {})
        return Response(tls.get("peer_certificate_der") or b"none")

    @get("/v1/large", permission=Permission.PUBLIC)
    async def large_echo() -> Response[bytes]:
        return Response(b"x" * (32 * 1024 * 1024))

    @get("/v1/address", permission=Permission.PUBLIC)
    async def address_echo(request: ApiRequest) -> dict[str, str]:
        return {"path": request.scope["path"]}

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        mark("started")
        yield
        mark("stopped")

    handlers = [
        read_echo, write_echo, size_echo, slow_echo, held_echo, wait_echo, certificate_echo,
        large_echo, address_echo, fields_echo,
    ]  # fmt: skip
    return create_app(
        AppSpec(
            role="test",
            version="0",
            handlers=handlers,
            authenticate=anybody,
            lifespan=[lifespan],
        )
    )


class Running:
    """The application in a thread with a uvloop of its own."""

    def __init__(
        self,
        limits: ServeLimits,
        tls: Tls | ssl.SSLContext | None = None,
        app: Any = None,
        bind: str | socket.socket = "127.0.0.1:0",
    ) -> None:
        self._limits = limits
        self._bind = bind
        self._tls = tls
        self._app = app
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._failure: BaseException | None = None
        self._metrics = Metrics()
        self.bound: Bound

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._told.wait(PATIENCE_SECONDS)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"
        if self._failure is not None and exc[0] is None:
            raise self._failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)

    def joined(self) -> bool:
        self._thread.join(PATIENCE_SECONDS)
        return not self._thread.is_alive()

    def connections(self) -> int:
        """How many are open now."""
        gauge = self._metrics.gauge("vdb_connections_active", CONNECTIONS_MEANING)
        return int(next(iter(gauge.collect())).samples[0].value)

    def refused(self, code: str) -> int:
        """How much was refused before it was a request, for this reason."""
        samples = [each for found in self._metrics.registry.collect() for each in found.samples]
        return int(
            sum(each.value for each in samples if each.labels == {"code": code} and each.value)
        )

    def _main(self) -> None:
        try:
            run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._told.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()

        def ready(bound: Bound) -> None:
            self.bound = bound
            self._told.set()

        await serve(
            self._app or application(),
            bind=self._bind,
            limits=self._limits,
            tls=self._tls,
            ready=ready,
            stop=self._stop,
            signals=False,
            metrics=self._metrics,
        )


def main(marks: Path, stop_seconds: float) -> None:
    def ready(bound: Bound) -> None:
        (marks / "url.part").write_text(bound.url)
        (marks / "url.part").rename(marks / "url")

    async def leaving() -> None:
        (marks / "leaving").touch()
        if (marks / "stay").exists():
            await asyncio.Event().wait()

    limits = ServeLimits(stop_seconds=stop_seconds)
    run(serve(application(marks), bind="127.0.0.1:0", limits=limits, ready=ready, leaving=leaving))
    (marks / "returned").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
