"""One request about a person in several keyrings: all of them, or told which not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid, OutcomeUnknown, Unavailable
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, Outbox
from holdfast.kernel.principal import Principal, operator
from holdfast.keyring import EnvelopeSealer, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.keyring.errors import SubjectHeld, SubjectRetained, SubjectUnknown
from holdfast.keyring.everywhere import SubjectsEverywhere
from holdfast.keyring.model import (
    Erased,
    EraseRequest,
    LookRequest,
    Placed,
    RetainRequest,
    Standing,
    SubjectRequest,
    Subjects,
)
from holdfast.keyring.ports import People
from holdfast.keyring.subjects import SubjectsService
from tests.support.soaking import scale

CLOCK = SystemClock()
ME = operator()
JANE = SubjectRequest(subject="jane", reason="case 12")
ERASE = EraseRequest(subject="jane", reason="asked")
LATER, LATEST = (
    RetainRequest(subject="jane", reason="tax law", until=f"{year}-01-01T00:00:00Z")
    for year in (2090, 2095)
)
T = TypeVar("T")


@dataclass
class Role:
    """The people of a keyring as a role elsewhere has them: the way there may break.

    ``faults`` says of the next calls of a kind what becomes of each: ``away`` (nothing is done) or
    ``lost`` (it is done, and nobody hears of it). ``before`` runs before an erasure.
    """

    people: SubjectsService
    faults: dict[str, list[str]] = field(default_factory=dict)
    before: Callable[[], Awaitable[Any]] | None = None
    calls: Counter[str] = field(default_factory=Counter)

    async def _over(self, kind: str, ask: Awaitable[T]) -> T:
        self.calls[kind] += 1
        faults = self.faults.get(kind) or [""]
        match faults.pop(0):
            case "away":
                ask.close()  # type: ignore[attr-defined]
                raise Unavailable("cannot reach it", code="role-unreachable")
            case "lost":
                await ask
                raise OutcomeUnknown("cannot tell what it did")
            case _:
                return await ask

    async def list(self, principal: Principal) -> Subjects:
        return await self._over("list", self.people.list(principal))

    async def look(self, principal: Principal, request: LookRequest) -> Sequence[Standing]:
        return await self._over("look", self.people.look(principal, request))

    async def erase(self, principal: Principal, request: EraseRequest) -> Erased:
        if self.before is not None:
            await self.before()
        return await self._over("erase", self.people.erase(principal, request))

    async def hold(self, principal: Principal, request: SubjectRequest) -> Placed:
        return await self._over("hold", self.people.hold(principal, request))

    async def release(self, principal: Principal, request: SubjectRequest) -> Subjects:
        return await self._over("release", self.people.release(principal, request))

    async def retain(self, principal: Principal, request: RetainRequest) -> Placed:
        return await self._over("retain", self.people.retain(principal, request))


@dataclass
class Deployment:
    """Two roles, with a keyring each or one for both, and what the door has of them."""

    keyrings: dict[str, Keyring]
    roles: dict[str, Role]
    everywhere: SubjectsEverywhere
    database: Database

    def know(self, role: str, name: str = "jane", principal: Principal = ME) -> None:
        """Somebody's data comes in at a role."""
        keyring = self.keyrings[role]
        keyring.subject_keys(principal.tenant, [keyring.subject_token(principal.tenant, name)])

    def state(self, name: str = "jane") -> dict[str, str]:
        """What has become of a person's key in each keyring."""
        return {role: _state(keyring, name) for role, keyring in self.keyrings.items()}

    async def events(self) -> Counter[str]:
        """The evidence, by its type."""
        outbox = Outbox(EnvelopeSealer(self.keyrings["aggregator"]))
        found = await self.database.read(ME, lambda conn: outbox.ready(conn, ME, BEGINNING, 1000))
        return Counter(entry.event.type for entry in found)


