"""The logs of a restore: marked before anybody can open them, and what may not go on as it was.

What was published of a log after the backup was made, the backup cannot know. So every log that was
ever signed is marked where its rows are put, in one step with them: whoever opens it, on whatever
machine, signs nothing until the folder ``published/`` says enough, or a new origin begins.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Unsupported
from holdfast.kernel.principal import Principal, operator
from holdfast.ledger.model import LOST_TAIL, PUBLISHED_UNKNOWN
from holdfast.ledger.store import MARK_RESTORED, RestoredFrom


class StoppedLog(Struct, frozen=True, kw_only=True):
    """A log that takes nothing, and why."""

    tenant: str
    origin: str
    size: int
    published_size: int
    """Of the last checkpoint that is known."""
    reason: str
    detail: str


class NewOrigin(Struct, frozen=True, kw_only=True):
    """A log that goes on under another name."""

    tenant: str
    origin: str
    size: int
    cites: str
    """The name before."""
    cites_size: int
    """Of the last checkpoint that is known under it."""


async def mark_file(path: Path, restored: RestoredFrom) -> None:
    """Mark the logs in an embedded database that nobody can open yet; one of an earlier release is
    brought to this one's schema first, which has a place for that."""
    if not await asyncio.to_thread(_marked, path, restored):
        from holdfast import __version__
        from holdfast.migrations.runner import migrate

        copies = path.parent / "before"
        await migrate(f"sqlite:///{path}", clock=SystemClock(), version=__version__, backups=copies)
        shutil.rmtree(copies, ignore_errors=True)
        if not await asyncio.to_thread(_marked, path, restored):
            raise Unsupported("cannot restore: the backup's schema has no place for what it knows")


def _marked(path: Path, restored: RestoredFrom) -> bool:
    """Whether the schema has a place for the mark; then it is there."""
    from pysqlite3 import dbapi2

    with closing(dbapi2.connect(str(path), isolation_level=None)) as conn:
        known = conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_restored'")
        if known.fetchone() is None:
            return False
        statement = MARK_RESTORED.replace("$", "?")
        conn.execute(statement, (restored.backup, restored.made_at)).close()
    return True


async def begin_origins(system: Any, restored: RestoredFrom) -> list[NewOrigin]:
    """Continue every log that is marked under a new origin, which cites the one before."""
    found = []
    for who in await _principals(system):
        before = await system.ledger.status(who)
        if await system.ledger.log_of(who).soundness.restored() is None:
            continue  # the folder published/ is here, and says what there was
        if before.damage is None or before.damage.reason not in (PUBLISHED_UNKNOWN, LOST_TAIL):
            continue  # more is wrong with it: that is looked at first
        reason = f"restored from the backup {restored.backup} of {restored.made_at}"
        after = await system.ledger.restart(who, reason)
        found.append(
            NewOrigin(
                tenant=who.tenant,
                origin=after.origin,
                size=after.size,
                cites=before.origin,
                cites_size=before.published_size,
            )
        )
    return found


async def stopped_logs(system: Any) -> list[StoppedLog]:
    """Every log that takes nothing."""
    found = []
    for who in await _principals(system):
        status = await system.ledger.status(who)
        if status.damage is not None:
            found.append(
                StoppedLog(
                    tenant=who.tenant,
                    origin=status.origin,
                    size=status.size,
                    published_size=status.published_size,
                    reason=status.damage.reason,
                    detail=status.damage.detail,
                )
            )
    return found


async def _principals(system: Any) -> list[Principal]:
    if system.ledger is None or "ledger" not in system.roles:
        return []
    return [operator(tenant) for tenant in await system.state.database.tenants()]
