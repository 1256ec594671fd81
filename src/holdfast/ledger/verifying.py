"""Recompute everything from the stored bytes, and name the first entry that is not sound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sqlalchemy import Connection

from holdfast.kernel.database import Unit
from holdfast.kernel.errors import Corrupt, HoldfastError
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.principal import Principal
from holdfast.ledger import notes, store
from holdfast.ledger.entries import opened
from holdfast.ledger.errors import FrameDamaged
from holdfast.ledger.frames import decode_frame, read_leaf
from holdfast.ledger.log import TenantLog
from holdfast.ledger.model import Progress
from holdfast.ledger.ports import StoredCommit
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import PublishedFile, unknown_origins, verifier_of
from holdfast.ledger.store import IndexRow
from holdfast.ledger.tree import Tile, Tree

COMMITS_AT_A_TIME = 64


class _UnsoundError(Exception):
    """The first entry that is not sound, and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


@dataclass(slots=True)
class _Walk:
    """What is known of the entries so far. ``versions`` grows with the streams, nothing else does.

    ``wanted`` are the sizes at which a root was told to somebody: they are compared on the way.
    """

    tenant_log: TenantLog
    wanted: dict[int, list[tuple[str, bytes]]]
    tree: Tree = field(default_factory=Tree)
    versions: dict[str, int] = field(default_factory=dict)
    recorded: str = ""
    erased: int = 0
    told: int = 0
    tiles: list[Tile] = field(default_factory=list)
    rows: list[IndexRow] = field(default_factory=list)

    def commit(self, commit: StoredCommit) -> None:
        if commit.first != self.tree.size:
            raise _UnsoundError(self.tree.size, "the commit that holds it is missing")
        try:
            frame = decode_frame(commit)
        except FrameDamaged as error:
            raise _UnsoundError(commit.first, error.detail) from error
        for position, entry in enumerate(frame.entries, commit.first):
            self._entry(position, entry.leaf, entry.sealing, entry.sealed)
        if frame.root != self.tree.root():
            raise _UnsoundError(commit.first, "the tree is not the one written with the commit")

    def _entry(self, position: int, data: bytes, sealing: str, sealed: bytes) -> None:
        try:
            leaf = read_leaf(data)
            _, payload = opened(self.tenant_log, leaf.id, sealing, sealed, leaf.commitment)
        except HoldfastError as error:
            raise _UnsoundError(position, error.detail) from error
        if leaf.tenant != self.tenant_log.tenant:
            raise _UnsoundError(position, "it is of another tenant")
        if leaf.recorded < self.recorded:
            raise _UnsoundError(position, "it was recorded before the entry in front of it")
        version = self.versions.get(leaf.stream, 0) + 1
        if leaf.version != version:
            raise _UnsoundError(
                position, f"it is version {leaf.version} of its stream, not {version}"
            )
        if payload is None:
            self.erased += 1
        elif len(payload) != leaf.length:
            raise _UnsoundError(position, "its payload has another length than its header says")
        self.versions[leaf.stream] = version
        self.recorded = leaf.recorded
        self.rows.append(IndexRow(position, leaf.stream, leaf.version, leaf.id))
        self.tiles += self.tree.append(leaf_hash(data))
        for who, root in self.wanted.pop(position + 1, ()):
            if not root:
                continue  # only a witness knows it
            if self.tree.root() != root:
                raise _UnsoundError(position, f"the tree up to it is not what {who} says")
            self.told += 1


async def verify(service: LedgerService, principal: Principal) -> AsyncIterator[Progress]:
    """How far the verification is, line by line; the last line says *sound*, or what is not.

    Every commit's bytes, every header, payload, version and time; the tree, its tiles and the
    index against it; the head file and every checkpoint's signature and root.
    """
    tenant_log = service.log_of(principal)
    size, _ = await tenant_log.extent()
    walk = _Walk(tenant_log, {})
    try:
        said_wrongly = ""
        try:
            # Before the end: what is appended and told of meanwhile is no part of the question.
            walk.wanted = await _told(tenant_log)
        except Corrupt as error:
            said_wrongly = error.detail  # the entries first: they are what the question is about
        end = await tenant_log.parts.log.end(tenant_log.principal)
        size = max(size, end)
        batch: list[StoredCommit] = []
        lost: Corrupt | None = None
        try:
            async for commit in tenant_log.commits(0, end):
                batch.append(commit)
                if len(batch) == COMMITS_AT_A_TIME:
                    await _step(tenant_log, walk, batch)
                    batch = []
                    yield Progress(checked=walk.tree.size, size=size)
        except Corrupt as error:
            lost = error
        await _step(tenant_log, walk, batch)
        if lost is not None:
            raise lost
        await _check_rest(tenant_log, walk)
        if said_wrongly:
            raise _UnsoundError(walk.tree.size, said_wrongly)
    except _UnsoundError as error:
        yield _unsound(walk, size, error.position, error.reason)
        return
    except Corrupt as error:
        yield _unsound(walk, size, walk.tree.size, error.detail)
        return
    yield Progress(
        checked=walk.tree.size,
        size=walk.tree.size,
        sound=True,
        root=walk.tree.root().hex(),
        erased=walk.erased,
        checkpoints=walk.told,
    )


