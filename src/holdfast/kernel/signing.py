"""Signed statements: compact JWS (RFC 7515) with Ed25519, and nothing else.

The algorithm is pinned to the fully specified name ``Ed25519`` (RFC 9864, which retires the
ambiguous ``EdDSA`` of RFC 8037): a token that names any other is refused before a key is touched.
The header says ``alg``, ``typ`` and ``kid`` (the key's RFC 7638 thumbprint), no more and no less;
the kind of statement is in ``typ``, so that a token made for one purpose never serves another.

Whoever verifies holds the public keys of the issuers it trusts; the key id leads to the issuer and
the token's ``iss`` must be that issuer. Whatever is wrong with a token, the answer is one
:class:`Unauthenticated`; a broken key *file* is :class:`Corrupt`.
"""

from __future__ import annotations

import hashlib
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Conflict, Corrupt, Invalid, Unauthenticated
from holdfast.kernel.files import write_new
from holdfast.kernel.trusted import (
    PUBLIC_SUFFIX,
    Jwk,
    TrustedKeys,
    is_key,
    is_text32,
    read_public,
)

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey
    from joserfc.jws import JWSRegistry

ALGORITHM = "Ed25519"
TOKEN_BYTES_MAX = 16 * 1024
LEEWAY_SECONDS = 5

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{86})")


