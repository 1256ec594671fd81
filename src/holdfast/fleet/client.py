"""The fleet over HTTP: the same methods as the service, for drones, commands and other roles.

Imports no server package: a drone is the base install.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

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
    TaskSubmit,
    Worker,
    WorkerCredential,
    WorkerIdentity,
    WorkerRegister,
    WorkerSummary,
)
from holdfast.kernel.errors import BY_KIND, HoldfastError, Kind
from holdfast.kernel.http.client import ApiClient, with_key
from holdfast.kernel.http.paging import Page
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

JOIN_TOKEN_HEADER = "Holdfast-Join-Token"  # noqa: S105 — the name of a header
CLAIM_GRACE_SECONDS = 15.0


class FleetClient:
    """What :class:`~holdfast.fleet.service.FleetService` promises, over an :class:`ApiClient`.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def submit(
        self, principal: Principal | None, submit: TaskSubmit, *, idempotency_key: str = ""
    ) -> Task:
        """See :meth:`FleetService.submit`."""
        headers = with_key(idempotency_key)
        return await self._api.request("POST", "/v1/tasks", json=submit, headers=headers, type=Task)

    async def submit_many(
        self,
        principal: Principal | None,
        submits: Sequence[TaskSubmit],
        *,
        idempotency_key: str = "",
    ) -> list[Task | HoldfastError]:
        """See :meth:`FleetService.submit_many`; at most 1,000 at a time."""
        answers = await self._api.request(
            "POST",
            "/v1/tasks/batch",
            json=list(submits),
            headers=with_key(idempotency_key),
            type=list[Submitted],
        )
        return [_outcome(answer) for answer in answers]

    async def collect(
        self, principal: Principal | None, request: CollectRequest, *, idempotency_key: str = ""
    ) -> Task:
        """See :meth:`FleetService.collect`."""
        headers = with_key(idempotency_key)
        return await self._api.request(
            "POST", "/v1/tasks/collect", json=request, headers=headers, type=Task
        )

    async def show_task(self, principal: Principal | None, task: str) -> Task:
        """See :meth:`FleetService.show_task`."""
        return await self._api.request("GET", _at("tasks", task), type=Task)

    async def list_tasks(
        self,
        principal: Principal | None,
        wanted: TaskFilter | None = None,
        *,
        before: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Task], str | None]:
        """See :meth:`FleetService.list_tasks`."""
        wanted = wanted or TaskFilter()
        params = {
            "status": wanted.status.value if wanted.status else None,
            "kind": wanted.kind or None,
            "worker": wanted.worker or None,
            "exclusive": wanted.exclusive or None,
            "run": wanted.run or None,
        }
        return await self._api.page(
            "/v1/tasks", TASKS, type=Page[Task], after=before, limit=limit, params=params
        )

    async def cancel(self, principal: Principal | None, task: str, reason: str = "") -> Task:
        """See :meth:`FleetService.cancel`."""
        return await self._api.request(
            "POST", f"{_at('tasks', task)}/cancel", json=Cancel(reason=reason), type=Task
        )

    async def schedules(self, principal: Principal | None) -> list[ScheduledProfile]:
        """See :meth:`FleetService.schedules`."""
        return await self._api.request("GET", "/v1/schedules", type=list[ScheduledProfile])

    # --- work ---------------------------------------------------------------------------------

    async def claim(self, principal: Principal | None, claim: Claim) -> list[ClaimedTask]:
        """See :meth:`FleetService.claim`. The call lasts as long as the claim waits, and a bit."""
        return await self._api.request(
            "POST",
            "/v1/tasks/claim",
            json=claim,
            type=list[ClaimedTask],
            timeout_seconds=claim.wait_seconds + CLAIM_GRACE_SECONDS,
        )

    async def complete(self, principal: Principal | None, task: str, complete: Complete) -> Task:
        """See :meth:`FleetService.complete`."""
        return await self._api.request(
            "POST", f"{_at('tasks', task)}/complete", json=complete, type=Task
        )

    async def admit(
        self, principal: Principal | None, task: str, wanted: RequestsWanted
    ) -> RequestsGranted:
        """See :meth:`FleetService.admit`."""
        return await self._api.request(
            "POST", f"{_at('tasks', task)}/requests", json=wanted, type=RequestsGranted
        )

    async def places(
        self, principal: Principal | None, task: str, wanted: PlacesWanted
    ) -> PlacesHeld:
        """See :meth:`FleetService.places`."""
        return await self._api.request(
            "POST", f"{_at('tasks', task)}/places", json=wanted, type=PlacesHeld
        )

    async def pace(self, principal: Principal | None, task: str, wanted: PaceWanted) -> PaceGiven:
        """See :meth:`FleetService.pace`."""
        return await self._api.request(
            "POST", f"{_at('tasks', task)}/pace", json=wanted, type=PaceGiven
        )

    async def complete_many(
        self, principal: Principal | None, completes: Sequence[CompleteTask]
    ) -> list[Completed]:
        """See :meth:`FleetService.complete_many`; at most 1,000 at a time."""
        return await self._api.request(
            "POST", "/v1/tasks/complete", json=list(completes), type=list[Completed]
        )

    async def beat(self, principal: Principal | None, beat: Beat) -> BeatAnswer:
        """See :meth:`FleetService.beat`."""
        return await self._api.request("POST", "/v1/workers/beat", json=beat, type=BeatAnswer)

    # --- workers ------------------------------------------------------------------------------

    async def register(
        self,
        join_token: str,
        registration: WorkerRegister,
        certificate: str | None = None,
        proof: str | None = None,
    ) -> WorkerCredential:
        """See :meth:`FleetService.register`; needs no token but the join token.

        The certificate is the connection's own, whatever is said here, and the proof what the
        client of this proves.
        """
        return await self._api.request(
            "POST",
            "/v1/workers/register",
            json=registration,
            headers={JOIN_TOKEN_HEADER: join_token},
            type=WorkerCredential,
        )

    async def worker_token_create(
        self, principal: Principal | None, create: JoinTokenCreate, *, idempotency_key: str = ""
    ) -> JoinToken:
        """See :meth:`FleetService.worker_token_create`."""
        headers = with_key(idempotency_key)
        return await self._api.request(
            "POST", "/v1/workers/tokens", json=create, headers=headers, type=JoinToken
        )

    async def list_join_tokens(
        self,
        principal: Principal | None,
        *,
        before: str = "",
        limit: int = 100,
        maker: str = "",
    ) -> tuple[list[JoinTokenInfo], str | None]:
        """See :meth:`FleetService.list_join_tokens`."""
        return await self._api.page(
            "/v1/workers/tokens",
            JOIN_TOKENS,
            type=Page[JoinTokenInfo],
            after=before,
            limit=limit,
            params={"maker": maker} if maker else None,
        )

    async def end_join_token_of(self, principal: Principal | None, token: str) -> JoinTokenInfo:
        """See :meth:`FleetService.end_join_token_of`."""
        return await self._api.request(
            "POST", f"{_at('workers/tokens', token)}/end", type=JoinTokenInfo
        )

    async def authenticate_worker(
        self, credential: str, certificate: str | None = None
    ) -> Principal:
        """See :meth:`FleetService.authenticate_worker`; for services only."""
        return (await self.find_worker_holder(credential, certificate))[0]

    async def find_worker_holder(
        self, credential: str, certificate: str | None = None
    ) -> tuple[Principal, str]:
        """See :meth:`FleetService.find_worker_holder`; for services only."""
        found = await self._api.request(
            "POST",
            "/v1/workers/authenticate",
            json={"credential": credential, "certificate": certificate},
            type=WorkerIdentity,
        )
        known = {permission.value: permission for permission in Permission}
        principal = Principal(
            TenantId(found.tenant),
            found.worker,
            PrincipalKind.WORKER,
            frozenset(known[name] for name in found.permissions if name in known),
        )
        return principal, found.key

    async def list_workers(
        self, principal: Principal | None, *, after: str = "", limit: int = 100
    ) -> tuple[list[Worker], str | None]:
        """See :meth:`FleetService.list_workers`."""
        return await self._api.page(
            "/v1/workers", WORKERS, type=Page[Worker], after=after, limit=limit
        )

    async def summarise_workers(
        self, principal: Principal | None, *, limit: int = 50
    ) -> WorkerSummary:
        """See :meth:`FleetService.summarise_workers`."""
        return await self._api.request(
            "GET", "/v1/workers/summary", params={"limit": limit}, type=WorkerSummary
        )

    async def revoke_worker(self, principal: Principal | None, worker: str) -> Worker:
        """See :meth:`FleetService.revoke_worker`."""
        return await self._api.request(
            "POST", f"{_at('workers', worker)}/revoke", json={}, type=Worker
        )


def _at(noun: str, identity: str) -> str:
    return f"/v1/{noun}/{quote(identity, safe='')}"


def _outcome(answer: Submitted) -> Task | HoldfastError:
    if answer.task is not None:
        return answer.task
    assert answer.refused is not None, "an answer is a task or a refusal"
    refused = answer.refused
    return BY_KIND[Kind(refused.kind)](refused.detail, code=refused.code)
