"""What goes out, what comes back, what bounds both, and how it can fail. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from holdfast.kernel.errors import Denied, Exhausted, HoldfastError, TooLarge, Unavailable

Place = Callable[[str], AbstractAsyncContextManager[None]]
"""A place at ``host:port``, held while the block runs."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds on one fetch. Reaching one is an error that names it, never a cut.

    ``size_bytes_max`` bounds the body as sent *and* after content-decoding; ``ratio_max`` bounds
    the second over the first once a mebibyte has come out. ``total_seconds`` is the time of one
    attempt, redirects included, from the first connection to the last byte; waiting for a rate
    limit or between attempts is not counted.
    """

    size_bytes_max: int = 2 * 1024**3
    ratio_max: int = 300
    header_bytes_max: int = 64 * 1024
    redirects_max: int = 5
    total_seconds: float = 300.0
    connect_seconds: float = 10.0
    idle_seconds: float = 30.0
    retries: int = 3
    backoff_seconds: float = 0.5
    backoff_seconds_max: float = 30.0
    retry_after_seconds_max: float = 60.0
    """A source that asks for a longer pause is not waited for: the error carries its wish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """One thing to fetch. Sources are only read: a POST here is a query and may be repeated.

    ``secret_headers`` (credentials, API keys) go only to https, to addresses the operator allowed
    by name and to a replay on loopback; they, and every header of ``headers`` but ``Accept`` and
    ``Accept-Language``, are dropped when a redirect leaves the origin. ``secrets`` are values that
    must not be seen: they are replaced wherever an address or a message is reported.
    ``first_url`` is the address the profile names, where ``url`` was taken from an answer of it (a
    next page): if the two have different origins, the same is dropped as on a redirect.
    ``etag`` and ``last_modified`` are what the source sent last time, for a conditional request.
    """

    url: str
    first_url: str = ""
    method: Literal["GET", "POST"] = "GET"
    headers: Mapping[str, str] = field(default_factory=_nothing)
    secret_headers: Mapping[str, str] = field(default_factory=_nothing)
    secrets: tuple[str, ...] = ()
    body: bytes = b""
    body_type: str = "application/json"
    etag: str = ""
    last_modified: str = ""
    limits: FetchLimits = field(default_factory=FetchLimits)
    requests_per_minute: int | None = None
    concurrency: int | None = None
    keep_cut: bool = False
    """Whether what came of an answer that failed underway is kept: see :class:`FetchFailure`."""
    headers_wanted: frozenset[str] = frozenset()
    """Headers of the answer, in lower case, that are reported beside the usual ones."""
    admit: Callable[[], Awaitable[None]] | None = None
    """Awaited before each request that is sent, repeats and redirects included; it raises where no
    more may be sent. A daily quota is kept this way."""
    place: Place | None = None
    """Entered with ``host:port`` before a request there, and left when its answer is here, for each
    repeat and redirect anew: how many requests a host has at once is bounded this way beyond this
    process; ``concurrency`` does not count then. Waiting there is not counted as the request's
    time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came back. ``path`` is on disk, flushed, and belongs to the caller from now on.

    The bytes are those after content-decoding; ``digest`` is theirs. With ``not_modified`` there
    is no body: ``path`` is None, ``digest`` empty. ``framing`` tells how the end of the body was
    known; with ``close`` (HTTP/1.0 style) the protocol itself cannot tell a short body from a
    whole one, so the parser must.
    """

    path: Path | None
    digest: str
    size_bytes: int
    wire_bytes: int
    status: int
    headers: Mapping[str, str]
    url: str
    """The address asked for, in terms of the original source even when replayed."""
    final_url: str
    """The address that answered after redirects, secrets removed."""
    address: str
    """The IP address and port actually contacted."""
    fetched_at: str
    duration_seconds: float
    requests: int
    replayed: bool
    not_modified: bool = False
    framing: Literal["length", "chunked", "close", "none"] = "length"
    content: bytes = b""
    """The body, where it was asked for in memory: then there is no ``path``."""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """The charset parameter of the media type, or empty."""
        for part in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = part.strip().partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip('"').lower()
        return ""

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "")

    @property
    def last_modified(self) -> str:
        return self.headers.get("last-modified", "")


@dataclass(frozen=True, slots=True)
class FetchFacts:
    """What is known about a fetch that failed: how often was asked, who was contacted last."""

    requests: int = 0
    address: str = ""
    wire_bytes: int = 0


class FetchFailure:
    """What every failure of a fetch carries beside its kind.

    ``said`` is how the source's own words about it begin, on one line, without the request's
    secrets. They may be about people: who writes them where nothing is erased thinks of that.
    ``received`` is the beginning of an answer that was too large or broke off, within the bounds,
    where the request has ``keep_cut`` and anything came: its file is the caller's.
    """

    facts: FetchFacts = FetchFacts()
    said: str = ""
    received: Fetched | None = None


class AddressRefused(FetchFailure, Denied):
    """The guard's answer: this address is not contacted. Nothing was sent to it."""

    code = "address-refused"


class RedirectRefused(FetchFailure, Denied):
    """A redirect that is not followed: to clear text, in a circle, too far, or out of a replay."""

    code = "redirect-refused"


class SourceUnavailable(FetchFailure, Unavailable):
    """The source did not give a whole answer.

    ``code`` is ``unreachable`` (name, connection, reset), ``timeout`` (``bound`` names which),
    ``tls-refused``, ``truncated``, ``protocol-error`` or ``status`` (``status`` is the number).
    ``retryable`` says whether asking again may help.
    """

    code = "unreachable"

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        hint: str = "",
        retryable: bool = True,
        status: int = 0,
        bound: str = "",
        retry_after_seconds: float | None = None,
        internal: str = "",
    ) -> None:
        super().__init__(
            detail,
            code=code,
            hint=hint,
            retry_after_seconds=retry_after_seconds,
            internal=internal,
        )
        self.retryable = retryable
        self.status = status
        self.bound = bound


class SourceBusy(FetchFailure, Exhausted):
    """The source asks for fewer requests (429), or for a longer pause than we wait for here."""

    code = "source-busy"

    def __init__(self, detail: str, *, status: int, retry_after_seconds: float | None) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
        self.retryable = True
        self.status = status


class ResponseTooLarge(FetchFailure, TooLarge):
    """The answer passed a bound; ``bound`` is the name of the :class:`FetchLimits` member."""

    code = "response-too-large"

    def __init__(self, detail: str, *, bound: str) -> None:
        super().__init__(detail)
        self.bound = bound


class SpoolFailed(FetchFailure, Unavailable):
    """The disk did not take the body. Not retried here: it is not the source's doing."""

    code = "spool-failed"


def is_retryable(error: HoldfastError) -> bool:
    """Whether asking the same again may help."""
    return isinstance(error, SourceUnavailable | SourceBusy) and error.retryable
