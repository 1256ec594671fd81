"""What erasing a person removes beside their key: sealed parts, raw responses, projections.

Destroying the key is what erases; this removes what the key does not cover, and the ciphertext
that nobody will ever open. Every step may be repeated. Rows stay, with their leaves: the proofs of
others go through them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, and_, or_, select

from holdfast.kernel.clock import timestamp
from holdfast.kernel.objects.orphans import (
    TAKEN_OVER_AFTER,
    abandoned,
    condemn,
    note_destroyed,
)
from holdfast.kernel.principal import Principal
from holdfast.keyring.model import ErasedParts, Erasure
from holdfast.records import store
from holdfast.records.base import Handles, Part
from holdfast.records.model import Run, RunStatus, is_final

ROWS_AT_ONCE = 500
RUNS_AT_ONCE = store.IN_MAX
REHEARSAL = "rehearsal"
"""The code with which a run ends that was to publish nothing."""


class Erasing(Part):
    """The part of the service that forgets; an eraser for the keyring."""

    def __init__(self, handles: Handles) -> None:
        super().__init__(handles)
        self._looked: dict[str, int] = {}
        """Up to which ended run of a tenant this process has seen that nothing is left."""

    async def knows(self, principal: Principal, subject: str) -> bool:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        return await self._db.read(
            principal, lambda conn: store.subject_seen(conn, principal.tenant, subject)
        )

    async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        """See :class:`holdfast.keyring.ports.Eraser`."""
        parts = await self.erase_subjects(principal, [erasure.subject], under_way=True)
        # Once for all of their responses; whoever destroyed them may not have come as far as this.
        await self._handles.keyring.apart(self._handles.keyring.store.scrub)
        return parts

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

        Once the run's end is durable, and again with every repetition of it. Whoever died in
        between was not answered, and is asked again; if not, :meth:`forget_left` finds it.
        """
        if not is_final(run.status):
            return
        tenant = principal.tenant

        def unit(conn: Connection) -> list[Any]:
            return _untold_of(conn, tenant, [run.id])

        if not await self._db.read(principal, unit):
            return
        keyring = self._handles.keyring
        if await keyring.apart(keyring.anybody_erased, tenant):
            await self._destroy_responses(principal, unit)

    async def forget_left(self, principal: Principal) -> int:
        """:meth:`forget_ended` for all runs that ended since the last time, and at first for all:
        whoever ended one may have died before. How many responses that were."""
        tenant, keyring, destroyed = principal.tenant, self._handles.keyring, 0
        after = self._looked.get(tenant, -1)
        last = await self._db.read(principal, lambda conn: store.last_result(conn, tenant))
        if last <= after:
            return 0
        now = self._clock.now()
        await self._end_left(principal, now if after < 0 else now - TAKEN_OVER_AFTER)
        # Asked for after the runs: whoever is erased later finds what these have left.
        if await keyring.apart(keyring.anybody_erased, tenant):
            for start in range(max(after, 0), last, RUNS_AT_ONCE):
                end = min(start + RUNS_AT_ONCE, last)
                runs = await self._db.read(
                    principal,
                    lambda conn, start=start, end=end: store.runs_ended(conn, tenant, start, end),  # type: ignore[misc]
                )
                destroyed += await self._destroy_responses(
                    principal,
                    lambda conn, runs=runs: _untold_of(conn, tenant, runs),  # type: ignore[misc]
                )
        self._looked[tenant] = last
        return destroyed

    async def _destroy_responses(
        self, principal: Principal, unit: Callable[[Connection], list[Any]]
    ) -> int:
        """Destroy whole the raw responses that ``unit`` finds, until it finds no more."""
        destroyed = 0
        while found := await self._db.read(principal, unit):
            await self._destroy(principal, {row.object: row.digest for row in found})
            destroyed += len(found)
        return destroyed

    async def _destroy(self, principal: Principal, digests: Mapping[str, str]) -> None:
        """Destroy these objects, by their names, and note it in every row that names one.

        Condemned first: a run that brings the same bytes meanwhile would store them under a new
        key, and its row would be told destroyed with the others. It stores them anew afterwards.
        Whoever dies in between leaves them condemned and named: the next who finds them by these
        rows ends it, or :meth:`_end_left`.
        """
        tenant, keyring = principal.tenant, self._handles.keyring
        now = timestamp(self._clock.now())

        def note(conn: Connection, condemned: Mapping[str, int]) -> dict[str, int]:
            """Those that another was at, too, and lifted before they were removed here: again."""
            gone = note_destroyed(conn, principal, condemned, now)
            named = and_(store.responses.c.tenant == tenant, store.responses.c.object.in_(gone))
            store.change(conn, store.responses, named, {"object": "", "erased_at": now})
            return condemn(conn, principal, [name for name in condemned if name not in gone], now)

        left = await self._db.write(
            principal, lambda conn: condemn(conn, principal, list(digests), now)
        )
        while left:
            await keyring.apart(keyring.destroy_objects, tenant, list(left))
            for name in left:
                await self._handles.objects.delete(principal, digests[name])
            left = await self._db.write(principal, partial(note, condemned=left))

    async def _end_left(self, principal: Principal, before: datetime) -> None:
        """Destroy what was condemned before then and still has a name: who did so has died, and
        till it is gone no run can bring it. Nobody may find it by its rows as they are now."""

        def unit(conn: Connection) -> list[Any]:
            found = list[Any]()
            for names in store.parts(abandoned(conn, principal, before)):
                some = store.responses.c.object.in_(names)
                found += _objects(conn, principal.tenant, some)
            return found

        await self._destroy_responses(principal, unit)

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
            and_(*ended, ~_went_through(runs)),
        ),
        ~_told(tenant, _told_all),
    )
    return _objects(conn, tenant, or_(appears, unmapped))


