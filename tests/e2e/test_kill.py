"""kill -9 at seeded moments: nothing acknowledged is lost, nothing doubled, nobody left behind.

The moments are chosen by what the system is seen to be doing: a drone has bytes in its spool
(*spool*), a run has raw responses and no batch (*post*), batches are staged (*commit*), some runs
have been published and others not (*publish*). What was hit is counted and printed.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import PostgresServer
from tests.support.stack import SAMPLE, Stack, pause, running, scale, sources

PROFILES = Path(str(SAMPLE.joinpath("profiles")))
PHASES = ("spool", "post", "commit", "publish")
KILLS = {"up-sqlite": 14, "up-postgresql": 12, "split-sqlite": 12, "split-postgresql": 12}
"""Kills in ``make test``: fifty; ``make soak`` multiplies."""


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recorded sources, slowly enough that a kill can fall into a fetch."""
    with sources(tmp_path_factory.mktemp("sources"), None, "delay@*,seconds=0.05") as (_, to):
        yield to


@pytest.fixture(scope="module")
def undisturbed(replay: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What is published when nobody interferes."""
    stack = Stack(tmp_path_factory.mktemp("undisturbed"), "up", replay, PROFILES)
    with running(stack):
        stack.collect_all()
        stack.settle()
        return stack.records()


def phase(stack: Stack) -> str:
    """What the system is seen to be doing now, as a client and a look into the spool tell."""
    try:
        runs = list(stack.door.items("/v1/runs"))
    except (httpx.HTTPError, AssertionError, KeyError):
        return ""
    working = [run for run in runs if run["status"] == "running"]
    if any(run["batches"] for run in working):
        return "commit"
    if working and any(run["status"] in ("succeeded", "unchanged") for run in runs):
        return "publish"
    if any(run["pages"] or run["bytes_fetched"] for run in working):
        return "post"
    spooled = any(p.is_file() for p in stack.directory.rglob("spool/**/*") if p.suffix != ".json")
    return "spool" if spooled or working else ""


def await_phase(stack: Stack, wanted: str, seconds: float = 4.0) -> str:
    """Wait for the phase, not for ever: a fast system may have passed it."""
    deadline = time.monotonic() + seconds
    seen = ""
    while time.monotonic() < deadline:
        seen = phase(stack) or seen
        if seen == wanted:
            return seen
    return seen or "idle"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("layout", ["up", "split"])
def test_killed_at_seeded_moments_it_ends_with_the_same_records(
    layout: Any,
    database: str,
    replay: Path,
    undisturbed: list[Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    case = f"{layout}-{database}"
    seed = int(os.environ.get("HOLDFAST_TEST_SEED", "20261120"))
    chance = random.Random(f"{seed}-{case}")
    stack = Stack(tmp_path, layout, replay, PROFILES)
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        server.execute(f"CREATE DATABASE kill_{layout}")
        url = server.dsn(f"kill_{layout}")
        stack.databases = lambda role: "" if role == "gateway" else url
    hit: Counter[str] = Counter()
    with running(stack):
        kills = KILLS[case] * scale()
        while sum(hit.values()) < kills:
            stack.collect_all()
            for _ in range(2):
                wanted = PHASES[sum(hit.values()) % len(PHASES)]
                seen = await_phase(stack, wanted)
                pause(chance.uniform(0, 0.03))
                victim = chance.choice(stack.parts)
                stack.kill(victim)
                hit[seen] += 1
                stack.start()
            stack.settle()
        stack.collect_all()
        stack.settle()
        found = stack.records()
        runs = list(stack.door.items("/v1/runs"))
    print(f"{case}: seed {seed}, {kills} kills by phase: {dict(hit)}; {len(runs)} runs")
    assert found == undisturbed
    assert {run["status"] for run in runs} <= {"succeeded", "unchanged", "failed"}
