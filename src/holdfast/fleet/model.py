"""Workers, tasks and schedules as they travel. Pure types and rules, no I/O.

**Task.** ``queued → leased → succeeded | failed → (retry after backoff) | dead | cancelled``.
A lease carries a *fence*: a number that grows with each lease and comes only from SQL, so that a
later lease, of this task or of a later one for the same profile, always has the higher fence. A
late, foreign or doubled answer carries a wrong fence and is refused.

**Lease.** It ends when its row says so: at the task's end, at its expiry as the coordinator finds
it, or when its worker is lost. Until then the holder's answer counts, however slow it was.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Fence = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$(?!\n)",
        description="1-64 of a-z, 0-9, dot, dash and underscore; a letter or digit at both ends",
    ),
]
PLAIN_NAME = "1-64 of a-z, 0-9, dot, dash and underscore; a letter or digit at both ends"
OptionalName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)?$(?!\n)",
        description=PLAIN_NAME,
    ),
]
OptionalDigest = Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$(?!\n)")]
OptionalKey = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")]
DayOrTime = Annotated[
    str,
    Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9.]{2,9}Z)?)?$(?!\n)"),
]
Id = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$(?!\n)"),
]


TASKS = "tasks"
WORKERS = "workers"
JOIN_TOKENS = "join-tokens"
"""The lists, as their cursors name them."""

COLLECT = "collect"
"""The kind of task, and the capability, of whoever collects."""
OF_PROFILE = "profile:"
"""How the exclusive name of what collects a profile begins; the profile's follows."""


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What arrives from outside refuses members it does not know."""


class TaskStatus(StrEnum):
    """The states of a task; ``succeeded``, ``dead`` and ``cancelled`` are final."""

    QUEUED = "queued"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class TaskSubmit(_Wire, frozen=True, kw_only=True):
    """A new task. ``id`` (made by the submitter) makes the submission idempotent."""

    id: Id | None = None
    kind: Name
    payload: dict[str, Any] = {}
    """Plain data in the restricted canonical form (decimals as text), at most 64 KiB."""
    capabilities: Annotated[list[Name], Meta(max_length=32)] = []
    """What a worker must have to be given the task: all of them."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    residency: OptionalName = ""
    """The only region whose workers may be given the task; any if empty."""
    not_before: str | None = None
    deadline: str | None = None
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 4
    lease_seconds: Annotated[int, Meta(ge=1, le=3600)] | None = None
    """How long a lease holds without a beat; the coordinator's setting if left out."""
    exclusive: Annotated[str, Meta(max_length=200)] = ""
    """At most one unfinished task with the same non-empty value exists: a second submission
    answers with the first. Profile runs use ``profile:NAME``."""


class TaskAttempt(Struct, frozen=True, kw_only=True):
    """A lease that ended without ending the task: who held it, until when, and what went wrong."""

    fence: int
    attempt: int
    worker: str
    ended_at: str
    code: str
    reason: str


class Task(Struct, frozen=True, kw_only=True):
    """A task as it is read back. ``history`` is filled in when one task is shown."""

    id: str
    kind: str
    payload: dict[str, Any]
    status: TaskStatus
    capabilities: list[str]
    priority: int
    residency: str
    fence: int
    attempts: int
    attempts_max: int
    worker: str | None
    created_at: str
    available_at: str
    deadline: str | None
    lease_seconds: int
    lease_expires_at: str | None
    finished_at: str | None
    result: dict[str, Any] | None
    exclusive: str = ""
    code: str = ""
    reason: str = ""
    history: list[TaskAttempt] = []


