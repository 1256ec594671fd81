"""The routes of identity: parse, call, map."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response
from msgspec import Meta

from holdfast.identity.audit import TYPES
from holdfast.identity.model import (
    KEYS,
    MAKERS_MAX,
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
from holdfast.identity.service import IdentityService
from holdfast.kernel.errors import Denied, Invalid
from holdfast.kernel.http import delete, get, post, put
from holdfast.kernel.http.paging import Limit, Page, page_after, text_position
from holdfast.kernel.http.routes import KeyText
from holdfast.kernel.ids import is_name
from holdfast.kernel.principal import Permission, Principal, PrincipalKind


def handlers(service: IdentityService) -> list[Any]:
    """Every route of identity."""
    return [*_keys(service), *_roles(service), *_audit(service)]


def _audit(service: IdentityService) -> list[Any]:
    @post("/v1/audit/notes", permission=Permission.IDENTITY_WRITE, status=204)
    async def record_notes(
        principal: Principal, data: Annotated[list[AuditNote], Meta(max_length=1000)]
    ) -> None:
        """Write what a door noted; for services only."""
        if principal.kind is not PrincipalKind.SERVICE:
            raise Denied("cannot write the audit: only services may")
        if any(note.type not in TYPES for note in data):
            raise Invalid("cannot write the audit: there is no such type of note")
        await service.record(data)

    return [record_notes]


def _keys(service: IdentityService) -> list[Any]:
    @post("/v1/api-keys", permission=Permission.IDENTITY_WRITE)
    async def create_api_key(
        principal: Principal, data: ApiKeyCreate, key: KeyText = ""
    ) -> Response[NewApiKey]:
        """Make an API key; its secret is in this answer and nowhere else."""
        made = await service.create_key(principal, data, idempotency_key=key)
        return Response(content=made, status_code=201, headers={"Cache-Control": "no-store"})

    @get("/v1/api-keys", permission=Permission.IDENTITY_READ)
    async def list_api_keys(
        principal: Principal, limit: Limit = 100, cursor: str | None = None
    ) -> Page[ApiKey]:
        """List API keys, the newest first."""
        before = text_position(KEYS, cursor)
        items, following = await service.list_keys(principal, before=before, limit=limit)
        return page_after(KEYS, items, following)

    @post("/v1/api-keys/{key:str}/revoke", permission=Permission.IDENTITY_WRITE, status=200)
    async def revoke_api_key(principal: Principal, key: str) -> EndedKey:
        """End an API key, and with it the keys and open invitations that came of it."""
        return await service.revoke_key(principal, key)

    @get("/v1/derived/{subject:str}", permission=Permission.IDENTITY_READ)
    async def find_derived(principal: Principal, subject: str) -> Derived:
        """List what would end with a key or a person, and who came by their invitations."""
        return await service.find_derived(principal, subject)

    @post("/v1/derived/standing", permission=Permission.IDENTITY_READ, status=200)
    async def find_standing(
        principal: Principal, data: Annotated[list[Maker], Meta(max_length=MAKERS_MAX)]
    ) -> list[Standing]:
        """Tell a role whether what somebody made there still stands; for services only."""
        if principal.kind is not PrincipalKind.SERVICE:
            raise Denied("cannot ask what stands: only services may")
        if not all(is_name(maker.tenant) for maker in data):
            raise Invalid("cannot tell what stands: a tenant is no name of one")
        return await service.standing(principal, data)

    @post("/v1/api-keys/authenticate", permission=Permission.IDENTITY_READ, status=200)
    async def authenticate_api_key(principal: Principal, data: KeyLookup) -> KeyHolder:
        """Tell the public door whom a key speaks for; for services only."""
        if principal.kind is not PrincipalKind.SERVICE:
            raise Denied("cannot ask who holds a key: only services may")
        return await service.find_holder(data.secret)

    return [
        create_api_key,
        list_api_keys,
        revoke_api_key,
        find_derived,
        find_standing,
        authenticate_api_key,
    ]


def _roles(service: IdentityService) -> list[Any]:
    @get("/v1/roles", permission=Permission.IDENTITY_READ)
    async def list_roles(principal: Principal) -> list[Role]:
        """List the roles and what they allow."""
        return await service.list_roles(principal)

    @put("/v1/roles/{name:str}", permission=Permission.IDENTITY_WRITE)
    async def define_role(principal: Principal, name: str, data: RoleDefine) -> Role:
        """Make or change a role of your own."""
        return await service.define_role(principal, name, data)

    @delete("/v1/roles/{name:str}", permission=Permission.IDENTITY_WRITE)
    async def drop_role(principal: Principal, name: str) -> None:
        """Forget a role of your own. What people with it made, and may make no more, ends."""
        await service.drop_role(principal, name)

    return [list_roles, define_role, drop_role]
