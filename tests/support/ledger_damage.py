"""Taking a ledger's stored bytes and rows away from under it, and giving them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from holdfast.kernel.database import Database
from holdfast.kernel.database.tables import metadata
from holdfast.ledger.frames import decode_frame, encode_frame
from holdfast.ledger.model import Append
from holdfast.ledger.ports import StoredCommit
from holdfast.ledger.service import LedgerService
from tests.support.ledger import ONE, event

Rows = dict[str, list[dict[str, Any]]]

COMMITS, EACH = 60, 10
"""More entries than a tile is wide: opening does not look at the first ones."""

_AT = "WHERE tenant = :tenant AND first = :first"


async def filled(ledger: LedgerService) -> None:
    """Have it append :data:`COMMITS` of :data:`EACH` and publish a checkpoint."""
    for at in range(0, COMMITS * EACH, EACH):
        events = [event(n, f"notes/{n % 7}") for n in range(at, at + EACH)]
        await ledger.append(ONE, Append(events=events))
    await ledger.checkpoint(ONE)


async def kept(database: Database) -> Rows:
    """Every row of the ledger, as a backup has it."""

    def unit(conn: Connection) -> Rows:
        tables = [each for each in metadata.sorted_tables if each.name.startswith("ledger_")]
        return {
            each.name: [
                dict(row._mapping)
                for row in conn.execute(each.select().where(each.c.tenant == ONE.tenant))
            ]
            for each in tables
            if "tenant" in each.c
        }

    return await database.read(ONE, unit)


async def brought_back(database: Database, rows: Rows) -> None:
    """The rows of a backup in the place of those there are."""

    def unit(conn: Connection) -> None:
        for name, each in rows.items():
            table = metadata.tables[name]
            conn.execute(table.delete().where(table.c.tenant == ONE.tenant))
            if each:
                conn.execute(table.insert(), each)

    await database.write(ONE, unit)


async def change(database: Database, statement: str, **values: Any) -> None:
    """Run a statement on the tenant's rows."""
    values["tenant"] = ONE.tenant
    await database.write(ONE, lambda conn: conn.execute(text(statement), values))


async def flip(database: Database, first: int) -> bytes:
    """Change a byte of the commit at ``first``; what it was before."""

    def unit(conn: Connection) -> bytes:
        values: dict[str, Any] = {"tenant": ONE.tenant, "first": first}
        found = conn.execute(text(f"SELECT frame FROM ledger_commits {_AT}"), values)
        before = bytes(found.scalar_one())
        values["frame"] = before[:40] + bytes([before[40] ^ 1]) + before[41:]
        conn.execute(text(f"UPDATE ledger_commits SET frame = :frame {_AT}"), values)
        return before

    return await database.write(ONE, unit)


async def forge(database: Database, first: int) -> None:
    """Put another event into the commit at ``first``, whole by itself."""

    def unit(conn: Connection) -> None:
        values: dict[str, Any] = {"tenant": ONE.tenant, "first": first}
        row = conn.execute(text(f"SELECT count, frame FROM ledger_commits {_AT}"), values).one()
        frame = decode_frame(StoredCommit(first, row[0], bytes(row[1])))
        entries = [
            msgspec.structs.replace(e, leaf=e.leaf.replace(b"note.added", b"note.other"))
            for e in frame.entries
        ]
        values["frame"] = encode_frame(first, entries, frame.root).frame
        conn.execute(text(f"UPDATE ledger_commits SET frame = :frame {_AT}"), values)

    await database.write(ONE, unit)


async def lose_tail(database: Database, size: int) -> None:
    """The log and its index end at ``size``; its streams and what was published stay."""
    for table, column in (("commits", "first"), ("versions", "position"), ("events", "position")):
        where = f"WHERE tenant = :tenant AND {column} >= :size"
        await change(database, f"DELETE FROM ledger_{table} {where}", size=size)
    await change(database, "UPDATE ledger_index SET size = :size WHERE tenant = :tenant", size=size)


async def damage(database: Database, folder: Path, how: str) -> None:
    """Damage a log of ten commits of one entry each, whose files are in ``folder``."""
    if how == "tail":
        await lose_tail(database, 7)
    elif how == "middle":
        await change(database, f"DELETE FROM ledger_commits {_AT}", first=4)
    elif how == "byte":
        await flip(database, 5)
    elif how == "head":
        (folder / "ledger" / "default.head").write_bytes(bytes(1024))
    else:
        raise AssertionError(f"there is no damage called {how}")
