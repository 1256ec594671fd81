"""Hop tokens: for one request, one role, once, for thirty seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.identity.hop import EMPTY_BODY, TYPE, Hop, HopSigner, HopVerifier
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import operator
from holdfast.kernel.signing import SigningKey, verify
from holdfast.kernel.trusted import TrustedFolder, TrustedKeys

GATEWAY = SigningKey.from_seed(b"\x01" * 32)
STRANGER = SigningKey.from_seed(b"\x02" * 32)


class Pair:
    """A signer and a verifier on one clock."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.new_id = id_source(self.clock)
        keys = TrustedKeys({"gateway": [GATEWAY.public_jwk()]})
        self.signer = HopSigner("gateway", GATEWAY, self.clock, self.new_id)
        self.verifier = HopVerifier("registry", keys, self.clock)

    def token(self, **changed: Any) -> str:
        request: dict[str, Any] = {
            "audience": "registry",
            "principal": operator(),
            "method": "POST",
            "target": "/v1/profiles?dry_run=true",
            "body": EMPTY_BODY,
        }
        return self.signer.token(**(request | changed))

    def verify(self, token: str, thumbprint: str = "") -> Hop:
        return self.verifier.verify(token, "POST", "/v1/profiles?dry_run=true", thumbprint)


def test_the_role_learns_who_asks_and_which_body_was_meant() -> None:
    pair = Pair()
    assert pair.verify(pair.token(body="sha256:x")) == Hop("gateway", operator(), "sha256:x")


def test_a_hop_without_a_caller_vouches_for_the_hop_only() -> None:
    pair = Pair()
    assert pair.verify(pair.token(principal=None)).principal is None


@pytest.mark.parametrize(
    "changed",
    [
        {"audience": "aggregator"},
        {"method": "DELETE"},
        {"target": "/v1/profiles"},
        {"target": "/v1/profiles?dry_run=true&x=1"},
    ],
)
def test_a_token_for_another_request_is_refused(changed: dict[str, str]) -> None:
    pair = Pair()
    with pytest.raises(Unauthenticated):
        pair.verify(pair.token(**changed))


def test_a_token_is_for_one_role_and_not_for_one_of_several() -> None:
    pair = Pair()
    for audience in (["registry"], ["registry", "ledger"]):
        with pytest.raises(Unauthenticated):
            pair.verify(pair.token(audience=audience))


def test_a_token_works_once() -> None:
    pair = Pair()
    token = pair.token()
    pair.verify(token)
    with pytest.raises(Unauthenticated, match="was used"):
        pair.verify(token)


def test_a_token_is_over_after_thirty_seconds() -> None:
    pair = Pair()
    token = pair.token()
    pair.clock.advance(40)
    with pytest.raises(Unauthenticated):
        pair.verify(token)


def test_a_strangers_signature_is_refused() -> None:
    pair = Pair()
    forged = HopSigner("gateway", STRANGER, pair.clock, pair.new_id)
    with pytest.raises(Unauthenticated):
        pair.verify(
            forged.token("registry", operator(), "POST", "/v1/profiles?dry_run=true", EMPTY_BODY)
        )


def test_a_token_that_claims_a_longer_life_is_refused() -> None:
    pair = Pair()
    now = int(pair.clock.now().timestamp())
    claims = {
        "iss": "gateway", "aud": "registry", "iat": now, "exp": now + 3600, "jti": pair.new_id(),
        "htm": "POST", "htu": "/v1/profiles?dry_run=true", "bdg": EMPTY_BODY,
    }  # fmt: skip
    with pytest.raises(Unauthenticated, match="too long"):
        pair.verify(GATEWAY.sign(claims, typ=TYPE))


def test_what_was_seen_is_forgotten_only_after_it_is_over() -> None:
    pair = Pair()
    first = pair.token()
    pair.verify(first)
    pair.clock.advance(20)
    pair.verify(pair.token())
    with pytest.raises(Unauthenticated):
        pair.verify(first)


def test_a_key_published_later_is_found(tmp_path: Path) -> None:
    pair = Pair()
    keys = TrustedFolder(tmp_path, pair.clock)
    verifier = HopVerifier("registry", keys, pair.clock)
    token = pair.token()
    with pytest.raises(Unauthenticated):
        verifier.verify(token, "POST", "/v1/profiles?dry_run=true")
    GATEWAY.write_public(tmp_path, "gateway")
    pair.clock.advance(2)
    assert verifier.verify(token, "POST", "/v1/profiles?dry_run=true").principal == operator()


def test_a_token_is_good_for_whoever_has_the_certificate_it_is_bound_to_and_for_nobody_else() -> (
    None
):
    pair = Pair()
    assert pair.verify(pair.token(thumbprint="own"), "own").principal == operator()
    for thumbprint in ("", "other"):
        with pytest.raises(Unauthenticated) as refused:
            pair.verify(pair.token(thumbprint="own"), thumbprint)
        assert refused.value.code == "hop-certificate"


def test_a_token_that_is_bound_to_nothing_is_no_use_to_a_caller_with_a_certificate() -> None:
    pair = Pair()
    with pytest.raises(Unauthenticated) as refused:
        pair.verify(pair.token(), "own")
    assert refused.value.code == "hop-certificate"


@pytest.mark.parametrize(
    "bound", [{}, {"x5t#S256": ""}, {"x5t#S256": "own"}, [], "own", {"jkt": 1}]
)
def test_what_a_token_is_bound_to_must_be_readable(bound: Any) -> None:
    pair = Pair()
    claims = verify(
        pair.token(thumbprint="own"),
        TrustedKeys({"gateway": [GATEWAY.public_jwk()]}),
        typ=TYPE,
        audience="registry",
        now=pair.clock.now(),
    )
    for thumbprint in ("own", ""):
        with pytest.raises(Unauthenticated):
            pair.verify(GATEWAY.sign(claims | {"cnf": bound}, typ=TYPE), thumbprint)


def test_the_certificate_that_the_caller_showed_is_told_of() -> None:
    pair = Pair()
    for shown in (None, "", "drone-1"):
        assert pair.verify(pair.token(certificate=shown)).certificate == shown
