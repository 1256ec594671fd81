"""Signing in by a real OpenID Connect provider, through the served program and its pages."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.test_console import browser, page
from tests.support.program import Program, run_command, started, wait_until

__all__ = ["browser", "page"]


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://localhost:{port}"
    # A process of its own: what it is made of warns of itself.
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(url), 60, "the provider")
        users = {
            "boss": {"email": "boss@example.org", "email_verified": True, "name": "The Boss"},
            "eve": {"email": "boss@example.org", "email_verified": False, "name": "Eve"},
        }
        for subject, claims in users.items():
            answer = httpx.put(f"{url}/users/{subject}", json=claims, trust_env=False)
            assert answer.is_success, answer.text
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/jwks", trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, provider: str) -> Iterator[Program]:
    environment = {
        "ARAGORA_OAUTH_PROVIDER": "oidc",
        "ARAGORA_OAUTH_CLIENT_ID": "holdfast",
        "ARAGORA_OAUTH_CLIENT_SECRET": "a secret of the client",
        "ARAGORA_ADMIN_USERS": "boss@example.org",
        "HOLDFAST_IDENTITY_OAUTH_ISSUER": provider,
        "HOLDFAST_IDENTITY_OAUTH_ALLOW": urlsplit(provider).netloc,
    }
    path = tmp_path_factory.mktemp("oauth") / "data"
    with started(["up", "--drones", "0", "--port", "0"], path, environment=environment) as running:
        yield running


def sign_in(program: Program, page: Any, subject: str) -> None:
    page.goto(program.url.replace("127.0.0.1", "localhost") + "/login")
    page.click("text=Continue with localhost")
    page.fill("input[name=sub]", subject)
    page.click("button[type=submit] >> nth=0")


def test_a_named_administrator_comes_in_by_a_provider_and_out(
    program: Program, page: Any, tmp_path: Path
) -> None:
    sign_in(program, page, "boss")
    page.wait_for_selector("#running")
    page.click("a[href='/people']")
    page.wait_for_selector("text=The Boss")
    page.click("text=Sign out")
    page.wait_for_url("**/login")
    sign_in(program, page, "boss")
    page.wait_for_selector("#running")
    found = run_command("person", "list", "--json", "--data-dir", str(program.data_dir))
    assert [(p["name"], p["roles"]) for p in json.loads(found.stdout)] == [("The Boss", ["admin"])]


def test_an_account_with_an_unverified_address_stays_outside(program: Program, page: Any) -> None:
    sign_in(program, page, "eve")
    page.wait_for_selector("text=nobody invited this account")
    assert [c for c in page.context.cookies() if c["name"] == "holdfast_session"] == []
    assert httpx.get(f"{program.url}/v1/whoami", trust_env=False).status_code == 401


def test_the_secret_of_the_client_is_nowhere_to_be_seen(program: Program) -> None:
    assert "a secret of the client" not in program.log.read_text(errors="replace")
