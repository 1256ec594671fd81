"""One served program, from its settings to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from holdfast.app import datadir, door, people
from holdfast.app.compose import open_system
from holdfast.app.line import tell_slips
from holdfast.app.settings import Settings
from holdfast.app.system import System
from holdfast.app.tls import ServedCertificate, check_tls, client_tls, lead_of, server_tls
from holdfast.kernel.clock import timestamp
from holdfast.kernel.collector import settle
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.telemetry import configure_logging, get_logger, set_level

if TYPE_CHECKING:
    import ssl

    from holdfast.kernel.connection import ServeLimits
    from holdfast.kernel.serving import Bound, Tls
    from holdfast.kernel.tls import RenewedContext

log = get_logger("app")

RENEW = "holdfast pki renew, or what signs your certificates; then SIGHUP"

Beside = Callable[[System, "Bound"], Awaitable[int]]
Reload = Callable[[], Settings]


async def run_program(
    settings: Settings,
    roles: tuple[str, ...],
    *,
    bind: str,
    beside: Beside | None = None,
    reload: Reload | None = None,
    reloaded: Callable[[], None] | None = None,
) -> int:
    """Serve these roles until told to stop; the exit status.

    ``reload`` reads the settings again at SIGHUP; ``reloaded`` is told when they were taken.
    ``beside`` runs once the address is known, for what ``up`` adds (drones, the sample); when it
    returns, the program drains and ends with its status. Stopping ends ``beside`` first, so that
    its drones can give back what they hold; then drains requests, ends the loops, closes the state.
    """
    from holdfast.kernel.serving import bind_socket, serve

    configure_logging(settings["log_level"], settings["log_format"])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    tell_slips()
    if unused := settings.unused_addresses(roles):
        log.warning(
            "addresses passed over",
            variables=unused,
            detail="these roles are in this process",
            hint="unset them; or `holdfast serve gateway` goes to roles that run elsewhere",
        )
    lead = lead_of(roles)
    check_tls(settings, lead)
    if "gateway" in roles:
        door.check_door(settings, bind)
        door.check_proxies(settings, "gateway")
    elif "ledger" in roles:
        from holdfast.app import ledger_door

        ledger_door.check_door(settings, bind)
    if "identity" in roles:
        people.check_party(settings)
    if set(roles) & {"identity", "gateway"}:
        people.providers_of(settings)
    if "gateway" in roles:
        door.check_credentials(settings)
    door.check_scraped(settings, lead)
    # All files of certificates, too, before the schema is migrated or a key made.
    tls = server_tls(settings, lead)
    context = tls.context() if tls else None
    client_tls(settings)
    stop = asyncio.Event()
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    side: list[asyncio.Future[int]] = []
    if not settings.data_dir.exists():
        bind_socket(bind).close()  # of a start that cannot be, nothing is made
    with datadir.held(settings.data_dir):
        async with open_system(settings, roles) as system:
            settle()
            served = await _served(system, tls) if tls is not None else None
            if reload is not None:
                certificates = _certificates(system, context, served)
                _reload_on_hangup(reload, system, certificates, reloaded)
            tasks: list[asyncio.Task[object]] = [
                asyncio.create_task(
                    serve(
                        system.app,
                        bind=bind,
                        limits=limits_of(settings, frozenset(roles)),
                        tls=context,
                        metrics=system.metrics,
                        ready=bound.set_result,
                        stop=stop,
                        leaving=lambda: _leave(side),
                    ),
                    name="serve",
                )
            ]
            server = tasks[0]
            try:
                first: list[asyncio.Future[Any]] = [server, bound]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if server.done():
                    server.result()
                    return 0
                if settings["metrics_bind"]:
                    tasks.append(await _scraped(system, settings, context, stop))
                tasks.append(asyncio.create_task(system.run_loops(), name="loops"))
                started = timestamp(system.clock.now())
                with datadir.announced(settings.data_dir, bound.result().url, started):
                    log.info("ready", url=bound.result().url, roles=sorted(roles))
                    if beside is not None:
                        side.append(asyncio.ensure_future(beside(system, bound.result())))
                    return await _until_over(server, side, stop)
            finally:
                await _end(tasks)


async def _scraped(
    system: System, settings: Settings, context: ssl.SSLContext | None, stop: asyncio.Event
) -> asyncio.Task[object]:
    """The metrics on a port of their own, served until ``stop``; raises if it cannot listen."""
    from holdfast.kernel.http.scrape import ScrapeApp
    from holdfast.kernel.serving import serve

    bind = settings["metrics_bind"]
    hosts = [*door.LOOPBACK, *settings["gateway_hosts"], bind.rpartition(":")[0]]
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    app = ScrapeApp(system.metrics, hosts)
    served: asyncio.Task[object] = asyncio.create_task(
        serve(
            app,
            bind=bind,
            limits=limits_of(settings, system.roles),
            tls=context,
            ready=bound.set_result,
            stop=stop,
            signals=False,
        ),
        name="metrics",
    )
    first: list[asyncio.Future[Any]] = [served, bound]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if served.done():
        served.result()
    log.info("metrics on a port of their own", url=f"{bound.result().url}/metrics")
    return served


async def _until_over(
    server: asyncio.Task[object], side: list[asyncio.Future[int]], stop: asyncio.Event
) -> int:
    try:
        first: list[asyncio.Future[Any]] = [server, *side]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not side or stop.is_set() or server.done():
            await server
            return 0
        stop.set()
        await server
        return side[0].result()
    finally:
        await _leave(side)


async def _leave(side: list[asyncio.Future[int]]) -> None:
    """End what runs beside the server, and wait until it has."""
    for each in side:
        each.cancel()
        with contextlib.suppress(asyncio.CancelledError, HoldfastError):
            await each


async def _end(tasks: list[asyncio.Task[object]]) -> None:
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


ADDRESS_PART = 0.75
"""Of all connections, what one address may have unless a setting says otherwise: whoever takes all
that they can get leaves room for everybody else."""


def limits_of(settings: Settings, roles: frozenset[str]) -> ServeLimits:
    """The bounds of serving."""
    from holdfast.kernel.connection import ServeLimits

    return ServeLimits(
        connections_max=settings["serve_connections_max"],
        address_connections_max=_of_one_address(settings, roles),
        trusted_proxies=tuple(map(ip_network, settings["gateway_trusted_proxies"])),
        header_seconds=settings["serve_header_seconds"],
        body_seconds=settings["serve_body_seconds"],
        idle_seconds=settings["serve_idle_seconds"],
        stop_seconds=settings["serve_stop_seconds"],
    )


def _of_one_address(settings: Settings, roles: frozenset[str]) -> int:
    """How many connections one address may have; 0 is no limit of its own.

    That is for doors: behind a gateway everybody comes from one address. So the ledger has a share
    of its own accord only where it is a server on its own, by the guide's name.
    """
    if not roles & {"gateway", "ledger"}:
        return 0
    named: int | None = settings["serve_address_connections_max"]
    if named is not None:
        return named
    if "gateway" not in roles and not settings.origin("ledger_bind").startswith("VDB_"):
        return 0
    return max(1, int(settings["serve_connections_max"] * ADDRESS_PART))


async def _served(system: System, tls: Tls) -> ServedCertificate:
    """Say at the start, too, what readiness will say of the certificate."""
    served = ServedCertificate(tls.certificate, system.clock)
    system.checks["certificate"] = served.check
    try:
        if await served.check() is not None:
            log.warning("the certificate ends soon", path=str(tls.certificate), do=RENEW)
    except HoldfastError as error:
        log.warning("the certificate is of no use", detail=error.detail, do=RENEW)
    return served


def _certificates(
    system: System, context: RenewedContext | None, served: ServedCertificate | None
) -> Callable[[], None]:
    """What reads renewed certificates and authorities, all or none: connections from then on go by
    them."""
    from holdfast.kernel.tls import renew

    found = [each for each in (context, system.tls) if each is not None]

    def read() -> None:
        renew(*found)
        if served is not None:
            served.read()

    return read


def _reload_on_hangup(
    reload: Reload,
    system: System,
    certificates: Callable[[], None],
    reloaded: Callable[[], None] | None,
) -> None:
    """SIGHUP reads the settings again and takes the log level and the rate limits, and the files of
    certificates; if anything is wrong, all stays as it was."""

    def reread() -> None:
        try:
            settings = reload()
            certificates()
            set_level(settings["log_level"])
            system.limit(settings)
            log.info(
                "settings and certificates read again",
                taken="log level, limits of requests, certificates",
                rest="as it was: other settings need a restart",
            )
            if reloaded is not None:
                reloaded()
        except HoldfastError as error:
            log.warning("settings not taken", detail=error.detail, problems=list(error.problems))

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reread)
