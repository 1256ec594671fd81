"""The sealer that outbox, ledger and records are given: envelopes under the keyring's keys."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.outbox import Sealed
from holdfast.keyring.envelope import Context, key_id_of, seal, unseal
from holdfast.keyring.keyring import Keyring, destroyed
from holdfast.keyring.model import EVENTS

SCHEME = "holdfast-envelope-1"


class EnvelopeSealer:
    """See :class:`holdfast.kernel.outbox.Sealer`.

    ``algorithm`` is ``holdfast-envelope-1:`` and the key's id, so that rows under a key can be
    found without opening them; the id that counts is the one inside, which the envelope is bound
    to.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        """``plain`` under the tenant's key for ``purpose``, or under the subject's own.

        ``subject`` is a subject's token. :class:`KeyDestroyed` if that subject is erased.
        """
        if subject:
            key = self._keyring.subject_keys(tenant, [subject], purpose=purpose)[subject]
            if key is None:
                raise destroyed()
        else:
            key = self._keyring.current(tenant, purpose)
        data = seal(key.secret, key.id, Context(tenant, purpose, object_id), plain)
        return Sealed(f"{SCHEME}:{key.id.hex()}", data)

    def unseal(self, tenant: str, purpose: str, object_id: str, sealed: Sealed) -> bytes:
        """The plain bytes; ``Corrupt`` if they are not this place's, ``KeyDestroyed`` if erased."""
        if not sealed.algorithm.startswith(SCHEME):
            raise Corrupt(
                f"cannot unseal: {sealed.algorithm[:60]!r} is not a scheme of this version",
                code="envelope-invalid",
            )
        key = self._keyring.find(tenant, purpose, key_id_of(sealed.data))
        return unseal(key.secret, Context(tenant, purpose, object_id), sealed.data)


class KeyringPeople:
    """See :class:`holdfast.ledger.ports.People`."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def named(self, tenant: str, names: Sequence[str]) -> list[str]:
        """Keyed names; whoever has no key yet gets one, all of them in one transaction."""
        tokens = self._keyring.subject_tokens(tenant, names)
        self._keyring.subject_keys(tenant, tokens, purpose=EVENTS)
        return tokens

    def about(self, tenant: str, sealed: Sealed) -> str:
        """Whose own key the bytes are sealed under."""
        return self._keyring.subject_of(tenant, key_id_of(sealed.data))
