"""People as those who manage them see them: invited, listed, disabled, brought back; tenants.

Every change is written with its event. An invitation's secret is in the answer that makes it and
nowhere else.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from holdfast.identity.derived import (
    check_anywhere,
    check_maker,
    check_managed,
    end_beyond,
    end_derived,
    following,
    withdraw,
    withdraw_recoveries,
    within,
)
from holdfast.identity.granting import (
    Act,
    Parts,
    check_above,
    check_handed_on,
    custom_roles,
    granted_by,
)
from holdfast.identity.model import INVITATION_PREFIX, Derived, Thing, as_json, permissions_of
from holdfast.identity.people import store
from holdfast.identity.people.model import (
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
    invitation_state,
    normal_email,
    traits,
)
from holdfast.identity.signin import oauth_store, passkey_store
from holdfast.identity.signin import store as signin_store
from holdfast.kernel.clock import timestamp
from holdfast.kernel.credentials import make_secret
from holdfast.kernel.errors import Conflict, Exhausted, Invalid, NotFound
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.idempotency import Asked, one_secret
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId, is_name
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, Principal, operator, operators_only
from holdfast.kernel.telemetry import get_logger

ADMIN = "admin"
PEOPLE_MAX = 100_000
INVITATIONS_OPEN_MAX = 1_000
RECOVERY_HOURS = 24
log = get_logger("identity")


class PeopleService:
    """People, invitations, tenants. See the README of identity."""

    def __init__(self, parts: Parts, origin: str = "") -> None:
        """``origin``: where people sign in, if that is configured."""
        self._parts = parts
        self._origin = origin.rstrip("/")
        self._db = parts.database

    # --- invitations ------------------------------------------------------------------------------

    async def invite(
        self, principal: Principal, invite: PersonInvite, *, idempotency_key: str = ""
    ) -> NewInvitation:
        """Invite somebody. :class:`Denied` if they would be allowed more than whoever invites.

        A key's invitation can be used as long as the key, and one that holds at some addresses
        only invites nobody: people come in from anywhere.
        """
        return await self._invite(principal, invite, Asked.of(idempotency_key, invite))

    async def create_admin(
        self, principal: Principal, create: AdminCreate, *, idempotency_key: str = ""
    ) -> NewInvitation:
        """Invite the first administrator of a tenant; only the operator does.

        There is one first: an earlier link of the operator's to an administrator's place that
        nobody has used is withdrawn. :class:`Conflict` if there is an administrator already: they
        invite whoever comes next.
        """
        operators_only(principal, "name an administrator")
        await self._check_tenant(create.tenant)
        there = operator(TenantId(create.tenant))
        wanted = PersonInvite(
            name=create.name, email=create.email, roles=[ADMIN], hours=create.hours
        )
        made = await self._invite(there, wanted, Asked.of(idempotency_key, create), first=True)
        if there.tenant != principal.tenant:
            await self._tell(principal, there, "tenant.administrator-asked", made)
        return made

    async def _tell(
        self, principal: Principal, there: Principal, type_: str, made: NewInvitation
    ) -> None:
        """Say in the operator's own tenant, too, whom they let into another: what is recorded there
        they do not read here.

        Once for each link, and for none that was not made: the link and its event there are one
        transaction, and this is another, since a transaction is of one tenant. The link's secret is
        nowhere but in the answer, which is not given before this is durable: nobody has a link that
        was not told of. One that could not be is withdrawn; if the process dies in between, it is a
        link whose secret nobody ever had.
        """
        told = {"tenant": there.tenant, "invitation": made.invitation.id}
        if made.invitation.person:
            told["person"] = made.invitation.person
        event = self._parts.event(principal, f"tenant/{there.tenant}", type_, told)
        try:
            await self._db.write(
                principal, lambda conn: self._parts.outbox.emit(conn, principal, event)
            )
        except Exception:
            try:
                await self.revoke_invitation(there, made.invitation.id)
            except Exception as second:
                # What is told is why it failed; the link ends by itself, and nobody has its secret.
                log.warning(
                    "invitation.left", invitation=made.invitation.id, error=type(second).__name__
                )
            raise

    async def recover(
        self,
        principal: Principal,
        person: str,
        recover: PersonRecover | None = None,
        *,
        idempotency_key: str = "",
    ) -> NewInvitation:
        """A link by which somebody who lost their passkeys registers a new one. On the record.

        Earlier links of theirs that nobody has used end, and with one that is used every other.
        What they had goes on, unless ``recover`` says that it is in other hands: then their
        passkeys and sessions end in the same transaction.

        :class:`Conflict` if they may not sign in: a link would not let them in either.

        The operator, who names the first administrator of a tenant, brings back an administrator of
        any: a tenant whose only one is locked out has no other way in. Nothing else of another
        tenant is the operator's to see or to change.
        """
        recover = recover or PersonRecover()
        there = principal
        if recover.tenant and recover.tenant != principal.tenant:
            operators_only(principal, "bring back somebody of another tenant")
            await self._check_tenant(recover.tenant)
            there = operator(TenantId(recover.tenant))
            await self._db.read(there, lambda conn: _check_admin(conn, there.tenant, person))
        found = await self._manageable(there, person)
        wanted = PersonInvite(
            name=found.name, email=found.email, roles=found.roles, hours=RECOVERY_HOURS
        )
        asked = Asked.of(idempotency_key, {"person": person, "how": recover})
        made = await self._invite(there, wanted, asked, found, end_passkeys=recover.end_passkeys)
        if there is not principal:
            await self._tell(principal, there, "tenant.recovery-asked", made)
        return made

    async def _invite(
        self,
        principal: Principal,
        invite: PersonInvite,
        asked: Asked,
        person: Person | None = None,
        *,
        first: bool = False,
        end_passkeys: bool = False,
    ) -> NewInvitation:
        email = _checked_email(invite.email)
        roles = sorted(set(invite.roles))
        if person is None:
            await self._check_roles(principal, roles)
        identity, now = self._parts.new_id(), self._parts.clock.now()
        secret = make_secret(INVITATION_PREFIX, identity, self._parts.random(32))
        kept, pepper = self._parts.peppers.seal(secret)
        expires_at = timestamp(now + timedelta(hours=invite.hours))
        maker = await self._db.read(
            principal, lambda conn: check_maker(conn, principal, timestamp(now))
        )
        if maker is not None:
            check_anywhere(msgspec.json.decode(maker.addresses))
            expires_at = min(expires_at, maker.expires_at)
        payload: dict[str, Any] = {
            "invitation": identity,
            "roles": roles,
            "expires_at": expires_at,
        }
        if person is not None:
            payload["person"] = person.id
        type_ = "person.invited" if person is None else "person.recovery"
        stream = f"invitation/{identity}" if person is None else f"person/{person.id}"
        event = self._parts.event(principal, stream, type_, payload)
        values = {
            "tenant": principal.tenant,
            "id": identity,
            "secret": kept,
            "pepper": pepper,
            "name": invite.name,
            "email": email,
            "roles": as_json(roles),
            "person": "" if person is None else person.id,
            "created_at": timestamp(now),
            "created_by": principal.subject,
            "expires_at": payload["expires_at"],
            "event_id": event.id,
        }

        def unit(conn: Connection) -> NewInvitation:
            custom = custom_roles(conn, principal.tenant)
            check_maker(conn, principal, timestamp(now), granted_by(roles, custom))
            if person is not None:
                # Read again: a name that was taken out meanwhile is not to be written down anew.
                _check_active(_there(conn, principal.tenant, person.id))
                check_managed(conn, principal, person.id, timestamp(now))
            one_secret(
                conn, principal, f"people.{type_}", asked, now, identity,
                "`holdfast person uninvite {}`",
            )  # fmt: skip
            old = _withdrawable(conn, principal.tenant, timestamp(now)) if first else []
            withdraw(conn, self._parts.outbox, principal, old, event)
            passkeys = sessions = 0
            if person is not None:
                old = withdraw_recoveries(conn, self._parts.outbox, principal, person.id, event)
            if person is not None and end_passkeys:
                passkeys, sessions = self._shut_out(conn, principal, person.id, event)
            if store.count_open(conn, principal.tenant, timestamp(now)) >= INVITATIONS_OPEN_MAX:
                raise Exhausted(
                    f"cannot invite: {INVITATIONS_OPEN_MAX} invitations are open",
                    hint="`holdfast person invitations` lists them; revoke those not needed",
                )
            store.add_invitation(conn, values)
            self._parts.outbox.emit(conn, principal, event)
            made = store.find_invitation(conn, principal.tenant, identity)
            assert made is not None, "its row was just written"
            return NewInvitation(
                invitation=invitation_of(made, timestamp(now)),
                secret=secret,
                origin=self._origin,
                withdrawn=old,
                passkeys_ended=passkeys,
                sessions_ended=sessions,
            )

        return await self._db.write(principal, unit)

    def _shut_out(
        self, conn: Connection, principal: Principal, person: str, because: Event
    ) -> tuple[int, int]:
        """End every passkey and session of a person, each with its event; how many."""
        tenant, now, outbox = principal.tenant, timestamp(because.time), self._parts.outbox
        passkeys = [
            row.id
            for row in passkey_store.passkeys_of(conn, tenant, person)
            if passkey_store.end_passkey(conn, tenant, row.id, now)
        ]
        for each in passkeys:
            told = {"passkey": each, "person": person}
            event = following(because, f"person/{person}", "passkey.ended", told, each)
            outbox.emit(conn, principal, event)
        sessions = signin_store.open_of_subject(conn, tenant, person, now)
        for each in sessions:
            signin_store.end_session(conn, tenant, each, now)
            told = {"session": each, "reason": "passkeys ended"}
            outbox.emit(
                conn, principal, following(because, f"session/{each}", "session.ended", told)
            )
        return len(passkeys), len(sessions)

    async def list_invitations(
        self, principal: Principal, *, before: str = "", limit: int = 100
    ) -> tuple[list[Invitation], str | None]:
        """Invitations, the newest first, and where the next page begins."""
        limit = page_size(limit)
        now = timestamp(self._parts.clock.now())
        rows = await self._db.read(
            principal,
            lambda conn: store.page_of_invitations(conn, principal.tenant, before, limit + 1),
        )
        found = [invitation_of(row, now) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def revoke_invitation(self, principal: Principal, invitation: str) -> Invitation:
        """End an invitation that nobody has used. Twice is fine; :class:`Conflict` if used.

        :class:`Denied` if it allows more than whoever ends it, unless they made it.
        """
        now = timestamp(self._parts.clock.now())
        event = self._parts.event(
            principal,
            f"invitation/{invitation}",
            "invitation.revoked",
            {"invitation": invitation},
        )

        def unit(conn: Connection) -> Invitation:
            found = store.find_invitation(conn, principal.tenant, invitation)
            if found is None:
                raise NotFound(
                    f"cannot find the invitation {invitation}", code="invitation-not-found"
                )
            if found.used_at is not None:
                raise Conflict(
                    "cannot revoke the invitation: it was used",
                    code="invitation-used",
                    hint=f"`holdfast person disable {found.used_by}`",
                )
            if found.created_by != principal.subject:
                custom = custom_roles(conn, principal.tenant)
                granted = granted_by(msgspec.json.decode(found.roles), custom)
                check_maker(conn, principal, now, granted, Act.WITHDRAW)
            if store.end_invitation(conn, principal.tenant, invitation, now):
                self._parts.outbox.emit(conn, principal, event)
                found = store.find_invitation(conn, principal.tenant, invitation)
            assert found is not None
            return invitation_of(found, now)

        return await self._db.write(principal, unit)

    # --- people -----------------------------------------------------------------------------------

    async def list_people(
        self, principal: Principal, *, before: str = "", limit: int = 100
    ) -> tuple[list[Person], str | None]:
        """People, the newest first, and where the next page begins."""
        limit = page_size(limit)
        rows = await self._db.read(
            principal,
            lambda conn: store.page_of_people(conn, principal.tenant, before, limit + 1),
        )
        found = [person_of(row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def find_person(self, principal: Principal, person: str) -> Person:
        """One person; :class:`NotFound`."""
        row = await self._db.read(
            principal, lambda conn: store.find_person(conn, principal.tenant, person)
        )
        if row is None:
            raise _nobody(person)
        return person_of(row)

    async def disable(self, principal: Principal, person: str) -> EndedPerson:
        """Nobody signs in as this person from now on, and what they had open ends. Twice is fine.

        So does what came of them: keys they made, keys those made, open invitations. Their row
        stays, so that what they did keeps its meaning.
        """
        await self._manageable(principal, person)
        if person == principal.subject:
            raise Conflict(
                "cannot disable yourself", code="self-disable", hint="ask another administrator"
            )
        event = self._parts.event(
            principal, f"person/{person}", "person.disabled", {"person": person}
        )
        now = timestamp(event.time)

        def unit(conn: Connection) -> EndedPerson:
            check_managed(conn, principal, person, now)
            if store.disable_person(conn, principal.tenant, person, now):
                _note_lost(conn, principal.tenant, _there(conn, principal.tenant, person), [], now)
                store.end_invitations_of(conn, principal.tenant, person, now)
                signin_store.end_sessions_of(conn, principal.tenant, person, now)
                self._parts.outbox.emit(conn, principal, event)
            return self._ended(conn, principal, person, event)

        return await self._db.write(principal, unit)

    async def forget(self, principal: Principal, person: str) -> EndedPerson:
        """Nothing here says any more who this person is. Twice is fine; there is no way back.

        They are disabled, with what came of them; their name, address, passkeys, accounts and
        sessions (with the addresses those came from) are gone. Their id and roles stay, so that
        what was done in that name keeps its meaning, and a keyed mark of the address and of each
        account, so that by these they come in again only if somebody invites them. A copy made
        before still has them: after a restore this is to be said again.
        """
        await self._manageable(principal, person, forgotten=True)
        if person == principal.subject:
            raise Conflict(
                "cannot forget yourself", code="self-disable", hint="ask another administrator"
            )
        event = self._parts.event(
            principal, f"person/{person}", "person.forgotten", {"person": person}
        )
        now = timestamp(event.time)

        def unit(conn: Connection) -> EndedPerson:
            tenant = principal.tenant
            check_managed(conn, principal, person, now)
            email = _there(conn, tenant, person).email
            store.disable_person(conn, tenant, person, now)
            store.end_invitations_of(conn, tenant, person, now)
            passkey_store.remove_passkeys_of(conn, tenant, person)
            accounts = oauth_store.remove_accounts_of(conn, tenant, person)
            for trait in traits(tenant, email, accounts):
                store.mark_forgotten(conn, tenant, self._parts.peppers.seal(trait)[0])
            signin_store.remove_sessions_of(conn, tenant, person)
            if store.forget_person(conn, tenant, person):
                self._parts.outbox.emit(conn, principal, event)
            return self._ended(conn, principal, person, event)

        return await self._db.write(principal, unit)

    async def enable(self, principal: Principal, person: str) -> Person:
        """Let a person sign in again. Twice is fine."""
        await self._manageable(principal, person)
        event = self._parts.event(
            principal, f"person/{person}", "person.enabled", {"person": person}
        )

        def unit(conn: Connection) -> Person:
            check_managed(conn, principal, person, timestamp(event.time))
            if store.enable_person(conn, principal.tenant, person):
                self._parts.outbox.emit(conn, principal, event)
            return _there(conn, principal.tenant, person)

        return await self._db.write(principal, unit)

    async def change_roles(
        self, principal: Principal, person: str, change: RolesChange
    ) -> ChangedPerson:
        """Give a person other roles; they count at every door within five seconds. A dry run does
        all of it, and takes it back.

        What came of them and goes beyond what they may from now on ends: keys they made, keys those
        made, open invitations.
        """
        await self._manageable(principal, person)
        roles = sorted(set(change.roles))
        await self._check_roles(principal, roles)
        event = self._parts.event(
            principal, f"person/{person}", "person.roles", {"person": person, "roles": roles}
        )

        def unit(conn: Connection) -> ChangedPerson:
            tenant, now = principal.tenant, timestamp(event.time)
            custom = custom_roles(conn, tenant)
            check_managed(conn, principal, person, now)
            check_maker(conn, principal, now, granted_by(roles, custom))
            ended, lost = Derived(), frozenset[Permission]()
            if _there(conn, tenant, person).roles != roles:
                lost = _note_lost(conn, tenant, _there(conn, tenant, person), roles, now)
                store.set_roles(conn, tenant, person, as_json(roles))
                # Whoever made one might manage them as they were, and perhaps not as they are.
                store.end_invitations_of(conn, tenant, person, now)
                self._parts.outbox.emit(conn, principal, event)
                allows = within(roles, custom)
                ended = end_beyond(conn, self._parts.outbox, principal, person, event, allows)
            changed = ChangedPerson(
                **msgspec.structs.asdict(_there(conn, tenant, person)),
                ended=ended,
                lost=sorted(permission.value for permission in lost),
            )
            if change.dry_run:
                raise _TakenBack(changed)
            return changed

        try:
            return await self._db.write(principal, unit)
        except _TakenBack as dry:
            return dry.would

    # --- tenants ----------------------------------------------------------------------------------

    async def create_tenant(self, principal: Principal, create: TenantCreate) -> Tenant:
        """A new tenant; only the operator makes one. :class:`Conflict` if it is there."""
        operators_only(principal, "make a tenant")
        if not is_name(create.id):
            raise Invalid(
                f"cannot make the tenant {create.id!r}: that is no name of one",
                code="tenant-invalid",
                hint="1-64 of a-z, 0-9, dot, dash and underscore; a letter or digit at both ends",
            )
        now = timestamp(self._parts.clock.now())
        event = self._parts.event(
            principal, f"tenant/{create.id}", "tenant.created", {"tenant": create.id}
        )

        def unit(conn: Connection) -> Tenant:
            if not store.add_tenant(conn, create.id, now):
                raise Conflict(
                    f"cannot make the tenant {create.id}: it is there", code="tenant-exists"
                )
            self._parts.outbox.emit(conn, principal, event)
            return Tenant(id=create.id, created_at=now)

        return await self._db.write(principal, unit)

    async def list_tenants(self, principal: Principal) -> list[Tenant]:
        """Every tenant; only the operator sees them."""
        operators_only(principal, "list tenants")
        rows = await self._db.read(principal, store.read_tenants)
        return [Tenant(id=row.id, created_at=row.created_at) for row in rows]

    # --- shared -----------------------------------------------------------------------------------

    def _ended(
        self, conn: Connection, principal: Principal, person: str, because: Event
    ) -> EndedPerson:
        """The person as they stand, once what came of them has ended."""
        # Of somebody who was disabled before, too: an earlier version left it.
        ended = end_derived(conn, self._parts.outbox, principal, person, because)
        there = _there(conn, principal.tenant, person)
        return EndedPerson(**msgspec.structs.asdict(there), ended=ended)

    async def _check_tenant(self, tenant: str) -> None:
        if tenant not in await self._db.tenants():
            raise NotFound(
                f"cannot find the tenant {tenant}",
                code="tenant-not-found",
                hint=f"`holdfast tenant create {tenant}` makes it",
            )

    async def _check_roles(self, principal: Principal, roles: list[str]) -> None:
        custom = await self._db.read(principal, lambda conn: custom_roles(conn, principal.tenant))
        check_handed_on(principal, permissions_of(roles, (), custom), ())

    async def _manageable(
        self, principal: Principal, person: str, *, forgotten: bool = False
    ) -> Person:
        """The person, if ``principal`` has all that they have: or managing would be a way up."""
        found = await self.find_person(principal, person)
        if found.state == "forgotten" and not forgotten:
            raise _forgotten()
        custom = await self._db.read(principal, lambda conn: custom_roles(conn, principal.tenant))
        check_above(principal, granted_by(found.roles, custom))
        return found


def _checked_email(text: str) -> str:
    if not text:
        return ""
    found = normal_email(text)
    if found is None:
        raise Invalid("cannot invite: that is no e-mail address", code="email-invalid")
    return found


def _nobody(person: str) -> NotFound:
    return NotFound(f"cannot find the person {person}", code="person-not-found")


def _forgotten() -> Conflict:
    return Conflict(
        "cannot do this: nothing here says any more who this person is",
        code="person-forgotten",
        hint="invite them anew",
    )


def _check_active(person: Person) -> None:
    if person.state == "forgotten":
        raise _forgotten()
    if person.state == "disabled":
        raise Conflict(
            "cannot bring back somebody who is disabled",
            code="person-disabled",
            hint=f"`holdfast person enable {person.id}` first",
        )


def _there(conn: Connection, tenant: str, person: str) -> Person:
    row = store.find_person(conn, tenant, person)
    if row is None:
        raise _nobody(person)
    return person_of(row)


class _TakenBack(Exception):
    """Ends a unit of work that was only to show what it would do."""

    def __init__(self, would: ChangedPerson) -> None:
        super().__init__()
        self.would = would


def _note_lost(
    conn: Connection, tenant: str, person: Person, roles: list[str], now: str
) -> frozenset[Permission]:
    """Keep what they may not do any more once they have ``roles``: other roles ask by it whether
    what they made there still stands."""
    custom = custom_roles(conn, tenant)
    lost = granted_by(person.roles, custom) - granted_by(roles, custom)
    store.note_lost(conn, tenant, person.id, (each.value for each in lost), now)
    return lost


def _check_first(conn: Connection, tenant: str, elsewhere: bool) -> None:
    """:class:`Conflict` if a tenant has an administrator; ``elsewhere`` it is not the operator's,
    whose commands would be about their own."""
    there = store.find_admin(conn, tenant)
    if there is None:
        return
    back = f"`holdfast person recover {there.id}"
    raise Conflict(
        f"cannot name a first administrator{f' of {tenant}' if elsewhere else ''}: there is one",
        code="admin-exists",
        hint=f"they invite whoever comes next; if nobody of {tenant} can sign in any more, "
        f"{back} --tenant {tenant}` brings this one back"
        if elsewhere
        else "`holdfast person invite NAME --role admin` invites another; "
        f"{back}` brings this one back",
    )


def _check_admin(conn: Connection, tenant: str, person: str) -> None:
    """:class:`NotFound` unless that is an administrator of the tenant."""
    there = store.find_person(conn, tenant, person)
    if there is None or ADMIN not in msgspec.json.decode(there.roles):
        raise NotFound(
            f"cannot find an administrator {person} of the tenant {tenant}",
            code="person-not-found",
            hint="the operator brings back administrators of other tenants, who see to the rest; "
            f"`holdfast person create-admin NAME --tenant {tenant}` tells the id of one",
        )


def _withdrawable(conn: Connection, tenant: str, now: str) -> list[Thing]:
    """The links of the operator's by which somebody else would come first."""
    _check_first(conn, tenant, tenant != DEFAULT_TENANT)
    rows = store.open_admin_invitations(conn, tenant, now)
    return [Thing(id=row.id, name=row.name) for row in rows]


def _state_of(row: Row[Any]) -> str:
    if not row.name:
        return "forgotten"
    return "active" if row.disabled_at is None else "disabled"


def person_of(row: Row[Any]) -> Person:
    """A row as a person."""
    return Person(
        id=row.id,
        name=row.name,
        email=row.email,
        roles=msgspec.json.decode(row.roles),
        state=_state_of(row),
        created_at=row.created_at,
        created_by=row.created_by,
        disabled_at=row.disabled_at,
    )


def invitation_of(row: Row[Any], now: str) -> Invitation:
    """A row as an invitation, as it stands at ``now``."""
    return Invitation(
        id=row.id,
        name=row.name,
        email=row.email,
        roles=msgspec.json.decode(row.roles),
        state=invitation_state(row.expires_at, row.used_at, row.ended_at, now),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        person=row.person,
    )
