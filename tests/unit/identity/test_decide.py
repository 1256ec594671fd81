"""The one decision as a table, and the rules of roles, keys and addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.identity.model import (
    GRANTABLE,
    ROLES,
    admits,
    networks_of,
    permissions_of,
)
from holdfast.kernel.errors import Invalid
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import (
    WORKER_PERMISSIONS,
    Permission,
    Principal,
    PrincipalKind,
    decide,
)

HERE = TenantId("default")
READ, WRITE = Permission.RECORDS_READ, Permission.PROFILES_WRITE


def principal(*permissions: Permission, profiles: frozenset[str] | None = None) -> Principal:
    return Principal(HERE, "somebody", PrincipalKind.KEY, frozenset(permissions), profiles)


ONE = frozenset({"one"})


@pytest.mark.parametrize(
    ("who", "permission", "tenant", "profile", "missing"),
    [
        (principal(READ), READ, "", None, None),
        (principal(READ), READ, "default", "one", None),
        (principal(READ), WRITE, "", None, "profiles:write"),
        (principal(), READ, "", None, "records:read"),
        (principal(), Permission.PUBLIC, "", None, None),
        (principal(), Permission.PUBLIC, "elsewhere", None, None),
        (principal(READ), READ, "elsewhere", None, "tenant"),
        (principal(READ), WRITE, "elsewhere", None, "tenant"),
        (principal(READ, profiles=ONE), READ, "", "one", None),
        (principal(READ, profiles=ONE), READ, "", "two", "profile"),
        (principal(READ, profiles=ONE), READ, "", None, "profile"),
        (principal(READ, profiles=ONE), WRITE, "", "one", "profiles:write"),
        (principal(READ, profiles=ONE), READ, "elsewhere", "one", "tenant"),
        (principal(READ, profiles=frozenset()), READ, "", "one", "profile"),
        (principal(profiles=ONE), Permission.PUBLIC, "", None, None),
    ],
)
def test_the_decision(
    who: Principal, permission: Permission, tenant: str, profile: str | None, missing: str | None
) -> None:
    found = decide(who, permission, tenant=tenant, profile=profile)
    assert (found.allowed, found.missing) == (missing is None, missing or "")


@given(
    st.frozensets(st.sampled_from(list(Permission))),
    st.sampled_from(list(Permission)),
    st.sampled_from(["", "default", "elsewhere"]),
    st.none() | st.frozensets(st.sampled_from(["one", "two"])),
    st.none() | st.sampled_from(["one", "two", "three"]),
)
def test_taking_something_away_never_allows_more(
    permissions: frozenset[Permission],
    permission: Permission,
    tenant: str,
    profiles: frozenset[str] | None,
    profile: str | None,
) -> None:
    def allowed(held: frozenset[Permission], limit: frozenset[str] | None) -> bool:
        who = Principal(HERE, "x", PrincipalKind.KEY, held, limit)
        return decide(who, permission, tenant=tenant, profile=profile).allowed

    full = allowed(permissions, None)
    assert allowed(permissions, profiles) <= full
    for each in permissions:
        assert allowed(permissions - {each}, profiles) <= allowed(permissions, profiles)


# --- roles --------------------------------------------------------------------------------------


def test_the_guides_roles_are_there_and_an_administrator_has_all_of_each() -> None:
    assert set(ROLES) == {"viewer", "operator", "approver", "auditor", "admin"}
    for granted in ROLES.values():
        assert ROLES["viewer"] <= granted <= ROLES["admin"]


def test_nobody_is_given_a_workers_rights() -> None:
    only_workers = WORKER_PERMISSIONS - ROLES["viewer"]
    assert only_workers == {Permission.TASKS_WORK, Permission.RUNS_WRITE}
    assert not only_workers & GRANTABLE
    with pytest.raises(Invalid, match="cannot grant"):
        permissions_of((), ["tasks:work"], {})


def test_a_viewer_changes_nothing_and_exports_nothing() -> None:
    assert all(permission.value.endswith(":read") for permission in ROLES["viewer"])


def test_every_permission_is_an_administrators_a_workers_a_roles_or_public() -> None:
    of_roles = {Permission.LEDGER_RELAY}
    nobodys = {Permission.PUBLIC, Permission.SELF}
    assert ROLES["admin"] | WORKER_PERMISSIONS | of_roles | nobodys == set(Permission)


def test_all_that_is_wrong_with_a_grant_is_said_at_once() -> None:
    with pytest.raises(Invalid) as found:
        permissions_of(["viewer", "boss"], ["records:read", "public", "x"], {})
    assert [p.path for p in found.value.problems] == [
        "roles[1]",
        "permissions[1]",
        "permissions[2]",
    ]


def test_roles_of_ones_own_add_up() -> None:
    own = {"reader": frozenset({Permission.RECORDS_READ})}
    assert permissions_of(["reader"], ["reports:read"], own) == {
        Permission.RECORDS_READ,
        Permission.REPORTS_READ,
    }


def test_nothing_is_not_granted() -> None:
    with pytest.raises(Invalid):
        permissions_of((), (), {})


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "address", "admitted"),
    [
        ([], "203.0.113.9", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "unix", False),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["::ffff:127.0.0.1"], "127.0.0.1", True),
        (["::ffff:127.0.0.1"], "::ffff:127.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "11.1.2.3", False),
    ],
)
def test_a_key_holds_where_it_may(networks: list[str], address: str, admitted: bool) -> None:
    assert admits(networks_of(networks), address) is admitted


def test_what_is_no_network_is_said() -> None:
    with pytest.raises(Invalid) as found:
        networks_of(["10.0.0.0/8", "10.0.0.1/8", "localhost"])
    assert [p.path for p in found.value.problems] == ["addresses[1]", "addresses[2]"]
