"""The origin and the key under which a log is signed now; made where there are none yet.

Both are read and written under the fence only: whoever slept through a restart, or through another
key, would sign under what has ended, or end what others sign under.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from holdfast.kernel.signing import SigningKey
from holdfast.ledger import store
from holdfast.ledger.log.leadership import Signer
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.signer import first_origin, load_key, made_key
from holdfast.ledger.store import LogKey, Origin


async def check_key(parts: TenantParts) -> None:
    """``KeyMissing`` if the key in force is not here.

    Asked before the fence is taken: nobody who could go on loses it to one who cannot.
    """
    keys = await _keys(parts)
    origins = await _origins(parts)
    if keys and origins and keys[-1].origin == origins[-1].origin:
        await _private(parts, keys[-1])


async def origin_in_force(parts: TenantParts, fence: int) -> Origin:
    """The newest origin."""
    origins = await _origins(parts)
    if origins:
        return origins[-1]
    tenant, shared = parts.tenant, parts.shared
    origin = first_origin(shared.origin, tenant, parts.now(), shared.random)
    add = partial(store.add_origin, tenant=tenant, origin=origin)
    await shared.log.fenced(parts.principal, fence, add)
    return origin


async def signer_in_force(parts: TenantParts, fence: int, origin: Origin) -> Signer:
    """The newest key, if it is of ``origin``, or a new one; ``KeyMissing`` if it is not here."""
    keys = await _keys(parts)
    if keys and keys[-1].origin == origin.origin:
        return Signer(keys[-1], await _private(parts, keys[-1]))
    made = await new_signer(parts, origin, keys, origin.started_size)
    add = partial(store.add_key, tenant=parts.tenant, key=made.key)
    await parts.shared.log.fenced(parts.principal, fence, add)
    return made


async def new_signer(
    parts: TenantParts, origin: Origin, keys: Sequence[LogKey], size: int
) -> Signer:
    """A key for what the log holds beyond ``size``, for whoever puts it into the database.

    One that was made before, and never came there, is taken again.
    """
    number = keys[-1].number + 1 if keys else 1
    shared = parts.shared
    private = await asyncio.to_thread(made_key, shared.paths, parts.tenant, number, shared.random)
    key = LogKey(number, origin.origin, private.public_bytes(), parts.now(), size, None)
    return Signer(key, private)


async def _origins(parts: TenantParts) -> list[Origin]:
    return await parts.read(partial(store.origins, tenant=parts.tenant))


async def _keys(parts: TenantParts) -> list[LogKey]:
    return await parts.read(partial(store.keys, tenant=parts.tenant))


async def _private(parts: TenantParts, key: LogKey) -> SigningKey:
    return await asyncio.to_thread(load_key, parts.shared.paths, parts.tenant, key)
