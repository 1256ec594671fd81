"""A refusal is noted by one door: the one whose caller it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.gateway.audit import DoorAudit
from holdfast.gateway.proxy import HopMiddleware
from holdfast.identity.audit import Trail
from holdfast.identity.hop import EMPTY_BODY, HEADER, HopSigner, HopVerifier
from holdfast.identity.notebook import AuditNote
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Denied, Exhausted, HoldfastError, Unauthenticated
from holdfast.kernel.http.door import answer
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import operator
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.trusted import TrustedKeys

PATH = "/v1/ledger/entries"
LONG = str(10**6)
CLOCK = ManualClock(datetime(2026, 11, 28, tzinfo=UTC))
NEW_ID = id_source(CLOCK)
KEYS = {name: SigningKey.from_seed(bytes([n]) * 32) for n, name in enumerate(("gateway", "other"))}


class Ledger:
    """The ledger's door, which takes callers of its own, and what it noted."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self._trail = Trail(self._record, CLOCK, NEW_ID)
        self._audit = DoorAudit(self._trail)
        keys = TrustedKeys({name: [key.public_jwk()] for name, key in KEYS.items()})
        self._verifier = HopVerifier("ledger", keys, CLOCK)

    async def _record(self, notes: Sequence[AuditNote]) -> None:
        self.told += [(note.code, note.count) for note in notes]

    async def noted(
        self, token: str, refusal: HoldfastError, body: bytes = b"", length: str = ""
    ) -> list[tuple[str, int]]:
        """What it has noted once it refused a request so, unless the token was refused before."""
        statuses: list[int] = []

        async def role(scope: Any, receive: Any, send: Any) -> None:
            error = refusal
            try:
                await receive()
            except Unauthenticated as found:
                error = found
            await answer(scope, send, error, "r")

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": [
                (HEADER.encode(), token.encode()),
                (b"content-length", (length or str(len(body))).encode()),
            ],
        }  # fmt: skip
        await HopMiddleware(role, self._verifier)(scope, receive, send)
        [status] = statuses
        self._audit.exchange(scope, status)
        await self._trail.flush()
        return self.told


def token(by: str, body: str = EMPTY_BODY) -> str:
    return HopSigner(by, KEYS[by], CLOCK, NEW_ID).token("ledger", operator(), "POST", PATH, body)


@pytest.mark.parametrize("refusal", [Denied("no", code="x"), Exhausted("no", code="x")])
async def test_what_came_by_the_gateway_is_noted_there_alone(refusal: HoldfastError) -> None:
    assert await Ledger().noted(token("gateway"), refusal) == []


async def test_what_another_role_was_refused_is_noted_here() -> None:
    assert await Ledger().noted(token("other"), Denied("no", code="x")) == [("x", 1)]


async def test_a_hop_that_only_says_that_it_is_the_gateway_s_is_noted_here() -> None:
    ledger, good = Ledger(), token("gateway")
    assert await ledger.noted(good[:-86] + "A" * 86, Denied("no")) == [("token-invalid", 1)]
    assert len(await ledger.noted(good, Denied("no"))) == 1
    assert (await ledger.noted(good, Denied("no")))[1:] == [("hop-replayed", 1)]


@pytest.mark.parametrize("length", ["", LONG])
async def test_another_body_under_a_hop_of_the_gateway_is_noted_here(length: str) -> None:
    """Whoever took the token on its way sent it: the gateway knows nothing of that."""
    taken = token("gateway", digest(b"meant"))
    told = await Ledger().noted(taken, Denied("no"), b"changed", length)
    assert told == [("unauthenticated", 1)]
