"""The hot path for many rows: past SQLAlchemy's per-row work, straight to the driver."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Connection, LargeBinary, Table, Text
from sqlalchemy.types import TypeEngine

from holdfast.kernel.database.tables import TENANT

_KINDS: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    (Text, "text"),
    (BigInteger, "bigint"),
    (Boolean, "boolean"),
    (LargeBinary, "bytea"),
)


def bulk_insert(
    conn: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    skip_existing: bool = False,
) -> None:
    """Insert ``rows`` (values in the order of ``columns``; ``tenant`` among them if it has one).

    With ``skip_existing`` rows whose key is taken are left as they are. Column defaults on the
    Python side are not applied. One statement on PostgreSQL (``unnest``), one prepared statement
    on SQLite.
    """
    if not rows:
        return
    if TENANT in table.columns and TENANT not in columns:
        raise ValueError(f"cannot insert into {table.name}: tenant is not among the columns")
    if conn.dialect.name == "sqlite":
        cursor = conn.connection.cursor()
        try:
            cursor.executemany(_sqlite_text(table, tuple(columns), skip_existing), rows)
        finally:
            cursor.close()
        return
    source, vectors = as_source(_types(table, tuple(columns)), columns, rows)
    tail = " ON CONFLICT DO NOTHING" if skip_existing else ""
    # Names from the table's own declaration; values travel as parameters.
    conn.exec_driver_sql(f"{_head(table, tuple(columns))} {source}{tail}", vectors)


def as_source(
    types: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[str, tuple[Any, ...]]:
    """``rows`` as a SELECT for PostgreSQL with these column types and names, and its parameters.

    One array a column, but one plain value where all rows have the same: tenant, times and kinds
    mostly are, and an array's elements are looked at one by one on both sides of the wire.
    """
    vectors = [list(vector) for vector in zip(*rows, strict=True)]
    # One column must be an array, or the rows could not be counted.
    constant = [
        vector[0] == vector[-1] and vector.count(vector[0]) == len(vector) for vector in vectors
    ]
    if all(constant):
        constant[0] = False
    parameters = tuple(
        vector[0] if same else vector for vector, same in zip(vectors, constant, strict=True)
    )
    return _source_text(tuple(types), tuple(columns), tuple(constant)), parameters


@lru_cache(maxsize=1024)
def _source_text(
    types: tuple[str, ...], columns: tuple[str, ...], constant: tuple[bool, ...]
) -> str:
    given, arrays, names = [], [], []
    for position, (kind, name, same) in enumerate(zip(types, columns, constant, strict=True), 1):
        if same:
            given.append(f'${position}::{kind} AS "{name}"')
        else:
            given.append(f'given."{name}"')
            arrays.append(f"${position}::{kind}[]")
            names.append(f'"{name}"')
    # S608: only names and types of our own declarations; values travel as parameters.
    return (
        f"SELECT {', '.join(given)}"  # noqa: S608
        f" FROM unnest({', '.join(arrays)}) AS given ({', '.join(names)})"
    )


def _head(table: Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{table.c[column].name}"' for column in columns)
    return f'INSERT INTO "{table.name}" ({names})'


@lru_cache(maxsize=256)
def _sqlite_text(table: Table, columns: tuple[str, ...], skip_existing: bool) -> str:
    marks = ", ".join("?" * len(columns))
    tail = " ON CONFLICT DO NOTHING" if skip_existing else ""
    return f"{_head(table, columns)} VALUES ({marks}){tail}"


@lru_cache(maxsize=256)
def _types(table: Table, columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_type(table, column) for column in columns)


def _type(table: Table, column: str) -> str:
    kind = table.c[column].type
    for known, text in _KINDS:
        if isinstance(kind, known):
            return text
    raise ValueError(f"cannot insert into {table.name}.{column}: its type has no array form")
