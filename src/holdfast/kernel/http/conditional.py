"""Versions that travel in headers: ``ETag``, ``If-Match``, ``If-None-Match``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from holdfast.kernel.errors import Conflict, Invalid

if TYPE_CHECKING:
    from holdfast.kernel.http.routes import ApiRequest

_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class PreconditionFailed(Conflict):
    """The thing is no longer in the version that the caller saw (412)."""

    code = "precondition-failed"


def etag(version: str | int) -> str:
    """The strong entity tag of a version."""
    return f'"{version}"'


def expected_version(request: ApiRequest) -> str | None:
    """The version that ``If-Match`` names; ``None`` when there is no such header, or ``*``.

    :class:`Invalid` when it is not one entity tag; weak tags never match (RFC 9110 §13.1.1).
    """
    given = request.headers.getall("if-match", [])
    if not given or given == ["*"]:
        return None
    match = _TAG.fullmatch(given[0].strip())
    if len(given) > 1 or match is None or given[0].strip().startswith("W/"):
        raise Invalid(
            "cannot read If-Match: it must be one strong entity tag", code="if-match-invalid"
        )
    return match[1]


def require_version(request: ApiRequest, current: str | int) -> None:
    """Raise :class:`PreconditionFailed` unless ``If-Match`` is absent or names ``current``."""
    expected = expected_version(request)
    if expected is not None and expected != str(current):
        raise PreconditionFailed(
            f"cannot change it: it is now in version {current}, not {expected}",
            hint="read it again and repeat the change on what it is now",
        )


def not_modified(request: ApiRequest, current: str | int) -> bool:
    """Whether the caller has this version already: ``If-None-Match`` names it, or is ``*``."""
    given = ",".join(request.headers.getall("if-none-match", []))
    return given.strip() == "*" or str(current) in _TAG.findall(given)
