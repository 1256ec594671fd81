"""Objects that no row names: found, and removed without losing one that gets a name meanwhile.

An object is stored before the row that names it commits. One digest is one object, so a writer may
also find its object there already, left by somebody who died before naming it, and name that. The
sweep and the writer must not pass each other: between "no row names it" and the removal lies time,
and so does between "it is there" and the commit.

Both therefore meet in the database. What the sweep is about to remove it first *condemns*, in one
transaction with a last look at the rows; after the removal it says under a new *generation* that
the object is gone. What an erasure destroys although rows name it meets writers in the same way. A
writer notes the generation before it looks for its object (:func:`noted`),
and the transaction that names it refuses (:func:`confirm`) if the object is condemned, or was
removed in a later generation than the noted one: it stores its bytes again. Whichever of the two
transactions commits first, the other one sees it.

The rows of gone objects are kept for a week, which is longer than any writer works on one object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import BigInteger, Boolean, Column, Connection, Index, Text, text

from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database, tenant_table
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.objects.handle import ORPHAN_AGE, Objects
from holdfast.kernel.principal import Principal

log = structlog.get_logger(__name__)

BATCH = 200
GONE_KEPT = timedelta(days=7)
TAKEN_OVER_AFTER = timedelta(hours=1)
"""When what a sweep has condemned and not removed is another's to finish: it has died."""

