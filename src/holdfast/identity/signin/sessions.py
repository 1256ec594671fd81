"""Sessions: begun at sign-in, recognised at every request, ended by their owner, by an
administrator, by time, or with the credential they came from.

A session is opaque: its secret is in the browser's cookie, an HMAC of it here. Whatever ends it is
an event, and counts at every door within five seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from holdfast.identity.access.store import check_confirmed
from holdfast.identity.derived import check_maker, check_managed
from holdfast.identity.finding import TenantFinder
from holdfast.identity.granting import Act, Parts, custom_roles, granted_by, manages_others, whose
from holdfast.identity.model import ROLES
from holdfast.identity.people import store as people_store
from holdfast.identity.signin import store
from holdfast.identity.signin.model import (
    SESSION_KEPT_DAYS,
    SESSION_PREFIX,
    SESSIONS_OF_ONE_MAX,
    Session,
    SessionBegin,
    SessionBegun,
    SessionHolder,
    expires_at,
    is_stale,
)
from holdfast.kernel.clock import timestamp
from holdfast.kernel.credentials import identity_of, make_secret
from holdfast.kernel.errors import Conflict, Invalid, NotFound, Problem, Unauthenticated
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.ids import TenantId, is_name
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import (
    ALL_PERMISSIONS,
    Permission,
    Principal,
    PrincipalKind,
    service,
)

OPERATOR = "operator"
"""The subject of the operator's sessions."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session lasts, and how long in silence."""

    seconds: float = 12 * 3600
    idle_seconds: float = 2 * 3600


@dataclass(frozen=True, slots=True)
class Prepared:
    """A session ready to be written: time, ids and randomness are settled."""

    begun: SessionBegun
    values: dict[str, Any]
    began: Event
    replaces: str
    """The secret that their browser showed of a session before, whether it is one or not."""
    replaced: str
    ended: Event


