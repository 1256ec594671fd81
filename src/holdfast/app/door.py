"""The gateway's application: what it admits, what it passes on, how the whole is."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from holdfast.app import people
from holdfast.app.overview import Gatherer
from holdfast.app.settings import Settings
from holdfast.app.tls import certificate_of, clients_of, trust_of
from holdfast.fleet.grants import Grants
from holdfast.gateway.audit import DoorAudit
from holdfast.gateway.door import DoorAuthenticator, Remembered
from holdfast.gateway.proxy import CertificateMiddleware, ProxyMiddleware, RoleProxy
from holdfast.identity import HopSigner, LoginLinks, OperatorToken
from holdfast.identity.access.model import CONFIRM, REVIEW
from holdfast.identity.audit import Record, Trail
from holdfast.identity.bearer import BearerTokens, TokensOfBoth
from holdfast.identity.hop import HopAuth
from holdfast.identity.keyfile import KeyFile, check_keys
from holdfast.identity.notebook import Notebook
from holdfast.identity.secretfile import TokensOfFile, read_secret
from holdfast.identity.signin.throttle import Throttle
from holdfast.identity.tokens import TokenKey, shared_secret
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.errors import HoldfastError, Invalid, Unavailable
from holdfast.kernel.http.client import FAILURES
from holdfast.kernel.http.pool import RolePool

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from holdfast.app.system import Keys, System
    from holdfast.identity.jwks import KeySets
    from holdfast.kernel.http import AppSpec
    from holdfast.kernel.principal import Principal

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
PROBE_SECONDS = 2.0
DEGRADED = {
    "relay": "events wait for the ledger, or it refused some",
    "ledger": "a log is read-only",
    "ledger_clock": "nothing is appended, the clock is behind the last entry: see "
    "`holdfast ledger status`",
    "disk": "little room is left on the disk",
    "memory": "nearly every connection is taken",
    "api_keys_file": "the newest file of keys was not taken",
    "token_keys": "the keys that tokens are verified by cannot be fetched (the last good ones "
    "hold), or none of them is of use: see jwks in the log",
    "token_secret": "the newest token secret was not taken",
    "trusted_keys": "a file of the folder of trusted keys, or all of the folder, cannot be read: "
    "see trusted in the log",
    "certificate": "the certificate ends soon: `holdfast pki renew`, then SIGHUP",
    "erasures": "copies of somebody who was erased are not removed: see the aggregator's log",
    "access": "access is as it was at a backup and not yet confirmed: only the operator is let in "
    f"(`{REVIEW}`, `{CONFIRM}`)",
    "durability": "the PostgreSQL server may lose what it acknowledged (fsync or full_page_writes "
    "is off), which HOLDFAST_DATABASE_UNFLUSHED allows",
    "audit": "refusals of note wait for the ledger, or are kept in memory only",
}
"""What a check means that answers ``degraded``, and so gives no reason of its own."""
SHUT = ("access", "degraded")
"""What is told whole of a role elsewhere, too: nobody finds it in that role's log."""


def check_door(settings: Settings, bind: str) -> None:
    """Refuse to open beyond loopback without TLS of our own or a named terminator.

    A credential is always asked for, so that half of the rule cannot be broken by a setting.
    """
    host = bind.rpartition(":")[0]
    certificate = certificate_of(settings, "gateway")[0]
    if host in LOOPBACK or certificate or settings["gateway_terminator"]:
        return
    raise Invalid(
        f"cannot start: {bind} is beyond loopback and there is no TLS",
        code="door-open",
        hint="give a certificate (`holdfast pki` makes one; HOLDFAST_TLS_CERTIFICATE_FILE and "
        "HOLDFAST_TLS_KEY_FILE name it), or name what ends TLS in front "
        "(HOLDFAST_GATEWAY_TERMINATOR=my-proxy), or bind 127.0.0.1",
    )


def nothing_in_front(settings: Settings, role: str) -> bool:
    """Whether nobody else passes requests on to that door, so that no forwarding header counts.

    Whoever trusts a proxy has one: where the door has a certificate of its own nothing else is to
    be known of it, and without one :func:`check_proxies` has asked for its name.
    """
    trusted = settings["gateway_trusted_proxies"] and certificate_of(settings, role)[0]
    return not settings["gateway_terminator"] and not trusted


