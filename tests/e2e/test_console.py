"""The page, as a person's browser sees it: the login link, the overview, signing out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.program import Program, run_command, started, wait_until

BROWSER = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program that has collected the sample and goes on."""
    path = tmp_path_factory.mktemp("console") / "data"
    collected = run_command("up", "--sample", "--once", "--data-dir", str(path))
    assert collected.returncode == 0, collected.stderr
    with started(["up", "--sample", "--drones", "1", "--port", "0"], path) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("chromium is not installed: the pages are not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on(
        "console",
        lambda said: opened.problems.append(said.text) if said.type == "error" else None,
    )
    yield opened
    context.close()


def login_link(program: Program) -> str:
    made = run_command("login", "--data-dir", str(program.data_dir))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def session_cookie(page: Any) -> Any:
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "holdfast_session"]
    return cookie


def test_a_link_signs_in_once_and_the_page_shows_what_was_collected(
    program: Program, page: Any, tmp_path: Path
) -> None:
    link = login_link(program)
    page.goto(link)
    page.wait_for_selector("#running")
    assert "login" not in page.url
    text = page.inner_text("main")
    assert "22,258 records from 10 sources" in text
    for expected in ("Earthquakes of the past week, world", "coordinator", "drone-1", "replayed"):
        assert expected in text
    drawn = "[...document.images].every(i => i.complete && i.naturalWidth)"
    wait_until(lambda: page.evaluate(drawn), what="the charts")
    shot = Path(os.environ.get("HOLDFAST_TEST_SCREENSHOTS", tmp_path)) / "console.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    for width in (420, 330):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        hidden = "e => e.scrollWidth > e.clientWidth"
        assert not any(each.evaluate(hidden) for each in page.query_selector_all(".scroll"))
    assert page.problems == []
    page.context.clear_cookies()
    page.goto(link)
    page.wait_for_selector("text=was used")


def test_signing_out_ends_the_session(program: Program, page: Any) -> None:
    page.goto(login_link(program))
    page.wait_for_selector("#running")
    cookie = session_cookie(page)
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    page.click("text=Sign out")
    page.wait_for_url("**/login")
    answer = httpx.get(
        f"{program.url}/v1/overview", cookies={cookie["name"]: cookie["value"]}, trust_env=False
    )
    assert answer.status_code == 401


def test_a_stranger_sees_the_sign_in_page_and_no_data(program: Program, page: Any) -> None:
    page.goto(program.url)
    page.wait_for_selector("#message")
    assert "records" not in page.inner_text("main")
    assert httpx.get(f"{program.url}/v1/overview", trust_env=False).status_code == 401


def test_a_form_of_another_site_cannot_use_the_session(program: Program, page: Any) -> None:
    page.goto(login_link(program))
    page.wait_for_selector("#running")
    cookie = session_cookie(page)
    answer = httpx.post(
        f"{program.url}/v1/profiles/omb-receipts/pause",
        json={},
        cookies={cookie["name"]: cookie["value"]},
        headers={"Origin": "http://evil.test"},
        trust_env=False,
    )
    assert answer.status_code == 403
    without = httpx.post(
        f"{program.url}/v1/profiles/omb-receipts/pause",
        json={},
        cookies={cookie["name"]: cookie["value"]},
        trust_env=False,
    )
    assert without.status_code == 403


