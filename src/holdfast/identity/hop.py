"""The token for one hop between roles (SECURITY.md, *Between roles*).

The calling role signs, with a private key that only it has, a statement about *this* request: who
is asking, for which tenant, with which permissions, by which method and path, with which body, to
which one role, for at most thirty seconds, once. The receiving role pins the public keys of the
roles that may call it and trusts no header besides. Where roles show each other certificates, the
token is bound to the caller's (RFC 8705 §3): a token without its certificate opens nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Unauthenticated, Unavailable
from holdfast.kernel.http.pool import SEAL
from holdfast.kernel.ids import NewId, TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind
from holdfast.kernel.signing import SigningKey, Verifier
from holdfast.kernel.trusted import TrustedKeys

TYPE = "holdfast-hop+jwt"
HEADER = "holdfast-hop"
REFUSED = "holdfast-hop-refused"
"""In an answer: the token was not taken, and why (a code). That is about whoever signed it, never
about whom it was signed for."""
LIFETIME_SECONDS = 30
SEEN_MAX = 200_000
EMPTY_BODY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def hop_missing() -> Unauthenticated:
    """What somebody is told who asks a role itself."""
    return Unauthenticated(
        "cannot accept the request: exactly one hop token is needed",
        hint="roles answer through their gateway: name its address or its data directory; what is "
        "done in this role's own, such as a backup, is done while it is stopped",
    )


@dataclass(frozen=True, slots=True)
class Hop:
    """What a token vouches for: who asks (nobody on public routes), the digest of the body, and
    the name in the certificate that the caller showed at the door (empty: none; ``None``: nobody
    is asked for one). ``by`` is the role that vouches."""

    by: str
    principal: Principal | None
    body: str
    certificate: str | None = None


class HopSigner:
    """Signs as one role."""

    def __init__(self, role: str, key: SigningKey, clock: Clock, new_id: NewId) -> None:
        self.role = role
        self._key = key
        self._clock = clock
        self._new_id = new_id

    def seal(
        self,
        audience: str,
        principal: Principal | None,
        method: str,
        target: str,
        body: str,
        *,
        certificate: str | None = None,
    ) -> dict[str, Callable[[str], dict[str, str]]]:
        """Extensions of a request: signed as it goes out, by what its connection shows there."""

        def sealed(thumbprint: str) -> dict[str, str]:
            token = self.token(
                audience,
                principal,
                method,
                target,
                body,
                certificate=certificate,
                thumbprint=thumbprint,
            )
            return {HEADER: token}

        return {SEAL: sealed}

    def token(
        self,
        audience: str,
        principal: Principal | None,
        method: str,
        target: str,
        body: str,
        *,
        certificate: str | None = None,
        thumbprint: str = "",
    ) -> str:
        """A token for one request to ``audience``.

        ``target`` is the path with its query as sent; ``body`` the digest of the body. Without a
        principal the token vouches for the hop only: good for public routes. ``certificate`` is
        the name in the one that the caller showed; ``thumbprint`` is of the one that we show.
        """
        now = self._clock.now()
        claims: dict[str, Any] = {
            "iss": self.role,
            "aud": audience,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=LIFETIME_SECONDS)).timestamp()),
            "jti": self._new_id(),
            "htm": method.upper(),
            "htu": target,
            "bdg": body,
        }
        if thumbprint:
            claims["cnf"] = {"x5t#S256": [thumbprint]}
        if certificate is not None:
            claims["crt"] = certificate
        if principal is not None:
            claims |= {
                "sub": principal.subject,
                "ten": principal.tenant,
                "knd": principal.kind.value,
                "prm": sorted(permission.value for permission in principal.permissions),
            }
            if principal.profiles is not None:
                claims["pfl"] = sorted(principal.profiles)
            if principal.credential:
                claims["crd"] = principal.credential
        return self._key.sign(claims, typ=TYPE)


class HopAuth(httpx.Auth):
    """Signs each request of one role to another, which a :class:`RolePool` sends."""

    requires_request_body = True

    def __init__(self, signer: HopSigner, audience: str, principal: Principal | None) -> None:
        self._signer = signer
        self._audience = audience
        self._principal = principal

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        target = request.url.raw_path.decode("ascii")
        body = digest(request.content)
        request.extensions |= self._signer.seal(
            self._audience, self._principal, request.method, target, body
        )
        response = yield request
        check_taken(self._signer.role, self._audience, response.headers)


def check_taken(caller: str, role: str, headers: Mapping[str, str]) -> None:
    """Raise :class:`Unavailable` if ``role`` says in its answer that it did not take our token.

    Nothing was done, and whoever is asked for is not to blame: their credential was good.
    """
    code = headers.get(REFUSED)
    if code is None:
        return
    why, do = _WHY.get(code, (f"it refuses its token ({code})", f"the log of the {role} says more"))
    raise Unavailable(
        f"cannot ask the {role}: {why.format(caller=caller)}",
        code="hop-refused",
        hint=do.format(caller=caller),
        retry_after_seconds=5,
    )


_WHY = {
    "token-invalid": (
        "it does not trust the {caller}",
        "this is about the {caller}, not about your credential: its public key, {caller}.pub.jwk, "
        "has to be in the trust folder (HOLDFAST_TRUST_DIR) of the role that is asked",
    ),
    "token-expired": ("its clock is ahead of that of the {caller}", "set the clocks right"),
    "token-not-yet-valid": ("its clock is behind that of the {caller}", "set the clocks right"),
    "hop-certificate": (
        "it did not see the certificate of the {caller}",
        "roles that present certificates call roles that ask for them: HOLDFAST_TLS_CLIENTS",
    ),
}


class HopVerifier:
    """Verifies as one role; remembers what it has seen until it expires, so nothing runs twice."""

    def __init__(self, role: str, keys: TrustedKeys, clock: Clock) -> None:
        self._role = role
        self._verifier = Verifier(keys, clock)
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def verify(self, token: str, method: str, target: str, thumbprint: str = "") -> Hop:
        """What the token vouches for; ``thumbprint`` is that of the caller's certificate.

        Raises :class:`Unauthenticated` for anything that does not fit this very request. A caller
        with a certificate must be the one that the token is bound to, and a bound token is good for
        nobody without one.
        """
        now = self._clock.now()
        claims = self._verifier.verify(
            token, typ=TYPE, audience=self._role, require=("iss", "exp", "iat", "jti")
        )
        if claims["aud"] != self._role:
            raise Unauthenticated("cannot accept the hop: the token is for several roles")
        if claims.get("htm") != method.upper() or claims.get("htu") != target:
            raise Unauthenticated("cannot accept the hop: the token is for another request")
        if int(claims["exp"]) - int(claims["iat"]) > LIFETIME_SECONDS:
            raise Unauthenticated("cannot accept the hop: the token lives too long")
        if thumbprint not in _bound_to(claims):
            raise Unauthenticated(
                "cannot accept the hop: the token is not bound to the caller's certificate",
                code="hop-certificate",
                hint="roles that present certificates call roles that ask for them: "
                "HOLDFAST_TLS_CLIENTS",
            )
        self._once(f"{claims.get('iss')}:{claims['jti']}", float(claims["exp"]), now.timestamp())
        certificate = claims.get("crt")
        return Hop(
            str(claims["iss"]),
            _principal(claims),
            str(claims.get("bdg", EMPTY_BODY)),
            None if certificate is None else str(certificate),
        )

    def _once(self, token_id: str, expiry: float, now: float) -> None:
        while self._seen:
            oldest, ends = next(iter(self._seen.items()))
            if ends + 10 > now and len(self._seen) < SEEN_MAX:
                break
            del self._seen[oldest]
        if token_id in self._seen:
            raise Unauthenticated("cannot accept the hop: the token was used", code="hop-replayed")
        self._seen[token_id] = expiry


def _bound_to(claims: dict[str, Any]) -> tuple[str, ...]:
    """The thumbprints that the token is bound to; the empty one where it is bound to none."""
    confirmed = claims.get("cnf")
    if confirmed is None:
        return ("",)
    bound = confirmed.get("x5t#S256") if isinstance(confirmed, dict) else None
    found = tuple(each for each in bound if isinstance(each, str)) if bound else ()
    if not isinstance(bound, list) or not all(found):
        raise Unauthenticated("cannot accept the hop: what it is bound to cannot be read")
    return found


def _principal(claims: dict[str, object]) -> Principal | None:
    if "sub" not in claims:
        return None
    permissions = claims.get("prm")
    known = {permission.value: permission for permission in Permission}
    try:
        kind = PrincipalKind(str(claims.get("knd")))
    except ValueError as error:
        raise Unauthenticated("cannot accept the hop: an unknown kind of principal") from error
    if not isinstance(permissions, list) or not claims.get("ten"):
        raise Unauthenticated("cannot accept the hop: tenant or permissions are missing")
    profiles = claims.get("pfl")
    if profiles is not None and not isinstance(profiles, list):
        raise Unauthenticated("cannot accept the hop: its profiles are no list")
    return Principal(
        TenantId(str(claims["ten"])),
        str(claims["sub"]),
        kind,
        frozenset(known[name] for name in permissions if name in known),
        None if profiles is None else frozenset(map(str, profiles)),
        str(claims.get("crd", "")),
    )
