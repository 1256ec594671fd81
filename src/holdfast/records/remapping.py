"""Which stored raw responses a re-mapping reads, and their bytes, for the worker that does it.

A snapshot is what its last complete run brought, and what backfills have added since; of the other
modes every published run counts. They are listed so that reading them in this order gives the
truth: where the last of equal keys counts, the oldest run first, else the newest first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from holdfast.kernel.errors import Conflict
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.errors import no_such_run
from holdfast.records.model import RawResponse, RemapSource, RunStatus
from holdfast.records.ports import ResponseBody
from holdfast.records.raw import RawResponses
from holdfast.records.rules import Rules

SOURCES_MAX = 10_000


class Remapping(RawResponses):
    """The part of the service that hands stored bytes back to workers."""

    async def remap_sources(self, principal: Principal, grant: str, run: str) -> list[RemapSource]:
        """The runs whose bytes are to be mapped again, in the order in which to read them.

        ``Conflict`` if nothing is stored, or more runs than one re-mapping takes.
        """
        claim = self._grant(principal, grant, run)
        rules = await self._rules(principal, claim.profile, claim.digest)

        def unit(conn: Connection) -> list[RemapSource]:
            found = _sources(conn, principal.tenant, rules)
            if not found:
                raise Conflict(
                    f"cannot re-map {claim.profile}: no raw responses of it are stored",
                    code="nothing-stored",
                    hint=f"holdfast profile run {claim.profile}",
                )
            if len(found) > SOURCES_MAX:
                raise Conflict(
                    f"cannot re-map {claim.profile}: more than {SOURCES_MAX} runs are stored",
                    code="too-many-runs",
                )
            return found

        return await self._db.read(principal, unit)

    async def remap_responses(
        self, principal: Principal, grant: str, run: str, source: str
    ) -> list[RawResponse]:
        """The accounts of one of these runs' responses, in order."""
        await self._check_source(principal, grant, run, source)
        return [stored.response for stored in await self.responses(principal, source)]

    async def remap_body(
        self, principal: Principal, grant: str, run: str, source: str, sequence: int
    ) -> ResponseBody:
        """One of these responses with its bytes."""
        await self._check_source(principal, grant, run, source)
        return await self.response_body(principal, source, sequence)

    async def _check_source(self, principal: Principal, grant: str, run: str, source: str) -> None:
        """``NotFound`` unless ``source`` is a run of the profile that the grant is for."""
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> None:
            row = store.find(conn, store.runs, principal.tenant, run=source)
            if row is None or row.profile != claim.profile:
                raise no_such_run(source)

        await self._db.read(principal, unit)


def _sources(conn: Connection, tenant: str, rules: Rules) -> list[RemapSource]:
    runs, responses = store.runs, store.responses
    conditions: list[Any] = [
        store.of_key(runs, tenant, profile=rules.profile, status=RunStatus.SUCCEEDED.value)
    ]
    if rules.mode == "snapshot":
        head = store.find(conn, store.heads, tenant, profile=rules.profile)
        last = head and head.plan_run and store.find(conn, runs, tenant, run=head.plan_run)
        if not last:
            return []
        later = (runs.c.number > last.number) & (runs.c.kind == "backfill")
        conditions.append((runs.c.run == last.run) | later)
    else:
        conditions.append(runs.c.kind.in_(["collect", "backfill"]))
    oldest_first = rules.duplicates == "last"
    order = runs.c.number.asc() if oldest_first else runs.c.number.desc()
    erased = set(
        conn.execute(
            select(responses.c.run)
            .select_from(
                runs.join(
                    responses,
                    (responses.c.tenant == runs.c.tenant) & (responses.c.run == runs.c.run),
                )
            )
            .where(*conditions, responses.c.erased_at != "")
            .distinct()
        ).scalars()
    )
    if erased and rules.mode == "snapshot":
        raise Conflict(
            f"cannot re-map {rules.profile}: bytes it rests on were destroyed, because a person in "
            "them was erased",
            code="response-erased",
            hint=f"holdfast profile run {rules.profile} --force",
        )
    rows = conn.execute(
        select(runs.c.run, runs.c.range_start, runs.c.range_end, func.count().label("responses"))
        .select_from(
            runs.join(
                responses,
                (responses.c.tenant == runs.c.tenant)
                & (responses.c.run == runs.c.run)
                & (responses.c.fence == runs.c.fence),
            )
        )
        .where(*conditions)
        .group_by(runs.c.run, runs.c.number, runs.c.range_start, runs.c.range_end)
        .order_by(order)
        .limit(SOURCES_MAX + 1)
    )
    return [
        RemapSource(
            run=row.run,
            responses=row.responses,
            range_start=row.range_start,
            range_end=row.range_end,
        )
        for row in rows
        # What such a run brought stays as it is; nothing but a snapshot withdraws what is absent.
        if row.run not in erased
    ]
