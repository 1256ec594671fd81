"""What identity promises, asked of the service and of its client, on both databases."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from holdfast.gateway.door import REMEMBERED_SECONDS, DoorAuthenticator, Remembered
from holdfast.identity import OperatorToken, http
from holdfast.identity.client import IdentityClient
from holdfast.identity.granting import Parts
from holdfast.identity.model import ApiKeyCreate, RoleDefine
from holdfast.identity.service import IdentityService, principal_of
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Conflict,
    Denied,
    HoldfastError,
    Invalid,
    NotFound,
    Unauthenticated,
)
from holdfast.kernel.http.door import CLIENT, SUBJECT, TENANT
from holdfast.kernel.http.standing import CREDENTIAL_ENDED, STANDING
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, service
from tests.support.identity import ELSEWHERE, ME, apis_for, clock, events, parts

__all__ = ["clock", "parts"]

Identity = IdentityService | IdentityClient
SELF = service("gateway")
NO_RIGHTS = Principal(ME.tenant, "weak", PrincipalKind.KEY, frozenset({Permission.RECORDS_READ}))
WHO = {"me": ME, "self": SELF, "elsewhere": ELSEWHERE, "weak": NO_RIGHTS}


@pytest.fixture
def served(parts: Parts) -> IdentityService:
    return IdentityService(
        parts.database, parts.outbox, parts.peppers, parts.clock, parts.new_id, parts.random
    )


@pytest.fixture
async def clients(
    served: IdentityService, clock: ManualClock
) -> AsyncIterator[dict[str, IdentityClient]]:
    async with apis_for(WHO, http.handlers(served), clock) as apis:
        yield {name: IdentityClient(api) for name, api in apis.items()}


@pytest.fixture(params=["service", "client"])
def identity(
    request: pytest.FixtureRequest, served: IdentityService, clients: dict[str, IdentityClient]
) -> Identity:
    return served if request.param == "service" else clients["me"]


# --- keys ---------------------------------------------------------------------------------------


async def test_a_key_speaks_for_what_it_was_given(
    identity: Identity, served: IdentityService
) -> None:
    create = ApiKeyCreate(
        name="export", permissions=["records:export"], profiles=["b", "a"], addresses=["10.0.0.0/8"]
    )
    made = await identity.create_key(ME, create)
    assert re.fullmatch(r"hf_[0-9a-f-]{36}_[A-Za-z0-9_-]{43}_[0-9a-f]{8}", made.secret)
    holder = await served.find_holder(made.secret)
    assert principal_of(holder) == Principal(
        ME.tenant,
        made.key.id,
        PrincipalKind.KEY,
        frozenset({Permission.RECORDS_EXPORT}),
        frozenset({"a", "b"}),
        f"key:{made.key.id}",
    )
    assert holder.addresses == ["10.0.0.0/8"]


async def test_the_secret_is_shown_once_and_kept_nowhere(
    identity: Identity, database: Database
) -> None:
    made = await identity.create_key(ME, ApiKeyCreate(name="x", roles=["viewer"]))
    random_part = made.secret.split("_", 2)[2][:43]
    found, _ = await identity.list_keys(ME)
    assert [each.name for each in found] == ["x"]
    assert random_part not in repr(found)

    def rows(conn: Any) -> str:
        tables = ("api_keys", "outbox", "idempotency")
        return repr(
            [
                tuple(row)
                for table in tables
                for row in conn.execute(
                    text(f"SELECT * FROM {table} WHERE tenant = :tenant"), {"tenant": ME.tenant}
                )
            ]
        )

    assert random_part not in await database.read(ME, rows)


async def test_of_one_idempotency_key_comes_one_secret_and_no_second_sight_of_it(
    identity: Identity, served: IdentityService, database: Database
) -> None:
    create = ApiKeyCreate(name="x", roles=["viewer"])
    made = await identity.create_key(ME, create, idempotency_key="k")
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            await identity.create_key(ME, create, idempotency_key="k")
        assert caught.value.code == "secret-shown-once"
        assert f"holdfast apikey revoke {made.key.id}" in caught.value.hint
        assert made.secret not in repr(caught.value) + caught.value.hint
    with pytest.raises(Conflict) as caught:
        await identity.create_key(ME, ApiKeyCreate(name="y", roles=["viewer"]), idempotency_key="k")
    assert caught.value.code == "idempotency-key-reused"
    assert len((await identity.list_keys(ME))[0]) == 1
    assert [entry.event.type for entry in await events(database)] == ["api-key.created"]
    assert (await served.find_holder(made.secret)).subject == made.key.id
    other = await identity.create_key(ME, create, idempotency_key="l")
    assert other.secret != made.secret


async def test_a_secret_with_any_one_character_changed_is_nobody_s(
    served: IdentityService,
) -> None:
    made = await served.create_key(ME, ApiKeyCreate(name="x", roles=["viewer"]))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
    last = len(made.secret) - 1
    places = [*range(0, last, 7), len(made.secret) - 10, *range(last - 7, last + 1)]
    for place in places:
        for other in alphabet:
            changed = made.secret[:place] + other + made.secret[place + 1 :]
            if changed != made.secret:
                with pytest.raises(Unauthenticated):
                    await served.find_holder(changed)
    for changed in (f"{made.secret}=", f"{made.secret}\n", made.secret.upper(), f" {made.secret}"):
        with pytest.raises(Unauthenticated):
            await served.find_holder(changed)


async def test_a_revoked_an_expired_and_an_unknown_key_are_refused_alike(
    identity: Identity, served: IdentityService, clock: ManualClock
) -> None:
    revoked = await identity.create_key(ME, ApiKeyCreate(name="r", roles=["viewer"]))
    ended = await identity.revoke_key(ME, revoked.key.id)
    assert ended.revoked_at is not None
    assert await identity.revoke_key(ME, revoked.key.id) == ended
    short = await identity.create_key(ME, ApiKeyCreate(name="s", roles=["viewer"], days=1))
    clock.advance(24 * 3600)
    other = await identity.create_key(ME, ApiKeyCreate(name="o", roles=["viewer"]))
    stolen_id = other.secret.replace(other.key.id, revoked.key.id)
    said = set()
    for secret in (revoked.secret, short.secret):
        with pytest.raises(Unauthenticated) as found:
            await served.find_holder(secret)
        said.add((found.value.code, found.value.detail))
    assert said == {("key-unknown", "cannot do this: the key is not known")}
    with pytest.raises(Unauthenticated) as found:
        await served.find_holder(stolen_id)
    assert found.value.code == "credential-malformed"


async def test_nobody_grants_what_they_do_not_have(
    served: IdentityService, clients: dict[str, IdentityClient]
) -> None:
    weak = Principal(
        ME.tenant,
        "k",
        PrincipalKind.KEY,
        frozenset({Permission.RECORDS_READ, Permission.IDENTITY_WRITE}),
        frozenset({"a"}),
    )
    with pytest.raises(Denied, match="reports:read"):
        await served.create_key(weak, ApiKeyCreate(name="x", permissions=["reports:read"]))
    for profiles in ([], ["b"], ["a", "b"]):
        with pytest.raises(Denied, match="limited"):
            await served.create_key(
                weak, ApiKeyCreate(name="x", permissions=["records:read"], profiles=profiles)
            )
    made = await served.create_key(
        weak, ApiKeyCreate(name="x", permissions=["records:read"], profiles=["a"])
    )
    assert made.key.profiles == ["a"]
    with pytest.raises(Denied):
        await clients["weak"].create_key(None, ApiKeyCreate(name="x", roles=["viewer"]))
    with pytest.raises(Denied, match="only services"):
        await clients["me"].find_holder(made.secret)
    assert (await clients["self"].find_holder(made.secret)).subject == made.key.id


async def test_another_tenants_key_is_as_if_it_were_not(
    served: IdentityService, clients: dict[str, IdentityClient]
) -> None:
    made = await served.create_key(ME, ApiKeyCreate(name="mine", roles=["viewer"]))
    said = []
    for key in (made.key.id, "01970000-0000-7000-8000-000000000000"):
        with pytest.raises(NotFound) as found:
            await clients["elsewhere"].revoke_key(None, key)
        said.append((found.value.code, found.value.detail.replace(key, "ID")))
    assert said[0] == said[1]
    assert await clients["elsewhere"].list_keys(None) == ([], None)
    assert (await served.find_holder(made.secret)).tenant == ME.tenant


async def test_keys_are_paged(identity: Identity, clock: ManualClock) -> None:
    for number in range(5):
        clock.advance(1)
        await identity.create_key(ME, ApiKeyCreate(name=f"k{number}", roles=["viewer"]))
    names: list[str] = []
    before = ""
    while True:
        page, following = await identity.list_keys(ME, before=before, limit=2)
        names += [each.name for each in page]
        if following is None:
            break
        before = following
    assert names == ["k4", "k3", "k2", "k1", "k0"]


async def test_what_is_wrong_with_a_key_is_said_and_nothing_is_made(
    identity: Identity, database: Database
) -> None:
    for create in (
        ApiKeyCreate(name="x", roles=["boss"]),
        ApiKeyCreate(name="x", permissions=["tasks:work"]),
        ApiKeyCreate(name="x", roles=["viewer"], addresses=["here"]),
        ApiKeyCreate(name="x"),
    ):
        with pytest.raises(Invalid):
            await identity.create_key(ME, create)
    assert await identity.list_keys(ME) == ([], None)
    assert await events(database) == []


async def test_keys_made_and_ended_are_events_without_secrets(
    identity: Identity, database: Database
) -> None:
    made = await identity.create_key(ME, ApiKeyCreate(name="private name", roles=["viewer"]))
    await identity.revoke_key(ME, made.key.id)
    await identity.revoke_key(ME, made.key.id)
    found = await events(database)
    assert [entry.event.type for entry in found] == ["api-key.created", "api-key.revoked"]
    assert "private name" not in repr(found)


# --- roles --------------------------------------------------------------------------------------


async def test_a_role_of_ones_own(identity: Identity, served: IdentityService) -> None:
    await identity.define_role(ME, "reader", RoleDefine(permissions=["records:read"]))
    roles = {role.name: role for role in await identity.list_roles(ME)}
    assert roles["reader"].permissions == ["records:read"]
    assert not roles["reader"].built_in
    made = await identity.create_key(ME, ApiKeyCreate(name="x", roles=["reader"]))
    assert made.key.permissions == ["records:read"]
    await identity.drop_role(ME, "reader")
    with pytest.raises(NotFound):
        await identity.drop_role(ME, "reader")
    with pytest.raises(Invalid):
        await identity.create_key(ME, ApiKeyCreate(name="y", roles=["reader"]))
    assert (await served.find_holder(made.secret)).permissions == ["records:read"]


@pytest.mark.parametrize(
    ("name", "permissions", "failure"),
    [
        ("admin", ["records:read"], Conflict),
        ("a b", ["records:read"], Invalid),
        ("boss", ["public"], Invalid),
        ("boss", ["tasks:work"], Invalid),
    ],
)
async def test_roles_that_cannot_be(
    identity: Identity, name: str, permissions: list[str], failure: type[HoldfastError]
) -> None:
    with pytest.raises(failure):
        await identity.define_role(ME, name, RoleDefine(permissions=permissions))


# --- at the door --------------------------------------------------------------------------------


def scope(secret: str, address: str = "10.0.0.9") -> dict[str, Any]:
    return {
        "method": "GET",
        "headers": [(b"authorization", f"Bearer {secret}".encode())],
        CLIENT: address,
    }


@pytest.fixture
def door(served: IdentityService, clock: ManualClock) -> DoorAuthenticator:
    async def no_worker(credential: str) -> Any:
        raise Unauthenticated("cannot do this: no workers here")

    return DoorAuthenticator(
        OperatorToken("hfo_x"),
        no_worker,
        no_worker,
        Remembered(served.find_holder, clock),
        clock,
    )


async def test_a_revoked_key_is_dead_at_every_door_within_the_stated_time(
    served: IdentityService, door: DoorAuthenticator, clock: ManualClock
) -> None:
    made = await served.create_key(ME, ApiKeyCreate(name="x", roles=["viewer"]))
    open_ = scope(made.secret)
    assert (await door(open_)).subject == made.key.id
    await open_[STANDING].check()
    await served.revoke_key(ME, made.key.id)
    clock.advance(REMEMBERED_SECONDS)
    with pytest.raises(Unauthenticated):
        await door(scope(made.secret))
    with pytest.raises(Unauthenticated) as over:
        await open_[STANDING].check()
    assert over.value.code == CREDENTIAL_ENDED


async def test_a_key_ends_on_time_even_where_it_is_remembered(
    served: IdentityService, door: DoorAuthenticator, clock: ManualClock
) -> None:
    made = await served.create_key(ME, ApiKeyCreate(name="x", roles=["viewer"], days=1))
    clock.advance(24 * 3600 - 1)
    await door(scope(made.secret))
    clock.advance(1)
    with pytest.raises(Unauthenticated):
        await door(scope(made.secret))


async def test_a_key_holds_only_at_its_addresses(
    served: IdentityService, door: DoorAuthenticator
) -> None:
    create = ApiKeyCreate(name="x", roles=["viewer"], addresses=["10.0.0.0/8"])
    made = await served.create_key(ME, create)
    await door(scope(made.secret))
    for address in ("192.0.2.1", "", "::1"):
        with pytest.raises(Denied) as found:
            await door(scope(made.secret, address))
        assert found.value.code == "address-refused"


@pytest.mark.parametrize("place", ["here", "elsewhere"])
async def test_the_refusal_of_a_key_is_noted_as_that_keys_and_does_not_say_so_itself(
    served: IdentityService,
    clients: dict[str, IdentityClient],
    clock: ManualClock,
    place: str,
) -> None:
    async def no_worker(credential: str) -> Any:
        raise Unauthenticated("cannot do this: no workers here")

    find = served.find_holder if place == "here" else clients["self"].find_holder
    admit = DoorAuthenticator(OperatorToken("hfo_x"), no_worker, no_worker, find, clock)
    create = ApiKeyCreate(name="x", roles=["viewer"], addresses=["10.0.0.0/8"])
    made = await served.create_key(ELSEWHERE, create)
    away, theirs, over = scope(made.secret, "192.0.2.1"), scope(made.secret), scope(made.secret)
    theirs["headers"].append((b"x-tenant-id", b"default"))
    for refused, code in ((away, "address-refused"), (theirs, "tenant-mismatch")):
        with pytest.raises(Denied) as denied:
            await admit(refused)
        assert denied.value.code == code
    await served.revoke_key(ELSEWHERE, made.key.id)
    with pytest.raises(Unauthenticated) as found:
        await admit(over)
    assert (found.value.code, found.value.problems) == ("key-unknown", ())
    assert made.key.id not in found.value.detail
    for refused in (away, theirs, over):
        assert (refused[TENANT], refused[SUBJECT]) == ("elsewhere", made.key.id)
    other = made.key.id[:-1] + ("1" if made.key.id.endswith("0") else "0")
    guessed = scope(made.secret.replace(made.key.id, other))
    with pytest.raises(Unauthenticated):
        await admit(guessed)
    assert SUBJECT not in guessed
