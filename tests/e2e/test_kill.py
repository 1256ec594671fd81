"""kill -9 at seeded moments: nothing acknowledged is lost, nothing doubled, nobody left behind.

The moments are chosen on the wire: a drone fetches (*spool*), sends the raw bytes (*post*), sends a
batch (*commit*), ends its run (*publish*); and a seeded victim dies just before such a request is
passed on, right after, some milliseconds later, or with the first bytes of the answer. The sources
change from round to round, so each round has something to stage and to publish. What was hit is
counted and printed; ``HOLDFAST_TEST_SEED`` repeats a choice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from tests.support.killing import Killer
from tests.support.postgres import PostgresServer
from tests.support.program import start, wait_until
from tests.support.soaking import scale
from tests.support.stack import (
    QUICK,
    SAMPLE,
    Publication,
    Revision,
    Stack,
    running,
    sources,
)
from tests.support.wire import PHASES, wire

# A mark is stronger than --timeout, so it must grow with the soak by itself.
pytestmark = pytest.mark.timeout(1200 * scale())

USED = {
    "faa-birdstrikes": "faa_birdstrikes.csv",
    "nasa-global-temp-annual": "nasa_global_temp_annual.csv",
    "noaa-two-cities-weather-daily": "noaa_weather_two_cities_daily.csv",
    "scripps-co2-monthly": "scripps_co2_monthly.csv",
    "usgs-earthquakes-week": "usgs_earthquakes_week.geojson",
}
LINES_MAX = 1501
EVENTS_MAX = 800
VERSIONS = 3
KILLS = {"up-sqlite": 14, "up-postgresql": 12, "split-sqlite": 12, "split-postgresql": 12}
"""Kills in ``make test``: fifty; ``make soak`` multiplies."""
SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261120"))
FASTER = {"HOLDFAST_FLEET_LEASE_SECONDS": "2", "HOLDFAST_FLEET_LOST_SECONDS": "3"}


@dataclass
class Changing:
    """Recorded sources that say something else in each version, and what is published of each."""

    directory: Path
    url: str = ""
    replay: Path = Path()
    published: dict[int, list[tuple[str, str, str]]] = field(default_factory=dict)
    """Version → the records of a stack that nobody disturbed."""
    detours: list[Any] = field(default_factory=list)
    """Records, histories and publications of that stack after a detour: see the fixture."""

    @property
    def profiles(self) -> Path:
        """The sample's profiles without their expectations: the files are shorter."""
        return self.directory / "profiles"

    def prepare(self) -> None:
        self.profiles.mkdir()
        for name in USED:
            text = SAMPLE.joinpath("profiles", f"{name}.yaml").read_text(encoding="utf-8")
            profile = yaml.safe_load(text)
            del profile["expect"]
            (self.profiles / f"{name}.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
        shutil.copy(str(SAMPLE.joinpath("data", "MANIFEST.yaml")), self.files())
        self.become(0)

    def history(self, rounds: int) -> History:
        """The history of ``rounds`` rounds when nothing goes wrong: a fold over the versions."""
        history = History(publications={name: [] for name in USED})
        for number in range(1, rounds + 1):
            history.publish(self.published[number % VERSIONS])
        return history

    def files(self) -> Path:
        folder = self.directory / "files"
        folder.mkdir(exist_ok=True)
        return folder

    def become(self, version: int) -> None:
        """Rows go and come back, values change and change back."""
        for name in USED.values():
            original = SAMPLE.joinpath("data", name).read_bytes()
            changed = _events(original, version) if "geojson" in name else _rows(original, version)
            temporary = self.directory / name
            temporary.write_bytes(changed)
            temporary.replace(self.files() / name)


@dataclass
class History:
    """Every revision of every (profile, key), and every publication, in their order."""

    revisions: dict[tuple[str, str], list[Revision]] = field(default_factory=dict)
    publications: dict[str, list[Publication]] = field(default_factory=dict)

    def publish(self, records: list[tuple[str, str, str]]) -> None:
        """A complete collection of all sources found exactly these."""
        for profile, made in self.publications.items():
            now = {key: content for name, key, content in records if name == profile}
            before = {key[1]: revs for key, revs in self.revisions.items() if key[0] == profile}
            live = {key: revs[-1][3] for key, revs in before.items() if not revs[-1][2]}
            gone = sorted(set(live) - set(now))
            changed = sorted(key for key in live if now.get(key, live[key]) != live[key])
            new = sorted(set(now) - set(live))
            if not (gone or changed or new):
                continue
            head = len(made) + 1
            for key in (*gone, *changed, *new):
                revs = self.revisions.setdefault((profile, key), [])
                withdrawn = key not in now
                revs.append((head, len(revs) + 1, withdrawn, now.get(key, live.get(key, ""))))
            same = len(now) - len(new) - len(changed)
            made.append((head, len(now), len(new), len(changed), len(gone), same))

    def check(self, stack: Stack) -> None:
        """The stack tells the same history, and never a longer one with the same end."""
        assert stack.publications() == self.publications
        told = stack.histories()
        other = {
            key for key in told.keys() | self.revisions if told.get(key) != self.revisions.get(key)
        }
        assert not other, [
            (key, told.get(key), self.revisions.get(key)) for key in sorted(other)[:3]
        ]


def _rows(data: bytes, version: int) -> bytes:
    head, *rows = data.splitlines(keepends=True)[:LINES_MAX]
    return head + b"".join(rows[version * 20 :])


def _events(data: bytes, version: int) -> bytes:
    found = json.loads(data)
    del found["features"][EVENTS_MAX:]
    for number, event in enumerate(found["features"]):
        if version and number % 25 == version:  # each is asked for by itself in the end
            event["properties"]["sig"] += version
    return json.dumps(found).encode()


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    """The sources, and what is published of each version when nobody interferes.

    The undisturbed stack also confirms the fold that tells the histories of longer runs, and then
    takes a detour by another version: the same records again, and another history.
    """
    made = Changing(tmp_path_factory.mktemp("sources"))
    made.prepare()
    with sources(made.directory, made.files()) as (made.url, made.replay):
        folder = tmp_path_factory.mktemp("undisturbed")
        with running(Stack(folder, "up", made.replay, made.profiles)) as stack:

            def collect(version: int) -> None:
                made.become(version)
                stack.collect_all()
                stack.settle()

            for number in range(1, VERSIONS + 2):
                collect(number % VERSIONS)
                before = made.published.setdefault(number % VERSIONS, stack.records())
                assert stack.records() == before
            made.history(VERSIONS + 1).check(stack)
            collect((VERSIONS + 2) % VERSIONS)
            collect((VERSIONS + 1) % VERSIONS)
            made.detours = [stack.records(), stack.histories(), stack.publications()]
        assert len({json.dumps(records) for records in made.published.values()}) == VERSIONS
        yield made


@dataclass
class Killing:
    """One stack, what is done to it, and what came of it."""

    stack: Stack
    changing: Changing
    killer: Killer
    promised: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    again: int = 0

    def round(self, most: int) -> None:
        """Let the sources change, collect, kill while that goes on; the records are right then."""
        self.rounds += 1
        version = self.rounds % VERSIONS
        self.changing.become(version)
        self._collect()
        while self.killer.kills < most and self.killer.killed():
            self.stack.start()
        self._settle()
        assert self.stack.records() == self.changing.published[version], f"round {self.rounds}"
        made = self.changing.history(self.rounds).publications
        assert self.stack.publications() == made, f"round {self.rounds}"

    def _collect(self, names: tuple[str, ...] = ()) -> None:
        for profile, task in self.stack.collect_all(names).items():
            self.promised[task] = profile

    def _settle(self) -> None:
        """Every task ends; what has used up its attempts is asked for again."""
        for _ in range(5):
            self.stack.settle()
            ended = {t["id"]: t["status"] for t in self.stack.door.items("/v1/tasks", limit=500)}
            lost = set(self.promised) - set(ended)
            assert not lost, f"acknowledged and lost: {lost}"
            dead = {self.promised[task] for task in self.promised if ended[task] != "succeeded"}
            self.promised.clear()
            if not dead:
                return
            self.again += len(dead)
            self._collect(tuple(sorted(dead)))
        raise AssertionError("some profiles are never collected")


@contextmanager
def told(case: str, done: Killing) -> Iterator[None]:
    """What was hit is printed, however it ends."""
    try:
        yield
    finally:
        print(
            f"\n{case}: seed {SEED}, {done.killer.kills} kills in {done.rounds} rounds; "
            f"{done.killer.told()}; {done.again} asked for again"
        )


@pytest.mark.soak
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("layout", ["up", "split"])
def test_killed_at_seeded_moments_it_ends_with_the_same_records_and_history(
    layout: Any,
    database: str,
    changing: Changing,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    case = f"{layout}-{database}"
    stack = Stack(tmp_path, layout, tmp_path / "replay.json", changing.profiles, environment=FASTER)
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        server.execute(f"CREATE DATABASE kill_{layout}")
        url = server.dsn(f"kill_{layout}")
        stack.databases = lambda role: "" if role == "gateway" else url
    with wire() as line:
        slow = line.way("source", urlsplit(changing.url).port or 0)
        stack.replay.write_text(changing.replay.read_text().replace(changing.url, slow))
        stack.doors = {
            name: line.way(name, stack.port(stack.door_name)) for name in stack.drone_names
        }
        programs = [*stack.served, *(("up",) if layout == "up" else ())]
        victims = programs + stack.drone_names
        chance = random.Random(f"{SEED}-{case}")
        killer = Killer(stack, line, chance, victims, lambda phase: 2)
        done = Killing(stack, changing, killer)
        with told(case, done), running(stack):
            while killer.kills < KILLS[case] * scale():
                done.round(KILLS[case] * scale())
            changing.history(done.rounds).check(stack)
            runs = list(stack.door.items("/v1/runs", limit=500))
            orphans = stack.orphans()
            wait_until(lambda: not list(tmp_path.glob("drone-*/spool/*/fetch-*")), what="the spool")
    print(f"{len(runs)} runs")
    assert orphans == []
    assert set(killer.hit) == set(PHASES)
    assert {run["status"] for run in runs} <= {"succeeded", "unchanged", "failed"}
    # A run fails where its task has lost every attempt to kills: four of them, for whatever the
    # killed drone had in hand. More than one for each kill was not the kills' work.
    assert sum(run["status"] == "failed" for run in runs) <= done.again <= killer.kills


def test_a_detour_shows_in_the_history_and_not_in_the_records(changing: Changing) -> None:
    """What the comparison above would miss if it looked at the final records alone."""
    records, histories, publications = changing.detours
    straight = changing.history(VERSIONS + 1)
    assert records == changing.published[(VERSIONS + 1) % VERSIONS]
    assert histories != straight.revisions
    assert publications != straight.publications


def test_killed_with_its_own_drones_it_leaves_none_behind(
    changing: Changing, tmp_path: Path
) -> None:
    environment = QUICK | {
        "HOLDFAST_COLLECT_REPLAY_FILE": str(changing.replay),
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(changing.profiles),
    }
    program = start(
        ["up", "--drones", "2", "--port", "0"], tmp_path / "data", environment=environment
    )
    me = psutil.Process(program.process.pid)
    try:
        wait_until(lambda: len(me.children()) >= 2, what="two drones")
        children = me.children(recursive=True)
    finally:
        program.kill()
    assert len(children) >= 2
    assert [child for child in children if child.is_running()] == []
