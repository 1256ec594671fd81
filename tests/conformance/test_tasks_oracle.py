"""The same seeded operations to the model and to a coordinator on each database.

Done when every operation has both succeeded and failed. A failure names its seed:
``HOLDFAST_TASKS_SEED=n pytest tests/conformance/test_tasks_oracle.py`` replays it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import timedelta
from typing import Literal

import pytest

from holdfast.fleet import tasks
from holdfast.fleet.model import Beat, Claim, Complete, Task, TaskSubmit
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.ids import uuid7
from holdfast.kernel.principal import Principal, service
from tests.support.fleet import OPERATOR, START, Rig, rig
from tests.support.fleet_oracle import (
    ATTEMPTS,
    RELEASES,
    Oracle,
    OracleTask,
    OracleWorker,
)
from tests.support.soaking import scale

OUTCOME_OF: dict[str, Literal["succeeded", "released"]] = {
    "succeeded": "succeeded",
    "released": "released",
}
WORKERS = (
    OracleWorker("plain", frozenset({"collect"}), ""),
    OracleWorker("able", frozenset({"collect", "ocr"}), ""),
    OracleWorker("europe", frozenset({"collect"}), "eu"),
)
STEPS = int(os.environ.get("HOLDFAST_TASKS_STEPS", "500"))
PROVING_SEED = 2
"""The walk from here sees every outcome at least once."""
_CHOSEN = os.environ.get("HOLDFAST_TASKS_SEED", "")
SEEDS = (
    [int(seed) for seed in _CHOSEN.split(",")]
    if _CHOSEN
    else list(range(PROVING_SEED, PROVING_SEED + scale()))
)

OUTCOMES = {
    "submit": {"new", "known", "task-id-reused", "exclusive"},
    "claim": {"some", "none", "unheard", "claim-settled"},
    "complete": {
        "succeeded",
        "queued",
        "dead",
        "stale-fence",
        "task-cancelled",
        "task-not-leased",
        "task-not-found",
    },
    "release": {"queued", "stale-fence"},
    "beat": {"renewed", "lost", "cancelled", "free", "counted", "leaving"},
    "cancel": {"cancelled", "task-finished", "task-not-found"},
    "sweep": {"some", "none"},
}


def task_id(number: int) -> str:
    """Ids whose order is that of the numbers."""
    return uuid7(1_600_000_000_000 + number, number.to_bytes(10, "big"))


class Differential:
    """One seeded walk over the model and a coordinator."""

    def __init__(self, here: Rig, seed: int) -> None:
        self.here = here
        self.chance = random.Random(seed)
        self.oracle = Oracle()
        self.principals: dict[str, Principal] = {}
        self.held: dict[tuple[str, int], int] = {}
        self.fences: list[int] = []
        self.numbers = 0
        self.claims: Counter[str] = Counter()
        self.ends: list[tuple[str, int, int, tuple[str, str]]] = []
        self.seen: Counter[tuple[str, str]] = Counter()

    async def run(self, steps: int) -> None:
        for worker in WORKERS:
            self.principals[worker.name] = await self.here.worker(
                worker.name, capabilities=sorted(worker.capabilities), region=worker.region
            )
        weights = {
            self.submit: 6,
            self.claim: 6,
            self.complete: 7,
            self.beat: 4,
            self.cancel: 2,
            self.advance: 4,
        }
        for _ in range(steps):
            [step] = self.chance.choices(list(weights), weights=list(weights.values()))
            await step()
            await self.compare()

    # --- the operations -----------------------------------------------------------------------

    async def submit(self) -> None:
        again = self.numbers > 0 and self.chance.random() < 0.2
        number = self.chance.randint(1, self.numbers) if again else self.numbers + 1
        self.numbers = max(self.numbers, number)
        now = self.oracle.now
        task = OracleTask(
            number=number,
            needs=frozenset({"ocr"} if self.chance.random() < 0.3 else ()),
            residency=self.chance.choice(["", "", "eu"]),
            priority=self.chance.choice([0, 0, 5]),
            exclusive=self.chance.choice(["", "", "one", "two"]),
            created=now,
            deadline=self.chance.choice([None, None, now + 45]),
        )
        known = self.oracle.tasks.get(number)
        if known is not None and self.chance.random() < 0.5:
            task = OracleTask(
                number=number,
                needs=known.needs,
                residency=known.residency,
                priority=known.priority,
                exclusive=known.exclusive,
                created=now,
                deadline=known.deadline,
            )
        outcome, expected = self.oracle.submit(task)
        submit = TaskSubmit(
            id=task_id(number),
            kind="work",
            capabilities=sorted(task.needs),
            residency=task.residency,
            priority=task.priority,
            exclusive=task.exclusive,
            deadline=None if task.deadline is None else self.moment(task.deadline),
            attempts_max=ATTEMPTS,
        )
        try:
            got: tuple[str, str] = ("task", (await self.here.fleet.submit(OPERATOR, submit)).id)
        except HoldfastError as error:
            got = (error.code, submit.id or "")
        refused = outcome == "task-id-reused"
        assert got == (outcome if refused else "task", task_id(expected))
        self.seen["submit", outcome] += 1

    async def claim(self) -> None:
        worker = self.chance.choice(WORKERS)
        limit = self.chance.randint(1, 3)
        number = self._claim_number(worker.name)
        expected = self.oracle.claim(worker, limit, number)
        principal = self.principals[worker.name]
        wanted = Claim(kinds=["work"], limit=limit, number=number)
        if isinstance(expected, str):
            with pytest.raises(Conflict) as refused:
                await self.here.fleet.claim(principal, wanted)
            assert refused.value.code == expected
            self.seen["claim", expected] += 1
            return
        claimed = await self.here.fleet.claim(principal, wanted)
        assert [(each.task.id, each.task.attempts) for each in claimed] == [
            (task_id(number), attempts) for number, attempts, _ in expected
        ]
        # The model counts fences one by one; a database may leave gaps, never go back.
        assert all(each.task.fence > max(self.fences, default=0) for each in claimed)
        lost = self.chance.random() < 0.3
        for each, (task, _, fence) in zip(claimed, expected, strict=True):
            self.fences.append(each.task.fence)
            assert fence == len(self.fences)
            # An answer that is lost on its way brings a lease that the worker never hears of.
            if not lost:
                self.held[worker.name, task] = fence
        self.seen["claim", ("unheard" if lost else "some") if expected else "none"] += 1

    def _claim_number(self, worker: str) -> int:
        """The next; now and then none, or one that was under way while its worker left."""
        if self.chance.random() < 0.2:
            return 0
        if self.claims[worker] and self.chance.random() < 0.2:
            return self.claims[worker]
        self.claims[worker] += 1
        return self.claims[worker]

    async def complete(self) -> None:
        worker, number, fence, end = self._something_to_end()
        result, reason = end
        complete = Complete(
            fence=self._fence(fence),
            outcome=OUTCOME_OF.get(result, "failed"),
            reason=reason,
            retry=result != "hopeless",
        )
        principal = self.principals[worker]
        try:
            answer = await self.here.fleet.complete(principal, task_id(number), complete)
            got = answer.status.value
        except HoldfastError as error:
            got = error.code
        model_end = (OUTCOME_OF.get(result, "failed"), f"{result} {reason}")
        expected = self.oracle.complete(worker, number, fence, model_end, result != "hopeless")
        assert got == expected
        self.ends.append((worker, number, fence, end))
        self.seen["release" if result == "released" else "complete", got] += 1

    def _something_to_end(self) -> tuple[str, int, int, tuple[str, str]]:
        end = (
            self.chance.choice(["succeeded", "failed", "failed", "hopeless", "released"]),
            self.chance.choice(["a", "b"]),
        )
        luck = self.chance.random()
        if self.ends and luck < 0.15:
            return self.chance.choice(self.ends)
        if self.held and luck < 0.85:
            (worker, number), fence = self.chance.choice(list(self.held.items()))
            if self.chance.random() < 0.15:
                worker = self.chance.choice(WORKERS).name
            return worker, number, fence, end
        number = self.chance.randint(1, self.numbers + 1)
        fence = self.chance.randint(1, max(1, len(self.fences)))
        return self.chance.choice(WORKERS).name, number, fence, end

    async def beat(self) -> None:
        worker = self.chance.choice(WORKERS).name
        leases = {number: fence for (name, number), fence in self.held.items() if name == worker}
        if self.numbers and self.chance.random() < 0.3:
            leases[self.chance.randint(1, self.numbers)] = max(1, len(self.fences))
        settled = self.claims[worker] if self.chance.random() < 0.8 else None
        leaving = settled is not None and self.chance.random() < 0.2
        expected, released = self.oracle.beat(worker, leases, settled, leaving)
        answer = await self.here.fleet.beat(
            self.principals[worker],
            Beat(
                leases={task_id(n): self._fence(fence) for n, fence in leases.items()},
                settled=settled,
                leaving=leaving,
            ),
        )
        assert answer.claim_number is not None
        assert answer.claim_number <= self.claims[worker]
        self.seen["beat", "leaving"] += leaving
        self.seen.update(("beat", how) for how in released)
        got = dict.fromkeys(answer.renewed, "renewed")
        got |= dict.fromkeys(answer.lost, "lost") | dict.fromkeys(answer.cancelled, "cancelled")
        assert got == {task_id(number): verdict for number, verdict in expected.items()}
        for number, verdict in expected.items():
            self.seen["beat", verdict] += 1
            if verdict != "renewed" and self.chance.random() < 0.7:
                self.held.pop((worker, number), None)

    async def cancel(self) -> None:
        number = self.chance.randint(1, self.numbers + 1)
        expected = self.oracle.cancel(number)
        try:
            answer = await self.here.fleet.cancel(OPERATOR, task_id(number))
            got = answer.status.value
        except HoldfastError as error:
            got = error.code
        assert got == expected
        self.seen["cancel", got] += 1

    async def advance(self) -> None:
        seconds = self.chance.choice([1, 5, 11, 31])
        self.oracle.now += seconds
        self.here.manual.advance(seconds)
        loops = self.here.loops()
        principal = service("coordinator")
        touched = await loops.expire_leases(principal) + await loops.end_overdue(principal)
        expected = self.oracle.sweep()
        assert touched == expected
        self.seen["sweep", "some" if expected else "none"] += 1

    # --- what is compared ---------------------------------------------------------------------

    async def compare(self) -> None:
        got = {
            number: (task.status.value, task.attempts, self._rank(task.fence))
            for number, task in (await self.snapshot()).items()
        }
        assert got == {
            number: (task.state, task.attempts, task.fence)
            for number, task in self.oracle.tasks.items()
        }

    async def snapshot(self) -> dict[int, Task]:
        found, more = await self.here.fleet.list_tasks(OPERATOR, limit=1000)
        assert more is None
        numbers = {task_id(number): number for number in range(1, self.numbers + 2)}
        return {numbers[task.id]: task for task in found}

    def _fence(self, rank: int) -> int:
        """The coordinator's fence for the model's; a future one if there is none."""
        return self.fences[rank - 1] if rank <= len(self.fences) else 10**9

    def _rank(self, fence: int) -> int:
        return self.fences.index(fence) + 1 if fence else 0

    def moment(self, seconds: float) -> str:
        return timestamp(START + timedelta(seconds=seconds))


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_coordinator_answers_as_the_model_does(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "RELEASES_FREE_MAX", RELEASES)
    walk = Differential(rig(database), seed)
    walk.here.fleet.chance = lambda: 0.0  # the model knows no jitter
    # The grace after a start is a matter of its own; here leases expire from the beginning.
    walk.here.fleet.started_at = START - timedelta(hours=1)
    try:
        await walk.run(STEPS)
    except AssertionError as error:
        error.add_note(f"replay: HOLDFAST_TASKS_SEED={seed}")
        raise
    missing = {
        (operation, outcome)
        for operation, outcomes in OUTCOMES.items()
        for outcome in outcomes
        if walk.seen[operation, outcome] == 0
    }
    assert not missing or seed != PROVING_SEED, (
        "the walk proves too little: another seed, or more steps"
    )
