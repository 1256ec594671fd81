"""What the log says of tasks, as states: see :mod:`holdfast.ledger.folding`.

Submissions, decisions and ends are events; leases and beats are not. So a task that is being worked
on is ``queued`` here: the log has not heard of it since.
"""

from __future__ import annotations

from typing import Any

from holdfast.ledger.model import Entry

State = dict[str, Any]
STATUS = {
    "task.submitted": "queued",
    "task.retried": "queued",
    "task.released": "queued",
    "task.succeeded": "succeeded",
    "task.dead": "dead",
    "task.cancelled": "cancelled",
}
EMPTY: State = {
    "task": "",
    "kind": "",
    "run": None,
    "status": "",
    "priority": None,
    "residency": None,
    "exclusive": None,
    "attempts": 0,
    "fence": 0,
    "worker": None,
    "code": "",
    "reason": "",
    "submitted_at": None,
    "retry_at": None,
    "finished_at": None,
    "updated_at": "",
}
TAKEN = ("task", "kind", "run", "priority", "residency", "exclusive", "worker", "fence", "code")


class Tasks:
    """Every task that was submitted, by its id, as the log last heard of it."""

    name = "tasks"
    rules = 1
    streams = frozenset({"task"})

    def key(self, entry: Entry) -> str | None:
        """The task that was submitted, tried again or ended."""
        if entry.type not in STATUS or entry.payload is None:
            return None
        found = entry.payload.get("task")
        return found if isinstance(found, str) else None

    def step(self, state: State | None, entry: Entry) -> State:
        """How the task stands after this."""
        told, status = entry.payload or {}, STATUS[entry.type]
        made = (state or EMPTY) | {name: told[name] for name in TAKEN if name in told}
        made["status"] = status
        made["reason"] = told.get("reason", "")
        made["attempts"] = told.get("attempt", made["attempts"])
        made["retry_at"] = told.get("retry_at")
        made["updated_at"] = entry.time
        if entry.type == "task.submitted":
            made["submitted_at"] = entry.time
        made["finished_at"] = None if status == "queued" else entry.time
        return made
