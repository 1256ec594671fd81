"""Who is asking, and the one question asked about it.

The kernel knows only the protocol; ``identity`` decides. Every unit of work and every service
method takes a :class:`Principal`, because the tenant it carries leads every key of every table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from holdfast.kernel.errors import Denied
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId


class PrincipalKind(StrEnum):
    """What sort of thing is asking."""

    OPERATOR = "operator"
    PERSON = "person"
    """Somebody who is kept here, in a session of theirs."""
    FOREIGN = "token"
    """Whoever another issuer's token speaks for: nobody who is kept here."""
    KEY = "key"
    WORKER = "worker"
    SERVICE = "service"


class Permission(StrEnum):
    """What a route or a service method can ask for: ``<resource>:<verb>``."""

    PROFILES_READ = "profiles:read"
    PROFILES_WRITE = "profiles:write"
    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    TASKS_WORK = "tasks:work"
    WORKERS_READ = "workers:read"
    WORKERS_WRITE = "workers:write"
    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    RECORDS_READ = "records:read"
    RECORDS_EXPORT = "records:export"
    REPORTS_READ = "reports:read"
    REPORTS_WRITE = "reports:write"
    RECORDS_PERSONAL = "records:personal"
    """See personal fields opened; without it they are shown as sealed."""
    SUBJECTS_READ = "subjects:read"
    SUBJECTS_WRITE = "subjects:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    BACKUPS_WRITE = "backups:write"
    LEDGER_READ = "ledger:read"
    LEDGER_APPEND = "ledger:append"
    LEDGER_MANAGE = "ledger:manage"
    LEDGER_RELAY = "ledger:relay"
    """What a role's outbox held: events of the role's own making, into its own streams."""
    SYSTEM_READ = "system:read"
    IDENTITY_READ = "identity:read"
    IDENTITY_WRITE = "identity:write"
    SYSTEM_PRUNE = "system:prune"
    SELF = "self"
    """What concerns the caller, whatever else they may: who they are, own sessions, own passkeys.
    Never granted: people, keys and tokens have it by being somebody."""
    PUBLIC = "public"
    """Needs nobody: health, readiness, the login exchange. Listed by name in a test."""


ALL_PERMISSIONS: frozenset[Permission] = frozenset(Permission)
WORKER_PERMISSIONS: frozenset[Permission] = frozenset(
    {Permission.TASKS_WORK, Permission.RUNS_WRITE, Permission.RUNS_READ, Permission.PROFILES_READ}
)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    ``subject`` is an opaque id (``operator``, a worker id, a role's name), never a display name.
    ``profiles`` limits it to these profiles; ``None`` is no limit. ``credential`` names what it
    came with (``key:<id>``, ``session:<id>``): what is derived from that ends with it.
    """

    tenant: TenantId
    subject: str
    kind: PrincipalKind
    permissions: frozenset[Permission]
    profiles: frozenset[str] | None = None
    credential: str = ""

    def may(self, permission: Permission) -> bool:
        return permission is Permission.PUBLIC or permission in self.permissions

    def sees(self, profile: str) -> bool:
        """Whether what belongs to ``profile`` is there for it. What is not, it is told of as of
        what there is not: whether something exists is nobody's business beyond its limits."""
        return self.profiles is None or profile in self.profiles


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed; if not, ``missing`` says what it would take."""

    allowed: bool
    missing: str = ""


ALLOWED = Decision(True)


def decide(
    principal: Principal, permission: Permission, *, tenant: str = "", profile: str | None = None
) -> Decision:
    """The one decision: may ``principal`` do this in ``tenant``, to ``profile``?

    ``tenant`` is the thing's, empty where it is the caller's own by construction. ``profile`` is
    ``None`` for what belongs to no one profile: a principal that is limited to some profiles may do
    nothing there, since lists and totals would tell it of the others.
    """
    if permission is Permission.PUBLIC:
        return ALLOWED
    if tenant and tenant != principal.tenant:
        return Decision(False, "tenant")
    if permission not in principal.permissions:
        return Decision(False, permission.value)
    if permission is Permission.SELF:
        return ALLOWED  # of the caller alone, and so of no profile
    if principal.profiles is not None and profile not in principal.profiles:
        return Decision(False, "profile")
    return ALLOWED


def operator(tenant: TenantId = DEFAULT_TENANT) -> Principal:
    """Whoever holds the operator token of this data directory."""
    return Principal(tenant, "operator", PrincipalKind.OPERATOR, ALL_PERMISSIONS)


def service(role: str, tenant: TenantId = DEFAULT_TENANT) -> Principal:
    """A role acting for itself: its schedules, sweepers and reconcilers."""
    return Principal(tenant, role, PrincipalKind.SERVICE, ALL_PERMISSIONS)


def operators_only(principal: Principal, what: str) -> None:
    """Return for the operator; ``Denied`` for whoever acts within one tenant.

    For what concerns every tenant at once, whatever permissions somebody has in theirs.
    """
    if principal.kind is not PrincipalKind.OPERATOR:
        raise Denied(f"cannot {what}: only the operator does", code="operator-only")


def sees_the_whole(principal: Principal) -> bool:
    """Whether what speaks of every tenant at once may be shown to ``principal``.

    Metrics and the reasons of failures name things of all tenants, and every tenant has people who
    may see the system. The tenant ``default`` is the operator's own: a monitor's key is of that.
    """
    return principal.tenant == DEFAULT_TENANT or principal.kind in (
        PrincipalKind.OPERATOR,
        PrincipalKind.SERVICE,
    )


def out_of_scope(principal: Principal, profile: str | None) -> Denied:
    """The refusal of what is beyond a limited principal's profiles, or of no one profile."""
    hint = f"it is for {_some(principal.profiles or ())}"
    if profile:
        return Denied(
            "cannot do this: the credential is limited to some profiles, and this is not one",
            code="out-of-scope",
            hint=hint,
        )
    return Denied(
        "cannot do this: it is closed to a credential that is limited to some profiles",
        code="out-of-scope",
        hint=f"since it would tell of other profiles, or do something to them; {hint}",
    )


def seen_of(principal: Principal) -> str:
    """What a limited principal is told where something is not found; empty for any other."""
    if principal.profiles is None:
        return ""
    return f"the credential sees what is of {_some(principal.profiles)} only"


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return ", ".join(known[:5]) + (" and more" if len(known) > 5 else "")


class Authoriser(Protocol):
    """The one decision: may this principal do this?"""

    def authorise(
        self, principal: Principal, permission: Permission, profile: str | None = None
    ) -> None:
        """Return if it may; raise :class:`Denied` that names the missing permission if not."""
        ...


class PermissionAuthoriser:
    """Asks :func:`decide`."""

    def authorise(
        self, principal: Principal, permission: Permission, profile: str | None = None
    ) -> None:
        found = decide(principal, permission, profile=profile)
        if found.allowed:
            return
        if found.missing == "profile":
            raise out_of_scope(principal, profile)
        raise Denied(f"cannot do this: {found.missing} is missing", code="permission-missing")
