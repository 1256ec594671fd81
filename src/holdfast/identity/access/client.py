"""Access after a restore, over HTTP."""

from __future__ import annotations

from holdfast.identity.access.model import WAYS, Access, AccessConfirm, Way
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal


class AccessClient:
    """What :class:`~holdfast.identity.access.service.AccessService` promises, over HTTP."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def find(self, principal: Principal | None) -> Access:
        """See :meth:`AccessService.find`."""
        return await self._api.request("GET", "/v1/access", type=Access)

    async def ways(
        self, principal: Principal | None, *, after: str = "", limit: int = 100
    ) -> tuple[list[Way], str | None]:
        """See :meth:`AccessService.ways`."""
        return await self._api.page(
            "/v1/access/ways", WAYS, type=Page[Way], after=after, limit=limit
        )

    async def confirm(self, principal: Principal | None, wanted: AccessConfirm) -> Access:
        """See :meth:`AccessService.confirm`."""
        return await self._api.request("POST", "/v1/access/confirm", json=wanted, type=Access)
