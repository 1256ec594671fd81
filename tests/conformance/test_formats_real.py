"""Real files of public sources, mapped, against what others counted in them.

``HOLDFAST_RECORDED_SOURCES`` names the folder; it is not part of the repository.
"""

from __future__ import annotations

import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from holdfast.records.model import MappedRecord
from tests.unit.collect.helpers import mapped, profile

CSV = {"type": "csv"}


def collect(file: str, form: dict[str, Any], **parts: Any) -> list[MappedRecord]:
    """All records of a file; no row may be rejected, no key may repeat."""
    folder = os.environ.get("HOLDFAST_RECORDED_SOURCES")
    if not folder:
        pytest.skip("HOLDFAST_RECORDED_SOURCES does not name the recorded sources")
    records, rejects = mapped(Path(folder) / file, profile({"format": form}, **parts))
    assert rejects == []
    assert len({tuple(map(str, record.key)) for record in records}) == len(records)
    return records


def total(records: list[MappedRecord], name: str, **where: Any) -> Decimal:
    """The exact sum of a measure."""
    return sum(
        (
            Decimal(value)
            for record in records
            if (value := record.measures[name].value) is not None
            and all(record.dimensions[k] == v for k, v in where.items())
        ),
        Decimal(0),
    )


def test_water_gauges_in_two_zones() -> None:
    series = "$$.value.timeSeries[*]"
    records = collect(
        "usgs_nwis_iv_discharge_20200817.json",
        {"type": "json", "records": "$.value.timeSeries[*].values[*].value[*]"},
        key=["dimensions.site", "period"],
        nulls=["-999999", "-999999.0"],
        dimensions={"site": f"{series}.sourceInfo.siteCode[0].value"},
        measures={
            "discharge": {"path": "$.value", "unit_path": f"{series}.variable.unit.unitCode"}
        },
        attributes={"qualifier": {"path": "$.qualifiers", "separator": ","}},
        period={"path": "$.dateTime", "frequency": "I"},
    )
    assert len(records) == 186
    assert total(records, "discharge", site="01646500") == Decimal(637970)
    assert total(records, "discharge", site="02458502") == Decimal("3210.4")
    assert {record.measures["discharge"].unit for record in records} == {"ft3/s"}
    assert {record.attributes["qualifier"] for record in records} == {"P"}
    first = records[0].period
    assert first is not None
    assert first.start == "2020-08-17T21:00:00.000000Z"


@pytest.mark.parametrize(
    ("file", "count", "series", "sum_"),
    [
        ("bls_api_v2_cpi_9series_2020_2025.json", 567, "CUUR0000SA0", "18246.467"),
        ("bls_api_v2_laucn040010000000005.json", 25, "LAUCN040010000000005", "425065"),
    ],
)
def test_labour_statistics_by_series(file: str, count: int, series: str, sum_: str) -> None:
    records = collect(
        file,
        {"type": "json", "records": "$.Results.series[*].data[*]"},
        key=["dimensions.series", "period"],
        dimensions={"series": "$$.Results.series[*].seriesID"},
        measures={"value": "$.value"},
        attributes={"footnote": "$.footnotes[0].code"},
        period={
            "join": ["$.year", "$.period"],
            "separator": "",
            "frequency": "M",
            "codings": {r"(?P<year>\d{4})M13": "A", r"(?P<year>\d{4})M(?P<sub>\d\d)": "M"},
        },
    )
    assert len(records) == count
    assert total(records, "value", series=series) == Decimal(sum_)


def test_census_arrays_under_a_header() -> None:
    records = collect(
        "census_acs5_cp05_2016_county_population.json",
        {"type": "json", "records": "$[*]", "header": True},
        key=["dimensions.state", "dimensions.county"],
        dimensions={"state": "state", "county": "county", "name": "NAME"},
        measures={"population": {"path": "CP05_2012_2016_001E", "type": "integer"}},
    )
    assert len(records) == 2910
    assert total(records, "population") == 321212121
    assert total(records, "population", state="06") == 38650091
    assert any(record.dimensions["name"] == "Doña Ana County, New Mexico" for record in records)


def test_world_bank_pages_whose_records_come_second() -> None:
    records = collect(
        "worldbank_v1_ny.gdp.mktp.cd_mrv1_page1.json",
        {"type": "json", "records": "$[1][*]"},
        key=["dimensions.country", "period"],
        dimensions={"country": "$.country.id"},
        measures={"gdp": "$.value"},
        attributes={"pages": {"path": "$$[0].pages", "type": "integer"}},
        period={"path": "$.date", "frequency": "A"},
    )
    assert len(records) == 50
    assert total(records, "gdp") == Decimal("449899112728102.79241")
    assert sum(record.measures["gdp"].value is None for record in records) == 5
    assert {record.attributes["pages"] for record in records} == {5}


