"""What the coordinator counts. Labels come from closed sets, never from a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from holdfast.fleet.model import WorkerStatus
from holdfast.kernel.telemetry import Metrics

ENDS = ("succeeded", "released", "retried", "dead", "cancelled")
STATES = ("ready", "waiting", "leased", "dead")


class FleetMetrics:
    """The fleet's metrics in one registry."""

    def __init__(self, metrics: Metrics) -> None:
        self.submitted = metrics.counter("holdfast_tasks_submitted_total", "Tasks submitted.")
        self.claimed = metrics.counter("holdfast_tasks_claimed_total", "Leases given out.")
        self._ended = metrics.counter(
            "holdfast_task_attempts_ended_total", "Attempts that ended, by how.", ["end"]
        )
        self._expired = metrics.counter(
            "holdfast_leases_expired_total", "Leases that ran out without a beat."
        )
        self._lost = metrics.counter("holdfast_workers_lost_total", "Workers that fell silent.")
        self._tasks = metrics.gauge("holdfast_tasks", "Unfinished and dead tasks.", ["state"])
        self._workers = metrics.gauge("holdfast_workers", "Workers, by status.", ["status"])
        self._oldest = metrics.gauge(
            "holdfast_task_oldest_ready_seconds", "How long the oldest claimable task has waited."
        )
        for end in ENDS:
            self._ended.labels(end)

    def ended(self, events: Iterable[str]) -> None:
        """Attempts ended; ``events`` are the types of their events (``task.succeeded``)."""
        for end, amount in Counter(event.removeprefix("task.") for event in events).items():
            self._ended.labels(end).inc(amount)

    def expired(self, amount: int) -> None:
        """Leases were found to have run out."""
        self._expired.inc(amount)

    def lost(self) -> None:
        """A worker fell silent."""
        self._lost.inc()

    def show(
        self, states: Mapping[str, int], workers: Mapping[str, int], oldest_seconds: float
    ) -> None:
        """Bring the gauges up to what the database holds."""
        for state in STATES:
            self._tasks.labels(state).set(states.get(state, 0))
        for status in WorkerStatus:
            self._workers.labels(status.value).set(workers.get(status.value, 0))
        self._oldest.set(oldest_seconds)
