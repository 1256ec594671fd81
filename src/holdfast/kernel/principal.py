"""Who is asking, and the one question asked about it.

The kernel knows only the protocol; ``identity`` decides. Every unit of work and every service
method takes a :class:`Principal`, because the tenant it carries leads every key of every table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from holdfast.kernel.errors import Denied
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId


class PrincipalKind(StrEnum):
    """What sort of thing is asking."""

    OPERATOR = "operator"
    PERSON = "person"
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
    SYSTEM_READ = "system:read"
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
    """

    tenant: TenantId
    subject: str
    kind: PrincipalKind
    permissions: frozenset[Permission]

    def may(self, permission: Permission) -> bool:
        return permission is Permission.PUBLIC or permission in self.permissions


def operator(tenant: TenantId = DEFAULT_TENANT) -> Principal:
    """Whoever holds the operator token of this data directory."""
    return Principal(tenant, "operator", PrincipalKind.OPERATOR, ALL_PERMISSIONS)


def service(role: str, tenant: TenantId = DEFAULT_TENANT) -> Principal:
    """A role acting for itself: its schedules, sweepers and reconcilers."""
    return Principal(tenant, role, PrincipalKind.SERVICE, ALL_PERMISSIONS)


class Authoriser(Protocol):
    """The one decision: may this principal do this?"""

    def authorise(self, principal: Principal, permission: Permission, resource: str = "") -> None:
        """Return if it may; raise :class:`Denied` that names the missing permission if not."""
        ...


class PermissionAuthoriser:
    """Allows what is in the principal's permission set. Roles and scopes come with identity."""

    def authorise(self, principal: Principal, permission: Permission, resource: str = "") -> None:
        if not principal.may(permission):
            raise Denied(
                f"cannot do this: {permission.value} is missing", code="permission-missing"
            )
