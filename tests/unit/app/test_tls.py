"""TLS from settings: what is set by half stops the start, and each role gets what is its."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.app.settings import resolve
from holdfast.app.tls import certificate_of, check_tls, client_tls, clients_of, lead_of, server_tls
from holdfast.kernel.errors import Invalid

BOTH = {"HOLDFAST_TLS_CERTIFICATE_FILE": "a.crt", "HOLDFAST_TLS_KEY_FILE": "a.key"}
MUTUAL = {**BOTH, "HOLDFAST_TLS_CLIENTS": "required", "HOLDFAST_TLS_CA_FILE": "ca.crt"}


@pytest.mark.parametrize(
    ("role", "environment", "said"),
    [
        ("registry", {"HOLDFAST_TLS_CERTIFICATE_FILE": "a.crt"}, "HOLDFAST_TLS_KEY_FILE"),
        ("registry", {"HOLDFAST_TLS_KEY_FILE": "a.key"}, "HOLDFAST_TLS_CERTIFICATE_FILE"),
        ("gateway", {**BOTH, "HOLDFAST_GATEWAY_TLS_KEY_FILE": "b"}, "GATEWAY_TLS_CERTIFICATE_FILE"),
        ("ledger", {"VDB_TLS_CERT": "a.crt"}, "both a certificate and its key"),
        ("registry", {**BOTH, "HOLDFAST_TLS_CLIENTS": "optional"}, "HOLDFAST_TLS_CA_FILE"),
        (
            "registry",
            {"HOLDFAST_TLS_CLIENTS": "required", "HOLDFAST_TLS_CA_FILE": "ca.crt"},
            "asks for certificates, and there is no TLS",
        ),
        (
            "registry",
            {**MUTUAL, "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE": "c.crt"},
            "HOLDFAST_TLS_CLIENT_KEY_FILE",
        ),
        ("gateway", {"ARAGORA_TLS_ENABLED": "true"}, "TLS is to be on"),
    ],
)
def test_what_is_set_by_half_stops_the_start(
    role: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(Invalid) as stopped:
        check_tls(resolve(environment), role)
    assert said in " ".join(str(problem) for problem in stopped.value.problems)


def test_every_role_serves_with_the_process_s_certificate_and_two_may_have_their_own() -> None:
    settings = resolve(
        {**MUTUAL, "HOLDFAST_GATEWAY_TLS_CERTIFICATE_FILE": "g.crt",
         "HOLDFAST_GATEWAY_TLS_KEY_FILE": "g.key", "HOLDFAST_GATEWAY_TLS_CLIENTS": "optional"}
    )  # fmt: skip
    for role in ("registry", "ledger", "identity", "coordinator", "aggregator", "reporter"):
        check_tls(settings, role)
        assert certificate_of(settings, role) == (Path("a.crt"), Path("a.key"))
        tls = server_tls(settings, role)
        assert tls is not None
        assert (tls.client_authorities, tls.client_required) == (Path("ca.crt"), True)
    check_tls(settings, "gateway")
    door = server_tls(settings, "gateway")
    assert door is not None
    assert (door.certificate, door.client_required) == (Path("g.crt"), False)
    assert door.client_authorities == Path("ca.crt")


def test_tls_that_is_off_is_off() -> None:
    settings = resolve({**MUTUAL, "ARAGORA_TLS_ENABLED": "false"})
    assert server_tls(settings, "gateway") is None
    assert clients_of(settings, "registry") == "none"
    check_tls(settings, "registry")


def test_a_process_has_the_door_of_its_gateway_else_of_its_role() -> None:
    assert lead_of(("registry", "gateway", "ledger")) == "gateway"
    assert lead_of(frozenset({"ledger"})) == "ledger"


def test_without_settings_callers_trust_whom_the_machine_trusts(tmp_path: Path) -> None:
    assert client_tls(resolve({})) is None
    with pytest.raises(Invalid) as refused:
        client_tls(resolve({"HOLDFAST_TLS_CA_FILE": str(tmp_path / "none.crt")}))
    assert refused.value.code == "tls-files"
