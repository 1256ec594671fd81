"""The routes of sessions: parse, call, map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta, Struct

from holdfast.identity.signin.model import (
    SESSIONS,
    Session,
    SessionBegin,
    SessionBegun,
    SessionHolder,
    SessionLookup,
)
from holdfast.identity.signin.oauth import OAuthService
from holdfast.identity.signin.oauth_model import (
    LinkedAccount,
    OAuthBegun,
    OAuthFinish,
    OAuthStart,
)
from holdfast.identity.signin.passkey_model import (
    Ceremony,
    InvitationSecret,
    InvitationSeen,
    Passkey,
    SignInFinish,
    SignInStart,
)
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.sessions import SessionsService
from holdfast.kernel.errors import Denied
from holdfast.kernel.http import get, post
from holdfast.kernel.http.paging import (
    Limit,
    Page,
    page_after,
    text_position,
)
from holdfast.kernel.principal import Permission, Principal, PrincipalKind


class SessionsEnd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose sessions to end; the caller's own if nobody is named."""

    person: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class SessionsEnded(Struct, frozen=True, kw_only=True):
    """How many sessions ended."""

    ended: int


def oauth_handlers(oauth: OAuthService) -> list[Any]:
    """What doors ask about accounts elsewhere."""

    @post("/v1/sign-in/oauth-begin", permission=Permission.IDENTITY_WRITE, in_schema=False)
    async def begin_oauth(principal: Principal, data: OAuthStart) -> Response[OAuthBegun]:
        """Where to send a browser; for services only."""
        services_only(principal)
        return no_store(await oauth.begin(data), 200)

    @post("/v1/sign-in/oauth-finish", permission=Permission.IDENTITY_WRITE, in_schema=False)
    async def finish_oauth(principal: Principal, data: OAuthFinish) -> Response[SessionBegun]:
        """Sign in whoever came back; for services only."""
        services_only(principal)
        return no_store(await oauth.finish(data), 200)

    @get("/v1/accounts", permission=Permission.SELF)
    async def list_accounts(
        principal: Principal, person: Annotated[str, Meta(max_length=200)] | None = None
    ) -> list[LinkedAccount]:
        """List the accounts elsewhere that sign in: you, or a person."""
        return await oauth.list_accounts(principal, person=person)

    @post("/v1/accounts/{account:str}/unlink", permission=Permission.SELF, status=200)
    async def unlink_account(principal: Principal, account: str) -> LinkedAccount:
        """Let an account elsewhere sign nobody in any more; the sessions it began end."""
        return await oauth.unlink(principal, account)

    return [begin_oauth, finish_oauth, list_accounts, unlink_account]


def handlers(sessions: SessionsService, passkeys: PasskeysService) -> list[Any]:
    """Every route of sessions and passkeys."""
    return [
        *_own(sessions),
        *_for_doors(sessions),
        *_own_passkeys(passkeys),
        *_passkeys_for_doors(passkeys),
    ]


def _own(sessions: SessionsService) -> list[Any]:
    @get("/v1/sessions", permission=Permission.SELF)
    async def list_sessions(
        principal: Principal,
        person: Annotated[str, Meta(max_length=200)] | None = None,
        limit: Limit = 100,
        cursor: str | None = None,
    ) -> Page[Session]:
        """List sessions, the newest first: your own; with `person` theirs, empty: everybody's."""
        before = text_position(SESSIONS, cursor)
        items, following = await sessions.list_sessions(
            principal, person=person, before=before, limit=limit
        )
        return page_after(SESSIONS, items, following)

    @post("/v1/sessions/{session:str}/end", permission=Permission.SELF, status=200)
    async def end_session(principal: Principal, session: str) -> Session:
        """End a session: your own, or with identity:write anybody's."""
        return await sessions.end(principal, session)

    @post("/v1/sessions/end", permission=Permission.SELF, status=200)
    async def end_sessions(principal: Principal, data: SessionsEnd) -> SessionsEnded:
        """End all your other sessions, or all of a person's."""
        return SessionsEnded(ended=await sessions.end_all(principal, data.person))

    return [list_sessions, end_session, end_sessions]


