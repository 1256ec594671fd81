"""Blobs beside the database: raw responses, report files, documents.

An object is durable before the row that names it commits; a crash in between leaves an object that
no row names, which :class:`~holdfast.kernel.objects.orphans.OrphanSweep` removes a day later.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.kernel.errors import Invalid, NotFound
from holdfast.kernel.objects.driver import ObjectDriver, Source, StoredObject
from holdfast.kernel.principal import Principal
from holdfast.kernel.secrets import TenantSecrets

ORPHAN_AGE = timedelta(days=1)


class Objects:
    """A tenant's objects, named by the digest of what they are.

    The stored name is a keyed digest: whoever reads the folder or the bucket can neither tell
    tenants' names nor whether a known text is stored. One digest, one object: putting it again is
    harmless and changes nothing, so callers repeat freely.
    """

    def __init__(self, driver: ObjectDriver, secrets: TenantSecrets) -> None:
        self._driver = driver
        self._secrets = secrets

    def name(self, principal: Principal, digest: str) -> str:
        """The stored name of ``digest`` (``sha256:`` and 64 digits) for this tenant."""
        algorithm, separator, digits = digest.partition(":")
        if algorithm != "sha256" or not separator or len(digits) != 64:
            raise Invalid("cannot name an object: a sha256 digest is needed")
        try:
            raw = bytes.fromhex(digits)
        except ValueError as error:
            raise Invalid("cannot name an object: a sha256 digest is needed") from error
        key = self._secrets.derive(principal.tenant, "object-names")
        text = hmac.new(key, raw, hashlib.sha256).hexdigest()
        return f"{self.prefix(principal)}/{text[:2]}/{text}"

    def prefix(self, principal: Principal) -> str:
        """The folder of this tenant."""
        return self._secrets.derive(principal.tenant, "object-prefix").hex()[:32]

    async def put_bytes(self, principal: Principal, digest: str, data: bytes) -> bool:
        """Store ``data`` as the object of ``digest``; durable on return. False: it was there.

        ``data`` may be an encoding (compressed, sealed) of what ``digest`` is the digest of.
        ``Unavailable`` if it cannot be stored: then nothing is.
        """
        return await self._driver.put(self.name(principal, digest), data)

    async def put_file(self, principal: Principal, digest: str, path: Path) -> bool:
        """As :meth:`put_bytes`, from a file that nobody changes meanwhile; memory stays flat."""
        return await self._driver.put(self.name(principal, digest), path)

    async def put_stream(
        self, principal: Principal, digest: str, chunks: AsyncIterator[bytes]
    ) -> bool:
        """As :meth:`put_bytes`, from a stream; if the stream raises, nothing is stored."""
        return await self._driver.put(self.name(principal, digest), chunks)

    async def read(
        self, principal: Principal, digest: str, *, start: int = 0, length: int | None = None
    ) -> bytes:
        """The object's bytes, or a range of them; ``NotFound`` if there is none."""
        chunks = self.stream(principal, digest, start=start, length=length)
        return b"".join([chunk async for chunk in chunks])

    def stream(
        self, principal: Principal, digest: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """The object's bytes in chunks; ``NotFound`` at the first if there is none."""
        if start < 0 or (length is not None and length < 0):
            raise Invalid("cannot read an object: the range is negative")
        return self._driver.get(self.name(principal, digest), start, length)

    def stored(self, name: str) -> AsyncIterator[bytes]:
        """The bytes under a stored name, as :meth:`scan` tells it; for whoever copies them all."""
        return self._driver.get(name, 0, None)

    async def known(self, name: str) -> StoredObject | None:
        """What lies under a stored name, or None; see :meth:`stored`."""
        return await self._driver.head(name)

    async def head(self, principal: Principal, digest: str) -> StoredObject:
        """Size and time of the object; ``NotFound`` if there is none."""
        found = await self._driver.head(self.name(principal, digest))
        if found is None:
            raise NotFound(f"cannot find the object {digest}")
        return found

    async def exists(self, principal: Principal, digest: str) -> bool:
        """Whether the object is there."""
        return await self._driver.head(self.name(principal, digest)) is not None

    async def delete(self, principal: Principal, digest: str) -> None:
        """Remove the object; harmless if there is none. The row that names it goes first."""
        await self._driver.delete(self.name(principal, digest))

    def scan(self, principal: Principal) -> AsyncIterator[StoredObject]:
        """Every object of this tenant, in no order."""
        return self._driver.scan(self.prefix(principal))

    async def sweep_leftovers(self, before: datetime) -> int:
        """Remove what interrupted puts from before that moment left behind; how many."""
        return await self._driver.sweep(before)

    async def remove_old(self, principal: Principal, name: str, before: datetime) -> bool:
        """Remove the object of this stored name if it is older than ``before``; whether it was.

        For the sweep of orphans alone. One that was stored anew meanwhile is young, and stays.
        """
        if not name.startswith(f"{self.prefix(principal)}/"):
            raise Invalid("cannot remove the object: it is another tenant's")
        found = await self._driver.head(name)
        if found is None or found.stored_at >= before:
            return False
        await self._driver.delete(name)
        return True


__all__ = ["ORPHAN_AGE", "Objects", "Source"]
