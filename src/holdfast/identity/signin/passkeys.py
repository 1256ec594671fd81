"""Passkeys: registered by an invitation or by who is signed in, used without a name, ended.

The library that knows WebAuthn takes half a second to load: it is loaded with the first ceremony,
off the loop.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw, Struct
from sqlalchemy import Connection, Row

from holdfast.identity.derived import check_managed, withdraw_recoveries
from holdfast.identity.finding import TenantFinder
from holdfast.identity.granting import Parts, manages_others, whose
from holdfast.identity.model import INVITATION_PREFIX
from holdfast.identity.people import store as people_store
from holdfast.identity.people.model import invitation_state
from holdfast.identity.signin import passkey_store as store
from holdfast.identity.signin import store as sessions_store
from holdfast.identity.signin.ceremonies import Ceremonies
from holdfast.identity.signin.model import SessionBegin, SessionBegun
from holdfast.identity.signin.passkey_model import (
    PASSKEY_CREDENTIAL,
    PASSKEYS_OF_ONE_MAX,
    Ceremony,
    InvitationSeen,
    Passkey,
    PasskeySettings,
    SignInFinish,
    SignInStart,
    Visitor,
    Who,
    invitation_over,
    party_of,
    passkey_refused,
)
from holdfast.identity.signin.sessions import SessionsService, end_with, session_over
from holdfast.identity.signin.ways import other_ways_in
from holdfast.kernel.clock import timestamp
from holdfast.kernel.credentials import identity_of
from holdfast.kernel.errors import Conflict, Denied, Exhausted, NotFound, Unauthenticated
from holdfast.kernel.ids import TenantId
from holdfast.kernel.naming import cleaned
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, service
from holdfast.kernel.telemetry import get_logger

CREDENTIAL_BYTES_MAX = 64 * 1024
CREDENTIAL_ID_MAX = 1400
CHALLENGE_BYTES = 32
TIMEOUT_MILLISECONDS = 300_000
SIGN_IN, REGISTER = "passkey-sign-in", "passkey-register"

log = get_logger("identity")


class _Asked(Struct, frozen=True):
    """A challenge, and where its answer must come from."""

    challenge: bytes
    rp_id: str
    origin: str
    tenant: str = ""
    person: str = ""
    invitation: str = ""


class PasskeysService:
    """Passkeys. See the README of identity."""

    def __init__(
        self,
        parts: Parts,
        sessions: SessionsService,
        settings: PasskeySettings,
        issuers: Collection[str] = (),
    ) -> None:
        """``issuers``: whose accounts let people in beside passkeys."""
        self._issuers = frozenset(issuers)
        self._parts = parts
        self._db = parts.database
        self._sessions = sessions
        self._settings = settings
        self._ceremonies = Ceremonies(parts)
        self._finder = TenantFinder(parts.database, store.find_by_credential)
        self._invitations = TenantFinder(parts.database, people_store.find_invitation)

    # --- signing in -------------------------------------------------------------------------------

    async def begin_sign_in(self, start: SignInStart) -> Ceremony:
        """What a browser needs to sign somebody in whom we do not know yet."""
        webauthn = await _library()
        rp_id, origin = party_of(self._settings, start.visitor.origin)
        asked = _Asked(self._parts.random(CHALLENGE_BYTES), rp_id, origin)
        options = webauthn.generate_authentication_options(
            rp_id=rp_id,
            challenge=asked.challenge,
            timeout=TIMEOUT_MILLISECONDS,
            user_verification=webauthn.helpers.structs.UserVerificationRequirement.REQUIRED,
        )
        return await self._ceremony(SIGN_IN, asked, webauthn.options_to_json(options))

    async def sign_in(self, finish: SignInFinish) -> SessionBegun:
        """Sign in whoever holds a passkey of ours.

        :class:`Unauthenticated`: ``ceremony-over`` when late or repeated, else ``passkey-refused``,
        whatever is wrong.
        """
        webauthn = await _library()
        asked = await self._ceremonies.take(finish.answer.ceremony, SIGN_IN, _Asked)
        credential = _credential(finish.answer.credential)
        row, tenant = await self._finder.find(credential["id"])
        if row is None or row.ended_at is not None:
            raise passkey_refused("no such passkey")
        handle = credential["response"].get("userHandle")
        if handle and _decoded(str(handle)) != row.person.encode():
            raise passkey_refused("another person's handle")
        try:
            verified = webauthn.verify_authentication_response(
                credential=credential,
                expected_challenge=asked.challenge,
                expected_rp_id=asked.rp_id,
                expected_origin=asked.origin,
                credential_public_key=bytes(row.public_key),
                credential_current_sign_count=row.counter,
                require_user_verification=True,
            )
        except Exception as error:  # the library's own failures, and what hostile bytes make of it
            await self._note_refusal(tenant, row, error)
            raise passkey_refused(repr(error)) from error
        return await self._let_in(finish.visitor, row, tenant, verified)

    async def _let_in(
        self, visitor: Visitor, row: Row[Any], tenant: TenantId, verified: Any
    ) -> SessionBegun:
        prepared = self._sessions.prepare(_begin(visitor, tenant, row.person, row.id))
        principal, now = service("identity", tenant), timestamp(self._parts.clock.now())

        def unit(conn: Connection) -> None:
            _check_active(conn, tenant, row.person)
            count, kept = verified.new_sign_count, verified.credential_backed_up
            if not store.note_use(conn, row, count, kept, now):
                raise passkey_refused("it was used at the same time")
            self._sessions.write(conn, principal, prepared)

        await self._db.write(principal, unit)
        return prepared.begun

    async def _note_refusal(self, tenant: TenantId, row: Row[Any], error: Exception) -> None:
        """A passkey of ours that does not verify is news: its counter may tell of a copy."""
        reason = "counter" if "sign count" in str(error) else "unverified"
        log.warning("passkey.refused", passkey=row.id, reason=reason)
        event = self._parts.event(
            service("identity", tenant),
            f"person/{row.person}",
            "sign-in.refused",
            {"person": row.person, "passkey": row.id, "reason": reason},
        )
        principal = service("identity", tenant)
        await self._db.write(
            principal, lambda conn: self._parts.outbox.emit(conn, principal, event)
        )

    # --- by invitation ----------------------------------------------------------------------------

    async def see_invitation(self, secret: str) -> InvitationSeen:
        """What the holder of an invitation may see of it."""
        row, _ = await self.open_invitation(secret)
        return InvitationSeen(
            name=row.name,
            roles=msgspec.json.decode(row.roles),
            expires_at=row.expires_at,
            recovery=bool(row.person),
        )

    async def begin_accepting(self, start: SignInStart) -> Ceremony:
        """What a browser needs to make the first passkey of somebody who was invited."""
        row, tenant = await self.open_invitation(start.secret)
        person = row.person or self._parts.new_id()
        return await self._begin_making(
            start.visitor,
            tenant,
            person,
            name=row.email or row.name,
            shown=row.name,
            invitation=row.id,
        )

    async def accept(self, finish: SignInFinish) -> SessionBegun:
        """Make the person (or bring them back), their passkey and their session; use up the
        invitation. All of it or nothing."""
        asked, verified = await self._made(finish)
        if not asked.invitation:
            raise passkey_refused("no invitation")
        tenant = TenantId(asked.tenant)
        principal, now = service("identity", tenant), timestamp(self._parts.clock.now())
        values, event = self._passkey(asked, verified, finish.answer.name)
        begun = self._sessions.prepare(_begin(finish.visitor, tenant, asked.person, values["id"]))
        joining = Joining(self._parts, principal, asked.invitation, asked.person)

        def unit(conn: Connection) -> None:
            joining.write(conn, now)
            self._add(conn, principal, values, event)
            self._sessions.write(conn, principal, begun)

        await self._db.write(principal, unit)
        return begun.begun

    async def open_invitation(self, secret: str) -> tuple[Row[Any], TenantId]:
        """The invitation whose secret this is, and its tenant; only while it holds."""
        identity = identity_of(secret, INVITATION_PREFIX)
        row, tenant = await self._invitations.find(identity)
        now = timestamp(self._parts.clock.now())
        if (
            row is None
            or not self._parts.peppers.matches(secret, bytes(row.secret), row.pepper)
            or invitation_state(row.expires_at, row.used_at, row.ended_at, now) != "open"
        ):
            raise invitation_over()
        return row, tenant

    # --- one more ---------------------------------------------------------------------------------

    async def begin_adding(self, start: SignInStart) -> Ceremony:
        """What a browser needs to make one more passkey of who is signed in."""
        who = _signed_in(start.who)
        tenant = TenantId(who.tenant)
        person = await self._db.read(
            service("identity", tenant),
            lambda conn: people_store.find_person(conn, tenant, who.person),
        )
        if person is None:
            raise Denied("cannot add a passkey: only a person has them", code="person-only")
        return await self._begin_making(
            start.visitor, tenant, person.id, name=person.email or person.name, shown=person.name
        )

    async def add(self, finish: SignInFinish) -> Passkey:
        """Keep one more passkey of who is signed in."""
        who = _signed_in(finish.who)
        asked, verified = await self._made(finish)
        if (asked.tenant, asked.person) != (who.tenant, who.person) or asked.invitation:
            raise passkey_refused("another person's ceremony")
        principal = service("identity", TenantId(who.tenant))
        values, event = self._passkey(asked, verified, finish.answer.name)

        def unit(conn: Connection) -> Row[Any] | None:
            _check_active(conn, principal.tenant, who.person)
            if not sessions_store.open_of_subject(
                conn, principal.tenant, who.person, values["created_at"]
            ):
                # The door remembers a session for some seconds after it ended.
                raise session_over()
            self._add(conn, principal, values, event)
            return store.find_passkey(conn, principal.tenant, values["id"])

        made = await self._db.write(principal, unit)
        assert made is not None, "its row was just written"
        return passkey_of(made)

    async def list_passkeys(
        self, principal: Principal, *, person: str | None = None
    ) -> list[Passkey]:
        """Passkeys of the caller, or of ``person``, which needs ``identity:read``."""
        subject = whose(principal, person, Permission.IDENTITY_READ)
        rows = await self._db.read(
            principal, lambda conn: store.passkeys_of(conn, principal.tenant, subject)
        )
        return [passkey_of(row) for row in rows]

    async def end(self, principal: Principal, passkey: str) -> Passkey:
        """End a passkey, and with it the sessions that it began: one's own, or with
        ``identity:write`` that of anybody who may no more than the caller. Twice is fine. One's own
        last one stays, unless an account elsewhere lets its owner in: it would lock the door from
        inside."""
        now = timestamp(self._parts.clock.now())
        row = await self._db.read(
            principal, lambda conn: store.find_passkey(conn, principal.tenant, passkey)
        )
        own = row is not None and row.person == principal.subject
        if row is None or not (own or manages_others(principal, Permission.IDENTITY_WRITE)):
            raise _no_passkey(passkey)
        credential = f"{PASSKEY_CREDENTIAL}:{passkey}"
        begun = await self._db.read(
            principal,
            lambda conn: sessions_store.open_of_credential(conn, principal.tenant, credential, now),
        )
        endings = self._sessions.endings(principal, begun, "passkey ended")
        event = self._parts.event(
            principal,
            f"person/{row.person}",
            "passkey.ended",
            {"passkey": passkey, "person": row.person},
        )

        def unit(conn: Connection) -> Row[Any] | None:
            if not own:
                check_managed(conn, principal, row.person, now)
            others = other_ways_in(conn, principal.tenant, row.person, self._issuers, passkey)
            found = store.find_passkey(conn, principal.tenant, passkey)
            if own and found is not None and found.ended_at is None and others == 0:
                raise Conflict(
                    "cannot end your only passkey: nothing would let you in again",
                    code="passkey-last",
                    hint="add another one first",
                )
            if store.end_passkey(conn, principal.tenant, passkey, now):
                self._parts.outbox.emit(conn, principal, event)
                end_with(conn, self._parts, principal, credential, endings, now)
            return store.find_passkey(conn, principal.tenant, passkey)

        found = await self._db.write(principal, unit)
        if found is None:  # whose it was is forgotten
            raise _no_passkey(passkey)
        return passkey_of(found)

    # --- shared -----------------------------------------------------------------------------------

    async def _ceremony(self, kind: str, asked: _Asked, options: str) -> Ceremony:
        return Ceremony(
            ceremony=await self._ceremonies.begin(kind, asked), options=Raw(options.encode())
        )

    async def _begin_making(
        self,
        visitor: Visitor,
        tenant: TenantId,
        person: str,
        *,
        name: str,
        shown: str,
        invitation: str = "",
    ) -> Ceremony:
        webauthn = await _library()
        rp_id, origin = party_of(self._settings, visitor.origin)
        structs = webauthn.helpers.structs
        challenge = self._parts.random(CHALLENGE_BYTES)
        asked = _Asked(challenge, rp_id, origin, tenant, person, invitation)
        there = await self._db.read(
            service("identity", tenant), lambda conn: store.passkeys_of(conn, tenant, person)
        )
        options = webauthn.generate_registration_options(
            rp_id=rp_id,
            rp_name="Holdfast",
            user_id=person.encode(),
            user_name=name,
            user_display_name=shown,
            challenge=challenge,
            timeout=TIMEOUT_MILLISECONDS,
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[
                structs.PublicKeyCredentialDescriptor(id=_decoded(row.credential))
                for row in there
                if row.ended_at is None
            ],
        )
        return await self._ceremony(REGISTER, asked, webauthn.options_to_json(options))

    async def _made(self, finish: SignInFinish) -> tuple[_Asked, Any]:
        webauthn = await _library()
        asked = await self._ceremonies.take(finish.answer.ceremony, REGISTER, _Asked)
        credential = _credential(finish.answer.credential)
        try:
            return asked, webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=asked.challenge,
                expected_rp_id=asked.rp_id,
                expected_origin=asked.origin,
                require_user_verification=True,
            )
        except Exception as error:  # the library's own failures, and what hostile bytes make of it
            raise passkey_refused(repr(error)) from error

    def _passkey(self, asked: _Asked, verified: Any, name: str) -> tuple[dict[str, Any], Any]:
        identity, now = self._parts.new_id(), timestamp(self._parts.clock.now())
        who = Principal(TenantId(asked.tenant), asked.person, PrincipalKind.PERSON, frozenset())
        event = self._parts.event(
            who,
            f"person/{asked.person}",
            "passkey.added",
            {"passkey": identity, "person": asked.person},
        )
        values = {
            "tenant": asked.tenant,
            "id": identity,
            "person": asked.person,
            "credential": _encoded(verified.credential_id),
            "public_key": verified.credential_public_key,
            "counter": verified.sign_count,
            "name": cleaned(name, 100) or "passkey",
            "backed_up": verified.credential_backed_up,
            "created_at": now,
            "used_at": now,
            "event_id": event.id,
        }
        return values, event

    def _add(
        self, conn: Connection, principal: Principal, values: dict[str, Any], event: Any
    ) -> None:
        tenant = principal.tenant
        if store.count_passkeys(conn, tenant, values["person"]) >= PASSKEYS_OF_ONE_MAX:
            raise Exhausted(f"cannot add a passkey: there are {PASSKEYS_OF_ONE_MAX}")
        if store.find_by_credential(conn, tenant, values["credential"]) is not None:
            raise passkey_refused("it is somebody's already")
        store.add_passkey(conn, values)
        self._parts.outbox.emit(conn, principal, event)


class Joining:
    """Somebody who was invited comes, or comes back: their row, the invitation used up, the event.

    Time and ids are settled when this is made; :meth:`write` runs in the caller's transaction.
    """

    def __init__(self, parts: Parts, principal: Principal, invitation: str, person: str) -> None:
        self._parts = parts
        self._principal = principal
        self._invitation = invitation
        self._person = person
        who = Principal(principal.tenant, person, PrincipalKind.PERSON, frozenset())
        payload = {"person": person, "invitation": invitation}
        self._joined = parts.event(who, f"person/{person}", "person.joined", payload)
        self._recovered = parts.event(who, f"person/{person}", "person.recovered", payload)

    def write(self, conn: Connection, now: str) -> Row[Any]:
        """The invitation that was used; :class:`Unauthenticated` if it does not hold."""
        principal, person = self._principal, self._person
        tenant = principal.tenant
        if not people_store.use_invitation(conn, tenant, self._invitation, person, now):
            raise invitation_over()
        row = people_store.find_invitation(conn, tenant, self._invitation)
        assert row is not None, "it was just used"
        if row.person:
            there = people_store.find_person(conn, tenant, row.person)
            if row.person != person or there is None or there.disabled_at is not None:
                raise invitation_over()
            if set(msgspec.json.decode(row.roles)) != set(msgspec.json.decode(there.roles)):
                # Whoever made the link had all that they had then: not what they have since.
                raise invitation_over()
            self._parts.outbox.emit(conn, principal, self._recovered)
            withdraw_recoveries(conn, self._parts.outbox, principal, person, self._recovered)
            return row
        values = {
            "tenant": tenant,
            "id": person,
            "name": row.name,
            "email": row.email,
            "roles": row.roles,
            "created_at": now,
            "created_by": row.created_by,
            "event_id": self._joined.id,
        }
        people_store.add_person(conn, values)
        self._parts.outbox.emit(conn, principal, self._joined)
        return row


SPELLED = ("clientDataJSON", "authenticatorData", "signature", "attestationObject", "userHandle")
"""What of a browser's answer is base64url, and has one spelling."""