def test_world_bank_table() -> None:
    records = collect(
        "worldbank_sp.pop.totl_all_years.csv",
        CSV,
        key=["dimensions.country", "period"],
        dimensions={"country": "Country Code", "name": "Country Name"},
        measures={"population": "Value"},
        period={"path": "Year", "frequency": "A"},
    )
    assert len(records) == 17195
    assert total(records, "population") == 3752600645022


def test_treasury_cents_beyond_what_doubles_hold() -> None:
    records = collect(
        "treasury_fiscaldata_debt_to_penny_2025q1.json.gz",
        {"type": "json", "records": "$.data[*]"},
        key=["period"],
        measures={"debt": {"path": "$.tot_pub_debt_out_amt", "unit": "USD"}},
        period={"path": "$.record_date", "frequency": "D"},
    )
    assert len(records) == 61
    assert total(records, "debt") == Decimal("2208820388648825.14")
    assert records[0].measures["debt"].value == "36169957618760.21"


def test_missing_values_written_as_a_dot() -> None:
    records = collect(
        "fred_gdp_quarterly.json",
        {"type": "json", "records": "$.observations[*]"},
        key=["period"],
        nulls=["."],
        measures={"gdp": "$.value"},
        period={"path": "$.date", "frequency": "Q"},
    )
    missing = [r for r in records if r.measures["gdp"].value is None]
    assert (len(records), len(missing)) == (315, 4)
    assert {r.attributes["gdp_missing"] for r in missing} == {"."}
    assert total(records, "gdp") == Decimal("2295120.247")
    assert (records[0].key, records[-1].key) == (["1946-Q1"], ["2024-Q3"])


def test_two_digit_years_and_ragged_ends() -> None:
    records = collect(
        "frbny_nowcast_us_vintage_20160629.csv",
        CSV,
        key=["period"],
        measures={"unemployment": "UNRATE", "openings": "JTSJOL"},
        period={"path": "Date", "frequency": "M", "format": "%m/%d/%y"},
    )
    assert len(records) == 378
    assert (records[0].key, records[-1].key) == (["1985-01"], ["2016-06"])
    assert total(records, "unemployment") == Decimal("2299.7")
    assert total(records, "openings") == 713215


def test_line_breaks_in_odd_places() -> None:
    records = collect(
        "nyc_socrata_bicycle_counts_page1.json",
        {"type": "json", "records": "$[*]"},
        timezone="America/New_York",
        key=["dimensions.id", "period"],
        dimensions={"id": "$.id"},
        measures={"counts": {"path": "$.counts", "type": "integer"}},
        period={"path": "$.date", "frequency": "I"},
    )
    assert len(records) == 1000
    assert total(records, "counts") == 33149


def test_a_catalogue_and_what_lies_within_its_entries() -> None:
    file = "ckan_dados_gov_br_package_search.json"
    packages = collect(
        file,
        {"type": "json", "records": "$.result.results[*]"},
        key=["dimensions.id"],
        dimensions={"id": "$.id", "licence": "$.license_title"},
    )
    resources = collect(
        file,
        {"type": "json", "records": "$.result.results[*].resources[*]"},
        key=["dimensions.id"],
        dimensions={"id": "$.id", "format": "$.format", "package": "$$.result.results[*].id"},
    )
    assert (len(packages), len(resources)) == (10, 227)
    assert Counter(r.dimensions["licence"] for r in packages)["Outra (Domínio Público)"] == 1
    assert Counter(r.dimensions["format"] for r in resources)["zip+csv"] == 77
    assert {r.dimensions["package"] for r in resources} <= {p.key[0] for p in packages}


def test_lines_of_json_with_na() -> None:
    records = collect(
        "openfda_covid19serology.ndjson",
        {"type": "ndjson"},
        key=["dimensions.id"],
        nulls=["", "NA"],
        dimensions={"id": "$._id", "maker": "$._source.manufacturer"},
        measures={"days": "$._source.days_from_symptom"},
        period={"path": "$._source.date_performed", "frequency": "D", "format": "%m/%d/%Y"},
    )
    assert len(records) == 770
    assert sum(r.attributes.get("days_missing") == "NA" for r in records) == 581
    assert Counter(r.key and r.period and r.period.start for r in records) == {
        "2020-04-21": 550,
        "2020-04-27": 220,
    }


def test_features_as_lines_in_gzip() -> None:
    records = collect(
        "census_tiger2022_dc_tracts.geojsonl.gz",
        {"type": "geojson", "sequence": True},
        key=["dimensions.geoid"],
        dimensions={"geoid": "$.properties.GEOID"},
        measures={
            "land": {"path": "$.properties.ALAND", "type": "integer", "unit": "m2"},
            "latitude": "$.properties.INTPTLAT",
            "longitude": "$.properties.INTPTLON",
        },
    )
    assert len(records) == 206
    assert total(records, "land") == 158316184
    assert (records[0].key, records[-1].key) == (["11001005302"], ["11001003400"])
    latitudes = [str(r.measures["latitude"].value) for r in records]
    longitudes = [str(r.measures["longitude"].value) for r in records]
    assert (min(latitudes), max(latitudes)) == ("38.8132364", "38.9849725")
    assert max(longitudes) == "-77.1077517"


