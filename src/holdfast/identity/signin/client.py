"""Sign-in over HTTP: the same methods as the services."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

from msgspec import Struct

from holdfast.identity.signin.model import (
    SESSIONS,
    Session,
    SessionBegin,
    SessionBegun,
    SessionHolder,
    SessionLookup,
)
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
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.principal import Principal

T = TypeVar("T")


class _Ended(Struct, frozen=True):
    ended: int


class SessionsClient:
    """What :class:`~.sessions.SessionsService` promises, over an ``ApiClient``.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def begin(self, begin: SessionBegin) -> SessionBegun:
        """See :meth:`SessionsService.begin`."""
        return await self._api.request("POST", "/v1/sessions/begin", json=begin, type=SessionBegun)

    async def find_holder(self, secret: str) -> SessionHolder:
        """See :meth:`SessionsService.find_holder`."""
        lookup = SessionLookup(secret=secret)
        return await self._api.request("POST", "/v1/sessions/find", json=lookup, type=SessionHolder)

    async def end_by_secret(self, secret: str) -> None:
        """See :meth:`SessionsService.end_by_secret`."""
        await self._api.request("POST", "/v1/sessions/sign-out", json=SessionLookup(secret=secret))

    async def list_sessions(
        self,
        principal: Principal | None,
        *,
        person: str | None = None,
        before: str = "",
        limit: int = 100,
    ) -> tuple[list[Session], str | None]:
        """See :meth:`SessionsService.list_sessions`."""
        return await self._api.page(
            "/v1/sessions",
            SESSIONS,
            type=Page[Session],
            after=before,
            limit=limit,
            params={"person": person},
        )

    async def end(self, principal: Principal | None, session: str) -> Session:
        """See :meth:`SessionsService.end`."""
        path = f"/v1/sessions/{quote(session, safe='')}/end"
        return await self._api.request("POST", path, json={}, type=Session)

    async def end_all(self, principal: Principal | None, person: str | None = None) -> int:
        """See :meth:`SessionsService.end_all`."""
        body = {} if person is None else {"person": person}
        found = await self._api.request("POST", "/v1/sessions/end", json=body, type=_Ended)
        return found.ended


class PasskeysClient:
    """What :class:`~.passkeys.PasskeysService` promises, over an ``ApiClient``."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def begin_sign_in(self, start: SignInStart) -> Ceremony:
        """See :meth:`PasskeysService.begin_sign_in`."""
        return await self._ask("begin-sign-in", start, Ceremony)

    async def sign_in(self, finish: SignInFinish) -> SessionBegun:
        """See :meth:`PasskeysService.sign_in`."""
        return await self._ask("sign-in", finish, SessionBegun)

    async def see_invitation(self, secret: str) -> InvitationSeen:
        """See :meth:`PasskeysService.see_invitation`."""
        return await self._ask("see-invitation", InvitationSecret(secret=secret), InvitationSeen)

    async def begin_accepting(self, start: SignInStart) -> Ceremony:
        """See :meth:`PasskeysService.begin_accepting`."""
        return await self._ask("begin-accepting", start, Ceremony)

    async def accept(self, finish: SignInFinish) -> SessionBegun:
        """See :meth:`PasskeysService.accept`."""
        return await self._ask("accept", finish, SessionBegun)

    async def begin_adding(self, start: SignInStart) -> Ceremony:
        """See :meth:`PasskeysService.begin_adding`."""
        return await self._ask("begin-adding", start, Ceremony)

    async def add(self, finish: SignInFinish) -> Passkey:
        """See :meth:`PasskeysService.add`."""
        return await self._ask("add", finish, Passkey)

    async def list_passkeys(
        self, principal: Principal | None, *, person: str | None = None
    ) -> list[Passkey]:
        """See :meth:`PasskeysService.list_passkeys`."""
        params = {"person": person}
        return await self._api.request("GET", "/v1/passkeys", params=params, type=list[Passkey])

    async def end(self, principal: Principal | None, passkey: str) -> Passkey:
        """See :meth:`PasskeysService.end`."""
        path = f"/v1/passkeys/{quote(passkey, safe='')}/end"
        return await self._api.request("POST", path, json={}, type=Passkey)

    async def _ask(self, step: str, body: Struct, type_: type[T]) -> T:
        return await self._api.request("POST", f"/v1/passkeys/{step}", json=body, type=type_)


class OAuthClient:
    """What :class:`~.oauth.OAuthService` promises, over an ``ApiClient``."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def begin(self, start: OAuthStart) -> OAuthBegun:
        """See :meth:`OAuthService.begin`."""
        return await self._api.request(
            "POST", "/v1/sign-in/oauth-begin", json=start, type=OAuthBegun
        )

    async def finish(self, finish: OAuthFinish) -> SessionBegun:
        """See :meth:`OAuthService.finish`."""
        return await self._api.request(
            "POST", "/v1/sign-in/oauth-finish", json=finish, type=SessionBegun
        )

    async def list_accounts(
        self, principal: Principal | None, *, person: str | None = None
    ) -> list[LinkedAccount]:
        """See :meth:`OAuthService.list_accounts`."""
        params = {"person": person}
        return await self._api.request(
            "GET", "/v1/accounts", params=params, type=list[LinkedAccount]
        )

    async def unlink(self, principal: Principal | None, account: str) -> LinkedAccount:
        """See :meth:`OAuthService.unlink`."""
        path = f"/v1/accounts/{quote(account, safe='')}/unlink"
        return await self._api.request("POST", path, json={}, type=LinkedAccount)