def _untold_of(conn: Connection, tenant: str, ended: Sequence[str]) -> list[Any]:
    """Objects of these ended runs that may name people, and of which no batch has told whom.

    What has published keeps its bytes, those with rejected rows, too; so does what found the very
    same ones again. The next erasure takes both.
    """
    responses, runs = store.responses, store.runs
    left = or_(
        runs.c.fence != responses.c.fence,
        ~_went_through(runs),
        and_(runs.c.rehearsal.is_(True), runs.c.rejects > 0),
    )

    def tells(theirs: FromClause) -> ColumnElement[bool]:
        own = theirs.c.run == runs.c.run
        same = and_(runs.c.status == RunStatus.UNCHANGED.value, theirs.c.profile == runs.c.profile)
        published = theirs.c.status == RunStatus.SUCCEEDED.value
        return or_(_told_all(theirs), and_(published, or_(own, same)))

    mine = and_(responses.c.run.in_(ended), responses.c.personal.is_(True))
    return _objects(conn, tenant, and_(mine, left, ~_told(tenant, tells)))


def _told(tenant: str, tells: Callable[[FromClause], ColumnElement[bool]]) -> ColumnElement[bool]:
    """Whether any run that ``tells`` has the same bytes, whichever profile it is of: who is in them
    is known then, and an erasure of any of them destroys them as that run's.

    One whose profile marks nobody has told of nobody.
    """
    responses = store.responses
    other, theirs = responses.alias(), store.runs.alias()
    return (
        select(other.c.object)
        .select_from(
            other.join(theirs, and_(theirs.c.tenant == other.c.tenant, theirs.c.run == other.c.run))
        )
        .where(
            other.c.tenant == tenant,
            other.c.object == responses.c.object,
            other.c.personal.is_(True),
            theirs.c.fence == other.c.fence,
            tells(theirs),
        )
        .exists()
    )


def _told_all(runs: FromClause) -> ColumnElement[bool]:
    """Runs all of whose rows became records."""
    return and_(_went_through(runs), runs.c.rejects == 0)


def _went_through(runs: FromClause) -> ColumnElement[bool]:
    """Runs that have read all that they fetched: they have published, or were to publish nothing.

    One that found everything *unchanged* has read nothing.
    """
    return or_(
        runs.c.status == RunStatus.SUCCEEDED.value,
        and_(
            runs.c.rehearsal.is_(True),
            runs.c.status == RunStatus.PARTIAL.value,
            runs.c.code == REHEARSAL,
        ),
    )


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
            # One digest is one object. By that the planner would go through all there are.
            .order_by(responses.c.digest)
            .limit(ROWS_AT_ONCE)
        ).all()
    )


def _remove(folder: Path) -> int:
    count = len(list(folder.glob("*.parquet"))) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return count
