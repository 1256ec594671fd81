"""One query in a process of its own: what the child does, and what it can no longer do by then.

The order is the point. First the tables are taken in: files read whole and held to their digests,
rows from memory that the parent shares. Then the engine is shut: no files, no network, no
extensions, no replacement scans, its configuration locked. Then the process is shut: it may open no
descriptor any more, so that whatever the engine was talked into finds no file and no socket. Only
then the caller's SQL is looked at: parsed, walked against a list, and run.

Memory, processor time and the time on the clock are bounded by the parent; rows and bytes of the
answer here. What is beyond a bound is an error that names it, never half an answer.
"""

# ruff: noqa: S608 - names are quoted, texts escaped; the caller's SQL is the point of it.
from __future__ import annotations

import csv
import ctypes
import hashlib
import io
import json
import math
import resource
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast.kernel.errors import Corrupt, Denied, HoldfastError, Invalid, TooLarge, Unavailable
from holdfast.reports.export import csv_cell
from holdfast.reports.inputs import sealed_columns
from holdfast.reports.locked import literal, locked_database, quoted, rows_of
from holdfast.reports.query import (
    SHARED,
    ChildAnswer,
    ChildTable,
    QueryColumn,
    QueryJob,
    check_sealed,
    check_tree,
    job_of,
    misspelled,
    tables_of,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow

PR_SET_NO_NEW_PRIVS = 38
SAFE_INTEGER = 2**53 - 1
BATCH_ROWS = 2048
LENGTH_BYTES = 4
MESSAGE_MAX = 1500

TEXT, NUMBER, FLAG, TIME = "text", "number", "flag", "time"
LAYOUTS: dict[str, list[tuple[str, str]]] = {
    "events": [
        ("position", NUMBER),
        ("id", TEXT),
        ("stream", TEXT),
        ("version", NUMBER),
        ("type", TEXT),
        ("time", TIME),
        ("recorded", TIME),
        ("subject", TEXT),
        ("request_id", TEXT),
        ("payload", TEXT),
        ("erased", FLAG),
    ],
    "runs": [
        ("run", TEXT),
        ("profile", TEXT),
        ("task", TEXT),
        ("status", TEXT),
        ("code", TEXT),
        ("reason", TEXT),
        ("publication", NUMBER),
        ("records", NUMBER),
        ("new", NUMBER),
        ("changed", NUMBER),
        ("unchanged", NUMBER),
        ("withdrawn", NUMBER),
        ("rejects", NUMBER),
        ("batches", NUMBER),
        ("attempts", NUMBER),
        ("fence", NUMBER),
        ("worker", TEXT),
        ("replayed", FLAG),
        ("profile_digest", TEXT),
        ("finished_at", TIME),
    ],
    "tasks": [
        ("task", TEXT),
        ("kind", TEXT),
        ("run", TEXT),
        ("status", TEXT),
        ("priority", NUMBER),
        ("residency", TEXT),
        ("exclusive", TEXT),
        ("attempts", NUMBER),
        ("fence", NUMBER),
        ("worker", TEXT),
        ("code", TEXT),
        ("reason", TEXT),
        ("submitted_at", TIME),
        ("retry_at", TIME),
        ("finished_at", TIME),
        ("updated_at", TIME),
    ],
}
"""Columns of the tables that come as rows. Times are UTC; a payload is JSON as text."""

HIDDEN = ("sealed",)
"""Ciphertext is nobody's answer: personal fields are not in a query's tables at all."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the engine was given: the rows of each table, and what personal fields each lacks."""

    counts: dict[str, int]
    sealed: dict[str, list[str]]
    """By profile."""
    lacking: dict[str, dict[str, str]]
    """By every name that a table has: the columns, and whose they are."""
    columns: dict[str, list[str]]
    """By every name of a table whose rows came along: what it is made of."""


def frame(rows: Sequence[Sequence[Any]]) -> bytes:
    """Some rows as the child reads them."""
    data = msgspec.msgpack.encode(rows)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def answer(payload: Any) -> Any:
    """The entry point of the child."""
    job = job_of(payload)
    import duckdb
    import pyarrow.compute  # noqa: F401 - nothing can be loaded any more once the door is shut

    zoneinfo.ZoneInfo("UTC")
    try:
        with locked_database(job.memory_mb // 2) as connection:
            loaded = _load(connection, job)
            _shut_process()
            return msgspec.to_builtins(_answered(connection, job, loaded))
    except HoldfastError:
        raise
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise _too_much_memory(job) from error
    except duckdb.Error as error:
        raise _failed(error, job) from error


def _shut_process() -> None:
    """From here on this process opens nothing: no file, no socket, no pipe."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# --- taking in ----------------------------------------------------------------------------------


def _load(connection: duckdb.DuckDBPyConnection, job: QueryJob) -> _Loaded:
    """Give the engine its tables."""
    loaded = _Loaded({}, {}, {"records": {}}, {})
    parts: list[tuple[ChildTable, list[str]]] = []
    for table in job.tables:
        found, sealed = _read(table)
        for name in table.names:
            connection.register(name, found)
            loaded.lacking[name.casefold()] = {n.casefold(): table.profile for n in sealed}
            if table.loaded:
                loaded.columns[name] = found.column_names
        if table.loaded:
            loaded.counts[table.profile or table.names[0]] = found.num_rows
        if table.loaded and table.profile and table.names:
            parts.append((table, sealed))
            loaded.lacking["records"] |= loaded.lacking[table.names[0].casefold()]
            if sealed:
                loaded.sealed[table.profile] = sealed
    if "records" not in job.withheld:
        # A period that is personal in one profile is no column of all of them: null is no period.
        shared = [name for name in SHARED if name not in loaded.lacking["records"]]
        _create_records(connection, shared, [_records_part(table, shared) for table, _ in parts])
    return loaded


def _records_part(table: ChildTable, columns: list[str]) -> str:
    shared = ", ".join(quoted(name) for name in columns)
    return (
        f"SELECT {literal(table.profile)} AS profile, {shared}, to_json(content) AS content"
        f" FROM {quoted(table.names[0])} AS content"
    )


def _create_records(
    connection: duckdb.DuckDBPyConnection, shared: list[str], parts: list[str]
) -> None:
    if not parts:
        nothing = ", ".join(
            f"CAST(NULL AS {'BIGINT' if name == 'revision' else 'VARCHAR'}) AS {quoted(name)}"
            for name in ("profile", *shared)
        )
        parts = [f"SELECT {nothing}, CAST(NULL AS JSON) AS content WHERE false"]
    rows_of(connection, f"CREATE VIEW records AS {' UNION ALL '.join(parts)}")


def _read(table: ChildTable) -> tuple[pyarrow.Table, list[str]]:
    """A table's rows, and the personal columns that it lacks; no rows of one that the SQL does not
    speak of, which is there to be listed."""
    import pyarrow

    if table.path:
        return _read_projection(table)
    if table.profile:
        return pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in SHARED}), []
    return _read_rows(table), []


def _read_projection(table: ChildTable) -> tuple[pyarrow.Table, list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        data = Path(table.path).read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(
            f"cannot read the records of {table.profile}: they were replaced meanwhile",
            code="projection-replaced",
        ) from error
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != table.digest:
        raise Corrupt(f"cannot read the records of {table.profile}: their bytes are others")
    schema = pyarrow.parquet.read_schema(pyarrow.BufferReader(data))
    names, sealed = schema.names, sealed_columns(schema)
    repeated = [n for n in names if n.startswith(("dim_", "attr_", "period_")) or n == "run"]
    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), read_dictionary=repeated)
    lacking = {*HIDDEN, *sealed}
    return file.read([name for name in names if name not in lacking], use_threads=False), sealed


def _read_rows(table: ChildTable) -> pyarrow.Table:
    import pyarrow

    layout = LAYOUTS[table.names[0]]
    carried = {
        TEXT: pyarrow.string(),
        NUMBER: pyarrow.int64(),
        FLAG: pyarrow.bool_(),
        TIME: pyarrow.timestamp("us"),
    }
    schema = pyarrow.schema([(name, carried[kind]) for name, kind in layout])
    batches = [
        pyarrow.RecordBatch.from_arrays(
            [
                _column(vector, kind, carried[kind])
                for vector, (_, kind) in zip(zip(*rows, strict=True), layout, strict=True)
            ],
            schema=schema,
        )
        for rows in (_frames(table.descriptor) if table.loaded else ())
    ]
    return pyarrow.Table.from_batches(batches, schema=schema)


def _column(vector: Sequence[Any], kind: str, type_: pyarrow.DataType) -> pyarrow.Array:
    import pyarrow

    if kind != TIME:
        return pyarrow.array(vector, type=type_)
    moments = pyarrow.array(vector, type=pyarrow.string())
    return moments.cast(pyarrow.timestamp("us", "UTC")).cast(type_)


def _frames(descriptor: int) -> Iterator[list[list[Any]]]:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        while head := file.read(LENGTH_BYTES):
            size = int.from_bytes(head, "big")
            data = file.read(size)
            if len(data) != size:
                raise Corrupt("cannot read the rows of a query: they are cut off")
            yield msgspec.msgpack.decode(data)


# --- asking -------------------------------------------------------------------------------------


def _answered(connection: duckdb.DuckDBPyConnection, job: QueryJob, loaded: _Loaded) -> ChildAnswer:
    read = tables_of(_check(connection, job, loaded))
    relation = _bound(connection, job, loaded, read)
    columns = [
        QueryColumn(name=name, type=str(kind))
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ]
    reader = relation.to_arrow_reader(BATCH_ROWS)
    pieces: list[str] = []
    count = size = 0
    write = _csv if job.format == "csv" else _json
    if job.format == "csv":
        pieces.append(_csv_head(columns))
    for batch in reader:
        count += batch.num_rows
        if count > job.rows_max:
            raise TooLarge(
                f"cannot answer: the query gives more than {job.rows_max} rows",
                code="query-rows",
                hint="add a LIMIT, or ask for less",
            )
        made = write(columns, _rows(batch, columns), exact=job.exact)
        size += len(made)
        if size > job.answer_bytes_max:
            raise TooLarge(
                f"cannot answer: the answer is over {job.answer_bytes_max} bytes",
                code="query-answer",
                hint="add a LIMIT, or ask for fewer columns",
            )
        if made:
            pieces.append(made)
    body = "".join(pieces) if job.format == "csv" else f"[{','.join(pieces)}]"
    return ChildAnswer(
        columns=columns,
        row_count=count,
        body=body,
        rows={name: loaded.counts[name] for name in _read_of(job.tables, read)},
        sealed=loaded.sealed,
    )


def _bound(
    connection: duckdb.DuckDBPyConnection, job: QueryJob, loaded: _Loaded, read: set[str]
) -> duckdb.DuckDBPyRelation:
    """The SQL with every name in it found; whoever misspelled one is told what there is."""
    import duckdb

    try:
        return connection.sql(job.sql)
    except duckdb.BinderException as error:
        raise _failed(error, job, misspelled(str(error), loaded.columns, read)) from error


def _read_of(tables: list[ChildTable], read: set[str]) -> list[str]:
    """What the loaded tables that the SQL reads are called; ``records`` are all of them."""
    return [
        table.profile or table.names[0]
        for table in tables
        if table.loaded
        and (
            (table.profile and "records" in read)
            or any(name.casefold() in read for name in table.names)
        )
    ]


def _check(connection: duckdb.DuckDBPyConnection, job: QueryJob, loaded: _Loaded) -> dict[str, Any]:
    """Let nothing near the engine but one ``SELECT`` over the tables that were given to it; what
    its parser makes of it."""
    rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [job.sql]).fetchall()
    try:
        tree = json.loads(rows[0][0])
    except RecursionError as error:
        raise Invalid(
            "cannot run the query: it is nested too deeply", code="query-invalid"
        ) from error
    there = [name for table in job.tables if table.loaded for name in table.names]
    listed = [name for table in job.tables for name in table.names]
    if "records" not in job.withheld:
        there, listed = [*there, "records"], [*listed, "records"]
    try:
        check_tree(tree, there, listed, job.later)
    except Invalid as error:
        if error.code != "query-table-unknown" or not job.withheld:
            raise
        check_tree(tree, [*there, *job.withheld], listed)
        raise Denied(
            "cannot run the query: "
            + "; ".join(f"{why}, for {name}" for name, why in job.withheld.items()),
            code="permission-missing",
        ) from error
    check_sealed(tree, loaded.lacking)
    return cast(dict[str, Any], tree)


def _failed(error: Exception, job: QueryJob, hint: str = "") -> HoldfastError:
    """What the engine said, as far as it concerns the caller's SQL."""
    text = " ".join(str(error).split())[:MESSAGE_MAX]
    if "failed to allocate" in text.lower() or "out of memory" in text.lower():
        return _too_much_memory(job)
    return Invalid(
        f"cannot run the query: {text}",
        code="query-failed",
        hint=hint or "DESCRIBE table and SHOW TABLES tell what there is",
    )


def _too_much_memory(job: QueryJob) -> TooLarge:
    return TooLarge(
        f"cannot run the query: it needs more than {job.memory_mb} MB",
        code="query-memory",
        hint="ask for less at once; HOLDFAST_REPORTS_QUERY_MEMORY_MB is the bound",
    )


# --- writing ------------------------------------------------------------------------------------


def _rows(batch: pyarrow.RecordBatch, columns: list[QueryColumn]) -> Iterator[list[Any]]:
    vectors = [
        [_plain(value, column.type) for value in _python(batch.column(number))]
        for number, column in enumerate(columns)
    ]
    return map(list, zip(*vectors, strict=True))


def _python(array: pyarrow.Array) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_timestamp(array.type) and array.type.unit == "ns":
        array = array.cast(pyarrow.timestamp("us", array.type.tz), safe=False)
    if pyarrow.types.is_time(array.type) and array.type.bit_width == 64:
        array = array.cast(pyarrow.time64("us"), safe=False)
    return list(array.to_pylist())


def _plain(value: Any, kind: str = "") -> Any:
    """A value as JSON carries it without loss."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= SAFE_INTEGER else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            if kind in ("HUGEINT", "UHUGEINT") and abs(value) <= SAFE_INTEGER:
                return int(value)
            return f"{value:f}"
        case datetime():
            text = value.replace(tzinfo=None).isoformat(timespec="microseconds")
            return f"{text}Z" if value.tzinfo else text
        case date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return str(value)


def _json(columns: list[QueryColumn], rows: Iterator[list[Any]], *, exact: bool) -> str:
    del columns, exact
    return ",".join(msgspec.json.encode(row).decode() for row in rows)


def _csv_head(columns: list[QueryColumn]) -> str:
    return _lines([[csv_cell(column.name, number=False, exact=False) for column in columns]])


def _csv(columns: list[QueryColumn], rows: Iterator[list[Any]], *, exact: bool) -> str:
    texts = [column.type in ("VARCHAR", "JSON") for column in columns]
    return _lines(
        [
            csv_cell(_text(value), number=not text, exact=exact)
            for text, value in zip(texts, row, strict=True)
        ]
        for row in rows
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return str(value)


def _lines(rows: Any) -> str:
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows(rows)
    return sink.getvalue()
