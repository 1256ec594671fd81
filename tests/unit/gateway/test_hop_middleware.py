"""A role takes a principal from a fitting hop token and from nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.gateway.proxy import HopMiddleware, hop_principal
from holdfast.identity.hop import HEADER, HopSigner, HopVerifier
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.signing import SigningKey, TrustedKeys

KEY = SigningKey.from_seed(b"\x01" * 32)
BODY = b'{"a":1}'


async def call(token: str | None, body: bytes = BODY, **headers: str) -> Principal:
    """Who a role takes the caller for, after it has read the whole body."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    seen: list[Principal] = []

    async def role(scope: Any, receive: Any, send: Any) -> None:
        found = hop_principal(scope)
        await receive()
        seen.append(found)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    keys = TrustedKeys({"gateway": [KEY.public_jwk()]})
    given = [(k.encode(), v.encode()) for k, v in headers.items()]
    given += [(HEADER.encode(), token.encode())] if token is not None else []
    scope = {
        "type": "http", "method": "POST", "path": "/v1/x", "raw_path": b"/v1/x",
        "query_string": b"", "headers": given,
    }  # fmt: skip
    await HopMiddleware(role, HopVerifier("registry", keys, clock))(scope, receive, None)  # type: ignore[arg-type]
    return seen[0]


def token(body: bytes = BODY) -> str:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    signer = HopSigner("gateway", KEY, clock, id_source(clock))
    return signer.token("registry", operator(), "POST", "/v1/x", digest(body))


async def test_a_fitting_token_brings_its_principal() -> None:
    assert await call(token()) == operator()


async def test_without_a_token_no_header_makes_anybody_of_a_caller() -> None:
    with pytest.raises(Unauthenticated):
        await call(None, authorization="Bearer hfo_x", **{"x-principal": "operator"})


async def test_the_end_of_another_body_is_never_seen() -> None:
    with pytest.raises(Unauthenticated, match="another body"):
        await call(token(b"meant"), b"changed")
