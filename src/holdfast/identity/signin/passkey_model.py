"""Passkeys: what is said of them, and the rules that need no store and no library."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Raw, Struct

from holdfast.identity.model import Name
from holdfast.kernel.errors import Invalid, Unauthenticated

CEREMONY_SECONDS = 300
PASSKEYS_OF_ONE_MAX = 20
PASSKEY_CREDENTIAL = "passkey"

Text400 = Annotated[str, Meta(max_length=400)]
Origin = Annotated[str, Meta(max_length=300)]


@dataclass(frozen=True, slots=True)
class PasskeySettings:
    """The relying party, as the operator names it; empty: the name the door is reached by."""

    rp_id: str = ""
    origin: str = ""


class Visitor(Struct, frozen=True, kw_only=True):
    """The browser in which somebody signs in, as the door sees it."""

    origin: Origin = ""
    address: Annotated[str, Meta(max_length=200)] = ""
    agent: Annotated[str, Meta(max_length=200)] = ""
    replaces: Text400 = ""


class Who(Struct, frozen=True, kw_only=True):
    """Somebody who is signed in, as a door vouches for them."""

    tenant: Text400
    person: Text400


class Ceremony(Struct, frozen=True, kw_only=True):
    """What a browser needs to use or to make a passkey; ``ceremony`` goes back with its answer and
    works once. ``options`` is for ``navigator.credentials``."""

    ceremony: str
    options: Raw


class PasskeyAnswer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the browser answers: the credential in the JSON form of WebAuthn."""

    ceremony: Text400
    credential: Raw
    name: Annotated[str, Meta(max_length=100)] = ""


class InvitationSecret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The secret of an invitation's link."""

    secret: Text400


class InvitationSeen(Struct, frozen=True, kw_only=True):
    """What the holder of an invitation may see of it."""

    name: str
    roles: list[str]
    expires_at: str
    recovery: bool


class Passkey(Struct, frozen=True, kw_only=True):
    """A passkey as it is listed."""

    id: str
    person: str
    name: str
    created_at: str
    used_at: str
    backed_up: bool
    ended_at: str | None = None


class SignInStart(Struct, frozen=True, kw_only=True):
    """A door asks on behalf of a visitor; ``secret`` is an invitation's, ``who`` is signed in."""

    visitor: Visitor
    secret: Text400 = ""
    who: Who | None = None


class SignInFinish(Struct, frozen=True, kw_only=True):
    """A door passes on what the visitor's browser answered."""

    visitor: Visitor
    answer: PasskeyAnswer
    who: Who | None = None


class PasskeyName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a passkey is called from now on."""

    name: Name


def party_of(settings: PasskeySettings, origin: str) -> tuple[str, str]:
    """The relying party's id and the one origin that counts, for a page at ``origin``.

    Passkeys belong to a name: at an address of numbers there are none.
    """
    expected = (settings.origin or origin).rstrip("/")
    host = urlsplit(expected).hostname or ""
    rp_id = settings.rp_id or host
    if not host or _is_address(host):
        raise Invalid(
            "cannot use passkeys here: they belong to a name, and this is an address of numbers",
            code="passkeys-need-a-name",
            hint="open the page as http://localhost:PORT, or give the system a name",
        )
    if host != rp_id and not host.endswith(f".{rp_id}"):
        raise Invalid(
            f"cannot use passkeys here: {host} does not belong to {rp_id}",
            code="passkeys-other-name",
            hint="open the page under that name, or set HOLDFAST_IDENTITY_WEBAUTHN_RP_ID",
        )
    return rp_id, expected


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def passkey_refused(internal: str = "") -> Unauthenticated:
    """The one answer to whoever presents a passkey that does not sign in, whatever is wrong."""
    return Unauthenticated(
        "cannot sign in: the passkey was not accepted", code="passkey-refused", internal=internal
    )


def ceremony_over() -> Unauthenticated:
    """The answer to whoever comes back late, or twice."""
    return Unauthenticated(
        "cannot sign in: that took longer than five minutes, or was done already",
        code="ceremony-over",
        hint="begin again",
    )


def invitation_over() -> Unauthenticated:
    """The one answer to whoever has an invitation that does not hold."""
    return Unauthenticated(
        "cannot accept the invitation: it was used, revoked or has expired, or never was",
        code="invitation-over",
        hint="ask whoever invited you for a new one",
    )