def _state(keyring: Keyring, name: str) -> str:
    token = keyring.subject_token("default", name)
    if keyring.erased("default", [token]):
        return "erased"

    def count(rows: Any) -> int:
        found = rows.all("SELECT count(*) FROM keyring_keys WHERE subject = $1", token)
        return int(found[0][0])

    return "key" if keyring.store.transact(count) else "nobody"


Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(sqlite_database: Database, tmp_path: Path) -> Iterator[Deploy]:
    """Makes deployments, each in a folder of its own."""
    with ExitStack() as stack:
        made: list[Deployment] = []

        def one(*, shared: bool = False) -> Deployment:
            folder = tmp_path / str(len(made))
            names = ["aggregator"] if shared else ["aggregator", "ledger"]
            keyrings = {}
            for name in names:
                (folder / name).mkdir(parents=True)
                store = open_store(f"sqlite:///{folder / name / 'keyring.db'}")
                stack.callback(store.close)
                master = folder / name / "master.key"
                keyrings[name] = open_keyring(
                    store,
                    lambda _, path=master: MasterKeys.create(path),  # type: ignore[misc]
                    CLOCK,
                    new_id=f"{name}-{len(made)}",
                    expected=None,
                )
            if shared:
                keyrings["ledger"] = keyrings["aggregator"]
            roles = {
                name: Role(
                    SubjectsService(
                        keyring,
                        sqlite_database,
                        # A person's events in one outbox: it is read by their types alone.
                        Outbox(EnvelopeSealer(keyrings["aggregator"])),
                        CLOCK,
                        id_source(CLOCK),
                        lists=folder / (names[0] if shared else name),
                        backup_days=7,
                    )
                )
                for name, keyring in keyrings.items()
            }

            @asynccontextmanager
            async def ask(principal: Principal) -> AsyncIterator[dict[str, People]]:
                yield dict(roles)

            made.append(Deployment(keyrings, roles, SubjectsEverywhere(ask), sqlite_database))
            return made[-1]

        yield one


def told(error: HoldfastError) -> dict[str, str]:
    return {problem.path: problem.message for problem in error.problems}


async def test_an_erasure_reaches_the_keyrings_that_know_the_person_and_those_that_may_come_to(
    deploy: Deploy,
) -> None:
    both = deploy()
    both.know("ledger")
    both.know("aggregator", "joe")
    done = await both.everywhere.erase(ME, ERASE)
    assert (done.state, done.keys, done.repeated) == ("done", 1, False)
    assert {part.roles[0]: part.erasure.keys for part in done.keyrings} == {
        "aggregator": 0, "ledger": 1,
    }  # fmt: skip
    assert len({part.erasure.subject for part in done.keyrings}) == 2
    assert both.state() == {"aggregator": "erased", "ledger": "erased"}
    assert both.state("joe") == {"aggregator": "key", "ledger": "nobody"}
    assert (await both.events())["subject.erased"] == 2
    again = await both.everywhere.erase(ME, ERASE)
    assert (again.repeated, again.requested_at) == (True, done.requested_at)
    assert (await both.events())["subject.erased"] == 2


async def test_a_name_that_no_keyring_knows_is_refused_unless_it_is_meant(deploy: Deploy) -> None:
    both = deploy()
    both.know("ledger")
    with pytest.raises(SubjectUnknown):
        await both.everywhere.erase(ME, EraseRequest(subject="Jane", reason="a typo"))
    assert both.state("Jane") == {"aggregator": "nobody", "ledger": "nobody"}
    ahead = EraseRequest(subject="joe", reason="never again", even_unknown=True)
    assert (await both.everywhere.erase(ME, ahead)).keys == 0
    assert both.state("joe") == {"aggregator": "erased", "ledger": "erased"}


