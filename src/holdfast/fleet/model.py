"""Workers, tasks and schedules as they travel. Pure types and rules, no I/O.

**Task.** ``queued → leased → succeeded | failed → (retry after backoff) | dead | cancelled``.
A lease carries a *fence*: a number that grows with each lease of the task and comes only from SQL.
A late, foreign or doubled answer carries a wrong fence and is refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Fence = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
Id = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]


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
    capabilities: list[Name] = []
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    residency: str = ""
    not_before: str | None = None
    deadline: str | None = None
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 4
    lease_seconds: Annotated[int, Meta(ge=1, le=3600)] = 30
    exclusive: str = ""
    """At most one unfinished task with the same non-empty value exists: a second submission
    answers with the first. Profile runs use ``profile:NAME``."""


class Task(Struct, frozen=True, kw_only=True):
    """A task as it is read back."""

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
    code: str = ""
    reason: str = ""


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


class Claim(_Wire, frozen=True, kw_only=True):
    """Ask for up to ``limit`` tasks, waiting up to ``wait_seconds`` for the first."""

    kinds: list[Name] = field(default_factory=lambda: ["collect"])
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait_seconds: Annotated[float, Meta(ge=0, le=30)] = 0


class ClaimedTask(Struct, frozen=True, kw_only=True):
    """A leased task and the signed grant that goes with it."""

    task: Task
    grant: str


class Beat(_Wire, frozen=True, kw_only=True):
    """A worker is alive and still holds these leases (task id → fence)."""

    leases: dict[str, Fence] = {}
    load: dict[str, int] = {}


class BeatAnswer(Struct, frozen=True, kw_only=True):
    """Renewed leases with fresh grants; ``lost`` must be abandoned at once, ``cancelled`` ended."""

    renewed: dict[str, str]
    lost: list[str]
    cancelled: list[str]
    next_seconds: float


class Complete(_Wire, frozen=True, kw_only=True):
    """The end of a leased task."""

    fence: Fence
    outcome: Literal["succeeded", "failed"]
    result: dict[str, Any] = {}
    code: str = ""
    reason: str = ""
    retry: bool = True
    retry_after_seconds: Annotated[float, Meta(ge=0, le=86400)] | None = None


class WorkerRegister(_Wire, frozen=True, kw_only=True):
    """A worker introduces itself with a join token; ``name`` is its ``DRONE_ID``."""

    name: Name
    capabilities: list[Name] = field(default_factory=lambda: ["collect"])
    labels: dict[str, str] = {}
    region: str = ""
    capacity: Annotated[int, Meta(ge=1, le=1000)] = 1
    version: str = ""


class WorkerCredential(Struct, frozen=True, kw_only=True):
    """The answer to a registration; the secret is shown once."""

    worker: str
    name: str
    credential: str
    beat_seconds: float
    lost_after_seconds: float


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
    leases: int = 0
