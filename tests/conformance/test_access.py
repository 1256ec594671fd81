"""What identity promises after a restore: who may enter is not known until somebody says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from holdfast.fleet.model import JoinTokenCreate, WorkerRegister
from holdfast.fleet.worker_store import HOUSEHOLD, settle_restored
from holdfast.identity.access.client import AccessClient
from holdfast.identity.access.http import handlers, worker_handlers
from holdfast.identity.access.model import AccessConfirm, AccessEnd, Way, whose_refused
from holdfast.identity.access.service import AccessService, note_restore
from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES, ApiKeyCreate
from holdfast.identity.people.model import PersonInvite
from holdfast.identity.people.service import PeopleService
from holdfast.identity.service import IdentityService
from holdfast.identity.signin.model import SessionBegin
from holdfast.identity.signin.passkey_model import PasskeySettings
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.sessions import SessionLimits, SessionsService
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Denied, Invalid, NotFound, Unauthenticated
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, PrincipalKind, service
from holdfast.kernel.signing import SigningKey
from tests.support.fleet import rig
from tests.support.identity import ELSEWHERE, ME, apis_for, clock, events, join, parts

__all__ = ["clock", "parts"]

EARLIER, THEN, NOW = "2025-12-24T00:00:00Z", "2025-12-30T00:00:00Z", "2026-01-01T00:00:00Z"


class House:
    """Identity, as it is found after a restore."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.identity = IdentityService(
            parts.database, parts.outbox, parts.peppers, parts.clock, parts.new_id, parts.random
        )
        self.people = PeopleService(parts)
        self.sessions = SessionsService(parts, SessionLimits())
        passkeys = PasskeysService(parts, self.sessions, PasskeySettings())
        self.access = AccessService(
            parts,
            {
                "api-key": self.identity.revoke_key,
                "person": self.people.disable,
                "passkey": passkeys.end,
            },
        )

    async def key(self, name: str, principal: Principal = ME) -> tuple[str, str]:
        made = await self.identity.create_key(principal, ApiKeyCreate(name=name, roles=["viewer"]))
        return made.key.id, made.secret

    async def begin(self, subject: str, kind: PrincipalKind, principal: Principal = ME) -> str:
        begin = SessionBegin(
            tenant=principal.tenant, subject=subject, kind=kind, credential="passkey:1",
            address="192.0.2.1", agent="Firefox",
        )  # fmt: skip
        return (await self.sessions.begin(begin)).secret

    async def restored(self, backup: str, at: str = THEN, *, confirmed: bool = False) -> bool:
        return await note_restore(self.parts.database, backup, at, NOW, confirmed=confirmed)

    async def told(self, principal: Principal = ME) -> list[str]:
        found = await events(self.parts.database, principal)
        return [each.event.type for each in found if each.event.type.startswith("access.")]


@pytest.fixture
def house(parts: Parts) -> House:
    return House(parts)


async def test_where_nobody_ever_was_a_restore_leaves_nothing_open(house: House) -> None:
    assert not await house.restored("a")
    await house.access.tell()
    assert (await house.access.find(ME)).confirmed
    assert await house.told() == []


