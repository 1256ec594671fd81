"""The ledger's routes: parse, call, map."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, ParamSpec, TypeVar

import msgspec
from litestar import Response
from litestar.params import Parameter

from holdfast.kernel.canonical import INTEGER_MAX
from holdfast.kernel.clock import parse_timestamp
from holdfast.kernel.errors import HoldfastError, Invalid, TooLarge, Unauthenticated, Unavailable
from holdfast.kernel.http import ApiRequest, Page, get, post
from holdfast.kernel.http.bodies import Body
from holdfast.kernel.http.paging import Limit
from holdfast.kernel.http.problems import ProblemDocument, document
from holdfast.kernel.http.routes import CALLER_GONE
from holdfast.kernel.http.standing import standing_of
from holdfast.kernel.http.streaming import (
    LiveEvent,
    events_answer,
    ndjson_answer,
)
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.reads import ReadLog
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.ledger.exporting import export
from holdfast.ledger.model import (
    APPEND_BYTES_MAX,
    Append,
    Appended,
    Consistency,
    Entry,
    FoldedPage,
    LedgerStatus,
    Moment,
    ProjectionStatus,
    Proof,
    Reason,
    Relay,
    StreamInfo,
    Trust,
)
from holdfast.ledger.service import LedgerService
from holdfast.ledger.verifying import verify

READ, WRITE = Permission.LEDGER_READ, Permission.LEDGER_APPEND
MANAGE, RELAY = Permission.LEDGER_MANAGE, Permission.LEDGER_RELAY
Position = Annotated[int, Parameter(ge=0, le=INTEGER_MAX)]
STREAM_BYTES_MAX = 2 * 1024**3
IN_FLIGHT_MAX = 512
LINE_BYTES_MAX = APPEND_BYTES_MAX
NOTE = "text/plain; charset=utf-8"

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger("ledger")


def handlers(service: LedgerService, exports: ReadLog) -> list[Any]:
    """Every route of the ledger; ``exports`` notes whoever takes all of it along."""
    return [
        *_appending(service),
        *_reading(service),
        *_projecting(service),
        *_proving(service),
        *_managing(service, exports),
    ]


class AppendedLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the answer to pipelined appends: what became of the append of that line.

    ``ended``: it is the last one; from that line on nothing was appended, for this reason. Line 0
    is nobody's: a door in between ended it, and cannot tell of the lines that are not answered yet.
    """

    line: int
    appended: Appended | None = None
    problem: ProblemDocument | None = None
    ended: bool = False


