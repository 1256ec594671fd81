"""Signing in by a real OpenID Connect provider, through the served program and its pages."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

from tests.e2e.test_console import browser, page
from tests.support.program import Program, run_command, started, wait_until
from tests.support.provider import FakeProvider, fake_provider

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
        wait_until(lambda: _answers(url), what="the provider")
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
def issuer() -> Iterator[FakeProvider]:
    """Whoever makes tokens for programs, and publishes the keys of them."""
    with fake_provider() as found:
        yield found


@pytest.fixture(scope="module")
def program(
    tmp_path_factory: pytest.TempPathFactory, provider: str, issuer: FakeProvider
) -> Iterator[Program]:
    environment = {
        "HOLDFAST_IDENTITY_JWKS_URL": f"{issuer.url}/jwks",
        "HOLDFAST_IDENTITY_JWT_ISSUER": issuer.url,
        "HOLDFAST_IDENTITY_JWT_AUDIENCE": "holdfast",
        "ARAGORA_OAUTH_PROVIDER": "oidc",
        "ARAGORA_OAUTH_CLIENT_ID": "holdfast",
        "ARAGORA_OAUTH_CLIENT_SECRET": "a secret of the client",
        "ARAGORA_ADMIN_USERS": "boss@example.org",
        "HOLDFAST_IDENTITY_OAUTH_ISSUER": provider,
        "HOLDFAST_IDENTITY_OAUTH_ALLOW": ",".join(
            urlsplit(url).netloc for url in (provider, issuer.url)
        ),
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
    people = json.loads(found.stdout)["items"]
    assert [(p["name"], p["roles"]) for p in people] == [("The Boss", ["admin"])]


def test_an_account_with_an_unverified_address_stays_outside(program: Program, page: Any) -> None:
    sign_in(program, page, "eve")
    page.wait_for_selector("text=nobody invited this account")
    assert [c for c in page.context.cookies() if c["name"] == "holdfast_session"] == []
    assert httpx.get(f"{program.url}/v1/whoami", trust_env=False).status_code == 401


def sent_back(program: Program, host: str) -> tuple[str, str, str]:
    """The way back that the provider chose, its query, and the browser's cookies."""
    begun = httpx.get(f"{program.url}/login/oauth/oidc", headers={"host": host}, trust_env=False)
    cookies = "; ".join(f"{name}={value}" for name, value in begun.cookies.items())
    answer = httpx.post(begun.headers["location"], data={"sub": "boss"}, trust_env=False)
    back = urlsplit(answer.headers["location"])
    assert back.path == "/login/oauth/oidc/callback"
    return f"{back.scheme}://{back.netloc}", back.query, cookies


