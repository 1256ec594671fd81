"""The ledger over HTTP: the same methods as the service, and appends that are pipelined."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from urllib.parse import quote, urlsplit

import h11
import msgspec

from holdfast.kernel.canonical import check_plain
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import HoldfastError, OutcomeUnknown, TooLarge, Unavailable
from holdfast.kernel.http.client import LINE_BYTES_MAX, TIMEOUT_SECONDS, ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.http.problems import error_from
from holdfast.kernel.principal import Principal
from holdfast.ledger.model import (
    APPEND_BYTES_MAX,
    Append,
    Appended,
    Consistency,
    Entry,
    ExportLine,
    FoldedPage,
    FoldProgress,
    LedgerStatus,
    Moment,
    Placed,
    Prepared,
    Progress,
    ProjectionStatus,
    Proof,
    Reason,
    Relay,
    RelayedEvent,
    StreamInfo,
    Trust,
)

FOLLOW_SECONDS = 120.0
CONNECT_SECONDS = 10.0
WRITE_BUFFER_BYTES = 64 * 1024
PROBLEM_BYTES_MAX = 1024 * 1024


class LedgerClient:
    """What :class:`~holdfast.ledger.service.LedgerService` promises, over an :class:`ApiClient`.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def append(self, principal: Principal | None, append: Append) -> Appended:
        """See :meth:`LedgerService.append`. With ids of the caller's it may be repeated.

        What would be refused for its size or form is refused here: while a body is still being
        sent, the connection may end before the refusal can be read.
        """
        content = encoded(append)
        named = all(event.id for event in append.events)
        return await self._api.request(
            "POST", "/v1/ledger/events", content=content, type=Appended, repeatable=named
        )

    async def relay(self, principal: Principal | None, relay: Relay) -> Appended:
        """See :meth:`LedgerService.relay`."""
        return await self._api.request(
            "POST", "/v1/ledger/relay", json=relay, type=Appended, repeatable=True
        )

    async def append_prepared(
        self, principal: Principal | None, events: Sequence[Prepared]
    ) -> Appended:
        """See :meth:`LedgerService.append_prepared`: in pieces that a request can carry."""
        placed: list[Placed] = []
        for part in _parts(events):
            relayed = [
                RelayedEvent(
                    id=each.id,
                    stream=each.stream,
                    type=each.type,
                    time=each.time,
                    subject=each.subject,
                    request_id=each.request,
                    about=each.about,
                    length=each.length,
                    commitment=each.commitment.hex(),
                    payload=msgspec.json.decode(each.payload) if each.salt else None,
                    salt=each.salt.hex(),
                )
                for each in part
            ]
            placed += (await self.relay(principal, Relay(events=relayed))).events
        return Appended(events=placed)

    async def read(
        self,
        principal: Principal | None,
        *,
        stream: str | None = None,
        first: int = 0,
        limit: int = 100,
        as_of: datetime | None = None,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """See :meth:`LedgerService.read`."""
        return await self._api.request(
            "GET",
            "/v1/ledger/entries",
            params={
                "stream": stream,
                "first": first,
                "limit": limit,
                "as_of": timestamp(as_of) if as_of else None,
                "cursor": cursor,
            },
            type=Page[Entry],
        )

    async def entry(self, principal: Principal | None, position: int) -> Entry:
        """See :meth:`LedgerService.entry`."""
        return await self._api.request("GET", f"/v1/ledger/entries/{position}", type=Entry)

    async def streams(
        self,
        principal: Principal | None,
        *,
        prefix: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[StreamInfo]:
        """See :meth:`LedgerService.streams`."""
        params = {"prefix": prefix, "cursor": cursor, "limit": limit}
        return await self._api.request(
            "GET", "/v1/ledger/streams", params=params, type=Page[StreamInfo]
        )

    async def follow(
        self,
        principal: Principal | None,
        *,
        first: int | None = None,
        stream: str | None = None,
    ) -> AsyncIterator[Entry]:
        """See :meth:`LedgerService.follow`.

        Ends when the server does, and every few minutes; go on after the last one. Raises
        ``Unauthenticated`` when the credential has ended.
        """
        params = {"first": first, "stream": stream}
        events = self._api.events(
            "/v1/ledger/follow", params=params, timeout_seconds=FOLLOW_SECONDS
        )
        async for event in events:
            yield msgspec.json.decode(event.data, type=Entry)

    async def moment(
        self,
        principal: Principal | None,
        as_of: datetime | None = None,
        position: int | None = None,
    ) -> Moment:
        """See :meth:`LedgerService.moment`."""
        params = {"as_of": timestamp(as_of) if as_of else None, "position": position}
        return await self._api.request("GET", "/v1/ledger/moment", params=params, type=Moment)

    async def projection_list(self, principal: Principal | None) -> list[ProjectionStatus]:
        """See :meth:`Projections.all`."""
        return await self._api.request("GET", "/v1/ledger/projections", type=list[ProjectionStatus])

    async def projected(
        self,
        principal: Principal | None,
        name: str,
        *,
        position: int | None = None,
        as_of: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FoldedPage:
        """See :meth:`LedgerService.projected`."""
        params = {
            "position": position,
            "as_of": timestamp(as_of) if as_of else None,
            "cursor": cursor,
            "limit": limit,
        }
        return await self._api.request(
            "GET",
            f"/v1/ledger/projections/{quote(name, safe='')}",
            params=params,
            type=FoldedPage,
            timeout_seconds=FOLLOW_SECONDS,
        )

    def projection_rebuild(
        self, principal: Principal | None, name: str
    ) -> AsyncIterator[FoldProgress]:
        """See :meth:`Projections.rebuild`. Whoever stops listening stops it."""
        return self._api.lines(
            f"/v1/ledger/projections/{quote(name, safe='')}/rebuild",
            type=FoldProgress,
            method="POST",
            json={},
            timeout_seconds=FOLLOW_SECONDS,
        )

    async def status(self, principal: Principal | None) -> LedgerStatus:
        """See :meth:`LedgerService.status`."""
        return await self._api.request("GET", "/v1/ledger/status", type=LedgerStatus)

    async def checkpoint(self, principal: Principal | None) -> str:
        """See :meth:`LedgerService.checkpoint`."""
        return (await self._api.request("GET", "/v1/ledger/checkpoint", type=bytes)).decode()

    async def tile(self, principal: Principal | None, path: str) -> bytes:
        """See :meth:`LedgerService.tile`."""
        return await self._api.request("GET", f"/v1/ledger/tile/{path}", type=bytes)

    async def inclusion(
        self, principal: Principal | None, position: int, size: int | None = None
    ) -> Proof:
        """See :meth:`LedgerService.inclusion`."""
        params = {"position": position, "size": size}
        return await self._api.request(
            "GET", "/v1/ledger/proofs/inclusion", params=params, type=Proof
        )

    async def event_proof(self, principal: Principal | None, event: str) -> Proof:
        """See :meth:`LedgerService.event_proof`."""
        return await self._api.request(
            "GET", "/v1/ledger/proofs/event", params={"event": event}, type=Proof
        )

    async def event_proofs(self, principal: Principal | None, events: Sequence[str]) -> list[Proof]:
        """See :meth:`LedgerService.event_proofs`: of a hundred at most, which an address holds."""
        return await self._api.request(
            "GET", "/v1/ledger/proofs/events", params={"event": list(events)}, type=list[Proof]
        )

    async def consistency(
        self, principal: Principal | None, first: int, second: int | None = None
    ) -> Consistency:
        """See :meth:`LedgerService.consistency`."""
        params = {"first": first, "second": second}
        return await self._api.request(
            "GET", "/v1/ledger/proofs/consistency", params=params, type=Consistency
        )

    async def trust(self, principal: Principal | None) -> Trust:
        """See :meth:`LedgerService.trust`."""
        return await self._api.request("GET", "/v1/ledger/trust", type=Trust)

    async def rotate(self, principal: Principal | None) -> Trust:
        """See :meth:`LedgerService.rotate`."""
        return await self._api.request("POST", "/v1/ledger/rotate", json={}, type=Trust)

    async def rebuild(self, principal: Principal | None) -> LedgerStatus:
        """See :meth:`LedgerService.rebuild`."""
        return await self._api.request("POST", "/v1/ledger/rebuild", json={}, type=LedgerStatus)

    async def restart(self, principal: Principal | None, reason: str) -> LedgerStatus:
        """See :meth:`LedgerService.restart`."""
        return await self._api.request(
            "POST", "/v1/ledger/restart", json=Reason(reason=reason), type=LedgerStatus
        )

    async def accept_clock(self, principal: Principal | None, reason: str) -> LedgerStatus:
        """See :meth:`LedgerService.accept_clock`."""
        return await self._api.request(
            "POST", "/v1/ledger/accept-clock", json=Reason(reason=reason), type=LedgerStatus
        )

    def verify(self, principal: Principal | None) -> AsyncIterator[Progress]:
        """See :func:`holdfast.ledger.verifying.verify`."""
        return self._api.lines("/v1/ledger/verify", type=Progress)

    def export(self, principal: Principal | None, first: int = 0) -> AsyncIterator[ExportLine]:
        """See :func:`holdfast.ledger.exporting.export`."""
        return self._api.lines("/v1/ledger/export", type=ExportLine, params={"first": first})


def encoded(append: Append) -> bytes:
    """The body of a request; ``Invalid`` or ``TooLarge`` for what no ledger takes."""
    for event in append.events:
        check_plain(event.payload)
    content = msgspec.json.encode(append)
    if len(content) > APPEND_BYTES_MAX:
        raise TooLarge(
            f"cannot append: {len(content)} bytes, more than the {APPEND_BYTES_MAX} of a request",
            code="body-too-large",
        )
    return content


def _parts(events: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    part: list[Prepared] = []
    size = 0
    for event in events:
        size += len(event.payload) + 1024
        if part and size > APPEND_BYTES_MAX:
            yield part
            part, size = [], len(event.payload) + 1024
        part.append(event)
    if part:
        yield part


class _Line(msgspec.Struct, frozen=True):
    line: int
    appended: Appended | None = None
    problem: dict[str, object] | None = None
    ended: bool = False


class Pipeline:
    """Appends on one connection, without waiting for an answer before the next is sent.

    Made by :func:`pipeline`. ``append`` returns a future as soon as the line is on its way; it is
    held back while too many are unanswered. When the connection is lost, or no answer comes for
    ``timeout_seconds`` although one is owed, the futures that are left fail with
    ``OutcomeUnknown``: append again, with the same ids. When the credential has ended meanwhile,
    the other side says so: those that are left, and every append from then on, fail with that.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        in_flight_max: int,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._since = 0.0  # when the other side last answered, or came to owe an answer
        self._finished = False
        self._http = h11.Connection(h11.CLIENT)
        self._window = asyncio.Semaphore(in_flight_max)
        self._waiting: deque[asyncio.Future[Appended]] = deque()
        self._decode = msgspec.json.Decoder(_Line).decode
        self._failed: HoldfastError | None = None

    async def append(self, append: Append) -> asyncio.Future[Appended]:
        """Send an append; the future is done once it is durable, or refused.

        ``Invalid`` and ``TooLarge`` for what no ledger takes: it is not sent.
        """
        line = encoded(append)
        await self._window.acquire()
        if self._failed is not None:
            self._window.release()
            raise self._failed
        future: asyncio.Future[Appended] = self._loop.create_future()
        if not self._waiting:
            self._since = self._loop.time()
        self._waiting.append(future)
        # A chunk a line, written as it is: the library's checks would cost more than the rest.
        self._writer.write(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
        if self._writer.transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            await self._drained()
        return future

    async def _drained(self) -> None:
        # Of a lost connection those tell who wait for answers: the reader learns of it, too. It
        # ends the connection when an answer is overdue, so this waits no longer than that.
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    def begin(self, host: str, path: str, token: str | None) -> None:
        """Send the head of the request."""
        headers = [
            ("host", host),
            ("content-type", "application/x-ndjson"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
        ]
        if token is not None:
            headers.append(("authorization", f"Bearer {token}"))
        self._send(h11.Request(method="POST", target=path, headers=headers))

    async def finish(self) -> None:
        """Send no more; :meth:`receive` ends once everything is answered."""
        if self._failed is None:
            self._finished = True
            self._since = self._loop.time()
            self._writer.write(b"0\r\n\r\n")
            await self._drained()

    async def receive(self) -> None:
        """Read answers until the other side ends; every future is done then."""
        try:
            await self._receive()
            error: HoldfastError = OutcomeUnknown(
                "cannot tell what became of the append: the answer was cut off"
            )
        except HoldfastError as found:
            error = found
        except (OSError, ValueError, h11.RemoteProtocolError, msgspec.DecodeError) as found:
            error = OutcomeUnknown(
                "cannot tell what became of the append: the connection was lost",
                internal=repr(found),
            )
        self._fail(error)

    def close(self) -> None:
        """Send nothing more and leave no future open, though :meth:`receive` was cancelled."""
        if self._failed is None:
            self._fail(OutcomeUnknown("cannot tell what became of the append: the pipeline ended"))
        self._writer.close()

    def _fail(self, error: HoldfastError) -> None:
        self._failed = error
        if self._waiting:  # whoever is still sending is held up by nothing any more
            self._writer.transport.abort()
        while self._waiting:
            future = self._waiting.popleft()
            self._window.release()
            if not future.done():
                future.set_exception(error)

    async def _receive(self) -> None:
        rest = b""
        status = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._read())
            elif isinstance(event, h11.Response):
                status = event.status_code
                kind = dict(event.headers).get(b"content-type", b"").decode()
            elif isinstance(event, h11.Data):
                rest += bytes(event.data)
                if status == 200:
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        self._answered(line)
                    if len(rest) > LINE_BYTES_MAX:
                        raise OutcomeUnknown(
                            "cannot tell what became of the append: a line of the answer is over "
                            f"{LINE_BYTES_MAX} bytes"
                        )
                elif len(rest) > PROBLEM_BYTES_MAX:
                    # Longer than any problem document of ours: its status is what there is to it.
                    raise error_from(status, "", b"", "")
            elif isinstance(event, h11.EndOfMessage):
                if status != 200:
                    raise error_from(status, kind, rest, "")
                return
            elif isinstance(event, h11.ConnectionClosed):
                return

    async def _read(self) -> bytes:
        """What comes next; an answer that is overdue ends the wait."""
        late = False
        while True:
            owed = self._finished or bool(self._waiting)
            begun = self._since if owed else self._loop.time()
            patience = asyncio.timeout_at(begun + self._timeout_seconds)
            try:
                # Nothing is lost by giving up: what has come by then stays in the reader.
                async with patience:
                    return await self._reader.read(65536)
            except TimeoutError:
                if not patience.expired():
                    raise  # the connection's own
                if late:
                    raise OutcomeUnknown(
                        "cannot tell what became of the append: no answer came for "
                        f"{self._timeout_seconds:g} s"
                    ) from None
                # Looked for once more: where this loop was held up, it may have come meanwhile.
                late = owed and begun == self._since

    def _answered(self, line: bytes) -> None:
        found = self._decode(line)
        refusal = None if found.appended is not None else _refusal(found.problem or {})
        if found.ended and refusal is not None:
            if found.line:
                raise refusal  # nothing from that line on was appended
            raise OutcomeUnknown(
                f"cannot tell what became of the append: {refusal.detail}",
                code=refusal.code,
                hint=refusal.hint,
            )
        if not self._waiting:
            raise OutcomeUnknown(
                "cannot tell what became of the append: the answer is of what was not asked"
            )
        # From here on nothing may fail: nobody else would tell whoever waits for it.
        future = self._waiting.popleft()
        self._since = self._loop.time()
        self._window.release()
        if future.done():
            return
        if found.appended is not None:
            future.set_result(found.appended)
        elif refusal is not None:
            future.set_exception(refusal)


def _refusal(problem: dict[str, object]) -> HoldfastError:
    status = problem.get("status")
    document = msgspec.json.encode(problem)
    return error_from(
        status if isinstance(status, int) else 500, "application/problem+json", document, ""
    )


@asynccontextmanager
async def pipeline(
    url: str,
    *,
    token: str | None = None,
    in_flight_max: int = 256,
    timeout_seconds: float = TIMEOUT_SECONDS,
    verify: ssl.SSLContext | None = None,
) -> AsyncIterator[Pipeline]:
    """A pipeline of appends to the ledger at ``url``; leaving the block waits for every answer.

    No wait for the other side is longer than ``timeout_seconds``.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = (verify or ssl.create_default_context()) if secure else None
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(min(CONNECT_SECONDS, timeout_seconds)):
            reader, writer = await asyncio.open_connection(
                parts.hostname, port, ssl=context, limit=2**20
            )
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"cannot reach {url}: {error}", code="unreachable") from error
    made = Pipeline(reader, writer, in_flight_max, timeout_seconds)
    receiving: asyncio.Task[None] | None = None
    try:
        made.begin(parts.netloc, f"{parts.path.rstrip('/')}/v1/ledger/pipeline", token)
        receiving = asyncio.create_task(made.receive(), name="pipeline")
        yield made
        await made.finish()
        await receiving
    finally:
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        made.close()
