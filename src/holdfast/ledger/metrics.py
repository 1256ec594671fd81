"""What the ledger counts: by our names, and by those of guide 3. Labels come from closed sets."""

from __future__ import annotations

from holdfast.kernel.telemetry import Metrics


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
        self._damaged: set[str] = set()

    def appended(self, payload_bytes: int, frame_bytes: int, entries: int) -> None:
        """A commit is durable."""
        self._bytes.inc(frame_bytes)
        self._records.inc(entries)
        self._payload.inc(payload_bytes)
        self._commits.inc()

    def published(self) -> None:
        """A checkpoint was signed."""
        self._checkpoints.inc()

    def clock_behind(self, seconds: float) -> None:
        """How far the clock is behind the last entry."""
        self._behind.set(seconds)

    def writable(self, tenant: str, *, writable: bool) -> None:
        """Whether a log takes appends."""
        (self._damaged.discard if writable else self._damaged.add)(tenant)
        self._read_only.set(len(self._damaged))
