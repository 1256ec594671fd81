"""Sign-in by accounts elsewhere, at a provider that can lie: it signs nobody in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from joserfc.jwk import OctKey, RSAKey

from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES
from holdfast.identity.people.model import NewInvitation, PersonInvite
from holdfast.identity.people.service import PeopleService
from holdfast.identity.signin import oauth_store
from holdfast.identity.signin.model import SessionBegun
from holdfast.identity.signin.oauth import OAuthService
from holdfast.identity.signin.oauth_model import (
    OAuthAsk,
    OAuthFinish,
    OAuthSettings,
    OAuthStart,
    Provider,
)
from holdfast.identity.signin.passkey_model import PasskeySettings, Visitor
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.providers import Wire
from holdfast.identity.signin.sessions import SessionLimits, SessionsService
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Conflict,
    Denied,
    HoldfastError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.outbound import OutboundClient, OutboundSettings
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from tests.support.between import Between
from tests.support.identity import ELSEWHERE, events, join, parts
from tests.support.provider import CLIENT, SECRET, FakeProvider, fake_provider

__all__ = ["parts"]

ME = operator()
VISITOR = Visitor(origin="https://holdfast.example.org", address="192.0.2.1", agent="Firefox")
VERIFIED = {"email": "ada@example.org", "email_verified": True}


@pytest.fixture
def clock() -> ManualClock:
    # The provider's tokens are of now.
    return ManualClock(datetime.fromtimestamp(int(time.time()), UTC))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as provider:
        yield provider


class House:
    """Identity with two providers, both at one address, or at that of another ``issuer``."""

    def __init__(
        self, parts: Parts, provider: FakeProvider, outbound: OutboundClient, issuer: str = ""
    ) -> None:
        self.provider = provider
        self.outbound = outbound
        self.between = Between(parts.database)
        parts = replace(parts, database=self.between)
        self.people = PeopleService(parts)
        self.sessions = SessionsService(parts, SessionLimits())
        issuer = issuer or provider.url
        passkeys = PasskeysService(parts, self.sessions, PasskeySettings(), {issuer})
        at = urlsplit(provider.url).netloc
        both = {
            "oidc": Provider("oidc", "The office", "oidc", issuer, CLIENT, SECRET),
            "github": Provider("github", "GitHub", "github", issuer, CLIENT, SECRET),
        }
        settings = OAuthSettings(
            both,
            domains=frozenset({"office.example"}),
            admins=frozenset({"boss@example.org"}),
            insecure=frozenset({at}),
        )
        wire = Wire(outbound, settings.insecure)
        self.oauth = OAuthService(parts, self.sessions, passkeys, settings, wire)

    async def ask(self, name: str = "oidc", invitation: str = "") -> OAuthFinish:
        """A browser that went to the provider, and what it comes back with."""
        ask = OAuthAsk(provider=name, invitation=invitation)
        begun = await self.oauth.begin(OAuthStart(visitor=VISITOR, ask=ask))
        query = {k: v[0] for k, v in parse_qs(urlsplit(begun.url).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert query["redirect_uri"] == f"{VISITOR.origin}/login/oauth/{name}/callback"
        self.provider.challenge = query["code_challenge"]
        if name == "oidc":
            self.provider.claims = {"nonce": query["nonce"]} | self.provider.claims
            self.provider.claims["nonce"] = query["nonce"]
        return OAuthFinish(
            visitor=VISITOR,
            provider=name,
            browser=begun.browser,
            state=query["state"],
            code="right",
        )

    async def come(self, name: str = "oidc", invitation: str = "", **claims: Any) -> SessionBegun:
        self.provider.claims = claims
        return await self.oauth.finish(await self.ask(name, invitation))

    async def ask_as(self, claims: dict[str, Any]) -> SessionBegun:
        self.provider.claims = claims
        return await self.oauth.finish(await self.ask())

    async def invited(self, **more: Any) -> str:
        return (await self.people.invite(ME, PersonInvite(name="Ada", **more))).secret


@pytest.fixture
async def house(parts: Parts, provider: FakeProvider, clock: ManualClock) -> AsyncIterator[House]:
    settings = OutboundSettings(allow=frozenset({urlsplit(provider.url).netloc}))
    async with OutboundClient(settings) as outbound:
        yield House(parts, provider, outbound)


async def refused(attempt: Any, *codes: str) -> str:
    """What the person is told."""
    with pytest.raises(HoldfastError) as found:
        await attempt
    assert found.value.code in codes, found.value.detail + found.value.internal
    return found.value.detail


async def test_an_invitation_links_an_account_that_signs_in_from_then_on(
    house: House, database: Database
) -> None:
    secret = await house.invited(roles=["operator"], email="ada@example.org")
    first = await house.come(invitation=secret, **VERIFIED)
    assert (await house.people.find_person(ME, first.subject)).roles == ["operator"]
    # By issuer and subject: the address may change, or be another's later.
    again = await house.come(email="other@example.org", email_verified=False)
    assert again.subject == first.subject
    told = [entry.event.type for entry in await events(database)]
    assert told[:4] == ["person.invited", "person.joined", "account.linked", "session.began"]
    assert "ada@example.org" not in repr(await events(database))


async def test_what_is_told_of_an_account_does_not_follow_from_whose_it_is(
    house: House, database: Database
) -> None:
    ids = []
    for _ in range(2):
        first = await house.come(invitation=await house.invited())
        [account] = await house.oauth.list_accounts(ME, person=first.subject)
        assert (await house.come()).subject == first.subject
        await house.oauth.unlink(ME, account.id)
        ids.append(account.id)
    told = [entry.event.payload for entry in await events(database)]
    assert {each["account"] for each in told if "account" in each} == set(ids)
    assert {each["credential"] for each in told if "credential" in each} == {
        f"oauth:{each}" for each in ids
    }
    assert len(set(ids)) == 2


async def test_of_somebody_who_may_more_nobody_unlinks_an_account(house: House) -> None:
    chief = (await house.come(invitation=await house.invited(roles=["admin"]))).subject
    (account,) = await house.oauth.list_accounts(ME, person=chief)
    identity = {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE}
    clerk = Principal(ME.tenant, "clerk", PrincipalKind.PERSON, ROLES["viewer"] | identity)
    with pytest.raises(Denied) as refused:
        await house.oauth.unlink(clerk, account.id)
    assert refused.value.code == "grant-exceeds"
    assert (await house.come()).subject == chief


async def test_an_account_that_was_linked_under_another_id_signs_in(
    house: House, parts: Parts
) -> None:
    """An earlier version made ids of issuer and subject."""
    person, old = await join(parts, ["viewer"]), "0" * 64
    values = {
        "tenant": ME.tenant, "id": old, "person": person, "provider": "oidc",
        "issuer": house.provider.url, "subject": "ada", "linked_at": "2026-01-01",
        "event_id": parts.new_id(),
    }  # fmt: skip
    await parts.database.write(ME, lambda conn: oauth_store.add_account(conn, values))
    begun = await house.come()
    assert begun.subject == person
    await house.oauth.unlink(ME, old)
    with pytest.raises(Unauthenticated):
        await house.sessions.find_holder(begun.secret)


async def test_github_is_asked_whose_it_is(house: House, provider: FakeProvider) -> None:
    provider.emails = [
        {"email": "old@example.org", "primary": False, "verified": True},
        {"email": "ada@example.org", "primary": True, "verified": True},
    ]
    secret = await house.invited(email="ada@example.org")
    first = await house.come("github", secret)
    assert (await house.come("github")).subject == first.subject
    provider.user = {"id": 43, "login": "ada"}
    await refused(house.come("github"), "oauth-unknown")


async def test_who_was_not_invited_comes_by_a_named_address_or_domain_once(house: House) -> None:
    boss = await house.come(sub="boss", email="Boss@Example.org", email_verified=True)
    assert (await house.people.find_person(ME, boss.subject)).roles == ["admin"]
    clerk = await house.come(sub="clerk", email="clerk@office.example", email_verified=True)
    assert (await house.people.find_person(ME, clerk.subject)).roles == ["viewer"]
    # The same addresses at another account: bound once to issuer and subject.
    for email in ("boss@example.org", "clerk@office.example"):
        await refused(house.come(sub="thief", email=email, email_verified=True), "oauth-unknown")
    assert (await house.come(sub="boss")).subject == boss.subject


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "boss@example.org", "email_verified": False},
        {"email": "boss@example.org"},
        {"email": "boss@example.org", "email_verified": "true"},
        {"email": "boss@example.org.evil.example", "email_verified": True},
        {"email": "x@office.example@evil.example", "email_verified": True},
        {"email": "x@sub.office.example", "email_verified": True},
        {},
    ],
)
async def test_an_address_that_is_not_verified_lets_nobody_in(
    house: House, claims: dict[str, Any]
) -> None:
    await refused(house.come(**claims), "oauth-unknown")
    assert (await house.people.list_people(ME))[0] == []


async def test_an_unverified_github_address_lets_nobody_in(
    house: House, provider: FakeProvider
) -> None:
    for emails in (
        [{"email": "boss@example.org", "primary": True, "verified": False}],
        [{"email": "boss@example.org", "primary": False, "verified": True}],
        {"message": "no"},
    ):
        provider.emails = emails
        await refused(house.come("github"), "oauth-unknown")


async def test_an_invitation_for_an_address_is_for_that_address(house: House) -> None:
    secret = await house.invited(email="ada@example.org")
    for claims in (
        {},
        {"email": "ada@example.org"},
        {"email": "eve@x.org", "email_verified": True},
    ):
        told = await refused(house.come(invitation=secret, **claims), "oauth-unknown")
        assert "for another address" in told
        assert "ada@" not in told
    await house.come(invitation=secret, **VERIFIED)
    await refused(house.come(invitation=secret, sub="eve", **VERIFIED), "invitation-over")


async def test_a_state_counts_once_in_its_own_browser_at_its_own_provider(
    house: House, provider: FakeProvider
) -> None:
    secret = await house.invited()
    provider.claims = {}
    back = await house.ask(invitation=secret)
    await house.oauth.finish(back)
    await refused(house.oauth.finish(back), "ceremony-over")
    for wrong in (
        {"browser": ""},
        {"browser": "another's"},
        {"provider": "github"},
        {"iss": "https://evil.example"},
        {"code": ""},
        {"code": "injected"},
        {"error": "access_denied"},
    ):
        back = await house.ask()
        told = await refused(house.oauth.finish(_with(back, **wrong)), "oauth-refused")
        assert ("it was not allowed" in told) == ("error" in wrong)
        # And it is used up.
        await refused(house.oauth.finish(back), "ceremony-over")
    back, other = await house.ask(), await house.ask()
    crossed = back.state.partition(".")[0] + "." + other.state.partition(".")[2]
    await refused(house.oauth.finish(_with(back, state=crossed)), "oauth-refused")
    for state in ("", "x", "x.y", "." * 100):
        await refused(house.oauth.finish(_with(other, state=state)), "ceremony-over")


@pytest.mark.parametrize(
    "origin",
    [
        "http://holdfast.example.org", "https://holdfast.example.org:8443",
        "https://holdfast.example.org.", "https://evil.example", "https://holdfast.example.org/",
        "https://a@holdfast.example.org", "https://holdfast.example.org#", "//holdfast.example.org",
        "https:\\\\holdfast.example.org", "https://holdfast.example%2eorg", "",
    ],
)  # fmt: skip
async def test_whoever_comes_back_to_another_address_is_not_signed_in(
    house: House, origin: str
) -> None:
    house.provider.claims = {"email": "boss@example.org", "email_verified": True}
    finish = await house.ask()
    elsewhere = msgspec.structs.replace(VISITOR, origin=origin)
    await refused(
        house.oauth.finish(msgspec.structs.replace(finish, visitor=elsewhere)), "oauth-refused"
    )
    await refused(house.oauth.finish(finish), "ceremony-over")  # and it was used up by that
    assert (await house.oauth.finish(await house.ask())).subject


async def test_a_code_of_another_sign_in_is_useless(house: House, provider: FakeProvider) -> None:
    """Code injection: the code was issued to another browser's challenge and nonce."""
    await house.come(invitation=await house.invited())
    mine = await house.ask()
    victims = provider.challenge
    await house.ask()
    assert provider.challenge != victims
    await refused(house.oauth.finish(mine), "oauth-refused")


