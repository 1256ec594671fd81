"""The aggregator's routes: parse, call the service, answer."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.response import Stream

from holdfast.kernel.errors import Invalid
from holdfast.kernel.http import ApiRequest, Page, get, post, put
from holdfast.kernel.http.paging import Limit
from holdfast.kernel.http.routes import Header
from holdfast.kernel.principal import Permission, Principal
from holdfast.records.exporting import file_chunks
from holdfast.records.model import (
    BATCH_BYTES_MAX,
    Batch,
    BatchReceipt,
    Freshness,
    Notice,
    ProjectionInfo,
    RawResponse,
    ReceiptsWanted,
    RecordHistory,
    RecordPage,
    RecordWanted,
    RemapSource,
    Result,
    Run,
    RunClose,
    RunDiff,
    RunFinish,
    RunOpen,
    RunPlan,
    StoredReject,
    StoredResponse,
)
from holdfast.records.service import RecordsService
from holdfast.records.wire import (
    GRANT_HEADER,
    PERSONAL_HEADER,
    PUBLICATION_HEADER,
    RESPONSE_HEADER,
    content_digest,
    decode_response,
    record_filter,
    run_filter,
)

RESPONSE_BYTES_MAX = 2 * 1024**3

GrantText = Annotated[str, Header(GRANT_HEADER)]
ResponseText = Annotated[str, Header(RESPONSE_HEADER)]
IfNoneMatch = Annotated[str, Header("If-None-Match")]
ATTACHMENT = {
    # Bytes of a foreign source never run in our origin.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}


def handlers(service: RecordsService) -> list[Any]:
    """Every route of the aggregator."""
    return [
        *_worker_routes(service),
        *_run_routes(service),
        *_record_routes(service),
        *_projection_routes(service),
    ]


def _worker_routes(service: RecordsService) -> list[Any]:
    @post("/v1/runs", permission=Permission.RUNS_WRITE, status=200)
    async def open_run(principal: Principal, data: RunOpen, grant: GrantText = "") -> Run:
        """Begin the run of the grant, or take it over."""
        return await service.open(principal, grant, data)

    @get("/v1/runs/{run:str}/plan", permission=Permission.RUNS_WRITE)
    async def plan_run(principal: Principal, run: str, grant: GrantText = "") -> RunPlan:
        """Where the run begins: cursor and validators."""
        return await service.plan(principal, grant, run)

    @put(
        "/v1/runs/{run:str}/responses/{sequence:int}",
        permission=Permission.RUNS_WRITE,
        raw=True,
        body_limit=RESPONSE_BYTES_MAX,
    )
    async def put_run_response(
        principal: Principal,
        request: ApiRequest,
        run: str,
        sequence: int,
        account: ResponseText,
        grant: GrantText = "",
    ) -> StoredResponse:
        """Keep one raw response; its account travels in the header Holdfast-Response."""
        response = decode_response(account)
        if response.sequence != sequence:
            raise Invalid("cannot keep the response: its number differs from that in the path")
        chunks: AsyncIterator[bytes] = request.stream()
        return await service.put_response(principal, grant, run, response, chunks)

    @get("/v1/runs/{run:str}/remap", permission=Permission.RUNS_WRITE)
    async def list_remap_sources(
        principal: Principal, run: str, grant: GrantText = ""
    ) -> list[RemapSource]:
        """List the runs whose stored bytes a re-mapping reads, in their order."""
        return await service.remap_sources(principal, grant, run)

    @get("/v1/runs/{run:str}/remap/{source:str}", permission=Permission.RUNS_WRITE)
    async def list_remap_responses(
        principal: Principal, run: str, source: str, grant: GrantText = ""
    ) -> list[RawResponse]:
        """List the raw responses of one of these runs."""
        return await service.remap_responses(principal, grant, run, source)

    @get(
        "/v1/runs/{run:str}/remap/{source:str}/{sequence:int}",
        permission=Permission.RUNS_WRITE,
        media_type="application/octet-stream",
    )
    async def download_remap_response(
        principal: Principal, run: str, source: str, sequence: int, grant: GrantText = ""
    ) -> Any:
        """Download one of these raw responses."""
        body = await service.remap_body(principal, grant, run, source, sequence)
        headers = {**ATTACHMENT, "Content-Length": str(body.stored.response.size_bytes)}
        return Stream(body.chunks, media_type="application/octet-stream", headers=headers)

    @get("/v1/runs/{run:str}/kept", permission=Permission.RUNS_WRITE)
    async def list_kept_responses(
        principal: Principal, run: str, after: int = -1, grant: GrantText = ""
    ) -> list[RawResponse]:
        """List pages that earlier attempts of the run have stored, some at a time."""
        return await service.kept(principal, grant, run, after=after)

    @get(
        "/v1/runs/{run:str}/known/{digest:str}",
        permission=Permission.RUNS_WRITE,
        media_type="application/octet-stream",
    )
    async def download_known_response(
        principal: Principal, run: str, digest: str, grant: GrantText = ""
    ) -> Any:
        """Give the worker of a run the bytes that it, or the last complete run, has stored."""
        body = await service.known_body(principal, grant, run, digest)
        headers = {**ATTACHMENT, "Content-Digest": content_digest(body.stored.response.digest)}
        return Stream(body.chunks, media_type="application/octet-stream", headers=headers)

    @post(
        "/v1/runs/{run:str}/responses/{sequence:int}/known",
        permission=Permission.RUNS_WRITE,
        status=200,
    )
    async def put_known_response(
        principal: Principal, run: str, sequence: int, data: RawResponse, grant: GrantText = ""
    ) -> StoredResponse:
        """Keep the account of a response whose bytes are here already."""
        if data.sequence != sequence:
            raise Invalid("cannot keep the response: its number differs from that in the path")
        return await service.put_known(principal, grant, run, data)

    @post("/v1/batches", permission=Permission.RUNS_WRITE, body_limit=BATCH_BYTES_MAX, status=200)
    async def post_batch(principal: Principal, data: Batch, grant: GrantText = "") -> BatchReceipt:
        """Stage a batch of records."""
        return await service.post_batch(principal, grant, data)

    @post("/v1/runs/{run:str}/finish", permission=Permission.RUNS_WRITE, status=200)
    async def finish_run(
        principal: Principal, run: str, data: RunFinish, grant: GrantText = ""
    ) -> Run:
        """End the run: publish it, or say why not."""
        _check_path(run, data.run)
        return await service.finish(principal, grant, data)

    return [
        open_run,
        plan_run,
        put_run_response,
        list_remap_sources,
        list_remap_responses,
        download_remap_response,
        list_kept_responses,
        download_known_response,
        put_known_response,
        post_batch,
        finish_run,
    ]


def _run_routes(service: RecordsService) -> list[Any]:
    @post("/v1/runs/{run:str}/close", permission=Permission.RUNS_WRITE, status=200)
    async def close_run(principal: Principal, run: str, data: RunClose) -> Run:
        """End a run that no worker will end."""
        _check_path(run, data.run)
        return await service.close(principal, data)

    @get("/v1/runs", permission=Permission.RUNS_READ, within=True)
    async def list_runs(
        principal: Principal,
        profile: str = "",
        status: str = "",
        run: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> Page[Run]:
        """List runs, the last one opened first."""
        which = run_filter(profile=profile, status=status, run=run, since=since, until=until)
        return await service.runs(principal, which, cursor=cursor, limit=limit)

    @get("/v1/runs/{run:str}", permission=Permission.RUNS_READ, within=True)
    async def show_run(principal: Principal, run: str) -> Run:
        """Show one run."""
        return await service.run(principal, run)

    @get("/v1/runs/{run:str}/diff", permission=Permission.RECORDS_READ, within=True)
    async def diff_run(
        principal: Principal,
        run: str,
        base: str = "",
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> RunDiff:
        """Compare what is published since the run with what was before it, or since `base`."""
        return await service.run_diff(principal, run, base=base, cursor=cursor, limit=limit)

    @post(
        "/v1/runs/{run:str}/accept", permission=Permission.PROFILES_WRITE, status=200, within=True
    )
    async def accept_run_drift(principal: Principal, run: str) -> Run:
        """Say that the source is to look from now on as this failed run saw it."""
        return await service.accept_drift(principal, run)

    @get("/v1/notices", permission=Permission.RUNS_READ, within=True)
    async def list_notices(
        principal: Principal, profile: str = "", cursor: str | None = None, limit: Limit = 100
    ) -> Page[Notice]:
        """List what somebody should be told about sources, the newest first."""
        return await service.notices(principal, profile=profile, cursor=cursor, limit=limit)

    @get("/v1/runs/{run:str}/responses", permission=Permission.RUNS_READ, within=True)
    async def list_run_responses(principal: Principal, run: str) -> list[StoredResponse]:
        """List the raw responses of a run."""
        return await service.responses(principal, run)

    @get(
        "/v1/runs/{run:str}/responses/{sequence:int}/content",
        permission=Permission.RECORDS_EXPORT,
        media_type="application/octet-stream",
        within=True,
    )
    async def download_run_response(principal: Principal, run: str, sequence: int) -> Any:
        """Download the bytes that the source sent, as an attachment.

        Of a profile with personal fields that takes `records:personal`, too. Each is an event.
        """
        body = await service.response_body(principal, run, sequence)
        headers = {
            **ATTACHMENT,
            "Content-Disposition": f'attachment; filename="{run}-{sequence}.bin"',
            "Content-Length": str(body.stored.response.size_bytes),
            "Content-Digest": content_digest(body.stored.response.digest),
        }
        return Stream(body.chunks, media_type="application/octet-stream", headers=headers)

    @get("/v1/results", permission=Permission.RUNS_READ, within=True)
    async def list_results(
        principal: Principal,
        profile: str = "",
        status: str = "",
        run: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> Page[Result]:
        """List what runs came to, the last one ended first."""
        which = run_filter(profile=profile, status=status, run=run, since=since, until=until)
        return await service.results(principal, which, cursor=cursor, limit=limit)

    @get("/v1/rejects", permission=Permission.RECORDS_READ, within=True)
    async def list_rejects(
        principal: Principal,
        profile: str = "",
        run: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: Limit = 100,
    ) -> Page[StoredReject]:
        """List rows that failed typing, with the reason."""
        which = run_filter(profile=profile, status="", run=run, since=since, until=until)
        return await service.rejects(principal, which, cursor=cursor, limit=limit)

    return [
        close_run,
        list_runs,
        show_run,
        diff_run,
        accept_run_drift,
        list_notices,
        list_run_responses,
        download_run_response,
        list_results,
        list_rejects,
    ]


def _record_routes(service: RecordsService) -> list[Any]:
    @get("/v1/records", permission=Permission.RECORDS_READ)
    async def list_records(
        principal: Principal,
        profile: str,
        as_of: str | None = None,
        vintage: str = "latest",
        run: str | None = None,
        period_from: str | None = None,
        period_to: str | None = None,
        dimension: tuple[str, ...] = (),
        withdrawn: bool = False,
        provenance: bool = False,
        cursor: str | None = None,
        limit: Limit = 100,
        known: IfNoneMatch = "",
    ) -> RecordPage:
        """List records of a profile; `dimension=NAME=VALUE` filters by a dimension."""
        which = record_filter(
            profile=profile,
            as_of=as_of,
            vintage=vintage,
            run=run,
            period_from=period_from,
            period_to=period_to,
            dimension=dimension,
            withdrawn=withdrawn,
            provenance=provenance,
        )
        page = await service.records(principal, which, cursor=cursor, limit=limit)
        answer: RecordPage = _conditional(page, known, changing=run is not None)
        return answer

    @get(
        "/v1/records/export",
        permission=Permission.RECORDS_EXPORT,
        media_type="application/octet-stream",
    )
    async def export_records(
        principal: Principal,
        profile: str,
        format: str = "ndjson",  # noqa: A002 - the parameter's name on the wire
        as_of: str | None = None,
        vintage: str = "latest",
        exact: bool = False,
    ) -> Any:
        """Export all records of a publication as ndjson, csv or parquet."""
        found = await service.export(
            principal, profile, format=format, as_of=as_of, vintage=vintage, exact=exact
        )
        headers = {
            **ATTACHMENT,
            "Content-Disposition": f'attachment; filename="{found.file_name}"',
            PUBLICATION_HEADER: str(found.publication),
            PERSONAL_HEADER: found.personal,
        }
        return Stream(found.chunks, media_type=found.media_type, headers=headers)

    @get("/v1/records/datapackage", permission=Permission.RECORDS_READ)
    async def describe_records(
        principal: Principal, profile: str, as_of: str | None = None
    ) -> dict[str, Any]:
        """Describe a profile's export as a Frictionless data package."""
        return await service.data_package(principal, profile, as_of=as_of)

    @get("/v1/records/{record:str}", permission=Permission.RECORDS_READ, within=True)
    async def show_record(
        principal: Principal, record: str, as_of: str | None = None
    ) -> RecordHistory:
        """Show one record with its revisions."""
        return await service.record(principal, record, as_of=as_of)

    @get(
        "/v1/records/{record:str}/receipt",
        permission=Permission.RECORDS_READ,
        media_type="application/json",
        within=True,
    )
    async def show_record_receipt(
        principal: Principal, record: str, revision: int | None = None
    ) -> Response[bytes]:
        """Give the receipt of a record's newest revision, or of the one that is named."""
        made = await service.receipt(principal, record, revision=revision)
        return Response(made, media_type="application/json", headers={"Cache-Control": "no-store"})

    @get("/v1/records/freshness", permission=Permission.RECORDS_READ, within=True)
    async def list_freshness(principal: Principal) -> list[Freshness]:
        """List how old each profile's data is."""
        return await service.freshness(principal)

    @post(
        "/v1/records/by-key",
        permission=Permission.RECORDS_READ,
        status=200,
        profile="data.profile",
    )
    async def find_record(principal: Principal, data: RecordWanted) -> RecordHistory:
        """Show the record with a key, with its revisions."""
        return await service.record_by_key(principal, data.profile, data.key, as_of=data.as_of)

    @post(
        "/v1/records/receipts",
        permission=Permission.RECORDS_READ,
        status=200,
        profile="data.profile",
    )
    async def give_receipts(principal: Principal, data: ReceiptsWanted) -> list[str]:
        """Give the receipts of many revisions of one profile's records, nothing personal opened."""
        made = await service.receipts(principal, data.profile, data.records)
        return [each.decode() for each in made]

    return [
        list_records,
        export_records,
        describe_records,
        show_record,
        show_record_receipt,
        find_record,
        give_receipts,
        list_freshness,
    ]


