"""A stack in which every role serves TLS and asks every caller for a certificate.

The certificates are those of ``holdfast pki``, as it leaves them. What is shown: the stack
collects; whoever has no certificate, a foreign or an expired one does not even get to ask; a role's
certificate is not enough without a token, a drone's not enough for another drone's name.
"""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.attacks import worker_key
from tests.support.pki import Pki
from tests.support.program import run_command, started, wait_until
from tests.support.stack import ROLES, SAMPLE, Stack, running, sources

PROFILE = "scripps-co2-monthly"
DRONES = ("drone-1", "drone-2", "drone-3")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki.init(tmp_path_factory.mktemp("pki"))
    for role in ROLES:
        made.server(role)
        made.client(f"{role}-caller")
    for name in ("operator", *DRONES):
        made.client(name)
    made.expired_client("expired")
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Another authority, which signs the same names."""
    made = Pki.init(tmp_path_factory.mktemp("stranger"))
    made.client("operator")
    return made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("mtls")
    profiles = directory / "profiles"
    profiles.mkdir()
    with SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").open("rb") as source:
        (profiles / f"{PROFILE}.yaml").write_bytes(source.read())
    with (
        sources(directory) as (_, replay),
        running(Stack(directory, "split", replay, profiles, drones=1, pki=pki)) as made,
    ):
        yield made


def test_a_source_is_collected_and_reported_on_over_mutual_tls(stack: Stack) -> None:
    assert all(program.url.startswith("https://") for program in stack.running.values())
    stack.collect_all()
    stack.settle()
    assert len(stack.records()) > 500
    [run] = stack.door.items("/v1/runs")
    assert run["status"] == "succeeded"
    wait_until(lambda: stack.door.get("/health")["status"] == "ok", what="every role to be well")
    wait_until(
        lambda: any(
            event["type"] == "records.ingested" for event in stack.door.items("/v1/ledger/entries")
        ),
        what="the event of the run, over three hops",
    )


@pytest.mark.parametrize("role", ROLES)
def test_without_a_certificate_of_ours_nobody_gets_to_ask(
    stack: Stack, pki: Pki, stranger: Pki, role: str
) -> None:
    url = f"https://127.0.0.1:{stack.port(role)}/health"
    callers = {
        "nobody": pki.context(),
        "another authority's": pki.context("operator", of=stranger),
        "an expired one": pki.context("expired"),
        "a server's": pki.context(role),
    }
    for who, context in callers.items():
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            httpx.get(url, verify=context, trust_env=False, timeout=60)
        assert not _greeted(stack.port(role), context), who
    if role == "gateway":
        counted = stack.door.client.get("/metrics").text
        for code in ("tls-peer-did-not-return-a-certificate", "tls-certificate-verify-failed"):
            assert f'holdfast_connection_refusals_total{{code="{code}"}}' in counted
    assert httpx.get(url, verify=pki.context("operator"), trust_env=False).status_code == 200
    plain = httpx.get(url.replace("https", "http"), trust_env=False, timeout=60)
    told = plain.json()  # whoever has no TLS learns that there is some, and nothing else
    assert (plain.status_code, told["code"]) == (400, "tls-required")
    assert told["detail"] == "cannot answer: this port speaks TLS; use https://"


def _greeted(port: int, context: ssl.SSLContext) -> bool:
    """Whether such a caller gets one byte of an answer (TLS 1.3 tells of a refusal on reading)."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return bool(secured.recv(1))
    except OSError:
        return False


def test_a_certificate_alone_is_no_token(stack: Stack, pki: Pki) -> None:
    for role in ROLES[:-1]:
        answer = httpx.get(
            f"https://127.0.0.1:{stack.port(role)}/openapi.json",
            verify=pki.context("gateway-caller"),
            trust_env=False,
        )
        assert answer.status_code == 401, role


