"""What the two drivers raise, translated once into the kernel's kinds."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from holdfast.kernel.errors import Conflict, Corrupt, HoldfastError, Internal, Unavailable

# Primary result codes of SQLite (https://sqlite.org/rescode.html).
_SQLITE_UNAVAILABLE = {
    5: "it is busy",
    6: "a table is locked",
    7: "memory ran out",
    8: "it is read-only",
    9: "it took too long",
    10: "the disk reports an error",
    13: "the disk is full",
    14: "its files cannot be opened",
}
_SQLITE_CORRUPT = {11, 26}
_SQLITE_CONSTRAINT = 19

_POSTGRESQL_RETRY = {"40001", "40P01"}
_POSTGRESQL_UNAVAILABLE = {
    "57014": "it took too long",
    "55P03": "a lock was not free in time",
    "25006": "it is read-only",
    "53100": "the disk is full",
    "53200": "memory ran out",
    "53300": "it has too many connections",
    "57P01": "it is shutting down",
    "57P02": "it crashed",
    "57P03": "it is starting",
    "58030": "the disk reports an error",
    "40001": "too many writers contend for the same rows",
    "40P01": "too many writers contend for the same rows",
    "28P01": "it refuses the password",
    "28000": "it refuses the user",
    "3D000": "there is no such database",
    "22023": "it has no schema yet",
    "25P03": "the transaction was idle for too long",
}


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's result code, if ``error`` carries one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    return code if isinstance(code, int) else None


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's error code, if ``error`` carries one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


def is_contention(error: BaseException) -> bool:
    """Whether PostgreSQL asks for the transaction to be run again."""
    return sqlstate(error) in _POSTGRESQL_RETRY


def is_unique_violation(error: BaseException) -> bool:
    """Whether a unique key was taken."""
    if sqlstate(error) == "23505":
        return True
    # The driver tells only the primary code; the rest is in SQLite's own fixed words.
    original = error.orig if isinstance(error, DBAPIError) else error
    return sqlite_code(error) == _SQLITE_CONSTRAINT and str(original).startswith(
        ("UNIQUE constraint failed", "PRIMARY KEY constraint failed")
    )


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL itself says that a commit was rolled back: contention, a constraint."""
    return sqlstate(error) is not None and not is_connection_loss(error)


def is_connection_loss(error: BaseException) -> bool:
    """Whether the server is gone rather than refusing: nothing more can be said on this link."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original = error.orig if isinstance(error, DBAPIError) else error
    state = sqlstate(error)
    if state is not None:
        return state[:2] == "08" or state in {"57P01", "57P02", "57P03"}
    return isinstance(original, ConnectionError | TimeoutError | OSError) or type(
        original
    ).__name__ in {"InterfaceError", "ConnectionDoesNotExistError"}


def translated(error: BaseException) -> BaseException:
    """``error`` as the caller sees it; Holdfast's own errors and foreign ones of the unit as is."""
    if isinstance(error, HoldfastError):
        return error
    if is_unique_violation(error):
        return Conflict("cannot write: a row with this key exists", internal=str(error))
    code = sqlite_code(error)
    if code is not None:
        return _translated_sqlite(error, code)
    state = sqlstate(error)
    if state in _POSTGRESQL_UNAVAILABLE:
        return Unavailable(
            f"cannot use the database: {_POSTGRESQL_UNAVAILABLE[state]}",
            code="database-unavailable",
            retry_after_seconds=1.0,
            internal=str(error),
        )
    if isinstance(error, SQLAlchemyError) or state is not None:
        if is_connection_loss(error):
            return unavailable("it does not answer", error)
        if isinstance(error, IntegrityError):
            return Internal("cannot write: a rule of the schema refuses it", internal=str(error))
        return Internal("cannot use the database: a statement failed", internal=str(error))
    return error


def unavailable(reason: str, error: BaseException | None = None) -> Unavailable:
    """Nothing was done; waiting may help."""
    return Unavailable(
        f"cannot use the database: {reason}",
        code="database-unavailable",
        retry_after_seconds=1.0,
        internal="" if error is None else f"{type(error).__name__}: {error}",
    )


def _translated_sqlite(error: BaseException, code: int) -> HoldfastError:
    primary = code & 0xFF
    if primary in _SQLITE_UNAVAILABLE:
        return unavailable(_SQLITE_UNAVAILABLE[primary], error)
    if primary in _SQLITE_CORRUPT:
        return Corrupt(
            "cannot use the database: its file is damaged",
            code="database-corrupt",
            hint="restore a backup with `holdfast backup restore`",
            internal=str(error),
        )
    if primary == _SQLITE_CONSTRAINT:
        return Internal("cannot write: a rule of the schema refuses it", internal=str(error))
    return Internal("cannot use the database: a statement failed", internal=str(error))
