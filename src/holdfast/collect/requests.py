"""From a profile's source to the requests that are sent.

Credentials are added here, at the last moment, and only for the origin of ``source.url``: the
address of a next page may lie elsewhere, and then goes without them.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from holdfast.collect.errors import MappingRefused
from holdfast.collect.pages import Ask, headers_wanted, with_parameters
from holdfast.collect.secrets import SecretStore
from holdfast.collect.tokens import TokenRequest, Tokens
from holdfast.kernel.outbound import FetchLimits, OutboundRequest, Place, parse_target, scrub
from holdfast.records.model import Validator
from holdfast.registry.model import Limits
from holdfast.registry.parts import duration_seconds
from holdfast.registry.source import ApiKeyAuth, BasicAuth, BearerAuth, OAuth2Auth, Source

REFERENCE = "secret://"
_KEPT_ACROSS_ORIGINS = frozenset({"accept", "accept-language"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request carries to prove who asks. Lives as long as the run."""

    headers: dict[str, str]
    parameters: dict[str, str]
    secrets: tuple[str, ...]
    token: str = ""
    """The access token, where it was fetched for us and can be again."""

    def __repr__(self) -> str:
        return "Credentials(…)"


NO_CREDENTIALS = Credentials({}, {}, ())


async def credentials(
    source: Source,
    store: SecretStore,
    tenant: str,
    tokens: Tokens,
    *,
    refused: str = "",
    place: Place | None = None,
    per_minute: int | None = None,
) -> Credentials:
    """The credentials of a source, its secrets resolved now.

    ``place`` is held while a token is asked for, at no more than ``per_minute``; ``refused`` is an
    access token that the source does not take any more. Raises :class:`SecretRefused` or
    :class:`SecretMissing`, and what fetching a token raises.
    """
    if isinstance(source.auth, OAuth2Auth):
        wanted = token_request(source, source.auth, store, tenant)
        token = await tokens.get(wanted, refused=refused, place=place, per_minute=per_minute)
        return Credentials({"Authorization": f"Bearer {token}"}, {}, (token,), token)
    return _resolved(source, store, tenant)


def token_request(
    source: Source, auth: OAuth2Auth, store: SecretStore, tenant: str
) -> TokenRequest:
    """What a token is asked with.

    The secret must be bound to both hosts: else whoever may send it to the token endpoint could
    have the token, which is as good, sent to a host of their own.
    """
    client_id = auth.client_id
    for url in (source.url, auth.token_url):
        secret = store.resolve(auth.client_secret, tenant, url)
        if auth.client_id.startswith(REFERENCE):
            client_id = store.resolve(auth.client_id, tenant, url)
    return TokenRequest(tenant, auth, client_id, secret)


def _resolved(source: Source, store: SecretStore, tenant: str) -> Credentials:
    def resolve(reference: str) -> str:
        return store.resolve(reference, tenant, source.url)

    match source.auth:
        case None:
            return NO_CREDENTIALS
        case BearerAuth(token=token):
            value = resolve(token)
            return Credentials({"Authorization": f"Bearer {value}"}, {}, (value,))
        case BasicAuth(username=username, password=password):
            secret = resolve(password)
            name = resolve(username) if username.startswith(REFERENCE) else username
            pair = base64.b64encode(f"{name}:{secret}".encode()).decode("ascii")
            hidden = (secret, pair, name) if name != username else (secret, pair)
            return Credentials({"Authorization": f"Basic {pair}"}, {}, hidden)
        case ApiKeyAuth(key=key, header=header, parameter=parameter):
            value = resolve(key)
            if header:
                return Credentials({header: value}, {}, (value,))
            return Credentials({}, {parameter: value}, (value,))
        case other:
            raise MappingRefused(f"cannot authenticate by {type(other).__name__} in this build")


Pace = Callable[[Place, int], Place]
"""Makes of a place one that is held from a moment on of which there are so many a minute."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How the source is asked, beside what is asked for: its bounds and its publisher's wishes."""

    limits: Limits
    slowed_to: int | None = None
    """Requests a minute that ``robots.txt`` asks for."""
    admit: Callable[[], Awaitable[None]] | None = None
    place: Place | None = None
    pace: Pace | None = None
    """Where the coordinator gives the moments of requests."""

    @property
    def per_minute(self) -> int | None:
        """How many requests a minute there may be: the fewest that anybody asks for."""
        asked = [rate for rate in (self.slowed_to, self.limits.requests_per_minute) if rate]
        return min(asked, default=None)

    def at(self) -> Place | None:
        """What is held during each request. Who waits for its moment holds no place: others may
        have theirs."""
        return self._paced or self.place

    @property
    def own_per_minute(self) -> int | None:
        """How many requests a minute this process sees to by itself.

        The fleet's pace stands for its own: what waits for both would wait twice.
        """
        return None if self._paced else self.per_minute

    @property
    def _paced(self) -> Place | None:
        """A place from a moment on that the coordinator gives; nothing if it need not or cannot."""
        if self.pace is None or self.place is None or self.per_minute is None:
            return None
        return self.pace(self.place, self.per_minute)


