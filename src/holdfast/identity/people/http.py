"""The routes of people, invitations and tenants: parse, call, map."""

from __future__ import annotations

from typing import Any

from litestar import Response

from holdfast.identity.people.model import (
    INVITATIONS,
    PEOPLE,
    AdminCreate,
    ChangedPerson,
    EndedPerson,
    Invitation,
    NewInvitation,
    Person,
    PersonInvite,
    PersonRecover,
    RolesChange,
    Tenant,
    TenantCreate,
)
from holdfast.identity.people.service import PeopleService
from holdfast.kernel.http import get, post, put
from holdfast.kernel.http.paging import (
    Limit,
    Page,
    page_after,
    text_position,
)
from holdfast.kernel.http.routes import KeyText
from holdfast.kernel.principal import Permission, Principal


def handlers(service: PeopleService) -> list[Any]:
    """Every route of people."""
    return [*_people(service), *_invitations(service), *_tenants(service)]


def _people(service: PeopleService) -> list[Any]:
    @get("/v1/people", permission=Permission.IDENTITY_READ)
    async def list_people(
        principal: Principal, limit: Limit = 100, cursor: str | None = None
    ) -> Page[Person]:
        """List people, the newest first."""
        before = text_position(PEOPLE, cursor)
        items, following = await service.list_people(principal, before=before, limit=limit)
        return page_after(PEOPLE, items, following)

    @post("/v1/people/admin", permission=Permission.IDENTITY_WRITE)
    async def create_admin(
        principal: Principal, data: AdminCreate, key: KeyText = ""
    ) -> Response[NewInvitation]:
        """Invite the first administrator of a tenant; only the operator does."""
        return _once(await service.create_admin(principal, data, idempotency_key=key))

    @get("/v1/people/{person:str}", permission=Permission.IDENTITY_READ)
    async def find_person(principal: Principal, person: str) -> Person:
        """One person."""
        return await service.find_person(principal, person)

    @post("/v1/people/{person:str}/disable", permission=Permission.IDENTITY_WRITE, status=200)
    async def disable_person(principal: Principal, person: str) -> EndedPerson:
        """Nobody signs in as this person from now on; what they had open and what came of them
        ends: sessions, keys they made, keys those made, open invitations."""
        return await service.disable(principal, person)

    @post("/v1/people/{person:str}/forget", permission=Permission.IDENTITY_WRITE, status=200)
    async def forget_person(principal: Principal, person: str) -> EndedPerson:
        """Take out name, address, passkeys, accounts and sessions of a person, for ever; what came
        of them ends as if they were disabled."""
        return await service.forget(principal, person)

    @post("/v1/people/{person:str}/enable", permission=Permission.IDENTITY_WRITE, status=200)
    async def enable_person(principal: Principal, person: str) -> Person:
        """Let a person sign in again."""
        return await service.enable(principal, person)

    @post("/v1/people/{person:str}/recover", permission=Permission.IDENTITY_WRITE)
    async def recover_person(
        principal: Principal, person: str, data: PersonRecover | None = None, key: KeyText = ""
    ) -> Response[NewInvitation]:
        """Make a link by which somebody who lost their passkeys registers a new one; links of
        theirs that are open end, and with `end_passkeys` their passkeys and sessions."""
        return _once(await service.recover(principal, person, data, idempotency_key=key))

    @put("/v1/people/{person:str}/roles", permission=Permission.IDENTITY_WRITE)
    async def change_roles(principal: Principal, person: str, data: RolesChange) -> ChangedPerson:
        """Give a person other roles; what came of them and goes beyond these ends. With `dry_run`
        only tell what would."""
        return await service.change_roles(principal, person, data)

    return [
        list_people,
        create_admin,
        find_person,
        disable_person,
        forget_person,
        enable_person,
        recover_person,
        change_roles,
    ]


def _invitations(service: PeopleService) -> list[Any]:
    @post("/v1/invitations", permission=Permission.IDENTITY_WRITE)
    async def invite_person(
        principal: Principal, data: PersonInvite, key: KeyText = ""
    ) -> Response[NewInvitation]:
        """Invite somebody; the secret is in this answer and nowhere else."""
        return _once(await service.invite(principal, data, idempotency_key=key))

    @get("/v1/invitations", permission=Permission.IDENTITY_READ)
    async def list_invitations(
        principal: Principal, limit: Limit = 100, cursor: str | None = None
    ) -> Page[Invitation]:
        """List invitations, the newest first."""
        before = text_position(INVITATIONS, cursor)
        items, following = await service.list_invitations(principal, before=before, limit=limit)
        return page_after(INVITATIONS, items, following)

    @post(
        "/v1/invitations/{invitation:str}/revoke", permission=Permission.IDENTITY_WRITE, status=200
    )
    async def revoke_invitation(principal: Principal, invitation: str) -> Invitation:
        """End an invitation that nobody has used."""
        return await service.revoke_invitation(principal, invitation)

    return [invite_person, list_invitations, revoke_invitation]


def _tenants(service: PeopleService) -> list[Any]:
    @post("/v1/tenants", permission=Permission.IDENTITY_WRITE)
    async def create_tenant(principal: Principal, data: TenantCreate) -> Tenant:
        """Make a tenant; only the operator does."""
        return await service.create_tenant(principal, data)

    @get("/v1/tenants", permission=Permission.IDENTITY_READ)
    async def list_tenants(principal: Principal) -> list[Tenant]:
        """List every tenant; only the operator sees them."""
        return await service.list_tenants(principal)

    return [create_tenant, list_tenants]


def _once(made: NewInvitation) -> Response[NewInvitation]:
    return Response(content=made, status_code=201, headers={"Cache-Control": "no-store"})
