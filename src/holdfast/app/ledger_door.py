"""The ledger's own door: an event-log server that needs no gateway in front.

A request that carries a hop token comes from the gateway and is judged by it alone. Any other is a
caller at this door, who shows the operator token of this data directory or, where that is asked
for, an API key. Credentials in clear are taken on loopback only: beyond it the door needs TLS or a
named terminator, or it answers nobody but the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.app.door import (
    LOOPBACK,
    check_proxies,
    listed_keys,
    nothing_in_front,
    trail_of,
)
from holdfast.app.settings import Settings
from holdfast.app.tls import certificate_of
from holdfast.gateway.audit import DoorAudit
from holdfast.gateway.door import DoorAuthenticator, Remembered
from holdfast.gateway.proxy import HopMiddleware, hop_principal
from holdfast.identity import HopVerifier, OperatorToken
from holdfast.identity.audit import AuditLog
from holdfast.identity.bearer import BearerTokens
from holdfast.identity.hop import HEADER, hop_missing
from holdfast.identity.keyfile import check_keys
from holdfast.identity.model import KeyHolder
from holdfast.identity.secretfile import TokensOfFile
from holdfast.identity.signin.model import SessionHolder
from holdfast.identity.signin.sessions import session_over
from holdfast.identity.tokens import shared_secret
from holdfast.kernel.errors import Invalid, Unauthenticated
from holdfast.kernel.principal import Permission, Principal

if TYPE_CHECKING:
    from holdfast.app.system import System
    from holdfast.kernel.http import AppSpec


def check_door(settings: Settings, bind: str) -> None:
    """Refuse a start that would not keep what its settings ask for."""
    if settings["ledger_replication"] == "cluster" and settings.database_url.startswith("sqlite:"):
        raise Invalid(
            "cannot start: a cluster shares its log, and this one would be in a file of its own",
            code="replication-impossible",
            hint="HOLDFAST_DATABASE_URL=postgresql://…, or VDB_REPLICATION_MODE=single-node",
        )
    if settings["ledger_auth_mode"] in ("jwt", "both") and not settings["ledger_jwt_secret"]:
        raise Invalid(
            "cannot start: tokens are to be taken and there is no secret to verify them by",
            hint="VDB_JWT_SECRET, or HOLDFAST_LEDGER_JWT_SECRET_FILE",
        )
    listed = settings["identity_keys_file"]
    if listed is not None and settings["ledger_auth_mode"] in ("apikey", "both"):
        check_keys(listed)
    asked = settings.origin("ledger_bind").startswith("VDB_")
    if asked:  # else it is the gateway's, which has a certificate of its own perhaps
        check_proxies(settings, "ledger")
    if asked and not takes_callers(settings, bind):
        raise Invalid(
            f"cannot start: {bind} is beyond loopback and there is no TLS",
            code="door-open",
            hint="give a certificate (VDB_TLS_CERT and VDB_TLS_KEY), or name what ends TLS in "
            "front (HOLDFAST_GATEWAY_TERMINATOR=my-proxy), or bind 127.0.0.1",
        )


def takes_callers(settings: Settings, bind: str) -> bool:
    """Whether this door may take a credential that is not the gateway's."""
    host = bind.rpartition(":")[0]
    secure = certificate_of(settings, "ledger")[0] or settings["gateway_terminator"]
    return host in LOOPBACK or bool(secure)


def ledger_spec(
    system: System, verifier: HopVerifier, hosts: Sequence[str], shared: Mapping[str, Any]
) -> AppSpec:
    """The application of ``serve ledger``."""
    from holdfast.kernel.http import AppSpec

    settings = system.settings
    direct = _direct(system) if takes_callers(settings, settings["ledger_bind"]) else None

    async def authenticate(connection: Any) -> Principal:
        if _comes_by_hop(connection.scope):
            return hop_principal(connection.scope)
        if direct is None:
            raise hop_missing()
        return await direct(connection.scope)

    def between(inner: Any) -> Any:
        hop = HopMiddleware(inner, verifier)

        async def either(scope: Any, receive: Any, send: Any) -> None:
            by_hop = scope["type"] == "http" and _comes_by_hop(scope)
            await (hop if by_hop else inner)(scope, receive, send)

        return either

    assert system.state is not None, "the ledger keeps something"
    log = AuditLog(system.state.database, system.state.outbox)
    trail = trail_of(system, "ledger", log.record)
    return AppSpec(
        role="ledger",
        handlers=system.handlers,
        authenticate=authenticate,
        hosts=[*hosts, *settings["gateway_hosts"]],
        local=nothing_in_front(settings, "ledger"),
        trusted_proxies=settings["gateway_trusted_proxies"],
        https=bool(certificate_of(settings, "ledger")[0] or settings["gateway_terminator"]),
        # Who is asked who they are for the log is asked for its numbers, too. A scraper that has no
        # credential has a port of its own; behind a gateway nobody could show one here.
        metrics_permission=Permission.SYSTEM_READ if direct else Permission.PUBLIC,
        between=between,
        rates=system.rates,
        noted=DoorAudit(trail).exchange,
        **shared,
    )


def _comes_by_hop(scope: Any) -> bool:
    name = HEADER.encode()
    return any(header == name for header, _ in scope["headers"])


def _direct(system: System) -> DoorAuthenticator:
    settings = system.settings
    mode = settings["ledger_auth_mode"]
    keyed, tokens = mode in ("apikey", "both"), mode in ("jwt", "both")
    token = OperatorToken.load_or_create(settings.data_dir / "operator.token")
    return DoorAuthenticator(
        token,
        _no_sessions,
        _no_workers,
        Remembered(system.identity.find_holder, system.clock) if keyed else _no_keys,
        system.clock,
        listed=listed_keys(system) if keyed else None,
        tokens=_tokens(system) if tokens else None,
        tenant_required=settings["identity_tenant_required"],
    )


async def _no_workers(credential: str, certificate: str | None) -> tuple[Principal, str]:
    raise Unauthenticated("cannot do this: the token is not known", code="token-unknown")


async def _no_sessions(secret: str) -> SessionHolder:
    raise session_over()  # browsers sign in at the gateway


async def _no_keys(credential: str) -> KeyHolder:
    raise Unauthenticated(
        "cannot do this: API keys are not taken here",
        hint="VDB_AUTH_MODE=apikey takes them",
    )


def _tokens(system: System) -> BearerTokens | TokensOfFile:
    """What verifies the HS256 tokens of this door, under whichever secret is in the file of it;
    they have to end soon enough."""
    settings = system.settings

    def made(secret: bytes) -> BearerTokens:
        return BearerTokens(
            [shared_secret(secret)],
            hmac.new(secret, b"holdfast subjects", hashlib.sha256).digest(),
            system.clock,
            issuer=settings["ledger_jwt_issuer"],
            audience=settings["ledger_jwt_audience"],
            default_role=settings["identity_default_role"],
            seconds_max=settings["ledger_jwt_seconds"],
        )

    path = settings.file_of("ledger_jwt_secret")
    if path is None:
        return made(settings["ledger_jwt_secret"].encode())
    found = TokensOfFile(path, made, system.clock)
    system.checks["token_secret"] = found.check
    return found
