"""The fleet over HTTP: parse, call the service, map the answer."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response
from msgspec import Meta, Struct

from holdfast.fleet.client import JOIN_TOKEN_HEADER
from holdfast.fleet.model import (
    JOIN_TOKENS,
    TASKS,
    WORKERS,
    Beat,
    BeatAnswer,
    Cancel,
    Claim,
    ClaimedTask,
    CollectRequest,
    Complete,
    Completed,
    CompleteTask,
    JoinToken,
    JoinTokenCreate,
    JoinTokenInfo,
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    RequestsGranted,
    RequestsWanted,
    ScheduledProfile,
    Submitted,
    Task,
    TaskFilter,
    TaskStatus,
    TaskSubmit,
    Worker,
    WorkerCredential,
    WorkerIdentity,
    WorkerRegister,
    WorkerSummary,
)
from holdfast.fleet.proofs import HEADER as PROOF_HEADER
from holdfast.fleet.service import FleetService, submitted
from holdfast.kernel.errors import Denied
from holdfast.kernel.http import ApiRequest, Page, get, post
from holdfast.kernel.http.door import STOPPING
from holdfast.kernel.http.paging import Limit, page_after, text_position
from holdfast.kernel.http.routes import Header, KeyText
from holdfast.kernel.principal import Permission, Principal, PrincipalKind
from holdfast.kernel.tls import CERTIFICATE

BATCH_BYTES = 8 * 1024 * 1024


class PresentedCredential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's credential as the door was shown it."""

    credential: Annotated[str, Meta(max_length=200)]
    certificate: Annotated[str, Meta(max_length=200)] | None = None
    """The name in the certificate it came with; empty if there was none, null if nobody asks."""


def handlers(service: FleetService) -> list[Any]:
    """The routes of the coordinator's fleet."""
    return [*_task_handlers(service), *_work_handlers(service), *_worker_handlers(service)]


