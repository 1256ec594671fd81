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
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Fence = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
Id = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$(?!\n)"),
]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$(?!\n)")]
DecimalText = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$(?!\n)", max_length=400)]
Integer = Annotated[int, Meta(ge=-(2**53 - 1), le=2**53 - 1)]
Scalar = str | Integer | bool | None
PeriodText = Annotated[
    str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9.]{2,9}Z)?$(?!\n)")
]

BATCH_RECORDS_MAX = 10_000
BATCH_BYTES_MAX = 16 * 1024 * 1024
KEY_VALUES_MAX = 64
HEADER_BYTES_MAX = 2 * 1024 * 1024
FIELDS_MAX = 1000


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What arrives from outside refuses members it does not know.

    Types that come by the thousand are out of the garbage collector's sight (``gc=False``): they
    are made once, from plain values, and cannot be part of a cycle.
    """


class Measure(_Wire, frozen=True, kw_only=True, gc=False):
    """An exact number with its unit; ``value`` is null where the source had none."""

    value: DecimalText | None = None
    unit: str = ""
    multiplier: DecimalText = "1"


class PeriodValue(_Wire, frozen=True, kw_only=True, gc=False):
    """A half-open interval of time and its frequency; ``text`` is the source's own spelling.

    ``start`` and ``end`` are ISO dates for A…D and RFC 3339 UTC times for H and I (where both are
    the same instant).
    """

    start: PeriodText
    end: PeriodText
    frequency: Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
    text: str = ""


class MappedRecord(_Wire, frozen=True, kw_only=True, gc=False):
    """One mapped row. ``response`` and ``position`` lead back to the raw bytes.

    ``response`` counts the run's raw responses from 0, ``position`` the records in one from 0.
    ``key`` holds the values of the profile's key fields in order, or content digest and occurrence
    number where the key is ``position``.
    """

    response: NotNegative
    position: NotNegative
    key: Annotated[list[Scalar], Meta(max_length=KEY_VALUES_MAX)]
    dimensions: Annotated[dict[str, Scalar], Meta(max_length=FIELDS_MAX)] = {}
    measures: Annotated[dict[str, Measure], Meta(max_length=FIELDS_MAX)] = {}
    attributes: Annotated[dict[str, Scalar], Meta(max_length=FIELDS_MAX)] = {}
    period: PeriodValue | None = None


class Reject(_Wire, frozen=True, kw_only=True, gc=False):
    """One row that failed typing: where, which field, why, and the beginning of what was there.

    ``response`` and ``position`` count from 0, as those of a record do: the third row under the
    header of a table is position 2, whatever lines stand above it. What is left out of a table
    before (``skip_rows``, comments, empty lines) is not counted.

    ``key`` is its record's, where the fields of the key hold; empty if the row names no record (a
    part of its key has no value, or the key is its content); null if nobody can tell. It is asked
    for by what a snapshot withdraws, and not kept.
    """

    response: NotNegative
    position: NotNegative
    field: Annotated[str, Meta(max_length=200)]
    reason: Annotated[str, Meta(max_length=1000)]
    excerpt: Annotated[str, Meta(max_length=200)] = ""
    key: Annotated[list[Scalar], Meta(max_length=KEY_VALUES_MAX)] | None = None


class SourceColumn(_Wire, frozen=True, kw_only=True, gc=False):
    """What a worker saw of one column (or member) of the source, over a sample of its rows.

    ``kind`` is what most of its values look like; ``filled`` of ``looked`` rows had one.
    """

    name: Annotated[str, Meta(max_length=200)]
    kind: Annotated[str, Meta(max_length=60)] = ""
    looked: NotNegative = 0
    filled: NotNegative = 0


COLUMNS_MAX = 400
"""Columns of the source that a worker tells of."""


DriftKind = Literal[
    "new",
    "missing",
    "thinned",
    "retyped",
    "renamed",
    "jumped",
    "unit-changed",
    "unit-jumped",
    "sign-flipped",
    "keys-changed",
]


class Drift(_Wire, frozen=True, kw_only=True):
    """One way in which what a run saw differs from what the last good runs saw.

    ``field`` is a field's full name, or ``source.NAME`` for a column of the source. A ``breaking``
    one makes records mean something else.
    """

    field: str
    kind: DriftKind
    breaking: bool
    detail: str


class SignedHeader(_Wire, frozen=True, kw_only=True, gc=False):
    """What a worker says of a batch, signed: see :mod:`holdfast.records.signed`.

    ``header`` is the very text that was signed, ``signature`` the Ed25519 signature of its bytes.
    ``seed`` makes the salts of the commitments to the records; it opens them, and is not signed.
    """

    header: Annotated[str, Meta(max_length=HEADER_BYTES_MAX)]
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]
    seed: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Batch(_Wire, frozen=True, kw_only=True, gc=False):
    """What a worker posts to ``/v1/batches``; at most 10,000 records and 16 MiB.

    One that its worker has not signed is refused.
    """

    run: Id
    fence: Fence
    sequence: NotNegative
    records: Annotated[list[MappedRecord], Meta(max_length=BATCH_RECORDS_MAX)] = []
    rejects: Annotated[list[Reject], Meta(max_length=BATCH_RECORDS_MAX)] = []
    signed: SignedHeader | None = None


class BatchReceipt(Struct, frozen=True, kw_only=True):
    """The durable answer to a batch; the same for a repeat of it, but for ``repeated``.

    ``new``, ``changed`` and ``unchanged`` compare with what is published; ``duplicates`` are rows
    whose key came before in this run. ``root`` is the Merkle root over the leaves of the rows that
    the batch wrote.
    """

    run: str
    fence: int
    sequence: int
    digest: str
    records: int
    rejects: int
    new: int
    changed: int
    unchanged: int
    duplicates: int = 0
    root: str = ""
    repeated: bool = False


class ReceiptsWanted(_Wire, frozen=True, kw_only=True):
    """Which revisions of a profile's records receipts are asked of: each ``RECORD@REVISION``."""

    profile: Name
    records: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=200)]


