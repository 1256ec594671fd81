"""What a publisher is spared by the whole fleet: counted by the source, on the wire.

Two coordinators on one PostgreSQL, a door before each, two drones at each door.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.postgres import PostgresServer
from tests.support.program import wait_until
from tests.support.stack import Stack, running, sources

pytestmark = pytest.mark.timeout(1200)

SETS, PAGES, ROWS, AHEAD = 6, 8, 5, 4
PLACES, QUOTA = 2, 20


def _write_pages(folder: Path) -> None:
    for name in _names("busy") + _names("spare"):
        for page in range(1, PAGES + 1):
            rows = [{"id": f"p{page}r{row}", "v": row} for row in range(ROWS)]
            content = {"rows": rows, "pages": PAGES, "page": page}
            (folder / f"{name}_page{page}.json").write_text(json.dumps(content))


def _names(kind: str) -> list[str]:
    return [f"{kind}-{number}" for number in range(SETS)]


def _write_profiles(folder: Path) -> None:
    kinds: dict[str, dict[str, int]] = {
        "busy": {"concurrency": AHEAD},
        "spare": {"requests_per_day": QUOTA},
    }
    for kind, limits in kinds.items():
        for name in _names(kind):
            profile = {
                "version": 1,
                "name": name,
                "publisher": "p",
                "licence": "l",
                "source": {
                    "url": f"https://{kind}.example.org/{name}.json",
                    "format": {"type": "json", "records": "$.rows[*]"},
                    "pagination": {"type": "page", "total_pages": "$.pages"},
                },
                "key": ["dimensions.id"],
                "dimensions": {"id": "$.id"},
                "measures": {"v": "$.v"},
                "limits": limits,
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(profile))


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Iterator[tuple[Stack, str]]:
    """The fleet, nothing collected yet, and the address of the source."""
    root = tmp_path_factory.mktemp("manners")
    files, profiles = root / "files", root / "profiles"
    files.mkdir()
    profiles.mkdir()
    _write_pages(files)
    _write_profiles(profiles)
    postgres.execute("CREATE DATABASE manners")
    with sources(root, files, "delay@/*,seconds=0.1") as (url, replay):
        known = {f"https://{kind}.example.org": url for kind in ("busy", "spare")}
        replay.write_text(json.dumps(known))
        stack = Stack(
            root / "stack",
            "split",
            replay,
            profiles,
            databases=lambda role: "" if role == "gateway" else postgres.dsn("manners"),
            drones=4,
            environment={
                "HOLDFAST_FLEET_LEASES_URL": "sql://",
                "HOLDFAST_FLEET_REQUESTS_PER_HOST": str(PLACES),
            },
            more=("coordinator-2", "gateway-2"),
        )
        stack.directory.mkdir()
        second = f"http://127.0.0.1:{stack.port('gateway-2')}"
        stack.doors = {"drone-2": second, "drone-4": second}
        with running(stack):
            wait_until(lambda: len(list(stack.door.items("/v1/workers"))) == 4, what="the drones")
            yield stack, url


def _seen(source: str) -> Any:
    return httpx.get(f"{source}/__requests", trust_env=False).json()


def _shown(stack: Stack, promised: Mapping[str, str]) -> list[Any]:
    """The tasks that were promised, as they are now."""
    return [stack.door.get(f"/v1/tasks/{task}") for task in promised.values()]


def _forget(source: str) -> None:
    httpx.delete(f"{source}/__requests", trust_env=False)


def test_a_host_is_asked_by_so_many_at_once_whatever_dies(fleet: tuple[Stack, str]) -> None:
    """Six runs, each of which would ask four pages at once; a drone is killed on the way."""
    stack, source = fleet
    _forget(source)
    promised = stack.collect_all(_names("busy"))
    wait_until(lambda: _seen(source)["total"] >= SETS, what="the first pages")
    [victim, *_] = [w for w in stack.door.items("/v1/workers") if w["leases"]]
    stack.kill(victim["name"])
    over = lambda: {t["status"] for t in _shown(stack, promised)} == {"succeeded"}  # noqa: E731
    wait_until(over, what="every run to succeed")
    seen = _seen(source)
    assert sum(task["attempts"] == 2 for task in _shown(stack, promised)) <= 1
    for name in promised:
        records = list(stack.door.items("/v1/records", profile=name, limit=1000))
        assert len(records) == PAGES * ROWS
    # As many as were under way in the run that was taken over, to the drone or on from it, may have
    # been asked for twice.
    assert SETS * PAGES <= seen["total"] <= SETS * PAGES + AHEAD
    assert seen["busiest"] == PLACES
    stack.start_drones()


def test_two_coordinators_never_exceed_the_days_quota_together(fleet: tuple[Stack, str]) -> None:
    """Six runs of eight pages share twenty requests: they are made, and not one more.

    The first run is the one door's, the second the other's, so both coordinators grant.
    """
    stack, source = fleet
    begun = datetime.now(UTC).date()
    _forget(source)
    one, two, *others = _names("spare")
    promised = _collected_by(stack, one, ("drone-1", "drone-3"))
    promised |= _collected_by(stack, two, ("drone-2", "drone-4"))
    stack.start_drones()
    promised |= stack.collect_all(others)

    def stopped() -> bool:
        return all(
            task["status"] == "succeeded"
            or (task["status"] == "queued" and task["code"] == "quota")
            for task in _shown(stack, promised)
        )

    wait_until(stopped, what="every run to end or to wait for tomorrow")
    tasks = _shown(stack, promised)
    if datetime.now(UTC).date() == begun:
        assert _seen(source)["total"] == QUOTA
        waiting = [task for task in tasks if task["status"] == "queued"]
        assert waiting
        assert all(task["available_at"] > begun.isoformat() + "T23:59" for task in waiting)
    else:  # midnight came in between: two days' worth at most
        assert _seen(source)["total"] <= 2 * QUOTA


def _collected_by(stack: Stack, profile: str, drones: tuple[str, str]) -> dict[str, str]:
    """Have it collected while only these drones live."""
    stack.start_drones()
    for name in set(stack.drone_names) - set(drones):
        stack.kill(name)
    promised = stack.collect_all([profile])
    [task] = promised.values()
    over = lambda: stack.door.get(f"/v1/tasks/{task}")["status"] == "succeeded"  # noqa: E731
    wait_until(over, what=f"{profile} to be collected")
    run = stack.door.get(f"/v1/tasks/{task}")["payload"]["run"]
    names = {worker["id"]: worker["name"] for worker in stack.door.items("/v1/workers")}
    assert names[stack.door.get(f"/v1/runs/{run}")["worker"]] in drones
    return promised
