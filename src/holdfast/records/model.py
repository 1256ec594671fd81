"""Records, runs and batches as they travel and as they are kept. Pure types and rules, no I/O.

**Run.** One collection of one profile version. It is opened by the worker that holds the task's
lease, receives batches, and ends once. An *attempt* is the run under one fencing token; a higher
token takes over, a lower one is refused.

**Batch.** Its id is (run, fence, sequence). Atomic: the same id with the same content is one batch,
with other content a conflict. What it brings stays staged until the run is published.

**Record.** One row of the source after mapping. Values are exact: decimals are text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Fence = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Id = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
DecimalText = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", max_length=400)]
Scalar = str | int | bool | None

BATCH_RECORDS_MAX = 10_000
BATCH_BYTES_MAX = 16 * 1024 * 1024


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What arrives from outside refuses members it does not know."""


class Measure(_Wire, frozen=True, kw_only=True):
    """An exact number with its unit; ``value`` is null where the source had none."""

    value: DecimalText | None = None
    unit: str = ""
    multiplier: DecimalText = "1"


class PeriodValue(_Wire, frozen=True, kw_only=True):
    """A half-open interval of time and its frequency; ``text`` is the source's own spelling.

    ``start`` and ``end`` are ISO dates for A…D and RFC 3339 UTC times for H and I (where both are
    the same instant).
    """

    start: str
    end: str
    frequency: Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
    text: str = ""


class MappedRecord(_Wire, frozen=True, kw_only=True):
    """One mapped row. ``response`` and ``position`` lead back to the raw bytes.

    ``response`` counts the run's raw responses from 0, ``position`` the records in one from 0.
    ``key`` holds the values of the profile's key fields in order, or content digest and occurrence
    number where the key is ``position``.
    """

    response: NotNegative
    position: NotNegative
    key: list[Scalar]
    dimensions: dict[str, Scalar] = {}
    measures: dict[str, Measure] = {}
    attributes: dict[str, Scalar] = {}
    period: PeriodValue | None = None


class Reject(_Wire, frozen=True, kw_only=True):
    """One row that failed typing: where, which field, why, and the beginning of what was there."""

    response: NotNegative
    position: NotNegative
    field: str
    reason: str
    excerpt: Annotated[str, Meta(max_length=200)] = ""


class Batch(_Wire, frozen=True, kw_only=True):
    """What a worker posts to ``/v1/batches``; at most 10,000 records and 16 MiB."""

    run: Id
    fence: Fence
    sequence: NotNegative
    records: Annotated[list[MappedRecord], Meta(max_length=BATCH_RECORDS_MAX)] = []
    rejects: Annotated[list[Reject], Meta(max_length=BATCH_RECORDS_MAX)] = []


class BatchReceipt(Struct, frozen=True, kw_only=True):
    """The durable answer to a batch; the same for a repeat of it."""

    run: str
    fence: int
    sequence: int
    digest: str
    records: int
    rejects: int
    new: int
    changed: int
    unchanged: int
    repeated: bool = False


class RawResponse(_Wire, frozen=True, kw_only=True):
    """One answer of the source, as it was fetched: stored before any batch refers to it."""

    sequence: NotNegative
    digest: Digest
    size_bytes: NotNegative
    url: str
    """The original address, secrets removed."""
    address: str
    """The IP address and port actually contacted."""
    status: int
    media_type: str = ""
    etag: str = ""
    last_modified: str = ""
    fetched_at: str
    replayed: bool = False
    not_modified: bool = False


class RunStatus(StrEnum):
    """The states of a run.

    ``interrupted`` means that the lease ran out with nobody holding it: a higher fence may resume
    it. All others but ``running`` are final.
    """

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    UNCHANGED = "unchanged"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.RUNNING: frozenset(RunStatus) - {RunStatus.RUNNING},
    RunStatus.INTERRUPTED: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.UNCHANGED: frozenset(),
    RunStatus.PARTIAL: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}


class RunOpen(_Wire, frozen=True, kw_only=True):
    """A worker begins (or takes over) a run; tenant, run, profile and fence are in its grant."""

    run: Id
    fence: Fence


class RunFinish(_Wire, frozen=True, kw_only=True):
    """A worker's account of how its attempt ended.

    ``complete`` asks for publication: the aggregator checks ``expect``, ``max_rejects`` and the
    batch count itself and may answer ``failed``. ``unchanged`` is a run with no batch.
    """

    run: Id
    fence: Fence
    outcome: Literal["complete", "unchanged", "partial", "failed", "cancelled"]
    batches: NotNegative = 0
    pages: NotNegative = 0
    bytes_fetched: NotNegative = 0
    requests: NotNegative = 0
    cursor: str | None = None
    code: str = ""
    reason: str = ""


class RunClose(_Wire, frozen=True, kw_only=True):
    """The coordinator ends a run that no worker will end: its task is dead or cancelled."""

    run: Id
    fence: Fence
    profile: Name
    profile_digest: Digest
    task: Id
    outcome: Literal["failed", "cancelled"]
    code: str = ""
    reason: str = ""


class Run(Struct, frozen=True, kw_only=True):
    """A run as it is read back; ``result`` is what it came to (the guide's *result*)."""

    id: str
    profile: str
    profile_digest: str
    task: str
    worker: str
    fence: int
    status: RunStatus
    attempts: int
    started_at: str
    lease_expires_at: str
    finished_at: str | None = None
    published_at: str | None = None
    publication: int | None = None
    replayed: bool = False
    batches: int = 0
    records: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    rejects: int = 0
    pages: int = 0
    requests: int = 0
    bytes_fetched: int = 0
    cursor: str | None = None
    code: str = ""
    reason: str = ""


class Provenance(Struct, frozen=True, kw_only=True):
    """Where a record came from, down to the position in the bytes the source sent."""

    run: str
    worker: str
    profile_digest: str
    fetched_at: str
    url: str
    address: str
    replayed: bool
    response_digest: str
    response: int
    position: int


class Record(Struct, frozen=True, kw_only=True):
    """One revision of a record as it is read back.

    ``recorded_from`` ≤ t < ``recorded_to`` is when this revision was what we knew.
    """

    id: str
    profile: str
    key: list[Scalar]
    revision: int
    withdrawn: bool
    recorded_from: str | None
    recorded_to: str | None
    dimensions: dict[str, Scalar]
    measures: dict[str, Measure]
    attributes: dict[str, Scalar]
    period: PeriodValue | None
    provenance: Provenance | None = None


class StoredReject(Struct, frozen=True, kw_only=True):
    """A reject as it is read back, with its run and profile."""

    run: str
    profile: str
    response: int
    position: int
    field: str
    reason: str
    excerpt: str
    at: str
