"""The aggregator over HTTP: the same methods as :class:`holdfast.records.service.RecordsService`.

Imports nothing of the server. ``principal`` is there so that callers can hold either; over HTTP it
is the client's credential that says who asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal
from holdfast.records.model import (
    Batch,
    BatchReceipt,
    Freshness,
    RawResponse,
    Record,
    RecordFilter,
    RecordHistory,
    RecordPage,
    Result,
    Run,
    RunClose,
    RunFilter,
    RunFinish,
    RunOpen,
    RunPlan,
    StoredReject,
    StoredResponse,
)
from holdfast.records.ports import ResponseBody
from holdfast.records.wire import (
    GRANT_HEADER,
    RESPONSE_HEADER,
    encode_response,
    filter_parameters,
    run_parameters,
)

STREAM_LIMIT = 1_000


class RecordsClient:
    """Runs, batches, records, results and rejects of the aggregator behind ``api``."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    # --- what a worker does -------------------------------------------------------------------

    async def open(self, principal: Principal, grant: str, request: RunOpen) -> Run:
        """Begin the run of the grant, or take it over with a higher fence."""
        return await self._api.request(
            "POST", "/v1/runs", json=request, headers={GRANT_HEADER: grant}, type=Run
        )

    async def plan(self, principal: Principal, grant: str, run: str) -> RunPlan:
        """Where the run begins."""
        return await self._api.request(
            "GET", f"/v1/runs/{run}/plan", headers={GRANT_HEADER: grant}, type=RunPlan
        )

    async def put_response(
        self,
        principal: Principal,
        grant: str,
        run: str,
        response: RawResponse,
        content: bytes | AsyncIterator[bytes],
    ) -> StoredResponse:
        """Keep one raw response of the run's current attempt; durable on return."""
        return await self._api.request(
            "PUT",
            f"/v1/runs/{run}/responses/{response.sequence}",
            content=content,
            headers={
                GRANT_HEADER: grant,
                RESPONSE_HEADER: encode_response(response),
                "Content-Type": "application/octet-stream",
            },
            type=StoredResponse,
        )

    async def post_batch(self, principal: Principal, grant: str, batch: Batch) -> BatchReceipt:
        """Stage a batch; on return it is durable, and invisible until its run is published."""
        return await self._api.request(
            "POST", "/v1/batches", json=batch, headers={GRANT_HEADER: grant}, type=BatchReceipt
        )

    async def finish(self, principal: Principal, grant: str, request: RunFinish) -> Run:
        """End the run as the worker says, or as the profile's rules decide."""
        return await self._api.request(
            "POST",
            f"/v1/runs/{request.run}/finish",
            json=request,
            headers={GRANT_HEADER: grant},
            type=Run,
        )

    # --- what the coordinator does ------------------------------------------------------------

    async def close(self, principal: Principal, request: RunClose) -> Run:
        """End a run that no worker will end. Idempotent; also for a run that was never opened."""
        return await self._api.request(
            "POST", f"/v1/runs/{request.run}/close", json=request, type=Run
        )

    # --- reading ------------------------------------------------------------------------------

    async def run(self, principal: Principal, run: str) -> Run:
        """One run as it stands."""
        return await self._api.request("GET", f"/v1/runs/{run}", type=Run)

    async def runs(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Run]:
        """Runs, the last one opened first."""
        parameters = {**run_parameters(which), "cursor": cursor, "limit": limit}
        return await self._api.request("GET", "/v1/runs", params=parameters, type=Page[Run])

    async def results(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Result]:
        """What runs came to, the last one ended first."""
        parameters = {**run_parameters(which), "cursor": cursor, "limit": limit}
        return await self._api.request("GET", "/v1/results", params=parameters, type=Page[Result])

    async def rejects(
        self,
        principal: Principal,
        which: RunFilter | None = None,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[StoredReject]:
        """Rows that failed typing: the last run's first, in the order of their arrival."""
        parameters = {**run_parameters(which), "cursor": cursor, "limit": limit}
        return await self._api.request(
            "GET", "/v1/rejects", params=parameters, type=Page[StoredReject]
        )

    async def responses(self, principal: Principal, run: str) -> list[StoredResponse]:
        """The raw responses of the run's current attempt, in order."""
        return await self._api.request(
            "GET", f"/v1/runs/{run}/responses", type=list[StoredResponse]
        )

    async def response_body(self, principal: Principal, run: str, sequence: int) -> ResponseBody:
        """One raw response with its bytes."""
        stored = next(
            (
                found
                for found in await self.responses(principal, run)
                if found.response.sequence == sequence
            ),
            None,
        )
        path = f"/v1/runs/{run}/responses/{sequence}/content"
        if stored is None:
            # Ask all the same: the answer says what is missing.
            await self._api.request("GET", path)
            raise AssertionError("the aggregator sent bytes that it does not list")
        return ResponseBody(stored, self._chunks(path))

    async def _chunks(self, path: str) -> AsyncIterator[bytes]:
        async with self._api.stream("GET", path) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    async def records(
        self,
        principal: Principal,
        which: RecordFilter,
        *,
        cursor: str | None = None,
        limit: int = 100,
    ) -> RecordPage:
        """A page of records, in the order in which they were first staged."""
        parameters = {**filter_parameters(which), "cursor": cursor, "limit": limit}
        return await self._api.request("GET", "/v1/records", params=parameters, type=RecordPage)

    async def publication(
        self, principal: Principal, profile: str, as_of: str | None = None
    ) -> int:
        """The number of the publication that readers see (or saw then); 0 if there is none."""
        which = RecordFilter(profile=profile, as_of=as_of)
        return (await self.records(principal, which, limit=1)).publication

    async def stream(
        self, principal: Principal, which: RecordFilter
    ) -> tuple[int, AsyncIterator[list[Record]]]:
        """The publication, and all its records that match, some at a time."""
        first = await self.records(principal, which, limit=STREAM_LIMIT)

        async def parts() -> AsyncIterator[list[Record]]:
            page = first
            while page.items:
                yield page.items
                if page.next is None:
                    return
                page = await self.records(principal, which, cursor=page.next, limit=STREAM_LIMIT)

        return first.publication, parts()

    async def record(
        self, principal: Principal, record: str, *, as_of: str | None = None
    ) -> RecordHistory:
        """One record, as published now or at ``as_of``, with its published revisions in order."""
        return await self._api.request(
            "GET", f"/v1/records/{record}", params={"as_of": as_of}, type=RecordHistory
        )

    async def freshness(self, principal: Principal) -> list[Freshness]:
        """How old every profile's data is, and whether that is normal."""
        return await self._api.request("GET", "/v1/records/freshness", type=list[Freshness])
