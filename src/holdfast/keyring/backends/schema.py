"""The keyring's tables: one text for both engines. Their version is a row of ``keyring_meta``."""

from __future__ import annotations

VERSION = "1"

TABLES = (
    "CREATE TABLE IF NOT EXISTS keyring_meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS keyring_masters (
        id TEXT NOT NULL PRIMARY KEY,
        version BIGINT NOT NULL,
        check_value TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS keyring_keys (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        purpose TEXT NOT NULL,
        subject TEXT NOT NULL,
        version BIGINT NOT NULL,
        wrapped_by TEXT NOT NULL,
        wrapped_by_version BIGINT NOT NULL,
        wrapped {bytes} NOT NULL,
        created_at TEXT NOT NULL,
        PRIMARY KEY (tenant, id),
        UNIQUE (tenant, kind, purpose, subject, version))""",
    "CREATE INDEX IF NOT EXISTS ix_keyring_keys_wrapped_by ON keyring_keys (wrapped_by)",
    """CREATE TABLE IF NOT EXISTS keyring_restrictions (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT NOT NULL,
        until TEXT NOT NULL,
        placed_by TEXT NOT NULL,
        placed_at TEXT NOT NULL,
        PRIMARY KEY (tenant, subject, kind))""",
    """CREATE TABLE IF NOT EXISTS keyring_releases (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL,
        through TEXT NOT NULL,
        released_by TEXT NOT NULL,
        released_at TEXT NOT NULL,
        PRIMARY KEY (tenant, subject))""",
    """CREATE TABLE IF NOT EXISTS keyring_erasures (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        requested_by TEXT NOT NULL,
        requested_at TEXT NOT NULL,
        unrecoverable_by TEXT NOT NULL,
        keys BIGINT NOT NULL,
        done_at TEXT NOT NULL,
        PRIMARY KEY (tenant, subject))""",
)

NAMES: dict[str, tuple[str, ...]] = {
    "keyring_meta": ("name", "value"),
    "keyring_masters": ("id", "version", "check_value"),
    "keyring_keys": (
        "tenant",
        "id",
        "kind",
        "purpose",
        "subject",
        "version",
        "wrapped_by",
        "wrapped_by_version",
        "wrapped",
        "created_at",
    ),
    "keyring_restrictions": (
        "tenant",
        "subject",
        "kind",
        "reason",
        "until",
        "placed_by",
        "placed_at",
    ),
    "keyring_releases": (
        "tenant",
        "subject",
        "reason",
        "through",
        "released_by",
        "released_at",
    ),
    "keyring_erasures": (
        "tenant",
        "subject",
        "id",
        "state",
        "reason",
        "requested_by",
        "requested_at",
        "unrecoverable_by",
        "keys",
        "done_at",
    ),
}
"""Table → columns, for copies of the whole keyring."""
