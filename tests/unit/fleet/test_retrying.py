"""When a run is tried again, and after what."""

from __future__ import annotations

from typing import Any

from holdfast.fleet.model import Task, TaskStatus
from holdfast.fleet.retrying import retried


def task(run: str, status: TaskStatus, attempts: int, code: str = "", reason: str = "") -> Task:
    empty: dict[str, Any] = dict.fromkeys(
        ("worker", "deadline", "lease_expires_at", "finished_at", "result")
    )
    return Task(
        id=run, kind="collect", payload={"run": run}, status=status, capabilities=[], priority=0,
        residency="", fence=1, attempts=attempts, attempts_max=4, created_at="",
        available_at="2026-11-28T10:15:03.123456Z", lease_seconds=30, code=code, reason=reason,
        **empty,
    )  # fmt: skip


def test_what_waits_says_when_and_what_is_at_work_that_it_is() -> None:
    found = retried(
        [
            task("waits", TaskStatus.QUEUED, 2, "http-status", "the source answered 503"),
            task("works", TaskStatus.LEASED, 3, "worker-lost"),
            task("first", TaskStatus.LEASED, 1),
            task("new", TaskStatus.QUEUED, 0),
        ]
    )
    assert found == {
        "waits": "attempt 3 of 4 from 2026-11-28 10:15:03, "
        "after http-status: the source answered 503",
        "works": "attempt 3 of 4 now, after worker-lost",
    }