def _counted(
    service: LedgerService, method: str, *, timed: bool = True
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Count the calls of a handler, and measure them, by the names of guide 3."""

    def decorate(handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(handler)
        async def call(*given: P.args, **named: P.kwargs) -> T:
            started = service.clock.monotonic()
            failed = True
            try:
                answer = await handler(*given, **named)
                failed = False
                return answer
            finally:
                seconds = service.clock.monotonic() - started if timed else None
                service.metrics.asked(method, seconds, failed=failed)

        return call

    return decorate


def _appending(service: LedgerService) -> list[Any]:
    @post("/v1/ledger/events", permission=WRITE, body_limit=APPEND_BYTES_MAX, status=200)
    @_counted(service, "Append")
    async def append_events(principal: Principal, data: Append) -> Appended:
        """Append events together or not at all; they are durable when this is answered."""
        return await service.append(principal, data)

    @post(
        "/v1/ledger/pipeline",
        permission=WRITE,
        raw=True,
        accepts=("application/x-ndjson",),
        body_limit=STREAM_BYTES_MAX,
        status=200,
        media_type="application/x-ndjson",
    )
    @_counted(service, "Append", timed=False)
    async def pipeline_appends(request: ApiRequest, principal: Principal) -> Any:
        """Append line by line, each like a request of its own; answers come in the same order.

        The producer does not wait for an answer before it sends the next line. When the credential
        that it was begun with has ended, no more is appended, and a last line says why.
        """
        return _Pipeline(service, principal, request)

    @post("/v1/ledger/relay", permission=RELAY, body_limit=4 * APPEND_BYTES_MAX, status=200)
    @_counted(service, "Append")
    async def relay_events(principal: Principal, data: Relay) -> Appended:
        """Take over a role's outbox; what is there already is passed over."""
        return await service.relay(principal, data)

    return [append_events, pipeline_appends, relay_events]


class _Pipeline:
    """One pipelined request: an ASGI answer that reads on while it answers.

    At most ``IN_FLIGHT_MAX`` appends wait to be answered; beyond that the body is left unread, so
    that a producer that is too fast is held back by its own connection. No append is begun once
    nobody says any more that the credential holds; those that are begun are answered.
    """

    def __init__(self, service: LedgerService, principal: Principal, request: ApiRequest) -> None:
        self._service = service
        self._principal = principal
        self._request = request
        self._body = Body(Append)
        self._waiting: asyncio.Queue[tuple[int, asyncio.Future[Appended]] | None] = asyncio.Queue(
            IN_FLIGHT_MAX
        )
        self._standing = standing_of(request.scope)
        if self._standing is not None:
            self._standing.own = True
        self._begun = 0
        self._receiving = False
        self._over: HoldfastError | None = None
        self._left = False  # nobody answers any more
        self._ended = 0  # the line that says so

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        reading = asyncio.create_task(self._read())
        watching = asyncio.create_task(self._watch(reading))
        try:
            await self._answer(send)
            await reading
        finally:
            self._left = True
            reading.cancel()
            watching.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, reading: asyncio.Task[None]) -> None:
        """End the reading of whoever says nothing; whoever says something is asked about there."""
        if self._standing is None:
            return
        self._over = await self._standing.over()
        if self._receiving:
            reading.cancel()

    async def _read(self) -> None:
        try:
            await self._take()
        except TooLarge as error:
            await self._waiting.put((self._begun + 1, _failed(error)))
        except (Unauthenticated, Unavailable) as error:
            if error.code == CALLER_GONE:
                await self._waiting.put(None)
                raise
            await self._end(error)
        except asyncio.CancelledError:
            if self._left or self._over is None:
                raise  # nobody takes from the queue any more: where it is full, it would not end
            await self._end(self._over)
        except BaseException:
            await self._waiting.put(None)
            raise
        await self._waiting.put(None)

    async def _take(self) -> None:
        async for line in _lines(self._pieces()):
            if line:
                if self._over is not None:
                    raise self._over
                if self._standing is not None:
                    await self._standing.check()
                await self._waiting.put((self._begun + 1, await self._in_line(line)))
            self._begun += 1

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body; what is waited for may be given up, as long as it is not here."""
        pieces = self._request.stream()
        while True:
            if self._over is not None:
                raise self._over
            self._receiving = True
            try:
                piece = await anext(pieces, None)
            finally:
                self._receiving = False
            if piece is None:
                return
            yield piece

    async def _end(self, error: HoldfastError) -> None:
        """Say behind every answer that is owed why nothing more is appended."""
        log.info("pipeline ended", code=error.code, lines=self._begun)
        self._ended = self._begun + 1
        await self._waiting.put((self._ended, _failed(error)))

    async def _in_line(self, line: bytes) -> asyncio.Future[Appended]:
        """The append of a line, in line behind those before it."""
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            return await self._service.begin(self._principal, self._body.read(line))
        except HoldfastError as error:
            future.set_exception(error)
        return future

    async def _answer(self, send: Any) -> None:
        encode = msgspec.json.Encoder().encode
        following = await self._waiting.get()
        while following is not None:
            lines = [encode(await self._line(*following))]
            # What is answered already goes out together; what is not keeps nobody waiting.
            following, more = self._next()
            while more and following is not None and following[1].done():
                lines.append(encode(await self._line(*following)))
                following, more = self._next() if len(lines) < IN_FLIGHT_MAX else (None, False)
            body = b"\n".join(lines) + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if not more:
                following = await self._waiting.get()

    def _next(self) -> tuple[tuple[int, asyncio.Future[Appended]] | None, bool]:
        """What is next in line, and whether there was anything: the end is something, too."""
        try:
            return self._waiting.get_nowait(), True
        except asyncio.QueueEmpty:
            return None, False

    async def _line(self, number: int, future: asyncio.Future[Appended]) -> AppendedLine:
        try:
            answer = AppendedLine(line=number, appended=await future)
            self._service.metrics.asked("Append", None, failed=False)
            return answer
        except HoldfastError as error:
            self._service.metrics.asked("Append", None, failed=True)
            shown = document(error, instance=self._request.scope["path"], request_id=request_id())
            return AppendedLine(line=number, problem=shown, ended=number == self._ended)


def _failed(error: HoldfastError) -> asyncio.Future[Appended]:
    failed: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    return failed


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if len(line) > LINE_BYTES_MAX:
                raise _long_line()
            yield line.rstrip(b"\r")
        if len(rest) > LINE_BYTES_MAX:
            raise _long_line()
    if rest:
        yield rest


def _long_line() -> TooLarge:
    return TooLarge(f"cannot append: a line is over {LINE_BYTES_MAX} bytes")


def _reading(service: LedgerService) -> list[Any]:
    @get("/v1/ledger/entries", permission=READ)
    @_counted(service, "Query")
    async def list_entries(
        principal: Principal,
        stream: str | None = None,
        first: Position = 0,
        as_of: str | None = None,
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> Page[Entry]:
        """Read entries in order: from position first, or of a stream from version first."""
        return await service.read(
            principal,
            stream=stream,
            first=first,
            as_of=_moment(as_of),
            cursor=cursor,
            limit=limit,
        )

    @get("/v1/ledger/entries/{position:int}", permission=READ)
    @_counted(service, "Query")
    async def show_entry(principal: Principal, position: int) -> Entry:
        """Show the entry at a position."""
        return await service.entry(principal, position)

    @get("/v1/ledger/streams", permission=READ)
    @_counted(service, "Query")
    async def list_streams(
        principal: Principal, prefix: str = "", cursor: str | None = None, limit: Limit = 100
    ) -> Page[StreamInfo]:
        """List streams by name, with the version each is at."""
        return await service.streams(principal, prefix=prefix, cursor=cursor, limit=limit)

    @get("/v1/ledger/follow", permission=READ, media_type="text/event-stream")
    @_counted(service, "Subscribe", timed=False)
    async def follow_entries(
        request: ApiRequest,
        principal: Principal,
        first: Position | None = None,
        stream: str | None = None,
    ) -> Any:
        """Follow the log: what is there from position first on, then what comes.

        Without first it begins now; Last-Event-ID goes on after the position it names.
        """

        async def since(last: str | None) -> AsyncIterator[LiveEvent]:
            begin = first if last is None else _after(last)
            async for entry in service.follow(principal, first=begin, stream=stream):
                yield LiveEvent(id=str(entry.position), data=entry, event="entry")

        return events_answer(request, since)

    return [list_entries, show_entry, list_streams, follow_entries]


def _projecting(service: LedgerService) -> list[Any]:
    @get("/v1/ledger/moment", permission=READ)
    @_counted(service, "Query")
    async def show_moment(
        principal: Principal, as_of: str | None = None, position: Position | None = None
    ) -> Moment:
        """Tell how many entries the log had at a time, or has now."""
        return await service.moment(principal, _moment(as_of), position)

    @get("/v1/ledger/projections", permission=READ)
    @_counted(service, "Query")
    async def list_projections(principal: Principal) -> list[ProjectionStatus]:
        """List what is folded from the log, with the position that each reflects."""
        return await service.projections.all(principal)

    @get("/v1/ledger/projections/{name:str}", permission=READ)
    @_counted(service, "Query")
    async def show_projection(
        principal: Principal,
        name: str,
        as_of: str | None = None,
        position: Position | None = None,
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> FoldedPage:
        """List a projection's states by key, now, as of a position or as of a time."""
        return await service.projected(
            principal,
            name,
            as_of=_moment(as_of),
            position=position,
            cursor=cursor,
            limit=limit,
        )

    @post(
        "/v1/ledger/projections/{name:str}/rebuild",
        permission=MANAGE,
        status=200,
        media_type="application/x-ndjson",
    )
    @_counted(service, "Manage", timed=False)
    async def rebuild_projection(principal: Principal, name: str) -> Any:
        """Make a projection anew from the log; lines of progress, the last once it serves."""
        return ndjson_answer(service.projections.rebuild(principal, name), at_once=True)

    return [show_moment, list_projections, show_projection, rebuild_projection]


