"""The services of the roles in this process, their routes, checks and loops."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.app import people, pruning
from holdfast.app.keys import KEYRING_OF, open_peppers, scrub_now_and_then, unrecoverable_days
from holdfast.app.pruning import Pruner
from holdfast.app.settings import NOTICE_TYPES
from holdfast.app.store import read_check_value, read_check_values, write_check_value
from holdfast.app.tls import verify_of
from holdfast.kernel.errors import HoldfastError, Invalid, Problem
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import get_logger

if TYPE_CHECKING:
    from holdfast.app.settings import Settings
    from holdfast.app.system import Keys, State, System
    from holdfast.identity.access.service import AccessService
    from holdfast.identity.granting import Parts
    from holdfast.kernel.http import Check
    from holdfast.kernel.reads import ReadLog
    from holdfast.registry.model import Profile

log = get_logger("services")

SWEEP_SECONDS = 1.0
SWEEP_FAILED_SECONDS = 5.0
ERASURES_SECONDS = 2.0
ERASURES_LEFT_SECONDS = 30.0
PROJECTIONS_SECONDS = 2.0
PRUNE_SECONDS = 3600.0


async def open_services(system: System, state: State, keys: Keys, stack: AsyncExitStack) -> None:
    """Open the roles in the order in which they need each other."""
    await _open_ledger(system, state, stack)
    if "identity" in system.roles:
        await _open_identity(system, state)
        await people.open_oauth(system, state, stack)
    _open_backups(system, state, stack)
    if system.roles & {"aggregator", "ledger"}:
        _open_subjects(system, state)
    if "registry" in system.roles:
        _open_registry(system, state)
    if "aggregator" in system.roles:
        await _open_aggregator(system, state, keys)
    if "coordinator" in system.roles:
        await _open_coordinator(system, state, keys, stack)
    if "reporter" in system.roles:
        _open_reporter(system, state, stack)
    pruner = Pruner(system, state)
    system.handlers += pruning.handlers(pruner)
    system.loops.append(("prune", pruner.loop))
    if system.subjects is not None:
        # Before anything is served: whoever was erased stays so, whatever was restored.
        await system.subjects.resume(await state.database.tenants())


def _open_backups(system: System, state: State, stack: AsyncExitStack) -> None:
    from holdfast.app.backup import http, objects
    from holdfast.app.backup.create import BackupService

    backups = BackupService(system, state)
    stack.push_async_callback(backups.close)
    system.handlers += http.handlers(backups)
    if "aggregator" in system.roles:
        system.handlers += objects.handlers(objects.ObjectChecks(state))

    async def prune() -> None:
        while True:
            await backups.prune()
            await system.clock.sleep(PRUNE_SECONDS)

    system.loops.append(("old copies of keys", prune))


def _open_subjects(system: System, state: State) -> None:
    from holdfast.keyring import http
    from holdfast.keyring.noting import KeyNotes
    from holdfast.keyring.subjects import SubjectsService

    system.subjects = SubjectsService(
        state.keyring,
        state.database,
        state.outbox,
        system.clock,
        system.new_id,
        lists=system.settings.keys_dir,
        backup_days=unrecoverable_days(system.settings),
    )
    system.checks["erasures"] = system.subjects.check

    async def watch() -> None:
        while True:
            await system.subjects.watch()
            await system.clock.sleep(ERASURES_LEFT_SECONDS)

    system.loops.append(("erasures left to others", watch))
    notes = KeyNotes(state.database, state.outbox, system.clock, system.new_id)
    system.handlers += http.key_handlers(state.keyring, notes)


async def _open_identity(system: System, state: State) -> None:
    from holdfast.identity import http
    from holdfast.identity.access import http as access_http
    from holdfast.identity.granting import Parts
    from holdfast.identity.people import http as people_http
    from holdfast.identity.people.service import PeopleService
    from holdfast.identity.service import PEPPER, IdentityService
    from holdfast.identity.signin import http as signin_http
    from holdfast.identity.signin.passkey_model import PasskeySettings
    from holdfast.identity.signin.passkeys import PasskeysService
    from holdfast.identity.signin.sessions import SessionLimits, SessionsService

    settings = system.settings
    parts = Parts(
        state.database,
        state.outbox,
        await open_peppers(settings, state.database, PEPPER),
        system.clock,
        system.new_id,
        os.urandom,
    )
    system.identity = IdentityService(
        parts.database, parts.outbox, parts.peppers, parts.clock, parts.new_id, parts.random
    )
    system.handlers += http.handlers(system.identity)
    system.people = PeopleService(parts, settings["identity_webauthn_origin"])
    system.handlers += people_http.handlers(system.people)
    system.sessions = SessionsService(
        parts,
        SessionLimits(
            settings["identity_session_seconds"], settings["identity_session_idle_seconds"]
        ),
    )
    system.passkeys = PasskeysService(
        parts,
        system.sessions,
        PasskeySettings(settings["identity_webauthn_rp_id"], settings["identity_webauthn_origin"]),
        {provider.issuer for provider in people.providers_of(settings).values()},
    )
    system.handlers += signin_http.handlers(system.sessions, system.passkeys)

    async def unlink(principal: Principal, account: str) -> None:
        await system.oauth.unlink(principal, account)  # it is opened after this

    enders = {
        "api-key": system.identity.revoke_key,
        "person": system.people.disable,
        "passkey": system.passkeys.end,
        "account": unlink,
    }
    system.handlers += access_http.handlers(await _open_access(system, parts, enders))
    system.identity_parts = parts


async def _open_access(system: System, parts: Parts, enders: Any = None) -> AccessService:
    """What a restore left open in this process's database, whichever of its roles lets somebody
    in."""
    from holdfast.identity.access.service import AccessService

    access = AccessService(parts, enders)
    await access.tell()
    system.checks["access"] = access.check
    return access


async def _open_ledger(system: System, state: State, stack: AsyncExitStack) -> None:
    """The ledger, where it is ours; and the relay that brings it this database's events."""
    from holdfast.leases import open_leases
    from holdfast.ledger.relay import Deliveries, Relay, RelayMetrics

    settings = system.settings
    shared = not settings.database_url.startswith("sqlite:")
    leases = await stack.enter_async_context(
        open_leases("sql://" if shared else "memory://", state.database, system.clock)
    )
    # One of several instances is told from the others where it leads and sequences.
    replica = settings["ledger_replica"] if settings["ledger_replication"] != "none" else None
    holder = system.new_id() if replica is None else f"replica-{replica}-{system.new_id()}"
    deliver: Deliveries = system.deliveries
    if "ledger" in system.roles:
        from holdfast.fleet.folding import Tasks
        from holdfast.keyring.sealer import KeyringPeople
        from holdfast.ledger import http
        from holdfast.ledger.backends.sql import SqlLog
        from holdfast.ledger.log.parts import LogParts
        from holdfast.ledger.metrics import LedgerMetrics
        from holdfast.ledger.service import LedgerService
        from holdfast.ledger.signer import SignerPaths
        from holdfast.ledger.witness import WITNESS_SECONDS, Witness, Witnesses
        from holdfast.records.folding import Publications, Runs

        witnesses = [Witness.parse(text) for text in settings["ledger_witnesses"]]
        verify = verify_of(None, [each.url for each in witnesses])
        asking = await stack.enter_async_context(
            httpx.AsyncClient(timeout=WITNESS_SECONDS, trust_env=False, verify=verify)
        )
        parts = LogParts(
            log=SqlLog(state.database),
            database=state.database,
            leases=leases,
            sealer=state.sealer,
            people=KeyringPeople(state.keyring),
            clock=system.clock,
            random=os.urandom,
            holder=holder,
            heads=settings.data_dir / "ledger",
            paths=SignerPaths(settings.keys_dir, settings.data_dir / "published"),
            metrics=LedgerMetrics(system.metrics),
            origin=settings["ledger_origin"],
            witnesses=Witnesses(witnesses, asking),
            restored=system.restored,
        )
        folds = (Publications(), Runs(), Tasks())
        system.ledger = deliver = LedgerService(parts, system.new_id, folds)
        stack.push_async_callback(system.ledger.close)
        await system.ledger.open_all()
        exports = _read_log(system, state, stack, "ledger", "ledger/exports", "ledger.exported")
        system.handlers += http.handlers(system.ledger, exports)
        system.checks["ledger"] = system.ledger.check
        system.checks["ledger_clock"] = system.ledger.check_clock
        system.checks |= guide_checks(system)

        async def checkpoints() -> None:
            await system.ledger.publish_forever(settings["ledger_checkpoint_seconds"])

        async def projections() -> None:
            await system.ledger.projections.keep_up(PROJECTIONS_SECONDS)

        async def looks() -> None:
            await system.ledger.look_forever(settings["ledger_look_seconds"])

        system.loops += [
            ("checkpoints", checkpoints),
            ("projections", projections),
            ("looks over the ledger", looks),
        ]
    relay = Relay(
        state.database,
        state.outbox,
        deliver,
        leases,
        system.clock,
        holder=holder,
        metrics=RelayMetrics(system.metrics),
    )
    system.checks["relay"] = relay.check
    system.loops.append(("relay", relay.run))


