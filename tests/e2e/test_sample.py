"""The sample, as a newcomer runs it, and the manifest's facts from what is stored afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest
import yaml

from holdfast.client import Client, HoldfastError
from holdfast.ledger.trusting import decode_trust
from holdfast.records.receipt import verify_receipt
from tests.support import guide
from tests.support.program import Program, run_command, started, wait_until
from tests.support.verifier import NODE, VERIFIER, run_second, second

MANIFEST = yaml.safe_load(
    resources.files("holdfast.sample").joinpath("data", "MANIFEST.yaml").read_text("utf-8")
)
FACTS = {entry["file"]: entry["facts"] for entry in MANIFEST["files"]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory into which the sample was collected, twice, by the program itself."""
    path = tmp_path_factory.mktemp("sample") / "data"
    first = run_command("up", "--sample", "--once", "--data-dir", str(path))
    assert first.returncode == 0, first.stderr + first.stdout
    (path.parent / "first.txt").write_text(first.stdout)
    second = run_command("up", "--sample", "--once", "--data-dir", str(path))
    assert second.returncode == 0, second.stderr + second.stdout
    (path.parent / "second.txt").write_text(second.stdout)
    return path


@pytest.fixture(scope="module")
def program(data_dir: Path) -> Iterator[Program]:
    """The program started again on what the sample left; its drone finds everything unchanged."""
    with started(["up", "--sample", "--drones", "1", "--port", "0"], data_dir) as running:
        yield running


def records(program: Program, profile: str) -> list[dict[str, Any]]:
    return list(program.items("/v1/records", profile=profile, limit=1000))


def measure(rows: list[dict[str, Any]], name: str) -> list[Decimal]:
    values = [row["measures"].get(name, {}).get("value") for row in rows]
    return [Decimal(value) for value in values if value is not None]


def test_the_first_run_shows_what_was_collected_and_reports_on_it(data_dir: Path) -> None:
    shown = (data_dir.parent / "first.txt").read_text()
    assert "22,258 records kept" in shown
    assert "replayed" in shown
    for figure in ("0.958682", "0.931521", "0.975209", "0.944317", "0.342906"):
        assert figure in shown
    assert re.search(r"levels\s+60\s", shown)
    assert "Three commands to try next" in shown
    for kind in ("svg", "png"):
        chart = data_dir / "charts" / f"co2-and-temperature.{kind}"
        assert str(chart) in shown
        assert chart.stat().st_size > 5_000
    assert b"Scripps" in (data_dir / "charts" / "co2-and-temperature.svg").read_bytes()


def test_the_first_proposed_command_shows_earthquakes(data_dir: Path, program: Program) -> None:
    shown = (data_dir.parent / "first.txt").read_text()
    line = shown[shown.index("record list") :].splitlines()[0]
    done = run_command(*line.split())
    assert done.returncode == 0, done.stderr
    assert program.data_dir == data_dir
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["period", "magnitude", "place"]
    assert any(re.search(r"^2\S+Z +\d\.\d+ +\S", row) for row in rows), done.stdout


def test_the_second_run_changes_nothing(data_dir: Path) -> None:
    shown = (data_dir.parent / "second.txt").read_text()
    assert shown.count("unchanged") >= 10
    assert "succeeded" not in shown


def test_what_the_sources_say_has_not_changed_is_not_sent_again(program: Program) -> None:
    unchanged = [run for run in program.items("/v1/runs") if run["status"] == "unchanged"]
    assert len({run["profile"] for run in unchanged}) == 10
    assert {run["bytes_fetched"] for run in unchanged} == {0}
    assert {run["new"] + run["changed"] + run["withdrawn"] for run in unchanged} == {0}


def test_up_that_stays_has_the_reports_made_and_none_of_them_anew(program: Program) -> None:
    wait_until(lambda: "Three commands" in program.log.read_text(), what="all is told")
    told = program.log.read_text()
    for shown in ("What was collected", "0.958682", "chart: ", "report list"):
        assert shown in told
    assert len(list(program.items("/v1/reports"))) == 4


def test_every_record_is_there_after_a_restart(program: Program) -> None:
    profiles = [p["name"] for p in program.items("/v1/profiles")]
    assert len(profiles) == 10
    assert sum(len(records(program, name)) for name in profiles) == MANIFEST["total_records"]


