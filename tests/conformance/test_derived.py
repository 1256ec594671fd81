"""What came of a person or a key ends with them, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from holdfast.identity import store as key_store
from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES, ApiKeyCreate, Derived, NewApiKey, RoleDefine
from holdfast.identity.people import store
from holdfast.identity.people.model import PersonInvite, RolesChange
from holdfast.identity.people.service import PeopleService
from holdfast.identity.service import IdentityService, principal_of
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Denied, NotFound, Unauthenticated
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, Outbox
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from tests.support.between import Between
from tests.support.fleet import QuietSealer

ME = operator()


class Office:
    """Identity on one database, and somebody in it."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        counted = iter(range(1, 1_000_000))
        self.parts = Parts(
            database,
            Outbox(QuietSealer()),
            Peppers({1: b"\x05" * 32}),
            self.clock,
            id_source(self.clock),
            lambda size: next(counted).to_bytes(size, "big"),
        )
        self.keys, self.people = self.keys_on(database), self.people_on(database)

    def keys_on(self, database: Database) -> IdentityService:
        parts = self.parts
        return IdentityService(
            database, parts.outbox, parts.peppers, parts.clock, parts.new_id, parts.random
        )

    def people_on(self, database: Database) -> PeopleService:
        return PeopleService(replace(self.parts, database=database))

    async def person(self, by: str = "operator") -> Principal:
        """An administrator who is there."""
        identity = self.parts.new_id()
        values = {
            "tenant": ME.tenant,
            "id": identity,
            "name": "Ada",
            "email": "",
            "roles": '["admin"]',
            "created_at": timestamp(self.clock.now()),
            "created_by": by,
            "event_id": self.parts.new_id(),
        }
        await self.parts.database.write(ME, lambda conn: store.add_person(conn, values))
        return Principal(ME.tenant, identity, PrincipalKind.PERSON, ROLES["admin"])

    async def key(self, by: Principal, name: str, **more: Any) -> tuple[NewApiKey, Principal]:
        """A key that ``by`` makes, and who holds it."""
        self.clock.advance(1)  # ids are in the order in which they were made
        made = await self.keys.create_key(by, ApiKeyCreate(name=name, roles=["admin"], **more))
        return made, principal_of(await self.keys.find_holder(made.secret))

    async def holds(self, made: NewApiKey) -> bool:
        try:
            await self.keys.find_holder(made.secret)
        except Unauthenticated:
            return False
        return True

    async def told(self) -> list[tuple[str, str, str]]:
        """Type, stream and why of the events of ends."""
        found = await self.parts.database.read(
            ME, lambda conn: self.parts.outbox.ready(conn, ME, BEGINNING, 1000)
        )
        return [
            (e.event.type, e.event.stream, e.event.payload.get("with", ""))
            for e in found
            if e.event.type.endswith(("revoked", "disabled", "forgotten"))
        ]


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


async def test_what_a_key_made_ends_with_it_and_what_others_made_stays(office: Office) -> None:
    first, holder = await office.key(ME, "first")
    second, next_holder = await office.key(holder, "second")
    third, _ = await office.key(next_holder, "third")
    other, _ = await office.key(ME, "other")
    link = await office.people.invite(next_holder, PersonInvite(name="Eve", roles=["admin"]))
    stays = await office.people.invite(ME, PersonInvite(name="Bob"))
    came = await office.person(by=first.key.id)
    before = await office.keys.find_derived(ME, first.key.id)
    ended = await office.keys.revoke_key(ME, first.key.id)
    assert ended.ended == before
    assert [each.name for each in before.keys] == ["second", "third"]
    assert [(each.id, each.name) for each in before.invitations] == [(link.invitation.id, "Eve")]
    assert [each.id for each in before.people] == [came.subject]
    assert [await office.holds(each) for each in (first, second, third, other)] == [
        False,
        False,
        False,
        True,
    ]
    states = {i.name: i.state for i in (await office.people.list_invitations(ME))[0]}
    assert states == {"Eve": "revoked", "Bob": "open"}
    assert stays.invitation.state == "open"
    root = first.key.id
    assert await office.told() == [
        ("api-key.revoked", f"api-key/{root}", ""),
        ("api-key.revoked", f"api-key/{second.key.id}", root),
        ("api-key.revoked", f"api-key/{third.key.id}", root),
        ("invitation.revoked", f"invitation/{link.invitation.id}", root),
    ]
    again = await office.keys.revoke_key(ME, root)
    assert (again.ended.keys, again.ended.invitations) == ([], [])
    assert len(await office.told()) == 4


