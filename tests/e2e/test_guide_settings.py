"""With every variable set as a guide shows, one guide at a time, the system starts and behaves.

Behaves as the guide says, but where ``docs/compatibility.md`` says what it does instead: none of
them opens a door.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.support.attacks import jwt
from tests.support.pki import Pki
from tests.support.program import (
    HOLDFAST,
    STOP_SECONDS,
    Program,
    clean_environment,
    run_command,
    start,
    started,
    wait_until,
)
from tests.support.stack import ROLES, SAMPLE, free_port, sources

GUIDE_4_PLANNED = {
    "ARAGORA_REDIS_URL": "redis://redis-cluster:6379",
    "ARAGORA_REDIS_SENTINEL_MASTER": "mymaster",
    "ARAGORA_REDIS_SENTINEL_HOSTS": "sentinel1:26379,sentinel2:26379,sentinel3:26379",
    "ARAGORA_DATABASE_URL": "postgresql://user:pass@postgres:5432/aragora",
    "ARAGORA_ENABLE_METRICS": "true",
    "ARAGORA_PROMETHEUS_PORT": "9090",
    "ARAGORA_HEARTBEAT_TIMEOUT": "30",
    "ARAGORA_TASK_TIMEOUT": "300",
    "ARAGORA_MAX_TASK_RETRIES": "3",
    "ARAGORA_CLEANUP_INTERVAL": "60",
    "ARAGORA_HTTP_POOL_SIZE": "30",
    "ARAGORA_HTTP_TIMEOUT": "60",
    "ARAGORA_POOL_MIN_CONNECTIONS": "5",
    "ARAGORA_POOL_MAX_CONNECTIONS": "50",
    "ARAGORA_POOL_IDLE_TIMEOUT": "300",
    "ARAGORA_REGION": "us-east-1",
    "ARAGORA_REGION_PRIMARY": "true",
    "ARAGORA_PRIMARY_REGION": "us-east-1",
    "ARAGORA_REPLICATION_TARGETS": "us-west-2,eu-west-1",
    "ARAGORA_DATA_RESIDENCY": "eu",
    "ARAGORA_LEADER_ELECTION_TIMEOUT": "10.0",
    "ARAGORA_STALE_LEADER_THRESHOLD": "60.0",
    "ARAGORA_SYNC_INTERVAL": "5.0",
    "ARAGORA_WORKER_CONCURRENCY": "10",
    "ARAGORA_BATCH_SIZE": "50",
    "ARAGORA_DEBUG_SQL": "true",
    "ARAGORA_DEBUG_REDIS": "true",
}
"""What guide 4 shows besides (``docs/conformance.md``, G4.2: planned): it stops no start."""


def ask(program: Program, token: str = "", path: str = "/v1/profiles", **headers: str) -> int:
    if token:
        headers["authorization"] = f"Bearer {token}"
    url = program.url + path
    answer = httpx.get(url, headers=headers, verify=program.verify, trust_env=False, timeout=30)
    return answer.status_code


def claims(**more: Any) -> dict[str, Any]:
    import time

    return {"sub": "somebody", "exp": int(time.time()) + 600, **more}


def test_guide_1_collection(tmp_path: Path) -> None:
    secret = secrets.token_hex(32)
    (tmp_path / "secret").write_text(secret)
    keys = tmp_path / "api_keys.json"
    first, second = secrets.token_hex(32), secrets.token_hex(32)

    def write(key: str) -> None:
        keys.write_text(
            json.dumps({"keys": [{"name": "collector", "key": key, "tenant": "default",
                                  "roles": ["viewer"]}]})
        )  # fmt: skip
        keys.chmod(0o600)

    write(first)
    environment = {
        "AUTH_REQUIRED": "true",
        "AUTH_TENANT_REQUIRED": "true",
        "AUTH_JWT_HS256_SECRET_FILE": str(tmp_path / "secret"),
        "AUTH_API_KEYS_FILE": str(keys),
        "AUTH_API_KEYS_TTL_SECONDS": "1",
        "DB_DRIVER": "sqlite",
        "DB_DSN": str(tmp_path / "collection.db"),
        "PROFILES_DIR": str(SAMPLE.joinpath("profiles")),
    }
    with started(
        ["up", "--drones", "0", "--port", "0"], tmp_path / "data", environment=environment
    ) as program:
        assert (tmp_path / "collection.db").exists()
        named = {"x-tenant-id": "default"}
        token = jwt(secret.encode(), claims(tenant="default"))
        assert ask(program) == 401
        assert [ask(program, each, **named) for each in (token, first)] == [200, 200]
        assert [ask(program, each) for each in (token, first)] == [403, 403]
        assert ask(program, token, **{"x-tenant-id": "other"}) == 403
        wait_until(lambda: len(list(program.items("/v1/profiles"))) > 3, what="the folder")
        write(second)
        wait_until(lambda: ask(program, second, **named) == 200, what="the edited key")
        wait_until(lambda: ask(program, first, **named) == 401, what="the end of the old key")
        keys.write_text("{")
        ready = f"{program.url}/ready"
        wait_until(
            lambda: httpx.get(ready, trust_env=False).json()["status"] == "degraded",
            what="readiness to say that the file is bad",
        )
        assert ask(program, second, **named) == 200, "the last good keys hold"


def test_guide_1_roles_that_run_apart_and_a_drone(tmp_path: Path) -> None:
    """The addresses of roles and the drone's variables: each is needed for what happens here."""
    ports = {role: free_port() for role in ROLES}
    ours = {"HOLDFAST_TRUST_DIR": str(tmp_path / "trusted"), "HOLDFAST_LOG_LEVEL": "warning"}
    for role in ("identity", "ledger"):  # of which guide 1 knows nothing
        ours[f"HOLDFAST_{role.upper()}_URL"] = f"http://127.0.0.1:{ports[role]}"
    named = {
        f"{role.upper()}_URL": f"http://127.0.0.1:{ports[role]}"
        for role in ("registry", "aggregator", "coordinator", "reporter")
    }
    guides = {
        "registry": {"PROFILES_DIR": str(SAMPLE.joinpath("profiles"))},
        "aggregator": {"DB_DRIVER": "sqlite", "DB_DSN": str(tmp_path / "aggregator.db")},
    }
    profile = "scripps-co2-monthly"
    with ExitStack() as stack:
        _, replay = stack.enter_context(sources(tmp_path))

        def serve(role: str) -> Program:
            return start(
                ["serve", role, "--port", str(ports[role])],
                tmp_path / role,
                environment=ours | named | guides.get(role, {}),
                ready="/health",
            )

        with ThreadPoolExecutor(len(ROLES)) as pool:
            running = list(pool.map(serve, ROLES))
        for each in running:
            stack.callback(each.stop)
        door = running[ROLES.index("gateway")]
        wait_until(lambda: profile in _profiles(door), what="the folder, by way of the door")
        made = door.client.post("/v1/workers/tokens", json={})
        assert made.status_code < 300, made.text
        token = tmp_path / "join-token"
        token.touch(mode=0o600)
        token.write_text(made.json()["token"])
        asked = door.client.post("/v1/tasks/collect", json={"profile": profile})
        assert asked.status_code < 300, asked.text
        drone = {
            "CONTROL_PLANE": door.url,
            "DRONE_ID": "the-guides-drone",
            "PROCESS_INTERVAL": "5m",
            "HOLDFAST_DRONE_JOIN_TOKEN_FILE": str(token),
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
        }
        log = stack.enter_context((tmp_path / "drone.log").open("wb"))
        process = subprocess.Popen(
            [*HOLDFAST, "drone", "--data-dir", str(tmp_path / "drone")],
            env=clean_environment(ours | drone),
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait, STOP_SECONDS)
        stack.callback(process.terminate)
        wait_until(lambda: list(door.items("/v1/workers")), what="the drone")
        told = run_command(
            "config", "show", "--json", "--data-dir", str(tmp_path / "drone"),
            environment=ours | drone,
        )  # fmt: skip
        shown = {each["name"]: each["value"] for each in json.loads(told.stdout)}

        def ended() -> bool:
            return [run["status"] for run in door.items("/v1/runs")] == ["succeeded"]

        wait_until(ended, 60, what="the run")
        assert [each["name"] for each in door.items("/v1/workers")] == ["the-guides-drone"]
        assert len(list(door.items("/v1/records", profile=profile, limit=1000))) > 100
        assert (tmp_path / "aggregator.db").exists()
        assert door.client.get("/v1/reports").status_code == 200
    assert shown["HOLDFAST_DRONE_PROCESS_INTERVAL"] == 300.0, shown


