"""What came of a person or a key, and its end with theirs: keys they made, keys those made, links.

Whoever made a thing is in its row (``created_by``), so that what came of somebody is found by
following that column, through keys that have ended already, too. The operator and roles that act
for themselves end with nobody: what they make stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, Row, text

from holdfast.identity import store
from holdfast.identity.granting import Act, check_granted, custom_roles, granted_by
from holdfast.identity.model import (
    Derived,
    Maker,
    Standing,
    Thing,
    admits_all,
    is_over,
    key_unknown,
    networks_of,
)
from holdfast.identity.people import store as people_store
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Denied, Unauthenticated
from holdfast.kernel.ids import EventId, is_id, uuid7
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

_MADE = (
    "WITH RECURSIVE made (id) AS (SELECT CAST(:root AS TEXT) UNION SELECT k.id FROM api_keys k"
    " JOIN made m ON k.created_by = m.id WHERE k.tenant = :tenant) "
)
_KEYS = text(
    _MADE  # noqa: S608 — constants alone
    + "SELECT id, name, permissions FROM api_keys WHERE tenant = :tenant AND id <> :root"
    " AND id IN (SELECT id FROM made) AND revoked_at IS NULL AND expires_at > :now ORDER BY id"
)
_INVITATIONS = text(
    _MADE  # noqa: S608 — constants alone
    + "SELECT id, name, roles FROM invitations WHERE tenant = :tenant"
    " AND created_by IN (SELECT id FROM made)"
    " AND used_at IS NULL AND ended_at IS NULL AND expires_at > :now ORDER BY id"
)
_PEOPLE = text(
    _MADE  # noqa: S608 — constants alone
    + "SELECT id, name FROM people WHERE tenant = :tenant AND id <> :root"
    " AND created_by IN (SELECT id FROM made) AND disabled_at IS NULL ORDER BY id"
)


def find_derived(conn: Connection, tenant: str, root: str, now: str) -> Derived:
    """What would end with ``root``, a person or a key, and who came by its invitations."""
    values = {"tenant": tenant, "root": root, "now": now}
    return Derived(
        keys=_things(conn.execute(_KEYS, values).all()),
        invitations=_things(conn.execute(_INVITATIONS, values).all()),
        people=_things(conn.execute(_PEOPLE, {"tenant": tenant, "root": root}).all()),
    )


def is_here(conn: Connection, tenant: str, subject: str) -> bool:
    """Whether there is such a key or person, as they stand."""
    key = store.find_key(conn, tenant, subject)
    return key is not None or people_store.find_person(conn, tenant, subject) is not None


def end_derived(
    conn: Connection, outbox: Outbox, principal: Principal, root: str, because: Event
) -> Derived:
    """End what came of ``root``, in the transaction that ends it; an event for each.

    ``because`` is the event that says so of ``root``: its time and request are theirs, and their
    ids follow from its.
    """
    tenant, now = principal.tenant, timestamp(because.time)
    found = find_derived(conn, tenant, root, now)
    for key in found.keys:
        store.end_key(conn, tenant, key.id, now)
        outbox.emit(conn, principal, _ending(because, "api-key", "key", key.id, root))
    for invitation in found.invitations:
        people_store.end_invitation(conn, tenant, invitation.id, now)
        told = _ending(because, "invitation", "invitation", invitation.id, root)
        outbox.emit(conn, principal, told)
    return found


def end_beyond(
    conn: Connection,
    outbox: Outbox,
    principal: Principal,
    root: str,
    because: Event,
    allows: Callable[[Row[Any]], bool],
) -> Derived:
    """End of what came of ``root`` whatever it may not hand on any more, and what came of that.

    ``allows`` says of a key's or an invitation's row whether it may still be.
    """
    tenant, now = principal.tenant, timestamp(because.time)
    values = {"tenant": tenant, "root": root, "now": now}
    ended = Derived(keys=[], invitations=[], people=[])
    for row in conn.execute(_KEYS, values).all():
        if allows(row):
            continue
        if store.end_key(conn, tenant, row.id, now):
            outbox.emit(conn, principal, _ending(because, "api-key", "key", row.id, root))
            ended.keys.append(Thing(id=row.id, name=row.name))
        beneath = end_derived(conn, outbox, principal, row.id, because)
        ended.keys.extend(beneath.keys)
        ended.invitations.extend(beneath.invitations)
    for row in conn.execute(_INVITATIONS, values).all():
        if not allows(row):
            people_store.end_invitation(conn, tenant, row.id, now)
            outbox.emit(conn, principal, _ending(because, "invitation", "invitation", row.id, root))
            ended.invitations.append(Thing(id=row.id, name=row.name))
    return ended


def withdraw(
    conn: Connection, outbox: Outbox, principal: Principal, links: Sequence[Thing], because: Event
) -> None:
    """End open invitations for ``because``, with an event for each."""
    for link in links:
        people_store.end_invitation(conn, principal.tenant, link.id, timestamp(because.time))
        payload = {"invitation": link.id}
        outbox.emit(conn, principal, _event(because, "invitation", link.id, payload))


def withdraw_recoveries(
    conn: Connection, outbox: Outbox, principal: Principal, person: str, because: Event
) -> list[Thing]:
    """End every open link that would bring this person back, with an event for each.

    One person has one such link: who makes a new one means it instead of those before, which may
    be in somebody else's hands; and who came back by one has no use for another.
    """
    rows = people_store.open_recoveries(conn, principal.tenant, person, timestamp(because.time))
    found = _things(rows)
    withdraw(conn, outbox, principal, found, because)
    return found


def check_maker(
    conn: Connection,
    principal: Principal,
    now: str,
    granted: frozenset[Permission] = frozenset(),
    act: Act = Act.GRANT,
) -> Row[Any] | None:
    """Refuse whoever may not do ``act`` for want of ``granted``, or not any more; the key that is
    about to, if one is.

    Looked at in the transaction that does it: a door remembers a credential, and what it may do,
    for some seconds, and what is made in these would outlive what it came from. So would what
    somebody gives themselves back.
    """
    tenant, subject = principal.tenant, principal.subject
    check_granted(principal, granted, act)
    if principal.kind is PrincipalKind.KEY:
        key = store.find_key(conn, tenant, subject)
        if key is not None and is_over(key.expires_at, key.revoked_at, parse_timestamp(now)):
            raise key_unknown()
        return key
    if principal.kind is PrincipalKind.PERSON:
        person = people_store.find_person(conn, tenant, subject)
        if person is not None and person.disabled_at is not None:
            raise Unauthenticated("cannot do this: the session is over", code="session-over")
        if person is not None:
            has = granted_by(msgspec.json.decode(person.roles), custom_roles(conn, tenant))
            missing = sorted(p.value for p in {*granted, Permission.IDENTITY_WRITE} - has)
            if missing:
                raise Denied(
                    f"cannot do this: {', '.join(missing)} is missing", code="permission-missing"
                )
    return None


def check_managed(conn: Connection, principal: Principal, person: str, now: str) -> None:
    """Refuse who does not have all that the person has, as both are in this transaction.

    Otherwise managing somebody would be a way up.
    """
    tenant = principal.tenant
    there = people_store.find_person(conn, tenant, person)
    roles = [] if there is None else msgspec.json.decode(there.roles)
    check_maker(conn, principal, now, granted_by(roles, custom_roles(conn, tenant)), Act.MANAGE)


def redefined(
    conn: Connection,
    outbox: Outbox,
    principal: Principal,
    role: str,
    allows: frozenset[Permission] | None,
    because: Event,
) -> Derived:
    """What a role's new meaning takes with it, in the transaction that gives it that (``None``: it
    is dropped).

    For whoever has the role it is as if their roles were changed: what came of them and goes beyond
    what they may from now on ends, and so do links that would bring them back. Whoever made such a
    link might manage them as they were, and perhaps not as they are.

    :class:`Denied` for whoever does not have all that the role allows now: who may not manage
    somebody could take their role apart, and then might.
    """
    tenant, now = principal.tenant, timestamp(because.time)
    before = custom_roles(conn, tenant)
    after = {name: granted for name, granted in before.items() if name != role}
    if allows is not None:
        after[role] = allows
    check_maker(conn, principal, now, before.get(role, frozenset()), Act.REDEFINE)
    check_maker(conn, principal, now, allows or frozenset())
    ended = Derived(keys=[], invitations=[], people=[])
    if role not in before or before[role] == allows:
        return ended
    for person in people_store.find_with_role(conn, tenant, role):
        people_store.end_invitations_of(conn, tenant, person.id, now)
        roles = msgspec.json.decode(person.roles)
        lost = granted_by(roles, before) - granted_by(roles, after)
        if not lost:
            continue
        people_store.note_lost(conn, tenant, person.id, (each.value for each in lost), now)
        beyond = end_beyond(conn, outbox, principal, person.id, because, within(roles, after))
        ended.keys.extend(beyond.keys)
        ended.invitations.extend(beyond.invitations)
    return ended


def within(
    roles: Sequence[str], custom: Mapping[str, frozenset[Permission]]
) -> Callable[[Row[Any]], bool]:
    """Whether a key or an invitation grants no more than these roles do."""
    granted = granted_by(roles, custom)
    names = {permission.value for permission in granted}

    def allows(row: Row[Any]) -> bool:
        if "roles" in row._fields:
            return granted_by(msgspec.json.decode(row.roles), custom) <= granted
        return names.issuperset(msgspec.json.decode(row.permissions))

    return allows


def find_standing(conn: Connection, maker: Maker, now: str) -> Standing:
    """Whether what ``maker`` made and another role keeps still stands.

    What ended once does not stand again: of a person who was disabled and may sign in again, and of
    a permission that was taken away and given back, that is kept (``people.lost_at``). Keys of the
    operator's file and subjects of other issuers are not of this role: what they made ends by its
    own id.
    """
    tenant, subject = maker.tenant, maker.subject
    if maker.kind == PrincipalKind.KEY:
        key = store.find_key(conn, tenant, subject)
        if key is None:
            return _of_nobody_here(subject)
        if key.revoked_at is not None:
            return Standing(reason="key-revoked")
        if is_over(key.expires_at, None, parse_timestamp(now)):
            return Standing(reason="key-expired")
        if maker.permission not in msgspec.json.decode(key.permissions):
            return Standing(reason="permission-lost")
        return Standing(until=key.expires_at)
    if maker.kind == PrincipalKind.PERSON:
        person = people_store.find_person(conn, tenant, subject)
        if person is None:
            return _of_nobody_here(subject)
        if person.disabled_at is not None:
            return Standing(reason="person-disabled")
        lost = msgspec.json.decode(person.lost_at, type=dict[str, str])
        granted = granted_by(msgspec.json.decode(person.roles), custom_roles(conn, tenant))
        may = maker.permission in {permission.value for permission in granted}
        if not may or lost.get(maker.permission, "") >= maker.since:
            return Standing(reason="permission-lost")
        return Standing()
    return Standing(reason="maker-unknown")


def _of_nobody_here(subject: str) -> Standing:
    return Standing(reason="maker-unknown" if is_id(subject) else "")


def check_addresses(maker: Sequence[str], wanted: Sequence[str]) -> None:
    """``Denied`` if a key would hold where the one that makes it does not."""
    if maker and not admits_all(networks_of(maker), networks_of(wanted)):
        raise Denied(
            "cannot grant this: it must be limited to the addresses you are limited to",
            code="grant-exceeds",
            hint=f"name addresses within {', '.join(maker)}",
        )


def check_anywhere(maker: Sequence[str]) -> None:
    """``Denied`` for a key that holds at some addresses only: what it is about to make holds
    everywhere."""
    if maker:
        raise Denied(
            "cannot invite: this key holds at some addresses only, people come in from anywhere",
            code="grant-exceeds",
            hint="invite as a person, or by a key without addresses",
        )


def _ending(because: Event, kind: str, name: str, identity: str, root: str) -> Event:
    return _event(because, kind, identity, {name: identity, "with": root})


def _event(because: Event, kind: str, identity: str, payload: dict[str, Any]) -> Event:
    return following(because, f"{kind}/{identity}", f"{kind}.revoked", payload)


def following(
    because: Event, stream: str, type_: str, payload: dict[str, Any], what: str = ""
) -> Event:
    """The event of what happens because of another, at its time and by its request; ``what`` tells
    those of one stream apart."""
    # A unit of work makes no ids, as it may run again: the same happening has the same one.
    digest = hashlib.sha256(f"{because.id} {stream}{what and f' {what}'}".encode()).digest()
    milliseconds = int(because.id[:8] + because.id[9:13], 16)
    return replace(
        because,
        id=EventId(uuid7(milliseconds, digest[:10])),
        stream=stream,
        type=type_,
        payload=payload,
    )


def _things(rows: Sequence[Row[Any]]) -> list[Thing]:
    return [Thing(id=row.id, name=row.name) for row in rows]
