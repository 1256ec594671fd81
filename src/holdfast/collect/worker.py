"""The drone: registers, beats, claims, collects, answers.

Three things go on side by side, and none waits for another: beats keep the leases, claims bring
tasks, attempts carry them out. Parsing has a thread of its own, so a busy drone does not look dead.
Every lease can be taken away at any moment; then the attempt stops at once and says nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from holdfast import __version__
from holdfast.collect.control import grant_claims
from holdfast.collect.errors import QuotaReached
from holdfast.collect.paces import Paces
from holdfast.collect.places import Places
from holdfast.collect.ports import ControlPlane
from holdfast.collect.remap import Remapping
from holdfast.collect.robots import Robots
from holdfast.collect.runner import Collection, Ending, LeaseLost
from holdfast.collect.secrets import SecretStore
from holdfast.collect.settings import DroneSettings
from holdfast.collect.state import keep_credential, load_credential, new_key, own_spool
from holdfast.collect.taking import Attempt, Tools
from holdfast.collect.tokens import Tokens
from holdfast.fleet.model import (
    Beat,
    Claim,
    ClaimedTask,
    CollectPayload,
    Complete,
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    RequestsWanted,
    WorkerCredential,
    WorkerRegister,
)
from holdfast.kernel.clock import Clock, SystemClock, parse_timestamp
from holdfast.kernel.errors import (
    Conflict,
    Denied,
    Exhausted,
    HoldfastError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.files import read_handed
from holdfast.kernel.outbound import OutboundClient, parse_target
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import get_logger
from holdfast.registry.model import Limits, Profile
from holdfast.registry.versions import LimitsOverride, effective_limits

T = TypeVar("T")
log = get_logger("drone")

CLAIM_WAIT_SECONDS = 20.0
_PAUSE_SECONDS_MAX = 15.0
_PROFILES_KEPT = 64
JOIN_HINT = (
    "`holdfast worker token --out FILE` makes one at the control plane; --join-token-file "
    "(HOLDFAST_DRONE_JOIN_TOKEN_FILE) names its file here"
)
NO_JOIN_TOKEN = ("join-token-invalid", "credential-malformed")
_JOIN_TOKEN_BYTES_MAX = 4096
STOPPED = "drone-stopped"
WITHOUT_KEY = "worker-without-key"
"""The coordinator knows the credential, and no signing key: an earlier release registered it."""

Ended = Literal["", "lost", "cancelled", "stopping"]


@dataclass(slots=True)
class Lease:
    """A task held by this drone. ``grant`` is the newest; ``ended`` says why it is no longer."""

    task: str
    fence: int
    grant: str
    ended: Ended = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, why: Ended) -> None:
        """The first reason counts."""
        if not self.ended:
            self.ended = why
            self.over.set()


class Drone:
    """One drone. ``await run(stop)`` until ``stop`` is set, and then as long as its settings allow.

    Raises :class:`Invalid` or :class:`Conflict` at the start for what an operator has to mend; once
    it runs, it goes on whatever the system answers. If the process dies, its leases run out and
    others take over; the next start of the same name goes on with the kept credential.
    """

    def __init__(
        self,
        settings: DroneSettings,
        control: ControlPlane,
        *,
        clock: Clock | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._settings = settings
        self._control = control
        self._clock = clock or SystemClock()
        self._random = random
        self._leases: dict[str, Lease] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._profiles: OrderedDict[str, Profile] = OrderedDict()
        self._credential: WorkerCredential | None = None
        self._registering = asyncio.Lock()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        """Set once a beat was answered: from then on it is known whether claims are counted."""
        self._claim_number = 0
        """The number of the newest claim; 0 while the coordinator counts none."""
        self._deals_places = False
        """Whether the coordinator deals places at hosts; an older one does not."""
        self._gives_paces = False
        """The same for the moments of requests."""
        self._settled = 0
        """The newest claim whose answer is here, or will never be waited for."""
        self._log = log.bind(drone=settings.name)

    @property
    def busy(self) -> int:
        """Attempts under way."""
        return len(self._attempts)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set."""
        self._stop = stop
        settings = self._settings
        with own_spool(settings.collect.spool_dir, settings.name) as spool:
            async with self._tools() as tools:
                if not await self._signed_in():
                    return
                beating = asyncio.create_task(self._beats())
                claiming = asyncio.create_task(self._claims(tools, spool))
                try:
                    await self._until_stopped(beating, claiming)
                finally:
                    claiming.cancel()
                    await self._wound_down()
                    beating.cancel()
                    await asyncio.gather(beating, claiming, return_exceptions=True)
                    await self._farewell()

    async def _until_stopped(self, *loops: asyncio.Task[None]) -> None:
        """Return when told to stop, or when one of the loops has ended; raises how it failed."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()
        finally:
            stopping.cancel()

    async def _wound_down(self) -> None:
        """Let attempts finish for a while, then release them: others take over at once."""
        if self._attempts:
            self._log.info("drone.stopping", attempts=len(self._attempts))
            await asyncio.wait(self._attempts, timeout=self._settings.grace_seconds)
        for lease in list(self._leases.values()):
            lease.end("stopping")
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=self._settings.release_seconds)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _farewell(self) -> None:
        """Tell what we never heard of, so that nobody waits for us to do it.

        The last claim was abandoned: what it brings, or has brought, goes to others at once.
        """
        if not self._claim_number:
            return
        self._settled = self._claim_number
        try:
            async with asyncio.timeout(self._settings.release_seconds):
                await self._beat(leaving=True)
        except (TimeoutError, HoldfastError) as error:
            self._log.info("drone.left_unheard", error=str(error))

    @asynccontextmanager
    async def _tools(self) -> AsyncIterator[Tools]:
        settings = self._settings.collect
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collect")
        try:
            async with OutboundClient(settings.outbound, clock=self._clock) as outbound:
                secrets = SecretStore(settings.secret_variables, settings.secrets_dir)
                yield Tools(
                    outbound=outbound,
                    secrets=secrets,
                    tokens=Tokens(outbound, self._clock),
                    robots=Robots(outbound, self._clock),
                    clock=self._clock,
                    executor=executor,
                    keep_seconds=self._settings.keep_seconds,
                )
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    # --- who we are ---------------------------------------------------------------------------

    async def _signed_in(self) -> bool:
        """Go on with the kept credential, or register; false if told to stop meanwhile."""
        settings = self._settings
        kept = load_credential(settings.state_dir, settings.name, settings.control_plane)
        credential, key = kept or (None, None)
        if credential is not None and key is not None:
            self._use(credential, key)
            return True
        registering = asyncio.create_task(self._register(None, credential))
        await self._until_stopped(registering)
        if registering.done():
            return True
        registering.cancel()
        await asyncio.wait([registering])
        return False

    def _use(self, credential: WorkerCredential, key: SigningKey) -> None:
        self._credential = credential
        self._control.use(credential.credential, key)

    async def _register(
        self, refused: WorkerCredential | None, without_key: WorkerCredential | None = None
    ) -> None:
        """Register, unless somebody else has since ``refused`` was refused.

        Each registration has a signing key of its own, on our disk before it is told of. A
        credential that lacks nothing but its key admits us again, whatever became of the join
        token. Waits for a coordinator that does not answer. Raises what only an operator can mend.
        """
        async with self._registering:
            if self._credential is not refused:
                return
            settings = self._settings
            key = new_key(settings.state_dir, settings.name)
            request = WorkerRegister(
                key=key.public_bytes().hex(),
                name=self._settings.name,
                capabilities=["collect"],
                labels=dict(self._settings.labels),
                region=self._settings.region,
                capacity=self._settings.capacity,
                version=__version__,
            )
            credential = await self._registered(request, key, without_key)
            keep_credential(
                settings.state_dir, settings.name, settings.control_plane, credential, key
            )
            self._use(credential, key)
            self._log.info("drone.registered", worker=credential.worker)

    async def _registered(
        self, request: WorkerRegister, key: SigningKey, without_key: WorkerCredential | None
    ) -> WorkerCredential:
        if without_key is not None:
            try:
                return await self._insisting_to_register(request, key, without_key.credential)
            except Unauthenticated as error:
                self._log.info("drone.forgotten", code=error.code)
        try:
            return await self._insisting_to_register(request, key, self._join_token())
        except (Unauthenticated, Denied) as error:
            raise type(error)(
                f"cannot join with the token in {self._settings.join_token_file}: "
                f"{error.detail.partition(': ')[2] or error.detail}",
                code=error.code,
                hint=JOIN_HINT if error.code in NO_JOIN_TOKEN else error.hint,
            ) from error

    async def _insisting_to_register(
        self, request: WorkerRegister, key: SigningKey, token: str
    ) -> WorkerCredential:
        attempt = 0
        while True:
            try:
                return await self._control.fleet.register(request, token, key)
            except (Unavailable, OutcomeUnknown, Exhausted) as error:
                self._log.warning("drone.waiting", error=error.detail)
                await self._pause(attempt, error)
                attempt += 1

    def _join_token(self) -> str:
        path = self._settings.join_token_file
        if path is None:
            raise Invalid(
                "cannot join: the drone has no join token and no credential that holds",
                hint=JOIN_HINT,
            )
        try:
            return (
                read_handed(path, "the join token", _JOIN_TOKEN_BYTES_MAX).decode("ascii").strip()
            )
        except OSError as error:
            raise Invalid(
                f"cannot read the join token {path}: {error.strerror}", hint=JOIN_HINT
            ) from error
        except UnicodeDecodeError as error:
            raise Invalid(
                f"cannot read the join token {path}: it is no text", hint=JOIN_HINT
            ) from error

    async def _signed_in_again(self, refused: WorkerCredential | None, code: str) -> None:
        """After a refused credential: register again, however long that takes."""
        self._log.warning("drone.forgotten", code=code)
        without_key = refused if code == WITHOUT_KEY else None
        attempt = 0
        while not self._stop.is_set():
            try:
                await self._register(refused, without_key)
                return
            except HoldfastError as error:
                self._log.error("drone.refused", error=error.detail, hint=error.hint)
                await self._pause(attempt, error)
                attempt += 1

    # --- beats --------------------------------------------------------------------------------

    async def _beats(self) -> None:
        """Say that we live, as often as the coordinator wants; learn what became of the leases."""
        assert self._credential is not None
        pause = self._credential.beat_seconds
        failures = 0
        while True:
            used = self._credential
            # Before what is told is gathered: what changes from here on is told by the next beat.
            self._changed.clear()
            try:
                pause = await self._beat()
                failures = 0
            except Unauthenticated as error:
                await self._signed_in_again(used, error.code)
                pause = 0.0
            except HoldfastError as error:
                failures += 1
                pause = min(self._credential.beat_seconds, 0.2 * 2.0 ** min(failures, 6))
                self._log.warning("beat.failed", code=error.code, error=error.detail)
            # Not wait_for: it can swallow a cancellation that comes with the event (before 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, 0.05)):
                    await self._changed.wait()

    async def _beat(self, *, leaving: bool = False) -> float:
        held = dict(self._leases)
        counting = self._claim_number > 0
        answer = await self._control.fleet.beat(
            Beat(
                leases={task: lease.fence for task, lease in held.items()},
                load={"attempts": len(self._attempts), "capacity": self._settings.capacity},
                settled=self._settled if counting else None,
                leaving=leaving,
            )
        )
        if answer.claim_number is not None:
            self._count_from(answer.claim_number)
        self._deals_places, self._gives_paces = answer.places, answer.paces
        self._heard.set()
        for task, grant in answer.renewed.items():
            if task in held:
                held[task].grant = grant
        for task in answer.lost:
            if task in held:
                held[task].end("lost")
        for task in answer.cancelled:
            if task in held:
                held[task].end("cancelled")
        return max(0.05, answer.next_seconds)

    def _count_from(self, known: int) -> None:
        """Number claims above what is known of us, and of whoever had our name before.

        A clock that stands still or steps back is made up for by what is known.
        """
        if self._claim_number and known <= self._claim_number:
            return
        idle = self._settled == self._claim_number
        self._claim_number = max(known, int(self._clock.now().timestamp() * 1000))
        if idle:
            # No claim of ours is under way, so all up to here are over.
            self._settled = self._claim_number

    # --- claims -------------------------------------------------------------------------------

    async def _claims(self, tools: Tools, spool: Path) -> None:
        interval = self._settings.process_interval_seconds
        failures = 0
        await self._heard.wait()
        while not self._stop.is_set():
            room = self._settings.capacity - len(self._attempts)
            if room <= 0:
                await asyncio.wait(self._attempts, return_when=asyncio.FIRST_COMPLETED)
                continue
            used = self._credential
            wait = CLAIM_WAIT_SECONDS if interval is None else 0.0
            try:
                claimed = await self._claimed(room, wait, tools, spool)
                failures = 0
            except Unauthenticated as error:
                await self._signed_in_again(used, error.code)
                continue
            except HoldfastError as error:
                self._log.warning("claim.failed", code=error.code, error=error.detail)
                await self._pause(failures, error)
                failures += 1
                continue
            if not claimed and interval is not None:
                await self._clock.sleep(interval)

    async def _claimed(self, room: int, wait: float, tools: Tools, spool: Path) -> int:
        """Claim once and begin what comes; how much that is.

        A claim is settled when what it brought is among our leases, or when its answer will not be
        waited for; the next beat, which is due at once, says so.
        """
        number = self._claim_number = self._claim_number + 1 if self._claim_number else 0
        try:
            claimed = await self._control.fleet.claim(
                Claim(limit=room, wait_seconds=wait, number=number)
            )
            for task in claimed:
                self._begin(task, tools, spool)
        except HoldfastError:
            self._changed.set()
            raise
        finally:
            self._settled = max(self._settled, number)
        if claimed:
            self._changed.set()
        return len(claimed)

    def _begin(self, claimed: ClaimedTask, tools: Tools, spool: Path) -> None:
        lease = Lease(claimed.task.id, claimed.task.fence, claimed.grant)
        self._leases[lease.task] = lease
        attempt = asyncio.create_task(self._attempt(claimed, lease, tools, spool))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)

    # --- attempts -----------------------------------------------------------------------------

    async def _attempt(self, claimed: ClaimedTask, lease: Lease, tools: Tools, spool: Path) -> None:
        """Carry out one task and answer for it; never raises but when cancelled."""
        profile = str(claimed.task.payload.get("profile", ""))
        logged = self._log.bind(profile=profile, task=lease.task, fence=lease.fence)
        directory = spool / lease.task
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            ending = await self._collected(claimed, lease, tools, directory)
            if ending is not None:
                logged.info("attempt.ended", status=ending.status, code=ending.code)
                await self._complete(lease, ending)
        except LeaseLost as error:
            logged.warning("attempt.lost", error=str(error))
        except Exception as error:
            logged.exception("attempt.failed")
            where = " ".join(["the drone failed", *getattr(error, "__notes__", ())])[:500]
            reason = f"{where}; see its log"
            await self._complete(lease, Ending(False, "open", "internal", reason, True))
        finally:
            self._leases.pop(lease.task, None)
            shutil.rmtree(directory, ignore_errors=True)

    async def _collected(
        self, claimed: ClaimedTask, lease: Lease, tools: Tools, directory: Path
    ) -> Ending | None:
        """What the attempt came to; ``None`` if there is nobody left to tell."""
        places = Places(self._placing(lease), lease.fence, self._clock)
        try:
            payload = msgspec.convert(claimed.task.payload, CollectPayload)
            attempt = await self._prepared(payload, lease, places)
        except (msgspec.ValidationError, HoldfastError) as error:
            healing = isinstance(error, Unavailable | OutcomeUnknown | Exhausted)
            code = error.code if isinstance(error, HoldfastError) else "payload"
            return Ending(False, "open", code, str(error)[:2000], healing)
        target = self._control.run_log(attempt.run, attempt.fence, lambda: lease.grant)
        collection: Collection | Remapping
        if payload.remap:
            collection = Remapping(attempt, target, tools, directory)
        else:
            collection = Collection(attempt, target, tools, directory)
        running = asyncio.create_task(collection.run())
        over = asyncio.create_task(lease.over.wait())
        try:
            await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
            await places.close()
        if not running.cancelled():
            return running.result()
        match lease.ended:
            case "cancelled":
                return await collection.cancelled()
            case "stopping":
                return Ending(False, "open", STOPPED, "the drone was stopped", True, 0.0)
            case _:
                self._log.warning("attempt.lost", task=lease.task)
                return None

    async def _prepared(self, payload: CollectPayload, lease: Lease, places: Places) -> Attempt:
        profile = await self._profile(payload.profile, payload.digest)
        if payload.range_start and profile.period is None:
            raise Invalid(
                f"cannot backfill {profile.name}: its records have no period",
                hint="add `period` to the profile",
            )
        override = msgspec.convert(payload.limits, LimitsOverride) if payload.limits else None
        limits = effective_limits(profile.limits, override)
        paces = Paces(self._pacing(lease), lease.fence, self._clock)
        return Attempt(
            run=payload.run,
            fence=lease.fence,
            tenant=grant_claims(lease.grant).tenant,
            profile=msgspec.structs.replace(profile, limits=limits),
            force=payload.force,
            pages_max=payload.pages,
            rehearsal=payload.rehearsal,
            range_start=payload.range_start,
            range_end=payload.range_end,
            admit=self._admitting(profile.source.url, limits, lease),
            place=places.at if self._deals_places else None,
            pace=paces.placed if self._deals_places and self._gives_paces else None,
        )

    def _placing(self, lease: Lease) -> Callable[[PlacesWanted], Awaitable[PlacesHeld]]:
        """What asks for places at a host in the name of a lease."""

        async def ask(wanted: PlacesWanted) -> PlacesHeld:
            return await self._insisting(
                lambda: self._control.fleet.places(lease.task, wanted), attempts=1_000
            )

        return ask

    def _pacing(self, lease: Lease) -> Callable[[PaceWanted], Awaitable[PaceGiven]]:
        """What asks for the moment of a request in the name of a lease."""

        async def ask(wanted: PaceWanted) -> PaceGiven:
            return await self._insisting(
                lambda: self._control.fleet.pace(lease.task, wanted), attempts=1_000
            )

        return ask

    def _admitting(
        self, url: str, limits: Limits, lease: Lease
    ) -> Callable[[], Awaitable[None]] | None:
        """What asks for leave before each request, where the publisher counts them by the day."""
        if limits.requests_per_day is None:
            return None
        wanted = RequestsWanted(
            fence=lease.fence, source=parse_target(url).host_port, limit=limits.requests_per_day
        )

        async def admit() -> None:
            answer = await self._insisting(
                lambda: self._control.fleet.admit(lease.task, wanted), attempts=1_000
            )
            if not answer.granted:
                wait = (parse_timestamp(answer.resets_at) - self._clock.now()).total_seconds()
                raise QuotaReached(
                    f"cannot ask {wanted.source} more often today: {wanted.limit} requests a day "
                    f"are used up until {answer.resets_at}",
                    hint="`limits.requests_per_day` sets it",
                    retry_after_seconds=max(1.0, wait),
                )

        return admit

    async def _profile(self, name: str, digest: str) -> Profile:
        """The profile version, from memory where it was used before: a version never changes."""
        if digest not in self._profiles:
            self._profiles[digest] = await self._insisting(
                lambda: self._control.profiles.version(name, digest), attempts=5
            )
            while len(self._profiles) > _PROFILES_KEPT:
                self._profiles.popitem(last=False)
        self._profiles.move_to_end(digest)
        return self._profiles[digest]

    async def _complete(self, lease: Lease, ending: Ending) -> None:
        """Tell the coordinator; an answer that nobody waits for any more is dropped."""
        outcome: Literal["succeeded", "failed", "released"]
        outcome = "succeeded" if ending.succeeded else "failed"
        if ending.code == STOPPED and self._claim_number:
            # That we stop is nothing the task has to answer for.
            outcome = "released"
        request = Complete(
            fence=lease.fence,
            outcome=outcome,
            result=ending.result,
            code=ending.code[:100],
            reason=ending.reason[:2000],
            retry=ending.retry,
            retry_after_seconds=ending.retry_after_seconds,
        )
        try:
            await self._insisting(
                lambda: self._control.fleet.complete(lease.task, request), attempts=1_000
            )
        except (Conflict, NotFound) as error:
            self._log.info("attempt.late", task=lease.task, code=error.code)
        except HoldfastError as error:
            self._log.error("attempt.unanswered", task=lease.task, error=error.detail)
        self._changed.set()  # the next beat says that there is room

    async def _insisting(self, call: Callable[[], Awaitable[T]], *, attempts: int) -> T:
        """``call``, repeated while the system does not answer or does not know us any more."""
        for attempt in range(attempts - 1):
            used = self._credential
            try:
                return await call()
            except Unauthenticated as error:
                if self._stop.is_set():
                    raise  # nobody registers any more, so the next answer would be the same
                await self._signed_in_again(used, error.code)
            except (Unavailable, OutcomeUnknown, Exhausted) as error:
                await self._pause(attempt, error)
        return await call()

    async def _pause(self, attempt: int, error: HoldfastError) -> None:
        """Wait before asking again: longer each time, never in step with other drones."""
        ceiling = min(_PAUSE_SECONDS_MAX, 0.2 * 2.0 ** min(attempt, 10))
        wait = max(error.retry_after_seconds or 0.0, ceiling * (0.5 + self._random() / 2))
        await self._clock.sleep(min(wait, 60.0))


__all__ = ["Drone", "Lease", "grant_claims"]
