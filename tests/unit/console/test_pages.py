"""Who is shown which page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from holdfast.console import Overview, ServiceLine, handlers, refused_page
from holdfast.console.http import render
from holdfast.console.overview import ReportLine
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

VIEWER = Principal(
    TenantId("default"), "somebody", PrincipalKind.KEY, frozenset({Permission.SYSTEM_READ})
)


class Source:
    """Has little to tell."""

    def __init__(self, **told: Any) -> None:
        self._told = told

    async def overview(self, principal: Principal) -> Overview:
        little: dict[str, Any] = {
            "status": "ok",
            "version": "0",
            "services": [],
            "profiles": [],
            "workers": [],
            "runs": [],
            "reports": [],
            "problems": [],
        }
        return Overview(**{**little, **self._told})


async def page(
    who: Principal | None, at: str = "/", accept: str = "text/html", **told: Any
) -> httpx.Response:
    async def authenticate(_: Any) -> Principal:
        if who is None:
            raise Unauthenticated("cannot do this: nobody is signed in")
        return who

    given: Any = authenticate
    app = create_app(
        AppSpec(
            role="gateway",
            version="0",
            handlers=handlers(Source(**told), given, given),
            authenticate=authenticate,
            page=refused_page,
        )
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(at, headers={"accept": accept})


async def test_the_overview_is_for_who_may_see_it() -> None:
    found = await page(VIEWER)
    assert found.status_code == 200
    assert "What is running" in found.text


async def test_what_no_role_tells_is_not_said_to_be_nothing() -> None:
    away = [ServiceLine(name=role, status="unreachable") for role in ("registry", "aggregator")]
    told = await page(
        VIEWER, status="degraded", services=away, problems=["<b>rain</b> has changed its shape"]
    )
    for said in ("No profiles yet", "No runs yet", "0 records", "0 sources"):
        assert said not in told.text
    for said in (
        "profiles not known: the registry is unreachable",
        "runs not known: the aggregator is unreachable",
        "&lt;b&gt;rain&lt;/b&gt; has changed its shape",
    ):
        assert said in told.text
    nothing = await page(VIEWER, total_profiles=0, total_records=0)
    for said in ("No profiles yet", "No runs yet", "0 records from 0 sources"):
        assert said in nothing.text


async def test_a_report_that_cannot_be_drawn_has_no_picture() -> None:
    lines = [
        ReportLine(id=kind, title=kind, created_at="2026-01-01T00:00:00Z", chart=kind)
        for kind in ("none", "line")
    ]
    told = await page(VIEWER, reports=lines)
    assert "/v1/reports/line/chart.png" in told.text
    assert "/v1/reports/none/chart.png" not in told.text


@pytest.mark.parametrize(
    ("who", "place"),
    [
        (None, "/login"),
        (replace(VIEWER, permissions=frozenset({Permission.PROFILES_READ})), "/account"),
        (replace(VIEWER, profiles=frozenset({"rain"})), "/account"),
    ],
)
async def test_others_are_sent_where_they_belong(who: Principal | None, place: str) -> None:
    found = await page(who)
    assert (found.status_code, found.headers["location"], found.text) == (303, place, "")


@pytest.mark.parametrize("more", [None, "a position"])
def test_a_list_that_is_cut_says_so(more: str | None) -> None:
    people = render(
        "people.html", csrf="", me="", roles=[], people=[], invitations=[], more_people=more,
        more_invited=more,
    )  # fmt: skip
    account = render(
        "account.html", csrf="", person=False, passkeys=[], accounts=[], sessions=[],
        more_sessions=more,
    )  # fmt: skip
    cut = more is not None
    assert (b"person list" in people, b"person invitations" in people) == (cut, cut)
    assert (b"there are more" in account) == cut


async def test_a_page_that_is_none_or_not_for_whoever_asks_is_told_as_a_page() -> None:
    none = await page(VIEWER, at="/<b>nowhere", accept="text/html,*/*;q=0.8")
    theirs = await page(VIEWER, at="/people")
    for found, status, said in (
        (none, 404, "There is no such page"),
        (theirs, 403, "identity:read is missing"),
    ):
        assert (found.status_code, said in found.text) == (status, True), found.text
        assert "script-src 'self'" in found.headers["content-security-policy"]
        assert found.headers["content-type"] == "text/html; charset=utf-8"
        assert "<b>nowhere" not in found.text
    for at, accept in (("/nowhere", "*/*"), ("/v1/nowhere", "text/html")):
        plain = await page(VIEWER, at=at, accept=accept)
        assert plain.headers["content-type"] == "application/problem+json"
        assert plain.json()["code"] == "route-not-found"


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        ("/login", "text/html; charset=utf-8"),
        ("/static/console.css", "text/css; charset=utf-8"),
        ("/static/login.js", "text/javascript; charset=utf-8"),
        ("/static/mark.svg", "image/svg+xml"),
    ],
)
async def test_what_a_page_is_written_in_is_said_once(at: str, kind: str) -> None:
    assert (await page(None, at=at)).headers["content-type"] == kind