class RecordWanted(_Wire, frozen=True, kw_only=True):
    """Which record is asked for: by its profile and the parts of its key, in the profile's order,
    each as it is shown. In a body, because a part may be a person's name."""

    profile: Name
    key: Annotated[
        list[Annotated[str, Meta(max_length=4_000)]], Meta(min_length=1, max_length=KEY_VALUES_MAX)
    ]
    as_of: str | None = None


class RawResponse(_Wire, frozen=True, kw_only=True):
    """One answer of the source, as it was fetched: stored before any batch refers to it.

    ``digest`` and ``size_bytes`` are those of the bytes as they are sent here. ``not_modified``:
    the source said that they still hold; they were sent here before.
    """

    sequence: NotNegative
    digest: Digest
    size_bytes: NotNegative
    url: Annotated[str, Meta(max_length=8192)]
    """The original address, secrets removed."""
    address: Annotated[str, Meta(max_length=200)]
    """The IP address and port actually contacted."""
    status: Annotated[int, Meta(ge=100, le=599)]
    media_type: Annotated[str, Meta(max_length=200)] = ""
    etag: Annotated[str, Meta(max_length=1000)] = ""
    last_modified: Annotated[str, Meta(max_length=100)] = ""
    fetched_at: Annotated[str, Meta(max_length=40)]
    replayed: bool = False
    not_modified: bool = False
    request: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")] = ""
    """SHA-256 of the body that was posted to ask for it; empty where there was none."""
    following: Annotated[str, Meta(max_length=8192)] = ""
    """What its headers said of the page after it: an address or a token, secrets removed."""
    total: Annotated[str, Meta(max_length=40)] = ""
    """What its headers said of how many records there are."""
    open_ended: bool = False
    """Only the end of the connection said where it ends: what came may be less than what is."""
    final_url: Annotated[str, Meta(max_length=2048)] = ""
    """The address that answered after redirects, secrets removed; empty where it is ``url``."""
    cut: bool = False
    """These bytes are the beginning of the answer only: a limit was reached, or it broke off."""