@pytest.mark.parametrize("role", ["aggregator", "ledger"])
async def test_a_hold_or_a_retention_in_one_keyring_keeps_what_is_in_all(
    deploy: Deploy, role: str
) -> None:
    both = deploy()
    for name in both.roles:
        both.know(name)
    await both.roles[role].people.hold(ME, JANE)
    with pytest.raises(SubjectHeld, match=f"in the keyring of the {role} since .*: case 12"):
        await both.everywhere.erase(ME, ERASE)
    await both.roles[role].people.release(ME, JANE)
    await both.roles[role].people.retain(ME, LATER)
    with pytest.raises(SubjectRetained, match=f"in the keyring of the {role} until 2090"):
        await both.everywhere.erase(ME, ERASE)
    assert both.state() == {"aggregator": "key", "ledger": "key"}
    # Another tenant's Jane is somebody else.
    other = operator(TenantId("other"))
    both.know(role, principal=other)
    assert (await both.everywhere.erase(other, ERASE)).state == "done"


async def test_what_is_placed_and_released_is_so_in_every_keyring(deploy: Deploy) -> None:
    both = deploy()
    both.know("ledger")
    held = await both.everywhere.hold(ME, JANE)
    assert held.known
    assert [(part.roles, part.known) for part in held.keyrings] == [
        (["aggregator"], False),
        (["ledger"], True),
    ]
    for role in both.roles.values():
        with pytest.raises(SubjectHeld):
            await role.people.erase(ME, ERASE)
    listed = await both.everywhere.list(ME)
    assert [part.roles for part in listed.keyrings] == [["aggregator"], ["ledger"]]
    assert len(listed.restrictions) == 2
    assert (await both.everywhere.release(ME, JANE)).restrictions == []
    await both.everywhere.retain(ME, LATEST)
    await both.everywhere.release(ME, JANE)  # of a hold alone
    for role in both.roles.values():
        with pytest.raises(SubjectRetained):
            await role.people.erase(ME, ERASE)
    standings = await both.everywhere.look(ME, LookRequest(subject="jane"))
    assert [(each.roles, each.known) for each in standings] == [
        (["aggregator"], False),
        (["ledger"], True),
    ]


async def test_a_retention_that_one_keyring_has_for_longer_is_not_shortened_in_any(
    deploy: Deploy,
) -> None:
    both = deploy()
    await both.roles["ledger"].people.retain(ME, LATEST)
    with pytest.raises(Invalid, match="must be kept until 2095"):
        await both.everywhere.retain(ME, LATER)
    assert (await both.roles["aggregator"].people.list(ME)).restrictions == []
    await both.everywhere.retain(ME, LATEST)
    for role in both.roles.values():
        [kept] = (await role.people.list(ME)).restrictions
        assert kept.until.startswith("2095")


async def test_a_retention_that_is_placed_in_part_says_where_and_the_same_again_places_the_rest(
    deploy: Deploy,
) -> None:
    both = deploy()
    ledger = both.roles["ledger"].people
    both.roles["ledger"].faults["retain"] = ["away", "lost"]
    for said in ("not retained: cannot reach it", "perhaps retained: cannot tell what it did"):
        with pytest.raises(OutcomeUnknown) as raised:
            await both.everywhere.retain(ME, LATER)
        assert raised.value.code == "retained-in-part"
        assert told(raised.value)["aggregator"].startswith("retained since ")
        assert told(raised.value)["ledger"] == said
        with pytest.raises(SubjectRetained, match="in the keyring of the aggregator until 2090"):
            await both.everywhere.erase(ME, ERASE)
    assert len((await ledger.list(ME)).restrictions) == 1, "only its answer was lost"
    placed = await both.everywhere.retain(ME, LATER)
    assert [part.roles for part in placed.keyrings] == [["aggregator"], ["ledger"]]
    # Somebody retains it for longer at one of them, between the look and the placing: a refusal.
    aggregator = both.roles["aggregator"]
    retain = aggregator.people.retain

    async def longer(principal: Principal, request: RetainRequest) -> Placed:
        await ledger.retain(ME, LATEST)
        return await retain(principal, request)

    aggregator.people.retain = longer  # type: ignore[method-assign]
    with pytest.raises(Conflict) as refused:
        await both.everywhere.retain(ME, LATER)
    assert refused.value.code == "retained-in-part"
    assert told(refused.value)["ledger"].startswith("not retained: cannot retain until 2090")
    aggregator.people.retain = retain  # type: ignore[method-assign]
    with pytest.raises(Invalid, match="must be kept until 2095"):
        await both.everywhere.retain(ME, LATER)
    await both.everywhere.retain(ME, LATEST)
    for role in both.roles.values():
        [kept] = (await role.people.list(ME)).restrictions
        assert kept.until.startswith("2095")