def _with(back: OAuthFinish, **changes: Any) -> OAuthFinish:
    return msgspec.structs.replace(back, **changes)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another client"},
        {"aud": [CLIENT, "another"]},
        {"azp": "another"},
        {"exp": 1},
        {"exp": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"iat": 99999999999},
    ],
    ids=str,
)
async def test_a_wrong_id_token_signs_nobody_in(house: House, claims: dict[str, Any]) -> None:
    secret = await house.invited()
    await refused(
        house.come(invitation=secret, **claims),
        "oauth-refused", "token-invalid", "token-expired", "token-not-yet-valid",
    )  # fmt: skip
    assert (await house.people.list_people(ME))[0] == []


async def test_a_nonce_of_another_sign_in_signs_nobody_in(
    house: House, provider: FakeProvider
) -> None:
    back = await house.ask(invitation=await house.invited())
    provider.claims["nonce"] = "another"
    await refused(house.oauth.finish(back), "oauth-refused")
    back = await house.ask(invitation=await house.invited())
    del provider.claims["nonce"]
    await refused(house.oauth.finish(back), "oauth-refused")


async def test_a_token_of_another_key_or_kind_signs_nobody_in(
    house: House, provider: FakeProvider
) -> None:
    secret = await house.invited()
    published = provider.published
    provider.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
    await refused(house.come(invitation=secret), "token-invalid")
    provider.key, provider.alg = OctKey.import_key(SECRET * 2, {"kid": "one"}), "HS256"
    await refused(house.come(invitation=secret), "token-invalid")
    provider.published = [OctKey.import_key(SECRET * 2, {"kid": "two"})]
    await refused(house.come(invitation=secret), "token-invalid", "jwks-unreachable")
    provider.published, provider.token_answer = published, {"access_token": "a"}
    await refused(house.come(invitation=secret), "oauth-refused")


