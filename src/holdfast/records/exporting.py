"""Exports: records of one publication as NDJSON, CSV or Parquet, streamed."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.errors import Invalid
from holdfast.kernel.files import opened
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.telemetry import request_id
from holdfast.records.columns import Column, Row, Table, data_package, is_numeric, without_doubles
from holdfast.records.content import decode_content
from holdfast.records.ports import Export
from holdfast.records.projection import Edition, Projecting

MEDIA_TYPES = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
FILE_CHUNK_BYTES = 256 * 1024
_RISKY = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that spreadsheets take for formulas."""
_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class Exporting(Projecting):
    """The part of the service that hands out whole publications."""

    async def export(
        self,
        principal: Principal,
        profile: str,
        *,
        format: str = "ndjson",  # noqa: A002 - the parameter's name on the wire
        as_of: str | None = None,
        vintage: str = "latest",
        exact: bool = False,
    ) -> Export:
        """All records of a publication in one file, streamed; memory stays flat.

        In CSV a cell that begins like a formula is preceded by an apostrophe, unless ``exact``; a
        plain number in a column of numbers is none, so ``-5`` of a measure stays a number.
        Where personal fields are not opened, their columns are left out; ``personal`` says of each
        record what became of them.
        Every export is an event. :class:`NotPublished` if there is nothing.
        """
        if format not in MEDIA_TYPES:
            raise Invalid(
                f"cannot export as {format[:40]!r}",
                hint=f"the formats are {', '.join(MEDIA_TYPES)}; datapackage is the description "
                "of the csv (GET /v1/records/datapackage)",
            )
        edition = await self.edition(principal, profile, as_of=as_of, vintage=vintage)
        if format == "parquet":
            found = await self.projection_of(principal, edition)
            chunks = file_chunks(Path(found.path))
        elif format == "csv":
            chunks = self._csv(principal, edition, exact=exact)
        else:
            chunks = self._ndjson(principal, edition)
        personal = self._shown(principal, edition, format)
        await self._note_export(principal, edition, format, personal)
        return Export(
            file_name=f"{profile}-{edition.publication}.{format}",
            media_type=MEDIA_TYPES[format],
            publication=edition.publication,
            chunks=chunks,
            personal=personal,
        )

    def _shown(self, principal: Principal, edition: Edition, kind: str) -> str:
        """What an export says of personal fields; Parquet is the projection, always sealed."""
        if not edition.personal:
            return "none"
        if kind == "parquet" or not principal.may(Permission.RECORDS_PERSONAL):
            return "sealed"
        return "opened"

    def _columns(self, principal: Principal, edition: Edition) -> list[Column]:
        """The columns that this principal's CSV has."""
        opened = self._shown(principal, edition, "csv") == "opened"
        return edition.whole if opened else edition.columns

    async def data_package(
        self, principal: Principal, profile: str, *, as_of: str | None = None
    ) -> dict[str, Any]:
        """The Frictionless data package of the publication's CSV as this principal is given it,
        and of the Parquet file, which has no column of a personal field for anybody."""
        edition = await self.edition(principal, profile, as_of=as_of, vintage="latest")
        return data_package(
            edition.version,
            self._columns(principal, edition),
            edition.sealed,
            publication=edition.publication,
            recorded_at=edition.recorded_at,
            rows=edition.records,
        )

    async def _csv(
        self, principal: Principal, edition: Edition, *, exact: bool
    ) -> AsyncIterator[bytes]:
        columns = without_doubles(self._columns(principal, edition))
        yield csv_lines([[column.name for column in columns]])
        async for rows in self._shown_rows(principal, edition):
            yield await asyncio.to_thread(csv_part, columns, rows, exact=exact)

    async def _ndjson(self, principal: Principal, edition: Edition) -> AsyncIterator[bytes]:
        async for rows in self._shown_rows(principal, edition):
            yield await asyncio.to_thread(ndjson_part, rows)

    async def _shown_rows(self, principal: Principal, edition: Edition) -> AsyncIterator[list[Row]]:
        async for rows in self.table_rows(principal, edition):
            yield await self._rows_opened(principal, edition.profile, rows, what="export")

    async def _note_export(
        self, principal: Principal, edition: Edition, kind: str, personal: str
    ) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=f"profile/{edition.profile}",
            type="records.exported",
            time=self._clock.now(),
            payload={
                "format": kind,
                "personal": personal,
                "profile": edition.profile,
                "publication": edition.publication,
                "vintage": edition.vintage,
            },
            request_id=request_id(),
        )
        emit: Callable[[Connection], None] = lambda conn: self._handles.outbox.emit(  # noqa: E731
            conn, principal, event
        )
        await self._db.write(principal, emit)


def csv_part(columns: Sequence[Column], rows: Sequence[Row], *, exact: bool) -> bytes:
    """Some rows as CSV (RFC 4180)."""
    vectors = Table(columns).vectors(rows, [decode_content(row.body) for row in rows])
    texts = (
        _texts(vector, exact=exact, numeric=is_numeric(column))
        for column, vector in zip(columns, vectors, strict=True)
    )
    return csv_lines(zip(*texts, strict=True))


def _texts(vector: Sequence[Any], *, exact: bool, numeric: bool) -> list[str]:
    return [
        "" if value is None else _cell(_text(value), exact=exact, numeric=numeric)
        for value in vector
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _cell(text: str, *, exact: bool, numeric: bool) -> str:
    if exact or not text.startswith(_RISKY):
        return text
    # What a spreadsheet reads as a number it does not run, but only a whole plain number is one.
    if numeric and _PLAIN.fullmatch(text):
        return text
    return f"'{text}"


def csv_lines(rows: Any) -> bytes:
    """Rows of text as lines that end in CR LF."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    record_id: str
    revision: int
    run: str
    recorded_from: str
    content: msgspec.Raw
    personal: str = ""


def ndjson_part(rows: Sequence[Row]) -> bytes:
    """Some rows as JSON, one a line; ``content`` is the canonical content."""
    return b"".join(
        msgspec.json.encode(
            _Line(
                record_id=row.record,
                revision=row.revision,
                run=row.run,
                recorded_from=row.recorded_from,
                content=msgspec.Raw(row.body.encode()),
                personal=row.personal,
            )
        )
        + b"\n"
        for row in rows
    )


async def file_chunks(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes; once it is open, replacing it does not matter."""
    file = await opened(path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, FILE_CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