DISK_FREE_LOW = 0.05
DISK_FREE_BYTES_ENOUGH = 512 * 1024 * 1024
DISK_FREE_BYTES_MIN = 1024 * 1024
CONNECTIONS_HIGH = 0.9


def guide_checks(system: System) -> dict[str, Check]:
    """The readiness checks that guide 3 names: the disk, memory by connections, the directory."""
    from holdfast.kernel.errors import Unavailable
    from holdfast.kernel.serving import CONNECTIONS_MEANING

    folder, most = system.settings.data_dir, system.settings["serve_connections_max"]
    gauge = system.metrics.gauge("vdb_connections_active", CONNECTIONS_MEANING)

    async def disk_free() -> str | None:
        try:
            disk = await asyncio.to_thread(shutil.disk_usage, folder)
        except OSError as error:
            raise Unavailable(f"cannot use the data directory: {error.strerror}") from error
        if disk.free < DISK_FREE_BYTES_MIN:
            raise Unavailable(f"cannot go on: {disk.free} bytes are left on the disk")
        low = min(DISK_FREE_LOW * disk.total, DISK_FREE_BYTES_ENOUGH)
        return "degraded" if disk.free < low else None

    async def memory() -> str | None:
        open_now = next(iter(gauge.collect())).samples[0].value
        return "degraded" if open_now > CONNECTIONS_HIGH * most else None

    def write() -> None:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ready-") as probe:
            probe.write(b"ready")
            probe.flush()
            os.fsync(probe.fileno())

    async def data_dir() -> None:
        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise Unavailable(f"cannot write to the data directory: {error.strerror}") from error

    return {"disk": disk_free, "memory": memory, "data_dir": data_dir}


