"""Grants: what a claim entitles a worker to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from holdfast.fleet.grants import TYPE, read_grant, sign_grant
from holdfast.fleet.model import Grant
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.trusted import TrustedKeys
from tests.support.fleet import KEY, KEYS, START

GRANT = Grant(
    tenant="default",
    task="01970000-0000-7000-8000-000000000001",
    run="01970000-0000-7000-8000-000000000002",
    profile="rain",
    digest="sha256:" + "0" * 64,
    worker="01970000-0000-7000-8000-000000000003",
    fence=7,
    lease_expires_at=timestamp(START + timedelta(seconds=30)),
)


def test_what_was_granted_is_read_back() -> None:
    assert read_grant(sign_grant(KEY, GRANT, START), KEYS, START) == GRANT


def test_a_grant_ends_with_its_lease() -> None:
    token = sign_grant(KEY, GRANT, START)
    read_grant(token, KEYS, START + timedelta(seconds=34))
    with pytest.raises(Unauthenticated) as refusal:
        read_grant(token, KEYS, START + timedelta(seconds=36))
    assert refusal.value.code == "token-expired"


def test_only_a_coordinator_grants() -> None:
    other = SigningKey.from_seed(b"\x09" * 32)
    with pytest.raises(Unauthenticated):
        read_grant(sign_grant(other, GRANT, START), KEYS, START)
    gateway = TrustedKeys({"gateway": [KEY.public_jwk()]})
    with pytest.raises(Unauthenticated):
        read_grant(sign_grant(KEY, GRANT, START), gateway, START)


@pytest.mark.parametrize(
    "change",
    [{"fence": "7"}, {"fence": None}, {"run": None}, {"lease_expires_at": "later"}, {"tenant": 1}],
)
def test_a_signed_statement_that_is_no_grant_is_refused(change: dict[str, Any]) -> None:
    now = int(START.timestamp())
    claims = msgspec.to_builtins(GRANT) | {"iss": "coordinator", "iat": now, "exp": now + 30}
    with pytest.raises(Unauthenticated):
        read_grant(KEY.sign(claims | change, typ=TYPE), KEYS, START)
    missing = {name: value for name, value in claims.items() if name not in change}
    with pytest.raises(Unauthenticated):
        read_grant(KEY.sign(missing, typ=TYPE), KEYS, START)
