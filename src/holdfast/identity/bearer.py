"""From a verified token of others to a principal of ours."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast.identity.jwks import KeySets
from holdfast.identity.model import ROLES
from holdfast.identity.tokens import (
    ASYMMETRIC,
    LEEWAY_SECONDS,
    TokenKey,
    algorithm_of,
    kid_of,
    refused,
    verify_claims,
)
from holdfast.kernel.clock import Clock
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId, is_name
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

SUBJECT_BYTES_MAX = 255


class BearerTokens:
    """Signs in whoever holds a token that a trusted key signed.

    Claims: ``sub`` (required) says who; ``tenant`` where (the default tenant if absent); ``roles``
    or ``role`` and ``permissions`` what they may do. Roles of other systems are passed over; a
    token that names none of ours has ``default_role``. Only an opaque name made of ``iss`` and
    ``sub`` under ``naming`` goes further: subjects are often e-mail addresses, and events are for
    ever. With ``seconds_max`` a token may not end later than that from now.
    """

    def __init__(
        self,
        keys: Sequence[TokenKey] | KeySets,
        naming: bytes,
        clock: Clock,
        *,
        issuer: str = "",
        audience: str = "",
        default_role: str = "viewer",
        seconds_max: int = 0,
    ) -> None:
        self._keys = keys if isinstance(keys, KeySets) else tuple(keys)
        self._naming = naming
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._default = ROLES[default_role]
        self._seconds_max = seconds_max

    async def principal(self, token: str) -> Principal:
        """Who the token speaks for; raises :class:`Unauthenticated`, or :class:`Unavailable` when
        nobody can tell, because the keys are published elsewhere and cannot be had."""
        keys = self._keys
        if isinstance(keys, KeySets):
            keys = await keys.keys(kid_of(token))
        now = self._clock.now()
        claims = verify_claims(token, keys, now=now, issuer=self._issuer, audience=self._audience)
        if self._seconds_max and (
            claims["exp"] > now.timestamp() + self._seconds_max + LEEWAY_SECONDS
        ):
            raise refused(f"it ends later than {self._seconds_max} seconds from now")
        subject, tenant = claims.get("sub"), claims.get("tenant", DEFAULT_TENANT)
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_BYTES_MAX:
            raise refused("it says of nobody that it is theirs")
        if not isinstance(tenant, str) or not is_name(tenant):
            raise refused("its tenant is no name of one")
        name = self._name(str(claims.get("iss", "")), subject)
        return Principal(
            TenantId(tenant),
            name,
            PrincipalKind.FOREIGN,
            self._granted(claims),
            None,
            f"token:{name}",
        )

    def _granted(self, claims: Mapping[str, Any]) -> frozenset[Permission]:
        named = [*_texts(claims.get("roles")), *_texts(claims.get("role"))]
        found: set[Permission] = set()
        for role in named:
            found |= ROLES.get(role, frozenset())
        admitted = {permission.value: permission for permission in ROLES["admin"]}
        found |= {admitted[n] for n in _texts(claims.get("permissions")) if n in admitted}
        return frozenset(found) or self._default

    def _name(self, issuer: str, subject: str) -> str:
        text = f"{len(issuer)}:{issuer}{subject}".encode()
        return f"t-{hmac.new(self._naming, text, hashlib.sha256).hexdigest()[:32]}"


class Tokens(Protocol):
    """What signs in whoever holds a token."""

    async def principal(self, token: str) -> Principal:
        """See :meth:`BearerTokens.principal`."""
        ...


class TokensOfBoth:
    """Tokens under a shared secret and tokens under published keys, at one door.

    A token's algorithm chooses between the two before any key is looked at, so that what everybody
    can read is never taken for a secret, and a secret's token never waits for a published key.
    """

    def __init__(self, secret: Tokens, published: Tokens) -> None:
        self._secret = secret
        self._published = published

    async def principal(self, token: str) -> Principal:
        """See :meth:`BearerTokens.principal`."""
        chosen = self._published if algorithm_of(token) in ASYMMETRIC else self._secret
        return await chosen.principal(token)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
