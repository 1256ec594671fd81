"""Roles, API keys, people: what they are, and the rules that need no store.

A *role* is a set of permissions. A *person* or a *key* has roles or permissions in one tenant; what
they may do is decided by :func:`holdfast.kernel.principal.decide` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Invalid, Problem, Unauthenticated
from holdfast.kernel.naming import DisplayName
from holdfast.kernel.principal import Permission

KEYS = "api-keys"
"""The list of keys, as its cursors name it."""

KEY_PREFIX = "hf"
INVITATION_PREFIX = "hfi"
KEY_DAYS_MAX = 3650
PROFILES_MAX = 200
ADDRESSES_MAX = 50
MAKERS_MAX = 1000

Network = IPv4Network | IPv6Network
Name = DisplayName

_READ = frozenset(
    {
        Permission.PROFILES_READ,
        Permission.TASKS_READ,
        Permission.WORKERS_READ,
        Permission.RUNS_READ,
        Permission.RECORDS_READ,
        Permission.REPORTS_READ,
        Permission.SYSTEM_READ,
    }
)

ROLES: Mapping[str, frozenset[Permission]] = {
    "viewer": _READ,
    "operator": _READ
    | {
        Permission.PROFILES_WRITE,
        Permission.TASKS_WRITE,
        Permission.WORKERS_WRITE,
        Permission.RECORDS_EXPORT,
        Permission.REPORTS_WRITE,
        Permission.LEDGER_READ,
        Permission.LEDGER_APPEND,
    },
    "approver": _READ | {Permission.RECORDS_EXPORT, Permission.TASKS_WRITE, Permission.LEDGER_READ},
    "auditor": _READ
    | {
        Permission.RECORDS_EXPORT,
        Permission.IDENTITY_READ,
        Permission.KEYS_READ,
        Permission.LEDGER_READ,
    },
    "admin": frozenset(Permission)
    - {
        Permission.PUBLIC,
        Permission.SELF,
        Permission.TASKS_WORK,
        Permission.RUNS_WRITE,
        Permission.LEDGER_RELAY,
    },
}
"""The built-in roles. Nobody but a worker works tasks or writes runs, administrators included."""

GRANTABLE: frozenset[Permission] = ROLES["admin"]
"""What a key, a person or a custom role can be given."""


class ApiKeyCreate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key for a program. ``roles`` and ``permissions`` add up; ``profiles`` and ``addresses``
    limit it (empty: no limit); ``days`` is its lifetime. A key that another key makes ends no later
    than that one."""

    name: Name
    roles: list[str] = []
    permissions: list[str] = []
    profiles: Annotated[list[Name], Meta(max_length=PROFILES_MAX)] = []
    addresses: Annotated[list[str], Meta(max_length=ADDRESSES_MAX)] = []
    days: Annotated[int, Meta(ge=1, le=KEY_DAYS_MAX)] = 90


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as it is listed: never its secret."""

    id: str
    name: str
    permissions: list[str]
    profiles: list[str]
    addresses: list[str]
    created_at: str
    created_by: str
    expires_at: str
    revoked_at: str | None = None


class Thing(Struct, frozen=True, kw_only=True):
    """One of several, by its id and by what it is called."""

    id: str
    name: str


class Derived(Struct, frozen=True, kw_only=True):
    """What came of a person or a key, directly or by keys they made. ``keys`` and ``invitations``
    end with them; ``people``, who came by their invitations, stay until somebody disables them."""

    keys: list[Thing] = []
    invitations: list[Thing] = []
    people: list[Thing] = []


class Maker(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who made something that another role keeps, by which permission, and when."""

    tenant: Annotated[str, Meta(max_length=64)]
    subject: Annotated[str, Meta(max_length=255)]
    kind: Annotated[str, Meta(max_length=32)]
    permission: Annotated[str, Meta(max_length=64)]
    since: Annotated[str, Meta(max_length=64)]


class Standing(Struct, frozen=True, kw_only=True):
    """Whether what somebody made still stands. ``reason`` says why not: ``key-revoked``,
    ``key-expired``, ``person-disabled``, ``permission-lost`` or ``maker-unknown``; empty while it
    does. ``until`` is when it ends by itself at the latest, where that is known."""

    reason: str = ""
    until: str = ""


class EndedKey(ApiKey, frozen=True, kw_only=True):
    """A key that was ended, and what ended with it just now."""

    ended: Derived


