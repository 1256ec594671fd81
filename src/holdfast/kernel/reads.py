"""Reads that are worth an event: noted before they are answered, together where many come at once.

Who asks waits until the note is durable, so nothing is read unseen. Whatever comes while one note
is being written goes together in the next, as one event: a flood of reads costs a few events a
second, a single read costs one write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.batching import Batcher
from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import request_id

READS_MAX = 200
"""Of one event; with what each may say, well below the largest payload."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One read: who, when, and what of; ``what`` is plain canonical data of a few lines."""

    by: str
    credential: str
    at: datetime
    request_id: str
    what: dict[str, Any]


class ReadLog:
    """Notes reads of one kind as events ``type`` in the stream ``stream``, for ``role``."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        new_id: NewId,
        *,
        role: str,
        stream: str,
        type: str,  # noqa: A002 - the event's word
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._new_id = new_id
        self._role = role
        self._stream = stream
        self._type = type
        self._batchers: dict[TenantId, Batcher[Read, bool]] = {}

    async def note(self, principal: Principal, what: dict[str, Any]) -> None:
        """Note that ``principal`` is about to be answered; durable when this returns."""
        read = Read(
            by=principal.subject,
            credential=principal.credential,
            at=self._clock.now(),
            request_id=request_id(),
            what=what,
        )
        batcher = self._batchers.get(principal.tenant)
        if batcher is None:
            batcher = self._batchers[principal.tenant] = Batcher(
                self._writing(principal.tenant), size_max=READS_MAX
            )
        await batcher.do(read)

    async def close(self) -> None:
        """Finish what is being written."""
        for batcher in self._batchers.values():
            await batcher.close()

    def _writing(self, tenant: TenantId) -> Callable[[list[Read]], Any]:
        async def write(reads: list[Read]) -> Sequence[bool | HoldfastError]:
            principal = service(self._role, tenant)
            event = self._event(reads)

            def unit(conn: Connection) -> None:
                self._outbox.emit(conn, principal, event)

            await self._database.write(principal, unit)
            return [True] * len(reads)

        return write

    def _event(self, reads: list[Read]) -> Event:
        people = {read.by for read in reads}
        return Event(
            id=EventId(self._new_id()),
            stream=self._stream,
            type=self._type,
            time=reads[-1].at,
            subject=people.pop() if len(people) == 1 else "",
            payload={
                "reads": [
                    {
                        "at": timestamp(read.at),
                        "by": read.by,
                        "credential": read.credential,
                        "request": read.request_id,
                    }
                    | read.what
                    for read in reads
                ]
            },
        )
