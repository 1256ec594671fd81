"""The client of Holdfast's own HTTP interface.

Wraps ``httpx.AsyncClient``, over the network or straight into an application in this process. An
error answer is raised as the kernel error it was; a failure to connect is :class:`Unavailable`
(nothing was done); a write whose answer was lost is :class:`OutcomeUnknown`. Time and sizes are
bounded. No proxy variable of the environment is obeyed, no redirect followed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Self, TypeVar, overload

import httpx
import msgspec

from holdfast.kernel import telemetry
from holdfast.kernel.errors import Corrupt, HoldfastError, OutcomeUnknown, TooLarge, Unavailable
from holdfast.kernel.http.problems import error_from

T = TypeVar("T")

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT = SAFE | {"PUT", "DELETE"}


class ApiClient:
    """Calls to one base URL with one credential."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        token: str | None = None,
        attempts: int = 1,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> None:
        self._client = client
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
    ) -> Self:
        """A client for the system at ``url``; close it with ``async with`` or :meth:`aclose`."""
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
        )

    @classmethod
    def for_app(
        cls,
        app: Any,
        *,
        token: str | None = None,
        base_url: str = "http://localhost",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Self:
        """A client straight into an ASGI application; its lifespan is the caller's business."""
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return cls(
            httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout_seconds),
            token=token,
        )

    def authorised(self, token: str | None) -> Self:
        """A client on the same connections under another credential; closing one closes both."""
        return type(self)(
            self._client,
            token=token,
            attempts=self._attempts,
            response_bytes_max=self._response_bytes_max,
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

        ``json`` is encoded by msgspec; ``content`` (bytes or an async iterator) goes as it is;
        ``params`` whose value is ``None`` are left out. Raises kernel errors, only.
        """
        _, body = await self._call(method, path, **options)
        if type is None:
            return None
        if type is bytes:
            return body
        try:
            return _decoder(type).decode(body)
        except msgspec.DecodeError as error:
            raise Corrupt(
                f"cannot read the answer to {method} {path}: {error}", code="answer-unreadable"
            ) from error

    async def get(self, path: str, *, type: Any, **options: Any) -> Any:  # noqa: A002
        """:meth:`request` with GET."""
        return await self.request("GET", path, type=type, **options)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = msgspec.UNSET,
        content: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[httpx.Response, bytes]:
        request = self._request(method, path, json, content, params, headers, timeout_seconds)
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = await self._read(response)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise translate(error, method, str(request.url.copy_with(query=None))) from error
        if response.status_code >= 400:
            raise _failure(response, body)
        return response, body

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
        sent = dict(headers or {})
        names = {name.lower() for name in sent}
        if self._token is not None and "authorization" not in names:
            sent["Authorization"] = f"Bearer {self._token}"
        if telemetry.request_id() and "x-request-id" not in names:
            sent["X-Request-ID"] = telemetry.request_id()
        if telemetry.traceparent():
            sent["traceparent"] = telemetry.traceparent()
        if json is not msgspec.UNSET:
            content = msgspec.json.encode(json)
        if method not in SAFE and "content-type" not in names:
            sent["Content-Type"] = "application/json"
        chosen = {k: _text(v) for k, v in (params or {}).items() if v is not None}
        extra: dict[str, Any] = {}
        if timeout_seconds is not None:
            extra["timeout"] = httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        return self._client.build_request(
            method, path, content=content, params=chosen or None, headers=sent, **extra
        )

    async def _read(self, response: httpx.Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > self._response_bytes_max:
                raise TooLarge(
                    f"cannot read the answer: it is over {self._response_bytes_max} bytes"
                )
            pieces.append(piece)
        return b"".join(pieces)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """Call and hand out the open response (``aiter_bytes``, ``headers``), error answers raised.

        The caller bounds what it reads.
        """
        request = self._request(
            method,
            path,
            options.pop("json", msgspec.UNSET),
            options.pop("content", None),
            options.pop("params", None),
            options.pop("headers", None),
            options.pop("timeout_seconds", None),
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    raise _failure(response, await self._read(response))
                yield response
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise translate(error, method, str(request.url.copy_with(query=None))) from error


def translate(error: httpx.HTTPError, method: str, url: str) -> HoldfastError:
    """A failure of the connection as one of ours."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Unavailable(
            f"cannot reach {url}: {error or type(error).__name__}", code="unreachable"
        )
    if method in SAFE:
        return Unavailable(f"cannot read the answer of {url}: {error or type(error).__name__}")
    return OutcomeUnknown(
        f"cannot tell what became of {method} {url}: the answer was lost", internal=repr(error)
    )


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


@lru_cache(maxsize=512)
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(wanted)
