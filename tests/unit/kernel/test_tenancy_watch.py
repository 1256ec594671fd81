"""The watcher of statements must itself be able to fail."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from holdfast.kernel.database import Database, bulk_insert, metadata
from holdfast.kernel.outbox import outbox_position
from holdfast.kernel.principal import operator
from tests import conftest
from tests.support.tenancy import lacks_tenant

TABLES = frozenset({"runs", "rows"})

CARRIES = [
    "SELECT * FROM runs WHERE tenant = 'a'",
    "SELECT runs.id FROM runs WHERE runs.tenant = ? AND id = ?",
    'SELECT * FROM "runs" WHERE "runs"."tenant" = ?',
    "SELECT * FROM runs AS r JOIN rows AS w ON w.tenant = r.tenant AND w.run = r.id"
    " WHERE r.tenant = ?",
    "SELECT * FROM runs JOIN rows USING (tenant, id) WHERE runs.tenant = ?",
    "SELECT * FROM runs, rows WHERE runs.tenant = ? AND rows.tenant = ?",
    "INSERT INTO runs (tenant, id) VALUES ('a', 'b') ON CONFLICT (tenant, id) DO NOTHING",
    "INSERT INTO rows (tenant, id) SELECT tenant, id FROM runs WHERE tenant = 'a'",
    "UPDATE runs SET state = 'x' WHERE tenant = 'a'",
    "DELETE FROM runs WHERE (tenant, id) IN (SELECT tenant, id FROM rows WHERE tenant = 'a')",
    "WITH x AS (SELECT id FROM runs WHERE tenant = ?) SELECT * FROM x",
    "SELECT * FROM runs r WHERE r.tenant = ? AND EXISTS (SELECT 1 FROM rows w"
    " WHERE w.tenant = r.tenant AND coalesce(w.run, (1)) = r.id)",
    "SELECT * FROM runs WHERE tenant = ? AND id IN (SELECT value FROM json_each(?))",
    "SELECT * FROM tenants",
    "SELECT * FROM sqlite_master",
    "PRAGMA quick_check",
    "CREATE INDEX x ON runs (id)",
    "BEGIN IMMEDIATE",
]
FORGETS = [
    "SELECT * FROM runs",
    "SELECT * FROM runs WHERE id = ?",
    "SELECT tenant FROM runs",
    "SELECT * FROM runs WHERE note = 'tenant = a'",
    "SELECT * FROM runs -- WHERE tenant = ?",
    "SELECT * FROM runs JOIN rows ON rows.run = runs.id WHERE runs.tenant = ?",
    "SELECT * FROM runs, rows WHERE runs.tenant = ?",
    "INSERT INTO runs (id) VALUES ('b') ON CONFLICT (tenant, id) DO NOTHING",
    "UPDATE runs SET state = 'x'",
    "DELETE FROM runs WHERE id IN (SELECT id FROM rows WHERE tenant = 'a')",
    "WITH x AS (SELECT id FROM runs) SELECT * FROM x WHERE tenant = ?",
]


@pytest.mark.parametrize("statement", CARRIES)
def test_a_statement_that_carries_its_tenant_passes(statement: str) -> None:
    assert not lacks_tenant(statement, TABLES)


@pytest.mark.parametrize("statement", FORGETS)
def test_a_statement_that_forgets_its_tenant_is_found(statement: str) -> None:
    assert lacks_tenant(statement, TABLES)


async def test_it_sees_what_sqlite_really_runs_the_drivers_own_calls_included(
    sqlite_database: Database,
) -> None:
    one = operator()
    rows = [("default", 1)]
    await sqlite_database.write(
        one, lambda conn: bulk_insert(conn, outbox_position, ("tenant", "sequence"), rows)
    )
    assert conftest._watch.take() == []
    careless = text("SELECT count(*) FROM outbox_position")
    await sqlite_database.read(one, lambda conn: conn.execute(careless).scalar())
    await sqlite_database.write(
        one, lambda conn: conn.connection.cursor().execute("DELETE FROM outbox_position").close()
    )
    assert conftest._watch.take() == [
        "SELECT count(*) FROM outbox_position",
        "DELETE FROM outbox_position",
    ]


def test_every_table_has_its_tenant_first_in_its_key() -> None:
    without = {"tenants", "schema_state"}
    assert without <= set(metadata.tables)
    for table in metadata.tables.values():
        if table.name in without:
            continue
        assert next(iter(table.primary_key.columns)).name == "tenant", table.name
        for constraint in table.foreign_key_constraints:
            assert next(iter(constraint.columns)).name == "tenant", (table.name, constraint.name)
        for index in table.indexes:
            if index.unique:
                assert next(iter(index.columns)).name == "tenant", index.name
