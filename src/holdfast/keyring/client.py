"""Keys and subjects over HTTP, for commands and for roles in another process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.keyring.model import (
    Checked,
    Erased,
    EraseRequest,
    KeyringInfo,
    KeysHandled,
    LookRequest,
    Placed,
    RetainRequest,
    Rewrapped,
    Rotation,
    Standing,
    SubjectRequest,
    Subjects,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.principal import Principal

CHECK_SECONDS = 600.0
ERASE_SECONDS = 600.0
LOOK_SECONDS = 30.0


class KeysClient:
    """The operator's key commands."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def describe(self) -> KeyringInfo:
        """See :meth:`holdfast.keyring.Keyring.describe`."""
        return await self._api.request("GET", "/v1/keys", type=KeyringInfo)

    async def check(self) -> Checked:
        """See :meth:`holdfast.keyring.Keyring.check`."""
        return await self._api.request(
            "POST", "/v1/keys/check", type=Checked, timeout_seconds=CHECK_SECONDS
        )

    async def rotate(self, *, master: bool) -> Rotation:
        """A new version of the tenant's keys or of the master key."""
        return await self._api.request(
            "POST", "/v1/keys/rotate", type=Rotation, params={"master": master}
        )

    async def handled(self, handled: KeysHandled) -> None:
        """See :meth:`holdfast.keyring.noting.KeyNotes.handled`."""
        await self._api.request("POST", "/v1/keys/handled", json=handled)

    async def rewrap(self) -> Rewrapped:
        """See :meth:`holdfast.keyring.Keyring.rewrap`."""
        return await self._api.request("POST", "/v1/keys/rewrap", type=Rewrapped)


class SubjectsClient:
    """See :class:`holdfast.keyring.subjects.SubjectsService`; ``principal`` is not sent."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def list(self, principal: Principal | None = None) -> Subjects:
        """Restrictions and erasures."""
        del principal
        return await self._api.request("GET", "/v1/subjects", type=Subjects)

    async def look(self, principal: Principal | None, request: LookRequest) -> Sequence[Standing]:
        """How each keyring stands to a person."""
        del principal
        return await self._api.request(
            "POST",
            "/v1/subjects/look",
            type=list[Standing],
            json=request,
            timeout_seconds=LOOK_SECONDS,
        )

    async def erase(self, principal: Principal | None, request: EraseRequest) -> Erased:
        """Erase a subject; repeating it is safe."""
        del principal
        return await self._api.request(
            "POST",
            "/v1/subjects/erase",
            type=Erased,
            json=request,
            timeout_seconds=ERASE_SECONDS,
        )

    async def hold(self, principal: Principal | None, request: SubjectRequest) -> Placed:
        """Place a legal hold."""
        del principal
        return await self._api.request("POST", "/v1/subjects/hold", type=Placed, json=request)

    async def release(self, principal: Principal | None, request: SubjectRequest) -> Subjects:
        """Release a legal hold."""
        del principal
        return await self._api.request("POST", "/v1/subjects/release", type=Subjects, json=request)

    async def retain(self, principal: Principal | None, request: RetainRequest) -> Placed:
        """Keep the subject's data until a time."""
        del principal
        return await self._api.request("POST", "/v1/subjects/retain", type=Placed, json=request)
