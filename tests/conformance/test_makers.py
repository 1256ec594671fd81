"""A join token ends with the key or the person that made it, on both databases.

The coordinator and identity are the services themselves, each on what the other never sees but
through its answers; that they may be two processes is ``tests/e2e/test_revocation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from holdfast.fleet.model import JoinTokenCreate, JoinTokenInfo, WorkerRegister
from holdfast.fleet.service import FleetService
from holdfast.identity.model import Maker, RoleDefine, Standing
from holdfast.identity.people.model import RolesChange
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError, Unauthenticated, Unavailable
from holdfast.kernel.outbox import BEGINNING
from holdfast.kernel.principal import Principal, PrincipalKind
from holdfast.leases import MemoryLeases
from tests.conformance.test_derived import ME, Office
from tests.support.fleet import KEY, PEPPERS
from tests.support.signing import PUBLIC_KEY


class Asked:
    """Identity as the coordinator asks it; may fail."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.failure: HoldfastError | None = None
        self.asked = 0

    async def standing(self, principal: Principal, makers: Sequence[Maker]) -> list[Standing]:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return await self.office.keys.standing(principal, makers)


@dataclass
class House:
    """An office, and a coordinator that asks it."""

    office: Office
    identity: Asked
    fleet: FleetService

    async def token(self, by: Principal, **more: Any) -> str:
        self.office.clock.advance(1)
        return (await self.fleet.worker_token_create(by, JoinTokenCreate(**more))).token

    async def join(self, token: str, name: str) -> str:
        """The worker's credential."""
        self.office.clock.advance(1)
        wanted = WorkerRegister(name=name, key=PUBLIC_KEY)
        return (await self.fleet.register(token, wanted)).credential

    async def refusal(self, token: str, name: str = "late") -> str:
        with pytest.raises(Unauthenticated) as refused:
            await self.join(token, name)
        assert refused.value.code == "join-token-invalid"
        return refused.value.detail

    async def listed(self, **more: Any) -> list[JoinTokenInfo]:
        return (await self.fleet.list_join_tokens(ME, **more))[0]

    async def told(self) -> list[dict[str, Any]]:
        """What the events of ended tokens say."""
        parts = self.office.parts
        found = await parts.database.read(
            ME, lambda conn: parts.outbox.ready(conn, ME, BEGINNING, 1000)
        )
        return [e.event.payload for e in found if e.event.type == "join-token.ended"]


@pytest.fixture
def house(database: Database) -> House:
    office = Office(database)
    identity = Asked(office)
    parts = office.parts
    fleet = FleetService(
        database,
        MemoryLeases(parts.clock),
        parts.outbox,
        KEY,
        PEPPERS,
        clock=parts.clock,
        new_id=parts.new_id,
        random=parts.random,
        chance=lambda: 0.5,
        makers=identity,
    )
    return House(office, identity, fleet)


async def revoke_key(house: House, maker: Principal) -> None:
    await house.office.keys.revoke_key(ME, maker.subject)


async def let_expire(house: House, maker: Principal) -> None:
    house.office.clock.advance(2 * 86_400)


async def disable(house: House, maker: Principal) -> None:
    await house.office.people.disable(ME, maker.subject)


async def disable_and_enable(house: House, maker: Principal) -> None:
    await disable(house, maker)
    await house.office.people.enable(ME, maker.subject)


async def forget(house: House, maker: Principal) -> None:
    await house.office.people.forget(ME, maker.subject)


async def take_the_role(house: House, maker: Principal) -> None:
    await house.office.people.change_roles(ME, maker.subject, RolesChange(roles=["auditor"]))


async def take_the_role_and_give_it_back(house: House, maker: Principal) -> None:
    await take_the_role(house, maker)
    await house.office.people.change_roles(ME, maker.subject, RolesChange(roles=["admin"]))


async def change_what_the_role_may(house: House, maker: Principal) -> None:
    people, keys = house.office.people, house.office.keys
    both = RoleDefine(permissions=["workers:write", "workers:read"])
    await keys.define_role(ME, "joiner", both)
    await people.change_roles(ME, maker.subject, RolesChange(roles=["joiner"]))
    assert not (await house.listed())[0].ended
    await keys.define_role(ME, "joiner", RoleDefine(permissions=["workers:read"]))


async def change_what_the_role_may_and_back(house: House, maker: Principal) -> None:
    await change_what_the_role_may(house, maker)
    both = RoleDefine(permissions=["workers:write", "workers:read"])
    house.office.clock.advance(1)
    await house.office.keys.define_role(ME, "joiner", both)


WAYS = {
    "key-revoked": [revoke_key],
    "key-expired": [let_expire],
    "person-disabled": [disable, forget],
    "permission-lost": [
        disable_and_enable,
        take_the_role,
        take_the_role_and_give_it_back,
        change_what_the_role_may,
        change_what_the_role_may_and_back,
    ],
}


