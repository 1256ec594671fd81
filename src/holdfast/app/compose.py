"""The composition root: from settings to a system that answers; the place that knows everything.

A *system* is what one process runs: its database, objects and keys, the services of its own roles,
clients for the roles elsewhere, one ASGI application, and the loops that keep it going. ``up``
makes one with every role; ``serve`` with the named ones; a command that opens the data directory
itself makes one without loops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from holdfast import __version__
from holdfast.app import door, keys, services, subjects
from holdfast.app.elsewhere import open_clients, url_of
from holdfast.app.settings import ROLES, Settings
from holdfast.app.system import Keys, State, System
from holdfast.app.tls import certificate_of, client_tls
from holdfast.gateway.proxy import HopMiddleware, hop_principal
from holdfast.identity import HopVerifier
from holdfast.kernel.clock import Clock, SystemClock
from holdfast.kernel.errors import Unsupported
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.principal import Permission, Principal, service
from holdfast.kernel.structs import prepare_structs
from holdfast.kernel.telemetry import Metrics

if TYPE_CHECKING:
    from holdfast.kernel.database import Database, Unit
    from holdfast.kernel.objects.s3 import S3Credentials
    from holdfast.kernel.secrets import TenantSecrets

STATEFUL = frozenset({"identity", "registry", "coordinator", "aggregator", "reporter", "ledger"})
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@asynccontextmanager
async def open_system(
    settings: Settings,
    roles: Sequence[str],
    *,
    clock: Clock | None = None,
    new_id: NewId | None = None,
    served: bool = True,
    restored: bool = False,
) -> AsyncIterator[System]:
    """A system with these roles on this data directory, closed in order when the block ends.

    ``served`` is False for a command, which opens all roles whatever the directory is of;
    ``restored`` for the one that has just put everything there, and tells what is not known there.
    The caller holds the data directory. Raises :class:`Unsupported` for a role that is not built,
    and what opening the parts raises.
    """
    clock = clock or SystemClock()
    chosen = frozenset(roles)
    unknown = sorted(chosen - set(ROLES))
    if unknown:
        raise Unsupported(
            f"cannot serve {', '.join(unknown)}: not built in this version",
            hint=f"built are: {', '.join(ROLES)}",
        )
    system = System(
        settings, chosen, clock, new_id or id_source(clock), Metrics(), served, restored
    )
    system.tls = client_tls(settings)
    system.limit(settings)
    async with AsyncExitStack() as stack:
        signing = Keys(settings, chosen, clock)
        system.checks["trusted_keys"] = signing.trusted.check
        system.loops.append(("trusted keys", signing.trusted.keep))
        elsewhere = await open_clients(system, signing, stack)
        if chosen & STATEFUL:
            state = system.state = await _open_state(system, stack)
            await services.open_services(system, state, signing, stack)
            if state.unflushed:
                # The last of the checks: where another is not well, that one is told first.
                system.checks["durability"] = _degraded
        if "gateway" in chosen:
            await door.open_token_keys(system, stack)
        _open_application(system, signing, elsewhere)
        # All types are loaded, and nothing works at the same time yet.
        prepare_structs()
        yield system


async def _open_state(system: System, stack: AsyncExitStack) -> State:
    from holdfast.kernel.database import open_database, sqlite_path
    from holdfast.kernel.objects import open_objects
    from holdfast.kernel.outbox import Outbox
    from holdfast.keyring import EnvelopeSealer
    from holdfast.migrations.runner import migrate

    settings = system.settings
    url = settings.database_url
    if url.startswith("sqlite:"):
        sqlite_path(url).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = settings["database_password"] or None
    if not url.startswith("sqlite:"):
        from holdfast.app.backup.postgres import finish_restore

        # Before anything is changed there: a half is left as it is.
        await finish_restore(url, password, settings.data_dir)
    holder = "aggregator" if "aggregator" in system.roles else sorted(system.roles)[0]
    unflushed = await keys.check_flushing(settings, holder)
    await migrate(
        url,
        clock=system.clock,
        version=__version__,
        backups=settings.data_dir / "backups",
        password=password,
    )
    database = await stack.enter_async_context(
        open_database(url, clock=system.clock, password=password)
    )
    secrets, note_secret = await _open_secrets(settings, database, holder)
    _make_folder(settings.objects_url)
    objects = await stack.enter_async_context(
        open_objects(settings.objects_url, secrets, s3=_s3(settings))
    )
    keyring = await keys.open_keyring(system, database, holder, stack)
    if note_secret is not None:  # whoever is stopped at the keyring has left no mark
        await database.write(service("app"), note_secret)
    sealer = EnvelopeSealer(keyring)
    outbox = Outbox(sealer)
    await keys.seal_clear_rows(database, outbox)
    system.checks["database"] = database.check
    return State(database, objects, outbox, sealer, secrets, keyring, unflushed)


async def _degraded() -> str:
    return "degraded"


def _s3(settings: Settings) -> S3Credentials | None:
    if not settings.objects_url.startswith("s3://"):
        return None
    from holdfast.kernel.objects.s3 import S3Credentials

    endpoint = settings["objects_s3_endpoint"]
    return S3Credentials(
        endpoint=endpoint,
        region=settings["objects_s3_region"],
        access_key_id=settings["objects_s3_access_key_id"],
        secret_access_key=settings["objects_s3_secret_access_key"],
        allow_http=endpoint.startswith("http://"),
    )


def _make_folder(objects_url: str) -> None:
    if objects_url.startswith("file://"):
        folder = Path(objects_url.removeprefix("file://"))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


async def _open_secrets(
    settings: Settings, database: Database, holder: str
) -> tuple[TenantSecrets, Unit[None] | None]:
    """The tenant secret, held against the check value that the holder's data carries.

    Where there is no check value, nothing was written under a secret yet: one may be made. Roles
    that share a database keep secrets of their own, since each names only what it stores itself.
    What notes a new check value is given back, to be written before anything is named.
    """
    from holdfast.app.store import read_check_value, write_check_value
    from holdfast.kernel.secrets import TenantSecrets

    settings.secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = await database.read(service("app"), read_check_value(holder))
    secrets = TenantSecrets.open(settings.secrets_dir / "tenant-secrets", may_create=known is None)
    if known is None:
        return secrets, write_check_value(holder, secrets.check_value)
    secrets.confirm(known)
    return secrets, None


def _open_application(system: System, signing: Keys, elsewhere: Mapping[str, str]) -> None:
    from holdfast.kernel.http import AppSpec, create_app

    shared: dict[str, Any] = {
        "version": __version__,
        "clock": system.clock,
        "new_id": system.new_id,
        "metrics": system.metrics,
        "checks": system.checks,
    }
    people = subjects.people_of(system, signing, elsewhere)
    if people is not None:
        from holdfast.keyring.http import subject_handlers

        system.handlers += subject_handlers(people)
    if "gateway" in system.roles:
        system.app = create_app(door.spec(system, signing, elsewhere, shared))
        return
    if len(system.roles) > 1:
        raise Unsupported(
            "cannot serve several roles in one process without the gateway",
            hint="serve each by its own command, or add gateway",
        )
    role = next(iter(system.roles))
    verifier = HopVerifier(role, signing.trusted, system.clock)

    async def authenticate(connection: Any) -> Principal:
        return hop_principal(connection.scope)

    if role == "ledger":
        from holdfast.app.ledger_door import ledger_spec

        system.app = create_app(
            ledger_spec(system, verifier, _hosts(system.settings, role), shared)
        )
        return
    system.app = create_app(
        AppSpec(
            role=role,
            handlers=system.handlers,
            authenticate=authenticate,
            hosts=_hosts(system.settings, role),
            https=certificate_of(system.settings, role)[0] is not None,
            metrics_permission=Permission.PUBLIC,
            between=lambda inner: HopMiddleware(inner, verifier),
            **shared,
        )
    )


def _hosts(settings: Settings, role: str) -> list[str]:
    """The names a role behind the door is reached by: what it binds, and its URL's."""
    bound = settings[f"{role}_bind"].rpartition(":")[0]
    named = httpx.URL(url_of(settings, role)).host
    return [*LOCAL_HOSTS, role, bound, named]
