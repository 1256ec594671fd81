"""How people may come in by accounts elsewhere, as the settings say."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast.identity.signin.oauth_model import GOOGLE, OAuthSettings, Provider
from holdfast.identity.signin.passkey_model import PasskeySettings, party_of
from holdfast.kernel.errors import Invalid
from holdfast.kernel.telemetry import get_logger

if TYPE_CHECKING:
    from holdfast.app.settings import Settings
    from holdfast.app.system import State, System
    from holdfast.kernel.outbound import OutboundClient


log = get_logger("identity")


def providers_of(settings: Settings) -> dict[str, Provider]:
    """The providers that are configured; :class:`Invalid` for one that is half configured."""
    found: dict[str, Provider] = {}
    allow = frozenset(settings["identity_oauth_allow"])

    def add(name: str, title: str, kind: str, issuer: str, prefix: str) -> None:
        client, secret = (settings[f"identity_{prefix}_client_{part}"] for part in ("id", "secret"))
        if not client or not secret or not issuer:
            raise Invalid(
                f"cannot start: sign-in by {title} needs a client id, a client secret"
                + ("" if issuer else ", and an issuer"),
                code="oauth-incomplete",
                hint=f"HOLDFAST_IDENTITY_{prefix.upper()}_CLIENT_ID, …_CLIENT_SECRET_FILE"
                + ("" if issuer else ", HOLDFAST_IDENTITY_OAUTH_ISSUER"),
            )
        parts = urlsplit(issuer)
        if parts.scheme != "https" and parts.netloc not in allow:
            raise Invalid(
                f"cannot start: {title} at {issuer} is without TLS",
                code="oauth-open",
                hint="only a host:port of HOLDFAST_IDENTITY_OAUTH_ALLOW may be",
            )
        found[name] = Provider(name, title, kind, issuer, client, secret)

    named = [
        name
        for name, key in (
            ("HOLDFAST_IDENTITY_ADMIN_USERS", "identity_admin_users"),
            ("HOLDFAST_IDENTITY_OAUTH_DOMAINS", "identity_oauth_domains"),
        )
        if settings[key]
    ]
    if settings["identity_github_client_id"] or settings["identity_github_client_secret"]:
        add("github", "GitHub", "github", settings["identity_github_url"], "github")
    chosen = settings["identity_oauth_provider"]
    if chosen == "github":
        add("github", "GitHub", "github", settings["identity_github_url"], "oauth")
    elif chosen == "google":
        add("google", "Google", "oidc", GOOGLE, "oauth")
    elif chosen == "oidc":
        issuer = settings["identity_oauth_issuer"]
        add("oidc", urlsplit(issuer).hostname or "OpenID", "oidc", issuer, "oauth")
    if named and not found:
        log.warning(
            "nobody comes by it: no provider of accounts is set",
            setting=", ".join(named),
            hint="HOLDFAST_IDENTITY_OAUTH_PROVIDER or HOLDFAST_IDENTITY_GITHUB_CLIENT_ID",
        )
    return found


def check_party(settings: Settings) -> None:
    """Refuse a name of passkeys (relying party) that no page at their origin could use."""
    party = PasskeySettings(
        settings["identity_webauthn_rp_id"], settings["identity_webauthn_origin"]
    )
    if not party.origin:
        return  # then it is the address of each page that counts, and is not known yet
    try:
        party_of(party, party.origin)
    except Invalid as error:
        raise Invalid(
            f"cannot start: {error.detail.removeprefix('cannot use passkeys here: ')}",
            code=error.code,
            hint="HOLDFAST_IDENTITY_WEBAUTHN_ORIGIN is the address of the page, such as "
            "https://data.example.org, and HOLDFAST_IDENTITY_WEBAUTHN_RP_ID its name or one above, "
            "such as example.org; either may be left out",
        ) from error


async def open_oauth(system: System, state: State, stack: AsyncExitStack) -> None:
    """Sign-in by accounts elsewhere, which goes out through the one outbound client."""
    from holdfast.identity.signin.http import oauth_handlers
    from holdfast.identity.signin.oauth import OAuthService
    from holdfast.identity.signin.providers import Wire

    settings = system.settings
    allow = frozenset(settings["identity_oauth_allow"])
    wanted = OAuthSettings(
        providers_of(settings),
        frozenset(each.casefold() for each in settings["identity_oauth_domains"]),
        frozenset(each.casefold() for each in settings["identity_admin_users"]),
        settings["identity_default_role"],
        allow,
    )
    system.oauth = OAuthService(
        system.identity_parts,
        system.sessions,
        system.passkeys,
        wanted,
        Wire(await open_outbound(system, stack), allow),
    )
    system.handlers += oauth_handlers(system.oauth)


async def open_outbound(system: System, stack: AsyncExitStack) -> OutboundClient:
    """The outbound client for whoever says who people are: guarded as every other is."""
    from holdfast.kernel.outbound import OutboundClient, OutboundSettings

    settings = system.settings
    return await stack.enter_async_context(
        OutboundClient(
            OutboundSettings(
                allow=frozenset(settings["identity_oauth_allow"]),
                resolver=settings["collect_resolver"],
                contact=settings["collect_contact"],
                ca_file=settings["collect_ca_file"],
            ),
            clock=system.clock,
        )
    )
