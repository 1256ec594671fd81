"""What one process runs: its parts, its keys, and what the roles that keep something keep it in.

Made by :mod:`holdfast.app.compose` and filled by what it opens; no part of this module opens
anything but the keys of the process.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.app.settings import Settings
from holdfast.identity import LoginLinks
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Conflict, Exhausted, Unavailable
from holdfast.kernel.http.rates import RequestRates
from holdfast.kernel.ids import NewId
from holdfast.kernel.principal import Principal, operator, service
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.telemetry import Metrics, get_logger
from holdfast.kernel.trusted import PUBLIC_SUFFIX, TrustedFolder

if TYPE_CHECKING:
    from holdfast.identity.jwks import KeySets
    from holdfast.kernel.database import Database
    from holdfast.kernel.http import App, Check
    from holdfast.kernel.objects import Objects
    from holdfast.kernel.outbox import Outbox, Sealer
    from holdfast.kernel.secrets import TenantSecrets
    from holdfast.kernel.tls import ClientTls
    from holdfast.keyring import Keyring

log = get_logger("app")

Loop = Callable[[], Awaitable[None]]
PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 30.0


@dataclass(slots=True)
class System:
    """What one process runs. Services of roles elsewhere are their clients: the same methods."""

    settings: Settings
    roles: frozenset[str]
    clock: Clock
    new_id: NewId
    metrics: Metrics
    served: bool = True
    """Whether it is opened to serve, as the roles that it has; a command opens all there are."""
    restored: bool = False
    """Whether it is opened to check what was just restored."""
    identity: Any = None
    sessions: Any = None
    passkeys: Any = None
    oauth: Any = None
    identity_parts: Any = None
    people: Any = None
    identity_as: Any = None
    registry: Any = None
    fleet: Any = None
    records: Any = None
    reports: Any = None
    subjects: Any = None
    state: State | None = None
    ledger: Any = None
    deliveries: Any = None
    rates: RequestRates = field(default_factory=RequestRates)
    projections: Any = None
    profiles: Any = None
    """The aggregator and the registry elsewhere, asked for each tenant under its own name."""
    links: LoginLinks | None = None
    token_keys: KeySets | None = None
    tls: ClientTls | None = None
    """What this process calls others with."""
    app: App | None = None
    loops: list[tuple[str, Loop]] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    handlers: list[Any] = field(default_factory=list)

    @property
    def principal(self) -> Principal:
        """The system acting for itself."""
        return service(next(iter(self.roles)) if len(self.roles) == 1 else "holdfast")

    @property
    def operator(self) -> Principal:
        """The operator of this data directory, on whose behalf `up` acts."""
        return operator()

    def limit(self, settings: Settings) -> None:
        """Take the limits of ``settings``: at the start, and when they were read again."""
        self.rates.set(
            settings["serve_requests_per_second"],
            settings["serve_tenant_requests_per_second"],
            settings["serve_address_requests_per_second"],
        )

    async def run_loops(self) -> None:
        """Run every loop until cancelled; a loop that fails is logged and begun again."""
        async with asyncio.TaskGroup() as group:
            for name, loop in self.loops:
                group.create_task(_forever(name, loop, self.clock), name=name)


async def _forever(name: str, loop: Loop, clock: Clock) -> None:
    """A loop is a reconciler: begun again after a failure it goes on where things stand.

    The pause grows while it keeps failing; one that had been well for a while begins again soon.
    """
    pause = PAUSE_SECONDS
    while True:
        began = clock.monotonic()
        try:
            await loop()
            return
        except Exception as error:
            if clock.monotonic() - began > PAUSE_SECONDS_MAX:
                pause = PAUSE_SECONDS
            if isinstance(error, Unavailable | Exhausted) or _full(error):
                # A full disk, a role that is gone: its state, and no defect to trace.
                log.warning(
                    "loop waits; it begins again",
                    loop=name,
                    detail=str(error),
                    pause_seconds=pause,
                )
            else:
                log.exception("loop failed; it begins again", loop=name, pause_seconds=pause)
        await clock.sleep(pause)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


def _full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Keys:
    """The signing keys of this process's roles and the public keys of those it trusts.

    Private keys stay in this process's own directory; public ones are left in the trust directory,
    which roles of one system share.
    """

    def __init__(self, settings: Settings, roles: frozenset[str], clock: Clock) -> None:
        for role in sorted(roles):
            _check_own(settings, role)
        settings.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.trust_dir.mkdir(parents=True, exist_ok=True)
        self.own = {
            role: SigningKey.load_or_create(settings.keys_dir / f"{role}.key.jwk")
            for role in sorted(roles)
        }
        for role, key in self.own.items():
            key.write_public(settings.trust_dir, role)
        self.trusted = TrustedFolder(settings.trust_dir, clock)


def _check_own(settings: Settings, role: str) -> None:
    """Make no key where one was: its public half, which others trust, is there without it."""
    own = settings.keys_dir / f"{role}.key.jwk"
    public = settings.trust_dir / f"{role}{PUBLIC_SUFFIX}"
    if own.exists() or not public.exists():
        return
    raise Conflict(
        f"cannot start as the {role}: its key {own} is missing, and {public} is there of one",
        code="role-key-missing",
        hint=f"bring the file back, from a backup of the keys; a further {role} of the same system "
        f"has the folder of keys of the first (HOLDFAST_KEYS_DIR); if the key is gone for good, "
        f"remove {public} and start again: both are made anew",
    )


@dataclass(frozen=True, slots=True)
class State:
    """What the roles that keep something keep it in."""

    database: Database
    objects: Objects
    outbox: Outbox
    sealer: Sealer
    secrets: TenantSecrets
    keyring: Keyring
    unflushed: bool = False
    """Whether a server under them may lose what it acknowledged, as the settings allow."""
