"""What a drone needs from the system: small views of its services.

Every call may be repeated with the same content: the answer is the same, the effect happens once.
Implementations raise kernel errors only. ``control.py`` has the ones that speak HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from holdfast.collect.batches import Filled
from holdfast.fleet.model import (
    Beat,
    BeatAnswer,
    Claim,
    ClaimedTask,
    Complete,
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    RequestsGranted,
    RequestsWanted,
    Task,
    WorkerCredential,
    WorkerRegister,
)
from holdfast.kernel.signing import SigningKey
from holdfast.records.model import BatchReceipt, RawResponse, RemapSource, Run, RunFinish, RunPlan
from holdfast.registry.model import Profile


class Fleet(Protocol):
    """The coordinator, as one worker sees it."""

    async def register(
        self, request: WorkerRegister, join_token: str, key: SigningKey
    ) -> WorkerCredential:
        """Become the worker of that name, proving that ``key`` is ours; its earlier credential is
        dead from now on."""
        ...

    async def claim(self, request: Claim) -> list[ClaimedTask]:
        """Lease tasks, waiting at the coordinator for the first as long as the request says."""
        ...

    async def beat(self, request: Beat) -> BeatAnswer:
        """Say that the worker is alive; the answer renews, takes back or cancels its leases."""
        ...

    async def admit(self, task: str, request: RequestsWanted) -> RequestsGranted:
        """Leave for requests to a source with a daily quota; asked again, it is taken again."""
        ...

    async def places(self, task: str, request: PlacesWanted) -> PlacesHeld:
        """Say how many requests to a host are to be under way at once; how many may be."""
        ...

    async def pace(self, task: str, request: PaceWanted) -> PaceGiven:
        """The moment of the next request to a host; asked again, another is given."""
        ...

    async def complete(self, task: str, request: Complete) -> Task:
        """End a leased task. A wrong fence is a :class:`Conflict`."""
        ...


class Profiles(Protocol):
    """The registry, as a drone sees it."""

    async def version(self, name: str, digest: str) -> Profile:
        """The one immutable version; its content has that digest."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What sort of run is opened; see :class:`~holdfast.records.model.RunOpen`."""

    kind: Literal["collect", "backfill", "remap", "merge"] = "collect"
    range_start: str | None = None
    range_end: str | None = None
    rehearsal: bool = False


ORDINARY = Opening()


class RunLog(Protocol):
    """The aggregator, as one attempt of one run sees it; each call carries the newest grant."""

    async def open(self, how: Opening) -> Run:
        """Begin or take over the run. A lower fence than the run has seen is a Conflict."""
        ...

    async def plan(self) -> RunPlan:
        """Where the run begins: cursor and validators of the last complete one."""
        ...

    async def store_response(self, response: RawResponse, body: Path) -> None:
        """Keep the raw bytes: durable when this returns."""
        ...

    async def kept(self, after: int) -> list[RawResponse]:
        """Pages that earlier attempts have stored, from the one after ``after`` on, some at a time;
        empty at the end."""
        ...

    async def copy_known(self, digest: str, target: Path) -> None:
        """Write bytes that this run or the last complete one has stored to the file ``target``.

        ``NotFound`` if they are not kept; whatever is in ``target`` after a failure is worthless.
        """
        ...

    async def store_known(self, response: RawResponse) -> None:
        """Keep the account of bytes that are stored already: durable when this returns.

        ``NotFound`` if they are not.
        """
        ...

    async def post(
        self, sequence: int, filled: Filled, responses: Mapping[int, str]
    ) -> BatchReceipt:
        """Sign and stage the attempt's batch of that number: durable when this returns.

        ``responses`` has the digests of the raw responses that it came from.
        """
        ...

    async def finish(self, request: RunFinish) -> Run:
        """End the attempt; a complete run is published, or fails, in one transaction."""
        ...

    async def remap_sources(self) -> list[RemapSource]:
        """The runs whose stored bytes a re-mapping reads, in the order in which to read them."""
        ...

    async def remap_responses(self, source: str) -> list[RawResponse]:
        """The accounts of one of these runs' responses, in order."""
        ...

    def remap_body(self, source: str, sequence: int) -> AsyncIterator[bytes]:
        """The bytes of one of these responses."""
        ...


class ControlPlane(Protocol):
    """Everything a drone talks to, with one credential."""

    @property
    def fleet(self) -> Fleet: ...

    @property
    def profiles(self) -> Profiles: ...

    def use(self, credential: str, key: SigningKey) -> None:
        """Present ``credential`` from now on, and prove with ``key`` that it is ours; sign batches
        with ``key``, too, where a grant names it."""
        ...

    def run_log(self, run: str, fence: int, grant: Callable[[], str]) -> RunLog:
        """The aggregator for one attempt; ``grant`` answers the newest grant at each call."""
        ...
