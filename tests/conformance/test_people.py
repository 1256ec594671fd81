"""What identity promises of people, asked of the service and of its client, on both databases."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from holdfast.app.commands.audit import wanted
from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES
from holdfast.identity.people import http, store
from holdfast.identity.people.client import PeopleClient
from holdfast.identity.people.model import (
    AdminCreate,
    NewInvitation,
    PersonInvite,
    PersonRecover,
    RolesChange,
    TenantCreate,
    normal_email,
)
from holdfast.identity.people.service import PeopleService
from holdfast.identity.signin import oauth_store
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Denied, HoldfastError, Invalid, NotFound
from holdfast.kernel.principal import Permission, Principal, PrincipalKind
from tests.support.between import Between
from tests.support.identity import ELSEWHERE, ME, apis_for, clock, events, join, parts

__all__ = ["clock", "parts"]

People = PeopleService | PeopleClient
ADMIN = Principal(ME.tenant, "an-admin", PrincipalKind.PERSON, ROLES["admin"])
CLERK = Principal(
    ME.tenant,
    "clerk",
    PrincipalKind.PERSON,
    ROLES["viewer"] | {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE},
)
WHO = {"me": ME, "elsewhere": ELSEWHERE, "admin": ADMIN, "clerk": CLERK}


@pytest.fixture
def served(parts: Parts) -> PeopleService:
    return PeopleService(parts)


@pytest.fixture
async def clients(served: PeopleService, clock: ManualClock) -> AsyncIterator[dict[str, Any]]:
    async with apis_for(WHO, http.handlers(served), clock) as apis:
        yield {name: PeopleClient(api) for name, api in apis.items()}


@pytest.fixture(params=["service", "client"])
def people(request: pytest.FixtureRequest, served: PeopleService, clients: Any) -> People:
    return served if request.param == "service" else clients["me"]


async def test_an_invitation_is_shown_once_kept_hashed_and_an_event_without_the_name(
    people: People, database: Database
) -> None:
    made = await people.invite(
        ME, PersonInvite(name="Ada Lovelace", email="Ada@Example.org", roles=["operator", "viewer"])
    )
    assert made.secret.startswith(f"hfi_{made.invitation.id}_")
    assert made.invitation.email == "ada@example.org"
    assert made.invitation.state == "open"
    row = await database.read(
        ME, lambda conn: store.find_invitation(conn, ME.tenant, made.invitation.id)
    )
    assert row is not None
    assert made.secret.split("_")[2].encode() not in bytes(row.secret)
    (entry,) = await events(database)
    assert (entry.event.type, entry.event.payload["roles"]) == (
        "person.invited",
        ["operator", "viewer"],
    )
    assert "Lovelace" not in repr(entry)
    assert "example.org" not in repr(entry)
    assert made.secret not in repr(entry)


async def test_of_one_idempotency_key_comes_one_invitation(people: People) -> None:
    wanted = PersonInvite(name="Ada")
    made = await people.invite(ME, wanted, idempotency_key="k")
    with pytest.raises(Conflict) as caught:
        await people.invite(ME, wanted, idempotency_key="k")
    assert caught.value.code == "secret-shown-once"
    assert made.invitation.id in caught.value.detail
    assert len((await people.list_invitations(ME))[0]) == 1
    assert (await people.invite(ME, wanted, idempotency_key="l")).secret != made.secret


async def test_an_invitation_holds_until_it_is_used_revoked_or_expired(
    people: People, parts: Parts, clock: ManualClock
) -> None:
    used = await people.invite(ME, PersonInvite(name="used"))
    revoked = await people.invite(ME, PersonInvite(name="revoked"))
    await people.invite(ME, PersonInvite(name="expired", hours=1))

    def use(conn: Any) -> bool:
        at = timestamp(clock.now())
        return store.use_invitation(conn, ME.tenant, used.invitation.id, "somebody", at)

    assert await parts.database.write(ME, use)
    assert not await parts.database.write(ME, use)
    assert (await people.revoke_invitation(ME, revoked.invitation.id)).state == "revoked"
    assert (await people.revoke_invitation(ME, revoked.invitation.id)).state == "revoked"
    with pytest.raises(Conflict):
        await people.revoke_invitation(ME, used.invitation.id)
    clock.advance(3600)
    found, more = await people.list_invitations(ME)
    assert {each.name: each.state for each in found} == {
        "used": "used",
        "revoked": "revoked",
        "expired": "expired",
    }
    assert more is None
    first, more = await people.list_invitations(ME, limit=2)
    assert more is not None
    assert len({e.id for e in first + (await people.list_invitations(ME, before=more))[0]}) == 3


async def test_the_first_administrator_is_named_by_the_operator_alone_and_once(
    served: PeopleService, clients: Any, parts: Parts
) -> None:
    made = await clients["me"].create_admin(ME, AdminCreate(name="Ada"))
    assert made.invitation.roles == ["admin"]
    with pytest.raises(Denied) as refused:
        await clients["admin"].create_admin(ADMIN, AdminCreate(name="Eve"))
    assert refused.value.code == "operator-only"
    with pytest.raises(NotFound):
        await served.create_admin(ME, AdminCreate(name="Ada", tenant="nowhere"))
    there = await join(parts, ["admin"])
    with pytest.raises(Conflict):
        await served.create_admin(ME, AdminCreate(name="Eve"))
    await served.create_admin(ME, AdminCreate(name="Bob", tenant="elsewhere"))
    assert [i.name for i in (await served.list_invitations(ELSEWHERE))[0]] == ["Bob"]
    await served.disable(ME, there)
    await served.create_admin(ME, AdminCreate(name="Grace"))


async def test_of_two_links_to_the_first_administrators_place_the_newer_holds(
    people: People, parts: Parts, database: Database
) -> None:
    await people.invite(ME, PersonInvite(name="Bob"))
    older = await people.create_admin(ME, AdminCreate(name="Ada"))
    newer = await people.create_admin(ME, AdminCreate(name="Eve"))
    assert (older.withdrawn, [each.id for each in newer.withdrawn]) == ([], [older.invitation.id])
    states = {each.name: each.state for each in (await people.list_invitations(ME))[0]}
    assert states == {"Ada": "revoked", "Bob": "open", "Eve": "open"}
    told = [(entry.event.type, entry.event.stream) for entry in await events(database)]
    assert ("invitation.revoked", f"invitation/{older.invitation.id}") in told


async def test_of_several_links_that_bring_somebody_back_the_newest_holds(
    people: People, parts: Parts, database: Database
) -> None:
    person, other = await join(parts, ["viewer"]), await join(parts, ["viewer"])
    others = await people.recover(ME, other)
    older = await people.recover(ME, person)
    newer = await people.recover(ME, person)
    assert (older.withdrawn, [each.id for each in newer.withdrawn]) == ([], [older.invitation.id])
    states = {each.id: each.state for each in (await people.list_invitations(ME))[0]}
    assert states == {
        others.invitation.id: "open",
        older.invitation.id: "revoked",
        newer.invitation.id: "open",
    }
    told = [(entry.event.type, entry.event.stream) for entry in await events(database)]
    assert told[-2:] == [
        ("invitation.revoked", f"invitation/{older.invitation.id}"),
        ("person.recovery", f"person/{person}"),
    ]


async def test_a_link_that_brings_somebody_back_can_be_asked_for_without_a_body(
    served: PeopleService, clock: ManualClock, parts: Parts
) -> None:
    person = await join(parts, ["viewer"])
    async with apis_for(WHO, http.handlers(served), clock) as apis:
        path = f"/v1/people/{person}/recover"
        made = await apis["me"].request("POST", path, type=NewInvitation)
    assert made.invitation.person == person


async def test_who_names_another_tenants_administrator_is_on_the_operators_own_record(
    people: People, database: Database
) -> None:
    await people.create_admin(ME, AdminCreate(name="Ada", tenant="elsewhere"))
    (told,) = await events(database)
    assert (told.event.type, told.event.stream) == (
        "tenant.administrator-asked",
        "tenant/elsewhere",
    )
    assert wanted(told.event.type, "operator", frozenset(), "")


async def test_the_operator_brings_back_an_administrator_of_another_tenant_and_nobody_else(
    people: People, clients: Any, parts: Parts, database: Database
) -> None:
    chief = await join(parts, ["admin"], ELSEWHERE)
    viewer = await join(parts, ["viewer"], ELSEWHERE)
    with pytest.raises(Conflict) as there:
        await people.create_admin(ME, AdminCreate(name="Two", tenant="elsewhere"))
    assert f"person recover {chief} --tenant elsewhere`" in there.value.hint
    assert "person invite" not in there.value.hint
    how = PersonRecover(tenant="elsewhere", end_passkeys=True)
    made = await people.recover(ME, chief, how)
    assert (made.invitation.person, made.invitation.roles) == (chief, ["admin"])
    (told,) = await events(database)
    assert (told.event.type, told.event.payload["person"]) == ("tenant.recovery-asked", chief)
    assert wanted(told.event.type, "operator", frozenset(), "")
    assert [e.event.type for e in await events(database, ELSEWHERE)] == ["person.recovery"]
    for attempt, kind in (
        (people.recover(ME, viewer, how), NotFound),
        (people.recover(ME, "nobody", how), NotFound),
        (people.recover(ME, chief, PersonRecover(tenant="nowhere")), NotFound),
        (clients["admin"].recover(None, chief, how), Denied),
        (clients["admin"].recover(None, "nobody", how), Denied),
    ):
        with pytest.raises(kind):
            await attempt
    assert len(await events(database)) == 1


async def test_on_the_operators_own_record_is_each_link_into_another_tenant_once_and_no_other(
    people: People, clients: Any, parts: Parts, database: Database
) -> None:
    chief = await join(parts, ["admin"], ELSEWHERE)
    how = PersonRecover(tenant="elsewhere")
    made = await people.recover(ME, chief, how, idempotency_key="k")
    with pytest.raises(Conflict) as again:
        await people.recover(ME, chief, how, idempotency_key="k")
    assert again.value.code == "secret-shown-once"
    with pytest.raises(Invalid):
        await people.recover(ME, chief, how, idempotency_key="a\nb")
    (told,) = await events(database)
    assert told.event.payload == {
        "tenant": "elsewhere",
        "person": chief,
        "invitation": made.invitation.id,
    }
    await clients["elsewhere"].disable(None, chief)
    with pytest.raises(Conflict) as disabled:
        await people.recover(ME, chief, how)
    assert disabled.value.code == "person-disabled"
    assert len(await events(database)) == 1
    with pytest.raises(Invalid):
        await people.create_admin(ME, AdminCreate(name="A", email="no", tenant="elsewhere"))
    assert len(await events(database)) == 1
    first = AdminCreate(name="A", tenant="elsewhere")
    asked = await people.create_admin(ME, first, idempotency_key="f")
    with pytest.raises(Conflict):
        await people.create_admin(ME, first, idempotency_key="f")
    (_, told) = await events(database)
    assert told.event.type == "tenant.administrator-asked"
    assert told.event.payload == {"tenant": "elsewhere", "invitation": asked.invitation.id}


@pytest.mark.parametrize("withdrawn", [True, False])
async def test_a_link_into_another_tenant_that_cannot_be_told_of_is_withdrawn(
    served: PeopleService, clients: Any, parts: Parts, database: Database, withdrawn: bool
) -> None:
    """And what is said is why it could not be told of, also where it cannot be withdrawn."""
    chief = await join(parts, ["admin"], ELSEWHERE)

    def refuse(conn: Any) -> None:
        body = "BEGIN SELECT CASE NEW.tenant WHEN 'elsewhere' THEN RAISE(ABORT, 'second')"
        body += " ELSE RAISE(ABORT, 'first') END; END"
        if conn.dialect.name != "sqlite":
            body = "EXECUTE FUNCTION refuse()"
            conn.exec_driver_sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION '%', "
                "CASE NEW.tenant WHEN 'elsewhere' THEN 'second' ELSE 'first' END; END $$"
            )
        refused = f"NEW.tenant = '{ME.tenant}'"
        if not withdrawn:
            refused += " OR NEW.type = 'invitation.revoked'"
        when = f"FOR EACH ROW WHEN ({refused})"
        conn.exec_driver_sql(f"CREATE TRIGGER refuse BEFORE INSERT ON outbox {when} {body}")

    def take(conn: Any) -> None:
        sqlite = conn.dialect.name == "sqlite"
        conn.exec_driver_sql(f"DROP TRIGGER refuse{'' if sqlite else ' ON outbox'}")
        if not sqlite:
            conn.exec_driver_sql("DROP FUNCTION refuse")

    await database.administer(refuse)
    try:
        with pytest.raises((HoldfastError, DBAPIError)) as raised:
            await served.recover(ME, chief, PersonRecover(tenant="elsewhere"))
    finally:
        await database.administer(take)
    assert "second" not in "".join(traceback.format_exception(raised.value))
    (link,) = (await served.list_invitations(ELSEWHERE))[0]
    assert (link.person, link.state) == (chief, "revoked" if withdrawn else "open")
    assert await events(database) == []


async def test_nobody_hands_on_or_takes_over_more_than_they_have(
    clients: Any, parts: Parts
) -> None:
    clerk: PeopleClient = clients["clerk"]
    await clerk.invite(None, PersonInvite(name="fine", roles=["viewer"]))
    admin, viewer = await join(parts, ["admin"]), await join(parts, ["viewer"])
    for attempt, act in (
        (clerk.invite(None, PersonInvite(name="x", roles=["admin"])), "grant"),
        (clerk.recover(None, admin), "manage"),
        (clerk.disable(None, admin), "manage"),
        (clerk.enable(None, admin), "manage"),
        (clerk.change_roles(None, admin, RolesChange(roles=["viewer"])), "manage"),
        (clerk.change_roles(None, viewer, RolesChange(roles=["operator"])), "grant"),
    ):
        with pytest.raises(Denied, match=f"^cannot {act} ") as refused:
            await attempt
        assert refused.value.code == "grant-exceeds"
    assert (await clerk.find_person(None, admin)).state == "active"
    await clerk.recover(None, viewer)


async def test_of_an_invitation_to_more_than_they_may_nobody_withdraws_it(
    served: PeopleService, clients: Any
) -> None:
    clerk: PeopleClient = clients["clerk"]
    chief = await served.invite(ADMIN, PersonInvite(name="x", roles=["admin"]))
    with pytest.raises(Denied, match="cannot withdraw this invitation") as refused:
        await clerk.revoke_invitation(None, chief.invitation.id)
    assert refused.value.code == "grant-exceeds"
    (open_still,) = (await served.list_invitations(ME))[0]
    assert open_still.state == "open"
    own = await clerk.invite(None, PersonInvite(name="x"))
    assert (await clerk.revoke_invitation(None, own.invitation.id)).state == "revoked"
    assert (await served.revoke_invitation(ADMIN, chief.invitation.id)).state == "revoked"


async def test_a_person_is_disabled_and_enabled_and_every_change_is_an_event(
    people: People, parts: Parts, database: Database
) -> None:
    person = await join(parts, ["viewer"])
    again = await people.recover(ME, person)
    assert (again.invitation.person, again.invitation.roles) == (person, ["viewer"])
    assert (await people.disable(ME, person)).state == "disabled"
    assert (await people.disable(ME, person)).state == "disabled"
    assert (await people.list_invitations(ME))[0][0].state == "revoked"
    assert (await people.enable(ME, person)).state == "active"
    changed = await people.change_roles(ME, person, RolesChange(roles=["auditor", "viewer"]))
    assert changed.roles == ["auditor", "viewer"]
    await people.change_roles(ME, person, RolesChange(roles=["viewer", "auditor"]))
    assert [entry.event.type for entry in await events(database)] == [
        "person.recovery",
        "person.disabled",
        "person.enabled",
        "person.roles",
    ]
    for attempt in (
        people.find_person(ME, "nobody"),
        people.disable(ME, "nobody"),
        people.recover(ME, "nobody"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_a_dry_run_of_other_roles_tells_what_would_end_and_changes_nothing(
    people: People, served: PeopleService, parts: Parts, database: Database
) -> None:
    person = await join(parts, ["operator"])
    theirs = Principal(ME.tenant, person, PrincipalKind.PERSON, ROLES["admin"])
    await parts.database.write(
        ME, lambda conn: store.set_roles(conn, ME.tenant, person, '["admin"]')
    )
    link = await served.invite(theirs, PersonInvite(name="Bob", roles=["operator"]))
    before = await events(database)
    would = await people.change_roles(ME, person, RolesChange(roles=["viewer"], dry_run=True))
    assert (would.roles, [each.id for each in would.ended.invitations]) == (
        ["viewer"],
        [link.invitation.id],
    )
    assert "workers:write" in would.lost
    assert "system:read" not in would.lost
    assert (await people.find_person(ME, person)).roles == ["admin"]
    assert (await people.list_invitations(ME))[0][0].state == "open"
    assert await events(database) == before
    done = await people.change_roles(ME, person, RolesChange(roles=["viewer"]))
    assert (done.ended, done.lost) == (would.ended, would.lost)


async def test_a_person_who_is_forgotten_is_in_no_row_and_does_not_come_back(
    people: People, served: PeopleService, parts: Parts, database: Database
) -> None:
    made = await people.invite(ME, PersonInvite(name="Ada Lovelace", email="ada@example.org"))
    person, now = parts.new_id(), timestamp(parts.clock.now())

    def unit(conn: Any) -> None:
        store.use_invitation(conn, ME.tenant, made.invitation.id, person, now)
        values = {
            "tenant": ME.tenant, "id": person, "name": "Ada Lovelace", "email": "ada@example.org",
            "roles": '["viewer"]', "created_at": now, "created_by": "x", "event_id": parts.new_id(),
        }  # fmt: skip
        store.add_person(conn, values)
        account = {
            "tenant": ME.tenant, "id": "a-1", "person": person, "provider": "oidc",
            "issuer": "https://id.example", "subject": "ada-lovelace", "linked_at": now,
            "event_id": parts.new_id(),
        }  # fmt: skip
        oauth_store.add_account(conn, account)

    await database.write(ME, unit)
    assert (await people.forget(ME, person)).state == "forgotten"
    assert (await people.forget(ME, person)).state == "forgotten"
    found = await people.find_person(ME, person)
    assert (found.name, found.email, found.roles) == ("", "", ["viewer"])

    def everything(conn: Any) -> str:
        tables = (
            "people", "invitations", "person_accounts", "passkeys", "sessions", "people_forgotten",
        )  # fmt: skip
        select = "SELECT * FROM {} WHERE tenant = :tenant"
        rows = [
            conn.execute(text(select.format(table)), {"tenant": ME.tenant}).all()
            for table in tables
        ]
        return repr(rows)

    kept = await database.read(ME, everything)
    assert person in kept
    assert "ovelace" not in kept
    assert "example" not in kept
    told = [entry.event.type for entry in await events(database)]
    assert told.count("person.forgotten") == 1
    for attempt in (people.enable(ME, person), people.recover(ME, person)):
        with pytest.raises(Conflict) as refusal:
            await attempt
        assert refusal.value.code == "person-forgotten"
    with pytest.raises(Conflict):
        await served.forget(replace(ADMIN, subject=(mine := await join(parts, ["admin"]))), mine)


@pytest.mark.parametrize("meanwhile", ["disable", "forget"])
async def test_who_goes_meanwhile_is_not_brought_back_nor_written_down_anew(
    served: PeopleService, parts: Parts, meanwhile: str
) -> None:
    between = Between(parts.database)
    slow = PeopleService(replace(parts, database=between))
    person = await join(parts, ["viewer"])
    between.before = [lambda: getattr(served, meanwhile)(ME, person)]
    with pytest.raises(Conflict) as refusal:
        await slow.recover(ME, person)
    assert (
        refusal.value.code
        == {"disable": "person-disabled", "forget": "person-forgotten"}[meanwhile]
    )
    assert await served.list_invitations(ME) == ([], None)
    with pytest.raises(Conflict):
        await served.recover(ME, person)


async def test_who_is_forgotten_meanwhile_is_not_enabled(
    served: PeopleService, parts: Parts, database: Database
) -> None:
    between = Between(parts.database)
    slow = PeopleService(replace(parts, database=between))
    person = await join(parts, ["viewer"])
    await served.disable(ME, person)
    between.before = [lambda: served.forget(ME, person)]
    assert (await slow.enable(ME, person)).disabled_at is not None
    assert [entry.event.type for entry in await events(database)] == [
        "person.disabled",
        "person.forgotten",
    ]


async def test_nobody_disables_themselves(served: PeopleService, parts: Parts) -> None:
    person = await join(parts, ["admin"])
    with pytest.raises(Conflict):
        await served.disable(replace(ADMIN, subject=person), person)


async def test_tenants_do_not_see_each_others_people(
    served: PeopleService, clients: Any, parts: Parts
) -> None:
    person = await join(parts, ["viewer"])
    made = await served.invite(ME, PersonInvite(name="x"))
    other: PeopleClient = clients["elsewhere"]
    assert await other.list_people(None) == ([], None)
    assert await other.list_invitations(None) == ([], None)
    for attempt in (
        other.find_person(None, person),
        other.disable(None, person),
        other.recover(None, person),
        other.revoke_invitation(None, made.invitation.id),
    ):
        with pytest.raises(NotFound):
            await attempt


@pytest.mark.parametrize(
    ("invite", "failure"),
    [
        (PersonInvite(name="x", email="nobody"), Invalid),
        (PersonInvite(name="x", email="a b@c"), Invalid),
        (PersonInvite(name="x", roles=["boss"]), Invalid),
    ],
)
async def test_invitations_that_cannot_be(
    people: People, invite: PersonInvite, failure: type[HoldfastError]
) -> None:
    with pytest.raises(failure):
        await people.invite(ME, invite)


async def test_tenants_are_made_by_the_operator(people: People, clients: Any) -> None:
    made = await people.create_tenant(ME, TenantCreate(id="newsroom"))
    assert made.id == "newsroom"
    with pytest.raises(Conflict):
        await people.create_tenant(ME, TenantCreate(id="newsroom"))
    with pytest.raises(Invalid):
        await people.create_tenant(ME, TenantCreate(id="No Name"))
    assert [t.id for t in await people.list_tenants(ME)] == ["default", "elsewhere", "newsroom"]
    for attempt in (
        clients["admin"].create_tenant(None, TenantCreate(id="mine")),
        clients["admin"].list_tenants(None),
    ):
        with pytest.raises(Denied):
            await attempt


def test_addresses_are_compared_in_one_form() -> None:
    assert normal_email(" Ada@Example.ORG ") == "ada@example.org"
    for text_ in ("", "ada", "@x", "ada@", "a@b@c", "a\n@b"):
        assert normal_email(text_) is None
