"""Who may do what, as others ask for it: keys made, listed, ended and recognised; roles.

Every change is written with its event. A secret is in the answer that makes it and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from holdfast.identity import store
from holdfast.identity.access.model import unconfirmed
from holdfast.identity.audit import AuditLog
from holdfast.identity.derived import (
    check_addresses,
    check_maker,
    end_derived,
    find_derived,
    find_standing,
    is_here,
    redefined,
)
from holdfast.identity.finding import TenantFinder
from holdfast.identity.granting import Act, check_handed_on, custom_roles
from holdfast.identity.model import (
    KEY_PREFIX,
    ROLES,
    ApiKey,
    ApiKeyCreate,
    Derived,
    EndedKey,
    KeyHolder,
    Maker,
    NewApiKey,
    Role,
    RoleDefine,
    Standing,
    as_json,
    is_over,
    key_unknown,
    networks_of,
    permissions_of,
)
from holdfast.identity.notebook import AuditNote
from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.credentials import Peppers, identity_of, make_secret
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Exhausted, Invalid, NotFound
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.idempotency import Asked, one_secret
from holdfast.kernel.ids import EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import (
    Permission,
    Principal,
    PrincipalKind,
    service,
)
from holdfast.kernel.telemetry import request_id

PEPPER = "key-pepper"
"""The pepper's files; see :class:`holdfast.kernel.credentials.Peppers`."""
KEYS_MAX = 10_000