async def test_a_rotated_key_is_noticed_and_not_at_every_token(
    house: House, provider: FakeProvider, clock: ManualClock
) -> None:
    await house.come(invitation=await house.invited())
    await house.come()
    assert provider.jwks_asked == 1
    clock.advance(11)
    provider.rotate("two")
    await house.come()
    assert provider.jwks_asked == 2
    provider.header = {"kid": "three"}
    for _ in range(3):
        await refused(house.come(), "token-invalid")
    assert provider.jwks_asked == 2


async def test_metadata_of_another_issuer_is_not_followed(
    house: House, provider: FakeProvider
) -> None:
    provider.metadata = {"issuer": "https://accounts.example"}
    with pytest.raises(Unavailable):
        await house.ask()
    provider.metadata = {"token_endpoint": "http://169.254.169.254/token"}
    await refused(house.come(), "oauth-refused")


async def test_userinfo_of_somebody_else_does_not_count(
    house: House, provider: FakeProvider
) -> None:
    provider.userinfo = {"sub": "eve", "email": "boss@example.org", "email_verified": True}
    await refused(house.come(), "oauth-refused")
    provider.userinfo["sub"] = "ada"
    begun = await house.come()
    assert (await house.people.find_person(ME, begun.subject)).roles == ["admin"]


