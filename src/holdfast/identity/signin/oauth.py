"""Signing in by an account elsewhere: GitHub, Google, any OpenID Connect provider.

State, nonce and PKCE are made per sign-in and kept for five minutes; what comes back counts once,
in the browser that went, from the provider it was sent to. An account signs in the person it was
linked to, by issuer and subject. It is linked by an invitation, or because its keeper has verified
an address that the operator named; never because somebody else's account has the same address.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row

from holdfast.identity.derived import check_managed
from holdfast.identity.finding import TenantFinder
from holdfast.identity.granting import Parts, manages_others, whose
from holdfast.identity.model import as_json
from holdfast.identity.people import store as people_store
from holdfast.identity.people.model import traits
from holdfast.identity.signin import oauth_store as store
from holdfast.identity.signin import store as sessions_store
from holdfast.identity.signin.ceremonies import Ceremonies
from holdfast.identity.signin.model import SessionBegin, SessionBegun
from holdfast.identity.signin.oauth_model import (
    OAUTH_CREDENTIAL,
    Account,
    LinkedAccount,
    OAuthBegun,
    OAuthFinish,
    OAuthSettings,
    OAuthStart,
    addressed_otherwise,
    said_no,
    sign_in_refused,
    somebody_already,
    stranger,
)
from holdfast.identity.signin.passkey_model import Visitor
from holdfast.identity.signin.passkeys import Joining, PasskeysService
from holdfast.identity.signin.providers import GitHub, Keeper, OpenIdConnect, Wire
from holdfast.identity.signin.sessions import SessionsService, end_with
from holdfast.identity.signin.ways import other_ways_in
from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Conflict, NotFound
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, service

KIND = "oauth"


class _Asked(Struct, frozen=True):
    """A browser that was sent to a provider."""

    provider: str
    state: bytes
    browser: bytes
    verifier: str
    nonce: str
    redirect: str
    tenant: str = ""
    invitation: str = ""


class OAuthService:
    """Sign-in by accounts elsewhere. See the README of identity."""

    def __init__(
        self,
        parts: Parts,
        sessions: SessionsService,
        passkeys: PasskeysService,
        settings: OAuthSettings,
        wire: Wire,
    ) -> None:
        self._parts = parts
        self._db = parts.database
        self._sessions = sessions
        self._passkeys = passkeys
        self._settings = settings
        self._ceremonies = Ceremonies(parts)
        self._finder = TenantFinder(parts.database, store.find_by_subject)
        self._keepers: dict[str, Keeper] = {
            name: GitHub(provider, wire)
            if provider.kind == "github"
            else OpenIdConnect(provider, wire, parts.clock)
            for name, provider in settings.providers.items()
        }

    async def begin(self, start: OAuthStart) -> OAuthBegun:
        """Where to send a browser that wants to sign in there."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        keeper = self._keeper(start.ask.provider)
        tenant = invitation = ""
        if start.ask.invitation:
            row, found = await self._passkeys.open_invitation(start.ask.invitation)
            tenant, invitation = found, row.id
        secret, browser, verifier, nonce = (self._fresh() for _ in range(4))
        redirect = _callback(start.visitor, start.ask.provider)
        asked = _Asked(
            start.ask.provider,
            _digest(secret),
            _digest(browser),
            verifier,
            nonce,
            redirect,
            tenant,
            invitation,
        )
        ceremony = await self._ceremonies.begin(KIND, asked)
        url = await keeper.address(
            {
                "redirect_uri": redirect,
                "state": f"{ceremony}.{secret}",
                "nonce": nonce,
                "code_challenge": create_s256_code_challenge(verifier),
                "code_challenge_method": "S256",
            }
        )
        return OAuthBegun(url=url, browser=browser)

    async def finish(self, finish: OAuthFinish) -> SessionBegun:
        """Sign in whoever came back.

        :class:`Unauthenticated` (``ceremony-over``, ``oauth-refused``) when what came back does not
        hold; :class:`Denied` (``oauth-unknown``) for an account that nobody let in.
        """
        keeper = self._keeper(finish.provider)
        ceremony, _, secret = finish.state.partition(".")
        asked = await self._ceremonies.take(ceremony, KIND, _Asked)
        if not (
            hmac.compare_digest(_digest(secret), asked.state)
            and hmac.compare_digest(_digest(finish.browser), asked.browser)
            and asked.provider == finish.provider
        ):
            raise sign_in_refused("the state is of another browser or provider")
        if asked.redirect != _callback(finish.visitor, finish.provider):
            # The code was asked for by another name of ours; it is good there only.
            raise sign_in_refused("it came back to another address than it was asked for")
        if finish.error or not finish.code:
            raise said_no(finish.error)
        account = await keeper.account(
            finish.code, asked.verifier, asked.nonce, asked.redirect, finish.iss
        )
        return await self._let_in(finish, asked, account)

    async def list_accounts(
        self, principal: Principal, *, person: str | None = None
    ) -> list[LinkedAccount]:
        """Accounts that sign the caller in, or ``person``, which needs ``identity:read``."""
        subject = whose(principal, person, Permission.IDENTITY_READ)
        rows = await self._db.read(
            principal, lambda conn: store.accounts_of(conn, principal.tenant, subject)
        )
        return [_linked(row) for row in rows]

    async def unlink(self, principal: Principal, account: str) -> LinkedAccount:
        """That account signs nobody in any more, and the sessions that it began end: one's own, or
        with ``identity:write`` that of anybody who may no more than the caller. What lets oneself
        in last of all stays."""
        tenant, now = principal.tenant, timestamp(self._parts.clock.now())
        row = await self._db.read(principal, lambda conn: store.find_account(conn, tenant, account))
        own = row is not None and row.person == principal.subject
        if row is None or not (own or manages_others(principal, Permission.IDENTITY_WRITE)):
            raise _not_linked(account)
        credential = f"{OAUTH_CREDENTIAL}:{account}"
        begun = await self._db.read(
            principal,
            lambda conn: sessions_store.open_of_credential(conn, tenant, credential, now),
        )
        endings = self._sessions.endings(principal, begun, "account unlinked")
        event = self._parts.event(
            principal,
            f"person/{row.person}",
            "account.unlinked",
            {"person": row.person, "account": account},
        )

        def unit(conn: Connection) -> None:
            if not own:
                check_managed(conn, principal, row.person, now)
            others = other_ways_in(conn, tenant, row.person, self._settings.issuers, account)
            if own and others == 0:
                raise Conflict(
                    "cannot unlink your only account: nothing would let you in again",
                    code="account-last",
                    hint="add a passkey first",
                )
            if not store.remove_account(conn, tenant, account):
                raise _not_linked(account)
            self._parts.outbox.emit(conn, principal, event)
            end_with(conn, self._parts, principal, credential, endings, now)

        await self._db.write(principal, unit)
        return _linked(row)

    async def _let_in(self, finish: OAuthFinish, asked: _Asked, account: Account) -> SessionBegun:
        linked, tenant = await self._finder.find(account.key)
        if linked is None:
            tenant = TenantId(asked.tenant or DEFAULT_TENANT)
        identity = linked.id if linked is not None else self._parts.new_id()
        person = linked.person if linked is not None else self._parts.new_id()
        invited = ""
        if asked.invitation:
            invited = await self._invited(TenantId(asked.tenant), asked.invitation)
        if linked is None:
            person = invited or person
        elif asked.invitation and (asked.tenant, invited) != (tenant, person):
            raise somebody_already()
        visitor = finish.visitor
        prepared = self._sessions.prepare(
            SessionBegin(
                tenant=tenant,
                subject=person,
                kind=PrincipalKind.PERSON.value,
                credential=f"{OAUTH_CREDENTIAL}:{identity}",
                address=visitor.address,
                agent=visitor.agent,
                replaces=visitor.replaces,
            )
        )
        principal, now = service("identity", tenant), timestamp(self._parts.clock.now())
        joining = Joining(self._parts, principal, asked.invitation, person)
        who = Principal(tenant, person, PrincipalKind.PERSON, frozenset())
        link = self._parts.event(
            who, f"person/{person}", "account.linked", {"person": person, "account": identity}
        )
        joined = self._parts.event(who, f"person/{person}", "person.joined", {"person": person})

        def come(conn: Connection) -> None:
            """Let a new account in, for one of the reasons there are."""
            if asked.invitation:
                invitation = joining.write(conn, now)
                if invitation.email and invitation.email != account.email:
                    raise addressed_otherwise()
            else:
                role = self._role_of(conn, tenant, account)
                values = {
                    "tenant": tenant,
                    "id": person,
                    "name": account.name or account.email,
                    "email": account.email,
                    "roles": as_json([role]),
                    "created_at": now,
                    "created_by": "oauth",
                    "event_id": joined.id,
                }
                people_store.add_person(conn, values)
                self._parts.outbox.emit(conn, principal, joined)
            values = {
                "tenant": tenant,
                "id": identity,
                "person": person,
                "provider": finish.provider,
                "issuer": account.issuer,
                "subject": account.subject,
                "linked_at": now,
                "event_id": link.id,
            }
            store.add_account(conn, values)
            self._parts.outbox.emit(conn, principal, link)

        def unit(conn: Connection) -> None:
            there = store.find_by_subject(conn, tenant, account.key)
            if there is None and linked is not None:
                raise sign_in_refused("unlinked at the same time")
            if there is None:
                come(conn)
            elif (there.id, there.person) != (identity, person):
                raise sign_in_refused("linked at the same time")
            elif asked.invitation:
                joining.write(conn, now)  # they come back, by what they had all along
            found = people_store.find_person(conn, tenant, person)
            if found is None or found.disabled_at is not None:
                raise stranger()
            self._sessions.write(conn, principal, prepared)

        await self._db.write(principal, unit)
        return prepared.begun

    async def _invited(self, tenant: TenantId, invitation: str) -> str:
        """Whom the invitation brings back, if it is for somebody who was here."""
        row = await self._db.read(
            service("identity", tenant),
            lambda conn: people_store.find_invitation(conn, tenant, invitation),
        )
        return "" if row is None else str(row.person)

    def _role_of(self, conn: Connection, tenant: TenantId, account: Account) -> str:
        """What somebody may do who comes uninvited; :class:`Denied` for everybody else.

        An address counts once: whoever has it already keeps it, and a second account with the same
        address, at whichever provider, is a stranger. Whoever was forgotten stays out as whoever is
        disabled does.
        """
        email = account.email
        if not email or people_store.find_by_email(conn, tenant, email) is not None:
            raise stranger()
        for trait in traits(tenant, email, [account.key]):
            for mark in self._parts.peppers.seals(trait):
                if people_store.is_forgotten(conn, tenant, mark):
                    raise stranger()
        if email in self._settings.admins:
            return "admin"
        if email.rpartition("@")[2] in self._settings.domains:
            return self._settings.default_role
        raise stranger()

    def _keeper(self, name: str) -> Keeper:
        keeper = self._keepers.get(name)
        if keeper is None:
            known = ", ".join(self._keepers) or "none"
            raise NotFound(
                f"cannot sign in by {name[:40]!r}: no such provider", hint=f"there are: {known}"
            )
        return keeper

    def _fresh(self) -> str:
        return urlsafe_b64encode(self._parts.random(32)).rstrip(b"=").decode()


def _linked(row: Row[Any]) -> LinkedAccount:
    return LinkedAccount(
        id=row.id,
        person=row.person,
        provider=row.provider,
        issuer=row.issuer,
        linked_at=row.linked_at,
    )


def _not_linked(account: str) -> NotFound:
    return NotFound(f"cannot find the account {account}", code="account-not-found")


def _callback(visitor: Visitor, provider: str) -> str:
    """Where a browser that reaches us by that name comes back to, to the letter."""
    return f"{visitor.origin}/login/oauth/{provider}/callback"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
