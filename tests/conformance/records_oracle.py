"""A plain model of runs, batches and records: what the aggregator must answer, in memory.

It keeps every row that was posted, in order, and works everything out from scratch when a run ends:
no slots, no sequences, no bits. Where the two disagree, one of them is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Row = tuple[str, str]
"""A key and a value."""
Rejected = str | None
"""The key of a rejected row; empty if it names no record, ``None`` if nobody can tell."""


class RefusedError(Exception):
    """The operation must be refused with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class RunModel:
    """One run."""

    fence: int
    lease: float
    status: str = "running"
    attempts: int = 1
    holds: bool = True
    """Whether the current attempt may still add and finish."""
    batches: dict[int, tuple[list[Row], list[Rejected]]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """Batch numbers as they arrived."""
    counts: dict[str, int] = field(default_factory=dict)
    code: str = ""
    publication: int | None = None

    @property
    def final(self) -> bool:
        return self.status not in ("running", "interrupted")

    @property
    def rows(self) -> list[Row]:
        return [row for number in self.order for row in self.batches[number][0]]

    @property
    def rejects(self) -> list[Rejected]:
        return [one for _, rejects in self.batches.values() for one in rejects]


@dataclass
class Oracle:
    """One profile."""

    mode: str
    duplicates: str
    max_rejects: int
    runs: dict[str, RunModel] = field(default_factory=dict)
    states: list[dict[str, str]] = field(default_factory=lambda: [{}])
    """What was visible, by publication."""
    times: list[float] = field(default_factory=lambda: [float("-inf")])
    revisions: dict[str, list[str | None]] = field(default_factory=dict)
    """Every published value of a key; ``None`` for a withdrawal."""
    cursor: str | None = None

    # --- what a worker does -------------------------------------------------------------------

    def open(self, run: str, fence: int, lease: float, now: float) -> RunModel:
        known = self.runs.get(run)
        if known is not None:
            if known.fence > fence:
                raise RefusedError("stale-fence")
            if known.final:
                return known
            if known.fence == fence:
                if not known.holds:
                    raise RefusedError("run-overtaken")
                known.status, known.lease = "running", max(known.lease, lease)
                return known
        for name, other in self.runs.items():
            if name != run and other.holds and not other.final:
                live = other.status == "running" and other.lease > now
                if live and other.fence >= fence:
                    raise RefusedError("profile-busy")
                other.status, other.holds = "interrupted", False
        fresh = RunModel(fence, lease, attempts=1 if known is None else known.attempts + 1)
        self.runs[run] = fresh
        return fresh

    def post(
        self,
        run: str,
        fence: int,
        sequence: int,
        rows: list[Row],
        rejects: list[Rejected],
        lease: float,
    ) -> bool:
        """Whether the batch was there already."""
        attempt = self._attempt(run, fence)
        if sequence in attempt.batches:
            if attempt.batches[sequence] != (rows, rejects):
                raise RefusedError("batch-conflict")
            return True
        self._check_may_add(attempt)
        if self.duplicates != "error" and sequence != len(attempt.batches):
            raise RefusedError("batch-out-of-order")
        attempt.batches[sequence] = (rows, rejects)
        attempt.order.append(sequence)
        attempt.status, attempt.lease = "running", max(attempt.lease, lease)
        return False

    def finish(
        self, run: str, fence: int, outcome: str, batches: int, cursor: str | None, now: float
    ) -> RunModel:
        attempt = self._attempt(run, fence)
        if attempt.final:
            return attempt
        if not attempt.holds:
            raise RefusedError("run-overtaken")
        if outcome == "unchanged" and attempt.batches:
            raise RefusedError("run-has-batches")
        attempt.counts = self._counts(attempt)
        if outcome != "complete":
            attempt.status = outcome
            return attempt
        attempt.code = self._failure(attempt, batches)
        if attempt.code:
            attempt.status = "failed"
            return attempt
        attempt.status = "succeeded"
        self._publish(attempt, now)
        self.cursor = cursor or self.cursor
        return attempt

    def close(self, run: str, fence: int, outcome: str) -> RunModel:
        known = self.runs.get(run)
        if known is None:
            known = self.runs[run] = RunModel(fence, 0, attempts=0)
        elif known.final:
            return known
        elif known.fence > fence:
            raise RefusedError("stale-fence")
        known.status = outcome
        return known

    def sweep(self, now: float) -> int:
        late = [run for run in self.runs.values() if run.status == "running" and run.lease < now]
        for run in late:
            run.status = "interrupted"
        return len(late)

    # --- rules --------------------------------------------------------------------------------

    def _attempt(self, run: str, fence: int) -> RunModel:
        known = self.runs.get(run)
        if known is None or known.fence < fence:
            raise RefusedError("run-not-open")
        if known.fence > fence:
            raise RefusedError("stale-fence")
        return known

    def _check_may_add(self, attempt: RunModel) -> None:
        if attempt.final:
            raise RefusedError("run-ended")
        if not attempt.holds:
            raise RefusedError("run-overtaken")

    def _chosen(self, attempt: RunModel) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in attempt.rows:
            if key not in found or self.duplicates == "last":
                found[key] = value
        return found

    def _counts(self, attempt: RunModel) -> dict[str, int]:
        chosen, before = self._chosen(attempt), self.states[-1]
        missing = before.keys() - chosen.keys() if self.mode == "snapshot" else set()
        kept = missing & set(attempt.rejects)
        unclear = None in attempt.rejects
        return {
            "records": len(chosen),
            "new": len(chosen.keys() - before.keys()),
            "changed": sum(key in before and before[key] != chosen[key] for key in chosen),
            "unchanged": sum(before.get(key) == value for key, value in chosen.items()),
            "duplicates": len(attempt.rows) - len(chosen),
            "rejects": len(attempt.rejects),
            "absent": 0 if unclear else len(missing - kept),
            "kept": len(kept),
            "withheld": len(missing - kept) if unclear else 0,
        }

    def _failure(self, attempt: RunModel, batches: int) -> str:
        if sorted(attempt.batches) != list(range(batches)):
            return "batches-missing"
        if len(attempt.rejects) > self.max_rejects:
            return "too-many-rejects"
        if attempt.counts["duplicates"] and self.duplicates == "error":
            return "duplicate-keys"
        known = self.states[-1].keys() - set(attempt.rejects)
        if self.mode == "snapshot" and known and not self._chosen(attempt):
            return "shrunk"
        return ""

    def _publish(self, attempt: RunModel, now: float) -> None:
        chosen, before = self._chosen(attempt), self.states[-1]
        unclear = self.mode != "snapshot" or None in attempt.rejects
        kept = {key: before[key] for key in before if unclear or key in attempt.rejects}
        after = {**kept, **chosen}
        if after != before:
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    self.revisions.setdefault(key, []).append(after.get(key))
            self.states.append(after)
            # Time of publications strictly grows, by a microsecond at least.
            self.times.append(max(now, self.times[-1] + 1e-6))
        attempt.publication = len(self.states) - 1 or None

    def at(self, moment: float) -> dict[str, str]:
        """What was visible then."""
        known = [
            state for state, time in zip(self.states, self.times, strict=True) if time <= moment
        ]
        return known[-1]

    def first(self) -> dict[str, str]:
        """What was said first about each key."""
        return {key: values[0] for key, values in self.revisions.items() if values[0] is not None}
