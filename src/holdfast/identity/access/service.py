"""After a restore: the door stays shut to what came with it until the operator says that it holds.

Who may enter is in the backup, and so is as it was then: a key that was revoked since, a person who
was disabled, a passkey that was removed are back, and nothing that is left knows of it. So the
restore says so in the database, before anything can be served (:func:`note_restore`), and whatever
asks there whose a key is, or begins a session, is refused until :meth:`AccessService.confirm`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row

from holdfast.identity import store as keys_store
from holdfast.identity.access import store
from holdfast.identity.access.model import (
    REVIEW,
    Access,
    AccessConfirm,
    AccessEnd,
    AccessEnded,
    Device,
    LinkedTo,
    Unconfirmed,
    Way,
)
from holdfast.identity.granting import Parts, custom_roles, granted_by
from holdfast.identity.people import store as people_store
from holdfast.identity.signin import oauth_store, passkey_store
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid, NotFound
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Principal, operator, operators_only, service

REMEMBERED_SECONDS = 5.0
KEY: Literal["api-key"] = "api-key"
PERSON: Literal["person"] = "person"
Kind = Literal["api-key", "person", "passkey", "account"]
Ender = Callable[[Principal, str], Awaitable[object]]


async def note_restore(
    database: Database,
    backup: str,
    backed_up_at: str,
    at: str,
    *,
    confirmed: bool,
    more: Callable[[Connection, str], bool] | None = None,
) -> bool:
    """Note that this database was restored at ``at``; whether anybody is kept out by it.

    For the restore, of a database that nobody serves yet. Twice is fine. What is cheap to make
    again ends for good: sessions, invitations, links that bring somebody back. Where there never
    was a key, a person or an invitation, nor what ``more`` finds of other roles in a tenant,
    nothing else can have come back. ``confirmed``: whoever restores says that nothing was ended
    since; what an earlier restore left open is not said by that, and stays.
    """
    shut = False
    for tenant in await database.tenants():

        def unit(conn: Connection, tenant: TenantId = tenant) -> bool:
            store.end_passing(conn, tenant, at)
            if store.held_anybody(conn, tenant) or (more is not None and more(conn, tenant)):
                store.add_restore(conn, tenant, backup, backed_up_at, at, confirmed=confirmed)
            return bool(store.unconfirmed_since(conn, tenant))

        shut |= await database.write(service("restore", tenant), unit)
    return shut


class AccessService:
    """What is to be known and said after a restore; for the operator."""

    def __init__(self, parts: Parts, enders: Mapping[Kind, Ender] | None = None) -> None:
        """``enders``: how each kind of thing that lets somebody in is ended."""
        self._parts = parts
        self._enders = enders or {}
        self._db = parts.database
        self._checked = (0.0, False)

    async def tell(self) -> None:
        """At a start: write the event of each restore that has none yet, with its row."""
        for tenant in await self._db.tenants():
            principal = service("identity", tenant)
            for row in await self._restores(tenant):
                if row.told:
                    continue
                event = self._event(
                    principal, row, "access.restored", confirmed=bool(row.confirmed)
                )

                def unit(
                    conn: Connection,
                    row: Row[Any] = row,
                    event: Event = event,
                    principal: Principal = principal,
                ) -> None:
                    change = store.remove_restore if row.confirmed else store.tell_restore
                    if change(conn, principal.tenant, row.backup):
                        self._parts.outbox.emit(conn, principal, event)

                await self._db.write(principal, unit)

    async def find(self, principal: Principal) -> Access:
        """Whether the door is open, and since which backups it is not."""
        operators_only(principal, "see whether access is confirmed")
        found = [
            Unconfirmed(
                tenant=tenant,
                backup=row.backup,
                backed_up_at=row.backed_up_at,
                restored_at=row.restored_at,
            )
            for tenant in sorted(await self._db.tenants())
            for row in await self._unconfirmed(tenant)
        ]
        return Access(confirmed=not found, unconfirmed=found)

    async def ways(
        self, principal: Principal, *, after: str = "", limit: int = 100
    ) -> tuple[list[Way], str | None]:
        """Every key and every person that would be let in, tenant by tenant, and where the next
        page begins; ``None`` at the end."""
        operators_only(principal, "see who would be let in")
        limit = page_size(limit)
        from_tenant, from_kind, from_id = _position(after)
        now = timestamp(self._parts.clock.now())
        found: list[Way] = []
        for tenant in sorted(await self._db.tenants()):
            if tenant < from_tenant or len(found) > limit:
                continue
            here = tenant == from_tenant
            past_keys = here and from_kind == PERSON
            keys_after = from_id if here and not past_keys else ""
            people_after = from_id if past_keys else ""

            def unit(
                conn: Connection,
                tenant: TenantId = tenant,
                keys_after: str = keys_after,
                people_after: str = people_after,
                past_keys: bool = past_keys,
                most: int = limit + 1 - len(found),
            ) -> list[Way]:
                keys = store.live_keys(conn, tenant, keys_after, 0 if past_keys else most, now)
                people = store.live_people(conn, tenant, people_after, most - len(keys))
                custom = custom_roles(conn, tenant)
                return [
                    *(_way_of_key(tenant, row) for row in keys),
                    *(_way_of_person(conn, tenant, row, custom) for row in people),
                ]

            found += await self._db.read(service("identity", tenant), unit)
        more = len(found) > limit
        found = found[:limit]
        last = found[-1] if more else None
        return found, f"{last.tenant}/{last.kind}/{last.id}" if last else None

    async def end(self, principal: Principal, wanted: AccessEnd) -> AccessEnded:
        """End something that lets somebody in, in whichever tenant: what the tenant's own people
        end otherwise, and nobody of them is let in now. Twice is fine, but for accounts.

        :class:`NotFound` if there is nothing of that id in that tenant.
        """
        operators_only(principal, "end what is another tenant's")
        tenant = TenantId(wanted.tenant)
        kind = None
        if tenant in await self._db.tenants():
            kind = await self._db.read(
                service("identity", tenant), lambda conn: _kind_of(conn, tenant, wanted.id)
            )
        if kind is None or kind not in self._enders:
            raise NotFound(
                f"cannot end {wanted.id}: nothing of that id lets anybody in to {wanted.tenant}",
                code="way-not-found",
                hint=f"`{REVIEW}` lists ids and tenants",
            )
        await self._enders[kind](operator(tenant), wanted.id)
        return AccessEnded(tenant=tenant, kind=kind, id=wanted.id)

    async def confirm(self, principal: Principal, wanted: AccessConfirm) -> Access:
        """Who may enter now is who should: let them in again, each tenant's with its event in one
        transaction. What is left as it was. Twice is fine."""
        operators_only(principal, "confirm access")
        tenants = sorted(await self._db.tenants())
        if wanted.tenant and wanted.tenant not in tenants:
            raise NotFound(f"cannot find the tenant {wanted.tenant}", code="tenant-not-found")
        for tenant in [TenantId(wanted.tenant)] if wanted.tenant else tenants:
            for row in await self._unconfirmed(tenant):
                who = operator(tenant)
                event = self._event(who, row, "access.confirmed")

                def unit(
                    conn: Connection, row: Row[Any] = row, event: Event = event, who: Any = who
                ) -> None:
                    if store.remove_restore(conn, who.tenant, row.backup):
                        self._parts.outbox.emit(conn, who, event)

                await self._db.write(who, unit)
        self._checked = (0.0, False)
        return await self.find(principal)

    async def check(self) -> str | None:
        """For readiness: ``degraded`` while somebody is kept out. Looked at every five seconds."""
        now = self._parts.clock.monotonic()
        until, shut = self._checked
        if now >= until:
            shut = False
            for tenant in await self._db.tenants():
                shut = shut or bool(await self._unconfirmed(tenant))
            self._checked = (now + REMEMBERED_SECONDS, shut)
        return "degraded" if shut else None

    async def _unconfirmed(self, tenant: TenantId) -> list[Row[Any]]:
        return [row for row in await self._restores(tenant) if not row.confirmed]

    async def _restores(self, tenant: TenantId) -> Sequence[Row[Any]]:
        return await self._db.read(
            service("identity", tenant), lambda conn: store.restores_of(conn, tenant)
        )

    def _event(self, principal: Principal, row: Row[Any], type_: str, **more: Any) -> Event:
        payload = {
            "backup": row.backup,
            "backed_up_at": row.backed_up_at,
            "restored_at": row.restored_at,
            **more,
        }
        return self._parts.event(principal, "access", type_, payload)


def _kind_of(conn: Connection, tenant: str, identity: str) -> Kind | None:
    """What has that id."""
    finders: tuple[tuple[Kind, Callable[[Connection, str, str], object]], ...] = (
        (KEY, keys_store.find_key),
        (PERSON, people_store.find_person),
        ("passkey", passkey_store.find_passkey),
        ("account", oauth_store.find_account),
    )
    return next((kind for kind, find in finders if find(conn, tenant, identity) is not None), None)


def _position(after: str) -> tuple[str, str, str]:
    if not after:
        return "", "", ""
    parts = after.split("/")
    if len(parts) != 3 or parts[1] not in (KEY, PERSON):
        raise Invalid(
            "cannot go on with the list: the cursor names no position in it", code="cursor-invalid"
        )
    return parts[0], parts[1], parts[2]


def _way_of_key(tenant: str, row: Row[Any]) -> Way:
    return Way(
        tenant=tenant,
        kind="api-key",
        id=row.id,
        name=row.name,
        roles=[],
        permissions=msgspec.json.decode(row.permissions),
        profiles=msgspec.json.decode(row.profiles),
        addresses=msgspec.json.decode(row.addresses),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        used_at="",
    )


def _way_of_person(conn: Connection, tenant: str, row: Row[Any], custom: Any) -> Way:
    roles = msgspec.json.decode(row.roles, type=list[str])
    passkeys = [
        each for each in passkey_store.passkeys_of(conn, tenant, row.id) if each.ended_at is None
    ]
    used = [row.seen_at or "", *(each.used_at for each in passkeys)]
    return Way(
        tenant=tenant,
        kind="person",
        id=row.id,
        name=row.name,
        roles=roles,
        permissions=sorted(each.value for each in granted_by(roles, custom)),
        profiles=[],
        addresses=[],
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at="",
        used_at=max(used),
        passkeys=[
            Device(id=each.id, name=each.name, created_at=each.created_at, used_at=each.used_at)
            for each in passkeys
        ],
        accounts=[
            LinkedTo(id=each.id, provider=each.provider, linked_at=each.linked_at)
            for each in oauth_store.accounts_of(conn, tenant, row.id)
        ],
    )
