"""A small application for the tests of HTTP plumbing, and plain requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
from litestar import Response

from holdfast.kernel.errors import Conflict, Corrupt, Exhausted, Internal, Problem, Unauthenticated
from holdfast.kernel.http import (
    ApiRequest,
    App,
    AppSpec,
    Header,
    LiveEvent,
    Page,
    create_app,
    delete,
    events_answer,
    file_answer,
    get,
    ndjson_answer,
    not_modified,
    patch,
    post,
    put,
    require_version,
    stream_answer,
)
from holdfast.kernel.principal import Permission, Principal, PrincipalKind
from holdfast.kernel.telemetry import request_id, traceparent

READER, WRITER = "reader-token", "writer-token"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Thing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A thing."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    count: int = 0
    tags: list[str] = []


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A type of any depth."""

    children: list[Tree] = []
    extra: Any = None


Limit = Annotated[int, msgspec.Meta(ge=1, le=100)]


async def authenticate(connection: Any) -> Principal:
    """Two tokens, two principals."""
    given = connection.headers.get("authorization", "")
    known = {
        f"Bearer {READER}": frozenset({Permission.RUNS_READ}),
        f"Bearer {WRITER}": frozenset({Permission.RUNS_READ, Permission.RUNS_WRITE}),
    }
    if given not in known:
        raise Unauthenticated("cannot do this: no known token")
    tenant: Any = "default"
    return Principal(tenant, given[7:13], PrincipalKind.KEY, known[given])


def handlers(folder: Path | None = None) -> list[Any]:
    @get("/v1/things", permission=Permission.RUNS_READ)
    async def list_things(
        principal: Principal,
        limit: Limit = 10,
        colour: Colour | None = None,
        tag: list[str] | None = None,
        since: datetime | None = None,
        deep: bool = False,
    ) -> Page[Thing]:
        """List things."""
        name = f"{principal.subject} {colour} {since.isoformat() if since else None} {deep}"
        return Page(items=[Thing(name=name, count=limit, tags=tag or [])])

    @get("/v1/things/{name:str}/{number:int}", permission=Permission.RUNS_READ)
    async def show_thing(name: str, number: int) -> Thing:
        """Show a thing.

        Even one that is not there.
        """
        return Thing(name=name, count=number)

    @post("/v1/things", permission=Permission.RUNS_WRITE)
    async def create_thing(data: Thing) -> Thing:
        return data

    @put("/v1/things/{name:str}", permission=Permission.RUNS_WRITE, responses={412: "Too late"})
    async def replace_thing(request: ApiRequest, name: str, data: Thing) -> Thing:
        require_version(request, 7)
        return data

    @patch("/v1/things/{name:str}", permission=Permission.RUNS_WRITE)
    async def change_thing(name: str, data: Thing | None = None) -> Thing:
        return data or Thing(name=name)

    @delete("/v1/things/{name:str}", permission=Permission.RUNS_WRITE)
    async def drop_thing(name: str) -> None:
        return None

    @post("/v1/trees", permission=Permission.PUBLIC, status=200)
    async def grow_tree(data: Tree) -> int:
        return len(data.children)

    @post("/v1/things/count", permission=Permission.PUBLIC, body_limit=100)
    async def count_things(data: list[Thing]) -> int:
        return len(data)

    @post("/v1/raw", permission=Permission.PUBLIC, raw=True, body_limit=1000)
    async def take_raw(request: ApiRequest) -> dict[str, int]:
        return {"size": len(await request.body())}

    @post("/v1/yaml", permission=Permission.PUBLIC, accepts=("application/yaml",))
    async def take_yaml(request: ApiRequest) -> str:
        return (await request.body()).decode()

    @get("/v1/header", permission=Permission.PUBLIC)
    async def read_header(grant: Annotated[str | None, Header("Holdfast-Grant")] = None) -> str:
        return repr(grant)

    @get("/v1/ids", permission=Permission.PUBLIC)
    async def read_ids() -> list[str]:
        return [request_id(), traceparent()]

    @get("/v1/fails/{how:str}", permission=Permission.PUBLIC)
    async def fail_thing(how: str) -> None:
        match how:
            case "conflict":
                raise Conflict(
                    "cannot do it: too late",
                    code="thing-late",
                    hint="be earlier",
                    problems=[Problem("$.a", "is late", "now", 3)],
                )
            case "exhausted":
                raise Exhausted("cannot do it: no more today", retry_after_seconds=2.2)
            case "corrupt":
                raise Corrupt("cannot read it: the digest differs", internal="at /secret/path")
            case "internal":
                raise Internal("the secret is 42", internal="more secrets")
            case "surrogate":
                raise Conflict("cannot do it: \ud800")
            case _:
                raise RuntimeError("the secret is 42")

    @get("/v1/versioned", permission=Permission.PUBLIC)
    async def read_versioned(request: ApiRequest) -> Response[Thing | None]:
        if not_modified(request, 7):
            return Response(None, status_code=304, headers={"ETag": '"7"'})
        return Response(Thing(name="seven"), headers={"ETag": '"7"'})

    @get("/v1/lines", permission=Permission.PUBLIC, media_type="application/x-ndjson")
    async def read_lines(count: int, fail_at: int = -1) -> Any:
        async def items() -> AsyncIterator[Thing]:
            for number in range(count):
                if number == fail_at:
                    raise Conflict("cannot go on")
                yield Thing(name="x" * 50, count=number)

        return ndjson_answer(items())

    @get("/v1/file", permission=Permission.PUBLIC, media_type="application/octet-stream")
    async def read_file(name: str) -> Any:
        assert folder is not None
        return file_answer(folder / name, filename='bericht für "alle".bin')

    @get("/v1/events", permission=Permission.PUBLIC, media_type="text/event-stream")
    async def read_events(request: ApiRequest, count: int, seconds: float = 300) -> Any:
        async def since(last: str | None) -> AsyncIterator[LiveEvent]:
            first = int(last) + 1 if last else 0
            for number in range(first, first + count):
                yield LiveEvent(id=str(number), event="tick", data={"text": "a\nb", "n": number})
            await asyncio.sleep(600 if count == 0 else 0)

        return events_answer(request, since, heartbeat_seconds=0.05, seconds_max=seconds)

    @get("/v1/endless", permission=Permission.PUBLIC, media_type="application/octet-stream")
    async def read_endless() -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            assert folder is not None
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                (folder / "ended").touch()

        return stream_answer(pieces())

    return [
        list_things, show_thing, create_thing, replace_thing, change_thing, drop_thing, grow_tree,
        count_things, take_raw, take_yaml, read_header, read_ids, fail_thing, read_versioned,
        read_lines, read_file, read_events, read_endless,
    ]  # fmt: skip


def make_app(**changes: Any) -> App:
    given: dict[str, Any] = {
        "role": "test",
        "version": "1.2.3",
        "handlers": handlers(),
        "authenticate": authenticate,
    }
    return create_app(AppSpec(**(given | changes)))


def browser(app: App, token: str | None = WRITER, **options: Any) -> httpx.AsyncClient:
    """A client that shows answers as they are."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers, **options
    )