def _projection_routes(service: RecordsService) -> list[Any]:
    @get("/v1/projections/{profile:str}/info", permission=Permission.RECORDS_EXPORT)
    async def show_projection(
        principal: Principal, profile: str, as_of: str | None = None, vintage: str = "latest"
    ) -> ProjectionInfo:
        """Show the Parquet copy of a publication; it is made if it is not there."""
        found = await service.projection(principal, profile, as_of=as_of, vintage=vintage)
        # Where it lies on this machine is nobody's business on another.
        return msgspec.structs.replace(found, path="")

    @get(
        "/v1/projections/{profile:str}",
        permission=Permission.RECORDS_EXPORT,
        media_type="application/vnd.apache.parquet",
    )
    async def download_projection(
        principal: Principal,
        profile: str,
        as_of: str | None = None,
        vintage: str = "latest",
        known: IfNoneMatch = "",
    ) -> Any:
        """Download the Parquet copy of a publication."""
        found = await service.projection(principal, profile, as_of=as_of, vintage=vintage)
        tag = f'"{found.digest}"'
        headers = {
            **ATTACHMENT,
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f'attachment; filename="{profile}-{found.publication}.parquet"',
            "Content-Length": str(found.size_bytes),
            "Content-Digest": content_digest(found.digest),
            "ETag": tag,
            PUBLICATION_HEADER: str(found.publication),
        }
        if _names(known, tag):
            headers.pop("Content-Length")
            return Response(content=None, status_code=304, headers=headers)
        chunks = file_chunks(Path(found.path))
        return Stream(chunks, media_type="application/vnd.apache.parquet", headers=headers)

    return [show_projection, download_projection]


def _conditional(page: RecordPage, known: str, *, changing: bool) -> Any:
    """The page with its ETag, or 304 for whoever has the same.

    The tag is the page's digest. Its publication would not do: until when a revision held, and
    where raw bytes are gone, is told later. What is of people is kept by nobody, and read anew each
    time: who may see it, and whether it is still there, changes within a publication.
    """
    headers = {PUBLICATION_HEADER: str(page.publication)}
    if changing or any(record.personal for record in page.items):
        return Response(content=page, headers={**headers, "Cache-Control": "no-store"})
    content = msgspec.json.encode(page)
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers |= {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _names(known, tag):
        return Response(content=None, status_code=304, headers=headers)
    return Response(content=content, media_type="application/json", headers=headers)


def _names(known: str, tag: str) -> bool:
    """Whether ``If-None-Match`` names the tag; weakly is enough (RFC 9110 §13.1.2)."""
    tags = [text.strip().removeprefix("W/") for text in known.split(",")]
    return tag in tags or "*" in tags


def _check_path(path: str, body: str) -> None:
    if path != body:
        raise Invalid("cannot accept the request: the run in the path is not the one in the body")
