"""What erasing a person removes beside their key: sealed parts, raw responses, projections.

Destroying the key is what erases; this removes what the key does not cover, and the ciphertext
that nobody will ever open. Every step may be repeated. Rows stay, with their leaves: the proofs of
others go through them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from holdfast.kernel.clock import timestamp
from holdfast.kernel.principal import Principal
from holdfast.keyring.model import ErasedParts, Erasure
from holdfast.records import store
from holdfast.records.base import Part
from holdfast.records.model import Run, RunStatus, is_final

ROWS_AT_ONCE = 500
MAPPED = (RunStatus.SUCCEEDED.value, RunStatus.UNCHANGED.value)
REHEARSAL = "rehearsal"
"""The code with which a run ends that was to publish nothing."""


class Erasing(Part):
    """The part of the service that forgets; an eraser for the keyring."""

    async def knows(self, principal: Principal, subject: str) -> bool:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        return await self._db.read(
            principal, lambda conn: store.subject_seen(conn, principal.tenant, subject)
        )

    async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        return await self.erase_subjects(principal, [erasure.subject], under_way=True)

    async def erase_subjects(
        self, principal: Principal, subjects: Iterable[str], *, under_way: bool = False
    ) -> ErasedParts:
        """Remove what is left of people whose keys are destroyed, by their keyed names.

        ``under_way``: what runs have stored that have not ended, too. An erasure that says "done"
        does not wait for them. What such a run stores later is looked at by :meth:`forget_ended`.
        """
        parts = ErasedParts()
        for subject in subjects:
            profiles = await self._db.read(
                principal,
                lambda conn, who=subject: _profiles_of(conn, principal.tenant, who),  # type: ignore[misc]
            )
            parts = parts.plus(
                ErasedParts(
                    records=await self._forget_rows(principal, subject),
                    responses=await self._destroy_responses(
                        principal,
                        lambda conn, who=subject: _responses_of(  # type: ignore[misc]
                            conn, principal.tenant, who, under_way=under_way
                        ),
                    ),
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

    async def forget_ended(self, principal: Principal, run: Run) -> None:
        """Destroy what an ended run has fetched that nobody can tell of who is in it, if anybody is
        erased: they may have been before it was fetched, and the source goes on naming them.

        Once the run's end is durable, and again with every repetition of it: whoever died in
        between was not answered, and is asked again.
        """
        if not is_final(run.status):
            return
        tenant = principal.tenant

        def unit(conn: Connection) -> list[Any]:
            return _untold_of(conn, tenant, run)

        if not await self._db.read(principal, unit):
            return
        keyring = self._handles.keyring
        if await keyring.apart(keyring.anybody_erased, tenant):
            await self._destroy_responses(principal, unit)

    async def _destroy_responses(
        self, principal: Principal, unit: Callable[[Connection], list[Any]]
    ) -> int:
        """Destroy whole the raw responses that ``unit`` finds, until it finds no more."""
        tenant, destroyed = principal.tenant, 0
        now = timestamp(self._clock.now())

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


def _responses_of(conn: Connection, tenant: str, subject: str, *, under_way: bool) -> list[Any]:
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
    ended = [] if under_way else [runs.c.result.is_not(None)]
    unmapped = and_(
        responses.c.personal.is_(True),
        or_(
            runs.c.fence != responses.c.fence,
            runs.c.rejects > 0,
            and_(*ended, runs.c.status.not_in(MAPPED)),
        ),
    )
    return _objects(conn, tenant, or_(appears, unmapped))


def _untold_of(conn: Connection, tenant: str, run: Run) -> list[Any]:
    """Objects of the ended run that may name people, and of which no batch has told whom.

    Not those whose bytes another run of the profile has made records of: who is in them is known,
    and nobody of them is erased.
    """
    responses, runs = store.responses, store.runs
    other, theirs = responses.alias(), runs.alias()
    told = (
        select(other.c.object)
        .select_from(
            other.join(theirs, and_(theirs.c.tenant == other.c.tenant, theirs.c.run == other.c.run))
        )
        .where(
            other.c.tenant == tenant,
            other.c.object == responses.c.object,
            theirs.c.profile == run.profile,
            theirs.c.fence == other.c.fence,
            theirs.c.status.in_(MAPPED),
        )
        .exists()
    )
    left = runs.c.fence != responses.c.fence
    # A rehearsal goes through everything: its batches have told.
    rehearsed = run.rehearsal and run.code == REHEARSAL and not run.rejects
    if run.status.value not in MAPPED and not rehearsed:
        left = or_(left, runs.c.status.not_in(MAPPED))
    mine = and_(responses.c.run == run.id, responses.c.personal.is_(True), left, ~told)
    return _objects(conn, tenant, mine)


def _objects(conn: Connection, tenant: str, condition: ColumnElement[bool]) -> list[Any]:
    """Some objects of responses under ``condition``, with their digests."""
    responses, runs = store.responses, store.runs
    return list(
        conn.execute(
            select(responses.c.digest, responses.c.object)
            .distinct()
            .select_from(
                responses.join(
                    runs, and_(runs.c.tenant == responses.c.tenant, runs.c.run == responses.c.run)
                )
            )
            .where(responses.c.tenant == tenant, responses.c.object != "", condition)
            .order_by(responses.c.object)
            .limit(ROWS_AT_ONCE)
        ).all()
    )


def _remove(folder: Path) -> int:
    count = len(list(folder.glob("*.parquet"))) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return count
