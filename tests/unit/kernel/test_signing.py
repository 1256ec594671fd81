"""Signed statements: what verifies, and that everything else is one kind of refusal."""

from __future__ import annotations

import json
import os
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from holdfast.fleet import proofs
from holdfast.kernel.errors import Conflict, Corrupt, Invalid, Unauthenticated
from holdfast.kernel.signing import SigningKey, verify
from holdfast.kernel.trusted import TrustedKeys
from holdfast.ledger.errors import NoteRefused
from holdfast.ledger.notes import VerifierKey
from holdfast.records import receipt
from holdfast.records.receipt import ReceiptRefused
from tests.support.verifier import ask as second_verifier
from tests.support.verifier import encoded

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYP = "holdfast-test+jwt"
KEY = SigningKey.from_seed(b"\x01" * 32)
OTHER = SigningKey.from_seed(b"\x02" * 32)
KEYS = TrustedKeys({"coordinator": [KEY.public_jwk()], "gateway": [OTHER.public_jwk()]})

# RFC 8037, appendix A.1–A.3
RFC8037_SEED = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC8037_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC8037_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def claims(**more: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    return {"iss": "coordinator", "aud": "aggregator", "iat": now, "exp": now + 30} | more


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], body: dict[str, Any]) -> str:
    """A token with any header at all over a signature that fits it."""
    signing_input = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    private = KEY._private
    return f"{signing_input}.{b64(private.sign(signing_input.encode()))}"


def test_what_was_signed_verifies_and_names_its_claims() -> None:
    token = KEY.sign(claims(fence=7), typ=TYP)
    read = verify(token, KEYS, typ=TYP, now=NOW, audience="aggregator", issuer="coordinator")
    assert read["fence"] == 7


def test_the_key_of_rfc_8037_has_its_public_half_and_thumbprint() -> None:
    key = SigningKey.from_seed(urlsafe_b64decode(f"{RFC8037_SEED}="))
    assert key.public_jwk()["x"] == RFC8037_PUBLIC
    assert key.kid == RFC8037_THUMBPRINT


@pytest.mark.parametrize(
    ("change", "arguments", "code"),
    [
        ({"exp": int(NOW.timestamp()) - 6}, {}, "token-expired"),
        ({"nbf": int(NOW.timestamp()) + 6}, {}, "token-not-yet-valid"),
        ({"iat": int(NOW.timestamp()) + 6}, {}, "token-not-yet-valid"),
        ({"exp": True}, {}, "token-invalid"),
        ({"exp": "soon"}, {}, "token-invalid"),
        ({"aud": "reporter"}, {}, "token-invalid"),
        ({"aud": ["reporter"]}, {}, "token-invalid"),
        ({"iss": "gateway"}, {}, "token-invalid"),
        ({"iss": None}, {}, "token-invalid"),
        ({}, {"issuer": "gateway"}, "token-invalid"),
        ({}, {"typ": "holdfast-other+jwt"}, "token-invalid"),
        ({}, {"require": ("exp", "jti")}, "token-invalid"),
    ],
)
def test_claims_that_do_not_fit_are_refused(
    change: dict[str, Any], arguments: dict[str, Any], code: str
) -> None:
    token = KEY.sign(claims(**change), typ=TYP)
    with pytest.raises(Unauthenticated) as refusal:
        verify(token, KEYS, now=NOW, **({"typ": TYP, "audience": "aggregator"} | arguments))
    assert refusal.value.code == code


def test_times_are_five_seconds_generous_and_no_more() -> None:
    token = KEY.sign(claims(), typ=TYP)
    verify(token, KEYS, typ=TYP, now=NOW + timedelta(seconds=34))
    verify(token, KEYS, typ=TYP, now=NOW - timedelta(seconds=5))
    for moment in (NOW + timedelta(seconds=35), NOW - timedelta(seconds=6)):
        with pytest.raises(Unauthenticated):
            verify(token, KEYS, typ=TYP, now=moment)


def test_a_missing_expiry_is_refused_unless_it_is_not_required() -> None:
    token = KEY.sign({"iss": "coordinator"}, typ=TYP)
    with pytest.raises(Unauthenticated):
        verify(token, KEYS, typ=TYP, now=NOW)
    assert verify(token, KEYS, typ=TYP, now=NOW, require=())


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": TYP, "kid": KEY.kid},
        {"alg": "EdDSA", "typ": TYP, "kid": KEY.kid},
        {"alg": "HS256", "typ": TYP, "kid": KEY.kid},
        {"alg": "Ed25519", "typ": TYP},
        {"alg": "Ed25519", "typ": TYP, "kid": OTHER.kid},
        {"alg": "Ed25519", "typ": TYP, "kid": ["x"]},
        {"alg": "Ed25519", "typ": TYP, "kid": KEY.kid, "crit": ["x"], "x": 1},
        {"alg": "Ed25519", "typ": TYP, "kid": KEY.kid, "jwk": KEY.public_jwk()},
    ],
)
def test_a_header_other_than_ours_is_refused_though_the_signature_fits(
    header: dict[str, Any],
) -> None:
    assert verify(
        forged({"alg": "Ed25519", "typ": TYP, "kid": KEY.kid}, claims()), KEYS, typ=TYP, now=NOW
    )
    with pytest.raises(Unauthenticated):
        verify(forged(header, claims()), KEYS, typ=TYP, now=NOW)


