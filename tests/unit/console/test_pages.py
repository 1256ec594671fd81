"""Who is shown which page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from holdfast.console import Overview, handlers
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

VIEWER = Principal(
    TenantId("default"), "somebody", PrincipalKind.KEY, frozenset({Permission.SYSTEM_READ})
)


class Source:
    """Has little to tell."""

    async def overview(self, principal: Principal) -> Overview:
        return Overview(
            status="ok",
            version="0",
            services=[],
            profiles=[],
            workers=[],
            runs=[],
            reports=[],
            problems=[],
        )


async def page(who: Principal | None) -> httpx.Response:
    async def authenticate(_: Any) -> Principal:
        if who is None:
            raise Unauthenticated("cannot do this: nobody is signed in")
        return who

    given: Any = authenticate
    app = create_app(
        AppSpec(
            role="gateway",
            version="0",
            handlers=handlers(Source(), given, given),
            authenticate=authenticate,
        )
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get("/")


async def test_the_overview_is_for_who_may_see_it() -> None:
    found = await page(VIEWER)
    assert found.status_code == 200
    assert "What is running" in found.text


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
