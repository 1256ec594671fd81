"""The composition root: from settings to a system that answers; the place that knows everything.

A *system* is what one process runs: its database, objects and keys, the services of its own roles,
clients for the roles elsewhere, one ASGI application, and the loops that keep it going. ``up``
makes one with every role; ``serve`` with the named ones; a command that opens the data directory
itself makes one without loops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from holdfast import __version__
from holdfast.app import datadir, door, keys, services, subjects
from holdfast.app.settings import DEFAULT_PORTS, ROLES, Settings
from holdfast.app.system import Keys, State, System
from holdfast.app.tls import certificate_of, client_tls, url_scheme, verify_of
from holdfast.gateway.proxy import HopMiddleware, hop_principal
from holdfast.identity import HopSigner, HopVerifier
from holdfast.identity.hop import HEADER
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import Clock, SystemClock
from holdfast.kernel.errors import Unsupported
from holdfast.kernel.ids import NewId, id_source
from holdfast.kernel.principal import Permission, Principal, service
from holdfast.kernel.structs import prepare_structs
from holdfast.kernel.telemetry import Metrics

if TYPE_CHECKING:
    import ssl

    from holdfast.kernel.cli import CommandLine
    from holdfast.kernel.database import Database
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.http.paging import Page
    from holdfast.kernel.objects.s3 import S3Credentials
    from holdfast.kernel.secrets import TenantSecrets
    from holdfast.ledger.client import LedgerClient
    from holdfast.ledger.model import Appended, Entry, FoldedPage, Moment, Prepared, Proof

STATEFUL = frozenset({"identity", "registry", "coordinator", "aggregator", "reporter", "ledger"})
TENANT_CONNECTIONS_MAX = 20
"""Of one process to one role for one tenant."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@asynccontextmanager
async def open_system(
    settings: Settings,
    roles: Sequence[str],
    *,
    clock: Clock | None = None,
    new_id: NewId | None = None,
) -> AsyncIterator[System]:
    """A system with these roles on this data directory, closed in order when the block ends.

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
    system = System(settings, chosen, clock, new_id or id_source(clock), Metrics())
    system.tls = client_tls(settings)
    system.limit(settings)
    async with AsyncExitStack() as stack:
        signing = Keys(settings, chosen)
        elsewhere = await _open_clients(system, signing, stack)
        if chosen & STATEFUL:
            state = system.state = await _open_state(system, stack)
            await services.open_services(system, state, signing, stack)
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
    await migrate(
        url,
        clock=system.clock,
        version=__version__,
        backups=settings.data_dir / "backups",
        password=password,
    )
    if not url.startswith("sqlite:"):
        from holdfast.app.backup.postgres import finish_restore

        await finish_restore(url, password, settings.data_dir)
    database = await stack.enter_async_context(
        open_database(url, clock=system.clock, password=password)
    )
    holder = "aggregator" if "aggregator" in system.roles else sorted(system.roles)[0]
    secrets = await _open_secrets(settings, database, holder)
    _make_folder(settings.objects_url)
    objects = await stack.enter_async_context(
        open_objects(settings.objects_url, secrets, s3=_s3(settings))
    )
    keyring = await keys.open_keyring(system, database, holder, stack)
    sealer = EnvelopeSealer(keyring)
    outbox = Outbox(sealer)
    await keys.seal_clear_rows(database, outbox)
    system.checks["database"] = database.check
    return State(database, objects, outbox, sealer, secrets, keyring)


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


async def _open_clients(system: System, signing: Keys, stack: AsyncExitStack) -> dict[str, str]:
    """Clients of the roles in other processes; role → URL.

    A role signs its calls with its own key; one process with several roles signs as the first.
    """
    from holdfast.fleet.client import FleetClient
    from holdfast.identity.client import IdentityClient
    from holdfast.identity.signin.client import OAuthClient, PasskeysClient, SessionsClient
    from holdfast.kernel.http.client import ApiClient
    from holdfast.ledger.client import LedgerClient
    from holdfast.records.client import RecordsClient
    from holdfast.registry.client import RegistryClient
    from holdfast.reports.client import ReportsClient

    projections = system.settings.data_dir / "projections"
    kinds: dict[str, tuple[str, Any]] = {
        "identity": ("identity", IdentityClient),
        "registry": ("registry", RegistryClient),
        "coordinator": ("fleet", FleetClient),
        "aggregator": ("records", partial(RecordsClient, projections=projections)),
        "reporter": ("reports", ReportsClient),
        "ledger": ("ledger", LedgerClient),
    }
    elsewhere = {role: _url_of(system.settings, role) for role in kinds if role not in system.roles}
    caller = sorted(system.roles)[0]
    for role, url in elsewhere.items():
        signer = HopSigner(
            caller, signing.own[caller], system.clock, system.new_id, system.thumbprints
        )
        client = httpx.AsyncClient(
            base_url=url,
            auth=HopAuth(signer, role, system.principal),
            timeout=httpx.Timeout(60.0, connect=5.0),
            limits=httpx.Limits(max_connections=100),
            verify=verify_of(system.tls, [url]),
            trust_env=False,
        )
        api = await stack.enter_async_context(ApiClient(client, role=role))
        attribute, kind = kinds[role]
        verify = verify_of(system.tls, [url])
        mine = TenantClients(url, signer, role, kind, verify, system.principal.subject)
        stack.push_async_callback(mine.close)
        own = kind(api)
        # Identity finds the tenant of a credential by itself; the ledger is asked by those below.
        setattr(system, attribute, own if role in ("identity", "ledger") else OfTenant(mine, own))
        if role == "identity":
            system.sessions = SessionsClient(api)
            system.passkeys = PasskeysClient(api)
            system.identity_as = IdentityElsewhere(url, signer, verify_of(system.tls, [url]))
            system.oauth = OAuthClient(api)
        each = TenantClients(url, signer, role, kind, verify_of(system.tls, [url]))
        stack.push_async_callback(each.close)
        if role == "ledger":
            system.deliveries = TenantDeliveries(each)
        elif role == "aggregator":
            system.projections = TenantProjections(each)
        elif role == "registry":
            system.profiles = TenantProfiles(each)
    return elsewhere


def _url_of(settings: Settings, role: str) -> str:
    named: str = settings[f"{role}_url"]
    return named or f"{url_scheme(settings, role)}://127.0.0.1:{DEFAULT_PORTS[role]}"


class HopAuth(httpx.Auth):
    """Signs each request of one role to another."""

    requires_request_body = True

    def __init__(self, signer: HopSigner, audience: str, principal: Principal) -> None:
        self._signer = signer
        self._audience = audience
        self._principal = principal

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        target = request.url.raw_path.decode("ascii")
        body = digest(request.content)
        request.headers[HEADER] = self._signer.token(
            self._audience, self._principal, request.method, target, body
        )
        yield request


class IdentityElsewhere:
    """The identity role in another process, asked on behalf of whoever looks at a page."""

    def __init__(self, url: str, signer: HopSigner, verify: ssl.SSLContext) -> None:
        self._url = url
        self._signer = signer
        self._verify = verify

    @asynccontextmanager
    async def __call__(self, principal: Principal) -> AsyncIterator[Any]:
        from holdfast.identity.client import IdentityClient
        from holdfast.identity.people.client import PeopleClient
        from holdfast.identity.signin.client import OAuthClient, PasskeysClient, SessionsClient
        from holdfast.kernel.http.client import ApiClient

        client = httpx.AsyncClient(
            base_url=self._url,
            auth=HopAuth(self._signer, "identity", principal),
            timeout=httpx.Timeout(30.0, connect=5.0),
            verify=self._verify,
            trust_env=False,
        )
        async with ApiClient(client) as api:
            yield door.IdentityOf(
                PeopleClient(api),
                SessionsClient(api),
                PasskeysClient(api),
                IdentityClient(api),
                OAuthClient(api),
            )


class TenantClients:
    """A role elsewhere, each tenant spoken for under its own name."""

    def __init__(
        self,
        url: str,
        signer: HopSigner,
        role: str,
        kind: Callable[[ApiClient], Any],
        verify: ssl.SSLContext | bool = True,
        subject: str = "relay",
    ) -> None:
        self._url = url
        self._verify = verify
        self._subject = subject
        self._signer = signer
        self._role = role
        self._kind = kind
        self._clients: dict[str, tuple[ApiClient, Any]] = {}

    def of(self, principal: Principal) -> Any:
        """The client that speaks for the principal's tenant."""
        from holdfast.kernel.http.client import ApiClient

        known = self._clients.get(principal.tenant)
        if known is None:
            client = httpx.AsyncClient(
                base_url=self._url,
                auth=HopAuth(self._signer, self._role, service(self._subject, principal.tenant)),
                timeout=httpx.Timeout(60.0, connect=5.0),
                limits=httpx.Limits(max_connections=TENANT_CONNECTIONS_MAX),
                verify=self._verify,
                trust_env=False,
            )
            api = ApiClient(client, role=self._role)
            known = self._clients[principal.tenant] = (api, self._kind(api))
        return known[1]

    async def close(self) -> None:
        """Close the connections."""
        for api, _ in self._clients.values():
            await api.aclose()


