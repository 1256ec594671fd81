"""The client of Holdfast's own HTTP interface.

Wraps ``httpx.AsyncClient``, over the network or straight into an application in this process. An
error answer is raised as the kernel error it was; a failure to connect is :class:`Unavailable`
(nothing was done); a write whose answer was lost is :class:`OutcomeUnknown`. Time and sizes are
bounded. No proxy variable of the environment is obeyed, no redirect followed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import IO, Any, Protocol, Self, TypeVar, overload

import httpx
import msgspec

from holdfast.kernel import telemetry
from holdfast.kernel.errors import (
    Corrupt,
    Exhausted,
    HoldfastError,
    Invalid,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
)
from holdfast.kernel.http.paging import Page, cursor_behind, text_position
from holdfast.kernel.http.problems import CONTENT_TYPE, PROBLEM_EVENT, error_from
from holdfast.kernel.structs import decoder
from holdfast.kernel.tls import failure_of, machine_trust, nobody

T = TypeVar("T")

log = logging.getLogger("holdfast.client")
"""The standard library's: the client lives in other people's programs, whose terminal it is."""

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
LINE_BYTES_MAX = 16 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
REPEAT_SECONDS = 30.0
PAUSE_SECONDS, JITTER_SECONDS, PAUSE_SECONDS_MAX = 0.1, 0.5, 5.0
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT = SAFE | {"PUT", "DELETE"}
PROOF_STALE = "proof-stale"
PROOF_REPLAYED = "proof-replayed"


class Proving(Protocol):
    """What shows, for each request, that the credential is ours: a line under a header."""

    header: str

    def __call__(self, method: str, target: str) -> str:
        """The line for one request; never the same twice."""
        ...

    def told(self, date: str) -> None:
        """The other side's time, as an answer's ``Date`` says it."""
        ...


class ApiClient:
    """Calls to one base URL with one credential; of one role to another, ``role`` names that."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        token: str | None = None,
        attempts: int = 1,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
        role: str = "",
        proving: Proving | None = None,
        tenant: str = "",
        waits: bool = False,
    ) -> None:
        """``tenant``: what the credential is said to be of, where a door asks for that. ``waits``:
        a read that comes too soon waits for as long as the door says, and asks again."""
        self._client = client
        self._waits = waits
        self._tenant = tenant
        self._proving = proving
        self._role = role
        self._token = token
        self._attempts = attempts
        self._response_bytes_max = response_bytes_max

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        token: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        attempts: int = 1,
        verify: Any = True,
        connections_max: int = 100,
        tenant: str = "",
        waits: bool = False,
    ) -> Self:
        """A client for the system at ``url``; close it with ``async with`` or :meth:`aclose`."""
        if verify is True:
            verify = machine_trust() if url.startswith("https://") else nobody()
        return cls(
            httpx.AsyncClient(
                base_url=url.rstrip("/"),
                timeout=httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
                limits=httpx.Limits(max_connections=connections_max),
                verify=verify,
                trust_env=False,
                follow_redirects=False,
            ),
            token=token,
            attempts=attempts,
            tenant=tenant,
            waits=waits,
        )

    @classmethod
    def for_app(
        cls,
        app: Any,
        *,
        token: str | None = None,
        base_url: str = "http://localhost",
        timeout_seconds: float = TIMEOUT_SECONDS,
        tenant: str = "",
    ) -> Self:
        """A client straight into an ASGI application; its lifespan is the caller's business."""
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return cls(
            httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout_seconds),
            token=token,
            tenant=tenant,
        )

    def authorised(self, token: str | None, proving: Proving | None = None) -> Self:
        """A client on the same connections under another credential; closing one closes both."""
        return type(self)(
            self._client,
            token=token,
            attempts=self._attempts,
            response_bytes_max=self._response_bytes_max,
            role=self._role,
            proving=proving,
            tenant=self._tenant,
            waits=self._waits,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @overload
    async def request(self, method: str, path: str, *, type: type[T], **options: Any) -> T: ...

    @overload
    async def request(self, method: str, path: str, **options: Any) -> None: ...

    async def request(self, method: str, path: str, *, type: Any = None, **options: Any) -> Any:  # noqa: A002
        """Call and decode the answer as ``type``; ``bytes`` gives it as it is, ``None`` drops it.

        ``json`` is encoded by msgspec; ``content`` (bytes, or an async iterator of them) goes as it
        is; ``params`` whose value is ``None`` are left out; ``timeout_seconds`` bounds each wait on
        the network. Raises kernel errors, only.

        A call that is safe to repeat (a read, PUT, DELETE, one with an ``Idempotency-Key``, or
        with ``repeatable=True``) is repeated up to the client's ``attempts`` while the other side
        is unavailable, with growing, jittered pauses or as long as the answer says.
        """
        repeatable = options.pop("repeatable", None)
        body = await self._repeated(method, path, repeatable, options)
        if type is None:
            return None
        if type is bytes:
            return body
        try:
            return decoder(type).decode(body)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise Corrupt(
                f"cannot read the answer to {method} {path}: {error}", code="answer-unreadable"
            ) from error

    async def get(self, path: str, *, type: Any, **options: Any) -> Any:  # noqa: A002
        """:meth:`request` with GET."""
        return await self.request("GET", path, type=type, **options)

    async def page(
        self,
        path: str,
        kind: str,
        *,
        type: type[Page[T]],  # noqa: A002
        after: str | None,
        limit: int,
        params: Mapping[str, Any] | None = None,
    ) -> tuple[list[T], str | None]:
        """A page of the list ``kind`` behind the text ``after``, and what the next lies behind."""
        cursor = cursor_behind(kind, after)
        asked = {**(params or {}), "limit": limit, "cursor": cursor}
        found = await self.request("GET", path, params=asked, type=type)
        return found.items, text_position(kind, found.next) or None

    async def _repeated(
        self, method: str, path: str, repeatable: bool | None, options: dict[str, Any]
    ) -> bytes:
        if self._attempts <= 1 or not _repeatable(method, repeatable, options):
            return await self._in_turn(method, path, options)
        now = asyncio.get_running_loop().time
        began = now()
        for attempt in range(1, self._attempts):
            try:
                return await self._call(method, path, **options)
            except (Unavailable, OutcomeUnknown, Exhausted) as error:
                if now() - began >= REPEAT_SECONDS:
                    raise
                chance = random.random()  # noqa: S311 - no secret, only not the same for all
                pause = pause_before_repeating(attempt, error.retry_after_seconds, chance)
                log.info("%s %s again in %.1f s: %s", method, path, pause, error.detail)
            await asyncio.sleep(pause)
        return await self._call(method, path, **options)

    async def _in_turn(self, method: str, path: str, options: dict[str, Any]) -> bytes:
        waited = 0.0
        while True:
            try:
                return await self._call(method, path, **options)
            except Exhausted as error:
                pause = error.retry_after_seconds
                if not self._waits or method not in SAFE or pause is None:
                    raise
                waited += max(pause, PAUSE_SECONDS)
                if waited > REPEAT_SECONDS:
                    raise
            await asyncio.sleep(pause)

    async def _call(self, method: str, path: str, **options: Any) -> bytes:
        try:
            return await self._once(method, path, options)
        except Unavailable as error:
            # The answer told the other side's time. What is streamed cannot be sent twice.
            content = options.get("content")
            if error.code != PROOF_STALE or not (content is None or isinstance(content, bytes)):
                raise
            return await self._once(method, path, options)

    async def _once(self, method: str, path: str, options: dict[str, Any]) -> bytes:
        async with self.stream(method, path, **options) as response:
            return await self._read(response)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = msgspec.UNSET,
        content: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Call and hand out the open response (``aiter_bytes``, ``headers``); errors are raised.

        The caller bounds what it reads. See :meth:`request` for the options.
        """
        request = self._request(method, path, json, content, params, headers, timeout_seconds)
        try:
            response = await self._client.send(request, stream=True)
            if self._proving is not None:
                self._proving.told(response.headers.get("date", ""))
            try:
                if response.status_code >= 400:
                    failure = _failure(response, await self._read(response))
                    if failure.code in (PROOF_STALE, PROOF_REPLAYED):
                        # Of the credential nothing is said: asked again, it is as good as ever.
                        raise Unavailable(failure.detail, code=failure.code)
                    raise failure
                yield response
            finally:
                await response.aclose()
        except FAILURES as error:
            url = str(request.url.copy_with(query=None))
            raise translate(error, method, url, self._role) from error

    def _request(
        self,
        method: str,
        path: str,
        json: Any,
        content: Any,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        timeout_seconds: float | None,
    ) -> httpx.Request:
        # Those would be taken out on the way, and what is left is another thing's address.
        if {".", ".."} & set(path.split("/")):
            raise Invalid(
                f"cannot ask for {path[:200]!r}: nothing is called . or ..",
                hint="is the name or id that you gave right?",
            )
        sent = self._headers(
            method, {name.lower(): value for name, value in (headers or {}).items()}
        )
        if json is not msgspec.UNSET:
            content = _encoded(json)
        chosen = {k: _text(v) for k, v in (params or {}).items() if v is not None}
        extra: dict[str, Any] = {}
        if timeout_seconds is not None:
            extra["timeout"] = httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        try:
            request = self._client.build_request(
                method, path, content=content, params=chosen or None, headers=sent, **extra
            )
            if self._proving is not None:
                target = request.url.raw_path.decode("ascii")
                request.headers[self._proving.header] = self._proving(method, target)
            return request
        except (UnicodeEncodeError, httpx.InvalidURL) as error:
            raise Invalid(f"cannot ask for {path!r}: {error}") from error

    def _headers(self, method: str, given: dict[str, str]) -> dict[str, str]:
        # Compression would make the bound on the answer's size a bound on something else.
        found = {"accept-encoding": "identity"}
        if self._token is not None:
            found["authorization"] = f"Bearer {self._token}"
        if self._tenant:
            found["x-tenant-id"] = self._tenant
        if telemetry.request_id():
            found["x-request-id"] = telemetry.request_id()
        if telemetry.traceparent():
            found["traceparent"] = telemetry.traceparent()
        if method not in SAFE:
            found["content-type"] = "application/json"
        return found | given

    async def _read(self, response: httpx.Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in _pieces(response):
            size += len(piece)
            if size > self._response_bytes_max:
                raise TooLarge(
                    f"cannot read the answer: it is over {self._response_bytes_max} bytes",
                    code="answer-too-large",
                )
            pieces.append(piece)
        return b"".join(pieces)

    async def download(
        self, path: str, file: IO[bytes], *, bytes_max: int, **options: Any
    ) -> httpx.Headers:
        """GET into ``file``, at most ``bytes_max``; the answer's headers.

        On :class:`TooLarge` and on a lost connection the file holds a part.
        """
        async with self.stream("GET", path, **options) as response:
            size = 0
            async for piece in _pieces(response):
                size += len(piece)
                if size > bytes_max:
                    raise TooLarge(
                        f"cannot download {path}: it is over {bytes_max} bytes",
                        code="answer-too-large",
                    )
                await asyncio.to_thread(file.write, piece)
            return response.headers

    async def lines(
        self,
        path: str,
        *,
        type: type[T],  # noqa: A002
        method: str = "GET",
        **options: Any,
    ) -> AsyncIterator[T]:
        """The items of an NDJSON answer, decoded one by one; any number of them."""
        wanted: Any = type
        lines: msgspec.json.Decoder[T] = decoder(wanted)
        async with self.stream(method, path, **options) as response:
            async for line in _lines(response):
                if line:
                    try:
                        yield lines.decode(line)
                    except (msgspec.DecodeError, UnicodeError) as error:
                        raise Corrupt(
                            f"cannot read a line of {path}: {error}", code="answer-unreadable"
                        ) from error

    async def events(
        self, path: str, *, last: str | None = None, **options: Any
    ) -> AsyncIterator[ServerEvent]:
        """Live events until the server ends the stream; ``last`` replays what came after it.

        Raises what the server says is why: that the credential has ended meanwhile.
        """
        headers = {"accept": "text/event-stream", **options.pop("headers", {})}
        if last is not None:
            headers["last-event-id"] = last
        fields: dict[str, str] = {}
        async with self.stream("GET", path, headers=headers, **options) as response:
            async for line in _lines(response):
                if line:
                    name, _, value = line.decode("utf-8", "replace").partition(":")
                    fields[name] = value.removeprefix(" ")
                    continue
                if "data" in fields:
                    if fields.get("event") == PROBLEM_EVENT:
                        raise error_from(0, CONTENT_TYPE, fields["data"].encode())
                    yield ServerEvent(
                        id=fields.get("id", ""),
                        event=fields.get("event", ""),
                        data=fields["data"].encode(),
                    )
                fields = {}


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One live event as it arrived; ``data`` is JSON."""

    id: str
    event: str
    data: bytes


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Corrupt(
            "cannot read the answer: something in between compressed it",
            code="answer-unreadable",
            hint="let the proxy pass answers on as they are",
        )
    async for piece in response.aiter_raw():
        yield piece


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines without their end; a last one that is not ended counts only if it is empty."""
    rest = b""
    async for piece in _pieces(response):
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise TooLarge(
                f"cannot read the answer: a line is over {LINE_BYTES_MAX} bytes",
                code="answer-too-large",
            )
        for line in whole:
            yield line.removesuffix(b"\r")
    if rest:
        raise Corrupt("cannot read the answer: its last line is cut off", code="answer-unreadable")


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:  # half of a pair is a ValueError
        raise Invalid(f"cannot send this as JSON: {error}") from error


def _repeatable(method: str, wanted: bool | None, options: Mapping[str, Any]) -> bool:
    if not isinstance(options.get("content", b""), bytes | str | None):
        return False  # an iterator cannot be sent again
    if wanted is not None:
        return wanted
    named = any(name.lower() == "idempotency-key" for name in options.get("headers") or {})
    return named or method in IDEMPOTENT


def pause_before_repeating(attempt: int, told: float | None, chance: float) -> float:
    """How long to wait after so many attempts: as ``told``, else longer each time; ``chance``,
    between 0 and 1, keeps callers that failed together from coming back together."""
    if told is not None:
        return min(told, REPEAT_SECONDS)
    return min(PAUSE_SECONDS * 2.0 ** (attempt - 1) + JITTER_SECONDS * chance, PAUSE_SECONDS_MAX)


FAILURES = (httpx.HTTPError, ssl.SSLError)
"""What a connection may fail with: httpx lets through what TLS says."""

ALERTS = {
    "ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate, and none was presented",
    "ALERT_CERTIFICATE_EXPIRED": "it says that our certificate is not valid now",
    "ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept our certificate for this",
    "ALERT_HANDSHAKE_FAILURE": "it refused the handshake; perhaps it asks for a certificate",
}
"""What the other side may say in a handshake (RFC 8446 §6.2), by OpenSSL's names."""


def translate(error: Exception, method: str, url: str, role: str = "") -> HoldfastError:
    """A failure of the connection as one of ours.

    Of one ``role`` calling another, whoever asked the first is told which did not answer, and not
    where it is: that address is the operator's affair.
    """
    never = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    tls = failure_of(error)
    refused = next((why for what, why in ALERTS.items() if tls and what in (tls.reason or "")), "")
    never = never or bool(refused)  # no handshake, no request
    if role and (never or method in SAFE):
        return Unavailable(
            f"cannot reach the {role}: it does not answer",
            code="role-unreachable",
            retry_after_seconds=1,
            internal=f"{method} {url}: {error!r}",
        )
    if role:
        return OutcomeUnknown(
            f"cannot tell what the {role} did: its answer was lost",
            internal=f"{method} {url}: {error!r}",
        )
    if tls is not None and never:
        return Unavailable(
            f"cannot reach {url}: {refused or _untrusted(tls)}",
            code="tls-refused",
            hint="HOLDFAST_TLS_CA_FILE names whom to trust there, "
            "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE and …_KEY_FILE what to present",
        )
    if never:
        return Unavailable(
            f"cannot reach {url}: {error or type(error).__name__}",
            code="unreachable",
            hint="see that it runs there and that --control-plane (or HOLDFAST_URL) is right; "
            "`holdfast doctor` looks at each part",
        )
    cut = url.startswith("http://") and isinstance(error, httpx.RemoteProtocolError)
    hint = (
        "it ended while it answered, or that door serves TLS and hangs up on http://: then write "
        "https://"
        if cut
        else ""
    )
    if method in SAFE:
        return Unavailable(
            f"cannot read the answer of {url}: {error or type(error).__name__}", hint=hint
        )
    lost = f"the answer was lost{f' ({hint})' if hint else ''}"
    return OutcomeUnknown(
        f"cannot tell what became of {method} {url}: {lost}", internal=repr(error)
    )


def _untrusted(error: ssl.SSLError) -> str:
    """What our side has against the other's certificate, without the library's own words around."""
    why = getattr(error, "verify_message", "")
    return f"its certificate is not trusted here ({why})" if why else str(error)


def _failure(response: httpx.Response, body: bytes) -> HoldfastError:
    return error_from(
        response.status_code,
        response.headers.get("content-type", ""),
        body,
        response.headers.get("retry-after", ""),
    )


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return str(value)


def with_key(idempotency_key: str) -> dict[str, str]:
    """The header of an idempotency key, if there is one."""
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}