class CollectPayload(_Wire, frozen=True, kw_only=True):
    """Payload of a task of kind ``collect``: one run of one profile version."""

    run: Id
    profile: str
    digest: str
    trigger: Literal["schedule", "manual", "start"] = "schedule"
    limits: dict[str, Any] = {}
    """The operator's overriding limits, if any, as the registry holds them."""
    force: bool = False
    """Fetch without conditional headers."""
    pages: NotNegative = 0
    """At most this many pages; 0 for no bound besides the profile's own."""
    rehearsal: bool = False
    """Publish nothing: what it would change stays hidden and can be looked at."""
    remap: bool = False
    """Read the raw responses that are stored instead of the source."""
    range_start: DayOrTime = ""
    """Collect the periods from this on, and…"""
    range_end: DayOrTime = ""
    """…before this; the cursor stays where it is and nothing outside is withdrawn."""


class CollectRequest(_Wire, frozen=True, kw_only=True):
    """Run a profile now. Paused and disabled profiles are refused."""

    profile: Name
    trigger: Literal["manual", "start"] = "manual"
    force: bool = False
    pages: NotNegative = 0
    priority: Annotated[int, Meta(ge=-100, le=100)] = 10
    digest: OptionalDigest = ""
    """The version to run; the newest if left out."""
    rehearsal: bool = False
    """Publish nothing: what it would change stays hidden and can be looked at."""
    remap: bool = False
    """Read the raw responses that are stored instead of the source."""
    range_start: DayOrTime = ""
    """Collect the periods from this on, and…"""
    range_end: DayOrTime = ""
    """…before this; the cursor stays where it is and nothing outside is withdrawn."""


class Grant(Struct, frozen=True, kw_only=True):
    """What a claim entitles a worker to, signed by the coordinator (compact JWS, EdDSA).

    The aggregator trusts the signature, and checks the fence again inside the batch's transaction.
    """

    tenant: str
    task: str
    run: str
    profile: str
    digest: str
    worker: str
    fence: int
    lease_expires_at: str
    key: str = ""
    """The public signing key of the worker: what it posts is signed with the private half."""
    registration: str = ""
    """The event that put the key on the record."""


class Claim(_Wire, frozen=True, kw_only=True):
    """Ask for up to ``limit`` tasks, waiting up to ``wait_seconds`` for the first."""

    kinds: list[Name] = field(default_factory=lambda: ["collect"])
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait_seconds: Annotated[float, Meta(ge=0, le=30)] = 0
    number: NotNegative = 0
    """Grows with each claim of the worker, so that a beat can say which claims are settled; 0 for a
    worker that does not count its claims."""


class ClaimedTask(Struct, frozen=True, kw_only=True):
    """A leased task and the signed grant that goes with it."""

    task: Task
    grant: str


class Beat(_Wire, frozen=True, kw_only=True):
    """A worker is alive and still holds these leases (task id → fence).

    ``settled`` is the number of its last claim that is over: whatever that one and those before it
    brought is in ``leases`` or was ended. What they leased that the worker never heard of goes back
    to the queue. With ``leaving`` it also says that it stops: claims up to that number that are
    still under way lease nothing any more.
    """

    leases: Annotated[dict[Id, Fence], Meta(max_length=1000)] = {}
    settled: NotNegative | None = None
    leaving: bool = False
    load: Annotated[dict[str, int], Meta(max_length=32)] = {}


class BeatAnswer(Struct, frozen=True, kw_only=True):
    """Renewed leases with fresh grants; ``lost`` must be abandoned at once, ``cancelled`` ended."""

    renewed: dict[str, str]
    lost: list[str]
    cancelled: list[str]
    next_seconds: float
    claim_number: int | None = None
    """The highest number known of the worker's claims: the next one's is higher. A coordinator that
    does not count claims, and takes no ``released``, says nothing."""
    places: bool = False
    """Whether a place is asked for before a host is (:class:`PlacesWanted`). A coordinator that
    does not deal them says nothing."""
    paces: bool = False
    """Whether the moment of a request is asked for (:class:`PaceWanted`), as for places."""


