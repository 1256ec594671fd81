"""The routes of sessions: parse, call, map."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response
from msgspec import Meta, Struct

from holdfast.identity.signin.model import (
    SESSIONS,
    Session,
    SessionBegin,
    SessionBegun,
    SessionHolder,
    SessionLookup,
)
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


def handlers(sessions: SessionsService) -> list[Any]:
    """Every route of sessions."""
    return [*_own(sessions), *_for_doors(sessions)]


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


def services_only(principal: Principal) -> None:
    """Return for a role that asks for itself; ``Denied`` for everybody else."""
    if principal.kind is not PrincipalKind.SERVICE:
        raise Denied("cannot ask this: only services may", code="services-only")


def no_store(content: Any, status: int) -> Response[Any]:
    """An answer that holds a secret: nothing in between may keep it."""
    return Response(content=content, status_code=status, headers={"Cache-Control": "no-store"})
