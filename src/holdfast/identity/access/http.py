"""The routes of access after a restore: parse, call, map."""

from __future__ import annotations

from typing import Any

from holdfast.identity.access.model import WAYS, Access, AccessConfirm, AccessEnd, AccessEnded, Way
from holdfast.identity.access.service import AccessService
from holdfast.kernel.http import get, post
from holdfast.kernel.http.paging import Limit, Page, page_after, text_position
from holdfast.kernel.principal import Permission, Principal


def handlers(service: AccessService) -> list[Any]:
    """Every route of access."""

    @get("/v1/access", permission=Permission.IDENTITY_READ)
    async def find_access(principal: Principal) -> Access:
        """Tell the operator whether access is confirmed, and since which backups it is not."""
        return await service.find(principal)

    @get("/v1/access/ways", permission=Permission.IDENTITY_READ)
    async def list_ways(
        principal: Principal, limit: Limit = 100, cursor: str | None = None
    ) -> Page[Way]:
        """List for the operator every key and person that would be let in."""
        after = text_position(WAYS, cursor)
        items, following = await service.ways(principal, after=after, limit=limit)
        return page_after(WAYS, items, following)

    @post("/v1/access/end", permission=Permission.IDENTITY_WRITE, status=200)
    async def end_access(principal: Principal, data: AccessEnd) -> AccessEnded:
        """End a key, a person, a passkey or a linked account of any tenant; for the operator."""
        return await service.end(principal, data)

    @post("/v1/access/confirm", permission=Permission.IDENTITY_WRITE, status=200)
    async def confirm_access(principal: Principal, data: AccessConfirm | None = None) -> Access:
        """Let in again who may enter now; only the operator says so, after a restore."""
        return await service.confirm(principal, data or AccessConfirm())

    return [find_access, list_ways, end_access, confirm_access]


def worker_handlers(service: AccessService) -> list[Any]:
    """The same of workers and join tokens, where another role keeps them in its own database."""

    @get("/v1/access/workers", permission=Permission.WORKERS_READ)
    async def find_worker_access(principal: Principal) -> Access:
        """Tell the operator whether workers and join tokens of a restore are confirmed."""
        return await service.find(principal)

    @post("/v1/access/workers/confirm", permission=Permission.WORKERS_WRITE, status=200)
    async def confirm_worker_access(
        principal: Principal, data: AccessConfirm | None = None
    ) -> Access:
        """Let in again the workers and join tokens that hold now; only the operator says so."""
        return await service.confirm(principal, data or AccessConfirm())

    return [find_worker_access, confirm_worker_access]