def test_a_drone_is_the_one_its_certificate_names(stack: Stack, pki: Pki) -> None:
    token = stack.door.client.post("/v1/workers/tokens", json={}).json()["token"]

    def register(name: str, certificate: str) -> httpx.Response:
        return httpx.post(
            f"{stack.door.url}/v1/workers/register",
            json={"name": name, "key": worker_key()},
            headers={"holdfast-join-token": token},
            verify=pki.context(certificate),
            trust_env=False,
        )

    foreign = register("drone-1", "drone-2")
    assert (foreign.status_code, foreign.json()["code"]) == (401, "certificate-foreign")
    admitted = register("drone-2", "drone-2")
    assert admitted.status_code == 201, admitted.text
    headers = {"authorization": f"Bearer {admitted.json()['credential']}"}

    def beat(certificate: str) -> httpx.Response:
        return httpx.post(
            f"{stack.door.url}/v1/workers/beat",
            json={},
            headers=headers,
            verify=pki.context(certificate),
            trust_env=False,
        )

    assert beat("drone-2").status_code == 200
    for other in ("drone-1", "drone-3", "operator"):
        answer = beat(other)
        assert (answer.status_code, answer.json()["code"]) == (401, "certificate-foreign"), other
    assert beat("drone-2").status_code == 200


def test_the_command_line_presents_what_the_settings_name(stack: Stack, pki: Pki) -> None:
    told = ["status", "--data-dir", str(stack.door.data_dir)]
    shown = run_command(*told, environment=pki.calling("operator"))
    assert shown.returncode == 0, shown.stderr
    assert PROFILE in shown.stdout
    asked = run_command("health", *told[1:], environment=pki.calling("operator"))
    assert asked.returncode == 0, asked.stderr
    refused = run_command(*told)
    assert refused.returncode != 0
    assert "HOLDFAST_TLS_CA_FILE" in refused.stderr