def test_earthquakes(program: Program) -> None:
    rows, facts = records(program, "usgs-earthquakes-week"), FACTS["usgs_earthquakes_week.geojson"]
    magnitudes = measure(rows, "magnitude")
    assert len(rows) == facts["records"]
    assert len({row["dimensions"]["id"] for row in rows}) == facts["unique_ids"]
    assert max(magnitudes) == Decimal(str(facts["max_mag"]))
    assert min(magnitudes) == Decimal(str(facts["min_mag"]))
    assert sum(magnitudes) == Decimal(str(facts["sum_mag"]))


def test_carbon_dioxide(program: Program) -> None:
    rows, facts = records(program, "scripps-co2-monthly"), FACTS["scripps_co2_monthly.csv"]
    values = measure(rows, "co2")
    starts = sorted(row["period"]["start"] for row in rows)
    assert len(rows) == len(values) == facts["records"]
    assert (starts[0], starts[-1]) == (facts["first"], facts["last"])
    assert max(values) == Decimal(str(facts["co2_max"]))
    assert sum(values) == Decimal(str(facts["co2_sum"]))
    assert {row["period"]["frequency"] for row in rows} == {"M"}


def test_global_temperature(program: Program) -> None:
    rows, facts = records(program, "nasa-global-temp-annual"), FACTS["nasa_global_temp_annual.csv"]
    values = measure(rows, "temperature_anomaly")
    years = sorted(int(row["period"]["start"][:4]) for row in rows)
    assert len(rows) == facts["records"]
    assert (years[0], years[-1]) == (facts["first"], facts["last"])
    assert (max(values), min(values), sum(values)) == tuple(
        Decimal(str(facts[name])) for name in ("temp_max", "temp_min", "temp_sum")
    )


def test_employment(program: Program) -> None:
    rows, facts = records(program, "bls-employment-monthly"), FACTS["bls_employment_monthly.csv"]
    values = measure(rows, "nonfarm")
    starts = sorted(row["period"]["start"] for row in rows)
    assert len(rows) == facts["records"]
    assert (starts[0], starts[-1]) == (facts["first"], facts["last"])
    assert (sum(values), max(values)) == (facts["nonfarm_sum"], facts["nonfarm_max"])


def test_unemployment_by_industry_is_dated_in_its_own_zone(program: Program) -> None:
    rows = records(program, "bls-unemployment-industry")
    facts = FACTS["bls_unemployment_by_industry.json"]
    assert len(rows) == facts["records"]
    assert len({row["dimensions"]["series"] for row in rows}) == facts["series"]
    assert sum(measure(rows, "count")) == facts["count_sum"]
    assert max(measure(rows, "rate")) == Decimal(str(facts["rate_max"]))
    assert {row["period"]["start"][8:] for row in rows} == {"01"}
    keys = {(row["dimensions"]["series"], row["period"]["start"]) for row in rows}
    assert len(keys) == facts["records"]


def test_unemployment_by_county_keeps_its_leading_zeros(program: Program) -> None:
    rows = records(program, "bls-unemployment-county")
    facts = FACTS["bls_unemployment_county.tsv"]
    values = measure(rows, "rate")
    assert len(rows) == facts["records"]
    assert len({row["dimensions"]["county"] for row in rows}) == facts["unique_ids"]
    assert {len(row["dimensions"]["county"]) for row in rows} == {5}
    assert max(values) == Decimal(str(facts["rate_max"]))
    assert sum(values) == Decimal(str(facts["rate_sum"]))


def test_weather(program: Program) -> None:
    seattle = records(program, "noaa-seattle-weather-daily")
    facts = FACTS["noaa_seattle_weather_daily.csv"]
    starts = sorted(row["period"]["start"] for row in seattle)
    assert len(seattle) == facts["records"]
    assert (starts[0], starts[-1]) == (facts["first"], facts["last"])
    assert sum(measure(seattle, "precipitation")) == Decimal(str(facts["precipitation_sum_mm"]))
    assert max(measure(seattle, "temp_max")) == Decimal(str(facts["temp_max_max"]))
    both = records(program, "noaa-two-cities-weather-daily")
    facts = FACTS["noaa_weather_two_cities_daily.csv"]
    assert len(both) == facts["records"]
    assert sorted({row["dimensions"]["location"] for row in both}) == facts["locations"]
    assert sum(measure(both, "precipitation")) == Decimal(str(facts["precipitation_sum_mm"]))


