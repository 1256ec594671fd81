"""Signed tokens of others: compact JWS (RFC 7515) with claims (RFC 7519), under pinned keys.

What a token says of itself chooses nothing: each trusted key has exactly one algorithm, and the
token's ``alg`` must be that one before the key is touched (RFC 8725 §3.1, §3.2). A header that
brings a key, names an address to fetch one from, or marks anything critical is refused, and so is
a key set that mixes secrets with public keys.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey, import_key

from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.errors import Corrupt, Invalid, Unauthenticated

TOKEN_BYTES_MAX = 16 * 1024
SECRET_BYTES_MIN = 32
"""RFC 7518 §3.2: a key of at least the size of the hash output."""
RSA_BITS_MIN = 2048
LEEWAY_SECONDS = 60
KEYS_MAX = 100
PREFIX = "cannot use the key set: "

SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}
    | {"EdDSA", "Ed25519"}
)
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")
_HEADERS = frozenset({"alg", "typ", "kid", "cty"})
_KINDS = frozenset({"jwt", "at+jwt", "application/at+jwt", "jose"})

AnyKey = OctKey | RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key we trust, and the one algorithm it is used with."""

    kid: str
    algorithm: str
    key: AnyKey


def shared_secret(secret: bytes, algorithm: str = "HS256") -> TokenKey:
    """A secret both sides hold; :class:`Invalid` if it is too short to be one."""
    needed = max(SECRET_BYTES_MIN, int(algorithm[2:]) // 8)
    if len(secret) < needed:
        raise Invalid(
            f"cannot use the token secret: {algorithm} needs at least {needed} bytes",
            code="secret-too-short",
            hint="openssl rand -hex 32",
        )
    return TokenKey("", algorithm, OctKey.import_key(secret))


def key_set(document: Any) -> tuple[TokenKey, ...]:
    """The public keys of a JWK Set or a JWK (RFC 7517).

    Keys for encryption and of kinds we do not use are passed over. :class:`Corrupt` for what is no
    key set, for one that mixes secrets with public keys, and for keys that are too weak. (What is
    published is held to more: see ``jwks.public_keys``.)
    """
    found = [key for entry in entries_of(document) if (key := token_key(entry)) is not None]
    if not found:
        raise Corrupt("cannot use the key set: no key in it signs")
    if len({key.algorithm in SYMMETRIC for key in found}) > 1:
        raise Corrupt("cannot use the key set: it mixes secrets with public keys")
    named = [key.kid for key in found if key.kid]
    if len(named) != len(set(named)):
        raise Corrupt("cannot use the key set: two keys have one id")
    return tuple(found)


def entries_of(document: Any) -> list[Any]:
    """The entries of a JWK Set, or a JWK as the only one; :class:`Corrupt` for what is neither."""
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if entries is None and isinstance(document, Mapping) and "kty" in document:
        entries = [document]
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise Corrupt("cannot use the key set: it is none, or has over 100 keys")
    return entries


def token_key(entry: Any) -> TokenKey | None:
    """One JWK with its algorithm; nothing if it is not for signatures."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kty"), str):
        raise Corrupt("cannot use the key set: an entry is no key")
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig":
        return None
    if operations is not None and not isinstance(operations, list):
        raise Corrupt("cannot use the key set: what a key is for is no list")
    if operations is not None and "verify" not in operations and "sign" not in operations:
        return None
    algorithm = _algorithm_of(entry)
    if algorithm is None:
        return None
    _check_strength(entry, algorithm)
    try:
        key = import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise Corrupt("cannot use the key set: a key in it is broken") from error
    kid = entry.get("kid", "")
    if not isinstance(kid, str):
        raise Corrupt("cannot use the key set: a key's id is no text")
    return TokenKey(kid, algorithm, key)


def _algorithm_of(entry: Mapping[str, Any]) -> str | None:
    """The algorithm a key says, or the only sensible one of its kind."""
    said = entry.get("alg")
    if said is not None and not isinstance(said, str):
        raise Corrupt("cannot use the key set: a key's algorithm is no text")
    usual = {
        "oct": "HS256",
        "RSA": "RS256",
        "EC": _CURVES.get(str(entry.get("crv"))),
        "OKP": "EdDSA" if entry.get("crv") == "Ed25519" else None,
    }.get(str(entry.get("kty")))
    if said is None:
        return usual
    fits = {
        "oct": said in SYMMETRIC,
        "RSA": said[:2] in ("RS", "PS") and said in ASYMMETRIC,
        "EC": said == usual,
        "OKP": usual is not None and said in ("EdDSA", "Ed25519"),
    }
    return said if fits.get(str(entry.get("kty"))) else None


def _check_strength(entry: Mapping[str, Any], algorithm: str) -> None:
    if entry["kty"] == "RSA" and _bits(entry.get("n")) < RSA_BITS_MIN:
        raise Corrupt(f"cannot use the key set: an RSA key has under {RSA_BITS_MIN} bits")
    if entry["kty"] == "oct" and _bits(entry.get("k"), leading=True) < int(algorithm[2:]):
        raise Corrupt("cannot use the key set: a secret is too short")


def _bits(text: Any, *, leading: bool = False) -> int:
    """The bits of a base64url number, or of a secret, whose leading zeros count too."""
    if not isinstance(text, str):
        return 0
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return 0
    return len(data) * 8 if leading else int.from_bytes(data, "big").bit_length()


class _OneAlgorithm(jws.JWSRegistry):
    """Admits one algorithm. ``EdDSA`` is what providers still write for what RFC 9864 renamed, and
    the library warns of it at each use."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm])
        self._only = algorithm

    def get_alg(self, name: str) -> Any:
        if name != self._only:
            raise UnsupportedAlgorithmError("the algorithm is not the key's")
        return self.algorithms[name]


def verify_signature(token: str, keys: Sequence[TokenKey]) -> bytes:
    """The payload of ``token``, if one of ``keys`` signed it.

    Whatever is wrong, the answer is one :class:`Unauthenticated`.
    """
    match = _COMPACT.fullmatch(token) if len(token) <= TOKEN_BYTES_MAX else None
    if match is None:
        raise refused("it is not a compact JWS")
    for part in match.groups():
        if _spelled(part) != part:
            raise refused("it is not spelled canonically")
    header = _object(_decoded(match[1]), "header")
    chosen = _chosen(header, keys)
    registry = _OneAlgorithm(chosen.algorithm)
    try:
        return bytes(jws.deserialize_compact(token, chosen.key, registry=registry).payload)
    except (JoseError, ValueError, TypeError) as error:
        raise refused("the signature does not verify") from error


def kid_of(token: str) -> str | None:
    """The key that a token says it was signed with: good for looking it up, and nothing else."""
    return _said(token, "kid")


def algorithm_of(token: str) -> str | None:
    """The algorithm that a token says it was signed by: whose keys to hold it against."""
    return _said(token, "alg")


def _said(token: str, name: str) -> str | None:
    match = _COMPACT.fullmatch(token) if len(token) <= TOKEN_BYTES_MAX else None
    if match is None:
        raise refused("it is not a compact JWS")
    found = _object(_decoded(match[1]), "header").get(name)
    return found if isinstance(found, str) else None


def _chosen(header: Mapping[str, Any], keys: Sequence[TokenKey]) -> TokenKey:
    foreign = sorted(header.keys() - _HEADERS)
    if foreign:
        raise refused(f"its header has {', '.join(foreign)[:100]}")
    kind = header.get("typ", "jwt")
    if not isinstance(kind, str) or kind.lower() not in _KINDS:
        raise refused("it is a statement of another kind")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise refused("its key id is no text")
    fitting = [key for key in keys if key.algorithm == header.get("alg")]
    if kid is not None and any(key.kid for key in fitting):
        fitting = [key for key in fitting if key.kid == kid]
    if len(fitting) != 1:
        raise refused("no key that is trusted fits it")
    return fitting[0]


def verify_claims(
    token: str,
    keys: Sequence[TokenKey],
    *,
    now: datetime,
    issuer: str = "",
    audience: str = "",
    leeway: float = LEEWAY_SECONDS,
) -> dict[str, Any]:
    """The claims of ``token``, if a trusted key signed them and they hold ``now``.

    ``exp`` is required; ``nbf`` and ``iat`` are checked where they are present. ``issuer`` and
    ``audience``, when given, must be there and match.
    """
    # A moment may have a fraction (RFC 7519 §2, NumericDate).
    claims = _object(verify_signature(token, keys), "claims", fractions=True)
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, 0)
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            raise refused(f"its {name} is not a number of seconds")
    if "exp" not in claims:
        raise refused("it never ends")
    moment = now.timestamp()
    if moment >= claims["exp"] + leeway:
        raise refused("it is over", code="token-expired")
    if moment + leeway < max(claims.get("nbf", 0), claims.get("iat", 0)):
        raise refused("it is not valid yet", code="token-not-yet-valid")
    if issuer and claims.get("iss") != issuer:
        raise refused("its issuer is not the one expected")
    named = claims.get("aud")
    if audience and not (named == audience or (isinstance(named, list) and audience in named)):
        raise refused("it is for another audience")
    return claims


def refused(reason: str, *, code: str = "token-invalid") -> Unauthenticated:
    """Why a token signs nobody in."""
    return Unauthenticated(f"cannot accept the token: {reason}", code=code)


def _object(data: bytes, what: str, *, fractions: bool = False) -> dict[str, Any]:
    try:
        value = decode_strict(data, fractions=fractions)
    except Invalid as error:
        raise refused(f"its {what} is no JSON of ours: {error.detail}") from error
    if not isinstance(value, dict):
        raise refused(f"its {what} is not an object")
    return value


def _decoded(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise refused("it is not base64url") from error


def _spelled(text: str) -> str:
    return urlsafe_b64encode(_decoded(text)).rstrip(b"=").decode()


__all__ = [
    "TokenKey",
    "algorithm_of",
    "key_set",
    "kid_of",
    "refused",
    "shared_secret",
    "token_key",
    "verify_claims",
    "verify_signature",
]
