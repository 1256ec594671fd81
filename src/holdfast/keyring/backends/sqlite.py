"""The keyring in an SQLite file of its own.

Deleted rows are overwritten (``secure_delete``), and there is no write-ahead log that would keep
them: a rollback journal, emptied at each commit. So a destroyed key is gone from the file when the
transaction that destroyed it is.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pysqlite3 import dbapi2

from holdfast.kernel.errors import Corrupt, OutcomeUnknown, Unavailable
from holdfast.kernel.lock import FileLock
from holdfast.keyring.backends import schema
from holdfast.keyring.ports import Rows

T = TypeVar("T")
_PLACE = re.compile(r"\$(\d+)")


class SqliteKeyStore:
    """See :class:`holdfast.keyring.ports.KeyStore`. One process at a time, by lock."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"cannot open the keyring {path}: {error.strerror}") from error
        self._path = path
        self._file_lock = FileLock(path.with_name(path.name + ".lock"), f"the keyring {path}")
        self._file_lock.acquire()
        self._turn = threading.Lock()
        try:
            self._driver = _connected(path)
            self.transact(_make_tables)
        except BaseException:
            self._file_lock.release()
            raise

    def transact(self, unit: Callable[[Rows], T]) -> T:
        with self._turn:
            try:
                self._driver.execute("BEGIN IMMEDIATE")
                try:
                    result = unit(_SqliteRows(self._driver))
                    self._commit()
                except BaseException:
                    if self._driver.in_transaction:
                        self._driver.execute("ROLLBACK")
                    raise
            except dbapi2.DatabaseError as error:
                raise _translated(self._path, error) from error
            return result

    def _commit(self) -> None:
        try:
            self._driver.execute("COMMIT")
        except dbapi2.DatabaseError as error:
            if self._driver.in_transaction:
                raise  # it was not done, and is rolled back
            raise OutcomeUnknown(
                "cannot tell whether the keyring stored it: the commit failed",
                code="commit-failed",
                hint="repeat it",
                retry_after_seconds=1.0,
                internal=f"{type(error).__name__}: {error}",
            ) from error

    def scrub(self) -> None:
        """Nothing is left to overwrite: see the module's text."""

    def close(self) -> None:
        with self._turn:
            self._driver.close()
        self._file_lock.release()


class _SqliteRows:
    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._driver.execute(_PLACE.sub(r"?\1", statement), values)
        try:
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        self._driver.executemany(_PLACE.sub(r"?\1", statement), values).close()


def _connected(path: Path) -> Any:
    if not path.exists():
        path.touch(mode=0o600)
    try:
        driver = dbapi2.connect(str(path), isolation_level=None, check_same_thread=False)
        for pragma in (
            "busy_timeout=5000",
            "journal_mode=TRUNCATE",
            "synchronous=EXTRA",
            "secure_delete=ON",
            "trusted_schema=OFF",
        ):
            driver.execute(f"PRAGMA {pragma}").close()
    except dbapi2.DatabaseError as error:
        raise _translated(path, error) from error
    os.chmod(path, 0o600)  # noqa: PTH101 - one made by hand may be open to others
    return driver


def _make_tables(rows: Rows) -> None:
    for statement in schema.TABLES:
        rows.all(statement.replace("{bytes}", "BLOB"))


def _translated(path: Path, error: Exception) -> Exception:
    if isinstance(error, dbapi2.OperationalError):
        return Unavailable(f"cannot use the keyring {path}: {error}", code="keyring-unavailable")
    return Corrupt(
        f"cannot use the keyring {path}: the file is damaged",
        code="keyring-damaged",
        hint="holdfast backup restore puts the last copy of it back",
        internal=str(error),
    )
