"""The sealer that outbox, ledger and records are given: envelopes under the keyring's keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.outbox import Sealed, Unsealed
from holdfast.keyring.envelope import Context, key_id_of, seal, unseal
from holdfast.keyring.keyring import Keyring, destroyed
from holdfast.keyring.model import EVENTS

T = TypeVar("T")
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
        key = self._keyring.find(tenant, purpose, _key_of(sealed))
        return unseal(key.secret, Context(tenant, purpose, object_id), sealed.data)

    def erased(self, tenant: str, subjects: Collection[str]) -> set[str]:
        """Those of these tokens whose subjects this keyring has erased."""
        return self._keyring.erased(tenant, subjects)


class KeyringPeople:
    """See :class:`holdfast.ledger.ports.People`."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """``work`` in a thread of the keyring's own."""
        return await self._keyring.apart(work, *arguments)

    def named(self, tenant: str, names: Sequence[str]) -> list[str]:
        """Keyed names; nobody gets a key by that."""
        return self._keyring.subject_tokens(tenant, names)

    def erased(self, tenant: str, people: Collection[str]) -> set[str]:
        """Those of them who were erased."""
        return self._keyring.erased(tenant, people)

    def admit(self, tenant: str, people: Collection[str]) -> None:
        """Whoever has no key yet gets one, all of them in one transaction."""
        self._keyring.subject_keys(tenant, people, purpose=EVENTS)

    async def opened(
        self, tenant: str, purpose: str, sealed: Sequence[tuple[str, Sealed]]
    ) -> list[Unsealed | None]:
        """What each opens to; the keys of all of them in one transaction, in a thread."""
        ids = [_key_of(each) for _, each in sealed]
        if self._keyring.all_remembered(tenant, purpose, ids):
            return self._opened(tenant, purpose, sealed, ids)
        return await self._keyring.apart(self._opened, tenant, purpose, sealed, ids)

    def _opened(
        self,
        tenant: str,
        purpose: str,
        sealed: Sequence[tuple[str, Sealed]],
        ids: Sequence[bytes],
    ) -> list[Unsealed | None]:
        keys = self._keyring.find_owned(tenant, purpose, ids)
        found: list[Unsealed | None] = []
        for (object_id, each), key_id in zip(sealed, ids, strict=True):
            if key_id not in keys:
                found.append(None)
                continue
            key, owner = keys[key_id]
            plain = unseal(key.secret, Context(tenant, purpose, object_id), each.data)
            found.append(Unsealed(plain, owner))
        return found


def _key_of(sealed: Sealed) -> bytes:
    """The id of the key that sealed it; ``Corrupt`` if this version cannot tell."""
    if not sealed.algorithm.startswith(SCHEME):
        raise Corrupt(
            f"cannot unseal: {sealed.algorithm[:60]!r} is not a scheme of this version",
            code="envelope-invalid",
        )
    return key_id_of(sealed.data)