def _after(last: str) -> int:
    if not last.isdecimal() or len(last) > 15:
        raise Invalid(f"cannot go on after {last[:40]!r}: it is not a position")
    return int(last) + 1


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {text[:40]!r}", hint="such as 2026-11-01T00:00:00Z"
        ) from error


def _proving(service: LedgerService) -> list[Any]:
    @get("/v1/ledger/status", permission=READ)
    @_counted(service, "Prove")
    async def show_ledger_status(principal: Principal) -> LedgerStatus:
        """Show how the log stands: size, root, origin, and what is wrong with it, if anything."""
        return await service.status(principal)

    @get("/v1/ledger/checkpoint", permission=READ, media_type="text/plain")
    @_counted(service, "Prove")
    async def show_checkpoint(principal: Principal) -> Response[bytes]:
        """Give the newest checkpoint, a C2SP signed note."""
        note = await service.checkpoint(principal)
        return Response(note.encode(), media_type=NOTE, headers={"Cache-Control": "no-store"})

    @get("/v1/ledger/tile/{path:path}", permission=READ, media_type="application/octet-stream")
    @_counted(service, "Prove")
    async def show_tile(principal: Principal, path: str) -> Response[bytes]:
        """Give a tile of the tree, or of the entries, by its C2SP path."""
        data = await service.tile(principal, path.removeprefix("/"))
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    @get("/v1/ledger/proofs/inclusion", permission=READ)
    @_counted(service, "Prove")
    async def prove_inclusion(
        principal: Principal, position: Position, size: Position | None = None
    ) -> Proof:
        """Prove that an entry is in the tree of a size, or of the newest checkpoint."""
        return await service.inclusion(principal, position, size)

    @get("/v1/ledger/proofs/event", permission=READ)
    @_counted(service, "Prove")
    async def prove_event(principal: Principal, event: str) -> Proof:
        """Prove that an event, by its id, is in the tree of the newest checkpoint."""
        return await service.event_proof(principal, event)

    @get("/v1/ledger/proofs/events", permission=READ)
    @_counted(service, "Prove")
    async def prove_events(principal: Principal, event: tuple[str, ...] = ()) -> list[Proof]:
        """Prove that up to a hundred events, by their ids, are in one checkpoint: the newest."""
        return await service.event_proofs(principal, event)

    @get("/v1/ledger/proofs/consistency", permission=READ)
    @_counted(service, "Prove")
    async def prove_consistency(
        principal: Principal, first: Position, second: Position | None = None
    ) -> Consistency:
        """Prove that a later tree extends an earlier one."""
        return await service.consistency(principal, first, second)

    @get("/v1/ledger/trust", permission=READ)
    @_counted(service, "Prove")
    async def show_trust(principal: Principal) -> Trust:
        """Give what a verifier elsewhere needs: origins and keys."""
        return await service.trust(principal)

    return [
        show_ledger_status,
        show_checkpoint,
        show_tile,
        prove_inclusion,
        prove_event,
        prove_events,
        prove_consistency,
        show_trust,
    ]