def _task_handlers(service: FleetService) -> list[Any]:
    @post("/v1/tasks", permission=Permission.TASKS_WRITE)
    async def submit_task(principal: Principal, data: TaskSubmit, key: KeyText = "") -> Task:
        """Submit a task."""
        return await service.submit(principal, data, idempotency_key=key)

    @post("/v1/tasks/batch", permission=Permission.TASKS_WRITE, body_limit=BATCH_BYTES)
    async def submit_tasks(
        principal: Principal,
        data: Annotated[list[TaskSubmit], Meta(max_length=1000)],
        key: KeyText = "",
    ) -> list[Submitted]:
        """Submit several tasks, each on its own."""
        outcomes = await service.submit_many(principal, data, idempotency_key=key)
        return [submitted(each) for each in outcomes]

    @post("/v1/tasks/collect", permission=Permission.TASKS_WRITE, profile="data.profile")
    async def collect_task(principal: Principal, data: CollectRequest, key: KeyText = "") -> Task:
        """Run a profile now."""
        return await service.collect(principal, data, idempotency_key=key)

    @get("/v1/tasks", permission=Permission.TASKS_READ, within=True)
    async def list_tasks(
        principal: Principal,
        status: TaskStatus | None = None,
        kind: str = "",
        worker: str = "",
        exclusive: str = "",
        run: str = "",
        limit: Limit = 100,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first."""
        wanted = TaskFilter(status=status, kind=kind, worker=worker, exclusive=exclusive, run=run)
        before = text_position(TASKS, cursor) or None
        items, following = await service.list_tasks(principal, wanted, before=before, limit=limit)
        return page_after(TASKS, items, following)

    @get("/v1/tasks/{task:str}", permission=Permission.TASKS_READ, within=True)
    async def show_task(principal: Principal, task: str) -> Task:
        """Show one task with the attempts that came to nothing."""
        return await service.show_task(principal, task)

    @post("/v1/tasks/{task:str}/cancel", permission=Permission.TASKS_WRITE, status=200, within=True)
    async def cancel_task(principal: Principal, task: str, data: Cancel) -> Task:
        """Cancel a task that is not finished."""
        return await service.cancel(principal, task, data.reason)

    @get("/v1/schedules", permission=Permission.TASKS_READ, within=True)
    async def list_schedules(principal: Principal) -> list[ScheduledProfile]:
        """List when each profile is due."""
        return await service.schedules(principal)

    return [
        submit_task,
        submit_tasks,
        collect_task,
        list_tasks,
        show_task,
        cancel_task,
        list_schedules,
    ]


def _work_handlers(service: FleetService) -> list[Any]:
    @post("/v1/tasks/claim", permission=Permission.TASKS_WORK, status=200)
    async def claim_tasks(
        principal: Principal, data: Claim, request: ApiRequest
    ) -> list[ClaimedTask]:
        """Lease tasks, waiting for the first if asked to."""
        stopping = request.scope.get("state", {}).get(STOPPING)
        return await service.claim(principal, data, stopping=stopping)

    @post("/v1/tasks/{task:str}/complete", permission=Permission.TASKS_WORK, status=200)
    async def complete_task(principal: Principal, task: str, data: Complete) -> Task:
        """End a leased task."""
        return await service.complete(principal, task, data)

    @post("/v1/tasks/{task:str}/requests", permission=Permission.TASKS_WORK, status=200)
    async def admit_requests(
        principal: Principal, task: str, data: RequestsWanted
    ) -> RequestsGranted:
        """Ask for leave to ask a source that wants no more than so many requests a day."""
        return await service.admit(principal, task, data)

    @post("/v1/tasks/{task:str}/places", permission=Permission.TASKS_WORK, status=200)
    async def hold_places(principal: Principal, task: str, data: PlacesWanted) -> PlacesHeld:
        """Ask for places at a host: requests that may be under way there at once."""
        return await service.places(principal, task, data)

    @post("/v1/tasks/{task:str}/pace", permission=Permission.TASKS_WORK, status=200)
    async def give_pace(principal: Principal, task: str, data: PaceWanted) -> PaceGiven:
        """Ask when a request to a host may begin that wants no more than so many a minute."""
        return await service.pace(principal, task, data)

    @post(
        "/v1/tasks/complete",
        permission=Permission.TASKS_WORK,
        status=200,
        body_limit=BATCH_BYTES,
    )
    async def complete_tasks(
        principal: Principal, data: Annotated[list[CompleteTask], Meta(max_length=1000)]
    ) -> list[Completed]:
        """End several leased tasks, each on its own."""
        return await service.complete_many(principal, data)

    @post("/v1/workers/beat", permission=Permission.TASKS_WORK, status=200)
    async def beat_worker(principal: Principal, data: Beat) -> BeatAnswer:
        """Tell that a worker is alive and renew its leases."""
        return await service.beat(principal, data)

    return [
        claim_tasks,
        complete_task,
        admit_requests,
        hold_places,
        give_pace,
        complete_tasks,
        beat_worker,
    ]


def _worker_handlers(service: FleetService) -> list[Any]:
    @post("/v1/workers/register", permission=Permission.PUBLIC)
    async def register_worker(
        request: ApiRequest,
        data: WorkerRegister,
        join_token: Annotated[str, Header(JOIN_TOKEN_HEADER)],
        proof: Annotated[str, Header(PROOF_HEADER)] = "",
    ) -> Response[WorkerCredential]:
        """Register a worker by its join token."""
        shown = request.scope.get(CERTIFICATE)
        certificate = None if shown is None else str(shown)
        credential = await service.register(join_token, data, certificate, proof)
        return Response(content=credential, status_code=201, headers={"Cache-Control": "no-store"})

    @post("/v1/workers/tokens", permission=Permission.WORKERS_WRITE)
    async def create_worker_token(
        principal: Principal, data: JoinTokenCreate, key: KeyText = ""
    ) -> Response[JoinToken]:
        """Make a join token; its text is shown once."""
        token = await service.worker_token_create(principal, data, idempotency_key=key)
        return Response(content=token, status_code=201, headers={"Cache-Control": "no-store"})

    @get("/v1/workers/tokens", permission=Permission.WORKERS_READ)
    async def list_worker_tokens(
        principal: Principal,
        limit: Limit = 100,
        cursor: str | None = None,
        maker: Annotated[str, Meta(max_length=255)] = "",
    ) -> Page[JoinTokenInfo]:
        """List join tokens, the newest first, without their texts; with ``maker`` those that this
        key or person made."""
        before = text_position(JOIN_TOKENS, cursor)
        items, following = await service.list_join_tokens(
            principal, before=before, limit=limit, maker=maker
        )
        return page_after(JOIN_TOKENS, items, following)

    @post("/v1/workers/tokens/{token:str}/end", permission=Permission.WORKERS_WRITE, status=200)
    async def end_worker_token(principal: Principal, token: str) -> JoinTokenInfo:
        """Admit nobody by this join token from now on; whom it admitted stays."""
        return await service.end_join_token_of(principal, token)

    @get("/v1/workers", permission=Permission.WORKERS_READ)
    async def list_workers(
        principal: Principal, limit: Limit = 100, cursor: str | None = None
    ) -> Page[Worker]:
        """List workers by name."""
        after = text_position(WORKERS, cursor)
        items, following = await service.list_workers(principal, after=after, limit=limit)
        return page_after(WORKERS, items, following)

    @get("/v1/workers/summary", permission=Permission.WORKERS_READ)
    async def summarise_workers(principal: Principal, limit: Limit = 50) -> WorkerSummary:
        """Count the workers by status and show some, those that beat first."""
        return await service.summarise_workers(principal, limit=limit)

    @post("/v1/workers/{worker:str}/revoke", permission=Permission.WORKERS_WRITE, status=200)
    async def revoke_worker(principal: Principal, worker: str) -> Worker:
        """Refuse a worker from now on and free what it holds."""
        return await service.revoke_worker(principal, worker)

    @post("/v1/workers/authenticate", permission=Permission.WORKERS_READ, status=200)
    async def authenticate_worker(
        principal: Principal, data: PresentedCredential
    ) -> WorkerIdentity:
        """Tell the public door who holds a worker's credential; for services only."""
        if principal.kind is not PrincipalKind.SERVICE:
            raise Denied("cannot ask who holds a credential: only services may")
        found, key = await service.find_worker_holder(data.credential, data.certificate)
        return WorkerIdentity(
            tenant=found.tenant,
            worker=found.subject,
            permissions=sorted(permission.value for permission in found.permissions),
            key=key,
        )

    return [
        register_worker,
        create_worker_token,
        list_worker_tokens,
        end_worker_token,
        list_workers,
        summarise_workers,
        revoke_worker,
        authenticate_worker,
    ]
