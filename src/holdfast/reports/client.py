"""The reports over HTTP, for whoever is in another process: the service's methods, the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal
from holdfast.reports.model import Report, ReportSpec, ReportSummary
from holdfast.reports.query import Query, QueryResult

if TYPE_CHECKING:
    from holdfast.kernel.http.client import ApiClient
    from holdfast.reports.chart import ChartFormat
    from holdfast.reports.export import DataFormat

RUN_SECONDS = 600.0
QUERY_SECONDS = 300.0
"""A computation may take as long as the reporter lets it; the reporter has the shorter deadline."""


class ReportsClient:
    """The reporter elsewhere. Who asks is in the client's credential; ``principal`` is not sent."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def run(self, principal: Principal, spec: ReportSpec) -> Report:
        """See :meth:`ReportsService.run`. Repeating it after a lost answer is safe."""
        del principal
        return await self._api.request(
            "POST", "/v1/reports", type=Report, json=spec, timeout_seconds=RUN_SECONDS
        )

    async def list(
        self,
        principal: Principal,
        *,
        name: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[ReportSummary]:
        """See :meth:`ReportsService.list`."""
        del principal
        return await self._api.request(
            "GET",
            "/v1/reports",
            type=Page[ReportSummary],
            params={
                "name": name or None,
                "since": since or None,
                "until": until or None,
                "cursor": cursor,
                "limit": limit,
            },
        )

    async def show(self, principal: Principal, report_id: str) -> Report:
        """See :meth:`ReportsService.show`."""
        del principal
        return await self._api.request("GET", _path(report_id), type=Report)

    async def data(
        self,
        principal: Principal,
        report_id: str,
        format: DataFormat = "json",  # noqa: A002 - the word of the interface
        *,
        exact: bool = False,
    ) -> bytes:
        """See :meth:`ReportsService.data`."""
        del principal
        return await self._api.request(
            "GET",
            f"{_path(report_id)}/data",
            type=bytes,
            params={"format": format, "exact": exact},
            timeout_seconds=RUN_SECONDS,
        )

    async def receipt(
        self, principal: Principal, report_id: str, column: str, row: int | None = None
    ) -> bytes:
        """See :meth:`ReportsService.receipt`."""
        del principal
        return await self._api.request(
            "GET",
            f"{_path(report_id)}/receipt",
            type=bytes,
            params={"column": column, "row": row},
            timeout_seconds=RUN_SECONDS,
        )

    async def chart(
        self,
        principal: Principal,
        report_id: str,
        format: ChartFormat = "svg",  # noqa: A002 - the word of the interface
    ) -> bytes:
        """See :meth:`ReportsService.chart`."""
        del principal
        return await self._api.request(
            "GET",
            f"{_path(report_id)}/chart.{quote(format, safe='')}",
            type=bytes,
            timeout_seconds=RUN_SECONDS,
        )


class QueryClient:
    """Ad-hoc SQL elsewhere. Who asks is in the client's credential; ``principal`` is not sent."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def query(self, principal: Principal, query: Query) -> QueryResult:
        """See :meth:`QueryService.query`. Repeating it is safe."""
        del principal
        return await self._api.request(
            "POST",
            "/v1/query",
            type=QueryResult,
            json=query,
            timeout_seconds=QUERY_SECONDS,
            repeatable=True,
        )

    async def answer_csv(self, principal: Principal, query: Query, *, exact: bool = False) -> bytes:
        """See :meth:`QueryService.answer_csv`. Repeating it is safe."""
        del principal
        return await self._api.request(
            "POST",
            "/v1/query",
            type=bytes,
            json=query,
            params={"format": "csv", "exact": exact},
            timeout_seconds=QUERY_SECONDS,
            repeatable=True,
        )


def _path(report_id: str) -> str:
    return f"/v1/reports/{quote(report_id, safe='')}"