async def _library() -> Any:
    await asyncio.to_thread(importlib.import_module, "webauthn.helpers.structs")
    return importlib.import_module("webauthn")


def _credential(raw: Raw) -> dict[str, Any]:
    """The credential that a browser sent; refused if it is too large or no object of that kind."""
    data = bytes(raw)
    if len(data) > CREDENTIAL_BYTES_MAX:
        raise passkey_refused("too large")
    try:
        found = json.loads(data)
        response = found["response"]
        for each in (found["id"], found["rawId"], *(response.get(name) for name in SPELLED)):
            if each is not None:
                _decoded(each)
        client = json.loads(_decoded(response["clientDataJSON"]))
        identity, crossed = found["id"], client.get("crossOrigin", False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise passkey_refused("no credential") from error
    if not isinstance(identity, str) or not 0 < len(identity) <= CREDENTIAL_ID_MAX:
        raise passkey_refused("no id")
    if crossed is not False:
        raise passkey_refused("asked for by a page inside another site's")
    credential: dict[str, Any] = found
    return credential


def _decoded(text: str) -> bytes:
    """What is spelled there, without padding, as browsers do; ``ValueError`` for anything else."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encoded(data) != text:
        raise ValueError("not base64url, or not spelled canonically")
    return data


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _begin(visitor: Visitor, tenant: TenantId, person: str, passkey: str) -> SessionBegin:
    return SessionBegin(
        tenant=tenant,
        subject=person,
        kind=PrincipalKind.PERSON.value,
        credential=f"{PASSKEY_CREDENTIAL}:{passkey}",
        address=visitor.address,
        agent=visitor.agent,
        replaces=visitor.replaces,
    )


def _check_active(conn: Connection, tenant: str, person: str) -> None:
    """Refuse whoever may not sign in, whatever was so when they were asked."""
    found = people_store.find_person(conn, tenant, person)
    if found is None or found.disabled_at is not None:
        raise passkey_refused("the person is disabled")


def _no_passkey(passkey: str) -> NotFound:
    return NotFound(f"cannot find the passkey {passkey}", code="passkey-not-found")


def _signed_in(who: Who | None) -> Who:
    if who is None:
        raise Unauthenticated("cannot do this: nobody is signed in")
    return who


def passkey_of(row: Row[Any]) -> Passkey:
    """A row as a passkey."""
    return Passkey(
        id=row.id,
        person=row.person,
        name=row.name,
        created_at=row.created_at,
        used_at=row.used_at,
        backed_up=bool(row.backed_up),
        ended_at=row.ended_at,
    )
