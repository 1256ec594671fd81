"""The one way in which Holdfast touches the outside."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.kernel.clock import Clock, SystemClock, timestamp
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.outbound.address import (
    Target,
    canonical_host_port,
    join,
    parse_target,
)
from holdfast.kernel.outbound.connection import Connection, Dialer, Head
from holdfast.kernel.outbound.decode import ACCEPT_ENCODING
from holdfast.kernel.outbound.guard import check_address
from holdfast.kernel.outbound.headers import (
    HEADERS_KEPT,
    check_headers,
    check_values,
    is_value,
    retry_after_seconds,
    user_agent,
)
from holdfast.kernel.outbound.model import (
    AddressRefused,
    Fetched,
    FetchFacts,
    FetchFailure,
    FetchLimits,
    OutboundRequest,
    RedirectRefused,
    SourceBusy,
    SourceUnavailable,
    is_retryable,
)
from holdfast.kernel.outbound.rate import HostLimiter
from holdfast.kernel.outbound.replay import ReplayMap
from holdfast.kernel.outbound.resolver import Resolver, resolver_from_setting
from holdfast.kernel.outbound.scrubbing import scrub
from holdfast.kernel.outbound.spooling import NOTHING, Spooled, drain, held, said, spool
from holdfast.kernel.outbound.tls import tls_context

_KEPT_ACROSS_ORIGINS = frozenset({"accept", "accept-language"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
READ_BYTES_MAX = 1024 * 1024
_IDLE_CONNECTION_SECONDS = 15.0
_IDLE_CONNECTIONS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundSettings:
    """What an operator decides about the outside; nothing here comes from a profile.

    ``allow`` names the private addresses that may be contacted, as exact ``host:port``.
    ``resolver``: see :func:`resolver_from_setting`. ``contact`` stands in the User-Agent.
    """

    allow: frozenset[str] = frozenset()
    resolver: str = "system"
    replay_map: Path | None = None
    contact: str = ""
    ca_file: Path | None = None
    concurrency_per_host: int = 4
    requests_per_minute_per_host: int | None = None


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request of a fetch: where it goes, and what the caller may be told about it."""

    target: Target
    reported: Target
    replayed: bool
    method: str
    body: bytes
    headers: Mapping[str, str]
    secret_headers: Mapping[str, str]
    may_be_private: bool = True
    """Whether the operator's ``allow`` counts: not once a public source led here, or any page on
    the internet could aim us at what was allowed for another purpose."""


@dataclass(slots=True)
class _Tally:
    """The running account of one fetch, over all its attempts."""

    requests: int = 0
    address: str = ""
    host: str = ""
    """Who was asked last: of several hosts that redirects led to, the one that answered."""
    wire_bytes: int = 0
    spent_seconds: float = 0.0
    seen: set[tuple[str, str]] = field(default_factory=set)