def test_a_provider_that_sends_the_browser_back_another_way_signs_nobody_in(
    program: Program,
) -> None:
    """State and code are right each time; only the way is not the one that was asked for."""
    port = urlsplit(program.url).port or 0
    host, path = f"localhost:{port}", "/login/oauth/oidc/callback"

    def come_back(target: str, named: str = host) -> tuple[int, bool]:
        """The status, and whether anybody was signed in."""
        _, query, cookies = sent_back(program, host)
        text = (
            f"GET {target.replace('QUERY', query)} HTTP/1.1\r\nHost: {named}\r\n"
            f"Cookie: {cookies}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(text.encode("latin-1"))
            answer = b"".join(iter(lambda: line.recv(65536), b""))
        return int(answer[9:12]), b"set-cookie: holdfast_session=" in answer.lower()

    assert come_back(f"{path}?QUERY") == (200, True), "the right way must lead in"
    ways = [
        f"/{path}?QUERY", f"{path}/?QUERY", f"{path}%2f?QUERY", f"{path}/..?QUERY",
        "/login/oauth/oidc/x/../callback?QUERY", "/login/oauth/oidc%2fcallback?QUERY",
        "/login/oauth/%6fidc/call%62ack/?QUERY", path.replace("/", "\\") + "?QUERY",
        path.upper() + "?QUERY", f"{path};a=b?QUERY", f"{path}%00?QUERY", f"{path}%23?QUERY",
        f"{path}#?QUERY", f"{path}#QUERY", f"{path}%3fQUERY", "/login/oauth/github/callback?QUERY",
        "/login/oauth/oidc?QUERY", "/login?QUERY", "/?QUERY", f"http://evil.example{path}?QUERY",
        f"//evil.example{path}?QUERY", f"http://boss@localhost:{port}{path}?QUERY",
        f"{path}?QUERY&QUERY", f"{path}?QUERY&state=x", f"{path}?QUERY&code=x",
    ]  # fmt: skip
    for way in ways:
        assert not come_back(way)[1], way
    for named in (
        f"127.0.0.1:{port}", "localhost", f"localhost:{port + 1}", f"localhost.:{port}",
        f"boss@localhost:{port}", f"localhost:{port}@evil.example", "evil.example",
        f"evil.example:{port}", f"localhost:{port}#", f"localhost:{port}/", f"[::1]:{port}",
    ):  # fmt: skip
        assert not come_back(f"{path}?QUERY", named)[1], named
    assert come_back(f"{path}?QUERY") == (200, True)


def test_the_secret_of_the_client_is_nowhere_to_be_seen(program: Program) -> None:
    assert "a secret of the client" not in program.log.read_text(errors="replace")


# --- tokens of an issuer that publishes its keys ------------------------------------------------


def token(issuer: FakeProvider, **changes: Any) -> str:
    now = int(time.time())
    given = {"iss": issuer.url, "aud": "holdfast", "sub": "ada@example.org", "exp": now + 300}
    header = {"alg": issuer.alg, "kid": issuer.key.kid}
    return jwt.encode(header, given | changes, issuer.key, algorithms=[issuer.alg])


def whoami(program: Program, bearer: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {bearer}"}
    return httpx.get(f"{program.url}/v1/whoami", headers=headers, trust_env=False)


def test_a_program_comes_in_by_a_token_under_published_keys(
    program: Program, issuer: FakeProvider
) -> None:
    first = whoami(program, token(issuer, roles=["auditor"]))
    assert first.status_code == 200, first.text
    assert "ada@" not in first.text
    assert first.json()["kind"] == "token", "it is nobody who is kept here"
    stolen, now = token(issuer), int(time.time())
    head, body, _ = stolen.split(".")
    for wrong in (
        token(issuer, aud="another"),
        token(issuer, iss="https://another.example"),
        token(issuer, exp=now - 3600),
        token(issuer, nbf=now + 3600),
        f"{head}.{body}.{token(issuer, sub='eve').split('.')[2]}",
    ):
        answer = whoami(program, wrong)
        assert (answer.status_code, "ada@" in answer.text) == (401, False), answer.text

    issuer.key, issuer.alg = (
        OKPKey.generate_key("Ed25519", {"kid": "two", "alg": "Ed25519"}),
        ("Ed25519"),
    )
    issuer.published = [issuer.key]
    # Whoever asks too soon is told that the key is not known; then it is looked for.
    wait_until(lambda: whoami(program, token(issuer)).status_code == 200, what="the new key")
    assert whoami(program, stolen).status_code == 401  # its key left the set
    assert whoami(program, token(issuer)).json()["subject"] == first.json()["subject"]


def test_a_set_without_keys_ends_them_all_and_is_told_of(
    program: Program, issuer: FakeProvider
) -> None:
    published, issuer.published = issuer.published, []
    asked = issuer.jwks_asked
    stranger = jwt.encode({"alg": "ES256", "kid": "three"}, {}, ECKey.generate_key("P-256"))
    try:
        # An unknown key makes it look, and what it finds is a set of none.
        wait_until(
            lambda: whoami(program, stranger).status_code == 401 and issuer.jwks_asked > asked,
            60,
            "a look at the keys",
        )
        wait_until(
            lambda: whoami(program, token(issuer)).json().get("code") == "jwks-empty",
            what="the end of the keys",
        )
        ready = httpx.get(f"{program.url}/ready", trust_env=False).json()
        assert ready["checks"]["token_keys"]["status"] == "degraded"
        assert "jwks.taken" in program.log.read_text(errors="replace")
    finally:
        issuer.published = published
    wait_until(lambda: whoami(program, token(issuer)).status_code == 200, 60, "the keys to be back")


def test_published_keys_without_an_issuer_or_tls_open_nothing(tmp_path: Path) -> None:
    for url, code in (("https://keys.example", "issuer"), ("http://keys.example", "TLS")):
        more = {} if code == "issuer" else {"HOLDFAST_IDENTITY_JWT_ISSUER": "https://x.example"}
        more |= {"HOLDFAST_IDENTITY_JWT_AUDIENCE": "holdfast", "HOLDFAST_IDENTITY_JWKS_URL": url}
        found = run_command(
            "serve", "gateway", "--port", "0", "--data-dir", str(tmp_path / code), environment=more
        )
        assert found.returncode != 0
        assert code in found.stderr
