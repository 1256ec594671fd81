"""Handing rights on: nobody grants what they do not have themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from holdfast.identity import store
from holdfast.identity.model import ROLES
from holdfast.kernel.errors import Denied
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, PermissionAuthoriser, Principal, decide
from holdfast.kernel.telemetry import request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.kernel.clock import Clock
    from holdfast.kernel.credentials import Peppers
    from holdfast.kernel.database import Database
    from holdfast.kernel.ids import NewId
    from holdfast.kernel.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Parts:
    """What every part of identity works with."""

    database: Database
    outbox: Outbox
    peppers: Peppers
    clock: Clock
    new_id: NewId
    random: Callable[[int], bytes]

    def event(
        self, principal: Principal, stream: str, type_: str, payload: dict[str, Any]
    ) -> Event:
        """An event of now, by ``principal``. Payloads hold ids, never names or addresses."""
        return Event(
            id=EventId(self.new_id()),
            stream=stream,
            type=type_,
            time=self.clock.now(),
            payload=payload,
            subject=principal.subject,
            request_id=request_id(),
        )


def whose(principal: Principal, person: str | None, permission: Permission) -> str:
    """Whom a question is about: the caller, or ``person``; others' need ``permission``."""
    subject = principal.subject if person is None else person
    if subject != principal.subject:
        check_others(principal, permission)
    return subject


def manages_others(principal: Principal, permission: Permission) -> bool:
    """Whether the caller may see to what is not their own. Routes of what is one's own ask for no
    permission, and so leave this to the service."""
    return decide(principal, permission).allowed


def check_others(principal: Principal, permission: Permission) -> None:
    """``Denied`` where :func:`manages_others` says no."""
    PermissionAuthoriser().authorise(principal, permission)


def custom_roles(conn: Connection, tenant: str) -> dict[str, frozenset[Permission]]:
    """The tenant's own roles; permissions that this build does not know grant nothing."""
    known = {permission.value: permission for permission in Permission}
    return {
        row.name: frozenset(
            known[name] for name in msgspec.json.decode(row.permissions) if name in known
        )
        for row in store.read_roles(conn, tenant)
    }


def granted_by(
    roles: Iterable[str], custom: Mapping[str, frozenset[Permission]]
) -> frozenset[Permission]:
    """What these roles allow now; a role that is gone allows nothing."""
    found: set[Permission] = set()
    for role in roles:
        found |= ROLES.get(role) or custom.get(role) or frozenset()
    return frozenset(found)


class Act(Enum):
    """What somebody is about to do that asks for all of certain permissions; how it is refused."""

    GRANT = "cannot grant {missing}: whoever grants must have it"
    MANAGE = "cannot manage this person, who may do more than you: you have no {missing}"
    REVOKE = "cannot revoke this key, which may do more than you: you have no {missing}"
    WITHDRAW = (
        "cannot withdraw this invitation, which allows more than you may do: you have no {missing}"
    )
    REDEFINE = "cannot change this role, which allows more than you may do: you have no {missing}"


def check_granted(
    principal: Principal, granted: frozenset[Permission], act: Act = Act.GRANT
) -> None:
    """``Denied`` if ``principal`` may not do all of ``granted`` itself."""
    missing = sorted(p.value for p in granted - principal.permissions)
    if missing:
        raise Denied(act.value.format(missing=", ".join(missing)), code="grant-exceeds")


def check_handed_on(
    principal: Principal, granted: frozenset[Permission], profiles: Collection[str]
) -> None:
    """``Denied`` if ``principal`` would hand on more than it has."""
    check_granted(principal, granted)
    if principal.profiles is not None and not (
        profiles and principal.profiles.issuperset(profiles)
    ):
        raise Denied(
            "cannot grant this: it must be limited to the profiles you are limited to",
            code="grant-exceeds",
        )


def check_above(principal: Principal, granted: frozenset[Permission]) -> None:
    """``Denied`` if a person who has ``granted`` may do more than ``principal``: managing them
    would be a way up."""
    check_granted(principal, granted, Act.MANAGE)
    if principal.profiles is not None:
        raise Denied(
            "cannot manage this person: you are limited to some profiles, they are not",
            code="grant-exceeds",
        )
