"""What erasing a person removes beside their key: sealed parts, raw responses, projections.

Destroying the key is what erases; this removes what the key does not cover, and the ciphertext
that nobody will ever open. Every step may be repeated. Rows stay, with their leaves: the proofs of
others go through them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, or_, select

from holdfast.kernel.clock import timestamp
from holdfast.kernel.principal import Principal
from holdfast.keyring.model import ErasedParts, Erasure
from holdfast.records import store
from holdfast.records.base import Part
from holdfast.records.model import RunStatus

ROWS_AT_ONCE = 500
MAPPED = (RunStatus.SUCCEEDED.value, RunStatus.UNCHANGED.value)


class Erasing(Part):
    """The part of the service that forgets; an eraser for the keyring."""

    async def knows(self, principal: Principal, subject: str) -> bool:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        return await self._db.read(
            principal, lambda conn: store.subject_seen(conn, principal.tenant, subject)
        )

    async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        return await self.erase_subjects(principal, [erasure.subject])

    async def erase_subjects(self, principal: Principal, subjects: Iterable[str]) -> ErasedParts:
        """Remove what is left of people whose keys are destroyed, by their keyed names."""
        parts = ErasedParts()
        for subject in subjects:
            profiles = await self._db.read(
                principal,
                lambda conn, who=subject: _profiles_of(conn, principal.tenant, who),  # type: ignore[misc]
            )
            parts = parts.plus(
                ErasedParts(
                    records=await self._forget_rows(principal, subject),
                    responses=await self._destroy_responses(principal, subject),
                    projections=await self._drop_projections(principal, profiles),
                )
            )
        return parts

    async def _forget_rows(self, principal: Principal, subject: str) -> int:
        """Drop the sealed parts; from now on only the clear part tells whether a record changed."""
        tenant, forgotten = principal.tenant, 0

        def unit(conn: Connection) -> int:
            rows = conn.execute(
                select(
                    store.revisions.c.profile,
                    store.revisions.c.sequence,
                    store.revisions.c.body,
                    store.revisions.c.withdrawn,
                )
                .where(
                    store.revisions.c.tenant == tenant,
                    store.revisions.c.subject == subject,
                    store.revisions.c.sealed.is_not(None),
                )
                .limit(ROWS_AT_ONCE)
            ).all()
            for row in rows:
                content = (
                    b""
                    if row.withdrawn
                    else self._keys(principal, row.profile).content(row.body.encode())
                )
                store.change(
                    conn,
                    store.revisions,
                    store.of_key(
                        store.revisions, tenant, profile=row.profile, sequence=row.sequence
                    ),
                    {"sealed": None, "content": content},
                )
            return len(rows)

        while step := await self._db.write(principal, unit, size_bytes=ROWS_AT_ONCE * 400):
            forgotten += step
        return forgotten

    async def _destroy_responses(self, principal: Principal, subject: str) -> int:
        """Destroy whole every raw response that the person occurs in, or may occur in."""
        tenant, destroyed = principal.tenant, 0
        now = timestamp(self._clock.now())

        def unit(conn: Connection) -> list[Any]:
            return _responses_of(conn, tenant, subject)

        while found := await self._db.read(principal, unit):
            names = [row.object for row in found]
            keyring = self._handles.keyring
            await keyring.apart(keyring.destroy_objects, tenant, names)
            for row in found:
                await self._handles.objects.delete(principal, row.digest)

            def note(conn: Connection, names: list[str] = names) -> None:
                store.change(
                    conn,
                    store.responses,
                    and_(store.responses.c.tenant == tenant, store.responses.c.object.in_(names)),
                    {"object": "", "erased_at": now},
                )

            await self._db.write(principal, note)
            destroyed += len(names)
        return destroyed

    async def _drop_projections(self, principal: Principal, profiles: list[str]) -> int:
        """Projections hold sealed parts: they are built anew, without, when they are asked for."""
        folder = self._settings.projections / principal.tenant
        dropped = 0
        for profile in profiles:
            dropped += await asyncio.to_thread(_remove, folder / profile)
        return dropped


def _profiles_of(conn: Connection, tenant: str, subject: str) -> list[str]:
    rows = store.revisions.c
    found = conn.execute(
        select(rows.profile).distinct().where(rows.tenant == tenant, rows.subject == subject)
    )
    return list(found.scalars())


def _responses_of(conn: Connection, tenant: str, subject: str) -> list[Any]:
    """Objects of responses with the person in them; and, where a response may name people and not
    all of it became records, those too: nobody can tell who is in them."""
    responses, runs, seen = store.responses, store.runs, store.appearances
    appears = (
        select(seen.c.subject)
        .where(
            seen.c.tenant == responses.c.tenant,
            seen.c.subject == subject,
            seen.c.run == responses.c.run,
            seen.c.fence == responses.c.fence,
            seen.c.response == responses.c.sequence,
        )
        .exists()
    )
    unmapped = and_(
        responses.c.personal.is_(True),
        or_(
            runs.c.fence != responses.c.fence,
            runs.c.rejects > 0,
            and_(runs.c.result.is_not(None), runs.c.status.not_in(MAPPED)),
        ),
    )
    return list(
        conn.execute(
            select(responses.c.digest, responses.c.object)
            .distinct()
            .select_from(
                responses.join(
                    runs, and_(runs.c.tenant == responses.c.tenant, runs.c.run == responses.c.run)
                )
            )
            .where(responses.c.tenant == tenant, responses.c.object != "", or_(appears, unmapped))
            .order_by(responses.c.object)
            .limit(ROWS_AT_ONCE)
        ).all()
    )


def _remove(folder: Path) -> int:
    count = len(list(folder.glob("*.parquet"))) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return count
