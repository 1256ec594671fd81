"""kill -9 in runs of many pages: the records are right, and a kill costs one page at most.

A process per role, on SQLite and on PostgreSQL. The pages are counted where they are served. In
each round the sources say something else, two drones collect them, and seeded victims die at seeded
requests: while a page is fetched, sent on, committed, published. What was hit, by phase and by
victim, and what it cost is printed; ``HOLDFAST_TEST_SEED`` repeats a choice.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.support.killing import Killer
from tests.support.postgres import PostgresServer
from tests.support.soaking import scale
from tests.support.stack import Stack, running, sources
from tests.support.wire import PHASES, wire

pytestmark = pytest.mark.timeout(1200 * scale())

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
KILLS = {"sqlite": 25, "postgresql": 25}
"""In ``make test``: fifty; ``make soak`` multiplies."""
KILLS_OF_A_ROUND = 3
"""A task has four attempts."""
PAGES, ROWS, VERSIONS = 9, 150, 3
LEASE = {"HOLDFAST_FLEET_LEASE_SECONDS": "3", "HOLDFAST_FLEET_LOST_SECONDS": "4"}
LOST = {"lease-expired", "worker-lost"}
"""How an attempt ends whose drone was killed; or, on a machine that stood still, was not."""
DRONES, ROUNDS_OF_A_STANDSTILL = 2, 10
"""A machine that stands still for a lease takes an attempt from each drone: once in so many rounds
(and once in fewer) that is the machine, more often it is the program."""
ORIGIN = "https://pages.example.org"
VICTIMS = ("drone-1", "drone-2", "aggregator", "coordinator")

PAGINATIONS: dict[str, dict[str, Any]] = {
    "numbered": {"type": "page", "total_records": "$.total", "number": "$.page"},
    "linked": {"type": "link"},
}


@dataclass
class Shelf:
    """Two sources of many pages, in three versions; every page differs from version to version."""

    directory: Path

    @property
    def profiles(self) -> Path:
        return self.directory / "profiles"

    @property
    def files(self) -> Path:
        return self.directory / "files"

    def prepare(self) -> None:
        self.profiles.mkdir(parents=True)
        self.files.mkdir()
        for name, pagination in PAGINATIONS.items():
            query = "?page=1" if pagination["type"] == "link" else ""
            profile = {
                "version": 1,
                "name": name,
                "publisher": "p",
                "licence": "l",
                "source": {
                    "url": f"{ORIGIN}/{name}.json{query}",
                    "format": {"type": "json", "records": "$.rows[*]"},
                    "pagination": pagination,
                },
                "key": ["dimensions.id"],
                "dimensions": {"id": "$.id"},
                "measures": {"v": "$.v"},
                "expect": {"drift": "report"},
            }
            (self.profiles / f"{name}.yaml").write_text(yaml.safe_dump(profile))
        self.become(0)

    def become(self, version: int) -> None:
        for name in PAGINATIONS:
            for page in range(1, PAGES + 1):
                rows = [
                    {"id": f"{page}-{row}", "v": row + (version if row % 7 == 0 else 0)}
                    for row in range(ROWS)
                    if row % 50 != version  # some rows go and come back
                ]
                total = PAGES * len(rows)
                said = {"page": page, "total": total, "version": version, "rows": rows}
                temporary = self.directory / "draft"
                temporary.write_text(json.dumps(said))
                temporary.replace(self.files / f"{name}_page{page}.json")


@dataclass
class Killing:
    """One stack, its source, what is done to it, and what that cost."""

    stack: Stack
    shelf: Shelf
    source: httpx.Client
    killer: Killer
    published: dict[int, list[Any]] = field(default_factory=dict)
    rounds: int = 0
    refetched: int = 0
    spared: int = 0
    """Attempts lost although nobody had killed their drone."""
    again: int = 0

    def undisturbed(self) -> None:
        """What each version publishes when nobody interferes; each page is sent once."""
        for version in range(VERSIONS):
            promised = self._begin(version)
            self.stack.settle()
            sent = self._sent()
            assert len(sent) == PAGES * len(PAGINATIONS)
            lost = self._lost(promised)
            self._spare(lost)
            assert sent.total() - len(sent) <= lost, "sent twice, and no attempt was lost"
            self.published[version] = self.stack.records()
        assert len({json.dumps(records) for records in self.published.values()}) == VERSIONS

    def round(self) -> None:
        """Collect, kill up to three while that goes on, and look at what came of it."""
        self.rounds += 1
        version = self.rounds % VERSIONS
        promised = self._begin(version)
        before, drones = self.killer.kills, self.killer.struck["drone"]
        while self.killer.kills - before < KILLS_OF_A_ROUND and self.killer.killed():
            self.stack.start()
        anew = self._settle(promised)
        kills = self.killer.kills - before
        excess = sum(
            count - 1
            for target, count in self._sent().items()
            if not any(f"/{name}." in target for name in anew)
        )
        self.refetched += excess
        # A drone has one run at a time: what was lost beyond the kills is the machine's doing, and
        # costs no more than a kill does. Profiles whose pages do not count excuse none either.
        killed = self.killer.struck["drone"] - drones
        counted = {name: task for name, task in promised.items() if name not in anew}
        spared = max(0, self._lost(counted) - killed)
        self._spare(spared)
        cost = f"round {self.rounds}: {kills} kills and {spared} lost attempts cost {excess} pages"
        assert excess <= kills + spared, cost
        assert self.stack.records() == self.published[version], f"round {self.rounds}"

    def _spare(self, attempts: int) -> None:
        """Count what the machine lost by itself, up to what a machine may be blamed for."""
        self.spared += attempts
        bound = DRONES * max(1, self.rounds // ROUNDS_OF_A_STANDSTILL)
        assert self.spared <= bound, f"{self.spared} attempts lost that nobody killed"

    def _lost(self, promised: dict[str, str]) -> int:
        tasks = [self.stack.door.get(f"/v1/tasks/{task}") for task in promised.values()]
        return sum(each["code"] in LOST for task in tasks for each in task["history"])

    def _settle(self, promised: dict[str, str]) -> set[str]:
        """Every task ends; what truthfully used up its attempts is asked for again, and counted.

        The profiles of which that was so: a run of its own fetches every page once more.
        """
        anew: set[str] = set()
        for _ in range(3):
            self.stack.settle(120)
            ended = {t["id"]: t["status"] for t in self.stack.door.items("/v1/tasks", limit=500)}
            assert set(promised.values()) <= set(ended), "acknowledged and lost"
            dead = tuple(sorted(name for name, task in promised.items() if ended[task] == "dead"))
            assert {ended[task] for task in promised.values()} <= {"succeeded", "dead"}
            if not dead:
                return anew
            anew |= set(dead)
            self.again += len(dead)
            promised = self.stack.collect_all(dead)
        raise AssertionError("some profiles are never collected")

    def _begin(self, version: int) -> dict[str, str]:
        self.shelf.become(version)
        assert self.source.delete("/__requests").status_code == 204
        return self.stack.collect_all()

    def _sent(self) -> Counter[str]:
        """How often the source began to send each page."""
        seen = self.source.get("/__requests?all").json()["requests"]
        return Counter(each["target"] for each in seen if each["status"] == 200)


def occurrence_max(phase: str) -> int:
    """A page is fetched and sent on by itself; batches and runs are few."""
    return PAGES if phase in ("spool", "post") else 2


@contextmanager
def told(case: str, done: Killing) -> Iterator[None]:
    """What was hit and what it cost is printed, however it ends."""
    try:
        yield
    finally:
        print(
            f"\n{case}: seed {SEED}, {done.killer.kills} kills in {done.rounds} rounds of "
            f"{PAGES * len(PAGINATIONS)} pages; {done.killer.told()}; "
            f"{done.refetched} pages sent twice; {done.again} asked for again; "
            f"{done.spared} attempts lost without a kill"
        )


@pytest.mark.soak
@pytest.mark.parametrize("database", sorted(KILLS))
def test_a_kill_costs_one_page_at_most(
    database: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    shelf.prepare()
    stack = Stack(
        tmp_path, "split", tmp_path / "replay.json", shelf.profiles,
        drones=DRONES, environment=LEASE,
    )  # fmt: skip
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        server.execute("CREATE DATABASE kill_pages")
        stack.databases = lambda role: "" if role == "gateway" else server.dsn("kill_pages")
    with sources(shelf.directory, shelf.files) as (url, _), wire() as line:
        slow = line.way("source", urlsplit(url).port or 0)
        stack.replay.write_text(json.dumps({ORIGIN: slow}))
        stack.doors = {
            name: line.way(name, stack.port(stack.door_name)) for name in stack.drone_names
        }
        with running(stack), httpx.Client(base_url=url) as source:
            chance = random.Random(f"{SEED}-{database}")
            killer = Killer(stack, line, chance, VICTIMS, occurrence_max)
            done = Killing(stack, shelf, source, killer)
            with told(f"split-{database}", done):
                done.undisturbed()
                while killer.kills < KILLS[database] * scale():
                    done.round()
            runs = list(stack.door.items("/v1/runs", limit=500))
            orphans = stack.orphans()
    print(f"{len(runs)} runs")
    assert orphans == []
    assert set(killer.hit) == set(PHASES)
    assert {run["status"] for run in runs} <= {"succeeded", "failed"}
    assert sum(run["status"] == "failed" for run in runs) <= done.again