async def test_whoever_is_held_is_said_to_be_nobody_or_to_be_erased(deploy: Deploy) -> None:
    both = deploy()
    assert not (await both.everywhere.hold(ME, JANE)).known
    assert not (await both.everywhere.retain(ME, LATER)).known
    joe = SubjectRequest(subject="joe", reason="too late")
    both.know("aggregator", "joe")
    gone = await both.everywhere.erase(ME, EraseRequest(subject="joe", reason="asked"))
    held = await both.everywhere.hold(ME, joe)
    assert (held.known, held.erased_at) == (True, gone.requested_at)


async def test_nothing_is_erased_while_a_role_is_away_but_what_can_be_held_is(
    deploy: Deploy,
) -> None:
    both = deploy()
    for name in both.roles:
        both.know(name)
    away = both.roles["ledger"]
    away.faults["look"] = ["away"] * 3
    with pytest.raises(Unavailable) as raised:
        await both.everywhere.erase(ME, ERASE)
    assert raised.value.code == "role-unreachable"
    assert told(raised.value) == {
        "aggregator": "not erased", "ledger": "not erased: cannot reach it",
    }  # fmt: skip
    assert both.state() == {"aggregator": "key", "ledger": "key"}
    with pytest.raises(OutcomeUnknown) as raised_:
        await both.everywhere.hold(ME, JANE)
    assert raised_.value.code == "held-in-part"
    assert told(raised_.value)["ledger"] == "not held: cannot reach it"
    assert told(raised_.value)["aggregator"].startswith("held since ")
    with pytest.raises(OutcomeUnknown) as raised_:
        await both.everywhere.release(ME, JANE)
    assert told(raised_.value) == {
        "aggregator": "released", "ledger": "not released: cannot reach it",
    }  # fmt: skip
    away.faults["list"] = ["away"]
    with pytest.raises(Unavailable, match=r"cannot list .*: cannot reach it"):
        await both.everywhere.list(ME)
    for role in both.roles.values():
        role.faults["look"] = ["away"]
    with pytest.raises(Unavailable) as nobody:
        await both.everywhere.hold(ME, JANE)
    assert nobody.value.code == "role-unreachable"


async def test_a_hold_that_comes_while_the_first_keyring_is_erased_is_kept_and_told(
    deploy: Deploy,
) -> None:
    both = deploy()
    for name in both.roles:
        both.know(name)
    ledger = both.roles["ledger"]

    async def meanwhile() -> None:
        ledger.before = None
        await ledger.people.hold(ME, JANE)

    ledger.before = meanwhile
    for _ in range(2):  # now, and when it is asked again
        with pytest.raises(Conflict) as raised:
            await both.everywhere.erase(ME, ERASE)
        assert raised.value.code == "erased-in-part"
        assert told(raised.value)["aggregator"].startswith("erased since ")
        assert told(raised.value)["ledger"].startswith("not erased: cannot erase the subject: a le")
        assert "case 12" in told(raised.value)["ledger"]
        assert both.state() == {"aggregator": "erased", "ledger": "key"}
    await both.everywhere.release(ME, JANE)
    done = await both.everywhere.erase(ME, ERASE)
    assert [part.erasure.repeated for part in done.keyrings] == [True, False]
    assert (done.state, done.repeated) == ("done", False)
    assert both.state() == {"aggregator": "erased", "ledger": "erased"}


