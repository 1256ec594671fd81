"""The reports over HTTP: parse, call the service, map the answer."""

from __future__ import annotations

from typing import Any

from litestar import Response

from holdfast.kernel.errors import Invalid
from holdfast.kernel.http import ApiRequest, Page, get, post
from holdfast.kernel.http.paging import Limit
from holdfast.kernel.principal import Permission, Principal
from holdfast.reports.asking import QueryService
from holdfast.reports.export import DataFormat
from holdfast.reports.model import Report, ReportSummary
from holdfast.reports.query import Query, QueryResult
from holdfast.reports.service import ReportsService
from holdfast.reports.spec import read_spec

SPEC_TYPES = ("application/json", "application/yaml", "application/x-yaml", "text/yaml")
MEDIA_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "png": "image/png",
    "svg": "image/svg+xml",
}
SANDBOX = "default-src 'none'; sandbox"
"""A picture opened as a document runs nothing and fetches nothing."""


def handlers(service: ReportsService) -> list[Any]:
    """The routes of the reporter."""

    @post("/v1/reports", permission=Permission.REPORTS_WRITE, accepts=SPEC_TYPES, within=True)
    async def run(request: ApiRequest, principal: Principal) -> Response[Report]:
        """Compute a report, or answer the one that the same spec over the same inputs gave."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        spec = read_spec(await request.body(), media_type=media_type)
        report = await service.run(principal, spec)
        return Response(
            report,
            status_code=200 if report.unchanged else 201,
            headers={"Location": f"/v1/reports/{report.id}"},
        )

    @get("/v1/reports", permission=Permission.REPORTS_READ, within=True)
    async def list_(
        principal: Principal,
        name: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: Limit = 50,
    ) -> Page[ReportSummary]:
        """Reports, newest first; of one name, created in a span of time."""
        return await service.list(
            principal, name=name, since=since, until=until, cursor=cursor, limit=limit
        )

    @get("/v1/reports/{report_id:str}", permission=Permission.REPORTS_READ, within=True)
    async def show(principal: Principal, report_id: str) -> Report:
        """One report, with the beginning of its rows."""
        return await service.show(principal, report_id)

    @get("/v1/reports/{report_id:str}/data", permission=Permission.REPORTS_READ, within=True)
    async def data(
        principal: Principal,
        report_id: str,
        format: str = "json",  # noqa: A002 - the word of the interface
        exact: bool = False,
    ) -> Response[bytes]:
        """All rows of a report as JSON, CSV or Parquet."""
        wanted: DataFormat = format  # type: ignore[assignment]  # the service refuses others
        content = await service.data(principal, report_id, wanted, exact=exact)
        return _attachment(content, report_id, format)

    @get("/v1/reports/{report_id:str}/chart.svg", permission=Permission.REPORTS_READ, within=True)
    async def chart_svg(principal: Principal, report_id: str) -> Response[bytes]:
        """The report drawn, as SVG."""
        return _attachment(await service.chart(principal, report_id, "svg"), report_id, "svg")

    @get("/v1/reports/{report_id:str}/chart.png", permission=Permission.REPORTS_READ, within=True)
    async def chart_png(principal: Principal, report_id: str) -> Response[bytes]:
        """The report drawn, as PNG at twice the size."""
        return _attachment(await service.chart(principal, report_id, "png"), report_id, "png")

    @get(
        "/v1/reports/{report_id:str}/receipt",
        permission=Permission.REPORTS_READ,
        media_type="application/json",
        within=True,
    )
    async def receipt(
        principal: Principal, report_id: str, column: str, row: int | None = None
    ) -> Response[bytes]:
        """Give the receipt of one cell, by row and column, or of a coefficient by its path."""
        made = await service.receipt(principal, report_id, column, row)
        return Response(made, media_type="application/json", headers={"Cache-Control": "no-store"})

    return [run, list_, show, data, chart_svg, chart_png, receipt]


def query_handlers(service: QueryService) -> list[Any]:
    """The route of ad-hoc SQL."""

    @post("/v1/query", permission=Permission.REPORTS_READ, status=200, within=True)
    async def query(
        principal: Principal,
        data: Query,
        format: str = "json",  # noqa: A002 - the word of the interface
        exact: bool = False,
    ) -> Response[QueryResult]:
        """Answer one SELECT over records, events, runs and tasks as of any moment.

        With format=csv the rows as CSV; exact leaves cells that look like formulas as they are.
        """
        if format not in ("json", "csv"):
            raise Invalid(f"cannot answer as {format[:40]!r}: json or csv")
        answered: Any = (
            await service.answer(principal, data)
            if format == "json"
            else await service.answer_csv(principal, data, exact=exact)
        )
        return Response(
            answered,
            media_type=MEDIA_TYPES[format],
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )

    return [query]


def _attachment(content: bytes, report_id: str, extension: str) -> Response[bytes]:
    """Bytes to be kept, not shown: whatever they hold, no page of ours runs it."""
    return Response(
        content,
        media_type=MEDIA_TYPES[extension],
        headers={
            "Content-Disposition": f'attachment; filename="report-{report_id}.{extension}"',
            "Content-Security-Policy": SANDBOX,
            "X-Content-Type-Options": "nosniff",
        },
    )
