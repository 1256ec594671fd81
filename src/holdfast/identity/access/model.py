"""What a restore leaves open about who may enter, and what would be let in."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from holdfast.kernel.errors import Denied, Problem
from holdfast.kernel.ids import DEFAULT_TENANT

WAYS = "access-ways"
"""The list of what would be let in, as its cursors name it."""
CODE = "access-unconfirmed"
REVIEW, CONFIRM = "holdfast access review", "holdfast access confirm"
HINT = (
    f"the operator looks at what would be let in (`{REVIEW}`), ends what was ended since, and says "
    f"so (`{CONFIRM}`)"
)


class Unconfirmed(Struct, frozen=True, kw_only=True):
    """A restore after which nobody has said yet that access is as it should be."""

    tenant: str
    backup: str
    backed_up_at: str
    """Access is as it was then: what was ended later is back."""
    restored_at: str


class Access(Struct, frozen=True, kw_only=True):
    """Whether the door is open to keys and people, and since which backups it is not."""

    confirmed: bool
    unconfirmed: list[Unconfirmed] = []


class AccessConfirm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose access is confirmed; everybody's if no tenant is named."""

    tenant: Annotated[str, Meta(max_length=64)] = ""


class AccessEnd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key, a person, a passkey or a linked account that is to let nobody in any more."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] = DEFAULT_TENANT


class AccessEnded(Struct, frozen=True, kw_only=True):
    """What ended; with a key or a person also what came of them."""

    tenant: str
    kind: Literal["api-key", "person", "passkey", "account"]
    id: str


class Device(Struct, frozen=True, kw_only=True):
    """A passkey of somebody's that would be accepted."""

    id: str
    name: str
    created_at: str
    used_at: str


class LinkedTo(Struct, frozen=True, kw_only=True):
    """An account elsewhere that would sign somebody in."""

    id: str
    provider: str
    linked_at: str


class Way(Struct, frozen=True, kw_only=True):
    """A key or a person that would be let in, and what they may do."""

    tenant: str
    kind: Literal["api-key", "person"]
    id: str
    name: str
    roles: list[str]
    """A person's; a key has what its roles allowed when it was made."""
    permissions: list[str]
    profiles: list[str]
    addresses: list[str]
    created_at: str
    created_by: str
    expires_at: str
    """Empty for a person."""
    used_at: str
    """When a person was last here, as far as the backup knows; of keys it is not known."""
    passkeys: list[Device] = []
    accounts: list[LinkedTo] = []


def unconfirmed(since: str, tenant: str = "", subject: str = "") -> Denied:
    """What a key or a person is told that would be let in if access were confirmed.

    It is no wrong credential, and whoever has it is known: they may not enter yet. The door learns
    from the ``problems`` whose it is (:func:`whose_refused`), for the audit, and passes none on.
    """
    known = (Problem("tenant", tenant), Problem("subject", subject)) if subject else ()
    return Denied(
        f"cannot let anybody in: access is as it was at the backup of {since} and not yet "
        "confirmed",
        code=CODE,
        hint=HINT,
        problems=known,
    )


def whose_refused(error: Denied) -> tuple[str, str]:
    """The tenant and the id of whoever may not enter yet; empty where that is not told."""
    found = {problem.path: problem.message for problem in error.problems}
    return found.get("tenant", ""), found.get("subject", "")


def without_whose(error: Denied) -> Denied:
    """The same refusal, for whoever is refused."""
    return Denied(error.detail, code=error.code, hint=error.hint)
