"""How the roles are: with the reason, said once, and never "alive" of what does not run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.app.commands import doctor
from holdfast.app.door import ServiceHealth
from holdfast.app.overview import Gatherer, _profile
from holdfast.console.overview import (
    Overview,
    ProfileLine,
    ServiceLine,
    WorkerLine,
    at_rest,
    service_problems,
)
from holdfast.fleet.model import WorkerSummary
from holdfast.kernel.errors import Corrupt, Denied, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from holdfast.records.model import Freshness


def overview(**changed: Any) -> Overview:
    profile = ProfileLine(
        name="air", title="", publisher="", status="running", records=0, rejects=0, published_at=""
    )
    parts: dict[str, Any] = {
        "status": "ok",
        "version": "0",
        "services": [ServiceLine(name="gateway", status="ok")],
        "profiles": [profile],
        "workers": [WorkerLine(name="drone-1", status="alive", leases=1)],
        "runs": [],
        "reports": [],
    }
    return Overview(**{**parts, **changed})


def test_what_nobody_could_tell_of_a_source_is_not_said() -> None:
    one = SimpleNamespace(
        name="air", title="", publisher="", runnable=True, removed=False, problem=""
    )
    known = _profile(one, None, None, "", {}, known=True)
    assert (known.status, known.records) == ("never run", 0)
    unknown = _profile(one, None, None, "", {}, known=False)
    assert (unknown.status, unknown.records) == ("not known", None)


async def gives(value: Any) -> Any:
    return value


def roles_with(profile: Any, freshness: Any) -> Any:
    """Roles that know of one profile and of nothing else."""
    page = SimpleNamespace(items=[], next=None)
    return SimpleNamespace(
        registry=SimpleNamespace(
            list=lambda *_, **__: gives(SimpleNamespace(items=[profile], next=None)),
            count=lambda _: gives(1),
        ),
        fleet=SimpleNamespace(
            summarise_workers=lambda *_, **__: gives(WorkerSummary(counts={}, workers=[])),
            schedules=lambda _: gives([]),
        ),
        records=SimpleNamespace(runs=lambda *_, **__: gives(page), freshness=freshness),
        reports=SimpleNamespace(list=lambda *_, **__: gives(page)),
    )


async def test_why_a_role_is_unwell_is_told_to_whoever_sees_the_whole() -> None:
    """The reasons may name anybody's things, or the database."""
    one = SimpleNamespace(
        name="air", title="", publisher="", runnable=True, removed=False, problem=""
    )
    states = {"registry": ("unhealthy", "database: cannot reach postgresql://db.internal")}
    gatherer = Gatherer(roles_with(one, lambda _: gives([])), lambda: gives(states))
    may = frozenset({Permission.SYSTEM_READ})
    for tenant, told in (("newsroom", False), ("default", True)):
        who = Principal(TenantId(tenant), "somebody", PrincipalKind.KEY, may)
        found = await gatherer.overview(who)
        assert [line.status for line in found.services] == ["unhealthy"]
        assert bool(found.services[0].detail) is told
        assert any("db.internal" in problem for problem in found.problems) is told


@pytest.mark.parametrize(
    ("error", "problems", "state"),
    [
        (Unavailable("cannot reach it"), ["whether sources are well is not known: cannot reach it"],
         "not known"),
        (Corrupt("a version is damaged"),
         ["whether sources are well is not known: a version is damaged"], "not known"),
        (Denied("not yours"), [], "not known"),
        (None, [], "succeeded"),
    ],
)  # fmt: skip
async def test_what_nobody_could_judge_is_a_problem_and_what_is_not_theirs_is_none(
    error: Exception | None, problems: list[str], state: str
) -> None:
    one, two = (
        SimpleNamespace(name=name, title="", publisher="", runnable=True, removed=False, problem="")
        for name in ("air", "rain")
    )
    # Its last run is not among the newest of all.
    fresh = Freshness(
        profile="air", publication=1, records=12, published_at=None, succeeded_at=None,
        freshness=None, stale=False, last_status="succeeded",
    )  # fmt: skip

    async def freshness(_: Any) -> Any:
        if error is not None:
            raise error
        return [fresh]

    async def profiles(_: Any, *, limit: int) -> Any:
        return SimpleNamespace(items=[one, two][:limit], next=None)

    async def workers(_: Any, *, limit: int) -> Any:
        drone = SimpleNamespace(name="here", status="alive", leases=0)
        return SimpleNamespace(counts={"alive": 1, "lost": 2}, workers=[drone])

    page = SimpleNamespace(items=[])
    system = SimpleNamespace(
        registry=SimpleNamespace(list=profiles, count=lambda _: gives(5)),
        fleet=SimpleNamespace(summarise_workers=workers, schedules=lambda _: gives([])),
        records=SimpleNamespace(runs=lambda *_, **__: gives(page), freshness=freshness),
        reports=SimpleNamespace(list=lambda *_, **__: gives(page)),
    )
    found = await Gatherer(cast("Any", system), lambda: gives({})).overview(operator())
    assert found.problems == problems
    assert found.status == ("degraded" if problems else "ok")
    assert [line.name for line in found.profiles] == ["air", "rain"]
    assert [line.name for line in found.workers] == ["here"]
    assert (found.more_profiles, found.more_workers, found.more_problems) == (3, 2, 0)
    assert found.total_records == (12 if error is None else None)
    assert found.profiles[0].status == state