def _open_registry(system: System, state: State) -> None:
    from holdfast.registry import http
    from holdfast.registry.folder import ProfilesFolder
    from holdfast.registry.service import RegistryService

    settings = system.settings
    system.registry = RegistryService(
        state.database,
        state.outbox,
        system.clock,
        system.new_id,
        checks=[mapping_problems],
        metrics=system.metrics,
    )
    system.handlers += http.handlers(system.registry)
    folder = ProfilesFolder(
        system.registry,
        system.operator,
        settings.profiles_dir,
        system.clock,
        asked=settings["registry_profiles_dir"] is not None,
        apart=settings.data_dir,
    )

    async def watch() -> None:
        await folder.watch(every_seconds=settings["registry_watch_seconds"])

    system.loops.append(("profiles folder", watch))


async def _open_aggregator(system: System, state: State, keys: Keys) -> None:
    from holdfast.records import http
    from holdfast.records.service import RecordsService
    from holdfast.records.settings import RecordsSettings

    settings = system.settings
    system.records = RecordsService(
        db=state.database,
        objects=state.objects,
        outbox=state.outbox,
        secrets=state.secrets,
        keyring=state.keyring,
        profiles=system.registry,
        ledger=system.ledger if "ledger" in system.roles else system.deliveries,
        grants=keys.trusted,
        clock=system.clock,
        new_id=system.new_id,
        settings=RecordsSettings(
            projections=settings.data_dir / "projections",
            response_bytes_max=settings["records_raw_bytes_max"],
            webhook_types=_webhook_types(settings),
        ),
        metrics=system.metrics,
    )
    system.handlers += http.handlers(system.records)
    kept_in = await _copies_kept_in(system, state)
    system.subjects.add_eraser(system.records, kept_in, notes=system.served)

    async def sweep() -> None:
        while True:
            principals = [service("aggregator", each) for each in await state.database.tenants()]
            steps = (system.records.sweep, system.records.watch, system.records.drop_old_notices)
            failed = await for_each(principals, steps)
            await system.clock.sleep(SWEEP_FAILED_SECONDS if failed else SWEEP_SECONDS)

    async def erasures() -> None:
        # Another role of the same keyring may have destroyed keys, and has not what lies beside.
        while True:
            await system.clock.sleep(ERASURES_SECONDS)
            await system.subjects.finish()

    system.loops += [
        ("sweep", sweep),
        ("erasures", erasures),
        ("scrub", partial(scrub_now_and_then, state.keyring, system.clock)),
    ]
    if settings["watch_webhook_url"]:
        _open_webhook(system, state)


