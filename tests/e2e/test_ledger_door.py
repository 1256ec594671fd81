"""The ledger's own door by guide 3's names: client certificates, limits, the metrics' own port."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.attacks import jwt
from tests.support.pki import Pki
from tests.support.program import Program, run_command, started, wait_until
from tests.support.raw_http import connected, head, read_answer
from tests.support.stack import free_port

CONNECTIONS = 10
SECRET = "a secret of at least thirty-two bytes, for a test"
REFUSED = (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)


@pytest.fixture(scope="module")
def scraped_at() -> int:
    return free_port()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, scraped_at: int) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("limited") / "data"
    secret = data.with_name("secret")
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    environment = {
        "VDB_DATA_DIR": str(data),
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_MAX_CONNECTIONS": str(CONNECTIONS),
        "HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX": "0",  # all of them are this address's
        "VDB_IDLE_TIMEOUT_SECS": "1",
        "VDB_LOG_LEVEL": "info",
        "VDB_AUTH_MODE": "jwt",
        "HOLDFAST_LEDGER_JWT_SECRET_FILE": str(secret),
        "VDB_JWT_ISSUER": "ours",
        "VDB_JWT_AUDIENCE": "our-ledger",
        "VDB_JWT_EXPIRATION_SECS": "120",
        "HOLDFAST_METRICS_BIND": f"127.0.0.1:{scraped_at}",
    }
    with started(["serve", "ledger"], data, environment=environment) as program:
        yield program


@pytest.fixture
def quiet(limited: Program, scraped_at: int) -> Program:
    """The same, once no connection of the test before is open: there are few of them."""
    numbers = f"http://127.0.0.1:{scraped_at}/metrics"

    def none_open() -> bool:
        return "\nvdb_connections_active 0.0\n" in httpx.get(numbers, trust_env=False).text

    limited.close()
    wait_until(none_open, what="the connections to be closed")
    return limited


def test_one_connection_more_than_the_guide_allows_is_told_so(limited: Program) -> None:
    limited.close()
    headers = {"authorization": f"Bearer {limited.token}"}
    url = f"{limited.url}/v1/ledger/follow"
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):  # subscriptions: they are never idle
            one = stack.enter_context(httpx.Client(trust_env=False, timeout=30))
            following = stack.enter_context(one.stream("GET", url, headers=headers))
            assert following.status_code == 200
        more = httpx.get(f"{limited.url}/health", trust_env=False)
        assert (more.status_code, "retry-after" in more.headers) == (503, True)


def test_readiness_is_degraded_from_more_than_nine_tenths_of_the_connections(
    quiet: Program,
) -> None:
    """Guide 3's memory check; whoever asks counts as well, and still gets an answer."""
    headers = {"authorization": f"Bearer {quiet.token}"}

    def ready() -> tuple[int, str, str]:
        answer = httpx.get(f"{quiet.url}/ready", trust_env=False)
        said = answer.json()
        return answer.status_code, said["status"], said["checks"]["memory"]["status"]

    with ExitStack() as stack:

        def follow() -> None:
            one = stack.enter_context(httpx.Client(trust_env=False, timeout=30))
            url = f"{quiet.url}/v1/ledger/follow"
            assert stack.enter_context(one.stream("GET", url, headers=headers)).status_code == 200

        for _ in range(CONNECTIONS - 2):
            follow()
        # The connection that a question before this one had may not be gone yet.
        wait_until(lambda: ready() == (200, "ok", "ok"), what="nine of ten to be in order")
        follow()
        assert ready() == (200, "degraded", "degraded")
    wait_until(lambda: ready() == (200, "ok", "ok"), what="fewer connections")


def test_readiness_is_unhealthy_where_the_data_directory_is_gone(quiet: Program) -> None:
    def ready() -> tuple[int, dict[str, str]]:
        answer = httpx.get(f"{quiet.url}/ready", trust_env=False)
        said = answer.json()
        told = {name: each["status"] for name, each in said["checks"].items()}
        return answer.status_code, told | {"": said["status"]}

    elsewhere = quiet.data_dir.with_name("elsewhere")
    quiet.data_dir.rename(elsewhere)
    try:
        status, told = ready()
    finally:
        elsewhere.rename(quiet.data_dir)
    assert (status, told[""]) == (503, "unhealthy")
    assert (told["disk"], told["data_dir"], told["memory"]) == ("unhealthy", "unhealthy", "ok")
    wait_until(lambda: ready()[0] == 200, what="the directory to be used again")
    assert set(ready()[1].values()) == {"ok"}


def _status(program: Program, seconds: float, secret: str = SECRET, **changes: str) -> int:
    claims = {"iss": "ours", "aud": "our-ledger", "sub": "somebody", "roles": ["operator"]}
    token = jwt(secret.encode(), {**claims, "exp": int(time.time() + seconds), **changes})
    headers = {"authorization": f"Bearer {token}"}
    url = f"{program.url}/v1/ledger/status"
    return httpx.get(url, headers=headers, trust_env=False, timeout=30).status_code


def test_tokens_are_held_to_the_issuer_audience_and_expiry_that_are_set(quiet: Program) -> None:
    assert _status(quiet, 100) == 200
    assert _status(quiet, 600) == 401
    assert _status(quiet, 100, iss="craton") == 401
    assert _status(quiet, 100, aud="craton") == 401