def _for_doors(sessions: SessionsService) -> list[Any]:
    """What only a door asks, on behalf of somebody whom it does not know yet."""

    @post("/v1/sessions/begin", permission=Permission.IDENTITY_WRITE, in_schema=False)
    async def begin_session(principal: Principal, data: SessionBegin) -> Response[SessionBegun]:
        """Begin a session for somebody a door has made sure of; for services only."""
        services_only(principal)
        return no_store(await sessions.begin(data), 201)

    @post("/v1/sessions/find", permission=Permission.IDENTITY_READ, status=200, in_schema=False)
    async def find_session(principal: Principal, data: SessionLookup) -> SessionHolder:
        """Tell a door whom a session speaks for; for services only."""
        services_only(principal)
        return await sessions.find_holder(data.secret)

    @post("/v1/sessions/sign-out", permission=Permission.IDENTITY_WRITE, in_schema=False)
    async def sign_out(principal: Principal, data: SessionLookup) -> None:
        """End the session whose secret this is; for services only."""
        services_only(principal)
        await sessions.end_by_secret(data.secret)

    return [begin_session, find_session, sign_out]


def _own_passkeys(passkeys: PasskeysService) -> list[Any]:
    @get("/v1/passkeys", permission=Permission.SELF)
    async def list_passkeys(
        principal: Principal, person: Annotated[str, Meta(max_length=200)] | None = None
    ) -> list[Passkey]:
        """List passkeys: your own, or a person's."""
        return await passkeys.list_passkeys(principal, person=person)

    @post("/v1/passkeys/{passkey:str}/end", permission=Permission.SELF, status=200)
    async def end_passkey(principal: Principal, passkey: str) -> Passkey:
        """End a passkey, and with it the sessions that it began."""
        return await passkeys.end(principal, passkey)

    return [list_passkeys, end_passkey]


def _passkeys_for_doors(passkeys: PasskeysService) -> list[Any]:
    def asked(step: str) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
        return post(
            f"/v1/passkeys/{step}",
            permission=Permission.IDENTITY_WRITE,
            status=200,
            in_schema=False,
        )

    @asked("begin-sign-in")
    async def begin_passkey_sign_in(principal: Principal, data: SignInStart) -> Ceremony:
        """What a browser needs to sign in; for services only."""
        services_only(principal)
        return await passkeys.begin_sign_in(data)

    @asked("sign-in")
    async def passkey_sign_in(principal: Principal, data: SignInFinish) -> Response[SessionBegun]:
        """Sign in whoever holds a passkey; for services only."""
        services_only(principal)
        return no_store(await passkeys.sign_in(data), 200)

    @asked("see-invitation")
    async def see_passkey_invitation(
        principal: Principal, data: InvitationSecret
    ) -> InvitationSeen:
        """What the holder of an invitation may see; for services only."""
        services_only(principal)
        return await passkeys.see_invitation(data.secret)

    @asked("begin-accepting")
    async def begin_passkey_accepting(principal: Principal, data: SignInStart) -> Ceremony:
        """What a browser needs to make a first passkey; for services only."""
        services_only(principal)
        return await passkeys.begin_accepting(data)

    @asked("accept")
    async def accept_by_passkey(principal: Principal, data: SignInFinish) -> Response[SessionBegun]:
        """Take somebody in who was invited; for services only."""
        services_only(principal)
        return no_store(await passkeys.accept(data), 200)

    @asked("begin-adding")
    async def begin_passkey_adding(principal: Principal, data: SignInStart) -> Ceremony:
        """What a browser needs to make one more passkey; for services only."""
        services_only(principal)
        return await passkeys.begin_adding(data)

    @asked("add")
    async def add_passkey(principal: Principal, data: SignInFinish) -> Passkey:
        """Keep one more passkey; for services only."""
        services_only(principal)
        return await passkeys.add(data)

    return [
        begin_passkey_sign_in,
        passkey_sign_in,
        see_passkey_invitation,
        begin_passkey_accepting,
        accept_by_passkey,
        begin_passkey_adding,
        add_passkey,
    ]


def services_only(principal: Principal) -> None:
    """Return for a role that asks for itself; ``Denied`` for everybody else."""
    if principal.kind is not PrincipalKind.SERVICE:
        raise Denied("cannot ask this: only services may", code="services-only")


def no_store(content: Any, status: int) -> Response[Any]:
    """An answer that holds a secret: nothing in between may keep it."""
    return Response(content=content, status_code=status, headers={"Cache-Control": "no-store"})
