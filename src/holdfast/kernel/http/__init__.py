"""HTTP plumbing: routes, problem details, paging, and the client that speaks to them.

Names load when first used: a drone imports :mod:`holdfast.kernel.http.client` from the base
install, where there is no Litestar.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.kernel.http.app import (
        App,
        AppSpec,
        Authenticator,
        Check,
        Connection,
        create_app,
    )
    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.http.paging import Page, decode_cursor, encode_cursor
    from holdfast.kernel.http.problems import ProblemDocument
    from holdfast.kernel.http.routes import (
        ApiRequest,
        RouteInfo,
        delete,
        get,
        patch,
        post,
        put,
        routes_of,
    )

_HOME = {
    "App": "app",
    "AppSpec": "app",
    "Authenticator": "app",
    "Check": "app",
    "Connection": "app",
    "create_app": "app",
    "ApiClient": "client",
    "Page": "paging",
    "decode_cursor": "paging",
    "encode_cursor": "paging",
    "ProblemDocument": "problems",
    "ApiRequest": "routes",
    "RouteInfo": "routes",
    "delete": "routes",
    "get": "routes",
    "patch": "routes",
    "post": "routes",
    "put": "routes",
    "routes_of": "routes",
}

__all__ = [
    "ApiClient",
    "ApiRequest",
    "App",
    "AppSpec",
    "Authenticator",
    "Check",
    "Connection",
    "Page",
    "ProblemDocument",
    "RouteInfo",
    "create_app",
    "decode_cursor",
    "delete",
    "encode_cursor",
    "get",
    "patch",
    "post",
    "put",
    "routes_of",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
