"""Bytes that are here already: pages of earlier attempts, and pages the source says still hold.

A run that is taken over need not ask the source again for what an earlier attempt of it has stored,
and a page of the last complete run that has not changed need not be sent again. The worker names
such bytes by their digest. It may only name what it could have sent: a response of its own run, or
of the run that its profile's plan rests on.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import NotFound
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.model import RawResponse, StoredResponse
from holdfast.records.ports import ResponseBody
from holdfast.records.raw import RawResponses, add_response, again, stored_response, touch
from holdfast.records.slots import check_attempt, check_slot

KEPT_PAGE = 500
"""How many are listed at once."""


class KeptResponses(RawResponses):
    """The part of the service that hands back what it keeps to the run that needs it."""

    async def kept(
        self, principal: Principal, grant: str, run: str, *, after: int = -1
    ) -> list[RawResponse]:
        """Pages of earlier attempts of the run, from the one after ``after`` on; some at a time.

        They are its first pages, in order and without a gap, and were asked for one after the
        other: a page that an attempt fetched again is not followed by what an earlier one saw
        behind it. Empty at the end.
        """
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> list[RawResponse]:
            found = store.find(conn, store.runs, principal.tenant, run=run)
            check_attempt(found, run, claim.fence)
            rows = kept_rows(conn, principal.tenant, run, claim.fence)[after + 1 :][:KEPT_PAGE]
            return _accounts(conn, principal.tenant, run, rows)

        return await self._db.read(principal, unit)

    async def known_body(
        self, principal: Principal, grant: str, run: str, digest: str
    ) -> ResponseBody:
        """The bytes with that digest, if they are of this run or of the last complete one."""
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> Row[Any]:
            row = check_attempt(
                store.find(conn, store.runs, principal.tenant, run=run), run, claim.fence
            )
            return _known(conn, principal.tenant, row, digest)

        stored = stored_response(await self._db.read(principal, unit))
        return ResponseBody(stored, self._body(principal, stored.response))

    async def put_known(
        self, principal: Principal, grant: str, run: str, response: RawResponse
    ) -> StoredResponse:
        """Keep the account of a response whose bytes are here already; durable on return.

        As :meth:`put_response`, without the bytes: ``NotFound`` where they are not this run's own
        or the last complete run's.
        """
        claim = self._grant(principal, grant, run)

        def unit(conn: Connection) -> StoredResponse:
            tenant = principal.tenant
            row = check_attempt(store.find(conn, store.runs, tenant, run=run), run, claim.fence)
            key = {"run": run, "fence": claim.fence, "sequence": response.sequence}
            there = store.find(conn, store.responses, tenant, **key)
            if there is not None:
                return again(there, response)
            check_slot(row, store.find(conn, store.heads, tenant, profile=row.profile))
            known = _known(conn, tenant, row, response.digest)
            stored = StoredResponse(
                run=run,
                fence=claim.fence,
                response=response,
                stored_at=timestamp(self._clock.now()),
                repeated=True,
            )
            add_response(conn, tenant, stored, known.object, personal=known.personal)
            touch(conn, tenant, stored, claim.lease_expires_at)
            return stored

        return await self._db.write(principal, unit)


def _known(conn: Connection, tenant: str, run: Row[Any], digest: str) -> Row[Any]:
    head = store.find(conn, store.heads, tenant, profile=run.profile)
    runs = [run.run, *([head.plan_run] if head is not None and head.plan_run else [])]
    responses = store.responses
    found = conn.execute(
        select(responses)
        .where(
            responses.c.tenant == tenant,
            responses.c.run.in_(runs),
            responses.c.digest == digest,
            or_(responses.c.size_bytes == 0, responses.c.object != ""),
        )
        .limit(1)
    ).first()
    if found is None:
        raise NotFound(
            f"cannot use bytes of an earlier run: {digest[:80]} is not kept for the run {run.run}",
            code="response-not-found",
        )
    return found


def kept_rows(conn: Connection, tenant: str, run: str, fence: int) -> list[Row[Any]]:
    """The pages that attempts before ``fence`` have left, in order: sequence, fence, digest."""
    responses = store.responses
    rows = conn.execute(
        select(responses.c.sequence, responses.c.fence, responses.c.digest, responses.c.fetched_at)
        .where(
            store.of_key(responses, tenant, run=run),
            responses.c.fence < fence,
            responses.c.erased_at == "",
            responses.c.cut.is_(False),
        )
        .order_by(responses.c.sequence, responses.c.fence.desc())
    )
    return chained(rows)


def chained(rows: Iterable[Any]) -> list[Any]:
    """Of rows by sequence, newest fence first: those that were asked for one after the other. Pure.

    An attempt takes over what earlier ones have left, up to the page where it fetches for itself.
    What such an earlier attempt saw *behind* that page does not follow from it.
    """
    found: list[Any] = []
    least = 0
    for sequence, group in groupby(rows, key=lambda row: row.sequence):
        newest, *older = group
        if sequence != len(found) or newest.fence < least:
            break
        same = [
            row.fence
            for row in older
            if (row.digest, row.fetched_at) == (newest.digest, newest.fetched_at)
        ]
        least = min([newest.fence, *same])
        found.append(newest)
    return found


def _accounts(conn: Connection, tenant: str, run: str, rows: list[Row[Any]]) -> list[RawResponse]:
    """The whole rows of what :func:`kept_rows` chose."""
    if not rows:
        return []
    chosen = {(row.sequence, row.fence) for row in rows}
    responses = store.responses
    found = conn.execute(
        select(responses)
        .where(
            store.of_key(responses, tenant, run=run),
            responses.c.sequence.between(rows[0].sequence, rows[-1].sequence),
        )
        .order_by(responses.c.sequence)
    )
    return [stored_response(row).response for row in found if (row.sequence, row.fence) in chosen]
