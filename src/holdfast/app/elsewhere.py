"""Roles in other processes: how this one reaches them, and in whose name it asks.

A role signs each of its calls with its own key (:class:`HopAuth`); the one that is asked knows by
that who asks, and for which tenant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.app import door
from holdfast.app.settings import DEFAULT_PORTS, Settings
from holdfast.app.system import Keys, System
from holdfast.app.tls import trust_of, url_scheme
from holdfast.identity import HopSigner
from holdfast.identity.hop import HopAuth
from holdfast.kernel.http.pool import RolePool
from holdfast.kernel.principal import Principal, service

if TYPE_CHECKING:
    import ssl

    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.http.paging import Page
    from holdfast.kernel.tls import ClientTls
    from holdfast.ledger.client import LedgerClient
    from holdfast.ledger.model import Appended, Entry, FoldedPage, Moment, Prepared, Proof

TENANT_CONNECTIONS_MAX = 20
"""Of one process to one role for one tenant."""


async def open_clients(system: System, signing: Keys, stack: AsyncExitStack) -> dict[str, str]:
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
    elsewhere = {role: url_of(system.settings, role) for role in kinds if role not in system.roles}
    caller = sorted(system.roles)[0]
    for role, url in elsewhere.items():
        signer = HopSigner(caller, signing.own[caller], system.clock, system.new_id)
        trust = trust_of(system.tls, [url])
        client = httpx.AsyncClient(
            base_url=url,
            auth=HopAuth(signer, role, system.principal),
            timeout=httpx.Timeout(60.0, connect=5.0),
            transport=RolePool(trust, connections_max=100),
            trust_env=False,
        )
        api = await stack.enter_async_context(ApiClient(client, role=role))
        attribute, kind = kinds[role]
        mine = TenantClients(url, signer, role, kind, trust, system.principal.subject)
        stack.push_async_callback(mine.close)
        own = kind(api)
        # Identity finds the tenant of a credential by itself; the ledger is asked by those below.
        setattr(system, attribute, own if role in ("identity", "ledger") else OfTenant(mine, own))
        if role == "identity":
            system.sessions = SessionsClient(api)
            system.passkeys = PasskeysClient(api)
            system.identity_as = IdentityElsewhere(url, signer, trust)
            system.oauth = OAuthClient(api)
        each = TenantClients(url, signer, role, kind, trust)
        stack.push_async_callback(each.close)
        if role == "ledger":
            system.deliveries = TenantDeliveries(each)
        elif role == "aggregator":
            system.projections = TenantProjections(each)
        elif role == "registry":
            system.profiles = TenantProfiles(each)
    return elsewhere


def url_of(settings: Settings, role: str) -> str:
    named: str = settings[f"{role}_url"]
    return named or f"{url_scheme(settings, role)}://127.0.0.1:{DEFAULT_PORTS[role]}"


class IdentityElsewhere:
    """The identity role in another process, asked on behalf of whoever looks at a page."""

    def __init__(self, url: str, signer: HopSigner, trust: ClientTls | ssl.SSLContext) -> None:
        self._url = url
        self._signer = signer
        self._trust = trust

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
            transport=RolePool(self._trust),
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
        trust: ClientTls | ssl.SSLContext | bool = True,
        subject: str = "relay",
    ) -> None:
        self._url = url
        self._trust = trust
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
                transport=RolePool(self._trust, connections_max=TENANT_CONNECTIONS_MAX),
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
