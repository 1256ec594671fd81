"""Access tokens of OAuth 2.0 (client credentials, RFC 6749 §4.4): fetched, kept in memory, renewed.

A token is a secret: it is never written anywhere, and is forgotten when the drone ends.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from urllib.parse import quote_plus, urlencode

import msgspec

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Denied
from holdfast.kernel.outbound import (
    FetchLimits,
    OutboundClient,
    OutboundRequest,
    Place,
    RedirectRefused,
    SourceUnavailable,
    is_retryable,
)
from holdfast.registry.source import OAuth2Auth

LIFETIME_SECONDS = 300.0
"""How long a token is used whose lifetime the server does not tell."""
LIFETIME_SECONDS_MAX = 86_400.0
_MARGIN_SECONDS = 30.0
_ANSWER_BYTES_MAX = 64 * 1024
_TOKEN_LENGTH_MAX = 16 * 1024
_TOKENS_MAX = 256


class TokenRefused(Denied):
    """The token endpoint gives no token that could be used; asking again now cannot help."""

    code = "token-refused"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token is asked with: the profile's words, its secrets resolved."""

    tenant: str
    auth: OAuth2Auth
    client_id: str
    client_secret: str = field(repr=False)

    @property
    def key(self) -> str:
        """Who asks whom for what; the secret only as a digest."""
        said = msgspec.json.encode(
            [self.tenant, self.auth, self.client_id, self.client_secret], order="sorted"
        )
        return hashlib.sha256(said).hexdigest()


@dataclass(slots=True)
class _Kept:
    """One client's token. ``lock`` lets one ask while the others wait for what comes."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: str = field(default="", repr=False)
    until: float = 0.0


class Tokens:
    """The access tokens of one drone, shared by its runs; for one event loop."""

    def __init__(self, outbound: OutboundClient, clock: Clock) -> None:
        self._outbound = outbound
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def get(
        self,
        request: TokenRequest,
        *,
        refused: str = "",
        place: Place | None = None,
        per_minute: int | None = None,
    ) -> str:
        """A token that holds for a while yet; another than ``refused``, which the source did not
        take.

        Raises :class:`TokenRefused`, and what fetching raises.
        """
        kept = self._kept.setdefault(request.key, _Kept())
        self._kept.move_to_end(request.key)
        while len(self._kept) > _TOKENS_MAX:
            self._kept.popitem(last=False)
        async with kept.lock:
            now = self._clock.monotonic()
            if not kept.value or now >= kept.until or kept.value == refused:
                kept.value = ""
                kept.value, lifetime = await self._fetched(request, place, per_minute)
                kept.until = now + lifetime
            return kept.value

    async def _fetched(
        self, request: TokenRequest, place: Place | None, per_minute: int | None
    ) -> tuple[str, float]:
        url = request.auth.token_url
        asked = replace(_outbound(request), place=place, requests_per_minute=per_minute)
        try:
            answer = await self._outbound.read(asked)
        except SourceUnavailable as error:
            if error.code == "status" and not is_retryable(error):
                raise TokenRefused(
                    f"cannot get a token: {url} answered {error.status}",
                    hint="are client_id and the secret right, and is the scope allowed?",
                ) from error
            raise
        except RedirectRefused as error:
            raise TokenRefused(f"cannot get a token: {url} leads elsewhere") from error
        return _token(answer.content, url)


def _outbound(request: TokenRequest) -> OutboundRequest:
    auth = request.auth
    form = {"grant_type": "client_credentials", **auth.parameters}
    if auth.scope:
        form["scope"] = auth.scope
    headers: dict[str, str] = {}
    hidden = [request.client_secret]
    if auth.style == "post":
        form |= {"client_id": request.client_id, "client_secret": request.client_secret}
    else:
        # Encoded before they are joined (RFC 6749 §2.3.1): a colon in either would end the name.
        pair = f"{quote_plus(request.client_id)}:{quote_plus(request.client_secret)}"
        encoded = base64.b64encode(pair.encode()).decode("ascii")
        headers["Authorization"] = f"Basic {encoded}"
        hidden.append(encoded)
    return OutboundRequest(
        url=auth.token_url,
        method="POST",
        headers={"Accept": "application/json"},
        # Sent as a secret header even where the form carries it: then it goes to https only.
        secret_headers=headers or {"Cache-Control": "no-store"},
        secrets=tuple(hidden),
        body=urlencode(form).encode(),
        body_type="application/x-www-form-urlencoded",
        limits=FetchLimits(
            size_bytes_max=_ANSWER_BYTES_MAX, redirects_max=0, total_seconds=30.0, retries=2
        ),
    )


def _token(content: bytes, url: str) -> tuple[str, float]:
    """(token, seconds it is used) in an answer; the answer itself is never repeated."""
    try:
        said = msgspec.json.decode(content)
    except msgspec.DecodeError:
        said = None
    if not isinstance(said, dict):
        raise TokenRefused(f"cannot get a token: {url} did not answer with a JSON object")
    value, kind = said.get("access_token"), said.get("token_type", "Bearer")
    if not isinstance(value, str) or not value or len(value) > _TOKEN_LENGTH_MAX:
        raise TokenRefused(f"cannot get a token: the answer of {url} has no access_token")
    if not all("\x21" <= character <= "\x7e" for character in value):
        raise TokenRefused(f"cannot get a token: that of {url} cannot be sent in a header")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenRefused(f"cannot use the token of {url}: it is no bearer token")
    return value, _lifetime(said.get("expires_in"))


def _lifetime(said: object) -> float:
    """How long the token is used: a little less than it holds."""
    try:
        seconds = float(str(said)) if said is not None else LIFETIME_SECONDS
    except ValueError:
        seconds = LIFETIME_SECONDS
    if not seconds > 0:  # nor a number that is none
        seconds = LIFETIME_SECONDS
    seconds = min(seconds, LIFETIME_SECONDS_MAX)
    return max(seconds - _MARGIN_SECONDS, seconds / 2)