def test_the_file_of_the_secret_is_read_again(quiet: Program) -> None:
    secret = quiet.data_dir.with_name("secret")
    checks = f"{quiet.url}/ready"

    def told() -> str:
        found = httpx.get(checks, trust_env=False, timeout=30).json()["checks"]
        return str(found["token_secret"]["status"])

    try:
        secret.write_text("another " + SECRET)
        wait_until(lambda: _status(quiet, 100, "another " + SECRET) == 200, what="the new secret")
        assert _status(quiet, 100) == 401
        secret.write_text("short")
        wait_until(lambda: told() == "degraded", what="the short one to be told of")
        assert _status(quiet, 100, "another " + SECRET) == 200
    finally:
        secret.write_text(SECRET)
    wait_until(lambda: _status(quiet, 100) == 200, what="the old secret")
    assert told() == "ok"


def test_a_token_behind_the_body_is_no_token(quiet: Program) -> None:
    event = b'{"events":[{"stream":"trailer/1","type":"a.b","payload":{}}]}'
    token = f"Authorization: Bearer {quiet.token}\r\n".encode()
    body = b"%x\r\n%s\r\n0\r\n%s\r\n"
    fields = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    begun = head("POST", "/v1/ledger/events", fields)
    with connected(quiet.url) as line:
        line.sendall(begun + body % (len(event), event, token))
        answer = read_answer(line)
    assert (answer.status, answer.problem["code"]) == (401, "unauthenticated")
    with connected(quiet.url) as line:
        line.sendall(begun[:-2] + token + b"\r\n" + body % (len(event), event, b"Host: x\r\n"))
        assert read_answer(line).status in (200, 201)


def test_numbers_and_reasons_are_for_whoever_says_who_they_are(quiet: Program) -> None:
    for path in ("/metrics", "/health/detailed"):
        refused = httpx.get(quiet.url + path, trust_env=False)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), path
        assert quiet.client.get(path).status_code == 200, path
    quiet.close()
    assert httpx.get(f"{quiet.url}/ready", trust_env=False).status_code == 200


def test_a_connection_that_falls_idle_is_closed(quiet: Program) -> None:
    host, port = quiet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while part := idle.recv(4096):  # ends when the server closes; 75 s without the setting
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")


def test_the_log_level_and_the_data_directory_are_the_guides(limited: Program) -> None:
    assert "ready" in limited.log.read_text()
    told = run_command("ledger", "status", environment={"VDB_DATA_DIR": str(limited.data_dir)})
    assert told.returncode == 0, told.stderr


def test_the_metrics_have_a_port_of_their_own_with_nothing_else(
    limited: Program, scraped_at: int
) -> None:
    def ask(method: str, path: str, host: str = "") -> httpx.Response:
        headers = {"host": host} if host else {}
        url = f"http://127.0.0.1:{scraped_at}{path}"
        return httpx.request(method, url, headers=headers, trust_env=False)

    scraped = ask("GET", "/metrics")
    assert scraped.status_code == 200
    assert scraped.headers["content-type"].startswith("text/plain")
    assert "vdb_requests_total{" in scraped.text
    assert "vdb_replication_view_number" in scraped.text
    assert ask("HEAD", "/metrics").content == b""
    assert ask("GET", "/metrics", "10.1.2.3:9090").status_code == 200, "a pod, by its address"
    assert ask("GET", "/metrics", "evil.example").status_code == 421
    assert ask("POST", "/metrics").status_code == 405
    for path in ("/", "/v1/ledger/status", "/v1/ledger/entries", "/openapi.json"):
        assert ask("GET", path).status_code == 404


def test_the_metrics_are_not_opened_in_clear_beyond_loopback_nor_where_somebody_listens(
    tmp_path: Path, scraped_at: int, limited: Program
) -> None:
    for bind, status, said in (
        ("0.0.0.0:0", 2, "beyond loopback and there is no TLS"),
        (f"127.0.0.1:{scraped_at}", 6, "another program has this port"),
    ):
        stopped = run_command(
            "serve", "ledger", "--data-dir", str(tmp_path / "data"), "--port", "0",
            environment={"HOLDFAST_METRICS_BIND": bind},
        )  # fmt: skip
        assert stopped.returncode == status, stopped.stderr
        assert said in stopped.stderr
        assert "Traceback" not in stopped.stderr


def test_client_certificates_are_asked_for_at_the_ledgers_own_door(tmp_path: Path) -> None:
    """Guide 3's mTLS: its certificate and key, and an authority whose callers count."""
    ours, stranger = Pki.init(tmp_path / "ours"), Pki.init(tmp_path / "stranger")
    ours.server("ledger")
    ours.client("craton-client")
    stranger.client("craton-client")
    scraped_at = free_port()
    environment = {
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_TLS_CERT": str(ours.folder / "ledger.crt"),
        "VDB_TLS_KEY": str(ours.folder / "ledger.key"),
        "HOLDFAST_TLS_CLIENTS": "required",
        "HOLDFAST_TLS_CA_FILE": str(ours.authority),
        "HOLDFAST_METRICS_BIND": f"127.0.0.1:{scraped_at}",
    }
    mine = ours.context("craton-client")
    with started(
        ["serve", "ledger"], tmp_path / "data", environment=environment, verify=mine
    ) as program:
        doors = (f"{program.url}/v1/ledger/status", f"https://127.0.0.1:{scraped_at}/metrics")
        for door in doors:
            for caller in (ours.context(), ours.context("craton-client", of=stranger)):
                with pytest.raises(REFUSED):
                    httpx.get(door, verify=caller, trust_env=False, timeout=10)
        assert httpx.get(doors[0], verify=mine, trust_env=False).status_code == 401, "no token"
        assert program.client.get("/v1/ledger/status").status_code == 200
        assert httpx.get(doors[1], verify=mine, trust_env=False).status_code == 200