async def test_what_came_of_nobody_is_not_found_and_of_whoever_is_known_elsewhere_is(
    office: Office,
) -> None:
    """A misspelled id is not somebody of whom nothing came."""
    key, _ = await office.key(ME, "key")
    there = (key.key.id, (await office.person()).subject)
    for subject in there:
        assert await office.keys.find_derived(ME, subject) == Derived()
    elsewhere = operator(TenantId("elsewhere"))
    for who, subject in ((ME, office.parts.new_id()), (elsewhere, there[0]), (elsewhere, there[1])):
        with pytest.raises(NotFound) as refused:
            await office.keys.find_derived(who, subject)
        assert refused.value.code == "subject-not-found"
    foreign = Principal(ME.tenant, "t-1", PrincipalKind.FOREIGN, ROLES["admin"])
    made, _ = await office.key(foreign, "foreign")
    assert [each.id for each in (await office.keys.find_derived(ME, "t-1")).keys] == [made.key.id]


async def test_what_an_earlier_version_left_ends_when_its_maker_is_ended_again(
    office: Office,
) -> None:
    first, holder = await office.key(ME, "first")
    second, next_holder = await office.key(holder, "second")
    third, _ = await office.key(next_holder, "third")
    now = timestamp(office.clock.now())

    def alone(conn: Any) -> None:
        for each in (first, second):
            key_store.end_key(conn, ME.tenant, each.key.id, now)

    await office.parts.database.write(ME, alone)
    assert await office.holds(third)
    ended = await office.keys.revoke_key(ME, first.key.id)
    assert [each.id for each in ended.ended.keys] == [third.key.id]
    assert not await office.holds(third)


@pytest.mark.parametrize("how", ["disable", "forget"])
async def test_what_a_person_made_ends_with_them(office: Office, how: str) -> None:
    ada = await office.person()
    first, holder = await office.key(ada, "first")
    second, _ = await office.key(holder, "second")
    link = await office.people.invite(ada, PersonInvite(name="Eve", roles=["admin"]))
    by_key = await office.people.invite(holder, PersonInvite(name="Mallory"))
    ended = await getattr(office.people, how)(ME, ada.subject)
    assert [each.id for each in ended.ended.keys] == [first.key.id, second.key.id]
    assert {each.id for each in ended.ended.invitations} == {
        link.invitation.id,
        by_key.invitation.id,
    }
    assert not await office.holds(first)
    assert not await office.holds(second)
    told = await office.told()
    assert told[0][1] == f"person/{ada.subject}"
    assert [each[2] for each in told[1:]] == [ada.subject] * 4
    again = await getattr(office.people, how)(ME, ada.subject)
    assert again.ended.keys == []


async def test_a_key_that_a_key_makes_neither_outlives_it_nor_holds_elsewhere(
    office: Office,
) -> None:
    made, holder = await office.key(ME, "short", days=1, addresses=["10.0.0.0/8", "fd00::/8"])
    for wanted in ([], ["0.0.0.0/0"], ["10.0.0.0/8", "192.0.2.1"], ["::/0"]):
        with pytest.raises(Denied) as refused:
            await office.key(holder, "wide", days=3650, addresses=wanted)
        assert refused.value.code == "grant-exceeds"
    child, _ = await office.key(holder, "child", days=3650, addresses=["10.1.0.0/16"])
    assert child.key.expires_at == made.key.expires_at
    free, free_holder = await office.key(ME, "free", days=10)
    shorter, _ = await office.key(free_holder, "shorter", days=2)
    assert shorter.key.expires_at == timestamp(office.clock.now() + timedelta(days=2))
    assert free.key.expires_at > shorter.key.expires_at