@pytest.mark.parametrize(
    ("presented", "why"),
    [
        ("", "it asks for a certificate, and none was presented"),
        ("expired", "it says that our certificate is not valid now"),
        ("stranger", "it does not know the authority of our certificate"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_its_certificate(
    stack: Stack, pki: Pki, stranger: Pki, presented: str, why: str
) -> None:
    environment = {
        "": {"HOLDFAST_TLS_CA_FILE": str(pki.authority)},
        "expired": pki.calling("expired"),
        "stranger": stranger.calling("operator") | {"HOLDFAST_TLS_CA_FILE": str(pki.authority)},
    }[presented]
    for command in (["run", "list"], ["health"]):
        told = run_command(
            *command, "--data-dir", str(stack.door.data_dir), environment=environment
        )
        assert told.returncode != 0
        assert why in told.stderr
        assert "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE" in told.stderr


def test_renewed_certificates_are_taken_without_a_restart(stack: Stack, pki: Pki) -> None:
    port = stack.port("registry")
    before = _certificate(port, pki)
    kept = pki.folder.with_name("before")
    shutil.copytree(pki.folder, kept)
    pki.command("renew", "registry", "registry-caller", "gateway", "gateway-caller")
    caller = pki.folder / "registry-caller.crt"
    renewed = caller.read_bytes()
    caller.write_text("half")
    registry = stack.running["registry"]
    registry.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "settings not taken" in registry.tail(), what="the refusal")
    assert _certificate(port, pki) == before, "what cannot be read changes nothing"
    caller.write_bytes(renewed)
    for role in ("registry", "gateway"):
        stack.running[role].process.send_signal(signal.SIGHUP)
    wait_until(lambda: _certificate(port, pki) != before, what="the new certificate")
    for _ in range(5):
        assert stack.door.client.get("/v1/profiles").status_code == 200
    stack.door.close()
    assert stack.door.client.get("/v1/profiles").status_code == 200
    # And what the door asks of roles itself, rather than passing it on.
    listed = stack.door.get("/v1/subjects")
    assert [each["roles"] for each in listed["keyrings"]] == [["aggregator"], ["ledger"]]


def test_certificates_are_renewed_again_and_again_while_people_ask(stack: Stack, pki: Pki) -> None:
    """The door's connections are never idle, and whatever they showed, nobody is turned away."""
    port = stack.port("gateway")
    for turn in range(3):
        before = _certificate(port, pki)
        pki.command("renew", "gateway", "gateway-caller")
        stack.running["gateway"].process.send_signal(signal.SIGHUP)
        wait_until(
            lambda before=before: _asked(stack) != 200 or _certificate(port, pki) != before,
            what=f"the certificate of turn {turn}",
        )
        assert [_asked(stack) for _ in range(5)] == [200] * 5


def _asked(stack: Stack) -> int:
    return stack.door.client.get("/v1/profiles").status_code


def test_a_role_is_ended_by_taking_its_key_away_and_is_said_to_be(stack: Stack) -> None:
    key = stack.directory / "trusted" / "gateway.pub.jwk"
    aside, neighbour = stack.directory / "aside", key.with_name("reporter.pub.jwk")
    whole = neighbour.read_bytes()
    neighbour.write_text("half")  # which ends nobody, and keeps nobody else's key alive
    wait_until(
        lambda: set(stack.door.get("/health")["services"].values()) == {"degraded"},
        what="the broken key to be told of",
    )
    assert _asked(stack) == 200
    key.rename(aside)
    try:
        wait_until(lambda: _asked(stack) != 200, what="the end of the gateway")
        answer = stack.door.client.get("/v1/profiles")
        assert (answer.status_code, answer.json()["code"]) == (503, "hop-refused")
        assert "does not trust the gateway" in answer.json()["detail"]
        wait_until(
            lambda: (
                set(stack.door.client.get("/health").json()["services"].values())
                == {"degraded", "unhealthy"}
            ),
            what="the health of what does not trust the gateway",
        )
    finally:
        aside.rename(key)
        neighbour.write_bytes(whole)
    wait_until(lambda: _asked(stack) == 200, what="the gateway to be back")
    wait_until(lambda: stack.door.get("/health")["status"] == "ok", what="all to be well")


def test_a_drone_takes_its_renewed_certificate(stack: Stack, pki: Pki) -> None:
    def beat() -> str:
        found = [w for w in stack.door.items("/v1/workers") if w["name"] == "drone-1"]
        return found[0]["last_beat_at"] or "" if found else ""

    drone, log = stack.drone_processes["drone-1"], stack.directory / "drone-1.log"
    wait_until(beat, what="the drone to be there")
    pki.command("renew", "drone-1")
    certificate = pki.folder / "drone-1.crt"
    renewed = certificate.read_bytes()
    certificate.write_text("half")
    try:
        drone.send_signal(signal.SIGHUP)
        wait_until(lambda: "drone.certificates_not_taken" in log.read_text(), what="the refusal")
    finally:
        certificate.write_bytes(renewed)
    drone.send_signal(signal.SIGHUP)
    before = beat()
    wait_until(lambda: beat() > before, what="a beat of the drone afterwards")
    assert drone.poll() is None


def test_a_certificate_that_has_ended_is_said_to_be_of_no_use(tmp_path: Path) -> None:
    made = Pki.init(tmp_path / "pki")
    made.expired_server("registry")
    environment = {
        "HOLDFAST_TLS_CERTIFICATE_FILE": str(made.folder / "registry.crt"),
        "HOLDFAST_TLS_KEY_FILE": str(made.folder / "registry.key"),
    }
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    with started(
        ["serve", "registry", "--port", "0"],
        tmp_path / "data",
        environment=environment,
        ready="/health",
        verify=unchecked,
    ) as program:
        wait_until(lambda: "certificate is of no use" in program.tail(), what="the warning")
        ready = httpx.get(f"{program.url}/ready", verify=unchecked, trust_env=False).json()
        assert ready["checks"]["certificate"]["status"] == "unhealthy"


def _certificate(port: int, pki: Pki) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        pki.context("operator").wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def test_up_tells_its_drones_to_read_again(tmp_path: Path) -> None:
    with started(["up", "--drones", "1", "--port", "0"], tmp_path / "data") as program:
        wait_until(lambda: "drone.registered" in program.tail(), what="the drone to be there")
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "drone.nothing_to_read_again" in program.tail(), what="the drone's word")
        assert program.get("/v1/workers")["items"][0]["status"] == "alive"