async def test_an_account_is_unlinked_and_its_sessions_end_but_never_the_last_way_in(
    house: House, database: Database
) -> None:
    secret = await house.invited()
    first = await house.come(invitation=secret, sub="ada")
    ada = Principal(ME.tenant, first.subject, PrincipalKind.PERSON, frozenset())
    other = Principal(ME.tenant, "somebody-else", PrincipalKind.PERSON, frozenset())
    [account] = await house.oauth.list_accounts(ada)
    assert (account.provider, account.person) == ("oidc", first.subject)
    with pytest.raises(Conflict) as found:
        await house.oauth.unlink(ada, account.id)
    assert found.value.code == "account-last"
    for refusal, attempt in (
        (NotFound, house.oauth.unlink(other, account.id)),
        (NotFound, house.oauth.unlink(ada, "nothing")),
        (Denied, house.oauth.list_accounts(other, person=first.subject)),
    ):
        with pytest.raises(refusal):
            await attempt
    assert await house.oauth.list_accounts(other) == []

    # A second account is a way back: the first may go, the second may not.
    link = (await house.people.recover(ME, first.subject)).secret
    second = await house.come("github", link)
    assert second.subject == first.subject
    await house.oauth.unlink(ada, account.id)
    with pytest.raises(Unauthenticated):
        await house.sessions.find_holder(first.secret)
    assert (await house.sessions.find_holder(second.secret)).subject == first.subject
    await refused(house.come(sub="ada"), "oauth-unknown")
    [left] = await house.oauth.list_accounts(ada)
    with pytest.raises(Conflict):
        await house.oauth.unlink(ada, left.id)
    # An administrator may: there is `recover` for who is locked out then.
    assert (await house.oauth.unlink(ME, left.id)).id == left.id
    told = [entry.event for entry in await events(database)]
    ended = [each.payload for each in told if each.type == "account.unlinked"]
    assert ended == [{"person": first.subject, "account": each} for each in (account.id, left.id)]


