"""The registry over HTTP: the same methods as the service, for roles that run elsewhere."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from holdfast.kernel.canonical import digest as digest_of
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.ids import is_name
from holdfast.kernel.principal import Principal
from holdfast.registry.errors import ProfileUnknown
from holdfast.registry.model import Profile, canonical_profile
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


class RegistryClient:
    """What :class:`RegistryService` promises, over an :class:`ApiClient`.

    ``principal`` is for the signature's sake: who asks is who the client's token says.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def publish(
        self,
        principal: Principal,
        document: bytes | Profile,
        *,
        media_type: str = "application/yaml",
        dry_run: bool = False,
        expected: str | None = None,
        idempotency_key: str = "",
    ) -> PublishResult:
        """See :meth:`RegistryService.publish`."""
        if isinstance(document, Profile):
            document, media_type = canonical_profile(document), "application/json"
        headers = {"Content-Type": media_type}
        if expected == "":
            headers["If-None-Match"] = "*"
        elif expected is not None:
            headers["If-Match"] = f'"{expected}"'
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        return await self._api.request(
            "POST",
            "/v1/profiles",
            content=document,
            params={"dry_run": True if dry_run else None},
            headers=headers,
            type=PublishResult,
        )

    async def pause(
        self, principal: Principal, name: str, *, expected: int | None = None
    ) -> ProfileStatus:
        """See :meth:`RegistryService.pause`."""
        return await self._change("POST", f"{_at(name)}/pause", expected, {})

    async def resume(
        self, principal: Principal, name: str, *, expected: int | None = None
    ) -> ProfileStatus:
        """See :meth:`RegistryService.resume`."""
        return await self._change("POST", f"{_at(name)}/resume", expected, {})

    async def override(
        self,
        principal: Principal,
        name: str,
        change: OverridesChange,
        *,
        expected: int | None = None,
    ) -> ProfileStatus:
        """See :meth:`RegistryService.override`."""
        return await self._change("PUT", f"{_at(name)}/overrides", expected, change)

    async def _change(
        self, method: str, path: str, expected: int | None, body: object
    ) -> ProfileStatus:
        headers = {} if expected is None else {"If-Match": f'"{expected}"'}
        return await self._api.request(method, path, json=body, headers=headers, type=ProfileStatus)

    async def list(
        self, principal: Principal, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileStatus]:
        """See :meth:`RegistryService.list`."""
        return await self._api.request(
            "GET",
            "/v1/profiles",
            params={"cursor": cursor, "limit": limit},
            type=Page[ProfileStatus],
        )

    async def count(self, principal: Principal) -> int:
        """See :meth:`RegistryService.count`."""
        found = await self._api.request("GET", "/v1/profiles/all/count", type=ProfileCount)
        return found.profiles

    async def status(self, principal: Principal, name: str) -> ProfileStatus:
        """See :meth:`RegistryService.status`."""
        return await self._api.request("GET", f"{_at(name)}/status", type=ProfileStatus)

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        """See :meth:`RegistryService.show`. The digest is recomputed here: :class:`Corrupt` if what
        came is not the version it says it is."""
        path = f"{_at(name)}/versions/{quote(digest, safe=':')}" if digest else _at(name)
        version = await self._api.request("GET", path, type=ProfileVersion)
        if digest_of(canonical_profile(version.profile)) != version.digest or (
            digest and digest != version.digest
        ):
            raise Corrupt(f"cannot use the profile {name}: it has not the digest {version.digest}")
        return version

    async def versions(
        self, principal: Principal, name: str, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileVersionInfo]:
        """See :meth:`RegistryService.versions`."""
        return await self._api.request(
            "GET",
            f"{_at(name)}/versions",
            params={"cursor": cursor, "limit": limit},
            type=Page[ProfileVersionInfo],
        )

    async def history(
        self, principal: Principal, name: str, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileEvent]:
        """See :meth:`RegistryService.history`."""
        return await self._api.request(
            "GET",
            f"{_at(name)}/history",
            params={"cursor": cursor, "limit": limit},
            type=Page[ProfileEvent],
        )

    async def diff(
        self, principal: Principal, name: str, before: str, after: str | None = None
    ) -> ProfileDiff:
        """See :meth:`RegistryService.diff`."""
        return await self._api.request(
            "GET",
            f"{_at(name)}/diff",
            params={"before": before, "after": after},
            type=ProfileDiff,
        )

    async def runnable(self, principal: Principal, *, unless: str = "") -> RunnableSet | None:
        """See :meth:`RegistryService.runnable`."""
        headers = {"If-None-Match": f'"{unless}"'} if unless else {}
        async with self._api.stream("GET", "/v1/profiles/runnable", headers=headers) as response:
            if response.status_code == 304:
                return None
            body = await response.aread()
        try:
            return msgspec.json.decode(body, type=RunnableSet)
        except msgspec.DecodeError as error:
            raise Corrupt(
                "cannot read the list of runnable profiles", internal=str(error)
            ) from error


def _at(name: str) -> str:
    """The profile's address. What can be no name has none, and never becomes part of a path."""
    if not is_name(name):
        raise ProfileUnknown(f"cannot find the profile {name!r}")
    return f"/v1/profiles/{name}"
