"""Grants: what a claim entitles a worker to, as a statement the coordinator signed.

Whoever is shown one (the aggregator) needs the coordinator's public key and nothing else. The
grant says who may write to which run under which fence until when; whether a higher fence has come
meanwhile only the receiver's own rows can tell.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from holdfast.fleet.model import Grant
from holdfast.kernel.clock import Clock, parse_timestamp
from holdfast.kernel.errors import Denied, Unauthenticated
from holdfast.kernel.principal import Principal, PrincipalKind
from holdfast.kernel.signing import SigningKey, Verifier, verify
from holdfast.kernel.trusted import TrustedKeys

TYPE = "holdfast-grant+jwt"
ISSUER = "coordinator"
HEADER = "Holdfast-Grant"
CLAIMS = ("iss", "iat", "exp")


class GrantMismatch(Denied):
    """The grant is genuine and for something else: another run, fence, tenant or profile."""

    code = "grant-mismatch"


def sign_grant(key: SigningKey, grant: Grant, now: datetime) -> str:
    """``grant`` as a compact JWS that expires with the lease."""
    claims: dict[str, Any] = msgspec.to_builtins(grant)
    claims |= {
        "iss": ISSUER,
        "iat": int(now.timestamp()),
        "exp": math.ceil(parse_timestamp(grant.lease_expires_at).timestamp()),
    }
    return key.sign(claims, typ=TYPE)


def read_grant(token: str, keys: TrustedKeys, now: datetime) -> Grant:
    """The grant in ``token``; :class:`Unauthenticated` unless a coordinator signed it and it holds.

    An expired one has the code ``token-expired``: the holder's next beat brings a fresh grant or
    the news that the lease is lost.
    """
    return _grant_in(verify(token, keys, typ=TYPE, issuer=ISSUER, now=now, require=CLAIMS))


class Grants:
    """Reads the grants that others present, and holds each against who presents it for what.

    Whether a higher fence has come meanwhile only the run's row can tell.
    """

    def __init__(self, keys: TrustedKeys, clock: Clock) -> None:
        self._verifier = Verifier(keys, clock)

    def of(
        self, principal: Principal, token: str, run: str | None, fence: int | None = None
    ) -> Grant:
        """The grant in ``token``, if it is for this caller, run and fence (where they are named).

        ``Unauthenticated`` if it is no grant or is over; :class:`GrantMismatch` if it is another's.
        """
        if not token:
            raise Unauthenticated(
                f"cannot work on a run: the header {HEADER} is missing", code="grant-missing"
            )
        claims = self._verifier.verify(token, typ=TYPE, issuer=ISSUER, require=CLAIMS)
        grant = _grant_in(claims)
        about = "cannot work on a run" if run is None else f"cannot work on the run {run[:64]}"
        fits = grant.run == run or run is None
        if grant.tenant != principal.tenant or not fits or fence not in (None, grant.fence):
            raise GrantMismatch(f"{about}: the grant is for another run or fence")
        if principal.kind is PrincipalKind.WORKER and principal.subject != grant.worker:
            raise GrantMismatch(f"{about}: it is another worker's")
        return grant


def _grant_in(claims: dict[str, Any]) -> Grant:
    try:
        grant = msgspec.convert(claims, Grant)
        parse_timestamp(grant.lease_expires_at)
    except (msgspec.ValidationError, ValueError) as error:
        raise Unauthenticated(
            "cannot accept the grant: it does not say what a grant says", code="token-invalid"
        ) from error
    return grant
