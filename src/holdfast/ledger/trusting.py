"""What somebody elsewhere believes of a log, and a checkpoint they kept, checked by that. Pure.

A *policy* (``holdfast ledger trust``) names a log's origins and keys. Whoever has one can check a
checkpoint that was kept outside without asking anybody.
"""

from __future__ import annotations

import msgspec

from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.ledger.errors import NoteRefused
from holdfast.ledger.model import KeyInfo, Trust
from holdfast.ledger.notes import ED25519, Checkpoint, VerifierKey, open_note, parse_checkpoint

TRUST_BYTES_MAX = 4 * 1024 * 1024


class TrustInvalid(Invalid):
    """The policy file cannot be used."""

    code = "trust-invalid"


def decode_trust(data: bytes) -> Trust:
    """The policy in ``data``; :class:`TrustInvalid` if it is none."""
    try:
        if len(data) > TRUST_BYTES_MAX:
            raise TrustInvalid("cannot use the policy file: it is too large")
        trust = msgspec.convert(decode_strict(data), Trust)
        if trust.format != 1 or not trust.keys or not trust.tenant:
            raise TrustInvalid(
                "cannot use the policy file: it names no keys, or is of another format"
            )
        for key in trust.keys:
            known = VerifierKey.parse(key.key)
            named = known.name == key.origin and key.origin in trust.origins
            if not named or known.algorithm != ED25519:
                raise TrustInvalid(
                    f"cannot use the policy file: {key.key[:80]} is no key of its origin"
                )
    except TrustInvalid:
        raise
    except (Invalid, Corrupt, msgspec.ValidationError) as error:
        raise TrustInvalid(
            f"cannot use the policy file: {error}", hint="make one: holdfast ledger trust > FILE"
        ) from error
    return trust


def trusted_checkpoint(note: str, trust: Trust) -> Checkpoint:
    """The checkpoint, if a key signed it that the policy trusts for that size; ``NoteRefused``."""
    keys = [(info, VerifierKey.parse(info.key)) for info in trust.keys]
    opened, signers = open_note(note, [key for _, key in keys])
    said = parse_checkpoint(opened.text)
    info = next(info for info, key in keys if key == signers[0])
    if said.origin != info.origin or said.origin not in trust.origins:
        raise NoteRefused("the checkpoint is signed by the key of another log")
    _check_span(info, said.size)
    return said


def _check_span(info: KeyInfo, size: int) -> None:
    if size < info.valid_from or (info.valid_to is not None and size > info.valid_to):
        until = "on" if info.valid_to is None else f"to {info.valid_to}"
        raise NoteRefused(
            f"the checkpoint has the size {size}, and the key that signed it is valid from size "
            f"{info.valid_from} {until}"
        )
