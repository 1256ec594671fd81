"""Row-level security: on PostgreSQL the engine itself keeps tenants apart.

The program works as a role that owns no table, does not bypass row security and cannot log in;
each transaction names its tenant, and forgets it at its end.
"""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError

from holdfast.kernel.database.errors import sqlstate
from holdfast.kernel.database.tables import metadata, tables_of_tenants, tenants
from holdfast.kernel.errors import Unsupported

APPLICATION_ROLE = "holdfast_app"

# Made beforehand it needs no right to make roles, which the server asks for before it looks.
_CREATE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APPLICATION_ROLE}') THEN
        CREATE ROLE {APPLICATION_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""
# From 16 on whoever makes a role is a member of it that may not yet work as it.
_MAY_WORK_AS = f"""
SELECT pg_has_role(current_user, '{APPLICATION_ROLE}',
    CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""
_MAY_NOT = "42501"


def apply_row_level_security(conn: Connection, of: MetaData = metadata) -> None:
    """Confine the application's role to the transaction's tenant in every table of ``of``.

    Idempotent; runs as the owner of the tables. Does nothing on SQLite.
    """
    if conn.dialect.name != "postgresql":
        return
    _have_role(conn)
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


def _have_role(conn: Connection) -> None:
    """The application's role, which the connection's own may work as; ``Unsupported`` says how."""
    owner = conn.execute(text("SELECT quote_ident(current_user)")).scalar_one()
    grant = f"GRANT {APPLICATION_ROLE} TO {owner}"
    try:
        conn.execute(text(_CREATE_ROLE))
        if not conn.execute(text(_MAY_WORK_AS)).scalar_one():
            conn.execute(text(grant))
    except DBAPIError as error:
        if sqlstate(error) != _MAY_NOT:
            raise
        raise Unsupported(
            f"cannot make the schema: the database's role {owner} may not make the role "
            f"{APPLICATION_ROLE}, which the program works as",
            code="database-role",
            hint=f"as an administrator run ALTER ROLE {owner} CREATEROLE, or make it beforehand: "
            f"CREATE ROLE {APPLICATION_ROLE} NOLOGIN; {grant}",
            internal=str(error),
        ) from error
