"""The envelope: what it binds, what it refuses, and the published vectors of what it is made of."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import Corrupt, HoldfastError, Internal
from holdfast.keyring import envelope
from holdfast.keyring.envelope import (
    KEY_ID_BYTES,
    OVERHEAD_BYTES,
    Context,
    _derive,
    key_id_of,
    length_prefixed,
    seal,
    unseal,
)
from holdfast.records import receipt

KEY, KEY_ID = bytes(range(32)), bytes(range(16))
HERE = Context("default", "record", "profile/7", "1")
contexts = st.builds(Context, *(st.text("ab/_é🝰", max_size=6) for _ in range(4)))


def fixed(size: int) -> bytes:
    return bytes(size)


@given(plain=st.binary(max_size=300), context=contexts)
def test_what_is_sealed_comes_out_again(plain: bytes, context: Context) -> None:
    sealed = seal(KEY, KEY_ID, context, plain)
    assert unseal(KEY, context, sealed) == plain
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert key_id_of(sealed) == KEY_ID


@given(data=st.data())
@settings(max_examples=300)
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, KEY_ID, HERE, b"plain text"))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(Corrupt):
        unseal(KEY, HERE, bytes(sealed))


def test_every_single_bit_counts() -> None:
    sealed = seal(KEY, KEY_ID, HERE, b"x")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(Corrupt):
            unseal(KEY, HERE, bytes(changed))


@given(here=contexts, there=contexts)
def test_no_other_context_opens_it(here: Context, there: Context) -> None:
    sealed = seal(KEY, KEY_ID, here, b"plain")
    if here == there:
        assert unseal(KEY, there, sealed) == b"plain"
        return
    with pytest.raises(Corrupt):
        unseal(KEY, there, sealed)


def test_parts_that_run_together_are_told_apart() -> None:
    sealed = seal(KEY, KEY_ID, Context("t", "p", "a_b", "c"), b"plain")
    for other in (Context("t", "p", "a", "b_c"), Context("tp", "", "a_b", "c")):
        with pytest.raises(Corrupt):
            unseal(KEY, other, sealed)
    assert length_prefixed(b"ab", b"c") != length_prefixed(b"a", b"bc")


@given(length=st.integers(0, OVERHEAD_BYTES + 4), more=st.binary(max_size=3))
def test_a_cut_or_lengthened_envelope_is_refused(length: int, more: bytes) -> None:
    sealed = seal(KEY, KEY_ID, HERE, b"plain")
    for changed in (sealed[:length], sealed + (more or b"\0")):
        with pytest.raises(Corrupt):
            unseal(KEY, HERE, changed)


@given(junk=st.binary(max_size=200))
def test_junk_is_refused_and_nothing_else_leaks(junk: bytes) -> None:
    with pytest.raises(HoldfastError) as raised:
        unseal(KEY, HERE, junk)
    assert raised.value.code == "envelope-invalid"


@pytest.mark.parametrize("key", [bytes(32), b"", bytes(31), bytes(64)])
def test_no_other_key_opens_it(key: bytes) -> None:
    with pytest.raises(Corrupt):
        unseal(key, HERE, seal(KEY, KEY_ID, HERE, b"plain"))


def test_the_id_of_another_key_is_refused() -> None:
    sealed = seal(KEY, KEY_ID, HERE, b"plain")
    moved = sealed[:5] + os.urandom(KEY_ID_BYTES) + sealed[5 + KEY_ID_BYTES :]
    with pytest.raises(Corrupt):
        unseal(KEY, HERE, moved)


def test_the_commitment_is_checked_before_anything_is_decrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ciphertext that opens under two keys of GCM is stopped by the tag that fits one only."""
    sealed = seal(KEY, KEY_ID, HERE, b"plain")

    def never(*_: Any) -> bytes:
        raise AssertionError("decrypted before the commitment was checked")

    monkeypatch.setattr("holdfast.keyring.envelope.AESGCM", never)
    with pytest.raises(Corrupt):
        unseal(bytes(32), HERE, sealed)