@pytest.mark.parametrize(
    ("reason", "end"),
    [(reason, end) for reason, ends in WAYS.items() for end in ends],
    ids=lambda each: getattr(each, "__name__", each),
)
async def test_a_join_token_ends_with_its_maker_and_whom_it_admitted_stays(
    house: House, reason: str, end: Any
) -> None:
    if reason.startswith("key"):
        _, maker = await house.office.key(ME, "maker", days=1)
    else:
        maker = await house.office.person()
    token = await house.token(maker, expires_seconds=30 * 86_400)
    credential = await house.join(token, "early")
    await end(house, maker)
    detail = await house.refusal(token)
    assert await house.refusal(token, "early") == detail, "its own name, too, comes by a credential"
    worker = await house.fleet.authenticate_worker(credential)
    assert (await house.join(credential, "early")) != credential
    assert worker.kind is PrincipalKind.WORKER
    [shown] = await house.listed()
    assert (shown.admits, shown.created_by, shown.uses) == (False, maker.subject, 1)
    told = await house.told()
    if reason == "key-expired":
        # It was no longer from the beginning: nothing had to be ended.
        assert (shown.ended, told, "expired" in detail) == ("", [], True)
        return
    assert shown.ended == reason
    assert told == [{"token": shown.id, "with": maker.subject, "because": reason}]


async def test_what_ended_with_a_maker_ends_by_itself_and_stays_so(house: House) -> None:
    ada, bob = await house.office.person(), await house.office.person()
    _, keyed = await house.office.key(bob, "of bob")
    tokens = [await house.token(by) for by in (ada, bob, keyed, ME)]
    assert await house.fleet.end_tokens_of_makers(ME) == 0
    await house.office.people.disable(ME, bob.subject)
    assert await house.fleet.end_tokens_of_makers(ME) == 2
    assert await house.fleet.end_tokens_of_makers(ME) == 0
    ended = {each.created_by: each.ended for each in await house.listed()}
    assert ended == {
        ada.subject: "",
        bob.subject: "person-disabled",
        keyed.subject: "key-revoked",
        ME.subject: "",
    }
    [of_bob] = await house.listed(maker=bob.subject)
    assert (of_bob.created_as, of_bob.admits) == ("person", False)
    asked = house.identity.asked
    assert "disabled" in await house.refusal(tokens[1])
    assert house.identity.asked == asked, "of what has ended nobody is asked"
    for number, token in enumerate((tokens[0], tokens[3])):
        await house.join(token, f"drone-{number}")


@pytest.mark.parametrize(
    "failure", [Unavailable("cannot reach identity"), Unauthenticated("cannot accept the hop")]
)
async def test_nobody_is_admitted_while_nobody_says_whether_the_maker_still_may(
    house: House, failure: HoldfastError
) -> None:
    _, maker = await house.office.key(ME, "maker")
    token, mine = await house.token(maker), await house.token(ME)
    house.identity.failure = failure
    for ask in (house.join(token, "one"), house.token(maker)):
        with pytest.raises(Unavailable) as refused:
            await ask
        assert (refused.value.code, failure.detail in refused.value.detail) == (
            "maker-unasked",
            True,
        )
    with pytest.raises(Unavailable):
        await house.fleet.end_tokens_of_makers(ME)
    await house.join(mine, "of the operator")
    house.identity.failure = None
    await house.join(token, "one")
    assert [each.ended for each in await house.listed()] == ["", ""]


async def test_who_was_ended_meanwhile_makes_no_join_token_and_none_outlives_its_key(
    house: House,
) -> None:
    made, maker = await house.office.key(ME, "short", days=1)
    token = await house.fleet.worker_token_create(maker, JoinTokenCreate(expires_seconds=10**6))
    assert token.expires_at == made.key.expires_at
    await house.office.keys.revoke_key(ME, maker.subject)
    with pytest.raises(Unauthenticated) as refused:
        await house.token(maker)
    assert refused.value.code == "maker-over"


async def test_a_key_of_the_operator_s_file_is_not_identity_s_to_judge(house: House) -> None:
    """Its tokens end by their own ids, as what else it made."""
    listed = replace(ME, subject=f"k-{'a' * 32}", kind=PrincipalKind.KEY, credential="listed:a")
    token = await house.token(listed)
    assert await house.fleet.end_tokens_of_makers(ME) == 0
    await house.join(token, "of the file")
    [shown] = await house.listed(maker=listed.subject)
    await house.fleet.end_join_token_of(ME, shown.id)
    assert "ended" in await house.refusal(token)
    [again] = await house.listed(maker=listed.subject)
    assert again.ended == "ended"


async def test_a_maker_of_another_tenant_is_nobody_here(house: House) -> None:
    _, maker = await house.office.key(ME, "maker")
    asked = Maker(
        tenant="elsewhere", subject=maker.subject, kind="key", permission="workers:write", since=""
    )
    assert await house.office.keys.standing(ME, [asked]) == [Standing(reason="maker-unknown")]