def test_arrays_within_records() -> None:
    records = collect(
        "cisa_kev_catalog.json",
        {"type": "json", "records": "$.vulnerabilities[*]"},
        key=["dimensions.cve"],
        dimensions={"cve": "$.cveID", "ransomware": "$.knownRansomwareCampaignUse"},
        attributes={
            "cwes": {"path": "$.cwes", "separator": " "},
            "catalogue": "$$.catalogVersion",
        },
        period={"path": "$.dateAdded", "frequency": "D"},
    )
    assert len(records) == 1404
    assert sum(r.attributes["cwes"] is None for r in records) == 152
    assert (
        sum(len(str(r.attributes["cwes"]).split()) for r in records if r.attributes["cwes"]) == 1338
    )
    assert Counter(r.dimensions["ransomware"] for r in records)["Known"] == 293
    assert {r.attributes["catalogue"] for r in records} == {"2025.08.25"}


def test_a_wide_budget_in_thousands() -> None:
    records = collect(
        "omb_public_budget_database_budget_authority.csv",
        CSV,
        key="position",
        unpivot={"columns": r"\d{4}", "skip_nulls": True},
        dimensions={"category": "BEA Category", "agency": "Agency Code"},
        measures={
            "authority": {"path": "#value", "thousands": ",", "unit": "USD", "multiplier": "1000"}
        },
        period={"path": "#column", "frequency": "A"},
    )
    by_year: Counter[str] = Counter()
    for record in records:
        assert record.period is not None
        by_year[record.period.text] += int(record.measures["authority"].value or 0)
    assert (by_year["1976"], by_year["1990"], by_year["2021"]) == (
        420870310,
        1286164064,
        4582090000,
    )
    assert "001" in {record.dimensions["agency"] for record in records}
    assert {record.measures["authority"].multiplier for record in records} == {"1000"}


def test_a_byte_order_mark_before_a_quoted_header() -> None:
    records = collect(
        "statcan_17100009_population_quarterly.csv",
        CSV,
        key=["dimensions.geo", "period"],
        dimensions={"geo": "GEO"},
        measures={"population": "VALUE"},
        period={"path": "REF_DATE", "frequency": "Q", "format": "%Y-%m"},
    )
    assert len(records) == 3881
    assert total(records, "population") == 15549233804
    assert total(records, "population", geo="Canada") == 7917897963


def test_a_row_of_tags_under_the_header() -> None:
    records = collect(
        "unesco_uis_dem_data_zwe.csv",
        {"type": "csv", "skip_after_header": 1},
        key=["dimensions.indicator", "dimensions.country", "period"],
        dimensions={"indicator": "indicator_id", "country": "country_id"},
        measures={"value": "value"},
        period={"path": "year", "frequency": "A"},
    )
    assert len(records) == 1458
    assert total(records, "value", indicator="200101") == Decimal("519979.162")


def test_month_13_is_a_year() -> None:
    records = collect(
        "eia_mer_t01_02_primary_energy_production.csv",
        CSV,
        key=["dimensions.series", "period"],
        nulls=["Not Available"],
        dimensions={"series": "MSN"},
        measures={"value": {"path": "Value", "unit_path": "Unit"}},
        period={
            "path": "YYYYMM",
            "frequency": "M",
            "codings": {r"(?P<year>\d{4})13": "A"},
        },
    )
    assert len(records) == 8554
    annual = [r for r in records if r.period and r.period.frequency == "A"]
    monthly = [r for r in records if r.period and r.period.frequency == "M"]
    assert len(annual) == 936
    assert total(annual, "value", series="TEPRBUS") == Decimal("4612.469053")
    assert total(monthly, "value", series="TEPRBUS") == Decimal("3570.590907")
    assert sum("value_missing" in r.attributes for r in records) == 332


def test_facts_keyed_by_name() -> None:
    records = collect(
        "sec_companyfacts_cik0001997711.json",
        {
            "type": "json",
            "records": "$.facts[*][*].units[*][*]",
            "keys": ["taxonomy", "concept", "unit"],
        },
        key="position",
        dimensions={
            "cik": "$$.cik",
            "taxonomy": "#taxonomy",
            "concept": "#concept",
            "unit": "#unit",
            "accn": "$.accn",
            "form": "$.form",
        },
        measures={"value": {"path": "$.val", "unit_path": "#unit"}},
        period={"path": "$.end", "frequency": "D"},
    )
    assert len(records) == 768
    assert Counter(r.dimensions["unit"] for r in records)["USD"] == 691
    assert total(records, "value", unit="USD") == 27892854815
    assert Counter(r.dimensions["form"] for r in records) == {"20-F": 767, "20-F/A": 1}
    assets = [r for r in records if r.dimensions["concept"] == "Assets"]
    assert next((r.period and r.period.start, r.measures["value"].value) for r in assets) == (
        "2022-12-31",
        "497618869",
    )
    assert {r.dimensions["cik"] for r in records} == {"0001997711"}