def _unsound(walk: _Walk, size: int, position: int, reason: str) -> Progress:
    return Progress(
        checked=walk.tree.size, size=size, sound=False, position=position, reason=reason
    )


async def _step(tenant_log: TenantLog, walk: _Walk, batch: list[StoredCommit]) -> None:
    def work() -> None:
        for commit in batch:
            walk.commit(commit)

    await asyncio.to_thread(work)
    tiles, walk.tiles = walk.tiles, []
    rows, walk.rows = walk.rows, []
    tenant = tenant_log.tenant

    def unit(conn: Connection) -> tuple[list[bytes | None], dict[str, int], list[int | None]]:
        return (
            [store.find_tile(conn, tenant, tile.level, tile.number) for tile in tiles],
            store.find_events(conn, tenant, [row.event_id for row in rows]),
            store.find_positions(conn, tenant, [(row.stream, row.version) for row in rows]),
        )

    if not rows:
        return
    read, ids, positions = await tenant_log.parts.database.read(tenant_log.principal, unit)
    for tile, stored in zip(tiles, read, strict=True):
        if stored != tile.hashes:
            first = tile.number << 8 * (tile.level + 1)
            raise _UnsoundError(first, f"the tile {tile.level}/{tile.number} is not the tree's")
    for row, position in zip(rows, positions, strict=True):
        if ids.get(row.event_id) != row.position or position != row.position:
            raise _UnsoundError(
                row.position, "the index is wrong about it; `holdfast ledger rebuild` mends that"
            )


async def _told(tenant_log: TenantLog) -> dict[int, list[tuple[str, bytes]]]:
    """Sizes and roots that were told to somebody; their signatures are checked here.

    What an origin told of beyond the size that a later one began at is lost, and the entry of that
    beginning cites it: the log has other entries there now.
    """
    tenant = tenant_log.tenant

    def unit(
        conn: Connection,
    ) -> tuple[list[store.LogKey], dict[str, store.Published], list[store.Origin]]:
        return (
            store.keys(conn, tenant),
            store.checkpoints(conn, tenant),
            store.origins(conn, tenant),
        )

    keys, rows, origins = await tenant_log.parts.database.read(tenant_log.principal, unit)
    ends = {
        each.origin: min(later.started_size for later in origins[number:])
        for number, each in enumerate(origins[:-1], start=1)
    }
    verifiers = [verifier_of(key) for key in keys]
    found: dict[int, list[tuple[str, bytes]]] = {}

    def told(who: str, origin: str, size: int, root: bytes) -> None:
        if size <= ends.get(origin, size):
            found.setdefault(size, []).append((who, root))

    for row in rows.values():
        note, _ = notes.open_note(row.note, verifiers)
        said = notes.parse_checkpoint(note.text)
        if (said.origin, said.size, said.root) != (row.origin, row.size, row.root):
            raise Corrupt(f"the checkpoint of {row.origin} is not the one that was published")
        told(f"the checkpoint of {row.origin}", row.origin, said.size, said.root)
    file = PublishedFile(tenant_log.parts.paths.published_file(tenant))
    published = await asyncio.to_thread(file.read)
    known = {each.origin for each in origins}
    unknown = unknown_origins(published, origins)
    for origin, outside in published.items():
        # What a restart passed over is another log's by now.
        if origin not in known and outside not in unknown:
            continue
        told(f"the published checkpoint of {origin}", origin, outside.size, outside.root)
    head = await asyncio.to_thread(tenant_log.read_head)
    if head is not None:
        found.setdefault(head.size, []).append(("the head file", head.root))
    found.pop(0, None)
    return found


async def _check_rest(tenant_log: TenantLog, walk: _Walk) -> None:
    """What must hold at the end: nobody was told of more, and the index knows the same streams."""
    for size, claims in walk.wanted.items():
        if size > walk.tree.size:
            raise _UnsoundError(
                walk.tree.size, f"the log ends here, and {claims[0][0]} knows of {size} entries"
            )
    tenant = tenant_log.tenant
    names = sorted(walk.versions)
    for at in range(0, len(names), 1000):
        part = names[at : at + 1000]
        read = await tenant_log.parts.database.read(
            tenant_log.principal, _streams_unit(tenant, part)
        )
        for name in part:
            if read.get(name) != walk.versions[name]:
                raise _UnsoundError(
                    max(walk.tree.size - 1, 0), f"the index is wrong about the stream {name}"
                )


def _streams_unit(tenant: str, names: list[str]) -> Unit[dict[str, int]]:
    return lambda conn: store.find_streams(conn, tenant, names)