async def for_each(
    principals: Iterable[Principal], steps: Sequence[Callable[[Principal], Awaitable[object]]]
) -> int:
    """Every step for every one of them; a failure is told, and holds up neither the others nor the
    steps behind it. It is tried again when all are next gone through. How many failed."""
    failed = 0
    for principal in principals:
        for step in steps:
            try:
                await step(principal)
            except HoldfastError as error:
                failed += 1
                log.warning(
                    "a step fails for a tenant; the others go on",
                    step=getattr(step, "__name__", ""),
                    tenant=principal.tenant,
                    code=error.code,
                    detail=error.detail,
                )
    return failed


DATABASE = "id of the database with the records"


async def _copies_kept_in(system: System, state: State) -> str | None:
    """The id of this database as the one with the aggregator's records, which it gets when it is
    first served as that. A command that finds none: empty, or None if the database is another
    role's alone, on whose directory the command opens all roles.
    """
    known = await state.database.read(service("app"), read_check_value(DATABASE))
    if known is None and system.served:
        await state.database.write(service("app"), write_check_value(DATABASE, system.new_id()))
        known = await state.database.read(service("app"), read_check_value(DATABASE))
    if known is not None:
        return known
    holders = await state.database.read(service("app"), read_check_values(KEYRING_OF))
    return "" if set(holders) <= {"aggregator"} else None


def _webhook_types(settings: Settings) -> frozenset[str]:
    """The notices that are delivered; ``Invalid`` for a type that there is not."""
    types = frozenset(settings["watch_webhook_types"])
    unknown = sorted(types - frozenset(NOTICE_TYPES))
    if unknown:
        raise Invalid(
            f"cannot start: HOLDFAST_WATCH_WEBHOOK_TYPES names {unknown[0]!r}",
            hint=f"there are {', '.join(NOTICE_TYPES)}",
        )
    return types if settings["watch_webhook_url"] else frozenset()


def _open_webhook(system: System, state: State) -> None:
    from holdfast.kernel.outbound import OutboundSettings
    from holdfast.records.metrics import RecordsMetrics
    from holdfast.records.webhook import Webhook, WebhookSettings, read_secret

    settings = system.settings
    if settings["watch_webhook_secret_file"] is None:
        raise Invalid(
            "cannot start: HOLDFAST_WATCH_WEBHOOK_URL is set, but no secret to sign with",
            hint="openssl rand -base64 32 > FILE; HOLDFAST_WATCH_WEBHOOK_SECRET_FILE names it",
        )
    webhook = Webhook(
        state.database,
        WebhookSettings(
            url=settings["watch_webhook_url"],
            secret=read_secret(settings["watch_webhook_secret_file"]),
            outbound=OutboundSettings(
                allow=frozenset(settings["watch_webhook_allow"]),
                resolver=settings["collect_resolver"],
                contact=settings["collect_contact"],
                ca_file=settings["collect_ca_file"],
            ),
        ),
        clock=system.clock,
        random=random.random,
        metrics=RecordsMetrics(system.metrics),
    )

    async def deliver() -> None:
        async with webhook:
            while True:
                for tenant in await state.database.tenants():
                    await webhook.deliver_due(service("aggregator", tenant))
                await system.clock.sleep(SWEEP_SECONDS)

    system.loops.append(("webhook", deliver))


