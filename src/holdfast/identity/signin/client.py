"""Sign-in over HTTP: the same methods as the services."""

from __future__ import annotations

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
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page, encode_cursor, text_position
from holdfast.kernel.principal import Principal


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
        cursor = encode_cursor(SESSIONS, [before]) if before else None
        params = {"limit": limit, "cursor": cursor, "person": person}
        page = await self._api.request("GET", "/v1/sessions", params=params, type=Page[Session])
        return page.items, text_position(SESSIONS, page.next) or None

    async def end(self, principal: Principal | None, session: str) -> Session:
        """See :meth:`SessionsService.end`."""
        path = f"/v1/sessions/{quote(session, safe='')}/end"
        return await self._api.request("POST", path, json={}, type=Session)

    async def end_all(self, principal: Principal | None, person: str | None = None) -> int:
        """See :meth:`SessionsService.end_all`."""
        body = {} if person is None else {"person": person}
        found = await self._api.request("POST", "/v1/sessions/end", json=body, type=_Ended)
        return found.ended
