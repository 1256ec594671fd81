"""kill -9 of the served ledger while 64 clients append: what was acknowledged is there, once.

Also a history of the real server, held to be linearizable. Moments come from a seed;
``HOLDFAST_TEST_SEED`` repeats a choice.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from holdfast.kernel.ids import uuid7
from tests.support.program import Program, run_command, start
from tests.support.soaking import scale

pytestmark = [
    pytest.mark.timeout(900 * scale()),
    pytest.mark.soak,
]

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
CLIENTS = 64
KILLS = 20
QUIET = {"HOLDFAST_LOG_LEVEL": "error"}


def serve(folder: Path) -> Program:
    return start(["serve", "ledger", "--port", "0"], folder, environment=QUIET)


@dataclass
class History:
    """What was sent, and what of it was acknowledged at which position."""

    chance: random.Random
    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def event(self, client: int, number: int) -> dict[str, object]:
        id_ = uuid7(1_790_000_000_000 + len(self.sent), self.chance.randbytes(10))
        self.sent[id_] = f"clients/{client}"
        return {
            "id": id_,
            "stream": self.sent[id_],
            "type": "client.counted",
            "payload": {"client": client, "number": number},
        }


async def append_until_killed(program: Program, history: History, kill_after: float) -> None:
    """All clients append, batches of one to three, until the program is dead."""
    headers = {"Authorization": f"Bearer {program.token}"}
    limits = httpx.Limits(max_connections=CLIENTS)
    began = asyncio.Event()

    async def client(name: int, http: httpx.AsyncClient) -> None:
        number = 0
        while True:
            size = history.chance.randint(1, 3)
            events = [history.event(name, number + n) for n in range(size)]
            number += size
            try:
                answer = await http.post("/v1/ledger/events", json={"events": events})
            except httpx.HTTPError:
                return
            began.set()
            if answer.status_code != 200:
                history.refused[str(answer.status_code)] += 1
                continue
            for placed in answer.json()["events"]:
                history.acknowledged[placed["id"]] = placed["position"]

    async def killer() -> None:
        await began.wait()
        await asyncio.sleep(kill_after)
        program.process.kill()

    async with httpx.AsyncClient(
        base_url=program.url, headers=headers, timeout=60, limits=limits, trust_env=False
    ) as http:
        await asyncio.gather(killer(), *(client(name, http) for name in range(CLIENTS)))
    program.process.wait(timeout=60)
    program.close()


def everything(program: Program) -> list[dict[str, object]]:
    return list(program.items("/v1/ledger/entries", limit=1000))


def test_what_was_acknowledged_is_there_once_after_every_kill(tmp_path: Path) -> None:
    history = History(random.Random(SEED))
    folder = tmp_path / "data"
    kills = KILLS * scale()
    program = serve(folder)
    for _ in range(kills):
        asyncio.run(append_until_killed(program, history, history.chance.uniform(0.0, 0.25)))
        program = serve(folder)
    try:
        found = everything(program)
        places = Counter(entry["id"] for entry in found)
        assert [entry["position"] for entry in found] == list(range(len(found)))
        assert not [id_ for id_, times in places.items() if times > 1]
        at = {entry["id"]: entry["position"] for entry in found}
        lost = {id_: p for id_, p in history.acknowledged.items() if at.get(id_) != p}
        assert not lost
        assert set(at) <= set(history.sent) | {
            e["id"] for e in found if e["type"] != "client.counted"
        }
        versions: Counter[object] = Counter()
        for entry in found:
            versions[entry["stream"]] += 1
            assert entry["version"] == versions[entry["stream"]]
        verdict = run_command("ledger", "verify", "--json", "--data-dir", str(folder))
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr
        print(
            f"{kills} kills, {len(history.sent)} events sent, "
            f"{len(history.acknowledged)} acknowledged, {len(found)} found, refused "
            f"{dict(history.refused)}"
        )
    finally:
        program.kill()


@dataclass(frozen=True)
class Operation:
    """One call: when it was begun and answered, and the version it saw or made."""

    began: float
    ended: float
    version: int
    wrote: bool


def offences(history: list[Operation]) -> list[tuple[Operation, Operation]]:
    """Pairs whose order in real time contradicts the order of the versions they saw.

    The states of one stream are its versions, in a row; an operation sees one, a successful append
    makes one. Such a history is linearizable exactly if no operation that began after another had
    ended saw less than it, or made what it had seen already.
    """
    found = []
    by_end = sorted(history, key=lambda op: op.ended)
    for later in history:
        for earlier in by_end:
            if earlier.ended >= later.began:
                break
            if later.version < earlier.version or (
                later.wrote and later.version == earlier.version
            ):
                found.append((earlier, later))
    return found


def test_the_checker_sees_what_is_not_linearizable() -> None:
    sound = [Operation(0, 1, 1, True), Operation(2, 3, 1, False), Operation(2, 4, 2, True)]
    assert not offences(sound)
    assert offences([*sound, Operation(5, 6, 1, False)])
    assert offences([*sound, Operation(5, 6, 2, True)])


def test_histories_of_the_served_ledger_are_linearizable(tmp_path: Path) -> None:
    program = serve(tmp_path / "data")
    history: list[Operation] = []
    chance = random.Random(SEED + 1)
    wins: Counter[int] = Counter()

    async def writer(http: httpx.AsyncClient, turns: int) -> None:
        known = 0
        for _ in range(turns):
            event = {
                "id": uuid7(1_795_000_000_000, chance.randbytes(10)),
                "stream": "contended/one",
                "type": "turn.taken",
                "payload": {},
            }
            began = time.monotonic()
            answer = await http.post(
                "/v1/ledger/events",
                json={"events": [event], "expected": {"contended/one": known}},
            )
            ended = time.monotonic()
            if answer.status_code == 200:
                known = answer.json()["events"][0]["version"]
                wins[known] += 1
                history.append(Operation(began, ended, known, True))
            else:
                assert answer.status_code == 409, answer.text
                known = int(answer.json()["detail"].split("at version ")[1].split(",")[0])
                history.append(Operation(began, ended, known, False))

    async def reader(http: httpx.AsyncClient, turns: int) -> None:
        for _ in range(turns):
            began = time.monotonic()
            answer = await http.get("/v1/ledger/streams", params={"prefix": "contended/"})
            items = answer.json()["items"]
            seen = items[0]["version"] if items else 0
            history.append(Operation(began, time.monotonic(), seen, False))

    async def body() -> None:
        headers = {"Authorization": f"Bearer {program.token}"}
        async with httpx.AsyncClient(
            base_url=program.url, headers=headers, timeout=30, trust_env=False
        ) as http:
            turns = 25 * scale()
            await asyncio.gather(
                *(writer(http, turns) for _ in range(16)), *(reader(http, turns) for _ in range(4))
            )

    try:
        asyncio.run(body())
        assert not offences(history)
        assert set(wins.values()) == {1}, "one append makes each version"
        assert sorted(wins) == list(range(1, len(wins) + 1))
        print(f"{len(history)} operations, {len(wins)} versions")
    finally:
        program.kill()