async def test_what_would_be_let_in_is_refused_until_it_is_confirmed(house: House) -> None:
    kept, secret = await house.key("kept")
    over, dead = await house.key("over")
    await house.identity.revoke_key(ME, over)
    elsewhere, theirs = await house.key("theirs", ELSEWHERE)
    ada = await join(house.parts, ["operator"])
    cookie = await house.begin(ada, PrincipalKind.PERSON)
    link = await house.people.invite(ME, PersonInvite(name="Grace"))
    assert await house.restored("a")
    assert await house.restored("a"), "twice is fine"
    for tenant, identity, shown in ((ME.tenant, kept, secret), ("elsewhere", elsewhere, theirs)):
        with pytest.raises(Denied, match=f"as it was at the backup of {THEN}") as refused:
            await house.identity.find_holder(shown)
        assert (refused.value.code, whose_refused(refused.value)) == (
            "access-unconfirmed", (tenant, identity),
        )  # fmt: skip
    with pytest.raises(Unauthenticated):
        await house.identity.find_holder(dead)
    with pytest.raises(Unauthenticated):
        await house.sessions.find_holder(cookie)
    with pytest.raises(Denied) as refused:
        await house.begin(ada, PrincipalKind.PERSON)
    assert refused.value.code == "access-unconfirmed"
    [invitation] = (await house.people.list_invitations(ME))[0]
    assert (invitation.id, invitation.state) == (link.invitation.id, "revoked")
    operators = await house.begin("operator", PrincipalKind.OPERATOR)
    assert (await house.sessions.find_holder(operators)).kind == "operator"
    assert await house.access.check() == "degraded"

    await house.access.tell()
    await house.access.tell()
    assert await house.told() == ["access.restored"], "once"
    done = await house.access.confirm(ME, AccessConfirm(tenant="elsewhere"))
    assert [each.tenant for each in done.unconfirmed] == [ME.tenant]
    assert (await house.identity.find_holder(theirs)).subject == elsewhere
    with pytest.raises(Denied):
        await house.identity.find_holder(secret)
    assert (await house.access.confirm(ME, AccessConfirm())).confirmed
    assert (await house.access.confirm(ME, AccessConfirm())).confirmed, "twice is fine"
    assert (await house.identity.find_holder(secret)).subject == kept
    assert await house.begin(ada, PrincipalKind.PERSON)
    assert await house.access.check() is None
    for principal in (ME, ELSEWHERE):
        assert await house.told(principal) == ["access.restored", "access.confirmed"]


async def test_who_restores_speaks_of_that_backup_and_of_none_before(house: House) -> None:
    """A backup that was made while access was not confirmed knows so, and still does."""
    _, secret = await house.key("ours")
    assert not await house.restored("a", confirmed=True)
    await house.identity.find_holder(secret)
    await house.access.tell()
    assert await house.told() == ["access.restored"]
    assert await house.restored("b", EARLIER)
    assert await house.restored("c", confirmed=True)
    with pytest.raises(Denied, match=EARLIER):
        await house.identity.find_holder(secret)
    await house.access.tell()
    assert [each.backup for each in (await house.access.find(ME)).unconfirmed] == ["b"]
    assert await house.restored("d")
    with pytest.raises(Denied, match=EARLIER):
        await house.identity.find_holder(secret)
    await house.access.confirm(ME, AccessConfirm())
    await house.identity.find_holder(secret)


async def test_everything_that_would_be_let_in_is_listed_and_nothing_else(
    house: House, clock: ManualClock
) -> None:
    wanted: list[tuple[str, str, str]] = []
    for principal in (ME, ELSEWHERE):
        for number in range(3):
            identity, _ = await house.key(f"key-{number}", principal)
            wanted.append((principal.tenant, "api-key", identity))
        for _ in range(2):
            wanted.append(
                (principal.tenant, "person", await join(house.parts, ["viewer"], principal))
            )
    over, _ = await house.key("over")
    await house.identity.revoke_key(ME, over)
    gone = await join(house.parts, ["admin"])
    await house.people.disable(ME, gone)
    await house.restored("a")
    routes = [*handlers(house.access), *worker_handlers(house.access)]
    async with apis_for({"me": ME}, routes, clock) as apis:
        client = AccessClient(apis["me"])
        for limit in (1, 3, 4, 1000):
            found: list[Way] = []
            after: str | None = ""
            while after is not None:
                ways, after = await client.ways(None, after=after, limit=limit)
                assert len(ways) <= limit
                found += ways
            listed = [(way.tenant, way.kind, way.id) for way in found]
            assert listed == sorted(wanted), limit
        assert {tuple(way.roles) for way in found if way.kind == "person"} == {("viewer",)}
        assert (await client.find(None)).unconfirmed[0].backup == "a"
        assert (await client.confirm(None, AccessConfirm())).confirmed


