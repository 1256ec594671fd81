"""The hot path for many rows: past SQLAlchemy's per-row work, straight to the driver."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Connection, LargeBinary, Table, Text
from sqlalchemy.types import TypeEngine

from holdfast.kernel.database.tables import TENANT

_ARRAYS: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    (Text, "text[]"),
    (BigInteger, "bigint[]"),
    (Boolean, "boolean[]"),
    (LargeBinary, "bytea[]"),
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
    vectors = tuple(list(vector) for vector in zip(*rows, strict=True))
    conn.exec_driver_sql(_postgresql_text(table, tuple(columns), skip_existing), vectors)


def _head(table: Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{table.c[column].name}"' for column in columns)
    return f'INSERT INTO "{table.name}" ({names})'


@lru_cache(maxsize=256)
def _sqlite_text(table: Table, columns: tuple[str, ...], skip_existing: bool) -> str:
    marks = ", ".join("?" * len(columns))
    tail = " ON CONFLICT DO NOTHING" if skip_existing else ""
    return f"{_head(table, columns)} VALUES ({marks}){tail}"


@lru_cache(maxsize=256)
def _postgresql_text(table: Table, columns: tuple[str, ...], skip_existing: bool) -> str:
    casts = ", ".join(
        f"${position}::{_array_type(table, column)}" for position, column in enumerate(columns, 1)
    )
    tail = " ON CONFLICT DO NOTHING" if skip_existing else ""
    # Names from the table's own declaration; values travel as parameters.
    return f"{_head(table, columns)} SELECT * FROM unnest({casts}){tail}"  # noqa: S608


def _array_type(table: Table, column: str) -> str:
    kind = table.c[column].type
    for known, text in _ARRAYS:
        if isinstance(kind, known):
            return text
    raise ValueError(f"cannot insert into {table.name}.{column}: its type has no array form")
