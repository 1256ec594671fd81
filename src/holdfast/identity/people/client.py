"""People over HTTP: the same methods as the service."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

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
from holdfast.kernel.http.client import ApiClient, with_key
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal


class PeopleClient:
    """What :class:`~.service.PeopleService` promises, over an ``ApiClient``.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def invite(
        self, principal: Principal | None, invite: PersonInvite, *, idempotency_key: str = ""
    ) -> NewInvitation:
        """See :meth:`PeopleService.invite`."""
        return await self._ask("/v1/invitations", invite, idempotency_key)

    async def create_admin(
        self, principal: Principal | None, create: AdminCreate, *, idempotency_key: str = ""
    ) -> NewInvitation:
        """See :meth:`PeopleService.create_admin`."""
        return await self._ask("/v1/people/admin", create, idempotency_key)

    async def recover(
        self,
        principal: Principal | None,
        person: str,
        recover: PersonRecover | None = None,
        *,
        idempotency_key: str = "",
    ) -> NewInvitation:
        """See :meth:`PeopleService.recover`."""
        body = recover or PersonRecover()
        return await self._ask(f"{_path(person)}/recover", body, idempotency_key)

    async def _ask(self, path: str, body: Any, idempotency_key: str) -> NewInvitation:
        headers = with_key(idempotency_key)
        return await self._api.request("POST", path, json=body, headers=headers, type=NewInvitation)

    async def list_invitations(
        self, principal: Principal | None, *, before: str = "", limit: int = 100
    ) -> tuple[list[Invitation], str | None]:
        """See :meth:`PeopleService.list_invitations`."""
        return await self._api.page(
            "/v1/invitations", INVITATIONS, type=Page[Invitation], after=before, limit=limit
        )

    async def revoke_invitation(self, principal: Principal | None, invitation: str) -> Invitation:
        """See :meth:`PeopleService.revoke_invitation`."""
        path = f"/v1/invitations/{quote(invitation, safe='')}/revoke"
        return await self._api.request("POST", path, json={}, type=Invitation)

    async def list_people(
        self, principal: Principal | None, *, before: str = "", limit: int = 100
    ) -> tuple[list[Person], str | None]:
        """See :meth:`PeopleService.list_people`."""
        return await self._api.page(
            "/v1/people", PEOPLE, type=Page[Person], after=before, limit=limit
        )

    async def find_person(self, principal: Principal | None, person: str) -> Person:
        """See :meth:`PeopleService.find_person`."""
        return await self._api.request("GET", _path(person), type=Person)

    async def disable(self, principal: Principal | None, person: str) -> EndedPerson:
        """See :meth:`PeopleService.disable`."""
        return await self._api.request(
            "POST", f"{_path(person)}/disable", json={}, type=EndedPerson
        )

    async def forget(self, principal: Principal | None, person: str) -> EndedPerson:
        """See :meth:`PeopleService.forget`."""
        return await self._api.request("POST", f"{_path(person)}/forget", json={}, type=EndedPerson)

    async def enable(self, principal: Principal | None, person: str) -> Person:
        """See :meth:`PeopleService.enable`."""
        return await self._api.request("POST", f"{_path(person)}/enable", json={}, type=Person)

    async def change_roles(
        self, principal: Principal | None, person: str, change: RolesChange
    ) -> ChangedPerson:
        """See :meth:`PeopleService.change_roles`."""
        return await self._api.request(
            "PUT", f"{_path(person)}/roles", json=change, type=ChangedPerson
        )

    async def create_tenant(self, principal: Principal | None, create: TenantCreate) -> Tenant:
        """See :meth:`PeopleService.create_tenant`."""
        return await self._api.request("POST", "/v1/tenants", json=create, type=Tenant)

    async def list_tenants(self, principal: Principal | None) -> list[Tenant]:
        """See :meth:`PeopleService.list_tenants`."""
        return await self._api.request("GET", "/v1/tenants", type=list[Tenant])


def _path(person: str) -> str:
    return f"/v1/people/{quote(person, safe='')}"
