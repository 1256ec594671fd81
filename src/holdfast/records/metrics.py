"""What the aggregator counts. Labels are names of tenants and their profiles, bounded by those.

Two tenants may call a profile alike: a series of both would say of one what is true of the other.
"""

from __future__ import annotations

from holdfast.kernel.telemetry import Metrics
from holdfast.records.model import Freshness


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
            "holdfast_publications_total",
            "Publications, by tenant and profile.",
            ["tenant", "profile"],
        )
        self.last_success = metrics.gauge(
            "holdfast_profile_last_success_timestamp_seconds",
            "When a run of the profile last succeeded.",
            ["tenant", "profile"],
        )
        self.stale = metrics.gauge(
            "holdfast_profile_stale",
            "1 while the profile has been silent for longer than is normal.",
            ["tenant", "profile"],
        )
        self.age = metrics.gauge(
            "holdfast_profile_age_seconds",
            "Seconds since a run of the profile last succeeded.",
            ["tenant", "profile"],
        )
        self.late = metrics.gauge(
            "holdfast_profile_late_seconds",
            "Seconds by which the profile's silence exceeds what is normal.",
            ["tenant", "profile"],
        )
        self.drifted = metrics.gauge(
            "holdfast_profile_drift",
            "Breaking changes of shape that the profile's last run saw.",
            ["tenant", "profile"],
        )
        self.shrunk = metrics.gauge(
            "holdfast_profile_shrunk",
            "1 while the profile's last run brought less than half of what is usual.",
            ["tenant", "profile"],
        )
        self.drifts = metrics.counter(
            "holdfast_drifts_total", "Changes of shape that runs saw, by kind.", ["kind"]
        )
        self.deliveries = metrics.counter(
            "holdfast_webhook_deliveries_total",
            "Deliveries to the webhook, by outcome.",
            ["outcome"],
        )
        self.response_bytes = metrics.counter(
            "holdfast_response_bytes_total", "Bytes of raw responses received."
        )
        self.batch_seconds = metrics.histogram(
            "holdfast_batch_seconds", "Seconds from a batch's arrival to its durable answer."
        )

    def watched(self, tenant: str, line: Freshness) -> None:
        """Set the gauges of a tenant's profile."""
        of = tenant, line.profile
        self.stale.labels(*of).set(int(line.stale))
        self.age.labels(*of).set(line.age_seconds)
        self.late.labels(*of).set(line.late_seconds)
        self.drifted.labels(*of).set(line.drifted)
        self.shrunk.labels(*of).set(int(line.shrunk))