def check_proxies(settings: Settings, role: str) -> None:
    """Refuse a trusted proxy that would be refused itself: in clear, with no terminator named."""
    if not settings["gateway_trusted_proxies"] or not nothing_in_front(settings, role):
        return
    raise Invalid(
        "cannot start: a proxy in front is trusted (HOLDFAST_GATEWAY_TRUSTED_PROXIES), and "
        "nothing says that it ends TLS",
        code="proxy-unnamed",
        hint="name it (HOLDFAST_GATEWAY_TERMINATOR=my-proxy): pages, cookies and links are then "
        "those of https; or give the door a certificate of its own",
    )


def check_credentials(settings: Settings) -> None:
    """Refuse a start whose credentials are of no use, before anything is made or changed for it."""
    if settings["identity_keys_file"] is not None:
        check_keys(settings["identity_keys_file"])
    path = settings["identity_jwt_secret_file"]
    secret = settings["identity_token_secret"].encode() if path is None else read_secret(path)
    if secret:
        _check_secret(settings, secret)
    _admin_key(settings)
    _check_token_keys(settings)


def check_scraped(settings: Settings, role: str) -> None:
    """Refuse a port for the metrics that would be open in clear beyond loopback."""
    bind = settings["metrics_bind"]
    inside = not bind or bind.rpartition(":")[0] in LOOPBACK
    if inside or certificate_of(settings, role)[0] or settings["gateway_terminator"]:
        return
    raise Invalid(
        f"cannot start: the metrics at {bind} are beyond loopback and there is no TLS",
        code="door-open",
        hint="give a certificate, or name what ends TLS in front "
        "(HOLDFAST_GATEWAY_TERMINATOR=my-proxy), or bind them to 127.0.0.1",
    )


def spec(
    system: System, keys: Keys, elsewhere: Mapping[str, str], shared: Mapping[str, Any]
) -> AppSpec:
    """The application of the gateway, with the routes of the roles in this process."""
    from holdfast import console
    from holdfast.gateway import http as gateway_http
    from holdfast.kernel.http import AppSpec

    settings = system.settings
    token = OperatorToken.load_or_create(settings.data_dir / "operator.token")
    sessions = Remembered(system.sessions.find_holder, system.clock)
    system.links = LoginLinks(system.clock, os.urandom)
    workers = system.fleet.find_worker_holder
    if "coordinator" not in system.roles:
        workers = Remembered(workers, system.clock)
    authenticate = DoorAuthenticator(
        token,
        sessions,
        workers,
        Remembered(system.identity.find_holder, system.clock),
        system.clock,
        listed=listed_keys(system),
        tokens=_bearer_tokens(system),
        admin=_admin_key(settings),
        tenant_required=settings["identity_tenant_required"],
    )
    secure = bool(certificate_of(settings, "gateway")[0] or settings["gateway_terminator"])
    asks = clients_of(settings, "gateway") != "none"
    devices = Peppers.load_or_create(settings.keys_dir, "device-pepper")
    browsers = gateway_http.Browsers(
        system.sessions,
        token.fingerprint,
        secure,
        sessions.forget,
        Throttle(system.clock.monotonic, devices.seal("device")[0]),
        os.urandom,
    )

    signer = HopSigner("gateway", keys.own["gateway"], system.clock, system.new_id)

    async def by_connection(connection: Any) -> Any:
        return await authenticate(connection.scope)

    def between(inner: Any) -> Any:
        passed = proxied(inner) if elsewhere else inner
        return CertificateMiddleware(passed) if asks else passed

    def proxied(inner: Any) -> Any:
        client = httpx.AsyncClient(
            timeout=httpx.Timeout(120.0, connect=5.0),
            transport=RolePool(
                trust_of(system.tls, elsewhere.values()),
                served_idle_seconds=settings["serve_idle_seconds"],
            ),
            trust_env=False,
        )
        proxy = RoleProxy(elsewhere, signer, client, system.clock)
        return ProxyMiddleware(
            inner, proxy, authenticate, Grants(keys.trusted, system.clock), system.rates.take
        )

    trail = trail_of(system, "gateway", system.identity.record)
    audit = DoorAudit(trail)
    providers = [
        console.Provider(each.name, each.title) for each in people.providers_of(settings).values()
    ]
    health = ServiceHealth(system, elsewhere, signer)
    gatherer = Gatherer(system, health.told)
    return AppSpec(
        role="gateway",
        handlers=[
            *system.handlers,
            *gateway_http.handlers(system.links, browsers, settings["identity_webauthn_origin"]),
            *gateway_http.passkey_handlers(system.passkeys, browsers),
            *gateway_http.oauth_handlers(system.oauth, browsers, console.oauth_page(providers)),
            *console.handlers(
                gatherer, authenticate, system.identity_as or _identity_here(system), providers
            ),
        ],
        authenticate=by_connection,
        hosts=_hosts(settings),
        local=nothing_in_front(settings, "gateway"),
        trusted_proxies=settings["gateway_trusted_proxies"],
        https=secure,
        services=health.states,
        between=between,
        origins=settings["gateway_origins"],
        rates=system.rates,
        noted=audit.exchange,
        page=console.refused_page,
        **shared,
    )