def test_a_repeated_claim_is_refused() -> None:
    head = b64(json.dumps({"alg": "Ed25519", "typ": TYP, "kid": KEY.kid}).encode())
    body = b64(b'{"iss":"coordinator","exp":9999999999,"exp":1}')
    private = KEY._private
    token = f"{head}.{body}.{b64(private.sign(f'{head}.{body}'.encode()))}"
    with pytest.raises(Unauthenticated):
        verify(token, KEYS, typ=TYP, now=NOW)


@given(st.integers(min_value=0), st.sampled_from("AZaz09-_.=+/ \u00e9"))
def test_no_changed_character_verifies(position: int, character: str) -> None:
    token = KEY.sign(claims(), typ=TYP)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        with pytest.raises(Unauthenticated):
            verify(changed, KEYS, typ=TYP, now=NOW)


@given(st.text(max_size=300))
def test_whatever_text_is_presented_the_answer_is_unauthenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(text, KEYS, typ=TYP, now=NOW)


def test_no_published_jws_vector_passes_for_ours() -> None:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if folder is None:
        pytest.skip("HOLDFAST_VECTORS does not name the published vectors")
    found = json.loads(
        next(Path(folder).rglob("json_web_signature_test.json")).read_text(encoding="utf-8")
    )
    tests = [test for group in found["testGroups"] for test in group["tests"]]
    assert len(tests) > 300
    for test in tests:
        token = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
        with pytest.raises(Unauthenticated):
            verify(token, KEYS, typ=TYP, now=NOW)


def test_signatures_agree_with_the_published_ed25519_vectors() -> None:
    """With every verifier there is: tokens, notes, a drone's batches and proofs, the second one."""
    folder = os.environ.get("HOLDFAST_VECTORS")
    if folder is None:
        pytest.skip("HOLDFAST_VECTORS does not name the published vectors")
    from joserfc.jws import JWSRegistry

    algorithm = JWSRegistry(algorithms=["Ed25519"]).get_alg("Ed25519")
    path = next(Path(folder).rglob("ed25519_test.json"))
    expected: list[bool] = []
    questions: list[dict[str, str]] = []
    for group in json.loads(path.read_text(encoding="utf-8"))["testGroups"]:
        raw = bytes.fromhex(group["publicKey"]["pk"])
        key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": b64(raw)})
        named = VerifierKey("vectors.example", raw)
        for test in group["tests"]:
            said, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            valid = test["result"] == "valid"
            accepted = {
                "tokens": algorithm.verify(said, signature, key),
                "notes": not _refuses(partial(named.check_bytes, said, signature)),
                "proofs": proofs._verifies(raw.hex(), signature, said),
                "receipts": not _refuses(
                    partial(receipt._check_signature, raw, signature.hex(), said)
                ),
            }
            assert set(accepted.values()) == {valid}, (test["comment"], accepted)
            expected.append(valid)
            questions.append(
                {
                    "ask": "signed",
                    "key": named.text(),
                    "text": encoded(said),
                    "signature": encoded(signature),
                }
            )
    assert [answer["found"] for answer in second_verifier(questions)] == expected
    assert {True, False} == set(expected)
    assert len(expected) > 140


def _refuses(check: Callable[[], object]) -> bool:
    try:
        check()
    except (NoteRefused, ReceiptRefused):
        return True
    return False


# --- files --------------------------------------------------------------------------------------


def test_a_key_file_is_made_once_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "coordinator.key"
    first = SigningKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert SigningKey.load_or_create(path).kid == first.kid
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["coordinator.key"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"not json",
        b'{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}',
        json.dumps(
            {"kty": "OKP", "crv": "Ed25519", "x": RFC8037_PUBLIC, "d": b64(b"\x01" * 32)}
        ).encode(),
    ],
)
def test_a_broken_key_file_stops_and_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "coordinator.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Corrupt):
        SigningKey.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.key"
    SigningKey.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(Corrupt, match="others may read"):
        SigningKey.load(path)


def test_who_comes_second_takes_nobodys_place(tmp_path: Path) -> None:
    KEY.write_public(tmp_path, "gateway")
    before = (tmp_path / "gateway.pub.jwk").read_bytes()
    KEY.write_public(tmp_path, "gateway")
    with pytest.raises(Conflict) as refused:
        OTHER.write_public(tmp_path, "gateway")
    assert refused.value.code == "issuer-taken"
    assert (tmp_path / "gateway.pub.jwk").read_bytes() == before
    both = json.dumps({"keys": [KEY.public_jwk(), OTHER.public_jwk()]})
    (tmp_path / "gateway.pub.jwk").write_text(both, encoding="utf-8")
    OTHER.write_public(tmp_path, "gateway")
    assert (tmp_path / "gateway.pub.jwk").read_text(encoding="utf-8") == both


def test_of_several_that_begin_at_once_one_takes_the_place(tmp_path: Path) -> None:
    keys = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 5)]

    def begin(key: SigningKey, directory: Path, ready: Barrier) -> SigningKey | None:
        ready.wait(timeout=30)
        try:
            key.write_public(directory, "gateway")
        except Conflict:
            return None
        return key

    with ThreadPoolExecutor(len(keys)) as pool:
        for number in range(5):
            directory, ready = tmp_path / str(number), Barrier(len(keys))
            begun = [pool.submit(begin, key, directory, ready) for key in keys]
            [first] = [key for each in begun if (key := each.result()) is not None]
            there = json.loads((directory / "gateway.pub.jwk").read_bytes())
            assert there["kid"] == first.kid


def test_claims_without_a_canonical_form_are_not_signed() -> None:
    with pytest.raises(Invalid):
        KEY.sign({"weight": 0.5}, typ=TYP)
