"""A DuckDB in memory that can reach nothing, and SQL made for it.

It has no files, no network, no extensions, and its configuration is locked. Its SQL is made of our
own templates: identifiers are quoted and texts are escaped here, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.reports.errors import InputMismatch

if TYPE_CHECKING:
    import duckdb

THREADS = 2


@contextmanager
def locked_database(memory_mb: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that can reach nothing outside; give it tables, then query."""
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": THREADS,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": "",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    try:
        rows_of(connection, "SET TimeZone = 'UTC'")
        rows_of(connection, "SET enable_external_access = false")
        rows_of(connection, "SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    """All rows of a statement: the connection takes the next one only when a result is used up."""
    return connection.execute(sql).fetchall()


def one_of(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The first row of a statement that always has one."""
    return rows_of(connection, sql)[0]


def quoted(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` as an SQL string."""
    if "\x00" in text:
        raise InputMismatch("cannot filter: a value holds a NUL character")
    return "'" + text.replace("'", "''") + "'"