def trail_of(system: System, door: str, record: Record) -> Trail:
    """What that door notes on its way to ``record``, and what was on its way when it ended."""
    notebook = Notebook(system.settings.data_dir / "audit" / door)
    trail = Trail(record, system.clock, system.new_id, notebook)
    system.loops.append(("audit", trail.loop))
    system.checks["audit"] = trail.check
    return trail


@dataclass(frozen=True, slots=True)
class IdentityOf:
    """The identity role as the pages ask it."""

    people: Any
    sessions: Any
    passkeys: Any
    identity: Any
    accounts: Any


def _identity_here(system: System) -> Any:
    """The identity role of this process: its services take whoever asks as an argument."""
    found = IdentityOf(
        system.people, system.sessions, system.passkeys, system.identity, system.oauth
    )

    @asynccontextmanager
    async def ask(principal: Principal) -> AsyncIterator[IdentityOf]:
        yield found

    return ask


def listed_keys(system: System) -> KeyFile | None:
    """The keys of the operator's file, if one is named; a bad edit shows in readiness."""
    settings = system.settings
    path = settings["identity_keys_file"]
    if path is None:
        return None
    found = KeyFile(path, settings["identity_keys_seconds"], system.clock)
    system.checks["api_keys_file"] = found.check
    return found


def _tokens_of_secret(system: System) -> BearerTokens | TokensOfFile | None:
    """What verifies tokens under the secret shared with whoever makes them, which is named by value
    or in a file; two must be one."""
    settings = system.settings
    path, named = settings["identity_jwt_secret_file"], settings["identity_token_secret"].encode()
    only = settings.file_of("identity_token_secret") if path is None else None
    path = path or only

    def made(secret: bytes) -> BearerTokens:
        if only is None:
            _check_secret(settings, secret)
        naming = hmac.new(secret, b"holdfast subjects", hashlib.sha256).digest()
        return _tokens_under(system, [shared_secret(secret)], naming)

    if path is None:
        return made(named) if named else None
    found = TokensOfFile(path, made, system.clock)
    system.checks["token_secret"] = found.check
    return found


def _check_secret(settings: Settings, secret: bytes) -> None:
    named = settings["identity_token_secret"].encode()
    if named and named != secret:
        raise Invalid(
            f"cannot use the token secret in {settings['identity_jwt_secret_file']}: it is not "
            f"that of {settings.origin('identity_token_secret')}",
            hint="set one of them",
        )
    shared_secret(secret)


async def open_token_keys(system: System, stack: AsyncExitStack) -> None:
    """The keys by which an issuer elsewhere signs tokens, if one is named; kept by a loop."""
    from holdfast.identity.jwks import KeySets
    from holdfast.identity.signin.providers import Wire

    settings = system.settings
    url = settings["identity_jwks_url"]
    if not url:
        return
    _check_token_keys(settings)
    wire = Wire(
        await people.open_outbound(system, stack), frozenset(settings["identity_oauth_allow"])
    )
    system.token_keys = KeySets(
        url,
        wire.get_bytes,
        system.clock,
        stale_seconds=settings["identity_jwks_stale_seconds"],
        metrics=system.metrics,
    )
    system.loops.append(("keys of tokens", system.token_keys.keep))
    system.checks["token_keys"] = system.token_keys.check


def _check_token_keys(settings: Settings) -> None:
    """Whoever publishes keys of tokens says who is who here, so the issuer and the audience are
    part of the setting: :class:`Invalid` without them, or the issuer's tokens for others would open
    this door."""
    url = settings["identity_jwks_url"]
    if not url:
        return
    if not settings["identity_jwt_issuer"] or not settings["identity_jwt_audience"]:
        raise Invalid(
            "cannot start: tokens under published keys need an issuer and an audience",
            code="jwks-incomplete",
            hint="HOLDFAST_IDENTITY_JWT_ISSUER and HOLDFAST_IDENTITY_JWT_AUDIENCE, exactly as "
            "the tokens name them",
        )
    allow = frozenset(settings["identity_oauth_allow"])
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.netloc not in allow:
        raise Invalid(
            f"cannot start: the keys at {url} would come without TLS",
            code="jwks-open",
            hint="only a host:port of HOLDFAST_IDENTITY_OAUTH_ALLOW may be",
        )


