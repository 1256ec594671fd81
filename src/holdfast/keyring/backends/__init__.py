"""Where the keyring lies: the URL names the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.kernel.errors import Invalid

if TYPE_CHECKING:
    from holdfast.keyring.ports import KeyStore

SCHEMES = ("sqlite", "postgresql")


def open_store(
    url: str, *, password: str | None = None, schema: str = "holdfast_keyring"
) -> KeyStore:
    """The store at ``url``, its tables made if they are missing; ``schema`` is PostgreSQL's."""
    scheme = url.split("://", 1)[0]
    if scheme == "sqlite":
        from holdfast.kernel.database import sqlite_path
        from holdfast.keyring.backends.sqlite import SqliteKeyStore

        return SqliteKeyStore(sqlite_path(url))
    if scheme == "postgresql":
        from holdfast.keyring.backends.postgresql import PostgresKeyStore

        return PostgresKeyStore(url, password=password, schema=schema)
    raise Invalid(
        f"cannot open the keyring: the scheme {scheme!r} is not known",
        hint=f"known are {', '.join(f'{known}://' for known in SCHEMES)}",
    )
