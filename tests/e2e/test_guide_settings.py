"""With every variable set as a guide shows, one guide at a time, the system starts and behaves.

Behaves as the guide says, but where ``docs/compatibility.md`` says what it does instead: none of
them opens a door.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import httpx

from tests.support.attacks import jwt
from tests.support.pki import Pki
from tests.support.program import Program, run_command, started, wait_until
from tests.support.stack import SAMPLE, free_port


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
        "REGISTRY_URL": "http://registry:8081",
        "AGGREGATOR_URL": "http://aggregator:8082",
        "COORDINATOR_URL": "http://coordinator:8083",
        "REPORTER_URL": "http://reporter:8084",
        "DRONE_ID": "drone",
        "PROCESS_INTERVAL": "5m",
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


def test_guide_3_platform(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "PLATFORM_HTTP_ADDR": f"127.0.0.1:{port}",
        "PLATFORM_NATS_URL": "nats://127.0.0.1:4222",
        "PLATFORM_SQLITE_PATH": str(tmp_path / "platform.db"),
    }
    with started(["up", "--drones", "0"], tmp_path / "data", environment=environment) as program:
        assert program.url == f"http://127.0.0.1:{port}"
        assert (tmp_path / "platform.db").exists()
        assert ask(program) == 401
        assert ask(program, program.token) == 200
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
    }
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
    short = environment | {"ARAGORA_JWT_SECRET": "your-256-bit-secret"}
    stopped = run_command(
        "up", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=short
    )
    assert stopped.returncode == 2
    assert "at least 32 bytes" in stopped.stderr


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
