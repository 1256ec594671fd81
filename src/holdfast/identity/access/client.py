"""Access after a restore, over HTTP."""

from __future__ import annotations

from holdfast.identity.access.model import WAYS, Access, AccessConfirm, AccessEnd, AccessEnded, Way
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal

PLACES = ("/v1/access", "/v1/access/workers")
"""Where what a restore left open is known: of keys and people, and of workers. Roles that share a
database have the same to say."""


class AccessClient:
    """What :class:`~holdfast.identity.access.service.AccessService` promises, over HTTP."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def find(self, principal: Principal | None) -> Access:
        """See :meth:`AccessService.find`; of every role that lets somebody in."""
        return _of_all([await self._api.request("GET", each, type=Access) for each in PLACES])

    async def ways(
        self, principal: Principal | None, *, after: str = "", limit: int = 100
    ) -> tuple[list[Way], str | None]:
        """See :meth:`AccessService.ways`."""
        return await self._api.page(
            "/v1/access/ways", WAYS, type=Page[Way], after=after, limit=limit
        )

    async def end(self, principal: Principal | None, wanted: AccessEnd) -> AccessEnded:
        """See :meth:`AccessService.end`."""
        return await self._api.request("POST", "/v1/access/end", json=wanted, type=AccessEnded)

    async def confirm(self, principal: Principal | None, wanted: AccessConfirm) -> Access:
        """See :meth:`AccessService.confirm`; one role after the other, twice is fine."""
        return _of_all(
            [
                await self._api.request("POST", f"{each}/confirm", json=wanted, type=Access)
                for each in PLACES
            ]
        )


def _of_all(found: list[Access]) -> Access:
    each = {(one.tenant, one.backup): one for part in found for one in part.unconfirmed}
    return Access(confirmed=not each, unconfirmed=[each[key] for key in sorted(each)])