def _profiles(door: Program) -> set[str]:
    answer = door.client.get("/v1/profiles")  # 503 while the roles look for each other
    return {each["name"] for each in answer.json()["items"]} if answer.is_success else set()


def test_guide_3_platform(tmp_path: Path) -> None:
    port = free_port()
    page = f"http://localhost:{port}"
    environment = {
        "PLATFORM_HTTP_ADDR": f"127.0.0.1:{port}",
        "PLATFORM_NATS_URL": "nats://127.0.0.1:4222",
        "PLATFORM_SQLITE_PATH": str(tmp_path / "platform.db"),
        "PLATFORM_SESSION_TTL_SECS": "1800",
        "PLATFORM_OAUTH_GITHUB_CLIENT_ID": "the-guides-client",
        "PLATFORM_OAUTH_GITHUB_CLIENT_SECRET": secrets.token_hex(20),
        "PLATFORM_WEBAUTHN_RP_ID": "localhost",
        "PLATFORM_WEBAUTHN_RP_ORIGIN": page,
    }
    with started(["up", "--drones", "0"], tmp_path / "data", environment=environment) as program:
        assert program.url == f"http://127.0.0.1:{port}"
        assert (tmp_path / "platform.db").exists()
        assert ask(program) == 401
        assert ask(program, program.token) == 200
        link = program.client.post("/v1/login/links", json={}).json()["path"]
        begun = httpx.post(
            f"{page}/v1/login", json={"token": link.partition("#")[2]}, trust_env=False
        )
        assert begun.status_code == 200, begun.text
        kept = [
            each for each in begun.headers.get_list("set-cookie")
            if each.startswith("holdfast_session=")
        ]  # fmt: skip
        assert ["max-age=1800" in each.lower().split("; ") for each in kept] == [True], kept
        assert 'href="/login/oauth/github"' in httpx.get(f"{page}/login", trust_env=False).text
        away = httpx.get(f"{page}/login/oauth/github", trust_env=False)
        to = urlsplit(away.headers["location"])
        assert (to.scheme, to.netloc, to.path) == ("https", "github.com", "/login/oauth/authorize")
        asked = parse_qs(to.query)
        assert asked["client_id"] == ["the-guides-client"]
        assert asked["redirect_uri"] == [f"{page}/login/oauth/github/callback"]
        said = ("--json", "--data-dir", str(program.data_dir))
        invited = run_command("person", "invite", "Ada", *said, environment=environment)
        url = json.loads(invited.stdout)["url"]
        assert url.startswith(f"{page}/"), "links for people lead to the origin"
        ceremony = httpx.post(f"{page}/v1/login/passkey/options", json={}, trust_env=False)
        assert ceremony.json()["options"]["rpId"] == "localhost", ceremony.text
        secret = environment["PLATFORM_OAUTH_GITHUB_CLIENT_SECRET"]
        assert secret not in program.log.read_text() + away.text + str(away.headers)
    half = environment | {"PLATFORM_OAUTH_GITHUB_CLIENT_SECRET": ""}
    stopped = run_command("up", "--data-dir", str(tmp_path / "half"), environment=half)
    assert stopped.returncode == 2
    assert "sign-in by GitHub needs a client id, a client secret" in stopped.stderr
    open_door = environment | {"PLATFORM_HTTP_ADDR": f"0.0.0.0:{port}"}
    stopped = run_command(
        "up", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=open_door
    )
    assert stopped.returncode == 2
    assert "beyond loopback and there is no TLS" in stopped.stderr


