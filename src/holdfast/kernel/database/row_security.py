"""Row-level security: on PostgreSQL the engine itself keeps tenants apart.

The program works as a role that owns no table, does not bypass row security and cannot log in;
each transaction names its tenant, and forgets it at its end.
"""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, text

from holdfast.kernel.database.tables import metadata, tables_of_tenants, tenants

APPLICATION_ROLE = "holdfast_app"

_CREATE_ROLE = f"""
DO $$ BEGIN
    CREATE ROLE {APPLICATION_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""


def apply_row_level_security(conn: Connection, of: MetaData = metadata) -> None:
    """Confine the application's role to the transaction's tenant in every table of ``of``.

    Idempotent; runs as the owner of the tables. Does nothing on SQLite.
    """
    if conn.dialect.name != "postgresql":
        return
    conn.execute(text(_CREATE_ROLE))
    conn.execute(text(f"GRANT {APPLICATION_ROLE} TO CURRENT_USER"))
    conn.execute(text(f"GRANT USAGE ON SCHEMA public TO {APPLICATION_ROLE}"))
    for table in tables_of_tenants(of):
        name = f'"{table.name}"'
        for statement in (
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
            f"DROP POLICY IF EXISTS tenant_only ON {name}",
            f"CREATE POLICY tenant_only ON {name}"
            " USING (tenant = current_setting('holdfast.tenant', true))"
            " WITH CHECK (tenant = current_setting('holdfast.tenant', true))",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {APPLICATION_ROLE}",
        ):
            conn.execute(text(statement))
    for name, rights in (("tenants", "SELECT, INSERT"), ("schema_state", "SELECT")):
        if name in of.tables or name == tenants.name:
            conn.execute(text(f"GRANT {rights} ON {name} TO {APPLICATION_ROLE}"))
    conn.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {APPLICATION_ROLE}"))