def page_name(url: str, request: str = "") -> str:
    """How a page is told from others: its address and, where one was posted, its body's digest."""
    return f"{url}#{request}" if request else url


class RunStatus(StrEnum):
    """The states of a run.

    ``interrupted`` means that nobody is at work on it: the lease ran out, or the worker left it to
    another attempt and said why. The same or a higher fence may resume it. All others but
    ``running`` are final. ``succeeded`` is a complete run, also one that found nothing to change;
    ``unchanged`` is one that had no batch, because the source said so (304) or sent the very bytes
    of the last complete run.
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
    """A worker begins (or takes over) a run; tenant, run, profile and fence are in its grant.

    ``collect`` is an ordinary run. A ``backfill`` is about the periods ``range_start`` ≤ start <
    ``range_end`` only: it withdraws nothing outside of them and leaves the cursor alone. A
    ``remap`` reads the stored bytes of one run instead of the source, a ``merge`` those of several,
    where of equal keys the one of the later run counts. ``rehearsal``: whatever it comes to stays
    hidden; it ends as partial with the code ``rehearsal``.
    """

    run: Id
    fence: Fence
    kind: Literal["collect", "backfill", "remap", "merge"] = "collect"
    range_start: PeriodText | None = None
    range_end: PeriodText | None = None
    rehearsal: bool = False


class RunFinish(_Wire, frozen=True, kw_only=True):
    """A worker's account of how its attempt ended.

    ``complete`` asks for publication: the aggregator checks ``expect``, ``max_rejects`` and the
    batch count itself and may answer ``failed``. ``unchanged`` is a run with no batch.
    """

    run: Id
    fence: Fence
    outcome: Literal["complete", "unchanged", "partial", "failed", "cancelled", "interrupted"]
    batches: NotNegative = 0
    pages: NotNegative = 0
    bytes_fetched: NotNegative = 0
    requests: NotNegative = 0
    replayed: bool = False
    """Some answer was a recorded copy's, be it only "not modified"."""
    cursor: Annotated[str, Meta(max_length=1000)] | None = None
    columns: Annotated[list[SourceColumn], Meta(max_length=COLUMNS_MAX)] = []
    """What the source's rows looked like, those columns too that no field reads."""
    code: Annotated[str, Meta(max_length=100)] = ""
    reason: Annotated[str, Meta(max_length=2000)] = ""


class RunClose(_Wire, frozen=True, kw_only=True):
    """The coordinator ends a run that no worker will end: its task is dead or cancelled."""

    run: Id
    fence: Fence
    profile: Name
    profile_digest: Digest
    task: Id
    outcome: Literal["failed", "cancelled"]
    code: Annotated[str, Meta(max_length=100)] = ""
    reason: Annotated[str, Meta(max_length=2000)] = ""


