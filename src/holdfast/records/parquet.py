"""Writing a projection: rows that lie in a file become Parquet. Runs in a child or a thread.

The same rows and columns give the same bytes, for one version of the writer. Memory is bounded by
the row group, whatever the number of rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from holdfast.kernel.errors import Corrupt
from holdfast.records.columns import Column, Row, Table
from holdfast.records.content import decode_content

ROW_GROUP = 20_000
_decode_rows = msgspec.msgpack.Decoder(list[Row]).decode
_encode = msgspec.msgpack.Encoder().encode


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to write and where; ``rows`` is the file that :func:`write_frame` filled."""

    rows: str
    target: str
    columns: list[Column]
    metadata: dict[str, str] = {}


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The file as it was written, flushed."""

    rows: int
    digest: str
    size_bytes: int


def write_frame(file: IO[bytes], rows: list[Row]) -> None:
    """Append some rows; :func:`read_frames` gives them back."""
    data = _encode(rows)
    file.write(len(data).to_bytes(4, "big") + data)


def read_frames(path: Path) -> Iterator[list[Row]]:
    """The rows of a file, some at a time; ``Corrupt`` if it is cut off."""
    with path.open("rb") as file:
        while head := file.read(4):
            size = int.from_bytes(head, "big")
            data = file.read(size)
            if len(data) != size:
                raise Corrupt(f"cannot read the rows in {path.name}: the file is cut off")
            yield _decode_rows(data)


def build(payload: Any) -> Any:
    """:func:`write_parquet` for a child process: plain data in, plain data out."""
    return msgspec.to_builtins(write_parquet(msgspec.convert(payload, Job)))


def write_parquet(job: Job) -> Written:
    """Write the file at ``job.target`` and flush it; the caller gives it its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "string": pa.string(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "double": pa.float64(),
    }
    schema = pa.schema(
        [
            pa.field(column.name, kinds[column.type], metadata=_said(column))
            for column in job.columns
        ],
        metadata=job.metadata,
    )
    table, rows, target = Table(job.columns), 0, Path(job.target)
    with (
        target.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", version="2.6") as writer,
    ):
        for group in _groups(read_frames(Path(job.rows))):
            contents = [decode_content(row.body) for row in group]
            vectors = table.vectors(group, contents)
            arrays = [
                pa.array(vector, type=field.type)
                for vector, field in zip(vectors, schema, strict=True)
            ]
            writer.write_table(
                pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP
            )
            rows += len(group)
    found = hashlib.sha256()
    with target.open("rb") as finished:
        os.fsync(finished.fileno())
        while chunk := finished.read(1024 * 1024):
            found.update(chunk)
    return Written(
        rows=rows, digest=f"sha256:{found.hexdigest()}", size_bytes=target.stat().st_size
    )


def _said(column: Column) -> dict[str, str] | None:
    """What the data dictionary says of a column, kept in the file itself."""
    said = {"description": column.description, "unit": column.unit}
    return {name: value for name, value in said.items() if value} or None


def _groups(frames: Iterator[list[Row]]) -> Iterator[list[Row]]:
    waiting: list[Row] = []
    for frame in frames:
        waiting += frame
        while len(waiting) >= ROW_GROUP:
            yield waiting[:ROW_GROUP]
            waiting = waiting[ROW_GROUP:]
    if waiting:
        yield waiting
