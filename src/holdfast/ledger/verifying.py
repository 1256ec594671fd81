"""Recompute everything from the stored bytes, and name the first entry that is not sound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection

from holdfast.kernel.errors import Corrupt, HoldfastError, Unavailable
from holdfast.kernel.principal import Principal
from holdfast.ledger import notes, store
from holdfast.ledger.entries import opened
from holdfast.ledger.errors import FrameDamaged, IndexIncomplete, IndexWrong
from holdfast.ledger.frames import Leaf, Stored
from holdfast.ledger.indexed import against_index
from holdfast.ledger.log.tenant_log import TenantLog
from holdfast.ledger.model import Progress
from holdfast.ledger.ports import StoredCommit
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import PUBLISHED_FILE, binds, untold, verifier_of
from holdfast.ledger.tree import Tree
from holdfast.ledger.walking import Walk

COMMITS_AT_A_TIME = 64
TWICE_MAX = 100
"""Positions of events that stand twice, named at the end."""


class _UnsoundError(Exception):
    """The first entry that is not sound, and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


@dataclass(slots=True)
class _Asked:
    """What is asked of the entries beside what holds them together.

    ``wanted`` are the sizes at which a root was told to somebody: they are compared on the way.
    """

    tenant_log: TenantLog
    walk: Walk
    wanted: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)
    erased: int = 0
    told: int = 0
    twice: list[int] = field(default_factory=list)

    def entry(self, position: int, entry: Stored, leaf: Leaf, grown: Tree) -> None:
        try:
            _, payload = opened(
                self.tenant_log.parts, leaf.id, entry.sealing, entry.sealed, leaf.commitment
            )
        except Unavailable:
            raise
        except HoldfastError as error:
            raise _UnsoundError(position, error.detail) from error
        if payload is None:
            self.erased += 1
        elif len(payload) != leaf.length:
            raise _UnsoundError(position, "its payload has another length than its header says")
        for who, root in self.wanted.pop(position + 1, ()):
            if not root:
                continue  # only a witness knows it
            if grown.root() != root:
                raise _UnsoundError(position, f"the tree up to it is not what {who} says")
            self.told += 1


async def verify(service: LedgerService, principal: Principal) -> AsyncIterator[Progress]:
    """How far the verification is, line by line; the last line says *sound*, or what is not.

    Every commit's bytes, every header, payload, version and time; the tree, its tiles and the
    index against it; the head file and every checkpoint's signature and root.
    """
    tenant_log = service.log_of(principal)
    walk = Walk(tenant_log.tenant)
    asked = _Asked(tenant_log, walk)
    size = 0
    try:
        said_wrongly = ""
        try:
            # Before the end: what is appended and told of meanwhile is no part of the question.
            asked.wanted = await _told(tenant_log)
        except Corrupt as error:
            said_wrongly = error.detail  # the entries first: they are what the question is about
        size = end = await tenant_log.commits.end()
        batch: list[StoredCommit] = []
        lost: Corrupt | None = None
        try:
            async for commit in tenant_log.commits.between(0, end):
                batch.append(commit)
                if len(batch) == COMMITS_AT_A_TIME:
                    await _step(asked, batch)
                    batch = []
                    yield Progress(checked=walk.tree.size, size=size)
        except Corrupt as error:
            lost = error
        await _step(asked, batch)
        if lost is not None:
            raise lost
        await _check_rest(asked)
        if said_wrongly:
            raise _UnsoundError(walk.tree.size, said_wrongly)
    except _UnsoundError as error:
        yield _unsound(walk, size, error.position, error.reason, "entry-unsound")
        return
    except FrameDamaged as error:
        await tenant_log.soundness.met(error, walked=True)
        yield _unsound(walk, size, error.position, error.detail, error.code)
        return
    except IndexWrong as error:
        yield _unsound(walk, size, error.position, f"{error.detail}; {error.hint}", error.code)
        return
    except (Corrupt, IndexIncomplete) as error:
        yield _unsound(walk, size, walk.tree.size, error.detail, error.code)
        return
    await tenant_log.soundness.ask_again()
    yield Progress(
        checked=walk.tree.size,
        size=walk.tree.size,
        sound=True,
        root=walk.tree.root().hex(),
        erased=asked.erased,
        checkpoints=asked.told,
        twice=asked.twice[:TWICE_MAX],
    )


def _unsound(walk: Walk, size: int, position: int, reason: str, code: str) -> Progress:
    return Progress(
        checked=walk.tree.size,
        size=size,
        sound=False,
        position=position,
        reason=reason,
        code=code,
    )


async def _step(asked: _Asked, batch: list[StoredCommit]) -> None:
    walk = asked.walk

    def work() -> None:
        for commit in batch:
            walk.commit(commit, asked.entry)

    try:
        await asyncio.to_thread(work)
    finally:
        tiles, walk.tiles = walk.tiles, []
        rows, walk.rows = walk.rows, []
    found = await against_index(asked.tenant_log.reader, rows, tiles)
    asked.twice += found


async def _told(tenant_log: TenantLog) -> dict[int, list[tuple[str, bytes]]]:
    """Sizes and roots that were told to somebody; their signatures are checked here.

    What is lost with an origin that ended is not asked of the log any more, if that was told.
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

    keys, rows, origins = await tenant_log.parts.read(unit)
    verifiers = [verifier_of(key) for key in keys]
    found: dict[int, list[tuple[str, bytes]]] = {}

    def told(who: str, origin: str, size: int, root: bytes) -> None:
        if not origin or binds(origins, origin, size):
            found.setdefault(size, []).append((who, root))

    for row in rows.values():
        note, _ = notes.open_note(row.note, verifiers)
        said = notes.parse_checkpoint(note.text)
        if (said.origin, said.size, said.root) != (row.origin, row.size, row.root):
            raise Corrupt(f"the checkpoint of {row.origin} is not the one that was published")
        told(f"the checkpoint of {row.origin}", row.origin, said.size, said.root)
    published = await tenant_log.published.in_file()
    for origin, outside in published.items():
        if (lost := untold(origins, outside, PUBLISHED_FILE)) is not None:
            raise Corrupt(lost.detail)
        told(f"the published checkpoint of {origin}", origin, outside.size, outside.root)
    head = await asyncio.to_thread(tenant_log.read_head)
    if head is not None:
        if (lost := untold(origins, head)) is not None:
            raise Corrupt(lost.detail)
        told("the head file", head.origin, head.size, head.root)
    found.pop(0, None)
    return found


async def _check_rest(asked: _Asked) -> None:
    """What must hold at the end: nobody was told of more, and the index knows the same streams."""
    walk, tenant_log = asked.walk, asked.tenant_log
    for size, claims in asked.wanted.items():
        if size > walk.tree.size:
            raise _UnsoundError(
                walk.tree.size, f"the log ends here, and {claims[0][0]} knows of {size} entries"
            )
    assert walk.versions is not None
    names = sorted(walk.versions)
    for at in range(0, len(names), 1000):
        part = names[at : at + 1000]
        read = await tenant_log.parts.read(
            partial(store.find_streams, tenant=tenant_log.tenant, names=part)
        )
        for name in part:
            if read.get(name) != walk.versions[name]:
                raise IndexWrong(
                    max(walk.tree.size - 1, 0), f"the index is wrong about the stream {name}"
                )
