"""Creating the schema straight from the tables: for tests and for what migrations share."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, MetaData, text

from holdfast.kernel.clock import timestamp
from holdfast.kernel.database.handle import Database
from holdfast.kernel.database.row_security import apply_row_level_security
from holdfast.kernel.database.tables import SEED_TENANTS, metadata, tenants

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def create_schema(database: Database, of: MetaData = metadata) -> None:
    """Every table of ``of`` that is missing, row security, and the default tenant.

    For tests. What is served is made by the migrations, which a test holds equal to this.
    """

    def unit(conn: Connection) -> None:
        tenants.create(conn, checkfirst=True)  # the handle itself needs it
        of.create_all(conn)
        apply_row_level_security(conn, of)
        seed_tenants(conn)

    await database.administer(unit)


def seed_tenants(conn: Connection) -> None:
    """The tenants that every system has. Their time is fixed: units do not read clocks."""
    for tenant in SEED_TENANTS:
        conn.execute(
            text("INSERT INTO tenants (id, created_at) VALUES (:id, :at) ON CONFLICT DO NOTHING"),
            {"id": tenant, "at": timestamp(_EPOCH)},
        )
