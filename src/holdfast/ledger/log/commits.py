"""The commits of one tenant's log as they are stored, in their order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from holdfast.kernel.errors import Corrupt
from holdfast.ledger.frames import damaged, missing
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.ports import StoredCommit

READ_COMMITS = 256
READ_BYTES = 4 * 1024 * 1024


class Commits:
    """The stored bytes. Whether they are whole is not asked here, but that none is missing is."""

    def __init__(self, parts: TenantParts) -> None:
        self.parts = parts

    async def end(self) -> int:
        """The position that the next commit would have."""
        return await self.parts.shared.log.end(self.parts.principal)

    async def read(
        self, position: int, commits_max: int = READ_COMMITS, bytes_max: int = READ_BYTES
    ) -> Sequence[StoredCommit]:
        """One read: the commit that holds ``position``, and some of what follows it."""
        try:
            found = await self.parts.shared.log.read(
                self.parts.principal, position, commits_max, bytes_max
            )
        except Corrupt as error:  # of the database itself: it says that its pages are not whole
            raise damaged(position, error.detail) from error
        if not found or found[0].first > position:
            raise missing(position)
        return found

    async def between(self, position: int, after: int) -> AsyncIterator[StoredCommit]:
        """The commits that hold the entries ``[position, after)``, in order, read as they come."""
        while position < after:
            for commit in await self.read(position):
                if commit.first >= after:
                    return
                if commit.after <= position or commit.first > position:
                    raise missing(position)
                yield commit
                position = commit.after
