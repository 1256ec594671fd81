"""Whether the objects that rows name are there, and whole: for backups, and for ``doctor``.

A raw response is sealed in frames bound to its stored name, so it tells by itself what was changed,
cut off or added. What is not sealed (a report's data; raw bytes from before there was a keyring)
must still have the digest that its stored name was made from.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import zstandard
from msgspec import Struct
from msgspec.structs import replace

from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, NotFound
from holdfast.kernel.http import get
from holdfast.kernel.principal import Permission, Principal, operators_only, service
from holdfast.keyring.model import RESPONSES, DataKey
from holdfast.keyring.stream import MAGIC, unsealed_stream
from holdfast.records.raw import expanded
from holdfast.records.store import named_objects, object_names
from holdfast.reports.store import NamedObjects

if TYPE_CHECKING:
    from holdfast.app.system import State

PAGE_MAX = 1000
BYTES_MAX = 64 * 1024 * 1024
"""One answer opens no more than this, or one object if that is larger."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class ObjectsChecked(Struct, frozen=True, kw_only=True):
    """What looking at objects found. ``next``, if any, goes on where this ended."""

    checked: int
    missing: list[str]
    damaged: list[str]
    next: str = ""


NOTHING = ObjectsChecked(checked=0, missing=[], damaged=[])


