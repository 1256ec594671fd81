"""The database handle: units of work on SQLite or PostgreSQL. See the README of this package."""

from holdfast.kernel.database.bulk import as_source, bulk_insert
from holdfast.kernel.database.errors import is_unique_violation
from holdfast.kernel.database.handle import Database, Dialect, Isolation, Unit
from holdfast.kernel.database.opening import open_database, sqlite_path
from holdfast.kernel.database.row_security import APPLICATION_ROLE, apply_row_level_security
from holdfast.kernel.database.schema import create_schema, seed_tenants
from holdfast.kernel.database.tables import (
    TENANT,
    metadata,
    schema_state,
    tables_of_tenants,
    tenant_table,
    tenants,
)

__all__ = [
    "APPLICATION_ROLE",
    "TENANT",
    "Database",
    "Dialect",
    "Isolation",
    "Unit",
    "apply_row_level_security",
    "as_source",
    "bulk_insert",
    "create_schema",
    "is_unique_violation",
    "metadata",
    "open_database",
    "schema_state",
    "seed_tenants",
    "sqlite_path",
    "tables_of_tenants",
    "tenant_table",
    "tenants",
]