def test_what_was_read_at_rest_does_not_say_that_it_lives() -> None:
    found = at_rest(overview(problems=["rain: silent"]), "./data")
    assert found.status == "stopped"
    assert [one.status for one in found.services] == ["stopped"]
    assert [one.status for one in found.workers] == ["unheard"]
    assert [one.status for one in found.profiles] == ["interrupted"]
    assert found.problems == [
        "nothing runs on ./data: this is read from the data directory",
        "rain: silent",
    ]


def test_trouble_that_roles_share_is_said_once_and_with_its_reason() -> None:
    lines = [
        ServiceLine(name="gateway", status="ok"),
        ServiceLine(name="ledger", status="unhealthy", detail="disk: full"),
        ServiceLine(name="registry", status="unhealthy", detail="disk: full"),
        ServiceLine(name="reporter", status="unreachable"),
    ]
    assert service_problems(lines) == [
        "ledger, registry are unhealthy: disk: full",
        "reporter is unreachable",
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, ("ok", "")),
        ("degraded", ("degraded", "relay: events wait for the ledger, or it refused some")),
        (Unavailable("cannot write: full"), ("unhealthy", "relay: cannot write: full")),
    ],
)
async def test_a_role_that_is_not_well_says_which_check_and_why(answer: Any, told: Any) -> None:
    async def check() -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return cast("str | None", answer)

    system = SimpleNamespace(checks={"relay": check}, roles=frozenset({"ledger"}))
    health = ServiceHealth(cast("Any", system), {}, cast("Any", None))
    assert await health.told() == {"ledger": told}
    assert await health.states() == {"ledger": told[0]}


async def test_what_fails_outweighs_what_is_merely_degraded() -> None:
    async def degraded() -> str | None:
        return "degraded"

    async def failing() -> str | None:
        raise Unavailable("cannot write: full")

    checks = {"disk": degraded, "data_dir": failing}
    system = SimpleNamespace(checks=checks, roles=frozenset({"ledger"}))
    health = ServiceHealth(cast("Any", system), {}, cast("Any", None))
    state, told = (await health.told())["ledger"]
    assert (state, told.split("; ")[0]) == ("unhealthy", "data_dir: cannot write: full")
    assert "disk: " in told


async def test_what_is_degraded_does_not_hide_what_else_is() -> None:
    async def degraded() -> str | None:
        return "degraded"

    checks = {"relay": degraded, "access": degraded}
    system = SimpleNamespace(checks=checks, roles=frozenset({"ledger"}))
    state, told = (await ServiceHealth(cast("Any", system), {}, cast("Any", None)).told())["ledger"]
    assert state == "degraded"
    assert told.startswith("relay: ")
    assert "; access: access is as it was at a backup and not yet confirmed" in told


def test_a_full_volume_is_called_full_wherever_it_lies(tmp_path: Any) -> None:
    full = doctor._room(tmp_path, "tmpfs", 4096)
    assert (full.outcome, "is full: 4,096 bytes" in full.detail) == ("fail", True)
    gone = doctor._room(tmp_path, "tmpfs", 2**40)
    assert (gone.outcome, "does not persist" in gone.detail) == ("fail", True)
    assert doctor._room(tmp_path, "ext4", 2**40).outcome == "pass"
    assert doctor._room(tmp_path, "ext4", 2**21).outcome == "warn"