async def _open_coordinator(
    system: System, state: State, keys: Keys, stack: AsyncExitStack
) -> None:
    from holdfast.fleet import http
    from holdfast.fleet.base import FleetSettings
    from holdfast.fleet.credentials import PEPPER
    from holdfast.fleet.reconcile import FleetLoops
    from holdfast.fleet.service import FleetService
    from holdfast.identity.access.http import worker_handlers
    from holdfast.identity.granting import Parts
    from holdfast.leases import InstanceGuard, open_leases

    settings = system.settings
    url = settings["fleet_leases_url"]
    incarnation = system.new_id()
    leases = await stack.enter_async_context(open_leases(url, state.database, system.clock))
    await stack.enter_async_context(
        InstanceGuard(
            state.database,
            system.clock,
            role="coordinator",
            instance=f"{platform.node()}:{settings.data_dir.resolve()}",
            incarnation=incarnation,
            shared=url.startswith("sql:"),
        )
    )
    peppers = await open_peppers(settings, state.database, PEPPER)
    system.fleet = FleetService(
        state.database,
        leases,
        state.outbox,
        keys.own["coordinator"],
        peppers,
        clock=system.clock,
        new_id=system.new_id,
        random=os.urandom,
        chance=random.random,
        settings=FleetSettings(
            lease_seconds=settings["fleet_lease_seconds"],
            beat_seconds=settings["fleet_beat_seconds"],
            lost_after_seconds=settings["fleet_lost_seconds"],
            backoff_seconds=settings["fleet_backoff_seconds"],
            requests_per_host=settings["fleet_requests_per_host"],
            bound_only=settings["fleet_workers_bound"],
            requests_per_host_of={
                name: int(number)
                for name, _, number in (
                    each.partition("=") for each in settings["fleet_requests_per_host_of"]
                )
            },
        ),
        profiles=system.registry,
        makers=system.identity,
        metrics=system.metrics,
    )
    stack.push_async_callback(system.fleet.close)
    system.handlers += http.handlers(system.fleet)
    parts = Parts(state.database, state.outbox, peppers, system.clock, system.new_id, os.urandom)
    system.handlers += worker_handlers(await _open_access(system, parts))

    async def loops() -> None:
        async with FleetLoops(system.fleet, holder=incarnation, runs=ClosesRuns(system)):
            await asyncio.Event().wait()

    system.loops.append(("fleet", loops))


def _read_log(
    system: System, state: State, stack: AsyncExitStack, role: str, stream: str, type_: str
) -> ReadLog:
    from holdfast.kernel.reads import ReadLog

    log = ReadLog(
        state.database,
        state.outbox,
        system.clock,
        system.new_id,
        role=role,
        stream=stream,
        type=type_,
    )
    stack.push_async_callback(log.close)
    return log


def mapping_problems(profile: Profile) -> Iterator[Problem]:
    """Why a drone could not compile the profile's mapping: said when it is published."""
    from holdfast.collect.errors import MappingRefused
    from holdfast.collect.mapping import Mapping

    try:
        Mapping(profile)
    except MappingRefused as error:
        yield from error.problems or (Problem("", error.detail),)


class ClosesRuns:
    """The aggregator as the coordinator sees it; it may be opened later than the coordinator."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def close_run(self, principal: Principal, **account: Any) -> object:
        """See :class:`holdfast.fleet.ports.Runs`."""
        from holdfast.records.model import RunClose

        return await self._system.records.close(principal, RunClose(**account))


def _open_reporter(system: System, state: State, stack: AsyncExitStack) -> None:
    from holdfast.reports import http
    from holdfast.reports.asking import QueryService, QuerySettings
    from holdfast.reports.children import QuerySandboxes, ReportChildren
    from holdfast.reports.service import ReportsService, ReportsSettings

    settings = system.settings
    records = system.records if "aggregator" in system.roles else system.projections
    system.reports = ReportsService(
        state.database,
        state.objects,
        state.outbox,
        records,
        system.registry if "registry" in system.roles else system.profiles,
        ReportChildren(),
        system.clock,
        system.new_id,
        ReportsSettings(
            seconds=settings["reports_seconds"], memory_mb=settings["reports_memory_mb"]
        ),
        receipts=system.records,
        evidence=system.ledger if "ledger" in system.roles else system.deliveries,
    )
    reads = _read_log(system, state, stack, "reporter", "report/queries", "report.queried")
    queries = QueryService(
        system.ledger if "ledger" in system.roles else system.deliveries,
        records,
        QuerySandboxes(),
        reads,
        QuerySettings(
            seconds=settings["reports_query_seconds"],
            memory_mb=settings["reports_query_memory_mb"],
            rows_max=settings["reports_query_rows_max"],
            input_bytes_max=settings["reports_query_input_mb"] * 2**20,
        ),
    )
    system.handlers += [*http.handlers(system.reports), *http.query_handlers(queries)]