class Complete(_Wire, frozen=True, kw_only=True):
    """The end of a lease. ``released`` gives the task back as it was: another takes it up at once,
    and no attempt is counted, as long as that does not happen to it all the time."""

    fence: Fence
    outcome: Literal["succeeded", "failed", "released"]
    result: dict[str, Any] = {}
    code: Annotated[str, Meta(max_length=100)] = ""
    reason: Annotated[str, Meta(max_length=2000)] = ""
    retry: bool = True
    retry_after_seconds: Annotated[float, Meta(ge=0, le=86400)] | None = None


class RequestsWanted(_Wire, frozen=True, kw_only=True):
    """The holder of a lease asks for leave to ask a source, of which ``limit`` requests may be made
    a day by the whole fleet. ``source`` is the source's ``host:port``."""

    fence: Fence
    source: Annotated[str, Meta(min_length=1, max_length=300)]
    limit: Fence
    requests: Annotated[int, Meta(ge=1, le=1000)] = 1


class RequestsGranted(Struct, frozen=True, kw_only=True):
    """Whether they may be made; what is left of the day, and when the next one begins."""

    granted: bool
    left: int
    resets_at: str


class PlacesWanted(_Wire, frozen=True, kw_only=True):
    """The holder of a lease says how many requests to a host it wants to have under way at once.

    ``places`` is how many in all, 0 to give back; ``busy`` of them are in use now and stay. It is
    what is wanted, not how much more: asked again, the answer is the same.
    """

    fence: Fence
    source: Annotated[str, Meta(min_length=1, max_length=300)]
    """The host, as ``host:port``."""
    places: Annotated[int, Meta(ge=0, le=1000)]
    busy: Annotated[int, Meta(ge=0, le=1000)] = 0
    turn: bool = False
    """Its turn is over: whoever waits goes first."""


class PlacesHeld(Struct, frozen=True, kw_only=True):
    """How many are held now, for how long they may be used before asking again; with none, when to
    ask again."""

    places: int
    turn_seconds: float
    again_seconds: float


class PaceWanted(_Wire, frozen=True, kw_only=True):
    """The holder of a lease asks when its next request to a host may begin, where so many a minute
    are to be made by the whole fleet."""

    fence: Fence
    source: Annotated[str, Meta(min_length=1, max_length=300)]
    """The host, as ``host:port``."""
    per_minute: Annotated[int, Meta(ge=1, le=1_000_000)]


class PaceGiven(Struct, frozen=True, kw_only=True):
    """Whether a moment was given, and how far ahead it lies; if not, when to ask again."""

    given: bool
    wait_seconds: float


class CompleteTask(Complete, frozen=True, kw_only=True):
    """One of several ends told at once."""

    task: Id


class Refusal(Struct, frozen=True, kw_only=True):
    """Why one of several was refused: what a problem document says of it."""

    kind: str
    code: str
    detail: str


class Submitted(Struct, frozen=True, kw_only=True):
    """The answer to one of several submissions: the task, or why it was refused."""

    task: Task | None
    refused: Refusal | None = None


class Completed(Struct, frozen=True, kw_only=True):
    """The answer to one of several ends: the task as it is now, or why it was refused."""

    task: str
    status: TaskStatus | None
    refused: Refusal | None = None


class Cancel(_Wire, frozen=True, kw_only=True):
    """End a task that nobody wants any more."""

    reason: Annotated[str, Meta(max_length=2000)] = ""


class TaskFilter(_Wire, frozen=True, kw_only=True):
    """Which tasks to list; what is left empty does not narrow."""

    status: TaskStatus | None = None
    kind: str = ""
    worker: str = ""
    exclusive: str = ""
    run: str = ""


class JoinTokenCreate(_Wire, frozen=True, kw_only=True):
    """What the workers admitted by a new join token may be."""

    capabilities: Annotated[list[Name], Meta(max_length=32)] = field(
        default_factory=lambda: ["collect"]
    )
    region: OptionalName = ""
    expires_seconds: Annotated[int, Meta(ge=1, le=31_536_000)] = 86_400
    uses_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """How many workers it admits; any number until it expires if left out."""


