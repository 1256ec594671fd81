"""What an operator can set about the aggregator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RecordsSettings:
    """Bounds of one aggregator. ``projections`` is the folder for Parquet copies."""

    projections: Path
    response_bytes_max: int = 2 * 1024**3
    """Largest raw response that is taken, as it arrives."""
    rejects_kept_max: int = 10_000
    """Rejects kept of one attempt; all are counted."""
    staging_attempts_max: int = 20
    """How often a batch is prepared again because others changed the profile meanwhile."""
    cleaning_rows: int = 2_000
    """Rows of an abandoned attempt removed in one transaction."""
    withdrawal_rows: int = 2_000
    """Withdrawals staged in one transaction."""
    thread_records: int = 500
    """Batches with more records than this are prepared in a thread."""
    projections_kept: int = 4
    """Parquet copies kept of each profile, the last made first."""
    projection_thread_rows: int = 20_000
    """Projections with more rows than this are written in a child process."""
    compression_level: int = 3
    """zstd level of raw responses."""
    webhook_types: frozenset[str] = frozenset()
    """The notices that a webhook is told; none where there is no webhook."""
