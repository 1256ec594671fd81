"""What the log says of runs and publications, as states: see :mod:`holdfast.ledger.folding`."""

from __future__ import annotations

from typing import Any

from holdfast.ledger.model import Entry

State = dict[str, Any]
RUN_FIELDS = (
    "run",
    "profile",
    "task",
    "status",
    "code",
    "reason",
    "publication",
    "records",
    "new",
    "changed",
    "unchanged",
    "withdrawn",
    "rejects",
    "batches",
    "attempts",
    "fence",
    "worker",
    "replayed",
    "profile_digest",
)
PUBLICATION_FIELDS = ("profile", "publication", "recorded_at", "run", "profile_digest", "root")


class Runs:
    """Every run that has ended, by its id: what it came to."""

    name = "runs"
    rules = 1
    streams = frozenset({"run"})

    def key(self, entry: Entry) -> str | None:
        """The run that ended."""
        return _named(entry, "run.finished", "run")

    def step(self, state: State | None, entry: Entry) -> State:
        """What it came to, and when."""
        told = entry.payload or {}
        return {name: told.get(name) for name in RUN_FIELDS} | {"finished_at": entry.time}


class Publications:
    """The publication of each profile that readers see."""

    name = "publications"
    rules = 1
    streams = frozenset({"profile"})

    def key(self, entry: Entry) -> str | None:
        """The profile that published."""
        return _named(entry, "records.ingested", "profile")

    def step(self, state: State | None, entry: Entry) -> State:
        """Which publication it is, and of which run."""
        told = entry.payload or {}
        return {name: told.get(name) for name in PUBLICATION_FIELDS}


def _named(entry: Entry, kind: str, name: str) -> str | None:
    if entry.type != kind or entry.payload is None:
        return None
    found = entry.payload.get(name)
    return found if isinstance(found, str) else None
