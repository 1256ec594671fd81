"""The task protocol as a plain model in memory: what any backend must answer, operation by
operation.

It knows nothing of SQL, batches or indexes. Time is a number of seconds since the start; the same
seeded operations go to it and to a coordinator, and answers and snapshots are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

LEASE_SECONDS = 30
BACKOFF_SECONDS = 10
ATTEMPTS = 3
RELEASES = 1
"""How often a task may go back uncounted; a coordinator's own bound is set to this by the test."""


@dataclass
class OracleTask:
    """What is known of one task."""

    number: int
    needs: frozenset[str]
    residency: str
    priority: int
    exclusive: str
    created: float
    deadline: float | None
    state: str = "queued"
    available: float = 0.0
    fence: int = 0
    attempts: int = 0
    worker: str | None = None
    expires: float | None = None
    answer: tuple[str, str] | None = None
    claim: int | None = None
    releases: int = 0
    ended: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        return self.state in ("queued", "leased")


@dataclass(frozen=True)
class OracleWorker:
    """Who asks."""

    name: str
    capabilities: frozenset[str]
    region: str


class Oracle:
    """The protocol. Every method answers as a coordinator would, or names the refusal."""

    def __init__(self) -> None:
        self.tasks: dict[int, OracleTask] = {}
        self.now = 0.0
        self.fence = 0
        self.left: dict[str, int] = {}

    def submit(self, task: OracleTask) -> tuple[str, int]:
        known = self.tasks.get(task.number)
        if known is not None:
            same = _shape(known) == _shape(task)
            return ("known", task.number) if same else ("task-id-reused", task.number)
        for other in self.tasks.values():
            if task.exclusive and other.exclusive == task.exclusive and other.unfinished:
                return "exclusive", other.number
        self.tasks[task.number] = replace(task, available=max(task.available, self.now))
        return "new", task.number

    def claim(
        self, worker: OracleWorker, limit: int, claim: int = 0
    ) -> list[tuple[int, int, int]] | str:
        """Number, attempt and rank of the fence among all given out, of each leased task."""
        if claim and claim <= self.left.get(worker.name, 0):
            return "claim-settled"
        ready = [
            task
            for task in self.tasks.values()
            if task.state == "queued"
            and task.available <= self.now
            and task.needs <= worker.capabilities
            and task.residency in ("", worker.region)
            and (task.deadline is None or task.deadline > self.now)
        ]
        ready.sort(key=lambda task: (-task.priority, task.available, task.number))
        leased = []
        for task in ready[:limit]:
            self.fence += 1
            task.state, task.worker, task.fence = "leased", worker.name, self.fence
            task.attempts += 1
            task.expires = self.now + LEASE_SECONDS
            task.claim = claim or None
            leased.append((task.number, task.attempts, task.fence))
        return leased

    def complete(
        self, worker: str, number: int, fence: int, end: tuple[str, str], retry: bool
    ) -> str:
        task = self.tasks.get(number)
        if task is None:
            return "task-not-found"
        mine = task.worker == worker and task.fence == fence
        if task.state == "leased" and mine:
            self._end(task, end, retry)
            return task.state
        if task.state == "cancelled":
            return "task-cancelled"
        if task.fence == 0:
            return "task-not-leased"
        repeated = (mine and task.answer == end) or task.ended.get((fence, worker)) == end
        return task.state if repeated else "stale-fence"

    def _end(self, task: OracleTask, end: tuple[str, str], retry: bool) -> None:
        outcome, _ = end
        assert task.worker is not None
        if outcome == "succeeded":
            task.state, task.answer = "succeeded", end
        else:
            task.ended[task.fence, task.worker] = end
            if outcome == "released":
                self._release(task, end)
            else:
                self._fail(task, retry, end)

    def _release(self, task: OracleTask, end: tuple[str, str] | None) -> str:
        if task.releases >= RELEASES:
            self._fail(task, True, end)
            return "counted"
        task.state, task.worker, task.expires = "queued", None, None
        task.attempts -= 1
        task.releases += 1
        return "free"

    def _fail(self, task: OracleTask, retry: bool, end: tuple[str, str] | None) -> None:
        task.releases = 0
        retry_at = self.now + BACKOFF_SECONDS * 2 ** (task.attempts - 1)
        too_late = task.deadline is not None and retry_at >= task.deadline
        if not retry or task.attempts >= ATTEMPTS or too_late:
            task.state, task.answer = "dead", end
        else:
            task.state, task.available, task.worker = "queued", retry_at, None
        task.expires = None

    def beat(
        self, worker: str, leases: dict[int, int], settled: int | None, leaving: bool
    ) -> tuple[dict[int, str], list[str]]:
        """What becomes of each lease a beat names, and how what it never heard of was released."""
        unheard = [
            task
            for task in self.tasks.values()
            if task.state == "leased"
            and task.worker == worker
            and task.claim is not None
            and settled is not None
            and task.claim <= settled
            and leases.get(task.number) != task.fence
        ]
        verdicts = self._renew(worker, leases)
        if leaving and settled is not None:
            self.left[worker] = max(settled, self.left.get(worker, 0))
        return verdicts, [self._release(task, None) for task in unheard]

    def _renew(self, worker: str, leases: dict[int, int]) -> dict[int, str]:
        """What becomes of each lease a beat names: renewed, lost or cancelled."""
        verdicts = {}
        for number, fence in leases.items():
            task = self.tasks.get(number)
            if task is None or task.worker != worker or task.fence != fence:
                verdicts[number] = "lost"
            elif task.state == "cancelled":
                verdicts[number] = "cancelled"
            elif task.state != "leased":
                verdicts[number] = "lost"
            else:
                verdicts[number] = "renewed"
                assert task.expires is not None
                if task.claim is not None or task.expires - self.now < LEASE_SECONDS * 2 / 3:
                    task.expires = self.now + LEASE_SECONDS
                task.claim = None
        return verdicts

    def cancel(self, number: int) -> str:
        task = self.tasks.get(number)
        if task is None:
            return "task-not-found"
        if task.state in ("succeeded", "dead"):
            return "task-finished"
        task.state, task.expires = "cancelled", None
        return "cancelled"

    def sweep(self) -> int:
        """Expire leases and end what is overdue; how many tasks that concerns."""
        touched = 0
        for task in self.tasks.values():
            if task.state == "leased" and task.expires is not None and task.expires <= self.now:
                touched += 1
                self._fail(task, True, None)
        for task in self.tasks.values():
            if task.state == "queued" and task.deadline is not None and task.deadline <= self.now:
                touched += 1
                task.state = "dead"
        return touched


def _shape(task: OracleTask) -> tuple[object, ...]:
    return (task.needs, task.residency, task.priority, task.exclusive, task.deadline)