def request(
    source: Source,
    manners: Manners,
    ask: Ask,
    given: Credentials,
    *,
    known: Validator | None = None,
    size_bytes_max: int | None = None,
) -> OutboundRequest:
    """The request for one page, conditional on what is ``known`` of it.

    ``size_bytes_max`` is what is left of the run's bytes.
    """
    limits = manners.limits
    same_origin = parse_target(ask.url).origin == parse_target(source.url).origin
    if not same_origin:
        kept = {k: v for k, v in source.headers.items() if k.lower() in _KEPT_ACROSS_ORIGINS}
        headers, given = kept, Credentials({}, {}, given.secrets)
    else:
        headers = dict(source.headers)
    posted = source.method == "POST" and same_origin
    # A condition on a POST means something else (RFC 9110 §13.1.2).
    known = known if known is not None and not posted else Validator()
    return OutboundRequest(
        url=with_parameters(ask.url, given.parameters),
        first_url=source.url,
        method="POST" if posted else "GET",
        headers=headers,
        secret_headers=given.headers,
        secrets=given.secrets,
        body=ask.body.encode() if posted else b"",
        body_type=source.body_type,
        etag=known.etag,
        last_modified=known.last_modified,
        limits=fetch_limits(limits, size_bytes_max),
        requests_per_minute=manners.own_per_minute,
        concurrency=limits.concurrency,
        headers_wanted=headers_wanted(source),
        admit=manners.admit,
        place=manners.at(),
    )


def reported(source: Source, ask: Ask, given: Credentials) -> str:
    """The address of ``ask`` as it is kept and shown: what is asked for, secrets removed."""
    asked = request(source, Manners(Limits()), ask, given)
    return scrub(asked.url, asked)


def without_secrets(source: Source, given: Credentials, text: str) -> str:
    """``text`` of the source's without what it was sent to know us by."""
    return scrub(text, request(source, Manners(Limits()), Ask(source.url), given))


def led_to(asked: str, final: str) -> str:
    """What is kept of the address that answered, if that is another than was ``asked`` for.

    Stores of files sign the addresses that redirects lead to, each in a way of its own: until the
    signature has run out it is as good as a password, and it is none that we were given and could
    know. So only names are kept, and the values that the asked address had itself; of another
    host's path only the end.
    """
    if final == asked:
        return ""
    try:
        known, parts = urlsplit(asked), urlsplit(final)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    segments = parts.path.split("/")[1:]
    if (parts.scheme, host) != (known.scheme, known.netloc.rpartition("@")[2]):
        segments = [HIDDEN, segments[-1]] if len(segments) > 1 else segments
    there, had = set(known.path.split("/")), set(known.query.split("&"))
    path = "".join(f"/{_segment(each, there)}" for each in segments)
    query = "&".join(_piece(each, had) for each in parts.query.split("&") if each)
    found = f"{parts.scheme}://{host}{path}" + (f"?{query}" if query else "")
    return found[:_LED_TO_MAX]


def _segment(segment: str, there: Collection[str]) -> str:
    """A part of the path; a long one that was not asked for may be what lets in."""
    bare = segment.partition(";")[0]
    return HIDDEN if len(bare) > _SEGMENT_MAX and bare not in there else bare


def _piece(piece: str, had: Collection[str]) -> str:
    name, mark, _ = piece.partition("=")
    if piece in had:
        return piece
    return f"{name}={HIDDEN}" if mark and len(name) <= _SEGMENT_MAX else HIDDEN


HIDDEN = "***"
"""What stands where a secret was: an address with it in cannot be asked for."""
_LED_TO_MAX = 2048
_SEGMENT_MAX = 32


def fetch_limits(limits: Limits, size_bytes_max: int | None = None) -> FetchLimits:
    """What bounds one request: ``timeout`` for each wait, ``max_duration`` for the whole."""
    idle = duration_seconds(limits.timeout)
    return FetchLimits(
        size_bytes_max=max(1, limits.max_bytes if size_bytes_max is None else size_bytes_max),
        idle_seconds=idle,
        connect_seconds=min(idle, 10.0),
        total_seconds=duration_seconds(limits.max_duration),
        retries=limits.retries,
    )
