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
        create_app,
    )
    from holdfast.kernel.http.client import (
        ApiClient,
    )
    from holdfast.kernel.http.conditional import (
        PreconditionFailed,
        etag,
        expected_version,
        not_modified,
        require_version,
    )
    from holdfast.kernel.http.openapi import (
        openapi_document,
    )
    from holdfast.kernel.http.paging import (
        Page,
        decode_cursor,
        encode_cursor,
    )
    from holdfast.kernel.http.problems import (
        ProblemDocument,
    )
    from holdfast.kernel.http.routes import (
        ApiRequest,
        Connection,
        Header,
        RouteInfo,
        delete,
        get,
        patch,
        post,
        put,
        routes_of,
    )
    from holdfast.kernel.http.streaming import (
        LiveEvent,
        events_answer,
        file_answer,
        ndjson_answer,
        stopping,
        stream_answer,
    )

_HOME = {
    "App": "app",
    "AppSpec": "app",
    "Authenticator": "app",
    "Check": "app",
    "create_app": "app",
    "ApiClient": "client",
    "PreconditionFailed": "conditional",
    "etag": "conditional",
    "expected_version": "conditional",
    "not_modified": "conditional",
    "require_version": "conditional",
    "openapi_document": "openapi",
    "Page": "paging",
    "decode_cursor": "paging",
    "encode_cursor": "paging",
    "ProblemDocument": "problems",
    "ApiRequest": "routes",
    "Connection": "routes",
    "Header": "routes",
    "RouteInfo": "routes",
    "delete": "routes",
    "get": "routes",
    "patch": "routes",
    "post": "routes",
    "put": "routes",
    "routes_of": "routes",
    "LiveEvent": "streaming",
    "events_answer": "streaming",
    "file_answer": "streaming",
    "ndjson_answer": "streaming",
    "stopping": "streaming",
    "stream_answer": "streaming",
}

__all__ = [
    "ApiClient",
    "ApiRequest",
    "App",
    "AppSpec",
    "Authenticator",
    "Check",
    "Connection",
    "Header",
    "LiveEvent",
    "Page",
    "PreconditionFailed",
    "ProblemDocument",
    "RouteInfo",
    "create_app",
    "decode_cursor",
    "delete",
    "encode_cursor",
    "etag",
    "events_answer",
    "expected_version",
    "file_answer",
    "get",
    "ndjson_answer",
    "not_modified",
    "openapi_document",
    "patch",
    "post",
    "put",
    "require_version",
    "routes_of",
    "stopping",
    "stream_answer",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