class SigningKey:
    """An Ed25519 private key. One role holds one; it never leaves the process or its file."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        x = _segment(private.public_key().public_bytes_raw()).decode("ascii")
        self._public: Jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
        self._headers: dict[str, bytes] = {}
        self.kid = _segment(hashlib.sha256(canonical(self._public)).digest()).decode("ascii")

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of 32 secret bytes (RFC 8032's private key)."""
        if len(seed) != 32:
            raise Corrupt("cannot make a signing key: 32 bytes are needed")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load_or_create(cls, path: Path, random: Callable[[int], bytes] = os.urandom) -> SigningKey:
        """Read the key at ``path``; make one there, mode 0600, if there is none.

        The file is complete and durable, or absent, if the process dies here; it is never
        overwritten, and when two processes race the first one's key is both's. Raises
        :class:`Corrupt` when the file holds something else or others may read it.
        """
        if not path.exists():
            write_private(path, canonical(_private_jwk(random(32))))
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read the key at ``path``; :class:`Corrupt` if it is absent, broken or not private."""
        try:
            jwk = decode_strict(read_private(path))
        except Invalid as error:
            raise Corrupt(f"cannot use the signing key: {path} is not a JWK") from error
        if not is_key(jwk) or not is_text32(jwk.get("d")):
            raise Corrupt(f"cannot use the signing key: {path} is not an Ed25519 private key")
        key = cls.from_seed(urlsafe_b64decode(f"{jwk['d']}="))
        if key.public_jwk()["x"] != jwk["x"]:
            raise Corrupt(
                f"cannot use the signing key: the halves in {path} do not belong together"
            )
        return key

    def public_jwk(self) -> Jwk:
        """The public half, as it is handed to whoever shall trust this key."""
        return {**self._public, "kid": self.kid}

    def write_public(self, directory: Path, issuer: str) -> Path:
        """Leave the public half as ``<issuer>.pub.jwk``, unless it is there, alone or in a set.

        ``Conflict`` (``issuer-taken``) if others' keys are there: whoever trusts those would trust
        them no more, and a second system that began in the folder of a first would end it.
        """
        path = directory / f"{issuer}{PUBLIC_SUFFIX}"
        directory.mkdir(parents=True, exist_ok=True)
        own = canonical(self.public_jwk()) + b"\n"
        # Of several that begin at once one is first, and the others see it.
        if not path.exists() and write_new(path, own, 0o644):
            return path
        there = read_public(path, issuer)
        if any(isinstance(jwk, dict) and jwk.get("x") == self._public["x"] for jwk in there):
            return path
        raise Conflict(
            f"cannot use {directory} as the {issuer}: {path.name} there is of another",
            code="issuer-taken",
            hint="each system has a HOLDFAST_TRUST_DIR of its own, and all that play one role "
            f"in it share its keys (HOLDFAST_KEYS_DIR); if the other {issuer} is gone for good, "
            f"remove {path} and start again",
        )

    def public_bytes(self) -> bytes:
        """The public half as 32 bytes (RFC 8032)."""
        return self._private.public_key().public_bytes_raw()

    def sign_bytes(self, data: bytes) -> bytes:
        """The bare Ed25519 signature of ``data``, for formats that are not JWS.

        Whoever calls sees to it that such data can be nothing else: a note's text ends in a line
        break, which no JWS does.
        """
        return self._private.sign(data)

    def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        """A compact JWS of ``claims`` as a statement of kind ``typ``.

        Raises :class:`Invalid` for claims that have no canonical form (fractions, say).
        """
        header = self._headers.get(typ)
        if header is None:
            header = _segment(canonical({"alg": ALGORITHM, "kid": self.kid, "typ": typ}))
            self._headers[typ] = header
        signed = header + b"." + _segment(canonical(dict(claims)))
        return (signed + b"." + _segment(self._private.sign(signed))).decode("ascii")


@cache
def _registry() -> JWSRegistry:
    from joserfc.jws import JWSRegistry

    return JWSRegistry(algorithms=[ALGORITHM])


def verify(
    token: str,
    keys: TrustedKeys,
    *,
    typ: str,
    now: datetime,
    audience: str | None = None,
    issuer: str | None = None,
    leeway: float = LEEWAY_SECONDS,
    require: Sequence[str] = ("iss", "exp"),
) -> dict[str, Any]:
    """The claims of ``token``, if a trusted issuer signed them as a ``typ`` that holds ``now``.

    ``iss`` must be the issuer whose key signed (and ``issuer``, when given); ``aud`` must be or
    contain ``audience``, when given. ``exp``, ``nbf`` and ``iat`` are checked wherever they are
    present, ``leeway`` seconds generous; what ``require`` names must be present. Everything that
    is wrong raises :class:`Unauthenticated`, however malformed the token is.
    """
    match = _COMPACT.fullmatch(token) if len(token) <= TOKEN_BYTES_MAX else None
    if match is None:
        raise _refused("it is not a compact JWS with an Ed25519 signature")
    # Whoever only signs, as a drone does, need not carry the library that verifies.
    from joserfc import jws
    from joserfc.errors import JoseError

    signer, key = _signer(match[1], keys, typ)
    try:
        payload = jws.deserialize_compact(token, key, registry=_registry()).payload
    except (JoseError, ValueError) as error:
        raise _refused("the signature does not verify") from error
    # A signature has one spelling: the last character of its text carries four unused bits.
    if urlsafe_b64encode(urlsafe_b64decode(f"{match[3]}==")).rstrip(b"=").decode() != match[3]:
        raise _refused("the signature is not spelled canonically")
    claims = _object(payload, "claims")
    _check_parties(claims, signer, issuer, audience)
    _check_times(claims, now.timestamp(), leeway)
    missing = [name for name in require if name not in claims]
    if missing:
        raise _refused(f"{', '.join(missing)} is missing")
    return claims


class Verifier:
    """:func:`verify`, which looks for new keys before refusing for good.

    Roles start in any order: the signer's key may have been published after ours were read. Whoever
    sends what nobody signed makes us read the folder once a second, if it is as it was. And a key
    that was taken out ends: nothing is accepted under what was read ``REREAD_SECONDS`` ago.
    """

    def __init__(self, keys: TrustedKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._reload_after = -1.0

    def verify(
        self,
        token: str,
        *,
        typ: str,
        audience: str | None = None,
        issuer: str | None = None,
        require: Sequence[str] = ("iss", "exp"),
    ) -> dict[str, Any]:
        """The claims of ``token``; see :func:`verify`."""
        self._keys.look()

        def claims() -> dict[str, Any]:
            return verify(
                token,
                self._keys,
                typ=typ,
                now=self._clock.now(),
                audience=audience,
                issuer=issuer,
                require=require,
            )

        try:
            return claims()
        except Unauthenticated:
            if self._clock.monotonic() < self._reload_after and not self._keys.outdated():
                raise
            self._reload_after = self._clock.monotonic() + 1.0
            self._keys.reread()
            return claims()


def _signer(segment: str, keys: TrustedKeys, typ: str) -> tuple[str, OKPKey]:
    try:
        header = _object(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)), "header")
    except ValueError as error:
        raise _refused("its header is not base64url") from error
    if header.keys() != {"alg", "typ", "kid"}:
        raise _refused("its header is not alg, typ and kid")
    if header["alg"] != ALGORITHM:
        raise _refused(f"its algorithm is not {ALGORITHM}")
    if header["typ"] != typ:
        raise _refused(f"it is not a {typ}")
    found = keys.find(header["kid"]) if isinstance(header["kid"], str) else None
    if found is None:
        raise _refused("no trusted issuer has its key")
    return found


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = decode_strict(data)
    except Invalid as error:
        raise _refused(f"its {what} is not JSON in the restricted form") from error
    if not isinstance(value, dict):
        raise _refused(f"its {what} is not an object")
    return value


def _check_parties(
    claims: dict[str, Any], signer: str, issuer: str | None, audience: str | None
) -> None:
    if claims.get("iss") != signer or issuer not in (None, signer):
        raise _refused("its issuer is not the one that signed, or not the one expected")
    if audience is None:
        return
    named = claims.get("aud")
    if not (named == audience or (isinstance(named, list) and audience in named)):
        raise _refused("it is for another audience")


def _check_times(claims: dict[str, Any], now: float, leeway: float) -> None:
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, 0)
        if isinstance(moment, bool) or not isinstance(moment, int):
            raise _refused(f"its {name} is not a number of seconds")
    if "exp" in claims and now >= claims["exp"] + leeway:
        raise _refused("it is over", code="token-expired")
    if now + leeway < max(claims.get("nbf", 0), claims.get("iat", 0)):
        raise _refused("it is not valid yet", code="token-not-yet-valid")


def _segment(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _refused(reason: str, *, code: str = "token-invalid") -> Unauthenticated:
    return Unauthenticated(f"cannot accept the token: {reason}", code=code)


# --- key files ----------------------------------------------------------------------------------


def _private_jwk(seed: bytes) -> Jwk:
    d = urlsafe_b64encode(seed).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": _public_of(d), "d": d}


def _public_of(d: str) -> str:
    private = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(f"{d}="))
    return urlsafe_b64encode(private.public_key().public_bytes_raw()).rstrip(b"=").decode()


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner may read; :class:`Corrupt` if others may, too."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise Corrupt(
            f"cannot use the key file: others may read {path}",
            hint=f"chmod 600 {path}; if it may have leaked, replace the key",
        )
    return data


def write_private(path: Path, data: bytes) -> None:
    """Write a new file, mode 0600, durable when this returns; leave it alone if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, data + b"\n")  # if another process was first, its key counts


__all__ = [
    "ALGORITHM",
    "SigningKey",
    "Verifier",
    "read_private",
    "verify",
    "write_private",
]