OF_NOBODY = frozenset({"register", "authenticate_worker", "find_worker_holder"})
"""What is asked before it is known for whom: the credential that is shown says whose it is."""


class OfTenant:
    """A role elsewhere: what is asked for somebody is asked in their tenant, by this process.

    Its client alone asks as what its connection says, whomever it is asked for: the front page of
    one tenant would show another's sources, and a coordinator collect one's for another. So a
    question that names nobody first is a defect, unless it is one of :data:`OF_NOBODY`, which
    ``own`` asks.

    The role that is asked grants it to this process, whatever the one it is asked for may do, as
    it would within one process: what people may do is decided at the door, before.
    """

    def __init__(self, clients: TenantClients, own: Any) -> None:
        self._clients = clients
        self._own = own

    def __getattr__(self, name: str) -> Any:
        if name in OF_NOBODY:
            return getattr(self._own, name)

        def ask(principal: Principal, *given: Any, **more: Any) -> Any:
            if not isinstance(principal, Principal):
                raise TypeError(f"{name} is asked for nobody: its first argument is no principal")
            return getattr(self._clients.of(principal), name)(principal, *given, **more)

        return ask


class TenantDeliveries:
    """The ledger elsewhere, as roles see it."""

    def __init__(self, clients: TenantClients) -> None:
        self._clients = clients

    async def append_prepared(self, principal: Principal, events: Sequence[Prepared]) -> Appended:
        """See :meth:`holdfast.ledger.service.LedgerService.append_prepared`."""
        return await self._of(principal).append_prepared(principal, events)

    async def event_proofs(self, principal: Principal, events: Sequence[str]) -> list[Proof]:
        """See :meth:`holdfast.ledger.service.LedgerService.event_proofs`."""
        return await self._of(principal).event_proofs(principal, events)

    async def moment(
        self, principal: Principal, as_of: datetime | None = None, position: int | None = None
    ) -> Moment:
        """See :meth:`holdfast.ledger.service.LedgerService.moment`."""
        return await self._of(principal).moment(principal, as_of, position)

    async def read(self, principal: Principal, *, first: int = 0, limit: int = 100) -> Page[Entry]:
        """See :meth:`holdfast.ledger.service.LedgerService.read`."""
        return await self._of(principal).read(principal, first=first, limit=limit)

    async def projected(self, principal: Principal, name: str, **options: Any) -> FoldedPage:
        """See :meth:`holdfast.ledger.service.LedgerService.projected`."""
        return await self._of(principal).projected(principal, name, **options)

    def _of(self, principal: Principal) -> LedgerClient:
        client: LedgerClient = self._clients.of(principal)
        return client


