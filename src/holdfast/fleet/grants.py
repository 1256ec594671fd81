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
from holdfast.kernel.clock import parse_timestamp
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.signing import SigningKey, TrustedKeys, verify

TYPE = "holdfast-grant+jwt"
ISSUER = "coordinator"
HEADER = "Holdfast-Grant"


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
    claims = verify(token, keys, typ=TYPE, issuer=ISSUER, now=now, require=("iss", "iat", "exp"))
    try:
        grant = msgspec.convert(claims, Grant)
        parse_timestamp(grant.lease_expires_at)
    except (msgspec.ValidationError, ValueError) as error:
        raise Unauthenticated(
            "cannot accept the grant: it does not say what a grant says", code="token-invalid"
        ) from error
    return grant
