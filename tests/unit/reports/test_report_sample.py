"""The shipped reports give the figures that pandas and SciPy gave from the same files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from holdfast.reports.compute import ComputeJob, ComputeResult, compute_report
from holdfast.reports.spec import read_spec
from tests.unit.reports.projections import PROFILES, write

SPECS = files("holdfast.sample") / "reports"


def run_sample(name: str, tmp_path: Path, *, shuffle: int | None = None) -> ComputeResult:
    spec = read_spec((SPECS / f"{name}.yaml").read_bytes())
    inputs = {
        key: write(tmp_path / f"{key}.parquet", PROFILES[source.profile](), shuffle=shuffle)
        for key, source in spec.inputs.items()
    }
    return compute_report(ComputeJob(spec=spec, files=inputs))


def six(text: str | None) -> float:
    assert text is not None
    return round(float(text), 6)


def test_carbon_dioxide_and_temperature(tmp_path: Path) -> None:
    found = run_sample("co2-and-temperature", tmp_path).correlation
    assert found is not None
    assert found.levels.n == 60
    assert six(found.levels.pearson_r) == 0.958682
    assert six(found.levels.interval_low) == 0.931521
    assert six(found.levels.interval_high) == 0.975209
    assert six(found.levels.spearman_rho) == 0.944317
    assert found.first_differences is not None
    assert six(found.first_differences.pearson_r) == 0.342906


def test_the_years_without_twelve_months_are_left_out(tmp_path: Path) -> None:
    result = run_sample("co2-and-temperature", tmp_path)
    years = [row[0] for row in result.rows]
    assert years[0] == "1959"
    assert years[-1] == "2019"
    assert "1964" not in years
    assert any("1 of 59 steps" in note for note in result.notes)


def test_employment_and_unemployment(tmp_path: Path) -> None:
    found = run_sample("employment-and-unemployment", tmp_path).correlation
    assert found is not None
    assert found.levels.n == 50
    assert six(found.levels.pearson_r) == -0.93662


def test_two_coasts(tmp_path: Path) -> None:
    found = run_sample("two-coasts", tmp_path).correlation
    assert found is not None
    assert found.levels.n == 1461
    assert six(found.levels.pearson_r) == 0.766613


def test_the_joined_table(tmp_path: Path) -> None:
    result = run_sample("co2-and-temperature-by-year", tmp_path)
    assert [column.name for column in result.columns][:2] == ["year", "co2"]
    assert result.row_count == 15
    assert [row[0] for row in result.rows] == [str(year) for year in range(2019, 2004, -1)]
    newest = result.rows[0]
    assert six(newest[1]) == 411.495
    assert newest[3] == "0.98"  # exactly as the source spelt it


@pytest.mark.parametrize("name", ["co2-and-temperature", "employment-and-unemployment"])
def test_the_order_of_rows_changes_nothing(name: str, tmp_path: Path) -> None:
    plain = run_sample(name, tmp_path)
    shuffled = run_sample(name, tmp_path, shuffle=11)
    assert shuffled.correlation == plain.correlation
    assert shuffled.outputs_root == plain.outputs_root
    assert shuffled.data_digest == plain.data_digest


def test_every_shipped_spec_is_sound() -> None:
    names = [entry.name for entry in SPECS.iterdir() if entry.name.endswith(".yaml")]
    assert len(names) >= 4
    for name in names:
        spec = read_spec((SPECS / name).read_bytes())
        assert f"{spec.name}.yaml" == name