def test_two_envelopes_of_one_text_have_nothing_in_common() -> None:
    first, second = (seal(KEY, KEY_ID, HERE, bytes(64))[5 + KEY_ID_BYTES :] for _ in range(2))
    assert not any(first[i : i + 8] == second[i : i + 8] for i in range(len(first) - 8))


def test_the_layout_is_the_one_that_is_written_down() -> None:
    """Rebuilt here from RFC 5869 by hand, so that it cannot change unseen."""
    sealed = seal(KEY, KEY_ID, HERE, b"plain", random=fixed)
    bound = length_prefixed(
        b"holdfast-envelope", b"\x01\x01", b"record", b"default", KEY_ID, b"profile/7", b"1"
    )
    pseudorandom = hmac.digest(bytes(24), KEY, hashlib.sha256)
    one = hmac.digest(pseudorandom, bound + b"\x01", hashlib.sha256)
    two = hmac.digest(pseudorandom, one + bound + b"\x02", hashlib.sha256)
    body = AESGCM(one).encrypt(bytes(12), b"plain", bound)
    assert sealed == b"HFE\x01\x01" + KEY_ID + bytes(24) + two + body


def test_a_key_of_another_length_is_a_defect_of_ours() -> None:
    with pytest.raises(Internal):
        seal(b"short", KEY_ID, HERE, b"plain")


# --- the published vectors of the primitives ------------------------------------------------------


