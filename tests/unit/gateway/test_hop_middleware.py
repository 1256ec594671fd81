"""A role takes a principal from a fitting hop token and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.gateway.proxy import HopMiddleware, hop_principal
from holdfast.identity.hop import HEADER, REFUSED, HopSigner, HopVerifier
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.trusted import TrustedKeys

KEY = SigningKey.from_seed(b"\x01" * 32)
BODY = b'{"a":1}'


@dataclass
class Seen:
    """What came of a request."""

    principals: list[Principal] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    called: bool = False


async def call(
    token: str | None, body: bytes = BODY, *, reads: bool = True, declared: bool = True,
    breaks_off: bool = False, path: str = "/v1/x", **headers: str,
) -> Seen:  # fmt: skip
    """Ask a role, whose handler reads the body or does not look at it."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    seen = Seen()

    async def role(scope: Any, receive: Any, send: Any) -> None:
        seen.called = True
        seen.principals.append(hop_principal(scope))
        if reads:
            seen.bodies.append((await receive())["body"])

    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": breaks_off},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.statuses.append(message["status"])
            seen.refused += [v.decode() for k, v in message["headers"] if k == REFUSED.encode()]

    keys = TrustedKeys({"gateway": [KEY.public_jwk()]})
    given = [(k.encode(), v.encode()) for k, v in headers.items()]
    given += [(HEADER.encode(), token.encode())] if token is not None else []
    given += [(b"content-length", str(len(body)).encode())] if declared else []
    given += [] if declared else [(b"transfer-encoding", b"chunked")]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": given,
    }  # fmt: skip
    await HopMiddleware(role, HopVerifier("registry", keys, clock))(scope, receive, send)
    return seen


def token(body: bytes = BODY, path: str = "/v1/x") -> str:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    signer = HopSigner("gateway", KEY, clock, id_source(clock))
    return signer.token("registry", operator(), "POST", path, digest(body))


@pytest.mark.parametrize("declared", [True, False])
async def test_a_fitting_token_brings_its_principal_and_the_body(declared: bool) -> None:
    seen = await call(token(), declared=declared)
    assert (seen.principals, seen.bodies, seen.statuses) == ([operator()], [BODY], [])


async def test_without_a_token_no_header_makes_anybody_of_a_caller() -> None:
    seen = await call(None, authorization="Bearer hfo_x", **{"x-principal": "operator"})
    assert (seen.principals, seen.statuses) == ([], [401])


@pytest.mark.parametrize("reads", [True, False])
async def test_another_short_body_reaches_no_handler_whether_it_reads_it_or_not(
    reads: bool,
) -> None:
    seen = await call(token(b"meant"), b"changed", reads=reads)
    assert (seen.principals, seen.statuses) == ([], [401])


async def test_the_end_of_another_body_of_unknown_length_is_never_seen() -> None:
    with pytest.raises(Unauthenticated, match="another body"):
        await call(token(b"meant"), b"changed", declared=False)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_short_body_that_breaks_off_reaches_no_handler(reads: bool) -> None:
    seen = await call(token(b"meant to be longer"), b"meant", reads=reads, breaks_off=True)
    assert (seen.called, seen.statuses) == (False, [401])


async def test_a_token_that_is_not_taken_is_said_to_be_the_reason() -> None:
    forged = token()[:-86] + "A" * 86
    assert (await call(forged)).refused == ["token-invalid"]
    assert (await call(None)).refused == ["unauthenticated"]
    assert (await call(token(b"meant"), b"changed", reads=False)).refused == []


@pytest.mark.parametrize("path", ["/ready", "/health"])
async def test_a_probe_is_answered_whatever_its_token_and_told_of_one_that_is_not_taken(
    path: str,
) -> None:
    async def ready(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def answered(presented: list[str]) -> list[tuple[int, list[Any]]]:
        found: list[tuple[int, list[Any]]] = []

        async def send(message: Any) -> None:
            found.append((message["status"], message["headers"]))

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [(HEADER.encode(), t.encode()) for t in presented],
        }  # fmt: skip
        clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        keys = TrustedKeys({"gateway": [KEY.public_jwk()]})
        await HopMiddleware(ready, HopVerifier("registry", keys, clock))(scope, None, send)  # type: ignore[arg-type]
        return found

    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    signer = HopSigner("gateway", KEY, clock, id_source(clock))
    good = signer.token("registry", None, "GET", path, digest(b""))
    assert await answered([]) == [(200, [])]
    assert await answered([good]) == [(200, [])]
    told = [(REFUSED.encode(), b"token-invalid")]
    assert await answered([good[:-86] + "A" * 86]) == [(200, told)]


async def test_another_body_is_refused_where_no_hop_is_needed_too() -> None:
    """What has been taken off it is gone: the handler would wait for it."""
    seen = await call(token(b"meant", "/metrics"), b"changed", path="/metrics")
    assert (seen.called, seen.statuses) == (False, [401])
