"""The served door: what it limits, whose pages it lets ask, and what it tells the ledger of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.program import Program, run_command, started, wait_until

SECRET = b"door-" + b"s" * 32
TENANT_LIMIT = 20
SITE = "https://app.example.org"


def token_of(tenant: str, subject: str = "somebody", roles: str = "viewer") -> str:
    """A bearer of that tenant, signed with the operator's shared secret."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"sub": subject, "tenant": tenant, "roles": roles, "exp": now + 600}
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mac = hmac.new(SECRET, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("door")
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    environment = {
        "HOLDFAST_IDENTITY_JWT_SECRET_FILE": str(secret),
        "ARAGORA_CORS_ORIGINS": SITE,
    }
    with started(
        ["up", "--drones", "0", "--port", "0"], folder / "data", environment=environment
    ) as made:
        yield made


def ask(program: Program, token: str, path: str = "/v1/profiles", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", **more}
    return httpx.get(program.url + path, headers=headers, trust_env=False, timeout=30)


def test_pages_of_the_listed_site_may_ask_and_their_cookies_never_count(program: Program) -> None:
    told = httpx.options(
        f"{program.url}/v1/records",
        headers={"origin": SITE, "access-control-request-method": "GET"},
        trust_env=False,
    )
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (204, SITE)
    assert ask(program, token_of("quiet"), origin=SITE).status_code == 200
    cookie = signed_in(program)
    own = {"cookie": cookie, "origin": program.url}
    mine = httpx.get(f"{program.url}/v1/whoami", headers=own, trust_env=False)
    assert mine.status_code == 200
    theirs = httpx.get(f"{program.url}/v1/whoami", headers={**own, "origin": SITE}, trust_env=False)
    assert theirs.status_code == 401
    other = httpx.get(
        f"{program.url}/v1/whoami", headers={**own, "origin": "https://evil.example"},
        trust_env=False,
    )  # fmt: skip
    assert other.status_code == 403
    assert not [name for name in other.headers if name.startswith("access-control-")]


def signed_in(program: Program) -> str:
    """A browser's cookie, by a login link."""
    link = program.client.post("/v1/login/links", json={}).json()["path"]
    token = link.partition("#")[2]
    answer = httpx.post(f"{program.url}/v1/login", json={"token": token}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_login_link_asks_for_more_than_to_look_and_is_the_operator_s_alone(
    program: Program,
) -> None:
    path = "/v1/login/links"
    for role, code in (("viewer", "permission-missing"), ("admin", "operator-only")):
        made = program.client.post("/v1/api-keys", json={"name": role, "roles": [role]}).json()
        answer = httpx.post(
            f"{program.url}{path}", json={}, trust_env=False,
            headers={"authorization": f"Bearer {made['secret']}"},
        )  # fmt: skip
        assert (answer.status_code, answer.json()["code"]) == (403, code), answer.text
    described = program.get("/openapi.json")["paths"][path]["post"]
    assert described["x-permission"] == "identity:write"


def audit(program: Program, *arguments: str) -> list[dict[str, Any]]:
    told = run_command("audit", "--data-dir", str(program.data_dir), "--json", *arguments)
    assert told.returncode == 0, told.stderr
    found: list[dict[str, Any]] = json.loads(told.stdout)["items"]
    return found


def test_the_audit_tells_who_came_what_was_made_and_who_was_turned_away(program: Program) -> None:
    made = program.client.post(
        "/v1/api-keys",
        json={"name": "auditee", "permissions": ["profiles:read"]},
        headers={"x-request-id": "made-here"},
    ).json()
    key, secret = made["key"]["id"], made["secret"]
    guesses = 25
    guess = "hf_" + secrets.token_hex(40)
    for _ in range(guesses):
        assert ask(program, guess, **{"x-request-id": "guessed"}).status_code == 401
    denied = ask(program, secret, "/v1/records", **{"x-request-id": "beyond"})
    assert denied.status_code == 403
    signed_in(program)
    assert program.client.post(f"/v1/api-keys/{key}/revoke", json={}).status_code == 200
    wait_until(lambda: ask(program, secret).status_code == 401, what="the key to be dead")

    def told() -> list[dict[str, Any]]:
        events = audit(program, "--since", "1h")
        types = Counter(event["type"] for event in events)
        wanted = (
            "api-key.created", "api-key.revoked", "session.began", "access.refused",
            "access.link-made",
        )  # fmt: skip
        dead = any(event["payload"].get("code") == "key-unknown" for event in events)
        return events if dead and all(types[name] for name in wanted) else []

    events = wait_until(told, what="the events of the door")
    by_request = {event["request_id"]: event for event in events}
    assert by_request["made-here"]["who"] == "operator"
    beyond = by_request["beyond"]
    assert (beyond["who"], beyond["payload"]["code"]) == (key, "permission-missing")
    assert beyond["payload"]["route"] == "/v1/records"
    guessed = [e for e in events if e["payload"].get("code") in ("credential-malformed",)]
    assert sum(event["payload"]["count"] for event in guessed) == guesses
    assert {event["who"] for event in guessed} == {"nobody"}
    dead = [e for e in events if e["payload"].get("code") == "key-unknown"]
    assert {event["who"] for event in dead} == {key}
    signed = [event for event in events if event["type"] == "session.began"]
    assert {event["who"] for event in signed} == {"operator"}
    linked = [event for event in events if event["type"] == "access.link-made"]
    assert {(event["who"], event["payload"]["route"]) for event in linked} == {
        ("operator", "/v1/login/links")
    }
    text = json.dumps(events)
    for hidden in (secret, guess, program.token, "auditee"):
        assert hidden not in text

    assert [e["type"] for e in audit(program, "--who", "auditee")] == ["access.refused"] * len(
        [e for e in events if e["who"] == key]
    )
    assert {e["who"] for e in audit(program, "--who", "operator", "--since", "7d")} == {"operator"}
    assert audit(program, "--since", "2100-01-01T00:00:00Z") == []
    table = run_command(
        "audit", "--data-dir", str(program.data_dir), "--type", "access.refused",
        environment={"COLUMNS": "160"},
    )  # fmt: skip
    assert "permission-missing" in table.stdout
    wrong = run_command("audit", "--data-dir", str(program.data_dir), "--since", "yesterday")
    assert (wrong.returncode, "30m, 24h, 7d" in wrong.stderr) == (2, True)


def test_nobody_writes_the_audit_but_the_roles(program: Program) -> None:
    forged = {
        "id": "0190a1b2-0000-7000-8000-000000000000", "type": "access.refused",
        "tenant": "default", "subject": "somebody-else", "code": "x",
        "first": "2026-11-27T00:00:00Z", "last": "2026-11-27T00:00:00Z",
    }  # fmt: skip
    assert program.client.post("/v1/audit/notes", json=[forged]).status_code == 403
    for stream in ("access/operator", "api-key/x", "session/x", "role/x"):
        event = {"stream": stream, "type": "access.refused", "payload": {}}
        answer = program.client.post("/v1/ledger/events", json={"events": [event]})
        assert answer.status_code in (400, 403, 422), answer.text


def test_a_loud_tenant_waits_a_quiet_one_does_not_and_a_hangup_takes_other_limits(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "holdfast.toml"
    file.write_text(f"[serve]\ntenant_requests_per_second = {TENANT_LIMIT}\n")
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    environment = {"HOLDFAST_IDENTITY_JWT_SECRET_FILE": str(secret)}
    asked = 10 * TENANT_LIMIT
    loud = [token_of("loud", f"subject-{number}") for number in range(asked)]
    quiet = token_of("quiet")
    with (
        started(["up", "--drones", "0", "--port", "0"], data, environment=environment) as program,
        httpx.Client(base_url=program.url, trust_env=False, timeout=30) as client,
    ):

        def status_of(token: str) -> httpx.Response:
            return client.get("/v1/profiles", headers={"authorization": f"Bearer {token}"})

        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(status_of, token) for token in loud]
            served = [status_of(quiet).status_code for _ in range(TENANT_LIMIT)]
            refused = [a for each in answers if (a := each.result()).status_code == 429]
        assert served == [200] * TENANT_LIMIT
        assert len(refused) > asked / 4
        assert all(each.json()["code"] == "rate-exceeded" for each in refused)
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        file.write_text("[serve]\ntenant_requests_per_second = 0\n")
        program.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: {status_of(loud[0]).status_code for _ in range(2 * TENANT_LIMIT)} == {200},
            what="no limit any more",
        )