class TenantProjections:
    """The aggregator elsewhere, as the reporter sees it."""

    def __init__(self, clients: TenantClients) -> None:
        self._clients = clients

    async def projection(self, principal: Principal, profile: str, **options: Any) -> Any:
        """See :meth:`holdfast.records.client.RecordsClient.projection`."""
        return await self._clients.of(principal).projection(principal, profile, **options)


class TenantProfiles:
    """The registry elsewhere, as the reporter sees it."""

    def __init__(self, clients: TenantClients) -> None:
        self._clients = clients

    async def show(self, principal: Principal, name: str, digest: str | None = None) -> Any:
        """See :meth:`holdfast.registry.client.RegistryClient.show`."""
        return await self._clients.of(principal).show(principal, name, digest)


async def _open_secrets(settings: Settings, database: Database, holder: str) -> TenantSecrets:
    """The tenant secret, held against the check value that the holder's data carries.

    Where there is no check value, nothing was written under a secret yet: one may be made. Roles
    that share a database keep secrets of their own, since each names only what it stores itself.
    """
    from holdfast.app.store import read_check_value, write_check_value
    from holdfast.kernel.secrets import TenantSecrets

    settings.secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = await database.read(service("app"), read_check_value(holder))
    secrets = TenantSecrets.open(settings.secrets_dir / "tenant-secrets", may_create=known is None)
    if known is not None:
        secrets.confirm(known)
    else:
        await database.write(service("app"), write_check_value(holder, secrets.check_value))
    return secrets


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
    named = httpx.URL(_url_of(settings, role)).host
    return [*LOCAL_HOSTS, role, bound, named]


@asynccontextmanager
async def open_data_dir(line: CommandLine) -> AsyncIterator[ApiClient]:
    """A client straight into a system on the data directory, for a command when nothing runs."""
    from holdfast.app.line import settings_of
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.telemetry import configure_logging

    settings = settings_of(line)
    configure_logging("error", settings["log_format"])
    with datadir.held(line.data_dir):
        async with open_system(settings.alone(), ROLES) as system:
            token = line.operator_token()
            assert system.app is not None
            async with ApiClient.for_app(system.app, token=token) as api:
                yield api
