"""Look over a log while nobody reads it, so that damage does not wait for a reader.

Slowly: of a core at most :data:`SHARE` is taken, whatever there is to look at. Every commit's
bytes, headers, order and tree, and the index against them; payloads are not opened (``verify`` does
that). Memory is one read at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Unavailable
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger.errors import FrameDamaged, IndexWrong
from holdfast.ledger.indexed import against_index
from holdfast.ledger.log.tenant_log import TenantLog
from holdfast.ledger.metrics import LedgerMetrics
from holdfast.ledger.walking import Walk

log = get_logger("ledger")

SHARE = 0.05
"""Of a core. More would be felt beside appends; with less a log of many millions takes days."""
COMMITS = 64
BYTES = 256 * 1024
"""Of one read: some tens of milliseconds of work, after which the rest of the share is slept."""
AGAIN_SECONDS = 60.0
"""After a look that broke off: another instance appends, or the database was not there."""


async def look_forever(
    logs: Callable[[], Sequence[TenantLog]],
    clock: Clock,
    metrics: LedgerMetrics,
    pause_seconds: float,
) -> None:
    """Look over one log after the other, then again after ``pause_seconds``."""
    while True:
        whole = True
        for each in logs():
            try:
                whole = await look_over(each, clock, metrics) and whole
            except HoldfastError as error:
                whole = False
                log.warning("a log was not looked over", tenant=each.tenant, detail=error.detail)
        await clock.sleep(pause_seconds if whole else min(pause_seconds, AGAIN_SECONDS))


async def look_over(
    tenant_log: TenantLog, clock: Clock, metrics: LedgerMetrics, share: float = SHARE
) -> bool:
    """Look over a log that we append to, up to its end of now; false where that was not to be.

    Damage stops the log, as it does for whoever meets it. An index that is wrong is made anew.
    """
    if not tenant_log.sequencing:
        metrics.not_looked_over(tenant_log.tenant)
        return True  # whoever appends to it does, or it is read-only and that is said
    metrics.looking(tenant_log.tenant)
    walk = Walk(tenant_log.tenant, versions=None)
    end = await tenant_log.commits.end()
    mended = False
    while walk.tree.size < end:
        begun = clock.monotonic()
        try:
            size = walk.tree.size
            found = await tenant_log.commits.read(size, COMMITS, BYTES)
            await asyncio.to_thread(walk.commits, found)
            rows, walk.rows = walk.rows, []
            tiles, walk.tiles = walk.tiles, []
            await against_index(tenant_log.reader, rows, tiles)
        except FrameDamaged as error:
            await tenant_log.soundness.met(error, walked=True)
            return False
        except IndexWrong as error:
            if mended:
                raise
            log.warning(
                "the index is made anew",
                tenant=tenant_log.tenant,
                position=error.position,
                reason=error.detail,
            )
            await tenant_log.rebuilt()
            mended = True
        metrics.looked_at(walk.tree.size - size)
        await clock.sleep((clock.monotonic() - begun) * (1 / share - 1))
    if not tenant_log.sequencing:
        raise Unavailable("cannot say that the log is whole: it changed hands meanwhile")
    metrics.looked_over(tenant_log.tenant, clock.now().timestamp())
    return True