async def test_an_account_at_whoever_is_asked_no_more_is_no_way_in(
    house: House, parts: Parts
) -> None:
    first = await house.come(invitation=await house.invited())
    await house.come("github", (await house.people.recover(ME, first.subject)).secret)
    ada = Principal(ME.tenant, first.subject, PrincipalKind.PERSON, frozenset())
    one, _ = await house.oauth.list_accounts(ada)
    later = House(parts, house.provider, house.outbound, "https://another.example")
    with pytest.raises(Conflict) as found:
        await later.oauth.unlink(ada, one.id)
    assert found.value.code == "account-last"
    await house.oauth.unlink(ada, one.id)


async def test_a_session_that_begins_while_its_account_is_unlinked_does_not_outlive_it(
    house: House,
) -> None:
    first = await house.come(invitation=await house.invited())
    [account] = await house.oauth.list_accounts(ME, person=first.subject)
    began = []

    async def come() -> None:
        began.append(await house.come())

    house.between.before = [come]
    with pytest.raises(Conflict) as found:
        await house.oauth.unlink(ME, account.id)
    assert found.value.code == "signed-in-meanwhile"
    await house.oauth.unlink(ME, account.id)
    for each in (first, *began):
        with pytest.raises(Unauthenticated):
            await house.sessions.find_holder(each.secret)


async def test_an_account_that_is_unlinked_while_it_comes_signs_nobody_in(house: House) -> None:
    office = {"email": "ada@office.example", "email_verified": True}
    first = await house.come(invitation=await house.invited(), **office)
    [account] = await house.oauth.list_accounts(ME, person=first.subject)
    back = await house.ask()
    # What it came back with is taken, and then the account is unlinked.
    house.between.before = [None, lambda: house.oauth.unlink(ME, account.id)]
    await refused(house.oauth.finish(back), "oauth-refused")
    assert await house.oauth.list_accounts(ME, person=first.subject) == []