def _managing(service: LedgerService, exports: ReadLog) -> list[Any]:
    @get("/v1/ledger/verify", permission=READ, media_type="application/x-ndjson")
    @_counted(service, "Query", timed=False)
    async def verify_ledger(principal: Principal) -> Any:
        """Recompute everything from the stored bytes; lines of progress, then the verdict."""
        return ndjson_answer(verify(service, principal), at_once=True)

    @get("/v1/ledger/export", permission=READ, media_type="application/x-ndjson")
    @_counted(service, "Query", timed=False)
    async def export_ledger(principal: Principal, first: Position = 0) -> Any:
        """Export every entry with what opens it, and the checkpoint over them as the last line."""
        await exports.note(principal, {"first": first})
        return ndjson_answer(export(service, principal, first))

    @post("/v1/ledger/rotate", permission=MANAGE, status=200)
    @_counted(service, "Manage")
    async def rotate_log_key(principal: Principal) -> Trust:
        """Sign with a new key from here on; the old one stays valid up to its size."""
        return await service.rotate(principal)

    @post("/v1/ledger/restart", permission=MANAGE, status=200)
    @_counted(service, "Manage")
    async def restart_ledger(principal: Principal, data: Reason) -> LedgerStatus:
        """Continue a log that lost something under a new origin, from what is sound."""
        return await service.restart(principal, data.reason)

    @post("/v1/ledger/accept-clock", permission=MANAGE, status=200)
    @_counted(service, "Manage")
    async def accept_ledger_clock(principal: Principal, data: Reason) -> LedgerStatus:
        """Let appends go on though the clock is over an hour behind the last entry."""
        return await service.accept_clock(principal, data.reason)

    @post("/v1/ledger/rebuild", permission=MANAGE, status=200)
    @_counted(service, "Manage")
    async def rebuild_ledger_index(principal: Principal) -> LedgerStatus:
        """Make the index anew from the log."""
        return await service.rebuild(principal)

    return [
        verify_ledger,
        export_ledger,
        rotate_log_key,
        restart_ledger,
        accept_ledger_clock,
        rebuild_ledger_index,
    ]
