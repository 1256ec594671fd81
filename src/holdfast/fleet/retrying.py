"""What became of the attempts so far of a run that is tried again, in a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from holdfast.fleet.model import COLLECT, Task, TaskFilter, TaskStatus
from holdfast.kernel.principal import Principal

LOOKED_AT = 500
"""Tasks under way that are looked at; of a run whose task is none of these nothing is said."""


class Tasks(Protocol):
    """The service of the fleet, or its client."""

    async def list_tasks(
        self, principal: Principal, wanted: TaskFilter | None = None, *, limit: int = 100
    ) -> tuple[list[Task], str | None]:
        """Tasks, the newest first."""
        ...


async def retries(tasks: Tasks, principal: Principal) -> dict[str, str]:
    """Of the newest runs that are tried again, by their ids: when, and after what."""
    found: list[Task] = []
    for status in (TaskStatus.QUEUED, TaskStatus.LEASED):
        wanted = TaskFilter(kind=COLLECT, status=status)
        found += (await tasks.list_tasks(principal, wanted, limit=LOOKED_AT))[0]
    return retried(found)


def retried(tasks: Iterable[Task]) -> dict[str, str]:
    """As :func:`retries`, of these tasks. Pure."""
    found: dict[str, str] = {}
    for task in tasks:
        if not task.code:
            continue
        after = f"after {task.code}: {task.reason}" if task.reason else f"after {task.code}"
        if task.status is TaskStatus.LEASED:
            number, when = task.attempts, "now"
        else:
            number = task.attempts + 1
            when = f"from {task.available_at[:19].replace('T', ' ')}"
        found[str(task.payload.get("run", ""))] = (
            f"attempt {number} of {task.attempts_max} {when}, {after}"
        )
    return found
