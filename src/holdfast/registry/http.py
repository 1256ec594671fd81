"""The registry's routes: parse, call, map. Whoever works is allowed to read; writing needs
``profiles:write``."""

from __future__ import annotations

from typing import Any

from litestar import Response

from holdfast.kernel.errors import Invalid
from holdfast.kernel.http import ApiRequest, Page, get, post, put
from holdfast.kernel.http.paging import Limit
from holdfast.kernel.principal import Permission, Principal
from holdfast.registry.document import DOCUMENT_BYTES_MAX
from holdfast.registry.schema import profile_schema
from holdfast.registry.service import RegistryService
from holdfast.registry.versions import (
    OverridesChange,
    ProfileCount,
    ProfileDiff,
    ProfileEvent,
    ProfileStatus,
    ProfileVersion,
    ProfileVersionInfo,
    PublishResult,
    RunnableSet,
)

READ, WRITE = Permission.PROFILES_READ, Permission.PROFILES_WRITE


def handlers(service: RegistryService) -> list[Any]:
    """Every route of the registry."""
    return [*_writing(service), *_reading(service), *_versions(service)]


def _writing(service: RegistryService) -> list[Any]:
    @post(
        "/v1/profiles",
        permission=WRITE,
        accepts=("application/yaml", "application/x-yaml", "text/yaml", "application/json"),
        body_limit=DOCUMENT_BYTES_MAX,
        status=200,
    )
    async def publish_profile(
        request: ApiRequest, principal: Principal, dry_run: bool = False
    ) -> Response[PublishResult]:
        """Publish a profile, or with dry_run say what publishing would do."""
        result = await service.publish(
            principal,
            await request.body(),
            media_type=request.headers.get("content-type", "application/yaml"),
            dry_run=dry_run,
            expected=_expected_digest(request),
            idempotency_key=request.headers.get("idempotency-key", ""),
        )
        return _tagged(result, result.version.digest)

    @put("/v1/profiles/{name:str}/overrides", permission=WRITE, profile="name")
    async def override_profile(
        request: ApiRequest, principal: Principal, name: str, data: OverridesChange
    ) -> Response[ProfileStatus]:
        """Override a profile's schedule and limits; a member left out stays, null clears it."""
        status = await service.override(principal, name, data, expected=_expected_revision(request))
        return _tagged(status, status.revision)

    @post("/v1/profiles/{name:str}/pause", permission=WRITE, status=200, profile="name")
    async def pause_profile(
        request: ApiRequest, principal: Principal, name: str
    ) -> Response[ProfileStatus]:
        """Keep a profile from being run until it is resumed."""
        status = await service.pause(principal, name, expected=_expected_revision(request))
        return _tagged(status, status.revision)

    @post("/v1/profiles/{name:str}/resume", permission=WRITE, status=200, profile="name")
    async def resume_profile(
        request: ApiRequest, principal: Principal, name: str
    ) -> Response[ProfileStatus]:
        """Let a paused profile run again."""
        status = await service.resume(principal, name, expected=_expected_revision(request))
        return _tagged(status, status.revision)

    return [publish_profile, override_profile, pause_profile, resume_profile]


def _reading(service: RegistryService) -> list[Any]:
    @get("/v1/profiles", permission=READ, within=True)
    async def list_profiles(
        principal: Principal, cursor: str | None = None, limit: Limit = 100
    ) -> Page[ProfileStatus]:
        """List profiles by name, with what is wrong with the newest file of each."""
        return await service.list(principal, cursor=cursor, limit=limit)

    @get("/v1/profiles/all/count", permission=READ, within=True)
    async def count_profiles(principal: Principal) -> ProfileCount:
        """Count the profiles that the list has."""
        return ProfileCount(profiles=await service.count(principal))

    @get("/v1/profiles/runnable", permission=READ)
    async def list_runnable_profiles(
        request: ApiRequest, principal: Principal
    ) -> Response[RunnableSet | None]:
        """List every profile that may run, with its schedule and limits in force."""
        unless = request.headers.get("if-none-match", "").strip().removeprefix("W/").strip('"')
        found = await service.runnable(principal, unless=unless)
        if found is None:
            return Response(None, status_code=304, headers={"ETag": f'"{unless}"'})
        return _tagged(found, found.etag)

    @get("/v1/profiles/schema", permission=READ)
    async def profile_json_schema(principal: Principal) -> dict[str, Any]:
        """The JSON Schema of a profile."""
        return profile_schema()

    @get("/v1/profiles/{name:str}", permission=READ, profile="name")
    async def show_profile(principal: Principal, name: str) -> Response[ProfileVersion]:
        """Show the version of a profile that runs."""
        version = await service.show(principal, name)
        return _tagged(version, version.digest)

    @get("/v1/profiles/{name:str}/status", permission=READ, profile="name")
    async def show_profile_status(principal: Principal, name: str) -> Response[ProfileStatus]:
        """Show what a profile's head says: version, overrides, problem."""
        status = await service.status(principal, name)
        return _tagged(status, status.revision)

    return [
        list_profiles,
        count_profiles,
        list_runnable_profiles,
        profile_json_schema,
        show_profile,
        show_profile_status,
    ]


def _versions(service: RegistryService) -> list[Any]:
    @get("/v1/profiles/{name:str}/versions", permission=READ, profile="name")
    async def list_profile_versions(
        principal: Principal, name: str, cursor: str | None = None, limit: Limit = 100
    ) -> Page[ProfileVersionInfo]:
        """List every version of a profile, newest first."""
        return await service.versions(principal, name, cursor=cursor, limit=limit)

    @get("/v1/profiles/{name:str}/versions/{digest:str}", permission=READ, profile="name")
    async def show_profile_version(
        principal: Principal, name: str, digest: str
    ) -> Response[ProfileVersion]:
        """Show one version of a profile; it never changes."""
        version = await service.show(principal, name, digest)
        answer = _tagged(version, version.digest)
        answer.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return answer

    @get("/v1/profiles/{name:str}/history", permission=READ, profile="name")
    async def list_profile_history(
        principal: Principal, name: str, cursor: str | None = None, limit: Limit = 100
    ) -> Page[ProfileEvent]:
        """List what happened to a profile, newest first, with the events."""
        return await service.history(principal, name, cursor=cursor, limit=limit)

    @get("/v1/profiles/{name:str}/diff", permission=READ, profile="name")
    async def diff_profile(
        principal: Principal, name: str, before: str, after: str | None = None
    ) -> ProfileDiff:
        """Compare two versions of a profile; without after, with the one that runs."""
        return await service.diff(principal, name, before, after)

    return [list_profile_versions, show_profile_version, list_profile_history, diff_profile]


def _tagged(content: Any, tag: object) -> Response[Any]:
    return Response(content, headers={"ETag": f'"{tag}"'})


def _expected_digest(request: ApiRequest) -> str | None:
    """What ``If-Match`` or ``If-None-Match: *`` demand of the version that runs."""
    if request.headers.get("if-none-match", "").strip() == "*":
        return ""
    match = request.headers.get("if-match", "").strip()
    return match.strip('"') if match and match != "*" else None


def _expected_revision(request: ApiRequest) -> int | None:
    match = request.headers.get("if-match", "").strip().strip('"')
    if not match or match == "*":
        return None
    if not match.isdecimal() or len(match) > 15:
        raise Invalid(
            f"cannot use If-Match {match[:40]!r}: it is not the ETag of a profile's status"
        )
    return int(match)
