"""Identity over HTTP: the same methods as the service, for roles that run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from holdfast.identity.model import (
    KEYS,
    ApiKey,
    ApiKeyCreate,
    Derived,
    EndedKey,
    KeyHolder,
    KeyLookup,
    Maker,
    NewApiKey,
    Role,
    RoleDefine,
    Standing,
)
from holdfast.identity.notebook import AuditNote
from holdfast.kernel.http.client import ApiClient, with_key
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal


class IdentityClient:
    """What :class:`~holdfast.identity.service.IdentityService` promises, over an ``ApiClient``.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def create_key(
        self, principal: Principal | None, create: ApiKeyCreate, *, idempotency_key: str = ""
    ) -> NewApiKey:
        """See :meth:`IdentityService.create_key`."""
        headers = with_key(idempotency_key)
        return await self._api.request(
            "POST", "/v1/api-keys", json=create, headers=headers, type=NewApiKey
        )

    async def list_keys(
        self, principal: Principal | None, *, before: str = "", limit: int = 100
    ) -> tuple[list[ApiKey], str | None]:
        """See :meth:`IdentityService.list_keys`."""
        return await self._api.page(
            "/v1/api-keys", KEYS, type=Page[ApiKey], after=before, limit=limit
        )

    async def find_derived(self, principal: Principal | None, subject: str) -> Derived:
        """See :meth:`IdentityService.find_derived`."""
        path = f"/v1/derived/{quote(subject, safe='')}"
        return await self._api.request("GET", path, type=Derived)

    async def standing(
        self, principal: Principal | None, makers: Sequence[Maker]
    ) -> list[Standing]:
        """See :meth:`IdentityService.standing`; for services only, at most 1,000 at a time."""
        return await self._api.request(
            "POST", "/v1/derived/standing", json=list(makers), type=list[Standing]
        )

    async def revoke_key(self, principal: Principal | None, key: str) -> EndedKey:
        """See :meth:`IdentityService.revoke_key`."""
        path = f"/v1/api-keys/{quote(key, safe='')}/revoke"
        return await self._api.request("POST", path, json={}, type=EndedKey)

    async def find_holder(self, secret: str) -> KeyHolder:
        """See :meth:`IdentityService.find_holder`."""
        lookup = KeyLookup(secret=secret)
        return await self._api.request(
            "POST", "/v1/api-keys/authenticate", json=lookup, type=KeyHolder
        )

    async def record(self, notes: Sequence[AuditNote]) -> None:
        """See :meth:`IdentityService.record`."""
        await self._api.request("POST", "/v1/audit/notes", json=notes)

    async def list_roles(self, principal: Principal | None) -> list[Role]:
        """See :meth:`IdentityService.list_roles`."""
        return await self._api.request("GET", "/v1/roles", type=list[Role])

    async def define_role(self, principal: Principal | None, name: str, define: RoleDefine) -> Role:
        """See :meth:`IdentityService.define_role`."""
        path = f"/v1/roles/{quote(name, safe='')}"
        return await self._api.request("PUT", path, json=define, type=Role)

    async def drop_role(self, principal: Principal | None, name: str) -> None:
        """See :meth:`IdentityService.drop_role`."""
        await self._api.request("DELETE", f"/v1/roles/{quote(name, safe='')}")
