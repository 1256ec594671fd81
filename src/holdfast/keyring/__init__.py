"""The keyring: envelopes, the keys that make them, and the erasure of a subject. See the README."""

from holdfast.keyring.envelope import Context, seal, unseal
from holdfast.keyring.errors import KeyDestroyed, SubjectHeld, SubjectRetained
from holdfast.keyring.keyring import Keyring, open_keyring
from holdfast.keyring.master import MasterKeys
from holdfast.keyring.sealer import EnvelopeSealer

__all__ = [
    "Context",
    "EnvelopeSealer",
    "KeyDestroyed",
    "Keyring",
    "MasterKeys",
    "SubjectHeld",
    "SubjectRetained",
    "open_keyring",
    "seal",
    "unseal",
]
