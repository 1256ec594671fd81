"""What the ledger counts: by our names, and by those of guide 3. Labels come from closed sets."""

from __future__ import annotations

from holdfast.kernel.telemetry import Metrics

METHODS = ("Append", "Query", "Prove", "Subscribe", "Manage")
"""What is asked of the ledger; ``Query`` is guide 3's."""


class LedgerMetrics:
    """The ledger's metrics in one registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._bytes = metrics.counter(
            "vdb_storage_bytes_written_total", "Bytes written to the log, frames and all."
        )
        self._records = metrics.counter("vdb_storage_records_total", "Entries written to the log.")
        self._checkpoints = metrics.counter(
            "vdb_storage_checkpoints_total", "Checkpoints signed and published."
        )
        self._commits = metrics.counter(
            "holdfast_ledger_commits_total", "Commits written: groups of entries flushed together."
        )
        self._payload = metrics.counter(
            "holdfast_ledger_payload_bytes_total", "Bytes of payloads appended."
        )
        self._behind = metrics.gauge(
            "holdfast_ledger_clock_behind_seconds", "How far the clock is behind the last entry."
        )
        self._read_only = metrics.gauge(
            "holdfast_ledger_read_only_logs", "Logs that are read-only: lost or damaged."
        )
        self._looked = metrics.counter(
            "holdfast_ledger_looked_over_entries_total",
            "Entries that were looked over while nobody asked for them.",
        )
        self._oldest = metrics.gauge(
            "holdfast_ledger_looked_over_timestamp_seconds",
            "When all of a log was last looked over (Unix time): of the log where it is longest "
            "ago; 0 while there is one of which no look came to its end.",
        )
        self._passes: dict[str, float] = {}
        self._damaged: set[str] = set()
        self._fences: dict[str, int] = {}
        self._late: dict[str, float] = {}
        self._view = metrics.gauge(
            "vdb_replication_view_number",
            "How often a log has changed hands: the newest fence of its sequencer.",
        )
        self._requests = metrics.counter(
            "vdb_requests_total", "Requests to the ledger, by what was asked.", ("method", "status")
        )
        self._seconds = metrics.histogram(
            "vdb_request_duration_seconds", "Time of a request, subscriptions apart.", ("method",)
        )
        for method in METHODS:
            self._requests.labels(method, "success")
            self._requests.labels(method, "error")
            self._seconds.labels(method)

    def appended(self, payload_bytes: int, frame_bytes: int, entries: int) -> None:
        """A commit is durable."""
        self._bytes.inc(frame_bytes)
        self._records.inc(entries)
        self._payload.inc(payload_bytes)
        self._commits.inc()

    def asked(self, method: str, seconds: float | None, *, failed: bool) -> None:
        """A request was answered; ``seconds`` is none of what lasts as long as the caller likes."""
        self._requests.labels(method, "error" if failed else "success").inc()
        if seconds is not None:
            self._seconds.labels(method).observe(seconds)

    def sequencing(self, tenant: str, fence: int) -> None:
        """We append to a log now, with this fence."""
        self._fences[tenant] = fence
        self._view.set(max(self._fences.values()))

    def published(self) -> None:
        """A checkpoint was signed."""
        self._checkpoints.inc()

    def looked_at(self, entries: int) -> None:
        """Entries were looked over in the background."""
        self._looked.inc(entries)

    def looking(self, tenant: str) -> None:
        """A log is about to be looked over: until all of it was, it never was."""
        self._passes.setdefault(tenant, 0.0)
        self._oldest.set(min(self._passes.values()))

    def looked_over(self, tenant: str, now: float) -> None:
        """All of a log was."""
        self._passes[tenant] = now
        self._oldest.set(min(self._passes.values()))

    def not_looked_over(self, tenant: str) -> None:
        """A log is not ours to look over."""
        self._passes.pop(tenant, None)
        self._oldest.set(min(self._passes.values(), default=0.0))

    def clock_behind(self, tenant: str, seconds: float) -> None:
        """How far the clock is behind the last entry of a log."""
        self._late[tenant] = seconds
        self._behind.set(max(self._late.values()))

    def writable(self, tenant: str, *, writable: bool) -> None:
        """Whether a log takes appends."""
        (self._damaged.discard if writable else self._damaged.add)(tenant)
        self._read_only.set(len(self._damaged))