class NewApiKey(Struct, frozen=True, kw_only=True):
    """A key with its secret, which is in this one answer and nowhere else.

    ``roles`` are those that were asked for: what they allowed then is what the key may, whatever
    becomes of them.
    """

    key: ApiKey
    secret: str
    roles: list[str] = []


class KeyLookup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the door asks: whose is this?"""

    secret: Annotated[str, Meta(max_length=400)]


class KeyHolder(Struct, frozen=True, kw_only=True):
    """Whom a credential speaks for."""

    tenant: str
    subject: str
    kind: str
    permissions: list[str]
    profiles: list[str] | None
    credential: str
    addresses: list[str]
    expires_at: str


def permissions_of(
    roles: Iterable[str], permissions: Iterable[str], custom: Mapping[str, frozenset[Permission]]
) -> frozenset[Permission]:
    """The permissions of these roles together with these; :class:`Invalid` lists what is wrong."""
    known = {permission.value: permission for permission in GRANTABLE}
    problems: list[Problem] = []
    found: set[Permission] = set()
    for index, role in enumerate(roles):
        granted = ROLES.get(role) or custom.get(role)
        if granted is None:
            names = ", ".join([*ROLES, *sorted(custom)])
            problems.append(Problem(f"roles[{index}]", f"{role!r} is no role", f"known: {names}"))
        else:
            found |= granted
    for index, name in enumerate(permissions):
        if name not in known:
            hint = f"known: {', '.join(sorted(known))}"
            problems.append(Problem(f"permissions[{index}]", f"{name!r} cannot be granted", hint))
        else:
            found.add(known[name])
    if not problems and not found:
        problems.append(Problem("permissions", "nothing is granted", "name a role or a permission"))
    if problems:
        raise Invalid("cannot grant this", code="grant-invalid", problems=problems)
    return frozenset(found)


def networks_of(addresses: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as they are compared; :class:`Invalid` names those that are none."""
    problems: list[Problem] = []
    found: list[Network] = []
    for index, text in enumerate(addresses):
        try:
            found.append(_unmapped(ip_network(text, strict=True)))
        except ValueError as error:
            problems.append(Problem(f"addresses[{index}]", str(error), "10.0.0.0/8 or 10.1.2.3"))
    if problems:
        raise Invalid(
            "cannot limit to these addresses", code="addresses-invalid", problems=problems
        )
    return tuple(found)


def _unmapped(network: Network) -> Network:
    """An IPv4 network that is written as IPv6 (``::ffff:10.0.0.0/104``) as what it is: callers are
    compared as IPv4."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ip_network((mapped, network.prefixlen - 96))


def admits(networks: Iterable[Network], address: str) -> bool:
    """Whether a caller at ``address`` is within ``networks``; without networks everybody is."""
    known = tuple(networks)
    if not known:
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in known)


def admits_all(networks: Iterable[Network], wanted: Iterable[Network]) -> bool:
    """Whether ``wanted`` is some limit, and all of it within ``networks``."""
    known, asked = tuple(networks), tuple(wanted)
    return bool(asked) and all(any(_within(each, network) for network in known) for each in asked)


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def key_unknown(tenant: str = "", key: str = "") -> Unauthenticated:
    """A key that is none; one that is over says to the door, and to nobody else, which it was."""
    known = (Problem("tenant", tenant), Problem("key", key)) if key else ()
    return Unauthenticated(
        "cannot do this: the key is not known", code="key-unknown", problems=known
    )


def was_of(error: Unauthenticated) -> tuple[str, str]:
    """The tenant and the id of the key that is over; empty for one that never was."""
    found = {problem.path: problem.message for problem in error.problems}
    return found.get("tenant", ""), found.get("key", "")


def is_over(expires_at: str, revoked_at: str | None, now: datetime) -> bool:
    """Whether a credential no longer holds; instants are as the clock writes them."""
    return revoked_at is not None or expires_at <= timestamp(now)


class Role(Struct, frozen=True, kw_only=True):
    """What a role allows."""

    name: str
    permissions: list[str]
    built_in: bool


class RoleDefine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role of the tenant's own."""

    permissions: Annotated[list[str], Meta(min_length=1)]


def as_json(values: Iterable[str]) -> str:
    """A list as it is stored: sorted, each once."""
    return msgspec.json.encode(sorted(set(values))).decode()
