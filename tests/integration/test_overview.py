"""The front page of a large system: a part of what there is, and how much more.

A whole system on one SQLite file, opened as ``up`` opens it, with more sources and drones than a
page shows. What is asked for a view does not grow with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from holdfast.app.compose import open_system
from holdfast.app.elsewhere import OfTenant
from holdfast.app.overview import PROFILES_SHOWN, WORKERS_SHOWN, Gatherer
from holdfast.app.settings import ROLES, resolve
from holdfast.console.overview import nothing
from holdfast.fleet import worker_store
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Permission, Principal, operator
from holdfast.registry.document import write_document
from tests.unit.registry.profiles import GOOD

ME = operator()
PROFILES, ALIVE, LOST = PROFILES_SHOWN + 7, WORKERS_SHOWN - 1, 9


def add_workers(conn: Connection) -> None:
    """Those that fell silent come first by name."""
    names = [(f"a-{number:05}", "lost") for number in range(LOST)]
    names += [(f"b-{number:05}", "alive") for number in range(ALIVE)]
    for name, status in names:
        worker_store.keep_worker(
            conn,
            {
                "tenant": ME.tenant, "id": name, "name": name, "status": status,
                "capabilities": "[]", "labels": "{}", "region": "", "capacity": 1, "version": "",
                "secret": b"", "pepper": 1, "join_token": "", "registered_at": "",
                "last_beat_at": "", "signing_key": "", "registration": "", "proved": 0,
            },
        )  # fmt: skip


@dataclass
class Counted:
    """A role, with how often it was asked."""

    role: Any
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.role, name)


async def states() -> dict[str, tuple[str, str]]:
    return {}


async def test_of_many_sources_and_drones_a_part_is_shown_and_how_many_more(
    tmp_path: Path,
) -> None:
    settings = resolve({}, {"data_dir": str(tmp_path / "data"), "log_level": "error"})
    async with open_system(settings, ROLES) as system:
        for number in range(PROFILES):
            document = write_document(GOOD | {"name": f"p-{number:05}"})
            await system.registry.publish(ME, document.encode())
        assert system.state is not None
        await system.state.database.write(ME, add_workers)

        registry = system.registry = Counted(system.registry)
        fleet = system.fleet = Counted(system.fleet)
        found = await Gatherer(system, states).overview(ME)
        assert sorted(registry.calls) == ["count", "list"]
        assert sorted(fleet.calls) == ["schedules", "summarise_workers"]
        system.registry, system.fleet = registry.role, fleet.role

        assert [each.name for each in found.profiles] == [
            f"p-{number:05}" for number in range(PROFILES_SHOWN)
        ]
        assert (found.total_profiles, found.more_profiles) == (PROFILES, 7)
        shown = [each.status for each in found.workers]
        assert shown == ["alive"] * ALIVE + ["lost"] * (WORKERS_SHOWN - ALIVE)
        assert (found.total_workers, found.more_workers) == (ALIVE + LOST, LOST - 1)
        assert found.total_records == 0

        token = (settings.data_dir / "operator.token").read_text(encoding="ascii").strip()
        assert system.app is not None
        transport = httpx.ASGITransport(app=system.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/", headers={"authorization": f"Bearer {token}"})
        page = " ".join(answer.text.split())
        assert "and 7 more" in page
        assert f"and {LOST - 1} more drones" in page
        assert f"from {PROFILES} sources" in page
        assert "holdfast profile list" in page


async def test_what_somebody_may_not_see_is_withheld_and_said(tmp_path: Path) -> None:
    settings = resolve({}, {"data_dir": str(tmp_path / "data"), "log_level": "error"})
    async with open_system(settings, ROLES) as system:
        await system.registry.publish(ME, write_document(GOOD).encode())
        assert system.state is not None
        await system.state.database.write(ME, add_workers)
        gatherer = Gatherer(system, states)

        watching = replace(ME, permissions=frozenset({Permission.SYSTEM_READ}))
        found = await gatherer.overview(watching)
        assert (found.profiles, found.workers, found.runs, found.reports) == ([], [], [], [])
        assert found.total_records is found.total_profiles is found.total_workers is None
        everything = ["drones", "profiles", "records", "reports", "runs", "schedules"]
        assert (found.withheld, found.problems) == (everything, [])
        assert nothing(found, "coordinator", "no drones") == "drones are not yours to see"

        reading = replace(watching, permissions=watching.permissions | {Permission.PROFILES_READ})
        found = await gatherer.overview(reading)
        assert [each.name for each in found.profiles] == [GOOD["name"]]
        assert found.withheld == [each for each in everything if each != "profiles"]


async def test_a_role_elsewhere_is_asked_in_the_tenant_of_whom_it_is_asked_for() -> None:
    asked: list[tuple[str, str, object]] = []

    class Client:
        def __init__(self, of: str) -> None:
            self.of = of

        def count(self, principal: object) -> None:
            asked.append((self.of, "count", principal))

        def find_worker_holder(self, credential: object) -> None:
            asked.append((self.of, "find_worker_holder", credential))

    class Clients:
        def of(self, principal: Principal) -> Client:
            return Client(principal.tenant)

    role: Any = OfTenant(Clients(), Client("this process"))  # type: ignore[arg-type]
    theirs = replace(ME, tenant=TenantId("theirs"))
    role.count(theirs)
    role.find_worker_holder("whose is not known yet")
    assert asked == [
        ("theirs", "count", theirs),
        ("this process", "find_worker_holder", "whose is not known yet"),
    ]
    with pytest.raises(TypeError, match="count is asked for nobody"):
        role.count("somebody")
    with pytest.raises(TypeError):
        role.count()
    assert len(asked) == 2
