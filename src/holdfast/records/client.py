"""The aggregator over HTTP: the same methods as :class:`holdfast.records.service.RecordsService`.

Imports nothing of the server. ``principal`` is there so that callers can hold either; over HTTP it
is the client's credential that says who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal
from holdfast.records.errors import NoSuchRecord
from holdfast.records.model import (
    Batch,
    BatchReceipt,
    Freshness,
    Notice,
    ProjectionInfo,
    RawResponse,
    ReceiptsWanted,
    Record,
    RecordFilter,
    RecordHistory,
    RecordPage,
    RecordWanted,
    RemapSource,
    Result,
    Run,
    RunClose,
    RunDiff,
    RunFilter,
    RunFinish,
    RunOpen,
    RunPlan,
    StoredReject,
    StoredResponse,
)
from holdfast.records.ports import Export, ResponseBody
from holdfast.records.wire import (
    GRANT_HEADER,
    PERSONAL_HEADER,
    PUBLICATION_HEADER,
    RESPONSE_HEADER,
    encode_response,
    filter_parameters,
    run_parameters,
)

STREAM_LIMIT = 1_000
PROJECTIONS_KEPT = 16
READ_SECONDS = 1800.0
"""So long somebody may be reading a copy: longer than a query or a report may take."""
_FILE_NAME = re.compile(r'filename="([^"/\\]+)"')


class _Account(RawResponse, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """An account as it is answered: what a later release tells in it is passed over.

    Servers are renewed before those who ask them. What is sent to one is strict: it would not keep
    what it does not know.
    """

    def known(self) -> RawResponse:
        return RawResponse(**msgspec.structs.asdict(self))


class _Stored(StoredResponse, frozen=True, kw_only=True):
    response: _Account

    def known(self) -> StoredResponse:
        members = msgspec.structs.asdict(self) | {"response": self.response.known()}
        return StoredResponse(**members)


class RecordsClient:
    """Runs, batches, records, results and rejects of the aggregator behind ``api``.

    ``projections`` is the folder for copies of its Parquet files; a temporary one if left out.
    """

    def __init__(self, api: ApiClient, *, projections: Path | None = None) -> None:
        self._api = api
        self._projections = projections
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._checked: set[Path] = set()

    # --- what a worker does -------------------------------------------------------------------

    async def open(self, principal: Principal, grant: str, request: RunOpen) -> Run:
        """Begin the run of the grant, or take it over with a higher fence."""
        return await self._api.request(
            "POST", "/v1/runs", json=request, headers={GRANT_HEADER: grant}, type=Run
        )

    async def plan(self, principal: Principal, grant: str, run: str) -> RunPlan:
        """Where the run begins."""
        return await self._api.request(
            "GET", _run(run, "/plan"), headers={GRANT_HEADER: grant}, type=RunPlan
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
        stored = await self._api.request(
            "PUT",
            _run(run, f"/responses/{response.sequence}"),
            content=content,
            headers={
                GRANT_HEADER: grant,
                RESPONSE_HEADER: encode_response(response),
                "Content-Type": "application/octet-stream",
            },
            type=_Stored,
        )
        return stored.known()

    async def kept(
        self, principal: Principal, grant: str, run: str, *, after: int = -1
    ) -> list[RawResponse]:
        """Pages that earlier attempts of the run have stored, some at a time."""
        kept = await self._api.request(
            "GET",
            _run(run, "/kept"),
            params={"after": after},
            headers={GRANT_HEADER: grant},
            type=list[_Account],
        )
        return [account.known() for account in kept]

    async def known_chunks(
        self, principal: Principal, grant: str, run: str, digest: str
    ) -> AsyncIterator[bytes]:
        """The bytes with that digest, if they are of this run or of the last complete one.

        They are checked by the aggregator as they pass, and by whoever needs them to be right.
        """
        path = _run(run, f"/known/{_quoted(digest)}")
        async with self._api.stream("GET", path, headers={GRANT_HEADER: grant}) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    async def put_known(
        self, principal: Principal, grant: str, run: str, response: RawResponse
    ) -> StoredResponse:
        """Keep the account of a response whose bytes are there already; durable on return."""
        stored = await self._api.request(
            "POST",
            _run(run, f"/responses/{response.sequence}/known"),
            json=response,
            headers={GRANT_HEADER: grant},
            type=_Stored,
        )
        return stored.known()

    async def post_batch(self, principal: Principal, grant: str, batch: Batch) -> BatchReceipt:
        """Stage a batch; on return it is durable, and invisible until its run is published."""
        return await self._api.request(
            "POST", "/v1/batches", json=batch, headers={GRANT_HEADER: grant}, type=BatchReceipt
        )

    async def finish(self, principal: Principal, grant: str, request: RunFinish) -> Run:
        """End the run as the worker says, or as the profile's rules decide."""
        return await self._api.request(
            "POST",
            _run(request.run, "/finish"),
            json=request,
            headers={GRANT_HEADER: grant},
            type=Run,
        )

    async def remap_sources(self, principal: Principal, grant: str, run: str) -> list[RemapSource]:
        """The runs whose bytes are to be mapped again, in the order in which to read them."""
        return await self._api.request(
            "GET", _run(run, "/remap"), headers={GRANT_HEADER: grant}, type=list[RemapSource]
        )

    async def remap_responses(
        self, principal: Principal, grant: str, run: str, source: str
    ) -> list[RawResponse]:
        """The accounts of one of these runs' responses, in order."""
        kept = await self._api.request(
            "GET",
            _run(run, f"/remap/{_quoted(source)}"),
            headers={GRANT_HEADER: grant},
            type=list[_Account],
        )
        return [account.known() for account in kept]

    async def remap_chunks(
        self, principal: Principal, grant: str, run: str, source: str, sequence: int
    ) -> AsyncIterator[bytes]:
        """The bytes of one of these responses."""
        path = _run(run, f"/remap/{_quoted(source)}/{sequence}")
        async with self._api.stream("GET", path, headers={GRANT_HEADER: grant}) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    # --- what the coordinator does ------------------------------------------------------------

    async def close(self, principal: Principal, request: RunClose) -> Run:
        """End a run that no worker will end. Idempotent; also for a run that was never opened."""
        return await self._api.request("POST", _run(request.run, "/close"), json=request, type=Run)

    # --- reading ------------------------------------------------------------------------------

    async def run(self, principal: Principal, run: str) -> Run:
        """One run as it stands."""
        return await self._api.request("GET", _run(run), type=Run)

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

    async def run_diff(
        self,
        principal: Principal,
        run: str,
        *,
        base: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> RunDiff:
        """What the run changed, or what changed between ``base`` and it, a page at a time."""
        parameters = {"base": base or None, "cursor": cursor, "limit": limit}
        return await self._api.request("GET", _run(run, "/diff"), params=parameters, type=RunDiff)

    async def accept_drift(self, principal: Principal, run: str) -> Run:
        """Say that the source is to look from now on as this failed run saw it."""
        return await self._api.request("POST", _run(run, "/accept"), json={}, type=Run)

    async def notices(
        self,
        principal: Principal,
        *,
        profile: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Notice]:
        """What somebody should be told about sources, the newest first."""
        parameters = {"profile": profile or None, "cursor": cursor, "limit": limit}
        return await self._api.request("GET", "/v1/notices", params=parameters, type=Page[Notice])

    async def responses(self, principal: Principal, run: str) -> list[StoredResponse]:
        """The raw responses of the run's current attempt, in order."""
        found = await self._api.request("GET", _run(run, "/responses"), type=list[_Stored])
        return [stored.known() for stored in found]

    async def response_body(self, principal: Principal, run: str, sequence: int) -> ResponseBody:
        """One raw response with its bytes; asking for them is an event there."""
        stored = next(
            (
                found
                for found in await self.responses(principal, run)
                if found.response.sequence == sequence
            ),
            None,
        )
        path = _run(run, f"/responses/{sequence}/content")
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
            "GET", f"/v1/records/{_record(record)}", params={"as_of": as_of}, type=RecordHistory
        )

    async def record_by_key(
        self, principal: Principal, profile: str, key: Sequence[str], *, as_of: str | None = None
    ) -> RecordHistory:
        """The same of the record with this key, each part as it is shown."""
        wanted = RecordWanted(profile=profile, key=list(key), as_of=as_of)
        return await self._api.request(
            "POST", "/v1/records/by-key", json=wanted, type=RecordHistory
        )

    async def receipts(
        self, principal: Principal, profile: str, wanted: Sequence[str]
    ) -> list[bytes]:
        """Receipts of revisions of a profile's records, each ``RECORD@REVISION``."""
        found = await self._api.request(
            "POST",
            "/v1/records/receipts",
            json=ReceiptsWanted(profile=profile, records=list(wanted)),
            type=list[str],
        )
        return [each.encode() for each in found]

    async def receipt(
        self, principal: Principal, record: str, *, revision: int | None = None
    ) -> bytes:
        """The receipt of a record's published revision (the newest by default), canonical."""
        return await self._api.request(
            "GET",
            f"/v1/records/{_record(record)}/receipt",
            params={"revision": revision},
            type=bytes,
        )

    async def freshness(self, principal: Principal) -> list[Freshness]:
        """How old every profile's data is, and whether that is normal."""
        return await self._api.request("GET", "/v1/records/freshness", type=list[Freshness])

    # --- whole publications -------------------------------------------------------------------

    async def export(
        self,
        principal: Principal,
        profile: str,
        *,
        format: str = "ndjson",  # noqa: A002 - the parameter's name on the wire
        as_of: str | None = None,
        vintage: str = "latest",
        exact: bool = False,
    ) -> Export:
        """All records of a publication in one file, streamed. Read its chunks to the end."""
        parameters = {
            "profile": profile,
            "format": format,
            "as_of": as_of,
            "vintage": vintage,
            "exact": exact or None,
        }
        parts = self._parts("/v1/records/export", parameters)
        headers: Any = await anext(parts)
        named = _FILE_NAME.search(headers.get("content-disposition", ""))
        return Export(
            file_name=named[1] if named else f"{profile}.{format}",
            media_type=headers.get("content-type", ""),
            publication=int(headers[PUBLICATION_HEADER]),
            personal=headers.get(PERSONAL_HEADER, "none"),
            chunks=parts,
        )

    async def data_package(
        self, principal: Principal, profile: str, *, as_of: str | None = None
    ) -> dict[str, Any]:
        """The Frictionless data package of a publication's CSV export."""
        parameters = {"profile": profile, "as_of": as_of}
        return await self._api.request(
            "GET", "/v1/records/datapackage", params=parameters, type=dict[str, Any]
        )

    async def projection(
        self,
        principal: Principal,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: str = "latest",
    ) -> ProjectionInfo:
        """The Parquet file of what is published, or was at ``as_of``, copied to this machine.

        ``path`` names the copy; its digest has been checked.
        """
        parameters = {"as_of": as_of, "vintage": vintage}
        base = f"/v1/projections/{_quoted(profile)}"
        info: ProjectionInfo = await self._api.request(
            "GET", f"{base}/info", params=parameters, type=ProjectionInfo
        )
        path = self._folder() / f"{info.digest.partition(':')[2]}.parquet"
        if not await asyncio.to_thread(self._copied, path, info.digest):
            await self._download(base, parameters, info.digest, path)
            self._checked -= await asyncio.to_thread(_prune, path.parent, path)
        return msgspec.structs.replace(info, path=str(path))

    def _copied(self, path: Path, digest: str) -> bool:
        """Whether the copy is there and its bytes are right, which is looked at once.

        Another process made it, perhaps, and the machine lost its power then. It is marked as used.
        """
        try:
            with path.open("rb") as file:
                if path not in self._checked:
                    if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
                        path.unlink(missing_ok=True)
                        return False
                    self._checked.add(path)
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    async def _download(
        self, base: str, parameters: dict[str, Any], digest: str, path: Path
    ) -> None:
        found = hashlib.sha256()
        async with contextlib.aclosing(self._parts(base, parameters)) as parts:
            await anext(parts)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part") as file:
                async for chunk in parts:
                    found.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
                if f"sha256:{found.hexdigest()}" != digest:
                    raise Corrupt(f"cannot use the projection from {base}: its bytes are others")
                file.flush()
                await asyncio.to_thread(_name, Path(file.name), path)

    async def _parts(self, path: str, parameters: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """The headers of the answer, then its bytes."""
        async with self._api.stream("GET", path, params=parameters) as response:
            yield response.headers
            async for chunk in response.aiter_bytes():
                yield chunk

    def _folder(self) -> Path:
        if self._projections is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="holdfast-projections-")
            self._projections = Path(self._temporary.name)
        self._projections.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._projections

    def drop_copies(self) -> None:
        """Remove the temporary folder of copies, if there is one; asked again, it is made anew."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._projections = None
            self._checked.clear()


def _run(run: str, rest: str = "") -> str:
    return f"/v1/runs/{_quoted(run)}{rest}"


def _record(record: str) -> str:
    """A record's id, which is hexadecimal: `freshness` there would ask for something else."""
    if not re.fullmatch(r"[0-9a-f]+", record):
        raise NoSuchRecord(
            f"cannot find the record {record[:64]!r}: that is no id of one",
            hint="`holdfast record list --json` has the ids",
        )
    return record


def _quoted(part: str) -> str:
    """One step of a path, whatever somebody wrote for an id. Digests keep their colon."""
    return quote(part, safe=":")


def _name(written: Path, path: Path) -> None:
    """Give the file its name; another copy of it under that name is as good."""
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(written)


def _prune(folder: Path, newest: Path) -> set[Path]:
    """Keep the last few copies, and all that somebody may be reading: a query reads many at once.

    What a dead process left half-made goes, too. Answers what is gone.
    """
    ages = {path: _used(path) for path in folder.glob("*.*")}
    limit = ages.get(newest, 0.0) - READ_SECONDS
    copies = [path for path in ages if path.suffix == ".parquet"]
    copies.sort(key=lambda path: ages[path], reverse=True)
    spare = {*copies[PROJECTIONS_KEPT:], *(path for path in ages if path.suffix == ".part")}
    gone = {path for path in spare if ages[path] < limit}
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


def _used(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