def test_guide_4_agents(tmp_path: Path) -> None:
    pki = Pki.init(tmp_path)
    pki.server("cert")
    secret = secrets.token_hex(32)
    environment = {
        "ARAGORA_CORS_ORIGINS": "*",
        "ARAGORA_TLS_ENABLED": "true",
        "ARAGORA_TLS_CERT_FILE": str(pki.folder / "cert.crt"),
        "ARAGORA_TLS_KEY_FILE": str(pki.folder / "cert.key"),
        "ARAGORA_TLS_CA_FILE": str(pki.authority),
        "ARAGORA_AUTH_ENABLED": "true",
        "ARAGORA_JWT_SECRET": secret,
        "ARAGORA_JWT_EXPIRY": "3600",
        "ARAGORA_RBAC_ENABLED": "true",
        "ARAGORA_RBAC_DEFAULT_ROLE": "viewer",
        "ARAGORA_LOG_LEVEL": "info",
        "ARAGORA_OAUTH_ENABLED": "true",
        "ARAGORA_OAUTH_PROVIDER": "google",
        "ARAGORA_OAUTH_CLIENT_ID": "the-guides-client",
        "ARAGORA_OAUTH_CLIENT_SECRET": secrets.token_hex(20),
        # Whom they let in is shown with a provider that answers: test_sign_in_oauth.
        "ARAGORA_ADMIN_USERS": "admin@company.com",
    } | GUIDE_4_PLANNED
    with started(
        ["up", "--drones", "0", "--port", "0"], tmp_path / "data", environment=environment,
        verify=pki.context(),
    ) as program:  # fmt: skip
        assert program.url.startswith("https://")
        assert ask(program) == 401
        token = jwt(secret.encode(), claims())
        assert ask(program, token) == 200
        assert ask(program, token, "/v1/api-keys") == 403, "a viewer, by default"
        assert ask(program, jwt(secret.encode(), claims(exp=9_999_999_999))) == 401
        page = httpx.get(
            f"{program.url}/v1/profiles",
            headers={"origin": "https://any.example", "authorization": f"Bearer {token}"},
            verify=program.verify,
            trust_env=False,
        )
        assert page.headers["access-control-allow-origin"] == "https://any.example"
        assert "access-control-allow-credentials" not in page.headers
        told = run_command(
            "config", "show", "--json", "--data-dir", str(program.data_dir), environment=environment
        )
        assert secret not in told.stdout + told.stderr
        assert environment["ARAGORA_OAUTH_CLIENT_SECRET"] not in told.stdout + told.stderr
        shown = {each["name"]: each["value"] for each in json.loads(told.stdout)}
        assert shown["HOLDFAST_IDENTITY_ADMIN_USERS"] == "admin@company.com"
        login = httpx.get(f"{program.url}/login", verify=program.verify, trust_env=False)
        assert 'href="/login/oauth/google"' in login.text
        assert _levels(program) == {"info"}
    short = environment | {"ARAGORA_JWT_SECRET": "your-256-bit-secret"}
    stopped = run_command(
        "up", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=short
    )
    assert stopped.returncode == 2
    assert "at least 32 bytes" in stopped.stderr

    quiet = environment | {"ARAGORA_LOG_LEVEL": "warn"}
    with started(
        ["up", "--drones", "0", "--port", "0"], tmp_path / "quiet", environment=quiet,
        verify=pki.context(),
    ) as program:  # fmt: skip
        assert _levels(program) == set()


def _levels(program: Program) -> set[str]:
    """The levels of what was logged on the way to being ready."""
    return set(re.findall(r"\[(debug|info)\s*\]", program.log.read_text()))


def test_guide_5_documents(tmp_path: Path) -> None:
    key = secrets.token_hex(24)
    data = tmp_path / "data"
    with started(
        ["up", "--drones", "0", "--port", "0"], data, environment={"ADMIN_KEY": key}
    ) as program:
        assert ask(program) == 401
        assert ask(program, key[:-1] + ("0" if key[-1] != "0" else "1")) == 401
        assert [ask(program, each, "/v1/api-keys") for each in (key, program.token)] == [200, 200]
    stopped = run_command(
        "up", "--port", "0", "--data-dir", str(data), environment={"ADMIN_KEY": "secret"}
    )
    assert stopped.returncode == 2
    assert "openssl rand -hex 24" in stopped.stderr
    with started(["up", "--drones", "0", "--port", "0"], data) as program:
        assert ask(program, key) == 401, "without the variable it opens nothing"