async def test_an_account_that_is_somebodys_already_takes_no_invitation_and_says_so(
    house: House,
) -> None:

    async def state(made: NewInvitation, tenant: Principal) -> str:
        found, _ = await house.people.list_invitations(tenant)
        return next(each.state for each in found if each.id == made.invitation.id)

    first = await house.come(invitation=await house.invited())
    for tenant in (ME, ELSEWHERE):
        wanted = PersonInvite(name="Again", roles=["operator"])
        made = await house.people.invite(tenant, wanted)
        told = await refused(house.come(invitation=made.secret), "account-taken")
        assert "somebody's here already" in told
        assert await state(made, tenant) == "open"
    assert (await house.come()).subject == first.subject
    # A link that brings back its very owner is used up by what they had all along.
    back = await house.people.recover(ME, first.subject)
    assert (await house.come(invitation=back.secret)).subject == first.subject
    assert await state(back, ME) == "used"
    other = (await house.come(invitation=await house.invited(), sub="eve")).subject
    others = await house.people.recover(ME, other)
    await refused(house.come(invitation=others.secret), "account-taken")


async def test_an_account_that_was_unlinked_signs_in_where_it_is_linked_next(house: House) -> None:
    first = await house.come(invitation=await house.invited())
    assert (await house.come()).subject == first.subject
    ada = Principal(ME.tenant, first.subject, PrincipalKind.PERSON, frozenset())
    [account] = await house.oauth.list_accounts(ada)
    await house.oauth.unlink(ME, account.id)
    link = (await house.people.invite(ELSEWHERE, PersonInvite(name="Ada"))).secret
    there = await house.come(invitation=link)
    assert there.tenant == ELSEWHERE.tenant
    assert (await house.come()).subject == there.subject


async def test_what_a_provider_says_somebody_is_called_is_one_line_of_text(house: House) -> None:
    office = {"email": "ada@office.example", "email_verified": True}
    first = await house.come(name="oidc", **office | {"sub": "ada"})
    assert (await house.people.find_person(ME, first.subject)).name == "ada@office.example"
    hostile = {"email": "eve@office.example", "email_verified": True, "sub": "eve"}
    other = await house.ask_as({**hostile, "name": "Eve\x1b[2J\n\u202eadmin" + "x" * 300})
    found = await house.people.find_person(ME, other.subject)
    assert found.name.startswith("Eve [2J admin")
    assert found.name.isprintable()
    assert len(found.name) <= 200


async def test_a_disabled_person_does_not_come_in(house: House) -> None:
    first = await house.come(invitation=await house.invited())
    await house.people.disable(ME, first.subject)
    await refused(house.come(), "oauth-unknown")


@pytest.mark.parametrize("known", ["address", "account"])
async def test_who_was_forgotten_comes_again_by_an_invitation_only(
    house: House, parts: Parts, known: str
) -> None:
    office = {"email": "ada@office.example", "email_verified": True}
    # Only the account tells who they are, or only the address they were written down with.
    link = await house.invited(email="" if known == "account" else office["email"])
    first = await house.come(sub="first", invitation=link, **office)
    await house.people.forget(ME, first.subject)
    # Another pepper makes the marks from now on; those of the old one hold.
    peppers = Peppers({1: b"\x05" * 32, 2: b"\x06" * 32})
    house = House(replace(parts, peppers=peppers), house.provider, house.outbound)
    back = office | {"sub": "first" if known == "account" else "second"}
    await refused(house.come(**back), "oauth-unknown")
    assert len((await house.people.list_people(ME))[0]) == 1
    # Nobody else is kept out, and who is invited anew is somebody new.
    await house.come(sub="third", email="bob@office.example", email_verified=True)
    again = await house.come(invitation=await house.invited(), **back)
    assert again.subject != first.subject
    assert (await house.come(**back)).subject == again.subject


async def test_a_provider_that_is_not_named_is_not_asked(house: House) -> None:
    with pytest.raises(NotFound):
        await house.ask("evil")
