"""What the door knows of the routes of roles elsewhere is what these routes say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, resolve
from holdfast.gateway.proxy import LARGE_BODIES, PUBLIC, body_limit, role_of
from holdfast.kernel.http.routes import BODY_BYTES, RouteRules, rules_of
from holdfast.kernel.principal import Permission
from holdfast.records.wire import GRANT_HEADER

OWN = {"/v1/login", "/v1/overview", "/v1/whoami", "/v1/subjects"}
"""What the door answers itself, wherever the roles are; and all below the first and the last."""


@pytest.fixture
async def routes(tmp_path: Path) -> list[RouteRules]:
    """The routes of every role."""
    settings = resolve({}, {"data_dir": str(tmp_path), "log_level": "error"})
    async with open_system(settings, ROLES) as system:
        assert system.app is not None
        return rules_of(system.app)


@pytest.fixture
def elsewhere(routes: list[RouteRules]) -> list[RouteRules]:
    """The routes that a door may have to pass on."""
    return [rules for rules in routes if role_of(rules.path)]


async def test_the_door_knows_whose_every_route_is(routes: list[RouteRules]) -> None:
    """A route that it does not know is answered in one process and not found in several."""
    unknown = {r.path for r in routes if r.path.startswith("/v1/") and not role_of(r.path)}
    below = ("/v1/login/", "/v1/subjects/")
    assert {path for path in unknown if not path.startswith(below)} == OWN


async def test_the_door_takes_what_the_route_takes(elsewhere: list[RouteRules]) -> None:
    wrong = {
        f"{rules.method} {rules.path}": rules.body_limit
        for rules in elsewhere
        if body_limit(rules.method, re.sub(r"{[^}]*}", "x", rules.path)) != rules.body_limit
    }
    assert wrong == {}
    own = [rules for rules in elsewhere if rules.body_limit != BODY_BYTES]
    assert len(own) == len(LARGE_BODIES)


async def test_the_door_asks_of_who_sends_a_large_body_what_the_route_asks(
    elsewhere: list[RouteRules],
) -> None:
    own = {
        (r.method, re.sub(r":[a-z]+}", "}", r.path)): (
            r.permission,
            any(each.name == GRANT_HEADER.lower() for each in r.arguments),
        )
        for r in elsewhere
        if r.body_limit != BODY_BYTES
    }
    assert own == {(r.method, r.path): (r.permission, r.granted) for r in LARGE_BODIES}


async def test_the_door_passes_nobody_on_to_public_routes_only(
    elsewhere: list[RouteRules],
) -> None:
    public = {(r.method, r.path) for r in elsewhere if r.permission is Permission.PUBLIC}
    assert public == PUBLIC


def test_a_path_of_another_shape_has_the_common_limit() -> None:
    assert body_limit("PUT", "/v1/runs/a/responses/1") > BODY_BYTES
    for path in ("/v1/runs/a/responses", "/v1/runs/a/responses/1/2", "/v1/runs//x/responses/1"):
        assert body_limit("PUT", path) == BODY_BYTES
    assert body_limit("GET", "/v1/batches") == BODY_BYTES
