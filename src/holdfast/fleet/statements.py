"""How the fleet's statements take lists and sets of rows, on either database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, TextClause, text

from holdfast.kernel.database import as_source


def is_sqlite(conn: Connection) -> bool:
    """Whether this is the embedded database."""
    return conn.dialect.name == "sqlite"


@lru_cache(maxsize=64)
def by_ids(statement: str, dialect: str) -> TextClause:
    """``statement`` with ``{ids}`` as the condition that takes a list, on this database."""
    if dialect == "sqlite":
        return text(statement.format(ids="IN (SELECT value FROM json_each(:ids))", lock=""))
    return text(statement.format(ids="= ANY(CAST(:ids AS text[]))", lock=" FOR UPDATE"))


def ids_of(conn: Connection, ids: Collection[str]) -> Any:
    """The list as the value of ``:ids`` in a statement of :func:`by_ids`."""
    listed = list(ids)
    return msgspec.json.encode(listed).decode() if is_sqlite(conn) else listed


def select_by_ids(
    conn: Connection, statement: str, ids: Collection[str], **values: Any
) -> Sequence[Row[Any]]:
    """The rows that ``statement`` finds for these ids."""
    if not ids:
        return []
    return conn.execute(
        by_ids(statement, conn.dialect.name), {"ids": ids_of(conn, ids), **values}
    ).all()


def run_many(
    conn: Connection,
    sqlite: str,
    postgresql: str,
    columns: Sequence[str],
    rows: Sequence[Any],
    types: Sequence[str] = (),
) -> None:
    """One statement over many rows, of text unless ``types`` says otherwise: prepared once on
    SQLite, a source on PostgreSQL."""
    if not rows:
        return
    if is_sqlite(conn):
        cursor = conn.connection.cursor()
        try:
            cursor.executemany(sqlite, rows)
        finally:
            cursor.close()
        return
    source, values = as_source(types or ("text",) * len(columns), columns, rows)
    conn.exec_driver_sql(postgresql.format(source=source), values)
