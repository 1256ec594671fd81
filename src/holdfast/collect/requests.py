"""From a profile's source to the requests that are sent.

Credentials are added here, at the last moment, and only for the origin of ``source.url``: the
address of a next page may lie elsewhere, and then goes without them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from holdfast.collect.errors import MappingRefused
from holdfast.collect.pages import with_parameters
from holdfast.collect.secrets import SecretStore
from holdfast.kernel.outbound import FetchLimits, OutboundRequest, parse_target, scrub
from holdfast.registry.model import (
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    Limits,
    Source,
    duration_seconds,
)

REFERENCE = "secret://"
_KEPT_ACROSS_ORIGINS = frozenset({"accept", "accept-language"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request carries to prove who asks. Lives as long as the run."""

    headers: dict[str, str]
    parameters: dict[str, str]
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return "Credentials(…)"


NO_CREDENTIALS = Credentials({}, {}, ())


def credentials(source: Source, store: SecretStore, tenant: str) -> Credentials:
    """The credentials of a source, its secrets resolved now.

    Raises :class:`SecretRefused` or :class:`SecretMissing`.
    """

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


def request(
    source: Source,
    limits: Limits,
    url: str,
    given: Credentials,
    *,
    etag: str = "",
    last_modified: str = "",
    size_bytes_max: int | None = None,
) -> OutboundRequest:
    """The request for one page; ``size_bytes_max`` is what is left of the run's bytes."""
    same_origin = parse_target(url).origin == parse_target(source.url).origin
    if not same_origin:
        kept = {k: v for k, v in source.headers.items() if k.lower() in _KEPT_ACROSS_ORIGINS}
        headers, given = kept, Credentials({}, {}, given.secrets)
    else:
        headers = dict(source.headers)
    body = source.body.encode() if source.method == "POST" and same_origin else b""
    return OutboundRequest(
        url=with_parameters(url, given.parameters),
        first_url=source.url,
        method=source.method if same_origin else "GET",
        headers=headers,
        secret_headers=given.headers,
        secrets=given.secrets,
        body=body,
        body_type=source.body_type,
        etag=etag,
        last_modified=last_modified,
        limits=fetch_limits(limits, size_bytes_max),
        requests_per_minute=limits.requests_per_minute,
        concurrency=limits.concurrency,
    )


def reported(source: Source, limits: Limits, url: str, given: Credentials) -> str:
    """``url`` as it is kept and shown: the address that is asked for, secrets removed."""
    asked = request(source, limits, url, given)
    return scrub(asked.url, asked)


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
