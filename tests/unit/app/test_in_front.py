"""What the settings say of whoever stands in front, and of the name that people sign in at."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.app import ledger_door
from holdfast.app.door import check_proxies, nothing_in_front
from holdfast.app.people import check_party
from holdfast.app.program import limits_of
from holdfast.app.settings import Settings, resolve
from holdfast.kernel.errors import Invalid

PROXY = {"HOLDFAST_GATEWAY_TRUSTED_PROXIES": "127.0.0.2/32"}
NAMED = {"HOLDFAST_GATEWAY_TERMINATOR": "my-proxy"}
OWN = {"HOLDFAST_TLS_CERTIFICATE_FILE": "a.crt", "HOLDFAST_TLS_KEY_FILE": "a.key"}


def settings(folder: Path, environment: dict[str, str]) -> Settings:
    return resolve(environment, {"data_dir": str(folder)})


def test_a_proxy_that_would_be_refused_itself_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as found:
        check_proxies(settings(tmp_path, PROXY), "gateway")
    assert found.value.code == "proxy-unnamed"
    assert "HOLDFAST_GATEWAY_TERMINATOR" in found.value.hint


def test_of_a_ledger_it_stops_the_start_only_where_it_is_a_door_of_its_own(tmp_path: Path) -> None:
    """Behind a gateway the same settings may hold, and the certificate be the gateway's alone."""
    behind = settings(tmp_path, PROXY)
    ledger_door.check_door(behind, behind["ledger_bind"])
    alone = settings(tmp_path, PROXY | {"VDB_BIND_ADDR": "127.0.0.1:5432"})
    with pytest.raises(Invalid, match="a proxy in front is trusted"):
        ledger_door.check_door(alone, alone["ledger_bind"])


@pytest.mark.parametrize(
    ("environment", "nothing"),
    [
        ({}, True),
        (OWN, True),
        (NAMED, False),
        (PROXY | NAMED, False),
        (PROXY | OWN, False),
    ],
)
def test_whether_something_is_in_front(
    tmp_path: Path, environment: dict[str, str], nothing: bool
) -> None:
    found = settings(tmp_path, environment)
    check_proxies(found, "gateway")
    assert nothing_in_front(found, "gateway") is nothing


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("example.org", "https://other.net"),
        ("data.example.org", "https://example.org"),
        ("example.org", "https://notexample.org"),
        ("", "https://192.0.2.1"),
    ],
)
def test_passkeys_that_no_page_could_use_stop_the_start(
    tmp_path: Path, name: str, origin: str
) -> None:
    environment = {"PLATFORM_WEBAUTHN_RP_ID": name, "PLATFORM_WEBAUTHN_RP_ORIGIN": origin}
    with pytest.raises(Invalid, match="cannot start: ") as found:
        check_party(settings(tmp_path, {k: v for k, v in environment.items() if v}))
    assert "HOLDFAST_IDENTITY_WEBAUTHN_ORIGIN" in found.value.hint


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PLATFORM_WEBAUTHN_RP_ID": "example.org"},
        {"PLATFORM_WEBAUTHN_RP_ORIGIN": "https://data.example.org"},
        {
            "PLATFORM_WEBAUTHN_RP_ID": "example.org",
            "PLATFORM_WEBAUTHN_RP_ORIGIN": "https://data.example.org/",
        },
    ],
)
def test_a_party_that_can_be_used_starts(tmp_path: Path, environment: dict[str, str]) -> None:
    check_party(settings(tmp_path, environment))


@pytest.mark.parametrize(
    ("role", "most"), [("gateway", 3), ("ledger", 3), ("registry", 0), ("aggregator", 0)]
)
def test_behind_a_gateway_its_address_has_any_number_of_connections(
    tmp_path: Path, role: str, most: int
) -> None:
    """The setting may well be in the environment of all roles."""
    given = settings(tmp_path, {"HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX": "3"})
    assert limits_of(given, frozenset({role})).address_connections_max == most


@pytest.mark.parametrize(
    ("role", "given", "most"),
    [
        ("gateway", {}, 768),
        ("gateway", {"HOLDFAST_SERVE_CONNECTIONS_MAX": "200"}, 150),
        ("gateway", {"HOLDFAST_SERVE_CONNECTIONS_MAX": "1"}, 1),
        ("gateway", {"HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX": "0"}, 0),
        ("ledger", {"VDB_BIND_ADDR": "127.0.0.1:5432", "VDB_MAX_CONNECTIONS": "100"}, 75),
        ("ledger", {}, 0),
        ("registry", {}, 0),
    ],
)
def test_one_address_has_three_quarters_of_a_door_unless_something_else_is_said(
    tmp_path: Path, role: str, given: dict[str, str], most: int
) -> None:
    limits = limits_of(settings(tmp_path, given), frozenset({role}))
    assert limits.address_connections_max == most