class ObjectChecks:
    """Looks for the objects that this process's rows name, and opens them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._reports = NamedObjects(state.objects)

    async def sample(self, most: int) -> ObjectsChecked:
        """Up to ``most`` of each tenant's raw responses, any of them."""
        names: list[tuple[Principal, str]] = []
        for tenant in await self._state.database.tenants():
            who = service("objects", tenant)
            names += [(who, name) for name in await self._names(who, "", most, anyhow=True)]
        return (await self._looked_at(names, BYTES_MAX))[0]

    async def page(self, after: str, limit: int) -> ObjectsChecked:
        """The next ``limit`` in order, of every tenant in turn; with a tenant's first its reports'.

        ``after`` is the ``next`` of the page before, or empty.
        """
        tenants = sorted(await self._state.database.tenants())
        tenant, _, last = after.partition(" ")
        left = [each for each in tenants if each >= tenant]
        if not left:
            return NOTHING
        who = service("objects", left[0])
        names = await self._names(who, last if left[0] == tenant else "", limit)
        found, stopped = await self._looked_at([(who, name) for name in names], BYTES_MAX)
        more = stopped or (names[-1] if len(names) == limit else "")
        if more:
            return replace(found, next=f"{left[0]} {more}")
        of_reports = [(who, name) for name in sorted(await self._of_reports(who))]
        other, _ = await self._looked_at(of_reports, None)
        return ObjectsChecked(
            checked=found.checked + other.checked,
            missing=found.missing + other.missing,
            damaged=found.damaged + other.damaged,
            next="".join(left[1:2]),
        )

    async def missing(self, principal: Principal, there: set[str]) -> list[str]:
        """Which objects the tenant's rows name that are not in ``there``, nor anywhere now."""
        lacking = sorted(await self._all_names(principal) - there)
        found: list[str] = []
        for start in range(0, len(lacking), PAGE_MAX):
            found += await self._gone(principal, lacking[start : start + PAGE_MAX])
        return found

    async def _gone(self, principal: Principal, names: list[str]) -> list[str]:
        """Which of these are named now and not there: what was erased meanwhile has no name."""
        still = await self._state.database.read(
            principal,
            lambda conn: (
                named_objects(conn, principal, names) | self._reports(conn, principal, names)
            ),
        )
        return [name for name in sorted(still) if await self._state.objects.known(name) is None]

    async def whole(self, principal: Principal, name: str) -> AsyncIterator[bytes]:
        """The object's stored bytes; ``Corrupt``, at the end at the latest, if they are others."""
        chunks = self._state.objects.stored(name)
        first = await anext(chunks, b"")
        if first.startswith(MAGIC):
            checked = self._sealed(principal, name, first, chunks)
        else:
            checked = self._plain(principal, name, first, chunks)
        async for chunk in checked:
            yield chunk

    async def _sealed(
        self, principal: Principal, name: str, first: bytes, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        passed: deque[bytes] = deque()

        async def passing() -> AsyncIterator[bytes]:
            passed.append(first)
            yield first
            async for chunk in chunks:
                passed.append(chunk)
                yield chunk

        async def find(key_id: bytes) -> DataKey:
            return await asyncio.to_thread(
                self._state.keyring.find, principal.tenant, RESPONSES, key_id
            )

        opening = unsealed_stream(find, principal.tenant, RESPONSES, name, passing())
        try:
            async with aclosing(opening) as opened:
                async for _ in opened:
                    while passed:
                        yield passed.popleft()
        except HoldfastError as error:
            if error.code != "key-destroyed":  # erased while it was read: nothing to say of it
                raise damaged(name, error.detail.partition(": ")[2] or error.detail) from error
        while passed:
            yield passed.popleft()
        async for chunk in chunks:
            yield chunk

    async def _plain(
        self, principal: Principal, name: str, first: bytes, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        stored, content = hashlib.sha256(first), hashlib.sha256()
        expander = zstandard.ZstdDecompressor().decompressobj()
        packed = first.startswith(_ZSTD_MAGIC)
        try:
            if packed:
                await _expand(expander, first, content)
            yield first
            async for chunk in chunks:
                stored.update(chunk)
                if packed:
                    await _expand(expander, chunk, content)
                yield chunk
        except zstandard.ZstdError as error:
            raise damaged(name, "it cannot be expanded") from error
        digests = [stored.hexdigest(), content.hexdigest()]
        objects = self._state.objects
        if name not in [objects.name(principal, f"sha256:{digest}") for digest in digests]:
            raise damaged(name, "its bytes are not those it is named after")

    async def _looked_at(
        self, names: list[tuple[Principal, str]], bytes_max: int | None
    ) -> tuple[ObjectsChecked, str]:
        """What opening them found, and the name at which it had read enough (else empty)."""
        missing: list[str] = []
        bad: list[str] = []
        checked = size = 0
        for who, name in names:
            checked += 1
            try:
                async for chunk in self.whole(who, name):
                    size += len(chunk)
            except NotFound:
                missing += await self._gone(who, [name])
            except Corrupt:
                bad.append(name)
            if bytes_max is not None and size >= bytes_max:
                return ObjectsChecked(checked=checked, missing=missing, damaged=bad), name
        return ObjectsChecked(checked=checked, missing=missing, damaged=bad), ""

    async def _all_names(self, principal: Principal) -> set[str]:
        names, last = set(await self._of_reports(principal)), ""
        while page := await self._names(principal, last, PAGE_MAX):
            names.update(page)
            last = page[-1]
        return names

    async def _names(
        self, principal: Principal, after: str, limit: int, *, anyhow: bool = False
    ) -> list[str]:
        return await self._state.database.read(
            principal, lambda conn: object_names(conn, principal, after, limit, anyhow=anyhow)
        )

    async def _of_reports(self, principal: Principal) -> frozenset[str]:
        return await self._state.database.read(
            principal, lambda conn: self._reports.all(conn, principal)
        )


def damaged(name: str, reason: str) -> Corrupt:
    """The one way to say that an object is not what was stored."""
    return Corrupt(
        f"cannot trust the object {name}: {reason}",
        code="object-damaged",
        hint="put that file of the objects folder back from a copy, or restore a backup; "
        "while it runs, `holdfast doctor --deep` names every object that is damaged or missing",
    )


async def _expand(expander: Any, chunk: bytes, content: Any) -> None:
    """Have ``content`` hash what ``chunk`` expands to, of which little is in memory at a time."""
    at = 0
    while at < len(chunk):
        plain, at = await asyncio.to_thread(expanded, expander, chunk, at)
        content.update(plain)


def handlers(checks: ObjectChecks) -> list[Any]:
    """The route."""

    @get("/v1/objects/check", permission=Permission.SYSTEM_READ, tag="system")
    async def check_objects(
        principal: Principal, sample: int = 0, after: str = "", limit: int = 200
    ) -> ObjectsChecked:
        """Open stored objects and say which are missing or damaged: a sample, or page by page."""
        operators_only(principal, "look at objects of every tenant")
        for name, value in (("sample", sample), ("limit", limit)):
            if not 0 <= value <= PAGE_MAX:
                raise Invalid(f"cannot check objects: {name} is at most {PAGE_MAX}")
        if sample:
            return await checks.sample(sample)
        return await checks.page(after, max(limit, 1))

    return [check_objects]
