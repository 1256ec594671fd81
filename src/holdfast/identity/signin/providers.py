"""What is asked of a provider: where to send a browser, and whose account came back.

The protocol's own texts (requests, PKCE) are authlib's; everything goes out through the one
outbound client; ID tokens are verified by our own verifier under keys the provider publishes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from holdfast.identity.jwks import KeySets
from holdfast.identity.people.model import normal_email
from holdfast.identity.signin.oauth_model import (
    GITHUB,
    GITHUB_API,
    Account,
    Provider,
    sign_in_refused,
)
from holdfast.identity.tokens import kid_of, verify_claims
from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Invalid, Unavailable
from holdfast.kernel.naming import cleaned
from holdfast.kernel.outbound import FetchLimits, OutboundClient, OutboundRequest

LIMITS = FetchLimits(
    size_bytes_max=256 * 1024,
    redirects_max=0,
    total_seconds=10.0,
    connect_seconds=5.0,
    idle_seconds=10.0,
    retries=0,
)
METADATA_SECONDS = 3600.0
SUBJECT_MAX = 255


class Wire:
    """The outside, as providers are asked: bounded, once, without following anybody elsewhere."""

    def __init__(self, client: OutboundClient, insecure: frozenset[str]) -> None:
        self._client = client
        self._insecure = insecure

    async def get(self, url: str, *, token: str = "") -> Any:
        """The JSON at ``url``."""
        secret = {"Authorization": f"Bearer {token}"} if token else {}
        return _json(await self._read(url, secret_headers=secret))

    async def get_bytes(self, url: str) -> bytes:
        """What is at ``url``."""
        return await self._read(url)

    async def post(self, url: str, body: str, *, basic: tuple[str, str] | None = None) -> Any:
        """The JSON that a form brings."""
        secret = {}
        if basic is not None:
            pair = ":".join(quote(part, safe="") for part in basic)
            secret = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        form = "application/x-www-form-urlencoded"
        data = await self._read(
            url, method="POST", body=body.encode(), body_type=form, secret_headers=secret
        )
        return _json(data)

    async def _read(self, url: str, **more: Any) -> bytes:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.netloc not in self._insecure:
            raise sign_in_refused(f"{url} is not https")
        request = OutboundRequest(
            url=url, headers={"Accept": "application/json"}, limits=LIMITS, **more
        )
        try:
            return (await self._client.read(request)).content
        except HoldfastError as error:
            if error.code == "status":
                raise sign_in_refused(error.detail) from error
            raise Unavailable(
                "cannot sign in: the provider does not answer",
                code="provider-unreachable",
                internal=error.detail,
            ) from error


def _json(data: bytes) -> Any:
    try:
        return decode_strict(data)
    except Invalid as error:
        raise Unavailable(
            "cannot sign in: what the provider answers cannot be read: it is not JSON",
            code="provider-unreadable",
            internal=error.detail,
        ) from error


class Keeper(Protocol):
    """Whoever keeps accounts."""

    async def address(self, asked: Mapping[str, str]) -> str:
        """Where to send the browser with these parameters."""
        ...

    async def account(
        self, code: str, verifier: str, nonce: str, redirect: str, iss: str
    ) -> Account:
        """Whose account the code is for; ``Unauthenticated`` if anything does not hold."""
        ...


class OpenIdConnect:
    """A provider that is found by discovery (Google, Keycloak, …)."""

    def __init__(self, provider: Provider, wire: Wire, clock: Clock) -> None:
        self._provider = provider
        self._wire = wire
        self._clock = clock
        self._metadata: dict[str, Any] = {}
        self._keys: KeySets | None = None
        self._read_at = float("-inf")

    async def address(self, asked: Mapping[str, str]) -> str:
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri

        metadata = await self._found()
        found: str = prepare_grant_uri(
            _text(metadata, "authorization_endpoint"),
            self._provider.client_id,
            "code",
            scope="openid email profile",
            **asked,
        )
        return found

    async def account(
        self, code: str, verifier: str, nonce: str, redirect: str, iss: str
    ) -> Account:
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        metadata, provider = await self._found(), self._provider
        if iss != provider.issuer and (
            iss or metadata.get("authorization_response_iss_parameter_supported") is True
        ):
            raise sign_in_refused("the answer names another issuer")
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=redirect, code_verifier=verifier
        )
        basic = (provider.client_id, provider.client_secret)
        answer = await self._wire.post(_text(metadata, "token_endpoint"), body, basic=basic)
        claims = await self._claims(_text(answer, "id_token"), nonce)
        if not claims.get("email") and metadata.get("userinfo_endpoint"):
            more = await self._wire.get(
                _text(metadata, "userinfo_endpoint"), token=_text(answer, "access_token")
            )
            if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
                raise sign_in_refused("userinfo speaks of somebody else")
            claims = {**more, **claims}
        verified = claims.get("email_verified") is True
        email = normal_email(str(claims.get("email", ""))) if verified else None
        return Account(
            provider.issuer, claims["sub"], email or "", cleaned(str(claims.get("name") or ""))
        )

    async def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        assert self._keys is not None, "the metadata was read"
        keys = await self._keys.keys(kid_of(token))
        provider = self._provider
        claims = verify_claims(
            token,
            keys,
            now=self._clock.now(),
            issuer=provider.issuer,
            audience=provider.client_id,
        )
        subject, audience = claims.get("sub"), claims.get("aud")
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX:
            raise sign_in_refused("the ID token names nobody")
        if claims.get("nonce") != nonce:
            raise sign_in_refused("the ID token is of another sign-in")
        many = isinstance(audience, list) and len(audience) > 1
        if (many or "azp" in claims) and claims.get("azp") != provider.client_id:
            raise sign_in_refused("the ID token is for another client")
        return claims

    async def _found(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        if now - self._read_at < METADATA_SECONDS:
            return self._metadata
        issuer = self._provider.issuer
        found = await self._wire.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(found, dict) or found.get("issuer") != issuer:
            raise Unavailable(
                f"cannot sign in: what {self._provider.title} says of itself is of another issuer",
                code="provider-unreachable",
            )
        self._keys = KeySets(_text(found, "jwks_uri"), self._wire.get_bytes, self._clock)
        self._metadata, self._read_at = found, now
        return found


class GitHub:
    """GitHub: OAuth without OpenID Connect; whose it is says its API."""

    def __init__(self, provider: Provider, wire: Wire) -> None:
        self._provider = provider
        self._wire = wire
        self._base = provider.issuer
        self._api = GITHUB_API if self._base == GITHUB else f"{self._base}/api/v3"

    async def address(self, asked: Mapping[str, str]) -> str:
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri

        kept = {name: value for name, value in asked.items() if name != "nonce"}
        found: str = prepare_grant_uri(
            f"{self._base}/login/oauth/authorize",
            self._provider.client_id,
            "code",
            scope="read:user user:email",
            **kept,
        )
        return found

    async def account(
        self, code: str, verifier: str, nonce: str, redirect: str, iss: str
    ) -> Account:
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        if iss and iss not in (self._base, f"{self._base}/login/oauth"):
            raise sign_in_refused("the answer names another issuer")
        body = prepare_token_request(
            "authorization_code",
            code=code,
            redirect_uri=redirect,
            code_verifier=verifier,
            client_id=self._provider.client_id,
            client_secret=self._provider.client_secret,
        )
        answer = await self._wire.post(f"{self._base}/login/oauth/access_token", body)
        token = _text(answer, "access_token")
        user = await self._wire.get(f"{self._api}/user", token=token)
        number = user.get("id") if isinstance(user, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise sign_in_refused("GitHub names nobody")
        emails = await self._wire.get(f"{self._api}/user/emails", token=token)
        return Account(
            self._base,
            str(number),
            _primary(emails),
            cleaned(str(user.get("name") or user.get("login") or "")),
        )


def _primary(emails: Any) -> str:
    """The address that is GitHub's for this account, if it has verified it."""
    for each in emails if isinstance(emails, list) else ():
        if isinstance(each, dict) and each.get("primary") is True and each.get("verified") is True:
            return normal_email(str(each.get("email", ""))) or ""
    return ""


def _text(document: Any, name: str) -> str:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, str) or not found:
        raise sign_in_refused(f"no {name}")
    return found
