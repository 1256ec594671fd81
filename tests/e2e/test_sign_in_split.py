"""Signing in where the door and whoever knows people are processes of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.test_console import browser, page, session_cookie, with_authenticator
from tests.e2e.test_sign_in_oauth import provider
from tests.support.program import run_command, wait_until
from tests.support.stack import Stack

__all__ = ["browser", "page", "provider"]
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, provider: str) -> Iterator[Stack]:
    """A gateway and the identity role; nothing else is asked here."""
    base = tmp_path_factory.mktemp("sign-in-split")
    (base / "profiles").mkdir()
    environment = {
        "HOLDFAST_IDENTITY_OAUTH_PROVIDER": "oidc",
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_ID": "holdfast",
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET": "a secret of the client",
        "HOLDFAST_IDENTITY_ADMIN_USERS": "boss@example.org",
        "HOLDFAST_IDENTITY_OAUTH_ISSUER": provider,
        "HOLDFAST_IDENTITY_OAUTH_ALLOW": urlsplit(provider).netloc,
    }
    made = Stack(
        base, "split", base / "replay.json", base / "profiles", drones=0, environment=environment
    )
    try:
        for part in made.served:
            made.port(part)
        made.start_role("identity")
        made.start_role("gateway")
        yield made
    finally:
        made.stop()


def here(stack: Stack) -> str:
    return stack.door.url.replace("127.0.0.1", "localhost")


def command(stack: Stack, *words: str) -> Any:
    done = run_command(*words, "--json", "--data-dir", str(stack.door.data_dir))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def known(stack: Stack, page: Any) -> int:
    cookie = session_cookie(page)
    jar = {cookie["name"]: cookie["value"]}
    return httpx.get(f"{stack.door.url}/v1/whoami", cookies=jar, trust_env=False).status_code


def test_somebody_invited_comes_in_by_passkey_out_and_in_again(stack: Stack, page: Any) -> None:
    made = command(stack, "person", "invite", "Ada Lovelace", "--role", "admin")
    with_authenticator(page)
    page.goto(made["url"].replace("127.0.0.1", "localhost"))
    page.wait_for_selector("#invited:not([hidden])")
    assert "Ada Lovelace" in page.inner_text("main")
    page.click("#accept")
    page.wait_for_url("**/account")
    page.wait_for_selector("text=this one")
    assert known(stack, page) == 200

    # A door and an identity role that were killed know the session still.
    for part in ("identity", "gateway"):
        stack.kill(part)
        stack.start_role(part)
    page.goto(f"{here(stack)}/account")
    page.wait_for_selector("text=this one")

    page.click("text=Sign out")
    page.wait_for_url("**/login")
    page.click("#passkey")
    page.wait_for_url(f"{here(stack)}/")
    page.goto(f"{here(stack)}/people")
    page.wait_for_selector("text=Ada Lovelace")

    people = command(stack, "person", "list")["items"]
    [ada] = [p for p in people if p["name"] == "Ada Lovelace"]
    command(stack, "person", "disable", ada["id"])
    wait_until(lambda: known(stack, page) == 401, what="the session's end")
    page.goto(f"{here(stack)}/login")
    page.click("#passkey")
    page.wait_for_selector("text=was not accepted")


def test_a_named_administrator_comes_in_by_a_provider_and_a_stranger_does_not(
    stack: Stack, page: Any
) -> None:
    for subject, found in (("eve", "text=nobody invited this account"), ("boss", "")):
        page.goto(f"{here(stack)}/login")
        page.click("text=Continue with localhost")
        page.fill("input[name=sub]", subject)
        page.click("button[type=submit] >> nth=0")
        if found:
            page.wait_for_selector(found)
            assert [c for c in page.context.cookies() if c["name"] == "holdfast_session"] == []
    page.wait_for_url(f"{here(stack)}/")
    page.goto(f"{here(stack)}/people")
    page.wait_for_selector("text=The Boss")
    assert known(stack, page) == 200
    for part in stack.running.values():
        assert "a secret of the client" not in part.log.read_text(errors="replace")