async def test_who_was_ended_meanwhile_makes_nothing(office: Office) -> None:
    """A door remembers a credential for five seconds: nothing that is made in them holds."""
    made, holder = await office.key(ME, "key")
    ada = await office.person()
    between = Between(office.parts.database)
    late_keys, late_people = office.keys_on(between), office.people_on(between)
    between.before = [lambda: office.keys.revoke_key(ME, made.key.id)]
    with pytest.raises(Unauthenticated):
        await late_keys.create_key(holder, ApiKeyCreate(name="late", roles=["viewer"]))
    between.before = [lambda: office.people.disable(ME, ada.subject)]
    with pytest.raises(Unauthenticated):
        await late_keys.create_key(ada, ApiKeyCreate(name="late", roles=["viewer"]))
    for gone in (holder, ada):
        with pytest.raises(Unauthenticated):
            await late_people.invite(gone, PersonInvite(name="late"))
    assert (await office.people.list_invitations(ME))[0] == []
    assert [each.name for each in (await office.keys.list_keys(ME))[0]] == ["key"]


async def test_who_has_fewer_roles_by_now_hands_on_no_more_and_takes_none_back(
    office: Office,
) -> None:
    """What a door remembers of somebody for five seconds is not what they may."""
    ada, bob = await office.person(), await office.person()
    between = Between(office.parts.database)
    late_keys, late_people = office.keys_on(between), office.people_on(between)
    await office.people.disable(ME, bob.subject)
    manager = RoleDefine(permissions=["identity:read", "identity:write"])
    await office.keys.define_role(ME, "manager", manager)
    lesser, viewer = RolesChange(roles=["manager"]), RolesChange(roles=["viewer"])
    late = [
        lambda: late_keys.create_key(ada, ApiKeyCreate(name="late", roles=["admin"])),
        lambda: late_keys.define_role(ada, "late", RoleDefine(permissions=["ledger:append"])),
        lambda: late_people.invite(ada, PersonInvite(name="late", roles=["admin"])),
        lambda: late_people.enable(ada, bob.subject),
        lambda: late_people.recover(ada, ada.subject),
        lambda: late_people.change_roles(ada, ada.subject, RolesChange(roles=["admin"])),
    ]
    for roles in (lesser, viewer):
        for attempt in late:
            await office.people.change_roles(ME, ada.subject, RolesChange(roles=["admin"]))
            between.before = [partial(office.people.change_roles, ME, ada.subject, roles)]
            with pytest.raises(Denied) as refused:
                await attempt()
            assert refused.value.code == "permission-missing"
    assert (await office.people.find_person(ME, ada.subject)).roles == ["viewer"]
    assert (await office.people.find_person(ME, bob.subject)).state == "disabled"
    assert (await office.people.list_invitations(ME))[0] == []
    assert (await office.keys.list_keys(ME))[0] == []
    assert "late" not in [role.name for role in await office.keys.list_roles(ME)]


async def test_nobody_who_was_ended_lets_themselves_in_again(office: Office) -> None:
    ada = await office.person()
    made, holder = await office.key(ada, "key")
    between = Between(office.parts.database)
    late_people = office.people_on(between)
    between.before = [lambda: office.people.disable(ME, ada.subject)]
    with pytest.raises(Unauthenticated):
        await late_people.enable(ada, ada.subject)
    for who in (ada, holder):
        with pytest.raises(Unauthenticated):
            await office.people.enable(who, ada.subject)
    assert (await office.people.find_person(ME, ada.subject)).state == "disabled"
    assert not await office.holds(made)