collected_objects = tenant_table(
    "collected_objects",
    Column("object", Text, primary_key=True, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("condemned", Boolean, nullable=False),
    Column("at", Text, nullable=False),
    Index("ix_collected_objects_generation", "tenant", "generation"),
)
"""Objects that are being removed (``condemned``) or were, in which generation and when."""

Named = Callable[[Connection, Principal, Sequence[str]], set[str]]
"""Which of these stored names a slice's rows have. Part of a unit of work."""

_GENERATION = text(
    "SELECT coalesce(max(generation), 0) FROM collected_objects WHERE tenant = :tenant"
)
_REFUSED = text(
    "SELECT 1 FROM collected_objects WHERE tenant = :tenant AND object = :object"
    " AND (condemned = :yes OR generation > :since)"
)
_CONDEMN = text(
    "INSERT INTO collected_objects (tenant, object, generation, condemned, at)"
    " VALUES (:tenant, :object, :generation, :yes, :at)"
    " ON CONFLICT (tenant, object) DO UPDATE SET condemned = excluded.condemned, at = excluded.at"
    " RETURNING generation"
)
_CONDEMNED = text(
    "SELECT object, at FROM collected_objects WHERE tenant = :tenant AND condemned = :yes"
)
_DESTROYED = text(
    "UPDATE collected_objects SET condemned = :no, generation = :generation, at = :at"
    " WHERE tenant = :tenant AND object = :object AND condemned = :yes AND generation = :since"
    " RETURNING object"
)
_GONE = text(
    "UPDATE collected_objects SET condemned = :no, generation = :generation, at = :at"
    " WHERE tenant = :tenant AND object = :object AND condemned = :yes"
)
_FORGET = text(
    "DELETE FROM collected_objects WHERE tenant = :tenant AND condemned = :no AND at < :before"
    " AND generation < (SELECT max(generation) FROM collected_objects WHERE tenant = :tenant)"
)


def noted(conn: Connection, principal: Principal) -> int:
    """The generation as it is now. Read it before looking whether the object is there."""
    return int(conn.execute(_GENERATION, {"tenant": principal.tenant}).scalar_one())


def confirm(conn: Connection, principal: Principal, name: str, since: int) -> None:
    """In the transaction that names ``name``: it is there for good; ``since`` is what was noted.

    Raises :class:`Unavailable` (``object-collected``) if it was, or is being, removed: nothing is
    named then, and storing the bytes again helps.
    """
    values = {"tenant": principal.tenant, "object": name, "yes": True, "since": since}
    if conn.execute(_REFUSED, values).first() is not None:
        raise Unavailable(
            "cannot name the object: it was removed meanwhile, or is being removed",
            code="object-collected",
            hint="store it again",
            retry_after_seconds=1,
        )


def condemn(
    conn: Connection, principal: Principal, names: Sequence[str], at: str
) -> dict[str, int]:
    """From here on nobody names these: they are removed although rows do; and each one's
    generation, for :func:`note_destroyed`.

    Several may be at one object: each removes it after this, and the first lifts it for all.
    """
    generation, found = noted(conn, principal) + 1, dict[str, int]()
    for name in names:
        values = {"object": name, "generation": generation, "yes": True, "at": at}
        row = conn.execute(_CONDEMN, {"tenant": principal.tenant, **values})
        found[name] = int(row.scalar_one())
    return found


def note_destroyed(
    conn: Connection, principal: Principal, condemned: Mapping[str, int], at: str
) -> list[str]:
    """Which of these were removed for good; in the transaction in which no row names them any more.

    A writer who found one there before, and has not named it yet, is refused by :func:`confirm`.
    Not those that another lifted meanwhile: they may have been stored anew, and named, before they
    were removed here; whoever removed them does so once more.
    """
    generation, found = noted(conn, principal) + 1, list[str]()
    for name, since in condemned.items():
        values = {"object": name, "generation": generation, "since": since, "at": at}
        marks = {"tenant": principal.tenant, "yes": True, "no": False}
        if conn.execute(_DESTROYED, {**marks, **values}).first() is not None:
            found.append(name)
    return found


def abandoned(conn: Connection, principal: Principal, before: datetime) -> list[str]:
    """What was condemned before then and is not removed."""
    rows = conn.execute(_CONDEMNED, {"tenant": principal.tenant, "yes": True}).all()
    return [row.object for row in rows if row.at < timestamp(before)]


@dataclass(frozen=True, slots=True)
class Orphans:
    """What a sweep found, or would have removed."""

    objects: int = 0
    size_bytes: int = 0


class OrphanSweep:
    """Removes the objects of one process's prefix that none of ``named`` knows.

    ``named`` are *all* who name objects under these secrets. A bucket that several databases share
    needs a tenant secret for each, as every role makes it: what another database names is not seen.
    """

    def __init__(
        self, database: Database, objects: Objects, named: Sequence[Named], clock: Clock
    ) -> None:
        self._db = database
        self._objects = objects
        self._named = list(named)
        self._clock = clock

    async def sweep(
        self, principal: Principal, *, limit: int = 10_000, dry_run: bool = False
    ) -> Orphans:
        """Remove up to ``limit`` objects of the tenant without a name that are older than a day.

        If the process dies in between, the next sweep finishes; nothing that has a name is touched
        by either. With ``dry_run`` it only counts.
        """
        before = self._clock.now() - ORPHAN_AGE
        if not dry_run:
            await self._objects.sweep_leftovers(before)
            await self._finish_others(principal)
        found, size = 0, 0
        batch: dict[str, int] = {}
        async for each in self._objects.scan(principal):
            if each.stored_at < before:
                batch[each.name] = each.size_bytes
            if len(batch) == BATCH:
                removed = await self._remove(principal, batch, before, dry_run=dry_run)
                found, size = found + len(removed), size + sum(batch[name] for name in removed)
                batch = {}
            if found >= limit:
                return Orphans(found, size)
        removed = await self._remove(principal, batch, before, dry_run=dry_run)
        if not dry_run:
            await self._forget(principal)
        return Orphans(found + len(removed), size + sum(batch[name] for name in removed))

    async def _remove(
        self, principal: Principal, batch: dict[str, int], before: datetime, *, dry_run: bool
    ) -> list[str]:
        if not batch:
            return []
        unnamed = await self._db.read(
            principal, lambda conn: self._unnamed(conn, principal, list(batch))
        )
        if dry_run or not unnamed:
            return unnamed
        now = timestamp(self._clock.now())

        def condemn(conn: Connection) -> list[str]:
            """The last look, in the transaction that condemns: whoever names one now is later."""
            others = {
                row.object
                for row in conn.execute(_CONDEMNED, {"tenant": principal.tenant, "yes": True})
            }
            still = [n for n in self._unnamed(conn, principal, unnamed) if n not in others]
            generation = noted(conn, principal) + 1
            for name in still:
                values = {"object": name, "generation": generation, "yes": True, "at": now}
                conn.execute(_CONDEMN, {"tenant": principal.tenant, **values})
            return still

        condemned = await self._db.write(principal, condemn)
        return await self._finish(principal, condemned, before)

    def _unnamed(self, conn: Connection, principal: Principal, names: Sequence[str]) -> list[str]:
        left = list(names)
        for named in self._named:
            known = named(conn, principal, left)
            left = [name for name in left if name not in known]
        return left

    async def _finish(
        self, principal: Principal, condemned: Sequence[str], before: datetime
    ) -> list[str]:
        """Remove what is condemned, and say under a new generation that it is gone."""
        if not condemned:
            return []
        removed = [
            name for name in condemned if await self._objects.remove_old(principal, name, before)
        ]
        now = timestamp(self._clock.now())

        def gone(conn: Connection) -> None:
            generation = noted(conn, principal) + 1
            for name in condemned:
                values = {"object": name, "generation": generation, "at": now}
                conn.execute(
                    _GONE, {"tenant": principal.tenant, "yes": True, "no": False, **values}
                )

        await self._db.write(principal, gone)
        log.info("objects.orphans_removed", objects=len(removed))
        return removed

    async def _finish_others(self, principal: Principal) -> None:
        """What a sweep that died had condemned; nobody can have named it since.

        What rows name somebody condemned who destroys it all the same, and ends that himself.
        """
        now = self._clock.now()

        def unit(conn: Connection) -> list[str]:
            left = abandoned(conn, principal, now - TAKEN_OVER_AFTER)
            return self._unnamed(conn, principal, left)

        await self._finish(principal, await self._db.read(principal, unit), now - ORPHAN_AGE)

    async def _forget(self, principal: Principal) -> None:
        before = timestamp(self._clock.now() - GONE_KEPT)
        values = {"tenant": principal.tenant, "no": False, "before": before}

        def unit(conn: Connection) -> None:
            conn.execute(_FORGET, values)

        await self._db.write(principal, unit)