async def test_roles_that_share_a_keyring_are_asked_as_one(deploy: Deploy) -> None:
    one = deploy(shared=True)
    one.know("ledger")
    held = await one.everywhere.hold(ME, JANE)
    assert (held.known, held.keyrings) == (True, [])
    with pytest.raises(SubjectHeld) as raised:
        await one.everywhere.erase(ME, ERASE)
    assert "keyring" not in raised.value.detail
    listed = await one.everywhere.list(ME)
    assert (len(listed.restrictions), listed.keyrings) == (1, [])
    await one.everywhere.release(ME, JANE)
    done = await one.everywhere.erase(ME, ERASE)
    assert (done.state, done.keys, done.keyrings) == ("done", 1, [])
    with pytest.raises(SubjectUnknown):
        await one.everywhere.erase(ME, EraseRequest(subject="joe", reason="a typo"))
    [standing] = await one.everywhere.look(ME, LookRequest(subject="jane"))
    assert standing.roles == ["aggregator", "ledger"]
    # Whoever has copies beside the keys does all of it, once.
    assert one.roles["ledger"].calls.keys() == {"look", "list"}
    assert await one.events() == {"subject.held": 1, "subject.released": 1, "subject.erased": 1}
    one.roles["aggregator"].faults["erase"] = ["lost"]
    with pytest.raises(OutcomeUnknown, match="cannot tell what it did"):
        await one.everywhere.erase(ME, ERASE)


@pytest.mark.soak
async def test_whatever_breaks_in_between_what_is_said_is_so_and_the_same_again_finishes_it(
    deploy: Deploy,
) -> None:
    """Calls that never arrive, and answers that are lost, at either role and in any order."""
    outcomes = Counter[str]()
    for seed in range(20 * scale()):
        chance = random.Random(seed)
        both = deploy()
        names = list(both.roles)
        for name in chance.sample(names, chance.choice([1, 2, 2])):
            both.know(name)
        held = chance.random() < 0.3 and chance.choice(names)
        if held:
            await both.roles[held].people.hold(ME, JANE)
        for name in names:
            for kind in ("look", "erase", "release"):
                both.roles[name].faults[kind] = chance.choices(["", "away", "lost"], [6, 2, 1], k=3)
        before = both.state()
        for _ in range(6):
            try:
                done = await both.everywhere.erase(ME, ERASE)
            except HoldfastError as error:
                outcomes[error.code] += 1
                _check_told(error, before, both.state(), seed)
            else:
                outcomes["done"] += 1
                assert done.state == "done", seed
                assert set(both.state().values()) == {"erased"}, seed
                break
            if held and chance.random() < 0.5:
                try:
                    await both.everywhere.release(ME, JANE)
                except HoldfastError as error:
                    outcomes[error.code] += 1
            before = both.state()
        for role in both.roles.values():
            role.faults.clear()
        await both.everywhere.release(ME, JANE)
        done = await both.everywhere.erase(ME, ERASE)
        assert (done.state, set(both.state().values())) == ("done", {"erased"}), seed
    assert outcomes.keys() >= {
        "done", "erased-in-part", "role-unreachable", "subject-held", "released-in-part",
    }, outcomes  # fmt: skip


def _check_told(
    error: HoldfastError, before: dict[str, str], now: dict[str, str], seed: int
) -> None:
    lines = told(error)
    if error.code != "erased-in-part":
        assert now == before, (seed, error.code)
    for role, line in lines.items():
        if line.startswith("erased since"):
            assert now[role] == "erased", (seed, line)
        elif line.startswith("not erased"):
            # Unless it was before, and nobody could ask it.
            assert now[role] == before[role], (seed, line)
        else:
            assert line.startswith("perhaps erased: "), (seed, line)