def with_authenticator(page: Any) -> Any:
    """The page's browser, with an authenticator that does what it is asked."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return devtools


def test_an_invited_administrator_comes_in_by_passkey_out_and_in_again(
    program: Program, page: Any, tmp_path: Path
) -> None:
    made = run_command(
        "person", "create-admin", "Ada Lovelace", "--data-dir", str(program.data_dir)
    )
    assert made.returncode == 0, made.stderr
    link = made.stdout.strip().replace("127.0.0.1", "localhost")
    with_authenticator(page)
    page.goto(link)
    page.wait_for_selector("#invited:not([hidden])")
    assert "Ada Lovelace" in page.inner_text("main")
    page.click("#accept")
    page.wait_for_url("**/account")
    page.wait_for_selector("text=this one")
    shots = Path(os.environ.get("HOLDFAST_TEST_SCREENSHOTS", tmp_path))
    page.screenshot(path=shots / "account.png", full_page=True)

    page.click("text=Sign out")
    page.wait_for_url("**/login")
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r) if r.url.endswith("/v1/login/passkey") else None)
    page.click("#passkey")
    page.wait_for_selector("#running")
    page.click("a[href='/people']")
    page.wait_for_selector("text=Ada Lovelace")
    page.screenshot(path=shots / "people.png", full_page=True)

    # What went over the wire signs nobody in a second time.
    origin = {"Origin": program.url}
    answer = httpx.post(
        f"{program.url}/v1/login/passkey", json=sent[0].post_data_json, headers=origin,
        trust_env=False,
    )  # fmt: skip
    assert (answer.status_code, answer.json()["code"]) == (401, "ceremony-over")

    # She invites somebody, and ends every other session of hers.
    page.fill("#invite-name", "Grace <b>Hopper</b>")
    page.click("#invite")
    page.wait_for_selector("#made:not([hidden])")
    assert "/invitation#hfi_" in page.inner_text("#link")
    page.click("a[href='/account']")
    page.click("text=End all but this one")
    page.wait_for_selector("text=this one")
    assert page.problems == []

    people = run_command("person", "list", "--json", "--data-dir", str(program.data_dir))
    (ada,) = [p for p in json.loads(people.stdout)["items"] if p["name"] == "Ada Lovelace"]
    ended = run_command("person", "disable", ada["id"], "--data-dir", str(program.data_dir))
    assert ended.returncode == 0, ended.stderr
    cookie = session_cookie(page)

    def refused() -> bool:
        jar = {cookie["name"]: cookie["value"]}
        return (
            httpx.get(f"{program.url}/v1/whoami", cookies=jar, trust_env=False).status_code == 401
        )

    wait_until(refused, what="the session's end")
    page.goto(f"{program.url.replace('127.0.0.1', 'localhost')}/login")
    page.click("#passkey")
    page.wait_for_selector("text=was not accepted")


def test_who_lost_a_device_is_shut_out_at_once_and_comes_back_by_the_link_shown(
    program: Program, browser: Any, page: Any
) -> None:
    named = ("Jean Bartik", "--role", "viewer", "--data-dir", str(program.data_dir))
    made = run_command("person", "invite", *named)
    assert made.returncode == 0, made.stderr
    stolen = browser.new_context().new_page()  # with her passkey, and signed in
    with_authenticator(stolen)
    stolen.goto(made.stdout.strip().replace("127.0.0.1", "localhost"))
    stolen.click("#accept")
    stolen.wait_for_url("**/account")
    stolen.wait_for_selector("text=this one")
    cookie = session_cookie(stolen)

    page.goto(login_link(program))
    page.wait_for_selector("#running")
    page.click("a[href='/people']")
    asked: list[str] = []
    row = page.locator("tr", has_text="Jean Bartik").filter(has_text="Device stolen")
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    row.get_by_text("Device stolen").click()
    jar = {cookie["name"]: cookie["value"]}
    whoami = f"{program.url}/v1/whoami"
    assert httpx.get(whoami, cookies=jar, trust_env=False).status_code == 200, "she said no"
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    row.get_by_text("Device stolen").click()
    page.wait_for_selector("#made:not([hidden])")
    assert asked == ["End every passkey and session of theirs?"] * 2
    link = page.inner_text("#link").replace("127.0.0.1", "localhost")
    assert page.problems == []

    wait_until(
        lambda: httpx.get(whoami, cookies=jar, trust_env=False).status_code == 401,
        what="the session's end",
    )
    stolen.goto(f"{program.url.replace('127.0.0.1', 'localhost')}/login")
    stolen.click("#passkey")
    stolen.wait_for_selector("text=was not accepted")
    stolen.context.close()

    mine = browser.new_context().new_page()
    with_authenticator(mine)
    mine.goto(link)
    mine.click("#accept")
    mine.wait_for_url("**/account")
    mine.wait_for_selector("text=this one")
    mine.context.close()


def test_a_page_without_the_csrf_token_writes_nothing(program: Program, page: Any) -> None:
    page.goto(login_link(program))
    page.wait_for_selector("#running")
    write = """async (token) => (await fetch("/v1/sessions/end", {method: "POST", body: "{}",
        headers: {"Content-Type": "application/json", ...token}})).status"""
    assert page.evaluate(write, {}) == 403
    assert page.evaluate(write, {"X-CSRF-Token": "0" * 64}) == 403
    page.goto(f"{program.url}/account")
    page.wait_for_selector("#sessions")
    page.click("text=End all but this one")
    page.wait_for_selector("text=this one")


def test_the_page_asks_for_nothing_unsafe(program: Program) -> None:
    answer = httpx.get(f"{program.url}/login", trust_env=False)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
