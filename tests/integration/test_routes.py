"""Every route of every role says what it needs; what needs nobody is on a list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, resolve
from holdfast.kernel.http.routes import RULES, RouteRules
from holdfast.kernel.principal import Permission

OPEN = {
    "GET /", "GET /account", "GET /people", "GET /favicon.ico", "GET /health", "GET /invitation",
    "GET /login", "GET /login/oauth/{provider:str}", "GET /login/oauth/{provider:str}/callback",
    "GET /ready", "GET /static/{name:str}", "POST /v1/login", "POST /v1/login/invitation",
    "POST /v1/login/invitation/options", "POST /v1/login/invitation/passkey",
    "POST /v1/login/oauth", "POST /v1/login/passkey", "POST /v1/login/passkey/options",
    "POST /v1/workers/register",
}  # fmt: skip
"""At a public door: signing in, the pages (which send whoever is not signed in there), a worker's
registration by its join token, and probes. Whoever adds to it says why that is for everybody."""
OPEN_AT_ROLES = {"GET /metrics", "GET /health/detailed"}
"""Where only roles and those who watch them come."""


@pytest.mark.parametrize("roles", [ROLES, *([role] for role in ROLES)], ids="+".join)
async def test_every_route_says_what_it_needs_and_few_need_nobody(
    roles: Iterable[str], tmp_path: Path
) -> None:
    settings = resolve({}, {"data_dir": str(tmp_path)})
    async with open_system(settings, list(roles)) as system:
        assert system.app is not None
        found: set[str] = set()
        for route in system.app.routes:
            for handler in getattr(route, "route_handlers", None) or [route.route_handler]:
                if handler.http_methods == {"OPTIONS"}:
                    continue
                rules: RouteRules = handler.opt[RULES]
                assert isinstance(rules.permission, Permission)
                if rules.permission is Permission.PUBLIC:
                    found.add(f"{rules.method} {rules.path}")
    inside = set() if "gateway" in roles else OPEN_AT_ROLES
    assert found <= OPEN | inside, sorted(found - OPEN - inside)
