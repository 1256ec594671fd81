"""What a query is told that names a column which is not there: by what the engine says of it."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow
import pytest

from holdfast.reports.locked import locked_database
from holdfast.reports.query import SHARED, misspelled

COLUMNS = {
    "bls-county": [*SHARED, "dim_state", "rate", "rate__unit", "rate__double", "attr_note"],
    "scripps": [*SHARED, "co2", "co2__double"],
    "runs": ["run", "profile", "status"],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with locked_database(128) as connection:
        for name, columns in COLUMNS.items():
            table = pyarrow.table({column: pyarrow.array([], "string") for column in columns})
            connection.register(name, table)
        connection.execute(
            "CREATE VIEW records AS SELECT record_id, run, NULL AS content FROM scripps"
        )
        yield connection


def hint(engine: duckdb.DuckDBPyConnection, sql: str, *read: str) -> str:
    with pytest.raises(duckdb.BinderException) as failed:
        engine.sql(sql)
    return misspelled(str(failed.value), COLUMNS, read)


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT stat FROM "bls-county"',
        'SELECT state FROM "bls-county"',
        'SELECT c.state FROM "bls-county" c',
        'SELECT c.dim_sttae FROM "bls-county" AS c',
        "SELECT 1 FROM \"bls-county\" WHERE state = '06'",
    ],
)
def test_a_dimension_is_found_by_its_bare_name(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    told = hint(engine, sql, "bls-county")
    assert "near it: dim_state" in told
    assert "a dimension is dim_NAME" in told
    assert "NAME__double" in told
    assert 'DESCRIBE "bls-county"' in told
    assert "docs/guides/using-the-data.md" in told


def test_so_are_the_parts_of_a_measure(engine: duckdb.DuckDBPyConnection) -> None:
    told = hint(engine, "SELECT co2_double FROM scripps", "scripps")
    assert told.startswith("near it: co2__double;")
    assert hint(engine, 'SELECT note FROM "bls-county"', "bls-county").startswith(
        "near it: attr_note;"
    )


def test_of_all_records_it_is_told_where_the_rest_is(engine: duckdb.DuckDBPyConnection) -> None:
    told = hint(engine, "SELECT state FROM records", "records")
    assert "near it: dim_state" in told
    assert "content->>'NAME'" in told
    assert "dim_state is one of bls-county's" in told


def test_text_that_is_summed_is_told_of_the_number_beside_it(
    engine: duckdb.DuckDBPyConnection,
) -> None:
    for sql in ("SELECT sum(co2) FROM scripps", "SELECT co2 - 1 FROM scripps"):
        assert "NAME__double" in hint(engine, sql, "scripps")


def test_tables_without_records_are_told_of_no_measures(engine: duckdb.DuckDBPyConnection) -> None:
    told = hint(engine, "SELECT profil FROM runs", "runs")
    assert told == "near it: profile; DESCRIBE runs lists a table's columns"
    assert hint(engine, "SELECT sum(status) FROM runs", "runs") == ""