class JoinToken(Struct, frozen=True, kw_only=True):
    """A new join token; the text is shown once."""

    id: str
    token: str
    region: str
    capabilities: list[str]
    expires_at: str
    uses_max: int | None


class JoinTokenInfo(Struct, frozen=True, kw_only=True):
    """A join token as the list shows it: all but its text, which nobody has but its holder."""

    id: str
    region: str
    capabilities: list[str]
    created_at: str
    expires_at: str
    """When it admits nobody any more: as it was made, or when it was ended."""
    uses: int
    """How many workers it has admitted."""
    uses_max: int | None
    admits: bool
    """Whether it still admits a worker that it has not admitted before."""
    created_by: str = ""
    """Who made it; empty for what an earlier version made."""
    created_as: str = ""
    """What they were: ``operator``, ``person``, ``key``…"""
    ended: str = ""
    """Why it ended before it expired: ``ended`` by its id, or with its maker (``key-revoked``,
    ``key-expired``, ``person-disabled``, ``permission-lost``, ``maker-unknown``)."""


class WorkerSummary(Struct, frozen=True, kw_only=True):
    """How many workers there are, by status, and some of them: those that beat first.

    Who has been silent for ``lost_after_seconds`` is taken for lost, as soon as somebody looks: not
    while the coordinator was away.
    """

    counts: dict[WorkerStatus, int]
    workers: list[Worker]
    lost_after_seconds: float = 30.0


class ScheduledProfile(Struct, frozen=True, kw_only=True):
    """When a profile is next collected, and what it was last collected by."""

    profile: str
    digest: str
    next_at: str | None
    last_at: str | None
    last_task: str | None
    problem: str = ""


class WorkerRegister(_Wire, frozen=True, kw_only=True):
    """A worker introduces itself with a join token; ``name`` is its ``DRONE_ID``.

    The token fixes tenant, region and capabilities: a region other than the token's is refused, of
    the capabilities those count that the token grants. The same name again is the same worker after
    a restart: it keeps its id, and its old credential is dead.
    """

    name: Name
    capabilities: Annotated[list[Name], Meta(max_length=32)] = field(
        default_factory=lambda: ["collect"]
    )
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=200)]], Meta(max_length=32)] = {}
    region: OptionalName = ""
    capacity: Annotated[int, Meta(ge=1, le=1000)] = 1
    version: Annotated[str, Meta(max_length=100)] = ""
    key: OptionalKey = ""
    """The public half of the Ed25519 key with which it will sign what it posts, in hexadecimal:
    made for this registration. Whoever collects needs one."""


class WorkerCredential(Struct, frozen=True, kw_only=True):
    """The answer to a registration; the secret is shown once."""

    worker: str
    name: str
    credential: str
    beat_seconds: float
    lost_after_seconds: float


class WorkerIdentity(Struct, frozen=True, kw_only=True):
    """Who holds a credential, as the public door is told."""

    tenant: str
    worker: str
    permissions: list[str]
    key: str = ""
    """The key that has to sign for each request, if its credential is bound to one."""


class WorkerStatus(StrEnum):
    """``lost`` is silence past the timeout: its leases are free."""

    ALIVE = "alive"
    LOST = "lost"
    REVOKED = "revoked"


class Worker(Struct, frozen=True, kw_only=True):
    """A worker as the list shows it."""

    id: str
    name: str
    status: WorkerStatus
    capabilities: list[str]
    labels: dict[str, str]
    region: str
    capacity: int
    version: str
    registered_at: str
    last_beat_at: str | None
    silent_seconds: float | None = None
    """Since the last beat, by the coordinator's clock; null where none is known."""
    leases: int = 0
    load: dict[str, int] = {}
    key: str = ""
    """Its public signing key, in hexadecimal."""
    bound: bool = False
    """Whether its credential is good only together with that key."""
