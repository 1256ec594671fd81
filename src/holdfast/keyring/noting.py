"""What is done with the keys themselves, on the record: handed out, put back, renewed.

The keys are in files and in a keyring, the record is in the database: no transaction spans both.
What is handed out is told first, so that nothing goes untold; what is put back or renewed is told
when it is there. No key is in an event, only the ids by which two are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.kernel.clock import Clock
from holdfast.kernel.database import Database
from holdfast.kernel.ids import EventId, NewId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import request_id
from holdfast.keyring.model import KeysHandled, Rotation

STREAM = "keys"


class KeyNotes:
    """Writes the events about keys: the operator's, or of the tenant whose keys they are."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock, new_id: NewId) -> None:
        self._db = database
        self._outbox = outbox
        self._clock = clock
        self._new_id = new_id

    async def handled(self, principal: Principal, handled: KeysHandled) -> None:
        """The master key was exported, or keys were put back from such a file."""
        payload: dict[str, Any] = {"masters": handled.masters}
        if handled.parts:
            payload["parts"] = sorted(handled.parts)
        await self._tell(principal, f"key.{handled.what}", payload)

    async def rotated(self, principal: Principal, rotation: Rotation) -> None:
        """There is a new version of a key."""
        payload = {"key": rotation.what, "version": rotation.version}
        await self._tell(principal, "key.rotated", payload)

    async def _tell(self, principal: Principal, type_: str, payload: Mapping[str, Any]) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=STREAM,
            type=type_,
            time=self._clock.now(),
            payload=dict(payload),
            subject=principal.subject,
            request_id=request_id(),
        )
        await self._db.write(principal, lambda conn: self._outbox.emit(conn, principal, event))