def vectors(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if not folder:
        pytest.skip("HOLDFAST_VECTORS is not set: no published vectors to check against")
    path = Path(folder) / "wycheproof" / "testvectors_v1" / f"{name}_test.json"
    for group in json.loads(path.read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, test


def test_wycheproof_aes_gcm() -> None:
    seen = {"valid": 0, "invalid": 0}
    for group, test in vectors("aes_gcm"):
        if group["ivSize"] < 64 or group["ivSize"] > 1024:
            # Nonces that no message of ours has; the library refuses them.
            assert group["ivSize"] != 96
            continue
        raw = {name: bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")}
        sealed = raw["ct"] + raw["tag"]
        if test["result"] == "valid":
            assert AESGCM(raw["key"]).decrypt(raw["iv"], sealed, raw["aad"]) == raw["msg"]
            assert AESGCM(raw["key"]).encrypt(raw["iv"], raw["msg"], raw["aad"]) == sealed
        else:
            with pytest.raises((InvalidTag, ValueError)):
                AESGCM(raw["key"]).decrypt(raw["iv"], sealed, raw["aad"])
        seen[test["result"]] += 1
    assert seen["valid"] > 200
    assert seen["invalid"] > 30


def test_wycheproof_hkdf() -> None:
    count = 0
    for _, test in vectors("hkdf_sha256"):
        count += 1
        salt = bytes.fromhex(test["salt"]) or None
        info = bytes.fromhex(test["info"])
        if test["result"] != "valid":
            with pytest.raises(ValueError):
                HKDF(SHA256(), test["size"], salt, info).derive(bytes.fromhex(test["ikm"]))
            continue
        derived = HKDF(SHA256(), test["size"], salt, info).derive(bytes.fromhex(test["ikm"]))
        assert derived.hex() == test["okm"]
    assert count == 86


def test_wycheproof_hmac() -> None:
    count = 0
    for group, test in vectors("hmac_sha256"):
        count += 1
        mac = HMAC(bytes.fromhex(test["key"]), SHA256())
        mac.update(bytes.fromhex(test["msg"]))
        found = mac.copy().finalize()[: group["tagSize"] // 8]
        assert (found.hex() == test["tag"]) is (test["result"] == "valid")
        if group["tagSize"] == 256 and test["result"] != "valid":
            with pytest.raises(InvalidSignature):
                mac.verify(bytes.fromhex(test["tag"]))
    assert count == 174


def test_wycheproof_hkdf_through_our_own_derivation() -> None:
    """All of the envelope's parameters: a key of 32 bytes, 64 bytes derived (or the first of them).

    Ours takes whatever salt and info it is given; so does this.
    """
    count = 0
    for _, test in vectors("hkdf_sha256"):
        ikm, okm = bytes.fromhex(test["ikm"]), bytes.fromhex(test["okm"])
        if test["result"] == "valid" and test["size"] <= 64:
            made = b"".join(_derive(ikm, bytes.fromhex(test["salt"]), bytes.fromhex(test["info"])))
            assert made[: test["size"]] == okm, test["tcId"]
            count += 1
    assert count > 60


def test_wycheproof_aes_gcm_through_our_own_unsealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vector of AES-256-GCM with a nonce of 96 bits, as the body of an envelope of ours.

    The message key, GCM's counter block and the additional data are the vector's; the layout, the
    commitment and what is made of the outcome are what is served.
    """
    outcomes = {"valid": 0, "invalid": 0}
    for group, test in vectors("aes_gcm"):
        if (group["keySize"], group["ivSize"]) != (256, 96):
            continue
        raw = {name: bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")}

        def derived(*_: bytes, key: bytes = raw["key"]) -> tuple[bytes, bytes]:
            return key, bytes(32)

        with monkeypatch.context() as patch:
            patch.setattr(envelope, "_derive", derived)
            patch.setattr(envelope, "_COUNTER", raw["iv"])
            patch.setattr(Context, "encoded", lambda *_, aad=raw["aad"]: aad)
            body = raw["ct"] + raw["tag"]
            sealed = b"HFE\x01\x01" + KEY_ID + bytes(24) + bytes(32) + body
            if test["result"] == "valid":
                assert unseal(KEY, HERE, sealed) == raw["msg"], test["tcId"]
                assert seal(KEY, KEY_ID, HERE, raw["msg"], random=fixed) == sealed, test["tcId"]
            else:
                with pytest.raises(Corrupt):
                    unseal(KEY, HERE, sealed)
        outcomes[test["result"]] += 1
    assert outcomes == {"valid": 39, "invalid": 27}


def test_wycheproof_hmac_through_the_commitment_of_a_receipt() -> None:
    """A receipt's commitment is HMAC-SHA256 of what is shown under a salt of 32 bytes."""
    outcomes = {"valid": 0, "invalid": 0}
    for group, test in vectors("hmac_sha256"):
        if (group["keySize"], group["tagSize"]) == (256, 256):
            made = receipt._mac(test["key"], bytes.fromhex(test["msg"]))
            assert (made == test["tag"]) is (test["result"] == "valid"), test["tcId"]
            outcomes[test["result"]] += 1
    assert outcomes == {"valid": 27, "invalid": 54}


RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e"
        "590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]
"""RFC 5869, appendix A.1 to A.3."""


@pytest.mark.parametrize(("ikm", "salt", "info", "size", "okm"), RFC_5869)
def test_rfc_5869(ikm: str, salt: str, info: str, size: int, okm: str) -> None:
    made = HKDF(SHA256(), size, bytes.fromhex(salt) or None, bytes.fromhex(info))
    assert made.derive(bytes.fromhex(ikm)).hex() == okm


RFC_4231 = [
    (
        "0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        b"Jefe".hex(),
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        "aa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        "aa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]
"""RFC 4231, test cases 1, 2, 3 and 6."""


@pytest.mark.parametrize(("key", "message", "tag"), RFC_4231)
def test_rfc_4231(key: str, message: bytes, tag: str) -> None:
    mac = HMAC(bytes.fromhex(key), SHA256())
    mac.update(message)
    assert mac.finalize().hex() == tag
    assert hmac.digest(bytes.fromhex(key), message, hashlib.sha256).hex() == tag
