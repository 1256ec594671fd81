"""The origin and the key under which a log is signed now; made where there are none yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import Connection

from holdfast.kernel.signing import SigningKey
from holdfast.ledger import store
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.signer import first_origin
from holdfast.ledger.store import LogKey, Origin


async def in_force(parts: TenantParts) -> tuple[Origin, LogKey]:
    """The newest origin and its newest key."""
    tenant, shared = parts.tenant, parts.shared

    def unit(conn: Connection) -> tuple[list[Origin], list[LogKey]]:
        return store.origins(conn, tenant), store.keys(conn, tenant)

    origins, keys = await parts.read(unit)
    if not origins:
        origin = first_origin(shared.origin, tenant, parts.now(), shared.random)
        await parts.write(lambda conn: store.add_origin(conn, tenant, origin))
        origins = [origin]
    newest = origins[-1]
    if not keys or keys[-1].origin != newest.origin:
        return newest, await new_key(parts, newest, keys, newest.started_size)
    return newest, keys[-1]


async def new_key(parts: TenantParts, origin: Origin, keys: Sequence[LogKey], size: int) -> LogKey:
    """A key for what the log holds beyond ``size``; the one of ``keys`` that is live ends there."""
    number = keys[-1].number + 1 if keys else 1
    path = parts.shared.paths.key(parts.tenant, number)
    private = await asyncio.to_thread(SigningKey.load_or_create, path, parts.shared.random)
    key = LogKey(number, origin.origin, private.public_bytes(), parts.now(), size, None)
    live = next((each.number for each in keys if each.valid_to is None), None)
    await parts.write(lambda conn: store.add_key(conn, parts.tenant, key, live))
    return key
