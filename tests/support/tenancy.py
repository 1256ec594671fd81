"""Watches every statement that SQLite runs for its tenant.

PostgreSQL refuses another tenant's rows itself; SQLite has no such thing, so the suite reads each
statement, the driver's own included: every mention of a tenant's table needs a condition on (or a
value for) ``tenant``.
"""

from __future__ import annotations

import re
from typing import Any

from pysqlite3 import dbapi2
from sqlalchemy import event
from sqlalchemy.pool import Pool

from holdfast.kernel.database import tables_of_tenants

_DATA = re.compile(r"\s*(?:with|select|insert|update|delete|replace)\b", re.IGNORECASE)
_TEXT = re.compile(r"'(?:[^']|'')*'")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_CONFLICT = re.compile(r"on\s+conflict\s*\([^)]*\)", re.IGNORECASE)
_CONDITION = re.compile(
    r"""
    \b tenant "? \s* (?: = | <> | [<>] | \b in \b | \b is \b )   # tenant = ?
  | = \s* (?: "? \w+ "? \. )? "? tenant \b (?! "? \s* = )        # ? = x.tenant
  | \( \s* (?: "? \w+ "? \. )? "? tenant "? \s* [,)]             # (tenant, id) …
    """,
    re.IGNORECASE | re.VERBOSE,
)


_INNERMOST = re.compile(r"\(\s*(?:with|select)\b[^()]*(?:\([^()]*\)[^()]*)*\)", re.IGNORECASE)
_TABLE = re.compile(r'\b(?:from|join|into|update)\s+"?(\w+)"?', re.IGNORECASE)
# `FROM a, b` and `FROM a AS x, b AS y`.
_MORE_TABLES = re.compile(
    r'\bfrom\s+"?\w+"?(?:\s+(?:as\s+)?\w+)?((?:\s*,\s*"?\w+"?(?:\s+(?:as\s+)?\w+)?)+)',
    re.IGNORECASE,
)


def lacks_tenant(statement: str, tables: frozenset[str]) -> bool:
    """Whether ``statement``, or a query inside it, names a table of ``tables`` without a tenant."""
    if not _DATA.match(statement) or "_alembic_tmp_" in statement:
        return False
    text = _CONFLICT.sub(" ", _COMMENT.sub(" ", _TEXT.sub("?", statement)))
    while inner := _INNERMOST.search(text):
        if _part_lacks_tenant(inner[0], tables):
            return True
        text = f"{text[: inner.start()]} ? {text[inner.end() :]}"
    return _part_lacks_tenant(text, tables)


def _part_lacks_tenant(text: str, tables: frozenset[str]) -> bool:
    found = _TABLE.findall(text)
    for tail in _MORE_TABLES.findall(text):
        found += re.findall(r',\s*"?(\w+)"?', tail)
    mentions = sum(1 for name in found if name.lower() in tables)
    return mentions > len(_CONDITION.findall(text))


class TenancyWatch:
    """Notes every statement that forgets its tenant, on each connection made while it is on."""

    def __init__(self) -> None:
        self.offences: list[str] = []
        self._tables: frozenset[str] = frozenset()

    def start(self) -> None:
        event.listen(Pool, "connect", self._watch)

    def stop(self) -> None:
        event.remove(Pool, "connect", self._watch)

    def _watch(self, connection: Any, _record: object) -> None:
        if isinstance(connection, dbapi2.Connection):
            connection.set_trace_callback(self._see)

    def _see(self, statement: str) -> None:
        if len(self._tables) == 0:
            self._tables = frozenset(table.name for table in tables_of_tenants())
        if lacks_tenant(statement, self._tables):
            self.offences.append(statement)

    def take(self) -> list[str]:
        """What has been noted since the last call."""
        taken, self.offences = self.offences, []
        self._tables = frozenset()
        return taken