def _bearer_tokens(system: System) -> BearerTokens | TokensOfFile | TokensOfBoth | None:
    """What verifies tokens, under the operator's shared secret, under published keys, or both."""
    settings = system.settings
    secret, published = _tokens_of_secret(system), None
    if system.token_keys is not None:
        # Subjects are named under a key of this door's, since nothing here is secret.
        naming = Peppers.load_or_create(settings.keys_dir, "subject-pepper")
        published = _tokens_under(system, system.token_keys, naming.name("holdfast subjects"))
    if secret is None or published is None:
        return secret or published
    return TokensOfBoth(secret, published)


def _tokens_under(
    system: System, keys: Sequence[TokenKey] | KeySets, naming: bytes
) -> BearerTokens:
    settings = system.settings
    return BearerTokens(
        keys,
        naming,
        system.clock,
        issuer=settings["identity_jwt_issuer"],
        audience=settings["identity_jwt_audience"],
        default_role=settings["identity_default_role"],
        seconds_max=settings["identity_jwt_seconds"],
    )


ADMIN_KEY_CHARACTERS_MIN = 32


def _admin_key(settings: Settings) -> OperatorToken | None:
    """The operator's own bearer, if one is named; too short a one stops the start."""
    key: str = settings["gateway_admin_key"]
    if not key:
        return None
    if len(key) < ADMIN_KEY_CHARACTERS_MIN:
        raise Invalid(
            f"cannot start: the admin key has under {ADMIN_KEY_CHARACTERS_MIN} characters",
            code="admin-key-weak",
            hint="ADMIN_KEY=$(openssl rand -hex 24)",
        )
    return OperatorToken(key)


def _hosts(settings: Settings) -> list[str]:
    bound = settings["gateway_bind"].rpartition(":")[0]
    names = [*LOOPBACK, *settings["gateway_hosts"]]
    return names if bound in ("0.0.0.0", "[::]", "::") else [*names, bound]  # noqa: S104


class ServiceHealth:
    """The state of every role: those in this process by their checks, the others by asking."""

    def __init__(self, system: System, elsewhere: Mapping[str, str], signer: HopSigner) -> None:
        self._system = system
        self._elsewhere = elsewhere
        self._signer = signer

    async def states(self) -> dict[str, str]:
        """Role → ``ok``, ``degraded``, ``unhealthy`` or ``unreachable``; bounded in time."""
        return {name: state for name, (state, _) in (await self.told()).items()}

    async def told(self) -> dict[str, tuple[str, str]]:
        """Role → its state and, for those who may know, what is wrong; bounded in time."""
        here = await self._here()
        found = dict.fromkeys(sorted(self._system.roles), here)
        if self._elsewhere:
            async with httpx.AsyncClient(
                timeout=PROBE_SECONDS,
                trust_env=False,
                transport=RolePool(trust_of(self._system.tls, self._elsewhere.values())),
            ) as client:
                states = await asyncio.gather(
                    *(self._ask(client, role, url) for role, url in self._elsewhere.items())
                )
            found |= dict(zip(self._elsewhere, states, strict=True))
        return found

    async def _here(self) -> tuple[str, str]:
        """What fails, and with it everything that is degraded: one does not hide the other."""
        name, degraded = "", list[str]()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                for name, check in self._system.checks.items():
                    if (await check() or "ok") != "ok":
                        degraded.append(f"{name}: {DEGRADED.get(name, 'see the log')}")
        except HoldfastError as error:
            return "unhealthy", "; ".join([f"{name}: {error.detail}", *degraded])
        except Exception as error:  # a failing part is what this reports, whatever it raises
            return "unhealthy", "; ".join([f"{name}: {type(error).__name__}", *degraded])
        return ("degraded" if degraded else "ok"), "; ".join(degraded)

    async def _ask(self, client: httpx.AsyncClient, role: str, url: str) -> tuple[str, str]:
        """Strangers are told which checks fail; why is in that role's /health/detailed. One that
        does not trust this gateway is of no use here, however well it is."""
        try:
            answer = await client.get(f"{url}/ready", auth=HopAuth(self._signer, role, None))
            found = answer.json()
            failing = [
                f"{name}: {DEGRADED[name]}" if (name, one["status"]) == SHUT else name
                for name, one in found["checks"].items()
                if one["status"] != "ok"
            ]
            return str(found["status"]), ", ".join(failing)
        except (*FAILURES, ValueError, KeyError, TypeError, AttributeError):
            return "unreachable", ""
        except Unavailable as error:
            return "unhealthy", error.detail
