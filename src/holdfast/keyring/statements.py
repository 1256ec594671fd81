"""What the keyring asks its store, inside of a transaction: statements and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.keyring.master import MasterKey, MasterKeys
from holdfast.keyring.ports import Rows

IN_MAX = 500

KEY = "id, kind, purpose, subject, version, wrapped_by, wrapped_by_version, wrapped"
K_KEY = ", ".join(f"k.{name}" for name in KEY.split(", "))
NEWEST = (
    "SELECT tenant, max(version) AS version FROM keyring_keys WHERE kind = 'tenant' GROUP BY tenant"
)
INSERT = (
    "INSERT INTO keyring_keys (tenant, id, kind, purpose, subject, version, wrapped_by,"
    " wrapped_by_version, wrapped, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
)


def meta(rows: Rows, name: str) -> Any:
    found = rows.all("SELECT value FROM keyring_meta WHERE name = $1", name)
    return found[0][0] if found else None


def keyring_id(rows: Rows) -> str:
    """The keyring's id: what the data carries, and what roles that share it have in common. Empty
    where there is none yet."""
    return str(meta(rows, "keyring") or "")


def know_master(rows: Rows, key: MasterKey) -> None:
    rows.all(
        "INSERT INTO keyring_masters (id, version, check_value) VALUES ($1, $2, $3)"
        " ON CONFLICT (id) DO NOTHING",
        key.id.hex(),
        key.version,
        key.check_value,
    )


def newest_tenant_key(rows: Rows, tenant: str) -> list[tuple[Any, ...]]:
    return rows.all(
        f"SELECT {KEY} FROM keyring_keys WHERE tenant = $1 AND kind = 'tenant'"  # noqa: S608
        " ORDER BY version DESC LIMIT 1",
        tenant,
    )


def by_ids(rows: Rows, tenant: str, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    return _in(rows, f"SELECT {KEY} FROM keyring_keys WHERE tenant = $1 AND id IN", [tenant], ids)  # noqa: S608


def named(rows: Rows, tenant: str, kind: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    statement = f"SELECT {KEY} FROM keyring_keys WHERE tenant = $1 AND kind = $2 AND subject IN"  # noqa: S608
    return _in(rows, statement, [tenant, kind], names)


def erased_of(rows: Rows, tenant: str, tokens: Sequence[str]) -> set[str]:
    statement = "SELECT subject FROM keyring_erasures WHERE tenant = $1 AND subject IN"
    return {row[0] for row in _in(rows, statement, [tenant], tokens)}


def _in(
    rows: Rows, statement: str, first: list[Any], values: Sequence[str]
) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(values), IN_MAX):
        some = values[start : start + IN_MAX]
        places = ", ".join(
            f"${number}" for number in range(len(first) + 1, len(first) + 1 + len(some))
        )
        found += rows.all(f"{statement} ({places})", *first, *some)
    return found


def used_wrappers(rows: Rows) -> set[str]:
    """The ids of what wraps a key, as the rows have them: one may be damaged."""
    return {row[0] for row in rows.all("SELECT DISTINCT wrapped_by FROM keyring_keys")}


def retire_tenant_keys(rows: Rows) -> int:
    """Destroy tenants' wrapping keys that wrap nothing and are not the newest."""
    gone = rows.all(
        f"SELECT k.tenant, k.id FROM keyring_keys k JOIN ({NEWEST}) n ON n.tenant = k.tenant"  # noqa: S608
        " WHERE k.kind = 'tenant' AND k.version < n.version AND NOT EXISTS"
        " (SELECT 1 FROM keyring_keys w WHERE w.tenant = k.tenant AND w.wrapped_by = k.id)"
    )
    rows.many("DELETE FROM keyring_keys WHERE tenant = $1 AND id = $2", gone)
    return len(gone)


def forget_masters(rows: Rows, masters: MasterKeys) -> None:
    used = used_wrappers(rows)
    for (key_id,) in rows.all("SELECT id FROM keyring_masters"):
        if key_id not in used and key_id != masters.current.id.hex():
            rows.all("DELETE FROM keyring_masters WHERE id = $1", key_id)
