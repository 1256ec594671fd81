"""People, invitations and tenants: what is said of them, and the rules that need no store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from holdfast.identity.model import Derived, Name, Thing
from holdfast.kernel.ids import DEFAULT_TENANT

INVITATION_HOURS_MAX = 24 * 30
ROLES_MAX = 20

PEOPLE = "people"
INVITATIONS = "invitations"
"""Kinds of cursors."""

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,255}")

Roles = Annotated[list[str], Meta(min_length=1, max_length=ROLES_MAX)]
Email = Annotated[str, Meta(max_length=320)]
Hours = Annotated[int, Meta(ge=1, le=INVITATION_HOURS_MAX)]


class PersonInvite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to invite. With ``email``, only an account with that address, verified by whoever
    keeps it, may come by GitHub, Google or another provider; a passkey asks for none."""

    name: Name
    email: Email = ""
    roles: Roles = field(default_factory=lambda: ["viewer"])
    hours: Hours = 72


class AdminCreate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first administrator of a tenant."""

    name: Name
    email: Email = ""
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] = DEFAULT_TENANT
    hours: Hours = 72


class RolesChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person may do from now on. With ``dry_run`` nothing changes: the answer is what it
    would be."""

    roles: Roles
    dry_run: bool = False


class PersonRecover(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to bring somebody back. ``end_passkeys``: what they had is in somebody else's hands, so
    that every passkey and every session of theirs ends now. ``tenant``: where they are an
    administrator, if that is another tenant than the caller's; only the operator says so."""

    end_passkeys: bool = False
    tenant: Annotated[str, Meta(max_length=64)] = ""


class Person(Struct, frozen=True, kw_only=True):
    """A person. Their id goes into events; their name and address do not."""

    id: str
    name: str
    email: str
    roles: list[str]
    state: str
    created_at: str
    created_by: str
    disabled_at: str | None = None


class EndedPerson(Person, frozen=True, kw_only=True):
    """A person who was disabled or forgotten, and what ended with it just now."""

    ended: Derived


class ChangedPerson(EndedPerson, frozen=True, kw_only=True):
    """A person with other roles, what ended with those they had, and which permissions they lost:
    what another role keeps, and they made by one of these, ends there."""

    lost: list[str] = []


class Invitation(Struct, frozen=True, kw_only=True):
    """An invitation as it is listed: never its secret. ``person``: whom it brings back, where it
    is for somebody who lost their passkey."""

    id: str
    name: str
    email: str
    roles: list[str]
    state: str
    created_at: str
    created_by: str
    expires_at: str
    person: str = ""


class NewInvitation(Struct, frozen=True, kw_only=True):
    """An invitation with its secret, which is in this one answer and nowhere else. ``withdrawn``:
    those that do not hold any more since this one does. ``passkeys_ended`` and ``sessions_ended``:
    how many ended with it. ``origin``: where people sign in, if that is configured."""

    invitation: Invitation
    secret: str
    origin: str = ""
    withdrawn: list[Thing] = []
    passkeys_ended: int = 0
    sessions_ended: int = 0

    @property
    def path(self) -> str:
        """Where it is accepted; the secret is in the fragment, which browsers never send."""
        return f"/invitation#{self.secret}"


class TenantCreate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant to be."""

    id: Annotated[str, Meta(max_length=64)]


class Tenant(Struct, frozen=True, kw_only=True):
    """A tenant: a name in every key, and nothing else."""

    id: str
    created_at: str


def normal_email(text: str) -> str | None:
    """An address in the form in which two are compared; nothing if it is none."""
    stripped = text.strip()
    if not _EMAIL.fullmatch(stripped):
        return None
    return stripped.casefold()


def traits(tenant: str, email: str, accounts: Iterable[tuple[str, str]]) -> list[str]:
    """What somebody is known again by: their address and their accounts (issuer, subject), each a
    text of its own, of that tenant, and like no secret."""
    found = [("address", tenant, email)] if email else []
    every = (*found, *(("account", tenant, *account) for account in accounts))
    return [msgspec.json.encode(each).decode() for each in every]


def invitation_state(expires_at: str, used_at: str | None, ended_at: str | None, now: str) -> str:
    """``open``, ``used``, ``revoked`` or ``expired``."""
    if used_at is not None:
        return "used"
    if ended_at is not None:
        return "revoked"
    return "open" if now < expires_at else "expired"