async def test_with_fewer_roles_ends_what_goes_beyond_them_and_what_that_made(
    office: Office,
) -> None:
    ada = await office.person()
    admin, holder = await office.key(ada, "admin")
    below, _ = await office.key(holder, "below")
    reader = await office.keys.create_key(ada, ApiKeyCreate(name="reader", roles=["viewer"]))
    made_by_admin = await office.keys.create_key(
        holder, ApiKeyCreate(name="reader of admin", roles=["viewer"])
    )
    much = await office.people.invite(ada, PersonInvite(name="Eve", roles=["admin"]))
    little = await office.people.invite(ada, PersonInvite(name="Bob", roles=["viewer"]))
    changed = await office.people.change_roles(ME, ada.subject, RolesChange(roles=["viewer"]))
    assert {each.id for each in changed.ended.keys} == {
        admin.key.id,
        below.key.id,
        made_by_admin.key.id,
    }
    assert [each.id for each in changed.ended.invitations] == [much.invitation.id]
    assert [await office.holds(each) for each in (admin, below, made_by_admin, reader)] == [
        False,
        False,
        False,
        True,
    ]
    states = {i.id: i.state for i in (await office.people.list_invitations(ME))[0]}
    assert (states[much.invitation.id], states[little.invitation.id]) == ("revoked", "open")
    assert len(await office.told()) == 4
    more = await office.people.change_roles(ME, ada.subject, RolesChange(roles=["admin"]))
    assert (more.ended.keys, more.ended.invitations) == ([], [])


CLERK = Principal(
    ME.tenant,
    "clerk",
    PrincipalKind.PERSON,
    ROLES["viewer"] | {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE},
)


async def test_who_may_not_manage_somebody_takes_their_role_not_apart(office: Office) -> None:
    """Or they might manage them afterwards: by a link they would come in as them."""
    chief = RoleDefine(permissions=["records:read", "keys:write"])
    await office.keys.define_role(ME, "chief", chief)
    ada = await office.person()
    await office.people.change_roles(ME, ada.subject, RolesChange(roles=["chief"]))
    define, role = office.keys.define_role, "cannot change this role, which allows more than you "
    attempts = [
        (lambda: office.people.recover(CLERK, ada.subject), "cannot manage this person, who may "),
        (lambda: define(CLERK, "chief", RoleDefine(permissions=["records:read"])), role),
        (lambda: office.keys.drop_role(CLERK, "chief"), role),
        (lambda: define(CLERK, "new", RoleDefine(permissions=["keys:write"])), "cannot grant keys"),
    ]
    for attempt, words in attempts:
        with pytest.raises(Denied, match=words) as refused:
            await attempt()
        assert refused.value.code == "grant-exceeds"
    (role,) = [role for role in await office.keys.list_roles(ME) if not role.built_in]
    assert role.permissions == sorted(chief.permissions)
    # What is no more than they have is theirs to define, as before.
    await office.keys.define_role(CLERK, "reader", RoleDefine(permissions=["records:read"]))
    await office.keys.drop_role(CLERK, "reader")


@pytest.mark.parametrize("dropped", [False, True])
async def test_what_goes_beyond_a_role_that_allows_less_ends(office: Office, dropped: bool) -> None:
    wide = ["identity:read", "identity:write", "records:read", "runs:read"]
    await office.keys.define_role(ME, "wide", RoleDefine(permissions=wide))
    ada = await office.person()
    await office.people.change_roles(ME, ada.subject, RolesChange(roles=["viewer", "wide"]))
    granted = frozenset(Permission(each) for each in wide) | ROLES["viewer"]
    ada = replace(ada, permissions=granted)
    keeps = await office.keys.create_key(ada, ApiKeyCreate(name="k", permissions=["records:read"]))
    ends = await office.keys.create_key(ada, ApiKeyCreate(name="e", permissions=["identity:read"]))
    link = await office.people.recover(ME, ada.subject)
    of_another = await office.keys.create_key(ME, ApiKeyCreate(name="o", permissions=wide))
    if dropped:
        await office.keys.drop_role(ME, "wide")
    else:
        await office.keys.define_role(ME, "wide", RoleDefine(permissions=["records:read"]))
    assert not await office.holds(ends)
    assert await office.holds(keeps) is await office.holds(of_another) is True
    found, _ = await office.people.list_invitations(ME)
    assert [(each.id, each.state) for each in found] == [(link.invitation.id, "revoked")]
    assert (
        "api-key.revoked",
        f"api-key/{ends.key.id}",
        ada.subject,
    ) in await office.told()


