"""The index held against the log, entry by entry: by whoever walks over all of it."""

from __future__ import annotations

from sqlalchemy import Connection

from holdfast.ledger import store
from holdfast.ledger.errors import IndexWrong
from holdfast.ledger.frames import Leaf, damaged, read_leaf
from holdfast.ledger.log.reading import LogReader
from holdfast.ledger.store import IndexRow
from holdfast.ledger.tree import Tile


async def against_index(reader: LogReader, rows: list[IndexRow], tiles: list[Tile]) -> list[int]:
    """Hold the index to these rows and tiles of the log: ``IndexWrong`` where it is.

    Returns the positions of events that the log has twice, at their second place: the index has
    their first, and that is right.
    """
    if not rows:
        return []
    tenant = reader.parts.tenant

    def unit(
        conn: Connection,
    ) -> tuple[list[bytes | None], dict[str, int], list[int | None], dict[str, int]]:
        store.check_whole(conn, tenant, rows[-1].position + 1)
        return (
            [store.find_tile(conn, tenant, tile.level, tile.number) for tile in tiles],
            store.find_events(conn, tenant, [row.event_id for row in rows]),
            store.find_positions(conn, tenant, [(row.stream, row.version) for row in rows]),
            store.find_streams(conn, tenant, sorted({row.stream for row in rows})),
        )

    read, ids, positions, newest = await reader.parts.read(unit)
    for tile, stored in zip(tiles, read, strict=True):
        if stored != tile.hashes:
            first = tile.number << 8 * (tile.level + 1)
            raise IndexWrong(first, f"the tile {tile.level}/{tile.number} is not the tree's")
    twice = []
    for row, position in zip(rows, positions, strict=True):
        known = ids.get(row.event_id)
        if (
            known is not None
            and known < row.position
            and (await _leaf_at(reader, known)).id == row.event_id
        ):
            twice.append(row.position)
            known = row.position
        if position is not None and position < row.position:
            leaf = await _leaf_at(reader, position)
            if (leaf.stream, leaf.version) == (row.stream, row.version):
                raise damaged(row.position, f"its stream has its version at {position} already")
        if known != row.position or position != row.position:
            raise IndexWrong(row.position, "the index is wrong about it")
        if newest.get(row.stream, 0) < row.version:
            raise IndexWrong(row.position, f"the index is wrong about the stream {row.stream}")
    return twice


async def _leaf_at(reader: LogReader, position: int) -> Leaf:
    frame = await reader.frame_at(position)
    return read_leaf(frame.entries[position - frame.first].leaf)