class SessionsService:
    """Sessions. See the README of identity."""

    def __init__(self, parts: Parts, limits: SessionLimits) -> None:
        self._parts = parts
        self._db = parts.database
        self._limits = limits
        self._finder = TenantFinder(parts.database, store.find_session)

    # --- for the door -----------------------------------------------------------------------------

    async def begin(self, begin: SessionBegin) -> SessionBegun:
        """A new session. The caller has made sure of who it is."""
        if not is_name(begin.tenant) or begin.kind not in (
            PrincipalKind.OPERATOR,
            PrincipalKind.PERSON,
        ):
            raise Invalid("cannot begin a session: not for such as these")
        prepared = self.prepare(begin)
        principal = service("identity", TenantId(begin.tenant))
        await self._db.write(principal, lambda conn: self.write(conn, principal, prepared))
        return prepared.begun

    def prepare(self, begin: SessionBegin) -> Prepared:
        """Everything about a new session that is no matter of the database."""
        parts, identity, now = self._parts, self._parts.new_id(), self._parts.clock.now()
        secret = make_secret(SESSION_PREFIX, identity, parts.random(32))
        kept, pepper = parts.peppers.seal(secret)
        who = Principal(
            TenantId(begin.tenant), begin.subject, PrincipalKind(begin.kind), frozenset()
        )
        began = parts.event(
            who,
            f"session/{identity}",
            "session.began",
            {"session": identity, "subject": begin.subject, "credential": begin.credential},
        )
        values = {
            "tenant": begin.tenant,
            "id": identity,
            "secret": kept,
            "pepper": pepper,
            "subject": begin.subject,
            "kind": begin.kind,
            "credential": begin.credential,
            "address": begin.address,
            "agent": begin.agent,
            "began_at": timestamp(now),
            "seen_at": timestamp(now),
            "ends_at": timestamp(now + timedelta(seconds=self._limits.seconds)),
            "event_id": began.id,
        }
        replaced = self._replaced(begin.replaces)
        ended = parts.event(
            who,
            f"session/{replaced or identity}",
            "session.ended",
            {"session": replaced, "reason": "replaced"},
        )
        seconds = int(self._limits.seconds)
        begun = SessionBegun(
            id=identity,
            secret=secret,
            tenant=begin.tenant,
            subject=begin.subject,
            seconds=seconds,
        )
        return Prepared(begun, values, began, begin.replaces, replaced, ended)

    def _replaced(self, secret: str) -> str:
        """The id of the session a browser says it had; see :meth:`_had`."""
        try:
            return identity_of(secret, SESSION_PREFIX) if secret else ""
        except Unauthenticated:
            return ""

    def write(self, conn: Connection, principal: Principal, prepared: Prepared) -> None:
        """Write a prepared session and its event, in the caller's transaction.

        What the browser had before ends, if it was of the same tenant; so does the oldest session
        of whoever has too many. What ended long ago is forgotten.

        :class:`Denied` (``access-unconfirmed``) for everybody but the operator while access is as
        it was at a backup: whatever they showed may have been ended since.
        """
        values, tenant = prepared.values, principal.tenant
        if values["kind"] != PrincipalKind.OPERATOR:
            check_confirmed(conn, tenant)
        now = values["began_at"]
        store.add_session(conn, values)
        self._parts.outbox.emit(conn, principal, prepared.began)
        if self._had(conn, tenant, prepared) and store.end_session(
            conn, tenant, prepared.replaced, now
        ):
            self._parts.outbox.emit(conn, principal, prepared.ended)
        for old in store.open_of_subject(conn, tenant, values["subject"], now)[
            SESSIONS_OF_ONE_MAX:
        ]:
            store.end_session(conn, tenant, old, now)
        kept = timestamp(datetime.fromisoformat(now) - timedelta(days=SESSION_KEPT_DAYS))
        store.forget_sessions(conn, tenant, values["subject"], kept)

    def _had(self, conn: Connection, tenant: str, prepared: Prepared) -> bool:
        """Whether the browser had that session. Ids are no secret: whoever reads the record knows
        them, and would end others' sessions by signing in."""
        row = store.find_session(conn, tenant, prepared.replaced) if prepared.replaced else None
        return row is not None and self._parts.peppers.matches(
            prepared.replaces, bytes(row.secret), row.pepper
        )

    async def find_holder(self, secret: str) -> SessionHolder:
        """Whom a session speaks for, with what they may do now.

        :class:`Unauthenticated` (``session-over``) whether it never was or is over, and when the
        person may not sign in any more. The door, which alone asks, learns from its ``problems``
        whose it was (:func:`session_was_of`), for the audit.
        """
        identity = identity_of(secret, SESSION_PREFIX)
        row, tenant = await self._finder.find(identity)
        now = self._parts.clock.now()
        if row is None or not self._parts.peppers.matches(secret, bytes(row.secret), row.pepper):
            raise session_over()
        if self._is_over(row, now):
            raise session_over(tenant, row.subject)
        found = await self._db.read(
            service("identity", tenant), lambda conn: _holder(conn, tenant, row)
        )
        if found is None:
            raise session_over(tenant, row.subject)
        if is_stale(row.seen_at, now, self._limits.idle_seconds):
            await self._db.write(
                service("identity", tenant),
                lambda conn: store.touch(conn, tenant, identity, timestamp(now)),
            )
        name, permissions = found
        return SessionHolder(
            id=identity,
            tenant=tenant,
            subject=row.subject,
            kind=row.kind,
            name=name,
            permissions=sorted(permission.value for permission in permissions),
            credential=row.credential,
            expires_at=self._expires_at(row),
        )

    async def end_by_secret(self, secret: str) -> None:
        """Sign out: end the session whose secret this is. One that is over is fine."""
        try:
            holder = await self.find_holder(secret)
        except Unauthenticated as error:
            if not error.problems:
                raise
            raise session_over() from None
        who = Principal(
            TenantId(holder.tenant),
            holder.subject,
            PrincipalKind(holder.kind),
            frozenset({Permission.SELF}),
        )
        await self.end(who, holder.id)

    # --- for people -------------------------------------------------------------------------------

    async def list_sessions(
        self,
        principal: Principal,
        *,
        person: str | None = None,
        before: str = "",
        limit: int = 100,
    ) -> tuple[list[Session], str | None]:
        """Sessions, the newest first: the caller's own, those of ``person``, or with an empty
        ``person`` everybody's. Others' need ``identity:read``."""
        subject = whose(principal, person, Permission.IDENTITY_READ)
        limit = page_size(limit)
        rows = await self._db.read(
            principal,
            lambda conn: store.page_of_sessions(conn, principal.tenant, subject, before, limit + 1),
        )
        now = self._parts.clock.now()
        found = [self._session_of(row, principal, now) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def end(self, principal: Principal, session: str) -> Session:
        """End a session: one's own, or with ``identity:write`` that of anybody who may no more than
        the caller. Twice is fine."""
        now = self._parts.clock.now()
        row = await self._db.read(
            principal, lambda conn: store.find_session(conn, principal.tenant, session)
        )
        visible = row is not None and (
            row.subject == principal.subject or manages_others(principal, Permission.IDENTITY_WRITE)
        )
        if not visible:
            # The same answer whether it is somebody else's or nobody's.
            raise _no_session(session)
        event = self._parts.event(
            principal,
            f"session/{session}",
            "session.ended",
            {"session": session, "reason": "ended"},
        )

        def unit(conn: Connection) -> Row[Any] | None:
            if row is not None and row.subject != principal.subject:
                _check_manages(conn, principal, row.subject, row.kind, timestamp(now))
            if store.end_session(conn, principal.tenant, session, timestamp(now)):
                self._parts.outbox.emit(conn, principal, event)
            return store.find_session(conn, principal.tenant, session)

        found = await self._db.write(principal, unit)
        if found is None:  # whose it was is forgotten
            raise _no_session(session)
        return self._session_of(found, principal, now)

    async def end_all(self, principal: Principal, person: str | None = None) -> int:
        """End every session of the caller but the one they are in, or of ``person``, who may no
        more than the caller; how many."""
        subject = whose(principal, person, Permission.IDENTITY_WRITE)
        now = timestamp(self._parts.clock.now())
        keep = principal.credential.removeprefix("session:")
        open_now = await self._db.read(
            principal, lambda conn: store.open_of_subject(conn, principal.tenant, subject, now)
        )
        events = self.endings(principal, [each for each in open_now if each != keep], "ended")

        def unit(conn: Connection) -> int:
            if subject != principal.subject:
                kind = PrincipalKind.OPERATOR if subject == OPERATOR else PrincipalKind.PERSON
                _check_manages(conn, principal, subject, kind, now)
            return end_prepared(conn, self._parts, principal, events, now)

        return await self._db.write(principal, unit)

    def endings(
        self, principal: Principal, sessions: Sequence[str], reason: str
    ) -> dict[str, Event]:
        """Session → the event that says that it ended, and why."""
        return {
            each: self._parts.event(
                principal, f"session/{each}", "session.ended", {"session": each, "reason": reason}
            )
            for each in sessions
        }

    # --- shared -----------------------------------------------------------------------------------

    def _expires_at(self, row: Row[Any]) -> str:
        found = expires_at(
            row.began_at, row.seen_at, self._limits.seconds, self._limits.idle_seconds
        )
        return str(min(found, row.ends_at))

    def _is_over(self, row: Row[Any], now: datetime) -> bool:
        return row.ended_at is not None or self._expires_at(row) <= timestamp(now)

    def _session_of(self, row: Row[Any], principal: Principal, now: datetime) -> Session:
        over = self._is_over(row, now)
        return Session(
            id=row.id,
            subject=row.subject,
            credential=row.credential,
            began_at=row.began_at,
            seen_at=row.seen_at,
            expires_at=self._expires_at(row),
            address=row.address,
            agent=row.agent,
            state="open" if not over else "ended" if row.ended_at else "expired",
            current=principal.credential == f"session:{row.id}",
        )


def end_prepared(
    conn: Connection, parts: Parts, principal: Principal, events: dict[str, Event], now: str
) -> int:
    """End these sessions in the caller's transaction, each with its event; how many were open."""
    ended = 0
    for session, event in events.items():
        if store.end_session(conn, principal.tenant, session, now):
            parts.outbox.emit(conn, principal, event)
            ended += 1
    return ended


def end_with(
    conn: Connection,
    parts: Parts,
    principal: Principal,
    credential: str,
    events: dict[str, Event],
    now: str,
) -> None:
    """End what ``credential`` began, with what it is; :class:`Conflict` if that is more by now.

    Each has its event, and an event's id is settled before the transaction.
    """
    open_now = store.open_of_credential(conn, principal.tenant, credential, now)
    if not events.keys() >= set(open_now):
        raise Conflict(
            "cannot end it yet: somebody signed in by it at this moment",
            code="signed-in-meanwhile",
            hint="ask again",
        )
    end_prepared(conn, parts, principal, events, now)


def _holder(
    conn: Connection, tenant: TenantId, row: Row[Any]
) -> tuple[str, frozenset[Permission]] | None:
    """The name and the permissions of whoever a session is of; nothing if they may not be."""
    if row.kind == PrincipalKind.OPERATOR:
        return "operator", ALL_PERMISSIONS
    person = people_store.find_person(conn, tenant, row.subject)
    if person is None or person.disabled_at is not None:
        return None
    roles = msgspec.json.decode(person.roles, type=list[str])
    granted = granted_by(roles, custom_roles(conn, tenant))
    return person.name, granted | {Permission.SELF}


def _check_manages(
    conn: Connection, principal: Principal, subject: str, kind: str, now: str
) -> None:
    """Refuse who may do less than whoever's session is about to end: it would shut them out, again
    and again."""
    if kind == PrincipalKind.OPERATOR:
        check_maker(conn, principal, now, ROLES["admin"], Act.MANAGE)
    else:
        check_managed(conn, principal, subject, now)


def _no_session(session: str) -> NotFound:
    return NotFound(f"cannot find the session {session}", code="session-not-found")


def session_over(tenant: str = "", subject: str = "") -> Unauthenticated:
    """The one answer to whoever has no session; of one that is over the door, and nobody else,
    learns whose it was."""
    known = (Problem("tenant", tenant), Problem("subject", subject)) if subject else ()
    return Unauthenticated("cannot go on: the session is over", code="session-over", problems=known)


def session_was_of(error: Unauthenticated) -> tuple[str, str]:
    """The tenant and the subject of the session that is over; empty for one that never was."""
    found = {problem.path: problem.message for problem in error.problems}
    return found.get("tenant", ""), found.get("subject", "")


def principal_of_session(holder: SessionHolder) -> Principal:
    """The principal that a session speaks for."""
    known = {permission.value: permission for permission in Permission}
    return Principal(
        TenantId(holder.tenant),
        holder.subject,
        PrincipalKind(holder.kind),
        frozenset(known[name] for name in holder.permissions if name in known),
        None,
        f"session:{holder.id}",
    )
