"""What the aggregator counts. Labels are profile names: the operator's own, bounded by them."""

from __future__ import annotations

from holdfast.kernel.telemetry import Metrics


class RecordsMetrics:
    """The aggregator's metrics in one registry."""

    def __init__(self, metrics: Metrics) -> None:
        self.batches = metrics.counter(
            "holdfast_batches_total", "Batches stored, by how they were answered.", ["answer"]
        )
        self.records = metrics.counter(
            "holdfast_records_ingested_total", "Records staged, by what they were.", ["change"]
        )
        self.rejects = metrics.counter("holdfast_rejects_total", "Rows that failed typing.")
        self.runs = metrics.counter(
            "holdfast_runs_total", "Runs that ended, by status.", ["status"]
        )
        self.publications = metrics.counter(
            "holdfast_publications_total", "Publications, by profile.", ["profile"]
        )
        self.last_success = metrics.gauge(
            "holdfast_profile_last_success_timestamp_seconds",
            "When a run of the profile last succeeded.",
            ["profile"],
        )
        self.stale = metrics.gauge(
            "holdfast_profile_stale",
            "1 while the profile has been silent for longer than is normal.",
            ["profile"],
        )
        self.response_bytes = metrics.counter(
            "holdfast_response_bytes_total", "Bytes of raw responses received."
        )
        self.batch_seconds = metrics.histogram(
            "holdfast_batch_seconds", "Seconds from a batch's arrival to its durable answer."
        )