async def test_a_link_that_brings_somebody_back_ends_when_their_role_allows_more(
    office: Office,
) -> None:
    await office.keys.define_role(ME, "helper", RoleDefine(permissions=["records:read"]))
    ada = await office.person()
    await office.people.change_roles(ME, ada.subject, RolesChange(roles=["helper"]))
    link = await office.people.recover(CLERK, ada.subject)
    await office.keys.define_role(ME, "helper", RoleDefine(permissions=["records:read"]))
    assert (await office.people.list_invitations(ME))[0][0].state == "open"
    everything = RoleDefine(permissions=sorted(p.value for p in ROLES["admin"]))
    await office.keys.define_role(ME, "helper", everything)
    found, _ = await office.people.list_invitations(ME)
    assert [(each.id, each.state) for each in found] == [(link.invitation.id, "revoked")]


async def test_who_manages_somebody_has_all_that_they_have_when_it_is_done(office: Office) -> None:
    await office.keys.define_role(ME, "helper", RoleDefine(permissions=["records:read"]))
    ada = await office.person()
    between = Between(office.parts.database)
    late = office.people_on(between)
    clerk, admin = CLERK, RolesChange(roles=["admin"])
    for attempt in (
        lambda: late.recover(clerk, ada.subject),
        lambda: late.disable(clerk, ada.subject),
        lambda: late.forget(clerk, ada.subject),
        lambda: late.change_roles(clerk, ada.subject, RolesChange(roles=["viewer"])),
    ):
        await office.people.change_roles(ME, ada.subject, RolesChange(roles=["helper"]))
        between.before = [partial(office.people.change_roles, ME, ada.subject, admin)]
        with pytest.raises(Denied, match="cannot manage this person, who may do more") as refused:
            await attempt()
        assert refused.value.code == "grant-exceeds"
    there = await office.people.find_person(ME, ada.subject)
    assert (there.roles, there.state) == (["admin"], "active")


async def test_a_key_invites_no_longer_than_it_holds_and_only_if_it_holds_anywhere(
    office: Office,
) -> None:
    """As with what else it makes: by an invitation it would outlive its limits."""
    made, holder = await office.key(ME, "short", days=1)
    invited = await office.people.invite(holder, PersonInvite(name="Ada", hours=720))
    assert invited.invitation.expires_at == made.key.expires_at
    _, here = await office.key(ME, "here", addresses=["127.0.0.1/32"])
    ada = await office.person()
    for attempt in (
        lambda: office.people.invite(here, PersonInvite(name="Eve")),
        lambda: office.people.recover(here, ada.subject),
    ):
        with pytest.raises(Denied) as refused:
            await attempt()
        assert refused.value.code == "grant-exceeds"
    assert len((await office.people.list_invitations(ME))[0]) == 1


async def test_a_key_that_may_more_is_ended_by_its_maker_and_by_who_may_as_much(
    office: Office,
) -> None:
    made, holder = await office.key(ME, "admin")
    with pytest.raises(Denied, match="cannot revoke this key, which may do more") as refused:
        await office.keys.revoke_key(CLERK, made.key.id)
    assert refused.value.code == "grant-exceeds"
    assert await office.holds(made)
    # Itself, or one that it made, whatever they may.
    await office.keys.revoke_key(replace(holder, permissions=CLERK.permissions), made.key.id)
    assert not await office.holds(made)
    lesser = await office.keys.create_key(ME, ApiKeyCreate(name="l", permissions=["records:read"]))
    await office.keys.revoke_key(CLERK, lesser.key.id)
    assert not await office.holds(lesser)
