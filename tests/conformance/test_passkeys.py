"""What identity promises of passkeys, with an authenticator in software that can lie."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Raw
from sqlalchemy import text

from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES
from holdfast.identity.people import store as people_store
from holdfast.identity.people.model import PersonInvite, PersonRecover, RolesChange
from holdfast.identity.people.service import PeopleService
from holdfast.identity.signin import oauth_store
from holdfast.identity.signin.ceremonies import Ceremonies
from holdfast.identity.signin.model import SessionBegun
from holdfast.identity.signin.passkey_model import (
    CEREMONY_SECONDS,
    Ceremony,
    InvitationSeen,
    PasskeyAnswer,
    PasskeySettings,
    SignInFinish,
    SignInStart,
    Visitor,
    Who,
    party_of,
)
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.sessions import SessionLimits, SessionsService, principal_of_session
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from tests.support.authenticator import UP, Authenticator
from tests.support.between import Between
from tests.support.identity import clock, events, parts

__all__ = ["clock", "parts"]

ME = operator()
ORIGIN = "https://holdfast.example.org"
RP_ID = "holdfast.example.org"
ISSUER = "https://id.example.org"
VISITOR = Visitor(origin=ORIGIN, address="192.0.2.1", agent="Firefox")


class House:
    """Identity, with somebody who comes in."""

    def __init__(self, parts: Parts) -> None:
        self.between = Between(parts.database)
        parts = replace(parts, database=self.between)
        self.people = PeopleService(parts)
        self.sessions = SessionsService(parts, SessionLimits())
        self.passkeys = PasskeysService(parts, self.sessions, PasskeySettings(), {ISSUER})

    async def invited(self, **more: Any) -> str:
        return (await self.people.invite(ME, PersonInvite(name="Ada", **more))).secret

    async def ask_to_accept(self, secret: str) -> Ceremony:
        return await self.passkeys.begin_accepting(SignInStart(visitor=VISITOR, secret=secret))

    async def join(self, key: Authenticator, secret: str = "") -> SessionBegun:
        begun = await self.ask_to_accept(secret or await self.invited())
        return await self.passkeys.accept(finish(begun, key.make(begun.options)))

    async def ask(self) -> Ceremony:
        return await self.passkeys.begin_sign_in(SignInStart(visitor=VISITOR))

    async def sign_in(self, key: Authenticator, **wrong: Any) -> SessionBegun:
        begun = await self.ask()
        return await self.passkeys.sign_in(finish(begun, key.use(begun.options, **wrong)))

    async def principal(self, begun: SessionBegun) -> Principal:
        return principal_of_session(await self.sessions.find_holder(begun.secret))


def finish(begun: Ceremony, credential: Raw, who: Who | None = None) -> SignInFinish:
    answer = PasskeyAnswer(ceremony=begun.ceremony, credential=credential, name="phone")
    return SignInFinish(visitor=VISITOR, answer=answer, who=who)


@pytest.fixture
def house(parts: Parts) -> House:
    return House(parts)


@pytest.fixture
def key() -> Authenticator:
    return Authenticator(ORIGIN, RP_ID)


async def test_who_was_invited_makes_a_passkey_and_signs_in_with_it_and_no_name(
    house: House, key: Authenticator, database: Database
) -> None:
    secret = await house.invited(email="ada@example.org", roles=["operator"])
    seen = await house.passkeys.see_invitation(secret)
    assert (seen.name, seen.roles, seen.recovery) == ("Ada", ["operator"], False)
    first = await house.join(key, secret)
    assert (await house.people.find_person(ME, first.subject)).roles == ["operator"]
    for count in (1, 2, 9):
        key.counter = count
        begun = await house.sign_in(key)
        assert begun.subject == first.subject
    (listed,) = await house.passkeys.list_passkeys(await house.principal(begun))
    assert listed.name == "phone"
    assert [entry.event.type for entry in await events(database)][:4] == [
        "person.invited",
        "person.joined",
        "passkey.added",
        "session.began",
    ]


async def test_what_a_browser_calls_a_passkey_is_one_line_of_text(
    house: House, key: Authenticator
) -> None:
    begun = await house.ask_to_accept(await house.invited())
    answer = finish(begun, key.make(begun.options)).answer
    answer = msgspec.structs.replace(answer, name="\x00pho\x1b[2J\u202ene\n")
    first = await house.passkeys.accept(SignInFinish(visitor=VISITOR, answer=answer))
    (listed,) = await house.passkeys.list_passkeys(await house.principal(first))
    assert listed.name == "pho [2J ne"


async def test_a_counter_that_stays_at_zero_is_fine(house: House, key: Authenticator) -> None:
    await house.join(key)
    await house.sign_in(key)
    await house.sign_in(key)


async def test_an_invitation_lets_one_in_once(house: House, key: Authenticator) -> None:
    secret = await house.invited()
    other = Authenticator(ORIGIN, RP_ID, 2)
    slow = await house.ask_to_accept(secret)
    await house.join(key, secret)
    for attempt in (
        house.passkeys.accept(finish(slow, other.make(slow.options))),
        house.ask_to_accept(secret),
        house.passkeys.see_invitation(secret),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await attempt
        assert refused.value.code == "invitation-over"
    assert len((await house.people.list_people(ME))[0]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://holdfast.example.org"},
        {"origin": "https://holdfast.example.org.evil.example"},
        {"rp_id": "evil.example"},
        {"rp_id": "example.org"},
        {"challenge": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        {"type": "webauthn.create"},
        {"crossOrigin": True},
        {"flags": UP},
        {"flags": 0},
        {"handle": b"somebody else"},
        {"signer": ec.derive_private_key(99, ec.SECP256R1())},
    ],
    ids=lambda wrong: "-".join(f"{k}" for k in wrong),
)
async def test_an_assertion_that_is_wrong_in_one_way_signs_nobody_in(
    house: House, key: Authenticator, wrong: dict[str, Any]
) -> None:
    await house.join(key)
    key.counter = 5
    with pytest.raises(Unauthenticated) as refused:
        await house.sign_in(key, **wrong)
    assert refused.value.code == "passkey-refused"
    assert (await house.sessions.list_sessions(ME, person=""))[0][0].credential
    assert len((await house.sessions.list_sessions(ME, person=""))[0]) == 1
    await house.sign_in(key)


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "https://evil.example"},
        {"rp_id": "evil.example"},
        {"challenge": "AAAA"},
        {"type": "webauthn.get"},
        {"crossOrigin": True},
        {"flags": UP | 64},
    ],
    ids=lambda wrong: "-".join(f"{k}" for k in wrong),
)
async def test_a_registration_that_is_wrong_in_one_way_makes_nobody(
    house: House, key: Authenticator, wrong: dict[str, Any]
) -> None:
    begun = await house.ask_to_accept(await house.invited())
    with pytest.raises(Unauthenticated) as refused:
        await house.passkeys.accept(finish(begun, key.make(begun.options, **wrong)))
    assert refused.value.code == "passkey-refused"
    assert (await house.people.list_people(ME))[0] == []


async def test_a_counter_that_goes_back_or_stays_is_refused_and_on_the_record(
    house: House, key: Authenticator, database: Database
) -> None:
    await house.join(key)
    key.counter = 10
    await house.sign_in(key)
    for count in (10, 9, 0):
        key.counter = count
        with pytest.raises(Unauthenticated):
            await house.sign_in(key)
    refused = [e.event for e in await events(database) if e.event.type == "sign-in.refused"]
    assert [event.payload["reason"] for event in refused] == ["counter"] * 3
    key.counter = 11
    await house.sign_in(key)


async def test_an_answer_counts_once_and_not_late(
    house: House, key: Authenticator, clock: ManualClock
) -> None:
    await house.join(key)
    begun = await house.ask()
    answer = finish(begun, key.use(begun.options))
    await house.passkeys.sign_in(answer)
    with pytest.raises(Unauthenticated) as replayed:
        await house.passkeys.sign_in(answer)
    assert replayed.value.code == "ceremony-over"
    again = await house.ask()
    with pytest.raises(Unauthenticated) as stale:
        await house.passkeys.sign_in(finish(again, answer.answer.credential))
    assert stale.value.code == "passkey-refused"
    late = await house.ask()
    clock.advance(CEREMONY_SECONDS)
    with pytest.raises(Unauthenticated):
        await house.passkeys.sign_in(finish(late, key.use(late.options)))
    register = await house.ask_to_accept(await house.invited())
    with pytest.raises(Unauthenticated):
        await house.passkeys.sign_in(finish(register, key.use(register.options)))


@pytest.mark.parametrize(
    "sent",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b'{"id": "a", "response": {"clientDataJSON": "!"}}',
        b'{"id": "", "response": {"clientDataJSON": "e30"}}',
        b"[" * 20_000,
    ],
)
async def test_what_is_no_credential_is_refused_the_same_way(house: House, sent: bytes) -> None:
    begun = await house.ask()
    with pytest.raises(Unauthenticated) as refused:
        await house.passkeys.sign_in(finish(begun, Raw(sent)))
    assert refused.value.code == "passkey-refused"


@pytest.mark.parametrize("name", ["clientDataJSON", "authenticatorData", "signature", "userHandle"])
async def test_an_answer_that_is_spelled_another_way_is_refused(
    house: House, key: Authenticator, name: str
) -> None:
    await house.join(key)
    for spelling in ("{}=", "{} ", "{}\n", "+{}", "{}!"):
        begun = await house.ask()
        given = json.loads(bytes(key.use(begun.options)))
        given["response"][name] = spelling.format(given["response"][name])
        with pytest.raises(Unauthenticated) as refused:
            await house.passkeys.sign_in(finish(begun, Raw(json.dumps(given).encode())))
        assert refused.value.code == "passkey-refused"


async def test_several_passkeys_and_what_ends_with_one(house: House, key: Authenticator) -> None:
    first = await house.join(key)
    me = await house.principal(first)
    who = Who(tenant=me.tenant, person=me.subject)
    spare, stranger = Authenticator(ORIGIN, RP_ID, 2), Authenticator(ORIGIN, RP_ID, 3)
    other = await house.principal(await house.join(stranger))
    begun = await house.passkeys.begin_adding(SignInStart(visitor=VISITOR, who=who))
    with pytest.raises(Unauthenticated):
        await house.passkeys.add(
            finish(begun, spare.make(begun.options), Who(tenant=other.tenant, person=other.subject))
        )
    begun = await house.passkeys.begin_adding(SignInStart(visitor=VISITOR, who=who))
    made = await house.passkeys.add(finish(begun, spare.make(begun.options), who))
    second = await house.sign_in(spare)
    assert second.subject == first.subject
    with pytest.raises(NotFound):
        await house.passkeys.end(other, made.id)
    assert (await house.passkeys.end(me, made.id)).ended_at
    for attempt in (house.sessions.find_holder(second.secret), house.sign_in(spare)):
        with pytest.raises(Unauthenticated):
            await attempt
    (last,) = [k for k in await house.passkeys.list_passkeys(me) if k.ended_at is None]
    with pytest.raises(Conflict) as refused:
        await house.passkeys.end(me, last.id)
    assert refused.value.code == "passkey-last"
    await house.sign_in(key)


async def test_whoever_begins_without_end_shuts_nobody_out(
    parts: Parts, clock: ManualClock
) -> None:
    ceremonies, begun = Ceremonies(parts, most=3), []
    for number in range(5):
        clock.advance(1)
        seen = InvitationSeen(name=str(number), roles=[], expires_at="", recovery=False)
        begun.append(await ceremonies.begin("a", seen))
    for late in begun[:2]:
        with pytest.raises(Unauthenticated) as over:
            await ceremonies.take(late, "a", InvitationSeen)
        assert over.value.code == "ceremony-over"
    found = [await ceremonies.take(each, "a", InvitationSeen) for each in begun[2:]]
    assert [each.name for each in found] == ["2", "3", "4"]


async def test_an_administrator_brings_back_who_lost_every_passkey(
    house: House, key: Authenticator, database: Database
) -> None:
    first = await house.join(key)
    again = (await house.people.recover(ME, first.subject)).secret
    assert (await house.passkeys.see_invitation(again)).recovery
    fresh = Authenticator(ORIGIN, RP_ID, 2)
    assert (await house.join(fresh, again)).subject == first.subject
    assert (await house.sign_in(fresh)).subject == first.subject
    told = [entry.event.type for entry in await events(database)]
    assert "person.recovery" in told
    assert "person.recovered" in told


async def test_who_came_back_by_one_link_leaves_no_other_behind(
    house: House, key: Authenticator, database: Database
) -> None:
    """Not even one that an earlier version left open beside it."""
    first = await house.join(key)
    strayed = await house.people.recover(ME, first.subject)
    reopen = text("UPDATE invitations SET ended_at = NULL WHERE tenant = :tenant AND id = :id")
    newer = await house.people.recover(ME, first.subject)
    with pytest.raises(Unauthenticated):
        await house.passkeys.see_invitation(strayed.secret)
    values = {"tenant": ME.tenant, "id": strayed.invitation.id}
    await database.write(ME, lambda conn: conn.execute(reopen, values))
    begun = await house.ask_to_accept(strayed.secret)
    await house.join(Authenticator(ORIGIN, RP_ID, 2), newer.secret)
    stranger = Authenticator(ORIGIN, RP_ID, 3)
    with pytest.raises(Unauthenticated) as refused:
        await house.passkeys.accept(finish(begun, stranger.make(begun.options)))
    assert refused.value.code == "invitation-over"
    told = [(entry.event.type, entry.event.stream) for entry in await events(database)]
    assert told.count(("invitation.revoked", f"invitation/{strayed.invitation.id}")) == 2


async def test_who_holds_a_stolen_device_is_out_and_its_owner_comes_back(
    house: House, key: Authenticator, database: Database
) -> None:
    stolen = await house.join(key)
    me = await house.principal(stolen)
    who = Who(tenant=me.tenant, person=me.subject)
    spare = Authenticator(ORIGIN, RP_ID, 2)
    adding = await house.passkeys.begin_adding(SignInStart(visitor=VISITOR, who=who))
    kept = await house.people.recover(ME, stolen.subject)
    assert (kept.passkeys_ended, kept.sessions_ended) == (0, 0)
    await house.sign_in(key)
    made = await house.people.recover(ME, stolen.subject, PersonRecover(end_passkeys=True))
    assert (made.passkeys_ended, made.sessions_ended) == (1, 2)
    for attempt in (
        house.sign_in(key),
        house.sessions.find_holder(stolen.secret),
        # The door remembers a session for some seconds: nobody makes a passkey in these.
        house.passkeys.add(finish(adding, spare.make(adding.options), who)),
    ):
        with pytest.raises(Unauthenticated):
            await attempt
    told = [entry.event.type for entry in await events(database)]
    assert (told.count("passkey.ended"), told.count("session.ended")) == (1, 2)
    fresh = Authenticator(ORIGIN, RP_ID, 3)
    assert (await house.join(fresh, made.secret)).subject == stolen.subject


async def test_a_link_that_brings_somebody_back_brings_no_roles_that_they_got_since(
    house: House, key: Authenticator, parts: Parts
) -> None:
    """Whoever made it had all that they had, and so could not come in as more than that."""
    first = await house.join(key, await house.invited(roles=["viewer"]))
    clerk = Principal(
        ME.tenant,
        "clerk",
        PrincipalKind.PERSON,
        ROLES["viewer"] | {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE},
    )
    link = (await house.people.recover(clerk, first.subject)).secret
    begun = await house.ask_to_accept(link)
    await house.people.change_roles(ME, first.subject, RolesChange(roles=["admin"]))
    fresh = Authenticator(ORIGIN, RP_ID, 2)
    with pytest.raises(Unauthenticated):
        await house.passkeys.accept(finish(begun, fresh.make(begun.options)))
    with pytest.raises(Unauthenticated):
        await house.passkeys.see_invitation(link)
    # So with one that was made just when they got them.
    late = (await house.people.recover(ME, first.subject)).secret
    begun = await house.ask_to_accept(late)
    house.between.before = [
        None,  # the ceremony is taken
        lambda: parts.database.write(
            ME, lambda conn: people_store.set_roles(conn, ME.tenant, first.subject, '["operator"]')
        ),
    ]
    with pytest.raises(Unauthenticated):
        await house.passkeys.accept(finish(begun, fresh.make(begun.options)))
    assert len(await house.passkeys.list_passkeys(ME, person=first.subject)) == 1


async def test_a_disabled_person_does_not_come_in_by_a_passkey(
    house: House, key: Authenticator
) -> None:
    first = await house.join(key)
    again = (await house.people.recover(ME, first.subject)).secret
    await house.people.disable(ME, first.subject)
    with pytest.raises(Unauthenticated):
        await house.sign_in(key)
    with pytest.raises(Unauthenticated):
        await house.passkeys.see_invitation(again)


async def test_the_last_passkey_goes_only_where_an_account_that_counts_is_left(
    house: House, key: Authenticator, parts: Parts
) -> None:
    me = await house.principal(await house.join(key))
    [mine] = await house.passkeys.list_passkeys(me)

    async def link(issuer: str) -> None:
        values = {
            "tenant": me.tenant, "id": parts.new_id(), "person": me.subject, "provider": "oidc",
            "issuer": issuer, "subject": "ada", "linked_at": "2026-01-01", "event_id": "e",
        }  # fmt: skip
        await parts.database.write(ME, lambda conn: oauth_store.add_account(conn, values))

    await link("https://asked-no-more.example.org")
    with pytest.raises(Conflict) as refused:
        await house.passkeys.end(me, mine.id)
    assert refused.value.code == "passkey-last"
    await link(ISSUER)
    assert (await house.passkeys.end(me, mine.id)).ended_at


async def test_of_somebody_who_may_more_nobody_ends_a_passkey(
    house: House, key: Authenticator
) -> None:
    """It would shut them out, as disabling them would."""
    chief = await house.principal(await house.join(key, await house.invited(roles=["admin"])))
    (passkey,) = await house.passkeys.list_passkeys(chief)
    identity = {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE}
    clerk = Principal(ME.tenant, "clerk", PrincipalKind.PERSON, ROLES["viewer"] | identity)
    with pytest.raises(Denied, match="cannot manage this person") as refused:
        await house.passkeys.end(clerk, passkey.id)
    assert refused.value.code == "grant-exceeds"
    assert (await house.sign_in(key)).subject == chief.subject


async def test_a_session_that_begins_while_its_passkey_is_ended_does_not_outlive_it(
    house: House, key: Authenticator
) -> None:
    first = await house.join(key)
    [mine] = await house.passkeys.list_passkeys(await house.principal(first))
    began = []

    async def sign_in() -> None:
        began.append(await house.sign_in(key))

    house.between.before = [sign_in]
    with pytest.raises(Conflict) as refused:
        await house.passkeys.end(ME, mine.id)
    assert refused.value.code == "signed-in-meanwhile"
    await house.passkeys.end(ME, mine.id)
    for each in (first, *began):
        with pytest.raises(Unauthenticated):
            await house.sessions.find_holder(each.secret)


@pytest.mark.parametrize("meanwhile", ["disable", "forget"])
async def test_who_goes_meanwhile_leaves_no_passkey_behind(
    house: House, key: Authenticator, meanwhile: str
) -> None:
    me = await house.principal(await house.join(key))
    who = Who(tenant=me.tenant, person=me.subject)
    spare = Authenticator(ORIGIN, RP_ID, 2)
    begun = await house.passkeys.begin_adding(SignInStart(visitor=VISITOR, who=who))
    # The answer is taken, and then they go.
    house.between.before = [None, lambda: getattr(house.people, meanwhile)(ME, me.subject)]
    with pytest.raises(Unauthenticated):
        await house.passkeys.add(finish(begun, spare.make(begun.options), who))
    left = await house.passkeys.list_passkeys(ME, person=me.subject)
    assert len(left) == (1 if meanwhile == "disable" else 0)


async def test_one_who_is_forgotten_while_something_of_theirs_is_ended_has_nothing(
    house: House, key: Authenticator
) -> None:
    for what in ("passkey", "session"):
        first = await house.join(key)
        [mine] = await house.passkeys.list_passkeys(await house.principal(first))
        house.between.before = [lambda person=first.subject: house.people.forget(ME, person)]
        ending = (
            house.passkeys.end(ME, mine.id)
            if what == "passkey"
            else house.sessions.end(ME, first.id)
        )
        with pytest.raises(NotFound):
            await ending


async def test_one_passkey_is_one_persons(house: House, key: Authenticator) -> None:
    await house.join(key)
    begun = await house.ask_to_accept(await house.invited())
    with pytest.raises(Unauthenticated):
        await house.passkeys.accept(finish(begun, key.make(begun.options)))


def test_passkeys_belong_to_a_name() -> None:
    assert party_of(PasskeySettings(), "http://localhost:8090") == (
        "localhost",
        "http://localhost:8090",
    )
    named = PasskeySettings("example.org", "https://holdfast.example.org")
    assert party_of(named, "http://localhost:1") == ("example.org", "https://holdfast.example.org")
    for settings, origin in (
        (PasskeySettings(), "http://127.0.0.1:8090"),
        (PasskeySettings(), "http://[::1]:8090"),
        (PasskeySettings("example.org"), "https://evil-example.org"),
        (PasskeySettings(), ""),
    ):
        with pytest.raises(Invalid):
            party_of(settings, origin)