async def test_the_operator_ends_what_is_another_tenant_s(house: House) -> None:
    """Its own people, who would, are not let in."""
    kept, secret = await house.key("kept", ELSEWHERE)
    key, _ = await house.key("theirs", ELSEWHERE)
    ada = await join(house.parts, ["admin"], ELSEWHERE)
    await house.restored("a")
    for wrong in (AccessEnd(id=key), AccessEnd(id=key, tenant="nowhere"), AccessEnd(id="none")):
        with pytest.raises(NotFound) as refused:
            await house.access.end(ME, wrong)
        assert refused.value.code == "way-not-found"
    ended = [await house.access.end(ME, AccessEnd(id=i, tenant="elsewhere")) for i in (key, ada)]
    assert [each.kind for each in ended] == ["api-key", "person"]
    left, _ = await house.access.ways(ME)
    assert [way.id for way in left] == [kept]
    types = [each.event.type for each in await events(house.parts.database, ELSEWHERE)]
    assert {"api-key.revoked", "person.disabled"} <= set(types)
    await house.access.confirm(ME, AccessConfirm())
    assert (await house.identity.find_holder(secret)).subject == kept


async def test_only_the_operator_sees_and_says(house: House) -> None:
    admin = Principal(TenantId("default"), "someone", PrincipalKind.PERSON, ROLES["admin"])
    for asked in (
        house.access.find(admin),
        house.access.ways(admin),
        house.access.confirm(admin, AccessConfirm()),
        house.access.end(admin, AccessEnd(id="something")),
    ):
        with pytest.raises(Denied) as refused:
            await asked
        assert refused.value.code == "operator-only"
    with pytest.raises(NotFound):
        await house.access.confirm(ME, AccessConfirm(tenant="nowhere"))
    with pytest.raises(Invalid):
        await house.access.ways(ME, after="default")


async def test_drones_from_outside_are_kept_out_too_and_those_of_the_house_are_not(
    database: Database, clock: ManualClock
) -> None:
    """Where there is nobody else, as in a coordinator's own database."""
    fleet = rig(database, clock=clock).fleet

    async def restored(backup: str) -> bool:
        return await note_restore(
            database, backup, THEN, timestamp(clock.now()), confirmed=False,
            more=settle_restored,
        )  # fmt: skip

    async def joined(name: str, maker: Principal) -> tuple[str, str]:
        token = (await fleet.worker_token_create(maker, JoinTokenCreate())).token
        asks = WorkerRegister(name=name, key=SigningKey.from_seed(bytes(32)).public_bytes().hex())
        return token, (await fleet.register(token, asks)).credential

    token, credential = await joined("drone-1", service(HOUSEHOLD))
    assert not await restored("a"), "only the house's own"
    key = SigningKey.from_seed(bytes(32)).public_bytes().hex()
    asks = WorkerRegister(name="drone-1", key=key)
    for attempt in (
        fleet.find_worker_holder(credential),
        fleet.register(credential, asks),
        fleet.register(token, asks),
    ):
        with pytest.raises(Unauthenticated):  # it may have been revoked since
            await attempt
    _, credential = await joined("drone-1", service(HOUSEHOLD))
    await fleet.find_worker_holder(credential)
    token, credential = await joined("outside", ME)
    clock.advance(1)
    assert await restored("b")
    with pytest.raises(Denied, match=THEN):
        await fleet.find_worker_holder(credential)
    for shown in (token, credential):
        with pytest.raises(Denied, match=THEN):
            await fleet.register(shown, WorkerRegister(name="outside"))
    clock.advance(1)
    _, later = await joined("drone-1", service(HOUSEHOLD))
    assert (await fleet.find_worker_holder(later))[0].kind == PrincipalKind.WORKER


async def test_drones_are_kept_out_where_the_clock_that_restored_was_behind(
    database: Database, clock: ManualClock
) -> None:
    fleet = rig(database, clock=clock).fleet
    token = (await fleet.worker_token_create(ME, JoinTokenCreate())).token
    key = SigningKey.from_seed(bytes(32)).public_bytes().hex()
    asks = WorkerRegister(name="outside", key=key)
    credential = (await fleet.register(token, asks)).credential
    backed_up_at, behind = (timestamp(clock.now() + timedelta(hours=hours)) for hours in (1, -1))
    await note_restore(
        database, "a", backed_up_at, behind, confirmed=False, more=settle_restored
    )  # fmt: skip
    with pytest.raises(Denied, match=backed_up_at):
        await fleet.find_worker_holder(credential)
    for shown in (token, credential):
        with pytest.raises(Denied, match=backed_up_at):
            await fleet.register(shown, WorkerRegister(name="outside"))
