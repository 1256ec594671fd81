"""The shared schema: one :class:`MetaData`, and the rule that the tenant leads every key.

Slices declare their tables in their ``store.py`` with :func:`tenant_table`. Column types are
``Text``, ``BigInteger``, ``Boolean`` and ``LargeBinary``; JSON is canonical JSON in a ``Text``, a
time is a ``Text`` written by :func:`holdfast.kernel.clock.timestamp`. So both databases store,
compare and sort the same values.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, MetaData, Table, Text
from sqlalchemy.schema import SchemaItem

from holdfast.kernel.ids import DEFAULT_TENANT

TENANT = "tenant"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
"""Every table of every slice; the migrations are the history of its differences."""


def tenant_table(name: str, *items: SchemaItem, into: MetaData = metadata) -> Table:
    """A table whose primary key begins with ``tenant``; the caller's key columns follow it.

    On PostgreSQL row-level security confines it to the transaction's tenant.
    """
    tenant: Column[str] = Column(TENANT, Text, primary_key=True, nullable=False)
    return Table(name, into, tenant, *items)


tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("created_at", Text, nullable=False),
)
"""The tenants there are, so that a role's own loops can visit each. Holds ids, no names."""

schema_state = Table(
    "schema_state",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", Text, nullable=False),
    Column("oldest_code", Text, nullable=False),
    Column("migrated_at", Text, nullable=False),
)
"""One row (id 1): the schema's revision and the oldest program version that can use it."""


def tables_of_tenants(of: MetaData = metadata) -> list[Table]:
    """Every table that carries a tenant, parents before children."""
    return [table for table in of.sorted_tables if TENANT in table.columns]


SEED_TENANTS = (DEFAULT_TENANT,)
