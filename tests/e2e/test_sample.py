"""The sample, as a newcomer runs it, and the manifest's facts from what is stored afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.program import Program, run_command, started, wait_until

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


def test_the_second_run_changes_nothing(data_dir: Path) -> None:
    shown = (data_dir.parent / "second.txt").read_text()
    assert shown.count("unchanged") >= 10
    assert "succeeded" not in shown


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

    wait_until(settled, 60, "the runs of the start")
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
