"""The ten files of the sample, mapped, against what pandas found in them (MANIFEST.yaml)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml

from holdfast.records.model import MappedRecord
from tests.unit.collect.helpers import SAMPLE, mapped, profile

FACTS: dict[str, dict[str, Any]] = {
    entry["file"]: entry["facts"]
    for entry in yaml.safe_load((SAMPLE / "MANIFEST.yaml").read_text(encoding="utf-8"))["files"]
}

CSV = {"format": {"type": "csv"}}
DAY = {"path": "date", "frequency": "D"}
WEATHER = {name: name for name in ("precipitation", "temp_max", "temp_min", "wind")}

PROFILES: dict[str, dict[str, Any]] = {
    "usgs_earthquakes_week.geojson": {
        "source": {"format": {"type": "geojson"}},
        "key": ["dimensions.id"],
        "dimensions": {"id": "$.id"},
        "measures": {"mag": "$.properties.mag", "depth": "$.geometry.coordinates[2]"},
        "attributes": {"place": "$.properties.place", "generated": "$$.metadata.generated"},
        "period": {"path": "$.properties.time", "frequency": "I", "format": "epoch-ms"},
    },
    "scripps_co2_monthly.csv": {
        "source": CSV,
        "key": ["period"],
        "measures": {"co2": {"path": "CO2", "unit": "ppm"}},
        "period": {"path": "Date", "frequency": "M"},
    },
    "nasa_global_temp_annual.csv": {
        "source": CSV,
        "key": ["period"],
        "measures": {"temp": "temp"},
        "period": {"path": "year", "frequency": "A"},
    },
    "bls_employment_monthly.csv": {
        "source": CSV,
        "key": ["period"],
        "measures": {"nonfarm": {"path": "nonfarm", "type": "integer"}},
        "period": {"path": "month", "frequency": "M"},
    },
    "bls_unemployment_by_industry.json": {
        "source": {"format": {"type": "json", "records": "$[*]"}},
        "timezone": "America/Los_Angeles",
        "key": ["dimensions.series", "period"],
        "dimensions": {"series": "$.series"},
        "measures": {"count": {"path": "$.count", "type": "integer"}, "rate": "$.rate"},
        "attributes": {"day": {"path": "$.date", "type": "date"}},
        "period": {"join": ["$.year", "$.month"], "separator": "-", "frequency": "M"},
    },
    "bls_unemployment_county.tsv": {
        "source": {"format": {"type": "csv", "delimiter": "\t"}},
        "key": ["dimensions.county"],
        "dimensions": {"county": {"path": "id", "pad": 5}},
        "measures": {"rate": "rate"},
    },
    "noaa_seattle_weather_daily.csv": {
        "source": CSV,
        "key": ["period"],
        "measures": WEATHER,
        "attributes": {"weather": "weather"},
        "period": DAY,
    },
    "noaa_weather_two_cities_daily.csv": {
        "source": CSV,
        "key": ["dimensions.location", "period"],
        "dimensions": {"location": "location"},
        "measures": WEATHER,
        "period": DAY,
    },
    "omb_receipts.json": {
        "source": {"format": {"type": "json", "records": "$[*]"}},
        "key": "position",
        "dimensions": {"account": "$['Account name']"},
        "measures": {
            f"y{year}": {"path": f"$['{year}']", "thousands": ","} for year in range(1962, 2021)
        },
    },
    "faa_birdstrikes.csv": {
        "source": CSV,
        "key": "position",
        "dimensions": {
            "airport": "Airport Name",
            "aircraft": "Aircraft Make Model",
            "damage": "Effect Amount of damage",
            "operator": "Aircraft Airline Operator",
            "state": "Origin State",
            "phase": "Phase of flight",
            "size": "Wildlife Size",
            "species": "Wildlife Species",
            "time_of_day": "Time of day",
        },
        "measures": {
            "other": "Cost Other",
            "repair": "Cost Repair",
            "total": "Cost Total $",
            "speed": "Speed IAS in knots",
        },
        "period": {"path": "Flight Date", "frequency": "D"},
    },
}


@pytest.fixture(scope="module")
def found() -> dict[str, list[MappedRecord]]:
    result = {}
    for file, parts in PROFILES.items():
        records, rejects = mapped(SAMPLE / file, profile(**parts))
        assert rejects == [], file
        result[file] = records
    return result


def measures(records: list[MappedRecord], name: str) -> list[Decimal]:
    return [Decimal(r.measures[name].value) for r in records if r.measures[name].value is not None]


@pytest.mark.parametrize("file", sorted(PROFILES))
def test_every_row_is_a_record(found: dict[str, list[MappedRecord]], file: str) -> None:
    assert len(found[file]) == FACTS[file]["records"]
    keys = {tuple(record.key) for record in found[file]}
    assert len(keys) == len(found[file])
    assert [record.position for record in found[file]] == list(range(len(found[file])))


def test_the_sample_is_all_there(found: dict[str, list[MappedRecord]]) -> None:
    assert set(PROFILES) == set(FACTS)
    assert sum(map(len, found.values())) == 22258


def test_earthquakes(found: dict[str, list[MappedRecord]]) -> None:
    file = "usgs_earthquakes_week.geojson"
    facts, mags = FACTS[file], measures(found[file], "mag")
    assert (max(mags), min(mags), sum(mags)) == (
        Decimal(str(facts["max_mag"])),
        Decimal(str(facts["min_mag"])),
        Decimal(str(facts["sum_mag"])),
    )
    assert {record.attributes["generated"] for record in found[file]} == {"1517968154000"}


def test_co2(found: dict[str, list[MappedRecord]]) -> None:
    file = "scripps_co2_monthly.csv"
    facts, co2 = FACTS[file], measures(found[file], "co2")
    periods = [record.period for record in found[file] if record.period]
    assert sum(co2) == Decimal(str(facts["co2_sum"]))
    assert max(co2) == Decimal(str(facts["co2_max"]))
    assert (periods[0].start, periods[-1].start) == (facts["first"], facts["last"])
    assert periods[-1].end == "2020-05-01"
    assert found[file][0].measures["co2"].value == "315.70"  # the zero the source wrote


def test_global_temperature(found: dict[str, list[MappedRecord]]) -> None:
    file = "nasa_global_temp_annual.csv"
    facts, temps = FACTS[file], measures(found[file], "temp")
    assert sum(temps) == Decimal(str(facts["temp_sum"]))
    assert (max(temps), min(temps)) == (Decimal("1.17"), Decimal("-0.48"))
    assert (found[file][0].key, found[file][-1].key) == (["1880"], ["2023"])


def test_employment(found: dict[str, list[MappedRecord]]) -> None:
    file = "bls_employment_monthly.csv"
    nonfarm = measures(found[file], "nonfarm")
    assert sum(nonfarm) == FACTS[file]["nonfarm_sum"]
    assert max(nonfarm) == FACTS[file]["nonfarm_max"]


def test_unemployment_by_industry(found: dict[str, list[MappedRecord]]) -> None:
    file = "bls_unemployment_by_industry.json"
    records, facts = found[file], FACTS[file]
    assert len({record.dimensions["series"] for record in records}) == facts["series"]
    assert sum(measures(records, "count")) == facts["count_sum"]
    assert max(measures(records, "rate")) == Decimal(str(facts["rate_max"]))
    # 07:00Z and 08:00Z are both midnight in the source's own zone.
    for record in records:
        assert record.period is not None
        assert record.attributes["day"] == record.period.start


def test_unemployment_by_county(found: dict[str, list[MappedRecord]]) -> None:
    file = "bls_unemployment_county.tsv"
    rates = measures(found[file], "rate")
    assert sum(rates) == Decimal(str(FACTS[file]["rate_sum"]))
    assert max(rates) == Decimal(str(FACTS[file]["rate_max"]))
    assert found[file][0].key == ["01001"]
    assert found[file][0].measures["rate"].value == "0.097"


def test_weather(found: dict[str, list[MappedRecord]]) -> None:
    seattle = found["noaa_seattle_weather_daily.csv"]
    assert sum(measures(seattle, "precipitation")) == Decimal("4426.0")
    assert max(measures(seattle, "temp_max")) == Decimal("35.6")
    assert (seattle[0].key, seattle[-1].key) == (["2012-01-01"], ["2015-12-31"])
    both = found["noaa_weather_two_cities_daily.csv"]
    assert sum(measures(both, "precipitation")) == Decimal("8604.6")
    assert sorted({str(record.dimensions["location"]) for record in both}) == [
        "New York",
        "Seattle",
    ]


def test_receipts_with_thousands_separators(found: dict[str, list[MappedRecord]]) -> None:
    records = found["omb_receipts.json"]
    assert sum(len(record.measures) for record in records) == 237 * 59
    values = [v for year in range(1962, 2021) for v in measures(records, f"y{year}")]
    assert max(abs(value) for value in values) > 1_000_000


def test_bird_strikes_keep_their_repeated_rows(found: dict[str, list[MappedRecord]]) -> None:
    file = "faa_birdstrikes.csv"
    records = found[file]
    assert sum(measures(records, "total")) == FACTS[file]["cost_total_sum"]
    assert sum(1 for record in records if record.key[1]) == FACTS[file]["duplicate_rows"]


def test_the_same_bytes_give_the_same_records(found: dict[str, list[MappedRecord]]) -> None:
    for file in ("usgs_earthquakes_week.geojson", "faa_birdstrikes.csv"):
        again, _ = mapped(SAMPLE / file, profile(**PROFILES[file]))
        assert again == found[file]