def test_receipts_and_birdstrikes(program: Program) -> None:
    receipts = records(program, "omb-receipts")
    assert len(receipts) == FACTS["omb_receipts.json"]["records"]
    strikes, facts = records(program, "faa-birdstrikes"), FACTS["faa_birdstrikes.csv"]
    assert len(strikes) == facts["records"]
    assert sum(measure(strikes, "cost_total")) == facts["cost_total_sum"]


def test_every_record_says_where_it_came_from_and_that_it_was_replayed(program: Program) -> None:
    row = records(program, "usgs-earthquakes-week")[0]
    provenance = program.get(f"/v1/records/{row['id']}")
    found = provenance.get("provenance") or provenance["revisions"][0]["provenance"]
    assert found["replayed"] is True
    assert found["url"].startswith("https://earthquake.usgs.gov/")
    assert found["response_digest"].startswith("sha256:")
    runs = list(program.items("/v1/runs"))
    assert all(run["replayed"] for run in runs if run["status"] == "succeeded")


@pytest.mark.parametrize("pair", MANIFEST["correlating_pairs"], ids=["co2", "work", "weather"])
def test_the_correlating_pairs_come_out_to_six_decimals(
    program: Program, pair: dict[str, Any]
) -> None:
    found = []
    for line in program.items("/v1/reports"):
        report = program.get(f"/v1/reports/{line['id']}")
        if report.get("correlation"):
            found.append(report["correlation"])
    levels = [c["levels"] for c in found if c["levels"]["n"] == pair["n"]]
    assert len(levels) == 1
    assert round(Decimal(levels[0]["pearson_r"]), 6) == Decimal(str(pair["pearson_r"]))


def test_mapping_what_is_stored_again_changes_nothing(program: Program, data_dir: Path) -> None:
    """All ten sources, from the stored bytes, without asking a source for anything."""
    profiles = [p["name"] for p in program.items("/v1/profiles")]

    def settled() -> bool:
        """The runs that a start asks for are over."""
        statuses = [run["status"] for run in program.items("/v1/runs", limit=100)]
        return len(statuses) >= 30 and not {"running", "interrupted"} & {*statuses}

    wait_until(settled, what="the runs of the start")
    for name in profiles:
        rehearse = ["--dry-run"] if name == profiles[0] else []
        done = run_command(
            "profile", "remap", name, "--json", *rehearse, "--data-dir", str(data_dir)
        )
        assert done.returncode == 0, (name, done.stderr)
        found = json.loads(done.stdout)
        run, diff = found["run"], found["diff"]
        assert (run["new"], run["changed"], run["withdrawn"]) == (0, 0, 0), name
        assert run["unchanged"] == run["records"] > 0
        assert run["requests"] == run["rejects"] == 0
        assert diff["items"] == []
        assert run["code"] == ("rehearsal" if rehearse else "")


# --- taking the data away -----------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "using-the-data.md"


