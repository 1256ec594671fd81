"""The profiles that ship: good, and true to the files they read.

The oracle is Python's own csv and json: for every sample profile each path is found in the
recording, keys identify its rows, and what the manifest says about the file holds for what the
profile names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from holdfast import sample
from holdfast.registry.code_lists import read_list, with_code_lists
from holdfast.registry.model import Field, Profile, as_field, as_licence, as_measure
from holdfast.registry.source import CsvFormat, GeojsonFormat
from holdfast.registry.validate import examine, load_profile

GOVERNMENT = Path(__file__).parents[3] / "profiles" / "government"
PROFILES = {path.stem: load_profile(path.read_bytes()) for path in sample.profile_files()}
FACTS = {entry["source"]: entry for entry in sample.manifest()["files"]}


def rows_of(profile: Profile) -> list[Any]:
    """The records of the recording, by nothing of ours."""
    data: str = sample.recordings()[profile.source.url].read_text("utf-8")
    form = profile.source.format
    if isinstance(form, CsvFormat):
        return list(csv.DictReader(io.StringIO(data), delimiter=form.delimiter))
    plain: Any = json.loads(data, parse_float=Decimal)
    return list(plain["features"] if isinstance(form, GeojsonFormat) else plain)


def at(row: Any, path: str, profile: Profile) -> Any:
    """What a path selects: a column, or steps of ``$.a.b``, ``$['a b']`` and ``$.a[2]``."""
    if isinstance(profile.source.format, CsvFormat):
        return row[path]
    for step in path[1:].replace("['", ".").replace("']", "").replace("[", ".").split("."):
        if step:
            row = row[int(step.rstrip("]"))] if isinstance(row, list) else row[step]
    return row


def paths(profile: Profile) -> dict[str, str]:
    groups: dict[str, list[tuple[str, Field]]] = {
        "dimensions": [(n, as_field(f)) for n, f in profile.dimensions.items()],
        "measures": [(n, as_measure(f)) for n, f in profile.measures.items()],
        "attributes": [(n, as_field(f)) for n, f in profile.attributes.items()],
    }
    found = {
        f"{group}.{name}": entry.path
        for group, entries in groups.items()
        for name, entry in entries
        if entry.path is not None
    }
    if profile.period and profile.period.path:
        found["period"] = profile.period.path
    return found


def values(name: str, field: str) -> list[Any]:
    profile = PROFILES[name]
    return [at(row, paths(profile)[field], profile) for row in rows_of(profile)]


def numbers(name: str, field: str) -> list[Decimal]:
    return [Decimal(str(value)) for value in values(name, field) if value not in ("", None)]


def test_there_is_a_profile_for_each_recording() -> None:
    assert len(PROFILES) == 10
    assert {profile.source.url for profile in PROFILES.values()} == set(FACTS)
    assert {name: profile.name for name, profile in PROFILES.items()} == {n: n for n in PROFILES}


def test_the_recordings_are_the_ones_the_manifest_describes() -> None:
    for source, path in sample.recordings().items():
        data = path.read_bytes()
        assert len(data) == FACTS[source]["bytes"]
        assert hashlib.sha256(data).hexdigest() == FACTS[source]["sha256"]


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_sample_profile_fits_its_recording(name: str) -> None:
    profile = PROFILES[name]
    rows = rows_of(profile)
    assert len(rows) == FACTS[profile.source.url]["facts"]["records"]
    assert profile.expect.min_records <= len(rows)
    found = paths(profile)
    for row in rows:
        for path in found.values():
            at(row, path, profile)
    if profile.key != "position":
        keys = {tuple(str(at(row, found[field], profile)) for field in profile.key) for row in rows}
        assert len(keys) == len(rows)
    for field in profile.expect.required:
        assert all(at(row, found[field], profile) not in (None, "") for row in rows), field
    for field, bounds in profile.expect.ranges.items():
        for number in numbers(name, field):
            assert bounds.min is None or Decimal(bounds.min) <= number
            assert bounds.max is None or number <= Decimal(bounds.max)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_sample_profile_says_whose_data_it_is(name: str) -> None:
    profile = PROFILES[name]
    assert profile.title
    assert profile.description
    assert profile.attribution
    assert as_licence(profile.licence).name
    assert as_licence(profile.licence).url
    measured = {**profile.measures}
    units = {key for key, entry in measured.items() if as_measure(entry).unit}
    without = {"magnitude", "community_intensity", "instrumental_intensity", "significance"}
    assert set(measured) - units == (without if name == "usgs-earthquakes-week" else set())
    assert profile.schedule is None  # its live address may serve a page for people


def test_the_manifests_facts_hold_for_what_the_profiles_name() -> None:
    assert sum(numbers("usgs-earthquakes-week", "measures.magnitude")) == Decimal("2616.39")
    assert sum(numbers("scripps-co2-monthly", "measures.co2")) == Decimal("263285.40")
    assert sum(numbers("nasa-global-temp-annual", "measures.temperature_anomaly")) == Decimal(
        "9.75"
    )
    assert sum(numbers("bls-employment-monthly", "measures.nonfarm")) == 16279028
    assert sum(numbers("bls-unemployment-industry", "measures.count")) == 944327
    assert sum(numbers("bls-unemployment-county", "measures.rate")) == Decimal("289.347")
    assert sum(numbers("noaa-seattle-weather-daily", "measures.precipitation")) == 4426
    assert sum(numbers("noaa-two-cities-weather-daily", "measures.precipitation")) == Decimal(
        "8604.6"
    )
    assert sum(numbers("faa-birdstrikes", "measures.cost_total")) == 40545276


def test_local_midnights_fall_on_the_first_of_the_month_in_the_profiles_zone() -> None:
    profile = PROFILES["bls-unemployment-industry"]
    zone = ZoneInfo(profile.timezone)
    for row in rows_of(profile):
        moment = datetime.fromisoformat(row["date"]).astimezone(zone)
        assert (moment.year, moment.month, moment.day) == (row["year"], row["month"], 1)
        assert (moment.hour, moment.minute) == (0, 0)


def test_county_codes_get_their_zero_back() -> None:
    entry = as_field(PROFILES["bls-unemployment-county"].dimensions["county"])
    codes = [
        value.rjust(entry.pad, "0")
        for value in values("bls-unemployment-county", "dimensions.county")
    ]
    assert {len(code) for code in codes} == {5}
    assert codes[0] == "01001"
    assert {code[:2] for code in codes} >= {"01", "02", "06", "56"}


def test_receipts_are_exact_numbers_in_every_year() -> None:
    profile = PROFILES["omb-receipts"]
    assert len(profile.measures) == 60
    entry = as_measure(profile.measures["fy2014"])
    total = sum(
        int(str(value).replace(entry.thousands, ""))
        for value in values("omb-receipts", "measures.fy2014")
    )
    assert (total, entry.unit) == (3_021_487_000, "thousand USD")
    assert paths(profile)["measures.tq1976"] == "$.TQ"


def test_strikes_that_repeat_stay_apart_by_position() -> None:
    profile = PROFILES["faa-birdstrikes"]
    rows = Counter(tuple(row.values()) for row in rows_of(profile))
    assert sum(count - 1 for count in rows.values()) == 24
    assert profile.key == "position"
    # What tells two rows apart must be in the record, or a repeat would be invented.
    assert len(set(paths(profile).values())) == len(rows_of(profile)[0])


def test_a_moving_window_withdraws_nothing() -> None:
    assert PROFILES["usgs-earthquakes-week"].mode == "append"


@pytest.mark.parametrize("path", sorted(GOVERNMENT.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_government_profile_is_good_and_keyless(path: Path) -> None:
    examined = examine(with_code_lists(path.read_bytes(), path.parent))
    assert [str(problem) for problem in [*examined.problems, *examined.unsupported]] == []
    profile = examined.required()
    assert profile.name == path.stem
    assert profile.name not in PROFILES
    assert profile.source.auth is None
    assert profile.source.url.startswith("https://")
    assert profile.schedule is not None
    assert profile.freshness is not None
    assert profile.attribution
    assert as_licence(profile.licence).url


def test_there_are_government_profiles() -> None:
    assert len(list(GOVERNMENT.glob("*.yaml"))) >= 5


RECORDED = GOVERNMENT.parent / "recorded"


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recorded_profile_is_good_says_why_it_is_not_live_and_is_never_scheduled(
    path: Path,
) -> None:
    data = path.read_bytes()
    examined = examine(with_code_lists(data, path.parent))
    assert [str(problem) for problem in [*examined.problems, *examined.unsupported]] == []
    profile = examined.required()
    assert profile.name == path.stem
    assert profile.schedule is None
    assert data.startswith(b"# ")
    assert not (GOVERNMENT / path.name).exists()


@pytest.mark.parametrize(
    "path", sorted((GOVERNMENT.parent / "codes").glob("*.csv")), ids=lambda path: path.stem
)
def test_a_shipped_code_list_is_one(path: Path) -> None:
    assert len(read_list(path)) >= 50
