"""The log in a table of SQLite or PostgreSQL: one row a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Connection, text

from holdfast.kernel.database import Database, Unit
from holdfast.kernel.principal import Principal
from holdfast.ledger.errors import LogMoved, NotSequencer
from holdfast.ledger.ports import Beside, StoredCommit

T = TypeVar("T")

_END = text(
    "SELECT first + count FROM ledger_commits WHERE tenant = :tenant ORDER BY first DESC LIMIT 1"
)
_FENCE = text("SELECT fence FROM ledger_sequencers WHERE tenant = :tenant")
# The row is locked until the commit, so that of two instances one waits, and then sees.
_FENCE_POSTGRESQL = text("SELECT fence FROM ledger_sequencers WHERE tenant = :tenant FOR UPDATE")
_APPEND = text(
    "INSERT INTO ledger_commits (tenant, first, count, frame)"
    " VALUES (:tenant, :first, :count, :frame)"
)
_HOLDING = text(
    "SELECT first FROM ledger_commits WHERE tenant = :tenant AND first <= :position"
    " ORDER BY first DESC LIMIT 1"
)
_READ = text(
    "SELECT first, count, frame FROM ledger_commits WHERE tenant = :tenant AND first >= :first"
    " ORDER BY first LIMIT :limit"
)
_SEIZE = text(
    "INSERT INTO ledger_sequencers (tenant, fence, holder) VALUES (:tenant, 1, :holder)"
    " ON CONFLICT (tenant) DO UPDATE SET fence = ledger_sequencers.fence + 1,"
    " holder = excluded.holder RETURNING fence"
)
_CUT = text("DELETE FROM ledger_commits WHERE tenant = :tenant AND first >= :position")


class SqlLog:
    """See :class:`holdfast.ledger.ports.Log`. The index can be written in the same transaction.

    Read committed is enough on PostgreSQL: the fence's row is locked before anything is decided,
    and the key of the commit refuses a second one at its place. See ADR 0011.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self, principal: Principal, commit: StoredCommit, fence: int, beside: Beside | None = None
    ) -> None:
        tenant = principal.tenant

        def unit(conn: Connection) -> None:
            _hold(conn, tenant, fence)
            end = conn.execute(_END, {"tenant": tenant}).scalar_one_or_none() or 0
            if end != commit.first:
                raise LogMoved(f"cannot append at {commit.first}: the log ends at {end}")
            conn.execute(
                _APPEND,
                {
                    "tenant": tenant,
                    "first": commit.first,
                    "count": commit.count,
                    "frame": commit.frame,
                },
            )
            if beside is not None:
                beside(conn)

        await self._database.write(
            principal, unit, size_bytes=len(commit.frame), isolation="read committed"
        )

    async def fenced(self, principal: Principal, fence: int, unit: Unit[T]) -> T:
        def held(conn: Connection) -> T:
            _hold(conn, principal.tenant, fence)
            return unit(conn)

        return await self._database.write(principal, held, isolation="read committed")

    async def read(
        self, principal: Principal, position: int, commits_max: int, bytes_max: int
    ) -> Sequence[StoredCommit]:
        tenant = principal.tenant

        def unit(conn: Connection) -> list[StoredCommit]:
            values = {"tenant": tenant, "position": position}
            first = conn.execute(_HOLDING, values).scalar_one_or_none()
            found: list[StoredCommit] = []
            size = 0
            values = {"tenant": tenant, "first": first or 0, "limit": commits_max}
            for row in conn.execute(_READ, values):
                commit = StoredCommit(row[0], row[1], bytes(row[2]))
                size += len(commit.frame)
                if found and size > bytes_max:
                    break
                if commit.after > position:
                    found.append(commit)
            return found

        return await self._database.read(principal, unit)

    async def end(self, principal: Principal) -> int:
        values = {"tenant": principal.tenant}
        found = await self._database.read(
            principal, lambda conn: conn.execute(_END, values).scalar_one_or_none()
        )
        return found or 0

    async def seize(self, principal: Principal, holder: str) -> int:
        values = {"tenant": principal.tenant, "holder": holder}
        fence: int = await self._database.write(
            principal, lambda conn: conn.execute(_SEIZE, values).scalar_one()
        )
        return fence

    async def cut(
        self, principal: Principal, position: int, fence: int, beside: Beside | None = None
    ) -> None:
        values = {"tenant": principal.tenant, "position": position}

        def unit(conn: Connection) -> None:
            conn.execute(_CUT, values)
            if beside is not None:
                beside(conn)

        await self.fenced(principal, fence, unit)


def _hold(conn: Connection, tenant: str, fence: int) -> None:
    """``NotSequencer`` unless ``fence`` is the newest; it stays so until the commit."""
    sqlite = conn.dialect.name == "sqlite"
    newest = conn.execute(_FENCE if sqlite else _FENCE_POSTGRESQL, {"tenant": tenant})
    if newest.scalar_one_or_none() != fence:
        raise NotSequencer("cannot go on: another instance has taken over this tenant's log")
