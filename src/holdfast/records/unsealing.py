"""Whose records are, and opening what is theirs for those who may see it.

Keys of people are never kept: each page and each batch asks the keyring, so an erasure holds for
the very next one. What was opened is an event, written before anything of it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.telemetry import request_id
from holdfast.keyring.envelope import key_id_of
from holdfast.keyring.model import RECORDS
from holdfast.records.base import Part
from holdfast.records.columns import Row
from holdfast.records.content import Content
from holdfast.records.model import Batch, Record
from holdfast.records.personal import (
    Owners,
    PersonalPart,
    joined,
    joined_body,
    subject_of,
    unsealed_part,
)
from holdfast.records.rules import Rules


class SealedRow(NamedTuple):
    """What opening a row needs of it; ``sealed`` is empty where there is nothing to open."""

    profile: str
    sequence: int
    sealed: bytes


NOTHING = SealedRow("", 0, b"")


def sealed_of(rows: Sequence[Any]) -> list[SealedRow]:
    """What opening these rows needs."""
    return [
        SealedRow(row.profile, row.sequence, bytes(row.sealed)) if row.sealed else NOTHING
        for row in rows
    ]


class Unsealing(Part):
    """The part of the service that knows people's keys."""

    async def _owners(self, principal: Principal, rules: Rules, batch: Batch) -> Owners | None:
        """Whose the batch's records are; ``None`` if the profile is not about people."""
        marks, keyring, tenant = rules.marks, self._handles.keyring, principal.tenant
        if marks is None:
            return None
        subjects = [subject_of(record, marks) for record in batch.records]

        def work() -> Owners:
            tokens = keyring.subject_tokens(tenant, subjects)
            return Owners(marks, tokens, keyring.subject_keys(tenant, tokens))

        return await keyring.apart(work)

    async def _opened(
        self, principal: Principal, rows: Sequence[SealedRow], *, what: str
    ) -> list[PersonalPart | None] | None:
        """The personal parts, ``None`` for those of erased people; or nothing if they are not for
        this principal to see. ``what`` names the occasion in the event."""
        sealed = [row for row in rows if row.sealed]
        if not sealed or not principal.may(Permission.RECORDS_PERSONAL):
            return None
        keyring = self._handles.keyring
        parts = await keyring.apart(self._open_rows, principal.tenant, rows)
        opened = sum(part is not None for part in parts)
        if opened:
            await self._note_opened(principal, sealed[0].profile, opened, what)
        return parts

    def _open_rows(self, tenant: str, rows: Sequence[SealedRow]) -> list[PersonalPart | None]:
        ids = [key_id_of(row.sealed) if row.sealed else b"" for row in rows]
        keys = self._handles.keyring.find_many(tenant, RECORDS, set(ids) - {b""})
        return [
            unsealed_part(tenant, row.profile, row.sequence, keys[key_id], row.sealed)[1]
            if key_id in keys
            else None
            for row, key_id in zip(rows, ids, strict=True)
        ]

    async def _note_opened(
        self, principal: Principal, profile: str, records: int, what: str
    ) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=f"profile/{profile}",
            type="records.opened",
            time=self._clock.now(),
            payload={"occasion": what, "profile": profile, "records": records},
            request_id=request_id(),
        )
        await self._db.write(
            principal, lambda conn: self._handles.outbox.emit(conn, principal, event)
        )

    async def _with_personal(
        self, principal: Principal, records: list[Record], rows: Sequence[SealedRow], *, what: str
    ) -> list[Record]:
        """The records with what of their people this principal may see."""
        parts = await self._opened(principal, rows, what=what)
        if parts is None:
            return records
        return [
            _joined_record(record, part) if row.sealed else record
            for record, row, part in zip(records, rows, parts, strict=True)
        ]

    async def _rows_opened(
        self, principal: Principal, profile: str, rows: Sequence[Row], *, what: str
    ) -> list[Row]:
        """:meth:`_with_personal` of a table's rows."""
        sealed = [SealedRow(profile, row.sequence, row.sealed) for row in rows]
        parts = await self._opened(principal, sealed, what=what)
        if parts is None:
            return list(rows)
        return [
            _joined_row(row, part) if row.sealed else row
            for row, part in zip(rows, parts, strict=True)
        ]


def _joined_row(row: Row, part: PersonalPart | None) -> Row:
    if part is None:
        return msgspec.structs.replace(row, personal="erased")
    return msgspec.structs.replace(
        row, body=joined_body(row.body, part), sealed=b"", personal="opened"
    )


def _joined_record(record: Record, part: PersonalPart | None) -> Record:
    if part is None:
        return msgspec.structs.replace(record, personal="erased")
    whole = joined(
        Content(
            key=record.key,
            dimensions=record.dimensions,
            measures=record.measures,
            attributes=record.attributes,
            period=record.period,
        ),
        part,
    )
    return msgspec.structs.replace(
        record,
        key=whole.key,
        dimensions=whole.dimensions,
        measures=whole.measures,
        attributes=whole.attributes,
        period=whole.period,
        personal="opened",
    )