class Run(Struct, frozen=True, kw_only=True):
    """A run as it is read back: what it is, who runs it, and what it came to.

    ``records`` counts distinct keys: ``new`` (not known, or withdrawn before), ``changed`` and
    ``unchanged``. ``publication`` is the publication that readers see since this run: its own, or
    the one before it where a complete run found nothing to change.
    """

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
    unasked: int = 0
    """Published records that did not come, and that the run had not asked for: they stay."""
    kept: int = 0
    """Published records whose rows came and were rejected: they stay what they were."""
    withheld: int = 0
    """Records that did not come and are not withdrawn, because of some rejected rows nobody can
    tell which records they are."""
    duplicates: int = 0
    rejects: int = 0
    pages: int = 0
    requests: int = 0
    bytes_fetched: int = 0
    """Both of the attempt that ended it: what one was killed at has told nobody."""
    cursor: str | None = None
    code: str = ""
    reason: str = ""
    kind: str = "collect"
    range_start: str | None = None
    range_end: str | None = None
    rehearsal: bool = False
    usual: int = 0
    """How many records a run of this profile usually brings; 0 while that is not known."""
    drift: list[Drift] = []
    """How what the run saw differs from what the last good runs saw."""
    drift_accepted: bool = False
    """Somebody said that it is to be like this from now on."""


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

    ``recorded_from`` ≤ t < ``recorded_to`` is when this revision was what we knew. A withdrawn one
    repeats what it withdraws.
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
    run: str = ""
    """The run that wrote this revision."""
    publication: int | None = None
    """The publication it came with; ``None`` while it is not published."""
    provenance: Provenance | None = None
    """Left out unless asked for; a withdrawal has none: it comes from an absence."""
    personal: Literal["", "opened", "sealed", "omitted", "erased"] = ""
    """Of a record about a person: whether its personal fields are shown, not for this caller to
    see, not repeated by a withdrawal, or gone."""


class RecordHistory(Struct, frozen=True, kw_only=True):
    """A record: the revision asked for, and the published ones in order.

    ``omitted`` counts those that are not among them: of a record with very many the newest are
    listed, or those up to the one that is asked for.
    """

    record: Record
    revisions: list[Record]
    omitted: int = 0


class FieldChange(Struct, frozen=True, kw_only=True):
    """One field that differs: its full name (``measures.price``, ``measures.price.unit``)."""

    field: str
    old: Scalar
    new: Scalar


class RecordChange(Struct, frozen=True, kw_only=True):
    """One record that differs between two publications.

    ``fields`` has what a changed record says now and said before; ``record`` is the newer side,
    for a withdrawn one the last that was said.
    """

    kind: Literal["new", "changed", "withdrawn"]
    record: Record
    fields: list[FieldChange] = []


class RunDiff(Struct, frozen=True, kw_only=True):
    """What differs between what readers saw after the run ``base`` and after ``run``.

    ``base`` is empty where the comparison is with the moment before the run. ``hidden``: the run is
    not published, so this is what it would have changed. The counts are of the whole difference,
    the items one page of it.
    """

    profile: str
    base: str
    run: str
    base_publication: int
    publication: int | None
    hidden: bool
    new: int
    changed: int
    withdrawn: int
    items: list[RecordChange]
    next: str | None


class StoredReject(Struct, frozen=True, kw_only=True):
    """A reject as it is read back, with its run and profile.

    ``unkeyed``: nobody can tell which record it is. While a snapshot has such a row, it withdraws
    nothing: any record that did not come may be this one.
    """

    run: str
    profile: str
    response: int
    position: int
    field: str
    reason: str
    excerpt: str
    at: str
    unkeyed: bool = False