def test_the_guide_to_using_the_data_runs(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands, its pandas, its DuckDB, its client and its dbt project, in their order."""
    token = program.data_dir / "operator.token"
    environment = {
        "HOLDFAST_URL": program.url,
        "HOLDFAST_OPERATOR_TOKEN_FILE": str(token),
        "TOKEN": token.read_text().strip(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    files = iter(["dbt_project.yml", "profiles.yml", "models/sources.yml"])
    models = iter(["co2_by_year", "climate"])
    (tmp_path / "models").mkdir()
    said, sources = "", {}
    for block in guide.blocks_of(GUIDE):
        match block.kind:
            case "sh":
                guide.run_shell(block.text, tmp_path, environment)
            case "python":
                said += guide.run_python(block.text, tmp_path, environment)
            case "sql":
                with contextlib.chdir(tmp_path):
                    found = duckdb.sql(block.text).fetchall()
                assert [year for year, *_ in found] == [2020, 2019, 2018]
            case "yaml":
                (tmp_path / next(files)).write_text(block.text)
            case _:
                name = next(models)
                sources[name] = block.text
                (tmp_path / "models" / f"{name}.sql").write_text(block.text)
    assert "ppm is the highest monthly mean" in said
    assert "741 rows, ppm" in said
    assert next(files, None) is None
    database = tmp_path / "climate.duckdb"
    dbt = os.environ.get("HOLDFAST_DBT")
    if dbt:
        guide.run_shell(f"{dbt} build --profiles-dir .", tmp_path, environment)
    else:
        names = ("scripps-co2-monthly", "nasa-global-temp-annual")
        locations = {name: f"read_parquet('{tmp_path / name}.parquet')" for name in names}
        guide.run_models(sources, locations, database)
    with capsys.disabled():
        print(
            f"\nguide: its models were made by {dbt or 'DuckDB alone; HOLDFAST_DBT names no dbt'}"
        )
    with duckdb.connect(str(database)) as connection:
        [(rows, anomaly)] = connection.sql("SELECT count(*), max(anomaly) FROM climate").fetchall()
    assert rows > 50
    assert anomaly == Decimal("1.01")
    described = json.loads((tmp_path / "datapackage.json").read_text())
    first, second = described["resources"]
    header = (tmp_path / "scripps-co2-monthly.csv").read_text().splitlines()[0].split(",")
    assert [field["name"] for field in first["schema"]["fields"]] == header
    schema = pyarrow.parquet.read_schema(tmp_path / "scripps-co2-monthly.parquet")
    assert [field["name"] for field in second["schema"]["fields"]] == schema.names
    assert all(field.get("description") for field in second["schema"]["fields"])


RECEIPTS = Path(__file__).parents[2] / "docs" / "guides" / "receipts.md"


def test_the_guide_to_receipts_runs(program: Program, tmp_path: Path) -> None:
    """Its commands in their order, the second verifier's among them; then without the server."""
    token = program.data_dir / "operator.token"
    (tmp_path / "verifier").symlink_to(VERIFIER.parent)
    here = {"PATH": f"{Path(sys.executable).parent}:{NODE.parent}:{os.environ['PATH']}"}
    environment = here | {
        "HOLDFAST_URL": program.url,
        "HOLDFAST_OPERATOR_TOKEN_FILE": str(token),
        "TOKEN": token.read_text().strip(),
    }
    script = "".join(block.text for block in guide.blocks_of(RECEIPTS) if block.kind == "sh")
    said = guide.run_shell(script, tmp_path, environment)
    assert said.count("recorded: yes") == 4
    assert said.count("reproduced: yes") == 1
    assert said.count("attributed: yes") == 3
    assert said.count("attributed: not shown") == 1, "885 records are behind the coefficient"

    policy = (tmp_path / "holdfast.trust").read_bytes()
    trusted, receipts = decode_trust(policy), []
    for profile in sorted({entry["name"] for entry in program.items("/v1/profiles")}):
        rows = program.get("/v1/records", profile=profile, limit=50)["items"]
        record = rows[len(profile) % len(rows)]
        answer = program.client.get(f"/v1/records/{record['id']}/receipt")
        assert answer.status_code == 200, answer.text
        found = verify_receipt(answer.content, trusted)
        assert (found.record, found.run) == (record["id"], record["run"])
        assert (found.content or {})["key"] == record["key"]
        proof = program.get("/v1/ledger/proofs/event", event=found.event)
        assert proof["position"] == found.position
        receipts.append(answer.content)
    assert len(receipts) == 10
    told = second(receipts, policy)
    assert [answer["found"]["profile"] for answer in told] == [
        verify_receipt(each, trusted).profile for each in receipts
    ]

    offline = {"cwd": tmp_path, "environment": here}
    call = ("verify", "r.json", "--trust", "holdfast.trust")
    assert run_command(*call, **offline).returncode == 0
    wrong = tmp_path / "wrong.trust"
    wrong.write_bytes(policy.replace(b'"tenant": "default"', b'"tenant": "other"'))
    refused = run_command("verify", "r.json", "--trust", str(wrong), "--json", **offline)
    assert (refused.returncode, json.loads(refused.stdout)["holds"]) == (7, False)
    assert "another tenant" in refused.stderr
    assert run_second(str(tmp_path / "r.json"), "--trust", str(wrong)).returncode == 7
    for arguments in (
        ("verify", "r.json", "--trust", "r.json"),
        ("verify", "none.json", "--trust", "holdfast.trust"),
        (*call, "--raw", "raw.csv"),
    ):
        assert run_command(*arguments, **offline).returncode == 2
    (tmp_path / "raw.csv").write_bytes((tmp_path / "raw.csv").read_bytes() + b"\n")
    mapped = (*call, "--raw", "raw.csv", "--profile", "profile.yaml")
    refused = run_command(*mapped, **offline)
    assert refused.returncode == 7
    assert "raw bytes are others" in refused.stderr
    assert program.client.get(f"/v1/records/{'0' * 32}/receipt").status_code == 404
    gone = program.client.get("/v1/ledger/proofs/event", params={"event": "0" * 32})
    assert (gone.status_code, gone.json()["code"]) == (404, "entry-unknown")


def test_sql_sees_what_the_lists_show_and_the_past_before_it(program: Program) -> None:
    def query(sql: str, **moment: object) -> list[list[object]]:
        answer = program.client.post("/v1/query", json={"sql": sql, **moment})
        assert answer.status_code == 200, answer.text
        return answer.json()["rows"]

    counted = dict(query("select profile, count(*) from records group by profile"))
    assert counted["scripps-co2-monthly"] == len(records(program, "scripps-co2-monthly"))
    assert len(counted) == 10
    highest = query(
        "select period_start, co2 from scripps_co2_monthly order by co2__double desc limit 1"
    )
    rows = records(program, "scripps-co2-monthly")
    assert Decimal(str(highest[0][1])) == max(measure(rows, "co2"))
    ended = query("select run, status from runs")
    assert dict(ended) == {
        run["id"]: run["status"] for run in program.items("/v1/runs") if run["id"] in dict(ended)
    }
    assert len(ended) >= 20, "both runs of the sample"
    # As of the position of each first publication, and just before it.
    [[first]] = query(
        "select min(position) from events where type = 'records.ingested'"
        " and payload->>'$.profile' = 'omb-receipts'"
    )
    assert isinstance(first, int)
    omb = "select count(*) from records where profile = 'omb-receipts'"
    assert query(omb, position=first) == [[0]]
    assert query(omb, position=first + 1) == [[counted["omb-receipts"]]]


def test_the_bytes_behind_a_record_have_the_digest_it_names(
    program: Program, tmp_path: Path
) -> None:
    [record] = program.get("/v1/records", profile="omb-receipts", limit=1)["items"]
    shown = program.get(f"/v1/records/{record['id']}")["record"]["provenance"]
    out = tmp_path / "raw"
    here = ("--data-dir", str(program.data_dir), "record", "raw")
    said = run_command(*here, record["id"], "--out", str(out))
    assert said.returncode == 0, said.stderr
    digest = f"sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}"
    assert digest == shown["response_digest"]
    assert digest in said.stderr
    assert run_command(*here, "0" * 32).returncode != 0
    missing = run_command(*here, record["id"], "--out", str(tmp_path / "none" / "raw"))
    assert "No such file" in missing.stderr


def test_the_client_yields_records_runs_and_tables(program: Program, data_dir: Path) -> None:
    with Client.of(data_dir) as holdfast:
        assert len(list(holdfast.profiles())) == 10
        counties = list(holdfast.records("bls-unemployment-county"))
        assert len(counties) == 3218
        table = holdfast.table("bls-unemployment-county")
        assert table.num_rows == 3218
        assert sum(batch.num_rows for batch in holdfast.batches(
            "bls-unemployment-county", columns=["record_id"], rows=1000
        )) == 3218  # fmt: skip
        one = counties[0]
        assert holdfast.history(one.id)[-1].measures == one.measures
        assert holdfast.record(one.id).provenance is not None
        assert one.id.encode() in holdfast.receipt(one.id, revision=1)
        run = holdfast.last_run("bls-unemployment-county")
        assert {change.kind for change in holdfast.diff(run.id)} <= {"new"}
        assert holdfast.profile("bls-unemployment-county").name == "bls-unemployment-county"
        assert not list(holdfast.rejects("bls-unemployment-county"))
        assert {line.profile for line in holdfast.freshness()} >= {"bls-unemployment-county"}
        assert list(holdfast.records("bls-unemployment-county", start="2090")) == []
        for listed in (holdfast.records, holdfast.runs, holdfast.rejects, holdfast.notices):
            with pytest.raises(HoldfastError, match="cannot find the profile 'nothing'"):
                next(listed("nothing"))
        with pytest.raises(HoldfastError) as refused:
            holdfast.profile("nothing")
        assert refused.value.code
        with pytest.raises(HoldfastError):
            next(holdfast.records("scripps-co2-monthly", as_of="yesterday"))
