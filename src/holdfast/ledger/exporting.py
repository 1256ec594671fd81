"""An export: every entry with what opens it, and the checkpoint over them at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

from holdfast.kernel.principal import Principal
from holdfast.ledger import notes
from holdfast.ledger.entries import payloads_of
from holdfast.ledger.frames import read_leaf
from holdfast.ledger.model import ExportLine
from holdfast.ledger.service import LedgerService


async def export(
    service: LedgerService, principal: Principal, first: int = 0
) -> AsyncIterator[ExportLine]:
    """The entries from ``first`` up to the newest checkpoint; the last line is that checkpoint.

    An export without its last line was cut off.
    """
    reader = service.log_of(principal).reader
    note = await service.checkpoint(principal)
    size = notes.parse_checkpoint(notes.parse_note(note).text).size
    async for frame in reader.frames(first, size):
        stored = frame.between(first, size)
        found = await payloads_of(
            reader.parts, [(read_leaf(each.leaf), each) for _, each in stored]
        )
        for (position, each), (salt, payload, _) in zip(stored, found, strict=True):
            yield ExportLine(
                position=position,
                leaf=each.leaf.decode(),
                salt=salt.hex(),
                payload=None if payload is None else payload.decode(),
            )
    yield ExportLine(checkpoint=note, entries=max(size - first, 0))