class OutboundClient:
    """Fetches to disk, through the address guard, within bounds.

    Use as ``async with``; safe for concurrent use on one event loop. ``clock`` and ``random`` (a
    number in [0, 1)) time the retries; ``resolver`` and ``replay`` override what settings name.
    """

    def __init__(
        self,
        settings: OutboundSettings | None = None,
        *,
        clock: Clock | None = None,
        random: Callable[[], float] = random_module.random,
        resolver: Resolver | None = None,
        replay: ReplayMap | None = None,
    ) -> None:
        settings = settings or OutboundSettings()
        self._allow = frozenset(canonical_host_port(entry) for entry in settings.allow)
        self._clock = clock or SystemClock()
        self._random = random
        self._replay = replay or (
            ReplayMap.load(settings.replay_map) if settings.replay_map else ReplayMap()
        )
        self._user_agent = user_agent(settings.contact)
        check_values({"User-Agent": self._user_agent})
        # A megabyte and 40 ms, read when the first https address is dialled; a file that somebody
        # named is read now, so that what is wrong with it is said at the start.
        tls = cache(partial(tls_context, settings.ca_file))
        if settings.ca_file is not None:
            tls()
        self._dialer = Dialer(resolver or resolver_from_setting(settings.resolver), tls)
        self._limiter = HostLimiter(
            self._clock,
            concurrency=settings.concurrency_per_host,
            requests_per_minute=settings.requests_per_minute_per_host,
        )
        self._idle: dict[tuple[object, ...], list[Connection]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that are kept for reuse."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # lets the transports finish closing before the loop does

    async def fetch(self, request: OutboundRequest, spool_dir: Path) -> Fetched:
        """Fetch ``request`` into a new file in ``spool_dir``, flushed before this returns.

        On any failure no file is left but that of ``received``. Raises :class:`AddressInvalid`,
        :class:`AddressRefused`, :class:`RedirectRefused`, :class:`ResponseTooLarge`,
        :class:`SourceBusy` or :class:`SourceUnavailable`, each with ``facts`` (requests made,
        address contacted) and with secrets replaced. If the process dies, a file ``fetch-*`` may
        stay in ``spool_dir``.
        """
        return await self._answered(request, spool_dir)

    async def read(self, request: OutboundRequest) -> Fetched:
        """As :meth:`fetch`, for what is small and must not touch a disk: the body is ``content``.

        ``limits.size_bytes_max`` bounds the memory; above 1 MiB is :class:`Invalid`.
        """
        if request.limits.size_bytes_max > READ_BYTES_MAX:
            raise Invalid(f"cannot read more than {READ_BYTES_MAX} bytes into memory")
        return await self._answered(request, None)

    def is_replayed(self, url: str) -> bool:
        """Whether ``url`` is answered by a recording, or by nobody."""
        return self._replay.only or self._replay.find(parse_target(url)) is not None

    async def _answered(self, request: OutboundRequest, spool_dir: Path | None) -> Fetched:
        tally = _Tally()
        try:
            return await self._with_retries(request, spool_dir, tally)
        except HoldfastError as error:
            if isinstance(error, FetchFailure):
                error.facts = FetchFacts(tally.requests, tally.address, tally.wire_bytes)
            error.detail = scrub(error.detail, request)
            error.args = (error.detail,)
            raise

    async def _with_retries(
        self, request: OutboundRequest, spool_dir: Path | None, tally: _Tally
    ) -> Fetched:
        limits = request.limits
        for attempt in range(limits.retries + 1):
            try:
                return await self._attempt(request, spool_dir, tally)
            except (SourceUnavailable, SourceBusy) as error:
                # Whoever else asks there waits as well, also where this was the last try.
                asked = error.retry_after_seconds or 0.0
                if 0 < asked <= limits.retry_after_seconds_max:
                    self._limiter.pause(tally.host, asked)
                wait = self._wait_seconds(error, attempt, limits)
                if wait is None:
                    raise
                if error.received is not None and error.received.path is not None:
                    error.received.path.unlink()
            await self._clock.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _wait_seconds(
        self, error: SourceUnavailable | SourceBusy, attempt: int, limits: FetchLimits
    ) -> float | None:
        """How long to wait before the next attempt; None if there is to be none."""
        if attempt >= limits.retries or not is_retryable(error):
            return None
        asked = error.retry_after_seconds or 0.0
        if asked > limits.retry_after_seconds_max:
            return None
        ceiling = min(limits.backoff_seconds_max, limits.backoff_seconds * 2.0**attempt)
        return max(asked, ceiling * (0.5 + self._random() / 2))

    async def _attempt(
        self, request: OutboundRequest, spool_dir: Path | None, tally: _Tally
    ) -> Fetched:
        tally.spent_seconds = 0.0
        tally.seen = set()
        hop = self._first_hop(request)
        for _ in range(request.limits.redirects_max + 1):
            tally.seen.add((hop.method, hop.target.url))
            tally.host = hop.reported.host_port
            outcome = await self._slotted(request, hop, spool_dir, tally)
            if isinstance(outcome, Fetched):
                return outcome
            hop = self._next_hop(hop, outcome, tally)
        raise RedirectRefused(
            f"cannot fetch {hop.reported.url}: more than {request.limits.redirects_max} "
            "redirects (redirects_max)"
        )

    async def _slotted(
        self, request: OutboundRequest, hop: _Hop, spool_dir: Path | None, tally: _Tally
    ) -> Fetched | Head:
        """One hop in its host's turn, within what is left of the attempt's time."""
        limits = request.limits
        loop = asyncio.get_running_loop()
        async with self._turn(request, hop.reported.host_port):
            started = loop.time()
            try:
                async with asyncio.timeout(limits.total_seconds - tally.spent_seconds) as scope:
                    return await self._hop(request, hop, spool_dir, tally)
            except TimeoutError as error:
                if not scope.expired():
                    raise SourceUnavailable(f"cannot fetch {hop.reported.url}: {error}") from error
                raise SourceUnavailable(
                    f"cannot fetch {hop.reported.url}: not done within "
                    f"{limits.total_seconds:g} s (total_seconds)",
                    code="timeout",
                    bound="total_seconds",
                ) from error
            finally:
                tally.spent_seconds += loop.time() - started

    def _turn(self, request: OutboundRequest, host: str) -> AbstractAsyncContextManager[None]:
        rate = request.requests_per_minute
        if request.place is not None:
            return self._limiter.placed(host, request.place, requests_per_minute=rate)
        return self._limiter.slot(host, concurrency=request.concurrency, requests_per_minute=rate)

    async def _hop(
        self, request: OutboundRequest, hop: _Hop, spool_dir: Path | None, tally: _Tally
    ) -> Fetched | Head:
        started = self._clock.monotonic()
        async with self._exchange(request, hop, tally) as (connection, head):
            tally.address = connection.address
            if head.status in _REDIRECTS and "location" in head.headers:
                await drain(connection)
                return head
            if head.status == 304 and (request.etag or request.last_modified):
                await drain(connection)
                return self._fetched(request, hop, head, connection, tally, started, NOTHING)
            if not 200 <= head.status < 300 or head.status == 206:
                failure = self._status_error(hop, head)
                failure.said = await said(connection, head, request)
                raise failure
            if spool_dir is None:
                spooled = await held(connection, head, request.limits, hop.reported.url)
            else:
                spooled = await spool(connection, head, request, hop.reported.url, spool_dir)
            tally.wire_bytes += spooled.wire_bytes
            fetched = self._fetched(request, hop, head, connection, tally, started, spooled)
            if spooled.failure is not None:
                spooled.failure.received = fetched
                raise spooled.failure
            return fetched

    def _fetched(
        self,
        request: OutboundRequest,
        hop: _Hop,
        head: Head,
        connection: Connection,
        tally: _Tally,
        started: float,
        spooled: Spooled,
    ) -> Fetched:
        return Fetched(
            path=spooled.path,
            digest=spooled.digest,
            size_bytes=spooled.size_bytes,
            wire_bytes=spooled.wire_bytes,
            status=head.status,
            headers={
                k: v
                for k, v in head.headers.items()
                if k in HEADERS_KEPT or k in request.headers_wanted
            },
            url=scrub(request.url, request),
            final_url=scrub(hop.reported.url, request),
            address=connection.address,
            fetched_at=timestamp(self._clock.now()),
            duration_seconds=self._clock.monotonic() - started,
            requests=tally.requests,
            replayed=hop.replayed,
            not_modified=head.status == 304,
            framing=head.framing,
            content=spooled.content,
        )

    # --- hops ---------------------------------------------------------------------------------

    def _first_hop(self, request: OutboundRequest) -> _Hop:
        reported = parse_target(request.url)
        check_headers({**request.headers, **request.secret_headers})
        target = self._replay.find(reported)
        if target is None and self._replay.only:
            raise AddressRefused(
                f"cannot fetch {reported.url}: only recorded sources are fetched, and the replay "
                "map does not have this one",
                hint="HOLDFAST_COLLECT_REPLAY_FILE names the map; `holdfast fixture serve DIR "
                "--replay-map FILE` writes one",
            )
        secret = {n: v for n, v in request.headers.items() if n.lower() == "authorization"}
        hop = _Hop(
            target=target or reported,
            reported=reported,
            replayed=target is not None,
            method=request.method,
            body=request.body,
            headers={n: v for n, v in request.headers.items() if n not in secret},
            secret_headers={**secret, **request.secret_headers},
        )
        if request.first_url:
            hop = self._led_from(parse_target(request.first_url), hop)
        return self._without_exposed_secrets(hop)

    def _led_from(self, first: Target, hop: _Hop) -> _Hop:
        """``hop`` with only what may go there, since an answer of ``first`` named its address."""
        if first.scheme == "https" and hop.reported.scheme != "https":
            raise RedirectRefused(f"cannot go on to {hop.reported.url}: it leaves https")
        if first.origin == hop.reported.origin:
            return hop
        following = _without_origin(hop, hop.reported.url)
        return replace(following, may_be_private=first.host_port in self._allow)

    def _without_exposed_secrets(self, hop: _Hop) -> _Hop:
        """Secrets go over TLS, to addresses the operator named, or to a replay on loopback."""
        if not hop.secret_headers or hop.target.scheme == "https":
            return hop
        if hop.replayed:
            if hop.target.is_literal and check_address(hop.target.host) == "loopback":
                return hop
            return replace(hop, secret_headers={})
        if hop.target.host_port in self._allow:
            return hop
        raise AddressRefused(
            f"cannot send a secret to {hop.target.host_port}: the address is not https",
            hint="write https:// in source.url, or leave source.auth out",
        )

    def _next_hop(self, hop: _Hop, head: Head, tally: _Tally) -> _Hop:
        """Where a redirect leads, with only what may go there."""
        found = parse_target(join(hop.target.url, head.headers["location"]))
        target, reported, replayed = self._placed(hop, found)
        if hop.reported.scheme == "https" and reported.scheme != "https":
            raise RedirectRefused(
                f"cannot follow the redirect of {hop.reported.url}: it leaves https"
            )
        method, body = hop.method, hop.body
        if head.status == 303 or (head.status in {301, 302} and method == "POST"):
            method, body = "GET", b""
        if (method, target.url) in tally.seen:
            raise RedirectRefused(
                f"cannot follow the redirect of {hop.reported.url}: it leads in a circle"
            )
        following = replace(
            hop, target=target, reported=reported, replayed=replayed, method=method, body=body
        )
        if target.origin == hop.target.origin:
            return following
        contacted = check_address(tally.address.rpartition(":")[0].strip("[]"))
        local = hop.may_be_private and contacted is not None
        return replace(_without_origin(following, hop.reported.url), may_be_private=local)

    def _placed(self, hop: _Hop, found: Target) -> tuple[Target, Target, bool]:
        """(contacted, reported, replayed) for a redirect to ``found``."""
        if hop.replayed and found.origin == hop.target.origin:
            original = self._replay.original(found)
            return found, original or hop.reported, True
        replayed = self._replay.find(found)
        if replayed is not None:
            return replayed, found, True
        if hop.replayed or self._replay.only:
            raise RedirectRefused(
                f"cannot follow the redirect of {hop.reported.url}: it leaves the replay"
            )
        return found, found, False

    # --- one exchange -------------------------------------------------------------------------

    @asynccontextmanager
    async def _exchange(
        self, request: OutboundRequest, hop: _Hop, tally: _Tally
    ) -> AsyncIterator[tuple[Connection, Head]]:
        """Send the hop's request; the connection is kept afterwards if it may be, else dropped."""
        connection = await self._connection(hop, request.limits)
        try:
            try:
                head = await self._ask(connection, request, hop, tally)
            except SourceUnavailable as error:
                # A kept connection that the source closed in the meantime is no failure of the
                # source's: it is asked once more, on a new one.
                if connection.fresh or error.bound:
                    raise
                connection.abort()
                connection = await self._dial(hop, request.limits)
                head = await self._ask(connection, request, hop, tally)
            yield connection, head
        except BaseException:
            connection.abort()
            raise
        if connection.reusable:
            self._keep(self._key(hop), connection)
        else:
            connection.abort()

    async def _ask(
        self, connection: Connection, request: OutboundRequest, hop: _Hop, tally: _Tally
    ) -> Head:
        if request.admit is not None:
            await request.admit()
        tally.requests += 1
        headers = self._headers(request, hop)
        await connection.send(hop.method, hop.target, headers, hop.body)
        return await connection.head()

    def _headers(self, request: OutboundRequest, hop: _Hop) -> list[tuple[bytes, bytes]]:
        headers = {
            "Host": hop.target.authority,
            "User-Agent": self._user_agent,
            "Accept": "*/*",
            "Accept-Encoding": ACCEPT_ENCODING,
        }
        # What the source sent last time: where it cannot be sent back, all is asked for again.
        if request.etag and is_value(request.etag):
            headers["If-None-Match"] = request.etag
        if request.last_modified and is_value(request.last_modified):
            headers["If-Modified-Since"] = request.last_modified
        if hop.method == "POST":
            headers["Content-Length"] = str(len(hop.body))
            headers["Content-Type"] = request.body_type
        by_lower = {name.lower(): name for name in headers}
        for name, value in (*hop.headers.items(), *hop.secret_headers.items()):
            headers[by_lower.get(name.lower(), name)] = value
        check_values(headers)
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]

    def _key(self, hop: _Hop) -> tuple[object, ...]:
        # A connection is only for hops that would have been allowed to make it.
        return (*hop.target.origin, hop.replayed, hop.may_be_private)

    async def _connection(self, hop: _Hop, limits: FetchLimits) -> Connection:
        kept = self._idle.get(self._key(hop), [])
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if connection.reusable and now - connection.idle_since < _IDLE_CONNECTION_SECONDS:
                connection.renew(limits)
                return connection
            connection.abort()
        return await self._dial(hop, limits)

    async def _dial(self, hop: _Hop, limits: FetchLimits) -> Connection:
        allow = self._allow if hop.may_be_private else frozenset()
        if hop.replayed:
            allow = frozenset({hop.target.host_port})
        return await self._dialer.dial(hop.target, allow, limits)

    def _keep(self, key: tuple[object, ...], connection: Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        kept = self._idle.setdefault(key, [])
        kept.append(connection)
        if len(kept) > _IDLE_CONNECTIONS_MAX:
            kept.pop(0).abort()

    def _status_error(self, hop: _Hop, head: Head) -> SourceUnavailable | SourceBusy:
        wait = retry_after_seconds(head.headers.get("retry-after", ""), self._clock)
        if head.status == 429:
            return SourceBusy(
                f"cannot fetch {hop.reported.url}: the source asks for fewer requests (429)",
                status=429,
                retry_after_seconds=wait,
            )
        return SourceUnavailable(
            f"cannot fetch {hop.reported.url}: the source answered {head.status}",
            code="status",
            status=head.status,
            retryable=head.status in _RETRIED_STATUS,
            retry_after_seconds=wait,
        )


def _without_origin(hop: _Hop, subject: str) -> _Hop:
    """``hop`` without what was meant for another origin's eyes."""
    if hop.body:
        raise RedirectRefused(
            f"cannot go on from {subject}: it would send the request's body to another origin"
        )
    kept = {k: v for k, v in hop.headers.items() if k.lower() in _KEPT_ACROSS_ORIGINS}
    return replace(hop, headers=kept, secret_headers={})