class Validator(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What makes a request for an address conditional, and the digest its answer had."""

    etag: str = ""
    last_modified: str = ""
    digest: str = ""
    size_bytes: int = 0
    media_type: str = ""
    following: str = ""
    total: str = ""


VALIDATORS_MAX = 2_000
"""Pages of the last complete run that a plan names."""


class RunPlan(Struct, frozen=True, kw_only=True):
    """Where a run begins.

    ``cursor`` and ``publication`` are the published ones. ``validators`` (by :func:`page_name`) are
    those of the last complete run under the same profile digest; empty if there is none. ``kept``
    says how many of the run's first pages its earlier attempts have stored: they need not be
    fetched again. ``started_at`` is when its first attempt began.
    """

    run: str
    publication: int
    cursor: str | None = None
    validators: dict[str, Validator] = {}
    kept: int = 0
    started_at: str = ""


class RemapSource(Struct, frozen=True, kw_only=True):
    """A run whose stored raw responses are to be mapped again; in the order of the list.

    Of a backfill only the records of its range count, whatever else its bytes hold.
    """

    run: str
    responses: int
    range_start: str | None = None
    range_end: str | None = None


class StoredResponse(Struct, frozen=True, kw_only=True):
    """A raw response as it is kept; ``repeated``: these bytes were there already."""

    run: str
    fence: int
    response: RawResponse
    stored_at: str
    repeated: bool = False


class Result(Struct, frozen=True, kw_only=True):
    """What a run came to: one line for each run that ended."""

    run: str
    profile: str
    profile_digest: str
    status: RunStatus
    finished_at: str
    publication: int | None
    records: int
    new: int
    changed: int
    unchanged: int
    withdrawn: int
    rejects: int
    code: str = ""
    reason: str = ""


class RecordFilter(_Wire, frozen=True, kw_only=True):
    """Which records to read.

    ``as_of`` is a moment: what was published then. ``vintage: first`` gives what was said first
    about each key, even if it was changed or withdrawn since. ``run`` gives what that run wrote,
    also while it is hidden. ``start`` ≤ period start < ``end`` (ISO dates or times). ``dimensions``
    compare as text. ``withdrawn`` includes tombstones, ``provenance`` where each came from.
    """

    profile: Name
    as_of: str | None = None
    vintage: Literal["latest", "first"] = "latest"
    run: Id | None = None
    start: str | None = None
    end: str | None = None
    dimensions: dict[str, str] = {}
    withdrawn: bool = False
    provenance: bool = False


class RecordPage(Struct, frozen=True, kw_only=True):
    """Some records of one publication. Following ``next`` stays in that publication."""

    items: list[Record]
    next: str | None
    publication: int


class RunFilter(_Wire, frozen=True, kw_only=True):
    """Which runs, results or rejects to list; what is left empty does not narrow.

    ``since`` and ``until`` bound the time a run was opened (results: the same).
    """

    profile: str = ""
    status: RunStatus | None = None
    run: str = ""
    since: str = ""
    until: str = ""


class Freshness(Struct, frozen=True, kw_only=True):
    """How old what is published of a profile is; ``stale`` if silence exceeds what is normal."""

    profile: str
    publication: int
    records: int
    published_at: str | None
    succeeded_at: str | None
    freshness: str | None
    stale: bool
    age_seconds: float = 0.0
    """Since the last success."""
    late_seconds: float = 0.0
    """By how much the silence exceeds what is normal."""
    last_run: str = ""
    last_status: str = ""
    last_code: str = ""
    accepted: bool = False
    """Somebody accepted the shape that the last run failed for."""
    drifted: int = 0
    """Breaking changes of shape that the last run saw and nobody has accepted."""
    shrunk: bool = False
    """The last run brought less than half of what is usual, and nobody has accepted it."""
    problem: str = ""
    """What is wrong, in a line; empty if nothing is."""


class Notice(Struct, frozen=True, kw_only=True):
    """Something about a source that somebody should be told, and whether the webhook was.

    ``due_at``: when the webhook is tried next; null where there is none, or it is settled.
    """

    id: str
    type: str
    profile: str
    run: str
    at: str
    data: dict[str, Any]
    attempts: int = 0
    due_at: str | None = None
    delivered_at: str | None = None
    problem: str = ""


class ProjectionInfo(Struct, frozen=True, kw_only=True):
    """A profile's records at one publication as a Parquet file.

    ``path`` is where the file lies on the machine of whoever was asked; over HTTP the client
    fetches it and names its own copy.
    """

    profile: str
    publication: int
    rows: int
    digest: str
    size_bytes: int
    path: str
    recorded_at: str | None
    profile_digest: str


def may_become(before: RunStatus, after: RunStatus) -> bool:
    """Whether a run may go from one state to the other."""
    return after in RUN_TRANSITIONS[before]


def is_final(status: RunStatus) -> bool:
    """Whether nothing follows."""
    return not RUN_TRANSITIONS[status]
