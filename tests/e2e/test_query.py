"""``holdfast query`` against the served program: by command, over HTTP and from Python."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Iterator

import pytest

from holdfast.client import Client, HoldfastError
from tests.support.program import Program, run_command, started, wait_until
from tests.support.stack import SAMPLE

pytestmark = pytest.mark.timeout(1200)
PROFILE = "scripps-co2-monthly"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("query")
    profiles = folder / "profiles"
    profiles.mkdir()
    text = SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").read_text(encoding="utf-8")
    (profiles / f"{PROFILE}.yaml").write_text(text)
    environment = {
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
        "HOLDFAST_GATEWAY_BIND": "127.0.0.1:0",
        "HOLDFAST_LOG_LEVEL": "warning",
        "HOLDFAST_REPORTS_QUERY_SECONDS": "10",
    }
    with started(["up"], folder / "data", environment=environment) as found:
        wait_until(
            lambda: query(found, "select count(*) from events")[0][0] > 0, what="the first event"
        )
        yield found


def query(program: Program, sql: str, **more: object) -> list[list[object]]:
    answer = program.client.post("/v1/query", json={"sql": sql, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def command(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("--data-dir", str(program.data_dir), *arguments)


def test_the_same_answer_by_command_over_http_and_from_python(program: Program) -> None:
    sql = "select type, count(*) as n from events where position < 2 group by 1 order by 1"
    # What comes first is whose relay is first; the first two stay what they are.
    wait_until(lambda: program.get("/v1/ledger/status")["size"] >= 2, what="two entries")
    rows = query(program, sql)
    assert sum(count for _, count in rows) == 2
    said = command(program, "query", sql, "--json")
    assert json.loads(said.stdout)["rows"] == rows
    loaded = command(program, "query", f"select 'runs', * from ({sql})", "--json")
    assert [table["name"] for table in json.loads(loaded.stdout)["tables"]] == ["events"]
    table = command(program, "query", sql, "--format", "csv")
    assert list(csv.reader(io.StringIO(table.stdout)))[1:] == [[t, str(n)] for t, n in rows]
    shown = command(program, "query", sql)
    assert all(kind in shown.stdout for kind, _ in rows)
    assert "as of position" in shown.stderr
    with Client(program.url, token=program.token) as client:
        found = client.query(sql)
        assert found.rows == rows
        assert [column.name for column in found.columns] == ["type", "n"]
        with pytest.raises(HoldfastError, match="no table 'other'"):
            client.query("from other")


def test_the_past_stays_as_it_was(program: Program) -> None:
    sql = "select count(*), max(position) from events"
    before = program.client.post("/v1/query", json={"sql": sql}).json()
    # The query itself is an event, so the log grows.
    wait_until(
        lambda: (
            query(program, "select 1")
            and program.get("/v1/ledger/status")["size"] > before["position"]
        ),
        60,
        "the query's own event in the ledger",
    )
    assert query(program, sql, position=before["position"]) == before["rows"]
    assert query(program, sql)[0][0] > before["rows"][0][0]
    assert query(program, sql, as_of="2020-01-01T00:00Z") == [[0, None]]
    queried = "select count(*) from events where type = 'report.queried'"
    wait_until(lambda: query(program, queried)[0][0] > 0, what="the event of a query")


def test_what_is_not_for_queries_is_refused_with_a_hint(program: Program) -> None:
    secret = (program.data_dir / "operator.token").read_text().strip()
    for sql, code in (
        (f"select * from read_text('{program.data_dir}/operator.token')", "query-refused"),
        ("attach '/tmp/x.db'", "query-refused"),
        ("select 1; select 2", "query-refused"),
        ("from nowhere", "query-table-unknown"),
    ):
        answer = program.client.post("/v1/query", json={"sql": sql})
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
        assert secret not in answer.text
    said = command(program, "query", "from nowhere")
    assert said.returncode != 0
    assert "hint: there are events, records" in said.stderr


def test_a_query_without_end_ends_and_leaves_the_program_serving(program: Program) -> None:
    sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
    answer = program.client.post("/v1/query", json={"sql": sql}, timeout=60)
    assert answer.status_code == 413, answer.text
    assert answer.json()["code"] in ("query-deadline", "query-cpu", "query-memory")
    assert query(program, "select 42") == [[42]]


def test_projections_by_command(program: Program) -> None:
    listed = command(program, "ledger", "projection", "list", "--json")
    assert [p["name"] for p in json.loads(listed.stdout)["items"]] == [
        "publications",
        "runs",
        "tasks",
    ]
    made = command(program, "ledger", "projection", "rebuild", "tasks", "--json")
    assert json.loads(made.stdout)["serving"] is True
    again = command(program, "ledger", "projection", "list", "--json")
    numbers = {p["name"]: p["generation"] for p in json.loads(again.stdout)["items"]}
    assert numbers["tasks"] > numbers["runs"]
    shown = command(program, "ledger", "projection", "show", "tasks", "--position", "0")
    assert "0 as of position 0" in shown.stderr


def test_help_has_an_example() -> None:
    assert "holdfast query" in run_command("query", "--help").stdout
