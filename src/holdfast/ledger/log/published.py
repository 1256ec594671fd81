"""What the outside was told of a log: kept in the database, and in a file that is not restored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from holdfast.kernel.errors import Unavailable
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import NotSequencer
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.notes import Checkpoint
from holdfast.ledger.signer import PublishedFile, unknown_origins
from holdfast.ledger.store import Origin, Published

log = get_logger("ledger")


class PublishedCheckpoints:
    """The newest checkpoint of each origin, in both places."""

    def __init__(self, parts: TenantParts) -> None:
        self.parts = parts
        self._file = PublishedFile(parts.shared.paths.published_file(parts.tenant))

    async def in_database(self) -> tuple[list[Origin], dict[str, Published]]:
        """The origins in their order, and what was published under each that signed."""
        tenant = self.parts.tenant

        def unit(conn: Connection) -> tuple[list[Origin], dict[str, Published]]:
            return store.origins(conn, tenant), store.checkpoints(conn, tenant)

        return await self.parts.read(unit)

    async def in_file(self) -> dict[str, Checkpoint]:
        """What the file knows, by origin; ``PublishedDamaged`` if nobody can read it."""
        return await asyncio.to_thread(self._file.read)

    async def last(self) -> Published | None:
        """The newest of all that the database has."""
        return last_of(*await self.in_database())

    async def keep(self, published: Published, fence: int) -> bool:
        """Put a checkpoint into the database; false if a larger one is there.

        ``NotSequencer`` if ``fence`` is not the newest any more: the log may be another's to sign,
        or have a new origin, which cites what was the last to be told of this one. Or if a restore
        has put another log under the hands of an instance that ran on.
        """
        parts = self.parts

        def unit(conn: Connection) -> bool:
            if store.find_restored(conn, parts.tenant) is not None:
                raise NotSequencer("cannot sign: the database was restored meanwhile")
            return store.publish(conn, parts.tenant, published)

        return await parts.shared.log.fenced(parts.principal, fence, unit)

    async def release(self, published: Published) -> None:
        """Put a checkpoint that the database has into the file: from here on it may be told."""
        try:
            await asyncio.to_thread(self._file.write, published)
        except OSError as error:
            raise _unreleased(error) from error

    async def is_lost(self) -> bool:
        """Whether the file is not there: what the outside was told, the database alone may know."""
        return not await asyncio.to_thread(self._file.is_there)

    async def learn(self, known: Sequence[Published]) -> None:
        """Have the file know of checkpoints that the database has: whoever put them there may have
        died before telling the file, or is another instance, which has a file of its own.

        Of a log that was restored the file learns nothing while it is not known what was published:
        it would be taken for one that knows.
        """
        tenant = self.parts.tenant
        if await self.parts.read(lambda conn: store.find_restored(conn, tenant)) is not None:
            return
        if known and await self.is_lost():
            log.warning(
                "what was published is taken from the database: there is no file of it here",
                tenant=tenant,
                detail="a new instance has none; where the database's files were copied without "
                "it, the outside may know of more: bring the folder published/ along",
            )
        try:
            await asyncio.to_thread(self._file.learn, known)
        except OSError as error:
            raise _unreleased(error) from error

    async def answered(self, last: Published) -> str:
        """The note of what is in the database, once the file knows of it, too.

        That of a log that was restored, as it is: it was told before, under the same key.
        """
        await self.learn([last])
        return last.note

    async def told_more_than(self, last: Published) -> bool:
        """Whether the outside has seen a later checkpoint than ``last``, by what is in the file.

        ``PublishedDamaged`` where that cannot be said.
        """
        said = await self.in_file()
        origins = await self.parts.read(lambda conn: store.origins(conn, self.parts.tenant))
        outside = said.get(last.origin)
        return bool(unknown_origins(said, origins)) or (
            outside is not None and outside.size > last.size
        )

    async def begin_anew(self, rows: Iterable[Published], name: str) -> None:
        """Put a file that is damaged aside under ``name``; the new one has what the database has.

        Only once the log goes on under an origin that cannot have been in it.
        """
        try:
            await asyncio.to_thread(self._file.begin_anew, list(rows), name)
        except OSError as error:
            raise _unreleased(error) from error


def last_of(origins: list[Origin], rows: dict[str, Published]) -> Published | None:
    """The newest checkpoint of the newest origin that has one.

    By the order of the origins: the clock may have been put back between two of them.
    """
    return next((rows[o.origin] for o in reversed(origins) if o.origin in rows), None)


def _unreleased(error: OSError) -> Unavailable:
    return Unavailable(
        "cannot release a checkpoint: its size could not be made durable", internal=str(error)
    )
