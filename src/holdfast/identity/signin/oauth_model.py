"""Signing in by an account elsewhere: what is configured, asked and answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from holdfast.identity.signin.passkey_model import Text400, Visitor
from holdfast.kernel.errors import Conflict, Denied, Unauthenticated

OAUTH_CREDENTIAL = "oauth"
GOOGLE = "https://accounts.google.com"
GITHUB = "https://github.com"
GITHUB_API = "https://api.github.com"

Text4000 = Annotated[str, Meta(max_length=4000)]


@dataclass(frozen=True, slots=True)
class Provider:
    """Who keeps the accounts. ``kind`` is ``oidc`` or ``github``; ``issuer`` is where it is."""

    name: str
    title: str
    kind: str
    issuer: str
    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """The providers there are, and who may come without an invitation."""

    providers: Mapping[str, Provider]
    domains: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()
    default_role: str = "viewer"
    insecure: frozenset[str] = frozenset()
    """``host:port`` that may be asked without TLS: those the operator allows by name."""

    @property
    def issuers(self) -> frozenset[str]:
        """Whose accounts let people in."""
        return frozenset(provider.issuer for provider in self.providers.values())


class LinkedAccount(Struct, frozen=True, kw_only=True):
    """An account elsewhere that signs somebody in, as it is listed."""

    id: str
    person: str
    provider: str
    issuer: str
    linked_at: str


class OAuthAsk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A browser wants to sign in there; ``invitation`` is the secret of a link it holds."""

    provider: Annotated[str, Meta(max_length=40)]
    invitation: Text400 = ""


class OAuthStart(Struct, frozen=True, kw_only=True):
    """The same, as the door passes it on."""

    visitor: Visitor
    ask: OAuthAsk


class OAuthBegun(Struct, frozen=True, kw_only=True):
    """Where to send the browser; ``browser`` goes into a cookie, so that only it may come back."""

    url: str
    browser: str


class OAuthFinish(Struct, frozen=True, kw_only=True):
    """What the browser came back with."""

    visitor: Visitor
    provider: Annotated[str, Meta(max_length=40)]
    browser: Text400 = ""
    state: Text4000 = ""
    code: Text4000 = ""
    error: Text4000 = ""
    iss: Text4000 = ""


@dataclass(frozen=True, slots=True)
class Account:
    """An account elsewhere, as its keeper vouches for it. ``email`` is empty unless verified."""

    issuer: str
    subject: str
    email: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it that account, whatever else is said of it."""
        return self.issuer, self.subject


def sign_in_refused(
    internal: str = "", reason: str = "what came back from the provider does not hold"
) -> Unauthenticated:
    """The answer when what came back does not hold: one for all, but where it is certain that the
    browser comes from where it was sent, and the provider itself says why."""
    return Unauthenticated(
        f"cannot sign in: {reason}",
        code="oauth-refused",
        hint="begin again",
        internal=internal,
    )


def stranger() -> Denied:
    """The answer to an account that nobody let in."""
    return Denied(
        "cannot sign in: nobody invited this account",
        code="oauth-unknown",
        hint="ask for an invitation, and open its link first",
    )


def somebody_already() -> Conflict:
    """The answer to an account that signs somebody in already, and comes by an invitation of
    somebody new."""
    return Conflict(
        "cannot accept the invitation: this account is somebody's here already, and signs them in "
        "without it",
        code="account-taken",
        hint="sign in from the beginning; for other roles ask whoever sent the link for "
        "`holdfast person roles`, and to withdraw it (`holdfast person uninvite`)",
    )


def addressed_otherwise() -> Denied:
    """The answer to an account that comes by an invitation of somebody else's address."""
    return Denied(
        "cannot sign in: the invitation is for another address than this account's, or the "
        "provider does not say that the address is verified",
        code="oauth-unknown",
        hint="sign in at the provider by the address that was invited",
    )


def said_no(error: str) -> Unauthenticated:
    """The answer when the provider sent the browser back without a code."""
    reason = "the provider could not sign you in; begin again in a while"
    if error == "access_denied":
        reason = "the provider says that it was not allowed, by you or by who keeps it"
    return sign_in_refused(error[:200] or "no code", reason)
