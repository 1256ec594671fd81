"""Versions and keys that travel in headers: ``ETag``, ``If-Match``, ``Idempotency-Key``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.kernel.errors import Conflict, Invalid

if TYPE_CHECKING:
    from holdfast.kernel.http.routes import ApiRequest

_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_KEY = re.compile(r'"?([\x21\x23-\x5b\x5d-\x7e]{1,255})"?')


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


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes a repetition recognisable; for :func:`holdfast.kernel.idempotency.once`."""

    route: str
    key: str
    fingerprint: str


async def idempotency_key(request: ApiRequest) -> IdempotencyKey | None:
    """The caller's ``Idempotency-Key`` with a digest of what it asks; ``None`` if it sent none.

    The digest covers path, query and body: the same key with anything else is a conflict. Reads
    the body (within its limit). :class:`Invalid` when the header is not one key of 1-255 visible
    characters.
    """
    given = request.headers.getall("idempotency-key", [])
    if not given:
        return None
    match = _KEY.fullmatch(given[0].strip())
    if len(given) > 1 or match is None:
        raise Invalid(
            "cannot read Idempotency-Key: one key of 1-255 visible characters is needed",
            code="idempotency-key-invalid",
        )
    scope = request.scope
    asked = hashlib.sha256()
    for part in (scope["path"].encode(), scope.get("query_string", b""), await request.body()):
        asked.update(len(part).to_bytes(8, "big"))
        asked.update(part)
    route = f"{scope['method']} {scope['path_template']}"
    return IdempotencyKey(route, match[1], f"sha256:{asked.hexdigest()}")
