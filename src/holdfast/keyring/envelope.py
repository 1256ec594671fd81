"""The envelope: how every sealed byte of Holdfast is laid out. Pure; only `cryptography` inside.

::

    magic "HFE"  format 1  algorithm 1   5 bytes
    key id                              16 bytes
    nonce, random                       24 bytes
    commitment tag                      32 bytes
    ciphertext and its GCM tag      n + 16 bytes

The data key never encrypts anything itself. ``HKDF-SHA256(data key, salt=nonce, info=context)``
gives 64 bytes: a message key that is used once, with GCM's counter block at zero, so that nothing
wears out after 2³² messages as random 96-bit nonces do; and the *commitment tag*. AES-GCM alone
does not commit to its key: one ciphertext can be made to open under two. The tag comes out of a
hash of key, nonce and context, so it can be met by one of each only; it is checked first, and only
then is anything decrypted.

What a message is bound to (:class:`Context`) is encoded with lengths in front, so no two contexts
run together. It is GCM's additional data too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.kernel.errors import Corrupt, Internal

FORMAT: Final = "holdfast-envelope"
MAGIC: Final = b"HFE"
FORMAT_VERSION: Final = 1
ALGORITHM: Final = 1
"""AES-256-GCM under an HKDF-SHA256 message key, with an HMAC-SHA256 commitment."""

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
NONCE_BYTES: Final = 24
COMMITMENT_BYTES: Final = 32
TAG_BYTES: Final = 16
_HEAD: Final = MAGIC + bytes((FORMAT_VERSION, ALGORITHM))
_KEY_AT: Final = len(_HEAD)
_NONCE_AT: Final = _KEY_AT + KEY_ID_BYTES
_COMMITMENT_AT: Final = _NONCE_AT + NONCE_BYTES
_BODY_AT: Final = _COMMITMENT_AT + COMMITMENT_BYTES
OVERHEAD_BYTES: Final = _BODY_AT + TAG_BYTES
_COUNTER: Final = bytes(12)
"""GCM's counter block may be the same for all messages: no two have the same key."""

_SHA256: Final = SHA256()

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Context:
    """What a message is bound to; opening it under any other context fails.

    ``object_id`` names the thing (the event id, the record's row, the wrapped key), ``version`` its
    version where it has one.
    """

    tenant: str
    purpose: str
    object_id: str
    version: str = ""

    def encoded(self, key_id: bytes) -> bytes:
        """The additional data: format, algorithm, purpose, tenant, key, object and version."""
        return length_prefixed(
            FORMAT.encode(),
            bytes((FORMAT_VERSION, ALGORITHM)),
            self.purpose.encode(),
            self.tenant.encode(),
            key_id,
            self.object_id.encode(),
            self.version.encode(),
        )


def length_prefixed(*parts: bytes) -> bytes:
    """The parts, each behind its length in four bytes: no two sequences give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def seal(
    key: bytes, key_id: bytes, context: Context, plain: bytes, *, random: Random = os.urandom
) -> bytes:
    """``plain`` under the data key ``key``, bound to ``context``."""
    if len(key) != KEY_BYTES or len(key_id) != KEY_ID_BYTES:
        raise Internal("cannot seal: a data key has 32 bytes and its id 16")
    nonce = random(NONCE_BYTES)
    bound = context.encoded(key_id)
    message_key, commitment = _derive(key, nonce, bound)
    body = AESGCM(message_key).encrypt(_COUNTER, plain, bound)
    return b"".join((_HEAD, key_id, nonce, commitment, body))


def unseal(key: bytes, context: Context, sealed: bytes) -> bytes:
    """What :func:`seal` was given; ``Corrupt`` for anything that is not exactly its work.

    A flipped bit, another context, another key, a cut or lengthened envelope: all are ``Corrupt``,
    and none tells more than that.
    """
    key_id = key_id_of(sealed)
    if len(key) != KEY_BYTES:
        raise _refused("the key is not one")
    nonce = sealed[_NONCE_AT:_COMMITMENT_AT]
    bound = context.encoded(key_id)
    message_key, commitment = _derive(key, nonce, bound)
    if not bytes_eq(commitment, sealed[_COMMITMENT_AT:_BODY_AT]):
        raise _refused("it was not sealed by this key for this place, or was changed")
    try:
        return AESGCM(message_key).decrypt(_COUNTER, sealed[_BODY_AT:], bound)
    except InvalidTag as error:
        raise _refused("it was changed") from error


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that sealed it; ``Corrupt`` if this is no envelope of a known format."""
    if len(sealed) < OVERHEAD_BYTES or not bytes_eq(sealed[: len(MAGIC)], MAGIC):
        raise _refused("it is not an envelope, or is cut off")
    if sealed[: len(_HEAD)] != _HEAD:
        raise _refused("its format or algorithm is not known to this version")
    return bytes(sealed[_KEY_AT:_NONCE_AT])


def _derive(key: bytes, nonce: bytes, bound: bytes) -> tuple[bytes, bytes]:
    """The message key and the commitment tag: both belong to this key, nonce and context alone."""
    derived = HKDF(
        algorithm=_SHA256, length=KEY_BYTES + COMMITMENT_BYTES, salt=nonce, info=bound
    ).derive(key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _refused(reason: str) -> Corrupt:
    return Corrupt(f"cannot open what is sealed: {reason}", code="envelope-invalid")
