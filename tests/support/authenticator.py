"""An authenticator in software: honest, or wrong in one way."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Raw

UP, UV, AT = 1, 4, 64


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """One passkey, at one origin."""

    def __init__(self, origin: str, rp_id: str, number: int = 1) -> None:
        self.origin = origin
        self.rp_id = rp_id
        self.key = ec.derive_private_key(7919 * number, ec.SECP256R1())
        self.identity = hashlib.sha256(f"passkey {number}".encode()).digest()
        self.counter = 0
        self.handle = b""

    def _client_data(self, kind: str, options: dict[str, Any], wrong: dict[str, Any]) -> bytes:
        found = {
            "type": f"webauthn.{kind}",
            "challenge": options["challenge"],
            "origin": self.origin,
            "crossOrigin": False,
        }
        return json.dumps(found | wrong).encode()

    def _head(self, flags: int, rp_id: str) -> bytes:
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4)

    def make(self, options: Raw, **wrong: Any) -> Raw:
        """What ``navigator.credentials.create`` answers."""
        asked = json.loads(bytes(options))
        self.handle = unb64(asked["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
        flags = wrong.pop("flags", UP | UV | AT)
        head = self._head(flags, wrong.pop("rp_id", self.rp_id))
        size = len(self.identity).to_bytes(2)
        data = head + bytes(16) + size + self.identity + cbor2.dumps(cose)
        response = {
            "clientDataJSON": b64(self._client_data("create", asked, wrong)),
            "attestationObject": b64(cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})),
        }
        return self._credential(response)

    def use(self, options: Raw, **wrong: Any) -> Raw:
        """What ``navigator.credentials.get`` answers."""
        asked = json.loads(bytes(options))
        handle = wrong.pop("handle", self.handle)
        key = wrong.pop("signer", self.key)
        head = self._head(wrong.pop("flags", UP | UV), wrong.pop("rp_id", self.rp_id))
        client = self._client_data("get", asked, wrong)
        signed = head + hashlib.sha256(client).digest()
        response = {
            "clientDataJSON": b64(client),
            "authenticatorData": b64(head),
            "signature": b64(key.sign(signed, ec.ECDSA(hashes.SHA256()))),
            "userHandle": b64(handle) if handle else None,
        }
        return self._credential(response)

    def _credential(self, response: dict[str, Any]) -> Raw:
        identity = b64(self.identity)
        found = {"id": identity, "rawId": identity, "type": "public-key", "response": response}
        return Raw(json.dumps(found).encode())
