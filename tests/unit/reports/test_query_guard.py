"""Hostile SQL: refused by the guard, and by the engine itself where the guard is not asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

from holdfast.kernel.errors import Invalid
from holdfast.reports.locked import locked_database, rows_of
from holdfast.reports.query import check_sealed, check_tree, identifier, mentioned, tables_of

REFUSED = [
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/proc/self/environ')",
    "select * from read_csv('/etc/passwd')",
    "select * from read_csv_auto('/etc/passwd')",
    "select * from read_json('{path}')",
    "select * from read_parquet('{path}')",
    "select * from parquet_scan('{path}')",
    "select * from parquet_metadata('{path}')",
    "select * from read_duckdb('{path}')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from glob('/etc/*')",
    "select * from 'https://example.org/x.parquet'",
    "select * from 's3://bucket/x.parquet'",
    "select * from '/etc/passwd'",
    'select * from "/etc/passwd"',
    "from '{path}'",
    "select * from query('select 1')",
    "select * from query_table('events')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select * from arrow_scan(1, 2, 3)",
    "select * from pandas_scan(1)",
    "select * from python_map_function(1)",
    "select * from duckdb_settings()",
    "select * from duckdb_secrets()",
    "select * from duckdb_logs()",
    "select * from duckdb_settings",
    "select * from pragma_database_size()",
    "select * from checkpoint()",
    "select * from enable_logging()",
    "select * from create_external_resource('x')",
    "select * from which_secret('s3://x', 's3')",
    "select * from sql_auto_complete('sel')",
    "select * from pg_catalog.pg_settings",
    "select * from system.information_schema.tables",
    "select current_setting('home_directory')",
    "select main.current_setting('home_directory')",
    "select getenv('PATH')",
    "select write_log('x')",
    "select sleep_ms(100000)",
    "select pg_sleep(100)",
    "select * from events where payload = (select content from read_text('/etc/passwd'))",
    "with x as (select * from read_text('/etc/passwd')) select * from x",
    "select * from events, lateral (select * from read_text(events.payload)) as t",
    "select (select count(*) from glob('*'))",
    "select * from events union all select * from read_text('/etc/passwd')",
    "attach '{path}' as other",
    "attach 'postgres:host=127.0.0.1' as other (type postgres)",
    "copy (select 1) to '{path}'",
    "copy events to '{path}'",
    "export database '{path}'",
    "import database '{path}'",
    "pragma database_list",
    "pragma version",
    "install httpfs",
    "load httpfs",
    "load '{path}'",
    "set memory_limit = '100GB'",
    "set enable_external_access = true",
    "reset lock_configuration",
    "create table x (a int)",
    "create temp view events as select 1",
    "create macro f() as 1",
    "create secret (type s3)",
    "insert into events values (1)",
    "delete from events",
    "update events set id = 'x'",
    "drop view events",
    "alter table events rename to x",
    "call pragma_version()",
    "checkpoint",
    "begin",
    "commit",
    "use memory",
    "vacuum",
    "analyze",
    "prepare p as select 1",
    "execute p",
    "explain analyze select 1",
    "set variable x = 1",
    "select 1; select 2",
    "select 1; drop view events",
    "select 1; copy events to '{path}'",
    "",
    ";",
    "-- nothing",
    "show all tables",
    "show databases",
    "selec 1",
    "select * from nothing_here",
    "select * from records_of_other_tenants",
]
ALLOWED = [
    "select 1",
    "select 1;",
    "from events",
    "table events",
    "values (1), (2)",
    "select count(*) from EVENTS",
    'select * from "events" as e join main.events using (id)',
    "with x as (select * from events) select * from x",
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select * from n",
    "select * from range(3) union select * from generate_series(1, 3)",
    "select unnest([1, 2]), json_extract(payload, '$.n') from events",
    "select * from events, json_each(events.payload)",
    "select row_number() over (partition by stream order by position) from events",
    "select * from (pivot events on type in ('a') using count(*))",
    "describe events",
    "summarize events",
    "show tables",
    "select * from information_schema.columns",
    "select * from events where exists (select 1 from events e where e.id = events.id)",
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with locked_database(128) as connection:
        events = {"position": [1], "id": ["a"], "stream": ["s"], "type": ["a"]}
        connection.register("events", pyarrow.table(events | {"payload": ['{"n": 1}']}))
        yield connection


def _tree(engine: duckdb.DuckDBPyConnection, sql: str) -> Any:
    [(text,)] = engine.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()
    return json.loads(text)


def check(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    check_tree(_tree(engine, sql), ["events"], ["events"])


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_not_one_select_over_our_tables_is_refused(
    engine: duckdb.DuckDBPyConnection, tmp_path: Path, sql: str
) -> None:
    file = tmp_path / "secret.parquet"
    rows = pyarrow.table({"secret": ["of another tenant"]})
    pyarrow.parquet.write_table(rows, file)
    with pytest.raises(Invalid) as refused:
        check(engine, sql.format(path=file))
    assert refused.value.code in ("query-refused", "query-invalid", "query-table-unknown")


OUTSIDE = [sql for sql in REFUSED if "{path}" in sql or "/etc" in sql or "://" in sql]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_the_engine_is_shut_by_itself(
    engine: duckdb.DuckDBPyConnection, tmp_path: Path, sql: str
) -> None:
    file = tmp_path / "secret.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"secret": ["of another tenant"]}), file)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(duckdb.Error):
        rows_of(engine, sql.format(path=file))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("sql", ALLOWED)
def test_a_select_over_our_tables_is_answered(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    check(engine, sql)
    assert engine.sql(sql).fetchall()


LACKING: dict[str, dict[str, str]] = {
    "visits": {},
    "clinic": {"dim_who": "clinic", "weight": "clinic"},
    "records": {"dim_who": "clinic", "weight": "clinic"},
}


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from clinic where dim_who is null",
        "select 1 from clinic order by DIM_WHO",
        "select main.clinic.weight from clinic",
        "select * from visits v where v.x in (select dim_who from clinic)",
        "select * from visits join clinic using (dim_who)",
        "select * from visits natural join clinic",
        "select * from visits union all by name select * from clinic",
        "with c as (select * from clinic) select count(c.dim_who) from c",
        "with c as (select 1 as dim_who) select dim_who from c, clinic",
        "with c(who) as (select 1 as dim_who) select c.dim_who from c, clinic",
        "with c as (select 1 as dim_who) select d.dim_who from c as d(who), clinic",
        "with c as (select 1 as dim_who) select 1 from c where (select c.dim_who from "
        "(select * from clinic) c) = 1",
        "with c as (select 1 as dim_who) select (select c.dim_who from clinic c) from c",
        "with clinic as (select 1 as dim_who) select c.dim_who from clinic c",
        "select content->'dim_who' from records",
        "select content->>'$.dim_who' from records",
        "select json_extract_string(content, '/dim_who') from records",
        "select json_exists(content, '$.\"dim_who\"') from records",
        "select json_extract(content, ['run', 'weight']) from records",
        "select content['dim_who'] from records",
        "select content.dim_who from records",
        "select to_json(c)->>'weight' from clinic c",
        "select struct_extract(c, 'weight') from clinic c",
    ],
)
def test_a_personal_field_is_refused_wherever_it_is_named(
    engine: duckdb.DuckDBPyConnection, sql: str
) -> None:
    with pytest.raises(Invalid) as raised:
        check_sealed(_tree(engine, sql), LACKING)
    assert raised.value.code == "field-sealed"


@pytest.mark.parametrize(
    "sql",
    [
        "select dim_who, weight from visits",
        "select v.dim_who from visits v join clinic c on c.subject = v.subject",
        "select count(*) from clinic where dim_ward = 'weight'",
        "with c as (select 'x' as Dim_Who) select C.dim_who from c, clinic",
        "with c(dim_who) as (select 'x') select d.dim_who from c as d, clinic",
        "select s.weight from (select 1 as weight) s, clinic",
        "select content->>('dim_' || 'who') from records",
        "select content->>'dim_ward' from records where profile = 'dim_who'",
        "describe clinic",
    ],
)
def test_what_only_looks_like_it_is_answered(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    check_sealed(_tree(engine, sql), LACKING)


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("select count(*) as inc, 'mk1' from Rev", {"rev"}),
        ('describe main."rev-1"', {"rev-1"}),
        ("summarize rev", {"rev"}),
        ("select (select max(x) from a) from b join c using (x) where x in (from d)",
         {"a", "b", "c", "d"}),
        ("with r as (select * from a) select 1 union all select 2 from b", {"a", "b"}),
        ("select 1", set()),
        ("show tables", set()),
    ],
)  # fmt: skip
def test_what_is_read_is_told_by_the_parser(
    engine: duckdb.DuckDBPyConnection, sql: str, read: set[str]
) -> None:
    assert tables_of(_tree(engine, sql)) == read


def test_tables_are_named_by_text_rather_too_often() -> None:
    assert mentioned("select * from Runs", ("runs", "tasks")) == ["runs"]
    assert mentioned("select 'tasks'", ("runs", "tasks")) == ["tasks"]
    assert mentioned("select count(*) as inc from rev", ("fr", "in", "inc", "rev")) == [
        "inc",
        "rev",
    ]
    assert mentioned('select*from"rev-1"join main.b', ("rev-1", "b", "mai")) == ["rev-1", "b"]
    assert identifier("usgs-earthquakes-week") == "usgs_earthquakes_week"
