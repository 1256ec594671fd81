"""Tokens of others: the published vectors, and everything a token must not talk us into."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from holdfast.identity.jwks import public_keys
from holdfast.identity.tokens import (
    LEEWAY_SECONDS,
    TokenKey,
    key_set,
    shared_secret,
    verify_claims,
    verify_signature,
)
from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, Unauthenticated

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECRET = bytes(range(32))


# --- published vectors --------------------------------------------------------------------------

STRICTER = {
    # The key says PS256, the token PS384: a key has one algorithm (RFC 8725 §3.1).
    ("json_web_signature", 346),
    ("json_web_signature", 350),
    # The key's "alg" is ES521, which no specification knows.
    ("json_web_signature", 347),
    ("json_web_signature", 351),
    # A "?" in the middle of base64url, which RFC 7515 §2 does not admit.
    ("json_web_signature", 372),
    ("json_web_signature", 373),
}
"""Valid to others, refused by us, and why."""

NOT_AS_TOLD = {
    # The same bytes as a well-formed token: the padding that they speak of is not there.
    ("json_web_signature", 367),
    ("json_web_signature", 370),
    # A modulus of the ROCA weakness (CVE-2017-15361): nothing we build on looks for it.
    ("json_web_key", 7),
}
"""Invalid by the vectors, accepted by us, and why."""


def vectors() -> Path:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if not folder:
        pytest.skip("HOLDFAST_VECTORS names no folder of published vectors")
    return Path(folder)


def wycheproof(name: str) -> Iterator[tuple[int, str, Any, str]]:
    path = vectors() / "wycheproof" / "testvectors_v1" / f"{name}_test.json"
    for group in json.loads(path.read_bytes())["testGroups"]:
        for test in group["tests"]:
            key = group.get("public") or group["private"]
            yield test["tcId"], test["jws"], key, test["result"]


@pytest.mark.parametrize(("name", "count"), [("json_web_signature", 401), ("json_web_key", 26)])
def test_wycheproof(name: str, count: int) -> None:
    seen = 0
    for number, token, key, result in wycheproof(name):
        seen += 1
        try:
            verify_signature(token, key_set(key))
            found = "valid"
        except (Unauthenticated, Corrupt):
            found = "invalid"
        if (name, number) in STRICTER:
            assert (found, result) == ("invalid", "valid"), number
        elif (name, number) in NOT_AS_TOLD:
            assert (found, result) == ("valid", "invalid"), number
        else:
            assert found == result, number
    assert seen == count


COOKBOOK = (
    "4_1.rsa_v15_signature",
    "4_2.rsa-pss_signature",
    "4_3.ecdsa_signature",
    "4_4.hmac-sha2_integrity_protection",
)
OTHER_FORMS = (
    "4_5.signature_with_detached_content",
    "4_6.protecting_specific_header_fields",
    "4_7.protecting_content_only",
    "4_8.multiple_signatures",
)
"""JWS as JSON, or with its payload elsewhere: no token, so refused, good as the signatures are."""


@pytest.mark.parametrize("name", COOKBOOK)
def test_the_jose_cookbook(name: str) -> None:
    example = json.loads((vectors() / "jose-cookbook" / "jws" / f"{name}.json").read_bytes())
    key = {k: v for k, v in example["input"]["key"].items() if k != "d" or v is None}
    key["alg"] = example["input"]["alg"]
    token = example["output"]["compact"]
    assert verify_signature(token, key_set(key)).decode() == example["input"]["payload"]
    head, _, rest = token.partition(".")
    with pytest.raises(Unauthenticated):
        verify_signature(f"{head}.A{rest}", key_set(key))


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_the_jose_cookbook_s_other_forms_are_no_tokens(name: str) -> None:
    example = json.loads((vectors() / "jose-cookbook" / "jws" / f"{name}.json").read_bytes())
    keys = example["input"]["key"]
    found = key_set({"keys": keys} if isinstance(keys, list) else keys) if name[2] != "8" else KEYS
    output = example["output"]
    forms = [json.dumps(output[each]) for each in ("json", "json_flat") if each in output]
    for token in [*forms, *([output["compact"]] if "compact" in output else [])]:
        with pytest.raises(Unauthenticated):
            verify_signature(token, found)


@pytest.mark.parametrize(
    ("name", "algorithm", "published"),
    [
        ("3_1.ec_public_key", "ES512", True),
        ("3_2.ec_private_key", "ES512", False),
        ("3_3.rsa_public_key", "RS256", True),
        ("3_4.rsa_private_key", "RS256", False),
        ("3_5.symmetric_key_mac_computation", "HS256", False),
        ("3_6.symmetric_key_encryption", "", False),
    ],
)
def test_the_jose_cookbook_s_keys(name: str, algorithm: str, published: bool) -> None:
    """Whoever publishes a secret or a private key has let everybody sign: none of it is taken."""
    key = json.loads((vectors() / "jose-cookbook" / "jwk" / f"{name}.json").read_bytes())
    if algorithm:
        assert [found.algorithm for found in key_set(key)] == [algorithm]
    if published:
        assert len(public_keys({"keys": [key]})[0]) == 1
    else:
        assert public_keys({"keys": [key]})[0] == ()


# --- tokens of our own making -------------------------------------------------------------------


def signed(claims: Any, key: Any, algorithm: str, **header: Any) -> str:
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA by its old name is the point
        return jws.serialize_compact({"alg": algorithm, **header}, body, key, registry=registry)


def hs256(claims: Any, **header: Any) -> str:
    return signed(claims, OctKey.import_key(SECRET), "HS256", **header)


def claims(**changes: Any) -> dict[str, Any]:
    good = {"sub": "u1", "iss": "here", "aud": "holdfast", "exp": int(NOW.timestamp()) + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}


def macked(header: dict[str, Any], secret: bytes) -> str:
    """A token made by hand, for headers that no library writes."""
    parts = [
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, claims())
    ]
    mac = hmac.new(secret, ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, urlsafe_b64encode(mac).rstrip(b"=").decode()])


KEYS = (shared_secret(SECRET),)


def accepted(token: str, keys: tuple[TokenKey, ...] = KEYS) -> dict[str, Any]:
    return verify_claims(token, keys, now=NOW, issuer="here", audience="holdfast")


def test_a_good_token_is_accepted() -> None:
    assert accepted(hs256(claims()))["sub"] == "u1"
    assert accepted(hs256(claims(aud=["x", "holdfast"]), typ="JWT"))["sub"] == "u1"


AT = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": None}, "token-invalid"),
        ({"exp": "tomorrow"}, "token-invalid"),
        ({"exp": True}, "token-invalid"),
        ({"exp": AT - LEEWAY_SECONDS}, "token-expired"),
        ({"nbf": AT + LEEWAY_SECONDS + 1}, "token-not-yet-valid"),
        ({"iat": AT + LEEWAY_SECONDS + 1}, "token-not-yet-valid"),
        ({"iss": "elsewhere"}, "token-invalid"),
        ({"iss": None}, "token-invalid"),
        ({"aud": "other"}, "token-invalid"),
        ({"aud": None}, "token-invalid"),
        ({"aud": {"holdfast": 1}}, "token-invalid"),
    ],
)
def test_claims_that_do_not_hold(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Unauthenticated) as found:
        accepted(hs256(claims(**changes)))
    assert found.value.code == code


def test_clocks_may_differ_by_a_minute() -> None:
    assert accepted(hs256(claims(exp=AT - LEEWAY_SECONDS + 1)))
    assert accepted(hs256(claims(exp=AT + 600.25, iat=AT - 0.5))), "RFC 7519: seconds, or parts"
    assert accepted(hs256(claims(nbf=AT + LEEWAY_SECONDS)))


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5u": "https://evil.example"},
        {"b64": False},
        {"kid": 7},
        {"typ": "secevent+jwt"},
        {"typ": "holdfast-hop+jwt"},
    ],
)
def test_a_header_chooses_nothing(header: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        accepted(macked({"alg": "HS256", **header}, SECRET))


def test_no_algorithm_but_the_keys_own() -> None:
    rsa = RSAKey.generate_key(2048)
    public = key_set(rsa.as_dict(private=False) | {"kid": "r"})
    # The classic: the public key's text used as an HMAC secret.
    with pytest.raises(Unauthenticated):
        accepted(macked({"alg": "HS256", "kid": "r"}, rsa.as_pem(private=False)), public)
    with pytest.raises(Unauthenticated):
        accepted(signed(claims(), rsa, "RS384", kid="r"), public)
    assert accepted(signed(claims(), rsa, "RS256", kid="r"), public)
    none = urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    body = hs256(claims()).split(".")[1]
    for token in (f"{none}.{body}.", f"{none}.{body}.AAAA"):
        with pytest.raises(Unauthenticated):
            accepted(token)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ECKey.generate_key("P-256"), "ES256"),
        (ECKey.generate_key("P-384"), "ES384"),
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
    ],
)
def test_public_keys_of_every_kind(key: Any, algorithm: str) -> None:
    public = key_set({"keys": [key.as_dict(private=False) | {"kid": "a"}]})
    assert accepted(signed(claims(), key, algorithm, kid="a"), public)
    with pytest.raises(Unauthenticated):
        accepted(signed(claims(), key, algorithm, kid="../../a"), public)


def test_a_key_that_left_the_set_signs_nobody_in() -> None:
    old, new = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    public = key_set({"keys": [new.as_dict(private=False) | {"kid": "new"}]})
    assert accepted(signed(claims(), new, "ES256", kid="new"), public)
    with pytest.raises(Unauthenticated):
        accepted(signed(claims(), old, "ES256", kid="old"), public)
    with pytest.raises(Unauthenticated):
        accepted(signed(claims(), old, "ES256"), public)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"keys": []},
        {"keys": {}},
        {"keys": [7]},
        {"keys": [{"kty": "oct", "k": "c2hvcnQ"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]},
        {"keys": [{"kty": "EC", "crv": "secp256k1"}]},
        {"keys": [{"kty": "RSA", "e": "AQAB", "n": "_" * 170}]},
        {"keys": [OctKey.import_key(SECRET).as_dict(), ECKey.generate_key("P-256").as_dict()]},
        {"keys": [ECKey.generate_key("P-256").as_dict(private=False) | {"kid": "a"}] * 2},
    ],
)
def test_what_is_no_key_set_is_corrupt(document: Any) -> None:
    with pytest.raises(Corrupt):
        key_set(document)


def test_a_short_secret_is_refused_when_it_is_given() -> None:
    with pytest.raises(Invalid, match="32 bytes"):
        shared_secret(b"secret")


@given(st.data())
def test_any_change_to_a_token_is_refused(data: st.DataObject) -> None:
    token = hs256(claims())
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019_-.=/+ \u00e9"))
    changed = token[:place] + letter + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(Unauthenticated):
        accepted(changed)


@given(
    st.text(max_size=300)
    | st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}")
)
def test_whatever_comes_is_refused_as_one_kind(text: str) -> None:
    with pytest.raises(HoldfastError) as found:
        accepted(text)
    assert isinstance(found.value, Unauthenticated)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b'{"exp":1e400}',
        b'{"exp":NaN}',
        b'{"exp":9e9,"sub":"\\ud800"}',
        b'{"exp":9,"exp":99999999999}',
        b"\xff",
    ],
)
def test_a_payload_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Unauthenticated):
        accepted(hs256(body))