class IdentityService:
    """The identity role. See the README of this slice."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        peppers: Peppers,
        clock: Clock,
        new_id: NewId,
        random: Callable[[int], bytes],
    ) -> None:
        self._db = database
        self._outbox = outbox
        self._peppers = peppers
        self._clock = clock
        self._new_id = new_id
        self._random = random
        self._audit = AuditLog(database, outbox)
        self._finder = TenantFinder(database, store.find_key_at_door)

    # --- keys -------------------------------------------------------------------------------------

    async def create_key(
        self, principal: Principal, create: ApiKeyCreate, *, idempotency_key: str = ""
    ) -> NewApiKey:
        """A new key and its secret; at most one for an ``idempotency_key``.

        :class:`Invalid` lists unknown roles, permissions and addresses; :class:`Denied` if it would
        be allowed more than whoever makes it: rights are handed on, never made. A key that a key
        makes holds where that one does, and no longer.
        """
        networks_of(create.addresses)
        custom = await self._custom(principal)
        granted = permissions_of(create.roles, create.permissions, custom)
        check_handed_on(principal, granted, create.profiles)
        identity, now = self._new_id(), self._clock.now()
        secret = make_secret(KEY_PREFIX, identity, self._random(32))
        kept, pepper = self._peppers.seal(secret)
        maker = await self._db.read(
            principal, lambda conn: check_maker(conn, principal, timestamp(now))
        )
        expires_at = timestamp(now + timedelta(days=create.days))
        if maker is not None:
            expires_at = min(expires_at, maker.expires_at)
            check_addresses(msgspec.json.decode(maker.addresses), create.addresses)
        event = self._event(
            principal,
            f"api-key/{identity}",
            "api-key.created",
            {
                "key": identity,
                "permissions": sorted(p.value for p in granted),
                "profiles": sorted(create.profiles),
                "addresses": sorted(create.addresses),
                "expires_at": expires_at,
            },
        )
        values = {
            "tenant": principal.tenant,
            "id": identity,
            "name": create.name,
            "secret": kept,
            "pepper": pepper,
            "permissions": as_json(p.value for p in granted),
            "profiles": as_json(create.profiles),
            "addresses": as_json(create.addresses),
            "created_at": timestamp(now),
            "created_by": principal.subject,
            "expires_at": expires_at,
            "event_id": event.id,
        }

        asked = Asked.of(idempotency_key, create)

        def unit(conn: Connection) -> ApiKey:
            check_maker(conn, principal, timestamp(now), granted)
            one_secret(
                conn, principal, "api-keys.create", asked, now, identity,
                "`holdfast apikey revoke {}`",
            )  # fmt: skip
            if store.count_keys(conn, principal.tenant, timestamp(now)) >= KEYS_MAX:
                raise Exhausted(
                    f"cannot make a key: {KEYS_MAX} hold already", hint="revoke those not in use"
                )
            store.add_key(conn, values)
            self._outbox.emit(conn, principal, event)
            made = store.find_key(conn, principal.tenant, identity)
            assert made is not None, "its row was just written"
            return _key_of(made)

        made = await self._db.write(principal, unit)
        return NewApiKey(key=made, secret=secret, roles=create.roles)

    async def list_keys(
        self, principal: Principal, *, before: str = "", limit: int = 100
    ) -> tuple[list[ApiKey], str | None]:
        """Keys, the newest first, and where the next page begins; ``None`` at the end."""
        limit = page_size(limit)
        rows = await self._db.read(
            principal,
            lambda conn: store.page_of_keys(conn, principal.tenant, before, limit + 1),
        )
        found = [_key_of(row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def find_derived(self, principal: Principal, subject: str) -> Derived:
        """What would end with this key or this person, or came of whoever is known elsewhere only.

        :class:`NotFound` if there is no such key or person here, and nothing came of them.
        """
        now = timestamp(self._clock.now())

        def unit(conn: Connection) -> Derived | None:
            found = find_derived(conn, principal.tenant, subject, now)
            return found if found != Derived() or is_here(conn, principal.tenant, subject) else None

        found = await self._db.read(principal, unit)
        if found is None:
            raise NotFound(
                f"cannot find a key or a person with the id {subject[:80]}",
                code="subject-not-found",
            )
        return found

    async def standing(self, principal: Principal, makers: Sequence[Maker]) -> list[Standing]:
        """Whether what these made still stands, each as it is now; for roles that keep it."""
        now = timestamp(self._clock.now())
        found: dict[Maker, Standing] = {}
        for tenant in sorted({maker.tenant for maker in makers}):
            mine = [maker for maker in makers if maker.tenant == tenant]

            def unit(conn: Connection, mine: list[Maker] = mine) -> dict[Maker, Standing]:
                return {maker: find_standing(conn, maker, now) for maker in mine}

            found |= await self._db.read(service("identity", TenantId(tenant)), unit)
        return [found[maker] for maker in makers]

    async def revoke_key(self, principal: Principal, key: str) -> EndedKey:
        """End a key, and with it what came of it. Twice is fine.

        :class:`Denied` if it may more than whoever ends it, unless that is itself or its maker.
        """
        event = self._event(principal, f"api-key/{key}", "api-key.revoked", {"key": key})

        def unit(conn: Connection) -> EndedKey:
            there = store.find_key(conn, principal.tenant, key)
            if there is None:
                raise NotFound(f"cannot find the key {key}", code="key-not-found")
            if principal.subject not in (key, there.created_by):
                granted = permissions_of((), msgspec.json.decode(there.permissions), {})
                check_maker(conn, principal, timestamp(event.time), granted, Act.REVOKE)
            if store.end_key(conn, principal.tenant, key, timestamp(event.time)):
                self._outbox.emit(conn, principal, event)
            # Of a key that is over, too: an earlier version ended it alone.
            ended = end_derived(conn, self._outbox, principal, key, event)
            found = store.find_key(conn, principal.tenant, key)
            assert found is not None
            return EndedKey(**msgspec.structs.asdict(_key_of(found)), ended=ended)

        return await self._db.write(principal, unit)

    async def find_holder(self, secret: str) -> KeyHolder:
        """Whom a key speaks for.

        Raises :class:`Unauthenticated`: ``credential-malformed``, or ``key-unknown`` whether it
        never was, was revoked, or has expired: who asks with a dead key learns nothing of it. The
        door does: its ``problems`` say whose it was (:func:`was_of`), for the audit alone.
        :class:`Denied` (``access-unconfirmed``) for one that would hold, while nobody has said
        after a restore that what it brought back is as it should be.
        """
        identity = identity_of(secret, KEY_PREFIX)
        row, tenant = await self._finder.find(identity)
        now = self._clock.now()
        if row is None or not self._peppers.matches(secret, bytes(row.secret), row.pepper):
            raise key_unknown()
        if is_over(row.expires_at, row.revoked_at, now):
            raise key_unknown(tenant, identity)
        if row.unconfirmed_since:
            raise unconfirmed(row.unconfirmed_since, tenant, identity)
        profiles = msgspec.json.decode(row.profiles, type=list[str])
        return KeyHolder(
            tenant=tenant,
            subject=identity,
            kind=PrincipalKind.KEY.value,
            permissions=msgspec.json.decode(row.permissions, type=list[str]),
            profiles=profiles or None,
            credential=f"key:{identity}",
            addresses=msgspec.json.decode(row.addresses, type=list[str]),
            expires_at=row.expires_at,
        )

    # --- roles ------------------------------------------------------------------------------------

    async def list_roles(self, principal: Principal) -> list[Role]:
        """The built-in roles, then the tenant's own."""
        custom = await self._custom(principal)
        return [
            *(_role_of(name, granted, True) for name, granted in ROLES.items()),
            *(_role_of(name, granted, False) for name, granted in custom.items()),
        ]

    async def define_role(self, principal: Principal, name: str, define: RoleDefine) -> Role:
        """Make or change a role of the tenant's own; never a built-in one.

        What goes beyond it ends, of whoever has it: see :func:`redefined`, which refuses whoever
        does not have all that the role allowed and is to allow.
        """
        if name in ROLES:
            raise Conflict(f"cannot define {name}: that role is built in", code="role-built-in")
        if not name.isascii() or not name.replace("-", "").isalnum() or len(name) > 64:
            raise Invalid(
                f"cannot define a role {name[:64]!r}", hint="letters, digits and hyphens, up to 64"
            )
        granted = permissions_of((), define.permissions, {})
        check_handed_on(principal, granted, ())
        payload = {"role": name, "permissions": sorted(p.value for p in granted)}
        event = self._event(principal, f"role/{name.lower()}", "role.defined", payload)
        values = {
            "tenant": principal.tenant,
            "name": name,
            "permissions": as_json(p.value for p in granted),
            "changed_at": timestamp(event.time),
            "event_id": event.id,
        }

        def unit(conn: Connection) -> None:
            redefined(conn, self._outbox, principal, name, granted, event)
            store.put_role(conn, values)
            self._outbox.emit(conn, principal, event)

        await self._db.write(principal, unit)
        return _role_of(name, granted, False)

    async def drop_role(self, principal: Principal, name: str) -> None:
        """Forget a role of the tenant's own; of whoever had it, as if it allowed nothing."""
        if name in ROLES:
            raise Conflict(f"cannot drop {name}: that role is built in", code="role-built-in")
        event = self._event(principal, f"role/{name.lower()}", "role.dropped", {"role": name})

        def unit(conn: Connection) -> None:
            redefined(conn, self._outbox, principal, name, None, event)
            if not store.drop_role(conn, principal.tenant, name):
                raise NotFound(f"cannot find the role {name}", code="role-not-found")
            self._outbox.emit(conn, principal, event)

        await self._db.write(principal, unit)

    async def _custom(self, principal: Principal) -> Mapping[str, frozenset[Permission]]:
        return await self._db.read(principal, lambda conn: custom_roles(conn, principal.tenant))

    # --- audit ------------------------------------------------------------------------------------

    async def record(self, notes: Sequence[AuditNote]) -> None:
        """Write what a door noted; see :class:`AuditLog`."""
        await self._audit.record(notes)

    # --- shared -----------------------------------------------------------------------------------

    def _event(
        self, principal: Principal, stream: str, type_: str, payload: dict[str, Any]
    ) -> Event:
        return Event(
            id=EventId(self._new_id()),
            stream=stream,
            type=type_,
            time=self._clock.now(),
            payload=payload,
            subject=principal.subject,
            request_id=request_id(),
        )


_KNOWN = {permission.value: permission for permission in Permission}


def principal_of(holder: KeyHolder) -> Principal:
    """The principal that a holder is; permissions this build does not know grant nothing."""
    return Principal(
        TenantId(holder.tenant),
        holder.subject,
        PrincipalKind(holder.kind),
        frozenset(_KNOWN[name] for name in holder.permissions if name in _KNOWN),
        None if holder.profiles is None else frozenset(holder.profiles),
        holder.credential,
    )


def _key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        permissions=msgspec.json.decode(row.permissions),
        profiles=msgspec.json.decode(row.profiles),
        addresses=msgspec.json.decode(row.addresses),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _role_of(name: str, granted: frozenset[Permission], built_in: bool) -> Role:
    return Role(name=name, permissions=sorted(p.value for p in granted), built_in=built_in)
